//! What two nodes' pages have apart for reasons that are no difference between the pages: reviewed tables, each entry with its reason.
//!
//! In: a sample. Out: whether it is left out of a comparison. The tables are said at the head of every comparison's output ([`head`]).
//! Absent: differences that are meant. Those are found first and stand in the reviewed list ([`super::allow`]).

use std::fmt::Write;

use super::truth;
use crate::exposition::Sample;

/// Rows of the node itself about what one machine has and the other has not.
pub struct Machine {
    pub label: &'static str,
    pub value: &'static str,
    pub reason: &'static str,
}

pub const MACHINES: &[Machine] = &[
    Machine {
        label: "device",
        value: "/dev/vdb",
        reason: "the seed volume: the twin's shell scripts keep it mounted, ours is read once",
    },
    Machine {
        label: "interface",
        value: "cni0",
        reason: "the bridge of upstream's CNI plugin: pods of ours have no bridge",
    },
];

/// Families whose rows say 0 on one page and are not there on the other: the same, for the reason.
pub const UNSEEN: &[(&str, &str)] = &[(
    "kubelet_running_containers",
    "upstream shows a state from the first container that was seen in it",
)];

/// Left out on both pages. Rows of pods never are: what is a machine's own cannot be in one.
pub fn of_one_machine(sample: &Sample) -> bool {
    let own = sample.label("namespace").is_empty();
    own && MACHINES
        .iter()
        .any(|one| sample.label(one.label) == one.value)
}

/// A row that the kernel makes only once the group has used the device: which groups have is up to the page cache. Those that the known load's
/// writing makes are compared on every run, and the load's are all checked against the kernel's file ([`truth`]).
pub fn of_the_page_cache(sample: &Sample, load: &str) -> bool {
    let (id, pod) = (sample.label("id"), sample.label("pod"));
    let above = matches!(id, "/" | "/kubepods" | "/kubepods/burstable");
    let in_sandbox = sample.label("container").is_empty() && is_container(id);
    let of_load = pod == load && !in_sandbox;
    truth::is_by_device(&sample.name) && !above && !of_load
}

/// The id of a container's group, not of a pod's.
fn is_container(id: &str) -> bool {
    let last = id.rsplit('/').next().unwrap_or_default();
    last.len() == 64 && last.chars().all(|c| c.is_ascii_hexdigit())
}

/// What the comparison does not say, for its reader.
pub fn head() -> String {
    let mut out = String::new();
    for Machine {
        label,
        value,
        reason,
    } in MACHINES
    {
        let _ = writeln!(out, "left out\t{label}={value:?} of the node\t{reason}");
    }
    for (family, reason) in UNSEEN {
        let _ = writeln!(out, "left out\tzeros of {family}\t{reason}");
    }
    let _ = writeln!(
        out,
        "left out\trows by device of pods that need not use it\tthe page cache decides; the load's are checked"
    );
    for (file, families) in truth::by_file() {
        let _ = writeln!(
            out,
            "checked\t{file} of each group of the load\t{}",
            families.join(" ")
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exposition::Page;

    fn sample(line: &str) -> Sample {
        Page::parse(line).unwrap().samples.remove(0)
    }

    #[test]
    fn only_what_one_machine_has_is_left_out() {
        for (line, expected) in [
            (
                "container_fs_usage_bytes{device=\"/dev/vdb\",id=\"/\"} 1",
                true,
            ),
            (
                "container_fs_usage_bytes{device=\"/dev/vdc\",id=\"/\"} 1",
                false,
            ),
            (
                "container_fs_usage_bytes{device=\"/dev/vdb1\",id=\"/\"} 1",
                false,
            ),
            (
                "container_network_receive_bytes_total{id=\"/\",interface=\"cni0\"} 1",
                true,
            ),
            (
                "container_network_receive_bytes_total{id=\"/\",interface=\"eth0\"} 1",
                false,
            ),
            ("x{name=\"cni0\"} 1", false),
            (
                "x{device=\"/dev/vdb\",namespace=\"n\",pod=\"load\"} 1",
                false,
            ),
        ] {
            assert_eq!(of_one_machine(&sample(line)), expected, "{line}");
        }
        assert_eq!(MACHINES.len(), 2);
    }

    #[test]
    fn rows_that_the_page_cache_decides_are_those_by_device_that_the_load_does_not_make() {
        let id = "1".repeat(64);
        let of = |family: &str, id: &str, more: &str| {
            let line = format!("{family}{{device=\"/dev/vda\",id=\"{id}\"{more}}} 1");
            of_the_page_cache(&sample(&line), "load")
        };
        let (reads, pod) = ("container_fs_reads_total", "/kubepods/burstable/poda");
        let (load, main) = (",pod=\"load\"", ",container=\"main\",pod=\"load\"");
        let below = format!("{pod}/{id}");
        assert!(!of(reads, "/", ""));
        assert!(!of(reads, "/kubepods", ""));
        assert!(!of(reads, "/kubepods/burstable", ""));
        assert!(of(reads, "/kubepods/besteffort", ""));
        assert!(!of(reads, pod, load));
        assert!(!of(reads, &below, main));
        assert!(of(reads, &below, load), "the sandbox");
        assert!(of(reads, pod, ",pod=\"plain\""));
        assert!(!of("container_fs_usage_bytes", pod, ",pod=\"plain\""));
    }

    #[test]
    fn the_head_names_everything_that_is_not_compared() {
        expect_test::expect![[r#"
            left out	device="/dev/vdb" of the node	the seed volume: the twin's shell scripts keep it mounted, ours is read once
            left out	interface="cni0" of the node	the bridge of upstream's CNI plugin: pods of ours have no bridge
            left out	zeros of kubelet_running_containers	upstream shows a state from the first container that was seen in it
            left out	rows by device of pods that need not use it	the page cache decides; the load's are checked
            checked	cpu.pressure of each group of the load	container_pressure_cpu_stalled_seconds_total container_pressure_cpu_waiting_seconds_total
            checked	cpu.stat of each group of the load	container_cpu_cfs_periods_total container_cpu_cfs_throttled_periods_total container_cpu_cfs_throttled_seconds_total container_cpu_system_seconds_total container_cpu_user_seconds_total
            checked	io.pressure of each group of the load	container_pressure_io_stalled_seconds_total container_pressure_io_waiting_seconds_total
            checked	io.stat of each group of the load	container_blkio_device_usage_total container_fs_reads_bytes_total container_fs_reads_total container_fs_writes_total
            checked	memory.peak of each group of the load	container_memory_max_usage_bytes
            checked	memory.pressure of each group of the load	container_pressure_memory_stalled_seconds_total container_pressure_memory_waiting_seconds_total
            checked	memory.stat of each group of the load	container_memory_failures_total
            checked	net/dev of each group of the load	container_network_receive_packets_total container_network_transmit_packets_total
        "#]].assert_eq(&head());
    }
}
