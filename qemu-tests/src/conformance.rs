//! `cargo rig conformance`: upstream's own tests against the nodes of a cluster, and what they say in one table.
//!
//! In: [`Options`], a running cluster or the parts for one. Out: the table on standard output; `results.jsonl`, `summary.json`,
//! `junit.xml` and ginkgo's logs below `target/conformance/BUILD` (or a directory of its own there: [`place`]); the verdict. [`catalogue`], [`plan`], [`report`], [`results`] and
//! [`table`] are pure; [`judge`] runs the programs. Absent: any judgement of its own about a test.

pub mod catalogue;
pub mod ci;
mod earlier;
pub mod judge;
pub mod parts;
pub mod plan;
pub mod report;
pub mod results;
pub mod table;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::artefacts::{self, Artefacts};
use crate::cluster::{Cluster, Description};
use crate::progress::Progress;
use crate::recap;
use catalogue::{Catalogue, Test};
use judge::Judge;
use parts::Parts;
use plan::Selection;
use report::State;
use results::{Build, Ground, Journal, Summary, compare};
use table::Counts;

/// Nodes of a conformance cluster: images of tests are larger than those of stories, and a dozen pods run at once.
pub const MEMORY_MIB: u32 = 1536;

/// Where journals are committed, each named after its build.
const KEPT: &str = "qemu-tests/results/conformance";

#[derive(Debug, Clone)]
pub struct Options {
    pub selection: Selection,
    pub resume: bool,
    /// With `resume`: tests that failed are run once more, and their table says so.
    pub again: bool,
    pub procs: usize,
    /// `kedge` or `upstream`: what the nodes must run.
    pub node_software: String,
    /// Compared with instead of the newest earlier summary.
    pub baseline: Option<PathBuf>,
    /// Ends the run in time; what was not reached is missing.
    pub minutes: Option<u64>,
}

/// Prints the names that a selection means.
pub fn list(selection: &Selection) -> Result<()> {
    let catalogue = Catalogue::committed()?;
    let tests = plan::select(&catalogue, selection)?;
    for test in &tests {
        println!("{} {}", test.class, test.name);
    }
    println!("{} tests", tests.len());
    Ok(())
}

/// Writes the table anew from the suite and says what changed. Tests without a class are an error: somebody must decide.
pub fn rewrite(e2e: &Path) -> Result<()> {
    let known = Catalogue::committed()?;
    let listed = judge::listed(e2e)?;
    let drift = known.drift(&listed);
    let renewed = known.renewed(&listed);
    let path = artefacts::workspace()?.join("qemu-tests/conformance-tests.tsv");
    fs::write(&path, renewed.text()).with_context(|| format!("write {}", path.display()))?;
    print!("{drift}");
    println!("{} tests in {}", renewed.tests.len(), path.display());
    let undecided = renewed
        .tests
        .iter()
        .filter(|test| test.class == catalogue::Class::Undecided)
        .count();
    if undecided > 0 {
        bail!("{undecided} tests have class `?`: give each the class that its assertions ask for");
    }
    Ok(())
}

/// Runs the selection and prints the table. The directory holds all files of this build.
pub fn run(
    cluster: &Cluster,
    parts: &Parts,
    options: &Options,
    progress: &Progress,
) -> Result<Counts> {
    let catalogue = Catalogue::committed()?;
    let tests = plan::select(&catalogue, &options.selection)?;
    let drift = catalogue.drift(&judge::listed(&parts.e2e)?);
    if !drift.is_empty() {
        bail!(
            "the suite is not the one of the table (`cargo rig conformance --rewrite-list`):\n{drift}"
        );
    }
    judge::check_images(parts)?;
    let build = build(cluster, parts, &options.node_software)?;
    let root = artefacts::target_directory(&artefacts::workspace()?).join("conformance");
    let whole = root.join(build.id());
    fetch_kept(&whole, &build)?;
    // A journal that cannot be read is renamed by a new one, not lost.
    let known = results::read(&whole.join(results::JOURNAL))
        .map(|(_, outcomes)| outcomes.into_keys().collect())
        .unwrap_or_default();
    let directory = match place(&tests, &known, options) {
        Place::Build => whole,
        Place::Part(name) => whole.join(name),
    };
    let before = Before::read(&root, &build, options, progress)?;
    let mut journal = if options.resume {
        Journal::resume(&directory, &build)?
    } else {
        Journal::create(&directory, &build)?
    };
    progress.say(&format!("results: {}", directory.display()));
    if let (None, Some(ground)) = (&journal.build.ground, &build.ground) {
        progress.say(&format!(
            "its {} verdicts are of an older rig and do not tell on what nodes; what comes is of {ground}",
            journal.outcomes.len()
        ));
    }
    let decided = |outcome: &&report::Outcome| !(options.again && outcome.state == State::Failed);
    let done: BTreeSet<String> = journal
        .outcomes
        .values()
        .filter(decided)
        .map(|outcome| outcome.name.clone())
        .collect();
    let mut judge = Judge {
        cluster,
        parts,
        directory: &directory,
        deadline: None,
    };
    judge.prepare()?;
    // Minutes of tests, not of waiting for the cluster's DNS.
    judge.deadline = options
        .minutes
        .map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
    for pass in plan::passes(&tests, &done, options.procs) {
        if !judge.late() {
            judge.run(&pass, &mut journal, progress)?;
        }
    }
    finish(&directory, build, before, &catalogue, &tests, &journal)
}

/// Which results a run writes.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// Those of the whole build.
    Build,
    /// A directory of its own below them.
    Part(String),
}

/// CI's shard is by itself always. Another run goes on with the build's results (`--resume`) or begins them anew, unless `known`, the tests
/// that have a verdict there, are more than this run's: then what it brings is put beside them.
fn place(tests: &[&Test], known: &BTreeSet<String>, options: &Options) -> Place {
    let fixed = !options.selection.names.is_empty();
    if fixed && options.selection.focus.is_none() {
        return Place::Part("ci".to_owned());
    }
    let chosen: BTreeSet<&str> = tests.iter().map(|test| test.name.as_str()).collect();
    if !fixed && (options.resume || known.iter().all(|name| chosen.contains(name.as_str()))) {
        return Place::Build;
    }
    let names: Vec<&str> = chosen.into_iter().collect();
    let hash = Sha256::digest(names.join("\n"));
    Place::Part(format!("part-{}", crate::pki::hex(&hash[..4])))
}

/// A run takes hours and a machine may be gone before it ends: journals that were committed are gone on with on another.
fn fetch_kept(directory: &Path, build: &Build) -> Result<()> {
    let kept = artefacts::workspace()?
        .join(KEPT)
        .join(format!("{}.jsonl", build.id()));
    let journal = directory.join(results::JOURNAL);
    if journal.exists() || !kept.is_file() {
        return Ok(());
    }
    fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    fs::copy(&kept, &journal)
        .with_context(|| format!("copy {} to {}", kept.display(), journal.display()))?;
    Ok(())
}

/// What a run needs of earlier ones, read before it takes hours.
struct Before {
    excused: BTreeSet<String>,
    baseline: Option<(PathBuf, Summary)>,
}

impl Before {
    fn read(root: &Path, build: &Build, options: &Options, progress: &Progress) -> Result<Self> {
        let kept = artefacts::workspace()?.join(KEPT);
        let earlier = earlier::Earlier::read(root, &kept)?;
        for error in &earlier.unreadable {
            progress.say(&format!("passed over: {error}"));
        }
        Ok(Self {
            excused: earlier.excused(&build.suite),
            baseline: match &options.baseline {
                Some(path) => Some((path.clone(), Summary::read(path)?)),
                None => earlier.newest(build),
            },
        })
    }
}

fn finish(
    directory: &Path,
    build: Build,
    before: Before,
    catalogue: &Catalogue,
    tests: &[&Test],
    journal: &Journal,
) -> Result<Counts> {
    let result = table::Result {
        tests: tests.to_vec(),
        outcomes: &journal.outcomes,
        excused: before.excused,
    };
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .context("the clock is before 1970")?;
    let summary = Summary {
        finished: now.as_secs(),
        load: fs::read_to_string("/proc/loadavg")
            .context("read /proc/loadavg")?
            .trim()
            .to_owned(),
        command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
        missing: result.missing(),
        outcomes: journal.outcomes.values().cloned().collect(),
        build,
    };
    let junit = directory.join("junit.xml");
    let text = table::Result {
        tests: reported(catalogue, tests, journal),
        ..result.clone()
    }
    .junit(&summary.build.id());
    fs::write(&junit, text).with_context(|| format!("write {}", junit.display()))?;
    let failures = result.failures();
    print!("{failures}\n{}", result.table());
    failures.lines().for_each(recap::note);
    print!("{}", result.passed_later());
    println!(
        "build {} ({}){}, load {}",
        summary.build.id(),
        summary.build.version,
        summary
            .build
            .ground
            .as_ref()
            .map(|ground| format!(", {ground}"))
            .unwrap_or_default(),
        summary.load
    );
    if let Some((path, before)) = &before.baseline {
        print!(
            "{}",
            table::comparison(&compare(before, &summary), &path.display().to_string())
        );
    }
    summary.write(&directory.join(results::SUMMARY))?;
    Ok(result.counts())
}

/// JUnit is made of the whole journal: this run's tests, and those that have a verdict from earlier ones.
fn reported<'a>(catalogue: &'a Catalogue, tests: &[&Test], journal: &Journal) -> Vec<&'a Test> {
    let chosen: BTreeSet<&str> = tests.iter().map(|test| test.name.as_str()).collect();
    let known = |test: &&Test| {
        chosen.contains(test.name.as_str()) || journal.outcomes.contains_key(&test.name)
    };
    catalogue.tests.iter().filter(known).collect()
}

/// What the results will be said of.
fn build(cluster: &Cluster, parts: &Parts, node_software: &str) -> Result<Build> {
    let name = |path: &Path| {
        path.file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .with_context(|| format!("{} has no name", path.display()))
    };
    let artefacts = &cluster.description.artefacts;
    let versions = judge::versions(cluster)?;
    for (node, version) in &versions {
        let software = if version.contains("+kedge") {
            "kedge"
        } else {
            "upstream"
        };
        if software != node_software {
            bail!(
                "{node} runs {software} ({version}), not {node_software}: `cargo rig down`, then again"
            );
        }
    }
    let (_, version) = versions.first().context("the cluster has no nodes")?;
    let suite = name(parts.e2e.parent().context("e2e.test lies nowhere")?)?;
    Ok(Build {
        node_software: node_software.to_owned(),
        version: version.clone(),
        image: match &cluster.description.artefacts.twin {
            Some(volume) if node_software == "upstream" => {
                format!("{}+{}", without_agent(artefacts)?, name(volume)?)
            }
            _ => name(&artefacts.image)?,
        },
        test_images: name(&parts.images)?,
        suite: suite.trim_start_matches("e2e.test-").to_owned(),
        ground: ground(&cluster.description),
    })
}

fn ground(description: &Description) -> Option<Ground> {
    Some(Ground {
        nodes: description.nodes.len(),
        memory_mib: description.size.memory_mib,
        cpus: description.size.cpus,
        max_pods: description.size.max_pods,
        settings: description.settings.clone()?,
    })
}

/// What a node with upstream's software has of the image: kernel, init, containerd, runc. Our agent is not started there, so that a new one
/// leaves these results as they are.
fn without_agent(artefacts: &Artefacts) -> Result<String> {
    let root = artefacts::workspace()?.join("image/src/root");
    artefacts::image_key(&[
        artefacts.image.join(kedge_image::KERNEL),
        // Init and the modules are in it.
        artefacts.image.join(kedge_image::INITRAMFS),
        artefacts.product.join("containerd"),
        artefacts.product.join("containerd-shim-runc-v2"),
        artefacts.product.join("runc"),
        root.join("containerd.toml"),
        root.join("services"),
    ])
}

#[cfg(test)]
mod tests {
    use super::results::tests::{build, outcome};
    use super::*;

    fn catalogue() -> Catalogue {
        Catalogue::parse("class\tsig\tflags\tname\na\ts\t.\tone\na\ts\t.\ttwo\nb\ts\t.\tthree\n")
            .unwrap()
    }

    fn options(resume: bool, names: &'static [&'static str]) -> Options {
        Options {
            selection: Selection {
                names,
                ..Selection::default()
            },
            resume,
            again: false,
            procs: 1,
            node_software: "kedge".into(),
            baseline: None,
            minutes: None,
        }
    }

    #[test]
    fn a_part_of_the_tests_does_not_replace_more() {
        let catalogue = catalogue();
        let tests: Vec<&Test> = catalogue.tests.iter().take(2).collect();
        let known = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let place = |tests: &[&Test], names: &[&str], resume| {
            super::place(tests, &known(names), &options(resume, &[]))
        };
        assert_eq!(place(&tests, &[], false), Place::Build);
        assert_eq!(place(&tests, &["one", "two"], false), Place::Build);
        assert_eq!(place(&tests, &["one", "three"], true), Place::Build);
        let beside = place(&tests, &["one", "three"], false);
        assert!(matches!(&beside, Place::Part(name) if name.starts_with("part-")));
        assert_ne!(beside, place(&tests[..1], &["one", "three"], false));
        // The same again goes to the same place.
        assert_eq!(beside, place(&tests, &["three"], false));
        for resume in [false, true] {
            let ci = super::place(&tests, &known(&[]), &options(resume, &["one", "two"]));
            assert_eq!(ci, Place::Part("ci".into()));
        }
    }

    #[test]
    fn junit_has_the_verdicts_of_earlier_runs_too() {
        let catalogue = catalogue();
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(directory.path(), &build("i")).unwrap();
        journal.add(&outcome("three", State::Passed)).unwrap();
        journal
            .add(&outcome("no longer a test", State::Passed))
            .unwrap();
        let tests: Vec<&Test> = catalogue.tests.iter().take(1).collect();
        let names: Vec<&str> = reported(&catalogue, &tests, &journal)
            .iter()
            .map(|test| test.name.as_str())
            .collect();
        assert_eq!(names, ["one", "three"]);
    }
}
