//! The result as people and other tools read it: a table by class and SIG, the failures, a comparison, JUnit. Pure text.
//!
//! A skipped test counts as failed unless it was skipped on the upstream node too: then it is set apart as `excused`. A chosen test
//! without a verdict is `missing`, and no table with one calls itself whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::catalogue::{Class, Test};
use super::report::{Outcome, State};
use super::results::Comparison;

/// Tests and their outcomes, ready to be shown.
#[derive(Clone)]
pub struct Result<'a> {
    pub tests: Vec<&'a Test>,
    pub outcomes: &'a BTreeMap<String, Outcome>,
    /// Skipped on the upstream node too.
    pub excused: BTreeSet<String>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Counts {
    pub passed: usize,
    pub failed: usize,
    /// Skipped here and not excused; a part of nothing else.
    pub skipped: usize,
    pub excused: usize,
    pub missing: usize,
    pub seconds: f64,
}

impl Counts {
    pub fn all(&self) -> usize {
        self.passed + self.failed + self.skipped + self.excused + self.missing
    }

    /// Every test has a verdict and none speaks against the node.
    pub fn good(&self) -> bool {
        self.failed + self.skipped + self.missing == 0
    }
}

impl Result<'_> {
    pub fn counts(&self) -> Counts {
        self.count(|_| true)
    }

    fn count(&self, wanted: impl Fn(&Test) -> bool) -> Counts {
        let mut counts = Counts::default();
        for test in self.tests.iter().filter(|test| wanted(test)) {
            match self.outcomes.get(&test.name) {
                None => counts.missing += 1,
                Some(outcome) => {
                    counts.seconds += outcome.seconds;
                    match outcome.state {
                        State::Passed => counts.passed += 1,
                        State::Failed => counts.failed += 1,
                        State::Skipped if self.excused.contains(&test.name) => counts.excused += 1,
                        State::Skipped => counts.skipped += 1,
                    }
                }
            }
        }
        counts
    }

    pub fn missing(&self) -> Vec<String> {
        let missing = self
            .tests
            .iter()
            .filter(|test| !self.outcomes.contains_key(&test.name));
        missing.map(|test| test.name.clone()).collect()
    }

    pub fn table(&self) -> String {
        let groups: BTreeSet<(Class, &str)> = self
            .tests
            .iter()
            .map(|test| (test.class, test.sig.as_str()))
            .collect();
        let mut out = line(
            "class",
            "sig",
            &["tests", "passed", "failed", "skipped", "missing", "seconds"].map(String::from),
        );
        for (class, sig) in &groups {
            let counts = self.count(|test| test.class == *class && test.sig == *sig);
            out += &line(&class.to_string(), sig, &cells(&counts));
        }
        let classes: BTreeSet<Class> = groups.iter().map(|(class, _)| *class).collect();
        for class in classes {
            let counts = self.count(|test| test.class == class);
            out += &line(&class.to_string(), "together", &cells(&counts));
        }
        let all = self.counts();
        out += &line("all", "", &cells(&all));
        if all.excused > 0 {
            let _ = writeln!(
                out,
                "{} of the skipped are skipped on the upstream node too",
                all.excused
            );
        }
        out
    }

    /// What did not pass or has no verdict: name, first failing line and its place, by class and SIG.
    pub fn failures(&self) -> String {
        let mut out = String::new();
        for test in &self.tests {
            let Some(outcome) = self.outcomes.get(&test.name) else {
                let _ = writeln!(out, "MISS {} {}\n     no verdict", test.class, test.name);
                continue;
            };
            let word = match outcome.state {
                State::Passed => continue,
                State::Failed => "FAIL",
                State::Skipped if self.excused.contains(&test.name) => "skip",
                State::Skipped => "SKIP",
            };
            let place = if outcome.place.is_empty() {
                String::new()
            } else {
                format!(" ({})", outcome.place)
            };
            let _ = writeln!(
                out,
                "{word} {} {} {:.0} s\n     {}{place}",
                test.class, test.name, outcome.seconds, outcome.reason
            );
        }
        out
    }

    /// Tests whose pass is not their first verdict on this build.
    pub fn passed_later(&self) -> String {
        let later: Vec<&Outcome> = self
            .tests
            .iter()
            .filter_map(|test| self.outcomes.get(&test.name))
            .filter(|outcome| outcome.state == State::Passed && outcome.failed_before > 0)
            .collect();
        if later.is_empty() {
            return String::new();
        }
        let mut out = format!(
            "{} of the passed had failed before on this build:\n",
            later.len()
        );
        for outcome in later {
            let times = if outcome.failed_before == 1 {
                "once"
            } else {
                "more than once"
            };
            let _ = writeln!(out, "  {} ({times})", outcome.name);
        }
        out
    }

    /// JUnit's format, one case per test.
    pub fn junit(&self, suite: &str) -> String {
        let counts = self.counts();
        let mut out = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n  <testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" \
             errors=\"{}\" skipped=\"{}\" time=\"{:.3}\">\n",
            escape(suite),
            counts.all(),
            counts.failed,
            counts.missing,
            counts.skipped + counts.excused,
            counts.seconds
        );
        for test in &self.tests {
            let head = format!(
                "    <testcase classname=\"{}.{}\" name=\"{}\"",
                test.class,
                escape(&test.sig),
                escape(&test.name)
            );
            let Some(outcome) = self.outcomes.get(&test.name) else {
                let _ = writeln!(out, "{head}><error message=\"no verdict\"/></testcase>");
                continue;
            };
            let time = format!("time=\"{:.3}\"", outcome.seconds);
            let words = escape(&outcome.reason);
            let _ = match outcome.state {
                State::Passed => writeln!(out, "{head} {time}/>"),
                State::Failed => writeln!(
                    out,
                    "{head} {time}><failure message=\"{words}\">{}</failure></testcase>",
                    escape(&outcome.place)
                ),
                State::Skipped => {
                    writeln!(
                        out,
                        "{head} {time}><skipped message=\"{words}\"/></testcase>"
                    )
                }
            };
        }
        out + "  </testsuite>\n</testsuites>\n"
    }
}

fn cells(counts: &Counts) -> [String; 6] {
    [
        counts.all().to_string(),
        counts.passed.to_string(),
        counts.failed.to_string(),
        (counts.skipped + counts.excused).to_string(),
        counts.missing.to_string(),
        format!("{:.0}", counts.seconds),
    ]
}

fn line(class: &str, sig: &str, cells: &[String; 6]) -> String {
    let cells: String = cells.iter().map(|cell| format!(" {cell:>8}")).collect();
    format!("{class:<6} {sig:<22}{cells}\n")
}

pub fn comparison(comparison: &Comparison, with: &str) -> String {
    let mut out = format!(
        "compared with {with}: {} tests in both, {} newly passing, {} newly failing\n",
        comparison.in_both,
        comparison.newly_passing.len(),
        comparison.newly_failing.len()
    );
    for (word, names) in [
        ("newly passing", &comparison.newly_passing),
        ("newly failing", &comparison.newly_failing),
    ] {
        for name in names {
            let _ = writeln!(out, "{word}: {name}");
        }
    }
    out
}

/// XML, without the control characters that it cannot hold.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            letter if letter.is_control() && letter != '\n' && letter != '\t' => out.push('?'),
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::catalogue::Catalogue;
    use super::super::results::tests::outcome;
    use super::*;
    use expect_test::expect;

    fn catalogue() -> Catalogue {
        Catalogue::parse(
            "class\tsig\tflags\tname\na\tsig-node\t.\t[sig-node] one <\"&\\\">\na\tsig-storage\t.\t[sig-storage] two\n\
             b\tsig-network\t.\t[sig-network] three\nb\tsig-network\t.\t[sig-network] four\nc\tsig-cli\t.\t[sig-cli] five\n",
        )
        .unwrap()
    }

    fn outcomes() -> BTreeMap<String, Outcome> {
        [
            outcome("[sig-node] one <\"&\\\">", State::Failed),
            outcome("[sig-storage] two", State::Passed),
            outcome("[sig-network] three", State::Skipped),
            outcome("[sig-network] four", State::Skipped),
        ]
        .into_iter()
        .map(|outcome| (outcome.name.clone(), outcome))
        .collect()
    }

    #[test]
    fn the_table_counts_everything_once() {
        let (catalogue, outcomes) = (catalogue(), outcomes());
        let result = Result {
            tests: catalogue.tests.iter().collect(),
            outcomes: &outcomes,
            excused: BTreeSet::from(["[sig-network] four".to_owned()]),
        };
        expect![[r#"
            class  sig                       tests   passed   failed  skipped  missing  seconds
            a      sig-node                      1        0        1        0        0        2
            a      sig-storage                   1        1        0        0        0        2
            b      sig-network                   2        0        0        2        0        3
            c      sig-cli                       1        0        0        0        1        0
            a      together                      2        1        1        0        0        3
            b      together                      2        0        0        2        0        3
            c      together                      1        0        0        0        1        0
            all                                  5        1        1        2        1        6
            1 of the skipped are skipped on the upstream node too
        "#]]
        .assert_eq(&result.table());
        expect![[r#"
            FAIL a [sig-node] one <"&\"> 2 s
                 because
            SKIP b [sig-network] three 2 s
                 because
            skip b [sig-network] four 2 s
                 because
            MISS c [sig-cli] five
                 no verdict
        "#]]
        .assert_eq(&result.failures());
        assert!(!result.counts().good());
        assert_eq!(result.missing(), ["[sig-cli] five"]);
        expect![[r#"
            <?xml version="1.0" encoding="UTF-8"?>
            <testsuites>
              <testsuite name="kedge" tests="5" failures="1" errors="1" skipped="2" time="6.000">
                <testcase classname="a.sig-node" name="[sig-node] one &lt;&quot;&amp;\&quot;&gt;" time="1.500"><failure message="because"></failure></testcase>
                <testcase classname="a.sig-storage" name="[sig-storage] two" time="1.500"/>
                <testcase classname="b.sig-network" name="[sig-network] three" time="1.500"><skipped message="because"/></testcase>
                <testcase classname="b.sig-network" name="[sig-network] four" time="1.500"><skipped message="because"/></testcase>
                <testcase classname="c.sig-cli" name="[sig-cli] five"><error message="no verdict"/></testcase>
              </testsuite>
            </testsuites>
        "#]]
        .assert_eq(&result.junit("kedge"));
    }

    #[test]
    fn a_comparison_names_what_changed() {
        let changed = Comparison {
            newly_passing: vec!["one".into()],
            newly_failing: vec!["two".into()],
            in_both: 7,
        };
        expect![[r#"
            compared with an earlier run: 7 tests in both, 1 newly passing, 1 newly failing
            newly passing: one
            newly failing: two
        "#]]
        .assert_eq(&comparison(&changed, "an earlier run"));
    }
}
