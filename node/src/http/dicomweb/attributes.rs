//! The attributes that QIDO-RS answers with and matches on (PS3.18 tables 10.6.3-3 to 10.6.3-5), in one table: what is
//! matched is what is shown.
//!
//! Values come from the catalogue, decoded to UTF-8; (0008,0005) therefore always says ISO_IR 192.

use std::collections::BTreeMap;

use dicom_core::dictionary::{DataDictionary, DataDictionaryEntry};
use dicom_core::header::VR;
use dicom_dictionary_std::StandardDataDictionary;
use serde_json::{Value, json};

use super::matching::{DateRange, Pattern, Rule, TimeRange, list};
use crate::archive::catalogue::{Description, ObjectRecord, SeriesRecord, StudyRecord};
use crate::dicom::json_values;

/// A tag as one number, group first.
pub type TagNumber = u32;

/// A data set of an answer; ordered by tag, since keys have eight digits.
pub type Item = BTreeMap<String, Value>;

pub const STUDY_INSTANCE_UID: TagNumber = 0x0020_000D;
pub const SERIES_INSTANCE_UID: TagNumber = 0x0020_000E;
pub const SOP_INSTANCE_UID: TagNumber = 0x0008_0018;
pub const PATIENT_ID: TagNumber = 0x0010_0020;
pub const ISSUER_OF_PATIENT_ID: TagNumber = 0x0010_0021;
pub const STUDY_DATE: TagNumber = 0x0008_0020;
pub const MODALITY: TagNumber = 0x0008_0060;
pub const MODALITIES_IN_STUDY: TagNumber = 0x0008_0061;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Study,
    Series,
    Instance,
}

enum Reading {
    Text(fn(&Description) -> &str),
    Count(fn(&Description) -> u32),
}

/// An attribute of the catalogue's description.
pub struct Attribute {
    pub tag: TagNumber,
    pub vr: VR,
    pub level: Level,
    reading: Reading,
}

const fn text(tag: TagNumber, vr: VR, level: Level, reading: fn(&Description) -> &str) -> Attribute {
    Attribute { tag, vr, level, reading: Reading::Text(reading) }
}

const fn count(tag: TagNumber, vr: VR, level: Level, reading: fn(&Description) -> u32) -> Attribute {
    Attribute { tag, vr, level, reading: Reading::Count(reading) }
}

const ATTRIBUTES: [Attribute; 28] = [
    text(STUDY_DATE, VR::DA, Level::Study, |d| &d.study_date),
    text(0x0008_0030, VR::TM, Level::Study, |d| &d.study_time),
    text(0x0008_0050, VR::SH, Level::Study, |d| &d.accession),
    text(0x0008_0090, VR::PN, Level::Study, |d| &d.referring_physician),
    text(0x0008_1030, VR::LO, Level::Study, |d| &d.study_description),
    text(0x0010_0010, VR::PN, Level::Study, |d| &d.patient_name),
    text(PATIENT_ID, VR::LO, Level::Study, |d| &d.patient_id),
    text(ISSUER_OF_PATIENT_ID, VR::LO, Level::Study, |d| &d.issuer),
    text(0x0010_0030, VR::DA, Level::Study, |d| &d.birth_date),
    text(0x0010_0040, VR::CS, Level::Study, |d| &d.sex),
    text(STUDY_INSTANCE_UID, VR::UI, Level::Study, |d| &d.study),
    text(0x0020_0010, VR::SH, Level::Study, |d| &d.study_id),
    text(0x0008_0021, VR::DA, Level::Series, |d| &d.series_date),
    text(0x0008_0031, VR::TM, Level::Series, |d| &d.series_time),
    text(MODALITY, VR::CS, Level::Series, |d| &d.modality),
    text(0x0008_0070, VR::LO, Level::Series, |d| &d.manufacturer),
    text(0x0008_0080, VR::LO, Level::Series, |d| &d.institution),
    text(0x0008_103E, VR::LO, Level::Series, |d| &d.series_description),
    text(0x0008_1090, VR::LO, Level::Series, |d| &d.device_model),
    text(0x0018_0015, VR::CS, Level::Series, |d| &d.body_part),
    text(SERIES_INSTANCE_UID, VR::UI, Level::Series, |d| &d.series),
    text(0x0020_0011, VR::IS, Level::Series, |d| &d.series_number),
    text(0x0008_0016, VR::UI, Level::Instance, |d| &d.sop_class),
    text(SOP_INSTANCE_UID, VR::UI, Level::Instance, |d| &d.sop_instance),
    text(0x0020_0013, VR::IS, Level::Instance, |d| &d.instance_number),
    count(0x0028_0008, VR::IS, Level::Instance, |d| d.frames),
    count(0x0028_0010, VR::US, Level::Instance, |d| d.rows),
    count(0x0028_0011, VR::US, Level::Instance, |d| d.columns),
];

/// The attribute with this tag, if the catalogue has it.
pub fn attribute(tag: TagNumber) -> Option<&'static Attribute> {
    ATTRIBUTES.iter().find(|attribute| attribute.tag == tag)
}

impl Attribute {
    pub fn value(&self, description: &Description) -> String {
        match self.reading {
            Reading::Text(read) => read(description).to_owned(),
            // Zero stands for absent.
            Reading::Count(read) => {
                Some(read(description)).filter(|n| *n > 0).map(|n| n.to_string()).unwrap_or_default()
            }
        }
    }

    fn field(&self, description: &Description) -> Value {
        let value = match self.reading {
            Reading::Text(read) => json_values::texts(self.vr, read(description)),
            Reading::Count(read) => Some(read(description)).filter(|n| *n > 0).map(|n| json!([n])),
        };
        json_values::field(self.vr, value.map(|value| ("Value", value)))
    }
}

/// The rule for a value that a client gave; the error says what is wrong with it.
pub fn rule(tag: TagNumber, vr: VR, value: &str, fuzzy: bool) -> Result<Rule, String> {
    if value.chars().count() > super::matching::PATTERN_CHARS_MAX && vr != VR::UI {
        return Err(format!("it has more than {} characters", super::matching::PATTERN_CHARS_MAX));
    }
    // Descriptions are read by people, who don't mind the case; codes and numbers are not.
    const IGNORES_CASE: [TagNumber; 2] = [0x0008_1030, 0x0008_103E];
    match vr {
        VR::UI => Ok(Rule::OneOf(list(value))),
        VR::DA => DateRange::parse(value)
            .map(Rule::Dates)
            .ok_or_else(|| "dates are YYYYMMDD, and ranges YYYYMMDD-YYYYMMDD, YYYYMMDD- or -YYYYMMDD".to_owned()),
        VR::TM => TimeRange::parse(value).map(Rule::Times).ok_or_else(|| {
            "times are HH, HHMM or HHMMSS.FFFFFF, and ranges HHMMSS-HHMMSS, HHMMSS- or -HHMMSS".to_owned()
        }),
        VR::PN => Ok(Rule::Name(Pattern::name(value, fuzzy))),
        VR::CS if value.contains([',', '\\']) => Ok(Rule::OneOf(list(value))),
        _ => Ok(Rule::Text(Pattern::new(value, IGNORES_CASE.contains(&tag)))),
    }
}

/// The tag of a keyword (`PatientID`) or of eight digits (`00100020`).
pub fn tag_of(name: &str) -> Option<TagNumber> {
    if name.len() == 8 && name.bytes().all(|b| b.is_ascii_hexdigit()) {
        return u32::from_str_radix(name, 16).ok();
    }
    let tag = StandardDataDictionary.by_name(name)?.tag();
    Some(u32::from(tag.0) << 16 | u32::from(tag.1))
}

/// Whether an answer can have an attribute, on whatever level.
pub fn is_kept(tag: TagNumber) -> bool {
    // What answers have besides the description, as the functions below put it.
    const BESIDES: [TagNumber; 10] = [
        0x0008_0005,
        0x0008_0054,
        0x0008_0056,
        MODALITIES_IN_STUDY,
        0x0008_0080,
        0x0008_1190,
        0x0008_3002,
        0x0020_1206,
        0x0020_1208,
        0x0020_1209,
    ];
    attribute(tag).is_some() || BESIDES.contains(&tag)
}

pub fn key(tag: TagNumber) -> String {
    format!("{tag:08X}")
}

/// Puts a value that the description does not have.
pub fn put(item: &mut Item, tag: TagNumber, vr: VR, value: Value) {
    item.insert(key(tag), json_values::field(vr, Some(("Value", value))));
}

fn describe(item: &mut Item, description: &Description, level: Level) {
    for attribute in ATTRIBUTES.iter().filter(|attribute| attribute.level == level) {
        item.insert(key(attribute.tag), attribute.field(description));
    }
}

/// Where an answer points to: this node, which also gets what is elsewhere.
pub struct Place<'a> {
    /// `http://host/dicom-web`
    pub root: &'a str,
    pub ae_title: &'a str,
}

impl Place<'_> {
    fn put(&self, item: &mut Item, path: &str) {
        put(item, 0x0008_1190, VR::UR, json!([format!("{}{path}", self.root)]));
        put(item, 0x0008_0054, VR::AE, json!([self.ae_title]));
    }
}

fn begin() -> Item {
    let mut item = Item::new();
    put(&mut item, 0x0008_0005, VR::CS, json!(["ISO_IR 192"]));
    item
}

/// A study of this archive. `holder` is the name of the site that has the original.
pub fn study_item(record: &StudyRecord, holder: &str, place: &Place<'_>) -> Item {
    let mut item = begin();
    describe(&mut item, &record.description, Level::Study);
    put(&mut item, MODALITIES_IN_STUDY, VR::CS, json!(record.modalities));
    put(&mut item, 0x0008_0056, VR::CS, json!(["ONLINE"]));
    put(&mut item, 0x0008_0080, VR::LO, json!([holder]));
    put(&mut item, 0x0020_1206, VR::IS, json!([record.series]));
    put(&mut item, 0x0020_1208, VR::IS, json!([record.objects]));
    place.put(&mut item, &format!("/studies/{}", record.description.study));
    item
}

pub fn series_item(record: &SeriesRecord, place: &Place<'_>) -> Item {
    let mut item = begin();
    describe(&mut item, &record.description, Level::Study);
    describe(&mut item, &record.description, Level::Series);
    put(&mut item, 0x0020_1209, VR::IS, json!([record.objects]));
    put(&mut item, 0x0008_0056, VR::CS, json!(["ONLINE"]));
    place.put(&mut item, &format!("/studies/{}/series/{}", record.description.study, record.description.series));
    item
}

pub fn instance_item(record: &ObjectRecord, place: &Place<'_>) -> Item {
    let mut item = begin();
    let d = &record.description;
    for level in [Level::Study, Level::Series, Level::Instance] {
        describe(&mut item, d, level);
    }
    put(&mut item, 0x0008_0056, VR::CS, json!(["ONLINE"]));
    put(&mut item, 0x0008_3002, VR::UI, json!([record.receipt.transfer_syntax]));
    place.put(&mut item, &format!("/studies/{}/series/{}/instances/{}", d.study, d.series, d.sop_instance));
    item
}

/// A study that another site holds: what the ledger says of it, and nothing more.
pub struct Elsewhere<'a> {
    pub study_uid: &'a str,
    pub study_date: &'a str,
    pub modalities: &'a [String],
    pub body_region: &'a str,
    pub objects: u32,
    /// Names of the sites that hold it.
    pub holders: Vec<&'a str>,
    pub patient_id: &'a str,
    pub issuer: &'a str,
    /// Another patient's study is here under its UID: no address of this node means this one.
    pub collides: bool,
}

pub fn elsewhere_item(study: &Elsewhere<'_>, place: &Place<'_>) -> Item {
    let mut item = begin();
    let known = Description {
        study: study.study_uid.to_owned(),
        study_date: study.study_date.to_owned(),
        patient_id: study.patient_id.to_owned(),
        issuer: study.issuer.to_owned(),
        ..Default::default()
    };
    describe(&mut item, &known, Level::Study);
    put(&mut item, MODALITIES_IN_STUDY, VR::CS, json!(study.modalities));
    put(&mut item, 0x0008_0056, VR::CS, json!(["NEARLINE"]));
    put(&mut item, 0x0008_0080, VR::LO, json!(study.holders));
    if !study.body_region.is_empty() {
        put(&mut item, 0x0018_0015, VR::CS, json!([study.body_region]));
    }
    put(&mut item, 0x0020_1208, VR::IS, json!([study.objects]));
    if !study.collides {
        place.put(&mut item, &format!("/studies/{}", study.study_uid));
    }
    item
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_known_by_keyword_and_number() {
        let table = [
            ("PatientID", Some(PATIENT_ID)),
            ("00100020", Some(PATIENT_ID)),
            ("StudyInstanceUID", Some(STUDY_INSTANCE_UID)),
            ("0020000d", Some(STUDY_INSTANCE_UID)),
            ("PatientsName", None),
            ("limit", None),
            ("", None),
        ];
        for (name, expected) in table {
            assert_eq!(tag_of(name), expected, "{name}");
        }
    }

    #[test]
    fn tags_are_listed_once_and_with_their_own_vr() {
        for attribute in &ATTRIBUTES {
            let same = ATTRIBUTES.iter().filter(|other| other.tag == attribute.tag).count();
            assert_eq!(same, 1, "{:08X}", attribute.tag);
            // The halves of the number.
            let tag = dicom_core::Tag((attribute.tag >> 16) as u16, attribute.tag as u16);
            let entry = StandardDataDictionary.by_tag(tag).expect("a standard attribute");
            assert_eq!(entry.vr().relaxed(), attribute.vr, "{}", entry.alias());
        }
    }

    #[test]
    fn an_absent_value_has_no_value() {
        let field = attribute(0x0028_0010).expect("Rows").field(&Description::default());
        assert_eq!(field, json!({"vr": "US"}));
        let name = Description { patient_name: "Wang=王".into(), ..Default::default() };
        let field = attribute(0x0010_0010).expect("a name").field(&name);
        assert_eq!(field["Value"][0], json!({"Alphabetic": "Wang", "Ideographic": "王"}));
    }
}
