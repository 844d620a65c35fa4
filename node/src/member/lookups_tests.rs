//! A patient's lookups are all there, in order, and what is changed afterwards is found.

use tessera_consensus::clock::{BootId, ClockFloor, TrustedClock};

use super::*;
use crate::archive::ingest::now_ms;
use crate::control::wire::HistoryCall;
use crate::member::testing::{A, World, patient};

const NOON_MS: u64 = DAY_MS / 2;

fn asks(patient: &Identifier, user: &str) -> HistoryCall {
    HistoryCall { id: patient.reveal_command_form(), user: user.into() }
}

fn users(done: &LookupsDone) -> Vec<&str> {
    done.lookups.iter().map(|lookup| lookup.user.as_str()).collect()
}

async fn three_lookups() -> (World, Arc<Member>) {
    let world = World::found().await;
    let member = world.members[A].clone();
    for (number, user) in [(1, "d001"), (2, "d002"), (1, "")] {
        member.history(&asks(&patient(number), user)).await.expect("a history");
    }
    (world, member)
}

/// Changes the record of a lookup as who has the site key could.
fn rewrite(member: &Member, at: u64, change: impl FnOnce(&mut Lookup)) {
    let mut lookup = member.lookup(at).expect("readable").expect("a record");
    change(&mut lookup);
    let mut batch = Batch::new();
    member.vault.put(&mut batch, Shelf::Lookups, &number(at), &lookup);
    member.archive.submit(batch).expect("written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_patients_lookups_are_told_newest_first_and_nobody_elses() {
    let (mut world, member) = three_lookups().await;
    let told = |member: &Member, number| member.lookups_of(&patient(number).reveal_command_form()).expect("lookups");
    assert_eq!(users(&told(&member, 1)), ["", "d001"]);
    assert_eq!(users(&told(&member, 2)), ["d002"]);
    assert!(users(&told(&member, 3)).is_empty(), "a patient whom nobody looked up");
    drop(member);
    world.reopen(A);
    assert_eq!(users(&told(&world.members[A], 1)), ["", "d001"], "after a crash");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_that_is_over_is_confirmed_by_the_ledger() {
    let (world, member) = three_lookups().await;
    let tomorrow = now_ms() + DAY_MS;
    member.anchor_lookups(now_ms()).expect("nothing to anchor");
    assert_eq!(member.outbox.waiting(), 0, "the day is not over");
    member.anchor_lookups(tomorrow).expect("anchored");
    member.anchor_lookups(tomorrow).expect("anchored once");
    assert_eq!(member.outbox.waiting(), 1);
    world.commit().await;
    let checked = member.check_lookups().expect("the chain holds");
    assert_eq!(checked, Checked { records: 3, confirmed: 1, ..Checked::default() });
    assert_eq!(checked.warnings(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wall_clock_that_is_behind_ends_no_day_that_goes_on() {
    let (world, member) = three_lookups().await;
    let certified = Some(UnixMillis(now_ms() + DAY_MS));
    *locked(&member.clock) = TrustedClock::new(ClockFloor::default(), certified, BootId([0; 16]));
    member.anchor_lookups(member.surely().0).expect("anchored");
    assert_eq!(member.outbox.waiting(), 1, "by the ledger's time the day is over");
    member.history(&asks(&patient(1), "d004")).await.expect("a history");
    world.commit().await;
    let checked = member.check_lookups().expect("the chain holds");
    assert_eq!(checked, Checked { records: 4, confirmed: 1, ..Checked::default() });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_answers_and_says_what_it_lacks() {
    let world = World::found().await;
    let member = world.members[A].clone();
    let ask = async |user: &str| member.history(&asks(&patient(1), user)).await.map(drop).expect("a history");
    let puts_back = |head: &Head| {
        let mut batch = Batch::new();
        member.vault.put(&mut batch, Shelf::LookupHead, b"head", head);
        member.archive.submit(batch).expect("written");
    };
    ask("d001").await;
    let (begun, older) = (Head::default(), member.head().expect("a head"));
    ask("d002").await;
    member.anchor_lookups(older.day() + DAY_MS).expect("anchored");
    world.commit().await;
    let day = older.day();
    for (name, head, expected, word) in [
        ("of that day", &older, Checked { records: 1, others: vec![day], ..Checked::default() }, "another head"),
        ("of before", &begun, Checked { gone: vec![day], ..Checked::default() }, "older copy"),
    ] {
        puts_back(head);
        let checked = member.check_lookups().expect("no error: the chain that is here holds");
        assert_eq!(checked, expected, "{name}");
        let warnings = checked.warnings();
        assert!(warnings.len() == 1 && warnings[0].contains(word) && warnings[0].contains("1 days"), "{warnings:?}");
    }
    puts_back(&older);
    let done = member.lookups(LookupsCall { id: Some(patient(1).reveal_command_form()) }).await;
    assert_eq!(done.expect("it answers").warnings.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_or_missing_record_is_named() {
    type Change = fn(&Member);
    let table: [(&str, Change, &str); 4] = [
        ("none", |_| {}, ""),
        ("another user", |member| rewrite(member, 0, |lookup| lookup.user = "d009".into()), "lookup 1 is not"),
        ("the newest", |member| rewrite(member, 2, |lookup| lookup.studies += 1), "newest record"),
        (
            "taken out",
            |member| {
                let mut batch = Batch::new();
                member.vault.delete(&mut batch, Shelf::Lookups, &number(1));
                member.archive.submit(batch).expect("written");
            },
            "lookup 1 is missing",
        ),
    ];
    for (name, change, expected) in table {
        let (_world, member) = three_lookups().await;
        change(&member);
        match member.check_lookups() {
            Ok(checked) => assert_eq!((checked.records, expected), (3, ""), "{name}"),
            Err(error) => assert!(!expected.is_empty() && error.to_string().contains(expected), "{name}: {error}"),
        }
    }
}

#[test]
fn a_head_goes_into_the_ledger_once_its_day_is_over() {
    let site: SiteId = "hospital-a".parse().expect("a site");
    let head = |open, time_ms| Head { open, time_ms, ..Head::default() };
    for (name, head, now, expected) in [
        ("no record", head(0, NOON_MS), 3 * DAY_MS, None),
        ("the same day", head(2, NOON_MS), DAY_MS - 1, None),
        ("midnight", head(2, NOON_MS), DAY_MS, Some((0, DAY_MS))),
        ("days later", head(2, DAY_MS + 1), 9 * DAY_MS, Some((DAY_MS, 2 * DAY_MS))),
    ] {
        let anchor = head.anchor(&site, now);
        assert_eq!(anchor.map(|anchor| (anchor.from.0, anchor.until.0)), expected, "{name}");
    }
}
