//! [`KubeletHandle`]: what the node's servers ask the kubelet. Cheap to clone; reads snapshots, or asks the runtime.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kedge_cri::{Runtime, v1};
use kedge_pods::observed::{ObservedContainer, ObservedPod, State};
use kedge_pods::pod;
use tokio::sync::watch;

/// One pod as its worker sees it.
#[derive(Clone, Debug)]
pub struct PodView {
    /// Spec and metadata, as given to this node.
    pub pod: Arc<Pod>,
    /// The status this node reports.
    pub status: PodStatus,
    pub observed: Arc<ObservedPod>,
    pub is_static: bool,
    pub asked: Asked,
    /// What it left could not be cleaned up when that was last tried.
    pub stuck: bool,
}

/// Whether the configuration asks for a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Asked {
    /// It does.
    #[default]
    Yes,
    /// It did: the pod is being ended.
    NoLonger,
    /// Not since this agent started: the pod was found on the node, and is being ended.
    Never,
}

/// All pods by uid.
pub type Views = BTreeMap<String, Arc<PodView>>;

/// Answers questions about pods. See the module.
#[derive(Clone)]
pub struct KubeletHandle {
    pub(crate) views: watch::Receiver<Views>,
    pub(crate) runtime: Arc<dyn Runtime>,
}

/// Which container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerRef {
    pub namespace: String,
    pub pod: String,
    /// Must match when given.
    pub uid: Option<String>,
    pub container: String,
    /// The instance before the current one.
    pub previous: bool,
}

/// A container instance with what streaming its log needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    pub id: String,
    pub log_path: PathBuf,
    pub running: bool,
    /// Nanoseconds since 1970; 0: not yet.
    pub started_at: i64,
    /// Nanoseconds since 1970; 0: still running.
    pub finished_at: i64,
}

/// Why there is nothing to answer with; the texts go to the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    #[error("pod \"{0}/{1}\" not found")]
    NoPod(String, String),
    #[error("container {1:?} in pod {0:?} is not valid: it does not exist")]
    NoContainer(String, String),
    #[error("container {1:?} in pod {0:?} is waiting to start: {2}")]
    Waiting(String, String, String),
    #[error("previous terminated container {1:?} in pod {0:?} not found")]
    NoPrevious(String, String),
    #[error("container {1:?} in pod {0:?} is not running")]
    NotRunning(String, String),
    #[error("pod \"{0}/{1}\" has no running sandbox")]
    NoSandbox(String, String),
    #[error(transparent)]
    Runtime(#[from] kedge_cri::Error),
}

impl KubeletHandle {
    /// The runtime, whose calls are counted and timed.
    pub fn runtime(&self) -> Arc<dyn Runtime> {
        self.runtime.clone()
    }

    /// Every pod of this node.
    pub fn pods(&self) -> Vec<Arc<PodView>> {
        self.views.borrow().values().cloned().collect()
    }

    /// The pods as API objects with the status this node reports.
    pub fn pod_objects(&self) -> Vec<Pod> {
        let views = self.views.borrow();
        let with_status = |view: &Arc<PodView>| {
            let mut pod = view.pod.as_ref().clone();
            pod.status = Some(view.status.clone());
            pod
        };
        views.values().map(with_status).collect()
    }

    /// Follows the pods: changes with every status.
    pub fn watch(&self) -> watch::Receiver<Views> {
        self.views.clone()
    }

    /// Follows one pod by name; a namesake with another uid is not it.
    pub fn pod(
        &self,
        namespace: &str,
        name: &str,
        uid: Option<&str>,
    ) -> Result<Arc<PodView>, LookupError> {
        let views = self.views.borrow();
        let fits = |view: &&Arc<PodView>| {
            pod::namespace(&view.pod) == namespace
                && pod::name(&view.pod) == name
                && uid.is_none_or(|uid| pod::uid(&view.pod) == uid)
        };
        // While a pod is replaced by one of the same name, the newer one is meant.
        views
            .values()
            .filter(fits)
            .max_by_key(|view| view.pod.metadata.deletion_timestamp.is_none())
            .cloned()
            .ok_or_else(|| LookupError::NoPod(namespace.to_owned(), name.to_owned()))
    }

    /// The instance that logs, exec or attach mean.
    pub fn locate(&self, wanted: &ContainerRef) -> Result<Located, LookupError> {
        let view = self.pod(&wanted.namespace, &wanted.pod, wanted.uid.as_deref())?;
        let spec = pod::spec(&view.pod);
        let names = || (wanted.pod.clone(), wanted.container.clone());
        if pod::member(spec, &wanted.container).is_none() {
            let (pod, container) = names();
            return Err(LookupError::NoContainer(pod, container));
        }
        let instances = view.observed.instances(&wanted.container);
        let mut started = instances.into_iter().filter(|c| !c.never_started());
        let newest = started.next();
        let found = if wanted.previous {
            // What ended last: the instance before the running one, or the newest when nothing runs.
            match newest {
                Some(c) if c.state == State::Exited => Some(c),
                _ => started.next(),
            }
            .ok_or_else(|| {
                let (pod, container) = names();
                LookupError::NoPrevious(pod, container)
            })?
        } else {
            newest.ok_or_else(|| {
                let (pod, container) = names();
                let reason = waiting_reason(&view.status, &wanted.container);
                LookupError::Waiting(pod, container, reason)
            })?
        };
        Ok(located(found))
    }

    fn running(&self, wanted: &ContainerRef) -> Result<String, LookupError> {
        let found = self.locate(wanted)?;
        if !found.running {
            let (pod, container) = (wanted.pod.clone(), wanted.container.clone());
            return Err(LookupError::NotRunning(pod, container));
        }
        Ok(found.id)
    }

    /// URL of the runtime's streaming server for `kubectl exec`.
    pub async fn exec(
        &self,
        wanted: &ContainerRef,
        command: Vec<String>,
        streams: Streams,
    ) -> Result<String, LookupError> {
        let request = v1::ExecRequest {
            container_id: self.running(wanted)?,
            cmd: command,
            tty: streams.tty,
            stdin: streams.stdin,
            stdout: streams.stdout,
            // With a terminal there is one stream for both; the runtime refuses stderr then.
            stderr: streams.stderr && !streams.tty,
        };
        Ok(self.runtime.exec(request).await?)
    }

    /// URL of the runtime's streaming server for `kubectl attach`.
    pub async fn attach(
        &self,
        wanted: &ContainerRef,
        streams: Streams,
    ) -> Result<String, LookupError> {
        let view = self.pod(&wanted.namespace, &wanted.pod, wanted.uid.as_deref())?;
        let member = pod::member(pod::spec(&view.pod), &wanted.container);
        // Whether there is a terminal is the container's to say, not the caller's.
        let tty = member.is_some_and(|m| m.spec.tty.unwrap_or(false));
        let request = v1::AttachRequest {
            container_id: self.running(wanted)?,
            stdin: streams.stdin,
            tty,
            stdout: streams.stdout,
            stderr: streams.stderr && !tty,
        };
        Ok(self.runtime.attach(request).await?)
    }

    /// URL of the runtime's streaming server for `kubectl port-forward`.
    pub async fn port_forward(
        &self,
        namespace: &str,
        name: &str,
        uid: Option<&str>,
        ports: Vec<i32>,
    ) -> Result<String, LookupError> {
        let view = self.pod(namespace, name, uid)?;
        let Some(sandbox) = view.observed.ready_sandbox() else {
            return Err(LookupError::NoSandbox(
                namespace.to_owned(),
                name.to_owned(),
            ));
        };
        Ok(self.runtime.port_forward(sandbox.id.clone(), ports).await?)
    }

    /// Runs a command and waits for its output (`/run`).
    pub async fn exec_sync(
        &self,
        wanted: &ContainerRef,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<v1::ExecSyncResponse, LookupError> {
        let id = self.running(wanted)?;
        Ok(self.runtime.exec_sync(id, command, timeout).await?)
    }

    /// What the runtime runs, with names and images only.
    pub async fn running_pods(&self) -> kedge_cri::Result<Vec<Pod>> {
        let sandboxes = self.runtime.list_pod_sandbox(None).await?;
        let containers = self.runtime.list_containers(None).await?;
        Ok(crate::running::pods(&sandboxes, &containers))
    }

    /// Usage of all containers as the runtime measures it.
    pub async fn container_stats(&self) -> kedge_cri::Result<Vec<v1::ContainerStats>> {
        self.runtime.list_container_stats(None).await
    }

    /// The filesystems that hold images and writable layers.
    pub async fn image_fs(&self) -> kedge_cri::Result<v1::ImageFsInfoResponse> {
        self.runtime.image_fs_info().await
    }
}

/// Which streams are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "the query parameters are so")]
pub struct Streams {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

fn located(c: &ObservedContainer) -> Located {
    Located {
        id: c.id.clone(),
        log_path: c.log_path.clone().into(),
        running: c.running(),
        started_at: c.started_at,
        finished_at: c.finished_at,
    }
}

fn waiting_reason(status: &PodStatus, container: &str) -> String {
    let lists = [
        &status.container_statuses,
        &status.init_container_statuses,
        &status.ephemeral_container_statuses,
    ];
    lists
        .into_iter()
        .flatten()
        .flatten()
        .find(|s| s.name == container)
        .and_then(|s| s.state.as_ref()?.waiting.as_ref()?.reason.clone())
        .unwrap_or_else(|| "ContainerCreating".to_owned())
}
