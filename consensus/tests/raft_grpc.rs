//! Three core nodes in one process over real gRPC, mutual TLS and RocksDB on loopback: commits, strangers at the
//! door, a killed leader, a node that returns.
//!
//! Not for protocol cases (those run on simulated time in `raft_simulated.rs`): for what only the real network shows.
#![cfg(feature = "grpc")]

use std::collections::BTreeSet;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use openraft_rt_tokio::TokioRuntime;
use tessera_consensus::grpc::Call;
use tessera_consensus::grpc::client::GrpcTransport;
use tessera_consensus::grpc::server::{CoreService, ServiceError, Services, serve};
use tessera_consensus::grpc::tls::{Allowed, Identity, Peer, certificate_key, self_signed};
use tessera_consensus::grpc::watermark::FileWatermark;
use tessera_consensus::kernel::Outcome;
use tessera_consensus::keys::SigningKey;
use tessera_consensus::raft::cluster::{Core, CoreSetup, Timing};
use tessera_consensus::raft::intake::{CommandReceipt, SubmitResult};
use tessera_consensus::raft::log_store;
use tessera_consensus::raft::network::{Method, TransportError};
use tessera_consensus::raft::types::{CoreNode, RaftId};
use tessera_consensus::raft::wire;
use tessera_consensus::replica::Replica;
use tessera_consensus::wire::v1::Submission;
use tessera_consensus::{LedgerIndex, LedgerSize, UnixMillis};
use tessera_storage::rocks::{EngineOptions, RocksEngine};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

mod world;
use world::{World, ledger_tables};

const PATIENCE: Duration = Duration::from_secs(60);
const CALL: Duration = Duration::from_secs(10);
const ALL: [usize; 3] = [0, 1, 2];

type Running = Core<TokioRuntime, GrpcTransport>;

/// What `node` will be: here it only hands submissions on.
struct Handlers(Running);

#[tonic::async_trait]
impl CoreService for Handlers {
    async fn submit(&self, _: Peer, submissions: Vec<Submission>) -> Vec<SubmitResult> {
        self.0.submit(submissions).await
    }
    async fn cosign(&self, _: Peer, _: Vec<u8>) -> Result<Vec<u8>, ServiceError> {
        Err(ServiceError::Unavailable("certification is not part of this test".into()))
    }
    async fn announce_checkpoint(&self, _: Peer, _: Vec<u8>) -> Result<(), ServiceError> {
        Ok(())
    }
    async fn status(&self, peer: Peer) -> Result<Vec<u8>, ServiceError> {
        Ok(wire::to_bytes(&(self.0.status(), peer.node)))
    }
    async fn blind_evaluate(&self, _: Peer, request: Vec<u8>) -> Result<Vec<u8>, ServiceError> {
        Ok(request)
    }
}

struct Process {
    core: Running,
    replica: Arc<Replica>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

struct Federation {
    world: World,
    directory: tempfile::TempDir,
    processes: Vec<Option<Process>>,
}

fn now() -> UnixMillis {
    UnixMillis(SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64)
}

impl Federation {
    async fn start() -> Self {
        let ports: Vec<StdListener> = ALL.iter().map(|_| StdListener::bind("127.0.0.1:0").expect("port")).collect();
        let address = |port: &StdListener| port.local_addr().expect("address").to_string();
        let world = World::new(&ports.iter().map(address).collect::<Vec<_>>(), now());
        drop(ports);
        let directory = tempfile::tempdir().expect("directory");
        let mut federation = Self { world, directory, processes: Vec::new() };
        for node in ALL {
            let process = federation.boot(node).await;
            federation.processes.push(Some(process));
        }
        federation
    }

    fn allowed(&self) -> Allowed {
        let peers = self.world.nodes.iter().enumerate().map(|(number, node)| {
            let seat = (number < ALL.len()).then(|| self.world.seat(number));
            (node.transport.public(), Peer { node: node.id(), seat })
        });
        Allowed::new(peers)
    }

    async fn boot(&self, node: usize) -> Process {
        let keys = &self.world.nodes[node];
        let identity = || Identity::new(&keys.transport).expect("identity");
        let directory = self.directory.path().join(format!("node-{node}"));
        std::fs::create_dir_all(&directory).expect("directory");
        let engine = |name: &str, tables: &[&'static str]| {
            // The death of the process is what is tested here, not that of the machine.
            let options = EngineOptions { sync: false, ..EngineOptions::default() };
            Arc::new(RocksEngine::open(&directory.join(name), tables, options).expect("engine"))
        };
        let replica = self.world.replica(engine("ledger", &ledger_tables()));
        let core = Core::start(CoreSetup {
            seat: self.world.seat(node),
            node: keys.id(),
            raft_engine: engine("raft", &log_store::TABLES),
            watermark: Arc::new(FileWatermark::open(&directory.join("watermark")).expect("watermark")),
            replica: replica.clone(),
            clock: Arc::new(now),
            transport: GrpcTransport::new(identity(), self.allowed()),
            listener: Arc::new(|_| {}),
            timing: Timing::default(),
        });
        let core = core.await.expect("core");
        let services =
            Services { allowed: self.allowed(), raft: Arc::new(core.clone()), core: Arc::new(Handlers(core.clone())) };
        let listener = TcpListener::bind(&self.address(node)).await.expect("its own port");
        let (stop, stopped) = oneshot::channel();
        let identity = identity();
        let server = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            serve(listener, &identity, services, stopped).await.expect("served");
        });
        Process { core, replica, stop, server }
    }

    async fn kill(&mut self, node: usize) {
        let process = self.processes[node].take().expect("running");
        process.core.shutdown().await;
        process.server.abort();
        drop(process.stop);
        drop(process.server.await);
    }

    fn address(&self, node: usize) -> String {
        self.world.nodes[node].join.join.core_address.clone().expect("a core node")
    }

    fn peer(&self, node: usize) -> CoreNode {
        CoreNode { node: self.world.nodes[node].id(), name: format!("core {node}"), address: self.address(node) }
    }

    fn process(&self, node: usize) -> &Process {
        self.processes[node].as_ref().expect("running")
    }

    async fn until<T>(&self, what: &str, mut condition: impl FnMut(&Self) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(value) = condition(self) {
                return value;
            }
            assert!(Instant::now() < deadline, "waited in vain for {what}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn leader(&self, among: &[usize]) -> usize {
        self.until("a leader", |this| {
            let leaders: BTreeSet<_> = among.iter().map(|node| this.process(*node).core.leader()).collect();
            let leader = leaders.first().copied().flatten().filter(|_| leaders.len() == 1)?;
            among.iter().copied().find(|node| this.world.seat(*node) == leader)
        })
        .await
    }

    async fn commit(&self, node: usize, sequence: u64) -> CommandReceipt {
        let command = self.world.command(self.world.member(), sequence, b"note");
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.process(node).core.submit(vec![command.clone()]).await.pop().expect("one answer") {
                Ok(receipt) => return receipt,
                Err(error) => assert!(Instant::now() < deadline, "not taken: {error}"),
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn all_reach(&self, size: u64) {
        self.until("the ledger to grow everywhere", |this| {
            ALL.iter().all(|node| this.process(*node).replica.size() == LedgerSize(size)).then_some(())
        })
        .await;
        let states: BTreeSet<String> = ALL
            .iter()
            .map(|node| format!("{:?}", self.process(*node).replica.checkpoint().expect("checkpoint")))
            .collect();
        assert_eq!(states.len(), 1, "one history: {states:?}");
    }
}

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
    let receipts: Vec<SubmitResult> =
        wire::from_bytes("receipts", &answer.expect("served"), wire::MESSAGE_BYTES_MAX).expect("receipts");
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
