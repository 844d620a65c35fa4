//! Walks over the records of a pack, across damage: for recovery, the scrubber and compaction alike.
//!
//! A record is found by its authenticated header, so the walk never trusts a length that was not written by this
//! store. Where no header stands, or the disk can't read it, it searches for the next one and reports what lies
//! between: a damaged record never hides those behind it.

use std::fs::File;
use std::io;
use std::sync::Arc;

use crate::pixels::error::{Damage, DamageKind};
use crate::pixels::pack::{is_unreadable, read_exact_at};
use crate::pixels::read::{Found, OpenRecord};
use crate::pixels::record::{HEADER_BYTES, HeaderFault, Place, RECORD_MAGIC};
use crate::pixels::seal::Keyring;

/// Bytes that the search for the next header reads at a time.
const SEARCH_BYTES: usize = 1024 * 1024;
/// What a disk gives or refuses as a whole.
const BLOCK_BYTES: usize = 4096;
/// Blocks that a search tries in vain; then it takes the rest of the pack for lost. A failing disk may take seconds for
/// each, and a start waits.
const UNREADABLE_BLOCKS_MAX: usize = 128;

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
        match self.find(place)? {
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

    fn find(&self, place: Place) -> io::Result<Found> {
        match OpenRecord::find(&self.file, place, self.end, self.keys) {
            Err(error) if is_unreadable(&error) => Ok(Found::Fault(HeaderFault::NotARecord)),
            found => found,
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
        let (mut start, mut unreadable) = (self.offset + 1, 0);
        while start + HEADER_BYTES as u64 <= self.end && unreadable < UNREADABLE_BLOCKS_MAX {
            let bytes = window.len().min((self.end - start) as usize);
            unreadable += self.read_around(&mut window[..bytes], start, UNREADABLE_BLOCKS_MAX - unreadable)?;
            for position in magic_positions(&window[..bytes]) {
                let place = Place { pack: self.pack, offset: start + position as u64 };
                if matches!(self.find(place)?, Found::Record(_) | Found::Fault(HeaderFault::Newer)) {
                    return Ok(Some(place.offset));
                }
            }
            start += SEARCH_BYTES as u64;
        }
        Ok(None)
    }

    /// Reads a window block by block where it can't be read as a whole; what the disk refuses is zero. Returns the number
    /// of those blocks, and tries no further behind `unreadable_max`.
    fn read_around(&self, window: &mut [u8], start: u64, unreadable_max: usize) -> io::Result<usize> {
        match read_exact_at(&self.file, window, start) {
            Err(error) if is_unreadable(&error) => window.fill(0),
            read => return read.map(|()| 0),
        }
        let (mut at, mut unreadable) = (0, 0);
        while at < window.len() && unreadable < unreadable_max {
            let offset = start + at as u64;
            let bytes = (BLOCK_BYTES - (offset % BLOCK_BYTES as u64) as usize).min(window.len() - at);
            match read_exact_at(&self.file, &mut window[at..at + bytes], offset) {
                Err(error) if is_unreadable(&error) => unreadable += 1,
                read => read?,
            }
            at += bytes;
        }
        Ok(unreadable)
    }

    fn rest_is_zero(&self) -> io::Result<bool> {
        let mut window = vec![0; SEARCH_BYTES];
        let mut start = self.offset;
        while start < self.end {
            let bytes = window.len().min((self.end - start) as usize);
            match read_exact_at(&self.file, &mut window[..bytes], start) {
                // Who can't see what is there must not call it nothing.
                Err(error) if is_unreadable(&error) => return Ok(false),
                read => read?,
            }
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
