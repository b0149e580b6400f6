//! The downward API: a pod's own fields and a container's resources as text.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, ObjectFieldSelector, Pod, ResourceFieldSelector};

use super::{NodeFacts, Reason};
use crate::needs::service_account;
use crate::pod;
use crate::quantity::{Amount, amount};

/// A `fieldRef`.
pub fn field(
    r: &ObjectFieldSelector,
    pod: &Pod,
    node: &NodeFacts,
    ips: &[IpAddr],
) -> Result<String, Reason> {
    let join = |ips: &[IpAddr]| {
        ips.iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(",")
    };
    let first = |ips: &[IpAddr]| ips.first().map(ToString::to_string).unwrap_or_default();
    let empty = BTreeMap::new();
    let labels = pod.metadata.labels.as_ref().unwrap_or(&empty);
    let annotations = pod.metadata.annotations.as_ref().unwrap_or(&empty);
    if let Some((map, key)) = subscript(&r.field_path) {
        let map = match map {
            "metadata.labels" => labels,
            "metadata.annotations" => annotations,
            _ => return Err(unknown(&r.field_path)),
        };
        return Ok(map.get(key).cloned().unwrap_or_default());
    }
    Ok(match r.field_path.as_str() {
        "metadata.name" => pod::name(pod).to_owned(),
        "metadata.namespace" => pod::namespace(pod).to_owned(),
        "metadata.uid" => pod::uid(pod).to_owned(),
        "metadata.labels" => format_map(labels),
        "metadata.annotations" => format_map(annotations),
        "spec.nodeName" => pod::spec(pod)
            .node_name
            .clone()
            .unwrap_or_else(|| node.name.clone()),
        "spec.serviceAccountName" => service_account(pod::spec(pod)).to_owned(),
        "status.hostIP" => first(&node.host_ips),
        "status.hostIPs" => join(&node.host_ips),
        "status.podIP" => first(ips),
        "status.podIPs" => join(ips),
        other => return Err(unknown(other)),
    })
}

fn unknown(path: &str) -> Reason {
    Reason::config(format!("unsupported fieldPath: {path}"))
}

/// `metadata.labels['key']` -> (`metadata.labels`, `key`)
fn subscript(path: &str) -> Option<(&str, &str)> {
    path.strip_suffix("']")?.split_once("['")
}

/// `key="value"` per line, sorted, values quoted as Go's `%q` does.
fn format_map(map: &BTreeMap<String, String>) -> String {
    let lines: Vec<String> = map
        .iter()
        .map(|(k, v)| format!("{k}={}", quote(v)))
        .collect();
    lines.join("\n")
}

fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if u32::from(c) < 0x20 || u32::from(c) == 0x7f => {
                out.push_str(&format!("\\x{:02x}", u32::from(c)))
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A `resourceFieldRef` of a container (the named one, else `own`). A limit that is not set reads as what the node has to
/// give, a request that is not set as zero.
pub fn resource(
    r: &ResourceFieldSelector,
    pod: &Pod,
    own: Option<&Container>,
    node: &NodeFacts,
) -> Result<String, Reason> {
    let named = r.container_name.as_deref().filter(|n| !n.is_empty());
    let member = named.and_then(|n| pod::member(pod::spec(pod), n));
    let container = match (named, &member, own) {
        (Some(_), Some(m), _) => &*m.spec,
        (None, _, Some(own)) => own,
        (name, _, _) => {
            let name = name.unwrap_or_default();
            return Err(Reason::config(format!("container {name:?} not found")));
        }
    };
    let divisor = r
        .divisor
        .as_ref()
        .and_then(Amount::of)
        .filter(|d| d.0 > 0)
        .unwrap_or(Amount(1_000_000_000));
    let (list, name) = r
        .resource
        .split_once('.')
        .ok_or_else(|| Reason::config(format!("unsupported container resource: {}", r.resource)))?;
    let resources = container.resources.as_ref();
    let value = match list {
        "limits" => amount(resources.and_then(|r| r.limits.as_ref()), name)
            .filter(|a| a.0 != 0)
            .or_else(|| allocatable(name, node)),
        "requests" => amount(resources.and_then(|r| r.requests.as_ref()), name)
            .or_else(|| amount(resources.and_then(|r| r.limits.as_ref()), name)),
        _ => {
            return Err(Reason::config(format!(
                "unsupported container resource: {}",
                r.resource
            )));
        }
    };
    Ok(value.unwrap_or_default().divide(divisor).to_string())
}

fn allocatable(name: &str, node: &NodeFacts) -> Option<Amount> {
    let units = |v: u64| Amount(i128::from(v) * 1_000_000_000);
    Some(match name {
        "cpu" => Amount(i128::from(node.allocatable_cpu_milli) * 1_000_000),
        "memory" => units(node.allocatable_memory),
        "ephemeral-storage" => units(node.allocatable_ephemeral_storage),
        _ => return None,
    })
}
