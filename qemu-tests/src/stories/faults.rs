//! Parts fail, pods go on: agent, containerd, API server, network, Node object, power.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::fixtures::{self, NAMESPACE, WEB_NODE_PORT};
use super::kit::{MINUTE, Stage, container_id, on_node, restarts, set};
use super::{Story, network, story};
use crate::api::{self, text_at};
use crate::supervisor::protocol::{Action, Request};
use crate::wait::{self, check, seen};

pub const STORIES: [Story; 8] = [
    story(
        "serving-certificate-is-approved-for-its-addresses",
        120,
        serving_certificate,
    ),
    story("agent-killed-20-times", 900, agent_killed),
    story("hung-agent-is-restarted", 300, agent_hung),
    story("containerd-killed", 300, containerd_killed),
    story("api-server-stopped-for-2-minutes", 420, api_server_stopped),
    story("cable-out-and-back-with-another-lease", 480, cable_out),
    story("deleted-node-registers-again", 240, node_deleted),
    story("power-button-shuts-down-in-order", 420, power_button),
];

const KILLS: usize = 20;
const OUTAGE: Duration = Duration::from_secs(120);

/// What must not change while the software around the pods fails: name to (container id, restarts).
type Identities = BTreeMap<String, (String, u64)>;

fn identities(pods: &[Value]) -> Identities {
    pods.iter()
        .map(|pod| {
            (
                text_at(pod, "/metadata/name").to_owned(),
                (container_id(pod).to_owned(), restarts(pod)),
            )
        })
        .collect()
}

fn unchanged(before: &Identities, now: &Identities) -> std::result::Result<(), String> {
    check(before == now, || {
        format!("pods were {before:?}, are {now:?}")
    })
}

/// The ready endpoint addresses of the Service `web`.
fn endpoints(stage: &Stage) -> Result<Vec<String>> {
    let slices = stage.api().items(&format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dweb"))?;
    let all = slices
        .iter()
        .flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    let mut ready: Vec<String> = all
        .filter(|endpoint| endpoint.pointer("/conditions/ready") == Some(&json!(true)))
        .map(|endpoint| text_at(endpoint, "/addresses/0").to_owned())
        .collect();
    ready.sort();
    Ok(ready)
}

/// Everything is as in [`before`]: pods unchanged and Ready, nodes Ready, endpoints all there.
fn nothing_happened(
    stage: &Stage,
    pods: &Identities,
    addresses: &[String],
) -> std::result::Result<(), String> {
    let now = seen(stage.api().items(&format!(
        "/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=app%3Dweb"
    )))?;
    unchanged(pods, &identities(&now))?;
    if let Some(pod) = now
        .iter()
        .find(|pod| api::condition(pod, "Ready") != "True")
    {
        return Err(format!("{} is not Ready", text_at(pod, "/metadata/name")));
    }
    let nodes = seen(stage.api().items("/api/v1/nodes"))?;
    if let Some(node) = nodes
        .iter()
        .find(|node| api::condition(node, "Ready") != "True")
    {
        return Err(format!("{} is not Ready", text_at(node, "/metadata/name")));
    }
    let endpoints = seen(endpoints(stage))?;
    check(endpoints == addresses, || {
        format!("endpoints were {addresses:?}, are {endpoints:?}")
    })
}

/// A shell line that prints the agent's pid.
pub const AGENT_PID: &str = "for p in $(pidof kedge); do tr '\\0' ' ' < /proc/$p/cmdline | grep -q 'kedge agent' && echo $p; done | head -1";

/// A pod that sees the node's processes and runs `script` by itself, so it needs neither agent nor containerd while it works; then it
/// stays. It waits a little first: a container is not to be lost between its start and the runtime's note of it.
fn assassin(stage: &Stage, name: &str, node: &str, script: &str) -> Result<super::kit::Pod> {
    let mut spec = on_node(node);
    set(&mut spec, "hostPID", json!(true));
    set(&mut spec, "restartPolicy", json!("Never"));
    let script = format!("agent() {{ {AGENT_PID}; }}\nsleep 5\n{script}\nsleep 1000000");
    stage.pod(
        NAMESPACE,
        name,
        json!({"command": ["sh", "-c", script], "securityContext": {"privileged": true}}),
        spec,
    )
}

/// kubectl exec goes over TLS that the API server verifies against the cluster CA: the request was approved and is in use.
fn serving_certificate(stage: &Stage) -> Result<()> {
    for node in stage.nodes() {
        let answer = stage
            .api()
            .text(&format!("/api/v1/nodes/{node}/proxy/healthz"))
            .with_context(|| format!("kubelet port of {node}"))?;
        if answer.trim() != "ok" {
            bail!("{node} answers /healthz with {answer:?}");
        }
        let address = stage.cluster.node_address(&node)?;
        let port = format!("{address}:10250")
            .parse()
            .context("parse the node's address")?;
        let stranger = stage.cluster.client.request(&Request::Https {
            address: port,
            path: "/pods".into(),
        })?;
        if stranger["status"] != 401 {
            bail!("{node} answers a stranger's /pods with {stranger}");
        }
        let read_only = stage.cluster.client.dial(
            &format!("{address}:10255"),
            "GET /pods HTTP/1.0\r\n\r\n",
            false,
            Duration::from_secs(5),
        );
        if read_only.is_ok() {
            bail!("{node} serves the read-only port 10255, which is off by default");
        }
    }
    Ok(())
}

/// Killed again as soon as it is back at work, which the node's lease shows. Meanwhile nobody else may notice anything.
fn agent_killed(stage: &Stage) -> Result<()> {
    let pods = identities(&fixtures::web(stage)?);
    let addresses = endpoints(stage)?;
    let node = stage.node(2)?;
    let tool = fixtures::tool(stage, &node)?;
    let mark = stage.cluster.console(&node).len();
    let lease = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{node}");
    let renewed = || -> Result<String> {
        Ok(text_at(&stage.api().get(&lease)?, "/spec/renewTime").to_owned())
    };
    for kill in 1..=KILLS {
        let before = renewed()?;
        // The command's own connection ends with the agent, so its exit code says nothing.
        let killed = || {
            stage
                .console_from(&node, mark)
                .matches("kedge ended by signal 9")
                .count()
        };
        wait::until(&format!("kill number {kill}"), MINUTE, || {
            seen(stage.exec(&tool, &["sh", "-c", &format!("kill -9 $({AGENT_PID})")]))?;
            check(killed() >= kill, || format!("killed {} times", killed()))
        })?;
        wait::until(
            &format!("agent back after kill number {kill}"),
            Duration::from_secs(90),
            || {
                nothing_happened(stage, &pods, &addresses)?;
                let now = seen(renewed())?;
                check(now != before, || "lease not renewed".into())
            },
        )?;
    }
    wait::throughout("calm after the kills", Duration::from_secs(15), || {
        nothing_happened(stage, &pods, &addresses)
    })
}

/// SIGSTOP: no heartbeat, no exit. Init must notice by silence.
fn agent_hung(stage: &Stage) -> Result<()> {
    let pods = identities(&fixtures::web(stage)?);
    let addresses = endpoints(stage)?;
    let node = stage.node(3)?;
    let script = "old=$(agent); kill -STOP $old; echo stopped; while [ \"$(agent)\" = \"$old\" ] || [ -z \"$(agent)\" ]; do sleep 0.5; done; echo replaced";
    let pod = assassin(stage, "agent-stopper", &node, script)?;
    stage.log_has(&pod, "replaced", Duration::from_secs(240))?;
    wait::until("everything as before", MINUTE, || {
        nothing_happened(stage, &pods, &addresses)
    })?;
    stage.delete(&pod)
}

fn containerd_killed(stage: &Stage) -> Result<()> {
    let pods = identities(&fixtures::web(stage)?);
    let addresses = endpoints(stage)?;
    let node = stage.node(1)?;
    let script = "old=$(pidof containerd); kill -9 $old; echo killed; while new=$(pidof containerd); [ -z \"$new\" ] || [ \"$new\" = \"$old\" ]; do sleep 0.2; done; echo back";
    let pod = assassin(stage, "containerd-killer", &node, script)?;
    stage.log_has(&pod, "back", Duration::from_secs(180))?;
    wait::until("everything as before", MINUTE, || {
        nothing_happened(stage, &pods, &addresses)
    })?;
    // The runtime works again: a new pod starts.
    let fresh = stage.pod(
        NAMESPACE,
        "after-containerd",
        json!({"command": ["sleep", "1000000"]}),
        on_node(&node),
    )?;
    stage.ready(&fresh)?;
    stage.delete(&fresh)?;
    stage.delete(&pod)
}

/// Without an API server the pods answer on; with it back, the nodes return to Ready by themselves.
fn api_server_stopped(stage: &Stage) -> Result<()> {
    let pods = identities(&fixtures::web(stage)?);
    let addresses: Vec<String> = stage
        .nodes()
        .iter()
        .map(|node| stage.cluster.node_address(node))
        .collect::<Result<_>>()?;
    stage.cluster.client.request(&Request::StopProgram {
        name: "kube-apiserver".into(),
    })?;
    let held = wait::throughout("NodePorts without an API server", OUTAGE, || {
        for address in &addresses {
            seen(stage.http(&format!("{address}:{WEB_NODE_PORT}"), "/hostname"))?;
        }
        Ok(())
    });
    stage.cluster.client.request(&Request::StartProgram {
        name: "kube-apiserver".into(),
        extra: Vec::new(),
    })?;
    held?;
    stage.all_nodes_ready(Duration::from_secs(120))?;
    let now = fixtures::web_ready(stage, MINUTE)?;
    unchanged(&pods, &identities(&now)).map_err(anyhow::Error::msg)
}

/// Out for two minutes, back with another address. Its pods ran on; everyone follows within a minute.
fn cable_out(stage: &Stage) -> Result<()> {
    let before = fixtures::web(stage)?;
    let node = stage.node(3)?;
    let own = |pods: &[Value]| -> Identities {
        identities(
            &pods
                .iter()
                .filter(|pod| text_at(pod, "/spec/nodeName") == node)
                .cloned()
                .collect::<Vec<_>>(),
        )
    };
    let pods = own(&before);
    let index = u8::try_from(
        stage
            .nodes()
            .iter()
            .position(|name| *name == node)
            .unwrap_or(0)
            + 1,
    )
    .context("node index")?;
    let address = std::net::Ipv4Addr::new(192, 168, 50, 110 + index);
    let old = stage.cluster.node_address(&node)?;
    let uids: Vec<String> = before
        .iter()
        .map(|pod| text_at(pod, "/metadata/uid").to_owned())
        .collect();
    stage.machine(&node, Action::CableOut)?;
    std::thread::sleep(OUTAGE);
    stage
        .cluster
        .client
        .request(&Request::Lease { index, address })?;
    stage.machine(&node, Action::CableIn)?;
    let follow = Duration::from_secs(60);
    let start = Instant::now();
    let left = |start: Instant| follow.saturating_sub(start.elapsed());
    wait::until("Node address follows", left(start), || {
        let now = seen(stage.cluster.node_address(&node))?;
        check(now == address.to_string(), || format!("{now}, was {old}"))
    })?;
    wait::until("NodePort at the new address", left(start), || {
        seen(stage.http(&format!("{address}:{WEB_NODE_PORT}"), "/hostname"))
    })?;
    // The API server verifies the serving certificate against the address it dials.
    wait::until("serving certificate follows", left(start), || {
        seen(
            stage
                .api()
                .text(&format!("/api/v1/nodes/{node}/proxy/healthz")),
        )
    })?;
    wait::until("node Ready again", left(start), || {
        check(
            api::condition(&seen(stage.cluster.node(&node))?, "Ready") == "True",
            || "not Ready".into(),
        )
    })?;
    // A watch that still hangs on the old connection would not see this pod.
    let fresh = stage.pod(
        NAMESPACE,
        "after-cable",
        json!({"command": ["sleep", "1000000"]}),
        on_node(&node),
    )?;
    stage.ready(&fresh)?;
    stage.delete(&fresh)?;
    let now: Vec<Value> = fixtures::web_ready(stage, MINUTE)?;
    if now
        .iter()
        .any(|pod| !uids.contains(&text_at(pod, "/metadata/uid").to_owned()))
    {
        bail!("a pod was replaced although two minutes are less than its toleration");
    }
    unchanged(&pods, &own(&now)).map_err(anyhow::Error::msg)?;
    // Peers' routes: every client reaches every pod.
    network::pod_to_pod(stage)
}

fn node_deleted(stage: &Stage) -> Result<()> {
    let node = stage.node(2)?;
    let path = format!("/api/v1/nodes/{node}");
    let uid = text_at(&stage.cluster.node(&node)?, "/metadata/uid").to_owned();
    stage.api().delete(&path, None)?;
    wait::until("node registered again and Ready", MINUTE, || {
        let now = seen(stage.api().find(&path))?.ok_or("no such node")?;
        check(
            text_at(&now, "/metadata/uid") != uid && api::condition(&now, "Ready") == "True",
            || "not Ready".into(),
        )
    })?;
    // Its pods were deleted with it; the Deployment makes others.
    fixtures::web_ready(stage, Duration::from_secs(240)).map(drop)
}

/// The machine goes off by itself after its pods had their grace, and comes back when it has power.
fn power_button(stage: &Stage) -> Result<()> {
    let node = stage.node(3)?;
    fixtures::web(stage)?;
    let container = json!({"command": ["sh", "-c", "trap 'echo orderly > /kept/word; sync; exit 0' TERM; echo up; while :; do sleep 0.2; done"],
        "volumeMounts": [{"name": "kept", "mountPath": "/kept"}]});
    let mut spec = on_node(&node);
    set(&mut spec, "terminationGracePeriodSeconds", json!(10));
    set(
        &mut spec,
        "volumes",
        json!([{"name": "kept", "hostPath": {"path": "/var/lib/kedge-story", "type": "DirectoryOrCreate"}}]),
    );
    let pod = stage.pod(NAMESPACE, "orderly", container, spec.clone())?;
    stage.log_has(&pod, "up", super::kit::POD_START)?;
    let mark = stage.cluster.console(&node).len();
    stage.machine(&node, Action::PowerButton)?;
    wait::until(&format!("{node} off"), Duration::from_secs(90), || {
        let machines = seen(stage.cluster.client.status())?.machines;
        check(
            machines
                .iter()
                .any(|machine| machine.name == node && !machine.running),
            || "still on".into(),
        )
    })?;
    let console = stage.console_from(&node, mark);
    if console.contains("Kernel panic") {
        bail!("the shutdown ended in a panic:\n{console}");
    }
    stage.machine(&node, Action::PowerOn)?;
    stage.all_nodes_ready(Duration::from_secs(180))?;
    stage.delete(&pod)?;
    let look = json!({"command": ["cat", "/kept/word"], "volumeMounts": [{"name": "kept", "mountPath": "/kept"}]});
    set(&mut spec, "restartPolicy", json!("Never"));
    let look = stage.pod(NAMESPACE, "orderly-look", look, spec)?;
    let word = stage.succeeded(&look)?;
    if word != "orderly\n" {
        bail!("the pod's last word on disk is {word:?}");
    }
    stage.delete(&look)?;
    fixtures::web_ready(stage, Duration::from_secs(180)).map(drop)
}
