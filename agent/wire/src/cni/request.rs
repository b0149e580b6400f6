//! Environment and standard input of a plugin call, checked.

use super::{Failure, NetConf, VERSIONS, code};

/// What the runtime wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the specification")]
pub enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

/// A checked call. Fields that a command does not need are empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub command: Command,
    /// The sandbox.
    pub container_id: String,
    /// Path of the pod's namespace; may be empty for DEL.
    pub netns: String,
    /// The interface inside.
    pub ifname: String,
    /// Standard input.
    pub conf: NetConf,
}

/// IFNAMSIZ without the final zero.
const MAX_IFNAME: usize = 15;

impl Request {
    /// Reads `CNI_*` variables through `var` and the configuration from `stdin`.
    pub fn read(var: impl Fn(&str) -> Option<String>, stdin: &str) -> Result<Self, Failure> {
        let text = |name: &str| var(name).unwrap_or_default();
        let command = command(&text("CNI_COMMAND"))?;
        let conf = conf(stdin)?;
        let request = Self {
            command,
            container_id: text("CNI_CONTAINERID"),
            netns: text("CNI_NETNS"),
            ifname: text("CNI_IFNAME"),
            conf,
        };
        request
            .check()
            .map_err(|failure| failure.in_version(&request.conf.cni_version))?;
        Ok(request)
    }

    fn check(&self) -> Result<(), Failure> {
        if self.command != Command::Version && !VERSIONS.contains(&self.conf.cni_version.as_str()) {
            return Err(Failure::new(
                code::INCOMPATIBLE_VERSION,
                "incompatible CNI version",
                format!(
                    "config is version {:?}, the plugin speaks {}",
                    self.conf.cni_version,
                    VERSIONS.join(", ")
                ),
            ));
        }
        if matches!(self.command, Command::Add | Command::Del | Command::Check) {
            self.check_container_id()?;
            self.check_ifname()?;
        }
        if matches!(self.command, Command::Add | Command::Check) && self.netns.is_empty() {
            return Err(environment("CNI_NETNS is missing"));
        }
        Ok(())
    }

    /// The specification's pattern; it also keeps path separators out.
    fn check_container_id(&self) -> Result<(), Failure> {
        let id = self.container_id.as_bytes();
        let fine = id.first().is_some_and(u8::is_ascii_alphanumeric)
            && id
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(b));
        if fine {
            Ok(())
        } else {
            Err(environment(format!(
                "CNI_CONTAINERID {:?} is not a container id",
                self.container_id
            )))
        }
    }

    fn check_ifname(&self) -> Result<(), Failure> {
        let name = &self.ifname;
        let bad = name.is_empty()
            || name.len() > MAX_IFNAME
            || name == "."
            || name == ".."
            || name.contains(['/', ':'])
            || name.chars().any(|c| c.is_whitespace() || c.is_control());
        if bad {
            Err(environment(format!(
                "CNI_IFNAME {name:?} is not an interface name"
            )))
        } else {
            Ok(())
        }
    }
}

fn command(text: &str) -> Result<Command, Failure> {
    Ok(match text {
        "ADD" => Command::Add,
        "DEL" => Command::Del,
        "CHECK" => Command::Check,
        "GC" => Command::Gc,
        "STATUS" => Command::Status,
        "VERSION" => Command::Version,
        other => {
            return Err(environment(format!(
                "CNI_COMMAND {other:?} is not ADD, DEL, CHECK, GC, STATUS or VERSION"
            )));
        }
    })
}

fn conf(stdin: &str) -> Result<NetConf, Failure> {
    if stdin.trim().is_empty() {
        // VERSION may come without a document; the others fail on the empty version.
        return Ok(NetConf::default());
    }
    serde_json::from_str(stdin)
        .map_err(|e| Failure::new(code::DECODE, "cannot read the network configuration", e))
}

fn environment(details: impl ToString) -> Failure {
    Failure::new(code::INVALID_ENVIRONMENT, "invalid environment", details)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::{PortMapping, Protocol};
    use proptest::prelude::*;

    fn read(vars: &[(&str, &str)], stdin: &str) -> Result<Request, Failure> {
        Request::read(
            |name| {
                vars.iter()
                    .find(|(n, _)| *n == name)
                    .map(|(_, v)| (*v).to_owned())
            },
            stdin,
        )
    }

    const ADD: [(&str, &str); 4] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "a1"),
        ("CNI_NETNS", "/run/ns"),
        ("CNI_IFNAME", "eth0"),
    ];

    /// As containerd 2 sends it for a pod with two host ports.
    const STDIN: &str = r#"{"cniVersion":"1.1.0","name":"kedge","type":"kedge","capabilities":{"portMappings":true},
        "runtimeConfig":{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp","hostIP":""},
        {"HostPort":53,"ContainerPort":5353,"Protocol":"UDP","HostIP":"127.0.0.1"}]},"future":1}"#;

    #[test]
    fn containerds_call_is_understood() {
        let request = read(&ADD, STDIN).unwrap();
        assert_eq!(request.command, Command::Add);
        let ports = request.conf.runtime_config.port_mappings;
        assert_eq!(
            ports[1],
            PortMapping {
                host_port: 53,
                container_port: 5353,
                protocol: Protocol::Udp,
                host_ip: "127.0.0.1".into()
            }
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_the_code_of_the_specification() {
        let with = |name: &str, value: &'static str| -> Vec<(&str, &str)> {
            ADD.iter()
                .map(|(n, v)| if *n == name { (*n, value) } else { (*n, *v) })
                .collect()
        };
        for (name, value) in [
            ("CNI_COMMAND", "PLAY"),
            ("CNI_CONTAINERID", "../x"),
            ("CNI_CONTAINERID", ""),
            ("CNI_NETNS", ""),
            ("CNI_IFNAME", "a/b"),
            ("CNI_IFNAME", "sixteen-letters-"),
        ] {
            assert_eq!(
                read(&with(name, value), STDIN).unwrap_err().code,
                code::INVALID_ENVIRONMENT,
                "{name}={value}"
            );
        }
        assert_eq!(read(&ADD, "{").unwrap_err().code, code::DECODE);
        assert_eq!(
            read(&ADD, r#"{"cniVersion":"0.3.1"}"#).unwrap_err().code,
            code::INCOMPATIBLE_VERSION
        );
        assert_eq!(read(&ADD, "").unwrap_err().code, code::INCOMPATIBLE_VERSION);
        assert_eq!(
            read(&ADD, r#"{"name":"x"}"#).unwrap_err().code,
            code::INCOMPATIBLE_VERSION
        );
    }

    #[test]
    fn version_needs_nothing_and_deletion_no_namespace() {
        assert_eq!(
            read(&[("CNI_COMMAND", "VERSION")], "").unwrap().command,
            Command::Version
        );
        let vars = [
            ("CNI_COMMAND", "DEL"),
            ("CNI_CONTAINERID", "a1"),
            ("CNI_IFNAME", "eth0"),
        ];
        assert_eq!(read(&vars, STDIN).unwrap().netns, "");
    }

    proptest! {
        #[test]
        fn any_input_is_answered(stdin in ".{0,80}", id in ".{0,20}", ifname in ".{0,20}") {
            let vars = [("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", id.as_str()), ("CNI_NETNS", "/n"), ("CNI_IFNAME", ifname.as_str())];
            let _ = read(&vars, &stdin);
            let _ = read(&vars, STDIN);
        }
    }
}
