//! From a data set's facts to the catalogue's description: all text in UTF-8, absent values empty.
//!
//! The issuer of a patient number is the data set's own (0010,0021), or the site's where the device says none: a
//! number without an issuer means nothing in a federation.

use crate::dicom::charset::{CharsetPolicy, CharsetVerdict};
use crate::dicom::dataset::DataSetError;
use crate::dicom::facts::{DicomDate, ObjectFacts};
use crate::dicom::syntax::TransferSyntax;

use super::catalogue::Description;

/// Reads a data set that is in memory.
pub fn describe(
    data_set: &[u8],
    syntax: &TransferSyntax,
    policy: &CharsetPolicy,
    default_issuer: &str,
) -> Result<Description, DataSetError> {
    Ok(from_facts(&ObjectFacts::of(data_set, syntax, policy)?, default_issuer))
}

fn date(date: Option<DicomDate>) -> String {
    date.map(|date| date.to_string()).unwrap_or_default()
}

fn number(number: Option<i32>) -> String {
    number.map(|number| number.to_string()).unwrap_or_default()
}

pub fn from_facts(facts: &ObjectFacts, default_issuer: &str) -> Description {
    let issuer = if facts.patient.issuer.is_empty() { default_issuer } else { &facts.patient.issuer };
    Description {
        sop_class: facts.sop_class.as_str().to_owned(),
        sop_instance: facts.sop_instance.as_str().to_owned(),
        series: facts.series_instance.as_str().to_owned(),
        study: facts.study_instance.as_str().to_owned(),
        issuer: issuer.to_owned(),
        patient_id: facts.patient.id.clone(),
        patient_name: facts.patient.name.full(),
        sex: facts.patient.sex.clone(),
        birth_date: date(facts.patient.birth_date),
        study_date: date(facts.study.date),
        study_time: facts.study.time.clone(),
        study_description: facts.study.description.clone(),
        study_id: facts.study.id.clone(),
        accession: facts.study.accession_number.clone(),
        referring_physician: facts.study.referring_physician.full(),
        institution: facts.series.institution.clone(),
        modality: facts.series.modality.clone(),
        body_part: facts.series.body_part.clone(),
        series_number: number(facts.series.number),
        series_description: facts.series.description.clone(),
        series_date: date(facts.instance.acquisition_date),
        series_time: facts.instance.acquisition_time.clone(),
        instance_number: number(facts.instance.number),
        rows: facts.instance.rows.unwrap_or(0).into(),
        columns: facts.instance.columns.unwrap_or(0).into(),
        frames: facts.instance.frames,
        manufacturer: facts.series.manufacturer.clone(),
        device_model: facts.series.model.clone(),
        character_set_note: note(&facts.charset),
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
