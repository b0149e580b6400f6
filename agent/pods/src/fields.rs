//! ONE table that says of every field of a pod whether this node supports it.
//!
//! In: a pod. Out: [`Refusal`]s that name the fields this node does not support; admission refuses the pod for them
//! ([`crate::admit`]). Nothing is silently ignored:
//!
//! - every struct is taken apart without `..`, so a field that the pinned API adds does not compile until it has a row;
//! - a supported row names the test that fails when the field is ignored, and a test looks for it in the sources;
//! - a field that acts elsewhere (the scheduler's) names the test that it is passed on unharmed.

use std::fmt;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Volume};

use crate::pod;

#[macro_use]
mod table;
mod container;
mod pod_spec;
mod volume;

/// A field that this node does not support, used in a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `spec.containers[0].securityContext.procMount`
    pub path: String,
    pub message: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// `Container`
    pub kind: &'static str,
    /// As in Rust: `volume_mounts`.
    pub field: &'static str,
    pub verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Names the test that fails when the field is ignored.
    Supported {
        test: &'static str,
    },
    /// Supported but for some values.
    Partly {
        test: &'static str,
        message: &'static str,
    },
    Refused {
        message: &'static str,
    },
}

/// The whole table.
pub fn rows() -> Vec<Row> {
    [pod_spec::ROWS, container::ROWS, volume::ROWS]
        .into_iter()
        .flatten()
        .flat_map(|rows| rows.iter().copied())
        .collect()
}

/// What a pod uses that this node does not support.
pub fn check(pod: &Pod) -> Vec<Refusal> {
    let mut out = Vec::new();
    let spec = pod::spec(pod);
    pod_spec::check(spec, "spec", &mut out);
    for (index, v) in spec.volumes.iter().flatten().enumerate() {
        volume::check(v, &format!("spec.volumes[{index}]"), &mut out);
    }
    containers(spec, &mut out);
    out
}

fn containers(spec: &PodSpec, out: &mut Vec<Refusal>) {
    for (index, c) in spec.init_containers.iter().flatten().enumerate() {
        container::check(c, &format!("spec.initContainers[{index}]"), out);
    }
    for (index, c) in spec.containers.iter().enumerate() {
        let at = format!("spec.containers[{index}]");
        container::check(c, &at, out);
        own_restart_policy(c, &at, out);
    }
    for (index, c) in spec.ephemeral_containers.iter().flatten().enumerate() {
        container::check_ephemeral(c, &format!("spec.ephemeralContainers[{index}]"), out);
    }
}

/// `Always` makes a sidecar of an init container; an app container follows the pod's policy here.
fn own_restart_policy(c: &Container, at: &str, out: &mut Vec<Refusal>) {
    if c.restart_policy.is_some() {
        out.push(Refusal {
            path: format!("{at}.restartPolicy"),
            message: "a restart policy of an app container's own is not supported by this node"
                .into(),
        });
    }
}

/// Does any volume of this pod need something that is not here? For callers that look at one volume.
pub fn check_volume(v: &Volume, at: &str) -> Vec<Refusal> {
    let mut out = Vec::new();
    volume::check(v, at, &mut out);
    out
}

#[cfg(test)]
mod tests;
