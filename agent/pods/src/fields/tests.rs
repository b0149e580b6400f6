use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::*;
use crate::testing::pod;

fn check_pod(spec: &str, expected: &[&str]) {
    let pod = pod(&format!(r#"{{"spec": {{{spec}}}}}"#));
    let said: Vec<String> = check(&pod).iter().map(ToString::to_string).collect();
    assert_eq!(said, expected, "{spec}");
}

#[test]
fn a_plain_pod_is_supported() {
    check_pod(
        r#""containers": [{"name": "c", "image": "i", "resources": {}, "restartPolicyRules": []}], "hostUsers": true,
           "securityContext": {}, "volumes": [{"name": "v", "emptyDir": {}}]"#,
        &[],
    );
}

#[test]
fn refused_fields_are_named_with_their_path() {
    check_pod(
        r#""resourceClaims": [{"name": "r"}], "resources": {}, "volumes": [{"name": "v", "emptyDir": {}},
           {"name": "p", "persistentVolumeClaim": {"claimName": "x"}}, {"name": "n", "nfs": {"server": "s", "path": "/"}},
           {"name": "i", "image": {"reference": "r"}}, {"name": "k", "csi": {"driver": "d"}}], "containers": []"#,
        &[
            "spec.resourceClaims: dynamic resource claims are not supported by this node",
            "spec.resources: resources of the pod as a whole are not supported by this node",
            "spec.volumes[1].persistentVolumeClaim: persistent volume claims are not supported by this node",
            "spec.volumes[2].nfs: NFS volumes are not supported by this node",
            "spec.volumes[4].csi: CSI volumes are not supported by this node",
        ],
    );
    check_pod(
        r#""containers": [{"name": "c", "volumeDevices": [{"name": "v", "devicePath": "/d"}], "restartPolicy": "Never",
             "lifecycle": {"preStop": {"tcpSocket": {"port": 1}}},
             "env": [{"name": "E", "valueFrom": {"fileKeyRef": {"key": "k", "path": "p", "volumeName": "v"}}}],
             "volumeMounts": [{"name": "v", "mountPath": "/v", "bindMountOptions": ["noexec"]}]}]"#,
        &[
            "spec.containers[0].restartPolicy: a restart policy other than Always of an init container is not supported by this node",
            "spec.containers[0].volumeDevices: block devices of volumes are not supported by this node",
            "spec.containers[0].volumeMounts[0].bindMountOptions: bind mount options are not supported by this node",
            "spec.containers[0].env[0].valueFrom.fileKeyRef: environment files are not supported by this node",
            "spec.containers[0].lifecycle.preStop.tcpSocket: TCP sockets as lifecycle hooks are not supported by this node",
            "spec.containers[0].restartPolicy: a restart policy of an app container's own is not supported by this node",
        ],
    );
    check_pod(
        r#""containers": [], "ephemeralContainers": [{"name": "e", "livenessProbe": {"exec": {}}}]"#,
        &[
            "spec.ephemeralContainers[0].livenessProbe: probes of ephemeral containers are not supported by this node",
        ],
    );
}

#[test]
fn values_that_are_not_supported_are_named() {
    let probe =
        |action: &str| format!(r#""containers": [{{"name": "c", "livenessProbe": {{{action}}}}}]"#);
    let at = "spec.containers[0].livenessProbe";
    check_pod(&probe(r#""grpc": {"port": 1, "mode": "Plaintext"}"#), &[]);
    check_pod(
        &probe(r#""grpc": {"port": 1, "mode": "TLS"}"#),
        &[&format!(
            "{at}.grpc.mode: a gRPC probe over TLS is not supported by this node"
        )],
    );
    check_pod(
        &probe(r#""httpGet": {"port": 1, "protocol": "HTTP/1.1"}"#),
        &[],
    );
    check_pod(
        &probe(r#""httpGet": {"port": 1, "protocol": "HTTP/2"}"#),
        &[&format!(
            "{at}.httpGet.protocol: a wire protocol other than HTTP/1.1 is not supported by this node"
        )],
    );
    check_pod(
        r#""containers": [{"name": "c", "env": [{"name": "E", "valueFrom":
            {"fieldRef": {"apiVersion": "v2", "fieldPath": "metadata.name"}}}]}]"#,
        &[
            "spec.containers[0].env[0].valueFrom.fieldRef.apiVersion: an apiVersion other than v1 is not supported by this node",
        ],
    );
}

/// A supported row whose test does not exist is a claim that nothing checks.
#[test]
fn every_supported_row_names_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut names = BTreeSet::new();
    for dir in ["agent", "qemu-tests"] {
        functions(&root.join(dir), &mut names);
    }
    assert!(names.len() > 100, "the sources were found");
    let rows = rows();
    assert!(rows.len() > 200, "the table is whole: {}", rows.len());
    let missing: BTreeSet<&str> = rows
        .iter()
        .filter_map(|row| match row.verdict {
            Verdict::Supported { test } | Verdict::Partly { test, .. } => Some(test),
            Verdict::Refused { .. } => None,
        })
        .filter(|test| !names.contains(*test))
        .collect();
    assert_eq!(missing, BTreeSet::new());
}

/// Names of test functions: an `fn` right after `#[test]` or an async test attribute.
fn functions(dir: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            functions(&path, names);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let mut in_test = false;
            for line in text.lines().map(str::trim) {
                if line.starts_with("#[") {
                    in_test |= line.contains("test");
                } else if let Some(rest) = line.trim_start_matches("async ").strip_prefix("fn ") {
                    if in_test {
                        names.extend(rest.split(['(', '<']).next().map(str::to_owned));
                    }
                    in_test = false;
                } else if !line.starts_with("///") {
                    in_test = false;
                }
            }
        }
    }
}

#[test]
fn json_names_are_the_apis() {
    // A pod that uses every field, under the names the table makes: each must be read back by the API's own types.
    for (field, expected) in [
        ("host_ipc", "hostIPC"),
        ("se_linux_options", "seLinuxOptions"),
        ("set_hostname_as_fqdn", "setHostnameAsFQDN"),
        ("run_as_non_root", "runAsNonRoot"),
        ("type_", "type"),
    ] {
        assert_eq!(table::json_name(field), expected);
    }
    let names: Vec<String> = serde_json::to_value(full_volume())
        .unwrap()
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    let ours: BTreeSet<String> = rows()
        .iter()
        .filter(|r| r.kind == "Volume")
        .map(|r| table::json_name(r.field))
        .collect();
    for name in names {
        assert!(ours.contains(&name), "{name}");
    }
}

fn full_volume() -> Volume {
    Volume {
        aws_elastic_block_store: Some(Default::default()),
        azure_disk: Some(Default::default()),
        downward_api: Some(Default::default()),
        gce_persistent_disk: Some(Default::default()),
        persistent_volume_claim: Some(Default::default()),
        scale_io: Some(Default::default()),
        storageos: Some(Default::default()),
        ..Volume::default()
    }
}
