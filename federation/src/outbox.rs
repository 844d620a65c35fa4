//! The origin's outbox: commands between the change that caused them and the ledger that certified them.
//!
//! Sans-IO but for the storage engine: a driver sends what [`Outbox::pending`] hands out to any core node, as often
//! as it likes, and calls [`Outbox::settle`] whenever the replica reached a newer certificate. Invariants:
//! 1. A command gets its number, its signature and its place on the disk in one write together with the change that
//!    caused it. Numbers have no gaps.
//! 2. Nothing is handed out before it is durable: a number that left the house never gets another body.
//! 3. Nothing is deleted before the ledger certified that very command under that very number.
//! 4. When the ledger is ahead of the outbox (an old copy of the directory was put back), a new incarnation is
//!    opened, and what is pending and not in the ledger is signed anew there. Nobody is accused, nothing is twice.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tessera_consensus::kernel::{self, Outcome, Rejection};
use tessera_consensus::keys::SigningKey;
use tessera_consensus::replica::{Replica, ReplicaError};
use tessera_consensus::wire::v1::{CommandBody, Kind, Submission, VERSION, sealed_hash};
use tessera_consensus::wire::{DecodeError, decode, encode};
use tessera_consensus::{FederationId, Incarnation, Lane, LedgerIndex, NodeId, Sequence, Stream};
use tessera_storage::engine::{Batch, Engine, EngineError, Table, Ticket};

/// The engine's table.
pub const OUTBOX: Table = "outbox";
/// Commands that may wait. Beyond it registration waits while ingest goes on from the catalogue.
pub const OUTBOX_COMMANDS_MAX: u64 = 1_000_000;
/// Commands looked at in one step.
const STEP_COMMANDS_MAX: usize = 1024;
const ENTRY_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Why the outbox could not take or give a command.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OutboxError {
    #[error(
        "the outbox is full ({OUTBOX_COMMANDS_MAX} commands wait for the core): registration waits until it drains"
    )]
    Full,
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("the outbox holds a damaged record: {0}")]
    Damaged(#[from] DecodeError),
    #[error(transparent)]
    Replica(#[from] ReplicaError),
}

/// A command to be written.
#[derive(Clone, Debug)]
pub struct Draft {
    pub lane: Lane,
    pub kind: Kind,
    pub public: Vec<u8>,
    pub sealed: Option<Vec<u8>>,
    /// Comes back with the outcome, so that the caller knows its own matter again. Opaque, at most 256 bytes.
    pub matter: Vec<u8>,
}

/// What the ledger made of a command that was settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    pub kind: Kind,
    pub matter: Vec<u8>,
    pub index: LedgerIndex,
    /// `Err`: it consumed its number and changed nothing.
    pub outcome: Result<(), Rejection>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Stored {
    submission: Submission,
    #[serde(with = "serde_bytes")]
    matter: Vec<u8>,
}

/// Numbers of this origin, kept with the commands.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Numbers {
    incarnation: Incarnation,
    next: BTreeMap<Lane, Sequence>,
    first: BTreeMap<Lane, Sequence>,
}

impl Numbers {
    fn next(&self, lane: Lane) -> Sequence {
        self.next.get(&lane).copied().unwrap_or_default()
    }
    fn first(&self, lane: Lane) -> Sequence {
        self.first.get(&lane).copied().unwrap_or_default()
    }
    fn waiting(&self) -> u64 {
        Lane::ALL.iter().map(|lane| self.next(*lane).0 - self.first(*lane).0).sum()
    }
}

struct State {
    numbers: Numbers,
    /// Writes that are not known to be durable, with the number that follows theirs.
    unsynced: Vec<(Ticket, Lane, Sequence)>,
}

/// See the module's header.
pub struct Outbox {
    engine: Arc<dyn Engine>,
    federation: FederationId,
    node: NodeId,
    key: SigningKey,
    state: Mutex<State>,
}

impl Outbox {
    pub fn open(
        engine: Arc<dyn Engine>,
        federation: FederationId,
        node: NodeId,
        key: SigningKey,
    ) -> Result<Self, OutboxError> {
        let numbers = match engine.get(OUTBOX, &numbers_key(federation))? {
            Some(bytes) => decode("outbox numbers", &bytes, 4096)?,
            None => Numbers::default(),
        };
        Ok(Self { engine, federation, node, key, state: Mutex::new(State { numbers, unsynced: Vec::new() }) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commands that wait for certification.
    pub fn waiting(&self) -> u64 {
        self.state().numbers.waiting()
    }

    /// Signs and stores `drafts`, in this order, together with `change`, in one write.
    pub fn enqueue(&self, drafts: Vec<Draft>, mut change: Batch) -> Result<Ticket, OutboxError> {
        let mut state = self.state();
        if state.numbers.waiting() + drafts.len() as u64 > OUTBOX_COMMANDS_MAX {
            return Err(OutboxError::Full);
        }
        let mut numbers = state.numbers.clone();
        for draft in drafts {
            let submission = self.sign(&mut numbers, draft.lane, draft.kind, draft.public, draft.sealed);
            self.put(&mut change, &Stored { submission, matter: draft.matter });
        }
        change.put(OUTBOX, numbers_key(self.federation), encode(&numbers));
        let ticket = self.engine.submit(change)?;
        Ok(state.took(ticket, numbers))
    }

    fn sign(
        &self,
        numbers: &mut Numbers,
        lane: Lane,
        kind: Kind,
        public: Vec<u8>,
        sealed: Option<Vec<u8>>,
    ) -> Submission {
        let sequence = numbers.next(lane);
        numbers.next.insert(lane, sequence.next());
        let stream = self.stream(numbers.incarnation, lane);
        let hash = sealed.as_deref().map(sealed_hash);
        let body = CommandBody { version: VERSION, kind, stream, sequence, public, sealed: hash };
        Submission { command: body.sign(self.federation, &self.key), sealed }
    }

    fn stream(&self, incarnation: Incarnation, lane: Lane) -> Stream {
        Stream { node: self.node, incarnation, lane }
    }

    fn put(&self, batch: &mut Batch, stored: &Stored) {
        let body = &stored.submission.command.body;
        batch.put(OUTBOX, command_key(self.federation, body.stream.lane, body.sequence), encode(stored));
    }

    /// Durable commands of a lane, oldest first, at most `limit`.
    pub fn pending(&self, lane: Lane, limit: usize) -> Result<Vec<Submission>, OutboxError> {
        let (first, until) = {
            let mut state = self.state();
            let durable = self.engine.durable();
            state.unsynced.retain(|(ticket, ..)| *ticket > durable);
            let unsynced = state.unsynced.iter().filter(|(_, of, _)| *of == lane).map(|(.., from)| *from).min();
            (state.numbers.first(lane), unsynced.unwrap_or(state.numbers.next(lane)))
        };
        Ok(self.stored(lane, first, until, limit)?.into_iter().map(|stored| stored.submission).collect())
    }

    fn stored(&self, lane: Lane, from: Sequence, until: Sequence, limit: usize) -> Result<Vec<Stored>, OutboxError> {
        let (from, until) = (command_key(self.federation, lane, from), command_key(self.federation, lane, until));
        let pairs = self.engine.scan(OUTBOX, &from, Some(&until), limit.min(STEP_COMMANDS_MAX))?;
        pairs.iter().map(|(_, value)| Ok(decode("outbox command", value, ENTRY_BYTES_MAX)?)).collect()
    }

    /// Deletes what the replica's newest certificate covers, and says what became of it. Opens a new incarnation
    /// when the ledger is ahead. To be called after every certificate, until it returns nothing.
    pub fn settle(&self, replica: &Replica) -> Result<Vec<Settled>, OutboxError> {
        if self.ledger_is_ahead(replica)? {
            return self.begin_incarnation(replica);
        }
        let Some(certified) = replica.certificate().map(|certificate| certificate.checkpoint().size) else {
            return Ok(Vec::new());
        };
        let mut state = self.state();
        let mut numbers = state.numbers.clone();
        let mut batch = Batch::new();
        let mut settled = Vec::new();
        for lane in Lane::ALL {
            for stored in self.stored(lane, numbers.first(lane), numbers.next(lane), STEP_COMMANDS_MAX)? {
                let body = &stored.submission.command.body;
                let Some(placed) = replica.placed(&body.stream, body.sequence).map_err(ReplicaError::from)? else {
                    break;
                };
                if !certified.contains(placed.index) {
                    break;
                }
                batch.delete(OUTBOX, command_key(self.federation, lane, body.sequence));
                numbers.first.insert(lane, body.sequence.next());
                settled.push(told(stored, placed.index, placed.outcome));
            }
        }
        if !settled.is_empty() {
            batch.put(OUTBOX, numbers_key(self.federation), encode(&numbers));
            self.engine.submit(batch)?;
            state.numbers = numbers;
        }
        Ok(settled)
    }

    /// The ledger knows numbers of ours that this outbox never gave out, or other commands under those it did.
    fn ledger_is_ahead(&self, replica: &Replica) -> Result<bool, OutboxError> {
        let numbers = self.state().numbers.clone();
        let newest = kernel::incarnation(replica.view(), &self.node)?;
        if newest.is_some_and(|newest| newest > numbers.incarnation) {
            return Ok(true);
        }
        for lane in Lane::ALL {
            let stream = self.stream(numbers.incarnation, lane);
            if kernel::next_sequence(replica.view(), &stream)? > numbers.next(lane) {
                return Ok(true);
            }
            if let Some(first) = self.stored(lane, numbers.first(lane), numbers.next(lane), 1)?.first() {
                let placed = replica.placed(&stream, first.submission.command.body.sequence)?;
                if placed.is_some_and(|placed| placed.command != first.submission.command.hash()) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Signs anew, under a new incarnation, what is pending and not in the ledger.
    fn begin_incarnation(&self, replica: &Replica) -> Result<Vec<Settled>, OutboxError> {
        let mut state = self.state();
        let old = state.numbers.clone();
        let newest = kernel::incarnation(replica.view(), &self.node)?.unwrap_or_default().max(old.incarnation);
        let mut numbers = Numbers { incarnation: Incarnation(newest.0 + 1), ..Numbers::default() };
        let (mut batch, mut settled) = (Batch::new(), Vec::new());
        for lane in Lane::ALL {
            let mut from = old.first(lane);
            loop {
                let chunk = self.stored(lane, from, old.next(lane), STEP_COMMANDS_MAX)?;
                let Some(last) = chunk.last() else { break };
                from = last.submission.command.body.sequence.next();
                for stored in chunk {
                    self.renew(replica, stored, &mut numbers, &mut batch, &mut settled)?;
                }
            }
        }
        batch.put(OUTBOX, numbers_key(self.federation), encode(&numbers));
        let ticket = self.engine.submit(batch)?;
        state.took(ticket, numbers);
        Ok(settled)
    }

    fn renew(
        &self,
        replica: &Replica,
        stored: Stored,
        numbers: &mut Numbers,
        batch: &mut Batch,
        settled: &mut Vec<Settled>,
    ) -> Result<(), OutboxError> {
        let command = &stored.submission.command;
        let body = &command.body;
        let lane = body.stream.lane;
        batch.delete(OUTBOX, command_key(self.federation, lane, body.sequence));
        match replica.placed(&body.stream, body.sequence)? {
            Some(placed) if placed.command == command.hash() => {
                settled.push(told(stored, placed.index, placed.outcome))
            }
            _ => {
                let Stored { submission, matter } = stored;
                let body = submission.command.body;
                let submission = self.sign(numbers, lane, body.kind, body.public, submission.sealed);
                self.put(batch, &Stored { submission, matter });
            }
        }
        Ok(())
    }
}

impl State {
    fn took(&mut self, ticket: Ticket, numbers: Numbers) -> Ticket {
        let same = numbers.incarnation == self.numbers.incarnation;
        for lane in Lane::ALL {
            let from = if same { self.numbers.next(lane) } else { Sequence(0) };
            if numbers.next(lane) > from {
                self.unsynced.push((ticket, lane, from));
            }
        }
        self.numbers = numbers;
        ticket
    }
}

fn told(stored: Stored, index: LedgerIndex, outcome: Outcome) -> Settled {
    let outcome = match outcome {
        Outcome::Rejected(rejection) => Err(rejection),
        // A refused command has no place in its stream and is never told.
        Outcome::Applied | Outcome::Refused(_) => Ok(()),
    };
    Settled { kind: stored.submission.command.body.kind, matter: stored.matter, index, outcome }
}

fn prefix(federation: FederationId, part: u8) -> Vec<u8> {
    let mut key = federation.hash().as_bytes().to_vec();
    key.push(part);
    key
}

fn numbers_key(federation: FederationId) -> Vec<u8> {
    prefix(federation, b'n')
}

fn command_key(federation: FederationId, lane: Lane, sequence: Sequence) -> Vec<u8> {
    let mut key = prefix(federation, b'c');
    key.push(lane.into());
    key.extend_from_slice(&sequence.0.to_be_bytes());
    key
}
