//! A pod that does a known amount of work, and what must be said of it.
//!
//! It holds 64 MiB, writes 50 MiB into its own root, sends 100 MB to a peer and receives as much, and burns CPU until it has used a certain time by
//! its own cgroup's count. The truth comes from inside the pod, never from the agent. What is told is checked against it to 5 % ([`within`]).

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::exposition::Page;
use crate::stories::Stage;
use crate::stories::kit::{Pod, on_node};
use crate::wait::{self, check, seen};

pub const MIB: f64 = 1024.0 * 1024.0;
pub const NAME: &str = "load";
/// How much of what is said may be wrong.
const TOLERANCE: f64 = 0.05;
const HELD: f64 = 64.0 * MIB;
const WRITTEN: f64 = 50.0 * MIB;
/// Each way.
const SENT: f64 = 100e6;
/// Heads of packets, and acknowledgements of what is received.
const ON_THE_WIRE: f64 = 1.06;
/// By the pod's own count. More than sending takes under emulation.
const CPU_SECONDS: u64 = 30;
const DONE: Duration = Duration::from_secs(600);

/// Ready, listening, and holding its memory.
pub fn create(stage: &Stage, namespace: &str, node: &str) -> Result<Pod> {
    // An end of its standard input would have nc hang up on the sender.
    let script = "head -c 67108864 /dev/zero | tail -c 67108864 | (sleep 1000000; cat) & \
                  sleep 1000000 | nc -l -p 5000 | wc -c > /tmp/received & sleep 1000000";
    let container = json!({
        "command": ["sh", "-c", script],
        "resources": {"limits": {"memory": "256Mi", "cpu": "500m"}, "requests": {"cpu": "100m", "memory": "64Mi"}},
    });
    stage.pod(namespace, NAME, container, on_node(node))
}

/// Begins the work, with `peer` as receiver; it goes on by itself.
pub fn begin(stage: &Stage, pod: &Pod, peer: &str) -> Result<()> {
    let script = format!(
        "dd if=/dev/zero of=/root/f bs=1M count=50 conv=fsync; head -c {SENT} /dev/zero | nc {peer} 5000; \
         while [ ! -s /tmp/received ]; do sleep 1; done; \
         used() {{ sed -n 's/usage_usec //p' /sys/fs/cgroup/cpu.stat; }}; \
         while [ $(used) -lt {CPU_SECONDS}000000 ]; do i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; done; touch /tmp/done"
    );
    stage
        .sh(pod, &format!("({script}) </dev/null >/tmp/out 2>&1 &"))
        .map(drop)
}

/// Waits for the end of the work in all of them. Each look goes into every pod: what it costs there is the same.
pub fn finish(stage: &Stage, pods: &[&Pod]) -> Result<()> {
    wait::until("the known loads done", DONE, || {
        let mut states = Vec::new();
        for pod in pods {
            let words = "ls /tmp; cat /tmp/received /tmp/out /sys/fs/cgroup/cpu.stat";
            states.push(seen(stage.sh(pod, words))?);
        }
        let done = |state: &String| state.lines().any(|line| line == "done");
        check(states.iter().all(done), || states.join("\n"))
    })?;
    for pod in pods {
        let received = stage.sh(pod, "cat /tmp/received")?;
        if received.trim() != SENT.to_string() {
            bail!(
                "{} of {} received {received:?} bytes",
                pod.name,
                pod.namespace
            );
        }
    }
    Ok(())
}

/// CPU seconds that a container has used by its own cgroup's file.
pub fn cpu_seconds(stage: &Stage, pod: &Pod) -> Result<f64> {
    used(&stage.sh(pod, "cat /sys/fs/cgroup/cpu.stat")?)
}

/// `cpu.stat` of cgroup v2 (kernel: Documentation/admin-guide/cgroup-v2.rst).
pub fn used(stat: &str) -> Result<f64> {
    let line = stat
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "));
    let usec: f64 = line
        .context("no usage_usec")?
        .parse()
        .context("usage_usec")?;
    Ok(usec / 1e6)
}

/// Page, family, labels, and between what the truth is.
type Said<'a> = (&'a Page, &'a str, &'a [(&'a str, &'a str)], (f64, f64));

/// What the pages say of a finished load, beside the truth. `cpu`: its own count before and after the pages were read.
pub fn check_pages(
    cadvisor: &Page,
    resource: &Page,
    namespace: &str,
    cpu: (f64, f64),
) -> Vec<String> {
    let main = [
        ("namespace", namespace),
        ("pod", NAME),
        ("container", "main"),
    ];
    let network = [
        ("namespace", namespace),
        ("pod", NAME),
        ("interface", "eth0"),
    ];
    let wire = (SENT, SENT * ON_THE_WIRE);
    let held = (HELD, HELD + 2.0 * MIB);
    // The file in the page cache is active or not as the kernel likes; the rest of the set is the held memory.
    let working = (HELD, HELD + WRITTEN + 4.0 * MIB);
    let exact = |value: f64| (value, value);
    let said: &[Said<'_>] = &[
        (cadvisor, "container_cpu_usage_seconds_total", &main, cpu),
        (cadvisor, "container_memory_rss", &main, held),
        (
            cadvisor,
            "container_memory_working_set_bytes",
            &main,
            working,
        ),
        (
            cadvisor,
            "container_memory_cache",
            &main,
            (WRITTEN, WRITTEN + 2.0 * MIB),
        ),
        (
            cadvisor,
            "container_memory_usage_bytes",
            &main,
            (HELD + WRITTEN, HELD + WRITTEN + 4.0 * MIB),
        ),
        (
            cadvisor,
            "container_fs_writes_bytes_total",
            &main,
            exact(WRITTEN),
        ),
        (
            cadvisor,
            "container_network_transmit_bytes_total",
            &network,
            wire,
        ),
        (
            cadvisor,
            "container_network_receive_bytes_total",
            &network,
            wire,
        ),
        (
            cadvisor,
            "container_spec_memory_limit_bytes",
            &main,
            exact(256.0 * MIB),
        ),
        (cadvisor, "container_spec_cpu_quota", &main, exact(50_000.0)),
        (
            cadvisor,
            "container_spec_cpu_period",
            &main,
            exact(100_000.0),
        ),
        (resource, "container_cpu_usage_seconds_total", &main, cpu),
        (
            resource,
            "container_memory_working_set_bytes",
            &main,
            working,
        ),
    ];
    let mut faults = Vec::new();
    for (page, name, labels, (least, most)) in said {
        let rows = page.all(name, labels);
        if rows.is_empty() {
            faults.push(format!("no {name} of the load"));
        }
        // A value for each device: together they are the truth.
        let sum: f64 = rows.iter().map(|row| row.value).sum();
        if let Err(fault) = within(name, sum, *least, *most) {
            faults.push(fault.to_string());
        }
    }
    faults
}

/// The same of the Summary, which knows the container's own root as well.
pub fn check_summary(summary: &Value, namespace: &str, cpu: (f64, f64)) -> Vec<String> {
    let pods = summary["pods"].as_array().into_iter().flatten();
    let mut of_load =
        pods.filter(|pod| pod["podRef"]["name"] == NAME && pod["podRef"]["namespace"] == namespace);
    let Some(pod) = of_load.next() else {
        return vec!["the Summary has no pod of the load".to_owned()];
    };
    let main = &pod["containers"][0];
    let nanos = (cpu.0 * 1e9, cpu.1 * 1e9);
    let working = (HELD, HELD + WRITTEN + 4.0 * MIB);
    let wire = (SENT, SENT * ON_THE_WIRE);
    let said = [
        ("CPU", &main["cpu"]["usageCoreNanoSeconds"], nanos),
        ("rss", &main["memory"]["rssBytes"], (HELD, HELD + 2.0 * MIB)),
        ("working set", &main["memory"]["workingSetBytes"], working),
        (
            "rootfs",
            &main["rootfs"]["usedBytes"],
            (WRITTEN, WRITTEN + MIB),
        ),
        ("sent", &pod["network"]["txBytes"], wire),
        ("received", &pod["network"]["rxBytes"], wire),
    ];
    let check = |(what, value, (least, most)): (&str, &Value, (f64, f64))| {
        let value = value.as_f64().unwrap_or(f64::NAN);
        within(&format!("{what} by the Summary"), value, least, most).err()
    };
    let faults = said.into_iter().filter_map(check);
    faults.map(|fault| fault.to_string()).collect()
}

/// Between the two, give or take a twentieth.
pub fn within(what: &str, said: f64, least: f64, most: f64) -> Result<()> {
    // In these words NaN is outside too.
    let (least_said, most_said) = (least * (1.0 - TOLERANCE), most * (1.0 + TOLERANCE));
    if !(least_said..=most_said).contains(&said) {
        bail!("{what}: {said} said, {least} to {most} true");
    }
    Ok(())
}

/// Waits until the pod is Ready and says where it listens.
pub fn address(stage: &Stage, pod: &Pod) -> Result<String> {
    stage.ready(pod)?;
    stage.pod_ip(pod)
}

/// When the pod's container started, seconds since 1970.
pub fn started(pod: &Value) -> Result<f64> {
    let status = crate::stories::kit::main_status(pod);
    let text = crate::api::text_at(status, "/state/running/startedAt");
    let time: jiff::Timestamp = text
        .parse()
        .with_context(|| format!("startedAt {text:?}"))?;
    Ok(time.as_second() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_twentieth_is_allowed_and_no_more() {
        assert!(within("x", 95.0, 100.0, 110.0).is_ok());
        assert!(within("x", 94.0, 100.0, 110.0).is_err());
        assert!(within("x", 115.5, 100.0, 110.0).is_ok());
        assert!(within("x", 116.0, 100.0, 110.0).is_err());
        assert!(within("x", f64::NAN, 100.0, 110.0).is_err());
    }

    #[test]
    fn what_a_page_does_not_say_or_says_wrongly_is_told() {
        let page = Page::parse(
            "# TYPE container_memory_rss gauge\ncontainer_memory_rss{container=\"main\",namespace=\"n\",pod=\"load\"} 1\n",
        )
        .unwrap();
        let faults = check_pages(&page, &Page::default(), "n", (30.0, 31.0));
        assert!(
            faults
                .iter()
                .any(|fault| fault.contains("container_memory_rss: 1 said"))
        );
        assert!(
            faults
                .iter()
                .any(|fault| fault == "no container_memory_cache of the load")
        );
    }

    #[test]
    fn a_summary_is_checked_value_by_value() {
        let pod = json!({
            "podRef": {"name": "load", "namespace": "n"},
            "containers": [{
                "cpu": {"usageCoreNanoSeconds": 30_500_000_000u64},
                "memory": {"rssBytes": 67_200_000, "workingSetBytes": 90_000_000},
                "rootfs": {"usedBytes": 52_500_000},
            }],
            "network": {"txBytes": 104_000_000, "rxBytes": 1},
        });
        let faults = check_summary(&json!({"pods": [pod]}), "n", (30.0, 31.0));
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].starts_with("received by the Summary: 1 said"));
        assert_eq!(check_summary(&json!({}), "n", (0.0, 0.0)).len(), 1);
    }

    #[test]
    fn a_cgroups_cpu_time_and_a_containers_start_are_read() {
        assert_eq!(used("usage_usec 2500000\nuser_usec 1\n").unwrap(), 2.5);
        assert!(used("user_usec 1\n").is_err());
        let pod = json!({"status": {"containerStatuses": [{"name": "main", "state": {"running": {"startedAt": "1970-01-01T00:01:00Z"}}}]}});
        assert_eq!(started(&pod).unwrap(), 60.0);
        assert!(started(&json!({})).is_err());
    }
}
