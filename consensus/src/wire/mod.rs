//! What is signed, hashed and kept: one module per version of the formats, frozen once released.
//!
//! The encoding is postcard, strictly canonical: [`decode`] accepts exactly the bytes that [`encode`] would have
//! written for the value, so one value has one encoding and one hash. Lengths are bounded before anything is
//! allocated, those of sequences of small items too ([`bounded`]): reading what a peer sent takes a small multiple of
//! its bytes, which `federation/tests/hostile_bytes.rs` measures. Golden bytes hold the formats still: checkpoints and
//! Raft's in `consensus/tests/golden`, joins, entries, ids and the state in `federation/tests/golden/ledger_v1.txt`.

pub mod bounded;
pub mod v1;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why bytes are not a value of the format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("{what}: {got} bytes, at most {limit} are accepted")]
    TooLong { what: &'static str, got: usize, limit: usize },
    #[error("{what}: the bytes are not of this format")]
    Malformed { what: &'static str },
    #[error("{what}: the bytes are not in canonical form")]
    NotCanonical { what: &'static str },
    #[error("{what}: format version {got} is not known to this node; upgrade it")]
    UnknownVersion { what: &'static str, got: u8 },
    #[error("{what}: {why}")]
    Invalid { what: &'static str, why: &'static str },
}

/// The canonical bytes of `value`.
///
/// # Panics
/// Never for the types of this crate: postcard fails only on types whose length is unknown beforehand.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("types of the wire formats have known lengths")
}

/// Reads a value from exactly `bytes`, at most `limit` of them, in canonical form only.
pub fn decode<T: Serialize + DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
    limit: usize,
) -> Result<T, DecodeError> {
    if bytes.len() > limit {
        return Err(DecodeError::TooLong { what, got: bytes.len(), limit });
    }
    let value: T = postcard::from_bytes(bytes).map_err(|_| DecodeError::Malformed { what })?;
    if encode(&value) != bytes {
        return Err(DecodeError::NotCanonical { what });
    }
    Ok(value)
}
