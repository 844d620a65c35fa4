//! Raft's bytes on the disk and between core nodes, version 1.
//!
//! openraft's types are not written as they are, so that a new version of it changes no format. Every value begins
//! with [`VERSION`]. Conversions from bytes check what openraft takes for granted: peers' bytes never reach one of
//! its assertions (entries are consecutive, a leader's vote is a committed one, a term cannot overflow).
//!
//! Not here: who may say such things, and whether a batch may enter the log ([`super::admission`]).

use std::collections::{BTreeMap, BTreeSet};

use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

use super::log_store::Tip;
use super::types::{CoreNode, LeaderId, LogEntry, LogId, Membership, RaftId, SharedBatch, StoredMembership, Vote};
use crate::ids::{Hash, LedgerSize};
use crate::wire::bounded::{AtMost, at_most};
use crate::wire::v1::BATCH_BYTES_MAX;
use crate::wire::{DecodeError, decode, encode};

/// Stands first in every value of this module.
pub const VERSION: u8 = 1;
/// Batches that one AppendEntries carries together, bytes; a single larger batch still travels.
pub const APPEND_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Entries of one AppendEntries.
pub const APPEND_ENTRIES_MAX: usize = 256;
/// One message between core nodes.
pub const MESSAGE_BYTES_MAX: usize = APPEND_BYTES_MAX + BATCH_BYTES_MAX + 64 * 1024;
/// One stored entry: a batch with its framing.
pub const ENTRY_BYTES_MAX: usize = 2 * BATCH_BYTES_MAX;
/// Seats of one membership, learners included.
const SEATS_MAX: usize = 64;
/// Terms stay so far below the end of their type that no election can overflow them, and indices likewise.
const TERM_MAX: u64 = 1 << 62;
const INDEX_MAX: u64 = 1 << 62;

/// The bytes of `value`, version first.
pub fn to_bytes<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    bytes.append(&mut encode(value));
    bytes
}

/// Reads a value from exactly `bytes`.
pub fn from_bytes<T: Serialize + DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
    limit: usize,
) -> Result<T, DecodeError> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => decode(what, rest, limit),
        Some((&got, _)) => Err(DecodeError::UnknownVersion { what, got }),
        None => Err(DecodeError::Malformed { what }),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireLogId {
    term: u64,
    leader: u64,
    index: u64,
}

impl From<LogId> for WireLogId {
    fn from(id: LogId) -> Self {
        Self { term: id.leader_id.term, leader: id.leader_id.node_id.0, index: id.index }
    }
}

impl From<WireLogId> for LogId {
    fn from(id: WireLogId) -> Self {
        LogId { leader_id: LeaderId { term: id.term, node_id: RaftId(id.leader) }, index: id.index }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireVote {
    term: u64,
    leader: u64,
    committed: bool,
}

impl From<Vote> for WireVote {
    fn from(vote: Vote) -> Self {
        Self { term: vote.leader_id.term, leader: vote.leader_id.node_id.0, committed: vote.committed }
    }
}

impl TryFrom<WireVote> for Vote {
    type Error = DecodeError;
    fn try_from(vote: WireVote) -> Result<Self, DecodeError> {
        if vote.term > TERM_MAX {
            return Err(DecodeError::Invalid { what: "vote", why: "the term is beyond any that elections can reach" });
        }
        let leader_id = LeaderId { term: vote.term, node_id: RaftId(vote.leader) };
        Ok(Vote { leader_id, committed: vote.committed })
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WireMembership {
    /// Voters; two sets while a change of the core is under way.
    #[serde(deserialize_with = "configs")]
    configs: Vec<BTreeSet<RaftId>>,
    nodes: BTreeMap<RaftId, CoreNode>,
}

/// Sets as they are written, each a sequence in order; what is not in order has another encoding and is refused for it.
fn configs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<BTreeSet<RaftId>>, D::Error> {
    let configs = AtMost::<AtMost<RaftId, SEATS_MAX>, 2>::deserialize(deserializer)?;
    Ok(configs.0.into_iter().map(|voters| voters.0.into_iter().collect()).collect())
}

impl From<&Membership> for WireMembership {
    fn from(membership: &Membership) -> Self {
        let nodes = membership.nodes().map(|(id, node)| (*id, node.clone())).collect();
        Self { configs: membership.get_joint_config().clone(), nodes }
    }
}

impl TryFrom<WireMembership> for Membership {
    type Error = DecodeError;
    fn try_from(wire: WireMembership) -> Result<Self, DecodeError> {
        let invalid = |why| DecodeError::Invalid { what: "membership", why };
        if wire.nodes.len() > SEATS_MAX {
            return Err(invalid("it has more seats than a core can have"));
        }
        if wire.configs.is_empty() && wire.nodes.is_empty() {
            return Ok(Membership::default());
        }
        Membership::new(wire.configs, wire.nodes).map_err(|_| invalid("a voter is not among the nodes"))
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WireStoredMembership {
    log_id: Option<WireLogId>,
    membership: WireMembership,
}

impl From<&StoredMembership> for WireStoredMembership {
    fn from(stored: &StoredMembership) -> Self {
        Self { log_id: stored.log_id().map(Into::into), membership: stored.membership().into() }
    }
}

impl TryFrom<WireStoredMembership> for StoredMembership {
    type Error = DecodeError;
    fn try_from(wire: WireStoredMembership) -> Result<Self, DecodeError> {
        Ok(StoredMembership::new(wire.log_id.map(Into::into), wire.membership.try_into()?))
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum WirePayload {
    Blank,
    Batch(SharedBatch),
    Membership(WireMembership),
}

/// openraft counts on from the positions that it is told of, which must not overflow.
fn check_positions(what: &'static str, ids: impl IntoIterator<Item = Option<LogId>>) -> Result<(), DecodeError> {
    let beyond = |id: LogId| id.index > INDEX_MAX || id.leader_id.term > TERM_MAX;
    if ids.into_iter().flatten().any(beyond) {
        return Err(DecodeError::Invalid { what, why: "a position is beyond any that a log can reach" });
    }
    Ok(())
}

/// One entry of the Raft log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WireEntry {
    id: WireLogId,
    payload: WirePayload,
}

impl From<&LogEntry> for WireEntry {
    fn from(entry: &LogEntry) -> Self {
        let payload = match &entry.payload {
            EntryPayload::Blank => WirePayload::Blank,
            EntryPayload::Normal(batch) => WirePayload::Batch(batch.clone()),
            EntryPayload::Membership(membership) => WirePayload::Membership(membership.into()),
        };
        Self { id: entry.log_id.into(), payload }
    }
}

impl TryFrom<WireEntry> for LogEntry {
    type Error = DecodeError;
    fn try_from(wire: WireEntry) -> Result<Self, DecodeError> {
        let payload = match wire.payload {
            WirePayload::Blank => EntryPayload::Blank,
            WirePayload::Batch(batch) => EntryPayload::Normal(batch),
            WirePayload::Membership(membership) => EntryPayload::Membership(membership.try_into()?),
        };
        Ok(LogEntry { log_id: wire.id.into(), payload })
    }
}

impl WireEntry {
    pub fn entry_from_bytes(bytes: &[u8]) -> Result<LogEntry, DecodeError> {
        from_bytes::<WireEntry>("log entry", bytes, ENTRY_BYTES_MAX)?.try_into()
    }
}

/// The tip of the chain of batches, with the log id at which it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WireTipAt {
    id: WireLogId,
    tip: Option<Tip>,
}

impl WireTipAt {
    pub fn new(id: LogId, tip: Option<Tip>) -> Self {
        Self { id: id.into(), tip }
    }

    pub fn into_parts(self) -> (LogId, Option<Tip>) {
        (self.id.into(), self.tip)
    }
}

/// AppendEntries. `confirmed` is the newest entry that the receiver has confirmed to this leader: a receiver whose
/// log ends before it was rolled back and must not go on.
#[derive(Clone, Debug, PartialEq)]
pub struct Append {
    pub vote: Vote,
    pub previous: Option<LogId>,
    pub entries: Vec<LogEntry>,
    pub commit: Option<LogId>,
    pub confirmed: Option<LogId>,
}

#[derive(Serialize, Deserialize)]
struct WireAppend {
    vote: WireVote,
    previous: Option<WireLogId>,
    #[serde(deserialize_with = "at_most::<_, _, APPEND_ENTRIES_MAX>")]
    entries: Vec<WireEntry>,
    commit: Option<WireLogId>,
    confirmed: Option<WireLogId>,
}

impl Append {
    pub fn to_bytes(&self) -> Vec<u8> {
        to_bytes(&WireAppend {
            vote: self.vote.into(),
            previous: self.previous.map(Into::into),
            entries: self.entries.iter().map(Into::into).collect(),
            commit: self.commit.map(Into::into),
            confirmed: self.confirmed.map(Into::into),
        })
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let wire: WireAppend = from_bytes("AppendEntries", bytes, MESSAGE_BYTES_MAX)?;
        let append = Self {
            vote: wire.vote.try_into()?,
            previous: wire.previous.map(Into::into),
            entries: wire.entries.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            commit: wire.commit.map(Into::into),
            confirmed: wire.confirmed.map(Into::into),
        };
        let entries = append.entries.iter().map(|entry| Some(entry.log_id()));
        check_positions("AppendEntries", entries.chain([append.previous, append.commit, append.confirmed]))?;
        append.validate()?;
        Ok(append)
    }

    /// The shape that openraft asserts: consecutive indices, leaders that never go back, none beyond the sender's.
    fn validate(&self) -> Result<(), DecodeError> {
        let invalid = |why| Err(DecodeError::Invalid { what: "AppendEntries", why });
        if !self.vote.committed {
            return invalid("only a leader sends it");
        }
        if self.entries.len() > APPEND_ENTRIES_MAX {
            return invalid("it has more entries than one message may carry");
        }
        let mut next = self.previous.map_or(Some(0), |id| id.index.checked_add(1));
        let mut leader = self.previous.map(|id| id.leader_id);
        for id in self.entries.iter().map(RaftEntry::log_id) {
            if Some(id.index) != next {
                return invalid("its entries are not consecutive");
            }
            if leader.is_some_and(|leader| id.leader_id < leader) {
                return invalid("its entries go back to an earlier leader");
            }
            next = id.index.checked_add(1);
            leader = Some(id.leader_id);
        }
        let beyond = |id: &Option<LogId>| id.is_some_and(|id| id.leader_id > self.vote.leader_id);
        if leader.is_some_and(|leader| leader > self.vote.leader_id) || beyond(&self.commit) || beyond(&self.confirmed)
        {
            return invalid("it names a leader later than its sender");
        }
        Ok(())
    }
}

/// What the receiver says of an AppendEntries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum AppendReply {
    Success,
    /// Only the entries up to here were taken.
    Partial(Option<WireLogId>),
    Conflict,
    HigherVote(WireVote),
    /// The receiver's checks refused the first entry, or the whole message.
    Refused(RefusalNotice),
}

/// A refusal as the leader learns it: whether its clock is the reason, and words for its operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusalNotice {
    pub clock_skew: bool,
    pub reason: String,
}

/// RequestVote and its rehearsal (pre-vote).
#[derive(Clone, Debug, PartialEq)]
pub struct VoteCall {
    pub vote: Vote,
    pub last: Option<LogId>,
    pub transfer: bool,
}

#[derive(Serialize, Deserialize)]
struct WireVoteCall {
    vote: WireVote,
    last: Option<WireLogId>,
    transfer: bool,
}

impl VoteCall {
    pub fn to_bytes(&self) -> Vec<u8> {
        to_bytes(&WireVoteCall { vote: self.vote.into(), last: self.last.map(Into::into), transfer: self.transfer })
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let wire: WireVoteCall = from_bytes("vote request", bytes, SMALL_BYTES_MAX)?;
        let vote: Vote = wire.vote.try_into()?;
        if vote.committed {
            return Err(DecodeError::Invalid { what: "vote request", why: "a candidate's vote is not yet granted" });
        }
        let last = wire.last.map(Into::into);
        check_positions("vote request", [last])?;
        Ok(Self { vote, last, transfer: wire.transfer })
    }
}

/// Messages without batches.
const SMALL_BYTES_MAX: usize = 64 * 1024;

/// The answer to [`VoteCall`].
#[derive(Clone, Debug, PartialEq)]
pub struct VoteReply {
    pub vote: Vote,
    pub last: Option<LogId>,
    pub granted: bool,
}

#[derive(Serialize, Deserialize)]
struct WireVoteReply {
    vote: WireVote,
    last: Option<WireLogId>,
    granted: bool,
}

impl VoteReply {
    pub fn to_bytes(&self) -> Vec<u8> {
        to_bytes(&WireVoteReply { vote: self.vote.into(), last: self.last.map(Into::into), granted: self.granted })
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let wire: WireVoteReply = from_bytes("vote reply", bytes, SMALL_BYTES_MAX)?;
        let last = wire.last.map(Into::into);
        check_positions("vote reply", [last])?;
        Ok(Self { vote: wire.vote.try_into()?, last, granted: wire.granted })
    }
}

impl AppendReply {
    pub fn to_bytes(&self) -> Vec<u8> {
        to_bytes(self)
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        from_bytes("AppendEntries reply", bytes, SMALL_BYTES_MAX)
    }
}

/// A leader hands its leadership to `to`.
#[derive(Clone, Debug, PartialEq)]
pub struct Transfer {
    pub from: Vote,
    pub to: RaftId,
    pub last: Option<LogId>,
}

#[derive(Serialize, Deserialize)]
struct WireTransfer {
    from: WireVote,
    to: RaftId,
    last: Option<WireLogId>,
}

impl Transfer {
    pub fn to_bytes(&self) -> Vec<u8> {
        to_bytes(&WireTransfer { from: self.from.into(), to: self.to, last: self.last.map(Into::into) })
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let wire: WireTransfer = from_bytes("leadership transfer", bytes, SMALL_BYTES_MAX)?;
        let last = wire.last.map(Into::into);
        check_positions("leadership transfer", [last])?;
        Ok(Self { from: wire.from.try_into()?, to: wire.to, last })
    }
}

/// What a Raft snapshot is: a reference to a state of the ledger, which the receiver reaches by following, and the
/// tip of the chain of batches there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SnapshotReference {
    pub size: LedgerSize,
    pub root: Hash,
    pub digest: Hash,
    pub tip: Tip,
}

/// A leader's snapshot for a follower.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotCall {
    pub vote: Vote,
    pub last: Option<LogId>,
    pub membership: StoredMembership,
    pub reference: SnapshotReference,
}

#[derive(Serialize, Deserialize)]
struct WireSnapshotCall {
    vote: WireVote,
    last: Option<WireLogId>,
    membership: WireStoredMembership,
    reference: SnapshotReference,
}

impl SnapshotCall {
    pub fn to_bytes(&self) -> Vec<u8> {
        to_bytes(&WireSnapshotCall {
            vote: self.vote.into(),
            last: self.last.map(Into::into),
            membership: (&self.membership).into(),
            reference: self.reference.clone(),
        })
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let wire: WireSnapshotCall = from_bytes("snapshot reference", bytes, SMALL_BYTES_MAX)?;
        let vote: Vote = wire.vote.try_into()?;
        let last: Option<LogId> = wire.last.map(Into::into);
        let beyond = last.is_some_and(|id| id.leader_id > vote.leader_id);
        if !vote.committed || last.is_none() || beyond {
            return Err(DecodeError::Invalid { what: "snapshot reference", why: "no leader can have made it" });
        }
        let membership: StoredMembership = wire.membership.try_into()?;
        check_positions("snapshot reference", [last, *membership.log_id()])?;
        Ok(Self { vote, last, membership, reference: wire.reference })
    }
}
