//! What `/statusz` prints: one entry per loop, and the longest stall of every task.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::Meters;
use crate::stall::{Longest, Watched};

/// One loop as `/statusz` shows it. Times are milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoopStatus {
    /// Completed runs.
    pub runs: u64,
    /// Runs that failed.
    pub failures: u64,
    /// Why it last woke up.
    pub reason: String,
    /// The last run's result in words; empty when it had nothing to say.
    pub result: String,
    /// The last run failed.
    pub failed: bool,
    /// The last run's duration.
    pub last_ms: u64,
    /// The longest run since the agent started, the one under way included.
    pub longest_ms: u64,
    /// When it last woke up, since the registry was made.
    pub last_wake_ms: u64,
    /// For how long the run under way has been running; absent while the loop waits.
    pub running_ms: Option<u64>,
}

/// The table of loops. Clones share it; a lock is held for the copy of one small value only, never across an await.
#[derive(Clone, Debug)]
pub struct Registry {
    started: Instant,
    loops: Arc<Mutex<BTreeMap<&'static str, Entry>>>,
    stalls: Arc<Mutex<BTreeMap<&'static str, Arc<Longest>>>>,
    meters: Meters,
}

#[derive(Clone, Debug, Default)]
struct Entry {
    status: LoopStatus,
    /// When the run under way began.
    running: Option<Instant>,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            loops: Arc::default(),
            stalls: Arc::default(),
            meters: Meters::default(),
        }
    }
}

impl Registry {
    /// The loop `name` woke up. A run that never ends shows by this alone.
    pub fn begin(&self, name: &'static str, reason: &str) {
        let now = Instant::now();
        let mut loops = lock(&self.loops);
        let entry = loops.entry(name).or_default();
        entry.running = Some(now);
        entry.status.last_wake_ms = self.age(now);
        reason.clone_into(&mut entry.status.reason);
    }

    /// Records one run of the loop `name`.
    pub fn record(
        &self,
        name: &'static str,
        reason: &str,
        began: Instant,
        result: Result<&str, &str>,
    ) {
        let took = millis(began.elapsed());
        let mut loops = lock(&self.loops);
        let entry = loops.entry(name).or_default();
        entry.running = None;
        let status = &mut entry.status;
        status.runs += 1;
        status.failures += u64::from(result.is_err());
        status.failed = result.is_err();
        reason.clone_into(&mut status.reason);
        let words = result.unwrap_or_else(|e| e);
        words.clone_into(&mut status.result);
        status.last_ms = took;
        status.longest_ms = status.longest_ms.max(took);
        status.last_wake_ms = self.age(began);
    }

    /// The same future, with its stalls measured under this name; several tasks may share one.
    pub fn watched<F: Future>(&self, name: &'static str, future: F) -> Watched<F> {
        let longest = lock(&self.stalls).entry(name).or_default().clone();
        Watched::new(future, longest)
    }

    /// What the same parts count for `/metrics`: the table goes wherever this one goes.
    pub fn meters(&self) -> &Meters {
        &self.meters
    }

    /// A copy of the table.
    pub fn snapshot(&self) -> BTreeMap<&'static str, LoopStatus> {
        let loops = lock(&self.loops);
        let shown = |entry: &Entry| {
            let mut status = entry.status.clone();
            status.running_ms = entry.running.map(|since| millis(since.elapsed()));
            status.longest_ms = status.longest_ms.max(status.running_ms.unwrap_or(0));
            status
        };
        loops.iter().map(|(name, e)| (*name, shown(e))).collect()
    }

    /// The longest stall of every watched task.
    pub fn stalls(&self) -> BTreeMap<&'static str, Duration> {
        let stalls = lock(&self.stalls);
        stalls.iter().map(|(name, l)| (*name, l.get())).collect()
    }

    /// When it was made: the agent's start.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// For how long it exists.
    pub fn up(&self) -> Duration {
        self.started.elapsed()
    }

    /// Milliseconds since the registry was made.
    fn age(&self, at: Instant) -> u64 {
        millis(at.saturating_duration_since(self.started))
    }
}

fn lock<T>(table: &Mutex<T>) -> MutexGuard<'_, T> {
    // The values are plain: a panic of another holder cannot leave them half written in a way that matters here.
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_longest_run_is_kept() {
        let registry = Registry::default();
        for (ms, result) in [(5, Ok("fine")), (70, Err("no route")), (1, Ok("fine"))] {
            let began = Instant::now();
            tokio::time::advance(Duration::from_millis(ms)).await;
            registry.record("peers", "timer", began, result);
        }
        let status = &registry.snapshot()["peers"];
        assert_eq!(
            (
                status.runs,
                status.failures,
                status.longest_ms,
                status.last_ms,
                status.last_wake_ms,
            ),
            (3, 1, 70, 1, 75)
        );
        assert_eq!(
            (status.result.as_str(), status.failed, status.running_ms),
            ("fine", false, None)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_does_not_end_shows() {
        let registry = Registry::default();
        tokio::time::advance(Duration::from_millis(3)).await;
        registry.begin("garbage", "timer");
        tokio::time::advance(Duration::from_secs(9)).await;
        let status = &registry.snapshot()["garbage"];
        assert_eq!(
            (status.runs, status.longest_ms, status.last_wake_ms),
            (0, 9000, 3)
        );
        assert_eq!(status.running_ms, Some(9000));
    }

    #[tokio::test]
    async fn stalls_of_one_name_are_one() {
        let registry = Registry::default();
        registry.watched("a", async {}).await;
        registry.watched("a", async {}).await;
        assert_eq!(registry.stalls().into_keys().collect::<Vec<_>>(), ["a"]);
    }
}
