//! What Prometheus has to say at the end: every scrape worked, no sample was refused, every query has an answer. And the table of it.
//!
//! In: a Prometheus that has scraped for a while. Out: [`Figures`], or an error that names the target or the query. Verdicts on answers are pure.

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Result, bail};

use super::compare::Place;
use super::metrics_server::Top;
use super::prometheus::{INTERVAL, Prometheus, Series};
use super::queries::{QUERIES, Query};

/// Counters of Prometheus' own that must not have moved.
const REFUSED: [&str; 4] = [
    "prometheus_target_scrapes_sample_duplicate_timestamp_total",
    "prometheus_target_scrapes_sample_out_of_order_total",
    "prometheus_target_scrapes_sample_out_of_bounds_total",
    "prometheus_target_scrapes_exceeded_sample_limit_total",
];

pub struct Figures {
    /// Page: scrapes, samples of one scrape, seconds of the median and the longest.
    pub pages: Vec<(&'static str, [f64; 4])>,
    /// Query: series, smallest and largest value.
    pub answers: Vec<(&'static str, usize, f64, f64)>,
}

pub fn check(
    prometheus: &Prometheus<'_>,
    nodes: &[(String, String)],
    elapsed: Duration,
) -> Result<Figures> {
    // The first scrape is in it: what happened at once has a sample from before.
    let window = format!("{}s", (elapsed + INTERVAL).as_secs().max(60));
    let mut faults = Vec::new();
    for (url, health, error) in prometheus.targets()? {
        if health != "up" || !error.is_empty() {
            faults.push(format!("{url} is {health}: {error}"));
        }
    }
    let up = prometheus.query(&format!("min_over_time(up[{window}])"))?;
    faults.extend(downs(&up, nodes.len() * Place::ALL.len()));
    let scrapes = prometheus.query(&format!("count_over_time(up[{window}])"))?;
    let wanted = elapsed.as_secs() / INTERVAL.as_secs();
    let few = |series: &&Series| series.value + 2.0 < wanted as f64;
    faults.extend(scrapes.iter().filter(few).map(|series| {
        format!(
            "{} was scraped {} times of {wanted}",
            series.label("instance"),
            series.value
        )
    }));
    let own = prometheus.own()?;
    for name in REFUSED {
        let refused = own.one(name, &[])?;
        if refused != 0.0 {
            faults.push(format!("{name} is {refused}"));
        }
    }
    let mut answers = Vec::new();
    for query in QUERIES {
        let series = prometheus.query(&query.over(&window))?;
        match verdict(query, &series, nodes) {
            Ok((least, most)) => answers.push((query.name, series.len(), least, most)),
            Err(fault) => faults.push(format!("{}: {fault}", query.name)),
        }
    }
    if !faults.is_empty() {
        bail!("{} faults:\n{}", faults.len(), faults.join("\n"));
    }
    let mut pages = Vec::new();
    for place in Place::ALL {
        let path = place.path();
        let value = |text: String| -> Result<f64> {
            let series = prometheus.query(&text)?;
            Ok(series.first().map_or(f64::NAN, |series| series.value))
        };
        let of = format!("{{metrics_path=\"{path}\"}}");
        pages.push((
            path,
            [
                value(format!("sum(count_over_time(up{of}[{window}]))"))?,
                value(format!("max(scrape_samples_scraped{of})"))?,
                value(format!(
                    "max(quantile_over_time(0.5, scrape_duration_seconds{of}[{window}]))"
                ))?,
                value(format!(
                    "max(max_over_time(scrape_duration_seconds{of}[{window}]))"
                ))?,
            ],
        ));
    }
    Ok(Figures { pages, answers })
}

/// Targets that were down at some time, and those that are not there.
fn downs(up: &[Series], expected: usize) -> Vec<String> {
    let down = up.iter().filter(|series| series.value != 1.0);
    let mut faults: Vec<String> = down
        .map(|series| {
            format!(
                "{}{} was down",
                series.label("instance"),
                series.label("metrics_path")
            )
        })
        .collect();
    if up.len() != expected {
        faults.push(format!("{} targets of {expected}", up.len()));
    }
    faults
}

/// The smallest and the largest value, or what is wrong with them.
fn verdict(
    query: &Query,
    series: &[Series],
    nodes: &[(String, String)],
) -> std::result::Result<(f64, f64), String> {
    let Some(first) = series.first() else {
        return Err("no data".into());
    };
    let (mut least, mut most) = (first.value, first.value);
    for one in series {
        if !(query.least..=query.most).contains(&one.value) {
            return Err(format!(
                "{} of {:?} is not between {} and {}",
                one.value, one.labels, query.least, query.most
            ));
        }
        (least, most) = (least.min(one.value), most.max(one.value));
    }
    if query.every_node {
        let has = |address: &str| {
            series
                .iter()
                .any(|one| one.label("instance") == format!("{address}:10250"))
        };
        if let Some((name, _)) = nodes.iter().find(|(_, address)| !has(address)) {
            return Err(format!("no data of {name}"));
        }
    }
    Ok((least, most))
}

pub fn table(figures: &Figures) -> String {
    let mut out = format!(
        "{:<20} {:>8} {:>9} {:>11} {:>12}\n",
        "page", "scrapes", "samples", "median, s", "longest, s"
    );
    for (path, [scrapes, samples, median, longest]) in &figures.pages {
        let _ = writeln!(
            out,
            "{path:<20} {scrapes:>8} {samples:>9} {median:>11.3} {longest:>12.3}"
        );
    }
    let _ = writeln!(
        out,
        "\n{:<58} {:>7} {:>14} {:>14}",
        "query", "series", "least", "most"
    );
    for (name, series, least, most) in &figures.answers {
        let _ = writeln!(out, "{name:<58} {series:>7} {least:>14.4} {most:>14.4}");
    }
    out
}

pub fn top_table(tops: &[Top]) -> String {
    let mut out = format!(
        "\n{:<32} {:>8} {:>10}\n",
        "kubectl top", "CPU, m", "memory, Mi"
    );
    for top in tops {
        let _ = writeln!(
            out,
            "{:<32} {:>8} {:>10}",
            top.name, top.milli_cpus, top.mib
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(instance: &str, value: f64) -> Series {
        Series {
            labels: vec![("instance".into(), instance.into())],
            value,
        }
    }

    #[test]
    fn an_answer_must_be_there_finite_within_bounds_and_of_every_node() {
        let query = Query {
            name: "q",
            text: "q",
            every_node: true,
            least: 0.0,
            most: 5.0,
        };
        let nodes = ["a", "b"].map(|name| (name.to_owned(), format!("10.0.0.{name}")));
        let of = |values: &[(&str, f64)]| {
            let all: Vec<Series> = values
                .iter()
                .map(|(node, value)| series(&format!("10.0.0.{node}:10250"), *value))
                .collect();
            verdict(&query, &all, &nodes)
        };
        assert_eq!(of(&[("a", 1.0), ("b", 3.0)]), Ok((1.0, 3.0)));
        assert_eq!(of(&[]), Err("no data".to_owned()));
        assert_eq!(of(&[("a", 1.0)]), Err("no data of b".to_owned()));
        assert!(of(&[("a", f64::NAN), ("b", 1.0)]).is_err());
        assert!(of(&[("a", 6.0), ("b", 1.0)]).is_err());
    }

    #[test]
    fn a_target_that_was_down_once_and_one_that_is_missing_are_told() {
        let faults = downs(&[series("a", 1.0), series("b", 0.0)], 3);
        assert_eq!(faults, ["b was down", "2 targets of 3"]);
    }
}
