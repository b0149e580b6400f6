//! tokio around `pods`: what makes its decisions happen on this node.
//!
//! In: the pods that are to run ([`Desired`], static pod files), facts about the node, answers to [`Outbound`] requests. Out: containers,
//! volumes and cgroups on the node; statuses, events and requests by [`Outbound`]; [`KubeletHandle`] for the servers.
//! Deliberately absent: any decision that `pods` can make, and any knowledge of how the API server is reached.
//!
//! # Tasks and channels
//!
//! | task | wakes on | talks to |
//! | --- | --- | --- |
//! | supervisor | desired pods, static pods, sights, ends of workers | workers by `watch` (latest wins) and `Notify` |
//! | worker, one per pod uid | input, poke, its jobs' ends, its next deadline | the runtime, `Outbound`, views |
//! | observer | the runtime's events, a timer | supervisor by bounded `mpsc` |
//! | statics | a timer | supervisor by `watch` |
//! | facts | a timer | whoever builds the node object, by `watch` |
//! | logs, garbage, limits | a timer | the runtime; limits: supervisor by bounded `mpsc` |
//!
//! # Invariants
//!
//! - A pod's worker is the only one that changes what is the pod's; blocking work holds the pod's permit.
//! - No disk, mount or foreign call on the loop: [`lanes`].
//! - A runtime that is away changes nothing: no plan is made without a fresh observation.
//! - Nothing is concluded from absence before the API was heard ([`Desired::Unknown`]).
//! - Everything a restart needs is in the runtime's labels and annotations, the pod directories and the API.

pub mod admission;
pub mod check;
pub mod clock;
pub mod convert;
pub mod credentials;
pub mod desired;
pub mod facts;
pub mod handle;
pub mod lanes;
pub mod metered;
pub mod outbound;
pub mod settings;
pub mod volumes;

mod execute;
mod garbage;
mod images;
mod limits;
mod logs;
mod meters;
mod node;
mod objects;
mod observe;
mod observer;
mod running;
mod shutdown;
mod start;
mod statics;
mod supervisor;
mod worker;

#[cfg(test)]
mod testing;

pub use admission::NodeObject;
pub use clock::Clock;
pub use desired::Desired;
pub use facts::{Condition, NodeImage, RuntimeFacts};
pub use handle::{
    Asked, ContainerRef, KubeletHandle, Located, LookupError, PodView, Streams, Views,
};
pub use meters::{plugin_of, priority_bucket};
pub use outbound::{
    ApiError, CertificateRequest, Issuing, KeyType, Outbound, PodEvent, RequestedCertificate,
    Token, TrustBundle,
};
pub use settings::Settings;
pub use shutdown::Report;
pub use start::{Config, Control, Kubelet};
pub use supervisor::KubeletState;
