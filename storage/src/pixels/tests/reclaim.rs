//! Forgetting and compaction.

use std::collections::BTreeSet;

use super::*;

fn small_packs() -> StoreOptions {
    StoreOptions { pack_bytes_max: 100_000, ..options() }
}

fn forget(rig: &Rig, hash: &ObjectHash) -> Receipt {
    let receipt = rig.store.forget_and_wait(hash, b"expired").unwrap();
    rig.store.settled(receipt.id);
    receipt
}

fn compact(rig: &Rig, pack: u64) -> Result<u64, StoreError> {
    rig.store.compact(pack, &mut |_| Ok(()))
}

#[test]
fn what_is_forgotten_is_gone_also_after_a_rebuild_and_can_come_again() {
    let directory = TempDir::new().unwrap();
    let rig = Rig::open(directory.path(), &new_engine());
    let hash = rig.put(b"object", b"first").hash;
    rig.put(b"kept", b"kept");
    let tombstone = forget(&rig, &hash);
    assert_eq!(rig.store.read(&hash), Err(StoreError::NotFound { hash }));
    assert_eq!(rig.store.forget_and_wait(&hash, b"").err(), Some(StoreError::NotFound { hash }));
    drop(rig);
    let rig = Rig::rebuild(directory.path());
    assert!(!rig.store.contains(&hash).unwrap());
    let last = rig.recovered.last().unwrap();
    assert_eq!((last.kind, last.id, last.hash), (RecordKind::Tombstone, tombstone.id, hash));
    assert!(rig.put(b"object", b"again").is_new);
    drop(rig);
    assert_eq!(Rig::rebuild(directory.path()).store.read(&hash).unwrap(), b"object");
}

#[test]
fn compaction_keeps_what_lives_and_frees_the_rest() {
    let directory = TempDir::new().unwrap();
    let engine = new_engine();
    let rig = Rig::try_open(directory.path(), &engine, small_packs()).unwrap();
    let receipts: Vec<_> = (0..20_u64).map(|seed| rig.put(&sample(seed, 20_000), &seed.to_le_bytes())).collect();
    for seed in 0..20 {
        rig.put(&sample(seed, 20_000), b"second receipt");
    }
    let (dead, alive): (Vec<_>, Vec<_>) = receipts.iter().partition(|receipt| receipt.id.number() % 4 != 0);
    for receipt in &dead {
        forget(&rig, &receipt.hash);
    }
    let bytes_before: u64 = files_below(directory.path()).iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    let usages: Vec<_> =
        rig.store.complete_packs().unwrap().into_iter().map(|pack| rig.store.usage(pack).unwrap()).collect();
    assert!(usages.iter().all(|usage| usage.live_bytes < usage.bytes));
    for usage in usages {
        assert_eq!(compact(&rig, usage.pack).unwrap(), usage.bytes);
        assert!(!pack_path(directory.path(), usage.pack).exists());
    }
    let bytes_after: u64 = files_below(directory.path()).iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    assert!(bytes_after < bytes_before / 2, "{bytes_after} of {bytes_before}");
    let check = |rig: &Rig| {
        assert!(alive.iter().all(|receipt| rig.store.read(&receipt.hash).is_ok()));
        assert!(dead.iter().all(|receipt| !rig.store.contains(&receipt.hash).unwrap()));
    };
    check(&rig);
    drop(rig);
    let reopened = Rig::try_open(directory.path(), &engine, small_packs()).unwrap();
    check(&reopened);
    assert_eq!((reopened.recovered.len(), reopened.report.damages.len()), (0, 0));
    drop(reopened);
    let rebuilt = Rig::try_open(directory.path(), &new_engine(), small_packs()).unwrap();
    check(&rebuilt);
    let hashes = |kind| {
        let of_kind = rebuilt.recovered.iter().filter(move |record| record.kind == kind);
        of_kind.map(|record| record.hash).collect::<BTreeSet<_>>()
    };
    // Objects that died in the pack that still grew come back too, with their tombstones behind them.
    let (objects, tombstones) = (hashes(RecordKind::Object), hashes(RecordKind::Tombstone));
    assert_eq!(tombstones, dead.iter().map(|receipt| receipt.hash).collect());
    assert_eq!(
        objects.difference(&tombstones).copied().collect::<BTreeSet<_>>(),
        alive.iter().map(|r| r.hash).collect()
    );
    assert!(objects.len() < 20, "dead objects of compacted packs are gone");
    let receipts_of_living = rebuilt.recovered.iter().filter(|record| record.envelope == b"second receipt").count();
    assert!(receipts_of_living >= 5, "{receipts_of_living}");
}

#[test]
fn a_pack_in_use_or_with_damage_is_left_alone() {
    let directory = TempDir::new().unwrap();
    let rig = Rig::try_open(directory.path(), &new_engine(), small_packs()).unwrap();
    let unsettled = rig.store.store_and_wait(&sample(0, 60_000), b"").unwrap();
    rig.put(&sample(1, 60_000), b"");
    assert_eq!(compact(&rig, 2), Err(StoreError::PackInUse { pack: 2 }));
    assert_eq!(compact(&rig, 1), Err(StoreError::PackInUse { pack: 1 }), "unsettled records may be needed again");
    rig.store.settled(unsettled.id);
    let path = pack_path(directory.path(), 1);
    let mut bytes = fs::read(&path).unwrap();
    bytes[40] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(matches!(compact(&rig, 1), Err(StoreError::Damaged { .. })));
    assert!(path.exists());
}

#[test]
fn a_forgotten_large_object_gives_its_pack_back_and_a_living_one_stays() {
    let directory = TempDir::new().unwrap();
    let rig = Rig::open(directory.path(), &new_engine());
    let large = |seed| {
        let mut writer = rig.store.begin_large(b"").unwrap();
        writer.write(&sample(seed, 9 * MIB)).unwrap();
        let receipt = writer.finish().unwrap();
        rig.store.settled(receipt.id);
        receipt
    };
    let (dead, alive) = (large(1), large(2));
    forget(&rig, &dead.hash);
    assert!(compact(&rig, dead.place.pack()).unwrap() > 9 * MIB as u64);
    assert_eq!(compact(&rig, alive.place.pack()), Ok(0));
    assert_eq!(rig.store.read(&alive.hash).unwrap(), sample(2, 9 * MIB));
    assert!(!pack_path(directory.path(), dead.place.pack()).exists());
}

/// Objects in several packs, of each of which half is dead.
struct HalfDead {
    packs: Vec<u64>,
    dead: Vec<ObjectHash>,
    alive: Vec<(ObjectHash, Vec<u8>)>,
}

fn half_dead(rig: &Rig) -> HalfDead {
    let put = |seed| (rig.put(&sample(seed, 20_000), b"").hash, sample(seed, 20_000));
    let (alive, dead): (Vec<_>, Vec<_>) = (0..16).map(put).enumerate().partition(|(index, _)| index % 2 == 0);
    let dead: Vec<ObjectHash> = dead.into_iter().map(|(_, (hash, _))| hash).collect();
    for hash in &dead {
        forget(rig, hash);
    }
    let packs = rig.store.complete_packs().unwrap();
    assert!(packs.len() >= 2, "{packs:?}");
    HalfDead { packs, dead, alive: alive.into_iter().map(|(_, object)| object).collect() }
}

#[test]
fn a_crash_while_a_pack_is_compacted_leaves_copies_and_loses_nothing() {
    let directory = TempDir::new().unwrap();
    let engine = new_engine();
    let rig = Rig::try_open(directory.path(), &engine, small_packs()).unwrap();
    let HalfDead { packs, dead, alive } = half_dead(&rig);
    // Broken off in the middle, and done but for the removal of the old pack.
    let mut left = 2;
    let broken_off = rig.store.compact(packs[0], &mut |_| {
        left -= 1;
        if left == 0 { Err(StoreError::BrokenOff) } else { Ok(()) }
    });
    assert_eq!(broken_off, Err(StoreError::BrokenOff));
    let kept = fs::read(pack_path(directory.path(), packs[1])).unwrap();
    compact(&rig, packs[1]).unwrap();
    fs::write(pack_path(directory.path(), packs[1]), kept).unwrap();
    let check = |rig: &Rig| {
        assert!(alive.iter().all(|(hash, bytes)| rig.store.read(hash).unwrap() == *bytes));
        assert!(dead.iter().all(|hash| !rig.store.contains(hash).unwrap()));
    };
    drop(rig);
    // With the index, and without it, from packs alone.
    for engine in [engine, new_engine()] {
        let rig = Rig::try_open(directory.path(), &engine, small_packs()).unwrap();
        check(&rig);
        for pack in rig.store.complete_packs().unwrap() {
            compact(&rig, pack).unwrap();
        }
        check(&rig);
    }
}

#[test]
fn readers_find_every_object_while_its_pack_is_compacted() {
    let directory = TempDir::new().unwrap();
    let rig = Rig::try_open(directory.path(), &new_engine(), small_packs()).unwrap();
    let HalfDead { alive, .. } = half_dead(&rig);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    alive.iter().for_each(|(hash, bytes)| assert_eq!(rig.store.read(hash).unwrap(), *bytes));
                }
            });
        }
        // What lives moves on again and again.
        for _ in 0..30 {
            for pack in rig.store.complete_packs().unwrap() {
                compact(&rig, pack).unwrap();
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
