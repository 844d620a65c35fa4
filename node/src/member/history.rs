//! A patient's history across sites, from the local replica: keys, chains, links to the person's other numbers.
//! No answer says "no history": it says what was found under a number, as of when, and what could not be told.
//! Not here: the walk itself, which is federation's, and what may be shown of other sites' images, which is policy's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tessera_federation::blind::IdentifierKey;
use tessera_federation::history::{self, FoundStudy, History};
use tessera_policy::{ConsentId, Identifier};

use super::Member;
use crate::archive::catalogue;
use crate::archive::copies::{self, CopyId};
use crate::archive::ingest::now_ms;
use crate::control::wire::{HistoryDone, HistoryStudy};

/// Numbers of one person that a lookup follows.
pub const IDENTIFIERS_MAX: usize = 16;

/// Everything that the ledger has of a person, and what could not be told.
#[derive(Default)]
pub struct Person {
    pub identifiers: Vec<Identifier>,
    /// With which all this was found.
    pub keys: Vec<IdentifierKey>,
    pub found: History,
    /// Under which number each consent lies.
    pub consents_under: BTreeMap<ConsentId, Identifier>,
    pub missing: Vec<String>,
}

impl Member {
    /// Follows links from `identifier` to the person's other numbers. `own`: keep the keys.
    pub async fn person(&self, identifier: &Identifier, own: bool) -> anyhow::Result<Person> {
        let mut person = Person::default();
        let mut seen = BTreeSet::from([identifier.clone()]);
        let mut queue = VecDeque::from([identifier.clone()]);
        while let Some(identifier) = queue.pop_front() {
            let keys = match self.keys_of(&identifier, own).await {
                Ok(keys) => keys,
                // The first number must be answered for; without a further one the rest still counts.
                Err(error) if person.identifiers.is_empty() => return Err(error),
                Err(error) => {
                    person.missing.push(format!("records under {identifier}: {error:#}"));
                    continue;
                }
            };
            let found = history::look_up(&self.replica, &keys)?;
            for link in found.links.iter().filter(|link| link.ended.is_none()) {
                if seen.len() < IDENTIFIERS_MAX && seen.insert(link.details.other.clone()) {
                    queue.push_back(link.details.other.clone());
                }
            }
            person.missing.extend(found.problems.iter().map(|problem| {
                let site = problem.site.as_ref().map_or_else(|| "a site".to_owned(), ToString::to_string);
                format!("a record of {site}: {}", problem.why)
            }));
            let under = found.consents.iter().map(|consent| (consent.details.consent, identifier.clone()));
            person.consents_under.extend(under);
            person.identifiers.push(identifier);
            person.keys.extend(keys);
            person.found.studies.extend(found.studies);
            person.found.amendments.extend(found.amendments);
            person.found.links.extend(found.links);
            person.found.consents.extend(found.consents);
        }
        Ok(person)
    }

    /// The answer for people and programs.
    pub async fn history(&self, id: &str) -> anyhow::Result<HistoryDone> {
        let identifier = Identifier::parse(id)?;
        let person = self.person(&identifier, false).await?;
        let mut done =
            HistoryDone { patient: identifier.to_string(), missing: person.missing, ..HistoryDone::default() };
        done.ledger_size = self.replica.size().0;
        (done.as_of, done.freshness_ms) = self.as_of();
        for study in person.found.current() {
            let site = study.details.site.as_str().to_owned();
            let here = self.config.site.iter().any(|own| own.id.as_str() == site);
            let mut shown = HistoryStudy {
                site_name: self.site_name(&study.details.site)?,
                site,
                revision: study.details.revision,
                here,
                certified: study.place.certified,
                record: study.details.record.to_string(),
                ..HistoryStudy::default()
            };
            if let Some(open) = &study.details.shown {
                shown.study_uid = open.study_uid.as_str().to_owned();
                shown.study_date = open.study_date.as_ref().map(ToString::to_string).unwrap_or_default();
                shown.modalities = open.modalities.iter().map(|modality| modality.as_str().to_owned()).collect();
                shown.body_region = open.body_region.to_string();
                shown.objects = open.objects;
                shown.state = open.state.to_string();
                shown.copy_here = !here && self.has_open_copy(study, &shown.study_uid)?;
                if let Some(local) = catalogue::study(&**self.archive.engine(), &shown.study_uid)? {
                    shown.patient_name = local.description.patient_name;
                    shown.description = local.description.study_description;
                }
            }
            done.studies.push(shown);
        }
        Ok(done)
    }

    /// Whether a copy of this record, of whatever revision, may be shown now.
    fn has_open_copy(&self, study: &FoundStudy, uid: &str) -> anyhow::Result<bool> {
        let of_record = |copy: &CopyId| copy.holder == study.details.site && copy.record == study.details.record;
        for copy in copies::of_study(&**self.archive.engine(), uid)? {
            let open = of_record(&copy.id) && copy.ground(None, now_ms()).is_some();
            // A copy that can't be judged is not shown; the fetch says why.
            if open && matches!(self.copy_closed(&copy, None), Ok(None)) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
