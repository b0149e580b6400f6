//! Keys for certificates of pods (KEP-4317): made here because the cryptography is.

use kedge_pods::certificate::KeyType;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

/// A new key and the proof that its maker has it.
pub struct PodKey {
    /// PKCS#8 in PEM.
    pub pem: String,
    /// A PKCS#10 request in DER, signed by the key. It says nothing: name and extensions are the signer's to choose.
    pub request: Vec<u8>,
}

/// The key could not be made: the system has no randomness.
#[derive(Debug, thiserror::Error)]
#[error("make a key of type {kind:?} for a pod: {source}")]
pub struct PodKeyError {
    kind: KeyType,
    #[source]
    source: rcgen::Error,
}

/// Makes one.
pub fn make(kind: KeyType) -> Result<PodKey, PodKeyError> {
    let algorithm = match kind {
        KeyType::EcdsaP256 => &PKCS_ECDSA_P256_SHA256,
        KeyType::EcdsaP384 => &PKCS_ECDSA_P384_SHA384,
        KeyType::Ed25519 => &PKCS_ED25519,
    };
    let made = || {
        let key = KeyPair::generate_for(algorithm)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&key)?;
        Ok(PodKey {
            pem: key.serialize_pem(),
            request: request.der().to_vec(),
        })
    };
    made().map_err(|source| PodKeyError { kind, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::certification_request::X509CertificationRequest;
    use x509_parser::prelude::FromDer;

    #[test]
    fn each_kind_of_key_signs_a_request_that_says_nothing() {
        let sizes = [
            (KeyType::EcdsaP256, 65),
            (KeyType::EcdsaP384, 97),
            (KeyType::Ed25519, 32),
        ];
        for (kind, size) in sizes {
            let made = make(kind).unwrap();
            assert!(made.pem.starts_with("-----BEGIN PRIVATE KEY-----\n"));
            assert!(
                made.pem.ends_with("-----END PRIVATE KEY-----\n"),
                "{:?}",
                made.pem
            );
            let (rest, request) = X509CertificationRequest::from_der(&made.request).unwrap();
            assert!(rest.is_empty());
            let info = &request.certification_request_info;
            assert_eq!(info.subject.iter().count(), 0);
            assert_eq!(info.attributes().len(), 0);
            let key = &info.subject_pki.subject_public_key.data;
            assert_eq!(key.len(), size, "{kind:?}");
        }
    }
}
