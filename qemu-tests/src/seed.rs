//! Machine configs of rig nodes, and their seed volumes. The text is pure; writing is `kedge_image::seed`.
//!
//! A story bends a config by replacing lines of the text: what a user would type wrong is text too.

use std::path::Path;

use anyhow::{Context, Result};
use kedge_machine::paths;

use crate::controlplane::bootstrap::Token;
use crate::controlplane::plan::{DNS_ADDRESS, PORT, SERVER};
use crate::registry::PRIVATE_HOST;
use crate::supervisor::REGISTRY_PORT;

/// What a joining node is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    pub name: String,
    pub server: String,
    /// Without one the node can only use the certificate it has.
    pub token: Option<String>,
    pub ca_hash: String,
    /// Lines appended as they are.
    pub extra: String,
}

impl NodeConfig {
    pub fn new(name: &str, token: &Token, ca_hash: &str) -> Self {
        Self {
            name: name.to_owned(),
            server: format!("https://{SERVER}:{PORT}"),
            token: Some(token.to_string()),
            ca_hash: ca_hash.to_owned(),
            extra: String::new(),
        }
    }

    /// The document as a user would write it.
    pub fn yaml(&self) -> String {
        let token = self
            .token
            .as_ref()
            .map(|token| format!("  token: {token}\n"))
            .unwrap_or_default();
        format!(
            "apiVersion: kedge.dev/v1alpha1\nkind: MachineConfig\nnode:\n  name: {name}\ncluster:\n  server: {server}\n{token}  caCertHashes:\n  - {hash}\n  dns:\n  - {DNS_ADDRESS}\n{registries}{extra}",
            name = self.name,
            server = self.server,
            hash = self.ca_hash,
            registries = registries(),
            extra = self.extra,
        )
    }
}

/// Every image comes from the rig's own registry: the cluster network leads nowhere else.
fn registries() -> String {
    let mut text = "registries:\n".to_owned();
    for host in HOSTS {
        text += &format!("  {host}:\n    mirrors:\n    - http://{SERVER}:{REGISTRY_PORT}\n");
    }
    text
}

/// Where images of upstream's test suites pretend to come from, and the host whose images want a password.
const HOSTS: &[&str] = &["registry.k8s.io", "gcr.io", "k8s.gcr.io", PRIVATE_HOST];

/// Writes a seed volume with `config` as its document.
pub fn write(path: &Path, config: &str) -> Result<()> {
    kedge_image::seed::write(
        path,
        paths::LABEL_SEED,
        &[(paths::SEED_CONFIG, config.as_bytes())],
    )
    .with_context(|| format!("write the seed volume {}", path.display()))
}

/// Writes a seed volume with other files, for a machine that runs other software.
pub fn write_files(path: &Path, files: &[(&str, String)]) -> Result<()> {
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(name, text)| (*name, text.as_bytes()))
        .collect();
    kedge_image::seed::write(path, paths::LABEL_SEED, &files)
        .with_context(|| format!("write the seed volume {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn config() -> NodeConfig {
        NodeConfig::new(
            "node1",
            &Token {
                id: "abcdef".into(),
                secret: "0123456789abcdef".into(),
            },
            &format!("sha256:{}", "ab".repeat(32)),
        )
    }

    #[test]
    fn the_config_of_a_node() {
        expect![[r#"
            apiVersion: kedge.dev/v1alpha1
            kind: MachineConfig
            node:
              name: node1
            cluster:
              server: https://192.168.50.1:6443
              token: abcdef.0123456789abcdef
              caCertHashes:
              - sha256:abababababababababababababababababababababababababababababababab
              dns:
              - 10.96.0.10
            registries:
              registry.k8s.io:
                mirrors:
                - http://192.168.50.1:5000
              gcr.io:
                mirrors:
                - http://192.168.50.1:5000
              k8s.gcr.io:
                mirrors:
                - http://192.168.50.1:5000
              private.kedge.test:
                mirrors:
                - http://192.168.50.1:5000
        "#]]
        .assert_eq(&config().yaml());
    }

    #[test]
    fn the_nodes_own_parser_takes_it() {
        let parsed = kedge_machine::config::MachineConfig::parse(&config().yaml()).unwrap();
        assert_eq!(parsed.node.name.as_deref(), Some("node1"));
        let registry = &parsed.registries["registry.k8s.io"];
        assert_eq!(registry.mirrors, ["http://192.168.50.1:5000"]);
    }
}
