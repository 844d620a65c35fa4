//! This hospital's own archive: what was received, what it is, and when a study is whole.
//!
//! The packs of the pixel store are the truth about what was received: each record carries its receipt, and the
//! catalogue is derived from them. A study is registered in the ledger by [`crate::member`], from the catalogue.
//!
//! - [`catalogue`]: the records and their keys
//! - `files`: objects as DICOM files outside
//! - [`describe`]: from a data set to the catalogue's words
//! - [`flags`]: senders whose text belies their character set
//! - [`ingest`]: what happens to one received object
//! - [`missed`]: what a crash kept from the catalogue
//! - [`copies`], [`copying`], [`turns`]: what was fetched from other sites, kept apart from the own studies
//! - [`aside`]: how much may be kept of senders that nobody listed
//! - [`quarantine`], [`releasing`], [`review`]: what was put aside, and what a person decides about it
//! - [`space`]: what nobody needs goes back to the file system
//! - [`scrubbing`]: looking after the disk, and naming what is damaged
//! - [`sink`], [`import`]: the doors

pub mod aside;
pub mod catalogue;
#[cfg(test)]
mod catalogue_tests;
pub mod copies;
pub mod copying;
#[cfg(test)]
mod copying_tests;
pub mod describe;
mod files;
pub mod flags;
pub mod import;
pub mod ingest;
pub mod missed;
#[cfg(test)]
mod missed_tests;
pub mod quarantine;
#[cfg(test)]
mod quarantine_tests;
pub mod releasing;
pub mod review;
pub mod scrubbing;
pub mod sink;
pub mod space;
#[cfg(test)]
pub mod testing;
pub mod turns;

use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tessera_storage::engine::{Batch, Engine, EngineError, Table};
use tessera_storage::pixels::{PixelStore, Recovered, SiteKey, StoreError, StoreOptions};
use tokio::sync::RwLock;

use crate::config::Config;
use catalogue::{CATALOGUE, CatalogueError, Phase, StudyRecord};
use turns::Turns;

/// Studies closed in one go.
const CLOSING_MAX: usize = 1024;
/// Studies in reception that are looked at.
const RECEIVING_MAX: usize = 100_000;

/// Commands on their way to the ledger; in the archive's database, so that a change and its command are one write.
pub const OUTBOX: Table = "outbox";
/// What this node knows as a member: crosswalk, cached keys, registrations, decisions.
pub const MEMBER: Table = "member";
/// Tables of the archive's database, the outbox's and the member's among them.
pub const TABLES: [Table; 5] = [CATALOGUE, copies::COPIES, tessera_storage::pixels::OBJECTS, OUTBOX, MEMBER];

/// Why the archive could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl ArchiveError {
    /// The database's own error, where that is the cause.
    pub fn engine(&self) -> Option<&EngineError> {
        match self {
            Self::Engine(error)
            | Self::Catalogue(CatalogueError::Engine(error))
            | Self::Store(StoreError::Engine(error)) => Some(error),
            Self::Catalogue(_) | Self::Store(_) => None,
        }
    }

    /// The disk has reached its reserve, whoever noticed.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Store(StoreError::WatermarkReached { .. } | StoreError::DiskFull { .. }) => true,
            error => matches!(error.engine(), Some(EngineError::DiskFull { .. })),
        }
    }

    /// The database or the store as a whole has failed: that says nothing of any one object.
    pub fn is_of_the_whole(&self) -> bool {
        matches!(self, Self::Store(StoreError::Dead { .. } | StoreError::SyncFailed { .. })) || self.engine().is_some()
    }
}

/// The archive of one node. Cheap to share; all methods may be called from any thread.
pub struct Archive {
    engine: Arc<dyn Engine>,
    pixels: Arc<PixelStore>,
    /// Held from the reading of the catalogue to the submit of its change: one writer, so that two associations
    /// that bring the same new patient or study make one record of it.
    writer: Mutex<()>,
    /// Shared from the writing of an object's bytes to the filing of it, alone while bytes are forgotten: what is being
    /// taken in is never forgotten in between. Taken before `writer`.
    keeping: RwLock<()>,
    turns: Turns,
    /// Bytes of objects of unlisted senders that are being received.
    coming_aside: AtomicU64,
    config: Config,
    condition: scrubbing::Condition,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Archive {
    /// Opens the packs, and takes into the catalogue what a crash had kept from it.
    pub fn open(
        engine: Arc<dyn Engine>,
        pixels: &Path,
        site_key: SiteKey,
        config: Config,
    ) -> anyhow::Result<Arc<Self>> {
        let options = StoreOptions { free_bytes_min: config.archive.free_bytes_min, ..Default::default() };
        // Called before the store can read objects: what was missed is noted durably, and filed below.
        let noting = engine.clone();
        let mut on_recovered = |recovered: Recovered| {
            let mut batch = Batch::new();
            missed::note(&mut batch, &recovered);
            noting.submit(batch).map(drop).map_err(StoreError::from)
        };
        let (store, report) = PixelStore::open(pixels, site_key, engine.clone(), options, &mut on_recovered)?;
        let archive = Arc::new(Self {
            engine,
            pixels: Arc::new(store),
            writer: Mutex::new(()),
            keeping: RwLock::new(()),
            turns: Turns::default(),
            coming_aside: AtomicU64::new(0),
            config,
            condition: scrubbing::Condition::default(),
        });
        catalogue::complete_by_bytes(&*archive.engine)?;
        let filed = archive.file_missed()?;
        tracing::info!(filed, ?report, "archive open");
        Ok(archive)
    }

    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    pub fn pixels(&self) -> &Arc<PixelStore> {
        &self.pixels
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What is known of the disk's condition.
    pub fn condition(&self) -> &scrubbing::Condition {
        &self.condition
    }

    /// Who is alone with a study.
    pub fn turns(&self) -> &Turns {
        &self.turns
    }

    /// The lock under which the catalogue is read and changed.
    pub fn writing(&self) -> MutexGuard<'_, ()> {
        locked(&self.writer)
    }

    /// Studies for which nothing arrived for `quiet_ms` and whose present revision is not closed yet: those behind the
    /// UID `after` first, then from the beginning.
    pub fn quiet_studies(&self, now_ms: u64, quiet_ms: u64, after: &str) -> Result<Vec<StudyRecord>, ArchiveError> {
        let mut quiet = Vec::new();
        for uid in catalogue::receiving_from(&*self.engine, after, RECEIVING_MAX)? {
            if quiet.len() == CLOSING_MAX {
                break;
            }
            let Some(study) = catalogue::study(&*self.engine, &uid)? else { continue };
            if study.last_received_ms > now_ms {
                self.received_at(&uid, now_ms)?;
            } else if study.last_received_ms <= now_ms.saturating_sub(quiet_ms)
                && matches!(study.phase, Phase::Receiving { .. })
            {
                quiet.push(study);
            }
        }
        Ok(quiet)
    }

    /// The clock was ahead when the study came, and was set right: the quiet period begins now, not when the right
    /// clock has come to where the wrong one stood.
    fn received_at(&self, uid: &str, now_ms: u64) -> Result<(), ArchiveError> {
        let _writing = self.writing();
        let Some(study) = catalogue::study(&*self.engine, uid)? else { return Ok(()) };
        let mut batch = Batch::new();
        catalogue::put_study(
            &mut batch,
            &StudyRecord { last_received_ms: study.last_received_ms.min(now_ms), ..study },
        );
        self.submit(batch)
    }

    /// An error once a write has failed: nothing may go on from there.
    pub fn check_alive(&self) -> Result<(), ArchiveError> {
        self.engine.get(CATALOGUE, b"")?;
        Ok(self.pixels.check_alive()?)
    }

    /// Submits a change of the catalogue.
    pub fn submit(&self, batch: Batch) -> Result<(), ArchiveError> {
        self.engine.submit(batch)?;
        Ok(())
    }
}
