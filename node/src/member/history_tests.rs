//! What a history says of studies here: whose they are is told by their records and numbers, never by a UID.
//! Members that share a ledger without a network, each with an archive of its own.
//! Not here: the walk through the ledger, which is federation's.

use std::time::{Duration, Instant};

use bytes::Bytes;

use tessera_policy::Identifier;

use super::testing::{A, B, C, World, patient};
use crate::archive::ingest::Origin;
use crate::archive::testing::data_set;
use crate::control::wire::HistoryCall;
use crate::dicom::identifiers::Uid;
use crate::dicom::syntax::EXPLICIT_LITTLE;

const STUDY: &str = "1.2.3";
const DEADLINE: Duration = Duration::from_secs(60);

async fn takes_in(world: &World, hospital: usize) {
    let bytes = Bytes::from(data_set(STUDY, "1.2.3.1.1", "own"));
    let syntax = Uid::parse(EXPLICIT_LITTLE).expect("a UID");
    world.members[hospital].archive.take(Origin::Import, syntax, None, bytes).await.expect("the object is taken");
}

async fn registers(world: &World, hospital: usize) {
    let (begun, holder) = (Instant::now(), &world.members[hospital]);
    while holder.registration(STUDY).expect("readable").is_none() {
        assert!(begun.elapsed() < DEADLINE, "the study is never registered");
        holder.register_quiet().await.expect("registered once it is quiet");
        tokio::task::yield_now().await;
    }
    world.commit().await;
}

/// The number of the patient whose study a hospital took in.
fn own_number(world: &World, hospital: usize) -> String {
    format!("hospital:{}/H-1", world.members[hospital].config.default_site().issuer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_told_of_the_patients_own_study_alone() {
    let world = World::found().await;
    // Each hospital's own patient H-1, and by mistake one Study Instance UID.
    takes_in(&world, B).await;
    takes_in(&world, A).await;
    registers(&world, A).await;
    let asked = HistoryCall { id: own_number(&world, A), user: "d001".into() };
    // (where it is asked, here, collides, name)
    for (hospital, here, collides, name) in [(A, true, false, "Phantom^One"), (B, false, true, "")] {
        let history = world.members[hospital].history(&asked).await.expect("a history");
        let found: Vec<_> = history.studies.iter().map(|s| (s.here, s.collides, &*s.patient_name)).collect();
        assert_eq!(found, [(here, collides, name)], "{hospital}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_another_hospitals_link_brought_says_so() {
    let world = World::found().await;
    takes_in(&world, A).await;
    registers(&world, A).await;
    let (number, other) = (own_number(&world, A), patient(7));
    let linked = Identifier::parse(&number).expect("an identifier");
    // B takes its own patient for A's, by mistake.
    world.members[B].link(&other, &linked).await.expect("a link");
    world.commit().await;
    let masked = linked.to_string();
    for (id, under, linked_by) in [(number, "", vec![]), ("hospital:TRIAL/7".into(), &*masked, vec!["HOSPITAL-B"])] {
        let history = world.members[C].history(&HistoryCall { id, user: "d001".into() }).await.expect("a history");
        let found: Vec<_> = history.studies.iter().map(|study| (&*study.under, study.linked_by.clone())).collect();
        assert_eq!(found, [(under, linked_by.into_iter().map(str::to_owned).collect())]);
    }
}
