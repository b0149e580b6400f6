//! The sockets of the cluster network: DHCP, SNTP, the image registry, and a decoy that speaks HTTPS but is no API server.
//!
//! Each is one thread around a pure answer function. All end with the process.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt::BindToDevice};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

use super::{Shared, Spec};
use crate::api::certificate;
use crate::pki::Pki;
use crate::registry::{self, Registry};
use crate::{dhcp, sntp};

/// Where a machine config of a "wrong server" story points to.
pub const DECOY_PORT: u16 = 9443;
pub const REGISTRY_PORT: u16 = 5000;

pub fn start(shared: &Shared, spec: &Spec) -> Result<()> {
    let socket = dhcp_socket()?;
    let state = shared.clone();
    spawn("dhcp", move || serve_dhcp(&socket, &state))?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 123)).context("listen for SNTP")?;
    let state = shared.clone();
    spawn("sntp", move || serve_time(&socket, &state))?;
    let pki = Pki {
        directory: shared.lock().dirs.pki(),
    };
    let decoy = Decoy::new(&pki)?;
    spawn("decoy", move || decoy.run())?;
    let shelf = shared.lock().shelf.clone();
    shelf.replace(Registry::open(&spec.images)?);
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, REGISTRY_PORT))
        .context("listen for the registry")?;
    spawn("registry", move || {
        if let Err(error) = registry::serve(listener, shelf) {
            eprintln!("registry: {error}");
        }
    })
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .with_context(|| format!("start the {name} thread"))
        .map(drop)
}

/// Bound to the bridge: only so may it answer to the limited broadcast without a route.
fn dhcp_socket() -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 67)).context("listen for DHCP")?;
    socket
        .set_broadcast(true)
        .context("allow DHCP broadcasts")?;
    setsockopt(&socket, BindToDevice, &"br0".into()).context("bind DHCP to br0")?;
    Ok(socket)
}

fn serve_dhcp(socket: &UdpSocket, shared: &Shared) {
    let mut buffer = [0; 1500];
    loop {
        let Ok((length, _)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let Some(packet) = dhcp::parse(&buffer[..length]) else {
            continue;
        };
        let answer = dhcp::reply(&packet, &shared.lock().leases);
        if let Some(answer) = answer
            && let Err(error) = socket.send_to(&answer, (Ipv4Addr::BROADCAST, 68))
        {
            eprintln!("dhcp: answer {:02x?}: {error}", packet.mac);
        }
    }
}

fn serve_time(socket: &UdpSocket, shared: &Shared) {
    let mut buffer = [0; 128];
    loop {
        let Ok((length, peer)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        if shared
            .lock()
            .without_time
            .iter()
            .any(|address| peer.ip() == IpAddr::V4(*address))
        {
            continue;
        }
        if let Some(answer) = sntp::reply(&buffer[..length], SystemTime::now())
            && let Err(error) = socket.send_to(&answer, peer)
        {
            eprintln!("sntp: answer {peer}: {error}");
        }
    }
}

/// A server with a certificate of the cluster's own CA that knows nothing of Kubernetes.
struct Decoy {
    listener: TcpListener,
    config: Arc<rustls::ServerConfig>,
}

impl Decoy {
    fn new(pki: &Pki) -> Result<Self> {
        let key = PrivateKeyDer::from_pem_file(pki.path("apiserver.key"))
            .context("read apiserver.key")?;
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(
            rustls::crypto::ring::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .context("choose TLS versions")?
        .with_no_client_auth()
        .with_single_cert(vec![certificate(pki, "apiserver")?], key)
        .context("use the API server's certificate")?;
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, DECOY_PORT));
        let listener =
            TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
        Ok(Self {
            listener,
            config: Arc::new(config),
        })
    }

    fn run(&self) {
        for stream in self.listener.incoming().flatten() {
            // A client that hangs up on us is what the story wants.
            let _ = self.answer(stream);
        }
    }

    fn answer(&self, stream: TcpStream) -> Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let session = rustls::ServerConnection::new(self.config.clone())?;
        let mut stream = rustls::StreamOwned::new(session, stream);
        let mut request = [0; 4096];
        let _ = stream.read(&mut request)?;
        let body = "<html><body>Welcome to the coffee machine</body></html>";
        write!(
            stream,
            "HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        stream.conn.send_close_notify();
        stream.flush()?;
        Ok(())
    }
}
