//! The certificate of port 10250.
//!
//! In: the names and addresses it must cover (by `watch`), STATE, the main client. Out: by `watch`, the certificate to show now: the issued one
//! when it covers the names, else whatever issued one still holds, else one signed by itself, so that the port always answers.
//! A change of addresses asks for a new one, so does 70 to 90 % of its life.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

use crate::backoff::{Backoff, Jitter};
use crate::cert::{self, Facts, Names};
use crate::client::Client;
use crate::clock::{WallClock, timestamp};
use crate::join::csr::{self, CsrError, Purpose};
use crate::join::obtain;
use crate::renewals::{self, Which};
use crate::store::{Item, Store};
use crate::tls::{self, Identity};

const CHECK_INTERVAL: Duration = Duration::from_secs(30);
const RETRY_BASE: Duration = Duration::from_secs(2);
const RETRY_CAP: Duration = Duration::from_secs(60);
const SELF_SIGNED_LIFE: i64 = 365 * 24 * 3600;
/// A self-signed certificate must also hold for peers whose clock is behind.
const SELF_SIGNED_SLACK: i64 = 24 * 3600;

/// What 10250 shows.
#[derive(Clone, Debug)]
pub struct ServingCertificate {
    pub key: Arc<CertifiedKey>,
    pub names: Names,
    pub not_after: Timestamp,
    /// Nobody approved a request yet: `kubectl logs` works only where the API server does not verify kubelets.
    pub self_signed: bool,
}

/// Why there is no certificate to show.
#[derive(Debug, thiserror::Error)]
enum ServingError {
    #[error(transparent)]
    Csr(#[from] CsrError),
    #[error("sign a serving certificate")]
    Sign(#[source] rcgen::Error),
    #[error("the year of the clock cannot be put into a certificate")]
    Clock,
    #[error(transparent)]
    Certificate(#[from] cert::BadCertificate),
    #[error("key and serving certificate do not fit")]
    Fit(#[source] rustls::Error),
}

/// The task that keeps the certificate.
pub(crate) struct Keeper {
    pub(crate) client: Client,
    pub(crate) store: Store,
    pub(crate) clock: WallClock,
    pub(crate) node_name: String,
    pub(crate) names: watch::Receiver<Names>,
    pub(crate) out: watch::Sender<Option<ServingCertificate>>,
    pub(crate) jitter: Jitter,
}

impl Keeper {
    pub(crate) async fn run(mut self) {
        self.load().await;
        loop {
            let names = self.names.borrow_and_update().clone();
            let mut names_changed = self.names.clone();
            names_changed.mark_unchanged();
            let ended = tokio::select! {
                // Cancel-safe: an unfinished request leaves its pending key, which belongs to those names only by the
                // request's own name.
                () = self.serve(names) => false,
                changed = names_changed.changed() => changed.is_err(),
            };
            if ended {
                return;
            }
        }
    }

    /// The certificate of an earlier run, whatever it covers.
    async fn load(&mut self) {
        match self.store.blocking(|s| s.identity(Item::Serving)).await {
            Ok(Some(identity)) => match certified(&identity) {
                Ok((key, facts)) if !facts.validity.is_over(self.clock.now()) => {
                    self.show(key, &facts, false);
                }
                Ok(_) => {}
                Err(error) => tracing::error!("{error}"),
            },
            Ok(None) => {}
            Err(error) => tracing::error!("{error}"),
        }
    }

    /// Keeps a certificate for these names; ends only by being dropped.
    async fn serve(&mut self, names: Names) {
        if names.is_empty() {
            return std::future::pending().await;
        }
        let mut backoff = Backoff::new(RETRY_BASE, RETRY_CAP, self.jitter.clone());
        loop {
            self.stand_in(&names);
            if let Some(renew_at) = self.good_until(&names) {
                while self.clock.now() < renew_at {
                    tokio::time::sleep(CHECK_INTERVAL).await;
                }
            }
            let began = renewals::begin(self.client.registry(), Which::Serving);
            let requested = self.request(&names).await;
            let registry = self.client.registry();
            renewals::ended(registry, Which::Serving, began, requested.clone());
            match requested {
                Ok(()) => backoff.reset(),
                Err(problem) => {
                    tracing::warn!("serving certificate: {problem}");
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
    }

    /// When an issued certificate that covers the names is to be renewed.
    fn good_until(&mut self, names: &Names) -> Option<Timestamp> {
        let shown = self.out.borrow().clone()?;
        if shown.names != *names {
            return None;
        }
        let facts = self.issued()?;
        Some(facts.validity.renew_at(&mut self.jitter))
    }

    /// Something to show while nothing fitting was issued.
    fn stand_in(&self, names: &Names) {
        let now = self.clock.now();
        let enough = match &*self.out.borrow() {
            None => false,
            Some(shown) if shown.self_signed => shown.names == *names && shown.not_after > now,
            // Issued for the old addresses, but still issued: clients that check names fail either way.
            Some(shown) => shown.not_after > now,
        };
        if enough {
            return;
        }
        match self_signed(&self.node_name, names, now).and_then(|identity| certified(&identity)) {
            Ok((key, facts)) => self.show(key, &facts, true),
            Err(error) => tracing::error!("{error}"),
        }
    }

    async fn request(&self, names: &Names) -> Result<(), String> {
        self.client.transport().usable().await;
        let purpose = Purpose::Serving(names.clone());
        let mut said = false;
        let waiting = |name: &str| {
            if !std::mem::replace(&mut said, true) {
                tracing::info!(
                    "waiting for approval of serving certificate {name} (kubectl certificate approve {name})"
                );
            }
        };
        let identity = obtain(
            &self.store,
            &self.client,
            &self.node_name,
            &purpose,
            waiting,
        )
        .await
        .map_err(|refusal| crate::join::Problem::from(refusal).to_string())?;
        let (key, facts) = certified(&identity).map_err(|e| e.to_string())?;
        if facts.names != *names {
            return Err("the issued certificate does not cover the names asked for".to_owned());
        }
        if let Some(old) = self.issued() {
            renewals::rotated(self.client.registry(), &old.validity, self.clock.now());
        }
        self.show(key, &facts, false);
        Ok(())
    }

    /// What the certificate shown says, if somebody issued it.
    fn issued(&self) -> Option<Facts> {
        let shown = self.out.borrow().clone()?;
        let leaf = shown.key.cert.first()?;
        cert::facts(leaf).ok().filter(|_| !shown.self_signed)
    }

    fn show(&self, key: Arc<CertifiedKey>, facts: &Facts, self_signed: bool) {
        self.out.send_replace(Some(ServingCertificate {
            key,
            names: facts.names.clone(),
            not_after: facts.validity.not_after,
            self_signed,
        }));
    }
}

fn certified(identity: &Identity) -> Result<(Arc<CertifiedKey>, Facts), ServingError> {
    let facts = match identity.chain.first() {
        Some(leaf) => cert::facts(leaf)?,
        None => cert::facts(&rustls_pki_types::CertificateDer::from(Vec::new()))?,
    };
    let key = CertifiedKey::from_der(
        identity.chain.clone(),
        identity.key.clone_key(),
        &tls::provider(),
    )
    .map_err(ServingError::Fit)?;
    Ok((Arc::new(key), facts))
}

fn self_signed(node_name: &str, names: &Names, now: Timestamp) -> Result<Identity, ServingError> {
    let key: KeyPair = csr::new_key()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = csr::subject(node_name);
    params.subject_alt_names = csr::alternative_names(names)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let second = now.as_second();
    params.not_before = date(second.saturating_sub(SELF_SIGNED_SLACK))?;
    params.not_after = date(second.saturating_add(SELF_SIGNED_LIFE))?;
    let certificate = params.self_signed(&key).map_err(ServingError::Sign)?;
    Ok(Identity {
        chain: vec![certificate.der().clone()],
        key: csr::private_key(&key),
    })
}

/// rcgen counts in `time`; both are seconds of the same epoch.
fn date(second: i64) -> Result<time::OffsetDateTime, ServingError> {
    let second = timestamp(second).as_second();
    time::OffsetDateTime::from_unix_timestamp(second).map_err(|_| ServingError::Clock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_self_signed_certificate_covers_the_names_around_now() {
        let names = Names {
            dns: ["edge-7".to_owned()].into(),
            ips: ["10.0.0.7".parse().unwrap()].into(),
        };
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let (_, facts) = certified(&self_signed("edge-7", &names, now).unwrap()).unwrap();
        assert_eq!(facts.names, names);
        assert_eq!(facts.common_name, "system:node:edge-7");
        assert!(!facts.validity.is_early(now) && !facts.validity.is_over(now));
    }

    #[test]
    fn a_clock_at_1970_still_gives_a_certificate() {
        let now = Timestamp::from_second(3).unwrap();
        let names = Names {
            dns: ["edge-7".to_owned()].into(),
            ..Names::default()
        };
        assert!(self_signed("edge-7", &names, now).is_ok());
    }
}
