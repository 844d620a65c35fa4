//! Flipped bits, lost files: found, named, and never contagious.

use super::*;

/// All damage and the number of sound records of one round.
fn scrub(store: &PixelStore) -> (u64, Vec<Damage>) {
    let (mut sound, mut damages) = (0, Vec::new());
    let mut cursor = Some(ScrubCursor::default());
    while let Some(at) = cursor {
        let report = store.scrub_next(ScrubCursor::from_bytes(at.to_bytes())).unwrap();
        sound += report.sound;
        damages.extend(report.damage);
        cursor = report.next;
    }
    (sound, damages)
}

#[test]
fn every_flipped_byte_of_a_record_is_found_and_hides_no_other() {
    let directory = TempDir::new().unwrap();
    let engine = new_engine();
    let rig = Rig::open(directory.path(), &engine);
    let receipts: Vec<_> = (0..3).map(|number: u8| rig.put(&[number; 40], &[number; 10])).collect();
    drop(rig);
    let whole = fs::read(pack_path(directory.path(), 1)).unwrap();
    for position in receipts[1].place.offset()..receipts[2].place.offset() {
        let damaged = copy_of(directory.path());
        let mut bytes = whole.clone();
        bytes[position as usize] ^= 0x10;
        fs::write(pack_path(damaged.path(), 1), &bytes).unwrap();

        let rebuilt = Rig::rebuild(damaged.path());
        assert_eq!(rebuilt.envelopes(), [[0; 10], [2; 10]], "byte {position}");
        let [damage] = rebuilt.report.damages.as_slice() else { panic!("byte {position}: {:?}", rebuilt.report) };
        assert_eq!(damage.place, receipts[1].place);
        assert_eq!(fs::read(pack_path(damaged.path(), 1)).unwrap(), bytes, "nothing was cut off");
        assert_eq!(scrub(&rebuilt.store), (2, vec![damage.clone()]), "byte {position}");
        // A resend heals.
        assert!(rebuilt.put(&[1; 40], b"").is_new);
        assert_eq!(rebuilt.store.read(&receipts[1].hash).unwrap(), [1; 40]);
    }
}

#[test]
fn a_flipped_body_is_never_served() {
    let directory = TempDir::new().unwrap();
    let engine = new_engine();
    let rig = Rig::open(directory.path(), &engine);
    let object = sample(7, 300_000);
    let receipt = rig.put(&object, b"envelope");
    let pack = pack_path(directory.path(), 1);
    let mut bytes = fs::read(&pack).unwrap();
    // In the third segment of the body.
    bytes[receipt.place.offset() as usize + 112 + 150_000] ^= 1;
    fs::write(&pack, bytes).unwrap();
    let Err(StoreError::Damaged { damage }) = rig.store.read(&receipt.hash) else { panic!("served") };
    assert_eq!((damage.hash, damage.what), (Some(receipt.hash), DamageKind::Body));
    assert!(damage.to_string().starts_with("pack 1 at byte 32: "), "{damage}");
    assert_eq!(rig.store.read_range(&receipt.hash, 0, 131_072).unwrap(), object[..131_072], "sound segments are read");
    assert!(rig.store.read_range(&receipt.hash, 131_071, 2).is_err());
    let mut streamed = Vec::new();
    assert!(rig.store.reader(&receipt.hash).unwrap().read_to_end(&mut streamed).is_err());
    assert_eq!(scrub(&rig.store), (0, vec![damage]));
}

#[test]
fn a_lost_pack_is_reported_and_a_resend_heals() {
    let directory = TempDir::new().unwrap();
    let engine = new_engine();
    let rig = Rig::open(directory.path(), &engine);
    let receipt = rig.put(b"object", b"envelope");
    drop(rig);
    drop(Rig::open(directory.path(), &engine));
    fs::remove_file(pack_path(directory.path(), 1)).unwrap();
    let rig = Rig::open(directory.path(), &engine);
    assert_eq!(rig.report.damages[0].what, DamageKind::PackShortened);
    assert!(!rig.store.contains(&receipt.hash).unwrap());
    let again = rig.put(b"object", b"again");
    assert!(again.is_new && again.place.pack() > 1 && again.id > receipt.id);
    assert_eq!(rig.store.read(&receipt.hash).unwrap(), b"object");
}

#[test]
fn a_pack_restored_from_an_older_copy_is_reported_and_not_appended_to() {
    let directory = TempDir::new().unwrap();
    let engine = new_engine();
    let rig = Rig::open(directory.path(), &engine);
    rig.put(b"first", b"");
    let old = fs::read(pack_path(directory.path(), 1)).unwrap();
    rig.put(b"second", b"");
    drop(rig);
    drop(Rig::open(directory.path(), &engine));
    fs::write(pack_path(directory.path(), 1), old).unwrap();
    let rig = Rig::open(directory.path(), &engine);
    assert_eq!(rig.report.damages[0].what, DamageKind::PackShortened);
    let third = rig.put(b"third", b"third");
    assert!(third.place.pack() > 1);
    assert_eq!(rig.store.read(&ObjectHash::of(b"first")).unwrap(), b"first");
    assert!(matches!(rig.store.read(&ObjectHash::of(b"second")), Err(StoreError::Damaged { .. })));
}

#[test]
fn a_scrub_round_visits_every_record_of_every_pack() {
    let directory = TempDir::new().unwrap();
    let small_packs = StoreOptions { pack_bytes_max: 100_000, ..options() };
    let rig = Rig::try_open(directory.path(), &new_engine(), small_packs).unwrap();
    for seed in 0..20 {
        rig.put(&sample(seed, 20_000), b"");
        rig.put(&sample(seed, 20_000), b"again");
    }
    let mut large = rig.store.begin_large(b"").unwrap();
    large.write(&sample(99, 9 * MIB)).unwrap();
    large.finish().unwrap();
    assert_eq!(scrub(&rig.store), (41, vec![]));
}
