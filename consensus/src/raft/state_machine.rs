//! openraft's state machine over the node's [`Replica`]: a committed batch and its place in the Raft log reach the
//! ledger's engine in one atomic write.
//!
//! Invariants:
//! 1. The position (last applied entry, membership, tip of the batches) is always that of the ledger beside it, so
//!    nothing is applied twice and nothing is left out, whenever the process dies.
//! 2. Nothing is applied before this node's own log holds it durably, so the ledger is never ahead of the log.
//! 3. A Raft snapshot is a reference to a state of the ledger. It is installed only where the ledger is exactly
//!    there already, reached by following; its data never travels through Raft.
//!
//! Writes here are not awaited: what is committed lies durably in the logs of a majority and is applied again.

use std::io;
use std::sync::Arc;

use futures::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{AsyncRuntime, EntryPayload, OptionalSend, RaftSnapshotBuilder};
use serde::{Deserialize, Serialize};
use tessera_storage::engine::{Batch, EngineError, Table};

use super::log_store::{LogStore, Tip, Waits};
use super::types::{
    BatchReceipt, CoreNode, LeaderId, LogEntry, LogId, RaftId, SnapshotMeta, StoredMembership, TypeConfig,
};
use super::wire::{self, SnapshotReference, WireLogId, WireStoredMembership};
use crate::ids::LedgerSize;
use crate::replica::{Applied, Replica, ReplicaError};
use crate::wire::DecodeError;

/// The Raft position, in the ledger's engine: a core node opens it with this table beside the replica's.
pub const RAFT_APPLIED: Table = "raft_applied";

const POSITION: &[u8] = b"position";
const SNAPSHOT: &[u8] = b"snapshot";
/// A membership of 64 seats with long addresses.
const RECORD_BYTES_MAX: usize = 64 * 1024;

/// Told of every batch that was applied, on the state machine's task: must be short.
pub type AppliedListener = Arc<dyn Fn(&Applied) + Send + Sync>;

/// Why the state machine could not go on.
#[derive(Debug, thiserror::Error)]
pub enum StateMachineError {
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("the stored Raft position cannot be read: {0}")]
    Position(#[from] DecodeError),
    #[error(
        "the snapshot stands at {wanted} ledger entries, this node at {have}: it takes over as soon as it has \
         followed the ledger to there"
    )]
    NotReached { wanted: u64, have: u64 },
    #[error("the ledger here differs from the snapshot's at {size} entries: keep the directory for examination")]
    Differs { size: u64 },
}

impl StateMachineError {
    /// The engine's error, if it is one.
    fn engine(&self) -> Option<&EngineError> {
        match self {
            Self::Engine(error) | Self::Replica(ReplicaError::Engine(error)) => Some(error),
            _ => None,
        }
    }
}

impl From<StateMachineError> for io::Error {
    fn from(error: StateMachineError) -> Self {
        io::Error::other(error)
    }
}

/// Where the ledger stands in the Raft log.
#[derive(Clone, Debug, PartialEq)]
struct Position {
    last: Option<LogId>,
    membership: StoredMembership,
    tip: Tip,
}

#[derive(Serialize, Deserialize)]
struct WirePosition {
    last: Option<WireLogId>,
    membership: WireStoredMembership,
    tip: Tip,
}

#[derive(Serialize, Deserialize)]
struct WireSnapshot {
    last: Option<WireLogId>,
    membership: WireStoredMembership,
    reference: SnapshotReference,
}

/// See the module's header.
pub struct StateMachine {
    replica: Arc<Replica>,
    log: LogStore,
    position: Position,
    listener: AppliedListener,
}

impl StateMachine {
    /// Reads the position that lies beside the ledger.
    pub fn open(replica: Arc<Replica>, log: LogStore, listener: AppliedListener) -> Result<Self, StateMachineError> {
        let position = Position::read(&replica)?;
        if let Some(last) = position.last {
            log.expect_snapshot(last, position.tip);
        }
        Ok(Self { replica, log, position, listener })
    }

    /// The newest applied entry.
    pub fn last_applied(&self) -> Option<LogId> {
        self.position.last
    }

    /// The entry that the stored snapshot stands at.
    pub fn snapshot_position(&self) -> Result<Option<LogId>, StateMachineError> {
        Ok(stored_snapshot(&self.replica)?.and_then(|snapshot| snapshot.meta.last_log_id))
    }

    /// Applies one committed entry and writes the new position with it.
    fn apply_entry(&mut self, entry: &LogEntry) -> Result<BatchReceipt, StateMachineError> {
        let mut position = Position { last: Some(entry.log_id), ..self.position.clone() };
        let receipt = match &entry.payload {
            EntryPayload::Normal(batch) => {
                position.tip = Tip::of(batch);
                let applied = self.replica.apply_batch(batch.batch(), position.record())?;
                (self.listener)(&applied);
                BatchReceipt { commands: applied.outcomes }
            }
            EntryPayload::Blank => {
                self.replica.engine().submit(position.record())?;
                BatchReceipt::default()
            }
            EntryPayload::Membership(membership) => {
                position.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                self.replica.engine().submit(position.record())?;
                BatchReceipt::default()
            }
        };
        self.position = position;
        Ok(receipt)
    }

    fn reference(&self) -> Result<SnapshotReference, StateMachineError> {
        let here = self.replica.checkpoint()?;
        Ok(SnapshotReference { size: here.size, root: here.root, digest: here.digest, tip: self.position.tip })
    }

    fn install(&mut self, meta: &SnapshotMeta, reference: &SnapshotReference) -> Result<(), StateMachineError> {
        reached(&self.replica, reference)?;
        let membership = meta.last_membership.clone();
        let position = Position { last: meta.last_log_id, membership, tip: reference.tip };
        let mut batch = position.record();
        batch.extend(snapshot_record(meta, reference));
        self.replica.engine().submit(batch)?;
        if let Some(last) = meta.last_log_id {
            self.log.expect_snapshot(last, reference.tip);
        }
        self.position = position;
        Ok(())
    }
}

/// The chain of batches before the first one.
pub fn genesis_tip(replica: &Replica) -> Tip {
    Tip { hash: replica.genesis_hash(), time: replica.genesis().created }
}

/// Whether the ledger stands exactly where a snapshot stands.
pub fn reached(replica: &Replica, reference: &SnapshotReference) -> Result<(), StateMachineError> {
    let LedgerSize(have) = replica.size();
    if have != reference.size.0 {
        return Err(StateMachineError::NotReached { wanted: reference.size.0, have });
    }
    let here = replica.checkpoint()?;
    if here.root != reference.root || here.digest != reference.digest {
        return Err(StateMachineError::Differs { size: have });
    }
    Ok(())
}

/// What a node has applied, as one would refer to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    pub applied: Option<LogId>,
    pub reference: SnapshotReference,
}

impl Standing {
    /// As it lies beside the ledger.
    pub fn read(replica: &Replica) -> Result<Self, StateMachineError> {
        let (position, here) = (Position::read(replica)?, replica.checkpoint()?);
        let reference = SnapshotReference { size: here.size, root: here.root, digest: here.digest, tip: position.tip };
        Ok(Self { applied: position.last, reference })
    }
}

impl Position {
    fn read(replica: &Replica) -> Result<Self, StateMachineError> {
        let Some(bytes) = replica.engine().get(RAFT_APPLIED, POSITION)? else {
            return Ok(Self { last: None, membership: Default::default(), tip: genesis_tip(replica) });
        };
        let wire: WirePosition = wire::from_bytes("Raft position", &bytes, RECORD_BYTES_MAX)?;
        Ok(Self { last: wire.last.map(Into::into), membership: wire.membership.try_into()?, tip: wire.tip })
    }

    fn record(&self) -> Batch {
        let wire =
            WirePosition { last: self.last.map(Into::into), membership: (&self.membership).into(), tip: self.tip };
        let mut batch = Batch::new();
        batch.put(RAFT_APPLIED, POSITION, wire::to_bytes(&wire));
        batch
    }
}

fn snapshot_record(meta: &SnapshotMeta, reference: &SnapshotReference) -> Batch {
    let wire = WireSnapshot {
        last: meta.last_log_id.map(Into::into),
        membership: (&meta.last_membership).into(),
        reference: reference.clone(),
    };
    let mut batch = Batch::new();
    batch.put(RAFT_APPLIED, SNAPSHOT, wire::to_bytes(&wire));
    batch
}

type Snapshot = openraft::Snapshot<LeaderId, RaftId, CoreNode, SnapshotReference>;

fn stored_snapshot(replica: &Replica) -> Result<Option<Snapshot>, StateMachineError> {
    let Some(bytes) = replica.engine().get(RAFT_APPLIED, SNAPSHOT)? else { return Ok(None) };
    let wire: WireSnapshot = wire::from_bytes("Raft snapshot", &bytes, RECORD_BYTES_MAX)?;
    let meta = SnapshotMeta { last_log_id: wire.last.map(Into::into), last_membership: wire.membership.try_into()? };
    Ok(Some(Snapshot { meta, snapshot: wire.reference }))
}

/// Writes down the reference that was taken when the builder was made.
pub struct SnapshotBuilder {
    replica: Arc<Replica>,
    taken: Result<Snapshot, StateMachineError>,
}

impl<Rt: AsyncRuntime> RaftSnapshotBuilder<TypeConfig<Rt>> for SnapshotBuilder {
    type SnapshotData = SnapshotReference;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let snapshot = self.taken.as_ref().map_err(|error| io::Error::other(error.to_string()))?.clone();
        self.replica.engine().submit(snapshot_record(&snapshot.meta, &snapshot.snapshot)).map_err(io::Error::other)?;
        Ok(snapshot)
    }
}

impl<Rt: AsyncRuntime> RaftStateMachine<TypeConfig<Rt>> for StateMachine {
    type SnapshotData = SnapshotReference;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.position.last, self.position.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig<Rt>>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            // The ledger's disk may be faster than the log's: after a power cut the ledger would be ahead of the log.
            self.log.durable(entry.log_id.index).await?;
            let log = self.log.clone();
            let apply = || self.apply_entry(&entry);
            let receipt = log.with_room::<Rt, _, _>(Waits::StateMachine, StateMachineError::engine, apply).await?;
            if let Some(responder) = responder {
                responder.send(receipt);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let meta = SnapshotMeta { last_log_id: self.position.last, last_membership: self.position.membership.clone() };
        let taken = self.reference().map(|snapshot| Snapshot { meta, snapshot });
        SnapshotBuilder { replica: self.replica.clone(), taken }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotReference) -> Result<(), io::Error> {
        Ok(self.install(meta, &snapshot)?)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        Ok(stored_snapshot(&self.replica)?)
    }
}
