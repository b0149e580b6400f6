//! Being joined: the certificate in use, its renewal, and noticing that it no longer holds.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use rustls_pki_types::CertificateDer;

use super::csr::Purpose;
use super::problem::{Cause, Problem};
use super::steps::{self, facts_of};
use super::{JoinState, Joiner, Membership};
use crate::backoff::Backoff;
use crate::cert::{BadCertificate, Facts};
use crate::error::ApiError;
use crate::renewals::{self, Which};
use crate::store::Item;
use crate::tls::{self, Identity};
use crate::transport::{Endpoint, Target};

/// How often the wall clock is compared with the certificate's dates: it may jump, so one long sleep would not do.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// Renewal has at least a tenth of the certificate's life for its attempts.
const RENEW_BASE: Duration = Duration::from_secs(30);
const RENEW_CAP: Duration = Duration::from_secs(600);
/// This many refusals in a row, one per check, mean that the certificate is worthless and not that an authenticator is slow to start.
const REFUSALS: u32 = 3;
/// Between two of them.
pub(crate) const REFUSAL_INTERVAL: Duration = Duration::from_secs(5);

/// An identity for one cluster.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) endpoint: Endpoint,
    pub(super) identity: Identity,
    pub(super) ca: Vec<CertificateDer<'static>>,
    pub(super) facts: Facts,
}

impl Member {
    pub(super) fn new(
        endpoint: Endpoint,
        identity: Identity,
        ca: Vec<CertificateDer<'static>>,
    ) -> Result<Self, BadCertificate> {
        let facts = facts_of(&identity.chain)?;
        Ok(Self {
            endpoint,
            identity,
            ca,
            facts,
        })
    }

    pub(super) fn leaf(&self) -> &CertificateDer<'static> {
        // `facts_of` refused an empty chain.
        &self.identity.chain[0]
    }
}

/// Why a member has to look at its certificate.
enum Wake {
    Timer,
    Refused,
}

impl Joiner {
    /// Returns when the certificate no longer holds.
    pub(super) async fn stay(&mut self, mut member: Member) {
        let mut backoff = Backoff::new(RENEW_BASE, RENEW_CAP, self.jitter.clone());
        if !self.activate(&member).await {
            return;
        }
        let mut renew_at = member.facts.validity.renew_at(&mut self.jitter);
        let mut problem = None;
        let unauthorized = self.client.unauthorized();
        loop {
            self.show(&member, renew_at, problem.clone());
            let now = self.clock.now();
            if member.facts.validity.is_over(now) {
                return;
            }
            if now >= renew_at {
                let began = renewals::begin(self.client.registry(), Which::Client);
                let renewed = self.renew(&member).await;
                let result = renewed.as_ref().map(|_| ()).map_err(ToString::to_string);
                renewals::ended(self.client.registry(), Which::Client, began, result);
                match renewed {
                    Ok(next) => {
                        member = next;
                        if !self.activate(&member).await {
                            return;
                        }
                        renew_at = member.facts.validity.renew_at(&mut self.jitter);
                        problem = None;
                        backoff.reset();
                        continue;
                    }
                    Err(failure) => {
                        problem = Some(failure);
                        let wait = i64::try_from(backoff.next_delay().as_secs()).unwrap_or(60);
                        renew_at = crate::clock::timestamp(now.as_second().saturating_add(wait));
                        self.show(&member, renew_at, problem.clone());
                    }
                }
            }
            let wake = tokio::select! {
                // Cancel-safe: a missed notification is sent again by the next refused request.
                () = tokio::time::sleep(CHECK_INTERVAL) => Wake::Timer,
                () = unauthorized.notified() => Wake::Refused,
            };
            if matches!(wake, Wake::Refused) && self.is_refused().await {
                self.refused = Some(member.leaf().clone());
                return;
            }
        }
    }

    /// Makes the main transport speak as this member. `false` when TLS cannot use the certificate.
    async fn activate(&mut self, member: &Member) -> bool {
        let membership = Membership {
            endpoint: member.endpoint.clone(),
            node_name: self.node_name.clone(),
            ca: member.ca.clone(),
        };
        let using = (member.endpoint.clone(), member.leaf().clone());
        if self.in_use.as_ref() != Some(&using) {
            let identity = Some(member.identity.clone());
            let tls = match tls::verified(&member.ca, identity, &self.clock) {
                Ok(tls) => tls,
                Err(error) => {
                    tracing::error!("{error}");
                    self.useless(member, &error.to_string()).await;
                    return false;
                }
            };
            let target = Target {
                endpoint: member.endpoint.clone(),
                tls,
                bearer: None,
            };
            self.client.transport().set_target(Some(target)).await;
            self.in_use = Some(using);
        }
        self.membership.send_if_modified(|current| {
            let differs = current.as_deref() != Some(&membership);
            if differs {
                *current = Some(Arc::new(membership));
            }
            differs
        });
        true
    }

    /// Key and certificate do not fit each other: keep the file as evidence, and do not try it again.
    async fn useless(&mut self, member: &Member, reason: &str) {
        self.refused = Some(member.leaf().clone());
        let reason = reason.to_owned();
        let kept = self
            .store
            .blocking(move |s| Err::<(), _>(s.set_aside(Item::Client, &reason)))
            .await;
        if let Err(error) = kept {
            tracing::error!("{error}");
        }
    }

    fn show(&self, member: &Member, renew_at: Timestamp, problem: Option<Problem>) {
        self.publish(JoinState::Joined {
            server: format!("https://{}", member.endpoint),
            not_after: member.facts.validity.not_after,
            renew_at,
            problem,
        });
    }

    async fn renew(&self, member: &Member) -> Result<Member, Problem> {
        let waiting =
            |name: &str| tracing::debug!(%name, "waiting for the client certificate's renewal");
        let identity = steps::obtain(
            &self.store,
            &self.client,
            &self.node_name,
            &Purpose::Client,
            waiting,
        )
        .await?;
        tracing::info!("renewed the client certificate");
        Member::new(member.endpoint.clone(), identity, member.ca.clone())
            .map_err(|e| Problem::new(Cause::Server, format!("the renewed certificate: {e}")))
    }

    /// Asks for something every node may read, several times.
    async fn is_refused(&self) -> bool {
        for _ in 0..REFUSALS {
            match self.client.get::<Node>(None, &self.node_name).await {
                Err(ApiError::Unauthorized { .. }) => {
                    tokio::time::sleep(self.refusal_interval).await;
                }
                _ => return false,
            }
        }
        true
    }
}
