//! What a certificate says about itself: life, names, key hash. Pure; the clock is an argument.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use kedge_machine::identity::CaHash;
use ring::digest;
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::backoff::Jitter;
use crate::clock::timestamp;

/// From when until when a certificate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

/// What a leaf certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub common_name: String,
    pub validity: Validity,
    pub names: Names,
}

/// What a serving certificate must be valid for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    pub dns: BTreeSet<String>,
    pub ips: BTreeSet<IpAddr>,
}

impl Names {
    pub fn is_empty(&self) -> bool {
        self.dns.is_empty() && self.ips.is_empty()
    }
}

/// DER that is no X.509 certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an X.509 certificate: {0}")]
pub struct BadCertificate(String);

impl Validity {
    /// Not yet, and by how much.
    pub fn is_early(&self, now: Timestamp) -> bool {
        now < self.not_before
    }

    pub fn is_over(&self, now: Timestamp) -> bool {
        now >= self.not_after
    }

    /// When to ask for the next one: at 70 to 90 % of the life, so that nodes made together do not renew together.
    pub fn renew_at(&self, jitter: &mut Jitter) -> Timestamp {
        let life = self.not_after.as_second() - self.not_before.as_second();
        let life = Duration::from_secs(u64::try_from(life).unwrap_or(0));
        let spent = jitter.between(life.mul_f64(0.7), life.mul_f64(0.9));
        let spent = i64::try_from(spent.as_secs()).unwrap_or(0);
        timestamp(self.not_before.as_second().saturating_add(spent))
    }
}

/// Reads a leaf certificate.
pub fn facts(der: &CertificateDer<'_>) -> Result<Facts, BadCertificate> {
    let certificate = parse(der)?;
    let common_name = certificate
        .subject()
        .iter_common_name()
        .next()
        .and_then(|cn| cn.as_str().ok())
        .unwrap_or_default()
        .to_owned();
    let validity = certificate.validity();
    Ok(Facts {
        common_name,
        validity: Validity {
            not_before: timestamp(validity.not_before.timestamp()),
            not_after: timestamp(validity.not_after.timestamp()),
        },
        names: names(&certificate),
    })
}

/// SHA-256 of the public key (SubjectPublicKeyInfo), as `kubeadm` pins it.
pub fn key_hash(der: &CertificateDer<'_>) -> Result<CaHash, BadCertificate> {
    let certificate = parse(der)?;
    let hash = digest::digest(&digest::SHA256, certificate.public_key().raw);
    let mut bytes = [0; 32];
    bytes.copy_from_slice(hash.as_ref());
    Ok(CaHash(bytes))
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, BadCertificate> {
    match X509Certificate::from_der(der) {
        Ok((_, certificate)) => Ok(certificate),
        Err(e) => Err(BadCertificate(e.to_string())),
    }
}

fn names(certificate: &X509Certificate<'_>) -> Names {
    let mut names = Names::default();
    let Ok(Some(extension)) = certificate.subject_alternative_name() else {
        return names;
    };
    for name in &extension.value.general_names {
        match name {
            GeneralName::DNSName(dns) => {
                names.dns.insert((*dns).to_owned());
            }
            GeneralName::IPAddress(bytes) => {
                names.ips.extend(address(bytes));
            }
            _ => {}
        }
    }
    names
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(dns: &[&str]) -> CertificateDer<'static> {
        let names: Vec<String> = dns.iter().map(|&s| s.to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2027, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    #[test]
    fn names_and_addresses_are_read_back() {
        let facts = facts(&certificate(&["edge-7", "10.0.0.7", "fd00::7"])).unwrap();
        assert_eq!(facts.names.dns, BTreeSet::from(["edge-7".to_owned()]));
        assert_eq!(
            facts.names.ips,
            BTreeSet::from(["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()])
        );
        assert_eq!(
            facts.validity.not_before.to_string(),
            "2026-01-01T00:00:00Z"
        );
    }

    #[test]
    fn renewal_falls_between_70_and_90_percent_of_the_life() {
        let facts = facts(&certificate(&["a"])).unwrap();
        let day = 24 * 3600;
        for seed in 0..50 {
            let at = facts.validity.renew_at(&mut Jitter::new(seed));
            let age = at.as_second() - facts.validity.not_before.as_second();
            assert!((255 * day..=329 * day).contains(&age), "{age}");
        }
    }

    #[test]
    fn rubbish_is_an_error_not_a_panic() {
        assert!(facts(&CertificateDer::from(vec![0x30, 0x82, 0xff])).is_err());
        assert!(key_hash(&CertificateDer::from(vec![])).is_err());
    }
}
