//! A node with two pods and a client outside, as network namespaces of the real kernel.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use kedge_sys::rtnetlink::{current_netns, in_netns, new_netns};

/// The calling thread is in the node's namespace.
pub struct World {
    /// 10.244.1.5
    pub pod5: OwnedFd,
    /// 10.244.1.6
    pub pod6: OwnedFd,
    /// 203.0.113.7
    pub outside: OwnedFd,
    /// 203.0.113.1, where the proxy runs.
    pub node: OwnedFd,
}

fn namespace() -> OwnedFd {
    let thread = std::thread::spawn(|| {
        new_netns().unwrap();
        current_netns().unwrap()
    });
    thread.join().unwrap()
}

/// Runs `ip` in a namespace; the child inherits the thread's.
fn ip(ns: &OwnedFd, words: &str) {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test builds its world with the tool at hand"
    )]
    let run = || {
        std::process::Command::new("ip")
            .args(words.split(' '))
            .status()
    };
    let status = in_netns(ns.as_fd(), run).unwrap().unwrap();
    assert!(status.success(), "ip {words}");
}

impl World {
    /// Call in a fresh namespace, which becomes the node's.
    pub fn new() -> Self {
        let world = Self {
            pod5: namespace(),
            pod6: namespace(),
            outside: namespace(),
            node: current_netns().unwrap(),
        };
        ip(&world.node, "link set lo up");
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        world.pod("pod5", &world.pod5, "10.244.1.5");
        world.pod("pod6", &world.pod6, "10.244.1.6");
        world.link("uplink", &world.outside);
        ip(&world.node, "addr add 203.0.113.1/24 dev uplink");
        ip(&world.outside, "addr add 203.0.113.7/24 dev eth0");
        // What a router outside would know.
        ip(&world.outside, "route add 10.96.0.0/12 via 203.0.113.1");
        // A node has a default route, by which packets to cluster addresses would leave it. It leads elsewhere: towards where they
        // came from, the kernel would send redirects, and those eat the budget of ICMP errors to that client.
        ip(&world.node, "link add gateway type veth peer name far");
        ip(&world.node, "link set gateway up");
        ip(&world.node, "link set far up");
        ip(&world.node, "addr add 192.0.2.1/30 dev gateway");
        ip(&world.node, "route add default via 192.0.2.2");
        world
    }

    fn link(&self, name: &str, far: &OwnedFd) {
        ip(
            &self.node,
            &format!("link add {name} type veth peer name eth0"),
        );
        let far_path = format!("/proc/{}/fd/{}", std::process::id(), far.as_raw_fd());
        ip(&self.node, &format!("link set eth0 netns {far_path}"));
        ip(&self.node, &format!("link set {name} up"));
        ip(far, "link set lo up");
        ip(far, "link set eth0 up");
    }

    fn pod(&self, name: &str, far: &OwnedFd, address: &str) {
        self.link(name, far);
        ip(&self.node, &format!("addr add 169.254.1.1/32 dev {name}"));
        ip(&self.node, &format!("route add {address}/32 dev {name}"));
        ip(far, &format!("addr add {address}/32 dev eth0"));
        ip(far, "route add 169.254.1.1/32 dev eth0");
        ip(far, "route add default via 169.254.1.1");
    }
}

/// Serves TCP and UDP at `address` in a namespace for as long as the test process lives: tells each client who it is and who answers.
pub fn serve(ns: &OwnedFd, address: &str) {
    let address: SocketAddr = address.parse().unwrap();
    let tcp = in_netns(ns.as_fd(), || TcpListener::bind(address))
        .unwrap()
        .unwrap();
    let udp = in_netns(ns.as_fd(), || UdpSocket::bind(address))
        .unwrap()
        .unwrap();
    std::thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            if let Ok(peer) = stream.peer_addr() {
                let _ = write!(stream, "{address} saw {}", peer.ip());
            }
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(format!("{address} saw {}", peer.ip()).as_bytes(), peer);
        }
    });
}

const PATIENCE: Duration = Duration::from_secs(2);

/// Connects from a namespace: who answered and whom it saw, or `refused`, or `silence`.
pub fn tcp(ns: &OwnedFd, to: &str) -> String {
    let to: SocketAddr = to.parse().unwrap();
    let talk = || -> io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    in_netns(ns.as_fd(), talk)
        .unwrap()
        .unwrap_or_else(|e| outcome(&e))
}

/// A UDP client that keeps its port: one flow.
pub struct Udp(UdpSocket);

impl Udp {
    pub fn new(ns: &OwnedFd, to: &str) -> Self {
        let open = || {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.connect(to)?;
            io::Result::Ok(socket)
        };
        Self(in_netns(ns.as_fd(), open).unwrap().unwrap())
    }

    pub fn ask(&self) -> String {
        let mut buffer = [0; 64];
        let talk = || -> io::Result<String> {
            self.0.send(b"?")?;
            let len = self.0.recv(&mut buffer)?;
            Ok(String::from_utf8_lossy(&buffer[..len]).into_owned())
        };
        let mut talk = talk;
        talk().unwrap_or_else(|e| outcome(&e))
    }
}

fn outcome(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused".to_owned(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "silence".to_owned(),
        _ => error.to_string(),
    }
}
