//! The twin: a node with upstream's kubelet, kube-proxy and CNI plugins on the image, kernel, containerd and runc of Kedge.
//!
//! In: upstream's programs ([`upstream::NODE_SOFTWARE`]), a few packages of Debian ([`PACKAGES`]), the files in `qemu-tests/twin`. Out: one
//! read-only volume ([`ensure`]) that every twin of a cluster shares, and each node's own files for its seed ([`config`]).
//! The node boots the product's image unchanged: `kedge.services=` makes init run the volume's service table instead of the image's.
//!
//! What the twin has besides upstream's programs, and what size comparisons leave out: [`PACKAGES`], busybox as shell and `ip`, one nft table
//! that masquerades pod traffic to the outside, and routes to other nodes' pods, which lead through the rig's own router where a peer's range
//! is not known beforehand. The volume is plain ext4: reading it costs no decompression, which favours upstream at start.

pub mod config;
mod volume;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::artefacts::{Artefacts, workspace};
use crate::progress::Progress;
use crate::{debian, upstream};

/// Which programs make a machine a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Software {
    #[default]
    Kedge,
    Upstream,
}

impl Software {
    pub const BOTH: [Self; 2] = [Self::Kedge, Self::Upstream];

    pub fn name(self) -> &'static str {
        match self {
            Self::Kedge => "kedge",
            Self::Upstream => "upstream",
        }
    }
}

/// The software of a cluster's nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mix {
    #[default]
    Kedge,
    Upstream,
    /// The first node is Kedge's, the second upstream's, and so on.
    Mixed,
}

impl Mix {
    /// `index` counts from 1, as nodes do.
    pub fn of(self, index: usize) -> Software {
        match self {
            Self::Kedge => Software::Kedge,
            Self::Upstream => Software::Upstream,
            Self::Mixed if index % 2 == 1 => Software::Kedge,
            Self::Mixed => Software::Upstream,
        }
    }

    /// An error where a cluster's nodes, `twins` of them with upstream's software, are of another mix. One without nodes is of any.
    pub fn check(self, nodes: &[String], twins: &[String]) -> Result<()> {
        for (index, node) in nodes.iter().enumerate() {
            let found = if twins.contains(node) {
                Software::Upstream
            } else {
                Software::Kedge
            };
            let wanted = self.of(index + 1);
            if found != wanted {
                bail!(
                    "its {node} has the software of {}, and {} was asked for: `cargo rig down`, then again",
                    found.name(),
                    wanted.name()
                );
            }
        }
        Ok(())
    }
}

/// Debian's packages with the programs that upstream's node software runs, and all libraries these need.
pub const PACKAGES: &[&str] = &[
    // mount, umount: the kubelet's volumes.
    "mount",
    "libmount1",
    "libblkid1",
    "libselinux1",
    "libpcre2-8-0",
    "libc6",
    // nft: kube-proxy's rules, the portmap plugin's, masquerading.
    "nftables",
    "libnftables1",
    "libnftnl11",
    "libmnl0",
    "libjansson4",
    "libgmp10",
    "libxtables12",
    "libedit2",
    "libtinfo6",
    "libbsd0",
    "libmd0",
];

/// How many steps [`ensure`] reports.
pub fn steps() -> usize {
    upstream::NODE_SOFTWARE.len() + 2
}

/// Builds what is missing and names the volume in `artefacts`.
pub fn ensure(artefacts: &mut Artefacts, progress: &Progress) -> Result<()> {
    let root = workspace()?;
    let cache = upstream::cache_root()?;
    let built = upstream::ensure(
        &root.join("qemu-tests/upstream"),
        &cache,
        upstream::NODE_SOFTWARE,
        progress,
    )?;
    let step = progress.step("Debian's mount and nftables", Some(Duration::from_secs(20)));
    let busybox = debian::ensure(&cache)?.busybox;
    let packages = debian::unpacked(&cache, PACKAGES)?;
    step.done();
    let step = progress.step(
        "volume with upstream's software",
        Some(Duration::from_secs(10)),
    );
    let mut programs: Vec<(&str, PathBuf)> = Vec::new();
    for name in upstream::NODE_SOFTWARE {
        programs.push((name, built.path(name)?.to_owned()));
    }
    artefacts.twin = Some(volume::ensure(
        &cache,
        &volume::Content {
            programs,
            busybox: &busybox,
            packages: &packages,
            scripts: &root.join("qemu-tests/twin"),
            probe: &artefacts.probe,
            trace: artefacts.trace.as_deref(),
        },
    )?);
    step.done();
    Ok(())
}

/// Sizes of the programs that do what `kedge` does.
pub fn program_sizes(cache: &Path, progress: &Progress) -> Result<Vec<(&'static str, u64)>> {
    let modules = workspace()?.join("qemu-tests/upstream");
    let built = upstream::ensure(&modules, cache, upstream::NODE_SOFTWARE, progress)?;
    let mut sizes = Vec::new();
    for name in upstream::NODE_SOFTWARE {
        let path = built.path(name)?;
        let size = std::fs::metadata(path).with_context(|| format!("stat {}", path.display()))?;
        sizes.push((*name, size.len()));
    }
    Ok(sizes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mixed_cluster_begins_with_kedge_and_alternates() {
        assert_eq!(
            [1, 2, 3].map(|index| Mix::Mixed.of(index)),
            [Software::Kedge, Software::Upstream, Software::Kedge]
        );
        assert_eq!(Mix::Upstream.of(1), Software::Upstream);
    }

    #[test]
    fn a_cluster_with_other_software_is_told_from_the_wanted_one() {
        let nodes = ["node1", "node2"].map(str::to_owned);
        Mix::Kedge.check(&nodes, &[]).unwrap();
        let error = Mix::Upstream.check(&nodes, &[]).unwrap_err().to_string();
        assert!(
            error.contains("its node1 has the software of kedge, and upstream was asked for"),
            "{error}"
        );
        let twins = &nodes[1..];
        Mix::Mixed.check(&nodes, twins).unwrap();
        for other in [Mix::Kedge, Mix::Upstream] {
            assert!(other.check(&nodes, twins).is_err());
        }
        Mix::Upstream.check(&[], &[]).unwrap();
    }

    #[test]
    fn containerd_runs_as_in_the_product() {
        let of = |table: &str| -> Vec<String> {
            let lines = table.lines().map(str::trim);
            let block = lines
                .skip_while(|line| *line != "service containerd")
                .skip(1)
                .take_while(|line| !line.starts_with("service "));
            // PATH and libraries are for the plugins that it runs.
            block
                .filter(|line| !line.starts_with("env ") && !line.starts_with('#'))
                .map(str::to_owned)
                .collect()
        };
        let product = of(include_str!("../../image/src/root/services"));
        assert!(product.len() > 2);
        assert_eq!(product, of(include_str!("../twin/services")));
    }
}
