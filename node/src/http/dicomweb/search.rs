//! QIDO-RS on this archive: candidates come from the catalogue's indexes, never from a scan without bound.
//!
//! A patient's number leads to that patient's studies, a study's UID to the study, everything else goes through the
//! index by date, newest first, for at most `CANDIDATES_MAX` studies. Whatever bound was met is told with the answer.

use std::collections::BTreeSet;

use tessera_storage::engine::View;

use super::attributes::{
    ISSUER_OF_PATIENT_ID, Item, Level, MODALITY, PATIENT_ID, Place, STUDY_INSTANCE_UID, instance_item, series_item,
    study_item,
};
use super::matching::Rule;
use super::query::Query;
use crate::archive::Archive;
use crate::archive::catalogue::{self, LocalPatient, StudyRecord};
use crate::http::error::HttpError;

/// Studies that are looked at for one answer.
pub const CANDIDATES_MAX: usize = 20_000;
/// Issuers that a patient's number without issuer is tried under.
const ISSUERS_MAX: usize = 256;

/// What was found.
#[derive(Default)]
pub struct Found {
    pub items: Vec<Item>,
    /// What the client should know about the answer's completeness.
    pub warnings: Vec<String>,
}

/// The name of the site that has the original of a study.
pub fn holder_of<'a>(archive: &'a Archive, record: &'a StudyRecord) -> &'a str {
    if let Some(site) = &record.fetched_from {
        return site;
    }
    let sites = &archive.config().site;
    sites.iter().find(|site| site.id.as_str() == record.site).map_or(&record.site, |site| &site.legal_name)
}

/// Candidates, and whether there may be more.
struct Candidates {
    uids: Vec<String>,
    cut: bool,
    newest_first: bool,
}

fn candidates(view: &dyn View, query: &Query) -> Result<Candidates, HttpError> {
    if let Some(Rule::OneOf(uids)) = query.rule(STUDY_INSTANCE_UID) {
        return Ok(Candidates { uids: uids.iter().cloned().collect(), cut: false, newest_first: false });
    }
    if let Some(patient_id) = query.exact(PATIENT_ID) {
        let mut uids = BTreeSet::new();
        let issuers = match query.exact(ISSUER_OF_PATIENT_ID) {
            Some(issuer) => vec![issuer.to_owned()],
            None => catalogue::issuers(view, ISSUERS_MAX)?,
        };
        for issuer in issuers {
            let patient = LocalPatient::of(&issuer, patient_id);
            uids.extend(catalogue::studies_of(view, &patient, CANDIDATES_MAX)?);
        }
        return Ok(Candidates { uids: uids.into_iter().collect(), cut: false, newest_first: false });
    }
    // Without other conditions each candidate is a result; one more tells whether there are more.
    let only_dates =
        query.conditions.iter().all(|condition| Some(&condition.rule) == query.rule(super::attributes::STUDY_DATE));
    let wanted = query.offset.saturating_add(query.limit).saturating_add(1);
    let bound = if only_dates { wanted } else { CANDIDATES_MAX };
    let (from, to) = query.dates().map_or(("", "99999999"), |range| (&*range.from, &*range.to));
    let uids = catalogue::studies_by_date(view, from, to, bound)?;
    Ok(Candidates { cut: !only_dates && uids.len() == bound, uids, newest_first: true })
}

/// The studies that match, newest first, not yet cut to the page.
pub struct Studies {
    pub records: Vec<StudyRecord>,
    cut: bool,
}

pub fn studies(view: &dyn View, query: &Query) -> Result<Studies, HttpError> {
    let candidates = candidates(view, query)?;
    let mut records = Vec::new();
    for uid in &candidates.uids {
        let Some(record) = catalogue::study(view, uid)? else { continue };
        if matches(query, &record) {
            records.push(record);
        }
        // One more than the page: it says that there are more.
        if candidates.newest_first && records.len() > query.offset.saturating_add(query.limit) {
            break;
        }
    }
    if !candidates.newest_first {
        sort(&mut records);
    }
    Ok(Studies { records, cut: candidates.cut })
}

fn matches(query: &Query, record: &StudyRecord) -> bool {
    query.holds(&record.description, Level::Study) && query.holds_modalities(record.modalities.iter())
}

pub fn sort(records: &mut [StudyRecord]) {
    records.sort_by(|a, b| {
        let when =
            |record: &StudyRecord| (record.description.study_date.clone(), record.description.study_time.clone());
        when(b).cmp(&when(a)).then_with(|| a.description.study.cmp(&b.description.study))
    });
}

/// The page of the results, and a warning when it is not the last.
pub fn page<T>(results: Vec<T>, query: &Query, warnings: &mut Vec<String>) -> Vec<T> {
    let total = results.len();
    let page: Vec<T> = results.into_iter().skip(query.offset).take(query.limit).collect();
    if query.offset.saturating_add(query.limit) < total {
        let next = query.offset.saturating_add(query.limit);
        warnings.push(format!("there are more results: ask again with offset={next}"));
    }
    page
}

pub fn cut_warning() -> String {
    format!(
        "only the {CANDIDATES_MAX} newest examinations in the range were searched; narrow it by StudyDate or PatientID"
    )
}

/// QIDO-RS studies, of this archive alone.
pub fn study_items(archive: &Archive, query: &Query, place: &Place<'_>) -> Result<Found, HttpError> {
    let found = studies(&**archive.engine(), query)?;
    let mut warnings = unmatched(query, Level::Study);
    if found.cut {
        warnings.push(cut_warning());
    }
    let page = page(found.records, query, &mut warnings);
    let items = page.iter().map(|record| study_item(record, holder_of(archive, record), place)).collect();
    Ok(Found { items, warnings })
}

/// Conditions on a level below the one that is searched have no meaning there, and the answer says that they were left out.
pub fn unmatched(query: &Query, level: Level) -> Vec<String> {
    let below = query.conditions.iter().filter_map(|condition| super::attributes::attribute(condition.tag));
    let below = below.filter(|attribute| attribute.level > level && attribute.tag != MODALITY);
    let names: Vec<String> =
        query.left_out.iter().cloned().chain(below.map(|attribute| format!("{:08X}", attribute.tag))).collect();
    if names.is_empty() {
        return Vec::new();
    }
    vec![format!("the following were not matched, so there may be more results than asked for: {}", names.join(", "))]
}

/// QIDO-RS series and instances: of one study, or of all that match.
pub fn part_items(archive: &Archive, query: &Query, level: Level, place: &Place<'_>) -> Result<Found, HttpError> {
    let view = &**archive.engine();
    // The page is counted in parts, so studies are not cut by it.
    let of_studies = Query { limit: CANDIDATES_MAX, offset: 0, ..query.clone() };
    let found = studies(view, &of_studies)?;
    let mut warnings = unmatched(query, level);
    let wanted = query.offset.saturating_add(query.limit).saturating_add(1);
    let mut items = Vec::new();
    for study in &found.records {
        match level {
            Level::Instance => instances(view, query, study, place, &mut items)?,
            _ => series(view, query, study, place, &mut items)?,
        }
        if items.len() >= wanted {
            break;
        }
    }
    if found.cut {
        warnings.push(cut_warning());
    }
    let items = page(items, query, &mut warnings);
    Ok(Found { items, warnings })
}

fn series(
    view: &dyn View,
    query: &Query,
    study: &StudyRecord,
    place: &Place<'_>,
    items: &mut Vec<Item>,
) -> Result<(), HttpError> {
    let mut all = catalogue::series_of(view, &study.description.study)?;
    all.sort_by_key(|series| series.description.series_number.parse::<i64>().unwrap_or(i64::MAX));
    let matching = all.iter().filter(|series| query.holds(&series.description, Level::Series));
    items.extend(matching.map(|series| series_item(series, place)));
    Ok(())
}

fn instances(
    view: &dyn View,
    query: &Query,
    study: &StudyRecord,
    place: &Place<'_>,
    items: &mut Vec<Item>,
) -> Result<(), HttpError> {
    const SERIES_INSTANCE_UID: u32 = 0x0020_000E;
    let one = match query.rule(SERIES_INSTANCE_UID) {
        Some(Rule::OneOf(uids)) if uids.len() == 1 => uids.first().map(String::as_str),
        _ => None,
    };
    let mut all = catalogue::objects_of(view, &study.description.study, one)?;
    all.retain(|object| {
        query.holds(&object.description, Level::Series) && query.holds(&object.description, Level::Instance)
    });
    let number = |text: &str| text.parse::<i64>().unwrap_or(i64::MAX);
    all.sort_by_key(|object| (object.description.series.clone(), number(&object.description.instance_number)));
    items.extend(all.iter().map(|object| instance_item(object, place)));
    Ok(())
}
