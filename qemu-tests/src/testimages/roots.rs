//! The directories that become layers: Debian packages unpacked without their scripts, upstream programs, a few files.
//!
//! In: packages and programs. Out: one directory per layer under a scratch directory. What scripts of packages would have done and tests
//! rely on (users, alternatives) is done here. Absent: documentation, translations and anything a test never opens.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// What takes space and is never read.
const DROP: &[&str] = &[
    "usr/share/doc",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/i18n",
    "usr/share/bash-completion",
    "usr/share/zoneinfo",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/share/bug",
    "usr/share/lintian",
    "usr/lib/systemd",
    "usr/lib/udev",
    "var/lib/dpkg",
    "boot",
];

/// Unpacks packages over each other.
pub fn unpack(packages: &[PathBuf], root: &Path) -> Result<()> {
    fs::create_dir_all(root).with_context(|| format!("create {}", root.display()))?;
    for package in packages {
        let output = Command::new("dpkg-deb")
            .arg("--extract")
            .arg(package)
            .arg(root)
            .output()
            .context("run dpkg-deb")?;
        if !output.status.success() {
            bail!(
                "dpkg-deb --extract {}: {}",
                package.display(),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
    }
    for path in DROP {
        let path = root.join(path);
        if path.is_dir() {
            fs::remove_dir_all(&path).with_context(|| format!("delete {}", path.display()))?;
        }
    }
    Ok(())
}

pub fn text(root: &Path, path: &str, content: &str) -> Result<()> {
    bytes(root, path, 0o644, content.as_bytes())
}

pub fn bytes(root: &Path, path: &str, mode: u32, content: &[u8]) -> Result<()> {
    let path = parent(root, path)?;
    // A link of the package would be written through.
    let _ = fs::remove_file(&path);
    fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
    chmod(&path, mode)
}

pub fn program(root: &Path, path: &str, mode: u32, from: &Path) -> Result<()> {
    let path = parent(root, path)?;
    let _ = fs::remove_file(&path);
    fs::copy(from, &path)
        .with_context(|| format!("copy {} to {}", from.display(), path.display()))?;
    chmod(&path, mode)
}

pub fn directory(root: &Path, path: &str, mode: u32) -> Result<()> {
    let path = root.join(path);
    fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
    chmod(&path, mode)
}

/// Makes or replaces a link.
pub fn link(root: &Path, path: &str, target: &str) -> Result<()> {
    let path = parent(root, path)?;
    // What is there may be a file or an empty directory of a package; anything else is an error of the next call.
    let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
    symlink(target, &path).with_context(|| format!("link {} to {target}", path.display()))
}

/// Makes or replaces a name of a file that is there already: a hard link.
pub fn another_name(root: &Path, path: &str, of: &str) -> Result<()> {
    let path = parent(root, path)?;
    let _ = fs::remove_file(&path);
    fs::hard_link(root.join(of), &path)
        .with_context(|| format!("make {} another name of {of}", path.display()))
}

/// Copies a directory's files, not its directories.
pub fn files(root: &Path, from: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("list {}", from.display()))? {
        let path = entry
            .with_context(|| format!("list {}", from.display()))?
            .path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_file() {
            program(root, &name, 0o644, &path)?;
        }
    }
    Ok(())
}

/// The paths of busybox's applets, as it lists them.
pub fn applets(busybox: &Path) -> Result<Vec<String>> {
    let output = Command::new(busybox)
        .arg("--list-full")
        .output()
        .with_context(|| format!("run {} --list-full", busybox.display()))?;
    if !output.status.success() {
        bail!("{} --list-full: {}", busybox.display(), output.status);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().map(str::to_owned).collect())
}

/// Users, groups and name service of all images with a shell. The last user and group are what upstream's agnhost image has.
pub fn accounts(root: &Path) -> Result<()> {
    text(
        root,
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nbin:x:2:2:bin:/bin:/bin/false\n\
         www-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n\
         user-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh\n",
    )?;
    text(
        root,
        "etc/group",
        "root:x:0:\ndaemon:x:1:\nbin:x:2:\nwww-data:x:33:\nnogroup:x:65534:\n\
         user-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n",
    )?;
    text(
        root,
        "etc/nsswitch.conf",
        "passwd: files\ngroup: files\nhosts: files dns\n",
    )?;
    for (path, mode) in [
        ("tmp", 0o1777),
        ("var/tmp", 0o1777),
        ("root", 0o700),
        ("home/user-defined-in-image", 0o755),
        ("mnt", 0o755),
        ("run", 0o755),
        ("proc", 0o555),
        ("sys", 0o555),
        ("dev", 0o755),
    ] {
        directory(root, path, mode)?;
    }
    Ok(())
}

fn parent(root: &Path, path: &str) -> Result<PathBuf> {
    let path = root.join(path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    }
    Ok(path)
}

fn chmod(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("set the mode of {}", path.display()))
}
