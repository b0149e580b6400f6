use super::*;
use crate::testing::pod;

const ALLOCATABLE: &str = r#"{"cpu": "2", "memory": "1Gi", "pods": "3", "example.com/foo": "1"}"#;

struct World {
    others: Vec<Pod>,
    memory_pressure: bool,
    shutting_down: bool,
}

fn of(spec: &str) -> Pod {
    let spec = if spec.contains("\"containers\"") {
        spec.to_owned()
    } else {
        format!(
            r#"{spec}{} "containers": [{{"name": "c"}}]"#,
            if spec.is_empty() { "" } else { "," }
        )
    };
    pod(&format!(r#"{{"spec": {{{spec}}}}}"#))
}

impl World {
    fn new() -> World {
        World {
            others: Vec::new(),
            memory_pressure: false,
            shutting_down: false,
        }
    }

    /// Expected: "" or "reason: message".
    fn check(&self, pod: &Pod, expected: &str) {
        let others: Vec<&Pod> = self.others.iter().collect();
        let allocatable: List = serde_json::from_str(ALLOCATABLE).unwrap();
        let taints: Vec<Taint> = serde_json::from_str(
            r#"[{"key": "gone", "effect": "NoExecute"}, {"key": "x", "effect": "NoSchedule"}]"#,
        )
        .unwrap();
        let node = Node {
            name: "node-1",
            labels: &[("zone".to_owned(), "a".to_owned())].into(),
            taints: if pod.spec.as_ref().unwrap().scheduler_name.as_deref() == Some("tainted") {
                &taints
            } else {
                &[]
            },
            allocatable: &allocatable,
            others: &others,
            allowed_sysctls: &["net.core.*".to_owned()],
            strict_groups: false,
            apparmor: false,
            memory_pressure: self.memory_pressure,
            shutting_down: self.shutting_down,
        };
        let said = admit(pod, &node)
            .err()
            .map(|r| r.to_string())
            .unwrap_or_default();
        assert_eq!(said, expected);
    }
}

fn asking(resource: &str, value: &str) -> Pod {
    of(&format!(
        r#""containers": [{{"name": "c", "resources": {{"requests": {{"{resource}": "{value}"}}}}}}]"#
    ))
}

#[test]
fn resources_must_fit_beside_the_others() {
    let mut w = World::new();
    w.check(&asking("cpu", "2"), "");
    w.others.push(asking("cpu", "1500m"));
    w.check(
        &asking("cpu", "600m"),
        "OutOfcpu: Node didn't have enough resource: cpu, requested: 600, used: 1500, capacity: 2000",
    );
    w.check(&asking("cpu", "500m"), "");
    w.check(
        &asking("memory", "2Gi"),
        "OutOfmemory: Node didn't have enough resource: memory, requested: 2147483648, used: 0, capacity: 1073741824",
    );
    w.check(
        &asking("example.com/foo", "2"),
        "OutOfexample.com/foo: Node didn't have enough resource: example.com/foo, requested: 2, used: 0, capacity: 1",
    );
    w.check(&asking("example.com/unknown", "2"), "");
    w.others = vec![of(""), of(""), of("")];
    w.check(
        &of(""),
        "OutOfpods: Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3",
    );
}

#[test]
fn overhead_counts_for_admission() {
    let pod = of(r#""overhead": {"cpu": "200m"},
           "containers": [{"name": "c", "resources": {"requests": {"cpu": "1900m"}}}]"#);
    World::new().check(
        &pod,
        "OutOfcpu: Node didn't have enough resource: cpu, requested: 2100, used: 0, capacity: 2000",
    );
}

#[test]
fn the_node_must_match_selector_affinity_and_name() {
    let w = World::new();
    w.check(
        &of(r#""nodeSelector": {"zone": "a"}, "nodeName": "node-1""#),
        "",
    );
    let message =
        "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
    w.check(
        &of(r#""nodeSelector": {"zone": "b"}"#),
        &format!("NodeAffinity: {message}"),
    );
    w.check(
        &of(r#""affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms":
            [{"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]}]}}}"#),
        &format!("NodeAffinity: {message}"),
    );
    w.check(
        &of(r#""nodeName": "node-2""#),
        "NodeName: Predicate NodeName failed: node(s) didn't match the requested node name",
    );
}

#[test]
fn host_ports_must_be_free() {
    let port = |ip: &str, protocol: &str| {
        of(&format!(
            r#""containers": [{{"name": "c", "ports":
               [{{"containerPort": 80, "hostPort": 8080, "hostIP": "{ip}", "protocol": "{protocol}"}}]}}]"#
        ))
    };
    let mut w = World::new();
    w.others.push(port("192.0.2.1", "TCP"));
    let taken = "NodePorts: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
    w.check(&port("", "TCP"), taken);
    w.check(&port("192.0.2.1", "TCP"), taken);
    w.check(&port("192.0.2.2", "TCP"), "");
    w.check(&port("", "UDP"), "");
    let host = of(
        r#""hostNetwork": true, "containers": [{"name": "c", "ports": [{"containerPort": 8080}]}]"#,
    );
    w.check(&host, taken);
}

#[test]
fn no_execute_taints_must_be_tolerated_except_by_static_pods() {
    let w = World::new();
    let bare = of(r#""schedulerName": "tainted""#);
    w.check(
        &bare,
        "TaintToleration: Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate",
    );
    w.check(
        &of(
            r#""schedulerName": "tainted", "tolerations": [{"key": "gone", "operator": "Exists"}]"#,
        ),
        "",
    );
    let mut file = bare;
    file.metadata.annotations =
        Some([("kubernetes.io/config.source".to_owned(), "file".to_owned())].into());
    w.check(&file, "");
}

#[test]
fn sysctls_must_be_safe_or_allowed() {
    let sysctl = |name: &str, more: &str| {
        of(&format!(
            r#"{more} "securityContext": {{"sysctls": [{{"name": "{name}", "value": "1"}}]}}"#
        ))
    };
    let w = World::new();
    w.check(&sysctl("kernel.shm_rmid_forced", ""), "");
    w.check(&sysctl("net/ipv4/tcp_syncookies", ""), "");
    w.check(&sysctl("net.core.somaxconn", ""), "");
    w.check(
        &sysctl("kernel.msgmax", ""),
        "SysctlForbidden: forbidden sysctl: \"kernel.msgmax\" not allowlisted",
    );
    w.check(
        &sysctl("net.core.somaxconn", r#""hostNetwork": true,"#),
        "SysctlForbidden: forbidden sysctl: \"net.core.somaxconn\" not allowed with host net enabled",
    );
}

#[test]
fn os_groups_apparmor_pressure_and_shutdown_are_judged() {
    let mut w = World::new();
    w.check(&of(r#""os": {"name": "linux"}"#), "");
    w.check(
        &of(r#""os": {"name": "windows"}"#),
        "PodOSNotSupported: Failed to admit pod as the OS field doesn't match node OS",
    );
    w.check(
        &of(r#""securityContext": {"supplementalGroupsPolicy": "Strict"}"#),
        "SupplementalGroupsPolicyNotSupported: SupplementalGroupsPolicy=Strict is not supported in this node (node-1)",
    );
    w.check(
        &of(r#""securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}"#),
        "AppArmor: Cannot enforce AppArmor: AppArmor is not enabled on the host",
    );
    w.memory_pressure = true;
    w.check(
        &of(""),
        "Evicted: The node had condition: [MemoryPressure]. ",
    );
    w.check(&of(r#""priority": 2000000000"#), "");
    w.check(&asking("cpu", "1"), "");
    w.shutting_down = true;
    w.check(
        &of(""),
        "NodeShutdown: Pod was rejected as the node is shutting down.",
    );
}

#[test]
fn an_unsupported_field_is_named() {
    World::new().check(
        &of(r#""hostUsers": false"#),
        "UnsupportedField: spec.hostUsers: pods in a user namespace of their own are not supported by this node",
    );
}
