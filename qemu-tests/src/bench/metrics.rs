//! What being scraped costs: CPU of the node's software, the agent's memory, how long a page takes; with nobody asking, one scraper, twenty.
//!
//! In: a lab with pods. Out: figures. One scraper asks for every page each 15 s, as Prometheus does ([`crate::scraper`]); twenty ask at the same
//! moment. CPU is the node's whole software, so that housekeeping counts where it is done. Memory is looked at every few seconds by the probe: its peak
//! while being scraped, less what it was at rest. A page that does not come within 15 s is lost, as for Prometheus: how many came is a figure, and where one
//! scraper gets fewer than half the measure fails.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::lab::{Lab, NODE};
use super::pods::{self, percentile};
use super::store::{Figures, with_pods};
use super::usage::{by_group, number, seconds, steady};
use crate::api::text_at;
use crate::consumers::access;
use crate::consumers::compare::Place;
use crate::scraper::{Outcome, Plan};

const SETTLE: Duration = Duration::from_secs(45);
const LOOK: Duration = Duration::from_secs(3);
const INTERVAL: Duration = Duration::from_secs(15);
const CROWD: usize = 20;
/// The rounds of a window, 15 s each.
const ROUNDS: usize = 8;
const ACCOUNT: &str = "default";

/// Fails unless exactly `count` pods run before and after.
pub fn figures(lab: &Lab, count: usize) -> Result<Figures> {
    lab.cluster.apply(&access::objects(ACCOUNT).to_string())?;
    let token = access::token(&lab.cluster.api, ACCOUNT, "scraper")?;
    let address = lab.cluster.node_address(NODE)?;
    let plan = Plan {
        address: address
            .parse()
            .with_context(|| format!("address of {NODE}: {address}"))?,
        port: 10250,
        pki: lab.cluster.dirs.pki(),
        token,
        paths: Place::ALL.map(|place| place.path().to_owned()).to_vec(),
        scrapers: 1,
        interval_ms: u64::try_from(INTERVAL.as_millis()).unwrap_or(u64::MAX),
        rounds: ROUNDS,
    };
    thread::sleep(SETTLE);
    pods::expect(lab, count)?;
    let mut figures = Figures::new();
    let mut add = |name: String, value: f64| {
        figures.insert(format!("{}{name}", with_pods(count)), value);
    };
    let rest = window(lab, None)?;
    println!("nobody asks: done");
    let one = window(lab, Some(&plan))?;
    let came = self::came(&plan, &one.outcome)?;
    println!("one scraper: done");
    let crowded = Plan {
        scrapers: CROWD,
        ..plan
    };
    let crowd = window(lab, Some(&crowded))?;
    let crowd_came = self::came(&crowded, &crowd.outcome)?;
    pods::expect(lab, count)?;
    for (who, window) in [
        ("nobody", &rest),
        ("1 scraper", &one),
        ("20 scrapers", &crowd),
    ] {
        for (group, value) in &window.cpu {
            add(format!("{who}: CPU of {group}, s/min"), *value);
        }
        add(
            format!("{who}: agent's memory at most, MiB"),
            window.peak_mib,
        );
        let taken = window.outcome.seconds(Place::Cadvisor.path());
        for percent in [50, 95] {
            if !taken.is_empty() {
                add(
                    format!("{who}: /metrics/cadvisor, p{percent}, ms"),
                    percentile(&taken, percent) * 1000.0,
                );
            }
        }
    }
    add(
        "1 scraper: growth of the agent's memory, MiB".into(),
        one.peak_mib - rest.peak_mib,
    );
    let of_due = "pages that came of those due, %";
    add(format!("1 scraper: {of_due}"), came);
    add(format!("20 scrapers: {of_due}"), crowd_came);
    add(
        "20 scrapers: growth over one, MiB".into(),
        crowd.peak_mib - one.peak_mib,
    );
    let of_cadvisor = one
        .outcome
        .scrapes
        .iter()
        .filter(|scrape| scrape.path == Place::Cadvisor.path());
    let bytes = of_cadvisor.map(|scrape| scrape.bytes).max().unwrap_or(0);
    add(
        "/metrics/cadvisor as sent, KiB".into(),
        bytes as f64 / 1024.0,
    );
    Ok(figures)
}

struct Window {
    /// Seconds per minute, by group.
    cpu: Vec<(&'static str, f64)>,
    peak_mib: f64,
    outcome: Outcome,
}

/// Percent of the pages that were due; too few for a figure are an error.
fn came(plan: &Plan, outcome: &Outcome) -> Result<f64> {
    let percent = 100.0 * outcome.scrapes.len() as f64 / plan.due() as f64;
    let first = outcome
        .errors
        .first()
        .map_or("no time left", String::as_str);
    if percent < 100.0 {
        println!(
            "{} scrapers: {percent:.0} % of the pages came; the first that did not: {first}",
            plan.scrapers
        );
    }
    if percent < 50.0 && plan.scrapers == 1 {
        bail!("{percent:.0} % of the pages came; the first that did not: {first}");
    }
    Ok(percent)
}

/// As long as the plan takes; without one, as long as one would.
fn window(lab: &Lab, plan: Option<&Plan>) -> Result<Window> {
    let length = INTERVAL * u32::try_from(ROUNDS).unwrap_or(u32::MAX);
    let before = lab.sample()?;
    let mut peak = agent_kib(&before);
    let outcome = thread::scope(|scope| {
        let work = scope.spawn(|| match plan {
            Some(plan) => scrape(lab, plan, length),
            None => {
                thread::sleep(length);
                Ok(Outcome::default())
            }
        });
        while !work.is_finished() {
            thread::sleep(LOOK);
            peak = peak.max(agent_kib(&lab.sample()?));
        }
        match work.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })?;
    let after = lab.sample()?;
    steady(&before, &after)?;
    let minutes = seconds(&before, &after) / 60.0;
    let groups = by_group(&before, &after);
    Ok(Window {
        cpu: groups
            .into_iter()
            .map(|(label, usage)| (label, usage.cpu_seconds / minutes))
            .collect(),
        peak_mib: peak as f64 / 1024.0,
        outcome,
    })
}

/// The agent's PSS, whichever software it is.
fn agent_kib(sample: &Value) -> u64 {
    let processes = sample["processes"].as_array().into_iter().flatten();
    processes
        .filter(|process| matches!(text_at(process, "/name"), "kedge" | "kubelet"))
        .map(|process| number(process, "pssKib"))
        .sum()
}

/// The rig's own program, inside the cluster's namespace.
fn scrape(lab: &Lab, plan: &Plan, length: Duration) -> Result<Outcome> {
    let program = std::env::current_exe().context("find the rig's own program")?;
    let program = program.display().to_string();
    let words = serde_json::to_string(plan).context("write the plan")?;
    let result = lab
        .cluster
        .client
        .exec(&[program.as_str(), "scraper"], &words, length * 3)?;
    if result.code != 0 {
        bail!(
            "rig scraper: exit code {}: {}",
            result.code,
            result.stderr.trim()
        );
    }
    serde_json::from_str(&result.stdout).context("read the scraper's outcome")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_page_that_did_not_come_counts_whatever_the_reason() {
        let plan = |scrapers| Plan {
            address: std::net::IpAddr::from([127, 0, 0, 1]),
            port: 1,
            pki: "/".into(),
            token: String::new(),
            paths: vec!["/a".into(), "/b".into()],
            scrapers,
            interval_ms: 1,
            rounds: 2,
        };
        let outcome = |pages: usize| Outcome {
            scrapes: vec![
                crate::scraper::Scrape {
                    path: "/a".into(),
                    seconds: 1.0,
                    bytes: 1,
                };
                pages
            ],
            errors: Vec::new(),
        };
        assert_eq!(came(&plan(1), &outcome(3)).unwrap(), 75.0);
        assert!(came(&plan(1), &outcome(1)).is_err());
        assert_eq!(came(&plan(20), &outcome(20)).unwrap(), 25.0);
    }

    #[test]
    fn the_agent_is_found_by_either_name() {
        let sample = json!({"processes": [
            {"name": "kedge", "pssKib": 10}, {"name": "kedge-init", "pssKib": 1}, {"name": "kube-proxy", "pssKib": 3},
        ]});
        assert_eq!(agent_kib(&sample), 10);
        assert_eq!(
            agent_kib(&json!({"processes": [{"name": "kubelet", "pssKib": 7}]})),
            7
        );
    }
}
