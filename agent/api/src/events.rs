//! Events: what `kubectl describe` shows. Best effort by nature: bounded queue, bounded rate, repeats counted instead of repeated.
//!
//! In: [`Event`]s from anywhere, without waiting. Out: `POST` and `PATCH` of core/v1 Events. Which of the two, or neither, is decided in
//! `events::correlate` (pure). An event that cannot be sent within a few attempts is dropped and counted.

pub mod correlate;

use std::time::Duration;

use k8s_openapi::api::core::v1::{Event as CoreEvent, ObjectReference};
use kedge_tasks::Meters;
use kedge_tasks::meter::Family;
use kedge_tasks::queue::{Queue, Reader, queue};
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

static DROPPED: Family = Family::counter(
    "kedge_events_dropped_total",
    &[],
    "Events that were never stored: too many at once, repeated too often, or refused.",
);

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
    queue: Queue<Event>,
    meters: Meters,
}

impl EventSink {
    pub(crate) fn new(
        client: Client,
        clock: WallClock,
        node_name: String,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let meters = client.registry().meters().clone();
        meters.declare(&[&DROPPED]);
        let (queue, inbox) = queue("events", QUEUE, &meters);
        let sink = Self {
            queue,
            meters: meters.clone(),
        };
        let started = Instant::now();
        let sender = Sender {
            client,
            clock,
            meters,
            correlator: Correlator::new(node_name),
            started,
            tokens: BURST,
            refilled: started,
        };
        (sink, sender.run(inbox))
    }

    /// Queues an event; a full queue drops it.
    pub fn record(&self, event: Event) {
        if !self.queue.put(event) {
            self.meters.count(&DROPPED, &[]);
        }
    }
}

struct Sender {
    client: Client,
    clock: WallClock,
    meters: Meters,
    correlator: Correlator,
    started: Instant,
    tokens: f64,
    refilled: Instant,
}

impl Sender {
    async fn run(mut self, mut inbox: Reader<Event>) {
        while let Some(event) = inbox.next().await {
            let elapsed = self.started.elapsed();
            match self.correlator.decide(&event, self.clock.now(), elapsed) {
                Decision::Drop => self.drop_one(),
                Decision::Send(posting) => {
                    self.take_token().await;
                    // Before the node has joined, or while the server is away, the queue holds what it can: the loop waits, it does not run.
                    self.client.transport().usable().await;
                    let began = Instant::now();
                    let registry = self.client.registry().clone();
                    registry.begin("events", "event");
                    let sent = self.send(&posting, &inbox).await;
                    let sent = sent.as_ref().map(|()| "sent").map_err(String::as_str);
                    registry.record("events", "event", began, sent);
                }
            }
        }
    }

    /// `Err`: it was dropped, and why.
    async fn send(&mut self, posting: &Posting, inbox: &Reader<Event>) -> Result<(), String> {
        for attempt in 1..=ATTEMPTS {
            // The server may have gone since.
            self.client.transport().usable().await;
            match self.post(posting).await {
                Ok(()) => return Ok(()),
                Err(error) if error.class() == Class::Retry && attempt < ATTEMPTS => {
                    inbox.retried();
                    tokio::time::sleep(RETRY_DELAY).await;
                }
                Err(error) => {
                    let why = error.report();
                    tracing::debug!("event dropped: {why}");
                    self.drop_one();
                    return Err(why);
                }
            }
        }
        // The last attempt left the loop above.
        Ok(())
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
        self.meters.count(&DROPPED, &[]);
    }
}
