//! Where the walker gets its bytes: memory, a file, or a stream that can't go back (inflated data sets).
//!
//! A source moves forward only, knows its position, and may know its end. Skipping must be cheap where the medium
//! allows it, because pixel data of gigabytes is skipped, never read. Deflated data sets are inflated up to
//! `INFLATED_BYTES_MAX`; beyond it the source reports an error instead of filling the memory.

use std::io::{self, Read, Seek};
use std::ops::Range;

use super::syntax::TransferSyntax;

/// How far a deflated data set may inflate, in bytes: larger than any real one, small enough to end a bomb.
pub const INFLATED_BYTES_MAX: u64 = 2 << 30;

/// Bytes that a buffered source reads at once.
const READ_BYTES: usize = 64 << 10;

/// Why a source could not give bytes.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("the bytes end here")]
    End,
    #[error("reading failed")]
    Io(#[source] io::Error),
    /// The bytes were read, and are no deflate stream, or one that is too long: the sender's fault, not the disk's.
    #[error("the deflated bytes don't inflate")]
    Inflate(#[source] io::Error),
}

/// Forward-only bytes.
pub trait Source {
    /// Bytes given or skipped so far.
    fn position(&self) -> u64;
    /// Total length, where known.
    fn end(&self) -> Option<u64>;
    /// Up to `N` next bytes without taking them; fewer only at the end.
    fn peek(&mut self, out: &mut [u8]) -> Result<usize, SourceError>;
    /// Fills `out`, or takes nothing that matters and reports the end.
    fn read(&mut self, out: &mut [u8]) -> Result<(), SourceError>;
    fn skip(&mut self, count: u64) -> Result<(), SourceError>;
}

/// Bytes that are given at once: a multiple of every word's size.
pub const PIECE_BYTES: usize = 1 << 20;

/// The bytes of a range that lies ahead, piece by piece, so that no value is held whole.
pub fn pieces<E: From<SourceError>>(
    source: &mut dyn Source,
    range: Range<u64>,
    mut take: impl FnMut(Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let ahead = range.start.checked_sub(source.position()).ok_or(SourceError::End)?;
    source.skip(ahead)?;
    let mut left = range.end - range.start;
    while left > 0 {
        let mut piece = vec![0; usize::try_from(left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES))];
        source.read(&mut piece)?;
        left -= piece.len() as u64;
        take(piece)?;
    }
    Ok(())
}

/// Bytes in memory.
pub struct SliceSource<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> SliceSource<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }
}

impl Source for SliceSource<'_> {
    fn position(&self) -> u64 {
        self.position as u64
    }

    fn end(&self) -> Option<u64> {
        Some(self.bytes.len() as u64)
    }

    fn peek(&mut self, out: &mut [u8]) -> Result<usize, SourceError> {
        let rest = &self.bytes[self.position..];
        let count = rest.len().min(out.len());
        out[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn read(&mut self, out: &mut [u8]) -> Result<(), SourceError> {
        let rest = &self.bytes[self.position..];
        let value = rest.get(..out.len()).ok_or(SourceError::End)?;
        out.copy_from_slice(value);
        self.position += out.len();
        Ok(())
    }

    fn skip(&mut self, count: u64) -> Result<(), SourceError> {
        let rest = (self.bytes.len() - self.position) as u64;
        if count > rest {
            return Err(SourceError::End);
        }
        // It fits: `count` is at most the length of a slice.
        self.position += count as usize;
        Ok(())
    }
}

/// A reader behind a buffer of its own; seeks over what is skipped where the reader can.
pub struct ReadSource<R> {
    reader: R,
    buffer: Box<[u8]>,
    start: usize,
    filled: usize,
    position: u64,
    end: Option<u64>,
    limit: u64,
    inflates: bool,
    seek: Option<fn(&mut R, i64) -> io::Result<()>>,
}

impl<R: Read> ReadSource<R> {
    /// An inflater, of which at most `limit` bytes are taken.
    pub fn inflating(reader: R, limit: u64) -> Self {
        Self { inflates: true, ..Self::new(reader, limit) }
    }

    fn new(reader: R, limit: u64) -> Self {
        Self {
            reader,
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
            start: 0,
            filled: 0,
            position: 0,
            end: None,
            limit,
            inflates: false,
            seek: None,
        }
    }

    fn refill(&mut self) -> Result<usize, SourceError> {
        self.buffer.copy_within(self.start..self.filled, 0);
        self.filled -= self.start;
        self.start = 0;
        loop {
            match self.reader.read(&mut self.buffer[self.filled..]) {
                Ok(count) => {
                    self.filled += count;
                    return Ok(count);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // What flate2 calls bytes that are no deflate stream; what it reads from fails with other kinds.
                Err(e) if self.inflates && e.kind() == io::ErrorKind::InvalidInput => {
                    return Err(SourceError::Inflate(e));
                }
                Err(e) => return Err(SourceError::Io(e)),
            }
        }
    }

    fn take(&mut self, count: usize) -> Result<(), SourceError> {
        self.start += count;
        self.position += count as u64;
        if self.position > self.limit {
            let message = format!("more than {} bytes after inflating", self.limit);
            return Err(SourceError::Inflate(io::Error::other(message)));
        }
        Ok(())
    }
}

impl<R: Read + Seek> ReadSource<R> {
    /// `length` bytes of a file from where it stands.
    pub fn file(reader: R, length: u64) -> Self {
        let mut source = Self::new(reader, length);
        source.end = Some(length);
        source.seek = Some(|reader, by| reader.seek_relative(by));
        source
    }
}

impl<R: Read> Source for ReadSource<R> {
    fn position(&self) -> u64 {
        self.position
    }

    fn end(&self) -> Option<u64> {
        self.end
    }

    fn peek(&mut self, out: &mut [u8]) -> Result<usize, SourceError> {
        while self.filled - self.start < out.len() && self.refill()? > 0 {}
        let beyond = self.end.map_or(u64::MAX, |end| end.saturating_sub(self.position));
        let count = (self.filled - self.start).min(out.len());
        let count = usize::try_from(beyond).map_or(count, |beyond| count.min(beyond));
        out[..count].copy_from_slice(&self.buffer[self.start..self.start + count]);
        Ok(count)
    }

    fn read(&mut self, out: &mut [u8]) -> Result<(), SourceError> {
        if self.end.is_some_and(|end| self.position + out.len() as u64 > end) {
            return Err(SourceError::End);
        }
        let mut done = 0;
        while done < out.len() {
            if self.start == self.filled && self.refill()? == 0 {
                return Err(SourceError::End);
            }
            let count = (self.filled - self.start).min(out.len() - done);
            out[done..done + count].copy_from_slice(&self.buffer[self.start..self.start + count]);
            self.take(count)?;
            done += count;
        }
        Ok(())
    }

    fn skip(&mut self, count: u64) -> Result<(), SourceError> {
        if self.end.is_some_and(|end| count > end - self.position.min(end)) {
            return Err(SourceError::End);
        }
        let mut left = count;
        while left > 0 {
            let buffered = self.filled - self.start;
            let now = usize::try_from(left).map_or(buffered, |left| left.min(buffered));
            self.take(now)?;
            left -= now as u64;
            if left == 0 {
                break;
            }
            match (self.seek, i64::try_from(left)) {
                (Some(seek), Ok(by)) => {
                    seek(&mut self.reader, by).map_err(SourceError::Io)?;
                    self.position += left;
                    left = 0;
                }
                _ if self.refill()? == 0 => return Err(SourceError::End),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The data set in `bytes`, inflated on the way when its syntax says so.
pub fn in_memory<'a>(bytes: &'a [u8], syntax: &TransferSyntax) -> Box<dyn Source + 'a> {
    if syntax.is_deflated() {
        Box::new(ReadSource::inflating(flate2::read::DeflateDecoder::new(bytes), INFLATED_BYTES_MAX))
    } else {
        Box::new(SliceSource::new(bytes))
    }
}

/// The data set in the next `length` bytes of `file`, inflated on the way when its syntax says so.
pub fn in_file<'a, R: Read + Seek + 'a>(file: R, length: u64, syntax: &TransferSyntax) -> Box<dyn Source + 'a> {
    if syntax.is_deflated() {
        let deflated = flate2::read::DeflateDecoder::new(file.take(length));
        Box::new(ReadSource::inflating(deflated, INFLATED_BYTES_MAX))
    } else {
        Box::new(ReadSource::file(file, length))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn bytes() -> Vec<u8> {
        (0..300_000u32).map(|i| (i % 251) as u8).collect()
    }

    /// The same walk over every kind of source gives the same bytes and the same ends.
    fn check(mut source: impl Source) {
        let expected = bytes();
        let mut eight = [0; 8];
        assert_eq!(source.peek(&mut eight).expect("peek"), 8);
        assert_eq!(eight, expected[..8]);
        let mut some = vec![0; 70_000];
        source.read(&mut some).expect("read over the buffer's border");
        assert_eq!(some, expected[..70_000]);
        source.skip(200_000).expect("skip");
        source.read(&mut eight).expect("read after skip");
        assert_eq!(eight, expected[270_000..270_008]);
        assert_eq!(source.position(), 270_008);
        assert!(matches!(source.skip(30_000), Err(SourceError::End)));
    }

    #[test]
    fn every_source_gives_the_same_bytes() {
        let all = bytes();
        check(SliceSource::new(&all));
        check(ReadSource::file(Cursor::new(&all), all.len() as u64));
        check(ReadSource::inflating(Cursor::new(&all), u64::MAX));
    }

    #[test]
    fn a_file_is_not_read_beyond_its_range() {
        let all = bytes();
        let mut source = ReadSource::file(Cursor::new(&all), 10);
        let mut sixteen = [0; 16];
        assert_eq!(source.peek(&mut sixteen).expect("peek"), 10);
        assert!(matches!(source.read(&mut sixteen), Err(SourceError::End)));
    }

    #[test]
    fn a_bomb_is_stopped() {
        let mut source = ReadSource::inflating(io::repeat(0), 1 << 20);
        assert!(matches!(source.skip(1 << 21), Err(SourceError::Inflate(_))));
    }
}
