//! What the fake remembers of a sandbox and a container, and what a test can script.

use std::time::Duration;

use crate::error::Kind;
use crate::v1;

/// What happens to one scripted call.
#[derive(Clone, Debug)]
pub enum Failure {
    /// It fails and changes nothing.
    Error(Kind, String),
    /// It succeeds, later.
    Delay(Duration),
    /// It never answers.
    Hang,
}

/// What one pull does.
#[derive(Clone, Debug)]
pub enum Pull {
    /// The image arrives after this time.
    After(Duration),
    /// The registry refuses.
    Fail(String),
}

/// How containers of one name behave.
#[derive(Clone, Debug, Default)]
pub struct Behaviour {
    /// Exits by itself after this time with this code.
    pub exits: Option<(Duration, i32)>,
    /// Ignores the stop signal: only the kill at the end of the grace ends it.
    pub ignores_stop: bool,
}

pub(super) struct FakeSandbox {
    pub id: String,
    pub config: v1::PodSandboxConfig,
    pub handler: String,
    pub ready: bool,
    pub created_at: i64,
    pub ip: String,
}

pub(super) struct FakeContainer {
    pub id: String,
    pub sandbox: String,
    pub config: v1::ContainerConfig,
    pub image_id: String,
    pub state: v1::ContainerState,
    pub created_at: i64,
    pub started_at: i64,
    pub finished_at: i64,
    pub exit_code: i32,
    pub reason: String,
    pub message: String,
}

impl FakeSandbox {
    pub fn metadata(&self) -> v1::PodSandboxMetadata {
        self.config.metadata.clone().unwrap_or_default()
    }

    pub fn state(&self) -> i32 {
        let state = if self.ready {
            v1::PodSandboxState::Ready
        } else {
            v1::PodSandboxState::Notready
        };
        state as i32
    }

    fn host_network(&self) -> bool {
        let security = self.config.linux.as_ref();
        security
            .and_then(|l| l.security_context.as_ref())
            .and_then(|s| s.namespace_options.as_ref())
            .is_some_and(|o| o.network == v1::NamespaceMode::Node as i32)
    }

    pub fn listed(&self) -> v1::PodSandbox {
        v1::PodSandbox {
            id: self.id.clone(),
            metadata: Some(self.metadata()),
            state: self.state(),
            created_at: self.created_at,
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            runtime_handler: self.handler.clone(),
        }
    }

    pub fn status(&self) -> v1::PodSandboxStatus {
        // containerd reports no address for host-network sandboxes and for dead ones.
        let ip = if self.ready && !self.host_network() {
            self.ip.clone()
        } else {
            String::new()
        };
        let options = self.config.linux.as_ref();
        let options = options.and_then(|l| l.security_context.as_ref());
        v1::PodSandboxStatus {
            id: self.id.clone(),
            metadata: Some(self.metadata()),
            state: self.state(),
            created_at: self.created_at,
            network: Some(v1::PodSandboxNetworkStatus {
                ip,
                additional_ips: Vec::new(),
            }),
            linux: Some(v1::LinuxPodSandboxStatus {
                namespaces: Some(v1::Namespace {
                    options: options.and_then(|s| s.namespace_options.clone()),
                }),
            }),
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            runtime_handler: self.handler.clone(),
        }
    }
}

impl FakeContainer {
    pub fn name(&self) -> &str {
        self.config
            .metadata
            .as_ref()
            .map_or("", |m| m.name.as_str())
    }

    pub fn listed(&self) -> v1::Container {
        v1::Container {
            id: self.id.clone(),
            pod_sandbox_id: self.sandbox.clone(),
            metadata: self.config.metadata.clone(),
            image: self.config.image.clone(),
            image_ref: self.image_id.clone(),
            state: self.state as i32,
            created_at: self.created_at,
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            image_id: self.image_id.clone(),
        }
    }

    pub fn status(&self, log_directory: &str) -> v1::ContainerStatus {
        let linux = self.config.linux.as_ref();
        v1::ContainerStatus {
            id: self.id.clone(),
            metadata: self.config.metadata.clone(),
            state: self.state as i32,
            created_at: self.created_at,
            started_at: self.started_at,
            finished_at: self.finished_at,
            exit_code: self.exit_code,
            image: self.config.image.clone(),
            image_ref: self.image_id.clone(),
            reason: self.reason.clone(),
            message: self.message.clone(),
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            mounts: self.config.mounts.clone(),
            log_path: format!("{log_directory}/{}", self.config.log_path),
            resources: linux.map(|l| v1::ContainerResources {
                linux: l.resources.clone(),
            }),
            image_id: self.image_id.clone(),
            user: None,
            stop_signal: self.config.stop_signal,
        }
    }
}
