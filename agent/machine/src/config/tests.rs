use super::*;
use expect_test::{Expect, expect};

const GOOD: &str = "\
apiVersion: kedge.dev/v1alpha1
kind: MachineConfig
node:
  name: edge-7
  labels: {site: harbour}
  taints: [\"dedicated=gpu:NoSchedule\"]
cluster:
  server: https://192.0.2.1:6443/
  token: abcdef.0123456789abcdef
  caCertHashes: [\"sha256:0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a\"]
network:
  interfaces:
  - mac: 52:54:00:12:34:56
    addresses: [192.0.2.7/24]
    gateway: 192.0.2.1
time:
  servers: [192.0.2.1]
kubelet:
  maxPods: 30
  systemReserved: {cpu: 250m, memory: 100Mi}
proxy: off
registries:
  registry.k8s.io:
    mirrors: [\"http://192.0.2.1:5000\"]
";

#[test]
fn a_full_document_is_read() {
    let config = MachineConfig::parse(GOOD).unwrap();
    assert_eq!(config.node.name.as_deref(), Some("edge-7"));
    assert_eq!(config.node.taints[0].effect, "NoSchedule");
    let cluster = config.cluster.unwrap();
    assert_eq!(cluster.server, "https://192.0.2.1:6443");
    assert_eq!(cluster.token.unwrap().id(), "abcdef");
    assert_eq!(cluster.dns, [IpAddr::from([10, 96, 0, 10])]);
    assert_eq!(
        config.network.interfaces[0].selector,
        LinkSelector::Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56])
    );
    assert_eq!(
        config.network.interfaces[0].addresses[0].to_string(),
        "192.0.2.7/24"
    );
    assert_eq!(config.kubelet.max_pods, 30);
    assert_eq!(
        config.kubelet.system_reserved,
        Reserved {
            cpu_millis: 250,
            memory_bytes: 100 << 20
        }
    );
    assert_eq!(config.proxy, ProxyMode::Off);
    assert_eq!(
        config.registries["registry.k8s.io"].mirrors,
        ["http://192.0.2.1:5000"]
    );
}

#[test]
fn only_version_and_kind_are_required() {
    let config =
        MachineConfig::parse("apiVersion: kedge.dev/v1alpha1\nkind: MachineConfig\n").unwrap();
    assert_eq!(config.cluster, None);
    assert_eq!(config.kubelet.max_pods, 110);
    assert_eq!(config.proxy, ProxyMode::Nftables);
}

fn fault(from: &str, to: &str, expected: Expect) {
    assert!(GOOD.contains(from), "the good document lacks {from:?}");
    let error = MachineConfig::parse(&GOOD.replacen(from, to, 1)).expect_err("the fault is found");
    expected.assert_eq(&error.to_string());
}

#[test]
fn an_unknown_key_names_its_place_and_the_likely_word() {
    fault(
        "server:",
        "sevrer:",
        expect!["8:3: unknown key `sevrer`, did you mean `server`?"],
    );
    fault(
        "gateway:",
        "zzz:",
        expect![
            "15:5: unknown key `zzz`, expected one of name, mac, dhcp, addresses, gateway, mtu"
        ],
    );
}

#[test]
fn a_wrong_value_names_its_field() {
    fault(
        "kedge.dev/v1alpha1",
        "v1",
        expect!["apiVersion: `v1` is not known here, expected `kedge.dev/v1alpha1`"],
    );
    fault(
        "edge-7",
        "Edge_7",
        expect![
            "node.name: not a node name: lower-case letters, digits, `-` and `.`, each part of 1 to 63 characters starting and ending with a letter or digit (RFC 1123)"
        ],
    );
    fault(
        ":NoSchedule",
        ":Never",
        expect![
            "node.taints[0]: `Never` is not an effect, expected NoSchedule, PreferNoSchedule or NoExecute"
        ],
    );
    fault(
        "https:",
        "http:",
        expect!["cluster.server: `http://192.0.2.1:6443` does not start with https://"],
    );
    fault(
        "abcdef.0",
        "abcde.0",
        expect![
            "cluster.token: not a bootstrap token: expected 6 and 16 lower-case letters or digits joined by a dot, as `kubeadm token create` prints it"
        ],
    );
    fault(
        "sha256:0a",
        "sha256:0",
        expect![
            "cluster.caCertHashes[0]: not a CA certificate hash: expected `sha256:` and 64 hex digits"
        ],
    );
    fault(
        "192.0.2.7/24",
        "192.0.2.7/40",
        expect!["network.interfaces[0].addresses[0]: prefix length 40 is beyond 32"],
    );
    fault(
        "proxy: off",
        "proxy: iptables",
        expect!["proxy: `iptables` is not a mode, expected `nftables` or `off`"],
    );
    fault(
        "250m",
        "lots",
        expect!["kubelet.systemReserved.cpu: `lots` is not a quantity"],
    );
    fault(
        "[\"http:",
        "[\"ftp:",
        expect![
            "registries.registry.k8s.io.mirrors: `ftp://192.0.2.1:5000` is not a URL starting with http:// or https://"
        ],
    );
}

#[test]
fn text_that_is_no_document_is_an_error_with_a_place() {
    for text in ["", "[1, 2", "a: b: c", "\u{0}", "kind: MachineConfig\n"] {
        let error = MachineConfig::parse(text).expect_err("not a document");
        assert!(
            !error.message.is_empty() && !error.message.contains('\n'),
            "{text:?}: {error}"
        );
    }
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,200}") {
        let _ = MachineConfig::parse(&text);
    }
}

#[test]
fn the_example_that_the_readme_names_is_a_config_with_every_key() {
    let text = include_str!("../../kedge.example.yaml");
    let config = MachineConfig::parse(text).unwrap();
    assert_eq!(config.network.interfaces.len(), 1);
    // Every key of the document's structs, as YAML writes it.
    let source = include_str!("document.rs");
    let fields = source
        .lines()
        .take_while(|line| !line.starts_with("/// Reads the shape"))
        .filter_map(|line| line.strip_prefix("    ")?.split_once(": "))
        .map(|(name, _)| name);
    let mut seen = 0;
    for field in fields {
        let mut words = field.split('_');
        let mut key = words.next().unwrap_or_default().to_owned();
        for word in words {
            key.push_str(&word[..1].to_uppercase());
            key.push_str(&word[1..]);
        }
        assert!(text.contains(&format!("{key}:")), "{key} is missing");
        seen += 1;
    }
    assert!(seen > 25, "{seen}");
}
