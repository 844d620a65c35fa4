//! A node from inside: one task that carries out what the shipped sans-IO parts decide (certifier, follower, outbox)
//! and hands Raft its calls. The simulator's counterpart of the `node` crate's loops.
//!
//! One event at a time, in the order of arrival. What a step puts out is done before the next event; what one part
//! tells another (a certificate that the certifier made and the follower keeps) goes through the same queue.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::channel::mpsc;
use openraft::AsyncRuntime;
use openraft::async_runtime::watch::WatchReceiver;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tessera_consensus::certify::{self, BatchEnd, Certifier, CosignResult, ReplyFault};
use tessera_consensus::checkpoint::{Certificate, Checkpoint, SigningGuard};
use tessera_consensus::follow::{self, Follower, Mode};
use tessera_consensus::raft::intake::SubmitResult;
use tessera_consensus::raft::network::TransportError;
use tessera_consensus::raft::types::RaftId;
use tessera_consensus::replica::{Replica, ReplicaError};
use tessera_consensus::wire::v1::Submission;
use tessera_consensus::{NodeId, UnixMillis};
use tessera_storage::engine::{Batch, Engine, EngineError};

use crate::clock::MachineClock;
use crate::disk::Probe;
use crate::founding::Founding;
use crate::journal::{Journal, Promise};
use crate::network::{Calls, Host, Inbox, Message, Network, Packet, method};
use crate::node::{DiskHealth, GUARD, GUARD_KEY, SimCore};
use crate::oracle::Oracle;
use crate::origin::Origin;
use crate::plan::Mutation;
use crate::runtime::{Life, NodeRuntime};

/// How often the parts are told that time passed.
const TICK: Duration = Duration::from_millis(50);
/// Pause before the ledger is tried again on a disk without room.
const ROOM_PAUSE: Duration = Duration::from_secs(1);

/// What happens to a node.
#[derive(Debug)]
pub enum Event {
    Packet(Packet),
    /// Raft applied a batch.
    Applied(Checkpoint),
    GuardDurable(SigningGuard),
    /// There may be room for entries that were refused.
    TryAgain,
    /// This core node's own submission was answered.
    Submitted {
        number: u64,
        results: Vec<SubmitResult>,
    },
}

/// See the module's header.
pub struct Driver {
    pub host: Host,
    pub clock: MachineClock,
    /// Hosts from 1 to this are the core.
    pub core_nodes: u16,
    pub replica: Arc<Replica>,
    pub follower: Follower,
    pub core: Option<SimCore>,
    pub certifier: Option<Certifier>,
    /// A guard record that its disk had no room for.
    pub guard_waits: Option<SigningGuard>,
    /// Where the guard record goes, and a look at what of it is durable.
    pub guard_disk: Option<(Arc<dyn Engine>, Probe)>,
    pub mutation: Option<Mutation>,
    pub origin: Origin,
    pub calls: Calls,
    pub network: Network,
    pub founding: Arc<Founding>,
    pub oracle: Oracle,
    pub journal: Journal,
    pub life: Life,
    pub events: mpsc::UnboundedSender<Event>,
    pub leader: Option<RaftId>,
    pub health: Arc<DiskHealth>,
    /// It stumbled over a disk of its own, with which a process ends.
    pub has_ended: Cell<bool>,
    /// Whether it was told that Raft has stopped.
    pub raft_stopped: bool,
    pub asked: Asked,
    pub rng: ChaCha8Rng,
}

/// The follower of a node: members fetch entries, core nodes get theirs by Raft and take certificates.
pub fn following(replica: &Replica, is_core: bool) -> Result<Follower, ReplicaError> {
    let mode = if is_core { Mode::Certificates } else { Mode::Entries };
    Ok(Follower::new(replica.federation(), replica.core()?, replica.frontier(), replica.certificate(), mode))
}

/// The question to each host that waits for its answer.
#[derive(Default)]
pub struct Asked {
    waiting: BTreeMap<Host, u64>,
    numbers: u64,
}

impl Asked {
    /// The number of a new question, which ends the one before.
    fn next(&mut self, host: Host) -> u64 {
        self.numbers += 1;
        self.waiting.insert(host, self.numbers);
        self.numbers
    }

    /// Whether this answer is awaited; no second one is.
    fn take_if(&mut self, host: Host, number: u64) -> bool {
        let awaited = self.waiting.get(&host) == Some(&number);
        if awaited {
            self.waiting.remove(&host);
        }
        awaited
    }
}

/// What the parts are told next.
enum Task {
    Follow(follow::Input),
    Certify(certify::Input),
}

impl Driver {
    pub async fn run(mut self, mut inbox: Inbox<Event>) {
        let peers: Vec<NodeId> = self.others().map(|host| self.founding.identity(host).node).collect();
        for peer in peers {
            self.work(Task::Follow(follow::Input::PeerUp(peer)));
        }
        let mut ticked = self.clock.steady();
        loop {
            match NodeRuntime::timeout(TICK, inbox.next()).await {
                Ok(Some(event)) => self.handle(event),
                Ok(None) => return,
                Err(_) => {}
            }
            if self.has_ended.get() {
                return;
            }
            let now = self.clock.steady();
            if now.since(ticked) >= TICK.as_millis() as u64 {
                ticked = now;
                self.tick(now);
            }
        }
    }

    fn others(&self) -> impl Iterator<Item = Host> + use<> {
        let me = self.host;
        (1..=self.founding.identities.len() as u16).map(Host).filter(move |host| *host != me)
    }

    fn tick(&mut self, now: UnixMillis) {
        self.work(Task::Follow(follow::Input::Tick));
        let leader = self.core.as_ref().and_then(|core| core.leader());
        if leader != self.leader {
            self.leader = leader;
            let node = leader.map(|seat| self.founding.identity(Host::of_seat(seat)).node);
            self.work(Task::Certify(certify::Input::LeaderChanged { leader: node }));
        }
        if let Some(guard) = self.guard_waits.take() {
            let mut tasks = VecDeque::new();
            self.persist_guard(guard, &mut tasks);
            tasks.into_iter().for_each(|task| self.work(task));
        }
        self.work(Task::Certify(certify::Input::Tick));
        self.look_whether_raft_runs();
        match self.origin.due(now) {
            Ok(Some((number, submissions))) => self.submit(number, submissions),
            Ok(None) => {}
            Err(error) => self.breach(Promise::NothingLost, &error),
        }
    }

    /// Nothing that the network does or a disk delays may stop a node's Raft.
    fn look_whether_raft_runs(&mut self) {
        let Some(core) = &self.core else { return };
        let Err(why) = core.raft().metrics().borrow_watched().running_state.clone() else { return };
        if !std::mem::replace(&mut self.raft_stopped, true) {
            match self.health.has_failed() {
                true => self.end(&format!("Raft has stopped: {why}")),
                false => self.journal.breach(Promise::NoPanic, format!("{}: Raft has stopped: {why}", self.host)),
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Packet(packet) => self.packet(packet),
            Event::Applied(checkpoint) => self.applied(checkpoint),
            Event::TryAgain => self.tell_follower_of_state(),
            Event::GuardDurable(guard) => self.work(Task::Certify(certify::Input::GuardDurable { guard })),
            Event::Submitted { number, results } => self.origin.submitted(self.clock.steady(), number, &results),
        }
    }

    fn applied(&mut self, checkpoint: Checkpoint) {
        self.oracle.applied(self.host, checkpoint);
        let Checkpoint { size, root, digest, epoch, .. } = checkpoint;
        self.work(Task::Certify(certify::Input::Applied(BatchEnd { size, root, digest, epoch })));
        self.tell_follower_of_state();
    }

    fn tell_follower_of_state(&mut self) {
        let frontier = self.replica.frontier();
        match self.replica.core() {
            Ok(core) => self.work(Task::Follow(follow::Input::Applied { frontier, core })),
            Err(error) => self.breach(Promise::OneHistory, &error),
        }
    }

    fn breach(&self, promise: Promise, what: &dyn std::fmt::Display) {
        if self.health.has_failed() {
            return self.end(what);
        }
        if self.health.are_full() {
            return self.journal.event("refused for want of room", &[&self.host.bytes()]);
        }
        self.journal.breach(promise, format!("{}: {what}", self.host));
    }

    /// The process ends by itself, for want of a disk.
    fn end(&self, what: &dyn std::fmt::Display) {
        if !self.has_ended.replace(true) {
            self.journal.tell(&format!("{} ends: {what}", self.host));
        }
    }

    fn packet(&mut self, packet: Packet) {
        let from = packet.from;
        let node = self.founding.identity(from).node;
        match Message::from_bytes(&packet.bytes) {
            Ok(Message::Call { call, method, body }) => self.serve(from, call, method, body),
            Ok(Message::Answer { call, result }) => {
                let peer = from.to_string();
                self.calls.answered(call, result.map_err(|reason| TransportError::Refused { peer, reason }));
            }
            Ok(Message::Broken { call }) => {
                let (peer, reason) = (from.to_string(), "the connection broke".to_owned());
                self.calls.answered(call, Err(TransportError::Unreachable { peer, reason }));
            }
            Ok(Message::Cosign { checkpoint, asked_at }) => {
                self.work(Task::Certify(certify::Input::CosignRequest { from: node, checkpoint, asked_at }));
            }
            Ok(Message::Cosigned { checkpoint, result }) => {
                self.work(Task::Certify(certify::Input::CosignReply { from: node, checkpoint, result }));
            }
            Ok(Message::Follow { number, request }) => match follow::serve(&self.replica, &request) {
                Ok(reply) => self.network.send(self.host, from, &Message::Followed { number, reply }),
                Err(error) => self.breach(Promise::OneHistory, &error),
            },
            Ok(Message::Followed { number, reply }) => match self.asked.take_if(from, number) {
                true => self.work(Task::Follow(follow::Input::Reply { from: node, reply })),
                // Its question was given up, and the stream closed.
                false => self.journal.event("late answer", &[&self.host.bytes()]),
            },
            Ok(Message::Gossip { note }) => self.work(Task::Follow(follow::Input::Gossip { from: node, note })),
            Ok(Message::Submit { number, submissions }) => self.submit_for(from, number, submissions),
            Ok(Message::Submitted { number, results }) => self.origin.submitted(self.clock.steady(), number, &results),
            Err(error) => self.breach(Promise::NothingForged, &error),
        }
    }

    /// Answers another core node's call, on a task of this node's own.
    fn serve(&self, from: Host, call: u64, number: u8, body: Vec<u8>) {
        let Some(core) = self.core.clone() else { return };
        let (network, host) = (self.network.clone(), self.host);
        self.life.spawn(async move {
            let result = match method(number) {
                Some(method) => core.serve(RaftId(u64::from(from.0)), method, &body).await.map_err(|e| e.to_string()),
                None => Err(format!("method {number} is not known")),
            };
            network.send(host, from, &Message::Answer { call, result });
        });
    }

    /// Commands of this node's origin: a core node submits itself, a member through any core node.
    fn submit(&mut self, number: u64, submissions: Vec<Submission>) {
        let Some(core) = self.core.clone() else {
            let to = Host(self.rng.random_range(1..=self.core_nodes));
            return self.network.send(self.host, to, &Message::Submit { number, submissions });
        };
        let events = self.events.clone();
        self.life.spawn(async move {
            let results = core.submit(submissions).await;
            // Fails only when this life is over.
            let _ = events.unbounded_send(Event::Submitted { number, results });
        });
    }

    fn submit_for(&self, from: Host, number: u64, submissions: Vec<Submission>) {
        let Some(core) = self.core.clone() else { return };
        let (network, host) = (self.network.clone(), self.host);
        self.life.spawn(async move {
            let results = core.submit(submissions).await;
            network.send(host, from, &Message::Submitted { number, results });
        });
    }

    /// Steps a part, and then whatever follows from what it put out.
    fn work(&mut self, task: Task) {
        let mut tasks = VecDeque::from([task]);
        while let Some(task) = tasks.pop_front() {
            match task {
                Task::Follow(input) => {
                    for output in self.follower.step(self.clock.steady(), input) {
                        self.follow(output, &mut tasks);
                    }
                }
                Task::Certify(input) => {
                    for output in self.certifier_step(input) {
                        self.certify(output, &mut tasks);
                    }
                }
            }
        }
    }

    fn certifier_step(&mut self, input: certify::Input) -> Vec<certify::Output> {
        let Some(certifier) = self.certifier.as_mut() else { return Vec::new() };
        match self.replica.core() {
            Ok(core) => certifier.step(self.clock.read(), input, certify::View { cores: &[core] }),
            Err(error) => {
                self.breach(Promise::OneHistory, &error);
                Vec::new()
            }
        }
    }

    fn follow(&mut self, output: follow::Output, tasks: &mut VecDeque<Task>) {
        match output {
            follow::Output::Ask { peer, request } => {
                let Some(host) = self.founding.host_of(&peer) else { return };
                let number = self.asked.next(host);
                self.network.send(self.host, host, &Message::Follow { number, request });
            }
            follow::Output::Apply { from, entries } => match self.replica.apply_entries(from, &entries) {
                Ok(applied) => {
                    self.oracle.applied(self.host, applied.checkpoint);
                    let frontier = self.replica.frontier();
                    match self.replica.core() {
                        Ok(core) => tasks.push_back(Task::Follow(follow::Input::Applied { frontier, core })),
                        Err(error) => self.breach(Promise::OneHistory, &error),
                    }
                }
                // As a node does, which goes on reading: nothing was applied, and it is asked for again.
                Err(ReplicaError::Engine(EngineError::DiskFull { .. })) => {
                    let events = self.events.clone();
                    self.life.spawn(async move {
                        NodeRuntime::sleep(ROOM_PAUSE).await;
                        // Fails only when this life is over.
                        let _ = events.unbounded_send(Event::TryAgain);
                    });
                }
                Err(error) => self.breach(Promise::OneHistory, &error),
            },
            follow::Output::Certified(certificate) => self.certified(certificate, tasks),
            follow::Output::PassOn { note } => {
                for host in self.others() {
                    self.network.send(self.host, host, &Message::Gossip { note: note.clone() });
                }
            }
            // An answer that came after its time.
            follow::Output::Refused { why: follow::FollowError::Unasked, .. } => {
                self.journal.event("late answer", &[&self.host.bytes()]);
            }
            follow::Output::Refused { why, .. } => self.breach(Promise::NothingForged, &why),
        }
    }

    fn certified(&mut self, certificate: Certificate, tasks: &mut VecDeque<Task>) {
        match self.replica.certified(certificate.clone()) {
            Ok(true) => self.oracle.certified(self.host, &certificate),
            Ok(false) => {}
            Err(error) => return self.breach(Promise::OneHistory, &error),
        }
        tasks.push_back(Task::Certify(certify::Input::CertificateSeen(certificate)));
        if let Err(error) = self.origin.settle() {
            self.breach(Promise::NothingLost, &error);
        }
    }

    fn certify(&mut self, output: certify::Output, tasks: &mut VecDeque<Task>) {
        match output {
            certify::Output::PersistGuard { guard } => self.persist_guard(guard, tasks),
            certify::Output::SendRequest { to, checkpoint, asked_at } => {
                self.send(&to, &Message::Cosign { checkpoint, asked_at });
            }
            certify::Output::SendReply { to, checkpoint, result } => {
                if let CosignResult::Signed(cosignature) = &result {
                    let guarded = self.durable_guard().and_then(|guard| guard.last().copied());
                    self.oracle.cosigned(self.host, (checkpoint, cosignature.time_seconds()), guarded);
                }
                self.send(&to, &Message::Cosigned { checkpoint, result });
            }
            certify::Output::Certified(certificate) => {
                self.journal.event("certificate", &[&self.host.bytes(), certificate.signed().to_note().as_bytes()]);
                // The follower keeps it and passes it on, as it would another's.
                let note = certificate.signed().to_note();
                tasks.push_back(Task::Follow(follow::Input::Gossip {
                    from: self.founding.identity(self.host).node,
                    note,
                }));
            }
            certify::Output::Divergence { ours, theirs, .. } => {
                let what = format!("{ours:?} here, {theirs:?} elsewhere");
                self.breach(Promise::OneHistory, &what);
            }
            // Whose clock is wrong cannot be told here.
            certify::Output::FaultyReply { fault: ReplyFault::Clock { .. }, .. } => {
                self.journal.event("cosignature of another time", &[&self.host.bytes()]);
            }
            certify::Output::FaultyReply { fault, .. } => self.breach(Promise::NothingForged, &fault),
        }
    }

    fn persist_guard(&mut self, guard: SigningGuard, tasks: &mut VecDeque<Task>) {
        let Some((engine, _)) = &self.guard_disk else { return };
        if self.guard_waits.is_some() {
            // Never an older one over a newer.
            self.guard_waits = Some(guard);
            return;
        }
        let early = self.mutation.is_some_and(|mutation| self.signs_early(mutation, &guard));
        let mut batch = Batch::new();
        batch.put(GUARD, GUARD_KEY, guard.to_bytes());
        match engine.submit(batch) {
            Ok(_) if early => tasks.push_back(Task::Certify(certify::Input::GuardDurable { guard })),
            Ok(ticket) => {
                let events = self.events.clone();
                let durable = move |result: Result<(), _>| {
                    if result.is_ok() {
                        // Fails only when this life is over.
                        let _ = events.unbounded_send(Event::GuardDurable(guard));
                    }
                };
                engine.on_durable(ticket, Box::new(durable));
            }
            // As a node does: nothing is signed before there is room for it.
            Err(EngineError::DiskFull { .. }) => {
                self.journal.event("refused for want of room", &[&self.host.bytes()]);
                self.guard_waits = Some(guard);
            }
            Err(error) => self.breach(Promise::NothingForged, &error),
        }
    }

    fn durable_guard(&self) -> Option<SigningGuard> {
        let (_, probe) = self.guard_disk.as_ref()?;
        SigningGuard::from_bytes(&probe.durable(GUARD, GUARD_KEY)?).ok()
    }

    /// Whether the fault in this world lets the certifier believe a record durable that is on its way.
    fn signs_early(&self, mutation: Mutation, next: &SigningGuard) -> bool {
        let signed = |guard: &SigningGuard| guard.last().map(|(checkpoint, _)| *checkpoint);
        match mutation {
            Mutation::SignBeforeGuard => true,
            Mutation::DateBeforeGuard => self.durable_guard().is_some_and(|guard| signed(&guard) == signed(next)),
            Mutation::AcknowledgeBeforeFsync | Mutation::IgnoreFailedSync | Mutation::ForgetfulMachine => false,
        }
    }

    fn send(&self, to: &NodeId, message: &Message) {
        if let Some(host) = self.founding.host_of(to) {
            self.network.send(self.host, host, message);
        }
    }
}
