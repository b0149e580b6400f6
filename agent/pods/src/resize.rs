//! Resizing a running container: which of its resources the pod asks to change, and whether its policy allows a restart for it.
//!
//! In: the container, its running instance (with the resources it was created with). Out: [`Resize`]. This node changes no
//! resources in place: with `RestartContainer` the container starts again with the new ones, otherwise the request is
//! answered with a condition `PodResizePending`, reason `Infeasible`.

use k8s_openapi::api::core::v1::ResourceRequirements;

use crate::observed::ObservedContainer;
use crate::pod::Member;
use crate::quantity::{self, List};
use crate::status::containers::actual;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resize {
    None,
    /// A changed resource has the policy `RestartContainer`.
    Restart,
    /// All of them are `NotRequired`: to be changed in place.
    InPlace,
}

/// What the pod asks of this instance.
pub fn resize(member: &Member<'_>, c: &ObservedContainer) -> Resize {
    if !c.running() {
        return Resize::None;
    }
    let was = actual(member, c).unwrap_or_default();
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
