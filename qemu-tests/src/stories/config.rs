//! What pods are given: ConfigMaps, Secrets, tokens, environment, volumes, limits.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::kit::{AGNHOST, Stage, on_node, set};
use super::{Story, story};
use crate::wait::{self, check, seen};

pub const STORIES: [Story; 6] = [
    story(
        "config-map-update-reaches-a-mounted-file",
        300,
        config_map_update,
    ),
    story("secret-in-a-pod", 180, secret),
    story(
        "service-account-token-and-in-cluster-client",
        240,
        in_cluster_client,
    ),
    story("environment-from-all-sources", 180, environment),
    story("volumes-of-all-kinds", 240, volumes),
    story("requests-and-limits-in-cgroups", 180, limits),
];

const NAMESPACE: &str = "config";
/// A mounted ConfigMap follows within the kubelet's sync period and its cache, about a minute and a half upstream.
const FOLLOWS: Duration = Duration::from_secs(120);

fn config_map(stage: &Stage, name: &str, data: Value) -> Result<()> {
    stage.namespace(NAMESPACE)?;
    stage.apply(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": NAMESPACE}, "data": data}))
}

fn secret_object(stage: &Stage, name: &str, data: Value) -> Result<()> {
    stage.namespace(NAMESPACE)?;
    stage.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE}, "stringData": data}))
}

fn with_volumes(node: &str, volumes: Value) -> Value {
    let mut spec = on_node(node);
    set(&mut spec, "volumes", volumes);
    spec
}

fn config_map_update(stage: &Stage) -> Result<()> {
    config_map(stage, "settings", json!({"colour": "red", "gone": "soon"}))?;
    let container = json!({"command": ["sleep", "1000000"], "volumeMounts": [{"name": "settings", "mountPath": "/settings"}]});
    let spec = with_volumes(
        &stage.node(1)?,
        json!([{"name": "settings", "configMap": {"name": "settings"}}]),
    );
    let pod = stage.pod(NAMESPACE, "config-map", container, spec)?;
    stage.ready(&pod)?;
    let before = stage.sh(&pod, "cat /settings/colour; echo; ls /settings")?;
    if !before.starts_with("red\n") || !before.contains("gone") {
        bail!("before the update: {before:?}");
    }
    stage.api().merge(
        &format!("/api/v1/namespaces/{NAMESPACE}/configmaps/settings"),
        &json!({"data": {"colour": "blue", "gone": null, "new": "key"}}),
    )?;
    wait::until("updated file", FOLLOWS, || {
        let now = seen(stage.sh(&pod, "cat /settings/colour; echo; ls /settings"))?;
        check(now == "blue\ncolour\nnew\n", || now)
    })?;
    stage.delete(&pod)
}

fn secret(stage: &Stage) -> Result<()> {
    secret_object(stage, "password", json!({"word": "open sesame"}))?;
    let container = json!({
        "command": ["sh", "-c", "cat /secret/word; echo; stat -L -c %a /secret/word; mount | grep ' /secret ' | cut -d' ' -f5"],
        "volumeMounts": [{"name": "secret", "mountPath": "/secret", "readOnly": true}],
    });
    let mut spec = with_volumes(
        &stage.node(2)?,
        json!([{"name": "secret", "secret": {"secretName": "password", "defaultMode": 0o400}}]),
    );
    set(&mut spec, "restartPolicy", json!("Never"));
    let pod = stage.pod(NAMESPACE, "secret", container, spec)?;
    let log = stage.succeeded(&pod)?;
    if log != "open sesame\n400\ntmpfs\n" {
        bail!(
            "the pod saw {log:?}; expected the word, mode 400 and tmpfs (secrets stay off the disk)"
        );
    }
    stage.delete(&pod)
}

/// agnhost uses the mounted token and CA: a call to the API server under the pod's own name.
fn in_cluster_client(stage: &Stage) -> Result<()> {
    let container = json!({"image": AGNHOST, "args": ["inclusterclient", "--poll-interval=2"]});
    let pod = stage.pod(NAMESPACE, "in-cluster", container, on_node(&stage.node(3)?))?;
    stage.ready(&pod)?;
    let log = stage.log_has(&pod, "authz_header=", Duration::from_secs(60))?;
    // Two more rounds without a failure: the answer of the first has arrived by then.
    let rounds = log.matches("calling /healthz").count() + 2;
    let log = wait::until("more calls", Duration::from_secs(60), || {
        let log = seen(stage.log(&pod))?;
        if log.matches("calling /healthz").count() >= rounds {
            Ok(log)
        } else {
            Err(log)
        }
    })?;
    if log.contains("status=failed") || log.contains("<empty>") {
        bail!("the in-cluster client failed: {log}");
    }
    stage.delete(&pod)
}

fn environment(stage: &Stage) -> Result<()> {
    config_map(stage, "env-map", json!({"FROM_MAP": "map", "ALL_A": "a"}))?;
    secret_object(stage, "env-secret", json!({"FROM_SECRET": "secret"}))?;
    let field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
    let resource = |name: &str| json!({"resourceFieldRef": {"resource": name}});
    let container = json!({
        "command": ["sh", "-c", "env"],
        "resources": {"limits": {"memory": "64Mi", "cpu": "500m"}},
        "envFrom": [{"configMapRef": {"name": "env-map"}, "prefix": "P_"}, {"secretRef": {"name": "env-secret"}}],
        "env": [
            {"name": "PLAIN", "value": "word"},
            {"name": "EXPANDED", "value": "$(PLAIN)-$$(PLAIN)-$(NOBODY)"},
            {"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "env-map", "key": "FROM_MAP"}}},
            {"name": "OPTIONAL", "valueFrom": {"secretKeyRef": {"name": "absent", "key": "x", "optional": true}}},
            {"name": "POD_NAME", "valueFrom": field("metadata.name")},
            {"name": "POD_LABEL", "valueFrom": field("metadata.labels['app']")},
            {"name": "NODE_NAME", "valueFrom": field("spec.nodeName")},
            {"name": "POD_IP", "valueFrom": field("status.podIP")},
            {"name": "HOST_IP", "valueFrom": field("status.hostIP")},
            {"name": "MEMORY", "valueFrom": resource("limits.memory")},
        ],
    });
    let node = stage.node(1)?;
    let mut spec = on_node(&node);
    set(&mut spec, "restartPolicy", json!("Never"));
    let pod = stage.pod(NAMESPACE, "environment", container, spec)?;
    let log = stage.succeeded(&pod)?;
    let host = stage.cluster.node_address(&node)?;
    let wanted = [
        "PLAIN=word".to_owned(),
        "EXPANDED=word-$(PLAIN)-$(NOBODY)".to_owned(),
        "KEY=map".to_owned(),
        "P_FROM_MAP=map".to_owned(),
        "P_ALL_A=a".to_owned(),
        "FROM_SECRET=secret".to_owned(),
        "POD_NAME=environment".to_owned(),
        "POD_LABEL=environment".to_owned(),
        format!("NODE_NAME={node}"),
        format!("HOST_IP={host}"),
        format!("POD_IP={}", stage.pod_ip(&pod)?),
        "MEMORY=67108864".to_owned(),
        "KUBERNETES_SERVICE_HOST=10.96.0.1".to_owned(),
    ];
    if let Some(missing) = wanted
        .iter()
        .find(|line| !log.lines().any(|seen| seen == line.as_str()))
    {
        bail!("{missing} is not in the environment:\n{log}");
    }
    if log.contains("OPTIONAL=") {
        bail!("an absent optional key became a variable");
    }
    stage.delete(&pod)
}

fn volumes(stage: &Stage) -> Result<()> {
    config_map(stage, "vol-map", json!({"key": "from map"}))?;
    let script = "\
cat /projected/map /projected/name; echo; wc -c < /projected/token | xargs test 100 -lt && echo long token; \
cat /downward/labels; echo; cat /downward/memory; echo; \
echo kept > /empty/file && cat /empty/file; mount | grep ' /ram ' | cut -d' ' -f5; \
cat /host/os-release | grep ^ID=; touch /readonly/x 2>/dev/null || echo read-only; cat /sub/file";
    let container = json!({
        "command": ["sh", "-c", script],
        "resources": {"limits": {"memory": "64Mi"}},
        "volumeMounts": [
            {"name": "projected", "mountPath": "/projected"}, {"name": "downward", "mountPath": "/downward"},
            {"name": "empty", "mountPath": "/empty"}, {"name": "ram", "mountPath": "/ram"},
            {"name": "etc", "mountPath": "/host", "readOnly": true}, {"name": "map", "mountPath": "/readonly"},
            {"name": "map", "mountPath": "/sub/file", "subPath": "key"},
        ],
    });
    let volumes = json!([
        {"name": "projected", "projected": {"sources": [
            {"configMap": {"name": "vol-map", "items": [{"key": "key", "path": "map"}]}},
            {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
            {"serviceAccountToken": {"path": "token", "audience": "somebody", "expirationSeconds": 3600}},
        ]}},
        {"name": "downward", "downwardAPI": {"items": [
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
            {"path": "memory", "resourceFieldRef": {"containerName": "main", "resource": "limits.memory"}},
        ]}},
        {"name": "empty", "emptyDir": {}},
        {"name": "ram", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}},
        {"name": "etc", "hostPath": {"path": "/etc"}},
        {"name": "map", "configMap": {"name": "vol-map"}},
    ]);
    let mut spec = with_volumes(&stage.node(2)?, volumes);
    set(&mut spec, "restartPolicy", json!("Never"));
    let pod = stage.pod(NAMESPACE, "volumes", container, spec)?;
    let log = stage.succeeded(&pod)?;
    let expected = "from mapvolumes\nlong token\napp=\"volumes\"\n67108864\nkept\ntmpfs\nID=kedge\nread-only\nfrom map";
    if log.trim_end() != expected {
        bail!("the pod saw\n{log}\nexpected\n{expected}");
    }
    stage.delete(&pod)
}

/// The container sees its own cgroup at the root of its cgroup namespace.
fn limits(stage: &Stage) -> Result<()> {
    let container = json!({
        "command": ["sh", "-c", "cd /sys/fs/cgroup; cat memory.max cpu.max cpu.weight"],
        "resources": {"requests": {"memory": "32Mi", "cpu": "100m"}, "limits": {"memory": "64Mi", "cpu": "500m"}},
    });
    let mut spec = on_node(&stage.node(3)?);
    set(&mut spec, "restartPolicy", json!("Never"));
    let pod = stage.pod(NAMESPACE, "limits", container, spec)?;
    let log = stage.succeeded(&pod)?;
    let lines: Vec<&str> = log.lines().collect();
    // 100m is 102 shares; runtimes convert shares to weight by one of two formulas (KEP-2254, runc 1.4 and later).
    if lines.len() != 3
        || lines[0] != "67108864"
        || lines[1] != "50000 100000"
        || !["4", "5", "16", "17"].contains(&lines[2])
    {
        bail!("cgroup of the container: {lines:?}");
    }
    stage.delete(&pod)
}
