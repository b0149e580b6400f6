//! Mirror pods: what the API shows of a static pod. Pure.
//!
//! In: the static pod with its `kubernetes.io/config.*` annotations, the Node. Out: the object to create. The API server's NodeRestriction
//! wants the mirror annotation, and the Node as the only, controlling owner.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::lease::owner;

/// Set by the node on a static pod; the mirror annotation repeats it.
pub const HASH_ANNOTATION: &str = "kubernetes.io/config.hash";
/// Marks a mirror pod.
pub const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// The mirror of `pod` on the Node `node_name` with `node_uid`. `None` when the pod has no config hash, so is no static pod.
pub fn mirror(pod: &Pod, node_name: &str, node_uid: &str) -> Option<Pod> {
    let annotations = pod.metadata.annotations.as_ref();
    let hash = annotations?.get(HASH_ANNOTATION)?.clone();
    let mut annotations: BTreeMap<String, String> = annotations.cloned().unwrap_or_default();
    annotations.insert(MIRROR_ANNOTATION.to_owned(), hash);
    let owner = OwnerReference {
        controller: Some(true),
        ..owner(node_name, node_uid)
    };
    Some(Pod {
        metadata: ObjectMeta {
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            labels: pod.metadata.labels.clone(),
            annotations: Some(annotations),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: pod.spec.clone(),
        status: None,
    })
}

/// Whether an API pod mirrors the static pod with this hash.
pub fn mirrors(api_pod: &Pod, hash: &str) -> bool {
    let annotations = api_pod.metadata.annotations.as_ref();
    annotations
        .and_then(|a| a.get(MIRROR_ANNOTATION))
        .is_some_and(|h| h == hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_has_the_hash_and_the_node_as_controller_and_no_uid_of_its_own() {
        let text = r#"{"metadata":{"name":"p-edge-7","namespace":"kube-system","uid":"static","annotations":{"kubernetes.io/config.hash":"h"}},"spec":{"containers":[]}}"#;
        let pod: Pod = serde_json::from_str(text).unwrap();
        let mirror = mirror(&pod, "edge-7", "n1").unwrap();
        assert!(mirrors(&mirror, "h") && !mirrors(&mirror, "other") && !mirrors(&pod, "h"));
        assert_eq!(mirror.metadata.uid, None);
        let owners = mirror.metadata.owner_references.unwrap();
        assert_eq!(owners[0].controller, Some(true));
        assert_eq!(
            (owners[0].name.as_str(), owners[0].uid.as_str()),
            ("edge-7", "n1")
        );
    }

    #[test]
    fn a_pod_from_the_api_has_no_mirror() {
        assert!(mirror(&Pod::default(), "edge-7", "n1").is_none());
    }
}
