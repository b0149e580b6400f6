//! The read-only root as an erofs image, made by `mkfs.erofs` from a directory that the tree was written to.
//!
//! In: a [`Tree`], a time, a compression. Out: a file, bit-identical for equal trees; its UUID comes from the tree's
//! hash. The volume label is written here: bookworm's erofs-utils 1.5 has no option for it.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::crc;
use crate::error::{At, Error, Result};
use crate::tool;
use crate::tree::Tree;

const SUPERBLOCK: u64 = 1024;
const MAGIC: u32 = 0xe0f5_e1e2;
const BLOCK: usize = 4096;
/// Offsets in the superblock (fs/erofs/erofs_fs.h).
const CHECKSUM: usize = 4;
const FEATURE_COMPAT: usize = 8;
const VOLUME_NAME: usize = 64;
const VOLUME_NAME_LEN: usize = 16;
const FEATURE_COMPAT_SB_CHKSUM: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Lz4hc,
}

/// Returns the size of the image in bytes, a multiple of the block size.
pub fn make(
    tree: &Tree,
    label: &str,
    stamp: u64,
    compression: Compression,
    out: &Path,
) -> Result<u64> {
    let work = tempfile::TempDir::new().at("create a temporary directory for", out)?;
    let root = work.path().join("root");
    fs::create_dir(&root).at("create directory", &root)?;
    // The tree's root directory shows in the image: its mode must not come from the umask.
    fs::set_permissions(&root, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .at("chmod", &root)?;
    tree.write_to(&root)?;
    let mut args: Vec<OsString> = vec![
        format!("-T{stamp}").into(),
        format!("-U{}", crate::gpt::Guid::derive("erofs", &tree.sha256()?)).into(),
        "-x-1".into(), // the host's extended attributes are no input
        "--all-root".into(),
        "--quiet".into(),
    ];
    if compression == Compression::Lz4hc {
        // Level 12 saves another 0.5 % and takes five times as long.
        args.push("-zlz4hc,6".into());
    }
    args.extend([out.into(), root.into()]);
    tool::run("mkfs.erofs", &args, &[])?;
    set_label(out, label)?;
    Ok(fs::metadata(out).at("stat", out)?.len())
}

fn set_label(image: &Path, label: &str) -> Result<()> {
    if label.len() > VOLUME_NAME_LEN {
        return Err(Error::Disk(format!(
            "label {label:?} is longer than {VOLUME_NAME_LEN} bytes"
        )));
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(image)
        .at("open", image)?;
    let mut block = vec![0; BLOCK - SUPERBLOCK as usize];
    file.read_exact_at(&mut block, SUPERBLOCK)
        .at("read", image)?;
    if block[..4] != MAGIC.to_le_bytes() {
        return Err(Error::Disk(format!(
            "{} has no erofs superblock: mkfs.erofs made something else",
            image.display()
        )));
    }
    block[VOLUME_NAME..VOLUME_NAME + VOLUME_NAME_LEN].fill(0);
    block[VOLUME_NAME..VOLUME_NAME + label.len()].copy_from_slice(label.as_bytes());
    block[FEATURE_COMPAT] |= FEATURE_COMPAT_SB_CHKSUM as u8;
    block[CHECKSUM..CHECKSUM + 4].fill(0);
    let checksum = crc::crc32c_raw(&block);
    block[CHECKSUM..CHECKSUM + 4].copy_from_slice(&checksum.to_le_bytes());
    file.write_all_at(&block, SUPERBLOCK).at("write", image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_label_is_in_the_superblock_and_fsck_agrees() {
        let dir = tempfile::TempDir::new().unwrap();
        let out = dir.path().join("root.erofs");
        let mut tree = Tree::new();
        tree.file("etc/os-release", 0o644, "NAME=Kedge\n").unwrap();
        tree.file("bin/big", 0o755, vec![7; 300_000]).unwrap();
        tree.symlink("etc/hosts", "/run/hosts").unwrap();
        make(
            &tree,
            "KEDGE-ROOT-A",
            1_700_000_000,
            Compression::Lz4hc,
            &out,
        )
        .unwrap();
        let bytes = fs::read(&out).unwrap();
        assert_eq!(&bytes[1024 + 64..1024 + 76], b"KEDGE-ROOT-A");
        // fsck.erofs checks the superblock's checksum and every inode.
        tool::run("fsck.erofs", &[&out], &[]).unwrap();
    }
}
