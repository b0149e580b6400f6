//! The smallest memory with which a machine becomes a Ready node and keeps ten pods.
//!
//! In: a software. Out: MiB. A search by halves whose every look is a fresh machine: boot, ten pods, one minute in which the node stays Ready and
//! every pod Running without a restart. The result is looked at once more, for ten minutes; if it does not last, the next size is.
//!
//! What a look has answered is kept with the samples at once: a search that was cut off goes on where it was.
//!
//! A machine that takes minutes to become Ready, or to run a pod, has too little.
//!
//! From the machine's launch on whatever goes wrong is an answer, "no"; since one look of ours may go wrong too, a "no" is one when it was given twice.
//! What fails before the launch (a control plane, QEMU) is an error.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::lab::{Lab, NODE};
use super::store::{Figures, Store};
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
/// Six times what a machine with memory enough takes: one that pages its programs in and out all the time is no node.
const READY: Duration = Duration::from_secs(120);
const RUNNING: Duration = Duration::from_secs(240);
const HOLD: Duration = Duration::from_secs(60);
const LONG_HOLD: Duration = Duration::from_secs(600);

/// Whether a machine keeps the pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    pub software: Software,
    pub repetition: u32,
    pub memory_mib: u32,
    pub seconds: u64,
}

/// The search of one side in one round.
pub fn figures(
    dirs: &Dirs,
    artefacts: &Artefacts,
    (software, repetition): (Software, u32),
    store: &mut Store,
) -> Result<Figures> {
    let mut look = |memory_mib: u32, hold: Duration| -> Result<bool> {
        let question = Question {
            software,
            repetition,
            memory_mib,
            seconds: hold.as_secs(),
        };
        if let Some(kept) = store.known(&question) {
            let answer = if kept { "yes" } else { "no" };
            println!(
                "{memory_mib} MiB for {} s: {answer}, as seen before",
                question.seconds
            );
            return Ok(kept);
        }
        let size = Size { memory_mib, ..SIZE };
        let kept = confirmed(|| {
            let kept = keeps(dirs, artefacts, software, size, hold)
                .with_context(|| format!("a machine of {memory_mib} MiB"))?;
            match &kept {
                Ok(()) => println!("{memory_mib} MiB: yes"),
                // The words are kept for the reader.
                Err(error) => {
                    let text = format!("{error:#}");
                    println!(
                        "{memory_mib} MiB: no: {}",
                        text.lines().next().unwrap_or("")
                    );
                }
            }
            Ok(kept.is_ok())
        })?;
        store.answered(question, kept)?;
        Ok(kept)
    };
    if !look(HIGH, HOLD)? {
        bail!("{HIGH} MiB are not enough: something else is wrong");
    }
    let mut found = smallest(LOW, HIGH, STEP, |memory| look(memory, HOLD))?;
    while !look(found, LONG_HOLD)? {
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

/// A "no" is asked once more.
fn confirmed(mut look: impl FnMut() -> Result<bool>) -> Result<bool> {
    Ok(look()? || look()?)
}

/// The smallest multiple of `step` above `low` that works, if `high` does and more never hurts. `low` itself is not looked at.
fn smallest(
    low: u32,
    high: u32,
    step: u32,
    mut works: impl FnMut(u32) -> Result<bool>,
) -> Result<u32> {
    let (mut bad, mut good) = (low / step, high / step);
    while good - bad > 1 {
        let middle = u32::midpoint(bad, good);
        if works(middle * step)? {
            good = middle;
        } else {
            bad = middle;
        }
    }
    Ok(good * step)
}

/// The outer error is the host's, the inner one the machine's answer.
fn keeps(
    dirs: &Dirs,
    artefacts: &Artefacts,
    software: Software,
    size: Size,
    hold: Duration,
) -> Result<Result<()>> {
    let lab = Lab::new(dirs, artefacts, software, size)?;
    lab.launch()?;
    Ok(holds(&lab, hold))
}

fn holds(lab: &Lab, hold: Duration) -> Result<()> {
    lab.ready_within(READY)?;
    let watch = pods::watch(lab)?;
    pods::waves_within(lab, &watch, 0, PODS, RUNNING)?;
    let boot = text_at(&lab.cluster.node(NODE)?, "/status/nodeInfo/bootID").to_owned();
    wait::throughout("node Ready and pods Running", hold, || {
        wait::seen(still_well(lab, &boot))
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
                Ok(memory >= edge)
            })
            .unwrap();
            assert_eq!(found, edge);
            assert!(looks <= 6, "{looks}");
        }
    }

    #[test]
    fn an_error_of_the_host_ends_the_search() {
        assert!(smallest(96, 736, 16, |_| bail!("no control plane")).is_err());
    }

    #[test]
    fn a_no_counts_when_it_was_given_twice() {
        let run = |answers: &[bool]| {
            let mut left = answers.iter();
            let result = confirmed(|| Ok(*left.next().unwrap()));
            (result.unwrap(), left.len())
        };
        assert_eq!(run(&[true, false]), (true, 1));
        assert_eq!(run(&[false, true]), (true, 0));
        assert_eq!(run(&[false, false]), (false, 0));
        assert!(confirmed(|| bail!("no control plane")).is_err());
    }
}
