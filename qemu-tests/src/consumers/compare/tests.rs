use super::*;

fn facts(node: &str) -> Facts {
    Facts {
        node: node.into(),
        namespace: format!("twin-{node}"),
        load: "load".into(),
        started: if node == "a" { 1000.0 } else { 5000.0 },
        asked: if node == "a" { 2000.0 } else { 6000.0 },
    }
}

/// Differences between page `a` of node a and page `b` of node b, as lines.
fn lines(place: Place, a: &str, b: &str) -> Vec<String> {
    let (a, b) = (Page::parse(a).unwrap(), Page::parse(b).unwrap());
    let (own, other) = (facts("a"), facts("b"));
    let side = |page, facts| Side { page, facts };
    let found = compare(place, side(&a, &own), side(&b, &other));
    found
        .iter()
        .map(|d| format!("{} {}: {}", d.family, d.kind.name(), d.text))
        .collect()
}

const ID_A: &str = "1111111111111111111111111111111111111111111111111111111111111111";
const ID_B: &str = "2222222222222222222222222222222222222222222222222222222222222222";

/// A cAdvisor page with one row of a pod.
fn row(node: &str, family: &str, value: f64) -> String {
    let (uid, id) = if node == "a" {
        ("pod11111111-2222-3333-4444-555555555555", ID_A)
    } else {
        ("podaaaaaaaa-2222-3333-4444-555555555555", ID_B)
    };
    format!(
        "# TYPE {family} gauge\n{family}{{container=\"main\",id=\"/kubepods/{uid}/{id}\",name=\"{id}\",namespace=\"twin-{node}\",pod=\"load\"}} {value} 5\n"
    )
}

#[test]
fn names_that_are_a_nodes_own_are_no_difference() {
    let name = "container_memory_rss";
    assert!(
        lines(
            Place::Cadvisor,
            &row("a", name, 7e7),
            &row("b", name, 7.2e7)
        )
        .is_empty()
    );
    let page = |node: &str| {
        format!("# TYPE kubelet_node_name gauge\nkubelet_node_name{{node=\"{node}\"}} 1\n")
    };
    assert!(lines(Place::Kubelet, &page("a"), &page("b")).is_empty());
}

#[test]
fn families_types_and_labels_are_told() {
    assert_eq!(
        lines(
            Place::Kubelet,
            "# TYPE x counter\nx{a=\"1\"} 1\n# TYPE kedge_y gauge\nkedge_y 1\n",
            "# TYPE x gauge\nx{b=\"1\"} 1\n# TYPE z counter\nz 1\n"
        ),
        [
            "kedge_y extra: gauge",
            "x type: counter for gauge",
            "x labels: labels only ours: a; only theirs: b",
            "z missing: counter",
        ]
    );
}

#[test]
fn a_family_that_is_declared_without_samples_is_missing() {
    let declared = "# TYPE x counter\n";
    assert_eq!(
        lines(Place::Kubelet, declared, "# TYPE x counter\nx 1\n"),
        ["x missing: counter"]
    );
}

#[test]
fn label_values_count_on_the_kubelets_pages_and_whole_series_on_those_of_pods() {
    let kubelet = |op: &str| format!("# TYPE x counter\nx{{op=\"{op}\"}} 1\n");
    assert_eq!(
        lines(Place::Kubelet, &kubelet("start"), &kubelet("stop")),
        ["x series: only ours: op=start; only theirs: op=stop"]
    );
    let hierarchy = |ids: &[&str]| {
        let rows: Vec<String> = ids
            .iter()
            .map(|id| format!("x{{id=\"{id}\"}} 1\n"))
            .collect();
        format!("# TYPE x gauge\n{}", rows.concat())
    };
    // The nodes' own software is not compared, the hierarchy above pods is.
    assert_eq!(
        lines(
            Place::Cadvisor,
            &hierarchy(&["/", "/kedge"]),
            &hierarchy(&["/", "/kubepods", "/system.slice"])
        ),
        ["x series: only theirs: {id=\"/kubepods\"}"]
    );
}

#[test]
fn rows_of_other_pods_do_not_count() {
    let other = "# TYPE x gauge\nx{namespace=\"kube-system\",pod=\"dns\"} 1\n";
    assert!(lines(Place::Cadvisor, other, "").is_empty());
}

#[test]
fn values_of_the_load_may_be_a_tenth_apart_or_the_slack() {
    let cpu = "container_cpu_usage_seconds_total";
    let of = |name: &str, a: f64, b: f64| {
        lines(Place::Cadvisor, &row("a", name, a), &row("b", name, b)).len()
    };
    assert_eq!(of(cpu, 100.0, 109.0), 0);
    assert_eq!(of(cpu, 100.0, 120.0), 1);
    assert_eq!(of(cpu, 0.1, 0.9), 0);
    assert_eq!(of("container_memory_rss", 64e6, 80e6), 1);
    assert_eq!(of("container_memory_mapped_file", 0.0, 1e6), 0);
    assert_eq!(of("container_threads", 1.0, 2.0), 1);
    assert_eq!(of("container_threads_max", f64::INFINITY, f64::INFINITY), 0);
    assert_eq!(of("container_threads_max", f64::INFINITY, 5.0), 1);
    assert_eq!(of("container_threads_max", f64::NAN, 5.0), 1);
}

#[test]
fn values_of_other_pods_count_only_when_they_are_settings() {
    let of = |name: &str| {
        let page =
            |node: &str, value: f64| row(node, name, value).replace("pod=\"load\"", "pod=\"idle\"");
        lines(Place::Cadvisor, &page("a", 1e8), &page("b", 5e8)).len()
    };
    assert_eq!(of("container_memory_rss"), 0);
    assert_eq!(of("container_spec_memory_limit_bytes"), 1);
}

#[test]
fn times_are_measured_from_each_nodes_own_start_and_asking() {
    let started = "container_start_time_seconds";
    assert!(
        lines(
            Place::Cadvisor,
            &row("a", started, 1001.0),
            &row("b", started, 5002.0)
        )
        .is_empty()
    );
    assert_eq!(
        lines(
            Place::Cadvisor,
            &row("a", started, 1001.0),
            &row("b", started, 5100.0)
        )
        .len(),
        1
    );
    let seen = "container_last_seen";
    assert!(
        lines(
            Place::Cadvisor,
            &row("a", seen, 1999.0),
            &row("b", seen, 5990.0)
        )
        .is_empty()
    );
    assert_eq!(
        lines(
            Place::Cadvisor,
            &row("a", seen, 1000.0),
            &row("b", seen, 5990.0)
        )
        .len(),
        1
    );
}

#[test]
fn what_a_kubelet_counted_is_not_compared_but_its_gauges_are() {
    let page = |kind: &str, value: f64| format!("# TYPE x {kind}\nx {value}\n");
    let of = |kind: &str| lines(Place::Kubelet, &page(kind, 1.0), &page(kind, 9.0)).len();
    assert_eq!((of("counter"), of("gauge")), (0, 1));
}

#[test]
fn what_one_machine_has_and_rows_of_the_page_cache_are_no_difference() {
    let page = |rows: &str| format!("# TYPE container_fs_reads_total counter\n{rows}");
    let row = |device: &str, more: &str| {
        format!("container_fs_reads_total{{device=\"{device}\"{more}}} 1\n")
    };
    let both = row("/dev/vda", ",id=\"/\"");
    let theirs = [
        both.clone(),
        row("/dev/vdb", ",id=\"/\""),
        row(
            "/dev/vda",
            &format!(",id=\"/kubepods/burstable/poda/{ID_B}\",namespace=\"twin-b\",pod=\"load\""),
        ),
    ];
    assert_eq!(
        lines(Place::Cadvisor, &page(&both), &page(&theirs.concat())),
        [""; 0]
    );
    let more = [theirs.concat(), row("/dev/vdc", ",id=\"/\"")].concat();
    assert_eq!(
        lines(Place::Cadvisor, &page(&both), &page(&more)),
        ["container_fs_reads_total series: only theirs: {device=\"/dev/vdc\",id=\"/\"}"]
    );
}

#[test]
fn values_that_are_chance_are_left_to_the_kernels_files() {
    let name = "container_cpu_cfs_throttled_periods_total";
    assert!(
        lines(
            Place::Cadvisor,
            &row("a", name, 1.0),
            &row("b", name, 900.0)
        )
        .is_empty()
    );
}

#[test]
fn a_state_that_one_page_has_not_seen_is_zero_on_the_other() {
    let page = |rows: &str| format!("# TYPE kubelet_running_containers gauge\n{rows}");
    let row = |state: &str, count: u8| {
        format!("kubelet_running_containers{{container_state=\"{state}\"}} {count}\n")
    };
    let ours = |count: u8| page(&[row("running", 5), row("unknown", count)].concat());
    assert!(lines(Place::Kubelet, &ours(0), &page(&row("running", 5))).is_empty());
    assert_eq!(
        lines(Place::Kubelet, &ours(1), &page(&row("running", 5))),
        ["kubelet_running_containers series: only ours: container_state=unknown"]
    );
    let other = "# TYPE x gauge\nx{a=\"1\"} 1\nx{a=\"2\"} 0\n";
    assert_eq!(
        lines(Place::Kubelet, other, "# TYPE x gauge\nx{a=\"1\"} 1\n"),
        ["x series: only ours: a=2"]
    );
}

#[test]
fn long_lists_are_two_examples_and_a_count() {
    let rows = |node: &str, names: &[&str]| {
        let row = |name: &&str| {
            format!(
                "x_bucket{{container=\"main\",id=\"/kubepods/burstable/pod/{ID_A}\",image=\"i\",namespace=\"twin-{node}\",pod=\"load\",le=\"{name}\"}} 1\n"
            )
        };
        let rows: Vec<String> = names.iter().map(row).collect();
        format!("# TYPE x histogram\n{}", rows.concat())
    };
    let found = lines(
        Place::Cadvisor,
        &rows("a", &["1", "2", "3", "4"]),
        &rows("b", &["4", "5"]),
    );
    expect_test::expect![[r#"x series: only ours: _bucket{container="main",id="…/burstable/pod/ID",le="1",pod="load"} _bucket{container="main",id="…/burstable/pod/ID",le="2",pod="load"} and 1 more; only theirs: _bucket{container="main",id="…/burstable/pod/ID",le="5",pod="load"}"#]].assert_eq(&found.join("\n"));
    let page = |value: u32| {
        let rows = (0..4).map(|n| format!("x{{name=\"{n}\"}} {}\n", value + n));
        format!("# TYPE x gauge\n{}", rows.collect::<String>())
    };
    expect_test::expect![[r#"x values: {name="0"} 1 for 100 {name="1"} 2 for 101 and 2 more"#]]
        .assert_eq(&lines(Place::Kubelet, &page(1), &page(100)).join("\n"));
}
