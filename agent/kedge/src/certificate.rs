//! PodCertificateRequests (KEP-4317): what the kubelet wants as objects of the API, and what they say as the kubelet's words.

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{PodCertificateRequest, PodCertificateRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kedge_api::{ApiHandle, Feeds, pod_key};
use kedge_kubelet::{CertificateRequest, Issuing, RequestedCertificate};

use crate::bridge::{Answer, told};
use crate::pem;

/// The pod that a certificate is for.
pub struct Owner {
    pub namespace: String,
    pub pod_name: String,
    pub pod_uid: String,
}

/// Names and uids of what the request is about besides the pod.
struct Around {
    node: String,
    node_uid: String,
    service_account_uid: String,
}

/// Makes a key and asks for its certificate.
pub async fn ask(
    api: &ApiHandle,
    feeds: &Feeds,
    owner: Owner,
    wanted: CertificateRequest,
) -> Answer<RequestedCertificate> {
    let node = api.node_name().to_owned();
    let account = &wanted.service_account;
    let account: ServiceAccount = told(api.client().get(Some(&owner.namespace), account).await)?;
    let own = feeds.own_node.borrow().items.get(&node).cloned();
    let Some(node_uid) = own.and_then(|own| own.metadata.uid.clone()) else {
        let text = format!("create PodCertificateRequest: node {node} has not been seen yet");
        return Err(kedge_kubelet::ApiError::Unavailable(text));
    };
    let around = Around {
        node,
        node_uid,
        service_account_uid: account.metadata.uid.unwrap_or_default(),
    };
    let key = pod_key::make(wanted.key_type)
        .map_err(|error| kedge_kubelet::ApiError::Unavailable(error.to_string()))?;
    let object = object_of(&owner, wanted, around, key.request);
    let made = told(api.client().create(Some(&owner.namespace), &object).await)?;
    match made.metadata.name {
        Some(name) => Ok(RequestedCertificate { name, key: key.pem }),
        None => Err(kedge_kubelet::ApiError::Unavailable(
            "create PodCertificateRequest: the answer has no name".to_owned(),
        )),
    }
}

/// What became of it.
pub async fn look(api: &ApiHandle, namespace: &str, name: &str) -> Answer<Issuing> {
    match told(api.client().get(Some(namespace), name).await) {
        Ok(found) => Ok(issuing(&found)),
        Err(kedge_kubelet::ApiError::NotFound(_)) => Ok(Issuing::Missing),
        Err(error) => Err(error),
    }
}

fn object_of(
    owner: &Owner,
    wanted: CertificateRequest,
    around: Around,
    request: Vec<u8>,
) -> PodCertificateRequest {
    PodCertificateRequest {
        metadata: ObjectMeta {
            namespace: Some(owner.namespace.clone()),
            generate_name: Some("req-".to_owned()),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Pod".to_owned(),
                name: owner.pod_name.clone(),
                uid: owner.pod_uid.clone(),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        spec: PodCertificateRequestSpec {
            max_expiration_seconds: wanted.max_expiration_seconds,
            node_name: around.node,
            node_uid: around.node_uid,
            pod_name: owner.pod_name.clone(),
            pod_uid: owner.pod_uid.clone(),
            service_account_name: wanted.service_account,
            service_account_uid: around.service_account_uid,
            signer_name: wanted.signer,
            stub_pkc_s10_request: ByteString(request),
            unverified_user_annotations: Some(wanted.annotations).filter(|all| !all.is_empty()),
        },
        status: None,
    }
}

/// The conditions are final and exclude each other. An issued one without a chain or times is not issued.
fn issuing(request: &PodCertificateRequest) -> Issuing {
    let Some(status) = &request.status else {
        return Issuing::Pending;
    };
    for condition in status.conditions.iter().flatten() {
        let refused = |word| Issuing::Refused {
            condition: word,
            reason: condition.reason.clone(),
            message: condition.message.clone(),
        };
        match condition.type_.as_str() {
            "Denied" => return refused("Denied"),
            "Failed" => return refused("Failed"),
            _ => {}
        }
    }
    match (
        &status.certificate_chain,
        &status.begin_refresh_at,
        &status.not_after,
    ) {
        (Some(chain), Some(begin_refresh_at), Some(not_after)) => Issuing::Issued {
            chain: pem::joined([chain.clone()]),
            begin_refresh_at: begin_refresh_at.0.as_second(),
            not_after: not_after.0.as_second(),
        },
        _ => Issuing::Pending,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kedge_kubelet::KeyType;
    use serde_json::json;

    #[test]
    fn a_request_names_pod_node_and_service_account_by_uid() {
        let owner = Owner {
            namespace: "shop".into(),
            pod_name: "web-1".into(),
            pod_uid: "u-1".into(),
        };
        let wanted = CertificateRequest {
            volume: "v".into(),
            source: 0,
            service_account: "robot".into(),
            signer: "example.com/s".into(),
            key_type: KeyType::EcdsaP256,
            max_expiration_seconds: Some(3600),
            annotations: [("example.com/a".to_owned(), "1".to_owned())].into(),
        };
        let around = Around {
            node: "edge-7".into(),
            node_uid: "n-1".into(),
            service_account_uid: "s-1".into(),
        };
        let object = object_of(&owner, wanted, around, vec![1, 2, 3]);
        assert_eq!(
            serde_json::to_value(&object).unwrap(),
            json!({
                "apiVersion": "certificates.k8s.io/v1", "kind": "PodCertificateRequest",
                "metadata": {
                    "namespace": "shop", "generateName": "req-",
                    "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "web-1", "uid": "u-1"}],
                },
                "spec": {
                    "signerName": "example.com/s", "podName": "web-1", "podUID": "u-1",
                    "serviceAccountName": "robot", "serviceAccountUID": "s-1",
                    "nodeName": "edge-7", "nodeUID": "n-1", "maxExpirationSeconds": 3600,
                    "stubPKCS10Request": "AQID", "unverifiedUserAnnotations": {"example.com/a": "1"},
                },
            })
        );
    }

    #[test]
    fn what_a_request_says_is_pending_until_a_condition_is_final() {
        let said = |status: serde_json::Value| {
            let spec = json!({"signerName": "s", "podName": "p", "podUID": "u", "serviceAccountName": "a",
                "serviceAccountUID": "b", "nodeName": "n", "nodeUID": "m", "stubPKCS10Request": ""});
            let request = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "PodCertificateRequest",
                "metadata": {}, "spec": spec, "status": status});
            issuing(&serde_json::from_value(request).unwrap())
        };
        assert_eq!(said(json!({})), Issuing::Pending);
        let condition = |word: &str| {
            json!({"conditions": [{"type": word, "status": "True", "reason": "Why", "message": "because",
                "lastTransitionTime": "2026-11-28T00:00:00Z"}]})
        };
        assert_eq!(said(condition("Issued")), Issuing::Pending, "no chain");
        for word in ["Denied", "Failed"] {
            let expected = Issuing::Refused {
                condition: word,
                reason: "Why".into(),
                message: "because".into(),
            };
            assert_eq!(said(condition(word)), expected);
        }
        let chain = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let mut issued = condition("Issued");
        issued["certificateChain"] = json!(format!("a comment\n{chain}"));
        issued["beginRefreshAt"] = json!("1970-01-01T00:01:40Z");
        issued["notAfter"] = json!("1970-01-01T00:16:40Z");
        let expected = Issuing::Issued {
            chain: chain.to_owned(),
            begin_refresh_at: 100,
            not_after: 1000,
        };
        assert_eq!(said(issued), expected);
    }
}
