//! One machine, all measures of one repetition, in an order that lets each find what it needs: boot, no pods, pods one by one, 30 pods, 110.
//!
//! In: a [`Plan`]. Out: each part's figures, handed over as soon as they are there: what a kill or a failure later on takes is only what had not been
//! measured. A part that fails leaves the others their turn, and no pods: the node is cleared after measures with pods of their own, so that 30 and
//! 110 pods always come by waves of ten, whether or not `pods` with its burst was measured before.

use anyhow::{Result, anyhow};

use super::store::Figures;
use super::{Measure, Number, Part, SIZE, boot, idle, lab, memory, metrics, network, pods, split};
use crate::artefacts::Artefacts;
use crate::dirs::Dirs;
use crate::progress::Progress;
use crate::twin::{self, Software};

pub struct Plan {
    pub software: Software,
    pub parts: Vec<Part>,
}

impl Plan {
    fn wants(&self, measure: Measure) -> bool {
        self.parts.iter().any(|part| part.measure == measure)
    }

    /// Whether anything is looked at with so many pods.
    fn needs(&self, count: usize) -> bool {
        let there = |part: &Part| part.with == Some(Number::Pods(count));
        self.parts.iter().any(there) || count == PODS && self.wants(Measure::Flash)
    }

    /// What is read off one window with so many pods.
    fn window(&self, count: usize) -> Vec<Part> {
        let windows = self.parts.iter().copied();
        windows
            .filter(|part| part.with == Some(Number::Pods(count)))
            .filter(|part| matches!(part.measure, Measure::Memory | Measure::Idle))
            .collect()
    }
}

/// How many pods there are in the second half.
pub const PODS: usize = 30;
pub const MORE_PODS: usize = 110;

/// A machine of its own: the proxy is in nobody else's way.
pub fn split(dirs: &Dirs, artefacts: &Artefacts, software: Software) -> Result<Figures> {
    let mut artefacts = artefacts.clone();
    artefacts.trace = Some(split::build()?);
    if software == Software::Upstream {
        twin::ensure(&mut artefacts, &Progress::new(twin::steps()))?;
    }
    let lab = lab::Lab::new(dirs, &artefacts, software, SIZE)?;
    lab.boot()?;
    split::figures(&lab)
}

/// A machine of its own: who scrapes must not disturb other measures.
pub fn scraped(
    dirs: &Dirs,
    artefacts: &Artefacts,
    software: Software,
    count: usize,
) -> Result<Figures> {
    let lab = lab::Lab::new(dirs, artefacts, software, SIZE)?;
    lab.boot()?;
    let watch = pods::watch(&lab)?;
    pods::waves(&lab, &watch, 0, count)?;
    metrics::figures(&lab, count)
}

/// Takes a part's figures, or why there are none.
pub type Record<'a> = dyn FnMut(Part, Result<Figures>) -> Result<()> + 'a;

pub fn run(dirs: &Dirs, artefacts: &Artefacts, plan: &Plan, record: &mut Record<'_>) -> Result<()> {
    let lab = lab::Lab::new(dirs, artefacts, plan.software, SIZE)?;
    let first = lab.boot()?;
    if plan.wants(Measure::Boot) {
        record(Measure::Boot.into(), boot::figures(&lab, first))?;
    }
    window(&lab, plan, 0, record)?;
    if plan.wants(Measure::Network) {
        record(Measure::Network.into(), network::figures(&lab))?;
        pods::clear(&lab)?;
    }
    let counts = [PODS, MORE_PODS].map(|count| plan.needs(count).then_some(count));
    if !plan.wants(Measure::Pods) && counts == [None, None] {
        return Ok(());
    }
    let watch = pods::watch(&lab)?;
    if plan.wants(Measure::Pods) {
        record(Measure::Pods.into(), pods::figures(&lab, &watch, PODS))?;
        pods::clear(&lab)?;
    }
    let mut there = 0;
    for count in counts.into_iter().flatten() {
        pods::waves(&lab, &watch, there, count)?;
        there = count;
        window(&lab, plan, count, record)?;
        if count == PODS && plan.wants(Measure::Flash) {
            record(Measure::Flash.into(), memory::flash(&lab, PODS))?;
        }
    }
    Ok(())
}

/// Nothing happens for a while: both measures' figures.
fn window(lab: &lab::Lab, plan: &Plan, count: usize, record: &mut Record<'_>) -> Result<()> {
    let parts = plan.window(count);
    if parts.is_empty() {
        return Ok(());
    }
    let window = idle::window(lab, count);
    for part in parts {
        let figures = match &window {
            Ok(window) if part.measure == Measure::Memory => Ok(window.memory.clone()),
            Ok(window) => Ok(window.idle.clone()),
            Err(error) => Err(anyhow!("{error:#}")),
        };
        record(part, figures)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_goes_on_takes_the_missing_windows_only() {
        let at = |measure, count| Part {
            measure,
            with: Some(Number::Pods(count)),
        };
        let plan = Plan {
            software: Software::Kedge,
            parts: vec![at(Measure::Idle, PODS), at(Measure::Memory, MORE_PODS)],
        };
        assert!(plan.window(0).is_empty());
        assert_eq!(plan.window(PODS), [at(Measure::Idle, PODS)]);
        assert!(!plan.needs(0) && plan.needs(PODS) && plan.needs(MORE_PODS));
        let flash = Plan {
            parts: vec![Measure::Flash.into()],
            ..plan
        };
        assert!(flash.needs(PODS) && !flash.needs(MORE_PODS));
        assert!(flash.window(PODS).is_empty());
    }
}
