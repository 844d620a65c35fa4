//! A holder's front desk: how many sessions run, and whose.
//!
//! Counts only. Each session holds a place from [`Desk::admit`] to [`Desk::leave`]; when all are taken, the answer
//! is [`Busy`], and the driver closes the stream, which the requester takes as a reason to come back later.

use std::collections::BTreeMap;

use tessera_consensus::NodeId;

use super::{SESSIONS_MAX, SESSIONS_PER_PEER_MAX};

/// No place is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    #[error("this node serves {SESSIONS_MAX} retrievals already")]
    All,
    #[error("{0:?} has {SESSIONS_PER_PEER_MAX} retrievals open already")]
    Peer(NodeId),
}

/// See the module's header.
#[derive(Debug, Default)]
pub struct Desk {
    open: BTreeMap<NodeId, usize>,
    total: usize,
}

impl Desk {
    /// Takes a place for `peer`.
    pub fn admit(&mut self, peer: NodeId) -> Result<(), Busy> {
        if self.total >= SESSIONS_MAX {
            return Err(Busy::All);
        }
        let count = self.open.entry(peer).or_insert(0);
        if *count >= SESSIONS_PER_PEER_MAX {
            return Err(Busy::Peer(peer));
        }
        *count += 1;
        self.total += 1;
        Ok(())
    }

    /// Gives a place back; once for each that was taken.
    pub fn leave(&mut self, peer: NodeId) {
        if let Some(count) = self.open.get_mut(&peer) {
            *count -= 1;
            self.total -= 1;
            if *count == 0 {
                self.open.remove(&peer);
            }
        }
    }

    /// Sessions that run now.
    pub fn total(&self) -> usize {
        self.total
    }
}
