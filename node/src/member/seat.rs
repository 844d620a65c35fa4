//! Whether a core node may still use its seat: it may not when its directory is an old copy.
//!
//! Who votes or signs with a memory that is behind what it once said can break what the core agreed on, and would
//! stand accused of two histories. A copy is known by the watermark file: its place on the disk and the time of its
//! birth are written down in the archive when the seat is taken up, and no copying tool brings both along. What is
//! behind within one directory (a Raft log behind its watermark or behind the ledger) is found when Raft starts.
//!
//! The signing guard is part of that memory. A seat without it is lost too, for an empty guard would sign anything.
//!
//! A node without its seat goes on as a member: it follows the ledger, ingests, registers, finds, serves and fetches.
//! It does not come back to its seat by itself; that is a decision of the federation.
//!
//! A node that is alone in its federation keeps its seat: what was put back is then all there is.
//!
//! Not noticed: a file system or virtual machine set back as a whole with the node in it. The leader's memory stops
//! such a node from confirming what it lost (`consensus`, `raft::admission`).

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::UNIX_EPOCH;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tessera_consensus::checkpoint::SigningGuard;
use tessera_consensus::kernel;
use tessera_storage::engine::{Batch, wait_durable};

use super::Member;
use super::vault::Shelf;
use crate::home::replace;

/// The file that is never copied: a small one that lives as long as the seat.
const ANCHOR: &str = "watermark";
/// The record's name in the vault.
const SEAT: &[u8] = b"seat";

/// The certifier's memory of what it signed. It is made before the anchor: where that is, this was.
pub const GUARD: &str = "guard";

/// What the archive remembers of the seat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Record {
    Held(Birth),
    Lost { why: String },
}

/// What tells a file from its copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Birth {
    inode: u64,
    /// Nanoseconds since 1970; `None` where the file system keeps no time of birth.
    born: Option<u64>,
}

impl Birth {
    fn of(path: &Path) -> anyhow::Result<Option<Self>> {
        let metadata = match std::fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context(path.display().to_string()),
        };
        let born = metadata.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let born = born.and_then(|since| u64::try_from(since.as_nanos()).ok());
        Ok(Some(Self { inode: metadata.ino(), born }))
    }
}

impl Member {
    /// Takes up the seat whose files lie in `directory`; `false` when it is lost.
    pub fn take_seat(&self, directory: &Path) -> anyhow::Result<bool> {
        let engine = &**self.archive.engine();
        let record: Option<Record> = self.vault.get(engine, Shelf::Seat, SEAT)?;
        let anchor = directory.join(ANCHOR);
        let found = Birth::of(&anchor)?;
        let guarded = directory.join(GUARD).try_exists()?;
        match record {
            Some(Record::Lost { why }) => {
                self.set_seat_lost(why);
                return Ok(false);
            }
            Some(Record::Held(birth)) if found == Some(birth) && guarded => return Ok(true),
            Some(Record::Held(birth)) if self.others_are_known()? => {
                self.lose_seat(match found == Some(birth) {
                    true => "the signing guard is gone, so what this node signed is not known any more",
                    false => "the node's directory was put back from a copy, or the Raft directory was lost",
                })?;
                return Ok(false);
            }
            None if found.is_some() && !guarded && self.others_are_known()? => {
                self.lose_seat("the signing guard is gone, and so is the archive's memory of this seat")?;
                return Ok(false);
            }
            Some(Record::Held(_)) => {
                tracing::warn!("the directory was put back from a copy; nobody else holds this ledger, so it counts");
            }
            None => {}
        }
        if !guarded {
            replace(&directory.join(GUARD), &SigningGuard::new().to_bytes(), 0o600)?;
        }
        // The file must be there, and known, before anything is confirmed that it has to remember.
        std::fs::File::options().append(true).create(true).open(&anchor)?.sync_all()?;
        std::fs::File::open(directory)?.sync_all()?;
        let birth = Birth::of(&anchor)?.context("the watermark was just created")?;
        self.keep_seat(&Record::Held(birth))?;
        Ok(true)
    }

    /// Gives the seat up for good, and remembers why.
    pub fn lose_seat(&self, why: &str) -> anyhow::Result<()> {
        self.keep_seat(&Record::Lost { why: why.to_owned() })?;
        self.set_seat_lost(why.to_owned());
        Ok(())
    }

    /// Why this core node has no seat any more.
    pub fn seat_lost(&self) -> Option<&str> {
        self.seat_lost.get().map(String::as_str)
    }

    fn set_seat_lost(&self, why: String) {
        tracing::error!(why, "this core node has lost its seat: it goes on as a member, and neither votes nor signs");
        let set_before = self.seat_lost.set(why).is_err();
        debug_assert!(!set_before, "a seat is lost once");
    }

    fn others_are_known(&self) -> anyhow::Result<bool> {
        Ok(kernel::nodes(self.replica.view())?.iter().any(|node| node.active && node.join.node_id() != self.node))
    }

    fn keep_seat(&self, record: &Record) -> anyhow::Result<()> {
        let mut batch = Batch::new();
        self.vault.put(&mut batch, Shelf::Seat, SEAT, record);
        let engine = &**self.archive.engine();
        Ok(wait_durable(engine, engine.submit(batch)?)?)
    }
}
