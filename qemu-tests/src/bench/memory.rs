//! Memory by process, and what reaches the disk of a node that does nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::lab::Lab;
use super::pods;
use super::store::{Figures, with_pods};
use super::usage::{Usage, number};

const FLASH_WINDOW: Duration = Duration::from_secs(20 * 60);

pub fn figures(pods: usize, groups: &BTreeMap<&str, Usage>, sample: &Value) -> Figures {
    let mib = |kib: u64| kib as f64 / 1024.0;
    let mut figures: Figures = groups
        .iter()
        .map(|(label, usage)| {
            (
                format!("{}PSS of {label}, MiB", with_pods(pods)),
                mib(usage.pss_kib),
            )
        })
        .collect();
    figures.insert(
        format!("{}available to pods, MiB", with_pods(pods)),
        mib(number(sample, "memoryAvailableKib")),
    );
    figures
}

/// Bytes that reach the disk in 20 minutes, with exactly `count` pods before and after.
pub fn flash(lab: &Lab, count: usize) -> Result<Figures> {
    pods::expect(lab, count)?;
    let before = lab.disk_written()?;
    std::thread::sleep(FLASH_WINDOW);
    let written = lab.disk_written()?.saturating_sub(before);
    pods::expect(lab, count)?;
    Ok(Figures::from([(
        format!("{}written in 20 idle minutes, KiB", with_pods(count)),
        written as f64 / 1024.0,
    )]))
}
