//! The smallest HTTP/1.1 client that serves the rig: one request per connection, blocking, TLS optional.
//!
//! In: method, path, body. Out: status and body. [`parse_response`] is pure: bytes so far in, a response or "more" out.
//! Absent: redirects, connection reuse, HTTP/2; the product's own client has those and is tested by the stories.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Response {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body of a 2xx answer, or an error with the server's words.
    pub fn success(self, what: &str) -> Result<Vec<u8>> {
        if !(200..300).contains(&self.status) {
            bail!("{what}: HTTP {}: {}", self.status, self.text().trim());
        }
        Ok(self.body)
    }
}

/// What to send besides the connection's own headers.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub content_type: &'a str,
    pub body: &'a [u8],
}

impl<'a> Request<'a> {
    pub fn get(path: &'a str) -> Self {
        Self {
            method: "GET",
            path,
            content_type: "application/json",
            body: &[],
        }
    }

    fn encode(&self, host: &str) -> Vec<u8> {
        let mut out = format!(
            "{} {} HTTP/1.1\r\nHost: {host}\r\nAccept: application/json\r\nUser-Agent: kedge-rig\r\nConnection: close\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n",
            self.method,
            self.path,
            self.content_type,
            self.body.len()
        )
        .into_bytes();
        out.extend_from_slice(self.body);
        out
    }
}

/// TLS towards one server name.
#[derive(Clone)]
pub struct Tls {
    pub config: Arc<rustls::ClientConfig>,
    pub name: String,
}

/// Sends one request and reads its answer. `timeout` bounds the connect and each read, not the whole.
pub fn send(
    address: SocketAddr,
    tls: Option<&Tls>,
    request: Request<'_>,
    timeout: Duration,
) -> Result<Response> {
    let what = || format!("{} {} at {address}", request.method, request.path);
    let stream = TcpStream::connect_timeout(&address, timeout)
        .with_context(|| format!("connect for {}", what()))?;
    stream.set_read_timeout(Some(timeout)).with_context(what)?;
    stream.set_write_timeout(Some(timeout)).with_context(what)?;
    let bytes = request.encode(&address.to_string());
    match tls {
        None => exchange(stream, &bytes).with_context(what),
        Some(tls) => {
            let name =
                rustls_pki_types::ServerName::try_from(tls.name.clone()).with_context(what)?;
            let session =
                rustls::ClientConnection::new(tls.config.clone(), name).with_context(what)?;
            exchange(rustls::StreamOwned::new(session, stream), &bytes).with_context(what)
        }
    }
}

fn exchange(mut stream: impl Read + Write, request: &[u8]) -> Result<Response> {
    stream.write_all(request).context("send the request")?;
    stream.flush().context("send the request")?;
    let mut received = Vec::new();
    let mut chunk = [0; 16 * 1024];
    loop {
        let count = match stream.read(&mut chunk) {
            Ok(count) => count,
            // A peer that closes TCP without TLS close_notify: what arrived must be complete by itself.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => 0,
            Err(error) => return Err(error).context("read the response"),
        };
        received.extend_from_slice(&chunk[..count]);
        if let Some(response) = parse_response(&received, count == 0)? {
            return Ok(response);
        }
        if count == 0 {
            bail!(
                "read the response: the connection ended after {} bytes",
                received.len()
            );
        }
    }
}

/// A complete response, or `None` when more bytes are needed. `ended`: no more will come.
pub fn parse_response(bytes: &[u8], ended: bool) -> Result<Option<Response>> {
    let Some(head_end) = find(bytes, b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&bytes[..head_end]).context("response head is not UTF-8")?;
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1)?.parse().ok())
        .with_context(|| format!("no status in {head:?}"))?;
    let headers: Vec<(String, &str)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim()))
        .collect();
    let header = |name: &str| {
        headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| *value)
    };
    let body = &bytes[head_end + 4..];
    if header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        return Ok(dechunk(body)?.map(|body| Response { status, body }));
    }
    match header("content-length").map(str::parse::<usize>) {
        Some(Ok(length)) if body.len() >= length => Ok(Some(Response {
            status,
            body: body[..length].to_vec(),
        })),
        Some(Ok(_)) => Ok(None),
        Some(Err(error)) => Err(error).context("content-length of the response"),
        None => Ok(ended.then(|| Response {
            status,
            body: body.to_vec(),
        })),
    }
}

/// RFC 9112 section 7.1. `None` while the last chunk has not arrived.
fn dechunk(mut rest: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut out = Vec::new();
    loop {
        let Some(line_end) = find(rest, b"\r\n") else {
            return Ok(None);
        };
        let line = std::str::from_utf8(&rest[..line_end]).context("chunk size is not text")?;
        let digits = line.split(';').next().unwrap_or(line).trim();
        let size =
            usize::from_str_radix(digits, 16).with_context(|| format!("chunk size {digits:?}"))?;
        rest = &rest[line_end + 2..];
        if size == 0 {
            return Ok(Some(out));
        }
        if rest.len() < size.saturating_add(2) {
            return Ok(None);
        }
        out.extend_from_slice(&rest[..size]);
        rest = &rest[size + 2..];
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(bytes: &[u8], ended: bool) -> Option<String> {
        parse_response(bytes, ended)
            .unwrap()
            .map(|response| response.text())
    }

    #[test]
    fn a_body_of_known_length_is_complete_when_it_has_arrived() {
        assert_eq!(
            body(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", false),
            None
        );
        assert_eq!(
            body(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", false).as_deref(),
            Some("hello")
        );
    }

    #[test]
    fn chunks_are_joined_and_wait_for_the_last() {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(body(format!("{head}3\r\nabc\r\n").as_bytes(), false), None);
        assert_eq!(
            body(
                format!("{head}3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n").as_bytes(),
                false
            )
            .as_deref(),
            Some("abcde")
        );
    }

    #[test]
    fn without_a_length_the_end_of_the_connection_ends_the_body() {
        assert_eq!(body(b"HTTP/1.0 200 OK\r\n\r\nxy", false), None);
        assert_eq!(
            body(b"HTTP/1.0 200 OK\r\n\r\nxy", true).as_deref(),
            Some("xy")
        );
    }

    #[test]
    fn a_bad_chunk_size_is_an_error_not_a_panic() {
        let bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n";
        assert!(parse_response(bytes, false).is_err());
        let huge = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n";
        assert_eq!(parse_response(huge, false).unwrap(), None);
    }
}
