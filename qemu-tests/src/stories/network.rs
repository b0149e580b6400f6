//! Nodes, pods and Services reach each other.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::fixtures::{self, NAMESPACE, WEB_NODE_PORT, WEB_REPLICAS};
use super::kit::{AGNHOST, MINUTE, Pod, Stage, on_node};
use super::{Story, story};
use crate::api::{self, text_at};
use crate::wait::{self, check, seen};

pub const STORIES: [Story; 11] = [
    story("all-nodes-ready", 300, all_nodes_ready),
    story("deployment-spreads-over-nodes", 300, deployment_spreads),
    story("pod-to-pod-across-nodes", 240, pod_to_pod),
    story("cluster-ip-by-name-through-dns", 300, cluster_ip_by_name),
    story("cluster-ip-udp", 180, cluster_ip_udp),
    story("nodeport-on-every-node", 180, nodeport_on_every_node),
    story("nodeport-udp-on-every-node", 180, nodeport_udp),
    story("hairpin-to-itself-through-service", 180, hairpin),
    story("service-without-endpoints-rejects", 180, no_endpoints),
    story("host-port", 180, host_port),
    story("service-follows-its-endpoints", 240, endpoints_followed),
];

pub fn all_nodes_ready(stage: &Stage) -> Result<()> {
    let nodes = stage.all_nodes_ready(MINUTE)?;
    for node in &nodes {
        let name = text_at(node, "/metadata/name");
        let version = text_at(node, "/status/nodeInfo/kubeletVersion");
        if !version.starts_with("v1.37.1+kedge") {
            bail!("{name} reports kubelet version {version:?}");
        }
        if api::node_addresses(node, "InternalIP").len() != 1
            || api::node_addresses(node, "Hostname") != [name]
        {
            bail!("{name} has addresses {}", node["status"]["addresses"]);
        }
        for field in [
            "/status/capacity/cpu",
            "/status/capacity/memory",
            "/status/allocatable/pods",
            "/status/nodeInfo/containerRuntimeVersion",
            "/spec/podCIDR",
        ] {
            if text_at(node, field).is_empty() {
                bail!("{name} does not report {field}");
            }
        }
        for pressure in ["MemoryPressure", "DiskPressure", "PIDPressure"] {
            if api::condition(node, pressure) != "False" {
                bail!("{name} has {pressure} {:?}", api::condition(node, pressure));
            }
        }
        stage.api().get(&format!(
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}"
        ))?;
    }
    Ok(())
}

pub fn deployment_spreads(stage: &Stage) -> Result<()> {
    let pods = fixtures::web(stage)?;
    let spread = fixtures::spread(&pods);
    let each = WEB_REPLICAS / stage.nodes().len();
    if spread.len() != stage.nodes().len() || spread.values().any(|count| *count != each) {
        bail!("not spread evenly: {spread:?}");
    }
    Ok(())
}

/// A client on every node reaches every pod of the Deployment by its address.
pub fn pod_to_pod(stage: &Stage) -> Result<()> {
    let pods = fixtures::web(stage)?;
    for node in stage.nodes() {
        let client = fixtures::client(stage, &node)?;
        let wanted: Vec<(String, String)> = pods
            .iter()
            .map(|pod| {
                (
                    text_at(pod, "/status/podIP").to_owned(),
                    text_at(pod, "/metadata/name").to_owned(),
                )
            })
            .collect();
        let script: Vec<String> = wanted
            .iter()
            .map(|(address, _)| format!("wget -qO- -T 5 http://{address}:8080/hostname; echo"))
            .collect();
        let answers = stage.sh(&client, &script.join("; "))?;
        for (address, name) in &wanted {
            if !answers.lines().any(|line| line == name) {
                bail!("from {node}, {address} did not answer {name}: {answers:?}");
            }
        }
    }
    Ok(())
}

pub fn cluster_ip_by_name(stage: &Stage) -> Result<()> {
    fixtures::web(stage)?;
    dns_ready(stage)?;
    for node in stage.nodes() {
        let client = fixtures::client(stage, &node)?;
        for name in ["web", "web.stories", "web.stories.svc.cluster.local"] {
            let answer = answer_of(stage, &client, &format!("http://{name}/hostname"))?;
            if !answer.starts_with("web-") {
                bail!("from {node}, {name} answered {answer:?}");
            }
        }
    }
    balanced(stage)
}

/// Thirty requests reach more than one endpoint: the proxy does not pin.
fn balanced(stage: &Stage) -> Result<()> {
    let client = fixtures::client(stage, &stage.node(1)?)?;
    let answers = stage.sh(
        &client,
        "for i in $(seq 30); do wget -qO- -T 5 http://web/hostname; echo; done",
    )?;
    let names: BTreeSet<&str> = answers.split_whitespace().collect();
    if names.len() < 3 {
        bail!("30 requests reached only {names:?}");
    }
    Ok(())
}

fn dns_ready(stage: &Stage) -> Result<()> {
    wait::until("CoreDNS Ready", Duration::from_secs(180), || {
        let pods = seen(
            stage
                .api()
                .items("/api/v1/namespaces/kube-system/pods?labelSelector=k8s-app%3Dkube-dns"),
        )?;
        let summaries: Vec<String> = pods.iter().map(super::kit::summary).collect();
        check(
            pods.iter()
                .any(|pod| api::condition(pod, "Ready") == "True"),
            || summaries.join(" | "),
        )
    })
}

/// Asks once more when a first packet meets a rule that is just being written.
fn answer_of(stage: &Stage, client: &Pod, url: &str) -> Result<String> {
    wait::until(&format!("answer of {url}"), Duration::from_secs(30), || {
        seen(stage.sh(client, &format!("wget -qO- -T 5 {url}")))
    })
}

/// A pod of the Deployment asks the Service over UDP (agnhost's `/dial` does the asking).
pub fn cluster_ip_udp(stage: &Stage) -> Result<()> {
    let pods = fixtures::web(stage)?;
    let service = stage
        .api()
        .get(&format!("/api/v1/namespaces/{NAMESPACE}/services/web"))?;
    let address = text_at(&service, "/spec/clusterIP");
    for pod in &pods {
        let target = format!("{}:8080", text_at(pod, "/status/podIP"));
        let path = format!("/dial?host={address}&port=81&protocol=udp&request=hostname&tries=3");
        let answer = wait::until("UDP answer", Duration::from_secs(30), || {
            let answer = seen(stage.http(&target, &path))?;
            check(answer.contains("responses"), || answer.clone()).map(|()| answer)
        })?;
        if !answer.contains("web-") {
            bail!("{address}:81/UDP answered {answer:?}");
        }
    }
    Ok(())
}

pub fn nodeport_on_every_node(stage: &Stage) -> Result<()> {
    fixtures::web(stage)?;
    for node in stage.nodes() {
        let address = stage.cluster.node_address(&node)?;
        let answer = wait::until(
            &format!("NodePort on {node}"),
            Duration::from_secs(30),
            || seen(stage.http(&format!("{address}:{WEB_NODE_PORT}"), "/hostname")),
        )?;
        if !answer.starts_with("web-") {
            bail!("{node} answered {answer:?}");
        }
    }
    Ok(())
}

fn nodeport_udp(stage: &Stage) -> Result<()> {
    fixtures::web(stage)?;
    for node in stage.nodes() {
        let target = format!(
            "{}:{}",
            stage.cluster.node_address(&node)?,
            WEB_NODE_PORT + 1
        );
        let answer = wait::until(
            &format!("UDP NodePort on {node}"),
            Duration::from_secs(30),
            || {
                seen(
                    stage
                        .cluster
                        .client
                        .dial(&target, "hostname", true, Duration::from_secs(3)),
                )
            },
        )?;
        if !answer.starts_with("web-") {
            bail!("{node} answered {answer:?}");
        }
    }
    Ok(())
}

/// A Service with one endpoint, called from that very pod: the reply must come back through the translation.
fn hairpin(stage: &Stage) -> Result<()> {
    let node = stage.node(1)?;
    let container = json!({"command": ["sh", "-c", "mkdir /www && echo itself > /www/index.html && httpd -f -p 8080 -h /www"]});
    let pod = stage.pod(NAMESPACE, "hairpin", container, on_node(&node))?;
    let address = service(stage, "hairpin", json!({"app": "hairpin"}))?;
    stage.ready(&pod)?;
    let answer = answer_of(stage, &pod, &format!("http://{address}/"))?;
    if answer.trim() != "itself" {
        bail!("answered {answer:?}");
    }
    stage.delete(&pod)
}

/// Makes a ClusterIP Service on port 80 to 8080 and returns its address.
fn service(stage: &Stage, name: &str, selector: Value) -> Result<String> {
    stage.apply(&json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"selector": selector, "ports": [{"port": 80, "targetPort": 8080}]},
    }))?;
    let object = stage
        .api()
        .get(&format!("/api/v1/namespaces/{NAMESPACE}/services/{name}"))?;
    Ok(text_at(&object, "/spec/clusterIP").to_owned())
}

/// Refused at once, not silence until a timeout.
fn no_endpoints(stage: &Stage) -> Result<()> {
    stage.namespace(NAMESPACE)?;
    let address = service(stage, "nobody", json!({"app": "nobody"}))?;
    let container = json!({"image": AGNHOST, "command": ["sleep", "1000000"]});
    let pod = stage.pod(NAMESPACE, "knocker", container, on_node(&stage.node(1)?))?;
    stage.ready(&pod)?;
    wait::until("refusal", Duration::from_secs(30), || {
        let output = seen(stage.exec(
            &pod,
            &[
                "/agnhost",
                "connect",
                "--timeout=3s",
                &format!("{address}:80"),
            ],
        ))?;
        check(
            output.code != 0 && output.stderr.contains("REFUSED"),
            || format!("exit {} {}", output.code, output.stderr),
        )
    })?;
    stage.delete(&pod)
}

fn host_port(stage: &Stage) -> Result<()> {
    let node = stage.node(2)?;
    let container = json!({
        "image": AGNHOST, "args": ["netexec", "--http-port=8080"],
        "ports": [{"containerPort": 8080, "hostPort": 18080}],
    });
    let pod = stage.pod(NAMESPACE, "host-port", container, on_node(&node))?;
    stage.ready(&pod)?;
    let address = stage.cluster.node_address(&node)?;
    let answer = wait::until("host port", Duration::from_secs(30), || {
        seen(stage.http(&format!("{address}:18080"), "/hostname"))
    })?;
    if answer != "host-port" {
        bail!("answered {answer:?}");
    }
    stage.delete(&pod)?;
    wait::until("host port closed", Duration::from_secs(30), || {
        check(
            stage
                .http(&format!("{address}:18080"), "/hostname")
                .is_err(),
            || "still answers after the pod is gone".into(),
        )
    })
}

/// A pod that fails its readiness leaves the Service and comes back.
fn endpoints_followed(stage: &Stage) -> Result<()> {
    let container = json!({
        "command": ["sh", "-c", "mkdir /www && echo yes > /www/index.html && touch /tmp/ready && httpd -f -p 8080 -h /www"],
        "readinessProbe": {"exec": {"command": ["cat", "/tmp/ready"]}, "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 1},
    });
    let pod = stage.pod(NAMESPACE, "moody", container, on_node(&stage.node(3)?))?;
    let address = service(stage, "moody", json!({"app": "moody"}))?;
    stage.ready(&pod)?;
    let client = fixtures::client(stage, &stage.node(1)?)?;
    answer_of(stage, &client, &format!("http://{address}/"))?;
    stage.sh(&pod, "rm /tmp/ready")?;
    wait::until(
        "unready pod left the Service",
        Duration::from_secs(30),
        || {
            let output = seen(stage.exec(
                &client,
                &["wget", "-qO-", "-T", "2", &format!("http://{address}/")],
            ))?;
            check(output.code != 0, || "still answers".into())
        },
    )?;
    stage.sh(&pod, "touch /tmp/ready")?;
    answer_of(stage, &client, &format!("http://{address}/"))
        .context("after the pod was ready again")?;
    stage.delete(&pod)
}
