//! Samples on disk.
//!
//! In: one [`Sample`] per [`Part`], software and repetition. Out: a JSON file that is whole after every sample. A file of another build or machine is
//! set aside under its build's name, not mixed in; one that cannot be read is an error, and so is a figure that is not a number. What the samples
//! say together is [`super::table`]'s.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::table::origin;
use super::{Measure, Part, ram};
use crate::artefacts::Artefacts;
use crate::cluster::Size;
use crate::fingerprint;
use crate::qemu::Accel;
use crate::twin::Software;

/// Figures by name; the name ends with the unit.
pub type Figures = BTreeMap<String, f64>;

/// How figures begin that were taken with so many pods on the node.
pub fn with_pods(count: usize) -> String {
    format!("{count:>3} pods: ")
}

/// What samples have in common that may stand in one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// A hash over kernel, containerd, runc and Kedge's programs.
    pub image: String,
    /// A hash over upstream's programs and what belongs to them.
    pub upstream: Option<String>,
    /// A hash over the control plane, and how nodes of both kinds are configured. Older files have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<String>,
    pub accelerator: Accel,
    pub host_cpus: usize,
    pub machine: Size,
}

impl Build {
    /// For a file's name: the programs' hashes.
    fn label(&self) -> String {
        let names = [Some(&self.image), self.upstream.as_ref()];
        let names: Vec<&str> = names.into_iter().flatten().map(String::as_str).collect();
        names.join("-")
    }

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
        // Of both kinds always: a run of Kedge alone is gone on with by one of both.
        settings: Some(fingerprint::settings(artefacts, true)?),
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
    pub fn start() -> Result<Self> {
        Ok(Self {
            start: Instant::now(),
            load: load()?,
        })
    }

    pub fn sample(
        &self,
        measure: Measure,
        software: Software,
        repetition: u32,
        figures: Figures,
    ) -> Result<Sample> {
        Ok(Sample {
            measure,
            software,
            repetition,
            at: now(),
            load: [self.load, load()?],
            seconds: self.start.elapsed().as_secs_f64(),
            figures: numbers(figures)?,
        })
    }
}

/// Where another build's samples go: `bench.LABEL.json`, or with a number if that is taken. Nothing is written over.
fn aside(path: &Path, label: &str, taken: impl Fn(&Path) -> bool) -> PathBuf {
    let mut aside = path.with_extension(format!("{label}.json"));
    let mut number = 2;
    while taken(&aside) {
        aside = path.with_extension(format!("{label}.{number}.json"));
        number += 1;
    }
    aside
}

/// JSON has no "not a number": it would be written as `null`, which no later run can read.
fn numbers(figures: Figures) -> Result<Figures> {
    ensure!(!figures.is_empty(), "there are no figures");
    for (name, value) in &figures {
        ensure!(value.is_finite(), "{name} is {value}, not a number");
    }
    Ok(figures)
}

/// UTC.
fn now() -> String {
    let now = jiff::Timestamp::now();
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn load() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg").context("read /proc/loadavg")?;
    let word = text.split_whitespace().next().unwrap_or("");
    word.parse()
        .with_context(|| format!("/proc/loadavg holds {text:?}"))
}

#[derive(Debug, Serialize, Deserialize)]
struct Document {
    command: String,
    build: Build,
    samples: Vec<Sample>,
    /// Of searches for the smallest memory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    looks: Vec<Look>,
}

/// One answer of a search.
#[derive(Debug, Serialize, Deserialize)]
struct Look {
    #[serde(flatten)]
    question: ram::Question,
    kept: bool,
    /// UTC.
    at: String,
    /// The host's load average of one minute then.
    load: f64,
}

pub struct Store {
    pub path: PathBuf,
    document: Document,
    /// Of the samples, those that were there when it was opened.
    kept: usize,
}

impl Store {
    /// Goes on with the samples at `path` if they are of this build.
    pub fn open(path: &Path, build: Build, fresh: bool) -> Result<Self> {
        let old = match fs::read(path) {
            Ok(text) => Some(serde_json::from_slice::<Document>(&text)),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => {
                return Err(error).with_context(|| format!("read samples in {}", path.display()));
            }
        };
        let mut upstream = build.upstream.clone();
        let command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
        let (samples, looks) = match old {
            Some(Ok(old)) if old.build.continues(&build) && !fresh => {
                if let Some(origin) = origin(old.samples.iter()) {
                    println!("kept: {} samples {origin}", old.samples.len());
                }
                upstream = upstream.or(old.build.upstream);
                (old.samples, old.looks)
            }
            Some(Err(error)) if !fresh => {
                return Err(error).with_context(|| {
                    format!(
                        "{} holds no samples that can be gone on with: move it away, or set it aside with --fresh",
                        path.display()
                    )
                });
            }
            Some(old) => {
                let label = old.map_or("unreadable".to_owned(), |old| old.build.label());
                let aside = aside(path, &label, Path::exists);
                fs::rename(path, &aside)
                    .with_context(|| format!("rename to {}", aside.display()))?;
                println!(
                    "samples of another build or run: moved to {}",
                    aside.display()
                );
                (Vec::new(), Vec::new())
            }
            None => (Vec::new(), Vec::new()),
        };
        Ok(Self {
            kept: samples.len(),
            path: path.to_owned(),
            document: Document {
                command: format!("cargo rig {command}"),
                build: Build { upstream, ..build },
                samples,
                looks,
            },
        })
    }

    /// Older files have one sample for all windows of a measure: what counts are the figures.
    pub fn has(&self, part: Part, software: Software, repetition: u32) -> bool {
        let start = part.prefix();
        self.document.samples.iter().any(|sample| {
            (sample.measure, sample.software, sample.repetition)
                == (part.measure, software, repetition)
                && sample.figures.keys().any(|name| name.starts_with(&start))
        })
    }

    /// What a run has added to what was there, for those who look at a table.
    pub fn news(&self) -> String {
        let (kept, added) = self.document.samples.split_at(self.kept);
        let Some(origin) = origin(kept.iter()) else {
            return format!("{} samples, all of this run", added.len());
        };
        let new = match added.len() {
            0 => "nothing measured".to_owned(),
            count => format!("{count} samples of this run"),
        };
        format!(
            "{new}: {} samples {origin} are kept; --fresh begins anew",
            kept.len()
        )
    }

    pub fn samples(&self) -> &[Sample] {
        &self.document.samples
    }

    pub fn add(&mut self, sample: Sample) -> Result<()> {
        for (name, value) in &sample.figures {
            println!("{:<9} {name:<66} {value:>10.2}", sample.software.name());
        }
        self.document.samples.push(sample);
        self.save()
    }

    /// What a look of a search has answered.
    pub fn known(&self, question: &ram::Question) -> Option<bool> {
        let mut looks = self.document.looks.iter();
        Some(looks.find(|look| look.question == *question)?.kept)
    }

    pub fn answered(&mut self, question: ram::Question, kept: bool) -> Result<()> {
        self.document.looks.push(Look {
            question,
            kept,
            at: now(),
            load: load()?,
        });
        self.save()
    }

    fn save(&self) -> Result<()> {
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
}

#[cfg(test)]
mod tests {
    use super::super::Number;
    use super::*;

    fn build(image: &str) -> Build {
        Build {
            image: image.into(),
            upstream: None,
            settings: Some("s".into()),
            accelerator: Accel::Tcg,
            host_cpus: 2,
            machine: Size::default(),
        }
    }

    fn sample(software: Software, repetition: u32, value: f64) -> Sample {
        Clock::start()
            .unwrap()
            .sample(
                Measure::Memory,
                software,
                repetition,
                Figures::from([("PSS MiB".to_owned(), value)]),
            )
            .unwrap()
    }

    #[test]
    fn an_interrupted_run_goes_on_and_another_builds_samples_are_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bench.json");
        let mut store = Store::open(&path, build("a"), false).unwrap();
        store.add(sample(Software::Kedge, 1, 2.0)).unwrap();
        let store = Store::open(&path, build("a"), false).unwrap();
        assert!(store.has(Measure::Memory.into(), Software::Kedge, 1));
        assert!(!store.has(Measure::Memory.into(), Software::Upstream, 1));
        let with_upstream = Build {
            upstream: Some("u".into()),
            ..build("a")
        };
        let store = Store::open(&path, with_upstream, false).unwrap();
        assert!(store.has(Measure::Memory.into(), Software::Kedge, 1));
        let otherwise = Build {
            settings: Some("t".into()),
            ..build("a")
        };
        assert!(!build("a").continues(&otherwise));
        let store = Store::open(&path, build("b"), false).unwrap();
        assert!(!store.has(Measure::Memory.into(), Software::Kedge, 1));
        assert!(path.with_extension("a.json").is_file());
    }

    #[test]
    fn what_was_set_aside_is_not_written_over() {
        let path = Path::new("/r/bench.json");
        let build = Build {
            upstream: Some("u".into()),
            ..build("a")
        };
        let taken =
            |names: &'static [&str]| move |path: &Path| names.contains(&path.to_str().unwrap());
        let name = |names| aside(path, &build.label(), taken(names));
        assert_eq!(name(&[]), Path::new("/r/bench.a-u.json"));
        assert_eq!(
            name(&["/r/bench.a-u.json"]),
            Path::new("/r/bench.a-u.2.json")
        );
        assert_eq!(
            name(&["/r/bench.a-u.json", "/r/bench.a-u.2.json"]),
            Path::new("/r/bench.a-u.3.json")
        );
    }

    #[test]
    fn a_run_that_measures_nothing_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bench.json");
        let mut store = Store::open(&path, build("a"), false).unwrap();
        store.add(sample(Software::Kedge, 1, 2.0)).unwrap();
        assert_eq!(store.news(), "1 samples, all of this run");
        let mut store = Store::open(&path, build("a"), false).unwrap();
        let news = store.news();
        assert!(
            news.starts_with("nothing measured: 1 samples of 2"),
            "{news}"
        );
        assert!(news.ends_with("are kept; --fresh begins anew"), "{news}");
        store.add(sample(Software::Kedge, 2, 2.0)).unwrap();
        assert!(
            store
                .news()
                .starts_with("1 samples of this run: 1 samples of 2")
        );
    }

    #[test]
    fn a_search_that_was_cut_off_knows_what_was_answered() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bench.json");
        let question = |memory_mib, seconds| ram::Question {
            software: Software::Upstream,
            repetition: 1,
            memory_mib,
            seconds,
        };
        let mut store = Store::open(&path, build("a"), false).unwrap();
        store.answered(question(416, 60), false).unwrap();
        store.answered(question(576, 60), true).unwrap();
        let store = Store::open(&path, build("a"), false).unwrap();
        assert_eq!(store.known(&question(416, 60)), Some(false));
        assert_eq!(store.known(&question(576, 60)), Some(true));
        assert_eq!(store.known(&question(576, 600)), None);
        let store = Store::open(&path, build("b"), false).unwrap();
        assert_eq!(store.known(&question(576, 60)), None, "another build's");
    }

    #[test]
    fn a_window_that_is_missing_is_missed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bench.json");
        let mut store = Store::open(&path, build("a"), false).unwrap();
        let figures = [" 30 pods: PSS of kedge, MiB", "  0 pods: PSS of kedge, MiB"];
        let figures = figures.map(|name| (name.to_owned(), 1.0)).into();
        store
            .add(
                Clock::start()
                    .unwrap()
                    .sample(Measure::Memory, Software::Kedge, 1, figures)
                    .unwrap(),
            )
            .unwrap();
        let has = |pods| {
            let part = Part {
                measure: Measure::Memory,
                with: Some(Number::Pods(pods)),
            };
            store.has(part, Software::Kedge, 1)
        };
        assert!(has(0) && has(30) && !has(110) && !has(3));
    }

    #[test]
    fn services_in_vms_are_not_those_measured_natively() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bench.json");
        let mut store = Store::open(&path, build("a"), false).unwrap();
        let part = |measure, count| Part {
            measure,
            with: Some(Number::Services(count)),
        };
        // As older files have it: one sample with both numbers.
        let figures = [1_000, 10_000].map(|count| {
            let name = format!("{}PSS, MiB", part(Measure::Services, count).prefix());
            (name, 1.0)
        });
        let sample = Clock::start()
            .unwrap()
            .sample(Measure::Services, Software::Kedge, 1, figures.into())
            .unwrap();
        store.add(sample).unwrap();
        for count in [1_000, 10_000] {
            assert!(store.has(part(Measure::Services, count), Software::Kedge, 1));
            assert!(!store.has(part(Measure::ServicesVm, count), Software::Kedge, 1));
        }
        assert!(!store.has(part(Measure::Services, 50), Software::Kedge, 1));
    }

    #[test]
    fn what_cannot_be_read_is_not_written_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bench.json");
        for text in ["{", "{\"command\": \"x\"}", "null"] {
            fs::write(&path, text).unwrap();
            let error = Store::open(&path, build("a"), false).err().unwrap();
            assert!(error.to_string().contains("--fresh"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        Store::open(&path, build("a"), true).unwrap();
        assert!(!path.exists());
        fs::create_dir(&path).unwrap();
        assert!(Store::open(&path, build("a"), false).is_err());
    }

    #[test]
    fn what_is_not_a_number_is_refused() {
        for value in [f64::NAN, f64::INFINITY] {
            let error = numbers(Figures::from([("CPU, s".to_owned(), value)])).unwrap_err();
            assert!(error.to_string().starts_with("CPU, s is "), "{error}");
        }
        assert!(numbers(Figures::new()).is_err());
    }

    #[test]
    fn committed_results_can_be_gone_on_with() {
        let results = super::super::results().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let mut files = 0;
        for entry in fs::read_dir(&results).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            if !(name.starts_with("bench") && name.ends_with(".json")) {
                continue;
            }
            let copy = directory.path().join(&name);
            fs::copy(entry.path(), &copy).unwrap();
            let document: Document =
                serde_json::from_slice(&fs::read(&copy).unwrap()).expect(&name);
            let store = Store::open(&copy, document.build, false).expect(&name);
            assert_eq!(store.samples(), document.samples, "{name}");
            files += 1;
        }
        assert!(files > 0);
    }
}
