//! Block devices: which there are, how large, and what superblock they carry.
//!
//! In: `/sys/class/block` and the first 34 KiB of each device. Out: [`Volume`]s in name order. Parsing is in
//! [`superblock`] and pure. Deliberately absent: reading partitions (the kernel does; here only whether it refused a table for a disk
//! that ends too early), udev, a cache.

pub mod superblock;

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

pub use superblock::{Kind, Superblock};

use crate::{Error, Result};

const CLASS: &str = "/sys/class/block";

/// A block device with a superblock that [`superblock::parse`] knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// `/dev/vda3`.
    pub device: PathBuf,
    /// The disk it is a part of, `vda`; its own name when it is a whole disk.
    pub disk: String,
    /// Size of the device.
    pub bytes: u64,
    /// What is on it.
    pub superblock: Superblock,
}

/// Every volume that can be read now. A device that cannot be read is left out: an empty card reader is no error.
pub fn volumes() -> Result<Vec<Volume>> {
    Ok(devices()?.iter().filter_map(|name| volume(name)).collect())
}

/// Volumes with this label, in name order.
pub fn labelled(label: &str) -> Result<Vec<Volume>> {
    let mut all = volumes()?;
    all.retain(|v| v.superblock.label == label);
    Ok(all)
}

/// Names of all block devices (`vda`, `vda1`), in name order; RAM disks and unbound loop devices have size 0 and are left out.
pub fn devices() -> Result<Vec<String>> {
    let entries = std::fs::read_dir(CLASS).map_err(|e| Error::new("list", CLASS, e))?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| size_of(name).is_some_and(|bytes| bytes > 0))
        .collect();
    names.sort();
    Ok(names)
}

/// The volume on the device of this name, if it has a superblock we know.
pub fn volume(name: &str) -> Option<Volume> {
    let device = Path::new("/dev").join(name);
    let mut head = Vec::with_capacity(superblock::HEAD);
    File::open(&device)
        .ok()?
        .take(superblock::HEAD as u64)
        .read_to_end(&mut head)
        .ok()?;
    Some(Volume {
        superblock: superblock::parse(&head)?,
        bytes: size_of(name)?,
        disk: disk_of(name),
        device,
    })
}

/// A disk that ends before its own GUID partition table does, which is why the kernel shows none of its partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Short {
    /// `/dev/vda`.
    pub device: PathBuf,
    /// Size of the disk.
    pub bytes: u64,
    /// Size that the table was made for.
    pub needed: u64,
}

/// Whole disks that are smaller than their partition table says: an image written to a disk it does not fit on.
pub fn short_disks() -> Vec<Short> {
    let names = devices().unwrap_or_default();
    names.iter().filter_map(|name| short(name)).collect()
}

fn short(name: &str) -> Option<Short> {
    let device = Path::new("/dev").join(name);
    let mut head = Vec::with_capacity(2 * SECTOR);
    let file = File::open(&device).ok()?;
    let mut file = file.take(2 * SECTOR as u64);
    file.read_to_end(&mut head).ok()?;
    let (bytes, needed) = (size_of(name)?, gpt_size(head.get(SECTOR..)?)?);
    (bytes < needed).then_some(Short {
        device,
        bytes,
        needed,
    })
}

const SECTOR: usize = 512;

/// Bytes of the disk that a GPT header was made for: its backup header is the last sector (UEFI 2.10, table 5.5: signature at 0,
/// AlternateLBA at 32).
fn gpt_size(header: &[u8]) -> Option<u64> {
    let backup = header.get(32..40)?.try_into().ok()?;
    header
        .starts_with(b"EFI PART")
        .then(|| u64::from_le_bytes(backup).checked_add(1)?.checked_mul(512))?
}

/// The disk that a device is part of; the device's own name when it is a whole disk.
pub fn disk_of(name: &str) -> String {
    let link = Path::new(CLASS).join(name);
    let parent = link.join("partition").exists().then(|| {
        // The link resolves to …/block/vda/vda3: the directory above a partition is its disk.
        let real = std::fs::canonicalize(&link).ok()?;
        Some(real.parent()?.file_name()?.to_str()?.to_owned())
    });
    parent.flatten().unwrap_or_else(|| name.to_owned())
}

/// sysfs counts in 512-byte sectors whatever the device's own block size is.
fn size_of(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(Path::new(CLASS).join(name).join("size")).ok()?;
    text.trim().parse::<u64>().ok()?.checked_mul(512)
}

/// Grows the mounted ext4 at `mount_point` to `blocks` blocks of its own block size.
pub fn grow_ext4(mount_point: impl AsRef<Path>, blocks: u64) -> Result<()> {
    let path = mount_point.as_ref();
    let failed = |e: std::io::Error| Error::new("grow ext4 at", path.display().to_string(), e);
    let directory = File::open(path).map_err(failed)?;
    // SAFETY: the descriptor is open across the call; the kernel reads one u64 from a pointer that is valid for it.
    let rc = unsafe { libc::ioctl(directory.as_raw_fd(), RESIZE_FS as _, &raw const blocks) };
    if rc == 0 {
        Ok(())
    } else {
        Err(failed(std::io::Error::last_os_error()))
    }
}

/// `EXT4_IOC_RESIZE_FS`, `_IOW('f', 16, __u64)`: the same number on every architecture we build for.
const RESIZE_FS: u64 = 0x4008_6610;

#[cfg(test)]
mod tests {
    use super::gpt_size;

    #[test]
    fn the_size_a_partition_table_was_made_for() {
        let mut header = [0u8; 512];
        header[..8].copy_from_slice(b"EFI PART");
        header[32..40].copy_from_slice(&2_097_151u64.to_le_bytes());
        assert_eq!(gpt_size(&header), Some(1 << 30));
        assert_eq!(gpt_size(&header[..39]), None, "cut short");
        header[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(gpt_size(&header), None, "no such disk");
        assert_eq!(gpt_size(&[0; 512]), None, "no table");
    }
}
