//! The real engine: RocksDB, one write-ahead log for all tables, one flusher.
//!
//! Writes go unsynced into the log's buffer; the `flusher` thread writes the buffer out and syncs it
//! (`flush_wal(true)`), so that one fsync carries everything submitted before it. RocksDB's own group commit does
//! not help a single writer that must not block.
//!
//! Choices that carry the promises of [`crate::engine`]:
//! - `PointInTime` recovery. A power cut can leave holes in the unsynced tail of the log; replay stops at the first
//!   one. `TolerateCorruptedTailRecords` would go on with the next log file and leave a hole in the order.
//! - Synced log files are tracked in the manifest, and the newest synced sequence number in a file beside the database
//!   ([`crate::synced`]), so that a log that lost *synced* bytes, by rot say, is refused and not shortened.
//! - Pipelined and unordered writes are off: tickets follow the order of the log.
//! - A reserve: when free space falls below it, batches that put something are refused while the engine lives on.
//!   A log write that hits the end of the disk is no longer recoverable.
//!
//! Not here: column families per caller, merge operators, TTL. Tables are fixed at open.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRawIterator,
    DBRecoveryMode, Options, ReadOptions, SnapshotWithThreadMode, WriteBatch, WriteOptions,
};
use self_cell::self_cell;

use crate::engine::{Batch, DurableCallback, Engine, EngineError, Operation, Pairs, Table, Ticket, View, check_tables};
use crate::flusher::Flusher;
use crate::memory::DeadView;
use crate::synced::{self, Synced};

/// Open files of one database: a province of records fits into it.
const OPEN_FILES_MAX: i32 = 512;
/// Memory for unflushed writes across all tables, bytes.
const WRITE_BUFFER_BYTES: usize = 128 * 1024 * 1024;
/// Log files that are kept for tables with few writes, bytes; beyond it their memory is flushed.
const LOG_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// RocksDB's own message log: files kept and bytes in each.
const MESSAGE_LOG_FILES: usize = 4;
const MESSAGE_LOG_BYTES: usize = 4 * 1024 * 1024;
/// Free space that nothing is written into any more: a log write that finds none ends the engine.
const LAST_BYTES: u64 = 16 * 1024 * 1024;
/// Compaction and flush threads: a small machine serves DICOM at the same time.
const BACKGROUND_JOBS: i32 = 2;

/// How an engine is opened.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// True: durable means that it survives a power cut. False: only the death of the process (trials, demos).
    pub sync: bool,
    /// Memory for cached blocks, bytes.
    pub block_cache_bytes: usize,
    /// Free space below which batches that put something are refused, bytes; those that only delete, below 16 MiB.
    pub reserve_bytes: u64,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { sync: true, block_cache_bytes: 128 * 1024 * 1024, reserve_bytes: 256 * 1024 * 1024 }
    }
}

/// The RocksDB engine. Dropping it syncs what was submitted and closes the database.
pub struct RocksEngine {
    // First, so that its thread has ended before the database closes.
    flusher: Flusher,
    store: Arc<Store>,
}

struct Store {
    db: DB,
    tables: Vec<Table>,
    directory: PathBuf,
    reserve_bytes: u64,
    /// Free space was below the reserve when last looked at.
    low_space: AtomicBool,
    /// It was so low that not even what deletes may be written.
    no_space: AtomicBool,
}

impl RocksEngine {
    /// Opens or creates the database in `directory`. Tables that exist and are not listed (written by a newer
    /// version, say) are kept and not accessible.
    pub fn open(directory: &Path, tables: &[Table], options: EngineOptions) -> Result<Self, EngineError> {
        check_tables(tables)?;
        let database = database_options();
        let table_options = table_options(options.block_cache_bytes);
        let existing = DB::list_cf(&database, directory).unwrap_or_default();
        let names: BTreeSet<String> =
            existing.into_iter().chain(tables.iter().map(|table| (*table).to_owned())).collect();
        let descriptors = names.into_iter().map(|name| ColumnFamilyDescriptor::new(name, table_options.clone()));
        let db = DB::open_cf_descriptors(&database, directory, descriptors)
            .map_err(|error| open_error(directory, &error))?;
        let store = Arc::new(Store {
            db,
            tables: tables.to_vec(),
            directory: directory.to_owned(),
            reserve_bytes: options.reserve_bytes,
            low_space: AtomicBool::new(false),
            no_space: AtomicBool::new(false),
        });
        store.look_at_free_space()?;
        let synced = store.check_synced()?;
        let for_sync = Arc::clone(&store);
        let flusher = Flusher::start(Box::new(move || for_sync.sync(options.sync.then_some(&synced))))?;
        Ok(Self { flusher, store })
    }
}

fn database_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_manual_wal_flush(true);
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_enable_pipelined_write(false);
    options.set_unordered_write(false);
    options.set_paranoid_checks(true);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_db_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_max_total_wal_size(LOG_BYTES_MAX);
    options.set_max_background_jobs(BACKGROUND_JOBS);
    options.set_keep_log_file_num(MESSAGE_LOG_FILES);
    options.set_max_log_file_size(MESSAGE_LOG_BYTES);
    options
}

fn table_options(block_cache_bytes: usize) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&Cache::new_lru_cache(block_cache_bytes));
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    // Ten bits a key: one miss in a hundred reads a block in vain. Tag lookups mostly miss.
    blocks.set_bloom_filter(10.0, false);
    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks);
    options.set_compression_type(DBCompressionType::Lz4);
    options
}

fn open_error(directory: &Path, error: &rocksdb::Error) -> EngineError {
    let text: &str = error.as_ref();
    // RocksDB has no error code for this: "While lock file: .../LOCK" or "lock hold by current process".
    if text.contains("lock file") || text.contains("lock hold by current process") {
        return EngineError::Locked { directory: directory.display().to_string() };
    }
    engine_error(error)
}

fn engine_error(error: &rocksdb::Error) -> EngineError {
    let detail = error.as_ref().to_owned();
    if detail.contains("No space left on device") || detail.contains("Disk quota exceeded") {
        return EngineError::DiskFull { detail };
    }
    match error.kind() {
        rocksdb::ErrorKind::Corruption => EngineError::Corrupt { detail },
        _ => EngineError::Io { detail },
    }
}

impl Store {
    /// Whether all is here that was synced before.
    fn check_synced(&self) -> Result<Synced, EngineError> {
        let (file, synced) = Synced::open(&self.directory).map_err(|error| self.synced_error(&error))?;
        let found = self.db.latest_sequence_number();
        match synced.filter(|synced| *synced > found) {
            Some(synced) => {
                Err(EngineError::LostWrites { directory: self.directory.display().to_string(), found, synced })
            }
            None => Ok(file),
        }
    }

    fn synced_error(&self, error: &std::io::Error) -> EngineError {
        EngineError::Io { detail: format!("{}: {error}", synced::path(&self.directory).display()) }
    }

    /// Without `synced` what was written only survives the process.
    fn sync(&self, synced: Option<&Synced>) -> Result<(), EngineError> {
        let written = self.db.latest_sequence_number();
        self.db.flush_wal(synced.is_some()).map_err(|error| engine_error(&error))?;
        if let Some(synced) = synced {
            synced.note(written).map_err(|error| self.synced_error(&error))?;
        }
        self.look_at_free_space()
    }

    fn look_at_free_space(&self) -> Result<(), EngineError> {
        let found = rustix::fs::statvfs(&self.directory);
        let found = found.map_err(|error| EngineError::Io { detail: format!("statvfs: {error}") })?;
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        self.low_space.store(free < self.reserve_bytes, Ordering::Relaxed);
        self.no_space.store(free < self.reserve_bytes.min(LAST_BYTES), Ordering::Relaxed);
        Ok(())
    }

    /// Looks again only while space is low: otherwise the flusher looks after each sync.
    fn check_space(&self, batch: &Batch) -> Result<(), EngineError> {
        if !self.low_space.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.look_at_free_space()?;
        let puts = batch.operations().iter().any(|operation| matches!(operation, Operation::Put { .. }));
        let wanted = if puts { &self.low_space } else { &self.no_space };
        if wanted.load(Ordering::Relaxed) {
            let detail = format!("less than {} bytes free in {}", self.reserve_bytes, self.directory.display());
            return Err(EngineError::DiskFull { detail });
        }
        Ok(())
    }

    fn handle(&self, table: Table) -> Result<&ColumnFamily, EngineError> {
        // The list is checked apart from the column families: those hold tables that were not asked for, too.
        let listed = self.tables.contains(&table).then(|| self.db.cf_handle(table)).flatten();
        listed.ok_or_else(|| EngineError::UnknownTable { table: table.to_owned() })
    }

    fn compose(&self, batch: &Batch) -> Result<WriteBatch, EngineError> {
        let mut composed = WriteBatch::default();
        for operation in batch.operations() {
            let handle = self.handle(operation.table())?;
            match operation {
                Operation::Put { key, value, .. } => composed.put_cf(handle, key, value),
                Operation::Delete { key, .. } => composed.delete_cf(handle, key),
                Operation::DeleteRange { from, to, .. } if from < to => composed.delete_range_cf(handle, from, to),
                Operation::DeleteRange { .. } => {}
            }
        }
        Ok(composed)
    }

    fn get(&self, table: Table, key: &[u8], options: &ReadOptions) -> Result<Option<Vec<u8>>, EngineError> {
        self.db.get_cf_opt(self.handle(table)?, key, options).map_err(|error| engine_error(&error))
    }

    fn scan(&self, range: &Range<'_>, mut options: ReadOptions) -> Result<Pairs, EngineError> {
        if range.is_empty() {
            self.handle(range.table)?;
            return Ok(Vec::new());
        }
        // The bound lets RocksDB skip whole files behind the range.
        if let Some(to) = range.to {
            options.set_iterate_upper_bound(to);
        }
        let mut rows = self.db.raw_iterator_cf_opt(self.handle(range.table)?, options);
        rows.seek(range.from);
        collect(&mut rows, range.limit, |_| true, DBRawIterator::next)
    }

    fn scan_back(&self, range: &Range<'_>, mut options: ReadOptions) -> Result<Pairs, EngineError> {
        if range.is_empty() {
            self.handle(range.table)?;
            return Ok(Vec::new());
        }
        if let Some(to) = range.to {
            options.set_iterate_upper_bound(to);
        }
        let mut rows = self.db.raw_iterator_cf_opt(self.handle(range.table)?, options);
        rows.seek_to_last();
        collect(&mut rows, range.limit, |key| key >= range.from, DBRawIterator::prev)
    }
}

struct Range<'a> {
    table: Table,
    from: &'a [u8],
    to: Option<&'a [u8]>,
    limit: usize,
}

impl Range<'_> {
    fn is_empty(&self) -> bool {
        self.limit == 0 || self.to.is_some_and(|to| to <= self.from)
    }
}

fn collect<'a>(
    rows: &mut DBRawIterator<'a>,
    limit: usize,
    wanted: impl Fn(&[u8]) -> bool,
    step: impl Fn(&mut DBRawIterator<'a>),
) -> Result<Pairs, EngineError> {
    let mut pairs = Vec::new();
    while pairs.len() < limit {
        let Some((key, value)) = rows.item().filter(|(key, _)| wanted(key)) else { break };
        pairs.push((key.to_vec(), value.to_vec()));
        step(rows);
    }
    // An iterator that hit a damaged block looks like one at its end.
    rows.status().map_err(|error| engine_error(&error))?;
    Ok(pairs)
}

impl Engine for RocksEngine {
    fn submit(&self, batch: Batch) -> Result<Ticket, EngineError> {
        batch.check_size()?;
        let composed = self.store.compose(&batch)?;
        self.store.check_space(&batch)?;
        let mut failure = None;
        let result = self.flusher.submit(|| {
            let mut options = WriteOptions::default();
            options.set_sync(false);
            self.store.db.write_opt(composed, &options).map_err(|error| {
                let error = engine_error(&error);
                failure = Some(error.clone());
                error
            })
        });
        // A log write that failed may have left half a record behind: nothing after it would be read back.
        if let Some(error) = failure {
            self.flusher.kill(&error);
        }
        result
    }

    fn on_durable(&self, ticket: Ticket, done: DurableCallback) {
        self.flusher.on_durable(ticket, done);
    }

    fn durable(&self) -> Ticket {
        self.flusher.durable()
    }

    fn snapshot(&self) -> Box<dyn View> {
        match self.flusher.check_alive() {
            Ok(()) => Box::new(RocksSnapshot::new(Arc::clone(&self.store), |store| Held(store.db.snapshot()))),
            Err(dead) => Box::new(DeadView(dead)),
        }
    }
}

impl View for RocksEngine {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.flusher.check_alive()?;
        self.store.get(table, key, &ReadOptions::default())
    }

    fn scan(&self, table: Table, from: &[u8], to: Option<&[u8]>, limit: usize) -> Result<Pairs, EngineError> {
        self.flusher.check_alive()?;
        self.store.scan(&Range { table, from, to, limit }, ReadOptions::default())
    }

    fn scan_back(&self, table: Table, from: &[u8], to: Option<&[u8]>, limit: usize) -> Result<Pairs, EngineError> {
        self.flusher.check_alive()?;
        self.store.scan_back(&Range { table, from, to, limit }, ReadOptions::default())
    }
}

struct Held<'a>(SnapshotWithThreadMode<'a, DB>);

self_cell!(
    /// A snapshot together with the database that it belongs to.
    struct RocksSnapshot {
        owner: Arc<Store>,
        #[not_covariant]
        dependent: Held,
    }
);

impl RocksSnapshot {
    fn read<T>(&self, read: impl FnOnce(&Store, ReadOptions) -> T) -> T {
        self.with_dependent(|store, held| {
            let mut options = ReadOptions::default();
            options.set_snapshot(&held.0);
            read(store, options)
        })
    }
}

impl View for RocksSnapshot {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.read(|store, options| store.get(table, key, &options))
    }

    fn scan(&self, table: Table, from: &[u8], to: Option<&[u8]>, limit: usize) -> Result<Pairs, EngineError> {
        self.read(|store, options| store.scan(&Range { table, from, to, limit }, options))
    }

    fn scan_back(&self, table: Table, from: &[u8], to: Option<&[u8]>, limit: usize) -> Result<Pairs, EngineError> {
        self.read(|store, options| store.scan_back(&Range { table, from, to, limit }, options))
    }
}

#[cfg(test)]
#[path = "rocks_tests.rs"]
mod tests;
