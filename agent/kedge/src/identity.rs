//! What this machine remembers of itself in STATE: its node name and pod ranges (`/state/node.json`).
//!
//! The name must not change with the network, and a node whose API server is away after a power cut needs its pod range to
//! start static pods. Written only when it changes. A damaged file is kept aside: the machine starts as a new one.

use std::io;
use std::path::Path;

use kedge_wire::net::Ipv4Net;
use serde::{Deserialize, Serialize};

/// The file's content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// The Node's name.
    pub name: Option<String>,
    /// `10.244.1.0/24`
    #[serde(default)]
    pub pod_ranges: Vec<String>,
}

impl Identity {
    /// The ranges that can be used; others were written by a newer version and are left alone.
    pub fn ranges(&self) -> Vec<Ipv4Net> {
        self.pod_ranges
            .iter()
            .filter_map(|r| r.parse().ok())
            .collect()
    }
}

/// Reads the file; a sentence for the console when it had to be set aside.
pub fn read(path: &Path) -> (Identity, Option<String>) {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return (Identity::default(), None);
        }
        Err(error) => {
            return (
                Identity::default(),
                Some(format!("read {}: {error}", path.display())),
            );
        }
    };
    match serde_json::from_slice(&bytes) {
        Ok(identity) => (identity, None),
        Err(error) => {
            let mut aside = path.as_os_str().to_owned();
            aside.push(".corrupt");
            let moved = std::fs::rename(path, &aside);
            let what = match moved {
                Ok(()) => "kept aside".to_owned(),
                Err(e) => format!("cannot be kept aside: {e}"),
            };
            (
                Identity::default(),
                Some(format!("{}: {error}: {what}", path.display())),
            )
        }
    }
}

/// Writes the file if it differs from `kept`.
pub fn keep(path: &Path, identity: &Identity, kept: &Identity) -> kedge_sys::Result<()> {
    if identity == kept {
        return Ok(());
    }
    let text = serde_json::to_vec_pretty(identity).map_err(|e| {
        kedge_sys::Error::new("encode", path.display().to_string(), io::Error::other(e))
    })?;
    kedge_sys::fs::write_atomic(path, &text, 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_and_a_damaged_one_is_kept_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.json");
        let identity = Identity {
            name: Some("edge-7".into()),
            pod_ranges: vec!["10.244.1.0/24".into(), "fd00::/64".into()],
        };
        keep(&path, &identity, &Identity::default()).unwrap();
        assert_eq!(read(&path), (identity.clone(), None));
        assert_eq!(
            identity.ranges().len(),
            1,
            "what this version cannot use is left alone"
        );

        std::fs::write(&path, b"{\"name\": ").unwrap();
        let (empty, said) = read(&path);
        assert_eq!(empty, Identity::default());
        assert!(said.is_some_and(|s| s.ends_with("kept aside")));
        assert!(dir.path().join("node.json.corrupt").exists());
    }
}
