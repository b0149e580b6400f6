//! Errors that name the file, and the line where one is to blame.

use std::path::PathBuf;

/// Why a value could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is there but cannot be read.
    #[error("read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The file holds something else than this kernel interface documents.
    #[error("{path}: unexpected line `{line}`", path = path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Its line, cut to 80 characters.
        line: String,
    },
}

impl Error {
    pub(crate) fn line(path: impl Into<PathBuf>, line: &str) -> Self {
        Self::Line {
            path: path.into(),
            line: line.chars().take(80).collect(),
        }
    }
}
