//! Working copies: what was fetched from other sites, kept apart from this hospital's own studies.
//!
//! A copy is one revision of one holder's record, with the manifest that the ledger commits to. Its objects are known
//! by that copy alone: the same SOP Instance UID may have other bytes here, or in another site's copy, and neither
//! touches the other. Own studies never take in a copy's objects, and a copy is never registered.
//!
//! Keys of the table [`COPIES`], `<copy>` being holder, NUL, record (16 bytes), revision (4 bytes):
//! `c<copy>` the copy · `m<copy>` its manifest · `o<copy><series>\0<sop>` object that is here · `s<study>\0<copy>` by study.
//!
//! Invariants: a copy is durable before the first of its objects; an object is listed only when its own bytes name the
//! study, series, class and instance that the manifest names; *complete* means that every object of the manifest is
//! listed. Nothing is shown of a copy that is not complete or whose time has passed, nor of another patient's study that
//! has the same UID. DESIGN section 7, *Working copies*, and section 8.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tessera_consensus::SiteId;
use tessera_consensus::clock::CLOCK_SKEW_MS_MAX;
use tessera_consensus::wire::{decode, encode};
use tessera_federation::wire::Format;
use tessera_federation::wire::v1::{Manifest, ManifestObject, ObjectContent};
use tessera_federation::{DisclosureId, RecordId};
use tessera_policy::Purpose;
use tessera_storage::engine::{Batch, Table, View};

use super::catalogue::{self, CatalogueError, Description, ObjectRecord, Phase, STUDY_OBJECTS_MAX, SeriesRecord};
use super::catalogue::{LocalPatient, StudyRecord};

pub const COPIES: Table = "copies";
/// Version of the records below.
const VERSION: u8 = 1;
const RECORD_BYTES_MAX: usize = 64 * 1024;
/// Copies that one listing looks at; they live for days, so there are fewer.
pub const COPIES_MAX: usize = 100_000;
/// Different values of a set that describes a copy, such as its modalities.
const SET_MAX: usize = 16;

/// Which copy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CopyId {
    pub holder: SiteId,
    pub record: RecordId,
    pub revision: u32,
}

impl CopyId {
    /// How the copy stands in keys; also its name in the member's table.
    pub fn bytes(&self) -> Vec<u8> {
        let parts: [&[u8]; 4] =
            [self.holder.as_str().as_bytes(), b"\0", self.record.as_bytes(), &self.revision.to_be_bytes()];
        parts.concat()
    }
}

/// How far a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CopyState {
    /// Some objects may be here; another fetch goes on from them.
    Partial,
    Complete,
}

/// What one decision of the holder opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ground {
    pub purpose: Purpose,
    pub disclosure: DisclosureId,
    /// Size of the certified ledger on which it was asked for: what was revoked later closes the copy.
    pub seen: u64,
    pub fetched_ms: u64,
    pub expires_ms: u64,
}

/// One copy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CopyRecord {
    pub id: CopyId,
    pub state: CopyState,
    /// Described by its objects once it is complete.
    pub study: StudyRecord,
    /// At most one for each purpose; none: it may not be shown.
    pub grounds: Vec<Ground>,
    /// When what is partial is given up.
    pub given_up_ms: u64,
}

impl CopyRecord {
    /// Why it may not be shown at a time, for a purpose or for any; `None`: it may. `against` says what the ledger has
    /// against a ground. The one rule on which every showing of a copy rests.
    pub fn closed<E>(
        &self,
        purpose: Option<Purpose>,
        now_ms: u64,
        mut against: impl FnMut(&Ground) -> Result<Option<String>, E>,
    ) -> Result<Option<String>, E> {
        let whole = self.state == CopyState::Complete;
        // A ground of a time to come was dated by a clock that had jumped ahead, and so was its end.
        let dated = |ground: &&Ground| ground.fetched_ms <= now_ms.saturating_add(CLOCK_SKEW_MS_MAX);
        let lasts = |ground: &&Ground| whole && now_ms < ground.expires_ms;
        let lasting: Vec<_> = self.grounds.iter().filter(dated).filter(lasts).collect();
        let mut why = match (lasting.is_empty(), self.grounds.iter().all(|ground| dated(&ground))) {
            (true, true) => "its time has passed".to_owned(),
            (true, false) => "this machine's clock has been set back since it was fetched; fetch it again".to_owned(),
            (false, _) => "it was fetched for another purpose".to_owned(),
        };
        for ground in lasting {
            if purpose.is_none_or(|purpose| ground.purpose == purpose) {
                match against(ground)? {
                    None => return Ok(None),
                    Some(closed) => why = closed,
                }
            }
        }
        Ok(Some(why))
    }

    /// When it was fetched last.
    pub fn fetched_ms(&self) -> u64 {
        self.grounds.iter().map(|ground| ground.fetched_ms).max().unwrap_or(0)
    }

    /// Nothing of it may be shown or resumed any more.
    pub fn is_over(&self, now_ms: u64) -> bool {
        let open = self.grounds.iter().any(|ground| now_ms < ground.expires_ms);
        match self.state {
            CopyState::Complete => !open,
            CopyState::Partial => !open && self.given_up_ms <= now_ms,
        }
    }
}

fn key(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = vec![kind];
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key
}

fn copy_key(id: &CopyId) -> Vec<u8> {
    key(b'c', &[&id.bytes()])
}

fn manifest_key(id: &CopyId) -> Vec<u8> {
    key(b'm', &[&id.bytes()])
}

fn object_key(id: &CopyId, series: &str, sop: &str) -> Vec<u8> {
    key(b'o', &[&id.bytes(), series.as_bytes(), b"\0", sop.as_bytes()])
}

fn study_key(study: &str, id: &CopyId) -> Vec<u8> {
    key(b's', &[study.as_bytes(), b"\0", &id.bytes()])
}

fn store<T: Serialize>(batch: &mut Batch, key: Vec<u8>, value: &T) {
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(&encode(value));
    batch.put(COPIES, key, bytes);
}

fn load<T: Serialize + serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, CatalogueError> {
    match bytes.split_first() {
        Some((&VERSION, value)) => {
            decode("record of a copy", value, RECORD_BYTES_MAX).map_err(|_| CatalogueError::Damaged)
        }
        _ => Err(CatalogueError::Damaged),
    }
}

pub fn copy(view: &dyn View, id: &CopyId) -> Result<Option<CopyRecord>, CatalogueError> {
    view.get(COPIES, &copy_key(id))?.map(|bytes| load(&bytes)).transpose()
}

/// All copies, at most [`COPIES_MAX`].
pub fn all(view: &dyn View) -> Result<Vec<CopyRecord>, CatalogueError> {
    view.scan_prefix(COPIES, b"c", COPIES_MAX)?.iter().map(|(_, value)| load(value)).collect()
}

/// The copy that was fetched last goes first.
pub fn newest_first(mut copies: Vec<CopyRecord>) -> Vec<CopyRecord> {
    copies.sort_by_key(|copy| std::cmp::Reverse(copy.fetched_ms()));
    copies
}

/// Number of copies that are complete.
pub fn complete(view: &dyn View) -> Result<u64, CatalogueError> {
    Ok(all(view)?.iter().filter(|copy| copy.state == CopyState::Complete).count() as u64)
}

/// The copies of a study: of several holders, and of several revisions while a newer one comes in.
pub fn of_study(view: &dyn View, study: &str) -> Result<Vec<CopyRecord>, CatalogueError> {
    let ids = view.scan_prefix(COPIES, &key(b's', &[study.as_bytes(), b"\0"]), COPIES_MAX)?;
    let mut copies = Vec::new();
    for (_, id) in &ids {
        copies.extend(copy(view, &load(id)?)?);
    }
    Ok(copies)
}

/// Why a study that collides is not opened, for people.
pub const COLLIDES: &str = "not opened here: this archive has a study of another patient, or one that is not linked to this \
    number, under the same Study Instance UID; tell both hospitals' operators, and have it as files with tessera fetch --to";

/// What is here of one patient's study.
pub struct OfPatient {
    pub shown: Option<Shown>,
    /// Something else that may be shown here has the same UID and is, as far as is known here, another patient's. Then
    /// nothing of this patient is opened by that UID, and nothing is shown in its place.
    pub collides: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Shown {
    Own(Box<StudyRecord>),
    Copy(Box<CopyRecord>),
}

/// What of everything here that has a study's UID is a patient's, who has it in `places` by the ledger. `is_own`: whether
/// the hospital's own study of that UID is the patient's. DESIGN section 8: a study is (holder, UID).
pub fn of_patient(
    view: &dyn View,
    study: &str,
    is_own: impl FnOnce(&StudyRecord) -> bool,
    is_place: impl Fn(&CopyId) -> bool,
    is_open: &dyn Fn(&CopyRecord) -> bool,
) -> Result<OfPatient, CatalogueError> {
    let mut collides = false;
    if let Some(own) = catalogue::study(view, study)? {
        if is_own(&own) {
            return Ok(OfPatient { shown: Some(Shown::Own(Box::new(own))), collides });
        }
        collides = true;
    }
    let open = newest_first(of_study(view, study)?).into_iter().filter(|copy| is_open(copy));
    let (patients, others): (Vec<_>, Vec<_>) = open.partition(|copy| is_place(&copy.id));
    let shown = patients.into_iter().next().map(|copy| Shown::Copy(Box::new(copy)));
    Ok(OfPatient { shown, collides: collides || !others.is_empty() })
}

pub fn manifest(view: &dyn View, id: &CopyId) -> Result<Option<Manifest>, CatalogueError> {
    let bytes = view.get(COPIES, &manifest_key(id))?;
    bytes.map(|bytes| Manifest::from_bytes(&bytes).map_err(|_| CatalogueError::Damaged)).transpose()
}

/// The objects that are here of a copy, or of one of its series, in the order of series and SOP Instance UID.
pub fn objects(view: &dyn View, id: &CopyId, series: Option<&str>) -> Result<Vec<ObjectRecord>, CatalogueError> {
    let prefix = match series {
        None => key(b'o', &[&id.bytes()]),
        Some(series) => key(b'o', &[&id.bytes(), series.as_bytes(), b"\0"]),
    };
    view.scan_prefix(COPIES, &prefix, STUDY_OBJECTS_MAX)?.iter().map(|(_, value)| load(value)).collect()
}

pub fn object(view: &dyn View, id: &CopyId, series: &str, sop: &str) -> Result<Option<ObjectRecord>, CatalogueError> {
    view.get(COPIES, &object_key(id, series, sop))?.map(|bytes| load(&bytes)).transpose()
}

/// The series of a copy, in the order of their UIDs.
pub fn series(view: &dyn View, id: &CopyId) -> Result<Vec<SeriesRecord>, CatalogueError> {
    let mut series: BTreeMap<String, SeriesRecord> = BTreeMap::new();
    for object in objects(view, id, None)? {
        let new = || SeriesRecord { description: object.description.clone(), objects: 0 };
        series.entry(object.description.series.clone()).or_insert_with(new).objects += 1;
    }
    Ok(series.into_values().collect())
}

pub fn put(batch: &mut Batch, record: &CopyRecord) {
    store(batch, copy_key(&record.id), record);
}

pub fn put_object(batch: &mut Batch, id: &CopyId, record: &ObjectRecord) {
    store(batch, object_key(id, &record.description.series, &record.description.sop_instance), record);
}

/// A copy of which nothing is here yet.
pub fn begin(batch: &mut Batch, id: &CopyId, manifest: &Manifest, now_ms: u64, given_up_ms: u64) {
    let study = StudyRecord {
        description: Description { study: manifest.study_uid.as_str().to_owned(), ..Description::default() },
        patient: LocalPatient { issuer: String::new(), patient_id: String::new() },
        site: id.holder.as_str().to_owned(),
        modalities: BTreeSet::new(),
        body_parts: BTreeSet::new(),
        series: 0,
        objects: 0,
        bytes: 0,
        first_received_ms: now_ms,
        last_received_ms: now_ms,
        phase: Phase::Complete { revision: id.revision },
        fetched_from: Some(id.holder.as_str().to_owned()),
    };
    let record = CopyRecord { id: id.clone(), state: CopyState::Partial, study, grounds: Vec::new(), given_up_ms };
    batch.put(COPIES, manifest_key(id), manifest.to_bytes());
    store(batch, study_key(manifest.study_uid.as_str(), id), id);
    put(batch, &record);
}

/// Everything of a copy but its bytes.
pub fn delete(view: &dyn View, record: &CopyRecord, batch: &mut Batch) -> Result<(), CatalogueError> {
    let id = &record.id;
    for (name, _) in view.scan_prefix(COPIES, &key(b'o', &[&id.bytes()]), STUDY_OBJECTS_MAX)? {
        batch.delete(COPIES, name);
    }
    batch.delete(COPIES, copy_key(id));
    batch.delete(COPIES, manifest_key(id));
    batch.delete(COPIES, study_key(&record.study.description.study, id));
    Ok(())
}

/// The study as its objects describe it.
pub fn described(id: &CopyId, begun: &StudyRecord, objects: &[ObjectRecord]) -> StudyRecord {
    let mut study = begun.clone();
    if let Some(first) = objects.first() {
        study.description = first.description.clone();
        study.patient = catalogue::patient_of(&first.description);
    }
    study.phase = Phase::Complete { revision: id.revision };
    // Counts of a bounded manifest.
    study.objects = objects.len() as u32;
    study.series = objects.chunk_by(|a, b| a.description.series == b.description.series).count() as u32;
    study.bytes = objects.iter().map(|object| object.size).sum();
    for object in objects {
        let d = &object.description;
        for (set, value) in [(&mut study.modalities, &d.modality), (&mut study.body_parts, &d.body_part)] {
            if !value.is_empty() && set.len() < SET_MAX {
                set.insert(value.clone());
            }
        }
        study.last_received_ms = study.last_received_ms.max(object.receipt.received_ms);
    }
    study
}

/// A data set whose own bytes say something else than the manifest that lists it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "object {sop_instance}: by its own bytes its {what} is {found}, by the manifest {listed}; it was not taken in; tell \
     the holder's operator"
)]
pub struct NotAsListed {
    pub sop_instance: String,
    pub what: &'static str,
    pub listed: String,
    pub found: String,
}

/// Whether the bytes are what the manifest says that they are.
pub fn is_as_listed(study: &str, listed: &ManifestObject, found: &Description) -> Result<(), NotAsListed> {
    let table = [
        ("Study Instance UID", study, &found.study),
        ("Series Instance UID", listed.series_uid.as_str(), &found.series),
        ("SOP Class UID", listed.sop_class.as_str(), &found.sop_class),
        ("SOP Instance UID", listed.sop_instance.as_str(), &found.sop_instance),
    ];
    match table.into_iter().find(|(_, listed, found)| listed != found) {
        None => Ok(()),
        Some((what, wanted, found)) => Err(NotAsListed {
            sop_instance: listed.sop_instance.as_str().to_owned(),
            what,
            listed: wanted.to_owned(),
            found: found.clone(),
        }),
    }
}

/// Hashes of the objects that a manifest lists and that can be fetched.
pub fn hashes(manifest: &Manifest) -> BTreeSet<[u8; 32]> {
    let verified = manifest.objects.iter().filter_map(|object| match &object.content {
        ObjectContent::Verified { hash, .. } => Some(*hash.as_bytes()),
        ObjectContent::Declared => None,
    });
    verified.collect()
}
