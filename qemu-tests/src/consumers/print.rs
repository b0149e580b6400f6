//! What `cargo rig compare-metrics` prints. Pure: an outcome and its verdict in, text out; a line for each thing, its columns between tabs.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::allow::{Line, Verdict};
use super::compare::few;

/// What was found beside differences.
#[derive(Debug, Default)]
pub struct Faults {
    /// What the Kedge node says of the known load and is not within 5 % of the truth.
    pub untrue: Vec<String>,
    /// The same of the upstream node: told, and no fault of ours.
    pub theirs: Vec<String>,
    /// What `promtool` says of Kedge's pages alone.
    pub problems: Vec<String>,
}

impl Faults {
    pub fn none(&self) -> bool {
        self.untrue.is_empty() && self.problems.is_empty()
    }
}

/// `all`: what is listed too, a line for each line of the list.
pub fn text(verdict: &Verdict<'_>, faults: &Faults, all: bool) -> String {
    let mut out = String::new();
    if all {
        out += &listed(verdict);
    }
    for difference in &verdict.unlisted {
        let _ = writeln!(out, "DIFFERS\t{difference}");
    }
    for line in &verdict.unused {
        let _ = writeln!(
            out,
            "UNUSED\tline {}: {} excuses nothing",
            line.number, line.family
        );
    }
    for (word, faults) in [
        ("UNTRUE", &faults.untrue),
        ("theirs untrue", &faults.theirs),
        ("PROMTOOL", &faults.problems),
    ] {
        for fault in faults {
            let _ = writeln!(out, "{word}\t{fault}");
        }
    }
    let _ = writeln!(
        out,
        "{} differences, {} of them listed, {} not; {} lines of the list unused; {} values of the known load untrue; {} problems by promtool that upstream has not",
        verdict.listed.len() + verdict.unlisted.len(),
        verdict.listed.len(),
        verdict.unlisted.len(),
        verdict.unused.len(),
        faults.untrue.len(),
        faults.problems.len()
    );
    out
}

/// By line of the list: how many differences it excuses, two of their families, the reason.
fn listed(verdict: &Verdict<'_>) -> String {
    let mut lines: BTreeMap<usize, (&Line, Vec<&str>)> = BTreeMap::new();
    for (difference, line) in &verdict.listed {
        let (_, families) = lines.entry(line.number).or_insert((line, Vec::new()));
        families.push(&difference.family);
    }
    let mut out = String::new();
    for (line, mut families) in lines.into_values() {
        let count = families.len();
        families.dedup();
        let _ = write!(out, "listed\t{count}\t{}\t{}", line.family, line.kinds());
        if line.is_pattern() {
            let _ = write!(out, " ({})", few(&families));
        }
        let _ = writeln!(out, "\t{}", line.reason);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consumers::allow::{judge, parse};
    use crate::consumers::compare::{Difference, Kind, Place};

    fn difference(family: &str, kind: Kind, text: &str) -> Difference {
        Difference {
            place: Place::Kubelet,
            family: family.into(),
            kind,
            text: text.into(),
        }
    }

    #[test]
    fn unlisted_differences_are_printed_and_listed_ones_by_line_of_the_list() {
        let lines = parse(
            "# head\ngo_*\tmissing\tno Go here\nx\tvalues,series\tnoise\ny\tvalues?\tchance\nold\tmissing\tgone\n",
        )
        .unwrap();
        let differences = [
            difference("go_gc_a", Kind::Missing, "counter"),
            difference("go_gc_b", Kind::Missing, "gauge"),
            difference("go_info", Kind::Missing, "gauge"),
            difference("go_threads", Kind::Missing, "gauge"),
            difference("x", Kind::Series, "only ours: a=1"),
            difference("x", Kind::Values, "{} 1 for 2"),
            difference("z", Kind::Values, "{a=\"1\"} 1 for 2"),
        ];
        let verdict = judge(&differences, &lines);
        let faults = Faults {
            untrue: vec!["container_memory_rss: 1 said, 2 to 3 true".into()],
            theirs: vec!["container_memory_rss: 4 said, 2 to 3 true".into()],
            problems: vec!["/metrics\tx no help text".into()],
        };
        expect_test::expect![[r#"
            DIFFERS	/metrics	z	values	{a="1"} 1 for 2
            UNUSED	line 5: old excuses nothing
            UNTRUE	container_memory_rss: 1 said, 2 to 3 true
            theirs untrue	container_memory_rss: 4 said, 2 to 3 true
            PROMTOOL	/metrics	x no help text
            7 differences, 6 of them listed, 1 not; 1 lines of the list unused; 1 values of the known load untrue; 1 problems by promtool that upstream has not
        "#]].assert_eq(&text(&verdict, &faults, false));
        expect_test::expect![[r#"
            listed	4	go_*	missing (go_gc_a go_gc_b and 2 more)	no Go here
            listed	2	x	values,series	noise
        "#]]
        .assert_eq(&listed(&verdict));
        let with = text(&verdict, &faults, true);
        assert!(with.ends_with(&text(&verdict, &faults, false)));
        assert!(with.starts_with(&listed(&verdict)));
        assert!(!faults.none());
    }

    #[test]
    fn nothing_to_say_is_one_line_and_what_upstream_says_wrongly_no_fault() {
        let faults = Faults {
            theirs: vec!["x".into()],
            ..Faults::default()
        };
        assert!(faults.none());
        let text = text(&Verdict::default(), &Faults::default(), true);
        expect_test::expect![[r#"
            0 differences, 0 of them listed, 0 not; 0 lines of the list unused; 0 values of the known load untrue; 0 problems by promtool that upstream has not
        "#]].assert_eq(&text);
    }
}
