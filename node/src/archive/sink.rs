//! The archive behind the DICOM receiver: what a sender hears of each object.
//!
//! Variants and what is quarantined are success to the sender, whose queue must never jam (with a warning where the
//! object came damaged); a full disk, what is no data set, and more of unlisted senders than may be kept are not.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tessera_storage::pixels::LargeWriter;

use super::Archive;
use super::aside::Room;
use super::catalogue::{Quarantine, Standing};
use super::ingest::{Filed, IngestError, Origin};
use crate::dicom::sink::{Incoming, LargeObject, StoreOutcome, StoreSink};

/// The archive as the receiver sees it.
pub struct ArchiveSink(pub Arc<Archive>);

pub fn outcome(result: Result<Filed, IngestError>) -> StoreOutcome {
    match result {
        // Whatever it is put aside for besides: the sender may hold a whole one.
        Ok(filed) if filed.is_damaged => StoreOutcome::Damaged { reason: Quarantine::Damaged.sentence().into() },
        Ok(filed) => match filed.standing {
            Standing::New | Standing::Known => StoreOutcome::Stored,
            Standing::Variant => StoreOutcome::Variant,
            Standing::Quarantined(_) => StoreOutcome::Quarantined,
        },
        Err(error) => refused(&error),
    }
}

fn refused(error: &IngestError) -> StoreOutcome {
    let reason = error.to_string();
    match error {
        IngestError::NotUnderstood(error) if error.is_of_the_bytes() => StoreOutcome::NotUnderstood { reason },
        IngestError::Mismatch { .. } => StoreOutcome::Mismatch { reason },
        IngestError::UnlistedFull { .. } => StoreOutcome::NotAuthorised { reason },
        _ if error.is_for_want_of_room() => StoreOutcome::OutOfResources { reason },
        IngestError::NotUnderstood(_) | IngestError::Archive(_) => StoreOutcome::Failed { reason },
    }
}

fn origin(incoming: &Incoming) -> Origin {
    Origin::Association {
        calling_ae: incoming.sender.calling_ae.as_str().to_owned(),
        called_ae: incoming.sender.called_ae.as_str().to_owned(),
        address: incoming.sender.address,
    }
}

impl StoreSink for ArchiveSink {
    fn store(&self, incoming: Incoming, data_set: Bytes) -> BoxFuture<'_, StoreOutcome> {
        let announced = Some((incoming.sop_class.clone(), incoming.sop_instance.clone()));
        async move {
            let origin = origin(&incoming);
            let mut room = self.0.room_for(&origin);
            let taken = match room.take(data_set.len() as u64) {
                Ok(()) => self.0.take(origin, incoming.transfer_syntax, announced, data_set).await,
                Err(error) => Err(error),
            };
            if let Err(error) = &taken {
                tracing::warn!(%error, "an object was not taken");
            }
            outcome(taken)
        }
        .boxed()
    }

    fn begin_large(&self, incoming: Incoming) -> Result<Box<dyn LargeObject>, StoreOutcome> {
        let writer = self.0.pixels().begin_large(&[]).map_err(|error| refused(&error.into()))?;
        let room = self.0.room_for(&origin(&incoming));
        Ok(Box::new(Large { archive: self.0.clone(), incoming, room, writer: Some(writer) }))
    }
}

struct Large {
    archive: Arc<Archive>,
    incoming: Incoming,
    room: Room,
    /// Taken out while a blocking write has it.
    writer: Option<LargeWriter>,
}

fn gone() -> StoreOutcome {
    StoreOutcome::Failed { reason: "an earlier write failed".into() }
}

impl LargeObject for Large {
    fn write(&mut self, piece: Bytes) -> BoxFuture<'_, Result<(), StoreOutcome>> {
        async move {
            self.room.take(piece.len() as u64).map_err(|error| refused(&error))?;
            let mut writer = self.writer.take().ok_or_else(gone)?;
            let written = tokio::task::spawn_blocking(move || {
                let result = writer.write(&piece);
                (writer, result)
            });
            let (writer, result) = written.await.map_err(|_| gone())?;
            result.map_err(|error| refused(&error.into()))?;
            self.writer = Some(writer);
            Ok(())
        }
        .boxed()
    }

    fn finish(mut self: Box<Self>) -> BoxFuture<'static, StoreOutcome> {
        async move {
            let Some(writer) = self.writer.take() else { return gone() };
            let (archive, incoming) = (self.archive.clone(), self.incoming.clone());
            let finished = tokio::task::spawn_blocking(move || {
                let announced = (incoming.sop_class.clone(), incoming.sop_instance.clone());
                archive.finish_large(origin(&incoming), &incoming.transfer_syntax, Some(announced), writer)
            });
            match finished.await {
                Ok(result) => outcome(result),
                Err(_) => gone(),
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use tessera_storage::engine::EngineError;
    use tessera_storage::pixels::StoreError;

    use super::super::ArchiveError;
    use super::super::catalogue::CatalogueError;
    use super::*;

    #[test]
    fn a_damaged_object_is_told_as_one_whatever_else_it_is_put_aside_for() {
        for (standing, is_damaged, expected) in [
            (Standing::New, false, 0x0000),
            (Standing::Quarantined(Quarantine::UnknownSender), false, 0x0000),
            (Standing::Quarantined(Quarantine::UnknownSender), true, 0xB007),
            (Standing::Quarantined(Quarantine::Damaged), true, 0xB007),
        ] {
            let told = outcome(Ok(Filed { standing, is_damaged, bytes: 1 })).outcome();
            assert_eq!(told.dimse(), expected, "{told:?}");
        }
    }

    #[test]
    fn a_full_disk_is_told_as_one_whoever_noticed_it() {
        let full = EngineError::DiskFull { detail: String::new() };
        let dead = EngineError::Dead { cause: String::new() };
        let table = [
            (ArchiveError::from(full.clone()), true),
            (CatalogueError::from(full.clone()).into(), true),
            (StoreError::from(full).into(), true),
            (StoreError::DiskFull { detail: String::new() }.into(), true),
            (StoreError::WatermarkReached { free_bytes: 0, limit_bytes: 1 }.into(), true),
            (dead.into(), false),
        ];
        for (error, is_full) in table {
            let told = refused(&error.into());
            assert_eq!(matches!(told, StoreOutcome::OutOfResources { .. }), is_full, "{told:?}");
        }
    }
}
