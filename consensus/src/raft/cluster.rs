//! A core node as it runs: log, state machine, openraft, proposer and the watch over its own clock and disk, put together.
//!
//! Generic over runtime and transport; `node` and `simnet` start the same thing. The first core is that of the
//! genesis: the node in the lowest seat founds the Raft cluster with all of them, once. Raft snapshots are never
//! taken by themselves and the log is kept: a core node that comes back catches up from it.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::Either;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{InitializeError, RaftError};
use openraft::raft::VoteRequest;
use openraft::type_config::TypeConfigExt;
use openraft::{AsyncRuntime, Config, Raft, SnapshotPolicy};
use serde::{Deserialize, Serialize};
use tessera_storage::engine::{Engine, EngineError};

use super::WallClock;
use super::admission::CLOCK_SKEW_MS_MAX;
use super::inbound::{Inbound, InboundError};
use super::intake::{SubmitError, SubmitResult};
use super::log_store::{LogError, LogStore, Waits};
use super::network::{Method, NetworkFactory, PeerBook, Transport};
use super::proposer::{Proposer, Submitter};
use super::state_machine::{AppliedListener, StateMachine, StateMachineError, genesis_tip};
use super::types::{CoreNode, LogId, RaftId, TypeConfig, Vote};
use super::watermark::Watermark;
use super::wire::{self, APPEND_ENTRIES_MAX, MESSAGE_BYTES_MAX, WireLogId};
use crate::ids::{LedgerSize, NodeId, UnixMillis};
use crate::kernel;
use crate::replica::Replica;
use crate::wire::DecodeError;
use crate::wire::bounded::AtMost;
use crate::wire::v1::{BATCH_COMMANDS_MAX, Submission};

/// Commands that are forwarded to the leader may take this long until they are committed.
pub const SUBMIT_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a leader looks whether its clock or its disk is what keeps the core from going on.
const LEADER_WATCH: Duration = Duration::from_secs(1);
/// How long a node whose clock was refused leaves the leadership to others.
const ABSTENTION: Duration = Duration::from_secs(10);

/// Raft's rhythm, milliseconds. Heartbeats well below the election timeouts, those well above a round trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    pub heartbeat_ms: u64,
    pub election_ms_min: u64,
    pub election_ms_max: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self { heartbeat_ms: 150, election_ms_min: 600, election_ms_max: 1200 }
    }
}

/// What a core node is started with.
pub struct CoreSetup<T> {
    pub seat: RaftId,
    pub node: NodeId,
    /// The Raft directory's own engine, with the tables of [`super::log_store::TABLES`].
    pub raft_engine: Arc<dyn Engine>,
    pub watermark: Arc<dyn Watermark>,
    /// Its engine has the table [`super::state_machine::RAFT_APPLIED`] too.
    pub replica: Arc<Replica>,
    pub clock: WallClock,
    pub transport: T,
    pub listener: AppliedListener,
    pub timing: Timing,
}

/// Why a core node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    StateMachine(#[from] StateMachineError),
    #[error(
        "the Raft log ends at {log:?}, the ledger was applied up to {applied}: the Raft directory was lost or put \
         back from a copy; this core node may not vote with it"
    )]
    LogBehindLedger { log: Option<LogId>, applied: LogId },
    #[error("the ledger's core cannot be read: {0}")]
    Ledger(#[from] EngineError),
    #[error("seat {0} is not one of the ledger's core")]
    NotInCore(RaftId),
    #[error("Raft's timing is not usable: {0}")]
    Timing(String),
    #[error("Raft did not start: {0}")]
    Raft(String),
}

impl StartError {
    /// Whether this node remembers less than it once confirmed, so that it may not vote any more.
    pub fn is_loss_of_memory(&self) -> bool {
        matches!(self, Self::Log(LogError::LogShorterThanDurable { .. }) | Self::LogBehindLedger { .. })
    }
}

/// What a core node says of itself and of the core.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CoreStatus {
    pub seat: RaftId,
    pub leader: Option<RaftId>,
    pub term: u64,
    /// Index of the last entry of the Raft log, and of the last one applied.
    pub last_index: Option<u64>,
    pub applied: Option<WireLogId>,
    pub size: LedgerSize,
    /// When each other core node last spoke to this one.
    pub heard: BTreeMap<RaftId, UnixMillis>,
    /// Core nodes that refuse this leader's batches because of its clock, in their words.
    pub clock_refusals: BTreeMap<RaftId, String>,
    /// Why Raft has stopped here, if it has.
    pub stopped: Option<String>,
}

/// A running core node. Clones are handles to the same one.
pub struct Core<Rt: AsyncRuntime, T> {
    seat: RaftId,
    raft: Raft<TypeConfig<Rt>, StateMachine>,
    log: LogStore,
    replica: Arc<Replica>,
    inbound: Inbound<Rt>,
    submitter: Submitter,
    transport: T,
    book: PeerBook,
    clock: WallClock,
}

impl<Rt: AsyncRuntime, T: Clone> Clone for Core<Rt, T> {
    fn clone(&self) -> Self {
        Self {
            seat: self.seat,
            raft: self.raft.clone(),
            log: self.log.clone(),
            replica: self.replica.clone(),
            inbound: self.inbound.clone(),
            submitter: self.submitter.clone(),
            transport: self.transport.clone(),
            book: self.book.clone(),
            clock: self.clock.clone(),
        }
    }
}

/// The seats of the present core, by the ledger.
pub fn seats(replica: &Replica) -> Result<BTreeMap<RaftId, CoreNode>, EngineError> {
    let mut seats = BTreeMap::new();
    for seat in kernel::core(replica.view())?.seats {
        if let Some(record) = kernel::node(replica.view(), &seat.node)? {
            let join = record.join.join;
            let address = join.core_address.unwrap_or_default();
            seats.insert(RaftId(seat.raft_id), CoreNode { node: seat.node, name: join.name, address });
        }
    }
    Ok(seats)
}

fn config(replica: &Replica, timing: Timing) -> Result<Arc<Config>, StartError> {
    let config = Config {
        cluster_name: replica.federation().short(),
        heartbeat_interval: timing.heartbeat_ms,
        election_timeout_min: timing.election_ms_min,
        election_timeout_max: timing.election_ms_max,
        max_payload_entries: APPEND_ENTRIES_MAX as u64,
        snapshot_policy: SnapshotPolicy::Never,
        // Snapshots are references; a follower that lags gets entries as long as the log has them.
        replication_lag_threshold: u64::MAX,
        enable_pre_vote: Some(true),
        // A leader that returns asks for votes again: its state may be older than what it has told others.
        enable_leader_restore: Some(false),
        // A follower that was put back from a copy is stopped by its watermark and by admission; the leader, which
        // did nothing wrong, goes on.
        allow_log_reversion: Some(true),
        ..Config::default()
    };
    Ok(Arc::new(config.validate().map_err(|error| StartError::Timing(error.to_string()))?))
}

impl<Rt: AsyncRuntime, T: Transport> Core<Rt, T> {
    /// Starts Raft on what the directories hold, founding the cluster where this is the lowest seat of a new core.
    pub async fn start(setup: CoreSetup<T>) -> Result<Self, StartError> {
        let CoreSetup { seat, node, raft_engine, watermark, replica, clock, transport, listener, timing } = setup;
        let members = seats(&replica)?;
        if members.get(&seat).is_none_or(|own| own.node != node) {
            return Err(StartError::NotInCore(seat));
        }
        let log = LogStore::open(raft_engine, watermark, genesis_tip(&replica))?;
        let machine = StateMachine::open(replica.clone(), log.clone(), listener)?;
        check_log_reaches(&log, &machine)?;
        let book = PeerBook::default();
        let factory = NetworkFactory::new(seat, transport.clone(), book.clone());
        let raft = Raft::new(seat, config(&replica, timing)?, factory, log.clone(), machine).await;
        let raft = raft.map_err(|error| StartError::Raft(error.to_string()))?;
        if members.keys().next() == Some(&seat) {
            found(&raft, members).await?;
        }
        let inbound = Inbound::new(raft.clone(), log.clone(), replica.clone(), clock.clone(), book.clone());
        let (proposer, submitter) = Proposer::new(node, raft.clone(), log.clone(), replica.clone(), clock.clone());
        drop(TypeConfig::<Rt>::spawn(proposer.run()));
        let core = Self { seat, raft, log, replica, inbound, submitter, transport, book, clock };
        let watch = LeaderWatch {
            seat,
            raft: core.raft.clone(),
            log: core.log.clone(),
            book: core.book.clone(),
            clock: core.clock.clone(),
        };
        drop(TypeConfig::<Rt>::spawn(watch.run()));
        Ok(core)
    }

    /// To this node's own proposer. Nobody waits there for room on its disk: it leads no more soon.
    async fn submit_here(&self, submissions: Vec<Submission>) -> Vec<SubmitResult> {
        let count = submissions.len();
        if self.waits_for_room().is_some() {
            return vec![Err(SubmitError::NotLeader { leader: None }); count];
        }
        let mut submitted = pin!(self.submitter.submit(submissions));
        loop {
            let look = pin!(TypeConfig::<Rt>::sleep(LEADER_WATCH));
            match futures::future::select(submitted.as_mut(), look).await {
                Either::Left((results, _)) => return results,
                Either::Right(_) if self.waits_for_room().is_some() => {
                    return vec![Err(SubmitError::LeaderChanged); count];
                }
                Either::Right(_) => {}
            }
        }
    }

    /// Submits commands to the leader, wherever it is; one answer for each, in their order.
    pub async fn submit(&self, submissions: Vec<Submission>) -> Vec<SubmitResult> {
        let count = submissions.len();
        let same = |error: SubmitError| vec![Err(error); count];
        let leader = match self.leader() {
            Some(leader) if leader == self.seat => return self.submit_here(submissions).await,
            Some(leader) => leader,
            None => return same(SubmitError::NotLeader { leader: None }),
        };
        let Ok(Some(peer)) = seats(&self.replica).map(|seats| seats.get(&leader).cloned()) else {
            return same(SubmitError::NotLeader { leader: Some(leader) });
        };
        let body = wire::to_bytes(&submissions);
        let answer = self.transport.call(leader, &peer, Method::Submit, body, SUBMIT_TIMEOUT).await;
        let results = answer
            .map_err(|error| error.to_string())
            .and_then(|bytes| receipts_from_bytes(&bytes).map_err(|error| error.to_string()));
        match results {
            Ok(results) if results.len() == count => results,
            Ok(_) => same(SubmitError::Unreachable(format!("{} answered with other commands", peer.name))),
            Err(reason) => same(SubmitError::Unreachable(reason)),
        }
    }

    /// Answers another core node, whom the connection proved to hold the seat `sender`.
    pub async fn serve(&self, sender: RaftId, method: Method, body: &[u8]) -> Result<Vec<u8>, InboundError> {
        if method != Method::Submit {
            return self.inbound.serve(sender, method, body).await;
        }
        // Forwarded once and no further: the sender believed that this node leads.
        let submissions = submissions_from_bytes(body)?;
        Ok(wire::to_bytes(&self.submit_here(submissions).await))
    }

    /// The seat that leads, as far as this node knows.
    pub fn leader(&self) -> Option<RaftId> {
        self.raft.metrics().borrow_watched().current_leader
    }

    pub fn seat(&self) -> RaftId {
        self.seat
    }

    /// Why this node's part in Raft waits, if its disk has no room.
    pub fn waits_for_room(&self) -> Option<String> {
        self.log.waits_for_room()
    }

    pub fn status(&self) -> CoreStatus {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        CoreStatus {
            seat: self.seat,
            leader: metrics.current_leader,
            term: metrics.current_term,
            last_index: metrics.last_log_index,
            applied: metrics.last_applied.map(Into::into),
            size: self.replica.size(),
            heard: self.book.last_heard(),
            clock_refusals: self.book.clock_refusals(),
            stopped: metrics.running_state.as_ref().err().map(ToString::to_string),
        }
    }

    /// Completes when Raft has stopped here, with the reason: a failed write, or a shutdown. A core node whose Raft
    /// has stopped for another reason than its own shutdown must end: it may have lost what it confirmed.
    pub async fn stopped(&self) -> String {
        let mut metrics = self.raft.metrics();
        loop {
            if let Err(reason) = &metrics.borrow_watched().running_state {
                return reason.to_string();
            }
            if metrics.changed().await.is_err() {
                return "Raft has ended".into();
            }
        }
    }

    /// openraft's own handle, for waiting and metrics.
    pub fn raft(&self) -> &Raft<TypeConfig<Rt>, StateMachine> {
        &self.raft
    }

    /// Stops Raft; what is submitted and not durable is completed by the engine.
    pub async fn shutdown(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "Raft did not stop cleanly");
        }
    }
}

/// Parses a forwarded or remote submission.
pub fn submissions_from_bytes(body: &[u8]) -> Result<Vec<Submission>, DecodeError> {
    let submissions: AtMost<Submission, BATCH_COMMANDS_MAX> = wire::from_bytes("submissions", body, MESSAGE_BYTES_MAX)?;
    Ok(submissions.0)
}

/// Parses the answer to a submission.
pub fn receipts_from_bytes(body: &[u8]) -> Result<Vec<SubmitResult>, DecodeError> {
    let receipts: AtMost<SubmitResult, BATCH_COMMANDS_MAX> = wire::from_bytes("receipts", body, MESSAGE_BYTES_MAX)?;
    Ok(receipts.0)
}

/// What was applied here lay in this log first, except where a snapshot took its place.
fn check_log_reaches(log: &LogStore, machine: &StateMachine) -> Result<(), StartError> {
    let Some(applied) = machine.last_applied().filter(|applied| log.last_log_id() < Some(*applied)) else {
        return Ok(());
    };
    if machine.snapshot_position()? == Some(applied) {
        return Ok(());
    }
    Err(StartError::LogBehindLedger { log: log.last_log_id(), applied })
}

async fn found<Rt: AsyncRuntime>(
    raft: &Raft<TypeConfig<Rt>, StateMachine>,
    members: BTreeMap<RaftId, CoreNode>,
) -> Result<(), StartError> {
    if raft.is_initialized().await.map_err(|error| StartError::Raft(error.to_string()))? {
        return Ok(());
    }
    match raft.initialize(members).await {
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
        Err(error) => Err(StartError::Raft(error.to_string())),
    }
}

/// Steps down when this leader's ledger has no room, and until it has is no candidate: it would lead and apply nothing.
///
/// Steps down too when a majority cannot be had because of this leader's clock, or because its newest batches became
/// too old while it had nobody to send them to (a new term makes those acceptable again). Refusals alone say nothing:
/// while entries are committed, it is the clock of who refuses that is wrong, or its word.
struct LeaderWatch<Rt: AsyncRuntime> {
    seat: RaftId,
    raft: Raft<TypeConfig<Rt>, StateMachine>,
    log: LogStore,
    book: PeerBook,
    clock: WallClock,
}

impl<Rt: AsyncRuntime> LeaderWatch<Rt> {
    async fn run(self) {
        // Where the commitment stood when it last moved, was complete, or was held up by no clock; and when that was.
        let mut moved: (Option<LogId>, UnixMillis) = (None, (self.clock)());
        let mut abstains = false;
        loop {
            TypeConfig::<Rt>::sleep(LEADER_WATCH).await;
            if self.raft.metrics().borrow_watched().running_state.is_err() {
                return;
            }
            if self.log.waits(Waits::StateMachine) {
                abstains = true;
                self.raft.runtime_config().elect(false);
                if self.raft.as_leader().is_ok() {
                    self.give_way("its ledger has no room", self.raft.voter_ids()).await;
                }
                continue;
            }
            if std::mem::take(&mut abstains) {
                self.raft.runtime_config().elect(true);
            }
            let (now, committed) = ((self.clock)(), self.log.committed());
            let refusing: BTreeSet<RaftId> = self.book.clock_refusals().into_keys().collect();
            let blamed = !refusing.is_empty() && self.raft.as_leader().is_ok();
            let waits = blamed && committed < self.log.last_log_id();
            if !waits || committed != moved.0 {
                moved = (committed, now);
            }
            let stalled = now.since(moved.1) > CLOCK_SKEW_MS_MAX;
            if blamed && (self.blocks_majority(refusing.len()) || stalled) {
                let aged = self.log.tip().is_some_and(|tip| now.since(tip.time) > CLOCK_SKEW_MS_MAX);
                self.step_down(refusing, aged).await;
                moved = (committed, (self.clock)());
            }
        }
    }

    fn blocks_majority(&self, refusing: usize) -> bool {
        let voters = self.raft.voter_ids().count();
        voters - (voters / 2 + 1) < refusing
    }

    /// Grants a vote to another, as in a handing-over of the leadership: that ends this term, and whoever is elected next
    /// sends what remains under a new one. It is safe like every granted vote.
    async fn give_way(&self, why: &str, others: impl IntoIterator<Item = RaftId>) {
        let Some(other) = others.into_iter().find(|seat| *seat != self.seat) else { return };
        tracing::error!(%other, why, "this core node steps down");
        let term = self.log.vote().map_or(0, |vote| vote.leader_id.term);
        let mut request = VoteRequest::new(Vote::new(term + 1, other), self.log.last_log_id());
        request.leadership_transfer = true;
        if let Err(error) = self.raft.vote(request).await {
            tracing::warn!(%error, "could not step down");
        }
    }

    /// Gives way to one of those who refuse.
    async fn step_down(&self, refusing: BTreeSet<RaftId>, aged: bool) {
        let words = self.book.clock_refusals().into_values().next().unwrap_or_default();
        self.give_way(&format!("its batches are refused because of their time: {words}"), refusing).await;
        self.book.forget_clock_refusals();
        if !aged {
            self.raft.runtime_config().elect(false);
            TypeConfig::<Rt>::sleep(ABSTENTION).await;
            self.raft.runtime_config().elect(true);
        }
    }
}
