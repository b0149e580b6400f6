//! Registry credentials from image pull secrets (`kubernetes.io/dockerconfigjson` and the older `dockercfg`). Pure.
//!
//! In: secrets and an image. Out: the credentials to try, best match first. A secret that cannot be read is skipped with its reason.
//! No server address goes with them, as upstream: containerd sends credentials only to a host of exactly that URL, which is neither that of a mirror
//! nor, without `https://` before it, any host at all.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use kedge_cri::v1::AuthConfig;
use serde::Deserialize;

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize, Default)]
struct Entry {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
    #[serde(default, rename = "registrytoken")]
    registry_token: String,
}

/// Credentials that fit the image, the most specific first.
pub fn for_image(secrets: &[Secret], image: &str) -> Vec<AuthConfig> {
    let wanted = location(image);
    let mut found: Vec<(usize, AuthConfig)> = Vec::new();
    for secret in secrets {
        for (server, entry) in entries(secret) {
            let pattern = strip(&server);
            if matches(&pattern, &wanted) {
                let auth = AuthConfig {
                    username: entry.username,
                    password: entry.password,
                    auth: entry.auth,
                    server_address: String::new(),
                    identity_token: entry.identity_token,
                    registry_token: entry.registry_token,
                };
                found.push((pattern.len(), auth));
            }
        }
    }
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    found.into_iter().map(|(_, auth)| auth).collect()
}

fn entries(secret: &Secret) -> BTreeMap<String, Entry> {
    let data = secret.data.as_ref();
    if let Some(bytes) = data.and_then(|d| d.get(".dockerconfigjson")) {
        return match serde_json::from_slice::<Config>(&bytes.0) {
            Ok(config) => config.auths,
            Err(error) => {
                tracing::warn!(secret = ?secret.metadata.name, %error, "unreadable pull secret");
                BTreeMap::new()
            }
        };
    }
    if let Some(bytes) = data.and_then(|d| d.get(".dockercfg")) {
        return serde_json::from_slice(&bytes.0).unwrap_or_default();
    }
    BTreeMap::new()
}

/// `host/path` of an image without tag and digest; Docker Hub's short names spelled out.
fn location(image: &str) -> String {
    let image = image.split('@').next().unwrap_or(image);
    let (host, rest) = match image.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        Some(_) => ("index.docker.io", image),
        None => return format!("index.docker.io/library/{}", untagged(image)),
    };
    let host = if host == "docker.io" {
        "index.docker.io"
    } else {
        host
    };
    format!("{host}/{}", untagged(rest))
}

fn untagged(path: &str) -> &str {
    match path.rsplit_once(':') {
        Some((before, tag)) if !tag.contains('/') => before,
        _ => path,
    }
}

fn strip(server: &str) -> String {
    let bare = server
        .trim_start_matches("https://")
        .trim_start_matches("http://")
        .trim_end_matches('/');
    // Docker's own spelling of its registry.
    let bare = bare
        .strip_suffix("/v1")
        .or_else(|| bare.strip_suffix("/v2"))
        .unwrap_or(bare);
    if bare == "docker.io" {
        "index.docker.io".to_owned()
    } else {
        bare.to_owned()
    }
}

/// Hosts part by part, where `*` stands for one part; then the path as a prefix.
fn matches(pattern: &str, wanted: &str) -> bool {
    let (host, path) = pattern.split_once('/').unwrap_or((pattern, ""));
    let (wanted_host, wanted_path) = wanted.split_once('/').unwrap_or((wanted, ""));
    let parts = |h: &str| h.split('.').map(str::to_owned).collect::<Vec<_>>();
    let (host, wanted_host) = (parts(host), parts(wanted_host));
    host.len() == wanted_host.len()
        && host
            .iter()
            .zip(&wanted_host)
            .all(|(p, w)| p == "*" || p == w)
        && (path.is_empty() || wanted_path == path || wanted_path.starts_with(&format!("{path}/")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    fn secret(json: &str) -> Secret {
        Secret {
            data: Some(BTreeMap::from([(
                ".dockerconfigjson".to_owned(),
                ByteString(json.as_bytes().to_vec()),
            )])),
            ..Secret::default()
        }
    }

    #[test]
    fn the_most_specific_entry_comes_first() {
        let secrets = [secret(
            r#"{"auths":{"r.example":{"username":"a"},"r.example/team":{"username":"b"},"other":{"username":"c"}}}"#,
        )];
        let users: Vec<String> = for_image(&secrets, "r.example/team/app:1")
            .into_iter()
            .map(|a| a.username)
            .collect();
        assert_eq!(users, ["b", "a"]);
    }

    #[test]
    fn docker_hub_answers_to_all_its_names() {
        let secrets = [secret(
            r#"{"auths":{"https://index.docker.io/v1/":{"auth":"eA=="}}}"#,
        )];
        for image in ["busybox", "docker.io/library/busybox:1", "team/app"] {
            assert_eq!(for_image(&secrets, image).len(), 1, "{image}");
        }
        assert!(for_image(&secrets, "r.example/busybox").is_empty());
    }

    /// With one, containerd sent the credentials of `r.example` nowhere.
    #[test]
    fn credentials_are_for_whatever_host_serves_the_image() {
        let secrets = [secret(r#"{"auths":{"r.example":{"auth":"eDp5"}}}"#)];
        let found = for_image(&secrets, "r.example/app:1");
        assert_eq!(
            (found[0].auth.as_str(), found[0].server_address.as_str()),
            ("eDp5", "")
        );
    }

    #[test]
    fn a_star_stands_for_one_part_of_the_host() {
        let secrets = [secret(r#"{"auths":{"*.example":{"username":"a"}}}"#)];
        assert_eq!(for_image(&secrets, "r.example/x").len(), 1);
        assert!(for_image(&secrets, "a.r.example/x").is_empty());
    }

    #[test]
    fn a_port_is_not_a_tag() {
        assert_eq!(location("r.example:5000/app"), "r.example:5000/app");
        assert_eq!(location("r.example:5000/app:1"), "r.example:5000/app");
        assert_eq!(location("r.example/app@sha256:00"), "r.example/app");
    }
}
