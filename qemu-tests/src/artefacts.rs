//! What a cluster is made of, as files: upstream programs, our programs, the node image, pod images, the probe.
//!
//! In: the source tree and the caches. Out: [`Artefacts`], paths of finished files. Nothing is rebuilt that has not changed: upstream
//! programs and Debian's packages by content hash, ours by cargo, the image by a hash over its inputs ([`image_key`]).
//! Absent: the caches' own upkeep but for old node images, which are large.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::progress::Progress;
use crate::qemu::Accel;
use crate::{accel, cache, debian, deps, oci, tied, upstream};

pub const TARGET: &str = "x86_64-unknown-linux-musl";
/// Node images kept in the cache besides the newest.
const OLD_IMAGES: usize = 2;
/// Steps that [`build`] reports besides one for each upstream program.
const OWN_STEPS: usize = 4;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Artefacts {
    /// Directory of etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubectl.
    pub programs: PathBuf,
    /// Directory of our own programs for nodes.
    pub ours: PathBuf,
    /// Directory of containerd, its shim, runc.
    pub product: PathBuf,
    /// Directory of vmlinuz, initramfs, kedge.img, manifest.json.
    pub image: PathBuf,
    /// OCI layouts for the registry.
    pub images: Vec<PathBuf>,
    /// The static probe program.
    pub probe: PathBuf,
    /// The volume with upstream's node software, where a cluster has such nodes.
    #[serde(default)]
    pub twin: Option<PathBuf>,
    /// The program that times CRI calls, for nodes that shall have it.
    #[serde(default)]
    pub trace: Option<PathBuf>,
    /// A DATA volume with images on it ([`crate::baked`]), for nodes that shall begin with them.
    #[serde(default)]
    pub images_on: Option<PathBuf>,
}

impl Artefacts {
    pub fn kubectl(&self) -> PathBuf {
        self.programs.join("kubectl")
    }

    /// KVM where it boots a guest, TCG elsewhere.
    pub fn accel(&self) -> Result<Accel> {
        accel::choose(
            &self.image.join(kedge_image::KERNEL),
            &self.probe,
            &upstream::cache_root()?.join("accel"),
        )
    }
}

/// The root of the source tree that this rig was built from.
pub fn workspace() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.canonicalize()
        .with_context(|| format!("find the source tree {}", root.display()))
}

/// How many steps [`build`] will report.
pub fn steps() -> usize {
    names().len() + OWN_STEPS
}

fn names() -> Vec<&'static str> {
    [
        upstream::CONTROL_PLANE,
        upstream::PRODUCT,
        upstream::POD_IMAGES,
    ]
    .concat()
}

/// How our own programs are compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Close to release and linked in seconds; init dies of any allocation after boot.
    Story,
    /// What a user gets; for figures.
    Release,
}

/// Installs what the host lacks, then builds what is missing or stale.
pub fn build(profile: Profile, progress: &Progress) -> Result<Artefacts> {
    let root = workspace()?;
    deps::ensure(deps::NEEDS, &|text| progress.say(text))?;
    deps::ensure_targets(&root, &[TARGET], &|text| progress.say(text))?;
    let cache = upstream::cache_root()?;
    let built = upstream::ensure(
        &root.join("qemu-tests/upstream"),
        &cache,
        &names(),
        progress,
    )?;
    let step = progress.step("Debian's kernel and busybox", Some(Duration::from_secs(30)));
    let packages = debian::ensure(&cache)?;
    step.done();
    let step = progress.step("Kedge's programs", Some(Duration::from_secs(150)));
    let ours = cargo_build(&root, profile)?;
    step.done();
    let product = built.directory("product", upstream::PRODUCT)?;
    let image = image(&root, &cache, &packages, &ours, &product, progress)?;
    let step = progress.step("images of the test pods", Some(Duration::from_secs(10)));
    let programs = oci::Programs {
        agnhost: built.path("agnhost")?.to_owned(),
        coredns: built.path("coredns")?.to_owned(),
        busybox: packages.busybox.clone(),
    };
    let images = vec![
        oci::ensure(&cache, &programs)?,
        oci::sandbox(&cache, &ours.join("kedge-pause"))?,
    ];
    step.done();
    Ok(Artefacts {
        programs: built.directory("control-plane", upstream::CONTROL_PLANE)?,
        probe: ours.join("kedge-probe"),
        ours,
        product,
        image,
        images,
        twin: None,
        trace: None,
        images_on: None,
    })
}

/// `KEDGE_RIG_PROGRAMS` names a directory of finished ones instead.
fn cargo_build(root: &Path, profile: Profile) -> Result<PathBuf> {
    if let Some(finished) = std::env::var_os("KEDGE_RIG_PROGRAMS") {
        return Ok(finished.into());
    }
    let mut arguments = vec!["build", "--quiet", "--target", TARGET];
    for package in ["kedge", "kedge-init", "kedge-pause", "kedge-probe"] {
        arguments.extend(["-p", package]);
    }
    let directory = match profile {
        Profile::Story => {
            arguments.extend(["--profile", "story", "--features", "kedge-init/count-alloc"]);
            "story"
        }
        Profile::Release => {
            arguments.push("--release");
            "release"
        }
    };
    let status = tied::command(cargo())
        .args(&arguments)
        .current_dir(root)
        .status()
        .context("run cargo")?;
    if !status.success() {
        bail!("cargo {} failed", arguments.join(" "));
    }
    Ok(target_directory(root).join(TARGET).join(directory))
}

/// A program of ours for measuring, as released: `words` choose it for cargo, `directory` is where below the profile's cargo puts it.
pub fn extra(name: &str, words: &[&str], directory: &str) -> Result<PathBuf> {
    if let Some(finished) = std::env::var_os("KEDGE_RIG_PROGRAMS") {
        return Ok(PathBuf::from(finished).join(name));
    }
    let root = workspace()?;
    let arguments = [
        &["build", "--quiet", "--release", "--target", TARGET],
        words,
    ]
    .concat();
    let status = tied::command(cargo())
        .args(&arguments)
        .current_dir(&root)
        .status()
        .context("run cargo")?;
    if !status.success() {
        bail!("cargo {} failed", arguments.join(" "));
    }
    let release = target_directory(&root).join(TARGET).join("release");
    Ok(release.join(directory).join(name))
}

/// The cargo that runs us, or the one in PATH.
pub fn cargo() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from)
}

pub fn target_directory(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

fn image(
    root: &Path,
    cache: &Path,
    packages: &debian::Packages,
    ours: &Path,
    product: &Path,
    progress: &Progress,
) -> Result<PathBuf> {
    let step = progress.step("node image", Some(Duration::from_secs(40)));
    let mut files: Vec<PathBuf> = ["kedge", "kedge-init", "kedge-pause"]
        .iter()
        .map(|name| ours.join(name))
        .collect();
    files.extend(upstream::PRODUCT.iter().map(|name| product.join(name)));
    files.push(packages.kernel_package.clone());
    let authorities = authorities(cache)?;
    // Its name carries the version.
    let named = authorities.file_name().unwrap_or_default().to_owned();
    files.push(root.join("agent/machine/src/paths.rs"));
    collect(&root.join("image"), &mut files)?;
    let key = format!("{}-{}", image_key(&files)?, short(&named.to_string_lossy()));
    let images = cache.join("node-image");
    let directory = images.join(&key);
    if directory.join(kedge_image::MANIFEST).is_file() {
        step.cached();
        return Ok(directory);
    }
    let fresh = images.join(format!(".new.{}", std::process::id()));
    if fresh.exists() {
        fs::remove_dir_all(&fresh).with_context(|| format!("delete {}", fresh.display()))?;
    }
    kedge_image::build(&kedge_image::Inputs {
        out: fresh.clone(),
        kernel_package: packages.kernel_root.clone(),
        bin_dir: ours.to_owned(),
        upstream_dir: product.to_owned(),
        authorities: Some(authorities),
        data_size: kedge_image::DEFAULT_DATA_SIZE,
        build_stamp: build_stamp(root),
        version: env!("CARGO_PKG_VERSION").into(),
        compression: kedge_image::Compression::Lz4hc,
        measure: false,
    })
    .context("build the node image")?;
    cache::settle(&fresh, &directory)?;
    forget_old(&images, &directory)?;
    step.done();
    Ok(directory)
}

/// Debian's list of certificate authorities, unpacked.
fn authorities(cache: &Path) -> Result<PathBuf> {
    debian::unpacked(cache, &["ca-certificates"])?
        .pop()
        .context("ca-certificates was not fetched")
}

fn short(text: &str) -> String {
    crate::pki::hex(&Sha256::digest(text)[..4])
}

/// A hash over the contents of all files, in this order. Names matter only through the order.
pub fn image_key(files: &[PathBuf]) -> Result<String> {
    let mut hash = Sha256::new();
    for file in files {
        let content =
            Sha256::digest(fs::read(file).with_context(|| format!("read {}", file.display()))?);
        hash.update(content);
    }
    Ok(crate::pki::hex(&hash.finalize()[..8]))
}

/// All files below a directory, in a stable order.
fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// The newest commit's time. Outside of a repository the present will do: the stamp is the floor of the nodes' clocks.
fn build_stamp(root: &Path) -> u64 {
    let output = Command::new("git")
        .args(["log", "-1", "--format=%ct"])
        .current_dir(root)
        .output();
    let committed = output
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok()?.trim().parse().ok());
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    committed.unwrap_or(now)
}

/// Keeps the newest images only. One that a running cluster still uses stays readable to it: QEMU has copies or open files.
fn forget_old(images: &Path, newest: &Path) -> Result<()> {
    let mut old: Vec<(SystemTime, PathBuf)> = fs::read_dir(images)
        .with_context(|| format!("list {}", images.display()))?
        .flatten()
        .filter(|entry| entry.path() != newest)
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    old.sort();
    let surplus = old.len().saturating_sub(OLD_IMAGES);
    for (_, path) in old.drain(..surplus) {
        fs::remove_dir_all(&path).with_context(|| format!("delete {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_follows_contents_and_order() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            fs::write(directory.path().join(name), text).unwrap();
            directory.path().join(name)
        };
        let (a, b) = (file("a", "1"), file("b", "2"));
        let key = image_key(&[a.clone(), b.clone()]).unwrap();
        assert_ne!(key, image_key(&[b.clone(), a.clone()]).unwrap());
        file("b", "3");
        assert_ne!(key, image_key(&[a.clone(), b.clone()]).unwrap());
        file("b", "2");
        assert_eq!(key, image_key(&[a, b]).unwrap());
    }

    #[test]
    fn the_newest_images_stay() {
        let directory = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = directory.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let paths: Vec<PathBuf> = ["a", "b", "c", "d"].map(make).to_vec();
        forget_old(directory.path(), &paths[3]).unwrap();
        assert!(paths[3].exists());
        assert_eq!(
            paths.iter().filter(|path| path.exists()).count(),
            1 + OLD_IMAGES
        );
    }
}
