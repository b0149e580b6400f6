//! A scraper's right to read nodes' metrics: a service account, its role, a token of it.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::api::{Api, text_at};

/// How long a token is good: longer than any run.
const LIFE_SECONDS: u64 = 4 * 3600;

/// The account `scraper` in `namespace`, which may read every node's metrics and nothing else.
pub fn objects(namespace: &str) -> Value {
    let rbac = "rbac.authorization.k8s.io";
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "scraper", "namespace": namespace}},
        {
            "apiVersion": format!("{rbac}/v1"), "kind": "ClusterRole", "metadata": {"name": "scraper"},
            "rules": [{"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]}],
        },
        {
            "apiVersion": format!("{rbac}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": "scraper"},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": "scraper"},
            "subjects": [{"kind": "ServiceAccount", "name": "scraper", "namespace": namespace}],
        },
    ]})
}

/// A token of a service account, by the TokenRequest API.
pub fn token(api: &Api, namespace: &str, account: &str) -> Result<String> {
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": LIFE_SECONDS},
    });
    let answer = api.create(&path, &request)?;
    match text_at(&answer, "/status/token") {
        "" => None,
        token => Some(token.to_owned()),
    }
    .with_context(|| format!("no token in the answer to {path}"))
}
