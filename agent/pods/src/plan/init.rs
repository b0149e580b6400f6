//! Init containers, one at a time and in order; sidecars among them count as done once they have started.

use super::Planner;
use crate::observed::{ObservedContainer, State};
use crate::pod::{self, Kind, Member};

impl Planner<'_> {
    /// Steps for init containers and sidecars in this sandbox. True: all have done their part, app containers may start.
    pub(super) fn init(&mut self, sandbox: &str) -> bool {
        let spec = pod::spec(self.inputs.pod);
        let members: Vec<Member<'_>> = pod::init(spec).collect();
        // Once an app container exists in this sandbox, initialization is over, whatever became of the init containers.
        let initialized = pod::apps(spec).any(|m| self.here(m.name(), sandbox).is_some());
        let frontier = if initialized {
            members.len()
        } else {
            members
                .iter()
                .rposition(|m| self.here(m.name(), sandbox).is_some())
                .unwrap_or(0)
        };
        let mut done = true;
        for (index, member) in members.iter().enumerate() {
            if index > frontier && !done {
                break;
            }
            let passed = match member.kind {
                Kind::Sidecar => self.sidecar(member, sandbox, index <= frontier),
                _ if initialized => true,
                _ => self.init_once(member, sandbox),
            };
            done &= passed;
            if !passed && index >= frontier {
                break;
            }
        }
        done || initialized
    }

    /// The newest instance in this sandbox that was started.
    pub(super) fn here(&self, name: &str, sandbox: &str) -> Option<&ObservedContainer> {
        self.inputs
            .observed
            .instances(name)
            .into_iter()
            .find(|c| c.sandbox_id == sandbox && !c.never_started())
    }

    fn init_once(&mut self, member: &Member<'_>, sandbox: &str) -> bool {
        let Some(c) = self.here(member.name(), sandbox).cloned() else {
            self.start(member, sandbox, false);
            return false;
        };
        match c.state {
            State::Exited if c.exit_code == 0 => true,
            State::Exited => {
                let spec = pod::spec(self.inputs.pod);
                if pod::restart_policy(spec, Kind::Init).again(c.exit_code) {
                    self.start(member, sandbox, false);
                }
                false
            }
            _ => {
                self.keep(member, &c);
                false
            }
        }
    }

    /// A sidecar runs for the pod's whole life; it has done its part once it has started (its startup probe passed).
    fn sidecar(&mut self, member: &Member<'_>, sandbox: &str, reached: bool) -> bool {
        let Some(c) = self.here(member.name(), sandbox).cloned() else {
            self.start(member, sandbox, false);
            return false;
        };
        match c.state {
            State::Exited => {
                self.start(member, sandbox, false);
                false
            }
            _ => {
                let kept = self.keep(member, &c);
                kept && reached && self.memory.probes.started(member.name())
            }
        }
    }
}
