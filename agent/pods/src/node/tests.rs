use super::*;
use crate::testing::at;
use expect_test::expect_file;

fn facts() -> Facts {
    Facts {
        name: "node-1".into(),
        hostname: "node-1".into(),
        addresses: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        architecture: "amd64".into(),
        labels: [("zone".to_owned(), "a".to_owned())].into(),
        taints: vec![serde_json::from_str(r#"{"key": "new", "effect": "NoSchedule"}"#).unwrap()],
        cpus: 2,
        memory: 512 << 20,
        ephemeral_storage: 8 << 30,
        max_pods: 110,
        huge_pages: vec![(2 << 20, 4 << 20)],
        reserved_cpu_milli: 100,
        reserved_memory: 60 << 20,
        pressure_memory: 40 << 20,
        reserved_storage: 1 << 30,
        machine_id: "m".into(),
        system_uuid: "u".into(),
        boot_id: "b".into(),
        kernel_version: "6.12".into(),
        os_image: "Kedge".into(),
        runtime_version: "containerd://2.4.2".into(),
        kubelet_version: "v1.37.1+kedge".into(),
        kubelet_port: 10250,
        images: vec![
            (vec!["a@sha256:1".into(), "a:1".into()], 5),
            (vec!["b:1".into()], 9),
        ],
        supplemental_groups_policy: true,
        ..Facts::default()
    }
}

#[test]
fn a_new_node_describes_itself() {
    let node = register(&facts(), None, at(0));
    expect_file!["node.json"].assert_eq(&serde_json::to_string_pretty(&node).unwrap());
}

#[test]
fn what_others_wrote_is_kept() {
    let mut existing = register(&facts(), None, at(0));
    let meta = &mut existing.metadata;
    meta.labels
        .as_mut()
        .unwrap()
        .insert("team".into(), "x".into());
    existing.spec.as_mut().unwrap().taints = None;
    let old = existing.status.as_mut().unwrap();
    old.capacity
        .as_mut()
        .unwrap()
        .insert("example.com/foo".into(), quantity::count(3));
    old.capacity
        .as_mut()
        .unwrap()
        .insert("hugepages-1Gi".into(), quantity::count(3));
    old.conditions.as_mut().unwrap().push(
        serde_json::from_str(r#"{"type": "NetworkUnavailable", "status": "False"}"#).unwrap(),
    );
    let node = register(&facts(), Some(&existing), at(60));
    assert_eq!(node.metadata.labels.as_ref().unwrap()["team"], "x");
    assert_eq!(
        node.spec.as_ref().unwrap().taints,
        None,
        "taints are set once"
    );
    let status = node.status.unwrap();
    for list in [status.capacity.unwrap(), status.allocatable.unwrap()] {
        assert_eq!(list["example.com/foo"].0, "3");
        assert!(!list.contains_key("hugepages-1Gi"), "no longer there");
    }
    let conditions = status.conditions.unwrap();
    assert!(conditions.iter().any(|c| c.type_ == "NetworkUnavailable"));
    let ready = conditions.iter().find(|c| c.type_ == "Ready").unwrap();
    assert_eq!(
        ready.last_transition_time,
        Some(at(0).time()),
        "nothing changed"
    );
    assert_eq!(ready.last_heartbeat_time, Some(at(60).time()));
}

#[test]
fn problems_and_pressure_show_in_conditions() {
    let mut facts = facts();
    facts.readiness.problems = vec!["runtime is down".into(), "no network".into()];
    facts.pressure.memory = true;
    let conditions = status(&facts, None, at(0)).conditions.unwrap();
    let find = |kind: &str| conditions.iter().find(|c| c.type_ == kind).unwrap();
    assert_eq!(
        find("Ready").message.as_deref(),
        Some("[runtime is down, no network]")
    );
    assert_eq!(find("Ready").reason.as_deref(), Some("KubeletNotReady"));
    assert_eq!(find("MemoryPressure").status, "True");
    assert_eq!(conditions.last().unwrap().type_, "Ready");
}

#[test]
fn images_are_few_and_the_largest() {
    let many: Vec<_> = (0..80u64).map(|i| (vec![format!("i{i}"); 9], i)).collect();
    let list = images(&many);
    assert_eq!(
        (
            list.len(),
            list[0].size_bytes,
            list[0].names.as_ref().unwrap().len()
        ),
        (50, Some(79), 5)
    );
}

#[test]
fn a_lease_is_renewed_and_owned_by_the_node() {
    let made = lease("node-1", None, None, at(0));
    let spec = made.spec.as_ref().unwrap();
    assert_eq!(spec.lease_duration_seconds, Some(40));
    assert_eq!(made.metadata.owner_references, None);
    let mut seen = made.clone();
    seen.metadata.resource_version = Some("5".into());
    let renewed = lease("node-1", Some("uid-n"), Some(&seen), at(10));
    assert_eq!(renewed.metadata.resource_version.as_deref(), Some("5"));
    assert_eq!(renewed.metadata.owner_references.unwrap()[0].uid, "uid-n");
    let json = serde_json::to_value(&renewed.spec).unwrap();
    assert_eq!(json["renewTime"], "2026-01-01T00:00:10.000000Z");
}
