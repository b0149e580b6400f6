//! Parts fail, pods go on: agent, containerd, API server, network, Node object, power.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::fixtures::{self, NAMESPACE, WEB_NODE_PORT};
use super::kit::{MINUTE, Stage, container_id, on_node, restarts, set};
use super::{Story, bad_input, network, shared, story};
use crate::api::{self, text_at};
use crate::supervisor::protocol::{Action, Request};
use crate::wait::{self, check, seen};

/// On nodes of their own; each looks at its node only.
pub const STORIES: [Story; 4] = [
    shared("agent-killed-20-times", 900, agent_killed),
    shared("hung-agent-is-restarted", 300, agent_hung),
    shared("containerd-killed", 300, containerd_killed),
    shared(
        "serving-certificate-is-approved-for-its-addresses",
        120,
        serving_certificate,
    ),
];

pub const NODE_DELETED: Story = story("deleted-node-registers-again", 240, node_deleted);
pub const CABLE_OUT: Story = shared("cable-out-and-back-with-another-lease", 480, cable_out);
pub const API_STOPPED: Story = story(
    "api-server-stopped-for-2-minutes-and-power-back-without-it",
    900,
    api_server_stopped,
);

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

/// A node, its pods of the Deployment and their places in the Service, as they were before somebody broke something.
struct Before {
    node: String,
    pods: Identities,
    addresses: Vec<String>,
}

impl Before {
    fn of(stage: &Stage, node: &str) -> Result<Self> {
        let pods = own(&fixtures::web(stage)?, node);
        let addresses = pods
            .iter()
            .map(|pod| text_at(pod, "/status/podIP").to_owned())
            .collect();
        Ok(Self {
            node: node.to_owned(),
            pods: identities(&pods),
            addresses,
        })
    }

    /// Pods unchanged and Ready, node Ready, no endpoint removed.
    fn holds(&self, stage: &Stage) -> std::result::Result<(), String> {
        let all = seen(stage.api().items(&format!(
            "/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=app%3Dweb"
        )))?;
        let now = own(&all, &self.node);
        unchanged(&self.pods, &identities(&now))?;
        if let Some(pod) = now
            .iter()
            .find(|pod| api::condition(pod, "Ready") != "True")
        {
            return Err(format!("{} is not Ready", text_at(pod, "/metadata/name")));
        }
        check(
            api::condition(&seen(stage.cluster.node(&self.node))?, "Ready") == "True",
            || format!("{} is not Ready", self.node),
        )?;
        let endpoints = seen(endpoints(stage))?;
        let missing = self
            .addresses
            .iter()
            .find(|address| !endpoints.contains(address));
        check(missing.is_none(), || {
            format!("{missing:?} is no endpoint any more")
        })
    }
}

fn own(pods: &[Value], node: &str) -> Vec<Value> {
    pods.iter()
        .filter(|pod| text_at(pod, "/spec/nodeName") == node)
        .cloned()
        .collect()
}

/// The ready endpoint addresses of the Service `web`.
fn endpoints(stage: &Stage) -> Result<Vec<String>> {
    let slices = stage.api().items(&format!(
        "/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dweb"
    ))?;
    let all = slices
        .iter()
        .flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    Ok(all
        .filter(|endpoint| endpoint.pointer("/conditions/ready") == Some(&json!(true)))
        .map(|endpoint| text_at(endpoint, "/addresses/0").to_owned())
        .collect())
}

/// A shell line that prints the agent's pid.
const AGENT_PID: &str = "for p in $(pidof kedge); do tr '\\0' ' ' < /proc/$p/cmdline | grep -q 'kedge agent' && echo $p; done | head -1";

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
    let node = stage.node(2)?;
    let untouched = Before::of(stage, &node)?;
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
                untouched.holds(stage)?;
                let now = seen(renewed())?;
                check(now != before, || "lease not renewed".into())
            },
        )?;
    }
    wait::throughout("calm after the kills", Duration::from_secs(15), || {
        untouched.holds(stage)
    })
}

/// SIGSTOP: no heartbeat, no exit. Init must notice by silence.
fn agent_hung(stage: &Stage) -> Result<()> {
    let node = stage.node(3)?;
    let before = Before::of(stage, &node)?;
    let script = "old=$(agent); kill -STOP $old; echo stopped; while [ \"$(agent)\" = \"$old\" ] || [ -z \"$(agent)\" ]; do sleep 0.5; done; echo replaced";
    let pod = assassin(stage, "agent-stopper", &node, script)?;
    stage.log_has(&pod, "replaced", Duration::from_secs(240))?;
    wait::until("everything as before", MINUTE, || before.holds(stage))?;
    stage.delete(&pod)
}

fn containerd_killed(stage: &Stage) -> Result<()> {
    let node = stage.node(1)?;
    let before = Before::of(stage, &node)?;
    let script = "old=$(pidof containerd); kill -9 $old; echo killed; while new=$(pidof containerd); [ -z \"$new\" ] || [ \"$new\" = \"$old\" ]; do sleep 0.2; done; echo back";
    let pod = assassin(stage, "containerd-killer", &node, script)?;
    stage.log_has(&pod, "back", Duration::from_secs(180))?;
    wait::until("everything as before", MINUTE, || before.holds(stage))?;
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

/// Without an API server the pods answer on; with it back, the nodes return to Ready by themselves. A machine that loses power
/// meanwhile starts its static pods.
fn api_server_stopped(stage: &Stage) -> Result<()> {
    let pods = identities(&fixtures::web(stage)?);
    let addresses: Vec<String> = stage
        .nodes()
        .iter()
        .map(|node| stage.cluster.node_address(node))
        .collect::<Result<_>>()?;
    let lonely = bad_input::lonely_machine(stage)?;
    stage.cluster.client.request(&Request::StopProgram {
        name: "kube-apiserver".into(),
    })?;
    let (held, alone) = std::thread::scope(|scope| {
        let alone = scope.spawn(|| bad_input::power_back_alone(&lonely));
        let held = wait::throughout("NodePorts without an API server", OUTAGE, || {
            for address in &addresses {
                seen(stage.http(&format!("{address}:{WEB_NODE_PORT}"), "/hostname"))?;
            }
            Ok(())
        });
        (held, alone.join())
    });
    stage.cluster.client.request(&Request::StartProgram {
        name: "kube-apiserver".into(),
        extra: Vec::new(),
    })?;
    held?;
    alone.map_err(|_| anyhow::anyhow!("the story of the lonely machine panicked"))??;
    stage.all_nodes_ready(Duration::from_secs(120))?;
    let now = fixtures::web_ready(stage, MINUTE)?;
    unchanged(&pods, &identities(&now)).map_err(anyhow::Error::msg)?;
    lonely.ready().map(drop)
}

/// Out for two minutes, back with another address. Its pods ran on; everyone follows within a minute.
fn cable_out(stage: &Stage) -> Result<()> {
    let before = fixtures::web(stage)?;
    let node = stage.node(3)?;
    let pods = identities(&own(&before, &node));
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
    wait::until("peers' routes follow", left(start), || {
        network::full_mesh(stage)
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
    unchanged(&pods, &identities(&own(&now, &node))).map_err(anyhow::Error::msg)
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
