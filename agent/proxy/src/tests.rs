//! Behaviour in words: a cluster is built from lines, packets are sent, and their fate is a sentence.

mod behaviour;
mod golden;
mod incremental;
mod stale;
mod support;
