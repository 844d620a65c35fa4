//! Which records the catalogue above has taken in, so that a start scans only what it might have missed.
//!
//! A record is *settled* when its caller has submitted to the engine whatever it derives from it. The watermark of a
//! pack is the offset before which every record is settled; it is submitted after them, so a crash that keeps it
//! keeps them too. Records behind it are handed over again at the next start: callers see each at least once, and
//! tell repetitions by the receipt number.
//!
//! Bounded by the number of records that are durable and not settled, at some hundred bytes each.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::Batch;
use crate::pixels::index;
use crate::pixels::record::{Place, ReceiptId};

#[derive(Default)]
pub(crate) struct Settlement {
    open: BTreeMap<ReceiptId, Place>,
    packs: BTreeMap<u64, Progress>,
    /// Packs whose watermark moved since it was last written.
    moved: BTreeSet<u64>,
}

#[derive(Default)]
struct Progress {
    /// Offsets of records that are not settled.
    open: BTreeSet<u64>,
    /// End of the last record that was written.
    end: u64,
}

impl Settlement {
    /// A record was written at `place` and ends before `end`.
    pub(crate) fn written(&mut self, receipt: ReceiptId, place: Place, end: u64) {
        let progress = self.packs.entry(place.pack).or_default();
        progress.open.insert(place.offset);
        progress.end = progress.end.max(end);
        self.open.insert(receipt, place);
    }

    /// Everything before `end` is settled although no record was handed out: an empty pack, a damaged range.
    pub(crate) fn passed(&mut self, pack: u64, end: u64) {
        let progress = self.packs.entry(pack).or_default();
        progress.end = progress.end.max(end);
        self.moved.insert(pack);
    }

    /// The catalogue has submitted what it derives from this record. Unknown numbers are settled already.
    pub(crate) fn settle(&mut self, receipt: ReceiptId) {
        let Some(place) = self.open.remove(&receipt) else { return };
        if let Some(progress) = self.packs.get_mut(&place.pack) {
            progress.open.remove(&place.offset);
        }
        self.moved.insert(place.pack);
    }

    /// Adds to `batch` the watermarks that moved.
    pub(crate) fn put_watermarks(&mut self, batch: &mut Batch) {
        for pack in std::mem::take(&mut self.moved) {
            let Some(progress) = self.packs.get(&pack) else { continue };
            index::put_watermark(batch, pack, progress.open.first().copied().unwrap_or(progress.end));
            if progress.open.is_empty() {
                self.packs.remove(&pack);
            }
        }
    }

    /// True when no record of `pack` is open.
    pub(crate) fn is_settled(&self, pack: u64) -> bool {
        self.packs.get(&pack).is_none_or(|progress| progress.open.is_empty())
    }

    /// The pack is gone.
    pub(crate) fn drop_pack(&mut self, pack: u64) {
        self.packs.remove(&pack);
        self.moved.remove(&pack);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Engine;
    use crate::memory::MemoryEngine;

    #[test]
    fn the_watermark_stops_at_the_first_open_record() {
        let engine = MemoryEngine::open(&[index::OBJECTS]).unwrap();
        let mut settlement = Settlement::default();
        for number in 0..3 {
            let place = Place { pack: 1, offset: 32 + number * 100 };
            settlement.written(ReceiptId(number), place, 132 + number * 100);
        }
        // Settled in this order, and the watermark after each.
        for (receipt, expected) in [(1, 32), (0, 232), (7, 232), (2, 332)] {
            settlement.settle(ReceiptId(receipt));
            let mut batch = Batch::new();
            settlement.put_watermarks(&mut batch);
            engine.submit(batch).unwrap();
            assert_eq!(index::watermark(&engine, 1).unwrap(), expected, "after {receipt}");
        }
        assert!(settlement.is_settled(1));
    }
}
