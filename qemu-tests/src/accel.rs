//! KVM or TCG? A probe guest decides: `/dev/kvm` that opens is not yet a KVM that boots (nested, containers, odd CPUs).
//!
//! In: a kernel and the static probe program. Out: an [`Accel`], remembered per kernel and boot of the host, since the probe costs seconds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::cpio::Archive;
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
    let mut archive = Archive::with_console();
    archive.program("init", &program);
    fs::write(&initramfs, archive.finish()).context("write the probe's initramfs")?;
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
