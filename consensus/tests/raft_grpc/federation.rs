//! Three core nodes over real gRPC, mutual TLS and RocksDB on loopback, in one process: started, killed, booted again,
//! asked, and waited for.

use std::collections::BTreeSet;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use openraft_rt_tokio::TokioRuntime;
use tessera_consensus::grpc::client::GrpcTransport;
use tessera_consensus::grpc::server::{CoreService, ServiceError, Services, serve};
use tessera_consensus::grpc::tls::{Allowed, Identity, Peer};
use tessera_consensus::grpc::watermark::FileWatermark;
use tessera_consensus::raft::cluster::{Core, CoreSetup, Timing};
use tessera_consensus::raft::intake::{CommandReceipt, SubmitResult};
use tessera_consensus::raft::log_store;
use tessera_consensus::raft::types::CoreNode;
use tessera_consensus::raft::wire;
use tessera_consensus::replica::Replica;
use tessera_consensus::wire::v1::Submission;
use tessera_consensus::{LedgerSize, UnixMillis};
use tessera_storage::rocks::{EngineOptions, RocksEngine};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::world::{World, ledger_tables};

pub const PATIENCE: Duration = Duration::from_secs(60);
pub const CALL: Duration = Duration::from_secs(10);
pub const ALL: [usize; 3] = [0, 1, 2];

pub type Running = Core<TokioRuntime, GrpcTransport>;

/// What `node` will be: here it only hands submissions on.
pub struct Handlers(pub Running);

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

pub struct Process {
    pub core: Running,
    pub replica: Arc<Replica>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

pub struct Federation {
    pub world: World,
    directory: tempfile::TempDir,
    pub processes: Vec<Option<Process>>,
}

pub fn now() -> UnixMillis {
    UnixMillis(SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64)
}

impl Federation {
    pub async fn start() -> Self {
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

    pub fn allowed(&self) -> Allowed {
        let peers = self.world.nodes.iter().enumerate().map(|(number, node)| {
            let seat = (number < ALL.len()).then(|| self.world.seat(number));
            (node.transport.public(), Peer { node: node.id(), seat })
        });
        Allowed::new(peers)
    }

    pub async fn boot(&self, node: usize) -> Process {
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

    pub async fn kill(&mut self, node: usize) {
        let process = self.processes[node].take().expect("running");
        process.core.shutdown().await;
        process.server.abort();
        drop(process.stop);
        drop(process.server.await);
    }

    pub fn address(&self, node: usize) -> String {
        self.world.nodes[node].join.join.core_address.clone().expect("a core node")
    }

    pub fn peer(&self, node: usize) -> CoreNode {
        CoreNode { node: self.world.nodes[node].id(), name: format!("core {node}"), address: self.address(node) }
    }

    pub fn process(&self, node: usize) -> &Process {
        self.processes[node].as_ref().expect("running")
    }

    pub async fn until<T>(&self, what: &str, mut condition: impl FnMut(&Self) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(value) = condition(self) {
                return value;
            }
            assert!(Instant::now() < deadline, "waited in vain for {what}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn leader(&self, among: &[usize]) -> usize {
        self.until("a leader", |this| {
            let leaders: BTreeSet<_> = among.iter().map(|node| this.process(*node).core.leader()).collect();
            let leader = leaders.first().copied().flatten().filter(|_| leaders.len() == 1)?;
            among.iter().copied().find(|node| this.world.seat(*node) == leader)
        })
        .await
    }

    pub async fn commit(&self, node: usize, sequence: u64) -> CommandReceipt {
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

    pub async fn all_reach(&self, size: u64) {
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
