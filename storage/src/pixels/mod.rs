//! The pixel store: content-addressed, append-only, encrypted at rest. Knows no medicine: an object is bytes, and the
//! envelope that comes with it (the gateway's facts of receipt) is bytes too.
//!
//! ```text
//! <store>/KEY                     whether the site key is the right one (holds no key)
//! <store>/LOCK                    held by the running process
//! <store>/packs/0000000001.pack   records, appended; a large object has a pack of its own
//! <store>/incoming/               large objects being written; emptied at start
//! <store>/partial/<hash>/         objects being received in groups: plan, body, progress; survive a kill
//! ```
//!
//! Promises:
//! 1. Success means durable: one fdatasync of the pack, which many callers share. The index in the engine is a cache.
//! 2. A pack explains itself: from packs and site key alone, index and catalogue are made again. So each receipt of
//!    an object is a record of its own, also when the content was here before.
//! 3. Nothing that may be a record is destroyed by a start, and a damaged record hides no other.
//! 4. Neither content nor envelopes stand in clear in any file; a wrong key is told from damage.
//! 5. The disk is never filled: new objects are refused at a watermark, and a full disk leaves no harm.
//!
//! Hashes and lengths of objects do stand in clear: who steals a disk can confirm that it holds an object that he has.

mod appender;
mod core;
mod damages;
mod error;
mod hash;
mod index;
mod keyfile;
mod large;
mod pack;
mod partial;
mod read;
mod reclaim;
mod record;
mod recovery;
mod scrub;
mod seal;
mod settlement;
mod store;
mod walk;

pub use appender::{Completion, Receipt};
pub use error::{Damage, DamageKind, StoreError};
pub use hash::{
    GROUP_BYTES, HashAlgorithm, OBJECT_BYTES_MAX, ObjectHash, ParseHashError, group_bytes, group_count, group_hash,
    verify_groups,
};
pub use index::OBJECTS;
pub use large::LargeWriter;
pub use partial::{Partial, PartialInfo};
pub use read::{ObjectReader, READ_BYTES_MAX};
pub use reclaim::{Pace, PackUsage};
pub use record::{Place, ReceiptId, RecordKind};
pub use recovery::{OnRecovered, Recovered, RecoveryReport};
pub use scrub::{ScrubCursor, ScrubReport};
pub use seal::SiteKey;
pub use store::{ENVELOPE_BYTES_MAX, PixelStore, SMALL_OBJECT_BYTES_MAX, StoreOptions, StoreStats};

#[cfg(test)]
mod tests;
