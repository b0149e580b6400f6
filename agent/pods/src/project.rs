//! Which project (of the kernel's project quotas) the files of a disk-backed emptyDir belong to.
//!
//! In: what the volume's directory and the file system's quota records say. Out: whether to give it a project, and which. The kernel is the
//! only memory: a directory carries its own id, and an id is in use while anything is charged to it or limits are set for it. A volume's own
//! directory is one inode, so an id is free again exactly when the last file of its volume is gone, those deleted but still open included;
//! there is no list of ids that could disagree with the disk after a power cut.
//!
//! Others use project quotas too (image builders and nested container engines count up from 1 or from the id they find, upstream's kubelet
//! from 1 048 577): ids here are from a range of our own, and one that somebody uses all the same is passed over like any other.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};

/// The range's first id: "KE" in its upper half.
pub const FIRST: u32 = 0x4b45_0000;
/// So many ids: far more than volumes fit on a node.
pub const COUNT: u32 = 1 << 16;
/// The range's last id.
pub const LAST: u32 = FIRST + (COUNT - 1);

/// What a volume's directory needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It has a project of ours.
    Has,
    /// It is to get one.
    Assign,
    /// It belongs to somebody else's project: left alone, and walked.
    Foreign,
    /// It has files that no project would count: walked.
    Filled,
}

/// Judges a directory by its project id (0: none) and whether anything is in it.
pub fn judge(id: u32, empty: bool) -> Verdict {
    match (id, empty) {
        (FIRST..=LAST, _) => Verdict::Has,
        (0, true) => Verdict::Assign,
        (0, false) => Verdict::Filled,
        _ => Verdict::Foreign,
    }
}

/// Whether an id is from the range.
pub fn is_ours(id: u32) -> bool {
    (FIRST..=LAST).contains(&id)
}

/// Where the search for a volume's id begins: spread, so that an id is not used again right after its volume went.
pub fn seed(place: &str) -> u32 {
    let mut hasher = std::collections::hash_map::DefaultHasher::new();
    place.hash(&mut hasher);
    u32::try_from(hasher.finish() % u64::from(COUNT)).unwrap_or(0)
}

/// A free id: the first from `seed` on, round the range. `None`: all are in use.
pub fn choose(seed: u32, in_use: &BTreeSet<u32>) -> Option<u32> {
    let round = (0..COUNT).map(|step| FIRST + (seed % COUNT + step) % COUNT);
    round.into_iter().find(|id| !in_use.contains(id))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_chosen_id_is_ours_free_and_the_first_from_the_seed(
            seed in any::<u32>(),
            // Dense near the seed, so that the search has to go on, and round the end.
            offsets in proptest::collection::btree_set(0u32..300, 0..300),
            others in proptest::collection::btree_set(any::<u32>(), 0..20),
        ) {
            let at = |offset: u32| FIRST + (seed % COUNT + offset) % COUNT;
            let mut in_use: BTreeSet<u32> = offsets.iter().map(|o| at(*o)).collect();
            in_use.extend(others);
            let id = choose(seed, &in_use).unwrap();
            prop_assert!(is_ours(id) && !in_use.contains(&id));
            let first = (0..COUNT).map(at).find(|id| !in_use.contains(id));
            prop_assert_eq!(Some(id), first);
            // Two volumes in a row never share one.
            in_use.insert(id);
            prop_assert_ne!(choose(seed, &in_use), Some(id));
        }
    }

    #[test]
    fn a_full_range_gives_the_last_one_and_then_none() {
        let mut in_use: BTreeSet<u32> = (FIRST..=LAST).collect();
        assert_eq!(choose(seed("x"), &in_use), None);
        in_use.remove(&(FIRST + 7));
        assert_eq!(choose(COUNT - 1, &in_use), Some(FIRST + 7));
    }

    #[test]
    fn only_an_empty_directory_of_nobody_gets_a_project() {
        assert_eq!(judge(0, true), Verdict::Assign);
        assert_eq!(judge(0, false), Verdict::Filled);
        for id in [FIRST, LAST] {
            assert_eq!(judge(id, true), Verdict::Has);
            assert_eq!(judge(id, false), Verdict::Has);
        }
        for id in [1, 1_048_577, FIRST - 1, LAST + 1, u32::MAX] {
            assert_eq!(judge(id, true), Verdict::Foreign);
        }
    }
}
