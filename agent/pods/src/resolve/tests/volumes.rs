use super::{node, objects, pod};
use crate::action::PullPolicy;
use crate::resolve::{NodeFacts, Reason, volumes};
use crate::volume::{
    Content, File, FilesSource, FsGroup, HostPathType, Medium, TokenRequest, Volume, VolumePlan,
};

fn of(spec: &str, volume: &str, node: &NodeFacts) -> Result<Volume, Reason> {
    let pod = pod(&format!(
        r#"{{"metadata": {{"labels": {{"app": "web"}}}}, "spec": {{{spec} "volumes": [{{"name": "v", {volume}}}],
            "containers": [{{"name": "c", "resources": {{"limits": {{"memory": "1Gi", "hugepages-2Mi": "4Mi"}}}}}}]}}}}"#
    ));
    volumes(&pod, &objects(), node).map(|mut list| list.remove(0))
}

fn plan(volume: &str) -> VolumePlan {
    of("", volume, &node()).unwrap().plan
}

/// Files as `path mode owner content`.
fn files(volume: &str) -> Vec<String> {
    let VolumePlan::Files { files, .. } = plan(volume) else {
        panic!("{volume} has files");
    };
    files.iter().map(show).collect()
}

fn show(f: &File) -> String {
    let content = match &f.content {
        Content::Bytes(b) => String::from_utf8_lossy(b).into_owned(),
        Content::Token(t) => format!(
            "token of {} for {:?}, {} s",
            t.service_account, t.audience, t.expiration_seconds
        ),
        Content::Certificate(c, part) => format!(
            "{part:?} of {}[{}]: {} {:?} for {} {:?} {:?}",
            c.volume,
            c.source,
            c.signer,
            c.key_type,
            c.service_account,
            c.max_expiration_seconds,
            c.annotations
        ),
    };
    let owner = f.uid.map_or("root".to_owned(), |u| u.to_string());
    format!("{} {:o} {owner} {content}", f.path, f.mode)
}

#[test]
fn volumes_become_plans() {
    let dir = "/var/lib/kubelet/pods/uid-1/volumes/kubernetes.io~";
    let check = |volume: &str, path: &str| {
        let v = of("", volume, &node()).unwrap();
        assert_eq!(v.name, "v");
        assert_eq!(v.path.display().to_string(), path, "{volume}");
    };
    check(r#""emptyDir": {}"#, &format!("{dir}empty-dir/v"));
    check(
        r#""configMap": {"name": "cm"}"#,
        &format!("{dir}configmap/v"),
    );
    check(
        r#""secret": {"secretName": "s"}"#,
        &format!("{dir}secret/v"),
    );
    check(r#""downwardAPI": {}"#, &format!("{dir}downward-api/v"));
    check(r#""projected": {}"#, &format!("{dir}projected/v"));
    check(r#""hostPath": {"path": "/srv"}"#, "/srv");
    let host = |kind: &str| {
        plan(&format!(
            r#""hostPath": {{"path": "/srv", "type": "{kind}"}}"#
        ))
    };
    let expected = |kind| VolumePlan::HostPath {
        path: "/srv".into(),
        kind,
    };
    assert_eq!(host(""), expected(HostPathType::Unset));
    assert_eq!(
        host("DirectoryOrCreate"),
        expected(HostPathType::DirectoryOrCreate)
    );
    assert_eq!(host("Socket"), expected(HostPathType::Socket));
    assert_eq!(
        files(r#""configMap": {"name": "cm"}"#),
        [
            "A 644 root a",
            "bin 644 root \u{fffd}",
            "key 644 root value"
        ]
    );
    assert_eq!(
        files(r#""secret": {"secretName": "s"}"#),
        ["B 644 root b", "key 644 root s3cret"]
    );
    assert_eq!(
        files(
            r#""downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]}"#
        ),
        ["l 644 root app=\"web\""]
    );
    assert!(FilesSource::Secret.in_memory() && !FilesSource::ConfigMap.in_memory());
}

#[test]
fn payload_files_have_modes_owners_and_items() {
    assert_eq!(
        files(
            r#""configMap": {"name": "cm", "defaultMode": 384, "defaultUser": 5, "items":
                [{"key": "key", "path": "d/x"}, {"key": "A", "path": "y", "mode": 292, "user": 9}]}"#
        ),
        ["d/x 600 5 value", "y 444 9 a"]
    );
    assert_eq!(
        files(
            r#""secret": {"secretName": "s", "defaultMode": 256, "defaultUser": 5,
                "items": [{"key": "B", "path": "b", "mode": 511}, {"key": "key", "path": "k"}]}"#
        ),
        ["b 777 5 b", "k 400 5 s3cret"]
    );
    assert_eq!(
        files(
            r#""downwardAPI": {"defaultMode": 256, "defaultUser": 5, "items": [{"path": "m", "mode": 420, "user": 6,
                "resourceFieldRef": {"containerName": "c", "resource": "limits.memory", "divisor": "1Mi"}},
                {"path": "n", "fieldRef": {"fieldPath": "metadata.name"}}]}"#
        ),
        ["m 644 6 1024", "n 400 5 web"]
    );
    let odd = |path: &str| {
        let volume = format!(
            r#""configMap": {{"name": "cm", "items": [{{"key": "A", "path": "{path}"}}]}}"#
        );
        of("", &volume, &node()).unwrap_err().message
    };
    for path in ["../x", "/x", "a/../x", "..x", ""] {
        assert_eq!(
            odd(path),
            format!("volume \"v\" has the invalid file path {path:?}")
        );
    }
}

#[test]
fn projected_sources_are_joined_and_the_later_wins() {
    assert_eq!(
        files(
            r#""projected": {"defaultMode": 288, "defaultUser": 5, "sources": [
                {"configMap": {"name": "cm", "items": [{"key": "A", "path": "a"}, {"key": "key", "path": "both"}]}},
                {"secret": {"name": "s", "items": [{"key": "B", "path": "both"}]}},
                {"downwardAPI": {"items": [{"path": "n", "fieldRef": {"fieldPath": "metadata.name"}}]}},
                {"clusterTrustBundle": {"name": "ctb", "path": "ca.pem", "user": 8}},
                {"clusterTrustBundle": {"signerName": "ctb", "labelSelector": {"matchLabels": {"a": "1"}}, "path": "cb.pem"}},
                {"clusterTrustBundle": {"signerName": "ctb", "path": "none.pem", "optional": true}},
                {"serviceAccountToken": {"path": "token"}}]}"#
        ),
        [
            "a 440 5 a",
            "both 440 5 b",
            "ca.pem 600 8 PEM",
            "cb.pem 600 5 SIGNED",
            "n 440 5 web",
            "none.pem 600 5 ",
            "token 600 5 token of default for \"\", 3600 s"
        ]
    );
}

#[test]
fn pod_certificates_have_a_file_per_part() {
    let source = |more: &str| {
        format!(
            r#""projected": {{"sources": [{{"configMap": {{"name": "cm"}}}}, {{"podCertificate": {{
                "signerName": "example.com/s", {more}}}}}]}}"#
        )
    };
    let of_certificate = |spec: &str, more: &str| -> Vec<String> {
        let VolumePlan::Files { files, .. } = of(spec, &source(more), &node()).unwrap().plan else {
            panic!("a projected volume has files");
        };
        let made = files
            .iter()
            .filter(|f| matches!(f.content, Content::Certificate(..)));
        made.map(show).collect()
    };
    assert_eq!(
        of_certificate(
            r#""serviceAccountName": "robot","#,
            r#""keyType": "ECDSAP256", "credentialBundlePath": "b.pem", "keyPath": "k.pem", "certificateChainPath": "c.pem""#
        ),
        [
            "b.pem 644 root Bundle of v[1]: example.com/s EcdsaP256 for robot None {}",
            "c.pem 644 root Chain of v[1]: example.com/s EcdsaP256 for robot None {}",
            "k.pem 644 root Key of v[1]: example.com/s EcdsaP256 for robot None {}",
        ]
    );
    let more = r#""keyType": "ED25519", "credentialBundlePath": "b.pem", "maxExpirationSeconds": 3600, "userAnnotations": {"example.com/a": "1"}"#;
    let expected = |mode: &str| {
        [format!(
            "b.pem {mode} Bundle of v[1]: example.com/s Ed25519 for default Some(3600) {{\"example.com/a\": \"1\"}}"
        )]
    };
    let user = r#""securityContext": {"runAsUser": 7},"#;
    assert_eq!(of_certificate(user, more), expected("600 7"));
    let owned = format!(r#"{more}, "user": 9"#);
    assert_eq!(of_certificate(user, &owned), expected("600 9"));
    let group = r#""securityContext": {"fsGroup": 7},"#;
    assert_eq!(of_certificate(group, more), expected("600 root"));
    let rsa = source(r#""keyType": "RSA3072", "keyPath": "k.pem""#);
    assert!(of("", &rsa, &node()).is_err());
}

#[test]
fn tokens_are_readable_by_the_pods_one_user() {
    let token = |spec: &str, more: &str| {
        let volume = format!(
            r#""projected": {{"sources": [{{"serviceAccountToken": {{"path": "t", "audience": "a" {more}}}}}]}}"#
        );
        let VolumePlan::Files { files, .. } = of(spec, &volume, &node()).unwrap().plan else {
            panic!("a projected volume has files");
        };
        let Content::Token(request) = &files[0].content else {
            panic!("a token is asked for");
        };
        assert_eq!(
            *request,
            TokenRequest {
                service_account: "default".into(),
                audience: "a".into(),
                expiration_seconds: 3600,
            }
        );
        (files[0].mode, files[0].uid)
    };
    assert_eq!(token("", ""), (0o644, None));
    assert_eq!(
        token(r#""securityContext": {"runAsUser": 7},"#, ""),
        (0o600, Some(7))
    );
    assert_eq!(
        token(r#""securityContext": {"fsGroup": 7},"#, ""),
        (0o600, None)
    );
    assert_eq!(token("", r#", "user": 9"#), (0o600, Some(9)));
}

#[test]
fn the_users_of_source_and_volume_come_before_the_pods_own() {
    let check = |of_volume: &str, of_source: &str, expected: [&str; 2]| {
        let volume = format!(
            r#""projected": {{ {of_volume} "sources": [
                {{"clusterTrustBundle": {{"name": "ctb", "path": "ca.pem" {of_source}}}}},
                {{"serviceAccountToken": {{"path": "t" {of_source}}}}}]}}"#
        );
        let spec = r#""securityContext": {"runAsUser": 7},"#;
        let VolumePlan::Files { files, .. } = of(spec, &volume, &node()).unwrap().plan else {
            panic!("a projected volume has files");
        };
        let shown: Vec<String> = files.iter().map(show).collect();
        let token = format!("{} token of default for \"\", 3600 s", expected[1]);
        assert_eq!(shown, [format!("{} PEM", expected[0]), token]);
    };
    check("", "", ["ca.pem 600 7", "t 600 7"]);
    let of_volume = r#""defaultUser": 5,"#;
    check(of_volume, "", ["ca.pem 600 5", "t 600 5"]);
    check(of_volume, r#", "user": 9"#, ["ca.pem 600 9", "t 600 9"]);
}

#[test]
fn empty_dirs_have_medium_size_and_mode() {
    let check = |fields: &str, medium, size_limit, mode| {
        let expected = VolumePlan::EmptyDir {
            medium,
            size_limit,
            mode,
        };
        assert_eq!(
            plan(&format!(r#""emptyDir": {{{fields}}}"#)),
            expected,
            "{fields}"
        );
    };
    check("", Medium::Disk, None, 0o777);
    check(
        r#""sizeLimit": "1Mi", "mode": 448"#,
        Medium::Disk,
        Some(1 << 20),
        0o700,
    );
    check(
        r#""medium": "Memory", "sizeLimit": "1Mi""#,
        Medium::Memory { size: 1 << 20 },
        Some(1 << 20),
        0o777,
    );
    // The pod's own memory limit is the next bound.
    check(
        r#""medium": "Memory""#,
        Medium::Memory { size: 1 << 30 },
        None,
        0o777,
    );
    check(
        r#""medium": "HugePages""#,
        Medium::HugePages { page_size: 2 << 20 },
        None,
        0o777,
    );
    check(
        r#""medium": "HugePages-1Gi""#,
        Medium::HugePages { page_size: 1 << 30 },
        None,
        0o777,
    );
    let small = NodeFacts {
        allocatable_memory: 1 << 20,
        ..node()
    };
    let v = of("", r#""emptyDir": {"medium": "Memory"}"#, &small).unwrap();
    assert_eq!(
        v.plan,
        VolumePlan::EmptyDir {
            medium: Medium::Memory { size: 1 << 20 },
            size_limit: None,
            mode: 0o777
        }
    );
    let bad = of("", r#""emptyDir": {"medium": "Tape"}"#, &node()).unwrap_err();
    assert_eq!(bad.message, "emptyDir medium \"Tape\": unknown");
}

#[test]
fn fs_group_owns_what_the_node_makes() {
    let group = |policy: &str, volume: &str| {
        let spec = format!(r#""securityContext": {{"fsGroup": 7 {policy}}},"#);
        of(&spec, volume, &node()).unwrap().fs_group
    };
    let of_root = |only_on_root_mismatch| {
        Some(FsGroup {
            gid: 7,
            only_on_root_mismatch,
        })
    };
    assert_eq!(group("", r#""emptyDir": {}"#), of_root(false));
    assert_eq!(
        group(
            r#", "fsGroupChangePolicy": "OnRootMismatch""#,
            r#""configMap": {"name": "cm"}"#
        ),
        of_root(true)
    );
    assert_eq!(group("", r#""hostPath": {"path": "/srv"}"#), None);
}

/// Part of `missing_references_are_named_unless_optional`.
pub(super) fn missing_sources() {
    let check = |volume: &str, expected: &str| {
        let said = of("", volume, &node())
            .map(|_| String::new())
            .unwrap_or_else(|e| e.message);
        assert_eq!(said, expected, "{volume}");
    };
    check(
        r#""configMap": {"name": "no"}"#,
        "configmap \"no\" not found",
    );
    check(r#""configMap": {"name": "no", "optional": true}"#, "");
    check(
        r#""configMap": {"name": "cm", "items": [{"key": "no", "path": "p"}]}"#,
        "references non-existent config key: no",
    );
    check(
        r#""configMap": {"name": "cm", "optional": true, "items": [{"key": "no", "path": "p"}]}"#,
        "",
    );
    check(
        r#""secret": {"secretName": "no"}"#,
        "secret \"no\" not found",
    );
    check(r#""secret": {"secretName": "no", "optional": true}"#, "");
    let projected = |source: &str| format!(r#""projected": {{"sources": [{source}]}}"#);
    check(
        &projected(r#"{"configMap": {"name": "no"}}"#),
        "configmap \"no\" not found",
    );
    check(
        &projected(r#"{"configMap": {"name": "no", "optional": true}}"#),
        "",
    );
    check(
        &projected(r#"{"secret": {"name": "no"}}"#),
        "secret \"no\" not found",
    );
    check(
        &projected(r#"{"secret": {"name": "no", "optional": true}}"#),
        "",
    );
    check(
        &projected(r#"{"clusterTrustBundle": {"name": "no", "path": "p"}}"#),
        "clustertrustbundle \"no\" not found",
    );
    check(
        &projected(
            r#"{"clusterTrustBundle": {"signerName": "s", "labelSelector": {}, "path": "p"}}"#,
        ),
        "clustertrustbundle of signer \"s\" not found",
    );
    check(
        &projected(r#"{"clusterTrustBundle": {"signerName": "s", "path": "p"}}"#),
        "clustertrustbundle: a signer without a label selector matches none",
    );
    check(
        &projected(r#"{"clusterTrustBundle": {"name": "no", "path": "p", "optional": true}}"#),
        "",
    );
}

#[test]
fn an_image_volume_is_pulled_and_mounted_by_the_runtime() {
    let volume = |text: &str| format!(r#""image": {{{text}}}"#);
    let plan_of = |text: &str| of("", &volume(text), &node()).unwrap().plan;
    let image = |reference: &str, policy| VolumePlan::Image {
        reference: reference.into(),
        policy,
    };
    assert_eq!(
        plan_of(r#""reference": "r.example/data:1""#),
        image("r.example/data:1", PullPolicy::IfNotPresent)
    );
    assert_eq!(
        plan_of(r#""reference": "r.example/data:1", "pullPolicy": "Always""#),
        image("r.example/data:1", PullPolicy::Always)
    );
    let pod = pod(
        r#"{"spec": {"volumes": [{"name": "v", "image": {"reference": "r.example/data:1"}}],
        "containers": [{"name": "c", "image": "i:1", "volumeMounts": [
            {"name": "v", "mountPath": "/data", "subPath": "a/b"}]}]}}"#,
    );
    let instance = crate::resolve::Instance::default();
    let spec = crate::resolve::container(&pod, "c", &objects(), &node(), &instance).unwrap();
    let mount = &spec.mounts[0];
    assert_eq!(mount.container_path, "/data");
    assert_eq!(mount.image, Some(("r.example/data:1".into(), "a/b".into())));
    assert!(mount.readonly && mount.host_path.is_empty());
}
