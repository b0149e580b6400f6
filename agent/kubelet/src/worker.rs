//! One pod's worker: the loop that turns desired and observed into actions, and what happened into a status.
//!
//! In: [`Input`] by watch (latest wins), pokes when the runtime changed, the ends of its own jobs. Out: actions on the node, status
//! patches, events, a view for the servers. It decides nothing: `pods::plan`, `pods::status`, `pods::probe` do.
//!
//! ```text
//! input ─┐                     ┌─> look at the runtime (after every action and poke)
//! poke ──┼─> step: observe, plan, cancel, act, probe, publish ──> jobs (one set, each with its own end)
//! jobs ──┘                     └─> sleep until the plan's or a probe's time
//! ```
//!
//! Invariants: nothing is planned on an observation older than the last finished action that changed the runtime; while the
//! runtime is away nothing is planned at all, probes and status go on; one status patch at a time; the loop itself never
//! waits for IO.
//!
//! A look is four or more CRI calls, and the runtime announces each step of a pod's start while the action that causes it is
//! under way. Such a poke is put off until that action's end, which looks anyway, or for [`PUT_OFF`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kedge_pods::action::{Action, ActionKey};
use kedge_pods::memory::PodMemory;
use kedge_pods::observed::ObservedPod;
use kedge_pods::pod::{self, Fate, Inputs};
use kedge_pods::resize::Pending;
use kedge_pods::{probe, status};
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::execute::{self, Context, LastWord, Shared};
use crate::handle::{Asked, PodView};
use crate::meters::{self, Beginning};
use crate::node::Node;

mod jobs;
mod publish;

use jobs::Job;
use publish::Publisher;

/// What the supervisor wants of a pod.
#[derive(Clone, Debug)]
pub struct Input {
    pub pod: Arc<Pod>,
    pub fate: Fate,
    /// The pod asks for resources that the node cannot give; `pod` has those it was granted before.
    pub pending: Option<Pending>,
    /// The object that carries the status in the API: the pod's own, or a static pod's mirror.
    pub api: Option<ApiCopy>,
}

/// The API's copy of a pod's status.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiCopy {
    pub uid: String,
    pub status: PodStatus,
}

/// The worker's mailbox.
pub struct Mailbox {
    pub input: watch::Receiver<Arc<Input>>,
    pub poke: Arc<Notify>,
}

/// How long after a failed look at the runtime the next one is.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long a poke waits at most for the end of an action that is probably its cause.
const PUT_OFF: Duration = Duration::from_secs(1);
/// Without a reason the runtime is still looked at this often (±50 % per pod): events and the observer's lists tell of every change of state, so this is for
/// what they do not show (upstream's never asks again while they say nothing).
const RESYNC: Duration = Duration::from_secs(300);
/// Without a reason everything is still decided anew this often.
const DECIDE: Duration = Duration::from_secs(120);

/// The state of the loop.
pub struct Worker {
    node: Arc<Node>,
    uid: String,
    mailbox: Mailbox,
    shared: Arc<Shared>,
    memory: PodMemory,
    observed: Arc<ObservedPod>,
    messages: execute::Messages,
    look: Look,
    publisher: Publisher,
    jobs: JoinSet<Job>,
    actions: BTreeMap<ActionKey, (u64, AbortHandle)>,
    next_job: u64,
    refresh: Refresh,
    /// Labels and annotations at the last look.
    shown: Shown,
    facts: watch::Receiver<Arc<kedge_pods::resolve::NodeFacts>>,
    ended: bool,
    /// Nobody asked for the pod when this worker began.
    orphan: bool,
    /// The last attempt at cleaning up failed.
    stuck: bool,
    /// Until it runs, if it was not yet when this worker began.
    beginning: Option<Beginning>,
}

type Shown = [Option<BTreeMap<String, String>>; 2];

fn shown(pod: &Pod) -> Shown {
    let meta = &pod.metadata;
    [meta.labels.clone(), meta.annotations.clone()]
}

/// How current the observation is.
#[derive(Debug, Default)]
struct Look {
    /// An observation exists.
    once: bool,
    /// A look is under way.
    busy: bool,
    /// Something changed since the last look began.
    wanted: bool,
    /// Actions that ended so far. An observation begun before the last of them must not be planned on.
    ends: u64,
    /// How many had ended when the look under way began.
    ends_at_begin: u64,
    /// How many had ended when the look behind the current observation began.
    ends_seen: u64,
    /// The last look failed; the next is due then.
    again_at: Option<Instant>,
    /// When a look is due even if nothing is heard.
    resync_at: Option<Instant>,
    /// A poke came during an action: when it is looked at even if the action has not ended.
    put_off: Option<Instant>,
}

/// When payload volumes are brought up to date.
#[derive(Debug, Default)]
struct Refresh {
    at: Option<Instant>,
    busy: bool,
}

impl Worker {
    /// A worker that knows nothing yet. Its first act is to look.
    pub fn new(node: Arc<Node>, uid: String, mailbox: Mailbox) -> Self {
        let input = mailbox.input.borrow().clone();
        let published = input.api.as_ref().map(|copy| copy.status.clone());
        let known = published.as_ref().map(execute::published_messages);
        let facts = node.facts.clone();
        let phase = published.as_ref().and_then(|s| s.phase.as_deref());
        let beginning = matches!(phase, None | Some("Pending")).then(Beginning::new);
        Self {
            node,
            uid,
            mailbox,
            shared: Arc::new(Shared::default()),
            memory: PodMemory::default(),
            observed: Arc::new(ObservedPod::default()),
            messages: known.unwrap_or_default(),
            look: Look {
                wanted: true,
                ..Look::default()
            },
            publisher: Publisher::new(published),
            jobs: JoinSet::new(),
            actions: BTreeMap::new(),
            next_job: 0,
            refresh: Refresh::default(),
            shown: shown(&input.pod),
            facts,
            ended: false,
            orphan: input.fate == Fate::Removed,
            stuck: false,
            beginning,
        }
    }

    /// Runs until the pod is gone from configuration, runtime and disk, or the supervisor is gone (then everything keeps
    /// running on the node).
    pub async fn run(mut self) {
        loop {
            let wake = self.step();
            if self.ended {
                break;
            }
            let timer = tokio::time::sleep_until(wake);
            // Every arm only waits; a job's end is taken out of the set by the same poll that reports it.
            tokio::select! {
                changed = self.mailbox.input.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    self.on_input();
                }
                // New facts about the node (its addresses) show in statuses.
                Ok(()) = self.facts.changed() => {}
                () = self.mailbox.poke.notified() => self.on_poke(),
                Some(done) = self.jobs.join_next() => {
                    // An abandoned job reports that it was cancelled; its key was dropped when it was.
                    if let Ok(job) = done {
                        self.on_job(job);
                    }
                }
                () = timer => {}
            }
        }
        self.node.views.send_modify(|views| {
            views.remove(&self.uid);
        });
        meters::forget(&self.node.meters, &self.input().pod);
    }

    fn input(&self) -> Arc<Input> {
        self.mailbox.input.borrow().clone()
    }

    /// New labels or annotations may be shown by a downward API volume.
    fn on_input(&mut self) {
        let input = self.mailbox.input.borrow_and_update().clone();
        let shown = shown(&input.pod);
        if shown != self.shown && self.refresh.at.is_some() {
            self.refresh.at = Some(Instant::now());
        }
        self.shown = shown;
    }

    /// One round. Answers when the next is due at the latest.
    fn step(&mut self) -> Instant {
        let input = self.input();
        let facts = self.node.facts();
        self.begin_look();
        let mut wake = Instant::now() + DECIDE;
        // While a look is under way its end is what wakes: a time that has passed would make this loop spin until then.
        if !self.look.busy {
            for at in [self.look.again_at, self.look.resync_at, self.look.put_off]
                .into_iter()
                .flatten()
            {
                wake = wake.min(at);
            }
        }
        if !self.look.once {
            return wake;
        }
        self.publisher.follow(input.api.as_ref());
        let now = self.node.clock.now();
        let inputs = Inputs {
            pod: &input.pod,
            fate: &input.fate,
            observed: &self.observed,
            published: self.publisher.published(),
            node: &facts,
            pending: input.pending.as_ref(),
        };
        let mut events = self.memory.observe(&inputs, now);
        let mut started = Vec::new();
        let mut cancelled = Vec::new();
        let mut wake_mono = None;
        if self.look.is_current() {
            let plan = kedge_pods::plan::plan(&inputs, &self.memory, now);
            wake_mono = plan.wake_at;
            for key in plan.cancel {
                self.memory.cancelled(&key);
                cancelled.push(key);
            }
            for action in plan.actions {
                events.extend(self.memory.started(&inputs, &action, now));
                started.push(action);
            }
        }
        let (runs, probe_events) = self.memory.probes.due(&inputs, now);
        events.extend(probe_events);
        let status = status::generate(&inputs, &self.memory, now);
        if status.phase.as_deref() == Some("Running")
            && let Some(beginning) = self.beginning.take()
        {
            beginning.runs(&self.node.meters, &input.pod, now.wall);
        }
        if !started.is_empty()
            && let Some(beginning) = &mut self.beginning
        {
            beginning.acts(&self.node.meters);
        }
        let probe_at = self.memory.probes.wake_at();
        let ending = self.memory.end().is_some();
        self.node.events(&input.pod, &self.uid, events);
        for key in cancelled {
            if let Some((_, handle)) = self.actions.remove(&key) {
                handle.abort();
            }
        }
        self.view(&input, &status);
        let finishing =
            started.contains(&Action::Finish) || self.actions.contains_key(&ActionKey::Finish);
        let last_word = self.publish(&input, status, finishing, &mut wake);
        self.start(&input, &facts, started, last_word);
        for run in runs {
            self.start_probe(run);
        }
        self.begin_refresh(&input, ending, &mut wake);
        for at in [wake_mono, probe_at].into_iter().flatten() {
            wake = wake.min(Instant::now() + at.saturating_sub(now.mono));
        }
        wake
    }

    fn context(&self, input: &Input) -> Context {
        Context {
            node: self.node.clone(),
            pod: input.pod.clone(),
            facts: self.node.facts(),
            observed: self.observed.clone(),
            shared: self.shared.clone(),
        }
    }

    fn view(&self, input: &Input, status: &PodStatus) {
        let pod = &input.pod;
        let view = PodView {
            pod: pod.clone(),
            status: status.clone(),
            observed: self.observed.clone(),
            is_static: pod::is_static(pod),
            asked: match (&input.fate, self.orphan) {
                (_, true) => Asked::Never,
                (Fate::Removed, false) => Asked::NoLonger,
                _ => Asked::Yes,
            },
            stuck: self.stuck,
        };
        let uid = &self.uid;
        self.node.views.send_if_modified(|views| {
            let same = views.get(uid).is_some_and(|old| {
                old.status == view.status
                    && old.asked == view.asked
                    && old.stuck == view.stuck
                    && Arc::ptr_eq(&old.pod, &view.pod)
                    && Arc::ptr_eq(&old.observed, &view.observed)
            });
            if !same {
                views.insert(uid.clone(), Arc::new(view));
            }
            !same
        });
    }

    /// Sends the status if it differs; with `finishing`, hands it to the last action instead.
    fn publish(
        &mut self,
        input: &Input,
        status: PodStatus,
        finishing: bool,
        wake: &mut Instant,
    ) -> Option<LastWord> {
        let copy = input.api.as_ref();
        if finishing {
            return Some(self.publisher.last_word(copy, status));
        }
        // A pod that is gone from the configuration has nobody to report to.
        if input.fate == Fate::Removed {
            return None;
        }
        if let Some(patch) = self.publisher.next(copy, status, wake) {
            let api = self.node.api.clone();
            let pod = input.pod.clone();
            let uid = copy.map_or_else(String::new, |copy| copy.uid.clone());
            let meters = self.node.meters.clone();
            self.jobs.spawn(async move {
                let (namespace, name) = (pod::namespace(&pod), pod::name(&pod));
                let began = Instant::now();
                let patched = api.patch_status(namespace, name, &uid, patch).await;
                if patched.is_ok() {
                    meters.observe(&meters::STATUS_SYNC, &[], began.elapsed());
                }
                Job::Patched(Box::new(patched))
            });
        }
        None
    }

    fn start(
        &mut self,
        input: &Input,
        facts: &Arc<kedge_pods::resolve::NodeFacts>,
        actions: Vec<Action>,
        mut last_word: Option<LastWord>,
    ) {
        for action in actions {
            tracing::debug!(pod = pod::name(&input.pod), uid = self.uid, %action, "act");
            self.next_job += 1;
            let (id, key) = (self.next_job, action.key());
            let mut context = self.context(input);
            context.facts = facts.clone();
            let last = if action == Action::Finish {
                last_word.take()
            } else {
                None
            };
            let done = key.clone();
            let handle = self.jobs.spawn(async move {
                let outcome = execute::run(context, action, last).await;
                Job::Action(id, done, outcome)
            });
            self.actions.insert(key, (id, handle));
        }
    }

    fn start_probe(&mut self, run: probe::Run) {
        let (node, pod) = (self.node.clone(), self.input().pod.clone());
        self.jobs.spawn(async move {
            let began = Instant::now();
            let runtime = node.runtime.as_ref();
            let answer = crate::check::probe(runtime, &run.id, &run.handler, run.timeout).await;
            let (key, took) = (&run.key, began.elapsed());
            meters::probed(&node.meters, &pod, &key.container, key.kind, &answer, took);
            Job::Probe(run, answer)
        });
    }
}

#[cfg(test)]
mod tests;
