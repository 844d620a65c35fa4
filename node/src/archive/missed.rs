//! What a crash kept from the catalogue, filed by the next start.
//!
//! The packs hand over every record whose filing may have been lost; each becomes a durable note before the store can
//! be read. An object that can't be filed (it is damaged in the packs or gone from them) holds up neither the start
//! nor the others: its note goes to a list of which `tessera status` warns, and each start tries it again. Only a
//! database or a store that has failed as a whole ends a start.
//!
//! Not filed: what was given up since, whichever of record and tombstone a start meets first, and what was refused when
//! it came, as its sender heard. Refused bytes are forgotten, but not before all own objects are filed: another sender
//! may have announced the same bytes as what they are, and heard success.
//!
//! Keys of the catalogue's table: `x<receipt>` to be filed · `y<receipt>` of a copy, or refused: looked at when the own
//! objects are filed · `l<receipt>` could not be filed.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use tessera_consensus::wire::decode;
use tessera_storage::engine::{Batch, View};
use tessera_storage::pixels::{ObjectHash, RecordKind, Recovered, StoreError};

use super::catalogue::{self, CATALOGUE, CatalogueError, ObjectRecord, Receipt};
use super::ingest::{IngestError, announced_in, charset_policy, check_announced};
use super::{Archive, ArchiveError, describe};
use crate::dicom::facts::ObjectFacts;
use crate::dicom::identifiers::Uid;
use crate::dicom::source::in_file;
use crate::dicom::syntax::TransferSyntax;

const RECEIPT_BYTES_MAX: usize = 8 * 1024;
/// Notes read at one time.
const NOTES: usize = 256;
/// Objects that could not be filed, as far as they are counted.
const UNFILED_MAX: usize = 1000;

const TO_FILE: u8 = b'x';
const BEHIND_OWN: u8 = b'y';
const UNFILED: u8 = b'l';

/// An object that is durable in the packs and that the catalogue may have missed.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Missed {
    hash: Vec<u8>,
    envelope: Vec<u8>,
}

/// One that could not be filed.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Unfiled {
    missed: Missed,
    why: String,
}

/// A note with what follows the kind in its key.
struct Note {
    place: Vec<u8>,
    missed: Missed,
}

impl Note {
    /// Number of the record in the packs.
    fn receipt(&self) -> Option<u64> {
        self.place.as_slice().try_into().ok().map(u64::from_be_bytes)
    }

    fn hash(&self) -> anyhow::Result<ObjectHash> {
        Ok(ObjectHash::from_bytes(&self.missed.hash)?)
    }

    fn sent(&self) -> anyhow::Result<Receipt> {
        Ok(decode("receipt", &self.missed.envelope, RECEIPT_BYTES_MAX)?)
    }
}

/// Notes a record that a start found in the packs, to be filed when the store is open.
pub fn note(batch: &mut Batch, recovered: &Recovered) {
    if recovered.kind == RecordKind::Tombstone {
        return;
    }
    let missed = Missed { hash: recovered.hash.to_bytes().to_vec(), envelope: recovered.envelope.clone() };
    catalogue::store(batch, key(TO_FILE, &recovered.id.number().to_be_bytes()), &missed);
}

fn key(kind: u8, place: &[u8]) -> Vec<u8> {
    catalogue::key(kind, &[place])
}

fn notes(view: &dyn View, kind: u8) -> Result<Vec<Note>, CatalogueError> {
    let pairs = view.scan_prefix(CATALOGUE, &[kind], NOTES)?;
    pairs.iter().map(|(key, value)| Ok(Note { place: key[1..].to_vec(), missed: catalogue::load(value)? })).collect()
}

/// What the operator should look at, in words.
pub fn warnings(view: &dyn View) -> Result<Vec<String>, CatalogueError> {
    let unfiled: Vec<Unfiled> = catalogue::read_all(view, &[UNFILED], UNFILED_MAX)?;
    let sentence = |first: &Unfiled| {
        format!(
            "{} received objects could not be filed and are not shown ({}); each start of the node tries again",
            unfiled.len(),
            first.why
        )
    };
    Ok(unfiled.first().map(sentence).into_iter().collect())
}

/// Which of these bytes wait to be filed: their sender heard success.
pub(super) fn waiting(view: &dyn View, hashes: &BTreeSet<[u8; 32]>) -> Result<BTreeSet<[u8; 32]>, CatalogueError> {
    let (mut waiting, mut from) = (BTreeSet::new(), vec![UNFILED]);
    loop {
        let page = view.scan(CATALOGUE, &from, Some(&[UNFILED + 1]), NOTES)?;
        for (_, value) in &page {
            let unfiled: Unfiled = catalogue::load(value)?;
            waiting.extend(unfiled.missed.hash.last_chunk().filter(|hash| hashes.contains(*hash)));
        }
        match page.last() {
            Some((last, _)) if page.len() == NOTES => from = [last.as_slice(), b"\0"].concat(),
            _ => return Ok(waiting),
        }
    }
}

impl Archive {
    /// Files what was noted; the note goes with the same write. Returns the number of notes.
    pub(super) fn file_missed(&self) -> anyhow::Result<u64> {
        self.try_unfiled_again()?;
        let own = self.file_notes(TO_FILE, Self::file_own)?;
        // It is known now what the own objects are made of.
        Ok(own + self.file_notes(BEHIND_OWN, Self::file_behind_own)?)
    }

    fn try_unfiled_again(&self) -> Result<(), ArchiveError> {
        loop {
            let pairs = self.engine.scan_prefix(CATALOGUE, &[UNFILED], NOTES)?;
            if pairs.is_empty() {
                return Ok(());
            }
            let mut batch = Batch::new();
            for (name, value) in pairs {
                let unfiled: Unfiled = catalogue::load(&value)?;
                catalogue::store(&mut batch, key(TO_FILE, &name[1..]), &unfiled.missed);
                batch.delete(CATALOGUE, name);
            }
            self.submit(batch)?;
        }
    }

    fn file_notes(&self, kind: u8, file: fn(&Self, &Note, Batch) -> anyhow::Result<()>) -> anyhow::Result<u64> {
        let mut done = 0;
        loop {
            let notes = notes(&*self.engine, kind)?;
            if notes.is_empty() {
                return Ok(done);
            }
            for note in notes {
                let mut batch = Batch::new();
                batch.delete(CATALOGUE, key(kind, &note.place));
                match file(self, &note, batch) {
                    Ok(()) => {}
                    Err(error) if is_of_the_whole(&error) => return Err(error),
                    Err(error) => self.put_off(kind, &note, &error)?,
                }
                done += 1;
            }
        }
    }

    fn file_own(&self, note: &Note, batch: Batch) -> anyhow::Result<()> {
        if self.was_given_up(note)? {
            return Ok(self.submit(batch)?);
        }
        if note.sent()?.fetched_from.is_some() {
            return self.put_behind_own(note, batch);
        }
        match self.describe_missed(note) {
            Ok(record) => Ok(self.file_with(&record, batch).map(drop)?),
            // It was never answered with success. Whatever else goes wrong must not lose an object that was.
            Err(error) if was_refused(&error) => {
                tracing::warn!(why = format!("{error:#}"), "an object is refused, as when it was received");
                self.put_behind_own(note, batch)
            }
            Err(error) => Err(error),
        }
    }

    fn put_behind_own(&self, note: &Note, mut batch: Batch) -> anyhow::Result<()> {
        catalogue::store(&mut batch, key(BEHIND_OWN, &note.place), &note.missed);
        Ok(self.submit(batch)?)
    }

    fn file_behind_own(&self, note: &Note, batch: Batch) -> anyhow::Result<()> {
        let (hash, sent) = (note.hash()?, note.sent()?);
        // A copy that lost an object here fetches it again.
        if self.pixels.contains(&hash)? {
            match sent.fetched_from {
                Some(_) => self.file_missed_copy(&hash, sent.character_set.as_deref())?,
                None => self.forget_refused(None, &hash)?,
            }
        }
        Ok(self.submit(batch)?)
    }

    /// Whether its record is older than the tombstone of its bytes.
    fn was_given_up(&self, note: &Note) -> anyhow::Result<bool> {
        let tombstone = self.pixels.forgotten(&note.hash()?)?;
        Ok(tombstone.is_some_and(|tombstone| note.receipt().is_none_or(|receipt| receipt < tombstone.number())))
    }

    fn describe_missed(&self, note: &Note) -> anyhow::Result<ObjectRecord> {
        let receipt = note.sent()?;
        let announced = announced_in(&receipt);
        self.read_again(&note.hash()?, receipt, |facts| Ok(check_announced(announced, facts)?))
    }

    /// The record of an object that is in the packs, from its bytes. Blocks for the disk.
    pub(super) fn describe_again(&self, hash: &ObjectHash, receipt: Receipt) -> anyhow::Result<ObjectRecord> {
        self.read_again(hash, receipt, |_| Ok(()))
    }

    fn read_again(
        &self,
        hash: &ObjectHash,
        receipt: Receipt,
        check: impl FnOnce(&ObjectFacts) -> anyhow::Result<()>,
    ) -> anyhow::Result<ObjectRecord> {
        let syntax = TransferSyntax::of(&Uid::parse(&receipt.transfer_syntax)?);
        let reader = self.pixels.reader(hash)?;
        let size = reader.object_bytes();
        let policy = charset_policy(receipt.character_set.as_deref());
        let facts = ObjectFacts::read(in_file(reader, size, &syntax), &syntax, &policy).map_err(IngestError::from)?;
        check(&facts)?;
        let description = describe::from_facts(&facts, self.issuer_of(&receipt.site));
        let is_damaged = describe::is_damaged(&facts);
        Ok(ObjectRecord { description, receipt, hash: *hash.digest(), size, is_damaged })
    }

    /// Moves a note to the list of those that could not be filed.
    fn put_off(&self, kind: u8, note: &Note, error: &anyhow::Error) -> Result<(), ArchiveError> {
        let sender = note.sent().map_or_else(|_| "a sender unknown".into(), |receipt| receipt.calling_ae);
        let why = format!("the first came from {sender:?}: {error:#}");
        tracing::error!(why, "a received object could not be filed");
        let mut batch = Batch::new();
        batch.delete(CATALOGUE, key(kind, &note.place));
        catalogue::store(&mut batch, key(UNFILED, &note.place), &Unfiled { missed: note.missed.clone(), why });
        self.submit(batch)
    }
}

/// Whether its sender heard that it is not taken.
fn was_refused(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(IngestError::is_of_the_bytes)
}

/// Whether it says nothing of this one object.
fn is_of_the_whole(error: &anyhow::Error) -> bool {
    let store = |error: &StoreError| ArchiveError::from(error.clone()).is_of_the_whole();
    let catalogue = |error: &CatalogueError| ArchiveError::from(error.clone()).is_of_the_whole();
    error.downcast_ref().is_some_and(ArchiveError::is_of_the_whole)
        || error.downcast_ref().is_some_and(store)
        || error.downcast_ref().is_some_and(catalogue)
}
