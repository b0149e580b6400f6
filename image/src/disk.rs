//! The disk image: where each volume lies, and the sparse file that holds them.
//!
//! In: the erofs root and the sizes. Out: `kedge.img` with ROOT-A, STATE and DATA. Layout is decided in [`plan`]; writing
//! makes no choices. Slot B, the ESP and verity belong to the update work, which replaces this plan.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use kedge_machine::paths;

use crate::error::{At, Error, Result};
use crate::ext4::{self, Volume};
use crate::gpt::{self, Guid, LINUX_DATA, Partition, SECTOR};

const MIB: u64 = 1 << 20;
pub const STATE_SIZE: u64 = 64 * MIB;
/// Partitions start on whole MiB: erase blocks of flash and RAID stripes divide it.
const ALIGN: u64 = MIB;

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Slot {
    pub name: &'static str,
    pub offset: u64,
    pub size: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub slots: [Slot; 3],
    pub size: u64,
}

pub fn plan(root_size: u64, data_size: u64) -> Result<Plan> {
    if data_size < paths::MIN_DATA_BYTES {
        return Err(Error::Disk(format!(
            "data size {data_size} is too small: a node needs at least {} bytes for images and pods",
            paths::MIN_DATA_BYTES
        )));
    }
    let mut offset = ALIGN;
    let slots = [
        (paths::LABEL_ROOT_A, root_size),
        (paths::LABEL_STATE, STATE_SIZE),
        (paths::LABEL_DATA, data_size),
    ]
    .map(|(name, size)| {
        let size = size.next_multiple_of(ALIGN);
        let slot = Slot { name, offset, size };
        offset += size;
        slot
    });
    // One more MiB holds the backup table.
    Ok(Plan {
        slots,
        size: offset + ALIGN,
    })
}

/// `identity` names the content: all GUIDs of the disk derive from it.
pub fn write(image: &Path, plan: &Plan, root: &Path, identity: &[u8], stamp: u64) -> Result<()> {
    let file = File::create(image).at("create", image)?;
    file.set_len(plan.size).at("size", image)?;
    let [root_slot, state, data] = &plan.slots;
    copy_sparse(root, &file, root_slot.offset).at("copy the root into", image)?;
    drop(file);
    for (slot, project_quota) in [(state, false), (data, true)] {
        let volume = Volume {
            label: slot.name,
            offset: slot.offset,
            size: slot.size,
            uuid: Guid::derive(&format!("volume {}", slot.name), identity),
            stamp,
            project_quota,
        };
        ext4::make(image, &volume)?;
    }
    let partitions = plan.slots.clone().map(|slot| Partition {
        guid: Guid::derive(&format!("partition {}", slot.name), identity),
        name: slot.name.to_owned(),
        kind: LINUX_DATA,
        first: slot.offset / SECTOR,
        sectors: slot.size / SECTOR,
    });
    let disk = Guid::derive("disk", identity);
    let table = gpt::table(disk, plan.size / SECTOR, &partitions)?;
    let file = fs::OpenOptions::new()
        .write(true)
        .open(image)
        .at("open", image)?;
    let tail = plan.size - gpt::TAIL_SECTORS * SECTOR;
    file.write_all_at(&table.head, 0)
        .at("write the partition table of", image)?;
    file.write_all_at(&table.tail, tail)
        .at("write the partition table of", image)?;
    // mke2fs may have cut or grown the file's end.
    file.set_len(plan.size).at("size", image)
}

/// Copies a file, leaving holes where it has zeros.
fn copy_sparse(from: &Path, to: &File, offset: u64) -> io::Result<()> {
    let mut source = File::open(from)?;
    let mut block = vec![0; 64 << 10];
    let mut at = offset;
    loop {
        let length = source.read(&mut block)?;
        if length == 0 {
            return Ok(());
        }
        if block[..length].iter().any(|byte| *byte != 0) {
            to.write_all_at(&block[..length], at)?;
        }
        at += length as u64;
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn the_plan_is_aligned_and_leaves_room_for_the_backup_table() {
        expect![[r#"
            Plan {
                slots: [
                    Slot {
                        name: "KEDGE-ROOT-A",
                        offset: 1048576,
                        size: 3145728,
                    },
                    Slot {
                        name: "KEDGE-STATE",
                        offset: 4194304,
                        size: 67108864,
                    },
                    Slot {
                        name: "KEDGE-DATA",
                        offset: 71303168,
                        size: 1073741824,
                    },
                ],
                size: 1146093568,
            }
        "#]]
        .assert_debug_eq(&plan(2 * MIB + 1, 1 << 30).unwrap());
    }

    #[test]
    fn a_small_data_volume_is_refused() {
        assert_eq!(
            plan(MIB, 64 * MIB).unwrap_err().to_string(),
            "disk image: data size 67108864 is too small: a node needs at least 536870912 bytes for images and pods"
        );
    }
}
