//! Running one probe or hook: http, https, tcp, exec, grpc, sleep.
//!
//! In: a resolved [`Handler`]. Out: an [`Answer`] for probes, a result for hooks. Decides nothing about thresholds. One
//! connection per check, no proxy, no keep-alive.

use std::time::Duration;

use kedge_cri::{Kind, Runtime};
use kedge_pods::hook::Handler;
use kedge_pods::probe::Answer;
use kedge_tasks::Meters;

use crate::meters;

mod grpc;
mod http;
mod tls;

pub use http::{Response, fetch};

/// How much of an output goes into an event.
const MAX_OUTPUT: usize = 10 * 1024;

/// Runs a probe within `timeout`.
pub async fn probe(
    runtime: &dyn Runtime,
    container: &str,
    handler: &Handler,
    timeout: Duration,
) -> Answer {
    let run = async {
        match handler {
            Handler::Http(get) => http::probe(get).await,
            Handler::Tcp { host, port } => tcp(host, *port).await,
            Handler::Grpc {
                host,
                port,
                service,
            } => grpc::probe(host, *port, service).await,
            Handler::Exec { command } => exec_probe(runtime, container, command, timeout).await,
            Handler::Sleep { .. } => Answer::Error("a probe cannot sleep".into()),
        }
    };
    // The runtime ends a command that takes too long by itself; it gets time to say so.
    let limit = match handler {
        Handler::Exec { .. } => timeout + Duration::from_secs(10),
        _ => timeout,
    };
    tokio::time::timeout(limit, run)
        .await
        .unwrap_or_else(|_| Answer::Failure(format!("no answer within {} s", timeout.as_secs())))
}

/// Runs a lifecycle hook; the caller limits its time by dropping this.
pub async fn hook(
    runtime: &dyn Runtime,
    meters: &Meters,
    container: &str,
    handler: &Handler,
) -> Result<(), String> {
    match handler {
        Handler::Http(get) => hook_http(meters, get).await,
        Handler::Exec { command } => hook_exec(runtime, container, command).await,
        Handler::Sleep { seconds } => {
            let mut cut = CutShort(Some(meters));
            tokio::time::sleep(Duration::from_secs(*seconds)).await;
            cut.0 = None;
            Ok(())
        }
        // The API server accepts tcpSocket hooks and they have never done anything but fail.
        Handler::Tcp { .. } | Handler::Grpc { .. } => {
            Err("hooks can be exec, httpGet or sleep only".into())
        }
    }
}

/// Counts a sleep that is dropped before its end.
struct CutShort<'a>(Option<&'a Meters>);

impl Drop for CutShort<'_> {
    fn drop(&mut self) {
        if let Some(meters) = self.0 {
            meters.count(&meters::SLEEPS, &[]);
        }
    }
}

async fn hook_http(meters: &Meters, get: &kedge_pods::hook::HttpGet) -> Result<(), String> {
    match fetch(get).await {
        Ok(response) if response.status < 400 => Ok(()),
        Ok(response) => Err(format!("HTTP status {}", response.status)),
        // Old pods say HTTPS to servers that speak HTTP.
        Err(http::FetchError::NotTls(_)) if get.https => {
            let plain = kedge_pods::hook::HttpGet {
                https: false,
                ..get.clone()
            };
            let answer = fetch(&plain).await;
            if answer.is_ok() {
                meters.count(&meters::FALLBACKS, &[]);
            }
            match answer {
                Ok(response) if response.status < 400 => Ok(()),
                Ok(response) => Err(format!("HTTP status {}", response.status)),
                Err(error) => Err(error.to_string()),
            }
        }
        Err(error) => Err(error.to_string()),
    }
}

async fn hook_exec(
    runtime: &dyn Runtime,
    container: &str,
    command: &[String],
) -> Result<(), String> {
    let answer = runtime
        .exec_sync(container.to_owned(), command.to_vec(), None)
        .await
        .map_err(|error| error.to_string())?;
    if answer.exit_code == 0 {
        return Ok(());
    }
    Err(format!(
        "command {command:?} exited with {}: {}",
        answer.exit_code,
        output(&answer.stdout, &answer.stderr)
    ))
}

async fn exec_probe(
    runtime: &dyn Runtime,
    container: &str,
    command: &[String],
    timeout: Duration,
) -> Answer {
    let run = runtime.exec_sync(container.to_owned(), command.to_vec(), Some(timeout));
    match run.await {
        Ok(answer) if answer.exit_code == 0 => Answer::Success,
        Ok(answer) => Answer::Failure(output(&answer.stdout, &answer.stderr)),
        Err(error) if error.kind == Kind::DeadlineExceeded => {
            Answer::Failure(format!("command timed out after {} s", timeout.as_secs()))
        }
        Err(error) => Answer::Error(error.to_string()),
    }
}

fn output(stdout: &[u8], stderr: &[u8]) -> String {
    let mut both = String::from_utf8_lossy(stdout).into_owned();
    both.push_str(&String::from_utf8_lossy(stderr));
    if both.len() > MAX_OUTPUT {
        let mut end = MAX_OUTPUT;
        while !both.is_char_boundary(end) {
            end -= 1;
        }
        both.truncate(end);
    }
    both
}

async fn tcp(host: &str, port: u16) -> Answer {
    match tokio::net::TcpStream::connect((host, port)).await {
        Ok(_) => Answer::Success,
        Err(error) => Answer::Failure(format!("connect to {host}:{port}: {error}")),
    }
}

#[cfg(test)]
mod tests;
