//! EndpointSlice JSON -> [`SliceInput`].

use std::collections::BTreeMap;

use kedge_proxy::model::{EndpointInput, Family, ServiceName, SliceInput, SliceName, SlicePort};
use serde::Deserialize;

use super::{address, service};
use crate::watch::store::Kind;

/// EndpointSlices as the proxy wants them.
#[derive(Debug)]
pub struct Slices;

const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

impl Kind for Slices {
    type Key = SliceName;
    type Item = SliceInput;
    const KIND: &'static str = "EndpointSlice";

    fn key(namespace: &str, name: &str) -> SliceName {
        SliceName {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    fn decode(json: &str) -> Result<Option<SliceInput>, serde_json::Error> {
        let slice: Slice = serde_json::from_str(json)?;
        Ok(slice.input())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Slice {
    metadata: Meta,
    #[serde(default)]
    address_type: String,
    #[serde(default)]
    endpoints: Option<Vec<Endpoint>>,
    #[serde(default)]
    ports: Option<Vec<Port>>,
}

#[derive(Deserialize)]
struct Meta {
    #[serde(default)]
    namespace: String,
    name: String,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    #[serde(default)]
    addresses: Option<Vec<String>>,
    #[serde(default)]
    conditions: Conditions,
    #[serde(default)]
    node_name: Option<String>,
    #[serde(default)]
    hints: Option<Hints>,
}

#[derive(Default, Deserialize)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hints {
    #[serde(default)]
    for_zones: Option<Vec<Named>>,
    #[serde(default)]
    for_nodes: Option<Vec<Named>>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct Port {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    protocol: Option<String>,
    #[serde(default)]
    port: Option<u16>,
}

impl Slice {
    fn input(&self) -> Option<SliceInput> {
        let labels = self.metadata.labels.as_ref()?;
        let service = labels.get(SERVICE_LABEL).filter(|s| !s.is_empty())?;
        let family = match self.address_type.as_str() {
            "IPv4" => Family::V4,
            "IPv6" => Family::V6,
            _ => return None,
        };
        if labels.contains_key(HEADLESS_LABEL) {
            return None;
        }
        let namespace = &self.metadata.namespace;
        let object = format!("EndpointSlice {namespace}/{}", self.metadata.name);
        Some(SliceInput {
            name: Slices::key(namespace, &self.metadata.name),
            service: ServiceName {
                namespace: namespace.clone(),
                name: service.clone(),
            },
            family,
            ports: self.ports(&object),
            endpoints: self.endpoints(&object),
        })
    }

    fn ports(&self, object: &str) -> Vec<SlicePort> {
        let ports = self.ports.iter().flatten();
        ports
            .filter_map(|p| {
                Some(SlicePort {
                    name: p.name.clone().unwrap_or_default(),
                    protocol: service::protocol(p.protocol.as_deref(), object)?,
                    port: p.port?,
                })
            })
            .collect()
    }

    fn endpoints(&self, object: &str) -> Vec<EndpointInput> {
        self.endpoints
            .iter()
            .flatten()
            .map(|e| e.input(object))
            .filter(|e| !e.addresses.is_empty())
            .collect()
    }
}

impl Endpoint {
    fn input(&self, object: &str) -> EndpointInput {
        // Absent conditions: the API says that unknown ready counts as ready, and serving follows ready.
        let ready = self.conditions.ready.unwrap_or(true);
        let names = |list: Option<&Vec<Named>>| {
            list.into_iter().flatten().map(|n| n.name.clone()).collect()
        };
        let hints = self.hints.as_ref();
        EndpointInput {
            addresses: self
                .addresses
                .iter()
                .flatten()
                .filter_map(|a| address(a, object))
                .collect(),
            ready,
            serving: self.conditions.serving.unwrap_or(ready),
            terminating: self.conditions.terminating.unwrap_or(false),
            node: self.node_name.clone(),
            zone_hints: names(hints.and_then(|h| h.for_zones.as_ref())),
            node_hints: names(hints.and_then(|h| h.for_nodes.as_ref())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kedge_proxy::model::Protocol;

    fn decode(labels: &str, address_type: &str) -> Option<SliceInput> {
        let json = format!(
            r#"{{"metadata":{{"namespace":"shop","name":"web-x","labels":{labels}}},"addressType":"{address_type}",
            "ports":[{{"name":"http","protocol":"TCP","port":8080}},{{"name":"any","port":null}}],
            "endpoints":[{{"addresses":["10.244.1.2"],"conditions":{{"ready":false,"serving":true,"terminating":true}},"nodeName":"edge-7",
                "hints":{{"forZones":[{{"name":"a"}}],"forNodes":[{{"name":"edge-7"}}]}}}},{{"addresses":["10.244.1.3"]}}]}}"#
        );
        Slices::decode(&json).unwrap()
    }

    #[test]
    fn endpoints_keep_their_conditions_and_absent_ones_count_as_ready() {
        let slice = decode(r#"{"kubernetes.io/service-name":"web"}"#, "IPv4").unwrap();
        let port = SlicePort {
            name: "http".to_owned(),
            protocol: Protocol::Tcp,
            port: 8080,
        };
        assert_eq!(slice.ports, [port]);
        let [leaving, plain] = slice.endpoints.as_slice() else {
            panic!("{slice:?}");
        };
        assert!(!leaving.ready && leaving.serving && leaving.terminating);
        assert_eq!(leaving.zone_hints, ["a"]);
        assert_eq!(leaving.node_hints, ["edge-7"]);
        assert_eq!(leaving.node.as_deref(), Some("edge-7"));
        assert!(plain.ready && plain.serving && !plain.terminating);
    }

    #[test]
    fn slices_of_no_service_or_no_addresses_are_left_out() {
        assert!(decode("{}", "IPv4").is_none());
        assert!(decode(r#"{"kubernetes.io/service-name":"web"}"#, "FQDN").is_none());
        let headless =
            r#"{"kubernetes.io/service-name":"web","service.kubernetes.io/headless":""}"#;
        assert!(decode(headless, "IPv4").is_none());
    }
}
