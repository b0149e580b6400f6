//! The pod's `/etc/hosts`.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;

use crate::pod;
use crate::resolve::{NodeFacts, hostname_and_domain};

const HEADER: &str = "# Kubernetes-managed hosts file.\n";
const HOST_HEADER: &str = "# Kubernetes-managed hosts file (host network).\n";
const LOOPBACK: &str = "127.0.0.1\tlocalhost\n\
::1\tlocalhost ip6-localhost ip6-loopback\n\
fe00::\tip6-localnet\n\
fe00::\tip6-mcastprefix\n\
fe00::1\tip6-allnodes\n\
fe00::2\tip6-allrouters\n";

/// The content for a pod with these addresses. Host-network pods get the node's file under a header of its own.
pub fn etc_hosts(pod: &Pod, node: &NodeFacts, ips: &[IpAddr]) -> String {
    let mut text = if pod::host_network(pod::spec(pod)) {
        format!("{HOST_HEADER}{}", node.hosts)
    } else {
        own(pod, node, ips)
    };
    aliases(pod, &mut text);
    text
}

fn own(pod: &Pod, node: &NodeFacts, ips: &[IpAddr]) -> String {
    let (name, domain) = hostname_and_domain(pod, node);
    let names = if domain.is_empty() {
        name
    } else {
        format!("{name}.{domain}\t{name}")
    };
    let mut text = format!("{HEADER}{LOOPBACK}");
    for ip in ips {
        text.push_str(&format!("{ip}\t{names}\n"));
    }
    text
}

fn aliases(pod: &Pod, text: &mut String) {
    let Some(list) = pod::spec(pod)
        .host_aliases
        .as_ref()
        .filter(|l| !l.is_empty())
    else {
        return;
    };
    text.push_str("\n# Entries added by HostAliases.\n");
    for alias in list {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        text.push_str(&format!("{}\t{names}\n", alias.ip));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, pod};
    use expect_test::{Expect, expect};

    fn check(spec: &str, ips: &[&str], expected: Expect) {
        let pod = pod(&format!(r#"{{"spec": {{"containers": [], {spec}}}}}"#));
        let node = NodeFacts {
            hosts: "127.0.0.1 localhost\n192.0.2.1 node-1\n".into(),
            ..node()
        };
        let ips: Vec<IpAddr> = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        expected.assert_eq(&etc_hosts(&pod, &node, &ips));
    }

    #[test]
    fn hosts_file_names_pod_subdomain_and_aliases() {
        check(
            r#""hostname": "h", "subdomain": "sub",
               "hostAliases": [{"ip": "192.0.2.9", "hostnames": ["a.example", "b.example"]}]"#,
            &["10.0.0.7", "fd00::7"],
            expect![[r#"
                # Kubernetes-managed hosts file.
                127.0.0.1	localhost
                ::1	localhost ip6-localhost ip6-loopback
                fe00::	ip6-localnet
                fe00::	ip6-mcastprefix
                fe00::1	ip6-allnodes
                fe00::2	ip6-allrouters
                10.0.0.7	h.sub.ns.svc.cluster.local	h
                fd00::7	h.sub.ns.svc.cluster.local	h

                # Entries added by HostAliases.
                192.0.2.9	a.example	b.example
            "#]],
        );
    }

    #[test]
    fn host_network_pods_get_the_nodes_hosts_file() {
        check(
            r#""hostNetwork": true"#,
            &["192.0.2.1"],
            expect![[r#"
                # Kubernetes-managed hosts file (host network).
                127.0.0.1 localhost
                192.0.2.1 node-1
            "#]],
        );
    }
}
