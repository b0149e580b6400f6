//! The rig's probe: one static program with two lives, never part of the product image.
//!
//! As PID 1 of a throw-away guest it prints [`BOOT_MARKER`] and leaves: the rig learns whether an accelerator really boots.
//! As a service on a node (from a test-only volume) it answers every TCP connection on port 9777 with one JSON document:
//! the processes of the node with their PSS, CPU time and context switches. It reads `/proc` and looks for the runtime's socket.
//! To `GET /clock` it says no more than what time it is, at once: a look at every process takes a while.

mod sample;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Printed on the console by a guest that got as far as user space.
const BOOT_MARKER: &str = "KEDGE-PROBE-BOOTED";
const PORT: u16 = 9777;
const RUNTIME: &str = "/run/containerd/containerd.sock";
const PROC: &str = "/proc";

/// When [`RUNTIME`] was first there, in milliseconds since kernel entry.
static RUNTIME_UP: AtomicU64 = AtomicU64::new(0);

fn main() {
    if std::process::id() == 1 {
        println!("{BOOT_MARKER}");
        // Leaving PID 1 panics the kernel; `panic=-1` and `-no-reboot` turn that into the end of the VM.
        return;
    }
    let listener = match TcpListener::bind(("0.0.0.0", PORT)) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("probe: listen on port {PORT}: {error}");
            std::process::exit(1);
        }
    };
    std::thread::spawn(watch_runtime);
    for stream in listener.incoming().flatten() {
        if let Err(error) = answer(stream) {
            eprintln!("probe: answer: {error}");
        }
    }
}

/// A look every 20 ms for the first seconds after boot, then never again.
fn watch_runtime() {
    while !Path::new(RUNTIME).exists() {
        std::thread::sleep(Duration::from_millis(20));
    }
    RUNTIME_UP.store(sample::clock(Path::new(PROC)).uptime_ms, Ordering::Relaxed);
}

/// One sample per connection, as an HTTP/1.0 response so that any client can read it. A silent client still gets its answer after the timeout.
fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut request = [0; 1024];
    let length = stream.read(&mut request).unwrap_or(0);
    let proc = Path::new(PROC);
    let mut sample = if request
        .get(..length)
        .is_some_and(|text| text.starts_with(b"GET /clock "))
    {
        sample::clock(proc)
    } else {
        sample::take(proc)
    };
    sample.runtime_up_ms = RUNTIME_UP.load(Ordering::Relaxed);
    let body = sample.to_json();
    write!(
        stream,
        "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}
