//! Services at scale: the proxies natively, and the whole node in a VM, one after the other over the same objects in one control plane.
//!
//! In: turns ([`turns`]), by growing number of Services. Out: each turn's figures as soon as they are there. With a number of Services first
//! all proxies are measured [`native`]ly, where emulation slows nothing, then fresh machines ([`vm`]), to which that many Services are there already when
//! they boot. Objects are made once ([`objects`]): that takes longer than measuring a proxy with them.
//!
//! The judge ([`judge`]) is a TCP connection through a ClusterIP, the same for all: no log, no metric, no look into nf_tables, which would disturb.

mod judge;
mod native;
mod objects;
mod vm;

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context, Result, anyhow, ensure};

use super::store::{Clock, Figures};
use super::{Measure, Number, Part, SIZE, lab};
use crate::artefacts::Artefacts;
use crate::cluster::Cluster;
use crate::dirs::Dirs;
use crate::twin::Software;
use crate::up;
use judge::Judge;

pub const COUNTS: [usize; 2] = [1_000, 10_000];

/// What is measured at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    pub part: Part,
    pub software: Software,
    pub repetition: u32,
    count: usize,
}

impl fmt::Display for Turn {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (part, software) = (self.part, self.software.name());
        write!(out, "{part} of {software}, no. {}", self.repetition)
    }
}

impl Turn {
    /// Whether both are the same measurement with other numbers of Services.
    fn is_like(&self, other: &Self) -> bool {
        let key = |turn: &Self| (turn.part.measure, turn.software, turn.repetition);
        key(self) == key(other)
    }
}

/// Of each number of Services first what is native, then what is in VMs, each in the given order.
pub fn turns(wanted: &[Measure], counts: &[usize], order: &[(u32, Software)]) -> Vec<Turn> {
    let mut turns = Vec::new();
    for &count in counts {
        for measure in [Measure::Services, Measure::ServicesVm] {
            let with = Some(Number::Services(count));
            let part = Part { measure, with };
            let of_part = order.iter().map(|&(repetition, software)| Turn {
                part,
                software,
                repetition,
                count,
            });
            turns.extend(of_part.filter(|_| wanted.contains(&measure)));
        }
    }
    turns
}

/// Numbers that can be measured one after the other over the same objects.
pub fn check(counts: &[usize]) -> Result<()> {
    ensure!(!counts.is_empty(), "no number of Services");
    ensure!(
        counts.is_sorted_by(|one, next| one < next),
        "numbers of Services must grow: {counts:?}"
    );
    let live: BTreeSet<usize> = counts.iter().flat_map(|&n| objects::watched(n)).collect();
    for &count in counts {
        ensure!(
            (objects::FEWEST..=objects::MOST).contains(&count),
            "{count} Services: {} to {} can be measured",
            objects::FEWEST,
            objects::MOST
        );
        ensure!(
            objects::changed(count).all(|number| !live.contains(&number)),
            "{counts:?}: a Service that changes among {count} is one that must not among others"
        );
    }
    Ok(())
}

/// What a turn found, and the clock that started with it.
pub type Record<'a> = &'a mut dyn FnMut(Turn, &Clock, Result<Figures>) -> Result<()>;

/// What failed with few Services is not tried with more, which may take a quarter of an hour to fail as well; the others go on.
pub fn run(dirs: &Dirs, artefacts: &Artefacts, turns: &[Turn], record: Record<'_>) -> Result<()> {
    let software = vm::mix(turns.iter().map(|turn| turn.software));
    let options = up::Options {
        software,
        size: SIZE,
        ..up::Options::new(vm::seats(software), artefacts.accel()?)
    };
    let (cluster, _holder) = lab::control_plane(dirs, artefacts, &options)?;
    let result = measure_all(&cluster, turns, record);
    cluster.client.stop()?;
    result
}

fn measure_all(cluster: &Cluster, turns: &[Turn], record: Record<'_>) -> Result<()> {
    let live: BTreeSet<usize> = turns
        .iter()
        .flat_map(|turn| objects::watched(turn.count))
        .collect();
    Judge::prepare(cluster)?;
    native::prepare(cluster)?;
    let mut made = 0;
    let mut failed: Vec<Turn> = Vec::new();
    for turn in turns {
        let clock = Clock::start()?;
        let figures = match failed.iter().find(|earlier| earlier.is_like(turn)) {
            Some(earlier) => Err(anyhow!("not tried, since {} failed", earlier.part)),
            None => {
                objects::create(&cluster.api, made..turn.count, &live)
                    .with_context(|| format!("make {} Services", turn.count))?;
                made = made.max(turn.count);
                println!("{turn}");
                measure(cluster, *turn)
            }
        };
        if figures.is_err() {
            failed.push(*turn);
        }
        record(*turn, &clock, figures)?;
    }
    Ok(())
}

fn measure(cluster: &Cluster, turn: Turn) -> Result<Figures> {
    let figures = if turn.part.measure == Measure::ServicesVm {
        vm::measure(cluster, turn.software, turn.count)
    } else {
        native::measure(cluster, turn.software, turn.count)
    }?;
    let prefix = turn.part.prefix();
    let all = figures.into_iter();
    Ok(all
        .map(|(name, value)| (format!("{prefix}{name}"), value))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: [(u32, Software); 2] = [(1, Software::Kedge), (1, Software::Upstream)];

    #[test]
    fn machines_come_after_the_native_turns_of_a_number() {
        let both = [Measure::Services, Measure::ServicesVm];
        let shown: Vec<String> = turns(&both, &COUNTS, &ORDER)
            .iter()
            .map(Turn::to_string)
            .collect();
        assert_eq!(
            shown,
            [
                "services with 1000 Services of kedge, no. 1",
                "services with 1000 Services of upstream, no. 1",
                "services-vm with 1000 Services of kedge, no. 1",
                "services-vm with 1000 Services of upstream, no. 1",
                "services with 10000 Services of kedge, no. 1",
                "services with 10000 Services of upstream, no. 1",
                "services-vm with 10000 Services of kedge, no. 1",
                "services-vm with 10000 Services of upstream, no. 1",
            ]
        );
        let one = turns(&[Measure::ServicesVm, Measure::Boot], &COUNTS, &ORDER);
        assert_eq!(one.len(), 4);
        assert!(turns(&[Measure::Boot], &COUNTS, &ORDER).is_empty());
    }

    #[test]
    fn what_failed_with_few_is_the_same_with_more_of_its_own_kind_only() {
        let all = turns(&[Measure::Services, Measure::ServicesVm], &COUNTS, &ORDER);
        let like: Vec<bool> = all.iter().map(|turn| turn.is_like(&all[0])).collect();
        let of_kedge_natively = [true, false, false, false, true, false, false, false];
        assert_eq!(like, of_kedge_natively);
    }

    #[test]
    fn numbers_that_get_in_each_others_way_are_refused() {
        check(&COUNTS).unwrap();
        check(&[50, 200]).unwrap();
        for (counts, words) in [
            (&[][..], "no number"),
            (&[200, 50], "must grow"),
            (&[10], "can be measured"),
            (&[1_000_000], "can be measured"),
            // 60 / 2 + 1 is the first that changes, and the last of 32.
            (&[32, 60], "must not among others"),
        ] {
            let error = check(counts).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
