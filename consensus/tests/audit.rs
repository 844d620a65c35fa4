//! One wrong byte in what a replica keeps: the audit finds it and names its place, whatever table it lies in.
//!
//! On an engine in memory, changed behind the replica's back. What a node does about a fault is shown on real processes
//! and disks (`tests/tests/damage.rs`).

use std::sync::Arc;

use tessera_consensus::audit::{AuditFault, StatePass, leaves};
use tessera_consensus::digest::BucketNumber;
use tessera_consensus::replica::{DIGEST, LEDGER, MERKLE, Replica, SEALED};
use tessera_consensus::state::STATE;
use tessera_consensus::wire::encode;
use tessera_consensus::wire::v1::{Batch, Submission, VERSION, sealed_hash};
use tessera_consensus::{LedgerIndex, UnixMillis};
use tessera_storage::MemoryEngine;
use tessera_storage::engine::{self, Table};

mod world;
use world::{World, ledger_tables};

/// More than one step of the audit.
const ENTRIES: u64 = 600;
const SEALED_ENTRY: u64 = 7;

fn sealed(world: &World, sequence: u64) -> Submission {
    let body = format!("sealed {sequence}").into_bytes();
    let mut command = world.command(world.member(), sequence, b"note").command.body;
    command.sealed = Some(sealed_hash(&body));
    let signed = command.sign(world.genesis.federation_id(), &world.nodes[world.member()].command);
    Submission { command: signed, sealed: Some(body) }
}

fn replica() -> (World, Arc<Replica>) {
    let world = World::new(&["core:1".into()], UnixMillis(1_000_000));
    let engine = MemoryEngine::open(&ledger_tables()).expect("tables").auto_flush(true);
    let replica = world.replica(Arc::new(engine));
    let previous = *world.genesis.federation_id().hash();
    let proposer = world.nodes[0].id();
    let submissions = (0..ENTRIES).map(|sequence| match sequence {
        SEALED_ENTRY => sealed(&world, sequence),
        _ => world.command(world.member(), sequence, &sequence.to_be_bytes()),
    });
    let batch =
        Batch { version: VERSION, previous, time: UnixMillis(2_000_000), proposer, submissions: submissions.collect() };
    replica.apply_batch(&batch, engine::Batch::new()).expect("it applies");
    (world, replica)
}

/// Everything is read again. Returns the bytes that were read.
fn audit(replica: &Replica) -> Result<u64, AuditFault> {
    let (mut next, mut bytes) = (Some(LedgerIndex(0)), 0);
    while let Some(from) = next {
        let step = leaves(replica, from)?;
        (next, bytes) = (step.next, bytes + step.bytes);
    }
    let mut pass = StatePass::begin(replica);
    while let Some(more) = pass.step()? {
        bytes += more;
    }
    Ok(bytes)
}

/// Changes the last byte of a value, which must be there.
fn flip(replica: &Replica, table: Table, key: &[u8]) {
    let mut value = replica.engine().get(table, key).expect("readable").expect("a value");
    *value.last_mut().expect("a byte") ^= 1;
    let mut batch = engine::Batch::new();
    batch.put(table, key, value);
    replica.engine().submit(batch).expect("written");
}

#[test]
fn a_sound_replica_passes_and_the_whole_of_it_is_read() {
    let (_, replica) = replica();
    let bytes = audit(&replica).expect("sound");
    assert!(bytes > ENTRIES * 100, "{bytes}");
}

#[test]
fn every_wrong_byte_is_found_and_its_place_is_named() {
    let key = |index: u64| index.to_be_bytes().to_vec();
    let node = |level: u8, number: u64| [&[level][..], &number.to_be_bytes()].concat();
    let body = encode(&sealed_hash(format!("sealed {SEALED_ENTRY}").as_bytes()));
    let cases: [(&str, Table, Vec<u8>); 6] = [
        ("entry 3 is not the one that the ledger's tree holds", LEDGER, key(3)),
        ("entry 599 is not the one that the ledger's tree holds", LEDGER, key(599)),
        ("entry 300 is not the one that the ledger's tree holds", MERKLE, node(0, 300)),
        ("the ledger's tree contradicts itself at level 3, node 5", MERKLE, node(3, 5)),
        ("the sealed body of entry 7 is not the one that the entry names", SEALED, body),
        ("the state differs from its digest in 1 of 1024 buckets: 17", DIGEST, 17u16.to_be_bytes().to_vec()),
    ];
    for (expected, table, key) in cases {
        let (_, replica) = replica();
        if table == DIGEST {
            // A bucket that holds nothing is not kept; any other value is wrong.
            let mut batch = engine::Batch::new();
            batch.put(DIGEST, key, vec![1; 2048]);
            replica.engine().submit(batch).expect("written");
        } else {
            flip(&replica, table, &key);
        }
        let fault = audit(&replica).expect_err(expected);
        assert_eq!(fault.to_string(), expected);
        assert!(fault.is_damage());
    }
}

#[test]
fn a_wrong_value_of_the_state_names_its_bucket_and_a_lost_entry_its_index() {
    let (_, replica) = replica();
    let (key, _) = replica.engine().scan(STATE, &[], None, 40).expect("readable").pop().expect("a pair");
    flip(&replica, STATE, &key);
    let bucket = BucketNumber::of_key(&key);
    match audit(&replica).expect_err("a wrong value") {
        AuditFault::State { count: 1, first } => assert_eq!(first, [bucket]),
        other => panic!("{other}"),
    }

    let (_, replica) = self::replica();
    let mut batch = engine::Batch::new();
    batch.delete(LEDGER, 5u64.to_be_bytes());
    replica.engine().submit(batch).expect("written");
    assert!(matches!(audit(&replica), Err(AuditFault::Missing { index: 5 })));
}
