//! The end: every node reboots once, one loses power, and what should still hold is asserted again.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, bail};

use super::fixtures::{self, NAMESPACE};
use super::kit::{Stage, container_id};
use super::{Story, network, story};
use crate::api::text_at;
use crate::supervisor::protocol::Action;
use crate::wait::{self, check, seen};

pub const STORIES: [Story; 3] = [
    story("all-nodes-reboot", 600, all_reboot),
    story("one-node-loses-power", 600, power_cut),
    story("invariants-after-it-all", 600, invariants),
];

/// Three machines boot at once on two cores.
const BACK: Duration = Duration::from_secs(300);

fn boot_id(stage: &Stage, node: &str) -> Result<String> {
    Ok(text_at(&stage.cluster.node(node)?, "/status/nodeInfo/bootID").to_owned())
}

fn all_reboot(stage: &Stage) -> Result<()> {
    fixtures::web(stage)?;
    let before: Vec<String> = stage
        .nodes()
        .iter()
        .map(|node| boot_id(stage, node))
        .collect::<Result<_>>()?;
    for node in stage.nodes() {
        // The button shuts down in order; QEMU ends; power comes back.
        stage.machine(&node, Action::PowerButton)?;
    }
    for node in stage.nodes() {
        wait::until(&format!("{node} off"), Duration::from_secs(120), || {
            let machines = seen(stage.cluster.client.status())?.machines;
            check(
                machines
                    .iter()
                    .any(|machine| machine.name == node && !machine.running),
                || "still on".into(),
            )
        })?;
        stage.machine(&node, Action::PowerOn)?;
    }
    booted_again(stage, &before)?;
    invariants(stage)
}

fn power_cut(stage: &Stage) -> Result<()> {
    fixtures::web(stage)?;
    let node = stage.node(1)?;
    let before = vec![boot_id(stage, &node)?];
    let containers = containers_on(stage, &node)?;
    stage.machine(&node, Action::PowerCut)?;
    stage.machine(&node, Action::PowerOn)?;
    booted_again(stage, &before)?;
    // The API shows what it last heard until the node has written: Ready from before the cut says nothing.
    wait::until("containers of the new boot", BACK, || {
        let now = seen(containers_on(stage, &node))?;
        check(now.is_disjoint(&containers), || {
            format!("{now:?}, before the cut {containers:?}")
        })
    })?;
    invariants(stage)
}

/// Ids of the running containers of `web` on a node.
fn containers_on(stage: &Stage, node: &str) -> Result<BTreeSet<String>> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=app%3Dweb");
    let pods = stage.api().items(&path)?;
    let on_node = pods
        .iter()
        .filter(|pod| text_at(pod, "/spec/nodeName") == node);
    Ok(on_node.map(|pod| container_id(pod).to_owned()).collect())
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
