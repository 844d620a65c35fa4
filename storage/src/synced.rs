//! How much of the database was durable, in a small file beside it: so that a write-ahead log that comes back shorter is
//! noticed, and told, instead of being taken for the whole.
//!
//! Recovery stops at the first record of the log that can't be read, since a power cut leaves such ends. A byte that rots
//! or is changed in what had long been synced looks the same, and would silently take back what was confirmed. The file
//! says which sequence number had been synced; it is written after the sync and not synced itself, so that it is never
//! ahead of the disk and costs nothing. After a power cut it may be behind, and then notices less.
//!
//! Format of `SYNCED`: version 1 (1 byte), sequence number (8, little-endian), first 8 bytes of BLAKE3 over those.
//! Unreadable or absent: nothing is known, as with a database of an earlier version.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The file's name, in the database's directory.
pub(crate) const FILE: &str = "SYNCED";
const VERSION: u8 = 1;
const BYTES: usize = 17;

pub(crate) struct Synced {
    file: File,
}

pub(crate) fn path(directory: &Path) -> PathBuf {
    directory.join(FILE)
}

fn encode(sequence: u64) -> [u8; BYTES] {
    let mut bytes = [VERSION; BYTES];
    bytes[1..9].copy_from_slice(&sequence.to_le_bytes());
    let check = blake3::hash(&bytes[..9]);
    bytes[9..].copy_from_slice(&check.as_bytes()[..8]);
    bytes
}

fn decode(bytes: &[u8]) -> Option<u64> {
    let sequence = u64::from_le_bytes(bytes.get(1..9)?.try_into().ok()?);
    (bytes == encode(sequence)).then_some(sequence)
}

impl Synced {
    /// The file and what it says.
    pub(crate) fn open(directory: &Path) -> io::Result<(Self, Option<u64>)> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path(directory))?;
        let mut bytes = [0; BYTES + 1];
        let length = file.read_at(&mut bytes, 0)?;
        Ok((Self { file }, decode(&bytes[..length])))
    }

    /// Everything up to `sequence` is on the disk.
    pub(crate) fn note(&self, sequence: u64) -> io::Result<()> {
        self.file.write_all_at(&encode(sequence), 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_read_and_every_flipped_byte_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let (synced, nothing) = Synced::open(directory.path()).unwrap();
        assert_eq!(nothing, None);
        for sequence in [0, 7, u64::MAX] {
            synced.note(sequence).unwrap();
            assert_eq!(Synced::open(directory.path()).unwrap().1, Some(sequence));
        }
        let good = encode(7);
        for place in 0..BYTES {
            let mut bytes = good;
            bytes[place] ^= 1;
            assert_eq!(decode(&bytes), None, "byte {place}");
        }
        assert_eq!((decode(&good[..16]), decode(&[])), (None, None));
    }
}
