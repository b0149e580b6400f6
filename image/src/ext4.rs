//! Empty ext4 file systems for STATE and DATA, written into the disk image at an offset by `mke2fs`.
//!
//! In: where, how large, label, identity, time. Out: a file system whose bytes depend on nothing else: features come from
//! a configuration of ours, not the host's `/etc/mke2fs.conf`. Files are absent: init makes the directories at boot,
//! on a fresh volume as on an old one.

use std::fs;
use std::path::Path;

use crate::error::{At, Result};
use crate::gpt::Guid;
use crate::tool;

const BLOCK: u64 = 4096;

/// Features by name, so that a newer e2fsprogs changes nothing. `resize_inode` lets the kernel grow a mounted volume.
const CONFIG: &str = "\
[defaults]
\tbase_features = sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr
\tdefault_mntopts = acl,user_xattr
\tenable_periodic_fsck = 0
\tblocksize = 4096
\tinode_size = 256
\tinode_ratio = 16384
[fs_types]
\text4 = {
\t\tfeatures = has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize
\t}
";

#[derive(Clone, Copy, Debug)]
pub struct Volume<'a> {
    pub label: &'a str,
    pub offset: u64,
    pub size: u64,
    pub uuid: Guid,
    pub stamp: u64,
    /// Project quotas, by which emptyDir and container limits are enforced.
    pub project_quota: bool,
}

pub fn make(image: &Path, volume: &Volume<'_>) -> Result<()> {
    let work = tempfile::TempDir::new().at("create a temporary directory for", image)?;
    let config = work.path().join("mke2fs.conf");
    fs::write(&config, CONFIG).at("write", &config)?;
    // The image is a fresh sparse file: nothing needs to be zeroed, now or by the kernel's lazy thread.
    let mut extended = format!(
        "offset={},hash_seed={},root_owner=0:0,nodiscard,lazy_itable_init=0,lazy_journal_init=1,assume_storage_prezeroed=1",
        volume.offset, volume.uuid
    );
    if volume.project_quota {
        extended.push_str(",quotatype=prjquota");
    }
    let uuid = volume.uuid.to_string();
    let blocks = (volume.size / BLOCK).to_string();
    let image = image.to_string_lossy();
    let mut args = vec![
        "-q",
        "-F",
        "-t",
        "ext4",
        "-L",
        volume.label,
        "-U",
        &uuid,
        "-b",
        "4096",
        "-m",
        "1",
    ];
    // Errors stop the volume instead of spreading: the agent reports a read-only DATA.
    args.extend(["-e", "remount-ro", "-o", "Linux", "-E", &extended]);
    if volume.project_quota {
        args.extend(["-O", "quota,project"]);
    }
    args.extend([image.as_ref(), &blocks]);
    let time = volume.stamp.to_string();
    let env = [
        ("MKE2FS_CONFIG", config.to_string_lossy().into_owned()),
        ("E2FSPROGS_FAKE_TIME", time.clone()),
        ("SOURCE_DATE_EPOCH", time),
    ];
    let env: Vec<_> = env
        .iter()
        .map(|(key, value)| (*key, value.as_str()))
        .collect();
    tool::run("mke2fs", &args, &env).map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn make_one(path: &Path) -> Vec<u8> {
        let file = fs::File::create(path).unwrap();
        file.set_len(65 << 20).unwrap();
        let volume = Volume {
            label: "KEDGE-STATE",
            offset: 1 << 20,
            size: 64 << 20,
            uuid: Guid::derive("test", b"x"),
            stamp: 1_700_000_000,
            project_quota: true,
        };
        make(path, &volume).unwrap();
        fs::read(path).unwrap()
    }

    #[test]
    fn two_volumes_are_equal_sparse_and_clean() {
        let dir = tempfile::TempDir::new().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("other-b"));
        let first = make_one(&a);
        assert!(first == make_one(&b), "two runs of mke2fs differ");
        let allocated = fs::metadata(&a).unwrap().blocks() * 512;
        assert!(allocated < 4 << 20, "{allocated} bytes allocated");
        let volume = dir.path().join("volume");
        fs::write(&volume, &first[1 << 20..]).unwrap();
        tool::run("e2fsck", &["-fn".as_ref(), volume.as_os_str()], &[]).unwrap();
        let superblock = &first[(1 << 20) + 1024..];
        assert_eq!(&superblock[120..131], b"KEDGE-STATE");
        // Without an explicit block size mke2fs counts in KiB, and the volume fills a quarter of its place.
        assert_eq!(superblock[4..8], (64u32 << 20 >> 12).to_le_bytes());
    }
}
