//! What several stories need: the `web` Deployment behind its Service, and a privileged tool pod on each node.
//!
//! Making a fixture twice is cheap: it is applied and waited for.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::kit::{AGNHOST, Pod, Stage, on_node, set};
use crate::api::{self, text_at};
use crate::wait::{self, check, seen};

pub const NAMESPACE: &str = "stories";
pub const WEB_REPLICAS: usize = 6;
pub const WEB_NODE_PORT: u16 = 30080;
/// Six pods on three emulated nodes that still have to pull their image.
const WEB_DEADLINE: Duration = Duration::from_secs(240);

/// The Deployment `web` (agnhost netexec), Service `web` with a NodePort; returns its Ready pods.
pub fn web(stage: &Stage) -> Result<Vec<Value>> {
    stage.namespace(NAMESPACE)?;
    let path = format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments/web");
    if stage.api().find(&path)?.is_none() {
        stage.apply(&json!({"apiVersion": "v1", "kind": "List", "items": [web_deployment(), web_service()]}))?;
    }
    web_ready(stage, WEB_DEADLINE)
}

/// Waits until all replicas are Ready and none is being replaced.
pub fn web_ready(stage: &Stage, timeout: Duration) -> Result<Vec<Value>> {
    wait::until("deployment web", timeout, || {
        let pods = seen(stage.api().items(&format!(
            "/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=app%3Dweb"
        )))?;
        let ready = pods
            .iter()
            .filter(|pod| api::condition(pod, "Ready") == "True")
            .count();
        check(ready == WEB_REPLICAS && pods.len() == WEB_REPLICAS, || {
            let list: Vec<String> = pods
                .iter()
                .map(|pod| {
                    format!(
                        "{} on {} {}",
                        text_at(pod, "/metadata/name"),
                        text_at(pod, "/spec/nodeName"),
                        text_at(pod, "/status/phase")
                    )
                })
                .collect();
            format!(
                "{ready} of {WEB_REPLICAS} Ready, {} pods: {}",
                pods.len(),
                list.join(", ")
            )
        })
        .map(|()| pods)
    })
}

/// How many of these pods each node runs.
pub fn spread(pods: &[Value]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for pod in pods {
        *counts
            .entry(text_at(pod, "/spec/nodeName").to_owned())
            .or_insert(0) += 1;
    }
    counts
}

fn web_deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": NAMESPACE},
        "spec": {
            "replicas": WEB_REPLICAS,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "terminationGracePeriodSeconds": 2,
                    "topologySpreadConstraints": [{
                        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
                        "labelSelector": {"matchLabels": {"app": "web"}},
                    }],
                    "containers": [{
                        "name": "main", "image": AGNHOST, "args": ["netexec", "--http-port=8080", "--udp-port=8081"],
                        "ports": [{"containerPort": 8080}, {"containerPort": 8081, "protocol": "UDP"}],
                        "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 6},
                    }],
                },
            },
        },
    })
}

fn web_service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": NAMESPACE},
        "spec": {
            "type": "NodePort", "selector": {"app": "web"},
            "ports": [
                {"name": "http", "port": 80, "targetPort": 8080, "nodePort": WEB_NODE_PORT},
                {"name": "udp", "port": 81, "targetPort": 8081, "protocol": "UDP", "nodePort": WEB_NODE_PORT + 1},
            ],
        },
    })
}

/// A busybox on a node that stays there for network checks.
pub fn client(stage: &Stage, node: &str) -> Result<Pod> {
    existing_or(stage, &format!("client-{node}"), |name| {
        stage.sleeper(NAMESPACE, name, node)
    })
}

/// A privileged busybox that sees the node's processes and, under /host, its DATA and STATE.
pub fn tool(stage: &Stage, node: &str) -> Result<Pod> {
    existing_or(stage, &format!("tool-{node}"), |name| {
        let container = json!({
            "command": ["sleep", "1000000"],
            "securityContext": {"privileged": true},
            "volumeMounts": [{"name": "state", "mountPath": "/host/state"}, {"name": "manifests", "mountPath": "/host/manifests"}],
        });
        let mut spec = on_node(node);
        set(&mut spec, "hostPID", json!(true));
        set(&mut spec, "tolerations", json!([{"operator": "Exists"}]));
        set(
            &mut spec,
            "volumes",
            json!([
                {"name": "state", "hostPath": {"path": "/state"}},
                {"name": "manifests", "hostPath": {"path": "/etc/kubernetes/manifests", "type": "DirectoryOrCreate"}},
            ]),
        );
        stage.pod(NAMESPACE, name, container, spec)
    })
}

fn existing_or(stage: &Stage, name: &str, make: impl FnOnce(&str) -> Result<Pod>) -> Result<Pod> {
    let pod = Pod {
        namespace: NAMESPACE.into(),
        name: name.into(),
    };
    let usable = stage.api().find(&pod.path())?.is_some_and(|object| {
        text_at(&object, "/metadata/deletionTimestamp").is_empty()
            && !matches!(text_at(&object, "/status/phase"), "Failed" | "Succeeded")
    });
    let pod = if usable { pod } else { make(name)? };
    stage.ready(&pod)?;
    Ok(pod)
}
