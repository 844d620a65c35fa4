//! DICOMweb: QIDO-RS and WADO-RS (PS3.18 sections 10.4 and 10.6) under `/dicom-web`.
//!
//! - [`query`], [`matching`], [`attributes`], [`search`]: searching this archive
//! - [`federated`]: a patient's studies at all sites
//! - [`retrieve`], [`metadata`], [`frames`]: objects, their JSON, their pixels
//!
//! All text is UTF-8; objects go out byte for byte as they came in.

mod attributes;
#[cfg(test)]
mod copies_tests;
mod federated;
mod frames;
mod matching;
mod metadata;
mod query;
mod retrieve;
mod search;
#[cfg(test)]
mod tests;

use axum::extract::{Path, Query as Parameters, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use self::attributes::{Level, Place, SERIES_INSTANCE_UID, STUDY_INSTANCE_UID};
use self::federated::PatientAsked;
use self::query::Query;
use self::search::{Among, Found};
use super::error::HttpError;
use super::fetching::{self, Cause, Held, Presence};
use super::{Client, Service, Shared, blocking_for_client, negotiation, origin};
use crate::archive::catalogue::{self, ObjectRecord};
use crate::archive::copies::{self, CopyRecord};
use crate::dicom::identifiers::Uid;

pub use frames::FrameTables;

/// Warnings of one answer, and characters of one of them: headers have limits.
const WARNINGS_MAX: usize = 16;
const WARNING_CHARS_MAX: usize = 400;
const AS_OF: HeaderName = HeaderName::from_static("tessera-as-of");

type Pairs = Parameters<Vec<(String, String)>>;

pub fn routes() -> axum::Router<Shared> {
    const INSTANCE: &str = "/studies/{study}/series/{series}/instances/{instance}";
    axum::Router::new()
        .route("/studies", get(search_studies))
        .route("/series", get(search_series))
        .route("/instances", get(search_instances))
        .route("/studies/{study}/series", get(search_series))
        .route("/studies/{study}/instances", get(search_instances))
        .route("/studies/{study}/series/{series}/instances", get(search_instances))
        .route("/studies/{study}", get(retrieve::objects))
        .route("/studies/{study}/series/{series}", get(retrieve::objects))
        .route(INSTANCE, get(retrieve::objects))
        .route("/studies/{study}/metadata", get(metadata::metadata))
        .route("/studies/{study}/series/{series}/metadata", get(metadata::metadata))
        .route(&format!("{INSTANCE}/metadata"), get(metadata::metadata))
        .route(&format!("{INSTANCE}/frames/{{frames}}"), get(frames::frames))
        .route(&format!("{INSTANCE}/bulkdata/{{*value}}"), get(frames::bulk_data))
        .fallback(unknown)
}

async fn unknown(uri: axum::http::Uri) -> HttpError {
    let text = format!(
        "{} is no resource here; there are studies, series, instances, and of an instance metadata, frames and bulkdata",
        uri.path()
    );
    HttpError::NotFound(text)
}

/// What a path names: a study, perhaps a series of it, perhaps an instance of that.
#[derive(Clone, serde::Deserialize)]
pub struct Target {
    #[serde(default)]
    pub study: String,
    pub series: Option<String>,
    pub instance: Option<String>,
}

impl Target {
    fn check(&self) -> Result<(), HttpError> {
        let parts =
            [("study", Some(&self.study)), ("series", self.series.as_ref()), ("instance", self.instance.as_ref())];
        for (name, uid) in parts {
            if let Some(uid) = uid {
                Uid::parse(uid).map_err(|error| HttpError::BadRequest(format!("the {name} in the path: {error}")))?;
            }
        }
        Ok(())
    }

    /// The objects that it names, or what to do when there are none. Blocks for the catalogue.
    fn objects(&self, service: &Service, held: &Held) -> Result<Vec<ObjectRecord>, HttpError> {
        let view = &**service.archive.engine();
        let series = self.series.as_deref();
        let objects = match (held, &self.instance) {
            (Held::Own, None) => catalogue::objects_of(view, &self.study, series)?,
            (Held::Own, Some(instance)) => {
                catalogue::object(view, instance)?.into_iter().filter(|o| self.names(o)).collect()
            }
            (Held::Copy(copy, _), None) => copies::objects(view, &copy.id, series)?,
            (Held::Copy(copy, _), Some(instance)) => {
                copies::object(view, &copy.id, series.unwrap_or_default(), instance)?.into_iter().collect()
            }
        };
        if objects.is_empty() {
            return Err(HttpError::NotFound("this study has no such series or instance here".into()));
        }
        Ok(objects)
    }

    fn names(&self, object: &ObjectRecord) -> bool {
        let d = &object.description;
        d.study == self.study && self.series.as_ref().is_none_or(|series| d.series == *series)
    }
}

/// How a request asks for a study of another site.
const ASK_SO: &str = "say for whom, what for and in whose name, and it is fetched first: ?patient=resident:NUMBER&purpose=treatment\
    &user=NAME (or the headers Tessera-Patient, Tessera-Purpose and Tessera-User)";

/// Makes sure that the study of a target is here whole and may be shown, fetching it when the request says for whom and
/// what for. A copy that was closed, or whose time has passed, is fetched again, which is the holder's new decision.
async fn ensure_here(
    service: &Service,
    target: &Target,
    headers: &HeaderMap,
    pairs: &Pairs,
) -> Result<Held, HttpError> {
    target.check()?;
    let cause = cause(headers, &pairs.0);
    if let Presence::Here(held) = service.presence(&target.study, &cause).await? {
        return Ok(held);
    }
    if cause.patient.is_empty() || cause.purpose.is_empty() || cause.user.is_empty() {
        // A viewer says nothing, and its requests come while the page's own fetch still runs.
        return match service.awaited(&target.study, &cause).await? {
            Presence::Here(held) => Ok(held),
            Presence::Closed(why) => {
                Err(HttpError::Refused(format!("the copy that is here may not be shown: {why}; {ASK_SO}")))
            }
            Presence::Absent => Err(HttpError::NotFound(format!(
                "this archive does not hold that study whole. If another site does, {ASK_SO}"
            ))),
        };
    }
    service.bring(&target.study, &cause, false).await?;
    match service.presence(&target.study, &cause).await? {
        Presence::Here(held) => Ok(held),
        Presence::Closed(why) => Err(HttpError::Refused(format!("the study was fetched, and closed since: {why}"))),
        Presence::Absent => Err(HttpError::Elsewhere(
            "the study was fetched but is not in the catalogue; the node's log says why".into(),
        )),
    }
}

/// For whom and what for, from headers or parameters; headers don't end up in the logs of proxies.
fn cause(headers: &HeaderMap, pairs: &[(String, String)]) -> Cause {
    let text = |header: &str, parameter: &str| {
        let header = headers.get(header).and_then(|value| std::str::from_utf8(value.as_bytes()).ok());
        let parameter = || pairs.iter().find(|(name, _)| name == parameter).map(|(_, value)| value.as_str());
        header.or_else(parameter).unwrap_or_default().trim().to_owned()
    };
    let holder = text("tessera-holder", "holder");
    Cause {
        holder: Some(holder).filter(|holder| !holder.is_empty()),
        patient: text("tessera-patient", "patient"),
        purpose: text("tessera-purpose", "purpose"),
        user: text("tessera-user", "user"),
    }
}

/// `http://host/dicom-web`.
fn root(headers: &HeaderMap) -> String {
    format!("{}/dicom-web", origin::of(headers))
}

fn must_take_json(headers: &HeaderMap) -> Result<(), HttpError> {
    if negotiation::takes_json(&negotiation::accepted(headers)) {
        return Ok(());
    }
    Err(HttpError::NotAcceptable("this is answered as application/dicom+json only; ask for that".into()))
}

async fn search_studies(
    State(service): State<Shared>,
    headers: HeaderMap,
    Parameters(pairs): Pairs,
) -> Result<Response, HttpError> {
    must_take_json(&headers)?;
    let query = Query::parse(&pairs)?;
    let (root, archive, federated) = (root(&headers), service.archive.clone(), service.federated.clone());
    let Some(patient) = PatientAsked::of(&query) else {
        let work = move |client: &Client| {
            let open = |copy: &CopyRecord| fetching::is_open(&*federated, copy);
            search::study_items(&archive, &query, Among::All(&open), &place(&archive, &root), client)
        };
        return Ok(answer(blocking_for_client(work).await?));
    };
    let history = federated::history(&service, &patient, cause(&headers, &pairs).user).await;
    let (history, failed) = match history {
        Ok(history) => (history, None),
        Err(why) => (Default::default(), Some(why)),
    };
    let as_of = history.as_of.clone();
    let missing: Vec<String> = failed.into_iter().chain(history.missing.clone()).collect();
    let work = move |client: &Client| {
        let open = |copy: &CopyRecord| fetching::is_open(&*federated, copy);
        federated::merge(&archive, &query, &patient, &history, &open, &place(&archive, &root), client)
    };
    let mut found = blocking_for_client(work).await?;
    found.warnings.extend(missing);
    let mut response = answer(found);
    let as_of = as_of.and_then(|time| HeaderValue::from_str(&time).ok());
    response.headers_mut().insert(AS_OF, as_of.unwrap_or(HeaderValue::from_static("never")));
    Ok(response)
}

async fn search_series(
    state: State<Shared>,
    target: Path<Target>,
    headers: HeaderMap,
    pairs: Pairs,
) -> Result<Response, HttpError> {
    search_parts(state.0, target.0, headers, pairs, Level::Series).await
}

async fn search_instances(
    state: State<Shared>,
    target: Path<Target>,
    headers: HeaderMap,
    pairs: Pairs,
) -> Result<Response, HttpError> {
    search_parts(state.0, target.0, headers, pairs, Level::Instance).await
}

async fn search_parts(
    service: Shared,
    target: Target,
    headers: HeaderMap,
    pairs: Pairs,
    level: Level,
) -> Result<Response, HttpError> {
    must_take_json(&headers)?;
    let mut query = Query::parse(&pairs.0)?;
    let mut held = None;
    if !target.study.is_empty() {
        held = Some(ensure_here(&service, &target, &headers, &pairs).await?);
        query.within(STUDY_INSTANCE_UID, &target.study);
    }
    if let Some(series) = &target.series {
        query.within(SERIES_INSTANCE_UID, series);
    }
    let (root, archive, federated) = (root(&headers), service.archive.clone(), service.federated.clone());
    let work = move |client: &Client| {
        let open = |copy: &CopyRecord| fetching::is_open(&*federated, copy);
        let among = match &held {
            None => Among::All(&open),
            Some(Held::Own) => Among::Own,
            Some(Held::Copy(copy, _)) => Among::Copy(copy),
        };
        search::part_items(&archive, &query, level, among, &place(&archive, &root), client)
    };
    Ok(answer(blocking_for_client(work).await?))
}

fn place<'a>(archive: &'a crate::archive::Archive, root: &'a str) -> Place<'a> {
    Place { root, ae_title: &archive.config().dicom.ae_title }
}

fn answer(found: Found) -> Response {
    let body = match serde_json::to_vec(&found.items) {
        Ok(body) => body,
        Err(error) => return HttpError::Internal(error.to_string()).into_response(),
    };
    let mut response = (StatusCode::OK, [(header::CONTENT_TYPE, "application/dicom+json")], body).into_response();
    for text in found.warnings.iter().take(WARNINGS_MAX) {
        if let Ok(value) = HeaderValue::from_str(&warning(text)) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

/// A Warning header (RFC 7234 section 5.5). Headers are ASCII: other characters are percent-encoded.
fn warning(text: &str) -> String {
    let mut plain = String::new();
    for c in text.chars().take(WARNING_CHARS_MAX) {
        match c {
            '"' | '\\' => plain.push('\''),
            ' '..='~' => plain.push(c),
            c if c.is_control() => plain.push(' '),
            c => plain.extend(c.encode_utf8(&mut [0; 4]).bytes().map(|byte| format!("%{byte:02X}"))),
        }
    }
    format!("299 tessera \"{plain}\"")
}
