//! An in-memory runtime for tests, as strict as containerd: it refuses what containerd refuses.
//!
//! In: the [`Runtime`] calls of the code under test, and the script of the test (images, exits, failures, hangs).
//! Out: answers, events, and a journal of the calls that changed something. Time is tokio's, so it can be paused.
//! Absent: processes, files, networks.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, broadcast};
use tokio::time::Instant;

use crate::error::{Error, Kind, Result};
use crate::v1;

mod calls;
mod state;

pub use state::{Behaviour, Failure, Pull};
use state::{FakeContainer, FakeSandbox};

/// The wall clock of a fresh fake, in seconds since 1970: tests that need the same wall clock start here.
pub const EPOCH: Duration = Duration::from_secs(1_750_000_000);

/// A scripted runtime. Clones share one state.
#[derive(Clone)]
pub struct Fake {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    /// Woken whenever a container or sandbox changed state.
    changed: Notify,
    events: broadcast::Sender<v1::ContainerEventResponse>,
    start: Instant,
}

#[derive(Default)]
struct State {
    down: bool,
    network_ready: bool,
    cgroup_driver: i32,
    next_id: u64,
    next_ip: u16,
    sandboxes: BTreeMap<String, FakeSandbox>,
    containers: BTreeMap<String, FakeContainer>,
    images: BTreeMap<String, v1::Image>,
    pulls: BTreeMap<String, VecDeque<Pull>>,
    behaviours: BTreeMap<String, Behaviour>,
    failures: Vec<(&'static str, Failure)>,
    execs: BTreeMap<String, v1::ExecSyncResponse>,
    journal: Vec<String>,
    /// Calls so far, failed ones too.
    calls: BTreeMap<&'static str, usize>,
}

impl Default for Fake {
    fn default() -> Self {
        Self::new()
    }
}

impl Fake {
    /// A healthy runtime with the cgroupfs driver, without images.
    pub fn new() -> Self {
        let (events, _) = broadcast::channel(256);
        let state = State {
            network_ready: true,
            cgroup_driver: v1::CgroupDriver::Cgroupfs as i32,
            ..State::default()
        };
        Self {
            inner: Arc::new(Inner {
                state: Mutex::new(state),
                changed: Notify::new(),
                events,
                start: Instant::now(),
            }),
        }
    }

    /// Puts an image on the node; its id is `sha256:` and the name.
    pub fn add_image(&self, name: &str) {
        let image = image_of(name);
        self.state().images.insert(name.to_owned(), image);
    }

    /// Changes an image that is already there (its user, its pin).
    pub fn edit_image(&self, name: &str, edit: impl FnOnce(&mut v1::Image)) {
        if let Some(image) = self.state().images.get_mut(name) {
            edit(image);
        }
    }

    /// What the next pulls of this image do, in order; an image without a script does not exist.
    pub fn script_pull(&self, name: &str, pulls: impl IntoIterator<Item = Pull>) {
        let mut state = self.state();
        state
            .pulls
            .entry(name.to_owned())
            .or_default()
            .extend(pulls);
    }

    /// How containers of this name behave from now on.
    pub fn script_container(&self, name: &str, behaviour: Behaviour) {
        self.state().behaviours.insert(name.to_owned(), behaviour);
    }

    /// Lets the next call of `operation` (the CRI's method name) fail or hang.
    pub fn fail_next(&self, operation: &'static str, failure: Failure) {
        self.state().failures.push((operation, failure));
    }

    /// What `ExecSync` of this command line (joined by spaces) answers; others exit with 0.
    pub fn script_exec(&self, command: &str, exit_code: i32, stdout: &str) {
        let answer = v1::ExecSyncResponse {
            stdout: stdout.as_bytes().to_vec(),
            stderr: Vec::new(),
            exit_code,
        };
        self.state().execs.insert(command.to_owned(), answer);
    }

    /// Takes the socket away (`true`) or brings it back. Containers keep running meanwhile.
    pub fn set_down(&self, down: bool) {
        self.state().down = down;
        self.inner.changed.notify_waiters();
    }

    /// Whether the runtime reports `NetworkReady`.
    pub fn set_network_ready(&self, ready: bool) {
        self.state().network_ready = ready;
    }

    /// What `RuntimeConfig` answers.
    pub fn set_cgroup_driver(&self, driver: v1::CgroupDriver) {
        self.state().cgroup_driver = driver as i32;
    }

    /// Ends the process of a running container, as if it had exited by itself.
    pub fn exit(&self, container: &str, exit_code: i32) {
        let now = self.now();
        self.finish(container, exit_code, now);
    }

    /// Ends the sandbox process: the sandbox becomes not ready.
    pub fn kill_sandbox(&self, id: &str) {
        if let Some(sandbox) = self.state().sandboxes.get_mut(id) {
            sandbox.ready = false;
        }
        self.emit(id, v1::ContainerEventType::StoppedEvent);
        self.inner.changed.notify_waiters();
    }

    /// How often `operation` (the CRI's method name) was called so far.
    pub fn calls(&self, operation: &str) -> usize {
        self.state().calls.get(operation).copied().unwrap_or(0)
    }

    /// The calls that changed something, one line each, since the last time this was asked.
    pub fn take_journal(&self) -> Vec<String> {
        std::mem::take(&mut self.state().journal)
    }

    /// Ids of containers of this name that run now.
    pub fn running(&self, name: &str) -> Vec<String> {
        let state = self.state();
        state
            .containers
            .values()
            .filter(|c| c.name() == name && c.state == v1::ContainerState::Running)
            .map(|c| c.id.clone())
            .collect()
    }

    /// The configuration a container was created with.
    pub fn container_config(&self, id: &str) -> Option<v1::ContainerConfig> {
        self.state().containers.get(id).map(|c| c.config.clone())
    }

    /// The configuration a sandbox was made with.
    pub fn sandbox_config(&self, id: &str) -> Option<v1::PodSandboxConfig> {
        self.state().sandboxes.get(id).map(|s| s.config.clone())
    }

    /// How many containers and sandboxes exist, in any state.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.state();
        (state.containers.len(), state.sandboxes.len())
    }

    /// Waits until `predicate` holds; with paused time this drives the code under test.
    ///
    /// # Panics
    /// If it does not hold within `limit`.
    pub async fn wait_for(&self, limit: Duration, mut predicate: impl FnMut(&Self) -> bool) {
        let until = Instant::now() + limit;
        while !predicate(self) {
            assert!(
                Instant::now() < until,
                "not within {limit:?}; journal: {:#?}",
                self.state().journal
            );
            // A wake-up can be missed between the check and the wait, so the wait is short.
            let wait = self.inner.changed.notified();
            let _ = tokio::time::timeout(Duration::from_millis(50), wait).await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic in a test elsewhere must not hide its own message behind a poisoned lock.
        self.inner
            .state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Nanoseconds since 1970 on the fake's clock.
    fn now(&self) -> i64 {
        let now = EPOCH + self.inner.start.elapsed();
        i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
    }

    fn finish(&self, container: &str, exit_code: i32, now: i64) {
        {
            let mut state = self.state();
            let Some(found) = state.containers.get_mut(container) else {
                return;
            };
            if found.state != v1::ContainerState::Running {
                return;
            }
            found.state = v1::ContainerState::Exited;
            found.finished_at = now;
            found.exit_code = exit_code;
            found.reason = if exit_code == 0 { "Completed" } else { "Error" }.to_owned();
        }
        self.emit(container, v1::ContainerEventType::StoppedEvent);
        self.inner.changed.notify_waiters();
    }

    fn emit(&self, id: &str, kind: v1::ContainerEventType) {
        let event = v1::ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind as i32,
            created_at: self.now(),
            pod_sandbox_status: None,
            containers_statuses: Vec::new(),
        };
        // Nobody listening is fine.
        let _ = self.inner.events.send(event);
    }

    /// The scripted failure for this call, if any; hangs here if so scripted.
    async fn gate(&self, operation: &'static str, object: &str) -> Result<()> {
        let failure = {
            let mut state = self.state();
            *state.calls.entry(operation).or_default() += 1;
            if state.down {
                let text = "connection refused (fake is down)";
                return Err(Error::new(operation, object, Kind::Unavailable, text));
            }
            let at = state.failures.iter().position(|(op, _)| *op == operation);
            at.map(|at| state.failures.remove(at).1)
        };
        match failure {
            None => Ok(()),
            Some(Failure::Error(kind, message)) => {
                Err(Error::new(operation, object, kind, message))
            }
            Some(Failure::Delay(duration)) => {
                tokio::time::sleep(duration).await;
                Ok(())
            }
            Some(Failure::Hang) => std::future::pending().await,
        }
    }
}

fn image_of(name: &str) -> v1::Image {
    v1::Image {
        id: format!("sha256:{name}"),
        repo_tags: vec![name.to_owned()],
        repo_digests: vec![format!("{name}@sha256:0000")],
        size: 1 << 20,
        uid: Some(v1::Int64Value { value: 0 }),
        ..v1::Image::default()
    }
}

#[cfg(test)]
mod tests;
