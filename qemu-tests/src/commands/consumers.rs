//! `scrape` and `compare-metrics`: a cluster that runs or one for the occasion, the programs, the run, the exit code.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use kedge_qemu_tests::cluster::{Cluster, NODE_MEMORY_MIB};
use kedge_qemu_tests::consumers::{self, twins};
use kedge_qemu_tests::progress::Progress;
use kedge_qemu_tests::stories::Stage;
use kedge_qemu_tests::twin::Mix;
use kedge_qemu_tests::upstream::{self, Built};

use super::ground::{Ground, Wanted};
use crate::{CompareArgs, ScrapeArgs};

/// Room for upstream's software beside the compared pods.
const MIXED_MEMORY_MIB: u32 = 1024;

pub fn scrape(args: &ScrapeArgs) -> Result<ExitCode> {
    let wanted = Wanted {
        software: Mix::Kedge,
        nodes: 3,
        memory_mib: NODE_MEMORY_MIB,
    };
    let time = Duration::from_secs(args.minutes * 60);
    on(&wanted, upstream::CONSUMERS, |stage, programs| {
        consumers::run(stage, programs, time).map(|()| true)
    })
}

pub fn compare(args: &CompareArgs) -> Result<ExitCode> {
    let wanted = Wanted {
        software: Mix::Mixed,
        nodes: 2,
        memory_mib: MIXED_MEMORY_MIB,
    };
    on(&wanted, &["promtool"], |stage, programs| {
        twins::run(stage, programs, args.record, args.all)
    })
}

fn on(
    wanted: &Wanted,
    programs: &[&str],
    work: impl FnOnce(&Stage, &Built) -> Result<bool>,
) -> Result<ExitCode> {
    let progress = Progress::new(programs.len());
    let build = |_: &_| consumers::programs(programs, &progress);
    let ground = Ground::find(wanted, &progress, build, |_, _, _| Ok(None))?;
    drop(progress);
    let stage = Stage::new(Cluster::attach(&ground.cluster.dirs)?);
    let result = work(&stage, &ground.parts);
    stage.end_story(true);
    ground.leave()?;
    Ok(match result? {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
