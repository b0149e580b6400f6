//! Views over the API's Pod: containers with their kind, identity, defaults that the API server applied or a static pod
//! lacks. And [`Inputs`], what every decision about a running pod looks at.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec, PodStatus};

use crate::action::PullPolicy;
use crate::observed::ObservedPod;
use crate::resize::Pending;
use crate::resolve::NodeFacts;

/// Everything a decision about one pod depends on, besides memory and time.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The newest object: from the API, or a static pod with defaults applied.
    pub pod: &'a Pod,
    pub fate: &'a Fate,
    pub observed: &'a ObservedPod,
    /// The last status this agent sent; before the first, the API copy (for a static pod its mirror pod's).
    pub published: Option<&'a PodStatus>,
    pub node: &'a NodeFacts,
    /// The pod asks for other resources than it has, and the node cannot give them; `pod` has those it was granted.
    pub pending: Option<&'a Pending>,
}

/// What is to become of the pod, apart from what its own object says (deletion, deadline).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    #[default]
    Run,
    /// Gone from the configuration: end it; nothing is reported.
    Removed,
    /// Refused before it ran: status Failed; final.
    Rejected { reason: String, message: String },
    /// End it now and report Failed with a DisruptionTarget condition.
    Evicted {
        reason: String,
        message: String,
        grace: Duration,
    },
}

/// The four kinds of containers in a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Init,
    /// An init container with `restartPolicy: Always`.
    Sidecar,
    App,
    Ephemeral,
}

/// A container of a pod with its kind.
#[derive(Clone, Debug)]
pub struct Member<'a> {
    pub kind: Kind,
    pub spec: Cow<'a, Container>,
    /// `targetContainerName` of an ephemeral container.
    pub target: Option<&'a str>,
}

impl Member<'_> {
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// `spec.containers{web}` as events name it.
    pub fn field_path(&self) -> String {
        let list = match self.kind {
            Kind::Init | Kind::Sidecar => "initContainers",
            Kind::App => "containers",
            Kind::Ephemeral => "ephemeralContainers",
        };
        format!("spec.{list}{{{}}}", self.spec.name)
    }
}

/// Upstream's default grace period.
pub const DEFAULT_GRACE: u64 = 30;

static EMPTY_SPEC: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);

/// The pod's spec; an absent one is empty.
pub fn spec(pod: &Pod) -> &PodSpec {
    pod.spec.as_ref().unwrap_or(&EMPTY_SPEC)
}

pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

pub fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata
        .annotations
        .as_ref()?
        .get(key)
        .map(String::as_str)
}

pub fn labels(pod: &Pod) -> BTreeMap<String, String> {
    pod.metadata.labels.clone().unwrap_or_default()
}

/// Init containers and sidecars in order.
pub fn init(spec: &PodSpec) -> impl Iterator<Item = Member<'_>> {
    spec.init_containers.iter().flatten().map(|c| Member {
        kind: init_kind(c),
        spec: Cow::Borrowed(c),
        target: None,
    })
}

/// App containers in order.
pub fn apps(spec: &PodSpec) -> impl Iterator<Item = Member<'_>> {
    spec.containers.iter().map(|c| Member {
        kind: Kind::App,
        spec: Cow::Borrowed(c),
        target: None,
    })
}

/// Ephemeral containers in order.
pub fn ephemeral(spec: &PodSpec) -> impl Iterator<Item = Member<'_>> {
    spec.ephemeral_containers.iter().flatten().map(|c| Member {
        kind: Kind::Ephemeral,
        spec: Cow::Owned(as_container(c)),
        target: c.target_container_name.as_deref(),
    })
}

/// All containers: init, app, ephemeral.
pub fn members(spec: &PodSpec) -> impl Iterator<Item = Member<'_>> {
    init(spec).chain(apps(spec)).chain(ephemeral(spec))
}

/// The container of this name.
pub fn member<'a>(spec: &'a PodSpec, name: &str) -> Option<Member<'a>> {
    members(spec).find(|m| m.name() == name)
}

fn init_kind(c: &Container) -> Kind {
    if c.restart_policy.as_deref() == Some("Always") {
        Kind::Sidecar
    } else {
        Kind::Init
    }
}

/// An ephemeral container has the fields of a container but one.
pub fn as_container(c: &EphemeralContainer) -> Container {
    // No `..`: a field that the pinned API adds must be copied here.
    let EphemeralContainer {
        args,
        command,
        env,
        env_from,
        image,
        image_pull_policy,
        lifecycle,
        liveness_probe,
        name,
        ports,
        readiness_probe,
        resize_policy,
        resources,
        restart_policy,
        restart_policy_rules,
        security_context,
        startup_probe,
        stdin,
        stdin_once,
        target_container_name: _,
        termination_message_path,
        termination_message_policy,
        tty,
        volume_devices,
        volume_mounts,
        working_dir,
    } = c.clone();
    Container {
        args,
        command,
        env,
        env_from,
        image,
        image_pull_policy,
        lifecycle,
        liveness_probe,
        name,
        ports,
        readiness_probe,
        resize_policy,
        resources,
        restart_policy,
        restart_policy_rules,
        security_context,
        startup_probe,
        stdin,
        stdin_once,
        termination_message_path,
        termination_message_policy,
        tty,
        volume_devices,
        volume_mounts,
        working_dir,
    }
}

/// `spec.restartPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

impl RestartPolicy {
    pub fn of(spec: &PodSpec) -> RestartPolicy {
        match spec.restart_policy.as_deref() {
            Some("OnFailure") => RestartPolicy::OnFailure,
            Some("Never") => RestartPolicy::Never,
            _ => RestartPolicy::Always,
        }
    }

    /// Is a container that ended with this code to run again?
    pub fn again(self, exit_code: i32) -> bool {
        match self {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => exit_code != 0,
            RestartPolicy::Never => false,
        }
    }
}

/// What decides whether this container runs again.
pub fn restart_policy(spec: &PodSpec, kind: Kind) -> RestartPolicy {
    match kind {
        Kind::Sidecar => RestartPolicy::Always,
        Kind::Ephemeral => RestartPolicy::Never,
        // An init container that succeeded is done; `Always` means "until it succeeds".
        Kind::Init => match RestartPolicy::of(spec) {
            RestartPolicy::Never => RestartPolicy::Never,
            _ => RestartPolicy::OnFailure,
        },
        Kind::App => RestartPolicy::of(spec),
    }
}

pub fn host_network(spec: &PodSpec) -> bool {
    spec.host_network.unwrap_or(false)
}

/// `imagePullPolicy` with the API server's default: Always for no tag or `:latest`.
pub fn pull_policy(c: &Container) -> PullPolicy {
    policy(
        c.image_pull_policy.as_deref(),
        c.image.as_deref().unwrap_or_default(),
    )
}

/// The same for any image and what is written about it.
pub(crate) fn policy(written: Option<&str>, image: &str) -> PullPolicy {
    match written {
        Some("Always") => PullPolicy::Always,
        Some("Never") => PullPolicy::Never,
        Some(_) => PullPolicy::IfNotPresent,
        None if latest(image) => PullPolicy::Always,
        None => PullPolicy::IfNotPresent,
    }
}

/// Does the reference mean the tag `latest`? A digest never does.
fn latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    match last.split_once(':') {
        Some((_, tag)) => tag == "latest",
        None => true,
    }
}

/// The hash that says whether a running container still is what the pod asks for: name and image, the only fields the API
/// lets change in place (resources are resized, not restarted).
pub fn container_hash(c: &Container) -> String {
    use sha2::{Digest, Sha256};
    let mut h = Sha256::new();
    h.update(c.name.as_bytes());
    h.update([0]);
    h.update(c.image.as_deref().unwrap_or_default().as_bytes());
    h.finalize()[..4]
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// Where the pod comes from, by upstream's annotation.
pub const SOURCE_ANNOTATION: &str = "kubernetes.io/config.source";
/// Upstream's hash annotation of static pods; on mirror pods it equals `kubernetes.io/config.mirror`.
pub const HASH_ANNOTATION: &str = "kubernetes.io/config.hash";
pub const SEEN_ANNOTATION: &str = "kubernetes.io/config.seen";
pub const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// Read from a file on the node rather than from the API.
pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, SOURCE_ANNOTATION).is_some_and(|s| s != "api")
}

/// The API's picture of a static pod.
pub fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, MIRROR_ANNOTATION).is_some()
}

/// Upstream's `system-node-critical` floor; static and mirror pods count too.
pub fn is_critical(pod: &Pod) -> bool {
    is_static(pod) || is_mirror(pod) || spec(pod).priority.is_some_and(|p| p >= 2_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policy_defaults_by_tag() {
        let check = |image: &str, expected| {
            let c = Container {
                image: Some(image.into()),
                ..Default::default()
            };
            assert_eq!(pull_policy(&c), expected, "{image}");
        };
        check("busybox", PullPolicy::Always);
        check("busybox:latest", PullPolicy::Always);
        check("r.example:5000/a/busybox", PullPolicy::Always);
        check("r.example:5000/a/busybox:1", PullPolicy::IfNotPresent);
        check("busybox@sha256:00", PullPolicy::IfNotPresent);
    }

    #[test]
    fn image_pull_policy_is_taken_from_the_pod() {
        let with = |policy: &str| {
            let json =
                format!(r#"{{"name": "c", "image": "busybox", "imagePullPolicy": "{policy}"}}"#);
            pull_policy(&serde_json::from_str(&json).unwrap())
        };
        assert_eq!(with("Never"), PullPolicy::Never);
        assert_eq!(with("IfNotPresent"), PullPolicy::IfNotPresent);
        assert_eq!(with("Always"), PullPolicy::Always);
    }
}
