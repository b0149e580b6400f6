//! From a config to an identity: the stored one if it still holds, else the cluster's CA and a new certificate.

use std::time::Duration;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kedge_machine::config::{Cluster, Trust};
use kedge_machine::identity::Token;
use rustls_pki_types::CertificateDer;
use serde::Deserialize;

use super::csr::{self, Purpose, Verdict};
use super::member::Member;
use super::problem::{self, Cause, Problem};
use super::{JoinState, Joiner, cluster_info};
use crate::backoff::Jitter;
use crate::cert;
use crate::client::Client;
use crate::clock::WallClock;
use crate::error::{ApiError, DialError};
use crate::store::{Item, Store};
use crate::tls::{self, Identity};
use crate::transport::{Endpoint, Target, Transport};

/// Between two looks at a request that waits for approval.
pub(super) const APPROVAL_POLL: Duration = Duration::from_secs(1);

/// A client with its own short-lived connection, used before this node has an identity.
struct Temporary {
    client: Client,
    /// Aborted on drop: the connection ends with the step.
    _pool: tokio::task::JoinSet<()>,
}

impl Temporary {
    fn new(target: Target, clock: &WallClock, jitter: &Jitter) -> Self {
        let (transport, pool) = Transport::new(Some(target), clock.clone(), jitter.clone());
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(pool);
        Self {
            client: Client::new(transport),
            _pool: tasks,
        }
    }
}

impl Joiner {
    /// A usable identity for `cluster`.
    pub(super) async fn establish(&mut self, cluster: &Cluster) -> Result<Member, Problem> {
        let endpoint = Endpoint::parse(&cluster.server)
            .map_err(|e| Problem::new(Cause::BadAddress, e.to_string()))?;
        match self.stored(cluster, &endpoint).await? {
            Ok(member) => Ok(member),
            Err(reason) => self.bootstrap(cluster, endpoint, reason).await,
        }
    }

    /// The identity in STATE, or why there is none to use.
    async fn stored(
        &self,
        cluster: &Cluster,
        endpoint: &Endpoint,
    ) -> Result<Result<Member, Option<String>>, Problem> {
        let loaded = self
            .store
            .blocking(|store| Ok((store.identity(Item::Client), store.certificates(Item::Ca))))
            .await?;
        let (identity, ca) = match loaded {
            (Ok(Some(identity)), Ok(Some(ca))) => (identity, ca),
            (Err(error), _) | (_, Err(error)) => {
                let problem = Problem::from(error);
                tracing::error!("{problem}");
                return Ok(Err(Some(problem.text)));
            }
            _ => return Ok(Err(None)),
        };
        let member = Member::new(endpoint.clone(), identity, ca)
            .map_err(|e| Problem::new(Cause::Store, e.to_string()))?;
        if let Some(reason) = self.unusable(cluster, &member) {
            return Ok(Err(Some(reason)));
        }
        if self.refused.as_ref() == Some(member.leaf()) && self.is_still_refused(&member).await {
            let reason = "the API server refuses this node's client certificate (401)";
            return Ok(Err(Some(reason.to_owned())));
        }
        Ok(Ok(member))
    }

    /// Asks with a certificate that was refused before: an API server that was broken for a while must not cost a node its membership.
    async fn is_still_refused(&self, member: &Member) -> bool {
        let identity = Some(member.identity.clone());
        let Ok(tls) = tls::verified(&member.ca, identity, &self.clock) else {
            return true;
        };
        let target = Target {
            endpoint: member.endpoint.clone(),
            tls,
            bearer: None,
        };
        let temporary = Temporary::new(target, &self.clock, &self.jitter);
        let asked = temporary.client.get::<Node>(None, &self.node_name).await;
        !matches!(asked, Ok(_) | Err(ApiError::NotFound { .. }))
    }

    /// Why a stored identity cannot be used for this cluster now.
    fn unusable(&self, cluster: &Cluster, member: &Member) -> Option<String> {
        let now = self.clock.now();
        let facts = &member.facts;
        if facts.common_name != csr::user_name(&self.node_name) {
            return Some(format!(
                "this node's client certificate is for {}, not {}",
                facts.common_name,
                csr::user_name(&self.node_name)
            ));
        }
        if facts.validity.is_over(now) {
            return Some(Problem::expired(facts.validity.not_after, now));
        }
        trust_differs(&cluster.trust, &member.ca)
    }

    async fn bootstrap(
        &self,
        cluster: &Cluster,
        endpoint: Endpoint,
        reason: Option<String>,
    ) -> Result<Member, Problem> {
        let Some(token) = &cluster.token else {
            return Err(Problem::no_token(reason));
        };
        if let Some(reason) = reason {
            tracing::warn!("{reason}; joining again with token {token}");
        }
        let server = cluster.server.clone();
        self.publish(JoinState::Discovering { server });
        let ca = self.trusted_ca(&cluster.trust, token, &endpoint).await?;
        let target = Target {
            endpoint: endpoint.clone(),
            tls: tls::verified(&ca, None, &self.clock).map_err(setup)?,
            bearer: Some(bearer(token)?),
        };
        let temporary = Temporary::new(target, &self.clock, &self.jitter);
        check_kubernetes(&temporary.client, &endpoint).await?;
        let identity = self
            .first_certificate(cluster, token, &temporary.client)
            .await?;
        self.keep(&ca).await?;
        let member = Member::new(endpoint, identity, ca);
        member.map_err(|e| Problem::new(Cause::Server, format!("the issued certificate: {e}")))
    }

    async fn trusted_ca(
        &self,
        trust: &Trust,
        token: &Token,
        endpoint: &Endpoint,
    ) -> Result<Vec<CertificateDer<'static>>, Problem> {
        match trust {
            Trust::Ca(pem) => tls::certificates(pem.as_bytes()).map_err(setup),
            Trust::Hashes(hashes) => {
                let info = self.cluster_info(endpoint).await?;
                Ok(cluster_info::trusted_ca(&info, token, hashes)?)
            }
        }
    }

    async fn cluster_info(&self, endpoint: &Endpoint) -> Result<ConfigMap, Problem> {
        let target = Target {
            endpoint: endpoint.clone(),
            tls: tls::unverified(&self.clock).map_err(setup)?,
            bearer: None,
        };
        let temporary = Temporary::new(target, &self.clock, &self.jitter);
        let namespace = Some(cluster_info::NAMESPACE);
        match temporary.client.get(namespace, cluster_info::NAME).await {
            Ok(info) => Ok(info),
            Err(ApiError::NotFound { .. }) => {
                Err(cluster_info::DiscoveryError::NotPublished.into())
            }
            Err(ApiError::KindMissing { .. } | ApiError::Decode { .. }) => {
                Err(not_kubernetes(endpoint, "it has no ConfigMaps"))
            }
            // A cluster without anonymous access or without kubeadm's roles.
            Err(ApiError::Unauthorized { .. } | ApiError::Forbidden { .. }) => {
                Err(cluster_info::DiscoveryError::NotPublished.into())
            }
            Err(other) => Err(other.into()),
        }
    }

    /// Asks with the token and waits for approval.
    async fn first_certificate(
        &self,
        cluster: &Cluster,
        token: &Token,
        client: &Client,
    ) -> Result<Identity, Problem> {
        let waiting = |csr: Option<String>| {
            self.publish(JoinState::Requesting {
                server: cluster.server.clone(),
                csr,
            });
        };
        waiting(None);
        let mut said = false;
        obtain(
            &self.store,
            client,
            &self.node_name,
            &Purpose::Client,
            |name| {
                if !std::mem::replace(&mut said, true) {
                    waiting(Some(name.to_owned()));
                }
            },
        )
        .await
        .map_err(|refusal| match refusal {
            Refusal::Api(error) => problem::with_token(error, token),
            Refusal::Other(problem) => problem,
        })
    }

    async fn keep(&self, ca: &[CertificateDer<'static>]) -> Result<(), Problem> {
        let pem: String = ca.iter().map(|c| csr::certificate_pem(c)).collect();
        self.store
            .blocking(move |s| s.write(Item::Ca, &pem))
            .await?;
        Ok(())
    }
}

/// Why no certificate was obtained.
#[derive(Debug)]
pub(crate) enum Refusal {
    Api(ApiError),
    Other(Problem),
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::Other(problem)
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Api(error) => error.into(),
            Refusal::Other(problem) => problem,
        }
    }
}

/// Gets a certificate: key from STATE or new, request, wait for the verdict, keep the result. `waiting` hears the request's name.
pub(crate) async fn obtain(
    store: &Store,
    client: &Client,
    node_name: &str,
    purpose: &Purpose,
    mut waiting: impl FnMut(&str),
) -> Result<Identity, Refusal> {
    let (pending, item) = match purpose {
        Purpose::Client => (Item::PendingClient, Item::Client),
        Purpose::Serving(_) => (Item::PendingServing, Item::Serving),
    };
    let key = pending_key(store, pending).await?;
    let object = csr::request(&key, node_name, purpose).map_err(csr_problem)?;
    let name = object.metadata.name.clone().unwrap_or_default();
    match client.create(None, &object).await {
        Ok(_) | Err(ApiError::AlreadyExists { .. }) => {}
        Err(error) => return Err(Refusal::Api(error)),
    }
    let chain = loop {
        let csr: CertificateSigningRequest = client.get(None, &name).await.map_err(Refusal::Api)?;
        match csr::verdict(&csr) {
            Verdict::Pending => waiting(&name),
            Verdict::Issued(chain) => break chain,
            Verdict::Denied(said) => {
                return Err(refused(store, pending, &name, "denied", &said).await?);
            }
            Verdict::Failed(said) => {
                return Err(refused(store, pending, &name, "failed", &said).await?);
            }
        }
        tokio::time::sleep(APPROVAL_POLL).await;
    };
    let pem = csr::to_pem(&key, &chain);
    store
        .blocking(move |s| s.write(item, &pem).and_then(|()| s.remove(pending)))
        .await
        .map_err(Problem::from)?;
    Ok(Identity {
        key: csr::private_key(&key),
        chain,
    })
}

/// The key of an earlier, unfinished request, or a new one written down before it is used.
async fn pending_key(store: &Store, item: Item) -> Result<rcgen::KeyPair, Problem> {
    let key = store
        .blocking(move |store| match store.key(item)? {
            Some(key) => match csr::stored_key(&key) {
                Ok(key) => Ok(Some(key)),
                Err(e) => Err(store.set_aside(item, &e.to_string())),
            },
            None => Ok(None),
        })
        .await;
    match key {
        Ok(Some(key)) => return Ok(key),
        Ok(None) => {}
        // The next attempt would find nothing and make a new key; so can this one.
        Err(error) => tracing::error!("{}", Problem::from(error)),
    }
    let key = csr::new_key().map_err(csr_problem)?;
    let pem = key.serialize_pem();
    store.blocking(move |s| s.write(item, &pem)).await?;
    Ok(key)
}

/// A refused request's key is given up, so that the next attempt makes a new request.
async fn refused(
    store: &Store,
    pending: Item,
    name: &str,
    how: &str,
    said: &str,
) -> Result<Refusal, Problem> {
    store.blocking(move |s| s.remove(pending)).await?;
    Ok(Refusal::Other(Problem::new(
        Cause::CsrRefused,
        format!("the certificate request {name} was {how}: {said}"),
    )))
}

/// `GET /version` must look like Kubernetes.
async fn check_kubernetes(client: &Client, endpoint: &Endpoint) -> Result<(), Problem> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        git_version: String,
    }
    match client.get_path("/version").await {
        Ok(body) => match serde_json::from_slice::<Version>(&body) {
            Ok(version) => {
                tracing::info!(server = %endpoint, version = %version.git_version, "found the API server");
                Ok(())
            }
            Err(_) => Err(not_kubernetes(
                endpoint,
                &format!("/version says {:?}", crate::error::excerpt(&body)),
            )),
        },
        // Without access to /version the certificate request will say more.
        Err(ApiError::Unauthorized { .. } | ApiError::Forbidden { .. }) => Ok(()),
        Err(
            ApiError::KindMissing { .. } | ApiError::NotFound { .. } | ApiError::Refused { .. },
        ) => Err(not_kubernetes(endpoint, "it has no /version")),
        Err(other) => Err(other.into()),
    }
}

/// Why the CA in STATE is not the one the config means.
fn trust_differs(trust: &Trust, ca: &[CertificateDer<'static>]) -> Option<String> {
    let fits = match trust {
        Trust::Ca(pem) => match tls::certificates(pem.as_bytes()) {
            Ok(configured) => ca.iter().any(|c| configured.contains(c)),
            Err(_) => false,
        },
        Trust::Hashes(hashes) => cluster_info::pinned(ca, hashes).is_ok(),
    };
    (!fits).then(|| "kedge.yaml names another cluster CA than the one this node joined".to_owned())
}

fn bearer(token: &Token) -> Result<http::HeaderValue, Problem> {
    http::HeaderValue::from_str(&format!("Bearer {}", token.bearer()))
        .map(|mut value| {
            value.set_sensitive(true);
            value
        })
        .map_err(|e| Problem::new(Cause::TokenRefused, e.to_string()))
}

fn not_kubernetes(endpoint: &Endpoint, evidence: &str) -> Problem {
    DialError::NotKubernetes {
        address: endpoint.to_string(),
        evidence: evidence.to_owned(),
    }
    .into()
}

fn setup(error: tls::TlsSetupError) -> Problem {
    let source = std::error::Error::source(&error)
        .map(|e| format!(": {e}"))
        .unwrap_or_default();
    Problem::new(Cause::Tls, format!("{error}{source}"))
}

fn csr_problem(error: csr::CsrError) -> Problem {
    let source = std::error::Error::source(&error)
        .map(|e| format!(": {e}"))
        .unwrap_or_default();
    Problem::new(Cause::Server, format!("{error}{source}"))
}

/// Used by the checks of a stored certificate.
pub(super) fn facts_of(
    chain: &[CertificateDer<'static>],
) -> Result<cert::Facts, cert::BadCertificate> {
    chain.first().map_or_else(
        || cert::facts(&CertificateDer::from(Vec::new())),
        |leaf| cert::facts(leaf),
    )
}
