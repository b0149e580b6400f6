//! `/run/kedge/etc/resolv.conf` and `hosts`: what `/etc` points to. Written only when they change.

use std::path::Path;

use kedge_sys::{Result, fs};

use crate::network::NodeNetwork;

/// Writes both files.
pub fn write(etc: &Path, network: &NodeNetwork, node_name: Option<&str>) -> Result<()> {
    fs::create_directory(etc, 0o755)?;
    write_if_changed(&etc.join("resolv.conf"), &resolv_conf(network))?;
    let name = node_name.or(network.hostname.as_deref());
    write_if_changed(&etc.join("hosts"), &hosts(network, name))
}

/// Replaces a file atomically when its content differs.
pub fn write_if_changed(path: &Path, text: &str) -> Result<()> {
    if std::fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::write_atomic(path, text.as_bytes(), 0o644)
}

fn resolv_conf(network: &NodeNetwork) -> String {
    let mut text = String::from("# Written by kedge.\n");
    if !network.search.is_empty() {
        text.push_str(&format!("search {}\n", network.search.join(" ")));
    }
    for server in &network.nameservers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    text
}

fn hosts(network: &NodeNetwork, name: Option<&str>) -> String {
    let mut text = String::from(
        "# Written by kedge.\n127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n",
    );
    if let (Some(primary), Some(name)) = (&network.primary, name) {
        text.push_str(&format!("{} {name}\n", primary.address));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_follow_the_network() {
        let network = NodeNetwork {
            nameservers: vec!["192.168.50.1".parse().unwrap()],
            search: vec!["lan".into(), "example.org".into()],
            ..NodeNetwork::default()
        };
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &network, Some("edge-7")).unwrap();
        let resolv = std::fs::read_to_string(dir.path().join("resolv.conf")).unwrap();
        assert_eq!(
            resolv,
            "# Written by kedge.\nsearch lan example.org\nnameserver 192.168.50.1\n"
        );
        let before = std::fs::metadata(dir.path().join("hosts"))
            .unwrap()
            .modified()
            .unwrap();
        write(dir.path(), &network, Some("edge-7")).unwrap();
        assert_eq!(
            std::fs::metadata(dir.path().join("hosts"))
                .unwrap()
                .modified()
                .unwrap(),
            before
        );
    }
}
