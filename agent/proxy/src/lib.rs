//! The service proxy's decisions: Services and EndpointSlices to one nf_tables ruleset.
//!
//! In: [`model::Inputs`] and [`model::NodeFacts`]. Out: a `wire::nft` table, the conntrack flows that became stale, health answers.
//! Absent: the API server, the kernel, clocks.

pub mod model;
