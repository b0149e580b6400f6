//! A whole node in a fresh VM, to which N Services are there already: Kedge's agent, upstream's kubelet and kube-proxy.
//!
//! In: a number of Services in the API. Out: kernel entry to Ready and to every watched Service answering through the node, one change to its effect,
//! memory at rest and at its highest, CPU until all are reachable: by process, as [`crate::bench::memory`] has it. Everything runs: unlike natively,
//! the node's other work is in all figures. CPU counts ended children (`nft`), memory does not.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::judge::{Judge, Way};
use super::objects::{changed, watched};
use crate::bench::machine::Machine;
use crate::bench::pods::percentile;
use crate::bench::store::Figures;
use crate::bench::usage::{busy, by_group, since_start, steady};
use crate::cluster::Cluster;
use crate::supervisor::default_address;
use crate::supervisor::protocol::Request;
use crate::twin::{Mix, Software};
use crate::wait;

/// From the machine's launch. Under emulation ten thousand Services may take upstream minutes.
const SYNC_DEADLINE: Duration = Duration::from_secs(15 * 60);
const CHANGE_DEADLINE: Duration = Duration::from_secs(120);
const REST_DEADLINE: Duration = Duration::from_secs(10 * 60);
/// Rest is a window in which the machine has kept less than so many CPUs busy. Whoever works a backlog off keeps one; an idle upstream node a fifth,
/// and kube-proxy looks through ten thousand Services every half minute.
const REST: Duration = Duration::from_secs(20);
const BUSY: f64 = 0.7;
/// After a change has gone: what is left of it must not hold up the next.
const PAUSE: Duration = Duration::from_secs(3);

/// The software of a cluster that has a place for each of these.
pub fn mix(software: impl Iterator<Item = Software>) -> Mix {
    let mut all = software;
    if all.any(|one| one == Software::Upstream) {
        Mix::Mixed
    } else {
        Mix::Kedge
    }
}

/// Places of nodes in such a cluster: one machine runs at a time, and each software always has the same.
pub fn seats(mix: Mix) -> usize {
    match mix {
        Mix::Mixed => 2,
        Mix::Kedge | Mix::Upstream => 1,
    }
}

/// Name and index of a software's machine where [`mix`] has chosen.
fn seat(software: Software) -> (&'static str, u8) {
    match software {
        Software::Kedge => ("node1", 1),
        Software::Upstream => ("node2", 2),
    }
}

pub fn measure(cluster: &Cluster, software: Software, count: usize) -> Result<Figures> {
    let (name, index) = seat(software);
    let machine = Machine {
        cluster,
        name,
        index,
    };
    let judge = Judge::new(cluster, Way::Through(default_address(index)))?;
    machine.launch()?;
    let result = observe(&machine, &judge, count);
    // The figures are there; if the place is not free the next turn will say so.
    if let Err(error) = remove(&machine) {
        println!("{name} does not go: {error:#}");
    }
    result
}

/// The next machine in this place is a new one.
fn remove(machine: &Machine<'_>) -> Result<()> {
    let name = machine.name.to_owned();
    let node = format!("/api/v1/nodes/{name}");
    machine.cluster.client.request(&Request::Remove { name })?;
    machine.cluster.api.delete(&node, None).map(drop)
}

fn observe(machine: &Machine<'_>, judge: &Judge<'_>, count: usize) -> Result<Figures> {
    let (reachable, ready) = thread::scope(|scope| {
        let ready = scope.spawn(|| machine.until_ready("", SYNC_DEADLINE));
        let reachable = judge
            .all_answer(&watched(count), SYNC_DEADLINE)
            .and_then(|at| Ok((at, machine.sample()?)));
        let ready = match ready.join() {
            Ok(ready) => ready,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        (reachable, ready)
    });
    let (reachable, synced) =
        reachable.with_context(|| machine.cluster.last_words(machine.name, 25))?;
    let ready = ready?;
    let clock = machine.clock()?;
    let rest = at_rest(machine)?;
    let mut changes = Vec::new();
    for number in changed(count) {
        changes.push(judge.change(number, CHANGE_DEADLINE)?);
        judge.until_refuses(number, CHANGE_DEADLINE)?;
        thread::sleep(PAUSE);
    }
    let last = machine.sample()?;
    steady(&synced, &last)?;
    let moments = Moments {
        ready: clock.at(ready),
        reachable: clock.at(reachable),
    };
    Ok(figures(moments, &changes, &synced, &rest, &last))
}

/// The sample that ends the first window of rest.
fn at_rest(machine: &Machine<'_>) -> Result<Value> {
    wait::until("the node at rest", REST_DEADLINE, || {
        let before = wait::seen(machine.sample())?;
        thread::sleep(REST);
        let after = wait::seen(machine.sample())?;
        let busy = busy(&before, &after);
        wait::check(busy < BUSY, || format!("{busy:.2} CPUs are busy"))?;
        Ok(after)
    })
}

/// Seconds since the kernel's entry.
#[derive(Debug, Clone, Copy)]
struct Moments {
    ready: f64,
    reachable: f64,
}

fn figures(
    moments: Moments,
    changes: &[f64],
    synced: &Value,
    rest: &Value,
    last: &Value,
) -> Figures {
    let mib = |kib: u64| kib as f64 / 1024.0;
    let mut figures = Figures::new();
    let mut add = |name: String, value: f64| figures.insert(name, value);
    add("kernel entry to Ready, s".into(), moments.ready);
    add("kernel entry to all reachable, s".into(), moments.reachable);
    // A proxy need not wait for its node.
    let later = (moments.reachable - moments.ready).max(0.0);
    add("Ready to all reachable, s".into(), later);
    for percent in [50, 100] {
        let label = if percent == 50 { "p50" } else { "max" };
        add(
            format!("one change to its effect, {label}, ms"),
            percentile(changes, percent),
        );
    }
    for (label, usage) in since_start(synced) {
        add(
            format!("CPU until reachable of {label}, s"),
            usage.cpu_seconds + usage.child_seconds,
        );
    }
    for (label, usage) in by_group(rest, rest) {
        add(format!("PSS of {label}, MiB"), mib(usage.pss_kib));
    }
    for (label, usage) in since_start(last) {
        add(format!("peak RSS of {label}, MiB"), mib(usage.peak_kib));
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_software_has_its_place_in_the_cluster() {
        use Software::{Kedge, Upstream};
        for (turns, expected) in [(&[Kedge, Upstream][..], Mix::Mixed), (&[Kedge], Mix::Kedge)] {
            let mix = mix(turns.iter().copied());
            assert_eq!(mix, expected);
            for software in turns {
                let (name, index) = seat(*software);
                assert_eq!(mix.of(usize::from(index)), *software);
                assert!(usize::from(index) <= seats(mix) && name == format!("node{index}"));
            }
        }
        // Upstream's half alone, of a run that goes on.
        let alone = mix([Upstream].into_iter());
        assert_eq!(alone.of(usize::from(seat(Upstream).1)), Upstream);
    }

    #[test]
    fn figures_are_of_the_moments_that_their_names_say() {
        let sample = |ticks: u64, pss: u64, peak: u64| {
            let process = |name: &str, pid: u64| {
                json!({"pid": pid, "name": name, "cpuTicks": ticks, "childTicks": 10,
                    "pssKib": pss, "peakRssKib": peak})
            };
            json!({"uptimeMs": 1, "processes": [process("kubelet", 7), process("kube-proxy", 8)]})
        };
        let moments = Moments {
            ready: 12.0,
            reachable: 10.5,
        };
        let found = figures(
            moments,
            &[5.0, 9.0, 7.0],
            &sample(90, 1024, 2048),
            &sample(500, 3072, 4096),
            &sample(900, 5120, 6144),
        );
        let lines: Vec<String> = found
            .iter()
            .filter(|(name, _)| !name.contains("together"))
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        expect_test::expect![[r#"
            CPU until reachable of kube-proxy, s: 1
            CPU until reachable of kubelet, s: 1
            PSS of kube-proxy, MiB: 3
            PSS of kubelet, MiB: 3
            Ready to all reachable, s: 0
            kernel entry to Ready, s: 12
            kernel entry to all reachable, s: 10.5
            one change to its effect, max, ms: 9
            one change to its effect, p50, ms: 7
            peak RSS of kube-proxy, MiB: 6
            peak RSS of kubelet, MiB: 6"#]]
        .assert_eq(&lines.join("\n"));
    }
}
