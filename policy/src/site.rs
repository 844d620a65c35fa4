//! Sites and the people who act for them.
//!
//! A site is a hospital, township centre or regulator's office as a legal body. What a site says of its user
//! (role, title) is an assertion: the requester's node signs it, the holder's rules judge it.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Longest site identifier.
pub const SITE_ID_CHARS_MAX: usize = 32;
/// Longest user identifier.
pub const USER_ID_CHARS_MAX: usize = 64;

/// The short name of a site in the federation: lower-case letters, digits and hyphens, 2 to 32 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct SiteId(String);

/// Why a text is not a site identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SiteIdError {
    #[error("a site identifier has 2 to 32 characters, this one has {chars}")]
    Length { chars: usize },
    #[error("a site identifier has only a-z, 0-9 and hyphens, this one has {found:?}")]
    Character { found: char },
    #[error("a site identifier must begin and end with a letter or a digit")]
    Hyphen,
}

impl SiteId {
    pub fn parse(text: &str) -> Result<Self, SiteIdError> {
        if let Some(found) = text.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-')) {
            return Err(SiteIdError::Character { found });
        }
        if text.len() < 2 || text.len() > SITE_ID_CHARS_MAX {
            return Err(SiteIdError::Length { chars: text.len() });
        }
        if text.starts_with('-') || text.ends_with('-') {
            return Err(SiteIdError::Hyphen);
        }
        Ok(Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for SiteId {
    type Error = SiteIdError;
    fn try_from(text: String) -> Result<Self, SiteIdError> {
        Self::parse(&text)
    }
}

impl From<SiteId> for String {
    fn from(site: SiteId) -> String {
        site.0
    }
}

impl std::str::FromStr for SiteId {
    type Err = SiteIdError;
    fn from_str(text: &str) -> Result<Self, SiteIdError> {
        Self::parse(text)
    }
}

impl fmt::Display for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A user's name at the own site: a staff number or sign-in name, unique there and nowhere else.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct UserId(String);

/// Why a text is not a user identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserIdError {
    #[error("a user identifier has 1 to 64 characters, this one has {chars}")]
    Length { chars: usize },
    #[error("a user identifier has letters, digits and . _ - @ only, this one has {found:?}")]
    Character { found: char },
}

impl UserId {
    pub fn parse(text: &str) -> Result<Self, UserIdError> {
        let chars = text.chars().count();
        if chars == 0 || chars > USER_ID_CHARS_MAX {
            return Err(UserIdError::Length { chars });
        }
        match text.chars().find(|c| !c.is_alphanumeric() && !matches!(c, '.' | '_' | '-' | '@')) {
            Some(found) => Err(UserIdError::Character { found }),
            None => Ok(Self(text.to_owned())),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for UserId {
    type Error = UserIdError;
    fn try_from(text: String) -> Result<Self, UserIdError> {
        Self::parse(&text)
    }
}

impl From<UserId> for String {
    fn from(user: UserId) -> String {
        user.0
    }
}

impl std::str::FromStr for UserId {
    type Err = UserIdError;
    fn from_str(text: &str) -> Result<Self, UserIdError> {
        Self::parse(text)
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

numbered! {
    /// What a user does at the own site.
    pub enum Role ("role") {
        Physician = 1 "physician",
        Radiologist = 2 "radiologist",
        Technologist = 3 "technologist",
        Nurse = 4 "nurse",
        /// Patient desk: registration, crosswalk, consents taken on paper.
        Registrar = 5 "registrar",
        QualityReviewer = 6 "quality-reviewer",
        Researcher = 7 "researcher",
        InsuranceAssessor = 8 "insurance-assessor",
        /// Executes lawful orders at the holder.
        LegalOfficer = 9 "legal-officer",
        /// The patient, or the person who acts for the patient.
        Patient = 10 "patient",
        Administrator = 11 "administrator",
        Regulator = 12 "regulator",
        /// A program of the site that no person drives at the moment: prefetch, an attached AI service.
        Service = 13 "service",
    }
}

numbered! {
    /// A physician's title, lowest first (R-E2 asks for ranks).
    pub enum Title ("title") {
        Trainee = 1 "trainee",
        Resident = 2 "resident",
        Attending = 3 "attending",
        AssociateChief = 4 "associate-chief",
        Chief = 5 "chief",
    }
}

/// Who asks, as the requester's node asserts and signs it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UserAssertion {
    site: SiteId,
    user: UserId,
    role: Role,
    title: Option<Title>,
}

impl UserAssertion {
    pub fn new(site: SiteId, user: UserId, role: Role, title: Option<Title>) -> Self {
        Self { site, user, role, title }
    }

    pub fn site(&self) -> &SiteId {
        &self.site
    }

    pub fn user(&self) -> &UserId {
        &self.user
    }

    pub fn role(&self) -> Role {
        self.role
    }

    pub fn title(&self) -> Option<Title> {
        self.title
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn site_identifiers() {
        for (text, expected) in [
            ("hospital-a", Ok(())),
            ("h1", Ok(())),
            ("a", Err(SiteIdError::Length { chars: 1 })),
            ("", Err(SiteIdError::Length { chars: 0 })),
            ("Hospital", Err(SiteIdError::Character { found: 'H' })),
            ("a_b", Err(SiteIdError::Character { found: '_' })),
            ("成都", Err(SiteIdError::Character { found: '成' })),
            ("-ab", Err(SiteIdError::Hyphen)),
            ("ab-", Err(SiteIdError::Hyphen)),
            ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", Err(SiteIdError::Length { chars: 33 })),
        ] {
            assert_eq!(SiteId::parse(text).map(drop), expected, "{text:?}");
        }
    }

    #[test]
    fn user_identifiers() {
        for (text, accepted) in [("d001", true), ("wang.wei@a", true), ("", false), ("a b", false), ("a\n", false)] {
            assert_eq!(UserId::parse(text).is_ok(), accepted, "{text:?}");
        }
        assert!(UserId::parse(&"x".repeat(65)).is_err());
    }

    #[test]
    fn titles_have_ranks() {
        assert!(Title::Chief > Title::AssociateChief && Title::AssociateChief > Title::Attending);
    }
}
