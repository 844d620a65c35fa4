//! Starts of the node: whatever single object the packs hand over, the start goes on, and nothing that was refused or
//! given up comes back by it.

use tessera_consensus::Hash;
use tessera_consensus::ids::HashAlgorithm;
use tessera_consensus::wire::encode;
use tessera_federation::wire::v1::{Manifest, ObjectContent};
use tessera_policy::Uid as PolicyUid;
use tessera_storage::engine::{Batch, wait_durable};
use tessera_storage::pixels::ObjectHash;

use super::ingest::{IngestError, Origin, now_ms};
use super::testing::{Bench, HOUR_MS, arrive, copy_id, data_set, engine, manifest, whole};
use super::{catalogue, copies, missed};
use crate::dicom::identifiers::Uid;
use crate::dicom::syntax::{DEFLATED, EXPLICIT_LITTLE};
use crate::dicom::testing::DataSetBuilder;

const STUDY: &str = "1.2.3";
const LARGE_BYTES: usize = 9 << 20;

fn uid(text: &str) -> Uid {
    Uid::parse(text).expect("a UID")
}

/// An object of more than 8 MiB comes over an association.
fn large(bench: &Bench, bytes: &[u8], syntax: &str, instance: &str) -> Result<(), IngestError> {
    let mut writer = bench.archive.pixels().begin_large(&[]).expect("room");
    writer.write(bytes).expect("it is written");
    let announced = Some((uid("1.2.840.10008.5.1.4.1.1.2"), uid(instance)));
    bench.archive.finish_large(Origin::Import, &uid(syntax), announced, writer).map(drop)
}

fn large_data_set(instance: &str) -> Vec<u8> {
    let syntax = crate::dicom::syntax::TransferSyntax::of(&uid(EXPLICIT_LITTLE));
    let mut pixels = DataSetBuilder::new(syntax.encoding());
    pixels.text(0x7FE0, 0x0010, "OB", &vec![7; LARGE_BYTES]);
    [data_set(STUDY, instance, "large"), pixels.into_bytes()].concat()
}

fn objects(bench: &Bench) -> u64 {
    catalogue::totals(bench.view()).expect("totals").objects
}

fn warnings(bench: &Bench) -> Vec<String> {
    missed::warnings(bench.view()).expect("a readable table")
}

#[test]
fn what_was_refused_is_not_filed_by_a_start() {
    let bench = Bench::new();
    let refused = large(&bench, &garbage(), DEFLATED, "1.2.3.1.1");
    assert!(matches!(refused, Err(IngestError::NotUnderstood(_))), "{refused:?}");
    let refused = large(&bench, &large_data_set("1.2.3.1.2"), EXPLICIT_LITTLE, "1.2.3.1.9");
    assert!(matches!(refused, Err(IngestError::Mismatch { .. })), "{refused:?}");
    large(&bench, &large_data_set("1.2.3.1.3"), EXPLICIT_LITTLE, "1.2.3.1.3").expect("it is taken");
    let bench = bench.restart(engine());
    assert_eq!((objects(&bench), warnings(&bench)), (1, vec![]));
    assert!(catalogue::object(bench.view(), "1.2.3.1.3").expect("the catalogue").is_some());
}

fn garbage() -> Vec<u8> {
    (0..LARGE_BYTES as u64).map(|byte| ((byte * byte) >> 3) as u8 | 7).collect()
}

#[test]
fn what_is_refused_leaves_the_disk_unless_it_is_needed() {
    let bench = Bench::new();
    let (garbage, named, own) = (garbage(), large_data_set("1.2.3.1.2"), large_data_set("1.2.3.1.3"));
    large(&bench, &own, EXPLICIT_LITTLE, "1.2.3.1.3").expect("it is taken");
    large(&bench, &garbage, DEFLATED, "1.2.3.1.1").expect_err("no data set");
    for bytes in [&named, &own] {
        large(&bench, bytes, EXPLICIT_LITTLE, "1.2.3.1.9").expect_err("another UID");
    }
    assert!(!bench.has(&garbage) && !bench.has(&named), "sealed in the packs for ever");
    assert!(bench.has(&own), "a stranger's lie takes nothing from the archive");
    let bench = bench.restart(engine());
    assert!(!bench.has(&garbage) && !bench.has(&named) && bench.has(&own));
    assert_eq!((objects(&bench), warnings(&bench)), (1, vec![]));
}

#[test]
fn a_refusal_takes_nothing_from_an_object_that_could_not_be_filed_yet() {
    let bench = Bench::new();
    let bytes = large_data_set("1.2.3.1.2");
    let mut writer = bench.archive.pixels().begin_large(b"what this version can't read").expect("room");
    writer.write(&bytes).expect("it is written");
    writer.finish().expect("it is durable");
    let bench = bench.restart(engine());
    assert_eq!(warnings(&bench).len(), 1);
    large(&bench, &bytes, EXPLICIT_LITTLE, "1.2.3.1.9").expect_err("another UID");
    assert!(bench.has(&bytes), "its sender heard success");
}

/// Its bytes are durable, and the node is killed before it looks at them.
fn arrives_before_a_kill(bench: &Bench, bytes: &[u8], instance: &str) {
    let mut receipt = bench.archive.receipt_here(&uid(EXPLICIT_LITTLE));
    (receipt.sop_class, receipt.sop_instance) = ("1.2.840.10008.5.1.4.1.1.2".into(), instance.into());
    let mut writer = bench.archive.pixels().begin_large(&encode(&receipt)).expect("room");
    writer.write(bytes).expect("it is written");
    writer.finish().expect("it is durable");
}

#[test]
fn what_a_start_refuses_leaves_the_disk_but_never_before_the_own_objects_are_filed() {
    let bench = Bench::new();
    let (garbage, named, own) = (garbage(), large_data_set("1.2.3.1.2"), large_data_set("1.2.3.1.3"));
    arrives_before_a_kill(&bench, &garbage, "1.2.3.1.1");
    arrives_before_a_kill(&bench, &named, "1.2.3.1.9");
    // The same bytes under a wrong name first, and then, answered with success, under their own.
    arrives_before_a_kill(&bench, &own, "1.2.3.1.9");
    arrives_before_a_kill(&bench, &own, "1.2.3.1.3");
    let bench = bench.restart(engine());
    assert!(!bench.has(&garbage) && !bench.has(&named), "sealed in the packs for ever");
    assert!(bench.has(&own), "an answered object is lost");
    assert_eq!((objects(&bench), warnings(&bench)), (1, vec![]));
}

#[test]
fn what_was_given_up_stays_so_when_the_index_is_made_again() {
    let bench = Bench::new();
    let sent = data_set(STUDY, "1.2.3.1.1", "a copy");
    whole(&bench.archive, &copy_id("county-b", 1, 1), std::slice::from_ref(&sent));
    bench.archive.give_up_old_copies(now_ms() + 2 * HOUR_MS).expect("given up");
    let own = data_set(STUDY, "1.2.3.1.2", "own, and discarded");
    bench.device_sends(&own);
    bench.archive.pixels().forget_and_wait(&ObjectHash::of(&own), b"").expect("forgotten");
    assert!(!bench.has(&sent) && !bench.has(&own));
    // The packs have each record first and then its tombstone.
    let bench = bench.restart(engine());
    assert!(!bench.has(&sent) && !bench.has(&own));
    assert_eq!((objects(&bench), warnings(&bench)), (0, vec![]));
}

#[test]
fn an_object_that_is_damaged_in_the_packs_holds_up_nothing_and_is_told() {
    let bench = Bench::new();
    let [rotten, sound] = ["1.2.3.1.1", "1.2.3.1.2"].map(|instance| data_set(STUDY, instance, "own"));
    // The second time only a receipt is written; it speaks of bytes that will not be there.
    bench.device_sends(&rotten);
    bench.device_sends(&rotten);
    bench.device_sends(&sound);
    let pack = bench.folder.path().join("packs/0000000001.pack");
    let mut bytes = std::fs::read(&pack).expect("the pack");
    bytes[200] ^= 1;
    std::fs::write(&pack, bytes).expect("damaged");
    let database = engine();
    let bench = bench.restart(database.clone());
    assert_eq!(objects(&bench), 1, "the others are filed");
    let told = warnings(&bench);
    assert!(told.len() == 1 && told[0].starts_with("1 received objects could not be filed"), "{told:?}");
    // Told until it comes again: then the next start files the receipt too.
    let bench = bench.restart(database.clone());
    assert_eq!(warnings(&bench), told);
    bench.device_sends(&rotten);
    let bench = bench.restart(database);
    assert_eq!((objects(&bench), warnings(&bench)), (2, vec![]));
}

/// A manifest that says something else of these bytes than they do themselves.
fn lie(manifest: &Manifest, bytes: &[u8]) -> Manifest {
    let mut lie = manifest.clone();
    lie.objects[0].sop_instance = PolicyUid::parse("9.9").expect("a UID");
    let hash = Hash::from_parts(HashAlgorithm::Blake3, *blake3::hash(bytes).as_bytes());
    let transfer_syntax = PolicyUid::parse(EXPLICIT_LITTLE).expect("a UID");
    lie.objects[0].content = ObjectContent::Verified { transfer_syntax, bytes: bytes.len() as u64, hash };
    lie
}

#[test]
fn bytes_that_a_holder_lied_about_hold_up_no_start_and_go_with_the_copy() {
    let sent = data_set(STUDY, "1.2.3.1.1", "sent");
    let garbage = vec![0xA5; 5_000];
    let id = copy_id("county-b", 1, 1);
    let honest = manifest(&id, std::slice::from_ref(&sent));
    for bytes in [&sent, &garbage] {
        let bench = Bench::new();
        let listed = lie(&honest, bytes);
        let database = engine();
        let mut batch = Batch::new();
        copies::begin(&mut batch, &id, &listed, now_ms(), now_ms() + HOUR_MS);
        let ticket = database.submit(batch).expect("submitted");
        wait_durable(&*database, ticket).expect("durable");
        // Killed when the bytes were durable, and nothing was filed.
        let receipt = bench.archive.copy_receipt(&id, &listed.objects[0], None).expect("a receipt");
        bench.archive.pixels().store_and_wait(bytes, &encode(&receipt)).expect("stored");
        let bench = bench.restart(database);
        assert_eq!(warnings(&bench), Vec::<String>::new());
        assert_eq!(copies::objects(bench.view(), &id, None).expect("objects"), []);
        bench.archive.give_up_old_copies(now_ms() + 2 * HOUR_MS).expect("given up");
        assert!(!bench.has(bytes), "sealed in the packs for ever");
    }
}

#[test]
fn bytes_that_a_fetch_brought_and_that_are_refused_are_not_kept() {
    let own = data_set(STUDY, "1.2.3.1.1", "own");
    let id = copy_id("county-b", 1, 1);
    let honest = manifest(&id, std::slice::from_ref(&own));
    for (bytes, is_own) in [(own.clone(), true), (own.clone(), false), (vec![0xA5; 5_000], false)] {
        let bench = Bench::new();
        if is_own {
            bench.device_sends(&bytes);
        }
        let listed = lie(&honest, &bytes);
        arrive(&bench.archive, &id, &listed, &[]).expect("begun");
        let receipt = bench.archive.pixels().store_and_wait(&bytes, b"").expect("stored");
        bench.archive.copy_stored(&id, STUDY, &listed.objects[0], None, Some(receipt.id)).expect_err("refused");
        assert_eq!(bench.has(&bytes), is_own, "what is the hospital's own stays");
    }
}
