//! A packet's way through one table: tests then state what happens to traffic instead of quoting rules.
//!
//! In: a [`Table`], the node's own addresses, a [`Packet`]. Out: a [`Fate`]: delivered where, from which source, or rejected or
//! dropped. It interprets the same expressions the kernel gets, register by register, over the hooks a first packet of a
//! connection meets. Absent: other tables, replies (conntrack reverses them), routing beyond "is it ours".

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use super::expr::{ARPHRD_LOOPBACK, CT_STATE_NEW, CT_STATUS_DNAT, RTN_LOCAL};
use super::{
    Bytes, Chain, ChainKind, CmpOp, CtKey, Direction, DynsetOp, Expr, FibResult, Hook, MetaKey,
    NatKind, PayloadBase, Policy, Reg, Rule, Set, Table, Target, Value, Verdict,
};

/// The first packet of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// IANA number.
    pub protocol: u8,
    pub sport: u16,
    pub dport: u16,
    pub from: Origin,
}

/// Where a packet comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// An interface: another machine or a pod.
    Interface,
    /// A process in the node's own network namespace.
    Node,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Delivered {
        destination: IpAddr,
        dport: u16,
        masqueraded: bool,
        translated: bool,
        /// To a process of the node rather than onwards.
        locally: bool,
    },
    Rejected,
    Dropped,
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected => f.write_str("rejected"),
            Self::Dropped => f.write_str("dropped"),
            Self::Delivered {
                destination,
                dport,
                masqueraded,
                translated,
                ..
            } => {
                if !translated {
                    return f.write_str("untouched");
                }
                write!(
                    f,
                    "reaches {}",
                    std::net::SocketAddr::new(*destination, *dport)
                )?;
                if *masqueraded {
                    f.write_str(", masqueraded")?;
                }
                Ok(())
            }
        }
    }
}

/// Elements of a dynamic set: data and when they expire.
type Learned = BTreeMap<Bytes, (Option<Bytes>, Option<u64>)>;

/// The world around the table.
#[derive(Debug, Clone)]
pub struct Tracer {
    /// The node's own addresses.
    pub local: Vec<IpAddr>,
    /// Milliseconds, for elements that expire.
    pub now_ms: u64,
    /// State of the random numbers: the same sequence in every run.
    pub random: u32,
    learned: BTreeMap<String, Learned>,
}

/// How a chain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Accept,
    Drop,
    Reject,
    /// Fell off the end or returned.
    Open,
}

/// How a rule ended.
enum Step {
    Next,
    Done(End),
    Jump(String),
    Goto(String),
}

struct Flight<'a> {
    tracer: &'a mut Tracer,
    table: &'a Table,
    packet: Packet,
    original: Packet,
    dnat: bool,
    masquerade: bool,
    hook: Hook,
    regs: [u8; 64],
}

impl Tracer {
    pub fn new(local: impl IntoIterator<Item = IpAddr>) -> Self {
        Self {
            local: local.into_iter().collect(),
            now_ms: 0,
            random: 0,
            learned: BTreeMap::new(),
        }
    }

    /// Sends the first packet of a connection through `table`.
    pub fn send(&mut self, table: &Table, packet: Packet) -> Fate {
        let first = match packet.from {
            Origin::Interface => Hook::Prerouting,
            Origin::Node => Hook::Output,
        };
        let mut flight = Flight {
            tracer: self,
            table,
            packet,
            original: packet,
            dnat: false,
            masquerade: false,
            hook: first,
            regs: [0; 64],
        };
        flight.run(first)
    }
}

impl Flight<'_> {
    fn run(&mut self, first: Hook) -> Fate {
        if let Some(fate) = self.hook(first) {
            return fate;
        }
        let ours = self.tracer.local.contains(&self.packet.destination);
        let next = match (first, ours) {
            (Hook::Prerouting, true) => Some(Hook::Input),
            (Hook::Prerouting, false) => Some(Hook::Forward),
            _ => None,
        };
        if let Some(fate) = next.and_then(|hook| self.hook(hook)) {
            return fate;
        }
        // A packet to the node itself does not leave: only one from the node passes postrouting, on its way to `lo`.
        let leaves = !ours || first == Hook::Output;
        if leaves && let Some(fate) = self.hook(Hook::Postrouting) {
            return fate;
        }
        if first == Hook::Output
            && ours
            && let Some(fate) = self.hook(Hook::Input)
        {
            return fate;
        }
        Fate::Delivered {
            destination: self.packet.destination,
            dport: self.packet.dport,
            masqueraded: self.masquerade,
            translated: self.packet.destination != self.original.destination
                || self.packet.dport != self.original.dport,
            locally: ours,
        }
    }

    fn hook(&mut self, hook: Hook) -> Option<Fate> {
        self.hook = hook;
        let table = self.table;
        let mut chains: Vec<&Chain> = table.chains.values().collect();
        chains.retain(|c| c.base.is_some_and(|b| b.hook == hook));
        chains.sort_by_key(|c| c.base.map(|b| b.priority));
        for chain in chains {
            let base = chain.base?;
            // Conntrack does nat once per direction and manipulation: a later nat chain no longer sees the packet.
            let nat_done = match hook {
                Hook::Postrouting | Hook::Input => self.masquerade,
                _ => self.dnat,
            };
            if base.kind == ChainKind::Nat && nat_done {
                continue;
            }
            match self.chain(chain, 0) {
                End::Drop => return Some(Fate::Dropped),
                End::Reject => return Some(Fate::Rejected),
                End::Open if base.policy == Policy::Drop => return Some(Fate::Dropped),
                End::Open | End::Accept => {}
            }
        }
        None
    }

    fn chain(&mut self, chain: &Chain, depth: usize) -> End {
        assert!(depth <= 16, "the fake kernel refuses such a table");
        let table = self.table;
        for rule in &chain.rules {
            match self.rule(rule) {
                Step::Next => {}
                Step::Done(end) => return end,
                Step::Goto(name) => {
                    return self.chain(&table.chains[&name], depth + 1);
                }
                Step::Jump(name) => match self.chain(&table.chains[&name], depth + 1) {
                    End::Open => {}
                    end => return end,
                },
            }
        }
        End::Open
    }

    fn rule(&mut self, rule: &Rule) -> Step {
        // The kernel does not clear registers between rules either, but refuses reads of what the rule did not write.
        self.regs = [0; 64];
        for expr in &rule.exprs {
            match self.expr(expr) {
                None => return Step::Next,
                Some(Step::Next) => {}
                Some(step) => return step,
            }
        }
        Step::Next
    }

    fn put(&mut self, reg: Reg, bytes: &[u8]) {
        let start = usize::from(reg.0) * 4;
        let end = start + bytes.len().next_multiple_of(4);
        self.regs[start..end].fill(0);
        self.regs[start..start + bytes.len()].copy_from_slice(bytes);
    }

    fn get(&self, reg: Reg, len: usize) -> &[u8] {
        let start = usize::from(reg.0) * 4;
        &self.regs[start..start + len]
    }

    fn set(&self, name: &str) -> &Set {
        &self.table.sets[name]
    }

    /// `None`: no match, the rule ends.
    fn expr(&mut self, expr: &Expr) -> Option<Step> {
        match expr {
            Expr::Payload {
                dreg,
                base,
                offset,
                len,
            } => {
                let header = self.header(*base);
                let start = *offset as usize;
                let bytes = header.get(start..start + *len as usize)?.to_vec();
                self.put(*dreg, &bytes);
            }
            Expr::Meta { dreg, key } => {
                let value = self.meta(*key)?;
                self.put(*dreg, &value);
            }
            Expr::Ct {
                dreg,
                key,
                direction,
            } => {
                let value = self.ct(*key, *direction)?;
                self.put(*dreg, &value);
            }
            Expr::Fib {
                dreg,
                result: FibResult::AddrType,
                flags,
            } => {
                let address = match flags & 1 {
                    0 => self.packet.destination,
                    _ => self.packet.source,
                };
                let local = self.tracer.local.contains(&address);
                // RTN_UNICAST is 1.
                let kind = if local { RTN_LOCAL } else { 1 };
                self.put(*dreg, &kind.to_ne_bytes());
            }
            Expr::Numgen {
                dreg,
                modulus,
                offset,
            } => {
                let value = self.tracer.draw() % modulus + offset;
                self.put(*dreg, &value.to_ne_bytes());
            }
            Expr::Cmp { sreg, op, data } => {
                let ordering = self.get(*sreg, data.len()).cmp(data);
                let holds = match op {
                    CmpOp::Eq => ordering.is_eq(),
                    CmpOp::Neq => ordering.is_ne(),
                    CmpOp::Lt => ordering.is_lt(),
                    CmpOp::Lte => ordering.is_le(),
                    CmpOp::Gt => ordering.is_gt(),
                    CmpOp::Gte => ordering.is_ge(),
                };
                return holds.then_some(Step::Next);
            }
            Expr::Bitwise {
                sreg,
                dreg,
                mask,
                xor,
            } => {
                let input = self.get(*sreg, mask.len());
                let bits = input.iter().zip(&**mask).zip(&**xor);
                let value: Vec<u8> = bits.map(|((b, m), x)| b & m ^ x).collect();
                self.put(*dreg, &value);
            }
            Expr::Immediate { dreg, data } => self.put(*dreg, data),
            other => return self.act(other),
        }
        Some(Step::Next)
    }

    fn act(&mut self, expr: &Expr) -> Option<Step> {
        match expr {
            Expr::Lookup {
                set,
                sreg,
                target,
                inverted,
            } => return self.lookup(set, *sreg, *target, *inverted),
            Expr::Verdict(verdict) => return Some(step(verdict)),
            Expr::Dynset {
                set,
                op,
                key,
                data,
                timeout_ms,
            } => return self.learn(set, *op, *key, *data, *timeout_ms),
            Expr::Nat {
                kind: NatKind::Dnat,
                addr,
                port,
                ..
            } => {
                self.packet.destination = self.address(*addr);
                if let Some(port) = port {
                    let bytes = self.get(*port, 2);
                    self.packet.dport = u16::from_be_bytes([bytes[0], bytes[1]]);
                }
                self.dnat = true;
                return Some(Step::Done(End::Accept));
            }
            Expr::Masquerade(_) => {
                self.masquerade = true;
                return Some(Step::Done(End::Accept));
            }
            Expr::Reject(_) => return Some(Step::Done(End::Reject)),
            Expr::Counter => {}
            other => panic!("the tracer does not know {other:?}"),
        }
        Some(Step::Next)
    }

    fn lookup(
        &mut self,
        name: &str,
        sreg: Reg,
        target: Option<Target>,
        inverted: bool,
    ) -> Option<Step> {
        let spec = &self.set(name).spec;
        let key = Bytes::from(self.get(sreg, super::widths(&spec.key)));
        if spec.dynamic {
            let (data, _) = self.tracer.fresh(name, &key)?;
            if let (Some(Target::Reg(dreg)), Some(data)) = (target, data) {
                self.put(dreg, &data);
            }
            return Some(Step::Next);
        }
        let found = find(self.set(name), &key).cloned();
        if found.is_none() || inverted {
            return (found.is_none() && inverted).then_some(Step::Next);
        }
        match (target, found?) {
            (Some(Target::Verdict), Value::Verdict(verdict)) => return Some(step(&verdict)),
            (Some(Target::Reg(dreg)), Value::Data(data)) => self.put(dreg, &data),
            _ => {}
        }
        Some(Step::Next)
    }

    fn learn(
        &mut self,
        name: &str,
        op: DynsetOp,
        key: Reg,
        data: Option<Reg>,
        timeout: Option<u64>,
    ) -> Option<Step> {
        let spec = self.set(name).spec.clone();
        let key = Bytes::from(self.get(key, super::widths(&spec.key)));
        let data = match (&spec.value, data) {
            (super::ValueKind::Data(fields), Some(reg)) => {
                Some(Bytes::from(self.get(reg, super::widths(fields))))
            }
            _ => None,
        };
        let expires = timeout.or(spec.timeout_ms).map(|t| self.tracer.now_ms + t);
        let known = self.tracer.fresh(name, &key);
        let elements = self.tracer.learned.entry(name.to_owned()).or_default();
        match (op, known) {
            (DynsetOp::Delete, _) => {
                elements.remove(&key);
            }
            // The kernel refreshes an element it has, and keeps its data.
            (DynsetOp::Update, Some((data, _))) => {
                elements.insert(key, (data, expires));
            }
            (DynsetOp::Add, Some(_)) => {}
            (DynsetOp::Add | DynsetOp::Update, None) => {
                if spec
                    .size
                    .is_some_and(|size| elements.len() >= size as usize)
                {
                    return None;
                }
                elements.insert(key, (data, expires));
            }
        }
        Some(Step::Next)
    }

    fn address(&self, reg: Reg) -> IpAddr {
        match self.packet.destination {
            IpAddr::V4(_) => {
                let mut octets = [0; 4];
                octets.copy_from_slice(self.get(reg, 4));
                octets.into()
            }
            IpAddr::V6(_) => {
                let mut octets = [0; 16];
                octets.copy_from_slice(self.get(reg, 16));
                octets.into()
            }
        }
    }

    fn header(&self, base: PayloadBase) -> Vec<u8> {
        let p = &self.packet;
        match base {
            PayloadBase::Transport => [p.sport.to_be_bytes(), p.dport.to_be_bytes()].concat(),
            PayloadBase::Network => match (p.source, p.destination) {
                (IpAddr::V4(s), IpAddr::V4(d)) => {
                    [[0; 4], [0; 4], [0; 4], s.octets(), d.octets()].concat()
                }
                (IpAddr::V6(s), IpAddr::V6(d)) => [&[0; 8][..], &s.octets(), &d.octets()].concat(),
                _ => Vec::new(),
            },
        }
    }

    fn meta(&self, key: MetaKey) -> Option<Vec<u8>> {
        let ours = self.tracer.local.contains(&self.packet.destination);
        Some(match key {
            MetaKey::L4Proto => vec![self.packet.protocol],
            MetaKey::NfProto => vec![if self.packet.source.is_ipv4() { 2 } else { 10 }],
            MetaKey::OifType if self.hook == Hook::Postrouting => {
                // ARPHRD_ETHER is 1.
                let kind = if ours { ARPHRD_LOOPBACK } else { 1 };
                kind.to_ne_bytes().to_vec()
            }
            MetaKey::Mark => vec![0; 4],
            MetaKey::OifType | MetaKey::IifName | MetaKey::OifName => return None,
        })
    }

    fn ct(&self, key: CtKey, direction: Option<Direction>) -> Option<Vec<u8>> {
        if direction == Some(Direction::Reply) {
            return None;
        }
        let octets = |a: IpAddr| match a {
            IpAddr::V4(a) => a.octets().to_vec(),
            IpAddr::V6(a) => a.octets().to_vec(),
        };
        let status = if self.dnat { CT_STATUS_DNAT } else { 0 };
        Some(match key {
            CtKey::State => CT_STATE_NEW.to_ne_bytes().to_vec(),
            CtKey::Status => status.to_ne_bytes().to_vec(),
            CtKey::Protocol => vec![self.original.protocol],
            CtKey::ProtoSrc => self.original.sport.to_be_bytes().to_vec(),
            CtKey::ProtoDst => self.original.dport.to_be_bytes().to_vec(),
            CtKey::SrcIp | CtKey::SrcIp6 => octets(self.original.source),
            CtKey::DstIp | CtKey::DstIp6 => octets(self.original.destination),
            CtKey::Direction => vec![0],
            CtKey::Mark => vec![0; 4],
        })
    }
}

impl Tracer {
    /// Mixes a counter well enough that its low bits are no pattern (the finisher of MurmurHash3).
    fn draw(&mut self) -> u32 {
        self.random = self.random.wrapping_add(0x9e37_79b9);
        let mut x = self.random;
        x = (x ^ (x >> 16)).wrapping_mul(0x85eb_ca6b);
        x = (x ^ (x >> 13)).wrapping_mul(0xc2b2_ae35);
        x ^ (x >> 16)
    }

    /// An element of a dynamic set that has not expired.
    fn fresh(&self, set: &str, key: &Bytes) -> Option<(Option<Bytes>, Option<u64>)> {
        let (data, expires) = self.learned.get(set)?.get(key)?.clone();
        let alive = expires.is_none_or(|at| at > self.now_ms);
        alive.then_some((data, expires))
    }
}

fn step(verdict: &Verdict) -> Step {
    match verdict {
        Verdict::Accept => Step::Done(End::Accept),
        Verdict::Drop => Step::Done(End::Drop),
        Verdict::Return => Step::Done(End::Open),
        Verdict::Jump(chain) => Step::Jump(chain.clone()),
        Verdict::Goto(chain) => Step::Goto(chain.clone()),
    }
}

fn find<'a>(set: &'a Set, key: &Bytes) -> Option<&'a Value> {
    if !set.spec.interval {
        return set.elements.get(key).map(|e| &e.value);
    }
    let mut hits = set.elements.iter().filter(|(start, element)| {
        let end = element.key_end.as_deref().unwrap_or(start);
        let mut at = 0;
        set.spec.key.iter().all(|field| {
            let span = at..at + field.padded();
            at = span.end;
            start[span.clone()] <= key[span.clone()] && key[span.clone()] <= end[span]
        })
    });
    hits.next().map(|(_, element)| &element.value)
}

#[cfg(test)]
mod tests;
