//! The Raft log, the vote and the committed position, on the storage engine's ordered log of writes.
//!
//! Invariants:
//! 1. Append, vote, truncate and purge are submitted in the order of the calls, so the disk holds a prefix of them.
//!    Nothing waits for the disk in here: completions come from the engine's `on_durable`. Only where there is no room
//!    for a write does openraft's task wait, and with it this node's part in Raft (`log_storage`); the others go on.
//! 2. The batches in the log form one chain: each names the hash of the one before it, the first the genesis.
//!    A batch that does not is never written ([`LogStore::append_entries`] is the last of the checks, the first is
//!    [`super::admission`]).
//! 3. The log never comes back shorter than what was confirmed ([`super::watermark`]); if it does, it does not open.
//!
//! Keys: table [`RAFT_LOG`] entry by big-endian index; table [`RAFT_META`] `vote`, `committed`, `purged`.

use std::collections::BTreeMap;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::channel::oneshot;
use openraft::EntryPayload;
use serde::{Deserialize, Serialize};
use tessera_storage::engine::{Batch, Engine, EngineError, Table, Ticket, View};

use super::types::{LogEntry, LogId, SharedBatch, Vote};
use super::watermark::{DurableMark, MarkKeeper, Watermark};
use super::wire::{self, WireEntry, WireLogId, WireTipAt, WireVote};
use crate::ids::{Hash, UnixMillis};
use crate::wire::DecodeError;

/// Entries by index.
pub const RAFT_LOG: Table = "raft_log";
/// Vote, committed position, purged position.
pub const RAFT_META: Table = "raft_meta";
/// All tables of the Raft directory's engine.
pub const TABLES: [Table; 2] = [RAFT_LOG, RAFT_META];

const META_VOTE: &[u8] = b"vote";
const META_COMMITTED: &[u8] = b"committed";
const META_PURGED: &[u8] = b"purged";
const META_BYTES_MAX: usize = 1024;
/// One engine batch of an append; longer appends are split.
const SUBMIT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Entries read at a time, so that a long log is never in memory as a whole.
const READ_ENTRIES: usize = 8;

/// The newest batch of a chain: what the next one must name, and before which time it may not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tip {
    pub hash: Hash,
    pub time: UnixMillis,
}

impl Tip {
    pub fn of(batch: &SharedBatch) -> Self {
        Self { hash: batch.hash(), time: batch.batch().time }
    }
}

/// Why the log could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("the Raft log holds bytes that this version cannot read at {place}: {source}")]
    Decode { place: String, source: DecodeError },
    #[error("the Raft log has a hole: entry {expected} is missing, {found} follows; rejoin as a learner")]
    Hole { expected: u64, found: u64 },
    #[error(
        "this core node's log came back shorter than what it had confirmed ({found:?}, confirmed {confirmed:?}): it \
         may not vote with it"
    )]
    LogShorterThanDurable { found: DurableMark, confirmed: DurableMark },
    #[error("batch at {index} names {named} as its previous one, the log's newest is {newest}")]
    BrokenChain { index: u64, named: Hash, newest: Hash },
    #[error("the watermark beside the Raft log could not be read or written: {0}")]
    Watermark(#[source] io::Error),
    #[error("the Raft log's engine was closed before the write was durable")]
    Closed,
}

impl LogError {
    /// The engine's error, if it is one.
    pub(super) fn engine(&self) -> Option<&EngineError> {
        match self {
            Self::Engine(error) => Some(error),
            _ => None,
        }
    }
}

impl From<LogError> for io::Error {
    fn from(error: LogError) -> Self {
        io::Error::other(error)
    }
}

#[derive(Default)]
struct State {
    vote: Option<Vote>,
    committed: Option<LogId>,
    /// Last purged entry with the tip there.
    purged: Option<(LogId, Option<Tip>)>,
    /// Last entry; the purged one when there are none.
    last: Option<LogId>,
    /// `None` when the chain's newest batch is not known: after a purge beyond the log without a snapshot's tip.
    tip: Option<Tip>,
    /// The tip at a snapshot that is about to replace the log.
    expected: Option<(LogId, Tip)>,
    /// The newest append.
    appended: Ticket,
    /// Who waits for a batch to become the newest.
    awaited: Option<(Hash, oneshot::Sender<()>)>,
    /// What of this node's part in Raft waits for room on a disk, and why.
    waits: BTreeMap<Waits, String>,
}

/// What may wait for room. While the log does, so does all of Raft here; while the state machine does, this node may still
/// follow, and must not lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Waits {
    Log,
    StateMachine,
}

/// What was appended and is not durable yet.
pub(super) struct Appended {
    ticket: Ticket,
    last: Option<LogId>,
    /// Of the marks, when it was appended.
    era: u64,
}

struct Shared {
    engine: Arc<dyn Engine>,
    marks: Arc<MarkKeeper>,
    genesis: Tip,
    state: Mutex<State>,
}

/// The log store; clones are handles to the same log.
#[derive(Clone)]
pub struct LogStore {
    shared: Arc<Shared>,
}

/// What an index of the log holds, for the checks before AppendEntries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TipAt {
    /// The log holds this entry; the chain's tip up to and including it.
    Known(Tip),
    /// The log does not hold this entry: openraft will answer with a conflict.
    Missing,
    /// The entry was purged and its tip is not known.
    Unknown,
}

fn log_key(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

fn read<T: Serialize + serde::de::DeserializeOwned>(
    engine: &dyn Engine,
    key: &[u8],
    what: &'static str,
) -> Result<Option<T>, LogError> {
    let decoded = engine.get(RAFT_META, key)?.map(|bytes| wire::from_bytes(what, &bytes, META_BYTES_MAX));
    decoded.transpose().map_err(|source| LogError::Decode { place: what.into(), source })
}

fn entry_from(key: &[u8], value: &[u8]) -> Result<LogEntry, LogError> {
    let place = || format!("entry {}", data_encoding::HEXLOWER.encode(key));
    let entry = WireEntry::entry_from_bytes(value).map_err(|source| LogError::Decode { place: place(), source })?;
    if key != log_key(entry.log_id.index) {
        let why = "the entry lies under another index";
        return Err(LogError::Decode { place: place(), source: DecodeError::Invalid { what: "log entry", why } });
    }
    Ok(entry)
}

/// The newest batch at or before `index`, and whether the entry at `index` itself was found to be `id`.
fn tip_before(view: &dyn View, index: u64) -> Result<Option<Tip>, LogError> {
    let mut end = index.saturating_add(1);
    loop {
        let pairs = view.scan_back(RAFT_LOG, &[], Some(&log_key(end)), READ_ENTRIES)?;
        let Some((last_key, _)) = pairs.last() else { return Ok(None) };
        let first_index = u64_from(last_key)?;
        for (key, value) in &pairs {
            if let EntryPayload::Normal(batch) = entry_from(key, value)?.payload {
                return Ok(Some(Tip::of(&batch)));
            }
        }
        end = first_index;
    }
}

fn u64_from(key: &[u8]) -> Result<u64, LogError> {
    let place = || format!("key {}", data_encoding::HEXLOWER.encode(key));
    let malformed = |_| LogError::Decode { place: place(), source: DecodeError::Malformed { what: "log index" } };
    Ok(u64::from_be_bytes(key.try_into().map_err(malformed)?))
}

impl LogStore {
    /// Opens the log. `genesis` is the chain's beginning; `watermark` lies apart from the engine's directory.
    pub fn open(engine: Arc<dyn Engine>, watermark: Arc<dyn Watermark>, genesis: Tip) -> Result<Self, LogError> {
        let marks = MarkKeeper::open(watermark).map_err(LogError::Watermark)?;
        let vote = read::<WireVote>(&*engine, META_VOTE, "vote")?.map(Vote::try_from).transpose();
        let vote = vote.map_err(|source| LogError::Decode { place: "vote".into(), source })?;
        let committed = read::<WireLogId>(&*engine, META_COMMITTED, "committed position")?.map(Into::into);
        let purged = read::<WireTipAt>(&*engine, META_PURGED, "purged position")?.map(WireTipAt::into_parts);
        let newest = engine.scan_back(RAFT_LOG, &[], None, 1)?;
        let last = newest.first().map(|(key, value)| entry_from(key, value)).transpose()?.map(|entry| entry.log_id);
        let last = last.max(purged.map(|(id, _)| id));
        check_mark(marks.mark(), last, vote)?;
        let tip = chain_tip(&*engine, last, purged, genesis)?;
        let state = State { vote, committed, purged, last, tip, ..State::default() };
        Ok(Self { shared: Arc::new(Shared { engine, marks: Arc::new(marks), genesis, state: Mutex::new(state) }) })
    }

    /// What the next batch must follow; `None` while it is not known.
    pub fn tip(&self) -> Option<Tip> {
        self.lock().tip
    }

    /// Completes when the batch with this hash has become the log's newest, durable or not. One caller at a time: a
    /// later one takes the place of the one before.
    pub(super) fn await_batch(&self, hash: Hash) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.lock().awaited = Some((hash, sender));
        receiver
    }

    /// Hash that the next batch names as its previous one.
    pub fn last_batch_hash(&self) -> Option<Hash> {
        self.tip().map(|tip| tip.hash)
    }

    pub fn last_log_id(&self) -> Option<LogId> {
        self.lock().last
    }

    /// The newest position that openraft told to be committed here.
    pub fn committed(&self) -> Option<LogId> {
        self.lock().committed
    }

    pub fn vote(&self) -> Option<Vote> {
        self.lock().vote
    }

    /// The log id of the entry at `index`, if the log holds it.
    pub fn log_id_at(&self, index: u64) -> Result<Option<LogId>, LogError> {
        let state = self.lock();
        if let Some(id) = [state.last, state.purged.map(|(id, _)| id)].into_iter().flatten().find(|i| i.index == index)
        {
            return Ok(Some(id));
        }
        let key = log_key(index);
        let value = self.shared.engine.get(RAFT_LOG, &key)?;
        Ok(value.map(|value| entry_from(&key, &value)).transpose()?.map(|entry| entry.log_id))
    }

    /// The chain's tip at `id`; `None` is the place before the first entry.
    pub fn tip_at(&self, id: Option<LogId>) -> Result<TipAt, LogError> {
        let Some(id) = id else { return Ok(TipAt::Known(self.shared.genesis)) };
        let state = self.lock();
        let known = |tip: Option<Tip>| tip.map_or(TipAt::Unknown, TipAt::Known);
        if state.last == Some(id) {
            return Ok(known(state.tip));
        }
        if let Some((purged, tip)) = state.purged.filter(|(purged, _)| id.index <= purged.index) {
            return Ok(if purged == id { known(tip) } else { TipAt::Unknown });
        }
        let key = log_key(id.index);
        let Some(value) = self.shared.engine.get(RAFT_LOG, &key)? else { return Ok(TipAt::Missing) };
        if entry_from(&key, &value)?.log_id != id {
            return Ok(TipAt::Missing);
        }
        let purged = state.purged;
        Ok(known(chain_tip(&*self.shared.engine, Some(id), purged, self.shared.genesis)?))
    }

    /// Tells the tip of the chain at a snapshot's position, before openraft purges the log up to there.
    pub fn expect_snapshot(&self, id: LogId, tip: Tip) {
        let mut state = self.lock();
        state.expected = Some((id, tip));
        if state.last == Some(id) && state.tip.is_none() {
            state.tip = Some(tip);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is a failed assertion of ours, which stops the node; readers may go on until then.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes entries, to be called again with the same where the disk had no room. The lock is held over the submits,
    /// so that the state in memory and the engine see writes in one order.
    pub(super) fn append_entries(&self, entries: &[LogEntry]) -> Result<Appended, LogError> {
        let mut state = self.lock();
        let (mut last, mut tip) = (state.last, state.tip);
        let mut batches = vec![Batch::new()];
        for entry in entries {
            let id = entry.log_id;
            if let Some(expected) = last.map(|last| last.index + 1).filter(|expected| *expected != id.index) {
                return Err(LogError::Hole { expected, found: id.index });
            }
            if let EntryPayload::Normal(batch) = &entry.payload {
                check_chain(id.index, batch, tip)?;
                tip = Some(Tip::of(batch));
            }
            last = Some(id);
            if batches.last().is_none_or(|batch| batch.bytes_len() > SUBMIT_BYTES_MAX) {
                batches.push(Batch::new());
            }
            if let Some(batch) = batches.last_mut() {
                batch.put(RAFT_LOG, log_key(id.index), wire::to_bytes(&WireEntry::from(entry)));
            }
        }
        let mut ticket = Ticket::ZERO;
        for batch in batches {
            ticket = self.shared.engine.submit(batch)?;
        }
        (state.last, state.tip, state.appended) = (last, tip, ticket);
        if let Some((_, waiter)) = state.awaited.take_if(|(hash, _)| tip.is_some_and(|tip| tip.hash == *hash)) {
            // Nobody listens any more when the caller was dropped.
            let _ = waiter.send(());
        }
        Ok(Appended { ticket, last, era: self.shared.marks.era() })
    }

    /// `done` runs when what was appended is durable.
    pub(super) fn when_durable(&self, appended: Appended, done: impl FnOnce(Result<(), io::Error>) + Send + 'static) {
        let Appended { ticket, last, era } = appended;
        let marks = self.shared.marks.clone();
        let completed = move |result: Result<(), EngineError>| {
            let marked = result.map_err(io::Error::other).and_then(|()| match last {
                Some(last) => marks.appended(era, last.index),
                None => Ok(()),
            });
            done(marked);
        };
        self.shared.engine.on_durable(ticket, Box::new(completed));
    }

    /// Why this node's part in Raft waits for room on the disk, if it does.
    pub fn waits_for_room(&self) -> Option<String> {
        self.lock().waits.values().next().cloned()
    }

    pub(super) fn waits(&self, what: Waits) -> bool {
        self.lock().waits.contains_key(&what)
    }

    pub(super) fn note_waiting(&self, what: Waits, why: Option<String>) {
        let mut state = self.lock();
        match why {
            Some(why) => drop(state.waits.insert(what, why)),
            None => drop(state.waits.remove(&what)),
        }
    }

    /// Completes when the entry at `index`, which the log holds, is durable here. What a majority has committed may
    /// still be unsynced on this node's own disk.
    pub(super) async fn durable(&self, index: u64) -> io::Result<()> {
        if self.shared.marks.mark().last_index >= Some(index) {
            return Ok(());
        }
        let ticket = self.lock().appended;
        let (sender, receiver) = oneshot::channel();
        // Nobody listens any more when the caller was dropped.
        let completed = move |result: Result<(), EngineError>| drop(sender.send(result));
        self.shared.engine.on_durable(ticket, Box::new(completed));
        match receiver.await {
            Ok(result) => result.map_err(io::Error::other),
            Err(_) => Err(io::Error::other("the Raft log's engine is gone")),
        }
    }

    /// Submits the vote; it holds once the returned receiver answers.
    pub(super) fn submit_vote(&self, vote: Vote) -> Result<oneshot::Receiver<io::Result<()>>, LogError> {
        let mut state = self.lock();
        let mut batch = Batch::new();
        batch.put(RAFT_META, META_VOTE, wire::to_bytes(&WireVote::from(vote)));
        let ticket = self.shared.engine.submit(batch)?;
        state.vote = Some(vote);
        drop(state);
        let marks = self.shared.marks.clone();
        let (sender, receiver) = oneshot::channel();
        let completed = move |result: Result<(), EngineError>| {
            let marked = result.map_err(io::Error::other).and_then(|()| marks.voted(vote));
            // Nobody listens any more when the caller was dropped; the vote is durable all the same.
            drop(sender.send(marked));
        };
        self.shared.engine.on_durable(ticket, Box::new(completed));
        Ok(receiver)
    }

    /// Unsynced: without it a restarted node only applies later what it knows to be committed.
    pub(super) fn write_committed(&self, committed: Option<LogId>) -> Result<(), LogError> {
        let mut state = self.lock();
        let mut batch = Batch::new();
        match committed {
            Some(id) => batch.put(RAFT_META, META_COMMITTED, wire::to_bytes(&WireLogId::from(id))),
            None => batch.delete(RAFT_META, META_COMMITTED),
        };
        self.shared.engine.submit(batch)?;
        state.committed = committed;
        Ok(())
    }

    pub(super) fn truncate_to(&self, last: Option<LogId>) -> Result<(), LogError> {
        let mut state = self.lock();
        if state.last.map(|id| id.index) <= last.map(|id| id.index) {
            return Ok(());
        }
        let keep = last.map_or(0, |id| id.index + 1);
        self.shared.marks.truncating(last.map(|id| id.index)).map_err(LogError::Watermark)?;
        let mut batch = Batch::new();
        let end = state.last.map_or(keep, |id| id.index.saturating_add(1)).max(keep);
        batch.delete_range(RAFT_LOG, log_key(keep), log_key(end));
        self.shared.engine.submit(batch)?;
        state.last = last.max(state.purged.map(|(id, _)| id));
        state.tip = chain_tip(&*self.shared.engine, state.last, state.purged, self.shared.genesis)?;
        Ok(())
    }

    pub(super) fn purge_to(&self, id: LogId) -> Result<(), LogError> {
        let mut state = self.lock();
        let beyond = state.last.is_none_or(|last| last.index <= id.index);
        let expected = state.expected.filter(|(expected, _)| *expected == id).map(|(_, tip)| tip);
        let tip = match expected {
            Some(tip) => Some(tip),
            None if state.last.is_some_and(|last| last.index < id.index) => None,
            None => chain_tip(&*self.shared.engine, Some(id), state.purged, self.shared.genesis)?,
        };
        let mut batch = Batch::new();
        batch.put(RAFT_META, META_PURGED, wire::to_bytes(&WireTipAt::new(id, tip)));
        batch.delete_range(RAFT_LOG, log_key(0), log_key(id.index.saturating_add(1)));
        self.shared.engine.submit(batch)?;
        state.purged = Some((id, tip));
        if beyond {
            state.last = Some(id);
            state.tip = tip;
        }
        Ok(())
    }

    /// Entries of `range`, all of them, as they are at one moment.
    pub(super) fn entries(&self, range: impl RangeBounds<u64>) -> Result<Vec<LogEntry>, LogError> {
        let (from, to) = bounds(range);
        let to_key = to.map(log_key);
        let pairs = self.shared.engine.scan(RAFT_LOG, &log_key(from), to_key.as_ref().map(|k| &k[..]), usize::MAX)?;
        let mut entries: Vec<LogEntry> = Vec::with_capacity(pairs.len());
        for (key, value) in pairs {
            let entry = entry_from(&key, &value)?;
            check_next(entries.last(), &entry)?;
            entries.push(entry);
        }
        Ok(entries)
    }

    /// The first entries of `from..to`: at least one when there is any, then up to `bytes_max`.
    pub(super) fn entries_limited(&self, from: u64, to: u64, bytes_max: usize) -> Result<Vec<LogEntry>, LogError> {
        let view = self.shared.engine.snapshot();
        let mut entries: Vec<LogEntry> = Vec::new();
        let (mut next, mut bytes) = (from, 0);
        while next < to && bytes < bytes_max {
            let pairs = view.scan(RAFT_LOG, &log_key(next), Some(&log_key(to)), READ_ENTRIES)?;
            if pairs.is_empty() {
                break;
            }
            for (key, value) in pairs {
                bytes += value.len();
                if bytes > bytes_max && !entries.is_empty() {
                    break;
                }
                let entry = entry_from(&key, &value)?;
                check_next(entries.last(), &entry)?;
                next = entry.log_id.index + 1;
                entries.push(entry);
            }
        }
        Ok(entries)
    }

    pub(super) fn purged(&self) -> Option<LogId> {
        self.lock().purged.map(|(id, _)| id)
    }
}

pub(super) fn bounds(range: impl RangeBounds<u64>) -> (u64, Option<u64>) {
    let from = match range.start_bound() {
        Bound::Included(from) => *from,
        Bound::Excluded(from) => from.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(to) => to.checked_add(1),
        Bound::Excluded(to) => Some(*to),
        Bound::Unbounded => None,
    };
    (from, to)
}

fn check_next(before: Option<&LogEntry>, entry: &LogEntry) -> Result<(), LogError> {
    match before.map(|before| before.log_id.index + 1) {
        Some(expected) if expected != entry.log_id.index => Err(LogError::Hole { expected, found: entry.log_id.index }),
        _ => Ok(()),
    }
}

/// An unknown tip lets a batch pass: the chain goes on from it, and admission has refused what it could not check.
fn check_chain(index: u64, batch: &SharedBatch, tip: Option<Tip>) -> Result<(), LogError> {
    match tip {
        Some(Tip { hash: newest, .. }) if batch.batch().previous != newest => {
            Err(LogError::BrokenChain { index, named: batch.batch().previous, newest })
        }
        _ => Ok(()),
    }
}

fn check_mark(confirmed: DurableMark, last: Option<LogId>, vote: Option<Vote>) -> Result<(), LogError> {
    let found = DurableMark { last_index: last.map(|id| id.index), vote };
    let vote_lost = confirmed.vote.is_some_and(|confirmed| vote.is_none_or(|vote| vote < confirmed));
    if found.last_index < confirmed.last_index || vote_lost {
        return Err(LogError::LogShorterThanDurable { found, confirmed });
    }
    Ok(())
}

/// The chain's tip at `last`, which the log or the purged position holds.
fn chain_tip(
    engine: &dyn Engine,
    last: Option<LogId>,
    purged: Option<(LogId, Option<Tip>)>,
    genesis: Tip,
) -> Result<Option<Tip>, LogError> {
    let Some(last) = last else { return Ok(Some(genesis)) };
    let in_log = tip_before(engine, last.index)?;
    Ok(match (in_log, purged) {
        (Some(tip), _) => Some(tip),
        (None, Some((_, tip))) => tip,
        (None, None) => Some(genesis),
    })
}
