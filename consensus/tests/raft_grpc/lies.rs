//! A core node with a valid certificate that lies, over real gRPC: forged entries, tampered snapshots, absurd terms and
//! garbage are refused with words that name what is wrong, and the others go on as if nothing had been said.
//!
//! The liar is one of three, killed, whose key the test has; the other two are a core that must not lose a beat.

use std::time::Duration;

use openraft::EntryPayload;
use openraft::base::BoxFuture;
use openraft::errors::RPCError;
use openraft::network::RPCOption;
use openraft::raft::VoteRequest;
use openraft::{RaftNetworkFactory, RaftNetworkV2};
use openraft_rt_tokio::TokioRuntime;
use tessera_consensus::grpc::Call;
use tessera_consensus::grpc::client::GrpcTransport;
use tessera_consensus::grpc::tls::Identity;
use tessera_consensus::raft::network::{Method, NetworkFactory, PeerBook, Transport, TransportError};
use tessera_consensus::raft::state_machine::Standing;
use tessera_consensus::raft::types::{
    CoreNode, LeaderId, LogEntry, LogId, Membership, RaftId, SharedBatch, StoredMembership, TypeConfig, Vote,
};
use tessera_consensus::raft::wire::{Append, AppendReply, SnapshotCall, VoteCall, VoteReply};
use tessera_consensus::wire::v1::{Batch, VERSION};
use tessera_consensus::{Hash, LedgerSize, NodeId};

use crate::federation::{ALL, CALL, Federation, now};

/// Two honest core nodes and the key of the third.
struct Trial {
    federation: Federation,
    liar: usize,
    victim: usize,
    transport: GrpcTransport,
}

impl Trial {
    /// Three entries are in the ledger of all when the liar's node dies.
    async fn begin() -> Self {
        let mut federation = Federation::start().await;
        let leader = federation.leader(&ALL).await;
        for sequence in 0..3 {
            federation.commit(leader, sequence).await;
        }
        federation.all_reach(3).await;
        let (liar, victim) = ((leader + 1) % 3, (leader + 2) % 3);
        federation.kill(liar).await;
        let identity = Identity::new(&federation.world.nodes[liar].transport).expect("identity");
        let transport = GrpcTransport::new(identity, federation.allowed());
        Self { federation, liar, victim, transport }
    }

    async fn tell(&self, method: Method, body: Vec<u8>) -> Result<Vec<u8>, TransportError> {
        self.transport.request(&self.federation.peer(self.victim), Call::Raft(method), body, CALL).await
    }

    fn liar_seat(&self) -> RaftId {
        self.federation.world.seat(self.liar)
    }

    fn here(&self) -> Standing {
        Standing::read(&self.federation.process(self.victim).replica).expect("a standing")
    }

    /// A vote that would beat the present leader's.
    fn vote(&self) -> Vote {
        let term = self.federation.process(self.victim).core.status().term;
        Vote::new_committed(term + 1, self.liar_seat())
    }

    /// One batch with one command behind what the victim has, right in everything.
    fn batch(&self) -> Batch {
        let world = &self.federation.world;
        Batch {
            version: VERSION,
            previous: self.here().reference.tip.hash,
            time: now(),
            proposer: world.nodes[self.liar].id(),
            submissions: vec![world.command(world.member(), 3, b"the next")],
        }
    }

    fn append(&self, payload: EntryPayload<SharedBatch, RaftId, CoreNode>) -> Append {
        let (vote, previous) = (self.vote(), self.here().applied);
        let index = previous.map_or(0, |id| id.index + 1);
        let log_id = LogId { leader_id: vote.leader_id, index };
        Append { vote, previous, entries: vec![LogEntry { log_id, payload }], commit: previous, confirmed: None }
    }

    /// A snapshot of exactly what the victim has, one entry further on in the log.
    fn snapshot(&self) -> SnapshotCall {
        let (vote, here) = (self.vote(), self.here());
        let last = LogId { leader_id: vote.leader_id, index: here.applied.map_or(0, |id| id.index + 1) };
        let membership = StoredMembership::new(here.applied, self.membership(&[1, 2, 3]));
        SnapshotCall { vote, last: Some(last), membership, reference: here.reference }
    }

    /// The core's seats, of which `voters` vote.
    fn membership(&self, voters: &[u64]) -> Membership {
        let nodes: std::collections::BTreeMap<RaftId, CoreNode> =
            ALL.iter().map(|node| (self.federation.world.seat(*node), self.federation.peer(*node))).collect();
        Membership::new(vec![voters.iter().copied().map(RaftId).collect()], nodes).expect("a membership")
    }

    /// The victim took nothing, and the two honest nodes still agree on new entries, under one of themselves.
    async fn ends_well(&self) {
        let honest: Vec<usize> = ALL.into_iter().filter(|node| *node != self.liar).collect();
        for node in &honest {
            let status = self.federation.process(*node).core.status();
            assert_eq!((status.size, status.stopped), (LedgerSize(3), None), "node {node}");
        }
        let leader = self.federation.leader(&honest).await;
        self.federation.commit(leader, 3).await;
        let grown = |this: &Federation| {
            honest.iter().all(|node| this.process(*node).replica.size() == LedgerSize(4)).then_some(())
        };
        self.federation.until("the honest two to go on", grown).await;
        let roots: Vec<_> =
            honest.iter().map(|node| self.federation.process(*node).replica.checkpoint().expect("a state")).collect();
        assert_eq!(roots[0], roots[1]);
    }
}

fn flip(hash: &Hash) -> Hash {
    let mut bytes = *hash.as_bytes();
    bytes[31] ^= 1;
    Hash::from_parts(hash.algorithm(), bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_entries_of_a_core_node_are_refused_and_named() {
    type Change = fn(&mut Batch);
    let batches: [(&str, Change); 8] = [
        ("command 0 of the batch at", |batch| batch.submissions[0].command.body.public.push(1)),
        ("BadSignature", |batch| batch.submissions[0].command.body.sequence.0 += 1),
        ("UnknownOrigin", |batch| {
            batch.submissions[0].command.body.stream.node = NodeId::new(Hash::blake3(&[b"nobody"]));
        }),
        ("as its previous one; it is", |batch| batch.previous = flip(&batch.previous)),
        ("compare both clocks with a time server", |batch| batch.time = batch.time.plus_ms(10_000)),
        ("ms older than the one before it", |batch| batch.time.0 -= 10_000),
        ("was proposed by", |batch| batch.proposer = batch.submissions[0].command.body.stream.node),
        ("is malformed", |batch| batch.submissions.clear()),
    ];
    let trial = Trial::begin().await;
    for (expected, change) in batches {
        let mut batch = trial.batch();
        change(&mut batch);
        let append = trial.append(EntryPayload::Normal(SharedBatch::new(batch)));
        refuses(&trial, &append, expected).await;
    }
    let mut others_vote = trial.append(EntryPayload::Blank);
    others_vote.vote = Vote::new_committed(others_vote.vote.leader_id.term, trial.federation.world.seat(trial.victim));
    others_vote.entries.clear();
    refuses(&trial, &others_vote, "sent what only").await;
    let mut absurd_term = trial.append(EntryPayload::Blank);
    absurd_term.vote = Vote::new_committed(1 << 61, trial.liar_seat());
    refuses(&trial, &absurd_term, "ahead of this node's").await;
    let alone = trial.membership(&[trial.liar_seat().0]);
    refuses(&trial, &trial.append(EntryPayload::Membership(alone)), "would vote").await;
    let mut past = trial.append(EntryPayload::Blank);
    let before = past.previous.expect("entries are there").index - 1;
    past.previous = Some(LogId { leader_id: LeaderId { term: 0, node_id: trial.liar_seat() }, index: before });
    past.entries[0].log_id.index = before + 1;
    refuses(&trial, &past, "differs from the one that is committed here").await;
    trial.ends_well().await;
}

async fn refuses(trial: &Trial, append: &Append, expected: &str) {
    let answer = trial.tell(Method::Append, append.to_bytes()).await.expect("an answer");
    match AppendReply::from_bytes(&answer).expect("a reply") {
        AppendReply::Refused(notice) => assert!(notice.reason.contains(expected), "{expected}: {}", notice.reason),
        other => panic!("{expected}: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tampered_snapshot_reference_is_not_installed_and_its_fault_is_named() {
    type Change = fn(&mut SnapshotCall, &Trial);
    let cases: [(&str, Change); 10] = [
        ("the ledger's root at 3 entries", |call, _| call.reference.root = flip(&call.reference.root)),
        ("the state's digest at 3 entries", |call, _| call.reference.digest = flip(&call.reference.digest)),
        ("the newest batch at 3 entries", |call, _| call.reference.tip.hash = flip(&call.reference.tip.hash)),
        ("stands at 4 ledger entries, this node at 3", |call, _| call.reference.size = LedgerSize(4)),
        ("stands at 2 ledger entries, this node at 3", |call, _| call.reference.size = LedgerSize(2)),
        ("would vote", |call, trial| {
            call.membership = StoredMembership::new(call.last, trial.membership(&[trial.liar_seat().0]));
        }),
        ("log entries ahead", |call, _| call.last = call.last.map(|id| LogId { index: 1 << 40, ..id })),
        ("beyond any that a log can reach", |call, _| {
            call.last = call.last.map(|id| LogId { index: u64::MAX, ..id });
        }),
        ("sent what only", |call, trial| {
            let seat = trial.federation.world.seat(trial.victim);
            call.vote = Vote::new_committed(call.vote.leader_id.term + 1, seat);
        }),
        ("ahead of this node's", |call, trial| call.vote = Vote::new_committed(1 << 61, trial.liar_seat())),
    ];
    let trial = Trial::begin().await;
    let before = trial.here();
    for (expected, change) in cases {
        let mut call = trial.snapshot();
        change(&mut call, &trial);
        match trial.tell(Method::Snapshot, call.to_bytes()).await {
            Err(TransportError::Refused { reason, .. }) => assert!(reason.contains(expected), "{expected}: {reason}"),
            other => panic!("{expected}: {other:?}"),
        }
        assert_eq!(trial.here(), before, "{expected}: something was installed");
    }
    trial.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_of_what_is_here_is_taken_and_the_core_goes_on() {
    let trial = Trial::begin().await;
    let call = trial.snapshot();
    let answer = trial.tell(Method::Snapshot, call.to_bytes()).await.expect("taken");
    assert!(VoteReply::from_bytes(&answer).expect("a reply").granted);
    let at = call.last;
    trial.federation.until("it to be installed", |_| (trial.here().applied == at).then_some(())).await;
    let status = trial.federation.process(trial.victim).core.status();
    assert_eq!((status.size, status.stopped), (LedgerSize(3), None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_for_every_method_is_refused_and_stops_nobody() {
    let trial = Trial::begin().await;
    let right = trial.append(EntryPayload::Normal(SharedBatch::new(trial.batch()))).to_bytes();
    let candidate = VoteCall { vote: Vote::new(1 << 61, trial.liar_seat()), last: None, transfer: true };
    let absurd_count = [&[1, 7, 2, 1, 0][..], &[0xff, 0xff, 0xff, 0xff, 0x0f]].concat();
    let large = vec![0xff; 2 * 1024 * 1024];
    let bodies = [Vec::new(), vec![1, 2, 3], vec![9; 64], large, candidate.to_bytes(), absurd_count];
    let methods = [Method::Append, Method::Vote, Method::PreVote, Method::Transfer, Method::Snapshot, Method::Submit];
    for method in methods {
        for body in &bodies {
            let answer = trial.tell(method, body.clone()).await;
            let refused = matches!(answer, Err(TransportError::Refused { .. }));
            assert!(refused, "{method:?} of {} bytes: {answer:?}", body.len());
        }
    }
    for length in (1..right.len()).step_by(7) {
        let answer = trial.tell(Method::Append, right[..length].to_vec()).await;
        assert!(matches!(answer, Err(TransportError::Refused { .. })), "cut to {length}: {answer:?}");
    }
    trial.ends_well().await;
}

/// A peer that answers every call with the same bytes.
#[derive(Clone)]
struct Says(Vec<u8>);

impl Transport for Says {
    fn call(
        &self,
        _: RaftId,
        _: &CoreNode,
        _: Method,
        _: Vec<u8>,
        _: Duration,
    ) -> BoxFuture<'static, Result<Vec<u8>, TransportError>> {
        let answer = self.0.clone();
        Box::pin(async move { Ok(answer) })
    }
}

#[tokio::test]
async fn a_peer_that_tells_of_an_absurd_term_does_not_use_up_all_terms() {
    let peer = CoreNode { node: NodeId::new(Hash::blake3(&[b"liar"])), name: "liar".into(), address: "nowhere".into() };
    let votes = [(9, true), (9 + (1 << 20), true), (10 + (1 << 20), false), (1 << 61, false)];
    for (term, believed) in votes {
        let reply = VoteReply { vote: Vote::new(term, RaftId(2)), last: None, granted: false };
        let mut factory = NetworkFactory::new(RaftId(1), Says(reply.to_bytes()), PeerBook::default());
        let mut network =
            RaftNetworkFactory::<TypeConfig<TokioRuntime>>::new_client(&mut factory, RaftId(2), &peer).await;
        let request = VoteRequest::new(Vote::new(9, RaftId(1)), None);
        let answer = RaftNetworkV2::<TypeConfig<TokioRuntime>>::vote(&mut network, request, RPCOption::new(CALL)).await;
        match answer {
            Ok(response) => assert!(believed && response.vote.leader_id.term == term, "term {term}"),
            Err(RPCError::Network(error)) => {
                assert!(!believed && error.to_string().contains("ahead of this node's"), "term {term}: {error}");
            }
            Err(other) => panic!("term {term}: {other:?}"),
        }
    }
}
