//! Reads what is stored and compares it with its hash, one record a step, so that rot is found while copies exist.
//!
//! The caller paces the steps (each report says how many bytes were read), keeps the cursor and tells people. Damage is
//! kept in mind ([`crate::pixels::damages`]), and forgotten where the place is found sound again. Not here: repair.

use std::fs::File;
use std::sync::Arc;

use crate::pixels::error::{Damage, DamageKind, StoreError};
use crate::pixels::pack::read_exact_at;
use crate::pixels::record::{PACK_HEADER_BYTES, Place, RecordKind, decode_pack_header};
use crate::pixels::store::PixelStore;
use crate::pixels::walk::{Step, Walk};

/// Where the next step goes on. The default is the beginning of the oldest pack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubCursor {
    pack: u64,
    offset: u64,
}

impl ScrubCursor {
    /// For looking at one place again.
    pub fn at(place: Place) -> Self {
        Self { pack: place.pack, offset: place.offset }
    }

    /// For keeping across restarts.
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.pack.to_le_bytes());
        bytes[8..].copy_from_slice(&self.offset.to_le_bytes());
        bytes
    }

    /// What `to_bytes` gave. A cursor into nowhere goes on at the next pack.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let [pack, offset] = [&bytes[..8], &bytes[8..]]
            .map(|half| half.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)));
        Self { pack, offset }
    }
}

/// What one step found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrubReport {
    /// Records read and found sound: one or none.
    pub sound: u64,
    pub bytes_read: u64,
    pub damage: Option<Damage>,
    /// Why this pack can't be worked with, where that says nothing of its bytes.
    pub failure: Option<StoreError>,
    /// `None` when the last record of the newest pack was passed: the round is complete.
    pub next: Option<ScrubCursor>,
}

impl PixelStore {
    /// Verifies the record at `cursor`: header, body against hash, group hashes, envelope. An error is of the whole store;
    /// one pack that can't be worked with is told in the report, and passed over.
    pub fn scrub_next(&self, cursor: ScrubCursor) -> Result<ScrubReport, StoreError> {
        let growing = self.core.growing();
        let packs = self.core.packs.list()?;
        let Some(pack) = packs.into_iter().find(|pack| *pack >= cursor.pack) else {
            return Ok(ScrubReport { sound: 0, bytes_read: 0, damage: None, failure: None, next: None });
        };
        let offset = if pack == cursor.pack { cursor.offset } else { 0 };
        match self.scrub_at(Place { pack, offset }, growing) {
            Err(failure @ (StoreError::Io { .. } | StoreError::NewerFormat { .. })) => {
                Ok(ScrubReport { failure: Some(failure), ..behind(pack, None) })
            }
            report => report,
        }
    }

    fn scrub_at(&self, place: Place, growing: Place) -> Result<ScrubReport, StoreError> {
        let Place { pack, offset } = place;
        let Some(file) = self.core.packs.readable(pack)? else { return self.scrub_without_file(pack) };
        if offset < PACK_HEADER_BYTES as u64 {
            return self.scrub_pack_header(pack, &file);
        }
        let end = if pack == growing.pack { growing.offset } else { self.core.packs.file_bytes(pack)? };
        self.scrub_record(place, end, file)
    }

    /// A pack that was compacted away meanwhile has nothing to read; one that is still there can't be opened.
    fn scrub_without_file(&self, pack: u64) -> Result<ScrubReport, StoreError> {
        let place = Place { pack, offset: PACK_HEADER_BYTES as u64 };
        let is_there = self.core.packs.list()?.contains(&pack);
        let damage = is_there.then_some(Damage { place, hash: None, what: DamageKind::PackShortened });
        damage.iter().try_for_each(|damage| self.core.note_damage(damage))?;
        Ok(behind(pack, damage))
    }

    fn scrub_pack_header(&self, pack: u64, file: &File) -> Result<ScrubReport, StoreError> {
        let mut bytes = [0; PACK_HEADER_BYTES];
        let read = read_exact_at(file, &mut bytes, 0).is_ok();
        let sound = read && decode_pack_header(&bytes, &self.core.keys).is_some();
        let place = Place { pack, offset: 0 };
        let damage = Damage { place, hash: None, what: DamageKind::PackHeader };
        match sound {
            true => self.note_sound(place, None)?,
            false => self.core.note_damage(&damage)?,
        }
        Ok(ScrubReport {
            sound: 0,
            bytes_read: PACK_HEADER_BYTES as u64,
            damage: (!sound).then_some(damage),
            failure: None,
            next: Some(ScrubCursor { pack, offset: PACK_HEADER_BYTES as u64 }),
        })
    }

    fn scrub_record(&self, place: Place, end: u64, file: Arc<File>) -> Result<ScrubReport, StoreError> {
        let Place { pack, offset } = place;
        let mut walk = Walk { file, pack, offset, end, keys: &self.core.keys };
        let step = walk.next().map_err(|error| StoreError::io("scrubbing", &self.core.packs.path(pack), &error))?;
        let (sound, damage) = match step {
            Step::Record(record) => match record.verify() {
                Ok(()) => {
                    let is_object = record.header.kind == RecordKind::Object;
                    self.note_sound(record.place, is_object.then_some(&record.header.hash))?;
                    (1, None)
                }
                Err(StoreError::Damaged { damage }) => (0, Some(damage)),
                Err(error) => return Err(error),
            },
            Step::Damage(damage) => (0, Some(damage)),
            Step::Unfinished(damage) => {
                walk.offset = end;
                (0, Some(damage))
            }
            Step::Newer => return Err(StoreError::NewerFormat { pack }),
            Step::End => (0, None),
        };
        if let Some(damage) = &damage {
            self.core.note_damage(damage)?;
        }
        let bytes_read = walk.offset - offset.min(walk.offset);
        Ok(if walk.offset < end {
            let next = Some(ScrubCursor { pack, offset: walk.offset });
            ScrubReport { sound, bytes_read, damage, failure: None, next }
        } else {
            ScrubReport { sound, bytes_read, ..behind(pack, damage) }
        })
    }
}

/// Goes on at the next pack.
fn behind(pack: u64, damage: Option<Damage>) -> ScrubReport {
    let next = Some(ScrubCursor { pack: pack + 1, offset: 0 });
    ScrubReport { sound: 0, bytes_read: 0, damage, failure: None, next }
}
