//! KVM or TCG? A probe guest decides: `/dev/kvm` that opens is not yet a KVM that boots (nested, containers, odd CPUs).
//!
//! In: a kernel and the static probe program. Out: an [`Accel`], remembered per kernel and boot of the host, since the probe costs seconds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::qemu::{Accel, accelerator};

/// Printed by the probe as PID 1.
const MARKER: &str = "KEDGE-PROBE-BOOTED";
/// KVM boots the probe in about a second; a broken one hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// Asks the cache, then a guest. Only KVM is probed: TCG works everywhere.
pub fn choose(kernel: &Path, probe: &Path, cache: &Path) -> Result<Accel> {
    if let Ok(forced) = std::env::var("KEDGE_RIG_ACCEL") {
        return match forced.as_str() {
            "kvm" => Ok(Accel::Kvm),
            "tcg" => Ok(Accel::Tcg),
            other => anyhow::bail!("KEDGE_RIG_ACCEL={other}: neither kvm nor tcg"),
        };
    }
    if fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err()
    {
        return Ok(Accel::Tcg);
    }
    let file = cache.join(format!("accel-{}", fingerprint(kernel)?));
    if let Ok(known) = fs::read_to_string(&file) {
        return Ok(if known == "kvm" {
            Accel::Kvm
        } else {
            Accel::Tcg
        });
    }
    let boots = kvm_boots(kernel, probe).context("boot the KVM probe guest")?;
    fs::create_dir_all(cache).with_context(|| format!("make directory {}", cache.display()))?;
    fs::write(&file, if boots { "kvm" } else { "tcg" })
        .with_context(|| format!("write {}", file.display()))?;
    Ok(if boots { Accel::Kvm } else { Accel::Tcg })
}

fn fingerprint(kernel: &Path) -> Result<String> {
    let boot =
        fs::read_to_string("/proc/sys/kernel/random/boot_id").context("read the host's boot id")?;
    let size = fs::metadata(kernel)
        .with_context(|| format!("stat {}", kernel.display()))?
        .len();
    Ok(format!("{}-{size}", boot.trim()))
}

fn kvm_boots(kernel: &Path, probe: &Path) -> Result<bool> {
    let directory = tempfile::tempdir().context("make a temporary directory")?;
    let initramfs = directory.path().join("initramfs");
    let program = fs::read(probe).with_context(|| format!("read {}", probe.display()))?;
    fs::write(&initramfs, cpio(&program)).context("write the probe's initramfs")?;
    let console: PathBuf = directory.path().join("console");
    let mut command = Command::new("qemu-system-x86_64");
    for (flag, value) in accelerator(Accel::Kvm) {
        command.args([flag, value]);
    }
    let mut child = command
        .args([
            "-M",
            "q35",
            "-m",
            "256",
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
        ])
        .args(["-append", "console=ttyS0 panic=-1 quiet rdinit=/init"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(&initramfs)
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start QEMU")?;
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().context("wait for QEMU")?.is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    // It may have ended by itself.
    let _ = child.kill();
    child.wait().context("wait for QEMU")?;
    Ok(fs::read_to_string(&console)
        .unwrap_or_default()
        .contains(MARKER))
}

/// A "newc" archive with `/dev`, `/dev/console` and `/init` (kernel: Documentation/driver-api/early-userspace/buffer-format.rst).
fn cpio(init: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    // Mode bits: directory 0o040000, character device 0o020000, file 0o100000. Device 5:1 is the console.
    entry(&mut out, 1, "dev", 0o040_755, (0, 0), &[]);
    entry(&mut out, 2, "dev/console", 0o020_600, (5, 1), &[]);
    entry(&mut out, 3, "init", 0o100_755, (0, 0), init);
    entry(&mut out, 0, "TRAILER!!!", 0, (0, 0), &[]);
    out
}

fn entry(
    out: &mut Vec<u8>,
    inode: u32,
    name: &str,
    mode: u32,
    (major, minor): (u32, u32),
    content: &[u8],
) {
    let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
    let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
    out.extend(b"070701");
    for field in [
        inode, mode, 0, 0, 1, 0, size, 0, 0, major, minor, name_size, 0,
    ] {
        out.extend(format!("{field:08x}").bytes());
    }
    out.extend(name.bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend(content);
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn cpio_itself_lists_the_archive() {
        let mut child = match Command::new("cpio")
            .args(["-t", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
        {
            Ok(child) => child,
            // A second opinion where the tool is installed; the archive's use is tested by the probe guest itself.
            Err(_) => return,
        };
        child.stdin.take().unwrap().write_all(&cpio(b"#!")).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            "dev\ndev/console\ninit\n"
        );
    }

    #[test]
    fn headers_and_contents_are_aligned() {
        let archive = cpio(b"12345");
        assert_eq!(archive.len() % 4, 0);
        assert_eq!(
            archive
                .windows(6)
                .filter(|window| window == b"070701")
                .count(),
            4
        );
    }
}
