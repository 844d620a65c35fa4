//! The modality of an examination, and with it the coded words that a study record may say besides UIDs and date.
//!
//! Coded values only. Descriptions, accession numbers and names come from the holder, after a decision.

use serde::{Deserialize, Serialize};
use std::fmt;

/// PS3.5, value representation CS.
const MODALITY_CHARS_MAX: usize = 16;

/// A DICOM modality code (PS3.3 C.7.3.1.1.1), such as `CT`. The list grows with the standard, so any code string
/// of the right form is accepted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Modality(String);

/// Why a text is not a modality code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a modality is a code of 1 to 16 capital letters, digits or underscores, such as CT or MR")]
pub struct ModalityError;

impl Modality {
    /// Reads a code; blanks around it are padding, and lower case is what some devices write.
    pub fn parse(text: &str) -> Result<Self, ModalityError> {
        let code = text.trim_matches([' ', '\0']).to_ascii_uppercase();
        let formed = code.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
        if code.is_empty() || code.len() > MODALITY_CHARS_MAX || !formed {
            return Err(ModalityError);
        }
        Ok(Self(code))
    }

    /// `OT`, for an object whose modality is missing or malformed.
    pub fn other() -> Self {
        Self("OT".to_owned())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Modality {
    type Error = ModalityError;
    fn try_from(text: String) -> Result<Self, ModalityError> {
        Self::parse(&text)
    }
}

impl From<Modality> for String {
    fn from(modality: Modality) -> String {
        modality.0
    }
}

impl std::str::FromStr for Modality {
    type Err = ModalityError;
    fn from_str(text: &str) -> Result<Self, ModalityError> {
        Self::parse(text)
    }
}

impl fmt::Display for Modality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

numbered! {
    /// The part of the body, coarse enough to be shared with the index.
    pub enum BodyRegion ("body region") {
        Unspecified = 1 "unspecified",
        Head = 2 "head",
        Neck = 3 "neck",
        Chest = 4 "chest",
        Heart = 5 "heart",
        Breast = 6 "breast",
        Abdomen = 7 "abdomen",
        Pelvis = 8 "pelvis",
        Spine = 9 "spine",
        UpperLimb = 10 "upper-limb",
        LowerLimb = 11 "lower-limb",
        WholeBody = 12 "whole-body",
        Vessels = 13 "vessels",
    }
}

/// Body Part Examined (PS3.16 annex L) to region. Codes that are not listed are `Unspecified`.
const BODY_PARTS: &[(&str, BodyRegion)] = &[
    ("ABDOMEN", BodyRegion::Abdomen),
    ("ANKLE", BodyRegion::LowerLimb),
    ("AORTA", BodyRegion::Vessels),
    ("ARM", BodyRegion::UpperLimb),
    ("BLADDER", BodyRegion::Pelvis),
    ("BRAIN", BodyRegion::Head),
    ("BREAST", BodyRegion::Breast),
    ("CAROTID", BodyRegion::Vessels),
    ("CHEST", BodyRegion::Chest),
    ("CSPINE", BodyRegion::Spine),
    ("EAR", BodyRegion::Head),
    ("ELBOW", BodyRegion::UpperLimb),
    ("EXTREMITY", BodyRegion::Unspecified),
    ("EYE", BodyRegion::Head),
    ("FEMUR", BodyRegion::LowerLimb),
    ("FINGER", BodyRegion::UpperLimb),
    ("FOOT", BodyRegion::LowerLimb),
    ("FOREARM", BodyRegion::UpperLimb),
    ("HAND", BodyRegion::UpperLimb),
    ("HEAD", BodyRegion::Head),
    ("HEART", BodyRegion::Heart),
    ("HIP", BodyRegion::Pelvis),
    ("HUMERUS", BodyRegion::UpperLimb),
    ("JAW", BodyRegion::Head),
    ("KIDNEY", BodyRegion::Abdomen),
    ("KNEE", BodyRegion::LowerLimb),
    ("LEG", BodyRegion::LowerLimb),
    ("LIVER", BodyRegion::Abdomen),
    ("LSPINE", BodyRegion::Spine),
    ("LUNG", BodyRegion::Chest),
    ("NECK", BodyRegion::Neck),
    ("PANCREAS", BodyRegion::Abdomen),
    ("PELVIS", BodyRegion::Pelvis),
    ("PROSTATE", BodyRegion::Pelvis),
    ("SHOULDER", BodyRegion::UpperLimb),
    ("SKULL", BodyRegion::Head),
    ("SPINE", BodyRegion::Spine),
    ("SSPINE", BodyRegion::Spine),
    ("THYROID", BodyRegion::Neck),
    ("TSPINE", BodyRegion::Spine),
    ("UTERUS", BodyRegion::Pelvis),
    ("WHOLEBODY", BodyRegion::WholeBody),
    ("WRIST", BodyRegion::UpperLimb),
];

impl BodyRegion {
    /// The region of a Body Part Examined (0018,0015) value.
    pub fn from_dicom(body_part: &str) -> Self {
        let code = body_part.trim_matches([' ', '\0']).to_ascii_uppercase();
        let found = BODY_PARTS.binary_search_by(|(known, _)| known.cmp(&code.as_str()));
        found.ok().and_then(|index| BODY_PARTS.get(index)).map_or(BodyRegion::Unspecified, |entry| entry.1)
    }
}

numbered! {
    /// What another site may learn from the index before any decision. Set by the holder's rules.
    pub enum VisibilityClass ("visibility class") {
        /// The sealed part of the record is readable to whoever holds the key.
        Open = 1 "open",
        /// Only site and year are told.
        ExistenceOnly = 2 "existence-only",
        /// Not told until the patient releases it.
        Hidden = 3 "hidden",
    }
}

numbered! {
    /// Why an examination needs separate consent (sensitive personal information, PIPL article 28).
    pub enum SensitiveMark ("sensitive mark") {
        Psychiatry = 1 "psychiatry",
        Hiv = 2 "hiv",
        Reproduction = 3 "reproduction",
        SexualHealth = 4 "sexual-health",
        Genetics = 5 "genetics",
        Violence = 6 "violence",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modalities() {
        for (text, expected) in [("CT", Some("CT")), ("mr ", Some("MR")), ("", None), ("C T", None), ("超声", None)] {
            assert_eq!(Modality::parse(text).ok().as_ref().map(Modality::as_str), expected, "{text:?}");
        }
        assert!(Modality::parse("ABCDEFGHIJKLMNOPQ").is_err());
    }

    #[test]
    fn body_parts_are_sorted_and_found() {
        assert!(BODY_PARTS.windows(2).all(|pair| pair[0].0 < pair[1].0), "binary search needs the order");
        for (text, expected) in [
            ("CHEST", BodyRegion::Chest),
            ("lspine ", BodyRegion::Spine),
            ("BRAIN", BodyRegion::Head),
            ("NOSUCH", BodyRegion::Unspecified),
            ("", BodyRegion::Unspecified),
        ] {
            assert_eq!(BodyRegion::from_dicom(text), expected, "{text:?}");
        }
    }
}
