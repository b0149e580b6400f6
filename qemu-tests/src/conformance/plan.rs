//! Which tests a run means, and the words that make ginkgo run exactly these. Pure.
//!
//! In: what the command line says, the catalogue, what is done already. Out: the tests, split into [`Pass`]es by label: first what may run
//! side by side, then `Serial`, one after another. Names are matched whole (labels alone cannot name a class), so no pass runs more.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use regex::Regex;

use super::catalogue::{Catalogue, Class, Test};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Empty: all four.
    pub classes: Vec<Class>,
    pub focus: Option<String>,
    /// By upstream's label instead of by class.
    pub node_conformance: bool,
    pub shard: Option<Shard>,
    /// Only these. Empty: no such limit.
    pub names: &'static [&'static str],
}

/// The i-th of n, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    pub index: usize,
    pub count: usize,
}

impl std::str::FromStr for Shard {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let words = || format!("shard {text:?} is not I/N with 1 <= I <= N, such as 2/4");
        let (index, count) = text.split_once('/').with_context(words)?;
        let shard = Self {
            index: index.parse().with_context(words)?,
            count: count.parse().with_context(words)?,
        };
        if shard.index == 0 || shard.index > shard.count {
            bail!(words());
        }
        Ok(shard)
    }
}

/// `a`, `a,b`, `abc` or `all`.
pub fn classes(text: &str) -> Result<Vec<Class>> {
    if text == "all" {
        return Ok(Class::CONFORMANCE.to_vec());
    }
    let letters: Vec<String> = text
        .chars()
        .filter(|letter| *letter != ',')
        .map(String::from)
        .collect();
    let mut found = Vec::new();
    for letter in &letters {
        match Class::from_letter(letter) {
            Some(class) if Class::CONFORMANCE.contains(&class) => found.push(class),
            _ => bail!(
                "class {letter:?} is unknown: a kubelet, b network, c node API, d the rest, all"
            ),
        }
    }
    if found.is_empty() {
        bail!("no class given: a kubelet, b network, c node API, d the rest, all");
    }
    Ok(found)
}

/// The tests that are meant, in the catalogue's order. Never none.
pub fn select<'a>(catalogue: &'a Catalogue, selection: &Selection) -> Result<Vec<&'a Test>> {
    let focus = match &selection.focus {
        Some(text) => Some(Regex::new(text).with_context(|| format!("--focus {text:?}"))?),
        None => None,
    };
    let chosen = |test: &&Test| {
        let classes = if selection.node_conformance {
            test.node_conformance
                && (selection.classes.is_empty() || selection.classes.contains(&test.class))
        } else if selection.classes.is_empty() {
            Class::CONFORMANCE.contains(&test.class)
        } else {
            selection.classes.contains(&test.class)
        };
        let named = selection.names.is_empty() || selection.names.contains(&test.name.as_str());
        classes
            && named
            && focus
                .as_ref()
                .is_none_or(|focus| focus.is_match(&test.name))
    };
    let mut tests: Vec<&Test> = catalogue.tests.iter().filter(chosen).collect();
    if tests.is_empty() {
        let focus = selection.focus.as_deref().unwrap_or("");
        bail!("no test matches (focus {focus:?}); `--list` prints the names");
    }
    if let Some(shard) = selection.shard {
        // Every n-th: long tests lie beside each other in the list.
        tests = tests
            .into_iter()
            .skip(shard.index - 1)
            .step_by(shard.count)
            .collect();
        if tests.is_empty() {
            bail!(
                "shard {}/{} of these tests is empty",
                shard.index,
                shard.count
            );
        }
    }
    Ok(tests)
}

/// One call of ginkgo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pass {
    pub serial: bool,
    pub names: Vec<String>,
    pub procs: usize,
}

/// What is left to run.
pub fn passes(tests: &[&Test], done: &BTreeSet<String>, procs: usize) -> Vec<Pass> {
    let names = |serial: bool| -> Vec<String> {
        let left = tests
            .iter()
            .filter(|test| test.serial == serial && !done.contains(&test.name));
        left.map(|test| test.name.clone()).collect()
    };
    [(false, procs), (true, 1)]
        .into_iter()
        .map(|(serial, procs)| Pass {
            serial,
            names: names(serial),
            procs,
        })
        .filter(|pass| !pass.names.is_empty())
        .collect()
}

impl Pass {
    /// ginkgo's own words, before the program.
    pub fn words(&self) -> Vec<String> {
        let label = if self.serial { "Serial" } else { "!Serial" };
        vec![
            format!("--procs={}", self.procs),
            "--no-color".to_owned(),
            "-v".to_owned(),
            // The rig decides when to give up.
            "--timeout=24h".to_owned(),
            format!("--label-filter={label}"),
            format!("--focus={}", focus(&self.names)),
        ]
    }
}

/// A regular expression of Go's kind that matches these names and what begins with one of them.
pub fn focus(names: &[String]) -> String {
    let escaped: Vec<String> = names.iter().map(|name| escape(name)).collect();
    escaped.join("|")
}

/// Go refuses a backslash before characters that need none; Rust's own `escape` writes some.
fn escape(name: &str) -> String {
    let mut text = String::new();
    for letter in name.chars() {
        if r"\.+*?()|[]{}^$".contains(letter) {
            text.push('\\');
        }
        text.push(letter);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn catalogue() -> Catalogue {
        Catalogue::parse(
            "class\tsig\tflags\tname\n\
             a\tsig-node\tn\t[sig-node] Probes (exec) [Conformance]\n\
             a\tsig-node\tnS\t[sig-node] Alone [Conformance] [Serial]\n\
             b\tsig-network\t.\t[sig-network] DNS \"x\" [Conformance]\n\
             d\tsig-apps\t.\t[sig-apps] Job [Conformance]\n\
             -\tsig-node\tn\t[sig-node] Extra [NodeConformance]\n",
        )
        .unwrap()
    }

    fn names(selection: &Selection) -> Vec<String> {
        let catalogue = catalogue();
        let tests = select(&catalogue, selection).unwrap();
        tests.iter().map(|test| test.name[1..].to_owned()).collect()
    }

    #[test]
    fn classes_labels_focus_and_shards_choose_tests() {
        assert_eq!(names(&Selection::default()).len(), 4);
        let class = |text: &str| Selection {
            classes: classes(text).unwrap(),
            ..Selection::default()
        };
        assert_eq!(names(&class("a,b")).len(), 3);
        assert_eq!(names(&class("all")).len(), 4);
        let node = Selection {
            node_conformance: true,
            ..Selection::default()
        };
        assert_eq!(names(&node).len(), 3);
        let focus = Selection {
            focus: Some("DNS|Job".into()),
            ..Selection::default()
        };
        assert_eq!(names(&focus).len(), 2);
        let mut shards: Vec<String> = ["1/2", "2/2"]
            .iter()
            .flat_map(|shard| {
                names(&Selection {
                    shard: Some(shard.parse().unwrap()),
                    ..Selection::default()
                })
            })
            .collect();
        shards.sort();
        let mut all = names(&Selection::default());
        all.sort();
        assert_eq!(shards, all);
    }

    #[test]
    fn bad_input_is_told() {
        let catalogue = catalogue();
        let nothing = Selection {
            focus: Some("nothing like this".into()),
            ..Selection::default()
        };
        let broken = Selection {
            focus: Some("(".into()),
            ..Selection::default()
        };
        let text = |error: anyhow::Error| format!("{error:#}");
        assert!(text(select(&catalogue, &nothing).unwrap_err()).contains("no test matches"));
        assert!(text(select(&catalogue, &broken).unwrap_err()).contains("--focus"));
        assert!(text(classes("ax").unwrap_err()).contains("class \"x\" is unknown"));
        assert!(text(classes("-").unwrap_err()).contains("class \"-\" is unknown"));
        assert!(classes("").is_err());
        for shard in ["3/2", "0/2", "1", "a/b", ""] {
            assert!(shard.parse::<Shard>().is_err(), "{shard}");
        }
    }

    #[test]
    fn serial_tests_run_last_and_alone_and_done_ones_not_again() {
        let catalogue = catalogue();
        let tests = select(&catalogue, &Selection::default()).unwrap();
        let done = BTreeSet::from(["[sig-apps] Job [Conformance]".to_owned()]);
        let plan = passes(&tests, &done, 3);
        let words: Vec<String> = plan.iter().map(|pass| pass.words().join("\n")).collect();
        expect![[r#"
            --procs=3
            --no-color
            -v
            --timeout=24h
            --label-filter=!Serial
            --focus=\[sig-node\] Probes \(exec\) \[Conformance\]|\[sig-network\] DNS "x" \[Conformance\]
            --procs=1
            --no-color
            -v
            --timeout=24h
            --label-filter=Serial
            --focus=\[sig-node\] Alone \[Conformance\] \[Serial\]"#]]
        .assert_eq(&words.join("\n"));
        let all: BTreeSet<String> = tests.iter().map(|test| test.name.clone()).collect();
        assert_eq!(passes(&tests, &all, 3), []);
    }
}
