//! Three core nodes on simulated time and a simulated network: agreement, crashes, a wrong clock, a forged batch,
//! a directory that was put back.
//!
//! Not for bytes on a real network or disk; those are in `raft_grpc` and in the storage crate.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::AsyncRuntime;
use openraft::async_runtime::Instant;
use openraft::base::BoxFuture;
use openraft_rt_sim::{SimInstant, SimRuntime};
use tessera_consensus::kernel::Outcome;
use tessera_consensus::raft::admission::TERM_JUMP_MAX;
use tessera_consensus::raft::cluster::{Core, CoreSetup, StartError, Timing};
use tessera_consensus::raft::intake::{CommandReceipt, SubmitError, SubmitResult};
use tessera_consensus::raft::log_store::{self, LogError};
use tessera_consensus::raft::network::{Method, Transport, TransportError};
use tessera_consensus::raft::types::{CoreNode, RaftId, Vote};
use tessera_consensus::raft::watermark::MemoryWatermark;
use tessera_consensus::raft::wire::{Append, AppendReply, Transfer, VoteCall};
use tessera_consensus::replica::Replica;
use tessera_consensus::{LedgerIndex, LedgerSize, UnixMillis};
use tessera_storage::memory::{MemoryEngine, MemoryImage};

mod world;
use world::{World, ledger_tables};

/// The simulation's beginning on the wall clock.
const EPOCH: UnixMillis = UnixMillis(1_700_000_000_000);
const PATIENCE: Duration = Duration::from_secs(120);

type Node = Core<SimRuntime, Net>;

/// Who can be reached, and by whom.
#[derive(Clone, Default)]
struct Net {
    me: RaftId,
    shared: Arc<Mutex<Cables>>,
}

#[derive(Default)]
struct Cables {
    nodes: BTreeMap<RaftId, Node>,
    cut: BTreeSet<RaftId>,
}

impl Transport for Net {
    fn call(
        &self,
        seat: RaftId,
        peer: &CoreNode,
        method: Method,
        body: Vec<u8>,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Vec<u8>, TransportError>> {
        let (me, shared, name) = (self.me, self.shared.clone(), peer.name.clone());
        Box::pin(async move {
            SimRuntime::sleep(Duration::from_millis(2)).await;
            let target = {
                let cables = shared.lock().expect("lock");
                let cut = cables.cut.contains(&me) || cables.cut.contains(&seat);
                cables.nodes.get(&seat).filter(|_| !cut).cloned()
            };
            let unreachable = |reason: &str| TransportError::Unreachable { peer: name.clone(), reason: reason.into() };
            let target = target.ok_or_else(|| unreachable("cut off"))?;
            match SimRuntime::timeout(timeout, target.serve(me, method, &body)).await {
                Ok(answer) => answer.map_err(|error| TransportError::Refused { peer: name, reason: error.to_string() }),
                Err(_) => Err(TransportError::Timeout { peer: name, after: timeout }),
            }
        })
    }
}

struct Disk {
    raft: MemoryEngine,
    ledger: MemoryEngine,
    watermark: Arc<MemoryWatermark>,
    replica: Option<Arc<Replica>>,
    /// How far this node's clock is ahead, milliseconds.
    skew_ms: Arc<Mutex<i64>>,
}

struct Federation {
    world: World,
    net: Arc<Mutex<Cables>>,
    disks: Vec<Disk>,
    started: SimInstant,
}

impl Federation {
    async fn start(size: usize) -> Self {
        let addresses: Vec<String> = (1..=size).map(|n| format!("core-{n}:1")).collect();
        let disk = || Disk {
            raft: MemoryEngine::open(&log_store::TABLES).expect("tables").auto_flush(true),
            ledger: MemoryEngine::open(&ledger_tables()).expect("tables").auto_flush(true),
            watermark: Arc::default(),
            replica: None,
            skew_ms: Arc::default(),
        };
        let disks = (0..size).map(|_| disk()).collect();
        let world = World::new(&addresses, UnixMillis(EPOCH.0 - 1000));
        let mut federation = Self { world, net: Arc::default(), disks, started: SimInstant::now() };
        for node in 0..size {
            federation.boot(node).await.expect("start");
        }
        federation
    }

    async fn boot(&mut self, node: usize) -> Result<(), StartError> {
        let seat = self.world.seat(node);
        let replica = self.world.replica(Arc::new(self.disks[node].ledger.clone()));
        let disk = &mut self.disks[node];
        disk.replica = Some(replica.clone());
        let (started, skew) = (self.started, disk.skew_ms.clone());
        let clock = move || {
            let elapsed = (SimInstant::now() - started).as_millis() as i64;
            UnixMillis((EPOCH.0 as i64 + elapsed + *skew.lock().expect("lock")) as u64)
        };
        let core = Core::start(CoreSetup {
            seat,
            node: self.world.nodes[node].id(),
            raft_engine: Arc::new(disk.raft.clone()),
            watermark: disk.watermark.clone(),
            replica,
            clock: Arc::new(clock),
            transport: Net { me: seat, shared: self.net.clone() },
            listener: Arc::new(|_| {}),
            timing: Timing::default(),
        })
        .await?;
        self.net.lock().expect("lock").nodes.insert(seat, core);
        Ok(())
    }

    fn node(&self, node: usize) -> Node {
        self.net.lock().expect("lock").nodes[&self.world.seat(node)].clone()
    }

    /// The power fails: what was not synced is gone, and the process with it.
    async fn kill(&mut self, node: usize) {
        let core = self.net.lock().expect("lock").nodes.remove(&self.world.seat(node)).expect("running");
        core.shutdown().await;
        let disk = &mut self.disks[node];
        disk.raft = disk.raft.crash(0).auto_flush(true);
        disk.ledger = disk.ledger.crash(0).auto_flush(true);
    }

    fn cut(&self, node: usize, cut: bool) {
        let (seat, mut cables) = (self.world.seat(node), self.net.lock().expect("lock"));
        if cut {
            cables.cut.insert(seat)
        } else {
            cables.cut.remove(&seat)
        };
    }

    /// Waits until `condition` holds, at most [`PATIENCE`] of simulated time.
    async fn until<T>(&self, what: &str, mut condition: impl FnMut(&Self) -> Option<T>) -> T {
        let deadline = SimInstant::now() + PATIENCE;
        loop {
            if let Some(value) = condition(self) {
                return value;
            }
            assert!(SimInstant::now() < deadline, "waited in vain for {what}");
            SimRuntime::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The node that all of `among` take for the leader, and that takes itself for it.
    async fn leader(&self, among: &[usize]) -> usize {
        self.until("a leader", |this| {
            let leaders: BTreeSet<_> = among.iter().map(|node| this.node(*node).leader()).collect();
            let leader = leaders.first().copied().flatten().filter(|_| leaders.len() == 1)?;
            among.iter().copied().find(|node| this.world.seat(*node) == leader)
        })
        .await
    }

    /// Submits a member's command at `node` until it is taken; the outbox does the same.
    async fn commit(&self, node: usize, sequence: u64, public: &[u8]) -> CommandReceipt {
        let deadline = SimInstant::now() + PATIENCE;
        loop {
            match self.submit(node, sequence, public).await {
                Ok(receipt) => return receipt,
                Err(error) => assert!(SimInstant::now() < deadline, "not taken: {error}"),
            }
            SimRuntime::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn submit(&self, node: usize, sequence: u64, public: &[u8]) -> SubmitResult {
        let command = self.world.command(self.world.member(), sequence, public);
        let results = self.node(node).submit(vec![command]).await;
        results.into_iter().next().expect("one answer for one command")
    }

    async fn all_reach(&self, nodes: &[usize], size: u64) {
        self.until("the ledger to grow everywhere", |this| {
            nodes.iter().all(|node| this.replica(*node).size() == LedgerSize(size)).then_some(())
        })
        .await;
        let roots: BTreeSet<String> =
            nodes.iter().map(|node| format!("{:?}", self.replica(*node).checkpoint().expect("checkpoint"))).collect();
        assert_eq!(roots.len(), 1, "one history: {roots:?}");
    }

    fn replica(&self, node: usize) -> &Replica {
        self.disks[node].replica.as_ref().expect("started")
    }

    fn skew(&self, node: usize, ms: i64) {
        *self.disks[node].skew_ms.lock().expect("lock") = ms;
    }
}

fn simulate<F: Future<Output = ()>>(seed: u64, scenario: impl Fn() -> F) {
    SimRuntime::with_seed(seed).block_on(scenario());
}

const ALL: [usize; 3] = [0, 1, 2];

#[test]
fn commands_commit_from_any_node_and_apply_once() {
    simulate(1, || async {
        let federation = Federation::start(3).await;
        let leader = federation.leader(&ALL).await;
        let follower = (leader + 1) % 3;
        let applied = |index| CommandReceipt { index: LedgerIndex(index), outcome: Outcome::Applied };
        assert_eq!(federation.commit(leader, 0, b"a").await, applied(0));
        assert_eq!(federation.commit(follower, 1, b"b").await, applied(1));
        assert_eq!(federation.commit(follower, 0, b"a").await, applied(0), "a repeat gets its receipt again");
        let reused = federation.submit(leader, 1, b"x").await;
        assert!(matches!(reused, Err(SubmitError::Conflict { .. })), "{reused:?}");
        let many: Vec<_> = (2..400).map(|n| federation.world.command(3, n, b"many")).collect();
        let results = federation.node(follower).submit(many).await;
        assert!(results.iter().all(|result| matches!(result, Ok(receipt) if receipt.outcome == Outcome::Applied)));
        federation.all_reach(&ALL, 400).await;
    });
}

#[test]
fn a_dead_leader_is_replaced_and_catches_up_when_it_returns() {
    simulate(2, || async {
        let mut federation = Federation::start(3).await;
        let leader = federation.leader(&ALL).await;
        federation.commit(leader, 0, b"before").await;
        federation.kill(leader).await;
        let others: Vec<usize> = ALL.into_iter().filter(|node| *node != leader).collect();
        federation
            .until("another leader", |this| {
                this.node(others[0]).leader().filter(|seat| *seat != this.world.seat(leader))
            })
            .await;
        for sequence in 1..30 {
            federation.commit(others[0], sequence, b"meanwhile").await;
        }
        federation.boot(leader).await.expect("its log is whole");
        federation.all_reach(&ALL, 30).await;
        federation.kill(others[0]).await;
        federation.commit(leader, 30, b"after").await;
        federation.boot(others[0]).await.expect("start");
        federation.all_reach(&ALL, 31).await;
    });
}

#[test]
fn without_a_majority_nothing_commits_and_later_everything_once() {
    simulate(3, || async {
        let federation = Federation::start(3).await;
        let leader = federation.leader(&ALL).await;
        federation.commit(leader, 0, b"before").await;
        let others: Vec<usize> = ALL.into_iter().filter(|node| *node != leader).collect();
        others.iter().for_each(|node| federation.cut(*node, true));
        let mut waiting = Box::pin(federation.commit(leader, 1, b"alone"));
        let alone = SimRuntime::timeout(Duration::from_secs(20), &mut waiting).await;
        assert!(alone.is_err(), "committed without a majority");
        assert_eq!(federation.replica(leader).size(), LedgerSize(1));
        // By now what waits is older than the clock check allows: it must get through all the same.
        others.iter().for_each(|node| federation.cut(*node, false));
        assert_eq!(waiting.await.index, LedgerIndex(1));
        federation.all_reach(&ALL, 2).await;
    });
}

#[test]
fn a_leader_whose_clock_is_off_steps_down() {
    for ahead_ms in [3_600_000, -3_600_000] {
        simulate(4, || async {
            let federation = Federation::start(3).await;
            let leader = federation.leader(&ALL).await;
            federation.commit(leader, 0, b"before").await;
            federation.skew(leader, ahead_ms);
            let others: Vec<usize> = ALL.into_iter().filter(|node| *node != leader).collect();
            let time_before = federation.node(others[0]).status();
            federation.commit(others[0], 1, b"under a right clock").await;
            let now = federation.node(others[0]).leader();
            // A clock that is behind is not seen in batches: their time never goes back.
            if ahead_ms > 0 {
                assert_ne!(now, Some(federation.world.seat(leader)), "{time_before:?}");
            }
        });
    }
}

/// Whose clock is wrong must not cost the others their leader.
#[test]
fn a_follower_whose_clock_is_off_deposes_nobody() {
    for (skew_ms, seed) in [(10_000, 9), (-10_000, 9), (10_000, 10), (-10_000, 10)] {
        simulate(seed, || async {
            let federation = Federation::start(3).await;
            let leader = federation.leader(&ALL).await;
            federation.commit(leader, 0, b"before").await;
            let (sound, wrong) = ((leader + 1) % 3, (leader + 2) % 3);
            federation.skew(wrong, skew_ms);
            let reign = |this: &Federation| {
                [leader, sound].map(|node| (this.node(node).leader(), this.node(node).status().term))
            };
            let before = reign(&federation);
            let mut refused = false;
            for second in 1..=60 {
                let receipt = federation.submit(sound, second, b"under load").await;
                assert!(receipt.is_ok(), "{skew_ms} ms, {second} s: {receipt:?}");
                assert_eq!(reign(&federation), before, "{skew_ms} ms, {second} s");
                refused |= !federation.node(leader).status().clock_refusals.is_empty();
                SimRuntime::sleep(Duration::from_secs(1)).await;
            }
            assert!(refused, "the wrong clock did its work");
            federation.all_reach(&[leader, sound], 61).await;
            federation.skew(wrong, 0);
            federation.all_reach(&ALL, 61).await;
            assert_eq!(reign(&federation), before, "{skew_ms} ms, set right");
        });
    }
}

#[test]
fn a_core_node_that_was_put_back_does_not_take_part() {
    simulate(5, || async {
        let mut federation = Federation::start(3).await;
        let leader = federation.leader(&ALL).await;
        federation.commit(leader, 0, b"before").await;
        federation.all_reach(&ALL, 1).await;
        let victim = (leader + 1) % 3;
        let copy: (MemoryImage, MemoryImage) =
            (federation.disks[victim].raft.image(), federation.disks[victim].ledger.image());
        for sequence in 1..5 {
            federation.commit(leader, sequence, b"after the copy").await;
        }
        federation.all_reach(&ALL, 5).await;
        federation.kill(victim).await;
        let disk = &mut federation.disks[victim];
        disk.raft = MemoryEngine::restore(&copy.0).auto_flush(true);
        disk.ledger = MemoryEngine::restore(&copy.1).auto_flush(true);
        let refused = federation.boot(victim).await.expect_err("the watermark knows better");
        assert!(matches!(refused, StartError::Log(LogError::LogShorterThanDurable { .. })), "{refused}");

        // The watermark was put back with the rest: the leader remembers.
        federation.disks[victim].watermark = Arc::default();
        federation.boot(victim).await.expect("nothing here can know");
        SimRuntime::sleep(Duration::from_secs(10)).await;
        assert_eq!(federation.replica(victim).size(), LedgerSize(1), "it took entries over a hole in its past");
        assert_eq!(federation.leader(&[leader, (leader + 2) % 3]).await, leader, "the others go on undisturbed");
        federation.commit(leader, 5, b"without it").await;
    });
}

/// openraft follows any vote that is higher than its own: the last term would be the core's last.
#[test]
fn a_lying_core_node_cannot_bring_the_others_to_the_end_of_all_terms() {
    simulate(8, || async {
        let federation = Federation::start(3).await;
        let leader = federation.leader(&ALL).await;
        federation.commit(leader, 0, b"before").await;
        let (victim, liar) = ((leader + 1) % 3, (leader + 2) % 3);
        let (node, seat) = (federation.node(victim), federation.world.seat(liar));
        let term = node.status().term + 2 * TERM_JUMP_MAX;
        let vote = Vote::new_committed(term, seat);
        let heartbeat = Append { vote, previous: None, entries: Vec::new(), commit: None, confirmed: None };
        let reply = node.serve(seat, Method::Append, &heartbeat.to_bytes()).await.expect("an answer");
        assert!(matches!(AppendReply::from_bytes(&reply), Ok(AppendReply::Refused(_))));
        let transfer = Transfer { from: vote, to: federation.world.seat(victim), last: None };
        assert!(node.serve(seat, Method::Transfer, &transfer.to_bytes()).await.is_err());
        let call = VoteCall { vote: Vote::new(term, seat), last: None, transfer: true };
        for method in [Method::Vote, Method::PreVote] {
            assert!(node.serve(seat, method, &call.to_bytes()).await.is_err());
        }
        assert!(node.serve(seat, Method::Snapshot, &[]).await.is_err(), "there are none");
        assert!(node.status().term < TERM_JUMP_MAX, "{:?}", node.status());
        federation.commit(victim, 1, b"after").await;
    });
}

#[test]
fn one_node_is_a_core_too() {
    simulate(6, || async {
        let mut federation = Federation::start(1).await;
        federation.leader(&[0]).await;
        federation.commit(0, 0, b"alone").await;
        federation.kill(0).await;
        federation.boot(0).await.expect("start");
        federation.commit(0, 1, b"again").await;
        federation.all_reach(&[0], 2).await;
    });
}

#[test]
fn same_seed_same_history() {
    let run = |seed| {
        SimRuntime::with_seed(seed).block_on(async move {
            let mut federation = Federation::start(3).await;
            let leader = federation.leader(&ALL).await;
            federation.commit(leader, 0, b"a").await;
            federation.kill(leader).await;
            federation.commit((leader + 1) % 3, 1, b"b").await;
            let status = federation.node((leader + 1) % 3).status();
            format!("{status:?} {:?}", SimInstant::now() - federation.started)
        })
    };
    assert_eq!(run(11), run(11));
}
