//! Where the rig keeps things: one directory per cluster. Paths only, plus making and emptying the directory.
//!
//! Artefacts that outlive clusters are in the cache (`~/.cache/kedge`), which the build steps own.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A cluster's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dirs {
    pub root: PathBuf,
}

impl Dirs {
    /// `$KEDGE_RIG_DIR`, or the place the XDG rules give.
    pub fn from_environment() -> Result<Self> {
        if let Some(root) = std::env::var_os("KEDGE_RIG_DIR") {
            return Ok(Self { root: root.into() });
        }
        let state = match std::env::var_os("XDG_STATE_HOME") {
            Some(state) => PathBuf::from(state),
            None => PathBuf::from(
                std::env::var_os("HOME").context("neither KEDGE_RIG_DIR nor HOME is set")?,
            )
            .join(".local/state"),
        };
        Ok(Self {
            root: state.join("kedge-rig"),
        })
    }

    /// The tests' own cluster, beside the user's.
    pub fn for_tests(&self) -> Self {
        Self {
            root: self.root.join("test"),
        }
    }

    pub fn pki(&self) -> PathBuf {
        self.root.join("pki")
    }

    /// Kubeconfigs of the control plane's own programs.
    pub fn config(&self) -> PathBuf {
        self.root.join("config")
    }

    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.root.join("kubeconfig")
    }

    /// What the supervisor shall run.
    pub fn spec(&self) -> PathBuf {
        self.root.join("spec.json")
    }

    /// What runs: pid and port. Present while a supervisor lives.
    pub fn run(&self) -> PathBuf {
        self.root.join("run.json")
    }

    pub fn control(&self) -> PathBuf {
        self.root.join("control.sock")
    }

    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub fn supervisor_log(&self) -> PathBuf {
        self.logs().join("supervisor.log")
    }

    /// What the disks of all machines begin with, where images are on it.
    pub fn shared_disk(&self) -> PathBuf {
        self.root.join("shared.img")
    }

    pub fn vm(&self, name: &str) -> PathBuf {
        self.root.join("vms").join(name)
    }

    pub fn console(&self, name: &str) -> PathBuf {
        self.vm(name).join("console.log")
    }

    /// A fresh directory for a fresh cluster: what an earlier one left is deleted, the lock stays.
    pub fn renew(&self) -> Result<()> {
        for old in [
            self.pki(),
            self.config(),
            self.data(),
            self.logs(),
            self.root.join("vms"),
        ] {
            remove(&old)?;
        }
        for file in [
            self.run(),
            self.control(),
            self.kubeconfig(),
            self.shared_disk(),
        ] {
            remove(&file)?;
        }
        for new in [
            self.config(),
            self.data(),
            self.logs(),
            self.root.join("vms"),
        ] {
            fs::create_dir_all(&new)
                .with_context(|| format!("make directory {}", new.display()))?;
        }
        Ok(())
    }
}

fn remove(path: &Path) -> Result<()> {
    let result = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("delete {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewing_twice_leaves_empty_directories() {
        let root = tempfile::tempdir().unwrap();
        let dirs = Dirs {
            root: root.path().join("rig"),
        };
        dirs.renew().unwrap();
        fs::create_dir_all(dirs.vm("node1")).unwrap();
        fs::write(dirs.console("node1"), "old").unwrap();
        dirs.renew().unwrap();
        assert!(!dirs.vm("node1").exists() && dirs.logs().is_dir());
    }
}
