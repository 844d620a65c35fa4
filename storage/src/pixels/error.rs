//! What can go wrong with stored pixels, in words that say what to do. One enum for storing, reading and keeping:
//! whoever calls maps it to one table of statuses.
//!
//! Cloned to every caller of a group, hence text instead of sources.

use std::io;
use std::path::Path;

use thiserror::Error;

use crate::engine::EngineError;
use crate::pixels::hash::ObjectHash;
use crate::pixels::record::Place;

/// Why the pixel store could not do what was asked.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum StoreError {
    #[error("the pixel store in {directory} is in use by another process: stop that process, then try again")]
    Locked { directory: String },
    #[error(
        "the site key does not belong to the pixel store in {directory}: put back the key that was in use when the \
         store was created"
    )]
    WrongKey { directory: String },
    #[error(
        "{directory} holds packs and no readable KEY file, so the site key can't be checked: put the file KEY back \
         from a backup"
    )]
    KeyFileMissing { directory: String },
    #[error("pack {pack} is of a newer format: run the version of this program that wrote it, or a newer one")]
    NewerFormat { pack: u64 },
    #[error(
        "the disk is nearly full, new objects are refused: {} MB are free and {} MB are kept in reserve; free space or \
         enlarge the disk",
        .free_bytes / 1_000_000,
        .limit_bytes / 1_000_000
    )]
    WatermarkReached { free_bytes: u64, limit_bytes: u64 },
    #[error("the disk is full: free space or enlarge it, then send again ({detail})")]
    DiskFull { detail: String },
    #[error("envelope of {bytes} bytes exceeds the limit of {bytes_max}")]
    EnvelopeTooLarge { bytes: u64, bytes_max: u64 },
    #[error("object of {bytes} bytes exceeds the limit of {bytes_max}: read or write it as a stream")]
    ObjectTooLarge { bytes: u64, bytes_max: u64 },
    #[error("no object {hash} here")]
    NotFound { hash: ObjectHash },
    #[error("bytes {offset}..{end} are outside of the object's {object_bytes}")]
    OutOfRange { offset: u64, end: u64, object_bytes: u64 },
    #[error("{damage}: restore the object from a copy")]
    Damaged { damage: Damage },
    #[error("the group hashes do not make up {hash}: ask another holder")]
    GroupsMismatch { hash: ObjectHash },
    #[error("group {index} of {hash} is not what its hash says: fetch it again")]
    GroupMismatch { hash: ObjectHash, index: u64 },
    #[error("{missing} groups of {hash} have not arrived yet")]
    Incomplete { hash: ObjectHash, missing: u64 },
    #[error("another transfer is receiving {hash} already")]
    PartialInUse { hash: ObjectHash },
    #[error(
        "partial objects would fill {needed_bytes} bytes, {limit_bytes} are allowed: finish or abandon running transfers"
    )]
    PartialsFull { needed_bytes: u64, limit_bytes: u64 },
    #[error("pack {pack} is still being written and can't be compacted")]
    PackInUse { pack: u64 },
    #[error("the work was broken off")]
    BrokenOff,
    #[error("the system gives no random numbers")]
    NoRandomness,
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("{action} failed: check the disk and the directory's permissions ({detail})")]
    Io { action: String, detail: String },
    #[error(
        "what was written did not reach the disk: check the disk; the node stops, since nothing may go on from there ({detail})"
    )]
    SyncFailed { detail: String },
    #[error("the pixel store stopped after a failed write and must be opened again by a new process ({cause})")]
    Dead { cause: String },
}

/// A place in a pack that does not hold what it should.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("pack {} at byte {}: {what}{}", place.pack(), place.offset(), named(hash))]
pub struct Damage {
    pub place: Place,
    /// The object concerned, where its header is readable.
    pub hash: Option<ObjectHash>,
    pub what: DamageKind,
}

/// What is wrong at a damaged place.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum DamageKind {
    #[error("unreadable record header")]
    Header,
    #[error("the body can't be read or is not what its hash says")]
    Body,
    #[error("the group hashes can't be read or do not make up the hash")]
    Groups,
    #[error("the envelope can't be read")]
    Envelope,
    #[error("the file ends inside of the record")]
    CutShort,
    #[error("the pack's header is unreadable")]
    PackHeader,
    #[error("the pack is missing, can't be opened, or is shorter than what was known to be in it")]
    PackShortened,
}

fn named(hash: &Option<ObjectHash>) -> String {
    hash.map_or_else(String::new, |hash| format!(" (object {hash})"))
}

impl StoreError {
    /// A failed sync, a full disk included: what the pages hold now is unknown, so the store ends (see `flusher`).
    pub(crate) fn sync(path: &Path, error: &io::Error) -> Self {
        Self::SyncFailed { detail: format!("{}: {error}", path.display()) }
    }

    /// Names what was being done, and tells a full disk from other failures.
    pub(crate) fn io(action: &str, path: &Path, error: &io::Error) -> Self {
        let detail = format!("{}: {error}", path.display());
        let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        if full { Self::DiskFull { detail } } else { Self::Io { action: action.to_owned(), detail } }
    }
}
