//! The service proxy's thread: snapshots of Services in, nf_tables transactions out.
//!
//! In: [`Inputs`] and [`NodeFacts`] by `watch`, where the latest value is all that counts. Out: the kernel's tables
//! `kedge-proxy`, and a [`Status`] by `watch`. It has a thread and a runtime of its own, so that ten thousand Services never
//! delay a probe, and netlink calls may block it.
//!
//! - A change is sent as the difference of what it touches ([`kedge_proxy::Compiler`]), at most every 100 ms.
//! - What the kernel holds is read back when it is not known: at the start, after any error, when somebody else replaced the table,
//!   at most every 30 s while somebody else changes nf_tables at all, and every hour.
//! - Nothing is written before both watches have listed: rules of an earlier agent stay in force meanwhile, and when this one ends.
//! - The owner flag is not set: the kernel would delete the table when the agent's socket closes.
//!
//! Absent: other tables, decisions about rules, the Kubernetes API.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use kedge_machine::config::ProxyMode;
use kedge_proxy::model::{Inputs, NodeFacts};
use kedge_tasks::Registry;
use tokio::sync::watch;

mod kernel;
mod metered;
mod run;
mod status;
mod syncer;

pub use status::{State, Status};

#[cfg(test)]
mod tests;

/// What the proxy is told once.
#[derive(Debug, Clone)]
pub struct Config {
    pub mode: ProxyMode,
    /// Where its loop reports for `/statusz`, and its transactions are counted.
    pub registry: Registry,
}

/// The running thread. Dropping it ends the thread and leaves the rules in force.
#[derive(Debug)]
pub struct ProxyHandle {
    status: watch::Receiver<Status>,
    stop: Option<watch::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Starts the proxy on a thread of its own, in the network namespace of the caller.
pub fn spawn(
    config: Config,
    inputs: watch::Receiver<Arc<Inputs>>,
    node: watch::Receiver<NodeFacts>,
) -> io::Result<ProxyHandle> {
    let (publish, status) = watch::channel(Status::default());
    let (stop, stopped) = watch::channel(());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    let thread = std::thread::Builder::new()
        .name("proxy".to_owned())
        .spawn(move || {
            let proxy = run::Proxy::new(config, publish);
            runtime.block_on(proxy.run(inputs, node, stopped));
        })?;
    Ok(ProxyHandle {
        status,
        stop: Some(stop),
        thread: Some(thread),
    })
}

impl ProxyHandle {
    /// The proxy's state, counts and health answers.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Whether the thread has ended, which it does only after a panic or [`Self::stop`].
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends the thread after the transaction it is at.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the proxy thread had panicked");
        }
    }
}

impl Drop for ProxyHandle {
    fn drop(&mut self) {
        self.end();
    }
}
