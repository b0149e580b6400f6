//! Real readers of a node's metrics: Prometheus, metrics-server with `kubectl top` and an HPA, `promtool`; all compiled unmodified.
//!
//! In: a cluster with Ready nodes, the programs, how long to scrape. Out: an error that names what does not hold, or the figures as a table.
//! Prometheus scrapes every page of every node each 15 s throughout; metrics-server and the HPA have their turn meanwhile. Both run beside the
//! control plane, as processes of the rig's supervisor, and reach nodes and kubelets as pods' peers do: by address, token and cluster CA.
//! What two nodes say differently is [`compare`]d elsewhere ([`twins`]).
//!
//! Absent: service discovery (targets are written down), remote write, alerting.

pub mod access;
pub mod allow;
mod apart;
pub mod compare;
pub mod load;
pub mod metrics_server;
mod print;
pub mod prometheus;
pub mod promtool;
pub mod queries;
mod report;
mod truth;
pub mod twins;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::api::text_at;
use crate::artefacts::workspace;
use crate::exposition::Page;
use crate::progress::Progress;
use crate::stories::Stage;
use crate::stories::kit::{BUSYBOX, Pod, on_node};
use crate::twin::Software;
use crate::upstream::{self, Built};
use crate::wait::{self, check, seen};
use compare::Place;
use metrics_server::{MetricsServer, Top};
use prometheus::Prometheus;

const NAMESPACE: &str = "consumers";
/// Its pods start and its metrics come within this.
const SCALE: Duration = Duration::from_secs(240);
const MINUTE: Duration = Duration::from_secs(60);
/// What a pod of the HPA asks for and may have, in thousandths of a CPU: at its limit it wants four of itself.
const REQUEST: u32 = 50;
const LIMIT: u32 = 100;

/// Of [`upstream::CONSUMERS`]: builds what is missing.
pub fn programs(names: &[&str], progress: &Progress) -> Result<Built> {
    let modules = workspace()?.join("qemu-tests/upstream");
    upstream::ensure(&modules, &upstream::cache_root()?, names, progress)
}

/// The programs if they were built before.
pub fn cached() -> Result<Option<Built>> {
    let modules = workspace()?.join("qemu-tests/upstream");
    upstream::cached(&modules, &upstream::cache_root()?, upstream::CONSUMERS)
}

/// Everything, for `time` of scraping. Prints the table.
pub fn run(stage: &Stage, programs: &Built, time: Duration) -> Result<()> {
    let cluster = &stage.cluster;
    answering(stage)?;
    promtool_on_kedge(stage, programs)?;
    stage.namespace(NAMESPACE)?;
    stage.apply(&access::objects(NAMESPACE))?;
    let token = access::token(stage.api(), NAMESPACE, "scraper")?;
    let nodes = addresses(stage)?;
    // A series that begins with what it counts has no rate: each node has started a pod before the first scrape.
    let mut pods = started(stage, "early")?;
    pods.iter().try_for_each(|pod| stage.ready(pod).map(drop))?;
    let begun = Instant::now();
    let prometheus = Prometheus::start(cluster, programs.path("prometheus")?, &nodes, &token)?;
    let server = MetricsServer::start(cluster, programs.path("metrics-server")?)?;
    let burning = Burning(stage);
    let expected = nodes.len() * Place::ALL.len();
    wait::until("every target scraped", MINUTE, || {
        seen(prometheus.alive())?;
        let up = seen(prometheus.query("up"))?;
        check(up.len() == expected, || {
            format!("{} of {expected}", up.len())
        })
    })?;
    pods.extend(happenings(stage)?);
    let tops = scaled(stage, &server)?;
    wait::until("the time of scraping", time + MINUTE, || {
        seen(prometheus.alive())?;
        check(begun.elapsed() >= time, || {
            format!("{:.0} s", begun.elapsed().as_secs_f32())
        })
    })?;
    let figures = report::check(&prometheus, &nodes, begun.elapsed())?;
    print!("{}{}", report::table(&figures), report::top_table(&tops));
    drop((server, burning));
    pods.iter().try_for_each(|pod| stage.delete(pod))
}

/// Takes the Deployment and its HPA away, however the run ends.
struct Burning<'a>(&'a Stage);

impl Drop for Burning<'_> {
    fn drop(&mut self) {
        for path in [scaler_path(), deployment_path()] {
            let there = self.0.api().find(&path);
            let gone = there.and_then(|there| {
                there.map_or(Ok(()), |_| self.0.api().delete(&path, None).map(drop))
            });
            if let Err(error) = gone {
                println!("delete {path}: {error:#}");
            }
        }
    }
}

fn deployment_path() -> String {
    format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments/burn")
}

fn scaler_path() -> String {
    format!("/apis/autoscaling/v2/namespaces/{NAMESPACE}/horizontalpodautoscalers/burn")
}

/// A node is Ready a moment before its serving certificate is signed by the cluster's CA, and the API server asks no other.
fn answering(stage: &Stage) -> Result<()> {
    stage.nodes().iter().try_for_each(|node| {
        wait::until(&format!("{node} answers the API server"), MINUTE, || {
            seen(raw(stage, node, Place::Resource)).map(drop)
        })
    })
}

/// `promtool check metrics` on every page of every Kedge node, against what is recorded of upstream's.
fn promtool_on_kedge(stage: &Stage, programs: &Built) -> Result<()> {
    let upstream = promtool::recorded(promtool::RECORDED);
    let mut found = Vec::new();
    for node in stage
        .nodes()
        .iter()
        .filter(|node| stage.cluster.software(node) == Software::Kedge)
    {
        for place in Place::ALL {
            let text = raw(stage, node, place)?;
            Page::parse(&text).with_context(|| format!("{} of {node}", place.path()))?;
            let problems = promtool::check(programs.path("promtool")?, &text)?;
            let ours = promtool::ours_alone(&problems, &upstream);
            found.extend(
                ours.iter()
                    .map(|problem| format!("{node} {} {problem}", place.path())),
            );
        }
    }
    if !found.is_empty() {
        bail!(
            "promtool says of no upstream kubelet:\n{}",
            found.join("\n")
        );
    }
    Ok(())
}

/// A node's page as text, through the API server.
pub(crate) fn raw(stage: &Stage, node: &str, place: Place) -> Result<String> {
    let path = format!("/api/v1/nodes/{node}/proxy{}", place.path());
    stage.api().text(&path)
}

/// The nodes' names and addresses.
fn addresses(stage: &Stage) -> Result<Vec<(String, String)>> {
    let address = |name: String| Ok((name.clone(), stage.cluster.node_address(&name)?));
    stage.nodes().into_iter().map(address).collect()
}

/// A pod on each node that is probed and writes a little now and then.
fn started(stage: &Stage, name: &str) -> Result<Vec<Pod>> {
    let one = |node: String| {
        let script =
            "while :; do dd if=/dev/zero of=/root/f bs=64k count=1 conv=fsync; sleep 5; done";
        let container = json!({
            "command": ["sh", "-c", script], "resources": {"limits": {"memory": "16Mi"}},
            "readinessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 5, "timeoutSeconds": 10},
        });
        stage.pod(
            NAMESPACE,
            &format!("{name}-{node}"),
            container,
            on_node(&node),
        )
    };
    stage.nodes().into_iter().map(one).collect()
}

/// What the queries ask about: [`started`] pods, another whose image there is not, a Deployment that burns CPU.
fn happenings(stage: &Stage) -> Result<Vec<Pod>> {
    stage.apply(&burning())?;
    let mut pods = started(stage, "started")?;
    let nowhere = json!({"image": "registry.k8s.io/no-such-image:1", "imagePullPolicy": "Always"});
    pods.push(stage.pod(NAMESPACE, "no-image", nowhere, on_node(&stage.node(1)?))?);
    Ok(pods)
}

/// A Deployment of one that takes all it may have, and an HPA that wants half of what it asked for.
fn burning() -> Value {
    let labels = json!({"app": "burn"});
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "burn", "namespace": NAMESPACE},
            "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {
                "terminationGracePeriodSeconds": 1,
                "containers": [{
                    "name": "main", "image": BUSYBOX, "command": ["sh", "-c", "while :; do :; done"],
                    "resources": {"requests": {"cpu": format!("{REQUEST}m")}, "limits": {"cpu": format!("{LIMIT}m"), "memory": "16Mi"}},
                }],
            }}},
        },
        {
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "burn", "namespace": NAMESPACE},
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "burn"}, "minReplicas": 1, "maxReplicas": 2,
                "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}],
            },
        },
    ]})
}

/// Waits for the HPA's second pod; returns what `kubectl top` says of nodes and pods.
fn scaled(stage: &Stage, server: &MetricsServer<'_>) -> Result<Vec<Top>> {
    let nodes = stage.nodes();
    server.ready(&nodes)?;
    wait::until("the HPA's second pod", SCALE, || {
        let deployment = seen(stage.api().get(&deployment_path()))?;
        check(
            deployment["status"]["readyReplicas"].as_u64() >= Some(2),
            || {
                let scaler = stage.api().get(&scaler_path()).unwrap_or_default();
                format!("{} {}", deployment["status"], scaler["status"])
            },
        )
    })?;
    let mut all = metrics_server::top(&stage.kubectl(&["top", "node", "--no-headers"])?)?;
    for name in &nodes {
        let found = all
            .iter()
            .find(|top| top.name == *name)
            .with_context(|| format!("kubectl top does not know {name}"))?;
        plausible_node(found, capacity(stage, name)?)?;
    }
    between_samples(stage)?;
    let pods = wait::until("kubectl top pod with a burning pod", MINUTE, || {
        let text = seen(stage.kubectl(&["top", "pod", "-n", NAMESPACE, "--no-headers"]))?;
        let pods = seen(metrics_server::top(&text))?;
        check(pods.iter().any(|pod| pod.name.starts_with("burn-")), || {
            text.clone()
        })?;
        Ok(pods)
    })?;
    pods.iter().try_for_each(plausible_pod)?;
    all.extend(pods);
    Ok(all)
}

/// Waits until metrics-server counts every burning pod's CPU from a sample on. Its first rate counts from the container's start (pkg/storage/pod.go), and what
/// the runtime used in the container's cgroup before comes on top: 137m of a limit of 100m seen.
fn between_samples(stage: &Stage) -> Result<()> {
    let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{NAMESPACE}/pods");
    wait::until("rates of burning pods between samples", 2 * MINUTE, || {
        let rates = seen(stage.api().items(&path))?;
        let pods = format!("/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=app%3Dburn");
        for pod in seen(stage.api().items(&pods))? {
            let name = text_at(&pod, "/metadata/name");
            let rate = rates.iter().find(|r| text_at(r, "/metadata/name") == name);
            let is_later = rate.map(|rate| seen(metrics_server::is_between_samples(rate, &pod)));
            check(is_later.transpose()? == Some(true), || {
                format!("{name}: {rate:?}")
            })?;
        }
        Ok(())
    })
}

/// A node's CPUs.
fn capacity(stage: &Stage, name: &str) -> Result<f64> {
    let node = stage.cluster.node(name)?;
    let cpus = text_at(&node, "/status/capacity/cpu");
    cpus.parse()
        .with_context(|| format!("CPUs of {name}: {cpus:?}"))
}

fn plausible_node(top: &Top, cpus: f64) -> Result<()> {
    let percent = top.memory_percent.unwrap_or(0.0);
    if top.milli_cpus < 1.0 || top.milli_cpus > cpus * 1200.0 || !(3.0..=100.0).contains(&percent) {
        bail!("kubectl top node: {top:?} of {cpus} CPUs");
    }
    Ok(())
}

/// A burning pod takes its limit and no more, as far as two busy cores let it; another has no limit, and its probes and writes take what emulation makes
/// of them (107m seen on a busy host).
fn plausible_pod(top: &Top) -> Result<()> {
    let (limit, burns) = (f64::from(LIMIT), top.name.starts_with("burn-"));
    let range = if burns {
        limit * 0.2..=limit * 1.3
    } else {
        0.0..=limit * 5.0
    };
    if !range.contains(&top.milli_cpus) || top.mib > 16.0 {
        bail!("kubectl top pod: {top:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn top(name: &str, milli_cpus: f64, mib: f64, memory_percent: Option<f64>) -> Top {
        Top {
            name: name.into(),
            milli_cpus,
            mib,
            memory_percent,
        }
    }

    #[test]
    fn figures_that_cannot_be_are_refused() {
        assert!(plausible_node(&top("n", 300.0, 200.0, Some(40.0)), 1.0).is_ok());
        assert!(plausible_node(&top("n", 0.0, 200.0, Some(40.0)), 1.0).is_err());
        assert!(plausible_node(&top("n", 3000.0, 200.0, Some(40.0)), 1.0).is_err());
        assert!(plausible_node(&top("n", 300.0, 200.0, Some(400.0)), 1.0).is_err());
        assert!(plausible_pod(&top("burn-a", 100.0, 1.0, None)).is_ok());
        assert!(plausible_pod(&top("burn-a", 2.0, 1.0, None)).is_err());
        assert!(plausible_pod(&top("burn-a", 400.0, 1.0, None)).is_err());
        assert!(plausible_pod(&top("started-node1", 0.0, 0.0, None)).is_ok());
        assert!(plausible_pod(&top("started-node1", 107.0, 0.0, None)).is_ok());
        assert!(plausible_pod(&top("started-node1", 900.0, 0.0, None)).is_err());
    }
}
