//! Places of this node's commands on their way to the ledger: nothing else of this node is put there.
//!
//! A place is given back as soon as it is told what became of its command, before anything is written again. Whoever
//! went on behind places that came free would leave holes, and readers pass over few (`federation::history`): all
//! that lies behind would be invisible to every hospital, a denial too. For the same reason what is urgent does not go
//! behind places of what waits in the bulk lane, but takes them: the other one loses the race and is written again.

use std::collections::BTreeMap;

use tessera_consensus::Lane;
use tessera_consensus::wire::v1::Kind;
use tessera_federation::history;
use tessera_federation::outbox::{Draft, Outbox, OutboxError};
use tessera_federation::wire::v1::Tag;
use tessera_storage::engine::{Batch, Ticket};

use super::{Member, locked};

/// Places that are remembered; beyond it all are forgotten. A place that is then taken twice costs the later command
/// another attempt.
const REMEMBERED_MAX: usize = 100_000;

/// See the module's header: each place with the lane of its command.
#[derive(Debug, Default)]
pub(super) struct Reserved(BTreeMap<Tag, Lane>);

impl Reserved {
    /// What the last life left in the outbox.
    pub(super) fn of_waiting(outbox: &Outbox) -> Result<Self, OutboxError> {
        let mut reserved = Self::default();
        for (lane, kind, public) in outbox.untold(REMEMBERED_MAX)? {
            reserved.take(lane, &history::places(kind, &public));
        }
        Ok(reserved)
    }

    pub(super) fn take(&mut self, lane: Lane, places: &[Tag]) {
        if self.0.len() + places.len() > REMEMBERED_MAX {
            self.0.clear();
        }
        for place in places {
            let held = self.0.entry(*place).or_insert(lane);
            if lane == Lane::Urgent {
                *held = lane;
            }
        }
    }

    /// Whether a command in `lane` has to go elsewhere.
    fn is_taken(&self, lane: Lane, place: &Tag) -> bool {
        match (lane, self.0.get(place)) {
            (_, None) | (Lane::Urgent, Some(Lane::Bulk)) => false,
            (Lane::Bulk, Some(_)) | (Lane::Urgent, Some(Lane::Urgent)) => true,
        }
    }

    /// A place that what is urgent took meanwhile stays its own.
    fn give_back(&mut self, lane: Lane, places: &[Tag]) {
        for place in places {
            if self.0.get(place) == Some(&lane) {
                self.0.remove(place);
            }
        }
    }
}

impl Member {
    /// Whether a command of this node that is on its way keeps a new one in `lane` from this place.
    pub(super) fn is_reserved(&self, lane: Lane, tag: &Tag) -> bool {
        locked(&self.reserved).is_taken(lane, tag)
    }

    /// Into the outbox, with its places reserved; no place is kept for what the outbox did not take. The caller holds
    /// [`Member::placing`] since it asked which places are free.
    pub(super) fn enqueue_placed(&self, draft: Draft, change: Batch) -> Result<Ticket, OutboxError> {
        let places = history::places(draft.kind, &draft.public);
        let lane = draft.lane;
        locked(&self.reserved).take(lane, &places);
        let enqueued = self.outbox.enqueue(vec![draft], change);
        match enqueued.is_ok() {
            true => self.wake_sender(),
            false => locked(&self.reserved).give_back(lane, &places),
        }
        enqueued
    }

    /// It was told what became of the command.
    pub(super) fn give_places_back(&self, lane: Lane, kind: Kind, public: &[u8]) {
        locked(&self.reserved).give_back(lane, &history::places(kind, public));
    }
}
