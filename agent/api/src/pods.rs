//! Writing about pods: statuses, the final delete, mirror pods.
//!
//! In: statuses decided by `pods`, by submission. Out: patches to `/status`, at most one under way per pod, the latest wins. What to send
//! is decided in `pods::patch` (pure), against the newer of the feed's object and the last answer: against the feed alone, a status
//! that goes there and back again before the feed has caught up would look unchanged and be lost.

pub mod mirror;
pub mod patch;

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::backoff::{Backoff, Jitter};
use crate::client::Client;
use crate::decode::{ObjectKey, OwnPods};
use crate::error::{ApiError, Class};
use crate::watch::store::Snapshot;

/// Patches under way at once: a node with 110 pods after a boot should not queue them one round trip each.
const PARALLEL: usize = 8;
const RETRY_BASE: Duration = Duration::from_millis(500);
const RETRY_CAP: Duration = Duration::from_secs(10);

/// A pod's status as it should be in the API.
#[derive(Clone, Debug)]
pub struct StatusUpdate {
    pub namespace: String,
    pub name: String,
    /// Of the API's object (a mirror pod's own uid).
    pub uid: String,
    pub status: PodStatus,
}

/// What became of an update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// This status or a later one is in the API.
    Stored,
    /// The pod is not there any more, or another of the same name is.
    PodGone,
    /// The API server refuses the status; the text says why. Sending it again is useless.
    Refused(String),
}

struct Submission {
    update: StatusUpdate,
    done: oneshot::Sender<Written>,
}

/// Takes status updates. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct StatusQueue {
    submissions: mpsc::Sender<Submission>,
}

impl std::fmt::Debug for Submission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Submission({}/{})",
            self.update.namespace, self.update.name
        )
    }
}

impl StatusQueue {
    pub(crate) fn new(
        client: Client,
        feed: watch::Receiver<Snapshot<OwnPods>>,
        jitter: Jitter,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (submissions, inbox) = mpsc::channel(64);
        let writer = Writer {
            client,
            feed,
            jitter,
            slots: BTreeMap::new(),
            running: JoinSet::new(),
        };
        (Self { submissions }, writer.run(inbox))
    }

    /// Hands over an update and waits until it, or a later one of the same pod, is settled. Retries are inside. Dropping the future
    /// does not take the update back. `None` at shutdown.
    pub async fn write(&self, update: StatusUpdate) -> Option<Written> {
        let (done, settled) = oneshot::channel();
        let submission = Submission { update, done };
        self.submissions.send(submission).await.ok()?;
        settled.await.ok()
    }
}

/// What is known about one pod's status, by uid.
struct Slot {
    key: ObjectKey,
    /// Not sent yet.
    next: Option<PodStatus>,
    waiting: Vec<oneshot::Sender<Written>>,
    running: bool,
    not_before: Instant,
    backoff: Backoff,
    /// The API's last answer to a patch.
    answered: Option<Pod>,
}

struct Attempt {
    uid: String,
    status: PodStatus,
    waiting: Vec<oneshot::Sender<Written>>,
    result: Result<Option<Pod>, ApiError>,
}

struct Writer {
    client: Client,
    feed: watch::Receiver<Snapshot<OwnPods>>,
    jitter: Jitter,
    slots: BTreeMap<String, Slot>,
    running: JoinSet<Attempt>,
}

impl Writer {
    async fn run(mut self, mut inbox: mpsc::Receiver<Submission>) {
        loop {
            let wake = self.start();
            tokio::select! {
                // Cancel-safe: `recv` and `join_next` lose nothing, the sleep is to a fixed instant.
                submission = inbox.recv() => match submission {
                    Some(submission) => self.submit(submission),
                    None => return,
                },
                Some(finished) = self.running.join_next() => match finished {
                    Ok(attempt) => self.finish(attempt),
                    Err(error) => tracing::error!(%error, "a status patch ended badly"),
                },
                () = sleep_until(wake) => {}
            }
        }
    }

    fn submit(&mut self, submission: Submission) {
        let Submission { update, done } = submission;
        self.forget_gone_pods();
        let slot = self.slots.entry(update.uid).or_insert_with(|| Slot {
            key: ObjectKey::new(&update.namespace, &update.name),
            next: None,
            waiting: Vec::new(),
            running: false,
            not_before: Instant::now(),
            backoff: Backoff::new(RETRY_BASE, RETRY_CAP, self.jitter.clone()),
            answered: None,
        });
        slot.next = Some(update.status);
        slot.waiting.push(done);
    }

    /// Keeps the table as small as the number of pods.
    fn forget_gone_pods(&mut self) {
        let items = self.feed.borrow().items.clone();
        self.slots.retain(|uid, slot| {
            let known = items
                .get(&slot.key)
                .is_some_and(|p| p.metadata.uid.as_deref() == Some(uid));
            known || slot.running || slot.next.is_some()
        });
    }

    /// Starts what is due; returns when to look again.
    fn start(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let snapshot = self.feed.borrow().clone();
        let mut wake: Option<Instant> = None;
        for (uid, slot) in &mut self.slots {
            if slot.running || slot.next.is_none() {
                continue;
            }
            if slot.not_before > now {
                wake = Some(wake.map_or(slot.not_before, |w| w.min(slot.not_before)));
                continue;
            }
            if self.running.len() >= PARALLEL {
                break;
            }
            if let Some(status) = slot.next.take() {
                slot.running = true;
                let waiting = std::mem::take(&mut slot.waiting);
                let base = base(slot, uid, &snapshot);
                let attempt = attempt(
                    self.client.clone(),
                    slot.key.clone(),
                    uid.clone(),
                    base,
                    status,
                    waiting,
                );
                self.running.spawn(attempt);
            }
        }
        wake
    }

    fn finish(&mut self, attempt: Attempt) {
        let Attempt {
            uid,
            status,
            waiting,
            result,
        } = attempt;
        let Some(slot) = self.slots.get_mut(&uid) else {
            return;
        };
        slot.running = false;
        let written = match result {
            Ok(answer) => {
                slot.backoff.reset();
                slot.answered = answer.or(slot.answered.take());
                Written::Stored
            }
            Err(error) => match error.class() {
                Class::ObjectGone => {
                    slot.next = None;
                    Written::PodGone
                }
                Class::Permanent => {
                    tracing::error!("{}", error.report());
                    Written::Refused(error.report())
                }
                _ => return slot.again(status, waiting, &error),
            },
        };
        for done in waiting {
            let _ = done.send(written.clone());
        }
        if written == Written::PodGone {
            for done in slot.waiting.drain(..) {
                let _ = done.send(written.clone());
            }
        }
    }
}

impl Slot {
    /// Tries again later, unless something newer was submitted meanwhile.
    fn again(
        &mut self,
        status: PodStatus,
        waiting: Vec<oneshot::Sender<Written>>,
        error: &ApiError,
    ) {
        if self.next.is_none() {
            self.next = Some(status);
        }
        self.waiting.splice(0..0, waiting);
        self.not_before = Instant::now() + self.backoff.next_delay();
        if self.backoff.failures() == 1 {
            tracing::warn!("{}; trying again", error.report());
        }
    }
}

/// The status in the API, as far as this node knows; `None` sends everything (a mirror pod just made, or another pod took the name: then
/// the uid in the patch makes the API server say so).
fn base(slot: &Slot, uid: &str, snapshot: &Snapshot<OwnPods>) -> Option<PodStatus> {
    let seen = snapshot.items.get(&slot.key).map(|pod| &**pod);
    let seen = seen.filter(|p| p.metadata.uid.as_deref() == Some(uid));
    let newest = [seen, slot.answered.as_ref()]
        .into_iter()
        .flatten()
        .max_by_key(|pod| version(pod))?;
    Some(newest.status.clone().unwrap_or_default())
}

/// Resource versions of one kind are comparable numbers.
fn version(pod: &Pod) -> u64 {
    let version = pod.metadata.resource_version.as_deref();
    version.and_then(|v| v.parse().ok()).unwrap_or(0)
}

async fn attempt(
    client: Client,
    key: ObjectKey,
    uid: String,
    base: Option<PodStatus>,
    status: PodStatus,
    waiting: Vec<oneshot::Sender<Written>>,
) -> Attempt {
    let result = match patch::status(&uid, base.as_ref(), &status) {
        None => Ok(None),
        Some(patch) => client
            .patch_status::<Pod>(Some(&key.namespace), &key.name, &patch)
            .await
            .map(Some),
    };
    Attempt {
        uid,
        status,
        waiting,
        result,
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
