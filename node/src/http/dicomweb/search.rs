//! QIDO-RS on this archive: candidates come from the catalogue's indexes, never from a scan without bound.
//!
//! A patient's number leads to that patient's studies, a study's UID to the study, everything else goes through the
//! index by date, newest first, for at most `CANDIDATES_MAX` studies. Whatever bound was met is told with the answer.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::ControlFlow;

use tessera_storage::engine::View;

use super::attributes::{
    ISSUER_OF_PATIENT_ID, Item, Level, MODALITY, PATIENT_ID, Place, STUDY_INSTANCE_UID, instance_item, series_item,
    study_item,
};
use super::matching::Rule;
use super::query::Query;
use crate::archive::Archive;
use crate::archive::catalogue::{self, LocalPatient, StudyRecord};
use crate::archive::copies::{self, CopyId, CopyRecord, CopyState};
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

/// `wanted`: how many are enough when each of them is a result.
fn candidates(view: &dyn View, query: &Query, wanted: usize) -> Result<Candidates, HttpError> {
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
    let bound = if only_dates { wanted.min(CANDIDATES_MAX) } else { CANDIDATES_MAX };
    let (from, to) = query.dates().map_or(("", "99999999"), |range| (&*range.from, &*range.to));
    let uids = catalogue::studies_by_date(view, from, to, bound)?;
    Ok(Candidates { cut: uids.len() == CANDIDATES_MAX, uids, newest_first: true })
}

/// The part of the results that is asked for. What lies before it is counted, never kept.
struct Page {
    first: usize,
    end: usize,
    count: usize,
}

/// Where a result lies.
#[derive(PartialEq, Eq)]
enum Lies {
    Before,
    Inside,
    /// There are more results than the page has: it is complete.
    Behind,
}

impl Page {
    fn of(query: &Query) -> Self {
        Self { first: query.offset, end: query.offset.saturating_add(query.limit), count: 0 }
    }

    /// Counts one more result.
    fn next(&mut self) -> Lies {
        self.count += 1;
        match self.count {
            count if count > self.end => Lies::Behind,
            count if count > self.first => Lies::Inside,
            _ => Lies::Before,
        }
    }

    fn is_complete(&self) -> bool {
        self.count > self.end
    }

    fn warning(&self) -> Option<String> {
        self.is_complete().then(|| more_warning(self.end))
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

impl From<StudyRecord> for Listed {
    fn from(study: StudyRecord) -> Self {
        Self { study, copy: None }
    }
}

impl From<CopyRecord> for Listed {
    fn from(copy: CopyRecord) -> Self {
        Self { study: copy.study, copy: Some(copy.id) }
    }
}

/// Of the copies of a study the one that is shown.
pub fn shown_copy(view: &dyn View, study: &str, open: &IsOpen<'_>) -> Result<Option<CopyRecord>, HttpError> {
    Ok(copies::newest_first(copies::of_study(view, study)?).into_iter().find(|copy| open(copy)))
}

/// Copies that match, one a study and none of a study that is the hospital's own; oldest first. Whether they may be
/// shown is left to the caller, since it costs more.
fn matching_copies(view: &dyn View, query: &Query) -> Result<Vec<CopyRecord>, HttpError> {
    let all = match query.rule(STUDY_INSTANCE_UID) {
        Some(Rule::OneOf(uids)) => {
            let copies: Result<Vec<_>, _> = uids.iter().map(|uid| copies::of_study(view, uid)).collect();
            copies?.into_iter().flatten().collect()
        }
        _ => copies::all(view)?,
    };
    let mut matching = Vec::new();
    for copy in all {
        let shown = copy.state == CopyState::Complete && matches(query, &copy.study);
        if shown && catalogue::study(view, &copy.study.description.study)?.is_none() {
            matching.push(copy);
        }
    }
    matching.sort_by(|a, b| order(&a.study).cmp(&order(&b.study)));
    Ok(matching)
}

/// The order of the index by date.
fn order(study: &StudyRecord) -> (&str, &str) {
    (&study.description.study_date, &study.description.study)
}

/// Calls `visit` with the studies that match, newest first, until it breaks. True: older ones were not looked at.
fn each_study(
    view: &dyn View,
    query: &Query,
    wanted: usize,
    among: Among<'_>,
    mut visit: impl FnMut(Listed) -> Result<ControlFlow<()>, HttpError>,
) -> Result<bool, HttpError> {
    let open = match among {
        Among::Own => None,
        Among::All(open) => Some(open),
        Among::Copy(copy) => {
            if matches(query, &copy.study) {
                let _one = visit(copy.clone().into())?;
            }
            return Ok(false);
        }
    };
    let mut copies = open.map_or(Ok(Vec::new()), |_| matching_copies(view, query))?;
    let mut shown = BTreeSet::new();
    let mut is_shown = |copy: &CopyRecord| {
        let first = !shown.contains(&copy.study.description.study);
        let is_shown = first && open.is_some_and(|open| open(copy));
        if is_shown {
            shown.insert(copy.study.description.study.clone());
        }
        is_shown
    };
    let candidates = candidates(view, query, wanted)?;
    let mut unordered = Vec::new();
    for uid in &candidates.uids {
        let Some(record) = catalogue::study(view, uid)?.filter(|record| matches(query, record)) else { continue };
        if !candidates.newest_first {
            unordered.push(Listed::from(record));
            continue;
        }
        while let Some(copy) = copies.pop_if(|copy| order(&copy.study) > order(&record)) {
            if is_shown(&copy) && visit(copy.into())?.is_break() {
                return Ok(false);
            }
        }
        if visit(record.into())?.is_break() {
            return Ok(false);
        }
    }
    unordered.extend(copies.into_iter().rev().filter(|copy| is_shown(copy)).map(Listed::from));
    if !candidates.newest_first {
        unordered.sort_by(|a, b| newest_first(&a.study, &b.study));
    }
    for listed in unordered {
        if visit(listed)?.is_break() {
            return Ok(false);
        }
    }
    Ok(candidates.cut)
}

fn matches(query: &Query, record: &StudyRecord) -> bool {
    query.holds(&record.description, Level::Study) && query.holds_modalities(record.modalities.iter())
}

fn newest_first(a: &StudyRecord, b: &StudyRecord) -> Ordering {
    fn when(record: &StudyRecord) -> (&str, &str) {
        (&record.description.study_date, &record.description.study_time)
    }
    when(b).cmp(&when(a)).then_with(|| a.description.study.cmp(&b.description.study))
}

/// The page of results that are few, and a warning when it is not the last.
pub fn page<T>(results: Vec<T>, query: &Query, warnings: &mut Vec<String>) -> Vec<T> {
    let mut page = Page::of(query);
    let inside = results.into_iter().filter(|_| page.next() == Lies::Inside).collect();
    warnings.extend(page.warning());
    inside
}

fn more_warning(next: usize) -> String {
    format!("there are more results: ask again with offset={next}")
}

pub fn cut_warning() -> String {
    format!(
        "only the {CANDIDATES_MAX} newest examinations in the range were searched; narrow it by StudyDate or PatientID"
    )
}

/// QIDO-RS studies, of this archive alone.
pub fn study_items(archive: &Archive, query: &Query, among: Among<'_>, place: &Place<'_>) -> Result<Found, HttpError> {
    let mut warnings = unmatched(query, Level::Study);
    let (mut page, mut items) = (Page::of(query), Vec::new());
    let wanted = page.end.saturating_add(1);
    let cut = each_study(&**archive.engine(), query, wanted, among, |Listed { study, .. }| {
        match page.next() {
            Lies::Before => {}
            Lies::Inside => items.push(study_item(&study, holder_of(archive, &study), place)),
            Lies::Behind => return Ok(ControlFlow::Break(())),
        }
        Ok(ControlFlow::Continue(()))
    })?;
    warnings.extend(page.warning());
    warnings.extend(cut.then(cut_warning));
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
pub fn part_items(
    archive: &Archive,
    query: &Query,
    level: Level,
    among: Among<'_>,
    place: &Place<'_>,
) -> Result<Found, HttpError> {
    let view = &**archive.engine();
    let mut warnings = unmatched(query, level);
    let (mut page, mut items) = (Page::of(query), Vec::new());
    // The page is counted in parts, so studies are not cut by it.
    let cut = each_study(view, query, CANDIDATES_MAX, among, |study| {
        match level {
            Level::Instance => instances(view, query, &study, place, &mut page, &mut items)?,
            _ => series(view, query, &study, place, &mut page, &mut items)?,
        }
        Ok(if page.is_complete() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    warnings.extend(page.warning());
    warnings.extend(cut.then(cut_warning));
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
    items.extend(matching.filter(|_| page.next() == Lies::Inside).map(|series| series_item(series, place)));
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
    const SERIES_INSTANCE_UID: u32 = 0x0020_000E;
    let one = match query.rule(SERIES_INSTANCE_UID) {
        Some(Rule::OneOf(uids)) if uids.len() == 1 => uids.first().map(String::as_str),
        _ => None,
    };
    let mut all = match &listed.copy {
        None => catalogue::objects_of(view, &listed.study.description.study, one)?,
        Some(copy) => copies::objects(view, copy, one)?,
    };
    all.retain(|object| {
        query.holds(&object.description, Level::Series) && query.holds(&object.description, Level::Instance)
    });
    let number = |text: &str| text.parse::<i64>().unwrap_or(i64::MAX);
    all.sort_by_key(|object| (object.description.series.clone(), number(&object.description.instance_number)));
    items.extend(all.iter().filter(|_| page.next() == Lies::Inside).map(|object| instance_item(object, place)));
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
            let found = candidates(&engine, &query, wanted).expect("candidates");
            assert_eq!((found.uids.len(), found.cut), (expected, cut), "{wanted}");
        }
    }
}
