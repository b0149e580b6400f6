//! Certificate signing requests: what to ask for, and what the API server's answer means.
//!
//! In: a key, the node's name, names and addresses. Out: a CertificateSigningRequest object; a [`Verdict`] from one read back.
//! The request's name is a hash of key and content: after a restart the same request is found again, not made twice.

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, SanType,
};
use ring::digest;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::cert::Names;
use crate::tls;

/// The two signers a kubelet uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// `kubernetes.io/kube-apiserver-client-kubelet`.
    Client,
    /// `kubernetes.io/kubelet-serving`, for these names.
    Serving(Names),
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody decided yet, or the signer is not done.
    Pending,
    /// Leaf first.
    Issued(Vec<CertificateDer<'static>>),
    Denied(String),
    Failed(String),
}

/// Keys and requests that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CsrError {
    #[error("make a key")]
    Key(#[source] rcgen::Error),
    #[error("read a stored key")]
    StoredKey(#[source] rcgen::Error),
    #[error("encode a certificate request for {names}")]
    Encode {
        names: String,
        #[source]
        source: rcgen::Error,
    },
}

/// A new ECDSA P-256 key.
pub fn new_key() -> Result<KeyPair, CsrError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(CsrError::Key)
}

/// A key read from the store.
pub fn stored_key(key: &PrivateKeyDer<'_>) -> Result<KeyPair, CsrError> {
    KeyPair::from_der_and_sign_algo(key, &PKCS_ECDSA_P256_SHA256).map_err(CsrError::StoredKey)
}

/// The private key for TLS.
pub fn private_key(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(key.serialize_der()).into()
}

/// Subject of every certificate of a node: O=system:nodes, CN=system:node:<name>.
pub fn subject(node_name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, "system:nodes");
    subject.push(DnType::CommonName, user_name(node_name));
    subject
}

/// The user that a node is to the API server.
pub fn user_name(node_name: &str) -> String {
    format!("system:node:{node_name}")
}

/// Names as rcgen wants them.
pub fn alternative_names(names: &Names) -> Result<Vec<SanType>, CsrError> {
    let mut out = Vec::new();
    for dns in &names.dns {
        let dns_name = dns.as_str().try_into().map_err(|source| CsrError::Encode {
            names: dns.clone(),
            source,
        })?;
        out.push(SanType::DnsName(dns_name));
    }
    out.extend(names.ips.iter().map(|ip| SanType::IpAddress(*ip)));
    Ok(out)
}

/// The object to create.
pub fn request(
    key: &KeyPair,
    node_name: &str,
    purpose: &Purpose,
) -> Result<CertificateSigningRequest, CsrError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(node_name);
    let (prefix, signer, usage) = match purpose {
        Purpose::Client => (
            "node-csr",
            "kubernetes.io/kube-apiserver-client-kubelet",
            "client auth",
        ),
        Purpose::Serving(names) => {
            params.subject_alt_names = alternative_names(names)?;
            (
                "node-serving",
                "kubernetes.io/kubelet-serving",
                "server auth",
            )
        }
    };
    let encode_error = |source| CsrError::Encode {
        names: user_name(node_name),
        source,
    };
    let pem = params
        .serialize_request(key)
        .and_then(|csr| csr.pem())
        .map_err(encode_error)?;
    Ok(CertificateSigningRequest {
        metadata: ObjectMeta {
            name: Some(format!("{prefix}-{}", fingerprint(key, node_name, purpose))),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.into_bytes()),
            signer_name: signer.to_owned(),
            usages: Some(vec!["digital signature".to_owned(), usage.to_owned()]),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    })
}

fn fingerprint(key: &KeyPair, node_name: &str, purpose: &Purpose) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(key.public_key_raw());
    context.update(node_name.as_bytes());
    context.update(format!("{purpose:?}").as_bytes());
    let hash = context.finish();
    hash.as_ref()[..16]
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// What the API server says about a request now.
pub fn verdict(csr: &CertificateSigningRequest) -> Verdict {
    let Some(status) = &csr.status else {
        return Verdict::Pending;
    };
    for condition in status.conditions.iter().flatten() {
        let said = condition
            .message
            .clone()
            .or_else(|| condition.reason.clone())
            .unwrap_or_else(|| "no reason given".to_owned());
        match condition.type_.as_str() {
            "Denied" => return Verdict::Denied(said),
            "Failed" => return Verdict::Failed(said),
            _ => {}
        }
    }
    match &status.certificate {
        Some(ByteString(pem)) if !pem.is_empty() => match tls::certificates(pem) {
            Ok(chain) => Verdict::Issued(chain),
            Err(e) => Verdict::Failed(format!("the issued certificate cannot be read: {e}")),
        },
        _ => Verdict::Pending,
    }
}

/// Key and chain as one PEM text, as the store keeps it.
pub fn to_pem(key: &KeyPair, chain: &[CertificateDer<'_>]) -> String {
    let mut pem = key.serialize_pem();
    for certificate in chain {
        pem.push_str(&certificate_pem(certificate));
    }
    pem
}

/// One certificate as PEM.
pub fn certificate_pem(der: &CertificateDer<'_>) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_key_and_names_give_the_same_request_name() {
        let key = new_key().unwrap();
        let names = Names {
            dns: ["edge-7".to_owned()].into(),
            ips: ["10.0.0.7".parse().unwrap()].into(),
        };
        let name = |key: &KeyPair, purpose: &Purpose| {
            request(key, "edge-7", purpose)
                .unwrap()
                .metadata
                .name
                .unwrap()
        };
        let serving = Purpose::Serving(names.clone());
        let restored = stored_key(&private_key(&key)).unwrap();
        assert_eq!(name(&key, &serving), name(&restored, &serving));
        let mut moved = names;
        moved.ips = ["10.0.0.8".parse().unwrap()].into();
        assert_ne!(name(&key, &serving), name(&key, &Purpose::Serving(moved)));
        assert_ne!(name(&key, &serving), name(&key, &Purpose::Client));
        assert_ne!(name(&new_key().unwrap(), &serving), name(&key, &serving));
    }

    #[test]
    fn a_certificate_written_as_pem_is_read_back_unchanged() {
        let key = new_key().unwrap();
        let certificate = CertificateParams::new(vec!["a".to_owned()])
            .unwrap()
            .self_signed(&key)
            .unwrap();
        let pem = certificate_pem(certificate.der());
        assert_eq!(
            tls::certificates(pem.as_bytes()).unwrap(),
            [certificate.der().clone()]
        );
    }

    #[test]
    fn a_denial_is_told_from_a_request_nobody_looked_at() {
        let read = |status: &str| {
            let text = format!(
                r#"{{"metadata":{{"name":"a"}},"spec":{{"request":"","signerName":"x"}},"status":{status}}}"#
            );
            verdict(&serde_json::from_str(&text).unwrap())
        };
        assert_eq!(read("{}"), Verdict::Pending);
        let approved = r#"{"conditions":[{"type":"Approved","status":"True"}]}"#;
        assert_eq!(read(approved), Verdict::Pending);
        let denied = r#"{"conditions":[{"type":"Denied","status":"True","message":"no"}]}"#;
        assert_eq!(read(denied), Verdict::Denied("no".to_owned()));
    }
}
