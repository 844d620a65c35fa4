//! Where objects are, kept in the engine: a cache of what the packs say, written lazily and never waited for.
//!
//! Table [`OBJECTS`]:
//! ```text
//! 'o' hash algorithm, hash 32 -> version 1 | 1 live | pack 8 | offset 8 | receipt 8 | body bytes 8
//!                                version 1 | 2 forgotten | receipt 8
//!                                version 1 | 3 damaged | pack 8 | offset 8 | receipt 8 | body bytes 8 | kind 8
//! 'w' pack 8                  -> offset 8: records before it are indexed, and settled by the catalogue
//! 's'                         -> highest receipt number in use 8
//! 'd', 'c'                    -> see `damages`
//! ```
//! Pack numbers in keys are big-endian, so that they sort; values are little-endian.
//!
//! Invariant: an index entry is submitted before the watermark that covers its record. The engine keeps a prefix of
//! the order of submission, so a watermark that survives a crash speaks of entries that did too; and when the index
//! is lost altogether, scanning the packs from their beginnings makes it again.

use std::collections::BTreeMap;

use crate::engine::{Batch, Engine, EngineError, Table, View};
use crate::pixels::error::DamageKind;
use crate::pixels::hash::ObjectHash;
use crate::pixels::record::{Header, Place, ReceiptId, RecordKind};

/// The engine's table that the pixel store owns; open the engine with it.
pub const OBJECTS: Table = "objects";

const ENTRY_VERSION: u8 = 1;
const LIVE: u8 = 1;
const FORGOTTEN: u8 = 2;
const DAMAGED: u8 = 3;

/// What the index says of a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Live {
        place: Place,
        receipt: ReceiptId,
        body_bytes: u64,
    },
    Forgotten {
        receipt: ReceiptId,
    },
    /// The record at `place` was found damaged: the object is not here, and a record with its bytes is welcome.
    Damaged {
        place: Place,
        receipt: ReceiptId,
        body_bytes: u64,
        what: DamageKind,
    },
}

impl Entry {
    fn encode(self) -> Vec<u8> {
        let mut bytes = vec![ENTRY_VERSION];
        match self {
            Entry::Live { place, receipt, body_bytes } => {
                bytes.push(LIVE);
                for number in [place.pack, place.offset, receipt.0, body_bytes] {
                    bytes.extend(number.to_le_bytes());
                }
            }
            Entry::Forgotten { receipt } => {
                bytes.push(FORGOTTEN);
                bytes.extend(receipt.0.to_le_bytes());
            }
            Entry::Damaged { place, receipt, body_bytes, what } => {
                bytes.push(DAMAGED);
                for number in [place.pack, place.offset, receipt.0, body_bytes, what.number().into()] {
                    bytes.extend(number.to_le_bytes());
                }
            }
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (&[version, state], numbers) = bytes.split_first_chunk()?;
        let numbers: Vec<u64> = numbers.chunks(8).map(number).collect::<Option<_>>()?;
        match (version, state, numbers.as_slice()) {
            (ENTRY_VERSION, LIVE, &[pack, offset, receipt, body_bytes]) => {
                Some(Entry::Live { place: Place { pack, offset }, receipt: ReceiptId(receipt), body_bytes })
            }
            (ENTRY_VERSION, DAMAGED, &[pack, offset, receipt, body_bytes, what]) => {
                let what = DamageKind::of_number(u8::try_from(what).ok()?)?;
                let (place, receipt) = (Place { pack, offset }, ReceiptId(receipt));
                Some(Entry::Damaged { place, receipt, body_bytes, what })
            }
            (ENTRY_VERSION, FORGOTTEN, &[receipt]) => Some(Entry::Forgotten { receipt: ReceiptId(receipt) }),
            _ => None,
        }
    }
}

fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

fn object_key(hash: &ObjectHash) -> Vec<u8> {
    [b"o".as_slice(), &hash.to_bytes()].concat()
}

fn watermark_key(pack: u64) -> Vec<u8> {
    [b"w".as_slice(), &pack.to_be_bytes()].concat()
}

const RECEIPT_KEY: &[u8] = b"s";

/// What the index says of `hash`. An entry of a newer version is an error: guessing could hide an object.
pub(crate) fn entry(view: &dyn View, hash: &ObjectHash) -> Result<Option<Entry>, EngineError> {
    let Some(bytes) = view.get(OBJECTS, &object_key(hash))? else { return Ok(None) };
    let unreadable = || EngineError::Corrupt { detail: format!("index entry of {hash}") };
    Entry::decode(&bytes).map(Some).ok_or_else(unreadable)
}

/// Entries that change together; later records see the changes of earlier ones.
#[derive(Default)]
pub(crate) struct IndexChanges(BTreeMap<ObjectHash, Entry>);

impl IndexChanges {
    /// Takes in what a record at `place` means. The newest statement about a hash wins, and of two copies of one
    /// record the one in the newer place.
    pub(crate) fn add(&mut self, view: &dyn View, header: &Header, place: Place) -> Result<(), EngineError> {
        let known = match self.0.get(&header.hash) {
            Some(entry) => Some(*entry),
            None => entry(view, &header.hash)?,
        };
        let receipt = header.receipt;
        let is_newest = match known {
            Some(
                Entry::Live { place: known_place, receipt: known, .. }
                | Entry::Damaged { place: known_place, receipt: known, .. },
            ) => (receipt, place) > (known, known_place),
            Some(Entry::Forgotten { receipt: known }) => receipt > known,
            None => true,
        };
        let entry = match header.kind {
            RecordKind::Object => Entry::Live { place, receipt, body_bytes: header.body_bytes },
            RecordKind::Tombstone => Entry::Forgotten { receipt },
            RecordKind::Receipt => return Ok(()),
        };
        if is_newest {
            self.0.insert(header.hash, entry);
        }
        Ok(())
    }

    pub(crate) fn put(self, batch: &mut Batch) {
        for (hash, entry) in self.0 {
            put_entry(batch, &hash, entry);
        }
    }
}

pub(crate) fn put_entry(batch: &mut Batch, hash: &ObjectHash, entry: Entry) {
    batch.put(OBJECTS, object_key(hash), entry.encode());
}

/// How far into `pack` records are indexed and settled.
pub(crate) fn watermark(view: &dyn View, pack: u64) -> Result<u64, EngineError> {
    Ok(view.get(OBJECTS, &watermark_key(pack))?.and_then(|bytes| number(&bytes)).unwrap_or(0))
}

pub(crate) fn put_watermark(batch: &mut Batch, pack: u64, offset: u64) {
    batch.put(OBJECTS, watermark_key(pack), offset.to_le_bytes());
}

pub(crate) fn delete_watermark(batch: &mut Batch, pack: u64) {
    batch.delete(OBJECTS, watermark_key(pack));
}

pub(crate) fn highest_receipt(view: &dyn View) -> Result<ReceiptId, EngineError> {
    Ok(ReceiptId(view.get(OBJECTS, RECEIPT_KEY)?.and_then(|bytes| number(&bytes)).unwrap_or(0)))
}

pub(crate) fn put_highest_receipt(batch: &mut Batch, receipt: ReceiptId) {
    batch.put(OBJECTS, RECEIPT_KEY, receipt.0.to_le_bytes());
}

/// Pack numbers that have a watermark, to notice packs that are gone.
pub(crate) fn known_packs(engine: &dyn Engine) -> Result<Vec<u64>, EngineError> {
    let pairs = engine.scan_prefix(OBJECTS, b"w", usize::MAX)?;
    let pack = |key: &[u8]| Some(u64::from_be_bytes(key.get(1..)?.try_into().ok()?));
    Ok(pairs.iter().filter_map(|(key, _)| pack(key)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_version_1_have_these_bytes() {
        let place = Place { pack: 2, offset: 32 };
        let live = Entry::Live { place, receipt: ReceiptId(3), body_bytes: 4 };
        let forgotten = Entry::Forgotten { receipt: ReceiptId(5) };
        let damaged = Entry::Damaged { place, receipt: ReceiptId(3), body_bytes: 4, what: DamageKind::Body };
        let table = [
            (live, "01010200000000000000200000000000000003000000000000000400000000000000"),
            (forgotten, "01020500000000000000"),
            (damaged, "010302000000000000002000000000000000030000000000000004000000000000000200000000000000"),
        ];
        for (entry, golden) in table {
            assert_eq!(hex::encode(entry.encode()), golden);
            assert_eq!(Entry::decode(&entry.encode()), Some(entry));
        }
        for bytes in [&b""[..], b"\x01", b"\x02\x01", b"\x01\x02\x00", b"\x01\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00"]
        {
            assert_eq!(Entry::decode(bytes), None);
        }
    }
}
