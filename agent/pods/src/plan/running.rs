//! A pod that is to run: sandbox, then containers; kill what must be replaced.

use super::Planner;
use crate::action::{Action, ActionKey, KillReason};
use crate::observed::{ObservedContainer, ObservedSandbox, State};
use crate::pod::{self, Kind, Member, RestartPolicy};
use crate::resize::{self, Resize};

/// Instances kept per container: the current one and the one before, for `lastState` and `kubectl logs --previous`.
const KEEP: usize = 2;

impl Planner<'_> {
    pub(super) fn running(&mut self) {
        if let Some(at) = self.memory.active_deadline(self.inputs, self.now) {
            self.wake(at);
        }
        match self.usable_sandbox() {
            Some(sandbox) => {
                self.ephemeral(&sandbox);
                if self.init(&sandbox) {
                    self.apps(&sandbox);
                }
                self.prune(&sandbox);
            }
            None => self.replace_sandbox(),
        }
    }

    /// The newest sandbox, if it is ready, of the right network mode, has an address, and is the only one that is ready.
    fn usable_sandbox(&self) -> Option<String> {
        let host = pod::host_network(pod::spec(self.inputs.pod));
        let fits = |s: &&ObservedSandbox| s.host_network == host && (host || !s.ips.is_empty());
        let newest = self.inputs.observed.ready_sandbox().filter(fits)?;
        let ready = self
            .inputs
            .observed
            .sandboxes
            .iter()
            .filter(|s| s.ready)
            .count();
        (ready == 1 && !self.memory.stopped.contains(&newest.id)).then(|| newest.id.clone())
    }

    /// Kill what runs in old sandboxes, stop them, make a new one if there is something left to run.
    fn replace_sandbox(&mut self) {
        if self.busy(&ActionKey::CreateSandbox) {
            return;
        }
        let observed = self.inputs.observed;
        if observed.may_run() {
            for c in &observed.containers {
                if matches!(c.state, State::Running | State::Unknown) {
                    self.kill_for_sandbox(c);
                }
            }
            return;
        }
        if !self.anything_to_start() {
            return;
        }
        let mut stopping = false;
        for s in &observed.sandboxes {
            // Also those that are not ready: their network is released only by the call.
            if !self.memory.stopped.contains(&s.id) {
                stopping = true;
                self.act(Action::StopSandbox { id: s.id.clone() });
            }
        }
        if stopping {
            return;
        }
        if !self.memory.prepared {
            self.act(Action::Prepare);
            return;
        }
        let attempt = observed
            .sandboxes
            .iter()
            .map(|s| s.attempt + 1)
            .max()
            .unwrap_or(0);
        self.act(Action::CreateSandbox { attempt });
    }

    fn kill_for_sandbox(&mut self, c: &ObservedContainer) {
        let deadline = self.now.mono + crate::memory::spec_grace(self.inputs.pod);
        self.kill(
            c,
            KillReason::SandboxChanged,
            &format!(
                "Pod sandbox changed, container {} will be killed and re-created",
                c.name
            ),
            deadline,
        );
    }

    /// With `Never`, a pod that has run is not begun again; otherwise there must be a container left to run.
    fn anything_to_start(&self) -> bool {
        let spec = pod::spec(self.inputs.pod);
        let observed = self.inputs.observed;
        if RestartPolicy::of(spec) == RestartPolicy::Never {
            return !observed.containers.iter().any(|c| !c.never_started());
        }
        let ran = pod::apps(spec).any(|m| observed.latest_started(m.name()).is_some());
        !ran || pod::apps(spec).any(|m| self.wanted(&m))
    }

    /// Is this app container to run, judged by its last instance in any sandbox?
    fn wanted(&self, member: &Member<'_>) -> bool {
        let Some(c) = self.inputs.observed.latest_started(member.name()) else {
            return true;
        };
        let changed = c
            .hash()
            .is_some_and(|h| h != pod::container_hash(&member.spec));
        let policy = pod::restart_policy(pod::spec(self.inputs.pod), Kind::App);
        c.state != State::Exited || changed || policy.again(c.exit_code)
    }

    /// Ephemeral containers start once, whenever there is a sandbox, and are never restarted.
    fn ephemeral(&mut self, sandbox: &str) {
        let spec = pod::spec(self.inputs.pod);
        for member in pod::ephemeral(spec) {
            let started = self.inputs.observed.latest_started(member.name()).is_some();
            let target_up = member.target.is_none_or(|t| {
                self.inputs
                    .observed
                    .latest(t)
                    .is_some_and(ObservedContainer::running)
            });
            if !started && target_up {
                self.start(&member, sandbox, false);
            }
        }
    }

    /// App containers in order: one is begun when none before it is being fetched, started or in its postStart hook.
    fn apps(&mut self, sandbox: &str) {
        let spec = pod::spec(self.inputs.pod);
        let mut blocked = false;
        for member in pod::apps(spec) {
            let alive = self
                .inputs
                .observed
                .latest_started(member.name())
                .filter(|c| c.state != State::Exited)
                .cloned();
            if let Some(c) = alive {
                self.keep(&member, &c);
                blocked |= self.memory.post_start.contains_key(&c.id);
            } else if self.wanted(&member) {
                blocked |= self.start(&member, sandbox, blocked);
            }
        }
    }

    /// A container that runs: kill it if it must be replaced, else see to its postStart hook. True: it may stay and its
    /// hook is done.
    pub(super) fn keep(&mut self, member: &Member<'_>, c: &ObservedContainer) -> bool {
        if c.state == State::Unknown {
            let message = format!(
                "Container {} is in unknown state, try killing it before restart",
                c.name
            );
            self.kill_alone(c, member, KillReason::Unknown, &message);
            return false;
        }
        if c.hash()
            .is_some_and(|h| h != pod::container_hash(&member.spec))
        {
            let message = format!("Container {} definition changed, will be restarted", c.name);
            self.kill_alone(c, member, KillReason::SpecChanged, &message);
            return false;
        }
        match resize::resize(self.inputs, self.memory, member, c) {
            Resize::None => {}
            Resize::Restart => {
                let message = format!("Container {} resize requires restart", c.name);
                self.kill_alone(c, member, KillReason::Resized, &message);
                return false;
            }
            Resize::InPlace => self.act(Action::Resize {
                container: c.name.clone(),
                id: c.id.clone(),
            }),
        }
        if let Some((reason, message)) = self.memory.probes.failed(&c.name, &c.id) {
            self.kill_alone(c, member, reason, &message);
            return false;
        }
        !self.post_start(member, c)
    }

    /// Removes dead instances nobody asks for any more, and old sandboxes that hold none of the kept ones.
    fn prune(&mut self, sandbox: &str) {
        let observed = self.inputs.observed;
        let mut names: Vec<&str> = observed
            .containers
            .iter()
            .map(|c| c.name.as_str())
            .collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            for c in observed.instances(name).into_iter().skip(KEEP) {
                if c.state == State::Exited {
                    self.act(Action::RemoveContainer {
                        container: c.name.clone(),
                        id: c.id.clone(),
                    });
                }
            }
        }
        for s in observed
            .sandboxes
            .iter()
            .filter(|s| s.id != sandbox && !s.ready)
        {
            if !observed.containers.iter().any(|c| c.sandbox_id == s.id) {
                self.act(Action::RemoveSandbox { id: s.id.clone() });
            }
        }
    }
}
