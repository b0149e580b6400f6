//! Answers the kubelet's [`Outbound`] requests with the API side's handle. Decides nothing: one request, one call.
//!
//! Requests run beside each other, at most [`PARALLEL`] at once; the channel behind them is bounded, so a slow API server makes
//! askers wait instead of filling memory.

use std::sync::Arc;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequestSpec};
use k8s_openapi::api::certificates::v1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kedge_api::events::{Event, Severity};
use kedge_api::{ApiError, ApiHandle, Feeds};
use kedge_kubelet::{Outbound, PodEvent, Token, TrustBundle};
use kedge_proxy::model::{Protocol, ServiceInput};
use kube::core::params::{DeleteParams, Preconditions};
use tokio::sync::{Semaphore, mpsc};

use crate::{certificate, pem};

/// A pod start needs about ten requests; more than this at once only queue on the same connection.
const PARALLEL: usize = 32;

pub(crate) type Answer<T> = Result<T, kedge_kubelet::ApiError>;

/// Serves until the kubelet is gone.
pub async fn run(mut requests: mpsc::Receiver<Outbound>, api: ApiHandle, feeds: Feeds) {
    let slots = Arc::new(Semaphore::new(PARALLEL));
    while let Some(request) = requests.recv().await {
        if let Outbound::RecordEvent(event) = request {
            api.record(core_event(event));
            continue;
        }
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        let (api, feeds) = (api.clone(), feeds.clone());
        tokio::spawn(async move {
            answer(request, &api, feeds).await;
            drop(slot);
        });
    }
}

/// One request. A reply that nobody waits for any more is dropped.
async fn answer(request: Outbound, api: &ApiHandle, feeds: Feeds) {
    match request {
        Outbound::GetConfigMap {
            namespace,
            name,
            reply,
        } => {
            let _ = reply.send(told(api.config_map(&namespace, &name).await));
        }
        Outbound::GetSecret {
            namespace,
            name,
            reply,
        } => {
            let _ = reply.send(told(api.secret(&namespace, &name).await));
        }
        Outbound::ListServices { namespace, reply } => {
            let _ = reply.send(services(feeds, &namespace).await);
        }
        Outbound::GetRuntimeClass { name, reply } => {
            let _ = reply.send(runtime_class(feeds, api, &name).await);
        }
        Outbound::GetTrustBundle { selector, reply } => {
            let _ = reply.send(trust_bundle(api, selector).await);
        }
        Outbound::CreateToken {
            namespace,
            service_account,
            audience,
            expiration_seconds,
            pod_name,
            pod_uid,
            reply,
        } => {
            let spec = token_spec(audience, expiration_seconds, pod_name, pod_uid);
            let _ = reply.send(
                told(
                    api.service_account_token(&namespace, &service_account, spec)
                        .await,
                )
                .and_then(token),
            );
        }
        Outbound::RequestCertificate {
            namespace,
            pod_name,
            pod_uid,
            request,
            reply,
        } => {
            let owner = certificate::Owner {
                namespace,
                pod_name,
                pod_uid,
            };
            let _ = reply.send(certificate::ask(api, &feeds, owner, *request).await);
        }
        Outbound::GetCertificate {
            namespace,
            name,
            reply,
        } => {
            let _ = reply.send(certificate::look(api, &namespace, &name).await);
        }
        Outbound::PatchPodStatus {
            namespace,
            name,
            uid: _,
            patch,
            reply,
        } => {
            // The uid is inside the patch, where the API server checks it.
            let _ = reply.send(told(
                api.client()
                    .patch_status::<Pod>(Some(&namespace), &name, &patch)
                    .await,
            ));
        }
        Outbound::DeletePod {
            namespace,
            name,
            uid,
            grace_seconds,
            reply,
        } => {
            let params = DeleteParams {
                grace_period_seconds: Some(u32::try_from(grace_seconds).unwrap_or(0)),
                preconditions: Some(Preconditions {
                    uid: Some(uid),
                    resource_version: None,
                }),
                ..DeleteParams::default()
            };
            let _ = reply.send(told(
                api.client()
                    .delete::<Pod>(Some(&namespace), &name, &params)
                    .await,
            ));
        }
        Outbound::CreatePod { pod, reply } => {
            let _ = reply.send(told(api.create_mirror_pod(&pod).await));
        }
        Outbound::RecordEvent(event) => api.record(core_event(event)),
    }
}

/// Errors sorted by what the kubelet does about them.
pub(crate) fn told<T>(result: Result<T, ApiError>) -> Answer<T> {
    use kedge_kubelet::ApiError as Told;
    result.map_err(|error| {
        let text = error.report();
        match error {
            ApiError::NotFound { .. } => Told::NotFound(text),
            ApiError::Conflict { .. } | ApiError::AlreadyExists { .. } => Told::Conflict(text),
            ApiError::Forbidden { .. }
            | ApiError::Invalid { .. }
            | ApiError::Refused { .. }
            | ApiError::KindMissing { .. }
            | ApiError::TooLarge { .. }
            | ApiError::Build { .. } => Told::Refused(text),
            _ => Told::Unavailable(text),
        }
    })
}

/// From the watch, once it has listed: a container must not start without the Services that existed before it.
async fn services(mut feeds: Feeds, namespace: &str) -> Answer<Arc<Vec<Service>>> {
    let Ok(snapshot) = feeds.services.wait_for(|s| s.synced).await else {
        return Err(kedge_kubelet::ApiError::Unavailable(
            "the watch of Services ended".to_owned(),
        ));
    };
    let wanted = |s: &ServiceInput| {
        s.name.namespace == namespace
            || (s.name.namespace == "default" && s.name.name == "kubernetes")
    };
    Ok(Arc::new(
        snapshot
            .items
            .values()
            .filter(|s| wanted(s))
            .map(|s| service(s))
            .collect(),
    ))
}

/// What the environment of containers is made from: name, address, ports.
fn service(input: &ServiceInput) -> Service {
    let addresses: Vec<String> = input.cluster_ips.iter().map(ToString::to_string).collect();
    let port = |p: &kedge_proxy::model::PortInput| ServicePort {
        name: (!p.name.is_empty()).then(|| p.name.clone()),
        port: i32::from(p.port),
        protocol: Some(
            match p.protocol {
                Protocol::Tcp => "TCP",
                Protocol::Udp => "UDP",
                Protocol::Sctp => "SCTP",
            }
            .to_owned(),
        ),
        ..ServicePort::default()
    };
    Service {
        metadata: ObjectMeta {
            namespace: Some(input.name.namespace.clone()),
            name: Some(input.name.name.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            cluster_ip: addresses.first().cloned(),
            cluster_ips: Some(addresses),
            ports: Some(input.ports.iter().map(port).collect()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// From the watch; one that was made a moment ago may not be there yet, so an absent one is asked for.
async fn runtime_class(feeds: Feeds, api: &ApiHandle, name: &str) -> Answer<RuntimeClass> {
    let seen = feeds.runtime_classes.borrow().items.get(name).cloned();
    match seen {
        Some(class) => Ok((*class).clone()),
        None => told(api.client().get(None, name).await),
    }
}

async fn trust_bundle(api: &ApiHandle, selector: TrustBundle) -> Answer<String> {
    match selector {
        TrustBundle::Name(name) => {
            let bundle: ClusterTrustBundle = told(api.client().get(None, &name).await)?;
            Ok(pem::joined([bundle.spec.trust_bundle]))
        }
        TrustBundle::Signer { signer, labels } => {
            let fields = format!("spec.signerName={signer}");
            let found: Vec<ClusterTrustBundle> =
                told(api.client().list(None, &fields, &labels).await)?;
            if found.is_empty() {
                let what =
                    format!("no ClusterTrustBundle of signer {signer} with labels {labels:?}");
                return Err(kedge_kubelet::ApiError::NotFound(what));
            }
            Ok(pem::joined(found.into_iter().map(|b| b.spec.trust_bundle)))
        }
    }
}

fn token_spec(
    audience: String,
    expiration_seconds: i64,
    pod_name: String,
    pod_uid: String,
) -> TokenRequestSpec {
    TokenRequestSpec {
        attestations: None,
        audiences: (!audience.is_empty()).then(|| vec![audience]),
        bound_object_ref: Some(BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(pod_name),
            uid: Some(pod_uid),
        }),
        expiration_seconds: Some(expiration_seconds),
    }
}

fn token(answer: k8s_openapi::api::authentication::v1::TokenRequest) -> Answer<Token> {
    let status = answer.status.unwrap_or_default();
    match (status.token, status.expiration_timestamp) {
        (Some(token), Some(expires)) => Ok(Token {
            token,
            expires_at: expires.0.as_second(),
        }),
        _ => Err(kedge_kubelet::ApiError::Unavailable(
            "create token: the answer holds none".to_owned(),
        )),
    }
}

fn core_event(event: PodEvent) -> Event {
    Event {
        object: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(event.namespace),
            name: Some(event.name),
            uid: Some(event.uid),
            field_path: (!event.field_path.is_empty()).then_some(event.field_path),
            ..ObjectReference::default()
        },
        severity: if event.warning {
            Severity::Warning
        } else {
            Severity::Normal
        },
        reason: event.reason,
        message: event.message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kedge_proxy::model::{Policy, PortInput, ServiceName};

    #[test]
    fn a_service_becomes_what_the_environment_needs() {
        let input = ServiceInput {
            name: ServiceName {
                namespace: "shop".into(),
                name: "web".into(),
            },
            cluster_ips: vec!["10.96.3.4".parse().unwrap()],
            external_ips: Vec::new(),
            lb_ips: Vec::new(),
            lb_source_ranges: Vec::new(),
            ports: vec![PortInput {
                name: "http".into(),
                protocol: Protocol::Tcp,
                port: 80,
                node_port: None,
            }],
            affinity_seconds: None,
            internal_policy: Policy::Cluster,
            external_policy: Policy::Cluster,
            health_check_node_port: None,
            publish_not_ready: false,
        };
        let spec = service(&input).spec.unwrap();
        assert_eq!(spec.cluster_ip.as_deref(), Some("10.96.3.4"));
        let port = &spec.ports.unwrap()[0];
        assert_eq!(
            (port.name.as_deref(), port.port, port.protocol.as_deref()),
            (Some("http"), 80, Some("TCP"))
        );
    }

    #[test]
    fn a_token_is_bound_to_its_pod() {
        let spec = token_spec(String::new(), 600, "web-1".into(), "u-1".into());
        assert!(
            spec.audiences.is_none(),
            "no audience means the API server's own"
        );
        assert_eq!(spec.bound_object_ref.unwrap().uid.as_deref(), Some("u-1"));
    }
}
