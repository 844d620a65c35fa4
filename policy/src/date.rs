//! Calendar dates of examinations and of births (PS3.5 value representation DA).
//!
//! Kept as one number `yyyymmdd` on the wire. The old ACR-NEMA spelling `yyyy.mm.dd` and the `yyyy-mm-dd` of
//! hospital exports are read too. A birth date is personal data and redacts itself; a study date does not.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A day of the Gregorian calendar, years 1000 to 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "u32", try_from = "u32")]
pub struct CalendarDate {
    year: u16,
    month: u8,
    day: u8,
}

/// Why a text or number is not a date. The text itself is not repeated: it may be a birth date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DateError {
    #[error("not a date; write it as yyyymmdd, for example 20250131")]
    Form,
    #[error("no such day in the calendar; check month and day")]
    NoSuchDay,
}

impl CalendarDate {
    pub fn new(year: u16, month: u8, day: u8) -> Result<Self, DateError> {
        let exists =
            (1000..=9999).contains(&year) && (1..=12).contains(&month) && (1..=month_days(year, month)).contains(&day);
        if exists { Ok(Self { year, month, day }) } else { Err(DateError::NoSuchDay) }
    }

    /// Reads `yyyymmdd`, `yyyy.mm.dd` or `yyyy-mm-dd`; blanks around it are padding.
    pub fn parse(text: &str) -> Result<Self, DateError> {
        let text = text.trim_matches([' ', '\0']);
        let digits: String = match text.as_bytes() {
            [_, _, _, _, a, _, _, b, _, _] if a == b && matches!(a, b'.' | b'-') => {
                text.chars().filter(|c| *c != char::from(*a)).collect()
            }
            _ => text.to_owned(),
        };
        if digits.len() != 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(DateError::Form);
        }
        digits.parse::<u32>().map_err(|_| DateError::Form).and_then(Self::try_from)
    }

    pub const fn year(self) -> u16 {
        self.year
    }

    pub const fn month(self) -> u8 {
        self.month
    }

    pub const fn day(self) -> u8 {
        self.day
    }
}

/// Days of a month of the Gregorian calendar; `month` is 1 to 12.
const fn month_days(year: u16, month: u8) -> u8 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

impl From<CalendarDate> for u32 {
    fn from(date: CalendarDate) -> u32 {
        u32::from(date.year) * 10_000 + u32::from(date.month) * 100 + u32::from(date.day)
    }
}

impl TryFrom<u32> for CalendarDate {
    type Error = DateError;
    fn try_from(number: u32) -> Result<Self, DateError> {
        let year = u16::try_from(number / 10_000).map_err(|_| DateError::NoSuchDay)?;
        // Both remainders are below 100.
        Self::new(year, (number / 100 % 100) as u8, (number % 100) as u8)
    }
}

/// `yyyymmdd`, as DICOM writes it.
impl fmt::Display for CalendarDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}{:02}{:02}", self.year, self.month, self.day)
    }
}

/// The day on which an examination was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StudyDate(CalendarDate);

impl StudyDate {
    pub const fn new(date: CalendarDate) -> Self {
        Self(date)
    }

    pub fn parse(text: &str) -> Result<Self, DateError> {
        CalendarDate::parse(text).map(Self)
    }

    pub const fn date(self) -> CalendarDate {
        self.0
    }

    /// The year under whose identifier key the record is written.
    pub const fn year(self) -> u16 {
        self.0.year()
    }
}

impl fmt::Display for StudyDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The day on which a patient was born. Personal data.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BirthDate(CalendarDate);

impl BirthDate {
    pub const fn new(date: CalendarDate) -> Self {
        Self(date)
    }

    pub fn parse(text: &str) -> Result<Self, DateError> {
        CalendarDate::parse(text).map(Self)
    }

    /// The date in clear, for a border that may show it.
    pub const fn reveal(self) -> CalendarDate {
        self.0
    }
}

impl fmt::Debug for BirthDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BirthDate(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_the_spellings_of_the_field() {
        for (text, expected) in [
            ("20250131", Ok("20250131")),
            ("2025.01.31", Ok("20250131")),
            ("2025-01-31 ", Ok("20250131")),
            ("20240229", Ok("20240229")),
            ("20230229", Err(DateError::NoSuchDay)),
            ("19000229", Err(DateError::NoSuchDay)),
            ("20001301", Err(DateError::NoSuchDay)),
            ("00000000", Err(DateError::NoSuchDay)),
            ("2025-01.31", Err(DateError::Form)),
            ("2025013", Err(DateError::Form)),
            ("", Err(DateError::Form)),
            ("２０２５0131", Err(DateError::Form)),
        ] {
            let parsed = CalendarDate::parse(text).map(|date| date.to_string());
            assert_eq!(parsed, expected.map(str::to_owned), "{text:?}");
        }
    }

    #[test]
    fn birth_dates_do_not_print() {
        let birth = BirthDate::parse("19800101").unwrap();
        assert!(!format!("{birth:?}").contains("1980"));
    }

    proptest! {
        #[test]
        fn numbers_round_trip_or_are_refused(number: u32) {
            if let Ok(date) = CalendarDate::try_from(number) {
                prop_assert_eq!(u32::from(date), number);
                prop_assert_eq!(CalendarDate::parse(&date.to_string()), Ok(date));
            }
        }
    }
}
