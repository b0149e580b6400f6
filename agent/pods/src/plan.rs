//! From desired and observed to the next steps of one pod.
//!
//! In: [`Inputs`], memory (read only), the time. Out: [`Plan`]: independent actions, running actions to abandon, when to look
//! again. A reached state plans nothing. Deliberately absent: statuses ([`crate::status`]) and what an action does.
//!
//! Order while the pod lives: leftovers that never started → sandbox → ephemeral containers → init containers one by one →
//! app containers in order. Order at its end: app containers → sidecars, last first → sandbox → volumes → API object → the rest.

use std::time::Duration;

use crate::Now;
use crate::action::{Action, ActionKey};
use crate::memory::PodMemory;
use crate::pod::Inputs;

mod ending;
mod init;
mod kill;
mod running;
mod start;

/// The next steps of one pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub actions: Vec<Action>,
    /// Interruptible actions under way that are no longer wanted: abandon them before starting `actions`.
    pub cancel: Vec<ActionKey>,
    /// Plan again at this time (monotonic) even if nothing happens.
    pub wake_at: Option<Duration>,
}

/// Decides. See the module.
pub fn plan(inputs: &Inputs<'_>, memory: &PodMemory, now: Now) -> Plan {
    let mut planner = Planner {
        inputs,
        memory,
        now,
        plan: Plan::default(),
    };
    planner.remove_never_started();
    if memory.end.is_some() {
        planner.ending();
    } else {
        planner.running();
    }
    planner.plan
}

struct Planner<'a> {
    inputs: &'a Inputs<'a>,
    memory: &'a PodMemory,
    now: Now,
    plan: Plan,
}

impl Planner<'_> {
    /// Adds an action unless it is under way or waits to be tried again.
    fn act(&mut self, action: Action) {
        let key = action.key();
        if self.memory.under_way(&key) || self.delayed(&key) {
            return;
        }
        self.plan.actions.push(action);
    }

    /// Does a failed action still have to wait? Then the plan is to be made again when it need not.
    fn delayed(&mut self, key: &ActionKey) -> bool {
        match self.memory.retries.get(key) {
            Some(b) if b.waiting(self.now.mono) => {
                self.wake(b.until);
                true
            }
            _ => false,
        }
    }

    fn wake(&mut self, at: Duration) {
        self.plan.wake_at = Some(self.plan.wake_at.map_or(at, |w| w.min(at)));
    }

    fn cancel(&mut self, key: ActionKey) {
        if self.memory.under_way(&key) {
            self.plan.cancel.push(key);
        }
    }

    fn busy(&self, key: &ActionKey) -> bool {
        self.memory.under_way(key)
    }

    /// The one rule for containers created and never started (an agent died between the two calls, or the start failed
    /// without a trace): remove them; the attempt number is used again.
    fn remove_never_started(&mut self) {
        for c in &self.inputs.observed.containers {
            if c.never_started() && !self.busy(&ActionKey::Start(c.name.clone())) {
                self.act(Action::RemoveContainer {
                    container: c.name.clone(),
                    id: c.id.clone(),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests;
