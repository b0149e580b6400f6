//! The control socket: requests of [`super::protocol`] to effects, one thread per connection.
//!
//! A connection that said `hold` carries the cluster's life until it says `detach`: Ctrl-C in `up`, or its `kill -9`, ends the cluster.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::Shared;
use super::monitor::wanted_routes;
use super::protocol::{Answer, ExecResult, MachineStatus, Request, Status};
use crate::api::{Api, stranger};
use crate::controlplane::plan::PORT;
use crate::controlplane::stop_child;
use crate::http;
use crate::pki::Pki;
use crate::qemu::mac;
use crate::registry::Registry;

/// Never returns but by an error or a stop.
pub fn run(shared: &Shared) -> Result<()> {
    let path = shared.lock().dirs.control();
    let listener =
        UnixListener::bind(&path).with_context(|| format!("listen on {}", path.display()))?;
    for stream in listener.incoming() {
        let stream = stream.with_context(|| format!("accept on {}", path.display()))?;
        let shared = shared.clone();
        thread::Builder::new()
            .name("control".into())
            .spawn(move || converse(&shared, stream))
            .context("start a control thread")?;
    }
    Ok(())
}

fn converse(shared: &Shared, stream: UnixStream) {
    let Ok(mut writer) = stream.try_clone() else {
        return;
    };
    let mut held = false;
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { break };
        let request = serde_json::from_str::<Request>(&line).context("parse the request");
        match &request {
            Ok(Request::Hold) => held = true,
            Ok(Request::Detach) => held = false,
            _ => {}
        }
        let stop = matches!(&request, Ok(Request::Stop));
        let result = match request {
            Ok(Request::Run { argv, env, log }) => {
                super::run::run(&writer, &argv, &env, &log).map(|code| json!(code))
            }
            request => request.and_then(|request| execute(shared, request)),
        };
        let answer = match result {
            Ok(value) => Answer::Ok(value),
            Err(error) => Answer::Error(format!("{error:#}")),
        };
        let text = serde_json::to_string(&answer)
            .unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"));
        let told = writeln!(writer, "{text}");
        if stop {
            std::process::exit(0);
        }
        if told.is_err() {
            break;
        }
    }
    if held {
        eprintln!("control: the holder is gone; the cluster ends");
        std::process::exit(0);
    }
}

fn execute(shared: &Shared, request: Request) -> Result<Value> {
    match request {
        Request::Hold | Request::Detach => Ok(json!({})),
        Request::Run { .. } => bail!("a program is run by its connection"),
        Request::Images { layouts } => {
            let (first, shelf) = {
                let state = shared.lock();
                (state.images.clone(), state.shelf.clone())
            };
            let registry = Registry::open(&[first, layouts].concat())?;
            let names = registry.names();
            shelf.replace(registry);
            Ok(json!(names))
        }
        Request::Status => Ok(serde_json::to_value(status(shared))?),
        Request::Stop => {
            shared.lock().control_plane.stop_all();
            Ok(json!({}))
        }
        Request::Exec {
            argv,
            stdin,
            timeout_ms,
        } => Ok(serde_json::to_value(run_command(
            &argv,
            &stdin,
            Duration::from_millis(timeout_ms),
        )?)?),
        Request::Dial {
            address,
            payload,
            udp,
            timeout_ms,
        } => {
            let timeout = Duration::from_millis(timeout_ms);
            let bytes = if udp {
                dial_udp(&address, &payload, timeout)
            } else {
                dial_tcp(&address, &payload, timeout)
            };
            Ok(json!(String::from_utf8_lossy(
                &bytes.with_context(|| format!("dial {address}"))?
            )))
        }
        Request::Https { address, path } => {
            let pki = Pki {
                directory: shared.lock().dirs.pki(),
            };
            let tls = stranger(&pki, &address.ip().to_string())?;
            let response = http::send(
                address,
                Some(&tls),
                http::Request::get(&path),
                Duration::from_secs(10),
            )?;
            Ok(json!({"status": response.status, "body": response.text()}))
        }
        Request::Launch { vm } => {
            let mut state = shared.lock();
            state
                .leases
                .0
                .entry(vm.mac())
                .or_insert_with(|| default_address(vm.index));
            state.machines.launch(vm).map(|()| json!({}))
        }
        Request::Remove { name } => shared.lock().machines.remove(&name).map(|()| json!({})),
        Request::Machine { name, action } => shared
            .lock()
            .machines
            .act(&name, action)
            .map(|()| json!({})),
        Request::Lease { index, address } => {
            shared.lock().leases.0.insert(mac(index), address);
            Ok(json!({}))
        }
        Request::Time { address, answer } => {
            let mut state = shared.lock();
            state.without_time.retain(|known| *known != address);
            if !answer {
                state.without_time.push(address);
            }
            Ok(json!({}))
        }
        Request::StopProgram { name } => {
            let mut child = shared.lock().control_plane.take(&name)?;
            stop_child(&mut child)
                .with_context(|| format!("stop {name}"))
                .map(|()| json!({}))
        }
        Request::StartProgram { name, extra } => shared
            .lock()
            .control_plane
            .start(&name, &extra)
            .map(|()| json!({})),
    }
}

/// node N has 192.168.50.(10+N).
pub fn default_address(index: u8) -> std::net::Ipv4Addr {
    std::net::Ipv4Addr::new(192, 168, 50, index.saturating_add(10))
}

fn status(shared: &Shared) -> Status {
    let mut state = shared.lock();
    let leases = state.leases.clone();
    let programs = state.control_plane.running();
    let events = state.events.clone();
    let pki = Pki {
        directory: state.dirs.pki(),
    };
    let machines = state
        .machines
        .list()
        .into_iter()
        .map(|(vm, running)| MachineStatus {
            name: vm.name.clone(),
            index: vm.index,
            running,
            address: leases.0.get(&vm.mac()).copied(),
        })
        .collect();
    drop(state);
    let nodes = Api::local(&pki, PORT)
        .and_then(|api| api.items("/api/v1/nodes"))
        .unwrap_or_default();
    let routes = wanted_routes(&nodes)
        .into_iter()
        .map(|(range, via)| format!("{range} via {via}"))
        .collect();
    Status {
        programs,
        machines,
        events,
        routes,
    }
}

fn run_command(argv: &[String], stdin: &str, timeout: Duration) -> Result<ExecResult> {
    let (program, arguments) = argv.split_first().context("exec: no program")?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("exec {program}"))?;
    if let Some(mut pipe) = child.stdin.take() {
        // A program that does not read its input is no error of ours.
        let _ = pipe.write_all(stdin.as_bytes());
    }
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let code = wait(&mut child, timeout).with_context(|| format!("exec {program}"))?;
    Ok(ExecResult {
        code,
        stdout: stdout.join().unwrap_or_default(),
        stderr: stderr.join().unwrap_or_default(),
    })
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What came before an error is what there is.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn wait(child: &mut Child, timeout: Duration) -> Result<i32> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(status) = child.try_wait().context("wait")? {
            return Ok(status.code().unwrap_or(-1));
        }
        if Instant::now() > deadline {
            child.kill().context("kill after the timeout")?;
            child.wait().context("wait")?;
            return Ok(-1);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn dial_tcp(address: &str, payload: &str, timeout: Duration) -> Result<Vec<u8>> {
    let target = address
        .to_socket_addrs()
        .context("resolve")?
        .next()
        .context("no address")?;
    let mut stream = TcpStream::connect_timeout(&target, timeout).context("connect")?;
    stream
        .set_read_timeout(Some(timeout))
        .context("set the timeout")?;
    stream.write_all(payload.as_bytes()).context("send")?;
    let mut bytes = Vec::new();
    let mut chunk = [0; 8192];
    let deadline = Instant::now() + timeout;
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(bytes),
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            Err(error) if bytes.is_empty() => return Err(error).context("read"),
            // The peer keeps the connection open; what arrived is the answer.
            Err(_) => return Ok(bytes),
        }
        if Instant::now() > deadline {
            return Ok(bytes);
        }
    }
}

fn dial_udp(address: &str, payload: &str, timeout: Duration) -> Result<Vec<u8>> {
    let socket = UdpSocket::bind("0.0.0.0:0").context("open a socket")?;
    socket
        .set_read_timeout(Some(timeout))
        .context("set the timeout")?;
    socket
        .send_to(payload.as_bytes(), address)
        .context("send")?;
    let mut buffer = [0; 2048];
    match socket.recv(&mut buffer) {
        Ok(length) => Ok(buffer[..length].to_vec()),
        Err(error) => bail!("no answer: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_gets_its_input_and_its_exit_code_back() {
        let argv = ["sh", "-c", "cat; echo to-stderr >&2; exit 7"].map(String::from);
        let result = run_command(&argv, "to-stdin", Duration::from_secs(10)).unwrap();
        assert_eq!(
            (result.code, result.stdout.as_str(), result.stderr.as_str()),
            (7, "to-stdin", "to-stderr\n")
        );
    }

    #[test]
    fn a_command_that_hangs_is_killed() {
        let argv = ["sleep", "60"].map(String::from);
        assert_eq!(
            run_command(&argv, "", Duration::from_millis(100))
                .unwrap()
                .code,
            -1
        );
    }
}
