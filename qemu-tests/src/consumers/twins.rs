//! `cargo rig compare-metrics`: a Kedge node and an upstream node of one cluster with the same pods, and what their pages say differently.
//!
//! In: a cluster of both, `promtool`. Out: [`Outcome`]; its differences are judged by the reviewed list ([`allow`]). Every page that was read is
//! kept in the cluster's directory, below `metrics`. Both nodes get the same pods and are asked the same before a page is read. Beside the compared
//! pods each node has an [`eye`], from which the groups of the known load are read without using anything in them.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::compare::{Difference, Facts, Place, Side, compare};
use super::print::Faults;
use super::{allow, apart, load, print, promtool, raw, truth};
use crate::artefacts::workspace;
use crate::cluster;
use crate::exposition::Page;
use crate::stories::Stage;
use crate::stories::kit::{Pod, on_node, set};
use crate::twin::Software;
use crate::upstream::Built;
use crate::wait::{self, check, seen};

/// An upstream kubelet walks its tree every ten seconds or so.
const HOUSEKEEPING: Duration = Duration::from_secs(120);
const DNS: &str = "/apis/apps/v1/namespaces/kube-system/deployments/coredns";

const EYES: &str = "twin-eyes";
/// Where an [`eye`] has the node's groups.
const GROUPS: &str = "/groups";

/// What was found.
pub struct Outcome {
    pub differences: Vec<Difference>,
    pub faults: Faults,
}

/// One node while it is compared.
struct Node {
    name: String,
    namespace: String,
    load: Pod,
    eye: Pod,
}

/// All of a node's pages, and what is its own.
struct Pages {
    facts: Facts,
    texts: Vec<String>,
    pages: Vec<Page>,
    summary: Value,
    /// What the load counts itself, before and after.
    cpu: (f64, f64),
    /// What the kernel says of the load's groups that the page does not.
    untrue: Vec<String>,
}

impl Pages {
    fn side(&self, index: usize) -> Side<'_> {
        Side {
            page: &self.pages[index],
            facts: &self.facts,
        }
    }
}

/// Compares, prints, and says whether all is well. `record`: what `promtool` newly says of the upstream node goes into the recorded list.
pub fn run(stage: &Stage, programs: &Built, record: bool, all: bool) -> Result<bool> {
    // Read before minutes are spent.
    let lines = allow::parse(allow::LIST).context("qemu-tests/metrics/differences.tsv")?;
    print!("{}", apart::head());
    let outcome = observe(stage, programs, record)?;
    let verdict = allow::judge(&outcome.differences, &lines);
    print!("{}", print::text(&verdict, &outcome.faults, all));
    Ok(verdict.good() && outcome.faults.none())
}

fn observe(stage: &Stage, programs: &Built, record: bool) -> Result<Outcome> {
    let find = |software: Software| {
        let nodes = stage.nodes();
        let found = nodes
            .into_iter()
            .find(|node| stage.cluster.software(node) == software);
        found.with_context(|| {
            format!(
                "the cluster has no node with {}'s software (`cargo rig up --mixed`)",
                software.name()
            )
        })
    };
    let (kedge, upstream) = (find(Software::Kedge)?, find(Software::Upstream)?);
    // Its pod would be on one of the two.
    stage.api().merge(DNS, &json!({"spec": {"replicas": 0}}))?;
    let nodes = [populate(stage, &kedge)?, populate(stage, &upstream)?];
    println!("the same pods run on {kedge} and {upstream}; the known load works");
    work(stage, &nodes)?;
    nodes.iter().try_for_each(|node| ask(stage, node))?;
    let [ours, theirs] = [read(stage, &nodes[0])?, read(stage, &nodes[1])?];
    stage.api().merge(DNS, &json!({"spec": {"replicas": 1}}))?;
    let mut differences = Vec::new();
    for (index, place) in Place::ALL.into_iter().enumerate() {
        differences.extend(compare(place, ours.side(index), theirs.side(index)));
    }
    let (namespace, cpu) = (nodes[0].namespace.as_str(), ours.cpu);
    let mut untrue = load::check_pages(&ours.pages[1], &ours.pages[2], namespace, cpu);
    untrue.extend(load::check_summary(&ours.summary, namespace, cpu));
    untrue.extend_from_slice(&ours.untrue);
    let problems = judged_by_promtool(programs, &ours, &theirs, record)?;
    let faults = Faults {
        untrue,
        theirs: theirs.untrue,
        problems,
    };
    Ok(Outcome {
        differences,
        faults,
    })
}

/// The compared pods of one node: every class of service, probes, volumes, an init container, one that has ended, one that cannot start.
fn populate(stage: &Stage, node: &str) -> Result<Node> {
    let namespace = stage.namespace(&format!("twin-{node}"))?;
    let config = json!({"metadata": {"name": "words"}, "data": {"a": "b"}});
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    if stage.api().find(&format!("{path}/words"))?.is_none() {
        stage.api().create(&path, &config)?;
    }
    let mut ready = vec![stage.sleeper(&namespace, "plain", node)?];
    let same = json!({"cpu": "50m", "memory": "32Mi"});
    let guaranteed =
        json!({"command": ["sleep", "1000000"], "resources": {"limits": same, "requests": same}});
    ready.push(stage.pod(&namespace, "guaranteed", guaranteed, on_node(node))?);
    let probe = |action: Value| {
        let mut probe = json!({"periodSeconds": 5, "timeoutSeconds": 20});
        let merged = action.as_object().into_iter().flatten();
        merged.for_each(|(key, value)| set(&mut probe, key, value.clone()));
        probe
    };
    let http = json!({"httpGet": {"path": "/", "port": 8080}});
    let probed = json!({
        "command": ["sh", "-c", "mkdir /tmp/www; echo ok > /tmp/www/index.html; exec httpd -f -p 8080 -h /tmp/www"],
        "resources": {"requests": {"cpu": "10m"}},
        "startupProbe": probe(http.clone()), "readinessProbe": probe(http), "livenessProbe": probe(json!({"exec": {"command": ["true"]}})),
    });
    ready.push(stage.pod(&namespace, "probed", probed, on_node(node))?);
    let mut spec = on_node(node);
    let volumes = json!([{"name": "disk", "emptyDir": {}}, {"name": "words", "configMap": {"name": "words"}}]);
    set(&mut spec, "volumes", volumes);
    let init = json!([{"name": "first", "image": crate::oci::BUSYBOX, "command": ["true"]}]);
    set(&mut spec, "initContainers", init);
    let mounts =
        json!([{"name": "disk", "mountPath": "/disk"}, {"name": "words", "mountPath": "/words"}]);
    let with_volumes = json!({"command": ["sleep", "1000000"], "volumeMounts": mounts});
    ready.push(stage.pod(&namespace, "volumes", with_volumes, spec)?);
    let mut once = on_node(node);
    set(&mut once, "restartPolicy", json!("Never"));
    let ended = stage.pod(&namespace, "ended", json!({"command": ["true"]}), once)?;
    let nowhere = json!({"image": "registry.k8s.io/no-such-image:1", "imagePullPolicy": "Always"});
    stage.pod(&namespace, "no-image", nowhere, on_node(node))?;
    let load = load::create(stage, &namespace, node)?;
    let eye = eye(stage, node)?;
    ready.push(eye.clone());
    ready
        .iter()
        .try_for_each(|pod| stage.ready(pod).map(drop))?;
    stage.succeeded(&ended)?;
    Ok(Node {
        name: node.to_owned(),
        namespace,
        load,
        eye,
    })
}

/// A pod that sees all of its node's groups and processes. Reading them from inside the load would add its own page faults and time to what is read.
fn eye(stage: &Stage, node: &str) -> Result<Pod> {
    let mut spec = on_node(node);
    set(&mut spec, "hostPID", json!(true));
    let groups = json!({"path": "/sys/fs/cgroup", "type": "Directory"});
    set(
        &mut spec,
        "volumes",
        json!([{"name": "groups", "hostPath": groups}]),
    );
    let container = json!({
        "command": ["sleep", "1000000"],
        "volumeMounts": [{"name": "groups", "mountPath": GROUPS, "readOnly": true}],
    });
    stage.pod(EYES, node, container, spec)
}

/// The loads send to each other. Afterwards both nodes' pages must have caught up with them.
fn work(stage: &Stage, nodes: &[Node; 2]) -> Result<()> {
    let addresses = [
        load::address(stage, &nodes[0].load)?,
        load::address(stage, &nodes[1].load)?,
    ];
    load::begin(stage, &nodes[0].load, &addresses[1])?;
    load::begin(stage, &nodes[1].load, &addresses[0])?;
    load::finish(stage, &[&nodes[0].load, &nodes[1].load])?;
    for node in nodes {
        let used = load::cpu_seconds(stage, &node.load)?;
        wait::until(&format!("{} up to date", node.name), HOUSEKEEPING, || {
            let page =
                seen(raw(stage, &node.name, Place::Cadvisor).and_then(|text| Page::parse(&text)))?;
            let labels = [
                ("namespace", node.namespace.as_str()),
                ("pod", load::NAME),
                ("container", "main"),
            ];
            let said = seen(page.one("container_cpu_usage_seconds_total", &labels))?;
            seen(load::within("CPU seconds", said, used, used * 1.02))
        })?;
    }
    Ok(())
}

/// What families of requests and of health checks count. kubectl goes by WebSocket, which the API server passes on to upstream's kubelet as it is and
/// to a node that has not declared the feature by SPDY: with both in turn, either node has seen an upgrade by POST.
fn ask(stage: &Stage, node: &Node) -> Result<()> {
    let Pod { namespace, name } = &node.eye;
    let words = ["exec", "-n", namespace, name, "-c", "main", "--", "true"];
    for websockets in ["true", "false"] {
        let mut command = stage.cluster.kubectl_command(&words);
        command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets);
        cluster::run(&mut command, "", Duration::from_secs(120))?.success("kubectl exec")?;
    }
    let health = format!("/api/v1/nodes/{}/proxy/healthz", node.name);
    stage.api().text(&health).map(drop)
}

/// The files of the load's groups, when every one of them has been sampled again after that.
fn groups(stage: &Stage, node: &Node) -> Result<truth::Groups> {
    let page = || Page::parse(&raw(stage, &node.name, Place::Cadvisor)?);
    let ids = truth::sampled(&page()?, &node.namespace);
    let before = look(stage, node, ids.keys())?;
    let earlier = truth::sampled(&page()?, &node.namespace);
    let what = format!("{} has sampled the load again", node.name);
    wait::until(&what, HOUSEKEEPING, || {
        let later = truth::sampled(&seen(page())?, &node.namespace);
        check(truth::is_fresh(&earlier, &later), || {
            format!("{later:?} after {earlier:?}")
        })
    })?;
    Ok(before)
}

fn look<'a>(
    stage: &Stage,
    node: &Node,
    ids: impl Iterator<Item = &'a String>,
) -> Result<truth::Groups> {
    let printed = stage.sh(&node.eye, &truth::script(GROUPS, ids))?;
    Ok(truth::groups(&printed))
}

fn read(stage: &Stage, node: &Node) -> Result<Pages> {
    let directory = stage.cluster.dirs.root.join("metrics");
    fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
    let started = load::started(&stage.get(&node.load)?)?;
    let before = load::cpu_seconds(stage, &node.load)?;
    let groups = groups(stage, node)?;
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .context("the clock")?;
    let (mut texts, mut pages) = (Vec::new(), Vec::new());
    for place in Place::ALL {
        let text = raw(stage, &node.name, place)?;
        let name = place.path().trim_start_matches('/').replace('/', "-");
        let file = directory.join(format!("{}-{name}.txt", node.name));
        fs::write(&file, &text).with_context(|| format!("write {}", file.display()))?;
        pages.push(
            Page::parse(&text).with_context(|| format!("{} of {}", place.path(), node.name))?,
        );
        texts.push(text);
    }
    let later = look(stage, node, groups.keys())?;
    // In the order of `Place::ALL`.
    let untrue = truth::check(&pages[1], &node.namespace, &groups, &later);
    let summary = format!("/api/v1/nodes/{}/proxy/stats/summary", node.name);
    let summary = stage.api().get(&summary)?;
    Ok(Pages {
        summary,
        facts: Facts {
            node: node.name.clone(),
            namespace: node.namespace.clone(),
            load: load::NAME.into(),
            started,
            asked: now.as_secs_f64(),
        },
        texts,
        pages,
        cpu: (before, load::cpu_seconds(stage, &node.load)?),
        untrue,
    })
}

fn judged_by_promtool(
    programs: &Built,
    ours: &Pages,
    theirs: &Pages,
    record: bool,
) -> Result<Vec<String>> {
    let program = programs.path("promtool")?;
    let mut upstream = BTreeSet::new();
    for text in &theirs.texts {
        upstream.extend(promtool::check(program, text)?);
    }
    if record {
        let path = workspace()?.join("qemu-tests/metrics/promtool-upstream.tsv");
        fs::write(&path, promtool::record(promtool::RECORDED, &upstream))
            .with_context(|| format!("write {}", path.display()))?;
    }
    upstream.extend(promtool::recorded(promtool::RECORDED));
    let mut found = Vec::new();
    for (place, text) in Place::ALL.iter().zip(&ours.texts) {
        let problems = promtool::ours_alone(&promtool::check(program, text)?, &upstream);
        found.extend(
            problems
                .iter()
                .map(|problem| format!("{}\t{problem}", place.path())),
        );
    }
    Ok(found)
}
