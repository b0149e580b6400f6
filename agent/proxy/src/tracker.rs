//! What changed between two snapshots, Service by Service.
//!
//! In: [`Inputs`], one after the other. Out: the names of Services to plan again. Unchanged objects share their `Arc`, so finding
//! the one that changed among ten thousand compares pointers.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::{Inputs, ServiceInput, ServiceName, SliceInput, SliceName};

/// The last snapshot and its slices by Service.
#[derive(Debug, Clone, Default)]
pub struct Tracker {
    seen: Arc<Inputs>,
    slices: BTreeMap<ServiceName, BTreeMap<SliceName, Arc<SliceInput>>>,
}

impl Tracker {
    /// Takes the next snapshot and tells which Services it changes: those that came, went or changed, and those of slices that did.
    pub fn next(&mut self, inputs: &Arc<Inputs>) -> BTreeSet<ServiceName> {
        let seen = std::mem::replace(&mut self.seen, inputs.clone());
        let mut changed: BTreeSet<ServiceName> = differences(&seen.services, &inputs.services)
            .cloned()
            .collect();
        for name in differences(&seen.slices, &inputs.slices) {
            if let Some(old) = seen.slices.get(name) {
                changed.insert(old.service.clone());
                self.forget(old);
            }
            if let Some(new) = inputs.slices.get(name) {
                changed.insert(new.service.clone());
                let slices = self.slices.entry(new.service.clone()).or_default();
                slices.insert(name.clone(), new.clone());
            }
        }
        changed
    }

    fn forget(&mut self, slice: &SliceInput) {
        if let Some(slices) = self.slices.get_mut(&slice.service) {
            slices.remove(&slice.name);
            if slices.is_empty() {
                self.slices.remove(&slice.service);
            }
        }
    }

    pub fn service(&self, name: &ServiceName) -> Option<&ServiceInput> {
        self.seen.services.get(name).map(Arc::as_ref)
    }

    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.seen.services.keys()
    }

    /// The slices of a Service, by name.
    pub fn slices(&self, name: &ServiceName) -> Vec<&SliceInput> {
        let slices = self.slices.get(name).into_iter();
        slices.flat_map(BTreeMap::values).map(Arc::as_ref).collect()
    }
}

/// Keys whose value came, went or changed.
fn differences<'a, K: Ord, V: PartialEq>(
    old: &'a BTreeMap<K, Arc<V>>,
    new: &'a BTreeMap<K, Arc<V>>,
) -> impl Iterator<Item = &'a K> {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    std::iter::from_fn(move || {
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => return None,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((a, _)), Some((b, _))) => a.cmp(b),
            };
            match order {
                Ordering::Less => return old.next().map(|(k, _)| k),
                Ordering::Greater => return new.next().map(|(k, _)| k),
                Ordering::Equal => {
                    let pair = old.next().zip(new.next());
                    if let Some(((key, a), (_, b))) = pair
                        && !Arc::ptr_eq(a, b)
                        && a != b
                    {
                        return Some(key);
                    }
                }
            }
        }
    })
}
