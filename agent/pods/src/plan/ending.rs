//! The way out: kill in order, stop the sandbox, clean up, let the API object go, leave nothing.

use std::time::Duration;

use super::Planner;
use crate::action::{Action, ActionKey, KillReason};
use crate::memory::End;
use crate::observed::{ObservedContainer, State};
use crate::pod::{self, Kind};

impl Planner<'_> {
    pub(super) fn ending(&mut self) {
        let Some(end) = self.memory.end else {
            return;
        };
        self.cancel_beginnings();
        if self.inputs.observed.may_run() || self.starting() {
            self.kill_in_order(end);
            return;
        }
        if self.stop_sandboxes() {
            self.leave(end);
        }
    }

    /// Pulls, volume waits and postStart hooks are abandoned; creates and starts run to their end and are undone then.
    fn cancel_beginnings(&mut self) {
        let keys: Vec<ActionKey> = self
            .memory
            .in_flight
            .keys()
            .filter(|k| matches!(k, ActionKey::Prepare | ActionKey::Pull(_)))
            .cloned()
            .collect();
        self.plan.cancel.extend(keys);
    }

    fn starting(&self) -> bool {
        let unseen = !self.memory.unseen.is_empty();
        let keys = self.memory.in_flight.keys();
        unseen
            || keys
                .into_iter()
                .any(|k| matches!(k, ActionKey::CreateSandbox | ActionKey::Start(_)))
    }

    /// App, init and ephemeral containers at once, then sidecars, last first. When the time is up, all that is left.
    fn kill_in_order(&mut self, end: End) {
        let spec = pod::spec(self.inputs.pod);
        let sidecars: Vec<String> = pod::init(spec)
            .filter(|m| m.kind == Kind::Sidecar)
            .map(|m| m.name().to_owned())
            .collect();
        let alive: Vec<&ObservedContainer> = self
            .inputs
            .observed
            .containers
            .iter()
            .filter(|c| matches!(c.state, State::Running | State::Unknown))
            .collect();
        let (last, first): (Vec<_>, Vec<_>) =
            alive.into_iter().partition(|c| sidecars.contains(&c.name));
        let over = end.deadline <= self.now.mono;
        for c in &first {
            self.end_container(c, end.deadline);
        }
        if !first.is_empty() && !over {
            self.wake(end.deadline);
            return;
        }
        for name in sidecars.iter().rev() {
            let mut any = false;
            for c in last.iter().filter(|c| c.name == *name) {
                any = true;
                self.end_container(c, end.deadline);
            }
            if any && !over {
                self.wake(end.deadline);
                return;
            }
        }
    }

    fn end_container(&mut self, c: &ObservedContainer, deadline: Duration) {
        let message = format!("Stopping container {}", c.name);
        self.kill(c, KillReason::PodEnds, &message, deadline);
    }

    /// True once no sandbox runs.
    fn stop_sandboxes(&mut self) -> bool {
        let mut down = true;
        for s in &self.inputs.observed.sandboxes {
            if s.ready && !self.memory.stopped.contains(&s.id) {
                down = false;
                self.act(Action::StopSandbox { id: s.id.clone() });
            }
        }
        down
    }

    fn leave(&mut self, end: End) {
        let left = self.inputs.observed.leftovers;
        if left.volumes || left.cgroup || self.busy(&ActionKey::CleanUp) {
            self.act(Action::CleanUp);
            return;
        }
        if end.removed {
            self.forget();
        } else if end.deleted && !self.memory.finished && !pod::is_static(self.inputs.pod) {
            self.act(Action::Finish);
        }
    }

    /// Runtime objects go with their sandbox; containers without one go by themselves.
    fn forget(&mut self) {
        let observed = self.inputs.observed;
        for s in &observed.sandboxes {
            self.act(Action::RemoveSandbox { id: s.id.clone() });
        }
        for c in &observed.containers {
            if !observed.sandboxes.iter().any(|s| s.id == c.sandbox_id) && !c.never_started() {
                self.act(Action::RemoveContainer {
                    container: c.name.clone(),
                    id: c.id.clone(),
                });
            }
        }
        if observed.sandboxes.is_empty() && observed.containers.is_empty() {
            self.act(Action::Forget);
        }
    }
}
