//! What a core node checks before an AppendEntries reaches its log: form, signatures, the chain of batches, the
//! leader's time, the proposer (DESIGN section 5).
//!
//! Pure: the circumstances come in, a verdict goes out. Raft tolerates crashes, not lies; these checks keep what a
//! lying leader can do down to delay, together with certification. What an honest leader must send is never refused
//! for good: entries of earlier leaders, and those that are committed already, may be old; a command whose author
//! this node does not know yet holds back only the entries from there on, and is judged again when more is applied.
//!
//! Not checked: what the machine decides alike everywhere (gaps, repeats, rejected commands).

use openraft::EntryPayload;
use openraft::entry::RaftEntry;

use super::log_store::{LogError, Tip, TipAt};
use super::types::{LogEntry, LogId, Membership, RaftId, SharedBatch, Vote};
use super::wire::{Append, RefusalNotice};
use crate::ids::{Hash, NodeId, UnixMillis};
use crate::kernel::Refusal;
use crate::replica::CheckError;
use crate::wire::DecodeError;
use crate::wire::v1::Submission;

/// A batch's time may differ from the receiver's clock by this much.
pub const CLOCK_SKEW_MS_MAX: u64 = 5_000;
/// A candidate's term may be ahead of ours by this much. Elections raise it one by one; more is a broken peer.
pub const TERM_JUMP_MAX: u64 = 1 << 20;

/// Why an AppendEntries, or the rest of one, was not taken into the log.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    #[error("{sender} sent what only {named} may send")]
    NotTheSender { sender: RaftId, named: RaftId },
    #[error(
        "this core node confirmed entry {confirmed} to the leader and now has {have:?}: its directory was put back \
         from an older copy; rejoin as a learner"
    )]
    RolledBack { confirmed: u64, have: Option<u64> },
    #[error("entry {index} differs from the one that is committed here")]
    ContradictsCommitted { index: u64 },
    #[error("the newest batch before entry {index} is not known here; follow the ledger further")]
    TipUnknown { index: u64 },
    #[error("the batch at {index} is malformed: {source}")]
    Malformed { index: u64, source: DecodeError },
    #[error("the batch at {index} names {named} as its previous one; it is {newest}")]
    NotChained { index: u64, named: Hash, newest: Hash },
    #[error("the batch at {index} was proposed by {proposer}, its leader is {leader:?}")]
    ForgedProposer { index: u64, proposer: NodeId, leader: Option<NodeId> },
    #[error("the batch at {index} is {by_ms} ms older than the one before it")]
    TimeGoesBack { index: u64, by_ms: u64 },
    #[error("the batch at {index} says {batch:?}, the clock here {here:?}: compare both clocks with a time server")]
    ClockSkew { index: u64, batch: UnixMillis, here: UnixMillis },
    #[error("command {position} of the batch at {index} is not acceptable: {refusal:?}")]
    Command { index: u64, position: usize, refusal: Refusal },
    #[error("the membership at {index} is not that of the ledger: seat {seat} belongs to {owner:?}")]
    ForeignMembership { index: u64, seat: RaftId, owner: Option<NodeId> },
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("the ledger could not be read: {0}")]
    Ledger(String),
}

impl AdmissionError {
    /// What the leader is told.
    pub fn notice(&self) -> RefusalNotice {
        RefusalNotice { clock_skew: matches!(self, Self::ClockSkew { .. }), reason: self.to_string() }
    }
}

/// What a verdict depends on besides the message.
pub trait Circumstances {
    fn now(&self) -> UnixMillis;
    fn vote(&self) -> Option<Vote>;
    fn last(&self) -> Option<LogId>;
    fn committed(&self) -> Option<LogId>;
    /// The log id of the entry that this node holds at `index`.
    fn held(&self, index: u64) -> Result<Option<LogId>, LogError>;
    fn tip_at(&self, id: Option<LogId>) -> Result<TipAt, LogError>;
    /// Whose seat this is, by the ledger.
    fn seat(&self, id: RaftId) -> Result<Option<NodeId>, AdmissionError>;
    /// Form, membership and signature of a command against the present state.
    fn check(&self, submission: &Submission) -> Result<(), CheckError>;
}

/// What to do with an AppendEntries.
#[derive(Debug)]
pub enum Verdict {
    /// Hand it to openraft.
    Take,
    /// Hand over the first `count` entries, at least one; the rest was not acceptable, or not yet.
    TakeFirst {
        count: usize,
        why: AdmissionError,
    },
    /// Hand over none of the entries: the log does not reach them, and openraft will say so.
    Probe,
    Refuse(AdmissionError),
}

/// Judges `append`, which came from the core node in the seat `sender`.
pub fn judge(append: &Append, sender: RaftId, around: &dyn Circumstances) -> Verdict {
    match judge_entries(append, sender, around) {
        Ok(verdict) => verdict,
        Err(why) => Verdict::Refuse(why),
    }
}

fn judge_entries(append: &Append, sender: RaftId, around: &dyn Circumstances) -> Result<Verdict, AdmissionError> {
    check_sender(append, sender)?;
    check_not_rolled_back(append, around)?;
    check_committed(append, around)?;
    let mut held = 0;
    for entry in &append.entries {
        if around.held(entry.index())? != Some(entry.log_id()) {
            break;
        }
        held += 1;
    }
    let new = &append.entries[held..];
    let before = append.entries[..held].last().map(RaftEntry::log_id).or(append.previous);
    let Some(first) = new.first() else { return Ok(Verdict::Take) };
    let mut tip = match around.tip_at(before)? {
        TipAt::Known(tip) => tip,
        TipAt::Missing => return Ok(Verdict::Probe),
        TipAt::Unknown => return Err(AdmissionError::TipUnknown { index: first.index() }),
    };
    for (position, entry) in new.iter().enumerate() {
        match check_entry(entry, append, tip, around) {
            Ok(next) => tip = next,
            Err(why) if held + position == 0 => return Err(why),
            Err(why) => return Ok(Verdict::TakeFirst { count: held + position, why }),
        }
    }
    Ok(Verdict::Take)
}

fn check_sender(append: &Append, sender: RaftId) -> Result<(), AdmissionError> {
    let named = append.vote.leader_id.node_id;
    if named == sender { Ok(()) } else { Err(AdmissionError::NotTheSender { sender, named }) }
}

/// Within one leadership a follower's log never shrinks below what it confirmed.
fn check_not_rolled_back(append: &Append, around: &dyn Circumstances) -> Result<(), AdmissionError> {
    let superseded = around.vote().is_some_and(|vote| vote > append.vote);
    let have = around.last().map(|id| id.index);
    match append.confirmed {
        Some(confirmed) if !superseded && have < Some(confirmed.index) => {
            Err(AdmissionError::RolledBack { confirmed: confirmed.index, have })
        }
        _ => Ok(()),
    }
}

/// openraft removes what contradicts its leader. What is committed is never removed, whoever asks.
fn check_committed(append: &Append, around: &dyn Circumstances) -> Result<(), AdmissionError> {
    let Some(committed) = around.committed() else { return Ok(()) };
    let ids = append.previous.into_iter().chain(append.entries.iter().map(RaftEntry::log_id));
    for id in ids.take_while(|id| id.index <= committed.index) {
        if around.held(id.index)?.is_some_and(|held| held != id) {
            return Err(AdmissionError::ContradictsCommitted { index: id.index });
        }
    }
    Ok(())
}

/// The tip after `entry`.
fn check_entry(entry: &LogEntry, append: &Append, tip: Tip, around: &dyn Circumstances) -> Result<Tip, AdmissionError> {
    match &entry.payload {
        EntryPayload::Blank => Ok(tip),
        EntryPayload::Membership(membership) => check_membership(entry.index(), membership, around).map(|()| tip),
        EntryPayload::Normal(batch) => {
            let committed = append.commit.is_some_and(|commit| entry.index() <= commit.index);
            let fresh = entry.log_id.leader_id == append.vote.leader_id && !committed;
            check_batch(entry.log_id, batch, tip, fresh, around)?;
            Ok(Tip::of(batch))
        }
    }
}

fn check_batch(
    id: LogId,
    shared: &SharedBatch,
    tip: Tip,
    fresh: bool,
    around: &dyn Circumstances,
) -> Result<(), AdmissionError> {
    let (index, batch) = (id.index, shared.batch());
    batch.validate().map_err(|source| AdmissionError::Malformed { index, source })?;
    if batch.previous != tip.hash {
        return Err(AdmissionError::NotChained { index, named: batch.previous, newest: tip.hash });
    }
    let leader = around.seat(id.leader_id.node_id)?;
    if leader != Some(batch.proposer) {
        return Err(AdmissionError::ForgedProposer { index, proposer: batch.proposer, leader });
    }
    check_time(index, batch.time, tip.time, fresh, around.now())?;
    for (position, submission) in batch.submissions.iter().enumerate() {
        check_command(index, position, around.check(submission))?;
    }
    Ok(())
}

/// Never back, never from the future, and not from the past either where the leader has just made it.
fn check_time(
    index: u64,
    batch: UnixMillis,
    before: UnixMillis,
    fresh: bool,
    here: UnixMillis,
) -> Result<(), AdmissionError> {
    if batch < before {
        return Err(AdmissionError::TimeGoesBack { index, by_ms: before.since(batch) });
    }
    let ahead = batch.since(here) > CLOCK_SKEW_MS_MAX;
    let behind = fresh && here.since(batch) > CLOCK_SKEW_MS_MAX;
    if ahead || behind {
        return Err(AdmissionError::ClockSkew { index, batch, here });
    }
    Ok(())
}

/// Only what proves that nobody who may has signed it keeps a batch out; the rest the machine decides.
fn check_command(index: u64, position: usize, checked: Result<(), CheckError>) -> Result<(), AdmissionError> {
    match checked {
        Ok(()) | Err(CheckError::AlreadyApplied { .. } | CheckError::Conflict { .. }) => Ok(()),
        Err(CheckError::Decode(source)) => Err(AdmissionError::Malformed { index, source }),
        Err(CheckError::Engine(error)) => Err(AdmissionError::Ledger(error.to_string())),
        Err(CheckError::Refused(refusal)) => match refusal {
            Refusal::UnknownOrigin | Refusal::ReadOnly | Refusal::BadSignature => {
                Err(AdmissionError::Command { index, position, refusal })
            }
            Refusal::StaleIncarnation | Refusal::Gap { .. } | Refusal::Repeated => Ok(()),
        },
    }
}

/// Only the ledger gives seats; openraft follows.
fn check_membership(index: u64, membership: &Membership, around: &dyn Circumstances) -> Result<(), AdmissionError> {
    for (seat, node) in membership.nodes() {
        let owner = around.seat(*seat)?;
        if owner != Some(node.node) {
            return Err(AdmissionError::ForeignMembership { index, seat: *seat, owner });
        }
    }
    Ok(())
}
