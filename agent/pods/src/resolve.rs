//! From a pod and the objects it refers to, to specs with nothing left to look up.
//!
//! In: the pod, [`Objects`] (already fetched), [`NodeFacts`], and for containers what the sandbox and the image turned out to
//! be. Out: [`SandboxSpec`](crate::spec::SandboxSpec), [`ContainerSpec`](crate::spec::ContainerSpec), volume plans; or a
//! [`Reason`] which the status shows while the worker tries again. No fetching, no file access.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};

use crate::needs::TrustBundle;

/// What the pod refers to, as far as it exists. A name that is absent here does not exist (the caller asks for everything in
/// [`crate::needs::Needs`] before it calls).
#[derive(Clone, Debug, Default)]
pub struct Objects {
    pub config_maps: BTreeMap<String, ConfigMap>,
    pub secrets: BTreeMap<String, Secret>,
    /// Services of the pod's namespace, and `kubernetes` of `default`.
    pub services: Vec<Service>,
    /// The handler and overhead of the pod's RuntimeClass.
    pub runtime_class: Option<k8s_openapi::api::node::v1::RuntimeClass>,
    /// PEM bundles by name, or by signer (all bundles that match, joined and deduplicated by the caller).
    pub trust_bundles: BTreeMap<TrustBundle, String>,
}

/// What the node contributes.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeFacts {
    pub name: String,
    /// Primary first; one per family.
    pub host_ips: Vec<IpAddr>,
    pub cluster_domain: String,
    pub cluster_dns: Vec<String>,
    /// The node's own resolv.conf, parsed.
    pub resolv: crate::spec::DnsConfig,
    /// The node's `/etc/hosts`, for host-network pods.
    pub hosts: String,
    pub cpu_milli: u64,
    pub memory: u64,
    pub allocatable_cpu_milli: u64,
    pub allocatable_memory: u64,
    /// What all pods together may use: what is allocatable and what the scheduler leaves free against memory pressure.
    pub pods_memory: u64,
    pub allocatable_ephemeral_storage: u64,
    /// The kernel limits swap by cgroup.
    pub swap_controller: bool,
    /// `/var/lib/kubelet`
    pub kubelet_root: PathBuf,
    /// `/var/log/pods`
    pub pod_logs: PathBuf,
    /// Handlers (by name, "" is the default) that can mount recursively read-only.
    pub recursive_read_only_handlers: Vec<String>,
    /// Sysctls allowed beyond the safe set: names or prefixes ending in `*`.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// The kubelet version `major.minor`, for `kube-probe/<version>`.
    pub version: String,
}

impl Default for NodeFacts {
    fn default() -> NodeFacts {
        NodeFacts {
            name: String::new(),
            host_ips: Vec::new(),
            cluster_domain: "cluster.local".into(),
            cluster_dns: Vec::new(),
            resolv: crate::spec::DnsConfig::default(),
            hosts: String::new(),
            cpu_milli: 0,
            memory: 0,
            allocatable_cpu_milli: 0,
            allocatable_memory: 0,
            pods_memory: 0,
            swap_controller: false,
            allocatable_ephemeral_storage: 0,
            kubelet_root: "/var/lib/kubelet".into(),
            pod_logs: "/var/log/pods".into(),
            recursive_read_only_handlers: Vec::new(),
            allowed_unsafe_sysctls: Vec::new(),
            version: "1.37".into(),
        }
    }
}

/// What the runtime says about an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageFacts {
    /// To create containers from.
    pub reference: String,
    /// The image's numeric user, if it is numeric.
    pub uid: Option<i64>,
    /// The image's user by name.
    pub username: String,
}

/// What a container's spec depends on besides pod, objects and node.
#[derive(Clone, Debug, Default)]
pub struct Instance {
    pub attempt: u32,
    pub image: ImageFacts,
    /// Addresses of the pod: the sandbox's, or the node's for host-network pods.
    pub pod_ips: Vec<IpAddr>,
    /// The id of the running target container of an ephemeral container.
    pub target_id: Option<String>,
}

/// Why something cannot be resolved now. `reason` is what the status shows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Reason {
    pub reason: &'static str,
    pub message: String,
}

impl Reason {
    pub fn new(reason: &'static str, message: impl Into<String>) -> Reason {
        Reason {
            reason,
            message: message.into(),
        }
    }

    /// `CreateContainerConfigError`.
    pub fn config(message: impl Into<String>) -> Reason {
        Reason::new("CreateContainerConfigError", message)
    }
}

mod container;
pub mod downward;
pub mod env;
mod expand;
mod mounts;
mod payload;
mod sandbox;
mod security;
mod services;
mod volumes;

pub use container::container;
pub use expand::expand;
pub use sandbox::{hostname, hostname_and_domain, sandbox};
pub use volumes::volumes;

use k8s_openapi::api::core::v1::Pod;

use crate::pod;

impl NodeFacts {
    /// `/var/lib/kubelet/pods/<uid>`
    pub fn pod_dir(&self, pod: &Pod) -> PathBuf {
        self.kubelet_root.join("pods").join(pod::uid(pod))
    }

    /// The pod's own `/etc/hosts`.
    pub fn etc_hosts(&self, pod: &Pod) -> PathBuf {
        self.pod_dir(pod).join("etc-hosts")
    }
}

#[cfg(test)]
mod tests;
