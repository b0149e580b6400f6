//! The end: every node reboots once, one loses power, and what should still hold is asserted again.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::fixtures::{self, NAMESPACE};
use super::kit::{POD_START, Pod, Stage, on_node, set};
use super::{Story, network, story};
use crate::api::text_at;
use crate::supervisor::protocol::Action;
use crate::wait::{self, check, seen};

pub const STORIES: [Story; 3] = [
    story(
        "power-button-shuts-all-nodes-down-in-order-and-they-come-back",
        600,
        all_reboot,
    ),
    story("one-node-loses-power", 600, power_cut),
    story("invariants-after-it-all", 600, invariants),
];

/// Three machines boot at once on two cores.
const BACK: Duration = Duration::from_secs(300);

fn boot_id(stage: &Stage, node: &str) -> Result<String> {
    Ok(text_at(&stage.cluster.node(node)?, "/status/nodeInfo/bootID").to_owned())
}

/// The machines go off by themselves after their pods had their grace, and come back when they have power.
fn all_reboot(stage: &Stage) -> Result<()> {
    fixtures::web(stage)?;
    let before: Vec<String> = stage
        .nodes()
        .iter()
        .map(|node| boot_id(stage, node))
        .collect::<Result<_>>()?;
    let marks: Vec<usize> = stage
        .nodes()
        .iter()
        .map(|node| stage.cluster.console(node).len())
        .collect();
    let witness = stage.node(3)?;
    witness_starts(stage, &witness)?;
    for node in stage.nodes() {
        stage.machine(&node, Action::PowerButton)?;
    }
    for (node, mark) in stage.nodes().iter().zip(marks) {
        wait::until(&format!("{node} off"), Duration::from_secs(120), || {
            let machines = seen(stage.cluster.client.status())?.machines;
            check(
                machines
                    .iter()
                    .any(|machine| machine.name == *node && !machine.running),
                || "still on".into(),
            )
        })?;
        if stage.console_from(node, mark).contains("Kernel panic") {
            bail!("the shutdown of {node} ended in a panic");
        }
        stage.machine(node, Action::PowerOn)?;
    }
    booted_again(stage, &before)?;
    witness_tells(stage, &witness)?;
    invariants(stage)
}

fn witness_spec(node: &str) -> Value {
    let mut spec = on_node(node);
    let directory = json!([{"name": "kept", "hostPath": {"path": "/var/lib/kedge-story", "type": "DirectoryOrCreate"}}]);
    set(&mut spec, "volumes", directory);
    spec
}

/// A pod that takes two seconds of its grace to write its last word to the node's disk.
fn witness_starts(stage: &Stage, node: &str) -> Result<()> {
    let script = "trap 'sleep 2; echo orderly > /kept/word; exit 0' TERM; rm -f /kept/word; echo up; while :; do sleep 0.2; done";
    let container = json!({"command": ["sh", "-c", script], "volumeMounts": [{"name": "kept", "mountPath": "/kept"}]});
    let mut spec = witness_spec(node);
    set(&mut spec, "terminationGracePeriodSeconds", json!(10));
    let pod = stage.pod(NAMESPACE, "witness", container, spec)?;
    stage.log_has(&pod, "up", POD_START).map(drop)
}

fn witness_tells(stage: &Stage, node: &str) -> Result<()> {
    stage.delete(&Pod {
        namespace: NAMESPACE.into(),
        name: "witness".into(),
    })?;
    let container = json!({"command": ["cat", "/kept/word"], "volumeMounts": [{"name": "kept", "mountPath": "/kept"}]});
    let mut spec = witness_spec(node);
    set(&mut spec, "restartPolicy", json!("Never"));
    let pod = stage.pod(NAMESPACE, "witness-reader", container, spec)?;
    let word = stage.succeeded(&pod)?;
    if word != "orderly\n" {
        bail!("the pod's last word on disk is {word:?}");
    }
    stage.delete(&pod)
}

fn power_cut(stage: &Stage) -> Result<()> {
    fixtures::web(stage)?;
    let node = stage.node(1)?;
    let before = vec![boot_id(stage, &node)?];
    stage.machine(&node, Action::PowerCut)?;
    stage.machine(&node, Action::PowerOn)?;
    booted_again(stage, &before)?;
    invariants(stage)
}

/// Every node Ready with a boot id that is none of `before`.
fn booted_again(stage: &Stage, before: &[String]) -> Result<()> {
    let nodes = before.len();
    wait::until("new boots", BACK, || {
        for node in stage.nodes().iter().take(nodes) {
            let now = seen(boot_id(stage, node))?;
            check(!before.contains(&now), || {
                format!("{node} still has boot id {now}")
            })?;
        }
        Ok(())
    })?;
    stage.all_nodes_ready(BACK).map(drop)
}

pub fn invariants(stage: &Stage) -> Result<()> {
    network::all_nodes_ready(stage)?;
    let pods = fixtures::web_ready(stage, BACK)?;
    if fixtures::spread(&pods).len() != stage.nodes().len() {
        bail!("pods are on {:?}", fixtures::spread(&pods));
    }
    network::pod_to_pod(stage)?;
    network::cluster_ip_by_name(stage)?;
    network::nodeport_on_every_node(stage)
}
