//! cgroup v2 and proc files under an injected root to samples, rates and exposition.
//!
//! In: a [`Root`] (`/` on a node, a recorded tree in tests), the subjects, the time. Out: plain values, `None` where this kernel has no such
//! file, an [`Error`] naming file and line where it has one we cannot read; and pages of text, a piece at a time. Absent is not zero and not
//! broken.
//! Deliberately absent: writes, anything outside the root, clocks, tasks, HTTP.
//!
//! Tests read what kernels 6.1, 6.12 and the newest that Debian packages really show (`src/testdata`, recorded by the rig's example
//! `record-kernel-trees`; goldens beside them), and damage it (`src/fuzz.rs`, which says how to run it for longer).
//!
//! ```text
//! Subject, Stamp -> Sampler -> Row … -> Generation -> Cadvisor, Resource: Source -> Writer -> bytes
//!                                                  -> summary -> JSON
//! ```

pub mod cadvisor;
pub mod cgroup;
pub mod disk;
mod error;
pub mod expo;
mod file;
#[cfg(test)]
mod fuzz;
pub mod json;
mod machine;
pub mod net;
pub mod process;
#[cfg(test)]
mod recorded;
pub mod resource;
mod root;
pub mod sample;
pub mod subject;
pub mod summary;
#[cfg(test)]
mod testing;

pub use error::Error;
pub use machine::{Machine, Memory, machine, memory};
pub use root::Root;
