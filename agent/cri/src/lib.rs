//! The container runtime interface.
//!
//! In: CRI messages. Out: the runtime's answers, or an [`Error`] sorted by what the caller does about it.
//! Knows nothing about pods and decides nothing: no retry, no back-off, no cache.
//!
//! - [`v1`]: the messages.
//! - [`Runtime`]: what is asked of a runtime, object-safe.
//! - [`Client`]: the runtime behind a unix socket.
//! - [`fake`]: an in-memory runtime that refuses what containerd refuses, with scripted failures, for tests.

pub mod client;
pub mod error;
pub mod fake;
pub mod runtime;
#[allow(
    clippy::struct_excessive_bools,
    clippy::doc_markdown,
    reason = "the shape is the protocol's"
)]
pub mod v1;

pub use client::Client;
pub use error::{Error, Kind, Result};
pub use runtime::{Answer, Runtime};
