//! `/run/kedge/cni/`: one file for each address, the last address given, and the lock that is held while a [`Store`] lives.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use kedge_podnet::Allocation;
use kedge_sys::{Error, Result, fs};

const LOCK: &str = "lock";
const LAST: &str = "last";

/// The store, locked.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    _lock: fs::Lock,
}

impl Store {
    /// Waits for the lock.
    pub fn open(dir: &Path) -> Result<Self> {
        fs::create_directory(dir, 0o700)?;
        Ok(Self {
            dir: dir.to_owned(),
            _lock: fs::lock(dir.join(LOCK))?,
        })
    }

    /// Every allocation, by address. A file that does not read as one would make its address look free: that is an error.
    pub fn read(&self) -> Result<Vec<Allocation>> {
        read_allocations(&self.dir)
    }

    /// The address given last.
    pub fn last(&self) -> Option<Ipv4Addr> {
        std::fs::read_to_string(self.dir.join(LAST))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    /// Stores an allocation and remembers its address as the last one.
    pub fn write(&self, allocation: &Allocation) -> Result<()> {
        let text = serde_json::to_string(allocation)
            .map_err(|e| Error::new("encode", allocation.address.to_string(), e))?;
        fs::write_atomic(
            self.dir.join(allocation.address.to_string()),
            text.as_bytes(),
            0o600,
        )?;
        fs::write_atomic(
            self.dir.join(LAST),
            allocation.address.to_string().as_bytes(),
            0o600,
        )
    }

    /// Gives an address back.
    pub fn remove(&self, address: Ipv4Addr) -> Result<()> {
        let path = self.dir.join(address.to_string());
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::new("remove", path.display().to_string(), e))
            }
            _ => Ok(()),
        }
    }
}

/// Every allocation in `dir`; empty when there is no such directory yet.
pub fn read_allocations(dir: &Path) -> Result<Vec<Allocation>> {
    let failed = |path: &Path, e: std::io::Error| Error::new("read", path.display().to_string(), e);
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|e| failed(dir, e))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| failed(dir, e))?.path();
        // Other names are the lock, the last address, and halves of files being written.
        let is_address = path
            .file_name()
            .and_then(|n| n.to_str())
            .is_some_and(|n| n.parse::<Ipv4Addr>().is_ok());
        if is_address {
            let text = std::fs::read_to_string(&path).map_err(|e| failed(&path, e))?;
            found.push(
                serde_json::from_str::<Allocation>(&text).map_err(|e| failed(&path, e.into()))?,
            );
        }
    }
    found.sort_by_key(|a| a.address);
    Ok(found)
}
