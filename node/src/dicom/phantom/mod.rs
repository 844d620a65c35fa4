//! `tessera phantom`: realistic examinations of generated persons, for demonstrations, tests and measurements.
//!
//! CT, MR, DX and multi-frame US objects with the attributes that R-D3 asks for and pictures that look like bodies
//! in a viewer; Chinese names and descriptions in GB18030, UTF-8, GBK and GBK under a wrong declaration, by hospital;
//! local patient numbers, and a crosswalk that maps them to (generated, impossible) resident numbers.
//!
//! Deterministic: the same specification gives the same bytes on every machine. Objects are made one at a time, so
//! memory stays at one image whatever is asked for.

mod anatomy;
mod attributes;
mod command;
mod element_writer;
mod folder;
mod persons;
mod plan;
mod radiology;
#[cfg(test)]
mod tests;
mod texture;
mod ultrasound;

pub use command::run;
pub use plan::PhantomSpec;

use self::attributes::Image;
use self::plan::{Examination, Kind};
use super::identifiers::Uid;
use super::syntax::{EXPLICIT_LITTLE, IMPLICIT_LITTLE};

/// A generated object.
#[derive(Debug, Clone)]
pub struct PhantomObject {
    /// Relative, with `/` between its parts: folder, examination, series, image.
    pub file_name: String,
    pub sop_class: Uid,
    pub sop_instance: Uid,
    pub transfer_syntax: Uid,
    pub data_set: Vec<u8>,
}

/// One line of the crosswalk: what a hospital calls a person, and the person's own number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CrosswalkLine {
    pub issuer: String,
    pub patient_id: String,
    pub kind: &'static str,
    pub value: String,
    pub name: String,
    pub sex: &'static str,
    pub birth_date: String,
}

/// All objects of a specification, made one at a time.
pub fn generate(spec: &PhantomSpec) -> impl Iterator<Item = PhantomObject> + use<> {
    plan::examinations(spec).into_iter().flat_map(|examination| {
        let places: Vec<(usize, u32)> = examination
            .series
            .iter()
            .enumerate()
            .flat_map(|(series, plan)| (0..plan.images).map(move |index| (series, index)))
            .collect();
        places.into_iter().filter_map(move |(series, index)| object(&examination, series, index))
    })
}

/// Number of objects of a specification.
pub fn count(spec: &PhantomSpec) -> u64 {
    plan::examinations(spec).iter().map(|examination| u64::from(examination.images())).sum()
}

/// The crosswalk of a specification, sorted, each line once.
pub fn crosswalk(spec: &PhantomSpec) -> Vec<CrosswalkLine> {
    let mut lines: Vec<CrosswalkLine> = plan::examinations(spec)
        .into_iter()
        .map(|examination| CrosswalkLine {
            issuer: examination.hospital.issuer,
            patient_id: examination.patient_id,
            kind: "resident",
            value: examination.person.resident_number(),
            name: examination.person.name(),
            sex: examination.person.sex(),
            birth_date: examination.person.birth_date(),
        })
        .collect();
    lines.sort();
    lines.dedup();
    lines
}

/// The person who has been at every hospital, as an identifier to ask for.
pub fn shared_patient(spec: &PhantomSpec) -> String {
    format!("resident:{}", persons::Person::generate(spec.seed, 0).resident_number())
}

/// `None` cannot happen with UIDs of our own making; an object less is better than a panic.
fn object(examination: &Examination, series: usize, index: u32) -> Option<PhantomObject> {
    let series = examination.series.get(series)?;
    let image = Image { examination, series, index };
    let elements = match examination.kind {
        Kind::CtChest | Kind::CtHead => radiology::ct(&image),
        Kind::MrHead => radiology::mr(&image),
        Kind::DxChest => radiology::dx(&image),
        Kind::UsAbdomen => ultrasound::clip(&image),
    };
    // MR speaks implicit little endian, the default syntax, so that both forms occur.
    let explicit = examination.kind != Kind::MrHead;
    let syntax = if explicit { EXPLICIT_LITTLE } else { IMPLICIT_LITTLE };
    let Examination { folder, accession, .. } = examination;
    Some(PhantomObject {
        file_name: format!("{folder}/{accession}/S{:02}/I{:04}.dcm", series.number, index + 1),
        sop_class: Uid::parse(examination.kind.sop_class()).ok()?,
        sop_instance: Uid::parse(&series.instance_uid(index)).ok()?,
        transfer_syntax: Uid::parse(syntax).ok()?,
        data_set: elements.write(explicit),
    })
}
