//! What was obtained on which build: the journal of a run, its summary, and how two summaries differ.
//!
//! In: [`Outcome`]s as they come. Out: `results.jsonl` (a line per test, appended at once, so that a killed run loses nothing),
//! `summary.json`, [`Comparison`]. A journal belongs to one [`Build`]: outcomes of another are never merged into it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::report::{Outcome, State};

pub const JOURNAL: &str = "results.jsonl";
pub const SUMMARY: &str = "summary.json";

/// What a verdict depends on: equal builds give results that may stand in one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// `kedge` or `upstream`.
    pub node_software: String,
    /// What the nodes say they run.
    pub version: String,
    /// Hash over our programs, containerd, runc, the kernel package and the image's sources.
    pub image: String,
    /// Hash of the test images.
    pub test_images: String,
    /// Hash of `e2e.test` with its modules.
    pub suite: String,
    /// Journals of an older rig do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ground: Option<Ground>,
}

/// The cluster that a build was judged in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ground {
    pub nodes: usize,
    pub memory_mib: u32,
    pub cpus: u8,
    pub max_pods: u32,
    /// [`crate::fingerprint::settings`].
    pub settings: String,
}

impl std::fmt::Display for Ground {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} nodes of {} MiB and {} CPUs",
            self.nodes, self.memory_mib, self.cpus
        )
    }
}

impl Build {
    /// A directory's name.
    pub fn id(&self) -> String {
        format!("{}-{}-{}", self.node_software, self.image, &self.suite)
    }

    /// Whether verdicts on `other` may stand beside ours: all that both tell is equal.
    pub fn agrees(&self, other: &Self) -> bool {
        let same_ground = match (&self.ground, &other.ground) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => true,
        };
        let without = |build: &Self| Self {
            ground: None,
            ..build.clone()
        };
        same_ground && without(self) == without(other)
    }
}

/// The first line of a journal.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    build: Build,
}

/// The results of one build, on disk and in memory.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    pub outcomes: BTreeMap<String, Outcome>,
    /// As the first line has it.
    pub build: Build,
    /// Failures of earlier passes, by test.
    failed: BTreeMap<String, u32>,
}

impl Journal {
    /// A new journal; one that is there is kept under another name, and so are those that were kept before.
    pub fn create(directory: &Path, build: &Build) -> Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
        let path = directory.join(JOURNAL);
        if path.exists() {
            let old = (1..)
                .map(|number| directory.join(format!("{JOURNAL}.before-{number}")))
                .find(|old| !old.exists())
                .context("no name is left for the old journal")?;
            fs::rename(&path, &old).with_context(|| format!("rename to {}", old.display()))?;
        }
        let mut file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        let head = serde_json::to_string(&Head {
            build: build.clone(),
        })
        .context("write the build")?;
        writeln!(file, "{head}").with_context(|| format!("write {}", path.display()))?;
        Ok(Self {
            path,
            file,
            outcomes: BTreeMap::new(),
            build: build.clone(),
            failed: BTreeMap::new(),
        })
    }

    /// Goes on with the journal of the same build, or begins one.
    pub fn resume(directory: &Path, build: &Build) -> Result<Self> {
        let path = directory.join(JOURNAL);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Self::create(directory, build);
            }
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        let (known, outcomes) = parse(&text).with_context(|| format!("read {}", path.display()))?;
        if !known.agrees(build) {
            bail!(
                "{} holds results of another build ({known:?}), this one is {build:?}: run without --resume",
                path.display()
            );
        }
        let mut file = File::options()
            .append(true)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        if !text.ends_with('\n') {
            // The line that a killed run was writing.
            writeln!(file).with_context(|| format!("write {}", path.display()))?;
        }
        Ok(Self {
            path,
            file,
            outcomes,
            build: known,
            failed: BTreeMap::new(),
        })
    }

    /// Tests are about to run: a verdict that they have already is one of an earlier pass.
    pub fn begin(&mut self, names: &[String]) {
        for name in names {
            if let Some(old) = self.outcomes.get(name) {
                let failed = old.failed_before + u32::from(old.state == State::Failed);
                self.failed.insert(name.clone(), failed);
            }
        }
    }

    /// Writes an outcome down. The last word about a test counts, and how often it failed before stays with it.
    pub fn add(&mut self, outcome: &Outcome) -> Result<()> {
        let outcome = &Outcome {
            failed_before: self.failed.get(&outcome.name).copied().unwrap_or(0),
            ..outcome.clone()
        };
        if self.outcomes.get(&outcome.name) == Some(outcome) {
            return Ok(());
        }
        let line = serde_json::to_string(outcome).context("write an outcome")?;
        writeln!(self.file, "{line}").with_context(|| format!("write {}", self.path.display()))?;
        self.outcomes.insert(outcome.name.clone(), outcome.clone());
        Ok(())
    }
}

/// A journal's build and the last word about each test.
pub fn read(path: &Path) -> Result<(Build, BTreeMap<String, Outcome>)> {
    fs::read_to_string(path)
        .context("read it")
        .and_then(|text| parse(&text))
        .with_context(|| format!("journal {}", path.display()))
}

fn parse(text: &str) -> Result<(Build, BTreeMap<String, Outcome>)> {
    let mut lines = text.lines();
    let head: Head =
        serde_json::from_str(lines.next().unwrap_or_default()).context("line 1 names no build")?;
    let mut outcomes = BTreeMap::new();
    for line in lines.filter(|line| !line.is_empty()) {
        // A line that was cut off by a kill is a test to run again.
        if let Ok(outcome) = serde_json::from_str::<Outcome>(line) {
            outcomes.insert(outcome.name.clone(), outcome);
        }
    }
    Ok((head.build, outcomes))
}

/// What later runs are compared with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub build: Build,
    /// Seconds since 1970.
    pub finished: u64,
    /// The machine's load average when it ended: times depend on it.
    pub load: String,
    pub command: String,
    /// Chosen tests without a verdict.
    pub missing: Vec<String>,
    pub outcomes: Vec<Outcome>,
}

impl Summary {
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).context("write the summary")?;
        // Whole or not at all: it is what the next run is compared with.
        let fresh = path.with_extension("new");
        fs::write(&fresh, text)
            .and_then(|()| fs::rename(&fresh, path))
            .with_context(|| format!("write {}", path.display()))
    }

    pub fn state(&self, name: &str) -> Option<State> {
        self.outcomes
            .iter()
            .find(|outcome| outcome.name == name)
            .map(|outcome| outcome.state)
    }
}

/// What changed between two runs, over the tests that both have.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    pub newly_passing: Vec<String>,
    pub newly_failing: Vec<String>,
    pub in_both: usize,
}

pub fn compare(before: &Summary, now: &Summary) -> Comparison {
    let mut comparison = Comparison::default();
    for outcome in &now.outcomes {
        let Some(old) = before.state(&outcome.name) else {
            continue;
        };
        comparison.in_both += 1;
        match (old == State::Passed, outcome.state == State::Passed) {
            (false, true) => comparison.newly_passing.push(outcome.name.clone()),
            (true, false) => comparison.newly_failing.push(outcome.name.clone()),
            _ => {}
        }
    }
    comparison
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn build(image: &str) -> Build {
        Build {
            node_software: "kedge".into(),
            version: "v1.37.1+kedge".into(),
            image: image.into(),
            test_images: "t".into(),
            suite: "s".into(),
            ground: None,
        }
    }

    pub fn outcome(name: &str, state: State) -> Outcome {
        Outcome {
            failed_before: 0,
            name: name.into(),
            state,
            seconds: 1.5,
            reason: if state == State::Passed {
                String::new()
            } else {
                "because".into()
            },
            place: String::new(),
        }
    }

    pub fn summary(outcomes: Vec<Outcome>) -> Summary {
        Summary {
            build: build("i"),
            finished: 0,
            load: "0.1".into(),
            command: "c".into(),
            missing: Vec::new(),
            outcomes,
        }
    }

    #[test]
    fn a_killed_run_goes_on_and_another_build_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(directory.path(), &build("i")).unwrap();
        journal.add(&outcome("one", State::Failed)).unwrap();
        journal.add(&outcome("two", State::Passed)).unwrap();
        journal.add(&outcome("one", State::Passed)).unwrap();
        drop(journal);
        let path = directory.path().join(JOURNAL);
        let mut text = fs::read_to_string(&path).unwrap();
        text.push_str("{\"name\":\"cut o");
        fs::write(&path, text).unwrap();
        let mut journal = Journal::resume(directory.path(), &build("i")).unwrap();
        assert_eq!(journal.outcomes.len(), 2);
        assert_eq!(journal.outcomes["one"].state, State::Passed);
        journal.add(&outcome("three", State::Passed)).unwrap();
        let journal = Journal::resume(directory.path(), &build("i")).unwrap();
        assert_eq!(journal.outcomes.len(), 3);
        let error = Journal::resume(directory.path(), &build("j")).unwrap_err();
        assert!(error.to_string().contains("another build"), "{error}");
        for number in 1..=2 {
            let journal = Journal::create(directory.path(), &build("j")).unwrap();
            assert!(journal.outcomes.is_empty());
            let old = directory.path().join(format!("{JOURNAL}.before-{number}"));
            assert_eq!(read(&old).unwrap().1.len(), [3, 0][number - 1]);
        }
    }

    #[test]
    fn an_older_journal_is_gone_on_with_and_one_of_another_cluster_is_not() {
        let ground = |memory_mib| Ground {
            nodes: 3,
            memory_mib,
            cpus: 1,
            max_pods: 110,
            settings: "x".into(),
        };
        let on = |memory_mib| Build {
            ground: Some(ground(memory_mib)),
            ..build("i")
        };
        let directory = tempfile::tempdir().unwrap();
        // As an older rig wrote it.
        let head = r#"{"build":{"node_software":"kedge","version":"v1.37.1+kedge","image":"i","test_images":"t","suite":"s"}}"#;
        let one = r#"{"name":"one","state":"passed","seconds":1.0}"#;
        fs::write(directory.path().join(JOURNAL), format!("{head}\n{one}\n")).unwrap();
        let journal = Journal::resume(directory.path(), &on(1536)).unwrap();
        assert!(journal.outcomes.len() == 1 && journal.build.ground.is_none());
        Journal::create(directory.path(), &on(1536)).unwrap();
        let journal = Journal::resume(directory.path(), &on(1536)).unwrap();
        assert_eq!(journal.build, on(1536));
        let error = Journal::resume(directory.path(), &on(512)).unwrap_err();
        assert!(error.to_string().contains("memory_mib: 512"), "{error}");
    }

    #[test]
    fn a_test_that_is_run_again_keeps_count_of_its_failures() {
        let directory = tempfile::tempdir().unwrap();
        let names = ["one".to_owned(), "two".to_owned()];
        let mut journal = Journal::create(directory.path(), &build("i")).unwrap();
        journal.begin(&names);
        // The log says it while the test runs, the report at the end once more.
        journal.add(&outcome("one", State::Failed)).unwrap();
        journal.add(&outcome("one", State::Failed)).unwrap();
        journal.add(&outcome("two", State::Passed)).unwrap();
        let mut journal = Journal::resume(directory.path(), &build("i")).unwrap();
        journal.begin(&names[..1]);
        journal.add(&outcome("one", State::Passed)).unwrap();
        journal.add(&outcome("one", State::Passed)).unwrap();
        let journal = Journal::resume(directory.path(), &build("i")).unwrap();
        let seen = |name: &str| {
            (
                journal.outcomes[name].state,
                journal.outcomes[name].failed_before,
            )
        };
        assert_eq!(seen("one"), (State::Passed, 1));
        assert_eq!(seen("two"), (State::Passed, 0));
    }

    #[test]
    fn only_tests_of_both_runs_are_compared() {
        let before = summary(vec![
            outcome("mended", State::Failed),
            outcome("broken", State::Passed),
            outcome("same", State::Passed),
            outcome("gone", State::Passed),
        ]);
        let now = summary(vec![
            outcome("mended", State::Passed),
            outcome("broken", State::Skipped),
            outcome("same", State::Passed),
            outcome("new", State::Failed),
        ]);
        let comparison = compare(&before, &now);
        assert_eq!(comparison.newly_passing, ["mended"]);
        assert_eq!(comparison.newly_failing, ["broken"]);
        assert_eq!(comparison.in_both, 3);
    }
}
