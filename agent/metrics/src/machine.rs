//! The machine as a whole: processors, memory, ids. Sources: `Documentation/filesystems/proc.rst`, sysfs-devices-system-cpu.

use crate::{Error, Root};

/// Facts that do not change while the machine runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Online logical processors.
    pub cpus: u32,
    /// Bytes of RAM the kernel manages.
    pub memory_bytes: u64,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// DMI product UUID; the machine id where firmware gives none.
    pub system_uuid: String,
    /// `/proc/sys/kernel/osrelease`.
    pub kernel: String,
    /// `PRETTY_NAME` of `/etc/os-release`.
    pub os_image: String,
    /// Most process ids.
    pub pid_max: Option<u64>,
    /// Processor cores, each with one or more logical processors.
    pub cores: u32,
    /// Processor packages.
    pub sockets: u32,
}

/// Memory now, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// `MemTotal`.
    pub total: u64,
    /// `MemAvailable`.
    pub available: u64,
    /// `SwapTotal`.
    pub swap_total: u64,
    /// `SwapFree`.
    pub swap_free: u64,
}

/// Reads what does not change.
pub fn machine(root: &Root) -> Result<Machine, Error> {
    let word = |path: &str| Ok::<_, Error>(root.text(path)?.unwrap_or_default().trim().to_owned());
    let machine_id = word("/etc/machine-id")?;
    // DMI is a firmware matter: unreadable or absent is usual on arm64 and in containers.
    let uuid = word("/sys/class/dmi/id/product_uuid").unwrap_or_default();
    let cpus = cpus(root)?;
    let (cores, sockets) = topology(root, cpus);
    Ok(Machine {
        cpus,
        cores,
        sockets,
        memory_bytes: memory(root)?.total,
        boot_id: word("/proc/sys/kernel/random/boot_id")?,
        system_uuid: if uuid.is_empty() {
            machine_id.clone()
        } else {
            uuid
        },
        machine_id,
        kernel: word("/proc/sys/kernel/osrelease")?,
        os_image: os_image(&root.text("/etc/os-release")?.unwrap_or_default()),
        pid_max: word("/proc/sys/kernel/pid_max")?.parse().ok(),
    })
}

/// Reads `/proc/meminfo`.
pub fn memory(root: &Root) -> Result<Memory, Error> {
    const PATH: &str = "/proc/meminfo";
    let text = root.text(PATH)?.unwrap_or_default();
    meminfo(&text).map_err(|line| Error::line(root.path(PATH), line))
}

/// The error is the line that is not as documented.
pub(crate) fn meminfo(text: &str) -> Result<Memory, &str> {
    let mut memory = Memory::default();
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        let field = match key {
            "MemTotal" => &mut memory.total,
            "MemAvailable" => &mut memory.available,
            "SwapTotal" => &mut memory.swap_total,
            "SwapFree" => &mut memory.swap_free,
            _ => continue,
        };
        let kib = value
            .trim()
            .strip_suffix(" kB")
            .and_then(|n| n.trim().parse::<u64>().ok());
        *field = kib.and_then(|n| n.checked_mul(1024)).ok_or(line)?;
    }
    Ok(memory)
}

fn cpus(root: &Root) -> Result<u32, Error> {
    const PATH: &str = "/sys/devices/system/cpu/online";
    match root.text(PATH)? {
        Some(text) => {
            cpu_list(text.trim()).ok_or_else(|| Error::line(root.path(PATH), text.trim()))
        }
        None => Ok(0),
    }
}

/// Number of processors in a list such as `0-3,8`.
pub(crate) fn cpu_list(text: &str) -> Option<u32> {
    text.split(',').try_fold(0u32, |sum, part| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (u32, u32) = (from.parse().ok()?, to.parse().ok()?);
        sum.checked_add(to.checked_sub(from)?.checked_add(1)?)
    })
}

/// Different (package, core) pairs and packages among the logical processors. Where the kernel does not say (some virtual machines), one
/// package, and every processor is a core.
fn topology(root: &Root, cpus: u32) -> (u32, u32) {
    let mut cores = std::collections::BTreeSet::new();
    // Offline processors have no topology directory; the highest number is not known, so a few more than are online are tried.
    for cpu in 0..cpus.saturating_mul(2).min(8192) {
        let number = |name: &str| {
            let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/{name}");
            root.text(&path).ok()??.trim().parse::<i64>().ok()
        };
        if let (Some(package), Some(core)) = (number("physical_package_id"), number("core_id")) {
            cores.insert((package, core));
        }
    }
    let packages: std::collections::BTreeSet<i64> = cores.iter().map(|(p, _)| *p).collect();
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    match cores.len() {
        0 => (cpus, u32::from(cpus > 0)),
        n => (count(n), count(packages.len())),
    }
}

fn os_image(text: &str) -> String {
    let name = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    name.map(|n| n.trim_matches('"').to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let root = Root::new(dir.path());
        (dir, root)
    }

    #[test]
    fn a_machine_is_read_from_its_files() {
        let (_dir, root) = tree(&[
            (
                "proc/meminfo",
                "MemTotal:         502400 kB\nMemFree: 1 kB\nMemAvailable:     400000 kB\nHugePages_Total: 0\n",
            ),
            ("sys/devices/system/cpu/online", "0-2,5\n"),
            (
                "etc/os-release",
                "NAME=Kedge\nPRETTY_NAME=\"Kedge 0.1.0\"\n",
            ),
            ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
            ("proc/sys/kernel/osrelease", "6.12.1\n"),
            ("proc/sys/kernel/pid_max", "32768\n"),
        ]);
        let machine = machine(&root).unwrap();
        assert_eq!((machine.cpus, machine.memory_bytes), (4, 502_400 * 1024));
        assert_eq!(machine.os_image, "Kedge 0.1.0");
        assert_eq!(
            machine.system_uuid, machine.machine_id,
            "no DMI: the machine id stands in"
        );
        assert_eq!(memory(&root).unwrap().available, 400_000 * 1024);
    }

    #[test]
    fn a_broken_line_is_named() {
        let (_dir, root) = tree(&[("proc/meminfo", "MemTotal: lots kB\n")]);
        let text = memory(&root).unwrap_err().to_string();
        assert!(
            text.ends_with("proc/meminfo: unexpected line `MemTotal: lots kB`"),
            "{text}"
        );
    }

    #[test]
    fn odd_cpu_lists_are_refused() {
        for (text, expected) in [
            ("0", Some(1)),
            ("0-3", Some(4)),
            ("3-0", None),
            ("", None),
            ("0-4294967295", None),
        ] {
            assert_eq!(cpu_list(text), expected, "{text:?}");
        }
    }
}
