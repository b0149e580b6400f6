//! What the rest of the agent may ask of the API server. Every method is one request, or a queued event.

use std::sync::Arc;

use k8s_openapi::api::authentication::v1::{
    TokenRequest, TokenRequestSpec, TokenReview, TokenReviewSpec, TokenReviewStatus,
};
use k8s_openapi::api::authorization::v1::{
    SubjectAccessReview, SubjectAccessReviewSpec, SubjectAccessReviewStatus,
};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::watch;

use crate::client::Client;
use crate::decode::OwnNode;
use crate::error::ApiError;
use crate::events::{Event, EventSink};
use crate::transport::Reach;
use crate::watch::store::Snapshot;

/// A handle to the API server. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct ApiHandle {
    pub(crate) client: Client,
    pub(crate) node_name: String,
    pub(crate) own: watch::Receiver<Snapshot<OwnNode>>,
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

    /// Shows a static pod in the API; `pod` is what `kedge_pods::mirror::mirror_pod` made.
    pub async fn create_mirror_pod(&self, pod: &Pod) -> Result<Pod, ApiError> {
        let namespace = pod.metadata.namespace.as_deref();
        self.client
            .create(Some(namespace.unwrap_or("default")), pod)
            .await
    }

    /// Queues an event.
    pub fn record(&self, event: Event) {
        self.events.record(event);
    }

    /// What was counted of requests and events, and the loops around them.
    pub fn registry(&self) -> &kedge_tasks::Registry {
        self.client.registry()
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
