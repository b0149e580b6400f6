//! Golden tests over the recorded trees: what each kernel's files become on the pages.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::cadvisor::Cadvisor;
use crate::expo::{Format, whole};
use crate::resource::Resource;
use crate::sample::Generation;
use crate::summary::{Extras, Summary};
use crate::testing::Tree;
use crate::testing::page::{Line, pretty, samples};
use crate::testing::recorded::{POD, TREES, WEB, files, generation, names, subjects, tree};

fn page(tree: &Tree, generation: Generation) -> Vec<Line> {
    let machine = crate::machine(&tree.root()).unwrap();
    let source = Cadvisor::new(Arc::new(generation), Arc::new(machine));
    samples(&whole(source, Format::Text))
}

/// A page without what is the same in every line: rows by their last name, labels of their own, no time.
fn short(lines: &[Line]) -> String {
    let row = |id: &str| match subjects().iter().find(|s| s.cgroup == id) {
        Some(s) if !s.container.is_empty() => s.container.clone(),
        Some(s) if !s.name.is_empty() => "sandbox".to_owned(),
        Some(s) if !s.pod.is_empty() => "pod".to_owned(),
        _ => id.to_owned(),
    };
    let mut out = String::new();
    for line in lines {
        let mut label = String::new();
        for (name, value) in &line.labels {
            match name.as_str() {
                "id" => label.insert_str(0, &format!(" {}", row(value))),
                "container" | "image" | "name" | "namespace" | "pod" => {}
                _ => label += &format!(" {name}={value}"),
            }
        }
        out += &format!("{}{label}: {}\n", line.name, line.value);
    }
    out
}

#[test]
fn every_recorded_file_is_understood() {
    for (name, text) in TREES {
        let (generation, errors) = generation(&tree(text));
        assert_eq!(errors, Vec::<String>::new(), "{name}");
        assert_eq!(generation.rows.len(), subjects().len(), "{name}");
        assert!(!generation.failed);
    }
}

#[test]
fn the_cadvisor_page_of_each_kernel() {
    for (name, text) in TREES {
        let tree = tree(text);
        let (generation, _) = generation(&tree);
        let golden = format!("testdata/{name}.cadvisor.txt");
        golden_file(&golden).assert_eq(&short(&page(&tree, generation)));
    }
}

#[test]
fn the_summary_and_the_resource_page_of_each_kernel() {
    for (name, text) in TREES {
        let (generation, _) = generation(&tree(text));
        let generation = Arc::new(generation);
        let extras = Extras {
            node: "edge-7".to_owned(),
            ..Extras::default()
        };
        let summary = whole(Summary::new(generation.clone(), None, extras), Format::Text);
        let resource = whole(Resource::new(generation), Format::Text);
        let text = pretty(&summary) + &short(&samples(&resource));
        golden_file(&format!("testdata/{name}.summary.txt")).assert_eq(&text);
    }
}

fn golden_file(path: &str) -> expect_test::ExpectFile {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    expect_test::expect_file![file.join(path)]
}

/// The families that have a series of this row.
fn families(lines: &[Line], id: &str) -> BTreeSet<String> {
    let of_row = |line: &&Line| line.labels.iter().any(|(n, v)| n == "id" && v == id);
    lines
        .iter()
        .filter(of_row)
        .map(|line| line.name.clone())
        .collect()
}

fn web() -> String {
    format!("{POD}/{WEB}")
}

/// Which families a container loses with a file of its group. What the kernel does not tell is absent on the page, never 0.
const COSTS: [(&str, &str); 17] = [
    ("cpu.weight", "spec_cpu_shares"),
    (
        "cpu.max",
        "spec_cpu_period spec_cpu_quota cpu_cfs_burst_periods_total cpu_cfs_burst_seconds_total cpu_cfs_periods_total \
         cpu_cfs_throttled_periods_total cpu_cfs_throttled_seconds_total",
    ),
    (
        "cpu.pressure",
        "pressure_cpu_stalled_seconds_total pressure_cpu_waiting_seconds_total",
    ),
    (
        "memory.pressure",
        "pressure_memory_stalled_seconds_total pressure_memory_waiting_seconds_total",
    ),
    (
        "io.pressure",
        "pressure_io_stalled_seconds_total pressure_io_waiting_seconds_total",
    ),
    (
        "memory.stat",
        "memory_cache memory_events_high_total memory_events_max_total memory_failcnt memory_failures_total memory_file_dirty_bytes \
         memory_file_writeback_bytes memory_kernel_usage memory_mapped_file memory_max_usage_bytes memory_pgscan_total \
         memory_pgsteal_total memory_rss memory_swap memory_total_active_file_bytes memory_total_inactive_file_bytes \
         memory_usage_bytes memory_working_set_bytes memory_workingset_refault_anon_total memory_workingset_refault_file_total \
         oom_events_total",
    ),
    ("memory.peak", "memory_max_usage_bytes"),
    (
        "memory.events",
        "memory_events_high_total memory_events_max_total memory_failcnt oom_events_total",
    ),
    ("memory.max", "spec_memory_limit_bytes"),
    ("memory.min", "spec_memory_reservation_limit_bytes"),
    ("memory.swap.max", "spec_memory_swap_limit_bytes"),
    // No swap accounting: upstream and we say that there is no swap in use.
    ("memory.swap.current", ""),
    // The sum of its parts stands in, as it does for the root group.
    ("memory.current", ""),
    (
        "io.stat",
        "blkio_device_usage_total fs_io_cost_usage_seconds_total fs_reads_bytes_total fs_reads_total fs_writes_bytes_total \
         fs_writes_total",
    ),
    ("pids.current", "threads"),
    ("pids.max", "threads_max"),
    (
        "cgroup.procs",
        "processes file_descriptors sockets ulimits_soft",
    ),
];

#[test]
fn a_file_that_a_kernel_lacks_costs_its_own_families_and_no_others() {
    let text = TREES[1].1;
    let tree = tree(text);
    let whole = families(&page(&tree, generation(&tree).0), &web());
    for (file, costs) in COSTS {
        let path = tree.path(&format!("sys/fs/cgroup{}/{file}", web()));
        let content = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let (generation, errors) = generation(&tree);
        assert_eq!(errors, Vec::<String>::new(), "{file}");
        let left = families(&page(&tree, generation), &web());
        let lost: Vec<&str> = whole.difference(&left).map(String::as_str).collect();
        let mut expected: Vec<String> = costs
            .split_whitespace()
            .map(|name| format!("container_{name}"))
            .collect();
        expected.sort();
        assert_eq!(lost, expected, "{file}");
        std::fs::write(path, content).unwrap();
    }
}

#[test]
fn without_memory_controller_and_pressure_their_families_are_absent() {
    let bare = TREES.iter().find(|(name, _)| *name == "6.12-bare").unwrap();
    let tree = tree(bare.1);
    let lines = page(&tree, generation(&tree).0);
    for id in ["/", POD, &web()] {
        let found = families(&lines, id);
        let of_memory = |name: &&String| {
            let kinds = ["container_memory_", "container_pressure_", "container_oom_"];
            kinds.iter().any(|kind| name.starts_with(kind))
        };
        let left: Vec<&String> = found.iter().filter(of_memory).collect();
        // How much swap the node uses is in meminfo, whatever the controllers.
        let expected: &[&str] = if id == "/" {
            &["container_memory_swap"]
        } else {
            &[]
        };
        assert_eq!(left, expected, "{id}");
        assert!(found.contains("container_cpu_usage_seconds_total"));
        assert!(found.contains("container_threads"), "{id}");
    }
    // The node's own limits are the machine's, which it has without a controller.
    assert!(families(&lines, "/").contains("container_spec_memory_limit_bytes"));
    assert!(!families(&lines, &web()).contains("container_spec_memory_limit_bytes"));
}

#[test]
fn the_load_that_was_recorded_is_on_the_page() {
    let value = |lines: &[Line], name: &str, id: &str, more: &[(&str, &str)]| -> f64 {
        let has =
            |line: &Line, (n, v): (&str, &str)| line.labels.iter().any(|(a, b)| a == n && b == v);
        let found = lines.iter().find(|line| {
            line.name == format!("container_{name}")
                && has(line, ("id", id))
                && more.iter().all(|m| has(line, *m))
        });
        found
            .unwrap_or_else(|| panic!("{name} of {id}"))
            .value
            .parse()
            .unwrap()
    };
    let (sandbox, hog) = (
        format!("{POD}/{}", crate::testing::recorded::SANDBOX),
        format!("{POD}/{}", crate::testing::recorded::HOG),
    );
    for (name, text) in TREES {
        let tree = tree(text);
        let lines = page(&tree, generation(&tree).0);
        let of = |name: &str, id: &str| value(&lines, name, id, &[]);
        let on_disk = |name: &str, id: &str| value(&lines, name, id, &[("device", "/dev/vda")]);
        // Without memory controller the kernel does not know whose page cache it writes back, and counts it as the root group's.
        let writer = if name == "6.12-bare" { "/" } else { &web() };
        let written = on_disk("fs_writes_bytes_total", writer);
        assert!(written >= 4.0 * 1024.0 * 1024.0, "{name}: {written}");
        let read = on_disk("fs_reads_bytes_total", &web());
        assert!(read >= 4.0 * 1024.0 * 1024.0, "{name}: {read}");
        assert!(
            of("cpu_cfs_throttled_periods_total", &web()) > 0.0,
            "{name}"
        );
        assert!((of("sockets", &web()) - 1.0).abs() < 0.5, "{name}");
        let sent = value(
            &lines,
            "network_transmit_bytes_total",
            &sandbox,
            &[("interface", "eth0")],
        );
        assert!(sent > 3.0 * 1000.0, "{name}");
        if name != "6.12-bare" {
            assert!((of("oom_events_total", &hog) - 1.0).abs() < 0.5, "{name}");
            assert!((of("oom_events_total", "/") - 1.0).abs() < 0.5, "{name}");
            assert!(
                (of("memory_max_usage_bytes", &hog) - 16_777_216.0).abs() < 1.0,
                "{name}"
            );
        }
    }
}

/// Files that later kernels added beside those we read. When one of them is to be read, its absence in 6.1 is tested by these trees.
#[test]
fn the_recorded_kernels_differ_as_documented() {
    let has = |tree: usize, file: &str| {
        let group = format!("/sys/fs/cgroup{}", web());
        names(TREES[tree].1, &group).iter().any(|name| name == file)
    };
    for (file, kernels) in [
        ("memory.peak", [true, true, false, true]),
        ("memory.swap.peak", [false, true, false, true]),
        ("cpu.stat.local", [false, true, true, true]),
        ("memory.zswap.current", [false, false, false, true]),
        ("cpu.pressure", [true, true, false, true]),
    ] {
        let found = [0, 1, 2, 3].map(|tree| has(tree, file));
        assert_eq!(found, kernels, "{file}");
    }
    let release = |tree: usize| {
        let files = files(TREES[tree].1);
        let found = files.iter().find(|(path, _)| path.ends_with("osrelease"));
        found.unwrap().1.clone()
    };
    assert!(release(0).starts_with("6.1.") && release(1).starts_with("6.12."));
}
