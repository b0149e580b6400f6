//! Local storage: what is said of an emptyDir is what is in it, now; and what is over its limit goes.
//!
//! The truth comes from `du` and `find` inside the pods, which count a file with two names once, as the kernel does.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::faults::AGENT_PID;
use super::kit::{MINUTE, Pod, Stage, on_node, set, summary};
use super::{Story, fixtures, story};
use crate::api::text_at;
use crate::wait::{self, Look, check, seen};

pub const STORIES: [Story; 2] = [
    story("emptydir-use-is-current", 300, current),
    story("emptydir-over-its-limit-is-evicted", 300, over_limit),
];

const NAMESPACE: &str = "storage";
const MIB: u64 = 1 << 20;
/// A walk's values may be a minute old; a count is as old as the question.
const SECONDS: Duration = Duration::from_secs(10);

fn with_volumes(node: &str, volumes: Value) -> Value {
    let mut spec = on_node(node);
    set(&mut spec, "volumes", volumes);
    set(&mut spec, "restartPolicy", json!("Never"));
    spec
}

/// Bytes and inodes that the Summary gives for the pod's volume, and the pod's ephemeral storage.
fn said(stage: &Stage, node: &str, pod: &Pod) -> Result<(u64, u64, u64)> {
    let path = format!("/api/v1/nodes/{node}/proxy/stats/summary");
    let json: Value = serde_json::from_str(&stage.kubectl(&["get", "--raw", &path])?)?;
    let find = |list: &Value, at: &str, name: &str| -> Option<Value> {
        let mut list = list.as_array()?.iter();
        list.find(|v| text_at(v, at) == name).cloned()
    };
    let found = find(&json["pods"], "/podRef/name", &pod.name).context("pod of the summary")?;
    let volume = find(&found["volume"], "/name", "disk");
    let volume = volume.with_context(|| format!("no volume disk in {found}"))?;
    let number = |v: &Value| v.as_u64().with_context(|| format!("a number in {found}"));
    Ok((
        number(&volume["usedBytes"])?,
        number(&volume["inodesUsed"])?,
        number(&found["ephemeral-storage"]["usedBytes"])?,
    ))
}

/// Does something in the volume; within seconds the Summary is within 1 MiB of the truth, its inodes exact.
fn step(stage: &Stage, node: &str, pod: &Pod, script: &str) -> Result<()> {
    let truth = stage.sh(
        pod,
        &format!(
            "{script}; du -sk /disk | cut -f1; find /disk -exec stat -c %i {{}} + | sort -u | wc -l"
        ),
    )?;
    let mut words = truth.split_whitespace();
    let mut number = || words.next().and_then(|w| w.parse::<u64>().ok());
    let (kib, inodes) = number().zip(number()).context(truth.clone())?;
    let what = format!("{kib} KiB in {inodes} inodes in the Summary");
    wait::until(&what, SECONDS, || -> Look<()> {
        let (bytes, files, ephemeral) = seen(said(stage, node, pod))?;
        let near = bytes.abs_diff(kib * 1024) < MIB && files == inodes && ephemeral >= bytes;
        check(near, || {
            format!("{bytes} bytes, {files} inodes, {ephemeral} of ephemeral storage")
        })
    })
}

/// Written, deleted in part, made into many files: the Summary follows at once each time, also under an agent that did not see the volume
/// being made.
fn current(stage: &Stage) -> Result<()> {
    let node = stage.node(1)?;
    let container = json!({"command": ["sleep", "1000000"],
        "volumeMounts": [{"name": "disk", "mountPath": "/disk"}, {"name": "other", "mountPath": "/other"}]});
    let volumes = json!([{"name": "disk", "emptyDir": {}}, {"name": "other", "emptyDir": {}}]);
    let pod = stage.pod(NAMESPACE, "user", container, with_volumes(&node, volumes))?;
    stage.ready(&pod)?;
    // What is in a neighbour is not counted along; what is moved over from it is.
    stage.sh(
        &pod,
        "dd if=/dev/zero of=/other/f bs=1M count=7 2>/dev/null",
    )?;
    let write = "for f in a b c; do dd if=/dev/zero of=/disk/$f bs=1M count=10 2>/dev/null; done";
    for script in [
        write,
        "rm /disk/a /disk/b",
        "mkdir /disk/d; for i in $(seq 100); do echo x > /disk/d/$i; done",
        "ln /disk/c /disk/d/c; mv /other/f /disk/d/f",
    ] {
        step(stage, &node, &pod, script)?;
    }
    let tool = fixtures::tool(stage, &node)?;
    let mark = stage.cluster.console(&node).len();
    wait::until("the agent killed", MINUTE, || {
        // The command's own connection ends with the agent, so its exit code says nothing.
        seen(stage.exec(&tool, &["sh", "-c", &format!("kill -9 $({AGENT_PID})")]))?;
        let console = stage.console_from(&node, mark);
        check(console.contains("kedge ended by signal 9"), || {
            "not killed".into()
        })
    })?;
    wait::until("the agent back", Duration::from_secs(90), || {
        seen(said(stage, &node, &pod)).map(drop)
    })?;
    step(stage, &node, &pod, "rm -r /disk/d")?;
    step(stage, &node, &pod, write)?;
    stage.delete(&pod)
}

/// Over `sizeLimit`: evicted, in upstream's words. Under it, with as much in it: left alone.
fn over_limit(stage: &Stage) -> Result<()> {
    let node = stage.node(1)?;
    let make = |name: &str, limit: &str| {
        let container = json!({"command": ["sleep", "1000000"],
            "volumeMounts": [{"name": "disk", "mountPath": "/disk"}]});
        let volumes = json!([{"name": "disk", "emptyDir": {"sizeLimit": limit}}]);
        stage.pod(NAMESPACE, name, container, with_volumes(&node, volumes))
    };
    let (greedy, modest) = (make("greedy", "10Mi")?, make("modest", "40Mi")?);
    for pod in [&greedy, &modest] {
        stage.ready(pod)?;
        // No limit of the kernel's: the write succeeds.
        stage.sh(pod, "dd if=/dev/zero of=/disk/f bs=1M count=20 2>/dev/null")?;
    }
    let evicted = stage.until_pod(&greedy, "evicted", Duration::from_secs(120), |object| {
        check(text_at(object, "/status/phase") == "Failed", || {
            summary(object)
        })
    })?;
    let (reason, message) = (
        text_at(&evicted, "/status/reason"),
        text_at(&evicted, "/status/message"),
    );
    let wanted = r#"Usage of EmptyDir volume "disk" exceeds the limit "10Mi""#;
    if reason != "Evicted" || !message.contains(wanted) {
        bail!("{reason}: {message}");
    }
    let other = stage.get(&modest)?;
    if text_at(&other, "/status/phase") != "Running" {
        bail!("the pod within its limit: {}", summary(&other));
    }
    stage.delete(&greedy)?;
    stage.delete(&modest)
}
