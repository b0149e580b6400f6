//! The document as written: strings and numbers in YAML's shape, and how each becomes a value.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::*;
use crate::identity::check_node_name;
use crate::suggest::nearest;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Document {
    api_version: String,
    kind: String,
    #[serde(default)]
    node: NodeDoc,
    cluster: Option<ClusterDoc>,
    #[serde(default)]
    network: NetworkDoc,
    #[serde(default)]
    time: TimeDoc,
    #[serde(default)]
    kubelet: KubeletDoc,
    proxy: Option<String>,
    #[serde(default)]
    registries: BTreeMap<String, RegistryDoc>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NodeDoc {
    name: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    taints: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ClusterDoc {
    server: String,
    token: Option<String>,
    ca: Option<String>,
    #[serde(default)]
    ca_cert_hashes: Vec<String>,
    #[serde(default)]
    dns: Vec<String>,
    domain: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NetworkDoc {
    #[serde(default)]
    interfaces: Vec<InterfaceDoc>,
    #[serde(default)]
    nameservers: Vec<String>,
    #[serde(default)]
    search_domains: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct InterfaceDoc {
    name: Option<String>,
    mac: Option<String>,
    #[serde(default)]
    dhcp: bool,
    #[serde(default)]
    addresses: Vec<String>,
    gateway: Option<String>,
    mtu: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TimeDoc {
    #[serde(default)]
    servers: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct KubeletDoc {
    max_pods: Option<u32>,
    #[serde(default)]
    read_only_port: bool,
    #[serde(default)]
    system_reserved: ReservedDoc,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ReservedDoc {
    cpu: Option<String>,
    memory: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RegistryDoc {
    #[serde(default)]
    mirrors: Vec<String>,
}

/// Reads the shape; faults carry line and column.
pub(super) fn parse(text: &str) -> Result<Document, ConfigError> {
    serde_saphyr::from_str(text).map_err(|error| {
        let place = error.location().map(|l| (l.line(), l.column()));
        let message = match error.without_snippet() {
            serde_saphyr::Error::SerdeUnknownField {
                field, expected, ..
            } => match nearest(field, expected.iter().copied()) {
                Some(known) => format!("unknown key `{field}`, did you mean `{known}`?"),
                None => format!(
                    "unknown key `{field}`, expected one of {}",
                    expected.join(", ")
                ),
            },
            serde_saphyr::Error::SerdeMissingField { field, .. } => {
                format!("key `{field}` is missing")
            }
            other => first_line(&other.to_string()),
        };
        ConfigError {
            place,
            field: None,
            message,
        }
    })
}

/// The parser's message without its drawing of the source and without the place, which is reported apart.
fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let line = line.strip_prefix("error: ").unwrap_or(line);
    match line.find(" at line ") {
        Some(end) => line[..end].to_owned(),
        None => line.to_owned(),
    }
}

fn at(field: impl Into<String>, message: impl Into<String>) -> ConfigError {
    ConfigError {
        place: None,
        field: Some(field.into()),
        message: message.into(),
    }
}

impl Document {
    /// Turns strings into values; faults carry the field's path.
    pub(super) fn validate(self) -> Result<MachineConfig, ConfigError> {
        if self.api_version != API_VERSION {
            return Err(at(
                "apiVersion",
                format!(
                    "`{}` is not known here, expected `{API_VERSION}`",
                    self.api_version
                ),
            ));
        }
        if self.kind != KIND {
            return Err(at(
                "kind",
                format!("`{}` is not known here, expected `{KIND}`", self.kind),
            ));
        }
        Ok(MachineConfig {
            node: self.node.validate()?,
            cluster: self.cluster.map(ClusterDoc::validate).transpose()?,
            network: self.network.validate()?,
            time_servers: self.time.servers,
            kubelet: self.kubelet.validate()?,
            proxy: proxy_mode(self.proxy.as_deref())?,
            registries: self
                .registries
                .into_iter()
                .map(|(host, doc)| {
                    let mirrors = doc.mirrors;
                    match mirrors
                        .iter()
                        .find(|m| !m.starts_with("http://") && !m.starts_with("https://"))
                    {
                        Some(bad) => Err(at(
                            format!("registries.{host}.mirrors"),
                            format!("`{bad}` is not a URL starting with http:// or https://"),
                        )),
                        None => Ok((host, Registry { mirrors })),
                    }
                })
                .collect::<Result<_, _>>()?,
        })
    }
}

fn proxy_mode(text: Option<&str>) -> Result<ProxyMode, ConfigError> {
    match text {
        None | Some("nftables") => Ok(ProxyMode::Nftables),
        Some("off") => Ok(ProxyMode::Off),
        Some(other) => Err(at(
            "proxy",
            format!("`{other}` is not a mode, expected `nftables` or `off`"),
        )),
    }
}

impl NodeDoc {
    fn validate(self) -> Result<Node, ConfigError> {
        if let Some(name) = &self.name {
            check_node_name(name).map_err(|m| at("node.name", m))?;
        }
        let taints = self
            .taints
            .iter()
            .enumerate()
            .map(|(i, text)| taint(text).map_err(|m| at(format!("node.taints[{i}]"), m)))
            .collect::<Result<_, _>>()?;
        Ok(Node {
            name: self.name,
            labels: self.labels,
            taints,
        })
    }
}

fn taint(text: &str) -> Result<Taint, String> {
    let (rest, effect) = text
        .rsplit_once(':')
        .ok_or("not a taint: expected key[=value]:Effect as `kubectl taint` takes it")?;
    if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
        return Err(format!(
            "`{effect}` is not an effect, expected NoSchedule, PreferNoSchedule or NoExecute"
        ));
    }
    let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
    if key.is_empty() {
        return Err("the taint's key is empty".to_owned());
    }
    Ok(Taint {
        key: key.to_owned(),
        value: value.to_owned(),
        effect: effect.to_owned(),
    })
}

impl ClusterDoc {
    fn validate(self) -> Result<Cluster, ConfigError> {
        let server = self.server.trim_end_matches('/').to_owned();
        let host = server.strip_prefix("https://").ok_or_else(|| {
            at(
                "cluster.server",
                format!("`{server}` does not start with https://"),
            )
        })?;
        if host.is_empty() || host.contains('/') {
            return Err(at(
                "cluster.server",
                format!("`{server}` is not https://host:port without a path"),
            ));
        }
        let token = self
            .token
            .map(|t| Token::parse(&t).map_err(|m| at("cluster.token", m)))
            .transpose()?;
        let trust = match (self.ca, self.ca_cert_hashes.as_slice()) {
            (Some(ca), []) if ca.contains("-----BEGIN CERTIFICATE-----") => Trust::Ca(ca),
            (Some(_), []) => return Err(at("cluster.ca", "holds no PEM certificate")),
            (Some(_), _) => return Err(at("cluster", "give `ca` or `caCertHashes`, not both")),
            (None, []) => {
                return Err(at(
                    "cluster",
                    "give `caCertHashes` (as `kubeadm token create --print-join-command` prints them) or `ca`: without one the API server cannot be trusted",
                ));
            }
            (None, hashes) => Trust::Hashes(
                hashes
                    .iter()
                    .enumerate()
                    .map(|(i, h)| {
                        CaHash::parse(h).map_err(|m| at(format!("cluster.caCertHashes[{i}]"), m))
                    })
                    .collect::<Result<_, _>>()?,
            ),
        };
        let dns = addresses("cluster.dns", &self.dns)?;
        Ok(Cluster {
            server,
            token,
            trust,
            dns: if dns.is_empty() {
                vec![IpAddr::from([10, 96, 0, 10])]
            } else {
                dns
            },
            domain: self.domain.unwrap_or_else(|| "cluster.local".to_owned()),
        })
    }
}

fn addresses(field: &str, texts: &[String]) -> Result<Vec<IpAddr>, ConfigError> {
    texts
        .iter()
        .enumerate()
        .map(|(i, t)| {
            t.parse().map_err(|_| {
                at(
                    format!("{field}[{i}]"),
                    format!("`{t}` is not an IP address"),
                )
            })
        })
        .collect()
}

impl NetworkDoc {
    fn validate(self) -> Result<Network, ConfigError> {
        Ok(Network {
            interfaces: self
                .interfaces
                .into_iter()
                .enumerate()
                .map(|(i, doc)| doc.validate(&format!("network.interfaces[{i}]")))
                .collect::<Result<_, _>>()?,
            nameservers: addresses("network.nameservers", &self.nameservers)?,
            search_domains: self.search_domains,
        })
    }
}

impl InterfaceDoc {
    fn validate(self, path: &str) -> Result<Interface, ConfigError> {
        let selector = match (self.name, self.mac) {
            (Some(name), None) if !name.is_empty() && name.len() < 16 => LinkSelector::Name(name),
            (Some(name), None) => {
                return Err(at(
                    path,
                    format!("`{name}` is not an interface name of 1 to 15 characters"),
                ));
            }
            (None, Some(mac)) => {
                LinkSelector::Mac(parse_mac(&mac).map_err(|m| at(format!("{path}.mac"), m))?)
            }
            _ => return Err(at(path, "give `name` or `mac`")),
        };
        let addresses = self
            .addresses
            .iter()
            .enumerate()
            .map(|(i, a)| Cidr::parse(a).map_err(|m| at(format!("{path}.addresses[{i}]"), m)))
            .collect::<Result<Vec<_>, _>>()?;
        if !self.dhcp && addresses.is_empty() {
            return Err(at(path, "has neither `dhcp: true` nor `addresses`"));
        }
        let gateway = self
            .gateway
            .map(|g| {
                g.parse().map_err(|_| {
                    at(
                        format!("{path}.gateway"),
                        format!("`{g}` is not an IP address"),
                    )
                })
            })
            .transpose()?;
        if let Some(mtu) = self.mtu
            && !(576..=65535).contains(&mtu)
        {
            return Err(at(
                format!("{path}.mtu"),
                format!("{mtu} is outside 576 to 65535"),
            ));
        }
        Ok(Interface {
            selector,
            dhcp: self.dhcp,
            addresses,
            gateway,
            mtu: self.mtu,
        })
    }
}

fn parse_mac(text: &str) -> Result<[u8; 6], String> {
    let mut mac = [0; 6];
    let parts: Vec<&str> = text.split(':').collect();
    let ok = parts.len() == 6
        && parts.iter().zip(&mut mac).all(|(part, byte)| {
            part.len() == 2 && u8::from_str_radix(part, 16).map(|v| *byte = v).is_ok()
        });
    if ok {
        Ok(mac)
    } else {
        Err(format!(
            "`{text}` is not a hardware address such as 52:54:00:12:34:56"
        ))
    }
}

impl KubeletDoc {
    fn validate(self) -> Result<Kubelet, ConfigError> {
        let max_pods = self.max_pods.unwrap_or(110);
        if max_pods == 0 {
            return Err(at("kubelet.maxPods", "0 leaves no room for any pod"));
        }
        let reserved = |field: &str,
                        text: Option<String>,
                        unit: fn(&str) -> Option<u64>,
                        default: u64| match text {
            None => Ok(default),
            Some(t) => unit(&t).ok_or_else(|| {
                at(
                    format!("kubelet.systemReserved.{field}"),
                    format!("`{t}` is not a quantity"),
                )
            }),
        };
        Ok(Kubelet {
            max_pods,
            read_only_port: self.read_only_port,
            system_reserved: Reserved {
                cpu_millis: reserved("cpu", self.system_reserved.cpu, cpu_millis, 0)?,
                memory_bytes: reserved("memory", self.system_reserved.memory, memory_bytes, 0)?,
            },
        })
    }
}

/// `250m`, `1`, `1.5` to thousandths of a CPU.
fn cpu_millis(text: &str) -> Option<u64> {
    if let Some(millis) = text.strip_suffix('m') {
        return millis.parse().ok();
    }
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    if part.is_empty() || part.len() > 3 || !part.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let part: u64 = format!("{part:0<3}").parse().ok()?;
    whole
        .parse::<u64>()
        .ok()?
        .checked_mul(1000)?
        .checked_add(part)
}

/// `100Mi`, `1G`, `5000` to bytes.
fn memory_bytes(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 8] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("k", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
    ];
    for (suffix, factor) in UNITS {
        if let Some(number) = text.strip_suffix(suffix) {
            return number.parse::<u64>().ok()?.checked_mul(factor);
        }
    }
    text.parse().ok()
}
