//! How long sampling and writing take: `cargo run --release -p kedge-metrics --example scrape [pods]`.
//!
//! Makes a tree of 110 pods on tmpfs out of the recorded one (kernel 6.12: a pod's group, its sandbox, two containers, their processes, and the
//! hierarchy above), takes generations in slices of 16 groups, as the agent does, and writes `/metrics/cadvisor`. Prints the longest slice
//! and piece, and the totals. Two figures each: the least of all rounds, which is this program's own work, since whatever else the machine
//! does only adds; and the longest of any round, which shows how busy the machine was. Fails when a slice takes more than 5 ms by the first.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark reads the clock and prints"
)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kedge_metrics::cadvisor::Cadvisor;
use kedge_metrics::cgroup::Depth;
use kedge_metrics::expo::{Format, Source, Writer};
use kedge_metrics::sample::{Sampler, Stamp};
use kedge_metrics::subject::{Kind, Subject};
use kedge_metrics::{Machine, Root};

const SLICE: usize = 16;
const ROUNDS: u64 = 40;
/// What a slice may take.
const AIM: Duration = Duration::from_millis(5);
const RECORDED: &str = include_str!("../src/testdata/6.12.txt");
const POD: &str = "/kubepods/burstable/pod7d3c2a54-0f6e-4c1b-9f2d-5e8a1b6c9d70";
/// Of the recorded pod: the group's name, the container's.
const GROUPS: [(&str, &str); 3] = [
    ("a0a1a2a3a4a5a6a7a8a9aaabacadaeaf", ""),
    ("b0b1b2b3b4b5b6b7b8b9babbbcbdbebf", "application"),
    ("c0c1c2c3c4c5c6c7c8c9cacbcccdcecf", "sidecar"),
];

fn main() -> ExitCode {
    let pods: u32 = std::env::args().nth(1).map_or(110, |n| n.parse().unwrap());
    let root = Path::new("/dev/shm").join(format!("kedge-scrape-{}", std::process::id()));
    let subjects = tree(&root, pods);
    let mut sampler = Sampler::new(Root::new(&root));
    let machine = Arc::new(Machine::default());
    let (mut slices, mut pieces) = (Times::default(), Times::default());
    let (mut rows, mut bytes, mut failed) = (0, 0, 0);
    for round in 0..ROUNDS {
        let stamp = Stamp {
            // Far enough apart that processes are looked at every time.
            mono_ns: round * 20_000_000_000,
            wall_ms: 1_800_000_000_000,
        };
        let mut generation = sampler.begin(Depth::Full, stamp);
        for (n, some) in subjects.chunks(SLICE).enumerate() {
            let at = Instant::now();
            for subject in some {
                sampler.sample(&mut generation, subject, stamp);
            }
            slices.add(n, at.elapsed());
        }
        failed += sampler.end(&mut generation).len();
        (rows, bytes) = (generation.rows.len(), 0);
        let mut source = Cadvisor::new(Arc::new(generation), machine.clone());
        let mut writer = Writer::new(Format::Text);
        for n in 0.. {
            let at = Instant::now();
            let more = source.write(&mut writer);
            pieces.add(n, at.elapsed());
            bytes += writer.out.len();
            writer.out.clear();
            if !more {
                break;
            }
        }
    }
    fs::remove_dir_all(root).unwrap();
    println!("{rows} rows, {failed} errors: sampled in {}", slices.told());
    println!("{bytes} bytes: written in {}", pieces.told());
    let whole = rows == subjects.len() && failed == 0;
    match whole && slices.longest() <= AIM {
        true => ExitCode::SUCCESS,
        false => {
            println!(
                "expected {} rows, no errors and slices of at most {AIM:?}",
                subjects.len()
            );
            ExitCode::FAILURE
        }
    }
}

/// The least time of each part over all rounds, and the longest of all.
#[derive(Default)]
struct Times {
    least: Vec<Duration>,
    worst: Duration,
}

impl Times {
    fn add(&mut self, part: usize, took: Duration) {
        self.worst = self.worst.max(took);
        match self.least.get_mut(part) {
            Some(old) => *old = took.min(*old),
            None => self.least.push(took),
        }
    }

    fn longest(&self) -> Duration {
        self.least.iter().max().copied().unwrap_or_default()
    }

    fn told(&self) -> String {
        let sum: Duration = self.least.iter().sum();
        format!(
            "{sum:?} in {} parts, the longest {:?} (least of {ROUNDS} rounds; any part of any round: {:?})",
            self.least.len(),
            self.longest(),
            self.worst
        )
    }
}

/// Writes the tree; the subjects of it.
fn tree(root: &Path, pods: u32) -> Vec<Arc<Subject>> {
    let files = recorded();
    let of_pod = |path: &str| path.contains(POD) || pid(path).is_some();
    let (pod, node): (Vec<_>, Vec<_>) = files.iter().partition(|(path, _)| of_pod(path));
    for (path, content) in node {
        put(root, path, content);
    }
    // Other subjects than pods: the recorded hierarchy.
    let mut subjects: Vec<Arc<Subject>> = ["/", "/init", "/kubepods", "/kubepods/burstable"]
        .iter()
        .map(|group| {
            subject(
                if *group == "/" {
                    Kind::Root
                } else {
                    Kind::Group
                },
                group,
            )
        })
        .collect();
    let pids: BTreeSet<u32> = pod.iter().filter_map(|(path, _)| pid(path)).collect();
    for n in 0..pods {
        // Every pod has names and processes of its own.
        let renamed = |text: &str| {
            let text = text.replace(POD, &group_of(n));
            GROUPS
                .iter()
                .fold(text, |text, (id, _)| text.replace(id, &name_of(id, n)))
        };
        let renumbered = |old: u32| old + (n + 1) * 1000;
        for (path, content) in &pod {
            let path = match pid(path) {
                Some(old) => path.replacen(&old.to_string(), &renumbered(old).to_string(), 1),
                None => renamed(path),
            };
            let content = match content {
                Content::Text(text) if path.ends_with("/cgroup.procs") => {
                    let lines = text.lines().filter_map(|line| line.parse().ok());
                    let lines = lines.map(|old| format!("{}\n", renumbered(old)));
                    &Content::Text(lines.collect())
                }
                other => other,
            };
            put(root, &path, content);
        }
        subjects.extend(subjects_of(n));
    }
    assert!(pids.len() >= GROUPS.len(), "a process in every group");
    subjects
}

enum Content {
    Text(String),
    Link(String),
}

/// The format is described in `qemu-tests/src/recorder.rs`.
fn recorded() -> Vec<(String, Content)> {
    let mut files: Vec<(String, Content)> = Vec::new();
    for line in RECORDED.split_inclusive('\n') {
        match (line.strip_prefix("=== "), files.last_mut()) {
            (Some(head), _) => files.push(match head.trim_end().split_once(" -> ") {
                Some((path, target)) => (path.to_owned(), Content::Link(target.to_owned())),
                None => (head.trim_end().to_owned(), Content::Text(String::new())),
            }),
            (None, Some((_, Content::Text(text)))) => text.push_str(line),
            (None, _) => {}
        }
    }
    files.retain(|(path, _)| !path.ends_with('/') && path != "end");
    files
}

fn put(root: &Path, path: &str, content: &Content) {
    let path: PathBuf = root.join(path.trim_start_matches('/'));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    match content {
        Content::Text(text) => fs::write(path, text).unwrap(),
        Content::Link(target) => symlink(target, path).unwrap(),
    }
}

/// The process of a path below `/proc`.
fn pid(path: &str) -> Option<u32> {
    path.strip_prefix("/proc/")?.split('/').next()?.parse().ok()
}

fn group_of(pod: u32) -> String {
    format!("/kubepods/burstable/pod0f8fad5b-d9cb-469f-a165-7086772{pod:05}")
}

/// As long as a runtime's.
fn name_of(id: &str, pod: u32) -> String {
    format!("{id}{pod:032}")
}

fn subject(kind: Kind, cgroup: &str) -> Arc<Subject> {
    let subject = Subject {
        kind,
        cgroup: cgroup.to_owned(),
        ..Subject::default()
    };
    Arc::new(subject.finished())
}

fn subjects_of(pod: u32) -> Vec<Arc<Subject>> {
    let one = |kind, id: &str, container: &str| {
        let name = if id.is_empty() {
            String::new()
        } else {
            name_of(id, pod)
        };
        let subject = Subject {
            kind,
            cgroup: format!("{}/{name}", group_of(pod))
                .trim_end_matches('/')
                .to_owned(),
            name,
            image: "registry.example.org/team/application:v1.2.3".to_owned(),
            pod: format!("application-7d9f8b6c5-{pod:05}"),
            namespace: "production".to_owned(),
            uid: format!("{pod}"),
            container: container.to_owned(),
            began: true,
            ..Subject::default()
        };
        Arc::new(subject.finished())
    };
    let mut subjects = vec![one(Kind::Pod, "", "")];
    for (id, container) in GROUPS {
        let kind = if container.is_empty() {
            Kind::Sandbox
        } else {
            Kind::Container
        };
        subjects.push(one(kind, id, container));
    }
    subjects
}
