//! Block devices and mounts: `diskstats`, `mountinfo`. Sources: `Documentation/admin-guide/iostats.rst`, `proc.rst`.

use std::collections::BTreeSet;

use crate::file;

/// One line of `diskstats`; times in milliseconds, sectors of 512 bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// Device number, first part.
    pub major: u32,
    /// Device number, second part.
    pub minor: u32,
    /// `vda1`
    pub name: Box<str>,
    /// Reads.
    pub reads: Requests,
    /// Writes.
    pub writes: Requests,
    /// Requests under way.
    pub in_progress: u64,
    /// Milliseconds with requests under way.
    pub busy_ms: u64,
    /// The same, times their number.
    pub weighted_ms: u64,
}

/// One direction of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Completed.
    pub completed: u64,
    /// Merged into others.
    pub merged: u64,
    /// Sectors of 512 bytes.
    pub sectors: u64,
    /// Milliseconds spent.
    pub ms: u64,
}

/// A mounted filesystem that is worth measuring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Device number, first part.
    pub major: u32,
    /// Device number, second part.
    pub minor: u32,
    /// Where.
    pub path: Box<str>,
    /// What the `device` label says: the device, or a tmpfs' mount point.
    pub device: Box<str>,
}

/// Devices that did something, and those of mounts. The error is the line that is not as documented.
pub(crate) fn disks(text: &[u8]) -> Result<Vec<Disk>, &[u8]> {
    let mut found = Vec::new();
    for line in file::lines(text) {
        let mut words = file::words(line);
        let mut small = || {
            words
                .next()
                .and_then(file::number)
                .and_then(|n| u32::try_from(n).ok())
                .ok_or(line)
        };
        let (major, minor) = (small()?, small()?);
        let name = words.next().ok_or(line)?;
        let mut values = [0u64; 11];
        for value in &mut values {
            *value = words.next().and_then(file::number).ok_or(line)?;
        }
        let [
            r0,
            r1,
            r2,
            r3,
            w0,
            w1,
            w2,
            w3,
            in_progress,
            busy_ms,
            weighted_ms,
        ] = values;
        let requests = |completed, merged, sectors, ms| Requests {
            completed,
            merged,
            sectors,
            ms,
        };
        // Sixteen loop and RAM devices nobody uses would be most of the list.
        if values.iter().all(|v| *v == 0) {
            continue;
        }
        found.push(Disk {
            major,
            minor,
            name: String::from_utf8_lossy(name).into(),
            reads: requests(r0, r1, r2, r3),
            writes: requests(w0, w1, w2, w3),
            in_progress,
            busy_ms,
            weighted_ms,
        });
    }
    Ok(found)
}

/// Filesystems on devices once each, and the node's own tmpfs. Left out: what belongs to pods and containers (their volumes are in the
/// Summary), and everything that could hang (network filesystems).
pub(crate) fn mounts(text: &[u8]) -> Vec<Mount> {
    let mut found: Vec<Mount> = Vec::new();
    let (mut numbers, mut devices) = (BTreeSet::new(), BTreeSet::new());
    for mount in file::lines(text).filter_map(mount) {
        // Bind mounts of a filesystem show it again; a tmpfs over another hides it.
        let is_new = numbers.insert((mount.major, mount.minor));
        if is_new && devices.insert(mount.device.clone()) {
            found.push(mount);
        }
    }
    found
}

fn mount(line: &[u8]) -> Option<Mount> {
    let mut words = file::words(line);
    let number = words.nth(2)?;
    let path = unescape(words.nth(1)?);
    let mut after = words.skip_while(|w| *w != b"-");
    let kind = after.nth(1)?;
    let source = unescape(after.next()?);
    let colon = number.iter().position(|b| *b == b':')?;
    let part = |bytes: &[u8]| u32::try_from(file::number(bytes)?).ok();
    let tmpfs = kind == b"tmpfs";
    let on_device = kind.starts_with(b"ext") || matches!(kind, b"xfs" | b"btrfs" | b"vfat");
    let pods = ["/var/lib/kubelet/", "/run/containerd/", "/data/var/lib/"];
    let of_pods = pods.iter().any(|prefix| path.starts_with(prefix));
    if of_pods || !(tmpfs || on_device) {
        return None;
    }
    Some(Mount {
        major: part(number.get(..colon)?)?,
        minor: part(number.get(colon + 1..)?)?,
        device: if tmpfs {
            path.clone().into()
        } else {
            source.into()
        },
        path: path.into(),
    })
}

/// Spaces and such are `\040`.
fn unescape(word: &[u8]) -> String {
    let mut out = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = |n: usize| {
            let digit = tail.get(n)?.checked_sub(b'0').filter(|d| *d < 8)?;
            Some(u32::from(digit))
        };
        if byte == b'\\'
            && let (Some(a), Some(b), Some(c)) = (octal(0), octal(1), octal(2))
            && let Ok(code) = u8::try_from(a * 64 + b * 8 + c)
        {
            out.push(code);
            rest = tail.get(3..).unwrap_or_default();
            continue;
        }
        out.push(byte);
        rest = tail;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_line_of_any_kernel_is_read() {
        // 4.18 added discards, 5.5 flushes: more columns at the end.
        let text = b" 254       0 vda 10 1 80 5 20 2 160 9 1 12 14 0 0 0 0 3 4\n   7       0 loop0 0 0 0 0 0 0 0 0 0 0 0\n";
        let disks = disks(text).unwrap();
        assert_eq!(disks.len(), 1);
        assert_eq!(
            (
                disks[0].reads.sectors,
                disks[0].writes.completed,
                disks[0].weighted_ms
            ),
            (80, 20, 14)
        );
        assert_eq!(super::disks(b"254 0 vda 1"), Err(&b"254 0 vda 1"[..]));
    }

    #[test]
    fn each_filesystem_is_listed_once_and_foreign_ones_never() {
        let text = "21 1 0:20 / /proc rw - proc proc rw\n\
            30 1 254:2 / /data rw shared:1 - ext4 /dev/vdb rw\n\
            31 1 254:2 /var /var rw shared:2 - ext4 /dev/vdb rw\n\
            32 1 254:1 / /state rw - ext4 /dev/vda3 rw\n\
            33 1 0:30 / /run rw - tmpfs run rw\n\
            34 1 0:31 / /mnt/a\\040b rw - tmpfs run rw\n\
            35 1 0:32 / /var/lib/kubelet/pods/x/volumes/y rw - tmpfs tmpfs rw\n\
            36 1 0:40 / /mnt/nfs rw - nfs4 server:/x rw\n\
            short\n";
        let devices: Vec<String> = mounts(text.as_bytes())
            .into_iter()
            .map(|m| format!("{} {}", m.device, m.path))
            .collect();
        assert_eq!(
            devices,
            [
                "/dev/vdb /data",
                "/dev/vda3 /state",
                "/run /run",
                "/mnt/a b /mnt/a b"
            ]
        );
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_taken(text in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
            let _ = disks(&text);
            let _ = mounts(&text);
        }

        #[test]
        fn mount_lines_are_taken(words in proptest::collection::vec("(30|1|254:2|/|/a\\\\0|-|ext4|tmpfs|\n| )", 0..60)) {
            let _ = mounts(words.join(" ").as_bytes());
        }
    }
}
