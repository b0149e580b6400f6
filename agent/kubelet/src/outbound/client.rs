//! [`Api`]: requests as async functions, each with a limit.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use k8s_openapi::api::node::v1::RuntimeClass;
use kedge_pods::volume::TokenRequest;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::{
    ApiError, CertificateRequest, Issuing, Outbound, PodEvent, Reply, RequestedCertificate, Token,
    TrustBundle,
};

/// How long one request may take before its asker goes on without it.
const LIMIT: Duration = Duration::from_secs(30);

/// The asking end of the channel.
#[derive(Clone, Debug)]
pub struct Api {
    requests: mpsc::Sender<Outbound>,
}

impl Api {
    /// Requests go into `requests`.
    pub fn new(requests: mpsc::Sender<Outbound>) -> Self {
        Self { requests }
    }

    async fn ask<T>(&self, make: impl FnOnce(Reply<T>) -> Outbound) -> Result<T, ApiError> {
        let (reply, answer) = oneshot::channel();
        let request = make(reply);
        let asked = async {
            let gone = || ApiError::Unavailable("the agent is shutting down".into());
            self.requests.send(request).await.map_err(|_| gone())?;
            answer.await.map_err(|_| gone())?
        };
        tokio::time::timeout(LIMIT, asked)
            .await
            .unwrap_or_else(|_| {
                let text = format!("no answer within {} s", LIMIT.as_secs());
                Err(ApiError::Unavailable(text))
            })
    }

    pub async fn config_map(&self, namespace: &str, name: &str) -> Result<ConfigMap, ApiError> {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        self.ask(|reply| Outbound::GetConfigMap {
            namespace,
            name,
            reply,
        })
        .await
    }

    pub async fn secret(&self, namespace: &str, name: &str) -> Result<Secret, ApiError> {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        self.ask(|reply| Outbound::GetSecret {
            namespace,
            name,
            reply,
        })
        .await
    }

    pub async fn services(&self, namespace: &str) -> Result<Arc<Vec<Service>>, ApiError> {
        let namespace = namespace.to_owned();
        self.ask(|reply| Outbound::ListServices { namespace, reply })
            .await
    }

    pub async fn runtime_class(&self, name: &str) -> Result<RuntimeClass, ApiError> {
        let name = name.to_owned();
        self.ask(|reply| Outbound::GetRuntimeClass { name, reply })
            .await
    }

    pub async fn trust_bundle(&self, selector: TrustBundle) -> Result<String, ApiError> {
        self.ask(|reply| Outbound::GetTrustBundle { selector, reply })
            .await
    }

    pub async fn token(
        &self,
        namespace: &str,
        pod_name: &str,
        pod_uid: &str,
        request: &TokenRequest,
    ) -> Result<Token, ApiError> {
        let request = request.clone();
        let (namespace, pod_name, pod_uid) = (
            namespace.to_owned(),
            pod_name.to_owned(),
            pod_uid.to_owned(),
        );
        self.ask(|reply| Outbound::CreateToken {
            namespace,
            service_account: request.service_account,
            audience: request.audience,
            expiration_seconds: request.expiration_seconds,
            pod_name,
            pod_uid,
            reply,
        })
        .await
    }

    pub async fn request_certificate(
        &self,
        namespace: &str,
        pod_name: &str,
        pod_uid: &str,
        request: &CertificateRequest,
    ) -> Result<RequestedCertificate, ApiError> {
        let request = Box::new(request.clone());
        let (namespace, pod_name, pod_uid) = (
            namespace.to_owned(),
            pod_name.to_owned(),
            pod_uid.to_owned(),
        );
        self.ask(|reply| Outbound::RequestCertificate {
            namespace,
            pod_name,
            pod_uid,
            request,
            reply,
        })
        .await
    }

    pub async fn certificate(&self, namespace: &str, name: &str) -> Result<Issuing, ApiError> {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        self.ask(|reply| Outbound::GetCertificate {
            namespace,
            name,
            reply,
        })
        .await
    }

    pub async fn patch_status(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
        patch: Value,
    ) -> Result<Pod, ApiError> {
        let (namespace, name, uid) = (namespace.to_owned(), name.to_owned(), uid.to_owned());
        self.ask(|reply| Outbound::PatchPodStatus {
            namespace,
            name,
            uid,
            patch,
            reply,
        })
        .await
    }

    pub async fn delete_pod(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
        grace_seconds: i64,
    ) -> Result<(), ApiError> {
        let (namespace, name, uid) = (namespace.to_owned(), name.to_owned(), uid.to_owned());
        self.ask(|reply| Outbound::DeletePod {
            namespace,
            name,
            uid,
            grace_seconds,
            reply,
        })
        .await
    }

    pub async fn create_pod(&self, pod: Pod) -> Result<Pod, ApiError> {
        let pod = Box::new(pod);
        self.ask(|reply| Outbound::CreatePod { pod, reply }).await
    }

    /// Hands an event on, or drops it when the channel is full: events never hold up a pod.
    pub fn event(&self, event: PodEvent) {
        tracing::info!(
            namespace = event.namespace,
            pod = event.name,
            reason = event.reason,
            "{}",
            event.message
        );
        if let Err(error) = self.requests.try_send(Outbound::RecordEvent(event)) {
            tracing::debug!(%error, "event dropped");
        }
    }
}
