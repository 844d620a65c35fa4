//! Both sides' receipts on their way into the ledger: members that share one, and crashes at each step.
//! The transfer itself is tested in federation and by the black-box tests.

use tessera_consensus::{Hash, Lane, UnixMillis};
use tessera_federation::DisclosureId;
use tessera_federation::machine;
use tessera_federation::outbox::Draft;
use tessera_federation::retrieve::wire::v1::{Party, Receipt, RetrievalId, SignedReceipt, VERSION};
use tessera_federation::wire::Format;
use tessera_federation::wire::v1::{self, DisclosurePublic};
use tessera_policy::Purpose;
use tessera_storage::engine::Batch;

use super::registrar::matter_of_nothing;
use super::testing::{A, B, C, World};
use crate::archive::ingest::now_ms;

const NONCE: [u8; 16] = [6; 16];

fn id(world: &World) -> DisclosureId {
    DisclosureId::of(&world.node(A), &NONCE)
}

fn receipt(world: &World, by: Party) -> SignedReceipt {
    let signer = if by == Party::Holder { A } else { B };
    let receipt = Receipt {
        version: VERSION,
        federation: world.members[A].replica.federation(),
        retrieval: RetrievalId::from_bytes([5; 16]),
        disclosure: id(world),
        by,
        requester: world.node(B),
        holder: world.node(A),
        commitment: Hash::blake3(&[b"manifest"]),
        objects: 2,
        transcript: Hash::blake3(&[b"objects"]),
        bytes: 1_000,
        complete: true,
        time: UnixMillis(now_ms()),
    };
    receipt.sign(&world.members[signer].secrets.command)
}

fn disclosure(world: &World) -> Draft {
    let site = |index: usize| world.members[index].config.default_site().id.clone();
    let public = DisclosurePublic {
        version: v1::VERSION,
        disclosure: id(world),
        nonce: NONCE,
        holder: site(A),
        requester: site(B),
        purpose: Purpose::Treatment.number(),
        at: UnixMillis(now_ms()),
    };
    Draft {
        lane: Lane::Bulk,
        kind: v1::DISCLOSURE,
        public: public.to_bytes(),
        sealed: None,
        matter: matter_of_nothing(),
    }
}

/// Whether the ledger has the holder's and the requester's, and how many receipts took effect.
fn anchored(world: &World) -> (bool, bool, u64) {
    let view = world.members[C].replica.view();
    let record = machine::disclosure(view, &id(world)).expect("state");
    let counts = machine::counts(view).expect("state");
    let count = counts.iter().find(|(kind, _)| *kind == v1::RECEIPT).map_or(0, |(_, count)| *count);
    let has = |side: fn(&machine::DisclosureRecord) -> bool| record.as_ref().is_some_and(side);
    (has(|r| r.holder_receipt.is_some()), has(|r| r.requester_receipt.is_some()), count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_come_into_the_ledger_once_also_over_crashes_and_a_slow_disclosure() {
    let mut world = World::found().await;
    // The images were faster than the holder's line to the core: the requester's receipt must wait.
    world.members[B].keep_receipt(&receipt(&world, Party::Requester)).await.expect("kept");
    world.commit().await;
    world.commit().await;
    assert_eq!(anchored(&world), (false, false, 0));
    world.reopen(B);

    world.members[A].outbox.enqueue(vec![disclosure(&world)], Batch::new()).expect("a working disk");
    world.members[A].anchor_as_holder(&receipt(&world, Party::Holder)).expect("written");
    world.reopen(A);
    world.commit().await;
    assert_eq!(anchored(&world), (true, false, 1), "behind its disclosure, in one go");
    world.reopen(B);
    for _ in 0..3 {
        world.commit().await;
    }
    assert_eq!(anchored(&world), (true, true, 2));
    assert_eq!(world.members[B].outbox.waiting(), 0);
}
