//! A window in which nothing happens: what the node's software holds in memory, and what it does per minute all the same.
//!
//! In: a lab at rest. Out: figures for `memory` and `idle`, named after the number of pods ([`super::Part`]).

use std::time::Duration;

use anyhow::Result;

use super::lab::Lab;
use super::store::{Figures, with_pods};
use super::usage::{by_group, seconds, steady};
use super::{memory, pods};

/// Rates need a window; memory needs the dust to settle.
const SETTLE: Duration = Duration::from_secs(45);
const WINDOW: Duration = Duration::from_secs(60);

pub struct Window {
    pub memory: Figures,
    pub idle: Figures,
}

/// Fails unless exactly `count` pods run before and after.
pub fn window(lab: &Lab, count: usize) -> Result<Window> {
    std::thread::sleep(SETTLE);
    pods::expect(lab, count)?;
    let written = lab.disk_written()?;
    let before = lab.sample()?;
    let (sent, received) = lab.api_bytes()?;
    std::thread::sleep(WINDOW);
    let (sent_after, received_after) = lab.api_bytes()?;
    let after = lab.sample()?;
    pods::expect(lab, count)?;
    steady(&before, &after)?;
    let minutes = seconds(&before, &after) / 60.0;
    let groups = by_group(&before, &after);
    let memory = memory::figures(count, &groups, &after);
    let mut idle = Figures::new();
    let mut add = |name: String, value: f64| {
        idle.insert(format!("{}{name}", with_pods(count)), value);
    };
    for (label, usage) in &groups {
        add(
            format!("CPU of {label}, s/min"),
            usage.cpu_seconds / minutes,
        );
        add(
            format!("CPU of ended children of {label}, s/min"),
            usage.child_seconds / minutes,
        );
        add(
            format!("context switches of {label}, 1/min"),
            usage.switches as f64 / minutes,
        );
    }
    let kib = |bytes: u64| bytes as f64 / 1024.0;
    // The window between the two readings of counters is a little shorter than the probe's.
    let minute = WINDOW.as_secs_f64() / 60.0;
    add(
        "sent to the API server, KiB/min".into(),
        kib(sent_after - sent) / minute,
    );
    add(
        "received from the API server, KiB/min".into(),
        kib(received_after - received) / minute,
    );
    add(
        "connections to the API server".into(),
        lab.api_connections()? as f64,
    );
    add(
        "written to disk, KiB/min".into(),
        kib(lab.disk_written()?.saturating_sub(written)) / minutes,
    );
    Ok(Window { memory, idle })
}
