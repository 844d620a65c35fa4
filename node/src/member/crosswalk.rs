//! The crosswalk from hospital numbers to identifiers: rows from a file, kept sealed, resolved for each study.
//!
//! The rules (disputes, newborns, a family member's card) are policy's; here are the file, the vault and the links
//! that follow when a row arrives after a study was registered under the hospital's own number.

use std::collections::BTreeSet;
use std::sync::{Arc, MutexGuard, PoisonError};

use tessera_policy::{CheckMode, Crosswalk, CrosswalkRow, Demographics, Identifier, Inserted, Issuer, Resolution, Uid};
use tessera_storage::engine::{Batch, Ticket};

use super::Member;
use super::vault::{Shelf, Vault};
use crate::archive::Archive;
use crate::archive::catalogue::{self, Description, StudyRecord};
use crate::control::wire::{CrosswalkCall, CrosswalkDone};

/// Pairs of numbers in one site's crosswalk.
const PAIRS_MAX: usize = 10_000_000;
/// Studies of one patient that a row may link.
const STUDIES_MAX: usize = 10_000;

/// The name in the vault of all that is stated of two numbers.
fn pair_name(row: &CrosswalkRow) -> Vec<u8> {
    [row.local().canonical_bytes(), row.identifier().canonical_bytes()].concat()
}

/// The fields of each row about the same two numbers. All are kept: one of them could be the one that contradicts.
type Statements = Vec<Vec<String>>;

fn parse(fields: &[String]) -> anyhow::Result<CrosswalkRow> {
    let fields: Vec<&str> = fields.iter().map(|field| field.trim()).collect();
    Ok(CrosswalkRow::parse(&fields, CheckMode::Warn)?)
}

/// Reads the kept rows.
pub fn load(archive: &Archive, vault: &Vault) -> anyhow::Result<Crosswalk> {
    let mut crosswalk = Crosswalk::default();
    for fields in vault.all::<Statements>(&**archive.engine(), Shelf::Crosswalk, PAIRS_MAX)?.iter().flatten() {
        crosswalk.insert(parse(fields)?)?;
    }
    Ok(crosswalk)
}

impl Member {
    fn crosswalk(&self) -> MutexGuard<'_, Crosswalk> {
        self.crosswalk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Under which identifiers a study belongs.
    pub fn resolve(&self, d: &Description) -> anyhow::Result<Resolution> {
        let seen = Demographics::read(&d.patient_name, &d.sex, &d.birth_date);
        let patient = catalogue::patient_of(d);
        let issuer = Issuer::parse(&patient.issuer).or_else(|_| Issuer::parse(&self.config.default_site().issuer))?;
        Ok(self.crosswalk().resolve(&issuer, &d.patient_id, &Uid::parse(&d.study)?, &seen))
    }

    /// Takes the rows of a CSV text; what can't be taken is listed with its line, the rest is taken.
    pub async fn extend_crosswalk(self: &Arc<Self>, call: CrosswalkCall) -> anyhow::Result<CrosswalkDone> {
        let mut done = CrosswalkDone::default();
        let mut locals = BTreeSet::new();
        // Tickets come true in their order.
        let mut written = None;
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .comment(Some(b'#'))
            .from_reader(call.csv.as_bytes());
        for (line, record) in reader.records().enumerate() {
            // A heading is welcome and not needed; comments are left out.
            let heading = |record: &csv::StringRecord| {
                line == 0 && record.get(0).is_some_and(|f| f.eq_ignore_ascii_case("issuer"))
            };
            if record.as_ref().is_ok_and(heading) {
                continue;
            }
            done.rows += 1;
            let fields = record.map(|record| record.iter().map(str::to_owned).collect::<Vec<_>>());
            let fields = fields.map_err(anyhow::Error::from);
            if call.remove {
                match fields.and_then(|fields| self.remove_row(&fields)) {
                    Ok(Some(ticket)) => {
                        done.removed += 1;
                        written = Some(ticket);
                    }
                    Ok(None) => done.refused.push((line as u64 + 1, "this row is not in the crosswalk".into())),
                    Err(error) => done.refused.push((line as u64 + 1, format!("{error:#}"))),
                }
                continue;
            }
            match fields.and_then(|fields| self.take_row(fields)) {
                Ok((local, inserted, ticket)) => {
                    written = ticket.or(written);
                    if let Inserted::Disputed(kind) = inserted {
                        let why = format!(
                            "another {kind} number is there for this patient; neither links until one is taken back"
                        );
                        done.refused.push((line as u64 + 1, why));
                        continue;
                    }
                    done.new += u64::from(inserted == Inserted::New);
                    locals.insert(local);
                }
                Err(error) => done.refused.push((line as u64 + 1, format!("{error:#}"))),
            }
        }
        if let Some(written) = written {
            // Nobody sends a row again that was answered as taken.
            self.durable(written).await?;
        }
        for local in locals {
            done.linked_patients += u64::from(self.link_registered(&local).await?);
        }
        Ok(done)
    }

    /// Takes a row back; what was linked by it stays linked, for what was disclosed stays known. `None`: it was not there.
    fn remove_row(&self, fields: &[String]) -> anyhow::Result<Option<Ticket>> {
        let row = parse(fields)?;
        let mut crosswalk = self.crosswalk();
        if !crosswalk.remove(row.local(), row.identifier()) {
            return Ok(None);
        }
        let mut batch = Batch::new();
        self.vault.delete(&mut batch, Shelf::Crosswalk, &pair_name(&row));
        Ok(Some(self.archive.engine().submit(batch)?))
    }

    fn take_row(&self, fields: Vec<String>) -> anyhow::Result<(Identifier, Inserted, Option<Ticket>)> {
        let row = parse(&fields)?;
        let (local, name) = (row.local().clone(), pair_name(&row));
        let mut crosswalk = self.crosswalk();
        let kept: Option<Statements> = self.vault.get(&**self.archive.engine(), Shelf::Crosswalk, &name)?;
        let mut statements = kept.unwrap_or_default();
        if statements.iter().any(|kept| parse(kept).is_ok_and(|kept| kept == row)) {
            return Ok((local, crosswalk.insert(row)?, None));
        }
        statements.push(fields);
        // What the disk did not take does not count either.
        crosswalk.check_room(&row)?;
        let mut batch = Batch::new();
        self.vault.put(&mut batch, Shelf::Crosswalk, &name, &statements);
        let ticket = self.archive.engine().submit(batch)?;
        Ok((local, crosswalk.insert(row)?, Some(ticket)))
    }

    /// Links what was registered under the hospital's own number before the row came.
    async fn link_registered(self: &Arc<Self>, local: &Identifier) -> anyhow::Result<bool> {
        let patient = catalogue::LocalPatient::of(local.issuer().as_str(), local.reveal());
        let mut linked = false;
        for uid in catalogue::studies_of(&**self.archive.engine(), &patient, STUDIES_MAX)? {
            let Some(study) = self.registered(&uid)? else { continue };
            for other in self.resolve(&study.description)?.linked {
                linked |= self.link(local, &other).await?;
            }
        }
        Ok(linked)
    }

    /// A study that is registered. Who registers one resolves its numbers under the same lock: either it knows the row
    /// that came meanwhile, or it is found here.
    fn registered(&self, uid: &str) -> anyhow::Result<Option<StudyRecord>> {
        let _writing = self.archive.writing();
        if self.registration(uid)?.is_none() {
            return Ok(None);
        }
        Ok(catalogue::study(&**self.archive.engine(), uid)?)
    }
}

#[cfg(test)]
#[path = "crosswalk_tests.rs"]
mod tests;
