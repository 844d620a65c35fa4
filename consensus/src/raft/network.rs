//! Raft's way to its peers: openraft's network over whatever carries bytes ([`Transport`]): gRPC with mutual TLS in
//! `node`, the simulated network in `simnet`.
//!
//! Kept here, because both need it: what each peer has confirmed to this leader (so that a peer that was rolled
//! back notices), and who refused this leader's batches because of its clock ([`PeerBook`]).

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::base::BoxFuture;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{RPCOption, RPCTypes};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::{AsyncRuntime, OptionalSend, RaftNetworkFactory, RaftNetworkV2, Snapshot};

use super::admission::term_jump;
use super::types::{CoreNode, LeaderId, LogId, RaftId, TypeConfig, Vote};
use super::wire::{Append, AppendReply, RefusalNotice, SnapshotCall, SnapshotReference, Transfer, VoteCall, VoteReply};
use crate::ids::UnixMillis;
use crate::wire::DecodeError;

/// A message with batches may take this long: the largest over a line of 10 Mbit/s, and its fsync.
pub const APPEND_TIMEOUT: Duration = Duration::from_secs(20);
/// A message without batches: a few round trips of a slow line.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(1);

/// What one core node asks of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Append,
    Vote,
    PreVote,
    Transfer,
    Snapshot,
    /// Commands that a core node forwards to the leader.
    Submit,
}

/// Why a call gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    #[error("no connection to {peer}: {reason}")]
    Unreachable { peer: String, reason: String },
    #[error("{peer} did not answer within {after:?}")]
    Timeout { peer: String, after: Duration },
    #[error("{peer} refused the call: {reason}")]
    Refused { peer: String, reason: String },
}

/// Carries one request to a core node and its answer back. Connections are its own affair; a lost one is retried
/// with growing pauses, never in a tight loop.
pub trait Transport: Clone + Send + Sync + 'static {
    fn call(
        &self,
        seat: RaftId,
        peer: &CoreNode,
        method: Method,
        body: Vec<u8>,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Vec<u8>, TransportError>>;
}

/// What this node, as leader, has learnt of its peers.
#[derive(Clone, Default)]
pub struct PeerBook {
    inner: Arc<Mutex<Pages>>,
}

#[derive(Default)]
struct Pages {
    confirmed: BTreeMap<RaftId, (Vote, LogId)>,
    clock_refusals: BTreeMap<RaftId, String>,
    seen: BTreeMap<RaftId, UnixMillis>,
}

impl PeerBook {
    fn lock(&self) -> MutexGuard<'_, Pages> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn confirmed(&self, peer: RaftId, vote: &Vote) -> Option<LogId> {
        self.lock().confirmed.get(&peer).filter(|(of, _)| of == vote).map(|(_, id)| *id)
    }

    fn confirm(&self, peer: RaftId, vote: Vote, id: Option<LogId>) {
        let mut pages = self.lock();
        let Some(id) = id else { return };
        let entry = pages.confirmed.entry(peer).or_insert((vote, id));
        if entry.0 != vote || entry.1 < id {
            *entry = (vote, id);
        }
    }

    fn took(&self, peer: RaftId) {
        self.lock().clock_refusals.remove(&peer);
    }

    fn refused(&self, peer: RaftId, notice: &RefusalNotice) {
        if notice.clock_skew {
            self.lock().clock_refusals.insert(peer, notice.reason.clone());
        }
    }

    /// Peers that refused our newest batches because of our clock, with their words.
    pub fn clock_refusals(&self) -> BTreeMap<RaftId, String> {
        self.lock().clock_refusals.clone()
    }

    pub fn forget_clock_refusals(&self) {
        self.lock().clock_refusals.clear();
    }

    /// Notes that `peer` spoke to us.
    pub fn heard(&self, peer: RaftId, now: UnixMillis) {
        self.lock().seen.insert(peer, now);
    }

    /// When each peer last spoke to us.
    pub fn last_heard(&self) -> BTreeMap<RaftId, UnixMillis> {
        self.lock().seen.clone()
    }
}

/// Makes openraft's connections.
#[derive(Clone)]
pub struct NetworkFactory<T> {
    me: RaftId,
    transport: T,
    book: PeerBook,
}

impl<T: Transport> NetworkFactory<T> {
    pub fn new(me: RaftId, transport: T, book: PeerBook) -> Self {
        Self { me, transport, book }
    }
}

impl<Rt: AsyncRuntime, T: Transport> RaftNetworkFactory<TypeConfig<Rt>> for NetworkFactory<T> {
    type Network = Network<T>;

    async fn new_client(&mut self, target: RaftId, node: &CoreNode) -> Network<T> {
        let (transport, book) = (self.transport.clone(), self.book.clone());
        Network { me: self.me, target, node: node.clone(), transport, book }
    }
}

/// One peer.
pub struct Network<T> {
    me: RaftId,
    target: RaftId,
    node: CoreNode,
    transport: T,
    book: PeerBook,
}

impl<T: Transport> Network<T> {
    async fn call<Rt: AsyncRuntime>(
        &self,
        method: Method,
        body: Vec<u8>,
        timeout: Duration,
    ) -> Result<Vec<u8>, RPCError<TypeConfig<Rt>>> {
        let answer = self.transport.call(self.target, &self.node, method, body, timeout).await;
        answer.map_err(|error| self.rpc_error(method, error))
    }

    /// Unreachable makes openraft wait before it tries again; a timeout does not.
    fn rpc_error<Rt: AsyncRuntime>(&self, method: Method, error: TransportError) -> RPCError<TypeConfig<Rt>> {
        let action = match method {
            Method::Vote | Method::PreVote => RPCTypes::Vote,
            Method::Snapshot => RPCTypes::InstallSnapshot,
            Method::Append | Method::Submit => RPCTypes::AppendEntries,
            Method::Transfer => RPCTypes::TransferLeader,
        };
        match error {
            TransportError::Timeout { after, .. } => {
                RPCError::Timeout(Timeout { action, id: self.me, target: self.target, timeout: after })
            }
            error => RPCError::Unreachable(Unreachable::new(&error)),
        }
    }

    /// A peer's vote that is higher than ours ends our leadership or candidacy; one that no election can have reached
    /// must not, or one broken peer could use up all terms.
    fn higher_vote<Rt: AsyncRuntime>(&self, theirs: Vote, ours: Vote) -> Result<Vote, RPCError<TypeConfig<Rt>>> {
        let Some(ahead) = term_jump(theirs, Some(ours)) else { return Ok(theirs) };
        tracing::warn!(peer = %self.node.name, ahead, "a core node tells of a term that no election can have reached");
        Err(RPCError::Network(NetworkError::from_string(format!("a term that is {ahead} ahead of this node's"))))
    }

    fn malformed<Rt: AsyncRuntime>(error: DecodeError) -> RPCError<TypeConfig<Rt>> {
        RPCError::Unreachable(Unreachable::new(&error))
    }

    async fn vote_call<Rt: AsyncRuntime>(
        &self,
        method: Method,
        rpc: VoteRequest<TypeConfig<Rt>>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig<Rt>>, RPCError<TypeConfig<Rt>>> {
        let call = VoteCall { vote: rpc.vote, last: rpc.last_log_id, transfer: rpc.leadership_transfer };
        let answer = self.call(method, call.to_bytes(), option.hard_ttl().max(CALL_TIMEOUT)).await?;
        let reply = VoteReply::from_bytes(&answer).map_err(Self::malformed)?;
        let vote = self.higher_vote(reply.vote, rpc.vote)?;
        Ok(VoteResponse { vote, vote_granted: reply.granted, last_log_id: reply.last })
    }
}

impl<Rt: AsyncRuntime, T: Transport> RaftNetworkV2<TypeConfig<Rt>> for Network<T> {
    type SnapshotData = SnapshotReference;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig<Rt>>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig<Rt>>, RPCError<TypeConfig<Rt>>> {
        let vote = rpc.vote;
        let last = rpc.entries.last().map(|entry| entry.log_id).or(rpc.prev_log_id);
        let timeout = if rpc.entries.is_empty() { option.hard_ttl().max(CALL_TIMEOUT) } else { APPEND_TIMEOUT };
        let carries_entries = !rpc.entries.is_empty();
        let append = Append {
            vote,
            previous: rpc.prev_log_id,
            entries: rpc.entries,
            commit: rpc.leader_commit,
            confirmed: self.book.confirmed(self.target, &vote),
        };
        let answer = self.call(Method::Append, append.to_bytes(), timeout).await?;
        match AppendReply::from_bytes(&answer).map_err(Self::malformed)? {
            AppendReply::Success => {
                self.book.confirm(self.target, vote, last);
                if carries_entries {
                    self.book.took(self.target);
                }
                Ok(AppendEntriesResponse::Success)
            }
            AppendReply::Partial(id) => {
                let id = id.map(LogId::from);
                // A peer cannot have taken what was not sent.
                if id > last || id < append.previous {
                    return Err(RPCError::Network(NetworkError::from_string("the peer confirmed what was not sent")));
                }
                self.book.confirm(self.target, vote, id);
                Ok(AppendEntriesResponse::PartialSuccess(id))
            }
            AppendReply::Conflict if append.previous.is_none() => {
                Err(RPCError::Network(NetworkError::from_string("the peer contradicts the log's beginning")))
            }
            AppendReply::Conflict => Ok(AppendEntriesResponse::Conflict),
            AppendReply::HigherVote(higher) => {
                let higher = higher.try_into().map_err(Self::malformed)?;
                Ok(AppendEntriesResponse::HigherVote(self.higher_vote(higher, vote)?))
            }
            AppendReply::Refused(notice) => {
                tracing::warn!(peer = %self.node.name, reason = %notice.reason, "a core node refused this leader's entries");
                self.book.refused(self.target, &notice);
                let error = TransportError::Refused { peer: self.node.name.clone(), reason: notice.reason };
                Err(RPCError::Unreachable(Unreachable::new(&error)))
            }
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig<Rt>>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig<Rt>>, RPCError<TypeConfig<Rt>>> {
        self.vote_call(Method::Vote, rpc, option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig<Rt>>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig<Rt>>, RPCError<TypeConfig<Rt>>> {
        self.vote_call(Method::PreVote, rpc, option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<LeaderId, RaftId, CoreNode, SnapshotReference>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig<Rt>>, StreamingError<TypeConfig<Rt>>> {
        let call = SnapshotCall {
            vote,
            last: snapshot.meta.last_log_id,
            membership: snapshot.meta.last_membership,
            reference: snapshot.snapshot,
        };
        let sent = self.call::<Rt>(Method::Snapshot, call.to_bytes(), option.hard_ttl().max(CALL_TIMEOUT));
        let answer = match futures::future::select(Box::pin(sent), Box::pin(cancel)).await {
            futures::future::Either::Left((answer, _)) => answer?,
            futures::future::Either::Right((closed, _)) => return Err(StreamingError::Closed(closed)),
        };
        let reply =
            VoteReply::from_bytes(&answer).map_err(|error| StreamingError::Unreachable(Unreachable::new(&error)))?;
        Ok(SnapshotResponse { vote: self.higher_vote::<Rt>(reply.vote, vote)? })
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig<Rt>>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig<Rt>>, RPCError<TypeConfig<Rt>>> {
        let transfer =
            Transfer { from: *request.from_leader(), to: *request.to_node_id(), last: request.last_log_id().copied() };
        self.call::<Rt>(Method::Transfer, transfer.to_bytes(), option.hard_ttl().max(CALL_TIMEOUT)).await?;
        Ok(Ok(()))
    }
}
