//! A whole run: the nodes, the faults at their times, the wait until all work is done, and the last checks.
//!
//! The scenario is one task on simulated time. It acts on nodes from outside only: power, wires, and a look at what
//! they hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::AsyncRuntime;
use openraft_rt_sim::{SimInstant, SimRuntime};
use tessera_consensus::LedgerIndex;

use crate::founding::Founding;
use crate::journal::{Journal, Promise, Record};
use crate::network::{Host, Network};
use crate::node::{Node, Surroundings, wall_clock};
use crate::oracle::{NodeEnd, Oracle};
use crate::origin::{Matter, entry_counts, is_study};
use crate::plan::{CORE_NODES, Plan, stream};

/// How often the scenario looks.
const LOOK: Duration = Duration::from_millis(20);
/// How often it looks for the moment between a write and its sync: well below a sync's time.
const AMBUSH: Duration = Duration::from_micros(150);
/// How long it waits for that moment.
const AMBUSH_MS_MAX: u64 = 5_000;

/// How old the newest certificate of those that follow may be while nothing is broken: whole seconds are rounded down,
/// and a range is asked for after the certificate is heard of.
const LAG_MS_MAX: u64 = 3_000;

/// What one run leaves behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub plan: Plan,
    pub record: Record,
    /// Simulated time that the run took.
    pub simulated_ms: u64,
}

impl Report {
    pub fn passed(&self) -> bool {
        self.record.breaches.is_empty()
    }
}

/// Runs `plan` from beginning to end on simulated time.
pub fn run(plan: &Plan) -> Report {
    let journal = Journal::default();
    let mut runtime = SimRuntime::with_seed(plan.seed);
    let simulated_ms = runtime.block_on(async {
        let mut world = World::new(plan.clone(), journal.clone());
        world.live().await;
        world.end();
        now_ms()
    });
    Report { plan: plan.clone(), record: journal.record(), simulated_ms }
}

fn now_ms() -> u64 {
    let now = SimInstant::try_now().expect("inside a simulation");
    u64::try_from(now.elapsed_since_start().as_millis()).expect("a short simulation")
}

async fn until_ms(at_ms: u64) {
    SimRuntime::sleep(Duration::from_millis(at_ms.saturating_sub(now_ms()))).await;
}

struct World {
    plan: Plan,
    journal: Journal,
    network: Network,
    founding: Arc<Founding>,
    oracle: Oracle,
    nodes: BTreeMap<Host, Node>,
}

impl World {
    fn new(plan: Plan, journal: Journal) -> Self {
        let founding = Arc::new(Founding::new(plan.seed));
        let network = Network::new(plan.line, plan.remote_us, stream(plan.seed, "network"), journal.clone());
        let oracle = Oracle::new(journal.clone());
        let surroundings = Surroundings {
            founding: founding.clone(),
            network: network.clone(),
            journal: journal.clone(),
            oracle: oracle.clone(),
            plan: plan.clone(),
        };
        let hosts = founding.identities.iter().map(|identity| identity.host);
        let nodes = hosts.map(|host| (host, Node::new(host, surroundings.clone()))).collect();
        Self { plan, journal, network, founding, oracle, nodes }
    }

    /// The story of the first page. It ends early when a promise is broken: what follows would only be noise.
    async fn live(&mut self) {
        let hosts: Vec<Host> = self.nodes.keys().copied().collect();
        for host in &hosts {
            self.boot(*host).await;
        }
        self.journal.tell(&format!(
            "{CORE_NODES} core hospitals and {} that follows; each registers {} matters",
            hosts.len() - usize::from(CORE_NODES),
            self.plan.commands
        ));
        until_ms(self.plan.crash.at_ms).await;
        self.nobody_lags();
        self.crash().await;
        if !self.journal.has_breaches() {
            self.partition().await;
        }
        let deadline_ms = now_ms() + self.plan.patience_ms;
        while !self.is_quiet() && now_ms() < deadline_ms && !self.journal.has_breaches() {
            SimRuntime::sleep(LOOK).await;
        }
        if !self.journal.has_breaches() {
            self.conclude();
        }
    }

    async fn boot(&mut self, host: Host) {
        let node = self.nodes.get_mut(&host).expect("a host of this world");
        if let Err(error) = node.boot().await {
            self.journal.breach(Promise::NothingLost, format!("{host} does not start: {error}"));
        }
    }

    /// While nothing is broken, those that follow hold a state that was certified just now, however much is going on.
    fn nobody_lags(&self) {
        let age_ms = |node: &Node| {
            let certificate = node.running().and_then(|running| running.replica.certificate());
            certificate.map_or(u64::MAX, |certificate| wall_clock().since(certificate.time()))
        };
        let ages: Vec<(Host, u64)> = self.nodes.values().map(|node| (node.host, age_ms(node))).collect();
        self.journal.tell(&format!("ages of the newest certificates, ms: {ages:?}; {}", self.sizes()));
        if self.plan.remote_us > 0 && ages.iter().any(|(_, age_ms)| *age_ms > LAG_MS_MAX) {
            self.journal.breach(Promise::Liveness, "a node lags under load although nothing is broken".into());
        }
    }

    /// The core node that most take for the leader, or one that does not lead.
    fn pick(&self, leads: bool) -> Host {
        let leader = self.nodes.values().find_map(|node| {
            let core = node.running()?.core.as_ref()?;
            core.leader().filter(|leader| *leader == core.seat())
        });
        let leader = Host(leader.map_or(1, |seat| seat.0 as u8));
        if leads { leader } else { Host(leader.0 % CORE_NODES + 1) }
    }

    async fn crash(&mut self) {
        let crash = self.plan.crash;
        let victim = self.pick(crash.hits_leader);
        let deadline_ms = now_ms() + AMBUSH_MS_MAX;
        while self.nodes[&victim].unsynced() == 0 && now_ms() < deadline_ms {
            SimRuntime::sleep(AMBUSH).await;
        }
        let node = self.nodes.get_mut(&victim).expect("a core node");
        let unsynced = node.unsynced();
        let (raft, ledger) = node.crash();
        if unsynced == 0 {
            self.journal.event("crash without unsynced write", &[]);
        } else {
            self.journal.event("crash between write and sync", &[]);
        }
        let role = if crash.hits_leader { "leads" } else { "follows" };
        self.journal.tell(&format!(
            "{victim}, which {role}, loses power with {unsynced} writes of its Raft log not synced: \
             {raft} lost there, {ledger} in the ledger"
        ));
        SimRuntime::sleep(Duration::from_millis(crash.down_ms)).await;
        self.boot(victim).await;
        self.journal.tell(&format!("{victim} is back"));
    }

    async fn partition(&mut self) {
        let partition = self.plan.partition;
        until_ms(partition.at_ms).await;
        let mut side = BTreeSet::from([self.pick(partition.cuts_leader)]);
        if partition.with_member {
            side.insert(Host(CORE_NODES + 1));
        }
        let all: BTreeSet<Host> = self.nodes.keys().copied().collect();
        self.network.cut_off(&side, &all);
        self.journal.event("partition", &[]);
        let names: Vec<String> = side.iter().map(Host::to_string).collect();
        self.journal.tell(&format!("{} cut off from the others: {}", names.join(" and "), self.sizes()));
        SimRuntime::sleep(Duration::from_millis(partition.lasts_ms)).await;
        self.journal.tell(&format!("the partition heals: {}", self.sizes()));
        self.network.heal();
    }

    fn sizes(&self) -> String {
        let size = |node: &Node| node.running().map_or("down".into(), |running| running.replica.size().0.to_string());
        let sizes: Vec<String> = self.nodes.values().map(size).collect();
        format!("ledgers of {} entries", sizes.join(", "))
    }

    /// All matters took effect, all ledgers are equally long and certified to their ends.
    fn is_quiet(&self) -> bool {
        let mut sizes = BTreeSet::new();
        for node in self.nodes.values() {
            node.report_panics();
            let Some(running) = node.running() else { return false };
            sizes.insert(running.replica.size());
            let matters = node.matters();
            let all_done = matters.values().all(|matter| matches!(matter, Matter::Done { .. }));
            let certified = running.replica.certificate().map(|certificate| certificate.checkpoint().size);
            if matters.len() < self.plan.commands as usize || !all_done || certified != Some(running.replica.size()) {
                return false;
            }
        }
        sizes.len() == 1
    }

    fn conclude(&mut self) {
        if !self.is_quiet() {
            let what = format!("after {} s all is not done: {}", self.plan.patience_ms / 1000, self.sizes());
            self.journal.breach(Promise::Liveness, what);
        }
        let studies_everywhere = self.nodes.len() * (0..self.plan.commands).filter(|n| is_study(*n)).count();
        let ends: Vec<NodeEnd> = self
            .nodes
            .values()
            .filter_map(|node| {
                let running = node.running()?;
                let index = |matter: &Matter| match matter {
                    Matter::Done { index } => Some(*index),
                    Matter::Waiting { .. } => None::<LedgerIndex>,
                };
                let matters: BTreeMap<_, _> = node.matters().iter().map(|(n, matter)| (*n, index(matter))).collect();
                let waiting = running.outbox.waiting();
                Some(NodeEnd {
                    host: node.host,
                    replica: running.replica.clone(),
                    waiting,
                    matters,
                    studies_everywhere,
                })
            })
            .collect();
        self.oracle.conclude(&self.founding, &ends);
        if !self.journal.has_breaches() {
            let applied = entry_counts(ends[0].replica.view());
            self.journal.tell(&format!("all is certified everywhere: {}; {applied}", self.sizes()));
        }
    }

    fn end(&mut self) {
        self.nodes.values_mut().for_each(Node::end_life);
    }
}
