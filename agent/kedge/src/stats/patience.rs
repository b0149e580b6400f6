//! Calls that may never come back: `statvfs` of a filesystem whose disk or server is gone stays in the kernel and cannot be cancelled.
//!
//! In: a key and a blocking call. Out: its result, or `None` when it did not end within [`PATIENCE`]. A key whose call is still under way is
//! not called again, and at most [`MOST`] calls are under way, so that lost ones hold a few threads of the pool and never all of them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A local filesystem answers within microseconds; a scrape waits no longer than this for each that does not.
const PATIENCE: Duration = Duration::from_millis(250);
/// Of the sixteen threads of the pool (`agent.rs`).
const MOST: usize = 4;

/// Cheap to clone; clones share what is under way.
#[derive(Clone, Debug, Default)]
pub struct Patience(Arc<Mutex<BTreeSet<Box<str>>>>);

impl Patience {
    /// Calls `work` on the blocking pool. `None`: it takes too long, or one of this key still does.
    pub async fn call<T: Send + 'static>(
        &self,
        key: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        self.call_within(PATIENCE, key, work).await
    }

    /// The same for what takes longer than one call.
    pub async fn call_within<T: Send + 'static>(
        &self,
        patience: Duration,
        key: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let held = self.begin(key)?;
        let call = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(held);
            done
        });
        match tokio::time::timeout(patience, call).await {
            Ok(Ok(done)) => Some(done),
            Ok(Err(error)) => {
                tracing::error!(key, %error, "a call for statistics");
                None
            }
            // Dropping the handle leaves the call to itself; it gives its key back when it ends.
            Err(_) => {
                tracing::warn!(key, "does not answer: its values are missing until it does");
                None
            }
        }
    }

    fn begin(&self, key: &str) -> Option<Held> {
        let mut under_way = lock(&self.0);
        let free = under_way.len() < MOST && under_way.insert(key.into());
        free.then(|| Held(self.0.clone(), key.into()))
    }
}

/// A key whose call is under way; given back when the call ends, also by a panic.
struct Held(Arc<Mutex<BTreeSet<Box<str>>>>, Box<str>);

impl Drop for Held {
    fn drop(&mut self) {
        lock(&self.0).remove(&self.1);
    }
}

fn lock(set: &Mutex<BTreeSet<Box<str>>>) -> MutexGuard<'_, BTreeSet<Box<str>>> {
    // A set of plain keys: a panic of another holder cannot leave it half written.
    set.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// A call that hangs until the sender goes.
    fn hung() -> (mpsc::Sender<()>, impl FnOnce() + Send + 'static) {
        let (release, hung) = mpsc::channel();
        (release, move || {
            let _ = hung.recv();
        })
    }

    #[tokio::test]
    async fn a_call_that_hangs_is_left_alone_and_not_repeated_until_it_ends() {
        let patience = Patience::default();
        let (release, hang) = hung();
        assert_eq!(patience.call("/mnt", hang).await, None);
        assert_eq!(patience.call("/mnt", || 1).await, None, "not called again");
        assert_eq!(patience.call("/data", || 2).await, Some(2), "others answer");
        drop(release);
        let freed = async {
            while patience.call("/mnt", || 3).await != Some(3) {
                tokio::task::yield_now().await;
            }
        };
        let freed = tokio::time::timeout(Duration::from_secs(10), freed).await;
        assert!(freed.is_ok(), "it is called again once it came back");
    }

    #[tokio::test]
    async fn lost_calls_never_take_all_threads() {
        let patience = Patience::default();
        let mut releases = Vec::new();
        for n in 0..MOST {
            let (release, hang) = hung();
            releases.push(release);
            assert_eq!(patience.call(&n.to_string(), hang).await, None);
        }
        assert_eq!(patience.call("one more", || ()).await, None);
    }
}
