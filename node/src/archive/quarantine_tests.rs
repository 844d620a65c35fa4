//! What becomes of what was put aside: each decision is one write, kept for good, and a crash leaves the state before
//! it or after it; what the packs hand over again after a crash brings nothing back.

use std::sync::Arc;

use tessera_storage::MemoryEngine;

use super::catalogue::{self, Phase, Quarantine};
use super::ingest::{Origin, now_ms};
use super::quarantine::{self, Became, Decision, Ground, Item, ItemId, Selection, Why};
use super::releasing::{Action, Undecided};
use super::testing::{data_set, open};
use super::{Archive, TABLES};
use crate::dicom::identifiers::Uid;
use crate::dicom::syntax::EXPLICIT_LITTLE;

const STUDY: &str = "1.2.3";
const INSTANCE: &str = "1.2.3.1.1";

struct Bench {
    archive: Arc<Archive>,
    runtime: tokio::runtime::Runtime,
    folder: tempfile::TempDir,
}

fn stranger() -> Origin {
    let address = "10.0.0.9".parse().expect("an address");
    Origin::Association { calling_ae: "CT9".into(), called_ae: "TESSERA".into(), address }
}

fn ground() -> Ground {
    Ground::new("operator-1", "the device is known").expect("a ground")
}

impl Bench {
    fn new(engine: MemoryEngine) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { archive: open(Arc::new(engine), folder.path()), runtime, folder }
    }

    fn flushing() -> Self {
        Self::new(MemoryEngine::open(&TABLES).expect("an engine").auto_flush(true))
    }

    fn arrives(&self, origin: Origin, data_set: &[u8]) {
        let syntax = Uid::parse(EXPLICIT_LITTLE).expect("a UID");
        let taken = self.archive.take(origin, syntax, None, data_set.to_vec().into());
        self.runtime.block_on(taken).expect("it is kept");
    }

    fn aside(&self) -> Vec<Item> {
        quarantine::selected(&**self.archive.engine(), &Selection::All, 100).expect("a list").0
    }

    fn only_item(&self) -> Item {
        let mut items = self.aside();
        assert_eq!(items.len(), 1);
        items.remove(0)
    }

    fn decides(&self, item: &Item, action: Action) -> Result<Became, Undecided> {
        let mut became = None;
        let items = std::slice::from_ref(item);
        self.archive.decide(items, action, &ground(), |_, result| became = Some(result)).expect("a disk");
        became.expect("the item was decided about")
    }

    fn decisions(&self) -> Vec<(ItemId, Decision)> {
        quarantine::decisions(&**self.archive.engine(), 100).expect("decisions").0
    }

    fn totals(&self) -> (u64, u64, u64, u64) {
        let totals = catalogue::totals(&**self.archive.engine()).expect("totals");
        (totals.studies, totals.objects, totals.variants, totals.quarantined)
    }

    fn current(&self) -> Option<[u8; 32]> {
        catalogue::object(&**self.archive.engine(), INSTANCE).expect("the catalogue").map(|object| object.hash)
    }

    /// The node is killed and started with `engine` as its database.
    fn restart(self, engine: MemoryEngine) -> Self {
        let Self { archive, runtime, folder } = self;
        drop(archive);
        Self { archive: open(Arc::new(engine.auto_flush(true)), folder.path()), runtime, folder }
    }
}

fn hash(data_set: &[u8]) -> [u8; 32] {
    *blake3::hash(data_set).as_bytes()
}

#[test]
fn an_unknown_senders_object_is_released_into_its_study_and_the_decision_is_kept() {
    let bench = Bench::flushing();
    let object = data_set(STUDY, INSTANCE, "one");
    bench.arrives(stranger(), &object);
    let item = bench.only_item();
    assert_eq!(item.why, Why::Quarantined(Quarantine::UnknownSender));
    assert_eq!((bench.totals(), bench.current()), ((0, 0, 0, 1), None));
    assert_eq!(bench.decides(&item, Action::Release).expect("released"), Became::Filed);
    assert_eq!((bench.totals(), bench.current()), ((1, 1, 0, 0), Some(hash(&object))));
    let study = catalogue::study(&**bench.archive.engine(), STUDY).expect("the catalogue").expect("a study");
    assert_eq!(study.phase, Phase::Receiving { revision: 0 });
    assert!(matches!(bench.decides(&item, Action::Discard), Err(Undecided::Gone)), "a decision is made once");
    let [(id, decision)]: [(ItemId, Decision); 1] = bench.decisions().try_into().expect("one decision");
    assert_eq!((id, decision.ground, decision.became), (item.id(), ground(), Became::Filed));
    assert_eq!(decision.record, item.record);
}

#[test]
fn resends_of_an_unknown_sender_are_released_together() {
    let bench = Bench::flushing();
    let object = data_set(STUDY, INSTANCE, "one");
    bench.arrives(stranger(), &object);
    bench.arrives(Origin::Import, &object);
    let item = bench.only_item();
    assert_eq!(bench.decides(&item, Action::Release).expect("released"), Became::KnownAlready);
    bench.arrives(stranger(), &data_set(STUDY, INSTANCE, "other content"));
    assert_eq!(bench.decides(&bench.only_item(), Action::Release).expect("released"), Became::Variant);
    assert_eq!(bench.only_item().why, Why::Variant);
    assert_eq!(bench.totals(), (1, 1, 1, 0));
}

#[test]
fn a_variant_takes_the_place_of_the_object_and_can_be_taken_back() {
    let bench = Bench::flushing();
    let (first, second) = (data_set(STUDY, INSTANCE, "first"), data_set(STUDY, INSTANCE, "the second one"));
    bench.arrives(Origin::Import, &first);
    bench.arrives(Origin::Import, &second);
    let variant = bench.only_item();
    assert_eq!((variant.why, bench.current()), (Why::Variant, Some(hash(&first))));
    // As the registrar does once the study is quiet.
    let mut study = catalogue::study(&**bench.archive.engine(), STUDY).expect("the catalogue").expect("a study");
    let mut batch = tessera_storage::engine::Batch::new();
    assert_eq!(catalogue::close(&mut study, &mut batch), 1);
    bench.archive.submit(batch).expect("submitted");

    assert_eq!(bench.decides(&variant, Action::Release).expect("released"), Became::InPlaceOf(hash(&first)));
    assert_eq!((bench.totals(), bench.current()), ((1, 1, 0, 0), Some(hash(&second))));
    let study = catalogue::study(&**bench.archive.engine(), STUDY).expect("the catalogue").expect("a study");
    assert_eq!((study.phase, study.objects), (Phase::Receiving { revision: 1 }, 1), "a new revision will say so");
    assert_eq!(study.bytes, second.len() as u64);
    // Nothing was deleted: the one that was superseded is still here, and comes back by the same way.
    assert!(catalogue::is_own(&**bench.archive.engine(), INSTANCE, &hash(&first)).expect("the catalogue"));
    bench.arrives(Origin::Import, &first);
    assert_eq!(bench.decides(&bench.only_item(), Action::Release).expect("released"), Became::InPlaceOf(hash(&second)));
    assert_eq!((bench.current(), bench.decisions().len()), (Some(hash(&first)), 2));
    assert_eq!(bench.totals(), (1, 1, 0, 0));
}

#[test]
fn what_is_unsound_stays_and_can_be_discarded() {
    let bench = Bench::flushing();
    bench.arrives(Origin::Import, &data_set(STUDY, INSTANCE, "one"));
    bench.arrives(Origin::Import, &data_set("1.2.4", INSTANCE, "of another study"));
    let item = bench.only_item();
    let refused = bench.decides(&item, Action::Release).expect_err("it collides");
    assert!(matches!(refused, Undecided::Unsound(Quarantine::ObjectOfAnotherStudy)), "{refused}");
    assert_eq!((bench.aside().len(), bench.decisions().len()), (1, 0));
    assert_eq!(bench.decides(&item, Action::Discard).expect("discarded"), Became::Discarded);
    assert_eq!((bench.totals(), bench.aside().len()), ((1, 1, 0, 0), 0));
    // The same bytes once more, later, are another item.
    while now_ms() <= item.record.receipt.received_ms {
        std::hint::spin_loop();
    }
    bench.arrives(Origin::Import, &data_set("1.2.4", INSTANCE, "of another study"));
    assert_ne!(bench.only_item().id(), item.id());
}

#[test]
fn a_crash_leaves_the_state_before_a_decision_or_after_it() {
    for action in [Action::Release, Action::Discard] {
        for variant in [false, true] {
            crash_around(action, variant);
        }
    }
}

/// One decision about one item; the database is cut before or after its write. In both cases the packs hand over again
/// everything that came, since nothing of what was settled was synced.
fn crash_around(action: Action, variant: bool) {
    for writes in [0, 1] {
        let disk = MemoryEngine::open(&TABLES).expect("an engine");
        let bench = Bench::new(disk.clone());
        if variant {
            bench.arrives(Origin::Import, &data_set(STUDY, INSTANCE, "first"));
            bench.arrives(Origin::Import, &data_set(STUDY, INSTANCE, "second"));
        } else {
            bench.arrives(stranger(), &data_set(STUDY, INSTANCE, "second"));
        }
        let (item, before, first) = (bench.only_item(), disk.unsynced(), bench.current());
        bench.archive.decide_one(&item, action, &ground()).expect("decided");
        assert_eq!(disk.unsynced(), before + 1, "a decision is one write");
        let wanted = (bench.totals(), bench.current());
        let bench = bench.restart(disk.crash(before + writes));
        if writes == 0 {
            assert_eq!((bench.only_item().id(), bench.decisions().len()), (item.id(), 0), "{action:?}: before");
            assert_eq!((bench.current(), bench.totals().2 + bench.totals().3), (first, 1), "{action:?}: before");
        } else {
            assert_eq!((bench.aside().len(), bench.decisions().len()), (0, 1), "{action:?}: after");
            assert_eq!((bench.totals(), bench.current()), wanted, "{action:?}: after");
        }
    }
}

#[test]
fn items_and_grounds_are_checked_where_they_come_in() {
    for wrong in ["", "0123", "0123456789abcdeg", "0123456789abcdef0"] {
        assert!(ItemId::parse(wrong).is_err(), "{wrong}");
    }
    assert!(ItemId::parse(" 0123456789ABCDEF ").is_ok());
    assert!(Ground::new("operator-1", " ").is_err_and(|error| error == "say why"));
    assert!(Ground::new("", "a reason").is_err_and(|error| error == "say who decides"));
    assert!(Ground::new("operator-1", &"x".repeat(1001)).is_err());
}

#[test]
fn the_newest_items_are_shown_and_all_are_counted() {
    let bench = Bench::flushing();
    for number in 0..30 {
        bench.arrives(stranger(), &data_set(STUDY, &format!("1.2.3.1.{number}"), "one"));
    }
    bench.arrives(Origin::Import, &data_set("1.2.5", "1.2.5.1", "one"));
    bench.arrives(Origin::Import, &data_set("1.2.5", "1.2.5.1", "two"));
    let view = &**bench.archive.engine();
    let (newest, count) = quarantine::selected(view, &Selection::All, 4).expect("a list");
    assert_eq!((newest.len(), count), (4, 31));
    assert!(newest.is_sorted_by_key(|item| std::cmp::Reverse(item.record.receipt.received_ms)));
    let (of_stranger, count) = quarantine::selected(view, &Selection::From("CT9".into()), 100).expect("a list");
    assert_eq!((of_stranger.len(), count), (30, 30));
    assert_eq!(quarantine::selected(view, &Selection::From("CT".into()), 100).expect("a list").1, 0);
    let one = Selection::Items([of_stranger[3].id()].into());
    assert_eq!(quarantine::selected(view, &one, 100).expect("a list").1, 1);
}
