//! The shell of every loop: wait for a reason, run once, record, wait again. Failures are values; the next run is the retry.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use crate::{Registry, Stop};

/// Why a loop woke up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The first run.
    Start,
    /// An input changed.
    Change,
    /// The time that the last run asked for came.
    Timer,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "start",
            Self::Change => "change",
            Self::Timer => "timer",
        })
    }
}

/// A run's outcome: what to show, and when to run again without a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Next {
    /// In words for `/statusz`; `Err` counts as a failure.
    pub result: Result<String, String>,
    /// Run again after this long even if nothing changes.
    pub wake_in: Option<Duration>,
}

impl Next {
    /// A good run.
    pub fn ok(words: impl Into<String>, wake_in: Option<Duration>) -> Self {
        Self {
            result: Ok(words.into()),
            wake_in,
        }
    }

    /// A failed run, to be tried again.
    pub fn failed(words: impl Into<String>, retry_in: Duration) -> Self {
        Self {
            result: Err(words.into()),
            wake_in: Some(retry_in),
        }
    }
}

/// Runs `run` at the start, after each completion of `changed`, and at the times it asks for, until `stop`.
///
/// `changed` must be cancel-safe: it is dropped when the timer fires first.
pub async fn reconcile<C, CF, R, RF>(
    name: &'static str,
    registry: Registry,
    mut stop: Stop,
    mut changed: C,
    mut run: R,
) where
    C: FnMut() -> CF,
    CF: Future<Output = ()>,
    R: FnMut(Reason) -> RF,
    RF: Future<Output = Next>,
{
    let mut reason = Reason::Start;
    loop {
        let (began, words) = (Instant::now(), reason.to_string());
        registry.begin(name, &words);
        let next = run(reason).await;
        registry.record(
            name,
            &words,
            began,
            next.result.as_deref().map_err(String::as_str),
        );
        let timer = async {
            match next.wake_in {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        // All three arms only wait: dropping any of them loses nothing.
        reason = tokio::select! {
            () = stop.requested() => return,
            () = changed() => Reason::Change,
            () = timer => Reason::Timer,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tasks;
    use std::sync::{Arc, Mutex};
    use tokio::sync::watch;

    #[tokio::test(start_paused = true)]
    async fn a_loop_runs_at_start_on_change_and_on_time() {
        let (input, watcher) = watch::channel(0);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Tasks::new("test");
        let (stop, log) = (tasks.stop(), seen.clone());
        tasks.spawn("loop", async move {
            let changed = || {
                let mut watcher = watcher.clone();
                async move {
                    watcher.mark_unchanged();
                    let _ = watcher.changed().await;
                }
            };
            let run = |reason| {
                log.lock().unwrap().push(reason);
                async { Next::ok("", Some(Duration::from_secs(60))) }
            };
            reconcile("loop", Registry::default(), stop, changed, run).await;
        });
        let wait = async |n: usize| {
            while seen.lock().unwrap().len() < n {
                tokio::task::yield_now().await
            }
        };
        wait(1).await;
        tokio::task::yield_now().await;
        input.send(1).unwrap();
        wait(2).await;
        tokio::time::advance(Duration::from_secs(61)).await;
        wait(3).await;
        assert_eq!(
            *seen.lock().unwrap(),
            [Reason::Start, Reason::Change, Reason::Timer]
        );
        assert_eq!(tasks.drain(Duration::from_secs(1)).await, 0);
    }
}
