//! What waits to become a batch: commands in the order of their streams, each once. Synchronous and without a
//! clock, so the order of submissions decides everything; [`super::proposer`] drives it.
//!
//! Invariants:
//! 1. Of one stream only the next number is taken, counted over the state and all that waits or is on its way.
//! 2. A number that waits or is on its way is never proposed twice; a repeat waits for the same answer.
//! 3. At most [`WAITING_MAX`] commands and [`WAITING_BYTES_MAX`] bytes wait in each lane, of one origin an
//!    [`ORIGIN_SHARE`]th of that; beyond it a submitter is told to come again.
//! 4. Everyone who submitted gets exactly one answer.
//! 5. What is urgent goes first and has room of its own: no amount of other work keeps a revocation out.

use std::collections::{BTreeMap, VecDeque};

use futures::channel::oneshot;
use serde::{Deserialize, Serialize};

use super::log_store::Tip;
use super::types::{BatchReceipt, RaftId, SharedBatch};
use crate::ids::{Hash, Lane, LedgerIndex, NodeId, Sequence, Stream, UnixMillis};
use crate::kernel::{Outcome, Refusal};
use crate::wire::v1::{BATCH_BYTES_MAX, BATCH_COMMANDS_MAX, Batch, Submission, VERSION};

/// Commands that may wait for a batch.
pub const WAITING_MAX: usize = 16 * BATCH_COMMANDS_MAX;
/// Bytes that may wait for a batch.
pub const WAITING_BYTES_MAX: usize = 16 * BATCH_BYTES_MAX;
/// One origin may take this part of a lane's room, so that a flood of one leaves room for all others.
pub const ORIGIN_SHARE: usize = 4;
/// Who may wait for one command.
const WAITERS_MAX: usize = 64;

/// A command's place in the ledger and what it did there. *Committed*, not yet certified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandReceipt {
    pub index: LedgerIndex,
    pub outcome: Outcome,
}

/// Why a command has no receipt. What to do is part of each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum SubmitError {
    #[error("this core node does not lead; {leader:?} does: submit there")]
    NotLeader { leader: Option<RaftId> },
    #[error("not acceptable: {0:?}")]
    Refused(Refusal),
    #[error("malformed: {0}")]
    Malformed(String),
    #[error("the number was used for another command ({applied}): open a new incarnation")]
    Conflict { applied: Hash },
    #[error("too much waits already: send it again later")]
    Overloaded,
    #[error("the leader changed; whether the command was taken is not known: send it again, it applies once")]
    LeaderChanged,
    #[error("the core cannot be reached: {0}")]
    Unreachable(String),
    #[error("this core node has stopped: {0}")]
    Stopped(String),
}

pub type SubmitResult = Result<CommandReceipt, SubmitError>;
type Waiter = oneshot::Sender<SubmitResult>;
type Key = (Stream, Sequence);

struct Pending {
    hash: Hash,
    waiters: Vec<Waiter>,
}

/// Commands of a batch that was proposed, in its order.
#[derive(Debug)]
pub struct Proposed {
    pub batch: SharedBatch,
    keys: Vec<Key>,
}

/// See the module's header.
#[derive(Default)]
pub struct Intake {
    urgent: Queue,
    bulk: Queue,
    /// All that waits or is on its way.
    pending: BTreeMap<Key, Pending>,
    /// The next number of each stream that has something pending.
    next: BTreeMap<Stream, (Sequence, usize)>,
}

/// What waits in one lane.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<Submission>,
    all: Load,
    of: BTreeMap<NodeId, Load>,
}

#[derive(Clone, Copy, Default)]
struct Load {
    commands: usize,
    bytes: usize,
}

impl Load {
    const fn exceeds(self, share: usize) -> bool {
        self.commands > WAITING_MAX / share || self.bytes > WAITING_BYTES_MAX / share
    }

    const fn with(self, bytes: usize) -> Self {
        Self { commands: self.commands + 1, bytes: self.bytes + bytes }
    }

    const fn without(self, bytes: usize) -> Self {
        Self { commands: self.commands - 1, bytes: self.bytes - bytes }
    }
}

impl Queue {
    fn push(&mut self, submission: Submission) {
        let (origin, weight) = (submission.command.body.stream.node, submission.weight());
        self.all = self.all.with(weight);
        let load = self.of.entry(origin).or_default();
        *load = load.with(weight);
        self.waiting.push_back(submission);
    }

    fn has_room(&self, origin: &NodeId, weight: usize) -> bool {
        let load = self.of.get(origin).copied().unwrap_or_default();
        !self.all.with(weight).exceeds(1) && !load.with(weight).exceeds(ORIGIN_SHARE)
    }

    fn pop(&mut self) -> Option<Submission> {
        let submission = self.waiting.pop_front()?;
        let (origin, weight) = (submission.command.body.stream.node, submission.weight());
        self.all = self.all.without(weight);
        if let Some(load) = self.of.get_mut(&origin) {
            *load = load.without(weight);
            if load.commands == 0 {
                self.of.remove(&origin);
            }
        }
        Some(submission)
    }
}

impl Intake {
    /// Takes `submission`, which the replica has checked; `applied_next` is the next number by the applied state.
    pub fn offer(&mut self, submission: Submission, applied_next: Sequence, waiter: Waiter) {
        let body = &submission.command.body;
        let (stream, key) = (body.stream, (body.stream, body.sequence));
        let expected = self.next.get(&stream).map_or(applied_next, |(next, _)| *next);
        if let Some(pending) = self.pending.get_mut(&key) {
            return join(pending, submission.command.hash(), waiter);
        }
        if body.sequence != expected {
            return answer(waiter, Err(SubmitError::Refused(Refusal::Gap { expected })));
        }
        if !self.queue(stream.lane).has_room(&stream.node, submission.weight()) {
            return answer(waiter, Err(SubmitError::Overloaded));
        }
        let counted = self.next.entry(stream).or_insert((expected, 0));
        *counted = (expected.next(), counted.1 + 1);
        self.pending.insert(key, Pending { hash: submission.command.hash(), waiters: vec![waiter] });
        self.queue(stream.lane).push(submission);
    }

    fn queue(&mut self, lane: Lane) -> &mut Queue {
        match lane {
            Lane::Urgent => &mut self.urgent,
            Lane::Bulk => &mut self.bulk,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.urgent.waiting.is_empty() && self.bulk.waiting.is_empty()
    }

    /// The next batch behind `tip`, as large as the limits allow; `None` when nothing waits.
    pub fn propose(&mut self, tip: Tip, now: UnixMillis, proposer: NodeId) -> Option<Proposed> {
        let mut submissions: Vec<Submission> = Vec::new();
        let mut bytes = 0;
        for lane in Lane::ALL {
            let queue = self.queue(lane);
            while let Some(first) = queue.waiting.front() {
                let weight = first.weight();
                let full = submissions.len() == BATCH_COMMANDS_MAX || bytes + weight > BATCH_BYTES_MAX;
                if full && !submissions.is_empty() {
                    break;
                }
                bytes += weight;
                submissions.extend(queue.pop());
            }
        }
        if submissions.is_empty() {
            return None;
        }
        let keys = submissions.iter().map(|s| (s.command.body.stream, s.command.body.sequence)).collect();
        let batch = Batch { version: VERSION, previous: tip.hash, time: now.max(tip.time), proposer, submissions };
        Some(Proposed { batch: SharedBatch::new(batch), keys })
    }

    /// The batch was applied: everyone who waited for its commands is told.
    pub fn complete(&mut self, proposed: Proposed, receipt: &BatchReceipt) {
        for (position, key) in proposed.keys.iter().enumerate() {
            let result = match receipt.commands.get(position) {
                Some((_, Outcome::Refused(refusal))) => Err(SubmitError::Refused(*refusal)),
                Some((index, outcome)) => Ok(CommandReceipt { index: *index, outcome: *outcome }),
                None => Err(SubmitError::LeaderChanged),
            };
            self.settle(key, result);
        }
    }

    /// Gives up all that waits or is on its way.
    pub fn fail_all(&mut self, error: &SubmitError) {
        (self.urgent, self.bulk) = Default::default();
        self.next.clear();
        for pending in std::mem::take(&mut self.pending).into_values() {
            pending.waiters.into_iter().for_each(|waiter| answer(waiter, Err(error.clone())));
        }
    }

    fn settle(&mut self, key: &Key, result: SubmitResult) {
        let Some(pending) = self.pending.remove(key) else { return };
        if let Some((_, count)) = self.next.get_mut(&key.0) {
            *count -= 1;
            if *count == 0 {
                self.next.remove(&key.0);
            }
        }
        pending.waiters.into_iter().for_each(|waiter| answer(waiter, result.clone()));
    }
}

fn join(pending: &mut Pending, hash: Hash, waiter: Waiter) {
    if pending.hash != hash {
        answer(waiter, Err(SubmitError::Conflict { applied: pending.hash }));
    } else if pending.waiters.len() >= WAITERS_MAX {
        answer(waiter, Err(SubmitError::Overloaded));
    } else {
        pending.waiters.push(waiter);
    }
}

/// A submitter that went away does not care for its answer.
pub(super) fn answer(waiter: Waiter, result: SubmitResult) {
    drop(waiter.send(result));
}
