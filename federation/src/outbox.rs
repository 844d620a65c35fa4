//! The origin's outbox: commands between the change that caused them and the ledger that certified them.
//!
//! Sans-IO but for the storage engine: a driver sends what [`Outbox::pending`] hands out to any core node, as often
//! as it likes, and calls [`Outbox::settle`] whenever the replica reached a newer certificate. Invariants:
//! 1. A command gets its place in its lane and reaches the disk in one write with the change that caused it.
//! 2. Nothing is handed out before it is durable.
//! 3. Under one number of one incarnation at most one command is ever signed. Every opening begins a new
//!    incarnation, some way ahead by chance: whether the directory is an old copy that somebody put back can't be
//!    known from within, and commands of the life that the copy lacks may still be on their way. So nobody is accused.
//! 4. Nothing is deleted before the ledger certified that very content. Content that another number brought into the
//!    ledger (before a restart, or in a life that was lost) counts as applied, and not as rejected: nothing is twice.
//! 5. Numbers have no gaps: a command's number is its place in the lane, counted from the first command that was
//!    pending when the incarnation began. So a new incarnation rewrites no command.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tessera_consensus::kernel::{self, Outcome, Rejection};
use tessera_consensus::keys::SigningKey;
use tessera_consensus::replica::{Replica, ReplicaError};
use tessera_consensus::wire::v1::{CommandBody, Kind, Leaf, PUBLIC_BYTES_MAX, SEALED_BYTES_MAX, Submission};
use tessera_consensus::wire::v1::{VERSION, sealed_hash};
use tessera_consensus::wire::{DecodeError, decode, encode};
use tessera_consensus::{FederationId, Incarnation, Lane, LedgerIndex, LedgerSize, NodeId, Sequence, Stream};
use tessera_storage::engine::{Batch, Engine, EngineError, Table, Ticket};

use crate::machine;

/// The engine's table.
pub const OUTBOX: Table = "outbox";
/// Bulk commands that may wait. Beyond it registration waits while ingest goes on from the catalogue.
pub const OUTBOX_COMMANDS_MAX: u64 = 1_000_000;
/// Urgent commands that may wait, apart from the bulk: a full outbox must not stop a revocation.
pub const URGENT_COMMANDS_MAX: u64 = 10_000;
/// Bytes of a draft's matter.
pub const MATTER_BYTES_MAX: usize = 1024;
/// Commands looked at in one step.
const STEP_COMMANDS_MAX: usize = 1024;
/// How far ahead a new incarnation may begin. The wider, the less likely two lives meet in one.
const INCARNATION_STRIDE_MAX: u32 = 1 << 16;
const ENTRY_BYTES_MAX: usize = PUBLIC_BYTES_MAX + SEALED_BYTES_MAX + MATTER_BYTES_MAX + 64;

/// Why the outbox could not take or give a command.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OutboxError {
    #[error("the outbox is full ({waiting} commands wait for the core): registration waits until it drains")]
    Full { waiting: u64 },
    #[error("the command can't be sent: {what} has {got} bytes, at most {limit} are allowed")]
    TooLong { what: &'static str, got: usize, limit: usize },
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
    /// Comes back with the outcome, so that the caller knows its own matter again. Opaque, at most 1,024 bytes.
    pub matter: Vec<u8>,
}

/// What the ledger made of a command. After a crash it may be told a second time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    pub kind: Kind,
    pub matter: Vec<u8>,
    /// Where it took effect; where it was rejected, otherwise.
    pub index: LedgerIndex,
    /// `Err`: it consumed its number and changed nothing.
    pub outcome: Result<(), Rejection>,
}

/// A command as it lies in the table. It is numbered and signed when it is handed out.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Stored {
    kind: Kind,
    #[serde(with = "serde_bytes")]
    public: Vec<u8>,
    #[serde(with = "serde_bytes")]
    sealed: Option<Vec<u8>>,
    #[serde(with = "serde_bytes")]
    matter: Vec<u8>,
}

/// One lane's places, which count from 0 for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct LanePlaces {
    /// The place of number 0 of the present incarnation.
    base: u64,
    /// The oldest command that is here.
    first: u64,
    /// The place of the next command.
    next: u64,
}

/// Kept with the commands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Places {
    incarnation: Incarnation,
    urgent: LanePlaces,
    bulk: LanePlaces,
}

impl Places {
    fn lane(&self, lane: Lane) -> &LanePlaces {
        match lane {
            Lane::Urgent => &self.urgent,
            Lane::Bulk => &self.bulk,
        }
    }

    fn lane_mut(&mut self, lane: Lane) -> &mut LanePlaces {
        match lane {
            Lane::Urgent => &mut self.urgent,
            Lane::Bulk => &mut self.bulk,
        }
    }

    fn waiting(&self, lane: Lane) -> u64 {
        self.lane(lane).next - self.lane(lane).first
    }

    /// The same commands under an incarnation behind `newest`.
    fn in_new_incarnation(mut self, newest: Incarnation, entropy: u32) -> Self {
        let stride = 1 + entropy % INCARNATION_STRIDE_MAX;
        self.incarnation = Incarnation(newest.max(self.incarnation).0.saturating_add(stride));
        for lane in Lane::ALL {
            let places = self.lane_mut(lane);
            places.base = places.first;
        }
        self
    }
}

struct State {
    places: Places,
    /// Writes that are not known to be durable, and from which place on they left a lane not durable.
    unsynced: Vec<(Ticket, Lane, u64)>,
    /// By lane, behind what the ledger holds already: from here on commands are handed out.
    send_from: [u64; 2],
    /// By lane: whether a number of this incarnation was handed out.
    handed_out: [bool; 2],
    entropy: u32,
}

impl State {
    /// The commands from `from` on are durable with `ticket` only.
    fn written(&mut self, ticket: Ticket, lane: Lane, from: u64) {
        self.unsynced.push((ticket, lane, from));
    }

    fn durable_until(&mut self, lane: Lane, durable: Ticket) -> u64 {
        self.unsynced.retain(|(ticket, ..)| *ticket > durable);
        let unsynced = self.unsynced.iter().filter(|(_, of, _)| *of == lane).map(|(.., from)| *from).min();
        unsynced.unwrap_or(self.places.lane(lane).next)
    }

    fn begin_incarnation(&mut self, places: Places, ticket: Ticket) {
        self.places = places;
        for lane in Lane::ALL {
            let first = places.lane(lane).first;
            self.written(ticket, lane, first);
            self.send_from[slot(lane)] = first;
            self.handed_out[slot(lane)] = false;
        }
    }
}

const fn slot(lane: Lane) -> usize {
    match lane {
        Lane::Urgent => 0,
        Lane::Bulk => 1,
    }
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
    /// Opens the outbox in `engine` under a new incarnation. `entropy` is fresh randomness of this opening.
    pub fn open(
        engine: Arc<dyn Engine>,
        federation: FederationId,
        node: NodeId,
        key: SigningKey,
        entropy: u32,
    ) -> Result<Self, OutboxError> {
        let places: Places = match engine.get(OUTBOX, &places_key(federation))? {
            Some(bytes) => decode("outbox places", &bytes, 256)?,
            None => Places::default(),
        };
        let state = State { places, unsynced: Vec::new(), send_from: [0; 2], handed_out: [false; 2], entropy };
        let outbox = Self { engine, federation, node, key, state: Mutex::new(state) };
        outbox.begin_incarnation(&mut outbox.state(), Incarnation(0))?;
        Ok(outbox)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commands that wait for certification.
    pub fn waiting(&self) -> u64 {
        let places = self.state().places;
        Lane::ALL.iter().map(|lane| places.waiting(*lane)).sum()
    }

    /// Stores `drafts`, in this order, together with `change`, in one write.
    pub fn enqueue(&self, drafts: Vec<Draft>, mut change: Batch) -> Result<Ticket, OutboxError> {
        drafts.iter().try_for_each(check)?;
        let mut state = self.state();
        let mut places = state.places;
        for Draft { lane, kind, public, sealed, matter } in drafts {
            let limit = if lane == Lane::Urgent { URGENT_COMMANDS_MAX } else { OUTBOX_COMMANDS_MAX };
            if places.waiting(lane) >= limit {
                return Err(OutboxError::Full { waiting: places.waiting(lane) });
            }
            let place = &mut places.lane_mut(lane).next;
            let stored = Stored { kind, public, sealed, matter };
            change.put(OUTBOX, command_key(self.federation, lane, *place), encode(&stored));
            *place += 1;
        }
        change.put(OUTBOX, places_key(self.federation), encode(&places));
        let ticket = self.engine.submit(change)?;
        for lane in Lane::ALL {
            let before = state.places.lane(lane).next;
            if places.lane(lane).next > before {
                state.written(ticket, lane, before);
            }
        }
        state.places = places;
        Ok(ticket)
    }

    /// Durable commands of a lane that the ledger has not taken yet, numbered and signed, oldest first, at most
    /// `limit`. To be sent in this order; sending them again is harmless. The urgent lane goes first.
    pub fn pending(&self, lane: Lane, limit: usize) -> Result<Vec<Submission>, OutboxError> {
        let mut state = self.state();
        let until = state.durable_until(lane, self.engine.durable());
        let from = state.send_from[slot(lane)].max(state.places.lane(lane).first);
        let places = state.places;
        let stored = self.stored(lane, from, until, limit)?;
        state.handed_out[slot(lane)] |= !stored.is_empty();
        drop(state);
        let sign = |(place, stored): (u64, Stored)| self.sign(&places, lane, place, stored);
        Ok((from..).zip(stored).map(sign).collect())
    }

    fn sign(&self, places: &Places, lane: Lane, place: u64, stored: Stored) -> Submission {
        let Stored { kind, public, sealed, .. } = stored;
        let stream = self.stream(places, lane);
        let sequence = Sequence(place - places.lane(lane).base);
        let hash = sealed.as_deref().map(sealed_hash);
        let body = CommandBody { version: VERSION, kind, stream, sequence, public, sealed: hash };
        Submission { command: body.sign(self.federation, &self.key), sealed }
    }

    fn stream(&self, places: &Places, lane: Lane) -> Stream {
        Stream { node: self.node, incarnation: places.incarnation, lane }
    }

    fn stored(&self, lane: Lane, from: u64, until: u64, limit: usize) -> Result<Vec<Stored>, OutboxError> {
        let (from, until) = (command_key(self.federation, lane, from), command_key(self.federation, lane, until));
        let pairs = self.engine.scan(OUTBOX, &from, Some(&until), limit.min(STEP_COMMANDS_MAX))?;
        pairs.iter().map(|(_, value)| Ok(decode("outbox command", value, ENTRY_BYTES_MAX)?)).collect()
    }

    /// Deletes what the replica's newest certificate covers, and says what became of it; begins a new incarnation
    /// when the ledger holds numbers of ours that were not given out here. To be called after every certificate,
    /// until it returns nothing.
    pub fn settle(&self, replica: &Replica) -> Result<Vec<Settled>, OutboxError> {
        let mut state = self.state();
        if let Some(newest) = self.ledger_is_ahead(&state.places, replica)? {
            self.begin_incarnation(&mut state, newest)?;
        }
        let certified = replica.certificate().map_or(LedgerSize(0), |certificate| certificate.checkpoint().size);
        let mut places = state.places;
        let mut batch = Batch::new();
        let mut settled = Vec::new();
        for lane in Lane::ALL {
            let step = Step { outbox: self, replica, certified, lane };
            step.settle_numbered(&mut places, &mut batch, &mut settled)?;
            if !state.handed_out[slot(lane)] {
                step.settle_repeated(&mut places, &mut batch, &mut settled)?;
            }
            let taken = kernel::next_sequence(replica.view(), &self.stream(&places, lane))?;
            let placed = places.lane(lane).base.saturating_add(taken.0).min(places.lane(lane).next);
            state.send_from[slot(lane)] = placed.max(places.lane(lane).first);
        }
        if !settled.is_empty() {
            batch.put(OUTBOX, places_key(self.federation), encode(&places));
            self.engine.submit(batch)?;
            state.places = places;
        }
        Ok(settled)
    }

    /// The newest incarnation that the ledger has of this node, when it holds something that this outbox did not
    /// give out: another life of this node wrote it.
    fn ledger_is_ahead(&self, places: &Places, replica: &Replica) -> Result<Option<Incarnation>, OutboxError> {
        let newest = kernel::incarnation(replica.view(), &self.node)?.unwrap_or_default();
        if newest > places.incarnation {
            return Ok(Some(newest));
        }
        for lane in Lane::ALL {
            let stream = self.stream(places, lane);
            let LanePlaces { base, first, next } = *places.lane(lane);
            if kernel::next_sequence(replica.view(), &stream)?.0 > next - base {
                return Ok(Some(newest));
            }
            if let Some(oldest) = self.stored(lane, first, next, 1)?.pop()
                && let Some(placed) = replica.placed(&stream, Sequence(first - base))?
                && placed.command != self.sign(places, lane, first, oldest).command.hash()
            {
                return Ok(Some(newest));
            }
        }
        Ok(None)
    }

    fn begin_incarnation(&self, state: &mut State, newest: Incarnation) -> Result<(), OutboxError> {
        let places = state.places.in_new_incarnation(newest, state.entropy);
        // Another draw for the next time, from the same seed: no two lives share one.
        state.entropy = state.entropy.rotate_left(7).wrapping_mul(0x9E37_79B1).wrapping_add(1);
        let mut batch = Batch::new();
        batch.put(OUTBOX, places_key(self.federation), encode(&places));
        let ticket = self.engine.submit(batch)?;
        state.begin_incarnation(places, ticket);
        Ok(())
    }

    /// Where the content of `stored` took effect under whatever number of ours.
    fn applied_at(&self, replica: &Replica, stored: &Stored) -> Result<Option<LedgerIndex>, OutboxError> {
        let Some(index) = machine::applied_at(replica.view(), stored.kind, &stored.public)? else { return Ok(None) };
        let Some(entry) = replica.entry(index)? else { return Ok(None) };
        let body = Leaf::from_bytes(&entry.leaf)?.command.body;
        let same = body.stream.node == self.node
            && body.kind == stored.kind
            && body.public == stored.public
            && body.sealed == stored.sealed.as_deref().map(sealed_hash);
        Ok(same.then_some(index))
    }
}

/// One lane's part of a settlement.
struct Step<'a> {
    outbox: &'a Outbox,
    replica: &'a Replica,
    certified: LedgerSize,
    lane: Lane,
}

impl Step<'_> {
    /// What is certified under its number of this incarnation.
    fn settle_numbered(
        &self,
        places: &mut Places,
        batch: &mut Batch,
        settled: &mut Vec<Settled>,
    ) -> Result<(), OutboxError> {
        let stream = self.outbox.stream(places, self.lane);
        let LanePlaces { base, first, next } = *places.lane(self.lane);
        for (place, stored) in (first..).zip(self.outbox.stored(self.lane, first, next, STEP_COMMANDS_MAX)?) {
            let placed = self.replica.placed(&stream, Sequence(place - base)).map_err(ReplicaError::from)?;
            let Some(placed) = placed.filter(|placed| self.certified.contains(placed.index)) else { break };
            let told = match placed.outcome {
                Outcome::Rejected(rejection) => match self.outbox.applied_at(self.replica, &stored)? {
                    Some(index) => told(stored, index, Ok(())),
                    None => told(stored, placed.index, Err(rejection)),
                },
                // A refused command has no place in its stream.
                Outcome::Applied | Outcome::Refused(_) => told(stored, placed.index, Ok(())),
            };
            self.remove(places, place, batch);
            settled.push(told);
        }
        Ok(())
    }

    /// What an earlier life brought into the ledger, as long as no number of this incarnation was handed out.
    fn settle_repeated(
        &self,
        places: &mut Places,
        batch: &mut Batch,
        settled: &mut Vec<Settled>,
    ) -> Result<(), OutboxError> {
        let LanePlaces { base, first, next } = *places.lane(self.lane);
        if first != base {
            return Ok(());
        }
        for (place, stored) in (first..).zip(self.outbox.stored(self.lane, first, next, STEP_COMMANDS_MAX)?) {
            let applied = self.outbox.applied_at(self.replica, &stored)?;
            let Some(index) = applied.filter(|index| self.certified.contains(*index)) else { break };
            self.remove(places, place, batch);
            places.lane_mut(self.lane).base = place + 1;
            settled.push(told(stored, index, Ok(())));
        }
        Ok(())
    }

    fn remove(&self, places: &mut Places, place: u64, batch: &mut Batch) {
        batch.delete(OUTBOX, command_key(self.outbox.federation, self.lane, place));
        places.lane_mut(self.lane).first = place + 1;
    }
}

fn check(draft: &Draft) -> Result<(), OutboxError> {
    let sealed = draft.sealed.as_ref().map_or(0, Vec::len);
    for (what, got, limit) in [
        ("the public part", draft.public.len(), PUBLIC_BYTES_MAX),
        ("the sealed body", sealed, SEALED_BYTES_MAX),
        ("the matter", draft.matter.len(), MATTER_BYTES_MAX),
    ] {
        if got > limit {
            return Err(OutboxError::TooLong { what, got, limit });
        }
    }
    Ok(())
}

fn told(stored: Stored, index: LedgerIndex, outcome: Result<(), Rejection>) -> Settled {
    Settled { kind: stored.kind, matter: stored.matter, index, outcome }
}

fn prefix(federation: FederationId, part: u8) -> Vec<u8> {
    let mut key = federation.hash().as_bytes().to_vec();
    key.push(part);
    key
}

fn places_key(federation: FederationId) -> Vec<u8> {
    prefix(federation, b'p')
}

fn command_key(federation: FederationId, lane: Lane, place: u64) -> Vec<u8> {
    let mut key = prefix(federation, b'd');
    key.push(lane.into());
    key.extend_from_slice(&place.to_be_bytes());
    key
}
