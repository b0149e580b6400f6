//! Families without rows: what the machine is, what writes them, whether anything failed.

use crate::Machine;
use crate::expo::{Kind, Value, Writer, labels};
use crate::sample::Generation;

pub(super) fn version(to: &mut Writer, machine: &Machine) {
    to.family(
        "cadvisor_version_info",
        Kind::Gauge,
        "Always 1. The labels tell the kernel and the system; those of programs that are not here are empty.",
    );
    let more = [
        ("cadvisorRevision", ""),
        ("cadvisorVersion", ""),
        ("dockerVersion", ""),
        ("kernelVersion", machine.kernel.as_str()),
        ("osVersion", machine.os_image.as_str()),
    ];
    to.sample("", &more, Value::Int(1), None);
}

pub(super) fn write(to: &mut Writer, machine: &Machine, generation: &Generation) {
    to.family(
        "container_scrape_error",
        Kind::Gauge,
        "1 when a file behind this page could not be read or understood, else 0.",
    );
    to.sample("", &[], Value::Int(u64::from(generation.failed)), None);
    let mut common = Vec::new();
    let ids = [
        ("boot_id", machine.boot_id.as_str()),
        ("machine_id", machine.machine_id.as_str()),
        ("system_uuid", machine.system_uuid.as_str()),
    ];
    labels(&mut common, &ids);
    let common = String::from_utf8_lossy(&common);
    let at = Some(generation.at.wall_ms);
    let mut one = |name, help, value: u64| {
        to.family(name, Kind::Gauge, help);
        to.sample(&common, &[], Value::Int(value), at);
    };
    // Books and drawers exist on s390 mainframes.
    one(
        "machine_cpu_books",
        "Processor books, a level above sockets that mainframes have.",
        0,
    );
    one(
        "machine_cpu_cores",
        "Logical processors that are online.",
        u64::from(machine.cpus),
    );
    one(
        "machine_cpu_drawers",
        "Processor drawers, a level above books that mainframes have.",
        0,
    );
    one(
        "machine_cpu_physical_cores",
        "Processor cores, each with one or more logical processors.",
        u64::from(machine.cores),
    );
    one(
        "machine_cpu_sockets",
        "Processor packages: what sits in a socket of the board.",
        u64::from(machine.sockets),
    );
    one(
        "machine_memory_bytes",
        "Memory that the kernel manages, in bytes.",
        machine.memory_bytes,
    );
    one(
        "machine_swap_bytes",
        "Swap space, used and free, in bytes.",
        generation.memory.swap_total,
    );
    one(
        "machine_nvm_avg_power_budget_watts",
        "Average power budget of non-volatile memory; 0, for this node looks for none.",
        0,
    );
    to.family(
        "machine_nvm_capacity",
        Kind::Gauge,
        "Capacity of non-volatile memory by mode; 0, for this node looks for none.",
    );
    for mode in ["app_direct_mode", "memory_mode"] {
        to.sample(&common, &[("mode", mode)], Value::Int(0), at);
    }
    to.family(
        "machine_scrape_error",
        Kind::Gauge,
        "1 when the machine's facts could not be read, else 0.",
    );
    to.sample("", &[], Value::Int(u64::from(machine.cpus == 0)), None);
}
