//! The objects of one kind, as last seen, published as snapshots.
//!
//! In: undecoded objects from lists and watches. Out: a map of decoded values. A value that decodes equal to the one before keeps its
//! `Arc` and publishes nothing: a status-only change of a Service is no reason to compile rules.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::value::RawValue;

use super::FeedStatus;
use super::frame::{Head, HeadMeta};

/// How a kind is decoded.
pub trait Kind: Send + Sync + 'static {
    type Key: Ord + Clone + fmt::Debug + Send + Sync + 'static;
    type Item: PartialEq + fmt::Debug + Send + Sync + 'static;
    /// "Pod".
    const KIND: &'static str;

    fn key(namespace: &str, name: &str) -> Self::Key;

    /// `None`: an object that this node has no use for.
    fn decode(json: &str) -> Result<Option<Self::Item>, serde_json::Error>;
}

/// What a feed knows.
pub struct Snapshot<K: Kind> {
    pub status: FeedStatus,
    /// A whole list was read at least once (or the kind is absent, which is as good).
    pub synced: bool,
    pub items: Arc<Items<K>>,
}

/// Objects by key; unchanged ones are shared between snapshots.
pub type Items<K> = BTreeMap<<K as Kind>::Key, Arc<<K as Kind>::Item>>;

impl<K: Kind> Clone for Snapshot<K> {
    fn clone(&self) -> Self {
        Self {
            status: self.status.clone(),
            synced: self.synced,
            items: self.items.clone(),
        }
    }
}

impl<K: Kind> Default for Snapshot<K> {
    fn default() -> Self {
        Self {
            status: FeedStatus::default(),
            synced: false,
            items: Arc::default(),
        }
    }
}

impl<K: Kind> fmt::Debug for Snapshot<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("kind", &K::KIND)
            .field("status", &self.status)
            .field("synced", &self.synced)
            .field("items", &self.items)
            .finish()
    }
}

/// The working copy behind the snapshots.
pub(crate) struct Store<K: Kind> {
    items: Items<K>,
    changed: bool,
}

impl<K: Kind> Store<K> {
    pub(crate) fn new() -> Self {
        Self {
            items: BTreeMap::new(),
            changed: false,
        }
    }

    /// Takes over one object; returns its version.
    pub(crate) fn changed(&mut self, object: &RawValue) -> Result<String, serde_json::Error> {
        let head = head(object)?;
        let key = K::key(&head.namespace, &head.name);
        match decode::<K>(object, &head) {
            Some(item) => self.put(key, item),
            None => self.changed |= self.items.remove(&key).is_some(),
        }
        Ok(head.resource_version)
    }

    /// Forgets one object; returns its last version.
    pub(crate) fn deleted(&mut self, object: &RawValue) -> Result<String, serde_json::Error> {
        let head = head(object)?;
        let key = K::key(&head.namespace, &head.name);
        self.changed |= self.items.remove(&key).is_some();
        Ok(head.resource_version)
    }

    /// The whole list was read: whatever is not in `seen` is gone.
    pub(crate) fn retain(&mut self, seen: &std::collections::BTreeSet<K::Key>) {
        let before = self.items.len();
        self.items.retain(|key, _| seen.contains(key));
        self.changed |= self.items.len() != before;
    }

    /// The key of an object in a list.
    pub(crate) fn key_of(object: &RawValue) -> Result<K::Key, serde_json::Error> {
        let head = head(object)?;
        Ok(K::key(&head.namespace, &head.name))
    }

    /// The kind vanished.
    pub(crate) fn clear(&mut self) {
        self.changed |= !self.items.is_empty();
        self.items.clear();
    }

    /// A copy to publish, if anything changed since the last one.
    pub(crate) fn take_changes(&mut self) -> Option<Arc<Items<K>>> {
        std::mem::take(&mut self.changed).then(|| Arc::new(self.items.clone()))
    }

    fn put(&mut self, key: K::Key, item: K::Item) {
        match self.items.get(&key) {
            Some(same) if **same == item => {}
            _ => {
                self.items.insert(key, Arc::new(item));
                self.changed = true;
            }
        }
    }
}

/// An object that cannot be decoded is left out, loudly: one odd object must not stop a whole feed.
fn decode<K: Kind>(object: &RawValue, head: &HeadMeta) -> Option<K::Item> {
    match K::decode(object.get()) {
        Ok(item) => item,
        Err(error) => {
            tracing::error!(
                kind = K::KIND, namespace = %head.namespace, name = %head.name, version = %head.resource_version,
                %error, "cannot understand an object; it is left out"
            );
            None
        }
    }
}

fn head(object: &RawValue) -> Result<HeadMeta, serde_json::Error> {
    serde_json::from_str::<Head>(object.get()).map(|h| h.metadata)
}
