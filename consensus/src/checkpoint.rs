//! Checkpoints: what the core signs about the ledger, and what makes a signature count (DESIGN section 5).
//!
//! A [`Checkpoint`] states size, Merkle root, state digest and core epoch of the ledger at a batch end. Its bytes are
//! the text of C2SP tlog-checkpoint; cosigned ([`Cosignature`], C2SP tlog-cosignature, `cosignature/v1`) it travels as
//! a C2SP signed note ([`SignedCheckpoint`]); enough cosignatures of one [`Core`] make a [`Certificate`], the only
//! type that is believed. [`SigningGuard`] is what a signer must have on disk before a signature leaves it, and
//! [`Evidence`] is what remains of a signer that did without. No IO, no clock.
//!
//! Invariants:
//! 1. One checkpoint has one text and one text one checkpoint; the parser accepts nothing else.
//! 2. A root is SHA-256; digest and federation are BLAKE3. The text says so where C2SP leaves room to (the digest).
//!
//! Two extension lines of our own follow the three that C2SP defines: `epoch <decimal>` and
//! `digest blake3:<base64>`. A reader that does not know a line refuses the text: in a cosignature over a checkpoint
//! every line counts.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, FederationId, Hash, HashAlgorithm, LedgerSize};
use crate::merkle::TREE_LEAVES_MAX;

mod certificate;
mod guard;
mod note;
#[cfg(test)]
mod tests;

pub use certificate::{
    CORE_MEMBERS_MAX, Certificate, CertificateError, Core, CoreError, CoreMember, Evidence, EvidenceError,
};
pub use guard::{GUARD_BYTES_MAX, GuardRefusal, SigningGuard};
pub use note::{
    COSIGNATURES_MAX, Cosignature, CosignatureError, KeyId, NOTE_BYTES_MAX, NoteError, SIGNER_NAME_BYTES_MAX,
    SignedCheckpoint, SignerName, cosign,
};

/// The text of one checkpoint; the longest has 214 bytes.
pub const BODY_BYTES_MAX: usize = 256;

const ORIGIN_PREFIX: &str = "tessera/";
const EPOCH_PREFIX: &str = "epoch ";
const DIGEST_PREFIX: &str = "digest blake3:";

/// The ledger at a batch end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Checkpoint {
    pub federation: FederationId,
    pub size: LedgerSize,
    /// Of the Merkle log's first `size` leaves: SHA-256.
    pub root: Hash,
    /// Of the state after those leaves: BLAKE3.
    pub digest: Hash,
    /// The core that answers for it.
    pub epoch: Epoch,
}

/// Why a text is not a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    #[error("the checkpoint has {0} bytes, at most 256 are accepted")]
    TooLong(usize),
    #[error("a checkpoint has five lines, each ended by a newline")]
    Lines,
    #[error("the first line must be tessera/ and the federation's 64 hexadecimal digits")]
    Origin,
    #[error("the second line must be the ledger's size in decimal, without leading zeros, at most 2^62")]
    Size,
    #[error("the third line must be the root hash, 32 bytes in base64")]
    Root,
    #[error("the fourth line must be \"epoch \" and the epoch in decimal, without leading zeros")]
    Epoch,
    #[error("the fifth line must be \"digest blake3:\" and the state digest, 32 bytes in base64")]
    Digest,
}

impl Checkpoint {
    /// The text that is signed.
    ///
    /// # Panics
    /// When a hash is of another algorithm than its field demands; parsing never makes such a value.
    pub fn to_body(&self) -> String {
        assert_eq!(self.federation.hash().algorithm(), HashAlgorithm::Blake3, "a federation is named by BLAKE3");
        assert_eq!(self.root.algorithm(), HashAlgorithm::Sha256, "a Merkle root is SHA-256");
        assert_eq!(self.digest.algorithm(), HashAlgorithm::Blake3, "a state digest is BLAKE3");
        format!(
            "{ORIGIN_PREFIX}{}\n{}\n{}\n{EPOCH_PREFIX}{}\n{DIGEST_PREFIX}{}\n",
            data_encoding::HEXLOWER.encode(self.federation.hash().as_bytes()),
            self.size.0,
            data_encoding::BASE64.encode(self.root.as_bytes()),
            self.epoch.0,
            data_encoding::BASE64.encode(self.digest.as_bytes()),
        )
    }

    /// Reads exactly one checkpoint's text.
    pub fn parse(body: &str) -> Result<Self, CheckpointError> {
        if body.len() > BODY_BYTES_MAX {
            return Err(CheckpointError::TooLong(body.len()));
        }
        let lines: Vec<&str> = body.split('\n').collect();
        let [origin, size, root, epoch, digest, ""] = lines[..] else { return Err(CheckpointError::Lines) };
        let digits = origin.strip_prefix(ORIGIN_PREFIX).ok_or(CheckpointError::Origin)?;
        let federation = data_encoding::HEXLOWER.decode(digits.as_bytes()).ok().and_then(|b| b.try_into().ok());
        let federation = Hash::from_parts(HashAlgorithm::Blake3, federation.ok_or(CheckpointError::Origin)?);
        let size: u64 = decimal(size).ok_or(CheckpointError::Size)?;
        if size > TREE_LEAVES_MAX {
            return Err(CheckpointError::Size);
        }
        Ok(Self {
            federation: FederationId::new(federation),
            size: LedgerSize(size),
            root: Hash::from_parts(HashAlgorithm::Sha256, base64_hash(root).ok_or(CheckpointError::Root)?),
            epoch: Epoch(epoch.strip_prefix(EPOCH_PREFIX).and_then(decimal).ok_or(CheckpointError::Epoch)?),
            digest: Hash::from_parts(
                HashAlgorithm::Blake3,
                digest.strip_prefix(DIGEST_PREFIX).and_then(base64_hash).ok_or(CheckpointError::Digest)?,
            ),
        })
    }

    /// Whether both state the same ledger content: all but the epoch.
    pub fn same_history(&self, other: &Self) -> bool {
        Self { epoch: other.epoch, ..*self } == *other
    }
}

impl From<Checkpoint> for String {
    fn from(checkpoint: Checkpoint) -> String {
        checkpoint.to_body()
    }
}

impl TryFrom<String> for Checkpoint {
    type Error = CheckpointError;
    fn try_from(body: String) -> Result<Self, CheckpointError> {
        Self::parse(&body)
    }
}

/// A number exactly as it would be written: no sign, no leading zeros.
fn decimal<N: FromStr + ToString>(text: &str) -> Option<N> {
    text.parse().ok().filter(|number: &N| number.to_string() == text)
}

/// Standard base64 with padding; `data_encoding` refuses non-zero trailing bits, so one hash has one text.
fn base64_hash(text: &str) -> Option<[u8; 32]> {
    data_encoding::BASE64.decode(text.as_bytes()).ok()?.try_into().ok()
}
