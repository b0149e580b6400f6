//! Service JSON -> [`ServiceInput`]. Which Services the proxy never sees is said in `proxy::model`.

use std::collections::BTreeMap;

use kedge_proxy::model::{Cidr, Policy, PortInput, Protocol, ServiceInput, ServiceName};
use serde::Deserialize;

use super::address;
use crate::watch::store::Kind;

/// Services as the proxy wants them.
#[derive(Debug)]
pub struct Services;

/// Another proxy takes care of Services with this label.
const OTHER_PROXY_LABEL: &str = "service.kubernetes.io/service-proxy-name";
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// The form of `loadBalancerSourceRanges` from before the field existed.
const SOURCE_RANGES_ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
/// The API's default for `sessionAffinityConfig.clientIP.timeoutSeconds`.
const DEFAULT_AFFINITY: u32 = 10_800;

impl Kind for Services {
    type Key = ServiceName;
    type Item = ServiceInput;
    const KIND: &'static str = "Service";

    fn key(namespace: &str, name: &str) -> ServiceName {
        ServiceName {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    fn decode(json: &str) -> Result<Option<ServiceInput>, serde_json::Error> {
        let service: Service = serde_json::from_str(json)?;
        Ok(service.is_ours().then(|| service.input()))
    }
}

#[derive(Deserialize)]
struct Service {
    metadata: Meta,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Meta {
    #[serde(default)]
    namespace: String,
    name: String,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    #[serde(rename = "type")]
    kind: String,
    #[serde(rename = "clusterIP")]
    cluster_ip: String,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Option<Vec<String>>,
    #[serde(rename = "externalIPs")]
    external_ips: Option<Vec<String>>,
    load_balancer_source_ranges: Option<Vec<String>>,
    ports: Option<Vec<Port>>,
    session_affinity: String,
    session_affinity_config: Option<AffinityConfig>,
    internal_traffic_policy: Option<String>,
    external_traffic_policy: Option<String>,
    health_check_node_port: Option<u16>,
    publish_not_ready_addresses: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Port {
    #[serde(default)]
    name: String,
    #[serde(default)]
    protocol: Option<String>,
    port: u16,
    #[serde(default)]
    node_port: Option<u16>,
}

#[derive(Deserialize)]
struct AffinityConfig {
    #[serde(rename = "clientIP", default)]
    client_ip: Option<ClientIp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClientIp {
    #[serde(default)]
    timeout_seconds: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    load_balancer: LoadBalancer,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct LoadBalancer {
    ingress: Option<Vec<Ingress>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ingress {
    #[serde(default)]
    ip: Option<String>,
    #[serde(default)]
    ip_mode: Option<String>,
}

impl Service {
    fn is_ours(&self) -> bool {
        let labelled = |label| {
            self.metadata
                .labels
                .as_ref()
                .is_some_and(|l| l.contains_key(label))
        };
        self.spec.kind != "ExternalName"
            && !matches!(self.spec.cluster_ip.as_str(), "" | "None")
            && !labelled(OTHER_PROXY_LABEL)
            && !labelled(HEADLESS_LABEL)
    }

    fn input(&self) -> ServiceInput {
        let spec = &self.spec;
        let object = format!("Service {}/{}", self.metadata.namespace, self.metadata.name);
        let addresses = |texts: &Option<Vec<String>>| {
            texts
                .iter()
                .flatten()
                .filter_map(|t| address(t, &object))
                .collect::<Vec<_>>()
        };
        let mut input = ServiceInput::named(&self.metadata.namespace, &self.metadata.name);
        input.cluster_ips = match &spec.cluster_ips {
            Some(ips) if !ips.is_empty() => addresses(&spec.cluster_ips),
            // Written by an API server before dual stack.
            _ => address(&spec.cluster_ip, &object).into_iter().collect(),
        };
        input.external_ips = addresses(&spec.external_ips);
        input.lb_ips = self.load_balancer_ips(&object);
        input.lb_source_ranges = self.source_ranges(&object);
        input.ports = self.ports(&object);
        input.affinity_seconds = self.affinity();
        input.internal_policy = policy(spec.internal_traffic_policy.as_deref());
        input.external_policy = policy(spec.external_traffic_policy.as_deref());
        input.health_check_node_port = spec.health_check_node_port.filter(|p| *p != 0);
        input.publish_not_ready = spec.publish_not_ready_addresses;
        input
    }

    fn load_balancer_ips(&self, object: &str) -> Vec<std::net::IpAddr> {
        let ingress = self.status.load_balancer.ingress.iter().flatten();
        ingress
            .filter(|i| i.ip_mode.as_deref() != Some("Proxy"))
            .filter_map(|i| address(i.ip.as_deref().filter(|ip| !ip.is_empty())?, object))
            .collect()
    }

    fn source_ranges(&self, object: &str) -> Vec<Cidr> {
        let field = self.spec.load_balancer_source_ranges.as_ref();
        let annotation = || {
            self.metadata
                .annotations
                .as_ref()?
                .get(SOURCE_RANGES_ANNOTATION)
        };
        let texts: Vec<&str> = match field {
            Some(ranges) if !ranges.is_empty() => ranges.iter().map(String::as_str).collect(),
            _ => annotation().map_or(Vec::new(), |a| a.split(',').collect()),
        };
        texts
            .into_iter()
            .map(str::trim)
            .filter(|t| !t.is_empty())
            .filter_map(|t| {
                t.parse()
                    .inspect_err(
                        |error| tracing::warn!(%object, %error, "loadBalancerSourceRanges"),
                    )
                    .ok()
            })
            .collect()
    }

    fn ports(&self, object: &str) -> Vec<PortInput> {
        let ports = self.spec.ports.iter().flatten();
        ports
            .filter_map(|p| {
                Some(PortInput {
                    name: p.name.clone(),
                    protocol: protocol(p.protocol.as_deref(), object)?,
                    port: p.port,
                    node_port: p.node_port.filter(|n| *n != 0),
                })
            })
            .collect()
    }

    fn affinity(&self) -> Option<u32> {
        let config = self.spec.session_affinity_config.as_ref();
        (self.spec.session_affinity == "ClientIP").then(|| {
            config
                .and_then(|c| c.client_ip.as_ref()?.timeout_seconds)
                .unwrap_or(DEFAULT_AFFINITY)
        })
    }
}

fn policy(text: Option<&str>) -> Policy {
    match text {
        Some("Local") => Policy::Local,
        _ => Policy::Cluster,
    }
}

/// Absent is TCP, as the API defaults it.
pub(super) fn protocol(text: Option<&str>, object: &str) -> Option<Protocol> {
    match text {
        None | Some("" | "TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => Some(Protocol::Sctp),
        Some(other) => {
            tracing::warn!(%object, protocol = %other, "unknown protocol; the port is left out");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(spec: &str, extra: &str) -> Option<ServiceInput> {
        let json = format!(
            r#"{{"metadata":{{"namespace":"shop","name":"web"{extra}}},"spec":{spec},"status":{{"loadBalancer":{{"ingress":[{{"ip":"192.0.2.9"}},{{"ip":"192.0.2.8","ipMode":"Proxy"}},{{"hostname":"lb"}}]}}}}}}"#
        );
        Services::decode(&json).unwrap()
    }

    #[test]
    fn every_field_the_proxy_uses_is_taken_over() {
        let input = decode(
            r#"{"type":"LoadBalancer","clusterIP":"10.96.0.7","clusterIPs":["10.96.0.7","fd00::7"],"externalIPs":["198.51.100.1"],
            "loadBalancerSourceRanges":["10.0.0.0/8"],"sessionAffinity":"ClientIP","sessionAffinityConfig":{"clientIP":{"timeoutSeconds":60}},
            "ports":[{"name":"http","protocol":"TCP","port":80,"targetPort":"web","nodePort":30080},{"name":"dns","protocol":"UDP","port":53,"targetPort":53}],
            "internalTrafficPolicy":"Local","externalTrafficPolicy":"Local","healthCheckNodePort":31000,"publishNotReadyAddresses":true}"#,
            "",
        )
        .unwrap();
        let mut expected = ServiceInput::named("shop", "web");
        expected.cluster_ips = vec!["10.96.0.7".parse().unwrap(), "fd00::7".parse().unwrap()];
        expected.external_ips = vec!["198.51.100.1".parse().unwrap()];
        expected.lb_ips = vec!["192.0.2.9".parse().unwrap()];
        expected.lb_source_ranges = vec!["10.0.0.0/8".parse().unwrap()];
        let port = |name: &str, protocol, port, node_port| PortInput {
            name: name.to_owned(),
            protocol,
            port,
            node_port,
        };
        expected.ports = vec![
            port("http", Protocol::Tcp, 80, Some(30080)),
            port("dns", Protocol::Udp, 53, None),
        ];
        expected.affinity_seconds = Some(60);
        expected.internal_policy = Policy::Local;
        expected.external_policy = Policy::Local;
        expected.health_check_node_port = Some(31000);
        expected.publish_not_ready = true;
        assert_eq!(input, expected);
    }

    #[test]
    fn services_of_no_concern_are_left_out() {
        assert!(decode(r#"{"type":"ExternalName","externalName":"x"}"#, "").is_none());
        assert!(decode(r#"{"clusterIP":"None"}"#, "").is_none());
        for label in [OTHER_PROXY_LABEL, HEADLESS_LABEL] {
            let labels = format!(r#","labels":{{"{label}":"x"}}"#);
            assert!(
                decode(r#"{"clusterIP":"10.96.0.1"}"#, &labels).is_none(),
                "{label}"
            );
        }
        assert!(decode(r#"{"clusterIP":"10.96.0.1"}"#, "").is_some());
    }

    #[test]
    fn the_old_annotation_still_limits_sources() {
        let extra = format!(
            r#","annotations":{{"{SOURCE_RANGES_ANNOTATION}":"10.0.0.0/8, 172.16.0.0/12"}}"#
        );
        let input = decode(r#"{"clusterIP":"10.96.0.1"}"#, &extra).unwrap();
        assert_eq!(input.lb_source_ranges.len(), 2);
    }
}
