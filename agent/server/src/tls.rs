//! TLS of 10250: the serving certificate of the moment, clients of the cluster's CA.
//!
//! In: certificate and CA by `watch`. Out: the configuration for the next connection. Running connections keep theirs.
//! A client certificate is optional, because bearer tokens exist; one that does not verify ends the handshake. Until the CA is known (before
//! the first join, and for a moment when the agent starts) connections are closed: a client is asked for its certificate once, when it
//! connects, so an API server that came too early would be nobody, 401, for as long as it keeps its connection.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;

/// What TLS needs.
#[derive(Clone, Debug)]
pub struct TlsSettings {
    /// The serving certificate; `None`: connections are closed.
    pub certificate: watch::Receiver<Option<Arc<CertifiedKey>>>,
    /// The cluster's CA, which signs clients; empty until known, and until then connections are closed.
    pub client_ca: watch::Receiver<Arc<Vec<CertificateDer<'static>>>>,
    /// The wall clock that certificates are judged by.
    pub time: Arc<dyn TimeProvider>,
}

/// Why no configuration could be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("use the cluster's CA for clients: {0}")]
    Ca(String),
    #[error("set up TLS")]
    Setup(#[source] rustls::Error),
}

/// Gives each connection its configuration; rebuilt when the CA changes.
#[derive(Debug)]
pub(crate) struct Configs {
    settings: TlsSettings,
    current: Option<Arc<ServerConfig>>,
}

impl Configs {
    pub(crate) fn new(settings: TlsSettings) -> Self {
        Self {
            settings,
            current: None,
        }
    }

    pub(crate) fn current(&mut self) -> Result<Arc<ServerConfig>, TlsError> {
        let changed = self.settings.client_ca.has_changed().unwrap_or(false);
        if let Some(config) = self.current.as_ref().filter(|_| !changed) {
            return Ok(config.clone());
        }
        let ca = self.settings.client_ca.borrow_and_update().clone();
        let config = Arc::new(config(&ca, &self.settings)?);
        self.current = Some(config.clone());
        Ok(config)
    }
}

fn config(
    ca: &[CertificateDer<'static>],
    settings: &TlsSettings,
) -> Result<ServerConfig, TlsError> {
    let provider: Arc<CryptoProvider> = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_details(provider.clone(), settings.time.clone())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?;
    let (builder, certificate) = if ca.is_empty() {
        (builder.with_no_client_auth(), None)
    } else {
        let mut roots = RootCertStore::empty();
        for certificate in ca {
            let added = roots.add(certificate.clone());
            added.map_err(|e| TlsError::Ca(e.to_string()))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .allow_unauthenticated()
            .build()
            .map_err(|e| TlsError::Ca(e.to_string()))?;
        let certificate = settings.certificate.clone();
        (
            builder.with_client_cert_verifier(verifier),
            Some(certificate),
        )
    };
    let mut config = builder.with_cert_resolver(Arc::new(Latest(certificate)));
    // Upgrades exist in HTTP/1.1 only; Go's streaming clients ask for it by name, its others prefer h2.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Answers every handshake with the certificate of the moment, or ends it for want of one.
#[derive(Debug)]
struct Latest(Option<watch::Receiver<Option<Arc<CertifiedKey>>>>);

impl ResolvesServerCert for Latest {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.as_ref()?.borrow().clone()
    }
}
