//! A node whose containerd is reached through the tracing proxy (`qemu-tests/cri-trace`). Pure: a service table in, another one and files out.
//!
//! containerd moves to another socket, in a copy of the image's configuration on the test volume; the proxy takes its place.

use std::path::Path;

use anyhow::{Context, Result};
use kedge_machine::paths;

const CONFIG: &str = include_str!("../../image/src/root/containerd.toml");
const USUAL: &str = "/etc/containerd/config.toml";
/// Where the proxy looks for it.
const RUNTIME: &str = "/run/containerd/runtime.sock";

/// The service table with the proxy in it.
pub fn services(table: &str) -> String {
    let test = paths::RUN_TEST;
    let moved = table.replace(USUAL, &format!("{test}/containerd.toml"));
    format!("{moved}\nservice cri-trace\n  exec {test}/cri-trace\n")
}

fn config() -> String {
    CONFIG
        .replace("@PAUSE_IMAGE@", paths::PAUSE_IMAGE)
        .replace(paths::CONTAINERD_SOCKET, RUNTIME)
}

/// Puts the proxy and containerd's configuration into the directory of a volume.
pub fn add(volume: &Path, program: &Path) -> Result<()> {
    std::fs::copy(program, volume.join("cri-trace"))
        .with_context(|| format!("copy {}", program.display()))?;
    std::fs::write(volume.join("containerd.toml"), config()).context("write containerd.toml")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containerd_moves_and_the_proxy_comes() {
        let table = services(include_str!("../twin/services"));
        assert!(table.contains("--config /run/kedge/test/containerd.toml"));
        assert!(!table.contains(USUAL));
        let config = config();
        assert!(
            config.contains("address = '/run/containerd/runtime.sock'"),
            "{config}"
        );
        assert!(!config.contains('@'));
    }
}
