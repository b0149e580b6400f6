//! `/run/kedge/podnet.json`: all that the CNI plugin needs to know, published by the agent, used while the agent is dead.

use std::net::Ipv4Addr;

use kedge_wire::net::Ipv4Net;
use serde::{Deserialize, Serialize};

/// Ethernet's, when the node's own link says nothing.
const DEFAULT_MTU: u32 = 1500;

/// The node's part of the pod network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodNetwork {
    /// Source address of the node towards its pods; absent while the node has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_address: Option<Ipv4Addr>,
    /// Ranges to allocate from.
    pub pod_ranges: Vec<Ipv4Net>,
    /// For veths: that of the node's uplink.
    #[serde(default = "default_mtu")]
    pub mtu: u32,
}

fn default_mtu() -> u32 {
    DEFAULT_MTU
}

impl PodNetwork {
    /// The file's text.
    pub fn to_text(&self) -> String {
        // Strings, numbers and addresses only: serialisation has no failing case.
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_keeps_its_shape() {
        let document = PodNetwork {
            node_address: Some(Ipv4Addr::new(192, 168, 50, 11)),
            pod_ranges: vec!["10.244.1.0/24".parse().unwrap()],
            mtu: 1400,
        };
        expect_test::expect![[
            r#"{"nodeAddress":"192.168.50.11","podRanges":["10.244.1.0/24"],"mtu":1400}"#
        ]]
        .assert_eq(&document.to_text());
        assert_eq!(
            serde_json::from_str::<PodNetwork>(&document.to_text()).unwrap(),
            document
        );
        let short: PodNetwork =
            serde_json::from_str(r#"{"podRanges":["10.244.1.0/24"],"later":1}"#).unwrap();
        assert_eq!((short.mtu, short.node_address), (1500, None));
    }
}
