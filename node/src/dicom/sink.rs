//! The seam between receivers (C-STORE here, others by other doors) and the archive that keeps objects.
//!
//! A receiver hands over the data set byte for byte, with who sent it and what the sender said it is. The archive
//! answers when the object is durable (promise P1), or says why it isn't kept. Small objects come whole; large
//! ones in pieces, so that a receiver's memory stays bounded whatever a sender sends.

use std::net::IpAddr;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::identifiers::{AeTitle, Uid};
use super::status::Outcome;

/// Objects up to this size come whole, in bytes; larger ones in pieces.
pub const BUFFERED_BYTES_MAX: usize = 8 << 20;

/// Who sends. The address is that of the connection, the titles are the sender's word.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sender {
    pub calling_ae: AeTitle,
    pub called_ae: AeTitle,
    pub address: IpAddr,
}

/// What the sender says of an object. The data set itself has the last word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    pub sender: Sender,
    pub sop_class: Uid,
    pub sop_instance: Uid,
    pub transfer_syntax: Uid,
}

/// What became of an object. Reasons are sentences for the sender's log: no names, no patient numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreOutcome {
    /// Durable and filed, or already there with the same bytes.
    Stored,
    /// Durable, put aside: unknown sender, colliding identity.
    Quarantined,
    /// Durable, put aside beside another object of the same UID.
    Variant,
    /// Durable as it came, put aside: cut off or broken.
    Damaged { reason: String },
    /// The disk has reached its watermark, or a bound is full.
    OutOfResources { reason: String },
    /// No data set, or one that can't be filed.
    NotUnderstood { reason: String },
    /// The data set is not what the command announced.
    Mismatch { reason: String },
    /// The sender is not on the list, and such senders' room is full.
    NotAuthorised { reason: String },
    /// The archive failed; the sender should try again.
    Failed { reason: String },
}

impl StoreOutcome {
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Stored => Outcome::Stored,
            Self::Quarantined => Outcome::Quarantined,
            Self::Variant => Outcome::Variant,
            Self::Damaged { .. } => Outcome::Damaged,
            Self::OutOfResources { .. } => Outcome::OutOfResources,
            Self::NotUnderstood { .. } => Outcome::NotUnderstood,
            Self::Mismatch { .. } => Outcome::Mismatch,
            Self::NotAuthorised { .. } => Outcome::NotAuthorised,
            Self::Failed { .. } => Outcome::Failed,
        }
    }

    /// Why it was not kept, or what is wrong with it; empty on success.
    pub fn reason(&self) -> &str {
        match self {
            Self::Stored | Self::Quarantined | Self::Variant => "",
            Self::Damaged { reason }
            | Self::OutOfResources { reason }
            | Self::NotUnderstood { reason }
            | Self::Mismatch { reason }
            | Self::NotAuthorised { reason }
            | Self::Failed { reason } => reason,
        }
    }
}

/// Keeps objects.
pub trait StoreSink: Send + Sync + 'static {
    /// Takes a whole object of at most [`BUFFERED_BYTES_MAX`] bytes. Resolves when it is durable, or refused.
    fn store(&self, incoming: Incoming, data_set: Bytes) -> BoxFuture<'_, StoreOutcome>;

    /// Begins an object of more than [`BUFFERED_BYTES_MAX`] bytes.
    fn begin_large(&self, incoming: Incoming) -> Result<Box<dyn LargeObject>, StoreOutcome>;
}

/// A large object on its way in. Dropped before `finish`, it leaves nothing behind.
pub trait LargeObject: Send {
    /// Takes the next piece; resolves when there is room for another.
    fn write(&mut self, piece: Bytes) -> BoxFuture<'_, Result<(), StoreOutcome>>;

    /// Ends the object. Resolves when it is durable, or refused.
    fn finish(self: Box<Self>) -> BoxFuture<'static, StoreOutcome>;
}
