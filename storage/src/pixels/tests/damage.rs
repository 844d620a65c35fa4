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
    assert_eq!(rig.store.read_range(&receipt.hash, 0, 131_072).unwrap(), object[..131_072], "nobody knows yet");
    let Err(StoreError::Damaged { damage }) = rig.store.read(&receipt.hash) else { panic!("served") };
    assert_eq!((damage.hash, damage.what), (Some(receipt.hash), DamageKind::Body));
    assert!(damage.to_string().starts_with("pack 1 at byte 32: "), "{damage}");
    assert!(rig.store.read_range(&receipt.hash, 0, 2).is_err(), "once known, nothing of it is served");
    assert!(rig.store.reader(&receipt.hash).is_err());
    assert_eq!(scrub(&rig.store), (0, vec![damage]));
}

/// A store of two objects, the second of which has a flipped byte in its body; its pack as it was, and as it is.
struct Flipped {
    directory: TempDir,
    engine: MemoryEngine,
    receipt: Receipt,
    sound: Vec<u8>,
}

static FLIPPED: [u8; 70_000] = [2; 70_000];

impl Flipped {
    fn new() -> Self {
        let (directory, engine) = (TempDir::new().unwrap(), new_engine());
        let rig = Rig::open(directory.path(), &engine);
        rig.put(&[1; 70_000], b"first");
        let receipt = rig.put(&FLIPPED, b"second");
        drop(rig);
        drop(Rig::open(directory.path(), &engine));
        let sound = fs::read(pack_path(directory.path(), 1)).unwrap();
        let mut bytes = sound.clone();
        bytes[receipt.place.offset() as usize + 1_000] ^= 1;
        fs::write(pack_path(directory.path(), 1), bytes).unwrap();
        Self { directory, engine, receipt, sound }
    }

    fn open(&self) -> Rig {
        Rig::open(self.directory.path(), &self.engine)
    }

    fn damage(&self) -> Damage {
        Damage { place: self.receipt.place, hash: Some(self.receipt.hash), what: DamageKind::Body }
    }
}

#[test]
fn damage_is_remembered_and_the_same_bytes_sent_again_heal_it() {
    let flipped = Flipped::new();
    let rig = flipped.open();
    assert!(rig.store.contains(&flipped.receipt.hash).unwrap(), "a start does not look behind its watermark");
    assert_eq!(scrub(&rig.store), (1, vec![flipped.damage()]));
    drop(rig);
    let rig = flipped.open();
    assert_eq!(rig.store.damages(10), Ok(vec![flipped.damage()]), "after a restart too");
    assert!(!rig.store.contains(&flipped.receipt.hash).unwrap());
    assert_eq!(rig.store.read(&flipped.receipt.hash), Err(StoreError::Damaged { damage: flipped.damage() }));
    assert_eq!(rig.store.read(&ObjectHash::of(&[1; 70_000])).unwrap(), [1; 70_000], "its neighbour is served");
    let again = rig.put(&FLIPPED, b"again");
    assert!(again.is_new && again.place != flipped.receipt.place);
    assert_eq!(rig.store.read(&flipped.receipt.hash).unwrap(), FLIPPED);
    assert_eq!(rig.store.damages(10), Ok(vec![]));
    assert_eq!(scrub(&rig.store), (2, vec![flipped.damage()]), "the dead record is still there, and harms nobody");
    assert_eq!(rig.store.damages(10), Ok(vec![]));
    assert_eq!(rig.store.read(&flipped.receipt.hash).unwrap(), FLIPPED);
}

#[test]
fn what_a_reader_found_is_remembered_and_a_restored_pack_heals_it() {
    let flipped = Flipped::new();
    let rig = flipped.open();
    let mut streamed = Vec::new();
    assert!(rig.store.reader(&flipped.receipt.hash).unwrap().read_to_end(&mut streamed).is_err());
    assert_eq!(rig.store.damages(10), Ok(vec![flipped.damage()]));
    assert!(!rig.store.contains(&flipped.receipt.hash).unwrap());
    drop(rig);
    fs::write(pack_path(flipped.directory.path(), 1), &flipped.sound).unwrap();
    let rig = flipped.open();
    assert_eq!(scrub(&rig.store), (2, vec![]));
    assert_eq!(rig.store.damages(10), Ok(vec![]));
    assert_eq!(rig.store.read(&flipped.receipt.hash).unwrap(), FLIPPED);
}

#[test]
fn a_pack_with_a_damaged_object_is_not_compacted_away() {
    let flipped = Flipped::new();
    let small = StoreOptions { pack_bytes_max: 100_000, ..options() };
    let rig = Rig::try_open(flipped.directory.path(), &flipped.engine, small).unwrap();
    let third = rig.put(&[3; 70_000], b"third");
    assert!(third.place.pack() > 1, "the first pack is complete");
    scrub(&rig.store);
    assert_eq!(rig.store.compact(1, &mut |_| Ok(())), Err(StoreError::Damaged { damage: flipped.damage() }));
    assert!(pack_path(flipped.directory.path(), 1).exists(), "what can't be read now may be restored");
    assert_eq!(rig.store.complete_packs().unwrap()[0], 1);
}

#[test]
fn the_scrubbers_cursor_is_kept() {
    let flipped = Flipped::new();
    let rig = flipped.open();
    assert_eq!(rig.store.scrub_cursor(), Ok(ScrubCursor::default()));
    let next = rig.store.scrub_next(ScrubCursor::default()).unwrap().next.unwrap();
    rig.store.keep_scrub_cursor(next).unwrap();
    drop(rig);
    assert_eq!(flipped.open().store.scrub_cursor(), Ok(next));
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
