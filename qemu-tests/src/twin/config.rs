//! A twin's own files, as kubeadm and a CNI's installer would leave them on a node. Pure: values in, texts for the seed volume out.
//!
//! Pod ranges are given out by the rig, not by the controller manager: the CNI configuration is written before the node has joined.
//! The Node object is made beforehand with its range ([`node_object`]); a kubelet that finds its Node there takes it over.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::controlplane::bootstrap::Token;
use crate::controlplane::plan::{DNS_ADDRESS, POD_RANGE, PORT, SERVER};
use crate::pki::{Pki, encode};
use crate::supervisor::REGISTRY_PORT;

/// Twins' ranges begin here, out of the way of those that the controller manager gives out from 0 on.
const FIRST_RANGE: u16 = 150;

/// One twin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Twin {
    pub name: String,
    /// That of its machine: address and pod range follow from it.
    pub index: u8,
    /// Indices of the cluster's other twins.
    pub peers: Vec<u8>,
    pub max_pods: u32,
}

impl Twin {
    pub fn address(&self) -> String {
        address(self.index)
    }

    pub fn pod_range(&self) -> String {
        pod_range(self.index)
    }
}

fn address(index: u8) -> String {
    format!("192.168.50.{}", u16::from(index) + 10)
}

fn pod_range(index: u8) -> String {
    format!("10.244.{}.0/24", FIRST_RANGE + u16::from(index))
}

/// The Node as it is before the kubelet takes it over.
pub fn node_object(twin: &Twin) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": twin.name},
        "spec": {"podCIDR": twin.pod_range(), "podCIDRs": [twin.pod_range()]},
    })
}

/// Its status until then: a kubelet complains, with the whole object, about a Node that has no such condition.
pub fn node_status() -> Value {
    json!({"status": {"conditions": [{
        "type": "Ready", "status": "False", "reason": "NotStarted", "message": "the machine has not been started",
        "lastHeartbeatTime": null, "lastTransitionTime": null,
    }]}})
}

/// The files of the seed volume: name and text.
pub fn files(twin: &Twin, token: &Token, pki: &Pki) -> Result<Vec<(&'static str, String)>> {
    let server = format!("https://{SERVER}:{PORT}");
    let text = |value: Value| serde_json::to_string_pretty(&value).context("write a config");
    Ok(vec![
        ("node.env", environment(twin)),
        ("ca.crt", pki.read("ca.crt")?),
        (
            "bootstrap.conf",
            text(bootstrap_kubeconfig(&server, token, &pki.read("ca.crt")?))?,
        ),
        ("kubelet.json", text(kubelet(twin))?),
        ("kube-proxy.json", text(kube_proxy(twin))?),
        ("kube-proxy.conf", pki.kubeconfig("kube-proxy", &server)?),
        ("10-twin.conflist", text(cni(twin))?),
        ("hosts.toml", hosts()),
        ("masquerade.nft", masquerade()),
    ])
}

/// Of [`files`], those that make two twins behave differently.
pub fn settings(twin: &Twin) -> Result<Vec<String>> {
    let text = |value: Value| serde_json::to_string(&value).context("write a config");
    Ok(vec![
        environment(twin),
        text(kubelet(twin))?,
        text(kube_proxy(twin))?,
        text(cni(twin))?,
        hosts(),
        masquerade(),
    ])
}

/// Read by a shell.
fn environment(twin: &Twin) -> String {
    let routes: Vec<String> = twin
        .peers
        .iter()
        .map(|&peer| format!("{},{}", pod_range(peer), address(peer)))
        .collect();
    format!(
        "NAME={}\nADDRESS={}\nGATEWAY={SERVER}\nROUTES=\"{}\"\n",
        twin.name,
        twin.address(),
        routes.join(" ")
    )
}

fn bootstrap_kubeconfig(server: &str, token: &Token, ca: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config",
        "clusters": [{"name": "kubernetes", "cluster": {"server": server, "certificate-authority-data": encode(ca)}}],
        "users": [{"name": "tls-bootstrap-token-user", "user": {"token": token.to_string()}}],
        "contexts": [{"name": "bootstrap", "context": {"cluster": "kubernetes", "user": "tls-bootstrap-token-user"}}],
        "current-context": "bootstrap",
    })
}

/// kubeadm's, with cgroupfs for want of systemd and the API server checking serving certificates, as for Kedge.
fn kubelet(twin: &Twin) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": "/etc/kubernetes/pki/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "clusterDNS": [DNS_ADDRESS],
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "failSwapOn": false,
        "maxPods": twin.max_pods,
        "resolvConf": "/etc/resolv.conf",
        "rotateCertificates": true,
        "serverTLSBootstrap": true,
        "staticPodPath": "/etc/kubernetes/manifests",
        // Below the usual one the root is read-only.
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
    })
}

fn kube_proxy(twin: &Twin) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": "/run/twin/seed/kube-proxy.conf"},
        "clusterCIDR": POD_RANGE,
        "hostnameOverride": twin.name,
        "mode": "nftables",
    })
}

fn cni(twin: &Twin) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "twin",
        "plugins": [
            {
                "type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "ipMasq": false, "hairpinMode": true,
                "ipam": {"type": "host-local", "ranges": [[{"subnet": twin.pod_range()}]]},
            },
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true, "backend": "nftables"},
        ],
    })
}

/// Every image comes from the rig's registry, the sandbox's among them: there is no agent that serves it from the root.
fn hosts() -> String {
    format!(
        "[host.\"http://{SERVER}:{REGISTRY_PORT}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
    )
}

/// Pod traffic that leaves the cluster takes the node's address.
fn masquerade() -> String {
    format!(
        "table ip twin\ndelete table ip twin\ntable ip twin {{\n  chain postrouting {{\n    type nat hook postrouting priority srcnat + 10;\n    \
         ip saddr {POD_RANGE} ip daddr != {{ {POD_RANGE}, 192.168.50.0/24 }} masquerade\n  }}\n}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn twin() -> Twin {
        Twin {
            name: "node2".into(),
            index: 2,
            peers: vec![1, 3],
            max_pods: 110,
        }
    }

    #[test]
    fn what_the_shell_reads() {
        expect_test::expect![[r#"
            NAME=node2
            ADDRESS=192.168.50.12
            GATEWAY=192.168.50.1
            ROUTES="10.244.151.0/24,192.168.50.11 10.244.153.0/24,192.168.50.13"
        "#]]
        .assert_eq(&environment(&twin()));
    }

    #[test]
    fn the_files_fit_a_seed_volume_and_agree_on_the_range() {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::create(directory.path(), std::time::SystemTime::now()).unwrap();
        let files = files(&twin(), &Token::from_random(&[7; 22]), &pki).unwrap();
        let all: Vec<(&str, &[u8])> = files
            .iter()
            .map(|(name, text)| (*name, text.as_bytes()))
            .collect();
        kedge_image::seed::volume("KEDGE-SEED", &all).unwrap();
        let conflist = &files
            .iter()
            .find(|(name, _)| name.ends_with("conflist"))
            .unwrap()
            .1;
        let range = node_object(&twin())["spec"]["podCIDR"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(conflist.contains(&range) && range == "10.244.152.0/24");
    }

    #[test]
    fn every_index_has_an_address_and_a_range() {
        for index in [1, 99] {
            for text in [address(index), pod_range(index).replace("/24", "")] {
                text.parse::<std::net::Ipv4Addr>().unwrap();
            }
        }
    }
}
