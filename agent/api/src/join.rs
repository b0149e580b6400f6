//! Joining a cluster, and staying joined: trust, client certificate, rotation.
//!
//! In: the machine config's cluster section by `watch` (a new token is taken without a restart), STATE, the clock. Out: the main
//! transport's target, [`JoinState`] for console and status, [`Membership`] for everyone who needs the CA.
//!
//! ```text
//! NoCluster --config--> Discovering --CA trusted--> Requesting --certificate--> Joined
//!     stored, valid certificate: straight to Joined
//!     any failure: Retrying (back-off)     no token, or a refused one: NeedsToken
//!     Joined: certificate over or refused -> Discovering or NeedsToken;   70-90 % of its life: renewed in place
//!     new config: from the start, the stored certificate first
//! ```
//!
//! Nothing in STATE is deleted because it failed: a clock that is wrong today may be right tomorrow.

pub mod cluster_info;
pub mod csr;
pub mod jws;
mod member;
mod problem;
mod steps;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kedge_machine::config::Cluster;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tokio::time::Instant;

pub(crate) use member::REFUSAL_INTERVAL;
pub use problem::{Cause, Problem};
pub(crate) use steps::obtain;

use crate::backoff::{Backoff, Jitter};
use crate::client::Client;
use crate::clock::WallClock;
use crate::store::Store;
use crate::transport::Endpoint;

const BACKOFF_BASE: Duration = Duration::from_secs(1);
/// Short enough that a node whose clock was just set, or whose cable was just plugged in, joins within seconds.
const BACKOFF_CAP: Duration = Duration::from_secs(15);

/// How far joining is. Each variant holds what is known in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinState {
    /// The config names no cluster, or there is no config yet.
    NoCluster,
    /// Finding out whom to trust.
    Discovering { server: String },
    /// Asking for a client certificate; `csr` names the request once it exists, and then somebody has to approve it.
    Requesting { server: String, csr: Option<String> },
    /// The last attempt failed; another follows by itself.
    Retrying {
        server: String,
        problem: Problem,
        attempts: u32,
    },
    /// An operator has to give a token; `why` says what is wrong, `advice` what to write where.
    NeedsToken {
        server: String,
        why: String,
        advice: String,
    },
    /// This node has a valid client certificate.
    Joined {
        server: String,
        not_after: Timestamp,
        renew_at: Timestamp,
        /// Renewal or authentication does not work at the moment.
        problem: Option<Problem>,
    },
}

impl JoinState {
    pub fn is_joined(&self) -> bool {
        matches!(self, Self::Joined { .. })
    }

    /// The seed volume should be read again: only an operator can help.
    pub fn needs_operator(&self) -> bool {
        matches!(self, Self::NeedsToken { .. })
    }
}

impl fmt::Display for JoinState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCluster => f.write_str("not joined: kedge.yaml names no cluster"),
            Self::Discovering { server } => write!(f, "joining {server}: finding its CA"),
            Self::Requesting { server, csr: None } => {
                write!(f, "joining {server}: asking for a client certificate")
            }
            Self::Requesting {
                server,
                csr: Some(csr),
            } => write!(
                f,
                "joining {server}: waiting for approval of {csr} (kubectl certificate approve {csr})"
            ),
            Self::Retrying {
                server,
                problem,
                attempts,
            } => write!(f, "joining {server}: attempt {attempts} failed: {problem}"),
            Self::NeedsToken {
                server,
                why,
                advice,
            } => write!(f, "joining {server}: {why}; {advice}"),
            Self::Joined {
                server,
                not_after,
                problem: None,
                ..
            } => write!(f, "joined {server}, certificate valid until {not_after}"),
            Self::Joined {
                server,
                not_after,
                problem: Some(problem),
                ..
            } => write!(
                f,
                "joined {server}, certificate valid until {not_after}, but: {problem}"
            ),
        }
    }
}

/// What being a member means to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    pub endpoint: Endpoint,
    pub node_name: String,
    /// The cluster's CA: signs the API server and the clients of 10250.
    pub ca: Vec<CertificateDer<'static>>,
}

/// What the joiner needs.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) node_name: String,
    pub(crate) cluster: watch::Receiver<Option<Arc<Cluster>>>,
    pub(crate) store: Store,
    pub(crate) clock: WallClock,
    pub(crate) jitter: Jitter,
    /// [`REFUSAL_INTERVAL`], but for tests.
    pub(crate) refusal_interval: Duration,
}

/// Owns the join state; [`Joiner::run`] is its task.
pub(crate) struct Joiner {
    node_name: String,
    store: Store,
    clock: WallClock,
    jitter: Jitter,
    refusal_interval: Duration,
    client: Client,
    state: watch::Sender<JoinState>,
    membership: watch::Sender<Option<Arc<Membership>>>,
    /// Leaf of an identity that the API server refused: asked about before it is used again.
    refused: Option<CertificateDer<'static>>,
    /// What the main transport uses now, so that an unrelated config change does not reconnect.
    in_use: Option<(Endpoint, CertificateDer<'static>)>,
}

impl Joiner {
    pub(crate) fn new(
        settings: Settings,
        client: Client,
        state: watch::Sender<JoinState>,
        membership: watch::Sender<Option<Arc<Membership>>>,
    ) -> (Self, watch::Receiver<Option<Arc<Cluster>>>) {
        let joiner = Self {
            node_name: settings.node_name,
            store: settings.store,
            clock: settings.clock,
            jitter: settings.jitter,
            refusal_interval: settings.refusal_interval,
            client,
            state,
            membership,
            refused: None,
            in_use: None,
        };
        (joiner, settings.cluster)
    }

    /// Joins and stays joined until the config's sender is gone.
    pub(crate) async fn run(mut self, mut config: watch::Receiver<Option<Arc<Cluster>>>) {
        loop {
            let cluster = config.borrow_and_update().clone();
            let changed = tokio::select! {
                // Cancel-safe: an attempt that is dropped leaves a pending key and a request behind, and the next one takes
                // them up again.
                () = self.follow(cluster.as_deref()) => Ok(()),
                changed = other_than(&mut config, cluster.as_deref()) => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// Never returns: joins `cluster` again and again, or waits to be dropped.
    async fn follow(&mut self, cluster: Option<&Cluster>) {
        let Some(cluster) = cluster else {
            self.leave().await;
            self.state.send_replace(JoinState::NoCluster);
            // An attempt may have been given up for this.
            let registry = self.client.registry();
            registry.record("join", "config", Instant::now(), Ok("no cluster"));
            return std::future::pending().await;
        };
        let mut backoff = Backoff::new(BACKOFF_BASE, BACKOFF_CAP, self.jitter.clone());
        loop {
            let began = Instant::now();
            self.client.registry().begin("join", "join");
            let established = self.establish(cluster).await;
            let words = established.as_ref().err().map(ToString::to_string);
            let result = words.as_deref().map_or(Ok("joined"), Err);
            let registry = self.client.registry();
            registry.record("join", "join", began, result);
            match established {
                Ok(member) => {
                    backoff.reset();
                    self.stay(member).await;
                }
                Err(problem) => {
                    self.leave().await;
                    let delay = backoff.next_delay();
                    self.report(cluster, problem, backoff.failures());
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }

    /// Stops talking to the API server as a node that it no longer accepts.
    async fn leave(&mut self) {
        if self.in_use.take().is_some() {
            self.client.transport().set_target(None).await;
        }
    }

    fn report(&self, cluster: &Cluster, problem: Problem, attempts: u32) {
        let server = cluster.server.clone();
        let next = match problem.advice_for_token(&self.node_name) {
            Some(advice) => JoinState::NeedsToken {
                server,
                why: problem.to_string(),
                advice,
            },
            None => JoinState::Retrying {
                server,
                problem,
                attempts,
            },
        };
        self.publish(next);
    }

    /// Publishes a state, and logs it when it says something new.
    fn publish(&self, next: JoinState) {
        let before = self.state.borrow().clone();
        if before.to_string() != next.to_string() {
            match &next {
                JoinState::NeedsToken { .. } | JoinState::Retrying { .. } => {
                    tracing::warn!("{next}");
                }
                _ => tracing::info!("{next}"),
            }
        }
        if before != next {
            self.state.send_replace(next);
        }
    }
}

/// Waits for a config that differs from `current`; the same written again is no reason to start over.
async fn other_than(
    config: &mut watch::Receiver<Option<Arc<Cluster>>>,
    current: Option<&Cluster>,
) -> Result<(), watch::error::RecvError> {
    config
        .wait_for(|next| next.as_deref() != current)
        .await
        .map(drop)
}
