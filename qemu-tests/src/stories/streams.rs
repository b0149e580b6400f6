//! What a user does with kubectl on a running pod: logs, exec, attach, cp, port-forward. The real kubectl talks to the real kubelet port.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::kit::{AGNHOST, MINUTE, Pod, Stage, on_node, set};
use super::{Story, story};
use crate::wait::{self, check, seen};

pub const STORIES: [Story; 8] = [
    story("logs-follow", 180, logs_follow),
    story("logs-tail-since-and-limits", 180, logs_options),
    story("exec-exit-code-and-streams", 180, exec_streams),
    story("exec-with-stdin", 180, exec_stdin),
    story("exec-with-tty", 180, exec_tty),
    story("attach", 180, attach),
    story("copy-to-and-from-a-pod", 180, copy),
    story("port-forward", 180, port_forward),
];

const NAMESPACE: &str = "streams";

fn sleeper(stage: &Stage) -> Result<Pod> {
    let pod = Pod {
        namespace: NAMESPACE.into(),
        name: "shell".into(),
    };
    stage.namespace(NAMESPACE)?;
    if stage.api().find(&pod.path())?.is_none() {
        stage.sleeper(NAMESPACE, "shell", &stage.node(1)?)?;
    }
    stage.ready(&pod)?;
    Ok(pod)
}

/// A child that is killed when the story leaves, on whichever way.
struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Lines arrive while the container runs, and the stream ends with it. The two streams are two pipes that the runtime reads on its
/// own, so between them only the order within each is promised.
fn logs_follow(stage: &Stage) -> Result<()> {
    let mut spec = on_node(&stage.node(2)?);
    set(&mut spec, "restartPolicy", json!("Never"));
    let script = "echo one; while [ ! -e /tmp/go ]; do sleep 0.2; done; echo two; echo aside >&2; echo three";
    let pod = stage.pod(
        NAMESPACE,
        "talker",
        json!({"command": ["sh", "-c", script]}),
        spec,
    )?;
    stage.ready(&pod)?;
    let file = tempfile::NamedTempFile::new().context("make a temporary file")?;
    let child = stage
        .cluster
        .kubectl_command(&["logs", "-f", "-n", NAMESPACE, "talker"])
        .stdout(file.reopen().context("open the temporary file")?)
        .spawn()
        .context("start kubectl logs -f")?;
    let mut child = Background(child);
    let text = || std::fs::read_to_string(file.path()).unwrap_or_default();
    wait::until("first line", MINUTE, || check(text() == "one\n", text))?;
    stage.sh(&pod, "touch /tmp/go")?;
    wait::until("end of logs -f", MINUTE, || {
        let ended = child.0.try_wait().map_err(|error| error.to_string())?;
        check(ended.is_some_and(|status| status.success()), || {
            format!("{ended:?} {}", text())
        })
    })?;
    let followed = text();
    let (aside, output): (Vec<&str>, Vec<&str>) =
        followed.lines().partition(|line| *line == "aside");
    if output != ["one", "two", "three"] || aside.len() != 1 {
        bail!("followed {followed:?}");
    }
    stage.delete(&pod)
}

fn logs_options(stage: &Stage) -> Result<()> {
    let mut spec = on_node(&stage.node(3)?);
    set(&mut spec, "restartPolicy", json!("Never"));
    let pod = stage.pod(
        NAMESPACE,
        "counter",
        json!({"command": ["sh", "-c", "seq 1 100; printf unfinished"]}),
        spec,
    )?;
    stage.succeeded(&pod)?;
    let logs = |options: &[&str]| -> Result<String> {
        let mut arguments = vec!["logs", "-n", NAMESPACE, "counter"];
        arguments.extend(options);
        stage.kubectl(&arguments)
    };
    let tail = logs(&["--tail=3"])?;
    if tail != "99\n100\nunfinished" {
        bail!("--tail=3 gave {tail:?}");
    }
    let limited = logs(&["--limit-bytes=5"])?;
    if limited != "1\n2\n3" {
        bail!("--limit-bytes=5 gave {limited:?}");
    }
    let stamped = logs(&["--timestamps", "--tail=1"])?;
    if !stamped.starts_with("20") || !stamped.contains("Z unfinished") {
        bail!("--timestamps gave {stamped:?}");
    }
    if logs(&["--since=1h"])?.lines().count() != 101 {
        bail!("--since=1h leaves lines out");
    }
    wait::until("--since=2s filters", MINUTE, || {
        let recent = seen(logs(&["--since=2s"]))?;
        check(recent.is_empty(), || recent)
    })?;
    stage.delete(&pod)
}

fn exec_streams(stage: &Stage) -> Result<()> {
    let pod = sleeper(stage)?;
    let output = stage.exec(&pod, &["sh", "-c", "echo out; echo err >&2; exit 42"])?;
    if output.code != 42 || output.stdout != "out\n" || !output.stderr.starts_with("err\n") {
        bail!("{output:?}");
    }
    let missing = stage.exec(&pod, &["/no/such/program"])?;
    if missing.code == 0 || !missing.stderr.contains("/no/such/program") {
        bail!("a missing program gave {missing:?}");
    }
    Ok(())
}

fn exec_stdin(stage: &Stage) -> Result<()> {
    let pod = sleeper(stage)?;
    // More than any buffer on the way.
    let input = "0123456789abcdef".repeat(20_000);
    let output = stage.cluster.kubectl_with(
        &["exec", "-i", "-n", NAMESPACE, &pod.name, "--", "md5sum"],
        &input,
        MINUTE,
    )?;
    let sum = output.success("md5sum of the input")?;
    let own = crate::cluster::run(&mut Command::new("md5sum"), &input, MINUTE)?.stdout;
    if sum != own {
        bail!("the pod read {sum:?}, we sent {own:?}");
    }
    Ok(())
}

/// util-linux's `script` gives kubectl the terminal that it wants. The size comes on a stream of its own, perhaps after the first command.
fn exec_tty(stage: &Stage) -> Result<()> {
    let pod = sleeper(stage)?;
    let mut kubectl = stage.cluster.kubectl_command(&[
        "exec",
        "-it",
        "-n",
        NAMESPACE,
        &pod.name,
        "--",
        "sh",
        "-c",
        "'tty; until s=$(stty size 2>/dev/null) && test -n \"$s\"; do sleep 0.2; done; echo $s; exit 5'",
    ]);
    let words: Vec<String> = std::iter::once(kubectl.get_program())
        .chain(kubectl.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let mut script = Command::new("script");
    script.args([
        "-qec",
        &format!("stty rows 33 cols 77; {}", words.join(" ")),
        "/dev/null",
    ]);
    for (key, value) in kubectl.envs(std::iter::empty::<(&str, &str)>()).get_envs() {
        if let Some(value) = value {
            script.env(key, value);
        }
    }
    let output = crate::cluster::run(&mut script, "", MINUTE)?;
    if output.code != 5 || !output.stdout.contains("/dev/pts/") || !output.stdout.contains("33 77")
    {
        bail!("{output:?}");
    }
    Ok(())
}

fn attach(stage: &Stage) -> Result<()> {
    let container = json!({"command": ["sh", "-c", "while read line; do echo heard $line; done"], "stdin": true, "stdinOnce": false});
    let pod = stage.pod(NAMESPACE, "listener", container, on_node(&stage.node(2)?))?;
    stage.ready(&pod)?;
    let child = stage
        .cluster
        .kubectl_command(&["attach", "-i", "-q", "-n", NAMESPACE, "listener"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("start kubectl attach")?;
    let mut child = Background(child);
    let mut input = child.0.stdin.take().context("no input pipe")?;
    let mut output = child.0.stdout.take().context("no output pipe")?;
    let reader = std::thread::spawn(move || {
        let mut seen = [0; 11];
        output
            .read_exact(&mut seen)
            .map(|()| String::from_utf8_lossy(&seen).into_owned())
    });
    // Attaching has no sign of its own: what is sent before it is there is not lost, since stdin stays open.
    writeln!(input, "word").context("send a line")?;
    stage.log_has(&pod, "heard word", MINUTE)?;
    wait::until("attached output", MINUTE, || {
        check(reader.is_finished(), || "nothing yet".into())
    })?;
    let seen = reader
        .join()
        .map_err(|_| anyhow::anyhow!("the reader panicked"))?
        .context("read the attached output")?;
    if seen != "heard word\n" {
        bail!("attach showed {seen:?}");
    }
    drop(child);
    stage.delete(&pod)
}

fn copy(stage: &Stage) -> Result<()> {
    let pod = sleeper(stage)?;
    let directory = tempfile::tempdir().context("make a temporary directory")?;
    let (there, back) = (
        directory.path().join("there"),
        directory.path().join("back"),
    );
    let content: Vec<u8> = (0..3_000_000_u32)
        .map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()[3])
        .collect();
    std::fs::write(&there, &content).context("write the file")?;
    let remote = format!("{NAMESPACE}/{}:/tmp/copied", pod.name);
    stage.kubectl(&["cp", &there.display().to_string(), &remote])?;
    stage.kubectl(&["cp", &remote, &back.display().to_string()])?;
    if std::fs::read(&back).context("read the copy")? != content {
        bail!("three million bytes did not come back as they went");
    }
    Ok(())
}

fn port_forward(stage: &Stage) -> Result<()> {
    // kubectl port-forward ends at the first connection that the pod refuses, so the server has to listen before.
    let probe = json!({"httpGet": {"path": "/hostname", "port": 8080}, "periodSeconds": 1});
    let container =
        json!({"image": AGNHOST, "args": ["netexec", "--http-port=8080"], "readinessProbe": probe});
    let pod = stage.pod(NAMESPACE, "forwarded", container, on_node(&stage.node(3)?))?;
    stage.ready(&pod)?;
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|socket| socket.local_addr())
        .context("find a free port")?
        .port();
    let child = stage
        .cluster
        .kubectl_command(&[
            "port-forward",
            "-n",
            NAMESPACE,
            "pod/forwarded",
            &format!("{port}:8080"),
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start kubectl port-forward")?;
    let _child = Background(child);
    let get = || -> Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).context("connect")?;
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .context("set the timeout")?;
        write!(stream, "GET /hostname HTTP/1.0\r\n\r\n").context("send")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).context("read")?;
        Ok(answer)
    };
    // Several connections, one after the other, through one forwarder.
    for round in 0..3 {
        let answer = wait::until("forwarded answer", MINUTE, || {
            let answer = seen(get())?;
            if answer.is_empty() {
                Err("empty answer".into())
            } else {
                Ok(answer)
            }
        })?;
        if !answer.ends_with("forwarded") {
            bail!("connection {round} answered {answer:?}");
        }
    }
    stage.delete(&pod)
}
