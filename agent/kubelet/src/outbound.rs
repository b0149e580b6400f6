//! What the kubelet asks for outside the node. `kedge` answers with `api`'s handles; this crate never sees HTTP of the API server.
//!
//! Every request carries a oneshot for its answer, except events, which may be dropped. The channel is bounded; a
//! full one makes the asker wait. Dropping the reply end cancels the wish.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use k8s_openapi::api::node::v1::RuntimeClass;
pub use kedge_pods::certificate::{CertificateRequest, Issuing, KeyType};
pub use kedge_pods::needs::TrustBundle;
use serde_json::Value;
use tokio::sync::oneshot;

mod client;

pub use client::Api;

/// How many requests may wait for `kedge`.
pub const CAPACITY: usize = 64;

/// The answer's way back.
pub type Reply<T> = oneshot::Sender<Result<T, ApiError>>;

/// One request.
#[derive(Debug)]
pub enum Outbound {
    GetConfigMap {
        namespace: String,
        name: String,
        reply: Reply<ConfigMap>,
    },
    GetSecret {
        namespace: String,
        name: String,
        reply: Reply<Secret>,
    },
    /// The Services of a namespace, and `kubernetes` of `default`.
    ListServices {
        namespace: String,
        reply: Reply<Arc<Vec<Service>>>,
    },
    GetRuntimeClass {
        name: String,
        reply: Reply<RuntimeClass>,
    },
    /// PEM text of the ClusterTrustBundles, joined; not found when there is none.
    GetTrustBundle {
        selector: TrustBundle,
        reply: Reply<String>,
    },
    /// TokenRequest bound to the pod.
    CreateToken {
        namespace: String,
        service_account: String,
        /// Empty: the API server's own.
        audience: String,
        expiration_seconds: i64,
        pod_name: String,
        pod_uid: String,
        reply: Reply<Token>,
    },
    /// A new key, and a PodCertificateRequest for it that the pod owns.
    RequestCertificate {
        namespace: String,
        pod_name: String,
        pod_uid: String,
        request: Box<CertificateRequest>,
        reply: Reply<RequestedCertificate>,
    },
    /// What became of a PodCertificateRequest. One that does not exist is an answer.
    GetCertificate {
        namespace: String,
        name: String,
        reply: Reply<Issuing>,
    },
    /// Strategic merge patch of the `status` subresource. Answers the pod as it is afterwards.
    PatchPodStatus {
        namespace: String,
        name: String,
        /// A precondition: `metadata.uid` in the patch must match, or the API server answers a conflict.
        uid: String,
        patch: Value,
        reply: Reply<Pod>,
    },
    /// Delete with a uid precondition and this grace.
    DeletePod {
        namespace: String,
        name: String,
        uid: String,
        grace_seconds: i64,
        reply: Reply<()>,
    },
    /// Mirror pods of static pods. Answers the object as stored.
    CreatePod { pod: Box<Pod>, reply: Reply<Pod> },
    /// May be dropped when nobody can take it.
    RecordEvent(PodEvent),
}

/// A service-account token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// The JWT.
    pub token: String,
    /// Seconds since 1970.
    pub expires_at: i64,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token(hidden, expires at {})", self.expires_at)
    }
}

/// A request under way.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestedCertificate {
    /// The PodCertificateRequest's.
    pub name: String,
    /// PKCS#8 in PEM.
    pub key: String,
}

impl std::fmt::Debug for RequestedCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RequestedCertificate({}, key hidden)", self.name)
    }
}

/// A Kubernetes event about a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodEvent {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// `involvedObject.fieldPath`; empty: the pod as a whole.
    pub field_path: String,
    pub warning: bool,
    pub reason: String,
    pub message: String,
}

/// Why the API side could not answer, sorted by what the asker does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// The object does not exist.
    #[error("not found: {0}")]
    NotFound(String),
    /// The uid precondition failed, or the object exists already.
    #[error("conflict: {0}")]
    Conflict(String),
    /// The server refuses for good (forbidden, invalid).
    #[error("refused by the API server: {0}")]
    Refused(String),
    /// Not reachable, not joined yet, overloaded: try again.
    #[error("API server unavailable: {0}")]
    Unavailable(String),
}
