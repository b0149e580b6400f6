//! `cargo rig test`: every ring of tests, from format to stories, added up to one line.
//!
//! In: which rings. Out: a [`Tally`] and, on the way, the tools' own words. Cargo's summaries are counted by [`count`], which is pure.
//! A tool that cannot run counts as one failure, and a cluster that does not come up as one failure with all its stories skipped.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, anyhow};

use crate::artefacts::{self, Profile, cargo, workspace};
use crate::cluster::{Cluster, Size};
use crate::conformance::{self, ci};
use crate::dirs::Dirs;
use crate::progress::Progress;
use crate::stories::{self, Story, Tally};
use crate::supervisor::client::Client;
use crate::{deps, recap, tied, up};

const ARM: &str = "aarch64-unknown-linux-musl";
/// Crates without a kernel or a network under them: their tests run anywhere, also emulated.
const PURE: [&str; 6] = [
    "kedge-machine",
    "kedge-wire",
    "kedge-podnet",
    "kedge-proxy",
    "kedge-pods",
    "kedge-metrics",
];
const PRODUCT: [&str; 3] = ["kedge", "kedge-init", "kedge-pause"];
/// Never in our binaries; see deny.toml for the reasons.
const BANNED: [&str; 6] = [
    "openssl",
    "openssl-sys",
    "native-tls",
    "aws-lc-rs",
    "aws-lc-sys",
    "zbus",
];

/// Format, lints, banned crates.
pub fn lints() -> Result<Tally> {
    let root = workspace()?;
    let mut tally = Tally::default();
    tally.add(one(
        "format",
        cargo_command(&root, &["fmt", "--all", "--check"]),
    ));
    tally.add(one(
        "clippy",
        cargo_command(
            &root,
            &[
                "clippy",
                "--quiet",
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ],
        ),
    ));
    tally.add(banned(&root));
    Ok(tally)
}

/// Unit, golden, property and kernel tests; then the same for arm64 as far as that goes without such a machine.
pub fn unit() -> Result<Tally> {
    let root = workspace()?;
    deps::ensure(deps::CI_NEEDS, &|text| println!("{text}"))?;
    deps::ensure_targets(&root, &[artefacts::TARGET, ARM], &|text| println!("{text}"))?;
    let mut tally = counted(
        "tests",
        cargo_command(&root, &["test", "--workspace", "--no-fail-fast"]),
    );
    let mut build = cargo_command(&root, &["build", "--quiet", "--target", ARM]);
    build.args(PRODUCT.iter().flat_map(|package| ["-p", package]));
    tally.add(one("product builds for aarch64", build));
    let mut test = cargo_command(&root, &["test", "--no-fail-fast", "--target", ARM]);
    test.args(PURE.iter().flat_map(|package| ["-p", package]));
    test.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_RUNNER", emulator());
    // Random cases have their full number on the host; here the question is whether the code is right on another machine at all.
    test.env("PROPTEST_CASES", "16");
    tally.add(counted("pure crates' tests on aarch64", test));
    Ok(tally)
}

/// When stories should no longer begin: `KEDGE_TEST_UNTIL`, seconds since 1970. CI sets it, whose runs are ended from outside.
fn until() -> Option<Instant> {
    let deadline: u64 = std::env::var("KEDGE_TEST_UNTIL").ok()?.parse().ok()?;
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .ok()?
        .as_secs();
    Some(Instant::now() + std::time::Duration::from_secs(deadline.saturating_sub(now)))
}

/// CI's shard of upstream's conformance tests, on two nodes of their own that end with us. A test without a verdict has failed, and where
/// none could run, all have.
pub fn conformance(dirs: &Dirs) -> Result<Tally> {
    let start = Instant::now();
    let dirs = dirs.for_tests();
    // Parts are built and two nodes booted before the first test: what begins late does not end in time.
    let late = until().is_some_and(|until| start > until);
    let counts = if late {
        Err(anyhow!("no time is left in this run"))
    } else {
        let counts = shard(&dirs);
        // Stories begin in the same directory.
        let gone = Client::new(&dirs).wait_gone();
        counts.and_then(|counts| gone.map(|()| counts))
    };
    if let Err(error) = &counts {
        failed(
            "conformance: no test ran to its end",
            start.elapsed().as_secs_f32(),
            &format!("{error:#}"),
        );
    }
    Ok(verdict(counts.ok(), ci::NAMES.len()))
}

/// A test that skips itself has not been passed, nor one that was not reached, nor any of a shard that did not run.
fn verdict(counts: Option<conformance::table::Counts>, tests: usize) -> Tally {
    match counts {
        Some(counts) => Tally {
            passed: counts.passed,
            failed: counts.failed + counts.skipped + counts.missing,
            skipped: counts.excused,
        },
        None => Tally {
            failed: tests,
            ..Tally::default()
        },
    }
}

fn shard(dirs: &Dirs) -> Result<conformance::table::Counts> {
    let progress = Progress::new(artefacts::steps() + up::STEPS + conformance::parts::steps());
    let client = Client::new(dirs);
    if client.running().is_some() {
        client.stop()?;
    }
    let artefacts = artefacts::build(Profile::Story, &progress)?;
    // Its few images are pulled: putting them all on a volume takes longer, and what a cache holds must not decide what is tested.
    let parts = conformance::parts::build(&artefacts, &progress)?;
    let options = up::Options {
        size: Size {
            memory_mib: conformance::MEMORY_MIB,
            ..Size::default()
        },
        ..up::Options::new(2, artefacts.accel()?)
    };
    let (cluster, holder) = up::control_plane(dirs, &artefacts, &options, &progress)?;
    up::nodes(&cluster, &progress)?;
    let options = conformance::Options {
        selection: conformance::plan::Selection {
            names: ci::NAMES,
            ..conformance::plan::Selection::default()
        },
        resume: false,
        again: false,
        procs: 4,
        node_software: "kedge".to_owned(),
        baseline: None,
        minutes: Some(ci::MINUTES),
    };
    let counts = conformance::run(&cluster, &parts, &options, &progress)?;
    client.stop()?;
    drop(holder);
    Ok(counts)
}

/// The VM stories, in the cluster that runs from `here` or in a fresh one beside it that ends with us.
pub fn stories(chosen: Vec<Story>, dirs: &Dirs, here: bool) -> Result<Tally> {
    if here {
        return Ok(stories::run(Cluster::attach(dirs)?, chosen, None));
    }
    let count = chosen.len();
    let dirs = dirs.for_tests();
    let start = Instant::now();
    match fresh_cluster(&dirs) {
        Ok((cluster, holder)) => {
            println!(
                "ok    {:<44} {:>6.1}s",
                "cluster-of-three-nodes-comes-up",
                start.elapsed().as_secs_f32()
            );
            let mut tally = stories::run(cluster, chosen, until());
            tally.passed += 1;
            Client::new(&dirs).stop()?;
            drop(holder);
            Ok(tally)
        }
        Err(error) => Ok(Tally {
            skipped: count,
            ..failed(
                "cluster-of-three-nodes-comes-up",
                start.elapsed().as_secs_f32(),
                &format!("{error:#}"),
            )
        }),
    }
}

fn fresh_cluster(dirs: &Dirs) -> Result<(Cluster, crate::supervisor::client::Holder)> {
    crate::supervisor::ns::check()?;
    let client = Client::new(dirs);
    if client.running().is_some() {
        client.stop()?;
    }
    let progress = Progress::new(artefacts::steps() + up::STEPS);
    let artefacts = artefacts::build(Profile::Story, &progress)?;
    let options = up::Options::new(3, artefacts.accel()?);
    let (cluster, holder) = up::control_plane(dirs, &artefacts, &options, &progress)?;
    up::nodes(&cluster, &progress)?;
    Ok((cluster, holder))
}

/// Debian has it in two packages under two names.
fn emulator() -> &'static str {
    let there = |name: &&str| {
        deps::program_directories()
            .iter()
            .any(|directory| directory.join(name).is_file())
    };
    ["qemu-aarch64", "qemu-aarch64-static"]
        .into_iter()
        .find(there)
        .unwrap_or("qemu-aarch64")
}

fn cargo_command(root: &Path, arguments: &[&str]) -> Command {
    let mut command = tied::command(cargo());
    command.args(arguments).current_dir(root);
    command
}

/// A tool whose exit code is the whole verdict.
fn one(name: &str, mut command: Command) -> Tally {
    let start = Instant::now();
    let status = command.stdin(Stdio::null()).status();
    let seconds = start.elapsed().as_secs_f32();
    match status {
        Ok(status) if status.success() => passed(name, seconds),
        Ok(status) => failed(name, seconds, &status.to_string()),
        Err(error) => failed(name, seconds, &error.to_string()),
    }
}

fn passed(name: &str, seconds: f32) -> Tally {
    println!("ok    {name:<44} {seconds:>6.1}s");
    Tally {
        passed: 1,
        ..Tally::default()
    }
}

fn failed(name: &str, seconds: f32, reason: &str) -> Tally {
    let line = format!("FAIL  {name:<44} {seconds:>6.1}s: {reason}");
    println!("{line}");
    recap::note(&line);
    Tally {
        failed: 1,
        ..Tally::default()
    }
}

fn banned(root: &Path) -> Tally {
    let start = Instant::now();
    let output = cargo_command(
        root,
        &[
            "tree",
            "--workspace",
            "--edges",
            "normal,build",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ],
    )
    .output();
    let seconds = start.elapsed().as_secs_f32();
    let text = match output {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).into_owned()
        }
        Ok(output) => {
            return failed(
                "banned crates",
                seconds,
                String::from_utf8_lossy(&output.stderr).trim(),
            );
        }
        Err(error) => return failed("banned crates", seconds, &error.to_string()),
    };
    match banned_in(&text) {
        None => passed("no banned crate", seconds),
        Some(found) => failed(
            "no banned crate",
            seconds,
            &format!("{found} is in the dependency tree (cargo tree -i {found})"),
        ),
    }
}

fn banned_in(tree: &str) -> Option<&str> {
    tree.lines()
        .filter_map(|line| line.split(' ').next())
        .find(|name| BANNED.contains(name))
}

/// `cargo test`, its lines shown as they come and its summaries added up.
fn counted(name: &str, command: Command) -> Tally {
    let start = Instant::now();
    let mut failing = Vec::new();
    let (tally, failure) = match stream(command) {
        Ok((text, success)) => {
            let lines = text.lines().filter(|line| line.ends_with("... FAILED"));
            failing.extend(lines.map(str::to_owned));
            let mut tally = count(&text);
            // A test binary that does not compile, or dies, has no summary.
            if !success && tally.failed == 0 {
                tally.failed = 1;
            }
            (tally, None)
        }
        Err(error) => (
            Tally {
                failed: 1,
                ..Tally::default()
            },
            Some(format!("{error:#}")),
        ),
    };
    let word = if tally.failed == 0 { "ok  " } else { "FAIL" };
    let line = format!(
        "{word}  {name:<44} {:>6.1}s: {tally} {}",
        start.elapsed().as_secs_f32(),
        failure.unwrap_or_default()
    );
    println!("{line}");
    if tally.failed > 0 {
        recap::note(&line);
        failing.iter().for_each(|test| recap::note(test));
    }
    tally
}

fn stream(mut command: Command) -> Result<(String, bool)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start cargo")?;
    let pipe = child.stdout.take().context("no output pipe")?;
    let mut text = String::new();
    let mut out = std::io::stdout();
    for line in BufReader::new(pipe).lines() {
        let line = line.context("read cargo's output")?;
        if shown(&line) {
            writeln!(out, "{line}").context("write to the terminal")?;
        }
        text += &line;
        text.push('\n');
    }
    Ok((text, child.wait().context("wait for cargo")?.success()))
}

/// Thousands of passed tests say nothing; everything else does.
fn shown(line: &str) -> bool {
    !(line.is_empty()
        || line.starts_with("test ") && line.ends_with(" ok")
        || line.starts_with("running "))
}

/// Adds up lines of the form `test result: ok. 12 passed; 0 failed; 1 ignored; …`.
pub fn count(text: &str) -> Tally {
    let mut tally = Tally::default();
    for line in text.lines().filter(|line| line.starts_with("test result:")) {
        let number = |word: &str| -> usize {
            let words: Vec<&str> = line.split_whitespace().collect();
            let at = words
                .iter()
                .position(|found| found.trim_end_matches(';') == word);
            at.and_then(|at| words.get(at.checked_sub(1)?)?.parse().ok())
                .unwrap_or(0)
        };
        tally.add(Tally {
            passed: number("passed"),
            failed: number("failed"),
            skipped: number("ignored"),
        });
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_of_several_binaries_are_added_up() {
        let text = "running 2 tests\ntest a ... ok\n\
            test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.70s\n\
            test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.70s\n";
        assert_eq!(
            count(text),
            Tally {
                passed: 15,
                failed: 2,
                skipped: 1
            }
        );
    }

    #[test]
    fn a_shard_whose_tests_have_no_verdict_is_not_green() {
        let counts = conformance::table::Counts {
            passed: 20,
            skipped: 1,
            excused: 1,
            missing: 1,
            ..Default::default()
        };
        assert_eq!(
            verdict(Some(counts), 23),
            Tally {
                passed: 20,
                failed: 2,
                skipped: 1
            }
        );
        assert_eq!(
            verdict(None, 23),
            Tally {
                failed: 23,
                ..Tally::default()
            }
        );
    }

    #[test]
    fn a_banned_crate_is_found_by_its_whole_name() {
        assert_eq!(banned_in("openssl-probe v0.1.0\nring v0.17.14\n"), None);
        assert_eq!(
            banned_in("ring v0.17.14\nopenssl v0.10.0\n"),
            Some("openssl")
        );
    }

    #[test]
    fn a_command_that_fails_without_a_summary_is_one_failure() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo compile error; exit 101"]);
        assert_eq!(
            counted("broken", command),
            Tally {
                failed: 1,
                ..Tally::default()
            }
        );
    }
}
