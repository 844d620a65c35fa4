//! Consent: who may see what, for which purposes, until when (DESIGN section 7, R-C2).
//!
//! These are the terms as they stand in the sealed part of a consent record. Who recorded them, with what
//! evidence, and whether they were certified or revoked is the record's matter (`decision`).
//!
//! Invariants:
//! 1. A grant names its purposes. A grant for "anything" is not a specific purpose (PIPL article 28) and is
//!    refused; a denial may cover everything.
//! 2. A list of studies or purposes is neither empty nor unbounded.

use crate::{SiteId, Uid, UnixMillis};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// Most studies that one consent may name; who means more means all.
pub const CONSENT_STUDIES_MAX: usize = 64;

numbered! {
    /// Why data is used.
    pub enum Purpose ("purpose") {
        Treatment = 1 "treatment",
        /// Accepting another site's examination instead of repeating it (互认).
        Recognition = 2 "recognition",
        Consultation = 3 "consultation",
        Emergency = 4 "emergency",
        QualityReview = 5 "quality-review",
        Research = 6 "research",
        Insurance = 7 "insurance",
        PatientAccess = 8 "patient-access",
        Legal = 9 "legal",
    }
}

impl Purpose {
    /// Whether the purpose is the care of this patient, which is what makes a site a treating site.
    pub const fn is_care(self) -> bool {
        matches!(self, Self::Treatment | Self::Recognition | Self::Consultation | Self::Emergency)
    }
}

numbered! {
    /// How a consent is proved, weakest first.
    pub enum EvidenceClass ("evidence class") {
        /// A member of staff says so; sampled for review.
        StaffAttestation = 1 "staff-attestation",
        /// A signed form, of which the record keeps the hash.
        SignedForm = 2 "signed-form",
        /// The patient's own act: code or QR answered by the patient, signed ID reader.
        PatientConfirmation = 3 "patient-confirmation",
    }
}

numbered! {
    /// Yes or no.
    pub enum ConsentDecision ("consent decision") {
        Grant = 1 "grant",
        Deny = 2 "deny",
    }
}

/// A consent's public, random name. A revocation names it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConsentId([u8; 16]);

/// Why a text is not a consent identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a consent identifier has 32 hexadecimal digits; `tessera consent list` prints them")]
pub struct ConsentIdError;

impl ConsentId {
    /// From 16 random bytes, which the caller draws.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for ConsentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ConsentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConsentId({self})")
    }
}

impl std::str::FromStr for ConsentId {
    type Err = ConsentIdError;
    fn from_str(text: &str) -> Result<Self, ConsentIdError> {
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(ConsentIdError);
        }
        u128::from_str_radix(text, 16).map(|number| Self(number.to_be_bytes())).map_err(|_| ConsentIdError)
    }
}

/// To whom the consent speaks. The order of variants is the wire order: append only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Grantee {
    /// One site.
    Site(SiteId),
    /// In a grant: every site with a care purpose. In a denial: every site, whatever the purpose.
    AllTreatingSites,
}

/// Of which examinations the consent speaks. The order of variants is the wire order: append only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum StudyScope {
    /// All of the patient's examinations, later ones included.
    All,
    Studies(BTreeSet<Uid>),
}

impl StudyScope {
    pub fn covers(&self, study: &Uid) -> bool {
        match self {
            Self::All => true,
            Self::Studies(studies) => studies.contains(study),
        }
    }

    /// Whether the study is named, rather than covered among all.
    pub fn names(&self, study: &Uid) -> bool {
        matches!(self, Self::Studies(studies) if studies.contains(study))
    }
}

/// For which purposes the consent speaks. The order of variants is the wire order: append only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PurposeScope {
    /// Whatever the purpose, those of later versions included. Denials only.
    Any,
    Only(BTreeSet<Purpose>),
}

impl PurposeScope {
    pub fn covers(&self, purpose: Purpose) -> bool {
        match self {
            Self::Any => true,
            Self::Only(purposes) => purposes.contains(&purpose),
        }
    }
}

/// What a patient allowed or forbade.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "UncheckedTerms", try_from = "UncheckedTerms")]
pub struct ConsentTerms {
    decision: ConsentDecision,
    grantee: Grantee,
    studies: StudyScope,
    purposes: PurposeScope,
    not_after: Option<UnixMillis>,
}

/// The same as it stands on the wire, before it is checked.
#[derive(Clone, Serialize, Deserialize)]
struct UncheckedTerms {
    decision: ConsentDecision,
    grantee: Grantee,
    studies: StudyScope,
    purposes: PurposeScope,
    not_after: Option<UnixMillis>,
}

/// Why terms are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConsentTermsError {
    #[error("a grant must name its purposes, for example treatment")]
    GrantForAnything,
    #[error("the consent names no purpose")]
    NoPurpose,
    #[error("the consent names no study; name some, or all")]
    NoStudy,
    #[error("the consent names {count} studies, at most {CONSENT_STUDIES_MAX} are allowed; name all instead")]
    TooManyStudies { count: usize },
}

impl ConsentTerms {
    /// Terms without an end (`not_after` is `None`) hold until they are revoked.
    pub fn new(
        decision: ConsentDecision,
        grantee: Grantee,
        studies: StudyScope,
        purposes: PurposeScope,
        not_after: Option<UnixMillis>,
    ) -> Result<Self, ConsentTermsError> {
        match &purposes {
            PurposeScope::Any if decision == ConsentDecision::Grant => {
                return Err(ConsentTermsError::GrantForAnything);
            }
            PurposeScope::Only(purposes) if purposes.is_empty() => {
                return Err(ConsentTermsError::NoPurpose);
            }
            PurposeScope::Any | PurposeScope::Only(_) => {}
        }
        if let StudyScope::Studies(studies) = &studies {
            match studies.len() {
                0 => return Err(ConsentTermsError::NoStudy),
                1..=CONSENT_STUDIES_MAX => {}
                count => return Err(ConsentTermsError::TooManyStudies { count }),
            }
        }
        Ok(Self { decision, grantee, studies, purposes, not_after })
    }

    pub fn decision(&self) -> ConsentDecision {
        self.decision
    }

    pub fn grantee(&self) -> &Grantee {
        &self.grantee
    }

    pub fn studies(&self) -> &StudyScope {
        &self.studies
    }

    pub fn purposes(&self) -> &PurposeScope {
        &self.purposes
    }

    pub fn not_after(&self) -> Option<UnixMillis> {
        self.not_after
    }

    /// Whether the terms have run out. The last moment still counts.
    pub fn is_expired(&self, now: UnixMillis) -> bool {
        self.not_after.is_some_and(|end| now > end)
    }

    /// Whether everything that these terms allow or forbid lies within `wider`: the same decision for the same grantee,
    /// and no study, purpose or moment that `wider` does not name.
    pub fn lies_within(&self, wider: &Self) -> bool {
        let studies = match (&self.studies, &wider.studies) {
            (_, StudyScope::All) => true,
            (StudyScope::All, StudyScope::Studies(_)) => false,
            (StudyScope::Studies(own), StudyScope::Studies(wider)) => own.is_subset(wider),
        };
        let purposes = match (&self.purposes, &wider.purposes) {
            (_, PurposeScope::Any) => true,
            (PurposeScope::Any, PurposeScope::Only(_)) => false,
            (PurposeScope::Only(own), PurposeScope::Only(wider)) => own.is_subset(wider),
        };
        let until = match (self.not_after, wider.not_after) {
            (_, None) => true,
            (own, Some(wider)) => own.is_some_and(|own| own <= wider),
        };
        self.decision == wider.decision && self.grantee == wider.grantee && studies && purposes && until
    }

    /// Whether the terms speak to this site asking for this purpose.
    pub fn covers_requester(&self, site: &SiteId, purpose: Purpose) -> bool {
        match (&self.grantee, self.decision) {
            (Grantee::Site(grantee), _) => grantee == site,
            (Grantee::AllTreatingSites, ConsentDecision::Grant) => purpose.is_care(),
            (Grantee::AllTreatingSites, ConsentDecision::Deny) => true,
        }
    }
}

impl TryFrom<UncheckedTerms> for ConsentTerms {
    type Error = ConsentTermsError;
    fn try_from(terms: UncheckedTerms) -> Result<Self, ConsentTermsError> {
        Self::new(terms.decision, terms.grantee, terms.studies, terms.purposes, terms.not_after)
    }
}

impl From<ConsentTerms> for UncheckedTerms {
    fn from(terms: ConsentTerms) -> Self {
        let ConsentTerms { decision, grantee, studies, purposes, not_after } = terms;
        Self { decision, grantee, studies, purposes, not_after }
    }
}

#[cfg(test)]
#[path = "consent_tests.rs"]
mod tests;
