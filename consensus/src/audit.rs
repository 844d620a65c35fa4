//! Reading a replica again, from its first entry: whether what lies on the disk is still what was agreed.
//!
//! A node's own disk is not believed for ever. Every leaf is hashed and compared with the stored Merkle tree, that tree
//! with itself, every sealed body with the hash that its leaf names, and the whole state, bucket by bucket, with the
//! digest that is kept beside it. A fault names its place. Whoever finds one must not go on from this replica: peers
//! would take its answers for lies, and the next entry would rest on a wrong state.
//!
//! In steps, so that a driver can pace them: each says how many bytes were read. Not here: repair. A follower's ledger
//! is followed anew, a core node's comes again from its Raft log.

use tessera_storage::engine::{EngineError, View};

use crate::digest::{BUCKETS, BucketNumber, BucketSum, EMPTY_BUCKET};
use crate::ids::{Hash, LedgerIndex, LedgerSize};
use crate::merkle::{self, Frontier};
use crate::replica::{DIGEST, LEDGER, MERKLE, MerkleTable, Replica, ReplicaError, SEALED, merkle_key, unprovable};
use crate::state::STATE;
use crate::wire::v1::{Leaf, sealed_hash};
use crate::wire::{decode, encode};

/// Entries of one step.
const LEAVES: usize = 256;
/// Pairs of the state that are read at a time.
const PAIRS: usize = 1024;
/// Buckets that a fault names.
const NAMED_MAX: usize = 8;

/// What is not as it was written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AuditFault {
    #[error("entry {index} is missing")]
    Missing { index: u64 },
    #[error("entry {index} is no leaf of a ledger")]
    NotALeaf { index: u64 },
    #[error("entry {index} is not the one that the ledger's tree holds")]
    Leaf { index: u64 },
    #[error("the sealed body of entry {index} is not the one that the entry names")]
    SealedBody { index: u64 },
    #[error("the ledger's tree contradicts itself at level {level}, node {node}")]
    Tree { level: u8, node: u64 },
    #[error("the ledger's tree does not lead to the root of its {size} entries")]
    Root { size: u64 },
    #[error("the state differs from its digest in {count} of {BUCKETS} buckets: {}", numbers(first))]
    State { count: usize, first: Vec<BucketNumber> },
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl AuditFault {
    /// Whether it is the disk that gave something else than was written, and not a disk that could not be read now.
    pub const fn is_damage(&self) -> bool {
        match self {
            Self::Replica(error) => error.is_damage(),
            Self::Engine(error) => error.is_damage(),
            _ => true,
        }
    }
}

fn numbers(buckets: &[BucketNumber]) -> String {
    let numbers: Vec<String> = buckets.iter().map(|bucket| bucket.get().to_string()).collect();
    numbers.join(", ")
}

/// What one step read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step<N> {
    pub bytes: u64,
    /// Where it goes on; `None` when all was read.
    pub next: Option<N>,
}

/// The entries of `replica` from `from`, at most a few hundred of them.
pub fn leaves(replica: &Replica, from: LedgerIndex) -> Result<Step<LedgerIndex>, AuditFault> {
    let view = replica.view();
    let size = replica.size();
    let (first, end) = (from.0, size.0.min(from.0 + LEAVES as u64));
    let mut frontier = Frontier::load(&MerkleTable(view), LedgerSize(first)).map_err(unprovable)?;
    let rows = view.scan(LEDGER, &first.to_be_bytes(), Some(&end.to_be_bytes()), LEAVES)?;
    let mut bytes = 0;
    let mut rows = rows.into_iter();
    for index in first..end {
        let found = rows.next().filter(|(key, _)| *key == index.to_be_bytes());
        let (_, leaf) = found.ok_or(AuditFault::Missing { index })?;
        bytes += check_leaf(view, index, &leaf, &mut frontier)?;
    }
    if end == size.0 && frontier.root() != replica.root_at(size)? {
        return Err(AuditFault::Root { size: size.0 });
    }
    Ok(Step { bytes, next: (end < size.0).then_some(LedgerIndex(end)) })
}

/// One leaf, and the nodes of the tree that it completed. Returns the bytes that were read.
fn check_leaf(view: &dyn View, index: u64, leaf: &[u8], frontier: &mut Frontier) -> Result<u64, AuditFault> {
    for (level, node, hash) in frontier.push(merkle::leaf_hash(leaf)) {
        let kept = view.get(MERKLE, &merkle_key(level, node))?;
        let kept = kept.and_then(|bytes| decode::<Hash>("Merkle node", &bytes, 64).ok());
        match (kept == Some(hash), level) {
            (true, _) => {}
            (false, 0) => return Err(AuditFault::Leaf { index }),
            (false, _) => return Err(AuditFault::Tree { level, node }),
        }
    }
    let command = Leaf::from_bytes(leaf).map_err(|_| AuditFault::NotALeaf { index })?.command;
    let mut bytes = leaf.len();
    // A body may have been erased; its hash stays.
    if let Some(named) = command.body.sealed
        && let Some(body) = view.get(SEALED, &encode(&named))?
    {
        bytes += body.len();
        if sealed_hash(&body) != named {
            return Err(AuditFault::SealedBody { index });
        }
    }
    Ok(bytes as u64)
}

/// A pass over the state as it is at one moment: two MiB of sums, whatever the state's size.
pub struct StatePass {
    view: Box<dyn View>,
    from: Vec<u8>,
    sums: Vec<BucketSum>,
}

impl StatePass {
    pub fn begin(replica: &Replica) -> Self {
        Self { view: replica.engine().snapshot(), from: Vec::new(), sums: vec![BucketSum::default(); BUCKETS] }
    }

    /// Reads on. `None`: all was read, and compared. Else the bytes of this step.
    pub fn step(&mut self) -> Result<Option<u64>, AuditFault> {
        let pairs = self.view.scan(STATE, &self.from, None, PAIRS)?;
        let Some((last, _)) = pairs.last() else { return self.compare().map(|()| None) };
        self.from = [last.as_slice(), b"\0"].concat();
        let mut bytes = 0;
        for (key, value) in &pairs {
            bytes += key.len() + value.len();
            self.sums[usize::from(BucketNumber::of_key(key).get())].add(key, value);
        }
        Ok(Some(bytes as u64))
    }

    /// A snapshot is checked bucket by bucket; so is this one, against the node's own digest.
    fn compare(&self) -> Result<(), AuditFault> {
        let mut differing = Vec::new();
        for (bucket, sum) in BucketNumber::all().zip(&self.sums) {
            let kept = self.view.get(DIGEST, &bucket.get().to_be_bytes())?;
            if kept.as_deref().unwrap_or(&EMPTY_BUCKET) != sum.as_bytes() {
                differing.push(bucket);
            }
        }
        let count = differing.len();
        differing.truncate(NAMED_MAX);
        if count == 0 { Ok(()) } else { Err(AuditFault::State { count, first: differing }) }
    }
}
