//! What a certifier knows of the ledger: the batch ends that this node applied, and the newest certificate.
//!
//! Invariants: batch ends come in order of size, one content for each size (our own state, so asserted). A handover,
//! the last batch end of an epoch, stays until a certificate covers it.

use std::collections::BTreeMap;

use super::{BATCH_ENDS_MAX, BatchEnd, Output, View};
use crate::checkpoint::{Certificate, Checkpoint};
use crate::ids::{Epoch, FederationId, LedgerSize, UnixMillis};

#[derive(Debug)]
pub(super) struct History {
    federation: FederationId,
    /// At most [`BATCH_ENDS_MAX`] by size, with the time of application by this node's clock.
    batch_ends: BTreeMap<LedgerSize, (BatchEnd, UnixMillis)>,
    /// Last batch ends of epochs that are over, not certified yet; no more than the view has cores.
    handovers: BTreeMap<Epoch, BatchEnd>,
    certified: Option<Certificate>,
    /// When the newest certificate came, by this node's clock; at first, when the certifier started.
    certified_at: UnixMillis,
}

impl History {
    pub fn new(federation: FederationId, certified: Option<Certificate>, now: UnixMillis) -> Self {
        Self { federation, batch_ends: BTreeMap::new(), handovers: BTreeMap::new(), certified, certified_at: now }
    }

    pub fn applied(&mut self, end: BatchEnd, now: UnixMillis, view: View<'_>) {
        if let Some((known, _)) = self.batch_ends.get(&end.size) {
            assert_eq!(known, &end, "this node applied two contents of one size");
            return;
        }
        assert!(end.size >= self.applied_size(), "batches are applied in order");
        self.batch_ends.insert(end.size, (end, now));
        if self.batch_ends.len() > BATCH_ENDS_MAX {
            self.batch_ends.pop_first();
        }
        if end.epoch < view.current().epoch() && !self.covers(&end) {
            self.handovers.insert(end.epoch, end);
        }
        self.handovers.retain(|epoch, _| view.core(*epoch).is_some());
    }

    /// Takes note of a certificate that is newer than the one known. Says so when it contradicts what was applied.
    pub fn certificate(&mut self, certificate: Certificate, now: UnixMillis) -> Option<Output> {
        let age = |c: &Certificate| (c.checkpoint().epoch, c.checkpoint().size, c.time());
        if self.certified.as_ref().is_some_and(|known| age(known) >= age(&certificate)) {
            return None;
        }
        let theirs = *certificate.checkpoint();
        self.certified = Some(certificate);
        self.certified_at = now;
        let mut handovers = std::mem::take(&mut self.handovers);
        handovers.retain(|_, end| !self.covers(end));
        self.handovers = handovers;
        let ours = self.checkpoint_of(theirs.size, theirs.epoch)?;
        (ours != theirs).then_some(Output::Divergence { ours, theirs, peer: None })
    }

    pub fn certified(&self) -> Option<&Certificate> {
        self.certified.as_ref()
    }

    pub fn is_certified(&self, checkpoint: &Checkpoint) -> bool {
        self.certified.as_ref().is_some_and(|certificate| certificate.checkpoint() == checkpoint)
    }

    /// Since the newest certificate came.
    pub fn idle_ms(&self, now: UnixMillis) -> u64 {
        now.since(self.certified_at)
    }

    /// For how long certification has failed to do its work: no certificate comes, or those that come leave out what
    /// was applied. A leader that goes on dating an old size is silent about the new.
    pub fn silent_ms(&self, now: UnixMillis) -> u64 {
        let certified = self.certified.as_ref().map_or(0, |certificate| certificate.checkpoint().size.0 + 1);
        let oldest_left_out = self.batch_ends.range(LedgerSize(certified)..).next();
        let left_out_ms = oldest_left_out.map_or(0, |(_, (_, applied_at))| now.since(*applied_at));
        self.idle_ms(now).max(left_out_ms)
    }

    pub fn clock_went_back(&mut self, back_ms: u64) {
        let applied = self.batch_ends.values_mut().map(|(_, applied_at)| applied_at);
        for time in applied.chain([&mut self.certified_at]) {
            *time = UnixMillis(time.0.saturating_sub(back_ms));
        }
    }

    pub fn applied_size(&self) -> LedgerSize {
        self.batch_ends.last_key_value().map(|(size, _)| *size).unwrap_or_default()
    }

    /// Whether anything was applied that reaches `size`.
    pub fn reaches(&self, size: LedgerSize) -> bool {
        self.batch_ends.last_key_value().is_some_and(|(applied, _)| *applied >= size)
    }

    /// This node's checkpoint for a size, if it is a batch end that is still known.
    pub fn checkpoint_of(&self, size: LedgerSize, epoch: Epoch) -> Option<Checkpoint> {
        let handover = || self.handovers.values().find(|end| end.size == size);
        let end = self.batch_ends.get(&size).map(|(end, _)| end).or_else(handover)?;
        Some(Checkpoint { federation: self.federation, size, root: end.root, digest: end.digest, epoch })
    }

    /// The epoch that may be signed for: the oldest whose last batch is not certified, else the current one.
    pub fn signing_epoch(&self, view: View<'_>) -> Epoch {
        self.handovers.keys().next().copied().unwrap_or(view.current().epoch())
    }

    /// Whether it is the last checkpoint of its epoch, and not certified.
    pub fn is_handover(&self, checkpoint: &Checkpoint) -> bool {
        self.handovers.get(&checkpoint.epoch).is_some_and(|end| end.size == checkpoint.size)
    }

    /// What is to be certified next: an uncertified handover first, else the newest batch end.
    pub fn target(&self, view: View<'_>) -> Option<Checkpoint> {
        let size = match self.handovers.values().next() {
            Some(handover) => handover.size,
            None => *self.batch_ends.last_key_value()?.0,
        };
        self.checkpoint_of(size, self.signing_epoch(view))
    }

    fn covers(&self, end: &BatchEnd) -> bool {
        self.certified.as_ref().is_some_and(|certificate| {
            let certified = certificate.checkpoint();
            certified.epoch > end.epoch || (certified.epoch == end.epoch && certified.size >= end.size)
        })
    }
}
