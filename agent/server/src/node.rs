//! What the server asks of the node. Implemented by the composition root over the kubelet, the API handle and the config; by a table
//! in tests.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kedge_metrics::expo::Source;

use crate::auth::{AccessRequest, User};

/// A future behind the object-safe trait.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, NodeError>> + Send + 'a>>;

/// Which container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerRef {
    pub namespace: String,
    pub pod: String,
    /// Must match when given.
    pub uid: Option<String>,
    pub container: String,
}

/// Which pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRef {
    pub namespace: String,
    pub pod: String,
    /// Must match when given.
    pub uid: Option<String>,
}

/// Which streams exec and attach want.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "the query parameters are so")]
pub struct Streams {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// A container instance's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSource {
    /// The file being written now; rotation renames it and makes another of this name.
    pub path: PathBuf,
    /// For [`Node::is_running`]: following ends when it no longer is.
    pub container_id: String,
}

/// Why the node has no answer; the texts go to the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// No such pod or container: 404.
    #[error("{0}")]
    NotFound(String),
    /// It exists, but not in a state to do this: 400.
    #[error("{0}")]
    NotNow(String),
    /// The runtime or the API server failed: 500.
    #[error("{0}")]
    Failed(String),
}

/// One of the checks behind `/healthz`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// "syncloop", "log"; `ping` is the server's own.
    pub name: &'static str,
    /// Why it fails.
    pub problem: Option<String>,
}

/// A page that is written from what the node measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// `/metrics`: what the agent counted.
    Metrics,
    /// `/metrics/slis`: its health checks.
    Slis,
    /// `/metrics/probes`: probe results.
    Probes,
    /// `/metrics/cadvisor`: cgroups.
    Cadvisor,
    /// `/metrics/resource`: CPU and memory.
    Resource,
    /// `/stats/summary`, JSON; with `only_cpu_and_memory`.
    Summary {
        /// Nothing else is measured.
        only_cpu_and_memory: bool,
    },
    /// `/spec/`, JSON: cAdvisor's MachineInfo.
    Spec,
    /// `/statusz`, JSON: the agent's loops.
    Statusz,
}

/// The node as its servers see it.
pub trait Node: Send + Sync + 'static {
    /// The Node object's name, which access is reviewed for.
    fn name(&self) -> String;

    /// Pods as this node was told, with the status it reports.
    fn pods(&self) -> Vec<Pod>;

    /// Pods as the runtime has them.
    fn running_pods(&self) -> Answer<'_, Vec<Pod>>;

    /// URL of the runtime's streaming server.
    fn exec_url(
        &self,
        target: ContainerRef,
        command: Vec<String>,
        streams: Streams,
    ) -> Answer<'_, String>;

    /// URL of the runtime's streaming server. Whether there is a terminal is the container's to say.
    fn attach_url(&self, target: ContainerRef, streams: Streams) -> Answer<'_, String>;

    /// URL of the runtime's streaming server. `ports` is empty for SPDY, which names them per stream.
    fn port_forward_url(&self, target: PodRef, ports: Vec<u16>) -> Answer<'_, String>;

    /// Runs a command and gives its output (stdout, then stderr).
    fn run(&self, target: ContainerRef, command: Vec<String>) -> Answer<'_, Vec<u8>>;

    /// Where the log of the container (or of its instance before) is.
    fn log_source(&self, target: ContainerRef, previous: bool) -> Answer<'_, LogSource>;

    /// Whether this container instance still runs.
    fn is_running(&self, container_id: &str) -> bool;

    /// TokenReview: whose token this is; `None` when nobody's.
    fn review_token(&self, token: String) -> Answer<'_, Option<User>>;

    /// SubjectAccessReview.
    fn review_access(&self, request: AccessRequest) -> Answer<'_, bool>;

    /// The checks behind `/healthz`.
    fn health(&self) -> Vec<HealthCheck>;

    /// A page, measured now (or less than a second ago).
    fn page(&self, page: Page) -> Answer<'_, Box<dyn Source>>;

    /// A request to the kubelet's ports came.
    fn begun(&self, request: &Counted);

    /// It ended: its answer was sent to the last byte, or the client went away. `None`: before there was an answer.
    fn ended(&self, request: &Counted, status: Option<u16>, took: std::time::Duration);

    /// A KubeletConfiguration, for `/configz`.
    fn configuration(&self) -> serde_json::Value;
}

/// A request, for the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// `GET`; `other` for methods that are none.
    pub method: &'static str,
    /// The first part of the path: never anything that a client can make up.
    pub path: &'static str,
    /// `readwrite` (10250) or `readonly` (10255).
    pub server: &'static str,
    /// It lasts as long as the client likes.
    pub long_running: bool,
    /// It asks for a WebSocket.
    pub websocket: bool,
}

/// The node, shared by connections.
pub type SharedNode = Arc<dyn Node>;
