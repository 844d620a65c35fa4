//! What a killed process or a lost engine leaves, and what the next start makes of it.

use super::*;
use crate::engine::{Batch, View};
use crate::pixels::record::{HEADER_BYTES, PACK_HEADER_BYTES};

/// Three small records: their receipts and the offset of the last.
fn three_records(directory: &Path) -> Vec<Receipt> {
    let rig = Rig::open(directory, &new_engine());
    (0..3).map(|number: u8| rig.put(&[number; 40], &[number; 10])).collect()
}

#[test]
fn a_pack_cut_at_every_byte_of_its_last_record_loses_that_record_only() {
    let directory = TempDir::new().unwrap();
    let receipts = three_records(directory.path());
    let whole = fs::read(pack_path(directory.path(), 1)).unwrap();
    let last = receipts[2].place.offset() as usize;
    for length in last..whole.len() {
        let torn = copy_of(directory.path());
        fs::write(pack_path(torn.path(), 1), &whole[..length]).unwrap();
        let engine = new_engine();
        let rig = Rig::open(torn.path(), &engine);
        assert_eq!(rig.envelopes(), [[0; 10], [1; 10]], "cut at {length}");
        assert_eq!(rig.report.cut_bytes as usize, length - last);
        assert_eq!(rig.report.damages, []);
        assert!(!rig.store.contains(&receipts[2].hash).unwrap());
        let again = rig.put(&[2; 40], &[2; 10]);
        assert!(again.is_new && again.place == receipts[2].place);
        drop(rig);
        let rig = Rig::open(torn.path(), &engine);
        assert_eq!(rig.recovered, [], "everything was settled");
        assert_eq!(rig.store.read(&receipts[2].hash).unwrap(), [2; 40]);
    }
}

#[test]
fn zeros_behind_the_last_record_are_an_unfinished_write() {
    let directory = TempDir::new().unwrap();
    three_records(directory.path());
    let pack = pack_path(directory.path(), 1);
    let bytes = fs::metadata(&pack).unwrap().len();
    for zeros in [1, HEADER_BYTES as u64, 3_000_000] {
        fs::OpenOptions::new().write(true).open(&pack).unwrap().set_len(bytes + zeros).unwrap();
        let rig = Rig::rebuild(directory.path());
        assert_eq!((rig.recovered.len(), rig.report.cut_bytes), (3, zeros));
        assert_eq!(rig.report.damages, []);
    }
}

#[test]
fn a_pack_that_died_at_birth_is_removed() {
    let directory = TempDir::new().unwrap();
    let receipts = three_records(directory.path());
    for bytes in [0, 1, PACK_HEADER_BYTES - 1] {
        fs::write(pack_path(directory.path(), 2), vec![0; bytes]).unwrap();
        let rig = Rig::rebuild(directory.path());
        assert_eq!((rig.recovered.len(), rig.report.damages.len()), (3, 0));
        assert!(!pack_path(directory.path(), 2).exists());
        assert!(receipts.iter().all(|receipt| rig.store.contains(&receipt.hash).unwrap()));
    }
}

/// The catalogue above: one row for each record, submitted before the record is settled.
fn catalogue(engine: &MemoryEngine, receipt: ReceiptId) {
    let mut batch = Batch::new();
    batch.put("catalogue", receipt.number().to_be_bytes(), []);
    engine.submit(batch).unwrap();
}

fn catalogued(engine: &MemoryEngine) -> Vec<u64> {
    let rows = engine.scan("catalogue", b"", None, usize::MAX).unwrap();
    rows.iter().map(|(key, _)| u64::from_be_bytes(key.as_slice().try_into().unwrap())).collect()
}

#[test]
fn whatever_the_engine_lost_no_record_is_missing_from_the_catalogue() {
    let mut losses = 0;
    for keep in 0..40 {
        let directory = TempDir::new().unwrap();
        let engine = MemoryEngine::open(TABLES).unwrap();
        let rig = Rig::open(directory.path(), &engine);
        for number in 0..10_u8 {
            let receipt = rig.store.store_and_wait(&[number; 100], &[number]).unwrap();
            // Settled in bursts and out of order, as a busy node would.
            if number % 3 != 1 {
                catalogue(&engine, receipt.id);
                rig.store.settled(receipt.id);
            }
            if number == 4 {
                engine.flush_all();
            }
        }
        let crashed = engine.crash(keep);
        drop(rig);
        let mut known = catalogued(&crashed);
        losses += usize::from(known.len() < 7);
        let rig = Rig::open(directory.path(), &crashed);
        known.extend(rig.recovered.iter().map(|record| record.id.number()));
        known.sort_unstable();
        known.dedup();
        assert_eq!(known, (1..=10).collect::<Vec<_>>(), "{keep} batches kept");
        let next = rig.put(b"another", b"");
        assert_eq!(next.id.number(), 11, "numbers are not used again");
        for number in 0..10_u8 {
            assert_eq!(rig.store.read(&ObjectHash::of(&[number; 100])).unwrap(), [number; 100]);
        }
    }
    assert!(losses > 0, "some of these crashes lost rows of the catalogue");
}

#[test]
fn unsettled_records_are_handed_over_at_the_next_start() {
    let directory = TempDir::new().unwrap();
    let engine = new_engine();
    let rig = Rig::open(directory.path(), &engine);
    rig.store.store_and_wait(b"object", b"envelope").unwrap();
    drop(rig);
    let rig = Rig::open(directory.path(), &engine);
    assert_eq!(rig.envelopes(), [b"envelope"], "handed over, and settled by that");
    drop(rig);
    assert_eq!(Rig::open(directory.path(), &engine).recovered, []);
}

#[test]
fn a_catalogue_that_fails_stops_the_start_and_gets_the_record_again() {
    let directory = TempDir::new().unwrap();
    three_records(directory.path());
    let engine = new_engine();
    let failure = StoreError::Dead { cause: "catalogue".to_owned() };
    let mut seen = 0;
    let mut refuse_second = |_| {
        seen += 1;
        if seen == 2 { Err(failure.clone()) } else { Ok(()) }
    };
    let opened =
        PixelStore::open(directory.path(), site_key(), Arc::new(engine.clone()), options(), &mut refuse_second);
    assert_eq!(opened.err(), Some(failure));
    let ids: Vec<_> = Rig::open(directory.path(), &engine).recovered.iter().map(|record| record.id.number()).collect();
    assert!(ids.ends_with(&[2, 3]), "{ids:?}");
}

#[test]
fn a_kill_under_load_loses_nothing_that_was_answered() {
    let directory = TempDir::new().unwrap();
    let rig = Rig::open(directory.path(), &new_engine());
    let answered = Arc::new(Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (store, answered) = (&rig.store, &answered);
            scope.spawn(move || {
                for number in 0..100 {
                    let answered = Arc::clone(answered);
                    let done: Completion = Box::new(move |result| answered.lock().unwrap().push(result.unwrap().hash));
                    store.store(&sample(thread * 1000 + number, 5000), b"", done).unwrap();
                }
            });
        }
        for _ in 0..5 {
            let before = answered.lock().unwrap().clone();
            let killed = copy_of(directory.path());
            let reopened = Rig::rebuild(killed.path());
            assert!(before.iter().all(|hash| reopened.store.read(hash).is_ok()));
            assert_eq!(reopened.report.damages, []);
        }
    });
}

#[test]
fn packs_roll_and_all_of_them_are_read() {
    let directory = TempDir::new().unwrap();
    let small_packs = StoreOptions { pack_bytes_max: 100_000, ..options() };
    let engine = new_engine();
    let rig = Rig::try_open(directory.path(), &engine, small_packs.clone()).unwrap();
    let hashes: Vec<_> = (0..30).map(|seed| rig.put(&sample(seed, 20_000), b"").hash).collect();
    drop(rig);
    assert!(files_below(&directory.path().join("packs")).len() >= 7);
    for engine in [engine, new_engine()] {
        let rig = Rig::try_open(directory.path(), &engine, small_packs.clone()).unwrap();
        for (seed, hash) in hashes.iter().enumerate() {
            assert_eq!(rig.store.read(hash).unwrap(), sample(seed as u64, 20_000));
        }
    }
}

#[test]
fn a_failed_write_is_told_to_its_callers_and_stops_the_store() {
    use crate::pixels::appender::Appender;
    use crate::pixels::core::Core;
    use crate::pixels::pack::Packs;
    use crate::pixels::seal::Keyring;

    let directory = TempDir::new().unwrap();
    let engine = new_engine();
    drop(Rig::open(directory.path(), &engine));
    let rig = Rig::open(directory.path(), &engine);
    // A second writer whose file refuses writes: what a disk that turned read-only does.
    let core = Core::new(
        directory.path().to_owned(),
        options(),
        Keyring::new(site_key()),
        Packs::open(directory.path()).unwrap(),
        Arc::new(engine),
    );
    core.set_growing(rig.store.core.growing());
    let read_only = fs::File::open(pack_path(directory.path(), 1)).unwrap();
    let before = read_only.metadata().unwrap().len();
    let appender = Appender::start(Arc::new(core), read_only).unwrap();
    let failing = PixelStore::with_appender(&rig.store, appender);
    assert!(matches!(failing.store_and_wait(b"object", b""), Err(StoreError::Io { .. })));
    assert!(matches!(failing.store_and_wait(b"object", b""), Err(StoreError::Dead { .. })));
    assert_eq!(fs::metadata(pack_path(directory.path(), 1)).unwrap().len(), before);
}

#[test]
fn a_start_makes_the_names_durable_that_a_kill_left() {
    use crate::pixels::pack::SYNCED;

    let directory = TempDir::new().unwrap();
    three_records(directory.path());
    SYNCED.take();
    Rig::open(directory.path(), &new_engine());
    let synced = SYNCED.take();
    let below = ["", "packs", "incoming", "partial"].map(|name| directory.path().join(name));
    for path in below.iter().map(PathBuf::as_path).chain(directory.path().parent()) {
        assert!(synced.iter().any(|synced| synced == path), "{}", path.display());
    }
}
