//! The wires between hosts: every packet takes a seeded time, may be lost, and does not pass a cut.
//!
//! Packets are bytes and are parsed by whoever receives them. Calls of the core (a question that waits for its
//! answer) run over connections: when a packet of one is lost, the caller learns after a while that the connection
//! broke, as TCP keep-alive would tell; when the peer's process is gone, after a round trip. All else is sent and
//! forgotten; the protocols above repeat what they need.
//!
//! A host's uplink carries one packet after the other. Repeats meet only what is sent and forgotten: a connection has
//! none.
//!
//! Not here yet: address translation and outward-only dialling.

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

use crate::clock::now_us;
use crate::journal::Journal;
use crate::plan::Size;
use crate::runtime::{NodeRuntime, lock};

/// One packet's bytes.
const PACKET_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long it takes to notice that a connection broke.
const BREAK_NOTICED_MS: std::ops::Range<u64> = 700..1_800;

/// A machine on the network: core nodes by their seat from 1, then the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Host(pub u16);

impl Host {
    /// For the journal.
    pub fn bytes(self) -> [u8; 2] {
        self.0.to_be_bytes()
    }

    /// The core node in this seat.
    pub fn of_seat(seat: RaftId) -> Self {
        Self(u16::try_from(seat.0).expect("a simulated core has few seats"))
    }
}

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
    /// A question under its asker's own number, and the answer to that very question: each has a stream of its own.
    Follow {
        number: u64,
        request: FollowRequest,
    },
    Followed {
        number: u64,
        reply: FollowReply,
    },
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// One way, microseconds: the least, and what jitter adds at most.
    pub latency_us: u64,
    pub jitter_us: u64,
    /// Packets lost of 10,000, and repeated.
    pub lost_per_10000: u32,
    pub repeated_per_10000: u32,
    /// What a host's uplink carries; 0: no limit.
    pub bits_per_s: u64,
}

impl Line {
    /// Metropolitan fibre.
    pub const FIBRE: Self =
        Self { latency_us: 800, jitter_us: 700, lost_per_10000: 1, repeated_per_10000: 0, bits_per_s: 1_000_000_000 };
    /// A county's leased line of 10 Mbit/s.
    pub const COUNTY: Self = Self {
        latency_us: 12_000,
        jitter_us: 9_000,
        lost_per_10000: 10,
        repeated_per_10000: 1,
        bits_per_s: 10_000_000,
    };
    /// By way of a geostationary satellite.
    pub const SATELLITE: Self = Self {
        latency_us: 270_000,
        jitter_us: 40_000,
        lost_per_10000: 60,
        repeated_per_10000: 5,
        bits_per_s: 4_000_000,
    };
}

/// The lines between core nodes, and all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lines {
    pub core: Line,
    pub members: Line,
}

/// Hosts whose packets do not reach others: (from, to).
pub type Cut = BTreeSet<(Host, Host)>;

type Port = Arc<dyn Fn(Packet) + Send + Sync>;

/// Clones are the same network.
#[derive(Clone)]
pub struct Network {
    wires: Arc<Mutex<Wires>>,
    journal: Journal,
}

struct Wires {
    size: Size,
    lines: Lines,
    /// While lines are worse than they are: lost and repeated of 10,000.
    worse: Option<(u32, u32)>,
    rng: ChaCha8Rng,
    ports: BTreeMap<Host, Port>,
    /// By number, so that each heals for itself.
    cuts: BTreeMap<u64, Cut>,
    /// When a host's uplink is free again, microseconds.
    free_us: BTreeMap<Host, u64>,
    numbers: u64,
}

/// What becomes of a packet.
struct Fate {
    lost: bool,
    delay: Duration,
    repeated: Option<Duration>,
}

impl Wires {
    fn is_cut(&self, from: Host, to: Host) -> bool {
        self.cuts.values().any(|cut| cut.contains(&(from, to)))
    }

    fn fate(&mut self, from: Host, to: Host, bytes: usize) -> Fate {
        let within_core = self.size.is_core(from) && self.size.is_core(to);
        let line = if within_core { self.lines.core } else { self.lines.members };
        let (lost, repeated) = self.worse.unwrap_or((line.lost_per_10000, line.repeated_per_10000));
        let lost = self.rng.random_range(0..10_000) < lost;
        let mut under_way = || Duration::from_micros(line.latency_us + self.rng.random_range(0..=line.jitter_us));
        let (first, second) = (under_way(), under_way());
        let repeated = (self.rng.random_range(0..10_000) < repeated).then_some(second);
        let waits = Duration::from_micros(self.uplink_us(from, bytes, line.bits_per_s));
        Fate { lost, delay: waits + first, repeated: repeated.map(|second| waits + second) }
    }

    /// Until the last bit of a packet has left.
    fn uplink_us(&mut self, from: Host, bytes: usize, bits_per_s: u64) -> u64 {
        if bits_per_s == 0 {
            return 0;
        }
        let now_us = now_us();
        let free_us = self.free_us.entry(from).or_default();
        *free_us = now_us.max(*free_us) + (bytes as u64 * 8).saturating_mul(1_000_000) / bits_per_s;
        *free_us - now_us
    }

    fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }
}

impl Network {
    pub fn new(size: Size, lines: Lines, rng: ChaCha8Rng, journal: Journal) -> Self {
        let wires = Wires {
            size,
            lines,
            worse: None,
            rng,
            ports: BTreeMap::new(),
            cuts: BTreeMap::new(),
            free_us: BTreeMap::new(),
            numbers: 0,
        };
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

    /// What is cut does not pass until the cut of the returned number heals.
    pub fn cut(&self, cut: Cut) -> u64 {
        let mut wires = lock(&self.wires);
        let number = wires.next_number();
        wires.cuts.insert(number, cut);
        number
    }

    pub fn heal(&self, number: u64) {
        lock(&self.wires).cuts.remove(&number);
    }

    /// All lines lose and repeat so much of 10,000 packets, or what they do by themselves.
    pub fn worsen(&self, worse: Option<(u32, u32)>) {
        lock(&self.wires).worse = worse;
    }

    pub fn send(&self, from: Host, to: Host, message: &Message) {
        let bytes = encode(message);
        let Fate { lost, delay, repeated } = lock(&self.wires).fate(from, to, bytes.len());
        let notice = break_notice(from, to, message);
        if let Some(delay) = repeated.filter(|_| notice.is_none()) {
            self.journal.event("packet repeated", &[&from.bytes(), &to.bytes()]);
            self.carry(from, to, bytes.clone(), Fate { lost: false, delay, repeated: None }, None);
        }
        self.carry(from, to, bytes, Fate { lost, delay, repeated: None }, notice);
    }

    fn carry(&self, from: Host, to: Host, bytes: Vec<u8>, fate: Fate, notice: Option<(Host, Message)>) {
        let network = self.clone();
        drop(SimRuntime::spawn(async move {
            let lost = fate.lost || lock(&network.wires).is_cut(from, to);
            SimRuntime::sleep(fate.delay).await;
            if lost || lock(&network.wires).is_cut(from, to) {
                network.journal.event("packet lost", &[&from.bytes(), &to.bytes(), &bytes]);
                let noticed_ms = lock(&network.wires).rng.random_range(BREAK_NOTICED_MS);
                network.tell_of_break(to, notice, noticed_ms).await;
            } else if !network.deliver(from, to, bytes) {
                let round_trip_ms = u64::try_from(fate.delay.as_millis()).unwrap_or(0);
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
            self.journal.event("nobody there", &[&from.bytes(), &to.bytes(), &bytes]);
            return false;
        };
        self.journal.event("packet", &[&from.bytes(), &to.bytes(), &bytes]);
        port(Packet { from, bytes });
        true
    }

    fn next_call(&self) -> u64 {
        lock(&self.wires).next_number()
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
            let to = Host::of_seat(seat);
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
