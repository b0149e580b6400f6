//! One connection of the registry: HTTP/1.1 requests one after another, answers with a length (RFC 9112).
//!
//! Bounded: a head of 16 KiB, a minute of silence. Request bodies are absent: a request that announces one is answered and the
//! connection closed.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::{Answer, Body, Request, Shelf};

const HEAD_LIMIT: u64 = 16 << 10;
const IDLE: Duration = Duration::from_secs(60);

pub fn run(stream: &TcpStream, shelf: &Shelf) -> io::Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(IDLE))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    while let Some(head) = read_head(&mut reader)? {
        let Some(parsed) = parse(&head) else {
            return stream_write(
                stream,
                b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            );
        };
        let answer = shelf.now().answer(parsed.request);
        send(
            stream,
            &answer,
            parsed.request.method == "HEAD",
            parsed.close,
        )?;
        if parsed.close {
            break;
        }
    }
    Ok(())
}

/// The lines up to the empty one; `None` at the end of the connection.
fn read_head(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut head = String::new();
    loop {
        let before = head.len();
        let room = HEAD_LIMIT.saturating_sub(before as u64);
        reader.by_ref().take(room).read_line(&mut head)?;
        let line = &head[before..];
        if line.is_empty() {
            // The peer left, or the head outgrew its limit: both end here.
            return Ok(None);
        }
        if line == "\r\n" || line == "\n" {
            return Ok(Some(head));
        }
    }
}

struct Parsed<'a> {
    request: Request<'a>,
    close: bool,
}

fn parse(head: &str) -> Option<Parsed<'_>> {
    let mut lines = head.lines();
    let mut words = lines.next()?.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let mut request = Request {
        method,
        target,
        range: None,
        authorization: None,
    };
    let mut close = version != "HTTP/1.1";
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':')?;
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "range" => request.range = Some(value),
            "authorization" => request.authorization = Some(value),
            "connection" => close |= value.eq_ignore_ascii_case("close"),
            "content-length" => close |= value != "0",
            "transfer-encoding" => close = true,
            _ => {}
        }
    }
    Some(Parsed { request, close })
}

fn send(mut stream: &TcpStream, answer: &Answer, head_only: bool, close: bool) -> io::Result<()> {
    let reason = if answer.status < 300 { "OK" } else { "Error" };
    let mut head = format!("HTTP/1.1 {} {reason}\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("Docker-Distribution-Api-Version: registry/2.0\r\n");
    if close {
        head.push_str("Connection: close\r\n");
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", answer.body.len()));
    stream_write(stream, head.as_bytes())?;
    if head_only {
        return Ok(());
    }
    match &answer.body {
        Body::Bytes(bytes) => stream_write(stream, bytes),
        Body::File {
            path,
            offset,
            length,
        } => {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(*offset))?;
            io::copy(&mut file.take(*length), &mut stream).map(drop)
        }
    }
}

fn stream_write(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes)
}
