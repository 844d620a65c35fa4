//! The digest of the replicated state: what two replicas compare to know that they agree (DESIGN section 5).
//!
//! The state is a map of keys to values. Each pair belongs to one of 1,024 buckets by the hash of its key, and each
//! bucket is an LtHash16: the sum, lane by lane modulo 2^16, of 1,024 lanes of hash output for each pair. The sum
//! does not depend on the order of additions, and a pair is taken out by subtraction, so the digest is kept with one
//! or two hashes a change, whatever the size of the state. The digest's root is a binary Merkle tree over the
//! buckets: two replicas compare 32 bytes, find a divergence in ten steps, and check a snapshot bucket by bucket.
//!
//! LtHash is the lattice variant of the incremental hashes of M. Bellare and D. Micciancio, "A New Paradigm for
//! Collision-Free Hashing: Incrementality at Reduced Cost" (EUROCRYPT 1997); parameters (n = 1024, d = 16, 2,048
//! bytes, over 200 bits of security) as in K. Lewi, W. Kim, I. Maykov and S. Weis, "Securing Update Propagation with
//! Homomorphic Hashing" (IACR 2019/227) and Facebook's folly `LtHash`. Here the lanes come from BLAKE3's XOF.
//!
//! Invariants:
//! 1. A pair's lanes are BLAKE3-XOF(domain ‖ key length ‖ key ‖ value length ‖ value), lengths as 8 bytes little
//!    endian: no two different pairs have the same input.
//! 2. `root` is a function of the set of pairs alone. Callers keep to maps: a key has one value, and `old` is the
//!    value that the digest holds for it. A false `old` shows as a divergence; it cannot be seen here.

use std::collections::BTreeSet;

use crate::ids::{Hash, HashAlgorithm};

#[cfg(test)]
mod tests;

/// Buckets of a digest; a power of two.
pub const BUCKETS: usize = 1024;
/// One bucket: 1,024 lanes of 16 bits, little endian.
pub const BUCKET_BYTES: usize = 2048;
/// The bucket that holds nothing.
pub const EMPTY_BUCKET: [u8; BUCKET_BYTES] = [0; BUCKET_BYTES];

const PAIR_DOMAIN: &[u8] = b"tessera/v1/state-pair\0";
const BUCKET_DOMAIN: &[u8] = b"tessera/v1/state-bucket\0";
const NODE_DOMAIN: &[u8] = b"tessera/v1/state-node\0";

/// One of the [`BUCKETS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BucketNumber(u16);

impl BucketNumber {
    pub fn new(number: u16) -> Option<Self> {
        (usize::from(number) < BUCKETS).then_some(Self(number))
    }

    /// The bucket of a key: the first ten bits of its BLAKE3 hash.
    pub fn of_key(key: &[u8]) -> Self {
        let hash = blake3::hash(key);
        let bytes = hash.as_bytes();
        Self(u16::from(bytes[0]) << 2 | u16::from(bytes[1]) >> 6)
    }

    pub const fn get(self) -> u16 {
        self.0
    }

    pub fn all() -> impl Iterator<Item = Self> {
        (0..BUCKETS as u16).map(Self)
    }
}

/// The sum of one bucket's pairs. Stands alone too: a snapshot's bucket is summed and compared before it is believed.
#[derive(Clone, PartialEq, Eq)]
pub struct BucketSum([u8; BUCKET_BYTES]);

impl Default for BucketSum {
    fn default() -> Self {
        Self(EMPTY_BUCKET)
    }
}

impl BucketSum {
    pub const fn from_bytes(bytes: [u8; BUCKET_BYTES]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; BUCKET_BYTES] {
        &self.0
    }

    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        self.combine(&pair_lanes(key, value), add_lanes);
    }

    pub fn remove(&mut self, key: &[u8], value: &[u8]) {
        self.combine(&pair_lanes(key, value), subtract_lanes);
    }

    /// The leaf of the digest's tree.
    pub fn hash(&self) -> Hash {
        Hash::blake3(&[BUCKET_DOMAIN, &self.0])
    }

    #[inline]
    fn combine(&mut self, lanes: &[u8; BUCKET_BYTES], operation: impl Fn(u64, u64) -> u64) {
        let (sums, _) = self.0.as_chunks_mut::<8>();
        let (lanes, _) = lanes.as_chunks::<8>();
        for (sum, lanes) in sums.iter_mut().zip(lanes) {
            *sum = operation(u64::from_le_bytes(*sum), u64::from_le_bytes(*lanes)).to_le_bytes();
        }
    }
}

impl std::fmt::Debug for BucketSum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "bucket {:?}", self.hash())
    }
}

/// The top bit of each of four lanes in a word.
const TOP_BITS: u64 = 0x8000_8000_8000_8000;

/// Four sums modulo 2^16 at once: the lower bits are added without reaching the next lane, the top bits by XOR.
#[inline]
fn add_lanes(a: u64, b: u64) -> u64 {
    ((a & !TOP_BITS) + (b & !TOP_BITS)) ^ ((a ^ b) & TOP_BITS)
}

/// Four differences modulo 2^16 at once: a top bit set beforehand pays each lane's borrow.
#[inline]
fn subtract_lanes(a: u64, b: u64) -> u64 {
    ((a | TOP_BITS) - (b & !TOP_BITS)) ^ ((a ^ !b) & TOP_BITS)
}

fn pair_lanes(key: &[u8], value: &[u8]) -> [u8; BUCKET_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(PAIR_DOMAIN);
    for part in [key, value] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut lanes = EMPTY_BUCKET;
    hasher.finalize_xof().fill(&mut lanes);
    lanes
}

fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Hash::blake3(&[NODE_DOMAIN, left.as_bytes(), right.as_bytes()])
}

/// Why bytes are not a digest's buckets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BucketError {
    #[error("bucket {0:?} is given twice")]
    Twice(BucketNumber),
    #[error("a bucket has 2048 bytes, bucket {bucket:?} has {got}")]
    Length { bucket: BucketNumber, got: usize },
}

/// The digest of a whole state, about 2 MiB in memory.
#[derive(Clone)]
pub struct StateDigest {
    buckets: Vec<BucketSum>,
    /// A binary heap: the root at 1, the children of i at 2i and 2i + 1, bucket b at `BUCKETS + b`. Place 0 is unused.
    tree: Vec<Hash>,
    /// Buckets whose path in the tree is older than their bytes.
    stale: BTreeSet<BucketNumber>,
    /// Buckets changed since [`StateDigest::take_changed`].
    changed: BTreeSet<BucketNumber>,
}

impl Default for StateDigest {
    fn default() -> Self {
        Self::new()
    }
}

impl StateDigest {
    /// The digest of the empty state.
    pub fn new() -> Self {
        let hashes = vec![BucketSum::default().hash(); BUCKETS];
        Self {
            buckets: vec![BucketSum::default(); BUCKETS],
            tree: tree_over(&hashes),
            stale: BTreeSet::new(),
            changed: BTreeSet::new(),
        }
    }

    /// The digest whose buckets were kept by the caller; a bucket that is not given is empty.
    pub fn from_buckets<B: AsRef<[u8]>>(
        kept: impl IntoIterator<Item = (BucketNumber, B)>,
    ) -> Result<Self, BucketError> {
        let mut digest = Self::new();
        for (bucket, bytes) in kept {
            let bytes = bytes.as_ref();
            let sum = bytes.try_into().map_err(|_| BucketError::Length { bucket, got: bytes.len() })?;
            digest.buckets[usize::from(bucket.0)] = BucketSum(sum);
            if !digest.stale.insert(bucket) {
                return Err(BucketError::Twice(bucket));
            }
        }
        digest.refresh();
        Ok(digest)
    }

    /// Follows one change of the map: `key` had the value `old` and now has `new`.
    pub fn update(&mut self, key: &[u8], old: Option<&[u8]>, new: Option<&[u8]>) {
        if old == new {
            return;
        }
        let bucket = BucketNumber::of_key(key);
        let sum = &mut self.buckets[usize::from(bucket.0)];
        if let Some(value) = old {
            sum.remove(key, value);
        }
        if let Some(value) = new {
            sum.add(key, value);
        }
        self.stale.insert(bucket);
        self.changed.insert(bucket);
    }

    /// The digest's root. Recomputes only the paths of buckets that changed since it was last asked.
    pub fn root(&mut self) -> Hash {
        self.refresh();
        self.tree[1]
    }

    /// A bucket's bytes, as the caller keeps them.
    pub fn bucket(&self, bucket: BucketNumber) -> &[u8] {
        &self.buckets[usize::from(bucket.0)].0
    }

    /// The tree's leaves in order. [`root_of_bucket_hashes`] checks them against a certified root.
    pub fn bucket_hashes(&mut self) -> Vec<Hash> {
        self.refresh();
        self.tree[BUCKETS..].to_vec()
    }

    /// The buckets changed since the last call, for the caller to keep together with the change of the state itself.
    pub fn take_changed(&mut self) -> Vec<BucketNumber> {
        std::mem::take(&mut self.changed).into_iter().collect()
    }

    /// The buckets in which two states differ; descends only where the trees do.
    pub fn compare(&mut self, other: &mut Self) -> Vec<BucketNumber> {
        self.refresh();
        other.refresh();
        let mut differing = Vec::new();
        let mut places = vec![1];
        while let Some(place) = places.pop() {
            match place {
                _ if self.tree[place] == other.tree[place] => {}
                BUCKETS.. => differing.push(BucketNumber((place - BUCKETS) as u16)),
                // The left child is taken off first, so that buckets come in order.
                _ => places.extend([2 * place + 1, 2 * place]),
            }
        }
        differing
    }

    fn refresh(&mut self) {
        let mut places = BTreeSet::new();
        for bucket in std::mem::take(&mut self.stale) {
            let place = BUCKETS + usize::from(bucket.0);
            self.tree[place] = self.buckets[usize::from(bucket.0)].hash();
            places.insert(place / 2);
        }
        // Children have larger places than parents, so taking the largest first sees each node once, children done.
        while let Some(place) = places.pop_last() {
            self.tree[place] = node_hash(&self.tree[2 * place], &self.tree[2 * place + 1]);
            if place > 1 {
                places.insert(place / 2);
            }
        }
    }
}

impl std::fmt::Debug for StateDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut fresh = self.clone();
        write!(f, "state digest {:?}", fresh.root())
    }
}

/// The root over the buckets' hashes, `None` unless there are [`BUCKETS`] of them, all BLAKE3. Lets a snapshot's
/// buckets be checked one by one, whoever they come from.
pub fn root_of_bucket_hashes(hashes: &[Hash]) -> Option<Hash> {
    let complete = hashes.len() == BUCKETS && hashes.iter().all(|hash| hash.algorithm() == HashAlgorithm::Blake3);
    complete.then(|| tree_over(hashes)[1])
}

fn tree_over(leaves: &[Hash]) -> Vec<Hash> {
    let mut tree = vec![Hash::from_parts(HashAlgorithm::Blake3, [0; 32]); BUCKETS];
    tree.extend_from_slice(leaves);
    for place in (1..BUCKETS).rev() {
        tree[place] = node_hash(&tree[2 * place], &tree[2 * place + 1]);
    }
    tree
}
