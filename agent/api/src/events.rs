//! Events: what `kubectl describe` shows. Best effort by nature: bounded queue, bounded rate, repeats counted instead of repeated.
//!
//! In: [`Event`]s from anywhere, without waiting. Out: `POST` and `PATCH` of core/v1 Events. Which of the two, or neither, is decided in
//! `events::correlate` (pure). An event that cannot be sent within a few attempts is dropped and counted.

pub mod correlate;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event as CoreEvent, ObjectReference};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::client::Client;
use crate::clock::WallClock;
use crate::error::{ApiError, Class};
use correlate::{Correlator, Decision, Posting};

/// Waiting to be sent; more are dropped.
const QUEUE: usize = 256;
/// The kubelet's limits: 50 a second, bursts of 100.
const RATE_PER_SECOND: f64 = 50.0;
const BURST: f64 = 100.0;
const ATTEMPTS: u32 = 4;
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// Whether somebody should look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    Normal,
    Warning,
}

/// Something that happened to an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub object: ObjectReference,
    pub severity: Severity,
    /// "Pulled", "BackOff", …
    pub reason: String,
    pub message: String,
}

/// Takes events without waiting. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct EventSink {
    queue: mpsc::Sender<Event>,
    dropped: Arc<AtomicU64>,
}

impl EventSink {
    pub(crate) fn new(
        client: Client,
        clock: WallClock,
        node_name: String,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (queue, inbox) = mpsc::channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let sink = Self {
            queue,
            dropped: dropped.clone(),
        };
        let started = Instant::now();
        let sender = Sender {
            client,
            clock,
            dropped,
            correlator: Correlator::new(node_name),
            started,
            tokens: BURST,
            refilled: started,
        };
        (sink, sender.run(inbox))
    }

    /// Queues an event; a full queue drops it.
    pub fn record(&self, event: Event) {
        if self.queue.try_send(event).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Events that were never stored.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

struct Sender {
    client: Client,
    clock: WallClock,
    dropped: Arc<AtomicU64>,
    correlator: Correlator,
    started: Instant,
    tokens: f64,
    refilled: Instant,
}

impl Sender {
    async fn run(mut self, mut inbox: mpsc::Receiver<Event>) {
        while let Some(event) = inbox.recv().await {
            let elapsed = self.started.elapsed();
            match self.correlator.decide(&event, self.clock.now(), elapsed) {
                Decision::Drop => self.drop_one(),
                Decision::Send(posting) => {
                    self.take_token().await;
                    self.send(&posting).await;
                }
            }
        }
    }

    async fn send(&mut self, posting: &Posting) {
        for attempt in 1..=ATTEMPTS {
            // Before the node has joined, or while the server is away, the queue holds what it can.
            self.client.transport().usable().await;
            match self.post(posting).await {
                Ok(()) => return,
                Err(error) if error.class() == Class::Retry && attempt < ATTEMPTS => {
                    tokio::time::sleep(RETRY_DELAY).await;
                }
                Err(error) => {
                    tracing::debug!("event dropped: {}", error.report());
                    break;
                }
            }
        }
        self.drop_one();
    }

    async fn post(&mut self, posting: &Posting) -> Result<(), ApiError> {
        let namespace = Some(posting.namespace.as_str());
        if let Some((name, patch)) = &posting.repeat {
            match self.client.patch::<CoreEvent>(namespace, name, patch).await {
                // Events expire after an hour: then it is a new one.
                Err(ApiError::NotFound { .. }) => {}
                other => return other.map(drop),
            }
        }
        let created = self.client.create(namespace, &posting.event).await?;
        let name = created.metadata.name.unwrap_or_default();
        self.correlator.created(posting, name);
        Ok(())
    }

    async fn take_token(&mut self) {
        let now = Instant::now();
        let gained = (now - self.refilled).as_secs_f64() * RATE_PER_SECOND;
        self.tokens = (self.tokens + gained).min(BURST);
        self.refilled = now;
        if self.tokens < 1.0 {
            let wait = Duration::from_secs_f64((1.0 - self.tokens) / RATE_PER_SECOND);
            tokio::time::sleep(wait).await;
            self.tokens = 1.0;
            self.refilled = Instant::now();
        }
        self.tokens -= 1.0;
    }

    fn drop_one(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
}
