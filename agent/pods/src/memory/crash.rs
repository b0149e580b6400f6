//! Crash back-off per container, counted from the runtime's instances, so that an agent restart does not forget a crash loop.

use std::time::Duration;

use super::PodMemory;
use crate::Now;
use crate::action::Event;
use crate::backoff::{QUIET, crash_delay};
use crate::observed::{ObservedContainer, State};
use crate::pod::{self, Inputs, Kind};

/// The last exit of a container and when it may run again.
#[derive(Clone, Debug, PartialEq)]
pub struct Crash {
    /// The instance that exited.
    pub id: String,
    /// Short runs in a row before this exit.
    pub count: u32,
    pub delay: Duration,
    /// Monotonic.
    pub ready_at: Duration,
}

impl PodMemory {
    /// Notices new exits and sets the delay before each container's next start.
    pub(super) fn fold_exits(&mut self, inputs: &Inputs<'_>, now: Now) -> Vec<Event> {
        let mut events = Vec::new();
        for member in pod::members(pod::spec(inputs.pod)) {
            if member.kind == Kind::Ephemeral {
                continue;
            }
            let Some(last) = inputs.observed.latest_started(member.name()) else {
                continue;
            };
            let known = self.crashes.get(member.name());
            if last.state != State::Exited || known.is_some_and(|c| c.id == last.id) {
                continue;
            }
            let crash = fold(known, last, now);
            let again =
                pod::restart_policy(pod::spec(inputs.pod), member.kind).again(last.exit_code);
            if again && crash.ready_at > now.mono && self.end.is_none() {
                events.push(super::events::back_off(inputs, &member));
            }
            self.crashes.insert(member.name().to_owned(), crash);
        }
        events
    }
}

fn fold(known: Option<&Crash>, last: &ObservedContainer, now: Now) -> Crash {
    let ran = Duration::from_nanos(
        u64::try_from(last.finished_at.saturating_sub(last.started_at)).unwrap_or(0),
    );
    let count = match known {
        _ if ran > QUIET => 0,
        Some(known) => known.count + 1,
        // The memory is new (agent restart): every earlier attempt is taken for a crash.
        None => last.attempt,
    };
    let delay = crash_delay(count);
    // The finish time only shortens the wait; a clock step can make it at most `delay` long.
    let ago = now.since_wall(last.finished_at).min(delay);
    Crash {
        id: last.id.clone(),
        count,
        delay,
        ready_at: now.mono + delay - ago,
    }
}
