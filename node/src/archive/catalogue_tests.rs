//! What an arriving object is, when a study is quiet, and what unlisted senders may leave here.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use tessera_storage::engine::{Batch, EngineError, Pairs, Table, View};

use super::catalogue::{self, Description, ObjectRecord, Quarantine, STUDY_OBJECTS_MAX, Standing, StudyRecord};
use super::ingest::now_ms;
use super::quarantine;
use super::releasing::Action;
use super::sink::ArchiveSink;
use super::testing::{Bench, config, data_set, engine, open_with};
use super::{Archive, aside};
use crate::dicom::identifiers::{AeTitle, Uid};
use crate::dicom::sink::{Incoming, Sender, StoreOutcome, StoreSink};
use crate::dicom::syntax::EXPLICIT_LITTLE;

const SECOND_MS: u64 = 1_000;
const DAY_MS: u64 = 86_400 * SECOND_MS;

fn record(archive: &Archive, study: &str, instance: &str, received_ms: u64) -> ObjectRecord {
    let mut receipt = archive.receipt_here(&Uid::parse(EXPLICIT_LITTLE).expect("a UID"));
    receipt.received_ms = received_ms;
    let text = str::to_owned;
    let description = Description {
        study: text(study),
        series: format!("{study}.1"),
        sop_instance: text(instance),
        ..Description::default()
    };
    ObjectRecord {
        description,
        receipt,
        hash: *blake3::hash(instance.as_bytes()).as_bytes(),
        size: 100,
        is_damaged: false,
    }
}

fn file(archive: &Archive, record: &ObjectRecord) -> Standing {
    archive.file_with(record, Batch::new()).expect("filed")
}

fn quiet(archive: &Archive, now_ms: u64, after: &str) -> Vec<String> {
    let quiet = archive.quiet_studies(now_ms, SECOND_MS, after).expect("the catalogue");
    quiet.into_iter().map(|study| study.description.study).collect()
}

#[test]
fn a_study_that_came_while_the_clock_was_ahead_becomes_quiet() {
    let bench = Bench::new();
    let now = now_ms();
    file(&bench.archive, &record(&bench.archive, "1.2", "1.2.1", now + 300 * DAY_MS));
    assert!(quiet(&bench.archive, now, "").is_empty(), "the quiet period begins when the clock was set right");
    assert!(quiet(&bench.archive, now + SECOND_MS - 1, "").is_empty());
    assert_eq!(quiet(&bench.archive, now + SECOND_MS, ""), ["1.2"]);
}

#[test]
fn quiet_studies_begin_behind_the_one_that_was_tried_last() {
    let bench = Bench::new();
    for study in ["1.1", "1.10", "1.2", "1.3"] {
        file(&bench.archive, &record(&bench.archive, study, &format!("{study}.1"), 1));
    }
    for (after, expected) in [
        ("", ["1.1", "1.10", "1.2", "1.3"]),
        ("1.1", ["1.10", "1.2", "1.3", "1.1"]),
        ("1.2", ["1.3", "1.1", "1.10", "1.2"]),
        ("1.3", ["1.1", "1.10", "1.2", "1.3"]),
    ] {
        assert_eq!(quiet(&bench.archive, now_ms(), after), expected, "after {after:?}");
    }
}

#[test]
fn a_study_takes_no_more_objects_than_a_manifest_lists() {
    let bench = Bench::new();
    let first = record(&bench.archive, "1.2", "1.2.1", 1);
    file(&bench.archive, &first);
    let study = catalogue::study(bench.view(), "1.2").expect("the catalogue").expect("the study");
    for (objects, expected) in [(1, Standing::New), (0, Standing::Quarantined(Quarantine::StudyFull))] {
        let mut batch = Batch::new();
        catalogue::put_study(&mut batch, &StudyRecord { objects: STUDY_OBJECTS_MAX as u32 - objects, ..study.clone() });
        bench.archive.submit(batch).expect("submitted");
        assert_eq!(file(&bench.archive, &first), Standing::Known);
        assert_eq!(file(&bench.archive, &record(&bench.archive, "1.2", &format!("1.2.9{objects}"), 1)), expected);
    }
    let (aside, count) = quarantine::selected(bench.view(), &quarantine::Selection::All, 10).expect("the catalogue");
    assert_eq!(count, 1);
    assert!(aside[0].why.sentence().contains(&STUDY_OBJECTS_MAX.to_string()));
}

#[test]
fn what_is_handed_over_again_is_counted_once() {
    let bench = Bench::new();
    let mut aside = record(&bench.archive, "1.2", "1.2.1", 1);
    aside.receipt.known_sender = false;
    for _ in 0..2 {
        assert_eq!(file(&bench.archive, &aside), Standing::Quarantined(Quarantine::UnknownSender));
    }
    assert_eq!(catalogue::totals(bench.view()).expect("totals").quarantined, 1);
    assert_eq!(catalogue::unlisted_bytes(bench.view()).expect("a count"), catalogue::aside_bytes(aside.size));
}

/// Counts the rows that are read.
struct Counting<'a> {
    view: &'a dyn View,
    rows: AtomicUsize,
}

impl Counting<'_> {
    fn counted(&self, pairs: Result<Pairs, EngineError>) -> Result<Pairs, EngineError> {
        self.rows.fetch_add(pairs.as_ref().map_or(0, Vec::len), Ordering::SeqCst);
        pairs
    }
}

impl View for Counting<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.view.get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], to: Option<&[u8]>, limit: usize) -> Result<Pairs, EngineError> {
        self.counted(self.view.scan(table, from, to, limit))
    }

    fn scan_back(&self, table: Table, from: &[u8], to: Option<&[u8]>, limit: usize) -> Result<Pairs, EngineError> {
        self.counted(self.view.scan_back(table, from, to, limit))
    }
}

/// Which of the bytes of these instances are quarantined, and how many rows were read for it.
fn put_aside(bench: &Bench, instances: &[&str]) -> (usize, usize) {
    let counting = Counting { view: bench.view(), rows: AtomicUsize::new(0) };
    let hashes = instances.iter().map(|instance| *blake3::hash(instance.as_bytes()).as_bytes()).collect();
    let aside = catalogue::put_aside(&counting, &hashes).expect("the catalogue");
    (aside.len(), counting.rows.into_inner())
}

#[test]
fn quarantined_bytes_are_found_without_reading_the_others() {
    let database = engine();
    let bench = Bench::new().restart(database.clone());
    let unlisted = |instance: &str, received_ms| {
        let mut aside = record(&bench.archive, "1.2", instance, received_ms);
        aside.receipt.known_sender = false;
        file(&bench.archive, &aside);
    };
    (0..100).for_each(|number| unlisted(&format!("1.2.1.{number}"), number));
    unlisted("1.2.1.7", 200);
    assert_eq!(put_aside(&bench, &["1.2.1.7", "1.2.9"]), (1, 1));
    // A database of a version that had no such keys.
    let by_bytes = bench.view().scan_prefix(catalogue::CATALOGUE, b"h", 1000).expect("a scan");
    assert_eq!(by_bytes.len(), 102, "one for each, and the note that they are complete");
    let mut batch = Batch::new();
    for (key, _) in &by_bytes {
        batch.delete(catalogue::CATALOGUE, key.clone());
    }
    bench.archive.submit(batch).expect("submitted");
    let bench = bench.restart(database);
    assert_eq!(bench.view().scan_prefix(catalogue::CATALOGUE, b"h", 1000).expect("a scan"), by_bytes);
    // Each decision takes one of the two.
    let (items, _) = quarantine::selected(bench.view(), &quarantine::Selection::All, 1000).expect("the catalogue");
    let ground = quarantine::Ground::new("operator-1", "a test").expect("a ground");
    for (item, left) in items.iter().filter(|item| item.record.description.sop_instance == "1.2.1.7").zip([1, 0]) {
        let discarded = |_: &_, became: Result<_, _>| assert!(became.is_ok());
        bench.archive.decide(std::slice::from_ref(item), Action::Discard, &ground, discarded).expect("a disk");
        assert_eq!(put_aside(&bench, &["1.2.1.7"]), (left, left));
    }
    assert_eq!(put_aside(&bench, &["1.2.1.8"]), (1, 1));
}

fn incoming(calling_ae: &str, instance: &str) -> Incoming {
    let uid = |text: &str| Uid::parse(text).expect("a UID");
    let sender = Sender {
        calling_ae: AeTitle::parse(calling_ae).expect("a title"),
        called_ae: AeTitle::parse("TESSERA_A").expect("a title"),
        address: IpAddr::from([127, 0, 0, 1]),
    };
    let (sop_class, sop_instance) = (uid("1.2.840.10008.5.1.4.1.1.2"), uid(instance));
    Incoming { sender, sop_class, sop_instance, transfer_syntax: uid(EXPLICIT_LITTLE) }
}

#[test]
fn unlisted_senders_fill_their_room_and_no_more() {
    let mut config = config();
    let listed = "ae_title = 'CT1'\naddress = '127.0.0.1'\n";
    config.dicom.sender = vec![toml::from_str(listed).expect("a sender")];
    config.dicom.unlisted_senders_bytes_max = 3 * catalogue::aside_bytes(1_000);
    let folder = tempfile::tempdir().expect("a folder");
    let archive = open_with(engine(), folder.path(), config.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let sink = ArchiveSink(archive.clone());
    let store = |sender: &str, number: u32| {
        let instance = format!("1.2.3.1.{number}");
        let bytes = data_set("1.2.3", &instance, &"x".repeat(600)).into();
        runtime.block_on(sink.store(incoming(sender, &instance), bytes))
    };
    let answers: Vec<StoreOutcome> = (0..5).map(|number| store("ANYBODY", number)).collect();
    let taken = answers.iter().take_while(|answer| **answer == StoreOutcome::Quarantined).count();
    assert!((2..=4).contains(&taken), "{answers:?}");
    assert!(answers[taken..].iter().all(|answer| matches!(answer, StoreOutcome::NotAuthorised { .. })), "{answers:?}");
    assert_eq!(store("CT1", 9), StoreOutcome::Stored, "the hospital's own devices go on");
    let mut elsewhere = incoming("CT1", "1.2.3.1.10");
    elsewhere.sender.address = "127.0.0.2".parse().expect("an address");
    let bytes = data_set("1.2.3", "1.2.3.1.10", &"x".repeat(600)).into();
    let answer = runtime.block_on(sink.store(elsewhere, bytes));
    assert!(matches!(answer, StoreOutcome::NotAuthorised { .. }), "a listed name alone is nobody's: {answer:?}");
    // A large one is stopped before it is whole, and its room is free again.
    let kept = catalogue::unlisted_bytes(&**archive.engine()).expect("a count");
    let mut large = sink.begin_large(incoming("ANYBODY", "1.2.3.1.7")).expect("begun");
    let refused = runtime.block_on(large.write(vec![0; 100_000].into()));
    assert!(matches!(refused, Err(StoreOutcome::NotAuthorised { .. })));
    drop(large);
    assert_eq!(archive.coming_aside.load(std::sync::atomic::Ordering::SeqCst), 0);
    config.dicom.unlisted_senders_bytes_max = kept;
    let warned = aside::warnings(&**archive.engine(), &config.dicom).expect("a count");
    assert!(warned.len() == 1 && warned[0].contains(&kept.to_string()), "{warned:?}");
    config.dicom.unlisted_senders_bytes_max = 2 * kept;
    assert!(aside::warnings(&**archive.engine(), &config.dicom).expect("a count").is_empty());
}
