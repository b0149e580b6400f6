//! How long a task keeps its thread: everything else on that thread waits meanwhile.
//!
//! In: a future. Out: the same future, each of whose polls is timed; the longest is kept. Two clock readings per poll, no timer of its own.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

/// The longest stall so far, shared by the tasks of a name.
#[derive(Debug, Default)]
pub(crate) struct Longest(AtomicU64);

impl Longest {
    pub(crate) fn get(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }

    fn saw(&self, stall: Duration) {
        let micros = u64::try_from(stall.as_micros()).unwrap_or(u64::MAX);
        self.0.fetch_max(micros, Ordering::Relaxed);
    }
}

/// See the module.
#[derive(Debug)]
pub struct Watched<F> {
    // Boxed: a pinned field would need `unsafe`, and whoever spawns a task allocates for it anyway.
    future: Pin<Box<F>>,
    longest: std::sync::Arc<Longest>,
}

impl<F: Future> Watched<F> {
    pub(crate) fn new(future: F, longest: std::sync::Arc<Longest>) -> Self {
        Self {
            future: Box::pin(future),
            longest,
        }
    }
}

impl<F: Future> Future for Watched<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let began = Instant::now();
        let polled = self.future.as_mut().poll(context);
        self.longest.saw(began.elapsed());
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Registry;

    #[tokio::test(start_paused = true)]
    async fn waiting_is_no_stall_and_holding_the_thread_is() {
        let registry = Registry::default();
        let task = registry.watched("t", async {
            tokio::time::sleep(Duration::from_secs(60)).await;
        });
        task.await;
        assert!(registry.stalls()["t"] < Duration::from_secs(1));
        let task = registry.watched("t", async {
            // Time goes on though nothing was awaited: what a call that blocks looks like from here.
            let clock = std::pin::pin!(tokio::time::advance(Duration::from_secs(7)));
            let _ = clock.poll(&mut Context::from_waker(std::task::Waker::noop()));
        });
        task.await;
        assert_eq!(registry.stalls()["t"].as_secs(), 7);
    }
}
