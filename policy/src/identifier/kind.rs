//! Kinds of identifiers and their issuers (R-B2).
//!
//! Numbers 1 to 7 are those of WS 364.3, table CV02.01.101 (kinds of identity documents), so that a hospital's
//! export can be mapped by its code; 5, the driving licence, is not a patient identifier here. Ours begin at 100.

use super::{ISSUER_CHARS_MAX, IdentifierError};
use crate::folding::fold;
use serde::{Deserialize, Serialize};
use std::fmt;

numbered! {
    /// What kind of number it is.
    pub enum IdentifierKind ("identifier kind") {
        /// 居民身份证, GB 11643; also the residence permits for Hong Kong, Macau and Taiwan residents, which use
        /// the same numbers.
        Resident = 1 "resident",
        /// 居民户口簿: the number on the person's own page.
        HouseholdRegister = 2 "household",
        Passport = 3 "passport",
        /// 军官证
        OfficerCard = 4 "officer",
        /// 港澳居民来往内地通行证
        HkMacauPermit = 6 "hk-macau",
        /// 台湾居民来往大陆通行证
        TaiwanPermit = 7 "taiwan",
        /// A hospital's own number: DICOM's PatientID.
        HospitalLocal = 100 "hospital",
        /// 医保 number, by the region that issued it.
        Insurance = 101 "insurance",
        /// 外国人永久居留身份证
        ForeignResidencePermit = 102 "foreign-resident",
        /// 出生医学证明, for newborns without another number.
        BirthCertificate = 103 "birth-certificate",
    }
}

/// Who may issue numbers of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IssuerRule {
    /// The state; nobody types it.
    State,
    /// A country, by its ICAO 9303 code.
    Country,
    /// A hospital, a region: whoever it is must be named.
    Named,
}

impl IdentifierKind {
    pub(super) const fn issuer_rule(self) -> IssuerRule {
        match self {
            Self::Resident
            | Self::HouseholdRegister
            | Self::OfficerCard
            | Self::HkMacauPermit
            | Self::TaiwanPermit
            | Self::ForeignResidencePermit
            | Self::BirthCertificate => IssuerRule::State,
            Self::Passport => IssuerRule::Country,
            Self::HospitalLocal | Self::Insurance => IssuerRule::Named,
        }
    }

    /// Whether numbers of this kind name the person wherever it goes, rather than within one house.
    pub const fn is_person_wide(self) -> bool {
        !matches!(self, Self::HospitalLocal)
    }

    /// The issuer where nobody needs to type one.
    pub fn default_issuer(self) -> Option<Issuer> {
        matches!(self.issuer_rule(), IssuerRule::State).then(Issuer::state)
    }
}

/// The state as issuer.
const STATE: &str = "CN";

/// The authority that gave a number. Width-folded, ASCII letters in upper case: two issuers whose names differ only
/// by that are a mistake in a configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Issuer(String);

impl Issuer {
    pub fn parse(text: &str) -> Result<Self, IdentifierError> {
        let mut name = fold(text.trim_end_matches('\0'));
        name.make_ascii_uppercase();
        let chars = name.chars().count();
        if chars == 0 || chars > ISSUER_CHARS_MAX {
            return Err(IdentifierError::IssuerLength { chars });
        }
        if name.chars().any(|c| c.is_control() || matches!(c, '/' | '\\')) {
            return Err(IdentifierError::IssuerCharacter);
        }
        Ok(Self(name))
    }

    /// The state, which issues the documents of its citizens and guests.
    pub fn state() -> Self {
        Self(STATE.to_owned())
    }

    pub(super) fn is_country(&self) -> bool {
        (1..=3).contains(&self.0.len()) && self.0.bytes().all(|b| b.is_ascii_uppercase())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Issuer {
    type Error = IdentifierError;
    fn try_from(text: String) -> Result<Self, IdentifierError> {
        Self::parse(&text)
    }
}

impl From<Issuer> for String {
    fn from(issuer: Issuer) -> String {
        issuer.0
    }
}

impl std::str::FromStr for Issuer {
    type Err = IdentifierError;
    fn from_str(text: &str) -> Result<Self, IdentifierError> {
        Self::parse(text)
    }
}

impl fmt::Display for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
