//! RocksDB against the suite. A crash is a copy of the directory taken under the running engine, which is what a
//! killed process leaves; a power cut also cuts the copy's log behind what was synced.

use std::fs;

use tempfile::TempDir;

use super::*;
use crate::conformance::{self, Disk};
use crate::engine::wait_durable;

const OPTIONS: EngineOptions = EngineOptions { sync: true, block_cache_bytes: 8 << 20, reserve_bytes: 0 };

struct RocksDisk {
    engine: RocksEngine,
    directory: TempDir,
    /// Length of the newest log when everything in it was known to be synced.
    synced_log: Option<(PathBuf, u64)>,
}

impl RocksDisk {
    fn format() -> Self {
        Self::on(TempDir::new().unwrap())
    }

    fn on(directory: TempDir) -> Self {
        let engine = RocksEngine::open(directory.path(), conformance::TABLES, OPTIONS).unwrap();
        Self { engine, directory, synced_log: None }
    }
}

fn newest_log(directory: &Path) -> Option<(PathBuf, u64)> {
    let logs = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let newest = logs.filter(|path| path.extension().is_some_and(|extension| extension == "log")).max()?;
    let bytes = fs::metadata(&newest).unwrap().len();
    Some((newest, bytes))
}

/// What a killed process leaves: its files of one moment. The engine may run on while they are copied, and compact
/// them; then it is another moment's turn.
fn copy_of(directory: &Path) -> TempDir {
    loop {
        let before = names(directory);
        let copy = TempDir::new().unwrap();
        // First what speaks of the rest.
        let first = std::iter::once(std::ffi::OsString::from(synced::FILE));
        let others = before.iter().filter(|name| *name != synced::FILE).cloned();
        let copied =
            first.chain(others).try_for_each(|name| fs::copy(directory.join(&name), copy.path().join(&name)).map(drop));
        if copied.is_ok() && names(directory) == before {
            return copy;
        }
    }
}

fn names(directory: &Path) -> BTreeSet<std::ffi::OsString> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

impl Disk for RocksDisk {
    fn engine(&self) -> &dyn Engine {
        &self.engine
    }

    fn sync(&mut self, newest: Ticket) {
        wait_durable(&self.engine, newest).unwrap();
        self.synced_log = newest_log(self.directory.path());
    }

    fn crash(self, survives: u8) -> Self {
        let copy = copy_of(self.directory.path());
        if let Some((log, bytes)) = newest_log(copy.path()) {
            let synced = match &self.synced_log {
                Some((path, synced)) if path.file_name() == log.file_name() => *synced,
                _ => 0,
            };
            let kept = synced + bytes.saturating_sub(synced) * u64::from(survives) / 255;
            fs::OpenOptions::new().write(true).open(&log).unwrap().set_len(kept).unwrap();
        }
        Self::on(copy)
    }
}

fn put(key: &[u8]) -> Batch {
    let mut batch = Batch::new();
    batch.put("first", key, *b"value");
    batch
}

#[test]
fn passes_the_suite() {
    conformance::run(12, RocksDisk::format);
}

#[test]
fn a_second_opening_of_the_directory_says_that_it_is_in_use() {
    let disk = RocksDisk::format();
    let second = RocksEngine::open(disk.directory.path(), conformance::TABLES, OPTIONS);
    assert!(matches!(second.err(), Some(EngineError::Locked { .. })));
}

/// A database that was killed with two writes in its log, both synced.
fn killed() -> TempDir {
    let mut disk = RocksDisk::format();
    for key in [b"first", b"other"] {
        let ticket = disk.engine.submit(put(key)).unwrap();
        disk.sync(ticket);
    }
    copy_of(disk.directory.path())
}

fn reopen(directory: &Path) -> Result<RocksEngine, EngineError> {
    RocksEngine::open(directory, conformance::TABLES, OPTIONS)
}

#[test]
fn a_flipped_byte_in_what_was_synced_is_refused_and_the_way_on_is_said() {
    let whole = killed();
    drop(reopen(copy_of(whole.path()).path()).expect("nothing is flipped yet"));
    let (_, bytes) = newest_log(whole.path()).unwrap();
    assert!(bytes > 50, "the log has {bytes} bytes");
    for place in 0..bytes {
        let directory = copy_of(whole.path());
        let (log, _) = newest_log(directory.path()).unwrap();
        let mut content = fs::read(&log).unwrap();
        content[place as usize] ^= 0x20;
        fs::write(&log, content).unwrap();
        match reopen(directory.path()).err() {
            Some(EngineError::LostWrites { synced, found, .. }) => assert!(found < synced, "byte {place}"),
            Some(EngineError::Corrupt { .. }) => {}
            other => panic!("byte {place} of the log was flipped, and it opened: {other:?}"),
        }
        if place == bytes - 1 {
            let error = reopen(directory.path()).err().expect("still refused").to_string();
            assert!(error.contains("remove the file"), "{error}");
            fs::remove_file(synced::path(directory.path())).unwrap();
            let engine = reopen(directory.path()).expect("the operator said so");
            assert_eq!(engine.get("first", b"first"), Ok(Some(b"value".to_vec())), "what is left is a prefix");
            assert_eq!(engine.get("first", b"other"), Ok(None));
        }
    }
}

#[test]
fn a_flipped_byte_in_a_table_is_told_with_its_file_and_never_served() {
    let directory = killed();
    // What the log held is now in a table.
    drop(reopen(directory.path()).unwrap());
    let tables = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
    let tables: Vec<PathBuf> = tables.filter(|path| path.extension().is_some_and(|end| end == "sst")).collect();
    let table = tables.iter().max_by_key(|path| fs::metadata(path).unwrap().len()).expect("a table");
    let mut content = fs::read(table).unwrap();
    // A table begins with its first block of data.
    content[12] ^= 1;
    fs::write(table, content).unwrap();
    let read = reopen(directory.path()).and_then(|engine| engine.get("first", b"first"));
    let Err(EngineError::Corrupt { detail }) = read else { panic!("served: {read:?}") };
    assert!(detail.contains(table.file_name().unwrap().to_str().unwrap()), "{detail}");
}

#[test]
fn a_clean_close_keeps_what_nobody_waited_for() {
    let disk = RocksDisk::format();
    disk.engine.submit(put(b"k")).unwrap();
    let RocksDisk { engine, directory, .. } = disk;
    drop(engine);
    let reopened = RocksDisk::on(directory);
    assert_eq!(reopened.engine.get("first", b"k"), Ok(Some(b"value".to_vec())));
}

#[test]
fn tables_of_a_newer_version_survive_and_stay_out_of_reach() {
    let directory = TempDir::new().unwrap();
    let newer = RocksEngine::open(directory.path(), &["first", "newer"], OPTIONS).unwrap();
    let mut batch = put(b"k");
    batch.put("newer", *b"k", *b"kept");
    newer.submit(batch).unwrap();
    drop(newer);
    let older = RocksEngine::open(directory.path(), &["first"], OPTIONS).unwrap();
    assert!(matches!(older.get("newer", b"k"), Err(EngineError::UnknownTable { .. })));
    drop(older);
    let newer = RocksEngine::open(directory.path(), &["first", "newer"], OPTIONS).unwrap();
    assert_eq!(newer.get("newer", b"k"), Ok(Some(b"kept".to_vec())));
}

#[test]
fn below_the_reserve_puts_are_refused_and_deletes_pass() {
    let directory = TempDir::new().unwrap();
    let options = EngineOptions { reserve_bytes: u64::MAX, ..OPTIONS };
    let engine = RocksEngine::open(directory.path(), conformance::TABLES, options).unwrap();
    assert!(matches!(engine.submit(put(b"k")), Err(EngineError::DiskFull { .. })));
    let mut deletes = Batch::new();
    deletes.delete("first", *b"k");
    let ticket = engine.submit(deletes).unwrap();
    assert_eq!(wait_durable(&engine, ticket), Ok(()));
}

#[test]
fn many_threads_write_and_wait_at_once() {
    let disk = RocksDisk::format();
    std::thread::scope(|scope| {
        for thread in 0..8_u8 {
            let engine = &disk.engine;
            scope.spawn(move || {
                for number in 0..50_u8 {
                    let ticket = engine.submit(put(&[thread, number])).unwrap();
                    wait_durable(engine, ticket).unwrap();
                }
            });
        }
    });
    assert_eq!(disk.engine.scan("first", b"", None, usize::MAX).unwrap().len(), 400);
}
