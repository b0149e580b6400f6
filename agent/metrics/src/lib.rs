//! cgroup v2 and proc files under an injected root: read, parsed, nothing else.
//!
//! In: a [`Root`] (`/` on a node, a recorded tree in tests). Out: plain values, `None` where this kernel has no such file,
//! an [`Error`] naming file and line where it has one we cannot read. Absent is not zero and not broken.
//! Deliberately absent: writes, anything outside the root, clocks, rates and exposition (they come with the metrics issue).

mod cgroup;
mod error;
mod machine;
mod root;

pub use cgroup::{CgroupSample, Limit, cgroup};
pub use error::Error;
pub use machine::{Machine, Memory, machine, memory};
pub use root::Root;
