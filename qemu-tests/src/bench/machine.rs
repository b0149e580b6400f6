//! One machine, looked at from outside and by its probe.
//!
//! In: a cluster and which of its nodes. Out: when it became Ready, on the guest's clock, and the probe's samples. Several machines of one cluster may
//! come one after the other ([`super::services`]); a [`super::lab`] has one.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::usage::number;
use crate::api::{self, text_at};
use crate::cluster::Cluster;
use crate::supervisor::default_address;
use crate::wait;

const PROBE_PORT: u16 = 9777;
/// What the two clocks may be apart by is half of it.
const QUICK: Duration = Duration::from_millis(300);
const CLOCK_DEADLINE: Duration = Duration::from_secs(120);

#[derive(Clone, Copy)]
pub struct Machine<'a> {
    pub cluster: &'a Cluster,
    pub name: &'a str,
    pub index: u8,
}

/// A node that has become Ready.
#[derive(Debug, Clone, Copy)]
pub struct Ready {
    /// Seconds from the kernel's entry.
    pub from_kernel: f64,
    /// Seconds from when containerd's socket was there.
    pub from_runtime: f64,
}

/// A moment on two clocks.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// Ours: halfway between question and answer.
    ours: Instant,
    /// The guest's, in seconds since its kernel was entered.
    guest: f64,
    /// When containerd's socket was there, on the guest's clock; 0 before.
    runtime_up: f64,
}

impl Clock {
    /// From an answer of the probe. One that took long leaves open when the guest looked at its clock.
    fn between(asked: Instant, answered: Instant, answer: &Value) -> wait::Look<Self> {
        let took = answered.saturating_duration_since(asked);
        wait::check(took <= QUICK, || {
            format!("an answer after {} ms", took.as_millis())
        })?;
        let seconds = |key| number(answer, key) as f64 / 1000.0;
        Ok(Self {
            ours: asked + took / 2,
            guest: seconds("uptimeMs"),
            runtime_up: seconds("runtimeUpMs"),
        })
    }

    /// What the guest's clock said at a moment of ours.
    pub fn at(&self, ours: Instant) -> f64 {
        let later = ours.saturating_duration_since(self.ours).as_secs_f64();
        let earlier = self.ours.saturating_duration_since(ours).as_secs_f64();
        self.guest + later - earlier
    }
}

impl Machine<'_> {
    /// What fails here is none of the machine's doing.
    pub fn launch(&self) -> Result<()> {
        let vm = self.cluster.prepare_node(self.name, self.index)?;
        self.cluster.launch(&vm)
    }

    /// Looks more often than anything it measures takes.
    pub fn until_ready(&self, old_boot: &str, deadline: Duration) -> Result<Instant> {
        let start = Instant::now();
        loop {
            let node = self.cluster.node(self.name).unwrap_or_default();
            let boot = text_at(&node, "/status/nodeInfo/bootID");
            // A Node object from before the first boot has none.
            let new = !boot.is_empty() && boot != old_boot;
            if new && api::condition(&node, "Ready") == "True" {
                return Ok(Instant::now());
            }
            if start.elapsed() > deadline {
                bail!(
                    "{} is not Ready\n{}",
                    self.name,
                    self.cluster.last_words(self.name, 25)
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Asks the probe's clock how long before that moment the kernel was entered.
    pub fn since_kernel(&self, ready: Instant) -> Result<Ready> {
        let clock = self.clock()?;
        let from_kernel = clock.at(ready);
        if clock.runtime_up == 0.0 {
            bail!("the probe has not seen containerd's socket");
        }
        Ok(Ready {
            from_kernel,
            from_runtime: from_kernel - clock.runtime_up,
        })
    }

    /// The guest's clock beside ours. Asked until an answer takes little enough time to tell.
    pub fn clock(&self) -> Result<Clock> {
        wait::until("a quick answer of the probe", CLOCK_DEADLINE, || {
            let asked = Instant::now();
            let answer = wait::seen(self.ask_probe("/clock"))?;
            Clock::between(asked, Instant::now(), &answer)
        })
    }

    pub fn sample(&self) -> Result<Value> {
        self.ask_probe("/")
    }

    fn ask_probe(&self, path: &str) -> Result<Value> {
        let address = format!("{}:{PROBE_PORT}", default_address(self.index));
        let request = format!("GET {path} HTTP/1.0\r\n\r\n");
        let answer = self
            .cluster
            .client
            .dial(&address, &request, false, Duration::from_secs(60))
            .context("ask the probe")?;
        let body = answer
            .split_once("\r\n\r\n")
            .context("the probe's answer has no body")?
            .1;
        serde_json::from_str(body).context("parse the probe's answer")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_guests_time_is_told_for_a_moment_before_the_question() {
        let ready = Instant::now();
        let asked = ready + Duration::from_millis(400);
        let answer = json!({"uptimeMs": 12_000, "runtimeUpMs": 9_000});
        let clock = Clock::between(asked, asked + Duration::from_millis(100), &answer).unwrap();
        assert!((clock.at(ready) - 11.55).abs() < 1e-9);
        assert!((clock.at(asked + Duration::from_millis(150)) - 12.1).abs() < 1e-9);
        assert!((clock.runtime_up - 9.0).abs() < 1e-9);
    }

    #[test]
    fn a_slow_answer_tells_no_time() {
        let asked = Instant::now();
        let seen = Clock::between(asked, asked + Duration::from_millis(301), &json!({}));
        assert_eq!(seen.unwrap_err(), "an answer after 301 ms");
    }
}
