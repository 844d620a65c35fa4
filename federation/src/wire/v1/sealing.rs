//! How a record is found and how its body is closed: [`Tag`], [`Sealed`] (under an identifier key) and
//! [`HpkeSealed`] (to a node's sealing key, RFC 9180). Bytes and algorithm numbers only; the operations are in
//! [`crate::blind`].

use std::fmt;

use serde::{Deserialize, Serialize};
use tessera_consensus::keys::PublicKey;

use super::algorithms;
use crate::wire::{DecodeError, Format};

/// Ciphertext of one [`Sealed`].
pub const SEALED_BODY_BYTES_MAX: usize = 64 * 1024;
/// Ciphertext of one [`HpkeSealed`].
pub const HPKE_SEALED_BYTES_MAX: usize = 16 * 1024;

algorithms! {
    /// How a tag is derived.
    pub enum TagAlgorithm ("tag algorithm") {
        /// BLAKE3 keyed with the identifier key's tag key.
        KeyedBlake3 = 1,
    }
}

algorithms! {
    /// How a body is sealed under an identifier key.
    pub enum SealAlgorithm ("sealing algorithm") {
        /// Random nonce of 24 bytes; the associated data bind kind, part and tag.
        XChaCha20Poly1305 = 1,
    }
}

algorithms! {
    /// How a body is sealed to a node (RFC 9180, base mode).
    pub enum HpkeSuite ("HPKE suite") {
        /// DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305.
        X25519HkdfSha256ChaCha20Poly1305 = 1,
    }
}

/// By this a record is found by those who hold the identifier key; to all others it is random.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Tag {
    algorithm: TagAlgorithm,
    bytes: [u8; 32],
}

impl std::hash::Hash for TagAlgorithm {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        u8::from(*self).hash(state);
    }
}

impl Tag {
    pub const fn from_parts(algorithm: TagAlgorithm, bytes: [u8; 32]) -> Self {
        Self { algorithm, bytes }
    }

    pub const fn algorithm(&self) -> TagAlgorithm {
        self.algorithm
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// Algorithm and bytes, as they stand in the state's keys and in associated data.
    pub fn to_key(&self) -> [u8; 33] {
        let mut key = [0; 33];
        key[0] = self.algorithm.into();
        key[1..].copy_from_slice(&self.bytes);
        key
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tag ")?;
        self.bytes[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A body that only holders of the identifier key can read.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    pub algorithm: SealAlgorithm,
    pub nonce: [u8; 24],
    #[serde(with = "serde_bytes")]
    pub body: Vec<u8>,
}

impl Format for Sealed {
    const WHAT: &'static str = "sealed body";
    const BYTES_MAX: usize = SEALED_BODY_BYTES_MAX + 64;

    fn validate(&self) -> Result<(), DecodeError> {
        let (got, limit) = (self.body.len(), SEALED_BODY_BYTES_MAX);
        if got > limit { Err(DecodeError::TooLong { what: Self::WHAT, got, limit }) } else { Ok(()) }
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sealed body of {} bytes", self.body.len())
    }
}

/// A body that only the node with this sealing key can read.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HpkeSealed {
    pub suite: HpkeSuite,
    /// The key and not the node, because a node's keys can change.
    pub recipient: PublicKey,
    pub encapsulated: [u8; 32],
    #[serde(with = "serde_bytes")]
    pub body: Vec<u8>,
}

impl Format for HpkeSealed {
    const WHAT: &'static str = "body sealed to a node";
    const BYTES_MAX: usize = HPKE_SEALED_BYTES_MAX + 128;

    fn validate(&self) -> Result<(), DecodeError> {
        let (got, limit) = (self.body.len(), HPKE_SEALED_BYTES_MAX);
        if got > limit { Err(DecodeError::TooLong { what: Self::WHAT, got, limit }) } else { Ok(()) }
    }
}

impl fmt::Debug for HpkeSealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "body of {} bytes sealed to {:?}", self.body.len(), self.recipient)
    }
}
