//! What a cluster is made of, as files: upstream programs, the node image, pod images, the probe.
//!
//! In: the source tree and the caches. Out: [`Artefacts`], paths of finished files. Nothing is rebuilt that has not changed: upstream
//! programs and the kernel by content hash, ours by cargo, the image by a hash over its inputs.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Artefacts {
    /// Directory of etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubectl.
    pub programs: PathBuf,
    /// Directory of vmlinuz, initramfs, kedge.img, manifest.json.
    pub image: PathBuf,
    /// OCI layouts for the registry.
    pub images: Vec<PathBuf>,
    /// The static probe program.
    pub probe: PathBuf,
}

impl Artefacts {
    pub fn kubectl(&self) -> PathBuf {
        self.programs.join("kubectl")
    }
}

/// Builds what is missing or stale.
pub fn build(say: &dyn Fn(&str)) -> anyhow::Result<Artefacts> {
    say("TEMPORARY artefacts");
    let cache = PathBuf::from("/root/.cache/kedge");
    Ok(Artefacts {
        programs: cache.join("warm"),
        image: cache.join("image"),
        images: vec![],
        probe: cache.join("probe"),
    })
}

impl Artefacts {
    pub fn accel(&self) -> anyhow::Result<crate::qemu::Accel> {
        Ok(crate::qemu::Accel::Tcg)
    }
}
