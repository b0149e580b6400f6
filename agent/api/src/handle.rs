//! What the rest of the agent may ask of the API server. Every method is one request, or a queued write.

use std::sync::Arc;

use k8s_openapi::api::authentication::v1::{
    TokenRequest, TokenRequestSpec, TokenReview, TokenReviewSpec, TokenReviewStatus,
};
use k8s_openapi::api::authorization::v1::{
    SubjectAccessReview, SubjectAccessReviewSpec, SubjectAccessReviewStatus,
};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::params::{DeleteParams, Preconditions};
use tokio::sync::watch;

use crate::client::Client;
use crate::decode::OwnNode;
use crate::error::{ApiError, Operation};
use crate::events::{Event, EventSink};
use crate::pods::{StatusQueue, StatusUpdate, Written, mirror};
use crate::transport::Reach;
use crate::watch::store::Snapshot;

/// A handle to the API server. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct ApiHandle {
    pub(crate) client: Client,
    pub(crate) node_name: String,
    pub(crate) own: watch::Receiver<Snapshot<OwnNode>>,
    pub(crate) statuses: StatusQueue,
    pub(crate) events: EventSink,
}

impl ApiHandle {
    pub fn node_name(&self) -> &str {
        &self.node_name
    }

    pub async fn config_map(&self, namespace: &str, name: &str) -> Result<ConfigMap, ApiError> {
        self.client.get(Some(namespace), name).await
    }

    pub async fn secret(&self, namespace: &str, name: &str) -> Result<Secret, ApiError> {
        self.client.get(Some(namespace), name).await
    }

    pub async fn pod(&self, namespace: &str, name: &str) -> Result<Pod, ApiError> {
        self.client.get(Some(namespace), name).await
    }

    /// A token of a service account, bound as `spec` says.
    pub async fn service_account_token(
        &self,
        namespace: &str,
        service_account: &str,
        spec: TokenRequestSpec,
    ) -> Result<TokenRequest, ApiError> {
        let request = TokenRequest {
            metadata: ObjectMeta::default(),
            spec: Some(spec),
            status: None,
        };
        self.client
            .create_subresource::<ServiceAccount, _>(
                Some(namespace),
                service_account,
                "token",
                &request,
            )
            .await
    }

    /// Whom a bearer token belongs to.
    pub async fn review_token(&self, token: &str) -> Result<TokenReviewStatus, ApiError> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                ..TokenReviewSpec::default()
            },
            ..TokenReview::default()
        };
        let answer = self.client.review(&review).await?;
        Ok(answer.status.unwrap_or_default())
    }

    /// Whether somebody may do something.
    pub async fn review_access(
        &self,
        spec: SubjectAccessReviewSpec,
    ) -> Result<SubjectAccessReviewStatus, ApiError> {
        let review = SubjectAccessReview {
            metadata: ObjectMeta::default(),
            spec,
            status: None,
        };
        let answer = self.client.review(&review).await?;
        Ok(answer.status.unwrap_or_default())
    }

    /// Hands over a pod's status; see [`StatusQueue::write`].
    pub async fn write_pod_status(&self, update: StatusUpdate) -> Option<Written> {
        self.statuses.write(update).await
    }

    /// Removes a finished pod: grace 0, only if it is still the one with `uid`. Already gone is fine.
    pub async fn delete_pod(&self, namespace: &str, name: &str, uid: &str) -> Result<(), ApiError> {
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match self
            .client
            .delete::<Pod>(Some(namespace), name, &params)
            .await
        {
            Err(ApiError::NotFound { .. } | ApiError::Conflict { .. }) => Ok(()),
            other => other,
        }
    }

    /// Shows a static pod in the API. The Node must be registered.
    pub async fn create_mirror_pod(&self, pod: &Pod) -> Result<Pod, ApiError> {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let invalid = |message: &str| ApiError::Invalid {
            operation: Operation::new("create", format!("mirror Pod {namespace}/{name}")),
            message: message.to_owned(),
        };
        let node = self.own_node();
        let uid = node.as_ref().and_then(|n| n.metadata.uid.clone());
        let uid = uid.ok_or_else(|| invalid("this node is not registered yet"))?;
        let mirror = mirror::mirror(pod, &self.node_name, &uid)
            .ok_or_else(|| invalid("it has no annotation kubernetes.io/config.hash"))?;
        self.client.create(Some(&namespace), &mirror).await
    }

    /// Removes a mirror pod; the same as [`Self::delete_pod`].
    pub async fn delete_mirror_pod(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Result<(), ApiError> {
        self.delete_pod(namespace, name, uid).await
    }

    /// Queues an event.
    pub fn record(&self, event: Event) {
        self.events.record(event);
    }

    /// Events that never reached the API server.
    pub fn record_losses(&self) -> u64 {
        self.events.dropped()
    }

    /// This node's Node object as last seen.
    pub fn own_node(&self) -> Option<Arc<Node>> {
        self.own.borrow().items.get(&self.node_name).cloned()
    }

    /// Whether the API server can be reached.
    pub fn reach(&self) -> watch::Receiver<Reach> {
        self.client.transport().reach()
    }

    /// This node's addresses changed: connections from the old ones are dropped at once instead of after 20 s.
    pub async fn addresses_changed(&self) {
        self.client.transport().reset().await;
    }

    /// For requests that have no method here.
    pub fn client(&self) -> &Client {
        &self.client
    }
}
