//! What the runtime reports about one pod, as plain values. Everything that a restarted agent must know again is in the
//! labels and annotations of the runtime's objects ([`crate::spec::labels`]).
//!
//! In: values copied from `PodSandboxStatus` and `ContainerStatus`. Out: lookups that say which instance counts.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::time::WallNanos;

/// All sandboxes and containers of one pod UID, in any order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObservedPod {
    pub sandboxes: Vec<ObservedSandbox>,
    pub containers: Vec<ObservedContainer>,
    /// What is still on the node besides runtime objects; the executor knows it from its own directories and mounts.
    pub leftovers: Leftovers,
}

/// What a pod leaves on the node outside the runtime. Read from the file systems, so it survives an agent restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// The pod's directory or a mount below it exists.
    pub volumes: bool,
    /// The pod's cgroup exists.
    pub cgroup: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObservedSandbox {
    pub id: String,
    pub attempt: u32,
    pub ready: bool,
    pub created_at: WallNanos,
    /// Empty for host-network sandboxes.
    pub ips: Vec<IpAddr>,
    /// The sandbox shares the node's network.
    pub host_network: bool,
    pub runtime_handler: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

/// CRI `ContainerState`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    Created,
    Running,
    Exited,
    #[default]
    Unknown,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObservedContainer {
    pub id: String,
    pub sandbox_id: String,
    /// `metadata.name`
    pub name: String,
    /// `metadata.attempt`, the restart count.
    pub attempt: u32,
    pub state: State,
    pub created_at: WallNanos,
    pub started_at: WallNanos,
    pub finished_at: WallNanos,
    pub exit_code: i32,
    /// `OOMKilled`, `Error`, `Completed`, `StartError`, … as the runtime says.
    pub reason: String,
    /// The runtime's message, or the termination message once the executor has read it ([`crate::termination`]).
    pub message: String,
    /// The reference the pod asked for, as the runtime reports it (`image.user_specified_image`, else `image.image`).
    pub image: String,
    /// For `imageID`: the repo digest when there is one (`image_ref`), else the image id.
    pub image_id: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// `user.linux`: uid, gid, supplemental groups, where the runtime reports it.
    pub user: Option<(i64, i64, Vec<i64>)>,
    /// `resources.linux` as applied, where the runtime reports it.
    pub resources: Option<crate::spec::LinuxResources>,
    pub log_path: String,
    /// `stop_signal` by name, where the runtime reports it.
    pub stop_signal: Option<String>,
    /// (container path, read-only, recursively) of the mounts as the runtime made them.
    pub mounts: Vec<(String, bool, bool)>,
}

impl ObservedContainer {
    /// The spec hash recorded at creation.
    pub fn hash(&self) -> Option<&str> {
        self.annotations
            .get(crate::spec::labels::HASH)
            .map(String::as_str)
    }

    pub fn running(&self) -> bool {
        self.state == State::Running
    }

    /// Created by us and never started. Such a container is removed, never adopted, and its attempt number is used again:
    /// it never ran, so it is not a restart.
    pub fn never_started(&self) -> bool {
        self.state == State::Created
    }
}

impl ObservedPod {
    /// The newest sandbox by attempt.
    pub fn sandbox(&self) -> Option<&ObservedSandbox> {
        self.sandboxes
            .iter()
            .max_by_key(|s| (s.attempt, s.created_at))
    }

    /// The newest sandbox if it is ready.
    pub fn ready_sandbox(&self) -> Option<&ObservedSandbox> {
        self.sandbox().filter(|s| s.ready)
    }

    /// All instances of a container, newest first.
    pub fn instances<'a>(&'a self, name: &str) -> Vec<&'a ObservedContainer> {
        let mut found: Vec<_> = self.containers.iter().filter(|c| c.name == name).collect();
        found.sort_by_key(|c| std::cmp::Reverse((c.attempt, c.created_at)));
        found
    }

    /// The newest instance of a container.
    pub fn latest(&self, name: &str) -> Option<&ObservedContainer> {
        self.instances(name).into_iter().next()
    }

    /// The newest instance that was at least started.
    pub fn latest_started(&self, name: &str) -> Option<&ObservedContainer> {
        self.instances(name)
            .into_iter()
            .find(|c| !c.never_started())
    }

    /// Could any process of the pod still be running? An unknown state counts as yes.
    pub fn may_run(&self) -> bool {
        self.containers
            .iter()
            .any(|c| matches!(c.state, State::Running | State::Unknown))
    }
}
