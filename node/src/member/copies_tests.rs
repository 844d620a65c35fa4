//! Working copies of another hospital's study, and what the patient takes back at the hospital that has them.
//! Members that share a ledger; the copies arrive without a network.

use tessera_federation::DisclosureId;
use tessera_policy::{ConsentId, Identifier, Purpose, Uid};
use tessera_storage::engine::Batch;

use super::consent::DAY_MS;
use super::copies::Fetched;
use super::testing::{A, B, NOBODY, World, patient};
use super::vault::Shelf;
use crate::archive::copies::{self, CopyId};
use crate::archive::ingest::now_ms;
use crate::archive::testing::{self as copied, HOUR_MS};
use crate::control::wire::{ConsentRevokeCall, FetchCall};

const STUDY: &str = "1.2.3";

/// Hospital B is told, without the patient's number, so that nothing of it reaches the ledger.
async fn takes_back(world: &World, consent: &ConsentId) {
    let call = ConsentRevokeCall { consent: consent.to_string(), id: None, user: String::new() };
    let done = world.while_committing(world.members[B].revoke(call)).await.expect("taken back");
    assert!(done.ledger_index.is_none() && done.denial.is_none(), "{done:?}");
}

/// What arrives of Hospital A's study at Hospital B now, as a fetch leaves it.
async fn arrives(world: &World, patient: &Identifier) -> CopyId {
    let member = &world.members[B];
    let copy = copied::copy_id("hospital-a", 1, 1);
    let objects = [copied::data_set(STUDY, "1.2.3.1.1", "chest")];
    let person = member.person(patient, NOBODY).await.expect("a person");
    let seen = member.seen().expect("a certificate").size.0;
    let call = FetchCall {
        study: STUDY.into(),
        id: patient.reveal_command_form(),
        purpose: "treatment".into(),
        user: "li.wei".into(),
        holder: None,
        to: None,
    };
    let (archive, id) = (member.archive.clone(), copy.clone());
    let arrived =
        tokio::task::spawn_blocking(move || copied::arrive(&archive, &id, &copied::manifest(&id, &objects), &objects));
    arrived.await.expect("no panic").expect("all arrives");
    let disclosure = DisclosureId::from_bytes([1; 16]);
    member.open_copy(&copy, &person, &call, disclosure, seen).await.expect("opened");
    copy
}

fn is_closed(world: &World, copy: &CopyId) -> bool {
    let member = &world.members[B];
    let record = copies::copy(&**member.archive.engine(), copy).expect("reads").expect("a copy");
    member.copy_closed(&record, Some(Purpose::Treatment)).expect("judged").is_some()
}

/// Whether Hospital B would not even ask.
async fn asks_nobody(world: &World, patient: &Identifier) -> bool {
    let member = &world.members[B];
    let person = member.person(patient, NOBODY).await.expect("a person");
    let (holder, study) = ("hospital-a".parse().expect("a site"), Uid::parse(STUDY).expect("a UID"));
    let fetched = Fetched { holder: &holder, study: &study, purpose: Purpose::Treatment, at_ms: now_ms() };
    member.taken_back_here(&person.found, &fetched).expect("judged").is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_taken_back_here_closes_what_was_fetched_before_and_not_what_a_new_grant_opens() {
    let mut world = World::found().await;
    let shared = patient(1);
    let first = world.grants(A, &shared).await;
    let copy = arrives(&world, &shared).await;
    assert!(!is_closed(&world, &copy) && !asks_nobody(&world, &shared).await);

    takes_back(&world, &first).await;
    assert!(is_closed(&world, &copy), "it bites at once");
    assert!(asks_nobody(&world, &shared).await, "the holder does not know of it");
    // What this hospital's own staff attests opens nothing at the holder, so it is no way around.
    world.grants(B, &shared).await;
    assert!(is_closed(&world, &copy) && asks_nobody(&world, &shared).await);
    world.reopen(B);
    world.commit().await;
    assert!(is_closed(&world, &copy) && asks_nobody(&world, &shared).await, "and after a restart");

    let second = world.grants(A, &shared).await;
    assert!(is_closed(&world, &copy), "the new grant opens nothing that was fetched before");
    assert!(!asks_nobody(&world, &shared).await);
    arrives(&world, &shared).await;
    assert!(!is_closed(&world, &copy), "fetched under the new grant");
    takes_back(&world, &first).await;
    assert!(!is_closed(&world, &copy), "saying it again moves nothing");
    assert!(world.members[B].is_revoked_here(&first).expect("reads"), "and it stays dead");
    takes_back(&world, &second).await;
    assert!(is_closed(&world, &copy) && asks_nobody(&world, &shared).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_word_of_the_patient_that_cannot_be_read_counts_for_all_that_was_fetched_before_this_start() {
    let mut world = World::found().await;
    let shared = patient(1);
    let first = world.grants(A, &shared).await;
    let copy = arrives(&world, &shared).await;
    let member = &world.members[B];
    let mut batch = Batch::new();
    // As it was kept before it had a size.
    member.vault.put(&mut batch, Shelf::RevokedHere, first.as_bytes(), &None::<u16>);
    let ticket = member.archive.engine().submit(batch).expect("a working disk");
    member.durable(ticket).await.expect("a working disk");
    world.reopen(B);
    assert!(world.members[B].is_revoked_here(&first).expect("no error"));
    assert!(is_closed(&world, &copy) && asks_nobody(&world, &shared).await);
    world.grants(A, &shared).await;
    arrives(&world, &shared).await;
    assert!(!is_closed(&world, &copy), "a new grant opens it again");
    takes_back(&world, &first).await;
    assert!(!is_closed(&world, &copy), "written anew, it closes no more than before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_ends_with_the_first_grant_that_it_may_rest_on() {
    let world = World::found().await;
    let shared = patient(1);
    // The holder does not know the code, which only the holder can tell.
    world.grants_for(B, &shared, 30 * DAY_MS, Some("hospital-a/AAAA-AAAA-AAAA-AAAA")).await;
    world.grants_for(A, &shared, HOUR_MS, None).await;
    let copy = arrives(&world, &shared).await;
    let record = copies::copy(&**world.members[B].archive.engine(), &copy).expect("reads").expect("a copy");
    let lasts = record.grounds[0].expires_ms - record.grounds[0].fetched_ms;
    assert!(lasts <= HOUR_MS, "{lasts} ms");
}
