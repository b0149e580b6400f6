//! nf_tables as data: a typed model of one table, and everything that can be done to it without a kernel.
//!
//! In: a desired [`Table`]. Out: the [`Transaction`] that leads to it, its bytes ([`encode`]), the model read back from a dump
//! ([`decode`]), a text for people and goldens ([`text`]), a strict [`fake`] kernel and a packet tracer ([`trace`]).
//! Absent: sockets, other people's tables, the nft language.
//!
//! Byte order, in one place: registers hold what the kernel puts there. Packet fields are copied in network order, `meta mark`,
//! `ct state`, `fib type` and `numgen` are 32-bit host order; every field is padded with zeros to four bytes. Netlink integer
//! attributes of nf_tables are big-endian, the netlink header is host order.

pub mod attr;
pub mod decode;
pub mod diff;
pub mod encode;
pub mod fake;
pub mod text;
pub mod trace;

#[cfg(test)]
mod arbitrary;
mod bytes;
mod expr;
mod model;

pub use bytes::Bytes;
pub use diff::{Op, Transaction, diff, remove};
pub use expr::{
    ARPHRD_LOOPBACK, CT_STATE_NEW, CT_STATUS_DNAT, CmpOp, CtKey, Direction, DynsetOp, Expr,
    FIB_DADDR, FIB_SADDR, FibResult, LimitUnit, MetaKey, NatFlags, NatKind, PayloadBase, RTN_LOCAL,
    Reg, Reject, Target,
};
pub use model::{
    Base, Chain, ChainKind, Element, Family, Field, Hook, Policy, Rule, Set, SetSpec, Table, Value,
    ValueKind, Verdict, widths,
};
