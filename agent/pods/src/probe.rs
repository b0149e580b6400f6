//! Probes without IO: when to run what, and what the answers add up to.
//!
//! In: the pod and its running instances ([`Set::sync`]), answers ([`Set::record`]), the time. Out: runs that are due
//! ([`Set::due`]), verdicts per container, events. Running a probe is the executor's.
//!
//! | state of one prober | leaves when |
//! | --- | --- |
//! | gated (not startup, container not started) | the startup probe succeeds: runs at once |
//! | waiting until t | t passes: running |
//! | running | an answer comes: waiting for the next period, or held |
//! | held (liveness or startup failed; startup succeeded) | the container has a new id |
//!
//! Verdicts at the start of an instance: readiness false, liveness true, startup unknown. After an agent restart the
//! verdict that was published for the same container id is kept until the first new one.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};

use crate::Now;
use crate::action::{Event, KillReason};
use crate::hook::{self, Handler};
use crate::observed::ObservedContainer;
use crate::pod::{self, Inputs, Kind, Member};

mod prober;

use prober::{Prober, Published};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

impl ProbeKind {
    fn word(self) -> &'static str {
        match self {
            ProbeKind::Startup => "Startup",
            ProbeKind::Liveness => "Liveness",
            ProbeKind::Readiness => "Readiness",
        }
    }
}

/// A probe of a container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub container: String,
    pub kind: ProbeKind,
}

/// One execution that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    pub key: Key,
    /// Container id.
    pub id: String,
    pub handler: Handler,
    pub timeout: Duration,
}

/// What an execution said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Success,
    /// Success with a remark (a redirect to another host).
    Warning(String),
    Failure(String),
    /// The probe itself could not be run; counts as nothing.
    Error(String),
}

/// All probes of one pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Set {
    probers: BTreeMap<Key, Prober>,
}

impl Set {
    /// Follows the pod: a prober for each probe of a running instance, none for others. `ending` stops liveness and
    /// startup; readiness goes on, so that a draining pod leaves its Services when it says so.
    pub fn sync(&mut self, inputs: &Inputs<'_>, ending: bool, now: Now) {
        let spec = pod::spec(inputs.pod);
        let mut wanted = BTreeMap::new();
        for member in pod::members(spec).filter(|m| m.kind != Kind::Ephemeral) {
            let Some(instance) = inputs
                .observed
                .latest(member.name())
                .filter(|c| c.running())
            else {
                continue;
            };
            for (kind, probe) in probes(&member.spec) {
                if ending && kind != ProbeKind::Readiness {
                    continue;
                }
                let key = Key {
                    container: member.name().to_owned(),
                    kind,
                };
                let prober = match self.probers.remove(&key) {
                    Some(mut p) if p.id() == instance.id => {
                        p.follow(probe);
                        p
                    }
                    _ => Prober::new(
                        kind,
                        instance,
                        probe,
                        published(inputs, &member, instance, kind),
                        now,
                    ),
                };
                wanted.insert(key, prober);
            }
        }
        self.probers = wanted;
        self.open_gates(now);
    }

    /// Probes other than startup wait until their container has started.
    fn open_gates(&mut self, now: Now) {
        let gates: BTreeMap<String, bool> = self
            .probers
            .iter()
            .filter(|(k, _)| k.kind == ProbeKind::Startup)
            .map(|(k, p)| (k.container.clone(), p.verdict() == Some(true)))
            .collect();
        for (key, prober) in &mut self.probers {
            if key.kind != ProbeKind::Startup {
                prober.gate(gates.get(&key.container).copied().unwrap_or(true), now);
            }
        }
    }

    /// Probes to run now; each is marked as running until its answer is recorded. A probe that cannot be resolved (a port
    /// name that does not exist) fails like one that answered so: the events are the second value.
    pub fn due(&mut self, inputs: &Inputs<'_>, now: Now) -> (Vec<Run>, Vec<Event>) {
        let spec = pod::spec(inputs.pod);
        let ip = pod_ips(inputs).first().copied();
        let mut runs = Vec::new();
        let mut failed = Vec::new();
        for (key, prober) in &mut self.probers {
            if !prober.due(now) {
                continue;
            }
            let Some(member) = pod::member(spec, &key.container) else {
                continue;
            };
            let Some((_, probe)) = probes(&member.spec)
                .into_iter()
                .find(|(k, _)| *k == key.kind)
            else {
                continue;
            };
            prober.begin(now);
            let run = |handler| Run {
                key: key.clone(),
                id: prober.id().to_owned(),
                handler,
                timeout: seconds(probe.timeout_seconds, 1),
            };
            match hook::of_probe(probe, &member.spec, ip, &inputs.node.version) {
                Ok(handler) => runs.push(run(handler)),
                Err(e) => failed.push((
                    run(Handler::Exec {
                        command: Vec::new(),
                    }),
                    e,
                )),
            }
        }
        let mut events = Vec::new();
        for (run, e) in failed {
            events.extend(self.record(&run, Answer::Failure(e), now));
        }
        (runs, events)
    }

    /// Takes an answer; one for an instance that is gone is dropped.
    pub fn record(&mut self, run: &Run, answer: Answer, now: Now) -> Vec<Event> {
        let Some(prober) = self.probers.get_mut(&run.key).filter(|p| p.id() == run.id) else {
            return Vec::new();
        };
        prober.record(&answer, now);
        self.open_gates(now);
        event(&run.key, &answer).into_iter().collect()
    }

    /// Abandons a run: it may come again at its next period.
    pub fn abandoned(&mut self, run: &Run, now: Now) {
        self.record(run, Answer::Error(String::new()), now);
    }

    /// When the next probe is due (monotonic).
    pub fn wake_at(&self) -> Option<Duration> {
        self.probers.values().filter_map(Prober::wake_at).min()
    }

    /// The readiness verdict; `None`: the container has no readiness probe.
    pub fn ready(&self, container: &str) -> Option<bool> {
        self.verdict(container, ProbeKind::Readiness)
            .map(|v| v.unwrap_or(false))
    }

    /// Has the container started? True without a startup probe.
    pub fn started(&self, container: &str) -> bool {
        self.verdict(container, ProbeKind::Startup)
            .is_none_or(|v| v == Some(true))
    }

    /// Is the container to be killed, and why?
    pub fn failed(&self, container: &str, id: &str) -> Option<(KillReason, String)> {
        let held = |kind| {
            self.probers
                .get(&key(container, kind))
                .is_some_and(|p| p.id() == id && p.verdict() == Some(false))
        };
        if held(ProbeKind::Liveness) {
            return Some((
                KillReason::LivenessFailed,
                format!("Container {container} failed liveness probe, will be restarted"),
            ));
        }
        held(ProbeKind::Startup).then(|| {
            (
                KillReason::StartupFailed,
                format!("Container {container} failed startup probe, will be restarted"),
            )
        })
    }

    fn verdict(&self, container: &str, kind: ProbeKind) -> Option<Option<bool>> {
        self.probers.get(&key(container, kind)).map(Prober::verdict)
    }
}

fn key(container: &str, kind: ProbeKind) -> Key {
    Key {
        container: container.to_owned(),
        kind,
    }
}

/// The pod's addresses: the sandbox's, or the node's.
pub fn pod_ips(inputs: &Inputs<'_>) -> Vec<std::net::IpAddr> {
    if pod::host_network(pod::spec(inputs.pod)) {
        return inputs.node.host_ips.clone();
    }
    inputs
        .observed
        .ready_sandbox()
        .map(|s| s.ips.clone())
        .unwrap_or_default()
}

fn probes(c: &Container) -> Vec<(ProbeKind, &Probe)> {
    [
        (ProbeKind::Startup, &c.startup_probe),
        (ProbeKind::Liveness, &c.liveness_probe),
        (ProbeKind::Readiness, &c.readiness_probe),
    ]
    .into_iter()
    .filter_map(|(kind, probe)| Some((kind, probe.as_ref()?)))
    .collect()
}

/// What was last published for this very instance: an agent restart must not take it back.
fn published(
    inputs: &Inputs<'_>,
    member: &Member<'_>,
    instance: &ObservedContainer,
    kind: ProbeKind,
) -> Published {
    let id = crate::status::container_id(&instance.id);
    let old = crate::status::published(inputs, member.name());
    let Some(old) = old.filter(|s| s.container_id.as_deref() == Some(&id)) else {
        return Published::default();
    };
    let running = old.state.as_ref().is_some_and(|s| s.running.is_some());
    Published {
        known: running,
        verdict: match kind {
            ProbeKind::Readiness => Some(old.ready),
            ProbeKind::Startup => old.started.filter(|s| *s),
            ProbeKind::Liveness => None,
        },
    }
}

fn event(key: &Key, answer: &Answer) -> Option<Event> {
    let field_path = format!("spec.containers{{{}}}", key.container);
    let word = key.kind.word();
    let (reason, message) = match answer {
        Answer::Success => return None,
        Answer::Error(e) if e.is_empty() => return None,
        Answer::Warning(text) => ("ProbeWarning", format!("{word} probe warning: {text}")),
        Answer::Failure(text) => ("Unhealthy", format!("{word} probe failed: {text}")),
        Answer::Error(text) => ("Unhealthy", format!("{word} probe errored: {text}")),
    };
    Some(Event {
        warning: true,
        reason,
        message,
        field_path,
    })
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    let value = value.and_then(|v| u64::try_from(v).ok()).filter(|v| *v > 0);
    Duration::from_secs(value.unwrap_or(default))
}

#[cfg(test)]
mod tests;
