//! Families that are read when asked for: the agent's process, the pods of the node, and `kedge_` families of our own.
//!
//! | family | what |
//! | --- | --- |
//! | `kedge_boot_stage_seconds{stage}` | seconds from kernel entry to each stage of the boot |
//! | `kedge_boot_reason_info{reason}` | why the machine went down before this boot; `unknown` after a crash or power cut |
//! | `kedge_loop_runs_total{loop}`, `kedge_loop_failures_total{loop}` | runs of each loop of the agent |
//! | `kedge_loop_longest_seconds{loop}` | its longest run: nothing else could run meanwhile only if it did not wait |
//! | `kedge_pod_workers` | pods that have a worker |
//! | `kedge_process_written_bytes_total{process}` | bytes that each part of the node caused to be written to its disks |

use std::collections::BTreeMap;
use std::sync::Arc;

use kedge_kubelet::PodView;
use kedge_metrics::expo::Kind::{Counter, Gauge};
use kedge_metrics::expo::{Source, Value, Writer};
use kedge_pods::observed::State;
use kedge_tasks::LoopStatus;
use serde::Deserialize;

use super::pages::Facts;

/// Boot facts, from init's report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Boot {
    /// In order.
    #[serde(default)]
    pub stages: Vec<Stage>,
    /// Why the machine went down the last time.
    #[serde(default)]
    pub last_shutdown: Option<String>,
}

/// A stage that was reached.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Stage {
    pub name: String,
    /// Since kernel entry.
    pub ms: u64,
}

impl Boot {
    /// From init's report; nothing when there is none.
    pub fn read(path: &std::path::Path) -> Self {
        let text = std::fs::read(path).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }
}

/// The agent's process.
pub struct Process {
    started_ms: i64,
    usage: Option<Usage>,
    written: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage {
    /// Milliseconds.
    cpu_ms: u64,
    resident: u64,
    virtual_bytes: u64,
    descriptors: u64,
    most_descriptors: u64,
}

/// What is read of processes for `/metrics`. To be made on the blocking pool: it walks `/proc`.
#[derive(Clone, Debug, Default)]
pub struct Processes {
    usage: Option<Usage>,
    /// Bytes by program.
    written: BTreeMap<&'static str, u64>,
}

impl Processes {
    /// Now.
    pub fn read() -> Self {
        Self {
            usage: usage(),
            written: written(),
        }
    }
}

impl Process {
    /// All of it.
    pub fn new(facts: &Facts, processes: &Processes) -> Self {
        Self {
            usage: processes.usage,
            ..Self::started(facts)
        }
    }

    /// Its start alone.
    pub fn started(facts: &Facts) -> Self {
        Self {
            started_ms: facts.started_ms,
            usage: None,
            written: false,
        }
    }
}

impl Source for Process {
    fn write(&mut self, to: &mut Writer) -> bool {
        if std::mem::replace(&mut self.written, true) {
            return false;
        }
        let mut one = |name, kind, help, value| {
            to.family(name, kind, help);
            to.sample("", &[], value, None);
        };
        if let Some(usage) = self.usage {
            let cpu = Value::Millis(usage.cpu_ms);
            one(
                "process_cpu_seconds_total",
                Counter,
                "CPU time of the agent.",
                cpu,
            );
            let files = Value::Int(usage.most_descriptors);
            one(
                "process_max_fds",
                Gauge,
                "Most open file descriptors.",
                files,
            );
            let files = Value::Int(usage.descriptors);
            one("process_open_fds", Gauge, "Open file descriptors.", files);
            let resident = Value::Int(usage.resident);
            one(
                "process_resident_memory_bytes",
                Gauge,
                "Memory of the agent in RAM.",
                resident,
            );
        }
        let started = u64::try_from(self.started_ms).unwrap_or(0);
        one(
            "process_start_time_seconds",
            Gauge,
            "When the agent started, seconds since 1970.",
            Value::Millis(started),
        );
        if let Some(usage) = self.usage {
            let size = Value::Int(usage.virtual_bytes);
            one(
                "process_virtual_memory_bytes",
                Gauge,
                "Address space of the agent.",
                size,
            );
        }
        true
    }
}

fn usage() -> Option<Usage> {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).ok();
    let (stat, status, limits) = (read("stat")?, read("status")?, read("limits")?);
    let descriptors = std::fs::read_dir("/proc/self/fd").ok()?.count();
    Some(Usage {
        cpu_ms: cpu_ms(&stat)?,
        resident: kib(&status, "VmRSS:")?,
        virtual_bytes: kib(&status, "VmSize:")?,
        // Of these one is the directory being read.
        descriptors: u64::try_from(descriptors).ok()?.saturating_sub(1),
        most_descriptors: limits
            .lines()
            .find_map(|l| l.strip_prefix("Max open files"))?
            .split_whitespace()
            .next()?
            .parse()
            .unwrap_or(u64::MAX),
    })
}

/// User and system time of `/proc/self/stat`, in ticks of 10 ms; the name before them may hold anything.
fn cpu_ms(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) * 10)
}

fn kib(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix(key))?;
    let value: u64 = line.split_whitespace().next()?.parse().ok()?;
    value.checked_mul(1024)
}

/// The node's pods and our own families.
pub struct Own {
    facts: Arc<Facts>,
    pods: Count,
    loops: BTreeMap<&'static str, LoopStatus>,
    written: BTreeMap<&'static str, u64>,
    step: usize,
}

/// Pods and containers by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    workers: u64,
    running_pods: u64,
    /// Active pods from the API and from static files.
    active: [u64; 2],
    mirrors: u64,
    /// Created, running, exited, unknown.
    containers: [u64; 4],
}

impl Count {
    fn of(pods: &[Arc<PodView>]) -> Self {
        let mut count = Self::default();
        for view in pods {
            count.workers += 1;
            count.mirrors += u64::from(view.is_static);
            count.running_pods += u64::from(view.observed.ready_sandbox().is_some());
            let phase = view.status.phase.as_deref();
            if !matches!(phase, Some("Succeeded" | "Failed")) {
                let [api, file] = &mut count.active;
                *(if view.is_static { file } else { api }) += 1;
            }
            for container in &view.observed.containers {
                let [created, running, exited, unknown] = &mut count.containers;
                *match container.state {
                    State::Created => created,
                    State::Running => running,
                    State::Exited => exited,
                    State::Unknown => unknown,
                } += 1;
            }
        }
        count
    }
}

impl Own {
    /// As of now.
    pub fn new(
        facts: Arc<Facts>,
        pods: &[Arc<PodView>],
        loops: BTreeMap<&'static str, LoopStatus>,
        processes: Processes,
    ) -> Self {
        Self {
            facts,
            pods: Count::of(pods),
            loops,
            written: processes.written,
            step: 0,
        }
    }

    fn node(&self, to: &mut Writer) {
        let mut one = |name, help, more: &[(&str, &str)], value| {
            to.family(name, Gauge, help);
            to.sample("", more, Value::Int(value), None);
        };
        one("kubelet_cgroup_version", "The version of cgroups.", &[], 2);
        one(
            "kubelet_node_name",
            "Always 1; the node's name.",
            &[("node", &self.facts.node)],
            1,
        );
        one(
            "kubelet_mirror_pods",
            "Static pods, each of which has a mirror in the API.",
            &[],
            self.pods.mirrors,
        );
        one(
            "kubelet_running_pods",
            "Pods with a running sandbox.",
            &[],
            self.pods.running_pods,
        );
        one(
            "kubernetes_build_info",
            "Always 1; the version this node reports.",
            &[
                ("git_version", crate::facts::KUBELET_VERSION),
                ("major", "1"),
                ("minor", "37"),
                (
                    "platform",
                    &format!("linux/{}", crate::facts::architecture()),
                ),
            ],
            1,
        );
        to.family("kubelet_active_pods", Gauge, "Pods that have not ended.");
        let [api, file] = self.pods.active;
        to.sample("", &[("static", "")], Value::Int(api), None);
        to.sample("", &[("static", "true")], Value::Int(file), None);
        to.family(
            "kubelet_running_containers",
            Gauge,
            "Containers by the state that the runtime gives them.",
        );
        let states = ["created", "running", "exited", "unknown"];
        for (state, count) in states.iter().zip(self.pods.containers) {
            to.sample("", &[("container_state", state)], Value::Int(count), None);
        }
    }

    fn boot(&self, to: &mut Writer) {
        to.family(
            "kedge_boot_stage_seconds",
            Gauge,
            "Seconds from kernel entry to this stage of the boot.",
        );
        for stage in &self.facts.boot.stages {
            to.sample("", &[("stage", &stage.name)], Value::Millis(stage.ms), None);
        }
        to.family(
            "kedge_boot_reason_info",
            Gauge,
            "Always 1; why the machine went down before this boot.",
        );
        let reason = self
            .facts
            .boot
            .last_shutdown
            .as_deref()
            .unwrap_or("unknown");
        to.sample("", &[("reason", reason)], Value::Int(1), None);
        to.family("kedge_pod_workers", Gauge, "Pods that have a worker.");
        to.sample("", &[], Value::Int(self.pods.workers), None);
    }

    fn written(&self, to: &mut Writer) {
        to.family(
            "kedge_process_written_bytes_total",
            Counter,
            "Bytes that a program of the node caused to be written to disks.",
        );
        for (process, bytes) in &self.written {
            to.sample("", &[("process", process)], Value::Int(*bytes), None);
        }
    }

    fn loops(&self, to: &mut Writer) {
        let mut all = |name, kind, help, value: fn(&LoopStatus) -> Value| {
            to.family(name, kind, help);
            for (name, status) in &self.loops {
                to.sample("", &[("loop", name)], value(status), None);
            }
        };
        all(
            "kedge_loop_failures_total",
            Counter,
            "Runs of a loop that failed.",
            |l| Value::Int(l.failures),
        );
        all(
            "kedge_loop_longest_seconds",
            Gauge,
            "Longest run of a loop.",
            |l| Value::Millis(l.longest_ms),
        );
        all("kedge_loop_runs_total", Counter, "Runs of a loop.", |l| {
            Value::Int(l.runs)
        });
    }
}

impl Source for Own {
    fn write(&mut self, to: &mut Writer) -> bool {
        let step = self.step;
        self.step += 1;
        match step {
            0 => self.node(to),
            1 => self.boot(to),
            2 => self.loops(to),
            3 => self.written(to),
            _ => return false,
        }
        true
    }
}

/// The parts of a node that write, by the names of their programs.
const WRITERS: [&str; 3] = ["kedge-init", "containerd", "kedge"];

/// What each of them had written, from `/proc/<pid>/io`; containers have theirs under /metrics/cadvisor.
fn written() -> BTreeMap<&'static str, u64> {
    let mut sums = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(name) = std::fs::read_to_string(path.join("comm")) else {
            continue;
        };
        let Some(writer) = WRITERS.iter().find(|w| **w == name.trim_end()) else {
            continue;
        };
        let io = std::fs::read_to_string(path.join("io")).unwrap_or_default();
        let bytes = io.lines().find_map(|l| l.strip_prefix("write_bytes: "));
        if let Some(bytes) = bytes.and_then(|b| b.parse::<u64>().ok()) {
            *sums.entry(*writer).or_insert(0) += bytes;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use kedge_metrics::expo::{Format, whole};

    fn facts() -> Facts {
        Facts {
            node: "edge-7".into(),
            boot: serde_json::from_str(
                r#"{"stages":[{"name":"initramfs","ms":2100}],"faults":[],"last_shutdown":null}"#,
            )
            .unwrap(),
            started_ms: 1_800_000_000_500,
        }
    }

    #[test]
    fn the_agent_says_what_it_uses() {
        let text = String::from_utf8(whole(
            Process::new(&facts(), &Processes::read()),
            Format::Text,
        ))
        .unwrap();
        assert!(
            text.contains("process_start_time_seconds 1800000000.5\n"),
            "{text}"
        );
        for name in [
            "process_cpu_seconds_total ",
            "process_open_fds ",
            "process_resident_memory_bytes ",
        ] {
            assert!(text.lines().any(|l| l.starts_with(name)), "{name}");
        }
    }

    #[test]
    fn odd_process_names_do_not_move_the_fields() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 7 5 0 0 20 0 1 0 100 1 1";
        assert_eq!(cpu_ms(stat), Some(120));
        assert_eq!(cpu_ms("nonsense"), None);
    }

    #[test]
    fn our_own_families_are_there() {
        let status = LoopStatus {
            runs: 3,
            failures: 1,
            longest_ms: 70,
            ..LoopStatus::default()
        };
        let loops = BTreeMap::from([("peers", status)]);
        let processes = Processes {
            usage: None,
            written: BTreeMap::from([("containerd", 4096)]),
        };
        let own = Own::new(Arc::new(facts()), &[], loops, processes);
        let text = String::from_utf8(whole(own, Format::Text)).unwrap();
        for line in [
            "kedge_boot_stage_seconds{stage=\"initramfs\"} 2.1",
            "kedge_boot_reason_info{reason=\"unknown\"} 1",
            "kedge_loop_runs_total{loop=\"peers\"} 3",
            "kedge_loop_failures_total{loop=\"peers\"} 1",
            "kedge_loop_longest_seconds{loop=\"peers\"} 0.07",
            "kubelet_node_name{node=\"edge-7\"} 1",
            "kedge_process_written_bytes_total{process=\"containerd\"} 4096",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }
}
