//! Kinds and what is kept of them. In: one object's JSON. Out: the value that consumers want, nothing more.
//!
//! Services, EndpointSlices and foreign Nodes are read straight into slim structs: a cluster may have ten thousand of them, and the typed
//! form is ten times the size of the text. Pods of this node and its own Node are typed, without `managedFields`.

pub mod node;
pub mod service;
pub mod slice;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::watch::store::Kind;

/// `namespace`, `name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    pub namespace: String,
    pub name: String,
}

impl ObjectKey {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

/// The pods bound to this node.
#[derive(Debug)]
pub struct OwnPods;

impl Kind for OwnPods {
    type Key = ObjectKey;
    type Item = Pod;
    const KIND: &'static str = "Pod";

    fn key(namespace: &str, name: &str) -> ObjectKey {
        ObjectKey::new(namespace, name)
    }

    fn decode(json: &str) -> Result<Option<Pod>, serde_json::Error> {
        let mut pod: Pod = serde_json::from_str(json)?;
        slim(&mut pod.metadata);
        Ok(Some(pod))
    }
}

/// This node's Node object; the feed holds at most one.
#[derive(Debug)]
pub struct OwnNode;

impl Kind for OwnNode {
    type Key = String;
    type Item = Node;
    const KIND: &'static str = "own Node";

    fn key(_namespace: &str, name: &str) -> String {
        name.to_owned()
    }

    fn decode(json: &str) -> Result<Option<Node>, serde_json::Error> {
        let mut node: Node = serde_json::from_str(json)?;
        slim(&mut node.metadata);
        Ok(Some(node))
    }
}

/// RuntimeClasses.
#[derive(Debug)]
pub struct RuntimeClasses;

impl Kind for RuntimeClasses {
    type Key = String;
    type Item = RuntimeClass;
    const KIND: &'static str = "RuntimeClass";

    fn key(_namespace: &str, name: &str) -> String {
        name.to_owned()
    }

    fn decode(json: &str) -> Result<Option<RuntimeClass>, serde_json::Error> {
        let mut class: RuntimeClass = serde_json::from_str(json)?;
        slim(&mut class.metadata);
        Ok(Some(class))
    }
}

/// Field ownership records are a third of an object and of no use here.
fn slim(metadata: &mut ObjectMeta) {
    metadata.managed_fields = None;
}

/// Reads what must be an address; anything else is left out with a warning that names the object.
pub(crate) fn address(text: &str, object: &str) -> Option<std::net::IpAddr> {
    text.parse()
        .inspect_err(|_| tracing::warn!(%object, address = %text, "not an IP address; left out"))
        .ok()
}
