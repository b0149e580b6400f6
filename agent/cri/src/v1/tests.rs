//! Field numbers against bytes made with the Go types of cri-api 0.37.1 (`upstream.txt`: name, hex), every field set.
//!
//! Decoding drops what it does not know, so a message that survives decode and encode has every number right; the golden
//! of the two big configurations shows that each value also landed under its name.

use expect_test::expect_file;
use prost::Message;

use super::*;

fn upstream(name: &str) -> Vec<u8> {
    let line = include_str!("tests/upstream.txt")
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        .unwrap();
    (0..line.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&line[at..at + 2], 16).unwrap())
        .collect()
}

fn survives<M: Message + Default>(name: &str) -> M {
    let bytes = upstream(name);
    let message = M::decode(bytes.as_slice()).unwrap();
    assert_eq!(message.encode_to_vec(), bytes, "{name}");
    message
}

#[test]
fn every_message_survives_decode_and_encode() {
    survives::<PodSandboxConfig>("sandbox_config");
    survives::<ContainerConfig>("container_config");
    survives::<ContainerEventResponse>("container_event");
    survives::<ListContainersResponse>("list_containers");
    survives::<ListPodSandboxResponse>("list_sandboxes");
    survives::<StatusResponse>("status");
    survives::<ListImagesResponse>("list_images");
    survives::<ExecSyncRequest>("exec_sync");
    survives::<ExecRequest>("exec");
    survives::<AttachRequest>("attach");
    survives::<PullImageRequest>("pull");
    survives::<ContainerStatsResponse>("stats");
    survives::<RuntimeConfigResponse>("runtime_config");
}

#[test]
fn values_land_under_their_names() {
    let sandbox: PodSandboxConfig = survives("sandbox_config");
    expect_file!["./tests/sandbox_config.txt"].assert_eq(&format!("{sandbox:#?}\n"));
    let container: ContainerConfig = survives("container_config");
    expect_file!["./tests/container_config.txt"].assert_eq(&format!("{container:#?}\n"));
}

#[test]
fn secrets_do_not_appear_in_debug_output() {
    let env = KeyValue {
        key: "TOKEN".into(),
        value: b"hunter2".to_vec(),
    };
    assert_eq!(format!("{env:?}"), "TOKEN=<7 bytes>");
    let auth = AuthConfig {
        password: "hunter2".into(),
        ..AuthConfig::default()
    };
    assert!(!format!("{auth:?}").contains("hunter2"));
}
