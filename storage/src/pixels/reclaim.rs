//! Giving objects up, and getting their space back.
//!
//! `forget` appends a tombstone: from then on the object is not here, and records of its hash with smaller receipt
//! numbers are dead, in whatever order packs are read back. `compact` copies what lives in a pack into the growing one,
//! keeping receipt numbers, and removes the pack. Until the copies are durable and the index that names them too, the
//! old pack stays: a crash in between leaves two copies of the same records, never none.
//!
//! It may run beside everything else: what is forgotten or stored again meanwhile has a greater receipt number than what
//! moves, and the greatest wins. What moved is handed over once more by a start that finds no watermark behind it.
//!
//! Tombstones are kept for good: they are small, and without them an old pack restored from a backup would bring back
//! what was given up. Not here: who may give up what, and when.

use std::sync::mpsc;

use crate::engine::{Batch, wait_durable};
use crate::pixels::appender::{Completion, Job, Receipt, Work};
use crate::pixels::error::{Damage, StoreError};
use crate::pixels::hash::ObjectHash;
use crate::pixels::index::{self, Entry};
use crate::pixels::read::OpenRecord;
use crate::pixels::record::{PACK_HEADER_BYTES, RecordKind};
use crate::pixels::store::{PixelStore, SMALL_OBJECT_BYTES_MAX};
use crate::pixels::walk::{Step, Walk};

/// How much of a pack is still needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackUsage {
    pub pack: u64,
    pub bytes: u64,
    /// Bytes that compaction would keep.
    pub live_bytes: u64,
}

/// What becomes of a record when its pack goes.
enum Fate {
    Keep,
    /// The content lives elsewhere, the envelope only here.
    KeepEnvelope,
    Drop,
    /// It can't be read, and may be restored one day.
    Damaged(Damage),
}

impl Fate {
    fn bytes(&self, record: &OpenRecord) -> u64 {
        match self {
            Self::Keep | Self::Damaged(_) => record.header.record_bytes(),
            Self::KeepEnvelope => record.header.sealed_envelope_bytes(),
            Self::Drop => 0,
        }
    }
}

/// Holds compaction up, or breaks it off.
pub type Pace<'a> = &'a mut dyn FnMut(u64) -> Result<(), StoreError>;

impl PixelStore {
    /// Gives up an object. `envelope` says why, for the catalogue that is made again from packs. The receipt in `done`
    /// is to be settled like any other.
    pub fn forget(&self, hash: &ObjectHash, envelope: &[u8], done: Completion) -> Result<(), StoreError> {
        self.appender.check_alive()?;
        let header = self.header(RecordKind::Tombstone, *hash, envelope)?;
        let record = self.seal(&header, &[], &[], envelope);
        match self.appender.push(Job::new(header, 0, Work::Append(record), done))? {
            None => Ok(()),
            Some(_) => Err(StoreError::NotFound { hash: *hash }),
        }
    }

    /// As `forget`, and waits.
    pub fn forget_and_wait(&self, hash: &ObjectHash, envelope: &[u8]) -> Result<Receipt, StoreError> {
        self.wait(|done| self.forget(hash, envelope, done))
    }

    /// Numbers of the packs that are complete, ascending.
    pub fn complete_packs(&self) -> Result<Vec<u64>, StoreError> {
        let growing = self.core.growing().pack;
        Ok(self.core.packs.list()?.into_iter().filter(|pack| *pack != growing).collect())
    }

    /// What of a pack is needed. Reads headers only.
    pub fn usage(&self, pack: u64) -> Result<PackUsage, StoreError> {
        let bytes = self.core.packs.file_bytes(pack)?;
        let mut live_bytes = 0;
        self.for_each_record(pack, |record| {
            live_bytes += self.fate(&record)?.bytes(&record);
            Ok(())
        })?;
        Ok(PackUsage { pack, bytes, live_bytes })
    }

    /// Copies what lives in `pack` into the growing pack and removes it. Returns the bytes that the pack had. A pack
    /// with damage is left as it is, since what is unreadable now may be restored; so is a live large object's own.
    ///
    /// `pace` hears the bytes of each record before it is copied. It holds up the work as long as it likes, and breaks it
    /// off by an error; what was copied until then lies in two places, and does no harm.
    pub fn compact(&self, pack: u64, pace: Pace<'_>) -> Result<u64, StoreError> {
        if pack == self.core.growing().pack || !self.core.settlement().is_settled(pack) {
            return Err(StoreError::PackInUse { pack });
        }
        let bytes = self.core.packs.file_bytes(pack)?;
        let mut moves = Moves::new();
        let mut too_large = false;
        self.for_each_record(pack, |record| {
            let fate = self.fate(&record)?;
            pace(fate.bytes(&record))?;
            match fate {
                Fate::Keep if record.header.body_bytes > SMALL_OBJECT_BYTES_MAX => too_large = true,
                Fate::Keep => self.move_record(record.header.clone(), record.raw()?, &mut moves)?,
                Fate::KeepEnvelope => self.move_envelope(&record, &mut moves)?,
                Fate::Drop => {}
                Fate::Damaged(damage) => return Err(StoreError::Damaged { damage }),
            }
            Ok(())
        })?;
        moves.wait()?;
        if too_large {
            return Ok(0);
        }
        let mut batch = Batch::new();
        index::delete_watermark(&mut batch, pack);
        self.core.settlement().drop_pack(pack);
        let ticket = self.core.engine.submit(batch)?;
        // The index that names the copies must outlive the pack that it named before.
        wait_durable(self.core.engine.as_ref(), ticket)?;
        self.or_end(self.core.packs.remove(pack))?;
        Ok(bytes)
    }

    fn for_each_record(
        &self,
        pack: u64,
        mut visit: impl FnMut(OpenRecord) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let Some(file) = self.core.packs.handle(pack)? else { return Ok(()) };
        let end = self.core.packs.file_bytes(pack)?;
        let mut walk = Walk { file, pack, offset: PACK_HEADER_BYTES as u64, end, keys: &self.core.keys };
        loop {
            match walk.next().map_err(|error| StoreError::io("reading a pack", &self.core.packs.path(pack), &error))? {
                Step::Record(record) => visit(record)?,
                Step::Damage(damage) | Step::Unfinished(damage) => return Err(StoreError::Damaged { damage }),
                Step::Newer => return Err(StoreError::NewerFormat { pack }),
                Step::End => return Ok(()),
            }
        }
    }

    fn fate(&self, record: &OpenRecord) -> Result<Fate, StoreError> {
        let header = &record.header;
        let tombstone = self.core.forgotten(&header.hash)?;
        Ok(match header.kind {
            RecordKind::Tombstone => Fate::Keep,
            _ if tombstone.is_some_and(|tombstone| tombstone > header.receipt) => Fate::Drop,
            RecordKind::Receipt => Fate::Keep,
            RecordKind::Object => match index::entry(self.core.engine.as_ref(), &header.hash)? {
                Some(Entry::Live { place, .. }) if place == record.place => Fate::Keep,
                Some(Entry::Damaged { place, what, .. }) if place == record.place => {
                    Fate::Damaged(Damage { place, hash: Some(header.hash), what })
                }
                _ => Fate::KeepEnvelope,
            },
        })
    }

    fn move_envelope(&self, record: &OpenRecord, moves: &mut Moves) -> Result<(), StoreError> {
        let envelope = record.envelope()?;
        let mut header = self.header(RecordKind::Receipt, record.header.hash, &envelope)?;
        header.receipt = record.header.receipt;
        let sealed = self.seal(&header, &[], &[], &envelope);
        self.move_record(header, sealed, moves)
    }

    fn move_record(
        &self,
        header: crate::pixels::record::Header,
        record: Vec<u8>,
        moves: &mut Moves,
    ) -> Result<(), StoreError> {
        let object_bytes = header.body_bytes;
        let job = Job::new(header, object_bytes, Work::Move(record), moves.completion());
        self.appender.push(job).map(|_| ())
    }
}

/// Waits for copies without holding them: the queue's bound is the only memory.
struct Moves {
    sender: mpsc::Sender<Result<(), StoreError>>,
    receiver: mpsc::Receiver<Result<(), StoreError>>,
}

impl Moves {
    fn new() -> Self {
        let (sender, receiver) = mpsc::channel();
        Self { sender, receiver }
    }

    fn completion(&self) -> Completion {
        let sender = self.sender.clone();
        Box::new(move |result| drop(sender.send(result.map(|_| ()))))
    }

    fn wait(self) -> Result<(), StoreError> {
        drop(self.sender);
        self.receiver.into_iter().collect()
    }
}
