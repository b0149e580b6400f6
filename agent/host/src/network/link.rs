//! One link's task: DHCP and ARP sockets around the state machines of `wire`.
//!
//! In: carrier by `watch`, packets, timers. Out: [`LinkState`] by `watch` and a wake-up of the loop that applies it.
//! It installs nothing itself.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kedge_sys::packet::{PacketSocket, random_seed, udp_on_link};
use kedge_sys::{fs, time};
use kedge_wire::arp::{self, Claim, Timing, earliest};
use kedge_wire::dhcp::{CLIENT_PORT, Client, Effect, Lease, SERVER_PORT, Settings, Transport};
use kedge_wire::ipv4;
use kedge_wire::net::{Ipv4Net, Mac};
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, watch};

/// What a link is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    /// Position in the config: the first link is preferred.
    pub order: usize,
    /// The kernel's number.
    pub index: u32,
    /// `eth0`
    pub name: String,
    /// Hardware address.
    pub mac: Mac,
    /// Ask DHCP.
    pub dhcp: bool,
    /// Static addresses.
    pub addresses: Vec<Ipv4Net>,
    /// Default router for static addresses.
    pub gateway: Option<Ipv4Addr>,
    /// MTU to set.
    pub mtu: Option<u32>,
}

/// What the link has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkState {
    /// The lease in use.
    pub lease: Option<Lease>,
    /// Static addresses that nobody else has.
    pub held: Vec<Ipv4Net>,
    /// Sentences for the operator.
    pub faults: Vec<String>,
}

/// Nobody answering for this long is worth a sentence.
const SILENCE: Duration = Duration::from_secs(10);
/// Between two tries to open a socket.
const REOPEN: Duration = Duration::from_secs(5);

/// The task.
pub struct LinkTask {
    config: LinkConfig,
    client: Option<Client>,
    claims: Vec<(Ipv4Net, Claim)>,
    remembered: PathBuf,
    duplicate: Option<(Ipv4Net, Mac)>,
    carrier: bool,
    publish: watch::Sender<LinkState>,
    wake: Arc<Notify>,
    dhcp: Option<AsyncFd<PacketSocket>>,
    arp: Option<(Vec<Ipv4Addr>, AsyncFd<PacketSocket>)>,
    /// Open while renewing, so that the kernel does not refuse the server's answer.
    renewal: Option<UdpSocket>,
    broken: Option<(String, Duration)>,
}

impl LinkTask {
    /// `installed` are the link's addresses now; those of the config and of a remembered, valid lease are adopted without a gap.
    pub fn new(
        config: LinkConfig,
        hostname: Option<String>,
        remembered: PathBuf,
        installed: &[Ipv4Net],
        probe: Timing,
        wake: Arc<Notify>,
    ) -> Self {
        let now = time::now().mono;
        let client = config.dhcp.then(|| {
            let settings = Settings {
                mac: config.mac,
                hostname,
                probe,
            };
            let lease = recall(&remembered).filter(|lease| installed.contains(&lease.address));
            Client::new(settings, random_seed(), lease, now)
        });
        let claims = config
            .addresses
            .iter()
            .map(|net| {
                (
                    *net,
                    Claim::new(config.mac, net.addr(), installed.contains(net), probe),
                )
            })
            .collect();
        let mut task = Self {
            config,
            client,
            claims,
            remembered,
            duplicate: None,
            carrier: false,
            publish: watch::channel(LinkState::default()).0,
            wake,
            dhcp: None,
            arp: None,
            renewal: None,
            broken: None,
        };
        task.announce(now);
        task
    }

    /// What the link has, from the first moment on.
    pub fn state(&self) -> watch::Receiver<LinkState> {
        self.publish.subscribe()
    }

    /// Runs until aborted, or until the loop that started it is gone.
    pub async fn run(mut self, mut carrier: watch::Receiver<bool>) {
        loop {
            self.open_sockets(time::now().mono);
            let wait = self.poll_at().map(|at| at.saturating_sub(time::now().mono));
            // Every arm only waits for readiness or a value: what it would have seen is still there in the next round.
            tokio::select! {
                changed = carrier.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let up = *carrier.borrow_and_update();
                    self.set_carrier(up);
                }
                () = readable(self.dhcp.as_ref()) => self.read_dhcp(),
                () = readable(self.arp.as_ref().map(|(_, socket)| socket)) => self.read_arp(),
                () = sleep(wait) => self.poll(),
            }
            self.announce(time::now().mono);
        }
    }

    fn poll_at(&self) -> Option<Duration> {
        let client = self.client.as_ref();
        let silence = client
            .and_then(Client::unanswered_since)
            .map(|since| since + SILENCE);
        // Once it is said, it needs no timer any more.
        let silence = silence.filter(|at| *at > time::now().mono);
        let claims = self.claims.iter().filter_map(|(_, c)| c.poll_at()).min();
        let reopen = self.broken.as_ref().map(|(_, at)| *at);
        [client.and_then(Client::poll_at), claims, reopen, silence]
            .into_iter()
            .fold(None, earliest)
    }

    fn set_carrier(&mut self, up: bool) {
        let now = time::now().mono;
        self.carrier = up;
        let mut effects = Vec::new();
        match (&mut self.client, up) {
            (Some(client), true) => effects = client.link_up(now),
            (Some(client), false) => client.link_down(),
            (None, _) => {}
        }
        for (_, claim) in &mut self.claims {
            if up {
                effects.extend(claim.link_up(now).into_iter().map(Effect::Arp));
            } else {
                claim.link_down();
            }
        }
        self.carry_out(effects);
    }

    fn poll(&mut self) {
        let now = time::now().mono;
        let mut effects = self
            .client
            .as_mut()
            .map(|c| c.poll(now))
            .unwrap_or_default();
        for (_, claim) in &mut self.claims {
            effects.extend(claim.poll(now).into_iter().map(Effect::Arp));
        }
        self.carry_out(effects);
    }

    fn read_dhcp(&mut self) {
        let Some(socket) = self.dhcp.take() else {
            return;
        };
        while let Ok(received) = socket.get_ref().receive() {
            let payload =
                ipv4::parse_udp(&received.payload, received.checksum_pending).map(|d| d.payload);
            if let (Some(payload), Some(client)) = (payload, &mut self.client) {
                let effects = client.receive(time::now().mono, payload);
                self.carry_out_with(effects, Some(&socket));
            }
        }
        self.dhcp = Some(socket);
    }

    fn read_arp(&mut self) {
        let Some((_, socket)) = &self.arp else { return };
        let mut packets = Vec::new();
        while let Ok(received) = socket.get_ref().receive() {
            packets.extend(arp::Packet::parse(&received.payload));
        }
        let now = time::now().mono;
        for packet in packets {
            let mut effects = self
                .client
                .as_mut()
                .map(|c| c.hear_arp(now, &packet))
                .unwrap_or_default();
            for (_, claim) in &mut self.claims {
                effects.extend(claim.hear(now, &packet).into_iter().map(Effect::Arp));
            }
            self.carry_out(effects);
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        let socket = self.dhcp.take();
        self.carry_out_with(effects, socket.as_ref());
        self.dhcp = socket;
    }

    fn carry_out_with(&mut self, effects: Vec<Effect>, dhcp: Option<&AsyncFd<PacketSocket>>) {
        for effect in effects {
            match effect {
                Effect::Send(to, message) => self.send(to, &message, dhcp),
                Effect::Arp(packet) => self.send_arp(&packet),
                Effect::Configure(lease) => self.configured(&lease),
                Effect::Deconfigure(lease) => self.deconfigured(&lease),
                Effect::Duplicate { address, mac } => self.duplicate = Some((address, mac)),
            }
        }
    }

    /// A message that cannot be sent now is sent again by its timer.
    fn send(&mut self, to: Transport, message: &[u8], dhcp: Option<&AsyncFd<PacketSocket>>) {
        let result = match to {
            Transport::Broadcast => broadcast(dhcp, Ipv4Addr::UNSPECIFIED, message),
            Transport::Rebind { from } => broadcast(dhcp, from, message),
            Transport::Unicast { from, to } => self.unicast(from, to, message),
        };
        if let Err(error) = result {
            tracing::debug!(link = self.config.name, %error, "DHCP message not sent");
        }
    }

    fn unicast(&mut self, from: Ipv4Addr, to: Ipv4Addr, message: &[u8]) -> std::io::Result<()> {
        if self.renewal.is_none() {
            let socket = udp_on_link(&self.config.name, from, CLIENT_PORT);
            self.renewal = Some(socket.map_err(|e| e.source)?);
        }
        if let Some(socket) = &self.renewal {
            socket.send_to(message, SocketAddrV4::new(to, SERVER_PORT))?;
        }
        Ok(())
    }

    fn send_arp(&mut self, packet: &arp::Packet) {
        // The first probe comes before its address is among those listened for.
        self.open_sockets(time::now().mono);
        if let Some((_, socket)) = &self.arp
            && let Err(error) = socket.get_ref().send(Mac::BROADCAST, &packet.emit())
        {
            tracing::debug!(link = self.config.name, %error, "ARP packet not sent");
        }
    }

    fn configured(&mut self, lease: &Lease) {
        self.renewal = None;
        self.duplicate = None;
        tracing::info!(
            link = self.config.name,
            address = %lease.address,
            server = %lease.server,
            seconds = lease.duration,
            "DHCP lease"
        );
        let text = serde_json::to_string(lease).unwrap_or_default();
        if let Err(error) = fs::write_atomic(&self.remembered, text.as_bytes(), 0o600) {
            tracing::warn!(%error, "the lease is not remembered for the next start of the agent");
        }
    }

    fn deconfigured(&mut self, lease: &Lease) {
        self.renewal = None;
        tracing::warn!(link = self.config.name, address = %lease.address, "DHCP lease is over");
        // A leftover is no harm: it is only believed while it is valid and its address is installed.
        let _ = std::fs::remove_file(&self.remembered);
    }

    /// Addresses whose ARP traffic matters.
    fn listened(&self) -> Vec<Ipv4Addr> {
        let leased = self.client.as_ref().into_iter().flat_map(Client::watched);
        let mut all: Vec<_> = self
            .claims
            .iter()
            .map(|(net, _)| net.addr())
            .chain(leased)
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    fn open_sockets(&mut self, now: Duration) {
        if self.broken.as_ref().is_some_and(|(_, at)| now < *at) {
            return;
        }
        self.broken = None;
        if let Err(error) = self.try_open() {
            self.broken = Some((error.to_string(), now + REOPEN));
        }
    }

    fn try_open(&mut self) -> kedge_sys::Result<()> {
        let poll = |socket: PacketSocket| {
            crate::poll::pollable(socket)
                .map_err(|e| kedge_sys::Error::new("poll", "packet socket", e))
        };
        if self.dhcp.is_none() && self.client.is_some() {
            self.dhcp = Some(poll(PacketSocket::dhcp(self.config.index)?)?);
        }
        let addresses = self.listened();
        if self.arp.as_ref().is_none_or(|(old, _)| *old != addresses) {
            self.arp = if addresses.is_empty() {
                None
            } else {
                let socket = poll(PacketSocket::arp(self.config.index, &addresses)?)?;
                Some((addresses, socket))
            };
        }
        Ok(())
    }

    fn faults(&self, now: Duration) -> Vec<String> {
        let name = &self.config.name;
        let mut faults = Vec::new();
        let claims = self
            .claims
            .iter()
            .filter_map(|(net, claim)| Some((*net, claim.rival()?)));
        for (net, mac) in claims.chain(self.duplicate) {
            faults.push(format!("address {net} on {name} is already used by {mac}"));
        }
        if !self.carrier {
            faults.push(format!("{name} has no carrier: is its cable in?"));
        }
        if self
            .client
            .as_ref()
            .and_then(Client::unanswered_since)
            .is_some_and(|since| now >= since + SILENCE)
        {
            faults.push(format!("no DHCP server answers on {name}"));
        }
        faults.extend(self.broken.iter().map(|(error, _)| error.clone()));
        faults
    }

    fn announce(&mut self, now: Duration) {
        let state = LinkState {
            lease: self.client.as_ref().and_then(Client::lease).cloned(),
            held: self
                .claims
                .iter()
                .filter(|(_, c)| c.is_held())
                .map(|(net, _)| *net)
                .collect(),
            faults: self.faults(now),
        };
        let changed = self.publish.send_if_modified(|current| {
            let changed = *current != state;
            *current = state;
            changed
        });
        if changed {
            self.wake.notify_one();
        }
    }
}

fn recall(path: &std::path::Path) -> Option<Lease> {
    serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()
}

fn broadcast(
    socket: Option<&AsyncFd<PacketSocket>>,
    from: Ipv4Addr,
    message: &[u8],
) -> std::io::Result<()> {
    let socket = socket.ok_or(std::io::ErrorKind::NotConnected)?;
    let packet = ipv4::udp_packet(
        SocketAddrV4::new(from, CLIENT_PORT),
        SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER_PORT),
        message,
    );
    socket.get_ref().send(Mac::BROADCAST, &packet)
}

/// Readiness is cleared at once: the reader empties the socket, and a packet that comes meanwhile sets it again.
async fn readable(socket: Option<&AsyncFd<PacketSocket>>) {
    match socket {
        Some(socket) => match socket.readable().await {
            Ok(mut guard) => guard.clear_ready(),
            Err(_) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}
