//! Writing an object whose size is not known beforehand, in constant memory.
//!
//! The first 8 MiB are gathered in memory. An object that ends within them goes through the group-committed pack; a
//! larger one streams, segment by segment, into a file in `incoming/` that becomes a pack of its own: synced, then
//! renamed, then its directory synced. A crash before that leaves a file that the next start removes; nobody was told
//! success.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::pixels::appender::Receipt;
use crate::pixels::error::StoreError;
use crate::pixels::hash::{GroupHasher, OBJECT_BYTES_MAX, ObjectHash};
use crate::pixels::record::{HEADER_BYTES, Header, PACK_HEADER_BYTES, RecordKind};
use crate::pixels::seal::{RecordKey, SEGMENT_BYTES, Stream, random_bytes};
use crate::pixels::store::{ENVELOPE_BYTES_MAX, INCOMING, PixelStore, SMALL_OBJECT_BYTES_MAX};

/// Sealed bytes gathered before a write.
const WRITE_BYTES: usize = 1024 * 1024;
/// Bytes between two looks at the free space.
const WATERMARK_BYTES: u64 = 64 * 1024 * 1024;

/// Receives one object. Dropped unfinished, it leaves nothing behind.
pub struct LargeWriter {
    store: Arc<PixelStore>,
    envelope: Vec<u8>,
    state: State,
}

enum State {
    Gathering(Vec<u8>),
    Streaming(Box<Streaming>),
}

struct Streaming {
    spool: Spool,
    header: Header,
    key: RecordKey,
    hasher: GroupHasher,
    /// Plaintext of the segment that is not known yet to be the last.
    pending: Vec<u8>,
    next_segment: u64,
    out: SealedOut,
}

/// A file in `incoming/` that is removed unless it was adopted.
struct Spool {
    path: PathBuf,
    file: File,
    adopted: bool,
}

impl Drop for Spool {
    fn drop(&mut self) {
        if !self.adopted {
            // What can't be removed now is removed by the next start.
            drop(std::fs::remove_file(&self.path));
        }
    }
}

/// Gathers small writes.
struct SealedOut {
    buffer: Vec<u8>,
    position: u64,
}

impl SealedOut {
    fn flush(&mut self, file: &File) -> io::Result<()> {
        file.write_all_at(&self.buffer, self.position)?;
        self.position += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

impl LargeWriter {
    pub(crate) fn new(store: Arc<PixelStore>, envelope: &[u8]) -> Self {
        Self { store, envelope: envelope.to_vec(), state: State::Gathering(Vec::new()) }
    }

    /// Replaces the envelope by what is known at the end.
    pub fn set_envelope(&mut self, envelope: &[u8]) -> Result<(), StoreError> {
        let bytes = envelope.len() as u64;
        if bytes > ENVELOPE_BYTES_MAX {
            return Err(StoreError::EnvelopeTooLarge { bytes, bytes_max: ENVELOPE_BYTES_MAX });
        }
        self.envelope = envelope.to_vec();
        Ok(())
    }

    /// The next bytes of the object. After an error the writer can only be dropped.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        match &mut self.state {
            State::Gathering(gathered) if (gathered.len() + bytes.len()) as u64 <= SMALL_OBJECT_BYTES_MAX => {
                gathered.extend_from_slice(bytes);
                Ok(())
            }
            State::Gathering(gathered) => {
                let gathered = std::mem::take(gathered);
                let mut streaming = Streaming::begin(&self.store)?;
                streaming.write(&self.store, &gathered)?;
                streaming.write(&self.store, bytes)?;
                self.state = State::Streaming(Box::new(streaming));
                Ok(())
            }
            State::Streaming(streaming) => streaming.write(&self.store, bytes),
        }
    }

    /// Bytes received so far.
    pub fn object_bytes(&self) -> u64 {
        match &self.state {
            State::Gathering(gathered) => gathered.len() as u64,
            State::Streaming(streaming) => streaming.hasher.bytes(),
        }
    }

    /// Ends the object and waits until it is durable.
    pub fn finish(self) -> Result<Receipt, StoreError> {
        match self.state {
            State::Gathering(gathered) => self.store.store_and_wait(&gathered, &self.envelope),
            State::Streaming(streaming) => streaming.finish(&self.store, &self.envelope),
        }
    }
}

impl Streaming {
    fn begin(store: &PixelStore) -> Result<Self, StoreError> {
        store.check_new(SMALL_OBJECT_BYTES_MAX, OBJECT_BYTES_MAX, &[])?;
        // The hash is not known yet and stands in the header only at the end.
        let header = store.header(RecordKind::Object, ObjectHash::blake3([0; 32]), &[])?;
        let name = random_bytes::<16>().ok_or(StoreError::NoRandomness)?;
        let path = store.core.directory.join(INCOMING).join(format!("{}.pack", hex::encode(name)));
        let opened = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let file = opened.map_err(|error| StoreError::io("beginning a large object", &path, &error))?;
        let key = store.core.keys.record_key(&header.salt);
        let position = (PACK_HEADER_BYTES + HEADER_BYTES) as u64;
        Ok(Self {
            spool: Spool { path, file, adopted: false },
            header,
            key,
            hasher: GroupHasher::new(),
            pending: Vec::with_capacity(SEGMENT_BYTES + 16),
            next_segment: 0,
            out: SealedOut { buffer: Vec::with_capacity(WRITE_BYTES + SEGMENT_BYTES + 16), position },
        })
    }

    fn write(&mut self, store: &PixelStore, mut bytes: &[u8]) -> Result<(), StoreError> {
        let before = self.hasher.bytes();
        let after = before + bytes.len() as u64;
        if after > OBJECT_BYTES_MAX {
            return Err(StoreError::ObjectTooLarge { bytes: after, bytes_max: OBJECT_BYTES_MAX });
        }
        if before / WATERMARK_BYTES != after / WATERMARK_BYTES {
            store.check_new(WATERMARK_BYTES, OBJECT_BYTES_MAX, &[])?;
        }
        self.hasher.update(bytes);
        while !bytes.is_empty() {
            if self.pending.len() == SEGMENT_BYTES {
                self.seal_pending(false)?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(SEGMENT_BYTES - self.pending.len()));
            self.pending.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    fn seal_pending(&mut self, last: bool) -> Result<(), StoreError> {
        self.key.seal_segment(Stream::Body, self.next_segment, last, &mut self.pending);
        self.next_segment += 1;
        self.out.buffer.append(&mut self.pending);
        if self.out.buffer.len() >= WRITE_BYTES || last {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        let flushed = self.out.flush(&self.spool.file);
        flushed.map_err(|error| StoreError::io("writing a large object", &self.spool.path, &error))
    }

    fn finish(mut self, store: &PixelStore, envelope: &[u8]) -> Result<Receipt, StoreError> {
        self.header.body_bytes = self.hasher.bytes();
        self.seal_pending(true)?;
        let (hash, groups) = std::mem::replace(&mut self.hasher, GroupHasher::new()).finish();
        if let Some(receipt) = store.receipt_if_known(hash, self.header.body_bytes, envelope)? {
            return Ok(receipt);
        }
        self.header.hash = hash;
        finish_file(store, &mut self.header, &self.key, &groups, envelope, (&self.spool.path, &self.spool.file))
            .inspect(|_| self.spool.adopted = true)
    }
}

/// Writes what stands behind the body, then makes the file a pack. The body is in the file already.
pub(crate) fn finish_file(
    store: &PixelStore,
    header: &mut Header,
    key: &RecordKey,
    groups: &[[u8; 32]],
    envelope: &[u8],
    (path, file): (&Path, &File),
) -> Result<Receipt, StoreError> {
    header.envelope_bytes = envelope.len() as u32;
    let mut tail = Vec::new();
    if header.groups_bytes() > 0 {
        key.seal_stream(Stream::Groups, groups.as_flattened(), &mut tail);
    }
    key.seal_stream(Stream::Envelope, envelope, &mut tail);
    let written = file.write_all_at(&tail, PACK_HEADER_BYTES as u64 + header.groups_offset());
    written.map_err(|error| StoreError::io("finishing a large object", path, &error))?;
    store.adopt(path, file, header.clone())
}
