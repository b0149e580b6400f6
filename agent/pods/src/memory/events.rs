//! Events about a pod, with upstream's reasons.

use super::{Kill, PodMemory};
use crate::Now;
use crate::action::{Action, ActionKey, Event, Hook, KillReason, Outcome, PullPolicy};
use crate::pod::{self, Inputs, Member};

impl PodMemory {
    /// What to say when an action begins; notes kills on the way.
    pub(super) fn announce(
        &mut self,
        inputs: &Inputs<'_>,
        action: &Action,
        now: Now,
    ) -> Vec<Event> {
        match action {
            Action::PullImage {
                container,
                image,
                policy: PullPolicy::Always,
            } => vec![event(
                false,
                "Pulling",
                format!("Pulling image {image:?}"),
                &path(inputs, container),
            )],
            Action::KillContainer {
                container,
                id,
                grace,
                reason,
                message,
            } => self.announce_kill(
                inputs,
                container,
                id,
                *reason,
                message,
                now.mono + *grace,
                true,
            ),
            Action::RunHook {
                container,
                id,
                hook: Hook::PreStop,
                timeout,
                reason,
                message,
                ..
            } => {
                let deadline = now.mono + timeout.unwrap_or_default();
                self.announce_kill(inputs, container, id, *reason, message, deadline, false)
            }
            Action::StopSandbox { .. } if self.end.is_none() => {
                let message = "Pod sandbox changed, it will be killed and re-created.".to_owned();
                vec![event(false, "SandboxChanged", message, "")]
            }
            _ => Vec::new(),
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the fields of one action, unpacked once"
    )]
    fn announce_kill(
        &mut self,
        inputs: &Inputs<'_>,
        container: &str,
        id: &str,
        reason: KillReason,
        message: &str,
        deadline: std::time::Duration,
        hook_done: bool,
    ) -> Vec<Event> {
        if let Some(kill) = self.kills.get_mut(id) {
            kill.hook_done |= hook_done;
            kill.deadline = kill.deadline.min(deadline);
            return Vec::new();
        }
        if reason == KillReason::Resized {
            // The pod's cgroup has to follow before the container starts again.
            self.prepared = false;
        }
        let kill = Kill {
            reason,
            message: message.to_owned(),
            deadline,
            hook_done,
        };
        self.kills.insert(id.to_owned(), kill);
        vec![event(
            false,
            "Killing",
            message.to_owned(),
            &path(inputs, container),
        )]
    }
}

/// What to say when an action ends.
pub(super) fn ended(inputs: &Inputs<'_>, key: &ActionKey, outcome: &Outcome) -> Vec<Event> {
    match outcome {
        Outcome::Failed { reason, message } => failure(inputs, key, reason, message),
        Outcome::Image {
            pulled, took, size, ..
        } => {
            let ActionKey::Pull(name) = key else {
                return Vec::new();
            };
            let image = pod::member(pod::spec(inputs.pod), name)
                .and_then(|m| m.spec.image.clone())
                .unwrap_or_default();
            let message = if *pulled {
                format!(
                    "Successfully pulled image {image:?} in {took:.3?}. Image size: {size} bytes."
                )
            } else {
                format!("Container image {image:?} already present on machine")
            };
            vec![event(false, "Pulled", message, &path(inputs, name))]
        }
        Outcome::Started { .. } => {
            let ActionKey::Start(name) = key else {
                return Vec::new();
            };
            let path = path(inputs, name);
            vec![
                event(false, "Created", format!("Container {name} created"), &path),
                event(false, "Started", format!("Container {name} started"), &path),
            ]
        }
        Outcome::Resized(_) => {
            let ActionKey::Resize(id) = key else {
                return Vec::new();
            };
            let name = name_of(inputs, id);
            let message = format!("Container {name} resized in place");
            vec![event(
                false,
                "ResizeCompleted",
                message,
                &path(inputs, name),
            )]
        }
        Outcome::Done => Vec::new(),
    }
}

fn name_of<'a>(inputs: &Inputs<'a>, id: &str) -> &'a str {
    let containers = &inputs.observed.containers;
    containers
        .iter()
        .find(|c| c.id == id)
        .map_or("", |c| c.name.as_str())
}

fn failure(inputs: &Inputs<'_>, key: &ActionKey, reason: &str, message: &str) -> Vec<Event> {
    let of_pod = |reason| vec![event(true, reason, message.to_owned(), "")];
    match key {
        ActionKey::Prepare => of_pod("FailedMount"),
        ActionKey::CreateSandbox => of_pod("FailedCreatePodSandBox"),
        ActionKey::StopSandbox(_) | ActionKey::RemoveSandbox(_) | ActionKey::Kill(_) => {
            of_pod("FailedKillPod")
        }
        ActionKey::CleanUp => of_pod("FailedUnmount"),
        ActionKey::Pull(name) => {
            let path = path(inputs, name);
            let reason_name = if reason == "ErrImageNeverPull" {
                "ErrImageNeverPull"
            } else {
                "Failed"
            };
            let image = pod::member(pod::spec(inputs.pod), name).and_then(|m| m.spec.image.clone());
            let image = image.unwrap_or_default();
            let failed = format!("Failed to pull image {image:?}: {message}");
            vec![
                event(true, reason_name, failed, &path),
                event(true, "Failed", format!("Error: {reason}"), &path),
                event(
                    false,
                    "BackOff",
                    format!("Back-off pulling image {image:?}"),
                    &path,
                ),
            ]
        }
        ActionKey::Start(name) => vec![event(
            true,
            "Failed",
            format!("Error: {message}"),
            &path(inputs, name),
        )],
        ActionKey::Hook(id, hook) => {
            let name = name_of(inputs, id);
            let reason = match hook {
                Hook::PostStart => "FailedPostStartHook",
                Hook::PreStop => "FailedPreStopHook",
            };
            vec![event(true, reason, message.to_owned(), &path(inputs, name))]
        }
        ActionKey::Resize(id) => vec![event(
            true,
            "ResizeError",
            message.to_owned(),
            &path(inputs, name_of(inputs, id)),
        )],
        ActionKey::Remove(_) | ActionKey::Finish | ActionKey::Forget => Vec::new(),
    }
}

pub(super) fn back_off(inputs: &Inputs<'_>, member: &Member<'_>) -> Event {
    let message = format!(
        "Back-off restarting failed container {} in pod {}",
        member.name(),
        describe(inputs)
    );
    event(true, "BackOff", message, &member.field_path())
}

pub(super) fn deadline(message: &str) -> Event {
    event(false, "DeadlineExceeded", message.to_owned(), "")
}

/// `name_namespace(uid)`, as messages name a pod.
pub(crate) fn describe(inputs: &Inputs<'_>) -> String {
    let pod = inputs.pod;
    format!(
        "{}_{}({})",
        pod::name(pod),
        pod::namespace(pod),
        pod::uid(pod)
    )
}

fn path(inputs: &Inputs<'_>, container: &str) -> String {
    pod::member(pod::spec(inputs.pod), container)
        .map(|m| m.field_path())
        .unwrap_or_default()
}

fn event(warning: bool, reason: &'static str, message: String, field_path: &str) -> Event {
    Event {
        warning,
        reason,
        message,
        field_path: field_path.to_owned(),
    }
}
