//! From commands to batches: the task of a core node that proposes while it leads.
//!
//! Invariants:
//! 1. One task proposes, under one leadership at a time (`with_leader`), each batch naming the one before it, and only
//!    once that one is in the log: openraft refuses a write while the leader's lease is over and takes the next one
//!    when it holds again. So the chain has no gap although up to [`PIPELINE_MAX`] batches are on their way at once.
//! 2. It begins only when the first entry of its own leadership is applied: then the state knows all that earlier
//!    leaders took, and nothing is proposed twice.
//! 3. When a batch fails, all that waits is given back to its submitters. Commands apply once however often they
//!    are sent.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;

use futures::channel::{mpsc, oneshot};
use futures::future::Either;
use futures::stream::{PollNext, SelectWithStrategy, select_with_strategy};
use futures::{FutureExt, StreamExt};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::impls::OneshotResponder;
use openraft::raft::ClientWriteResult;
use openraft::{AsyncRuntime, Raft, RaftMetrics};

use super::WallClock;
use super::intake::{Intake, Proposed, SubmitError, SubmitResult, answer};
use super::log_store::{LogStore, Tip};
use super::state_machine::StateMachine;
use super::types::{LeaderId, RaftId, TypeConfig};
use crate::ids::{Lane, NodeId};
use crate::kernel;
use crate::replica::{CheckError, Replica};
use crate::wire::v1::Submission;

/// Batches on their way at once. Two keep the disk busy; more would only make batches smaller.
pub const PIPELINE_MAX: usize = 2;
/// Commands of each lane between the submitters and the proposing task.
const CHANNEL_MAX: usize = 4096;
/// Commands that are checked in one go before a batch is made.
const GATHER_MAX: usize = 4096;

/// A command on its way to the proposer, with who waits for it.
type Offer = (Submission, oneshot::Sender<SubmitResult>);

/// Both lanes' ends at the proposing task; what is urgent comes out first.
type Offers = SelectWithStrategy<mpsc::Receiver<Offer>, mpsc::Receiver<Offer>, fn(&mut ()) -> PollNext, ()>;

/// Hands commands to the proposing task. Clones hand to the same.
#[derive(Clone)]
pub struct Submitter {
    urgent: mpsc::Sender<Offer>,
    bulk: mpsc::Sender<Offer>,
}

impl Submitter {
    /// Submits in this order; one answer for each, in the same order.
    pub async fn submit(&self, submissions: Vec<Submission>) -> Vec<SubmitResult> {
        let Self { mut urgent, mut bulk } = self.clone();
        let answers: Vec<_> = submissions
            .into_iter()
            .map(|submission| {
                let (waiter, result) = oneshot::channel();
                let sender = match submission.command.body.stream.lane {
                    Lane::Urgent => &mut urgent,
                    Lane::Bulk => &mut bulk,
                };
                match sender.try_send((submission, waiter)) {
                    Ok(()) => Either::Left(result),
                    Err(full) if full.is_full() => Either::Right(SubmitError::Overloaded),
                    Err(_) => Either::Right(SubmitError::Stopped("it is shutting down".into())),
                }
            })
            .collect();
        let mut results = Vec::with_capacity(answers.len());
        for pending in answers {
            results.push(match pending {
                Either::Left(result) => {
                    result.await.unwrap_or_else(|_| Err(SubmitError::Stopped("it is shutting down".into())))
                }
                Either::Right(error) => Err(error),
            });
        }
        results
    }
}

type Answer<Rt> =
    <<Rt as AsyncRuntime>::Oneshot as openraft::async_runtime::Oneshot>::Receiver<ClientWriteResult<TypeConfig<Rt>>>;

type Metrics<Rt> =
    <<Rt as AsyncRuntime>::Watch as openraft::async_runtime::watch::Watch>::Receiver<RaftMetrics<TypeConfig<Rt>>>;

/// The proposing task's own state.
pub struct Proposer<Rt: AsyncRuntime> {
    me: NodeId,
    raft: Raft<TypeConfig<Rt>, StateMachine>,
    log: LogStore,
    replica: Arc<Replica>,
    clock: WallClock,
    offers: Offers,
    intake: Intake,
    /// The leadership that all of `on_their_way` belongs to.
    leadership: Option<LeaderId>,
    tip: Option<Tip>,
    on_their_way: VecDeque<(Proposed, Answer<Rt>)>,
}

/// What the task wakes up for.
enum Event<Rt: AsyncRuntime> {
    /// `None` when nobody can submit any more.
    Offer(Option<Offer>),
    /// `None` when Raft has stopped.
    Answer(Option<ClientWriteResult<TypeConfig<Rt>>>),
    /// `false` when Raft has stopped.
    Standing(bool),
}

/// The answer to the oldest batch on its way; never, when there is none.
async fn next_answer<Rt: AsyncRuntime>(
    on_their_way: &mut VecDeque<(Proposed, Answer<Rt>)>,
) -> Option<ClientWriteResult<TypeConfig<Rt>>> {
    match on_their_way.front_mut() {
        Some((_, answer)) => answer.await.ok(),
        None => std::future::pending().await,
    }
}

/// What this node may do now.
enum Standing {
    Leads(LeaderId),
    /// Elected, but has not yet applied all that came before.
    Preparing,
    Follows(Option<RaftId>),
}

impl<Rt: AsyncRuntime> Proposer<Rt> {
    /// The task, to be run with [`Proposer::run`], and the way to it.
    pub fn new(
        me: NodeId,
        raft: Raft<TypeConfig<Rt>, StateMachine>,
        log: LogStore,
        replica: Arc<Replica>,
        clock: WallClock,
    ) -> (Self, Submitter) {
        let ((urgent, urgent_offers), (bulk, bulk_offers)) = (mpsc::channel(CHANNEL_MAX), mpsc::channel(CHANNEL_MAX));
        let urgent_first: fn(&mut ()) -> PollNext = |_| PollNext::Left;
        let offers = select_with_strategy(urgent_offers, bulk_offers, urgent_first);
        let (intake, on_their_way) = (Intake::default(), VecDeque::new());
        let this = Self { me, raft, log, replica, clock, offers, intake, leadership: None, tip: None, on_their_way };
        (this, Submitter { urgent, bulk })
    }

    /// Runs until every [`Submitter`] is gone or Raft has stopped.
    pub async fn run(mut self) {
        let mut metrics = self.raft.metrics();
        loop {
            match self.turn(&mut metrics).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(%error, "proposals given back");
                    self.give_up(&error);
                    if matches!(error, SubmitError::Stopped(_)) {
                        return;
                    }
                }
            }
        }
    }

    /// One step: propose what waits, then wait for whatever comes first. `false` when nobody can submit any more.
    async fn turn(&mut self, metrics: &mut Metrics<Rt>) -> Result<bool, SubmitError> {
        self.propose_waiting().await?;
        let event = {
            let standing = pin!(metrics.changed());
            let answered = pin!(next_answer(&mut self.on_their_way));
            let either = futures::future::select(self.offers.next(), answered);
            match futures::future::select(either, standing).await {
                Either::Left((Either::Left((offer, _)), _)) => Event::Offer(offer),
                Either::Left((Either::Right((answer, _)), _)) => Event::Answer(answer),
                Either::Right((changed, _)) => Event::Standing(changed.is_ok()),
            }
        };
        let stopped = || SubmitError::Stopped("Raft has stopped".into());
        match event {
            Event::Offer(None) => return Ok(false),
            Event::Offer(Some(offer)) => self.gather(offer),
            Event::Answer(answer) => self.applied(answer.ok_or_else(stopped)?)?,
            Event::Standing(true) => {}
            Event::Standing(false) => return Err(stopped()),
        }
        Ok(true)
    }

    /// Takes what has arrived, up to a bound, so that one batch carries many.
    fn gather(&mut self, first: Offer) {
        let standing = self.standing();
        self.take(first, &standing);
        for _ in 0..GATHER_MAX {
            match self.offers.next().now_or_never() {
                Some(Some(offer)) => self.take(offer, &standing),
                _ => return,
            }
        }
    }

    fn take(&mut self, (submission, waiter): Offer, standing: &Standing) {
        if let Standing::Follows(leader) = standing {
            return answer(waiter, Err(SubmitError::NotLeader { leader: *leader }));
        }
        match self.replica.check(&submission) {
            Ok(()) => {}
            Err(error) => return answer(waiter, refusal(error)),
        }
        match kernel::next_sequence(self.replica.view(), &submission.command.body.stream) {
            Ok(next) => self.intake.offer(submission, next, waiter),
            Err(error) => answer(waiter, Err(SubmitError::Stopped(error.to_string()))),
        }
    }

    fn standing(&self) -> Standing {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        match self.raft.as_leader() {
            Ok(leader) if metrics.last_applied.is_some_and(|id| id.leader_id == *leader.leader_id()) => {
                Standing::Leads(*leader.leader_id())
            }
            Ok(_) => Standing::Preparing,
            Err(forward) => Standing::Follows(forward.leader_id),
        }
    }

    async fn propose_waiting(&mut self) -> Result<(), SubmitError> {
        while self.on_their_way.len() < PIPELINE_MAX && !self.intake.is_empty() {
            let leader = match self.standing() {
                Standing::Leads(leader) => leader,
                Standing::Preparing => return Ok(()),
                Standing::Follows(_) => return Err(SubmitError::LeaderChanged),
            };
            if self.leadership != Some(leader) && !self.on_their_way.is_empty() {
                return Err(SubmitError::LeaderChanged);
            }
            if self.on_their_way.is_empty() {
                (self.leadership, self.tip) = (Some(leader), self.log.tip());
            }
            let Some(tip) = self.tip else {
                return Err(SubmitError::Stopped("the newest batch of the log is not known here".into()));
            };
            let Some(proposed) = self.intake.propose(tip, (self.clock)(), self.me) else { return Ok(()) };
            let next = Tip::of(&proposed.batch);
            self.tip = Some(next);
            let (responder, mut answer) = OneshotResponder::new_pair();
            let in_log = self.log.await_batch(next.hash);
            let write = self.raft.write(proposed.batch.clone()).with_leader(leader).responder(responder);
            write.await.map_err(|error| SubmitError::Stopped(error.to_string()))?;
            match futures::future::select(in_log, &mut answer).await {
                Either::Left((Ok(()), _)) => self.on_their_way.push_back((proposed, answer)),
                // Not written; what else waits is sent again with it.
                Either::Right((Ok(_), _)) => return Err(SubmitError::LeaderChanged),
                Either::Left((Err(_), _)) | Either::Right((Err(_), _)) => {
                    return Err(SubmitError::Stopped("Raft has stopped".into()));
                }
            }
        }
        Ok(())
    }

    fn applied(&mut self, written: ClientWriteResult<TypeConfig<Rt>>) -> Result<(), SubmitError> {
        let Some((proposed, _)) = self.on_their_way.pop_front() else { return Ok(()) };
        match written {
            Ok(response) => {
                self.intake.complete(proposed, &response.data);
                Ok(())
            }
            Err(error) => {
                tracing::info!(%error, "a batch was not committed under this leadership");
                Err(SubmitError::LeaderChanged)
            }
        }
    }

    fn give_up(&mut self, error: &SubmitError) {
        self.on_their_way.clear();
        (self.leadership, self.tip) = (None, None);
        self.intake.fail_all(error);
    }
}

/// What a failed check means to the submitter: a repeat gets its receipt again.
fn refusal(error: CheckError) -> SubmitResult {
    Err(match error {
        CheckError::AlreadyApplied { index, outcome } => {
            return Ok(super::intake::CommandReceipt { index, outcome });
        }
        CheckError::Refused(refusal) => SubmitError::Refused(refusal),
        CheckError::Conflict { applied, .. } => SubmitError::Conflict { applied },
        CheckError::Decode(error) => SubmitError::Malformed(error.to_string()),
        CheckError::Engine(error) => SubmitError::Stopped(error.to_string()),
    })
}
