//! Groups: the unit in which objects travel, are checked and are resumed.
//!
//! An object is cut into groups of [`GROUP_BYTES`]; each is a whole subtree of the object's BLAKE3 tree, so the
//! list of the groups' hashes leads to the object's hash, and any group can be checked alone. An object of one group
//! has the object's hash itself as its group hash, and no list is sent. The arithmetic is the pixel store's
//! ([`tessera_storage::pixels`]), here in the sizes that the messages carry.

use tessera_consensus::Hash;
use tessera_consensus::ids::HashAlgorithm;
use tessera_storage::pixels::{self, ObjectHash};

pub use tessera_storage::pixels::OBJECT_BYTES_MAX;

/// Bytes of every group but the last, which may be shorter.
pub const GROUP_BYTES: usize = pixels::GROUP_BYTES as usize;

/// A group's BLAKE3 chaining value; for an object of one group, the object's hash.
pub type GroupHash = [u8; 32];

/// Groups of an object of `size` bytes, at most [`OBJECT_BYTES_MAX`]; an empty object has one, empty group.
pub fn group_count(size: u64) -> u32 {
    u32::try_from(pixels::group_count(size)).unwrap_or(u32::MAX)
}

/// Bytes of one group of an object of `size` bytes; zero for a group that it does not have.
pub fn group_bytes(size: u64, group: u32) -> usize {
    pixels::group_bytes(group.into(), size).map_or(0, |bytes| bytes as usize)
}

/// Whether an object of this hash and size can be transferred by groups.
pub fn is_transferable(hash: &Hash, size: u64) -> bool {
    hash.algorithm() == HashAlgorithm::Blake3 && size <= OBJECT_BYTES_MAX
}

/// The hash of `bytes` as group number `group` of an object of `size` bytes; `None` when they cannot be that group.
pub fn group_hash(size: u64, group: u32, bytes: &[u8]) -> Option<GroupHash> {
    pixels::group_hash(group.into(), bytes, size)
}

/// Whether `hashes` are the group hashes of the object with this hash and size.
pub fn leads_to(object: &Hash, size: u64, hashes: &[GroupHash]) -> bool {
    is_transferable(object, size) && pixels::verify_groups(&ObjectHash::blake3(*object.as_bytes()), size, hashes)
}

/// A set of an object's groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSet {
    count: u32,
    words: Vec<u64>,
}

impl GroupSet {
    /// None of `count` groups.
    pub fn none(count: u32) -> Self {
        Self { count, words: vec![0; (count as usize).div_ceil(64)] }
    }

    /// All of `count` groups.
    pub fn all(count: u32) -> Self {
        let mut set = Self::none(count);
        (0..count).for_each(|group| set.insert(group));
        set
    }

    /// Those of `count` groups that `contains` names.
    pub fn from_fn(count: u32, contains: impl Fn(u32) -> bool) -> Self {
        let mut set = Self::none(count);
        (0..count).filter(|group| contains(*group)).for_each(|group| set.insert(group));
        set
    }

    pub fn count(&self) -> u32 {
        self.count
    }

    /// Adds a group; one outside the object is ignored.
    pub fn insert(&mut self, group: u32) {
        if group < self.count {
            self.words[group as usize / 64] |= 1 << (group % 64);
        }
    }

    pub fn remove(&mut self, group: u32) {
        if group < self.count {
            self.words[group as usize / 64] &= !(1 << (group % 64));
        }
    }

    pub fn contains(&self, group: u32) -> bool {
        group < self.count && self.words[group as usize / 64] & (1 << (group % 64)) != 0
    }

    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    pub fn len(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    /// The first run of at most `longest` neighbouring groups.
    pub fn first_run(&self, longest: u32) -> Option<(u32, u32)> {
        let word = self.words.iter().position(|word| *word != 0)?;
        let first = word as u32 * 64 + self.words[word].trailing_zeros();
        let length = (0..longest).take_while(|step| first.checked_add(*step).is_some_and(|g| self.contains(g))).count();
        (length > 0).then_some((first, length as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_give_runs() {
        let mut set = GroupSet::none(130);
        [3, 4, 5, 63, 64, 129, 130].into_iter().for_each(|g| set.insert(g));
        let mut runs = Vec::new();
        while let Some((first, count)) = set.first_run(2) {
            runs.push((first, count));
            (first..first + count).for_each(|g| set.remove(g));
        }
        assert_eq!(runs, [(3, 2), (5, 1), (63, 2), (129, 1)], "130 lies outside and was ignored");
        assert!(set.is_empty() && set.first_run(0).is_none());
        assert_eq!(GroupSet::all(70).len(), 70);
    }
}
