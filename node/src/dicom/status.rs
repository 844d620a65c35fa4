//! The one table from what became of an object to what its sender is told.
//!
//! DIMSE statuses are those of the storage service class (PS3.4 table B.2-1) and of DIMSE itself (PS3.7 annex C).
//! What was kept aside (quarantined, variants) is success to the sender: it holds nothing that we don't, and a
//! failure would jam its queue for good. What came cut off or broken is kept aside too, with a warning: the sender may
//! hold a whole one.

/// Outcomes without their details.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Success,
    Stored,
    Quarantined,
    Variant,
    Damaged,
    OutOfResources,
    NotUnderstood,
    Mismatch,
    NotAuthorised,
    /// An object came where none was agreed on.
    ClassNotSupported,
    UnknownOperation,
    Failed,
}

impl Outcome {
    pub fn dimse(self) -> u16 {
        match self {
            Self::Success | Self::Stored | Self::Quarantined | Self::Variant => 0x0000,
            // Data Set does not match SOP Class: stored, with a warning.
            Self::Damaged => 0xB007,
            Self::OutOfResources => 0xA700,
            Self::NotUnderstood => 0xC000,
            Self::Mismatch => 0xA900,
            Self::NotAuthorised => 0x0124,
            Self::ClassNotSupported => 0x0122,
            Self::UnknownOperation => 0x0211,
            Self::Failed => 0x0110,
        }
    }
}
