use std::collections::BTreeMap;

use super::*;
use crate::needs::TrustBundle;
use crate::spec::{
    ContainerSpec, GroupsPolicy, NamespaceMode, Propagation, Protocol, SecurityProfile,
};
use crate::testing::{node, pod};

mod volumes;

pub(super) fn objects() -> Objects {
    let json = |text: &str| serde_json::from_str::<ConfigMap>(text).unwrap();
    let secret: Secret =
        serde_json::from_str(r#"{"data": {"key": "czNjcmV0", "B": "Yg=="}}"#).unwrap();
    Objects {
        config_maps: [(
            "cm".to_owned(),
            json(r#"{"data": {"key": "value", "A": "a"}, "binaryData": {"bin": "/w=="}}"#),
        )]
        .into(),
        secrets: [("s".to_owned(), secret)].into(),
        services: vec![
            service(
                "default",
                "kubernetes",
                "10.96.0.1",
                r#"[{"name": "https", "port": 443}]"#,
            ),
            service(
                "ns",
                "my-db",
                "10.96.0.9",
                r#"[{"port": 5432}, {"name": "web-ui", "port": 80, "protocol": "UDP"}]"#,
            ),
            service("ns", "headless", "None", r#"[{"port": 1}]"#),
            service("other", "far", "10.96.0.8", r#"[{"port": 1}]"#),
        ],
        trust_bundles: [
            (TrustBundle::Name("ctb".to_owned()), "PEM".to_owned()),
            (
                TrustBundle::Signer {
                    signer: "ctb".to_owned(),
                    labels: "a=1".to_owned(),
                },
                "SIGNED".to_owned(),
            ),
        ]
        .into(),
        ..Objects::default()
    }
}

fn service(namespace: &str, name: &str, ip: &str, ports: &str) -> Service {
    serde_json::from_str(&format!(
        r#"{{"metadata": {{"namespace": "{namespace}", "name": "{name}"}}, "spec": {{"clusterIP": "{ip}", "ports": {ports}}}}}"#
    ))
    .unwrap()
}

pub(super) fn instance() -> Instance {
    Instance {
        attempt: 3,
        image: ImageFacts {
            reference: "sha256:1".into(),
            ..ImageFacts::default()
        },
        pod_ips: vec!["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()],
        target_id: None,
    }
}

/// The container `c` of a pod with these pod fields and container fields.
pub(super) fn resolve_in(spec: &str, fields: &str) -> Result<ContainerSpec, Reason> {
    let pod = pod(&format!(
        r#"{{"metadata": {{"labels": {{"app": "web"}}, "annotations": {{"a": "1", "b": "x\ny"}}}},
            "spec": {{{spec} "containers": [{{"name": "c", "image": "i:1" {fields}}}]}}}}"#
    ));
    container(&pod, "c", &objects(), &node(), &instance())
}

fn resolve(fields: &str) -> Result<ContainerSpec, Reason> {
    resolve_in("", fields)
}

fn env_of(fields: &str) -> BTreeMap<String, String> {
    resolve(fields).unwrap().env.into_iter().collect()
}

#[test]
fn container_fields_reach_the_runtime() {
    let c = resolve(
        r#", "command": ["run", "$(E)"], "args": ["--x=$(NO)", "$$(E)"], "workingDir": "/w", "env": [{"name": "E", "value": "1"}],
           "stdin": true, "stdinOnce": true, "tty": true, "terminationMessagePath": "/m", "terminationMessagePolicy": "FallbackToLogsOnError",
           "lifecycle": {"stopSignal": "SIGUSR1", "preStop": {"sleep": {"seconds": 1}}}"#,
    )
    .unwrap();
    assert_eq!(
        (
            c.name.as_str(),
            c.attempt,
            c.image.as_str(),
            c.image_as_written.as_str()
        ),
        ("c", 3, "sha256:1", "i:1")
    );
    assert_eq!(c.command, ["run", "1"]);
    assert_eq!(c.args, ["--x=$(NO)", "$(E)"]);
    assert_eq!(c.working_dir, "/w");
    assert_eq!((c.stdin, c.stdin_once, c.tty), (true, true, true));
    assert_eq!(c.stop_signal.as_deref(), Some("SIGUSR1"));
    assert_eq!(c.log_path, "c/3.log");
    let log = c.termination_log.unwrap();
    assert_eq!(log.container_path, "/m");
    assert_eq!(log.host_path, "/var/lib/kubelet/pods/uid-1/containers/c/3");
    assert!(
        c.mounts
            .iter()
            .any(|m| m.container_path == "/m" && m.host_path == log.host_path && !m.readonly)
    );
    assert_eq!(c.labels["io.kubernetes.pod.uid"], "uid-1");
    assert_eq!(c.labels["io.kubernetes.container.name"], "c");
    let a = &c.annotations;
    assert_eq!(a["io.kubernetes.container.restartCount"], "3");
    assert_eq!(
        a["io.kubernetes.container.terminationMessagePolicy"],
        "FallbackToLogsOnError"
    );
    assert_eq!(
        a["io.kubernetes.container.preStopHandler"],
        r#"{"sleep":{"seconds":1}}"#
    );
    assert_eq!(a["io.kubernetes.pod.terminationGracePeriod"], "30");
    assert_eq!(a["io.kedge.container.terminationLog"], log.host_path);
    let default = resolve("").unwrap();
    assert_eq!(
        default.termination_log.unwrap().container_path,
        "/dev/termination-log"
    );
}

#[test]
fn environment_comes_from_all_sources() {
    let env = env_of(
        r#", "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}}, {"secretRef": {"name": "s"}}],
           "env": [{"name": "X", "value": "$(P_A)-$(B)-$(KUBERNETES_SERVICE_HOST)-$(Y)"}, {"name": "Y", "value": "late"},
                   {"name": "B", "value": "own"}, {"name": "EMPTY"},
                   {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "key"}}},
                   {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "key"}}}]"#,
    );
    let check = |name: &str, expected: &str| assert_eq!(env[name], expected, "{name}");
    check("P_key", "value");
    check("P_A", "a");
    check("key", "s3cret");
    check("X", "a-b-10.96.0.1-$(Y)");
    check("B", "own");
    check("C", "value");
    check("S", "s3cret");
    check("EMPTY", "");
    assert!(!env.contains_key("P_bin"), "binary data is no text");
}

#[test]
fn service_variables_follow_the_links() {
    let env = env_of("");
    let check = |name: &str, expected: &str| assert_eq!(env[name], expected, "{name}");
    check("KUBERNETES_SERVICE_HOST", "10.96.0.1");
    check("KUBERNETES_SERVICE_PORT_HTTPS", "443");
    check("MY_DB_SERVICE_PORT", "5432");
    check("MY_DB_SERVICE_PORT_WEB_UI", "80");
    check("MY_DB_PORT", "tcp://10.96.0.9:5432");
    check("MY_DB_PORT_80_UDP", "udp://10.96.0.9:80");
    check("MY_DB_PORT_80_UDP_PROTO", "udp");
    check("MY_DB_PORT_5432_TCP_ADDR", "10.96.0.9");
    assert!(!env.contains_key("HEADLESS_SERVICE_HOST") && !env.contains_key("FAR_SERVICE_HOST"));
    let none: BTreeMap<_, _> = resolve_in(r#""enableServiceLinks": false,"#, "")
        .unwrap()
        .env
        .into_iter()
        .collect();
    assert!(
        none.contains_key("KUBERNETES_SERVICE_HOST") && !none.contains_key("MY_DB_SERVICE_HOST")
    );
}

#[test]
fn missing_references_are_named_unless_optional() {
    let check = |fields: &str, expected: &str| {
        let said = resolve(fields)
            .map(|_| String::new())
            .unwrap_or_else(|e| format!("{}: {e}", e.reason));
        assert_eq!(said, expected, "{fields}");
    };
    let key = |kind: &str, rest: &str| {
        format!(r#", "env": [{{"name": "E", "valueFrom": {{"{kind}": {{{rest}}}}}}}]"#)
    };
    check(
        &key("configMapKeyRef", r#""name": "no", "key": "k""#),
        "CreateContainerConfigError: configmap \"no\" not found",
    );
    check(
        &key("configMapKeyRef", r#""name": "cm", "key": "no""#),
        "CreateContainerConfigError: couldn't find key no in ConfigMap ns/cm",
    );
    check(
        &key("secretKeyRef", r#""name": "s", "key": "no""#),
        "CreateContainerConfigError: couldn't find key no in Secret ns/s",
    );
    check(
        r#", "envFrom": [{"secretRef": {"name": "no"}}]"#,
        "CreateContainerConfigError: secret \"no\" not found",
    );
    for optional in [
        key("configMapKeyRef", r#""name": "no", "key": "k", "optional": true"#),
        key("secretKeyRef", r#""name": "s", "key": "no", "optional": true"#),
        r#", "envFrom": [{"secretRef": {"name": "no", "optional": true}}, {"configMapRef": {"name": "no", "optional": true}}]"#.into(),
    ] {
        check(&optional, "");
        assert!(!env_of(&optional).contains_key("E"));
    }
    volumes::missing_sources();
}

#[test]
fn downward_fields_have_their_values() {
    let check = |path: &str, expected: Result<&str, &str>| {
        let said = resolve_in(
            r#""nodeName": "node-1", "serviceAccountName": "robot","#,
            &format!(
                r#", "env": [{{"name": "E", "valueFrom": {{"fieldRef": {{"fieldPath": "{path}"}}}}}}]"#
            ),
        );
        let said = said.map(|c| c.env.into_iter().find(|(k, _)| k == "E").unwrap().1);
        let expected = expected.map(str::to_owned).map_err(Reason::config);
        assert_eq!(said, expected, "{path}");
    };
    check("metadata.name", Ok("web"));
    check("metadata.namespace", Ok("ns"));
    check("metadata.uid", Ok("uid-1"));
    check("metadata.labels['app']", Ok("web"));
    check("metadata.labels['none']", Ok(""));
    check("metadata.annotations['a']", Ok("1"));
    check("metadata.labels", Ok("app=\"web\""));
    check("metadata.annotations", Ok("a=\"1\"\nb=\"x\\ny\""));
    check("spec.nodeName", Ok("node-1"));
    check("spec.serviceAccountName", Ok("robot"));
    check("status.hostIP", Ok("192.0.2.1"));
    check("status.hostIPs", Ok("192.0.2.1"));
    check("status.podIP", Ok("10.0.0.7"));
    check("status.podIPs", Ok("10.0.0.7,fd00::7"));
    check("status.phase", Err("unsupported fieldPath: status.phase"));
    check(
        "metadata.name['x']",
        Err("unsupported fieldPath: metadata.name['x']"),
    );
}

#[test]
fn downward_resources_have_divisors_and_defaults() {
    let check = |selector: &str, expected: &str| {
        let env = env_of(&format!(
            r#", "resources": {{"limits": {{"cpu": "1500m", "memory": "64Mi"}}, "requests": {{"cpu": "250m"}}}},
               "env": [{{"name": "E", "valueFrom": {{"resourceFieldRef": {{{selector}}}}}}}]"#
        ));
        assert_eq!(env["E"], expected, "{selector}");
    };
    check(r#""resource": "limits.cpu""#, "2");
    check(r#""resource": "limits.cpu", "divisor": "1m""#, "1500");
    check(r#""resource": "limits.memory", "divisor": "1Mi""#, "64");
    check(r#""resource": "requests.cpu", "divisor": "1m""#, "250");
    check(
        r#""resource": "requests.memory", "divisor": "1Mi", "containerName": "c""#,
        "64",
    );
    check(r#""resource": "limits.ephemeral-storage""#, "0");
    let unlimited = env_of(
        r#", "env": [{"name": "E", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Gi"}}},
        {"name": "R", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu"}}},
        {"name": "C", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}}]"#,
    );
    assert_eq!(
        (
            unlimited["E"].as_str(),
            unlimited["R"].as_str(),
            unlimited["C"].as_str()
        ),
        ("3", "0", "1800")
    );
    let bad = resolve(
        r#", "env": [{"name": "E", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "containerName": "no"}}}]"#,
    );
    assert_eq!(bad.unwrap_err().message, "container \"no\" not found");
}

#[test]
fn mounts_follow_the_container() {
    let c = resolve_in(
        r#""volumes": [{"name": "v", "emptyDir": {}}, {"name": "h", "hostPath": {"path": "/srv"}}],"#,
        r#", "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": true},
            {"name": "h", "mountPath": "rel", "mountPropagation": "Bidirectional"},
            {"name": "h", "mountPath": "/slave", "mountPropagation": "HostToContainer"}]"#,
    )
    .unwrap();
    let m = &c.mounts;
    assert_eq!(
        m[0].host_path,
        "/var/lib/kubelet/pods/uid-1/volumes/kubernetes.io~empty-dir/v"
    );
    assert_eq!((m[0].container_path.as_str(), m[0].readonly), ("/v", true));
    assert_eq!(
        (m[1].container_path.as_str(), m[1].host_path.as_str()),
        ("/rel", "/srv")
    );
    assert_eq!(
        (m[0].propagation, m[1].propagation, m[2].propagation),
        (
            Propagation::Private,
            Propagation::Bidirectional,
            Propagation::HostToContainer
        )
    );
    assert_eq!(m[3].container_path, "/etc/hosts");
    assert_eq!(m[3].host_path, "/var/lib/kubelet/pods/uid-1/etc-hosts");
    let own = resolve_in(
        r#""volumes": [{"name": "v", "emptyDir": {}}],"#,
        r#", "volumeMounts": [{"name": "v", "mountPath": "/etc/hosts"}]"#,
    )
    .unwrap();
    assert_eq!(
        own.mounts
            .iter()
            .filter(|m| m.container_path == "/etc/hosts")
            .count(),
        1
    );
    let lost = resolve(r#", "volumeMounts": [{"name": "no", "mountPath": "/v"}]"#).unwrap_err();
    assert_eq!(
        lost.message,
        "cannot find volume \"no\" to mount into the container"
    );
}

#[test]
fn payload_volumes_are_mounted_read_only() {
    let check = |source: &str, expected: bool| {
        let pod = pod(&format!(
            r#"{{"spec": {{"volumes": [{{"name": "v", {source}}}], "containers": [{{"name": "c", "volumeMounts":
                [{{"name": "v", "mountPath": "/v"}}]}}]}}}}"#
        ));
        let spec = container(&pod, "c", &objects(), &node(), &instance()).unwrap();
        assert_eq!(spec.mounts[0].readonly, expected, "{source}");
    };
    check(r#""configMap": {"name": "m", "optional": true}"#, true);
    check(r#""secret": {"secretName": "s", "optional": true}"#, true);
    check(r#""downwardAPI": {"items": []}"#, true);
    check(r#""projected": {"sources": []}"#, true);
    check(r#""emptyDir": {}"#, false);
    check(r#""hostPath": {"path": "/etc"}"#, false);
}

#[test]
fn recursive_read_only_needs_the_runtime() {
    let check = |mode: &str, can: bool, expected: Result<bool, &str>| {
        let pod = pod(&format!(
            r#"{{"spec": {{"volumes": [{{"name": "v", "emptyDir": {{}}}}], "containers": [{{"name": "c", "volumeMounts":
                [{{"name": "v", "mountPath": "/v", "readOnly": true, "recursiveReadOnly": "{mode}"}}]}}]}}}}"#
        ));
        let mut node = node();
        if can {
            node.recursive_read_only_handlers.push(String::new());
        }
        let said = container(&pod, "c", &objects(), &node, &instance());
        let said = said
            .map(|c| c.mounts[0].recursive_read_only)
            .map_err(|e| e.message);
        assert_eq!(said, expected.map_err(str::to_owned), "{mode} {can}");
    };
    check("Disabled", true, Ok(false));
    check("IfPossible", true, Ok(true));
    check("IfPossible", false, Ok(false));
    check("Enabled", true, Ok(true));
    check(
        "Enabled",
        false,
        Err(
            "volume \"v\" requested recursive read-only mode, but it is not supported by the runtime",
        ),
    );
}

#[test]
fn sub_paths_stay_inside_the_volume() {
    let check = |mount: &str, expected: Result<&str, &str>| {
        let said = resolve_in(
            r#""volumes": [{"name": "h", "hostPath": {"path": "/srv"}}],"#,
            &format!(
                r#", "env": [{{"name": "POD", "value": "web"}}, {{"name": "UP", "value": "a/../.."}}],
                   "volumeMounts": [{{"name": "h", "mountPath": "/v", {mount}}}]"#
            ),
        );
        let said = said.map(|c| {
            assert_eq!(
                (c.sub_paths[0].mount, c.sub_paths[0].volume_path.as_str()),
                (0, "/srv")
            );
            c.mounts[0].host_path.clone()
        });
        assert_eq!(
            said.map_err(|e| e.message),
            expected.map(str::to_owned).map_err(str::to_owned),
            "{mount}"
        );
    };
    check(r#""subPath": "a/b""#, Ok("/srv/a/b"));
    check(r#""subPathExpr": "x/$(POD)""#, Ok("/srv/x/web"));
    check(
        r#""subPath": "/etc""#,
        Err("error SubPath `/etc` must not be an absolute path"),
    );
    check(
        r#""subPath": "a/../b""#,
        Err("unable to provision SubPath `a/../b`: must not contain '..'"),
    );
    check(
        r#""subPathExpr": "$(UP)""#,
        Err("unable to provision SubPath `a/../..`: must not contain '..'"),
    );
    check(
        r#""subPathExpr": "$(NO)""#,
        Err("missing value for \"NO\" in subPathExpr \"$(NO)\""),
    );
    check(
        r#""subPathExpr": "`x`""#,
        Err("subPathExpr \"`x`\" gives the invalid path \"`x`\""),
    );
}

#[test]
fn an_ephemeral_container_enters_its_target() {
    let pod = pod(
        r#"{"spec": {"volumes": [{"name": "v", "emptyDir": {}}], "containers": [{"name": "c"}], "ephemeralContainers":
            [{"name": "e", "image": "i:1", "targetContainerName": "c", "command": ["sh"], "args": ["-c"], "workingDir": "/w",
              "env": [{"name": "E", "value": "1"}], "envFrom": [{"configMapRef": {"name": "cm"}}], "stdin": true,
              "stdinOnce": true, "tty": true, "terminationMessagePath": "/m", "terminationMessagePolicy": "FallbackToLogsOnError",
              "securityContext": {"privileged": true}, "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}}"#,
    );
    let with_target = Instance {
        target_id: Some("id-c".into()),
        ..instance()
    };
    let c = container(&pod, "e", &objects(), &node(), &with_target).unwrap();
    assert_eq!(c.security.namespaces.pid, NamespaceMode::Target);
    assert_eq!(c.security.namespaces.target_id.as_deref(), Some("id-c"));
    assert!(c.security.privileged && c.stdin && c.stdin_once && c.tty);
    assert_eq!(
        (c.command, c.args, c.working_dir),
        (
            vec!["sh".to_owned()],
            vec!["-c".to_owned()],
            "/w".to_owned()
        )
    );
    assert!(c.env.contains(&("E".into(), "1".into())) && c.env.contains(&("A".into(), "a".into())));
    assert_eq!(c.mounts[0].container_path, "/v");
    assert_eq!(
        c.annotations["io.kubernetes.container.terminationMessagePath"],
        "/m"
    );
    assert_eq!(
        c.annotations["io.kubernetes.container.terminationMessagePolicy"],
        "FallbackToLogsOnError"
    );
}

#[test]
fn namespaces_follow_the_pod() {
    let check = |spec: &str, network, pid, ipc| {
        let pod = pod(&format!(
            r#"{{"spec": {{{spec} "containers": [{{"name": "c"}}]}}}}"#
        ));
        let s = sandbox(&pod, &objects(), &node(), 0).unwrap();
        let c = container(&pod, "c", &objects(), &node(), &instance()).unwrap();
        for n in [s.security.namespaces, c.security.namespaces] {
            assert_eq!((n.network, n.pid, n.ipc), (network, pid, ipc), "{spec}");
        }
    };
    use NamespaceMode::{Container, Node, Pod};
    check("", Pod, Container, Pod);
    check(r#""hostNetwork": true,"#, Node, Container, Pod);
    check(r#""hostPID": true, "hostIPC": true,"#, Pod, Node, Node);
    check(r#""shareProcessNamespace": true,"#, Pod, Pod, Pod);
}

#[test]
fn security_reaches_sandbox_and_containers() {
    let pod = pod(
        r#"{"spec": {"securityContext": {"runAsUser": 1000, "runAsGroup": 100, "fsGroup": 7, "supplementalGroups": [8],
              "supplementalGroupsPolicy": "Strict", "seccompProfile": {"type": "RuntimeDefault"},
              "seLinuxOptions": {"user": "u", "role": "r", "type": "t", "level": "l"},
              "appArmorProfile": {"type": "Localhost", "localhostProfile": "prof"},
              "sysctls": [{"name": "net/ipv4/tcp_syncookies", "value": "0"}]},
            "containers": [{"name": "c"}, {"name": "own", "securityContext": {"runAsUser": 5, "runAsGroup": 6, "privileged": true,
              "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false, "procMount": "Unmasked",
              "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}, "seLinuxOptions": {"type": "x"},
              "seccompProfile": {"type": "Localhost", "localhostProfile": "a.json"}, "appArmorProfile": {"type": "Unconfined"}}}]}}"#,
    );
    let s = sandbox(&pod, &objects(), &node(), 0).unwrap();
    assert_eq!(
        (s.security.run_as_user, s.security.run_as_group),
        (Some(1000), Some(100))
    );
    assert!(s.security.privileged, "one of its containers is");
    assert_eq!(s.security.seccomp, SecurityProfile::RuntimeDefault);
    assert_eq!(s.sysctls["net.ipv4.tcp_syncookies"], "0");
    let get = |name: &str| {
        container(&pod, name, &objects(), &node(), &instance())
            .unwrap()
            .security
    };
    let c = get("c");
    assert_eq!((c.run_as_user, c.run_as_group), (Some(1000), Some(100)));
    assert_eq!(
        (c.supplemental_groups, c.supplemental_groups_policy),
        (vec![7, 8], GroupsPolicy::Strict)
    );
    assert_eq!(c.seccomp, Some(SecurityProfile::RuntimeDefault));
    assert_eq!(c.apparmor, Some(SecurityProfile::Localhost("prof".into())));
    let label = c.selinux.unwrap();
    assert_eq!(
        [label.user, label.role, label.kind, label.level],
        ["u", "r", "t", "l"]
    );
    assert!(
        c.masked_paths.contains(&"/proc/kcore".to_owned())
            && c.readonly_paths.contains(&"/proc/sys".to_owned())
    );
    assert!(!c.no_new_privs && !c.privileged && !c.readonly_rootfs);
    let own = get("own");
    assert_eq!((own.run_as_user, own.run_as_group), (Some(5), Some(6)));
    assert!(
        own.privileged && own.readonly_rootfs && own.no_new_privs && own.masked_paths.is_empty()
    );
    assert_eq!(
        (own.add_capabilities, own.drop_capabilities),
        (vec!["NET_ADMIN".to_owned()], vec!["ALL".to_owned()])
    );
    assert_eq!(
        own.seccomp,
        Some(SecurityProfile::Localhost(
            "/var/lib/kubelet/seccomp/a.json".into()
        ))
    );
    assert_eq!(own.apparmor, Some(SecurityProfile::Unconfined));
    assert_eq!(own.selinux.unwrap().kind, "x");
}

#[test]
fn run_as_non_root_is_verified() {
    let check = |user: &str, image: ImageFacts, expected: &str| {
        let pod = pod(&format!(
            r#"{{"spec": {{"securityContext": {{"runAsNonRoot": true}}, "containers": [{{"name": "c", "securityContext": {{{user}}}}}]}}}}"#
        ));
        let instance = Instance {
            image,
            ..instance()
        };
        let said = container(&pod, "c", &objects(), &node(), &instance);
        assert_eq!(
            said.map(|_| String::new()).unwrap_or_else(|e| e.message),
            expected
        );
    };
    let image = |uid, username: &str| ImageFacts {
        uid,
        username: username.into(),
        ..ImageFacts::default()
    };
    check(r#""runAsUser": 1"#, image(None, ""), "");
    check(r#""runAsNonRoot": false"#, image(Some(0), ""), "");
    check("", image(Some(1), ""), "");
    check(
        r#""runAsUser": 0"#,
        image(None, ""),
        "container's runAsUser breaks non-root policy (container: c)",
    );
    check(
        "",
        image(None, ""),
        "container has runAsNonRoot and image will run as root (container: c)",
    );
    check(
        "",
        image(None, "nobody"),
        "container has runAsNonRoot and image has non-numeric user (nobody), cannot verify user is non-root (container: c)",
    );
}

#[test]
fn ports_with_a_host_port_become_mappings() {
    let with = |more: &str| {
        let pod = pod(&format!(
            r#"{{"spec": {{{more} "containers": [{{"name": "c", "ports": [{{"containerPort": 80}},
                {{"containerPort": 53, "hostPort": 5353, "protocol": "UDP", "hostIP": "192.0.2.1"}}]}}]}}}}"#
        ));
        sandbox(&pod, &objects(), &node(), 0).unwrap().port_mappings
    };
    let ports = with("");
    assert_eq!(ports.len(), 1);
    let p = &ports[0];
    assert_eq!(
        (
            p.protocol,
            p.container_port,
            p.host_port,
            p.host_ip.as_str()
        ),
        (Protocol::Udp, 53, 5353, "192.0.2.1")
    );
    assert_eq!(with(r#""hostNetwork": true,"#), []);
}

#[test]
fn host_names_are_cut_qualified_and_overridden() {
    let check = |name: &str, spec: &str, expected: Result<&str, &str>| {
        let mut pod = pod(&format!(r#"{{"spec": {{"containers": [] {spec}}}}}"#));
        pod.metadata.name = Some(name.into());
        let said = hostname(&pod, &node()).map_err(|e| e.message);
        assert_eq!(
            said,
            expected.map(str::to_owned).map_err(str::to_owned),
            "{spec}"
        );
    };
    check("web", "", Ok("web"));
    check("web", r#", "hostname": "h""#, Ok("h"));
    check("web", r#", "hostname": "h", "subdomain": "sub""#, Ok("h"));
    let sub = r#", "subdomain": "sub", "setHostnameAsFQDN": true"#;
    check("web", sub, Ok("web.sub.ns.svc.cluster.local"));
    check("web", r#", "setHostnameAsFQDN": true"#, Ok("web"));
    check(
        "web",
        r#", "hostnameOverride": "other.example", "hostname": "h", "subdomain": "s""#,
        Ok("other.example"),
    );
    let long = format!("{}-{}", "a".repeat(62), "b".repeat(10));
    check(&long, "", Ok(&"a".repeat(62)));
    check(
        &"a".repeat(50),
        sub,
        Err(&format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {}.sub.ns.svc.cluster.local is too long (64 characters is the max, 75 characters requested)",
            "a".repeat(50)
        )),
    );
}

#[test]
fn a_runtime_class_gives_the_handler() {
    let pod = pod(
        r#"{"spec": {"runtimeClassName": "fast", "overhead": {"cpu": "250m", "memory": "1Mi"}, "containers": [{"name": "c"}]}}"#,
    );
    let mut objects = objects();
    let lost = sandbox(&pod, &objects, &node(), 0).unwrap_err();
    assert_eq!(lost.message, "RuntimeClass \"fast\" not found");
    objects.runtime_class =
        serde_json::from_str(r#"{"metadata": {"name": "fast"}, "handler": "runc-fast"}"#).ok();
    let s = sandbox(&pod, &objects, &node(), 2).unwrap();
    assert_eq!((s.runtime_handler.as_str(), s.attempt), ("runc-fast", 2));
    let overhead = s.overhead.unwrap();
    assert_eq!((overhead.cpu_shares, overhead.memory_limit), (256, 1 << 20));
}

#[test]
fn a_sandbox_has_names_cgroup_and_labels() {
    let pod = pod(
        r#"{"metadata": {"labels": {"app": "web"}, "annotations": {"a": "1"}},
            "spec": {"hostNetwork": true, "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}}"#,
    );
    let s = sandbox(&pod, &objects(), &node(), 0).unwrap();
    assert_eq!(
        (
            s.name.as_str(),
            s.namespace.as_str(),
            s.uid.as_str(),
            s.hostname.as_str()
        ),
        ("web", "ns", "uid-1", "")
    );
    assert_eq!(s.cgroup_parent, "/kubepods/burstable/poduid-1");
    assert_eq!(s.log_directory, "/var/log/pods/ns_web_uid-1");
    assert_eq!(
        (
            s.labels["app"].as_str(),
            s.labels["io.kubernetes.pod.name"].as_str()
        ),
        ("web", "web")
    );
    assert_eq!(s.annotations["a"], "1");
    assert_eq!(
        crate::spec::labels::owner(&s.labels),
        Some(("ns", "web", "uid-1"))
    );
    assert_eq!(s.resources.unwrap().cpu_shares, 1024);
}
