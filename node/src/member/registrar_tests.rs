//! The registrar's rounds, and what it does with what the ledger says of its commands.

use tessera_consensus::LedgerIndex;
use tessera_federation::wire::v1::TagAlgorithm;

use super::*;
use crate::archive::Archive;
use crate::archive::catalogue::{Description, ObjectRecord, Receipt};
use crate::dicom::syntax::EXPLICIT_LITTLE;
use crate::member::testing::{A, World};

/// An object that came long ago, as the catalogue has it.
fn quiet_study(archive: &Archive, study: &str, site: &str) {
    let receipt = Receipt {
        version: 1,
        calling_ae: String::new(),
        called_ae: String::new(),
        address: String::new(),
        received_ms: 1,
        sop_class: String::new(),
        sop_instance: String::new(),
        transfer_syntax: EXPLICIT_LITTLE.into(),
        site: site.into(),
        known_sender: true,
        character_set: None,
        fetched_from: None,
    };
    let description = Description {
        sop_class: "1.2.840.10008.5.1.4.1.1.2".into(),
        sop_instance: format!("{study}.1.1"),
        series: format!("{study}.1"),
        study: study.to_owned(),
        issuer: "TRIAL".into(),
        patient_id: "1".into(),
        study_date: "20260131".into(),
        modality: "CT".into(),
        ..Description::default()
    };
    let hash = *blake3::hash(study.as_bytes()).as_bytes();
    let record = ObjectRecord { description, receipt, hash, size: 100, is_damaged: false };
    let mut batch = Batch::new();
    let view = &**archive.engine();
    let standing = catalogue::standing(view, &record).expect("the catalogue");
    let (mut totals, at_ms) = (catalogue::totals(view).expect("totals"), record.receipt.received_ms);
    catalogue::record(view, &record, &standing, at_ms, &mut totals, &mut batch).expect("recorded");
    catalogue::put_totals(&mut batch, &totals);
    archive.submit(batch).expect("submitted");
}

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
    let settled = |outcome| Settled { kind: v1::STUDY, matter: matter.clone(), index: LedgerIndex(7), outcome };
    world.members[A].settled(&settled(Err(rejections::NOT_YOURS))).await.expect("settled");
    let told = |world: &World| -> Vec<String> {
        let warnings = world.members[A].status().expect("a status").warnings;
        warnings.into_iter().filter(|warning| warning.contains("rejected")).collect()
    };
    let before = told(&world);
    assert!(before.len() == 1 && before[0].contains("1.2.3: ") && before[0].contains("1 studies"), "{before:?}");
    world.reopen(A);
    assert_eq!(told(&world), before, "a start does not forget it");
    world.members[A].settled(&settled(Ok(()))).await.expect("settled");
    assert_eq!(told(&world), Vec::<String>::new());
}
