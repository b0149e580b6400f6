//! `conformance` and `critest`: a cluster that runs or one for the occasion, the parts, the run, the exit code.

use std::process::ExitCode;

use anyhow::Result;
use kedge_qemu_tests::artefacts::{self, Profile};
use kedge_qemu_tests::baked;
use kedge_qemu_tests::cluster::{Cluster, Size};
use kedge_qemu_tests::conformance::catalogue::Catalogue;
use kedge_qemu_tests::conformance::parts::{self, Parts};
use kedge_qemu_tests::conformance::{self, ci, plan};
use kedge_qemu_tests::critest;
use kedge_qemu_tests::dirs::Dirs;
use kedge_qemu_tests::progress::Progress;

use kedge_qemu_tests::supervisor::client::{Client, Holder};
use kedge_qemu_tests::supervisor::ns;
use kedge_qemu_tests::twin::{self, Mix};
use kedge_qemu_tests::up;

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
    let ground = Ground::find(mix, &progress)?;
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
    let ground = Ground::find(Mix::Kedge, &progress)?;
    let options = critest::Options {
        node: args.node,
        focus: args.focus,
    };
    let good = critest::run(&ground.cluster, &ground.parts, &options, &progress)?;
    ground.leave()?;
    Ok(code(good))
}

fn code(good: bool) -> ExitCode {
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// What a suite runs on.
struct Ground {
    cluster: Cluster,
    parts: Parts,
    /// The cluster was brought up for this run, and ends with this process.
    own: Option<Holder>,
}

impl Ground {
    /// The cluster that runs, or a new one of three nodes.
    fn find(software: Mix, progress: &Progress) -> Result<Self> {
        let dirs = Dirs::from_environment()?;
        if Client::new(&dirs).running().is_some() {
            let cluster = Cluster::attach(&dirs)?;
            progress.add(parts::steps());
            let parts = parts::build(&cluster.description.artefacts, progress)?;
            return Ok(Self {
                cluster,
                parts,
                own: None,
            });
        }
        ns::check()?;
        progress.add(artefacts::steps() + parts::steps() + up::STEPS);
        let mut artefacts = artefacts::build(Profile::Story, progress)?;
        if software != Mix::Kedge {
            progress.add(twin::steps());
            twin::ensure(&mut artefacts, progress)?;
        }
        let parts = parts::build(&artefacts, progress)?;
        progress.add(baked::STEPS);
        artefacts.images_on = Some(baked::ensure(&dirs, &artefacts, &parts.images, progress)?);
        let options = up::Options {
            software,
            size: Size {
                memory_mib: conformance::MEMORY_MIB,
                ..Size::default()
            },
            ..up::Options::new(3, artefacts.accel()?)
        };
        let (cluster, holder) = up::control_plane(&dirs, &artefacts, &options, progress)?;
        up::nodes(&cluster, progress)?;
        Ok(Self {
            cluster,
            parts,
            own: Some(holder),
        })
    }

    /// Ends what was brought up here, in order.
    fn leave(self) -> Result<()> {
        match self.own {
            Some(_) => self.cluster.client.stop(),
            None => Ok(()),
        }
    }
}
