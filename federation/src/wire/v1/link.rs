//! Links: two identifiers are one person's (DESIGN section 6). No key is wrapped or merged: each half lies under its
//! own identifier key and carries the *other identifier*, for which a reader must ask a key of its own.
//!
//! Unlinking is a state, not cryptography: who has followed the link knows what it knew.

use std::fmt;

use serde::{Deserialize, Serialize};
use tessera_consensus::{SiteId, UnixMillis};
use tessera_policy::{EvidenceClass, Identifier};

use super::check_version;
use super::sealing::{Sealed, Tag};
use super::study::Presence;
use crate::wire::{DecodeError, Format};

/// The place of a link under one of its two keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkHalf {
    pub tag: Tag,
    pub presence: Option<Presence>,
}

/// What every replica sees of a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkPublic {
    pub version: u8,
    pub halves: [LinkHalf; 2],
}

impl Format for LinkPublic {
    const WHAT: &'static str = "link";
    const BYTES_MAX: usize = 2 * 1024;

    fn validate(&self) -> Result<(), DecodeError> {
        check_version(Self::WHAT, self.version)?;
        self.halves.iter().filter_map(|half| half.presence.as_ref()).try_for_each(|presence| presence.site.validate())
    }
}

/// The body beside the log: [`LinkDetails`] under each of the two keys, in the order of the public halves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkSealed {
    pub version: u8,
    pub halves: [Sealed; 2],
}

impl Format for LinkSealed {
    const WHAT: &'static str = "sealed link";
    const BYTES_MAX: usize = 8 * 1024;

    fn validate(&self) -> Result<(), DecodeError> {
        check_version(Self::WHAT, self.version)?;
        self.halves.iter().try_for_each(Sealed::validate)
    }
}

/// What a holder of one key learns.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkDetails {
    pub version: u8,
    /// The identifier at the other end.
    pub other: Identifier,
    pub site: SiteId,
    /// On what the site relied.
    pub evidence: EvidenceClass,
    /// By the site's clock.
    pub recorded_at: UnixMillis,
}

impl Format for LinkDetails {
    const WHAT: &'static str = "link details";
    const BYTES_MAX: usize = 1024;

    fn validate(&self) -> Result<(), DecodeError> {
        check_version(Self::WHAT, self.version)
    }
}

impl fmt::Debug for LinkDetails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkDetails({:?}, {}, {})", self.other, self.site, self.evidence)
    }
}

/// The link with these two tags holds no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnlinkPublic {
    pub version: u8,
    /// In the order of the link's halves.
    pub link: [Tag; 2],
}

impl Format for UnlinkPublic {
    const WHAT: &'static str = "unlink";
    const BYTES_MAX: usize = 128;

    fn validate(&self) -> Result<(), DecodeError> {
        check_version(Self::WHAT, self.version)
    }
}
