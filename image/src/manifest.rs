//! What a build made: files with sizes and digests, versions, the disk's layout; as JSON and as a table.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::disk::Slot;
use crate::error::{At, Result};

/// Files are named relative to the output directory: the manifest of equal inputs is equal.
#[derive(Debug, Serialize)]
pub struct Manifest {
    pub version: String,
    pub build_stamp: u64,
    pub architecture: String,
    pub kernel_release: String,
    pub upstream: BTreeMap<String, String>,
    pub artefacts: BTreeMap<String, Artefact>,
    pub programs: BTreeMap<String, Artefact>,
    pub disk: Vec<Slot>,
    pub modules_initramfs: Vec<String>,
    pub modules_root: Vec<String>,
    /// Optional modules this kernel does not have.
    pub modules_absent: Vec<String>,
    /// Bytes of root, kernel and initramfs together under `zstd -19`: what an operator downloads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compressed: Option<u64>,
    /// The host's space that `kedge.img` takes: depends on the host's file system, so it is printed and not recorded.
    #[serde(skip)]
    pub disk_allocated: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Artefact {
    pub size: u64,
    pub sha256: String,
}

impl Artefact {
    pub fn of(path: &Path) -> Result<Self> {
        let mut file = File::open(path).at("open", path)?;
        let mut hash = Sha256::new();
        let size = io::copy(&mut file.by_ref(), &mut HashWriter(&mut hash)).at("read", path)?;
        let sha256 = hash
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Ok(Self { size, sha256 })
    }
}

struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub fn allocated(path: &Path) -> Result<u64> {
    Ok(path.metadata().at("stat", path)?.blocks() * 512)
}

impl fmt::Display for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Kedge {} for {}, kernel {}",
            self.version, self.architecture, self.kernel_release
        )?;
        for (name, artefact) in self.artefacts.iter().chain(&self.programs) {
            let short = artefact.sha256.get(..12).unwrap_or_default();
            writeln!(f, "{name:<26} {:>10}  sha256 {short}…", mib(artefact.size))?;
        }
        writeln!(
            f,
            "{:<26} {:>10}  on the host's disk",
            "kedge.img, sparse",
            mib(self.disk_allocated)
        )?;
        match self.compressed {
            Some(size) => writeln!(
                f,
                "{:<26} {:>10}  root + kernel + initramfs, zstd -19",
                "image, compressed",
                mib(size)
            ),
            None => Ok(()),
        }
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.2} MiB", bytes as f64 / f64::from(1 << 20))
}
