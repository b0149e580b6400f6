//! Builds the bootable artefacts of Kedge from a kernel package, our binaries and the upstream programs.
//!
//! In: [`Inputs`]. Out, in one directory: `vmlinuz`, `initramfs`, `kedge.img` (GPT with an erofs root, STATE and DATA),
//! `root.erofs` and `manifest.json`. Equal inputs give equal bytes, whatever the path, date, umask or number of cores. No root rights,
//! mounts, loop devices or containers are used. [`seed`] writes a node's identity volume; [`oci`] makes image layouts.
//!
//! Absent, with issues of their own: UEFI and unified kernel images, verity, slot B, flashing, netboot.

mod authorities;
mod cpio;
mod crc;
mod disk;
mod elf;
mod erofs;
pub mod error;
mod ext4;
mod gpt;
mod kernel;
pub mod manifest;
mod modules;
pub mod oci;
mod programs;
mod root;
pub mod seed;
pub mod size;
mod tool;
pub mod tree;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use kedge_machine::paths;

pub use crate::erofs::Compression;
pub use crate::error::{Error, Result};
pub use crate::manifest::Manifest;

use crate::error::At;
use crate::kernel::Kernel;
use crate::manifest::Artefact;
use crate::modules::NEEDED;
use crate::programs::Programs;

pub const DEFAULT_DATA_SIZE: u64 = 4 << 30;

pub const DISK: &str = "kedge.img";
pub const KERNEL: &str = "vmlinuz";
pub const INITRAMFS: &str = "initramfs";
pub const ROOT: &str = "root.erofs";
pub const MANIFEST: &str = "manifest.json";
/// Read from the upstream directory when it is there: program name to version.
const VERSIONS: &str = "versions.json";

#[derive(Clone, Debug)]
pub struct Inputs {
    /// Created when missing; files in it are replaced.
    pub out: PathBuf,
    /// A `linux-image-*.deb`, or the directory it was unpacked to.
    pub kernel_package: PathBuf,
    /// Holds `kedge`, `kedge-init`, `kedge-pause`.
    pub bin_dir: PathBuf,
    /// Holds `containerd`, `containerd-shim-runc-v2`, `runc`, and perhaps `versions.json`.
    pub upstream_dir: PathBuf,
    /// Debian's ca-certificates package unpacked, or a PEM file: whom containerd trusts. None: no registry over TLS.
    pub authorities: Option<PathBuf>,
    pub data_size: u64,
    /// Seconds since the epoch: every time stamp of the image, and the floor of the node's clock.
    pub build_stamp: u64,
    pub version: String,
    pub compression: Compression,
    /// Also the compressed size and the digest of the whole disk: half a minute of one core, which the rig leaves out.
    pub measure: bool,
}

pub fn build(inputs: &Inputs) -> Result<Manifest> {
    // A wrong size should not cost a build.
    disk::plan(0, inputs.data_size)?;
    let programs = Programs::find(&inputs.bin_dir, &inputs.upstream_dir)?;
    let kernel = Kernel::open(&inputs.kernel_package)?;
    let modules = modules::select(&kernel, NEEDED)?;
    fs::create_dir_all(&inputs.out).at("create directory", &inputs.out)?;
    let path = |name: &str| inputs.out.join(name);

    let early = root::initramfs(&programs, &kernel, &modules)?;
    let early = cpio::newc(&early)?;
    replace(&path(INITRAMFS), &early)?;
    replace(
        &path(KERNEL),
        &fs::read(&kernel.vmlinuz).at("read", &kernel.vmlinuz)?,
    )?;

    let identity = root::Identity {
        version: &inputs.version,
        stamp: inputs.build_stamp,
    };
    let mut tree = root::root(&programs, &kernel, &modules, &identity)?;
    if let Some(source) = &inputs.authorities {
        tree.file(authorities::PATH, 0o644, authorities::bundle(source)?)?;
    }
    let root_file = path(ROOT);
    remove(&root_file)?;
    let root_size = erofs::make(
        &tree,
        paths::LABEL_ROOT_A,
        inputs.build_stamp,
        inputs.compression,
        &root_file,
    )?;
    let plan = disk::plan(root_size, inputs.data_size)?;
    let image = path(DISK);
    remove(&image)?;
    disk::write(
        &image,
        &plan,
        &root_file,
        &tree.sha256()?,
        inputs.build_stamp,
    )?;

    let mut artefacts = BTreeMap::new();
    for name in [KERNEL, INITRAMFS, ROOT] {
        artefacts.insert(name.to_owned(), Artefact::of(&path(name))?);
    }
    let mut sizes = BTreeMap::new();
    for program in &programs.all {
        sizes.insert(program.name.to_owned(), Artefact::of(&program.source)?);
    }
    let mut compressed_size = None;
    if inputs.measure {
        artefacts.insert(DISK.to_owned(), Artefact::of(&image)?);
        compressed_size = Some(compressed(&[path(KERNEL), path(INITRAMFS), path(ROOT)])?);
    }
    let manifest = Manifest {
        version: inputs.version.clone(),
        build_stamp: inputs.build_stamp,
        architecture: programs.architecture.clone(),
        kernel_release: kernel.release.clone(),
        upstream: versions(&inputs.upstream_dir)?,
        artefacts,
        programs: sizes,
        disk: plan.slots.to_vec(),
        modules_initramfs: modules.initramfs.clone(),
        modules_root: modules.root.clone(),
        modules_absent: modules
            .absent
            .iter()
            .map(|name| (*name).to_owned())
            .collect(),
        compressed: compressed_size,
        disk_allocated: manifest::allocated(&image)?,
    };
    let text = serde_json::to_string_pretty(&manifest).expect("a manifest is plain data");
    replace(&path(MANIFEST), format!("{text}\n").as_bytes())?;
    Ok(manifest)
}

/// The sandbox image as the root holds it, from a static pause program for this kind of machine.
pub fn sandbox_image(pause: &Path) -> Result<oci::Image> {
    let bytes = fs::read(pause).at("read program", pause)?;
    let architecture = elf::Elf::parse(&bytes).map(|elf| elf.architecture());
    let architecture = architecture.ok_or_else(|| Error::Program {
        path: pause.to_owned(),
        problem: "is not a 64-bit ELF program".to_owned(),
    })?;
    root::pause_image(pause, &architecture)
}

fn versions(upstream: &Path) -> Result<BTreeMap<String, String>> {
    let path = upstream.join(VERSIONS);
    if !path.is_file() {
        return Ok(BTreeMap::new());
    }
    let bytes = fs::read(&path).at("read", &path)?;
    serde_json::from_slice(&bytes).map_err(|source| Error::Io {
        operation: "parse",
        path,
        source: source.into(),
    })
}

fn compressed(files: &[PathBuf]) -> Result<u64> {
    let mut sum = 0;
    for file in files {
        sum += tool::run(
            "zstd",
            &["-19".as_ref(), "-cq".as_ref(), file.as_os_str()],
            &[],
        )?
        .len();
    }
    Ok(sum as u64)
}

fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    remove(path)?;
    fs::write(path, bytes).at("write", path)
}

/// An old file is unlinked, not overwritten: a running VM may still have it open.
fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).at("remove", path),
        _ => Ok(()),
    }
}
