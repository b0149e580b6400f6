use super::*;
use crate::testing::{node, pod};

fn of(containers: &str) -> Pod {
    pod(&format!(r#"{{"spec": {{"containers": [{containers}]}}}}"#))
}

fn container(requests: &str, limits: &str) -> String {
    format!(
        r#"{{"name": "c", "resources": {{"requests": {{{requests}}}, "limits": {{{limits}}}}}}}"#
    )
}

const FULL: &str = r#""cpu": "1", "memory": "1Gi""#;

#[test]
fn qos_class_follows_requests_and_limits() {
    let check = |pod: &Pod, expected| assert_eq!(class(pod::spec(pod)), expected);
    check(&of(&container("", "")), Class::BestEffort);
    check(&of(&container(FULL, FULL)), Class::Guaranteed);
    check(&of(&container("", FULL)), Class::Guaranteed);
    check(&of(&container(r#""cpu": "1""#, "")), Class::Burstable);
    check(
        &of(&container(r#""cpu": "500m", "memory": "1Gi""#, FULL)),
        Class::Burstable,
    );
    check(
        &of(&format!("{}, {}", container(FULL, FULL), container("", ""))),
        Class::Burstable,
    );
    let init = pod(&format!(
        r#"{{"spec": {{"initContainers": [{}], "containers": [{}]}}}}"#,
        container("", ""),
        container(FULL, FULL)
    ));
    check(&init, Class::Burstable);
}

#[test]
fn pod_requests_count_sidecars_init_peaks_and_overhead() {
    let pod = pod(r#"{"spec": {"overhead": {"cpu": "10m"},
            "initContainers": [
              {"name": "a", "resources": {"requests": {"cpu": "100m"}}},
              {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}}},
              {"name": "b", "resources": {"requests": {"cpu": "400m"}}}],
            "containers": [{"name": "c", "resources": {"requests": {"cpu": "200m"}}},
                           {"name": "d", "resources": {"limits": {"cpu": "100m"}}}]}}"#);
    // Initialization peaks at s + b = 450m; apps and sidecar together need 350m.
    assert_eq!(pod_request(pod::spec(&pod), "cpu").milli(), 460);
}

#[test]
fn oom_score_follows_class_priority_and_memory() {
    let check = |pod: &Pod, name: &str, expected| {
        let member = pod::member(pod::spec(pod), name).unwrap();
        assert_eq!(oom_score_adj(pod, &member, 4 << 30), expected);
    };
    check(&of(&container("", "")), "c", 1000);
    check(&of(&container(FULL, FULL)), "c", -997);
    check(&of(&container(r#""memory": "1Gi""#, "")), "c", 750);
    check(&of(&container(r#""cpu": "1m""#, "")), "c", 999);
    check(&of(&container(r#""memory": "4Gi""#, "")), "c", 3);
    let critical = pod(r#"{"spec": {"priority": 2000001000, "containers": [{"name": "c"}]}}"#);
    check(&critical, "c", -997);
    let sidecar = pod(
        r#"{"spec": {"initContainers": [{"name": "s", "restartPolicy": "Always"}],
            "containers": [{"name": "c", "resources": {"requests": {"memory": "2Gi"}}}]}}"#,
    );
    check(&sidecar, "s", 500);
}

#[test]
fn container_resources_are_kernel_numbers() {
    let pod = of(r#"{"name": "c", "resources": {"requests": {"cpu": "250m"},
            "limits": {"cpu": "1500m", "memory": "64Mi", "hugepages-2Mi": "4Mi"}}}"#);
    let member = pod::member(pod::spec(&pod), "c").unwrap();
    let r = container_resources(&pod, &member, &node());
    assert_eq!(
        (r.cpu_shares, r.cpu_quota, r.cpu_period),
        (256, 150_000, 100_000)
    );
    assert_eq!(r.memory_limit, 64 << 20);
    assert_eq!(r.hugepage_limits, [("2MB".to_owned(), 4 << 20)]);
    assert_eq!(r.unified["memory.oom.group"], "1");
    assert_eq!(r.unified["memory.swap.max"], "0");
    let without = NodeFacts {
        swap_controller: false,
        ..node()
    };
    let r = container_resources(&pod, &member, &without);
    assert_eq!(
        r.unified.len(),
        1,
        "a file that is not there cannot be written"
    );
    assert_eq!(quota(1), 1000);
    assert_eq!(shares(0), 2);
}

#[test]
fn cpu_weights_of_pods_are_a_straight_line() {
    let weights: Vec<u64> = [0, 2, 10, 102, 256, 1024, 2048, 262_144, 1 << 20]
        .into_iter()
        .map(weight)
        .collect();
    assert_eq!(weights, [1, 1, 1, 4, 10, 39, 79, 10_000, 10_000]);
}

/// Four CPUs of a node: one pod asks for three, ten for a tenth each, and all want more.
#[test]
fn a_large_pod_gets_what_it_asked_for_beside_many_small_ones() {
    let of_request = |cpu: &str| pod_cgroup(&of(&container(&format!(r#""cpu": "{cpu}""#), "")));
    let (large, small) = (of_request("3").cpu_weight, of_request("100m").cpu_weight);
    let granted = 4000 * large / (large + 10 * small);
    assert!((2950..=3050).contains(&granted), "{granted}m");
}

#[test]
fn pod_cgroups_are_limited_only_when_every_container_is() {
    let limited = of(&container(FULL, FULL));
    assert_eq!(
        pod_cgroup(&limited),
        Cgroup {
            path: "/kubepods/poduid-1".into(),
            cpu_weight: 39,
            cpu_quota: Some(100_000),
            memory_max: Some(1 << 30),
            pids_max: None,
        }
    );
    let half = of(&format!(
        "{}, {}",
        container("", r#""cpu": "1""#),
        container("", "")
    ));
    let cgroup = pod_cgroup(&half);
    assert_eq!(cgroup.path, "/kubepods/burstable/poduid-1");
    assert_eq!((cgroup.cpu_quota, cgroup.memory_max), (None, None));
    let best = pod_cgroup(&of(&container("", "")));
    assert_eq!(
        (best.path.as_str(), best.cpu_weight),
        ("/kubepods/besteffort/poduid-1", 1)
    );
}

#[test]
fn levels_sum_burstable_requests() {
    let burstable = of(&container(r#""cpu": "500m""#, ""));
    let guaranteed = of(&container(FULL, FULL));
    let [all, burst, best] = levels([&burstable, &burstable, &guaranteed].into_iter(), &node());
    // The scheduler leaves free what keeps the node out of memory pressure; pods that run may have it.
    assert_eq!(all.memory_max, Some((3 << 30) + (100 << 20)));
    assert_eq!(burst.cpu_weight, weight(shares(1000)));
    assert_eq!(best.cpu_weight, 1);
}
