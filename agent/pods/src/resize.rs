//! Resizing a running container (KEP-1287): which of its resources the pod asks to change, what it has, and what the pod is granted.
//!
//! In: the container and its instance with the resources the runtime applied; for the pod as a whole what the node has left.
//! Out: [`Resize`] per container; [`Pending`] when the node cannot give what is asked, and the pod that is acted on instead
//! ([`granted`]). Deliberately absent: a checkpoint file. What was granted before is read from the status in the API.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};

use crate::memory::PodMemory;
use crate::observed::ObservedContainer;
use crate::pod::{Inputs, Member};
use crate::qos;
use crate::quantity::{self, List};
use crate::spec::labels;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resize {
    None,
    /// A changed resource has the policy `RestartContainer`.
    Restart,
    /// All of them are `NotRequired`: to be changed in place.
    InPlace,
}

/// Why a resize is not carried out yet, or not at all: the condition `PodResizePending`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// `Deferred` or `Infeasible`.
    pub reason: &'static str,
    pub message: String,
}

/// What the pod asks of this instance.
pub fn resize(
    inputs: &Inputs<'_>,
    memory: &PodMemory,
    member: &Member<'_>,
    c: &ObservedContainer,
) -> Resize {
    if !c.running() {
        return Resize::None;
    }
    let was = actual(inputs, memory, member, c).unwrap_or_default();
    let is = member.spec.resources.clone().unwrap_or_default();
    let changed = changed(&was, &is);
    if changed.is_empty() {
        return Resize::None;
    }
    let restart = member
        .spec
        .resize_policy
        .iter()
        .flatten()
        .any(|p| p.restart_policy == "RestartContainer" && changed.contains(&p.resource_name));
    if restart {
        Resize::Restart
    } else {
        Resize::InPlace
    }
}

/// The resources an instance has, in the pod's words: those of its creation, unless it was resized since. After an agent
/// restart the runtime's numbers tell which of the candidates it is.
pub(crate) fn actual(
    inputs: &Inputs<'_>,
    memory: &PodMemory,
    member: &Member<'_>,
    c: &ObservedContainer,
) -> Option<ResourceRequirements> {
    if let Some(resized) = memory.resized.get(&c.id) {
        return Some(resized.clone());
    }
    let created = match c.annotations.get(labels::RESOURCES) {
        Some(json) => serde_json::from_str(json).ok(),
        None => member.spec.resources.clone(),
    };
    let Some(applied) = &c.resources else {
        return created;
    };
    let fits = |r: &ResourceRequirements| qos::applied(Some(r)) == qos::numbers(applied);
    if created.as_ref().is_none_or(fits) {
        return created;
    }
    let said = crate::status::published(inputs, member.name()).and_then(|s| s.resources.clone());
    let wanted = member.spec.resources.clone();
    [wanted, said].into_iter().flatten().find(fits).or(created)
}

/// Do two pods ask for different resources in some container?
pub fn differs(a: &Pod, b: &Pod) -> bool {
    let (a, b) = (containers(a), containers(b));
    a.iter().any(|x| {
        let other = b.iter().find(|y| y.name == x.name);
        let resources = |c: &Container| c.resources.clone().unwrap_or_default();
        other.is_some_and(|y| !changed(&resources(x), &resources(y)).is_empty())
    })
}

fn containers(pod: &Pod) -> Vec<&Container> {
    let spec = crate::pod::spec(pod);
    let init = spec.init_containers.iter().flatten();
    init.chain(&spec.containers).collect()
}

/// The pod with the resources of `before`: what is acted on while a resize is pending.
pub fn granted(pod: &Pod, before: &Pod) -> Pod {
    let mut pod = pod.clone();
    if let Some(spec) = &mut pod.spec {
        let init = spec.init_containers.iter_mut().flatten();
        for container in init.chain(&mut spec.containers) {
            if let Some(old) = containers(before)
                .into_iter()
                .find(|c| c.name == container.name)
            {
                container.resources.clone_from(&old.resources);
            }
        }
    }
    pod
}

/// The pod as its own status says it was granted before; the pod itself where that says nothing.
pub fn as_reported(pod: &Pod) -> Cow<'_, Pod> {
    let Some(status) = &pod.status else {
        return Cow::Borrowed(pod);
    };
    let lists = [&status.init_container_statuses, &status.container_statuses];
    let statuses: Vec<_> = lists.into_iter().flatten().flatten().collect();
    let mut old = pod.clone();
    if let Some(spec) = &mut old.spec {
        let init = spec.init_containers.iter_mut().flatten();
        for container in init.chain(&mut spec.containers) {
            let status = statuses.iter().find(|s| s.name == container.name);
            if let Some(resources) = status.and_then(|s| s.resources.clone()) {
                let claims = container.resources.take().and_then(|r| r.claims);
                let requests = status.and_then(|s| s.allocated_resources.clone());
                container.resources = Some(ResourceRequirements {
                    claims,
                    requests: requests.or(resources.requests),
                    limits: resources.limits,
                });
            }
        }
    }
    Cow::Owned(old)
}

fn changed(was: &ResourceRequirements, is: &ResourceRequirements) -> Vec<String> {
    let mut names = Vec::new();
    for (a, b) in [(&was.limits, &is.limits), (&was.requests, &is.requests)] {
        let empty = List::new();
        let (a, b) = (a.as_ref().unwrap_or(&empty), b.as_ref().unwrap_or(&empty));
        for name in a.keys().chain(b.keys()) {
            let same =
                matches!((a.get(name), b.get(name)), (Some(x), Some(y)) if quantity::same(x, y));
            if !same && !names.contains(name) {
                names.push(name.clone());
            }
        }
    }
    names
}
