//! What two of the probe's samples say about the time between them. Pure.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::api::text_at;

/// One group of processes over a window.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Usage {
    pub processes: usize,
    pub pss_kib: u64,
    /// The sum of what each process has ever held at most (RSS): all of them need not have held it at once.
    pub peak_kib: u64,
    pub cpu_seconds: f64,
    /// Of children that ended in the window and were waited for: `nft`, `mount` and the like. What is no child of the group any more when it ends
    /// (a shim's daemon, a process of a pod) is its new parent's.
    pub child_seconds: f64,
    pub switches: u64,
}

/// A node's own software: label and process name. `sh` stands before `exec` in the twin's scripts and is not counted.
pub const GROUPS: [(&str, &str); 6] = [
    ("init", "kedge-init"),
    ("kedge", "kedge"),
    ("kubelet", "kubelet"),
    ("kube-proxy", "kube-proxy"),
    ("containerd", "containerd"),
    ("shims", "containerd-shim"),
];

pub fn seconds(before: &Value, after: &Value) -> f64 {
    number(after, "uptimeMs").saturating_sub(number(before, "uptimeMs")) as f64 / 1000.0
}

pub fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or(0)
}

/// A counter's growth.
pub fn growth(before: &Value, after: &Value, key: &str) -> u64 {
    number(after, key).saturating_sub(number(before, key))
}

/// Those of which there is one for as long as a node runs.
const SINGLES: [&str; 5] = ["kedge-init", "kedge", "kubelet", "kube-proxy", "containerd"];

/// Fails if one of [`SINGLES`] was started or ended between two samples: its time would count as nothing. A child that has its parent's name for a
/// moment may come and go.
pub fn steady(before: &Value, after: &Value) -> Result<()> {
    let pids = |sample: &Value, name: &str| -> Vec<u64> {
        let all = sample["processes"].as_array().into_iter().flatten();
        all.filter(|process| text_at(process, "/name") == name)
            .map(|process| number(process, "pid"))
            .collect()
    };
    for name in SINGLES {
        let (old, new) = (pids(before, name), pids(after, name));
        let stayed = old.iter().any(|pid| new.contains(pid));
        ensure!(
            stayed || old.is_empty() && new.is_empty(),
            "{name} was restarted within the window (process {old:?}, then {new:?})"
        );
    }
    Ok(())
}

/// What each group that has processes uses, and all together. A process that is in one sample only counts its memory, not its time.
pub fn by_group(before: &Value, after: &Value) -> BTreeMap<&'static str, Usage> {
    let mut groups = BTreeMap::new();
    let mut together = Usage::default();
    for (label, name) in GROUPS {
        let usage = usage(before, after, name);
        together.processes += usage.processes;
        together.pss_kib += usage.pss_kib;
        together.peak_kib += usage.peak_kib;
        together.cpu_seconds += usage.cpu_seconds;
        together.child_seconds += usage.child_seconds;
        together.switches += usage.switches;
        if usage.processes > 0 {
            groups.insert(label, usage);
        }
    }
    groups.insert("together", together);
    groups
}

/// What each group has used since its processes were started, as far as they run still.
pub fn since_start(sample: &Value) -> BTreeMap<&'static str, Usage> {
    let mut unborn = sample.clone();
    let all = unborn["processes"].as_array_mut().into_iter().flatten();
    for process in all.filter_map(Value::as_object_mut) {
        process.retain(|key, _| key == "pid" || key == "name");
    }
    by_group(&unborn, sample)
}

/// How many CPUs the whole machine kept busy between two samples.
pub fn busy(before: &Value, after: &Value) -> f64 {
    growth(before, after, "busyTicks") as f64 / 100.0 / seconds(before, after)
}

fn usage(before: &Value, after: &Value, name: &str) -> Usage {
    let list = |sample: &Value| sample["processes"].as_array().cloned().unwrap_or_default();
    let old = list(before);
    let mut usage = Usage::default();
    for process in list(after)
        .iter()
        .filter(|process| text_at(process, "/name") == name)
    {
        usage.processes += 1;
        usage.pss_kib += number(process, "pssKib");
        usage.peak_kib += number(process, "peakRssKib");
        let was = old
            .iter()
            .find(|was| was["pid"] == process["pid"] && was["name"] == process["name"]);
        if let Some(was) = was {
            // A tick is a hundredth of a second.
            usage.cpu_seconds += growth(was, process, "cpuTicks") as f64 / 100.0;
            usage.child_seconds += growth(was, process, "childTicks") as f64 / 100.0;
            usage.switches += growth(was, process, "contextSwitches");
        }
    }
    usage
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn time_comes_from_processes_in_both_samples_and_memory_from_the_last() {
        let before = json!({"uptimeMs": 10_000, "processes": [
            {"pid": 7, "name": "kedge", "pssKib": 900, "cpuTicks": 100, "childTicks": 7, "contextSwitches": 50},
        ]});
        let after = json!({"uptimeMs": 20_000, "processes": [
            {"pid": 7, "name": "kedge", "pssKib": 1000, "peakRssKib": 2000, "cpuTicks": 150, "childTicks": 32, "contextSwitches": 250},
            {"pid": 9, "name": "kedge", "pssKib": 24, "cpuTicks": 9, "contextSwitches": 9},
            {"pid": 4, "name": "containerd", "pssKib": 6, "cpuTicks": 9, "contextSwitches": 9},
            {"pid": 8, "name": "sh", "pssKib": 5, "cpuTicks": 9, "contextSwitches": 9},
        ]});
        let groups = by_group(&before, &after);
        let expected = Usage {
            processes: 2,
            pss_kib: 1024,
            peak_kib: 2000,
            cpu_seconds: 0.5,
            child_seconds: 0.25,
            switches: 200,
        };
        assert_eq!(groups["kedge"], expected);
        assert_eq!(groups["together"].pss_kib, 1030);
        assert!(!groups.contains_key("kubelet"));
        assert!((seconds(&before, &after) - 10.0).abs() < 1e-9);
    }

    #[test]
    fn from_the_start_on_all_of_a_process_counts() {
        let sample = json!({"processes": [
            {"pid": 7, "name": "kube-proxy", "pssKib": 9, "cpuTicks": 150, "childTicks": 32, "contextSwitches": 250},
            {"pid": 8, "name": "nft", "cpuTicks": 999},
        ]});
        let groups = since_start(&sample);
        let usage = &groups["kube-proxy"];
        assert_eq!((usage.cpu_seconds, usage.child_seconds), (1.5, 0.32));
        assert_eq!(groups["together"].cpu_seconds, 1.5);
    }

    #[test]
    fn a_machine_is_as_busy_as_its_cpus() {
        let sample = |uptime: u64, busy: u64| json!({"uptimeMs": uptime, "busyTicks": busy});
        let (before, after) = (sample(10_000, 100), sample(30_000, 4_100));
        assert_eq!(busy(&before, &after), 2.0);
        // A clock that stands still is no rest.
        assert!(busy(&before, &before).is_nan());
    }

    #[test]
    fn a_restart_within_the_window_is_an_error() {
        let sample = |processes: &[(u64, &str)]| {
            let list: Vec<Value> = processes
                .iter()
                .map(|(pid, name)| json!({"pid": pid, "name": name}))
                .collect();
            json!({"processes": list})
        };
        let before = sample(&[(1, "kedge-init"), (7, "kedge"), (8, "containerd-shim")]);
        assert!(steady(&before, &before).is_ok());
        // A child that has not executed its program yet, and another shim.
        let child = sample(&[
            (1, "kedge-init"),
            (7, "kedge"),
            (9, "kedge"),
            (10, "containerd-shim"),
        ]);
        assert!(steady(&before, &child).is_ok() && steady(&child, &before).is_ok());
        for after in [
            sample(&[(1, "kedge-init"), (9, "kedge")]),
            sample(&[(1, "kedge-init")]),
            sample(&[(1, "kedge-init"), (7, "kedge"), (11, "containerd")]),
        ] {
            let error = steady(&before, &after).unwrap_err();
            assert!(error.to_string().contains("restarted"), "{error}");
        }
    }
}
