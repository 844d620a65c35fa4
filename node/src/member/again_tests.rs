//! What lost a race or found the outbox full: it is written again, and holds up nothing else.

use std::sync::Arc;

use tessera_consensus::replica::ReplicaError;
use tessera_consensus::{Lane, UnixMillis};
use tessera_federation::blind::{Chain, IdentifierKey};
use tessera_federation::history::{self, CHAIN_MAX, HOLES_MAX, PlaceError};
use tessera_federation::machine::{self, rejections};
use tessera_federation::outbox::{Draft, OutboxError};
use tessera_federation::wire::v1::{self, Tag};
use tessera_policy::{ConsentDecision, ConsentId, ConsentTerms, Grantee, Identifier, PurposeScope, StudyScope};
use tessera_storage::engine::{Batch, EngineError};
use tessera_storage::pixels::StoreError;

use super::again::{is_of_a_broken_disk, is_of_the_disk};
use super::consent::{DAY_MS, SentState, granting};
use super::registrar::matter_of_nothing;
use super::testing::{A, B, C, World, patient, quiet_study};
use super::vault::VaultError;
use super::{Member, locked};
use crate::archive::ArchiveError;
use crate::archive::catalogue::CatalogueError;
use crate::archive::ingest::now_ms;

async fn records(member: &Member, patient: &Identifier) -> ConsentId {
    let end = UnixMillis(now_ms()).plus_ms(30 * DAY_MS);
    let terms = granting(member, "hospital-b", "treatment", end).expect("terms");
    member.record_consent(patient.clone(), terms, None).await.expect("a consent")
}

fn states(member: &Member, consents: &[ConsentId]) -> Vec<Option<SentState>> {
    let state = |consent| member.sent_consent(consent).expect("the vault").map(|sent| sent.state);
    consents.iter().map(state).collect()
}

/// As if somebody had taken every place of this kind.
async fn takes_all(member: &Member, patient: &Identifier, kind: tessera_consensus::wire::v1::Kind) {
    let key = member.writing_key(patient).await.expect("a key");
    let site = member.config.default_site().id.clone();
    let places: Vec<Tag> = (0..CHAIN_MAX).map(|counter| key.tag(Chain::Site { site: &site, kind }, counter)).collect();
    locked(&member.reserved).take(Lane::Bulk, &places);
}

/// Commands that the ledger rejects: they only take room.
fn fills(member: &Member, count: usize) {
    let (kind, matter) = (v1::RECEIPT, matter_of_nothing());
    let draft = Draft { lane: Lane::Bulk, kind, public: Vec::new(), sealed: None, matter };
    member.outbox.enqueue(vec![draft; count], Batch::new()).expect("room");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_no_place_is_left_it_is_told_and_everything_else_goes_on() {
    let world = World::found().await;
    let (member, closed, open) = (&world.members[B], patient(1), patient(2));
    let consents = [records(member, &closed).await, records(member, &open).await];
    for consent in consents {
        member.consent_settled(consent, Err(rejections::TAG_TAKEN)).expect("settled");
    }
    takes_all(member, &closed, v1::CONSENT).await;
    member.write_again_once().await.expect("the node goes on");
    let rejected = SentState::Rejected(rejections::NO_PLACE_LEFT.0);
    assert_eq!(states(member, &consents), [Some(rejected), Some(SentState::Waiting)]);
    let told = member.await_consent(consents[0], false).await.expect_err("nowhere recorded");
    assert!(told.to_string().contains("no place is left"), "{told}");

    takes_all(member, &closed, v1::LINK).await;
    member.link_lost(&closed, &open).expect("noted");
    member.link_lost(&open, &patient(3)).expect("noted");
    let waiting = member.outbox.waiting();
    assert_eq!(member.status().expect("a status").outbox_pending, waiting + 2, "who waits for rest sees both");
    member.write_again_once().await.expect("the node goes on");
    assert_eq!(member.outbox.waiting(), waiting + 1, "the other link");
    member.write_again_once().await.expect("the node goes on");
    assert_eq!(member.outbox.waiting(), waiting + 1, "once");
    assert_eq!(member.status().expect("a status").outbox_pending, waiting + 1);
    // So does whoever registers a study, or reads a crosswalk, with such a number among others.
    for (local, other) in [(&closed, &patient(4)), (&patient(4), &closed)] {
        assert!(!member.link(local, other).await.expect("registration goes on"));
    }
    assert!(member.link(&open, &patient(4)).await.expect("written"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_finds_the_outbox_full_waits_and_the_outbox_drains() {
    let mut world = World::found().await;
    let shared = patient(1);
    let consents = [records(&world.members[B], &shared).await, records(&world.members[B], &shared).await];
    let member = &world.members[B];
    member.consent_settled(consents[0], Err(rejections::PRESENCE_TAKEN)).expect("settled");
    member.revoke_when_taken(consents[1]).await.expect("taken back");
    member.link_lost(&shared, &patient(2)).expect("noted");
    let waiting = member.outbox.waiting();
    Arc::get_mut(&mut world.members[B]).expect("nobody else holds it").outbox.shrink(0, waiting);
    let member = &world.members[B];
    member.consent_settled(consents[1], Ok(())).expect("settled, though there is no room for its revocation");
    member.write_again_once().await.expect("the node goes on");
    assert_eq!(states(member, &consents), [Some(SentState::Again), Some(SentState::Waiting)]);
    assert_eq!(member.outbox.waiting(), waiting);

    Arc::get_mut(&mut world.members[B]).expect("nobody else holds it").outbox.shrink(10, 10);
    world.members[B].write_again_once().await.expect("the node goes on");
    assert_eq!(states(&world.members[B], &consents), [Some(SentState::Waiting); 2]);
    for _ in 0..3 {
        world.commit().await;
    }
    assert_eq!(states(&world.members[B], &consents), [None, None]);
    assert_eq!(world.members[B].outbox.waiting(), 0);
    let known = machine::consent(world.members[A].replica.view(), &consents[1]).expect("state").expect("a consent");
    assert!(known.revoked.is_some(), "the patient's word is not lost");
}

/// Everything under a patient's key as a third hospital reads it: consents by site, and problems.
async fn reads(world: &World, patient: &Identifier) -> (usize, usize, usize) {
    let reader = &world.members[C];
    let keys: Vec<IdentifierKey> = reader.keys_of(patient, true).await.expect("keys");
    let found = history::look_up(&reader.replica, &keys).expect("a replica");
    let of = |index: usize| {
        let site = &world.members[index].config.default_site().id;
        found.consents.iter().filter(|consent| consent.details.author == *site).count()
    };
    (of(A), of(B), found.problems.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_loses_many_races_in_a_row_leaves_no_hole_that_hides_a_record() {
    let world = World::found().await;
    let shared = patient(1);
    for _ in 0..6 {
        for index in [A, B] {
            records(&world.members[index], &shared).await;
        }
    }
    // More than goes into one batch: something of B's is always on its way.
    fills(&world.members[B], 400);
    for _ in 0..2 {
        world.commit().await;
    }
    assert!(world.members[B].outbox.waiting() > 0);
    assert_eq!(reads(&world, &shared).await.0, 6, "all of A's first places");
    for _ in 0..3 {
        world.commit().await;
    }
    assert_eq!(reads(&world, &shared).await, (6, 6, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_study_finds_no_place_it_is_told_once_and_not_tried_for_ever() {
    let world = World::found().await;
    let (member, closed) = (&world.members[A], patient(1));
    takes_all(member, &closed, v1::STUDY).await;
    quiet_study(&member.archive, "1.2.3", "hospital-a");
    member.register_quiet().await.expect("registration goes on");
    let told = member.rejected_sentence().expect("the vault").expect("a sentence");
    assert!(told.contains("1.2.3") && told.contains("no place is left"), "{told}");
    let quiet = member.archive.quiet_studies(now_ms(), 1_000, "").expect("the catalogue");
    assert_eq!(quiet.len(), 0, "it waits for a further image, or another year");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_closes_takes_the_places_of_what_waits_behind_a_backlog() {
    let mut world = World::found().await;
    let shared = patient(1);
    // More than goes into one batch, so that what comes then in the bulk lane waits.
    fills(&world.members[B], 200);
    let mut granted = Vec::new();
    for _ in 0..=HOLES_MAX {
        granted.push(records(&world.members[B], &shared).await);
    }
    for _ in 0..2 {
        let member = &world.members[B];
        let end = Some(tessera_federation::policy_time(UnixMillis(now_ms()).plus_ms(DAY_MS)));
        let (to, purposes) = (Grantee::AllTreatingSites, PurposeScope::Any);
        let terms = ConsentTerms::new(ConsentDecision::Deny, to, StudyScope::All, purposes, end).expect("terms");
        member.record_consent(shared.clone(), terms, None).await.expect("a denial");
        world.reopen(B);
    }
    world.commit().await;
    assert_eq!(reads(&world, &shared).await, (0, 2, 0), "both denials, though no grant is in the ledger yet");
    for _ in 0..3 {
        world.commit().await;
    }
    assert_eq!(states(&world.members[B], &granted), vec![None; granted.len()], "who lost a place took another");
    assert_eq!(reads(&world, &shared).await, (0, 2 + granted.len(), 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_reserves_the_places_of_what_waits() {
    let mut world = World::found().await;
    let shared = patient(1);
    let before = records(&world.members[A], &shared).await;
    world.reopen(A);
    let after = records(&world.members[A], &shared).await;
    world.commit().await;
    let view = world.members[B].replica.view();
    for consent in [before, after] {
        assert!(machine::consent(view, &consent).expect("state").is_some(), "both at the first attempt");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_taken_back_while_a_key_is_waited_for_stays_taken_back() {
    let world = World::found().await;
    let (member, shared) = (&world.members[B], patient(1));
    let key = member.writing_key(&shared).await.expect("a key");
    let consent = records(member, &shared).await;
    member.consent_settled(consent, Err(rejections::TAG_TAKEN)).expect("settled");
    member.revoke_when_taken(consent).await.expect("taken back");
    let waiting = member.outbox.waiting();
    for _ in 0..2 {
        member.write_consent_with(&consent, &key).expect("written again, once");
    }
    assert_eq!(member.outbox.waiting(), waiting + 1);
    assert!(member.sent_consent(&consent).expect("the vault").is_some_and(|sent| sent.revoke));
    for _ in 0..2 {
        world.commit().await;
    }
    let known = machine::consent(world.members[A].replica.view(), &consent).expect("state").expect("a consent");
    assert!(known.revoked.is_some());
}

#[test]
fn a_full_disk_is_no_broken_one() {
    let full = || EngineError::DiskFull { detail: "no room".into() };
    let broken = || EngineError::Io { detail: "an I/O error".into() };
    let ways: [fn(EngineError) -> anyhow::Error; 8] = [
        anyhow::Error::from,
        |error| ReplicaError::from(error).into(),
        |error| OutboxError::from(error).into(),
        |error| OutboxError::from(ReplicaError::from(error)).into(),
        |error| PlaceError::from(ReplicaError::from(error)).into(),
        |error| VaultError::from(error).into(),
        |error| CatalogueError::from(error).into(),
        |error| anyhow::Error::from(ArchiveError::from(StoreError::from(error))).context("with words around it"),
    ];
    for way in ways {
        assert!(is_of_the_disk(&way(full())) && !is_of_a_broken_disk(&way(full())), "{:?}", way(full()));
        assert!(is_of_the_disk(&way(broken())) && is_of_a_broken_disk(&way(broken())), "{:?}", way(broken()));
    }
    let other = anyhow::Error::from(OutboxError::Full { waiting: 3 });
    assert!(!is_of_the_disk(&other) && !is_of_a_broken_disk(&other));
}
