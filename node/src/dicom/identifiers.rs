//! Identifiers of DICOM as checked types: UIDs (PS3.5 section 9) and AE titles (PS3.5 section 6.2, VR AE).
//!
//! They are parsed once, where bytes come in. Leading zeros in a component are against the standard but occur
//! in real archives, and a picture is never refused for them; letters, empty components and more than 64
//! characters are refused, because such a value can't be told from garbage and would end up in paths and URLs.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Characters of a UID, PS3.5 section 9.1.
pub const UID_CHARS_MAX: usize = 64;

/// Characters of an AE title, PS3.5 section 6.2.
pub const AE_TITLE_CHARS_MAX: usize = 16;

/// Everything that the DICOM standard itself has registered lies under this root.
const STANDARD_ROOT: &str = "1.2.840.10008.";

/// A unique identifier: 1 to 64 characters, digits in components parted by single dots.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Uid(Box<str>);

/// Why a text is no UID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UidError {
    #[error("the UID is empty")]
    Empty,
    #[error("the UID has {length} characters; at most {UID_CHARS_MAX} are allowed")]
    TooLong { length: usize },
    #[error("the UID may hold only digits in components parted by single dots")]
    NotDotted,
}

impl Uid {
    /// Parses a UID that carries no padding.
    pub fn parse(text: &str) -> Result<Self, UidError> {
        if text.is_empty() {
            return Err(UidError::Empty);
        }
        if text.len() > UID_CHARS_MAX {
            return Err(UidError::TooLong { length: text.len() });
        }
        let dotted =
            text.split('.').all(|component| !component.is_empty() && component.bytes().all(|b| b.is_ascii_digit()));
        if dotted { Ok(Self(text.into())) } else { Err(UidError::NotDotted) }
    }

    /// Parses the value of a UI element: padding (NUL by the standard, blanks by some senders) is taken off.
    pub fn from_value(value: &[u8]) -> Result<Self, UidError> {
        let text = std::str::from_utf8(value).map_err(|_| UidError::NotDotted)?;
        Self::parse(text.trim_matches(|c| c == '\0' || c == ' '))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the standard has registered this UID (as opposed to a vendor).
    pub fn is_standard(&self) -> bool {
        self.0.starts_with(STANDARD_ROOT)
    }
}

impl TryFrom<String> for Uid {
    type Error = UidError;
    fn try_from(text: String) -> Result<Self, UidError> {
        Self::parse(&text)
    }
}

impl From<Uid> for String {
    fn from(uid: Uid) -> Self {
        uid.0.into()
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of an application entity: 1 to 16 printable ASCII characters without backslash, padding taken off.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AeTitle(Box<str>);

/// Why a text is no AE title.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AeTitleError {
    #[error("the AE title is empty")]
    Empty,
    #[error("the AE title has {length} characters; at most {AE_TITLE_CHARS_MAX} are allowed")]
    TooLong { length: usize },
    #[error("the AE title may hold only printable ASCII characters and no backslash")]
    NotPrintable,
}

impl AeTitle {
    pub fn parse(text: &str) -> Result<Self, AeTitleError> {
        let text = text.trim_matches(|c| c == ' ' || c == '\0');
        if text.is_empty() {
            return Err(AeTitleError::Empty);
        }
        if text.len() > AE_TITLE_CHARS_MAX {
            return Err(AeTitleError::TooLong { length: text.len() });
        }
        if text.bytes().all(|b| (0x20..0x7F).contains(&b) && b != b'\\') {
            Ok(Self(text.into()))
        } else {
            Err(AeTitleError::NotPrintable)
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for AeTitle {
    type Error = AeTitleError;
    fn try_from(text: String) -> Result<Self, AeTitleError> {
        Self::parse(&text)
    }
}

impl From<AeTitle> for String {
    fn from(title: AeTitle) -> Self {
        title.0.into()
    }
}

impl fmt::Display for AeTitle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AeTitle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_are_checked() {
        let long = "1.".repeat(32) + "1";
        let table: &[(&[u8], Result<&str, UidError>)] = &[
            (b"1.2.840.10008.1.2\0", Ok("1.2.840.10008.1.2")),
            (b"1.2.3 ", Ok("1.2.3")),
            (b"1.02.3", Ok("1.02.3")),
            (b"", Err(UidError::Empty)),
            (b"\0\0", Err(UidError::Empty)),
            (b"1..2", Err(UidError::NotDotted)),
            (b"1.2.", Err(UidError::NotDotted)),
            (b"1.2/../3", Err(UidError::NotDotted)),
            (b"1.2\xFF", Err(UidError::NotDotted)),
            (long.as_bytes(), Err(UidError::TooLong { length: 65 })),
        ];
        for (value, expected) in table {
            let found = Uid::from_value(value);
            assert_eq!(found.as_ref().map(Uid::as_str), expected.as_ref().copied(), "{value:?}");
        }
    }

    #[test]
    fn ae_titles_are_checked() {
        let table = [
            (" CT-1  ", Ok("CT-1")),
            ("A B", Ok("A B")),
            ("   ", Err(AeTitleError::Empty)),
            ("A\\B", Err(AeTitleError::NotPrintable)),
            ("放射", Err(AeTitleError::NotPrintable)),
            ("12345678901234567", Err(AeTitleError::TooLong { length: 17 })),
        ];
        for (text, expected) in table {
            assert_eq!(AeTitle::parse(text).as_ref().map(AeTitle::as_str), expected.as_ref().copied());
        }
    }

    #[test]
    fn a_uid_read_back_is_checked_again() {
        assert!(serde_json::from_str::<Uid>("\"1.2.3\"").is_ok());
        assert!(serde_json::from_str::<Uid>("\"../etc\"").is_err());
    }
}
