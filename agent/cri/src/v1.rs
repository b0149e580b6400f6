//! The messages of CRI v1, hand-written for `prost`: no `protoc`, no build script.
//!
//! Unknown fields are skipped when read, so a newer runtime may send more. Absent: Windows, checkpoints, the
//! paginated `Stream*` variants, sandbox metrics.

mod common;
mod container;
mod image;
mod runtime;
mod sandbox;
mod stats;

pub use common::*;
pub use container::*;
pub use image::*;
pub use runtime::*;
pub use sandbox::*;
pub use stats::*;

#[cfg(test)]
mod tests;
