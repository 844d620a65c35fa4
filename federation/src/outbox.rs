//! The origin's outbox: commands between the change that caused them and the ledger that certified them.
//!
//! Sans-IO but for the storage engine: a driver sends what [`Outbox::pending`] hands out to any core node, as often
//! as it likes, and calls [`Outbox::settle`] whenever the replica reached a newer certificate. Invariants:
//! 1. A command gets its place in its lane and reaches the disk in one write with the change that caused it.
//! 2. Nothing is handed out before it is durable.
//! 3. Under one number of one incarnation at most one command is ever signed. Every opening begins a new
//!    incarnation, some way ahead by chance: whether the directory is an old copy that somebody put back can't be
//!    known from within, and commands of the life that the copy lacks may still be on their way. So nobody is accused.
//! 4. Nothing is deleted before the ledger certified that very content, and the caller has come back after it was told
//!    so: after a crash in between it is told again, and a rejection is never forgotten. Content that another number brought into the
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

/// What the ledger made of a command. After a crash it may be told again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    pub lane: Lane,
    pub kind: Kind,
    pub public: Vec<u8>,
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

/// What one lane holds; places count from 0 for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    /// The oldest command that is here.
    first: u64,
    /// The place of the next command.
    next: u64,
}

/// Kept with the commands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Places {
    incarnation: Incarnation,
    urgent: Held,
    bulk: Held,
}

impl Places {
    fn lane(&self, lane: Lane) -> &Held {
        match lane {
            Lane::Urgent => &self.urgent,
            Lane::Bulk => &self.bulk,
        }
    }

    fn lane_mut(&mut self, lane: Lane) -> &mut Held {
        match lane {
            Lane::Urgent => &mut self.urgent,
            Lane::Bulk => &mut self.bulk,
        }
    }
}

/// How far one lane is in this life.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// The place of number 0 of the present incarnation.
    base: u64,
    /// Up to here the caller was told what became of it.
    told: u64,
    /// Behind what the ledger holds already: from here on commands are handed out.
    send_from: u64,
    /// Whether a number of this incarnation was handed out.
    handed_out: bool,
}

struct State {
    places: Places,
    progress: [Progress; 2],
    /// Writes that are not known to be durable, and from which place on they left a lane not durable.
    unsynced: Vec<(Ticket, Lane, u64)>,
    entropy: u32,
}

impl State {
    fn durable_until(&mut self, lane: Lane, durable: Ticket) -> u64 {
        self.unsynced.retain(|(ticket, ..)| *ticket > durable);
        let unsynced = self.unsynced.iter().filter(|(_, of, _)| *of == lane).map(|(.., from)| *from).min();
        unsynced.unwrap_or(self.places.lane(lane).next)
    }

    fn waiting(&self, lane: Lane) -> u64 {
        self.places.lane(lane).next - self.progress[slot(lane)].told
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
    /// Commands that may wait, by lane.
    room: [u64; 2],
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
        let begin = |held: &Held| Progress { told: held.first, ..Progress::default() };
        let progress = [begin(&places.urgent), begin(&places.bulk)];
        let state = State { places, progress, unsynced: Vec::new(), entropy };
        let room = [URGENT_COMMANDS_MAX, OUTBOX_COMMANDS_MAX];
        let outbox = Self { engine, federation, node, key, state: Mutex::new(state), room };
        outbox.begin_incarnation(&mut outbox.state(), Incarnation(0))?;
        Ok(outbox)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves room for fewer commands: for tests of what happens when it is full.
    pub fn shrink(&mut self, urgent: u64, bulk: u64) {
        self.room = [urgent.min(URGENT_COMMANDS_MAX), bulk.min(OUTBOX_COMMANDS_MAX)];
    }

    /// Commands that wait for certification.
    pub fn waiting(&self) -> u64 {
        let state = self.state();
        Lane::ALL.iter().map(|lane| state.waiting(*lane)).sum()
    }

    /// Stores `drafts`, in this order, together with `change`, in one write.
    pub fn enqueue(&self, drafts: Vec<Draft>, mut change: Batch) -> Result<Ticket, OutboxError> {
        drafts.iter().try_for_each(check)?;
        let mut state = self.state();
        let mut places = state.places;
        for Draft { lane, kind, public, sealed, matter } in drafts {
            let limit = self.room[slot(lane)];
            let held = places.lane_mut(lane);
            let waiting = held.next - held.first;
            if waiting >= limit {
                return Err(OutboxError::Full { waiting });
            }
            let place = &mut held.next;
            let stored = Stored { kind, public, sealed, matter };
            change.put(OUTBOX, command_key(self.federation, lane, *place), encode(&stored));
            *place += 1;
        }
        change.put(OUTBOX, places_key(self.federation), encode(&places));
        let ticket = self.engine.submit(change)?;
        for lane in Lane::ALL {
            let before = state.places.lane(lane).next;
            if places.lane(lane).next > before {
                state.unsynced.push((ticket, lane, before));
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
        let progress = &mut state.progress[slot(lane)];
        let (from, base) = (progress.send_from, progress.base);
        let stored = self.stored(lane, from, until, limit)?;
        progress.handed_out |= !stored.is_empty();
        let stream = self.stream(state.places.incarnation, lane);
        drop(state);
        let number = |place: u64| Sequence(place - base);
        Ok((from..).zip(stored).map(|(place, stored)| self.sign(stream, number(place), stored)).collect())
    }

    /// Lanes, kinds and public parts of commands that nothing was told of yet, at most `limit`, the oldest of each lane first.
    pub fn untold(&self, limit: usize) -> Result<Vec<(Lane, Kind, Vec<u8>)>, OutboxError> {
        let state = self.state();
        let mut untold = Vec::new();
        for lane in Lane::ALL {
            let (mut from, until) = (state.progress[slot(lane)].told, state.places.lane(lane).next);
            while from < until && untold.len() < limit {
                let stored = self.stored(lane, from, until, limit - untold.len())?;
                if stored.is_empty() {
                    break;
                }
                from += stored.len() as u64;
                untold.extend(stored.into_iter().map(|stored| (lane, stored.kind, stored.public)));
            }
        }
        Ok(untold)
    }

    fn sign(&self, stream: Stream, sequence: Sequence, stored: Stored) -> Submission {
        let Stored { kind, public, sealed, .. } = stored;
        let hash = sealed.as_deref().map(sealed_hash);
        let body = CommandBody { version: VERSION, kind, stream, sequence, public, sealed: hash };
        Submission { command: body.sign(self.federation, &self.key), sealed }
    }

    fn stream(&self, incarnation: Incarnation, lane: Lane) -> Stream {
        Stream { node: self.node, incarnation, lane }
    }

    fn stored(&self, lane: Lane, from: u64, until: u64, limit: usize) -> Result<Vec<Stored>, OutboxError> {
        let (from, until) = (command_key(self.federation, lane, from), command_key(self.federation, lane, until));
        let pairs = self.engine.scan(OUTBOX, &from, Some(&until), limit.min(STEP_COMMANDS_MAX))?;
        pairs.iter().map(|(_, value)| Ok(decode("outbox command", value, ENTRY_BYTES_MAX)?)).collect()
    }

    /// Says what became of the commands that the replica's newest certificate covers, and deletes those of which it
    /// was said at the call before; begins a new incarnation when the ledger holds numbers of ours that were not
    /// given out here. To be called after every certificate, until it returns nothing; who calls again has done, and
    /// written to the same engine, whatever it had to do about the answer.
    pub fn settle(&self, replica: &Replica) -> Result<Vec<Settled>, OutboxError> {
        let mut state = self.state();
        self.delete_told(&mut state)?;
        if let Some(newest) = self.ledger_is_ahead(&state, replica)? {
            self.begin_incarnation(&mut state, newest)?;
        }
        let certified = replica.certificate().map_or(LedgerSize(0), |certificate| certificate.checkpoint().size);
        let mut settled = Vec::new();
        for lane in Lane::ALL {
            let stream = self.stream(state.places.incarnation, lane);
            let held = *state.places.lane(lane);
            let step = Step { outbox: self, replica, certified, stream, held };
            let progress = &mut state.progress[slot(lane)];
            step.settle_numbered(progress, &mut settled)?;
            step.settle_repeated(progress, &mut settled)?;
            let taken = kernel::next_sequence(replica.view(), &stream)?;
            let behind_ledger = progress.base.saturating_add(taken.0).min(held.next);
            progress.send_from = behind_ledger.max(progress.told);
        }
        Ok(settled)
    }

    fn delete_told(&self, state: &mut State) -> Result<(), OutboxError> {
        let mut places = state.places;
        let mut batch = Batch::new();
        for lane in Lane::ALL {
            let (held, told) = (places.lane_mut(lane), state.progress[slot(lane)].told);
            (held.first..told).for_each(|place| {
                batch.delete(OUTBOX, command_key(self.federation, lane, place));
            });
            held.first = told;
        }
        if !batch.is_empty() {
            batch.put(OUTBOX, places_key(self.federation), encode(&places));
            self.engine.submit(batch)?;
            state.places = places;
        }
        Ok(())
    }

    /// The newest incarnation that the ledger has of this node, when it holds something that this outbox did not
    /// give out: another life of this node wrote it.
    fn ledger_is_ahead(&self, state: &State, replica: &Replica) -> Result<Option<Incarnation>, OutboxError> {
        let newest = kernel::incarnation(replica.view(), &self.node)?.unwrap_or_default();
        if newest > state.places.incarnation {
            return Ok(Some(newest));
        }
        for lane in Lane::ALL {
            let stream = self.stream(state.places.incarnation, lane);
            let Progress { base, told, .. } = state.progress[slot(lane)];
            let next = state.places.lane(lane).next;
            if kernel::next_sequence(replica.view(), &stream)?.0 > next - base {
                return Ok(Some(newest));
            }
            let number = Sequence(told - base);
            if let Some(oldest) = self.stored(lane, told, next, 1)?.pop()
                && let Some(placed) = replica.placed(&stream, number)?
                && placed.command != self.sign(stream, number, oldest).command.hash()
            {
                return Ok(Some(newest));
            }
        }
        Ok(None)
    }

    fn begin_incarnation(&self, state: &mut State, newest: Incarnation) -> Result<(), OutboxError> {
        let stride = 1 + state.entropy % INCARNATION_STRIDE_MAX;
        // Another draw for the next time in this life.
        state.entropy = state.entropy.rotate_left(7).wrapping_mul(0x9E37_79B1).wrapping_add(1);
        let mut places = state.places;
        places.incarnation = Incarnation(newest.max(places.incarnation).0.saturating_add(stride));
        let mut batch = Batch::new();
        batch.put(OUTBOX, places_key(self.federation), encode(&places));
        let ticket = self.engine.submit(batch)?;
        state.places = places;
        for lane in Lane::ALL {
            let progress = &mut state.progress[slot(lane)];
            let told = progress.told;
            *progress = Progress { base: told, told, send_from: told, handed_out: false };
            state.unsynced.push((ticket, lane, told));
        }
        Ok(())
    }

    /// Where the content of `stored` took effect under whatever number of ours.
    fn applied_at(&self, replica: &Replica, stored: &Stored) -> Result<Option<LedgerIndex>, OutboxError> {
        let Some(index) = machine::applied_at(replica.view(), &self.node, stored.kind, &stored.public)? else {
            return Ok(None);
        };
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
    stream: Stream,
    held: Held,
}

impl Step<'_> {
    /// The commands that nothing was told of yet, with their places.
    fn untold(&self, told: u64) -> Result<impl Iterator<Item = (u64, Stored)> + use<>, OutboxError> {
        let stored = self.outbox.stored(self.stream.lane, told, self.held.next, STEP_COMMANDS_MAX)?;
        Ok((told..).zip(stored))
    }

    /// What is certified under its number of this incarnation.
    fn settle_numbered(&self, progress: &mut Progress, settled: &mut Vec<Settled>) -> Result<(), OutboxError> {
        for (place, stored) in self.untold(progress.told)? {
            let number = Sequence(place - progress.base);
            let placed = self.replica.placed(&self.stream, number).map_err(ReplicaError::from)?;
            let Some(placed) = placed.filter(|placed| self.certified.contains(placed.index)) else { break };
            settled.push(match placed.outcome {
                Outcome::Rejected(rejection) => match self.outbox.applied_at(self.replica, &stored)? {
                    Some(index) => self.told(stored, index, Ok(())),
                    None => self.told(stored, placed.index, Err(rejection)),
                },
                // A refused command has no place in its stream.
                Outcome::Applied | Outcome::Refused(_) => self.told(stored, placed.index, Ok(())),
            });
            progress.told = place + 1;
        }
        Ok(())
    }

    /// What an earlier life brought into the ledger: needs no number, as long as none was handed out behind it.
    fn settle_repeated(&self, progress: &mut Progress, settled: &mut Vec<Settled>) -> Result<(), OutboxError> {
        if progress.handed_out || progress.told != progress.base {
            return Ok(());
        }
        for (place, stored) in self.untold(progress.told)? {
            let applied = self.outbox.applied_at(self.replica, &stored)?;
            let Some(index) = applied.filter(|index| self.certified.contains(*index)) else { break };
            settled.push(self.told(stored, index, Ok(())));
            progress.told = place + 1;
            progress.base = place + 1;
        }
        Ok(())
    }

    fn told(&self, stored: Stored, index: LedgerIndex, outcome: Result<(), Rejection>) -> Settled {
        let Stored { kind, public, matter, .. } = stored;
        Settled { lane: self.stream.lane, kind, public, matter, index, outcome }
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
