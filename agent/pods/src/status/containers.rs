//! Container statuses: the last two instances of each container, and why it waits.

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, ContainerUser, LinuxContainerUser,
    ResourceRequirements, VolumeMountStatus,
};

use super::{container_id, published, reason};
use crate::Now;
use crate::backoff::CRASH_CAP;
use crate::memory::{PodMemory, Waiting};
use crate::observed::{ObservedContainer, State};
use crate::pod::{self, Inputs, Kind, Member};
use crate::resize;
use crate::time::non_zero;

/// The exit code of a container that the runtime lost.
const LOST: i32 = 137;

/// The three lists of a status, in the order of the spec.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lists {
    pub init: Vec<ContainerStatus>,
    pub apps: Vec<ContainerStatus>,
    pub ephemeral: Vec<ContainerStatus>,
}

impl Lists {
    /// The pod is over: what has no end on record gets one. Init containers only once the pod was initialized; before
    /// that, those that never started stay waiting.
    pub(super) fn close(&mut self, initialized: bool) {
        let init = self.init.iter_mut().filter(|_| initialized);
        let apps = self.apps.iter_mut().filter(|_| initialized);
        for status in init.chain(apps) {
            let terminated = status
                .state
                .as_ref()
                .is_some_and(|s| s.terminated.is_some());
            if !terminated {
                let message = "The container could not be located when the pod was terminated";
                status.state = Some(lost(message));
                status.ready = false;
                status.started = Some(false);
            }
        }
    }
}

pub(crate) fn lists(inputs: &Inputs<'_>, memory: &PodMemory, now: Now) -> Lists {
    let spec = pod::spec(inputs.pod);
    let of = |m: Member<'_>| status(inputs, memory, now, &m);
    Lists {
        init: pod::init(spec).map(of).collect(),
        apps: pod::apps(spec).map(of).collect(),
        ephemeral: pod::ephemeral(spec).map(of).collect(),
    }
}

fn status(
    inputs: &Inputs<'_>,
    memory: &PodMemory,
    now: Now,
    member: &Member<'_>,
) -> ContainerStatus {
    let instances = inputs.observed.instances(member.name());
    let mut status = match instances.first() {
        None => unseen(inputs, memory, member),
        Some(latest) => seen(inputs, memory, member, latest, &instances[1..]),
    };
    if memory.end.is_none() {
        wait(inputs, memory, now, member, &mut status);
    }
    if let Some(latest) = instances.first() {
        verdicts(memory, member, latest, &mut status);
    }
    status
}

/// No instance in the runtime: not started yet, or lost.
fn unseen(inputs: &Inputs<'_>, memory: &PodMemory, member: &Member<'_>) -> ContainerStatus {
    let mut status = ContainerStatus {
        name: member.name().to_owned(),
        image: member.spec.image.clone().unwrap_or_default(),
        state: Some(waiting(default_reason(inputs), None)),
        started: (member.kind != Kind::Ephemeral).then_some(false),
        ..ContainerStatus::default()
    };
    let Some(old) = published(inputs, member.name()) else {
        return status;
    };
    status.restart_count = old.restart_count;
    status.last_state.clone_from(&old.last_state);
    let old_state = old.state.clone().unwrap_or_default();
    if old_state.terminated.is_some() {
        // Its record was removed; what was said about it stays true.
        status = ContainerStatus {
            ready: old.ready && member.kind == Kind::Init,
            started: old.started,
            ..old.clone()
        };
    } else if old_state.running.is_some() {
        let message = "The container could not be located when the pod was deleted.  The container used to be Running";
        if memory.end.is_some() {
            status.state = Some(lost(message));
            status.container_id.clone_from(&old.container_id);
        } else {
            status.last_state = Some(lost(message));
            status.restart_count += 1;
        }
    }
    status
}

fn seen(
    inputs: &Inputs<'_>,
    memory: &PodMemory,
    member: &Member<'_>,
    latest: &ObservedContainer,
    earlier: &[&ObservedContainer],
) -> ContainerStatus {
    let resources = resize::actual(inputs, memory, member, latest)
        .map(|r| ResourceRequirements { claims: None, ..r });
    let allocated = member.spec.resources.as_ref();
    let ended = earlier.iter().find(|c| c.state == State::Exited);
    ContainerStatus {
        name: member.name().to_owned(),
        image: if latest.image.is_empty() {
            member.spec.image.clone().unwrap_or_default()
        } else {
            latest.image.clone()
        },
        image_id: latest.image_id.clone(),
        container_id: (!latest.id.is_empty()).then(|| container_id(&latest.id)),
        restart_count: i32::try_from(latest.attempt).unwrap_or(i32::MAX),
        state: Some(state(inputs, latest)),
        last_state: ended.map(|c| terminated(c)),
        allocated_resources: allocated.and_then(|r| r.requests.clone()),
        resources,
        user: latest.user.as_ref().map(user),
        volume_mounts: mounts(&member.spec),
        stop_signal: latest.stop_signal.clone(),
        started: (member.kind != Kind::Ephemeral).then_some(false),
        ..ContainerStatus::default()
    }
}

fn state(inputs: &Inputs<'_>, c: &ObservedContainer) -> ContainerState {
    match c.state {
        State::Running => ContainerState {
            running: Some(ContainerStateRunning {
                started_at: non_zero(c.started_at),
            }),
            ..ContainerState::default()
        },
        State::Exited => terminated(c),
        State::Created | State::Unknown => waiting(default_reason(inputs), None),
    }
}

fn terminated(c: &ObservedContainer) -> ContainerState {
    let default = if c.exit_code == 0 {
        "Completed"
    } else {
        "Error"
    };
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(container_id(&c.id)),
            exit_code: c.exit_code,
            reason: Some(if c.reason.is_empty() {
                default.to_owned()
            } else {
                c.reason.clone()
            }),
            message: (!c.message.is_empty()).then(|| c.message.clone()),
            signal: None,
            started_at: non_zero(c.started_at),
            finished_at: non_zero(c.finished_at),
        }),
        ..ContainerState::default()
    }
}

fn lost(message: &str) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: LOST,
            reason: Some(reason::STATUS_UNKNOWN.into()),
            message: Some(message.into()),
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    }
}

fn waiting(reason: &str, message: Option<String>) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.to_owned()),
            message,
        }),
        ..ContainerState::default()
    }
}

fn default_reason(inputs: &Inputs<'_>) -> &'static str {
    let spec = pod::spec(inputs.pod);
    if spec.init_containers.as_ref().is_none_or(Vec::is_empty) {
        reason::CONTAINER_CREATING
    } else {
        reason::POD_INITIALIZING
    }
}

/// A container that is to run but does not: the reason from the memory, its last end moved to `lastState`.
fn wait(
    inputs: &Inputs<'_>,
    memory: &PodMemory,
    now: Now,
    member: &Member<'_>,
    status: &mut ContainerStatus,
) {
    let current = status.state.clone().unwrap_or_default();
    if current.running.is_some() {
        return;
    }
    if let Some(end) = &current.terminated
        && !pod::restart_policy(pod::spec(inputs.pod), member.kind).again(end.exit_code)
    {
        return;
    }
    let Some((reason, message)) = why(inputs, memory, now, member) else {
        return;
    };
    if current.terminated.is_some() {
        status.last_state = Some(current);
    }
    status.state = Some(waiting(&reason, Some(message)));
}

fn why(
    inputs: &Inputs<'_>,
    memory: &PodMemory,
    now: Now,
    member: &Member<'_>,
) -> Option<(String, String)> {
    let name = member.name();
    let crash = memory.crashes.get(name);
    let ended = inputs
        .observed
        .latest(name)
        .is_some_and(|c| c.state == State::Exited);
    if let Some(w) = memory.waiting.get(name) {
        return Some(cached(memory, now, member, w));
    }
    // It stays a crash loop until the next instance runs, also while image and volumes are seen to.
    let crash = crash.filter(|c| ended && !c.delay.is_zero())?;
    let delay = crash.delay.min(CRASH_CAP);
    Some((
        reason::CRASH_LOOP.into(),
        format!(
            "back-off {} restarting failed container={name} pod={}",
            go_duration(delay.as_secs()),
            crate::memory::describe(inputs)
        ),
    ))
}

fn cached(memory: &PodMemory, now: Now, member: &Member<'_>, w: &Waiting) -> (String, String) {
    let image = member.spec.image.clone().unwrap_or_default();
    let in_back_off = memory.pulls.contains_key(&image) && now.mono >= w.since + reason::SHOW_ERROR;
    if in_back_off && reason::turns_into_back_off(&w.reason) {
        let message = format!(
            "Back-off pulling image {image:?}: {}: {}",
            w.reason, w.message
        );
        return (reason::IMAGE_PULL_BACK_OFF.into(), message);
    }
    (w.reason.clone(), w.message.clone())
}

/// `10s`, `1m20s`, `5m0s`: upstream prints durations so, and people grep for it.
fn go_duration(seconds: u64) -> String {
    if seconds < 60 {
        format!("{seconds}s")
    } else {
        format!("{}m{}s", seconds / 60, seconds % 60)
    }
}

/// `ready` and `started`.
fn verdicts(
    memory: &PodMemory,
    member: &Member<'_>,
    latest: &ObservedContainer,
    status: &mut ContainerStatus,
) {
    let name = member.name();
    match member.kind {
        Kind::Ephemeral => {}
        Kind::Init => {
            let end = status.state.as_ref().and_then(|s| s.terminated.as_ref());
            status.ready = end.is_some_and(|t| t.exit_code == 0);
            status.started = Some(latest.running());
        }
        Kind::Sidecar | Kind::App => {
            let hook_pending = memory.post_start.contains_key(&latest.id);
            let started = latest.running() && !hook_pending && memory.probes.started(name);
            status.started = Some(started);
            status.ready = started && memory.probes.ready(name).unwrap_or(true);
        }
    }
}

fn user((uid, gid, groups): &(i64, i64, Vec<i64>)) -> ContainerUser {
    ContainerUser {
        linux: Some(LinuxContainerUser {
            uid: *uid,
            gid: *gid,
            supplemental_groups: (!groups.is_empty()).then(|| groups.clone()),
        }),
    }
}

fn mounts(c: &Container) -> Option<Vec<VolumeMountStatus>> {
    let mounts = c.volume_mounts.as_ref()?;
    let of = |m: &k8s_openapi::api::core::v1::VolumeMount| VolumeMountStatus {
        name: m.name.clone(),
        mount_path: m.mount_path.clone(),
        read_only: m.read_only.filter(|r| *r),
        recursive_read_only: m.read_only.filter(|r| *r).map(|_| {
            match m.recursive_read_only.as_deref() {
                None | Some("Disabled") => "Disabled",
                Some(_) => "Enabled",
            }
            .to_owned()
        }),
        volume_status: None,
    };
    Some(mounts.iter().map(of).collect())
}
