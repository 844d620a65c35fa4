//! Names of objects, and the BLAKE3 tree under them: any 1 MiB group of a large object can be checked alone.
//!
//! The tree is BLAKE3's own, so its root is the plain BLAKE3 hash of the object. The *groups* are its subtrees of
//! [`GROUP_BYTES`] (1,024 chunks; the last may be shorter), which is bao's tree cut at chunk-group size 2^10. A receiver
//! that was given the hashes of all groups checks them against the root once ([`verify_groups`]) and then each
//! group by itself ([`group_hash`]), in any order and after any interruption. An object of one group has no tree to
//! show: its group's hash is the root.
//!
//! Functions here take bytes and hashes from peers: they answer, and never panic.

use std::fmt;
use std::str::FromStr;

use blake3::Hasher;
use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use thiserror::Error;

/// Bytes of a group. A power of two number of chunks, so that groups are subtrees.
pub const GROUP_BYTES: u64 = 1024 * 1024;

/// Largest object, bytes: 65,536 groups, whose hashes fill 2 MiB.
pub const OBJECT_BYTES_MAX: u64 = 65_536 * GROUP_BYTES;

const HASH_BYTES: usize = 32;
/// Algorithm identifier and hash.
const ENCODED_BYTES: usize = 1 + HASH_BYTES;
const BLAKE3: u8 = 1;
const BLAKE3_NAME: &str = "blake3";

/// The algorithm of an [`ObjectHash`]; the discriminant is what files hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum HashAlgorithm {
    Blake3 = BLAKE3,
}

/// The name of an object: the hash of its plaintext, with the algorithm that made it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectHash {
    algorithm: HashAlgorithm,
    hash: [u8; HASH_BYTES],
}

/// Why bytes or a text are not the name of an object.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ParseHashError {
    #[error("hash algorithm {algorithm} is not known to this version")]
    UnknownAlgorithm { algorithm: u8 },
    #[error("an object hash reads `blake3:` and 64 hexadecimal digits")]
    Malformed,
}

impl ObjectHash {
    /// The name of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self::blake3(*blake3::hash(bytes).as_bytes())
    }

    /// A BLAKE3 hash that was computed elsewhere.
    pub fn blake3(hash: [u8; HASH_BYTES]) -> Self {
        Self { algorithm: HashAlgorithm::Blake3, hash }
    }

    pub fn algorithm(&self) -> HashAlgorithm {
        self.algorithm
    }

    pub fn digest(&self) -> &[u8; HASH_BYTES] {
        &self.hash
    }

    /// Algorithm identifier and hash, 33 bytes.
    pub fn to_bytes(self) -> [u8; ENCODED_BYTES] {
        let mut bytes = [self.algorithm as u8; ENCODED_BYTES];
        bytes[1..].copy_from_slice(&self.hash);
        bytes
    }

    /// What `to_bytes` wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ParseHashError> {
        let (algorithm, hash) = bytes.split_first().ok_or(ParseHashError::Malformed)?;
        Self::from_parts(*algorithm, hash.try_into().map_err(|_| ParseHashError::Malformed)?)
    }

    pub(crate) fn from_parts(algorithm: u8, hash: [u8; HASH_BYTES]) -> Result<Self, ParseHashError> {
        match algorithm {
            BLAKE3 => Ok(Self::blake3(hash)),
            _ => Err(ParseHashError::UnknownAlgorithm { algorithm }),
        }
    }

    /// The digits alone, as file names hold them.
    pub(crate) fn hex(&self) -> String {
        hex::encode(self.hash)
    }
}

impl fmt::Display for ObjectHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{BLAKE3_NAME}:{}", self.hex())
    }
}

impl fmt::Debug for ObjectHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for ObjectHash {
    type Err = ParseHashError;

    fn from_str(text: &str) -> Result<Self, ParseHashError> {
        let digits = text.strip_prefix("blake3:").ok_or(ParseHashError::Malformed)?;
        let mut hash = [0; HASH_BYTES];
        hex::decode_to_slice(digits, &mut hash).map_err(|_| ParseHashError::Malformed)?;
        Ok(Self::blake3(hash))
    }
}

/// Number of groups of an object of `object_bytes`; an empty object has one, empty group.
pub fn group_count(object_bytes: u64) -> u64 {
    object_bytes.div_ceil(GROUP_BYTES).max(1)
}

/// Bytes of group `index`, or `None` when there is no such group.
pub fn group_bytes(index: u64, object_bytes: u64) -> Option<u64> {
    (index < group_count(object_bytes)).then(|| (object_bytes - index * GROUP_BYTES).min(GROUP_BYTES))
}

/// The hash of group `index` of an object of `object_bytes`; `None` when `bytes` can't be that group (wrong length
/// or index), so that no peer's bytes reach the hasher in a place where they have no meaning.
pub fn group_hash(index: u64, bytes: &[u8], object_bytes: u64) -> Option<[u8; 32]> {
    if group_bytes(index, object_bytes)? != bytes.len() as u64 {
        return None;
    }
    if group_count(object_bytes) == 1 {
        return Some(*blake3::hash(bytes).as_bytes());
    }
    Some(Hasher::new().set_input_offset(index * GROUP_BYTES).update(bytes).finalize_non_root())
}

/// True when `groups` are the group hashes of the object named `root`, whose length is `object_bytes`.
pub fn verify_groups(root: &ObjectHash, object_bytes: u64, groups: &[[u8; 32]]) -> bool {
    object_bytes <= OBJECT_BYTES_MAX
        && group_count(object_bytes) == groups.len() as u64
        && merge_root(groups) == Some(*root.digest())
}

/// The root over all groups; `None` when there is no group.
fn merge_root(groups: &[[u8; 32]]) -> Option<[u8; 32]> {
    match groups {
        [] => None,
        [root] => Some(*root),
        _ => {
            let (left, right) = groups.split_at(left_groups(groups.len()));
            Some(*merge_subtrees_root(&merge(left), &merge(right), Mode::Hash).as_bytes())
        }
    }
}

/// The chaining value over one or more groups. As deep as the logarithm of their number.
fn merge(groups: &[[u8; 32]]) -> ChainingValue {
    match groups {
        [only] => *only,
        _ => {
            let (left, right) = groups.split_at(left_groups(groups.len()));
            merge_subtrees_non_root(&merge(left), &merge(right), Mode::Hash)
        }
    }
}

/// BLAKE3 gives the left subtree the largest power of two that leaves something for the right.
fn left_groups(count: usize) -> usize {
    count.div_ceil(2).next_power_of_two()
}

/// Hashes an object as it comes, with the hashes of its groups.
pub(crate) struct GroupHasher {
    groups: Vec<[u8; 32]>,
    current: Hasher,
}

impl GroupHasher {
    pub(crate) fn new() -> Self {
        Self { groups: Vec::new(), current: Hasher::new() }
    }

    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            // A full group is closed only when more comes: the only group of an object is hashed as its root.
            if self.current.count() == GROUP_BYTES {
                self.groups.push(self.current.finalize_non_root());
                self.current = Hasher::new();
                self.current.set_input_offset(self.groups.len() as u64 * GROUP_BYTES);
            }
            let room = (GROUP_BYTES - self.current.count()) as usize;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.current.update(now);
            bytes = later;
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.groups.len() as u64 * GROUP_BYTES + self.current.count()
    }

    /// The object's name and the hashes of its groups.
    pub(crate) fn finish(mut self) -> (ObjectHash, Vec<[u8; 32]>) {
        let last =
            if self.groups.is_empty() { *self.current.finalize().as_bytes() } else { self.current.finalize_non_root() };
        self.groups.push(last);
        let root = merge_root(&self.groups).unwrap_or(last);
        (ObjectHash::blake3(root), self.groups)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|position| (position * 31 % 251) as u8).collect()
    }

    fn groups_of(bytes: &[u8]) -> Vec<[u8; 32]> {
        let length = bytes.len() as u64;
        (0..group_count(length))
            .map(|index| {
                let from = (index * GROUP_BYTES) as usize;
                let to = bytes.len().min(from + GROUP_BYTES as usize);
                group_hash(index, &bytes[from..to], length).unwrap()
            })
            .collect()
    }

    #[test]
    fn root_and_groups_agree_with_plain_blake3_at_every_boundary() {
        let group = GROUP_BYTES as usize;
        for bytes in [0, 1, 1024, 1025, group - 1, group, group + 1, 2 * group, 3 * group, 5 * group + 7] {
            let object = sample(bytes);
            let mut hasher = GroupHasher::new();
            object.chunks(100_003).for_each(|piece| hasher.update(piece));
            assert_eq!(hasher.bytes(), bytes as u64);
            let (hash, groups) = hasher.finish();
            assert_eq!(hash, ObjectHash::of(&object), "{bytes} bytes");
            assert_eq!(groups, groups_of(&object), "{bytes} bytes");
            assert!(verify_groups(&hash, bytes as u64, &groups), "{bytes} bytes");
        }
    }

    #[test]
    fn wrong_groups_are_refused() {
        let object = sample(3 * GROUP_BYTES as usize + 5);
        let length = object.len() as u64;
        let (hash, groups) = (ObjectHash::of(&object), groups_of(&object));
        let mut flipped = groups.clone();
        flipped[2][0] ^= 1;
        let mut swapped = groups.clone();
        swapped.swap(0, 1);
        assert!(!verify_groups(&hash, length, &flipped));
        assert!(!verify_groups(&hash, length, &swapped));
        assert!(!verify_groups(&hash, length, &groups[..3]));
        assert!(!verify_groups(&hash, length, &[]));
        assert!(!verify_groups(&hash, length - GROUP_BYTES, &groups));
        assert!(!verify_groups(&hash, u64::MAX, &groups));
        assert_eq!(group_hash(4, &object[..5], length), None);
        assert_eq!(group_hash(3, &object[..6], length), None);
        assert_eq!(group_hash(u64::MAX, &[], 0), None);
        assert_ne!(group_hash(3, &object[..5], length), Some(groups[3]));
    }

    #[test]
    fn names_are_written_and_read_back() {
        let hash = ObjectHash::of(b"abc");
        assert_eq!(ObjectHash::from_bytes(&hash.to_bytes()), Ok(hash));
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert_eq!(hash.to_bytes()[0], 1);
        let mut unknown = hash.to_bytes();
        unknown[0] = 9;
        assert_eq!(ObjectHash::from_bytes(&unknown), Err(ParseHashError::UnknownAlgorithm { algorithm: 9 }));
        for text in ["", "blake3:", "blake3:00", "sha256:00"] {
            assert_eq!(text.parse::<ObjectHash>(), Err(ParseHashError::Malformed), "{text}");
        }
    }
}
