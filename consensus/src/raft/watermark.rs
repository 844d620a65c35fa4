//! The durable-index watermark: what this core node has confirmed, kept apart from the log.
//!
//! A Raft node that comes back with less than it has confirmed (a disk that lied, a directory put back from a copy)
//! may elect a leader that lacks committed entries. The watermark notices and refuses: the node has to come back as
//! a new learner. It is a lower bound, never ahead of what is durable in the log: written after the log's sync and
//! lowered before a truncation. It survives the death of the process at once and a power cut up to
//! [`SYNC_INTERVAL`]; so it costs no second sync for each append.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::types::Vote;
use super::wire::{self, WireVote};

/// After a power cut the watermark may lag behind the log by this much.
pub const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// One slot of the file: a sector, so that a torn write spoils one slot and never both.
const SLOT_BYTES: usize = 512;

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

#[derive(Serialize, Deserialize)]
struct WireMark {
    /// Of two whole slots the one with the greater count is the newer.
    count: u64,
    last_index: Option<u64>,
    vote: Option<WireVote>,
}

/// The mark in a file of two slots, written in turn.
pub struct FileWatermark {
    path: PathBuf,
    state: Mutex<FileState>,
}

struct FileState {
    file: File,
    count: u64,
    mark: DurableMark,
    synced: Instant,
}

impl FileWatermark {
    /// Opens or creates the file; `path` lies outside the log's directory.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let length = file.metadata()?.len();
        if length == 0 {
            sync_directory_of(path)?;
        }
        let slots: Vec<(u64, DurableMark)> = (0..2).filter_map(|slot| read_slot(&file, slot)).collect();
        let newest = slots.into_iter().max_by_key(|(count, _)| *count);
        if newest.is_none() && length > 0 {
            let reason = format!("{}: the core node's watermark is damaged; rejoin as a learner", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        let (count, mark) = newest.unwrap_or_default();
        let state = Mutex::new(FileState { file, count, mark, synced: Instant::now() });
        Ok(Self { path: path.to_owned(), state })
    }
}

/// Makes a new file's name durable.
fn sync_directory_of(path: &Path) -> io::Result<()> {
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => File::open(parent)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

/// A slot: length, checksum, value. `None` when it is empty or torn.
fn read_slot(file: &File, slot: u64) -> Option<(u64, DurableMark)> {
    let mut bytes = [0; SLOT_BYTES];
    file.read_exact_at(&mut bytes, slot * SLOT_BYTES as u64).ok()?;
    let length = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
    let value = bytes.get(34..34 + length)?;
    if blake3::hash(value).as_bytes() != &bytes[2..34] {
        return None;
    }
    let wire: WireMark = wire::from_bytes("watermark", value, SLOT_BYTES).ok()?;
    let vote = wire.vote.map(Vote::try_from).transpose().ok()?;
    Some((wire.count, DurableMark { last_index: wire.last_index, vote }))
}

fn slot_bytes(count: u64, mark: DurableMark) -> [u8; SLOT_BYTES] {
    let value = wire::to_bytes(&WireMark { count, last_index: mark.last_index, vote: mark.vote.map(Into::into) });
    let mut bytes = [0; SLOT_BYTES];
    // A mark takes some fifty bytes of the slot's 512.
    bytes[..2].copy_from_slice(&(value.len() as u16).to_be_bytes());
    bytes[2..34].copy_from_slice(blake3::hash(&value).as_bytes());
    bytes[34..34 + value.len()].copy_from_slice(&value);
    bytes
}

impl Watermark for FileWatermark {
    fn load(&self) -> io::Result<DurableMark> {
        Ok(self.state.lock().unwrap_or_else(PoisonError::into_inner).mark)
    }

    fn store(&self, mark: DurableMark, urgency: Urgency) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let count = state.count + 1;
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", self.path.display()));
        state.file.write_all_at(&slot_bytes(count, mark), (count % 2) * SLOT_BYTES as u64).map_err(named)?;
        if urgency == Urgency::Now || state.synced.elapsed() >= SYNC_INTERVAL {
            state.file.sync_data().map_err(named)?;
            state.synced = Instant::now();
        }
        state.count = count;
        state.mark = mark;
        Ok(())
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
    watermark: std::sync::Arc<dyn Watermark>,
    current: Mutex<(u64, DurableMark)>,
}

impl MarkKeeper {
    pub(super) fn open(watermark: std::sync::Arc<dyn Watermark>) -> io::Result<Self> {
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

    fn lock(&self) -> std::sync::MutexGuard<'_, (u64, DurableMark)> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
