//! What a verdict depends on besides the artefacts that have names of their own: the control plane, and how nodes are configured.
//!
//! In: artefacts, and whether upstream's software is among the nodes. Out: one hash ([`settings`]), taken when a cluster is made and kept with
//! it: the source tree may be another one when somebody attaches later. Absent: the artefacts; tokens, certificates and addresses, which
//! differ between equal clusters.

use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::artefacts::{self, Artefacts};
use crate::controlplane::bootstrap::Token;
use crate::controlplane::plan;
use crate::seed::NodeConfig;
use crate::twin::config::{self, Twin};
use crate::upstream;

pub fn settings(artefacts: &Artefacts, twins: bool) -> Result<String> {
    let mut parts = flags();
    for name in upstream::CONTROL_PLANE {
        let link = artefacts.programs.join(name);
        // The cache's directory is named after what the program is made of.
        let program = link
            .canonicalize()
            .with_context(|| format!("find {}", link.display()))?;
        let place = program.parent().and_then(Path::file_name);
        parts.push(place.unwrap_or_default().to_string_lossy().into_owned());
    }
    let root = artefacts::workspace()?.join("image/src/root");
    for name in ["containerd.toml", "services"] {
        let path = root.join(name);
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        parts.push(text);
    }
    parts.push(node());
    if twins {
        parts.extend(config::settings(&twin())?);
    }
    Ok(hash(&parts))
}

/// Every program's flags, with the cluster's own directories left out.
fn flags() -> Vec<String> {
    let none = Path::new("/");
    plan::programs(none, none, none)
        .iter()
        .map(|program| format!("{program:?}"))
        .collect()
}

/// The machine config that all nodes have but for name, token and CA.
fn node() -> String {
    let token = Token {
        id: String::new(),
        secret: String::new(),
    };
    NodeConfig::new("node", &token, "").yaml()
}

/// The number of pods is told beside the hash.
fn twin() -> Twin {
    Twin {
        name: "node".into(),
        index: 1,
        peers: Vec::new(),
        max_pods: 0,
    }
}

fn hash(parts: &[String]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(Sha256::digest(part));
    }
    crate::pki::hex(&hash.finalize()[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_counts_and_nothing_of_one_cluster_is_in() {
        let parts = [flags(), vec![node()], config::settings(&twin()).unwrap()].concat();
        assert!(parts.len() > 8);
        assert_eq!(hash(&parts), hash(&parts.clone()));
        for at in 0..parts.len() {
            let mut other = parts.clone();
            other[at].push('x');
            assert_ne!(hash(&parts), hash(&other), "{}", parts[at]);
        }
        assert!(parts.iter().any(|part| part.contains("maxPods")));
        assert!(parts.iter().any(|part| part.contains("kube-apiserver")));
    }
}
