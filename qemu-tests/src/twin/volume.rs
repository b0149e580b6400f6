//! The twin's volume: an ext4 image in the cache, named after its content.
//!
//! In: [`Content`]. Out: the image's path. Debian's programs are linked dynamically, and the node's root has no loader where they look for
//! one: their PT_INTERP names the volume's copy instead ([`with_own_loader`]), and `LD_LIBRARY_PATH` of the service table its libraries.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kedge_machine::paths;
use sha2::{Digest, Sha256};

use crate::{tied, trace};

pub struct Content<'a> {
    pub programs: Vec<(&'a str, PathBuf)>,
    pub busybox: &'a Path,
    /// Directories of unpacked packages.
    pub packages: &'a [PathBuf],
    /// The directory `qemu-tests/twin`.
    pub scripts: &'a Path,
    pub probe: &'a Path,
    /// Times CRI calls.
    pub trace: Option<&'a Path>,
}

/// What the scripts use of busybox; `mount` is util-linux's.
const APPLETS: &[&str] = &[
    "sh", "ip", "hostname", "findfs", "mkdir", "cp", "mv", "ln", "touch", "sleep",
];
/// What is taken of Debian's packages.
const DEBIAN: &[&str] = &["usr/bin/mount", "usr/bin/umount", "usr/sbin/nft"];
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const LOADER: &str = "ld-linux-x86-64.so.2";
const LOADER_PATH: &[u8] = b"/lib64/ld-linux-x86-64.so.2\0";
/// Must not be longer than [`LOADER_PATH`].
const OWN_LOADER: &str = "/run/kedge/test/lib/ld.so";
/// CNI plugins, which containerd looks for in a directory of their own.
const PLUGINS: &[&str] = &["bridge", "host-local", "portmap"];

pub fn ensure(cache: &Path, content: &Content<'_>) -> Result<PathBuf> {
    let parent = cache.join("twin");
    fs::create_dir_all(&parent).with_context(|| format!("create {}", parent.display()))?;
    let directory = tempfile::tempdir_in(&parent).context("make a temporary directory")?;
    let root = directory.path().join("root");
    fill(&root, content)?;
    let kind = if content.trace.is_some() {
        "traced"
    } else {
        "plain"
    };
    let image = parent.join(format!("{kind}-{}.img", digest(&root)?));
    if image.is_file() {
        return Ok(image);
    }
    let fresh = directory.path().join("new.img");
    make(&root, &fresh)?;
    fs::rename(&fresh, &image).with_context(|| format!("rename to {}", image.display()))?;
    forget_others(&parent, kind, &image)?;
    Ok(image)
}

fn fill(root: &Path, content: &Content<'_>) -> Result<()> {
    for directory in ["bin", "lib", "cni"] {
        let path = root.join(directory);
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
    }
    for (name, source) in &content.programs {
        let directory = if PLUGINS.contains(name) { "cni" } else { "bin" };
        copy(source, &root.join(directory).join(name))?;
    }
    copy(content.busybox, &root.join("bin/busybox"))?;
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet))
            .with_context(|| format!("link {applet}"))?;
    }
    copy(content.probe, &root.join("probe"))?;
    for name in ["services", "start-kubelet", "start-kube-proxy"] {
        copy(&content.scripts.join(name), &root.join(name))?;
    }
    if let Some(program) = content.trace {
        let table = content.scripts.join("services");
        let table =
            fs::read_to_string(&table).with_context(|| format!("read {}", table.display()))?;
        trace::add(root, program)?;
        write(&root.join("services"), trace::services(&table).as_bytes())?;
    }
    for program in DEBIAN {
        let source = find(content.packages, program)?;
        let bytes = fs::read(&source).with_context(|| format!("read {}", source.display()))?;
        let name = source.file_name().context("a program has a name")?;
        let target = root.join("bin").join(name);
        write(
            &target,
            &with_own_loader(bytes).context(program.to_string())?,
        )?;
    }
    libraries(root, content.packages)
}

fn libraries(root: &Path, packages: &[PathBuf]) -> Result<()> {
    for package in packages {
        let directory = package.join(LIBRARIES);
        // A package of programs only has none.
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let path = entry.path();
            if name.to_string_lossy().contains(".so") && path.is_file() {
                // Links between them become copies: few, and all within one directory.
                copy(&path, &root.join("lib").join(&name))?;
            }
        }
    }
    copy(
        &find(packages, &format!("{LIBRARIES}/{LOADER}"))?,
        &root.join("lib/ld.so"),
    )
}

fn find(packages: &[PathBuf], path: &str) -> Result<PathBuf> {
    let found = packages.iter().map(|package| package.join(path));
    found
        .into_iter()
        .find(|path| path.is_file())
        .with_context(|| format!("no package holds {path}"))
}

/// The program with its loader's path replaced in place.
fn with_own_loader(mut program: Vec<u8>) -> Result<Vec<u8>> {
    let at = program
        .windows(LOADER_PATH.len())
        .position(|window| window == LOADER_PATH)
        .context("names no loader to replace")?;
    let mut own = OWN_LOADER.as_bytes().to_vec();
    own.resize(LOADER_PATH.len(), 0);
    program[at..at + own.len()].copy_from_slice(&own);
    Ok(program)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    write(
        to,
        &fs::read(from).with_context(|| format!("read {}", from.display()))?,
    )
}

fn write(to: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(to, bytes)
        .and_then(|()| fs::set_permissions(to, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("write {}", to.display()))
}

fn make(root: &Path, image: &Path) -> Result<()> {
    // A tenth and some for what the file system needs.
    let mib = (size(root)? >> 20) * 11 / 10 + 16;
    let output = tied::command("mke2fs")
        .args(["-q", "-t", "ext4", "-O", "^has_journal", "-L"])
        .args([paths::LABEL_TEST, "-d"])
        .arg(root)
        .arg(image)
        .arg(format!("{mib}M"))
        .output()
        .context("run mke2fs (e2fsprogs)")?;
    if !output.status.success() {
        bail!(
            "make the volume {}: {}",
            image.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in
            fs::read_dir(&directory).with_context(|| format!("list {}", directory.display()))?
        {
            let path = entry.context("list")?.path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn size(root: &Path) -> Result<u64> {
    let mut sum = 0;
    for path in files(root)? {
        sum += fs::symlink_metadata(&path)
            .with_context(|| format!("stat {}", path.display()))?
            .len();
    }
    Ok(sum)
}

fn digest(root: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    for path in files(root)? {
        hash.update(
            path.strip_prefix(root)
                .unwrap_or(&path)
                .as_os_str()
                .as_encoded_bytes(),
        );
        hash.update([0]);
        hash.update(Sha256::digest(
            fs::read(&path).with_context(|| format!("read {}", path.display()))?,
        ));
    }
    Ok(crate::pki::hex(&hash.finalize()[..8]))
}

fn entry_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Volumes of older programs. A running machine has its own open.
fn forget_others(parent: &Path, kind: &str, newest: &Path) -> Result<()> {
    for entry in fs::read_dir(parent).with_context(|| format!("list {}", parent.display()))? {
        let path = entry.context("list")?.path();
        let name = entry_name(&path);
        if name.starts_with(kind) && name.ends_with(".img") && path != newest {
            fs::remove_file(&path).with_context(|| format!("delete {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_is_replaced_in_place_and_its_absence_is_told() {
        let mut program = b"\x7fELF....".to_vec();
        program.extend_from_slice(LOADER_PATH);
        program.extend_from_slice(b"rest");
        let length = program.len();
        let changed = with_own_loader(program).unwrap();
        assert_eq!(changed.len(), length);
        let text = String::from_utf8_lossy(&changed).into_owned();
        assert!(
            text.contains("/run/kedge/test/lib/ld.so\0\0\0rest"),
            "{text:?}"
        );
        assert!(with_own_loader(b"static".to_vec()).is_err());
    }

    #[test]
    fn the_digest_follows_names_and_contents() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::write(root.join("a"), "1").unwrap();
        let first = digest(root).unwrap();
        fs::rename(root.join("a"), root.join("b")).unwrap();
        let second = digest(root).unwrap();
        fs::write(root.join("b"), "2").unwrap();
        assert!(first != second && second != digest(root).unwrap());
    }
}
