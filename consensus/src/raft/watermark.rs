//! The durable-index watermark: what this core node has confirmed, kept apart from the log.
//!
//! A Raft node that comes back with less than it has confirmed (a disk that lied, a directory put back from a copy)
//! may elect a leader that lacks committed entries. The watermark notices and refuses: the node has to come back as
//! a new learner. It is a lower bound, never ahead of what is durable in the log: written after the log's sync and
//! lowered before a truncation.
//!
//! Not here: where it is kept. `node` keeps it in a file (`grpc::watermark`), the simulator in memory.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::types::Vote;
use super::wire::WireVote;
use crate::wire::DecodeError;

/// What the log held durably.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DurableMark {
    /// Index of the last durable entry.
    pub last_index: Option<u64>,
    pub vote: Option<Vote>,
}

/// How soon a mark must be on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// The log grew: the old mark is still true.
    Soon,
    /// The log is about to shrink: the old mark will be false.
    Now,
}

/// A second place beside the log that remembers the mark. Single writer.
pub trait Watermark: Send + Sync + 'static {
    fn load(&self) -> io::Result<DurableMark>;
    fn store(&self, mark: DurableMark, urgency: Urgency) -> io::Result<()>;
}

/// A mark as it lies on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WireMark {
    last_index: Option<u64>,
    vote: Option<WireVote>,
}

impl From<DurableMark> for WireMark {
    fn from(mark: DurableMark) -> Self {
        Self { last_index: mark.last_index, vote: mark.vote.map(Into::into) }
    }
}

impl TryFrom<WireMark> for DurableMark {
    type Error = DecodeError;
    fn try_from(wire: WireMark) -> Result<Self, DecodeError> {
        Ok(Self { last_index: wire.last_index, vote: wire.vote.map(Vote::try_from).transpose()? })
    }
}

/// The mark in memory, for the simulator: it survives what the simulated process does not.
#[derive(Default)]
pub struct MemoryWatermark(Mutex<DurableMark>);

impl Watermark for MemoryWatermark {
    fn load(&self) -> io::Result<DurableMark> {
        Ok(*self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn store(&self, mark: DurableMark, _: Urgency) -> io::Result<()> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = mark;
        Ok(())
    }
}

/// Keeps a [`Watermark`] true while appends, votes and truncations overlap.
///
/// Appends complete after a truncation that was asked for later has already lowered the mark; such a completion
/// speaks of entries that are gone, so it carries the era in which it was submitted and is dropped in a later one.
pub(super) struct MarkKeeper {
    watermark: Arc<dyn Watermark>,
    current: Mutex<(u64, DurableMark)>,
}

impl MarkKeeper {
    pub(super) fn open(watermark: Arc<dyn Watermark>) -> io::Result<Self> {
        let mark = watermark.load()?;
        Ok(Self { watermark, current: Mutex::new((0, mark)) })
    }

    pub(super) fn mark(&self) -> DurableMark {
        self.lock().1
    }

    /// Changes with each truncation.
    pub(super) fn era(&self) -> u64 {
        self.lock().0
    }

    pub(super) fn appended(&self, era: u64, last_index: u64) -> io::Result<()> {
        let mut current = self.lock();
        if current.0 != era || current.1.last_index >= Some(last_index) {
            return Ok(());
        }
        let mark = DurableMark { last_index: Some(last_index), ..current.1 };
        self.watermark.store(mark, Urgency::Soon)?;
        current.1 = mark;
        Ok(())
    }

    pub(super) fn voted(&self, vote: Vote) -> io::Result<()> {
        let mut current = self.lock();
        if current.1.vote.is_some_and(|old| old >= vote) {
            return Ok(());
        }
        let mark = DurableMark { vote: Some(vote), ..current.1 };
        self.watermark.store(mark, Urgency::Soon)?;
        current.1 = mark;
        Ok(())
    }

    /// The log is about to end at `last_index`.
    pub(super) fn truncating(&self, last_index: Option<u64>) -> io::Result<()> {
        let mut current = self.lock();
        let mark = DurableMark { last_index: current.1.last_index.min(last_index), ..current.1 };
        if mark != current.1 {
            self.watermark.store(mark, Urgency::Now)?;
        }
        *current = (current.0 + 1, mark);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, (u64, DurableMark)> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
