//! Labels and annotations on sandboxes and containers, with upstream's names: other software filters by them, and a
//! restarted agent rebuilds its picture from them alone.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::pod;

pub const POD_NAME: &str = "io.kubernetes.pod.name";
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub const POD_UID: &str = "io.kubernetes.pod.uid";
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";

pub const HASH: &str = "io.kubernetes.container.hash";
pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
pub const TERMINATION_MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
pub const TERMINATION_MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
pub const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
pub const PORTS: &str = "io.kubernetes.container.ports";
pub const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
/// The container's resources as it was created with them (JSON), so that a later change of the pod's is seen.
pub const RESOURCES: &str = "io.kedge.container.resources";
/// Where the executor keeps this instance's termination message on the host.
pub const TERMINATION_LOG: &str = "io.kedge.container.terminationLog";

/// Sandbox labels: the pod's own, and its identity.
pub fn sandbox_labels(pod: &Pod) -> BTreeMap<String, String> {
    let mut labels = pod::labels(pod);
    labels.extend(identity(pod));
    labels
}

/// Sandbox annotations: the pod's own.
pub fn sandbox_annotations(pod: &Pod) -> BTreeMap<String, String> {
    pod.metadata.annotations.clone().unwrap_or_default()
}

/// Container labels: identity and name.
pub fn container_labels(pod: &Pod, container: &str) -> BTreeMap<String, String> {
    let mut labels = identity(pod);
    labels.insert(CONTAINER_NAME.into(), container.into());
    labels
}

/// Container annotations: what ending and describing this instance needs when pod object and memory are gone.
pub fn container_annotations(
    pod: &Pod,
    container: &Container,
    attempt: u32,
    termination_log: &str,
) -> BTreeMap<String, String> {
    let mut a = BTreeMap::new();
    a.insert(HASH.into(), pod::container_hash(container));
    a.insert(RESTART_COUNT.into(), attempt.to_string());
    a.insert(
        TERMINATION_MESSAGE_PATH.into(),
        crate::termination::path(container).to_owned(),
    );
    a.insert(
        TERMINATION_MESSAGE_POLICY.into(),
        container
            .termination_message_policy
            .clone()
            .unwrap_or_else(|| "File".into()),
    );
    if !termination_log.is_empty() {
        a.insert(TERMINATION_LOG.into(), termination_log.into());
    }
    let grace = pod::spec(pod).termination_grace_period_seconds;
    a.insert(
        GRACE.into(),
        grace
            .unwrap_or(i64::try_from(pod::DEFAULT_GRACE).unwrap_or(30))
            .to_string(),
    );
    if let Some(hook) = container
        .lifecycle
        .as_ref()
        .and_then(|l| l.pre_stop.as_ref())
        && let Ok(json) = serde_json::to_string(hook)
    {
        a.insert(PRE_STOP.into(), json);
    }
    if let Some(resources) = &container.resources
        && let Ok(json) = serde_json::to_string(resources)
    {
        a.insert(RESOURCES.into(), json);
    }
    if let Some(ports) = &container.ports
        && let Ok(json) = serde_json::to_string(ports)
    {
        a.insert(PORTS.into(), json);
    }
    a
}

fn identity(pod: &Pod) -> BTreeMap<String, String> {
    BTreeMap::from([
        (POD_NAME.to_owned(), pod::name(pod).to_owned()),
        (POD_NAMESPACE.to_owned(), pod::namespace(pod).to_owned()),
        (POD_UID.to_owned(), pod::uid(pod).to_owned()),
    ])
}

/// Which pod a runtime object belongs to: (namespace, name, uid). `None`: not one of ours.
pub fn owner(labels: &BTreeMap<String, String>) -> Option<(&str, &str, &str)> {
    Some((
        labels.get(POD_NAMESPACE)?,
        labels.get(POD_NAME)?,
        labels.get(POD_UID)?,
    ))
}
