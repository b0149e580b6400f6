//! Static pods (from files on the node) and their mirror pods (their picture in the API); pods that are only left in the
//! runtime.
//!
//! In: a parsed file, the node's name and uid; runtime objects. Out: the pod to run, the mirror pod to create, or what is
//! wrong with the file. Reading files and talking to the API are the caller's.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Lifecycle, Pod, PodSpec, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use sha2::{Digest, Sha256};

use crate::Now;
use crate::observed::ObservedPod;
use crate::pod::{self, HASH_ANNOTATION, MIRROR_ANNOTATION, SEEN_ANNOTATION, SOURCE_ANNOTATION};
use crate::spec::labels;

/// Why a file is not run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("static pod {file}: {field}: {message}")]
pub struct Invalid {
    pub file: String,
    pub field: String,
    pub message: String,
}

/// The pod that a file describes, with identity, annotations and the defaults that the API server would have set.
pub fn static_pod(mut pod: Pod, node: &str, file: &str, now: Now) -> Result<Pod, Invalid> {
    let bad = |field: &str, message: String| Invalid {
        file: file.to_owned(),
        field: field.to_owned(),
        message,
    };
    validate(&pod).map_err(|(field, message)| bad(&field, message))?;
    let hash = hash(&pod, node, file);
    let name = pod.metadata.name.take().unwrap_or_default();
    pod.metadata.name = Some(format!("{name}-{}", node.to_lowercase()));
    pod.metadata
        .namespace
        .get_or_insert_with(|| "default".into());
    pod.metadata.uid.get_or_insert_with(|| hash.clone());
    pod.metadata.deletion_timestamp = None;
    pod.metadata.deletion_grace_period_seconds = None;
    let annotations = pod.metadata.annotations.get_or_insert_with(BTreeMap::new);
    annotations.insert(SOURCE_ANNOTATION.into(), "file".into());
    annotations.insert(SEEN_ANNOTATION.into(), now.time().0.to_string());
    annotations.insert(HASH_ANNOTATION.into(), hash);
    pod.status = None;
    let spec = pod.spec.get_or_insert_with(PodSpec::default);
    spec.node_name = Some(node.to_owned());
    // A node that drains keeps its own pods.
    spec.tolerations
        .get_or_insert_with(Vec::new)
        .push(Toleration {
            operator: Some("Exists".into()),
            effect: Some("NoExecute".into()),
            ..Toleration::default()
        });
    defaults(spec);
    Ok(pod)
}

fn hash(pod: &Pod, node: &str, file: &str) -> String {
    let mut h = Sha256::new();
    // A pod is maps and lists in a fixed order: the same file gives the same text.
    h.update(serde_json::to_vec(pod).unwrap_or_default());
    h.update(node.as_bytes());
    h.update(file.as_bytes());
    h.finalize()[..16]
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

fn defaults(spec: &mut PodSpec) {
    spec.restart_policy.get_or_insert_with(|| "Always".into());
    spec.dns_policy.get_or_insert_with(|| "ClusterFirst".into());
    spec.termination_grace_period_seconds.get_or_insert(30);
    spec.enable_service_links.get_or_insert(true);
    spec.scheduler_name
        .get_or_insert_with(|| "default-scheduler".into());
    let host_network = spec.host_network == Some(true);
    for c in spec
        .containers
        .iter_mut()
        .chain(spec.init_containers.iter_mut().flatten())
    {
        container_defaults(c, host_network);
    }
}

fn container_defaults(c: &mut Container, host_network: bool) {
    for port in c.ports.iter_mut().flatten() {
        port.protocol.get_or_insert_with(|| "TCP".into());
        if host_network {
            port.host_port.get_or_insert(port.container_port);
        }
    }
    if let Some(resources) = &mut c.resources
        && let Some(limits) = &resources.limits
    {
        let requests = resources.requests.get_or_insert_with(BTreeMap::new);
        for (name, limit) in limits {
            requests
                .entry(name.clone())
                .or_insert_with(|| limit.clone());
        }
    }
}

/// The checks that the API server would have made and that running a pod relies on.
fn validate(pod: &Pod) -> Result<(), (String, String)> {
    let bad = |field: &str, message: &str| Err((field.to_owned(), message.to_owned()));
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    if !dns(name, 253, true) {
        return bad(
            "metadata.name",
            &format!("{name:?} is not a DNS-1123 subdomain"),
        );
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    if !dns(namespace, 63, false) {
        return bad(
            "metadata.namespace",
            &format!("{namespace:?} is not a DNS-1123 label"),
        );
    }
    let spec = pod::spec(pod);
    if spec.containers.is_empty() {
        return bad("spec.containers", "at least one container is needed");
    }
    if spec
        .ephemeral_containers
        .as_ref()
        .is_some_and(|e| !e.is_empty())
    {
        return bad(
            "spec.ephemeralContainers",
            "a static pod cannot have ephemeral containers",
        );
    }
    if spec
        .service_account_name
        .as_deref()
        .is_some_and(|s| !s.is_empty())
    {
        return bad(
            "spec.serviceAccountName",
            "a static pod cannot use a service account",
        );
    }
    containers(spec)?;
    let needs = crate::needs::needs(pod);
    let first = |set: &std::collections::BTreeSet<String>| set.iter().next().cloned();
    if let Some(name) = first(&needs.config_maps) {
        return bad(
            "spec",
            &format!("a static pod cannot use ConfigMap {name:?}"),
        );
    }
    if let Some(name) = first(&needs.secrets) {
        return bad("spec", &format!("a static pod cannot use Secret {name:?}"));
    }
    if !needs.tokens.is_empty() {
        return bad(
            "spec.volumes",
            "a static pod cannot use a service-account token",
        );
    }
    Ok(())
}

fn containers(spec: &PodSpec) -> Result<(), (String, String)> {
    let mut names = std::collections::BTreeSet::new();
    let lists = [
        (
            "initContainers",
            spec.init_containers.as_deref().unwrap_or_default(),
        ),
        ("containers", &spec.containers[..]),
    ];
    for (list, containers) in lists {
        for (index, c) in containers.iter().enumerate() {
            let at = |field: &str| format!("spec.{list}[{index}].{field}");
            if !dns(&c.name, 63, false) {
                return Err((at("name"), format!("{:?} is not a DNS-1123 label", c.name)));
            }
            if !names.insert(&c.name) {
                return Err((at("name"), format!("{:?} is used twice", c.name)));
            }
            if c.image.as_deref().unwrap_or_default().is_empty() {
                return Err((at("image"), "an image is needed".into()));
            }
            for mount in c.volume_mounts.iter().flatten() {
                if !spec.volumes.iter().flatten().any(|v| v.name == mount.name) {
                    return Err((
                        at("volumeMounts"),
                        format!("there is no volume {:?}", mount.name),
                    ));
                }
            }
        }
    }
    Ok(())
}

fn dns(name: &str, max: usize, dots: bool) -> bool {
    let label = |l: &str| {
        let inner = l
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        !l.is_empty() && inner && !l.starts_with('-') && !l.ends_with('-')
    };
    name.len() <= max
        && if dots {
            name.split('.').all(label)
        } else {
            label(name)
        }
}

/// The mirror pod to create for a static pod; `node_uid` makes it go with the node.
pub fn mirror_pod(of: &Pod, node: &str, node_uid: &str) -> Pod {
    let mut mirror = of.clone();
    let meta = &mut mirror.metadata;
    let hash = pod::annotation(of, HASH_ANNOTATION)
        .unwrap_or_default()
        .to_owned();
    meta.annotations
        .get_or_insert_with(BTreeMap::new)
        .insert(MIRROR_ANNOTATION.into(), hash);
    meta.uid = None;
    meta.resource_version = None;
    meta.owner_references = Some(vec![OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node.to_owned(),
        uid: node_uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: None,
    }]);
    mirror.status = None;
    mirror
}

/// Is this mirror pod the picture of this static pod? One that is being deleted or has another hash is not.
pub fn is_current(of: &Pod, mirror: &Pod) -> bool {
    mirror.metadata.deletion_timestamp.is_none()
        && pod::annotation(of, HASH_ANNOTATION).is_some()
        && pod::annotation(mirror, MIRROR_ANNOTATION) == pod::annotation(of, HASH_ANNOTATION)
}

/// A pod that is known to nobody but the runtime (deleted while the agent was down, or a static pod whose file is gone):
/// enough of it to end it properly, from labels and annotations alone.
pub fn from_runtime(observed: &ObservedPod) -> Option<Pod> {
    let of_sandbox = observed
        .sandboxes
        .iter()
        .find_map(|s| labels::owner(&s.labels));
    let of_container = || {
        observed
            .containers
            .iter()
            .find_map(|c| labels::owner(&c.labels))
    };
    let (namespace, name, uid) = of_sandbox.or_else(of_container)?;
    let mut pod = Pod::default();
    pod.metadata.namespace = Some(namespace.to_owned());
    pod.metadata.name = Some(name.to_owned());
    pod.metadata.uid = Some(uid.to_owned());
    let mut spec = PodSpec {
        host_network: observed.sandbox().map(|s| s.host_network),
        ..PodSpec::default()
    };
    let mut names: Vec<&str> = observed
        .containers
        .iter()
        .map(|c| c.name.as_str())
        .collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let Some(last) = observed.latest(name) else {
            continue;
        };
        let json = |key: &str| {
            last.annotations
                .get(key)
                .map(String::as_str)
                .unwrap_or_default()
        };
        if let Ok(grace) = json(labels::GRACE).parse() {
            spec.termination_grace_period_seconds = Some(grace);
        }
        spec.containers.push(Container {
            name: name.to_owned(),
            image: Some(last.image.clone()),
            ports: serde_json::from_str(json(labels::PORTS)).ok(),
            lifecycle: serde_json::from_str(json(labels::PRE_STOP))
                .ok()
                .map(|hook| Lifecycle {
                    pre_stop: Some(hook),
                    ..Lifecycle::default()
                }),
            ..Container::default()
        });
    }
    pod.spec = Some(spec);
    Some(pod)
}

#[cfg(test)]
mod tests;
