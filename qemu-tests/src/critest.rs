//! `cargo rig critest`: cri-tools' suite against the runtime of a node, as shipped in the image.
//!
//! In: a running cluster, the parts. Out: a table by group of tests, the failures, the report as `IMAGE.json` and the suite's words as
//! `IMAGE.log` below `target/critest` (a focused run has its own); the verdict. A spec that the suite meant to run and that has no outcome
//! is missing, and no run with one is good. A node has no shell to start it from, so it runs in a privileged pod on the node's own network with the
//! runtime's socket and one directory that is at the same path inside and out, where runtime and tests meet. The agent leaves objects
//! without its labels alone, so it may keep running. Absent: benchmarks.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::afterwards::Afterwards;
use crate::api::text_at;
use crate::artefacts;
use crate::cluster::Cluster;
use crate::conformance::parts::Parts;
use crate::conformance::report::{self, Outcome, State};
use crate::progress::Progress;
use crate::supervisor::protocol::Request;
use crate::testimages::CRITEST;
use crate::wait::{self, seen};

const NAMESPACE: &str = "kedge-critest";
const POD: &str = "critest";
/// Where runtime and tests meet.
const SHARED: &str = "/var/lib/kedge-critest";
/// Before the report in the pod's log.
const MARK: &str = "==== critest report ====";
const START_DEADLINE: Duration = Duration::from_secs(600);
/// The suite's own limit, at which it says what it did not reach; then images and logs have a quarter of an hour.
const SUITE_HOURS: u64 = 2;
const END_DEADLINE: Duration = Duration::from_secs(SUITE_HOURS * 3600 + 15 * 60);

pub struct Options {
    /// The first that runs Kedge unless named.
    pub node: Option<String>,
    pub focus: Option<String>,
}

/// Whether every test passed.
pub fn run(
    cluster: &Cluster,
    parts: &Parts,
    options: &Options,
    progress: &Progress,
) -> Result<bool> {
    let description = &cluster.description;
    let node = choose(
        &description.nodes,
        &description.twins,
        options.node.as_deref(),
    )?;
    cluster
        .client
        .request(&Request::Images {
            layouts: vec![parts.images.clone()],
        })
        .context("serve the test images")?;
    remove(cluster)?;
    // The pod is privileged and a cluster that was there before goes on: it is deleted also after an error, and when this process is killed.
    let words = [
        &["-n", NAMESPACE, "delete", "pod", POD][..],
        &["--ignore-not-found", "--grace-period=1", "--wait=false"],
    ];
    let deleted = Afterwards::run(&cluster.kubectl_command(&words.concat()))?;
    cluster.apply(&objects(node, options.focus.as_deref()).to_string())?;
    let log = finished_log(cluster, progress)?;
    remove(cluster)?;
    drop(deleted);
    let (words, report) = log
        .split_once(MARK)
        .with_context(|| format!("critest left no report; its last words:\n{}", tail(&log)))?;
    let outcomes = report::outcomes(report.trim(), |_| true)
        .with_context(|| format!("its last words:\n{}", tail(words)))?;
    let (intended, reasons) = report::intended(report.trim())?;
    if outcomes.is_empty() {
        bail!("critest ran no test (focus {:?})", options.focus);
    }
    let directory = artefacts::target_directory(&artefacts::workspace()?).join("critest");
    fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    let image = cluster.description.artefacts.image.file_name();
    let image = image.unwrap_or_default().to_string_lossy();
    let name = file_name(&image, options.focus.as_deref());
    let missing = intended.saturating_sub(outcomes.len());
    write(
        &directory.join(format!("{name}.json")),
        &json!({"image": image, "focus": options.focus, "intended": intended, "outcomes": outcomes})
            .to_string(),
    )?;
    write(&directory.join(format!("{name}.log")), words)?;
    print!("{}\n{}", failures(&outcomes), table(&outcomes));
    if missing > 0 {
        println!(
            "{missing} of the {intended} tests that it meant to run have no verdict: {}",
            reasons.join("; ")
        );
    }
    println!(
        "image {image}, node {node}, results in {}",
        directory.display()
    );
    Ok(missing == 0
        && outcomes
            .iter()
            .all(|outcome| outcome.state == State::Passed))
}

/// The node that was named, or the first that will do. A machine with upstream's software has the runtime, but not the runtime's settings and
/// plugins of the image that results are filed under.
fn choose<'a>(nodes: &'a [String], twins: &[String], wanted: Option<&str>) -> Result<&'a str> {
    let ours: Vec<&str> = nodes
        .iter()
        .filter(|node| !twins.contains(node))
        .map(String::as_str)
        .collect();
    let Some(first) = ours.first() else {
        bail!("no node of this cluster runs the image as shipped: `cargo rig down`, then again");
    };
    let Some(wanted) = wanted else {
        return Ok(first);
    };
    match ours.iter().find(|node| **node == wanted) {
        Some(node) => Ok(node),
        None if twins.iter().any(|twin| twin == wanted) => bail!(
            "{wanted} runs upstream's software, not the image as shipped (that do: {})",
            ours.join(", ")
        ),
        None => bail!("no node {wanted:?} (there are: {})", nodes.join(", ")),
    }
}

/// A run of some tests does not replace one of all.
fn file_name(image: &str, focus: Option<&str>) -> String {
    match focus {
        None => image.to_owned(),
        Some(focus) => {
            let hash = Sha256::digest(focus);
            format!("{image}-focus-{}", crate::pki::hex(&hash[..4]))
        }
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

fn objects(node: &str, focus: Option<&str>) -> Value {
    let mut words = format!(
        "cd {SHARED} && critest --runtime-endpoint=unix:///run/containerd/containerd.sock \
         --ginkgo.no-color --ginkgo.v --ginkgo.timeout={SUITE_HOURS}h --ginkgo.json-report={SHARED}/report.json"
    );
    if focus.is_some() {
        words += " --ginkgo.focus=\"$FOCUS\"";
    }
    write!(words, "; echo; echo '{MARK}'; cat {SHARED}/report.json").unwrap_or_default();
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": NAMESPACE,
            "labels": {"pod-security.kubernetes.io/enforce": "privileged"},
        }},
        {"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": POD, "namespace": NAMESPACE},
            "spec": {
                "nodeName": node,
                "hostNetwork": true, "hostPID": true, "hostIPC": true,
                "restartPolicy": "Never",
                "automountServiceAccountToken": false,
                "terminationGracePeriodSeconds": 1,
                "containers": [{
                    "name": "critest", "image": CRITEST, "command": ["sh", "-c", words],
                    "env": [
                        {"name": "TMPDIR", "value": SHARED},
                        {"name": "FOCUS", "value": focus.unwrap_or_default()},
                    ],
                    "securityContext": {"privileged": true},
                    "volumeMounts": [
                        {"name": "shared", "mountPath": SHARED, "mountPropagation": "Bidirectional"},
                        {"name": "socket", "mountPath": "/run/containerd"},
                    ],
                }],
                "volumes": [
                    {"name": "shared", "hostPath": {"path": SHARED, "type": "DirectoryOrCreate"}},
                    {"name": "socket", "hostPath": {"path": "/run/containerd", "type": "Directory"}},
                ],
            }},
    ]})
}

fn path() -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/pods/{POD}")
}

/// Ends an earlier run's pod.
fn remove(cluster: &Cluster) -> Result<()> {
    if cluster.api.find(&path())?.is_some() {
        cluster
            .api
            .delete(&path(), Some(1))
            .context("delete the pod of critest")?;
    }
    wait::until(
        "the pod of critest is gone",
        Duration::from_secs(180),
        || match seen(cluster.api.find(&path()))? {
            None => Ok(()),
            Some(pod) => Err(format!("it is {}", text_at(&pod, "/status/phase"))),
        },
    )
}

/// The pod's whole log, when it has ended.
fn finished_log(cluster: &Cluster, progress: &Progress) -> Result<String> {
    let phase = || -> std::result::Result<String, String> {
        let pod = seen(cluster.api.get(&path()))?;
        Ok(text_at(&pod, "/status/phase").to_owned())
    };
    wait::until("critest begins", START_DEADLINE, || {
        match phase()?.as_str() {
            "Running" | "Succeeded" | "Failed" => Ok(()),
            other => Err(format!("the pod is {other}")),
        }
    })?;
    progress.say("critest runs; about an hour on two cores");
    wait::until("critest ends", END_DEADLINE, || match phase()?.as_str() {
        "Succeeded" | "Failed" => Ok(()),
        other => Err(format!("the pod is {other}")),
    })?;
    cluster
        .kubectl_with(
            &["-n", NAMESPACE, "logs", POD],
            "",
            Duration::from_secs(300),
        )?
        .success("kubectl logs")
}

/// `[k8s.io] Image Manager public image …` -> by the suite's own top groups, which are the longest beginnings that tests share.
fn group(name: &str) -> &str {
    const GROUPS: &[&str] = &[
        "AppArmor",
        "Container Mount Propagation",
        "Container Mount Readonly",
        "Container OOM",
        "Container",
        "Idempotence",
        "Image Consistency",
        "Image Identifier Consistency",
        "Image Manager",
        "Multiple Containers",
        "Networking",
        "PodSandbox",
        "Runtime info",
        "Security Context",
        "Streaming",
    ];
    let name = name.trim_start_matches("[k8s.io] ");
    GROUPS
        .iter()
        .find(|group| name.starts_with(**group))
        .copied()
        .unwrap_or("other")
}

fn table(outcomes: &[Outcome]) -> String {
    let mut groups: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
    for outcome in outcomes {
        for key in [group(&outcome.name), "~all"] {
            let at = match outcome.state {
                State::Passed => 0,
                State::Failed => 1,
                State::Skipped => 2,
            };
            groups.entry(key).or_default()[at] += 1;
        }
    }
    let mut out = format!(
        "{:<30} {:>6} {:>8} {:>8} {:>8}\n",
        "critest", "tests", "passed", "failed", "skipped"
    );
    for (group, [passed, failed, skipped]) in groups {
        let all = passed + failed + skipped;
        let name = group.trim_start_matches('~');
        let _ = writeln!(
            out,
            "{name:<30} {all:>6} {passed:>8} {failed:>8} {skipped:>8}"
        );
    }
    out
}

fn failures(outcomes: &[Outcome]) -> String {
    let mut out = String::new();
    for outcome in outcomes
        .iter()
        .filter(|outcome| outcome.state != State::Passed)
    {
        let word = if outcome.state == State::Failed {
            "FAIL"
        } else {
            "SKIP"
        };
        let _ = writeln!(
            out,
            "{word} {} {:.0} s\n     {} ({})",
            outcome.name, outcome.seconds, outcome.reason, outcome.place
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn the_table_counts_by_group_and_failures_have_their_words() {
        let outcome = |name: &str, state| Outcome {
            failed_before: 0,
            name: name.into(),
            state,
            seconds: 2.0,
            reason: "why".into(),
            place: "validate/x.go:1".into(),
        };
        let outcomes = [
            outcome(
                "[k8s.io] Container runtime should support starting",
                State::Passed,
            ),
            outcome(
                "[k8s.io] Container Mount Propagation is private",
                State::Failed,
            ),
            outcome("[k8s.io] AppArmor is not there", State::Skipped),
            outcome("[k8s.io] Something new", State::Passed),
        ];
        expect![[r#"
            critest                         tests   passed   failed  skipped
            AppArmor                            1        0        0        1
            Container                           1        1        0        0
            Container Mount Propagation         1        0        1        0
            other                               1        1        0        0
            all                                 4        2        1        1
        "#]]
        .assert_eq(&table(&outcomes));
        expect![[r#"
            FAIL [k8s.io] Container Mount Propagation is private 2 s
                 why (validate/x.go:1)
            SKIP [k8s.io] AppArmor is not there 2 s
                 why (validate/x.go:1)
        "#]]
        .assert_eq(&failures(&outcomes));
    }

    #[test]
    fn a_node_with_upstreams_software_is_not_judged_as_the_image() {
        let names = |names: &[&str]| -> Vec<String> {
            names.iter().map(|name| (*name).to_owned()).collect()
        };
        let (nodes, twins) = (names(&["node1", "node2"]), names(&["node1"]));
        let text = |wanted, twins: &[String]| match choose(&nodes, twins, wanted) {
            Ok(node) => node.to_owned(),
            Err(error) => error.to_string(),
        };
        assert_eq!(text(None, &[]), "node1");
        assert_eq!(text(None, &twins), "node2");
        assert_eq!(text(Some("node2"), &twins), "node2");
        assert!(text(Some("node1"), &twins).contains("node1 runs upstream's software"));
        assert!(text(None, &nodes).contains("no node of this cluster"));
        assert!(text(Some("node3"), &twins).contains("no node \"node3\""));
        assert!(choose(&[], &[], None).is_err());
    }

    #[test]
    fn a_focused_run_has_its_own_files() {
        assert_eq!(file_name("0a1b", None), "0a1b");
        let focused = file_name("0a1b", Some("PodSandbox"));
        assert!(focused.starts_with("0a1b-focus-"), "{focused}");
        assert_ne!(focused, file_name("0a1b", Some("Streaming")));
    }

    #[test]
    fn the_pod_shares_one_directory_at_one_path() {
        let objects = objects("node2", Some("a b"));
        let pod = &objects["items"][1]["spec"];
        assert_eq!(pod["nodeName"], "node2");
        let container = &pod["containers"][0];
        assert_eq!(
            container["volumeMounts"][0]["mountPath"],
            pod["volumes"][0]["hostPath"]["path"]
        );
        let words = container["command"][2].as_str().unwrap();
        assert!(words.contains("--ginkgo.focus=\"$FOCUS\"") && !words.contains("a b"));
    }
}
