//! The binary lists that kmod's `modprobe` reads: a radix tree in a file (libkmod-index.h, version 2.1).
//!
//! In: keys with values. Out: the file's bytes, laid out as `depmod` does (priorities follow names here, the kernel's link order there). Pods bring their own kmod and find the node's modules
//! through these; busybox reads the text lists. Big endian; a node is written after its children, and a reference to it
//! carries in its upper bits which parts it has.

use std::collections::BTreeMap;

const MAGIC: u32 = 0xb007_f457;
const VERSION: u32 = 0x0002_0001;
const HAS_PREFIX: u32 = 0x8000_0000;
const HAS_VALUES: u32 = 0x4000_0000;
const HAS_CHILDREN: u32 = 0x2000_0000;

/// Keys to (priority, value), lowest priority first.
#[derive(Debug, Default)]
pub struct Index(BTreeMap<Vec<u8>, Vec<(u32, String)>>);

impl Index {
    /// Non-ASCII keys cannot be stored and are left out, as depmod does.
    pub fn insert(&mut self, key: &str, value: &str, priority: u32) {
        if !key.is_ascii() {
            return;
        }
        let values = self.0.entry(key.as_bytes().to_vec()).or_default();
        let entry = (priority, value.to_owned());
        if !values.contains(&entry) {
            values.push(entry);
            values.sort();
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for word in [MAGIC, VERSION, 0] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        let entries: Vec<Entry<'_>> = self
            .0
            .iter()
            .map(|(key, values)| (key.as_slice(), values.as_slice()))
            .collect();
        let root = write(&entries, 0, &mut out);
        out[8..12].copy_from_slice(&root.to_be_bytes());
        out
    }
}

type Entry<'a> = (&'a [u8], &'a [(u32, String)]);

/// Writes the node for `entries`, which are sorted and share their first `from` bytes; returns the reference to it.
fn write(entries: &[Entry<'_>], from: usize, out: &mut Vec<u8>) -> u32 {
    let shared = shared_prefix(entries, from);
    let end = from + shared;
    let (own, below) = match entries.split_first() {
        Some((first, rest)) if first.0.len() == end => (Some(first.1), rest),
        _ => (None, entries),
    };
    let children: Vec<(u8, u32)> = below
        .chunk_by(|a, b| a.0[end] == b.0[end])
        .map(|group| (group[0].0[end], write(group, end + 1, out)))
        .collect();
    let mut reference = out.len() as u32;
    if shared > 0 {
        reference |= HAS_PREFIX;
        out.extend_from_slice(&entries[0].0[from..end]);
        out.push(0);
    }
    if let (Some((first, _)), Some((last, _))) = (children.first(), children.last()) {
        reference |= HAS_CHILDREN;
        out.extend([*first, *last]);
        for byte in *first..=*last {
            let child = children.iter().find(|(key, _)| *key == byte);
            out.extend_from_slice(&child.map_or(0, |(_, at)| *at).to_be_bytes());
        }
    }
    if let Some(values) = own {
        reference |= HAS_VALUES;
        out.extend_from_slice(&(values.len() as u32).to_be_bytes());
        for (priority, value) in values {
            out.extend_from_slice(&priority.to_be_bytes());
            out.extend_from_slice(value.as_bytes());
            out.push(0);
        }
    }
    reference
}

/// How many bytes after `from` all keys have in common. They are sorted: the first and the last decide.
fn shared_prefix(entries: &[Entry<'_>], from: usize) -> usize {
    let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
        return 0;
    };
    // At the root a common prefix is not pulled up: depmod's root has none.
    if from == 0 {
        return 0;
    }
    let pairs = first.0[from..].iter().zip(&last.0[from..]);
    pairs.take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_tree_has_the_documented_layout() {
        let mut index = Index::default();
        index.insert("ab", "x", 1);
        index.insert("abcd", "y", 2);
        let bytes = index.bytes();
        let leaf = [&b"d\0"[..], &[0, 0, 0, 1, 0, 0, 0, 2], b"y\0"].concat();
        let inner = [
            &b"b\0cc"[..],
            &[0xc0, 0, 0, 12],
            &[0, 0, 0, 1, 0, 0, 0, 1],
            b"x\0",
        ]
        .concat();
        let root = [&b"aa"[..], &[0xe0, 0, 0, 24]].concat();
        let header = [
            &MAGIC.to_be_bytes()[..],
            &VERSION.to_be_bytes(),
            &[0x20, 0, 0, 42],
        ]
        .concat();
        assert_eq!(bytes, [header, leaf, inner, root].concat());
    }

    #[test]
    fn an_empty_index_is_a_header() {
        assert_eq!(Index::default().bytes().len(), 12);
    }
}
