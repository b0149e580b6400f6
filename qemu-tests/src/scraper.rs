//! Scrapers that cost next to nothing themselves, for measuring what being scraped costs: connections kept open, pages counted, not read.
//!
//! In: a [`Plan`] as JSON on standard input. Out: [`Outcome`] as JSON on standard output. Run by the supervisor inside the cluster's namespace
//! (`rig scraper`). Every scraper asks for every page each interval, all at the same moment, with the headers that Prometheus sends.
//! A request that fails is told and counted, its connection made anew; none begins when the time of all rounds is over. Absent: reading what
//! was sent; stories do that.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::api;
use crate::http::{Tls, parse_response};
use crate::pki::Pki;

/// Longer than a scrape may take anywhere.
const TIMEOUT: Duration = Duration::from_secs(15);
/// What Prometheus 3 asks for.
const ACCEPT: &str = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    pub address: IpAddr,
    pub port: u16,
    /// Where the cluster CA is.
    pub pki: PathBuf,
    pub token: String,
    pub paths: Vec<String>,
    pub scrapers: usize,
    pub interval_ms: u64,
    pub rounds: usize,
}

impl Plan {
    /// Of all rounds.
    pub fn time(&self) -> Duration {
        let rounds = u64::try_from(self.rounds).unwrap_or(u64::MAX);
        Duration::from_millis(self.interval_ms.saturating_mul(rounds))
    }

    /// Pages that all scrapers should get.
    pub fn due(&self) -> usize {
        self.scrapers * self.rounds * self.paths.len()
    }
}

/// One page that was read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scrape {
    pub path: String,
    /// From request to the last byte.
    pub seconds: f64,
    /// As sent: compressed.
    pub bytes: usize,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    pub scrapes: Vec<Scrape>,
    pub errors: Vec<String>,
}

impl Outcome {
    /// Seconds that each scrape of a page took.
    pub fn seconds(&self, path: &str) -> Vec<f64> {
        let of = self.scrapes.iter().filter(|scrape| scrape.path == path);
        of.map(|scrape| scrape.seconds).collect()
    }
}

/// Runs the plan to its end.
pub fn run(plan: &Plan) -> Result<Outcome> {
    let pki = Pki {
        directory: plan.pki.clone(),
    };
    let tls = api::stranger(&pki, &plan.address.to_string())?;
    let (sender, receiver) = mpsc::channel();
    let begin = Instant::now();
    thread::scope(|scope| {
        for _ in 0..plan.scrapers {
            let (sender, tls) = (sender.clone(), &tls);
            scope.spawn(move || scrape(plan, tls, begin, &sender));
        }
        drop(sender);
        let mut outcome = Outcome::default();
        for result in receiver {
            match result {
                Ok(scrape) => outcome.scrapes.push(scrape),
                Err(error) => outcome.errors.push(error),
            }
        }
        Ok(outcome)
    })
}

fn scrape(
    plan: &Plan,
    tls: &Tls,
    begin: Instant,
    to: &mpsc::Sender<std::result::Result<Scrape, String>>,
) {
    let mut connection = None;
    for round in 0..plan.rounds {
        let round = u64::try_from(round).unwrap_or(u64::MAX);
        let at = Duration::from_millis(plan.interval_ms.saturating_mul(round));
        thread::sleep(at.saturating_sub(begin.elapsed()));
        for path in &plan.paths {
            if begin.elapsed() > plan.time() {
                return;
            }
            let result = once(plan, tls, &mut connection, path);
            if result.is_err() {
                connection = None;
            }
            let told = result.map_err(|error| format!("{path}: {error:#}"));
            // Whoever listens does so to the end.
            let _ = to.send(told);
        }
    }
}

type Stream = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

fn once(plan: &Plan, tls: &Tls, connection: &mut Option<Stream>, path: &str) -> Result<Scrape> {
    let mut stream = match connection.take() {
        Some(stream) => stream,
        None => connect(plan, tls)?,
    };
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {}:{}\r\nAuthorization: Bearer {}\r\nAccept: {ACCEPT}\r\nAccept-Encoding: gzip\r\nUser-Agent: kedge-rig\r\n\r\n",
        plan.address, plan.port, plan.token
    );
    let begin = Instant::now();
    stream.write_all(request.as_bytes()).context("send")?;
    stream.flush().context("send")?;
    let bytes = answer(&mut stream)?;
    let seconds = begin.elapsed().as_secs_f64();
    *connection = Some(stream);
    Ok(Scrape {
        path: path.to_owned(),
        seconds,
        bytes,
    })
}

/// TLS is spoken before the clock runs.
fn connect(plan: &Plan, tls: &Tls) -> Result<Stream> {
    let address = SocketAddr::new(plan.address, plan.port);
    let mut socket = TcpStream::connect_timeout(&address, TIMEOUT).context("connect")?;
    socket
        .set_read_timeout(Some(TIMEOUT))
        .context("limit reading")?;
    socket
        .set_write_timeout(Some(TIMEOUT))
        .context("limit writing")?;
    let name = rustls_pki_types::ServerName::try_from(tls.name.clone()).context("name")?;
    let mut session = rustls::ClientConnection::new(tls.config.clone(), name).context("TLS")?;
    while session.is_handshaking() {
        session.complete_io(&mut socket).context("TLS handshake")?;
    }
    Ok(rustls::StreamOwned::new(session, socket))
}

/// Reads one answer to its end; its body's length.
fn answer(stream: &mut impl Read) -> Result<usize> {
    let (mut received, mut chunk) = (Vec::new(), vec![0; 64 * 1024]);
    loop {
        let count = stream.read(&mut chunk).context("read")?;
        received.extend_from_slice(&chunk[..count]);
        match parse_response(&received, false)? {
            Some(response) if response.status == 200 => return Ok(response.body.len()),
            Some(response) => bail!("HTTP {}: {}", response.status, response.text().trim()),
            None if count == 0 => bail!("the connection ended after {} bytes", received.len()),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_counted_and_the_connection_left_for_the_next() {
        let text = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        assert_eq!(answer(&mut &text[..]).unwrap(), 3);
        let refused = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno";
        assert!(
            answer(&mut &refused[..])
                .unwrap_err()
                .to_string()
                .contains("HTTP 403: no")
        );
        let cut = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc";
        assert!(
            answer(&mut &cut[..])
                .unwrap_err()
                .to_string()
                .contains("ended")
        );
    }

    #[test]
    fn a_node_that_is_not_there_is_told_for_every_request() {
        let directory = tempfile::tempdir().unwrap();
        Pki::create(directory.path(), std::time::SystemTime::now()).unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let plan = Plan {
            address: free.ip(),
            port: free.port(),
            pki: directory.path().to_owned(),
            token: "t".into(),
            paths: vec!["/a".into(), "/b".into()],
            scrapers: 2,
            interval_ms: 60_000,
            rounds: 1,
        };
        let outcome = run(&plan).unwrap();
        assert_eq!((outcome.scrapes.len(), outcome.errors.len()), (0, 4));
        assert!(
            outcome.errors[0].contains("connect"),
            "{:?}",
            outcome.errors
        );
    }
}
