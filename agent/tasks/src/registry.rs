//! What `/statusz` prints: one entry per loop.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::Meters;

/// One loop as `/statusz` shows it. Times are milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LoopStatus {
    /// Completed runs.
    pub runs: u64,
    /// Runs that failed.
    pub failures: u64,
    /// Why it last woke up.
    pub reason: String,
    /// The last run's result in words; empty when it had nothing to say.
    pub result: String,
    /// The last run's duration.
    pub last_ms: u64,
    /// The longest run since the agent started.
    pub longest_ms: u64,
    /// When the last run ended, since the registry was made.
    pub last_end_ms: u64,
}

/// The table of loops. Clones share it; a lock is held for the copy of one small value only, never across an await.
#[derive(Clone, Debug)]
pub struct Registry {
    started: Instant,
    loops: Arc<Mutex<BTreeMap<&'static str, LoopStatus>>>,
    meters: Meters,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            loops: Arc::default(),
            meters: Meters::default(),
        }
    }
}

impl Registry {
    /// Records one run of the loop `name`.
    pub fn record(
        &self,
        name: &'static str,
        reason: &str,
        began: Instant,
        result: Result<&str, &str>,
    ) {
        let end = Instant::now();
        let took = millis(end.saturating_duration_since(began));
        let mut loops = self.lock();
        let entry = loops.entry(name).or_default();
        entry.runs += 1;
        entry.failures += u64::from(result.is_err());
        reason.clone_into(&mut entry.reason);
        result.unwrap_or_else(|e| e).clone_into(&mut entry.result);
        entry.last_ms = took;
        entry.longest_ms = entry.longest_ms.max(took);
        entry.last_end_ms = millis(end.saturating_duration_since(self.started));
    }

    /// What the same parts count for `/metrics`: the table goes wherever this one goes.
    pub fn meters(&self) -> &Meters {
        &self.meters
    }

    /// A copy of the table.
    pub fn snapshot(&self) -> BTreeMap<&'static str, LoopStatus> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, LoopStatus>> {
        // The values are plain: a panic of another holder cannot leave them half written in a way that matters here.
        self.loops
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
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
                status.last_ms
            ),
            (3, 1, 70, 1)
        );
        assert_eq!(status.result, "fine");
    }
}
