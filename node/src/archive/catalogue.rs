//! The catalogue's records and keys, and the rule that says what an arriving object is.
//!
//! Keys of the table [`CATALOGUE`] (UIDs have no NUL and at most 64 characters):
//! `o<sop>` current object · `v<sop>\0<hash>` variant · `q<received><hash>` quarantined · `h<hash><received>` the same by
//! its bytes, without a value · `h` those are complete · `z<sop>\0<hash>` superseded by a released variant · `a<length><key><time>` decision on what was put aside (see [`super::quarantine`]) ·
//! `g<key>` discarded, its bytes to be given up · `s<study>` study ·
//! `r<study>\0<series>` series · `i<study>\0<series>\0<sop>` object of a study · `p<issuer>\0<id>\0<study>` study of a
//! local patient · `d<date><study>` study by date · `w<study>` study in reception · `x`, `y`, `l` received, not filed
//! (see [`super::missed`]) · `f<sender>\0<note>` text that belies its character set (see [`super::flags`]) · `n` totals ·
//! `u` bytes that unlisted senders have aside (see [`super::aside`]).
//! Copies of other sites' studies are not here: [`super::copies`].
//! Values are canonical postcard behind a version byte.
//!
//! Invariants: nothing is overwritten or deleted on receipt; a received object is in exactly one of `o`, `v`, `q`, `z`, or
//! was discarded by a decision that is kept; a study has one local patient for good (another patient under its UID is
//! quarantined). DESIGN section 8, *Resends*.

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tessera_consensus::wire::{decode, encode};
use tessera_federation::wire::v1::MANIFEST_OBJECTS_MAX;
use tessera_policy::{ISSUER_CHARS_MAX, Identifier, Issuer};
use tessera_storage::engine::{Batch, Engine, EngineError, Table, View};

use super::quarantine;

pub const CATALOGUE: Table = "catalogue";
/// Version of the records below.
const VERSION: u8 = 1;
const RECORD_BYTES_MAX: usize = 64 * 1024;
/// Records that a walk reads at a time.
const PAGE: usize = 1024;
/// Objects that one study may have: what a manifest can list. Further ones are put aside, so that what is here of the
/// study can be registered.
pub const STUDY_OBJECTS_MAX: usize = MANIFEST_OBJECTS_MAX;
/// What the records of an object that is put aside take on the disk beside it, in bytes, generously.
const ASIDE_RECORD_BYTES: u64 = 4096;
/// Distinct modalities, and body parts, that a study's record lists.
const VALUES_MAX: usize = 16;

/// A patient as this hospital's devices know one: the number means nothing without its issuer.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LocalPatient {
    pub issuer: String,
    pub patient_id: String,
}

impl LocalPatient {
    /// In the one form in which numbers are compared: width, blanks and the issuer's case carry no meaning. What
    /// can't be an issuer keeps its own form, with the characters replaced that an issuer may not have.
    pub fn of(issuer: &str, patient_id: &str) -> Self {
        let plain = |c: char| if c.is_control() || matches!(c, '/' | '\\') { '_' } else { c };
        let replaced: String = issuer.chars().map(plain).take(ISSUER_CHARS_MAX).collect();
        let Ok(issuer) = Issuer::parse(&replaced) else {
            return Self { issuer: replaced, patient_id: patient_id.to_owned() };
        };
        let id = Identifier::hospital(issuer.clone(), patient_id);
        let patient_id = id.map_or_else(|_| patient_id.to_owned(), |id| id.reveal().to_owned());
        Self { issuer: issuer.as_str().to_owned(), patient_id }
    }
}

impl std::fmt::Debug for LocalPatient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "patient of {}", self.issuer)
    }
}

/// What a data set says of itself, decoded to UTF-8. Empty text: absent.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Description {
    pub sop_class: String,
    pub sop_instance: String,
    pub series: String,
    pub study: String,
    pub issuer: String,
    pub patient_id: String,
    pub patient_name: String,
    pub sex: String,
    pub birth_date: String,
    pub study_date: String,
    pub study_time: String,
    pub study_description: String,
    pub study_id: String,
    pub accession: String,
    pub referring_physician: String,
    pub institution: String,
    pub modality: String,
    pub body_part: String,
    pub series_number: String,
    pub series_description: String,
    pub series_date: String,
    pub series_time: String,
    pub instance_number: String,
    pub rows: u32,
    pub columns: u32,
    pub frames: u32,
    pub manufacturer: String,
    pub device_model: String,
    /// What was noticed about the character set; empty: as declared.
    pub character_set_note: String,
}

impl std::fmt::Debug for Description {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} object", self.modality)
    }
}

/// Who sent an object, how and when. Kept with the object's bytes, so that the catalogue can be made anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    pub version: u8,
    pub calling_ae: String,
    pub called_ae: String,
    /// Empty for an import.
    pub address: String,
    pub received_ms: u64,
    pub sop_class: String,
    pub sop_instance: String,
    pub transfer_syntax: String,
    pub site: String,
    /// The sender is on the list (or an operator imported the file).
    pub known_sender: bool,
    /// Specific Character Set to read it with, whatever it says.
    pub character_set: Option<String>,
    /// The site that it was fetched from; `None` for what was made here.
    pub fetched_from: Option<String>,
}

/// One object that was kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ObjectRecord {
    pub description: Description,
    pub receipt: Receipt,
    pub hash: [u8; 32],
    pub size: u64,
    /// It could be read up to its UIDs, and not to its end.
    pub is_damaged: bool,
}

/// A study of this archive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StudyRecord {
    /// From the first object; later ones add to the sets and counts.
    pub description: Description,
    pub patient: LocalPatient,
    pub site: String,
    pub modalities: BTreeSet<String>,
    pub body_parts: BTreeSet<String>,
    pub series: u32,
    pub objects: u32,
    pub bytes: u64,
    pub first_received_ms: u64,
    pub last_received_ms: u64,
    pub phase: Phase,
    pub fetched_from: Option<String>,
}

/// Whether a study is still arriving. DESIGN section 8, *States*.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Objects arrived since the last revision was closed (0: none yet).
    Receiving {
        revision: u32,
    },
    Complete {
        revision: u32,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeriesRecord {
    pub description: Description,
    pub objects: u32,
}

/// What the archive holds, kept with every change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub studies: u64,
    pub objects: u64,
    pub bytes: u64,
    pub variants: u64,
    pub quarantined: u64,
}

/// What an arriving object is to this archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    New,
    /// The same bytes are here already.
    Known,
    /// A known SOP Instance UID with other content: kept beside it, for a person to look at.
    Variant,
    Quarantined(Quarantine),
}

/// Why an object is put aside, never indexed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Quarantine {
    UnknownSender,
    /// The data set ends early or contradicts itself behind its UIDs.
    Damaged,
    /// The study UID belongs to another patient here.
    StudyOfAnotherPatient,
    /// The SOP Instance UID belongs to another study here.
    ObjectOfAnotherStudy,
    /// The study has as many objects as a manifest can list.
    StudyFull,
}

impl Quarantine {
    pub fn sentence(self) -> &'static str {
        match self {
            Quarantine::UnknownSender => "the sender's AE title and address are not on the list [dicom.sender]",
            Quarantine::Damaged => "the data set is cut off or broken; have it sent again",
            Quarantine::StudyOfAnotherPatient => "its Study Instance UID belongs to another patient of this archive",
            Quarantine::ObjectOfAnotherStudy => "its SOP Instance UID belongs to another study of this archive",
            Quarantine::StudyFull => "its study has 65536 objects already, more than can be registered",
        }
    }
}

pub(super) fn key(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = vec![kind];
    key.extend_from_slice(&parts.join(&0));
    key
}

pub(super) fn object_key(sop: &str) -> Vec<u8> {
    key(b'o', &[sop.as_bytes()])
}

fn study_key(study: &str) -> Vec<u8> {
    key(b's', &[study.as_bytes()])
}

pub(super) fn store<T: Serialize>(batch: &mut Batch, key: Vec<u8>, value: &T) {
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(&encode(value));
    batch.put(CATALOGUE, key, bytes);
}

/// Why the catalogue could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CatalogueError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(
        "a record of the catalogue is damaged: stop the node and put its directory back from a copy; keep the database, \
         it also holds what was not sent to the ledger yet"
    )]
    Damaged,
    #[error("a study has more than {STUDY_OBJECTS_MAX} objects")]
    TooLarge,
}

pub(super) fn load<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T, CatalogueError> {
    let (version, value) = bytes.split_first().ok_or(CatalogueError::Damaged)?;
    if *version != VERSION {
        return Err(CatalogueError::Damaged);
    }
    decode("catalogue record", value, RECORD_BYTES_MAX).map_err(|_| CatalogueError::Damaged)
}

pub(super) fn read<T: Serialize + DeserializeOwned>(view: &dyn View, key: &[u8]) -> Result<Option<T>, CatalogueError> {
    view.get(CATALOGUE, key)?.map(|bytes| load(&bytes)).transpose()
}

pub(super) fn read_all<T: Serialize + DeserializeOwned>(
    view: &dyn View,
    prefix: &[u8],
    limit: usize,
) -> Result<Vec<T>, CatalogueError> {
    view.scan_prefix(CATALOGUE, prefix, limit)?.iter().map(|(_, value)| load(value)).collect()
}

pub fn object(view: &dyn View, sop: &str) -> Result<Option<ObjectRecord>, CatalogueError> {
    read(view, &object_key(sop))
}

pub fn study(view: &dyn View, study: &str) -> Result<Option<StudyRecord>, CatalogueError> {
    read(view, &study_key(study))
}

/// Studies whose UIDs come after `after`, in the order of the keys, at most `limit`.
pub fn studies_after(view: &dyn View, after: &str, limit: usize) -> Result<Vec<StudyRecord>, CatalogueError> {
    let mut from = study_key(after);
    from.push(0);
    view.scan(CATALOGUE, &from, Some(b"t"), limit)?.iter().map(|(_, value)| load(value)).collect()
}

pub fn put_study(batch: &mut Batch, record: &StudyRecord) {
    store(batch, study_key(&record.description.study), record);
}

pub fn totals(view: &dyn View) -> Result<Totals, CatalogueError> {
    Ok(read(view, b"n")?.unwrap_or_default())
}

/// What quarantined objects of unlisted senders take, in bytes.
pub fn unlisted_bytes(view: &dyn View) -> Result<u64, CatalogueError> {
    Ok(read(view, b"u")?.unwrap_or(0))
}

/// An object of an unlisted sender is put aside no more.
pub fn unlisted_left(view: &dyn View, object_bytes: u64, batch: &mut Batch) -> Result<(), CatalogueError> {
    let bytes = unlisted_bytes(view)?.saturating_sub(aside_bytes(object_bytes));
    store(batch, b"u".to_vec(), &bytes);
    Ok(())
}

/// What an object that is put aside takes, its records included.
pub fn aside_bytes(object_bytes: u64) -> u64 {
    object_bytes.saturating_add(ASIDE_RECORD_BYTES)
}

/// Series of a study in the order of their UIDs.
pub fn series_of(view: &dyn View, study: &str) -> Result<Vec<SeriesRecord>, CatalogueError> {
    read_all(view, &key(b'r', &[study.as_bytes(), b""]), STUDY_OBJECTS_MAX)
}

/// Current objects of a study, or of one of its series, in the order of series and SOP Instance UID.
pub fn objects_of(view: &dyn View, study: &str, series: Option<&str>) -> Result<Vec<ObjectRecord>, CatalogueError> {
    let prefix = match series {
        None => key(b'i', &[study.as_bytes(), b""]),
        Some(series) => key(b'i', &[study.as_bytes(), series.as_bytes(), b""]),
    };
    let keys = view.scan_prefix(CATALOGUE, &prefix, STUDY_OBJECTS_MAX + 1)?;
    if keys.len() > STUDY_OBJECTS_MAX {
        return Err(CatalogueError::TooLarge);
    }
    let sops = keys.iter().filter_map(|(key, _)| key.rsplit(|byte| *byte == 0).next());
    sops.map(|sop| object(view, &String::from_utf8_lossy(sop))?.ok_or(CatalogueError::Damaged)).collect()
}

/// Study UIDs of a local patient.
pub fn studies_of(view: &dyn View, patient: &LocalPatient, limit: usize) -> Result<Vec<String>, CatalogueError> {
    let prefix = key(b'p', &[patient.issuer.as_bytes(), patient.patient_id.as_bytes(), b""]);
    last_parts(view, &prefix, limit)
}

/// Issuers of the patient numbers in this archive, by leaping from one to the next; at most `limit`.
pub fn issuers(view: &dyn View, limit: usize) -> Result<Vec<String>, CatalogueError> {
    let mut issuers = Vec::new();
    let mut from = b"p".to_vec();
    while issuers.len() < limit
        && let Some((key, _)) = view.scan(CATALOGUE, &from, Some(b"q"), 1)?.into_iter().next()
    {
        let issuer = key[1..].split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        from = [b"p", issuer.as_slice(), b"\x01"].concat();
        issuers.push(String::from_utf8_lossy(&issuer).into_owned());
    }
    Ok(issuers)
}

/// Dates and UIDs of the studies from `from` to `to` (inclusive dates `YYYYMMDD`), newest first.
pub fn studies_by_date(
    view: &dyn View,
    from: &str,
    to: &str,
    limit: usize,
) -> Result<Vec<(String, String)>, CatalogueError> {
    let (first, last) = (key(b'd', &[from.as_bytes()]), key(b'd', &[to.as_bytes(), b"\xff"]));
    let pairs = view.scan_back(CATALOGUE, &first, Some(&last), limit)?;
    let text = |part: &[u8]| String::from_utf8_lossy(part).into_owned();
    let parts = |key: &[u8]| {
        let nul = key.iter().rposition(|byte| *byte == 0)?;
        Some((text(&key[1..nul]), text(&key[nul + 1..])))
    };
    Ok(pairs.iter().filter_map(|(key, _)| parts(key)).collect())
}

fn last_parts(view: &dyn View, prefix: &[u8], limit: usize) -> Result<Vec<String>, CatalogueError> {
    let pairs = view.scan_prefix(CATALOGUE, prefix, limit)?;
    Ok(pairs.iter().map(|(key, _)| String::from_utf8_lossy(&key[prefix.len()..]).into_owned()).collect())
}

/// All local patients' studies that have not been closed, by walking those in reception.
pub fn receiving(view: &dyn View, limit: usize) -> Result<Vec<String>, CatalogueError> {
    last_parts(view, b"w", limit)
}

/// The same, at most `limit` of them: those behind the UID `after`, then from the beginning.
pub fn receiving_from(view: &dyn View, after: &str, limit: usize) -> Result<Vec<String>, CatalogueError> {
    let turn = key(b'w', &[after.as_bytes(), b""]);
    let mut pairs = view.scan(CATALOGUE, &turn, Some(b"x"), limit)?;
    pairs.extend(view.scan(CATALOGUE, b"w", Some(&turn), limit - pairs.len())?);
    Ok(pairs.iter().map(|(key, _)| String::from_utf8_lossy(&key[1..]).into_owned()).collect())
}

/// Whether an own object has these bytes, or a variant of one, or what a variant superseded.
pub fn is_own(view: &dyn View, sop: &str, hash: &[u8; 32]) -> Result<bool, CatalogueError> {
    if object(view, sop)?.is_some_and(|known| known.hash == *hash) {
        return Ok(true);
    }
    let kept = |kind| view.get(CATALOGUE, &key(kind, &[sop.as_bytes(), hash]));
    Ok(kept(b'v')?.is_some() || kept(b'z')?.is_some())
}

/// Which of these bytes are quarantined.
pub fn put_aside(view: &dyn View, hashes: &BTreeSet<[u8; 32]>) -> Result<BTreeSet<[u8; 32]>, CatalogueError> {
    let mut aside = BTreeSet::new();
    for hash in hashes {
        if !view.scan_prefix(CATALOGUE, &key(b'h', &[hash]), 1)?.is_empty() {
            aside.insert(*hash);
        }
    }
    Ok(aside)
}

/// Makes the keys by which the quarantined are found by their bytes, where an older version did not. To be called before
/// anything is forgotten.
pub fn complete_by_bytes(engine: &dyn Engine) -> Result<(), CatalogueError> {
    let complete = key(b'h', &[]);
    if engine.get(CATALOGUE, &complete)?.is_some() {
        return Ok(());
    }
    let mut from = b"q".to_vec();
    loop {
        let page = engine.scan(CATALOGUE, &from, Some(b"r"), PAGE)?;
        let mut batch = Batch::new();
        for (aside, _) in &page {
            batch.put(CATALOGUE, by_bytes(aside).ok_or(CatalogueError::Damaged)?, []);
        }
        match page.last() {
            Some((last, _)) if page.len() == PAGE => from = [last.as_slice(), b"\0"].concat(),
            _ => {
                batch.put(CATALOGUE, complete, []);
                engine.submit(batch)?;
                return Ok(());
            }
        }
        engine.submit(batch)?;
    }
}

/// The key by its bytes of what is quarantined under `aside`; `None` for a variant.
pub(super) fn by_bytes(aside: &[u8]) -> Option<Vec<u8>> {
    let (received, hash) = aside.strip_prefix(b"q")?.split_first_chunk::<8>()?;
    Some([&b"h"[..], hash, received].concat())
}

/// Every object, variant and quarantined object that has one of these hashes.
pub fn objects_of_hashes(
    view: &dyn View,
    hashes: &BTreeSet<[u8; 32]>,
    mut found: impl FnMut(&ObjectRecord),
) -> Result<(), CatalogueError> {
    for kind in [b'o', b'v', b'q'] {
        let mut from = vec![kind];
        loop {
            let page = view.scan(CATALOGUE, &from, Some(&[kind + 1]), PAGE)?;
            for (_, value) in &page {
                let object: ObjectRecord = match kind {
                    b'q' => load::<(Quarantine, ObjectRecord)>(value)?.1,
                    _ => load(value)?,
                };
                if hashes.contains(&object.hash) {
                    found(&object);
                }
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE => from = [last.as_slice(), b"\0"].concat(),
                _ => break,
            }
        }
    }
    Ok(())
}

/// Says what `arriving` is, by what is here.
pub fn standing(view: &dyn View, arriving: &ObjectRecord) -> Result<Standing, CatalogueError> {
    if !arriving.receipt.known_sender {
        return Ok(Standing::Quarantined(Quarantine::UnknownSender));
    }
    standing_by_content(view, arriving)
}

/// The same, whoever sent it.
pub fn standing_by_content(view: &dyn View, arriving: &ObjectRecord) -> Result<Standing, CatalogueError> {
    let description = &arriving.description;
    if arriving.is_damaged {
        return Ok(Standing::Quarantined(Quarantine::Damaged));
    }
    let patient = patient_of(description);
    let study = study(view, &description.study)?;
    if study.as_ref().is_some_and(|known| known.patient != patient) {
        return Ok(Standing::Quarantined(Quarantine::StudyOfAnotherPatient));
    }
    let is_full = study.is_some_and(|known| known.objects as usize >= STUDY_OBJECTS_MAX);
    Ok(match object(view, &description.sop_instance)? {
        None if is_full => Standing::Quarantined(Quarantine::StudyFull),
        None => Standing::New,
        Some(known) if known.description.study != description.study => {
            Standing::Quarantined(Quarantine::ObjectOfAnotherStudy)
        }
        Some(known)
            if known.hash == arriving.hash && known.receipt.transfer_syntax == arriving.receipt.transfer_syntax =>
        {
            Standing::Known
        }
        Some(_) => Standing::Variant,
    })
}

pub fn patient_of(description: &Description) -> LocalPatient {
    LocalPatient::of(&description.issuer, &description.patient_id)
}

/// The changes that record `arriving` under its standing at a time, counted in `totals`. An object that a start hands
/// over once more is recorded once, and what was decided on it stands.
pub fn record(
    view: &dyn View,
    arriving: &ObjectRecord,
    standing: &Standing,
    at_ms: u64,
    totals: &mut Totals,
    batch: &mut Batch,
) -> Result<(), CatalogueError> {
    match standing {
        Standing::Known => {}
        Standing::Variant => {
            let variant = variant_key(arriving);
            if is_first(view, &variant, arriving)? {
                totals.variants += 1;
                store(batch, variant, arriving);
            }
        }
        Standing::Quarantined(why) => {
            let aside = quarantine_key(arriving);
            if is_first(view, &aside, arriving)? {
                totals.quarantined += 1;
                if let Some(by_bytes) = by_bytes(&aside) {
                    batch.put(CATALOGUE, by_bytes, []);
                }
                store(batch, aside, &(*why, arriving));
                if *why == Quarantine::UnknownSender {
                    let bytes = unlisted_bytes(view)? + aside_bytes(arriving.size);
                    store(batch, b"u".to_vec(), &bytes);
                }
            }
        }
        Standing::New => record_new(view, arriving, at_ms, totals, batch)?,
    }
    Ok(())
}

/// Nothing is put aside under this key, and nothing was decided on this very receipt.
fn is_first(view: &dyn View, aside: &[u8], arriving: &ObjectRecord) -> Result<bool, CatalogueError> {
    let superseded: Option<ObjectRecord> = read(view, &superseded_key(arriving))?;
    let known = view.get(CATALOGUE, aside)?.is_some() || superseded.is_some_and(|it| it.receipt == arriving.receipt);
    Ok(!known && !quarantine::is_decided(view, aside, &arriving.receipt)?)
}

pub(super) fn variant_key(record: &ObjectRecord) -> Vec<u8> {
    key(b'v', &[record.description.sop_instance.as_bytes(), &record.hash])
}

pub(super) fn quarantine_key(record: &ObjectRecord) -> Vec<u8> {
    [&b"q"[..], &record.receipt.received_ms.to_be_bytes(), &record.hash].concat()
}

pub(super) fn superseded_key(record: &ObjectRecord) -> Vec<u8> {
    key(b'z', &[record.description.sop_instance.as_bytes(), &record.hash])
}

pub fn put_totals(batch: &mut Batch, totals: &Totals) {
    store(batch, b"n".to_vec(), totals);
}

fn record_new(
    view: &dyn View,
    arriving: &ObjectRecord,
    at_ms: u64,
    totals: &mut Totals,
    batch: &mut Batch,
) -> Result<(), CatalogueError> {
    let d = &arriving.description;
    let (study_uid, series_uid) = (d.study.as_bytes(), d.series.as_bytes());
    let series_key = key(b'r', &[study_uid, series_uid]);
    let series: Option<SeriesRecord> = read(view, &series_key)?;
    let new_series = series.is_none();
    let mut series = series.unwrap_or_else(|| SeriesRecord { description: d.clone(), objects: 0 });
    series.objects += 1;
    let known = study(view, &d.study)?;
    totals.studies += u64::from(known.is_none());
    totals.objects += 1;
    totals.bytes += arriving.size;
    let mut study = known.unwrap_or_else(|| new_study(arriving));
    study.objects += 1;
    study.series += u32::from(new_series);
    study.bytes += arriving.size;
    take_in(&mut study, arriving, at_ms, batch);
    store(batch, object_key(&d.sop_instance), arriving);
    store(batch, series_key, &series);
    batch.put(CATALOGUE, key(b'i', &[study_uid, series_uid, d.sop_instance.as_bytes()]), []);
    batch.put(
        CATALOGUE,
        key(b'p', &[study.patient.issuer.as_bytes(), study.patient.patient_id.as_bytes(), study_uid]),
        [],
    );
    batch.put(CATALOGUE, key(b'd', &[study.description.study_date.as_bytes(), study_uid]), []);
    put_study(batch, &study);
    Ok(())
}

/// The study has something new, and is in reception from now on: its next revision will have it.
fn take_in(study: &mut StudyRecord, arriving: &ObjectRecord, at_ms: u64, batch: &mut Batch) {
    let revision = match study.phase {
        Phase::Receiving { revision } | Phase::Complete { revision } => revision,
    };
    study.phase = Phase::Receiving { revision };
    study.last_received_ms = study.last_received_ms.max(at_ms);
    collect(&mut study.modalities, &arriving.description.modality);
    collect(&mut study.body_parts, &arriving.description.body_part);
    batch.put(CATALOGUE, key(b'w', &[arriving.description.study.as_bytes()]), []);
}

/// Puts a variant in its current object's place, which is kept as superseded. Both are of one series.
pub(super) fn supersede(
    view: &dyn View,
    current: &ObjectRecord,
    variant: &ObjectRecord,
    at_ms: u64,
    totals: &mut Totals,
    batch: &mut Batch,
) -> Result<(), CatalogueError> {
    let mut study = study(view, &current.description.study)?.ok_or(CatalogueError::Damaged)?;
    study.bytes = study.bytes.saturating_sub(current.size) + variant.size;
    totals.bytes = totals.bytes.saturating_sub(current.size) + variant.size;
    take_in(&mut study, variant, at_ms, batch);
    // It may have been superseded itself, and come again.
    batch.delete(CATALOGUE, superseded_key(variant));
    store(batch, superseded_key(current), current);
    store(batch, object_key(&variant.description.sop_instance), variant);
    put_study(batch, &study);
    Ok(())
}

/// A study with more distinct values than [`VALUES_MAX`] is a mistake of its sender; the first ones describe it.
fn collect(values: &mut BTreeSet<String>, value: &str) {
    if !value.is_empty() && values.len() < VALUES_MAX {
        values.insert(value.to_owned());
    }
}

fn new_study(first: &ObjectRecord) -> StudyRecord {
    StudyRecord {
        description: first.description.clone(),
        patient: patient_of(&first.description),
        site: first.receipt.site.clone(),
        modalities: BTreeSet::new(),
        body_parts: BTreeSet::new(),
        series: 0,
        objects: 0,
        bytes: 0,
        first_received_ms: first.receipt.received_ms,
        last_received_ms: first.receipt.received_ms,
        phase: Phase::Receiving { revision: 0 },
        fetched_from: first.receipt.fetched_from.clone(),
    }
}

/// Closes the present revision of a study that has been quiet.
pub fn close(record: &mut StudyRecord, batch: &mut Batch) -> u32 {
    let revision = match record.phase {
        Phase::Receiving { revision } => revision + 1,
        Phase::Complete { revision } => revision,
    };
    record.phase = Phase::Complete { revision };
    batch.delete(CATALOGUE, key(b'w', &[record.description.study.as_bytes()]));
    put_study(batch, record);
    revision
}

/// Puts a closed study back into reception without a new object.
pub fn reopen(record: &mut StudyRecord, batch: &mut Batch) {
    if let Phase::Complete { revision } = record.phase {
        record.phase = Phase::Receiving { revision: revision.saturating_sub(1) };
    }
    batch.put(CATALOGUE, key(b'w', &[record.description.study.as_bytes()]), []);
    put_study(batch, record);
}
