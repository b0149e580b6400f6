//! Pods once more, with a proxy between agent and containerd that times every CRI call: how much of bind to Running is the runtime's.
//!
//! In: a lab whose nodes have the tracing volume. Out: for pods one by one, the time in the calls that make a pod run, the time in any call at all
//! (where several run at once it counts once) and the rest, which is the agent's and the API's; for a burst, the same of the time until all run, and the
//! duration of each starting call. A call that is made meanwhile for other reasons (a look at all containers) counts as the runtime's. The proxy
//! does not read messages, so within a burst calls are not told apart by pod. It costs time itself, on both sides alike: compare these figures with
//! each other, not with those of `pods`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::lab::{Lab, NODE};
use super::pods::{self, percentile};
use super::session::PODS;
use super::store::Figures;
use crate::artefacts;

const PORT: u16 = 9778;
/// The calls that make a pod run, in their order.
const STARTING: [&str; 3] = ["RunPodSandbox", "CreateContainer", "StartContainer"];

/// Open for as long as somebody listens.
const STREAM: &str = "GetContainerEvents";

/// The tracing program, built.
pub fn build() -> Result<PathBuf> {
    artefacts::extra("kedge-cri-trace", &["-p", "kedge-cri-trace"], "")
}

pub fn figures(lab: &Lab) -> Result<Figures> {
    let watch = pods::watch(lab)?;
    let mut figures = Figures::new();
    let mut add = |name: &str, values: &[f64]| {
        for percent in [50, 95] {
            figures.insert(
                format!("{name}, p{percent}, s"),
                percentile(values, percent),
            );
        }
    };
    let (mut whole, mut starting, mut any, mut own, mut number) =
        (vec![], vec![], vec![], vec![], vec![]);
    let names: Vec<String> = (0..pods::ONE_BY_ONE)
        .map(|n| format!("split-{n}"))
        .collect();
    for name in &names {
        calls(lab)?;
        let time = pods::start_one(lab, &watch, name)?;
        let calls = calls(lab)?;
        let busy = busy(&calls).min(time);
        whole.push(time);
        starting.push(seconds_of(&calls, &STARTING));
        any.push(busy);
        own.push(time - busy);
        number.push(calls.len() as f64);
    }
    for (name, values) in [
        ("bind to Running", &whole),
        (
            "of it in RunPodSandbox, CreateContainer, StartContainer",
            &starting,
        ),
        ("of it in any CRI call", &any),
        ("of it in no CRI call (agent, API)", &own),
    ] {
        add(&format!("one by one: {name}"), values);
    }
    pods::remove(lab, &names)?;
    calls(lab)?;
    let began = Instant::now();
    let times = pods::together(lab, &watch, PODS)?;
    let whole = began.elapsed().as_secs_f64();
    let calls = calls(lab)?;
    let burst = format!("burst of {PODS}");
    add(&format!("{burst}: bind to Running"), &times);
    for (method, durations) in by_method(&calls) {
        if STARTING.contains(&method.as_str()) {
            add(&format!("{burst}: {method}"), &durations);
        }
    }
    let busy = busy(&calls).min(whole);
    for (name, value) in [
        ("until all run", whole),
        ("of it in any CRI call", busy),
        ("of it in no CRI call (agent, API)", whole - busy),
    ] {
        figures.insert(format!("{burst}: {name}, s"), value);
    }
    figures.insert(
        "one by one: CRI calls until Running".into(),
        percentile(&number, 50),
    );
    figures.insert(
        format!("{burst}: CRI calls until all run"),
        calls.len() as f64,
    );
    Ok(figures)
}

struct Call {
    method: String,
    /// When it began, in seconds on the proxy's clock.
    start: f64,
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
    let [method, millis, micros] = words[..] else {
        bail!("the tracing proxy says {line:?}");
    };
    let number =
        |word: &str| -> Result<f64> { word.parse().with_context(|| format!("parse {line:?}")) };
    Ok(Call {
        method: method.to_owned(),
        start: number(millis)? / 1e3,
        seconds: number(micros)? / 1e6,
    })
}

fn seconds_of(calls: &[Call], methods: &[&str]) -> f64 {
    calls
        .iter()
        .filter(|call| methods.contains(&call.method.as_str()))
        .map(|call| call.seconds)
        .sum()
}

/// Seconds in which at least one call ran. Streams are no work.
fn busy(calls: &[Call]) -> f64 {
    let mut spans: Vec<(f64, f64)> = calls
        .iter()
        .filter(|call| call.method != STREAM)
        .map(|call| (call.start, call.start + call.seconds))
        .collect();
    spans.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut sum, mut until) = (0.0, f64::NEG_INFINITY);
    for (start, end) in spans {
        sum += (end - start.max(until)).max(0.0);
        until = until.max(end);
    }
    sum
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

    #[test]
    fn time_in_several_calls_at_once_counts_once() {
        let busy = |lines: &[&str]| {
            let calls: Vec<Call> = lines.iter().map(|line| parse(line).unwrap()).collect();
            super::busy(&calls)
        };
        // 1 to 3 s, within it 1.5 to 2 s, across its end 2.5 to 4 s, and after a gap 6 to 7 s.
        let lines = [
            "StartContainer 6000 1000000",
            "RunPodSandbox 1000 2000000",
            "Status 1500 500000",
            "ImageStatus 2500 1500000",
        ];
        assert!((busy(&lines) - 4.0).abs() < 1e-9);
        assert_eq!(busy(&["GetContainerEvents 0 9000000"]), 0.0);
        assert_eq!(busy(&[]), 0.0);
    }
}
