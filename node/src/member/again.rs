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
use tessera_storage::engine::EngineError;

use super::Member;
use super::vault::VaultError;
use crate::archive::ArchiveError;
use crate::archive::catalogue::CatalogueError;

/// How often it is looked whether something waits.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Whether the disk failed, and not what was to be done there.
pub(super) fn is_of_the_disk(error: &anyhow::Error) -> bool {
    let replica = |error: &ReplicaError| matches!(error, ReplicaError::Engine(_));
    let outbox = |error: &OutboxError| match error {
        OutboxError::Engine(_) => true,
        OutboxError::Replica(error) => replica(error),
        OutboxError::Full { .. } | OutboxError::TooLong { .. } | OutboxError::Damaged(_) => false,
    };
    error.is::<EngineError>()
        || error.downcast_ref().is_some_and(replica)
        || error.downcast_ref().is_some_and(outbox)
        || error.downcast_ref().is_some_and(|error| matches!(error, PlaceError::Replica(error) if replica(error)))
        || error.downcast_ref().is_some_and(|error| matches!(error, VaultError::Engine(_)))
        || error.downcast_ref().is_some_and(|error| matches!(error, CatalogueError::Engine(_)))
        || error.downcast_ref().is_some_and(|error: &ArchiveError| error.engine().is_some())
}

/// No place is left that anybody would read: no later attempt helps.
pub(super) fn is_without_a_place(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(PlaceError::ChainFull { .. }))
}

/// An error of the disk, or nothing: whatever else failed waits for the next round.
fn unless_of_the_disk(done: anyhow::Result<()>) -> anyhow::Result<()> {
    match done {
        Err(error) if !is_of_the_disk(&error) => {
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
    /// One round.
    pub(super) async fn write_again_once(self: &Arc<Self>) -> anyhow::Result<()> {
        unless_of_the_disk(self.anchor_kept_receipts())?;
        unless_of_the_disk(self.write_consents_again().await)?;
        unless_of_the_disk(self.write_links_again().await)
    }
}
