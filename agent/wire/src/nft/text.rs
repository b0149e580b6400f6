//! A canonical text for people, logs and goldens, close to what `nft` prints.
//!
//! In: a [`Table`] or a [`Transaction`]. Out: text, sorted, always the same for the same model. Absent: a parser; the text is for eyes.
//! Rules are shown by following what each register holds, so `@map` look-ups on several fields read as one concatenation.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::encode::hook_number;
use super::expr::{CT_STATE_NEW, CT_STATUS_DNAT, RTN_LOCAL};
use super::model::ValueKind;
use super::{
    ChainKind, CmpOp, CtKey, Direction, DynsetOp, Element, Expr, Family, FibResult, Field,
    LimitUnit, MetaKey, NatFlags, NatKind, Op, PayloadBase, Policy, Reg, Reject, Rule, SetSpec,
    Table, Target, Transaction, Value, Verdict, widths,
};

/// A whole table.
pub fn table(table: &Table) -> String {
    let mut out = format!("table {} {} {{\n", table.family.name(), table.name);
    for (name, set) in &table.sets {
        let _ = writeln!(out, "  {} {{", set_head(name, &set.spec));
        for (key, value) in &set.elements {
            let _ = writeln!(out, "    {}", element(Some(&set.spec), key, value));
        }
        out.push_str("  }\n");
    }
    let mut chains: Vec<_> = table.chains.iter().collect();
    // In the order packets meet them, then the called ones by name.
    chains.sort_by_key(|(name, chain)| {
        let place = chain.base.map(|b| (hook_number(b.hook), b.priority));
        (place.is_none(), place, name.as_str())
    });
    for (name, chain) in chains {
        let _ = writeln!(out, "  chain {name} {{{}", chain_head(chain.base.as_ref()));
        for r in &chain.rules {
            let _ = writeln!(out, "    {}", rule(r, table.family));
        }
        out.push_str("  }\n");
    }
    out.push_str("}\n");
    out
}

/// A transaction, one line for each operation and element, keys in hexadecimal.
pub fn transaction(transaction: &Transaction) -> String {
    lines(transaction, |_| None)
}

/// A transaction with keys shown by the types of `table`, which may be the table before or after it.
pub fn transaction_on(transaction: &Transaction, table: &Table) -> String {
    lines(transaction, |set| table.sets.get(set).map(|s| &s.spec))
}

fn lines<'a>(tx: &Transaction, spec: impl Fn(&str) -> Option<&'a SetSpec>) -> String {
    let mut out = String::new();
    for item in &tx.ops {
        match item {
            Op::AddElements { set, elements } => {
                for (key, value) in elements {
                    let text = element(spec(set), key, value);
                    let _ = writeln!(out, "add element {set} {{ {text} }}");
                }
            }
            Op::DeleteElements { set, elements } => {
                for (key, value) in elements {
                    let text = element(spec(set), key, value);
                    let _ = writeln!(out, "delete element {set} {{ {text} }}");
                }
            }
            other => {
                let _ = writeln!(out, "{}", op_in(&tx.table, tx.family, other));
            }
        }
    }
    out
}

/// One operation in a line; elements are only counted.
pub fn op(table: &str, item: &Op) -> String {
    op_in(table, Family::Inet, item)
}

fn op_in(table: &str, family: Family, item: &Op) -> String {
    match item {
        Op::AddTable => format!("add table {table}"),
        Op::DeleteTable => format!("delete table {table}"),
        Op::AddSet { name, spec } => format!("add {}", set_head(name, spec)),
        Op::DeleteSet(name) => format!("delete set {name}"),
        Op::AddChain { name, base } => format!("add chain {name}{}", chain_head(base.as_ref())),
        Op::DeleteChain(name) => format!("delete chain {name}"),
        Op::FlushChain(name) => format!("flush chain {name}"),
        Op::AddRule { chain, rule: r } => format!("add rule {chain} {}", rule(r, family)),
        Op::AddElements { set, elements } => format!("add {} elements to {set}", elements.len()),
        Op::DeleteElements { set, elements } => {
            format!("delete {} elements of {set}", elements.len())
        }
    }
}

fn chain_head(base: Option<&super::Base>) -> String {
    let Some(base) = base else {
        return String::new();
    };
    let kind = match base.kind {
        ChainKind::Filter => "filter",
        ChainKind::Nat => "nat",
        ChainKind::Route => "route",
    };
    let policy = match base.policy {
        Policy::Accept => "accept",
        Policy::Drop => "drop",
    };
    let hook = format!("{:?}", base.hook).to_lowercase();
    format!(
        " type {kind} hook {hook} priority {}; policy {policy};",
        base.priority
    )
}

fn types(fields: &[Field]) -> String {
    let name = |f: &Field| match f {
        Field::Ipv4Addr => "ipv4_addr",
        Field::Ipv6Addr => "ipv6_addr",
        Field::InetProto => "inet_proto",
        Field::InetService => "inet_service",
        Field::Mark => "mark",
    };
    fields.iter().map(name).collect::<Vec<_>>().join(" . ")
}

fn set_head(name: &str, spec: &SetSpec) -> String {
    let key = types(&spec.key);
    let mut head = match &spec.value {
        ValueKind::Nothing => format!("set {name} type {key};"),
        ValueKind::Data(fields) => format!("map {name} type {key} : {};", types(fields)),
        ValueKind::Verdict => format!("map {name} type {key} : verdict;"),
    };
    if spec.interval {
        head.push_str(" flags interval;");
    }
    if spec.dynamic {
        head.push_str(" flags dynamic;");
    }
    if let Some(timeout) = spec.timeout_ms {
        let _ = write!(head, " timeout {};", duration(timeout));
    }
    if let Some(size) = spec.size {
        let _ = write!(head, " size {size};");
    }
    head
}

fn element(spec: Option<&SetSpec>, key: &[u8], element: &Element) -> String {
    let mut text = fields(spec.map(|s| s.key.as_slice()), key);
    if let Some(end) = &element.key_end {
        let _ = write!(text, " to {}", fields(spec.map(|s| s.key.as_slice()), end));
    }
    match &element.value {
        Value::Nothing => {}
        Value::Data(data) => {
            let kinds = spec.and_then(|s| match &s.value {
                ValueKind::Data(fields) => Some(fields.as_slice()),
                _ => None,
            });
            let _ = write!(text, " : {}", fields(kinds, data));
        }
        Value::Verdict(value) => {
            let _ = write!(text, " : {}", verdict(value));
        }
    }
    text
}

fn fields(kinds: Option<&[Field]>, data: &[u8]) -> String {
    match kinds {
        Some(kinds) if widths(kinds) == data.len() => {
            let mut rest = data;
            let mut parts = Vec::new();
            for kind in kinds {
                let (part, tail) = rest.split_at(kind.padded());
                parts.push(field(*kind, part));
                rest = tail;
            }
            parts.join(" . ")
        }
        _ => hex(data),
    }
}

fn field(kind: Field, data: &[u8]) -> String {
    match kind {
        Field::Ipv4Addr => Shape::Address.show(&data[..4]),
        Field::Ipv6Addr => Shape::Address.show(data),
        Field::InetProto => Shape::Protocol.show(&data[..1]),
        Field::InetService => Shape::Service.show(&data[..2]),
        Field::Mark => Shape::Number.show(data),
    }
}

fn hex(data: &[u8]) -> String {
    data.iter().fold("0x".to_owned(), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}

/// How the bytes of a register read.
#[derive(Clone, Copy, PartialEq)]
enum Shape {
    Address,
    Protocol,
    Service,
    Number,
    CtState,
    CtStatus,
    AddrType,
    Hex,
}

impl Shape {
    fn show(self, data: &[u8]) -> String {
        let number = || data.try_into().ok().map(u32::from_ne_bytes);
        match self {
            Self::Address => match (<[u8; 4]>::try_from(data), <[u8; 16]>::try_from(data)) {
                (Ok(v4), _) => Ipv4Addr::from(v4).to_string(),
                (_, Ok(v6)) => Ipv6Addr::from(v6).to_string(),
                _ => hex(data),
            },
            Self::Protocol => match data {
                [6, ..] => "tcp".to_owned(),
                [17, ..] => "udp".to_owned(),
                [132, ..] => "sctp".to_owned(),
                [other, ..] => other.to_string(),
                [] => String::new(),
            },
            Self::Service => match data {
                [a, b, ..] => u16::from_be_bytes([*a, *b]).to_string(),
                _ => hex(data),
            },
            Self::Number => number().map_or_else(|| hex(data), |n| n.to_string()),
            Self::CtState if number() == Some(CT_STATE_NEW) => "new".to_owned(),
            Self::CtStatus if number() == Some(CT_STATUS_DNAT) => "dnat".to_owned(),
            Self::AddrType if number() == Some(RTN_LOCAL) => "local".to_owned(),
            _ => hex(data),
        }
    }
}

/// What a register holds, in words.
#[derive(Clone)]
struct Held {
    /// Registers written together share it.
    origin: usize,
    text: String,
    shape: Shape,
}

/// One rule.
pub fn rule(rule: &Rule, family: Family) -> String {
    let mut reader = Reader {
        held: std::array::from_fn(|_| None),
        writes: 0,
        family,
    };
    let mut words: Vec<String> = rule.exprs.iter().filter_map(|e| reader.expr(e)).collect();
    if let Some(comment) = &rule.comment {
        words.push(format!("comment \"{comment}\""));
    }
    words.join(" ")
}

struct Reader {
    held: [Option<Held>; 16],
    writes: usize,
    family: Family,
}

impl Reader {
    fn write(&mut self, reg: Reg, len: usize, text: impl Into<String>, shape: Shape) {
        self.writes += 1;
        let held = Held {
            origin: self.writes,
            text: text.into(),
            shape,
        };
        let start = usize::from(reg.0);
        for slot in self.held.iter_mut().skip(start).take(len.div_ceil(4)) {
            *slot = Some(held.clone());
        }
    }

    /// The concatenation that starts at `reg`; without a length, as far as registers were written.
    fn read(&self, reg: Reg, len: Option<usize>) -> String {
        let count = len.map_or(16, |l| l.div_ceil(4));
        let slots = self.held.iter().skip(usize::from(reg.0)).take(count);
        let mut last = 0;
        let mut parts = Vec::new();
        for held in slots.map_while(Option::as_ref) {
            if held.origin != last {
                parts.push(held.text.as_str());
            }
            last = held.origin;
        }
        parts.join(" . ")
    }

    fn shape(&self, reg: Reg) -> Shape {
        let held = self.held.get(usize::from(reg.0)).and_then(Option::as_ref);
        held.map_or(Shape::Hex, |h| h.shape)
    }

    fn expr(&mut self, expr: &Expr) -> Option<String> {
        match expr {
            Expr::Payload {
                dreg,
                base,
                offset,
                len,
            } => {
                let (text, shape) = payload(self.family, *base, *offset, *len);
                self.write(*dreg, *len as usize, text, shape);
                None
            }
            Expr::Meta { dreg, key } => {
                let (text, shape) = meta(*key);
                self.write(*dreg, super::fake::meta_width(*key), text, shape);
                None
            }
            Expr::Ct {
                dreg,
                key,
                direction,
            } => {
                let (text, shape) = ct(*key, *direction);
                self.write(*dreg, super::fake::ct_width(*key), text, shape);
                None
            }
            Expr::Fib {
                dreg,
                result,
                flags,
            } => {
                self.write(*dreg, 4, fib(*result, *flags), Shape::AddrType);
                None
            }
            Expr::Numgen {
                dreg,
                modulus,
                offset,
            } => {
                let mut text = format!("numgen random mod {modulus}");
                if *offset != 0 {
                    let _ = write!(text, " offset {offset}");
                }
                self.write(*dreg, 4, text, Shape::Number);
                None
            }
            Expr::Bitwise {
                sreg,
                dreg,
                mask,
                xor,
                ..
            } => {
                let shape = self.shape(*sreg);
                let mut text = format!(
                    "{} & {}",
                    self.read(*sreg, Some(mask.len())),
                    shape.show(mask)
                );
                if xor.iter().any(|b| *b != 0) {
                    let _ = write!(text, " ^ {}", shape.show(xor));
                }
                self.write(*dreg, mask.len(), text, shape);
                None
            }
            Expr::Immediate { dreg, data } => {
                self.write(*dreg, data.len(), hex(data), Shape::Hex);
                None
            }
            Expr::Cmp { sreg, op, data } => Some(self.cmp(*sreg, *op, data)),
            Expr::Lookup {
                set,
                sreg,
                target,
                inverted,
            } => self.lookup(set, *sreg, *target, *inverted),
            other => Some(self.statement(other)),
        }
    }

    fn cmp(&self, sreg: Reg, op: CmpOp, data: &[u8]) -> String {
        let shape = self.shape(sreg);
        let sign = match op {
            CmpOp::Eq => "",
            CmpOp::Neq => "!= ",
            CmpOp::Lt => "< ",
            CmpOp::Lte => "<= ",
            CmpOp::Gt => "> ",
            CmpOp::Gte => ">= ",
        };
        let left = self.read(sreg, Some(data.len()));
        // `(x & dnat) != 0` reads as the flag itself.
        if op == CmpOp::Neq && data.iter().all(|b| *b == 0) && left.contains(" & ") {
            return left.replace(" & ", " ");
        }
        let sign = if sign.is_empty() && left.contains(" & ") {
            "== "
        } else {
            sign
        };
        format!("{left} {sign}{}", shape.show(data))
    }

    fn lookup(
        &mut self,
        set: &str,
        sreg: Reg,
        target: Option<Target>,
        inverted: bool,
    ) -> Option<String> {
        let key = self.read(sreg, None);
        match target {
            None if inverted => Some(format!("{key} != @{set}")),
            None => Some(format!("{key} @{set}")),
            Some(Target::Verdict) => Some(format!("{key} vmap @{set}")),
            Some(Target::Reg(dreg)) => {
                // Its width is the map's business; whatever lies behind is overwritten before it is read.
                let left = 16usize.saturating_sub(usize::from(dreg.0));
                self.write(dreg, left * 4, format!("{key} map @{set}"), Shape::Hex);
                None
            }
        }
    }

    fn statement(&self, expr: &Expr) -> String {
        match expr {
            Expr::MetaSet { key, sreg } => {
                format!("{} set {}", meta(*key).0, self.read(*sreg, Some(4)))
            }
            Expr::Verdict(value) => verdict(value),
            Expr::Dynset {
                set,
                op,
                key,
                data,
                timeout_ms,
            } => {
                let verb = match op {
                    DynsetOp::Add => "add",
                    DynsetOp::Update => "update",
                    DynsetOp::Delete => "delete",
                };
                let words = data.map_or(16, |d| usize::from(d.0.saturating_sub(key.0)));
                let mut text = format!("{verb} @{set} {{ {}", self.read(*key, Some(words * 4)));
                if let Some(timeout) = timeout_ms {
                    let _ = write!(text, " timeout {}", duration(*timeout));
                }
                if let Some(data) = data {
                    let _ = write!(text, " : {}", self.read(*data, None));
                }
                text + " }"
            }
            Expr::Nat {
                kind,
                addr,
                port,
                flags,
                ..
            } => {
                let verb = match kind {
                    NatKind::Snat => "snat",
                    NatKind::Dnat => "dnat",
                };
                let words = match port {
                    Some(port) => usize::from(port.0.saturating_sub(addr.0)) + 1,
                    None => 1,
                };
                let to = self.read(*addr, Some(words * 4));
                format!("{verb} to {to}{}", nat_flags(*flags))
            }
            Expr::Masquerade(flags) => format!("masquerade{}", nat_flags(*flags)),
            Expr::Reject(Reject::IcmpUnreachable(code)) => format!("reject with icmp code {code}"),
            Expr::Reject(Reject::TcpReset) => "reject with tcp reset".to_owned(),
            Expr::Reject(Reject::IcmpxUnreachable(code)) => {
                format!("reject with icmpx code {code}")
            }
            Expr::Counter => "counter".to_owned(),
            Expr::Limit {
                rate,
                unit,
                burst,
                over,
            } => {
                let over = if *over { "over " } else { "" };
                let unit = match unit {
                    LimitUnit::Second => "second",
                    LimitUnit::Minute => "minute",
                    LimitUnit::Hour => "hour",
                    LimitUnit::Day => "day",
                };
                format!("limit rate {over}{rate}/{unit} burst {burst} packets")
            }
            Expr::Unknown(name) => format!("<unknown {name}>"),
            _ => String::new(),
        }
    }
}

fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Accept => "accept".to_owned(),
        Verdict::Drop => "drop".to_owned(),
        Verdict::Return => "return".to_owned(),
        Verdict::Jump(chain) => format!("jump {chain}"),
        Verdict::Goto(chain) => format!("goto {chain}"),
    }
}

fn nat_flags(flags: NatFlags) -> String {
    let mut words = Vec::new();
    for (flag, word) in [
        (NatFlags::RANDOM, " random"),
        (NatFlags::FULLY_RANDOM, " fully-random"),
        (NatFlags::PERSISTENT, " persistent"),
    ] {
        if flags.contains(flag) {
            words.push(word);
        }
    }
    words.concat()
}

fn payload(family: Family, base: PayloadBase, offset: u32, len: u32) -> (String, Shape) {
    let known = match (family, base, offset, len) {
        (Family::Ip, PayloadBase::Network, 12, 4) => Some(("ip saddr", Shape::Address)),
        (Family::Ip, PayloadBase::Network, 16, 4) => Some(("ip daddr", Shape::Address)),
        (Family::Ip6, PayloadBase::Network, 8, 16) => Some(("ip6 saddr", Shape::Address)),
        (Family::Ip6, PayloadBase::Network, 24, 16) => Some(("ip6 daddr", Shape::Address)),
        (_, PayloadBase::Transport, 0, 2) => Some(("th sport", Shape::Service)),
        (_, PayloadBase::Transport, 2, 2) => Some(("th dport", Shape::Service)),
        _ => None,
    };
    match known {
        Some((text, shape)) => (text.to_owned(), shape),
        None => {
            let base = match base {
                PayloadBase::Network => "nh",
                PayloadBase::Transport => "th",
            };
            (format!("@{base},{},{}", offset * 8, len * 8), Shape::Hex)
        }
    }
}

fn meta(key: MetaKey) -> (&'static str, Shape) {
    match key {
        MetaKey::Mark => ("meta mark", Shape::Hex),
        MetaKey::IifName => ("iifname", Shape::Hex),
        MetaKey::OifName => ("oifname", Shape::Hex),
        MetaKey::OifType => ("oiftype", Shape::Hex),
        MetaKey::NfProto => ("meta nfproto", Shape::Hex),
        MetaKey::L4Proto => ("meta l4proto", Shape::Protocol),
    }
}

fn ct(key: CtKey, direction: Option<Direction>) -> (String, Shape) {
    let side = match direction {
        Some(Direction::Original) => "original ",
        Some(Direction::Reply) => "reply ",
        None => "",
    };
    let (name, shape) = match key {
        CtKey::State => ("state", Shape::CtState),
        CtKey::Status => ("status", Shape::CtStatus),
        CtKey::Direction => ("direction", Shape::Hex),
        CtKey::Mark => ("mark", Shape::Number),
        CtKey::Protocol => ("protocol", Shape::Protocol),
        CtKey::ProtoSrc => ("proto-src", Shape::Service),
        CtKey::ProtoDst => ("proto-dst", Shape::Service),
        CtKey::SrcIp => ("ip saddr", Shape::Address),
        CtKey::DstIp => ("ip daddr", Shape::Address),
        CtKey::SrcIp6 => ("ip6 saddr", Shape::Address),
        CtKey::DstIp6 => ("ip6 daddr", Shape::Address),
    };
    (format!("ct {side}{name}"), shape)
}

fn fib(result: FibResult, flags: u32) -> String {
    let mut selectors = Vec::new();
    for (bit, name) in [
        (1, "saddr"),
        (2, "daddr"),
        (4, "mark"),
        (8, "iif"),
        (16, "oif"),
    ] {
        if flags & bit != 0 {
            selectors.push(name);
        }
    }
    let result = match result {
        FibResult::Oif => "oif",
        FibResult::OifName => "oifname",
        FibResult::AddrType => "type",
    };
    format!("fib {} {result}", selectors.join(" . "))
}

fn duration(ms: u64) -> String {
    if ms.is_multiple_of(1000) {
        format!("{}s", ms / 1000)
    } else {
        format!("{ms}ms")
    }
}

#[cfg(test)]
mod tests;
