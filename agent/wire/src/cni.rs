//! CNI 1.1.0 documents: what a runtime tells a plugin, and what the plugin answers.
//!
//! In: environment variables as text and the JSON of standard input. Out: [`Request`], or JSON of a [`Success`], [`Versions`], [`Failure`].
//! Unknown keys of the network configuration are kept out of our way, as the specification wants; unknown versions are refused.
//! Absent: files, links, and the decision what an address is.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::net::{Ipv4Net, Mac};

mod request;

pub use request::{Command, Request};

/// Versions this plugin speaks, oldest first.
pub const VERSIONS: [&str; 4] = ["0.4.0", "1.0.0", "1.0.1", "1.1.0"];
/// Spoken when a request does not say.
pub const LATEST: &str = "1.1.0";

/// Error codes of the specification, section "Error".
#[allow(missing_docs, reason = "the names are those of the specification")]
pub mod code {
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    pub const UNSUPPORTED_FIELD: u32 = 2;
    pub const UNKNOWN_CONTAINER: u32 = 3;
    pub const INVALID_ENVIRONMENT: u32 = 4;
    pub const IO: u32 = 5;
    pub const DECODE: u32 = 6;
    pub const INVALID_CONFIG: u32 = 7;
    pub const TRY_AGAIN: u32 = 11;
    pub const NOT_AVAILABLE: u32 = 50;
    pub const LIMITED: u32 = 51;
    /// 100 and above are the plugin's own: the address range is used up.
    pub const NO_ADDRESS: u32 = 100;
    /// Another pod has the host port.
    pub const PORT_TAKEN: u32 = 101;
    /// CHECK found that the kernel does not hold what ADD made.
    pub const BROKEN: u32 = 102;
}

/// The network configuration of standard input, as far as this plugin reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetConf {
    /// Version of this document.
    pub cni_version: String,
    /// Network name.
    pub name: String,
    /// Plugin name.
    #[serde(rename = "type")]
    pub kind: String,
    /// What the runtime adds for capabilities we declared.
    pub runtime_config: RuntimeConfig,
    /// What the previous plugin, or for CHECK and DEL our own ADD, answered.
    pub prev_result: Option<serde_json::Value>,
    /// For GC: what is still alive.
    #[serde(rename = "cni.dev/valid-attachments")]
    pub valid_attachments: Option<Vec<Attachment>>,
    /// The same before it was renamed.
    #[serde(rename = "cni.dev/attachments")]
    pub attachments: Option<Vec<Attachment>>,
}

/// Capability arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RuntimeConfig {
    /// Host ports of the pod.
    pub port_mappings: Vec<PortMapping>,
}

/// One host port. Containerd's library marshals its structure without tags, so the keys arrive capitalised; plugins in Go
/// never notice, because their decoder ignores case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// On the node.
    #[serde(alias = "HostPort")]
    pub host_port: u16,
    /// In the pod.
    #[serde(alias = "ContainerPort")]
    pub container_port: u16,
    /// Transport.
    #[serde(default, alias = "Protocol")]
    pub protocol: Protocol,
    /// Only on this address of the node; unspecified or empty: on all. Text because a runtime passes on what the user wrote.
    #[serde(
        default,
        rename = "hostIP",
        alias = "HostIP",
        skip_serializing_if = "String::is_empty"
    )]
    pub host_ip: String,
}

/// Transports of a host port.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Protocol {
    #[default]
    #[serde(alias = "TCP")]
    Tcp,
    #[serde(alias = "UDP")]
    Udp,
    #[serde(alias = "SCTP")]
    Sctp,
}

impl Protocol {
    /// The IP protocol number.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// One end of one pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attachment {
    /// The sandbox.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// The interface inside.
    pub ifname: String,
}

/// The answer to ADD.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Success {
    /// Version of this document.
    pub cni_version: String,
    /// Links made.
    pub interfaces: Vec<Interface>,
    /// Addresses given.
    pub ips: Vec<Ip>,
    /// Routes made.
    pub routes: Vec<Route>,
    /// Resolver settings: none, Kubernetes gives its own.
    pub dns: Dns,
}

/// A link of a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: Mac,
    /// Its MTU, since 1.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The namespace it is in; empty on the node.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
}

/// An address of a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ip {
    /// `4`, only in versions before 1.0.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// With prefix length.
    pub address: Ipv4Net,
    /// The router.
    pub gateway: Ipv4Addr,
    /// Index of the interface it is on.
    pub interface: usize,
}

/// A route of a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where to.
    pub dst: Ipv4Net,
    /// The router.
    pub gw: Ipv4Addr,
}

/// Resolver settings of a result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {}

/// The answer to VERSION.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Versions {
    /// Version of this document.
    pub cni_version: String,
    /// What we speak.
    pub supported_versions: Vec<&'static str>,
}

/// An answer that says what went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
#[error("{msg}: {details}")]
pub struct Failure {
    /// Version of this document.
    pub cni_version: String,
    /// One of [`code`].
    pub code: u32,
    /// Short.
    pub msg: String,
    /// Long.
    pub details: String,
}

impl Failure {
    /// A failure in the latest version; [`Failure::in_version`] adapts it.
    pub fn new(code: u32, msg: impl Into<String>, details: impl ToString) -> Self {
        Self {
            cni_version: LATEST.to_owned(),
            code,
            msg: msg.into(),
            details: details.to_string(),
        }
    }

    /// The same in the version that the runtime asked in.
    pub fn in_version(mut self, version: &str) -> Self {
        if VERSIONS.contains(&version) {
            version.clone_into(&mut self.cni_version);
        }
        self
    }
}

/// The configuration list that makes a runtime call us: `/etc/cni/net.d/10-kedge.conflist`.
pub fn conflist() -> String {
    let plugin = BTreeMap::from([
        ("type", serde_json::json!("kedge")),
        ("capabilities", serde_json::json!({"portMappings": true})),
    ]);
    let list = serde_json::json!({"cniVersion": LATEST, "name": "kedge", "plugins": [plugin]});
    format!("{list:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn the_configuration_list_declares_host_ports() {
        expect![[r#"
            {
              "cniVersion": "1.1.0",
              "name": "kedge",
              "plugins": [
                {
                  "capabilities": {
                    "portMappings": true
                  },
                  "type": "kedge"
                }
              ]
            }
        "#]]
        .assert_eq(&conflist());
    }

    #[test]
    fn the_version_of_an_answer_follows_the_question() {
        let failure = Failure::new(code::IO, "x", "y");
        assert_eq!(failure.clone().in_version("0.4.0").cni_version, "0.4.0");
        assert_eq!(failure.in_version("9.9.9").cni_version, LATEST);
    }
}
