//! The pixel store from outside: a rig that opens, kills and rebuilds stores, and the plain ways of using one.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use super::*;
use crate::engine::{Engine, Table};
use crate::memory::MemoryEngine;

mod damage;
mod durability;
mod large;
mod partials;
mod reclaim;

const TABLES: &[Table] = &[OBJECTS, "catalogue"];
const MIB: usize = 1024 * 1024;

fn site_key() -> SiteKey {
    SiteKey::new([42; 32])
}

fn options() -> StoreOptions {
    StoreOptions { free_bytes_min: 0, ..StoreOptions::default() }
}

fn new_engine() -> MemoryEngine {
    MemoryEngine::open(TABLES).unwrap().auto_flush(true)
}

/// Bytes that differ everywhere and from seed to seed.
fn sample(seed: u64, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// An open store with what its start recovered.
struct Rig {
    store: Arc<PixelStore>,
    recovered: Vec<Recovered>,
    report: RecoveryReport,
}

impl Rig {
    fn try_open(directory: &Path, engine: &MemoryEngine, options: StoreOptions) -> Result<Self, StoreError> {
        let mut recovered = Vec::new();
        let mut on_recovered = |record| {
            recovered.push(record);
            Ok(())
        };
        let seam: Arc<dyn Engine> = Arc::new(engine.clone());
        let (store, report) = PixelStore::open(directory, site_key(), seam, options, &mut on_recovered)?;
        Ok(Self { store: Arc::new(store), recovered, report })
    }

    fn open(directory: &Path, engine: &MemoryEngine) -> Self {
        Self::try_open(directory, engine, options()).unwrap()
    }

    /// Opens with an empty engine: everything comes from the packs.
    fn rebuild(directory: &Path) -> Self {
        Self::open(directory, &new_engine())
    }

    fn put(&self, bytes: &[u8], envelope: &[u8]) -> Receipt {
        let receipt = self.store.store_and_wait(bytes, envelope).unwrap();
        self.store.settled(receipt.id);
        receipt
    }

    fn envelopes(&self) -> Vec<&[u8]> {
        self.recovered.iter().map(|record| record.envelope.as_slice()).collect()
    }
}

/// What a killed process leaves: the directory as it is now.
fn copy_of(directory: &Path) -> TempDir {
    let copy = TempDir::new().unwrap();
    copy_into(directory, copy.path());
    copy
}

fn copy_into(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&target).unwrap();
            copy_into(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn pack_path(directory: &Path, pack: u64) -> PathBuf {
    directory.join(format!("packs/{pack:010}.pack"))
}

#[test]
fn objects_of_every_shape_come_back_whole_and_in_ranges() {
    let directory = TempDir::new().unwrap();
    let rig = Rig::open(directory.path(), &new_engine());
    for bytes in [0, 1, 65_535, 65_536, 65_537, MIB, MIB + 1, 3 * MIB + 70_000, 8 * MIB] {
        let object = sample(bytes as u64, bytes);
        let receipt = rig.put(&object, b"envelope");
        let hash = receipt.hash;
        assert_eq!((hash, receipt.object_bytes, receipt.is_new), (ObjectHash::of(&object), bytes as u64, true));
        assert_eq!(rig.store.read(&hash).unwrap(), object, "{bytes}");
        assert_eq!(rig.store.object_bytes(&hash), Ok(Some(bytes as u64)));
        assert_eq!(rig.store.envelope(&hash).unwrap(), b"envelope");
        let groups = rig.store.chunk_group_hashes(&hash).unwrap();
        assert!(verify_groups(&hash, bytes as u64, &groups), "{bytes}");
        for (from, to) in
            [(0, 0), (0, 1), (0, 65_536), (65_535, 65_537), (65_536, 65_536), (1, 200_000), (bytes, bytes)]
        {
            let read = rig.store.read_range(&hash, from as u64, to as u64 - from as u64);
            match object.get(from..to) {
                Some(expected) => assert_eq!(read.unwrap(), expected, "{from}..{to} of {bytes}"),
                None => assert!(matches!(read, Err(StoreError::OutOfRange { .. })), "{from}..{to} of {bytes}"),
            }
        }
        let past_everything = rig.store.read_range(&hash, u64::MAX, u64::MAX);
        assert!(matches!(past_everything, Err(StoreError::OutOfRange { .. })));
    }
}

#[test]
fn a_reader_streams_and_seeks() {
    let directory = TempDir::new().unwrap();
    let rig = Rig::open(directory.path(), &new_engine());
    let object = sample(1, 3 * MIB + 11);
    let hash = rig.put(&object, b"").hash;
    let mut reader = rig.store.reader(&hash).unwrap();
    let mut whole = Vec::new();
    reader.read_to_end(&mut whole).unwrap();
    assert_eq!(whole, object);
    let mut piece = [0; 1000];
    for (seek, position) in [
        (SeekFrom::Start(2 * MIB as u64 - 500), 2 * MIB - 500),
        (SeekFrom::Current(-1_500_000), 2 * MIB + 500 - 1_500_000),
        (SeekFrom::End(-1000), object.len() - 1000),
    ] {
        assert_eq!(reader.seek(seek).unwrap(), position as u64);
        reader.read_exact(&mut piece).unwrap();
        assert_eq!(piece, object[position..position + 1000]);
    }
    assert!(reader.seek(SeekFrom::End(-(object.len() as i64) - 1)).is_err());
    reader.seek(SeekFrom::End(5)).unwrap();
    assert_eq!(reader.read(&mut piece).unwrap(), 0);
}

#[test]
fn the_same_content_again_keeps_every_envelope_and_one_body() {
    let directory = TempDir::new().unwrap();
    let rig = Rig::open(directory.path(), &new_engine());
    let object = sample(1, 500_000);
    let first = rig.put(&object, b"first");
    let second = rig.put(&object, b"second");
    assert_eq!((first.is_new, second.is_new), (true, false));
    assert_eq!((second.hash, second.object_bytes), (first.hash, 500_000));
    assert!(second.id > first.id);
    let stats = rig.store.stats();
    assert_eq!((stats.objects, stats.receipts), (1, 1));
    assert!(stats.record_bytes < 510_000);
    drop(rig);
    let rebuilt = Rig::rebuild(directory.path());
    assert_eq!(rebuilt.envelopes(), [b"first".as_slice(), b"second"]);
    assert!(rebuilt.recovered.iter().all(|record| (record.hash, record.object_bytes) == (first.hash, 500_000)));
    assert_eq!(rebuilt.recovered[1].kind, RecordKind::Receipt);
    assert_eq!(rebuilt.store.read(&first.hash).unwrap(), object);
}

#[test]
fn bounds_are_refused_with_their_names() {
    let directory = TempDir::new().unwrap();
    let engine = new_engine();
    let rig = Rig::open(directory.path(), &engine);
    let envelope = vec![0; ENVELOPE_BYTES_MAX as usize + 1];
    let refused = rig.store.store_and_wait(b"", &envelope);
    assert!(matches!(refused, Err(StoreError::EnvelopeTooLarge { .. })));
    let refused = rig.store.store_and_wait(&vec![0; 8 * MIB + 1], b"");
    assert!(matches!(refused, Err(StoreError::ObjectTooLarge { .. })));
    let unknown = ObjectHash::of(b"unknown");
    assert_eq!(rig.store.read(&unknown), Err(StoreError::NotFound { hash: unknown }));
    let receipt = rig.store.add_receipt(&unknown, b"", Box::new(|_| panic!("not called")));
    assert_eq!(receipt, Err(StoreError::NotFound { hash: unknown }));
    drop(rig);
    let full = StoreOptions { free_bytes_min: u64::MAX, ..options() };
    let rig = Rig::try_open(directory.path(), &engine, full).unwrap();
    let refusals = [
        rig.store.store_and_wait(b"object", b"").map(|_| ()),
        rig.store.begin_large(b"").map(|_| ()),
        rig.store.partial(&ObjectHash::of(b"object"), 6, &[*ObjectHash::of(b"object").digest()]).map(|_| ()),
    ];
    for refused in refusals {
        assert!(matches!(refused, Err(StoreError::WatermarkReached { limit_bytes: u64::MAX, .. })), "{refused:?}");
    }
}

#[test]
fn eight_threads_share_syncs_and_store_each_content_once() {
    let directory = TempDir::new().unwrap();
    let rig = Rig::open(directory.path(), &new_engine());
    let receipts = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let (store, receipts) = (&rig.store, &receipts);
            scope.spawn(move || {
                let (sender, receiver) = std::sync::mpsc::channel();
                for number in 0..40_u64 {
                    // Half of the content is the same from every thread.
                    let seed = if number % 2 == 0 { number } else { thread * 1000 + number };
                    let sender = sender.clone();
                    let done: Completion = Box::new(move |result| sender.send(result).unwrap());
                    store.store(&sample(seed, 20_000), &seed.to_le_bytes(), done).unwrap();
                }
                drop(sender);
                receipts.lock().unwrap().extend(receiver.into_iter().map(Result::unwrap));
            });
        }
    });
    let receipts = receipts.into_inner().unwrap();
    assert_eq!(receipts.len(), 320);
    let stats = rig.store.stats();
    assert_eq!((stats.objects, stats.receipts), (20 + 8 * 20, 7 * 20));
    assert_eq!(receipts.iter().filter(|receipt| receipt.is_new).count(), 180);
    assert!(stats.syncs < stats.objects, "{stats:?}");
    for receipt in &receipts {
        assert_eq!(ObjectHash::of(&rig.store.read(&receipt.hash).unwrap()), receipt.hash);
    }
}

#[test]
fn neither_content_nor_envelopes_stand_in_clear() {
    let directory = TempDir::new().unwrap();
    let rig = Rig::open(directory.path(), &new_engine());
    let marker = b"GENERATED^PATIENT^MARKER";
    let marked = |bytes: usize| marker.iter().copied().cycle().take(bytes).collect::<Vec<u8>>();
    rig.put(&marked(100_000), marker);
    rig.put(&marked(100_000), &marked(1000));
    let mut large = rig.store.begin_large(marker).unwrap();
    large.write(&marked(9 * MIB)).unwrap();
    let mut unfinished = rig.store.begin_large(marker).unwrap();
    unfinished.write(&marked(12 * MIB)).unwrap();
    large.finish().unwrap();
    let object = marked(2 * MIB);
    let groups: Vec<_> =
        (0..2).map(|index| group_hash(index, &object[..MIB], 2 * MIB as u64).unwrap_or_default()).collect();
    let second = group_hash(1, &object[MIB..], 2 * MIB as u64).unwrap();
    let partial = rig.store.partial(&ObjectHash::of(&object), 2 * MIB as u64, &[groups[0], second]).unwrap();
    partial.write_group(0, &object[..MIB]).unwrap();
    partial.sync().unwrap();
    let files = files_below(directory.path());
    assert!(files.len() >= 7, "{files:?}");
    for file in files {
        let bytes = fs::read(&file).unwrap();
        assert!(!bytes.windows(8).any(|window| window == b"^PATIENT"), "{}", file.display());
    }
}

#[test]
fn a_store_is_opened_once_and_only_with_its_key() {
    let directory = TempDir::new().unwrap();
    let engine = new_engine();
    let rig = Rig::open(directory.path(), &engine);
    let hash = rig.put(b"object", b"envelope").hash;
    assert!(matches!(Rig::try_open(directory.path(), &engine, options()).err(), Some(StoreError::Locked { .. })));
    drop(rig);
    let wrong = SiteKey::new([43; 32]);
    let opened = PixelStore::open(directory.path(), wrong, Arc::new(engine.clone()), options(), &mut |_| Ok(()));
    assert!(matches!(opened.err(), Some(StoreError::WrongKey { .. })));
    let key = directory.path().join("KEY");
    let kept = fs::read(&key).unwrap();
    fs::remove_file(&key).unwrap();
    let missing = Rig::try_open(directory.path(), &engine, options());
    assert!(matches!(missing.err(), Some(StoreError::KeyFileMissing { .. })));
    fs::write(&key, kept).unwrap();
    assert_eq!(Rig::open(directory.path(), &engine).store.read(&hash).unwrap(), b"object");
}
