//! What the ledger did not take because of a race, or the outbox because it was full, is written again: consents,
//! links, receipts.
//!
//! A task of its own, for it may wait for keys from the core: the sender, and what is urgent, never waits for it. What
//! one command needs ends and holds up nothing else. Only a disk that fails ends the node.
//! Not here: studies, which go back into reception (`registrar`).

use std::sync::Arc;
use std::time::Duration;

use tessera_consensus::replica::ReplicaError;
use tessera_federation::history::PlaceError;
use tessera_federation::outbox::OutboxError;
use tessera_policy::Identifier;
use tessera_storage::engine::EngineError;

use super::consent::{self, SentConsent, SentState};
use super::vault::{Shelf, VaultError};
use super::{Member, links};
use crate::archive::ArchiveError;
use crate::archive::catalogue::CatalogueError;

/// How often it is looked whether something waits.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The engine's error that lies behind `error`, if one does.
fn engine_error(error: &anyhow::Error) -> Option<&EngineError> {
    fn replica(error: &ReplicaError) -> Option<&EngineError> {
        match error {
            ReplicaError::Engine(error) => Some(error),
            _ => None,
        }
    }
    if let Some(error) = error.downcast_ref::<EngineError>() {
        return Some(error);
    }
    if let Some(error) = error.downcast_ref::<ReplicaError>() {
        return replica(error);
    }
    match error.downcast_ref::<OutboxError>() {
        Some(OutboxError::Engine(error)) => return Some(error),
        Some(OutboxError::Replica(error)) => return replica(error),
        Some(OutboxError::Full { .. } | OutboxError::TooLong { .. } | OutboxError::Damaged(_)) | None => {}
    }
    if let Some(PlaceError::Replica(error)) = error.downcast_ref() {
        return replica(error);
    }
    if let Some(VaultError::Engine(error)) = error.downcast_ref() {
        return Some(error);
    }
    if let Some(CatalogueError::Engine(error)) = error.downcast_ref() {
        return Some(error);
    }
    error.downcast_ref::<ArchiveError>().and_then(ArchiveError::engine)
}

/// Whether the disk failed or is full, and not what was to be done there.
pub(super) fn is_of_the_disk(error: &anyhow::Error) -> bool {
    engine_error(error).is_some()
}

/// Whether the disk failed. One that is full has room again some day.
pub(super) fn is_of_a_broken_disk(error: &anyhow::Error) -> bool {
    is_of_the_disk(error) && !is_of_a_full_disk(error)
}

/// Whether the disk has no room.
pub(super) fn is_of_a_full_disk(error: &anyhow::Error) -> bool {
    matches!(engine_error(error), Some(EngineError::DiskFull { .. }))
}

/// An error of a broken disk, or nothing: whatever else failed waits for the next round.
fn unless_broken(done: anyhow::Result<()>) -> anyhow::Result<()> {
    match done {
        Err(error) if !is_of_a_broken_disk(&error) => {
            tracing::warn!(why = format!("{error:#}"), "what waits to be written again can't be looked through");
            Ok(())
        }
        done => done,
    }
}

/// Writes again what waits for it, for ever.
pub async fn write_again(member: Arc<Member>) -> anyhow::Result<()> {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if member.progress.borrow().caught_up {
            member.write_again_once().await?;
        }
    }
}

impl Member {
    /// How many links and consents lost their place and are not in the outbox again yet.
    pub(super) fn noted_for_later(&self) -> anyhow::Result<u64> {
        let engine = &**self.archive.engine();
        let links = self.vault.all::<(Identifier, Identifier)>(engine, Shelf::LinksAgain, links::AGAIN_MAX)?;
        let consents = self.vault.all::<SentConsent>(engine, Shelf::ConsentsSent, consent::SENT_MAX)?;
        let again = consents.iter().filter(|sent| sent.state == SentState::Again).count();
        Ok((links.len() + again) as u64)
    }

    /// One round.
    pub(super) async fn write_again_once(self: &Arc<Self>) -> anyhow::Result<()> {
        unless_broken(self.anchor_kept_receipts())?;
        unless_broken(self.write_consents_again().await)?;
        unless_broken(self.write_links_again().await)
    }
}
