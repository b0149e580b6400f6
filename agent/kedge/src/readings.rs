//! What is read of the machine every ten seconds. Thin: files and one `statvfs`.

use std::path::Path;

use kedge_machine::paths;
use kedge_metrics::{Machine, Root};
use serde::Deserialize;

use crate::facts::Readings;

#[derive(Default, Deserialize)]
struct BootReport {
    #[serde(default)]
    faults: Vec<BootFault>,
}

#[derive(Deserialize)]
struct BootFault {
    code: String,
    message: String,
}

/// What does not change while the machine runs.
pub fn machine(root: &Root) -> Machine {
    kedge_metrics::machine(root).unwrap_or_else(|error| {
        tracing::error!(%error, "facts about this machine are missing");
        Machine::default()
    })
}

/// Faults that init found at boot.
pub fn boot_faults(path: &Path) -> Vec<(String, String)> {
    let report: BootReport = match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            tracing::warn!(%error, path = %path.display(), "init's report cannot be read");
            BootReport::default()
        }),
        // Not started by init: there is no report.
        Err(_) => BootReport::default(),
    };
    report
        .faults
        .into_iter()
        .map(|f| (f.code, f.message))
        .collect()
}

/// Now. Blocks on `statvfs` of DATA, which is local.
pub fn read(root: &Root, machine: &Machine, boot_faults: &[(String, String)]) -> Readings {
    let data = kedge_sys::fs::usage(Path::new(paths::KUBELET))
        .or_else(|_| kedge_sys::fs::usage(Path::new(paths::DATA)))
        .map(|u| (u.total, u.available))
        .map_err(|error| tracing::warn!(%error, "the size of DATA is unknown"));
    let memory_available = match kedge_metrics::memory(root) {
        Ok(memory) => memory.available,
        Err(error) => {
            tracing::warn!(%error, "available memory is unknown");
            u64::MAX
        }
    };
    Readings {
        machine: machine.clone(),
        memory_available,
        data: data.ok(),
        boot_faults: boot_faults.to_vec(),
    }
}
