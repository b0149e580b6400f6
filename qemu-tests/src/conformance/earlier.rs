//! What earlier runs left: summaries below `target/conformance`, and the journals that were committed.
//!
//! In: both directories. Out: the tests that may be skipped, the summary that a run is compared with, and the files that could not be read,
//! to be told before hours pass: a broken file of another run takes nothing from this one's results.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::report::{Outcome, State};
use super::results::{self, Build, Summary};

#[derive(Debug, Default)]
pub struct Earlier {
    summaries: Vec<(PathBuf, Summary)>,
    journals: Vec<(Build, Vec<Outcome>)>,
    pub unreadable: Vec<String>,
}

impl Earlier {
    /// `root` has a directory per build, `kept` a journal per build. Neither need be there.
    pub fn read(root: &Path, kept: &Path) -> Result<Self> {
        let mut earlier = Self::default();
        for directory in entries(root)? {
            let path = directory.join(results::SUMMARY);
            if path.is_file() {
                match Summary::read(&path) {
                    Ok(summary) => earlier.summaries.push((path, summary)),
                    Err(error) => earlier.unreadable.push(format!("{error:#}")),
                }
            }
        }
        for path in entries(kept)? {
            if path.extension().is_none_or(|end| end != "jsonl") {
                continue;
            }
            match results::read(&path) {
                Ok((build, outcomes)) => {
                    let outcomes = outcomes.into_values().collect();
                    earlier.journals.push((build, outcomes));
                }
                Err(error) => earlier.unreadable.push(format!("{error:#}")),
            }
        }
        Ok(earlier)
    }

    /// Tests that any recorded run on the upstream node skipped, by the same suite.
    pub fn excused(&self, suite: &str) -> BTreeSet<String> {
        let summaries = self
            .summaries
            .iter()
            .map(|(_, summary)| (&summary.build, &summary.outcomes));
        let journals = self.journals.iter().map(|(build, list)| (build, list));
        summaries
            .chain(journals)
            .filter(|(build, _)| build.node_software == "upstream" && build.suite == suite)
            .flat_map(|(_, outcomes)| outcomes)
            .filter(|outcome| outcome.state == State::Skipped)
            .map(|outcome| outcome.name.clone())
            .collect()
    }

    /// The latest summary of the same node software: an earlier one of this build, or of another.
    pub fn newest(self, build: &Build) -> Option<(PathBuf, Summary)> {
        self.summaries
            .into_iter()
            .filter(|(_, summary)| summary.build.node_software == build.node_software)
            .max_by_key(|(_, summary)| summary.finished)
    }
}

/// Paths in a directory in their order; none where there is no directory.
fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let words = || format!("list {}", directory.display());
    let list = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        list => list.with_context(words)?,
    };
    let mut paths = Vec::new();
    for entry in list {
        paths.push(entry.with_context(words)?.path());
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::super::results::Journal;
    use super::super::results::tests::{build, outcome, summary};
    use super::*;

    #[test]
    fn committed_journals_excuse_and_a_broken_summary_is_passed_over() {
        let root = tempfile::tempdir().unwrap();
        let kept = tempfile::tempdir().unwrap();
        let upstream = Build {
            node_software: "upstream".into(),
            ..build("u")
        };
        let directory = |name: &str| {
            let path = root.path().join(name);
            fs::create_dir(&path).unwrap();
            path.join(results::SUMMARY)
        };
        let mut other = summary(vec![outcome("in a summary", State::Skipped)]);
        other.build = upstream.clone();
        other.write(&directory("a")).unwrap();
        fs::write(directory("b"), "{\"build\":").unwrap();
        let mut own = summary(vec![outcome("on ours", State::Skipped)]);
        own.finished = 7;
        own.write(&directory("c")).unwrap();
        let mut journal = Journal::create(kept.path(), &upstream).unwrap();
        for (name, state) in [("in a journal", State::Skipped), ("passed", State::Passed)] {
            journal.add(&outcome(name, state)).unwrap();
        }
        let earlier = Earlier::read(root.path(), kept.path()).unwrap();
        assert_eq!(earlier.unreadable.len(), 1);
        assert!(earlier.unreadable[0].contains("b/summary.json"));
        let excused: Vec<String> = earlier.excused("s").into_iter().collect();
        assert_eq!(excused, ["in a journal", "in a summary"]);
        assert!(earlier.excused("another suite").is_empty());
        assert_eq!(earlier.newest(&build("i")).unwrap().1.finished, 7);
        let nowhere = root.path().join("nowhere");
        assert!(
            Earlier::read(&nowhere, &nowhere)
                .unwrap()
                .unreadable
                .is_empty()
        );
    }

    #[test]
    fn committed_journals_are_readable_and_named_after_their_build() {
        let kept = crate::artefacts::workspace()
            .unwrap()
            .join(super::super::KEPT);
        let files = entries(&kept).unwrap();
        assert!(!files.is_empty());
        for file in files {
            let (build, outcomes) = results::read(&file).unwrap();
            let name = format!("{}.jsonl", build.id());
            assert_eq!(file.file_name().unwrap().to_str(), Some(name.as_str()));
            assert!(!outcomes.is_empty());
        }
    }
}
