//! The loop: wait for a reason, let changes gather, sync, publish.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use kedge_machine::config::ProxyMode;
use kedge_proxy::model::{Family, Inputs, NodeFacts};
use kedge_sys::nfnetlink::{Error, Netfilter, Watch};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::poll::{OwnsDescriptor, pollable};

use super::kernel::words;
use super::metered::Metered;
use super::syncer::{Check, Outcome, Syncer};
use super::{Config, State, Status};

/// Changes gather this long; a rolling update is then a few transactions instead of hundreds.
const INTERVAL: Duration = Duration::from_millis(100);
/// A sync that takes long may not take all of the time: at most one a second.
const LONGEST_INTERVAL: Duration = Duration::from_secs(1);
/// The whole table is read back this often though nothing hints at a change.
const FULL_CHECK: Duration = Duration::from_secs(3600);
/// While somebody else changes nf_tables, whole tables are read back at most this often.
const FOREIGN_CHECK: Duration = Duration::from_secs(30);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// The proxy's state between rounds.
pub struct Proxy {
    config: Config,
    publish: watch::Sender<Status>,
    v4: Syncer,
    v6: Syncer,
    /// The IPv6 table was removed, or found to be none.
    v6_absent: bool,
    sockets: Option<Sockets>,
    /// The next look at everything.
    full_check: Instant,
    /// Somebody else committed since the last look at everything.
    foreign: bool,
    last_full: Option<Instant>,
    retry: Option<Duration>,
}

struct Sockets {
    netfilter: Metered<Netfilter>,
    watch: AsyncFd<Watch>,
}

impl OwnsDescriptor for Watch {}

/// Why the loop woke up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wake {
    Start,
    Change,
    Foreign,
    Timer,
    Stop,
}

impl Proxy {
    pub fn new(config: Config, publish: watch::Sender<Status>) -> Self {
        Self {
            config,
            publish,
            v4: Syncer::new(Family::V4),
            v6: Syncer::new(Family::V6),
            v6_absent: false,
            sockets: None,
            full_check: Instant::now() + FULL_CHECK,
            foreign: false,
            last_full: None,
            retry: None,
        }
    }

    /// Until `stopped`'s sender is dropped.
    pub async fn run(
        mut self,
        mut inputs: watch::Receiver<Arc<Inputs>>,
        mut node: watch::Receiver<NodeFacts>,
        mut stopped: watch::Receiver<()>,
    ) {
        let mut wake = Wake::Start;
        loop {
            let began = Instant::now();
            let reason = format!("{wake:?}").to_lowercase();
            // A kernel that does not answer keeps the round: then this is all that shows.
            self.config.registry.begin("proxy", &reason);
            let result = match wake {
                Wake::Stop => return,
                _ => self.round(wake, &mut inputs, &mut node),
            };
            let result = result.as_ref().map(String::as_str).map_err(String::as_str);
            self.config.registry.record("proxy", &reason, began, result);
            let gather = began
                .elapsed()
                .mul_f32(2.0)
                .clamp(INTERVAL, LONGEST_INTERVAL);
            wake = self.wait(&mut inputs, &mut node, &mut stopped).await;
            if wake == Wake::Change || wake == Wake::Foreign {
                let pause = tokio::time::sleep(gather.saturating_sub(began.elapsed()));
                // Both arms only wait.
                tokio::select! {
                    _ = stopped.changed() => return,
                    () = pause => {}
                }
            }
        }
    }

    async fn wait(
        &mut self,
        inputs: &mut watch::Receiver<Arc<Inputs>>,
        node: &mut watch::Receiver<NodeFacts>,
        stopped: &mut watch::Receiver<()>,
    ) -> Wake {
        let now = Instant::now();
        let at = match self.retry {
            Some(retry) => now + retry,
            None if self.foreign => self.last_full.unwrap_or(now) + FOREIGN_CHECK,
            None => self.full_check,
        };
        let watching = self.sockets.as_ref().map(|s| &s.watch);
        let foreign = async {
            match watching {
                Some(watch) => wait_for_others(watch).await,
                None => std::future::pending().await,
            }
        };
        // All arms only wait, and a watch channel keeps its value: dropping any of them loses nothing. A closed input keeps the
        // rules as they are.
        tokio::select! {
            _ = stopped.changed() => Wake::Stop,
            Ok(()) = inputs.changed() => Wake::Change,
            Ok(()) = node.changed() => Wake::Change,
            () = foreign => Wake::Foreign,
            () = sleep_until(at) => Wake::Timer,
        }
    }

    /// One round: what to show for it.
    fn round(
        &mut self,
        wake: Wake,
        inputs: &mut watch::Receiver<Arc<Inputs>>,
        node: &mut watch::Receiver<NodeFacts>,
    ) -> Result<String, String> {
        let began = Instant::now();
        let inputs = inputs.borrow_and_update().clone();
        let node = node.borrow_and_update().clone();
        let off = self.config.mode == ProxyMode::Off;
        if !off && (!inputs.synced || node.name.is_empty()) {
            self.publish.send_modify(|s| s.state = State::Waiting);
            self.full_check = began + FULL_CHECK;
            return Ok("waiting for Services, EndpointSlices and the node".to_owned());
        }
        let result = self.open().and_then(|mut sockets| {
            let done = match off {
                true => self.remove(&mut sockets.netfilter),
                false => self.sync(wake, &mut sockets.netfilter, &inputs, &node),
            };
            // After an error the socket may hold anything: the next round opens a new one.
            if done.is_ok() {
                self.sockets = Some(sockets);
            }
            done
        });
        match result {
            Ok(outcome) => Ok(self.succeeded(&outcome, began, inputs.services.len())),
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn open(&mut self) -> Result<Sockets, Error> {
        if let Some(sockets) = self.sockets.take() {
            return Ok(sockets);
        }
        let netfilter = Netfilter::open()?;
        let watch = pollable(Watch::open(&netfilter)?).map_err(Error::Open)?;
        // What others did while nobody watched is unknown.
        self.foreign = true;
        self.last_full = None;
        let meters = self.config.registry.meters().clone();
        Ok(Sockets {
            netfilter: Metered::new(netfilter, meters),
            watch,
        })
    }

    fn remove(&mut self, kernel: &mut Metered<Netfilter>) -> Result<Outcome, Error> {
        self.looked_at_everything();
        self.v4.remove(kernel)?;
        // A kernel without IPv6 has no table to remove.
        let _ = self.v6.remove(kernel);
        Ok(Outcome::default())
    }

    fn sync(
        &mut self,
        wake: Wake,
        kernel: &mut Metered<Netfilter>,
        inputs: &Arc<Inputs>,
        node: &NodeFacts,
    ) -> Result<Outcome, Error> {
        let check = self.check(wake);
        let mut outcome = self.v4.sync(kernel, inputs, node, check)?;
        if check == Check::Everything || outcome.full {
            self.looked_at_everything();
        }
        let mut services = inputs.services.values();
        let v6 = services.any(|s| s.cluster_ips.iter().any(|a| a.is_ipv6()));
        if v6 {
            self.v6_absent = false;
            outcome.add(self.v6.sync(kernel, inputs, node, check)?);
        } else if !self.v6_absent {
            // A cluster without IPv6 Services needs no table, and a kernel without IPv6 could not take one.
            if let Err(error) = self.v6.remove(kernel) {
                tracing::debug!(error = words(&error), "proxy: no IPv6 table to remove");
            }
            self.v6_absent = true;
        }
        Ok(outcome)
    }

    fn check(&mut self, wake: Wake) -> Check {
        let now = Instant::now();
        self.foreign |= wake == Wake::Foreign;
        let foreign_due = self.last_full.is_none_or(|at| now >= at + FOREIGN_CHECK);
        if now >= self.full_check || (self.foreign && foreign_due) {
            Check::Everything
        } else if self.foreign {
            Check::Identity
        } else {
            Check::Nothing
        }
    }

    fn looked_at_everything(&mut self) {
        let now = Instant::now();
        self.foreign = false;
        self.last_full = Some(now);
        self.full_check = now + FULL_CHECK;
    }

    fn succeeded(&mut self, outcome: &Outcome, began: Instant, services: usize) -> String {
        self.retry = None;
        if outcome.repaired {
            tracing::warn!("proxy: somebody else had changed our table; it is put right");
        }
        let took = began.elapsed();
        let (v4, v6) = (self.v4.compiler().size(), self.v6.compiler().size());
        let off = self.config.mode == ProxyMode::Off;
        self.publish.send_modify(|s| {
            s.state = if off { State::Off } else { State::Synced };
            s.last_sync = Some(kedge_sys::time::now().mono);
            s.last_took = took;
            s.syncs += 1;
            s.full_syncs += u64::from(outcome.full);
            s.repairs += u64::from(outcome.repaired);
            s.element_changes += outcome.element_changes as u64;
            s.stale_flows += outcome.stale_flows as u64;
            s.conntrack_error.clone_from(&outcome.conntrack_error);
            s.services = services;
            s.fronts = v4.0 + v6.0;
            s.elements = v4.1 + v6.1;
            s.health = health(&self.v4, &self.v6);
        });
        match off {
            true => "off: our tables are removed".to_owned(),
            false => format!(
                "{} element changes for {services} Services",
                outcome.element_changes
            ),
        }
    }

    fn failed(&mut self, error: &Error) -> String {
        let words = words(error);
        tracing::error!(
            error = words,
            "proxy: rules are not up to date, trying again"
        );
        let next = self.retry.map_or(FIRST_RETRY, |r| r * 2).min(LAST_RETRY);
        self.retry = Some(next);
        self.publish.send_modify(|s| {
            s.failures += 1;
            s.state = State::Failed(words.clone());
        });
        words
    }
}

impl Outcome {
    fn add(&mut self, other: Self) {
        self.element_changes += other.element_changes;
        self.full |= other.full;
        self.repaired |= other.repaired;
        self.stale_flows += other.stale_flows;
        self.conntrack_error = self.conntrack_error.take().or(other.conntrack_error);
    }
}

/// A Service's answer is the larger one of its families: its endpoints are the same pods.
fn health(v4: &Syncer, v6: &Syncer) -> Vec<kedge_proxy::HealthAnswer> {
    let mut answers = v4.compiler().health();
    for answer in v6.compiler().health() {
        match answers.iter_mut().find(|a| a.service == answer.service) {
            Some(known) => {
                known.local_endpoints = known.local_endpoints.max(answer.local_endpoints);
            }
            None => answers.push(answer),
        }
    }
    answers
}

/// Until somebody else commits to nf_tables.
async fn wait_for_others(watch: &AsyncFd<Watch>) {
    loop {
        let Ok(mut ready) = watch.readable().await else {
            // The runtime is going down.
            return std::future::pending().await;
        };
        ready.clear_ready();
        match watch.get_ref().changed() {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => {
                let fd = watch.get_ref().as_raw_fd();
                tracing::warn!(%error, fd, "proxy: cannot watch nf_tables for others");
                return std::future::pending().await;
            }
        }
    }
}
