//! The fake's answers. Each refusal is one of containerd 2.x (`internal/cri/server`), in fewer words.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;

use super::state::{FakeContainer, FakeSandbox};
use super::{Fake, Pull, State, image_of};
use crate::error::{Error, Kind, Result};
use crate::runtime::{Answer, Runtime};
use crate::v1;

fn refuse<T>(operation: &'static str, object: &str, kind: Kind, text: &str) -> Result<T> {
    Err(Error::new(operation, object, kind, text))
}

fn matches_labels(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(k, v)| labels.get(k) == Some(v))
}

impl State {
    fn id(&mut self, prefix: &str) -> String {
        self.next_id += 1;
        format!("{prefix}{}", self.next_id)
    }

    fn find_image(&self, reference: &str) -> Option<&v1::Image> {
        self.images.values().find(|image| {
            image.id == reference
                || image.repo_tags.iter().any(|tag| tag == reference)
                || image.repo_digests.iter().any(|digest| digest == reference)
        })
    }

    fn note(&mut self, line: String) {
        self.journal.push(line);
    }
}

impl Fake {
    fn make_sandbox(&self, config: v1::PodSandboxConfig, handler: String) -> Result<String> {
        const OP: &str = "RunPodSandbox";
        let now = self.now();
        let mut state = self.state();
        let Some(metadata) = config.metadata.clone() else {
            return refuse(
                OP,
                "",
                Kind::Invalid,
                "sandbox config must include metadata",
            );
        };
        if metadata.name.is_empty() || metadata.namespace.is_empty() || metadata.uid.is_empty() {
            return refuse(
                OP,
                &metadata.name,
                Kind::Invalid,
                "name, namespace or uid is empty",
            );
        }
        // The name of a sandbox is its four metadata fields; it stays reserved until the sandbox is removed.
        if state.sandboxes.values().any(|s| s.metadata() == metadata) {
            let text = "failed to reserve sandbox name: is reserved";
            return refuse(OP, &metadata.name, Kind::Failed, text);
        }
        if !state.network_ready {
            return refuse(
                OP,
                &metadata.name,
                Kind::Failed,
                "cni plugin not initialized",
            );
        }
        let id = state.id("s");
        state.next_ip += 1;
        let ip = format!("10.88.{}.{}", state.next_ip / 250, state.next_ip % 250 + 2);
        state.note(format!(
            "run sandbox {id} {}/{} attempt {}",
            metadata.namespace, metadata.name, metadata.attempt
        ));
        let sandbox = FakeSandbox {
            id: id.clone(),
            config,
            handler,
            ready: true,
            created_at: now,
            ip,
        };
        state.sandboxes.insert(id.clone(), sandbox);
        Ok(id)
    }

    fn make_container(&self, sandbox: &str, config: v1::ContainerConfig) -> Result<String> {
        const OP: &str = "CreateContainer";
        let now = self.now();
        let mut state = self.state();
        let Some(metadata) = config.metadata.clone() else {
            return refuse(
                OP,
                "",
                Kind::Invalid,
                "container config must include metadata",
            );
        };
        let name = metadata.name.clone();
        let Some(found) = state.sandboxes.get(sandbox) else {
            return refuse(OP, &name, Kind::NotFound, "failed to find sandbox");
        };
        if !found.ready {
            return refuse(OP, &name, Kind::Failed, "sandbox is not running");
        }
        let taken = state
            .containers
            .values()
            .any(|c| c.sandbox == sandbox && c.config.metadata.as_ref() == Some(&metadata));
        if taken {
            let text = "failed to reserve container name: is reserved";
            return refuse(OP, &name, Kind::Failed, text);
        }
        let reference = config.image.as_ref().map_or("", |i| i.image.as_str());
        let Some(image) = state.find_image(reference) else {
            let text = format!("failed to resolve image {reference}: not found");
            return refuse(OP, &name, Kind::NotFound, &text);
        };
        let image_id = image.id.clone();
        for mount in &config.mounts {
            if mount.container_path.is_empty() || mount.host_path.is_empty() {
                return refuse(
                    OP,
                    &name,
                    Kind::Failed,
                    "mount without source or destination",
                );
            }
            if !mount.host_path.starts_with('/') {
                return refuse(OP, &name, Kind::Failed, "mount source is not absolute");
            }
        }
        if config.log_path.starts_with('/') {
            return refuse(OP, &name, Kind::Invalid, "log path must be relative");
        }
        let id = state.id("c");
        state.note(format!(
            "create {id} {name} attempt {} in {sandbox}",
            metadata.attempt
        ));
        let container = FakeContainer {
            id: id.clone(),
            sandbox: sandbox.to_owned(),
            config,
            image_id,
            state: v1::ContainerState::Created,
            created_at: now,
            started_at: 0,
            finished_at: 0,
            exit_code: 0,
            reason: String::new(),
            message: String::new(),
        };
        state.containers.insert(id.clone(), container);
        Ok(id)
    }

    fn start(&self, id: &str) -> Result<()> {
        const OP: &str = "StartContainer";
        let now = self.now();
        let exits = {
            let mut state = self.state();
            let Some(container) = state.containers.get(id) else {
                return refuse(OP, id, Kind::NotFound, "no such container");
            };
            if container.state != v1::ContainerState::Created {
                return refuse(OP, id, Kind::Failed, "container is not in created state");
            }
            let sandbox = state.sandboxes.get(&container.sandbox);
            if !sandbox.is_some_and(|s| s.ready) {
                return refuse(OP, id, Kind::Failed, "sandbox container is not running");
            }
            let name = container.name().to_owned();
            let exits = state.behaviours.get(&name).and_then(|b| b.exits);
            if let Some(container) = state.containers.get_mut(id) {
                container.state = v1::ContainerState::Running;
                container.started_at = now;
            }
            state.note(format!("start {id} {name}"));
            exits
        };
        self.emit(id, v1::ContainerEventType::StartedEvent);
        if let Some((after, code)) = exits {
            let (fake, id) = (self.clone(), id.to_owned());
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                fake.exit(&id, code);
            });
        }
        self.inner.changed.notify_waiters();
        Ok(())
    }

    async fn stop(&self, id: &str, grace: Duration) {
        let ignores = {
            let mut state = self.state();
            let Some(container) = state.containers.get(id) else {
                return;
            };
            if container.state != v1::ContainerState::Running {
                return;
            }
            let name = container.name().to_owned();
            state.note(format!("stop {id} {name} grace {} s", grace.as_secs()));
            state.behaviours.get(&name).is_some_and(|b| b.ignores_stop)
        };
        if ignores || grace.is_zero() {
            tokio::time::sleep(grace).await;
            self.exit(id, 137);
        } else {
            self.exit(id, 143);
        }
    }

    async fn stop_all_in(&self, sandbox: &str) {
        let ids: Vec<String> = {
            let state = self.state();
            let of_sandbox = state.containers.values().filter(|c| c.sandbox == sandbox);
            of_sandbox.map(|c| c.id.clone()).collect()
        };
        for id in ids {
            self.stop(&id, Duration::ZERO).await;
        }
    }

    fn drop_container(&self, id: &str) {
        let removed = {
            let mut state = self.state();
            let removed = state.containers.remove(id);
            if removed.is_some() {
                state.note(format!("remove {id}"));
            }
            removed.is_some()
        };
        if removed {
            self.emit(id, v1::ContainerEventType::DeletedEvent);
            self.inner.changed.notify_waiters();
        }
    }

    fn require_running(&self, operation: &'static str, id: &str) -> Result<()> {
        let state = self.state();
        match state.containers.get(id) {
            None => refuse(operation, id, Kind::NotFound, "no such container"),
            Some(c) if c.state != v1::ContainerState::Running => {
                refuse(operation, id, Kind::Failed, "container is not running")
            }
            Some(_) => Ok(()),
        }
    }

    fn note(&self, line: String) {
        self.state().note(line);
    }
}

impl Runtime for Fake {
    fn version(&self) -> Answer<'_, v1::VersionResponse> {
        Box::pin(async move {
            self.gate("Version", "").await?;
            Ok(v1::VersionResponse {
                version: "0.1.0".into(),
                runtime_name: "fake".into(),
                runtime_version: "v0".into(),
                runtime_api_version: "v1".into(),
            })
        })
    }

    fn status(&self) -> Answer<'_, v1::StatusResponse> {
        Box::pin(async move {
            self.gate("Status", "").await?;
            let network = self.state().network_ready;
            let condition = |kind: &str, status, reason: &str| v1::RuntimeCondition {
                r#type: kind.into(),
                status,
                reason: reason.into(),
                message: String::new(),
            };
            let reason = if network { "" } else { "NetworkPluginNotReady" };
            Ok(v1::StatusResponse {
                status: Some(v1::RuntimeStatus {
                    conditions: vec![
                        condition("RuntimeReady", true, ""),
                        condition("NetworkReady", network, reason),
                    ],
                }),
                ..v1::StatusResponse::default()
            })
        })
    }

    fn runtime_config(&self) -> Answer<'_, v1::RuntimeConfigResponse> {
        Box::pin(async move {
            self.gate("RuntimeConfig", "").await?;
            let cgroup_driver = self.state().cgroup_driver;
            Ok(v1::RuntimeConfigResponse {
                linux: Some(v1::LinuxRuntimeConfiguration { cgroup_driver }),
            })
        })
    }

    fn update_runtime_config(&self, pod_cidr: String) -> Answer<'_, ()> {
        Box::pin(async move {
            self.gate("UpdateRuntimeConfig", &pod_cidr).await?;
            self.note(format!("pod cidr {pod_cidr}"));
            Ok(())
        })
    }

    fn run_pod_sandbox(
        &self,
        config: v1::PodSandboxConfig,
        runtime_handler: String,
    ) -> Answer<'_, String> {
        Box::pin(async move {
            self.gate("RunPodSandbox", "").await?;
            let id = self.make_sandbox(config, runtime_handler)?;
            self.emit(&id, v1::ContainerEventType::StartedEvent);
            self.inner.changed.notify_waiters();
            Ok(id)
        })
    }

    fn stop_pod_sandbox<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            self.gate("StopPodSandbox", id).await?;
            self.stop_all_in(id).await;
            let stopped = {
                let mut state = self.state();
                let was_ready = match state.sandboxes.get_mut(id) {
                    Some(sandbox) => std::mem::replace(&mut sandbox.ready, false),
                    None => false,
                };
                if was_ready {
                    state.note(format!("stop sandbox {id}"));
                }
                was_ready
            };
            if stopped {
                self.emit(id, v1::ContainerEventType::StoppedEvent);
                self.inner.changed.notify_waiters();
            }
            Ok(())
        })
    }

    fn remove_pod_sandbox<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            self.gate("RemovePodSandbox", id).await?;
            self.stop_all_in(id).await;
            let ids: Vec<String> = {
                let state = self.state();
                let of_sandbox = state.containers.values().filter(|c| c.sandbox == id);
                of_sandbox.map(|c| c.id.clone()).collect()
            };
            for container in ids {
                self.drop_container(&container);
            }
            let removed = {
                let mut state = self.state();
                let removed = state.sandboxes.remove(id).is_some();
                if removed {
                    state.note(format!("remove sandbox {id}"));
                }
                removed
            };
            if removed {
                self.emit(id, v1::ContainerEventType::DeletedEvent);
                self.inner.changed.notify_waiters();
            }
            Ok(())
        })
    }

    fn pod_sandbox_status<'a>(&'a self, id: &'a str) -> Answer<'a, v1::PodSandboxStatusResponse> {
        Box::pin(async move {
            self.gate("PodSandboxStatus", id).await?;
            match self.state().sandboxes.get(id) {
                None => refuse("PodSandboxStatus", id, Kind::NotFound, "no such sandbox"),
                Some(sandbox) => Ok(v1::PodSandboxStatusResponse {
                    status: Some(sandbox.status()),
                    ..v1::PodSandboxStatusResponse::default()
                }),
            }
        })
    }

    fn list_pod_sandbox(
        &self,
        filter: Option<v1::PodSandboxFilter>,
    ) -> Answer<'_, Vec<v1::PodSandbox>> {
        Box::pin(async move {
            self.gate("ListPodSandbox", "").await?;
            let filter = filter.unwrap_or_default();
            let state = self.state();
            let all = state.sandboxes.values().map(FakeSandbox::listed);
            Ok(all
                .filter(|s| filter.id.is_empty() || s.id == filter.id)
                .filter(|s| filter.state.is_none_or(|wanted| s.state == wanted.state))
                .filter(|s| matches_labels(&filter.label_selector, &s.labels))
                .collect())
        })
    }

    fn create_container(
        &self,
        sandbox: String,
        config: v1::ContainerConfig,
        sandbox_config: v1::PodSandboxConfig,
    ) -> Answer<'_, String> {
        Box::pin(async move {
            self.gate("CreateContainer", &sandbox).await?;
            if sandbox_config.metadata.is_none() {
                let text = "sandbox config must include metadata";
                return refuse("CreateContainer", &sandbox, Kind::Invalid, text);
            }
            let id = self.make_container(&sandbox, config)?;
            self.emit(&id, v1::ContainerEventType::CreatedEvent);
            self.inner.changed.notify_waiters();
            Ok(id)
        })
    }

    fn start_container<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let gate = self.gate("StartContainer", id).await;
            if let Err(error) = gate {
                // A start that the runtime tried and that failed leaves an exited container behind, code 128.
                if error.kind == Kind::Failed {
                    let now = self.now();
                    if let Some(container) = self.state().containers.get_mut(id) {
                        container.state = v1::ContainerState::Exited;
                        container.finished_at = now;
                        container.exit_code = 128;
                        container.reason = "StartError".into();
                        container.message.clone_from(&error.message);
                    }
                    self.inner.changed.notify_waiters();
                }
                return Err(error);
            }
            self.start(id)
        })
    }

    fn stop_container<'a>(&'a self, id: &'a str, grace: Duration) -> Answer<'a, ()> {
        Box::pin(async move {
            self.gate("StopContainer", id).await?;
            self.stop(id, grace).await;
            Ok(())
        })
    }

    fn remove_container<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            self.gate("RemoveContainer", id).await?;
            self.stop(id, Duration::ZERO).await;
            self.drop_container(id);
            Ok(())
        })
    }

    fn list_containers(
        &self,
        filter: Option<v1::ContainerFilter>,
    ) -> Answer<'_, Vec<v1::Container>> {
        Box::pin(async move {
            self.gate("ListContainers", "").await?;
            let filter = filter.unwrap_or_default();
            let sandbox = &filter.pod_sandbox_id;
            let state = self.state();
            let all = state.containers.values().map(FakeContainer::listed);
            Ok(all
                .filter(|c| filter.id.is_empty() || c.id == filter.id)
                .filter(|c| sandbox.is_empty() || c.pod_sandbox_id == *sandbox)
                .filter(|c| filter.state.is_none_or(|wanted| c.state == wanted.state))
                .filter(|c| matches_labels(&filter.label_selector, &c.labels))
                .collect())
        })
    }

    fn container_status<'a>(&'a self, id: &'a str) -> Answer<'a, v1::ContainerStatus> {
        Box::pin(async move {
            self.gate("ContainerStatus", id).await?;
            let state = self.state();
            let Some(container) = state.containers.get(id) else {
                return refuse("ContainerStatus", id, Kind::NotFound, "no such container");
            };
            let sandbox = state.sandboxes.get(&container.sandbox);
            Ok(container.status(sandbox.map_or("", |s| s.config.log_directory.as_str())))
        })
    }

    fn update_container_resources(
        &self,
        id: String,
        resources: v1::LinuxContainerResources,
    ) -> Answer<'_, ()> {
        Box::pin(async move {
            self.gate("UpdateContainerResources", &id).await?;
            let mut state = self.state();
            let Some(container) = state.containers.get_mut(&id) else {
                return refuse(
                    "UpdateContainerResources",
                    &id,
                    Kind::NotFound,
                    "no such container",
                );
            };
            let linux = container.config.linux.get_or_insert_default();
            linux.resources = Some(resources);
            Ok(())
        })
    }

    fn reopen_container_log<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            self.gate("ReopenContainerLog", id).await?;
            self.require_running("ReopenContainerLog", id)?;
            self.note(format!("reopen log {id}"));
            Ok(())
        })
    }

    fn exec_sync(
        &self,
        id: String,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> Answer<'_, v1::ExecSyncResponse> {
        Box::pin(async move {
            let line = command.join(" ");
            let gated = self.gate("ExecSync", &id);
            match timeout {
                None => gated.await?,
                Some(limit) => match tokio::time::timeout(limit, gated).await {
                    Ok(gated) => gated?,
                    Err(_) => {
                        let text = format!("timeout {limit:?} exceeded");
                        return refuse("ExecSync", &id, Kind::DeadlineExceeded, &text);
                    }
                },
            }
            self.require_running("ExecSync", &id)?;
            let mut state = self.state();
            state.note(format!("exec {id} {line}"));
            Ok(state.execs.get(&line).cloned().unwrap_or_default())
        })
    }

    fn exec(&self, request: v1::ExecRequest) -> Answer<'_, String> {
        Box::pin(async move {
            self.gate("Exec", &request.container_id).await?;
            self.require_running("Exec", &request.container_id)?;
            Ok(format!("http://127.0.0.1:1/exec/{}", request.container_id))
        })
    }

    fn attach(&self, request: v1::AttachRequest) -> Answer<'_, String> {
        Box::pin(async move {
            self.gate("Attach", &request.container_id).await?;
            self.require_running("Attach", &request.container_id)?;
            Ok(format!(
                "http://127.0.0.1:1/attach/{}",
                request.container_id
            ))
        })
    }

    fn port_forward(&self, sandbox: String, _ports: Vec<i32>) -> Answer<'_, String> {
        Box::pin(async move {
            self.gate("PortForward", &sandbox).await?;
            let ready = self.state().sandboxes.get(&sandbox).map(|s| s.ready);
            match ready {
                None => refuse("PortForward", &sandbox, Kind::NotFound, "no such sandbox"),
                Some(false) => refuse("PortForward", &sandbox, Kind::Failed, "not running"),
                Some(true) => Ok(format!("http://127.0.0.1:1/portforward/{sandbox}")),
            }
        })
    }

    fn container_stats<'a>(&'a self, id: &'a str) -> Answer<'a, Option<v1::ContainerStats>> {
        Box::pin(async move {
            self.gate("ContainerStats", id).await?;
            self.require_running("ContainerStats", id)?;
            Ok(None)
        })
    }

    fn list_container_stats(
        &self,
        _filter: Option<v1::ContainerStatsFilter>,
    ) -> Answer<'_, Vec<v1::ContainerStats>> {
        Box::pin(async move {
            self.gate("ListContainerStats", "").await?;
            Ok(Vec::new())
        })
    }

    fn container_events(&self, sink: mpsc::Sender<v1::ContainerEventResponse>) -> Answer<'_, ()> {
        Box::pin(async move {
            self.gate("GetContainerEvents", "").await?;
            let mut events = self.inner.events.subscribe();
            loop {
                // The socket can go away while nothing happens, so the wait is bounded.
                let next = tokio::time::timeout(Duration::from_millis(100), events.recv()).await;
                if self.state().down {
                    let text = "stream broken (fake is down)";
                    return refuse("GetContainerEvents", "", Kind::Unavailable, text);
                }
                if let Ok(Ok(event)) = next
                    && sink.send(event).await.is_err()
                {
                    return Ok(());
                }
                if sink.is_closed() {
                    return Ok(());
                }
            }
        })
    }

    fn list_images(&self) -> Answer<'_, Vec<v1::Image>> {
        Box::pin(async move {
            self.gate("ListImages", "").await?;
            Ok(self.state().images.values().cloned().collect())
        })
    }

    fn image_status(&self, image: v1::ImageSpec) -> Answer<'_, Option<v1::Image>> {
        Box::pin(async move {
            self.gate("ImageStatus", &image.image).await?;
            Ok(self.state().find_image(&image.image).cloned())
        })
    }

    fn pull_image(
        &self,
        image: v1::ImageSpec,
        _auth: Option<v1::AuthConfig>,
        _sandbox_config: Option<v1::PodSandboxConfig>,
    ) -> Answer<'_, String> {
        Box::pin(async move {
            let name = image.image;
            self.gate("PullImage", &name).await?;
            self.note(format!("pull {name}"));
            let script = self
                .state()
                .pulls
                .get_mut(&name)
                .and_then(std::collections::VecDeque::pop_front);
            match script {
                Some(Pull::After(duration)) => {
                    tokio::time::sleep(duration).await;
                    let image = image_of(&name);
                    let id = image.id.clone();
                    self.state().images.insert(name, image);
                    Ok(id)
                }
                Some(Pull::Fail(text)) => refuse("PullImage", &name, Kind::Failed, &text),
                None => {
                    let text = format!("failed to resolve reference {name:?}: not found");
                    refuse("PullImage", &name, Kind::NotFound, &text)
                }
            }
        })
    }

    fn remove_image(&self, image: v1::ImageSpec) -> Answer<'_, ()> {
        Box::pin(async move {
            self.gate("RemoveImage", &image.image).await?;
            let mut state = self.state();
            let key = state.find_image(&image.image).and_then(|found| {
                let mut keys = state.images.iter();
                keys.find(|(_, i)| i.id == found.id).map(|(k, _)| k.clone())
            });
            if let Some(key) = key {
                state.images.remove(&key);
                state.note(format!("remove image {key}"));
            }
            Ok(())
        })
    }

    fn image_fs_info(&self) -> Answer<'_, v1::ImageFsInfoResponse> {
        Box::pin(async move {
            self.gate("ImageFsInfo", "").await?;
            let used: u64 = self.state().images.values().map(|i| i.size).sum();
            Ok(v1::ImageFsInfoResponse {
                image_filesystems: vec![v1::FilesystemUsage {
                    timestamp: self.now(),
                    fs_id: Some(v1::FilesystemIdentifier {
                        mountpoint: "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs"
                            .into(),
                    }),
                    used_bytes: Some(v1::UInt64Value { value: used }),
                    inodes_used: None,
                }],
                container_filesystems: Vec::new(),
            })
        })
    }
}
