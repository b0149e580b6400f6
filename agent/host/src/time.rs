//! The clock: asks time servers, steps or slews, and says how good the time is. Nothing waits for it: a node runs without.
//!
//! In: servers of the machine config, else those DHCP named. Out: the kernel's clock, [`ClockState`] by `watch`, and
//! `/state/clock` when the clock was stepped and when the agent ends – never on a timer, STATE is flash.
//! The choice among servers is in `wire::sntp`.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kedge_machine::paths;
use kedge_sys::{clock, fs};
use kedge_tasks::{Stop, Tasks};
use kedge_wire::sntp::{Client, Measurement, Nanos, PORT, Reading};
use tokio::net::UdpSocket;
use tokio::sync::{Semaphore, watch};

use crate::network::NodeNetwork;

mod decide;

pub use decide::Correction;
use decide::{correction, floor, started_at_floor};

/// How good the clock is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClockState {
    /// A server was believed, and the clock corrected by it, since the start.
    pub synchronised: bool,
    /// The last measured offset, before it was corrected.
    pub offset: Nanos,
    /// Wall clock at the last measurement.
    pub last: Option<Duration>,
    /// The server believed.
    pub source: Option<String>,
    /// What is wrong, in a sentence for the operator.
    pub fault: Option<String>,
    /// Why what was measured last changed nothing, as it was at the first of such measurements in a row.
    pub doubt: Option<String>,
}

/// What the task needs.
#[derive(Clone, Debug)]
pub struct Options {
    /// From the machine config: names or addresses, optionally with a port. Empty: those of DHCP.
    pub servers: Vec<String>,
    /// The last good time.
    pub saved: PathBuf,
    /// The image's build time.
    pub build_stamp: PathBuf,
    /// Replaced in tests, which may not set the machine's clock.
    pub apply: fn(Correction) -> kedge_sys::Result<()>,
}

impl Options {
    /// With the node's usual files and the kernel's clock.
    pub fn new(servers: Vec<String>) -> Self {
        Self {
            servers,
            saved: paths::STATE_CLOCK.into(),
            build_stamp: paths::BUILD_STAMP.into(),
            apply: set_clock,
        }
    }
}

/// Names are asked for again after this long while none of them resolves.
const RESOLVE_AGAIN: Duration = Duration::from_secs(10);

/// Starts the task. It ends with `tasks`, saving the time if it is good.
pub fn spawn(
    tasks: &mut Tasks,
    options: Options,
    network: watch::Receiver<NodeNetwork>,
) -> watch::Receiver<ClockState> {
    let (publish, published) = watch::channel(ClockState::default());
    let stop = tasks.stop();
    let keeper = Keeper {
        floor: floor(
            read_seconds(&options.build_stamp),
            read_seconds(&options.saved),
        ),
        options,
        network,
        publish,
        saving: Arc::new(Semaphore::new(1)),
    };
    tasks.spawn("time", keeper.run(stop));
    published
}

struct Keeper {
    options: Options,
    network: watch::Receiver<NodeNetwork>,
    publish: watch::Sender<ClockState>,
    floor: Duration,
    /// One writer of the saved time at a time: a write goes on when nobody waits for it any more.
    saving: Arc<Semaphore>,
}

impl Keeper {
    async fn run(self, mut stop: Stop) {
        let now = kedge_sys::time::now();
        if started_at_floor(now.mono, now.wall, self.floor) {
            tracing::warn!(
                seconds = now.wall.as_secs(),
                "the clock began at its floor: this machine does not know the time until a time server answers"
            );
        }
        let mut network = self.network.clone();
        loop {
            let names = self.names();
            // Dropping the conversation loses one round of questions, nothing else.
            tokio::select! {
                () = stop.requested() => break,
                () = self.converse(&names) => {}
                () = other_servers(&mut network, &self.options.servers, &names) => {}
            }
        }
        if self.publish.borrow().synchronised {
            self.save().await;
        }
    }

    fn names(&self) -> Vec<String> {
        names(&self.options.servers, &self.network.borrow())
    }

    /// Talks to these servers until dropped; returns to have names resolved again.
    async fn converse(&self, names: &[String]) {
        if names.is_empty() {
            // Before the first lease nobody can know whether DHCP names a server.
            let mut network = self.network.clone();
            let _ = network.wait_for(|n| n.primary.is_some()).await;
        }
        let servers = resolve(names).await;
        let socket = match (
            servers.is_empty(),
            UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await,
        ) {
            (false, Ok(socket)) => socket,
            (empty, _) => {
                self.fault(missing(names, empty));
                return tokio::time::sleep(RESOLVE_AGAIN).await;
            }
        };
        let mut client = Client::new(
            servers.len(),
            kedge_sys::packet::random_seed(),
            kedge_sys::time::now().mono,
        );
        let mut buffer = [0; 128];
        let mut unanswered = 0;
        loop {
            for query in client.queries(reading()) {
                // A network that is away for now: the round ends without an answer and the next one comes.
                let _ = socket.send_to(&query.packet, servers[query.server].1).await;
            }
            let wait = client.poll_at().saturating_sub(kedge_sys::time::now().mono);
            tokio::select! {
                // Both arms only wait; a datagram that is not taken stays in the socket.
                received = socket.recv_from(&mut buffer) => {
                    let now = reading();
                    if let Ok((len, from)) = received
                        && let Some(index) = servers.iter().position(|(_, at)| SocketAddr::V4(*at) == from)
                    {
                        client.receive(index, &buffer[..len], now);
                    }
                }
                () = tokio::time::sleep(wait) => {}
            }
            let round_was_open = client.in_round();
            match client.poll(kedge_sys::time::now().mono) {
                Some(found) => {
                    unanswered = 0;
                    let now = kedge_sys::time::now().mono;
                    match self.follow(&found, &servers[found.server].0).await {
                        Some(Correction::Step(_)) => client.stepped(found.offset, now),
                        Some(Correction::Slew(_)) => client.slewed(found.offset, now),
                        None => {}
                    }
                }
                None if round_was_open && !client.in_round() => {
                    unanswered += 1;
                    if unanswered == 3 {
                        self.fault(format!(
                            "no usable answer from time servers {}",
                            names.join(", ")
                        ));
                        // The name may lead elsewhere by now.
                        return;
                    }
                }
                None => {}
            }
        }
    }

    /// Corrects the clock, or leaves it when it may be right. Answers what was done.
    async fn follow(&self, found: &Measurement, server: &str) -> Option<Correction> {
        let now = kedge_sys::time::now();
        let step = match correction(found, now.wall, self.floor) {
            Ok(Some(step)) => step,
            Ok(None) => {
                self.doubt(found, server);
                return None;
            }
            Err(refusal) => {
                self.fault(format!("time server {server}: {refusal}"));
                return None;
            }
        };
        if let Err(error) = (self.options.apply)(step) {
            self.fault(error.to_string());
            return None;
        }
        let stepped = matches!(step, Correction::Step(_));
        if stepped {
            tracing::info!(
                server,
                offset_ms = found.offset / 1_000_000,
                "clock stepped"
            );
        } else if !self.publish.borrow().synchronised {
            tracing::info!(
                server,
                offset_ms = found.offset / 1_000_000,
                "clock synchronised"
            );
        }
        self.publish.send_replace(ClockState {
            synchronised: true,
            offset: found.offset,
            last: Some(kedge_sys::time::now().wall),
            source: Some(server.to_owned()),
            fault: None,
            doubt: None,
        });
        if stepped {
            self.save().await;
        }
        Some(step)
    }

    /// The clock stays as it is, and what was known of it before too: a measurement that may be nothing but a stall synchronises nothing.
    fn doubt(&self, found: &Measurement, server: &str) {
        let words = format!(
            "not corrected: offset {} ms, may be wrong by {} ms",
            found.offset / 1_000_000,
            found.error.as_millis()
        );
        self.publish.send_modify(|state| {
            if state.doubt.is_none() {
                tracing::info!(server, "clock {words}");
                state.doubt = Some(words);
            }
            state.offset = found.offset;
            state.last = Some(kedge_sys::time::now().wall);
            state.fault = None;
        });
    }

    fn fault(&self, fault: String) {
        let known = self.publish.borrow().fault.as_ref() == Some(&fault);
        if !known {
            tracing::warn!("{fault}");
            self.publish.send_modify(|state| state.fault = Some(fault));
        }
    }

    /// STATE may be slow: on a blocking thread.
    async fn save(&self) {
        let path = self.options.saved.clone();
        let seconds = kedge_sys::time::now().wall.as_secs();
        let permit = self.saving.clone().acquire_owned().await;
        let written = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            fs::write_atomic(&path, format!("{seconds}\n").as_bytes(), 0o600)
        })
        .await;
        if let Ok(Err(error)) = written {
            tracing::warn!(%error, "the time is not remembered for the next boot");
        }
    }
}

/// Completes when the servers to ask are others than `names`. Cancel-safe.
async fn other_servers(
    network: &mut watch::Receiver<NodeNetwork>,
    configured: &[String],
    names_now: &[String],
) {
    let gone = network
        .wait_for(|network| names(configured, network) != names_now)
        .await
        .is_err();
    if gone {
        // The network's loop is gone: the agent is ending.
        std::future::pending().await
    }
}

fn names(configured: &[String], network: &NodeNetwork) -> Vec<String> {
    if configured.is_empty() {
        network
            .ntp_servers
            .iter()
            .map(Ipv4Addr::to_string)
            .collect()
    } else {
        configured.to_vec()
    }
}

fn missing(names: &[String], unresolved: bool) -> String {
    if names.is_empty() {
        "no time server: the config names none (time.servers) and DHCP gave none".to_owned()
    } else if unresolved {
        format!(
            "time servers {} have no IPv4 address that could be found",
            names.join(", ")
        )
    } else {
        "no socket for asking time servers".to_owned()
    }
}

/// Every IPv4 address of every name, once.
async fn resolve(names: &[String]) -> Vec<(String, SocketAddrV4)> {
    let mut seen = HashMap::new();
    let mut servers = Vec::new();
    for name in names {
        let target = if name.parse::<IpAddr>().is_ok() || !name.contains(':') {
            format!("{name}:{PORT}")
        } else {
            name.clone()
        };
        let Ok(found) = tokio::net::lookup_host(&target).await else {
            continue;
        };
        for address in found {
            if let SocketAddr::V4(address) = address
                && seen.insert(address, ()).is_none()
            {
                servers.push((name.clone(), address));
            }
        }
    }
    servers
}

fn reading() -> Reading {
    let now = kedge_sys::time::now();
    Reading {
        mono: now.mono,
        wall: now.wall,
    }
}

fn read_seconds(path: &Path) -> Option<Duration> {
    let text = std::fs::read_to_string(path).ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

/// Steps or slews the kernel's clock, and lets the kernel keep the hardware clock in step.
fn set_clock(correction: Correction) -> kedge_sys::Result<()> {
    match correction {
        Correction::Step(wall) => clock::step(wall)?,
        Correction::Slew(micros) => clock::slew(micros)?,
    }
    clock::mark_synchronised()
}

#[cfg(test)]
mod tests;
