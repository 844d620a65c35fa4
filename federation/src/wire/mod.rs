//! What sites sign, hash and send to one another: one module per version of the formats, frozen once released.
//!
//! The encoding is the ledger's ([`tessera_consensus::wire`]): postcard in canonical form, one value one encoding.
//! Every format is a [`Format`]: its bytes are bounded before they are read, and its bounds and its version are
//! checked when they are. Golden bytes in `federation/tests/golden` hold the formats still.

pub mod v1;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tessera_consensus::wire::{decode, encode};

pub use tessera_consensus::wire::DecodeError;

/// A format with its name, its limit and its rules.
pub trait Format: Serialize + DeserializeOwned {
    /// The name in errors.
    const WHAT: &'static str;
    /// Bytes of one encoding.
    const BYTES_MAX: usize;

    /// Version, bounds, and what one part says of another.
    fn validate(&self) -> Result<(), DecodeError>;

    /// Reads exactly these bytes; whatever else they are is an error, never a panic.
    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let value: Self = decode(Self::WHAT, bytes, Self::BYTES_MAX)?;
        value.validate()?;
        Ok(value)
    }

    fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// An error of this format.
    fn invalid(why: &'static str) -> Result<(), DecodeError> {
        Err(DecodeError::Invalid { what: Self::WHAT, why })
    }
}
