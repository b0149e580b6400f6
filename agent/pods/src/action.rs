//! The vocabulary between plan, worker and memory: what to do ([`Action`]), how it ended ([`Outcome`]), what to tell the user
//! ([`Event`]).

use std::fmt;
use std::time::Duration;

use k8s_openapi::api::core::v1::ResourceRequirements;

use crate::hook::Handler;
use crate::pod::Kind;

/// May the worker abandon the action (drop its future) when the plan cancels it?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Waits for something outside: a pull, a hook, a grace period, objects or mounts.
    Interruptible,
    /// Changes the runtime's state in one step: run to the end, then plan again.
    Whole,
}

/// One step towards the desired state. Steps of one plan are independent of each other.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Make the pod's cgroup, directories and volumes (waits for the objects of `needs`).
    Prepare,
    /// Run a sandbox with this attempt number, from `resolve::sandbox`.
    CreateSandbox { attempt: u32 },
    /// Stop a sandbox; its containers have ended.
    StopSandbox { id: String },
    /// Remove a stopped sandbox.
    RemoveSandbox { id: String },
    /// See that the image is there; the outcome carries the reference to create from.
    PullImage {
        container: String,
        image: String,
        policy: PullPolicy,
    },
    /// `resolve::container`, CreateContainer, StartContainer.
    StartContainer {
        container: String,
        kind: Kind,
        attempt: u32,
        sandbox: String,
        /// From the pull's outcome.
        image: String,
    },
    /// Run a hook. A failed postStart kills its container.
    RunHook {
        container: String,
        id: String,
        hook: Hook,
        handler: Handler,
        /// postStart: none; preStop: what is left of the grace period.
        timeout: Option<Duration>,
        /// Why the container is killed (preStop), or will be should the hook fail (postStart).
        reason: KillReason,
        message: String,
    },
    /// CRI StopContainer with this timeout. preStop hooks have run.
    KillContainer {
        container: String,
        id: String,
        grace: Duration,
        reason: KillReason,
        message: String,
    },
    /// Give a running container the resources its spec has, and the pod's cgroup what they add up to.
    Resize { container: String, id: String },
    /// Remove a container that never started or whose history is no longer reported, with its log.
    RemoveContainer { container: String, id: String },
    /// The pod is down: unmount volumes, remove its directories and cgroup.
    CleanUp,
    /// The pod is down and its API object is being deleted: publish the final status, then delete the object (grace 0, uid
    /// precondition). Sandbox, dead containers and logs stay until the object is gone (`Fate::Removed`).
    Finish,
    /// Nothing of the pod is left in the runtime: remove its log directory and end the worker.
    Forget,
}

/// Which hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    PostStart,
    PreStop,
}

/// `imagePullPolicy` with the default applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// Why a container is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillReason {
    /// The pod is deleted, removed from the configuration, evicted or past its deadline.
    PodEnds,
    LivenessFailed,
    StartupFailed,
    /// The container's spec changed.
    SpecChanged,
    /// Its resources changed, and its resize policy asks for a restart.
    Resized,
    PostStartFailed,
    /// The sandbox must be replaced.
    SandboxChanged,
    /// The runtime does not know its state.
    Unknown,
}

/// Identity of an action under way: one of each at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ActionKey {
    Prepare,
    CreateSandbox,
    StopSandbox(String),
    RemoveSandbox(String),
    /// By container name.
    Pull(String),
    /// By container name.
    Start(String),
    /// By container id.
    Hook(String, Hook),
    /// By container id.
    Kill(String),
    /// By container id.
    Resize(String),
    /// By container id.
    Remove(String),
    CleanUp,
    Finish,
    Forget,
}

impl Action {
    pub fn key(&self) -> ActionKey {
        match self {
            Action::Prepare => ActionKey::Prepare,
            Action::CreateSandbox { .. } => ActionKey::CreateSandbox,
            Action::StopSandbox { id } => ActionKey::StopSandbox(id.clone()),
            Action::RemoveSandbox { id } => ActionKey::RemoveSandbox(id.clone()),
            Action::PullImage { container, .. } => ActionKey::Pull(container.clone()),
            Action::StartContainer { container, .. } => ActionKey::Start(container.clone()),
            Action::RunHook { id, hook, .. } => ActionKey::Hook(id.clone(), *hook),
            Action::KillContainer { id, .. } => ActionKey::Kill(id.clone()),
            Action::Resize { id, .. } => ActionKey::Resize(id.clone()),
            Action::RemoveContainer { id, .. } => ActionKey::Remove(id.clone()),
            Action::CleanUp => ActionKey::CleanUp,
            Action::Finish => ActionKey::Finish,
            Action::Forget => ActionKey::Forget,
        }
    }

    pub fn class(&self) -> Class {
        self.key().class()
    }
}

impl ActionKey {
    pub fn class(&self) -> Class {
        match self {
            Self::Prepare | Self::Pull(_) | Self::Hook(..) | Self::Kill(_) => Class::Interruptible,
            Self::CreateSandbox
            | Self::StopSandbox(_)
            | Self::RemoveSandbox(_)
            | Self::Start(_)
            | Self::Resize(_)
            | Self::Remove(_)
            | Self::CleanUp
            | Self::Finish
            | Self::Forget => Class::Whole,
        }
    }

    /// Whether the runtime looks the same after it: then what was observed before still holds.
    pub fn spares_the_runtime(&self) -> bool {
        matches!(self, Self::Prepare | Self::Pull(_))
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Prepare => write!(f, "prepare volumes and cgroup"),
            Action::CreateSandbox { attempt } => write!(f, "create sandbox #{attempt}"),
            Action::StopSandbox { id } => write!(f, "stop sandbox {id}"),
            Action::RemoveSandbox { id } => write!(f, "remove sandbox {id}"),
            Action::PullImage {
                container,
                image,
                policy,
            } => write!(f, "pull {image} for {container} ({policy:?})"),
            Action::StartContainer {
                container, attempt, ..
            } => write!(f, "start {container} #{attempt}"),
            Action::RunHook {
                container,
                id,
                hook,
                timeout,
                ..
            } => match timeout {
                Some(timeout) => {
                    write!(f, "{hook:?} of {container} {id} within {}", secs(*timeout))
                }
                None => write!(f, "{hook:?} of {container} {id}"),
            },
            Action::KillContainer {
                container,
                id,
                grace,
                reason,
                ..
            } => write!(
                f,
                "kill {container} {id} within {} ({reason:?})",
                secs(*grace)
            ),
            Action::Resize { container, id } => write!(f, "resize {container} {id}"),
            Action::RemoveContainer { container, id } => write!(f, "remove {container} {id}"),
            Action::CleanUp => write!(f, "clean up volumes and cgroup"),
            Action::Finish => write!(f, "delete from the API"),
            Action::Forget => write!(f, "forget"),
        }
    }
}

fn secs(d: Duration) -> String {
    format!("{}s", d.as_secs_f64())
}

/// How an action ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Done,
    /// A pull: the reference to create from and whether bytes were fetched (false: it was already there).
    Image {
        reference: String,
        pulled: bool,
        /// Time the pull took, for the event.
        took: Duration,
        size: u64,
    },
    /// A container has these resources now.
    Resized(Box<ResourceRequirements>),
    /// A container: its id.
    Started {
        id: String,
    },
    /// `reason` is what the status shows (`ErrImagePull`, `CreateContainerConfigError`, …); see [`crate::status::reason`].
    Failed {
        reason: String,
        message: String,
    },
}

impl Outcome {
    pub fn failed(reason: &str, message: impl Into<String>) -> Outcome {
        Outcome::Failed {
            reason: reason.to_owned(),
            message: message.into(),
        }
    }
}

/// A Kubernetes event about the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
    /// `involvedObject.fieldPath`, such as `spec.containers{web}`; empty for the pod.
    pub field_path: String,
}
