//! Consents and revocations (DESIGN section 7). A consent carries a public random id, so that the machine can hold
//! that only its author's site revokes it; its terms, its author and its evidence are sealed under the identifier key.
//! Not for whether a consent suffices: policy decides that at the holder.

use std::fmt;

use serde::{Deserialize, Serialize};
use tessera_consensus::{Hash, SiteId, UnixMillis};
use tessera_policy::{ConsentId, ConsentTerms, EvidenceClass};

use super::check_version;
use super::sealing::Tag;
use super::study::Presence;
use crate::wire::{DecodeError, Format};

/// What every replica sees of a consent. Its sealed body is one [`super::Sealed`] with [`ConsentDetails`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsentPublic {
    pub version: u8,
    pub consent: ConsentId,
    pub tag: Tag,
    pub presence: Option<Presence>,
}

impl Format for ConsentPublic {
    const WHAT: &'static str = "consent";
    const BYTES_MAX: usize = 1024;

    fn validate(&self) -> Result<(), DecodeError> {
        check_version(Self::WHAT, self.version)?;
        self.presence.as_ref().map_or(Ok(()), |presence| presence.site.validate())
    }
}

/// What stands behind a consent.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EvidenceProof {
    /// The author's word alone.
    Attestation,
    /// Hash of the signed form that the author keeps.
    Form(Hash),
    /// The patient's own act: made with the code that `site` had handed to the patient
    /// ([`crate::confirmation`]); that site can check it.
    Code { site: SiteId, mac: [u8; 32] },
}

impl EvidenceProof {
    /// The evidence class that this proof can carry.
    pub const fn class(&self) -> EvidenceClass {
        match self {
            Self::Attestation => EvidenceClass::StaffAttestation,
            Self::Form(_) => EvidenceClass::SignedForm,
            Self::Code { .. } => EvidenceClass::PatientConfirmation,
        }
    }
}

impl fmt::Debug for EvidenceProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EvidenceProof({})", self.class())
    }
}

/// What holders of the identifier key learn of a consent.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsentDetails {
    pub version: u8,
    pub consent: ConsentId,
    pub terms: ConsentTerms,
    /// The site that recorded it.
    pub author: SiteId,
    pub evidence: EvidenceClass,
    pub proof: EvidenceProof,
    /// By the author's clock; the ledger has its own time.
    pub recorded_at: UnixMillis,
}

impl Format for ConsentDetails {
    const WHAT: &'static str = "consent details";
    const BYTES_MAX: usize = 8 * 1024;

    fn validate(&self) -> Result<(), DecodeError> {
        check_version(Self::WHAT, self.version)?;
        if self.evidence != self.proof.class() {
            return Self::invalid("the evidence class is not that of the proof");
        }
        Ok(())
    }
}

impl fmt::Debug for ConsentDetails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConsentDetails({}, {}, {}, …)", self.consent, self.author, self.evidence)
    }
}

/// The consent with this id holds no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationPublic {
    pub version: u8,
    pub consent: ConsentId,
}

impl Format for RevocationPublic {
    const WHAT: &'static str = "revocation";
    const BYTES_MAX: usize = 64;

    fn validate(&self) -> Result<(), DecodeError> {
        check_version(Self::WHAT, self.version)
    }
}
