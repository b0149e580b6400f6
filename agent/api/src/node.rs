//! This node's Node object: registered, kept registered, its status kept current.
//!
//! In: the desired object (made by `pods`) by `watch`, the own-Node feed. Out: POST and PATCH. What to send is decided in `node::patch`
//! (pure). The status goes out when it changed, when somebody else changed our conditions (the node controller marks a silent node
//! Unknown), and every five minutes. A Node that was deleted under a live agent is registered again: the feed, a 404 on a patch, or
//! the ten-second tick notice it.

pub mod patch;
mod startup;

pub(crate) use startup::Startup;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeStatus};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::backoff::{Backoff, Jitter};
use crate::client::Client;
use crate::clock::WallClock;
use crate::decode::OwnNode;
use crate::error::ApiError;
use crate::watch::FeedStatus;
use crate::watch::store::Snapshot;

const TICK: Duration = Duration::from_secs(10);
/// The heartbeat of the status itself; liveness is the Lease's business.
const REPORT_INTERVAL: Duration = Duration::from_secs(300);

/// Registration as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Registration {
    #[default]
    Pending,
    Registered,
    /// The API server refuses; the text says what to do.
    Refused(String),
}

/// The task that writes the Node.
pub(crate) struct Writer {
    pub(crate) client: Client,
    pub(crate) clock: WallClock,
    pub(crate) node_name: String,
    pub(crate) desired: watch::Receiver<Option<Arc<Node>>>,
    pub(crate) own: watch::Receiver<Snapshot<OwnNode>>,
    pub(crate) out: watch::Sender<Registration>,
    pub(crate) startup: Startup,
    pub(crate) jitter: Jitter,
}

/// Why the inner loop ended.
enum Ended {
    Deleted,
    Shutdown,
}

impl Writer {
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new(
            Duration::from_millis(200),
            Duration::from_secs(10),
            self.jitter.clone(),
        );
        loop {
            self.client.transport().usable().await;
            let Ok(desired) = self
                .desired
                .wait_for(Option::is_some)
                .await
                .map(|d| d.clone())
            else {
                return;
            };
            let Some(desired) = desired else { continue };
            let began = Instant::now();
            self.startup.attempts();
            self.client.registry().begin("node", "register");
            let registered = self.register(&desired).await;
            self.record("register", began, registered.as_ref().err());
            match registered {
                Ok(node) => {
                    backoff.reset();
                    self.startup.registered();
                    self.out.send_replace(Registration::Registered);
                    match self.keep(node).await {
                        Ended::Deleted => {
                            tracing::warn!("the Node object was deleted; registering again")
                        }
                        Ended::Shutdown => return,
                    }
                }
                Err(error) => {
                    self.refused(&error);
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
    }

    /// For `/statusz`.
    fn record(&self, reason: &str, began: Instant, error: Option<&ApiError>) {
        let error = error.map(ApiError::report);
        let result = error.as_deref().map_or(Ok("written"), Err);
        let registry = self.client.registry();
        registry.record("node", reason, began, result);
    }

    fn refused(&self, error: &ApiError) {
        let next = match error.is_connection() {
            true => Registration::Pending,
            false => Registration::Refused(error.report()),
        };
        self.out.send_if_modified(|current| {
            let differs = *current != next;
            if differs {
                tracing::warn!("registration: {}", error.report());
                *current = next;
            }
            differs
        });
    }

    /// Creates the Node, or brings labels and annotations of an existing one up to date. Taints of an existing Node are the operator's.
    async fn register(&self, desired: &Node) -> Result<Node, ApiError> {
        let existing: Node = match self.client.get(None, &self.node_name).await {
            Ok(node) => node,
            Err(ApiError::NotFound { .. }) => return self.create(desired).await,
            Err(other) => return Err(other),
        };
        match patch::metadata(&existing, desired) {
            Some(patch) => self.client.patch(None, &self.node_name, &patch).await,
            None => Ok(existing),
        }
    }

    async fn create(&self, desired: &Node) -> Result<Node, ApiError> {
        let mut node = desired.clone();
        node.metadata.name = Some(self.node_name.clone());
        if let Some(status) = &mut node.status {
            patch::stamp(status, None, self.clock.now());
        }
        let created = self.client.create(None, &node).await?;
        tracing::info!(node = %self.node_name, "registered");
        Ok(created)
    }

    /// Writes the status until the Node is gone.
    async fn keep(&mut self, node: Node) -> Ended {
        let mut current = node.status.unwrap_or_default();
        let mut written: Option<NodeStatus> = None;
        let mut due = Instant::now();
        let mut failing = false;
        self.own.mark_unchanged();
        loop {
            let Some(desired) = self.desired_status() else {
                return Ended::Shutdown;
            };
            let changed = written.as_ref() != Some(&desired);
            let began = Instant::now();
            if changed || began >= due || patch::overruled(&current, &desired) {
                let reason = if changed { "change" } else { "timer" };
                self.client.registry().begin("node", reason);
                let wrote = self.write(&current, &desired).await;
                self.record(reason, began, wrote.as_ref().err());
                match wrote {
                    Ok(status) => {
                        self.startup.wrote(&status);
                        current = status;
                        written = Some(desired);
                        due = Instant::now() + REPORT_INTERVAL;
                        failing = false;
                    }
                    Err(ApiError::NotFound { .. }) => return Ended::Deleted,
                    Err(error) if !std::mem::replace(&mut failing, true) => {
                        tracing::warn!("{}", error.report());
                    }
                    Err(_) => {}
                }
            }
            tokio::select! {
                // Cancel-safe: `changed` only marks, the values are read afterwards.
                () = tokio::time::sleep(TICK) => {}
                changed = self.desired.changed() => if changed.is_err() { return Ended::Shutdown },
                changed = self.own.changed() => if changed.is_err() { return Ended::Shutdown },
            }
            match self.observed() {
                Some(Some(status)) => current = status,
                Some(None) => return Ended::Deleted,
                None => {}
            }
        }
    }

    fn desired_status(&mut self) -> Option<NodeStatus> {
        let desired = self.desired.borrow_and_update().clone();
        desired.map(|node| patch::timeless(&node))
    }

    /// The feed's latest word: `Some(None)` when it follows and there is no Node; `None` when it says nothing new.
    fn observed(&mut self) -> Option<Option<NodeStatus>> {
        let snapshot = self.own.borrow_and_update();
        if snapshot.status != FeedStatus::Following {
            return None;
        }
        match snapshot.items.get(&self.node_name) {
            Some(node) => Some(Some(node.status.clone().unwrap_or_default())),
            None => Some(None),
        }
    }

    async fn write(
        &self,
        current: &NodeStatus,
        desired: &NodeStatus,
    ) -> Result<NodeStatus, ApiError> {
        let patch = patch::status(current, desired, self.clock.now());
        let node: Node = self
            .client
            .patch_status(None, &self.node_name, &patch)
            .await?;
        Ok(node.status.unwrap_or_default())
    }
}
