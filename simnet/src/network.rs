//! The wires between hosts: every packet takes a seeded time, may be lost, and does not pass a cut.
//!
//! Packets are bytes and are parsed by whoever receives them. Calls of the core (a question that waits for its
//! answer) run over connections: when a packet of one is lost, the caller learns after a while that the connection
//! broke, as TCP keep-alive would tell; when the peer's process is gone, after a round trip. All else is sent and
//! forgotten; the protocols above repeat what they need.
//!
//! Not here yet: bandwidth, duplication, address translation, one-way cuts. Each is a field of [`Wires`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::channel::{mpsc, oneshot};
use openraft::AsyncRuntime;
use openraft::base::BoxFuture;
use openraft_rt_sim::SimRuntime;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tessera_consensus::UnixMillis;
use tessera_consensus::certify::CosignResult;
use tessera_consensus::checkpoint::Checkpoint;
use tessera_consensus::follow::{FollowReply, FollowRequest};
use tessera_consensus::raft::intake::SubmitResult;
use tessera_consensus::raft::network::{Method, Transport, TransportError};
use tessera_consensus::raft::types::{CoreNode, RaftId};
use tessera_consensus::wire::v1::Submission;
use tessera_consensus::wire::{DecodeError, decode, encode};

use crate::journal::Journal;
use crate::plan::CORE_NODES;
use crate::runtime::{NodeRuntime, lock};

/// One packet's bytes.
const PACKET_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long it takes to notice that a connection broke.
const BREAK_NOTICED_MS: std::ops::Range<u64> = 700..1_800;

/// A machine on the network: core nodes by their seat from 1, then the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Host(pub u8);

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host {}", self.0)
    }
}

/// Everything that hosts say to each other.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Message {
    /// A core node's call; `method` as in [`method_number`].
    Call {
        call: u64,
        method: u8,
        body: Vec<u8>,
    },
    Answer {
        call: u64,
        result: Result<Vec<u8>, String>,
    },
    /// Made by the network: the connection of this call broke.
    Broken {
        call: u64,
    },
    Cosign {
        checkpoint: Checkpoint,
        asked_at: UnixMillis,
    },
    Cosigned {
        checkpoint: Checkpoint,
        result: CosignResult,
    },
    Follow(FollowRequest),
    Followed(FollowReply),
    /// A certified checkpoint, as a C2SP note.
    Gossip {
        note: String,
    },
    /// An origin's commands under its own number for this submission, and what became of each.
    Submit {
        number: u64,
        submissions: Vec<Submission>,
    },
    Submitted {
        number: u64,
        results: Vec<SubmitResult>,
    },
}

impl Message {
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        decode("packet", bytes, PACKET_BYTES_MAX)
    }
}

/// The number of a method in [`Message::Call`].
pub fn method_number(method: Method) -> u8 {
    match method {
        Method::Append => 1,
        Method::Vote => 2,
        Method::PreVote => 3,
        Method::Transfer => 4,
        Method::Snapshot => 5,
        Method::Submit => 6,
    }
}

/// The method of a number.
pub fn method(number: u8) -> Option<Method> {
    let methods = [Method::Append, Method::Vote, Method::PreVote, Method::Transfer, Method::Snapshot, Method::Submit];
    methods.into_iter().find(|method| method_number(*method) == number)
}

/// A packet as it arrives.
#[derive(Debug)]
pub struct Packet {
    pub from: Host,
    pub bytes: Vec<u8>,
}

/// How lines behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// One way, microseconds: the least, and what jitter adds at most.
    pub latency_us: u64,
    pub jitter_us: u64,
    /// Packets lost of 10,000.
    pub lost_per_10000: u32,
}

type Port = Arc<dyn Fn(Packet) + Send + Sync>;

/// Clones are the same network.
#[derive(Clone)]
pub struct Network {
    wires: Arc<Mutex<Wires>>,
    journal: Journal,
}

struct Wires {
    line: Line,
    /// What a packet to or from a host that is not in the core needs longer, microseconds.
    remote_us: u64,
    rng: ChaCha8Rng,
    ports: BTreeMap<Host, Port>,
    /// Pairs that do not reach each other, the smaller first.
    cuts: BTreeSet<(Host, Host)>,
    calls: u64,
}

impl Wires {
    fn is_cut(&self, a: Host, b: Host) -> bool {
        self.cuts.contains(&(a.min(b), a.max(b)))
    }

    fn delay(&mut self, a: Host, b: Host) -> Duration {
        let jitter_us = self.rng.random_range(0..=self.line.jitter_us);
        let remote_us = if a.max(b).0 > CORE_NODES { self.remote_us } else { 0 };
        Duration::from_micros(self.line.latency_us + jitter_us + remote_us)
    }
}

impl Network {
    pub fn new(line: Line, remote_us: u64, rng: ChaCha8Rng, journal: Journal) -> Self {
        let wires = Wires { line, remote_us, rng, ports: BTreeMap::new(), cuts: BTreeSet::new(), calls: 0 };
        Self { wires: Arc::new(Mutex::new(wires)), journal }
    }

    /// Packets for `host` go to `port` from now on.
    pub fn listen(&self, host: Host, port: Port) {
        lock(&self.wires).ports.insert(host, port);
    }

    /// Nobody listens at `host` any more.
    pub fn hang_up(&self, host: Host) {
        lock(&self.wires).ports.remove(&host);
    }

    /// Hosts of `side` and all others no longer reach each other.
    pub fn cut_off(&self, side: &BTreeSet<Host>, all: &BTreeSet<Host>) {
        let mut wires = lock(&self.wires);
        for a in side {
            for b in all.difference(side) {
                wires.cuts.insert((*a.min(b), *a.max(b)));
            }
        }
    }

    pub fn heal(&self) {
        lock(&self.wires).cuts.clear();
    }

    pub fn send(&self, from: Host, to: Host, message: &Message) {
        let bytes = encode(message);
        let (lost, delay) = {
            let mut wires = lock(&self.wires);
            let per_10000 = wires.line.lost_per_10000;
            let lost = wires.rng.random_range(0..10_000) < per_10000;
            (lost, wires.delay(from, to))
        };
        let (network, notice) = (self.clone(), break_notice(from, to, message));
        drop(SimRuntime::spawn(async move {
            let lost = lost || lock(&network.wires).is_cut(from, to);
            SimRuntime::sleep(delay).await;
            if lost || lock(&network.wires).is_cut(from, to) {
                network.journal.event("packet lost", &[&[from.0, to.0], &bytes]);
                let noticed_ms = lock(&network.wires).rng.random_range(BREAK_NOTICED_MS);
                network.tell_of_break(to, notice, noticed_ms).await;
            } else if !network.deliver(from, to, bytes) {
                let round_trip_ms = u64::try_from(delay.as_millis()).unwrap_or(0);
                network.tell_of_break(to, notice, round_trip_ms).await;
            }
        }));
    }

    async fn tell_of_break(&self, unreachable: Host, notice: Option<(Host, Message)>, after_ms: u64) {
        let Some((whom, message)) = notice else { return };
        SimRuntime::sleep(Duration::from_millis(after_ms)).await;
        self.deliver(unreachable, whom, encode(&message));
    }

    fn deliver(&self, from: Host, to: Host, bytes: Vec<u8>) -> bool {
        let port = lock(&self.wires).ports.get(&to).cloned();
        let Some(port) = port else {
            self.journal.event("nobody there", &[&[from.0, to.0], &bytes]);
            return false;
        };
        self.journal.event("packet", &[&[from.0, to.0], &bytes]);
        port(Packet { from, bytes });
        true
    }

    fn next_call(&self) -> u64 {
        let mut wires = lock(&self.wires);
        wires.calls += 1;
        wires.calls
    }
}

/// Who must learn that the call of a lost packet will not be answered.
fn break_notice(from: Host, to: Host, message: &Message) -> Option<(Host, Message)> {
    match message {
        Message::Call { call, .. } => Some((from, Message::Broken { call: *call })),
        Message::Answer { call, .. } => Some((to, Message::Broken { call: *call })),
        _ => None,
    }
}

type Answer = Result<Vec<u8>, TransportError>;

/// Calls of one life that wait for their answers.
#[derive(Clone, Default)]
pub struct Calls(Arc<Mutex<BTreeMap<u64, oneshot::Sender<Answer>>>>);

impl Calls {
    pub fn answered(&self, call: u64, result: Answer) {
        if let Some(waiting) = lock(&self.0).remove(&call) {
            // Who asked may have given up.
            let _ = waiting.send(result);
        }
    }
}

/// A core node's way to the other core nodes.
#[derive(Clone)]
pub struct CoreLine {
    pub me: Host,
    pub network: Network,
    pub calls: Calls,
}

impl Transport for CoreLine {
    fn call(
        &self,
        seat: RaftId,
        peer: &CoreNode,
        method: Method,
        body: Vec<u8>,
        timeout: Duration,
    ) -> BoxFuture<'static, Answer> {
        let (line, peer) = (self.clone(), peer.name.clone());
        Box::pin(async move {
            let to = Host(u8::try_from(seat.0).expect("a simulated core has few seats"));
            let call = line.network.next_call();
            let (waiting, answer) = oneshot::channel();
            lock(&line.calls.0).insert(call, waiting);
            line.network.send(line.me, to, &Message::Call { call, method: method_number(method), body });
            let answer = NodeRuntime::timeout(timeout, answer).await;
            lock(&line.calls.0).remove(&call);
            match answer {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(TransportError::Unreachable { peer, reason: "this node is going down".into() }),
                Err(_) => Err(TransportError::Timeout { peer, after: timeout }),
            }
        })
    }
}

/// What a driver's inbox is made of: unbounded, because the simulated network bounds what is under way.
pub type Inbox<T> = mpsc::UnboundedReceiver<T>;
