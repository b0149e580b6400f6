//! The task that owns the connections: hands out streams, dials when none is free, backs off when dialling fails.
//!
//! One dial at a time; everyone who waits shares its result, so eight loops that lost their connection cost one attempt, not eight.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2::SendRequest;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::connect::{self, Opened};
use super::{Command, Lease, Reach, Slot, Target};
use crate::backoff::{Backoff, Jitter};
use crate::clock::WallClock;
use crate::error::DialError;

/// More than this many full connections mean a leak of ours; further requests then queue inside HTTP/2.
const MAX_CONNECTIONS: usize = 4;
const BACKOFF_BASE: Duration = Duration::from_millis(250);
/// Short, so that a node is back within seconds of its API server.
const BACKOFF_CAP: Duration = Duration::from_secs(10);

type Waiter = oneshot::Sender<Result<Lease, DialError>>;
type Dial = Pin<Box<dyn Future<Output = Result<Opened, DialError>> + Send>>;

struct Connection {
    send: SendRequest<Full<Bytes>>,
    taken: Arc<AtomicUsize>,
    limit: Arc<AtomicUsize>,
}

impl Connection {
    fn has_room(&self) -> bool {
        self.taken.load(Ordering::Relaxed) < self.limit.load(Ordering::Relaxed)
    }

    fn lease(&self, target: &Arc<Target>) -> Lease {
        Lease {
            send: self.send.clone(),
            slot: Slot::take(&self.taken),
            target: target.clone(),
        }
    }
}

pub(super) struct Pool {
    target: Option<Arc<Target>>,
    clock: WallClock,
    connections: Vec<Connection>,
    waiters: VecDeque<Waiter>,
    dial: Option<Dial>,
    not_before: Instant,
    backoff: Backoff,
    reach: watch::Sender<Reach>,
    /// Counts up to cut every connection made so far.
    cut: watch::Sender<u64>,
}

impl Pool {
    pub(super) fn new(
        target: Option<Target>,
        clock: WallClock,
        jitter: Jitter,
        reach: watch::Sender<Reach>,
    ) -> Self {
        Self {
            target: target.map(Arc::new),
            clock,
            connections: Vec::new(),
            waiters: VecDeque::new(),
            dial: None,
            not_before: Instant::now(),
            backoff: Backoff::new(BACKOFF_BASE, BACKOFF_CAP, jitter),
            reach,
            cut: watch::Sender::new(0),
        }
    }

    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        loop {
            self.start_dial_if_needed();
            let must_wait = self.dial.is_none() && !self.waiters.is_empty();
            tokio::select! {
                // Cancel-safe: `recv` loses nothing; the dial is kept in `self` and polled by reference; the sleep is to a
                // fixed instant.
                command = inbox.recv() => match command {
                    Some(command) => self.command(command),
                    None => return,
                },
                result = poll_dial(&mut self.dial) => self.dialled(result),
                () = tokio::time::sleep_until(self.not_before), if must_wait => {}
            }
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Lease(waiter) => self.lease(waiter),
            Command::Target(target) => self.retarget(target),
            Command::Reset => self.reset(),
        }
    }

    fn lease(&mut self, waiter: Waiter) {
        let Some(target) = self.target.clone() else {
            let _ = waiter.send(Err(DialError::NotJoined));
            return;
        };
        self.connections.retain(|c| !c.send.is_closed());
        self.drop_idle_extras();
        let full = self.connections.len() >= MAX_CONNECTIONS;
        let free = self.connections.iter().find(|c| full || c.has_room());
        match free {
            Some(connection) => {
                let _ = waiter.send(Ok(connection.lease(&target)));
            }
            None => self.waiters.push_back(waiter),
        }
    }

    /// A second connection was for a burst: it goes when the first has room again and it is unused.
    fn drop_idle_extras(&mut self) {
        if self.connections.first().is_some_and(Connection::has_room) {
            let mut first = true;
            self.connections
                .retain(|c| std::mem::take(&mut first) || c.taken.load(Ordering::Relaxed) > 0);
        }
    }

    fn retarget(&mut self, target: Option<Target>) {
        self.target = target.map(Arc::new);
        // Dropping the handles lets running streams finish and then closes the connection.
        self.connections.clear();
        self.dial = None;
        self.backoff.reset();
        self.not_before = Instant::now();
        if self.target.is_some() {
            self.reach.send_replace(Reach::Connecting);
        } else {
            self.reach.send_replace(Reach::Idle);
            for waiter in self.waiters.drain(..) {
                let _ = waiter.send(Err(DialError::NotJoined));
            }
        }
    }

    fn reset(&mut self) {
        self.cut.send_modify(|n| *n += 1);
        self.connections.clear();
        self.dial = None;
        self.backoff.reset();
        self.not_before = Instant::now();
    }

    fn start_dial_if_needed(&mut self) {
        self.waiters.retain(|w| !w.is_closed());
        let due = self.not_before <= Instant::now();
        if let (Some(target), None, false, true) =
            (&self.target, &self.dial, self.waiters.is_empty(), due)
        {
            self.dial = Some(Box::pin(connect::connect(
                target.clone(),
                self.clock.clone(),
                self.cut.subscribe(),
            )));
        }
    }

    fn dialled(&mut self, result: Result<Opened, DialError>) {
        self.dial = None;
        match result {
            Ok(opened) => self.connected(opened),
            Err(error) => self.failed(error),
        }
    }

    fn connected(&mut self, opened: Opened) {
        self.backoff.reset();
        self.reach.send_replace(Reach::Connected);
        self.connections.push(Connection {
            send: opened.send,
            limit: opened.limit,
            taken: Arc::new(AtomicUsize::new(0)),
        });
        for waiter in std::mem::take(&mut self.waiters) {
            self.lease(waiter);
        }
    }

    fn failed(&mut self, error: DialError) {
        self.not_before = Instant::now() + self.backoff.next_delay();
        for waiter in self.waiters.drain(..) {
            let _ = waiter.send(Err(error.clone()));
        }
        let failures = self.backoff.failures();
        let unreachable = Reach::Unreachable { error, failures };
        if *self.reach.borrow() != unreachable {
            self.reach.send_replace(unreachable);
        }
    }
}

/// The running dial, or never.
async fn poll_dial(dial: &mut Option<Dial>) -> Result<Opened, DialError> {
    match dial {
        Some(dial) => dial.as_mut().await,
        None => std::future::pending().await,
    }
}
