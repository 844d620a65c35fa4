//! What must stop a node, and what must not move it: a lost guard, a ledger that differs, a clock that jumped.

use tessera_consensus::checkpoint::{Checkpoint, SignedCheckpoint, cosign};
use tessera_consensus::wire::v1::Role;
use tessera_consensus::{Hash, UnixMillis};

use super::testing::{A, B, World, patient};
use super::{clock, following, seat};
use crate::archive::ingest::now_ms;

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
    assert!(clock.jump_ms(ahead) > 0, "it is told");
}
