//! Fuzzers of all parsers: recorded files, damaged.
//!
//! What is damaged and how comes from a fixed seed, so that a run is repeatable and takes seconds. A longer or another run:
//!
//! ```text
//! PROPTEST_CASES=200000 PROPTEST_RNG_SEED=7 cargo test --release -p kedge-metrics fuzz
//! ```
//!
//! Asserted: nothing panics; a refusal names a part of the file it was given; and of a damaged file in a whole tree, that the row is there,
//! that errors name the file, and that pages are still such as a scraper takes.

use std::cell::RefCell;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};

use crate::cadvisor::Cadvisor;
use crate::expo::{Format, whole};
use crate::resource::Resource;
use crate::summary::{Extras, Summary};
use crate::testing::page::samples;
use crate::testing::recorded::{POD, TREES, WEB, files, generation, subjects, tree};
use crate::{cgroup, machine, sample};

/// Damage done to a file: a kind, a place, a value.
type Damage = (u8, u16, u8);

fn damage(text: &mut Vec<u8>, (kind, place, value): Damage) {
    let at = usize::from(place) * text.len() / usize::from(u16::MAX).saturating_add(1);
    let line_of = |text: &[u8]| {
        let start = text[..at]
            .iter()
            .rposition(|b| *b == b'\n')
            .map_or(0, |n| n + 1);
        let end = text[at..]
            .iter()
            .position(|b| *b == b'\n')
            .map_or(text.len(), |n| at + n + 1);
        start..end
    };
    let number_of = |text: &[u8]| {
        let digit = |b: &u8| b.is_ascii_digit();
        let start = text[at..]
            .iter()
            .position(digit)
            .map_or(text.len(), |n| at + n);
        let end = text[start..]
            .iter()
            .position(|b| !digit(b))
            .map_or(text.len(), |n| start + n);
        start..end
    };
    match kind % 12 {
        0 if !text.is_empty() => text[at] ^= 1 << (value % 8),
        1 => text.truncate(at),
        2 => text.insert(at, 0),
        // No UTF-8.
        3 => drop(text.splice(at..at, [0xff, 0xc3, value])),
        4 => drop(text.splice(number_of(text), *b"184467440737095516150")),
        5 => drop(text.splice(number_of(text), *b"18446744073709551615")),
        6 => drop(text.splice(number_of(text), *b"-1")),
        7 => {
            let line = text[line_of(text)].to_vec();
            let many = line.repeat(if value < 40 { 10_000 } else { 2 });
            drop(text.splice(at..at, many));
        }
        8 => drop(text.drain(line_of(text))),
        9 => text.retain(|b| *b != b' '),
        10 => text.retain(|b| *b != b'\n'),
        _ => text.insert(at, value),
    }
}

fn config(cases: u32) -> Config {
    let mut config = Config::default();
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases;
    }
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(0x6b65_6467);
    }
    // A failure is repeated by its seed.
    config.failure_persistence = None;
    config
}

/// Name and text of every recorded file that has a parser of its own.
fn seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds: Vec<(String, Vec<u8>)> = Vec::new();
    for (_, text) in TREES {
        for (path, content) in files(text) {
            let name = match path.strip_prefix("/proc/") {
                Some(rest) => rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '/'),
                None => path.rsplit('/').next().unwrap_or_default(),
            };
            let seed = (name.to_owned(), content.into_bytes());
            if parse(&seed.0, &seed.1).is_some() && !seeds.contains(&seed) {
                seeds.push(seed);
            }
        }
    }
    seeds
}

fn parse<'a>(name: &str, text: &'a [u8]) -> Option<Result<(), &'a [u8]>> {
    cgroup::parse(name, text).or_else(|| sample::parse(name, text))
}

#[test]
fn every_parser_has_seeds_and_takes_them() {
    let seeds = seeds();
    for name in [
        "cpu.stat",
        "cpu.max",
        "cpu.weight",
        "cpu.pressure",
        "memory.stat",
        "memory.events",
        "memory.max",
        "io.stat",
        "pids.max",
        "diskstats",
        "net/dev",
        "loadavg",
        "stat",
        "vmstat",
        "self/mountinfo",
        "limits",
    ] {
        assert!(seeds.iter().any(|(seed, _)| seed == name), "{name}");
    }
    for (name, text) in &seeds {
        assert_eq!(parse(name, text), Some(Ok(())), "{name}");
    }
}

#[test]
fn fuzz_parsers() {
    let seeds = seeds();
    let damages = proptest::collection::vec(any::<Damage>(), 1..4);
    let strategy = (0..seeds.len(), damages, 0..seeds.len());
    let mut runner = proptest::test_runner::TestRunner::new(config(3000));
    let run = runner.run(&strategy, |(seed, damages, other)| {
        let (name, text) = &seeds[seed];
        let mut text = text.clone();
        for one in damages {
            damage(&mut text, one);
        }
        // Its own parser and, for files do get mixed up, another's.
        for name in [name, &seeds[other].0] {
            if let Some(Err(line)) = parse(name, &text) {
                let whole = text.as_ptr_range();
                let part = line.as_ptr_range();
                prop_assert!(whole.start <= part.start && part.end <= whole.end, "{name}");
            }
        }
        let text = String::from_utf8_lossy(&text);
        let _ = machine::meminfo(&text);
        let _ = machine::cpu_list(&text);
        Ok(())
    });
    run.unwrap();
}

#[test]
fn fuzz_any_bytes() {
    let names: Vec<String> = seeds().into_iter().map(|(name, _)| name).collect();
    let strategy = (
        0..names.len(),
        proptest::collection::vec(any::<u8>(), 0..300),
    );
    let mut runner = proptest::test_runner::TestRunner::new(config(2000));
    let run = runner.run(&strategy, |(name, text)| {
        let _ = parse(&names[name], &text);
        Ok(())
    });
    run.unwrap();
}

/// Files whose damage shows in the tree: those of the root group, the container, the node.
fn damaged_files(text: &str) -> Vec<(String, Vec<u8>)> {
    let groups = [
        "/sys/fs/cgroup".to_owned(),
        format!("/sys/fs/cgroup{POD}/{WEB}"),
    ];
    let is_read = |path: &str| {
        let of_group = path
            .rsplit_once('/')
            .is_some_and(|(dir, name)| groups.iter().any(|g| g == dir) && !name.is_empty());
        let of_node = path.starts_with("/proc/") || path.starts_with("/sys/devices/");
        of_group || (of_node && !path.contains(" -> "))
    };
    let files = files(text).into_iter();
    files
        .filter(|(path, _)| is_read(path))
        .map(|(path, content)| {
            (
                path.trim_start_matches('/').to_owned(),
                content.into_bytes(),
            )
        })
        .collect()
}

#[test]
fn fuzz_trees() {
    let text = TREES[3].1;
    let files = damaged_files(text);
    let tree = RefCell::new(tree(text));
    let damages = proptest::collection::vec(any::<Damage>(), 1..3);
    let mut runner = proptest::test_runner::TestRunner::new(config(96));
    let run = runner.run(&(0..files.len(), damages), |(file, damages)| {
        let tree = tree.borrow_mut();
        let (path, original) = &files[file];
        let mut text = original.clone();
        for one in damages {
            damage(&mut text, one);
        }
        tree.write_bytes(path, &text);
        let (generation, errors) = generation(&tree);
        let machine = crate::machine(&tree.root());
        tree.write_bytes(path, original);
        prop_assert_eq!(generation.rows.len(), subjects().len());
        for error in errors.iter().map(String::as_str) {
            prop_assert!(
                error.contains(path.as_str()),
                "{} is damaged, blamed is {}",
                path,
                error
            );
        }
        if let Err(error) = &machine {
            prop_assert!(
                error.to_string().contains(path.as_str()),
                "{} {}",
                path,
                error
            );
        }
        prop_assert_eq!(generation.failed, !errors.is_empty());
        let generation = Arc::new(generation);
        let machine = Arc::new(machine.unwrap_or_default());
        samples(&whole(
            Cadvisor::new(generation.clone(), machine),
            Format::Text,
        ));
        samples(&whole(Resource::new(generation.clone()), Format::Text));
        let summary = Summary::new(generation, None, Extras::default());
        prop_assert!(std::str::from_utf8(&whole(summary, Format::Text)).is_ok());
        Ok(())
    });
    run.unwrap();
}
