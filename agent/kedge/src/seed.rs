//! Reads the seed volume and STATE, writes the config that is to be kept. Thin: [`crate::settings`] decides.
//!
//! Every call blocks on disks: run it on the blocking pool. The seed is mounted only while it is read, read-only.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use kedge_machine::paths;
use kedge_sys::block::{self, Volume};
use kedge_sys::mount::{self, Flags};

use crate::settings::{Decision, Found, decide};

/// A config document beyond this is no config document.
const MAX_BYTES: u64 = 1 << 20;

/// Looks at the seed and at STATE, keeps a new good config, and gives the decision. Failures to write are messages: the node
/// runs with what it has.
pub fn load() -> Decision {
    let mut decision = decide(&seed(), &file(Path::new(paths::STATE_CONFIG)));
    if decision.set_aside
        && let Err(error) = set_aside(Path::new(paths::STATE_CONFIG))
    {
        decision.messages.push(error.to_string());
    }
    if let Some(text) = &decision.keep
        && let Err(error) = keep(text)
    {
        decision.messages.push(error.to_string());
    }
    decision
}

/// The seed's document. Several volumes with the label: the first by device name that holds the file.
fn seed() -> Found {
    let volumes = match block::labelled(paths::LABEL_SEED) {
        Ok(volumes) => volumes,
        Err(error) => return Found::Unreadable(error.to_string()),
    };
    let mut last = Found::Nothing;
    for volume in volumes {
        last = read_seed(&volume);
        if matches!(last, Found::Text(_)) {
            return last;
        }
    }
    last
}

fn read_seed(volume: &Volume) -> Found {
    let mount_point = Path::new(paths::RUN_SEED);
    let flags = Flags::MS_RDONLY | Flags::MS_NODEV | Flags::MS_NOSUID | Flags::MS_NOEXEC;
    let fstype = volume.superblock.kind.fstype();
    let mounted = fs::create_dir_all(mount_point)
        .map_err(|e| format!("make {}: {e}", mount_point.display()))
        .and_then(|()| {
            mount::mount(&volume.device, mount_point, fstype, flags, "").map_err(|e| e.to_string())
        });
    if let Err(why) = mounted {
        return Found::Unreadable(why);
    }
    let found = match file(&mount_point.join(paths::SEED_CONFIG)) {
        Found::Nothing => Found::Unreadable(format!(
            "{} holds no file {}",
            volume.device.display(),
            paths::SEED_CONFIG
        )),
        other => other,
    };
    // A lazy unmount cannot fail on a busy mount; the page cache of the device goes with its last opener.
    if let Err(error) = mount::umount_lazy(mount_point) {
        tracing::warn!(%error, "the seed stays mounted");
    }
    found
}

fn file(path: &Path) -> Found {
    let read = fs::File::open(path).and_then(|file| {
        let mut bytes = Vec::new();
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    match read {
        Ok(bytes) if bytes.len() as u64 > MAX_BYTES => Found::Unreadable(format!(
            "{} is larger than {MAX_BYTES} bytes",
            path.display()
        )),
        // Bytes that are no UTF-8 reach the parser as replacement characters and are refused there with their place.
        Ok(bytes) => Found::Text(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Nothing,
        Err(error) => Found::Unreadable(format!("read {}: {error}", path.display())),
    }
}

fn keep(text: &str) -> kedge_sys::Result<()> {
    kedge_sys::fs::write_atomic(paths::STATE_CONFIG, text.as_bytes(), 0o600)
}

/// Renames a damaged file to `<name>.corrupt`, replacing an older one: STATE is small and one sample is enough to look at.
fn set_aside(path: &Path) -> kedge_sys::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".corrupt");
    fs::rename(path, &aside)
        .map_err(|e| kedge_sys::Error::new("set aside", path.display().to_string(), e))
}
