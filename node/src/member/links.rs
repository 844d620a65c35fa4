//! Links between the numbers of one person: written once, in both directions, in one command.
//!
//! What the ledger has already, from a life that this directory does not know, is not written again. Not here: which
//! numbers belong together (the crosswalk's matter), and following links in a lookup (`history`).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context;
use tessera_consensus::Lane;
use tessera_consensus::wire::encode;
use tessera_federation::blind::{Binding, Part};
use tessera_federation::history::{self, PlaceError};
use tessera_federation::outbox::Draft;
use tessera_federation::wire::Format;
use tessera_federation::wire::v1::{self, LinkDetails, LinkHalf, LinkPublic, LinkSealed};
use tessera_policy::{EvidenceClass, Identifier};
use tessera_storage::engine::Batch;

use super::again::is_of_a_broken_disk;
use super::registrar::Matter;
use super::vault::Shelf;
use super::{Member, locked};
use crate::founding::rng;

/// Links of this node that wait to be written again and are looked through.
pub(super) const AGAIN_MAX: usize = 100_000;

fn pair_name(local: &Identifier, other: &Identifier) -> Vec<u8> {
    [local.canonical_bytes(), other.canonical_bytes()].concat()
}

impl Member {
    /// Links a local number to another of the same person, once, when something is registered under the local one.
    /// `false`: there is nothing to write, or no place is left for it, which holds up nothing else; a later
    /// registration tries once more.
    pub async fn link(self: &Arc<Self>, local: &Identifier, other: &Identifier) -> anyhow::Result<bool> {
        let name = pair_name(local, other);
        let is_written = || anyhow::Ok(self.vault.get::<u8>(&**self.archive.engine(), Shelf::Links, &name)?.is_some());
        if is_written()? {
            return Ok(false);
        }
        let of_local = self.keys_of(local, true).await?;
        let other_key = self.writing_key(other).await?;
        let keys = [self.key_of_this_year(&of_local)?, &other_key];
        let site = self.config.default_site().id.clone();
        let mut halves = Vec::new();
        let mut sealed = Vec::new();
        let _placing = locked(&self.placing);
        // By another task, while this one waited for the keys.
        if is_written()? {
            return Ok(false);
        }
        let there = history::look_up(&self.replica, &of_local)?.links;
        if there.iter().any(|link| link.ended.is_none() && link.details.site == site && link.details.other == *other) {
            // Written in a life that this directory does not know.
            let mut batch = Batch::new();
            self.vault.put(&mut batch, Shelf::Links, &name, &1u8);
            self.archive.submit(batch)?;
            return Ok(false);
        }
        let is_reserved = |tag: &v1::Tag| self.is_reserved(Lane::Bulk, tag);
        for (key, shown) in keys.iter().zip([other, local]) {
            let free = match history::next_free(&self.replica, key, &site, v1::LINK, &is_reserved) {
                Err(full @ PlaceError::ChainFull { .. }) => {
                    tracing::warn!(why = %full, "two numbers of one patient stay unlinked");
                    return Ok(false);
                }
                free => free?,
            };
            let presence = free.presence.map(|tag| history::presence(key, v1::LINK, &site, tag, &mut rng()));
            let details = LinkDetails {
                version: v1::VERSION,
                other: shown.clone(),
                site: site.clone(),
                evidence: EvidenceClass::StaffAttestation,
                recorded_at: self.recorded_now(),
            };
            sealed.push(key.seal_format(Binding::tag(v1::LINK, Part::Details, &free.tag), &details, &mut rng()));
            halves.push(LinkHalf { tag: free.tag, presence });
        }
        let halves: [LinkHalf; 2] = halves.try_into().ok().context("two halves")?;
        let sealed: [v1::Sealed; 2] = sealed.try_into().ok().context("two halves")?;
        let draft = Draft {
            lane: Lane::Bulk,
            kind: v1::LINK,
            public: LinkPublic { version: v1::VERSION, halves }.to_bytes(),
            sealed: Some(LinkSealed { version: v1::VERSION, halves: sealed }.to_bytes()),
            matter: encode(&Matter::Link { local: local.clone(), other: other.clone() }),
        };
        let mut batch = Batch::new();
        self.vault.put(&mut batch, Shelf::Links, &name, &1u8);
        self.enqueue_placed(draft, batch)?;
        Ok(true)
    }

    /// The ledger rejected a link because of a race.
    pub(super) fn link_lost(&self, local: &Identifier, other: &Identifier) -> anyhow::Result<()> {
        let name = pair_name(local, other);
        let mut batch = Batch::new();
        self.vault.delete(&mut batch, Shelf::Links, &name);
        self.vault.put(&mut batch, Shelf::LinksAgain, &name, &(local.clone(), other.clone()));
        self.archive.submit(batch)?;
        self.links_again.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Writes again what lost its place. What can't be written yet waits.
    pub(super) async fn write_links_again(self: &Arc<Self>) -> anyhow::Result<()> {
        if !self.links_again.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let lost: Vec<(Identifier, Identifier)> =
            self.vault.all(&**self.archive.engine(), Shelf::LinksAgain, AGAIN_MAX)?;
        for (local, other) in lost {
            match self.link(&local, &other).await {
                Err(error) if is_of_a_broken_disk(&error) => return Err(error),
                Err(error) => {
                    tracing::debug!(why = format!("{error:#}"), "a link waits to be written again");
                    self.links_again.store(true, Ordering::Relaxed);
                    continue;
                }
                Ok(_) => {}
            }
            let mut batch = Batch::new();
            self.vault.delete(&mut batch, Shelf::LinksAgain, &pair_name(&local, &other));
            self.archive.submit(batch)?;
        }
        Ok(())
    }
}
