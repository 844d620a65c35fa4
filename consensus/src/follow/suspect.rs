//! The answer that was refused last: kept until the same entries come from someone else, to tell which one was changed.
//!
//! A consistency proof condemns a range of up to a thousand entries. The operator of the peer, and whoever looks into
//! it, needs the one. Only hashes are kept, of one answer; a newer one takes its place.

use super::FollowError;
use crate::ids::{Hash, LedgerSize, NodeId};
use crate::merkle;
use crate::replica::LedgerEntry;

pub(super) struct Suspect {
    peer: NodeId,
    from: LedgerSize,
    leaves: Vec<Hash>,
}

impl Suspect {
    pub fn new(peer: NodeId, from: LedgerSize, entries: &[LedgerEntry]) -> Self {
        let leaves = entries.iter().map(|entry| merkle::leaf_hash(&entry.leaf)).collect();
        Self { peer, from, leaves }
    }

    pub fn peer(&self) -> NodeId {
        self.peer
    }

    pub fn begins_at(&self, from: LedgerSize) -> bool {
        self.from == from
    }

    /// What was wrong, by the entries that were proved; `None` when too few of them have come to tell.
    pub fn compare(&self, proved: &[LedgerEntry]) -> Option<FollowError> {
        let LedgerSize(from) = self.from;
        let differs = |(refused, entry): (&Hash, &LedgerEntry)| *refused != merkle::leaf_hash(&entry.leaf);
        if let Some(place) = self.leaves.iter().zip(proved).position(differs) {
            return Some(FollowError::OtherEntry { index: from + place as u64 });
        }
        let last = (from + self.leaves.len() as u64).saturating_sub(1);
        (self.leaves.len() <= proved.len()).then_some(FollowError::OtherProof { from, last })
    }
}
