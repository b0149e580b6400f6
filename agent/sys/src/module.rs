//! Loading kernel modules by path.
//!
//! In: the path of a `.ko` (also `.ko.xz`, `.ko.zst`, `.ko.gz` where the kernel unpacks them) and its parameters. Out:
//! nothing. Deliberately absent: dependencies and aliases; the image builder writes load lists in order.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use crate::{Error, Result};

/// What loading did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// It is in the kernel now.
    New,
    /// It was before.
    Already,
}

/// Loads the module at `path`.
pub fn load(path: impl AsRef<Path>, parameters: &str) -> Result<Loaded> {
    const COMPRESSED: libc::c_int = 4;
    let path = path.as_ref();
    let failed = |e: std::io::Error| Error::new("load module", path.display().to_string(), e);
    let file = File::open(path).map_err(failed)?;
    let parameters = CString::new(parameters).map_err(|e| failed(e.into()))?;
    let plain = path.extension().is_some_and(|e| e == "ko");
    let flags = if plain { 0 } else { COMPRESSED };
    // SAFETY: the descriptor is open and `parameters` NUL-terminated across the call, which only reads them.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_finit_module,
            file.as_raw_fd(),
            parameters.as_ptr(),
            flags,
        )
    };
    if rc == 0 {
        return Ok(Loaded::New);
    }
    match std::io::Error::last_os_error() {
        e if e.raw_os_error() == Some(libc::EEXIST) => Ok(Loaded::Already),
        e => Err(failed(e)),
    }
}
