//! Walks over the records of a pack, across damage: for recovery, the scrubber and compaction alike.
//!
//! A record is found by its authenticated header, so the walk never trusts a length that was not written by this
//! store. Where no header stands, it searches for the next one and reports what lies between: a damaged record
//! never hides those behind it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::pixels::error::{Damage, DamageKind};
use crate::pixels::read::{Found, OpenRecord};
use crate::pixels::record::{HEADER_BYTES, HeaderFault, Place, RECORD_MAGIC};
use crate::pixels::seal::Keyring;

/// Bytes that the search for the next header reads at a time.
const SEARCH_BYTES: usize = 1024 * 1024;

pub(crate) struct Walk<'a> {
    pub(crate) file: Arc<File>,
    pub(crate) pack: u64,
    pub(crate) offset: u64,
    /// Where the walk ends: the file's length, or what of it is committed.
    pub(crate) end: u64,
    pub(crate) keys: &'a Keyring,
}

/// What the walk meets next.
pub(crate) enum Step {
    /// A record whose bytes are all there; the walk stands behind it.
    Record(OpenRecord),
    /// Bytes that are no record; the walk stands behind them, at a record or at the end.
    Damage(Damage),
    /// The rest is a write that never completed: part of a record, or zeros. The walk stands at its beginning.
    Unfinished(Damage),
    /// A record of a newer format.
    Newer,
    End,
}

impl Walk<'_> {
    pub(crate) fn next(&mut self) -> io::Result<Step> {
        if self.offset >= self.end {
            return Ok(Step::End);
        }
        let place = Place { pack: self.pack, offset: self.offset };
        match OpenRecord::find(&self.file, place, self.end, self.keys)? {
            Found::Record(record) if record.end() <= self.end => {
                self.offset = record.end();
                Ok(Step::Record(record))
            }
            Found::Record(record) => {
                Ok(Step::Unfinished(Damage { place, hash: Some(record.header.hash), what: DamageKind::CutShort }))
            }
            Found::Short => Ok(Step::Unfinished(Damage { place, hash: None, what: DamageKind::CutShort })),
            Found::Fault(HeaderFault::Newer) => Ok(Step::Newer),
            Found::Fault(HeaderFault::NotARecord | HeaderFault::Unauthentic) => self.skip(place),
        }
    }

    fn skip(&mut self, place: Place) -> io::Result<Step> {
        let damage = Damage { place, hash: None, what: DamageKind::Header };
        match self.search()? {
            Some(next) => self.offset = next,
            None if self.rest_is_zero()? => return Ok(Step::Unfinished(damage)),
            None => self.offset = self.end,
        }
        Ok(Step::Damage(damage))
    }

    /// Offset of the next authentic header behind the present offset.
    fn search(&self) -> io::Result<Option<u64>> {
        let mut window = vec![0; SEARCH_BYTES + RECORD_MAGIC.len() - 1];
        let mut start = self.offset + 1;
        while start + HEADER_BYTES as u64 <= self.end {
            let bytes = window.len().min((self.end - start) as usize);
            self.file.read_exact_at(&mut window[..bytes], start)?;
            for position in magic_positions(&window[..bytes]) {
                let place = Place { pack: self.pack, offset: start + position as u64 };
                let found = OpenRecord::find(&self.file, place, self.end, self.keys)?;
                if matches!(found, Found::Record(_) | Found::Fault(HeaderFault::Newer)) {
                    return Ok(Some(place.offset));
                }
            }
            start += SEARCH_BYTES as u64;
        }
        Ok(None)
    }

    fn rest_is_zero(&self) -> io::Result<bool> {
        let mut window = vec![0; SEARCH_BYTES];
        let mut start = self.offset;
        while start < self.end {
            let bytes = window.len().min((self.end - start) as usize);
            self.file.read_exact_at(&mut window[..bytes], start)?;
            if window[..bytes].iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            start += bytes as u64;
        }
        Ok(true)
    }
}

fn magic_positions(window: &[u8]) -> impl Iterator<Item = usize> + '_ {
    let starts = window.windows(RECORD_MAGIC.len()).enumerate();
    starts.filter(|(_, bytes)| *bytes == RECORD_MAGIC).map(|(position, _)| position)
}
