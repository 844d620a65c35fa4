//! Whose a study is that a request names together with a patient: what is here under its UID is shown only as far as it is
//! that patient's. A UID alone says nothing of that: this hospital and another, or two others, may have used the same one.
//!
//! By the numbers here a study of this hospital is told at once, also while cut off from the core (P6). Everything else
//! is told by the patient's records. To look them up is a disclosure that is written down, and may ask the core; a viewer
//! asks dozens of times for one study, so what was found for a study, a patient and a user is good for a while. Not
//! here: whether a copy may be shown at all ([`super::fetching`]).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::OnceCell;

use super::error::HttpError;
use super::fetching::Cause;
use super::{Federated, Service};
use crate::archive::copies::CopyId;
use crate::control::wire::{HistoryCall, HistoryDone, HistoryStudy};

/// How long a patient's history may take; a viewer gives up soon after.
const HISTORY_DEADLINE: Duration = Duration::from_secs(30);
/// How long it is good that the patient has records of the study. What closes a copy is looked at each time all the same.
const RECORDS_GOOD: Duration = Duration::from_secs(300);
/// How long it is good that there are none, or that they could not be looked up.
const NOTHING_GOOD: Duration = Duration::from_secs(10);
/// Answers that are kept; beyond it the oldest goes.
const KEPT_MAX: usize = 1024;

/// The patient's records of one study: which sites have it, each under which record.
pub type Records = Arc<Vec<HistoryStudy>>;

/// A study, a patient, a user.
type Asked = (String, String, String);

struct Answer {
    since: Instant,
    /// Empty while the first who asked waits; the others wait with that one. An error is the reason, for people.
    found: OnceCell<Result<Records, String>>,
}

impl Answer {
    fn is_good(answer: &Arc<Self>, now: Instant) -> bool {
        let good = match answer.found.get() {
            // Good as long as somebody waits for it.
            None => return Arc::strong_count(answer) > 1,
            Some(Ok(records)) if !records.is_empty() => RECORDS_GOOD,
            Some(_) => NOTHING_GOOD,
        };
        now.duration_since(answer.since) < good
    }
}

/// What was found lately.
#[derive(Default)]
pub struct Answers(Mutex<BTreeMap<Asked, Arc<Answer>>>);

impl Answers {
    /// The answer that is good now, or a new one that is still to be found.
    fn of(&self, asked: Asked, now: Instant) -> Arc<Answer> {
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        answers.retain(|_, answer| Answer::is_good(answer, now));
        if answers.len() >= KEPT_MAX && !answers.contains_key(&asked) {
            let oldest = answers.iter().min_by_key(|(_, answer)| answer.since).map(|(asked, _)| asked.clone());
            oldest.map(|oldest| answers.remove(&oldest));
        }
        let new = || Arc::new(Answer { since: now, found: OnceCell::new() });
        Arc::clone(answers.entry(asked).or_insert_with(new))
    }
}

/// A patient's history, or why there is none.
pub async fn history(federated: &dyn Federated, id: String, user: String) -> Result<HistoryDone, String> {
    match tokio::time::timeout(HISTORY_DEADLINE, federated.history(HistoryCall { id, user })).await {
        Ok(Ok(history)) => Ok(history),
        Ok(Err(error)) => Err(format!("{error:#}")),
        Err(_) => Err(format!("the patient's key was not there after {} s", HISTORY_DEADLINE.as_secs())),
    }
}

/// Whether the patient's records say that this copy is the patient's.
pub fn is_among<'a>(records: impl IntoIterator<Item = &'a HistoryStudy>, copy: &CopyId) -> bool {
    let record = copy.record.to_string();
    records.into_iter().any(|study| study.site == copy.holder.as_str() && study.record == record)
}

impl Service {
    /// The records that the patient of a request has of a study; at least one.
    pub async fn records(&self, study: &str, cause: &Cause) -> Result<Records, HttpError> {
        let asked = (study.to_owned(), cause.patient.clone(), cause.user.clone());
        let answer = self.answers.of(asked, Instant::now());
        let look_up = || async {
            let mut found = history(&*self.federated, cause.patient.clone(), cause.user.clone()).await?;
            found.studies.retain(|row| row.study_uid == study);
            Ok(Arc::new(found.studies))
        };
        match answer.found.get_or_init(look_up).await {
            Ok(records) if records.is_empty() => Err(HttpError::NotFound(
                "no examination with that Study Instance UID is known under this number; what is here under it is \
                 another patient's, or is not linked to this number"
                    .into(),
            )),
            Ok(records) => Ok(Arc::clone(records)),
            Err(why) => Err(HttpError::Elsewhere(format!(
                "a study with that UID is here, and is not shown: whether it is this patient's can't be told now: {why}"
            ))),
        }
    }
}
