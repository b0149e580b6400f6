//! What the proxy tells about itself.

use std::time::Duration;

use kedge_proxy::HealthAnswer;

/// A snapshot of the proxy's state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    pub state: State,
    /// Monotonic time of the last good sync.
    pub last_sync: Option<Duration>,
    /// How long it took.
    pub last_took: Duration,
    /// Good syncs that changed or checked something.
    pub syncs: u64,
    /// Of these, those that read the table back.
    pub full_syncs: u64,
    /// Failed attempts.
    pub failures: u64,
    /// Element additions and deletions sent.
    pub element_changes: u64,
    /// Tables that somebody else had removed or changed, and were put right.
    pub repairs: u64,
    pub services: usize,
    /// Addresses and ports with endpoints.
    pub fronts: usize,
    pub elements: usize,
    /// Connection-table entries deleted because their endpoint had gone.
    pub stale_flows: u64,
    /// Why the connection table could not be cleaned; rules are unaffected.
    pub conntrack_error: Option<String>,
    /// What health-check node ports answer.
    pub health: Vec<HealthAnswer>,
}

/// What the proxy is at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum State {
    /// Services, EndpointSlices or the node's name are not known yet.
    #[default]
    Waiting,
    /// The kernel holds what the snapshot asks for.
    Synced,
    /// The last attempt failed and will be repeated; the words name the operation and the kernel's answer.
    Failed(String),
    /// Mode `off`: our tables are removed.
    Off,
}
