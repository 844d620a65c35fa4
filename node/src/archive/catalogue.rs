//! The catalogue's records and keys, and the rule that says what an arriving object is.
//!
//! Keys of the table [`CATALOGUE`] (UIDs have no NUL and at most 64 characters):
//! `o<sop>` current object · `v<sop>\0<hash>` variant · `q<received><hash>` quarantined · `s<study>` study ·
//! `r<study>\0<series>` series · `i<study>\0<series>\0<sop>` object of a study · `p<issuer>\0<id>\0<study>` study of a
//! local patient · `d<date><study>` study by date · `w<study>` study in reception · `x<receipt>` received, not filed yet ·
//! `f<sender>\0<note>` text that belies its character set (see [`super::flags`]) ·
//! `y<hash>` the same of a copy · `n` totals.
//! Copies of other sites' studies are not here: [`super::copies`].
//! Values are canonical postcard behind a version byte.
//!
//! Invariants: nothing is overwritten or deleted on receipt; an object is in exactly one of `o`, `v`, `q`; a study
//! has one local patient for good (another patient under its UID is quarantined). DESIGN section 8, *Resends*.

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tessera_consensus::wire::{decode, encode};
use tessera_policy::{ISSUER_CHARS_MAX, Identifier, Issuer};
use tessera_storage::engine::{Batch, EngineError, Table, View};

pub const CATALOGUE: Table = "catalogue";
/// Version of the records below.
const VERSION: u8 = 1;
const RECORD_BYTES_MAX: usize = 64 * 1024;
/// Records that a walk reads at a time.
const PAGE: usize = 1024;
/// Objects that one study may have; beyond it the study is refused rather than the memory filled.
pub const STUDY_OBJECTS_MAX: usize = 200_000;
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
}

impl Quarantine {
    pub fn sentence(self) -> &'static str {
        match self {
            Quarantine::UnknownSender => "the sender's AE title and address are not on the list [dicom.sender]",
            Quarantine::Damaged => "the data set is cut off or broken; have it sent again",
            Quarantine::StudyOfAnotherPatient => "its Study Instance UID belongs to another patient of this archive",
            Quarantine::ObjectOfAnotherStudy => "its SOP Instance UID belongs to another study of this archive",
        }
    }
}

pub(super) fn key(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = vec![kind];
    key.extend_from_slice(&parts.join(&0));
    key
}

fn object_key(sop: &str) -> Vec<u8> {
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
    #[error("a study has more than 200000 objects")]
    TooLarge,
}

fn load<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T, CatalogueError> {
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

/// Study UIDs from `from` to `to` (inclusive dates `YYYYMMDD`), newest first.
pub fn studies_by_date(view: &dyn View, from: &str, to: &str, limit: usize) -> Result<Vec<String>, CatalogueError> {
    let (first, last) = (key(b'd', &[from.as_bytes()]), key(b'd', &[to.as_bytes(), b"\xff"]));
    let pairs = view.scan_back(CATALOGUE, &first, Some(&last), limit)?;
    let last_part =
        |key: &[u8]| key.rsplit(|byte| *byte == 0).next().map(|part| String::from_utf8_lossy(part).into_owned());
    Ok(pairs.iter().filter_map(|(key, _)| last_part(key)).collect())
}

fn last_parts(view: &dyn View, prefix: &[u8], limit: usize) -> Result<Vec<String>, CatalogueError> {
    let pairs = view.scan_prefix(CATALOGUE, prefix, limit)?;
    Ok(pairs.iter().map(|(key, _)| String::from_utf8_lossy(&key[prefix.len()..]).into_owned()).collect())
}

/// All local patients' studies that have not been closed, by walking those in reception.
pub fn receiving(view: &dyn View, limit: usize) -> Result<Vec<String>, CatalogueError> {
    last_parts(view, b"w", limit)
}

/// What was put aside: reason and record, newest first.
pub fn quarantined(view: &dyn View, limit: usize) -> Result<Vec<(Quarantine, ObjectRecord)>, CatalogueError> {
    view.scan_back(CATALOGUE, b"q", Some(b"r"), limit)?.iter().map(|(_, value)| load(value)).collect()
}

/// Variants of known objects.
pub fn variants(view: &dyn View, limit: usize) -> Result<Vec<ObjectRecord>, CatalogueError> {
    read_all(view, b"v", limit)
}

/// Whether an own object or a variant of one has these bytes.
pub fn is_own(view: &dyn View, sop: &str, hash: &[u8; 32]) -> Result<bool, CatalogueError> {
    if object(view, sop)?.is_some_and(|known| known.hash == *hash) {
        return Ok(true);
    }
    Ok(view.get(CATALOGUE, &key(b'v', &[sop.as_bytes(), hash]))?.is_some())
}

/// Which of these bytes are quarantined.
pub fn put_aside(view: &dyn View, hashes: &BTreeSet<[u8; 32]>) -> Result<BTreeSet<[u8; 32]>, CatalogueError> {
    let (mut aside, mut from) = (BTreeSet::new(), b"q".to_vec());
    loop {
        let page = view.scan(CATALOGUE, &from, Some(b"r"), PAGE)?;
        let hash = |key: &[u8]| key.last_chunk().filter(|hash| hashes.contains(*hash)).copied();
        aside.extend(page.iter().filter_map(|(key, _)| hash(key)));
        match page.last() {
            Some((last, _)) if page.len() == PAGE => from = [last.as_slice(), b"\0"].concat(),
            _ => return Ok(aside),
        }
    }
}

/// Says what `arriving` is, by what is here.
pub fn standing(view: &dyn View, arriving: &ObjectRecord) -> Result<Standing, CatalogueError> {
    let description = &arriving.description;
    if !arriving.receipt.known_sender {
        return Ok(Standing::Quarantined(Quarantine::UnknownSender));
    }
    if arriving.is_damaged {
        return Ok(Standing::Quarantined(Quarantine::Damaged));
    }
    let patient = patient_of(description);
    if study(view, &description.study)?.is_some_and(|known| known.patient != patient) {
        return Ok(Standing::Quarantined(Quarantine::StudyOfAnotherPatient));
    }
    Ok(match object(view, &description.sop_instance)? {
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

/// The changes that record `arriving` under its standing.
pub fn record(
    view: &dyn View,
    arriving: &ObjectRecord,
    standing: &Standing,
    batch: &mut Batch,
) -> Result<(), CatalogueError> {
    let mut totals = totals(view)?;
    let sop = arriving.description.sop_instance.as_bytes();
    match standing {
        Standing::Known => return Ok(()),
        Standing::Variant => {
            let variant = key(b'v', &[sop, &arriving.hash]);
            if read::<ObjectRecord>(view, &variant)?.is_none() {
                totals.variants += 1;
                store(batch, variant, arriving);
            }
        }
        Standing::Quarantined(why) => {
            let mut aside = vec![b'q'];
            aside.extend_from_slice(&arriving.receipt.received_ms.to_be_bytes());
            aside.extend_from_slice(&arriving.hash);
            totals.quarantined += 1;
            store(batch, aside, &(*why, arriving));
        }
        Standing::New => record_new(view, arriving, &mut totals, batch)?,
    }
    store(batch, b"n".to_vec(), &totals);
    Ok(())
}

fn record_new(
    view: &dyn View,
    arriving: &ObjectRecord,
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
    let revision = match study.phase {
        Phase::Receiving { revision } | Phase::Complete { revision } => revision,
    };
    study.phase = Phase::Receiving { revision };
    study.last_received_ms = study.last_received_ms.max(arriving.receipt.received_ms);
    study.objects += 1;
    study.series += u32::from(new_series);
    study.bytes += arriving.size;
    collect(&mut study.modalities, &d.modality);
    collect(&mut study.body_parts, &d.body_part);
    store(batch, object_key(&d.sop_instance), arriving);
    store(batch, series_key, &series);
    batch.put(CATALOGUE, key(b'i', &[study_uid, series_uid, d.sop_instance.as_bytes()]), []);
    batch.put(
        CATALOGUE,
        key(b'p', &[study.patient.issuer.as_bytes(), study.patient.patient_id.as_bytes(), study_uid]),
        [],
    );
    batch.put(CATALOGUE, key(b'd', &[study.description.study_date.as_bytes(), study_uid]), []);
    batch.put(CATALOGUE, key(b'w', &[study_uid]), []);
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

/// An object that is durable in the packs and that the catalogue may have missed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Missed {
    pub hash: Vec<u8>,
    pub envelope: Vec<u8>,
}

/// Notes a record that a start found in the packs, to be filed when the store is open.
pub fn note_missed(batch: &mut Batch, recovered: &tessera_storage::pixels::Recovered) {
    if recovered.kind == tessera_storage::pixels::RecordKind::Tombstone {
        return;
    }
    let missed = Missed { hash: recovered.hash.to_bytes().to_vec(), envelope: recovered.envelope.clone() };
    store(batch, key(b'x', &[&recovered.id.number().to_be_bytes()]), &missed);
}

/// Records to be filed, with their keys; oldest first.
pub fn missed(view: &dyn View, limit: usize) -> Result<Vec<(Vec<u8>, Missed)>, CatalogueError> {
    view.scan_prefix(CATALOGUE, b"x", limit)?.into_iter().map(|(key, value)| Ok((key, load(&value)?))).collect()
}

/// Notes that a missed record is a copy's.
pub fn note_missed_copy(batch: &mut Batch, missed: &Missed) {
    store(batch, key(b'y', &[&missed.hash]), missed);
}

/// Records of copies to be filed, with their keys.
pub fn missed_copies(view: &dyn View, limit: usize) -> Result<Vec<(Vec<u8>, Missed)>, CatalogueError> {
    view.scan_prefix(CATALOGUE, b"y", limit)?.into_iter().map(|(key, value)| Ok((key, load(&value)?))).collect()
}

/// Puts a closed study back into reception without a new object.
pub fn reopen(record: &mut StudyRecord, batch: &mut Batch) {
    if let Phase::Complete { revision } = record.phase {
        record.phase = Phase::Receiving { revision: revision.saturating_sub(1) };
    }
    batch.put(CATALOGUE, key(b'w', &[record.description.study.as_bytes()]), []);
    put_study(batch, record);
}
