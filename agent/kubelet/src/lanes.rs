//! Where blocking calls run: one bounded lane per concern, so that a hung filesystem stops its own lane and nothing else.
//!
//! In: closures. Out: their results. A caller that is dropped does not stop its closure: what must not overlap
//! takes a permit and moves it into the closure.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// One lane: at most so many closures at a time, the rest wait without occupying a thread.
#[derive(Clone, Debug)]
pub struct Lane {
    name: &'static str,
    places: Arc<Semaphore>,
}

/// The closure's thread died; only a panic does that.
#[derive(Debug, thiserror::Error)]
#[error("blocking work on lane {0} did not finish")]
pub struct Lost(&'static str);

impl From<Lost> for std::io::Error {
    fn from(lost: Lost) -> Self {
        Self::other(lost)
    }
}

impl Lane {
    fn new(name: &'static str, places: usize) -> Self {
        Self {
            name,
            places: Arc::new(Semaphore::new(places)),
        }
    }

    /// Runs a closure off the event loop.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Lost> {
        let place = self
            .places
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| Lost(self.name))?;
        tokio::task::spawn_blocking(move || {
            let result = work();
            drop(place);
            result
        })
        .await
        .map_err(|_| Lost(self.name))
    }
}

/// The kubelet's lanes.
#[derive(Clone, Debug)]
pub struct Lanes {
    /// Mounts, volume files, pod directories, cgroups.
    pub volumes: Lane,
    /// Small files next to a container: hosts, termination messages, log names.
    pub files: Lane,
    /// Log rotation and everything that may take seconds on purpose.
    pub slow: Lane,
}

impl Default for Lanes {
    fn default() -> Self {
        Self {
            volumes: Lane::new("volumes", 2),
            files: Lane::new("files", 1),
            slow: Lane::new("slow", 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_lane_makes_its_own_callers_wait_and_no_others() {
        let lanes = Lanes::default();
        let (release, gate) = std::sync::mpsc::channel::<()>();
        let slow = lanes.slow.clone();
        let held = tokio::spawn(async move { slow.run(move || gate.recv().is_ok()).await });
        tokio::task::yield_now().await;
        assert_eq!(lanes.files.run(|| 1).await.unwrap(), 1);
        let second = lanes.slow.run(|| 2);
        release.send(()).unwrap();
        assert_eq!(second.await.unwrap(), 2);
        assert!(held.await.unwrap().unwrap());
    }
}
