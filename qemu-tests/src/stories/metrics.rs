//! What scrapes a node: metrics endpoints and the Summary through the API server's proxy, against pods that do a known amount of work.
//!
//! The truth comes from inside the pods (their own `cpu.stat`, the bytes they wrote and sent), never from the agent.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::kit::{MINUTE, Pod, Stage, on_node, set};
use super::{Story, story};
use crate::consumers::load::{MIB, cpu_seconds, used, within};
use crate::exposition::Page;
use crate::wait::{self, check, seen};

pub const STORIES: [Story; 3] = [
    story("metrics-endpoints", 240, endpoints),
    story("metrics-of-a-known-load", 300, known_load),
    story("metrics-count-what-happens", 240, counters),
];

const NAMESPACE: &str = "metrics";

fn raw(stage: &Stage, node: &str, path: &str) -> Result<String> {
    stage.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy{path}")])
}

fn page(stage: &Stage, node: &str, path: &str) -> Result<Page> {
    let text = raw(stage, node, path)?;
    Page::parse(&text).with_context(|| format!("{path} of {node}"))
}

fn summary(stage: &Stage, node: &str, query: &str) -> Result<Value> {
    let text = raw(stage, node, &format!("/stats/summary{query}"))?;
    serde_json::from_str(&text).with_context(|| format!("/stats/summary of {node}: {text}"))
}

/// Every page can be read, no series is there twice, and a pod's series come and go with it.
fn endpoints(stage: &Stage) -> Result<()> {
    let node = stage.node(1)?;
    let pod = stage.sleeper(NAMESPACE, "sleeper", &node)?;
    stage.ready(&pod)?;
    for (path, families) in [
        (
            "/metrics",
            &[
                "kubelet_running_pods",
                "kubelet_runtime_operations_total",
                "process_cpu_seconds_total",
                "kedge_boot_stage_seconds",
                "kubernetes_build_info",
            ][..],
        ),
        ("/metrics/slis", &["kubernetes_healthcheck"]),
        ("/metrics/probes", &["process_start_time_seconds"]),
        (
            "/metrics/resource",
            &[
                "node_cpu_usage_seconds_total",
                "node_memory_working_set_bytes",
                "resource_scrape_error",
            ],
        ),
        (
            "/metrics/cadvisor",
            &[
                "machine_cpu_cores",
                "cadvisor_version_info",
                "container_fs_usage_bytes",
                "container_pressure_cpu_waiting_seconds_total",
            ],
        ),
    ] {
        let page = page(stage, &node, path)?;
        for family in families {
            if page.all(family, &[]).is_empty() {
                bail!("{path} has no {family}");
            }
        }
    }
    let cadvisor = page(stage, &node, "/metrics/cadvisor")?;
    if cadvisor.one("container_scrape_error", &[])? != 0.0 {
        bail!("something could not be read: see the console");
    }
    let of_pod = [("namespace", NAMESPACE), ("pod", "sleeper")];
    let rows = cadvisor.all("container_memory_working_set_bytes", &of_pod);
    let containers: Vec<&str> = rows.iter().map(|s| s.label("container")).collect();
    // The pod's own row, its sandbox's, its container's.
    if rows.len() != 3 || !containers.contains(&"main") {
        bail!("rows of the pod: {rows:?}");
    }
    for id in ["/", "/kubepods", "/runtime", "/kedge"] {
        cadvisor.one("container_cpu_usage_seconds_total", &[("id", id)])?;
    }
    let json = summary(stage, &node, "")?;
    let names = json["pods"].as_array().context("pods of the summary")?;
    let found = names.iter().find(|p| p["podRef"]["name"] == "sleeper");
    let found = found.with_context(|| format!("the pod is not in {json}"))?;
    if json["node"]["cpu"]["usageNanoCores"].as_u64().is_none()
        || found["containers"][0]["rootfs"]["capacityBytes"]
            .as_u64()
            .is_none()
        || found["network"]["interfaces"]
            .as_array()
            .is_none_or(Vec::is_empty)
    {
        bail!("incomplete: {found}");
    }
    let light = summary(stage, &node, "?only_cpu_and_memory=true")?;
    if light["node"]["memory"]["workingSetBytes"]
        .as_u64()
        .is_none()
        || !light["node"]["fs"].is_null()
    {
        bail!("only_cpu_and_memory gave {light}");
    }
    stage.delete(&pod)?;
    wait::until("series of the pod gone", MINUTE, || {
        let page = seen(page(stage, &node, "/metrics/cadvisor"))?;
        let left = page.all("container_memory_working_set_bytes", &of_pod);
        check(left.is_empty(), || format!("{left:?}"))
    })
}

/// A pod that burns CPU, holds 64 MiB, writes 50 MiB and sends 20 MB: what is said of it is within 5 % of the truth.
fn known_load(stage: &Stage) -> Result<()> {
    let node = stage.node(1)?;
    let mut spec = on_node(&stage.node(2)?);
    set(&mut spec, "restartPolicy", json!("Never"));
    let sink = stage.pod(
        NAMESPACE,
        "sink",
        // An end of its standard input would have nc hang up on the sender.
        json!({"command": ["sh", "-c", "sleep 1000000 | nc -l -p 5000 | wc -c; sleep 1000000"]}),
        spec,
    )?;
    let mut spec = on_node(&node);
    set(
        &mut spec,
        "volumes",
        json!([{"name": "disk", "emptyDir": {}}]),
    );
    let container = json!({
        "command": ["sh", "-c", "head -c 67108864 /dev/zero | tail -c 67108864 | (sleep 1000000; cat) & sleep 1000000"],
        "resources": {"limits": {"memory": "256Mi", "cpu": "800m"}, "requests": {"cpu": "100m", "memory": "64Mi"}},
        "volumeMounts": [{"name": "disk", "mountPath": "/disk"}],
    });
    let load = stage.pod(NAMESPACE, "load", container, spec)?;
    stage.ready(&sink)?;
    stage.ready(&load)?;
    let address = stage.pod_ip(&sink)?;
    let of_main = [("pod", "load"), ("container", "main")];
    let of_sandbox = [("pod", "load"), ("interface", "eth0")];
    let before = page(stage, &node, "/metrics/cadvisor")?;
    // `tail` has them all before anything is counted.
    wait::until("the load holds its memory", MINUTE, || {
        let stat = seen(stage.sh(&load, "grep ^anon /sys/fs/cgroup/memory.stat"))?;
        let anon = stat.split_whitespace().nth(1).and_then(|n| n.parse().ok());
        check(anon.is_some_and(|n: f64| n >= 64.0 * MIB), || stat.clone())
    })?;
    let script = format!(
        "dd if=/dev/zero of=/disk/f bs=1M count=50 conv=fsync 2>/dev/null; head -c 20000000 /dev/zero | nc {address} 5000; i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; cat /sys/fs/cgroup/cpu.stat"
    );
    let stat = stage.sh(&load, &script)?;
    stage.log_has(&sink, "20000000", MINUTE)?;
    // What the container burned lies between what it read of itself before and after the scrape. A page may be made of samples whose reading ended a second ago.
    let least = used(&stat)?;
    let after = wait::until("the burned CPU seconds told", MINUTE, || {
        let page = seen(page(stage, &node, "/metrics/cadvisor"))?;
        let told = seen(page.one("container_cpu_usage_seconds_total", &of_main))?;
        check(told >= least, || format!("{told} told, {least} burned")).map(|()| page)
    })?;
    let last = cpu_seconds(stage, &load)?;
    let burned = after.one("container_cpu_usage_seconds_total", &of_main)?;
    within("CPU seconds", burned, least, last)?;
    let grown = |name: &str, labels: &[(&str, &str)]| -> Result<f64> {
        let was = before
            .all(name, labels)
            .iter()
            .map(|s| s.value)
            .sum::<f64>();
        let is = after.all(name, labels).iter().map(|s| s.value).sum::<f64>();
        Ok(is - was)
    };
    let written = grown("container_fs_writes_bytes_total", &of_main)?;
    within("bytes written", written, 50.0 * MIB, 50.0 * MIB)?;
    // With the heads of its packets, of which each carries 1400 bytes.
    let sent = grown("container_network_transmit_bytes_total", &of_sandbox)?;
    within("bytes sent", sent, 20e6, 20e6 * 1.05)?;
    let held = after.one("container_memory_rss", &of_main)?;
    within("bytes held", held, 64.0 * MIB, 66.0 * MIB)?;
    let limit = after.one("container_spec_memory_limit_bytes", &of_main)?;
    let quota = after.one("container_spec_cpu_quota", &of_main)?;
    if (limit, quota) != (256.0 * MIB, 80_000.0) {
        bail!("limits are said to be {limit} bytes and {quota} us");
    }
    if grown("container_cpu_cfs_periods_total", &of_main)? <= 0.0 {
        bail!("no enforcement interval of the CPU limit is counted");
    }
    let resource = page(stage, &node, "/metrics/resource")?;
    let same = resource.one("container_cpu_usage_seconds_total", &of_main)?;
    within(
        "CPU seconds by /metrics/resource",
        same,
        burned,
        last * 1.1 + 1.0,
    )?;
    let json = summary(stage, &node, "")?;
    let pods = json["pods"].as_array().context("pods of the summary")?;
    let found = pods
        .iter()
        .find(|p| p["podRef"]["name"] == "load")
        .context("the pod is not in the summary")?;
    let volume = found["volume"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|v| v["name"] == "disk");
    let used = volume.and_then(|v| v["usedBytes"].as_f64()).unwrap_or(0.0);
    within("bytes of the emptyDir", used, 50.0 * MIB, 50.0 * MIB)?;
    stage.delete(&load)?;
    stage.delete(&sink)
}

/// Counters of things that happen move when they do: a start, a failing probe, a process killed for want of memory.
fn counters(stage: &Stage) -> Result<()> {
    let node = stage.node(1)?;
    let before = page(stage, &node, "/metrics")?;
    let probe = json!({"exec": {"command": ["false"]}, "periodSeconds": 1});
    let container = json!({"command": ["sleep", "1000000"], "readinessProbe": probe,
        "resources": {"limits": {"memory": "32Mi"}}});
    let pod = stage.pod(NAMESPACE, "counted", container, on_node(&node))?;
    stage.until_pod(&pod, "Running", super::kit::POD_START, |object| {
        check(
            crate::api::text_at(object, "/status/phase") == "Running",
            || super::kit::summary(object),
        )
    })?;
    let failed = [
        ("pod", "counted"),
        ("probe_type", "Readiness"),
        ("result", "failed"),
    ];
    wait::until("failed probes counted", MINUTE, || {
        let page = seen(page(stage, &node, "/metrics/probes"))?;
        let count: f64 = page
            .all("prober_probe_total", &failed)
            .iter()
            .map(|s| s.value)
            .sum();
        check(count >= 2.0, || format!("{count} failed probes"))
    })?;
    // `tail` keeps its input: more than the container may hold. The kernel ends it, the shell goes on.
    let _ = stage.exec(
        &pod,
        &[
            "sh",
            "-c",
            "head -c 99999999 /dev/zero | tail -c 99999999 | wc -c",
        ],
    )?;
    let of_pod = Pod {
        namespace: NAMESPACE.into(),
        name: "counted".into(),
    };
    wait::until("the kill counted", Duration::from_secs(30), || {
        let page = seen(page(stage, &node, "/metrics/cadvisor"))?;
        // The container may be ended with it (memory.oom.group): the pod's own row remembers.
        let kills = page.all("container_oom_events_total", &[("pod", &of_pod.name)]);
        check(kills.iter().any(|s| s.value >= 1.0), || {
            format!("{kills:?}")
        })
    })?;
    let after = page(stage, &node, "/metrics")?;
    for (family, labels) in [
        ("kubelet_started_pods_total", &[][..]),
        (
            "kubelet_started_containers_total",
            &[("container_type", "container")],
        ),
        (
            "kubelet_runtime_operations_total",
            &[("operation_type", "create_container")],
        ),
        ("kubelet_pod_start_duration_seconds_count", &[]),
        ("rest_client_requests_total", &[("method", "PATCH")]),
        ("kubelet_http_requests_total", &[("path", "metrics")]),
        ("process_cpu_seconds_total", &[]),
    ] {
        let sum = |page: &Page| {
            page.all(family, labels)
                .iter()
                .map(|s| s.value)
                .sum::<f64>()
        };
        if sum(&after) <= sum(&before) {
            bail!("{family} {labels:?} stayed at {}", sum(&before));
        }
    }
    stage.delete(&pod)
}
