//! What a probe or a lifecycle hook does, with names resolved: ports are numbers, hosts are addresses, commands expanded.
//!
//! In: the API's handler, the container, the pod's address. Out: [`Handler`], data that the executor acts on, or a sentence
//! that says what cannot be resolved.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, LifecycleHandler, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// One check or hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handler {
    Http(HttpGet),
    Tcp {
        host: String,
        port: u16,
    },
    /// Run inside the container (CRI ExecSync).
    Exec {
        command: Vec<String>,
    },
    /// gRPC health check, plaintext; an empty service asks for the server as a whole.
    Grpc {
        host: String,
        port: u16,
        service: String,
    },
    /// Lifecycle hooks only.
    Sleep {
        seconds: u64,
    },
}

/// GET with the headers to send; `User-Agent` and `Accept` are already decided, and a `Host` header given by the pod
/// replaces the one made from the address (RFC 9110 section 7.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpGet {
    pub https: bool,
    /// Address or name to connect to.
    pub host: String,
    pub port: u16,
    /// With query, starting with `/`.
    pub path: String,
    /// In order; names as written. Contains no `Host`.
    pub headers: Vec<(String, String)>,
    /// The `Host` header's value when the pod overrides it.
    pub host_header: Option<String>,
}

/// What a probe does, for a container of a pod at `ip`.
pub fn of_probe(
    probe: &Probe,
    container: &Container,
    ip: Option<IpAddr>,
    version: &str,
) -> Result<Handler, String> {
    if let Some(exec) = &probe.exec {
        let command = exec.command.clone().unwrap_or_default();
        return Ok(Handler::Exec {
            command: crate::resolve::env::expand_static(&command, container),
        });
    }
    if let Some(get) = &probe.http_get {
        return http(get, container, ip, &format!("kube-probe/{version}")).map(Handler::Http);
    }
    if let Some(tcp) = &probe.tcp_socket {
        return Ok(Handler::Tcp {
            host: host(tcp.host.as_deref(), ip)?,
            port: port(&tcp.port, container)?,
        });
    }
    if let Some(grpc) = &probe.grpc {
        return Ok(Handler::Grpc {
            host: host(None, ip)?,
            port: number(grpc.port)?,
            service: grpc.service.clone().unwrap_or_default(),
        });
    }
    Err("the probe names no action".into())
}

/// What a lifecycle hook does.
pub fn of_lifecycle(
    hook: &LifecycleHandler,
    container: &Container,
    ip: Option<IpAddr>,
    version: &str,
) -> Result<Handler, String> {
    if let Some(exec) = &hook.exec {
        return Ok(Handler::Exec {
            command: exec.command.clone().unwrap_or_default(),
        });
    }
    if let Some(get) = &hook.http_get {
        return http(get, container, ip, &format!("kube-lifecycle/{version}")).map(Handler::Http);
    }
    if let Some(sleep) = &hook.sleep {
        return Ok(Handler::Sleep {
            seconds: u64::try_from(sleep.seconds).unwrap_or(0),
        });
    }
    Err("the lifecycle hook names no action that is supported".into())
}

fn http(
    get: &HTTPGetAction,
    container: &Container,
    ip: Option<IpAddr>,
    agent: &str,
) -> Result<HttpGet, String> {
    let given = get.http_headers.as_deref().unwrap_or_default();
    let named = |name: &str| given.iter().find(|h| h.name.eq_ignore_ascii_case(name));
    let mut headers = Vec::new();
    for (name, default) in [("User-Agent", agent), ("Accept", "*/*")] {
        if named(name).is_none() {
            headers.push((name.to_owned(), default.to_owned()));
        }
    }
    for h in given {
        let own =
            h.name.eq_ignore_ascii_case("user-agent") || h.name.eq_ignore_ascii_case("accept");
        // An empty value for one of the two defaults means: do not send it.
        if h.name.eq_ignore_ascii_case("host") || (own && h.value.is_empty()) {
            continue;
        }
        headers.push((h.name.clone(), h.value.clone()));
    }
    let path = get.path.as_deref().unwrap_or("/");
    Ok(HttpGet {
        https: get
            .scheme
            .as_deref()
            .is_some_and(|s| s.eq_ignore_ascii_case("https")),
        host: host(get.host.as_deref(), ip)?,
        port: port(&get.port, container)?,
        path: if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{path}")
        },
        headers,
        host_header: named("Host").map(|h| h.value.clone()),
    })
}

fn host(given: Option<&str>, ip: Option<IpAddr>) -> Result<String, String> {
    match (given.filter(|h| !h.is_empty()), ip) {
        (Some(host), _) => Ok(host.to_owned()),
        (None, Some(ip)) => Ok(ip.to_string()),
        (None, None) => Err("the pod has no address yet".into()),
    }
}

/// A port by number, digits in a string, or the name of one of the container's ports.
fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    match port {
        IntOrString::Int(n) => number(*n),
        IntOrString::String(name) => {
            if let Some(named) = container
                .ports
                .iter()
                .flatten()
                .find(|p| p.name.as_deref() == Some(name))
            {
                return number(named.container_port);
            }
            name.parse::<i32>()
                .map_err(|_| format!("container {} has no port named {name:?}", container.name))
                .and_then(number)
        }
    }
}

fn number(n: i32) -> Result<u16, String> {
    u16::try_from(n)
        .ok()
        .filter(|n| *n != 0)
        .ok_or_else(|| format!("port {n} is out of range"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(probe: &str, expected: Result<Handler, &str>) {
        let container: Container = serde_json::from_str(
            r#"{"name": "c", "ports": [{"name": "web", "containerPort": 8080}], "env": [{"name": "F", "value": "/tmp/f"}]}"#,
        )
        .unwrap();
        let probe: Probe = serde_json::from_str(probe).unwrap();
        let ip = Some("10.0.0.7".parse().unwrap());
        assert_eq!(
            of_probe(&probe, &container, ip, "1.37"),
            expected.map_err(str::to_owned)
        );
    }

    fn get(path: &str, port: u16) -> HttpGet {
        HttpGet {
            https: false,
            host: "10.0.0.7".into(),
            port,
            path: path.into(),
            headers: vec![
                ("User-Agent".into(), "kube-probe/1.37".into()),
                ("Accept".into(), "*/*".into()),
            ],
            host_header: None,
        }
    }

    #[test]
    fn http_probe_resolves_named_port_scheme_and_headers() {
        check(
            r#"{"httpGet": {"path": "healthz?x=1", "port": "web"}}"#,
            Ok(Handler::Http(get("/healthz?x=1", 8080))),
        );
        check(
            r#"{"httpGet": {"port": "81"}}"#,
            Ok(Handler::Http(get("/", 81))),
        );
        check(
            r#"{"httpGet": {"port": 443, "scheme": "HTTPS", "host": "example.com", "httpHeaders": [
                {"name": "host", "value": "a.b"}, {"name": "accept", "value": ""}, {"name": "X-A", "value": "1"}]}}"#,
            Ok(Handler::Http(HttpGet {
                https: true,
                host: "example.com".into(),
                headers: vec![
                    ("User-Agent".into(), "kube-probe/1.37".into()),
                    ("X-A".into(), "1".into()),
                ],
                host_header: Some("a.b".into()),
                ..get("/", 443)
            })),
        );
        check(
            r#"{"httpGet": {"port": "metrics"}}"#,
            Err("container c has no port named \"metrics\""),
        );
    }

    #[test]
    fn tcp_grpc_and_exec_probes_resolve() {
        check(
            r#"{"tcpSocket": {"port": "web"}}"#,
            Ok(Handler::Tcp {
                host: "10.0.0.7".into(),
                port: 8080,
            }),
        );
        check(
            r#"{"tcpSocket": {"port": 9, "host": "db.example"}}"#,
            Ok(Handler::Tcp {
                host: "db.example".into(),
                port: 9,
            }),
        );
        check(
            r#"{"grpc": {"port": 5000, "service": "db"}}"#,
            Ok(Handler::Grpc {
                host: "10.0.0.7".into(),
                port: 5000,
                service: "db".into(),
            }),
        );
        check(
            r#"{"exec": {"command": ["cat", "$(F)", "$(UNKNOWN)"]}}"#,
            Ok(Handler::Exec {
                command: vec!["cat".into(), "/tmp/f".into(), "$(UNKNOWN)".into()],
            }),
        );
        check(
            r#"{"tcpSocket": {"port": 0}}"#,
            Err("port 0 is out of range"),
        );
        check("{}", Err("the probe names no action"));
    }

    #[test]
    fn lifecycle_hooks_resolve() {
        let hook = |json: &str| {
            let hook: LifecycleHandler = serde_json::from_str(json).unwrap();
            of_lifecycle(
                &hook,
                &Container::default(),
                Some("10.0.0.7".parse().unwrap()),
                "1.37",
            )
        };
        assert_eq!(
            hook(r#"{"sleep": {"seconds": 5}}"#),
            Ok(Handler::Sleep { seconds: 5 })
        );
        assert_eq!(
            hook(r#"{"exec": {"command": ["sh"]}}"#),
            Ok(Handler::Exec {
                command: vec!["sh".into()]
            })
        );
        let Ok(Handler::Http(get)) = hook(r#"{"httpGet": {"port": 80, "path": "/bye"}}"#) else {
            panic!("an HTTP hook resolves");
        };
        assert_eq!(
            (get.path.as_str(), get.headers[0].1.as_str()),
            ("/bye", "kube-lifecycle/1.37")
        );
        assert!(hook(r#"{"tcpSocket": {"port": 80}}"#).is_err());
    }
}
