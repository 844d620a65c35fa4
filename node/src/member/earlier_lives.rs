//! Earlier lives of this directory: what the ledger has from this node that the directory does not know, because it
//! is an older copy that was put back; and what was registered in a federation that the node has left.
//!
//! A registration is noted as sent in the write that brings it into the outbox, and the note goes when the ledger's
//! certified entry is met. An own entry without a note was written by a life that this directory lacks. The ledger
//! keeps it; here it is only said, so that a person sends the images again or finds a newer copy. Nobody is accused:
//! restoring a backup is no fault.
//! Not here: the outbox's numbers after a restore, which are federation's.

use anyhow::ensure;
use serde::{Deserialize, Serialize};
use tessera_consensus::wire::v1::Leaf;
use tessera_consensus::{FederationId, LedgerIndex, LedgerSize};
use tessera_federation::history::FoundStudy;
use tessera_federation::machine;
use tessera_federation::wire::Format;
use tessera_federation::wire::v1::{STUDY, StudyDetails, StudyPublic, Tag};
use tessera_storage::engine::Batch;

use super::vault::{Shelf, Vault, VaultError};
use super::{Member, locked, rfc3339};
use crate::archive::{Archive, catalogue};

/// Bytes of entries read at a time.
const SCAN_BYTES: usize = 1024 * 1024;
/// Lost registrations that are counted; beyond it the sentence says "at least".
const LOST_COUNTED_MAX: usize = 10_000;
/// Studies opened again in one write.
const REOPENED_AT_ONCE: usize = 1_000;

/// After so many entries of others the position is kept too.
const KEPT_EVERY: u64 = 1_000;

const EXAMINED: &[u8] = b"size";
const REGISTERED_IN: &[u8] = b"registered in";

/// An examination that this node registered and that its archive lacks, or has only a part of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Lost {
    index: LedgerIndex,
    /// When it was registered.
    time_ms: u64,
    /// Objects that it had, once that is known.
    objects: Option<u32>,
}

impl Member {
    /// A registration under this tag is on its way to the ledger.
    pub(super) fn is_on_its_way(&self, tag: &Tag) -> Result<bool, VaultError> {
        let study: Option<String> = self.vault.get(&**self.archive.engine(), Shelf::Sent, &tag.to_key())?;
        Ok(study.is_some())
    }

    pub(super) fn note_sent(&self, tag: &Tag, study: &str, batch: &mut Batch) {
        self.vault.put(batch, Shelf::Sent, &tag.to_key(), &study.to_owned());
    }

    pub(super) fn forget_sent(&self, tag: &Tag, batch: &mut Batch) {
        self.vault.delete(batch, Shelf::Sent, &tag.to_key());
    }

    pub(super) fn forget_lost(&self, tag: &Tag, batch: &mut Batch) {
        self.vault.delete(batch, Shelf::Lost, &tag.to_key());
    }

    /// A new revision takes the place of `before`. If that one was lost here and had more objects, its loss is kept
    /// in mind under the new tag; if all are here again, it is forgotten.
    pub(super) fn note_shrunk(
        &self,
        before: &FoundStudy,
        now: &StudyDetails,
        tag: Tag,
        batch: &mut Batch,
    ) -> Result<(), VaultError> {
        let older = before.place.tag.to_key();
        let lost: Option<Lost> = self.vault.get(&**self.archive.engine(), Shelf::Lost, &older)?;
        let Some(mut lost) = lost else { return Ok(()) };
        self.vault.delete(batch, Shelf::Lost, &older);
        let count = |details: &StudyDetails| details.shown.as_ref().map_or(0, |shown| shown.objects);
        let objects = lost.objects.unwrap_or_else(|| count(&before.details));
        if count(now) < objects {
            lost.objects = Some(objects);
            self.vault.put(batch, Shelf::Lost, &tag.to_key(), &lost);
        }
        Ok(())
    }

    /// Looks through what was certified since the last look for registrations of this node.
    pub(super) fn examine_own_entries(&self) -> anyhow::Result<()> {
        let engine = &**self.archive.engine();
        let mut examined = locked(&self.examined);
        let mut from = match *examined {
            Some(size) => size,
            None => LedgerSize(self.vault.get(engine, Shelf::Examined, EXAMINED)?.unwrap_or(0)),
        };
        let until = self.replica.certificate().map_or(LedgerSize(0), |certificate| certificate.checkpoint().size);
        let until = until.min(self.replica.size());
        while from < until {
            let entries = self.replica.entries(from, until, SCAN_BYTES)?;
            ensure!(!entries.is_empty(), "the ledger ends before its size");
            let mut batch = Batch::new();
            for (index, entry) in (from.0..).map(LedgerIndex).zip(&entries) {
                self.examine(index, &Leaf::from_bytes(&entry.leaf)?, &mut batch)?;
            }
            let before = from;
            from = LedgerSize(from.0 + entries.len() as u64);
            if !batch.is_empty() || before.0 / KEPT_EVERY < from.0 / KEPT_EVERY {
                // With the notes that it took away: an entry without its note is not met a second time. And now and
                // then without, so that a node with few entries of its own does not begin at the beginning again.
                self.vault.put(&mut batch, Shelf::Examined, EXAMINED, &from.0);
                self.archive.submit(batch)?;
            }
            *examined = Some(from);
        }
        Ok(())
    }

    fn examine(&self, index: LedgerIndex, leaf: &Leaf, batch: &mut Batch) -> anyhow::Result<()> {
        let body = &leaf.command.body;
        if body.kind != STUDY || body.stream.node != self.node {
            return Ok(());
        }
        let Ok(public) = StudyPublic::from_bytes(&body.public) else { return Ok(()) };
        let record = machine::tag(self.replica.view(), &public.tag)?.filter(|record| record.index == index);
        // A rejected one, or one that was sent twice.
        let Some(record) = record else { return Ok(()) };
        if self.is_on_its_way(&public.tag)? {
            self.forget_sent(&public.tag, batch);
            return Ok(());
        }
        tracing::info!(index = index.0, "the ledger has a registration of this node that this directory lacks");
        if let Some(older) = &public.supersedes {
            self.forget_lost(older, batch);
        }
        if record.ended.is_none() && record.withdrawn.is_none() {
            let lost = Lost { index, time_ms: leaf.time.0, objects: None };
            self.vault.put(batch, Shelf::Lost, &public.tag.to_key(), &lost);
        }
        Ok(())
    }

    /// What a person should know of it; `None` when nothing is lost.
    pub(super) fn lost_sentence(&self) -> anyhow::Result<Option<String>> {
        let lost: Vec<Lost> = self.vault.all(&**self.archive.engine(), Shelf::Lost, LOST_COUNTED_MAX)?;
        let times = || lost.iter().map(|lost| lost.time_ms);
        let (Some(first), Some(last)) = (times().min(), times().max()) else { return Ok(None) };
        let at_least = if lost.len() == LOST_COUNTED_MAX { "at least " } else { "" };
        Ok(Some(format!(
            "{at_least}{} examinations that this hospital registered ({} to {}) are not in this archive, or only in \
             part: this directory is an older copy. The ledger keeps them; send their images again, or put a newer \
             copy in its place",
            lost.len(),
            rfc3339(first),
            rfc3339(last)
        )))
    }
}

/// When the archive's studies were registered in another federation (that of one, as a rule), puts them back into
/// reception, so that they are registered in this one.
pub(super) fn register_anew(archive: &Archive, vault: &Vault, federation: FederationId) -> anyhow::Result<()> {
    let engine = &**archive.engine();
    let now = federation.hash().as_bytes().to_vec();
    let before: Option<Vec<u8>> = vault.get(engine, Shelf::Federation, REGISTERED_IN)?;
    if before.as_ref() == Some(&now) {
        return Ok(());
    }
    let (mut after, mut count) = (String::new(), 0);
    loop {
        let studies = catalogue::studies_after(engine, &after, REOPENED_AT_ONCE)?;
        let Some(last) = studies.last() else { break };
        after = last.description.study.clone();
        let mut batch = Batch::new();
        // Copies of other hospitals' images are not ours to register.
        for mut study in studies.into_iter().filter(|study| study.fetched_from.is_none()) {
            catalogue::reopen(&mut study, &mut batch);
            count += 1;
        }
        archive.submit(batch)?;
    }
    if count > 0 {
        tracing::info!(studies = count, "this archive joins another federation: its studies are registered there");
    }
    let mut batch = Batch::new();
    vault.put(&mut batch, Shelf::Federation, REGISTERED_IN, &now);
    Ok(archive.submit(batch)?)
}
