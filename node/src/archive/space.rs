//! Space that comes back to the file system: bytes that were discarded are given up, and packs of which most is dead are
//! compacted. In the background, one pack at a time and slower than a disk, so that nobody waits for it.
//!
//! Nothing here decides what may go: working copies are given up by [`super::copying`], items by people
//! ([`super::releasing`]). A crash at any moment leaves copies, never gaps: see the pixel store's `reclaim`.

use std::sync::Arc;
use std::time::Duration;

use tessera_storage::engine::Batch;
use tessera_storage::pixels::StoreError;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Archive;
use super::catalogue::CATALOGUE;
use super::quarantine;

/// Bytes that are copied in a second: a fraction of what the slowest disk writes.
const COPIED_BYTES_PER_S: u64 = 32 << 20;
/// Bytes that compaction leaves free on the disk; less than the archive's own reserve, which it may use.
const ROOM_BYTES: u64 = 256 << 20;
/// Discarded items whose bytes are given up in one step; ingest waits meanwhile.
const FORGOTTEN_AT_ONCE: usize = 64;

/// Gives space back until `stop`.
pub async fn give_back(archive: Arc<Archive>, stop: CancellationToken) {
    let interval = Duration::from_millis(archive.config.archive.compaction_interval_ms);
    let mut last = 0;
    loop {
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = stop.cancelled() => return,
        }
        let (archive, stop) = (archive.clone(), stop.clone());
        match tokio::task::spawn_blocking(move || archive.give_back_some(last, &stop)).await {
            Ok((looked_at, result)) => {
                last = looked_at;
                if let Err(error) = result {
                    tracing::warn!(pack = last, error = format!("{error:#}"), "space could not be given back");
                }
            }
            Err(error) => return tracing::error!(%error, "giving space back ended"),
        }
    }
}

impl Archive {
    /// Forgets what was discarded, then looks at the pack behind `last`. Returns which that was.
    fn give_back_some(&self, last: u64, stop: &CancellationToken) -> (u64, anyhow::Result<()>) {
        let packs = self.forget_discarded().and_then(|()| Ok(self.pixels.complete_packs()?));
        let packs = match packs {
            Ok(packs) => packs,
            Err(error) => return (last, Err(error)),
        };
        match packs.iter().find(|pack| **pack > last).or(packs.first()) {
            None => (last, Ok(())),
            Some(pack) => (*pack, self.compact_if_worth(*pack, stop)),
        }
    }

    fn compact_if_worth(&self, pack: u64, stop: &CancellationToken) -> anyhow::Result<()> {
        let usage = self.pixels.usage(pack)?;
        let has_room = self.pixels.free_bytes()? > usage.live_bytes + ROOM_BYTES;
        if usage.live_bytes * 2 > usage.bytes || !has_room {
            return Ok(());
        }
        let (begun, mut copied) = (Instant::now(), 0);
        let mut pace = |bytes: u64| {
            copied += bytes;
            let due = begun + Duration::from_millis(copied * 1000 / COPIED_BYTES_PER_S);
            Handle::current().block_on(async {
                tokio::select! {
                    () = stop.cancelled() => Err(StoreError::BrokenOff),
                    () = tokio::time::sleep_until(due) => Ok(()),
                }
            })
        };
        match self.pixels.compact(pack, &mut pace) {
            Ok(bytes) => tracing::info!(pack, bytes, copied, "a pack was compacted"),
            // Somebody waits for what is in it, or the node ends: another time.
            Err(StoreError::PackInUse { .. } | StoreError::BrokenOff) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Gives up the bytes of what was discarded, unless something else here is made of them.
    fn forget_discarded(&self) -> anyhow::Result<()> {
        loop {
            let some = quarantine::discarded(&*self.engine, FORGOTTEN_AT_ONCE)?;
            if some.is_empty() {
                return Ok(());
            }
            let objects: Vec<_> =
                some.iter().map(|(_, record)| (vec![record.description.clone()], record.hash)).collect();
            self.forget_unneeded(None, &objects)?;
            let mut batch = Batch::new();
            for (key, _) in some {
                batch.delete(CATALOGUE, key);
            }
            self.submit(batch)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use tessera_storage::pixels::ObjectHash;

    use super::super::quarantine::{Ground, Selection};
    use super::super::releasing::Action;
    use super::super::testing::{data_set, open};
    use super::*;
    use crate::archive::ingest::Origin;
    use crate::dicom::identifiers::Uid;
    use crate::dicom::syntax::EXPLICIT_LITTLE;

    #[tokio::test]
    async fn what_was_discarded_is_forgotten_unless_it_is_needed() {
        let folder = tempfile::tempdir().expect("a folder");
        let engine = tessera_storage::MemoryEngine::open(&super::super::TABLES).expect("an engine").auto_flush(true);
        let archive = open(Arc::new(engine), folder.path());
        let address = "10.0.0.9".parse().expect("an address");
        let stranger = Origin::Association { calling_ae: "CT9".into(), called_ae: "TESSERA".into(), address };
        let (gone, needed) = (data_set("1.2.3", "1.2.3.1", "gone"), data_set("1.2.3", "1.2.3.2", "needed"));
        let syntax = || Uid::parse(EXPLICIT_LITTLE).expect("a UID");
        for object in [&gone, &needed] {
            archive.take(stranger.clone(), syntax(), None, object.clone().into()).await.expect("kept");
        }
        archive.take(Origin::Import, syntax(), None, needed.clone().into()).await.expect("kept");
        let has = |object: &[u8]| {
            archive.pixels().contains(&ObjectHash::blake3(*blake3::hash(object).as_bytes())).expect("the packs")
        };
        let (items, count) = quarantine::selected(&**archive.engine(), &Selection::All, 10).expect("a list");
        assert_eq!(count, 2);
        let ground = Ground::new("operator-1", "a test").expect("a ground");
        archive.decide(&items, Action::Discard, &ground, |_, became| assert!(became.is_ok())).expect("a disk");
        assert!(has(&gone) && has(&needed), "a decision deletes nothing yet");
        let forgetting = archive.clone();
        tokio::task::spawn_blocking(move || forgetting.forget_discarded()).await.expect("it ends").expect("forgotten");
        assert!(!has(&gone) && has(&needed));
        // It may come again.
        archive.take(stranger, syntax(), None, gone.clone().into()).await.expect("kept");
        let forgetting = archive.clone();
        tokio::task::spawn_blocking(move || forgetting.forget_discarded()).await.expect("it ends").expect("forgotten");
        assert!(has(&gone));
        assert_eq!(quarantine::selected(&**archive.engine(), &Selection::All, 10).expect("a list").1, 1);
    }
}
