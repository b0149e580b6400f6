//! What a worker remembers about its pod between plans: actions under way, back-off, probe verdicts, why something waits.
//!
//! In: observations, starts and ends of actions. Out: plain data that [`crate::plan`] and [`crate::status`] read, and
//! events. It starts empty, also after an agent restart: everything here is either rebuilt from what the runtime and the
//! API report (crash counts, the end of the pod), or costs at most one retry.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::ResourceRequirements;

use crate::Now;
use crate::action::{Action, ActionKey, Event, Hook, KillReason, Outcome};
use crate::backoff::{Backoff, CRASH_CAP, CRASH_FIRST, RETRY_CAP, RETRY_FIRST};
use crate::observed::State;
use crate::pod::{self, Inputs};
use crate::probe;

mod crash;
mod end;
mod events;

pub use crash::Crash;
pub use end::End;
pub(crate) use end::spec_grace;
pub(crate) use events::describe;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodMemory {
    /// Probers and their verdicts; run them through here.
    pub probes: probe::Set,
    pub(crate) in_flight: BTreeMap<ActionKey, Flight>,
    pub(crate) prepared: bool,
    /// By container: an image that is there and not used yet.
    pub(crate) images: BTreeMap<String, Image>,
    /// By image.
    pub(crate) pulls: BTreeMap<String, Backoff>,
    /// By container: why it waits.
    pub(crate) waiting: BTreeMap<String, Waiting>,
    pub(crate) retries: BTreeMap<ActionKey, Backoff>,
    /// By container.
    pub(crate) crashes: BTreeMap<String, Crash>,
    /// By container id: a postStart hook that is due, or failed.
    pub(crate) post_start: BTreeMap<String, PostStart>,
    /// Containers that were started and not observed since (id -> sandbox): what was observed is older than they are.
    pub(crate) unseen: BTreeMap<String, String>,
    /// By container id.
    pub(crate) kills: BTreeMap<String, Kill>,
    /// By container id: resources given since it was created.
    pub(crate) resized: BTreeMap<String, ResourceRequirements>,
    /// By container id: why a resize did not go through.
    pub(crate) resize_errors: BTreeMap<String, String>,
    /// Sandboxes stopped by this worker.
    pub(crate) stopped: BTreeSet<String>,
    /// The pod is on its way out.
    pub(crate) end: Option<End>,
    /// Why the pod failed as a whole (deadline, eviction): reason, message.
    pub(crate) verdict: Option<(String, String)>,
    /// The API object was deleted by [`Action::Finish`].
    pub(crate) finished: bool,
    /// The pod was seen before anything asked for its end.
    pub(crate) seen_alive: bool,
    /// The first look at the pod: both clocks.
    pub(crate) first: Option<Now>,
}

/// An action under way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Flight {
    /// Kills and preStop hooks: when they give up (monotonic).
    pub until: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Image {
    /// As the pod spells it.
    pub image: String,
    pub reference: String,
}

/// The reason cache of the status.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Waiting {
    pub reason: String,
    pub message: String,
    /// Monotonic.
    pub since: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum PostStart {
    Due,
    Failed(String),
}

/// A container being killed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Kill {
    pub reason: KillReason,
    pub message: String,
    /// Monotonic.
    pub deadline: Duration,
    pub hook_done: bool,
}

impl PodMemory {
    /// Folds what was observed. Call it before every plan.
    pub fn observe(&mut self, inputs: &Inputs<'_>, now: Now) -> Vec<Event> {
        self.first.get_or_insert(now);
        self.forget_gone(inputs);
        let mut events = self.fold_exits(inputs, now);
        events.extend(self.fold_end(inputs, now));
        self.probes.sync(inputs, self.end.is_some(), now);
        events
    }

    fn forget_gone(&mut self, inputs: &Inputs<'_>) {
        let observed = inputs.observed;
        let alive: BTreeSet<&str> = observed
            .containers
            .iter()
            .filter(|c| matches!(c.state, State::Running | State::Unknown))
            .map(|c| c.id.as_str())
            .collect();
        self.kills.retain(|id, _| alive.contains(id.as_str()));
        self.resized.retain(|id, _| alive.contains(id.as_str()));
        self.resize_errors
            .retain(|id, _| alive.contains(id.as_str()));
        self.unseen.retain(|id, sandbox| {
            // A look taken between create and start may arrive after the start: it has not seen the container run.
            let seen = observed
                .containers
                .iter()
                .any(|c| c.id == *id && !c.never_started());
            !seen && observed.sandboxes.iter().any(|s| s.id == *sandbox)
        });
        let unseen = &self.unseen;
        self.post_start
            .retain(|id, _| alive.contains(id.as_str()) || unseen.contains_key(id));
        self.stopped
            .retain(|id| observed.sandboxes.iter().any(|s| s.id == *id));
        let spec = pod::spec(inputs.pod);
        self.images.retain(|name, image| {
            pod::member(spec, name).is_some_and(|m| m.spec.image.as_deref() == Some(&image.image))
        });
        for container in observed.containers.iter().filter(|c| c.running()) {
            // Once it runs, nothing waits; a failing postStart is told after the kill.
            if !matches!(
                self.post_start.get(&container.id),
                Some(PostStart::Failed(_))
            ) {
                self.waiting.remove(&container.name);
            }
        }
    }

    /// An action was begun.
    pub fn started(&mut self, inputs: &Inputs<'_>, action: &Action, now: Now) -> Vec<Event> {
        let until = match action {
            Action::KillContainer { grace, .. } => Some(now.mono + *grace),
            Action::RunHook { timeout, .. } => timeout.map(|t| now.mono + t),
            _ => None,
        };
        self.in_flight.insert(action.key(), Flight { until });
        self.announce(inputs, action, now)
    }

    /// An action was abandoned because a plan listed it under `cancel`.
    pub fn cancelled(&mut self, key: &ActionKey) {
        self.in_flight.remove(key);
        if let ActionKey::Hook(id, Hook::PreStop) = key
            && let Some(kill) = self.kills.get_mut(id)
        {
            kill.hook_done = true;
        }
    }

    /// An action ended.
    pub fn finished(
        &mut self,
        inputs: &Inputs<'_>,
        key: &ActionKey,
        outcome: Outcome,
        now: Now,
    ) -> Vec<Event> {
        self.in_flight.remove(key);
        let events = events::ended(inputs, key, &outcome);
        if let Outcome::Failed { reason, message } = &outcome {
            self.failed(inputs, key, reason, message, now);
        } else {
            self.retries.remove(key);
            self.succeeded(inputs, key, outcome);
        }
        events
    }

    fn succeeded(&mut self, inputs: &Inputs<'_>, key: &ActionKey, outcome: Outcome) {
        match (key, outcome) {
            (ActionKey::Prepare, _) => self.prepared = true,
            (ActionKey::CleanUp, _) => self.prepared = false,
            (ActionKey::Finish, _) => self.finished = true,
            (ActionKey::StopSandbox(id), _) => {
                self.stopped.insert(id.clone());
            }
            (ActionKey::Pull(name), Outcome::Image { reference, .. }) => {
                self.pulled(inputs, name, reference)
            }
            (ActionKey::Start(name), Outcome::Started { id }) => {
                self.images.remove(name);
                self.waiting.remove(name);
                if let Some(sandbox) = inputs.observed.sandbox() {
                    self.unseen.insert(id.clone(), sandbox.id.clone());
                }
                let hook = pod::member(pod::spec(inputs.pod), name)
                    .and_then(|m| m.spec.lifecycle.as_ref()?.post_start.clone());
                if hook.is_some() {
                    self.post_start.insert(id, PostStart::Due);
                }
            }
            (ActionKey::Resize(id), Outcome::Resized(resources)) => {
                self.resize_errors.remove(id);
                self.resized.insert(id.clone(), *resources);
            }
            (ActionKey::Hook(id, Hook::PostStart), _) => {
                self.post_start.remove(id);
            }
            (ActionKey::Hook(id, Hook::PreStop), _) => {
                self.cancelled(&ActionKey::Hook(id.clone(), Hook::PreStop))
            }
            _ => {}
        }
    }

    fn pulled(&mut self, inputs: &Inputs<'_>, name: &str, reference: String) {
        let Some(image) =
            pod::member(pod::spec(inputs.pod), name).and_then(|m| m.spec.image.clone())
        else {
            return;
        };
        self.waiting.remove(name);
        self.pulls.remove(&image);
        self.images
            .insert(name.to_owned(), Image { image, reference });
    }

    fn failed(
        &mut self,
        inputs: &Inputs<'_>,
        key: &ActionKey,
        reason: &str,
        message: &str,
        now: Now,
    ) {
        match key {
            ActionKey::Pull(name) => {
                self.wait(name, reason, message, now);
                if let Some(image) =
                    pod::member(pod::spec(inputs.pod), name).and_then(|m| m.spec.image.clone())
                {
                    let previous = self.pulls.get(&image).copied();
                    let next = Backoff::next(previous, now.mono, CRASH_FIRST, CRASH_CAP);
                    self.pulls.insert(image, next);
                }
                return;
            }
            ActionKey::Start(name) => self.wait(name, reason, message, now),
            ActionKey::Resize(id) => {
                self.resize_errors.insert(id.clone(), message.to_owned());
            }
            ActionKey::Hook(id, Hook::PostStart) => {
                if let Some(container) = inputs.observed.containers.iter().find(|c| c.id == *id) {
                    self.wait(
                        &container.name,
                        crate::status::reason::POST_START_HOOK,
                        message,
                        now,
                    );
                }
                self.post_start
                    .insert(id.clone(), PostStart::Failed(message.to_owned()));
                return;
            }
            ActionKey::Hook(id, Hook::PreStop) => {
                return self.cancelled(&ActionKey::Hook(id.clone(), Hook::PreStop));
            }
            _ => {}
        }
        let previous = self.retries.get(key).copied();
        let next = Backoff::next(previous, now.mono, RETRY_FIRST, RETRY_CAP);
        self.retries.insert(key.clone(), next);
    }

    fn wait(&mut self, name: &str, reason: &str, message: &str, now: Now) {
        self.waiting.insert(
            name.to_owned(),
            Waiting {
                reason: reason.to_owned(),
                message: message.to_owned(),
                since: now.mono,
            },
        );
    }

    /// Is the pod on its way out, and how?
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    pub(crate) fn under_way(&self, key: &ActionKey) -> bool {
        self.in_flight.contains_key(key)
    }

    /// Nothing of the pod runs or is about to, and something asked for its end.
    pub fn ended(&self, inputs: &Inputs<'_>) -> bool {
        let starting = self
            .in_flight
            .keys()
            .any(|k| matches!(k, ActionKey::Start(_) | ActionKey::CreateSandbox));
        self.end.is_some() && !inputs.observed.may_run() && !starting && self.unseen.is_empty()
    }
}
