//! Starting one container: wait out the back-off, have volumes and image ready, start, run postStart.

use super::Planner;
use crate::action::{Action, ActionKey, Hook, KillReason};
use crate::hook;
use crate::memory::PostStart;
use crate::observed::ObservedContainer;
use crate::pod::{self, Member};
use crate::probe;

impl Planner<'_> {
    /// Steps towards a new instance in this sandbox. `blocked`: an earlier container is still on its way, so fetch the
    /// image but do not start. True: under way, so later ones are blocked; false: waiting for a back-off, go on.
    pub(super) fn start(&mut self, member: &Member<'_>, sandbox: &str, blocked: bool) -> bool {
        let name = member.name();
        let key = ActionKey::Start(name.to_owned());
        if self.busy(&key) {
            return true;
        }
        if self.crashed_recently(name) || self.delayed(&key) || self.leftover(name) {
            return false;
        }
        if !self.memory.prepared {
            self.act(Action::Prepare);
            return true;
        }
        let Some(image) = self.memory.images.get(name) else {
            return self.pull(member);
        };
        if blocked {
            return true;
        }
        let action = Action::StartContainer {
            container: name.to_owned(),
            kind: member.kind,
            attempt: self.attempt(name),
            sandbox: sandbox.to_owned(),
            image: image.reference.clone(),
        };
        self.act(action);
        true
    }

    fn pull(&mut self, member: &Member<'_>) -> bool {
        let image = member.spec.image.clone().unwrap_or_default();
        let key = ActionKey::Pull(member.name().to_owned());
        if !self.busy(&key)
            && let Some(b) = self
                .memory
                .pulls
                .get(&image)
                .filter(|b| b.waiting(self.now.mono))
        {
            self.wake(b.until);
            self.wake_for_reason(member.name());
            return false;
        }
        self.act(Action::PullImage {
            container: member.name().to_owned(),
            image,
            policy: pod::pull_policy(&member.spec),
        });
        true
    }

    /// The status turns from `ErrImagePull` to `ImagePullBackOff` at a moment nothing else wakes for.
    fn wake_for_reason(&mut self, name: &str) {
        if let Some(w) = self.memory.waiting.get(name) {
            let at = w.since + crate::status::reason::SHOW_ERROR;
            if at > self.now.mono {
                self.wake(at);
            }
        }
    }

    fn crashed_recently(&mut self, name: &str) -> bool {
        let ready_at = self.memory.crashes.get(name).map(|c| c.ready_at);
        match ready_at {
            Some(at) if at > self.now.mono => {
                self.wake(at);
                true
            }
            _ => false,
        }
    }

    /// A container that never started is being removed first: its attempt number is used again.
    fn leftover(&self, name: &str) -> bool {
        self.inputs
            .observed
            .containers
            .iter()
            .any(|c| c.name == name && c.never_started())
    }

    /// The next restart count: one more than the last instance that ran, in the runtime or in the published status.
    fn attempt(&self, name: &str) -> u32 {
        let observed = self
            .inputs
            .observed
            .latest_started(name)
            .map(|c| c.attempt + 1);
        let published = crate::status::published(self.inputs, name).map_or(0, |s| {
            let count = u32::try_from(s.restart_count).unwrap_or(0);
            // With an id the count is that instance's; without one it already counts the start to come.
            count + u32::from(s.container_id.is_some())
        });
        // Without instances the runtime lost them: the published count goes on.
        observed.unwrap_or(published)
    }

    /// The postStart hook of a running container. True: due or under way.
    pub(super) fn post_start(&mut self, member: &Member<'_>, c: &ObservedContainer) -> bool {
        match self.memory.post_start.get(&c.id) {
            None => false,
            Some(PostStart::Failed(message)) => {
                let message = format!("FailedPostStartHook: {message}");
                self.kill_alone(c, member, KillReason::PostStartFailed, &message);
                true
            }
            Some(PostStart::Due) => {
                self.run_post_start(member, c);
                true
            }
        }
    }

    fn run_post_start(&mut self, member: &Member<'_>, c: &ObservedContainer) {
        let Some(hook) = member
            .spec
            .lifecycle
            .as_ref()
            .and_then(|l| l.post_start.as_ref())
        else {
            return;
        };
        let ip = probe::pod_ips(self.inputs).first().copied();
        match hook::of_lifecycle(hook, &member.spec, ip, &self.inputs.node.version) {
            Ok(handler) => self.act(Action::RunHook {
                container: c.name.clone(),
                id: c.id.clone(),
                hook: Hook::PostStart,
                handler,
                timeout: None,
                reason: KillReason::PostStartFailed,
                message: String::new(),
            }),
            Err(e) => {
                let message = format!("FailedPostStartHook: {e}");
                self.kill_alone(c, member, KillReason::PostStartFailed, &message);
            }
        }
    }

    /// Kills a container of a pod that lives on, with the grace of the probe or the pod.
    pub(super) fn kill_alone(
        &mut self,
        c: &ObservedContainer,
        member: &Member<'_>,
        reason: KillReason,
        message: &str,
    ) {
        let of_probe = match reason {
            KillReason::LivenessFailed => member.spec.liveness_probe.as_ref(),
            KillReason::StartupFailed => member.spec.startup_probe.as_ref(),
            _ => None,
        }
        .and_then(|p| p.termination_grace_period_seconds)
        .and_then(|s| u64::try_from(s).ok())
        .map(std::time::Duration::from_secs);
        let grace = of_probe.unwrap_or_else(|| crate::memory::spec_grace(self.inputs.pod));
        self.kill(c, reason, message, self.now.mono + grace);
    }
}
