//! Every task's name, owner and end; the one reconcile loop; the registry behind `/statusz`.
//!
//! In: futures and small reconcilers. Out: handles that end what they started, and a table of loops with their last
//! wake-up, reason, result and longest stall. Deliberately absent: any knowledge of what the tasks do.
//!
//! - [`Tasks`] owns spawned tasks: dropping or draining it ends them, a panic-free end is reported by name.
//! - [`reconcile`] is the shell of every loop: wait for a reason, run once, publish, wait again.
//! - [`meter::Meters`] is what `/metrics` prints of what happened.
//! - [`queue::queue`] is a bounded queue that is measured.
//! - [`Registry`] is what `/statusz` prints. It is written by loops and read by the server; entries are small values.
//! - [`Watched`] times how long a task keeps its thread.

pub mod meter;
pub mod queue;
mod reconcile;
mod registry;
mod stall;

pub use meter::Meters;
pub use reconcile::{Next, Reason, reconcile};
pub use registry::{LoopStatus, Registry};
pub use stall::Watched;

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

/// A set of named tasks with one owner.
pub struct Tasks {
    owner: &'static str,
    set: JoinSet<&'static str>,
    registry: Registry,
    stop: watch::Sender<bool>,
}

/// Tells a task that its owner wants it to end. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Completes when the owner asked for the end or is gone. Cancel-safe.
    pub async fn requested(&mut self) {
        // An error means the owner is gone, which is an end too.
        let _ = self.0.wait_for(|stop| *stop).await;
    }

    /// Whether the end was asked for.
    pub fn is_requested(&self) -> bool {
        *self.0.borrow()
    }
}

impl Tasks {
    /// An empty set; `owner` names it in logs.
    pub fn new(owner: &'static str) -> Self {
        Self::reporting(owner, Registry::default())
    }

    /// The same; the tasks' stalls are found in `registry`.
    pub fn reporting(owner: &'static str, registry: Registry) -> Self {
        Self {
            owner,
            set: JoinSet::new(),
            registry,
            stop: watch::channel(false).0,
        }
    }

    /// What spawned tasks watch to end in order.
    pub fn stop(&self) -> Stop {
        Stop(self.stop.subscribe())
    }

    /// Spawns a named task on the current runtime.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let task = self.registry.watched(name, task);
        self.set.spawn(async move {
            task.await;
            name
        });
    }

    /// Waits until any task ends by itself and gives its name; `None` when the set is empty. Cancel-safe.
    /// A task of an agent that runs for ever should not end: the owner decides what that means.
    pub async fn ended(&mut self) -> Option<&'static str> {
        loop {
            match self.set.join_next().await? {
                Ok(name) => return Some(name),
                Err(error) if error.is_cancelled() => {}
                Err(error) => {
                    tracing::error!(owner = self.owner, %error, "a task panicked");
                    return Some("panicked");
                }
            }
        }
    }

    /// Asks all tasks to end, waits at most `deadline`, then aborts the rest. Gives the number aborted.
    pub async fn drain(mut self, deadline: Duration) -> usize {
        let _ = self.stop.send(true);
        let all = async { while self.set.join_next().await.is_some() {} };
        if tokio::time::timeout(deadline, all).await.is_ok() {
            return 0;
        }
        let rest = self.set.len();
        tracing::warn!(
            owner = self.owner,
            rest,
            "tasks did not end in time and are aborted"
        );
        self.set.abort_all();
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn draining_waits_for_tasks_that_end_and_aborts_those_that_do_not() {
        let mut tasks = Tasks::new("test");
        let mut stop = tasks.stop();
        tasks.spawn("good", async move { stop.requested().await });
        tasks.spawn("deaf", std::future::pending());
        assert_eq!(tasks.drain(Duration::from_secs(5)).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ends_is_named() {
        let mut tasks = Tasks::new("test");
        tasks.spawn("short", async {});
        assert_eq!(tasks.ended().await, Some("short"));
        assert_eq!(tasks.ended().await, None);
    }

    #[tokio::test]
    async fn dropping_the_owner_ends_the_wait_for_stop() {
        let tasks = Tasks::new("test");
        let mut stop = tasks.stop();
        drop(tasks);
        stop.requested().await;
    }
}
