//! `resolv.conf`: parsing the node's, and what a pod gets.
//!
//! In: `dnsPolicy`, `dnsConfig`, cluster DNS, the node's own settings. Out: servers, searches, options within the limits
//! (3 servers, 32 searches, 2048 characters of searches), and whether something was cut.

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use crate::pod;
use crate::resolve::NodeFacts;
use crate::spec::DnsConfig;

pub const MAX_SERVERS: usize = 3;
pub const MAX_SEARCHES: usize = 32;
pub const MAX_SEARCH_CHARS: usize = 2048;

/// A pod's DNS settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodDns {
    pub config: DnsConfig,
    /// For an event `DNSConfigForming`: what was left out.
    pub warnings: Vec<String>,
}

/// Reads the lines a resolver knows; the last `search` or `domain` line counts (resolv.conf(5)).
pub fn parse(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with(['#', ';']) {
            continue;
        }
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => config.servers.extend(words.next().map(str::to_owned)),
            Some("search" | "domain") => {
                config.searches = words
                    .map(|w| if w == "." { w } else { w.trim_end_matches('.') }.to_owned())
                    .collect();
            }
            Some("options") => config.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    config
}

/// What the pod's resolver is told.
pub fn pod_dns(pod: &Pod, node: &NodeFacts) -> PodDns {
    let spec = pod::spec(pod);
    let mut dns = PodDns {
        config: base(pod, spec, node),
        warnings: Vec::new(),
    };
    if let Some(extra) = &spec.dns_config {
        extend(&mut dns.config.servers, extra.nameservers.iter().flatten());
        extend(&mut dns.config.searches, extra.searches.iter().flatten());
        for option in extra.options.iter().flatten() {
            let Some(name) = option.name.as_deref().filter(|n| !n.is_empty()) else {
                continue;
            };
            // The pod's value replaces one of the same name.
            dns.config
                .options
                .retain(|o| o.split(':').next() != Some(name));
            dns.config.options.push(match option.value.as_deref() {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name.to_owned(),
            });
        }
    }
    limit(&mut dns);
    dns
}

fn base(pod: &Pod, spec: &PodSpec, node: &NodeFacts) -> DnsConfig {
    let host_network = pod::host_network(spec);
    match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "None" => DnsConfig::default(),
        "Default" => node.resolv.clone(),
        "ClusterFirst" if host_network => node.resolv.clone(),
        // Without cluster DNS the node's own is better than none.
        _ if node.cluster_dns.is_empty() => node.resolv.clone(),
        _ => cluster(pod::namespace(pod), node),
    }
}

fn cluster(namespace: &str, node: &NodeFacts) -> DnsConfig {
    let domain = &node.cluster_domain;
    let mut searches = Vec::new();
    if !domain.is_empty() {
        searches = vec![
            format!("{namespace}.svc.{domain}"),
            format!("svc.{domain}"),
            domain.clone(),
        ];
    }
    extend(&mut searches, &node.resolv.searches);
    DnsConfig {
        servers: node.cluster_dns.clone(),
        searches,
        options: vec!["ndots:5".into()],
    }
}

fn extend<'a>(list: &mut Vec<String>, more: impl IntoIterator<Item = &'a String>) {
    for item in more {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

fn limit(dns: &mut PodDns) {
    let config = &mut dns.config;
    if config.servers.len() > MAX_SERVERS {
        config.servers.truncate(MAX_SERVERS);
        dns.warnings.push(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
            config.servers.join(" ")
        ));
    }
    let mut length = 0;
    let mut kept = 0;
    for search in &config.searches {
        let next = length + search.len() + usize::from(kept > 0);
        if kept == MAX_SEARCHES || next > MAX_SEARCH_CHARS {
            break;
        }
        (length, kept) = (next, kept + 1);
    }
    if kept < config.searches.len() {
        config.searches.truncate(kept);
        dns.warnings.push(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            config.searches.join(" ")
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, pod};

    fn facts() -> NodeFacts {
        NodeFacts {
            resolv: parse(
                "# made by DHCP\nnameserver 192.0.2.53\nsearch lan. corp.example\noptions edns0 ndots:2\n",
            ),
            ..node()
        }
    }

    fn check(spec: &str, servers: &[&str], searches: &[&str], options: &[&str]) {
        let pod = pod(&format!(r#"{{"spec": {{"containers": [], {spec}}}}}"#));
        let dns = pod_dns(&pod, &facts());
        assert_eq!(dns.config.servers, servers, "{spec}");
        assert_eq!(dns.config.searches, searches, "{spec}");
        assert_eq!(dns.config.options, options, "{spec}");
        assert_eq!(dns.warnings, [""; 0]);
    }

    const CLUSTER: [&str; 5] = [
        "ns.svc.cluster.local",
        "svc.cluster.local",
        "cluster.local",
        "lan",
        "corp.example",
    ];

    #[test]
    fn dns_policy_decides_the_base() {
        let node = (
            ["192.0.2.53"],
            ["lan", "corp.example"],
            ["edns0", "ndots:2"],
        );
        check(
            r#""dnsPolicy": "ClusterFirst""#,
            &["10.96.0.10"],
            &CLUSTER,
            &["ndots:5"],
        );
        check(r#""dnsPolicy": "Default""#, &node.0, &node.1, &node.2);
        check(
            r#""dnsPolicy": "ClusterFirst", "hostNetwork": true"#,
            &node.0,
            &node.1,
            &node.2,
        );
        check(
            r#""dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true"#,
            &["10.96.0.10"],
            &CLUSTER,
            &["ndots:5"],
        );
        check(
            r#""dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["x"]}"#,
            &["1.1.1.1"],
            &["x"],
            &[],
        );
    }

    #[test]
    fn dns_config_is_merged() {
        let mut searches = CLUSTER.to_vec();
        searches.push("x.example");
        check(
            r#""dnsConfig": {"nameservers": ["1.1.1.1", "10.96.0.10"], "searches": ["lan", "x.example"],
               "options": [{"name": "ndots", "value": "2"}, {"name": "rotate"}]}"#,
            &["10.96.0.10", "1.1.1.1"],
            &searches,
            &["ndots:2", "rotate"],
        );
    }

    #[test]
    fn limits_are_kept_and_told() {
        let many = (0..40)
            .map(|i| format!("\"s{i}\""))
            .collect::<Vec<_>>()
            .join(",");
        let pod = pod(&format!(
            r#"{{"spec": {{"containers": [], "dnsPolicy": "None",
                "dnsConfig": {{"nameservers": ["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"], "searches": [{many}]}}}}}}"#
        ));
        let dns = pod_dns(&pod, &facts());
        assert_eq!(
            (
                dns.config.servers.len(),
                dns.config.searches.len(),
                dns.warnings.len()
            ),
            (3, 32, 2)
        );
        let long = "a".repeat(1500);
        let mut dns = PodDns {
            config: DnsConfig {
                searches: vec![long.clone(), long],
                ..DnsConfig::default()
            },
            ..PodDns::default()
        };
        limit(&mut dns);
        assert_eq!(dns.config.searches.len(), 1);
    }
}
