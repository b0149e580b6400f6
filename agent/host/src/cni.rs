//! The CNI plugin: what containerd starts as `/opt/cni/bin/kedge` for every sandbox.
//!
//! In: `CNI_*` variables, the configuration on standard input, `/run/kedge/podnet.json`. Out: links, routes and host ports in the
//! kernel, one file for each address in `/run/kedge/cni/`, JSON on standard output, an exit code.
//! Absent: tokio, the API and the running agent: pods start and end while it is dead. One lock file makes calls take turns; a call
//! that was killed half-way is undone by the DEL or GC that follows.

use std::path::PathBuf;

use kedge_machine::paths;
use kedge_podnet::{Allocation, PodNetwork, free_address, host_ports, link};
use kedge_wire::cni::{self, Attachment, Command, Failure, Request, Success, Versions, code};

mod kernel;
mod store;
#[cfg(test)]
mod tests;

use kernel::Kernel;
use store::Store;

/// Where the plugin finds and keeps things.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The agent's document.
    pub podnet: PathBuf,
    /// The lock and the allocations.
    pub allocations: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            podnet: paths::RUN_PODNET.into(),
            allocations: paths::RUN_CNI.into(),
        }
    }
}

/// What the process says and how it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// For standard output; empty when the command has no answer.
    pub stdout: String,
    /// 0 or 1.
    pub exit_code: u8,
}

/// Whether this process was started by a CNI runtime.
pub fn is_plugin_call() -> bool {
    std::env::var_os("CNI_COMMAND").is_some()
}

/// The plugin's `main`: reads environment and standard input, writes standard output.
pub fn main() -> std::process::ExitCode {
    use std::io::{Read, Write};
    let mut stdin = String::new();
    let outcome = match std::io::stdin().take(MAX_INPUT).read_to_string(&mut stdin) {
        Ok(_) => run(|name| std::env::var(name).ok(), &stdin, &Paths::default()),
        Err(error) => failed(&Failure::new(
            code::DECODE,
            "cannot read standard input",
            error,
        )),
    };
    let mut stdout = std::io::stdout();
    let written = stdout
        .write_all(outcome.stdout.as_bytes())
        .and_then(|()| stdout.flush());
    if written.is_ok() {
        outcome.exit_code.into()
    } else {
        std::process::ExitCode::FAILURE
    }
}

/// A configuration is a few hundred octets; its `prevResult` a few thousand.
const MAX_INPUT: u64 = 1 << 20;

/// One call.
pub fn run(var: impl Fn(&str) -> Option<String>, stdin: &str, paths: &Paths) -> Outcome {
    let answer = Request::read(var, stdin).and_then(|request| {
        let version = request.conf.cni_version.clone();
        Plugin {
            paths,
            request: &request,
        }
        .call()
        .map_err(|failure| failure.in_version(&version))
    });
    match answer {
        Ok(stdout) => Outcome {
            stdout,
            exit_code: 0,
        },
        Err(failure) => failed(&failure),
    }
}

fn failed(failure: &Failure) -> Outcome {
    Outcome {
        stdout: json(failure),
        exit_code: 1,
    }
}

/// Documents of strings and numbers always have a JSON form.
fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn io(msg: &str) -> impl Fn(kedge_sys::Error) -> Failure {
    move |error| Failure::new(code::IO, msg, error)
}

struct Plugin<'a> {
    paths: &'a Paths,
    request: &'a Request,
}

impl Plugin<'_> {
    fn call(&self) -> Result<String, Failure> {
        match self.request.command {
            Command::Add => self.add().map(|success| json(&success)),
            Command::Del => self.del().map(|()| String::new()),
            Command::Check => self.check().map(|()| String::new()),
            Command::Gc => self.gc().map(|()| String::new()),
            Command::Status => self.network().map(|_| String::new()),
            Command::Version => Ok(json(&self.versions())),
        }
    }

    fn versions(&self) -> Versions {
        let asked = &self.request.conf.cni_version;
        let version = if asked.is_empty() { cni::LATEST } else { asked };
        Versions {
            cni_version: version.to_owned(),
            supported_versions: cni::VERSIONS.to_vec(),
        }
    }

    fn attachment(&self) -> Attachment {
        Attachment {
            container_id: self.request.container_id.clone(),
            ifname: self.request.ifname.clone(),
        }
    }

    /// The agent's document; without a pod range no pod can start, and the runtime is told so.
    fn network(&self) -> Result<PodNetwork, Failure> {
        let unavailable =
            |why: String| Failure::new(code::NOT_AVAILABLE, "the pod network is not ready", why);
        let path = &self.paths.podnet;
        let text = std::fs::read_to_string(path)
            .map_err(|e| unavailable(format!("read {}: {e}; the agent writes it when the cluster has given this node a pod range", path.display())))?;
        let network: PodNetwork = serde_json::from_str(&text)
            .map_err(|e| unavailable(format!("understand {}: {e}", path.display())))?;
        if network.pod_ranges.is_empty() {
            return Err(unavailable(
                "the cluster has given this node no pod range yet (node.spec.podCIDR)".into(),
            ));
        }
        Ok(network)
    }

    fn add(&self) -> Result<Success, Failure> {
        let network = self.network()?;
        let store =
            Store::open(&self.paths.allocations).map_err(io("cannot use the address store"))?;
        let mut kernel = Kernel::open().map_err(io("cannot reach the kernel"))?;
        let others = self.without_leftover(&store, &mut kernel)?;
        let allocation = self.allocate(&network, &store, &others)?;
        store
            .write(&allocation)
            .map_err(io("cannot store the address"))?;
        let made = kernel
            .connect(&allocation, &self.request.netns, &network)
            .and_then(|()| kernel.sync_host_ports(&store.read()?, &allocation));
        if let Err(error) = made {
            // The first error matters; what cannot be undone now, DEL undoes.
            let _ = self.undo(&store, &mut kernel, &allocation);
            return Err(Failure::new(code::IO, "cannot connect the pod", error));
        }
        Ok(self.success(&allocation, network.mtu))
    }

    /// All allocations but one of the same attachment, which a killed ADD left: its runtime would have sent DEL before asking again.
    fn without_leftover(
        &self,
        store: &Store,
        kernel: &mut Kernel,
    ) -> Result<Vec<Allocation>, Failure> {
        let all = store.read().map_err(io("cannot read the address store"))?;
        let (same, others): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|a| a.attachment == self.attachment());
        for leftover in &same {
            self.undo(store, kernel, leftover)
                .map_err(io("cannot clear what an interrupted call left"))?;
        }
        Ok(others)
    }

    fn allocate(
        &self,
        network: &PodNetwork,
        store: &Store,
        others: &[Allocation],
    ) -> Result<Allocation, Failure> {
        let ports = host_ports(&self.request.conf.runtime_config.port_mappings, others).map_err(
            |error| {
                let code = match error {
                    kedge_podnet::PortError::Taken { .. } => code::PORT_TAKEN,
                    _ => code::UNSUPPORTED_FIELD,
                };
                Failure::new(code, "cannot give the pod its host ports", error)
            },
        )?;
        let taken = others.iter().map(|a| a.address).collect();
        let address = free_address(&network.pod_ranges, &taken, store.last()).ok_or_else(|| {
            let ranges: Vec<String> = network.pod_ranges.iter().map(ToString::to_string).collect();
            Failure::new(
                code::NO_ADDRESS,
                "no free pod address",
                format!("all of {} are in use", ranges.join(", ")),
            )
        })?;
        let attachment = self.attachment();
        Ok(Allocation {
            address,
            veth: link::veth_name(&attachment),
            attachment,
            ports,
        })
    }

    fn success(&self, allocation: &Allocation, mtu: u32) -> Success {
        let version = &self.request.conf.cni_version;
        let mtu = (version == "1.1.0").then_some(mtu);
        let interface = |name: &str, mac, sandbox: &str| cni::Interface {
            name: name.to_owned(),
            mac,
            mtu,
            sandbox: sandbox.to_owned(),
        };
        let default = link::default_route(0).destination;
        Success {
            cni_version: version.clone(),
            interfaces: vec![
                interface(&allocation.veth, link::HOST_MAC, ""),
                interface(
                    &allocation.attachment.ifname,
                    link::pod_mac(allocation.address),
                    &self.request.netns,
                ),
            ],
            ips: vec![cni::Ip {
                version: version.starts_with("0.").then(|| "4".to_owned()),
                address: kedge_wire::net::Ipv4Net::host(allocation.address),
                gateway: link::GATEWAY,
                interface: 1,
            }],
            routes: vec![cni::Route {
                dst: default,
                gw: link::GATEWAY,
            }],
            dns: cni::Dns {},
        }
    }

    fn del(&self) -> Result<(), Failure> {
        let store =
            Store::open(&self.paths.allocations).map_err(io("cannot use the address store"))?;
        let mut kernel = Kernel::open().map_err(io("cannot reach the kernel"))?;
        let attachment = self.attachment();
        let all = store.read().map_err(io("cannot read the address store"))?;
        for allocation in all.iter().filter(|a| a.attachment == attachment) {
            self.undo(&store, &mut kernel, allocation)
                .map_err(io("cannot disconnect the pod"))?;
        }
        // Also when nothing is stored: a link may be left of a call killed before it wrote anything else.
        kernel
            .delete_link(&link::veth_name(&attachment))
            .map_err(io("cannot disconnect the pod"))
    }

    /// The file goes last: as long as it is there, the address is not given to another pod.
    fn undo(
        &self,
        store: &Store,
        kernel: &mut Kernel,
        allocation: &Allocation,
    ) -> kedge_sys::Result<()> {
        kernel.delete_link(&allocation.veth)?;
        if !allocation.ports.is_empty() {
            let mut rest = store.read()?;
            rest.retain(|a| a.address != allocation.address);
            kernel.sync_host_ports(&rest, allocation)?;
        }
        store.remove(allocation.address)
    }

    fn check(&self) -> Result<(), Failure> {
        let store =
            Store::open(&self.paths.allocations).map_err(io("cannot use the address store"))?;
        let all = store.read().map_err(io("cannot read the address store"))?;
        let attachment = self.attachment();
        let allocation = all
            .iter()
            .find(|a| a.attachment == attachment)
            .ok_or_else(|| {
                Failure::new(
                    code::UNKNOWN_CONTAINER,
                    "unknown container",
                    &attachment.container_id,
                )
            })?;
        let mut kernel = Kernel::open().map_err(io("cannot reach the kernel"))?;
        match kernel
            .verify(allocation, &self.request.netns, &all)
            .map_err(io("cannot inspect the pod's network"))?
        {
            None => Ok(()),
            Some(difference) => Err(Failure::new(
                code::BROKEN,
                "the pod's network is not as it was made",
                difference,
            )),
        }
    }

    fn gc(&self) -> Result<(), Failure> {
        let conf = &self.request.conf;
        let valid = conf
            .valid_attachments
            .as_ref()
            .or(conf.attachments.as_ref())
            .ok_or_else(|| {
                Failure::new(
                    code::INVALID_CONFIG,
                    "GC without a list",
                    "cni.dev/valid-attachments is missing: nothing is deleted",
                )
            })?;
        let store =
            Store::open(&self.paths.allocations).map_err(io("cannot use the address store"))?;
        let mut kernel = Kernel::open().map_err(io("cannot reach the kernel"))?;
        let all = store.read().map_err(io("cannot read the address store"))?;
        let mut first_error = None;
        // Teardown collects errors and goes on.
        for stale in all.iter().filter(|a| !valid.contains(&a.attachment)) {
            if let Err(error) = self.undo(&store, &mut kernel, stale) {
                first_error.get_or_insert(error);
            }
        }
        first_error.map_or(Ok(()), |error| {
            Err(Failure::new(
                code::IO,
                "cannot clear every stale pod",
                error,
            ))
        })
    }
}
