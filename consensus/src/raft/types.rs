//! openraft's type parameters for Tessera, generic over the runtime: `node` runs on tokio, `simnet` on simulated
//! time, and everything between them is the same code.
//!
//! Not here: formats. What lies on the disk or crosses the network is in [`super::wire`], whatever openraft's own
//! types look like in the next version.

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};

use openraft::impls::{BoxedErrorSource, InlineBatch, OneshotResponder, leader_id_adv};
use openraft::{AsyncRuntime, EntryPayload, OptionalSend, RaftTypeConfig};
use serde::{Deserialize, Serialize};

use crate::ids::{Hash, LedgerIndex, NodeId};
use crate::kernel::Outcome;
use crate::wire::v1::Batch;

/// A core node's seat in Raft. The ledger assigns it and never reuses it: a node that comes back without its log
/// gets a new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RaftId(pub u64);

impl From<u64> for RaftId {
    fn from(id: u64) -> Self {
        Self(id)
    }
}

impl fmt::Display for RaftId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Who sits in a seat, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoreNode {
    pub node: NodeId,
    pub name: String,
    /// `host:port` of the core's gRPC service.
    pub address: String,
}

/// openraft's storage suite fills seats with nobody.
#[cfg(test)]
impl Default for CoreNode {
    fn default() -> Self {
        Self { node: NodeId::new(Hash::blake3(&[])), name: String::new(), address: String::new() }
    }
}

/// A batch that log, network and state machine share without copying. Its hash is computed once.
#[derive(Clone)]
pub struct SharedBatch(Arc<Hashed>);

struct Hashed {
    batch: Batch,
    hash: OnceLock<Hash>,
}

impl SharedBatch {
    pub fn new(batch: Batch) -> Self {
        Self(Arc::new(Hashed { batch, hash: OnceLock::new() }))
    }

    pub fn batch(&self) -> &Batch {
        &self.0.batch
    }

    pub fn hash(&self) -> Hash {
        *self.0.hash.get_or_init(|| self.0.batch.hash())
    }

    /// Bytes that it takes in a message or in the log, nearly.
    pub fn weight(&self) -> usize {
        256 + self.0.batch.submissions.iter().map(|submission| submission.weight()).sum::<usize>()
    }
}

impl PartialEq for SharedBatch {
    fn eq(&self, other: &Self) -> bool {
        self.0.batch == other.0.batch
    }
}

impl fmt::Debug for SharedBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for SharedBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch of {} by {:?}", self.0.batch.submissions.len(), self.0.batch.proposer)
    }
}

impl Serialize for SharedBatch {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.batch.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SharedBatch {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Batch::deserialize(deserializer).map(Self::new)
    }
}

/// What became of a batch's commands, in their order: where each lies in the ledger and what it did.
/// Empty for entries that carry no batch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchReceipt {
    pub commands: Vec<(LedgerIndex, Outcome)>,
}

pub type LeaderId = leader_id_adv::LeaderId<u64, RaftId>;
pub type Vote = openraft::impls::Vote<LeaderId>;
pub type LogId = openraft::LogId<LeaderId>;
pub type Payload = EntryPayload<SharedBatch, RaftId, CoreNode>;
pub type LogEntry = openraft::Entry<LeaderId, Payload>;
pub type Membership = openraft::Membership<RaftId, CoreNode>;
pub type StoredMembership = openraft::StoredMembership<LeaderId, RaftId, CoreNode>;
pub type SnapshotMeta = openraft::SnapshotMeta<LeaderId, RaftId, CoreNode>;

/// openraft's type parameters over the runtime `Rt`.
pub struct TypeConfig<Rt>(PhantomData<fn() -> Rt>);

// By hand, because derived implementations would ask the same of the runtime, which is never stored here.
impl<Rt> Clone for TypeConfig<Rt> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<Rt> Copy for TypeConfig<Rt> {}
impl<Rt> Default for TypeConfig<Rt> {
    fn default() -> Self {
        Self(PhantomData)
    }
}
impl<Rt> fmt::Debug for TypeConfig<Rt> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TypeConfig")
    }
}
impl<Rt> PartialEq for TypeConfig<Rt> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl<Rt> Eq for TypeConfig<Rt> {}
impl<Rt> PartialOrd for TypeConfig<Rt> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<Rt> Ord for TypeConfig<Rt> {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

impl<Rt: AsyncRuntime> RaftTypeConfig for TypeConfig<Rt> {
    type D = SharedBatch;
    type R = BatchReceipt;
    type NodeId = RaftId;
    type Node = CoreNode;
    type Term = u64;
    /// A leader's id holds its seat, so a log entry names the leader that made it.
    type LeaderId = LeaderId;
    type Vote = Vote;
    type Payload = Payload;
    type Entry = LogEntry;
    type AsyncRuntime = Rt;
    type Responder<T>
        = OneshotResponder<Self, T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = BoxedErrorSource;
}
