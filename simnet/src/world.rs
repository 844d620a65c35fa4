//! A whole run: the nodes, the faults at their times, the wait until all work is done, and the last checks.
//!
//! The scenario is one task on simulated time, which goes through an agenda: faults begin and end on it, however they
//! overlap. It acts on nodes from outside only: power, wires, clocks, and a look at what they hold. A fault that hits
//! nobody (its victim is down already) is left out and counted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::AsyncRuntime;
use openraft_rt_sim::SimRuntime;
use tessera_consensus::LedgerIndex;

use crate::clock::{now_us, true_time};
use crate::founding::Founding;
use crate::journal::{Journal, Promise, Record};
use crate::network::{Cut, Host, Network};
use crate::node::{Node, Surroundings};
use crate::oracle::{NodeEnd, Oracle};
use crate::origin::{Matter, entry_counts, is_study};
use crate::plan::{Fault, Plan, Timed, Who, stream};

/// How often the scenario looks.
const LOOK: Duration = Duration::from_millis(20);
/// How often it looks for the moment between a write and its sync: well below a sync's time.
const AMBUSH_US: u64 = 150;
/// How long it waits for that moment.
const AMBUSH_US_MAX: u64 = 5_000_000;

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
    now_us() / 1000
}

/// What the scenario does next.
enum Act {
    Begin(Timed),
    /// A power cut that waits for an unsynced write, until a time in microseconds.
    Ambush {
        victim: Host,
        until_us: u64,
        lasts_ms: u64,
    },
    End(Repair),
}

/// What ends a fault.
enum Repair {
    Boot(Host),
    /// The process of this life is started anew, unless a power cut did that.
    Restart(Host, u32),
    /// There is room on its disks; where the process is gone, it is started anew.
    Room(Host),
    /// The process of this life goes on, if it still lives.
    Thaw(Host, u32),
    Heal(u64),
    SpeedUp(Host),
    SetClock(Host, i64),
    Steady(Host),
    Mend,
}

/// Acts by their time in microseconds, then in the order in which they were put there.
#[derive(Default)]
struct Agenda {
    acts: BTreeMap<(u64, u64), Act>,
    numbers: u64,
}

impl Agenda {
    fn put(&mut self, at_us: u64, act: Act) {
        self.numbers += 1;
        self.acts.insert((at_us, self.numbers), act);
    }

    /// So long from now.
    fn put_in(&mut self, ms: u64, act: Act) {
        self.put(now_us() + ms * 1000, act);
    }
}

struct World {
    plan: Plan,
    journal: Journal,
    network: Network,
    founding: Arc<Founding>,
    oracle: Oracle,
    nodes: BTreeMap<Host, Node>,
    agenda: Agenda,
}

impl World {
    fn new(plan: Plan, journal: Journal) -> Self {
        let founding = Arc::new(Founding::new(plan.seed, plan.size));
        let network = Network::new(plan.size, plan.lines, stream(plan.seed, "network"), journal.clone());
        let oracle = Oracle::new(journal.clone());
        let surroundings = Surroundings {
            founding: founding.clone(),
            network: network.clone(),
            journal: journal.clone(),
            oracle: oracle.clone(),
            plan: plan.clone(),
        };
        let nodes = plan.size.hosts().map(|host| (host, Node::new(host, surroundings.clone()))).collect();
        Self { plan, journal, network, founding, oracle, nodes, agenda: Agenda::default() }
    }

    /// It ends early when a promise is broken: what follows would only be noise.
    async fn live(&mut self) {
        for host in self.plan.size.hosts() {
            self.boot(host).await;
        }
        let size = self.plan.size;
        self.journal.tell(&format!(
            "{} core hospitals and {} that follow; each registers {} matters",
            size.core, size.members, self.plan.commands
        ));
        for timed in self.plan.faults.clone() {
            self.agenda.put(timed.at_ms * 1000, Act::Begin(timed));
        }
        let mut calm = true;
        while let Some(((at_us, _), act)) = self.agenda.acts.pop_first() {
            SimRuntime::sleep(Duration::from_micros(at_us.saturating_sub(now_us()))).await;
            if std::mem::take(&mut calm) {
                self.nobody_lags();
            }
            if self.journal.has_breaches() {
                return;
            }
            self.act(act).await;
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
        let Some(lag_ms_max) = self.plan.lag_ms_max else { return };
        let age_ms = |node: &Node| {
            let certificate = node.running().and_then(|running| running.replica.certificate());
            certificate.map_or(u64::MAX, |certificate| true_time().since(certificate.time()))
        };
        let ages: Vec<(Host, u64)> = self.nodes.values().map(|node| (node.host, age_ms(node))).collect();
        self.journal.tell(&format!("ages of the newest certificates, ms: {ages:?}; {}", self.sizes()));
        if ages.iter().any(|(_, age_ms)| *age_ms > lag_ms_max) {
            self.journal.breach(Promise::Liveness, "a node lags under load although nothing is broken".into());
        }
    }

    /// The core node that most take for the leader.
    fn leader(&self) -> Host {
        let leader = self.nodes.values().find_map(|node| {
            let core = node.running()?.core.as_ref()?;
            core.leader().filter(|leader| *leader == core.seat())
        });
        leader.map_or(Host(1), Host::of_seat)
    }

    fn find(&self, who: Who) -> Host {
        match who {
            Who::Host(host) => host,
            Who::Leader => self.leader(),
            Who::Other => Host(self.leader().0 % self.plan.size.core + 1),
        }
    }

    fn node(&mut self, host: Host) -> &mut Node {
        self.nodes.get_mut(&host).expect("a host of this world")
    }

    async fn act(&mut self, act: Act) {
        match act {
            Act::Begin(timed) => self.begin(timed),
            Act::Ambush { victim, until_us, lasts_ms } => {
                if self.nodes[&victim].unsynced() == 0 && now_us() < until_us {
                    let again = Act::Ambush { victim, until_us, lasts_ms };
                    return self.agenda.put(now_us() + AMBUSH_US, again);
                }
                self.cut_power(victim, lasts_ms);
            }
            Act::End(repair) => self.repair(repair).await,
        }
    }

    fn begin(&mut self, Timed { fault, lasts_ms, .. }: Timed) {
        self.journal.event(fault.name(), &[]);
        let ends = match fault {
            Fault::PowerCut { who } => return self.cut_power(self.find(who), lasts_ms),
            Fault::PowerCutInWrite { who } => {
                let until_us = now_us() + AMBUSH_US_MAX;
                return self.agenda.put(now_us(), Act::Ambush { victim: self.find(who), until_us, lasts_ms });
            }
            Fault::Freeze { who } => {
                let host = self.find(who);
                self.journal.tell(&format!("{host} is stopped"));
                self.nodes[&host].freeze(true);
                Repair::Thaw(host, self.nodes[&host].lives())
            }
            Fault::Partition { side } => {
                let side: BTreeSet<Host> = side.into_iter().map(|who| self.find(who)).collect();
                self.tell_of_cut(&side, "cut off from the others");
                Repair::Heal(self.network.cut(self.around(&side, true)))
            }
            Fault::Muted { side } => {
                let side: BTreeSet<Host> = side.into_iter().map(|who| self.find(who)).collect();
                self.tell_of_cut(&side, "not heard by the others");
                Repair::Heal(self.network.cut(self.around(&side, false)))
            }
            Fault::Bridge { between } => {
                let [a, b] = between.map(|who| self.find(who));
                self.journal.tell(&format!("{a} and {b} do not reach each other"));
                Repair::Heal(self.network.cut(Cut::from([(a, b), (b, a)])))
            }
            Fault::FailedSync { who } => {
                let host = self.find(who);
                if self.nodes[&host].running().is_none() {
                    return self.journal.event("fault left out", &[]);
                }
                self.journal.tell(&format!("a disk of {host} fails at its next sync"));
                self.node(host).fail_sync();
                Repair::Restart(host, self.nodes[&host].lives())
            }
            Fault::FullDisk { who } => {
                let host = self.find(who);
                if self.nodes[&host].is_full() {
                    return self.journal.event("fault left out", &[]);
                }
                self.journal.tell(&format!("disks of {host} are full"));
                self.node(host).fill(true);
                Repair::Room(host)
            }
            Fault::SlowDisk { who, factor } => {
                let host = self.find(who);
                self.journal.tell(&format!("the disks of {host} take {factor} times as long"));
                self.nodes[&host].slow_down(factor);
                Repair::SpeedUp(host)
            }
            Fault::ClockJump { who, by_ms } => {
                let host = self.find(who);
                self.journal.tell(&format!("the clock of {host} jumps by {by_ms} ms"));
                self.nodes[&host].clock.jump(by_ms);
                Repair::SetClock(host, -by_ms)
            }
            Fault::ClockDrift { who, ppm } => {
                let host = self.find(who);
                self.journal.tell(&format!("the clocks of {host} gain {ppm} in a million"));
                self.nodes[&host].clock.drift(ppm);
                Repair::Steady(host)
            }
            Fault::BadLines { lost_per_10000, repeated_per_10000 } => {
                self.journal
                    .tell(&format!("of 10000 packets {lost_per_10000} are lost, {repeated_per_10000} repeated"));
                self.network.worsen(Some((lost_per_10000, repeated_per_10000)));
                Repair::Mend
            }
        };
        self.agenda.put_in(lasts_ms, Act::End(ends));
    }

    /// What must be cut so that a side is not heard, and does not hear either.
    fn around(&self, side: &BTreeSet<Host>, both_ways: bool) -> Cut {
        let others = || self.plan.size.hosts().filter(|host| !side.contains(host));
        let outwards = side.iter().flat_map(|from| others().map(|to| (*from, to)));
        let pair = |(from, to): (Host, Host)| [Some((from, to)), both_ways.then_some((to, from))];
        outwards.flat_map(pair).flatten().collect()
    }

    fn tell_of_cut(&self, side: &BTreeSet<Host>, what: &str) {
        self.journal.event("partition", &[]);
        let names: Vec<String> = side.iter().map(Host::to_string).collect();
        self.journal.tell(&format!("{} {what}: {}", names.join(" and "), self.sizes()));
    }

    fn cut_power(&mut self, victim: Host, lasts_ms: u64) {
        if self.nodes[&victim].running().is_none() {
            return self.journal.event("fault left out", &[]);
        }
        let leads = victim == self.leader();
        let node = self.node(victim);
        let unsynced = node.unsynced();
        let (raft, ledger) = node.crash();
        self.journal
            .event(if unsynced == 0 { "crash without unsynced write" } else { "crash between write and sync" }, &[]);
        let role = if leads { "leads" } else { "follows" };
        self.journal.tell(&format!(
            "{victim}, which {role}, loses power with {unsynced} writes of its Raft log not synced: \
             {raft} lost there, {ledger} in the ledger"
        ));
        self.agenda.put_in(lasts_ms, Act::End(Repair::Boot(victim)));
    }

    async fn repair(&mut self, repair: Repair) {
        match repair {
            Repair::Boot(host) => {
                // With full disks it does not start; when there is room it is started, whoever stopped it.
                if self.nodes[&host].is_full() || self.nodes[&host].running().is_some() {
                    return self.journal.event("start left out", &[]);
                }
                self.boot(host).await;
                self.journal.tell(&format!("{host} is back"));
            }
            Repair::Restart(host, life) => {
                if self.nodes[&host].lives() == life && self.nodes[&host].running().is_some() {
                    self.restart(host).await;
                }
            }
            Repair::Room(host) => {
                self.node(host).fill(false);
                // What runs goes on by itself.
                if self.nodes[&host].running().is_none() {
                    self.restart(host).await;
                }
            }
            Repair::Thaw(host, life) => {
                if self.nodes[&host].lives() == life {
                    self.nodes[&host].freeze(false);
                    self.journal.tell(&format!("{host} goes on"));
                }
            }
            Repair::Heal(number) => {
                self.network.heal(number);
                self.journal.tell(&format!("a cut heals: {}", self.sizes()));
            }
            Repair::SpeedUp(host) => self.nodes[&host].slow_down(1),
            Repair::SetClock(host, by_ms) => {
                self.nodes[&host].clock.jump(by_ms);
                self.journal.tell(&format!("the clock of {host} is set right"));
            }
            Repair::Steady(host) => self.nodes[&host].clock.drift(0),
            Repair::Mend => self.network.worsen(None),
        }
    }

    async fn restart(&mut self, host: Host) {
        self.node(host).crash();
        self.boot(host).await;
        self.journal.tell(&format!("{host} is started again"));
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
