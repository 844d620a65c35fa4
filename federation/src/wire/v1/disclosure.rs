//! One act of showing data across sites, and what follows from it: receipts, the emergency door, recognition,
//! recalls. Public parts carry random ids, parties, purpose and time, never a record's tag: who reads the ledger
//! sees that two sites exchanged something, not of whom.

use std::fmt;

use serde::{Deserialize, Serialize};
use tessera_consensus::{Hash, SiteId, UnixMillis};
use tessera_policy::{ConsentId, NumberedError, Purpose, Uid, UserAssertion, UserId};

use super::{algorithms, check_version};
use crate::ids::{BreakGlassId, DisclosureId, RecallId, RecognitionId, RecordId};
use crate::wire::{DecodeError, Format};

/// Consents, and rules, that one decision rests on.
const BASIS_MAX: usize = 32;
/// Bytes of a rule's name or of an encounter's number.
const NAME_BYTES_MAX: usize = 128;
/// Bytes of a free text: the reason for breaking the glass or for not recognising a result.
const REASON_BYTES_MAX: usize = 2 * 1024;

fn short(text: &str, bytes_max: usize) -> bool {
    !text.is_empty() && text.len() <= bytes_max
}

/// What every replica sees of a disclosure. Its sealed body, if any, is one [`super::Sealed`] with
/// [`DisclosureDetails`] under the identifier key, bound to the disclosure's id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DisclosurePublic {
    pub version: u8,
    /// [`DisclosureId::of`] the holder's node, so that nobody else can take the id first.
    pub disclosure: DisclosureId,
    /// Random.
    pub nonce: [u8; 16],
    pub holder: SiteId,
    pub requester: SiteId,
    /// Number of a [`Purpose`].
    pub purpose: u16,
    /// By the holder's trusted time.
    pub at: UnixMillis,
}

impl DisclosurePublic {
    pub fn purpose(&self) -> Result<Purpose, NumberedError> {
        Purpose::try_from(self.purpose)
    }
}

impl Format for DisclosurePublic {
    const WHAT: &'static str = "disclosure";
    const BYTES_MAX: usize = 256;

    fn validate(&self) -> Result<(), DecodeError> {
        check_version(Self::WHAT, self.version)?;
        if self.holder == self.requester {
            return Self::invalid("a disclosure is between two sites");
        }
        Ok(())
    }
}

/// On what the holder's decision rested.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DisclosureBasis {
    pub consents: Vec<ConsentId>,
    /// Names of the rules that permitted it.
    pub rules: Vec<String>,
    pub break_glass: Option<BreakGlassId>,
    /// The requester's number of the encounter, order or consultation.
    pub encounter: Option<String>,
}

/// What was shown, to whom, and why.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DisclosureDetails {
    pub version: u8,
    pub record: RecordId,
    pub revision: u32,
    pub study_uid: Uid,
    pub objects: u32,
    pub bytes: u64,
    pub user: UserAssertion,
    pub basis: DisclosureBasis,
}

impl Format for DisclosureDetails {
    const WHAT: &'static str = "disclosure details";
    const BYTES_MAX: usize = 8 * 1024;

    fn validate(&self) -> Result<(), DecodeError> {
        check_version(Self::WHAT, self.version)?;
        let basis = &self.basis;
        if basis.consents.len() > BASIS_MAX || basis.rules.len() > BASIS_MAX {
            return Self::invalid("a decision names at most 32 consents and 32 rules");
        }
        let names = basis.rules.iter().chain(&basis.encounter);
        if names.into_iter().any(|name| !short(name, NAME_BYTES_MAX)) {
            return Self::invalid("a rule's name and an encounter's number have 1 to 128 bytes");
        }
        Ok(())
    }
}

impl fmt::Debug for DisclosureDetails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DisclosureDetails({} revision {}, {} objects, …)", self.record, self.revision, self.objects)
    }
}

algorithms! {
    /// Which side of a disclosure speaks.
    pub enum ReceiptSide ("receipt side") {
        Holder = 1,
        Requester = 2,
    }
}

/// That one side of a disclosure has signed what was transferred. What it was stays with the two: figures and object hashes
/// in clear would tell everybody who knows a study who was shown it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptPublic {
    pub version: u8,
    pub disclosure: DisclosureId,
    pub side: ReceiptSide,
    /// [`crate::retrieve::wire::v1::SignedReceipt::commitment`].
    pub receipt: Hash,
}

impl Format for ReceiptPublic {
    const WHAT: &'static str = "receipt";
    const BYTES_MAX: usize = 128;

    fn validate(&self) -> Result<(), DecodeError> {
        check_version(Self::WHAT, self.version)
    }
}

/// What every replica sees of an emergency access. Its sealed body is one [`super::Sealed`] with
/// [`BreakGlassDetails`] under the identifier key, bound to the id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakGlassPublic {
    pub version: u8,
    pub break_glass: BreakGlassId,
    /// The site whose user opened the door, and whose node writes this.
    pub site: SiteId,
    pub holder: SiteId,
    /// When the door was opened, by that site's clock; the ledger may learn of it much later.
    pub at: UnixMillis,
}

impl Format for BreakGlassPublic {
    const WHAT: &'static str = "break-glass notice";
    const BYTES_MAX: usize = 256;

    fn validate(&self) -> Result<(), DecodeError> {
        check_version(Self::WHAT, self.version)
    }
}

/// Who opened the door and why.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakGlassDetails {
    pub version: u8,
    pub user: UserAssertion,
    /// The second person, where one confirmed it.
    pub second: Option<UserId>,
    /// 1 to 2,048 bytes.
    pub reason: String,
    pub records: Vec<RecordId>,
}

impl Format for BreakGlassDetails {
    const WHAT: &'static str = "break-glass details";
    const BYTES_MAX: usize = 8 * 1024;

    fn validate(&self) -> Result<(), DecodeError> {
        check_version(Self::WHAT, self.version)?;
        if !short(&self.reason, REASON_BYTES_MAX) || self.records.len() > BASIS_MAX {
            return Self::invalid("a reason of 1 to 2048 bytes and at most 32 records");
        }
        Ok(())
    }
}

impl fmt::Debug for BreakGlassDetails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BreakGlassDetails({} records, …)", self.records.len())
    }
}

/// What every replica sees of a recognition (互认). Its sealed body is one [`super::Sealed`] with
/// [`RecognitionDetails`] under the identifier key, bound to the id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecognitionPublic {
    pub version: u8,
    pub recognition: RecognitionId,
    /// The site that recognised or did not, and whose node writes this.
    pub site: SiteId,
    /// The site whose examination it was.
    pub holder: SiteId,
    pub accepted: bool,
    pub at: UnixMillis,
}

impl Format for RecognitionPublic {
    const WHAT: &'static str = "recognition";
    const BYTES_MAX: usize = 256;

    fn validate(&self) -> Result<(), DecodeError> {
        check_version(Self::WHAT, self.version)
    }
}

/// Which examination stood for which order, and why or why not.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecognitionDetails {
    pub version: u8,
    pub record: RecordId,
    /// Code of the item that had been ordered, 1 to 128 bytes.
    pub item: String,
    /// 1 to 2,048 bytes; a refusal needs one.
    pub reason: Option<String>,
}

impl Format for RecognitionDetails {
    const WHAT: &'static str = "recognition details";
    const BYTES_MAX: usize = 4 * 1024;

    fn validate(&self) -> Result<(), DecodeError> {
        check_version(Self::WHAT, self.version)?;
        let reason_ok = self.reason.as_ref().is_none_or(|reason| short(reason, REASON_BYTES_MAX));
        if !short(&self.item, NAME_BYTES_MAX) || !reason_ok {
            return Self::invalid("an item of 1 to 128 bytes and a reason of 1 to 2048");
        }
        Ok(())
    }
}

impl fmt::Debug for RecognitionDetails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecognitionDetails({}, …)", self.record)
    }
}

/// A site that had a disclosure took a recall into account. The recall itself travels from node to node under a
/// random id, so that the ledger does not tie a disclosure to a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecallAcknowledgementPublic {
    pub version: u8,
    pub recall: RecallId,
    pub disclosure: DisclosureId,
    pub at: UnixMillis,
}

impl Format for RecallAcknowledgementPublic {
    const WHAT: &'static str = "recall acknowledgement";
    const BYTES_MAX: usize = 128;

    fn validate(&self) -> Result<(), DecodeError> {
        check_version(Self::WHAT, self.version)
    }
}
