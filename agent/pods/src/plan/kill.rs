//! Ending one container: preStop hook within the grace, then StopContainer with what is left, at least two seconds.

use std::time::Duration;

use super::Planner;
use crate::action::{Action, ActionKey, Hook, KillReason};
use crate::hook;
use crate::observed::ObservedContainer;
use crate::pod;
use crate::probe;

/// The least the runtime is given between the signals.
const MIN_STOP: Duration = Duration::from_secs(2);

impl Planner<'_> {
    /// Steps towards the end of a container before `deadline` (monotonic).
    pub(super) fn kill(
        &mut self,
        c: &ObservedContainer,
        reason: KillReason,
        message: &str,
        deadline: Duration,
    ) {
        let known = self.memory.kills.get(&c.id);
        let deadline = known.map_or(deadline, |k| k.deadline.min(deadline));
        let hook_key = ActionKey::Hook(c.id.clone(), Hook::PreStop);
        if let Some(flight) = self.memory.in_flight.get(&hook_key) {
            let until = flight.until.unwrap_or(deadline).min(deadline);
            if until > self.now.mono {
                self.wake(until);
                return;
            }
            self.cancel(hook_key);
        } else if !known.is_some_and(|k| k.hook_done)
            && deadline > self.now.mono
            && let Some(action) = self.pre_stop(c, reason, message, deadline)
        {
            self.cancel_post_start(c);
            self.plan.actions.push(action);
            self.wake(deadline);
            return;
        }
        self.cancel_post_start(c);
        self.stop(c, reason, message, deadline);
    }

    fn stop(
        &mut self,
        c: &ObservedContainer,
        reason: KillReason,
        message: &str,
        deadline: Duration,
    ) {
        let grace = deadline.saturating_sub(self.now.mono).max(MIN_STOP);
        let key = ActionKey::Kill(c.id.clone());
        if let Some(flight) = self.memory.in_flight.get(&key) {
            // A shorter grace replaces the call that is waiting; a second is the API's resolution.
            let sooner = self.now.mono + grace + Duration::from_secs(1);
            if flight.until.is_none_or(|until| until <= sooner) {
                return;
            }
            self.plan.cancel.push(key);
        } else if self.delayed(&key) {
            return;
        }
        self.plan.actions.push(Action::KillContainer {
            container: c.name.clone(),
            id: c.id.clone(),
            grace,
            reason,
            message: message.to_owned(),
        });
    }

    fn pre_stop(
        &self,
        c: &ObservedContainer,
        reason: KillReason,
        message: &str,
        deadline: Duration,
    ) -> Option<Action> {
        if !c.running() {
            return None;
        }
        let member = pod::member(pod::spec(self.inputs.pod), &c.name)?;
        let pre_stop = member.spec.lifecycle.as_ref()?.pre_stop.as_ref()?;
        let ip = probe::pod_ips(self.inputs).first().copied();
        // A hook that cannot be resolved is no reason to keep the container: it is killed without.
        let handler =
            hook::of_lifecycle(pre_stop, &member.spec, ip, &self.inputs.node.version).ok()?;
        Some(Action::RunHook {
            container: c.name.clone(),
            id: c.id.clone(),
            hook: Hook::PreStop,
            handler,
            timeout: Some(deadline.saturating_sub(self.now.mono)),
            reason,
            message: message.to_owned(),
        })
    }

    fn cancel_post_start(&mut self, c: &ObservedContainer) {
        self.cancel(ActionKey::Hook(c.id.clone(), Hook::PostStart));
    }
}
