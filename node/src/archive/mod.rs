//! This hospital's own archive: what was received, what it is, and when a study is whole.
//!
//! The packs of the pixel store are the truth about what was received: each record carries its receipt, and the
//! catalogue is derived from them. A study is registered in the ledger by [`crate::member`], from the catalogue.
//!
//! - [`catalogue`]: the records and their keys
//! - [`describe`]: from a data set to the catalogue's words
//! - [`flags`]: senders whose text belies their character set
//! - [`ingest`]: what happens to one received object, and the recovery after a crash
//! - [`copies`], [`copying`], [`turns`]: what was fetched from other sites, kept apart from the own studies
//! - [`sink`], [`import`]: the doors

pub mod catalogue;
pub mod copies;
pub mod copying;
#[cfg(test)]
mod copying_tests;
pub mod describe;
pub mod flags;
pub mod import;
pub mod ingest;
pub mod sink;
#[cfg(test)]
pub mod testing;
pub mod turns;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tessera_storage::engine::{Batch, Engine, Table};
use tessera_storage::pixels::{ObjectHash, PixelStore, Recovered, SiteKey, StoreError, StoreOptions};
use tokio::sync::{Notify, RwLock};

use crate::config::Config;
use catalogue::{CATALOGUE, CatalogueError, ObjectRecord, Phase, StudyRecord};
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
    Engine(#[from] tessera_storage::engine::EngineError),
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
    config: Config,
    changed: Notify,
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
            catalogue::note_missed(&mut batch, &recovered);
            noting.submit(batch).map(drop).map_err(StoreError::from)
        };
        let (store, report) = PixelStore::open(pixels, site_key, engine.clone(), options, &mut on_recovered)?;
        let archive = Arc::new(Self {
            engine,
            pixels: Arc::new(store),
            writer: Mutex::new(()),
            keeping: RwLock::new(()),
            turns: Turns::default(),
            config,
            changed: Notify::new(),
        });
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

    /// Who is alone with a study.
    pub fn turns(&self) -> &Turns {
        &self.turns
    }

    /// Wakes whoever waits for new objects.
    pub fn changed(&self) -> &Notify {
        &self.changed
    }

    /// The lock under which the catalogue is read and changed.
    pub fn writing(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The data set of an object, byte for byte as it came. Blocks for the disk.
    pub fn data_set(&self, object: &ObjectRecord) -> Result<Vec<u8>, ArchiveError> {
        Ok(self.pixels.read(&ObjectHash::blake3(object.hash))?)
    }

    /// Studies for which nothing arrived since `quiet_since_ms` and whose present revision is not closed yet.
    pub fn quiet_studies(&self, quiet_since_ms: u64) -> Result<Vec<StudyRecord>, ArchiveError> {
        let mut quiet = Vec::new();
        for uid in catalogue::receiving(&*self.engine, RECEIVING_MAX)? {
            if quiet.len() == CLOSING_MAX {
                break;
            }
            if let Some(study) = catalogue::study(&*self.engine, &uid)?
                && study.last_received_ms <= quiet_since_ms
                && matches!(study.phase, Phase::Receiving { .. })
            {
                quiet.push(study);
            }
        }
        Ok(quiet)
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
