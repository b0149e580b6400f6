//! May this `kubelet-serving` request be signed? Pure: the CSR object, the Node object and the request's age in, a [`Decision`] out.
//!
//! A kubeadm cluster leaves these requests to its administrator. The rig's approver signs what a node says about itself only when the Node
//! object says the same: identity, usages, and every name and address. Absent: client certificates; the controller manager approves those.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine;
use serde_json::Value;
use x509_parser::prelude::*;

use crate::api::{node_addresses, text_at};

pub const SIGNER: &str = "kubernetes.io/kubelet-serving";

/// A node asks for its new addresses a moment before its Node object shows them; longer than this is a lie, not a race.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Approve,
    /// Not yet true, may become true.
    Wait(String),
    Deny(String),
}

/// What a PKCS#10 request asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Asked {
    pub common_name: String,
    pub organizations: Vec<String>,
    pub names: BTreeSet<String>,
    pub addresses: BTreeSet<String>,
    /// Kinds of names nobody may ask for (mail, URI, …).
    pub other: Vec<String>,
}

/// Judges one CSR object. `node`: the Node named by the requester, if there is one.
pub fn decide(csr: &Value, node: Option<&Value>, age: Duration) -> Decision {
    let asked = match asked(text_at(csr, "/spec/request")) {
        Ok(asked) => asked,
        Err(reason) => return Decision::Deny(reason),
    };
    if let Err(reason) = check_identity(csr, &asked).and_then(|()| check_usages(csr)) {
        return Decision::Deny(reason);
    }
    match check_names(&asked, node) {
        Ok(()) => Decision::Approve,
        Err(reason) if age < PATIENCE => Decision::Wait(reason),
        Err(reason) => Decision::Deny(reason),
    }
}

/// The node a request speaks for, from the authenticated user name.
pub fn node_name(csr: &Value) -> Option<&str> {
    text_at(csr, "/spec/username").strip_prefix("system:node:")
}

/// Neither approved nor denied yet.
pub fn is_pending(csr: &Value) -> bool {
    let conditions = csr.pointer("/status/conditions").and_then(Value::as_array);
    !conditions
        .into_iter()
        .flatten()
        .any(|condition| matches!(text_at(condition, "/type"), "Approved" | "Denied"))
}

/// The `status.conditions` entry that carries a decision.
pub fn condition(approved: bool, message: &str, now: &str) -> Value {
    serde_json::json!({
        "type": if approved { "Approved" } else { "Denied" },
        "status": "True",
        "reason": "KedgeRig",
        "message": message,
        "lastUpdateTime": now,
    })
}

fn check_identity(csr: &Value, asked: &Asked) -> Result<(), String> {
    let user = text_at(csr, "/spec/username");
    let Some(name) = node_name(csr).filter(|name| !name.is_empty()) else {
        return Err(format!("requested by {user:?}, not by a node"));
    };
    if !strings(csr, "/spec/groups").contains(&"system:nodes") {
        return Err(format!("{user} is not in group system:nodes"));
    }
    if asked.common_name != user {
        return Err(format!(
            "common name {:?} is not the requester {user:?}",
            asked.common_name
        ));
    }
    if asked.organizations != ["system:nodes"] {
        return Err(format!(
            "organization {:?} of {name} is not system:nodes",
            asked.organizations
        ));
    }
    Ok(())
}

fn check_usages(csr: &Value) -> Result<(), String> {
    let usages = strings(csr, "/spec/usages");
    if let Some(extra) = usages
        .iter()
        .find(|usage| !["digital signature", "key encipherment", "server auth"].contains(usage))
    {
        return Err(format!("usage {extra:?} is not for a serving certificate"));
    }
    match ["digital signature", "server auth"]
        .iter()
        .find(|needed| !usages.contains(needed))
    {
        Some(missing) => Err(format!("usage {missing:?} is missing")),
        None => Ok(()),
    }
}

fn check_names(asked: &Asked, node: Option<&Value>) -> Result<(), String> {
    if let Some(other) = asked.other.first() {
        return Err(format!("{other} is neither a DNS name nor an address"));
    }
    if asked.names.is_empty() && asked.addresses.is_empty() {
        return Err("neither a DNS name nor an address is asked for".into());
    }
    let node = node.ok_or("there is no such Node")?;
    let kinds = |kinds: [&str; 3]| -> BTreeSet<&str> {
        kinds
            .iter()
            .flat_map(|kind| node_addresses(node, kind))
            .collect()
    };
    let names = kinds(["Hostname", "InternalDNS", "ExternalDNS"]);
    let addresses = kinds(["InternalIP", "ExternalIP", ""]);
    if let Some(name) = asked
        .names
        .iter()
        .find(|name| !names.contains(name.as_str()))
    {
        return Err(format!("DNS name {name:?} is not in the Node's addresses"));
    }
    match asked
        .addresses
        .iter()
        .find(|address| !addresses.contains(address.as_str()))
    {
        Some(address) => Err(format!("address {address} is not in the Node's addresses")),
        None => Ok(()),
    }
}

/// Parses `spec.request`: base64 of PEM of PKCS#10.
pub fn asked(request: &str) -> Result<Asked, String> {
    let pem = base64::engine::general_purpose::STANDARD
        .decode(request)
        .map_err(|error| format!("spec.request is not base64: {error}"))?;
    let (_, pem) =
        parse_x509_pem(&pem).map_err(|error| format!("spec.request is not PEM: {error}"))?;
    let (_, request) = X509CertificationRequest::from_der(&pem.contents)
        .map_err(|error| format!("spec.request is not PKCS#10: {error}"))?;
    let subject = &request.certification_request_info.subject;
    let mut asked = Asked {
        common_name: subject
            .iter_common_name()
            .filter_map(|name| name.as_str().ok())
            .collect(),
        organizations: subject
            .iter_organization()
            .filter_map(|name| name.as_str().ok())
            .map(str::to_owned)
            .collect(),
        ..Asked::default()
    };
    for extension in request.requested_extensions().into_iter().flatten() {
        if let ParsedExtension::SubjectAlternativeName(names) = extension {
            names.general_names.iter().for_each(|name| asked.add(name));
        }
    }
    Ok(asked)
}

impl Asked {
    fn add(&mut self, name: &GeneralName<'_>) {
        match name {
            GeneralName::DNSName(name) => {
                self.names.insert((*name).to_owned());
            }
            GeneralName::IPAddress(bytes) => {
                match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
                    (Ok(v4), _) => drop(
                        self.addresses
                            .insert(std::net::Ipv4Addr::from(v4).to_string()),
                    ),
                    (_, Ok(v6)) => drop(
                        self.addresses
                            .insert(std::net::Ipv6Addr::from(v6).to_string()),
                    ),
                    _ => self
                        .other
                        .push(format!("an address of {} bytes", bytes.len())),
                }
            }
            other => self.other.push(format!("{other:?}")),
        }
    }
}

fn strings<'a>(value: &'a Value, pointer: &str) -> Vec<&'a str> {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
    use serde_json::json;

    struct Case {
        user: &'static str,
        common_name: &'static str,
        organization: &'static str,
        names: &'static [&'static str],
        usages: &'static [&'static str],
        age: u64,
    }

    const GOOD: Case = Case {
        user: "system:node:node1",
        common_name: "system:node:node1",
        organization: "system:nodes",
        names: &["node1", "192.168.50.11"],
        usages: &["digital signature", "server auth"],
        age: 1,
    };

    fn judge(case: &Case) -> Decision {
        let names: Vec<String> = case.names.iter().map(|&name| name.into()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, case.organization);
        params
            .distinguished_name
            .push(DnType::CommonName, case.common_name);
        let pem = params
            .serialize_request(&KeyPair::generate().unwrap())
            .unwrap()
            .pem()
            .unwrap();
        let csr = json!({"spec": {
            "request": base64::engine::general_purpose::STANDARD.encode(pem),
            "username": case.user, "groups": ["system:nodes", "system:authenticated"], "usages": case.usages,
        }});
        let node = json!({"status": {"addresses": [
            {"type": "InternalIP", "address": "192.168.50.11"}, {"type": "Hostname", "address": "node1"},
        ]}});
        let found = node_name(&csr).is_some_and(|name| name == "node1");
        decide(&csr, found.then_some(&node), Duration::from_secs(case.age))
    }

    fn denied(case: &Case, part: &str) {
        let Decision::Deny(reason) = judge(case) else {
            panic!("not denied: {:?}", judge(case))
        };
        assert!(reason.contains(part), "{reason}");
    }

    #[test]
    fn names_and_addresses_of_the_node_are_approved() {
        assert_eq!(judge(&GOOD), Decision::Approve);
        assert_eq!(
            judge(&Case {
                names: &["192.168.50.11"],
                ..GOOD
            }),
            Decision::Approve
        );
    }

    #[test]
    fn an_address_the_node_does_not_show_yet_waits_and_is_denied_after_a_minute() {
        let other = Case {
            names: &["node1", "192.168.50.99"],
            ..GOOD
        };
        assert!(
            matches!(judge(&other), Decision::Wait(reason) if reason.contains("192.168.50.99"))
        );
        denied(
            &Case { age: 61, ..other },
            "192.168.50.99 is not in the Node's addresses",
        );
    }

    #[test]
    fn a_name_of_somebody_else_is_denied() {
        denied(
            &Case {
                names: &["kubernetes.default.svc"],
                age: 61,
                ..GOOD
            },
            "kubernetes.default.svc",
        );
    }

    #[test]
    fn another_identity_is_denied_at_once() {
        denied(
            &Case {
                common_name: "system:node:node2",
                ..GOOD
            },
            "is not the requester",
        );
        denied(
            &Case {
                organization: "system:masters",
                ..GOOD
            },
            "is not system:nodes",
        );
        denied(
            &Case {
                user: "kubernetes-admin",
                ..GOOD
            },
            "not by a node",
        );
    }

    #[test]
    fn client_usage_is_denied() {
        denied(
            &Case {
                usages: &["digital signature", "server auth", "client auth"],
                ..GOOD
            },
            "client auth",
        );
        denied(
            &Case {
                usages: &["digital signature"],
                ..GOOD
            },
            "\"server auth\" is missing",
        );
    }

    #[test]
    fn no_names_at_all_are_denied() {
        denied(
            &Case {
                names: &[],
                age: 61,
                ..GOOD
            },
            "neither a DNS name nor an address",
        );
    }

    #[test]
    fn garbage_is_denied_with_a_reason() {
        let csr = json!({"spec": {"request": "!!", "username": "system:node:node1"}});
        assert!(
            matches!(decide(&csr, None, Duration::ZERO), Decision::Deny(reason) if reason.contains("base64"))
        );
    }
}
