//! `promtool check metrics` on a node's pages: nothing that it does not also say of an upstream kubelet, and nothing at all of `kedge_` families.
//!
//! In: the program and a page. Out: [`Problem`]s. What it says of the upstream kubelet is recorded in `qemu-tests/metrics/promtool-upstream.tsv`, from
//! nodes that ran both; `cargo rig compare-metrics --record` adds what is new. Which problems count ([`ours_alone`]) is pure.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cluster;

/// What it says of an upstream kubelet v1.37.1.
pub const RECORDED: &str = include_str!("../../metrics/promtool-upstream.tsv");

const TIMEOUT: Duration = Duration::from_secs(60);
/// Its exit code for "there are problems".
const PROBLEMS: i32 = 3;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub family: String,
    pub text: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\t{}", self.family, self.text)
    }
}

/// Runs it on a page. A page that it cannot read is an error.
pub fn check(program: &Path, page: &str) -> Result<BTreeSet<Problem>> {
    let mut command = Command::new(program);
    command.args(["check", "metrics"]);
    let output = cluster::run(&mut command, page, TIMEOUT).context("promtool check metrics")?;
    match output.code {
        0 | PROBLEMS => Ok(problems(&output.stderr)),
        code => bail!(
            "promtool check metrics: exit code {code}: {}",
            output.stderr.trim()
        ),
    }
}

/// Its lines: a family, a space, what is wrong.
fn problems(text: &str) -> BTreeSet<Problem> {
    let lines = text.lines().filter_map(|line| line.trim().split_once(' '));
    lines
        .map(|(family, text)| Problem {
            family: family.to_owned(),
            text: text.to_owned(),
        })
        .collect()
}

/// The recorded list: `FAMILY<tab>PROBLEM`.
pub fn recorded(text: &str) -> BTreeSet<Problem> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once('\t'))
        .map(|(family, text)| Problem {
            family: family.to_owned(),
            text: text.to_owned(),
        })
        .collect()
}

/// What is said of us and not of upstream, and all that is said of families that are ours.
pub fn ours_alone(ours: &BTreeSet<Problem>, upstream: &BTreeSet<Problem>) -> Vec<Problem> {
    let alone =
        |problem: &&Problem| problem.family.starts_with("kedge_") || !upstream.contains(*problem);
    ours.iter().filter(alone).cloned().collect()
}

/// The recorded list with what is new.
pub fn record(old: &str, new: &BTreeSet<Problem>) -> String {
    let head: Vec<&str> = old.lines().filter(|line| line.starts_with('#')).collect();
    let mut all = recorded(old);
    all.extend(new.iter().cloned());
    let lines: Vec<String> = all.iter().map(Problem::to_string).collect();
    format!("{}\n{}\n", head.join("\n"), lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_upstream_has_too_is_no_problem_of_ours_unless_the_family_is() {
        let ours = problems(
            "a_count some text\nkedge_x no help text\nb counter metrics should have \"_total\" suffix\n\n",
        );
        assert_eq!(ours.len(), 3);
        let upstream = recorded("# head\na_count\tsome text\nkedge_x\tno help text\n");
        let alone: Vec<String> = ours_alone(&ours, &upstream)
            .iter()
            .map(Problem::to_string)
            .collect();
        assert_eq!(
            alone,
            [
                "b\tcounter metrics should have \"_total\" suffix",
                "kedge_x\tno help text"
            ]
        );
    }

    #[test]
    fn recording_keeps_the_head_and_what_was_there() {
        let new = problems("b new\na old\n");
        let text = record("# head\na\told\n", &new);
        assert_eq!(text, "# head\na\told\nb\tnew\n");
        assert_eq!(recorded(&text), new);
    }

    /// A family with labels shows with its first series only, so that a page of a quiet node does not tell: read off the declarations (`Family::…`; the
    /// pages that are made without them, cAdvisor's among them, show all their families always).
    #[test]
    fn what_is_said_of_a_rare_family_is_recorded_too() {
        let agent = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent");
        let upstream = recorded(RECORDED);
        let declared = declared(&agent);
        assert!(declared.contains(&("counter".to_owned(), "kubelet_evictions".to_owned())));
        let unlike: Vec<&(String, String)> = declared
            .iter()
            .filter(|(kind, family)| {
                let (total, count) = (family.ends_with("_total"), family.ends_with("_count"));
                let base = !family.ends_with("_ms") && !family.contains("_milliseconds");
                let plain = base && (!count || kind == "histogram") && total == (kind == "counter");
                let known = upstream.iter().any(|problem| problem.family == *family);
                !plain && (family.starts_with("kedge_") || !known)
            })
            .collect();
        assert!(unlike.is_empty(), "{unlike:?}");
    }

    /// Kinds and names in `Family::kind("name"` under a directory, tests' own left out (they come last in a file).
    fn declared(directory: &Path) -> BTreeSet<(String, String)> {
        let mut found = BTreeSet::new();
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") {
                found.append(&mut declared(&path));
            } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("tests.rs")
            {
                let text = std::fs::read_to_string(&path).unwrap();
                let text = text.split("#[cfg(test)]").next().unwrap();
                found.extend(text.split("Family::").skip(1).filter_map(|rest| {
                    let (kind, arguments) = rest.split_once('(')?;
                    let name = arguments.trim_start().strip_prefix('"')?;
                    Some((kind.to_owned(), name.split('"').next()?.to_owned()))
                }));
            }
        }
        found
    }

    #[test]
    fn the_committed_list_speaks_of_no_family_of_ours() {
        assert!(
            recorded(RECORDED)
                .iter()
                .all(|problem| !problem.family.starts_with("kedge_"))
        );
    }
}
