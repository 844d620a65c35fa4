//! Generated objects as files: one folder an issuer, `late/`, `outage/`, `crosswalk.csv` and `shared_patient`.
//! The layout is what the demonstration, the tests and the measurements read; nothing else in the program knows it.
//! Not for what the objects show.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::plan::{HOSPITALS_MAX, LATE_FOLDER, OUTAGE_FOLDER, PERSONS_MAX, PhantomSpec, SLICES_MAX};
use super::{CrosswalkLine, PhantomObject, crosswalk, generate, shared_patient};
use crate::dicom::part10::file_head;

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PhantomSummary {
    pub objects: u64,
    pub bytes: u64,
}

/// Why examinations could not be written.
#[derive(Debug, thiserror::Error)]
pub enum PhantomError {
    #[error("ask for 1 to {PERSONS_MAX} patients, 2 to {SLICES_MAX} slices and 1 to {HOSPITALS_MAX} issuers")]
    OutOfRange,
    #[error(
        "'{issuer}' can't be an issuer here: use letters, digits, '-' and '_', and not '{LATE_FOLDER}' or '{OUTAGE_FOLDER}'"
    )]
    Issuer { issuer: String },
    #[error("{path} could not be written")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Issuers name folders, so they must be plain.
fn check(spec: &PhantomSpec) -> Result<(), PhantomError> {
    let in_range = (1..=PERSONS_MAX).contains(&spec.persons)
        && (2..=SLICES_MAX).contains(&spec.slices)
        && (1..=HOSPITALS_MAX).contains(&spec.issuers.len());
    if !in_range {
        return Err(PhantomError::OutOfRange);
    }
    let plain = |issuer: &str| issuer.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    let taken = |issuer: &str| issuer.is_empty() || issuer == LATE_FOLDER || issuer == OUTAGE_FOLDER;
    match spec.issuers.iter().find(|issuer| !plain(issuer) || taken(issuer)) {
        Some(issuer) => Err(PhantomError::Issuer { issuer: issuer.clone() }),
        None => Ok(()),
    }
}

/// Writes everything below `directory`; `progress` hears of each object when it is on disk.
pub fn write(
    spec: &PhantomSpec,
    directory: &Path,
    mut progress: impl FnMut(&PhantomObject),
) -> Result<PhantomSummary, PhantomError> {
    check(spec)?;
    let mut summary = PhantomSummary::default();
    for object in generate(spec) {
        let head = file_head(&object.sop_class, &object.sop_instance, &object.transfer_syntax, None);
        let bytes = [head.as_slice(), &object.data_set].concat();
        put(&directory.join(&object.file_name), &bytes)?;
        summary.objects += 1;
        summary.bytes += bytes.len() as u64;
        progress(&object);
    }
    put(&directory.join("crosswalk.csv"), crosswalk_csv(spec).as_bytes())?;
    put(&directory.join("shared_patient"), format!("{}\n", shared_patient(spec)).as_bytes())?;
    Ok(summary)
}

/// No field holds a comma, so none needs quotes.
fn crosswalk_csv(spec: &PhantomSpec) -> String {
    let mut csv = String::from("issuer,patient_id,kind,value,name,sex,birth_date\n");
    for line in crosswalk(spec) {
        let CrosswalkLine { issuer, patient_id, kind, value, name, sex, birth_date } = line;
        csv.push_str(&format!("{issuer},{patient_id},{kind},{value},{name},{sex},{birth_date}\n"));
    }
    csv
}

fn put(path: &Path, bytes: &[u8]) -> Result<(), PhantomError> {
    let failed = |source| PhantomError::Write { path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    fs::write(path, bytes).map_err(failed)
}
