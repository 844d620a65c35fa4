//! The facts of an object as types. `dataset` fills them from bytes.
//!
//! What names or identifies a person does not show in `Debug`. Text is UTF-8, decoded by the object's verdict on
//! its character set, padding taken off; what the sender left out is empty.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::charset::CharsetVerdict;
use super::identifiers::Uid;

/// A calendar date as DICOM writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DicomDate {
    year: u16,
    month: u8,
    day: u8,
}

impl DicomDate {
    /// `YYYYMMDD`, or `YYYY.MM.DD` as before DICOM 3.0.
    pub fn parse(text: &str) -> Option<Self> {
        let digits: String = text.trim_matches(['\0', ' ']).chars().filter(|c| *c != '.').collect();
        if digits.len() != 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let date =
            Self { year: digits[..4].parse().ok()?, month: digits[4..6].parse().ok()?, day: digits[6..].parse().ok()? };
        ((1..=12).contains(&date.month) && (1..=31).contains(&date.day)).then_some(date)
    }
}

impl fmt::Display for DicomDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}{:02}{:02}", self.year, self.month, self.day)
    }
}

/// A person name: the bytes as sent, and its groups as text.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PersonName {
    pub raw: Vec<u8>,
    pub alphabetic: String,
    pub ideographic: String,
    pub phonetic: String,
}

impl PersonName {
    /// All groups, as in a PN value.
    pub fn full(&self) -> String {
        let joined = [self.alphabetic.as_str(), &self.ideographic, &self.phonetic].join("=");
        joined.trim_end_matches('=').to_owned()
    }
}

impl fmt::Debug for PersonName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PersonName(redacted)")
    }
}

/// Whose examination, as the sender says.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PatientFacts {
    pub id: String,
    pub issuer: String,
    pub name: PersonName,
    pub sex: String,
    pub birth_date: Option<DicomDate>,
    pub age: String,
}

impl fmt::Debug for PatientFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PatientFacts(redacted)")
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StudyFacts {
    pub id: String,
    pub date: Option<DicomDate>,
    pub time: String,
    pub accession_number: String,
    pub description: String,
    pub referring_physician: PersonName,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SeriesFacts {
    pub modality: String,
    pub number: Option<i32>,
    pub description: String,
    pub body_part: String,
    pub laterality: String,
    pub protocol: String,
    pub institution: String,
    pub station: String,
    pub manufacturer: String,
    pub model: String,
    pub device_serial_number: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct InstanceFacts {
    pub number: Option<i32>,
    pub acquisition_date: Option<DicomDate>,
    pub acquisition_time: String,
    pub image_type: String,
    pub frames: u32,
    pub rows: Option<u16>,
    pub columns: Option<u16>,
    pub samples_per_pixel: Option<u16>,
    pub bits_allocated: Option<u16>,
    pub bits_stored: Option<u16>,
    pub pixel_representation: Option<u16>,
    pub photometric_interpretation: String,
    pub content_label: String,
}

/// Where the pixels are. Offsets are in bytes from the start of the (inflated) data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PixelFacts {
    pub group: u16,
    pub element: u16,
    pub offset: u64,
    /// Bytes of the value; `None` when encapsulated.
    pub length: Option<u32>,
    /// Fragments without the offset table; 0 when native.
    pub fragments: u32,
}

/// What is wrong behind the UIDs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Damage {
    /// The walk ended in an error; the text says where.
    Broken { reason: String, truncated: bool },
    /// Native pixel data holds fewer bytes than rows, columns and frames ask for.
    ShortPixels { expected_bytes: u64, found_bytes: u64 },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectFacts {
    pub sop_class: Uid,
    pub sop_instance: Uid,
    pub study_instance: Uid,
    pub series_instance: Uid,
    pub patient: PatientFacts,
    pub study: StudyFacts,
    pub series: SeriesFacts,
    pub instance: InstanceFacts,
    pub pixels: Option<PixelFacts>,
    pub charset: CharsetVerdict,
    pub damage: Option<Damage>,
}
