//! The node's Lease in kube-node-lease: renewed every ten seconds, valid for forty, owned by the Node object.
//!
//! In: the Node's uid from the own-Node feed, the clock. Out: a patch each time, a create when there is none.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::backoff::{Backoff, Jitter};
use crate::client::Client;
use crate::clock::WallClock;
use crate::decode::OwnNode;
use crate::error::ApiError;
use crate::watch::store::Snapshot;

const NAMESPACE: &str = "kube-node-lease";
const DURATION_SECONDS: i32 = 40;
/// A quarter of the duration.
const RENEW_INTERVAL: Duration = Duration::from_secs(10);

/// The task that renews the Lease.
pub(crate) struct Renewer {
    pub(crate) client: Client,
    pub(crate) clock: WallClock,
    pub(crate) node_name: String,
    pub(crate) own: watch::Receiver<Snapshot<OwnNode>>,
    pub(crate) jitter: Jitter,
}

impl Renewer {
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new(
            Duration::from_millis(200),
            Duration::from_secs(7),
            self.jitter.clone(),
        );
        let mut failing = false;
        loop {
            let Some(uid) = self.uid().await else { return };
            let began = Instant::now();
            self.client.registry().begin("lease", "timer");
            let renewed = self.renew(&uid).await;
            let result = renewed.as_ref().map(|()| "renewed");
            let result = result.map_err(ApiError::report);
            let result = result.as_ref().copied().map_err(String::as_str);
            let registry = self.client.registry();
            registry.record("lease", "timer", began, result);
            let delay = match renewed {
                Ok(()) => {
                    backoff.reset();
                    if std::mem::take(&mut failing) {
                        tracing::info!("the node's Lease is renewed again");
                    }
                    RENEW_INTERVAL
                }
                Err(error) => {
                    let delay = backoff.next_delay();
                    // Once per trouble: the console of a box that is away for days is read, too.
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!("{}", error.report());
                    }
                    delay
                }
            };
            tokio::time::sleep(delay).await;
        }
    }

    /// The Node's uid; waits until the Node exists.
    async fn uid(&mut self) -> Option<String> {
        let name = self.node_name.clone();
        let uid_of = |s: &Snapshot<OwnNode>| s.items.get(&name)?.metadata.uid.clone();
        let snapshot = self.own.wait_for(|s| uid_of(s).is_some()).await.ok()?;
        uid_of(&snapshot)
    }

    async fn renew(&self, uid: &str) -> Result<(), ApiError> {
        let patch = json!({ "spec": spec(&self.node_name, self.clock.now()) });
        let name = &self.node_name;
        match self
            .client
            .patch::<Lease>(Some(NAMESPACE), name, &patch)
            .await
        {
            Ok(_) => Ok(()),
            Err(ApiError::NotFound { .. }) => {
                let lease = lease(&self.node_name, uid, self.clock.now());
                self.client.create(Some(NAMESPACE), &lease).await.map(drop)
            }
            Err(other) => Err(other),
        }
    }
}

fn spec(node_name: &str, now: Timestamp) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(node_name.to_owned()),
        lease_duration_seconds: Some(DURATION_SECONDS),
        renew_time: Some(MicroTime(now)),
        ..LeaseSpec::default()
    }
}

fn lease(node_name: &str, uid: &str, now: Timestamp) -> Lease {
    Lease {
        metadata: ObjectMeta {
            name: Some(node_name.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            owner_references: Some(vec![owner(node_name, uid)]),
            ..ObjectMeta::default()
        },
        spec: Some(spec(node_name, now)),
    }
}

/// The Node as owner: what it owns goes when it is deleted.
pub(crate) fn owner(node_name: &str, uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node_name.to_owned(),
        uid: uid.to_owned(),
        ..OwnerReference::default()
    }
}
