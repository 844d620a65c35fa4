//! Rows that come before, after and while a study is registered, and what a start knows of them.

use tessera_policy::UnlinkedReason;

use super::*;
use crate::member::testing::{A, World, quiet_study};

const RESIDENT: &str = "TRIAL,1,resident,110101199003070003";
const PASSPORT: &str = "TRIAL,1,passport,CHN/E10000001";

async fn told(world: &World, csv: &str) -> CrosswalkDone {
    let call = CrosswalkCall { csv: csv.to_owned(), remove: false };
    let done = world.members[A].extend_crosswalk(call).await.expect("rows");
    assert_eq!(done.refused, Vec::new(), "{csv}");
    done
}

/// What stops a study of the first patient, of this name, from being linked.
fn stops(world: &World, name: &str) -> Vec<UnlinkedReason> {
    let description = Description {
        study: "1.2.3".into(),
        issuer: "TRIAL".into(),
        patient_id: "1".into(),
        patient_name: name.into(),
        ..Description::default()
    };
    world.members[A].resolve(&description).expect("resolved").stopped
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_contradict_one_another_do_so_after_a_start_too() {
    let mut world = World::found().await;
    told(&world, &format!("{RESIDENT},Test^One\n{RESIDENT},Test^Two\n")).await;
    for _ in 0..2 {
        for name in ["Test^One", "Test^Two"] {
            assert!(matches!(stops(&world, name)[..], [UnlinkedReason::Disagreement { .. }]), "{name}");
        }
        world.reopen(A);
    }
    let call = CrosswalkCall { csv: format!("{RESIDENT}\n"), remove: true };
    assert_eq!(world.members[A].extend_crosswalk(call).await.expect("taken back").removed, 1);
    world.reopen(A);
    assert_eq!(stops(&world, "Test^One"), [UnlinkedReason::NoRow], "all that was stated of the two numbers is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_finds_no_room_on_the_disk_is_refused_each_time_and_links_nothing() {
    let mut world = World::found().await;
    world.fills_disk(A, true);
    for _ in 0..2 {
        let call = CrosswalkCall { csv: RESIDENT.into(), remove: false };
        let done = world.members[A].extend_crosswalk(call).await.expect("an answer");
        assert_eq!((done.new, done.refused.len()), (0, 1), "{:?}", done.refused);
        assert_eq!(stops(&world, "Test^One"), [UnlinkedReason::NoRow]);
    }
    world.fills_disk(A, false);
    assert_eq!(told(&world, RESIDENT).await.new, 1);
    world.reopen(A);
    assert_eq!((told(&world, RESIDENT).await.new, stops(&world, "Test^One")), (0, Vec::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_that_comes_later_is_linked_to_what_was_registered_under_an_earlier_one() {
    let world = World::found().await;
    let member = &world.members[A];
    told(&world, RESIDENT).await;
    quiet_study(&member.archive, "1.2.3", "hospital-a");
    member.register_quiet().await.expect("a round");
    let registered = member.registration("1.2.3").expect("the vault").expect("registered");
    assert_eq!(registered.identifier.reveal(), "110101199003070003");
    assert_eq!(told(&world, PASSPORT).await.linked_patients, 1);
    assert_eq!(told(&world, PASSPORT).await.linked_patients, 0, "once");
}
