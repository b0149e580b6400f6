//! Records what kernels show of a small node: the cgroup, proc and sys files that `kedge-metrics` reads, as its tests' fixtures.
//!
//! In: a [`Recording`], Debian's mirror. A guest of QEMU boots that kernel with busybox and `recorder/init.sh` as its initramfs, makes a pod
//! that burns, writes and is killed for memory, and prints the files. Out: the text of the tree (format: [`checked`]).
//! Deliberately absent: judging the values; that is the tests' work. Nothing is recorded from the host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cpio::Archive;
use crate::qemu::{Accel, accelerator};
use crate::{debian, wait};

/// What is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recording {
    /// Name of the file.
    pub name: &'static str,
    /// Debian's suite whose cloud kernel boots.
    pub suite: &'static str,
    /// More words for the kernel's command line.
    pub append: &'static str,
}

/// All of them: the oldest kernel we care for, the image's own, the newest that Debian packages, and one with controllers switched off.
pub const RECORDINGS: &[Recording] = &[
    Recording {
        name: "6.1",
        suite: "bookworm",
        append: "",
    },
    Recording {
        name: "6.12",
        suite: "trixie",
        append: "",
    },
    Recording {
        name: "6.12-bare",
        suite: "trixie",
        append: "psi=0 cgroup_disable=memory",
    },
    Recording {
        name: "newest",
        suite: "trixie-backports",
        append: "",
    },
];

/// In load order. What a kernel has built in, it has no file for.
const MODULES: [&str; 7] = [
    "virtio",
    "virtio_ring",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "veth",
];
const INIT: &str = include_str!("../recorder/init.sh");
/// A recording takes 30 s under TCG on a quiet machine.
const PATIENCE: Duration = Duration::from_secs(900);
const ATTEMPTS: u32 = 4;
const DISK_BYTES: u64 = 32 << 20;

/// Boots, waits, reads. A kernel that panics is booted again: 6.12 does so now and then under TCG when the machine is busy.
pub fn record(cache: &Path, recording: &Recording) -> Result<String> {
    let busybox = debian::ensure(cache)?.busybox;
    let parts = debian::kernel_of(cache, recording.suite)?;
    let kernel = find(&parts, &|name| name.starts_with("vmlinuz"))?
        .with_context(|| format!("the kernel of {} has no vmlinuz", recording.suite))?;
    let initramfs = initramfs(&busybox, &parts)?;
    let mut attempt = 1;
    loop {
        let (console, result) = boot(&kernel, &initramfs, recording.append)?;
        if result.is_err() && console.contains("Kernel panic") && attempt < ATTEMPTS {
            attempt += 1;
            continue;
        }
        let lines: Vec<&str> = console.lines().collect();
        let last = &lines[lines.len().saturating_sub(10)..];
        let said = || {
            let name = recording.name;
            format!(
                "record kernel {name}; its console ended:\n{}",
                last.join("\n")
            )
        };
        return result.with_context(said);
    }
}

/// One guest: what it said on its console, and the recording.
fn boot(kernel: &Path, initramfs: &[u8], append: &str) -> Result<(String, Result<String>)> {
    let directory = tempfile::tempdir().context("make a temporary directory")?;
    let path = |name: &str| directory.path().join(name);
    fs::write(path("initramfs"), initramfs).context("write the initramfs")?;
    for disk in ["data", "swap"] {
        let file = fs::File::create(path(disk)).with_context(|| format!("create disk {disk}"))?;
        file.set_len(DISK_BYTES)
            .with_context(|| format!("size disk {disk}"))?;
    }
    let child = command(kernel, directory.path(), append)
        .spawn()
        .context("start QEMU")?;
    let ended = end(child);
    let text = |name: &str| fs::read_to_string(path(name)).unwrap_or_default();
    let recording = ended.and_then(|()| checked(text("tree")));
    Ok((text("console"), recording))
}

fn command(kernel: &Path, directory: &Path, append: &str) -> Command {
    let path = |name: &str| directory.join(name).display().to_string();
    let mut command = Command::new("qemu-system-x86_64");
    for (flag, value) in accelerator(Accel::Tcg) {
        command.args([flag, value]);
    }
    command.args("-M q35 -m 256 -smp 2 -nodefaults -display none -no-reboot".split(' '));
    // Equal dates and ids make two recordings differ in measured values only.
    command.args(
        "-rtc base=2026-11-28T12:00:00 -uuid 4b454447-4500-4000-8000-000000000001".split(' '),
    );
    command.arg("-kernel").arg(kernel);
    command.args(["-initrd", &path("initramfs")]);
    command.args([
        "-append",
        &format!("console=ttyS0 panic=-1 quiet rdinit=/init {append}"),
    ]);
    for port in ["console", "tree"] {
        command.args(["-serial", &format!("file:{}", path(port))]);
    }
    for disk in ["data", "swap"] {
        let options = "format=raw,if=virtio,cache=unsafe";
        command.args(["-drive", &format!("file={},{options}", path(disk))]);
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Waits for the guest to power itself off.
fn end(mut child: Child) -> Result<()> {
    let ended = wait::until("the guest's end", PATIENCE, || match child.try_wait() {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err("it runs".to_owned()),
        Err(error) => Err(error.to_string()),
    });
    // It may have ended by itself.
    let _ = child.kill();
    child.wait().context("wait for QEMU")?;
    ended
}

/// The frame is `=== PATH` and the file's text, `=== PATH -> TARGET` for a link, `=== PATH/` and names for a directory; `=== end` is last.
fn checked(text: String) -> Result<String> {
    let failed = text.lines().find_map(|l| l.strip_prefix("=== failed "));
    if let Some(what) = failed {
        bail!("the guest could not {what}");
    }
    if !text.ends_with("\n=== end\n") {
        bail!("the recording of {} bytes has no end", text.len());
    }
    Ok(text)
}

fn initramfs(busybox: &Path, kernel: &[PathBuf]) -> Result<Vec<u8>> {
    let mut archive = Archive::with_console();
    archive.directory("bin");
    archive.directory("modules");
    archive.program("init", INIT.as_bytes());
    archive.program("bin/busybox", &read(busybox)?);
    for (number, module) in MODULES.iter().enumerate() {
        let wanted = |name: &str| name.split('.').next() == Some(module) && name.contains(".ko");
        if let Some(file) = find(kernel, &wanted)? {
            // A shell expands names in order.
            archive.program(&format!("modules/{number}-{module}.ko"), &unpacked(&file)?);
        }
    }
    Ok(archive.finish())
}

/// A module as the kernel loads it.
fn unpacked(file: &Path) -> Result<Vec<u8>> {
    if file.extension().is_none_or(|e| e != "xz") {
        return read(file);
    }
    let output = Command::new("xz").arg("-dc").arg(file).output();
    let output = output.with_context(|| format!("run xz on {}", file.display()))?;
    if !output.status.success() {
        bail!("xz -dc {}: {}", file.display(), output.status);
    }
    Ok(output.stdout)
}

/// The first file below the directories whose name is wanted.
fn find(directories: &[PathBuf], wanted: &dyn Fn(&str) -> bool) -> Result<Option<PathBuf>> {
    let mut left = directories.to_vec();
    while let Some(directory) = left.pop() {
        let list = || format!("list {}", directory.display());
        for entry in fs::read_dir(&directory).with_context(list)? {
            let entry = entry.with_context(list)?;
            let kind = entry.file_type().with_context(list)?;
            if kind.is_dir() {
                left.push(entry.path());
            } else if kind.is_file() && wanted(&entry.file_name().to_string_lossy()) {
                return Ok(Some(entry.path()));
            }
        }
    }
    Ok(None)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_without_its_end_is_refused_and_a_failure_is_told() {
        let whole = "=== /proc/stat\nbtime 1\n=== end\n";
        assert_eq!(checked(whole.to_owned()).unwrap(), whole);
        let cut = checked("=== /proc/stat\nbti".to_owned()).unwrap_err();
        assert_eq!(cut.to_string(), "the recording of 18 bytes has no end");
        let failed = checked("=== failed mount /dev/vda\n".to_owned()).unwrap_err();
        assert_eq!(failed.to_string(), "the guest could not mount /dev/vda");
    }

    #[test]
    fn modules_are_found_by_name_whatever_their_packing() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("lib/modules/kernel/net");
        fs::create_dir_all(&deep).unwrap();
        for name in ["veth.ko", "virtio_blk.ko.xz", "modules.order"] {
            fs::write(deep.join(name), name).unwrap();
        }
        let found = |name: &str| {
            let wanted = |file: &str| file.split('.').next() == Some(name);
            find(&[root.path().to_owned()], &wanted).unwrap()
        };
        assert_eq!(found("veth"), Some(deep.join("veth.ko")));
        assert_eq!(found("virtio_blk"), Some(deep.join("virtio_blk.ko.xz")));
        assert_eq!(found("virtio"), None);
    }
}
