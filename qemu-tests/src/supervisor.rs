//! The rig's background process: it owns the namespaces and everything in them.
//!
//! Two stages of the same program. The outer one, in the user's own namespaces, opens the API server's port on 127.0.0.1, makes the
//! namespaces and waits. The inner one is PID 1 of a fresh PID namespace: bridge, control plane, DHCP, SNTP, registry and VMs are its
//! threads and children. When either dies, for whatever reason, the kernel kills the rest: nothing can leak.
//!
//! Callers talk over a unix socket ([`protocol`]); [`client`] is their side.
//! Absent: mounts, and names in `ip netns`: nothing is visible or left outside.

pub mod client;
mod forward;
mod machines;
mod monitor;
pub mod ns;
pub mod protocol;
mod run;
mod serve;
mod services;

pub use services::{DECOY_PORT, REGISTRY_PORT};

use std::fs::{self, File};
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::controlplane::{ControlPlane, plan};
use crate::dhcp::Leases;
use crate::dirs::Dirs;
use crate::pki::write_private;
use crate::registry::Shelf;

/// What a supervisor is told to run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spec {
    /// Directory of the upstream programs.
    pub binaries: PathBuf,
    /// OCI layouts by image name, served to the nodes.
    pub images: Vec<PathBuf>,
}

/// What a running supervisor says of itself, in `run.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Running {
    pub pid: u32,
    /// The API server on 127.0.0.1.
    pub port: u16,
}

/// Everything the inner stage's threads share. Short critical sections only; nothing waits while holding it.
pub(crate) struct State {
    pub dirs: Dirs,
    pub control_plane: ControlPlane,
    pub machines: machines::Machines,
    pub leases: Leases,
    /// What the registry serves, and the layouts it began with.
    pub shelf: Shelf,
    pub images: Vec<PathBuf>,
    /// Machines that get no answer to SNTP.
    pub without_time: Vec<Ipv4Addr>,
    /// What happened that nobody asked for, oldest first.
    pub events: Vec<String>,
}

#[derive(Clone)]
pub(crate) struct Shared(Arc<Mutex<State>>);

impl Shared {
    /// A thread that panicked left values, not half-done pointers: the others go on.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The preferred port on 127.0.0.1; another is taken when it is in use.
const PREFERRED_PORT: u16 = 16443;

/// The outer stage. Returns when the inner one has ended.
pub fn outer(dirs: &Dirs) -> Result<()> {
    // Fails only for a process-group leader, which is a session of its own already or was started by hand.
    let _ = nix::unistd::setsid();
    let lock =
        File::create(dirs.lock()).with_context(|| format!("open {}", dirs.lock().display()))?;
    let Ok(_lock) = Flock::lock(lock, FlockArg::LockExclusiveNonblock) else {
        bail!("another rig cluster runs from {}", dirs.root.display());
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, PREFERRED_PORT))
        .or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .context("open a port on 127.0.0.1")?;
    let port = listener
        .local_addr()
        .context("ask for the port on 127.0.0.1")?
        .port();
    let running = Running {
        pid: std::process::id(),
        port,
    };
    write_private(
        &dirs.run(),
        &serde_json::to_string(&running).context("write run.json")?,
    )?;
    let program = std::env::current_exe().context("find the rig's own program")?;
    // The write end lives exactly as long as this process.
    let (lifeline, _alive) = nix::unistd::pipe().context("make a pipe")?;
    ns::enter()?;
    let mut inner = Command::new(program)
        .args(["supervise", "--inner", "--dir"])
        .arg(&dirs.root)
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::from(lifeline))
        .spawn()
        .context("start the inner supervisor")?;
    let status = inner.wait().context("wait for the inner supervisor");
    for file in [dirs.run(), dirs.control()] {
        // Best effort: a next `up` deletes them too.
        let _ = fs::remove_file(file);
    }
    match status? {
        status if status.success() => Ok(()),
        status => bail!("the inner supervisor ended with {status}"),
    }
}

/// The inner stage: PID 1 of its namespace. Descriptor 0 is the listening socket, descriptor 1 the lifeline.
pub fn inner(dirs: &Dirs) -> Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
        .context("tie to the outer supervisor")?;
    let listener = TcpListener::from(
        std::io::stdin()
            .as_fd()
            .try_clone_to_owned()
            .context("take the listening socket")?,
    );
    let lifeline = File::from(
        std::io::stdout()
            .as_fd()
            .try_clone_to_owned()
            .context("take the lifeline")?,
    );
    std::thread::spawn(move || die_with(lifeline));
    ns::configure()?;
    let text = fs::read(dirs.spec()).with_context(|| format!("read {}", dirs.spec().display()))?;
    let spec: Spec = serde_json::from_slice(&text)
        .with_context(|| format!("parse {}", dirs.spec().display()))?;
    let programs = plan::programs(&dirs.pki(), &dirs.data(), &dirs.config());
    let shared = Shared(Arc::new(Mutex::new(State {
        dirs: dirs.clone(),
        control_plane: ControlPlane::new(programs.clone(), &spec.binaries, &dirs.logs()),
        machines: machines::Machines::default(),
        leases: Leases::default(),
        shelf: Shelf::default(),
        images: spec.images.clone(),
        without_time: Vec::new(),
        events: Vec::new(),
    })));
    forward::start(listener)?;
    services::start(&shared, &spec)?;
    // Those that are nothing without a ready API server give up when it takes long: they are started by whoever sees it ready.
    for program in programs
        .iter()
        .filter(|program| !plan::AFTER_READY.contains(&program.name))
    {
        shared.lock().control_plane.start(program.name, &[])?;
    }
    monitor::start(shared.clone())?;
    serve::run(&shared)
}

/// Ends this process, and with it the whole PID namespace, when the outer stage is gone.
fn die_with(mut lifeline: File) {
    let mut byte = [0];
    // Nobody writes: a return means the other end is closed.
    let _ = lifeline.read(&mut byte);
    std::process::exit(1);
}
