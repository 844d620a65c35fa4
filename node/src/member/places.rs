//! Places of this node's commands on their way to the ledger: nothing else of this node is put there.
//!
//! A place is given back as soon as it is told what became of its command, before anything is written again. Whoever
//! went on behind places that came free would leave holes, and readers pass over few (`federation::history`): all
//! that lies behind would be invisible to every hospital, a denial too.

use std::collections::BTreeSet;

use tessera_consensus::wire::v1::Kind;
use tessera_federation::history;
use tessera_federation::outbox::{Draft, Outbox, OutboxError};
use tessera_federation::wire::v1::Tag;
use tessera_storage::engine::{Batch, Ticket};

use super::{Member, locked};

/// Places that are remembered; beyond it all are forgotten. A place that is then taken twice costs the later command
/// another attempt.
const REMEMBERED_MAX: usize = 100_000;

/// See the module's header.
#[derive(Debug, Default)]
pub(super) struct Reserved(BTreeSet<Tag>);

impl Reserved {
    /// What the last life left in the outbox.
    pub(super) fn of_waiting(outbox: &Outbox) -> Result<Self, OutboxError> {
        let waiting = outbox.untold(REMEMBERED_MAX)?;
        let places = waiting.iter().flat_map(|(kind, public)| history::places(*kind, public));
        Ok(Self(places.take(REMEMBERED_MAX).collect()))
    }

    pub(super) fn take(&mut self, places: &[Tag]) {
        if self.0.len() + places.len() > REMEMBERED_MAX {
            self.0.clear();
        }
        self.0.extend(places);
    }

    fn give_back(&mut self, places: &[Tag]) {
        places.iter().for_each(|place| {
            self.0.remove(place);
        });
    }
}

impl Member {
    pub(super) fn is_reserved(&self, tag: &Tag) -> bool {
        locked(&self.reserved).0.contains(tag)
    }

    /// Into the outbox, with its places reserved; no place is kept for what the outbox did not take. The caller holds
    /// the archive's writing lock since it asked which places are free.
    pub(super) fn enqueue_placed(&self, draft: Draft, change: Batch) -> Result<Ticket, OutboxError> {
        let places = history::places(draft.kind, &draft.public);
        locked(&self.reserved).take(&places);
        let enqueued = self.outbox.enqueue(vec![draft], change);
        match enqueued.is_ok() {
            true => self.wake_sender(),
            false => locked(&self.reserved).give_back(&places),
        }
        enqueued
    }

    /// It was told what became of the command.
    pub(super) fn give_places_back(&self, kind: Kind, public: &[u8]) {
        locked(&self.reserved).give_back(&history::places(kind, public));
    }
}
