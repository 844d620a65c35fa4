//! The archive behind the DICOM receiver: what a sender hears of each object.
//!
//! Variants and what is quarantined are success to the sender, whose queue must never jam; a full disk and what is no
//! data set are not.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tessera_storage::pixels::{LargeWriter, StoreError};

use super::catalogue::Standing;
use super::ingest::{Filed, IngestError, Origin};
use super::{Archive, ArchiveError};
use crate::dicom::sink::{Incoming, LargeObject, StoreOutcome, StoreSink};

/// The archive as the receiver sees it.
pub struct ArchiveSink(pub Arc<Archive>);

pub fn outcome(result: Result<Filed, IngestError>) -> StoreOutcome {
    match result {
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
        IngestError::NotUnderstood(_) => StoreOutcome::NotUnderstood { reason },
        IngestError::Mismatch { .. } => StoreOutcome::Mismatch { reason },
        IngestError::Archive(ArchiveError::Store(
            StoreError::WatermarkReached { .. } | StoreError::DiskFull { .. },
        )) => StoreOutcome::OutOfResources { reason },
        IngestError::Archive(_) => StoreOutcome::Failed { reason },
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
            let taken = self.0.take(origin(&incoming), incoming.transfer_syntax, announced, data_set).await;
            if let Err(error) = &taken {
                tracing::warn!(%error, "an object was not taken");
            }
            outcome(taken)
        }
        .boxed()
    }

    fn begin_large(&self, incoming: Incoming) -> Result<Box<dyn LargeObject>, StoreOutcome> {
        let writer = self.0.pixels().begin_large(&[]).map_err(|error| refused(&error.into()))?;
        Ok(Box::new(Large { archive: self.0.clone(), incoming, writer: Some(writer) }))
    }
}

struct Large {
    archive: Arc<Archive>,
    incoming: Incoming,
    /// Taken out while a blocking write has it.
    writer: Option<LargeWriter>,
}

fn gone() -> StoreOutcome {
    StoreOutcome::Failed { reason: "an earlier write failed".into() }
}

impl LargeObject for Large {
    fn write(&mut self, piece: Bytes) -> BoxFuture<'_, Result<(), StoreOutcome>> {
        async move {
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
