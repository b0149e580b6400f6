//! What describes a machine: its config document, its paths, and the words init and agent exchange.
//!
//! In: text and bytes. Out: validated values, or an error with the place (line and column, or field path).
//! Deliberately absent: files, sockets, clocks. This crate can only describe.

pub mod config;
pub mod control;
pub mod identity;
pub mod paths;
pub mod suggest;
