//! Pods once more, with a proxy between agent and containerd that times every CRI call: how much of bind to Running is the runtime's.
//!
//! In: a lab whose nodes have the tracing volume. Out: for pods one by one, the calls' share and the agent's own; for a burst, the median of each
//! call. The proxy costs time itself, on both sides alike: compare these figures with each other, not with those of `pods`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::lab::{Lab, NODE};
use super::pods::{self, percentile};
use super::session::PODS;
use super::store::Figures;
use crate::artefacts;

const PORT: u16 = 9778;
/// The calls that make a pod run, in their order.
const STARTING: [&str; 3] = ["RunPodSandbox", "CreateContainer", "StartContainer"];

/// The tracing program, built.
pub fn build() -> Result<PathBuf> {
    artefacts::extra("kedge-cri-trace", &["-p", "kedge-cri-trace"], "")
}

pub fn figures(lab: &Lab) -> Result<Figures> {
    let watch = pods::watch(lab)?;
    let mut figures = Figures::new();
    let (mut whole, mut runtime, mut own, mut number) = (vec![], vec![], vec![], vec![]);
    let names: Vec<String> = (0..pods::ONE_BY_ONE)
        .map(|n| format!("split-{n}"))
        .collect();
    for name in &names {
        calls(lab)?;
        let time = pods::start_one(lab, &watch, name)?;
        let calls = calls(lab)?;
        let share = seconds_of(&calls, &STARTING);
        whole.push(time);
        runtime.push(share);
        own.push(time - share);
        number.push(calls.len() as f64);
    }
    for (name, values) in [
        ("bind to Running", &whole),
        (
            "of it in RunPodSandbox, CreateContainer, StartContainer",
            &runtime,
        ),
        ("of it elsewhere (agent, API)", &own),
    ] {
        figures.insert(
            format!("one by one: {name}, p50, s"),
            percentile(values, 50),
        );
    }
    figures.insert(
        "one by one: CRI calls until Running".into(),
        percentile(&number, 50),
    );
    pods::remove(lab, &names)?;
    calls(lab)?;
    let times = pods::together(lab, &watch, PODS)?;
    figures.insert(
        format!("burst of {PODS}: bind to Running, p50, s"),
        percentile(&times, 50),
    );
    for (method, durations) in by_method(&calls(lab)?) {
        if STARTING.contains(&method.as_str()) {
            figures.insert(
                format!("burst of {PODS}: {method}, p50, s"),
                percentile(&durations, 50),
            );
        }
    }
    Ok(figures)
}

struct Call {
    method: String,
    seconds: f64,
}

/// Those that ended since the last time.
fn calls(lab: &Lab) -> Result<Vec<Call>> {
    let address = format!("{}:{PORT}", lab.cluster.node_address(NODE)?);
    let text = lab
        .cluster
        .client
        .dial(&address, "", false, Duration::from_secs(30))
        .context("ask the tracing proxy")?;
    text.lines().map(parse).collect()
}

/// `METHOD START-MS DURATION-US`.
fn parse(line: &str) -> Result<Call> {
    let words: Vec<&str> = line.split(' ').collect();
    let [method, _, micros] = words[..] else {
        bail!("the tracing proxy says {line:?}");
    };
    let micros: f64 = micros.parse().with_context(|| format!("parse {line:?}"))?;
    Ok(Call {
        method: method.to_owned(),
        seconds: micros / 1e6,
    })
}

fn seconds_of(calls: &[Call], methods: &[&str]) -> f64 {
    calls
        .iter()
        .filter(|call| methods.contains(&call.method.as_str()))
        .map(|call| call.seconds)
        .sum()
}

fn by_method(calls: &[Call]) -> BTreeMap<String, Vec<f64>> {
    let mut methods: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for call in calls {
        methods
            .entry(call.method.clone())
            .or_default()
            .push(call.seconds);
    }
    methods
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_starting_calls_are_the_runtimes_share() {
        let lines = [
            "RunPodSandbox 5 1500000",
            "Status 6 900000",
            "StartContainer 9 500000",
        ];
        let calls: Vec<Call> = lines.iter().map(|line| parse(line).unwrap()).collect();
        assert!((seconds_of(&calls, &STARTING) - 2.0).abs() < 1e-9);
        assert_eq!(by_method(&calls).len(), 3);
        assert!(parse("nonsense").is_err());
    }
}
