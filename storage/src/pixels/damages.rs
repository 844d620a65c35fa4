//! Damage that was found, kept until it is healed: so that it is told after a restart, that what is damaged is never
//! served, and that the same bytes, sent again, are stored anew instead of being taken for known.
//!
//! Who finds damage notes it: a start, a reader, the scrubber. An object whose body can't
//! be read is marked in the index; a record of it with sound bytes takes the mark's place (a resend), and so does the
//! scrubber when it finds the marked place sound (a pack that was restored). Nothing in the packs is changed.
//!
//! Table [`OBJECTS`]: `'d' pack 8, offset 8 -> version 1 | kind | hash algorithm, hash 32, or nothing`; pack and offset
//! are big-endian. `'c'` -> the scrubber's cursor.

use crate::engine::{Batch, View};
use crate::pixels::core::Core;
use crate::pixels::error::{Damage, DamageKind, StoreError};
use crate::pixels::hash::ObjectHash;
use crate::pixels::index::{self, Entry, OBJECTS};
use crate::pixels::record::{Place, ReceiptId};
use crate::pixels::scrub::ScrubCursor;
use crate::pixels::store::PixelStore;

const NOTE_VERSION: u8 = 1;
const CURSOR_KEY: &[u8] = b"c";
/// Places that are looked at when damages are listed; a disk with more is beyond listing.
const NOTES_MAX: usize = 10_000;

impl DamageKind {
    const ALL: [(u8, Self); 7] = [
        (1, Self::Header),
        (2, Self::Body),
        (3, Self::Groups),
        (4, Self::Envelope),
        (5, Self::CutShort),
        (6, Self::PackHeader),
        (7, Self::PackShortened),
    ];

    /// Whether the object's bytes themselves are lost at this place.
    pub(crate) fn takes_the_body(self) -> bool {
        matches!(self, Self::Header | Self::Body | Self::CutShort | Self::PackShortened)
    }

    pub(crate) fn number(self) -> u8 {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or(0, |(number, _)| *number)
    }

    pub(crate) fn of_number(number: u8) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == number).map(|(_, kind)| *kind)
    }
}

fn note_key(place: Place) -> Vec<u8> {
    [b"d".as_slice(), &place.pack.to_be_bytes(), &place.offset.to_be_bytes()].concat()
}

fn note(damage: &Damage) -> Vec<u8> {
    let mut bytes = vec![NOTE_VERSION, damage.what.number()];
    bytes.extend(damage.hash.iter().flat_map(|hash| hash.to_bytes()));
    bytes
}

fn read_note(key: &[u8], value: &[u8]) -> Option<Damage> {
    let (pack, offset) = (key.get(1..9)?.try_into().ok()?, key.get(9..)?.try_into().ok()?);
    let place = Place { pack: u64::from_be_bytes(pack), offset: u64::from_be_bytes(offset) };
    let (&[version, kind], hash) = value.split_first_chunk()?;
    let hash = if hash.is_empty() { None } else { Some(ObjectHash::from_bytes(hash).ok()?) };
    let what = DamageKind::of_number(kind).filter(|_| version == NOTE_VERSION)?;
    Some(Damage { place, hash, what })
}

impl Core {
    /// Keeps in mind what was found damaged. Of an object that lives elsewhere too, nothing is lost.
    pub(crate) fn note_damage(&self, damage: &Damage) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        if let Some(hash) = damage.hash.filter(|_| damage.what.takes_the_body()) {
            let (receipt, body_bytes) = match index::entry(self.engine.as_ref(), &hash)? {
                Some(Entry::Live { place, receipt, body_bytes }) if place == damage.place => (receipt, body_bytes),
                None => (ReceiptId(0), 0),
                Some(_) => return Ok(()),
            };
            let entry = Entry::Damaged { place: damage.place, receipt, body_bytes, what: damage.what };
            index::put_entry(&mut batch, &hash, entry);
        }
        batch.put(OBJECTS, note_key(damage.place), note(damage));
        self.engine.submit(batch)?;
        Ok(())
    }

    /// What a reader is told; damage that it met is kept in mind, or told again by the next reader.
    pub(crate) fn noting<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(StoreError::Damaged { damage }) = &result {
            self.note_damage(damage)?;
        }
        result
    }
}

impl PixelStore {
    /// What a start found. A pack that it did not miss this time is there again.
    pub(crate) fn note_found_at_start(&self, damages: &[Damage]) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        for (key, value) in self.core.engine.scan_prefix(OBJECTS, b"d", NOTES_MAX)? {
            if read_note(&key, &value).is_none_or(|note| note.what == DamageKind::PackShortened) {
                batch.delete(OBJECTS, key);
            }
        }
        self.core.engine.submit(batch)?;
        damages.iter().try_for_each(|damage| self.core.note_damage(damage))
    }

    /// What is damaged and not healed, at most `limit` places.
    pub fn damages(&self, limit: usize) -> Result<Vec<Damage>, StoreError> {
        let notes = self.core.engine.scan_prefix(OBJECTS, b"d", NOTES_MAX)?;
        let mut damages = Vec::new();
        for damage in notes.iter().filter_map(|(key, value)| read_note(key, value)) {
            if damages.len() == limit {
                break;
            }
            if self.is_unhealed(&damage)? {
                damages.push(damage);
            }
        }
        Ok(damages)
    }

    /// A damaged object is healed when its bytes are here again, or no longer wanted.
    fn is_unhealed(&self, damage: &Damage) -> Result<bool, StoreError> {
        let Some(hash) = damage.hash.filter(|_| damage.what.takes_the_body()) else { return Ok(true) };
        let entry = index::entry(self.view(), &hash)?;
        Ok(matches!(entry, Some(Entry::Damaged { place, .. }) if place == damage.place))
    }

    /// The record at `place`, of this object if it is one, was found sound.
    pub(crate) fn note_sound(&self, place: Place, hash: Option<&ObjectHash>) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        if let Some(hash) = hash
            && let Some(Entry::Damaged { place: marked, receipt, body_bytes, .. }) = index::entry(self.view(), hash)?
            && marked == place
        {
            index::put_entry(&mut batch, hash, Entry::Live { place, receipt, body_bytes });
        }
        if self.core.engine.get(OBJECTS, &note_key(place))?.is_some() {
            batch.delete(OBJECTS, note_key(place));
        }
        if !batch.is_empty() {
            self.core.engine.submit(batch)?;
        }
        Ok(())
    }

    /// Where the scrubber goes on after a restart.
    pub fn scrub_cursor(&self) -> Result<ScrubCursor, StoreError> {
        let kept = self.core.engine.get(OBJECTS, CURSOR_KEY)?.and_then(|bytes| bytes.try_into().ok());
        Ok(kept.map(ScrubCursor::from_bytes).unwrap_or_default())
    }

    pub fn keep_scrub_cursor(&self, cursor: ScrubCursor) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        batch.put(OBJECTS, CURSOR_KEY, cursor.to_bytes());
        self.core.engine.submit(batch)?;
        Ok(())
    }

    fn view(&self) -> &dyn View {
        self.core.engine.as_ref()
    }
}
