//! Flipped bits, lost files: found, named, and never contagious.

use rustix::io::Errno;

use super::*;
use crate::pixels::pack::failing;

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

const OF_THE_DISK: [Errno; 3] = [Errno::IO, Errno::BADMSG, Errno::UCLEAN];

/// Three objects in one pack, known to the index.
fn three_objects(directory: &Path, engine: &MemoryEngine) -> Vec<Receipt> {
    let rig = Rig::open(directory, engine);
    let receipts = (0..3).map(|number: u8| rig.put(&[number; 70_000], &[number; 10])).collect();
    drop(rig);
    drop(Rig::open(directory, engine));
    receipts
}

#[test]
fn what_the_disk_can_not_read_is_damage_and_a_resend_heals_it() {
    for error in OF_THE_DISK {
        // Where the sector lies in the record, and what a round of the scrubber can say of it.
        for (at, what, is_named) in [(1_000, DamageKind::Body, true), (0, DamageKind::Header, false)] {
            let (directory, engine) = (TempDir::new().unwrap(), new_engine());
            let receipts = three_objects(directory.path(), &engine);
            let (place, hash) = (receipts[1].place, receipts[1].hash);
            let sector = place.offset() + at..place.offset() + at + 100;
            failing::lose(&pack_path(directory.path(), 1), sector, error.raw_os_error());
            let rig = Rig::open(directory.path(), &engine);
            let found = Damage { place, hash: is_named.then_some(hash), what };
            assert_eq!(scrub(&rig.store), (2, vec![found.clone()]), "its neighbours are looked at: {error}");
            assert_eq!(rig.store.damages(10), Ok(vec![found]));
            let named = Damage { place, hash: Some(hash), what };
            assert_eq!(rig.store.read(&hash), Err(StoreError::Damaged { damage: named }));
            for neighbour in [0, 2] {
                assert_eq!(rig.store.read(&receipts[neighbour].hash).unwrap(), [neighbour as u8; 70_000]);
            }
            assert!(rig.put(&[1; 70_000], b"again").is_new, "{error}");
            assert_eq!(rig.store.read(&hash).unwrap(), [1; 70_000]);
            failing::find_again();
        }
    }
}

#[test]
fn a_start_goes_on_past_what_the_disk_can_not_read_and_cuts_nothing_off() {
    // In the pack's header, the record's header, its body and its envelope.
    for (at, missed) in [(0, 3), (0, 1), (1_000, 1), (70_128, 1)] {
        let directory = TempDir::new().unwrap();
        let receipts = three_objects(directory.path(), &new_engine());
        let pack = pack_path(directory.path(), 1);
        let begin = if missed == 3 { 0 } else { receipts[1].place.offset() + at };
        let bytes = fs::metadata(&pack).unwrap().len();
        failing::lose(&pack, begin..begin + 10, Errno::IO.raw_os_error());
        let rig = Rig::rebuild(directory.path());
        let expected: &[u8] = if missed == 3 { &[0, 1, 2] } else { &[0, 2] };
        let recovered: Vec<u8> = rig.recovered.iter().map(|record| record.envelope[0]).collect();
        assert_eq!(recovered, expected, "byte {begin}");
        assert_eq!((rig.report.damages.len(), rig.report.cut_bytes), (1, 0), "{:?}", rig.report);
        assert_eq!(fs::metadata(&pack).unwrap().len(), bytes);
        assert_eq!(rig.store.damages(10), Ok(rig.report.damages.clone()), "it is told");
        failing::find_again();
    }
}

#[test]
fn a_pack_that_the_disk_has_lost_is_told_and_its_objects_are_welcome_again() {
    let (directory, engine) = (TempDir::new().unwrap(), new_engine());
    let receipts = three_objects(directory.path(), &engine);
    let pack = pack_path(directory.path(), 1);
    failing::lose(&pack, 0..u64::MAX, Errno::UCLEAN.raw_os_error());
    let rig = Rig::open(directory.path(), &engine);
    assert_eq!(rig.report.damages[0].what, DamageKind::PackShortened);
    assert_eq!(scrub(&rig.store), (0, rig.report.damages.clone()));
    assert!(matches!(rig.store.read(&receipts[0].hash), Err(StoreError::Damaged { .. })));
    let again = rig.put(&[1; 70_000], b"again");
    assert!(again.is_new && again.place.pack() > 1);
    assert!(rig.store.compact(1, &mut |_| Ok(())).is_err() && pack.exists(), "what can't be opened is not removed");
    drop(rig);
    failing::find_again();
    let rig = Rig::open(directory.path(), &engine);
    scrub(&rig.store);
    assert_eq!(rig.store.damages(10), Ok(vec![]), "the disk was well again, and nothing is told any more");
    for (number, receipt) in receipts.iter().enumerate() {
        assert_eq!(rig.store.read(&receipt.hash).unwrap(), [number as u8; 70_000]);
    }
}

#[test]
fn a_disk_that_can_read_again_is_believed_where_it_is_looked_at() {
    let (directory, engine) = (TempDir::new().unwrap(), new_engine());
    let receipts = three_objects(directory.path(), &engine);
    let rig = Rig::open(directory.path(), &engine);
    let body = receipts[1].place.offset() + 1_000;
    failing::lose(&pack_path(directory.path(), 1), body..body + 512, Errno::IO.raw_os_error());
    assert!(rig.store.read(&receipts[1].hash).is_err());
    failing::find_again();
    let [damage] = rig.store.damages(10).unwrap().try_into().unwrap();
    assert_eq!(rig.store.scrub_next(ScrubCursor::at(damage.place)).unwrap().damage, None);
    assert_eq!(rig.store.damages(10), Ok(vec![]));
    assert_eq!(rig.store.read(&receipts[1].hash).unwrap(), [1; 70_000]);
}
