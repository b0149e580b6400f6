//! What changes one table into another, as a list of operations the kernel takes in one atomic batch.
//!
//! In: `applied` (what the kernel holds; `None` when it holds no such table) and `desired`. Out: a [`Transaction`], empty when
//! they agree. `fake::Kernel` applying `diff(a, b)` to `a` gives `b`. Elements of dynamic sets belong to packets: neither compared nor touched.
//!
//! The order inside a transaction is what lets every reference exist when it is used: new sets and chains, then elements that
//! go, elements that come, rules, and last what nothing refers to any more.

use std::collections::BTreeMap;
use std::fmt;

use super::{Base, Bytes, Element, Family, Rule, Set, SetSpec, Table};

/// Operations on one table, applied all or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    pub family: Family,
    pub table: String,
    pub ops: Vec<Op>,
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    AddTable,
    DeleteTable,
    AddSet {
        name: String,
        spec: SetSpec,
    },
    DeleteSet(String),
    AddChain {
        name: String,
        base: Option<Base>,
    },
    DeleteChain(String),
    /// Removes all rules of a chain.
    FlushChain(String),
    /// Appends a rule to a chain.
    AddRule {
        chain: String,
        rule: Rule,
    },
    AddElements {
        set: String,
        elements: BTreeMap<Bytes, Element>,
    },
    DeleteElements {
        set: String,
        elements: BTreeMap<Bytes, Element>,
    },
}

impl Transaction {
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// How many elements come and go: the size that matters in practice.
    pub fn element_changes(&self) -> usize {
        let count = |op: &Op| match op {
            Op::AddElements { elements, .. } | Op::DeleteElements { elements, .. } => {
                elements.len()
            }
            _ => 0,
        };
        self.ops.iter().map(count).sum()
    }
}

impl fmt::Display for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&super::text::transaction(self))
    }
}

/// The transaction that removes a whole table.
pub fn remove(family: Family, table: &str) -> Transaction {
    Transaction {
        family,
        table: table.to_owned(),
        ops: vec![Op::DeleteTable],
    }
}

/// The transaction from `applied` to `desired`. Both must be of the same family and name.
pub fn diff(applied: Option<&Table>, desired: &Table) -> Transaction {
    let ops = match applied {
        None => create(desired),
        Some(applied) if must_replace(applied, desired) => {
            let mut ops = vec![Op::DeleteTable];
            ops.extend(create(desired));
            ops
        }
        Some(applied) => change(applied, desired),
    };
    Transaction {
        family: desired.family,
        table: desired.name.clone(),
        ops,
    }
}

fn create(desired: &Table) -> Vec<Op> {
    let mut ops = vec![Op::AddTable];
    ops.extend(change(&Table::new(desired.family, &desired.name), desired));
    ops
}

/// A set's type or a base chain's hook cannot be changed in place, and what refers to them may be everywhere: the rare case is
/// answered by replacing the table, still within one batch.
fn must_replace(applied: &Table, desired: &Table) -> bool {
    let set_changed =
        |(name, set): (&String, &Set)| desired.sets.get(name).is_some_and(|d| d.spec != set.spec);
    let chain_changed = |name: &String| {
        let base = |t: &Table| t.chains.get(name).map(|c| c.base);
        desired.chains.contains_key(name) && base(applied) != base(desired)
    };
    applied.sets.iter().any(set_changed) || applied.chains.keys().any(chain_changed)
}

fn change(applied: &Table, desired: &Table) -> Vec<Op> {
    let mut ops = Vec::new();
    for (name, set) in &desired.sets {
        if !applied.sets.contains_key(name) {
            ops.push(Op::AddSet {
                name: name.clone(),
                spec: set.spec.clone(),
            });
        }
    }
    for (name, chain) in &desired.chains {
        if !applied.chains.contains_key(name) {
            ops.push(Op::AddChain {
                name: name.clone(),
                base: chain.base,
            });
        }
    }
    flush_changed_chains(applied, desired, &mut ops);
    delete_elements(applied, desired, &mut ops);
    add_elements(applied, desired, &mut ops);
    add_rules(applied, desired, &mut ops);
    for name in applied.chains.keys() {
        if !desired.chains.contains_key(name) {
            ops.push(Op::DeleteChain(name.clone()));
        }
    }
    for name in applied.sets.keys() {
        if !desired.sets.contains_key(name) {
            ops.push(Op::DeleteSet(name.clone()));
        }
    }
    ops
}

fn same_rules(applied: &Table, desired: &Table, name: &str) -> bool {
    let rules = |t: &Table| -> Vec<Rule> {
        t.chains
            .get(name)
            .map(|c| c.rules.clone())
            .unwrap_or_default()
    };
    rules(applied) == rules(desired)
}

/// A chain holds a handful of rules, so one that differs is written anew. Chains that go are flushed first, because the rules
/// of one may jump to another.
fn flush_changed_chains(applied: &Table, desired: &Table, ops: &mut Vec<Op>) {
    for (name, chain) in &applied.chains {
        if !chain.rules.is_empty() && !same_rules(applied, desired, name) {
            ops.push(Op::FlushChain(name.clone()));
        }
    }
}

fn add_rules(applied: &Table, desired: &Table, ops: &mut Vec<Op>) {
    for (name, chain) in &desired.chains {
        if same_rules(applied, desired, name) {
            continue;
        }
        ops.extend(chain.rules.iter().map(|rule| Op::AddRule {
            chain: name.clone(),
            rule: rule.clone(),
        }));
    }
}

fn delete_elements(applied: &Table, desired: &Table, ops: &mut Vec<Op>) {
    for (name, set) in &applied.sets {
        if set.spec.dynamic {
            continue;
        }
        let wanted = desired.sets.get(name).map(|s| &s.elements);
        let elements = missing_from(&set.elements, wanted);
        if !elements.is_empty() {
            ops.push(Op::DeleteElements {
                set: name.clone(),
                elements,
            });
        }
    }
}

fn add_elements(applied: &Table, desired: &Table, ops: &mut Vec<Op>) {
    for (name, set) in &desired.sets {
        if set.spec.dynamic {
            continue;
        }
        let present = applied.sets.get(name).map(|s| &s.elements);
        let elements = missing_from(&set.elements, present);
        if !elements.is_empty() {
            ops.push(Op::AddElements {
                set: name.clone(),
                elements,
            });
        }
    }
}

/// The elements of `these` that `those` lacks or holds with another value.
fn missing_from(
    these: &BTreeMap<Bytes, Element>,
    those: Option<&BTreeMap<Bytes, Element>>,
) -> BTreeMap<Bytes, Element> {
    let Some(those) = those else {
        return these.clone();
    };
    // Both are sorted: one walk instead of a look-up for each of tens of thousands of keys.
    let mut rest = those.iter().peekable();
    let mut missing = BTreeMap::new();
    for (key, element) in these {
        while rest.next_if(|(k, _)| *k < key).is_some() {}
        let same = rest.peek().is_some_and(|(k, e)| *k == key && *e == element);
        if !same {
            missing.insert(key.clone(), element.clone());
        }
    }
    missing
}

#[cfg(test)]
mod tests;
