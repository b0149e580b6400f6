//! TLS towards the API server: configurations, and rustls's errors in an operator's words.
//!
//! In: the cluster's CA, perhaps a client certificate, the clock. Out: `rustls::ClientConfig`s with ring and ALPN `h2`.
//! The unverified configuration exists for one request only: reading `cluster-info` before the CA is known. What it returns is
//! believed only after the token's signature and the CA hash were checked.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::clock::{WallClock, timestamp};
use crate::error::TlsProblem;

/// A key with its certificate chain, leaf first.
#[derive(Debug)]
pub struct Identity {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
        }
    }
}

/// Certificates or keys that TLS cannot use.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    #[error("read the cluster's CA: {0}")]
    Ca(String),
    #[error("use this node's client certificate")]
    Client(#[source] rustls::Error),
    #[error("set up TLS")]
    Setup(#[source] rustls::Error),
}

/// The crypto used everywhere: ring.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// All certificates in a PEM text.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsSetupError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|e| TlsSetupError::Ca(format!("not PEM: {e:?}")))?;
    if found.is_empty() {
        return Err(TlsSetupError::Ca("it holds no certificate".to_owned()));
    }
    Ok(found)
}

/// Trusts servers whose certificate chains up to `roots`; presents `identity` if there is one.
pub fn verified(
    roots: &[CertificateDer<'static>],
    identity: Option<Identity>,
    clock: &WallClock,
) -> Result<Arc<ClientConfig>, TlsSetupError> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store
            .add(root.clone())
            .map_err(|e| TlsSetupError::Ca(e.to_string()))?;
    }
    let builder = ClientConfig::builder_with_details(provider(), Arc::new(clock.clone()))
        .with_safe_default_protocol_versions()
        .map_err(TlsSetupError::Setup)?
        .with_root_certificates(store);
    let config = match identity {
        Some(Identity { chain, key }) => builder
            .with_client_auth_cert(chain, key)
            .map_err(TlsSetupError::Client)?,
        None => builder.with_no_client_auth(),
    };
    Ok(with_h2(config))
}

/// Trusts any server: see the file's head for the one use.
pub fn unverified(clock: &WallClock) -> Result<Arc<ClientConfig>, TlsSetupError> {
    let provider = provider();
    let config = ClientConfig::builder_with_details(provider.clone(), Arc::new(clock.clone()))
        .with_safe_default_protocol_versions()
        .map_err(TlsSetupError::Setup)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
        .with_no_client_auth();
    Ok(with_h2(config))
}

fn with_h2(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// Accepts every certificate, but still checks that the server holds its key.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Says what a certificate error means here. `now` is the clock that rustls judged by.
pub(crate) fn problem(error: &rustls::Error, host: &str, clock: &WallClock) -> TlsProblem {
    let rustls::Error::InvalidCertificate(certificate) = error else {
        return TlsProblem::Other(error.to_string());
    };
    match certificate {
        CertificateError::NotValidYetContext { time, not_before } => TlsProblem::ClockBehind {
            now: unix(*time),
            not_before: unix(*not_before),
        },
        CertificateError::ExpiredContext { time, not_after } => TlsProblem::Expired {
            now: unix(*time),
            not_after: unix(*not_after),
        },
        CertificateError::Expired => TlsProblem::Other(format!(
            "the server's certificate expired; this node's clock says {}",
            clock.now()
        )),
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            TlsProblem::UnknownIssuer
        }
        CertificateError::NotValidForNameContext { presented, .. } => TlsProblem::WrongName {
            expected: host.to_owned(),
            presented: if presented.is_empty() {
                "no name at all".to_owned()
            } else {
                presented.join(", ")
            },
        },
        other => TlsProblem::Other(format!(
            "the server's certificate is not acceptable: {other}"
        )),
    }
}

fn unix(time: UnixTime) -> jiff::Timestamp {
    timestamp(i64::try_from(time.as_secs()).unwrap_or(i64::MAX))
}
