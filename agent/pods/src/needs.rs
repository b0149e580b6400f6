//! Which API objects a pod refers to, so that the worker can have them fetched before [`crate::resolve`] runs.
//!
//! In: a pod. Out: [`Needs`]: names in the pod's own namespace. Fetching, caching and watching are the caller's.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{ClusterTrustBundleProjection, Pod, PodSpec, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::pod::{self, members};
use crate::volume::TokenRequest;

/// Everything outside the pod that starting it depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// ConfigMaps in the pod's namespace.
    pub config_maps: BTreeSet<String>,
    /// Secrets in the pod's namespace, image pull secrets apart.
    pub secrets: BTreeSet<String>,
    /// `imagePullSecrets`; a missing one is no error.
    pub pull_secrets: BTreeSet<String>,
    pub tokens: BTreeSet<TokenRequest>,
    pub runtime_class: Option<String>,
    /// Services of the pod's namespace (and `kubernetes` of `default`) for the environment.
    pub services: bool,
    pub trust_bundles: BTreeSet<TrustBundle>,
}

/// Which ClusterTrustBundles a projection wants (KEP-3257).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TrustBundle {
    Name(String),
    /// All bundles of the signer that the selector matches.
    Signer {
        signer: String,
        /// As in a list's `labelSelector`; empty: all.
        labels: String,
    },
}

impl std::fmt::Display for TrustBundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TrustBundle::Name(name) => write!(f, "{name:?}"),
            TrustBundle::Signer { signer, labels } if labels.is_empty() => {
                write!(f, "of signer {signer:?}")
            }
            TrustBundle::Signer { signer, labels } => {
                write!(f, "of signer {signer:?} with labels {labels:?}")
            }
        }
    }
}

/// What a projection wants. None: it has a signer without a selector, which matches nothing.
pub fn trust_bundle(projection: &ClusterTrustBundleProjection) -> Option<TrustBundle> {
    if let Some(name) = &projection.name {
        return Some(TrustBundle::Name(name.clone()));
    }
    Some(TrustBundle::Signer {
        signer: projection.signer_name.clone()?,
        labels: query(projection.label_selector.as_ref()?),
    })
}

/// A selector as the `labelSelector` parameter of a list spells it.
fn query(selector: &LabelSelector) -> String {
    let equal = selector.match_labels.iter().flatten();
    let equal = equal.map(|(key, value)| format!("{key}={value}"));
    let expressions = selector.match_expressions.iter().flatten().map(|e| {
        let values = || e.values.as_deref().unwrap_or_default().join(",");
        match e.operator.as_str() {
            "In" => format!("{} in ({})", e.key, values()),
            "NotIn" => format!("{} notin ({})", e.key, values()),
            "DoesNotExist" => format!("!{}", e.key),
            // `Exists`; the API server admits no other.
            _ => e.key.clone(),
        }
    });
    equal.chain(expressions).collect::<Vec<_>>().join(",")
}

/// What this pod needs.
pub fn needs(pod: &Pod) -> Needs {
    let spec = pod::spec(pod);
    let mut needs = Needs {
        runtime_class: spec.runtime_class_name.clone().filter(|n| !n.is_empty()),
        services: true,
        ..Needs::default()
    };
    for secret in spec.image_pull_secrets.iter().flatten() {
        needs.pull_secrets.insert(secret.name.clone());
    }
    from_env(spec, &mut needs);
    for volume in spec.volumes.iter().flatten() {
        from_volume(spec, volume, &mut needs);
    }
    needs
}

fn from_env(spec: &PodSpec, needs: &mut Needs) {
    for member in members(spec) {
        for source in member.spec.env_from.iter().flatten() {
            if let Some(r) = &source.config_map_ref {
                needs.config_maps.insert(r.name.clone());
            }
            if let Some(r) = &source.secret_ref {
                needs.secrets.insert(r.name.clone());
            }
        }
        for from in member
            .spec
            .env
            .iter()
            .flatten()
            .filter_map(|e| e.value_from.as_ref())
        {
            if let Some(r) = &from.config_map_key_ref {
                needs.config_maps.insert(r.name.clone());
            }
            if let Some(r) = &from.secret_key_ref {
                needs.secrets.insert(r.name.clone());
            }
        }
    }
}

fn from_volume(spec: &PodSpec, volume: &Volume, needs: &mut Needs) {
    if let Some(source) = &volume.config_map {
        needs.config_maps.insert(source.name.clone());
    }
    if let Some(name) = volume.secret.as_ref().and_then(|s| s.secret_name.clone()) {
        needs.secrets.insert(name);
    }
    let sources = volume
        .projected
        .iter()
        .flat_map(|p| p.sources.iter().flatten());
    for source in sources {
        if let Some(r) = &source.config_map {
            needs.config_maps.insert(r.name.clone());
        }
        if let Some(r) = &source.secret {
            needs.secrets.insert(r.name.clone());
        }
        if let Some(token) = &source.service_account_token {
            needs.tokens.insert(token_request(spec, token));
        }
        if let Some(bundle) = &source.cluster_trust_bundle {
            needs.trust_bundles.extend(trust_bundle(bundle));
        }
    }
}

/// The token that a projection asks for; the API server's default life is an hour.
pub fn token_request(
    spec: &PodSpec,
    token: &k8s_openapi::api::core::v1::ServiceAccountTokenProjection,
) -> TokenRequest {
    TokenRequest {
        service_account: service_account(spec).to_owned(),
        audience: token.audience.clone().unwrap_or_default(),
        expiration_seconds: token.expiration_seconds.unwrap_or(3600),
    }
}

/// The pod's service account; `serviceAccount` is the older name of the field.
pub fn service_account(spec: &PodSpec) -> &str {
    spec.service_account_name
        .as_deref()
        .or(spec.service_account.as_deref())
        .filter(|s| !s.is_empty())
        .unwrap_or("default")
}

/// When a token issued at `issued` for `life` is due for a new one (seconds since the epoch): after 80 % of its life, at the
/// latest after 24 hours, and up to 10 s earlier by `jitter` (0.0–1.0), so that pods do not ask in step.
pub fn token_refresh_at(issued: i64, life: i64, jitter: f64) -> i64 {
    let due = (life * 8 / 10).min(24 * 3600);
    issued + due - (jitter.clamp(0.0, 1.0) * 10.0) as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    #[test]
    fn every_kind_of_reference_is_found() {
        let pod = pod(r#"
            {"spec": {
              "serviceAccountName": "robot", "runtimeClassName": "fast",
              "imagePullSecrets": [{"name": "pull"}],
              "initContainers": [{"name": "i", "envFrom": [{"configMapRef": {"name": "cm-from"}}]}],
              "containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "s-from"}}], "env": [
                {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cm-key", "key": "a"}}},
                {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s-key", "key": "b"}}}]}],
              "volumes": [
                {"name": "v1", "configMap": {"name": "cm-vol"}},
                {"name": "v2", "secret": {"secretName": "s-vol"}},
                {"name": "v3", "projected": {"sources": [
                  {"configMap": {"name": "cm-proj"}}, {"secret": {"name": "s-proj"}},
                  {"serviceAccountToken": {"path": "token", "audience": "vault", "expirationSeconds": 600}},
                  {"clusterTrustBundle": {"name": "ctb", "path": "ca.pem"}},
                  {"clusterTrustBundle": {"signerName": "example.com/nothing", "path": "none.pem"}},
                  {"clusterTrustBundle": {"signerName": "example.com/all", "labelSelector": {}, "path": "all.pem"}},
                  {"clusterTrustBundle": {"signerName": "example.com/s", "path": "cb.pem", "labelSelector": {
                    "matchLabels": {"a": "1"}, "matchExpressions": [
                      {"key": "b", "operator": "In", "values": ["2", "3"]}, {"key": "c", "operator": "NotIn", "values": ["4"]},
                      {"key": "d", "operator": "Exists"}, {"key": "e", "operator": "DoesNotExist"}]}}}]}}]}}"#);
        let set = |names: &[&str]| {
            names
                .iter()
                .map(|s| (*s).to_owned())
                .collect::<BTreeSet<_>>()
        };
        assert_eq!(
            needs(&pod),
            Needs {
                config_maps: set(&["cm-from", "cm-key", "cm-vol", "cm-proj"]),
                secrets: set(&["s-from", "s-key", "s-vol", "s-proj"]),
                pull_secrets: set(&["pull"]),
                tokens: BTreeSet::from([TokenRequest {
                    service_account: "robot".into(),
                    audience: "vault".into(),
                    expiration_seconds: 600,
                }]),
                runtime_class: Some("fast".into()),
                services: true,
                trust_bundles: BTreeSet::from([
                    TrustBundle::Name("ctb".into()),
                    TrustBundle::Signer {
                        signer: "example.com/all".into(),
                        labels: String::new(),
                    },
                    TrustBundle::Signer {
                        signer: "example.com/s".into(),
                        labels: "a=1,b in (2,3),c notin (4),d,!e".into(),
                    },
                ]),
            }
        );
    }

    #[test]
    fn the_older_service_account_field_counts() {
        let of = |spec: &str| {
            let pod = pod(&format!(r#"{{"spec": {{"containers": [], {spec}}}}}"#));
            service_account(pod::spec(&pod)).to_owned()
        };
        assert_eq!(of(r#""serviceAccount": "old""#), "old");
        assert_eq!(
            of(r#""serviceAccount": "old", "serviceAccountName": "new""#),
            "new"
        );
        assert_eq!(of(r#""dnsPolicy": "None""#), "default");
    }

    #[test]
    fn tokens_are_renewed_after_four_fifths_or_a_day() {
        assert_eq!(token_refresh_at(1000, 3600, 0.0), 1000 + 2880);
        assert_eq!(token_refresh_at(1000, 3600, 1.0), 1000 + 2870);
        assert_eq!(token_refresh_at(0, 30 * 24 * 3600, 0.0), 24 * 3600);
    }
}
