//! VM stories: what a user of the cluster must be able to count on, asserted through public faces (API server, kubelet port, pod network,
//! console), never through the agent's insides.
//!
//! In: a running cluster. Out: one line per story and a [`Tally`]. Stories share the cluster and run in the order of [`all`]; those that
//! break things come last, and after them the invariants are asserted again on rebooted nodes.
//! Absent: order between stories as a precondition. Each makes what it needs, so `--stories REGEX` runs any of them alone.

mod bad_input;
mod config;
mod consumers;
mod end;
mod faults;
mod fixtures;
pub(crate) mod kit;
mod lifecycle;
mod machines;
mod metrics;
mod network;
mod open;
mod storage;
mod streams;

use std::io::Write;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use regex::Regex;

use crate::cluster::Cluster;
use crate::{artefacts, recap, upstream};
pub use kit::Stage;

pub struct Story {
    pub name: &'static str,
    /// The whole story's; its waits have their own. Generous: two cores emulate three machines.
    pub deadline: Duration,
    pub run: fn(&Stage) -> Result<()>,
    /// Left out, for this reason.
    pub skip: Option<&'static str>,
    /// Upstream programs that it needs, which a run of stories does not build: without them it is left out.
    pub needs: &'static [&'static str],
}

const fn story(name: &'static str, seconds: u64, run: fn(&Stage) -> Result<()>) -> Story {
    Story {
        name,
        deadline: Duration::from_secs(seconds),
        run,
        skip: None,
        needs: &[],
    }
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    pub passed: usize,
    pub failed: usize,
    pub skipped: usize,
}

impl Tally {
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

/// Every story in its order.
pub fn all() -> Vec<Story> {
    let mut stories = Vec::new();
    stories.extend(network::STORIES);
    stories.extend(config::STORIES);
    stories.extend(lifecycle::STORIES);
    stories.extend(streams::STORIES);
    stories.extend(metrics::STORIES);
    stories.extend(storage::STORIES);
    stories.extend(consumers::STORIES);
    stories.extend(faults::STORIES);
    stories.extend(bad_input::STORIES);
    stories.extend(end::STORIES);
    stories
}

/// Those whose name matches, or all.
pub fn select(filter: Option<&str>) -> Result<Vec<Story>> {
    let Some(filter) = filter else {
        let mut stories = all();
        for story in &mut stories {
            story.skip = open::reason(story.name);
        }
        return Ok(stories);
    };
    let regex = Regex::new(filter).with_context(|| format!("--stories {filter:?}"))?;
    let chosen: Vec<Story> = all()
        .into_iter()
        .filter(|story| regex.is_match(story.name))
        .collect();
    if chosen.is_empty() {
        let names: Vec<&str> = all().iter().map(|story| story.name).collect();
        anyhow::bail!(
            "no story matches {filter:?}; there are:\n  {}",
            names.join("\n  ")
        );
    }
    Ok(chosen)
}

/// Runs the stories one after the other and prints a line for each. Those that would begin after `until` are skipped and counted so:
/// a run that is cut off from outside would say nothing at all.
pub fn run(cluster: Cluster, stories: Vec<Story>, until: Option<Instant>) -> Tally {
    let stage = Arc::new(Stage::new(cluster));
    let mut tally = Tally::default();
    for story in stories {
        let start = Instant::now();
        let late = until
            .is_some_and(|until| start >= until)
            .then_some("no time left in this run");
        let reason = story.skip.or(late).map(str::to_owned);
        if let Some(reason) = reason.or_else(|| lacking(story.needs)) {
            tally.skipped += 1;
            println!("skip  {:<44} {reason}", story.name);
            continue;
        }
        let consoles = stage.console_marks();
        let result = run_one(&stage, &story);
        let seconds = start.elapsed().as_secs_f32();
        stage.end_story(result.is_err());
        match result {
            Ok(()) => {
                tally.passed += 1;
                println!("ok    {:<44} {seconds:>6.1}s", story.name);
            }
            Err(error) => {
                tally.failed += 1;
                let line = format!("FAIL  {:<44} {seconds:>6.1}s: {error:#}", story.name);
                println!("{line}");
                recap::note(&line);
                println!("{}", stage.consoles_since(&consoles, 15));
            }
        }
        // A file as output is read while the tests run.
        let _ = std::io::stdout().flush();
    }
    tally
}

/// Why a story that needs these programs cannot run.
fn lacking(needs: &[&str]) -> Option<String> {
    if needs.is_empty() {
        return None;
    }
    let there = artefacts::workspace().and_then(|root| {
        let modules = root.join("qemu-tests/upstream");
        upstream::cached(&modules, &upstream::cache_root()?, needs)
    });
    match there {
        Ok(Some(_)) => None,
        Ok(None) => Some(format!(
            "{} not built (`cargo rig scrape` does)",
            needs.join(", ")
        )),
        Err(error) => Some(format!("{}: {error:#}", needs.join(", "))),
    }
}

/// A story that outlives its deadline is left behind: its own waits end soon after.
fn run_one(stage: &Arc<Stage>, story: &Story) -> Result<()> {
    let (sender, receiver) = channel();
    let (run, shared) = (story.run, stage.clone());
    let thread = thread::Builder::new()
        .name(story.name.to_owned())
        .spawn(move || drop(sender.send(run(&shared))))
        .context("start the story's thread")?;
    match receiver.recv_timeout(story.deadline) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => {
            Err(anyhow!("not done after {} s", story.deadline.as_secs()))
        }
        Err(RecvTimeoutError::Disconnected) => {
            let panic = thread.join().err();
            let words = panic
                .as_ref()
                .and_then(|panic| panic.downcast_ref::<String>())
                .cloned()
                .unwrap_or_default();
            Err(anyhow!("the story panicked {words}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_words_with_dashes() {
        let names: Vec<&str> = all().iter().map(|story| story.name).collect();
        let unique: BTreeSet<&str> = names.iter().copied().collect();
        assert_eq!(unique.len(), names.len());
        assert!(names.iter().all(|name| {
            name.chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        }));
    }

    #[test]
    fn every_open_story_exists_and_runs_when_asked_for() {
        for (name, reason) in open::OPEN {
            let named = select(Some(&format!("^{name}$"))).expect("the story exists");
            assert!(named.iter().all(|story| story.skip.is_none()));
            assert!(!reason.is_empty());
        }
    }

    #[test]
    fn a_filter_that_matches_nothing_lists_the_stories() {
        let error = select(Some("no-such-story"))
            .map(|stories| stories.len())
            .unwrap_err();
        assert!(error.to_string().contains("all-nodes-ready"), "{error}");
    }

    #[test]
    fn a_story_without_its_programs_says_so() {
        assert_eq!(lacking(&[]), None);
        for story in all() {
            let there = |need| {
                upstream::ARTEFACTS
                    .iter()
                    .any(|artefact| artefact.name == need)
            };
            assert!(
                story.needs.iter().all(|need| there(*need)),
                "{}",
                story.name
            );
        }
        let reason = lacking(&["no-such-program"]).unwrap();
        assert!(
            reason.contains("no upstream program is called no-such-program"),
            "{reason}"
        );
    }

    #[test]
    fn the_last_line_has_the_agreed_form() {
        assert_eq!(
            Tally {
                passed: 3,
                failed: 1,
                skipped: 0
            }
            .to_string(),
            "3 passed, 1 failed"
        );
        assert_eq!(
            Tally {
                passed: 3,
                failed: 0,
                skipped: 2
            }
            .to_string(),
            "3 passed, 0 failed, 2 skipped"
        );
    }
}
