//! From the user's 127.0.0.1 into the namespace: the outer stage opened the listening socket, which keeps belonging to the user's network;
//! here each accepted connection is joined to the API server's port in ours.
//!
//! Two threads per connection copy bytes until both sides have said their end. Absent: TLS; that is between user and API server.

use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::thread;

use anyhow::{Context, Result};

use crate::controlplane::plan::PORT;

pub fn start(listener: TcpListener) -> Result<()> {
    thread::Builder::new()
        .name("forward".into())
        .spawn(move || run(&listener))
        .context("start the forwarder")
        .map(drop)
}

fn run(listener: &TcpListener) {
    for user in listener.incoming() {
        let joined = user.and_then(|user| {
            TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)).and_then(|server| join(user, server))
        });
        // A refused connection is the API server being down, which the user's client sees as a closed connection.
        if let Err(error) = joined
            && error.kind() != io::ErrorKind::ConnectionRefused
        {
            eprintln!("forward: {error}");
        }
    }
}

/// Copies both ways, each direction ending on its own (half-close matters to `kubectl exec`).
pub fn join(left: TcpStream, right: TcpStream) -> io::Result<()> {
    let (left_reader, right_writer) = (left.try_clone()?, right.try_clone()?);
    thread::Builder::new()
        .name("forward-out".into())
        .spawn(move || copy(left_reader, right_writer))?;
    thread::Builder::new()
        .name("forward-in".into())
        .spawn(move || copy(right, left))?;
    Ok(())
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    if io::copy(&mut from, &mut to).is_err() {
        // One side is broken: let neither wait for the other.
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
        return;
    }
    let _ = to.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn bytes_and_half_closes_pass_in_both_directions() {
        let front = TcpListener::bind("127.0.0.1:0").unwrap();
        let back = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut user = TcpStream::connect(front.local_addr().unwrap()).unwrap();
        join(
            front.accept().unwrap().0,
            TcpStream::connect(back.local_addr().unwrap()).unwrap(),
        )
        .unwrap();
        let (mut server, _) = back.accept().unwrap();
        user.write_all(b"question").unwrap();
        user.shutdown(Shutdown::Write).unwrap();
        let mut text = String::new();
        server.read_to_string(&mut text).unwrap();
        assert_eq!(text, "question");
        server.write_all(b"answer").unwrap();
        drop(server);
        text.clear();
        user.read_to_string(&mut text).unwrap();
        assert_eq!(text, "answer");
    }
}
