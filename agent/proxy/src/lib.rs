//! The service proxy's decisions: Services and EndpointSlices to one nf_tables ruleset.
//!
//! In: [`model::Inputs`] and [`model::NodeFacts`]. Out of [`Compiler`]: a `wire::nft` table and, after every change, the small
//! transaction that leads to it; the conntrack flows that became stale; health answers.
//! Absent: the API server, the kernel, clocks.
//!
//! ```text
//! Inputs -> tracker (what changed) -> service (one Service's fronts and who answers) -> compile (elements) -> Transaction
//!                                     topology (which endpoints)                        layout (chains, maps, rules)
//! ```

pub mod layout;
pub mod model;
pub mod service;
pub mod stale;
pub mod topology;
pub mod tracker;

mod compile;

pub use compile::{Compiler, HealthAnswer, Update};
pub use layout::TABLE;

#[cfg(test)]
mod tests;
