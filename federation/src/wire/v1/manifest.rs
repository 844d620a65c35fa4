//! The holder's list of an examination's objects. The ledger commits to it by a salted hash in the sealed record, so
//! that what arrives can be checked against what was registered (P8), and nothing can be guessed from the ledger.
//!
//! Objects stand in canonical order (series, then SOP instance), so one examination has one manifest.

use std::fmt;

use serde::{Deserialize, Serialize};
use tessera_consensus::wire::bounded::at_most;
use tessera_consensus::{Hash, SiteId, UnixMillis};
use tessera_policy::Uid;

use super::{algorithms, check_version};
use crate::ids::RecordId;
use crate::wire::{DecodeError, Format};

/// Objects of one examination.
pub const MANIFEST_OBJECTS_MAX: usize = 65_536;

algorithms! {
    /// How sure a holder is of its objects.
    pub enum ObjectStatus ("object status") {
        /// This node held and hashed the bytes.
        Verified = 1,
        /// An attached PACS holds them; counts and UIDs are its word until they are first read.
        Declared = 2,
    }
}

/// What is known of an object's bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ObjectContent {
    /// The whole file as it is sent: `hash` is BLAKE3, so any range of it can be checked alone (bao).
    Verified {
        transfer_syntax: Uid,
        bytes: u64,
        hash: Hash,
    },
    Declared,
}

impl ObjectContent {
    pub const fn status(&self) -> ObjectStatus {
        match self {
            Self::Verified { .. } => ObjectStatus::Verified,
            Self::Declared => ObjectStatus::Declared,
        }
    }
}

/// One object.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestObject {
    pub series_uid: Uid,
    pub sop_class: Uid,
    pub sop_instance: Uid,
    pub content: ObjectContent,
}

/// All objects of one version of an examination.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub version: u8,
    pub site: SiteId,
    pub study_uid: Uid,
    pub record: RecordId,
    pub revision: u32,
    /// By the holder's clock.
    pub created: UnixMillis,
    #[serde(deserialize_with = "at_most::<_, _, MANIFEST_OBJECTS_MAX>")]
    pub objects: Vec<ManifestObject>,
}

impl Manifest {
    /// Brings the objects into canonical order.
    pub fn sorted(mut self) -> Self {
        self.objects.sort_by(|a, b| (&a.series_uid, &a.sop_instance).cmp(&(&b.series_uid, &b.sop_instance)));
        self
    }

    /// What the sealed study record says of this manifest. The salt keeps the commitment from being guessed.
    pub fn commitment(&self, salt: &[u8; 16]) -> Hash {
        Self::commitment_of(&self.to_bytes(), salt)
    }

    /// The same for a manifest's canonical bytes.
    pub fn commitment_of(bytes: &[u8], salt: &[u8; 16]) -> Hash {
        Hash::blake3(&[b"tessera/v1/manifest\0", salt, bytes])
    }

    /// *Verified* only when every object is.
    pub fn status(&self) -> ObjectStatus {
        let verified = self.objects.iter().all(|object| object.content.status() == ObjectStatus::Verified);
        if verified { ObjectStatus::Verified } else { ObjectStatus::Declared }
    }

    /// Bytes of all verified objects.
    pub fn bytes(&self) -> u64 {
        let bytes = |object: &ManifestObject| match object.content {
            ObjectContent::Verified { bytes, .. } => bytes,
            ObjectContent::Declared => 0,
        };
        self.objects.iter().map(bytes).fold(0, u64::saturating_add)
    }

    /// Number of series.
    pub fn series(&self) -> usize {
        self.objects.chunk_by(|a, b| a.series_uid == b.series_uid).count()
    }
}

impl Format for Manifest {
    const WHAT: &'static str = "manifest";
    const BYTES_MAX: usize = 24 * 1024 * 1024;

    fn validate(&self) -> Result<(), DecodeError> {
        check_version(Self::WHAT, self.version)?;
        if self.revision == 0 {
            return Self::invalid("revisions count from 1");
        }
        if self.objects.is_empty() || self.objects.len() > MANIFEST_OBJECTS_MAX {
            return Self::invalid("a manifest has 1 to 65536 objects");
        }
        let place = |object: &ManifestObject| (object.series_uid.clone(), object.sop_instance.clone());
        if !self.objects.is_sorted_by(|a, b| place(a) < place(b)) {
            return Self::invalid("objects stand in the order of series and SOP instance, none twice");
        }
        Ok(())
    }
}

impl fmt::Debug for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { record, revision, site, objects, .. } = self;
        write!(f, "Manifest({record} revision {revision}, {site}, {} objects)", objects.len())
    }
}

impl fmt::Debug for ManifestObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ManifestObject({:?})", self.content.status())
    }
}
