//! Starting, probing, restarting and ending containers; and pods that cannot be what they ask for.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::{Value, json};

use super::kit::{
    AGNHOST, BUSYBOX, MINUTE, POD_START, Pod, Stage, main_status, on_node, restarts, set, summary,
};
use super::{Story, story};
use crate::api::{self, text_at};
use crate::registry::{PASSWORD, PRIVATE_HOST, USER};
use crate::wait::{self, check, seen};

pub const STORIES: [Story; 13] = [
    story("init-containers-run-in-order", 240, init_order),
    story("crash-back-off", 300, crash_back_off),
    story("liveness-probe-restarts", 240, liveness),
    story("readiness-gate-holds-a-pod-back", 240, readiness_gate),
    story("startup-probe-shields-liveness", 240, startup_probe),
    story("probes-by-http-tcp-exec-and-grpc", 240, all_probes),
    story("delete-with-grace", 240, delete_with_grace),
    story("restart-policy-and-exit-codes", 240, restart_policy),
    story("image-that-does-not-exist", 240, missing_image),
    story("image-that-wants-a-password", 240, private_image),
    story("refused-field-is-named", 180, refused_field),
    story("static-pod-and-a-broken-one", 300, static_pods),
    story(
        "missing-config-map-is-named-and-waited-for",
        240,
        missing_config_map,
    ),
];

const NAMESPACE: &str = "lifecycle";

fn init_order(stage: &Stage) -> Result<()> {
    let step = |name: &str, script: &str| json!({"name": name, "image": super::kit::BUSYBOX, "command": ["sh", "-c", script], "volumeMounts": [{"name": "work", "mountPath": "/work"}]});
    let mut spec = on_node(&stage.node(1)?);
    set(&mut spec, "restartPolicy", json!("OnFailure"));
    set(
        &mut spec,
        "volumes",
        json!([{"name": "work", "emptyDir": {}}]),
    );
    let second = "test -e /work/tried || { touch /work/tried; echo failing once >&2; exit 1; }; echo second >> /work/order";
    set(
        &mut spec,
        "initContainers",
        json!([
            step("first", "sleep 2; echo first >> /work/order"),
            step("second", second)
        ]),
    );
    let container = json!({"command": ["sh", "-c", "echo main >> /work/order; cat /work/order"], "volumeMounts": [{"name": "work", "mountPath": "/work"}]});
    let pod = stage.pod(NAMESPACE, "init-order", container, spec)?;
    let log = stage.succeeded(&pod)?;
    if log != "first\nsecond\nmain\n" {
        bail!("order was {log:?}");
    }
    let object = stage.get(&pod)?;
    let restarted = object
        .pointer("/status/initContainerStatuses/1/restartCount")
        .and_then(Value::as_u64);
    if restarted != Some(1) || api::condition(&object, "Initialized") != "True" {
        bail!(
            "second init container restarted {restarted:?} times; Initialized is {:?}",
            api::condition(&object, "Initialized")
        );
    }
    stage.delete(&pod)
}

fn crash_back_off(stage: &Stage) -> Result<()> {
    let pod = stage.pod(
        NAMESPACE,
        "crasher",
        json!({"command": ["sh", "-c", "echo going down; exit 3"]}),
        on_node(&stage.node(2)?),
    )?;
    let object = stage.until_pod(
        &pod,
        "in CrashLoopBackOff",
        Duration::from_secs(180),
        |object| {
            let status = main_status(object);
            let waiting = text_at(status, "/state/waiting/reason") == "CrashLoopBackOff";
            let code = status
                .pointer("/lastState/terminated/exitCode")
                .and_then(Value::as_u64);
            check(waiting && code == Some(3) && restarts(object) >= 2, || {
                format!("{} restarts; {}", restarts(object), summary(object))
            })
        },
    )?;
    if text_at(&object, "/status/phase") != "Running" || api::condition(&object, "Ready") != "False"
    {
        bail!("{}", summary(&object));
    }
    stage.event(NAMESPACE, "crasher", &["BackOff", "main"], MINUTE)?;
    let previous = stage
        .api()
        .text(&format!("{}/log?container=main&previous=true", pod.path()))?;
    if previous != "going down\n" {
        bail!("log of the previous container: {previous:?}");
    }
    stage.delete(&pod)
}

/// agnhost's `liveness` is well for ten seconds.
fn liveness(stage: &Stage) -> Result<()> {
    let container = json!({
        "image": AGNHOST, "args": ["liveness"],
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "initialDelaySeconds": 5, "periodSeconds": 2, "timeoutSeconds": 5, "failureThreshold": 2},
    });
    let pod = stage.pod(NAMESPACE, "liveness", container, on_node(&stage.node(3)?))?;
    stage.until_pod(&pod, "restarted", Duration::from_secs(180), |object| {
        check(restarts(object) >= 1, || summary(object))
    })?;
    stage.event(NAMESPACE, "liveness", &["Unhealthy", "500"], MINUTE)?;
    stage.event(NAMESPACE, "liveness", &["Killing", "liveness"], MINUTE)?;
    stage.delete(&pod)
}

fn readiness_gate(stage: &Stage) -> Result<()> {
    let mut spec = on_node(&stage.node(1)?);
    set(
        &mut spec,
        "readinessGates",
        json!([{"conditionType": "example.com/go"}]),
    );
    let pod = stage.pod(
        NAMESPACE,
        "gated",
        json!({"command": ["sleep", "1000000"]}),
        spec,
    )?;
    stage.until_pod(&pod, "with ready containers", POD_START, |object| {
        check(api::condition(object, "ContainersReady") == "True", || {
            summary(object)
        })
    })?;
    wait::throughout(
        "the gate holds the pod back",
        Duration::from_secs(3),
        || {
            let object = seen(stage.get(&pod))?;
            check(api::condition(&object, "Ready") != "True", || {
                "Ready".into()
            })
        },
    )?;
    let patch = json!({"status": {"conditions": [{"type": "example.com/go", "status": "True"}]}});
    let path = format!("{}/status", pod.path());
    let arguments = [
        "patch",
        "-n",
        NAMESPACE,
        "pod",
        "gated",
        "--subresource=status",
        "--type=strategic",
        "-p",
        &patch.to_string(),
    ];
    stage
        .kubectl(&arguments)
        .with_context(|| format!("patch {path}"))?;
    stage.ready(&pod)?;
    stage.delete(&pod)
}

/// Without its startup probe this container would be killed by liveness long before it is up.
fn startup_probe(stage: &Stage) -> Result<()> {
    let container = json!({
        "command": ["sh", "-c", "sleep 15; touch /tmp/up; sleep 1000000"],
        "startupProbe": {"exec": {"command": ["cat", "/tmp/up"]}, "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 100},
        "livenessProbe": {"exec": {"command": ["cat", "/tmp/up"]}, "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 1},
    });
    let pod = stage.pod(NAMESPACE, "startup", container, on_node(&stage.node(2)?))?;
    let object = stage.until_pod(&pod, "Ready", POD_START, |object| {
        let started = main_status(object).pointer("/started") == Some(&json!(true));
        check(api::condition(object, "Ready") == "True" && started, || {
            summary(object)
        })
    })?;
    if restarts(&object) != 0 {
        bail!("restarted {} times while starting", restarts(&object));
    }
    stage.delete(&pod)
}

fn all_probes(stage: &Stage) -> Result<()> {
    let readiness = |name: &str, args: Value, probe: Value| {
        let mut probe = probe;
        set(&mut probe, "periodSeconds", json!(2));
        set(&mut probe, "timeoutSeconds", json!(5));
        (
            format!("probe-{name}"),
            json!({"image": AGNHOST, "args": args, "readinessProbe": probe}),
        )
    };
    let web = json!(["netexec", "--http-port=8080"]);
    let probes = [
        readiness(
            "http",
            web.clone(),
            json!({"httpGet": {"path": "/healthz", "port": 8080, "httpHeaders": [{"name": "X-Kedge", "value": "yes"}]}}),
        ),
        readiness("tcp", web.clone(), json!({"tcpSocket": {"port": 8080}})),
        readiness(
            "exec",
            web,
            json!({"exec": {"command": ["/agnhost", "connect", "--timeout=2s", "127.0.0.1:8080"]}}),
        ),
        readiness(
            "grpc",
            json!(["grpc-health-checking", "--port=5000", "--service=story"]),
            json!({"grpc": {"port": 5000, "service": "story"}}),
        ),
    ];
    let mut pods = Vec::new();
    for (name, container) in probes {
        pods.push(stage.pod(NAMESPACE, &name, container, on_node(&stage.node(3)?))?);
    }
    for pod in &pods {
        stage.ready(pod)?;
    }
    pods.iter().try_for_each(|pod| stage.delete(pod))
}

/// The container asks for six seconds; it gets them, its hook runs first, and then the object goes.
fn delete_with_grace(stage: &Stage) -> Result<()> {
    let container = json!({
        "command": ["sh", "-c", "trap 'echo asked; sleep 4; echo done; exit 0' TERM; echo up; while :; do sleep 0.2; done"],
        "lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "echo hook > /proc/1/fd/1; sleep 2"]}}},
    });
    let mut spec = on_node(&stage.node(1)?);
    set(&mut spec, "terminationGracePeriodSeconds", json!(30));
    let pod = stage.pod(NAMESPACE, "graceful", container, spec)?;
    stage.ready(&pod)?;
    let mut follow = stage
        .cluster
        .kubectl_command(&["logs", "-n", NAMESPACE, "-f", "graceful"]);
    let logs =
        std::thread::spawn(move || crate::cluster::run(&mut follow, "", Duration::from_secs(60)));
    stage.log_has(&pod, "up", MINUTE)?;
    let start = Instant::now();
    stage.api().delete(&pod.path(), None)?;
    wait::until("graceful pod gone", MINUTE, || {
        check(seen(stage.api().find(&pod.path()))?.is_none(), || {
            "still there".into()
        })
    })?;
    let took = start.elapsed().as_secs();
    let log = logs
        .join()
        .map_err(|_| anyhow::anyhow!("the log reader panicked"))??
        .stdout;
    if log != "up\nhook\nasked\ndone\n" {
        bail!("the container said {log:?}");
    }
    if !(6..=25).contains(&took) {
        bail!("gone after {took} s; it needs six and has thirty");
    }
    Ok(())
}

fn restart_policy(stage: &Stage) -> Result<()> {
    let mut never = on_node(&stage.node(2)?);
    set(&mut never, "restartPolicy", json!("Never"));
    let script = "echo last words > /dev/termination-log; exit 7";
    let pod = stage.pod(
        NAMESPACE,
        "never",
        json!({"command": ["sh", "-c", script]}),
        never,
    )?;
    let object = stage.until_pod(&pod, "Failed", POD_START, |object| {
        check(text_at(object, "/status/phase") == "Failed", || {
            summary(object)
        })
    })?;
    let ended = main_status(&object)
        .pointer("/state/terminated")
        .cloned()
        .unwrap_or_default();
    if ended["exitCode"] != 7
        || ended["message"] != "last words\n"
        || ended["reason"] != "Error"
        || restarts(&object) != 0
    {
        bail!("ended as {ended}, {} restarts", restarts(&object));
    }
    stage.delete(&pod)
}

fn missing_image(stage: &Stage) -> Result<()> {
    let image = "registry.k8s.io/no-such-image:v9";
    let pod = stage.pod(
        NAMESPACE,
        "imageless",
        json!({"image": image}),
        on_node(&stage.node(3)?),
    )?;
    without_image(stage, &pod, "no-such-image")?;
    stage.event(NAMESPACE, "imageless", &["Failed", "no-such-image"], MINUTE)?;
    stage.delete(&pod)
}

/// Waits until the pod waits for its image, with `words` in the reason's message.
fn without_image(stage: &Stage, pod: &Pod, words: &str) -> Result<()> {
    let waiting = stage.until_pod(pod, "waiting for its image", POD_START, |object| {
        let waiting = main_status(object)
            .pointer("/state/waiting")
            .cloned()
            .unwrap_or_default();
        let reason = matches!(
            text_at(&waiting, "/reason"),
            "ErrImagePull" | "ImagePullBackOff"
        );
        check(
            reason && text_at(&waiting, "/message").contains(words),
            || summary(object),
        )
    });
    waiting.map(drop)
}

/// Pulled with the pull secret's password, through a mirror, at every start; refused without it although the image is there by then.
fn private_image(stage: &Stage) -> Result<()> {
    let image = BUSYBOX.replacen("registry.k8s.io", PRIVATE_HOST, 1);
    let pair = BASE64_STANDARD.encode(format!("{USER}:{PASSWORD}"));
    let config = json!({"auths": {PRIVATE_HOST: {"auth": pair}}}).to_string();
    stage.namespace(NAMESPACE)?;
    stage.apply(&json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson",
        "metadata": {"name": "password", "namespace": NAMESPACE},
        "data": {".dockerconfigjson": BASE64_STANDARD.encode(config)},
    }))?;
    let node = stage.node(3)?;
    let container =
        json!({"image": image, "imagePullPolicy": "Always", "command": ["sleep", "1000000"]});
    let mut spec = on_node(&node);
    set(&mut spec, "imagePullSecrets", json!([{"name": "password"}]));
    let knows = stage.pod(NAMESPACE, "knows-the-password", container.clone(), spec)?;
    stage.ready(&knows)?;
    let does_not = stage.pod(NAMESPACE, "knows-nothing", container, on_node(&node))?;
    without_image(stage, &does_not, PRIVATE_HOST)?;
    stage.event(
        NAMESPACE,
        "knows-nothing",
        &["Failed", "authorization failed"],
        MINUTE,
    )?;
    stage.delete(&does_not)?;
    stage.delete(&knows)
}

/// Nothing is silently ignored: a pod that asks for what this node cannot do is told so, by the field's name.
fn refused_field(stage: &Stage) -> Result<()> {
    let mut spec = on_node(&stage.node(1)?);
    set(&mut spec, "hostUsers", json!(false));
    let pod = stage.pod(
        NAMESPACE,
        "refused",
        json!({"command": ["sleep", "1000000"]}),
        spec,
    )?;
    stage.until_pod(&pod, "refused", MINUTE, |object| {
        let told = text_at(object, "/status/message").contains("hostUsers");
        check(
            text_at(object, "/status/phase") == "Failed"
                && told
                && !text_at(object, "/status/reason").is_empty(),
            || summary(object),
        )
    })?;
    stage.delete(&pod)
}

fn static_pods(stage: &Stage) -> Result<()> {
    let node = stage.node(2)?;
    let tool = super::fixtures::tool(stage, &node)?;
    let mark = stage.cluster.console(&node).len();
    let manifest = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "static-web", "namespace": "default"},
        "spec": {"containers": [{"name": "main", "image": super::kit::BUSYBOX,
            "command": ["sh", "-c", "mkdir /www; echo static > /www/index.html; httpd -f -p 8080 -h /www"],
            "ports": [{"containerPort": 8080, "hostPort": 18081}]}]},
    });
    stage.sh(&tool, &format!("echo '{manifest}' > /host/manifests/web.yaml; printf 'kind: Pod\\nspec: [\\n' > /host/manifests/broken.yaml"))?;
    let mirror = format!("/api/v1/namespaces/default/pods/static-web-{node}");
    wait::until("mirror pod Ready", POD_START, || {
        let object = seen(stage.api().get(&mirror))?;
        check(api::condition(&object, "Ready") == "True", || {
            summary(&object)
        })
    })?;
    let address = stage.cluster.node_address(&node)?;
    let answer = wait::until("static pod's port", MINUTE, || {
        seen(stage.http(&format!("{address}:18081"), "/"))
    })?;
    if answer.trim() != "static" {
        bail!("answered {answer:?}");
    }
    stage.console_says(&node, mark, &["broken.yaml"], MINUTE)?;
    // Deleting the mirror does not stop the pod; removing the file does.
    stage.sh(
        &tool,
        "rm /host/manifests/web.yaml /host/manifests/broken.yaml",
    )?;
    wait::until("mirror pod gone", MINUTE, || {
        check(seen(stage.api().find(&mirror))?.is_none(), || {
            "still there".into()
        })
    })
}

fn missing_config_map(stage: &Stage) -> Result<()> {
    stage.namespace(NAMESPACE)?;
    let path = format!("/api/v1/namespaces/{NAMESPACE}/configmaps");
    if stage.api().find(&format!("{path}/late"))?.is_some() {
        stage.api().delete(&format!("{path}/late"), None)?;
    }
    let mut spec = on_node(&stage.node(3)?);
    set(
        &mut spec,
        "volumes",
        json!([{"name": "late", "configMap": {"name": "late"}}]),
    );
    let pod = stage.pod(NAMESPACE, "patient", json!({"command": ["sleep", "1000000"], "volumeMounts": [{"name": "late", "mountPath": "/late"}]}), spec)?;
    stage.event(NAMESPACE, "patient", &["FailedMount", "late"], MINUTE)?;
    stage.api().create(
        &path,
        &json!({"metadata": {"name": "late"}, "data": {"key": "value"}}),
    )?;
    stage.ready(&pod)?;
    stage.delete(&pod)
}
