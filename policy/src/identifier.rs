//! Patient identifiers: kind, issuer, value, in one canonical form (R-B2, DESIGN section 6).
//!
//! The canonical bytes are the input of the blind index, so two spellings of one number must give the same bytes,
//! and two numbers must never give the same. For numbers on documents, width, case and separators carry no
//! meaning and are folded away. Hospital-local numbers are another's scheme: `A-1` and `A1`, or `a1` and `A1`, may
//! be two patients there, so beyond width and surrounding blanks they stay as they are.
//!
//! Invariants:
//! 1. Canonical form is a fixed point: parsing it again changes nothing.
//! 2. `Debug` shows the kind only, `Display` a masked form; [`Identifier::reveal`] is the one way to the clear value,
//!    used at borders that may show it. `serde` writes it in clear: only into sealed bytes.
//! 3. An error never repeats the value.

mod kind;
mod number;

pub use kind::{IdentifierKind, Issuer};
pub use number::{NumberFault, ResidentFacts};

use crate::folding::fold;
use kind::IssuerRule;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Longest value. DICOM's PatientID has 64; the rest is room for numbers that this program makes for the unknown
/// (a prefix and a study UID).
pub const IDENTIFIER_VALUE_CHARS_MAX: usize = 80;
/// Longest issuer: DICOM's Issuer of Patient ID (0010,0021).
pub const ISSUER_CHARS_MAX: usize = 64;
/// Version of the canonical bytes. The blind index depends on them: a new version is another index.
const CANONICAL_VERSION: u8 = 1;
/// Shorter values are masked whole: what would stay could be guessed from.
const MASK_WHOLE_BELOW_CHARS: usize = 6;
/// Characters that carry no meaning in the number of a document.
const SEPARATORS: [char; 6] = [' ', '-', '.', '_', '/', '·'];

/// A number that some authority gave to a patient. Personal data.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "UncheckedIdentifier", try_from = "UncheckedIdentifier")]
pub struct Identifier {
    kind: IdentifierKind,
    issuer: Issuer,
    value: String,
}

/// The same as it stands on the wire, before it is checked.
#[derive(Clone, Serialize, Deserialize)]
struct UncheckedIdentifier {
    kind: IdentifierKind,
    issuer: String,
    value: String,
}

/// What to do with a number that breaks the rules of its kind (check digit, length, birth date).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckMode {
    /// Refuse it.
    Strict,
    /// Take it and say so: old documents and sample patients have such numbers.
    Warn,
}

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentifierError {
    #[error(
        "write the identifier as kind:number or kind:issuer/number, for example resident:<number> or hospital:<issuer>/<number>"
    )]
    Form,
    #[error(transparent)]
    Kind(#[from] crate::NumberedError),
    #[error("the number is empty")]
    EmptyValue,
    #[error("the number has {chars} characters, at most {IDENTIFIER_VALUE_CHARS_MAX} are allowed")]
    ValueTooLong { chars: usize },
    #[error("the number has a character that a {kind} number cannot have; type it again")]
    ValueCharacter { kind: IdentifierKind },
    #[error("a {kind} number needs its issuer: write {kind}:<issuer>/<number>")]
    IssuerMissing { kind: IdentifierKind },
    #[error("a {kind} number is issued by the state; write {kind}:<number> without an issuer")]
    IssuerNotExpected { kind: IdentifierKind },
    #[error("the issuer of a passport is a country's code of one to three letters, for example CHN")]
    CountryExpected,
    #[error("the issuer has {chars} characters, 1 to {ISSUER_CHARS_MAX} are allowed")]
    IssuerLength { chars: usize },
    #[error("the issuer has a character that is not allowed: slash, backslash or a control character")]
    IssuerCharacter,
    #[error("this is not a valid {kind} number: {fault}")]
    Number { kind: IdentifierKind, fault: NumberFault },
}

impl Identifier {
    /// Brings a number into canonical form. Check digits are not judged here: see [`Identifier::check`].
    pub fn new(kind: IdentifierKind, issuer: Issuer, value: &str) -> Result<Self, IdentifierError> {
        match kind.issuer_rule() {
            IssuerRule::State if issuer != Issuer::state() => {
                return Err(IdentifierError::IssuerNotExpected { kind });
            }
            IssuerRule::Country if !issuer.is_country() => {
                return Err(IdentifierError::CountryExpected);
            }
            IssuerRule::State | IssuerRule::Country | IssuerRule::Named => {}
        }
        let value = canonical_value(kind, value);
        let chars = value.chars().count();
        if chars == 0 {
            return Err(IdentifierError::EmptyValue);
        }
        if chars > IDENTIFIER_VALUE_CHARS_MAX {
            return Err(IdentifierError::ValueTooLong { chars });
        }
        if !value.chars().all(|c| is_value_char(kind, c)) {
            return Err(IdentifierError::ValueCharacter { kind });
        }
        Ok(Self { kind, issuer, value })
    }

    /// A number that a hospital gave: DICOM's PatientID under its issuer.
    pub fn hospital(issuer: Issuer, patient_id: &str) -> Result<Self, IdentifierError> {
        Self::new(IdentifierKind::HospitalLocal, issuer, patient_id)
    }

    /// Parses the form of the command line, `kind:value` or `kind:issuer/value`, typed at either width.
    pub fn parse(text: &str) -> Result<Self, IdentifierError> {
        let text = fold(text);
        let (kind, rest) = text.split_once(':').ok_or(IdentifierError::Form)?;
        let kind: IdentifierKind = kind.trim().to_ascii_lowercase().parse()?;
        match kind.issuer_rule() {
            IssuerRule::State => Self::new(kind, Issuer::state(), rest),
            IssuerRule::Country | IssuerRule::Named => {
                let (issuer, value) = rest.split_once('/').ok_or(IdentifierError::IssuerMissing { kind })?;
                Self::new(kind, Issuer::parse(issuer)?, value)
            }
        }
    }

    /// Judges the number by the rules of its kind; in [`CheckMode::Warn`] a fault comes back instead of an error.
    pub fn checked(self, mode: CheckMode) -> Result<(Self, Option<NumberFault>), IdentifierError> {
        match (self.check(), mode) {
            (Ok(()), _) => Ok((self, None)),
            (Err(fault), CheckMode::Warn) => Ok((self, Some(fault))),
            (Err(fault), CheckMode::Strict) => Err(IdentifierError::Number { kind: self.kind, fault }),
        }
    }

    /// Whether the number keeps the rules of its kind. Kinds without a public rule are taken as they are.
    pub fn check(&self) -> Result<(), NumberFault> {
        number::check(self.kind, &self.value)
    }

    /// Birth date and sex, when the number says so and its check digit is right.
    pub fn resident_facts(&self) -> Option<ResidentFacts> {
        match self.kind {
            IdentifierKind::Resident => number::resident_facts(&self.value),
            _ => None,
        }
    }

    pub fn kind(&self) -> IdentifierKind {
        self.kind
    }

    pub fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// The number in clear, for a border that may show it.
    pub fn reveal(&self) -> &str {
        &self.value
    }

    /// The whole identifier in clear, in the form that [`Identifier::parse`] reads.
    pub fn reveal_command_form(&self) -> String {
        format!("{}{}", self.prefix(), self.value)
    }

    /// Input of the blind evaluation: version, kind, issuer, value, each length-framed, big-endian.
    pub fn canonical_bytes(&self) -> Vec<u8> {
        let issuer = self.issuer.as_str().as_bytes();
        let value = self.value.as_bytes();
        let mut bytes = Vec::with_capacity(7 + issuer.len() + value.len());
        bytes.push(CANONICAL_VERSION);
        bytes.extend_from_slice(&self.kind.number().to_be_bytes());
        for part in [issuer, value] {
            // Both are bounded in characters, of at most four bytes each: they fit a u16.
            bytes.extend_from_slice(&(part.len() as u16).to_be_bytes());
            bytes.extend_from_slice(part);
        }
        bytes
    }

    fn prefix(&self) -> String {
        match self.kind.issuer_rule() {
            IssuerRule::State => format!("{}:", self.kind),
            IssuerRule::Country | IssuerRule::Named => format!("{}:{}/", self.kind, self.issuer),
        }
    }
}

/// The one spelling of a number.
fn canonical_value(kind: IdentifierKind, value: &str) -> String {
    let folded = fold(value);
    if kind == IdentifierKind::HospitalLocal {
        return folded;
    }
    let mut compact: String = folded.chars().filter(|c| !SEPARATORS.contains(c)).collect();
    compact.make_ascii_uppercase();
    match kind {
        // Cards issued before 2000 have 15 digits; the longer number of the same person follows from them.
        IdentifierKind::Resident => number::lengthen_resident(&compact).unwrap_or(compact),
        _ => compact,
    }
}

fn is_value_char(kind: IdentifierKind, character: char) -> bool {
    match kind {
        // A backslash separates values in DICOM.
        IdentifierKind::HospitalLocal => !character.is_control() && character != '\\',
        // Officers' cards carry Chinese characters.
        _ => character.is_alphanumeric(),
    }
}

/// Masked: kind, issuer, length and the last two characters.
impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chars = self.value.chars().count();
        let shown = if chars < MASK_WHOLE_BELOW_CHARS { 0 } else { 2 };
        let tail: String = self.value.chars().skip(chars - shown).collect();
        write!(f, "{}{}{tail}", self.prefix(), "*".repeat(chars - shown))
    }
}

impl fmt::Debug for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identifier({}:…)", self.kind)
    }
}

impl std::str::FromStr for Identifier {
    type Err = IdentifierError;
    fn from_str(text: &str) -> Result<Self, IdentifierError> {
        Self::parse(text)
    }
}

impl TryFrom<UncheckedIdentifier> for Identifier {
    type Error = IdentifierError;
    fn try_from(raw: UncheckedIdentifier) -> Result<Self, IdentifierError> {
        Self::new(raw.kind, Issuer::parse(&raw.issuer)?, &raw.value)
    }
}

impl From<Identifier> for UncheckedIdentifier {
    fn from(identifier: Identifier) -> Self {
        let Identifier { kind, issuer, value } = identifier;
        Self { kind, issuer: issuer.into(), value }
    }
}

#[cfg(test)]
#[path = "identifier/tests.rs"]
mod tests;
