//! Three core nodes in one process over real gRPC, mutual TLS and RocksDB on loopback: commits, strangers at the
//! door, a killed leader, a node that returns.
//!
//! Not for protocol cases (those run on simulated time in `raft_simulated.rs`): for what only the real network shows.
#![cfg(feature = "grpc")]

mod federation;
mod lies;
#[path = "../world/mod.rs"]
mod world;

use std::sync::Arc;

use tessera_consensus::LedgerIndex;
use tessera_consensus::grpc::Call;
use tessera_consensus::grpc::client::GrpcTransport;
use tessera_consensus::grpc::server::{Services, serve};
use tessera_consensus::grpc::tls::{Allowed, Identity, Peer, certificate_key, self_signed};
use tessera_consensus::kernel::Outcome;
use tessera_consensus::keys::SigningKey;
use tessera_consensus::raft::cluster::{Core, CoreSetup, Timing, receipts_from_bytes};
use tessera_consensus::raft::intake::CommandReceipt;
use tessera_consensus::raft::log_store;
use tessera_consensus::raft::network::{Method, TransportError};
use tessera_consensus::raft::types::{CoreNode, RaftId};
use tessera_consensus::raft::wire;
use tokio::net::TcpListener;
use tokio::time::timeout;

use federation::{ALL, CALL, Federation, Handlers, Running, now};
use world::{World, ledger_tables};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_survive_the_leader_and_a_returning_node_catches_up() {
    let mut federation = Federation::start().await;
    let leader = federation.leader(&ALL).await;
    let follower = (leader + 1) % 3;
    assert_eq!(federation.commit(leader, 0).await, CommandReceipt { index: LedgerIndex(0), outcome: Outcome::Applied });
    assert_eq!(federation.commit(follower, 1).await.index, LedgerIndex(1), "forwarded to the leader");
    federation.kill(leader).await;
    for sequence in 2..20 {
        federation.commit(follower, sequence).await;
    }
    let process = federation.boot(leader).await;
    federation.processes[leader] = Some(process);
    federation.all_reach(20).await;
    federation.commit(leader, 20).await;
    federation.all_reach(21).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_pinned_keys_come_in_and_only_core_nodes_speak_raft() {
    let federation = Federation::start().await;
    let leader = federation.leader(&ALL).await;
    let transport =
        |key: &SigningKey, allowed: Allowed| GrpcTransport::new(Identity::new(key).expect("identity"), allowed);
    let status = |transport: GrpcTransport, peer: CoreNode| async move {
        timeout(CALL, transport.request(&peer, Call::Status, Vec::new(), CALL)).await.expect("an answer in time")
    };

    let stranger = transport(&SigningKey::from_seed([200; 32]), federation.allowed());
    let refused = status(stranger, federation.peer(leader)).await;
    assert!(matches!(refused, Err(TransportError::Unreachable { .. })), "{refused:?}");

    let member = &federation.world.nodes[federation.world.member()];
    let known = transport(&member.transport, federation.allowed());
    assert!(status(known.clone(), federation.peer(leader)).await.is_ok());
    let call = Call::Raft(Method::Vote);
    let voted = known.request(&federation.peer(leader), call, Vec::new(), CALL).await;
    assert!(matches!(voted, Err(TransportError::Refused { .. })), "a member is no voter: {voted:?}");
    let command = federation.world.command(federation.world.member(), 0, b"by the member");
    let submit = Call::Raft(Method::Submit);
    let answer = known.request(&federation.peer(leader), submit, wire::to_bytes(&vec![command]), CALL).await;
    let receipts = receipts_from_bytes(&answer.expect("served")).expect("receipts");
    assert!(matches!(receipts[..], [Ok(CommandReceipt { index: LedgerIndex(0), .. })]), "{receipts:?}");

    // Another node answers at the address: it holds another key than the one that was dialled.
    let elsewhere = CoreNode { address: federation.address((leader + 1) % 3), ..federation.peer(leader) };
    let dialled = transport(&member.transport, federation.allowed());
    let mistaken = status(dialled, elsewhere).await;
    assert!(matches!(mistaken, Err(TransportError::Unreachable { .. })), "{mistaken:?}");

    // A core node that speaks for another seat.
    let impostor = transport(&federation.world.nodes[(leader + 1) % 3].transport, federation.allowed());
    let vote = wire::VoteCall {
        vote: openraft::Vote::new(50, RaftId((leader as u64 + 2) % 3 + 1)),
        last: None,
        transfer: false,
    };
    let forged = impostor.request(&federation.peer(leader), call, vote.to_bytes(), CALL).await;
    assert!(matches!(forged, Err(TransportError::Refused { .. })), "{forged:?}");
    let garbage = impostor.request(&federation.peer(leader), call, vec![1, 2, 3], CALL).await;
    assert!(matches!(garbage, Err(TransportError::Refused { .. })), "{garbage:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_key_is_worth_nothing_on_an_open_connection() {
    let world = World::new(&["127.0.0.1:1".into()], now());
    let (server_key, caller) = (&world.nodes[0], &world.nodes[1]);
    let everyone = world.nodes.iter().map(|node| {
        (node.transport.public(), Peer { node: node.id(), seat: (node.id() == server_key.id()).then_some(RaftId(1)) })
    });
    let allowed = Allowed::new(everyone.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let address = listener.local_addr().expect("address").to_string();
    let engine = |tables: &[&'static str]| {
        Arc::new(tessera_storage::MemoryEngine::open(tables).expect("tables").auto_flush(true))
    };
    let core: Running = Core::start(CoreSetup {
        seat: RaftId(1),
        node: server_key.id(),
        raft_engine: engine(&log_store::TABLES),
        watermark: Arc::new(tessera_consensus::raft::watermark::MemoryWatermark::default()),
        replica: world.replica(engine(&ledger_tables())),
        clock: Arc::new(now),
        transport: GrpcTransport::new(Identity::new(&server_key.transport).expect("identity"), allowed.clone()),
        listener: Arc::new(|_| {}),
        timing: Timing::default(),
    })
    .await
    .expect("core");
    let services =
        Services { allowed: allowed.clone(), raft: Arc::new(core.clone()), core: Arc::new(Handlers(core.clone())) };
    let identity = Identity::new(&server_key.transport).expect("identity");
    let server = tokio::spawn(async move { serve(listener, &identity, services, std::future::pending()).await });

    let dialled = Allowed::new(everyone);
    let transport = GrpcTransport::new(Identity::new(&caller.transport).expect("identity"), dialled);
    let peer = CoreNode { node: server_key.id(), name: "core".into(), address };
    let status = || transport.request(&peer, Call::Status, Vec::new(), CALL);
    assert!(status().await.is_ok());
    allowed.replace([(server_key.transport.public(), Peer { node: server_key.id(), seat: Some(RaftId(1)) })]);
    let refused = status().await;
    assert!(matches!(refused, Err(TransportError::Refused { .. })), "{refused:?}");
    core.shutdown().await;
    server.abort();
}

#[test]
fn a_certificate_carries_exactly_the_transport_key() {
    let key = SigningKey::from_seed([9; 32]);
    let (certificate, _) = self_signed(key.seed()).expect("certificate");
    assert_eq!(certificate_key(&certificate).expect("an Ed25519 key"), key.public());
    let broken = rustls::pki_types::CertificateDer::from(vec![0x30, 0x03, 1, 2, 3]);
    assert!(certificate_key(&broken).is_err());
}
