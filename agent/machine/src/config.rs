//! The machine config: one YAML document that turns an identical image into this node.
//!
//! In: text. Out: a [`MachineConfig`] whose values are parsed, or a [`ConfigError`] that names the place: line and column for
//! the document's shape (with "did you mean" for unknown keys), the field's path for its values.
//! Deliberately absent: reading files, and any default that depends on the machine.
//!
//! ```yaml
//! apiVersion: kedge.dev/v1alpha1
//! kind: MachineConfig
//! node:
//!   name: edge-7
//!   labels: {site: harbour}
//! cluster:
//!   server: https://192.0.2.1:6443
//!   token: abcdef.0123456789abcdef
//!   caCertHashes: ["sha256:…"]
//! ```

mod document;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use crate::identity::{CaHash, Token};

/// The only document version so far.
pub const API_VERSION: &str = "kedge.dev/v1alpha1";
/// The only kind of document.
pub const KIND: &str = "MachineConfig";

/// A machine config, validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineConfig {
    /// Who this node is.
    pub node: Node,
    /// Which cluster it joins; absent on a machine that only runs static pods.
    pub cluster: Option<Cluster>,
    /// Its links and names; without interfaces every Ethernet link asks DHCP.
    pub network: Network,
    /// NTP servers, names or addresses; empty means those that DHCP hands out.
    pub time_servers: Vec<String>,
    /// The kubelet's settings.
    pub kubelet: Kubelet,
    /// What the service proxy does.
    pub proxy: ProxyMode,
    /// Mirrors and the like, by registry host name.
    pub registries: BTreeMap<String, Registry>,
}

/// The Node object's part of the config.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// RFC 1123 name; absent: the host name that DHCP gives, else `kedge-` and the last six digits of the MAC address.
    pub name: Option<String>,
    /// Labels set at registration.
    pub labels: BTreeMap<String, String>,
    /// Taints set at registration.
    pub taints: Vec<Taint>,
}

/// A taint as `kubectl taint` writes it: `key[=value]:Effect`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    /// Qualified name.
    pub key: String,
    /// May be empty.
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

/// How to find and trust the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// `https://host[:port]` of the API server, without a path.
    pub server: String,
    /// Bootstrap token; needed until the node holds a client certificate.
    pub token: Option<Token>,
    /// How the API server's CA is trusted.
    pub trust: Trust,
    /// Addresses of the cluster's DNS service.
    pub dns: Vec<IpAddr>,
    /// DNS domain of services.
    pub domain: String,
}

/// How the API server's CA is trusted at the first join. Afterwards the CA kept in STATE is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The CA itself, PEM.
    Ca(String),
    /// Hashes of acceptable CA public keys, as `kubeadm join --discovery-token-ca-cert-hash` takes them.
    Hashes(Vec<CaHash>),
}

/// Links and names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// Configured links; empty: DHCP on every Ethernet link.
    pub interfaces: Vec<Interface>,
    /// Resolvers; empty: those of DHCP.
    pub nameservers: Vec<IpAddr>,
    /// Search domains; empty: those of DHCP.
    pub search_domains: Vec<String>,
}

/// One link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Which link.
    pub selector: LinkSelector,
    /// Ask DHCPv4.
    pub dhcp: bool,
    /// Static addresses.
    pub addresses: Vec<Cidr>,
    /// Default gateway for static addresses.
    pub gateway: Option<IpAddr>,
    /// Link MTU in bytes; absent: as the driver or DHCP says.
    pub mtu: Option<u32>,
}

/// How a link is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkSelector {
    /// By kernel name, `eth0`.
    Name(String),
    /// By hardware address.
    Mac([u8; 6]),
}

/// An address with its prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The address, host bits kept.
    pub addr: IpAddr,
    /// 0..=32 or 0..=128.
    pub prefix: u8,
}

/// The kubelet's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubelet {
    /// Most pods on this node.
    pub max_pods: u32,
    /// Serve the unauthenticated read-only port 10255.
    pub read_only_port: bool,
    /// Set aside for the system: taken off allocatable; and the memory is what all pods together are kept out of (`memory.max` of `/kubepods`).
    pub system_reserved: Reserved,
}

/// Resources set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// Thousandths of a CPU.
    pub cpu_millis: u64,
    /// Bytes.
    pub memory_bytes: u64,
}

/// What the service proxy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyMode {
    /// Programs nf_tables.
    Nftables,
    /// Does nothing and removes its own table: somebody else (Cilium, kube-proxy) does the work.
    Off,
}

/// Settings of one registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registry {
    /// Base URLs tried in order before the registry itself.
    pub mirrors: Vec<String>,
}

/// Why a document is not a machine config. `Display` is one line an operator can act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Line and column of the fault, counted from 1, when it is one of shape.
    pub place: Option<(u64, u64)>,
    /// Dotted path of the field, when it is one of value.
    pub field: Option<String>,
    /// What is wrong and what was expected.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((line, column)) = self.place {
            write!(f, "{line}:{column}: ")?;
        }
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}

impl MachineConfig {
    /// Parses and validates one document. The first fault is returned.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        document::parse(text)?.validate()
    }
}

impl Cidr {
    /// Parses `192.0.2.7/24` or `2001:db8::7/64`.
    pub fn parse(text: &str) -> Result<Self, String> {
        const WANT: &str = "not an address with a prefix length, such as 192.0.2.7/24";
        let (addr, prefix) = text.split_once('/').ok_or(WANT)?;
        let addr: IpAddr = addr.parse().map_err(|_| WANT)?;
        let prefix: u8 = prefix.parse().map_err(|_| WANT)?;
        let most = if addr.is_ipv4() { 32 } else { 128 };
        if prefix > most {
            return Err(format!("prefix length {prefix} is beyond {most}"));
        }
        Ok(Self { addr, prefix })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix)
    }
}
