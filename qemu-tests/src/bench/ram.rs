//! The smallest memory with which a machine becomes a Ready node and keeps ten pods.
//!
//! In: a software. Out: MiB. A search by halves whose every look is a fresh machine: boot, ten pods, one minute in which the node stays Ready and
//! every pod Running without a restart. The result is looked at once more, for ten minutes; if it does not last, the next size is.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::lab::{Lab, NODE};
use super::store::Figures;
use super::{SIZE, pods};
use crate::api::{self, text_at};
use crate::artefacts::Artefacts;
use crate::cluster::Size;
use crate::dirs::Dirs;
use crate::twin::Software;
use crate::wait;

const PODS: usize = 10;
const STEP: u32 = 16;
const LOW: u32 = 96;
const HIGH: u32 = 736;
const HOLD: Duration = Duration::from_secs(60);
const LONG_HOLD: Duration = Duration::from_secs(600);

pub fn figures(dirs: &Dirs, artefacts: &Artefacts, software: Software) -> Result<Figures> {
    let look = |memory_mib: u32, hold: Duration| -> bool {
        let size = Size { memory_mib, ..SIZE };
        // Whatever goes wrong in so small a machine is an answer; the words are kept for the reader.
        match keeps(dirs, artefacts, software, size, hold) {
            Ok(()) => {
                println!("{memory_mib} MiB: yes");
                true
            }
            Err(error) => {
                let text = format!("{error:#}");
                println!(
                    "{memory_mib} MiB: no: {}",
                    text.lines().next().unwrap_or("")
                );
                false
            }
        }
    };
    if !look(HIGH, HOLD) {
        bail!("{HIGH} MiB are not enough: something else is wrong");
    }
    let mut found = smallest(LOW, HIGH, STEP, |memory| look(memory, HOLD));
    while !look(found, LONG_HOLD) {
        found += STEP;
        if found > HIGH {
            bail!("no size lasts {} minutes", LONG_HOLD.as_secs() / 60);
        }
    }
    Ok(Figures::from([(
        format!("smallest memory that keeps {PODS} pods, MiB"),
        f64::from(found),
    )]))
}

/// The smallest multiple of `step` above `low` that works, if `high` does and more never hurts. `low` itself is not looked at.
fn smallest(low: u32, high: u32, step: u32, mut works: impl FnMut(u32) -> bool) -> u32 {
    let (mut bad, mut good) = (low / step, high / step);
    while good - bad > 1 {
        let middle = u32::midpoint(bad, good);
        if works(middle * step) {
            good = middle;
        } else {
            bad = middle;
        }
    }
    good * step
}

fn keeps(
    dirs: &Dirs,
    artefacts: &Artefacts,
    software: Software,
    size: Size,
    hold: Duration,
) -> Result<()> {
    let lab = Lab::new(dirs, artefacts, software, size)?;
    lab.boot()?;
    let watch = pods::watch(&lab)?;
    pods::waves(&lab, &watch, 0, PODS)?;
    let boot = text_at(&lab.cluster.node(NODE)?, "/status/nodeInfo/bootID").to_owned();
    wait::throughout("node Ready and pods Running", hold, || {
        wait::seen(still_well(&lab, &boot))
    })
}

fn still_well(lab: &Lab, boot: &str) -> Result<()> {
    let node = lab.cluster.node(NODE)?;
    if api::condition(&node, "Ready") != "True" {
        bail!("the node is not Ready");
    }
    if text_at(&node, "/status/nodeInfo/bootID") != boot {
        bail!("the machine has rebooted");
    }
    let pods = lab.cluster.api.items("/api/v1/namespaces/default/pods")?;
    let running = pods.iter().filter(|pod| {
        let restarts = pod.pointer("/status/containerStatuses/0/restartCount");
        text_at(pod, "/status/phase") == "Running"
            && restarts.and_then(serde_json::Value::as_u64) == Some(0)
    });
    let count = running.count();
    (count == PODS)
        .then_some(())
        .with_context(|| format!("{count} of {PODS} pods are well"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_finds_the_edge_and_looks_seldom() {
        for edge in [112, 128, 400, 736] {
            let mut looks = 0;
            let found = smallest(96, 736, 16, |memory| {
                looks += 1;
                memory >= edge
            });
            assert_eq!(found, edge);
            assert!(looks <= 6, "{looks}");
        }
    }
}
