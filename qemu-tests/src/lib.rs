//! The rig: builds everything, runs a real control plane and a cluster of VMs in namespaces of its own, and asserts stories about it.
//!
//! In: this source tree, Debian packages, the Go module proxy. Out: a running cluster with a kubeconfig, or "N passed, N failed".
//! Pure parts (QEMU arguments, DHCP and SNTP answers, certificate checks, control-plane flags, manifests) are tested without any of that.
//!
//! Absent: Docker, libvirt, named network namespaces, mounts on the host, anything that survives the rig's own processes.

pub mod accel;
pub mod afterwards;
pub mod api;
pub mod approver;
pub mod artefacts;
pub mod baked;
pub mod bench;
pub mod cache;
pub mod cluster;
pub mod conformance;
pub mod consumers;
pub mod controlplane;
pub mod cpio;
pub mod critest;
pub mod debian;
pub mod deps;
pub mod dhcp;
pub mod dirs;
pub mod exposition;
pub mod fingerprint;
pub mod http;
pub mod oci;
pub mod pki;
pub mod progress;
pub mod qemu;
pub mod qmp;
pub mod recap;
pub mod recorder;
pub mod registry;
pub mod rings;
pub mod scraper;
pub mod seed;
pub mod sntp;
pub mod stories;
pub mod supervisor;
pub mod testimages;
pub mod tied;
pub mod trace;
pub mod twin;
pub mod up;
pub mod upstream;
pub mod wait;
