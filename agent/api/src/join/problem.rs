//! Why joining does not work, in words an operator can act on; one cause per bad input.

use std::fmt;

use jiff::Timestamp;
use kedge_machine::identity::Token;

use super::cluster_info::DiscoveryError;
use crate::error::{ApiError, DialError, TlsProblem};
use crate::store::StoreError;

/// What kind of problem it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The address in the config is no address.
    BadAddress,
    /// Nobody answers.
    Unreachable,
    /// Somebody else answers.
    NotKubernetes,
    /// This node's clock is before a certificate's life (or after it).
    Clock,
    /// The server's certificate does not fit the trusted CA or the address.
    Tls,
    /// No configured hash matches the cluster's CA.
    CaMismatch,
    /// There is no token and no valid certificate.
    TokenMissing,
    /// The token is wrong, unknown or expired.
    TokenRefused,
    /// A certificate request was denied or failed.
    CsrRefused,
    /// STATE cannot be read or written.
    Store,
    /// Anything else the API server said.
    Server,
}

/// A cause with its explanation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub cause: Cause,
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Problem {
    pub(super) fn new(cause: Cause, text: impl Into<String>) -> Self {
        Self {
            cause,
            text: text.into(),
        }
    }

    /// What to put on the seed volume, when nothing but a token helps.
    pub(super) fn advice_for_token(&self, node_name: &str) -> Option<String> {
        match self.cause {
            Cause::TokenMissing | Cause::TokenRefused => Some(format!(
                "make a token with `kubeadm token create` and write it as cluster.token into kedge.yaml on the volume labelled KEDGE-SEED of node {node_name}; it is taken without a reboot"
            )),
            _ => None,
        }
    }

    pub(super) fn no_token(reason: Option<String>) -> Self {
        let reason = reason.unwrap_or_else(|| "this node has no client certificate".to_owned());
        Self::new(
            Cause::TokenMissing,
            format!("{reason}, and no bootstrap token is configured"),
        )
    }

    pub(super) fn expired(not_after: Timestamp, now: Timestamp) -> String {
        format!("this node's client certificate expired at {not_after} (the clock says {now})")
    }
}

impl From<DialError> for Problem {
    fn from(error: DialError) -> Self {
        let cause = match &error {
            DialError::NotJoined => Cause::Server,
            DialError::Unreachable { .. } => Cause::Unreachable,
            DialError::NotKubernetes { .. } => Cause::NotKubernetes,
            DialError::Tls { problem, .. } => match problem {
                TlsProblem::ClockBehind { .. } | TlsProblem::Expired { .. } => Cause::Clock,
                TlsProblem::UnknownIssuer | TlsProblem::WrongName { .. } | TlsProblem::Other(_) => {
                    Cause::Tls
                }
            },
        };
        Self::new(cause, error.to_string())
    }
}

impl From<ApiError> for Problem {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::NoConnection { cause, .. } => cause.into(),
            other => Self::new(Cause::Server, other.report()),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let source = std::error::Error::source(&error)
            .map(|e| format!(": {e}"))
            .unwrap_or_default();
        Self::new(Cause::Store, format!("{error}{source}"))
    }
}

impl From<DiscoveryError> for Problem {
    fn from(error: DiscoveryError) -> Self {
        let cause = match &error {
            DiscoveryError::NotPublished | DiscoveryError::Malformed(_) => Cause::Server,
            DiscoveryError::TokenUnknown { .. } | DiscoveryError::TokenWrong { .. } => {
                Cause::TokenRefused
            }
            DiscoveryError::CaMismatch { .. } => Cause::CaMismatch,
        };
        Self::new(cause, error.to_string())
    }
}

/// What a refusal means while asking with a bootstrap token.
pub(super) fn with_token(error: ApiError, token: &Token) -> Problem {
    match &error {
        ApiError::Unauthorized { .. } => Problem::new(
            Cause::TokenRefused,
            format!(
                "the API server does not accept token {token}: it is wrong, was deleted or has expired"
            ),
        ),
        ApiError::Forbidden { .. } => Problem::new(
            Cause::Server,
            format!(
                "token {token} may not ask for certificates; grant it with: kubectl create clusterrolebinding kubeadm:kubelet-bootstrap --clusterrole=system:node-bootstrapper --group=system:bootstrappers:kubeadm:default-node-token"
            ),
        ),
        _ => error.into(),
    }
}
