//! What keeps an honest signer honest across crashes: the record that is on disk before a cosignature leaves.
//!
//! One record per signer holds the last checkpoint that it signed, or was about to sign, and the time. A signer that
//! crashes between record and signature loses a signature, never its word. The record is kept with the checkpoint
//! key and, like it, out of backups: an old record is worse than none (DESIGN section 5).
//!
//! Invariant: in the order of its records, a signer's epochs never go back; within an epoch its sizes and times never
//! go back; one size has one root and digest. The proof of the dates of certificates rests on this
//! (`checkpoint/certificate.rs`).

use serde::{Deserialize, Serialize};

use super::{Certificate, Checkpoint};
use crate::ids::{Epoch, LedgerSize};
use crate::wire::{DecodeError, decode, encode};

/// One guard record.
pub const GUARD_BYTES_MAX: usize = 512;
/// Stands first in the record.
const GUARD_VERSION: u8 = 1;

/// The guard record of one signer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SigningGuard {
    last: Option<(Checkpoint, u64)>,
}

#[derive(Serialize, Deserialize)]
struct GuardRecord {
    version: u8,
    last: Option<(Checkpoint, u64)>,
}

/// Why a signer must not sign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum GuardRefusal {
    #[error("the checkpoint is of another federation than those signed before")]
    Federation,
    #[error("epoch {} is over: epoch {} was signed", asked.0, signed.0)]
    Epoch { signed: Epoch, asked: Epoch },
    #[error("size {} was signed, {} is smaller", signed.0, asked.0)]
    Shrinks { signed: LedgerSize, asked: LedgerSize },
    #[error("size {} was signed with another root or digest", .0.0)]
    OtherHistory(LedgerSize),
    #[error("this size was signed at {signed} s, not before {asked} s")]
    Time { signed: u64, asked: u64 },
}

impl SigningGuard {
    /// The record of a signer that never signed. Only for a key that was just made.
    pub const fn new() -> Self {
        Self { last: None }
    }

    /// What was signed last, or was about to be, and when (seconds).
    pub const fn last(&self) -> Option<&(Checkpoint, u64)> {
        self.last.as_ref()
    }

    /// Whether the signer may sign `checkpoint` with this time: the epoch must not be older; the size must grow and
    /// the time not go back, or all be equal and the time advance. Returns the record that must be on disk first.
    ///
    /// A newer epoch may repeat the content of the size signed last: at a change of the core both cores certify it.
    pub fn may_sign(&self, checkpoint: &Checkpoint, time_seconds: u64) -> Result<SigningGuard, GuardRefusal> {
        if let Some((signed, signed_at)) = &self.last {
            let time_refusal = GuardRefusal::Time { signed: *signed_at, asked: time_seconds };
            if checkpoint.federation != signed.federation {
                return Err(GuardRefusal::Federation);
            }
            if checkpoint.epoch < signed.epoch {
                return Err(GuardRefusal::Epoch { signed: signed.epoch, asked: checkpoint.epoch });
            }
            if checkpoint.size < signed.size {
                return Err(GuardRefusal::Shrinks { signed: signed.size, asked: checkpoint.size });
            }
            if checkpoint.size == signed.size && !checkpoint.same_history(signed) {
                return Err(GuardRefusal::OtherHistory(signed.size));
            }
            if time_seconds < *signed_at || (checkpoint.size == signed.size && time_seconds == *signed_at) {
                return Err(time_refusal);
            }
        }
        Ok(Self { last: Some((*checkpoint, time_seconds)) })
    }

    /// The record with which a signer enters a new epoch that starts again from `base`: the one way for the size to
    /// go back. For recovery, by signed decision of the core's operators; from then on no older epoch is signed.
    pub fn begin_epoch(&self, base: &Certificate, epoch: Epoch) -> Result<SigningGuard, GuardRefusal> {
        let checkpoint = Checkpoint { epoch, ..*base.checkpoint() };
        let mut time_seconds = base.time().seconds();
        if let Some((signed, signed_at)) = &self.last {
            if checkpoint.federation != signed.federation {
                return Err(GuardRefusal::Federation);
            }
            if epoch <= signed.epoch {
                return Err(GuardRefusal::Epoch { signed: signed.epoch, asked: epoch });
            }
            time_seconds = time_seconds.max(*signed_at);
        }
        Ok(Self { last: Some((checkpoint, time_seconds)) })
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        encode(&GuardRecord { version: GUARD_VERSION, last: self.last })
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let record: GuardRecord = decode("signing guard", bytes, GUARD_BYTES_MAX)?;
        if record.version != GUARD_VERSION {
            return Err(DecodeError::UnknownVersion { what: "signing guard", got: record.version });
        }
        Ok(Self { last: record.last })
    }
}
