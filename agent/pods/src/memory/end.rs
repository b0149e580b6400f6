//! The end of a pod: what asks for it, and how much time is left.
//!
//! The deadline only comes nearer. A pod seen alive gets its whole grace from the moment the deletion is learned; one that
//! is already being deleted at first sight (the agent restarted) gets what its deletion timestamp leaves. Both are counted
//! on the monotonic clock from then on, so a clock step neither kills nor delays.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use super::PodMemory;
use crate::Now;
use crate::action::Event;
use crate::pod::{self, DEFAULT_GRACE, Fate, Inputs};
use crate::time::to_nanos;

/// At least this much for a pod.
const MIN_GRACE: Duration = Duration::from_secs(1);

/// A pod on its way out.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct End {
    /// Monotonic: when the last container must be gone.
    pub deadline: Duration,
    /// The API object is being deleted.
    pub deleted: bool,
    /// The pod is gone from the configuration.
    pub removed: bool,
}

impl PodMemory {
    pub(super) fn fold_end(&mut self, inputs: &Inputs<'_>, now: Now) -> Vec<Event> {
        let mut events = Vec::new();
        self.verdict_of_fate(inputs);
        if self.verdict.is_none() && self.past_active_deadline(inputs, now) {
            let message =
                "Pod was active on the node longer than the specified deadline".to_owned();
            events.push(super::events::deadline(&message));
            self.verdict = Some(("DeadlineExceeded".into(), message));
        }
        let Some(grace) = self.asked(inputs, now) else {
            self.seen_alive = true;
            return events;
        };
        let grace = grace.max(MIN_GRACE);
        let deadline = now.mono + grace;
        let end = self.end.get_or_insert(End {
            deadline,
            ..End::default()
        });
        end.deadline = end.deadline.min(deadline);
        end.deleted |= deleted(inputs.pod);
        end.removed |= *inputs.fate == Fate::Removed;
        events
    }

    fn verdict_of_fate(&mut self, inputs: &Inputs<'_>) {
        let (Fate::Rejected { reason, message }
        | Fate::Evicted {
            reason, message, ..
        }) = inputs.fate
        else {
            return;
        };
        self.verdict
            .get_or_insert((reason.clone(), message.clone()));
    }

    /// The grace that the strongest request leaves; `None`: nothing asks for the end.
    fn asked(&self, inputs: &Inputs<'_>, now: Now) -> Option<Duration> {
        let own = spec_grace(inputs.pod);
        let deletion = deleted(inputs.pod).then(|| self.deletion_grace(inputs.pod, now));
        let fate = match inputs.fate {
            Fate::Run => None,
            Fate::Removed => Some(deletion.unwrap_or(own)),
            Fate::Rejected { .. } => Some(Duration::ZERO),
            Fate::Evicted { grace, .. } => Some(*grace),
        };
        let failed = self.verdict.is_some().then_some(own);
        let complete = crate::status::is_complete(inputs, self).then_some(own);
        [deletion, fate, failed, complete]
            .into_iter()
            .flatten()
            .min()
    }

    fn deletion_grace(&self, pod: &Pod, now: Now) -> Duration {
        let grace = pod
            .metadata
            .deletion_grace_period_seconds
            .and_then(|s| u64::try_from(s).ok())
            .map_or_else(|| spec_grace(pod), Duration::from_secs);
        if self.seen_alive || self.end.is_some() {
            return grace;
        }
        // deletionTimestamp is when the grace ends.
        let until = pod.metadata.deletion_timestamp.as_ref().map_or(0, to_nanos);
        let left = Duration::from_nanos(u64::try_from(until.saturating_sub(now.wall)).unwrap_or(0));
        left.min(grace)
    }

    fn past_active_deadline(&self, inputs: &Inputs<'_>, now: Now) -> bool {
        self.active(inputs, now)
            .is_some_and(|(limit, elapsed)| elapsed >= limit)
    }

    /// `activeDeadlineSeconds` and how long the pod has been active: what lay behind it at first sight by the wall clock,
    /// what came since by the monotonic one.
    fn active(&self, inputs: &Inputs<'_>, now: Now) -> Option<(Duration, Duration)> {
        let limit = pod::spec(inputs.pod).active_deadline_seconds?;
        let limit = Duration::from_secs(u64::try_from(limit).ok()?);
        let first = self.first?;
        let before = inputs
            .published
            .and_then(|s| s.start_time.as_ref())
            .map_or(Duration::ZERO, |t| first.since_wall(to_nanos(t)));
        Some((limit, before + now.mono.saturating_sub(first.mono)))
    }

    /// When `activeDeadlineSeconds` strikes (monotonic).
    pub(crate) fn active_deadline(&self, inputs: &Inputs<'_>, now: Now) -> Option<Duration> {
        let (limit, elapsed) = self.active(inputs, now)?;
        Some(now.mono + limit.saturating_sub(elapsed))
    }
}

fn deleted(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// `spec.terminationGracePeriodSeconds` with its default.
pub(crate) fn spec_grace(pod: &Pod) -> Duration {
    let seconds = pod::spec(pod)
        .termination_grace_period_seconds
        .and_then(|s| u64::try_from(s).ok())
        .unwrap_or(DEFAULT_GRACE);
    Duration::from_secs(seconds)
}
