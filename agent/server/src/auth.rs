//! Who is asking, and whether they may.
//!
//! In: a client certificate (already verified by TLS) or a bearer token; method and path. Out: a [`User`] or 401; yes or 403. There is no
//! anonymous user: no credentials is 401, on every path.
//! The rule table is [`required`], pure. Reviews by the API server are cached and coalesced in [`review`].

pub mod review;

use std::collections::BTreeMap;

use http::Method;
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use review::{ReviewError, Reviews};

/// Group of everybody with credentials.
const AUTHENTICATED: &str = "system:authenticated";

/// Somebody with credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

/// One question for a SubjectAccessReview: apiVersion v1, resource `nodes`, name the own node's, no namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AccessRequest {
    pub user: User,
    pub verb: &'static str,
    pub node: String,
    pub subresource: &'static str,
}

/// What a request needs: any one of the subresources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Required {
    pub verb: &'static str,
    /// Tried left to right; the first that is allowed suffices.
    pub subresources: Vec<&'static str>,
}

/// The rule table.
pub fn required(method: &Method, path: &str) -> Required {
    let verb = match *method {
        Method::POST => "create",
        Method::GET => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        // The API server allows an empty verb to nobody but those who may do everything.
        _ => "",
    };
    let under = |root: &str| {
        path.strip_prefix(root)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let fine = [
        ("/pods", "pods"),
        ("/healthz", "healthz"),
        ("/configz", "configz"),
        ("/runningpods", "pods"),
    ];
    let coarse = [
        ("/stats", "stats"),
        ("/metrics", "metrics"),
        ("/logs", "log"),
        ("/checkpoint", "checkpoint"),
        ("/statusz", "statusz"),
        ("/flagz", "configz"),
    ];
    let find = |table: &[(&str, &'static str)]| {
        table.iter().find(|(root, _)| under(root)).map(|(_, s)| *s)
    };
    let subresources = find(&fine)
        .into_iter()
        .chain([find(&coarse).unwrap_or("proxy")])
        .collect();
    Required { verb, subresources }
}

/// Why a request is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 401
    Unauthenticated,
    /// 403
    Forbidden(String),
    /// 500: the API server could not be asked.
    Unknown(String),
}

/// The user of a verified client certificate: CN is the name, every O a group.
pub fn certificate_user(der: &CertificateDer<'_>) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject.iter_organization();
    let groups = groups.filter_map(|o| o.as_str().ok()).map(str::to_owned);
    Some(User {
        name,
        groups: groups.chain([AUTHENTICATED.to_owned()]).collect(),
        ..User::default()
    })
}

/// The token of an `Authorization: Bearer` header.
fn bearer(headers: &http::HeaderMap) -> Option<&str> {
    let value = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Authenticates and authorizes requests.
#[derive(Clone)]
pub struct Gate {
    node: crate::node::SharedNode,
    tokens: Reviews<[u8; 32], String, Option<User>>,
    access: Reviews<AccessRequest, (), bool>,
}

impl Gate {
    /// The gate, and the tasks that ask the API server.
    pub fn new(node: crate::node::SharedNode) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (tokens, token_task) = review::tokens(node.clone());
        let (access, access_task) = review::access(node.clone());
        let tasks = async move {
            tokio::join!(token_task, access_task);
        };
        let gate = Self {
            node,
            tokens,
            access,
        };
        (gate, tasks)
    }

    /// Whether a request may be served; `peer` is the user of the connection's client certificate.
    pub async fn admit(
        &self,
        peer: Option<&User>,
        request: &http::request::Parts,
    ) -> Result<User, Refusal> {
        let user = self.authenticate(peer, &request.headers).await?;
        let required = required(&request.method, request.uri.path());
        for subresource in &required.subresources {
            let question = AccessRequest {
                user: user.clone(),
                verb: required.verb,
                node: self.node.name(),
                subresource,
            };
            match self.access.ask(question, ()).await {
                Ok(true) => return Ok(user),
                Ok(false) => {}
                Err(ReviewError(why)) => return Err(Refusal::Unknown(why)),
            }
        }
        Err(Refusal::Forbidden(format!(
            "Forbidden (user={}, verb={}, resource=nodes, subresource(s)={:?})",
            user.name, required.verb, required.subresources
        )))
    }

    async fn authenticate(
        &self,
        peer: Option<&User>,
        headers: &http::HeaderMap,
    ) -> Result<User, Refusal> {
        if let Some(user) = peer {
            return Ok(user.clone());
        }
        let token = bearer(headers).ok_or(Refusal::Unauthenticated)?;
        // The cache knows tokens by their digest, so that they do not linger in memory.
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        match self.tokens.ask(digest, token.to_owned()).await {
            Ok(Some(user)) => Ok(user),
            Ok(None) => Err(Refusal::Unauthenticated),
            Err(ReviewError(why)) => {
                tracing::warn!("cannot review a token: {why}");
                Err(Refusal::Unauthenticated)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_needs_what_the_table_says() {
        let cases = [
            ("GET", "/healthz", "get", &["healthz", "proxy"][..]),
            ("GET", "/healthz/ping", "get", &["healthz", "proxy"]),
            ("GET", "/pods", "get", &["pods", "proxy"]),
            ("GET", "/pods/", "get", &["pods", "proxy"]),
            ("GET", "/podsalike", "get", &["proxy"]),
            ("GET", "/runningpods/", "get", &["pods", "proxy"]),
            ("GET", "/configz", "get", &["configz", "proxy"]),
            ("GET", "/metrics", "get", &["metrics"]),
            ("GET", "/metrics/cadvisor", "get", &["metrics"]),
            ("GET", "/stats/summary", "get", &["stats"]),
            ("GET", "/logs/", "get", &["log"]),
            ("POST", "/checkpoint/a/b/c", "create", &["checkpoint"]),
            ("GET", "/statusz", "get", &["statusz"]),
            ("GET", "/containerLogs/a/b/c", "get", &["proxy"]),
            ("POST", "/exec/a/b/c", "create", &["proxy"]),
            ("PUT", "/debug/flags/v", "update", &["proxy"]),
            ("PATCH", "/x", "patch", &["proxy"]),
            ("DELETE", "/x", "delete", &["proxy"]),
            ("OPTIONS", "/exec/a/b/c", "", &["proxy"]),
            ("GET", "/", "get", &["proxy"]),
        ];
        for (method, path, verb, subresources) in cases {
            let got = required(&method.parse().unwrap(), path);
            assert_eq!(
                (got.verb, got.subresources.as_slice()),
                (verb, subresources),
                "{method} {path}"
            );
        }
    }

    #[test]
    fn a_bearer_token_is_found_whatever_the_case_of_its_scheme() {
        let of = |text: &str| {
            let mut headers = http::HeaderMap::new();
            headers.insert(http::header::AUTHORIZATION, text.parse().unwrap());
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(of("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(of("bearer  abc").as_deref(), Some("abc"));
        assert_eq!(of("Basic abc"), None);
        assert_eq!(of("Bearer "), None);
    }
}
