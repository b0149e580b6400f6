//! What callers may ask of the supervisor: one JSON line in, one JSON line out. Types only.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::qemu::Vm;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Request {
    Status,
    /// This connection keeps the cluster alive: when it ends without [`Request::Detach`], the cluster ends.
    Hold,
    Detach,
    Stop,
    /// Runs a command inside the namespace.
    Exec {
        argv: Vec<String>,
        stdin: String,
        timeout_ms: u64,
    },
    /// Runs a long program inside the namespace, its output appended to a file. It is killed when this connection ends.
    Run {
        argv: Vec<String>,
        env: Vec<(String, String)>,
        log: PathBuf,
    },
    /// From now on the registry serves these layouts beside the first ones; a name that both hold is taken from here.
    Images {
        layouts: Vec<PathBuf>,
    },
    /// Connects from inside the namespace, sends, reads to the end (TCP) or one datagram (UDP).
    Dial {
        address: String,
        payload: String,
        udp: bool,
        timeout_ms: u64,
    },
    /// An HTTPS GET from inside the namespace, without credentials, to a server that the cluster CA vouches for.
    Https {
        address: std::net::SocketAddr,
        path: String,
    },
    /// Adds a machine and powers it on.
    Launch {
        vm: Vm,
    },
    /// Removes a machine, running or not.
    Remove {
        name: String,
    },
    Machine {
        name: String,
        action: Action,
    },
    /// The address a machine gets from DHCP from now on.
    Lease {
        index: u8,
        address: Ipv4Addr,
    },
    /// Whether a machine's SNTP requests are answered.
    Time {
        address: Ipv4Addr,
        answer: bool,
    },
    /// Stops or starts a program of the control plane, with extra flags.
    StopProgram {
        name: String,
    },
    StartProgram {
        name: String,
        extra: Vec<String>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// SIGKILL: the plug is pulled.
    PowerCut,
    PowerOn,
    /// The ACPI power button.
    PowerButton,
    /// The reset button.
    Reset,
    CableOut,
    CableIn,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    Ok(Value),
    Error(String),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    pub programs: Vec<String>,
    pub machines: Vec<MachineStatus>,
    pub events: Vec<String>,
    /// Pod ranges routed to nodes.
    pub routes: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MachineStatus {
    pub name: String,
    pub index: u8,
    pub running: bool,
    pub address: Option<Ipv4Addr>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExecResult {
    /// -1 when it was killed by a signal or by the timeout.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}
