//! What ginkgo says: its JSON report when a pass has ended, and its log while it runs. Pure.
//!
//! In: text. Out: [`Outcome`]s and [`Listed`] specs. The report is the authority; the log is what an interrupted run leaves, and what
//! progress is shown from. Specs that were interrupted or aborted have no outcome: they are run again.

use std::sync::OnceLock;

use anyhow::{Context, Result, bail};
use regex::Regex;
use serde::{Deserialize, Serialize};

static HEAD: OnceLock<Regex> = OnceLock::new();
const RULE: &str = "------------------------------";
/// First lines are for tables: what is longer is cut.
const WIDTH: usize = 400;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Passed,
    Failed,
    Skipped,
}

/// One test's verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    pub name: String,
    pub state: State,
    pub seconds: f64,
    /// The first line that says why it did not pass.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// `file:line` of the assertion.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub place: String,
    /// How often it failed on this build before it was run again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failed_before: u32,
}

/// serde passes a reference.
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A spec of the suite's own list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub name: String,
    pub labels: Vec<String>,
}

impl Listed {
    pub fn has(&self, label: &str) -> bool {
        self.labels.iter().any(|own| own == label)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Suite {
    #[serde(default)]
    spec_reports: Option<Vec<Spec>>,
    #[serde(default)]
    special_suite_failure_reasons: Option<Vec<String>>,
    #[serde(default)]
    pre_run_stats: Option<PreRun>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PreRun {
    specs_that_will_run: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    #[serde(default)]
    container_hierarchy_texts: Option<Vec<String>>,
    #[serde(default)]
    container_hierarchy_labels: Option<Vec<Option<Vec<String>>>>,
    leaf_node_type: String,
    #[serde(default)]
    leaf_node_text: String,
    #[serde(default)]
    leaf_node_labels: Option<Vec<String>>,
    state: String,
    #[serde(default)]
    run_time: f64,
    #[serde(default)]
    failure: Option<Failure>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Failure {
    message: String,
    forwarded_panic: String,
    location: Option<Location>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Location {
    file_name: String,
    line_number: u64,
}

impl Spec {
    fn name(&self) -> String {
        let mut parts = self.container_hierarchy_texts.clone().unwrap_or_default();
        parts.push(self.leaf_node_text.clone());
        parts.join(" ")
    }
}

fn suites(json: &str) -> Result<Vec<Suite>> {
    serde_json::from_str(json).context("parse ginkgo's report")
}

/// Every spec that a dry run found.
pub fn listed(json: &str) -> Result<Vec<Listed>> {
    let mut found = Vec::new();
    for spec in suites(json)?
        .into_iter()
        .flat_map(|suite| suite.spec_reports.unwrap_or_default())
    {
        if spec.leaf_node_type != "It" {
            continue;
        }
        let name = spec.name();
        let containers = spec.container_hierarchy_labels.unwrap_or_default();
        let mut labels: Vec<String> = containers.into_iter().flatten().flatten().collect();
        labels.extend(spec.leaf_node_labels.unwrap_or_default());
        found.push(Listed { name, labels });
    }
    if found.is_empty() {
        bail!("the suite lists no specs");
    }
    Ok(found)
}

/// The outcomes of the specs that `chosen` knows; what a filter left out is skipped in ginkgo's words and absent here.
pub fn outcomes(json: &str, chosen: impl Fn(&str) -> bool) -> Result<Vec<Outcome>> {
    let mut found = Vec::new();
    for suite in suites(json)? {
        let specs = suite.spec_reports.unwrap_or_default();
        let reasons = suite.special_suite_failure_reasons.unwrap_or_default();
        let before = specs.iter().find(|spec| {
            spec.leaf_node_type.ends_with("BeforeSuite")
                && !matches!(spec.state.as_str(), "passed" | "skipped")
        });
        if let Some(spec) = before {
            let failure = spec.failure.as_ref();
            bail!(
                "the suite could not begin: {}",
                failure.map_or_else(
                    || spec.state.clone(),
                    |failure| first_line(&failure.message)
                )
            );
        }
        for spec in specs.iter().filter(|spec| spec.leaf_node_type == "It") {
            if let Some(outcome) = outcome(spec).filter(|outcome| chosen(&outcome.name)) {
                found.push(outcome);
            }
        }
        if found.is_empty() && !reasons.is_empty() {
            bail!("the suite ended early: {}", reasons.join("; "));
        }
    }
    Ok(found)
}

/// How many specs the suite meant to run when it began, and its words on why it ended otherwise. One that its limit of time cut off, and all
/// after it, are as good as filtered in the list of specs: only this number misses them.
pub fn intended(json: &str) -> Result<(usize, Vec<String>)> {
    let (mut count, mut reasons) = (0, Vec::new());
    for suite in suites(json)? {
        let stats = suite
            .pre_run_stats
            .context("no PreRunStats in the report")?;
        count += stats.specs_that_will_run;
        reasons.extend(suite.special_suite_failure_reasons.unwrap_or_default());
    }
    Ok((count, reasons))
}

fn outcome(spec: &Spec) -> Option<Outcome> {
    let state = match spec.state.as_str() {
        "passed" => State::Passed,
        "failed" | "panicked" | "timedout" => State::Failed,
        "skipped" | "pending" => State::Skipped,
        // interrupted, aborted: no verdict.
        _ => return None,
    };
    let empty = Failure::default();
    let failure = spec.failure.as_ref().unwrap_or(&empty);
    let reason = match failure.forwarded_panic.as_str() {
        "" => gist(&failure.message),
        panic => first_line(&format!("panic: {panic}")),
    };
    // A spec that a filter left out has neither a reason nor a time.
    if state == State::Skipped && reason.is_empty() && spec.run_time == 0.0 {
        return None;
    }
    let place = failure
        .location
        .as_ref()
        .filter(|location| !location.file_name.is_empty())
        .map(|location| place(&location.file_name, location.line_number))
        .unwrap_or_default();
    Some(Outcome {
        failed_before: 0,
        name: spec.name(),
        state,
        seconds: spec.run_time / 1e9,
        reason,
        place,
    })
}

fn place(file: &str, line: u64) -> String {
    let short = file.split_once("/test/e2e/").map_or(file, |(_, rest)| rest);
    format!("{short}:{line}")
}

/// The first line with words in it; where that is an assertion's bare "Expected", what was expected too.
fn gist(text: &str) -> String {
    let first = first_line(text);
    if first == "Expected" {
        let words: Vec<&str> = text.split_whitespace().collect();
        return first_line(&words.join(" "));
    }
    first
}

/// The first line with words in it.
fn first_line(text: &str) -> String {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    let line = line.unwrap_or_default();
    match line.char_indices().nth(WIDTH) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.to_owned(),
    }
}

/// Reads the log of `ginkgo -v` as it grows.
#[derive(Debug, Default)]
pub struct Live {
    /// The block that has begun.
    block: Vec<String>,
    rest: String,
}

impl Live {
    /// More of the log. `resolve` finds the whole name that a header line begins with.
    pub fn read(&mut self, text: &str, resolve: impl Fn(&str) -> Option<String>) -> Vec<Outcome> {
        let text = std::mem::take(&mut self.rest) + text;
        let mut found = Vec::new();
        for line in text.split_inclusive('\n') {
            let Some(line) = line.strip_suffix('\n') else {
                self.rest = line.to_owned();
                break;
            };
            let line = line.trim_end_matches('\r').to_owned();
            if line.ends_with(RULE)
                && line
                    .trim_start_matches('S')
                    .trim_start_matches(RULE)
                    .is_empty()
            {
                found.extend(block(&self.block, &resolve));
                self.block.clear();
            } else {
                self.block.push(line);
            }
        }
        found
    }
}

/// `• [FAILED] [12.3 seconds]`, the name, the lines of the test.
fn block(lines: &[String], resolve: &impl Fn(&str) -> Option<String>) -> Option<Outcome> {
    // A bare S, before the head as well as alone, is a spec that a filter left out.
    let pattern = HEAD.get_or_init(|| {
        Regex::new(r"^S*(•?) ?(?:\[([A-Z]+)!?\] )?\[([0-9.]+) seconds\]$")
            .expect("a constant that a test reads")
    });
    let (head, found) = lines
        .iter()
        .enumerate()
        .find_map(|(at, line)| Some((at, pattern.captures(line.trim())?)))?;
    let state = match (&found[1], found.get(2).map(|state| state.as_str())) {
        ("•", None) => State::Passed,
        (_, Some("FAILED" | "PANICKED" | "TIMEDOUT")) => State::Failed,
        (_, Some("SKIPPED")) => State::Skipped,
        _ => return None,
    };
    let seconds = found[3].parse().ok()?;
    let header = lines.get(head + 1)?.replace(" [It]", "");
    let name = resolve(&header)?;
    let mark = match state {
        State::Passed => {
            return Some(Outcome {
                failed_before: 0,
                name,
                state,
                seconds,
                reason: String::new(),
                place: String::new(),
            });
        }
        State::Failed => "[FAILED] ",
        State::Skipped => "[SKIPPED] ",
    };
    // In the timeline the mark is followed by the node's kind; the words come after it.
    let said = lines.iter().enumerate().skip(head + 1);
    let reason = said
        .filter_map(|(at, line)| Some((at, line.trim().strip_prefix(mark)?)))
        .find(|(_, words)| !words.starts_with("in ["))
        .map(|(at, words)| {
            let more = lines[at + 1..].iter().map(|line| line.trim());
            let more = more.take_while(|line| !line.is_empty() && !line.starts_with("In ["));
            let text: Vec<&str> = std::iter::once(words).chain(more).collect();
            gist(&text.join("\n"))
        })
        .unwrap_or_default();
    let place = lines
        .iter()
        .find_map(|line| {
            let (_, rest) = line.trim().split_once("[It] - ")?;
            let place = rest.split(" @ ").next()?;
            let (file, line) = place.rsplit_once(':')?;
            Some(self::place(file, line.parse().ok()?))
        })
        .unwrap_or_default();
    Some(Outcome {
        failed_before: 0,
        name,
        state,
        seconds,
        reason,
        place,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    const LOG: &str = "Running Suite: Kubernetes e2e suite\nSSS\n------------------------------\n• [24.911 seconds]\n\
        [sig-node] A passes [Conformance] [sig-node, Conformance]\nk8s.io/kubernetes@v1.37.1/test/e2e/x.go:1\n\n\
        \x20 Timeline >>\n  STEP: x\n  << Timeline\n------------------------------\nSS------------------------------\n\
        • [FAILED] [2.394 seconds]\n[sig-node] B [It] fails [Conformance] [sig-node, Conformance]\nk8s.io/x.go:2\n\n\
        \x20 Timeline >>\n  [FAILED] in [It] - k8s.io/kubernetes@v1.37.1/test/e2e/common/node/b.go:119 @ 11/21/26\n  << Timeline\n\n\
        \x20 [FAILED] Failed to await: Told to stop trying.\n  Expected x\n------------------------------\n\
        S [SKIPPED] [0.100 seconds]\n[sig-node] C [It] skips [Conformance] [sig-node]\nx\n\n\
        \x20 [SKIPPED] in [It] - k8s.io/y.go:3\n  [SKIPPED] only on Windows\n------------------------------\n• [1.0 seco";

    fn show(outcomes: &[Outcome]) -> String {
        outcomes
            .iter()
            .map(|o| {
                format!(
                    "{:?} {:.1} {} | {} | {}\n",
                    o.state, o.seconds, o.name, o.reason, o.place
                )
            })
            .collect()
    }

    #[test]
    fn the_log_gives_outcomes_wherever_it_is_cut() {
        let names = [
            "[sig-node] A passes [Conformance]",
            "[sig-node] B fails [Conformance]",
            "[sig-node] C skips [Conformance]",
        ];
        let resolve = |header: &str| {
            let found = names.iter().find(|name| header.starts_with(**name));
            found.map(|name| (*name).to_owned())
        };
        let whole = Live::default().read(LOG, resolve);
        expect![[r#"
            Passed 24.9 [sig-node] A passes [Conformance] |  | 
            Failed 2.4 [sig-node] B fails [Conformance] | Failed to await: Told to stop trying. | common/node/b.go:119
            Skipped 0.1 [sig-node] C skips [Conformance] | only on Windows | k8s.io/y.go:3
        "#]]
        .assert_eq(&show(&whole));
        for (cut, _) in LOG.char_indices() {
            let mut live = Live::default();
            let mut found = live.read(&LOG[..cut], resolve);
            found.extend(live.read(&LOG[cut..], resolve));
            assert_eq!(found, whole);
        }
    }

    #[test]
    fn a_bare_assertion_is_told_with_what_it_expected() {
        let text = "Expected\n    <[]string | len:2, cap:2>: [\"a\", \"b\"]\nto have length 1";
        let told = "Expected <[]string | len:2, cap:2>: [\"a\", \"b\"] to have length 1";
        assert_eq!(gist(text), told);
        assert_eq!(gist("two pods\nExpected\n1"), "two pods");
        let log = LOG.replace(
            "Failed to await: Told to stop trying.\n  Expected x",
            "Expected\n      <int>: 2\n  to equal\n      <int>: 1\n  In [It] at: x",
        );
        let found = Live::default().read(&log, |header| Some(header.to_owned()));
        assert_eq!(found[1].reason, "Expected <int>: 2 to equal <int>: 1");
    }

    fn spec(kind: &str, text: &str, state: &str, more: &str) -> String {
        format!(
            "{{\"ContainerHierarchyTexts\":[\"[sig-x] C\"],\"ContainerHierarchyLabels\":[[\"sig-x\"]],\"LeafNodeType\":\"{kind}\",\
             \"LeafNodeText\":\"{text}\",\"LeafNodeLabels\":[\"Conformance\"],\"State\":\"{state}\"{more}}}"
        )
    }

    fn suite(specs: &[String]) -> String {
        format!("[{{\"SpecReports\":[{}]}}]", specs.join(","))
    }

    #[test]
    fn the_report_gives_verdicts_and_leaves_out_what_has_none() {
        let failure = ",\"RunTime\":1500000000,\"Failure\":{\"Message\":\"\\n  timed out\\nmore\",\"Location\":{\"FileName\":\"k@v/test/e2e/a.go\",\"LineNumber\":7}}";
        let json = suite(&[
            spec("SynchronizedBeforeSuite", "", "passed", ""),
            spec("It", "ok", "passed", ",\"RunTime\":2000000000"),
            spec("It", "bad", "failed", failure),
            spec("It", "filtered", "skipped", ""),
            spec(
                "It",
                "skips",
                "skipped",
                ",\"RunTime\":5,\"Failure\":{\"Message\":\"needs two nodes\"}",
            ),
            spec("It", "cut off", "interrupted", ",\"RunTime\":5"),
            spec("It", "of no interest", "passed", ",\"RunTime\":5"),
        ]);
        let found = outcomes(&json, |name| !name.contains("no interest")).unwrap();
        expect![[r#"
            Passed 2.0 [sig-x] C ok |  | 
            Failed 1.5 [sig-x] C bad | timed out | a.go:7
            Skipped 0.0 [sig-x] C skips | needs two nodes | 
        "#]]
        .assert_eq(&show(&found));
        let names = listed(&json).unwrap();
        assert_eq!(names.len(), 6);
        assert!(names[0].has("Conformance") && names[0].has("sig-x"));
    }

    #[test]
    fn specs_that_a_limit_of_time_cut_off_are_missed_by_their_number() {
        let specs = [
            spec("It", "ok", "passed", ",\"RunTime\":2"),
            spec("It", "cut off", "interrupted", ",\"RunTime\":5"),
            spec("It", "after it", "skipped", ""),
        ];
        let json = format!(
            "[{{\"PreRunStats\":{{\"TotalSpecs\":3,\"SpecsThatWillRun\":3}},\
             \"SpecialSuiteFailureReasons\":[\"Suite Timeout Elapsed\"],\"SpecReports\":[{}]}}]",
            specs.join(",")
        );
        assert_eq!(outcomes(&json, |_| true).unwrap().len(), 1);
        let reasons = vec!["Suite Timeout Elapsed".to_owned()];
        assert_eq!(intended(&json).unwrap(), (3, reasons));
        let error = intended(&suite(&specs)).unwrap_err().to_string();
        assert!(error.contains("PreRunStats"), "{error}");
    }

    #[test]
    fn a_suite_that_did_not_begin_has_no_outcomes() {
        let before = spec(
            "SynchronizedBeforeSuite",
            "",
            "failed",
            ",\"Failure\":{\"Message\":\"node1 is not ready\"}",
        );
        let json = suite(&[before, spec("It", "a", "skipped", "")]);
        let error = outcomes(&json, |_| true).unwrap_err().to_string();
        assert_eq!(error, "the suite could not begin: node1 is not ready");
        assert!(outcomes("", |_| true).is_err());
        assert!(listed("[]").is_err());
    }
}
