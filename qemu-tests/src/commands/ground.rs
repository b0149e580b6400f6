//! What a suite runs on: the cluster that is there, or one for the occasion that ends with the run.

use std::path::PathBuf;

use anyhow::Result;
use kedge_qemu_tests::artefacts::{self, Artefacts, Profile};
use kedge_qemu_tests::cluster::{Cluster, Size};
use kedge_qemu_tests::dirs::Dirs;
use kedge_qemu_tests::progress::Progress;
use kedge_qemu_tests::supervisor::client::{Client, Holder};
use kedge_qemu_tests::supervisor::ns;
use kedge_qemu_tests::twin::{self, Mix};
use kedge_qemu_tests::up;

/// A new cluster's nodes.
pub struct Wanted {
    pub software: Mix,
    pub nodes: usize,
    pub memory_mib: u32,
}

pub struct Ground<T> {
    pub cluster: Cluster,
    /// What the suite needs besides.
    pub parts: T,
    /// The cluster was brought up for this run, and ends with this process.
    own: Option<Holder>,
}

impl<T> Ground<T> {
    /// `build` makes the suite's parts, before anything boots, and `images` the volume with images that new nodes begin with, if any. Both
    /// report their steps themselves.
    pub fn find(
        wanted: &Wanted,
        progress: &Progress,
        build: impl FnOnce(&Artefacts) -> Result<T>,
        images: impl FnOnce(&Dirs, &Artefacts, &T) -> Result<Option<PathBuf>>,
    ) -> Result<Self> {
        let dirs = Dirs::from_environment()?;
        if Client::new(&dirs).running().is_some() {
            let cluster = Cluster::attach(&dirs)?;
            let parts = build(&cluster.description.artefacts)?;
            return Ok(Self {
                cluster,
                parts,
                own: None,
            });
        }
        ns::check()?;
        progress.add(artefacts::steps() + up::STEPS);
        let mut artefacts = artefacts::build(Profile::Story, progress)?;
        if wanted.software != Mix::Kedge {
            progress.add(twin::steps());
            twin::ensure(&mut artefacts, progress)?;
        }
        let parts = build(&artefacts)?;
        artefacts.images_on = images(&dirs, &artefacts, &parts)?;
        let options = up::Options {
            software: wanted.software,
            size: Size {
                memory_mib: wanted.memory_mib,
                ..Size::default()
            },
            ..up::Options::new(wanted.nodes, artefacts.accel()?)
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
    pub fn leave(self) -> Result<()> {
        match self.own {
            Some(_) => self.cluster.client.stop(),
            None => Ok(()),
        }
    }
}
