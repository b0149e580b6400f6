//! The callers' side of the control socket, and starting a supervisor.
//!
//! In: requests. Out: their values, or the supervisor's words as an error. A [`Holder`] ties a cluster's life to the caller's.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::protocol::{Action, Answer, ExecResult, Request, Status};
use super::{Running, Spec};
use crate::controlplane::last_lines;
use crate::dirs::Dirs;

const START_DEADLINE: Duration = Duration::from_secs(30);

/// A running supervisor, by its directory.
#[derive(Debug, Clone)]
pub struct Client {
    pub dirs: Dirs,
}

/// The connection that keeps a cluster alive. Dropping it ends the cluster.
pub struct Holder {
    stream: UnixStream,
}

impl Holder {
    /// From now on the cluster lives by itself.
    pub fn detach(mut self) -> Result<()> {
        ask(&mut self.stream, &Request::Detach).map(drop)
    }
}

/// An answer that is still to come.
pub struct Pending {
    stream: UnixStream,
    answer: mpsc::Receiver<Result<Value>>,
}

impl Pending {
    /// The answer, if it comes in time.
    pub fn wait(&self, time: Duration) -> Option<Result<Value>> {
        match self.answer.recv_timeout(time) {
            Ok(answer) => Some(answer),
            Err(mpsc::RecvTimeoutError::Timeout) => None,
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                Some(Err(anyhow::anyhow!("the thread that asked is gone")))
            }
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // The supervisor sees the end and stops what was asked for; a connection that has ended already is no error.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl Client {
    pub fn new(dirs: &Dirs) -> Self {
        Self { dirs: dirs.clone() }
    }

    /// What runs here, if anything does.
    pub fn running(&self) -> Option<Running> {
        let running: Running = serde_json::from_slice(&fs::read(self.dirs.run()).ok()?).ok()?;
        UnixStream::connect(self.dirs.control()).ok()?;
        Some(running)
    }

    /// An error that tells what to do when nothing runs.
    pub fn require(&self) -> Result<Running> {
        self.running().with_context(|| {
            format!(
                "no cluster runs from {} (start one: `cargo rig up`)",
                self.dirs.root.display()
            )
        })
    }

    /// Starts a supervisor and takes hold of it.
    pub fn start(&self, spec: &Spec) -> Result<Holder> {
        fs::write(
            self.dirs.spec(),
            serde_json::to_vec_pretty(spec).context("write the spec")?,
        )
        .with_context(|| format!("write {}", self.dirs.spec().display()))?;
        let log_path = self.dirs.supervisor_log();
        let log =
            File::create(&log_path).with_context(|| format!("open {}", log_path.display()))?;
        let program = std::env::current_exe().context("find the rig's own program")?;
        let mut child = Command::new(program)
            .args(["supervise", "--dir"])
            .arg(&self.dirs.root)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().context("share the log")?)
            .stderr(log)
            .spawn()
            .context("start the supervisor")?;
        let stream = self.first_connection(&mut child)?;
        let mut holder = Holder { stream };
        ask(&mut holder.stream, &Request::Hold)?;
        // Until here the supervisor ended with this pipe.
        let mut pipe = child.stdin.take().context("no pipe to the supervisor")?;
        pipe.write_all(&[super::HELD])
            .context("tell the supervisor that it is held")?;
        Ok(holder)
    }

    fn first_connection(&self, child: &mut Child) -> Result<UnixStream> {
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            if let Ok(stream) = UnixStream::connect(self.dirs.control()) {
                return Ok(stream);
            }
            let ended = child.try_wait().context("wait for the supervisor")?;
            if ended.is_some() || Instant::now() > deadline {
                // Late is as bad as dead; do not leave it behind.
                let _ = child.kill();
                bail!(
                    "the supervisor did not start:\n{}",
                    last_lines(&self.dirs.supervisor_log(), 15)
                );
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn request(&self, request: &Request) -> Result<Value> {
        let path = self.dirs.control();
        let mut stream = UnixStream::connect(&path)
            .with_context(|| format!("connect to the supervisor at {}", path.display()))?;
        ask(&mut stream, request)
    }

    /// Asks for something that takes long, in the background. Dropping the answer's holder takes the request back.
    pub fn request_in_background(&self, request: Request) -> Result<Pending> {
        let path = self.dirs.control();
        let stream = UnixStream::connect(&path)
            .with_context(|| format!("connect to the supervisor at {}", path.display()))?;
        let mut own = stream.try_clone().context("share the connection")?;
        let (sender, answer) = mpsc::channel();
        thread::Builder::new()
            .name("request".into())
            // Nobody may be listening any more.
            .spawn(move || drop(sender.send(ask(&mut own, &request))))
            .context("start a thread")?;
        Ok(Pending { stream, answer })
    }

    fn typed<T: DeserializeOwned>(&self, request: &Request) -> Result<T> {
        serde_json::from_value(self.request(request)?).context("parse the supervisor's answer")
    }

    pub fn status(&self) -> Result<Status> {
        self.typed(&Request::Status)
    }

    pub fn machine(&self, name: &str, action: Action) -> Result<()> {
        self.request(&Request::Machine {
            name: name.into(),
            action,
        })
        .map(drop)
    }

    /// Runs a command inside the namespace.
    pub fn exec(&self, argv: &[&str], stdin: &str, timeout: Duration) -> Result<ExecResult> {
        let argv = argv.iter().map(|&word| word.to_owned()).collect();
        self.typed(&Request::Exec {
            argv,
            stdin: stdin.into(),
            timeout_ms: millis(timeout),
        })
    }

    /// Sends `payload` to an address as seen from inside the namespace and returns what comes back.
    pub fn dial(
        &self,
        address: &str,
        payload: &str,
        udp: bool,
        timeout: Duration,
    ) -> Result<String> {
        self.typed(&Request::Dial {
            address: address.into(),
            payload: payload.into(),
            udp,
            timeout_ms: millis(timeout),
        })
    }

    /// Stops the cluster and waits until the supervisor is gone.
    pub fn stop(&self) -> Result<()> {
        self.request(&Request::Stop)?;
        self.wait_gone()
    }

    /// Waits until a supervisor that was told to end, or that lost its holder, is gone. No error where none ran.
    pub fn wait_gone(&self) -> Result<()> {
        let deadline = Instant::now() + START_DEADLINE;
        while self.dirs.run().exists() {
            if Instant::now() > deadline {
                bail!(
                    "the supervisor did not end; its log: {}",
                    self.dirs.supervisor_log().display()
                );
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn ask(stream: &mut UnixStream, request: &Request) -> Result<Value> {
    let line = serde_json::to_string(request).context("write the request")?;
    writeln!(stream, "{line}").context("send to the supervisor")?;
    let mut answer = String::new();
    BufReader::new(stream)
        .read_line(&mut answer)
        .context("read the supervisor's answer")?;
    match serde_json::from_str(&answer) {
        Ok(Answer::Ok(value)) => Ok(value),
        Ok(Answer::Error(error)) => bail!("{error}"),
        Err(_) if answer.is_empty() => bail!("the supervisor ended"),
        Err(error) => {
            Err(error).with_context(|| format!("parse the supervisor's answer {answer:?}"))
        }
    }
}
