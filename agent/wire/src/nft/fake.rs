//! A kernel for tests that refuses what the real one refuses.
//!
//! In: transactions. Out: the tables that result, or the operation at fault and why, with everything as before.
//! Absent: packets ([`super::trace`] moves those) and other families' quirks this codec never uses.

use std::collections::BTreeMap;

use super::model::ValueKind;
use super::{
    Bytes, ChainKind, Element, Expr, Family, Hook, Op, Reg, Rule, Set, SetSpec, Table, Target,
    Transaction, Value, Verdict, widths,
};

/// Tables by family and name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kernel {
    pub tables: BTreeMap<(Family, String), Table>,
}

/// Why a batch was refused: which operation, on what, and the errno the kernel would give.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("operation {index} ({what}): {reason}")]
pub struct Refused {
    pub index: usize,
    pub what: String,
    pub reason: Reason,
}

/// The kernel's errno, in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    #[error("exists already (EEXIST)")]
    Exists,
    #[error("no such object (ENOENT)")]
    Missing,
    #[error("still in use (EBUSY)")]
    Busy,
    #[error("overlaps another interval (ENOTEMPTY)")]
    Overlap,
    #[error("invalid (EINVAL)")]
    Invalid,
    #[error("not possible here (EOPNOTSUPP)")]
    Unsupported,
    #[error("jumps too deep or in a circle (ELOOP)")]
    Loop,
}

/// Jumps nested deeper than this are refused, `NFT_JUMP_STACK_SIZE`.
const DEPTH: usize = 16;

impl Kernel {
    /// Applies a batch, all or nothing.
    pub fn apply(&mut self, transaction: &Transaction) -> Result<(), Refused> {
        let key = (transaction.family, transaction.table.clone());
        let mut table = self.tables.get(&key).cloned();
        for (index, op) in transaction.ops.iter().enumerate() {
            apply(&mut table, transaction, op).map_err(|reason| Refused {
                index,
                what: super::text::op(&transaction.table, op),
                reason,
            })?;
        }
        if let Some(table) = &table {
            validate(table).map_err(|reason| Refused {
                index: transaction.ops.len(),
                what: "validate table".to_owned(),
                reason,
            })?;
        }
        match table {
            Some(table) => self.tables.insert(key, table),
            None => self.tables.remove(&key),
        };
        Ok(())
    }

    pub fn table(&self, family: Family, name: &str) -> Option<&Table> {
        self.tables.get(&(family, name.to_owned()))
    }
}

fn apply(table: &mut Option<Table>, tx: &Transaction, op: &Op) -> Result<(), Reason> {
    match op {
        Op::AddTable => return add_table(table, tx),
        Op::DeleteTable => return table.take().map(|_| ()).ok_or(Reason::Missing),
        _ => {}
    }
    let table = table.as_mut().ok_or(Reason::Missing)?;
    match op {
        Op::AddTable | Op::DeleteTable => Ok(()),
        Op::AddSet { name, spec } => add_set(table, name, spec),
        Op::DeleteSet(name) => delete_set(table, name),
        Op::AddChain { name, base } => {
            refuse_if(table.chains.contains_key(name), Reason::Exists)?;
            let chain = super::Chain {
                base: *base,
                rules: Vec::new(),
            };
            table.chains.insert(name.clone(), chain);
            Ok(())
        }
        Op::DeleteChain(name) => delete_chain(table, name),
        Op::FlushChain(name) => {
            let chain = table.chains.get_mut(name).ok_or(Reason::Missing)?;
            chain.rules.clear();
            Ok(())
        }
        Op::AddRule { chain, rule } => add_rule(table, chain, rule),
        Op::AddElements { set, elements } => add_elements(table, set, elements),
        Op::DeleteElements { set, elements } => delete_elements(table, set, elements),
    }
}

fn refuse_if(condition: bool, reason: Reason) -> Result<(), Reason> {
    if condition { Err(reason) } else { Ok(()) }
}

fn add_table(table: &mut Option<Table>, tx: &Transaction) -> Result<(), Reason> {
    refuse_if(table.is_some(), Reason::Exists)?;
    *table = Some(Table::new(tx.family, &tx.table));
    Ok(())
}

fn add_set(table: &mut Table, name: &str, spec: &SetSpec) -> Result<(), Reason> {
    refuse_if(table.sets.contains_key(name), Reason::Exists)?;
    let length = widths(&spec.key);
    refuse_if(length == 0 || length > 64, Reason::Invalid)?;
    refuse_if(name.len() > 255, Reason::Invalid)?;
    refuse_if(spec.interval && spec.key.len() < 2, Reason::Unsupported)?;
    refuse_if(spec.interval && spec.dynamic, Reason::Unsupported)?;
    let set = Set {
        spec: spec.clone(),
        elements: BTreeMap::new(),
    };
    table.sets.insert(name.to_owned(), set);
    Ok(())
}

fn delete_set(table: &mut Table, name: &str) -> Result<(), Reason> {
    let used = |rule: &Rule| rule.exprs.iter().any(|e| e.set() == Some(name));
    let in_use = table.chains.values().any(|c| c.rules.iter().any(used));
    refuse_if(in_use, Reason::Busy)?;
    table.sets.remove(name).map(|_| ()).ok_or(Reason::Missing)
}

fn delete_chain(table: &mut Table, name: &str) -> Result<(), Reason> {
    refuse_if(!table.chains.contains_key(name), Reason::Missing)?;
    let by_rule = |rule: &Rule| rule.exprs.iter().any(|e| e.chain() == Some(name));
    let by_element = |element: &Element| match &element.value {
        Value::Verdict(verdict) => verdict.chain() == Some(name),
        _ => false,
    };
    let others = table.chains.iter().filter(|(other, _)| *other != name);
    let mut rules = others.flat_map(|(_, c)| &c.rules);
    let mut elements = table.sets.values().flat_map(|s| s.elements.values());
    refuse_if(rules.any(by_rule) || elements.any(by_element), Reason::Busy)?;
    table.chains.remove(name);
    Ok(())
}

fn add_elements(
    table: &mut Table,
    name: &str,
    elements: &BTreeMap<Bytes, Element>,
) -> Result<(), Reason> {
    for element in elements.values() {
        if let Value::Verdict(verdict) = &element.value {
            check_target(table, verdict)?;
        }
    }
    let set = table.sets.get_mut(name).ok_or(Reason::Missing)?;
    for (key, element) in elements {
        check_element(&set.spec, key, element)?;
        refuse_if(set.elements.contains_key(key), Reason::Exists)?;
        let overlaps = |(k, e): (&Bytes, &Element)| overlap(&set.spec, (key, element), (k, e));
        refuse_if(
            set.spec.interval && set.elements.iter().any(overlaps),
            Reason::Overlap,
        )?;
        set.elements.insert(key.clone(), element.clone());
    }
    Ok(())
}

fn check_element(spec: &SetSpec, key: &Bytes, element: &Element) -> Result<(), Reason> {
    refuse_if(key.len() != widths(&spec.key), Reason::Invalid)?;
    refuse_if(element.key_end.is_some() != spec.interval, Reason::Invalid)?;
    if let Some(end) = &element.key_end {
        refuse_if(end.len() != key.len(), Reason::Invalid)?;
    }
    let fits = match (&spec.value, &element.value) {
        (ValueKind::Nothing, Value::Nothing) | (ValueKind::Verdict, Value::Verdict(_)) => true,
        (ValueKind::Data(fields), Value::Data(data)) => data.len() == widths(fields),
        _ => false,
    };
    refuse_if(!fits, Reason::Invalid)
}

/// Two intervals overlap when all their fields do.
fn overlap(spec: &SetSpec, a: (&Bytes, &Element), b: (&Bytes, &Element)) -> bool {
    let end = |(key, element): (&Bytes, &Element)| -> Vec<u8> {
        element.key_end.as_deref().unwrap_or(key).to_vec()
    };
    let (a_end, b_end) = (end(a), end(b));
    let mut at = 0;
    spec.key.iter().all(|field| {
        let span = at..at + field.padded();
        at = span.end;
        a.0[span.clone()] <= b_end[span.clone()] && b.0[span.clone()] <= a_end[span]
    })
}

fn delete_elements(
    table: &mut Table,
    name: &str,
    elements: &BTreeMap<Bytes, Element>,
) -> Result<(), Reason> {
    let set = table.sets.get_mut(name).ok_or(Reason::Missing)?;
    for key in elements.keys() {
        set.elements.remove(key).ok_or(Reason::Missing)?;
    }
    Ok(())
}

/// Base chains cannot be jumped to.
fn check_target(table: &Table, verdict: &Verdict) -> Result<(), Reason> {
    let Some(name) = verdict.chain() else {
        return Ok(());
    };
    let chain = table.chains.get(name).ok_or(Reason::Missing)?;
    refuse_if(chain.base.is_some(), Reason::Unsupported)
}

fn add_rule(table: &mut Table, name: &str, rule: &Rule) -> Result<(), Reason> {
    refuse_if(!table.chains.contains_key(name), Reason::Missing)?;
    let mut written = Registers::default();
    for expr in &rule.exprs {
        check_expr(table, expr, &mut written)?;
    }
    if let Some(chain) = table.chains.get_mut(name) {
        chain.rules.push(rule.clone());
    }
    Ok(())
}

/// Which registers hold something: reading one that was never written is refused since 6.2.
#[derive(Default)]
struct Registers([bool; 16]);

impl Registers {
    fn range(reg: Reg, len: usize) -> Result<std::ops::Range<usize>, Reason> {
        let start = usize::from(reg.0);
        let end = start + len.div_ceil(4);
        refuse_if(len == 0 || end > 16, Reason::Invalid)?;
        Ok(start..end)
    }

    fn write(&mut self, reg: Reg, len: usize) -> Result<(), Reason> {
        Self::range(reg, len)?.for_each(|i| self.0[i] = true);
        Ok(())
    }

    fn read(&self, reg: Reg, len: usize) -> Result<(), Reason> {
        let known = Self::range(reg, len)?.all(|i| self.0[i]);
        refuse_if(!known, Reason::Invalid)
    }
}

fn check_expr(table: &Table, expr: &Expr, regs: &mut Registers) -> Result<(), Reason> {
    match expr {
        Expr::Payload { dreg, len, .. } => regs.write(*dreg, *len as usize),
        Expr::Meta { dreg, key } => regs.write(*dreg, meta_width(*key)),
        Expr::Ct { dreg, key, .. } => regs.write(*dreg, ct_width(*key)),
        Expr::Fib { dreg, .. } => regs.write(*dreg, 4),
        Expr::Numgen { dreg, modulus, .. } => {
            refuse_if(*modulus == 0, Reason::Invalid)?;
            regs.write(*dreg, 4)
        }
        Expr::MetaSet { sreg, .. } => regs.read(*sreg, 4),
        Expr::Cmp { sreg, data, .. } => regs.read(*sreg, data.len()),
        Expr::Bitwise {
            sreg,
            dreg,
            mask,
            xor,
        } => {
            refuse_if(mask.len() != xor.len(), Reason::Invalid)?;
            regs.read(*sreg, mask.len())?;
            regs.write(*dreg, mask.len())
        }
        Expr::Immediate { dreg, data } => regs.write(*dreg, data.len()),
        Expr::Verdict(verdict) => check_target(table, verdict),
        Expr::Lookup {
            set,
            sreg,
            target,
            inverted,
        } => check_lookup(table, set, *sreg, *target, *inverted, regs),
        Expr::Dynset {
            set,
            key,
            data,
            timeout_ms,
            ..
        } => {
            let spec = &table.sets.get(set).ok_or(Reason::Missing)?.spec;
            refuse_if(!spec.dynamic, Reason::Unsupported)?;
            refuse_if(
                timeout_ms.is_some() && spec.timeout_ms.is_none(),
                Reason::Unsupported,
            )?;
            regs.read(*key, widths(&spec.key))?;
            match (&spec.value, data) {
                (ValueKind::Data(fields), Some(reg)) => regs.read(*reg, widths(fields)),
                (ValueKind::Nothing, None) => Ok(()),
                _ => Err(Reason::Invalid),
            }
        }
        Expr::Nat {
            family, addr, port, ..
        } => {
            refuse_if(
                table.family != Family::Inet && table.family != *family,
                Reason::Invalid,
            )?;
            regs.read(*addr, if *family == Family::Ip6 { 16 } else { 4 })?;
            port.map_or(Ok(()), |port| regs.read(port, 2))
        }
        Expr::Masquerade(_) | Expr::Reject(_) | Expr::Counter | Expr::Limit { .. } => Ok(()),
        Expr::Unknown(_) => Err(Reason::Unsupported),
    }
}

fn check_lookup(
    table: &Table,
    set: &str,
    sreg: Reg,
    target: Option<Target>,
    inverted: bool,
    regs: &mut Registers,
) -> Result<(), Reason> {
    let spec = &table.sets.get(set).ok_or(Reason::Missing)?.spec;
    regs.read(sreg, widths(&spec.key))?;
    refuse_if(inverted && target.is_some(), Reason::Invalid)?;
    match (&spec.value, target) {
        (_, None) | (ValueKind::Verdict, Some(Target::Verdict)) => Ok(()),
        (ValueKind::Data(fields), Some(Target::Reg(dreg))) => regs.write(dreg, widths(fields)),
        _ => Err(Reason::Invalid),
    }
}

/// Bytes `meta` writes.
pub(super) fn meta_width(key: super::MetaKey) -> usize {
    use super::MetaKey as K;
    match key {
        K::IifName | K::OifName => 16,
        K::OifType => 2,
        K::NfProto | K::L4Proto => 1,
        K::Mark => 4,
    }
}

/// Bytes `ct` writes.
pub(super) fn ct_width(key: super::CtKey) -> usize {
    use super::CtKey as K;
    match key {
        K::Direction | K::Protocol => 1,
        K::ProtoSrc | K::ProtoDst => 2,
        K::SrcIp6 | K::DstIp6 => 16,
        K::State | K::Status | K::Mark | K::SrcIp | K::DstIp => 4,
    }
}

/// Walks every path from every base chain, as `nft_table_validate` does before a commit.
fn validate(table: &Table) -> Result<(), Reason> {
    for chain in table.chains.values() {
        if let Some(base) = chain.base {
            refuse_if(
                base.kind == ChainKind::Nat && base.priority <= -200,
                Reason::Unsupported,
            )?;
            validate_path(table, base.kind, base.hook, &chain.rules, 0)?;
        }
    }
    Ok(())
}

fn validate_path(
    table: &Table,
    kind: ChainKind,
    hook: Hook,
    rules: &[Rule],
    depth: usize,
) -> Result<(), Reason> {
    refuse_if(depth > DEPTH, Reason::Loop)?;
    let follow = |verdict: &Verdict| match verdict.chain().and_then(|c| table.chains.get(c)) {
        Some(chain) => validate_path(table, kind, hook, &chain.rules, depth + 1),
        None => Ok(()),
    };
    for expr in rules.iter().flat_map(|r| &r.exprs) {
        match expr {
            Expr::Nat { kind: nat, .. } => {
                let here = match nat {
                    super::NatKind::Dnat => matches!(hook, Hook::Prerouting | Hook::Output),
                    super::NatKind::Snat => matches!(hook, Hook::Postrouting | Hook::Input),
                };
                refuse_if(kind != ChainKind::Nat || !here, Reason::Unsupported)?;
            }
            Expr::Masquerade(_) => {
                let here = kind == ChainKind::Nat && hook == Hook::Postrouting;
                refuse_if(!here, Reason::Unsupported)?;
            }
            // Prerouting takes it only since 5.9; refuse it, so that nothing here comes to depend on that.
            Expr::Reject(_) => refuse_if(
                !matches!(hook, Hook::Input | Hook::Forward | Hook::Output),
                Reason::Unsupported,
            )?,
            Expr::Verdict(verdict) => follow(verdict)?,
            Expr::Lookup {
                set,
                target: Some(Target::Verdict),
                ..
            } => {
                for element in table.sets.get(set).iter().flat_map(|s| s.elements.values()) {
                    if let Value::Verdict(verdict) = &element.value {
                        follow(verdict)?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
