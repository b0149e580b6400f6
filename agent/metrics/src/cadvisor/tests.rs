use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::cgroup::Depth;
use crate::disk::Mount;
use crate::expo::{Format, whole};
use crate::sample::{Filesystem, Sampler, Stamp};
use crate::subject::Subject;
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
    let source = Cadvisor::new(Arc::new(generation), Arc::new(machine));
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
fn no_family_is_in_the_table_twice() {
    let names: BTreeSet<&str> = FAMILIES.iter().map(|f| f.name).collect();
    assert_eq!(names.len(), FAMILIES.len());
}

/// Names, types and further labels of what kubelet 1.37.1 shows, read off cAdvisor v0.60.5 with the sets that the kubelet enables.
const UPSTREAM: &str = include_str!("tests/upstream.txt");

#[test]
fn names_types_and_labels_are_cadvisors() {
    const ROW: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];
    let upstream: BTreeMap<&str, (&str, &str)> = UPSTREAM
        .lines()
        .map(|line| {
            let mut words = line.split(' ');
            let mut next = || words.next().unwrap_or_default();
            (next(), (next(), next()))
        })
        .collect();
    // A tree in which every family has a sample.
    let tree = crate::testing::recorded::tree(crate::testing::recorded::TREES[0].1);
    let io = "sys/fs/cgroup/io.stat";
    let cost = "254:0 rbytes=1 wbytes=1 rios=1 wios=1 cost.usage=1 cost.wait=1 cost.indebt=1 cost.indelay=1\n";
    tree.write(io, cost);
    let (generation, errors) = crate::testing::recorded::generation(&tree);
    assert_eq!(errors.len(), 0);
    let machine = Arc::new(crate::machine(&tree.root()).unwrap());
    let page = whole(Cadvisor::new(Arc::new(generation), machine), Format::Text);
    let samples = crate::testing::page::samples(&page);
    let page = String::from_utf8(page).unwrap();
    let types = page
        .lines()
        .filter_map(|l| l.strip_prefix("# TYPE ")?.split_once(' '));
    let mut found = BTreeMap::new();
    for (name, kind) in types {
        let sample = samples.iter().find(|s| s.name == name).unwrap();
        let labels = sample.labels.iter().map(|(n, _)| n.as_str());
        let mut labels: Vec<&str> = labels.collect();
        if name.starts_with("container_") && name != "container_scrape_error" {
            assert!(ROW.iter().all(|l| labels.contains(l)), "{name}: {labels:?}");
            labels.retain(|l| !ROW.contains(l));
        }
        labels.sort_unstable();
        found.insert(name, (kind, labels.join(",")));
    }
    let found: BTreeMap<&str, (&str, &str)> = found
        .iter()
        .map(|(n, (k, l))| (*n, (*k, l.as_str())))
        .collect();
    assert_eq!(found, upstream);
}

#[test]
fn settings_have_no_time_stamp_and_values_have() {
    let page = page(Format::Text);
    for line in crate::testing::page::samples(page.as_bytes()) {
        let untimed = [
            "container_spec_",
            "container_start_time",
            "container_creation_time",
        ]
        .iter()
        .any(|prefix| line.name.starts_with(prefix))
            || line.name.ends_with("_scrape_error")
            || line.name == "cadvisor_version_info";
        assert_eq!(line.at.is_none(), untimed, "{}", line.name);
    }
}

/// What `promtool check metrics` complains about (client_golang's promlint), and one style of help.
#[test]
fn promtool_has_nothing_to_say_but_of_names_that_are_upstreams() {
    const ABBREVIATIONS: [&str; 14] = [
        "s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "tb", "pb", "m", "h", "d",
    ];
    const UNITS: [&str; 9] = [
        "minutes",
        "hours",
        "days",
        "weeks",
        "bits",
        "milliseconds",
        "microseconds",
        "nanoseconds",
        "kilobytes",
    ];
    let mut complaints = Vec::new();
    let page = page(Format::Text);
    let mut help = "";
    for line in page.lines() {
        if let Some((_, text)) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' ')) {
            help = text;
        }
        let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' '))
        else {
            continue;
        };
        let words: Vec<&str> = name.split('_').collect();
        let odd =
            |word: &&str| ABBREVIATIONS.contains(word) || UNITS.contains(word) || *word == kind;
        let lower = name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if (kind == "counter") != name.ends_with("_total") || words.iter().any(odd) || !lower {
            complaints.push(name);
        }
        assert!(help.len() > 10 && help.ends_with('.'), "{name}: {help}");
        assert!(
            !help.contains("cAdvisor")
                && help.starts_with(|c: char| c.is_uppercase() || c.is_numeric()),
            "{name}: {help}"
        );
    }
    let upstreams_own = ["container_fs_inodes_total", "container_memory_failcnt"];
    assert_eq!(complaints, upstreams_own);
}

/// Two rows of everything, the second with the names of `subject`.
fn page_of(subject: Subject, io: &str) -> Vec<crate::testing::page::Line> {
    let tree = node();
    tree.write("sys/fs/cgroup/kubepods/podu1/cont/io.stat", io);
    let mut sampler = Sampler::new(tree.root());
    let mut generation = sampler.begin(Depth::Full, Stamp::default());
    sampler.sample(
        &mut generation,
        &Arc::new(subject.finished()),
        Stamp::default(),
    );
    assert_eq!(sampler.end(&mut generation).len(), 0);
    let source = Cadvisor::new(Arc::new(generation), Arc::default());
    crate::testing::page::samples(&whole(source, Format::Text))
}

#[test]
fn strange_names_come_back_as_they_were() {
    for strange in [
        "a\"b",
        "a\\b",
        "a\\",
        "a\nb",
        "a\\nb",
        "größe 漢字 🦀",
        "{a=\"b\"} 1",
        "\u{0}\u{1}\t\r",
        "",
    ] {
        let subject = Subject {
            kind: crate::subject::Kind::Container,
            cgroup: "/kubepods/podu1/cont".to_owned(),
            name: strange.to_owned(),
            image: format!("{strange}:1"),
            pod: strange.to_owned(),
            namespace: strange.to_owned(),
            container: strange.to_owned(),
            ..Subject::default()
        };
        let lines = page_of(subject, "254:0 rbytes=1 wbytes=2 rios=3 wios=4\n");
        let usage = lines
            .iter()
            .find(|l| l.name == "container_cpu_usage_seconds_total");
        let image = format!("{strange}:1");
        let expected = [
            ("container", strange),
            ("id", "/kubepods/podu1/cont"),
            ("image", &image),
            ("name", strange),
            ("namespace", strange),
            ("pod", strange),
            ("cpu", "total"),
        ];
        let expected = expected.map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert_eq!(usage.unwrap().labels, expected, "{strange:?}");
    }
}

#[test]
fn devices_without_a_name_are_told_apart_by_number() {
    let subject = Subject {
        cgroup: "/kubepods/podu1/cont".to_owned(),
        ..Subject::default()
    };
    let io = "7:1 rbytes=1 wbytes=2 rios=3 wios=4\n7:0 rbytes=1 wbytes=2 rios=3 wios=4\n254:0 rbytes=1 wbytes=2 rios=3 wios=4\n";
    let lines = page_of(subject, io);
    let reads = lines
        .iter()
        .filter(|l| l.name == "container_fs_reads_total");
    let devices: Vec<&str> = reads
        .flat_map(|l| l.labels.iter().filter(|(n, _)| n == "device"))
        .map(|(_, v)| v.as_str())
        .collect();
    assert_eq!(devices, ["7:0", "7:1", "/dev/vda"]);
}
