//! The receiving side of Raft's network: bytes of a core node whose identity the connection proved, to openraft and
//! back. Every check that openraft does not make stands here or in [`super::admission`].
//!
//! AppendEntries are judged and handed over one at a time, on a task of their own: a caller that goes away half-way
//! cannot let the next one be judged against a log that is about to change. Heartbeats do not wait in that line.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::lock::Mutex;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest};
use openraft::type_config::TypeConfigExt;
use openraft::{AsyncRuntime, Raft, SnapshotMeta};

use super::WallClock;
use super::admission::{self, AdmissionError, Circumstances, SnapshotRefusal, Verdict, term_jump};
use super::log_store::{LogError, LogStore, TipAt, Waits};
use super::network::{Method, PeerBook};
use super::state_machine::{Standing, StateMachine};
use super::types::{LogId, RaftId, TypeConfig, Vote};
use super::wire::{Append, AppendReply, SnapshotCall, Transfer, VoteCall, VoteReply};
use crate::ids::{NodeId, UnixMillis};
use crate::kernel;
use crate::replica::{CheckError, Replica};
use crate::wire::DecodeError;
use crate::wire::v1::Submission;

/// Why a peer's call was not answered.
#[derive(Debug, thiserror::Error)]
pub enum InboundError {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("{sender} sent what only {named} may send")]
    NotTheSender { sender: RaftId, named: RaftId },
    #[error("a candidate's term is {ahead} ahead of this node's")]
    TermJump { ahead: u64 },
    #[error(transparent)]
    Snapshot(#[from] SnapshotRefusal),
    #[error("this node takes no part until there is room on its disk")]
    Waits,
    #[error("this node's Raft has stopped: {0}")]
    Stopped(String),
    #[error("this is not a call of Raft")]
    OtherMethod,
}

/// Answers the other core nodes. Clones answer for the same node.
pub struct Inbound<Rt: AsyncRuntime> {
    raft: Raft<TypeConfig<Rt>, StateMachine>,
    judge: Arc<Judge>,
    line: Arc<Mutex<()>>,
    book: PeerBook,
}

impl<Rt: AsyncRuntime> Clone for Inbound<Rt> {
    fn clone(&self) -> Self {
        let (raft, judge) = (self.raft.clone(), self.judge.clone());
        Self { raft, judge, line: self.line.clone(), book: self.book.clone() }
    }
}

/// The node's own part of the circumstances.
struct Judge {
    log: LogStore,
    replica: Arc<Replica>,
    clock: WallClock,
}

impl Circumstances for Judge {
    fn now(&self) -> UnixMillis {
        (self.clock)()
    }

    fn vote(&self) -> Option<Vote> {
        self.log.vote()
    }

    fn last(&self) -> Option<LogId> {
        self.log.last_log_id()
    }

    fn committed(&self) -> Option<LogId> {
        self.log.committed()
    }

    fn held(&self, index: u64) -> Result<Option<LogId>, LogError> {
        self.log.log_id_at(index)
    }

    fn tip_at(&self, id: Option<LogId>) -> Result<TipAt, LogError> {
        self.log.tip_at(id)
    }

    fn seats(&self) -> Result<BTreeMap<RaftId, NodeId>, AdmissionError> {
        let core = kernel::core(self.replica.view()).map_err(|error| AdmissionError::Ledger(error.to_string()))?;
        Ok(core.seats.iter().map(|seat| (RaftId(seat.raft_id), seat.node)).collect())
    }

    fn check(&self, submission: &Submission) -> Result<(), CheckError> {
        self.replica.check(submission)
    }
}

impl<Rt: AsyncRuntime> Inbound<Rt> {
    pub fn new(
        raft: Raft<TypeConfig<Rt>, StateMachine>,
        log: LogStore,
        replica: Arc<Replica>,
        clock: WallClock,
        book: PeerBook,
    ) -> Self {
        Self { raft, judge: Arc::new(Judge { log, replica, clock }), line: Arc::default(), book }
    }

    /// Answers `sender`, whom the connection proved to hold that seat. What is refused is said in the log, with its
    /// sender.
    pub async fn serve(&self, sender: RaftId, method: Method, body: &[u8]) -> Result<Vec<u8>, InboundError> {
        self.book.heard(sender, self.judge.now());
        let answer = self.answer(sender, method, body).await;
        if let Err(InboundError::Waits) = &answer {
            tracing::debug!(%sender, ?method, "not answered: no room");
        } else if let Err(error) = &answer {
            tracing::warn!(%sender, ?method, %error, "refused what a core node sent");
        }
        answer
    }

    async fn answer(&self, sender: RaftId, method: Method, body: &[u8]) -> Result<Vec<u8>, InboundError> {
        // What would only pile up here, for as long as a disk is full.
        if self.judge.log.waits(Waits::Log) {
            return Err(InboundError::Waits);
        }
        match method {
            Method::Append => Ok(self.append(sender, Append::from_bytes(body)?).await?.to_bytes()),
            Method::Vote | Method::PreVote => self.vote(sender, method, VoteCall::from_bytes(body)?).await,
            Method::Transfer => self.transfer(sender, Transfer::from_bytes(body)?).await,
            Method::Snapshot => self.snapshot(sender, SnapshotCall::from_bytes(body)?).await,
            Method::Submit => Err(InboundError::OtherMethod),
        }
    }

    async fn append(&self, sender: RaftId, append: Append) -> Result<AppendReply, InboundError> {
        if append.entries.is_empty() {
            return self.judge_and_append(sender, append).await;
        }
        let this = self.clone();
        let task = TypeConfig::<Rt>::spawn(async move {
            let line = this.line.clone();
            let _in_turn = line.lock().await;
            this.judge_and_append(sender, append).await
        });
        task.await.map_err(|error| InboundError::Stopped(error.to_string()))?
    }

    async fn judge_and_append(&self, sender: RaftId, mut append: Append) -> Result<AppendReply, InboundError> {
        let probe = match admission::judge(&append, sender, &*self.judge) {
            Verdict::Refuse(why) => {
                tracing::warn!(leader = %sender, %why, "refused a leader's entries");
                return Ok(AppendReply::Refused(why.notice()));
            }
            Verdict::Take => None,
            Verdict::TakeFirst { count, why } => {
                tracing::info!(leader = %sender, %why, count, "took only the first of a leader's entries");
                append.entries.truncate(count);
                let partial = append.entries.last().map(|entry| entry.log_id);
                Some(AppendReply::Partial(partial.map(Into::into)))
            }
            Verdict::Probe => {
                append.entries.clear();
                Some(AppendReply::Partial(append.previous.map(Into::into)))
            }
        };
        let request = AppendEntriesRequest {
            vote: append.vote,
            prev_log_id: append.previous,
            entries: append.entries,
            leader_commit: append.commit,
        };
        let response = self.raft.append_entries(request).await.map_err(stopped)?;
        Ok(match response {
            AppendEntriesResponse::Success => probe.unwrap_or(AppendReply::Success),
            AppendEntriesResponse::PartialSuccess(id) => AppendReply::Partial(id.map(Into::into)),
            AppendEntriesResponse::Conflict => AppendReply::Conflict,
            AppendEntriesResponse::HigherVote(vote) => AppendReply::HigherVote(vote.into()),
        })
    }

    async fn vote(&self, sender: RaftId, method: Method, call: VoteCall) -> Result<Vec<u8>, InboundError> {
        check_sender(sender, call.vote)?;
        self.check_term(call.vote)?;
        let mut request = VoteRequest::new(call.vote, call.last);
        request.leadership_transfer = call.transfer;
        let response = match method {
            Method::PreVote => self.raft.pre_vote(request).await,
            _ => self.raft.vote(request).await,
        };
        let response = response.map_err(stopped)?;
        let (vote, last, granted) = (response.vote, response.last_log_id, response.vote_granted);
        Ok(VoteReply { vote, last, granted }.to_bytes())
    }

    fn check_term(&self, vote: Vote) -> Result<(), InboundError> {
        term_jump(vote, self.judge.vote()).map_or(Ok(()), |ahead| Err(InboundError::TermJump { ahead }))
    }

    async fn transfer(&self, sender: RaftId, transfer: Transfer) -> Result<Vec<u8>, InboundError> {
        check_sender(sender, transfer.from)?;
        self.check_term(transfer.from)?;
        let request = TransferLeaderRequest::new(transfer.from, transfer.to, transfer.last);
        // A target that is not ready says so in its own log; the leader's lease decides what happens next.
        if let Err(reason) = self.raft.handle_transfer_leader(request).await.map_err(stopped)? {
            tracing::info!(leader = %sender, %reason, "cannot take over the leadership now");
        }
        Ok(Vec::new())
    }

    /// In the same line as entries, on a task of its own: what was judged is what is installed.
    async fn snapshot(&self, sender: RaftId, call: SnapshotCall) -> Result<Vec<u8>, InboundError> {
        let this = self.clone();
        let task = TypeConfig::<Rt>::spawn(async move {
            let line = this.line.clone();
            let _in_turn = line.lock().await;
            this.judge_and_install(sender, call).await
        });
        task.await.map_err(|error| InboundError::Stopped(error.to_string()))?
    }

    async fn judge_and_install(&self, sender: RaftId, call: SnapshotCall) -> Result<Vec<u8>, InboundError> {
        let judge = &self.judge;
        let here = Standing::read(&judge.replica).map_err(|error| SnapshotRefusal::Ledger(error.to_string()))?;
        admission::judge_snapshot(&call, sender, &here, &**judge)?;
        if let Some(last) = call.last {
            judge.log.expect_snapshot(last, call.reference.tip);
        }
        let meta = SnapshotMeta { last_log_id: call.last, last_membership: call.membership };
        let snapshot = openraft::Snapshot { meta, snapshot: call.reference };
        let response = self.raft.install_full_snapshot(call.vote, snapshot).await.map_err(stopped)?;
        Ok(VoteReply { vote: response.vote, last: None, granted: true }.to_bytes())
    }
}

fn stopped(error: impl std::fmt::Display) -> InboundError {
    InboundError::Stopped(error.to_string())
}

fn check_sender(sender: RaftId, vote: Vote) -> Result<(), InboundError> {
    let named = vote.leader_id.node_id;
    if named == sender { Ok(()) } else { Err(InboundError::NotTheSender { sender, named }) }
}
