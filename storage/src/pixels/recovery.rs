//! What happens between opening the directory and accepting objects: the packs are scanned from their watermarks.
//!
//! 1. Every record behind a watermark goes into the index and to the catalogue above, at least once.
//! 2. Nothing that could be a record is destroyed. Cut off is only what never completed, at the end of the newest
//!    appended pack: a record longer than the file, less than a header, zeros. Anything else that does not verify
//!    is reported and left in place.
//! 3. Bodies are verified where a sync may have been missed: in the newest appended pack. All other packs were synced
//!    as a whole before another was begun, and are the scrubber's.
//! 4. A pack that is shorter than its watermark is never appended to: the watermark would hide what comes.

use std::fs::File;
use std::path::Path;

use crate::engine::Batch;
use crate::pixels::core::Core;
use crate::pixels::error::{Damage, DamageKind, StoreError};
use crate::pixels::hash::ObjectHash;
use crate::pixels::index::{self, IndexChanges};
use crate::pixels::pack::{is_unreadable, read_exact_at};
use crate::pixels::read::OpenRecord;
use crate::pixels::record::{PACK_HEADER_BYTES, PackKind, Place, ReceiptId, RecordKind, decode_pack_header};
use crate::pixels::walk::{Step, Walk};

/// Records between two writes of the watermark during a scan: the work that a crash in the middle repeats.
const RECORDS_PER_WATERMARK: u64 = 1024;

/// A record that the catalogue may have missed. It is settled when the callback returns without an error, which it
/// does after having submitted to the engine what it derives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    pub id: ReceiptId,
    pub kind: RecordKind,
    pub hash: ObjectHash,
    /// Bytes of the object; zero for a tombstone, and for a receipt of an object that is not here.
    pub object_bytes: u64,
    pub envelope: Vec<u8>,
    pub place: Place,
}

/// What a scan found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Records handed to the catalogue.
    pub recovered: u64,
    /// Bytes of unfinished writes that were cut off.
    pub cut_bytes: u64,
    pub damages: Vec<Damage>,
}

/// Receives recovered records, in the order of each pack.
pub type OnRecovered<'a> = &'a mut dyn FnMut(Recovered) -> Result<(), StoreError>;

pub(crate) struct Scan<'a> {
    pub(crate) core: &'a Core,
    pub(crate) on_recovered: OnRecovered<'a>,
    pub(crate) report: RecoveryReport,
}

/// A pack as the directory and the index know it.
struct Candidate {
    pack: u64,
    kind: Option<PackKind>,
    file_bytes: u64,
    watermark: u64,
}

impl Scan<'_> {
    /// Scans all packs and returns the file to append to, with [`Core::growing`] at its end.
    pub(crate) fn run(&mut self) -> Result<File, StoreError> {
        let view = self.core.engine.snapshot();
        self.core.skip_receipt(index::highest_receipt(view.as_ref())?);
        let candidates = self.candidates()?;
        let newest = candidates.iter().rev().find(|candidate| candidate.kind != Some(PackKind::Single));
        let newest = newest.map(|candidate| candidate.pack);
        let mut growing = None;
        for candidate in &candidates {
            let is_newest = Some(candidate.pack) == newest;
            let end = self.scan_pack(candidate, is_newest)?;
            if is_newest && candidate.kind.is_some() && candidate.watermark <= candidate.file_bytes {
                growing = Some(Place { pack: candidate.pack, offset: end });
            }
            self.put_watermarks()?;
        }
        self.open_growing(growing)
    }

    fn candidates(&mut self) -> Result<Vec<Candidate>, StoreError> {
        let present = self.core.packs.list()?;
        for pack in index::known_packs(self.core.engine.as_ref())? {
            self.core.skip_pack(pack);
            if present.binary_search(&pack).is_err() {
                self.damaged(pack, PACK_HEADER_BYTES as u64, DamageKind::PackShortened);
            }
        }
        let mut candidates = Vec::with_capacity(present.len());
        for pack in present {
            self.core.skip_pack(pack);
            if self.core.packs.readable(pack)?.is_none() {
                self.damaged(pack, PACK_HEADER_BYTES as u64, DamageKind::PackShortened);
                continue;
            }
            let file_bytes = self.core.packs.file_bytes(pack)?;
            let watermark = index::watermark(self.core.engine.as_ref(), pack)?;
            candidates.push(Candidate { pack, kind: self.pack_kind(pack)?, file_bytes, watermark });
        }
        Ok(candidates)
    }

    fn pack_kind(&self, pack: u64) -> Result<Option<PackKind>, StoreError> {
        let mut bytes = [0; PACK_HEADER_BYTES];
        let Some(file) = self.core.packs.handle(pack)? else { return Ok(None) };
        match read_exact_at(&file, &mut bytes, 0) {
            Ok(()) => Ok(decode_pack_header(&bytes, &self.core.keys)),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof || is_unreadable(&error) => Ok(None),
            Err(error) => Err(StoreError::io("reading a pack", &self.core.packs.path(pack), &error)),
        }
    }

    /// Takes in what lies behind the watermark. Returns the offset behind the last record.
    fn scan_pack(&mut self, candidate: &Candidate, is_newest: bool) -> Result<u64, StoreError> {
        let Candidate { pack, file_bytes, watermark, .. } = *candidate;
        if file_bytes < PACK_HEADER_BYTES as u64 && watermark == 0 {
            // The store died while it made this file: no record can be in it.
            self.report.cut_bytes += file_bytes;
            self.core.packs.remove(pack)?;
            return Ok(0);
        }
        if watermark > file_bytes {
            self.damaged(pack, file_bytes, DamageKind::PackShortened);
            return Ok(file_bytes);
        }
        if candidate.kind.is_none() && file_bytes > PACK_HEADER_BYTES as u64 {
            self.damaged(pack, 0, DamageKind::PackHeader);
        }
        let Some(file) = self.core.packs.handle(pack)? else { return Ok(0) };
        if is_newest {
            // What is read back may be in the page cache only, left by a killed process. The catalogue will take it
            // in and may become durable first, so it is synced before anybody is told of it.
            let synced = self.core.packs.open_for_append(pack)?.sync_all();
            synced.map_err(|error| StoreError::io("syncing a pack", &self.core.packs.path(pack), &error))?;
        }
        let offset = watermark.max(PACK_HEADER_BYTES as u64);
        let mut walk = Walk { file, pack, offset, end: file_bytes, keys: &self.core.keys };
        let failed = |error| StoreError::io("reading a pack", &self.core.packs.path(pack), &error);
        loop {
            match walk.next().map_err(failed)? {
                Step::Record(record) => self.take_in(&record, is_newest)?,
                Step::Damage(damage) => self.report.damages.push(damage),
                Step::Unfinished(_) if is_newest => {
                    self.cut(pack, walk.offset, file_bytes)?;
                    break;
                }
                Step::Unfinished(damage) => {
                    self.report.damages.push(damage);
                    break;
                }
                Step::Newer => return Err(StoreError::NewerFormat { pack }),
                Step::End => break,
            }
        }
        if walk.offset != watermark {
            self.core.settlement().passed(pack, walk.offset);
        }
        Ok(walk.offset.max(PACK_HEADER_BYTES as u64))
    }

    fn take_in(&mut self, record: &OpenRecord, verify: bool) -> Result<(), StoreError> {
        let header = &record.header;
        self.core.skip_receipt(header.receipt);
        let checked = if verify { record.verify() } else { Ok(()) };
        let envelope = match checked.and_then(|()| record.envelope()) {
            Ok(envelope) => envelope,
            Err(StoreError::Damaged { damage }) => {
                self.report.damages.push(damage);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let mut batch = Batch::new();
        let mut changes = IndexChanges::default();
        changes.add(self.core.engine.as_ref(), header, record.place)?;
        changes.put(&mut batch);
        index::put_highest_receipt(&mut batch, self.core.highest_receipt());
        self.core.engine.submit(batch)?;
        if self.is_dead(record)? {
            return Ok(());
        }
        let recovered = self.recovered(record, envelope)?;
        (self.on_recovered)(recovered)?;
        self.report.recovered += 1;
        if self.report.recovered.is_multiple_of(RECORDS_PER_WATERMARK) {
            self.core.settlement().passed(record.place.pack, record.end());
            self.put_watermarks()?;
        }
        Ok(())
    }

    /// A record that a tombstone, met earlier, speaks of.
    fn is_dead(&self, record: &OpenRecord) -> Result<bool, StoreError> {
        let tombstone = self.core.forgotten(&record.header.hash)?;
        Ok(tombstone.is_some_and(|tombstone| tombstone > record.header.receipt))
    }

    fn recovered(&self, record: &OpenRecord, envelope: Vec<u8>) -> Result<Recovered, StoreError> {
        let header = &record.header;
        let object_bytes = match header.kind {
            RecordKind::Receipt => self.core.live(&header.hash)?.map_or(0, |(_, bytes)| bytes),
            RecordKind::Object | RecordKind::Tombstone => header.body_bytes,
        };
        Ok(Recovered {
            id: header.receipt,
            kind: header.kind,
            hash: header.hash,
            object_bytes,
            envelope,
            place: record.place,
        })
    }

    fn cut(&mut self, pack: u64, at: u64, file_bytes: u64) -> Result<(), StoreError> {
        let file = self.core.packs.open_for_append(pack)?;
        let cut = file.set_len(at).and_then(|()| file.sync_all());
        cut.map_err(|error| StoreError::io("cutting off an unfinished record", &self.core.packs.path(pack), &error))?;
        self.report.cut_bytes += file_bytes - at;
        Ok(())
    }

    fn put_watermarks(&self) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        self.core.settlement().put_watermarks(&mut batch);
        if !batch.is_empty() {
            self.core.engine.submit(batch)?;
        }
        Ok(())
    }

    fn damaged(&mut self, pack: u64, offset: u64, what: DamageKind) {
        self.report.damages.push(Damage { place: Place { pack, offset }, hash: None, what });
    }

    fn open_growing(&self, growing: Option<Place>) -> Result<File, StoreError> {
        let Some(place) = growing else {
            let pack = self.core.take_pack_number();
            self.core.set_growing(Place { pack, offset: PACK_HEADER_BYTES as u64 });
            return self.core.packs.create(pack, &self.core.keys);
        };
        self.core.set_growing(place);
        self.core.packs.open_for_append(place.pack)
    }
}

/// Removes large objects that were not finished: nobody was told success.
pub(crate) fn clear_incoming(directory: &Path) -> Result<(), StoreError> {
    let failed = |error| StoreError::io("clearing unfinished objects", directory, &error);
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        std::fs::remove_file(entry.map_err(failed)?.path()).map_err(failed)?;
    }
    Ok(())
}

/// Keeps a directory and its name on the disk.
pub(crate) fn prepare(store: &Path, name: &str) -> Result<std::path::PathBuf, StoreError> {
    let path = store.join(name);
    crate::pixels::pack::create_directory(&path)?;
    Ok(path)
}
