//! Dumps back to the model.
//!
//! In: the messages a kernel answered to [`super::encode::query`]. Out: a [`Table`]. What this codec never writes (an unknown
//! expression, another type) becomes a value that differs from everything desired, so a drifted table is repaired and never a crash.
//! What the kernel adds by itself is taken off again: NAT range bits, the aliases of registers, counters.

use std::collections::BTreeMap;

use super::attr::{Attribute, Attributes, Malformed, Message, messages};
use super::encode::{DATA_VERDICT, SUBSYSTEM, msg, set_flags};
use super::model::ValueKind;
use super::{
    Base, Bytes, Chain, ChainKind, CmpOp, CtKey, Direction, DynsetOp, Element, Expr, Family,
    FibResult, Field, Hook, LimitUnit, MetaKey, NatFlags, NatKind, PayloadBase, Policy, Reg,
    Reject, Rule, Set, SetSpec, Table, Target, Value, Verdict,
};

type Result<T> = std::result::Result<T, Malformed>;

/// The attributes of one level by number; of a repeated one, the last.
struct Map<'a>(BTreeMap<u16, Attribute<'a>>);

impl<'a> Map<'a> {
    fn read(attributes: Attributes<'a>) -> Result<Self> {
        let pairs = attributes.map(|a| a.map(|a| (a.kind, a)));
        Ok(Self(pairs.collect::<Result<_>>()?))
    }

    fn text(&self, kind: u16) -> Result<&'a str> {
        self.get(kind)?.text()
    }

    fn be32(&self, kind: u16) -> Result<u32> {
        self.get(kind)?.be32()
    }

    fn be32_or(&self, kind: u16, default: u32) -> Result<u32> {
        self.0.get(&kind).map_or(Ok(default), Attribute::be32)
    }

    fn be64(&self, kind: u16) -> Result<u64> {
        self.get(kind)?.be64()
    }

    fn get(&self, kind: u16) -> Result<&Attribute<'a>> {
        self.0.get(&kind).ok_or(Malformed("attribute missing"))
    }

    fn nested(&self, kind: u16) -> Result<Map<'a>> {
        Map::read(self.get(kind)?.nested())
    }

    fn reg(&self, kind: u16) -> Result<Reg> {
        register(self.be32(kind)?)
    }
}

/// Registers 1 to 4 are the 128-bit aliases of the 32-bit ones from 8 on; the kernel reports the former where it can.
fn register(number: u32) -> Result<Reg> {
    match number {
        1..=4 => Ok(Reg((number as u8 - 1) * 4)),
        8..=23 => Ok(Reg(number as u8 - 8)),
        _ => Err(Malformed("no such register")),
    }
}

/// Builds a table from the messages of its dumps, in the order table, sets, elements, chains, rules (others are fine too, as
/// long as a set comes before its elements and a chain before its rules).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    table: Table,
    /// The kernel's number of the table, if its message was seen: it changes when someone deletes and recreates it.
    pub handle: Option<u64>,
}

impl Reader {
    pub fn new(family: Family, name: &str) -> Self {
        Self {
            table: Table::new(family, name),
            handle: None,
        }
    }

    /// Takes all messages of one received buffer. Messages of other tables and other kinds are passed over.
    pub fn buffer(&mut self, buffer: &[u8]) -> Result<()> {
        messages(buffer).try_for_each(|m| self.message(&m?))
    }

    /// Takes one message.
    pub fn message(&mut self, message: &Message<'_>) -> Result<()> {
        if message.kind >> 8 != SUBSYSTEM || message.family() != self.table.family.number() {
            return Ok(());
        }
        let kind = message.kind & 0xff;
        if kind == msg::NEWGEN {
            return Ok(());
        }
        let map = Map::read(message.attributes())?;
        if map.text(1)? != self.table.name {
            return Ok(());
        }
        match kind {
            msg::NEWTABLE => {
                self.handle = map.be64(4).ok();
                Ok(())
            }
            msg::NEWCHAIN => self.chain(&map),
            msg::NEWRULE => self.rule(&map),
            msg::NEWSET => self.set(&map),
            msg::NEWSETELEM => self.elements(&map),
            _ => Ok(()),
        }
    }

    /// Whether elements of this set are part of the model.
    pub fn wants_elements(&self) -> Vec<String> {
        let wanted = |(_, set): &(&String, &Set)| !set.spec.dynamic;
        let sets = self.table.sets.iter().filter(wanted);
        sets.map(|(name, _)| name.clone()).collect()
    }

    pub fn finish(self) -> Table {
        self.table
    }

    fn chain(&mut self, map: &Map<'_>) -> Result<()> {
        let base = match map.0.contains_key(&4) {
            true => Some(base(map)?),
            false => None,
        };
        let chain = Chain {
            base,
            rules: Vec::new(),
        };
        self.table.chains.insert(map.text(3)?.to_owned(), chain);
        Ok(())
    }

    fn rule(&mut self, map: &Map<'_>) -> Result<()> {
        let mut rule = Rule::default();
        if let Some(list) = map.0.get(&4) {
            for item in list.nested() {
                rule.exprs.push(expression(&Map::read(item?.nested())?)?);
            }
        }
        rule.comment = map.0.get(&7).and_then(|u| comment(u.value));
        let chain = map.text(2)?;
        let chain = self.table.chains.get_mut(chain);
        chain
            .ok_or(Malformed("rule of a chain that was not reported"))?
            .rules
            .push(rule);
        Ok(())
    }

    fn set(&mut self, map: &Map<'_>) -> Result<()> {
        let flags = map.be32_or(3, 0)?;
        let has = |flag: u32| flags & flag != 0;
        let value = match has(set_flags::MAP) {
            false => ValueKind::Nothing,
            true => match map.be32_or(6, 0)? {
                DATA_VERDICT => ValueKind::Verdict,
                number => ValueKind::Data(fields(number)),
            },
        };
        let size = match map.0.get(&9) {
            Some(description) => Map::read(description.nested())?.be32(1).ok(),
            None => None,
        };
        let spec = SetSpec {
            key: fields(map.be32_or(4, 0)?),
            value,
            interval: has(set_flags::INTERVAL),
            dynamic: has(set_flags::EVAL),
            timeout_ms: match has(set_flags::TIMEOUT) {
                true => Some(map.be64(11).unwrap_or(0)),
                false => None,
            },
            size,
        };
        let set = Set {
            spec,
            elements: BTreeMap::new(),
        };
        self.table.sets.insert(map.text(2)?.to_owned(), set);
        Ok(())
    }

    fn elements(&mut self, map: &Map<'_>) -> Result<()> {
        let set = self.table.sets.get_mut(map.text(2)?);
        let set = set.ok_or(Malformed("elements of a set that was not reported"))?;
        let Some(list) = map.0.get(&3) else {
            return Ok(());
        };
        if set.spec.dynamic {
            return Ok(());
        }
        for item in list.nested() {
            let (key, element) = element(&Map::read(item?.nested())?)?;
            set.elements.insert(key, element);
        }
        Ok(())
    }
}

/// A type number this codec does not know becomes no fields, which differs from every set it writes.
fn fields(mut number: u32) -> Vec<Field> {
    let mut fields = Vec::new();
    while number != 0 {
        match Field::from_number(number & 0x3f) {
            Some(field) => fields.push(field),
            None => return Vec::new(),
        }
        number >>= 6;
    }
    fields.reverse();
    fields
}

fn base(map: &Map<'_>) -> Result<Base> {
    let hook = map.nested(4)?;
    Ok(Base {
        kind: match map.text(7)? {
            "filter" => ChainKind::Filter,
            "nat" => ChainKind::Nat,
            "route" => ChainKind::Route,
            _ => return Err(Malformed("unknown chain type")),
        },
        hook: match hook.be32(1)? {
            0 => Hook::Prerouting,
            1 => Hook::Input,
            2 => Hook::Forward,
            3 => Hook::Output,
            4 => Hook::Postrouting,
            _ => return Err(Malformed("unknown hook")),
        },
        priority: hook.be32(2)?.cast_signed(),
        policy: match map.be32_or(5, 1)? {
            0 => Policy::Drop,
            _ => Policy::Accept,
        },
    })
}

fn comment(userdata: &[u8]) -> Option<String> {
    let [0, len, rest @ ..] = userdata else {
        return None;
    };
    let text = rest.get(..usize::from(*len).checked_sub(1)?)?;
    String::from_utf8(text.to_vec()).ok()
}

fn element(map: &Map<'_>) -> Result<(Bytes, Element)> {
    let key = map.nested(1)?;
    let key = Bytes::from(key.get(1)?.value);
    let key_end = match map.0.get(&10) {
        Some(end) => Some(Map::read(end.nested())?.get(1)?.value.into()),
        None => None,
    };
    let value = match map.0.get(&2) {
        None => Value::Nothing,
        Some(data) => {
            let data = Map::read(data.nested())?;
            match data.0.get(&1) {
                Some(value) => Value::Data(Bytes::from(value.value)),
                None => Value::Verdict(Box::new(verdict(&data.nested(2)?)?)),
            }
        }
    };
    Ok((key, Element { key_end, value }))
}

fn verdict(map: &Map<'_>) -> Result<Verdict> {
    Ok(match map.be32(1)?.cast_signed() {
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        -3 => Verdict::Jump(map.text(2)?.to_owned()),
        -4 => Verdict::Goto(map.text(2)?.to_owned()),
        -5 => Verdict::Return,
        _ => return Err(Malformed("unknown verdict")),
    })
}

fn expression(map: &Map<'_>) -> Result<Expr> {
    let name = map.text(1)?;
    let body = match map.0.get(&2) {
        Some(data) => Map::read(data.nested())?,
        None => Map(BTreeMap::new()),
    };
    // An attribute of a known expression with an unknown value is drift like an unknown expression, not an error.
    Ok(match known(name, &body) {
        Ok(Some(expr)) => expr,
        Ok(None) | Err(_) => Expr::Unknown(name.to_owned()),
    })
}

fn known(name: &str, b: &Map<'_>) -> Result<Option<Expr>> {
    let value = |kind: u16| -> Result<Bytes> { Ok(Bytes::from(b.nested(kind)?.get(1)?.value)) };
    let strange = Malformed("value this codec does not write");
    Ok(Some(match name {
        "payload" if b.0.contains_key(&1) => Expr::Payload {
            dreg: b.reg(1)?,
            base: match b.be32(2)? {
                1 => PayloadBase::Network,
                2 => PayloadBase::Transport,
                _ => return Ok(None),
            },
            offset: b.be32(3)?,
            len: b.be32(4)?,
        },
        "meta" => {
            let key = MetaKey::from_number(b.be32(2)?).ok_or(strange)?;
            match b.0.contains_key(&3) {
                true => Expr::MetaSet {
                    key,
                    sreg: b.reg(3)?,
                },
                false => Expr::Meta {
                    dreg: b.reg(1)?,
                    key,
                },
            }
        }
        "ct" if b.0.contains_key(&1) => Expr::Ct {
            dreg: b.reg(1)?,
            key: CtKey::from_number(b.be32(2)?).ok_or(strange.clone())?,
            direction: match b.0.get(&3).and_then(|d| d.value.first()) {
                Some(d) => Some(Direction::from_number(u32::from(*d)).ok_or(strange)?),
                None => None,
            },
        },
        "fib" => Expr::Fib {
            dreg: b.reg(1)?,
            result: FibResult::from_number(b.be32(2)?).ok_or(strange)?,
            flags: b.be32(3)?,
        },
        "numgen" if b.be32(3)? == 1 => Expr::Numgen {
            dreg: b.reg(1)?,
            modulus: b.be32(2)?,
            offset: b.be32_or(4, 0)?,
        },
        "cmp" => Expr::Cmp {
            sreg: b.reg(1)?,
            op: CmpOp::from_number(b.be32(2)?).ok_or(strange)?,
            data: value(3)?,
        },
        "bitwise" if b.be32_or(6, 0)? == 0 => Expr::Bitwise {
            sreg: b.reg(1)?,
            dreg: b.reg(2)?,
            mask: value(4)?,
            xor: value(5)?,
        },
        "immediate" => match b.be32(1)? {
            0 => Expr::Verdict(verdict(&b.nested(2)?.nested(2)?)?),
            _ => Expr::Immediate {
                dreg: b.reg(1)?,
                data: value(2)?,
            },
        },
        other => return statement(other, b),
    }))
}

fn statement(name: &str, b: &Map<'_>) -> Result<Option<Expr>> {
    let strange = Malformed("value this codec does not write");
    Ok(Some(match name {
        "lookup" => Expr::Lookup {
            set: b.text(1)?.to_owned(),
            sreg: b.reg(2)?,
            target: match b.0.get(&3) {
                None => None,
                Some(reg) if reg.be32()? == 0 => Some(Target::Verdict),
                Some(reg) => Some(Target::Reg(register(reg.be32()?)?)),
            },
            inverted: b.be32_or(5, 0)? & 1 != 0,
        },
        "dynset" => Expr::Dynset {
            set: b.text(1)?.to_owned(),
            op: DynsetOp::from_number(b.be32(3)?).ok_or(strange)?,
            key: b.reg(4)?,
            data: match b.0.contains_key(&5) {
                true => Some(b.reg(5)?),
                false => None,
            },
            timeout_ms: match b.be64(6) {
                Ok(0) | Err(_) => None,
                Ok(timeout) => Some(timeout),
            },
        },
        "nat" => Expr::Nat {
            kind: NatKind::from_number(b.be32(1)?).ok_or(strange)?,
            family: match b.be32(2)? {
                2 => Family::Ip,
                10 => Family::Ip6,
                _ => return Ok(None),
            },
            addr: b.reg(3)?,
            port: match b.0.contains_key(&5) {
                true => Some(b.reg(5)?),
                false => None,
            },
            flags: NatFlags::from_bits_truncate(b.be32_or(7, 0)?),
        },
        "masq" => Expr::Masquerade(NatFlags::from_bits_truncate(b.be32_or(1, 0)?)),
        "reject" => {
            let code = || b.0.get(&2).and_then(|c| c.value.first()).copied();
            Expr::Reject(match b.be32(1)? {
                0 => Reject::IcmpUnreachable(code().ok_or(strange)?),
                1 => Reject::TcpReset,
                2 => Reject::IcmpxUnreachable(code().ok_or(strange)?),
                _ => return Ok(None),
            })
        }
        "counter" => Expr::Counter,
        "limit" if b.be32_or(4, 0)? == 0 => Expr::Limit {
            rate: b.be64(1)?,
            unit: u32::try_from(b.be64(2)?)
                .ok()
                .and_then(LimitUnit::from_number)
                .ok_or(strange)?,
            burst: b.be32_or(3, 0)?,
            over: b.be32_or(5, 0)? & 1 != 0,
        },
        _ => return Ok(None),
    }))
}

#[cfg(test)]
mod tests;
