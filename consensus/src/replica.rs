//! A node's copy of the ledger and of the machine's state: leaves, sealed bodies, Merkle nodes, digest, outcomes.
//!
//! Core nodes feed it committed batches, followers verified entries; from there both are the same. Invariants:
//! 1. Leaves, state, Merkle nodes and digest of one batch reach the engine in one atomic batch, together with what
//!    the caller adds (the Raft state machine's position), so that a crash leaves a whole prefix of the ledger.
//! 2. One writer: `append` holds the lock from the read of the state to the submit.
//! 3. The digest covers exactly the table [`STATE`]; it is kept incrementally and compared with what was certified.
//!
//! Not here: who may be believed ([`crate::follow`], [`crate::certify`]), and what commands mean (the domain).

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tessera_storage::engine::{Batch, Engine, EngineError, Table, Ticket, View};

use crate::checkpoint::{
    Certificate, CertificateError, Checkpoint, Core, CoreError, CoreMember, NoteError, SignedCheckpoint, SignerName,
};
use crate::digest::{BUCKETS, BucketNumber, StateDigest};
use crate::ids::{FederationId, Hash, LedgerIndex, LedgerSize, Sequence, Stream};
use crate::kernel::{self, Domain, Outcome, Refusal, Verified};
use crate::merkle::{self, Frontier, NodeStore, ProveError};
use crate::state::{Change, STATE, Transaction};
use crate::wire::v1::{self, Genesis, Leaf, Submission};
use crate::wire::{DecodeError, decode, encode};

/// Leaf bytes by ledger index.
pub const LEDGER: Table = "ledger";
/// Sealed bodies by hash.
pub const SEALED: Table = "sealed";
/// Complete Merkle nodes by level and index.
pub const MERKLE: Table = "merkle";
/// Digest buckets by number.
pub const DIGEST: Table = "digest";
/// (stream, sequence) -> (ledger index, command hash, outcome). Derived from the ledger, not part of the digest.
pub const STREAMS: Table = "streams";
/// Position, newest certificate.
pub const META: Table = "ledger_meta";
/// All tables that a replica needs.
pub const TABLES: [Table; 7] = [STATE, LEDGER, SEALED, MERKLE, DIGEST, STREAMS, META];

const META_POSITION: &[u8] = b"position";
const META_CERTIFICATE: &[u8] = b"certificate";
const META_GENESIS: &[u8] = b"genesis";
const META_DIVERGED: &[u8] = b"diverged";
/// Signatures remembered as good, so that each is verified once.
const VERIFIED_MAX: usize = 16 * 1024;
/// Entries that one answer to a follower holds.
pub const ENTRIES_MAX: usize = 1024;

/// Why the ledger could not be opened, appended to or read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReplicaError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("this directory holds the ledger of {found}, not of {expected}; use another directory")]
    OtherFederation { found: FederationId, expected: FederationId },
    #[error(
        "the ledger's own records contradict one another at {what}: restore the directory or start from an empty one"
    )]
    Corrupt { what: &'static str },
    #[error("entries from {from} do not follow this ledger of {have} entries")]
    NotNext { from: u64, have: u64 },
    #[error(
        "this node's state differs from the certified one at size {size}: it stops applying; keep the directory \
         for examination and start from an empty one"
    )]
    Diverged { size: u64 },
    #[error("the checkpoint is not certified by this federation's core: {0}")]
    Certificate(#[from] CertificateError),
    #[error("the checkpoint is not a signed note: {0}")]
    Note(#[from] NoteError),
    #[error("the ledger's core can't certify: {0}")]
    Core(#[from] CoreError),
    #[error("no proof: {why}")]
    Proof { why: String },
}

impl ReplicaError {
    /// Whether what lies on the disk is not what this node wrote.
    pub const fn is_damage(&self) -> bool {
        match self {
            Self::Engine(error) => error.is_damage(),
            Self::Decode(_) | Self::Corrupt { .. } | Self::Certificate(_) | Self::Note(_) | Self::Core(_) => true,
            Self::OtherFederation { .. } | Self::NotNext { .. } | Self::Diverged { .. } | Self::Proof { .. } => false,
        }
    }
}

/// Why a submission is not taken.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CheckError {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("refused: {0:?}")]
    Refused(Refusal),
    #[error("the number was used for another command, {applied} at {index:?}: open a new incarnation")]
    Conflict { index: LedgerIndex, applied: Hash },
    #[error("already in the ledger at {index:?}")]
    AlreadyApplied { index: LedgerIndex, outcome: Outcome },
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// What became of an appended batch.
#[derive(Clone, Debug)]
pub struct Applied {
    /// Durable once this completes.
    pub ticket: Ticket,
    pub checkpoint: Checkpoint,
    /// One for each command, in order, with its place in the ledger.
    pub outcomes: Vec<(LedgerIndex, Outcome)>,
}

/// Where a command of a stream ended up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    pub index: LedgerIndex,
    pub command: Hash,
    pub outcome: Outcome,
}

/// A leaf with the sealed body that lies beside it, as nodes hand it to one another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerEntry {
    #[serde(with = "serde_bytes")]
    pub leaf: Vec<u8>,
    #[serde(with = "serde_bytes")]
    pub sealed: Option<Vec<u8>>,
}

/// One moment of a replica: what is read here belongs together, whatever is applied meanwhile.
pub struct Moment {
    view: Box<dyn View>,
    certificate: Option<Certificate>,
    federation: FederationId,
}

impl Moment {
    pub fn view(&self) -> &dyn View {
        &*self.view
    }

    /// The newest certified checkpoint that the replica had reached.
    pub const fn certificate(&self) -> Option<&Certificate> {
        self.certificate.as_ref()
    }

    pub const fn federation(&self) -> FederationId {
        self.federation
    }

    /// One entry, by a point read: a lookup makes many.
    pub fn entry(&self, index: LedgerIndex) -> Result<Option<LedgerEntry>, ReplicaError> {
        entry(self.view(), index)
    }
}

fn entry(view: &dyn View, index: LedgerIndex) -> Result<Option<LedgerEntry>, ReplicaError> {
    let leaf = view.get(LEDGER, &index.0.to_be_bytes())?;
    leaf.map(|leaf| with_body(view, leaf)).transpose()
}

fn with_body(view: &dyn View, leaf: Vec<u8>) -> Result<LedgerEntry, ReplicaError> {
    let sealed = match Leaf::from_bytes(&leaf)?.command.body.sealed {
        Some(hash) => view.get(SEALED, &encode(&hash))?,
        None => None,
    };
    Ok(LedgerEntry { leaf, sealed })
}

struct Inner {
    frontier: Frontier,
    digest: StateDigest,
    certificate: Option<Certificate>,
    diverged: bool,
}

/// See the module's header.
pub struct Replica {
    engine: Arc<dyn Engine>,
    domain: Arc<dyn Domain>,
    genesis: Genesis,
    federation: FederationId,
    inner: Mutex<Inner>,
    verified: VerifiedSignatures,
}

#[derive(Default)]
struct VerifiedSignatures(Mutex<(BTreeSet<Hash>, VecDeque<Hash>)>);

impl Verified for VerifiedSignatures {
    fn contains(&self, fingerprint: &Hash) -> bool {
        lock(&self.0).0.contains(fingerprint)
    }
    fn insert(&self, fingerprint: Hash) {
        let mut guard = lock(&self.0);
        if guard.0.insert(fingerprint) {
            guard.1.push_back(fingerprint);
        }
        if guard.1.len() > VERIFIED_MAX
            && let Some(oldest) = guard.1.pop_front()
        {
            guard.0.remove(&oldest);
        }
    }
}

/// A poisoned lock means that a writer panicked half-way; the engine still holds a whole prefix, and the panic
/// itself stops the node, so readers may go on until then.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn merkle_key(level: u8, index: u64) -> [u8; 9] {
    let mut key = [0; 9];
    key[0] = level;
    key[1..].copy_from_slice(&index.to_be_bytes());
    key
}

fn placed_key(stream: &Stream, sequence: Sequence) -> Vec<u8> {
    let mut key = encode(stream);
    key.extend_from_slice(&sequence.0.to_be_bytes());
    key
}

pub(crate) struct MerkleTable<'a>(pub(crate) &'a dyn View);

pub(crate) fn unprovable(error: ProveError<ReplicaError>) -> ReplicaError {
    match error {
        ProveError::Store(error) => error,
        other => ReplicaError::Proof { why: other.to_string() },
    }
}

impl NodeStore for MerkleTable<'_> {
    type Error = ReplicaError;
    fn node(&self, level: u8, index: u64) -> Result<Hash, ReplicaError> {
        let bytes =
            self.0.get(MERKLE, &merkle_key(level, index))?.ok_or(ReplicaError::Corrupt { what: "Merkle tree" })?;
        Ok(decode("Merkle node", &bytes, 64)?)
    }
}

impl Replica {
    /// Opens the ledger in `engine`, founding it from `genesis` when it is empty.
    pub fn open(engine: Arc<dyn Engine>, genesis: Genesis, domain: Arc<dyn Domain>) -> Result<Self, ReplicaError> {
        let federation = genesis.federation_id();
        if let Some(found) = engine.get(META, META_GENESIS)? {
            let found: FederationId = decode("federation", &found, 64)?;
            if found != federation {
                return Err(ReplicaError::OtherFederation { found, expected: federation });
            }
        }
        let inner = match engine.get(META, META_POSITION)? {
            Some(bytes) => Self::load(&*engine, &decode("position", &bytes, 4096)?)?,
            None => Self::found(&*engine, &genesis, federation, &*domain)?,
        };
        let replica =
            Self { engine, domain, genesis, federation, inner: Mutex::new(inner), verified: Default::default() };
        lock(&replica.inner).diverged = replica.engine.get(META, META_DIVERGED)?.is_some();
        let stored = replica.engine.get(META, META_CERTIFICATE)?;
        if let Some(note) = stored {
            let signed = SignedCheckpoint::parse(&String::from_utf8_lossy(&note))?;
            lock(&replica.inner).certificate = Some(signed.verify(&replica.core()?, federation)?);
        }
        Ok(replica)
    }

    fn load(engine: &dyn Engine, frontier: &Frontier) -> Result<Inner, ReplicaError> {
        let buckets = engine.scan(DIGEST, &[], None, BUCKETS)?;
        let buckets = buckets.into_iter().map(|(key, value)| {
            let number = <[u8; 2]>::try_from(key).ok().and_then(|key| BucketNumber::new(u16::from_be_bytes(key)));
            Ok((number.ok_or(ReplicaError::Corrupt { what: "digest" })?, value))
        });
        let buckets: Vec<(BucketNumber, Vec<u8>)> = buckets.collect::<Result<_, ReplicaError>>()?;
        let digest = StateDigest::from_buckets(buckets).map_err(|_| ReplicaError::Corrupt { what: "digest" })?;
        Ok(Inner { frontier: frontier.clone(), digest, certificate: None, diverged: false })
    }

    fn found(
        engine: &dyn Engine,
        genesis: &Genesis,
        federation: FederationId,
        domain: &dyn Domain,
    ) -> Result<Inner, ReplicaError> {
        let mut inner =
            Inner { frontier: Frontier::default(), digest: StateDigest::new(), certificate: None, diverged: false };
        let mut batch = Batch::new();
        let mut state = Transaction::new(engine);
        kernel::found(genesis, domain, &mut state)?;
        inner.write_changes(&state.finish()?, &mut batch);
        batch.put(META, META_GENESIS, encode(&federation));
        batch.put(META, META_POSITION, encode(&inner.frontier));
        engine.submit(batch)?;
        Ok(inner)
    }

    pub fn federation(&self) -> FederationId {
        self.federation
    }

    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// What the first batch names as its previous one.
    pub fn genesis_hash(&self) -> Hash {
        *self.federation.hash()
    }

    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// The newest state, for reading.
    pub fn view(&self) -> &dyn View {
        &*self.engine
    }

    /// The newest state as it is now, for reading several things that belong together.
    pub fn moment(&self) -> Moment {
        let inner = lock(&self.inner);
        Moment { view: self.engine.snapshot(), certificate: inner.certificate.clone(), federation: self.federation }
    }

    pub fn size(&self) -> LedgerSize {
        lock(&self.inner).frontier.size()
    }

    /// What this node would sign for its present state.
    pub fn checkpoint(&self) -> Result<Checkpoint, ReplicaError> {
        let epoch = kernel::core(self.view())?.epoch;
        Ok(lock(&self.inner).checkpoint(self.federation, epoch))
    }

    /// The core whose signatures count now.
    pub fn core(&self) -> Result<Core, ReplicaError> {
        let record = kernel::core(self.view())?;
        let members = record.seats.iter().map(|seat| {
            let node = kernel::node(self.view(), &seat.node)?.ok_or(ReplicaError::Corrupt { what: "core" })?;
            let join = node.join.join;
            let name = SignerName::try_from(join.name).map_err(|_| ReplicaError::Corrupt { what: "core" })?;
            Ok(CoreMember { node: seat.node, name, checkpoint_key: join.keys.checkpoint })
        });
        Ok(Core::new(record.epoch, members.collect::<Result<_, ReplicaError>>()?)?)
    }

    /// Whether the state lets `submission` in now, and that it is the next of its stream or behind it.
    pub fn check(&self, submission: &Submission) -> Result<(), CheckError> {
        submission.validate()?;
        let body = &submission.command.body;
        kernel::admit(self.federation, &submission.command, self.view(), &self.verified)?
            .map_err(CheckError::Refused)?;
        if let Some(placed) = self.placed(&body.stream, body.sequence)? {
            return Err(match placed.command == submission.command.hash() {
                true => CheckError::AlreadyApplied { index: placed.index, outcome: placed.outcome },
                false => CheckError::Conflict { index: placed.index, applied: placed.command },
            });
        }
        Ok(())
    }

    /// Where the command with this number ended up.
    pub fn placed(&self, stream: &Stream, sequence: Sequence) -> Result<Option<Placed>, EngineError> {
        let bytes = self.engine.get(STREAMS, &placed_key(stream, sequence))?;
        Ok(bytes.map(|bytes| decode("outcome", &bytes, 256).expect("outcomes were written by this replica")))
    }

    /// Applies a committed batch; `extra` joins the same atomic write.
    pub fn apply_batch(&self, batch: &v1::Batch, extra: Batch) -> Result<Applied, ReplicaError> {
        let leaves: Vec<(Leaf, Option<&[u8]>)> = batch.leaves().collect();
        self.append(leaves.iter().map(|(leaf, sealed)| (leaf.to_bytes(), leaf, *sealed)), extra)
    }

    /// Applies entries that were verified against a certified checkpoint, `from` being this ledger's size.
    pub fn apply_entries(&self, from: LedgerSize, entries: &[LedgerEntry]) -> Result<Applied, ReplicaError> {
        if self.size() != from {
            return Err(ReplicaError::NotNext { from: from.0, have: self.size().0 });
        }
        let leaves = entries.iter().map(|entry| Leaf::from_bytes(&entry.leaf)).collect::<Result<Vec<_>, _>>()?;
        let parts = entries.iter().zip(&leaves).map(|(e, leaf)| (e.leaf.clone(), leaf, e.sealed.as_deref()));
        self.append(parts, Batch::new())
    }

    fn append<'l>(
        &self,
        leaves: impl Iterator<Item = (Vec<u8>, &'l Leaf, Option<&'l [u8]>)>,
        extra: Batch,
    ) -> Result<Applied, ReplicaError> {
        let mut inner = lock(&self.inner);
        if inner.diverged {
            return Err(ReplicaError::Diverged { size: inner.frontier.size().0 });
        }
        let mut frontier = inner.frontier.clone();
        let mut batch = Batch::new();
        let mut state = Transaction::new(&*self.engine);
        let mut outcomes = Vec::new();
        for (bytes, leaf, sealed) in leaves {
            let index = LedgerIndex(frontier.size().0);
            let (domain, verified) = (&*self.domain, &self.verified);
            let outcome = kernel::apply(self.federation, index, leaf, domain, verified, &mut state)?;
            write_leaf(&mut batch, index, &bytes, leaf, sealed, outcome);
            for (level, number, hash) in frontier.push(merkle::leaf_hash(&bytes)) {
                batch.put(MERKLE, merkle_key(level, number), encode(&hash));
            }
            outcomes.push((index, outcome));
        }
        batch.put(META, META_POSITION, encode(&frontier));
        let changes = state.finish()?;
        inner.write_changes(&changes, &mut batch);
        batch.extend(extra);
        let ticket = match self.engine.submit(batch) {
            Ok(ticket) => ticket,
            Err(error) => {
                // A disk may have room again: then the same entries come once more.
                inner.digest_without(&changes);
                return Err(error.into());
            }
        };
        inner.frontier = frontier;
        let epoch = kernel::core(self.view())?.epoch;
        Ok(Applied { ticket, checkpoint: inner.checkpoint(self.federation, epoch), outcomes })
    }

    /// At most [`ENTRIES_MAX`] entries and about `bytes_max` bytes from `from`, never beyond `until`.
    pub fn entries(
        &self,
        from: LedgerSize,
        until: LedgerSize,
        bytes_max: usize,
    ) -> Result<Vec<LedgerEntry>, ReplicaError> {
        let (first, last) = (from.0.to_be_bytes(), until.0.to_be_bytes());
        let mut entries = Vec::new();
        let mut bytes = 0;
        for (_, leaf) in self.engine.scan(LEDGER, &first, Some(&last), ENTRIES_MAX)? {
            let entry = with_body(self.view(), leaf)?;
            bytes += entry.leaf.len() + entry.sealed.as_ref().map_or(0, Vec::len);
            entries.push(entry);
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(entries)
    }

    /// One entry, by a point read: a lookup makes many.
    pub fn entry(&self, index: LedgerIndex) -> Result<Option<LedgerEntry>, ReplicaError> {
        entry(self.view(), index)
    }

    /// RFC 6962 consistency proof between two sizes of this ledger.
    pub fn consistency_proof(&self, from: LedgerSize, to: LedgerSize) -> Result<Vec<Hash>, ReplicaError> {
        merkle::consistency_proof(&MerkleTable(&*self.engine), from, to).map_err(unprovable)
    }

    /// RFC 6962 inclusion proof of an entry in the ledger of `size` entries.
    pub fn inclusion_proof(&self, index: LedgerIndex, size: LedgerSize) -> Result<Vec<Hash>, ReplicaError> {
        merkle::inclusion_proof(&MerkleTable(&*self.engine), index, size).map_err(unprovable)
    }

    /// The root of this ledger's first `size` entries, which it has.
    pub fn root_at(&self, size: LedgerSize) -> Result<Hash, ReplicaError> {
        merkle::root_at(&MerkleTable(&*self.engine), size).map_err(unprovable)
    }

    /// The Merkle frontier, from which a follower computes the root that verified entries must lead to.
    pub fn frontier(&self) -> Frontier {
        lock(&self.inner).frontier.clone()
    }

    /// The newest certified checkpoint that this replica has reached.
    pub fn certificate(&self) -> Option<Certificate> {
        lock(&self.inner).certificate.clone()
    }

    /// Notes, for this life and all later ones, that what is here is not the ledger that was certified: nothing is
    /// applied to it any more. The ticket says when the note survives a power failure.
    pub fn diverge(&self) -> Result<Ticket, EngineError> {
        lock(&self.inner).diverged = true;
        let mut batch = Batch::new();
        batch.put(META, META_DIVERGED, Vec::new());
        self.engine.submit(batch)
    }

    /// Whether this replica is known to differ from what was certified.
    pub fn is_diverged(&self) -> bool {
        lock(&self.inner).diverged
    }

    /// Takes a certified checkpoint: keeps it when it is newer than the one that is here and this replica has
    /// reached its size. `false` when it is of no use yet or any more.
    ///
    /// A replica whose own root or digest at that size differs stops for good ([`ReplicaError::Diverged`]). The digest is
    /// known for the newest size only: a follower is shown each certificate when it stands exactly there, a core node's
    /// certifier remembers the digests of its batch ends.
    pub fn certified(&self, certificate: Certificate) -> Result<bool, ReplicaError> {
        let mut inner = lock(&self.inner);
        let theirs = *certificate.checkpoint();
        if theirs.size > inner.frontier.size() {
            return Ok(false);
        }
        let newer = |old: &Certificate| (theirs.size, certificate.time()) > (old.checkpoint().size, old.time());
        if !inner.certificate.as_ref().is_none_or(newer) {
            return Ok(false);
        }
        let root = self.root_at(theirs.size)?;
        let mine = inner.checkpoint(self.federation, theirs.epoch);
        if root != theirs.root || (mine.size == theirs.size && mine.digest != theirs.digest) {
            drop(inner);
            self.diverge()?;
            return Err(ReplicaError::Diverged { size: theirs.size.0 });
        }
        let mut batch = Batch::new();
        batch.put(META, META_CERTIFICATE, certificate.signed().to_note().into_bytes());
        self.engine.submit(batch)?;
        inner.certificate = Some(certificate);
        Ok(true)
    }
}

impl Inner {
    fn write_changes(&mut self, changes: &[Change], batch: &mut Batch) {
        for Change { key, old, new } in changes {
            self.digest.update(key, old.as_deref(), new.as_deref());
            match new {
                Some(value) => batch.put(STATE, key.clone(), value.clone()),
                None => batch.delete(STATE, key.clone()),
            };
        }
        for number in self.digest.take_changed() {
            batch.put(DIGEST, number.get().to_be_bytes(), self.digest.bucket(number).to_vec());
        }
    }

    /// Takes changes back that the engine did not take.
    fn digest_without(&mut self, changes: &[Change]) {
        for Change { key, old, new } in changes {
            self.digest.update(key, new.as_deref(), old.as_deref());
        }
        // As they lie in the engine.
        drop(self.digest.take_changed());
    }

    fn checkpoint(&mut self, federation: FederationId, epoch: crate::ids::Epoch) -> Checkpoint {
        let size = self.frontier.size();
        Checkpoint { federation, size, root: self.frontier.root(), digest: self.digest.root(), epoch }
    }
}

fn write_leaf(
    batch: &mut Batch,
    index: LedgerIndex,
    bytes: &[u8],
    leaf: &Leaf,
    sealed: Option<&[u8]>,
    outcome: Outcome,
) {
    let command = &leaf.command;
    batch.put(LEDGER, index.0.to_be_bytes(), bytes);
    if let (Some(hash), Some(body)) = (&command.body.sealed, sealed) {
        batch.put(SEALED, encode(hash), body);
    }
    if !matches!(outcome, Outcome::Refused(_)) {
        let placed = Placed { index, command: command.hash(), outcome };
        batch.put(STREAMS, placed_key(&command.body.stream, command.body.sequence), encode(&placed));
    }
}
