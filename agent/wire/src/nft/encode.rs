//! Transactions and dump requests to netlink bytes.
//!
//! In: a [`Transaction`]. Out: a [`Batch`]: one buffer for one `sendmsg`, from batch begin to batch end, and which message is
//! which operation. Only the last real message asks for an acknowledgement: errors come without asking, and an ack for every
//! element would overflow the socket's receive buffer. Element lists are split below the 64 KiB an attribute can hold.

use super::attr::{HEADER, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Writer};
use super::model::ValueKind;
use super::{
    Base, Bytes, ChainKind, Element, Expr, Family, Field, Hook, Op, Policy, Reg, Reject, Rule,
    SetSpec, Target, Transaction, Value, Verdict, widths,
};

/// `NFNL_SUBSYS_NFTABLES`.
pub const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

/// Message numbers, `enum nf_tables_msg_types`.
pub mod msg {
    pub const NEWTABLE: u16 = 0;
    pub const GETTABLE: u16 = 1;
    pub const DELTABLE: u16 = 2;
    pub const NEWCHAIN: u16 = 3;
    pub const GETCHAIN: u16 = 4;
    pub const DELCHAIN: u16 = 5;
    pub const NEWRULE: u16 = 6;
    pub const GETRULE: u16 = 7;
    pub const DELRULE: u16 = 8;
    pub const NEWSET: u16 = 9;
    pub const GETSET: u16 = 10;
    pub const DELSET: u16 = 11;
    pub const NEWSETELEM: u16 = 12;
    pub const GETSETELEM: u16 = 13;
    pub const DELSETELEM: u16 = 14;
    pub const NEWGEN: u16 = 15;
    pub const GETGEN: u16 = 16;
}

/// Set flags, `enum nft_set_flags`.
pub(super) mod set_flags {
    pub const INTERVAL: u32 = 0x4;
    pub const MAP: u32 = 0x8;
    pub const TIMEOUT: u32 = 0x10;
    pub const EVAL: u32 = 0x20;
    pub const CONCAT: u32 = 0x80;
}

/// `NFT_DATA_VERDICT`.
pub(super) const DATA_VERDICT: u32 = 0xffff_ff00;
/// How full an element list may get before the next message starts; the limit is 65 535.
const ELEMENTS_LIMIT: usize = 60_000;

/// A whole transaction as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    pub bytes: Vec<u8>,
    /// Sequence number of the batch-begin message: errors on the batch as such carry it.
    pub first: u32,
    /// Sequence number of the last real message, the one acknowledged.
    pub last: u32,
    /// For each sequence number from `first + 1` on, the index of its operation.
    pub ops: Vec<usize>,
}

/// What this codec cannot express.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unencodable {
    #[error("expression {0:?} was read from a kernel and cannot be written")]
    Expression(String),
    #[error("an empty transaction has no bytes")]
    Empty,
}

impl Batch {
    /// The operation a sequence number belongs to.
    pub fn op(&self, sequence: u32) -> Option<usize> {
        let index = sequence.checked_sub(self.first)?.checked_sub(1)?;
        self.ops.get(usize::try_from(index).ok()?).copied()
    }
}

/// Encodes a transaction, its messages numbered from `first`.
pub fn batch(transaction: &Transaction, first: u32) -> Result<Batch, Unencodable> {
    if transaction.is_empty() {
        return Err(Unencodable::Empty);
    }
    let mut encoder = Encoder {
        writer: Writer::default(),
        transaction,
        sequence: first,
        ops: Vec::new(),
        last_start: 0,
        set_id: 0,
    };
    encoder.writer.message(BATCH_BEGIN, 0, first, 0, SUBSYSTEM);
    encoder.writer.finish();
    for (index, op) in transaction.ops.iter().enumerate() {
        encoder.op(index, op)?;
    }
    let (last, last_start) = (encoder.sequence, encoder.last_start);
    encoder
        .writer
        .message(BATCH_END, 0, last.wrapping_add(1), 0, SUBSYSTEM);
    encoder.writer.finish();
    let mut bytes = encoder.writer.into_bytes();
    // Which message is the last one is known only now.
    let flags = u16::from_ne_bytes([bytes[last_start + 6], bytes[last_start + 7]]) | NLM_F_ACK;
    bytes[last_start + 6..last_start + 8].copy_from_slice(&flags.to_ne_bytes());
    Ok(Batch {
        bytes,
        first,
        last,
        ops: encoder.ops,
    })
}

struct Encoder<'a> {
    writer: Writer,
    transaction: &'a Transaction,
    sequence: u32,
    ops: Vec<usize>,
    last_start: usize,
    set_id: u32,
}

impl Encoder<'_> {
    fn start(&mut self, index: usize, kind: u16, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        self.ops.push(index);
        self.last_start = self.writer.len();
        let family = self.transaction.family.number();
        self.writer
            .message(SUBSYSTEM << 8 | kind, flags, self.sequence, family, 0);
        // NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE, NFTA_SET_TABLE, NFTA_SET_ELEM_LIST_TABLE: all are 1.
        self.writer.text(1, &self.transaction.table);
    }

    fn op(&mut self, index: usize, op: &Op) -> Result<(), Unencodable> {
        let create = NLM_F_CREATE | NLM_F_EXCL;
        match op {
            Op::AddTable => {
                self.start(index, msg::NEWTABLE, create);
                self.writer.be32(2, 0);
            }
            Op::DeleteTable => self.start(index, msg::DELTABLE, 0),
            Op::AddSet { name, spec } => {
                self.start(index, msg::NEWSET, create);
                self.set_id += 1;
                set(&mut self.writer, name, spec, self.set_id);
            }
            Op::DeleteSet(name) => {
                self.start(index, msg::DELSET, 0);
                self.writer.text(2, name);
            }
            Op::AddChain { name, base } => {
                self.start(index, msg::NEWCHAIN, create);
                chain(&mut self.writer, name, base.as_ref());
            }
            Op::DeleteChain(name) => {
                self.start(index, msg::DELCHAIN, 0);
                self.writer.text(3, name);
            }
            Op::FlushChain(name) => {
                self.start(index, msg::DELRULE, 0);
                self.writer.text(2, name);
            }
            Op::AddRule { chain, rule: r } => {
                self.start(index, msg::NEWRULE, NLM_F_CREATE | NLM_F_APPEND);
                self.writer.text(2, chain);
                rule(&mut self.writer, r)?;
            }
            Op::AddElements { set, elements } => {
                return self.elements(index, msg::NEWSETELEM, create, set, elements);
            }
            Op::DeleteElements { set, elements } => {
                return self.elements(index, msg::DELSETELEM, 0, set, elements);
            }
        }
        self.writer.finish();
        Ok(())
    }

    fn elements(
        &mut self,
        index: usize,
        kind: u16,
        flags: u16,
        set: &str,
        elements: &std::collections::BTreeMap<Bytes, Element>,
    ) -> Result<(), Unencodable> {
        let mut rest = elements.iter().peekable();
        while rest.peek().is_some() {
            self.start(index, kind, flags);
            self.writer.text(2, set);
            let list = self.writer.begin(3);
            let start = self.writer.len();
            while self.writer.len() - start < ELEMENTS_LIMIT
                && let Some((key, value)) = rest.next()
            {
                element(&mut self.writer, key, value);
            }
            self.writer.end(list);
            self.writer.finish();
        }
        Ok(())
    }
}

fn element(w: &mut Writer, key: &Bytes, element: &Element) {
    let nest = w.begin(1);
    let k = w.begin(1);
    w.bytes(1, key);
    w.end(k);
    if let Some(end) = &element.key_end {
        let k = w.begin(10);
        w.bytes(1, end);
        w.end(k);
    }
    match &element.value {
        Value::Nothing => {}
        Value::Data(data) => {
            let d = w.begin(2);
            w.bytes(1, data);
            w.end(d);
        }
        Value::Verdict(value) => {
            let d = w.begin(2);
            verdict(w, value);
            w.end(d);
        }
    }
    w.end(nest);
}

/// `NFTA_DATA_VERDICT`.
fn verdict(w: &mut Writer, verdict: &Verdict) {
    let nest = w.begin(2);
    let code: i32 = match verdict {
        Verdict::Drop => 0,
        Verdict::Accept => 1,
        Verdict::Jump(_) => -3,
        Verdict::Goto(_) => -4,
        Verdict::Return => -5,
    };
    w.be32(1, code.cast_unsigned());
    if let Some(chain) = verdict.chain() {
        w.text(2, chain);
    }
    w.end(nest);
}

fn chain(w: &mut Writer, name: &str, base: Option<&Base>) {
    w.text(3, name);
    let Some(base) = base else { return };
    let hook = w.begin(4);
    w.be32(1, hook_number(base.hook));
    w.be32(2, base.priority.cast_unsigned());
    w.end(hook);
    w.be32(
        5,
        match base.policy {
            Policy::Drop => 0,
            Policy::Accept => 1,
        },
    );
    w.text(
        7,
        match base.kind {
            ChainKind::Filter => "filter",
            ChainKind::Nat => "nat",
            ChainKind::Route => "route",
        },
    );
}

/// `enum nf_inet_hooks`.
pub(super) fn hook_number(hook: Hook) -> u32 {
    match hook {
        Hook::Prerouting => 0,
        Hook::Input => 1,
        Hook::Forward => 2,
        Hook::Output => 3,
        Hook::Postrouting => 4,
    }
}

/// nft packs the types of a concatenation six bits each.
pub(super) fn type_number(fields: &[Field]) -> u32 {
    fields.iter().fold(0, |n, f| n << 6 | f.number())
}

fn set(w: &mut Writer, name: &str, spec: &SetSpec, id: u32) {
    w.text(2, name);
    w.be32(3, flags(spec));
    w.be32(4, type_number(&spec.key));
    w.be32(5, widths(&spec.key) as u32);
    match &spec.value {
        ValueKind::Nothing => {}
        ValueKind::Data(fields) => {
            w.be32(6, type_number(fields));
            w.be32(7, widths(fields) as u32);
        }
        ValueKind::Verdict => {
            w.be32(6, DATA_VERDICT);
            w.be32(7, 0);
        }
    }
    if spec.size.is_some() || spec.interval {
        set_description(w, spec);
    }
    w.be32(10, id);
    // A set without a default timeout may still hold elements with one: the flag alone says so. Here both go together.
    if let Some(timeout) = spec.timeout_ms {
        w.be64(11, timeout);
    }
}

pub(super) fn flags(spec: &SetSpec) -> u32 {
    let mut flags = 0;
    let mut set = |on: bool, flag: u32| flags |= if on { flag } else { 0 };
    set(spec.interval, set_flags::INTERVAL | set_flags::CONCAT);
    set(spec.value != ValueKind::Nothing, set_flags::MAP);
    set(spec.timeout_ms.is_some(), set_flags::TIMEOUT);
    set(spec.dynamic, set_flags::EVAL);
    flags
}

fn set_description(w: &mut Writer, spec: &SetSpec) {
    let nest = w.begin(9);
    if let Some(size) = spec.size {
        w.be32(1, size);
    }
    if spec.interval {
        let fields = w.begin(2);
        for field in &spec.key {
            let nest = w.begin(1);
            w.be32(1, field.width() as u32);
            w.end(nest);
        }
        w.end(fields);
    }
    w.end(nest);
}

fn rule(w: &mut Writer, rule: &Rule) -> Result<(), Unencodable> {
    let list = w.begin(4);
    for expr in &rule.exprs {
        let nest = w.begin(1);
        expression(w, expr)?;
        w.end(nest);
    }
    w.end(list);
    if let Some(comment) = &rule.comment {
        w.bytes(7, &userdata(comment));
    }
    Ok(())
}

/// nft's own record of a comment: type 0, length, text with its zero.
fn userdata(comment: &str) -> Vec<u8> {
    let mut end = comment.len().min(254);
    while !comment.is_char_boundary(end) {
        end -= 1;
    }
    let len = u8::try_from(end + 1).unwrap_or(u8::MAX);
    [&[0, len], &comment.as_bytes()[..end], &[0]].concat()
}

fn reg(w: &mut Writer, kind: u16, reg: Reg) {
    // NFT_REG32_00 is 8.
    w.be32(kind, 8 + u32::from(reg.0));
}

fn data(w: &mut Writer, kind: u16, data: &[u8]) {
    let nest = w.begin(kind);
    w.bytes(1, data);
    w.end(nest);
}

fn expression(w: &mut Writer, expr: &Expr) -> Result<(), Unencodable> {
    let name = match expr {
        Expr::Payload { .. } => "payload",
        Expr::Meta { .. } | Expr::MetaSet { .. } => "meta",
        Expr::Ct { .. } => "ct",
        Expr::Fib { .. } => "fib",
        Expr::Numgen { .. } => "numgen",
        Expr::Cmp { .. } => "cmp",
        Expr::Bitwise { .. } => "bitwise",
        Expr::Lookup { .. } => "lookup",
        Expr::Immediate { .. } | Expr::Verdict(_) => "immediate",
        Expr::Dynset { .. } => "dynset",
        Expr::Nat { .. } => "nat",
        Expr::Masquerade(_) => "masq",
        Expr::Reject(_) => "reject",
        Expr::Counter => "counter",
        Expr::Limit { .. } => "limit",
        Expr::Unknown(name) => return Err(Unencodable::Expression(name.clone())),
    };
    w.text(1, name);
    let nest = w.begin(2);
    body(w, expr);
    w.end(nest);
    Ok(())
}

fn body(w: &mut Writer, expr: &Expr) {
    match expr {
        Expr::Payload {
            dreg,
            base,
            offset,
            len,
        } => {
            reg(w, 1, *dreg);
            w.be32(
                2,
                match base {
                    super::PayloadBase::Network => 1,
                    super::PayloadBase::Transport => 2,
                },
            );
            w.be32(3, *offset);
            w.be32(4, *len);
        }
        Expr::Meta { dreg, key } => {
            w.be32(2, key.number());
            reg(w, 1, *dreg);
        }
        Expr::MetaSet { key, sreg } => {
            w.be32(2, key.number());
            reg(w, 3, *sreg);
        }
        Expr::Ct {
            dreg,
            key,
            direction,
        } => {
            w.be32(2, key.number());
            reg(w, 1, *dreg);
            if let Some(direction) = direction {
                w.bytes(3, &[direction.number() as u8]);
            }
        }
        Expr::Fib {
            dreg,
            result,
            flags,
        } => {
            reg(w, 1, *dreg);
            w.be32(2, result.number());
            w.be32(3, *flags);
        }
        Expr::Numgen {
            dreg,
            modulus,
            offset,
        } => {
            reg(w, 1, *dreg);
            w.be32(2, *modulus);
            // NFT_NG_RANDOM.
            w.be32(3, 1);
            w.be32(4, *offset);
        }
        Expr::Cmp {
            sreg,
            op,
            data: value,
        } => {
            reg(w, 1, *sreg);
            w.be32(2, op.number());
            data(w, 3, value);
        }
        Expr::Bitwise {
            sreg,
            dreg,
            mask,
            xor,
        } => {
            reg(w, 1, *sreg);
            reg(w, 2, *dreg);
            w.be32(3, mask.len() as u32);
            data(w, 4, mask);
            data(w, 5, xor);
        }
        Expr::Immediate { dreg, data: value } => {
            reg(w, 1, *dreg);
            data(w, 2, value);
        }
        Expr::Verdict(value) => {
            w.be32(1, 0);
            let nest = w.begin(2);
            verdict(w, value);
            w.end(nest);
        }
        other => statement(w, other),
    }
}

/// Expressions that use sets or change the packet.
fn statement(w: &mut Writer, expr: &Expr) {
    match expr {
        Expr::Lookup {
            set,
            sreg,
            target,
            inverted,
        } => {
            w.text(1, set);
            reg(w, 2, *sreg);
            match target {
                Some(Target::Reg(dreg)) => reg(w, 3, *dreg),
                Some(Target::Verdict) => w.be32(3, 0),
                None => {}
            }
            if *inverted {
                w.be32(5, 1);
            }
        }
        Expr::Dynset {
            set,
            op,
            key,
            data,
            timeout_ms,
        } => {
            w.text(1, set);
            w.be32(3, op.number());
            reg(w, 4, *key);
            if let Some(data) = data {
                reg(w, 5, *data);
            }
            if let Some(timeout) = timeout_ms {
                w.be64(6, *timeout);
            }
        }
        Expr::Nat {
            kind,
            family,
            addr,
            port,
            flags,
        } => {
            w.be32(1, kind.number());
            w.be32(2, u32::from(family.number()));
            reg(w, 3, *addr);
            if let Some(port) = port {
                reg(w, 5, *port);
            }
            if !flags.is_empty() {
                w.be32(7, flags.bits());
            }
        }
        Expr::Masquerade(flags) if !flags.is_empty() => w.be32(1, flags.bits()),
        Expr::Reject(reject) => {
            let (kind, code) = match reject {
                Reject::IcmpUnreachable(code) => (0, *code),
                Reject::TcpReset => (1, 0),
                Reject::IcmpxUnreachable(code) => (2, *code),
            };
            w.be32(1, kind);
            w.bytes(2, &[code]);
        }
        Expr::Limit {
            rate,
            unit,
            burst,
            over,
        } => {
            w.be64(1, *rate);
            w.be64(2, u64::from(unit.number()));
            w.be32(3, *burst);
            w.be32(4, 0);
            w.be32(5, u32::from(*over));
        }
        _ => {}
    }
}

/// What a dump asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Query<'a> {
    /// One table by name; answered by one message or ENOENT.
    Table(&'a str),
    /// All chains of the family: the kernel does not filter these by table.
    Chains,
    Rules(&'a str),
    Sets(&'a str),
    Elements {
        table: &'a str,
        set: &'a str,
    },
}

impl Query<'_> {
    /// Whether the answer is a dump, ended by `NLMSG_DONE`.
    pub fn is_dump(&self) -> bool {
        !matches!(self, Self::Table(_))
    }
}

/// The bytes of a query.
pub fn query(query: Query<'_>, family: Family, sequence: u32) -> Vec<u8> {
    let kind = match query {
        Query::Table(_) => msg::GETTABLE,
        Query::Chains => msg::GETCHAIN,
        Query::Rules(_) => msg::GETRULE,
        Query::Sets(_) => msg::GETSET,
        Query::Elements { .. } => msg::GETSETELEM,
    };
    let flags = if query.is_dump() { NLM_F_DUMP } else { 0 };
    let mut w = Writer::default();
    w.message(SUBSYSTEM << 8 | kind, flags, sequence, family.number(), 0);
    match query {
        Query::Chains => {}
        Query::Table(table) | Query::Rules(table) | Query::Sets(table) => w.text(1, table),
        Query::Elements { table, set } => {
            w.text(1, table);
            w.text(2, set);
        }
    }
    w.finish();
    debug_assert!(w.len() >= HEADER);
    w.into_bytes()
}

#[cfg(test)]
mod tests;
