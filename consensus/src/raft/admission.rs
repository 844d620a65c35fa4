//! What a core node checks before an AppendEntries reaches its log: form, signatures, the chain of batches, the
//! leader's time, the proposer (DESIGN section 5).
//!
//! Pure: the circumstances come in, a verdict goes out. Raft tolerates crashes, not lies; these checks keep what a
//! lying leader can do down to delay, together with certification. What an honest leader must send is never refused
//! for good: entries of earlier leaders, and those that are committed already, may be old; a command whose author
//! this node does not know yet holds back only the entries from there on, and is judged again when more is applied.
//!
//! Not checked: what the machine decides alike everywhere (gaps, repeats, rejected commands).

use std::collections::{BTreeMap, BTreeSet};

use openraft::EntryPayload;
use openraft::entry::RaftEntry;

use super::log_store::{LogError, Tip, TipAt};
use super::state_machine::Standing;
use super::types::{LogEntry, LogId, Membership, RaftId, SharedBatch, Vote};
use super::wire::{Append, RefusalNotice, SnapshotCall};
use crate::ids::{Hash, NodeId, UnixMillis};
use crate::kernel::Refusal;
use crate::replica::CheckError;
use crate::wire::DecodeError;
use crate::wire::v1::Submission;

/// A batch's time may differ from the receiver's clock by this much.
pub const CLOCK_SKEW_MS_MAX: u64 = 5_000;
/// Whatever term a peer tells may be ahead of ours by this much. Elections raise it one by one; more is a broken peer,
/// and believing it could use up all terms that there are.
pub const TERM_JUMP_MAX: u64 = 1 << 20;
/// A snapshot at the same ledger entries may lie behind so many more entries of the Raft log: those of elections and
/// changes of the core, which add nothing to the ledger.
pub const SNAPSHOT_AHEAD_MAX: u64 = 1 << 20;

/// Why an AppendEntries, or the rest of one, was not taken into the log.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    #[error("{sender} sent what only {named} may send")]
    NotTheSender { sender: RaftId, named: RaftId },
    #[error("the leader's term is {ahead} ahead of this node's")]
    TermJump { ahead: u64 },
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
    #[error("the membership at {index} is not that of the ledger: only the seats {voters:?} would vote")]
    OtherVoters { index: u64, voters: BTreeSet<RaftId> },
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
    /// Whose seats the core has, by the ledger.
    fn seats(&self) -> Result<BTreeMap<RaftId, NodeId>, AdmissionError>;
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
    check_sender(append.vote, sender)?;
    check_term(append.vote, around.vote())?;
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

fn check_sender(vote: Vote, sender: RaftId) -> Result<(), AdmissionError> {
    let named = vote.leader_id.node_id;
    if named == sender { Ok(()) } else { Err(AdmissionError::NotTheSender { sender, named }) }
}

fn check_term(theirs: Vote, ours: Option<Vote>) -> Result<(), AdmissionError> {
    match term_jump(theirs, ours) {
        Some(ahead) => Err(AdmissionError::TermJump { ahead }),
        None => Ok(()),
    }
}

/// How far a peer's term is ahead of ours, if that is further than elections can have taken it.
pub fn term_jump(theirs: Vote, ours: Option<Vote>) -> Option<u64> {
    let ours = ours.map_or(0, |vote| vote.leader_id.term);
    Some(theirs.leader_id.term.saturating_sub(ours)).filter(|ahead| *ahead > TERM_JUMP_MAX)
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
    let leader = around.seats()?.get(&id.leader_id.node_id).copied();
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

/// Only the ledger gives seats, and every seat votes; openraft follows.
fn check_membership(index: u64, membership: &Membership, around: &dyn Circumstances) -> Result<(), AdmissionError> {
    let seats = around.seats()?;
    for (seat, node) in membership.nodes() {
        let owner = seats.get(seat).copied();
        if owner != Some(node.node) {
            return Err(AdmissionError::ForeignMembership { index, seat: *seat, owner });
        }
    }
    let configs = membership.get_joint_config();
    let all_vote = |voters: &BTreeSet<RaftId>| voters.iter().eq(seats.keys());
    if configs.is_empty() || !configs.iter().all(all_vote) {
        let voters = configs.iter().flatten().copied().collect();
        return Err(AdmissionError::OtherVoters { index, voters });
    }
    Ok(())
}

/// Why a leader's snapshot was not taken. It is a reference to a state of the ledger, so all that it says of that state
/// is compared with what this node itself has applied.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotRefusal {
    #[error("{sender} sent what only {named} may send")]
    NotTheSender { sender: RaftId, named: RaftId },
    #[error("the leader's term is {ahead} ahead of this node's")]
    TermJump { ahead: u64 },
    #[error("the snapshot has no position in the log")]
    NoPosition,
    #[error("the snapshot at {at} contradicts entry {committed}, which is committed here")]
    ContradictsCommitted { at: LogId, committed: LogId },
    #[error(
        "the snapshot stands at {wanted} ledger entries, this node at {have}: it takes over as soon as it has followed \
         the ledger to there"
    )]
    NotReached { wanted: u64, have: u64 },
    #[error("the log here goes on behind what is applied; the leader's entries decide about the rest first")]
    NotApplied,
    #[error("the snapshot says that the ledger's root at {size} entries is {theirs}; here it is {ours}")]
    Root { size: u64, theirs: Hash, ours: Hash },
    #[error("the snapshot says that the state's digest at {size} entries is {theirs}; here it is {ours}")]
    Digest { size: u64, theirs: Hash, ours: Hash },
    #[error("the snapshot says that the newest batch at {size} entries is {theirs}; here it is {ours}")]
    Tip { size: u64, theirs: Hash, ours: Hash },
    #[error("the snapshot is {ahead} log entries ahead of this node, at the same entries of the ledger")]
    TooFarAhead { ahead: u64 },
    #[error("the snapshot's membership is not that of the ledger: seat {seat} belongs to {owner:?}")]
    ForeignMembership { seat: RaftId, owner: Option<NodeId> },
    #[error("the snapshot's membership is not that of the ledger: only the seats {voters:?} would vote")]
    OtherVoters { voters: BTreeSet<RaftId> },
    #[error("the ledger could not be read: {0}")]
    Ledger(String),
}

impl From<AdmissionError> for SnapshotRefusal {
    fn from(error: AdmissionError) -> Self {
        match error {
            AdmissionError::NotTheSender { sender, named } => Self::NotTheSender { sender, named },
            AdmissionError::TermJump { ahead } => Self::TermJump { ahead },
            AdmissionError::ForeignMembership { seat, owner, .. } => Self::ForeignMembership { seat, owner },
            AdmissionError::OtherVoters { voters, .. } => Self::OtherVoters { voters },
            other => Self::Ledger(other.to_string()),
        }
    }
}

/// Judges a snapshot from the core node in the seat `sender`, for a node whose applied state is `here`. What is taken
/// can be installed: nothing but the snapshot moves the ledger while no entry of the log waits to be applied.
pub fn judge_snapshot(
    call: &SnapshotCall,
    sender: RaftId,
    here: &Standing,
    around: &dyn Circumstances,
) -> Result<(), SnapshotRefusal> {
    check_sender(call.vote, sender)?;
    check_term(call.vote, around.vote())?;
    let at = call.last.ok_or(SnapshotRefusal::NoPosition)?;
    check_membership(at.index, call.membership.membership(), around)?;
    // openraft asserts this of every snapshot that it is given.
    if let Some(committed) = around.committed().filter(|committed| at > *committed && at.index <= committed.index) {
        return Err(SnapshotRefusal::ContradictsCommitted { at, committed });
    }
    compare_snapshot(call, here)?;
    if around.last() > here.applied {
        return Err(SnapshotRefusal::NotApplied);
    }
    let ahead = at.index.saturating_sub(here.applied.map_or(0, |id| id.index));
    if ahead > SNAPSHOT_AHEAD_MAX {
        return Err(SnapshotRefusal::TooFarAhead { ahead });
    }
    Ok(())
}

fn compare_snapshot(call: &SnapshotCall, here: &Standing) -> Result<(), SnapshotRefusal> {
    let (theirs, ours) = (&call.reference, &here.reference);
    let (size, have) = (theirs.size.0, ours.size.0);
    if size != have {
        return Err(SnapshotRefusal::NotReached { wanted: size, have });
    }
    if theirs.root != ours.root {
        return Err(SnapshotRefusal::Root { size, theirs: theirs.root, ours: ours.root });
    }
    if theirs.digest != ours.digest {
        return Err(SnapshotRefusal::Digest { size, theirs: theirs.digest, ours: ours.digest });
    }
    if theirs.tip != ours.tip {
        return Err(SnapshotRefusal::Tip { size, theirs: theirs.tip.hash, ours: ours.tip.hash });
    }
    Ok(())
}
