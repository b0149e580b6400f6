//! Wrong input does not brick a node: it says what is wrong and what to do, and goes on when that is done.
//!
//! Each story boots a machine of its own, reads its console as an operator would, and where there is a cure applies it without a reboot.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::fixtures::{self, NAMESPACE};
use super::kit::{MINUTE, POD_START, Stage};
use super::machines::{BOOT, Guest};
use super::{Story, story};
use crate::api::{self, text_at};
use crate::controlplane::bootstrap::{NODE_PROXIER, Token, token_secret};
use crate::controlplane::plan::SERVER;
use crate::supervisor::DECOY_PORT;
use crate::supervisor::protocol::{Action, Request};
use crate::up::stamp;
use crate::wait::{self, check, seen};

pub const STORIES: [Story; 14] = [
    story("wrong-token-then-the-right-one", 420, wrong_token),
    story("expired-token", 300, expired_token),
    story("wrong-ca-hash", 300, wrong_ca_hash),
    story("unreachable-api-server", 300, unreachable),
    story("not-a-kubernetes-api-server", 300, not_kubernetes),
    story("missing-node-proxier-binding", 300, missing_binding),
    story("clock-at-1970", 420, old_clock),
    story("unknown-config-key", 300, unknown_key),
    story("duplicate-address", 300, duplicate_address),
    story("disk-too-small", 300, small_disk),
    story("corrupt-state-file-is-kept-aside", 480, corrupt_state),
    story("expired-client-certificate", 600, expired_certificate),
    story("api-server-without-a-kind-we-watch", 480, missing_kind),
    story("power-back-without-api-server", 600, power_back_alone),
];

fn wrong_token(stage: &Stage) -> Result<()> {
    let mut config = stage.cluster.node_config("bad-token");
    config.token = Some("aaaaaa.bbbbbbbbbbbbbbbb".into());
    let guest = Guest::prepare(stage, "bad-token", 20, &config)?.boot()?;
    guest.says(&["token", "aaaaaa"], BOOT)?;
    guest.reseed(&stage.cluster.node_config("bad-token").yaml())?;
    guest
        .ready()
        .map(drop)
        .context("after the right token came on the seed volume")
}

fn expired_token(stage: &Stage) -> Result<()> {
    let token = Token {
        id: "expire".into(),
        secret: "0123456789abcdef".into(),
    };
    let past = stamp(SystemTime::now() - Duration::from_secs(3600))?;
    stage.apply(&token_secret(&token, &past))?;
    let mut config = stage.cluster.node_config("bad-expired");
    config.token = Some(token.to_string());
    let guest = Guest::prepare(stage, "bad-expired", 21, &config)?.boot()?;
    guest.says(&["token", "expired"], BOOT)?;
    Ok(())
}

fn wrong_ca_hash(stage: &Stage) -> Result<()> {
    let mut config = stage.cluster.node_config("bad-hash");
    config.ca_hash = format!("sha256:{}", "0".repeat(64));
    let guest = Guest::prepare(stage, "bad-hash", 22, &config)?.boot()?;
    // It says what it found, so that the operator can compare.
    guest.says(&["cacerthashes"], BOOT)?;
    guest.says(&[&stage.cluster.description.ca_hash], MINUTE)?;
    no_node(stage, "bad-hash")
}

fn no_node(stage: &Stage, name: &str) -> Result<()> {
    match stage.api().find(&format!("/api/v1/nodes/{name}"))? {
        None => Ok(()),
        Some(_) => bail!("{name} registered"),
    }
}

fn unreachable(stage: &Stage) -> Result<()> {
    let mut config = stage.cluster.node_config("bad-server");
    config.server = "https://192.168.50.77:6443".into();
    let guest = Guest::prepare(stage, "bad-server", 23, &config)?.boot()?;
    guest.says(&["192.168.50.77:6443"], BOOT)?;
    guest.reseed(&stage.cluster.node_config("bad-server").yaml())?;
    guest
        .ready()
        .map(drop)
        .context("after the right server came on the seed volume")
}

fn not_kubernetes(stage: &Stage) -> Result<()> {
    let mut config = stage.cluster.node_config("bad-decoy");
    config.server = format!("https://{SERVER}:{DECOY_PORT}");
    let guest = Guest::prepare(stage, "bad-decoy", 24, &config)?.boot()?;
    guest.says(
        &[&format!("{SERVER}:{DECOY_PORT}"), "not", "kubernetes"],
        BOOT,
    )?;
    Ok(())
}

fn missing_binding(stage: &Stage) -> Result<()> {
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/kedge-node-proxier";
    stage.api().delete(path, None)?;
    let config = stage.cluster.node_config("bad-binding");
    let result = Guest::prepare(stage, "bad-binding", 25, &config)
        .and_then(Guest::boot)
        .and_then(|guest| {
            guest.says(&["kubectl", "system:node-proxier", "system:nodes"], BOOT)?;
            stage.cluster.apply(NODE_PROXIER)?;
            guest
                .ready()
                .map(drop)
                .context("after the binding was made")
        });
    stage.cluster.apply(NODE_PROXIER)?;
    result
}

fn old_clock(stage: &Stage) -> Result<()> {
    let config = stage.cluster.node_config("bad-clock");
    let mut guest = Guest::prepare(stage, "bad-clock", 26, &config)?;
    guest.vm.rtc = Some("1970-01-01T00:00:00".into());
    let address = std::net::Ipv4Addr::new(192, 168, 50, 36);
    let time = |answer: bool| {
        stage
            .cluster
            .client
            .request(&Request::Time { address, answer })
    };
    time(false)?;
    let result = guest.boot().and_then(|guest| {
        guest.says(&["clock"], BOOT)?;
        no_node(stage, "bad-clock")?;
        time(true)?;
        guest.ready().map(drop).context("after the time was set")
    });
    time(true)?;
    result
}

fn unknown_key(stage: &Stage) -> Result<()> {
    let good = stage.cluster.node_config("bad-key").yaml();
    let bad = good.replace("  server: ", "  sever: ");
    let guest = Guest::with_seed(stage, "bad-key", 27, &bad)?.boot()?;
    guest.says(&["sever", "did you mean", "server"], BOOT)?;
    // line:column of the key.
    guest.says(&["kedge.yaml:6:3"], MINUTE)?;
    guest.reseed(&good)?;
    guest
        .ready()
        .map(drop)
        .context("after the corrected document came on the seed volume")
}

fn duplicate_address(stage: &Stage) -> Result<()> {
    let taken = stage.cluster.node_address(&stage.node(1)?)?;
    stage.cluster.client.request(&Request::Lease {
        index: 28,
        address: taken.parse().context("parse the address")?,
    })?;
    let guest = Guest::prepare(
        stage,
        "bad-address",
        28,
        &stage.cluster.node_config("bad-address"),
    )?
    .boot()?;
    guest.says(&[&taken, "already used"], BOOT)?;
    stage.cluster.client.request(&Request::Lease {
        index: 28,
        address: std::net::Ipv4Addr::new(192, 168, 50, 38),
    })?;
    guest
        .ready()
        .context("after the DHCP server gave another address")?;
    // The rightful owner did not notice.
    stage.all_nodes_ready(MINUTE).map(drop)
}

/// The disk ends inside DATA.
fn small_disk(stage: &Stage) -> Result<()> {
    let guest = Guest::prepare(
        stage,
        "bad-disk",
        29,
        &stage.cluster.node_config("bad-disk"),
    )?;
    let disk = guest.vm.disks.first().context("no disk")?;
    let manifest = std::fs::read(
        stage
            .cluster
            .description
            .artefacts
            .image
            .join(kedge_image::MANIFEST),
    )
    .context("read the image's manifest")?;
    let manifest: serde_json::Value =
        serde_json::from_slice(&manifest).context("parse the image's manifest")?;
    let slots = manifest["disk"].as_array().cloned().unwrap_or_default();
    let data = slots
        .iter()
        .find(|slot| slot["name"] == kedge_machine::paths::LABEL_DATA)
        .context("the manifest lists no DATA")?;
    let length = data["offset"].as_u64().context("DATA has no offset")? + (100 << 20);
    std::fs::OpenOptions::new()
        .write(true)
        .open(disk)
        .and_then(|file| file.set_len(length))
        .context("cut the disk")?;
    let guest = guest.boot()?;
    guest.says(&["disk", "small"], BOOT)?;
    Ok(())
}

fn corrupt_state(stage: &Stage) -> Result<()> {
    let guest = Guest::prepare(
        stage,
        "bad-state",
        30,
        &stage.cluster.node_config("bad-state"),
    )?
    .boot()?;
    let boot = text_at(&guest.ready()?, "/status/nodeInfo/bootID").to_owned();
    let tool = fixtures::tool(stage, "bad-state")?;
    stage.sh(&tool, "echo garbage > /host/state/node.json; sync")?;
    let mark = guest.mark();
    guest.act(Action::PowerCut)?;
    guest.act(Action::PowerOn)?;
    guest.says_after(mark, &["node.json", "kept"], BOOT)?;
    guest.until_node("Ready on a new boot", BOOT, |node| {
        let another = text_at(node, "/status/nodeInfo/bootID") != boot;
        check(another && api::condition(node, "Ready") == "True", || {
            format!("another boot: {another}, not Ready")
        })
    })?;
    // The pod is the one from before the power cut: the API still calls it Ready while the node starts it again.
    wait::until("the corrupt file is kept aside", POD_START, || {
        let kept = seen(stage.sh(&tool, "grep -l garbage /host/state/node.json.*"))?;
        check(!kept.trim().is_empty(), || {
            "the corrupt file is gone".into()
        })
    })?;
    stage.delete(&tool)
}

/// Off for too long: with a valid token it joins again; without one the console says what to put on the seed volume.
fn expired_certificate(stage: &Stage) -> Result<()> {
    let name = "bad-expiry";
    let config = stage.cluster.node_config(name);
    let guest = Guest::prepare(stage, name, 31, &config)?.boot()?;
    guest.ready()?;
    let tool = fixtures::tool(stage, name)?;
    let (certificate, key) = stage
        .cluster
        .pki
        .expired_node_certificate(name, SystemTime::now())?;
    let files = stage.sh(&tool, "ls /host/state/pki")?;
    let pem = files
        .lines()
        .find(|file| file.contains("client") && file.ends_with(".pem"))
        .with_context(|| format!("no client certificate among {files:?}"))?;
    let script = format!("cat > /host/state/pki/{pem} && sync");
    let arguments = [
        "exec", "-i", "-n", NAMESPACE, &tool.name, "--", "sh", "-c", &script,
    ];
    let expire = || -> Result<()> {
        stage
            .cluster
            .kubectl_with(&arguments, &format!("{certificate}{key}"), MINUTE)?
            .success("replace the client certificate")
            .map(drop)
    };
    expire()?;
    let mut tokenless = config.clone();
    tokenless.token = None;
    guest.reseed(&tokenless.yaml())?;
    let mark = guest.mark();
    guest.act(Action::PowerCut)?;
    guest.act(Action::PowerOn)?;
    guest.says_after(mark, &["certificate", "expired", "token"], BOOT)?;
    guest.reseed(&config.yaml())?;
    wait::until("joined again without a reboot", BOOT, || {
        let lease = seen(stage.api().get(&format!(
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}"
        )))?;
        let renewed = text_at(&lease, "/spec/renewTime").to_owned();
        let age = renewed
            .parse::<jiff::Timestamp>()
            .map(|stamp| jiff::Timestamp::now().duration_since(stamp).as_secs());
        check(matches!(age, Ok(age) if age < 15), || {
            format!("lease renewed at {renewed}")
        })
    })?;
    guest.ready().map(drop)
}

/// The API server runs without discovery.k8s.io: no EndpointSlices to watch. Said once, and nothing else stops.
fn missing_kind(stage: &Stage) -> Result<()> {
    let restart = |extra: &[&str]| -> Result<()> {
        let extra = extra.iter().map(|&flag| flag.to_owned()).collect();
        stage.cluster.client.request(&Request::StopProgram {
            name: "kube-apiserver".into(),
        })?;
        stage.cluster.client.request(&Request::StartProgram {
            name: "kube-apiserver".into(),
            extra,
        })?;
        // Not /readyz: without the kind its own watch of it never gets ready.
        wait::until("API server", MINUTE, || {
            seen(stage.api().get("/api/v1/nodes")).map(drop)
        })
    };
    restart(&["--runtime-config=discovery.k8s.io/v1=false"])?;
    let result = Guest::prepare(
        stage,
        "bad-kind",
        32,
        &stage.cluster.node_config("bad-kind"),
    )
    .and_then(Guest::boot)
    .and_then(|guest| {
        guest.ready()?;
        guest.says(&["endpointslices"], MINUTE)?;
        wait::throughout("it is said once", Duration::from_secs(20), || {
            let said = stage
                .cluster
                .console("bad-kind")
                .to_lowercase()
                .matches("endpointslices")
                .count();
            check(said <= 2, || format!("said {said} times"))
        })
    });
    restart(&[])?;
    result?;
    stage.all_nodes_ready(Duration::from_secs(120)).map(drop)
}

/// Static pods start, others wait, and the console says so.
fn power_back_alone(stage: &Stage) -> Result<()> {
    let name = "bad-alone";
    let guest = Guest::prepare(stage, name, 33, &stage.cluster.node_config(name))?.boot()?;
    guest.ready()?;
    let tool = fixtures::tool(stage, name)?;
    let manifest = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "lonely", "namespace": "default"},
        "spec": {"hostNetwork": true, "containers": [{"name": "main", "image": super::kit::BUSYBOX,
            "command": ["sh", "-c", "mkdir /www; echo lonely > /www/index.html; httpd -f -p 18082 -h /www"]}]},
    });
    stage.sh(
        &tool,
        &format!("echo '{manifest}' > /host/manifests/lonely.yaml; sync"),
    )?;
    let address = stage.cluster.node_address(name)?;
    let answers = || {
        wait::until("static pod", POD_START, || {
            seen(stage.http(&format!("{address}:18082"), "/"))
        })
    };
    answers()?;
    stage.cluster.client.request(&Request::StopProgram {
        name: "kube-apiserver".into(),
    })?;
    let mark = guest.mark();
    let result = guest
        .act(Action::PowerCut)
        .and_then(|()| guest.act(Action::PowerOn))
        .and_then(|()| {
            guest.says_after(mark, &["api server", "static pods"], BOOT)?;
            answers().context("static pod without an API server")
        });
    stage.cluster.client.request(&Request::StartProgram {
        name: "kube-apiserver".into(),
        extra: Vec::new(),
    })?;
    result?;
    stage.all_nodes_ready(Duration::from_secs(180))?;
    guest.ready().map(drop)
}
