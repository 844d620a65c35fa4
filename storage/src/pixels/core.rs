//! What the parts of an open pixel store share: keys, packs, index, numbers and counters.
//!
//! Not an interface of its own: the store, its writer and its scrubber are built on it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::engine::{Engine, View};
use crate::pixels::error::{Damage, DamageKind, StoreError};
use crate::pixels::hash::ObjectHash;
use crate::pixels::index::{self, Entry};
use crate::pixels::pack::{Packs, free_bytes, is_unreadable};
use crate::pixels::read::{Found, OpenRecord};
use crate::pixels::record::{Place, ReceiptId, RecordKind};
use crate::pixels::seal::Keyring;
use crate::pixels::settlement::Settlement;
use crate::pixels::store::StoreOptions;

pub(crate) struct Core {
    pub(crate) directory: PathBuf,
    pub(crate) options: StoreOptions,
    pub(crate) keys: Keyring,
    pub(crate) packs: Packs,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) settlement: Mutex<Settlement>,
    /// The appended pack that grows, and how much of it is durable.
    pub(crate) growing: Mutex<Place>,
    /// Partial objects that a handle is open for.
    pub(crate) partials_in_use: Mutex<BTreeSet<ObjectHash>>,
    pub(crate) counters: Counters,
    next_pack: AtomicU64,
    next_receipt: AtomicU64,
}

/// Counted since open. Relaxed: they are for people.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) objects: AtomicU64,
    pub(crate) receipts: AtomicU64,
    pub(crate) record_bytes: AtomicU64,
    pub(crate) syncs: AtomicU64,
}

impl Counters {
    pub(crate) fn count(counter: &AtomicU64, more: u64) {
        counter.fetch_add(more, Ordering::Relaxed);
    }
}

impl Core {
    pub(crate) fn new(
        directory: PathBuf,
        options: StoreOptions,
        keys: Keyring,
        packs: Packs,
        engine: Arc<dyn Engine>,
    ) -> Self {
        Self {
            directory,
            options,
            keys,
            packs,
            engine,
            settlement: Mutex::default(),
            growing: Mutex::new(Place { pack: 0, offset: 0 }),
            partials_in_use: Mutex::default(),
            counters: Counters::default(),
            next_pack: AtomicU64::new(1),
            next_receipt: AtomicU64::new(1),
        }
    }

    pub(crate) fn take_pack_number(&self) -> u64 {
        self.next_pack.fetch_add(1, Ordering::SeqCst)
    }

    pub(crate) fn take_receipt(&self) -> ReceiptId {
        ReceiptId(self.next_receipt.fetch_add(1, Ordering::SeqCst))
    }

    pub(crate) fn highest_receipt(&self) -> ReceiptId {
        ReceiptId(self.next_receipt.load(Ordering::SeqCst) - 1)
    }

    /// Numbers up to these are taken.
    pub(crate) fn skip_pack(&self, pack: u64) {
        self.next_pack.fetch_max(pack + 1, Ordering::SeqCst);
    }

    pub(crate) fn skip_receipt(&self, receipt: ReceiptId) {
        self.next_receipt.fetch_max(receipt.0 + 1, Ordering::SeqCst);
    }

    pub(crate) fn settlement(&self) -> MutexGuard<'_, Settlement> {
        self.settlement.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn growing(&self) -> Place {
        *self.growing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_growing(&self, place: Place) {
        *self.growing.lock().unwrap_or_else(PoisonError::into_inner) = place;
    }

    fn view(&self) -> &dyn View {
        self.engine.as_ref()
    }

    /// What the index says; an entry into a pack that is gone or can't be opened, or of damage, says nothing, so that a resend heals it.
    pub(crate) fn live(&self, hash: &ObjectHash) -> Result<Option<(Place, u64)>, StoreError> {
        let mut gone = None;
        loop {
            let entry = index::entry(self.view(), hash)?;
            let Some(Entry::Live { place, body_bytes, .. }) = entry else { return Ok(None) };
            if self.packs.readable(place.pack)?.is_some() {
                return Ok(Some((place, body_bytes)));
            }
            // Compaction may have moved the record between the two looks: its new place is in the index by then.
            if gone.replace(place) == Some(place) {
                return Ok(None);
            }
        }
    }

    /// Receipt number of the tombstone of `hash`.
    pub(crate) fn forgotten(&self, hash: &ObjectHash) -> Result<Option<ReceiptId>, StoreError> {
        match index::entry(self.view(), hash)? {
            Some(Entry::Forgotten { receipt }) => Ok(Some(receipt)),
            _ => Ok(None),
        }
    }

    /// The record of a live object.
    pub(crate) fn open_object(&self, hash: &ObjectHash) -> Result<OpenRecord, StoreError> {
        let (place, file) = loop {
            let Some((place, _)) = self.live(hash)? else { return Err(self.absence(hash)?) };
            // None: compaction took the pack away between the two looks; the index names the record's new place.
            if let Some(file) = self.packs.readable(place.pack)? {
                break (place, file);
            }
        };
        let damaged = |what| StoreError::Damaged { damage: Damage { place, hash: Some(*hash), what } };
        // The index was written behind the record, so its bytes are in the file, unless they were lost.
        let found = OpenRecord::find(&file, place, u64::MAX, &self.keys);
        match found {
            Ok(Found::Record(record)) if record.header.hash == *hash && record.header.kind == RecordKind::Object => {
                Ok(record)
            }
            Ok(_) => Err(damaged(DamageKind::Header)),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(damaged(DamageKind::CutShort)),
            Err(error) if is_unreadable(&error) => Err(damaged(DamageKind::Header)),
            Err(error) => Err(StoreError::io("reading a pack", &self.packs.path(place.pack), &error)),
        }
    }

    /// Why an object can't be read: it is damaged, or not here at all.
    fn absence(&self, hash: &ObjectHash) -> Result<StoreError, StoreError> {
        Ok(match index::entry(self.view(), hash)? {
            Some(Entry::Damaged { place, what, .. }) => {
                StoreError::Damaged { damage: Damage { place, hash: Some(*hash), what } }
            }
            Some(Entry::Live { place, .. }) => {
                StoreError::Damaged { damage: Damage { place, hash: Some(*hash), what: DamageKind::PackShortened } }
            }
            Some(Entry::Forgotten { .. }) | None => StoreError::NotFound { hash: *hash },
        })
    }

    /// Refuses what would take the disk below its reserve. `coming` is what will be written, bytes.
    pub(crate) fn check_watermark(&self, coming: u64) -> Result<(), StoreError> {
        let free_bytes = free_bytes(&self.directory)?;
        let limit_bytes = self.options.free_bytes_min;
        if free_bytes < limit_bytes.saturating_add(coming) {
            return Err(StoreError::WatermarkReached { free_bytes, limit_bytes });
        }
        Ok(())
    }
}
