//! The phase, from the container statuses, as upstream's table has it.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, PodSpec};

use super::containers::Lists;
use crate::pod::{self, Kind, RestartPolicy};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl Phase {
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Pending => "Pending",
            Phase::Running => "Running",
            Phase::Succeeded => "Succeeded",
            Phase::Failed => "Failed",
        }
    }

    pub fn parse(text: &str) -> Option<Phase> {
        [
            Phase::Pending,
            Phase::Running,
            Phase::Succeeded,
            Phase::Failed,
        ]
        .into_iter()
        .find(|p| p.as_str() == text)
    }

    pub fn is_final(self) -> bool {
        matches!(self, Phase::Succeeded | Phase::Failed)
    }
}

#[derive(Default)]
struct Count {
    init_pending: usize,
    init_failed: usize,
    waiting: usize,
    running: usize,
    stopped: usize,
    succeeded: usize,
}

/// `ended`: nothing of the pod runs and nothing will.
pub(super) fn compute(spec: &PodSpec, lists: &Lists, ended: bool) -> Phase {
    let count = count(spec, lists);
    let policy = RestartPolicy::of(spec);
    let all_done = count.stopped > 0 && count.running == 0 && count.waiting == 0;
    if count.init_failed > 0 && (policy == RestartPolicy::Never || ended) {
        return Phase::Failed;
    }
    if count.init_pending > 0 || count.init_failed > 0 || count.waiting > 0 {
        return Phase::Pending;
    }
    if !all_done {
        return if count.running > 0 {
            Phase::Running
        } else {
            Phase::Pending
        };
    }
    let good = count.stopped == count.succeeded;
    match policy {
        _ if ended => done(good),
        RestartPolicy::Always => Phase::Running,
        RestartPolicy::OnFailure if !good => Phase::Running,
        _ => done(good),
    }
}

fn done(good: bool) -> Phase {
    if good {
        Phase::Succeeded
    } else {
        Phase::Failed
    }
}

fn count(spec: &PodSpec, lists: &Lists) -> Count {
    let mut count = Count::default();
    // Once an app container has run, sidecars no longer hold the pod in Pending.
    let begun = lists.apps.iter().any(has_run);
    for (member, status) in pod::init(spec).zip(&lists.init) {
        match member.kind {
            Kind::Sidecar if begun => {}
            Kind::Sidecar if status.started != Some(true) => count.init_pending += 1,
            Kind::Sidecar => {}
            _ => init(status, begun, &mut count),
        }
    }
    for status in &lists.apps {
        app(status, &mut count);
    }
    count
}

fn init(status: &ContainerStatus, begun: bool, count: &mut Count) {
    let failed = |s: &Option<ContainerState>| exit_code(s).map(|code| code != 0);
    match failed(&status.state).or_else(|| failed(&status.last_state)) {
        Some(false) => {}
        // An init container whose record is gone has done its part if an app container ran after it.
        _ if begun => {}
        Some(true) => count.init_failed += 1,
        None => count.init_pending += 1,
    }
}

fn app(status: &ContainerStatus, count: &mut Count) {
    let state = status.state.as_ref();
    if state.is_some_and(|s| s.running.is_some()) {
        count.running += 1;
        return;
    }
    match exit_code(&status.state).or_else(|| exit_code(&status.last_state)) {
        Some(code) => {
            count.stopped += 1;
            // One that waits to be started again is not a success, whatever its last run said.
            let terminated = state.is_some_and(|s| s.terminated.is_some());
            count.succeeded += usize::from(terminated && code == 0);
        }
        None => count.waiting += 1,
    }
}

fn exit_code(state: &Option<ContainerState>) -> Option<i32> {
    Some(state.as_ref()?.terminated.as_ref()?.exit_code)
}

fn has_run(status: &ContainerStatus) -> bool {
    let ran = |s: &Option<ContainerState>| {
        s.as_ref()
            .is_some_and(|s| s.running.is_some() || s.terminated.is_some())
    };
    ran(&status.state) || ran(&status.last_state)
}
