//! The ConfigMap `kube-public/cluster-info`, from which a node with a token and a CA hash learns the cluster's CA. Pure.
//!
//! Read over unverified TLS, so nothing in it is believed before two checks: the token's signature (somebody who knows the token wrote
//! it) and the key hash (it is the CA the operator meant). Only certificates with a configured hash become trusted: everybody
//! with the token could sign a bundle that also holds a CA of theirs.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::ConfigMap;
use kedge_machine::identity::{CaHash, Token};
use rustls_pki_types::CertificateDer;
use serde::Deserialize;

use super::jws;
use crate::{cert, tls};

/// Namespace and name, fixed by kubeadm.
pub const NAMESPACE: &str = "kube-public";
pub const NAME: &str = "cluster-info";

/// Why the cluster's CA is not known after reading `cluster-info`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryError {
    #[error(
        "the cluster publishes no ConfigMap kube-public/cluster-info, so a CA hash is not enough; write the CA itself as cluster.ca into kedge.yaml"
    )]
    NotPublished,
    #[error("the cluster does not know token {id}.…: it has expired, was deleted or is mistyped")]
    TokenUnknown { id: String },
    #[error(
        "token {id}.… is wrong: cluster-info is not signed with its secret half (or was altered on the way: {detail})"
    )]
    TokenWrong { id: String, detail: String },
    #[error(
        "the cluster's CA has the hash {found}, but caCertHashes in kedge.yaml allows only {expected}"
    )]
    CaMismatch { expected: String, found: String },
    #[error("cannot understand kube-public/cluster-info: {0}")]
    Malformed(String),
}

#[derive(Deserialize)]
struct Kubeconfig {
    clusters: Vec<NamedCluster>,
}

#[derive(Deserialize)]
struct NamedCluster {
    cluster: ClusterEntry,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ClusterEntry {
    #[serde(default)]
    certificate_authority_data: String,
}

/// The CA certificates to trust.
pub fn trusted_ca(
    info: &ConfigMap,
    token: &Token,
    hashes: &[CaHash],
) -> Result<Vec<CertificateDer<'static>>, DiscoveryError> {
    let data = info.data.as_ref();
    let kubeconfig = data
        .and_then(|d| d.get("kubeconfig"))
        .ok_or_else(|| DiscoveryError::Malformed("it has no key kubeconfig".to_owned()))?;
    let signature = data
        .and_then(|d| d.get(&format!("jws-kubeconfig-{}", token.id())))
        .ok_or_else(|| DiscoveryError::TokenUnknown {
            id: token.id().to_owned(),
        })?;
    jws::verify(signature, kubeconfig.as_bytes(), token).map_err(|e| {
        DiscoveryError::TokenWrong {
            id: token.id().to_owned(),
            detail: e.to_string(),
        }
    })?;
    pinned(&bundle(kubeconfig)?, hashes)
}

/// The certificates in a kubeconfig's first cluster.
fn bundle(kubeconfig: &str) -> Result<Vec<CertificateDer<'static>>, DiscoveryError> {
    let malformed = |text: String| DiscoveryError::Malformed(text);
    let parsed: Kubeconfig =
        serde_saphyr::from_str(kubeconfig).map_err(|e| malformed(e.to_string()))?;
    let data = parsed
        .clusters
        .into_iter()
        .next()
        .ok_or_else(|| malformed("its kubeconfig names no cluster".to_owned()))?
        .cluster
        .certificate_authority_data;
    let pem = STANDARD
        .decode(data.trim())
        .map_err(|e| malformed(format!("certificate-authority-data: {e}")))?;
    tls::certificates(&pem).map_err(|e| malformed(e.to_string()))
}

/// Those of `bundle` whose key has one of the hashes.
pub fn pinned(
    bundle: &[CertificateDer<'static>],
    hashes: &[CaHash],
) -> Result<Vec<CertificateDer<'static>>, DiscoveryError> {
    let mut trusted = Vec::new();
    let mut found = Vec::new();
    for certificate in bundle {
        let hash =
            cert::key_hash(certificate).map_err(|e| DiscoveryError::Malformed(e.to_string()))?;
        if hashes.contains(&hash) {
            trusted.push(certificate.clone());
        }
        found.push(hash);
    }
    if trusted.is_empty() {
        return Err(DiscoveryError::CaMismatch {
            expected: list(hashes),
            found: list(&found),
        });
    }
    Ok(trusted)
}

fn list(hashes: &[CaHash]) -> String {
    let texts: Vec<String> = hashes.iter().map(CaHash::to_string).collect();
    if texts.is_empty() {
        "none".to_owned()
    } else {
        texts.join(", ")
    }
}

#[cfg(test)]
pub(crate) fn config_map(ca_pem: &str, signed_with: &[&Token]) -> ConfigMap {
    let kubeconfig = format!(
        "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {}\n    server: https://10.0.0.1:6443\n  name: \"\"\ncontexts: null\ncurrent-context: \"\"\nkind: Config\nusers: null\n",
        STANDARD.encode(ca_pem)
    );
    let mut data = std::collections::BTreeMap::new();
    for token in signed_with {
        let key = format!("jws-kubeconfig-{}", token.id());
        data.insert(key, jws::sign(kubeconfig.as_bytes(), token));
    }
    data.insert("kubeconfig".to_owned(), kubeconfig);
    ConfigMap {
        data: Some(data),
        ..ConfigMap::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ca() -> (String, CaHash) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        (
            certificate.pem(),
            cert::key_hash(certificate.der()).unwrap(),
        )
    }

    fn token() -> Token {
        Token::parse("abcdef.0123456789abcdef").unwrap()
    }

    #[test]
    fn a_signed_and_pinned_ca_is_trusted() {
        let (pem, hash) = ca();
        let trusted = trusted_ca(&config_map(&pem, &[&token()]), &token(), &[hash]).unwrap();
        assert_eq!(trusted.len(), 1);
    }

    #[test]
    fn a_second_ca_slipped_into_the_bundle_is_not_trusted() {
        let (pem, hash) = ca();
        let (other, _) = ca();
        let info = config_map(&format!("{other}{pem}"), &[&token()]);
        let trusted = trusted_ca(&info, &token(), &[hash]).unwrap();
        assert_eq!(trusted.len(), 1);
        assert_eq!(cert::key_hash(&trusted[0]).unwrap(), hash);
    }

    #[test]
    fn each_bad_input_has_its_own_message() {
        let (pem, hash) = ca();
        let (_, other_hash) = ca();
        let expired = trusted_ca(&config_map(&pem, &[]), &token(), &[hash]).unwrap_err();
        assert!(
            expired
                .to_string()
                .contains("does not know token abcdef.…: it has expired")
        );
        let wrong = Token::parse("abcdef.aaaaaaaaaaaaaaaa").unwrap();
        let error = trusted_ca(&config_map(&pem, &[&wrong]), &token(), &[hash]).unwrap_err();
        assert!(
            error.to_string().contains("token abcdef.… is wrong"),
            "{error}"
        );
        let info = config_map(&pem, &[&token()]);
        let error = trusted_ca(&info, &token(), &[other_hash]).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "the cluster's CA has the hash {hash}, but caCertHashes in kedge.yaml allows only {other_hash}"
            )
        );
    }
}
