//! Families of our own. `agent/METRICS.md` lists them with those that others count (`kedge_netlink_*`, `kedge_events_dropped_total`,
//! `kedge_http_responses_total`).
//!
//! | family | what |
//! | --- | --- |
//! | `kedge_boot_stage_seconds{stage}` | seconds from kernel entry to each stage of the boot |
//! | `kedge_boot_reason_info{reason}` | why the machine went down before this boot; `unknown` after a crash or power cut |
//! | `kedge_loop_runs_total{loop}`, `kedge_loop_failures_total{loop}` | runs of each loop of the agent |
//! | `kedge_loop_longest_seconds{loop}` | its longest run, the one under way included; it may have waited for others in it |
//! | `kedge_loop_last_wake_seconds{loop}` | when it last woke up, seconds since the agent started |
//! | `kedge_task_longest_stall_seconds{task}` | longest time for which a task kept its thread: nothing else on it could run meanwhile |
//! | `kedge_pod_workers` | pods that have a worker |
//! | `kedge_process_written_bytes_total{process}` | bytes that each part of the node caused to be written to its disks |

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kedge_metrics::expo::Kind::{Counter, Gauge};
use kedge_metrics::expo::{Source, Value, Writer};
use kedge_tasks::{LoopStatus, Registry};
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

/// Our own families.
pub struct Own {
    facts: Arc<Facts>,
    workers: usize,
    loops: BTreeMap<&'static str, LoopStatus>,
    stalls: BTreeMap<&'static str, Duration>,
    written: BTreeMap<&'static str, u64>,
    step: usize,
}

impl Own {
    /// As of now, with so many pods that have a worker, and the bytes that each program wrote.
    pub fn new(
        facts: Arc<Facts>,
        workers: usize,
        registry: &Registry,
        written: BTreeMap<&'static str, u64>,
    ) -> Self {
        Self {
            facts,
            workers,
            loops: registry.snapshot(),
            stalls: registry.stalls(),
            written,
            step: 0,
        }
    }

    fn boot(&self, to: &mut Writer) {
        to.family(
            "kedge_boot_stage_seconds",
            Gauge,
            "Seconds from kernel entry to this stage of the boot.",
        );
        let boot = &self.facts.boot;
        for stage in &boot.stages {
            to.sample("", &[("stage", &stage.name)], Value::Millis(stage.ms), None);
        }
        to.family(
            "kedge_boot_reason_info",
            Gauge,
            "Always 1; why the machine went down before this boot.",
        );
        let reason = boot.last_shutdown.as_deref().unwrap_or("unknown");
        to.sample("", &[("reason", reason)], Value::Int(1), None);
        to.family("kedge_pod_workers", Gauge, "Pods that have a worker.");
        let workers = u64::try_from(self.workers).unwrap_or(u64::MAX);
        to.sample("", &[], Value::Int(workers), None);
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
            "kedge_loop_last_wake_seconds",
            Gauge,
            "When a loop last woke up, seconds since the agent started.",
            |l| Value::Millis(l.last_wake_ms),
        );
        all(
            "kedge_loop_longest_seconds",
            Gauge,
            "Longest run of a loop, the one under way included.",
            |l| Value::Millis(l.longest_ms),
        );
        all("kedge_loop_runs_total", Counter, "Runs of a loop.", |l| {
            Value::Int(l.runs)
        });
    }

    fn stalls(&self, to: &mut Writer) {
        to.family(
            "kedge_task_longest_stall_seconds",
            Gauge,
            "Longest time for which a task kept its thread from others.",
        );
        for (task, stall) in &self.stalls {
            let micros = u64::try_from(stall.as_micros()).unwrap_or(u64::MAX);
            to.sample("", &[("task", task)], Value::Micros(micros), None);
        }
    }
}

impl Source for Own {
    fn write(&mut self, to: &mut Writer) -> bool {
        let step = self.step;
        self.step += 1;
        match step {
            0 => self.boot(to),
            1 => self.loops(to),
            2 => self.stalls(to),
            3 => self.written(to),
            _ => return false,
        }
        true
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use kedge_metrics::expo::{Format, whole};
    use tokio::time::Instant;

    pub(in crate::stats) fn facts() -> Facts {
        Facts {
            node: "edge-7".into(),
            boot: serde_json::from_str(
                r#"{"stages":[{"name":"initramfs","ms":2100}],"faults":[],"last_shutdown":null}"#,
            )
            .unwrap(),
            started_ms: 1_800_000_000_500,
        }
    }

    fn page(registry: &Registry, written: u64) -> String {
        let written = BTreeMap::from([("containerd", written)]);
        let own = Own::new(Arc::new(facts()), 3, registry, written);
        String::from_utf8(whole(own, Format::Text)).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn our_own_families_are_there_and_move() {
        let registry = Registry::default();
        registry.watched("peers", async {}).await;
        for (ms, result) in [(70, Ok("fine")), (9, Err("no route"))] {
            let began = Instant::now();
            tokio::time::advance(Duration::from_millis(ms)).await;
            registry.record("peers", "timer", began, result);
        }
        let text = page(&registry, 4096);
        for line in [
            "kedge_boot_stage_seconds{stage=\"initramfs\"} 2.1",
            "kedge_boot_reason_info{reason=\"unknown\"} 1",
            "kedge_loop_runs_total{loop=\"peers\"} 2",
            "kedge_loop_failures_total{loop=\"peers\"} 1",
            "kedge_loop_longest_seconds{loop=\"peers\"} 0.07",
            "kedge_loop_last_wake_seconds{loop=\"peers\"} 0.07",
            "kedge_task_longest_stall_seconds{task=\"peers\"} 0",
            "kedge_pod_workers 3",
            "kedge_process_written_bytes_total{process=\"containerd\"} 4096",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }

    /// The rules of `promtool check metrics`, for families that are not `kedge_tasks::meter::Family`, which has its own.
    #[tokio::test(start_paused = true)]
    async fn our_names_and_help_texts_are_clean() {
        let registry = Registry::default();
        registry.record("peers", "timer", Instant::now(), Ok("fine"));
        registry.watched("peers", async {}).await;
        let text = page(&registry, 1);
        let kinds = text.lines().filter_map(|l| l.strip_prefix("# TYPE "));
        let mut seen = 0;
        for (name, kind) in kinds.filter_map(|l| l.split_once(' ')) {
            assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
            let units = [
                "_ms",
                "_milliseconds",
                "_kib",
                "_percent",
                "_count",
                "_sum",
                "_bucket",
            ];
            assert!(!units.iter().any(|u| name.ends_with(u)), "{name}");
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
            assert!(
                name.starts_with("kedge_") && name.bytes().all(plain),
                "{name}"
            );
            let help = format!("# HELP {name} ");
            let help = text.lines().find_map(|l| l.strip_prefix(&help));
            assert!(help.is_some_and(|h| h.ends_with('.')), "{name}");
            seen += 1;
        }
        assert_eq!(seen, 9);
    }
}
