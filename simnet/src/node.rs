//! A node from outside: its disks, its lives, and how one is started and ended.
//!
//! What survives a crash is here (disks, the watermark beside the log, the wall clock); what does not is in
//! [`crate::driver`], inside a [`Life`].

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::channel::mpsc;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tessera_consensus::LedgerSize;
use tessera_consensus::certify::{self, Certifier};
use tessera_consensus::checkpoint::SigningGuard;
use tessera_consensus::kernel::{Domain, Entry, Rejection, Verdict};
use tessera_consensus::raft::cluster::{Core, CoreSetup, StartError, Timing};
use tessera_consensus::raft::log_store;
use tessera_consensus::raft::state_machine::RAFT_APPLIED;
use tessera_consensus::raft::types::RaftId;
use tessera_consensus::raft::watermark::MemoryWatermark;
use tessera_consensus::replica::{self, Applied, Replica, ReplicaError};
use tessera_consensus::state::Transaction;
use tessera_consensus::wire::DecodeError;
use tessera_consensus::wire::v1::{Genesis, Role};
use tessera_federation::machine::Machine;
use tessera_federation::outbox::{OUTBOX, Outbox, OutboxError};
use tessera_storage::engine::{Engine, EngineError, Table};

use crate::clock::MachineClock;
use crate::disk::{Disk, Lies, Probe};
use crate::driver::{Asked, Driver, Event, following};
use crate::founding::{Founding, Identity};
use crate::journal::{Journal, Promise};
use crate::network::{Calls, CoreLine, Host, Network};
use crate::oracle::Oracle;
use crate::origin::{CATALOGUE, Matter, Origin, OriginSetup, Workload, catalogue};
use crate::plan::{Mutation, Plan, stream};
use crate::runtime::{Life, NodeRuntime};

/// The signing guard has a disk of its own, as it has a file of its own beside the checkpoint key.
pub const GUARD: Table = "signing_guard";
pub const GUARD_KEY: &[u8] = b"guard";
/// The entry that a forgetful machine forgets.
const FORGOTTEN: u64 = 9;

pub type SimCore = Core<NodeRuntime, CoreLine>;

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    #[error(transparent)]
    Core(#[from] StartError),
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    #[error("the signing guard cannot be read: {0}")]
    Guard(#[from] DecodeError),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// What all nodes share.
#[derive(Clone)]
pub struct Surroundings {
    pub founding: Arc<Founding>,
    pub network: Network,
    pub journal: Journal,
    pub oracle: Oracle,
    pub plan: Plan,
}

/// A machine with its disks.
pub struct Node {
    pub host: Host,
    pub clock: MachineClock,
    surroundings: Surroundings,
    /// The ledger, the outbox and the catalogue.
    ledger: Disk,
    /// Core nodes: the Raft log.
    raft: Option<Disk>,
    /// Core nodes: the signing guard.
    guard: Option<Disk>,
    watermark: Arc<MemoryWatermark>,
    health: Arc<DiskHealth>,
    faults: ChaCha8Rng,
    lives: u32,
    running: Option<Running>,
}

/// What is wrong with a machine's disks now: their errors break no promise.
#[derive(Default)]
pub struct DiskHealth {
    has_failed: AtomicBool,
    are_full: AtomicBool,
}

impl DiskHealth {
    pub fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed)
    }

    pub fn are_full(&self) -> bool {
        self.are_full.load(Ordering::Relaxed)
    }
}

/// What a running node shows.
pub struct Running {
    life: Life,
    pub replica: Arc<Replica>,
    pub core: Option<SimCore>,
    pub outbox: Arc<Outbox>,
}

impl Node {
    pub fn new(host: Host, surroundings: Surroundings) -> Self {
        let Surroundings { founding, journal, plan, .. } = &surroundings;
        let is_core = founding.identity(host).role == Role::Core;
        let rng = |part: &str| stream(plan.seed, &format!("{part} of {host}"));
        let mut tables = replica::TABLES.to_vec();
        tables.extend([OUTBOX, CATALOGUE]);
        if is_core {
            tables.push(RAFT_APPLIED);
        }
        let lies = match plan.mutation {
            Some(Mutation::IgnoreFailedSync) => Lies::AfterFailedSync,
            _ => Lies::Never,
        };
        let ledger = Disk::new(format!("{host} ledger"), &tables, lies, rng("ledger disk"), journal.clone());
        let raft = is_core.then(|| {
            let lies = match plan.mutation {
                Some(Mutation::AcknowledgeBeforeFsync) => Lies::Always,
                _ => lies,
            };
            Disk::new(format!("{host} raft"), &log_store::TABLES, lies, rng("raft disk"), journal.clone())
        });
        let guard =
            is_core.then(|| Disk::new(format!("{host} guard"), &[GUARD], lies, rng("guard disk"), journal.clone()));
        let faults = rng("disk faults");
        Self {
            host,
            clock: MachineClock::default(),
            surroundings,
            ledger,
            raft,
            guard,
            watermark: Arc::default(),
            health: Arc::default(),
            faults,
            lives: 0,
            running: None,
        }
    }

    /// How many lives have begun.
    pub fn lives(&self) -> u32 {
        self.lives
    }

    pub fn running(&self) -> Option<&Running> {
        self.running.as_ref()
    }

    /// Writes of the Raft log that a crash now may lose.
    pub fn unsynced(&self) -> usize {
        self.raft.as_ref().map_or(0, Disk::unsynced)
    }

    fn disks(&self) -> impl Iterator<Item = &Disk> {
        [Some(&self.ledger), self.raft.as_ref(), self.guard.as_ref()].into_iter().flatten()
    }

    /// From now on all its disks take this many times as long.
    pub fn slow_down(&self, factor: u32) {
        self.disks().for_each(|disk| disk.slow_down(factor));
    }

    /// One of its disks fails at the next sync.
    pub fn fail_sync(&mut self) {
        let count = self.disks().count();
        let which = self.faults.random_range(0..count);
        self.health.has_failed.store(true, Ordering::Relaxed);
        self.disks().nth(which).expect("one of its disks").fail_next_sync();
    }

    /// Some of its disks are full, or all have room again.
    pub fn fill(&mut self, is_full: bool) {
        self.health.are_full.store(is_full, Ordering::Relaxed);
        let count = self.disks().count();
        let some = if is_full { self.faults.random_range(1..1_u32 << count) } else { 0 };
        self.disks().enumerate().for_each(|(at, disk)| disk.fill(some & (1 << at) != 0));
    }

    pub fn is_full(&self) -> bool {
        self.health.are_full()
    }

    /// The process is stopped, or goes on.
    pub fn freeze(&self, stopped: bool) {
        let Some(running) = &self.running else { return };
        if stopped { running.life.freeze() } else { running.life.thaw() }
    }

    /// Starts a life on what the disks hold.
    pub async fn boot(&mut self) -> Result<(), BootError> {
        let life = Life::new();
        let setup = life.own(boot(BootSetup {
            host: self.host,
            clock: self.clock.clone(),
            life: life.clone(),
            surroundings: self.surroundings.clone(),
            lives: self.lives,
            ledger: self.ledger.mount(),
            raft: self.raft.as_mut().map(Disk::mount),
            guard: self.guard.as_mut().map(|disk| (disk.mount(), disk.probe())),
            watermark: self.watermark.clone(),
            health: self.health.clone(),
        }));
        self.lives += 1;
        match setup.await {
            Ok(running) => self.running = Some(running),
            Err(error) => {
                life.end();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Power is lost: the process is gone at once, the disks keep what they had synced and a little more. Returns
    /// how many writes were lost from the Raft log and from the ledger.
    pub fn crash(&mut self) -> (usize, usize) {
        self.end_life();
        self.health.has_failed.store(false, Ordering::Relaxed);
        if let Some(guard) = &mut self.guard {
            guard.crash();
        }
        (self.raft.as_mut().map_or(0, Disk::crash), self.ledger.crash())
    }

    /// Ends the life without a word, keeping the disks as they are.
    pub fn end_life(&mut self) {
        self.surroundings.network.hang_up(self.host);
        if let Some(running) = self.running.take() {
            running.life.end();
            self.report(running.life.take_panics());
        }
    }

    /// Reports what panicked in the present life.
    pub fn report_panics(&self) {
        self.report(self.running.as_ref().map(|running| running.life.take_panics()).unwrap_or_default());
    }

    fn report(&self, panics: Vec<String>) {
        for panic in panics {
            self.surroundings.journal.breach(Promise::NoPanic, format!("{}: {panic}", self.host));
        }
    }

    /// The catalogue of a running node's origin.
    pub fn matters(&self) -> BTreeMap<u32, Matter> {
        self.running.as_ref().map(|running| catalogue(running.replica.view())).unwrap_or_default()
    }
}

struct BootSetup {
    host: Host,
    clock: MachineClock,
    life: Life,
    surroundings: Surroundings,
    lives: u32,
    ledger: Arc<dyn Engine>,
    raft: Option<Arc<dyn Engine>>,
    guard: Option<(Arc<dyn Engine>, Probe)>,
    watermark: Arc<MemoryWatermark>,
    health: Arc<DiskHealth>,
}

async fn boot(setup: BootSetup) -> Result<Running, BootError> {
    let BootSetup { host, clock, life, surroundings, lives, ledger, raft, guard, watermark, health } = setup;
    let Surroundings { founding, network, journal, oracle, plan } = surroundings;
    let identity = founding.identity(host).clone();
    let genesis = Genesis::from_bytes(&founding.genesis.to_bytes()).expect("our own genesis");
    let machine = machine(host, plan.mutation);
    let replica = Arc::new(Replica::open(ledger.clone(), genesis, machine)?);
    let (events, inbox) = mpsc::unbounded();
    let calls = Calls::default();
    let certifier = match &guard {
        Some((engine, _)) => Some(certifier(&identity, &**engine, &replica, &clock)?),
        None => None,
    };
    let core = match raft {
        Some(engine) => {
            let transport = CoreLine { me: host, network: network.clone(), calls: calls.clone() };
            Some(core(&identity, engine, watermark, &replica, transport, &events, clock.clone()).await?)
        }
        None => None,
    };
    let origin = Origin::open(OriginSetup {
        identity: &identity,
        engine: ledger,
        replica: replica.clone(),
        patients: founding.patients.clone(),
        oracle: oracle.clone(),
        rng: stream(plan.seed, &format!("origin of {host}, life {lives}")),
        workload: Workload { commands: plan.commands, pause_ms_max: plan.pause_ms_max },
    })?;
    let port = events.clone();
    network.listen(host, Arc::new(move |packet| drop(port.unbounded_send(Event::Packet(packet)))));
    let driver = Driver {
        host,
        clock,
        core_nodes: plan.size.core,
        follower: following(&replica, core.is_some())?,
        replica: replica.clone(),
        core: core.clone(),
        certifier,
        guard_waits: None,
        guard_disk: guard,
        mutation: plan.mutation,
        origin,
        calls,
        network,
        founding,
        oracle,
        journal,
        life: life.clone(),
        events,
        leader: None,
        health,
        has_ended: Cell::new(false),
        raft_stopped: false,
        asked: Asked::default(),
        rng: stream(plan.seed, &format!("driver of {host}, life {lives}")),
    };
    let outbox = driver.origin.outbox();
    life.spawn(driver.run(inbox));
    Ok(Running { life, replica, core, outbox })
}

fn certifier(
    identity: &Identity,
    guard: &dyn Engine,
    replica: &Replica,
    clock: &MachineClock,
) -> Result<Certifier, BootError> {
    let guard = match guard.get(GUARD, GUARD_KEY)? {
        Some(bytes) => SigningGuard::from_bytes(&bytes)?,
        None => SigningGuard::new(),
    };
    let signer = certify::Identity {
        node: identity.node,
        federation: replica.federation(),
        name: identity.signer.clone(),
        checkpoint_key: identity.checkpoint.clone(),
    };
    Ok(Certifier::new(signer, guard, replica.certificate(), clock.wall()))
}

/// Starts Raft. What it applies, and first the state that it begins with, goes to the driver.
async fn core(
    identity: &Identity,
    raft_engine: Arc<dyn Engine>,
    watermark: Arc<MemoryWatermark>,
    replica: &Arc<Replica>,
    transport: CoreLine,
    events: &mpsc::UnboundedSender<Event>,
    clock: MachineClock,
) -> Result<SimCore, BootError> {
    let events = events.clone();
    // The driver is gone only when this life is over.
    let tell = move |checkpoint| drop(events.unbounded_send(Event::Applied(checkpoint)));
    if replica.size() > LedgerSize(0) {
        tell(replica.checkpoint()?);
    }
    let setup = CoreSetup {
        seat: RaftId(u64::from(identity.host.0)),
        node: identity.node,
        raft_engine,
        watermark,
        replica: replica.clone(),
        clock: Arc::new(move || clock.wall()),
        transport,
        listener: Arc::new(move |done: &Applied| tell(done.checkpoint)),
        timing: Timing::default(),
    };
    Ok(Core::start(setup).await?)
}

fn machine(host: Host, mutation: Option<Mutation>) -> Arc<dyn Domain> {
    match mutation {
        Some(Mutation::ForgetfulMachine) if host == Host(2) => Arc::new(Forgetful(Machine)),
        _ => Arc::new(Machine),
    }
}

/// A machine with a fault: one entry does not take effect.
struct Forgetful(Machine);

impl Domain for Forgetful {
    fn found(&self, parameters: &[u8], state: &mut Transaction<'_>) -> Result<(), DecodeError> {
        self.0.found(parameters, state)
    }

    fn apply(&self, entry: &Entry<'_>, state: &mut Transaction<'_>) -> Result<Verdict, EngineError> {
        if entry.index.0 >= FORGOTTEN {
            return Ok(Verdict::Rejected(Rejection::NOT_ACTIVE));
        }
        self.0.apply(entry, state)
    }
}
