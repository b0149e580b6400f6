//! Running `e2e.test` under ginkgo beside the control plane, and bringing its verdicts in while it runs.
//!
//! In: a cluster, the parts, a [`Pass`]. Out: outcomes in the journal. The programs run in the rig's namespaces, as children of its
//! supervisor, tied to this process by one connection: when this process ends, they are killed, and nothing is left but Kubernetes
//! namespaces, which [`Judge::prepare`] deletes before the next run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::parts::Parts;
use super::plan::Pass;
use super::report::{self, Listed, Live, Outcome, State};
use super::results::Journal;
use crate::api::{self, text_at};
use crate::cluster::Cluster;
use crate::controlplane::last_lines;
use crate::controlplane::plan::{PORT, SERVER};
use crate::progress::Progress;
use crate::supervisor::protocol::Request;
use crate::testimages;
use crate::tied;
use crate::wait::{self, check, seen};

/// Namespaces of tests that an earlier run left.
const LEFT_OVER: &str = "/api/v1/namespaces?labelSelector=e2e-framework";
const CLEAN_DEADLINE: Duration = Duration::from_secs(300);
/// A busy machine takes minutes to bring CoreDNS up beside other clusters.
const READY_DEADLINE: Duration = Duration::from_secs(300);
/// How often the log is read.
const TICK: Duration = Duration::from_secs(1);

pub struct Judge<'a> {
    pub cluster: &'a Cluster,
    pub parts: &'a Parts,
    pub directory: &'a Path,
    /// When the whole run must have ended.
    pub deadline: Option<Instant>,
}

/// The suite's own list of specs; needs no cluster.
pub fn listed(e2e: &Path) -> Result<Vec<Listed>> {
    let directory = tempfile::tempdir().context("make a temporary directory")?;
    let report = directory.path().join("report.json");
    let output = tied::command(e2e)
        .args([
            "--ginkgo.dry-run",
            "--provider=skeleton",
            "--kubeconfig=/dev/null",
        ])
        .arg(format!("--ginkgo.json-report={}", report.display()))
        .current_dir(directory.path())
        .output()
        .with_context(|| format!("run {}", e2e.display()))?;
    let text = fs::read_to_string(&report).with_context(|| {
        let words = String::from_utf8_lossy(&output.stderr);
        format!(
            "{} --ginkgo.dry-run: {}\n{}",
            e2e.display(),
            output.status,
            words.trim()
        )
    })?;
    report::listed(&text)
}

/// What the suite wants must be made here or named as absent with a reason.
pub fn check_images(parts: &Parts) -> Result<()> {
    let output = tied::command(&parts.e2e)
        .arg("--list-images")
        .output()
        .with_context(|| format!("run {}", parts.e2e.display()))?;
    if !output.status.success() {
        bail!("{} --list-images: {}", parts.e2e.display(), output.status);
    }
    let made: BTreeSet<String> = testimages::recipes()
        .into_iter()
        .flat_map(|recipe| recipe.names)
        .collect();
    let text = String::from_utf8_lossy(&output.stdout);
    let unknown: Vec<&str> = text
        .lines()
        .filter(|name| !name.is_empty() && !made.contains(*name))
        .filter(|name| {
            !testimages::ABSENT
                .iter()
                .any(|(prefix, _)| name.starts_with(prefix))
        })
        .collect();
    if !unknown.is_empty() {
        bail!(
            "the suite pulls images that are neither made nor named as absent (qemu-tests/src/testimages.rs): {}",
            unknown.join(", ")
        );
    }
    Ok(())
}

/// Every node and the version it reports.
pub fn versions(cluster: &Cluster) -> Result<Vec<(String, String)>> {
    let nodes = cluster.api.items("/api/v1/nodes").context("list nodes")?;
    let version = |node: &serde_json::Value| {
        let text = |pointer| text_at(node, pointer).to_owned();
        (
            text("/metadata/name"),
            text("/status/nodeInfo/kubeletVersion"),
        )
    };
    Ok(nodes.iter().map(version).collect())
}

impl Judge<'_> {
    /// A cluster in a bad state is told before any test can fail of it.
    pub fn prepare(&self) -> Result<()> {
        let api = &self.cluster.api;
        wait::until("a cluster fit for tests", READY_DEADLINE, || {
            let nodes = seen(api.items("/api/v1/nodes"))?;
            let ready = nodes
                .iter()
                .filter(|node| api::condition(node, "Ready") == "True");
            let (ready, all) = (ready.count(), nodes.len());
            check(ready == all && all >= 2, || {
                format!("{ready} of {all} nodes are Ready; two at least are needed")
            })?;
            let dns = seen(
                api.items("/api/v1/namespaces/kube-system/pods?labelSelector=k8s-app%3Dkube-dns"),
            )?;
            let answers = dns.iter().any(|pod| api::condition(pod, "Ready") == "True");
            check(answers, || "no pod of CoreDNS is Ready".into())
        })?;
        self.cluster
            .client
            .request(&Request::Images {
                layouts: vec![self.parts.images.clone()],
            })
            .context("serve the test images")?;
        for namespace in api.items(LEFT_OVER).context("list namespaces")? {
            let name = text_at(&namespace, "/metadata/name");
            api.delete(&format!("/api/v1/namespaces/{name}"), None)
                .with_context(|| format!("delete namespace {name}, left by an earlier run"))?;
        }
        wait::until(
            "an earlier run's namespaces are gone",
            CLEAN_DEADLINE,
            || {
                let left = seen(api.items(LEFT_OVER))?;
                check(left.is_empty(), || format!("{} namespaces", left.len()))
            },
        )
    }

    pub fn late(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| Instant::now() > deadline)
    }

    /// Runs one pass to its end. Verdicts are in the journal as soon as ginkgo's log has them.
    pub fn run(&self, pass: &Pass, journal: &mut Journal, progress: &Progress) -> Result<()> {
        let kind = if pass.serial { "serial" } else { "parallel" };
        let number = (1..)
            .find(|number| !self.directory.join(format!("{kind}-{number}.log")).exists())
            .unwrap_or(1);
        let log = self.directory.join(format!("{kind}-{number}.log"));
        let report = self.directory.join(format!("{kind}-{number}.json"));
        fs::write(&log, "").with_context(|| format!("write {}", log.display()))?;
        progress.say(&format!(
            "{} tests, {} at a time: {}",
            pass.names.len(),
            pass.procs,
            log.display()
        ));
        journal.begin(&pass.names);
        let request = Request::Run {
            argv: self.words(pass, &report)?,
            env: Vec::new(),
            log: log.clone(),
        };
        let mut follower = Follower {
            names: pass.names.iter().map(|name| (name.as_str(), ())).collect(),
            live: Live::default(),
            file: File::open(&log).with_context(|| format!("open {}", log.display()))?,
            begin: Instant::now(),
            done: 0,
        };
        let pending = self.cluster.client.request_in_background(request)?;
        let code = loop {
            if let Some(answer) = pending.wait(TICK) {
                break answer.context("run ginkgo")?;
            }
            follower.read(journal, progress)?;
            if self.late() {
                progress.say("out of time: what was not reached is missing");
                return Ok(());
            }
        };
        follower.read(journal, progress)?;
        let text = fs::read_to_string(&report).with_context(|| {
            format!(
                "ginkgo ended with {code} and left no report:\n{}",
                last_lines(&log, 20)
            )
        })?;
        let chosen: BTreeSet<&str> = pass.names.iter().map(String::as_str).collect();
        let outcomes = report::outcomes(&text, |name| chosen.contains(name))
            .with_context(|| format!("ginkgo ended with {code}:\n{}", last_lines(&log, 20)))?;
        outcomes.iter().try_for_each(|outcome| journal.add(outcome))
    }

    fn words(&self, pass: &Pass, report: &Path) -> Result<Vec<String>> {
        let kubeconfig = self.kubeconfig()?;
        let text = |path: &Path| path.display().to_string();
        let mut words = vec![text(&self.parts.ginkgo)];
        words.extend(pass.words());
        words.extend([
            format!("--output-dir={}", self.directory.display()),
            format!(
                "--json-report={}",
                report.file_name().unwrap_or_default().to_string_lossy()
            ),
            text(&self.parts.e2e),
            "--".into(),
            "--provider=skeleton".into(),
            format!("--kubeconfig={}", kubeconfig.display()),
            format!(
                "--kubectl-path={}",
                self.cluster.description.artefacts.kubectl().display()
            ),
            "--allowed-not-ready-nodes=0".into(),
            "--minStartupPods=0".into(),
            format!("--num-nodes={}", self.cluster.description.nodes.len()),
            "--disable-log-dump".into(),
            "--dump-logs-on-failure=false".into(),
        ]);
        Ok(words)
    }

    /// The administrator's, with the API server's address inside the namespace.
    fn kubeconfig(&self) -> Result<PathBuf> {
        let path = self.cluster.dirs.config().join("e2e.kubeconfig");
        let server = format!("https://{SERVER}:{PORT}");
        crate::pki::write_private(&path, &self.cluster.pki.kubeconfig("admin", &server)?)?;
        Ok(path)
    }
}

struct Follower<'a> {
    /// Sorted, so that a header line finds its longest beginning.
    names: BTreeMap<&'a str, ()>,
    live: Live,
    file: File,
    begin: Instant,
    done: usize,
}

impl Follower<'_> {
    fn read(&mut self, journal: &mut Journal, progress: &Progress) -> Result<()> {
        let mut bytes = Vec::new();
        self.file
            .read_to_end(&mut bytes)
            .context("read ginkgo's log")?;
        let names = &self.names;
        let resolve = |header: &str| {
            // The header is the name followed by its labels: its predecessor in the order is the name, or no name matches.
            let mut before = names.range(..=header).rev().map(|(name, ())| *name);
            before
                .find(|name| header.starts_with(name))
                .map(str::to_owned)
        };
        for outcome in self.live.read(&String::from_utf8_lossy(&bytes), resolve) {
            journal.add(&outcome)?;
            self.done += 1;
            progress.say(&self.line(&outcome));
        }
        Ok(())
    }

    fn line(&self, outcome: &Outcome) -> String {
        let word = match outcome.state {
            State::Passed => "ok  ",
            State::Failed => "FAIL",
            State::Skipped => "skip",
        };
        let elapsed = self.begin.elapsed().as_secs();
        format!(
            "{word} {:>3}/{} {:02}:{:02} {:>6.1}s {} {}",
            self.done,
            self.names.len(),
            elapsed / 60,
            elapsed % 60,
            outcome.seconds,
            outcome.name,
            outcome.reason
        )
    }
}
