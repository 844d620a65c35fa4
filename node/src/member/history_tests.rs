//! What a history says of studies here: whose they are is told by their records and numbers, never by a UID.
//! Members that share a ledger without a network, each with an archive of its own.
//! Not here: the walk through the ledger, which is federation's.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::testing::{A, B, World};
use crate::archive::ingest::Origin;
use crate::archive::testing::data_set;
use crate::control::wire::HistoryCall;
use crate::dicom::identifiers::Uid;
use crate::dicom::syntax::EXPLICIT_LITTLE;

const STUDY: &str = "1.2.3";
const DEADLINE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_told_of_the_patients_own_study_alone() {
    let world = World::found().await;
    // Each hospital's own patient H-1, and by mistake one Study Instance UID.
    for hospital in [A, B] {
        let bytes = Bytes::from(data_set(STUDY, "1.2.3.1.1", "own"));
        let syntax = Uid::parse(EXPLICIT_LITTLE).expect("a UID");
        world.members[hospital].archive.take(Origin::Import, syntax, None, bytes).await.expect("the object is taken");
    }
    let (begun, holder) = (Instant::now(), &world.members[A]);
    while holder.registration(STUDY).expect("readable").is_none() {
        assert!(begun.elapsed() < DEADLINE, "the study is never registered");
        holder.register_quiet().await.expect("registered once it is quiet");
        tokio::task::yield_now().await;
    }
    world.commit().await;
    let id = format!("hospital:{}/H-1", holder.config.default_site().issuer);
    let asked = HistoryCall { id, user: "d001".into() };
    // (where it is asked, here, collides, name)
    for (hospital, here, collides, name) in [(A, true, false, "Phantom^One"), (B, false, true, "")] {
        let history = world.members[hospital].history(&asked).await.expect("a history");
        let found: Vec<_> = history.studies.iter().map(|s| (s.here, s.collides, &*s.patient_name)).collect();
        assert_eq!(found, [(here, collides, name)], "{hospital}");
    }
}
