//! The agent: one static binary. Composition root: builds the parts, connects their channels, decides nothing.
//!
//! ```text
//! kedge agent          the node agent, started by kedge-init
//! kedge --version
//! CNI_COMMAND=… kedge  the CNI plugin, started by the container runtime
//! ```

mod agent;
mod bridge;
mod certificate;
mod cluster;
mod control;
mod facts;
mod follow;
mod identity;
mod name;
mod pem;
mod ports;
mod readings;
mod registries;
mod seed;
mod served;
mod settings;
mod stats;
mod tell;

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before any thread: the plugin enters the pod's namespace with its only one.
    if kedge_host::cni::is_plugin_call() {
        return kedge_host::cni::main();
    }
    match std::env::args().nth(1).as_deref() {
        Some("agent") => agent::main(),
        Some("--version" | "version") => {
            println!(
                "kedge {} ({})",
                env!("CARGO_PKG_VERSION"),
                facts::KUBELET_VERSION
            );
            ExitCode::SUCCESS
        }
        other => {
            if let Some(word) = other.filter(|w| !["--help", "-h", "help"].contains(w)) {
                eprintln!("kedge: `{word}` is no command");
            }
            eprintln!(
                "usage: kedge agent | kedge --version\nAs a CNI plugin it takes its command from CNI_COMMAND."
            );
            ExitCode::from(if other.is_some_and(|w| w.contains("help") || w == "-h") {
                0
            } else {
                2
            })
        }
    }
}

/// The wall clock, for dates that are reported or judged.
fn wall() -> jiff::Timestamp {
    let seconds = kedge_sys::time::now().wall.as_secs();
    i64::try_from(seconds)
        .ok()
        .and_then(|s| jiff::Timestamp::from_second(s).ok())
        .unwrap_or(jiff::Timestamp::MAX)
}
