//! A runtime whose every call is counted and timed: `kubelet_runtime_operations_*`, `kubelet_run_podsandbox_*`.
//!
//! In: any [`Runtime`]. Out: the same answers. The operations have upstream's names. Abandoned calls are counted, not timed.

use std::sync::Arc;
use std::time::Duration;

use kedge_cri::{Answer, Result, Runtime, v1};
use kedge_tasks::Meters;
use kedge_tasks::meter::{BUCKETS, Family};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Seconds, from 5 ms on, each 2.5 times the one before.
const OPERATION: &[f64] = &[
    0.005,
    0.0125,
    0.031_25,
    0.078_125,
    0.195_312_5,
    0.488_281_25,
    1.220_703_125,
    3.051_757_812_5,
    7.629_394_531_25,
    19.073_486_328_125,
    47.683_715_820_312_5,
    119.209_289_550_781_25,
    298.023_223_876_953_1,
    745.058_059_692_382_8,
];

static OPERATIONS: Family = Family::counter(
    "kubelet_runtime_operations_total",
    &["operation_type"],
    "Requests to the container runtime.",
);
static ERRORS: Family = Family::counter(
    "kubelet_runtime_operations_errors_total",
    &["operation_type"],
    "Requests to the container runtime that failed.",
);
static DURATION: Family = Family::histogram(
    "kubelet_runtime_operations_duration_seconds",
    &["operation_type"],
    OPERATION,
    "Time of requests to the container runtime.",
);
static SANDBOX: Family = Family::histogram(
    "kubelet_run_podsandbox_duration_seconds",
    &["runtime_handler"],
    BUCKETS,
    "Time of making sandboxes.",
);
static SANDBOX_ERRORS: Family = Family::counter(
    "kubelet_run_podsandbox_errors_total",
    &["runtime_handler"],
    "Sandboxes that the runtime could not make.",
);

/// See the module.
pub struct Metered {
    runtime: Arc<dyn Runtime>,
    meters: Meters,
}

impl Metered {
    /// Counts calls of `runtime`.
    pub fn new(runtime: Arc<dyn Runtime>, meters: Meters) -> Self {
        Self { runtime, meters }
    }

    fn timed<'a, T: Send + 'a>(
        &'a self,
        operation: &'static str,
        call: Answer<'a, T>,
    ) -> Answer<'a, T> {
        Box::pin(async move {
            let began = Instant::now();
            self.meters.count(&OPERATIONS, &[operation]);
            let answer = call.await;
            self.end(operation, &answer, began);
            answer
        })
    }

    fn end<T>(&self, operation: &'static str, answer: &Result<T>, began: Instant) {
        self.meters
            .observe(&DURATION, &[operation], began.elapsed());
        if answer.is_err() {
            self.meters.count(&ERRORS, &[operation]);
        }
    }
}

impl Runtime for Metered {
    fn version(&self) -> Answer<'_, v1::VersionResponse> {
        self.timed("version", self.runtime.version())
    }
    fn status(&self) -> Answer<'_, v1::StatusResponse> {
        self.timed("status", self.runtime.status())
    }
    fn runtime_config(&self) -> Answer<'_, v1::RuntimeConfigResponse> {
        // Asked once, and no operation of upstream's either.
        self.runtime.runtime_config()
    }
    fn update_runtime_config(&self, pod_cidr: String) -> Answer<'_, ()> {
        let call = self.runtime.update_runtime_config(pod_cidr);
        self.timed("update_runtime_config", call)
    }
    fn run_pod_sandbox(
        &self,
        config: v1::PodSandboxConfig,
        runtime_handler: String,
    ) -> Answer<'_, String> {
        let handler = runtime_handler.clone();
        let call = self.runtime.run_pod_sandbox(config, runtime_handler);
        let call = self.timed("run_podsandbox", call);
        Box::pin(async move {
            let began = Instant::now();
            let answer = call.await;
            self.meters.observe(&SANDBOX, &[&handler], began.elapsed());
            if answer.is_err() {
                self.meters.count(&SANDBOX_ERRORS, &[&handler]);
            }
            answer
        })
    }
    fn stop_pod_sandbox<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        self.timed("stop_podsandbox", self.runtime.stop_pod_sandbox(id))
    }
    fn remove_pod_sandbox<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        self.timed("remove_podsandbox", self.runtime.remove_pod_sandbox(id))
    }
    fn pod_sandbox_status<'a>(&'a self, id: &'a str) -> Answer<'a, v1::PodSandboxStatusResponse> {
        self.timed("podsandbox_status", self.runtime.pod_sandbox_status(id))
    }
    fn list_pod_sandbox(
        &self,
        filter: Option<v1::PodSandboxFilter>,
    ) -> Answer<'_, Vec<v1::PodSandbox>> {
        self.timed("list_podsandbox", self.runtime.list_pod_sandbox(filter))
    }
    fn create_container(
        &self,
        sandbox: String,
        config: v1::ContainerConfig,
        sandbox_config: v1::PodSandboxConfig,
    ) -> Answer<'_, String> {
        let call = self
            .runtime
            .create_container(sandbox, config, sandbox_config);
        self.timed("create_container", call)
    }
    fn start_container<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        self.timed("start_container", self.runtime.start_container(id))
    }
    fn stop_container<'a>(&'a self, id: &'a str, grace: Duration) -> Answer<'a, ()> {
        self.timed("stop_container", self.runtime.stop_container(id, grace))
    }
    fn remove_container<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        self.timed("remove_container", self.runtime.remove_container(id))
    }
    fn list_containers(
        &self,
        filter: Option<v1::ContainerFilter>,
    ) -> Answer<'_, Vec<v1::Container>> {
        self.timed("list_containers", self.runtime.list_containers(filter))
    }
    fn container_status<'a>(&'a self, id: &'a str) -> Answer<'a, v1::ContainerStatus> {
        self.timed("container_status", self.runtime.container_status(id))
    }
    fn update_container_resources(
        &self,
        id: String,
        resources: v1::LinuxContainerResources,
    ) -> Answer<'_, ()> {
        let call = self.runtime.update_container_resources(id, resources);
        self.timed("update_container", call)
    }
    fn reopen_container_log<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        self.timed(
            "reopen_container_log",
            self.runtime.reopen_container_log(id),
        )
    }
    fn exec_sync(
        &self,
        id: String,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> Answer<'_, v1::ExecSyncResponse> {
        self.timed("exec_sync", self.runtime.exec_sync(id, command, timeout))
    }
    fn exec(&self, request: v1::ExecRequest) -> Answer<'_, String> {
        self.timed("exec", self.runtime.exec(request))
    }
    fn attach(&self, request: v1::AttachRequest) -> Answer<'_, String> {
        self.timed("attach", self.runtime.attach(request))
    }
    fn port_forward(&self, sandbox: String, ports: Vec<i32>) -> Answer<'_, String> {
        self.timed("port_forward", self.runtime.port_forward(sandbox, ports))
    }
    fn container_stats<'a>(&'a self, id: &'a str) -> Answer<'a, Option<v1::ContainerStats>> {
        self.timed("container_stats", self.runtime.container_stats(id))
    }
    fn list_container_stats(
        &self,
        filter: Option<v1::ContainerStatsFilter>,
    ) -> Answer<'_, Vec<v1::ContainerStats>> {
        let call = self.runtime.list_container_stats(filter);
        self.timed("list_container_stats", call)
    }
    fn container_events(&self, sink: mpsc::Sender<v1::ContainerEventResponse>) -> Answer<'_, ()> {
        // It lasts as long as the connection: no operation with a duration.
        self.runtime.container_events(sink)
    }
    fn list_images(&self) -> Answer<'_, Vec<v1::Image>> {
        self.timed("list_images", self.runtime.list_images())
    }
    fn image_status(&self, image: v1::ImageSpec) -> Answer<'_, Option<v1::Image>> {
        self.timed("image_status", self.runtime.image_status(image))
    }
    fn pull_image(
        &self,
        image: v1::ImageSpec,
        auth: Option<v1::AuthConfig>,
        sandbox_config: Option<v1::PodSandboxConfig>,
    ) -> Answer<'_, String> {
        let call = self.runtime.pull_image(image, auth, sandbox_config);
        self.timed("pull_image", call)
    }
    fn remove_image(&self, image: v1::ImageSpec) -> Answer<'_, ()> {
        self.timed("remove_image", self.runtime.remove_image(image))
    }
    fn image_fs_info(&self) -> Answer<'_, v1::ImageFsInfoResponse> {
        self.timed("image_fs_info", self.runtime.image_fs_info())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kedge_cri::fake::Fake;
    use kedge_tasks::meter::Reading;

    #[tokio::test(start_paused = true)]
    async fn calls_and_failures_are_counted_and_timed() {
        let meters = Meters::default();
        let runtime = Metered::new(Arc::new(Fake::new()), meters.clone());
        runtime.list_containers(None).await.unwrap();
        runtime.list_containers(None).await.unwrap();
        runtime.container_status("none").await.unwrap_err();
        let config = v1::PodSandboxConfig::default();
        let _ = runtime.run_pod_sandbox(config, "runc".into()).await;
        let count = |family, operation| meters.reading(family, &[operation]);
        assert_eq!(
            count(&OPERATIONS, "list_containers"),
            Some(Reading::Count(2))
        );
        assert_eq!(count(&ERRORS, "list_containers"), None);
        assert_eq!(count(&ERRORS, "container_status"), Some(Reading::Count(1)));
        let Some(Reading::Spread(buckets, _)) = count(&DURATION, "list_containers") else {
            panic!("not timed");
        };
        assert_eq!(buckets.iter().sum::<u64>(), 2);
        assert!(count(&SANDBOX, "runc").is_some());
    }
}
