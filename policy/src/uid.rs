//! DICOM unique identifiers (PS3.5 section 9, value representation UI).
//!
//! A UID is digits and dots, at most 64 characters. Devices in the field write components with leading zeros,
//! which the standard forbids; refusing them would jam a modality's queue over an image that is fine otherwise,
//! so they are kept as they are and [`Uid::is_conformant`] tells.

use serde::{Deserialize, Serialize};
use std::fmt;

/// PS3.5 section 9.1.
pub const UID_CHARS_MAX: usize = 64;

/// A study, series, SOP instance or SOP class UID.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Uid(String);

/// Why a text is not a UID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UidError {
    #[error("the UID is empty; the sender must fill it in")]
    Empty,
    #[error("the UID has {chars} characters, at most 64 are allowed")]
    TooLong { chars: usize },
    #[error("the UID has the character {found:?}; only digits and dots are allowed")]
    Character { found: char },
    #[error("the UID has an empty component (two dots in a row, or a dot at an end)")]
    EmptyComponent,
}

impl Uid {
    /// Parses a value as it stands in a data set: trailing NUL and blanks are padding.
    pub fn parse(text: &str) -> Result<Self, UidError> {
        let text = text.trim_end_matches(['\0', ' ']).trim_start_matches(' ');
        if text.is_empty() {
            return Err(UidError::Empty);
        }
        if let Some(found) = text.chars().find(|c| !c.is_ascii_digit() && *c != '.') {
            return Err(UidError::Character { found });
        }
        if text.len() > UID_CHARS_MAX {
            return Err(UidError::TooLong { chars: text.len() });
        }
        if text.split('.').any(str::is_empty) {
            return Err(UidError::EmptyComponent);
        }
        Ok(Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether no component has a leading zero, as PS3.5 section 9.1 demands.
    pub fn is_conformant(&self) -> bool {
        self.0.split('.').all(|component| component.len() == 1 || !component.starts_with('0'))
    }
}

impl TryFrom<String> for Uid {
    type Error = UidError;
    fn try_from(text: String) -> Result<Self, UidError> {
        Self::parse(&text)
    }
}

impl From<Uid> for String {
    fn from(uid: Uid) -> String {
        uid.0
    }
}

impl std::str::FromStr for Uid {
    type Err = UidError;
    fn from_str(text: &str) -> Result<Self, UidError> {
        Self::parse(text)
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Uid({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_devices_write() {
        for (text, expected, conformant) in [
            ("1.2.840.10008.1.1", "1.2.840.10008.1.1", true),
            ("1.2.840.10008.1.2\0", "1.2.840.10008.1.2", true),
            ("1.2.3 ", "1.2.3", true),
            ("1.2.0", "1.2.0", true),
            ("1.2.007", "1.2.007", false),
            ("2", "2", true),
        ] {
            let uid = Uid::parse(text).unwrap();
            assert_eq!((uid.as_str(), uid.is_conformant()), (expected, conformant), "{text:?}");
        }
    }

    #[test]
    fn refuses_what_is_none() {
        let long = "1.".repeat(32) + "1";
        for (text, expected) in [
            ("", UidError::Empty),
            (" \0", UidError::Empty),
            ("1..2", UidError::EmptyComponent),
            (".1", UidError::EmptyComponent),
            ("1.2.", UidError::EmptyComponent),
            ("1.2.a", UidError::Character { found: 'a' }),
            ("1.2\\1.3", UidError::Character { found: '\\' }),
            ("１.2", UidError::Character { found: '１' }),
            (long.as_str(), UidError::TooLong { chars: 65 }),
        ] {
            assert_eq!(Uid::parse(text), Err(expected), "{text:?}");
        }
    }
}
