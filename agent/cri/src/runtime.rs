//! The `Runtime` trait: what Kedge asks of a container runtime.
//!
//! Object-safe, so that tests inject [`crate::fake::Fake`]. Arguments are owned or small references, results owned:
//! a caller may put the future into a task. Dropping a future abandons the request; the runtime is told to cancel it.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::error::Result;
use crate::v1;

/// A boxed future, so that the trait is object-safe.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// A container runtime. Methods are named after the CRI's.
pub trait Runtime: Send + Sync {
    fn version(&self) -> Answer<'_, v1::VersionResponse>;
    fn status(&self) -> Answer<'_, v1::StatusResponse>;
    fn runtime_config(&self) -> Answer<'_, v1::RuntimeConfigResponse>;
    /// Tells the runtime the node's pod range (ignored by containerd with a CNI config on disk, used for its template).
    fn update_runtime_config(&self, pod_cidr: String) -> Answer<'_, ()>;

    /// Answers the sandbox id.
    fn run_pod_sandbox(
        &self,
        config: v1::PodSandboxConfig,
        runtime_handler: String,
    ) -> Answer<'_, String>;
    /// Idempotent; kills what still runs in it.
    fn stop_pod_sandbox<'a>(&'a self, id: &'a str) -> Answer<'a, ()>;
    /// Idempotent; removes its containers too.
    fn remove_pod_sandbox<'a>(&'a self, id: &'a str) -> Answer<'a, ()>;
    fn pod_sandbox_status<'a>(&'a self, id: &'a str) -> Answer<'a, v1::PodSandboxStatusResponse>;
    fn list_pod_sandbox(
        &self,
        filter: Option<v1::PodSandboxFilter>,
    ) -> Answer<'_, Vec<v1::PodSandbox>>;

    /// Answers the container id.
    fn create_container(
        &self,
        sandbox: String,
        config: v1::ContainerConfig,
        sandbox_config: v1::PodSandboxConfig,
    ) -> Answer<'_, String>;
    fn start_container<'a>(&'a self, id: &'a str) -> Answer<'a, ()>;
    /// Sends the stop signal, waits `grace`, kills. Idempotent. The request's own deadline is `grace` longer.
    fn stop_container<'a>(&'a self, id: &'a str, grace: Duration) -> Answer<'a, ()>;
    /// Idempotent.
    fn remove_container<'a>(&'a self, id: &'a str) -> Answer<'a, ()>;
    fn list_containers(
        &self,
        filter: Option<v1::ContainerFilter>,
    ) -> Answer<'_, Vec<v1::Container>>;
    fn container_status<'a>(&'a self, id: &'a str) -> Answer<'a, v1::ContainerStatus>;
    fn update_container_resources(
        &self,
        id: String,
        resources: v1::LinuxContainerResources,
    ) -> Answer<'_, ()>;
    fn reopen_container_log<'a>(&'a self, id: &'a str) -> Answer<'a, ()>;

    /// `timeout` of `None` runs as long as the command does.
    fn exec_sync(
        &self,
        id: String,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> Answer<'_, v1::ExecSyncResponse>;
    /// Answers the URL of the runtime's streaming server.
    fn exec(&self, request: v1::ExecRequest) -> Answer<'_, String>;
    /// Answers the URL of the runtime's streaming server.
    fn attach(&self, request: v1::AttachRequest) -> Answer<'_, String>;
    /// Answers the URL of the runtime's streaming server.
    fn port_forward(&self, sandbox: String, ports: Vec<i32>) -> Answer<'_, String>;

    fn container_stats<'a>(&'a self, id: &'a str) -> Answer<'a, Option<v1::ContainerStats>>;
    fn list_container_stats(
        &self,
        filter: Option<v1::ContainerStatsFilter>,
    ) -> Answer<'_, Vec<v1::ContainerStats>>;

    /// Forwards every container event until the stream ends (an error says why) or the receiver is dropped (`Ok`).
    /// Events are hints: some are lost whenever the connection is, so a reader lists again after every return.
    fn container_events(&self, sink: mpsc::Sender<v1::ContainerEventResponse>) -> Answer<'_, ()>;

    fn list_images(&self) -> Answer<'_, Vec<v1::Image>>;
    /// `None`: not on this node.
    fn image_status(&self, image: v1::ImageSpec) -> Answer<'_, Option<v1::Image>>;
    /// Answers the image reference (an id or digest). Has no deadline: containerd gives up by lack of progress.
    fn pull_image(
        &self,
        image: v1::ImageSpec,
        auth: Option<v1::AuthConfig>,
        sandbox_config: Option<v1::PodSandboxConfig>,
    ) -> Answer<'_, String>;
    /// Idempotent.
    fn remove_image(&self, image: v1::ImageSpec) -> Answer<'_, ()>;
    fn image_fs_info(&self) -> Answer<'_, v1::ImageFsInfoResponse>;
}
