//! What a table held before it was changed in place, for just the parts that were touched.

use std::collections::{BTreeMap, BTreeSet};

use kedge_wire::nft::{Bytes, Set, Table, Transaction, diff};

/// Touched parts and their former state.
#[derive(Debug, Clone)]
pub struct Journal {
    before: Table,
    elements: BTreeMap<String, BTreeSet<Bytes>>,
    chains: BTreeSet<String>,
    sets: BTreeSet<String>,
}

impl Journal {
    pub fn new(table: &Table) -> Self {
        Self {
            before: Table::new(table.family, &table.name),
            elements: BTreeMap::new(),
            chains: BTreeSet::new(),
            sets: BTreeSet::new(),
        }
    }

    /// A chain is about to come, go or change.
    pub fn chain(&mut self, table: &Table, name: &str) {
        if !self.chains.contains(name) {
            self.chains.insert(name.to_owned());
            copy_chain(table, &mut self.before, name);
        }
    }

    /// A set is about to come or go.
    pub fn set(&mut self, table: &Table, name: &str) {
        if !self.sets.contains(name) {
            self.sets.insert(name.to_owned());
            copy_set(table, &mut self.before, name);
        }
    }

    /// An element is about to come, go or change.
    pub fn element(&mut self, table: &Table, set: &str, key: &Bytes) {
        self.set(table, set);
        let touched = match self.elements.get_mut(set) {
            Some(touched) => touched,
            None => self.elements.entry(set.to_owned()).or_default(),
        };
        if touched.insert(key.clone()) {
            copy_element(table, &mut self.before, set, key);
        }
    }

    /// The way from the state before to `table`.
    pub fn transaction(self, table: &Table) -> Transaction {
        let mut after = Table::new(table.family, &table.name);
        for name in &self.chains {
            copy_chain(table, &mut after, name);
        }
        for name in &self.sets {
            copy_set(table, &mut after, name);
        }
        for (set, keys) in &self.elements {
            for key in keys {
                copy_element(table, &mut after, set, key);
            }
        }
        diff(Some(&self.before), &after)
    }
}

fn copy_chain(from: &Table, to: &mut Table, name: &str) {
    if let Some(chain) = from.chains.get(name) {
        to.chains.insert(name.to_owned(), chain.clone());
    }
}

/// The set alone; its elements are copied one by one.
fn copy_set(from: &Table, to: &mut Table, name: &str) {
    if let Some(set) = from.sets.get(name) {
        let empty = Set {
            spec: set.spec.clone(),
            elements: BTreeMap::new(),
        };
        to.sets.insert(name.to_owned(), empty);
    }
}

fn copy_element(from: &Table, to: &mut Table, set: &str, key: &Bytes) {
    let element = from.sets.get(set).and_then(|s| s.elements.get(key));
    if let (Some(element), Some(set)) = (element, to.sets.get_mut(set)) {
        set.elements.insert(key.clone(), element.clone());
    }
}
