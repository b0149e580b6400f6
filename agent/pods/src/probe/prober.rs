//! One probe of one container instance. See the table in the parent.

use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;

use super::{Answer, ProbeKind, seconds};
use crate::Now;
use crate::observed::ObservedContainer;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Prober {
    kind: ProbeKind,
    id: String,
    timing: Timing,
    state: State,
    verdict: Option<bool>,
    /// The last answer and how often it came in a row.
    run: (bool, u32),
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Timing {
    period: Duration,
    success: u32,
    failure: u32,
}

/// What was published before this prober existed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Published {
    /// The instance was reported by an earlier run of the agent.
    pub known: bool,
    pub verdict: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Opens into waiting, not before this time.
    Gated {
        not_before: Duration,
    },
    Waiting {
        until: Duration,
    },
    Running {
        since: Duration,
    },
    Held,
}

impl Prober {
    pub fn new(
        kind: ProbeKind,
        instance: &ObservedContainer,
        probe: &Probe,
        published: Published,
        now: Now,
    ) -> Prober {
        let delay = Duration::from_secs(
            probe
                .initial_delay_seconds
                .and_then(|s| u64::try_from(s).ok())
                .unwrap_or(0),
        );
        // The wall clock only shortens the delay by the container's age; a step can at most bring the first probe forward.
        let mut first = now.mono + delay.saturating_sub(now.since_wall(instance.started_at));
        let timing = Timing::of(probe);
        if published.known {
            // The agent restarted: a hundred pods' probes must not all run in its first second.
            first += spread(&instance.id, kind, timing.period);
        }
        let published = published.verdict;
        let (state, verdict) = match kind {
            ProbeKind::Startup if published == Some(true) => (State::Held, Some(true)),
            ProbeKind::Startup => (State::Waiting { until: first }, None),
            ProbeKind::Liveness => (State::Gated { not_before: first }, Some(true)),
            ProbeKind::Readiness => (
                State::Gated { not_before: first },
                Some(published.unwrap_or(false)),
            ),
        };
        Prober {
            kind,
            id: instance.id.clone(),
            timing,
            state,
            verdict,
            run: (false, 0),
        }
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn verdict(&self) -> Option<bool> {
        match self.kind {
            // A liveness probe that has not failed for good says "alive".
            ProbeKind::Liveness => Some(self.verdict.unwrap_or(true)),
            _ => self.verdict,
        }
    }

    /// The pod's object may change while the instance runs.
    pub fn follow(&mut self, probe: &Probe) {
        self.timing = Timing::of(probe);
    }

    pub fn gate(&mut self, open: bool, now: Now) {
        if let State::Gated { not_before } = self.state
            && open
        {
            self.state = State::Waiting {
                until: not_before.max(now.mono),
            };
        }
    }

    pub fn due(&self, now: Now) -> bool {
        matches!(self.state, State::Waiting { until } if until <= now.mono)
    }

    pub fn begin(&mut self, now: Now) {
        self.state = State::Running { since: now.mono };
    }

    pub fn wake_at(&self) -> Option<Duration> {
        match self.state {
            State::Waiting { until } => Some(until),
            _ => None,
        }
    }

    pub fn record(&mut self, answer: &Answer, now: Now) {
        if let State::Running { since } = self.state {
            self.state = State::Waiting {
                until: (since + self.timing.period).max(now.mono),
            };
        }
        let good = match answer {
            Answer::Success | Answer::Warning(_) => true,
            Answer::Failure(_) => false,
            Answer::Error(_) => return,
        };
        self.run = if self.run.0 == good {
            (good, self.run.1.saturating_add(1))
        } else {
            (good, 1)
        };
        let threshold = if good {
            self.timing.success
        } else {
            self.timing.failure
        };
        if self.run.1 < threshold {
            return;
        }
        self.verdict = Some(good);
        let final_word = match self.kind {
            ProbeKind::Startup => true,
            ProbeKind::Liveness => !good,
            ProbeKind::Readiness => false,
        };
        if final_word {
            self.state = State::Held;
        }
    }
}

impl Timing {
    fn of(probe: &Probe) -> Timing {
        let count = |v: Option<i32>, default| {
            v.and_then(|v| u32::try_from(v).ok())
                .filter(|v| *v > 0)
                .unwrap_or(default)
        };
        Timing {
            period: seconds(probe.period_seconds, 10),
            success: count(probe.success_threshold, 1),
            failure: count(probe.failure_threshold, 3),
        }
    }
}

/// A share of the period that depends on the instance only (FNV-1a).
fn spread(id: &str, kind: ProbeKind, period: Duration) -> Duration {
    let seed = 0xcbf2_9ce4_8422_2325_u64 ^ kind as u64;
    let hash = id.bytes().fold(seed, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
    });
    let share = (hash >> 32) as u32;
    Duration::from_secs_f64(period.as_secs_f64() * f64::from(share) / f64::from(u32::MAX))
}
