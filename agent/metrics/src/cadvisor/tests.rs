use std::collections::BTreeSet;

use super::*;
use crate::cgroup::Depth;
use crate::disk::Mount;
use crate::expo::{Format, whole};
use crate::sample::{Filesystem, Sampler, Stamp};
use crate::testing::{node, subjects};

fn page(format: Format) -> String {
    let tree = node();
    let mut sampler = Sampler::new(tree.root());
    let now = Stamp {
        mono_ns: 1,
        wall_ms: 1_800_000_000_123,
    };
    let mut generation = sampler.begin(Depth::Full, now);
    for subject in subjects() {
        sampler.sample(&mut generation, &subject, now);
    }
    let filesystem = |major, minor, path: &str, device: &str| Filesystem {
        mount: Mount {
            major,
            minor,
            path: path.into(),
            device: device.into(),
        },
        total: 1000,
        free: 400,
        available: 350,
        inodes: 64,
        inodes_free: 60,
    };
    generation.filesystems = vec![
        filesystem(254, 0, "/data", "/dev/vda"),
        filesystem(0, 30, "/run", "/run"),
    ];
    let _ = sampler.end(&mut generation);
    for row in &mut generation.rows {
        // Of the directories of this test, not of a kernel.
        row.since = row.since.map(|_| 1_790_000_000);
    }
    let machine = Machine {
        cpus: 2,
        cores: 2,
        sockets: 1,
        memory_bytes: 514_457_600,
        machine_id: "m1".into(),
        boot_id: "b1".into(),
        system_uuid: "s1".into(),
        kernel: "6.12.1".into(),
        os_image: "Kedge 0.1.0".into(),
        ..Machine::default()
    };
    let source = Cadvisor::new(Arc::new(generation), Arc::new(machine), "0.1.0".into());
    String::from_utf8(whole(source, format)).unwrap()
}

#[test]
fn the_page_of_a_small_node_is_as_dashboards_expect() {
    expect_test::expect_file!["tests/page.txt"].assert_eq(&page(Format::Text));
}

#[test]
fn openmetrics_ends_with_its_mark() {
    let page = page(Format::OpenMetrics);
    assert!(page.ends_with("# EOF\n"));
    assert!(page.contains("# TYPE container_cpu_usage_seconds counter\n"));
    assert!(page.contains("} 2.5 1800000000.123\n"));
}

#[test]
fn no_series_is_written_twice_and_families_are_together() {
    let page = page(Format::Text);
    let (mut series, mut families) = (BTreeSet::new(), BTreeSet::new());
    let mut current = "";
    for line in page.lines() {
        if let Some(head) = line.strip_prefix("# TYPE ") {
            current = head.split(' ').next().unwrap();
            assert!(families.insert(current), "{current} twice");
        } else if !line.starts_with('#') {
            let end = line
                .rfind('}')
                .map_or_else(|| line.find(' ').unwrap(), |at| at + 1);
            let name = line.split(['{', ' ']).next().unwrap();
            assert_eq!(name, current);
            assert!(series.insert(&line[..end]), "{line}");
        }
    }
}

#[test]
fn the_table_is_sorted() {
    assert!(FAMILIES.is_sorted_by_key(|f| f.name));
}

#[test]
fn every_family_of_the_fact_sheet_is_in_the_table() {
    let names = "last_seen start_time_seconds health_state spec_cpu_period spec_cpu_quota spec_cpu_shares spec_memory_limit_bytes \
        spec_memory_swap_limit_bytes spec_memory_reservation_limit_bytes cpu_usage_seconds_total cpu_user_seconds_total \
        cpu_system_seconds_total cpu_cfs_periods_total cpu_cfs_throttled_periods_total cpu_cfs_throttled_seconds_total \
        cpu_cfs_burst_periods_total cpu_cfs_burst_seconds_total memory_cache memory_rss memory_swap \
        memory_mapped_file memory_kernel_usage memory_failcnt memory_usage_bytes memory_max_usage_bytes memory_working_set_bytes \
        memory_total_active_file_bytes memory_total_inactive_file_bytes memory_failures_total oom_events_total fs_inodes_free \
        fs_inodes_total fs_limit_bytes fs_usage_bytes fs_reads_bytes_total fs_reads_total fs_reads_merged_total fs_writes_bytes_total \
        fs_writes_total fs_writes_merged_total fs_sector_reads_total fs_sector_writes_total fs_read_seconds_total fs_write_seconds_total \
        fs_io_current fs_io_time_seconds_total fs_io_time_weighted_seconds_total blkio_device_usage_total network_receive_bytes_total \
        network_transmit_bytes_total network_receive_packets_total network_transmit_packets_total network_receive_packets_dropped_total \
        network_transmit_packets_dropped_total network_receive_errors_total network_transmit_errors_total processes file_descriptors \
        sockets threads threads_max ulimits_soft pressure_cpu_stalled_seconds_total pressure_cpu_waiting_seconds_total \
        pressure_memory_stalled_seconds_total pressure_memory_waiting_seconds_total pressure_io_stalled_seconds_total \
        pressure_io_waiting_seconds_total";
    for name in names.split_whitespace() {
        let name = format!("container_{name}");
        assert!(FAMILIES.iter().any(|f| f.name == name), "{name}");
    }
}
