use super::*;
use crate::observed::{ObservedContainer, ObservedSandbox};
use crate::testing::at;

fn file(json: &str) -> Result<Pod, Invalid> {
    static_pod(
        serde_json::from_str(json).unwrap(),
        "Node-1",
        "/etc/kubernetes/manifests/web.yaml",
        at(0),
    )
}

const WEB: &str = r#"{"metadata": {"name": "web"}, "spec": {"hostNetwork": true, "containers": [{"name": "c", "image": "i",
    "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": "1"}}}]}}"#;

#[test]
fn a_static_pod_gets_identity_annotations_and_defaults() {
    let pod = file(WEB).unwrap();
    assert_eq!(pod::name(&pod), "web-node-1");
    assert_eq!(pod::uid(&pod).len(), 32);
    assert!(pod::is_static(&pod) && pod::is_critical(&pod));
    assert_eq!(
        pod::annotation(&pod, SEEN_ANNOTATION),
        Some("2026-01-01T00:00:00Z")
    );
    let spec = pod::spec(&pod);
    assert_eq!(spec.node_name.as_deref(), Some("Node-1"));
    assert_eq!(spec.restart_policy.as_deref(), Some("Always"));
    let c = &spec.containers[0];
    assert_eq!(c.ports.as_ref().unwrap()[0].host_port, Some(80));
    assert_eq!(
        c.resources.as_ref().unwrap().requests.as_ref().unwrap()["cpu"].0,
        "1"
    );
    assert_eq!(
        spec.tolerations.as_ref().unwrap()[0].effect.as_deref(),
        Some("NoExecute")
    );
}

#[test]
fn a_changed_file_is_another_pod() {
    let a = file(WEB).unwrap();
    assert_eq!(pod::uid(&a), pod::uid(&file(WEB).unwrap()));
    assert_ne!(
        pod::uid(&a),
        pod::uid(&file(&WEB.replace("\"i\"", "\"j\"")).unwrap())
    );
}

#[test]
fn bad_files_are_named_with_the_field() {
    let check = |json: &str, expected: &str| {
        let said = file(json).unwrap_err().to_string();
        assert_eq!(
            said,
            format!("static pod /etc/kubernetes/manifests/web.yaml: {expected}")
        );
    };
    check("{}", "metadata.name: \"\" is not a DNS-1123 subdomain");
    check(
        r#"{"metadata": {"name": "A_b"}}"#,
        "metadata.name: \"A_b\" is not a DNS-1123 subdomain",
    );
    let spec = |spec: &str| format!(r#"{{"metadata": {{"name": "web"}}, "spec": {{{spec}}}}}"#);
    check(
        &spec(r#""containers": []"#),
        "spec.containers: at least one container is needed",
    );
    check(
        &spec(r#""containers": [{"name": "c"}]"#),
        "spec.containers[0].image: an image is needed",
    );
    check(
        &spec(r#""containers": [{"name": "c", "image": "i"}, {"name": "c", "image": "i"}]"#),
        "spec.containers[1].name: \"c\" is used twice",
    );
    check(
        &spec(
            r#""containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]"#,
        ),
        "spec.containers[0].volumeMounts: there is no volume \"v\"",
    );
    let one = r#""containers": [{"name": "c", "image": "i"}]"#;
    check(
        &spec(&format!(r#"{one}, "serviceAccountName": "x""#)),
        "spec.serviceAccountName: a static pod cannot use a service account",
    );
    check(
        &spec(&format!(
            r#"{one}, "volumes": [{{"name": "v", "secret": {{"secretName": "s"}}}}]"#
        )),
        "spec: a static pod cannot use Secret \"s\"",
    );
}

#[test]
fn scheduling_fields_are_kept_in_the_mirror_pod() {
    let fields = r#""affinity": {"podAffinity": {}, "podAntiAffinity": {}, "nodeAffinity":
          {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": {}}]}},
        "automountServiceAccountToken": false, "evictionResponders": [{"name": "e", "priority": 1}], "nodeSelector": {"a": "b"},
        "preemptionPolicy": "Never", "priority": 7, "priorityClassName": "high", "schedulerName": "s",
        "schedulingGates": [{"name": "g"}], "schedulingGroup": {"podGroupName": "p"},
        "tolerations": [{"key": "t", "operator": "Exists", "tolerationSeconds": 60}],
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"}]"#;
    let text = WEB.replace(
        r#""hostNetwork": true"#,
        &format!(r#""hostNetwork": true, {fields}"#),
    );
    let pod = file(&text).unwrap();
    let mirror = mirror_pod(&pod, "node-1", "uid-n");
    let json = serde_json::to_value(&mirror.spec).unwrap();
    let given: serde_json::Value = serde_json::from_str(&format!("{{{fields}}}")).unwrap();
    for (key, value) in given.as_object().unwrap() {
        let kept = &json[key];
        assert!(!kept.is_null(), "{key} is lost");
        if key == "tolerations" {
            assert_eq!(kept[0], value[0], "ours comes after");
        } else {
            assert_eq!(kept, value, "{key}");
        }
    }
}

#[test]
fn a_mirror_pod_belongs_to_the_node_and_follows_the_hash() {
    let pod = file(WEB).unwrap();
    let mut mirror = mirror_pod(&pod, "node-1", "uid-n");
    assert_eq!(
        mirror.metadata.owner_references.as_ref().unwrap()[0].uid,
        "uid-n"
    );
    assert_eq!(mirror.metadata.uid, None);
    assert!(pod::is_mirror(&mirror) && is_current(&pod, &mirror));
    assert!(!is_current(
        &file(&WEB.replace("\"i\"", "\"j\"")).unwrap(),
        &mirror
    ));
    mirror.metadata.deletion_timestamp = Some(at(0).time());
    assert!(!is_current(&pod, &mirror));
}

#[test]
fn a_pod_only_the_runtime_knows_is_rebuilt_from_its_labels() {
    let pod: Pod = serde_json::from_str(
        r#"{"metadata": {"name": "web", "namespace": "ns", "uid": "u"}, "spec": {"terminationGracePeriodSeconds": 7,
            "containers": [{"name": "c", "image": "i", "ports": [{"name": "p", "containerPort": 80}],
              "lifecycle": {"preStop": {"httpGet": {"port": "p", "path": "/bye"}}}}]}}"#,
    )
    .unwrap();
    let observed = ObservedPod {
        sandboxes: vec![ObservedSandbox {
            labels: labels::sandbox_labels(&pod),
            ..Default::default()
        }],
        containers: vec![ObservedContainer {
            name: "c".into(),
            image: "i".into(),
            annotations: labels::container_annotations(&pod, &pod::spec(&pod).containers[0], 0, ""),
            ..Default::default()
        }],
        ..Default::default()
    };
    let found = from_runtime(&observed).unwrap();
    assert_eq!(
        (pod::name(&found), pod::namespace(&found), pod::uid(&found)),
        ("web", "ns", "u")
    );
    assert_eq!(pod::spec(&found).termination_grace_period_seconds, Some(7));
    assert_eq!(pod::spec(&found).containers, pod::spec(&pod).containers);
    assert_eq!(from_runtime(&ObservedPod::default()), None);
}
