//! What runs beside the worker's loop, and what its ends mean.

use std::sync::Arc;
use std::time::Duration;

use kedge_pods::action::{ActionKey, Class, Outcome};
use kedge_pods::observed::{Leftovers, ObservedPod};
use kedge_pods::pod::Inputs;
use kedge_pods::probe;
use kedge_pods::resolve::Reason;
use tokio::time::Instant;

use super::{Input, LOOK_AGAIN, PUT_OFF, RESYNC, Worker};
use crate::execute::{self, Messages, Refreshed};
use crate::meters;
use crate::node::{Node, jitter};
use crate::observe;
use crate::outbound::ApiError;

/// The end of a job.
pub(super) enum Job {
    Looked(kedge_cri::Result<(ObservedPod, Messages)>),
    /// Number, key, outcome: a number that is no longer the key's belongs to an abandoned action.
    Action(u64, ActionKey, Outcome),
    Probe(probe::Run, probe::Answer),
    Patched(Box<Result<k8s_openapi::api::core::v1::Pod, ApiError>>),
    Refreshed(Result<Refreshed, Reason>),
}

/// After a refresh that failed, or could not renew a token.
const REFRESH_AGAIN: Duration = Duration::from_secs(15);

impl super::Look {
    /// Whether the observation may be planned on.
    pub(super) fn is_current(&self) -> bool {
        self.once && self.ends_seen == self.ends && self.again_at.is_none()
    }
}

impl Worker {
    /// Looks at the runtime if there is a reason to and no look is under way.
    pub(super) fn begin_look(&mut self) {
        if self.look.busy {
            return;
        }
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= Instant::now());
        if [self.look.again_at, self.look.resync_at, self.look.put_off]
            .into_iter()
            .any(due)
        {
            self.look.wanted = true;
        }
        if !self.look.wanted {
            return;
        }
        self.look.busy = true;
        self.look.wanted = false;
        self.look.put_off = None;
        self.look.ends_at_begin = self.look.ends;
        let resync = RESYNC.mul_f64(0.5 + jitter(&self.uid));
        self.look.resync_at = Some(Instant::now() + resync);
        let node = self.node.clone();
        let uid = self.uid.clone();
        let known = self.messages.clone();
        self.jobs.spawn(async move {
            let began = Instant::now();
            let looked = look(&node, &uid, &known).await;
            let took = began.elapsed();
            node.meters.observe(&meters::RELIST_POD, &[], took);
            Job::Looked(looked)
        });
    }

    /// The runtime changed, perhaps by what this worker does to it just now.
    pub(super) fn on_poke(&mut self) {
        if self.actions.keys().any(|key| key.class() == Class::Whole) {
            self.look
                .put_off
                .get_or_insert_with(|| Instant::now() + PUT_OFF);
        } else {
            self.look.wanted = true;
        }
    }

    pub(super) fn on_job(&mut self, job: Job) {
        match job {
            Job::Looked(result) => self.on_looked(result),
            Job::Action(id, key, outcome) => self.on_action(id, key, outcome),
            Job::Probe(run, answer) => self.on_probe(&run, answer),
            Job::Patched(result) => self.publisher.patched(*result),
            Job::Refreshed(result) => self.on_refreshed(result),
        }
    }

    fn on_looked(&mut self, result: kedge_cri::Result<(ObservedPod, Messages)>) {
        self.look.busy = false;
        match result {
            Ok((observed, read)) => {
                self.messages.extend(read);
                self.messages
                    .retain(|id, _| observed.containers.iter().any(|c| c.id == *id));
                self.look.again_at = None;
                if *self.observed != observed {
                    let pod = &self.input().pod;
                    meters::ended(&self.node.meters, pod, &self.observed, &observed);
                    self.observed = Arc::new(observed);
                }
                self.look.once = true;
                self.look.ends_seen = self.look.ends_at_begin;
            }
            Err(error) => {
                tracing::debug!(uid = self.uid, %error, "look at the runtime");
                self.look.again_at = Some(Instant::now() + LOOK_AGAIN);
            }
        }
    }

    fn on_action(&mut self, id: u64, key: ActionKey, outcome: Outcome) {
        let done = !matches!(outcome, Outcome::Failed { .. });
        // A look under way began before the end of a preparation and may not have seen what it made.
        if done && key.spares_the_runtime() && !self.look.busy {
            self.expect_leftovers(&key);
        } else {
            // Whatever it was, the runtime may look different now.
            self.look.wanted = true;
            self.look.ends += 1;
        }
        if self.actions.get(&key).is_none_or(|(known, _)| *known != id) {
            return;
        }
        self.actions.remove(&key);
        if let Some(beginning) = &mut self.beginning {
            beginning.acted(&outcome);
        }
        if let Outcome::Failed { reason, message } = &outcome {
            tracing::info!(uid = self.uid, ?key, reason, message, "action failed");
        }
        if key == ActionKey::Prepare && done {
            let first = self.node.settings.volume_refresh;
            self.refresh.at = Some(Instant::now() + first.mul_f64(0.5 + jitter(&self.uid) / 2.0));
        }
        if key == ActionKey::CleanUp {
            self.stuck = !done;
        }
        if key == ActionKey::Forget && done {
            self.ended = true;
        }
        let input = self.input();
        let facts = self.node.facts();
        let now = self.node.clock.now();
        let inputs = Inputs {
            pod: &input.pod,
            fate: &input.fate,
            observed: &self.observed,
            published: self.publisher.published(),
            node: &facts,
            pending: input.pending.as_ref(),
        };
        let events = self.memory.finished(&inputs, &key, outcome, now);
        self.node.events(&input.pod, &self.uid, events);
    }

    /// What a preparation makes is known without a look: a pod that ends right after it is still cleaned up.
    fn expect_leftovers(&mut self, key: &ActionKey) {
        if *key == ActionKey::Prepare {
            Arc::make_mut(&mut self.observed).leftovers = Leftovers {
                volumes: true,
                cgroup: self.node.cgroups.is_some(),
            };
        }
    }

    fn on_probe(&mut self, run: &probe::Run, answer: probe::Answer) {
        let now = self.node.clock.now();
        let events = self.memory.probes.record(run, answer, now);
        let input = self.input();
        self.node.events(&input.pod, &self.uid, events);
    }

    fn on_refreshed(&mut self, result: Result<Refreshed, Reason>) {
        self.refresh.busy = false;
        let wait = match result {
            Ok(done) => {
                let period = self.node.settings.volume_refresh;
                execute::next_refresh(done, period, REFRESH_AGAIN, self.node.clock.wall_seconds())
            }
            Err(reason) => {
                tracing::warn!(uid = self.uid, reason = reason.message, "volume refresh");
                REFRESH_AGAIN
            }
        };
        self.refresh.at = Some(Instant::now() + wait);
    }

    /// Keeps payload volumes up to date while the pod lives. After an agent restart nothing is prepared again, so the first
    /// sight of a running pod counts as its preparation.
    pub(super) fn begin_refresh(&mut self, input: &Input, ending: bool, wake: &mut Instant) {
        if ending || !execute::has_payload(&input.pod) {
            self.refresh.at = None;
            return;
        }
        if self.refresh.at.is_none() && self.observed.may_run() && !self.refresh.busy {
            let spread = self.node.settings.volume_refresh.mul_f64(jitter(&self.uid));
            self.refresh.at = Some(Instant::now() + spread);
        }
        let Some(at) = self.refresh.at else {
            return;
        };
        // The volumes' permit would keep them apart anyway; a pod in preparation needs no refresh.
        let busy = self.refresh.busy || self.actions.contains_key(&ActionKey::Prepare);
        if busy {
            return;
        }
        if at > Instant::now() {
            *wake = (*wake).min(at);
            return;
        }
        self.refresh.busy = true;
        self.refresh.at = None;
        let context = self.context(input);
        self.jobs
            .spawn(async move { Job::Refreshed(execute::refresh(context).await) });
    }
}

async fn look(
    node: &Node,
    uid: &str,
    known: &Messages,
) -> kedge_cri::Result<(ObservedPod, Messages)> {
    let mut observed = observe::pod(node.runtime.as_ref(), uid).await?;
    observed.leftovers = leftovers(node, uid).await;
    let read = execute::read_messages(&node.lanes, &mut observed, known).await;
    Ok((observed, read))
}

async fn leftovers(node: &Node, uid: &str) -> Leftovers {
    let pod_dir = node.pod_dir(uid);
    let groups = execute::cgroup_paths(uid);
    let tree = node.cgroups.clone();
    let work = move || Leftovers {
        volumes: crate::volumes::leftovers(&pod_dir),
        cgroup: tree.is_some_and(|tree| groups.iter().any(|group| tree.exists(group))),
    };
    // If it cannot be told, nothing may be forgotten.
    node.lanes.files.run(work).await.unwrap_or(Leftovers {
        volumes: true,
        cgroup: true,
    })
}
