//! Samples on disk, and what they say together.
//!
//! In: one [`Sample`] per measure, software and repetition. Out: a JSON file that is whole after every sample, and a table with minimum, median,
//! maximum and the ratio of medians. Ranges that overlap read "no difference". A file of another build or machine is set aside, not mixed in.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::Measure;
use crate::artefacts::Artefacts;
use crate::cluster::Size;
use crate::qemu::Accel;
use crate::twin::Software;

/// Figures by name; the name ends with the unit.
pub type Figures = BTreeMap<String, f64>;

/// What samples have in common that may stand in one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// A hash over kernel, containerd, runc and Kedge's programs.
    pub image: String,
    /// A hash over upstream's programs and what belongs to them.
    pub upstream: Option<String>,
    pub accelerator: Accel,
    pub host_cpus: usize,
    pub machine: Size,
}

impl Build {
    /// Whether samples of both may stand in one table. A run of Kedge alone knows no upstream.
    fn continues(&self, next: &Self) -> bool {
        let upstream = match (&self.upstream, &next.upstream) {
            (Some(old), Some(new)) => old == new,
            _ => true,
        };
        let ours = Self {
            upstream: next.upstream.clone(),
            ..self.clone()
        };
        upstream && ours == *next
    }
}

pub fn build_of(artefacts: &Artefacts, machine: Size) -> Result<Build> {
    let name = |path: &Path| {
        path.file_stem()
            .map(|stem| stem.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    Ok(Build {
        image: name(&artefacts.image),
        upstream: artefacts.twin.as_deref().map(name),
        accelerator: artefacts.accel()?,
        host_cpus: std::thread::available_parallelism().map_or(1, usize::from),
        machine,
    })
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub measure: Measure,
    pub software: Software,
    pub repetition: u32,
    /// UTC, when it was complete.
    pub at: String,
    /// The host's load average of one minute when its session began and when it was complete.
    pub load: [f64; 2],
    /// Since its session began.
    pub seconds: f64,
    pub figures: Figures,
}

/// The beginning of a session, for the samples taken in it.
pub struct Clock {
    start: Instant,
    load: f64,
}

impl Clock {
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
            load: load(),
        }
    }

    pub fn sample(
        &self,
        measure: Measure,
        software: Software,
        repetition: u32,
        figures: Figures,
    ) -> Sample {
        Sample {
            measure,
            software,
            repetition,
            at: jiff::Timestamp::now()
                .strftime("%Y-%m-%dT%H:%M:%SZ")
                .to_string(),
            load: [self.load, load()],
            seconds: self.start.elapsed().as_secs_f64(),
            figures,
        }
    }
}

fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace()
        .next()
        .and_then(|word| word.parse().ok())
        .unwrap_or(f64::NAN)
}

#[derive(Debug, Serialize, Deserialize)]
struct Document {
    command: String,
    build: Build,
    samples: Vec<Sample>,
}

pub struct Store {
    pub path: PathBuf,
    document: Document,
}

impl Store {
    /// Goes on with the samples at `path` if they are of this build.
    pub fn open(path: &Path, build: Build, fresh: bool) -> Result<Self> {
        let old: Option<Document> = fs::read(path)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok());
        let mut upstream = build.upstream.clone();
        let command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
        let samples = match old {
            Some(old) if old.build.continues(&build) && !fresh => {
                println!("{} samples of this build are kept", old.samples.len());
                upstream = upstream.or(old.build.upstream);
                old.samples
            }
            Some(_) => {
                let aside = path.with_extension("old.json");
                fs::rename(path, &aside)
                    .with_context(|| format!("rename to {}", aside.display()))?;
                println!(
                    "samples of another build or run: moved to {}",
                    aside.display()
                );
                Vec::new()
            }
            None => Vec::new(),
        };
        Ok(Self {
            path: path.to_owned(),
            document: Document {
                command: format!("cargo rig {command}"),
                build: Build { upstream, ..build },
                samples,
            },
        })
    }

    pub fn has(&self, measure: Measure, software: Software, repetition: u32) -> bool {
        self.document.samples.iter().any(|sample| {
            (sample.measure, sample.software, sample.repetition) == (measure, software, repetition)
        })
    }

    pub fn add(&mut self, sample: Sample) -> Result<()> {
        for (name, value) in &sample.figures {
            println!("{:<9} {name:<58} {value:>10.2}", sample.software.name());
        }
        self.document.samples.push(sample);
        if let Some(parent) = self.path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        }
        let fresh = self.path.with_extension("new");
        fs::write(
            &fresh,
            serde_json::to_vec_pretty(&self.document).context("write the samples")?,
        )
        .and_then(|()| fs::rename(&fresh, &self.path))
        .with_context(|| format!("write {}", self.path.display()))
    }

    /// All figures, measure by measure.
    pub fn table(&self) -> String {
        table(&self.document.samples)
    }
}

/// Several values of one figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    pub min: f64,
    pub median: f64,
    pub max: f64,
    pub count: usize,
}

impl Spread {
    pub fn of(values: &[f64]) -> Option<Self> {
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

/// How the first compares with the second.
pub fn verdict(ours: Option<Spread>, theirs: Option<Spread>) -> String {
    match (ours, theirs) {
        (Some(ours), Some(theirs)) if ours.overlaps(&theirs) => "no difference".to_owned(),
        (Some(ours), Some(theirs)) if theirs.median != 0.0 => {
            format!("x {:.2}", ours.median / theirs.median)
        }
        _ => String::new(),
    }
}

fn table(samples: &[Sample]) -> String {
    let mut figures: BTreeMap<(Measure, &str), [Vec<f64>; 2]> = BTreeMap::new();
    for sample in samples {
        for (name, value) in &sample.figures {
            let entry = figures.entry((sample.measure, name)).or_default();
            entry[usize::from(sample.software == Software::Upstream)].push(*value);
        }
    }
    let mut out = String::new();
    let mut last = None;
    for ((measure, name), [ours, theirs]) in &figures {
        if last != Some(*measure) {
            let _ = writeln!(
                out,
                "\n{:<58} {:>30} {:>30}  kedge / upstream",
                format!("{measure:?}").to_lowercase(),
                "kedge: min median max (n)",
                "upstream: min median max (n)"
            );
            last = Some(*measure);
        }
        let (ours, theirs) = (Spread::of(ours), Spread::of(theirs));
        let _ = writeln!(
            out,
            "{name:<58} {:>30} {:>30}  {}",
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
    use super::*;

    fn build(image: &str) -> Build {
        Build {
            image: image.into(),
            upstream: None,
            accelerator: Accel::Tcg,
            host_cpus: 2,
            machine: Size::default(),
        }
    }

    fn sample(software: Software, repetition: u32, value: f64) -> Sample {
        Clock::start().sample(
            Measure::Memory,
            software,
            repetition,
            Figures::from([("PSS MiB".to_owned(), value)]),
        )
    }

    #[test]
    fn ranges_that_overlap_are_no_difference() {
        let spread = |values: &[f64]| Spread::of(values);
        assert_eq!(
            verdict(spread(&[1.0, 3.0, 2.0]), spread(&[3.0, 9.0])),
            "no difference"
        );
        assert_eq!(verdict(spread(&[1.0, 2.0]), spread(&[3.0])), "x 0.50");
        assert_eq!(verdict(spread(&[1.0]), None), "");
        assert_eq!(Spread::of(&[4.0, 1.0]).unwrap().median, 2.5);
    }

    #[test]
    fn an_interrupted_run_goes_on_and_another_builds_samples_are_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bench.json");
        let mut store = Store::open(&path, build("a"), false).unwrap();
        store.add(sample(Software::Kedge, 1, 2.0)).unwrap();
        let store = Store::open(&path, build("a"), false).unwrap();
        assert!(store.has(Measure::Memory, Software::Kedge, 1));
        assert!(!store.has(Measure::Memory, Software::Upstream, 1));
        let with_upstream = Build {
            upstream: Some("u".into()),
            ..build("a")
        };
        let store = Store::open(&path, with_upstream, false).unwrap();
        assert!(store.has(Measure::Memory, Software::Kedge, 1));
        let store = Store::open(&path, build("b"), false).unwrap();
        assert!(!store.has(Measure::Memory, Software::Kedge, 1));
        assert!(path.with_extension("old.json").is_file());
    }

    #[test]
    fn the_table_puts_both_side_by_side() {
        let text = table(&[
            sample(Software::Kedge, 1, 10.0),
            sample(Software::Upstream, 1, 40.0),
            sample(Software::Kedge, 2, 12.0),
        ]);
        let line = text.lines().find(|line| line.starts_with("PSS")).unwrap();
        assert!(line.contains("10.00 11.00 12.00 (2)"), "{line}");
        assert!(line.ends_with("x 0.28"), "{line}");
    }
}
