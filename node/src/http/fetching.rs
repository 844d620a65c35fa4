//! What may be shown of a study now, and bringing it here before it is served or opened: once, however many requests ask
//! for it at the same time.
//!
//! A viewer asks for a study with dozens of requests at once: one of them fetches, the others wait and then find it. A
//! copy is shown only when it is complete, its time has not passed, and the ledger has nothing against it; whatever
//! else is here of it is as if it were not. That holds while it is sent, too: each piece that goes out is judged anew
//! (DESIGN P5). Where a request names a patient, nothing of another one's is shown ([`super::whose`]).

use axum::body::Body;
use tessera_consensus::SiteId;
use tessera_policy::Purpose;
use tokio::sync::Semaphore;

use super::error::HttpError;
use super::stream::{Sink, StreamError};
use super::{Federated, HolderRefused, Service, blocking, whose};
use crate::archive::Archive;
use crate::archive::catalogue::{self, StudyRecord};
use crate::archive::copies::{self, CopyRecord};
use crate::control::wire::{FetchCall, FetchDone, HistoryCall, HistoryStudy};

/// Fetches at one time.
const FETCHES_MAX: usize = 4;

pub struct Fetching {
    running: Semaphore,
}

impl Default for Fetching {
    fn default() -> Self {
        Self { running: Semaphore::new(FETCHES_MAX) }
    }
}

/// For whom and what for a study is fetched, and from where: the requester's own words, which the holder decides on.
#[derive(Clone, Default)]
pub struct Cause {
    pub patient: String,
    pub purpose: String,
    pub user: String,
    /// A site, where several hold the study.
    pub holder: Option<String>,
}

impl Cause {
    /// The purpose, if one is given.
    fn for_what(&self) -> Result<Option<Purpose>, HttpError> {
        if self.purpose.is_empty() {
            return Ok(None);
        }
        let known = self.purpose.parse().map(Some);
        known.map_err(|_| HttpError::BadRequest(format!("{} is no purpose; treatment is one", self.purpose)))
    }
}

/// Where a study lies that may be shown.
#[derive(Clone)]
pub enum Held {
    Own,
    /// A copy, and what for it is shown, where that was said.
    Copy(Box<CopyRecord>, Option<Purpose>),
}

/// What is here of a study.
pub enum Presence {
    Here(Held),
    /// A copy that may not be shown, and why.
    Closed(String),
    Absent,
}

/// Whether a copy may be shown now, whatever for. One that can't be judged may not.
pub fn is_open(federated: &dyn Federated, copy: &CopyRecord) -> bool {
    why_closed(federated, copy, None).is_none()
}

fn why_closed(federated: &dyn Federated, copy: &CopyRecord, purpose: Option<Purpose>) -> Option<String> {
    federated.copy_closed(copy, purpose).unwrap_or_else(|error| Some(format!("{error:#}")))
}

/// Why what was found a moment ago may not be shown any more; asked again while it is sent.
fn closed_since(archive: &Archive, federated: &dyn Federated, held: &Held) -> Option<String> {
    let Held::Copy(found, purpose) = held else { return None };
    match copies::copy(&**archive.engine(), &found.id) {
        Ok(Some(copy)) => why_closed(federated, &copy, *purpose),
        Ok(None) => Some("it was given up".into()),
        Err(error) => Some(error.to_string()),
    }
}

/// Everything here that has a study's UID, whosever it is.
struct Candidates {
    own: Option<StudyRecord>,
    /// Fetched last goes first; with why it may not be shown.
    copies: Vec<(CopyRecord, Option<String>)>,
}

impl Candidates {
    /// Of one holder, where one is named. Blocks for the catalogue.
    fn find(archive: &Archive, federated: &dyn Federated, study: &str, cause: &Cause) -> Result<Self, HttpError> {
        let (view, purpose) = (&**archive.engine(), cause.for_what()?);
        let is_holder = |site: &SiteId| cause.holder.as_ref().is_none_or(|holder| site.as_str() == holder);
        let own = match archive.config().site.iter().any(|site| is_holder(&site.id)) {
            true => catalogue::study(view, study)?,
            false => None,
        };
        let mut copies = copies::newest_first(copies::of_study(view, study)?);
        copies.retain(|copy| is_holder(&copy.id.holder) && !copy.grounds.is_empty());
        let judged = |copy| {
            let why = why_closed(federated, &copy, purpose);
            (copy, why)
        };
        Ok(Self { own, copies: copies.into_iter().map(judged).collect() })
    }

    fn is_empty(&self) -> bool {
        self.own.is_none() && self.copies.is_empty()
    }

    /// Without what is another patient's.
    fn of_patient(mut self, records: &[HistoryStudy]) -> Result<Self, HttpError> {
        if self.own.is_some() && !records.iter().any(|row| row.here) {
            return Err(HttpError::Conflict(copies::COLLIDES.into()));
        }
        self.copies.retain(|(copy, _)| whose::is_among(records, &copy.id));
        Ok(self)
    }

    /// An own study goes before a copy.
    fn presence(self, purpose: Option<Purpose>) -> Presence {
        if self.own.is_some() {
            return Presence::Here(Held::Own);
        }
        let mut found = Presence::Absent;
        for (copy, closed) in self.copies {
            match closed {
                None => return Presence::Here(Held::Copy(Box::new(copy), purpose)),
                Some(why) => found = Presence::Closed(why),
            }
        }
        found
    }
}

impl Service {
    /// What may be shown of a study, of the patient's alone where the request names one. This is the only way to [`Held`].
    pub async fn presence(&self, study: &str, cause: &Cause) -> Result<Presence, HttpError> {
        let (archive, federated, asked) = (self.archive.clone(), self.federated.clone(), cause.clone());
        let (uid, purpose) = (study.to_owned(), cause.for_what()?);
        let find = move || {
            let found = Candidates::find(&archive, &*federated, &uid, &asked)?;
            let known = found.own.as_ref().is_some_and(|own| federated.is_known_as(own, &asked.patient));
            Ok((found, known))
        };
        let (mut found, known) = blocking(find).await?;
        if !(cause.patient.is_empty() || known || found.is_empty()) {
            found = found.of_patient(&self.records(study, cause).await?)?;
        }
        Ok(found.presence(purpose))
    }

    /// A body of what is held, written on a blocking thread: no more of a copy goes out once it is closed.
    pub async fn body(
        &self,
        held: Held,
        write: impl FnOnce(&mut Sink) -> Result<(), StreamError> + Send + 'static,
    ) -> Result<Body, HttpError> {
        let (archive, federated) = (self.archive.clone(), self.federated.clone());
        let judge =
            move || closed_since(&archive, &*federated, &held).map_or(Ok(()), |why| Err(StreamError::Closed(why)));
        self.streams.body(judge, write).await
    }

    /// Whether another patient's study is in the way of opening this one by its UID.
    pub async fn collides(&self, study: &str, cause: &Cause) -> anyhow::Result<bool> {
        let history =
            self.federated.history(HistoryCall { id: cause.patient.clone(), user: cause.user.clone() }).await?;
        Ok(history.studies.iter().any(|row| row.study_uid == study && row.collides))
    }

    /// What may be shown of a study once those who are fetching it now have done so.
    pub async fn awaited(&self, study: &str, cause: &Cause) -> Result<Presence, HttpError> {
        let turn = self.archive.turns().of(study);
        let _turn = turn.lock().await;
        self.presence(study, cause).await
    }

    /// Fetches a study unless it is here already; `None`: it is. With `newer`, what the holder has added since is fetched
    /// although a copy is here.
    pub async fn bring(&self, study: &str, cause: &Cause, newer: bool) -> Result<Option<FetchDone>, HttpError> {
        let turn = self.archive.turns().of(study);
        let _turn = turn.lock().await;
        if !newer && matches!(self.presence(study, cause).await?, Presence::Here(_)) {
            return Ok(None);
        }
        let _running =
            self.fetching.running.acquire().await.map_err(|closed| HttpError::Internal(closed.to_string()))?;
        let call = FetchCall {
            study: study.to_owned(),
            id: cause.patient.clone(),
            purpose: cause.purpose.clone(),
            user: cause.user.clone(),
            holder: cause.holder.clone(),
            to: None,
        };
        self.federated.fetch(call).await.map(Some).map_err(outcome)
    }
}

fn outcome(error: anyhow::Error) -> HttpError {
    match error.downcast::<HolderRefused>() {
        Ok(refused) => HttpError::HolderRefused(refused),
        Err(error) => HttpError::Elsewhere(format!("the study could not be fetched: {error:#}")),
    }
}
