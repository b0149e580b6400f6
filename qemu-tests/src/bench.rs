//! `cargo rig bench`: the figures of the README, measured on one node alone with release binaries.
//!
//! In: a fresh cluster of one node with the probe volume. Out: tables on standard output. Samples come from the probe; what is computed
//! from two of them is pure ([`usage`]).

use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::api::{self, text_at};
use crate::artefacts::{self, Artefacts, Profile};
use crate::cluster::{Cluster, NODE_MEMORY_MIB};
use crate::dirs::Dirs;
use crate::oci;
use crate::progress::Progress;
use crate::supervisor::client::{Client, Holder};
use crate::supervisor::protocol::Action;
use crate::{supervisor, up, wait};

const PROBE_PORT: u16 = 9777;
const WARM_BOOTS: usize = 3;
const PODS: usize = 30;
/// Rates need a window; memory needs the dust to settle.
const SETTLE: Duration = Duration::from_secs(45);
const WINDOW: Duration = Duration::from_secs(60);

/// A cluster of one node for measuring; the node is not started.
fn stage(dirs: &Dirs) -> Result<(Cluster, Holder, Artefacts)> {
    supervisor::ns::check()?;
    let dirs = Dirs {
        root: dirs.root.join("bench"),
    };
    let client = Client::new(&dirs);
    if client.running().is_some() {
        client.stop()?;
    }
    let progress = Progress::new(artefacts::steps() + up::STEPS);
    let artefacts = artefacts::build(Profile::Release, &progress)?;
    let options = up::Options {
        nodes: 1,
        probe: true,
        memory_mib: NODE_MEMORY_MIB,
        accel: artefacts.accel()?,
    };
    let (cluster, holder) = up::control_plane(&dirs, &artefacts, &options, &progress)?;
    Ok((cluster, holder, artefacts))
}

/// Kernel entry to Ready: first join, then warm boots.
pub fn boot(dirs: &Dirs) -> Result<()> {
    let (cluster, _holder, _) = stage(dirs)?;
    let vm = cluster.prepare("node1", 1, &cluster.node_config("node1").yaml())?;
    println!(
        "accelerator {:?}, {} MiB, {} vCPU",
        vm.accel, vm.memory_mib, vm.cpus
    );
    cluster.launch(&vm)?;
    let first = until_ready(&cluster, "")?;
    println!("first join: kernel entry to Ready {first:.1} s");
    let mut warm = Vec::new();
    for _ in 0..WARM_BOOTS {
        let before = boot_id(&cluster)?;
        std::thread::sleep(Duration::from_secs(5));
        cluster.client.machine("node1", Action::PowerButton)?;
        wait::until("node1 off", Duration::from_secs(90), || {
            let machines = wait::seen(cluster.client.status())?.machines;
            wait::check(machines.iter().all(|machine| !machine.running), || {
                "still on".into()
            })
        })?;
        cluster.client.machine("node1", Action::PowerOn)?;
        let seconds = until_ready(&cluster, &before)?;
        println!("warm boot:  kernel entry to Ready {seconds:.1} s");
        warm.push(seconds);
    }
    warm.sort_by(f64::total_cmp);
    println!(
        "warm boot, median of {WARM_BOOTS}: {:.1} s",
        warm[WARM_BOOTS / 2]
    );
    cluster.client.stop()
}

fn boot_id(cluster: &Cluster) -> Result<String> {
    Ok(text_at(&cluster.node("node1")?, "/status/nodeInfo/bootID").to_owned())
}

/// Polls faster than anything it measures; then asks the probe how long ago the kernel was entered.
fn until_ready(cluster: &Cluster, old_boot: &str) -> Result<f64> {
    let deadline = Instant::now() + Duration::from_secs(180);
    let ready = loop {
        let node = cluster.node("node1").unwrap_or_default();
        if api::condition(&node, "Ready") == "True"
            && text_at(&node, "/status/nodeInfo/bootID") != old_boot
        {
            break SystemTime::now();
        }
        if Instant::now() > deadline {
            bail!("node1 is not Ready\n{}", cluster.last_words("node1", 25));
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let asked = SystemTime::now();
    let sample = sample(cluster)?;
    let uptime = Duration::from_millis(
        sample["uptimeMs"]
            .as_u64()
            .context("the probe gives no uptime")?,
    );
    let entry = asked - uptime;
    Ok(ready
        .duration_since(entry)
        .context("Ready before the kernel's entry")?
        .as_secs_f64())
}

fn sample(cluster: &Cluster) -> Result<Value> {
    let address = format!("{}:{PROBE_PORT}", cluster.node_address("node1")?);
    let answer = cluster
        .client
        .dial(
            &address,
            "GET / HTTP/1.0\r\n\r\n",
            false,
            Duration::from_secs(15),
        )
        .context("ask the probe")?;
    let body = answer
        .split_once("\r\n\r\n")
        .context("the probe's answer has no body")?
        .1;
    serde_json::from_str(body).context("parse the probe's answer")
}

/// One group of processes over a window.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Usage {
    pub processes: usize,
    pub pss_kib: u64,
    pub cpu_percent: f64,
    pub switches_per_second: f64,
}

/// The groups of a node's own software, by process name.
const GROUPS: [(&str, &str); 4] = [
    ("kedge-init", "kedge-init"),
    ("kedge", "kedge"),
    ("containerd", "containerd"),
    ("shims", "containerd-shim"),
];

/// What the processes named `name` use, between two samples. A process that is in one sample only counts its memory, not its time.
pub fn usage(before: &Value, after: &Value, name: &str) -> Usage {
    let list = |sample: &Value| sample["processes"].as_array().cloned().unwrap_or_default();
    let number = |process: &Value, key: &str| process[key].as_u64().unwrap_or(0);
    let seconds =
        number(after, "uptimeMs").saturating_sub(number(before, "uptimeMs")) as f64 / 1000.0;
    let old = list(before);
    let mut usage = Usage::default();
    let (mut ticks, mut switches) = (0, 0);
    for process in list(after)
        .iter()
        .filter(|process| text_at(process, "/name") == name)
    {
        usage.processes += 1;
        usage.pss_kib += number(process, "pssKib");
        if let Some(was) = old
            .iter()
            .find(|was| was["pid"] == process["pid"] && was["name"] == process["name"])
        {
            ticks += number(process, "cpuTicks").saturating_sub(number(was, "cpuTicks"));
            switches +=
                number(process, "contextSwitches").saturating_sub(number(was, "contextSwitches"));
        }
    }
    if seconds > 0.0 {
        // A tick is a hundredth of a second.
        usage.cpu_percent = ticks as f64 / seconds;
        usage.switches_per_second = switches as f64 / seconds;
    }
    usage
}

/// PSS, CPU and context switches of the node's software at 0 and 30 pods.
pub fn memory(dirs: &Dirs) -> Result<()> {
    let (cluster, _holder, _) = stage(dirs)?;
    let progress = Progress::new(1);
    up::nodes(&cluster, &progress)?;
    drop(progress);
    // CoreDNS would be a pod of its own.
    cluster.api.merge(
        "/apis/apps/v1/namespaces/kube-system/deployments/coredns",
        &json!({"spec": {"replicas": 0}}),
    )?;
    until_pods(&cluster, 0)?;
    table(&cluster, 0)?;
    cluster.apply(&load(PODS).to_string())?;
    until_pods(&cluster, PODS)?;
    table(&cluster, PODS)?;
    cluster.client.stop()
}

fn load(replicas: usize) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "load", "namespace": "default"},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "load"}},
            "template": {
                "metadata": {"labels": {"app": "load"}},
                "spec": {"automountServiceAccountToken": false, "containers": [{"name": "main", "image": oci::BUSYBOX, "command": ["sleep", "1000000"]}]},
            },
        },
    })
}

fn until_pods(cluster: &Cluster, wanted: usize) -> Result<()> {
    wait::until(
        &format!("{wanted} pods running"),
        Duration::from_secs(900),
        || {
            let pods = wait::seen(cluster.api.items("/api/v1/pods"))?;
            let running = pods
                .iter()
                .filter(|pod| api::condition(pod, "Ready") == "True")
                .count();
            wait::check(running == wanted && pods.len() == wanted, || {
                format!("{running} of {} Ready", pods.len())
            })
        },
    )
}

fn table(cluster: &Cluster, pods: usize) -> Result<()> {
    std::thread::sleep(SETTLE);
    let before = sample(cluster)?;
    std::thread::sleep(WINDOW);
    let after = sample(cluster)?;
    println!("\n{pods} pods, window {} s", WINDOW.as_secs());
    println!(
        "{:<14} {:>9} {:>10} {:>8} {:>11}",
        "", "processes", "PSS MiB", "CPU %", "switches/s"
    );
    let mut sum = Usage::default();
    for (label, name) in GROUPS {
        let usage = usage(&before, &after, name);
        print_row(label, &usage);
        sum.processes += usage.processes;
        sum.pss_kib += usage.pss_kib;
        sum.cpu_percent += usage.cpu_percent;
        sum.switches_per_second += usage.switches_per_second;
    }
    print_row("together", &sum);
    let available = after["memoryAvailableKib"].as_u64().unwrap_or(0) / 1024;
    println!(
        "memory available in the guest: {available} of {} MiB",
        after["memoryTotalKib"].as_u64().unwrap_or(0) / 1024
    );
    Ok(())
}

fn print_row(label: &str, usage: &Usage) {
    println!(
        "{label:<14} {:>9} {:>10.2} {:>8.2} {:>11.0}",
        usage.processes,
        usage.pss_kib as f64 / 1024.0,
        usage.cpu_percent,
        usage.switches_per_second
    );
}

/// Sizes of programs and image, as released.
pub fn sizes() -> Result<()> {
    let progress = Progress::new(artefacts::steps());
    let artefacts = artefacts::build(Profile::Release, &progress)?;
    drop(progress);
    let mib = |bytes: u64| format!("{:.2} MiB", bytes as f64 / f64::from(1 << 20));
    for (directory, names) in [
        (&artefacts.ours, &["kedge", "kedge-init", "kedge-pause"][..]),
        (&artefacts.product, crate::upstream::PRODUCT),
        (
            &artefacts.image,
            &[
                kedge_image::KERNEL,
                kedge_image::INITRAMFS,
                kedge_image::ROOT,
            ],
        ),
    ] {
        for name in names {
            let path = directory.join(name);
            println!(
                "{name:<26} {:>12}",
                mib(std::fs::metadata(&path)
                    .with_context(|| format!("stat {}", path.display()))?
                    .len())
            );
        }
    }
    let mut compressed = 0;
    for name in [
        kedge_image::KERNEL,
        kedge_image::INITRAMFS,
        kedge_image::ROOT,
    ] {
        let output = Command::new("zstd")
            .args(["-19", "-cq"])
            .arg(artefacts.image.join(name))
            .output()
            .context("run zstd")?;
        if !output.status.success() {
            bail!(
                "zstd {name}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        compressed += output.stdout.len() as u64;
    }
    println!("{:<26} {:>12}", "image under zstd -19", mib(compressed));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(uptime: u64, processes: Value) -> Value {
        json!({"uptimeMs": uptime, "processes": processes})
    }

    #[test]
    fn rates_come_from_processes_in_both_samples_and_memory_from_the_last() {
        let before = sample(
            10_000,
            json!([{"pid": 7, "name": "kedge", "pssKib": 900, "cpuTicks": 100, "contextSwitches": 50}]),
        );
        let after = sample(
            20_000,
            json!([
                {"pid": 7, "name": "kedge", "pssKib": 1000, "cpuTicks": 150, "contextSwitches": 250},
                {"pid": 9, "name": "kedge", "pssKib": 24, "cpuTicks": 9, "contextSwitches": 9},
                {"pid": 8, "name": "sh", "pssKib": 5, "cpuTicks": 9, "contextSwitches": 9},
            ]),
        );
        let usage = usage(&before, &after, "kedge");
        assert_eq!(
            usage,
            Usage {
                processes: 2,
                pss_kib: 1024,
                cpu_percent: 5.0,
                switches_per_second: 20.0
            }
        );
    }
}
