//! QIDO-RS on this archive: candidates come from the catalogue's indexes, never from a scan without bound.
//!
//! A patient's number leads to that patient's studies, a study's UID to the study, an instance's to its study; everything
//! else goes through the index by date, for at most `CANDIDATES_MAX` studies. Answers are newest first. Whatever bound was
//! met is told with the answer, and a client that leaves ends its search.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use tessera_storage::engine::View;

use super::attributes::{
    ISSUER_OF_PATIENT_ID, Item, Level, MODALITY, PATIENT_ID, Place, SERIES_INSTANCE_UID, SOP_INSTANCE_UID, STUDY_DATE,
    STUDY_INSTANCE_UID, TagNumber, instance_item, series_item, study_item,
};
use super::matching::Rule;
use super::query::Query;
use crate::archive::Archive;
use crate::archive::catalogue::{self, LocalPatient, StudyRecord};
use crate::archive::copies::{self, CopyId, CopyRecord, CopyState};
use crate::http::Client;
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

/// A study that may match, and where it stands in an answer.
struct Candidate {
    date: String,
    uid: String,
    /// `None`: it is the hospital's own.
    copy: Option<CopyRecord>,
}

impl Candidate {
    fn own((date, uid): (String, String)) -> Self {
        Self { date, uid, copy: None }
    }

    fn copy(copy: CopyRecord) -> Self {
        let d = &copy.study.description;
        Self { date: d.study_date.clone(), uid: d.study.clone(), copy: Some(copy) }
    }

    /// The order of the index by date, and of the copies of one study the one that was fetched last.
    fn place(&self) -> (&str, &str, u64) {
        (&self.date, &self.uid, self.copy.as_ref().map_or(0, CopyRecord::fetched_ms))
    }
}

/// The values of a condition that names them all.
fn named(query: &Query, tag: TagNumber) -> Option<&BTreeSet<String>> {
    match query.rule(tag) {
        Some(Rule::OneOf(values)) => Some(values),
        _ => None,
    }
}

/// Own studies that may match; a warning when there may be more. `wanted`: how many are enough when each of them is a
/// result.
fn candidates(
    view: &dyn View,
    query: &Query,
    level: Level,
    wanted: usize,
) -> Result<(Vec<Candidate>, Option<String>), HttpError> {
    if let Some(uids) = named(query, STUDY_INSTANCE_UID) {
        return Ok((dated(view, uids)?, None));
    }
    if let Some(instances) = named(query, SOP_INSTANCE_UID).filter(|_| level == Level::Instance) {
        let mut uids = BTreeSet::new();
        for instance in instances {
            uids.extend(catalogue::object(view, instance)?.map(|object| object.description.study));
        }
        return Ok((dated(view, &uids)?, None));
    }
    if let Some(patient_id) = query.exact(PATIENT_ID) {
        let (uids, cut) = studies_of_number(view, patient_id, query.exact(ISSUER_OF_PATIENT_ID))?;
        return Ok((dated(view, &uids)?, cut.then(number_warning)));
    }
    // Without other conditions each candidate is a result; one more tells whether there are more.
    let only_dates = query.conditions.iter().all(|condition| condition.tag == STUDY_DATE);
    let bound = if only_dates { wanted.min(CANDIDATES_MAX) } else { CANDIDATES_MAX };
    let (from, to) = query.dates().map_or(("", "99999999"), |range| (&*range.from, &*range.to));
    let found = catalogue::studies_by_date(view, from, to, bound)?;
    let cut = (found.len() == CANDIDATES_MAX).then(cut_warning);
    Ok((found.into_iter().map(Candidate::own).collect(), cut))
}

/// Own studies with their dates; what is not here is left out.
fn dated(view: &dyn View, uids: &BTreeSet<String>) -> Result<Vec<Candidate>, HttpError> {
    let mut dated = Vec::new();
    for uid in uids {
        let study = catalogue::study(view, uid)?;
        dated.extend(study.map(|study| Candidate::own((study.description.study_date, uid.clone()))));
    }
    Ok(dated)
}

/// Studies of a patient's number, of one issuer or of any; and whether there may be more.
fn studies_of_number(
    view: &dyn View,
    patient_id: &str,
    issuer: Option<&str>,
) -> Result<(BTreeSet<String>, bool), HttpError> {
    let mut issuers = match issuer {
        Some(issuer) => vec![issuer.to_owned()],
        None => catalogue::issuers(view, ISSUERS_MAX + 1)?,
    };
    let mut cut = issuers.len() > ISSUERS_MAX;
    issuers.truncate(ISSUERS_MAX);
    let mut uids = BTreeSet::new();
    for issuer in issuers {
        let patient = LocalPatient::of(&issuer, patient_id);
        uids.extend(catalogue::studies_of(view, &patient, CANDIDATES_MAX + 1)?);
    }
    while uids.len() > CANDIDATES_MAX {
        cut = true;
        uids.pop_last();
    }
    Ok((uids, cut))
}

/// The part of the results that is asked for. What lies before it is counted, never kept.
struct Page {
    first: usize,
    end: usize,
    count: usize,
}

impl Page {
    fn of(query: &Query) -> Self {
        Self { first: query.offset, end: query.offset.saturating_add(query.limit), count: 0 }
    }

    /// Counts one more result; true: it is in the page.
    fn takes(&mut self) -> bool {
        self.count += 1;
        self.first < self.count && self.count <= self.end
    }

    /// There are more results than the page has.
    fn is_complete(&self) -> bool {
        self.count > self.end
    }

    fn warning(&self) -> Option<String> {
        self.is_complete().then(|| format!("there are more results: ask again with offset={}", self.end))
    }
}

/// Whether a copy may be shown now.
pub type IsOpen<'a> = dyn Fn(&CopyRecord) -> bool + 'a;

/// What is searched.
#[derive(Clone, Copy)]
pub enum Among<'a> {
    /// The hospital's own studies alone.
    Own,
    /// One copy.
    Copy(&'a CopyRecord),
    /// Own studies, and copies of others that may be shown.
    All(&'a IsOpen<'a>),
}

/// A study that was found; of a copy, which one.
struct Listed {
    study: StudyRecord,
    copy: Option<CopyId>,
}

/// Copies that match, but none of a study that is the hospital's own. Whether they may be shown is not asked here, since
/// it costs more.
fn matching_copies(view: &dyn View, query: &Query) -> Result<Vec<Candidate>, HttpError> {
    let all = match named(query, STUDY_INSTANCE_UID) {
        Some(uids) => {
            let copies: Result<Vec<_>, _> = uids.iter().map(|uid| copies::of_study(view, uid)).collect();
            copies?.into_iter().flatten().collect()
        }
        None => copies::all(view)?,
    };
    let mut matching = Vec::new();
    for copy in all {
        let may_match = copy.state == CopyState::Complete && matches(query, &copy.study);
        if may_match && catalogue::study(view, &copy.study.description.study)?.is_none() {
            matching.push(Candidate::copy(copy));
        }
    }
    Ok(matching)
}

/// A search in one state of the catalogue, for a client that waits.
struct Search<'a> {
    view: &'a dyn View,
    query: &'a Query,
    level: Level,
    among: Among<'a>,
    client: &'a Client,
}

impl Search<'_> {
    /// Calls `visit` with the studies that match, each once, newest first, until it breaks. The warning says what was not
    /// looked at.
    fn each_study(
        &self,
        wanted: usize,
        mut visit: impl FnMut(Listed) -> Result<ControlFlow<()>, HttpError>,
    ) -> Result<Option<String>, HttpError> {
        let (mut candidates, cut) = match self.among {
            Among::Copy(copy) => (vec![Candidate::copy(copy.clone())], None),
            Among::Own | Among::All(_) => candidates(self.view, self.query, self.level, wanted)?,
        };
        if let Among::All(_) = self.among {
            candidates.extend(matching_copies(self.view, self.query)?);
        }
        candidates.sort_by(|a, b| b.place().cmp(&a.place()));
        let mut shown_copies = BTreeSet::new();
        for candidate in candidates {
            self.client.is_there()?;
            let listed = match candidate.copy {
                None => catalogue::study(self.view, &candidate.uid)?.map(|study| Listed { study, copy: None }),
                Some(copy) => {
                    let may_show = match self.among {
                        Among::All(open) => !shown_copies.contains(&candidate.uid) && open(&copy),
                        Among::Own | Among::Copy(_) => true,
                    };
                    may_show.then_some(Listed { study: copy.study, copy: Some(copy.id) })
                }
            };
            let Some(listed) = listed.filter(|listed| matches(self.query, &listed.study)) else { continue };
            if listed.copy.is_some() {
                shown_copies.insert(candidate.uid);
            }
            if visit(listed)?.is_break() {
                return Ok(None);
            }
        }
        Ok(cut)
    }
}

fn matches(query: &Query, record: &StudyRecord) -> bool {
    query.holds(&record.description, Level::Study) && query.holds_modalities(record.modalities.iter())
}

/// The page of results that are few, and a warning when it is not the last.
pub fn page<T>(results: Vec<T>, query: &Query, warnings: &mut Vec<String>) -> Vec<T> {
    let mut page = Page::of(query);
    let inside = results.into_iter().filter(|_| page.takes()).collect();
    warnings.extend(page.warning());
    inside
}

fn cut_warning() -> String {
    format!(
        "only the {CANDIDATES_MAX} newest examinations in the range were searched; narrow it by StudyDate or PatientID"
    )
}

pub fn number_warning() -> String {
    format!(
        "there are more examinations: at most {CANDIDATES_MAX} of a number, and the first {ISSUERS_MAX} issuers, are looked \
         at; name IssuerOfPatientID, or a range of StudyDate without the number"
    )
}

/// QIDO-RS studies, of this archive alone.
pub fn study_items(
    archive: &Archive,
    query: &Query,
    among: Among<'_>,
    place: &Place<'_>,
    client: &Client,
) -> Result<Found, HttpError> {
    let search = Search { view: &**archive.engine(), query, level: Level::Study, among, client };
    let (mut page, mut items) = (Page::of(query), Vec::new());
    let cut = search.each_study(page.end.saturating_add(1), |Listed { study, .. }| {
        if page.takes() {
            items.push(study_item(&study, holder_of(archive, &study), place));
        }
        Ok(if page.is_complete() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    let warnings = told(query, Level::Study).into_iter().chain(page.warning()).chain(cut).collect();
    Ok(Found { items, warnings })
}

/// What of a query is not in the answer. Conditions on a level below the one that is searched have no meaning there.
pub fn told(query: &Query, level: Level) -> Vec<String> {
    let below = query.conditions.iter().filter_map(|condition| super::attributes::attribute(condition.tag));
    let below = below.filter(|attribute| attribute.level > level && attribute.tag != MODALITY);
    let unmatched: Vec<String> =
        query.left_out.iter().cloned().chain(below.map(|attribute| format!("{:08X}", attribute.tag))).collect();
    let mut told = Vec::new();
    if !unmatched.is_empty() {
        let names = unmatched.join(", ");
        told.push(format!("the following were not matched, so there may be more results than asked for: {names}"));
    }
    if !query.not_kept.is_empty() {
        let names = query.not_kept.join(", ");
        told.push(format!("the catalogue does not have the following, which metadata may have: {names}"));
    }
    told
}

/// QIDO-RS series and instances: of one study, or of all that match.
pub fn part_items(
    archive: &Archive,
    query: &Query,
    level: Level,
    among: Among<'_>,
    place: &Place<'_>,
    client: &Client,
) -> Result<Found, HttpError> {
    let view = &**archive.engine();
    let search = Search { view, query, level, among, client };
    let (mut page, mut items) = (Page::of(query), Vec::new());
    // The page is counted in parts, so studies are not cut by it.
    let cut = search.each_study(CANDIDATES_MAX, |study| {
        match level {
            Level::Instance => instances(view, query, &study, place, &mut page, &mut items)?,
            _ => series(view, query, &study, place, &mut page, &mut items)?,
        }
        Ok(if page.is_complete() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    let warnings = told(query, level).into_iter().chain(page.warning()).chain(cut).collect();
    Ok(Found { items, warnings })
}

fn series(
    view: &dyn View,
    query: &Query,
    listed: &Listed,
    place: &Place<'_>,
    page: &mut Page,
    items: &mut Vec<Item>,
) -> Result<(), HttpError> {
    let mut all = match &listed.copy {
        None => catalogue::series_of(view, &listed.study.description.study)?,
        Some(copy) => copies::series(view, copy)?,
    };
    all.sort_by_key(|series| series.description.series_number.parse::<i64>().unwrap_or(i64::MAX));
    let matching = all.iter().filter(|series| query.holds(&series.description, Level::Series));
    items.extend(matching.filter(|_| page.takes()).map(|series| series_item(series, place)));
    Ok(())
}

fn instances(
    view: &dyn View,
    query: &Query,
    listed: &Listed,
    place: &Place<'_>,
    page: &mut Page,
    items: &mut Vec<Item>,
) -> Result<(), HttpError> {
    let one = named(query, SERIES_INSTANCE_UID).filter(|uids| uids.len() == 1).and_then(BTreeSet::first);
    let (study, one) = (&listed.study.description.study, one.map(String::as_str));
    let mut all = match (&listed.copy, named(query, SOP_INSTANCE_UID)) {
        (Some(copy), _) => copies::objects(view, copy, one)?,
        (None, None) => catalogue::objects_of(view, study, one)?,
        (None, Some(uids)) => {
            let found: Result<Vec<_>, _> = uids.iter().map(|uid| catalogue::object(view, uid)).collect();
            found?.into_iter().flatten().filter(|object| object.description.study == *study).collect()
        }
    };
    all.retain(|object| {
        query.holds(&object.description, Level::Series) && query.holds(&object.description, Level::Instance)
    });
    let number = |text: &str| text.parse::<i64>().unwrap_or(i64::MAX);
    all.sort_by_key(|object| (object.description.series.clone(), number(&object.description.instance_number)));
    items.extend(all.iter().filter(|_| page.takes()).map(|object| instance_item(object, place)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_before_the_page_is_counted_and_not_kept() {
        // (offset, limit, results, first result that is kept, how many, whether there are more)
        let table = [
            (0, 2, 5, Some(0), 2, true),
            (3, 2, 5, Some(3), 2, false),
            (4, 2, 5, Some(4), 1, false),
            (9, 2, 5, None, 0, false),
            (0, 0, 5, None, 0, true),
        ];
        for (offset, limit, results, first, kept, more) in table {
            let mut query = Query::parse(&[]).expect("a query");
            (query.offset, query.limit) = (offset, limit);
            let mut warnings = Vec::new();
            let inside = page((0..results).collect(), &query, &mut warnings);
            assert_eq!((inside.first().copied(), inside.len()), (first, kept), "{offset} {limit}");
            assert_eq!(!warnings.is_empty(), more, "{offset} {limit}");
        }
    }

    #[test]
    fn a_search_reads_no_more_candidates_than_its_bound() {
        use tessera_storage::MemoryEngine;
        use tessera_storage::engine::{Batch, Engine};
        let engine = MemoryEngine::open(&[catalogue::CATALOGUE]).expect("an engine");
        let mut batch = Batch::new();
        for number in 0..CANDIDATES_MAX + 5 {
            let key = format!("d20260101\0{number}");
            batch.put(catalogue::CATALOGUE, key.into_bytes(), []);
        }
        engine.submit(batch).expect("submitted");
        let query = Query::parse(&[]).expect("a query");
        let table = [(3, 3, false), (usize::MAX, CANDIDATES_MAX, true)];
        for (wanted, expected, cut) in table {
            let (found, warning) = candidates(&engine, &query, Level::Study, wanted).expect("candidates");
            assert_eq!((found.len(), warning.is_some()), (expected, cut), "{wanted}");
        }
    }

    #[test]
    fn a_search_ends_when_its_client_leaves() {
        use tessera_storage::MemoryEngine;
        use tessera_storage::engine::{Batch, Engine};
        let engine = MemoryEngine::open(&[catalogue::CATALOGUE]).expect("an engine");
        let mut batch = Batch::new();
        batch.put(catalogue::CATALOGUE, b"d20260101\x001.2".to_vec(), []);
        engine.submit(batch).expect("submitted");
        let query = Query::parse(&[]).expect("a query");
        let waiting = std::sync::Arc::new(());
        let client = Client(std::sync::Arc::downgrade(&waiting));
        let search = Search { view: &engine, query: &query, level: Level::Study, among: Among::Own, client: &client };
        let look = || search.each_study(1, |_| Ok(ControlFlow::Continue(())));
        assert_eq!(look().expect("it still waits"), None);
        drop(waiting);
        assert!(matches!(look(), Err(HttpError::ClientLeft)));
    }
}
