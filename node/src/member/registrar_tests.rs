//! The registrar's rounds, and what it does with what the ledger says of its commands.

use tessera_consensus::LedgerIndex;
use tessera_federation::wire::v1::TagAlgorithm;

use super::*;
use crate::member::testing::{A, World, quiet_study};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn studies_that_always_fail_hold_up_no_other() {
    let world = World::found().await;
    let member = &world.members[A];
    for number in 100..100 + FAILURES_MAX {
        quiet_study(&member.archive, &format!("1.2.{number}"), "no site");
    }
    quiet_study(&member.archive, "1.3", "hospital-a");
    member.register_quiet().await.expect_err("the round is full of failures");
    assert!(member.registration("1.3").expect("the vault").is_none(), "they come first");
    member.register_quiet().await.expect_err("they fail again");
    assert!(member.registration("1.3").expect("the vault").is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejection_that_is_no_race_is_told_until_the_study_is_taken() {
    let mut world = World::found().await;
    let tag = Tag::from_parts(TagAlgorithm::KeyedBlake3, [1; 32]);
    let matter = encode(&Matter::Study { study: "1.2.3".into(), tag });
    let settled = |outcome| Settled {
        lane: Lane::Bulk,
        kind: v1::STUDY,
        public: Vec::new(),
        matter: matter.clone(),
        index: LedgerIndex(7),
        outcome,
    };
    world.members[A].settled(&settled(Err(rejections::NOT_YOURS))).expect("settled");
    let told = |world: &World| -> Vec<String> {
        let warnings = world.members[A].status().expect("a status").warnings;
        warnings.into_iter().filter(|warning| warning.contains("rejected")).collect()
    };
    let before = told(&world);
    assert!(before.len() == 1 && before[0].contains("1.2.3: ") && before[0].contains("1 studies"), "{before:?}");
    world.reopen(A);
    assert_eq!(told(&world), before, "a start does not forget it");
    world.members[A].settled(&settled(Ok(()))).expect("settled");
    assert_eq!(told(&world), Vec::<String>::new());
}
