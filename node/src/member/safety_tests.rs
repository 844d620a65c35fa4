//! What must stop a node, and what must not move it: a lost guard, a ledger that differs, a clock that jumped.

use tessera_consensus::checkpoint::{Checkpoint, SignedCheckpoint, cosign};
use tessera_consensus::clock::{BootId, ClockFloor, Clocks, TrustedClock};
use tessera_consensus::wire::v1::Role;
use tessera_consensus::{Hash, UnixMillis};
use tessera_federation::confirmation::{HandedOut, PatientCode};
use tessera_storage::engine::Batch;

use super::consent::{DAY_MS, granting};
use super::testing::{A, B, World, patient};
use super::vault::Shelf;
use super::{clock, following, rfc3339, seat};
use crate::archive::ingest::now_ms;
use crate::control::wire::{ConsentCodeCall, HistoryCall, LookupsCall};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_core_node_whose_signing_guard_is_gone_has_lost_its_seat() {
    let world = World::found().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    assert!(world.members[A].take_seat(folder.path()).expect("a disk"), "the first time");
    assert!(world.members[A].take_seat(folder.path()).expect("a disk"), "and again");
    std::fs::remove_file(folder.path().join(seat::GUARD)).expect("the guard was made with the seat");
    // Another node finds the directory with its watermark, and knows nothing of the seat.
    assert!(!world.members[B].take_seat(folder.path()).expect("a disk"));
    assert!(!world.members[A].take_seat(folder.path()).expect("a disk"));
    let why = world.members[A].seat_lost().expect("a reason");
    assert!(why.contains("guard"), "{why}");
    assert!(!folder.path().join(seat::GUARD).exists(), "an empty one would sign anything");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_differs_from_the_certified_one_decides_nothing_in_any_life() {
    let mut world = World::found().await;
    let certified = {
        let member = &world.members[B];
        let ours = member.replica.checkpoint().expect("a checkpoint");
        let theirs = Checkpoint { digest: Hash::blake3(&[b"another state"]), ..ours };
        let core = world.members.iter().filter(|member| member.role == Role::Core);
        let signatures = core.map(|signer| {
            let name = signer.config.name.parse().expect("a signer's name");
            cosign(&theirs, &name, &signer.secrets.checkpoint, now_ms() / 1000 + 2)
        });
        let signed = SignedCheckpoint::new(theirs, signatures.collect()).expect("a note");
        signed.verify(&member.replica.core().expect("a core"), ours.federation).expect("a certificate")
    };
    let ends = world.members[B].take_certificate(certified).expect_err("it must end the node");
    assert_eq!(ends.to_string(), following::DIVERGED);
    assert!(world.members[B].decide(&world.question(B, &patient(1))).await.is_err());
    assert_eq!(world.reopens(B).err().map(|error| error.to_string()), Some(following::DIVERGED.into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_that_surely_passed_comes_from_certificates_and_not_from_the_wall_clock() {
    let world = World::found().await;
    let member = &world.members[A];
    let certified = member.replica.certificate().expect("certified").time();
    let surely = member.surely();
    assert!(surely >= certified && surely <= UnixMillis(now_ms()), "{surely:?}");
    let mut ahead = clock::clocks();
    ahead.wall = ahead.wall.plus_ms(400 * 24 * 3_600_000);
    let clock = *super::locked(&member.clock);
    assert!(clock.surely(ahead) <= UnixMillis(now_ms()), "nothing is deleted for a jump");
    assert!(clock.ahead_ms(ahead, false) > 0, "it is told");
}

/// A clock by which this machine's has jumped a day ahead.
fn a_day_ahead() -> TrustedClock {
    let now = clock::clocks();
    let before = Clocks { wall: UnixMillis(now.wall.0 - DAY_MS), boot_ms: now.boot_ms.saturating_sub(1_000) };
    let mut clock = TrustedClock::new(ClockFloor::default(), None, BootId([0; 16]));
    clock.certified(before.wall, before);
    clock
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wall_clock_that_is_ahead_dates_nothing_promises_nothing_and_ends_no_code() {
    let world = World::found().await;
    let member = &world.members[A];
    let right = *super::locked(&member.clock);
    let person = patient(1);
    let call = ConsentCodeCall {
        id: person.reveal_command_form(),
        to_site: "hospital-b".into(),
        purpose: "treatment".into(),
        days: 30,
    };
    let code = member.patient_code(&call).await.expect("a code").code;
    *super::locked(&member.clock) = a_day_ahead();
    let yesterday = UnixMillis(now_ms() - DAY_MS / 2);
    assert!(member.recorded_now() < yesterday);
    let refused = member.patient_code(&call).await.expect_err("it would be good for a day too long").to_string();
    assert!(refused.contains("ahead of what the federation certified"), "{refused}");
    let history = HistoryCall { id: person.reveal_command_form(), user: "d001".into() };
    member.history(&history).await.expect("a history");
    *super::locked(&member.clock) = right;
    member.history(&history).await.expect("a history");
    let call = LookupsCall { id: Some(person.reveal_command_form()) };
    let lookups = member.clone().lookups(call).await.expect("lookups").lookups;
    assert!(lookups[1].time < rfc3339(yesterday.0) && lookups[0].time > rfc3339(yesterday.0), "{lookups:?}");
    world.grants_for(B, &person, 30 * DAY_MS, Some(&code)).await;
    assert!(world.asks(A, &person).await.is_allowed(), "the code is as good as before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_is_forgotten_when_it_is_over_by_all_evidence_and_not_by_the_wall_clock_alone() {
    let world = World::found().await;
    let member = &world.members[A];
    let (right, person, site) = (*super::locked(&member.clock), patient(1), member.config.default_site().id.clone());
    let ended = UnixMillis(now_ms() - DAY_MS);
    let terms = granting(member, "hospital-b", "treatment", ended).expect("terms");
    let old = HandedOut::new(&PatientCode::from_bytes([7; 10]), site, terms, ended);
    let mut batch = Batch::new();
    member.vault.put(&mut batch, Shelf::Codes, &person.canonical_bytes(), &vec![old]);
    member.archive.submit(batch).expect("written");
    let call = ConsentCodeCall {
        id: person.reveal_command_form(),
        to_site: "hospital-b".into(),
        purpose: "treatment".into(),
        days: 30,
    };
    // Nothing was certified for a year: whether that has passed, or the wall clock is wrong, nobody knows.
    let a_year_ago = Some(UnixMillis(now_ms() - 366 * DAY_MS));
    for (clock, kept) in [(TrustedClock::new(ClockFloor::default(), a_year_ago, BootId([0; 16])), 2), (right, 2)] {
        *super::locked(&member.clock) = clock;
        member.patient_code(&call).await.expect("a code");
        assert_eq!(member.handed_out(&person).expect("readable").len(), kept);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codes_are_handed_out_for_others_and_for_a_time_that_ends() {
    let world = World::found().await;
    let call = |to_site: &str, days| ConsentCodeCall {
        id: patient(1).reveal_command_form(),
        to_site: to_site.into(),
        purpose: "treatment".into(),
        days,
    };
    for (to_site, days, why) in [
        ("hospital-b", 0, "for 1 to 3660 days"),
        ("hospital-b", 3_661, "for 1 to 3660 days"),
        ("hospital-b", u32::MAX, "for 1 to 3660 days"),
        ("hospital-a", 30, "this hospital itself"),
        ("hospital-z", 30, "no site of this federation"),
    ] {
        let refused = world.members[A].patient_code(&call(to_site, days)).await.expect_err(why).to_string();
        assert!(refused.contains(why), "{refused}");
    }
    let code = world.members[A].patient_code(&call("hospital-b", 3_660)).await.expect("a code");
    assert!(code.until.starts_with("20"), "{}", code.until);
}
