//! The partition table (UEFI 2.10 chapter 5): protective MBR, primary and backup GPT.
//!
//! In: partitions with names, types, first sectors and lengths. Out: the bytes of the first and the last sectors of the
//! disk. All GUIDs are given or derived from content: nothing random. Alignment is the caller's business.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::crc::crc32;
use crate::error::{Error, Result};

pub const SECTOR: u64 = 512;
/// MBR, header, 128 entries of 128 bytes.
pub const HEAD_SECTORS: u64 = 34;
/// 128 entries and the backup header.
pub const TAIL_SECTORS: u64 = 33;
const ENTRIES: usize = 128;
const ENTRY: usize = 128;
const HEADER: usize = 92;
const NAME_UNITS: usize = 36;

/// "Linux filesystem data" of the Discoverable Partitions Specification.
pub const LINUX_DATA: Guid = Guid(0x0fc63daf_8483_4772_8e79_3d69d8477de4);

/// A GUID as a number in the order it is written in text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guid(pub u128);

impl Guid {
    /// A version 8 (custom) UUID, the same for the same purpose and content.
    pub fn derive(purpose: &str, content: &[u8]) -> Self {
        let hash = Sha256::new()
            .chain_update(purpose)
            .chain_update([0])
            .chain_update(content)
            .finalize();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash[..16]);
        let number = u128::from_be_bytes(bytes);
        let version = (number & !(0xf << 76)) | (8 << 76);
        Self((version & !(0b11 << 62)) | (0b10 << 62))
    }

    /// On disk the first three groups are little endian.
    fn to_disk(self) -> [u8; 16] {
        let mut bytes = self.0.to_be_bytes();
        bytes[..4].reverse();
        bytes[4..6].reverse();
        bytes[6..8].reverse();
        bytes
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{:032x}", self.0);
        let (a, rest) = text.split_at(8);
        write!(
            f,
            "{a}-{}-{}-{}-{}",
            &rest[..4],
            &rest[4..8],
            &rest[8..12],
            &rest[12..]
        )
    }
}

#[derive(Clone, Debug)]
pub struct Partition {
    pub name: String,
    pub kind: Guid,
    pub guid: Guid,
    pub first: u64,
    pub sectors: u64,
}

#[derive(Debug)]
pub struct Table {
    /// Written at sector 0.
    pub head: Vec<u8>,
    /// Written at `sectors - TAIL_SECTORS`.
    pub tail: Vec<u8>,
}

pub fn table(disk: Guid, sectors: u64, partitions: &[Partition]) -> Result<Table> {
    check(sectors, partitions)?;
    let mut entries = vec![0; ENTRIES * ENTRY];
    for (slot, partition) in entries.chunks_exact_mut(ENTRY).zip(partitions) {
        write_entry(slot, partition);
    }
    let header = |this: u64, other: u64, table: u64| {
        let mut out = vec![0; SECTOR as usize];
        out[..8].copy_from_slice(b"EFI PART");
        out[8..12].copy_from_slice(&0x0001_0000u32.to_le_bytes());
        out[12..16].copy_from_slice(&(HEADER as u32).to_le_bytes());
        out[24..32].copy_from_slice(&this.to_le_bytes());
        out[32..40].copy_from_slice(&other.to_le_bytes());
        out[40..48].copy_from_slice(&HEAD_SECTORS.to_le_bytes());
        out[48..56].copy_from_slice(&(sectors - TAIL_SECTORS - 1).to_le_bytes());
        out[56..72].copy_from_slice(&disk.to_disk());
        out[72..80].copy_from_slice(&table.to_le_bytes());
        out[80..84].copy_from_slice(&(ENTRIES as u32).to_le_bytes());
        out[84..88].copy_from_slice(&(ENTRY as u32).to_le_bytes());
        out[88..92].copy_from_slice(&crc32(&entries).to_le_bytes());
        let crc = crc32(&out[..HEADER]);
        out[16..20].copy_from_slice(&crc.to_le_bytes());
        out
    };
    let last = sectors - 1;
    let primary = header(1, last, 2);
    let backup = header(last, 1, sectors - TAIL_SECTORS);
    Ok(Table {
        head: [protective_mbr(sectors), primary, entries.clone()].concat(),
        tail: [entries, backup].concat(),
    })
}

fn check(sectors: u64, partitions: &[Partition]) -> Result<()> {
    let mut free = HEAD_SECTORS;
    for partition in partitions {
        let name = &partition.name;
        if name.encode_utf16().count() > NAME_UNITS {
            return Err(Error::Disk(format!("partition name {name:?} is too long")));
        }
        if partition.first < free || partition.sectors == 0 {
            return Err(Error::Disk(format!(
                "partition {name} overlaps what is before it"
            )));
        }
        free = partition.first + partition.sectors;
        if free + TAIL_SECTORS > sectors {
            return Err(Error::Disk(format!(
                "partition {name} ends at sector {free}, but the disk has {sectors}, {TAIL_SECTORS} of them for the backup table"
            )));
        }
    }
    Ok(())
}

fn write_entry(slot: &mut [u8], partition: &Partition) {
    slot[..16].copy_from_slice(&partition.kind.to_disk());
    slot[16..32].copy_from_slice(&partition.guid.to_disk());
    slot[32..40].copy_from_slice(&partition.first.to_le_bytes());
    let last = partition.first + partition.sectors - 1;
    slot[40..48].copy_from_slice(&last.to_le_bytes());
    for (unit, place) in partition
        .name
        .encode_utf16()
        .zip(slot[56..].chunks_exact_mut(2))
    {
        place.copy_from_slice(&unit.to_le_bytes());
    }
}

/// One entry of type 0xEE over the whole disk, as far as 32 bits reach.
fn protective_mbr(sectors: u64) -> Vec<u8> {
    let mut out = vec![0; SECTOR as usize];
    let size = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
    let entry = &mut out[446..462];
    entry[1..4].copy_from_slice(&[0x00, 0x02, 0x00]);
    entry[4] = 0xee;
    entry[5..8].copy_from_slice(&[0xff, 0xff, 0xff]);
    entry[8..12].copy_from_slice(&1u32.to_le_bytes());
    entry[12..16].copy_from_slice(&size.to_le_bytes());
    out[510..].copy_from_slice(&[0x55, 0xaa]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(name: &str, first: u64, sectors: u64) -> Partition {
        let guid = Guid::derive(name, b"");
        Partition {
            name: name.to_owned(),
            kind: LINUX_DATA,
            guid,
            first,
            sectors,
        }
    }

    #[test]
    fn guids_print_as_written_and_swap_on_disk() {
        assert_eq!(
            LINUX_DATA.to_string(),
            "0fc63daf-8483-4772-8e79-3d69d8477de4"
        );
        assert_eq!(
            LINUX_DATA.to_disk()[..8],
            [0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47]
        );
        let text = Guid::derive("a", b"b").to_string();
        assert_eq!(&text[14..15], "8", "{text}");
        assert!("89ab".contains(&text[19..20]), "{text}");
        assert_ne!(Guid::derive("a", b"b"), Guid::derive("ab", b""));
    }

    #[test]
    fn both_headers_carry_valid_checksums() {
        let table = table(Guid(1), 8192, &[partition("A", 2048, 2048)]).unwrap();
        assert_eq!(table.head.len() as u64, HEAD_SECTORS * SECTOR);
        assert_eq!(table.tail.len() as u64, TAIL_SECTORS * SECTOR);
        for header in [
            &table.head[512..1024],
            &table.tail[table.tail.len() - 512..],
        ] {
            let mut copy = header[..HEADER].to_vec();
            copy[16..20].fill(0);
            assert_eq!(crc32(&copy).to_le_bytes(), header[16..20]);
        }
        assert_eq!(table.head[1024..], table.tail[..ENTRIES * ENTRY]);
        assert_eq!(&table.head[1024 + 56..1024 + 60], b"A\0\0\0");
    }

    #[test]
    fn overlaps_and_small_disks_are_refused() {
        let check = |partitions: &[Partition], words: &str| {
            let text = table(Guid(1), 8192, partitions).unwrap_err().to_string();
            assert!(text.contains(words), "{text}");
        };
        check(
            &[partition("A", 2048, 6200)],
            "partition A ends at sector 8248",
        );
        check(
            &[partition("A", 2048, 2048), partition("B", 4000, 10)],
            "partition B overlaps",
        );
        check(&[partition("A", 33, 1)], "overlaps");
    }

    proptest::proptest! {
        #[test]
        fn entries_describe_what_was_asked(first in 34u64..4000, sectors in 1u64..4000) {
            let table = table(Guid(7), 16384, &[partition("P", first, sectors)]).unwrap();
            let entry = &table.head[1024..1152];
            let read = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().unwrap());
            proptest::prop_assert_eq!(read(32), first);
            proptest::prop_assert_eq!(read(40) - read(32) + 1, sectors);
        }
    }
}
