//! Transfers that stop and go on.

use super::*;

struct Sent {
    object: Vec<u8>,
    hash: ObjectHash,
    groups: Vec<[u8; 32]>,
}

impl Sent {
    fn new(bytes: usize) -> Self {
        let object = sample(bytes as u64, bytes);
        let length = bytes as u64;
        let groups = (0..group_count(length))
            .map(|index| group_hash(index, Self::slice(&object, index), length).unwrap())
            .collect();
        Self { hash: ObjectHash::of(&object), object, groups }
    }

    fn slice(object: &[u8], index: u64) -> &[u8] {
        let from = index as usize * MIB;
        &object[from..object.len().min(from + MIB)]
    }

    fn group(&self, index: u64) -> &[u8] {
        Self::slice(&self.object, index)
    }

    fn open(&self, store: &Arc<PixelStore>) -> Result<Partial, StoreError> {
        store.partial(&self.hash, self.object.len() as u64, &self.groups)
    }
}

#[test]
fn a_transfer_goes_on_after_a_kill_and_ends_as_a_stored_object() {
    for bytes in [0, 1000, MIB + 1, 8 * MIB, 40 * MIB + 5] {
        let sent = Sent::new(bytes);
        let total = sent.groups.len() as u64;
        let directory = TempDir::new().unwrap();
        let rig = Rig::open(directory.path(), &new_engine());
        let partial = sent.open(&rig.store).unwrap();
        let half = total / 2;
        // From the end, as several sources might.
        (half..total).rev().for_each(|index| partial.write_group(index, sent.group(index)).unwrap());
        partial.sync().unwrap();
        if half > 0 {
            partial.write_group(0, sent.group(0)).unwrap();
        }
        let killed = copy_of(directory.path());
        let rig = Rig::rebuild(killed.path());
        let info = PartialInfo {
            hash: sent.hash,
            object_bytes: bytes as u64,
            groups_arrived: total - half,
            groups_total: total,
        };
        assert_eq!(rig.store.partials().unwrap(), [info]);
        let partial = sent.open(&rig.store).unwrap();
        assert_eq!(partial.missing(), (0..half).collect::<Vec<_>>(), "{bytes}: what was not synced is fetched again");
        (0..half).for_each(|index| partial.write_group(index, sent.group(index)).unwrap());
        assert!(partial.is_complete());
        let receipt = partial.finish(b"envelope").unwrap();
        assert_eq!((receipt.hash, receipt.object_bytes, receipt.is_new), (sent.hash, bytes as u64, true));
        assert_eq!(rig.store.read(&sent.hash).unwrap(), sent.object);
        assert_eq!(rig.store.partials().unwrap(), []);
        drop(rig);
        let rebuilt = Rig::rebuild(killed.path());
        assert_eq!(
            (rebuilt.envelopes().as_slice(), rebuilt.report.damages.len()),
            ([b"envelope".as_slice()].as_slice(), 0)
        );
        assert_eq!(rebuilt.store.read(&sent.hash).unwrap(), sent.object);
    }
}

#[test]
fn what_a_peer_invents_is_refused() {
    let directory = TempDir::new().unwrap();
    let rig = Rig::open(directory.path(), &new_engine());
    let sent = Sent::new(3 * MIB);
    let mut wrong = sent.groups.clone();
    wrong[1][0] ^= 1;
    for (bytes, groups) in [(3 * MIB, &wrong[..]), (3 * MIB, &sent.groups[..2]), (3 * MIB + 1, &sent.groups[..])] {
        let refused = rig.store.partial(&sent.hash, bytes as u64, groups);
        assert_eq!(refused.err(), Some(StoreError::GroupsMismatch { hash: sent.hash }));
    }
    let partial = sent.open(&rig.store).unwrap();
    let mut flipped = sent.group(1).to_vec();
    flipped[12] ^= 1;
    for (index, bytes) in [(1, flipped.as_slice()), (0, sent.group(1)), (1, &[]), (3, sent.group(1)), (u64::MAX, &[])] {
        let refused = partial.write_group(index, bytes);
        assert_eq!(refused, Err(StoreError::GroupMismatch { hash: sent.hash, index }));
    }
    assert_eq!(partial.missing(), [0, 1, 2]);
    assert_eq!(partial.finish(b""), Err(StoreError::Incomplete { hash: sent.hash, missing: 3 }));
}

#[test]
fn one_handle_at_a_time_and_a_limit_on_all() {
    let directory = TempDir::new().unwrap();
    let limited = StoreOptions { partial_bytes_max: 5 * MIB as u64, ..options() };
    let rig = Rig::try_open(directory.path(), &new_engine(), limited).unwrap();
    let (first, second) = (Sent::new(3 * MIB), Sent::new(2 * MIB + 1));
    let partial = first.open(&rig.store).unwrap();
    assert_eq!(first.open(&rig.store).err(), Some(StoreError::PartialInUse { hash: first.hash }));
    assert_eq!(rig.store.abandon_partial(&first.hash), Err(StoreError::PartialInUse { hash: first.hash }));
    assert!(matches!(second.open(&rig.store).err(), Some(StoreError::PartialsFull { .. })));
    drop(partial);
    rig.store.abandon_partial(&first.hash).unwrap();
    second.open(&rig.store).unwrap();
}

#[test]
fn progress_cut_at_every_byte_forgets_groups_and_invents_none() {
    let directory = TempDir::new().unwrap();
    let rig = Rig::open(directory.path(), &new_engine());
    let sent = Sent::new(4 * MIB);
    let partial = sent.open(&rig.store).unwrap();
    (0..4).for_each(|index| partial.write_group(index, sent.group(index)).unwrap());
    partial.sync().unwrap();
    let progress = files_below(directory.path()).into_iter().find(|file| file.ends_with("progress")).unwrap();
    let whole = fs::read(&progress).unwrap();
    drop(partial);
    for length in 0..=whole.len() {
        fs::write(&progress, &whole[..length]).unwrap();
        let arrived = length as u64 / 8;
        assert_eq!(sent.open(&rig.store).unwrap().missing(), (arrived..4).collect::<Vec<_>>());
        if length > 0 {
            let mut flipped = whole[..length].to_vec();
            flipped[length - 1] ^= 1;
            fs::write(&progress, flipped).unwrap();
            assert_eq!(sent.open(&rig.store).unwrap().missing(), ((length as u64 - 1) / 8..4).collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_group_that_rots_while_waiting_is_fetched_again() {
    let directory = TempDir::new().unwrap();
    let rig = Rig::open(directory.path(), &new_engine());
    let sent = Sent::new(10 * MIB);
    let partial = sent.open(&rig.store).unwrap();
    (0..10).for_each(|index| partial.write_group(index, sent.group(index)).unwrap());
    drop(partial);
    let body = files_below(directory.path()).into_iter().find(|file| file.ends_with("body")).unwrap();
    let mut bytes = fs::read(&body).unwrap();
    bytes[5 * MIB] ^= 1;
    fs::write(&body, bytes).unwrap();
    let partial = sent.open(&rig.store).unwrap();
    let rotten = StoreError::GroupMismatch { hash: sent.hash, index: 4 };
    assert_eq!(partial.finish(b""), Err(rotten));
    let partial = sent.open(&rig.store).unwrap();
    assert_eq!(partial.missing(), [4]);
    partial.write_group(4, sent.group(4)).unwrap();
    assert!(partial.finish(b"").unwrap().is_new);
    assert_eq!(rig.store.read(&sent.hash).unwrap(), sent.object);
}

#[test]
fn what_arrived_by_another_way_meanwhile_becomes_a_receipt() {
    let directory = TempDir::new().unwrap();
    let rig = Rig::open(directory.path(), &new_engine());
    let sent = Sent::new(MIB);
    let partial = sent.open(&rig.store).unwrap();
    partial.write_group(0, sent.group(0)).unwrap();
    rig.put(&sent.object, b"from the modality");
    assert!(!partial.finish(b"from the other site").unwrap().is_new);
}

#[test]
fn an_end_that_failed_seals_no_second_envelope_under_the_same_key() {
    for killed in [false, true] {
        let directory = TempDir::new().unwrap();
        let rig = Rig::open(directory.path(), &new_engine());
        let sent = Sent::new(9 * MIB);
        let partial = sent.open(&rig.store).unwrap();
        (0..9).for_each(|index| partial.write_group(index, sent.group(index)).unwrap());
        // The body can't take the place of a directory, which is noticed when the first envelope is sealed already.
        fs::create_dir(pack_path(directory.path(), 2)).unwrap();
        assert!(matches!(partial.finish(b"envelope of the first"), Err(StoreError::Io { .. })));
        fs::remove_dir(pack_path(directory.path(), 2)).unwrap();
        let salt_of_plan = fs::read(directory.path().join("partial").join(sent.hash.hex()).join("plan")).unwrap();
        let salt_of_plan = salt_of_plan[49..81].to_vec();
        let copy = copy_of(directory.path());
        let (rig, directory) = if killed { (Rig::rebuild(copy.path()), &copy) } else { (rig, &directory) };
        let receipt = sent.open(&rig.store).unwrap().finish(b"ENVELOPE OF ANOTHER").unwrap();
        assert_eq!(rig.store.envelope(&sent.hash).unwrap(), b"ENVELOPE OF ANOTHER");
        assert_eq!(rig.store.read(&sent.hash).unwrap(), sent.object);
        assert_eq!(rig.store.partials().unwrap(), []);
        let pack = fs::read(pack_path(directory.path(), receipt.place.pack())).unwrap();
        let at = receipt.place.offset() as usize;
        assert_ne!(pack[at + 32..at + 64], salt_of_plan, "the key of the first envelope");
    }
}

#[test]
fn a_partial_object_whose_body_became_a_pack_begins_anew() {
    let directory = TempDir::new().unwrap();
    let rig = Rig::open(directory.path(), &new_engine());
    let sent = Sent::new(2 * MIB);
    let partial = sent.open(&rig.store).unwrap();
    (0..2).for_each(|index| partial.write_group(index, sent.group(index)).unwrap());
    drop(partial);
    fs::remove_file(directory.path().join("partial").join(sent.hash.hex()).join("body")).unwrap();
    assert_eq!(sent.open(&rig.store).unwrap().missing(), [0, 1]);
}

#[test]
fn a_failed_sync_of_a_partial_object_ends_the_store() {
    let directory = TempDir::new().unwrap();
    let rig = Rig::open(directory.path(), &new_engine());
    let sent = Sent::new(2 * MIB);
    drop(sent.open(&rig.store).unwrap());
    // It takes writes and can't be synced.
    let progress = directory.path().join("partial").join(sent.hash.hex()).join("progress");
    fs::remove_file(&progress).unwrap();
    std::os::unix::fs::symlink("/dev/null", &progress).unwrap();
    let partial = sent.open(&rig.store).unwrap();
    partial.write_group(0, sent.group(0)).unwrap();
    assert!(matches!(partial.sync(), Err(StoreError::SyncFailed { .. })));
    assert!(
        matches!(rig.store.store_and_wait(b"object", b""), Err(StoreError::Dead { .. })),
        "nothing is believed now"
    );
}
