//! `conformance` and `critest`: a cluster that runs or one for the occasion, the parts, the run, the exit code.

use std::process::ExitCode;

use anyhow::Result;
use kedge_qemu_tests::artefacts::Artefacts;
use kedge_qemu_tests::baked;
use kedge_qemu_tests::conformance::catalogue::Catalogue;
use kedge_qemu_tests::conformance::parts::{self, Parts};
use kedge_qemu_tests::conformance::{self, ci, plan};
use kedge_qemu_tests::critest;
use kedge_qemu_tests::progress::Progress;
use kedge_qemu_tests::twin::Mix;

use super::ground::{Ground, Wanted};
use crate::{ConformanceArgs, CritestArgs, NodeSoftware};

pub fn conformance(args: ConformanceArgs) -> Result<ExitCode> {
    let selection = plan::Selection {
        classes: args
            .class
            .as_deref()
            .map(plan::classes)
            .transpose()?
            .unwrap_or_default(),
        focus: args.focus,
        node_conformance: args.node_conformance,
        shard: args.shard,
        names: if args.ci { ci::NAMES } else { &[] },
    };
    if args.list {
        return conformance::list(&selection).map(|()| ExitCode::SUCCESS);
    }
    let progress = Progress::new(0);
    if args.rewrite_list {
        progress.add(parts::suite_steps());
        let e2e = parts::suite(&progress)?.0;
        return conformance::rewrite(&e2e).map(|()| ExitCode::SUCCESS);
    }
    // Before building for minutes: does this selection mean anything?
    plan::select(&Catalogue::committed()?, &selection)?;
    let (name, mix) = match args.node_software {
        NodeSoftware::Kedge => ("kedge", Mix::Kedge),
        NodeSoftware::Upstream => ("upstream", Mix::Upstream),
    };
    let ground = find(mix, 3, &progress)?;
    let options = conformance::Options {
        selection,
        resume: args.resume || args.again,
        again: args.again,
        procs: args.procs.into(),
        node_software: name.to_owned(),
        baseline: args.baseline,
        minutes: args.minutes.or(args.ci.then_some(ci::MINUTES)),
    };
    let counts = conformance::run(&ground.cluster, &ground.parts, &options, &progress)?;
    ground.leave()?;
    Ok(code(counts.good()))
}

pub fn critest(args: CritestArgs) -> Result<ExitCode> {
    let progress = Progress::new(0);
    // One node runs the suite; others would only take its processor time.
    let ground = find(Mix::Kedge, 1, &progress)?;
    let options = critest::Options {
        node: args.node,
        focus: args.focus,
    };
    let good = critest::run(&ground.cluster, &ground.parts, &options, &progress)?;
    ground.leave()?;
    Ok(code(good))
}

fn find(software: Mix, nodes: usize, progress: &Progress) -> Result<Ground<Parts>> {
    let wanted = Wanted {
        software,
        nodes,
        memory_mib: conformance::MEMORY_MIB,
    };
    progress.add(parts::steps());
    let build = |artefacts: &Artefacts| parts::build(artefacts, progress);
    Ground::find(&wanted, progress, build, |dirs, artefacts, parts| {
        progress.add(baked::STEPS);
        baked::ensure(dirs, artefacts, &parts.images, progress).map(Some)
    })
}

fn code(good: bool) -> ExitCode {
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
