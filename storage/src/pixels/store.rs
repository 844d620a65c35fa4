//! The open pixel store: what gateways, transfers and the catalogue call.
//!
//! An object is reported stored only when it is durable. Not for what objects mean: bytes in, hash out.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use crate::engine::Engine;
use crate::pixels::appender::{Appender, Completion, Job, Receipt, Work};
use crate::pixels::core::Core;
use crate::pixels::error::StoreError;
use crate::pixels::hash::{GroupHasher, ObjectHash};
use crate::pixels::keyfile;
use crate::pixels::large::LargeWriter;
use crate::pixels::pack::{PACKS, Packs, create_directory, sync_directory};
use crate::pixels::partial;
use crate::pixels::read::{ObjectReader, OpenRecord, READ_BYTES_MAX};
use crate::pixels::record::{HEADER_BYTES, Header, PackKind, ReceiptId, RecordKind};
use crate::pixels::recovery::{self, OnRecovered, RecoveryReport, Scan};
use crate::pixels::seal::{Keyring, SALT_BYTES, SiteKey, Stream, random_bytes};

/// Largest object that is written through the group-committed pack, bytes. Larger ones get a pack of their own.
pub const SMALL_OBJECT_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Largest envelope, bytes.
pub const ENVELOPE_BYTES_MAX: u64 = 64 * 1024;

/// Directories below the store's own.
pub(crate) const INCOMING: &str = "incoming";
pub(crate) const PARTIAL: &str = "partial";

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Free space below which new objects are refused, bytes.
    pub free_bytes_min: u64,
    /// Size at which a pack is closed and the next one begun, bytes.
    pub pack_bytes_max: u64,
    /// Declared sizes of all partial objects together, bytes.
    pub partial_bytes_max: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { free_bytes_min: 2 << 30, pack_bytes_max: 1 << 30, partial_bytes_max: 64 << 30 }
    }
}

/// Counts since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    pub objects: u64,
    /// Receipts and tombstones: records without a body.
    pub receipts: u64,
    /// Bytes appended, sealed.
    pub record_bytes: u64,
    /// Syncs of the growing pack; below `objects` when group commit works.
    pub syncs: u64,
}

/// An open store. Calls may come from any thread; those that write or read block it for the disk, so an async caller
/// uses its blocking pool. Dropping the store writes what is queued.
pub struct PixelStore {
    // First, so that the writer thread has ended before the lock is released.
    pub(crate) appender: Appender,
    pub(crate) core: Arc<Core>,
    _lock: File,
}

impl PixelStore {
    /// Opens or creates the store in `directory`. `engine` holds the table [`crate::pixels::OBJECTS`]. Records that the
    /// catalogue may have missed go to `on_recovered` first, each at least once over the store's life.
    pub fn open(
        directory: &Path,
        site_key: SiteKey,
        engine: Arc<dyn Engine>,
        options: StoreOptions,
        on_recovered: OnRecovered<'_>,
    ) -> Result<(Self, RecoveryReport), StoreError> {
        create_directory(directory)?;
        let lock = keyfile::lock(directory)?;
        let keys = Keyring::new(site_key);
        let packs = Packs::open(directory)?;
        keyfile::check(directory, &keys, packs.list()?.is_empty())?;
        recovery::clear_incoming(&recovery::prepare(directory, INCOMING)?)?;
        partial::clear_broken(&recovery::prepare(directory, PARTIAL)?)?;
        sync_names(directory)?;
        let core = Arc::new(Core::new(directory.to_owned(), options, keys, packs, engine));
        let mut scan = Scan { core: &core, on_recovered, report: RecoveryReport::default() };
        let file = scan.run()?;
        let report = scan.report;
        let appender = Appender::start(Arc::clone(&core), file)?;
        let store = Self { appender, core, _lock: lock };
        store.note_found_at_start(&report.damages)?;
        Ok((store, report))
    }

    /// Stores an object of up to [`SMALL_OBJECT_BYTES_MAX`]; `done` gets the receipt once it is durable. Content that
    /// is here already is not written again, but its new envelope is. Blocks while too much is waiting to be written.
    ///
    /// On an error `done` is not called.
    pub fn store(&self, bytes: &[u8], envelope: &[u8], done: Completion) -> Result<ObjectHash, StoreError> {
        self.check_new(bytes.len() as u64, SMALL_OBJECT_BYTES_MAX, envelope)?;
        let mut hasher = GroupHasher::new();
        hasher.update(bytes);
        let (hash, groups) = hasher.finish();
        let object_bytes = bytes.len() as u64;
        let mut done = done;
        // Another caller may store or forget the same content in between; then the other kind of record is right.
        loop {
            let refused = if self.appender.is_known(&hash)? {
                self.push_receipt(hash, object_bytes, envelope, done)?
            } else {
                let mut header = self.header(RecordKind::Object, hash, envelope)?;
                header.body_bytes = object_bytes;
                let record = self.seal(&header, bytes, &groups, envelope);
                let job = Job::new(header, object_bytes, Work::Append(record), done);
                self.appender.push(job)?.map(|job| job.done)
            };
            match refused {
                None => return Ok(hash),
                Some(again) => done = again,
            }
        }
    }

    /// As `store`, and waits for the receipt.
    pub fn store_and_wait(&self, bytes: &[u8], envelope: &[u8]) -> Result<Receipt, StoreError> {
        self.wait(|done| self.store(bytes, envelope, done).map(|_| ()))
    }

    /// A writer for an object of any size, in constant memory. Nothing is kept unless it is finished.
    pub fn begin_large(self: &Arc<Self>, envelope: &[u8]) -> Result<LargeWriter, StoreError> {
        self.check_new(0, SMALL_OBJECT_BYTES_MAX, envelope)?;
        Ok(LargeWriter::new(Arc::clone(self), envelope))
    }

    /// Adds a receipt for an object that is here.
    pub fn add_receipt(&self, hash: &ObjectHash, envelope: &[u8], done: Completion) -> Result<(), StoreError> {
        self.check_new(0, SMALL_OBJECT_BYTES_MAX, envelope)?;
        let missing = || StoreError::NotFound { hash: *hash };
        let (_, object_bytes) = self.core.live(hash)?.ok_or_else(missing)?;
        match self.push_receipt(*hash, object_bytes, envelope, done)? {
            None => Ok(()),
            Some(_) => Err(missing()),
        }
    }

    /// The caller has submitted to the engine all that it derives from this record, so that no start need hand it
    /// over again. To be called for every receipt, that of a tombstone included.
    pub fn settled(&self, receipt: ReceiptId) {
        self.core.settlement().settle(receipt);
    }

    /// True when the object is here.
    pub fn contains(&self, hash: &ObjectHash) -> Result<bool, StoreError> {
        Ok(self.core.live(hash)?.is_some())
    }

    /// Number of the object's tombstone, when it was given up and is not here: records with smaller numbers are dead.
    pub fn forgotten(&self, hash: &ObjectHash) -> Result<Option<ReceiptId>, StoreError> {
        self.core.forgotten(hash)
    }

    /// Bytes of the object, or `None` when it is not here.
    pub fn object_bytes(&self, hash: &ObjectHash) -> Result<Option<u64>, StoreError> {
        Ok(self.core.live(hash)?.map(|(_, bytes)| bytes))
    }

    /// The whole object, up to [`READ_BYTES_MAX`].
    pub fn read(&self, hash: &ObjectHash) -> Result<Vec<u8>, StoreError> {
        let record = self.found(hash)?;
        let bytes = record.header.body_bytes;
        if bytes > READ_BYTES_MAX {
            return Err(StoreError::ObjectTooLarge { bytes, bytes_max: READ_BYTES_MAX });
        }
        self.core.noting(record.range(0, bytes))
    }

    /// Bytes `offset .. offset + bytes`; decrypts only the 64 KiB segments that these touch.
    pub fn read_range(&self, hash: &ObjectHash, offset: u64, bytes: u64) -> Result<Vec<u8>, StoreError> {
        self.core.noting(self.found(hash)?.range(offset, bytes))
    }

    /// The object as a stream that can seek.
    pub fn reader(&self, hash: &ObjectHash) -> Result<ObjectReader, StoreError> {
        Ok(ObjectReader::new(self.found(hash)?, Arc::clone(&self.core)))
    }

    /// The envelope of the object's first receipt.
    pub fn envelope(&self, hash: &ObjectHash) -> Result<Vec<u8>, StoreError> {
        self.core.noting(self.found(hash)?.envelope())
    }

    /// Hashes of the object's 1 MiB groups; of a smaller object, its root.
    pub fn chunk_group_hashes(&self, hash: &ObjectHash) -> Result<Vec<[u8; 32]>, StoreError> {
        self.core.noting(self.found(hash)?.groups())
    }

    fn found(&self, hash: &ObjectHash) -> Result<OpenRecord, StoreError> {
        self.core.noting(self.core.open_object(hash))
    }

    /// Bytes that are free on the store's disk.
    pub fn free_bytes(&self) -> Result<u64, StoreError> {
        crate::pixels::pack::free_bytes(&self.core.directory)
    }

    /// An error while the disk has no room for new objects.
    pub fn check_room(&self) -> Result<(), StoreError> {
        self.core.check_watermark(0)
    }

    /// An error once a write has failed: the store takes nothing more.
    pub fn check_alive(&self) -> Result<(), StoreError> {
        self.appender.check_alive()
    }

    pub fn stats(&self) -> StoreStats {
        let counters = &self.core.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StoreStats {
            objects: read(&counters.objects),
            receipts: read(&counters.receipts),
            record_bytes: read(&counters.record_bytes),
            syncs: read(&counters.syncs),
        }
    }

    pub(crate) fn check_new(&self, bytes: u64, bytes_max: u64, envelope: &[u8]) -> Result<(), StoreError> {
        self.appender.check_alive()?;
        if bytes > bytes_max {
            return Err(StoreError::ObjectTooLarge { bytes, bytes_max });
        }
        let envelope_bytes = envelope.len() as u64;
        if envelope_bytes > ENVELOPE_BYTES_MAX {
            return Err(StoreError::EnvelopeTooLarge { bytes: envelope_bytes, bytes_max: ENVELOPE_BYTES_MAX });
        }
        self.core.check_watermark(bytes)
    }

    /// A header with a fresh salt and room for its receipt number and body length.
    pub(crate) fn header(&self, kind: RecordKind, hash: ObjectHash, envelope: &[u8]) -> Result<Header, StoreError> {
        let salt = random_bytes::<SALT_BYTES>().ok_or(StoreError::NoRandomness)?;
        // Envelopes are bounded far below 4 GiB.
        let envelope_bytes = envelope.len() as u32;
        Ok(Header { kind, envelope_bytes, body_bytes: 0, receipt: ReceiptId(0), salt, hash })
    }

    /// A whole record with zeros in place of its header.
    pub(crate) fn seal(&self, header: &Header, body: &[u8], groups: &[[u8; 32]], envelope: &[u8]) -> Vec<u8> {
        let key = self.core.keys.record_key(&header.salt);
        let mut record = Vec::with_capacity(header.record_bytes() as usize);
        record.resize(HEADER_BYTES, 0);
        if header.kind == RecordKind::Object {
            key.seal_stream(Stream::Body, body, &mut record);
            if header.groups_bytes() > 0 {
                key.seal_stream(Stream::Groups, groups.as_flattened(), &mut record);
            }
        }
        key.seal_stream(Stream::Envelope, envelope, &mut record);
        record
    }

    /// Queues a receipt; hands the completion back when the object is not known any more.
    pub(crate) fn push_receipt(
        &self,
        hash: ObjectHash,
        object_bytes: u64,
        envelope: &[u8],
        done: Completion,
    ) -> Result<Option<Completion>, StoreError> {
        let header = self.header(RecordKind::Receipt, hash, envelope)?;
        let record = self.seal(&header, &[], &[], envelope);
        let refused = self.appender.push(Job::new(header, object_bytes, Work::Append(record), done))?;
        Ok(refused.map(|job| job.done))
    }

    /// Adds a receipt and waits for it; `None` when the object is not known.
    pub(crate) fn receipt_if_known(
        &self,
        hash: ObjectHash,
        object_bytes: u64,
        envelope: &[u8],
    ) -> Result<Option<Receipt>, StoreError> {
        if !self.appender.is_known(&hash)? {
            return Ok(None);
        }
        let (sender, receiver) = mpsc::sync_channel(1);
        let done: Completion = Box::new(move |result| drop(sender.send(result)));
        match self.push_receipt(hash, object_bytes, envelope, done)? {
            None => receiver.recv().map_err(|_| ended())?.map(Some),
            Some(_) => Ok(None),
        }
    }

    /// Makes the complete file at `path` a pack: writes its headers, syncs it, gives it its name and a receipt.
    pub(crate) fn adopt(&self, path: &Path, file: &File, mut header: Header) -> Result<Receipt, StoreError> {
        use std::os::unix::fs::FileExt;
        header.receipt = self.core.take_receipt();
        let pack_header = crate::pixels::record::encode_pack_header(PackKind::Single, &self.core.keys);
        let head = [pack_header.as_slice(), &header.encode(&self.core.keys)].concat();
        let written = file.write_all_at(&head, 0);
        written.map_err(|error| StoreError::io("finishing a large object", path, &error))?;
        self.or_end(file.sync_all().map_err(|error| StoreError::sync(path, &error)))?;
        let pack = self.core.take_pack_number();
        self.or_end(self.core.packs.adopt(path, pack))?;
        let place = crate::pixels::record::Place { pack, offset: pack_header.len() as u64 };
        let object_bytes = header.body_bytes;
        self.wait(|done| self.appender.push(Job::new(header, object_bytes, Work::Adopted(place), done)).map(|_| ()))
    }

    /// Ends the store when `result` is a failed sync: a second one would report success for what the disk never had.
    pub(crate) fn or_end<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(error @ StoreError::SyncFailed { .. }) = &result {
            self.appender.end(error);
        }
        result
    }

    /// Runs `begin` with a completion and waits for it.
    pub(crate) fn wait(&self, begin: impl FnOnce(Completion) -> Result<(), StoreError>) -> Result<Receipt, StoreError> {
        let (sender, receiver) = mpsc::sync_channel(1);
        begin(Box::new(move |result| drop(sender.send(result))))?;
        receiver.recv().map_err(|_| ended())?
    }
}

#[cfg(test)]
impl PixelStore {
    /// The same store with another writer.
    pub(crate) fn with_appender(other: &Self, appender: Appender) -> Self {
        let lock = other._lock.try_clone().expect("the lock file is open");
        Self { appender, core: Arc::clone(&other.core), _lock: lock }
    }
}

/// Names that were made just before a kill may be in the page cache only, where the scan would take them for durable.
fn sync_names(directory: &Path) -> Result<(), StoreError> {
    directory.parent().map_or(Ok(()), sync_directory)?;
    sync_directory(directory)?;
    [PACKS, INCOMING, PARTIAL].into_iter().try_for_each(|name| sync_directory(&directory.join(name)))
}

fn ended() -> StoreError {
    StoreError::Dead { cause: "the writer thread ended".to_owned() }
}
