//! Every decision about pods and the node object: pure functions over k8s-openapi types and plain values.
//!
//! In: pods and the objects they refer to, what the runtime reports ([`observed`]), what the worker remembers ([`memory`]),
//! facts about the node, and the time as an argument ([`Now`]). Out: specs for the runtime ([`spec`]), actions
//! ([`plan`]), statuses ([`status`]), refusals with reasons ([`fields`], [`admit`]), the node object ([`node`]).
//!
//! # How a worker uses this crate
//!
//! ```text
//! fields::check + admit::admit         once per pod, before anything runs; a refusal is final (Fate::Rejected)
//! loop {
//!     observed = what the runtime reports for the pod's uid, read *after* the last finished action
//!     events  += memory.observe(&inputs, now)          folds exits, probe targets, new instances
//!     plan     = plan::plan(&inputs, &memory, now)     reads only
//!     status   = status::generate(&inputs, &memory, now) -> publish if it differs
//!     for key in plan.cancel     { drop that running action; memory.cancelled(&key) }
//!     for action in plan.actions { events += memory.started(&action, now); run it beside the others }
//!     on completion              { events += memory.finished(&key, outcome, now) } and go round
//!     probes: memory.probes.due(now) -> run -> memory.probes.record(..)
//!     sleep until plan.wake_at / memory.probes.wake_at(), a completion, a new pod, a runtime event
//! }
//! ```
//!
//! All actions of one plan are independent of each other and may run at the same time: what must come later appears in a
//! later plan. An action under way is never emitted twice (the memory knows it by its key); one whose class is
//! interruptible is abandoned when the plan lists it under `cancel`.
//!
//! # Signatures the shells use
//!
//! ```text
//! fields::check(&Pod) -> Vec<Refusal>                    admit::admit(&Pod, &admit::Node) -> Result<(), admit::Rejection>
//! needs::needs(&Pod) -> Needs
//! resolve::volumes(&Pod, &Objects, &NodeFacts) -> Result<Vec<Volume>, Reason>
//! resolve::sandbox(&Pod, &Objects, &NodeFacts, attempt) -> Result<SandboxSpec, Reason>
//! resolve::container(&Pod, name, &Objects, &NodeFacts, &Instance) -> Result<ContainerSpec, Reason>
//! qos::pod_cgroup(&Pod, &NodeFacts) -> PodCgroup          qos::levels(..) -> kubepods, burstable, besteffort
//! plan::plan(&Inputs, &PodMemory, Now) -> Plan { actions, cancel, wake_at }
//! PodMemory::{observe(&mut self, &Inputs, Now), started(&mut self, &Inputs, &Action, Now),
//!             finished(&mut self, &Inputs, &ActionKey, Outcome, Now)} -> Vec<Event>;  PodMemory::cancelled(&mut self, &ActionKey)
//! probe::Set::{due(&mut self, Now) -> Vec<Run>, wake_at(&self) -> Option<Duration>, record(&mut self, &Run, Answer, Now) -> Vec<Event>}
//! status::generate(&Inputs, &PodMemory, Now) -> PodStatus     status::patch(uid, old: &PodStatus, new: &PodStatus) -> Option<Value>
//! hosts::etc_hosts(..), resolv::*, logs::*, termination::*, mirror::*, node::*
//! ```
//!
//! # Deliberately absent
//!
//! No tokio, no IO, no clock, no randomness (jitter is derived from a seed argument), no state that an agent restart
//! would lose: [`memory::PodMemory`] starts empty and planning a reached state stays empty.

pub mod action;
pub mod admit;
pub mod backoff;
pub mod certificate;
pub mod fields;
pub mod hook;
pub mod hosts;
pub mod logs;
pub mod memory;
pub mod mirror;
pub mod needs;
pub mod node;
pub mod observed;
pub mod plan;
pub mod pod;
pub mod probe;
pub mod project;
pub mod qos;
pub mod quantity;
pub mod resize;
pub mod resolv;
pub mod resolve;
pub mod selector;
pub mod spec;
pub mod status;
pub mod termination;
pub mod time;
pub mod volume;

#[cfg(test)]
mod testing;

pub use time::Now;
