//! The ledger's formats stand still: what a founding and one command of every kind that takes effect are as bytes, and
//! what they leave in the state whose digest the core signs.
//!
//! A value that was encoded otherwise would divide a federation of two versions without an error anywhere: each half
//! would call the other's digest wrong. `GOLDEN_WRITE=1` writes the file if it is missing, and only then.

use std::path::Path;

use tessera_consensus::kernel::{KIND_NOTHING, Outcome};
use tessera_consensus::replica::Replica;
use tessera_consensus::state::STATE;
use tessera_consensus::wire::encode;
use tessera_consensus::wire::v1::{Command, Genesis, Kind, Leaf, SignedJoin};
use tessera_federation::wire::Format;
use tessera_federation::wire::v1::*;
use tessera_policy::AmendmentKind;

use crate::machine::{
    amendment, anchor, break_glass, consent, disclosure, link, presence, recall, receipt, recognition, revocation,
    study, unlink,
};
use crate::world::{B, C, CORE, World, engine};

const SEALED: &[u8] = b"not read by the machine";

/// Every kind that takes effect, and every field of the state once with a value and once without.
fn script() -> Vec<(usize, Kind, Vec<u8>, bool)> {
    vec![
        (B, STUDY, study(1, presence(101), None).to_bytes(), true),
        (B, STUDY, study(2, None, Some(1)).to_bytes(), true),
        (B, AMENDMENT, amendment(3, 2, AmendmentKind::Withdraw).to_bytes(), true),
        (B, LINK, link(4, 5).to_bytes(), true),
        (B, LINK, link(6, 7).to_bytes(), true),
        (B, UNLINK, unlink(4, 5).to_bytes(), false),
        (C, CONSENT, consent(1, 8).to_bytes(), true),
        (C, CONSENT, consent(2, 9).to_bytes(), true),
        (C, REVOCATION, revocation(1).to_bytes(), false),
        (B, DISCLOSURE, disclosure(1, "hospital-b", "hospital-c").to_bytes(), true),
        (B, DISCLOSURE, disclosure(2, "clinic-b", "hospital-c").to_bytes(), false),
        (B, RECEIPT, receipt(1, ReceiptSide::Holder).to_bytes(), false),
        (C, RECEIPT, receipt(1, ReceiptSide::Requester).to_bytes(), false),
        (C, RECALL_ACKNOWLEDGEMENT, recall(1, 1).to_bytes(), false),
        (B, BREAK_GLASS, break_glass(1, "hospital-b").to_bytes(), false),
        (C, RECOGNITION, recognition(1, "hospital-c").to_bytes(), false),
        (C, AUDIT_ANCHOR, anchor("hospital-c", 0).to_bytes(), false),
        (C, KIND_NOTHING, Vec::new(), false),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The whole state, a line for each value, and what the core signs of it.
fn state(when: &str, replica: &Replica, lines: &mut Vec<String>) {
    let pairs = replica.view().scan(STATE, &[], None, 1_000).expect("state");
    lines.extend(pairs.iter().map(|(key, value)| format!("{when} {} {}", hex(key), hex(value))));
    let checkpoint = replica.checkpoint().expect("a checkpoint");
    lines.push(format!("{when} root {}", checkpoint.root));
    lines.push(format!("{when} digest {}", checkpoint.digest));
}

#[test]
fn the_ledgers_formats_stand_still() {
    let (world, engine) = (World::new(), engine());
    let replica = world.replica(&engine);
    let (join, genesis) = (&world.genesis.joins[CORE], &world.genesis);
    assert_eq!(&SignedJoin::from_bytes(&join.to_bytes()).expect("a join"), join);
    assert_eq!(&Genesis::from_bytes(&genesis.to_bytes()).expect("a genesis"), genesis);
    let mut lines = vec![
        format!("join {}", hex(&join.to_bytes())),
        format!("node_id {}", hex(&encode(&join.node_id()))),
        format!("genesis {}", hex(&genesis.to_bytes())),
        format!("federation_id {}", hex(&encode(&world.federation()))),
    ];
    state("founded", &replica, &mut lines);
    for (number, (node, kind, public, sealed)) in script().into_iter().enumerate() {
        let submission = world.command(&replica, node, kind, public, sealed.then(|| SEALED.to_vec()));
        let batch = world.batch(&replica, vec![submission]);
        if number == 0 {
            let (leaf, _) = batch.leaves().next().expect("a leaf");
            let command = &leaf.command;
            assert_eq!(&Command::from_bytes(&command.to_bytes()).expect("a command"), command);
            assert_eq!(Leaf::from_bytes(&leaf.to_bytes()).expect("a leaf"), leaf);
            lines.push(format!("command {}", hex(&command.to_bytes())));
            lines.push(format!("command_hash {}", command.hash()));
            lines.push(format!("sealed_hash {}", command.body.sealed.expect("a sealed body")));
            lines.push(format!("leaf {}", hex(&leaf.to_bytes())));
            lines.push(format!("batch {}", hex(&encode(&batch))));
            lines.push(format!("batch_hash {}", batch.hash()));
        }
        let applied = replica.apply_batch(&batch, Default::default()).expect("applies");
        assert_eq!(applied.outcomes[0].1, Outcome::Applied, "line {number}");
    }
    state("in use", &replica, &mut lines);
    let text = lines.join("\n") + "\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/ledger_v1.txt");
    if std::env::var_os("GOLDEN_WRITE").is_some() && !path.exists() {
        std::fs::write(&path, &text).expect("a writable folder");
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    for (line, golden) in text.lines().zip(golden.lines()) {
        assert_eq!(line, golden, "a released format never changes: add a version instead");
    }
    assert_eq!(text.len(), golden.len(), "something was added to the state, or left out");
}
