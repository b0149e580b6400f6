//! What can go wrong while building an image. Every variant names the operation and the file.

use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{operation} {}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("run {tool}: the program is not installed (Debian package {package})")]
    ToolMissing { tool: String, package: &'static str },
    #[error("run {tool}")]
    ToolStart {
        tool: String,
        #[source]
        source: io::Error,
    },
    #[error("{command}: {status}\n{stderr}")]
    ToolFailed {
        command: String,
        status: String,
        stderr: String,
    },
    #[error("kernel package {}: {problem}", path.display())]
    Kernel { path: PathBuf, problem: String },
    #[error("module {module}: {problem}")]
    Module { module: String, problem: String },
    #[error("program {}: {problem}", path.display())]
    Program { path: PathBuf, problem: String },
    #[error("file tree: {path}: {problem}")]
    Tree { path: String, problem: String },
    #[error("disk image: {0}")]
    Disk(String),
    #[error("certificates in {}: it holds no certificate in PEM", .0.display())]
    Authorities(PathBuf),
    #[error("seed volume: {0}")]
    Seed(String),
    #[error("OCI image {image}: {problem}")]
    Oci { image: String, problem: String },
    #[error("size {text:?}: {problem}")]
    Size { text: String, problem: String },
}

pub type Result<T> = std::result::Result<T, Error>;

/// Gives an I/O result its operation and path: `fs::read(p).at("read", p)?`.
pub trait At<T> {
    fn at(self, operation: &'static str, path: &Path) -> Result<T>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, operation: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io {
            operation,
            path: path.to_owned(),
            source,
        })
    }
}
