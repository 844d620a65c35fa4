//! Objects of unknown size.

use super::*;

fn incoming(directory: &Path) -> usize {
    files_below(&directory.join("incoming")).len()
}

#[test]
fn objects_written_in_pieces_come_back_and_survive_a_rebuild() {
    let directory = TempDir::new().unwrap();
    let rig = Rig::open(directory.path(), &new_engine());
    let mut hashes = Vec::new();
    for (bytes, own_pack) in
        [(10, false), (8 * MIB, false), (8 * MIB + 1, true), (16 * MIB, true), (20 * MIB + 3, true)]
    {
        let object = sample(bytes as u64, bytes);
        let mut writer = rig.store.begin_large(b"first idea").unwrap();
        object.chunks(100_003).for_each(|piece| writer.write(piece).unwrap());
        assert_eq!(writer.object_bytes(), bytes as u64);
        writer.set_envelope(b"what is known at the end").unwrap();
        let receipt = writer.finish().unwrap();
        assert_eq!((receipt.hash, receipt.is_new), (ObjectHash::of(&object), true));
        assert_eq!(receipt.place.pack() != 1, own_pack, "{bytes}");
        assert_eq!(rig.store.read(&receipt.hash).unwrap(), object);
        hashes.push(receipt.hash);
    }
    assert_eq!(incoming(directory.path()), 0);
    drop(rig);
    let rebuilt = Rig::rebuild(directory.path());
    assert_eq!(rebuilt.report.damages, []);
    assert_eq!(rebuilt.recovered.len(), 5);
    for hash in hashes {
        let mut object = Vec::new();
        rebuilt.store.reader(&hash).unwrap().read_to_end(&mut object).unwrap();
        assert_eq!(ObjectHash::of(&object), hash);
        let groups = rebuilt.store.chunk_group_hashes(&hash).unwrap();
        assert!(verify_groups(&hash, object.len() as u64, &groups));
        assert_eq!(rebuilt.store.envelope(&hash).unwrap(), b"what is known at the end");
    }
}

#[test]
fn a_large_object_again_is_a_receipt_only() {
    let directory = TempDir::new().unwrap();
    let rig = Rig::open(directory.path(), &new_engine());
    let object = sample(1, 10 * MIB);
    for (envelope, is_new) in [(b"first", true), (b"again", false)] {
        let mut writer = rig.store.begin_large(envelope).unwrap();
        writer.write(&object).unwrap();
        assert_eq!(writer.finish().unwrap().is_new, is_new);
    }
    assert_eq!(incoming(directory.path()), 0);
    drop(rig);
    assert_eq!(Rig::rebuild(directory.path()).envelopes().len(), 2);
}

#[test]
fn unfinished_objects_leave_nothing_behind() {
    let directory = TempDir::new().unwrap();
    let rig = Rig::open(directory.path(), &new_engine());
    let mut dropped = rig.store.begin_large(b"").unwrap();
    dropped.write(&sample(1, 9 * MIB)).unwrap();
    assert_eq!(incoming(directory.path()), 1);
    let killed = copy_of(directory.path());
    drop(dropped);
    assert_eq!(incoming(directory.path()), 0);
    let reopened = Rig::rebuild(killed.path());
    assert_eq!((incoming(killed.path()), reopened.recovered.len()), (0, 0));
}

#[test]
fn a_failed_sync_of_a_large_object_ends_the_store() {
    let directory = TempDir::new().unwrap();
    let rig = Rig::open(directory.path(), &new_engine());
    let header = rig.store.header(RecordKind::Object, ObjectHash::of(b"object"), b"").unwrap();
    // It takes writes and can't be synced.
    let file = fs::OpenOptions::new().write(true).open("/dev/null").unwrap();
    assert!(matches!(rig.store.adopt(Path::new("/dev/null"), &file, header), Err(StoreError::SyncFailed { .. })));
    assert!(
        matches!(rig.store.store_and_wait(b"object", b""), Err(StoreError::Dead { .. })),
        "nothing is believed now"
    );
}
