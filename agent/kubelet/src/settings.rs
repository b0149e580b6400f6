//! The kubelet's own settings: paths and limits. Everything has upstream's default. Pod and log directories are in `NodeFacts`.

use std::path::PathBuf;
use std::time::Duration;

use kedge_machine::paths;

/// Paths and limits. Tests point the paths into a directory of their own.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Symlinks to container logs.
    pub container_logs: PathBuf,
    /// Static pod manifests; `None`: no static pods.
    pub manifests: Option<PathBuf>,
    /// Where the cgroup v2 hierarchy is mounted; `None`: leave cgroups alone (unit tests, where there is none).
    pub cgroup_root: Option<PathBuf>,
    /// Keep secret material on tmpfs. Off only where nothing can be mounted (unit tests).
    pub tmpfs: bool,
    /// Pulls at the same time over all pods. Upstream pulls one by one; two keep a small image from waiting for a big one.
    pub parallel_pulls: usize,
    /// A log file is rotated beyond this.
    pub log_max_bytes: u64,
    /// Log files kept per container, the current one included.
    pub log_max_files: usize,
    /// Images are collected when the filesystem is fuller than this, in percent …
    pub image_gc_high: u8,
    /// … down to this.
    pub image_gc_low: u8,
    /// An image younger on the node than this is kept.
    pub image_min_age: Duration,
    /// Dead instances kept per container.
    pub dead_containers: usize,
    /// How long the runtime may be away before the node reports it.
    pub runtime_grace: Duration,
    /// How long a payload volume may lag behind the API.
    pub volume_refresh: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            container_logs: paths::CONTAINER_LOGS.into(),
            manifests: Some(paths::MANIFESTS.into()),
            cgroup_root: Some(kedge_sys::cgroup::MOUNT_POINT.into()),
            tmpfs: true,
            parallel_pulls: 2,
            log_max_bytes: 10 * 1024 * 1024,
            log_max_files: 5,
            image_gc_high: 85,
            image_gc_low: 80,
            image_min_age: Duration::from_secs(120),
            dead_containers: 1,
            runtime_grace: Duration::from_secs(30),
            volume_refresh: Duration::from_secs(45),
        }
    }
}
