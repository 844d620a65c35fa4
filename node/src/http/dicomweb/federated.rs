//! A patient's studies at all sites, as one list: what is here from the catalogue, what is elsewhere from the ledger.
//!
//! One entry a study: copies are places of one record. A study that is here, original or open copy, is ONLINE; the others
//! are NEARLINE and come through this node, since a workstation knows no other. What could not be asked is told, and what
//! is here is shown in any case.

use std::collections::{BTreeMap, BTreeSet};

use super::attributes::{
    Elsewhere, ISSUER_OF_PATIENT_ID, Item, Level, PATIENT_ID, Place, STUDY_DATE, STUDY_INSTANCE_UID, attribute,
    elsewhere_item, study_item,
};
use super::query::Query;
use super::search::{self, Found, IsOpen};
use crate::archive::Archive;
use crate::archive::catalogue::{self, Description, LocalPatient, StudyRecord};
use crate::archive::copies::{self, Shown};
use crate::control::wire::{HistoryDone, HistoryStudy};
use crate::http::error::HttpError;
use crate::http::{Client, Service, whose};
use tessera_policy::IdentifierKind;

/// A patient as QIDO names one: a number and who issued it.
#[derive(Clone)]
pub struct PatientAsked {
    pub patient_id: String,
    pub issuer: String,
}

impl PatientAsked {
    pub fn of(query: &Query) -> Option<Self> {
        let (patient_id, issuer) = (query.exact(PATIENT_ID)?, query.exact(ISSUER_OF_PATIENT_ID)?);
        Some(Self { patient_id: patient_id.to_owned(), issuer: issuer.to_owned() })
    }

    /// The identifier as commands write it: `resident:..`, `insurance:REGION/..`, `hospital:ISSUER/..`.
    pub fn command_form(&self) -> String {
        let kind = |text: &str| text.parse::<IdentifierKind>().ok();
        match self.issuer.split_once(':') {
            None if kind(&self.issuer).is_some_and(IdentifierKind::is_person_wide) => {
                format!("{}:{}", self.issuer, self.patient_id)
            }
            Some((name, issuer)) if kind(name).is_some() => format!("{name}:{issuer}/{}", self.patient_id),
            _ => format!("hospital:{}/{}", self.issuer, self.patient_id),
        }
    }
}

/// The history of a patient, or why there is none.
pub async fn history(service: &Service, patient: &PatientAsked, user: String) -> Result<HistoryDone, String> {
    let found = whose::history(&*service.federated, patient.command_form(), user).await;
    found.map_err(|why| format!("other sites' examinations are missing: {why}"))
}

/// One list of both. What is here counts only when it is this patient's: by the number here, or by the record that the
/// ledger has under this patient. A UID alone says nothing of whose a study is. Blocks for the catalogue.
pub fn merge(
    archive: &Archive,
    query: &Query,
    patient: &PatientAsked,
    history: &HistoryDone,
    open: &IsOpen<'_>,
    place: &Place<'_>,
    client: &Client,
) -> Result<Found, HttpError> {
    let view = &**archive.engine();
    let by_uid = by_uid(&history.studies);
    let local = LocalPatient::of(&patient.issuer, &patient.patient_id);
    let locals = catalogue::studies_of(view, &local, search::CANDIDATES_MAX + 1)?;
    let mut warnings = search::told(query, Level::Study);
    warnings.extend((locals.len() > search::CANDIDATES_MAX).then(search::number_warning));
    let locals: BTreeSet<String> = locals.into_iter().collect();
    let uids: BTreeSet<&str> = by_uid.keys().copied().chain(locals.iter().map(String::as_str)).collect();
    let mut rows: Vec<(String, String, Item)> = Vec::new();
    let (mut unchecked, mut colliding) = (0, Vec::new());
    for uid in uids {
        client.is_there()?;
        let places = by_uid.get(uid).map(Vec::as_slice).unwrap_or_default();
        let is_own = |_: &StudyRecord| locals.contains(uid) || places.iter().any(|study| study.here);
        let found = copies::of_patient(view, uid, is_own, |copy| whose::is_among(places.iter().copied(), copy), open)?;
        let (date, item) = match found.shown {
            Some(Shown::Own(own)) if here_matches(query, &own) => {
                (own.description.study_date.clone(), study_item(&own, search::holder_of(archive, &own), place))
            }
            Some(Shown::Copy(copy)) if !found.collides && here_matches(query, &copy.study) => {
                let holder = places.iter().find(|study| study.site == copy.id.holder.as_str());
                let holder = holder.map_or(copy.id.holder.as_str(), |study| &study.site_name);
                (copy.study.description.study_date.clone(), study_item(&copy.study, holder, place))
            }
            Some(_) if !found.collides => continue,
            _ => match (elsewhere_matches(query, places, patient), places.iter().max_by_key(|study| study.revision)) {
                (Some(true), Some(newest)) => {
                    colliding.extend(found.collides.then_some(uid));
                    (newest.study_date.clone(), row(newest, places, patient, found.collides, place))
                }
                (None, _) => {
                    unchecked += 1;
                    continue;
                }
                _ => continue,
            },
        };
        rows.push((date, uid.to_owned(), item));
    }
    if unchecked > 0 {
        warnings.push(format!(
            "{unchecked} examinations at other sites were left out: only study UID, date and modality can be matched before a fetch"
        ));
    }
    // By the number here it is the patient's whoever linked what.
    let elsewhere = rows.iter().filter(|(_, uid, _)| !locals.contains(uid));
    warnings.extend(elsewhere.filter_map(|(_, uid, _)| by_link(uid, by_uid.get(uid.as_str())?)));
    warnings.extend(colliding.into_iter().map(|uid| format!("study {uid} is {}", copies::COLLIDES)));
    rows.sort_by(|a, b| (&b.0, &a.1).cmp(&(&a.0, &b.1)));
    let rows = search::page(rows, query, &mut warnings);
    Ok(Found { items: rows.into_iter().map(|(_, _, item)| item).collect(), warnings })
}

/// Of a study that only links bring under this patient.
fn by_link(uid: &str, places: &[&HistoryStudy]) -> Option<String> {
    let links: Option<Vec<String>> = places.iter().map(|study| study.by_link(&study.under)).collect();
    Some(format!("study {uid} lies {}", links?.first()?))
}

/// Records of each study: one a site that holds it.
fn by_uid(studies: &[HistoryStudy]) -> BTreeMap<&str, Vec<&HistoryStudy>> {
    let mut by_uid: BTreeMap<&str, Vec<&HistoryStudy>> = BTreeMap::new();
    for study in studies {
        by_uid.entry(&study.study_uid).or_default().push(study);
    }
    by_uid
}

fn here_matches(query: &Query, record: &StudyRecord) -> bool {
    query.holds_besides_patient(&record.description, Level::Study) && query.holds_modalities(record.modalities.iter())
}

/// `None`: a condition can't be checked on what the ledger says.
fn elsewhere_matches(query: &Query, places: &[&HistoryStudy], patient: &PatientAsked) -> Option<bool> {
    const CHECKED: [u32; 4] = [STUDY_INSTANCE_UID, STUDY_DATE, PATIENT_ID, ISSUER_OF_PATIENT_ID];
    let study = places.first()?;
    let known = Description {
        study: study.study_uid.clone(),
        study_date: study.study_date.clone(),
        patient_id: patient.patient_id.clone(),
        issuer: patient.issuer.clone(),
        ..Default::default()
    };
    let of_study = query.conditions.iter().filter_map(|condition| Some((condition, attribute(condition.tag)?)));
    let (checkable, unknown): (Vec<_>, Vec<_>) = of_study
        .filter(|(_, attribute)| attribute.level == Level::Study)
        .partition(|(condition, _)| CHECKED.contains(&condition.tag));
    let holds = checkable.iter().all(|(condition, attribute)| condition.rule.matches(&attribute.value(&known)))
        && query.holds_modalities(places.iter().flat_map(|study| &study.modalities));
    // What fails a condition that can be checked is out, whatever the others would say.
    if holds { unknown.is_empty().then_some(true) } else { Some(false) }
}

fn row(
    study: &HistoryStudy,
    places: &[&HistoryStudy],
    patient: &PatientAsked,
    collides: bool,
    place: &Place<'_>,
) -> Item {
    let elsewhere = Elsewhere {
        study_uid: &study.study_uid,
        study_date: &study.study_date,
        modalities: &study.modalities,
        body_region: &study.body_region,
        objects: study.objects,
        holders: places.iter().map(|study| study.site_name.as_str()).collect(),
        patient_id: &patient.patient_id,
        issuer: &patient.issuer,
        collides,
    };
    elsewhere_item(&elsewhere, place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issuers_may_name_a_kind() {
        let table = [
            ("110105194912310021", "resident", "resident:110105194912310021"),
            ("E1234", "passport", "passport:E1234"),
            ("42", "HOSP-A", "hospital:HOSP-A/42"),
            ("887766", "insurance:510100", "insurance:510100/887766"),
            ("42", "hospital:HOSP-A", "hospital:HOSP-A/42"),
            ("42", "hospital", "hospital:hospital/42"),
            ("42", "urn:oid:1.2", "hospital:urn:oid:1.2/42"),
        ];
        for (patient_id, issuer, expected) in table {
            let patient = PatientAsked { patient_id: patient_id.into(), issuer: issuer.into() };
            assert_eq!(patient.command_form(), expected);
        }
    }
}
