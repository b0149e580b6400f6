//! What samples say together. Pure.
//!
//! In: samples. Out: for each measure when and under which load its samples were taken, and a table with minimum, median, maximum and the ratio of medians. Ranges that overlap read "no difference", and
//! with fewer than three samples on a side the words beside the ratio say so. `kedge` does the work of
//! `kubelet` and `kube-proxy`, so the table has a row "node software" for each of their figures: one side's process, the other side's two added up.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::Measure;
use super::store::{Figures, Sample};
use crate::twin::Software;

/// Several values of one figure.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Spread {
    min: f64,
    median: f64,
    max: f64,
    count: usize,
}

impl Spread {
    fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (first, last) = (*sorted.first()?, *sorted.last()?);
        let half = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[half]
        } else {
            f64::midpoint(sorted[half - 1], sorted[half])
        };
        Some(Self {
            min: first,
            median,
            max: last,
            count: sorted.len(),
        })
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.min <= other.max && other.min <= self.max
    }
}

/// Samples a side from which on ranges mean something.
const ENOUGH: usize = 3;

/// How the first compares with the second, and whether either has too few samples to say so.
fn verdict(ours: Option<Spread>, theirs: Option<Spread>) -> String {
    let (Some(ours), Some(theirs)) = (ours, theirs) else {
        return String::new();
    };
    let words = if ours.overlaps(&theirs) {
        "no difference".to_owned()
    } else if theirs.median != 0.0 {
        format!("x {:.2}", ours.median / theirs.median)
    } else {
        return String::new();
    };
    if ours.count.min(theirs.count) < ENOUGH {
        format!("{words} (n < {ENOUGH}: an indication)")
    } else {
        words
    }
}

/// Rows about the whole of a node's own software, from rows about its processes. One of two processes alone gives none.
fn node_software(software: Software, figures: &Figures) -> Figures {
    let (first, second) = match software {
        Software::Kedge => ("kedge", None),
        Software::Upstream => ("kubelet", Some("kube-proxy")),
    };
    let of = |name: &str| format!(" of {name}, ");
    figures
        .iter()
        .filter(|(name, _)| name.contains(&of(first)))
        .filter_map(|(name, value)| {
            let other = match second {
                Some(second) => *figures.get(&name.replace(&of(first), &of(second)))?,
                None => 0.0,
            };
            Some((
                name.replace(&of(first), &of("node software")),
                value + other,
            ))
        })
        .collect()
}

/// From when samples are, and under which load (of one minute) they were taken.
pub fn origin<'a>(samples: impl Iterator<Item = &'a Sample> + Clone) -> Option<String> {
    let (first, last) = (
        samples.clone().map(|sample| sample.at.as_str()).min()?,
        samples.clone().map(|sample| sample.at.as_str()).max()?,
    );
    let load = Spread::of(&samples.flat_map(|sample| sample.load).collect::<Vec<_>>())?;
    Some(format!(
        "of {first} to {last}, load {:.1} to {:.1}",
        load.min, load.max
    ))
}

/// All figures of what is `wanted`, measure by measure, each with its samples' [`origin`].
pub fn table(samples: &[Sample], wanted: &[Measure]) -> String {
    let of = |wanted: Measure| {
        let all = samples.iter();
        all.filter(move |sample| sample.measure == wanted)
    };
    let mut figures: BTreeMap<(Measure, String), [Vec<f64>; 2]> = BTreeMap::new();
    for sample in wanted.iter().flat_map(|measure| of(*measure)) {
        let mut all = node_software(sample.software, &sample.figures);
        all.extend(sample.figures.clone());
        for (name, value) in all {
            let entry = figures.entry((sample.measure, name)).or_default();
            entry[usize::from(sample.software == Software::Upstream)].push(value);
        }
    }
    let mut out = String::new();
    let mut last = None;
    for ((measure, name), [ours, theirs]) in &figures {
        if last != Some(*measure) {
            let _ = writeln!(
                out,
                "\n{measure}: {}\n{:<66} {:>30} {:>30}  kedge / upstream",
                origin(of(*measure)).unwrap_or_default(),
                "",
                "kedge: min median max (n)",
                "upstream: min median max (n)"
            );
            last = Some(*measure);
        }
        let (ours, theirs) = (Spread::of(ours), Spread::of(theirs));
        let _ = writeln!(
            out,
            "{name:<66} {:>30} {:>30}  {}",
            shown(ours),
            shown(theirs),
            verdict(ours, theirs)
        );
    }
    out
}

fn shown(spread: Option<Spread>) -> String {
    spread.map_or("-".to_owned(), |spread| {
        format!(
            "{:.2} {:.2} {:.2} ({})",
            spread.min, spread.median, spread.max, spread.count
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::store::Clock;
    use super::*;

    fn sample(software: Software, repetition: u32, figures: &[(&str, f64)]) -> Sample {
        let figures = figures
            .iter()
            .map(|(name, value)| ((*name).to_owned(), *value));
        Clock::start()
            .unwrap()
            .sample(Measure::Memory, software, repetition, figures.collect())
            .unwrap()
    }

    fn line<'a>(text: &'a str, start: &str) -> &'a str {
        text.lines().find(|line| line.starts_with(start)).unwrap()
    }

    #[test]
    fn ranges_that_overlap_are_no_difference() {
        let spread = |values: &[f64]| Spread::of(values);
        assert_eq!(
            verdict(spread(&[1.0, 3.0, 2.0]), spread(&[3.0, 9.0])),
            "no difference (n < 3: an indication)"
        );
        let three = spread(&[1.0, 3.0, 2.0]);
        assert_eq!(verdict(three, three), "no difference");
        assert_eq!(verdict(three, spread(&[4.0, 4.0, 5.0])), "x 0.50");
        assert_eq!(verdict(three, spread(&[0.0, 0.0, 0.0])), "");
        assert_eq!(verdict(three, None), "");
        assert_eq!(Spread::of(&[4.0, 1.0]).unwrap().median, 2.5);
    }

    #[test]
    fn few_samples_are_called_an_indication() {
        let (one, three) = (Spread::of(&[1.0]), Spread::of(&[3.0, 4.0, 5.0]));
        for (ours, theirs) in [(one, three), (three, one)] {
            let words = verdict(ours, theirs);
            assert!(words.ends_with("(n < 3: an indication)"), "{words}");
        }
    }

    #[test]
    fn the_table_puts_both_side_by_side() {
        let text = table(
            &[
                sample(Software::Kedge, 1, &[("PSS MiB", 10.0)]),
                sample(Software::Upstream, 1, &[("PSS MiB", 40.0)]),
                sample(Software::Kedge, 2, &[("PSS MiB", 12.0)]),
            ],
            &[Measure::Memory],
        );
        let line = line(&text, "PSS");
        assert!(line.contains("10.00 11.00 12.00 (2)"), "{line}");
        assert!(line.contains("x 0.28"), "{line}");
    }

    #[test]
    fn one_agent_stands_beside_the_two_programs_it_replaces() {
        let text = table(
            &[
                sample(Software::Kedge, 1, &[(" 30 pods: PSS of kedge, MiB", 15.0)]),
                sample(
                    Software::Upstream,
                    1,
                    &[
                        (" 30 pods: PSS of kubelet, MiB", 100.0),
                        (" 30 pods: PSS of kube-proxy, MiB", 50.0),
                    ],
                ),
            ],
            &[Measure::Memory],
        );
        let line = line(&text, " 30 pods: PSS of node software, MiB");
        assert!(line.contains("15.00 15.00 15.00 (1)"), "{line}");
        assert!(line.contains("150.00 150.00 150.00 (1)"), "{line}");
        assert!(line.contains("x 0.10"), "{line}");
    }

    #[test]
    fn half_of_upstreams_software_is_not_taken_for_the_whole() {
        let figures = Figures::from([("CPU of kubelet, s/min".to_owned(), 1.0)]);
        assert!(node_software(Software::Upstream, &figures).is_empty());
    }

    #[test]
    fn a_table_is_of_what_was_asked_for_and_says_when_it_was_taken() {
        let mut old = sample(Software::Kedge, 1, &[("PSS MiB", 10.0)]);
        old.at = "2026-11-27T10:00:00Z".into();
        old.load = [0.5, 2.0];
        let mut new = sample(Software::Kedge, 2, &[("PSS MiB", 10.0)]);
        new.at = "2026-11-28T10:00:00Z".into();
        new.load = [1.0, 9.0];
        let samples = [new, old];
        let text = table(&samples, &[Measure::Memory]);
        assert_eq!(
            text.lines().nth(1),
            Some("memory: of 2026-11-27T10:00:00Z to 2026-11-28T10:00:00Z, load 0.5 to 9.0")
        );
        assert_eq!(table(&samples, &[Measure::Boot]), "");
        assert_eq!(origin([].iter()), None);
    }
}
