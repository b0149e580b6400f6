//! The tests of the pinned suite and the class of each: a committed table, and how a suite's own list is compared with it.
//!
//! In: `qemu-tests/conformance-tests.tsv`, and what `e2e.test --ginkgo.dry-run` lists. Out: [`Catalogue`]; [`Drift`], which names tests that
//! are new, gone or labelled differently. Classes are a judgement, made once per test by reading what it asserts: a rewritten table keeps
//! them by name, and a new conformance test stays unclassed (`?`) until somebody decides. Absent: running anything.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Context, Result, bail};

use super::report::Listed;

/// The table of the suite that is pinned.
pub const TABLE: &str = include_str!("../../conformance-tests.tsv");
const HEADER: &str = "class\tsig\tflags\tname";

/// What a test's verdict depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Kubelet behaviour beyond start, report, delete.
    Kubelet,
    /// Traffic or DNS inside the cluster.
    Network,
    /// Logs, exec, attach, proxy.
    NodeApi,
    /// API server, scheduler, controllers.
    Rest,
    /// Not among the conformance tests: there for `--node-conformance`.
    Extra,
    /// Nobody has decided yet.
    Undecided,
}

impl Class {
    pub const CONFORMANCE: [Class; 4] =
        [Class::Kubelet, Class::Network, Class::NodeApi, Class::Rest];

    pub fn letter(self) -> char {
        match self {
            Class::Kubelet => 'a',
            Class::Network => 'b',
            Class::NodeApi => 'c',
            Class::Rest => 'd',
            Class::Extra => '-',
            Class::Undecided => '?',
        }
    }

    pub fn from_letter(letter: &str) -> Option<Self> {
        let all = Self::CONFORMANCE
            .into_iter()
            .chain([Class::Extra, Class::Undecided]);
        all.into_iter()
            .find(|class| letter == class.letter().to_string())
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.letter())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Test {
    pub class: Class,
    pub sig: String,
    pub node_conformance: bool,
    pub serial: bool,
    pub slow: bool,
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalogue {
    pub tests: Vec<Test>,
}

/// How the suite differs from the table.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Drift {
    pub new: Vec<String>,
    pub gone: Vec<String>,
    pub changed: Vec<String>,
}

impl Drift {
    pub fn is_empty(&self) -> bool {
        self == &Self::default()
    }
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (word, names) in [
            ("new", &self.new),
            ("gone", &self.gone),
            ("labelled differently", &self.changed),
        ] {
            for name in names {
                writeln!(f, "{word}: {name}")?;
            }
        }
        Ok(())
    }
}

impl Catalogue {
    pub fn committed() -> Result<Self> {
        Self::parse(TABLE).context("qemu-tests/conformance-tests.tsv")
    }

    pub fn parse(text: &str) -> Result<Self> {
        let mut lines = text.lines();
        if lines.next() != Some(HEADER) {
            bail!("line 1 is not {HEADER:?}");
        }
        let mut tests = Vec::new();
        for (number, line) in lines.enumerate() {
            let fields: Vec<&str> = line.split('\t').collect();
            let [class, sig, flags, name] = fields[..] else {
                bail!("line {}: not four fields", number + 2);
            };
            let class = Class::from_letter(class).with_context(|| {
                format!(
                    "line {}: class {class:?} is none of a b c d - ?",
                    number + 2
                )
            })?;
            if let Some(odd) = flags.chars().find(|flag| !"nSs.".contains(*flag)) {
                bail!("line {}: flag {odd:?} is none of n S s", number + 2);
            }
            tests.push(Test {
                class,
                sig: sig.to_owned(),
                node_conformance: flags.contains('n'),
                serial: flags.contains('S'),
                slow: flags.contains('s'),
                name: name.to_owned(),
            });
        }
        Ok(Self { tests })
    }

    pub fn text(&self) -> String {
        let mut text = format!("{HEADER}\n");
        for test in &self.tests {
            let mut flags: String = [
                (test.node_conformance, 'n'),
                (test.serial, 'S'),
                (test.slow, 's'),
            ]
            .iter()
            .filter(|(holds, _)| *holds)
            .map(|(_, flag)| *flag)
            .collect();
            if flags.is_empty() {
                flags.push('.');
            }
            text.push_str(&format!(
                "{}\t{}\t{flags}\t{}\n",
                test.class, test.sig, test.name
            ));
        }
        text
    }

    /// The suite's list with the classes that are known here.
    pub fn renewed(&self, listed: &[Listed]) -> Self {
        let classes: BTreeMap<&str, Class> = self
            .tests
            .iter()
            .map(|test| (test.name.as_str(), test.class))
            .collect();
        let mut tests: Vec<Test> = listed
            .iter()
            .filter(|listed| listed.has("Conformance") || listed.has("NodeConformance"))
            .map(|listed| Test {
                class: match classes.get(listed.name.as_str()) {
                    _ if !listed.has("Conformance") => Class::Extra,
                    None | Some(Class::Extra) => Class::Undecided,
                    Some(class) => *class,
                },
                sig: sig(&listed.name),
                node_conformance: listed.has("NodeConformance"),
                serial: listed.has("Serial"),
                slow: listed.has("Slow"),
                name: listed.name.clone(),
            })
            .collect();
        tests.sort_by(|a, b| (a.class, &a.sig, &a.name).cmp(&(b.class, &b.sig, &b.name)));
        Self { tests }
    }

    pub fn drift(&self, listed: &[Listed]) -> Drift {
        let suite = self.renewed(listed);
        let names = |tests: &[Test]| -> BTreeSet<String> {
            tests.iter().map(|test| test.name.clone()).collect()
        };
        let (here, there) = (names(&self.tests), names(&suite.tests));
        let changed = suite.tests.iter().filter(|test| {
            self.tests
                .iter()
                .any(|known| known.name == test.name && known != *test)
        });
        Drift {
            new: there.difference(&here).cloned().collect(),
            gone: here.difference(&there).cloned().collect(),
            changed: changed.map(|test| test.name.clone()).collect(),
        }
    }

    pub fn find(&self, name: &str) -> Option<&Test> {
        self.tests.iter().find(|test| test.name == name)
    }
}

/// `[sig-node] …` -> `sig-node`.
fn sig(name: &str) -> String {
    name.strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
        .map_or_else(|| "none".to_owned(), |(sig, _)| sig.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(name: &str, labels: &[&str]) -> Listed {
        Listed {
            name: name.to_owned(),
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        }
    }

    #[test]
    fn the_committed_table_is_whole_and_decided() {
        let catalogue = Catalogue::committed().unwrap();
        let count = |class: Class| {
            catalogue
                .tests
                .iter()
                .filter(|test| test.class == class)
                .count()
        };
        let counts = Class::CONFORMANCE.map(count);
        assert_eq!(counts, [170, 29, 11, 252]);
        assert_eq!(count(Class::Undecided), 0);
        let marked = |test: &&Test| test.node_conformance && test.class != Class::Extra;
        assert_eq!(catalogue.tests.iter().filter(marked).count(), 141);
        assert_eq!(catalogue.text(), TABLE);
        let names: BTreeSet<&str> = catalogue
            .tests
            .iter()
            .map(|test| test.name.as_str())
            .collect();
        assert_eq!(names.len(), catalogue.tests.len());
    }

    #[test]
    fn new_gone_and_changed_tests_are_named_and_classes_kept() {
        let table = format!(
            "{HEADER}\na\tsig-node\tn\t[sig-node] stays\nb\tsig-network\t.\t[sig-network] leaves\n\
             d\tsig-apps\t.\t[sig-apps] slower\n"
        );
        let catalogue = Catalogue::parse(&table).unwrap();
        let suite = [
            listed("[sig-node] stays", &["Conformance", "NodeConformance"]),
            listed("[sig-apps] slower", &["Conformance", "Slow"]),
            listed("[sig-cli] comes", &["Conformance"]),
            listed("[sig-cli] is not for us", &["Feature:X"]),
        ];
        expect_test::expect![[r#"
            new: [sig-cli] comes
            gone: [sig-network] leaves
            labelled differently: [sig-apps] slower
        "#]]
        .assert_eq(&catalogue.drift(&suite).to_string());
        expect_test::expect![[r#"
            class	sig	flags	name
            a	sig-node	n	[sig-node] stays
            d	sig-apps	s	[sig-apps] slower
            ?	sig-cli	.	[sig-cli] comes
        "#]]
        .assert_eq(&catalogue.renewed(&suite).text());
        assert!(catalogue.renewed(&suite).drift(&suite).is_empty());
    }

    #[test]
    fn mistakes_in_the_table_are_told_by_line() {
        for (text, words) in [
            ("x", "line 1"),
            ("class\tsig\tflags\tname\na\tb", "line 2: not four"),
            ("class\tsig\tflags\tname\nz\ts\t.\tn", "class \"z\""),
            ("class\tsig\tflags\tname\na\ts\tq\tn", "flag 'q'"),
        ] {
            let error = Catalogue::parse(text).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
