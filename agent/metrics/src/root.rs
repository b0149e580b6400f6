//! The injected root: every read goes through it.

use std::io;
use std::path::{Path, PathBuf};

use crate::Error;

/// A directory that stands for `/`.
#[derive(Clone, Debug)]
pub struct Root(PathBuf);

impl Root {
    /// Reads below `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self(dir.into())
    }

    /// The text of a file given by its absolute path on a node; `None` when it does not exist (or went away, `ENODEV`, as
    /// files of a removed cgroup do).
    pub(crate) fn text(&self, path: &str) -> Result<Option<String>, Error> {
        const ENODEV: i32 = 19;
        let path = self.path(path);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(ENODEV) => {
                Ok(None)
            }
            Err(source) => Err(Error::Read { path, source }),
        }
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.0.join(Path::new(path.trim_start_matches('/')))
    }
}
