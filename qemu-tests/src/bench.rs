//! `cargo rig bench`: what a node costs, Kedge's beside upstream's, in the same VM with the same kernel, runtime and pods.
//!
//! In: measures, how often, whether upstream is measured too. Out: tables on standard output and a JSON file of all samples ([`store`]) with
//! the host's load beside each. Samples of one build are never mixed with another's; a run that was cut off goes on where it stopped, since
//! every sample is written when it is taken. The order alternates: what wears on the host wears on both.
//!
//! One VM session ([`session`]) serves all measures of one repetition. Services, natively and in VMs, share a control plane of their own
//! ([`services`]): making ten thousand of them takes longer than measuring with them.
//! A measure that could not be taken is named at the end, and the exit code says so. Release binaries; one node alone.

mod boot;
mod idle;
mod lab;
mod machine;
mod memory;
mod metrics;
mod network;
mod pods;
mod ram;
mod services;
mod session;
mod sizes;
mod split;
mod store;
mod table;
mod usage;
mod watch;

use std::fmt;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::artefacts::{self, Artefacts, Profile};
use crate::cluster::Size;
use crate::deps;
use crate::dirs::Dirs;
use crate::progress::Progress;
use crate::twin::{self, Software};
use store::{Figures, Store};

pub use services::COUNTS as SERVICE_COUNTS;
pub use sizes::sizes;

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// Kernel entry to Ready and containerd up to Ready: first join, warm.
    Boot,
    /// PSS of the node's software by process, at 0 and 30 pods (in the first round 110 too, with --pods-110 or `all`).
    Memory,
    /// Bind to Running one by one and in a burst of 30; a container's end to its status in the API.
    Pods,
    /// Pods again, with the runtime's share told from the agent's own by a tracing CRI proxy.
    Split,
    /// CPU, context switches, API bytes and connections per idle minute, at 0, 30 and 110 pods as `memory`.
    Idle,
    /// What being scraped costs, with 30 pods (in the first round 110, as `memory`): nobody, one scraper, twenty at once.
    Metrics,
    /// 1 000 and 10 000 Services with two endpoints each: the proxies natively, then the whole node in a VM.
    // In samples and parts: natively.
    Services,
    /// Of `services`, the VMs only.
    ServicesVm,
    /// Of `services`, the proxies natively only.
    ServicesNative,
    /// A ClusterIP's first answer and steady throughput.
    Network,
    /// Bytes written to the disk in 20 idle minutes with 30 pods.
    Flash,
    /// The smallest memory at which a node gets Ready and keeps 10 pods.
    Ram,
    /// Sizes of programs and image.
    Sizes,
    /// All of them, with 110 pods in the first round.
    All,
}

impl fmt::Display for Measure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        out.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}

impl Measure {
    const IN_VM: [Self; 6] = [
        Self::Boot,
        Self::Memory,
        Self::Pods,
        Self::Idle,
        Self::Network,
        Self::Flash,
    ];
}

/// What a measure is taken with several numbers of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    /// On the node.
    Pods(usize),
    /// In the API.
    Services(usize),
}

impl fmt::Display for Number {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pods(count) => write!(out, "{count} pods"),
            Self::Services(count) => write!(out, "{count} Services"),
        }
    }
}

/// What is measured at once: a measure, or one of its windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    measure: Measure,
    with: Option<Number>,
}

impl Part {
    /// How its figures' names begin, and no other part's.
    fn prefix(self) -> String {
        match (self.measure, self.with) {
            (_, None) => String::new(),
            (_, Some(Number::Pods(count))) => store::with_pods(count),
            (Measure::ServicesVm, Some(Number::Services(count))) => {
                format!("in a VM: {count:>5} Services: ")
            }
            (_, Some(Number::Services(count))) => format!("{count:>5} Services: "),
        }
    }
}

impl From<Measure> for Part {
    fn from(measure: Measure) -> Self {
        Self {
            measure,
            with: None,
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.measure)?;
        match self.with {
            Some(number) => write!(out, " with {number}"),
            None => Ok(()),
        }
    }
}

/// The parts of a measure in a round that has 110 pods or has not.
fn parts(measure: Measure, pods_110: bool) -> Vec<Part> {
    let counts = match measure {
        Measure::Memory | Measure::Idle if pods_110 => &[0, session::PODS, session::MORE_PODS][..],
        Measure::Memory | Measure::Idle => &[0, session::PODS],
        // Its machine is filled once.
        Measure::Metrics if pods_110 => &[session::MORE_PODS],
        Measure::Metrics => &[session::PODS],
        _ => return vec![measure.into()],
    };
    let part = |count: &usize| Part {
        measure,
        with: Some(Number::Pods(*count)),
    };
    counts.iter().map(part).collect()
}

/// What the user asked for.
#[derive(Debug, Clone)]
pub struct Request {
    pub measures: Vec<Measure>,
    pub against_upstream: bool,
    /// Whose turns are taken; the others' are left for another run.
    pub only: Option<Software>,
    pub repeat: u32,
    /// `all` asks for them too ([`Request::has_110`]).
    pub pods_110: bool,
    /// With how many Services; [`services::COUNTS`], but for a trial.
    pub services: Vec<usize>,
    /// Forget samples of an earlier run.
    pub fresh: bool,
    pub out: Option<PathBuf>,
}

impl Request {
    /// Whether the first round has 110 pods.
    fn has_110(&self) -> bool {
        self.pods_110 || self.measures.contains(&Measure::All)
    }

    /// What is said of them, if a measure is asked for that could have them.
    fn about_110(&self, wanted: &[Measure]) -> Option<&'static str> {
        let could = |measure: &Measure| parts(*measure, true) != parts(*measure, false);
        if !wanted.iter().any(could) {
            None
        } else if self.has_110() {
            Some("110 pods: in the first round only, one sample a side")
        } else {
            Some("110 pods are not measured: --pods-110 or `all` asks for them")
        }
    }
}

/// Of every VM that is measured: enough that neither software is short of anything.
const SIZE: Size = Size {
    memory_mib: 4096,
    cpus: 2,
    max_pods: 130,
};

/// Where the rig's results are kept.
fn results() -> Result<PathBuf> {
    Ok(artefacts::workspace()?.join("qemu-tests/results"))
}

pub fn run(dirs: &Dirs, request: &Request) -> Result<()> {
    let wanted = wanted(&request.measures);
    if wanted == [Measure::Sizes] {
        return sizes();
    }
    let path = match &request.out {
        Some(path) => path.clone(),
        None => results()?.join("bench.json"),
    };
    services::check(&request.services)?;
    let artefacts = prepare(request)?;
    let mut store = Store::open(&path, store::build_of(&artefacts, SIZE)?, request.fresh)?;
    let mut failures = Vec::new();
    for (repetition, software) in order(request) {
        let pods_110 = request.has_110() && repetition == 1;
        let mut take = |measures: &[Measure]| {
            let missing: Vec<Part> = measures
                .iter()
                .filter(|measure| wanted.contains(measure))
                .flat_map(|measure| parts(*measure, pods_110))
                .filter(|part| !store.has(*part, software, repetition))
                .collect();
            let Some(&first) = missing.first() else {
                return;
            };
            println!(
                "\n== {} no. {repetition}: {}",
                software.name(),
                list(&missing)
            );
            let mut turn = Turn {
                software,
                repetition,
                open: missing.clone(),
                failures: Vec::new(),
            };
            let result = store::Clock::start().and_then(|clock| {
                let side = (software, repetition);
                let searched = (first.measure == Measure::Ram)
                    .then(|| ram::figures(dirs, &artefacts, side, &mut store));
                let mut record = |part: Part, figures: Result<Figures>| {
                    let sample = figures.and_then(|figures| {
                        clock.sample(part.measure, software, repetition, figures)
                    });
                    match sample {
                        Ok(sample) => {
                            store.add(sample)?;
                            turn.settle(part);
                        }
                        Err(error) => turn.failed(&[part], &error),
                    }
                    Ok(())
                };
                if let Some(figures) = searched {
                    return record(first, figures);
                }
                match (first.measure, first.with) {
                    (Measure::Split, _) => {
                        record(first, session::split(dirs, &artefacts, software))
                    }
                    (Measure::Metrics, Some(Number::Pods(pods))) => {
                        record(first, session::scraped(dirs, &artefacts, software, pods))
                    }
                    _ => {
                        let plan = session::Plan {
                            software,
                            parts: missing,
                        };
                        session::run(dirs, &artefacts, &plan, &mut record)
                    }
                }
            });
            failures.extend(turn.end(result));
        };
        for measures in [
            &Measure::IN_VM[..],
            &[Measure::Split],
            &[Measure::Metrics],
            &[Measure::Ram],
        ] {
            take(measures);
        }
    }
    failures.extend(all_services(dirs, &artefacts, request, &wanted, &mut store));
    print!("{}", table::table(store.samples(), &wanted));
    if let Some(words) = request.about_110(&wanted) {
        println!("\n{words}");
    }
    if request.services != services::COUNTS {
        println!(
            "\nA trial with {:?} Services, not the measure",
            request.services
        );
    }
    println!("\n{}", store.news());
    println!("Samples: {}", store.path.display());
    if wanted.contains(&Measure::Sizes)
        && let Err(error) = sizes()
    {
        failures.push(format!("sizes: {error:#}"));
    }
    if !failures.is_empty() {
        bail!("could not be taken:\n{}", failures.join("\n"));
    }
    Ok(())
}

/// Both proxies natively and both nodes' software in VMs, as often as asked for, over Services that are made once. Returns what failed.
fn all_services(
    dirs: &Dirs,
    artefacts: &Artefacts,
    request: &Request,
    wanted: &[Measure],
    store: &mut Store,
) -> Vec<String> {
    let mut turns = services::turns(wanted, &request.services, &order(request));
    turns.retain(|turn| !store.has(turn.part, turn.software, turn.repetition));
    if turns.is_empty() {
        return Vec::new();
    }
    println!("\n== services, {} turns", turns.len());
    let mut open = turns.clone();
    let mut failures = Vec::new();
    let mut failed = |turn: services::Turn, error: &anyhow::Error| {
        let line = format!("{turn}: {error:#}");
        println!("failed: {line}");
        failures.push(line);
    };
    let mut record = |turn: services::Turn, clock: &store::Clock, figures: Result<Figures>| {
        open.retain(|left| *left != turn);
        let sample = figures.and_then(|figures| {
            clock.sample(turn.part.measure, turn.software, turn.repetition, figures)
        });
        match sample {
            Ok(sample) => store.add(sample),
            Err(error) => {
                failed(turn, &error);
                Ok(())
            }
        }
    };
    if let Err(error) = services::run(dirs, artefacts, &turns, &mut record) {
        open.into_iter().for_each(|turn| failed(turn, &error));
    }
    failures
}

/// One machine's turn, and what has become of its parts.
struct Turn {
    software: Software,
    repetition: u32,
    /// Neither taken nor failed yet.
    open: Vec<Part>,
    failures: Vec<String>,
}

impl Turn {
    fn settle(&mut self, part: Part) {
        self.open.retain(|open| *open != part);
    }

    fn failed(&mut self, parts: &[Part], error: &anyhow::Error) {
        let line = format!(
            "{} of {}, no. {}: {error:#}",
            list(parts),
            self.software.name(),
            self.repetition
        );
        println!("failed: {line}");
        self.failures.push(line);
        for part in parts {
            self.settle(*part);
        }
    }

    /// An error that ends a turn (a boot, a wave of pods) is the failure of everything that would have come after it.
    fn end(mut self, result: Result<()>) -> Vec<String> {
        if let Err(error) = result {
            let open = self.open.clone();
            self.failed(&open, &error);
        }
        self.failures
    }
}

fn list(parts: &[Part]) -> String {
    let names: Vec<String> = parts.iter().map(Part::to_string).collect();
    names.join(", ")
}

/// What is measured, from what was asked for.
fn wanted(measures: &[Measure]) -> Vec<Measure> {
    let mut wanted: Vec<Measure> = measures.iter().flat_map(|asked| meant(*asked)).collect();
    wanted.sort();
    wanted.dedup();
    wanted
}

/// The names of several measures, and of one by another name.
fn meant(asked: Measure) -> Vec<Measure> {
    match asked {
        Measure::All => {
            let all = Measure::value_variants().iter().copied();
            all.filter(|measure| *measure != Measure::All)
                .flat_map(meant)
                .collect()
        }
        Measure::Services => vec![Measure::Services, Measure::ServicesVm],
        Measure::ServicesNative => vec![Measure::Services],
        one => vec![one],
    }
}

/// Kedge first in odd repetitions, upstream first in even ones.
fn order(request: &Request) -> Vec<(u32, Software)> {
    let mut order = Vec::new();
    for repetition in 1..=request.repeat {
        let mut turn = vec![Software::Kedge];
        if request.against_upstream {
            turn.push(Software::Upstream);
        }
        if repetition % 2 == 0 {
            turn.reverse();
        }
        turn.retain(|software| request.only.is_none_or(|only| only == *software));
        order.extend(turn.into_iter().map(|software| (repetition, software)));
    }
    order
}

fn prepare(request: &Request) -> Result<Artefacts> {
    let progress = Progress::new(artefacts::steps());
    deps::ensure(deps::BENCH_NEEDS, &|text| progress.say(text))?;
    let mut artefacts = artefacts::build(Profile::Release, &progress)?;
    if request.against_upstream {
        progress.add(twin::steps());
        twin::ensure(&mut artefacts, &progress)?;
    }
    Ok(artefacts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    fn request(against_upstream: bool, repeat: u32) -> Request {
        Request {
            measures: vec![Measure::All],
            against_upstream,
            only: None,
            repeat,
            pods_110: false,
            services: services::COUNTS.to_vec(),
            fresh: false,
            out: None,
        }
    }

    #[test]
    fn the_order_alternates_and_reverses() {
        use Software::{Kedge, Upstream};
        assert_eq!(
            order(&request(true, 2)),
            [(1, Kedge), (1, Upstream), (2, Upstream), (2, Kedge)]
        );
        assert_eq!(order(&request(false, 2)), [(1, Kedge), (2, Kedge)]);
        let one_side = Request {
            only: Some(Upstream),
            ..request(true, 2)
        };
        assert_eq!(order(&one_side), [(1, Upstream), (2, Upstream)]);
    }

    #[test]
    fn all_is_every_measure_but_itself() {
        let all = wanted(&[Measure::All]);
        assert_eq!(all.len(), Measure::value_variants().len() - 2);
        assert!(!all.contains(&Measure::All) && !all.contains(&Measure::ServicesNative));
        assert_eq!(
            wanted(&[Measure::Idle, Measure::Boot, Measure::Idle]),
            [Measure::Boot, Measure::Idle]
        );
    }

    #[test]
    fn services_are_both_kinds_unless_one_is_asked_for() {
        use Measure::{Services, ServicesNative, ServicesVm};
        assert_eq!(wanted(&[Services]), [Services, ServicesVm]);
        assert_eq!(wanted(&[ServicesVm]), [ServicesVm]);
        assert_eq!(wanted(&[ServicesNative]), [Services]);
        // The name is that of the samples' files and of the command line.
        assert_eq!(ServicesVm.to_string(), "services-vm");
        assert_eq!(serde_json::to_value(ServicesVm).unwrap(), "services-vm");
    }

    #[test]
    fn figures_begin_with_what_their_part_has() {
        let prefix = |measure, with| Part { measure, with }.prefix();
        let services = Some(Number::Services(1_000));
        assert_eq!(prefix(Measure::Services, services), " 1000 Services: ");
        assert_eq!(
            prefix(Measure::ServicesVm, services),
            "in a VM:  1000 Services: "
        );
        assert_eq!(prefix(Measure::Idle, Some(Number::Pods(30))), " 30 pods: ");
        assert_eq!(prefix(Measure::Boot, None), "");
    }

    #[test]
    fn measures_with_windows_have_one_part_each() {
        let names = |measure, pods_110| list(&parts(measure, pods_110));
        assert_eq!(
            names(Measure::Memory, true),
            "memory with 0 pods, memory with 30 pods, memory with 110 pods"
        );
        assert_eq!(
            names(Measure::Idle, false),
            "idle with 0 pods, idle with 30 pods"
        );
        assert_eq!(names(Measure::Metrics, true), "metrics with 110 pods");
        assert_eq!(names(Measure::Boot, true), "boot");
    }

    #[test]
    fn all_has_110_pods_and_other_runs_say_whether_they_do() {
        let all = request(true, 3);
        assert!(all.has_110());
        let said = |measure, pods_110| {
            let request = Request {
                measures: vec![measure],
                pods_110,
                ..request(true, 3)
            };
            request.about_110(&wanted(&request.measures))
        };
        assert!(said(Measure::All, false).unwrap().contains("first round"));
        assert!(said(Measure::Idle, true).unwrap().contains("first round"));
        assert!(said(Measure::Idle, false).unwrap().contains("not measured"));
        assert_eq!(said(Measure::Boot, true), None);
    }

    #[test]
    fn an_error_that_ends_a_turn_names_all_that_was_not_taken() {
        let turn = |result| {
            let mut turn = Turn {
                software: Software::Kedge,
                repetition: 2,
                open: [Measure::Boot, Measure::Pods, Measure::Idle, Measure::Flash]
                    .map(Part::from)
                    .to_vec(),
                failures: Vec::new(),
            };
            turn.settle(Measure::Boot.into());
            turn.failed(&[Measure::Pods.into()], &anyhow!("slow"));
            turn.end(result)
        };
        assert_eq!(
            turn(Err(anyhow!("not Ready"))),
            [
                "pods of kedge, no. 2: slow",
                "idle, flash of kedge, no. 2: not Ready"
            ]
        );
        assert_eq!(turn(Ok(())), ["pods of kedge, no. 2: slow"]);
    }
}
