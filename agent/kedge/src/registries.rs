//! What containerd is told of registries: `hosts.toml` per host below `/etc/containerd/certs.d`
//! (containerd `docs/hosts.md`). Pure: the files as (path below that directory, content).

use std::collections::BTreeMap;
use std::net::SocketAddr;

use kedge_machine::config::Registry;
use kedge_machine::paths::EMBEDDED_REGISTRY;

/// The files for the configured mirrors and for the images that the root carries, which are served at `embedded`.
/// After the mirrors the registry itself is tried, which is containerd's own rule.
pub fn files(
    registries: &BTreeMap<String, Registry>,
    embedded: SocketAddr,
) -> BTreeMap<String, String> {
    let mut files: BTreeMap<String, String> = registries
        .iter()
        .filter(|(_, registry)| !registry.mirrors.is_empty())
        .map(|(host, registry)| {
            (
                format!("{host}/hosts.toml"),
                hosts_toml(registry.mirrors.iter().map(String::as_str)),
            )
        })
        .collect();
    let embedded = format!("http://{embedded}");
    files.insert(
        format!("{EMBEDDED_REGISTRY}/hosts.toml"),
        format!(
            "server = \"{embedded}\"\n{}",
            hosts_toml([embedded.as_str()])
        ),
    );
    files
}

fn hosts_toml<'a>(mirrors: impl IntoIterator<Item = &'a str>) -> String {
    mirrors
        .into_iter()
        .map(|url| {
            format!(
                "[host.{}]\n  capabilities = [\"pull\", \"resolve\"]\n",
                quote(url)
            )
        })
        .collect()
}

/// A TOML basic string.
fn quote(text: &str) -> String {
    let escaped: String = text
        .chars()
        .flat_map(|c| match c {
            '"' | '\\' => vec!['\\', c],
            c if c.is_control() => Vec::new(),
            c => vec![c],
        })
        .collect();
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn mirrors_and_the_embedded_registry_become_hosts_files() {
        let registries = BTreeMap::from([
            (
                "registry.k8s.io".to_owned(),
                Registry {
                    mirrors: vec!["http://192.0.2.1:5000".into(), "https://m\"x".into()],
                },
            ),
            ("quiet.example".to_owned(), Registry::default()),
        ]);
        let files = files(&registries, SocketAddr::from(([127, 0, 0, 1], 4242)));
        let all: String = files.iter().map(|(p, t)| format!("== {p}\n{t}")).collect();
        expect![[r#"
            == kedge.local/hosts.toml
            server = "http://127.0.0.1:4242"
            [host."http://127.0.0.1:4242"]
              capabilities = ["pull", "resolve"]
            == registry.k8s.io/hosts.toml
            [host."http://192.0.2.1:5000"]
              capabilities = ["pull", "resolve"]
            [host."https://m\"x"]
              capabilities = ["pull", "resolve"]
        "#]]
        .assert_eq(&all);
    }
}
