//! A ledger from its founding to a follower: batches applied, certified, followed; every lie on the way refused.
//!
//! Through the public interface only, on the engine in memory, with a domain machine that keeps notes.

use std::sync::Arc;

use tessera_consensus::checkpoint::{Certificate, SignedCheckpoint, cosign};
use tessera_consensus::follow::{self, FollowError, FollowReply, FollowRequest, Follower, Input, Mode, Output};
use tessera_consensus::kernel::{self, Domain, Entry, KIND_NOTHING, Outcome, Refusal, Rejection, Verdict};
use tessera_consensus::keys::{KeyAlgorithm, PublicKey, SigningKey};
use tessera_consensus::replica::{self, CheckError, Replica, ReplicaError};
use tessera_consensus::state::Transaction;
use tessera_consensus::wire::DecodeError;
use tessera_consensus::wire::v1::{
    Batch, CommandBody, Genesis, JoinCommand, Kind, NodeKeys, Role, SignedJoin, SiteDeclaration, Submission, VERSION,
};
use tessera_consensus::{Incarnation, Lane, LedgerSize, Sequence, Stream, UnixMillis};
use tessera_storage::engine::{Engine, EngineError};
use tessera_storage::memory::MemoryEngine;

/// Keeps the public bytes of each command under its index; rejects those that begin with a zero.
struct Notebook;

impl Domain for Notebook {
    fn found(&self, _: &[u8], _: &mut Transaction<'_>) -> Result<(), DecodeError> {
        Ok(())
    }
    fn apply(&self, entry: &Entry<'_>, state: &mut Transaction<'_>) -> Result<Verdict, EngineError> {
        let key = [&[kernel::DOMAIN][..], &entry.index.0.to_be_bytes()].concat();
        state.put(key, entry.body.public.clone());
        Ok(match entry.body.public.first() {
            Some(0) => Verdict::Rejected(Rejection(Rejection::DOMAIN_FIRST)),
            _ => Verdict::Applied,
        })
    }
}

struct Node {
    command: SigningKey,
    checkpoint: SigningKey,
    join: SignedJoin,
}

fn node(number: u8, role: Role) -> Node {
    let seed = |use_number: u8| SigningKey::from_seed([number * 8 + use_number; 32]);
    let (command, checkpoint, transport) = (seed(1), seed(2), seed(3));
    let join = JoinCommand {
        version: VERSION,
        name: format!("node-{number}"),
        role,
        sites: vec![SiteDeclaration { id: format!("site-{number}").parse().expect("site"), legal_name: "Site".into() }],
        keys: NodeKeys {
            command: command.public(),
            checkpoint: checkpoint.public(),
            transport: transport.public(),
            sealing: PublicKey::from_parts(KeyAlgorithm::X25519, [number; 32]),
        },
        peer_addresses: Vec::new(),
        core_address: (role == Role::Core).then(|| "127.0.0.1:1".into()),
        nonce: [number; 16],
    };
    let join = join.sign(&command, &checkpoint, &transport);
    Node { command, checkpoint, join }
}

struct World {
    nodes: Vec<Node>,
    genesis: Genesis,
}

impl World {
    /// Three core nodes (0 to 2), a member (3) and an observer (4).
    fn new() -> Self {
        let roles = [Role::Core, Role::Core, Role::Core, Role::Member, Role::Observer];
        let nodes: Vec<Node> = roles.iter().zip(1..).map(|(role, number)| node(number, *role)).collect();
        let joins = nodes.iter().map(|node| node.join.clone()).collect();
        let created = UnixMillis(1_000_000);
        Self { nodes, genesis: Genesis { version: VERSION, name: "Test".into(), created, joins, domain: Vec::new() } }
    }

    fn replica(&self, engine: MemoryEngine) -> Arc<Replica> {
        let genesis = Genesis::from_bytes(&self.genesis.to_bytes()).expect("genesis");
        Arc::new(Replica::open(Arc::new(engine), genesis, Arc::new(Notebook)).expect("open"))
    }

    fn command(&self, node: usize, incarnation: u32, sequence: u64, kind: Kind, public: &[u8]) -> Submission {
        let stream =
            Stream { node: self.nodes[node].join.node_id(), incarnation: Incarnation(incarnation), lane: Lane::Bulk };
        let (public, sequence) = (public.to_vec(), Sequence(sequence));
        let body = CommandBody { version: VERSION, kind, stream, sequence, public, sealed: None };
        let command = body.sign(self.genesis.federation_id(), &self.nodes[node].command);
        Submission { command, sealed: None }
    }

    fn batch(&self, submissions: Vec<Submission>, seconds: u64) -> Batch {
        let previous = *self.genesis.federation_id().hash();
        let proposer = self.nodes[0].join.node_id();
        Batch { version: VERSION, previous, time: UnixMillis::from_seconds(seconds), proposer, submissions }
    }

    fn certify(&self, replica: &Replica, signers: &[usize], seconds: u64) -> SignedCheckpoint {
        let checkpoint = replica.checkpoint().expect("checkpoint");
        let sign = |signer: &usize| {
            let node = &self.nodes[*signer];
            let name = node.join.join.name.parse().expect("name");
            cosign(&checkpoint, &name, &node.checkpoint, seconds)
        };
        SignedCheckpoint::new(checkpoint, signers.iter().map(sign).collect()).expect("note")
    }

    fn certificate(&self, replica: &Replica, signed: &SignedCheckpoint) -> Certificate {
        signed.verify(&replica.core().expect("core"), replica.federation()).expect("certificate")
    }
}

fn engine() -> MemoryEngine {
    MemoryEngine::open(&replica::TABLES).expect("tables").auto_flush(true)
}

const NOTE: Kind = Kind(256);

#[test]
fn each_command_takes_effect_once_in_order_and_strangers_never() {
    let world = World::new();
    let replica = world.replica(engine());
    let mut forged = world.command(3, 0, 1, NOTE, b"mine");
    forged.command.signature = world.nodes[2].command.sign_raw(b"x");
    let mut stranger = world.command(3, 0, 0, NOTE, b"x");
    stranger.command.body.stream.node = tessera_consensus::NodeId::new(tessera_consensus::Hash::blake3(&[b"nobody"]));
    let gap = |expected| Outcome::Refused(Refusal::Gap { expected: Sequence(expected) });
    let cases = [
        (world.command(3, 0, 1, NOTE, b"early"), gap(0)),
        (world.command(3, 0, 0, NOTE, b"first"), Outcome::Applied),
        (world.command(3, 0, 0, NOTE, b"first"), Outcome::Refused(Refusal::Repeated)),
        (forged, Outcome::Refused(Refusal::BadSignature)),
        (stranger, Outcome::Refused(Refusal::UnknownOrigin)),
        (world.command(3, 0, 1, NOTE, b"\0rejected"), Outcome::Rejected(Rejection(256))),
        (world.command(3, 0, 2, Kind(77), b""), Outcome::Rejected(Rejection::UNKNOWN_KIND)),
        (world.command(3, 0, 3, KIND_NOTHING, b""), Outcome::Applied),
        (world.command(4, 0, 0, NOTE, b"observer"), Outcome::Refused(Refusal::ReadOnly)),
        (world.command(3, 1, 0, NOTE, b"restored"), Outcome::Applied),
        (world.command(3, 0, 4, NOTE, b"the old incarnation"), Outcome::Refused(Refusal::StaleIncarnation)),
    ];
    let (submissions, expected): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
    let applied = replica.apply_batch(&world.batch(submissions, 2000), Default::default()).expect("apply");
    let outcomes: Vec<Outcome> = applied.outcomes.iter().map(|(_, outcome)| *outcome).collect();
    assert_eq!(outcomes, expected);
    let state = replica.view().scan_prefix("state", &[kernel::DOMAIN], 100).expect("scan");
    let notes: Vec<&[u8]> = state.iter().map(|(_, value)| &value[..]).collect();
    assert_eq!(notes, [&b"first"[..], b"restored"]);
}

#[test]
fn a_used_number_answers_with_what_was_applied() {
    let world = World::new();
    let replica = world.replica(engine());
    let first = world.command(3, 0, 0, NOTE, b"first");
    replica.apply_batch(&world.batch(vec![first.clone()], 2000), Default::default()).expect("apply");
    assert!(matches!(replica.check(&first), Err(CheckError::AlreadyApplied { outcome: Outcome::Applied, .. })));
    let other = world.command(3, 0, 0, NOTE, b"other");
    match replica.check(&other) {
        Err(CheckError::Conflict { applied, .. }) => assert_eq!(applied, first.command.hash()),
        got => panic!("{got:?}"),
    }
    assert!(replica.check(&world.command(3, 0, 1, NOTE, b"next")).is_ok());
}

#[test]
fn replicas_agree_whatever_the_batching_and_after_any_crash() {
    let world = World::new();
    let commands: Vec<Submission> = (0..20).map(|n| world.command(3, 0, n, NOTE, &[n as u8; 40])).collect();
    let whole = world.replica(engine());
    let all = whole.apply_batch(&world.batch(commands.clone(), 2000), Default::default()).expect("apply");
    for keep in 0..=7 {
        let disk = Arc::new(MemoryEngine::open(&replica::TABLES).expect("tables"));
        let genesis = world.genesis.clone();
        let first = Replica::open(disk.clone(), genesis.clone(), Arc::new(Notebook)).expect("open");
        for commands in commands.chunks(3) {
            first.apply_batch(&world.batch(commands.to_vec(), 2000), Default::default()).expect("apply");
        }
        let reopened = Arc::new(disk.crash(keep)) as Arc<dyn Engine>;
        let again = Replica::open(reopened, genesis, Arc::new(Notebook)).expect("reopen");
        let have = again.size().0 as usize;
        assert_eq!(have, (keep.saturating_sub(1) * 3).min(20), "a whole prefix of the batches survives");
        if have < commands.len() {
            again.apply_batch(&world.batch(commands[have..].to_vec(), 2000), Default::default()).expect("apply");
        }
        assert_eq!(again.checkpoint().expect("checkpoint"), all.checkpoint, "after a crash with {keep} writes kept");
    }
}

#[test]
fn what_a_full_disk_did_not_take_left_no_trace_and_is_taken_when_there_is_room() {
    let world = World::new();
    let (sound, disk) = (world.replica(engine()), engine());
    let replica = world.replica(disk.clone());
    for number in 0..6 {
        // The same key again and again, so that there is an old value to come back to.
        let batch = world.batch(vec![world.command(3, 0, number, NOTE, b"note")], 2000 + number);
        let expected = sound.apply_batch(&batch, Default::default()).expect("apply").checkpoint;
        let before = replica.checkpoint().expect("checkpoint");
        disk.set_full(true);
        for _ in 0..=number % 2 {
            let refused = replica.apply_batch(&batch, Default::default()).expect_err("full");
            assert!(matches!(refused, ReplicaError::Engine(EngineError::DiskFull { .. })), "{refused}");
            assert_eq!(replica.checkpoint().expect("checkpoint"), before);
        }
        disk.set_full(false);
        assert_eq!(replica.apply_batch(&batch, Default::default()).expect("apply").checkpoint, expected);
    }
    drop(replica);
    let again = world.replica(disk);
    assert_eq!(again.checkpoint().expect("checkpoint"), sound.checkpoint().expect("checkpoint"), "by what it kept");
}

/// Runs a follower against a server until it has nothing more to do; `tamper` may change each answer.
fn follow(world: &World, server: &Replica, replica: &Replica, mut tamper: impl FnMut(&mut FollowReply)) -> Vec<String> {
    let core = replica.core().expect("core");
    let mut follower =
        Follower::new(replica.federation(), core, replica.frontier(), replica.certificate(), Mode::Entries);
    let peer = world.nodes[0].join.node_id();
    let mut now = UnixMillis::from_seconds(5000);
    let mut queue = follower.step(now, Input::PeerUp(peer));
    let mut refused = Vec::new();
    let mut steps = 0;
    while !queue.is_empty() && steps < 200 {
        steps += 1;
        now = now.plus_ms(10);
        let input = match queue.remove(0) {
            Output::Ask { peer, request } => {
                let mut reply = follow::serve(server, &request).expect("serve");
                tamper(&mut reply);
                Input::Reply { from: peer, reply }
            }
            Output::Apply { from, entries } => {
                replica.apply_entries(from, &entries).expect("apply");
                Input::Applied { frontier: replica.frontier(), core: replica.core().expect("core") }
            }
            Output::Certified(certificate) => {
                replica.certified(certificate).expect("certified");
                continue;
            }
            Output::PassOn { .. } => continue,
            Output::Refused { why, .. } => {
                refused.push(why.to_string());
                continue;
            }
        };
        queue.extend(follower.step(now, input));
    }
    refused
}

/// A server with many entries, certified at the end, and an empty member.
fn served(world: &World) -> (Arc<Replica>, Arc<Replica>) {
    let server = world.replica(engine());
    for start in (0..3000).step_by(500) {
        let commands = (start..start + 500).map(|n| world.command(3, 0, n, NOTE, &n.to_be_bytes())).collect();
        server.apply_batch(&world.batch(commands, 2000), Default::default()).expect("apply");
    }
    let signed = world.certify(&server, &[0, 2], 3000);
    server.certified(world.certificate(&server, &signed)).expect("certified");
    (server, world.replica(engine()))
}

#[test]
fn a_follower_far_behind_arrives_at_the_certified_state() {
    let world = World::new();
    let (server, member) = served(&world);
    let refused = follow(&world, &server, &member, |_| {});
    assert_eq!(refused, Vec::<String>::new());
    assert_eq!(member.checkpoint().expect("checkpoint"), server.checkpoint().expect("checkpoint"));
    assert_eq!(member.certificate().map(|c| c.time()), Some(UnixMillis::from_seconds(3000)));
}

/// A line whose round trip is longer than the time between two certificates: a newer one comes while each range is on
/// its way.
#[test]
fn a_follower_advances_although_each_range_is_overtaken_by_a_newer_certificate() {
    let world = World::new();
    let (server, member) = (world.replica(engine()), world.replica(engine()));
    let peer = world.nodes[0].join.node_id();
    let core = member.core().expect("core");
    let mut follower = Follower::new(member.federation(), core, member.frontier(), None, Mode::Entries);
    let mut now = UnixMillis::from_seconds(5000);
    let mut queue = follower.step(now, Input::PeerUp(peer));
    let mut number = 0;
    let mut grow = || {
        let batch = world.batch(vec![world.command(3, 0, number, NOTE, &number.to_be_bytes())], 2000);
        server.apply_batch(&batch, Default::default()).expect("apply");
        number += 1;
        let signed = world.certify(&server, &[0, 2], 3000 + number);
        server.certified(world.certificate(&server, &signed)).expect("certified");
        server.certificate().expect("just certified").signed().to_note()
    };
    let mut answers = 0;
    while answers < 40 {
        let input = match queue.remove(0) {
            Output::Ask { request, .. } => {
                answers += 1;
                let reply = follow::serve(&server, &request).expect("serve");
                now = now.plus_ms(100);
                queue.extend(follower.step(now, Input::Gossip { from: peer, note: grow() }));
                Input::Reply { from: peer, reply }
            }
            Output::Apply { from, entries } => {
                member.apply_entries(from, &entries).expect("apply");
                Input::Applied { frontier: member.frontier(), core: member.core().expect("core") }
            }
            Output::Certified(certificate) => {
                member.certified(certificate).expect("certified");
                continue;
            }
            Output::PassOn { .. } => continue,
            Output::Refused { why, .. } => panic!("an honest peer was refused: {why}"),
        };
        queue.extend(follower.step(now, input));
    }
    let behind = server.size().0 - member.size().0;
    assert!(behind <= 4, "the member is {behind} entries behind the core's {}", server.size().0);
    assert_eq!(member.certificate().map(|c| c.checkpoint().size), Some(member.size()), "and knows it certified");
}

#[test]
fn every_tampered_answer_is_refused_and_named() {
    type Tamper = fn(&mut FollowReply);
    let world = World::new();
    let cases: [(&str, Tamper, &str); 6] = [
        ("a byte of an entry", |r| on_entries(r, |entries, _| entries[7].leaf[60] ^= 1), "not those of the certified"),
        ("entries swapped", |r| on_entries(r, |entries, _| entries.swap(1, 2)), "not those of the certified"),
        ("an entry left out", |r| on_entries(r, |entries, _| drop(entries.remove(3))), "not those of the certified"),
        ("a byte of the proof", |r| on_entries(r, |_, proof| flip(proof)), "not those of the certified"),
        (
            "a foreign sealed body",
            |r| on_entries(r, |entries, _| entries[0].sealed = Some(b"x".to_vec())),
            "the sealed body of entry 0 is not the one",
        ),
        (
            "a byte of the checkpoint",
            |r| {
                if let FollowReply::Checkpoint { note: Some(note) } = r {
                    *note = note.replace("\n3000\n", "\n3001\n");
                }
            },
            "cosignature",
        ),
    ];
    for (name, tamper, expected) in cases {
        let (server, member) = served(&world);
        let refused = follow(&world, &server, &member, tamper);
        assert!(refused.iter().any(|why| why.contains(expected)), "{name}: {refused:?}");
        assert_eq!(member.size(), LedgerSize(0), "{name}: nothing may be applied");
    }
}

fn on_entries(
    reply: &mut FollowReply,
    change: impl Fn(&mut Vec<replica::LedgerEntry>, &mut Vec<tessera_consensus::Hash>),
) {
    if let FollowReply::Entries { entries, proof, .. } = reply {
        change(entries, proof);
    }
}

fn flip(proof: &mut [tessera_consensus::Hash]) {
    let mut bytes = *proof[0].as_bytes();
    bytes[0] ^= 1;
    proof[0] = tessera_consensus::Hash::from_parts(proof[0].algorithm(), bytes);
}

#[test]
fn too_few_signatures_and_witnesses_do_not_certify() {
    let world = World::new();
    let (server, _) = served(&world);
    let core = server.core().expect("core");
    for signers in [&[1][..], &[1, 3, 4]] {
        let signed = world.certify(&server, signers, 3100);
        assert!(signed.verify(&core, server.federation()).is_err(), "{signers:?} certified");
    }
    assert!(world.certify(&server, &[1, 2, 3], 3100).verify(&core, server.federation()).is_ok());
}

#[test]
fn a_replica_that_differs_from_what_was_certified_stops() {
    let world = World::new();
    let (server, member) = served(&world);
    let other = world.command(3, 0, 0, NOTE, b"another history");
    member.apply_batch(&world.batch(vec![other], 2000), Default::default()).expect("apply");
    let replica = world.replica(engine());
    let batch = world.batch(vec![world.command(3, 0, 0, NOTE, b"one")], 2000);
    replica.apply_batch(&batch, Default::default()).expect("apply");
    assert_eq!(replica.size().0, 1);
    let signed = world.certify(&replica, &[0, 1], 3000);
    let certificate = world.certificate(&server, &signed);
    assert!(matches!(member.certified(certificate), Err(ReplicaError::Diverged { size: 1 })));
    let next = world.batch(vec![world.command(3, 0, 1, NOTE, b"next")], 2000);
    assert!(matches!(member.apply_batch(&next, Default::default()), Err(ReplicaError::Diverged { .. })));
}

#[test]
fn an_unasked_answer_is_refused_and_a_laggard_is_not_named() {
    let world = World::new();
    let (server, member) = served(&world);
    let peer = world.nodes[1].join.node_id();
    let core = member.core().expect("core");
    let mut follower = Follower::new(member.federation(), core, member.frontier(), None, Mode::Entries);
    let reply = follow::serve(&server, &FollowRequest::Checkpoint).expect("serve");
    let outputs = follower.step(UnixMillis(10), Input::Reply { from: peer, reply });
    assert!(matches!(&outputs[..], [Output::Refused { why: FollowError::Unasked, .. }]));
    let refused = follow(&world, &server, &member, |reply| {
        if let FollowReply::Entries { entries, .. } = reply {
            entries.clear();
        }
    });
    assert_eq!(refused, Vec::<String>::new());
}
