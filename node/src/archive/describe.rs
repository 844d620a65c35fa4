//! From a data set's facts to the catalogue's description: all text in UTF-8, absent values empty.
//!
//! The issuer of a patient number is the data set's own (0010,0021), or the site's where the device says none: a
//! number without an issuer means nothing in a federation.

use crate::dicom::charset::CharsetVerdict;
use crate::dicom::facts::{Damage, DicomDate, ObjectFacts};

use super::catalogue::Description;

fn date(date: Option<DicomDate>) -> String {
    date.map(|date| date.to_string()).unwrap_or_default()
}

fn number(number: Option<i32>) -> String {
    number.map(|number| number.to_string()).unwrap_or_default()
}

/// Longest texts that are kept, in characters. DICOM allows 64 in most and 16 in codes (PS3.5 table 6.2-1); senders
/// that exceed this a little are common, and an archive's records stay small.
const TEXT_CHARS_MAX: usize = 256;
const CODE_CHARS_MAX: usize = 32;
/// Three groups of 64 characters with their delimiters, and room for senders that exceed it.
const NAME_CHARS_MAX: usize = 512;

fn cut(text: &str, chars_max: usize) -> String {
    text.chars().take(chars_max).collect()
}

fn text(value: &str) -> String {
    cut(value, TEXT_CHARS_MAX)
}

fn code(value: &str) -> String {
    cut(value, CODE_CHARS_MAX)
}

/// Whether the data set can't be read to its end.
pub fn is_damaged(facts: &ObjectFacts) -> bool {
    matches!(facts.damage, Some(Damage::Broken { .. }))
}

pub fn from_facts(facts: &ObjectFacts, default_issuer: &str) -> Description {
    let issuer = if facts.patient.issuer.is_empty() { default_issuer } else { &facts.patient.issuer };
    Description {
        sop_class: facts.sop_class.as_str().to_owned(),
        sop_instance: facts.sop_instance.as_str().to_owned(),
        series: facts.series_instance.as_str().to_owned(),
        study: facts.study_instance.as_str().to_owned(),
        issuer: text(issuer),
        patient_id: text(&facts.patient.id),
        patient_name: cut(&facts.patient.name.full(), NAME_CHARS_MAX),
        sex: code(&facts.patient.sex),
        birth_date: date(facts.patient.birth_date),
        study_date: date(facts.study.date),
        study_time: code(&facts.study.time),
        study_description: text(&facts.study.description),
        study_id: text(&facts.study.id),
        accession: text(&facts.study.accession_number),
        referring_physician: cut(&facts.study.referring_physician.full(), NAME_CHARS_MAX),
        institution: text(&facts.series.institution),
        modality: code(&facts.series.modality),
        body_part: code(&facts.series.body_part),
        series_number: number(facts.series.number),
        series_description: text(&facts.series.description),
        series_date: date(facts.instance.acquisition_date),
        series_time: code(&facts.instance.acquisition_time),
        instance_number: number(facts.instance.number),
        rows: facts.instance.rows.unwrap_or(0).into(),
        columns: facts.instance.columns.unwrap_or(0).into(),
        frames: facts.instance.frames,
        manufacturer: text(&facts.series.manufacturer),
        device_model: text(&facts.series.model),
        character_set_note: text(&note(&facts.charset)),
    }
}

/// In words for the operator; empty when the declaration fits.
fn note(verdict: &CharsetVerdict) -> String {
    let used =
        |sets: &crate::dicom::charset::CharacterSets| sets.iter().map(|set| set.term()).collect::<Vec<_>>().join("\\");
    match verdict {
        CharsetVerdict::Declared { .. } => String::new(),
        CharsetVerdict::Overridden { declared, used: sets } => {
            format!("declared {declared:?}, read as {} by the sender's setting", used(sets))
        }
        CharsetVerdict::Detected { declared, used: sets } => format!("declared {declared:?}, is {}", used(sets)),
        CharsetVerdict::Undecodable { declared, .. } => format!("declared {declared:?}, and nothing fits"),
    }
}
