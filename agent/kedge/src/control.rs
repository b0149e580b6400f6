//! The agent's end of the control socket: heartbeats and status lines to init, "shutdown begins" from it.
//!
//! Heartbeats come from the same runtime that serves pods, so a runtime that no longer turns is noticed.
//! Without init (`KEDGE_CONTROL_FD` unset: a developer's machine) the link is absent and everything else works.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use kedge_machine::control::{Message, SIZE};
use kedge_machine::paths::CONTROL_FD_ENV;
use kedge_sys::poll;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};

use crate::agent::Wish;

/// Init kills the agent after 30 s of silence; six beats may be lost to a loaded machine.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// What the agent tells init.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToInit {
    /// No pod runs any more.
    PodsDown,
    /// One line for the console.
    Status(String),
}

/// The inherited socket, if init started us.
pub fn inherited() -> Option<OwnedFd> {
    let number = std::env::var(CONTROL_FD_ENV).ok()?.parse().ok()?;
    match poll::adopt(number) {
        Ok(fd) => Some(fd),
        Err(error) => {
            tracing::error!(%error, number, "the control socket that {CONTROL_FD_ENV} names is not open");
            None
        }
    }
}

/// Runs the link until init closes it. `shutdown` becomes [`Wish::EndPods`] when init begins one.
pub async fn run(
    socket: OwnedFd,
    mut outgoing: mpsc::Receiver<ToInit>,
    shutdown: watch::Sender<Wish>,
) {
    let socket = match pollable(socket) {
        Ok(socket) => socket,
        Err(error) => return tracing::error!(%error, "watch the control socket"),
    };
    let mut beat = tokio::time::interval(HEARTBEAT);
    loop {
        // Every arm only waits: nothing is lost when another one wins.
        tokio::select! {
            _ = beat.tick() => send(&socket, &Message::Heartbeat),
            message = outgoing.recv() => match message {
                Some(ToInit::PodsDown) => send(&socket, &Message::PodsDown),
                Some(ToInit::Status(line)) => send(&socket, &Message::Status(&line)),
                None => return,
            },
            ready = socket.readable() => {
                let Ok(mut ready) = ready else { return };
                let mut buffer = [0; SIZE];
                match poll::read(socket.as_fd(), &mut buffer) {
                    Ok(None) => ready.clear_ready(),
                    Ok(Some(0)) => return tracing::warn!("init closed the control socket"),
                    Ok(Some(n)) => match Message::decode(&buffer[..n]) {
                        Ok(Message::ShutdownBegin) => { shutdown.send_replace(Wish::EndPods); }
                        Ok(other) => tracing::warn!(?other, "not for the agent"),
                        Err(error) => tracing::warn!(%error, "init sent something else"),
                    },
                    Err(error) => return tracing::error!(%error, "read from the control socket"),
                }
            }
        }
    }
}

/// Puts the socket under the runtime's watch. An owned descriptor cannot be closed behind the runtime's back, which is what
/// the replacement, an unsafe function, asks its caller to promise.
#[expect(deprecated, reason = "the replacement is unsafe, and only sys may be")]
fn pollable(socket: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(socket)
}

fn send(socket: &AsyncFd<OwnedFd>, message: &Message<'_>) {
    // A full socket means that init is busy: the next beat will do.
    if let Err(error) = poll::send(socket.as_fd(), &message.encode()) {
        tracing::debug!(%error, "init did not take a message");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::IntoRawFd;

    #[tokio::test]
    async fn init_hears_heartbeats_and_lines_and_can_begin_a_shutdown() {
        let (init, agent) = poll::message_pair().unwrap();
        // As the agent takes it over: the pair's second end blocks.
        let agent = poll::adopt(agent.into_raw_fd()).unwrap();
        let (lines, outgoing) = mpsc::channel(4);
        let (shutdown, mut asked) = watch::channel(Wish::Run);
        let link = tokio::spawn(run(agent, outgoing, shutdown));
        lines
            .send(ToInit::Status("joined".to_owned()))
            .await
            .unwrap();

        let init = pollable(init).unwrap();
        let mut heard = Vec::new();
        while heard.len() < 2 {
            let mut ready = init.readable().await.unwrap();
            let mut buffer = [0; SIZE];
            match poll::read(init.as_fd(), &mut buffer).unwrap() {
                Some(n) => heard.push(format!("{:?}", Message::decode(&buffer[..n]).unwrap())),
                None => ready.clear_ready(),
            }
        }
        heard.sort();
        assert_eq!(heard, ["Heartbeat", "Status(\"joined\")"]);

        poll::send(init.as_fd(), &Message::ShutdownBegin.encode()).unwrap();
        asked.wait_for(|a| *a == Wish::EndPods).await.unwrap();
        drop(init);
        link.await.unwrap();
    }
}
