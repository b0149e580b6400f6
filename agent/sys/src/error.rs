//! One error for every system call: which operation, on what, and the kernel's answer.

use std::fmt;

/// A failed kernel operation. `Display` reads `mount /dev/vda2 on /state: Invalid argument`.
#[derive(Debug)]
pub struct Error {
    /// What was tried, a verb phrase: `mount`, `add route`.
    pub operation: &'static str,
    /// On what: a path, an address, an interface.
    pub object: String,
    /// The kernel's answer.
    pub source: std::io::Error,
}

/// The result of a kernel operation.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error from anything that converts to `io::Error` (`nix::Errno` does).
    pub fn new(
        operation: &'static str,
        object: impl Into<String>,
        source: impl Into<std::io::Error>,
    ) -> Self {
        Self {
            operation,
            object: object.into(),
            source: source.into(),
        }
    }

    /// The last OS error of this thread.
    pub fn last(operation: &'static str, object: impl Into<String>) -> Self {
        Self::new(operation, object, std::io::Error::last_os_error())
    }

    /// The errno, when the kernel gave one.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The cause is part of the sentence: kernel errors have no further chain to print. Its words are nix's: musl
        // knows no text for what a damaged file system gives (EUCLEAN), the number alone helps nobody.
        write!(f, "{} {}: ", self.operation, self.object)?;
        match self.errno().map(nix::errno::Errno::from_raw) {
            None | Some(nix::errno::Errno::UnknownErrno) => self.source.fmt(f),
            Some(errno) => f.write_str(errno.desc()),
        }
    }
}

impl std::error::Error for Error {}
