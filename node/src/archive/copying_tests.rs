//! Working copies in the archive: apart from own studies and from one another, whole or not shown, given up without
//! harm to what else is here, and the same after a crash.

use tessera_policy::{Purpose, Uid as PolicyUid};
use tessera_storage::engine::Batch;
use tessera_storage::pixels::ObjectHash;

use super::catalogue;
use super::copies::{self, CopyRecord, CopyState, Ground};
use super::ingest::now_ms;
use super::testing::{Bench, HOUR_MS, arrive, copy_id, data_set, engine, ground, manifest, whole};

const STUDY: &str = "1.2.3";

#[test]
fn copies_stay_apart_from_own_studies_and_from_one_another() {
    let bench = Bench::new();
    let [own, of_b, of_c] = ["own", "of b", "of c"].map(|text| data_set(STUDY, "1.2.3.1.1", text));
    bench.device_sends(&own);
    let (b, c) = (copy_id("county-b", 1, 1), copy_id("county-c", 2, 1));
    whole(&bench.archive, &b, std::slice::from_ref(&of_b));
    whole(&bench.archive, &c, std::slice::from_ref(&of_c));
    // What the own device sends afterwards is the hospital's own.
    bench.device_sends(&data_set(STUDY, "1.2.3.1.2", "own, later"));
    let view = &**bench.archive.engine();
    let study = catalogue::study(view, STUDY).expect("the catalogue").expect("the own study");
    assert_eq!((study.objects, study.fetched_from), (2, None));
    let totals = catalogue::totals(view).expect("totals");
    assert_eq!((totals.studies, totals.objects, totals.variants, totals.quarantined), (1, 2, 0, 0));
    assert_eq!(copies::complete(view).expect("copies"), 2);
    for (id, expected) in [(&b, &of_b), (&c, &of_c)] {
        let objects = copies::objects(view, id, None).expect("objects");
        let bytes: Vec<_> = objects
            .iter()
            .map(|object| bench.archive.pixels().read(&ObjectHash::blake3(object.hash)).expect("bytes"))
            .collect();
        assert_eq!(bytes, std::slice::from_ref(expected));
    }
}

#[test]
fn bytes_that_are_not_what_the_manifest_says_are_refused_by_name() {
    let uid = |text: &str| PolicyUid::parse(text).expect("a UID");
    let sent = data_set(STUDY, "1.2.3.1.1", "sent");
    let id = copy_id("county-b", 1, 1);
    let honest = manifest(&id, std::slice::from_ref(&sent));
    let lies = [
        ("Study Instance UID", {
            let mut m = honest.clone();
            m.study_uid = uid("9.9");
            m
        }),
        ("Series Instance UID", {
            let mut m = honest.clone();
            m.objects[0].series_uid = uid("9.9");
            m
        }),
        ("SOP Class UID", {
            let mut m = honest.clone();
            m.objects[0].sop_class = uid("9.9");
            m
        }),
        ("SOP Instance UID", {
            let mut m = honest.clone();
            m.objects[0].sop_instance = uid("9.9");
            m
        }),
    ];
    for (what, lie) in lies {
        let bench = Bench::new();
        let why = format!("{:#}", arrive(&bench.archive, &id, &lie, std::slice::from_ref(&sent)).expect_err(what));
        let named = lie.objects[0].sop_instance.as_str();
        assert!(why.contains(what) && why.contains(named) && why.contains("9.9"), "{why}");
        assert!(!bench.has(&sent), "{what}: the bytes are not kept");
        // The same when they are here already, as this hospital's own: they stay its own.
        bench.device_sends(&sent);
        let refused = bench.archive.copy_stored(&id, lie.study_uid.as_str(), &lie.objects[0], None, None);
        assert!(format!("{:#}", refused.expect_err(what)).contains(what));
        assert!(bench.has(&sent));
        assert_eq!(copies::objects(bench.view(), &id, None).expect("objects"), []);
    }
}

#[test]
fn a_copy_is_shown_only_whole_and_for_its_time() {
    let bench = Bench::new();
    let sent = [data_set(STUDY, "1.2.3.1.1", "1"), data_set(STUDY, "1.2.3.1.2", "2")];
    let id = copy_id("county-b", 1, 1);
    let manifest = manifest(&id, &sent);
    arrive(&bench.archive, &id, &manifest, &sent[..1]).expect("one arrives");
    let early = bench.archive.complete_copy(&id, ground(Purpose::Treatment));
    assert!(early.expect_err("not whole").to_string().contains("1 of 2"));
    let copy = copies::copy(bench.view(), &id).expect("the copy").expect("begun");
    assert!(copy.state == CopyState::Partial && !shown(&copy, None, 0));
    arrive(&bench.archive, &id, &manifest, &sent[1..]).expect("the other arrives");
    let copy = bench.archive.complete_copy(&id, ground(Purpose::Treatment)).expect("whole");
    assert_eq!((copy.study.objects, copy.study.series), (2, 1));
    // (purpose, hours from now, shown)
    let table =
        [(None, 0, true), (Some(Purpose::Treatment), 0, true), (Some(Purpose::Research), 0, false), (None, 2, false)];
    for (purpose, hours, expected) in table {
        assert_eq!(shown(&copy, purpose, hours), expected, "{purpose:?} {hours}");
    }
}

#[test]
fn a_copy_that_was_dated_by_a_clock_far_ahead_is_closed() {
    let bench = Bench::new();
    let sent = [data_set(STUDY, "1.2.3.1.1", "1")];
    let id = copy_id("county-b", 1, 1);
    arrive(&bench.archive, &id, &manifest(&id, &sent), &sent).expect("all arrives");
    let year_ms = 365 * 24 * HOUR_MS;
    let now = ground(Purpose::Treatment);
    let ahead = Ground { fetched_ms: now.fetched_ms + year_ms, expires_ms: now.expires_ms + year_ms, ..now };
    let copy = bench.archive.complete_copy(&id, ahead).expect("whole");
    assert!(!shown(&copy, None, 0), "its end is a year late");
    let copy = bench.archive.complete_copy(&id, ground(Purpose::Treatment)).expect("fetched again");
    assert!(shown(&copy, None, 0));
}

/// Whether a copy is shown so many hours from now, where the ledger has nothing against it.
fn shown(copy: &CopyRecord, purpose: Option<Purpose>, hours: u64) -> bool {
    let closed = copy.closed(purpose, now_ms() + hours * HOUR_MS, |_| Ok::<_, ()>(None));
    closed.expect("judged").is_none()
}

#[test]
fn what_is_given_up_is_forgotten_unless_something_else_is_made_of_it() {
    let bench = Bench::new();
    let sent: Vec<_> = (1..=3).map(|n| data_set(STUDY, &format!("1.2.3.1.{n}"), "sent")).collect();
    let (b, c) = (copy_id("county-b", 1, 1), copy_id("county-c", 2, 1));
    whole(&bench.archive, &b, &sent);
    bench.device_sends(&sent[0]);
    // Another copy of the study lists the second, though it is not complete.
    arrive(&bench.archive, &c, &manifest(&c, &sent[1..2]), &[]).expect("begun");
    assert!(bench.archive.give_up_old_copies(now_ms()).expect("nothing is old").is_empty());
    let later = now_ms() + 2 * HOUR_MS;
    {
        let turn = bench.archive.turns().of(STUDY);
        let _fetching = turn.try_lock().expect("free");
        assert!(bench.archive.give_up_old_copies(later).expect("a fetch has it").is_empty());
    }
    assert_eq!(bench.archive.give_up_old_copies(later).expect("given up"), std::slice::from_ref(&b));
    assert_eq!(copies::copy(bench.view(), &b).expect("the copy"), None);
    assert_eq!(sent.iter().map(|sent| bench.has(sent)).collect::<Vec<_>>(), [true, true, false]);
    // What was forgotten can come again.
    bench.device_sends(&sent[2]);
    assert!(bench.has(&sent[2]));
}

#[test]
fn a_newer_revision_ends_the_older_and_keeps_what_both_have() {
    let bench = Bench::new();
    let sent = [data_set(STUDY, "1.2.3.1.1", "1"), data_set(STUDY, "1.2.3.1.2", "2")];
    let (first, second) = (copy_id("county-b", 1, 1), copy_id("county-b", 1, 2));
    whole(&bench.archive, &first, &sent[..1]);
    whole(&bench.archive, &second, &sent);
    assert_eq!(bench.archive.give_up_old_copies(now_ms()).expect("given up"), [first]);
    assert!(bench.has(&sent[0]) && bench.has(&sent[1]));
    assert!(copies::copy(bench.view(), &second).expect("the copy").is_some());
}

#[test]
fn after_a_crash_a_copy_is_still_a_copy() {
    let bench = Bench::new();
    let [own, listed, orphan] = ["own", "listed", "orphan"];
    let own = data_set(STUDY, "1.2.3.1.1", own);
    let listed = data_set(STUDY, "1.2.3.1.2", listed);
    let orphan = data_set("1.2.4", "1.2.4.1.1", orphan);
    let (kept, lost) = (copy_id("county-b", 1, 1), copy_id("county-b", 2, 1));
    bench.device_sends(&own);
    whole(&bench.archive, &kept, &[own.clone(), listed.clone()]);
    whole(&bench.archive, &lost, std::slice::from_ref(&orphan));
    // Nothing but the beginning of one copy has reached the database: the packs tell the rest.
    let engine = engine();
    let mut batch = Batch::new();
    copies::begin(&mut batch, &kept, &manifest(&kept, &[own.clone(), listed.clone()]), now_ms(), now_ms() + HOUR_MS);
    engine.submit(batch).expect("submitted");
    let bench = bench.restart(engine);
    let view = bench.view();
    let study = catalogue::study(view, STUDY).expect("the catalogue").expect("the own study");
    assert_eq!((study.objects, study.fetched_from), (1, None));
    assert!(catalogue::study(view, "1.2.4").expect("the catalogue").is_none(), "a copy is no own study");
    let copy = copies::copy(view, &kept).expect("the copy").expect("kept");
    assert_eq!((copy.state, copies::objects(view, &kept, None).expect("objects").len()), (CopyState::Partial, 2));
    bench.archive.complete_copy(&kept, ground(Purpose::Treatment)).expect("all of it is here");
    assert!(bench.has(&own) && bench.has(&listed) && !bench.has(&orphan), "what no copy lists is forgotten");
}
