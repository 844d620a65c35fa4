//! The watermark of a real core node: a file of two slots, written in turn, beside the Raft directory.
//!
//! It survives the death of the process at once and a power cut up to [`SYNC_INTERVAL`], because a mark that lags is
//! still true; so it costs no second sync for each append. A mark that is about to become false is synced before.
//! Not here: what a mark means ([`crate::raft::watermark`]).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::raft::watermark::{DurableMark, Urgency, Watermark, WireMark};
use crate::raft::wire;

/// After a power cut the watermark may lag behind the log by this much.
pub const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// One slot of the file: a sector, so that a torn write spoils one slot and never both.
const SLOT_BYTES: usize = 512;
/// A slot begins with the length of its value and the value's checksum.
const SLOT_HEAD: usize = 2 + blake3::OUT_LEN;

/// The mark in a file.
pub struct FileWatermark {
    path: PathBuf,
    state: Mutex<FileState>,
}

struct FileState {
    file: File,
    /// Counts the writes: of two whole slots the one with the greater count is the newer.
    count: u64,
    mark: DurableMark,
    synced: Instant,
}

#[derive(Serialize, Deserialize)]
struct Slot {
    count: u64,
    mark: WireMark,
}

impl FileWatermark {
    /// Opens or creates the file; `path` lies outside the log's directory.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let length = file.metadata()?.len();
        if length == 0 {
            sync_directory_of(path)?;
        }
        let newest = (0..2).filter_map(|slot| read_slot(&file, slot)).max_by_key(|(count, _)| *count);
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

/// `None` when the slot is empty or torn.
fn read_slot(file: &File, slot: u64) -> Option<(u64, DurableMark)> {
    let mut bytes = [0; SLOT_BYTES];
    file.read_exact_at(&mut bytes, slot * SLOT_BYTES as u64).ok()?;
    let length = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
    let value = bytes.get(SLOT_HEAD..SLOT_HEAD + length)?;
    if blake3::hash(value).as_bytes() != &bytes[2..SLOT_HEAD] {
        return None;
    }
    let slot: Slot = wire::from_bytes("watermark", value, SLOT_BYTES).ok()?;
    Some((slot.count, slot.mark.try_into().ok()?))
}

/// A mark takes some fifty bytes of the slot's 512.
fn slot_bytes(count: u64, mark: DurableMark) -> [u8; SLOT_BYTES] {
    let value = wire::to_bytes(&Slot { count, mark: mark.into() });
    let mut bytes = [0; SLOT_BYTES];
    bytes[..2].copy_from_slice(&(value.len() as u16).to_be_bytes());
    bytes[2..SLOT_HEAD].copy_from_slice(blake3::hash(&value).as_bytes());
    bytes[SLOT_HEAD..SLOT_HEAD + value.len()].copy_from_slice(&value);
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
        (state.count, state.mark) = (count, mark);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::{RaftId, Vote};

    #[test]
    fn it_survives_reopening_and_a_torn_slot() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("watermark");
        let mark = |index| DurableMark { last_index: Some(index), vote: Some(Vote::new_committed(3, RaftId(2))) };
        let watermark = FileWatermark::open(&path).expect("open");
        assert_eq!(watermark.load().expect("load"), DurableMark::default());
        watermark.store(mark(4), Urgency::Soon).expect("store");
        watermark.store(mark(5), Urgency::Now).expect("store");
        assert_eq!(FileWatermark::open(&path).expect("open").load().expect("load"), mark(5));
        let mut bytes = std::fs::read(&path).expect("read");
        bytes[40] ^= 1;
        std::fs::write(&path, &bytes).expect("write");
        assert_eq!(FileWatermark::open(&path).expect("one slot is whole").load().expect("load"), mark(4));
        bytes[SLOT_BYTES + 40] ^= 1;
        std::fs::write(&path, &bytes).expect("write");
        assert!(FileWatermark::open(&path).is_err(), "both are damaged");
    }
}
