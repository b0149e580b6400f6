//! Superblocks of the filesystems a node meets, as far as finding and mounting them needs.
//!
//! In: the first bytes of a device. Out: kind, label, size, a few flags. Never panics; short or foreign bytes are `None`.
//! Layouts: kernel `fs/ext4/ext4.h`, `fs/erofs/erofs_fs.h`, ECMA-119 section 8.4, Microsoft's FAT specification section 3.

/// How much of a device [`parse`] wants to see: up to the end of ISO 9660's first descriptor.
pub const HEAD: usize = 17 * 2048;

/// Filesystems we mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// STATE, DATA, seeds, test volumes.
    Ext4(Ext4),
    /// The root.
    Erofs,
    /// Seeds.
    Vfat,
    /// Seeds.
    Iso9660,
}

/// What matters about an ext4 before it is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ext4 {
    /// Bytes per block.
    pub block_bytes: u64,
    /// Made with project quotas, so that they can be switched on.
    pub project_quota: bool,
    /// The kernel found damage at some time, and no check has cleared the mark since.
    pub errors: bool,
}

/// What [`parse`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Which filesystem.
    pub kind: Kind,
    /// Volume label without padding; empty when there is none.
    pub label: String,
    /// Size that the filesystem believes it has; 0 where its superblock does not say.
    pub bytes: u64,
}

impl Kind {
    /// The name `mount` wants.
    pub fn fstype(&self) -> &'static str {
        match self {
            Kind::Ext4(_) => "ext4",
            Kind::Erofs => "erofs",
            Kind::Vfat => "vfat",
            Kind::Iso9660 => "iso9660",
        }
    }
}

/// The filesystem at the beginning of a device, from its first [`HEAD`] bytes (fewer are fine).
pub fn parse(head: &[u8]) -> Option<Superblock> {
    ext4(head)
        .or_else(|| erofs(head))
        .or_else(|| iso9660(head))
        .or_else(|| vfat(head))
}

fn ext4(head: &[u8]) -> Option<Superblock> {
    const INCOMPAT_64BIT: u32 = 0x80;
    const RO_COMPAT_QUOTA: u32 = 0x100;
    const RO_COMPAT_PROJECT: u32 = 0x2000;
    const STATE_ERRORS: u16 = 2;
    let sb = head.get(1024..2048)?;
    if u16_at(sb, 56)? != 0xef53 {
        return None;
    }
    let shift = u32_at(sb, 24)?;
    // 1 KiB to 64 KiB blocks exist.
    let block_bytes = (shift <= 6).then(|| 1024u64 << shift)?;
    let read_only = u32_at(sb, 100)?;
    let high = if u32_at(sb, 96)? & INCOMPAT_64BIT == 0 {
        0
    } else {
        u64::from(u32_at(sb, 336)?)
    };
    let blocks = high << 32 | u64::from(u32_at(sb, 4)?);
    let quota = RO_COMPAT_QUOTA | RO_COMPAT_PROJECT;
    Some(Superblock {
        kind: Kind::Ext4(Ext4 {
            block_bytes,
            project_quota: read_only & quota == quota,
            errors: u16_at(sb, 58)? & STATE_ERRORS != 0,
        }),
        label: label(sb.get(120..136)?),
        bytes: blocks.saturating_mul(block_bytes),
    })
}

fn erofs(head: &[u8]) -> Option<Superblock> {
    let sb = head.get(1024..1152)?;
    if u32_at(sb, 0)? != 0xe0f5_e1e2 {
        return None;
    }
    let shift = u32::from(*sb.get(12)?);
    let block_bytes = (9..=16).contains(&shift).then(|| 1u64 << shift)?;
    Some(Superblock {
        kind: Kind::Erofs,
        label: label(sb.get(64..80)?),
        bytes: u64::from(u32_at(sb, 36)?).saturating_mul(block_bytes),
    })
}

fn iso9660(head: &[u8]) -> Option<Superblock> {
    let descriptor = head.get(16 * 2048..17 * 2048)?;
    if descriptor.get(..6)? != b"\x01CD001" {
        return None;
    }
    let blocks = u64::from(u32_at(descriptor, 80)?);
    Some(Superblock {
        kind: Kind::Iso9660,
        label: label(descriptor.get(40..72)?),
        bytes: blocks * u64::from(u16_at(descriptor, 128)?),
    })
}

/// The type strings are "informative" by the specification, but every maker writes them, and without them any boot
/// sector would be taken for FAT.
fn vfat(head: &[u8]) -> Option<Superblock> {
    let sector = head.get(..512)?;
    if sector.get(510..)? != [0x55, 0xaa] {
        return None;
    }
    let name = if sector.get(82..87)? == b"FAT32" {
        sector.get(71..82)?
    } else if matches!(sector.get(54..59)?, b"FAT12" | b"FAT16") {
        sector.get(43..54)?
    } else {
        return None;
    };
    let sectors = match u16_at(sector, 19)? {
        0 => u64::from(u32_at(sector, 32)?),
        small => u64::from(small),
    };
    let label = label(name);
    Some(Superblock {
        kind: Kind::Vfat,
        // What mkfs writes for "none".
        label: if label == "NO NAME" {
            String::new()
        } else {
            label
        },
        bytes: sectors * u64::from(u16_at(sector, 11)?),
    })
}

/// Labels are padded with NUL or spaces.
fn label(field: &[u8]) -> String {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).trim_end().to_owned()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn put(head: &mut [u8], at: usize, bytes: &[u8]) {
        head[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn made_ext4() -> Vec<u8> {
        let mut head = vec![0; HEAD];
        put(&mut head, 1024 + 4, &65536u32.to_le_bytes());
        put(&mut head, 1024 + 24, &2u32.to_le_bytes());
        put(&mut head, 1024 + 56, &0xef53u16.to_le_bytes());
        put(&mut head, 1024 + 58, &1u16.to_le_bytes());
        put(&mut head, 1024 + 96, &0x80u32.to_le_bytes());
        put(&mut head, 1024 + 100, &0x2100u32.to_le_bytes());
        put(&mut head, 1024 + 120, b"KEDGE-STATE");
        put(&mut head, 1024 + 336, &1u32.to_le_bytes());
        head
    }

    #[test]
    fn ext4_gives_label_size_and_features() {
        let found = parse(&made_ext4()).expect("ext4");
        assert_eq!(found.label, "KEDGE-STATE");
        assert_eq!(found.bytes, (1 << 32 | 65536) * 4096);
        assert_eq!(
            found.kind,
            Kind::Ext4(Ext4 {
                block_bytes: 4096,
                project_quota: true,
                errors: false
            })
        );
    }

    #[test]
    fn an_ext4_marked_in_error_says_so() {
        let mut head = made_ext4();
        put(&mut head, 1024 + 58, &3u16.to_le_bytes());
        let found = parse(&head).expect("ext4");
        assert!(matches!(found.kind, Kind::Ext4(e) if e.errors));
    }

    #[test]
    fn erofs_gives_its_volume_name() {
        let mut head = vec![0; 4096];
        put(&mut head, 1024, &0xe0f5_e1e2u32.to_le_bytes());
        head[1024 + 12] = 12;
        put(&mut head, 1024 + 36, &10u32.to_le_bytes());
        put(&mut head, 1024 + 64, b"KEDGE-ROOT-A");
        let found = parse(&head).expect("erofs");
        assert_eq!((found.kind, found.bytes), (Kind::Erofs, 40960));
        assert_eq!(found.label, "KEDGE-ROOT-A");
    }

    #[test]
    fn iso9660_gives_its_volume_identifier() {
        let mut head = vec![0; HEAD];
        put(&mut head, 32768, b"\x01CD001");
        put(
            &mut head,
            32768 + 40,
            format!("{:32}", "KEDGE-SEED").as_bytes(),
        );
        put(&mut head, 32768 + 80, &100u32.to_le_bytes());
        put(&mut head, 32768 + 128, &2048u16.to_le_bytes());
        let found = parse(&head).expect("iso9660");
        assert_eq!((found.label.as_str(), found.bytes), ("KEDGE-SEED", 204_800));
    }

    #[test]
    fn fat_without_a_name_has_no_label() {
        let mut head = vec![0; 512];
        put(&mut head, 510, &[0x55, 0xaa]);
        put(&mut head, 54, b"FAT16   ");
        put(&mut head, 43, b"NO NAME    ");
        assert_eq!(parse(&head).expect("fat").label, "");
        put(&mut head, 43, b"KEDGE-SEED ");
        assert_eq!(parse(&head).expect("fat").label, "KEDGE-SEED");
        put(&mut head, 54, b"NTFS    ");
        assert_eq!(parse(&head), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_superblock_or_none(mut head in proptest::collection::vec(any::<u8>(), 0..2200), magic in any::<bool>()) {
            if magic && head.len() > 1090 {
                put(&mut head, 1024 + 56, &0xef53u16.to_le_bytes());
            }
            let _ = parse(&head);
        }
    }
}
