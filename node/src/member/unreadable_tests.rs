//! Records that nobody can read close no patient, and their author is named; records that only this replica lacks are
//! refused like a denial.

use std::sync::Arc;

use tessera_consensus::Lane;
use tessera_consensus::replica::SEALED;
use tessera_consensus::wire::encode;
use tessera_consensus::wire::v1::Leaf;
use tessera_federation::history::{self, FoundConsent};
use tessera_federation::outbox::Draft;
use tessera_federation::wire::Format;
use tessera_federation::wire::v1::{self, ConsentPublic};
use tessera_policy::{ConsentId, Identifier};
use tessera_storage::engine::Batch;

use super::Member;
use super::registrar::matter_of_nothing;
use super::testing::{A, C, NOBODY, World, patient};

/// Hospital C's node takes its next places for the patient and writes rubbish there.
async fn writes_rubbish(world: &World, patient: &Identifier) {
    let member = &world.members[C];
    let key = member.writing_key(patient).await.expect("a key");
    let site = member.config.default_site().id.clone();
    let free = history::next_free(&member.replica, &key, &site, v1::CONSENT, &|_| false).expect("a place");
    let mut rng = crate::founding::rng();
    let presence = free.presence.map(|tag| history::presence(&key, v1::CONSENT, &site, tag, &mut rng));
    let consent = ConsentId::from_bytes([9; 16]);
    let public = ConsentPublic { version: v1::VERSION, consent, tag: free.tag, presence };
    let rubbish = Draft {
        lane: Lane::Bulk,
        kind: v1::CONSENT,
        public: public.to_bytes(),
        sealed: Some(b"rubbish".to_vec()),
        matter: matter_of_nothing(),
    };
    member.outbox.enqueue(vec![rubbish], Batch::new()).expect("a working disk");
    world.commit().await;
}

async fn consents(member: &Member, patient: &Identifier) -> Vec<FoundConsent> {
    member.person(patient, NOBODY).await.expect("a person").found.consents
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rubbish_closes_nobody_and_its_author_is_named() {
    let world = World::found().await;
    let shared = patient(1);
    world.grants(A, &shared).await;
    let warnings = |member: &Arc<Member>| member.status().expect("a status").warnings.join("\n");
    assert!(!warnings(&world.members[A]).contains("count for nothing"));
    writes_rubbish(&world, &shared).await;
    assert!(world.asks(A, &shared).await.is_allowed(), "a member closed the patient by writing rubbish");
    let told = warnings(&world.members[A]);
    assert!(told.contains("count for nothing") && told.contains("HOSPITAL-C"), "{told}");
    assert_eq!(told.matches("HOSPITAL-C").count(), 1, "however often it is met");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_this_replica_lacks_is_refused_like_a_denial() {
    let world = World::found().await;
    let shared = patient(1);
    world.grants(A, &shared).await;
    let other = world.grants(C, &shared).await;
    assert!(world.asks(A, &shared).await.is_allowed());
    let member = &world.members[A];
    let found = consents(member, &shared).await;
    let place = found.iter().find(|found| found.details.consent == other).expect("Hospital C's").place;
    let entry = member.replica.entry(place.index).expect("reads").expect("an entry");
    let hash = Leaf::from_bytes(&entry.leaf).expect("a leaf").command.body.sealed.expect("a body");
    let mut batch = Batch::new();
    batch.delete(SEALED, encode(&hash));
    member.replica.engine().submit(batch).expect("a working disk");
    let error = world.decides(A, &shared).await.expect_err("it could be a denial");
    assert!(error.to_string().contains("could not all be read"), "{error}");
}
