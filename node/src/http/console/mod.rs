//! The console: one page that says how this node stands and opens a patient's examinations, wherever they are.
//!
//! The page is rendered here, escaped, with one script and one style sheet of its own and nothing from elsewhere. Numbers
//! of patients come in bodies only, so that they stand in no address, history or log.

mod history;
mod html;
mod page;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use tessera_policy::UserId;

use super::error::HttpError;
use super::fetching::Cause;
use super::{Shared, blocking};
use crate::archive::Archive;
use crate::archive::catalogue::{self, StudyRecord};
use crate::archive::copies;
use crate::control::wire::{FetchDone, HistoryCall, HistoryDone, StatusDone};
use crate::dicom::identifiers::Uid;

/// Examinations of this archive on the first page.
const LATEST_MAX: usize = 12;
/// Characters of an identifier, a purpose, a user's name.
const FIELD_CHARS_MAX: usize = 200;

/// Scripts and styles of this page's own files only; nothing from any other host.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
    form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

pub fn routes() -> axum::Router<Shared> {
    axum::Router::new()
        .route("/", get(first_page))
        .route("/console/status", get(status))
        .route("/console/history", post(patient_history))
        .route("/console/fetch", post(fetch))
        .route("/console/console.css", get(style))
        .route("/console/console.js", get(script))
}

fn page(text: String) -> Response {
    let policy = (header::CONTENT_SECURITY_POLICY, POLICY);
    let isolation = (HeaderName::from_static("cross-origin-opener-policy"), "same-origin");
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8"), policy, isolation], text).into_response()
}

async fn style() -> impl IntoResponse {
    let headers = [(header::CONTENT_TYPE, "text/css; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")];
    (headers, include_str!("console.css"))
}

async fn script() -> impl IntoResponse {
    let headers = [(header::CONTENT_TYPE, "text/javascript; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")];
    (headers, include_str!("console.js"))
}

async fn status_of(service: &Shared) -> Result<StatusDone, String> {
    service.federated.status().await.map_err(|error| format!("{error:#}"))
}

/// The newest studies of this archive by their date.
fn latest(archive: &Archive) -> Result<Vec<StudyRecord>, HttpError> {
    let view = &**archive.engine();
    let uids = catalogue::studies_by_date(view, "", "99999999", LATEST_MAX)?;
    let records: Result<Vec<_>, _> = uids.iter().map(|(_, uid)| catalogue::study(view, uid)).collect();
    Ok(records?.into_iter().flatten().collect())
}

async fn first_page(State(service): State<Shared>) -> Result<Response, HttpError> {
    let archive = service.archive.clone();
    let latest = blocking(move || latest(&archive)).await?;
    let site = service.archive.config().default_site();
    let status = status_of(&service).await;
    Ok(page(page::first(&site.legal_name, &site.issuer, &status, &latest)))
}

async fn status(State(service): State<Shared>) -> Result<Response, HttpError> {
    let archive = service.archive.clone();
    let latest = blocking(move || latest(&archive)).await?;
    Ok(page(page::live(&status_of(&service).await, &latest)))
}

#[derive(Deserialize)]
struct HistoryForm {
    id: String,
    /// Empty: nobody is named.
    #[serde(default)]
    user: String,
}

async fn patient_history(State(service): State<Shared>, Json(form): Json<HistoryForm>) -> Result<Response, HttpError> {
    let id = field(&form.id, "the number")?;
    match service.federated.history(HistoryCall { id, user: form.user }).await {
        Ok(found) => {
            let archive = service.archive.clone();
            blocking(move || Ok(page(history::history(&found, &objects_here(&archive, &found)?)))).await
        }
        Err(error) => Ok(page(page::problem("This number can't be looked up now", &format!("{error:#}")))),
    }
}

/// Objects that this archive has of each study that is copied here: a copy may be older than the original.
fn objects_here(archive: &Archive, history: &HistoryDone) -> Result<BTreeMap<String, u32>, HttpError> {
    let view = &**archive.engine();
    let mut objects = BTreeMap::new();
    for study in history.studies.iter().filter(|study| study.copy_here) {
        let copies = copies::of_study(view, &study.study_uid)?;
        let of_site = copies.iter().filter(|copy| copy.id.holder.as_str() == study.site);
        objects.extend(of_site.map(|copy| copy.study.objects).max().map(|count| (study.study_uid.clone(), count)));
    }
    Ok(objects)
}

#[derive(Deserialize)]
struct FetchForm {
    study: String,
    id: String,
    purpose: String,
    user: String,
    /// The site whose row it is.
    holder: Option<String>,
    /// A copy is here, and newer objects are wanted.
    #[serde(default)]
    newer: bool,
}

/// What became of a fetch, for the page's script.
#[derive(Serialize)]
struct FetchAnswer {
    opened: bool,
    title: String,
    text: String,
}

async fn fetch(State(service): State<Shared>, Json(form): Json<FetchForm>) -> Result<Response, HttpError> {
    Uid::parse(&form.study).map_err(|error| HttpError::BadRequest(error.to_string()))?;
    let cause = Cause {
        patient: field(&form.id, "the number")?,
        purpose: field(&form.purpose, "the purpose")?,
        user: field(&form.user, "your sign-in name")?,
        holder: form.holder.map(|holder| field(&holder, "the hospital")).transpose()?,
    };
    UserId::parse(&cause.user).map_err(|error| HttpError::BadRequest(error.to_string()))?;
    let answer = match service.bring(&form.study, &cause, form.newer).await {
        Ok(done) => fetched(service.collides(&form.study, &cause).await, done),
        Err(HttpError::HolderRefused(refused)) => {
            let decided = if refused.code.passes_in_s().is_some() { "can't decide now" } else { "refused" };
            let (title, text) = (format!("{} {decided}", refused.by), history::reasons(&refused.why, &refused.reasons));
            FetchAnswer { opened: false, title, text }
        }
        Err(error) => FetchAnswer { opened: false, title: "It could not be fetched".into(), text: error.to_string() },
    };
    Ok(Json(answer).into_response())
}

/// What is told once a study is here: it is opened by its UID, so only where that means this patient's study.
fn fetched(collides: anyhow::Result<bool>, done: Option<FetchDone>) -> FetchAnswer {
    const NOT_OPENED: &str = "It is here, and not opened";
    match (collides, done) {
        (Ok(true), _) => FetchAnswer { opened: false, title: NOT_OPENED.into(), text: copies::COLLIDES.into() },
        (Err(error), _) => {
            let text = format!("whether its UID means this patient's study could not be checked: {error:#}");
            FetchAnswer { opened: false, title: NOT_OPENED.into(), text }
        }
        (Ok(false), None) => FetchAnswer { opened: true, title: "Already here".into(), text: String::new() },
        (Ok(false), Some(done)) => {
            FetchAnswer { opened: true, title: "Fetched and verified".into(), text: history::fetched(&done) }
        }
    }
}

fn field(text: &str, name: &str) -> Result<String, HttpError> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > FIELD_CHARS_MAX || text.chars().any(char::is_control) {
        let wrong = format!("{name} must have 1 to {FIELD_CHARS_MAX} characters");
        return Err(HttpError::BadRequest(wrong));
    }
    Ok(text.to_owned())
}
