//! Keys and signatures, each with the identifier of its algorithm and for one use only.
//!
//! A node holds four signing or agreement keys: *command* (signs what it writes to the ledger), *checkpoint*
//! (cosigns the ledger), *transport* (libp2p and TLS identity) and *sealing* (receives what is sealed to it). The
//! signed bytes always begin with a context that names the use and the federation, so that a signature made for
//! one purpose is worthless for another. Ed25519 is RFC 8032, verified strictly (no small-order keys, no
//! malleable signatures); X25519 is RFC 7748.

use std::fmt;

use ed25519_dalek::Signer;
use serde::{Deserialize, Serialize};

use crate::ids::FederationId;

/// The algorithm of a key or signature. The numbers are part of the wire format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum KeyAlgorithm {
    Ed25519,
    X25519,
}

impl From<KeyAlgorithm> for u8 {
    fn from(value: KeyAlgorithm) -> u8 {
        match value {
            KeyAlgorithm::Ed25519 => 1,
            KeyAlgorithm::X25519 => 2,
        }
    }
}

impl TryFrom<u8> for KeyAlgorithm {
    type Error = KeyError;
    fn try_from(value: u8) -> Result<Self, KeyError> {
        match value {
            1 => Ok(KeyAlgorithm::Ed25519),
            2 => Ok(KeyAlgorithm::X25519),
            other => Err(KeyError::UnknownAlgorithm(other)),
        }
    }
}

/// Why a key or signature was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("key algorithm {0} is not known to this version; upgrade the node")]
    UnknownAlgorithm(u8),
    #[error("the key is not a valid public key")]
    Malformed,
    #[error("a signature has 64 bytes, this one {0}")]
    SignatureLength(usize),
    #[error("the signature does not belong to these bytes and this key")]
    BadSignature,
}

/// A public key, 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PublicKey {
    algorithm: KeyAlgorithm,
    bytes: [u8; 32],
}

impl PublicKey {
    pub const fn from_parts(algorithm: KeyAlgorithm, bytes: [u8; 32]) -> Self {
        Self { algorithm, bytes }
    }

    pub const fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// Verifies `signature` over `context` and `message`.
    pub fn verify(&self, context: &Context, message: &[u8], signature: &Signature) -> Result<(), KeyError> {
        self.verify_raw(&context.prefix(message), signature)
    }

    /// Verifies a signature over exactly `bytes`; for formats that bring their own context (C2SP cosignatures).
    pub fn verify_raw(&self, bytes: &[u8], signature: &Signature) -> Result<(), KeyError> {
        if self.algorithm != KeyAlgorithm::Ed25519 || signature.algorithm != KeyAlgorithm::Ed25519 {
            return Err(KeyError::BadSignature);
        }
        let key = ed25519_dalek::VerifyingKey::from_bytes(&self.bytes).map_err(|_| KeyError::Malformed)?;
        let signature = ed25519_dalek::Signature::from_bytes(&signature.bytes);
        key.verify_strict(bytes, &signature).map_err(|_| KeyError::BadSignature)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}:{}", self.algorithm, data_encoding::HEXLOWER.encode(&self.bytes[..4]))
    }
}

/// A signature, 64 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "SignatureWire", into = "SignatureWire")]
pub struct Signature {
    algorithm: KeyAlgorithm,
    bytes: [u8; 64],
}

impl Signature {
    pub const fn from_parts(algorithm: KeyAlgorithm, bytes: [u8; 64]) -> Self {
        Self { algorithm, bytes }
    }

    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.bytes
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "signature {}", data_encoding::HEXLOWER.encode(&self.bytes[..4]))
    }
}

/// serde has no arrays of 64; on the wire a signature is its algorithm and a counted byte string.
#[derive(Serialize, Deserialize)]
struct SignatureWire {
    algorithm: KeyAlgorithm,
    #[serde(with = "serde_bytes")]
    bytes: Vec<u8>,
}

impl From<Signature> for SignatureWire {
    fn from(signature: Signature) -> Self {
        Self { algorithm: signature.algorithm, bytes: signature.bytes.to_vec() }
    }
}

impl TryFrom<SignatureWire> for Signature {
    type Error = KeyError;
    fn try_from(wire: SignatureWire) -> Result<Self, KeyError> {
        let length = wire.bytes.len();
        let bytes = wire.bytes.try_into().map_err(|_| KeyError::SignatureLength(length))?;
        Ok(Self { algorithm: wire.algorithm, bytes })
    }
}

/// What a signature is for. Its text stands before the signed bytes.
#[derive(Clone, Copy, Debug)]
pub enum Context {
    /// A node's own join command, signed with each of its signing keys (proof of possession).
    Join,
    /// A command for this federation's ledger.
    Command(FederationId),
    /// A request to another site's node (retrieval, blind evaluation, submission), by the command key.
    Request(FederationId),
    /// A receipt for what another site sent.
    Receipt(FederationId),
    /// The approval of a membership change.
    Approval(FederationId),
}

impl Context {
    fn prefix(&self, message: &[u8]) -> Vec<u8> {
        let (name, federation): (&[u8], _) = match self {
            Context::Join => (b"tessera/v1/join\0", None),
            Context::Command(id) => (b"tessera/v1/command\0", Some(id)),
            Context::Request(id) => (b"tessera/v1/request\0", Some(id)),
            Context::Receipt(id) => (b"tessera/v1/receipt\0", Some(id)),
            Context::Approval(id) => (b"tessera/v1/approval\0", Some(id)),
        };
        let mut bytes = name.to_vec();
        if let Some(id) = federation {
            bytes.push(id.hash().algorithm().into());
            bytes.extend_from_slice(id.hash().as_bytes());
        }
        bytes.extend_from_slice(message);
        bytes
    }
}

/// A secret signing key. Zeroed on drop, never printed.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// From 32 bytes of a source of randomness or of the node's key file.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(&seed))
    }

    pub fn seed(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    pub fn public(&self) -> PublicKey {
        PublicKey::from_parts(KeyAlgorithm::Ed25519, self.0.verifying_key().to_bytes())
    }

    pub fn sign(&self, context: &Context, message: &[u8]) -> Signature {
        self.sign_raw(&context.prefix(message))
    }

    /// Signs exactly `bytes`; for formats that bring their own context (C2SP cosignatures).
    pub fn sign_raw(&self, bytes: &[u8]) -> Signature {
        Signature::from_parts(KeyAlgorithm::Ed25519, self.0.sign(bytes).to_bytes())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("signing key (secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Hash;

    #[test]
    fn a_signature_serves_one_context_one_federation_one_message_and_one_key() {
        let key = SigningKey::from_seed([7; 32]);
        let here = FederationId::new(Hash::blake3(&[b"here"]));
        let there = FederationId::new(Hash::blake3(&[b"there"]));
        let signature = key.sign(&Context::Command(here), b"message");
        let verify = |key: &SigningKey, context, message: &[u8]| key.public().verify(&context, message, &signature);
        assert_eq!(verify(&key, Context::Command(here), b"message"), Ok(()));
        assert_eq!(verify(&key, Context::Command(there), b"message"), Err(KeyError::BadSignature));
        assert_eq!(verify(&key, Context::Request(here), b"message"), Err(KeyError::BadSignature));
        assert_eq!(verify(&key, Context::Command(here), b"massage"), Err(KeyError::BadSignature));
        assert_eq!(
            verify(&SigningKey::from_seed([8; 32]), Context::Command(here), b"message"),
            Err(KeyError::BadSignature)
        );
    }
}
