//! The API server as the rig sees it: JSON documents by path, with the administrator's certificate.
//!
//! In: the PKI directory and where the server listens. Out: `serde_json::Value`s. Cheap enough to poll, unlike a kubectl process.
//! Absent: typed objects and watches; stories look at few fields, and a poll with a deadline is what they wait with.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

use crate::http::{self, Request, Tls};
use crate::pki::Pki;

const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub struct Api {
    address: SocketAddr,
    tls: Tls,
}

impl Api {
    /// A client for the API server on `127.0.0.1:port`.
    pub fn local(pki: &Pki, port: u16) -> Result<Self> {
        Ok(Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            tls: Tls {
                config: Arc::new(client_config(pki, "admin")?),
                name: "127.0.0.1".into(),
            },
        })
    }

    pub fn get(&self, path: &str) -> Result<Value> {
        self.call("GET", path, "application/json", None)
    }

    /// `None` for "not found"; other failures are errors.
    pub fn find(&self, path: &str) -> Result<Option<Value>> {
        let response = http::send(self.address, Some(&self.tls), Request::get(path), TIMEOUT)?;
        if response.status == 404 {
            return Ok(None);
        }
        let body = response.success(&format!("GET {path}"))?;
        serde_json::from_slice(&body)
            .with_context(|| format!("GET {path}: parse the answer"))
            .map(Some)
    }

    pub fn create(&self, path: &str, object: &Value) -> Result<Value> {
        self.call("POST", path, "application/json", Some(object))
    }

    pub fn replace(&self, path: &str, object: &Value) -> Result<Value> {
        self.call("PUT", path, "application/json", Some(object))
    }

    pub fn merge(&self, path: &str, patch: &Value) -> Result<Value> {
        self.call("PATCH", path, "application/merge-patch+json", Some(patch))
    }

    pub fn delete(&self, path: &str, grace_seconds: Option<u64>) -> Result<Value> {
        let options = grace_seconds.map(|seconds| json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": seconds}));
        self.call("DELETE", path, "application/json", options.as_ref())
    }

    /// The body of a path that does not answer JSON (`/readyz`, logs).
    pub fn text(&self, path: &str) -> Result<String> {
        let response = http::send(self.address, Some(&self.tls), Request::get(path), TIMEOUT)?;
        let body = response.success(&format!("GET {path}"))?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// The items of a list.
    pub fn items(&self, path: &str) -> Result<Vec<Value>> {
        let mut list = self.get(path)?;
        Ok(match list.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        })
    }

    fn call(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: Option<&Value>,
    ) -> Result<Value> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = Request {
            method,
            path,
            content_type,
            body: body.as_bytes(),
        };
        let response = http::send(self.address, Some(&self.tls), request, TIMEOUT)?;
        let what = format!("{method} {path}");
        serde_json::from_slice(&response.success(&what)?)
            .with_context(|| format!("{what}: parse the answer"))
    }
}

/// TLS without credentials towards a server whose certificate the cluster CA signed for `name`.
pub fn stranger(pki: &Pki, name: &str) -> Result<Tls> {
    let config = tls_client()
        .context("choose TLS versions")?
        .with_root_certificates(roots(pki)?)
        .with_no_client_auth();
    Ok(Tls {
        config: Arc::new(config),
        name: name.to_owned(),
    })
}

fn roots(pki: &Pki) -> Result<rustls::RootCertStore> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate(pki, "ca")?).context("trust ca.crt")?;
    Ok(roots)
}

fn client_config(pki: &Pki, user: &str) -> Result<rustls::ClientConfig> {
    let key = PrivateKeyDer::from_pem_file(pki.path(&format!("{user}.key")))
        .with_context(|| format!("read {user}.key"))?;
    tls_client()
        .context("choose TLS versions")?
        .with_root_certificates(roots(pki)?)
        .with_client_auth_cert(vec![certificate(pki, user)?], key)
        .with_context(|| format!("use the certificate of {user}"))
}

type Builder = rustls::ConfigBuilder<rustls::ClientConfig, rustls::WantsVerifier>;

fn tls_client() -> Result<Builder, rustls::Error> {
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
}

pub(crate) fn certificate(pki: &Pki, name: &str) -> Result<CertificateDer<'static>> {
    CertificateDer::from_pem_file(pki.path(&format!("{name}.crt")))
        .with_context(|| format!("read {name}.crt"))
}

/// The string at a JSON pointer, or "".
pub fn text_at<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

/// The status of a condition (`"True"`, `"False"`, `"Unknown"`), or "" when it is absent.
pub fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    let conditions = object
        .pointer("/status/conditions")
        .and_then(Value::as_array);
    let found = conditions
        .into_iter()
        .flatten()
        .find(|condition| text_at(condition, "/type") == kind);
    found.map_or("", |condition| text_at(condition, "/status"))
}

/// The addresses of a node of one type (`InternalIP`, `Hostname`, …).
pub fn node_addresses<'a>(node: &'a Value, kind: &str) -> Vec<&'a str> {
    let addresses = node.pointer("/status/addresses").and_then(Value::as_array);
    addresses
        .into_iter()
        .flatten()
        .filter(|address| text_at(address, "/type") == kind)
        .map(|address| text_at(address, "/address"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_and_addresses_are_found_by_type() {
        let node = json!({"status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "192.168.50.11"}, {"type": "Hostname", "address": "node1"}],
        }});
        assert_eq!(condition(&node, "Ready"), "True");
        assert_eq!(condition(&node, "DiskPressure"), "");
        assert_eq!(node_addresses(&node, "InternalIP"), ["192.168.50.11"]);
    }
}
