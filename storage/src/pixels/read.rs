//! Reading records: a whole object, a range of it (only the segments that it touches are decrypted), or a stream.
//!
//! What comes out was authenticated segment by segment; comparing the whole with its hash is the scrubber's work.
//! Bytes that do not open are named as [`Damage`], with pack and offset.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use crate::pixels::core::Core;
use crate::pixels::error::{Damage, DamageKind, StoreError};
use crate::pixels::hash::{GroupHasher, group_count, verify_groups};
use crate::pixels::pack::{is_unreadable, read_exact_at};
use crate::pixels::record::{HEADER_BYTES, Header, HeaderFault, Place, RecordKind};
use crate::pixels::seal::{
    Keyring, RecordKey, SEGMENT_BYTES, Stream, TAG_BYTES, sealed_bytes, segment_count, segment_offset,
};

/// Largest object or range that is returned in one piece, bytes; larger ones are read as a stream.
pub const READ_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Segments that a stream decrypts at a time: 1 MiB of memory for each reader.
const STREAM_SEGMENTS: u64 = 16;

/// A record whose header was read and passed its check.
pub(crate) struct OpenRecord {
    pub(crate) header: Header,
    pub(crate) place: Place,
    /// Boxed: an expanded AES key is half a kilobyte.
    key: Box<RecordKey>,
    file: Arc<File>,
}

/// What is at an offset of a pack.
pub(crate) enum Found {
    Record(OpenRecord),
    /// Fewer bytes than a header has.
    Short,
    Fault(HeaderFault),
}

impl OpenRecord {
    /// Reads the header at `place`; the file ends at `file_bytes`.
    pub(crate) fn find(file: &Arc<File>, place: Place, file_bytes: u64, keys: &Keyring) -> io::Result<Found> {
        if file_bytes.saturating_sub(place.offset) < HEADER_BYTES as u64 {
            return Ok(Found::Short);
        }
        let mut bytes = [0; HEADER_BYTES];
        read_exact_at(file, &mut bytes, place.offset)?;
        Ok(match Header::decode(&bytes, keys) {
            Ok(header) => {
                let key = Box::new(keys.record_key(&header.salt));
                Found::Record(Self { header, place, key, file: Arc::clone(file) })
            }
            Err(fault) => Found::Fault(fault),
        })
    }

    /// Offset behind the record.
    pub(crate) fn end(&self) -> u64 {
        self.place.offset.saturating_add(self.header.record_bytes())
    }

    fn damage(&self, what: DamageKind) -> StoreError {
        StoreError::Damaged { damage: Damage { place: self.place, hash: Some(self.header.hash), what } }
    }

    /// The file's end inside of a record is damage, and so is what the disk can't read; other failures are not.
    fn failed(&self, error: &io::Error, what: DamageKind) -> StoreError {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return self.damage(DamageKind::CutShort);
        }
        if is_unreadable(error) {
            return self.damage(what);
        }
        StoreError::io("reading a pack", Path::new(&format!("pack {}", self.place.pack)), error)
    }

    /// Bytes of the part of a record that is `what` when it is damaged.
    fn read_at(&self, offset: u64, bytes: u64, what: DamageKind) -> Result<Vec<u8>, StoreError> {
        let mut buffer = vec![0; bytes as usize];
        let read = read_exact_at(&self.file, &mut buffer, self.place.offset + offset);
        read.map_err(|error| self.failed(&error, what))?;
        Ok(buffer)
    }

    pub(crate) fn envelope(&self) -> Result<Vec<u8>, StoreError> {
        let sealed =
            self.read_at(self.header.envelope_offset(), self.header.sealed_envelope_bytes(), DamageKind::Envelope)?;
        let opened = self.key.open_stream(Stream::Envelope, u64::from(self.header.envelope_bytes), sealed);
        opened.map_err(|_| self.damage(DamageKind::Envelope))
    }

    /// Hashes of all groups; of an object of one group it is the root.
    pub(crate) fn groups(&self) -> Result<Vec<[u8; 32]>, StoreError> {
        let bytes = self.header.groups_bytes();
        if bytes == 0 {
            return Ok(vec![*self.header.hash.digest()]);
        }
        let sealed =
            self.read_at(self.header.groups_offset(), self.header.sealed_groups_bytes(), DamageKind::Groups)?;
        let opened = self.key.open_stream(Stream::Groups, bytes, sealed);
        let opened = opened.map_err(|_| self.damage(DamageKind::Groups))?;
        Ok(opened.as_chunks::<32>().0.to_vec())
    }

    /// Plaintext of the segments `from..to` of the body, appended to `out`.
    fn segments(&self, from: u64, to: u64, out: &mut Vec<u8>) -> Result<(), StoreError> {
        let count = segment_count(self.header.body_bytes);
        let start = segment_offset(from);
        let end = segment_offset(to).min(sealed_bytes(self.header.body_bytes));
        let mut sealed = self.read_at(HEADER_BYTES as u64 + start, end - start, DamageKind::Body)?;
        for (number, piece) in (from..to).zip(sealed.chunks_mut(SEGMENT_BYTES + TAG_BYTES)) {
            let opened = self.key.open_segment(Stream::Body, number, number + 1 == count, piece);
            out.extend_from_slice(opened.map_err(|_| self.damage(DamageKind::Body))?);
        }
        Ok(())
    }

    /// Bytes `offset .. offset + bytes` of the object.
    pub(crate) fn range(&self, offset: u64, bytes: u64) -> Result<Vec<u8>, StoreError> {
        let object_bytes = self.header.body_bytes;
        let end = offset.saturating_add(bytes);
        if end > object_bytes {
            return Err(StoreError::OutOfRange { offset, end, object_bytes });
        }
        if bytes > READ_BYTES_MAX {
            return Err(StoreError::ObjectTooLarge { bytes, bytes_max: READ_BYTES_MAX });
        }
        let segment = SEGMENT_BYTES as u64;
        let (first, behind) = (offset / segment, segment_count(end));
        let mut plain = Vec::with_capacity((bytes + 2 * segment) as usize);
        self.segments(first.min(behind - 1), behind, &mut plain)?;
        plain.drain(..(offset - first.min(behind - 1) * segment) as usize);
        plain.truncate(bytes as usize);
        Ok(plain)
    }

    /// Reads everything and compares it with what the header says.
    pub(crate) fn verify(&self) -> Result<(), StoreError> {
        if self.header.kind == RecordKind::Object {
            let mut hasher = GroupHasher::new();
            let count = segment_count(self.header.body_bytes);
            let mut plain = Vec::new();
            for from in (0..count).step_by(STREAM_SEGMENTS as usize) {
                plain.clear();
                self.segments(from, count.min(from + STREAM_SEGMENTS), &mut plain)?;
                hasher.update(&plain);
            }
            let (hash, groups) = hasher.finish();
            if hash != self.header.hash {
                return Err(self.damage(DamageKind::Body));
            }
            let stored = self.groups()?;
            if stored != groups || !verify_groups(&hash, self.header.body_bytes, &stored) {
                return Err(self.damage(DamageKind::Groups));
            }
        }
        self.envelope().map(|_| ())
    }

    /// The record as it lies in the file.
    pub(crate) fn raw(&self) -> Result<Vec<u8>, StoreError> {
        self.read_at(0, self.header.record_bytes(), DamageKind::Body)
    }
}

/// A stored object as a stream. Memory: 1 MiB, whatever the object's size.
pub struct ObjectReader {
    record: OpenRecord,
    core: Arc<Core>,
    position: u64,
    /// Plaintext from `buffer_at` on.
    buffer: Vec<u8>,
    buffer_at: u64,
}

impl ObjectReader {
    pub(crate) fn new(record: OpenRecord, core: Arc<Core>) -> Self {
        Self { record, core, position: 0, buffer: Vec::new(), buffer_at: 0 }
    }

    /// Bytes of the object.
    pub fn object_bytes(&self) -> u64 {
        self.record.header.body_bytes
    }

    /// Number of 1 MiB groups.
    pub fn group_count(&self) -> u64 {
        group_count(self.object_bytes())
    }

    fn fill(&mut self) -> Result<(), StoreError> {
        let first = self.position / SEGMENT_BYTES as u64;
        let behind = segment_count(self.object_bytes()).min(first + STREAM_SEGMENTS);
        self.buffer.clear();
        self.buffer_at = first * SEGMENT_BYTES as u64;
        let read = self.record.segments(first, behind, &mut self.buffer);
        self.core.noting(read)
    }
}

impl Read for ObjectReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.position >= self.object_bytes() || out.is_empty() {
            return Ok(0);
        }
        if self.position < self.buffer_at || self.position >= self.buffer_at + self.buffer.len() as u64 {
            self.fill().map_err(io::Error::other)?;
        }
        let available = &self.buffer[(self.position - self.buffer_at) as usize..];
        let count = available.len().min(out.len());
        out[..count].copy_from_slice(&available[..count]);
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for ObjectReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(offset) => self.object_bytes().checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        let before = || io::Error::new(io::ErrorKind::InvalidInput, "seek before the object's beginning");
        self.position = target.ok_or_else(before)?;
        Ok(self.position)
    }
}
