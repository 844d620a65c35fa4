//! Rules that the numbers of documents keep: GB 11643-1999 check digits, lengths, leading letters.
//!
//! A fault is a reason to look again, not proof of a wrong number: old documents and typing habits differ. Whether
//! it stops anything is the caller's [`super::CheckMode`].

use super::IdentifierKind;
use crate::{BirthDate, CalendarDate, Sex};

/// ISO 7064 mod 11-2, as GB 11643 uses it: weights of the first 17 digits.
const WEIGHTS: [u32; 17] = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2];
/// Check character by the weighted sum modulo 11.
const CHECK_CHARACTERS: [u8; 11] = *b"10X98765432";

/// What is wrong with a number. Says nothing of the number itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NumberFault {
    #[error("it should have {expected} characters and has {found}")]
    Length { expected: &'static str, found: usize },
    #[error("it should be {expected}")]
    Pattern { expected: &'static str },
    #[error("the birth date in it is not a date")]
    BirthDate,
    #[error("the check digit doesn't fit; a digit was mistyped or the number is not a real one")]
    CheckDigit,
}

/// What a resident number says of its holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResidentFacts {
    birth_date: BirthDate,
    sex: Sex,
}

impl ResidentFacts {
    pub fn birth_date(&self) -> BirthDate {
        self.birth_date
    }

    pub fn sex(&self) -> Sex {
        self.sex
    }
}

/// Judges a canonical value by the rules of its kind.
pub(super) fn check(kind: IdentifierKind, value: &str) -> Result<(), NumberFault> {
    let bytes = value.as_bytes();
    match kind {
        IdentifierKind::Resident => check_resident(bytes),
        IdentifierKind::HkMacauPermit => {
            expect_length(bytes, &[9, 11], "9 or 11")?;
            let formed = matches!(bytes.first(), Some(b'H' | b'M')) && all_digits(bytes.get(1..));
            expect(formed, NumberFault::Pattern { expected: "H or M and digits" })
        }
        IdentifierKind::TaiwanPermit => {
            expect_length(bytes, &[8, 10], "8 or 10")?;
            expect(all_digits(Some(bytes)), NumberFault::Pattern { expected: "digits" })
        }
        IdentifierKind::ForeignResidencePermit if bytes.len() == 18 => check_resident(bytes),
        IdentifierKind::ForeignResidencePermit => {
            expect_length(bytes, &[15, 18], "15 or 18")?;
            let letters = bytes.get(..3).is_some_and(|head| head.iter().all(u8::is_ascii_uppercase));
            expect(letters && all_digits(bytes.get(3..)), NumberFault::Pattern { expected: "3 letters and 12 digits" })
        }
        IdentifierKind::BirthCertificate => {
            expect_length(bytes, &[10], "10")?;
            let letter = bytes.first().is_some_and(u8::is_ascii_uppercase);
            expect(letter && all_digits(bytes.get(1..)), NumberFault::Pattern { expected: "a letter and 9 digits" })
        }
        IdentifierKind::Passport => {
            expect((5..=15).contains(&bytes.len()), NumberFault::Length { expected: "5 to 15", found: bytes.len() })?;
            let formed = bytes.iter().all(u8::is_ascii_alphanumeric);
            expect(formed, NumberFault::Pattern { expected: "Latin letters and digits" })
        }
        IdentifierKind::HouseholdRegister
        | IdentifierKind::OfficerCard
        | IdentifierKind::Insurance
        | IdentifierKind::HospitalLocal => Ok(()),
    }
}

fn expect(holds: bool, fault: NumberFault) -> Result<(), NumberFault> {
    if holds { Ok(()) } else { Err(fault) }
}

fn expect_length(bytes: &[u8], lengths: &[usize], expected: &'static str) -> Result<(), NumberFault> {
    expect(lengths.contains(&bytes.len()), NumberFault::Length { expected, found: bytes.len() })
}

fn all_digits(bytes: Option<&[u8]>) -> bool {
    bytes.is_some_and(|bytes| bytes.iter().all(u8::is_ascii_digit))
}

fn check_resident(bytes: &[u8]) -> Result<(), NumberFault> {
    expect_length(bytes, &[18], "18")?;
    let (Some(body), Some(last)) = (bytes.get(..17), bytes.get(17)) else {
        return Err(NumberFault::Length { expected: "18", found: bytes.len() });
    };
    let formed = all_digits(Some(body)) && (last.is_ascii_digit() || *last == b'X');
    expect(formed, NumberFault::Pattern { expected: "17 digits and a digit or X" })?;
    expect(birth_date(bytes).is_some(), NumberFault::BirthDate)?;
    expect(check_character(body) == Some(*last), NumberFault::CheckDigit)
}

/// The check character over 17 digits.
fn check_character(body: &[u8]) -> Option<u8> {
    if body.len() != WEIGHTS.len() || !all_digits(Some(body)) {
        return None;
    }
    let sum: u32 = body.iter().zip(WEIGHTS).map(|(digit, weight)| u32::from(digit - b'0') * weight).sum();
    CHECK_CHARACTERS.get(sum as usize % CHECK_CHARACTERS.len()).copied()
}

/// Digits 7 to 14 of a resident number.
fn birth_date(bytes: &[u8]) -> Option<BirthDate> {
    let text = std::str::from_utf8(bytes.get(6..14)?).ok()?;
    CalendarDate::parse(text).ok().map(BirthDate::new)
}

/// Birth date and sex of a resident number whose check digit is right; a mistyped number says nothing of anybody.
pub(super) fn resident_facts(value: &str) -> Option<ResidentFacts> {
    let bytes = value.as_bytes();
    check_resident(bytes).ok()?;
    let order = bytes.get(16)? - b'0';
    let sex = if order % 2 == 1 { Sex::Male } else { Sex::Female };
    Some(ResidentFacts { birth_date: birth_date(bytes)?, sex })
}

/// The 18-digit number of a 15-digit one: the century is put in and the check digit appended (GB 11643-1999).
pub(super) fn lengthen_resident(value: &str) -> Option<String> {
    if value.len() != 15 || !all_digits(Some(value.as_bytes())) {
        return None;
    }
    let body = format!("{}19{}", value.get(..6)?, value.get(6..)?);
    birth_date(body.as_bytes())?;
    let check = check_character(body.as_bytes())?;
    Some(format!("{body}{}", char::from(check)))
}
