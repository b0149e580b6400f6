//! Directories of the cache, each made beside its place and then put there whole. Two rigs may make the same one at once.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Puts the directory `fresh` at `place`, which is named after what it is made of. Where another rig was faster, its directory has the same content:
/// it stays, and ours goes.
pub fn settle(fresh: &Path, place: &Path) -> Result<()> {
    let Err(error) = fs::rename(fresh, place) else {
        return Ok(());
    };
    if !place.is_dir() {
        return Err(error).with_context(|| format!("rename to {}", place.display()));
    }
    fs::remove_dir_all(fresh).with_context(|| format!("delete {}", fresh.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seen: two searches for the smallest memory began at once, and one ended with "Directory not empty".
    #[test]
    fn who_comes_second_takes_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("abc");
        for turn in ["first", "second"] {
            let fresh = dir.path().join(format!(".new.{turn}"));
            fs::create_dir(&fresh).unwrap();
            fs::write(fresh.join("by"), turn).unwrap();
            settle(&fresh, &place).unwrap();
            assert!(!fresh.exists());
        }
        assert_eq!(fs::read_to_string(place.join("by")).unwrap(), "first");
        let gone = settle(&dir.path().join("nothing"), &dir.path().join("x"));
        assert!(gone.unwrap_err().to_string().starts_with("rename to "));
    }
}
