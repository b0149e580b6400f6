//! The atomic writer: a volume's files change all at once, seen through one symlink.
//!
//! ```text
//! <volume>/..2026_01_02_03_04_05.000000001/app.conf     the files of one version
//! <volume>/..data -> ..2026_01_02_03_04_05.000000001    swapped by rename
//! <volume>/app.conf -> ..data/app.conf                  what containers open
//! ```
//!
//! A reader that resolves `..data` once sees one version. When nothing differs, nothing is written.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use super::Error;

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// One file, everything known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PayloadFile {
    /// Relative, without `..`.
    pub path: String,
    pub content: Vec<u8>,
    pub mode: u32,
    pub uid: Option<u32>,
    /// Applied with the file, so that a swap never shows files that the pod cannot read.
    pub gid: Option<u32>,
}

/// Makes the volume show exactly these files. `stamp` names the version (nanoseconds since 1970). True: something changed.
pub fn write(volume: &str, root: &Path, files: &[PayloadFile], stamp: i64) -> Result<bool, Error> {
    let io = |path: &Path, error| Error::Io(volume.to_owned(), path.display().to_string(), error);
    for file in files {
        if !is_plain(&file.path) {
            let text = format!("file path {:?} leaves the volume", file.path);
            return Err(Error::Unsupported(volume.to_owned(), text));
        }
    }
    let data = root.join(DATA);
    let old = fs::read_link(&data).ok();
    let same = old.is_some() && shows(&data, files);
    if !same {
        let version = format!("..{stamp}");
        let directory = root.join(&version);
        // A crash may have left a half-written version of the same name.
        kedge_sys::fs::remove_tree(&directory)
            .map_err(|error| Error::Kernel(volume.to_owned(), error))?;
        write_version(&directory, files).map_err(|(path, error)| io(&path, error))?;
        let fresh = root.join(DATA_NEW);
        remove_if_there(&fresh).map_err(|e| io(&fresh, e))?;
        symlink(&version, &fresh).map_err(|e| io(&fresh, e))?;
        fs::rename(&fresh, &data).map_err(|e| io(&data, e))?;
    }
    link_names(root, files).map_err(|(path, error)| io(&path, error))?;
    remove_other_versions(root).map_err(|(path, error)| io(&path, error))?;
    Ok(!same)
}

fn is_plain(path: &str) -> bool {
    !path.is_empty()
        && Path::new(path)
            .components()
            .all(|c| matches!(c, std::path::Component::Normal(_)))
        && !path.starts_with("..")
}

fn shows(data: &Path, files: &[PayloadFile]) -> bool {
    let mut present = BTreeSet::new();
    if list(data, data, &mut present).is_err() || present.len() != files.len() {
        return false;
    }
    files.iter().all(|file| {
        let path = data.join(&file.path);
        let Ok(metadata) = fs::metadata(&path) else {
            return false;
        };
        metadata.mode() & 0o777 == file.mode & 0o777
            && file.uid.is_none_or(|uid| metadata.uid() == uid)
            && file.gid.is_none_or(|gid| metadata.gid() == gid)
            && fs::read(&path).is_ok_and(|content| content == file.content)
    })
}

fn list(root: &Path, at: &Path, into: &mut BTreeSet<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(at)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            list(root, &entry.path(), into)?;
        } else if let Ok(relative) = entry.path().strip_prefix(root) {
            into.insert(relative.to_owned());
        }
    }
    Ok(())
}

type Failed = (PathBuf, std::io::Error);

fn write_version(directory: &Path, files: &[PayloadFile]) -> Result<(), Failed> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error| (path, error)
    };
    fs::create_dir(directory).map_err(at(directory))?;
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(directory, open.clone()).map_err(at(directory))?;
    for file in files {
        let path = directory.join(&file.path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(at(parent))?;
            let mut up = parent;
            while up != directory {
                fs::set_permissions(up, open.clone()).map_err(at(up))?;
                let Some(next) = up.parent() else { break };
                up = next;
            }
        }
        fs::write(&path, &file.content).map_err(at(&path))?;
        if file.uid.is_some() || file.gid.is_some() {
            chown(&path, file.uid, file.gid).map_err(at(&path))?;
        }
        let mode = fs::Permissions::from_mode(file.mode);
        fs::set_permissions(&path, mode).map_err(at(&path))?;
    }
    Ok(())
}

/// One symlink per first path component; names nobody wants any more go.
fn link_names(root: &Path, files: &[PayloadFile]) -> Result<(), Failed> {
    let wanted: BTreeSet<&str> = files
        .iter()
        .filter_map(|file| file.path.split('/').next())
        .collect();
    for name in &wanted {
        let link = root.join(name);
        let target = Path::new(DATA).join(name);
        if fs::read_link(&link).is_ok_and(|t| t == target) {
            continue;
        }
        remove_if_there(&link).map_err(|e| (link.clone(), e))?;
        symlink(&target, &link).map_err(|e| (link.clone(), e))?;
    }
    for entry in fs::read_dir(root).map_err(|e| (root.to_owned(), e))? {
        let entry = entry.map_err(|e| (root.to_owned(), e))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let ours = fs::read_link(entry.path()).is_ok_and(|t| t.starts_with(DATA));
        if ours && !wanted.contains(name.as_ref()) {
            fs::remove_file(entry.path()).map_err(|e| (entry.path(), e))?;
        }
    }
    Ok(())
}

fn remove_other_versions(root: &Path) -> Result<(), Failed> {
    let current = fs::read_link(root.join(DATA)).ok();
    for entry in fs::read_dir(root).map_err(|e| (root.to_owned(), e))? {
        let entry = entry.map_err(|e| (root.to_owned(), e))?;
        let name = entry.file_name();
        let is_version = name.to_string_lossy().starts_with("..")
            && entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_version && current.as_deref() != Some(Path::new(&name)) {
            fs::remove_dir_all(entry.path()).map_err(|e| (entry.path(), e))?;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
