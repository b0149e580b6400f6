//! Pods: bind to Running with the image present, and a container's end to its status in the API.
//!
//! Pods are bound by creating them with `nodeName`: the scheduler is not measured. Times are the host's, from the answer to the request until the
//! watch shows the change.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::lab::{Lab, NODE};
use super::store::Figures;
use super::watch::PodWatch;
use crate::api::text_at;
use crate::{oci, wait};

const PODS_PATH: &str = "/api/v1/namespaces/default/pods";
const SERVICES: &str = "/api/v1/namespaces/default/services";
pub const ONE_BY_ONE: usize = 10;
const ENDS: usize = 5;
/// Before anything is measured.
const FIRST_PODS: usize = 5;
const WAVE: usize = 10;
const ONE_DEADLINE: Duration = Duration::from_secs(120);
const MANY_DEADLINE: Duration = Duration::from_secs(900);
/// A pod of the ending kind listens here and ends when somebody has called.
const CALL_PORT: u16 = 9999;

/// A watch that is known to work, and a node that has the image.
pub fn watch(lab: &Lab) -> Result<PodWatch> {
    let watch = PodWatch::start(&lab.cluster)?;
    // Upstream's kubelet refuses what comes before it has seen its own Node's capacity (OutOfpods), though the Node is Ready.
    for attempt in 1..=FIRST_PODS {
        let name = format!("image-{attempt}");
        create(lab, &name, &["sleep", "1000000"])?;
        let phase = watch.which(&name, &["Running", "Failed"], ONE_DEADLINE)?;
        remove(lab, &[name])?;
        if phase == "Running" {
            return Ok(watch);
        }
    }
    bail!("the node refused {FIRST_PODS} pods")
}

/// Leaves pods behind: [`clear`] is next, whether it failed or not.
pub fn figures(lab: &Lab, watch: &PodWatch, burst: usize) -> Result<Figures> {
    let mut figures = Figures::new();
    let one_by_one = one_by_one(lab, watch)?;
    let mut add = |name: &str, times: &[f64]| {
        figures.insert(format!("{name}, p50, s"), percentile(times, 50));
        figures.insert(format!("{name}, p95, s"), percentile(times, 95));
    };
    add("one by one: bind to Running", &one_by_one);
    add("container's end to its status", &ends(lab, watch)?);
    let times = together(lab, watch, burst)?;
    add(&format!("burst of {burst}: bind to Running"), &times);
    figures.insert(
        format!("burst of {burst}: first Running, s"),
        percentile(&times, 0),
    );
    figures.insert(
        format!("burst of {burst}: all Running, s"),
        percentile(&times, 100),
    );
    Ok(figures)
}

fn one_by_one(lab: &Lab, watch: &PodWatch) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    let names: Vec<String> = (0..ONE_BY_ONE).map(|n| format!("single-{n}")).collect();
    for name in &names {
        times.push(start_one(lab, watch, name)?);
    }
    remove(lab, &names)?;
    Ok(times)
}

/// Seconds from bind to Running.
pub fn start_one(lab: &Lab, watch: &PodWatch, name: &str) -> Result<f64> {
    let bound = create(lab, name, &["sleep", "1000000"])?;
    watch.seconds(bound, name, "Running", ONE_DEADLINE)
}

fn ends(lab: &Lab, watch: &PodWatch) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    let names: Vec<String> = (0..ENDS).map(|n| format!("end-{n}")).collect();
    for name in &names {
        create(lab, name, &["nc", "-l", "-p", &CALL_PORT.to_string()])?;
        watch.when(name, "Running", ONE_DEADLINE)?;
        let pod = lab.cluster.api.get(&format!("{PODS_PATH}/{name}"))?;
        let address = format!("{}:{CALL_PORT}", text_at(&pod, "/status/podIP"));
        let called = wait::until("the pod to listen", ONE_DEADLINE, || {
            // It ends the connection and itself; the answer is empty.
            let call = lab
                .cluster
                .client
                .dial(&address, "", false, Duration::from_secs(5));
            wait::seen(call).map(|_| Instant::now())
        })?;
        times.push(watch.seconds(called, name, "terminated", ONE_DEADLINE)?);
    }
    remove(lab, &names)?;
    Ok(times)
}

pub fn together(lab: &Lab, watch: &PodWatch, count: usize) -> Result<Vec<f64>> {
    let mut bound = Vec::new();
    for number in 0..count {
        let name = format!("burst-{number}");
        bound.push((create(lab, &name, &["sleep", "1000000"])?, name));
    }
    bound
        .iter()
        .map(|(at, name)| watch.seconds(*at, name, "Running", MANY_DEADLINE))
        .collect()
}

/// From `from` pods to `to`, ten at a time.
pub fn waves(lab: &Lab, watch: &PodWatch, from: usize, to: usize) -> Result<()> {
    waves_within(lab, watch, from, to, MANY_DEADLINE)
}

/// The same with a deadline for each pod.
pub fn waves_within(
    lab: &Lab,
    watch: &PodWatch,
    from: usize,
    to: usize,
    deadline: Duration,
) -> Result<()> {
    for start in (from..to).step_by(WAVE) {
        let wave: Vec<String> = (start..to.min(start + WAVE)).map(pod_name).collect();
        for name in &wave {
            create(lab, name, &["sleep", "1000000"])?;
        }
        for name in &wave {
            watch.when(name, "Running", deadline)?;
        }
    }
    Ok(())
}

/// Removes what a measure has left: every pod, and every Service but the API server's.
pub fn clear(lab: &Lab) -> Result<()> {
    let names = |path: &str| -> Result<Vec<String>> {
        let items = lab.cluster.api.items(path)?;
        let name = |item: &Value| text_at(item, "/metadata/name").to_owned();
        Ok(items.iter().map(name).collect())
    };
    for name in names(SERVICES)?.iter().filter(|name| *name != "kubernetes") {
        lab.cluster
            .api
            .delete(&format!("{SERVICES}/{name}"), None)?;
    }
    remove(lab, &names(PODS_PATH)?).context("clear the node")
}

/// A figure "with N pods" is one only while exactly those run.
pub fn expect(lab: &Lab, count: usize) -> Result<()> {
    tally(&lab.cluster.api.items(PODS_PATH)?, count)
}

fn tally(pods: &[Value], count: usize) -> Result<()> {
    let running = pods.iter().filter(|pod| {
        text_at(pod, "/status/phase") == "Running"
            && pod.pointer("/metadata/deletionTimestamp").is_none()
    });
    let running = running.count();
    ensure!(
        running == count && pods.len() == count,
        "{running} pods run and {} do not, where {count} should run and no others be there",
        pods.len() - running
    );
    Ok(())
}

fn pod_name(number: usize) -> String {
    format!("load-{number}")
}

/// Returns when the API server had answered.
fn create(lab: &Lab, name: &str, command: &[&str]) -> Result<Instant> {
    lab.cluster
        .api
        .create(PODS_PATH, &pod(name, command))
        .with_context(|| format!("create pod {name}"))?;
    Ok(Instant::now())
}

pub fn pod(name: &str, command: &[&str]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {
            "nodeName": NODE, "restartPolicy": "Never", "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 1, "enableServiceLinks": false,
            "containers": [{"name": "main", "image": oci::BUSYBOX, "command": command}],
        },
    })
}

/// Deletes and waits until they are gone.
pub fn remove(lab: &Lab, names: &[String]) -> Result<()> {
    for name in names {
        lab.cluster
            .api
            .delete(&format!("{PODS_PATH}/{name}"), Some(1))?;
    }
    wait::until("pods gone", MANY_DEADLINE, || {
        let pods = wait::seen(lab.cluster.api.items(PODS_PATH))?;
        let left = |name: &&String| {
            pods.iter()
                .any(|pod| text_at(pod, "/metadata/name") == name.as_str())
        };
        match names.iter().find(left) {
            Some(name) => Err(format!("{name} is still there")),
            None => Ok(()),
        }
    })
}

/// The nearest rank (0 is the smallest, 100 the largest).
pub fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(rank).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<f64> = (1..=10).rev().map(f64::from).collect();
        let found = [0, 50, 95, 100].map(|percent| percentile(&values, percent));
        assert_eq!(found, [1.0, 5.0, 10.0, 10.0]);
        assert!(percentile(&[], 50).is_nan());
    }

    #[test]
    fn pods_that_are_missing_pending_ending_or_too_many_are_not_the_number() {
        let running = json!({"metadata": {"name": "a"}, "status": {"phase": "Running"}});
        let pending = json!({"status": {"phase": "Pending"}});
        let ending =
            json!({"metadata": {"deletionTimestamp": "now"}, "status": {"phase": "Running"}});
        let two = [running.clone(), running.clone()];
        assert!(tally(&two, 2).is_ok() && tally(&[], 0).is_ok());
        for (pods, count) in [
            (&two[..], 3),
            (&two[..], 1),
            (&[running.clone(), pending.clone()][..], 2),
            (&[running.clone(), pending][..], 1),
            (&[running, ending][..], 2),
        ] {
            assert!(tally(pods, count).is_err(), "{pods:?}");
        }
    }
}
