//! Corrections and steps in an examination's life (DESIGN section 8). Originals never change; amendments overlay
//! them on every way out.
//!
//! An amendment says what kind of thing changed and where, not the new values: corrected demographics come from the
//! holder, after a decision, and a move does not name the other patient. Rejections carry the IHE IOCM codes 113001,
//! 113037, 113038 and 113039.

use std::fmt;

use serde::{Deserialize, Serialize};
use tessera_consensus::{Hash, SiteId, UnixMillis};
use tessera_policy::{AmendmentKind, NumberedError, RejectionReason, Uid};

use super::sealing::Tag;
use super::study::Presence;
use super::{VERSION, check_version};
use crate::ids::RecordId;
use crate::wire::{DecodeError, Format};

/// Objects or attributes that one amendment names; who means more rejects the whole and registers again.
pub const AMENDMENT_OBJECTS_MAX: usize = 256;
/// The number of [`AmendmentKind::Withdraw`], the one that the machine acts upon.
pub const WITHDRAW: u16 = AmendmentKind::Withdraw.number();

/// What every replica sees of an amendment. Its sealed body is one [`super::Sealed`] with [`AmendmentDetails`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AmendmentPublic {
    pub version: u8,
    /// The amendment's own place in its site's chain.
    pub tag: Tag,
    /// The newest version of the study record that it speaks of.
    pub of: Tag,
    /// Number of an [`AmendmentKind`].
    pub kind: u16,
    pub presence: Option<Presence>,
}

impl AmendmentPublic {
    pub fn kind(&self) -> Result<AmendmentKind, NumberedError> {
        AmendmentKind::try_from(self.kind)
    }
}

impl Format for AmendmentPublic {
    const WHAT: &'static str = "amendment";
    const BYTES_MAX: usize = 1024;

    fn validate(&self) -> Result<(), DecodeError> {
        check_version(Self::WHAT, self.version)?;
        self.presence.as_ref().map_or(Ok(()), |presence| presence.site.validate())
    }
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AmendmentChange {
    /// DICOM tags (group and element) of the attributes that the holder corrected, ascending.
    Demographics {
        attributes: Vec<u32>,
    },
    /// The examination is not this patient's.
    Move,
    /// These objects belong to another examination, which has its own record if it is this patient's.
    Split {
        objects: Vec<Uid>,
        into: Option<RecordId>,
    },
    /// The examination is one with that one.
    Merge {
        into: RecordId,
    },
    /// The objects must not be used.
    Reject {
        reason: RejectionReason,
        objects: RejectedObjects,
    },
    Withdraw,
    Release,
}

/// Which objects of an examination are rejected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RejectedObjects {
    All,
    /// SOP instance UIDs.
    Some(Vec<Uid>),
}

impl AmendmentChange {
    pub const fn kind(&self) -> AmendmentKind {
        match self {
            Self::Demographics { .. } => AmendmentKind::Demographics,
            Self::Move => AmendmentKind::Move,
            Self::Split { .. } => AmendmentKind::Split,
            Self::Merge { .. } => AmendmentKind::Merge,
            Self::Reject { reason, .. } => AmendmentKind::Reject(*reason),
            Self::Withdraw => AmendmentKind::Withdraw,
            Self::Release => AmendmentKind::Release,
        }
    }

    fn named(&self) -> usize {
        match self {
            Self::Demographics { attributes } => attributes.len(),
            Self::Split { objects, .. } | Self::Reject { objects: RejectedObjects::Some(objects), .. } => objects.len(),
            _ => 0,
        }
    }
}

/// What holders of the identifier key learn of an amendment.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AmendmentDetails {
    pub version: u8,
    pub record: RecordId,
    pub site: SiteId,
    /// By the holder's clock; the ledger has its own time.
    pub at: UnixMillis,
    pub change: AmendmentChange,
    /// Commitment of the manifest on which the amendment was made.
    pub manifest: Hash,
}

impl AmendmentDetails {
    pub fn new(record: RecordId, site: SiteId, at: UnixMillis, change: AmendmentChange, manifest: Hash) -> Self {
        Self { version: VERSION, record, site, at, change, manifest }
    }
}

impl Format for AmendmentDetails {
    const WHAT: &'static str = "amendment details";
    const BYTES_MAX: usize = 24 * 1024;

    fn validate(&self) -> Result<(), DecodeError> {
        check_version(Self::WHAT, self.version)?;
        if self.change.named() > AMENDMENT_OBJECTS_MAX {
            return Self::invalid("an amendment names at most 256 objects or attributes");
        }
        match &self.change {
            AmendmentChange::Demographics { attributes } if !attributes.is_sorted_by(|a, b| a < b) => {
                Self::invalid("attributes are sorted and none stands twice")
            }
            AmendmentChange::Reject { objects: RejectedObjects::Some(objects), .. }
            | AmendmentChange::Split { objects, .. }
                if objects.is_empty() || !objects.is_sorted_by(|a, b| a < b) =>
            {
                Self::invalid("objects are named, sorted and none stands twice")
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for AmendmentDetails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AmendmentDetails({}, {}, {}, …)", self.record, self.site, self.change.kind())
    }
}
