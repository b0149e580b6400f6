//! Certificates of pods (KEP-4317): a key that the node makes, and a certificate that a signer of the cluster issues for it.
//!
//! In: the `podCertificate` source of a projected volume ([`request`]); the time; what the API server says of the PodCertificateRequest
//! ([`Issuing`]). Out: what to do next ([`Certificate::step`]), key and chain once there are ([`Held`]), warnings about a late renewal.
//! Nothing is kept across a restart of the agent: a running pod then gets a new key, as it does at every renewal.
//! Deliberately absent: RSA keys and P-521, which our cryptography cannot make; pods that ask for them are refused by name
//! ([`crate::fields`]).

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::{PodCertificateProjection, PodSpec};

use crate::needs::service_account;

/// Seconds between looks at a request that a starting pod waits for.
const LOOK: i64 = 1;
/// The same while an older certificate serves.
const LOOK_RENEWAL: i64 = 5;
/// Seconds after which a request that does not exist any more is made again.
const ABANDON: i64 = 600;
/// Seconds before a request that could not be made is tried again.
const ASK_AGAIN: i64 = 10;
/// Renewals are spread over this many seconds, so that pods made together do not ask together.
const SPREAD: f64 = 300.0;
/// A renewal is late this many seconds after it was due.
const OVERDUE: i64 = 600;

/// What one source of a volume asks for. Its files share one key and one chain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CertificateRequest {
    pub volume: String,
    /// The source's place in the volume's list.
    pub source: usize,
    pub service_account: String,
    pub signer: String,
    pub key_type: KeyType,
    /// `None`: the API server's default, a day.
    pub max_expiration_seconds: Option<i32>,
    /// Passed on to the signer, unread.
    pub annotations: BTreeMap<String, String>,
}

/// Kinds of keys this node can make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyType {
    EcdsaP256,
    EcdsaP384,
    Ed25519,
}

/// What of it a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Key, then chain.
    Bundle,
    Key,
    Chain,
}

impl KeyType {
    /// The API's word; `None`: not one that this node can make.
    pub fn of(word: &str) -> Option<Self> {
        match word {
            "ECDSAP256" => Some(Self::EcdsaP256),
            "ECDSAP384" => Some(Self::EcdsaP384),
            "ED25519" => Some(Self::Ed25519),
            _ => None,
        }
    }
}

/// The request of one source. `None`: a kind of key that this node cannot make.
pub fn request(
    spec: &PodSpec,
    volume: &str,
    source: usize,
    projection: &PodCertificateProjection,
) -> Option<CertificateRequest> {
    Some(CertificateRequest {
        volume: volume.to_owned(),
        source,
        service_account: service_account(spec).to_owned(),
        signer: projection.signer_name.clone(),
        key_type: KeyType::of(&projection.key_type)?,
        max_expiration_seconds: projection.max_expiration_seconds,
        annotations: projection.user_annotations.clone().unwrap_or_default(),
    })
}

/// A key and its certificates, both PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Held {
    pub key: String,
    pub chain: String,
    /// When the signer wants it renewed, seconds since 1970.
    begin_refresh_at: i64,
    /// When this node does.
    refresh_at: i64,
    not_after: i64,
}

impl Held {
    pub fn part(&self, part: Part) -> Vec<u8> {
        match part {
            Part::Bundle => [self.key.as_bytes(), self.chain.as_bytes()].concat(),
            Part::Key => self.key.clone().into_bytes(),
            Part::Chain => self.chain.clone().into_bytes(),
        }
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (refresh, end) = (self.refresh_at, self.not_after);
        write!(f, "Held(hidden, renewal at {refresh}, ends at {end})")
    }
}

/// What the API server says of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Issuing {
    /// There is none of this name.
    Missing,
    Pending,
    /// Reason and message of the condition `Denied` or `Failed`: for good.
    Refused {
        condition: &'static str,
        reason: String,
        message: String,
    },
    /// PEM of the chain, and seconds since 1970.
    Issued {
        chain: String,
        begin_refresh_at: i64,
        not_after: i64,
    },
}

/// A request under way, and the key that it is for.
#[derive(Clone)]
struct Asked {
    name: String,
    key: String,
    abandon_at: i64,
    look_at: i64,
}

/// What is known of one source's certificate.
#[derive(Clone, Default)]
pub struct Certificate {
    held: Option<Held>,
    asked: Option<Asked>,
    refused: Option<String>,
    ask_after: i64,
    said_overdue: bool,
    said_expired: bool,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: this is good, or the best there is.
    Use(Held),
    /// Make a key and a request.
    Ask,
    /// See what became of the request of this name.
    Look(String),
    /// Nothing is there yet; look again in so many seconds.
    Wait(i64),
    /// Nothing will be there, and why.
    Refused(String),
}

impl Certificate {
    /// `now`: seconds since 1970.
    pub fn step(&self, now: i64) -> Step {
        let or_use = |otherwise: Step| self.held.clone().map_or(otherwise, Step::Use);
        if let Some(why) = &self.refused {
            return or_use(Step::Refused(why.clone()));
        }
        if let Some(asked) = &self.asked {
            return match asked.look_at - now {
                ..=0 => Step::Look(asked.name.clone()),
                seconds => or_use(Step::Wait(seconds)),
            };
        }
        let due = self.held.as_ref().is_none_or(|h| now >= h.refresh_at);
        match self.ask_after - now {
            _ if !due => or_use(Step::Ask),
            ..=0 => Step::Ask,
            seconds => or_use(Step::Wait(seconds)),
        }
    }

    /// The request of this name was made for this key (PEM).
    pub fn asked(&mut self, name: String, key: String, now: i64) {
        self.asked = Some(Asked {
            name,
            key,
            abandon_at: now + ABANDON,
            look_at: now + self.pause(),
        });
    }

    /// It could not be made.
    pub fn not_asked(&mut self, now: i64) {
        self.ask_after = now + ASK_AGAIN;
    }

    /// What was found at a look; `None`: it cannot be told now. `jitter` is between 0.0 and 1.0. `Some`: a warning for the pod, reason and
    /// message.
    pub fn found(
        &mut self,
        answer: Option<Issuing>,
        now: i64,
        jitter: f64,
    ) -> Option<(&'static str, String)> {
        let pause = self.pause();
        let asked = self.asked.as_mut()?;
        match answer {
            Some(Issuing::Missing) if now >= asked.abandon_at => self.asked = None,
            None | Some(Issuing::Missing | Issuing::Pending) => asked.look_at = now + pause,
            Some(Issuing::Refused {
                condition,
                reason,
                message,
            }) => {
                let name = &asked.name;
                let verb = condition.to_lowercase();
                let why = format!("PodCertificateRequest {name} was {verb}: {reason}: {message}");
                self.refused = Some(why.clone());
                self.asked = None;
                return Some((condition, why));
            }
            Some(Issuing::Issued {
                chain,
                begin_refresh_at,
                not_after,
            }) => {
                let later = (jitter.clamp(0.0, 1.0) * SPREAD) as i64;
                self.held = Some(Held {
                    key: std::mem::take(&mut asked.key),
                    chain,
                    begin_refresh_at,
                    refresh_at: begin_refresh_at.saturating_add(later),
                    not_after,
                });
                (self.said_overdue, self.said_expired) = (false, false);
                self.asked = None;
            }
        }
        None
    }

    /// Warnings that are due, each once per certificate: reason and message.
    pub fn warnings(&mut self, now: i64) -> Vec<(&'static str, String)> {
        let mut out = Vec::new();
        let Some(held) = &self.held else {
            return out;
        };
        if now > held.begin_refresh_at.saturating_add(OVERDUE) && !self.said_overdue {
            self.said_overdue = true;
            let text = "the pod's certificate should have been renewed by now";
            out.push(("CertificateOverdueForRefresh", text.to_owned()));
        }
        if now > held.not_after && !self.said_expired {
            self.said_expired = true;
            out.push((
                "CertificateExpired",
                "the pod's certificate has expired".to_owned(),
            ));
        }
        out
    }

    /// When the next step is due, seconds since 1970. `None`: never.
    pub fn due(&self) -> Option<i64> {
        if self.refused.is_some() {
            return None;
        }
        match (&self.asked, &self.held) {
            (Some(asked), _) => Some(asked.look_at),
            (None, Some(held)) => Some(held.refresh_at.max(self.ask_after)),
            (None, None) => Some(self.ask_after),
        }
    }

    fn pause(&self) -> i64 {
        if self.held.is_some() {
            LOOK_RENEWAL
        } else {
            LOOK
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUED: fn(i64, i64) -> Issuing = |begin_refresh_at, not_after| Issuing::Issued {
        chain: format!("chain until {not_after}"),
        begin_refresh_at,
        not_after,
    };

    fn refused() -> Issuing {
        Issuing::Refused {
            condition: "Denied",
            reason: "Unknown".into(),
            message: "no such pod".into(),
        }
    }

    /// Issued at 10, to be renewed at 100, ends at 1000.
    fn issued() -> Certificate {
        let mut c = Certificate::default();
        assert_eq!(c.step(10), Step::Ask);
        c.asked("req-1".into(), "key 1".into(), 10);
        assert_eq!(c.step(10), Step::Wait(LOOK));
        assert_eq!(c.step(11), Step::Look("req-1".into()));
        assert_eq!(c.found(Some(Issuing::Pending), 11, 0.0), None);
        assert_eq!(c.found(Some(ISSUED(100, 1000)), 12, 0.0), None);
        c
    }

    fn used(c: &Certificate, now: i64) -> String {
        match c.step(now) {
            Step::Use(held) => String::from_utf8(held.part(Part::Bundle)).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_certificate_is_asked_for_waited_for_and_used() {
        let c = issued();
        assert_eq!(used(&c, 99), "key 1chain until 1000");
        assert_eq!(c.due(), Some(100));
    }

    #[test]
    fn a_renewal_has_a_new_key_and_the_old_one_serves_until_then() {
        let mut c = issued();
        assert_eq!(c.step(100), Step::Ask);
        c.not_asked(100);
        assert_eq!(used(&c, 101), "key 1chain until 1000");
        assert_eq!(c.due(), Some(100 + ASK_AGAIN));
        assert_eq!(c.step(110), Step::Ask);
        c.asked("req-2".into(), "key 2".into(), 110);
        assert_eq!(used(&c, 111), "key 1chain until 1000");
        assert_eq!(c.step(115), Step::Look("req-2".into()));
        c.found(None, 115, 0.0);
        assert_eq!(c.due(), Some(120));
        c.found(Some(ISSUED(500, 2000)), 120, 0.5);
        assert_eq!(used(&c, 649), "key 2chain until 2000");
        assert_eq!(c.step(650), Step::Ask, "half of the spread later");
    }

    #[test]
    fn a_refusal_is_final_but_does_not_take_away_what_is_held() {
        let mut first = Certificate::default();
        first.asked("req-1".into(), "key".into(), 10);
        let (reason, text) = first.found(Some(refused()), 11, 0.0).unwrap();
        assert_eq!(reason, "Denied");
        assert_eq!(
            text,
            "PodCertificateRequest req-1 was denied: Unknown: no such pod"
        );
        assert_eq!(first.step(5000), Step::Refused(text));
        assert_eq!(first.due(), None);
        let mut renewal = issued();
        renewal.asked("req-2".into(), "key 2".into(), 100);
        renewal.found(Some(refused()), 105, 0.0);
        assert_eq!(used(&renewal, 5000), "key 1chain until 1000");
    }

    #[test]
    fn a_request_that_somebody_deleted_is_made_again_after_a_while() {
        let mut c = Certificate::default();
        c.asked("req-1".into(), "key".into(), 10);
        c.found(Some(Issuing::Missing), 11, 0.0);
        assert_eq!(c.step(12), Step::Look("req-1".into()));
        c.found(Some(Issuing::Missing), 10 + ABANDON, 0.0);
        assert_eq!(c.step(10 + ABANDON), Step::Ask);
    }

    #[test]
    fn a_late_renewal_is_said_once() {
        let mut c = issued();
        assert_eq!(c.warnings(100 + OVERDUE), []);
        let reasons = |c: &mut Certificate, now| -> Vec<&'static str> {
            c.warnings(now)
                .into_iter()
                .map(|(reason, _)| reason)
                .collect()
        };
        let at = 101 + OVERDUE;
        assert_eq!(reasons(&mut c, at), ["CertificateOverdueForRefresh"]);
        assert_eq!(reasons(&mut c, 1001), ["CertificateExpired"]);
        assert_eq!(reasons(&mut c, 1002), [""; 0]);
    }
}
