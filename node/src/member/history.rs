//! A patient's history across sites, from the local replica: keys, chains, links to the person's other numbers.
//! No answer says "no history": it says what was found under a number, as of when, and what could not be told.
//! Not here: the walk itself, which is federation's, and what may be shown of other sites' images, which is policy's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tessera_consensus::SiteId;
use tessera_federation::RecordId;
use tessera_federation::blind::IdentifierKey;
use tessera_federation::history::{self, FoundStudy, History};
use tessera_policy::{ConsentId, Identifier, PersonName};

use super::Member;
use super::lookups::{Asked, Occasion};
use crate::archive::catalogue::StudyRecord;
use crate::archive::copies::{self, CopyId, CopyRecord, Shown};
use crate::control::wire::{HistoryCall, HistoryDone, HistoryStudy};

/// Numbers of one person that a lookup follows.
pub const IDENTIFIERS_MAX: usize = 16;
/// Different spellings of names that are held against each other.
const NAMES_MAX: usize = 32;

/// Everything that the ledger has of a person, and what could not be told.
#[derive(Default)]
pub struct Person {
    pub identifiers: Vec<Identifier>,
    /// With which all this was found.
    pub keys: Vec<IdentifierKey>,
    pub found: History,
    /// Under which number each study record was found first.
    studies_under: BTreeMap<(SiteId, RecordId), Identifier>,
    /// Whose links lead to a further number from the one that was asked for. Any site can write a link, by mistake too.
    linked_by: BTreeMap<Identifier, Vec<SiteId>>,
    /// Under which number each consent lies.
    pub consents_under: BTreeMap<ConsentId, Identifier>,
    pub missing: Vec<String>,
}

impl Member {
    /// Follows links from `identifier` to the person's other numbers. Who asked is written down first.
    pub async fn person(&self, identifier: &Identifier, asked: Asked<'_>) -> anyhow::Result<Person> {
        let mut person = Person::default();
        let mut seen = BTreeSet::from([identifier.clone()]);
        let mut queue = VecDeque::from([identifier.clone()]);
        while let Some(identifier) = queue.pop_front() {
            let keys = match self.keys_of(&identifier, false).await {
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
                let (other, site) = (&link.details.other, &link.details.site);
                if seen.len() < IDENTIFIERS_MAX && seen.insert(other.clone()) {
                    let mut sites = person.linked_by.get(&identifier).cloned().unwrap_or_default();
                    if !sites.contains(site) {
                        sites.push(site.clone());
                    }
                    person.linked_by.insert(other.clone(), sites);
                    queue.push_back(other.clone());
                }
            }
            for study in &found.studies {
                let record = (study.details.site.clone(), study.details.record);
                person.studies_under.entry(record).or_insert_with(|| identifier.clone());
            }
            person.missing.extend(found.problems.iter().map(|problem| {
                let site = problem.site.as_ref().map_or_else(|| "a site".to_owned(), ToString::to_string);
                format!("a record of {site}: {}", problem.cause)
            }));
            self.note_unreadable(&found.problems);
            let under = found.consents.iter().map(|consent| (consent.details.consent, identifier.clone()));
            person.consents_under.extend(under);
            person.identifiers.push(identifier);
            person.keys.extend(keys);
            person.found.studies.extend(found.studies);
            person.found.amendments.extend(found.amendments);
            person.found.links.extend(found.links);
            person.found.consents.extend(found.consents);
        }
        self.note_lookup(&person, asked).await?;
        Ok(person)
    }

    /// The answer for people and programs.
    pub async fn history(&self, call: &HistoryCall) -> anyhow::Result<HistoryDone> {
        let identifier = Identifier::parse(&call.id)?;
        let asked = Asked { occasion: Occasion::History, user: &call.user };
        let mut person = self.person(&identifier, asked).await?;
        let missing = std::mem::take(&mut person.missing);
        let mut done = HistoryDone { patient: identifier.to_string(), missing, ..HistoryDone::default() };
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
            self.say_how_it_was_reached(&person, study, &mut shown)?;
            if let Some(open) = &study.details.shown {
                shown.study_uid = open.study_uid.as_str().to_owned();
                shown.study_date = open.study_date.as_ref().map(ToString::to_string).unwrap_or_default();
                shown.modalities = open.modalities.iter().map(|modality| modality.as_str().to_owned()).collect();
                shown.body_region = open.body_region.to_string();
                shown.objects = open.objects;
                shown.state = open.state.to_string();
                self.say_what_is_here(&person, &mut shown)?;
            }
            done.studies.push(shown);
        }
        done.names_disagree = names_disagree(done.studies.iter().map(|study| study.patient_name.as_str()));
        Ok(done)
    }

    /// Which number a record lies under and by whose links, where that is not the number that was asked for.
    fn say_how_it_was_reached(
        &self,
        person: &Person,
        study: &FoundStudy,
        shown: &mut HistoryStudy,
    ) -> anyhow::Result<()> {
        let record = (study.details.site.clone(), study.details.record);
        let Some(under) = person.studies_under.get(&record) else { return Ok(()) };
        let Some(sites) = person.linked_by.get(under) else { return Ok(()) };
        shown.under = under.to_string();
        shown.linked_by = sites.iter().map(|site| self.site_name(site)).collect::<anyhow::Result<_>>()?;
        Ok(())
    }

    /// What this archive has of a record's study, and whether something of another patient's is in the way.
    fn say_what_is_here(&self, person: &Person, shown: &mut HistoryStudy) -> anyhow::Result<()> {
        let view = &**self.archive.engine();
        let is_open = |copy: &CopyRecord| matches!(self.copy_closed(copy, None), Ok(None));
        let is_place = |copy: &CopyId| {
            let same = |study: &FoundStudy| study.details.record == copy.record && study.details.site == copy.holder;
            person.found.studies.iter().any(same)
        };
        let of_row =
            |copy: &CopyRecord| copy.id.holder.as_str() == shown.site && copy.id.record.to_string() == shown.record;
        let own_site = |study: &FoundStudy| self.config.site.iter().any(|own| own.id == study.details.site);
        let same_uid = |study: &FoundStudy| {
            study.details.shown.as_ref().is_some_and(|open| open.study_uid.as_str() == shown.study_uid)
        };
        let registered = person.found.studies.iter().any(|study| own_site(study) && same_uid(study));
        let is_own = |own: &StudyRecord| registered || self.is_of(&person.identifiers, own);
        let found = copies::of_patient(view, &shown.study_uid, is_own, is_place, &is_open)?;
        shown.collides = found.collides;
        let described = match found.shown {
            Some(Shown::Own(own)) => Some(*own),
            // A copy that can't be judged is not shown; the fetch says why.
            Some(Shown::Copy(copy)) => Some(copy.study),
            None => None,
        };
        let row_copy =
            copies::of_study(view, &shown.study_uid)?.into_iter().any(|copy| of_row(&copy) && is_open(&copy));
        shown.copy_here = !shown.here && row_copy;
        if let Some(study) = described {
            shown.patient_name = study.description.patient_name;
            shown.description = study.description.study_description;
        }
        Ok(())
    }

    /// Whether a study of this archive is the person's with these numbers, by its own number or by the crosswalk.
    pub(super) fn is_of(&self, numbers: &[Identifier], own: &StudyRecord) -> bool {
        // What can't be resolved is nobody's.
        self.resolve(&own.description)
            .is_ok_and(|found| numbers.iter().any(|number| *number == found.local || found.linked.contains(number)))
    }
}

/// Whether two of the names are, as far as their spellings tell, two persons'.
fn names_disagree<'a>(names: impl Iterator<Item = &'a str>) -> bool {
    let names: BTreeSet<&str> = names.collect();
    let names: Vec<PersonName> = names.into_iter().filter_map(PersonName::read).take(NAMES_MAX).collect();
    names.iter().enumerate().any(|(at, name)| names[..at].iter().any(|other| other.contradicts(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_persons_names_disagree_and_two_spellings_do_not() {
        let table: [(&[&str], bool); 4] = [
            (&["", "Zhang^San=张^三", "ZHANG^SAN", "张三"], false),
            (&["ZHANG^SAN", "张三", "李四"], true),
            (&["Phantom^One", "Phantom^Two"], true),
            (&[], false),
        ];
        for (names, expected) in table {
            assert_eq!(names_disagree(names.iter().copied()), expected, "{names:?}");
        }
    }
}
