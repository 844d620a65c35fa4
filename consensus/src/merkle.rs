//! The append-only Merkle tree over the ledger's leaves: RFC 6962 section 2.1 with SHA-256.
//!
//! What it is: hashing, the compact range that a log needs in order to grow ([`Frontier`]), proofs from stored nodes
//! ([`NodeStore`]), and their verification (the algorithms of RFC 9162, sections 2.1.3.2 and 2.1.4.2). What it is
//! not: storage, tiles, or trust in a root; a root is believed under a certified checkpoint only.
//!
//! A *node* is a complete subtree: `(level, index)` covers the leaves `index << level` up to `(index + 1) << level`.
//! Only complete subtrees are ever stored, so a stored node never changes; what is ragged at the right edge is
//! folded together on demand.
//!
//! Invariants:
//! 1. A frontier of size n has as many peaks as n has one bits, from the largest subtree (left) to the smallest.
//! 2. A verifier accepts exactly one proof for given sizes, index, leaf and roots; it never panics.

use serde::{Deserialize, Serialize};

use crate::ids::{Hash, HashAlgorithm, LedgerIndex, LedgerSize};

#[cfg(test)]
mod tests;

/// Leaves of the largest tree. Keeps every proof within [`PROOF_HASHES_MAX`].
pub const TREE_LEAVES_MAX: u64 = 1 << 62;
/// Hashes in the longest proof that a verifier looks at.
pub const PROOF_HASHES_MAX: usize = 64;

/// A complete subtree that a new leaf completed: level, index, hash.
pub type CompletedNode = (u8, u64, Hash);

/// The hash of a leaf's bytes. The prefix keeps a leaf from passing for a node.
pub fn leaf_hash(leaf: &[u8]) -> Hash {
    Hash::sha256(&[&[0x00], leaf])
}

/// The hash of two neighbouring subtrees.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Hash::sha256(&[&[0x01], left.as_bytes(), right.as_bytes()])
}

/// The root of the tree without leaves.
pub fn empty_root() -> Hash {
    Hash::sha256(&[])
}

/// The complete subtrees of a stored tree.
pub trait NodeStore {
    type Error;
    /// The hash of the complete subtree `(level, index)`. It is asked only for subtrees within the tree's size.
    fn node(&self, level: u8, index: u64) -> Result<Hash, Self::Error>;
}

impl<S: NodeStore + ?Sized> NodeStore for &S {
    type Error = S::Error;
    fn node(&self, level: u8, index: u64) -> Result<Hash, Self::Error> {
        (**self).node(level, index)
    }
}

/// Why a proof could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProveError<E> {
    #[error("leaf {index} is not in a tree of {size} leaves")]
    NotInTree { index: u64, size: u64 },
    #[error("a tree of {to} leaves does not extend one of {from}")]
    NotAnExtension { from: u64, to: u64 },
    #[error("a tree has at most 2^62 leaves, this one {0}")]
    TooLarge(u64),
    #[error("a node of the tree could not be read")]
    Store(#[source] E),
}

/// Why a proof was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    #[error("leaf {index} is not in a tree of {size} leaves")]
    NotInTree { index: u64, size: u64 },
    #[error("a tree of {to} leaves does not extend one of {from}")]
    NotAnExtension { from: u64, to: u64 },
    #[error("a tree has at most 2^62 leaves, this one {0}")]
    TooLarge(u64),
    #[error("the proof has {0} hashes, which does not fit these sizes")]
    ProofLength(usize),
    #[error("the tree is hashed with SHA-256; the proof or a root is not")]
    Algorithm,
    #[error("the proof does not lead to the smaller tree's root")]
    OldRoot,
    #[error("the proof does not lead to the root")]
    Root,
}

/// What a log keeps in memory to grow: its size and the roots of the complete subtrees that make it up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "FrontierWire", into = "FrontierWire")]
pub struct Frontier {
    size: u64,
    /// Left (largest) to right (smallest).
    peaks: Vec<Hash>,
}

impl Default for Frontier {
    fn default() -> Self {
        Self::new()
    }
}

impl Frontier {
    /// The tree without leaves.
    pub const fn new() -> Self {
        Self { size: 0, peaks: Vec::new() }
    }

    /// The frontier of a stored tree of `size` leaves.
    pub fn load<S: NodeStore>(store: &S, size: LedgerSize) -> Result<Self, ProveError<S::Error>> {
        check_size(size.0).map_err(ProveError::TooLarge)?;
        let peaks = range_peaks(0, size.0).map(|(level, index)| store.node(level, index)).collect::<Result<_, _>>();
        Ok(Self { size: size.0, peaks: peaks.map_err(ProveError::Store)? })
    }

    pub const fn size(&self) -> LedgerSize {
        LedgerSize(self.size)
    }

    /// Appends a leaf. Returns the subtrees that it completes, the leaf itself (level 0) first; they are to be stored.
    ///
    /// # Panics
    /// When the tree is full, at 2^62 leaves, which no ledger reaches.
    pub fn push(&mut self, leaf_hash: Hash) -> Vec<CompletedNode> {
        assert!(self.size < TREE_LEAVES_MAX, "the Merkle tree is full");
        debug_assert_eq!(leaf_hash.algorithm(), HashAlgorithm::Sha256);
        let mut completed = vec![(0, self.size, leaf_hash)];
        let mut hash = leaf_hash;
        // Each trailing one bit of the old size is a peak that now has a right sibling of the same height.
        for level in 1..=self.size.trailing_ones() as u8 {
            let left = self.peaks.pop().expect("invariant 1: a peak for each one bit of the size");
            hash = node_hash(&left, &hash);
            completed.push((level, self.size >> level, hash));
        }
        self.peaks.push(hash);
        self.size += 1;
        completed
    }

    pub fn root(&self) -> Hash {
        fold_peaks(self.peaks.iter().copied()).unwrap_or_else(empty_root)
    }
}

#[derive(Serialize, Deserialize)]
struct FrontierWire {
    size: u64,
    peaks: Vec<Hash>,
}

impl From<Frontier> for FrontierWire {
    fn from(frontier: Frontier) -> Self {
        Self { size: frontier.size, peaks: frontier.peaks }
    }
}

impl TryFrom<FrontierWire> for Frontier {
    type Error = &'static str;
    fn try_from(wire: FrontierWire) -> Result<Self, Self::Error> {
        if wire.size > TREE_LEAVES_MAX || wire.peaks.len() != wire.size.count_ones() as usize {
            return Err("the frontier's peaks do not fit its size");
        }
        if !all_sha256(&wire.peaks) {
            return Err("the frontier's peaks are not SHA-256");
        }
        Ok(Self { size: wire.size, peaks: wire.peaks })
    }
}

/// The root of the stored tree's first `size` leaves.
pub fn root_at<S: NodeStore>(store: &S, size: LedgerSize) -> Result<Hash, ProveError<S::Error>> {
    check_size(size.0).map_err(ProveError::TooLarge)?;
    if size.0 == 0 {
        return Ok(empty_root());
    }
    range_root(store, 0, size.0).map_err(ProveError::Store)
}

/// The path from leaf `index` to the root of the first `size` leaves (RFC 6962 section 2.1.1), from the leaf upwards.
pub fn inclusion_proof<S: NodeStore>(
    store: &S,
    index: LedgerIndex,
    size: LedgerSize,
) -> Result<Vec<Hash>, ProveError<S::Error>> {
    check_size(size.0).map_err(ProveError::TooLarge)?;
    if !size.contains(index) {
        return Err(ProveError::NotInTree { index: index.0, size: size.0 });
    }
    let (mut low, mut high) = (0, size.0);
    let mut proof = Vec::new();
    while high - low > 1 {
        let middle = low + split(high - low);
        let sibling = if index.0 < middle { (middle, high) } else { (low, middle) };
        proof.push(range_root(store, sibling.0, sibling.1).map_err(ProveError::Store)?);
        if index.0 < middle { high = middle } else { low = middle }
    }
    proof.reverse();
    Ok(proof)
}

/// That the first `to` leaves begin with the first `from` leaves (RFC 6962 section 2.1.2). Empty when the sizes are
/// equal or `from` is 0, since there is nothing to prove then.
pub fn consistency_proof<S: NodeStore>(
    store: &S,
    from: LedgerSize,
    to: LedgerSize,
) -> Result<Vec<Hash>, ProveError<S::Error>> {
    check_size(to.0).map_err(ProveError::TooLarge)?;
    if from > to {
        return Err(ProveError::NotAnExtension { from: from.0, to: to.0 });
    }
    if from.0 == 0 || from == to {
        return Ok(Vec::new());
    }
    let (mut low, mut high) = (0, to.0);
    let mut proof = Vec::new();
    while high != from.0 {
        let middle = low + split(high - low);
        let sibling = if from.0 <= middle { (middle, high) } else { (low, middle) };
        proof.push(range_root(store, sibling.0, sibling.1).map_err(ProveError::Store)?);
        if from.0 <= middle { high = middle } else { low = middle }
    }
    // From the left edge on, the verifier knows the old tree's last subtree: it is the old root itself.
    if low != 0 {
        proof.push(range_root(store, low, high).map_err(ProveError::Store)?);
    }
    proof.reverse();
    Ok(proof)
}

/// Verifies that `leaf_hash` is leaf `index` of the tree of `size` leaves whose root is `root`.
pub fn verify_inclusion(
    leaf_hash: &Hash,
    index: LedgerIndex,
    size: LedgerSize,
    proof: &[Hash],
    root: &Hash,
) -> Result<(), VerifyError> {
    check_size(size.0).map_err(VerifyError::TooLarge)?;
    if !size.contains(index) {
        return Err(VerifyError::NotInTree { index: index.0, size: size.0 });
    }
    check_proof(proof, &[leaf_hash, root])?;
    let (mut node, mut last) = (index.0, size.0 - 1);
    let mut hash = *leaf_hash;
    for sibling in proof {
        if last == 0 {
            return Err(VerifyError::ProofLength(proof.len()));
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            // A node at the ragged right edge has no sibling on the levels up to its next left turn. The shift is
            // below 64: `node` is odd or equal to `last`, which is not 0.
            let skip = node.trailing_zeros();
            (node, last) = (node >> skip, last >> skip);
        } else {
            hash = node_hash(&hash, sibling);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    if last != 0 {
        return Err(VerifyError::ProofLength(proof.len()));
    }
    if hash == *root { Ok(()) } else { Err(VerifyError::Root) }
}

/// Verifies that the tree of `to` leaves with root `to_root` begins with the tree of `from` leaves with `from_root`.
pub fn verify_consistency(
    from: LedgerSize,
    from_root: &Hash,
    to: LedgerSize,
    to_root: &Hash,
    proof: &[Hash],
) -> Result<(), VerifyError> {
    check_size(to.0).map_err(VerifyError::TooLarge)?;
    if from > to {
        return Err(VerifyError::NotAnExtension { from: from.0, to: to.0 });
    }
    check_proof(proof, &[from_root, to_root])?;
    if from.0 == 0 || from == to {
        return verify_trivial(from, from_root, to_root, proof);
    }
    // The old tree's last complete subtree: the old root itself when that tree is complete, else the first hash.
    let (first, rest) = if from.0.is_power_of_two() {
        (*from_root, proof)
    } else {
        let (first, rest) = proof.split_first().ok_or(VerifyError::ProofLength(0))?;
        (*first, rest)
    };
    let skip = (from.0 - 1).trailing_ones();
    let (mut node, mut last) = ((from.0 - 1) >> skip, (to.0 - 1) >> skip);
    let (mut old, mut new) = (first, first);
    for sibling in rest {
        if last == 0 {
            return Err(VerifyError::ProofLength(proof.len()));
        }
        if node & 1 == 1 || node == last {
            old = node_hash(sibling, &old);
            new = node_hash(sibling, &new);
            let skip = node.trailing_zeros();
            (node, last) = (node >> skip, last >> skip);
        } else {
            new = node_hash(&new, sibling);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    if last != 0 {
        return Err(VerifyError::ProofLength(proof.len()));
    }
    if old != *from_root {
        return Err(VerifyError::OldRoot);
    }
    if new == *to_root { Ok(()) } else { Err(VerifyError::Root) }
}

/// The two cases without hashes: every tree begins with the empty one, and with itself.
fn verify_trivial(from: LedgerSize, from_root: &Hash, to_root: &Hash, proof: &[Hash]) -> Result<(), VerifyError> {
    if !proof.is_empty() {
        return Err(VerifyError::ProofLength(proof.len()));
    }
    let expected = if from.0 == 0 { empty_root() } else { *to_root };
    if *from_root == expected { Ok(()) } else { Err(VerifyError::OldRoot) }
}

fn check_size(size: u64) -> Result<(), u64> {
    if size <= TREE_LEAVES_MAX { Ok(()) } else { Err(size) }
}

fn check_proof(proof: &[Hash], ends: &[&Hash]) -> Result<(), VerifyError> {
    if proof.len() > PROOF_HASHES_MAX {
        return Err(VerifyError::ProofLength(proof.len()));
    }
    if !all_sha256(proof) || !all_sha256(ends.iter().copied()) {
        return Err(VerifyError::Algorithm);
    }
    Ok(())
}

fn all_sha256<'a>(hashes: impl IntoIterator<Item = &'a Hash>) -> bool {
    hashes.into_iter().all(|hash| hash.algorithm() == HashAlgorithm::Sha256)
}

/// The largest power of two below `leaves`, which is at least 2: where RFC 6962 parts a tree.
fn split(leaves: u64) -> u64 {
    1 << (leaves - 1).ilog2()
}

/// The complete subtrees `(level, index)` that make up the leaves `low..high`, largest first. `low` must be a multiple
/// of the smallest power of two that is not below `high - low`, as it is for every range that RFC 6962 parts a tree
/// into.
fn range_peaks(low: u64, high: u64) -> impl Iterator<Item = (u8, u64)> {
    let mut at = low;
    std::iter::from_fn(move || {
        let level = (high - at).checked_ilog2()?;
        let peak = (level as u8, at >> level);
        at += 1 << level;
        Some(peak)
    })
}

/// The root over the leaves `low..high`, which are not none.
fn range_root<S: NodeStore>(store: &S, low: u64, high: u64) -> Result<Hash, S::Error> {
    let peaks: Vec<Hash> =
        range_peaks(low, high).map(|(level, index)| store.node(level, index)).collect::<Result<_, _>>()?;
    Ok(fold_peaks(peaks.into_iter()).expect("the range has leaves"))
}

/// Peaks are joined from the right: the ragged edge hangs below the larger subtrees.
fn fold_peaks(peaks: impl DoubleEndedIterator<Item = Hash>) -> Option<Hash> {
    peaks.rev().reduce(|right, left| node_hash(&left, &right))
}
