//! One machine, all measures of one repetition, in an order that lets each find what it needs: boot, no pods, pods one by one, 30 pods.
//!
//! In: a [`Plan`]. Out: each measure's figures, handed over as soon as they are there. A measure that fails leaves the others their turn.

use anyhow::Result;

use super::store::Figures;
use super::{Measure, SIZE, boot, idle, lab, memory, metrics, network, pods, split};
use crate::artefacts::Artefacts;
use crate::dirs::Dirs;
use crate::progress::Progress;
use crate::twin::{self, Software};

pub struct Plan {
    pub software: Software,
    pub measures: Vec<Measure>,
    pub pods_110: bool,
}

impl Plan {
    fn wants(&self, measure: Measure) -> bool {
        self.measures.contains(&measure)
    }
}

/// How many pods there are in the second half.
pub const PODS: usize = 30;
const MORE_PODS: usize = 110;

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

/// How many pods a machine gets that is filled once.
pub fn many(more: bool) -> usize {
    if more { MORE_PODS } else { PODS }
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

pub fn run(
    dirs: &Dirs,
    artefacts: &Artefacts,
    plan: &Plan,
    record: &mut dyn FnMut(Measure, Result<Figures>) -> Result<()>,
) -> Result<()> {
    let lab = lab::Lab::new(dirs, artefacts, plan.software, SIZE)?;
    let first = lab.boot()?;
    if plan.wants(Measure::Boot) {
        record(Measure::Boot, boot::figures(&lab, first))?;
    }
    let windows = plan.wants(Measure::Memory) || plan.wants(Measure::Idle);
    let mut usage = Ok((Figures::new(), Figures::new()));
    let mut window = |count: usize| {
        if let Ok((memory, idle)) = &mut usage
            && let Err(error) = idle::window(&lab, count, memory, idle)
        {
            usage = Err(error);
        }
    };
    if windows {
        window(0);
    }
    if plan.wants(Measure::Network) {
        record(Measure::Network, network::figures(&lab))?;
    }
    let needs_pods = windows || plan.wants(Measure::Flash);
    let watch = if plan.wants(Measure::Pods) || needs_pods {
        Some(pods::watch(&lab)?)
    } else {
        None
    };
    if let Some(watch) = &watch {
        if plan.wants(Measure::Pods) {
            record(Measure::Pods, pods::figures(&lab, watch, PODS))?;
        } else {
            pods::waves(&lab, watch, 0, PODS)?;
        }
    }
    if windows {
        window(PODS);
    }
    if plan.wants(Measure::Flash) {
        record(Measure::Flash, memory::flash(&lab, PODS))?;
    }
    if let Some(watch) = &watch
        && windows
        && plan.pods_110
    {
        pods::waves(&lab, watch, PODS, MORE_PODS)?;
        window(MORE_PODS);
    }
    if windows {
        match usage {
            Ok((memory, idle)) => {
                if plan.wants(Measure::Memory) {
                    record(Measure::Memory, Ok(memory))?;
                }
                if plan.wants(Measure::Idle) {
                    record(Measure::Idle, Ok(idle))?;
                }
            }
            Err(error) => record(Measure::Memory, Err(error))?,
        }
    }
    Ok(())
}
