//! Bringing a study here before it is served or opened, once, however many requests ask for it at the same time.
//!
//! A viewer asks for a study with dozens of requests at once: one of them fetches, the others wait and then find it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as Turn, Semaphore};

use super::error::HttpError;
use super::{HolderRefused, Service, blocking};
use crate::archive::catalogue;
use crate::control::wire::{FetchCall, FetchDone};

/// Fetches at one time.
const FETCHES_MAX: usize = 4;

pub struct Fetching {
    turns: Mutex<BTreeMap<String, Weak<Turn<()>>>>,
    running: Semaphore,
}

impl Default for Fetching {
    fn default() -> Self {
        Self { turns: Mutex::default(), running: Semaphore::new(FETCHES_MAX) }
    }
}

impl Fetching {
    fn turn(&self, study: &str) -> Arc<Turn<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        // Only those that somebody waits for are kept, so the map is as small as the number of requests.
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(study).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::new(Turn::new(()));
        turns.insert(study.to_owned(), Arc::downgrade(&turn));
        turn
    }
}

/// For whom and what for a study is fetched: the requester's own words, which the holder decides on.
#[derive(Clone, Default)]
pub struct Cause {
    pub patient: String,
    pub purpose: String,
    pub user: String,
}

impl Service {
    pub async fn is_here(&self, study: &str) -> Result<bool, HttpError> {
        let (archive, study) = (self.archive.clone(), study.to_owned());
        blocking(move || Ok(catalogue::study(&**archive.engine(), &study)?.is_some())).await
    }

    /// Fetches a study unless it is here already; `None`: it is. With `newer`, what the holder has added since is fetched
    /// although a copy is here.
    pub async fn bring(&self, study: &str, cause: &Cause, newer: bool) -> Result<Option<FetchDone>, HttpError> {
        let turn = self.fetching.turn(study);
        let _turn = turn.lock().await;
        if !newer && self.is_here(study).await? {
            return Ok(None);
        }
        let _running =
            self.fetching.running.acquire().await.map_err(|closed| HttpError::Internal(closed.to_string()))?;
        let call = FetchCall {
            study: study.to_owned(),
            id: cause.patient.clone(),
            purpose: cause.purpose.clone(),
            user: cause.user.clone(),
            to: None,
        };
        self.federated.fetch(call).await.map(Some).map_err(outcome)
    }
}

/// A refusal is the holder's decision and no failure.
fn outcome(error: anyhow::Error) -> HttpError {
    match error.downcast::<HolderRefused>() {
        Ok(refused) => HttpError::Refused(refused.to_string()),
        Err(error) => HttpError::Elsewhere(format!("the study could not be fetched: {error:#}")),
    }
}
