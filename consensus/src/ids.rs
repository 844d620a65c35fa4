//! The words of the ledger: hashes, node and site identities, streams, indices, epochs, times.
//!
//! All are checked newtypes. Every hash carries the identifier of its algorithm (DESIGN section 4), so that the
//! national suite (SM3) can enter without a change of format. Numbers given to algorithms and lanes are frozen:
//! they stand in signed bytes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::Digest;

/// The algorithm of a [`struct@Hash`]. The numbers are part of the wire format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum HashAlgorithm {
    /// FIPS 180-4; the Merkle log (RFC 6962) uses it.
    Sha256,
    /// Content addresses, batch chain, state digest.
    Blake3,
}

impl From<HashAlgorithm> for u8 {
    fn from(value: HashAlgorithm) -> u8 {
        match value {
            HashAlgorithm::Sha256 => 1,
            HashAlgorithm::Blake3 => 2,
        }
    }
}

impl TryFrom<u8> for HashAlgorithm {
    type Error = IdError;
    fn try_from(value: u8) -> Result<Self, IdError> {
        match value {
            1 => Ok(HashAlgorithm::Sha256),
            2 => Ok(HashAlgorithm::Blake3),
            other => Err(IdError::UnknownAlgorithm(other)),
        }
    }
}

/// Why a text or number is not the identifier that it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("hash algorithm {0} is not known to this version; upgrade the node")]
    UnknownAlgorithm(u8),
    #[error("lane {0} is not known to this version; upgrade the node")]
    UnknownLane(u8),
    #[error("expected {expected}, got {got:?}")]
    Malformed { expected: &'static str, got: String },
}

/// 32 bytes of digest with the algorithm that made them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Hash {
    algorithm: HashAlgorithm,
    bytes: [u8; 32],
}

impl Hash {
    pub fn sha256(parts: &[&[u8]]) -> Self {
        let mut hasher = sha2::Sha256::new();
        parts.iter().for_each(|part| hasher.update(part));
        Self { algorithm: HashAlgorithm::Sha256, bytes: hasher.finalize().into() }
    }

    pub fn blake3(parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new();
        parts.iter().for_each(|part| {
            hasher.update(part);
        });
        Self { algorithm: HashAlgorithm::Blake3, bytes: *hasher.finalize().as_bytes() }
    }

    /// A digest made elsewhere, with the algorithm that made it.
    pub const fn from_parts(algorithm: HashAlgorithm, bytes: [u8; 32]) -> Self {
        Self { algorithm, bytes }
    }

    pub const fn algorithm(&self) -> HashAlgorithm {
        self.algorithm
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.bytes
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.algorithm {
            HashAlgorithm::Sha256 => "sha256",
            HashAlgorithm::Blake3 => "blake3",
        };
        write!(f, "{name}:{}", data_encoding::HEXLOWER.encode(&self.bytes))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hash {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let malformed = || IdError::Malformed { expected: "algorithm:64 hexadecimal digits", got: text.into() };
        let (name, digits) = text.split_once(':').ok_or_else(malformed)?;
        let algorithm = match name {
            "sha256" => HashAlgorithm::Sha256,
            "blake3" => HashAlgorithm::Blake3,
            _ => return Err(malformed()),
        };
        let bytes = data_encoding::HEXLOWER.decode(digits.as_bytes()).map_err(|_| malformed())?;
        Ok(Self { algorithm, bytes: bytes.try_into().map_err(|_| malformed())? })
    }
}

/// A running program: the BLAKE3 hash of its join command. Never changes, though its keys may.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(Hash);

impl NodeId {
    pub const fn new(hash_of_join_command: Hash) -> Self {
        Self(hash_of_join_command)
    }

    pub const fn hash(&self) -> &Hash {
        &self.0
    }

    /// The first eight hexadecimal digits, for people.
    pub fn short(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.0.bytes[..4])
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.short())
    }
}

/// A hospital, township centre or regulator's office as a legal body: 2 to 32 of `a-z 0-9 -`, no hyphen at an end.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SiteId(String);

impl SiteId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for SiteId {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let ends = !text.starts_with('-') && !text.ends_with('-');
        if (2..=32).contains(&text.len()) && ends && text.bytes().all(allowed) {
            Ok(Self(text))
        } else {
            Err(IdError::Malformed { expected: "a site of 2 to 32 characters a-z, 0-9, -, no - at an end", got: text })
        }
    }
}

impl FromStr for SiteId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::try_from(text.to_owned())
    }
}

impl From<SiteId> for String {
    fn from(site: SiteId) -> String {
        site.0
    }
}

impl fmt::Display for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "site {}", self.0)
    }
}

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// Whole seconds, rounded down, as cosignatures carry them.
    pub const fn seconds(self) -> u64 {
        self.0 / 1000
    }

    pub const fn from_seconds(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// Milliseconds from `earlier` to here; zero when `earlier` is later.
    pub const fn since(self, earlier: UnixMillis) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

/// Urgent: revocations, break-glass notices, critical findings. Bulk: all else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum Lane {
    Urgent,
    Bulk,
}

impl Lane {
    pub const ALL: [Lane; 2] = [Lane::Urgent, Lane::Bulk];
}

impl From<Lane> for u8 {
    fn from(lane: Lane) -> u8 {
        match lane {
            Lane::Urgent => 1,
            Lane::Bulk => 2,
        }
    }
}

impl TryFrom<u8> for Lane {
    type Error = IdError;
    fn try_from(value: u8) -> Result<Self, IdError> {
        match value {
            1 => Ok(Lane::Urgent),
            2 => Ok(Lane::Bulk),
            other => Err(IdError::UnknownLane(other)),
        }
    }
}

/// Grows when an origin was restored from a backup or finds the ledger ahead of its outbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation(pub u32);

/// One of an origin's ordered, gapless sequences of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stream {
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub lane: Lane,
}

/// Position in a stream, from 0, without gaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Sequence(pub u64);

impl Sequence {
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Position of an entry in the ledger, from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LedgerIndex(pub u64);

/// Number of entries of a ledger; the index that the next entry will get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LedgerSize(pub u64);

impl LedgerSize {
    pub const fn contains(self, index: LedgerIndex) -> bool {
        index.0 < self.0
    }
}

/// Counts the ledger's cores: each recovery and each change of the core's membership raises it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u32);

/// The BLAKE3 hash of the federation's genesis. Part of every signed context, so that nothing signed for one
/// federation can be replayed in another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FederationId(Hash);

impl FederationId {
    pub const fn new(hash_of_genesis: Hash) -> Self {
        Self(hash_of_genesis)
    }

    pub const fn hash(&self) -> &Hash {
        &self.0
    }

    pub fn short(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.0.bytes[..8])
    }
}

impl fmt::Display for FederationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for FederationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "federation {}", self.short())
    }
}
