//! The kernel, called directly: the only crate with `unsafe` code.
//!
//! In: plain values and bytes made by pure crates. Out: plain values, or an [`Error`] naming operation and object.
//! Decides nothing, keeps no state besides descriptors.
#![allow(
    unsafe_code,
    reason = "this is the crate that fences it; every block carries a SAFETY comment"
)]

pub mod alloc;
pub mod block;
pub mod cgroup;
pub mod clock;
pub mod evdev;
pub mod fs;
pub mod kmsg;
pub mod module;
pub mod mount;
pub mod netlink;
pub mod nfnetlink;
pub mod node;
pub mod packet;
pub mod poll;
pub mod process;
pub mod project;
pub mod rtnetlink;
pub mod time;

mod error;
pub use error::{Error, Result};
