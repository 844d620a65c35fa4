//! The crosswalk from hospital numbers to identifiers: rows from a file, kept sealed, resolved for each study.
//!
//! The rules (disputes, newborns, a family member's card) are policy's; here are the file, the vault and the links
//! that follow when a row arrives after a study was registered under the hospital's own number.

use std::sync::{Arc, MutexGuard, PoisonError};

use tessera_policy::{CheckMode, Crosswalk, CrosswalkRow, Demographics, Identifier, Inserted, Issuer, Resolution, Uid};
use tessera_storage::engine::Batch;

use super::Member;
use super::vault::{Shelf, Vault};
use crate::archive::Archive;
use crate::archive::catalogue::{self, Description};
use crate::control::wire::{CrosswalkCall, CrosswalkDone};

/// Rows of one site's crosswalk.
const ROWS_MAX: usize = 10_000_000;
/// Studies of one patient that a row may link.
const STUDIES_MAX: usize = 10_000;

/// A row's name in the vault.
fn row_name(row: &CrosswalkRow) -> Vec<u8> {
    [row.local().canonical_bytes(), row.identifier().canonical_bytes()].concat()
}

/// Reads the kept rows.
pub fn load(archive: &Archive, vault: &Vault) -> anyhow::Result<Crosswalk> {
    let mut crosswalk = Crosswalk::default();
    for fields in vault.all::<Vec<String>>(&**archive.engine(), Shelf::Crosswalk, ROWS_MAX)? {
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        crosswalk.insert(CrosswalkRow::parse(&fields, CheckMode::Warn)?)?;
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
        let mut locals = std::collections::BTreeSet::new();
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
            if call.remove {
                match record.map_err(anyhow::Error::from).and_then(|record| self.remove_row(&record)) {
                    Ok(true) => done.removed += 1,
                    Ok(false) => done.refused.push((line as u64 + 1, "this row is not in the crosswalk".into())),
                    Err(error) => done.refused.push((line as u64 + 1, format!("{error:#}"))),
                }
                continue;
            }
            match record.map_err(anyhow::Error::from).and_then(|record| self.take_row(&record)) {
                Ok((local, Inserted::Known)) => drop(locals.insert(local)),
                Ok((local, Inserted::New)) => {
                    done.new += 1;
                    locals.insert(local);
                }
                Ok((_, Inserted::Disputed(kind))) => {
                    let why = format!(
                        "another {kind} number is there for this patient; neither links until one is taken back"
                    );
                    done.refused.push((line as u64 + 1, why));
                }
                Err(error) => done.refused.push((line as u64 + 1, format!("{error:#}"))),
            }
        }
        for local in locals {
            done.linked_patients += u64::from(self.link_registered(&local).await?);
        }
        Ok(done)
    }

    /// Takes a row back; what was linked by it stays linked, for what was disclosed stays known.
    fn remove_row(&self, record: &csv::StringRecord) -> anyhow::Result<bool> {
        let fields: Vec<&str> = record.iter().map(str::trim).collect();
        let row = CrosswalkRow::parse(&fields, CheckMode::Warn)?;
        let was_there = self.crosswalk().remove(row.local(), row.identifier());
        if was_there {
            let mut batch = Batch::new();
            self.vault.delete(&mut batch, Shelf::Crosswalk, &row_name(&row));
            self.archive.submit(batch)?;
        }
        Ok(was_there)
    }

    fn take_row(&self, record: &csv::StringRecord) -> anyhow::Result<(Identifier, Inserted)> {
        let fields: Vec<&str> = record.iter().map(str::trim).collect();
        let row = CrosswalkRow::parse(&fields, CheckMode::Warn)?;
        let (local, name) = (row.local().clone(), row_name(&row));
        let inserted = self.crosswalk().insert(row)?;
        if inserted != Inserted::Known {
            let mut batch = Batch::new();
            let kept: Vec<String> = fields.iter().map(|field| (*field).to_owned()).collect();
            self.vault.put(&mut batch, Shelf::Crosswalk, &name, &kept);
            self.archive.submit(batch)?;
        }
        Ok((local, inserted))
    }

    /// Links what was registered under the hospital's own number before the row came.
    async fn link_registered(self: &Arc<Self>, local: &Identifier) -> anyhow::Result<bool> {
        let patient = catalogue::LocalPatient::of(local.issuer().as_str(), local.reveal());
        let mut linked = false;
        for uid in catalogue::studies_of(&**self.archive.engine(), &patient, STUDIES_MAX)? {
            let Some(registration) = self.registration(&uid)? else { continue };
            let Some(study) = catalogue::study(&**self.archive.engine(), &uid)? else { continue };
            if registration.identifier != *local {
                continue;
            }
            for other in self.resolve(&study.description)?.linked {
                linked |= self.link(local, &other).await?;
            }
        }
        Ok(linked)
    }
}
