//! The study record in its three parts (DESIGN section 6): public, sealed under the identifier key, sealed to the
//! regulators for statistics. Description, accession number, names and reports are in none of them: they come from
//! the holder, after a decision.

use std::fmt;

use serde::{Deserialize, Serialize};
use tessera_consensus::{Hash, SiteId};
use tessera_policy::{BodyRegion, Modality, ReleaseState, StudyDate, Uid, VisibilityClass};

use super::check_version;
use super::manifest::ObjectStatus;
use super::sealing::{HpkeSealed, Sealed, Tag};
use crate::ids::RecordId;
use crate::wire::{DecodeError, Format};

/// Regulators that one record's statistics are sealed to.
pub const REGULATORS_MAX: usize = 8;
/// Modalities of one examination.
const MODALITIES_MAX: usize = 16;
/// Bytes of an examination item's code, and of a device's name.
const CODE_BYTES_MAX: usize = 64;
/// Marks of one examination in the statistics.
const MARKS_MAX: usize = 16;

/// "This site has something under this key": the step of the presence chain that leads to the site's own chains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    pub tag: Tag,
    /// The [`SiteId`], sealed under the identifier key.
    pub site: Sealed,
}

/// What every replica sees of a study record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StudyPublic {
    pub version: u8,
    pub tag: Tag,
    /// Until the site's presence is known to be in the ledger, each of its records brings one.
    pub presence: Option<Presence>,
    /// The record of which this is a newer version.
    pub supersedes: Option<Tag>,
}

impl Format for StudyPublic {
    const WHAT: &'static str = "study";
    const BYTES_MAX: usize = 1024;

    fn validate(&self) -> Result<(), DecodeError> {
        check_version(Self::WHAT, self.version)?;
        self.presence.as_ref().map_or(Ok(()), |presence| presence.site.validate())
    }
}

/// The body beside the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StudySealed {
    pub version: u8,
    /// [`StudyDetails`] under the identifier key.
    pub for_patient: Sealed,
    /// [`StudyStatistics`], once for each regulator.
    pub for_regulators: Vec<HpkeSealed>,
}

impl Format for StudySealed {
    const WHAT: &'static str = "sealed study";
    const BYTES_MAX: usize = 256 * 1024;

    fn validate(&self) -> Result<(), DecodeError> {
        check_version(Self::WHAT, self.version)?;
        if self.for_regulators.len() > REGULATORS_MAX {
            return Self::invalid("statistics are sealed to at most 8 regulators");
        }
        self.for_regulators.iter().try_for_each(HpkeSealed::validate)?;
        self.for_patient.validate()
    }
}

/// What holders of the identifier key learn of an examination before any decision.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StudyDetails {
    pub version: u8,
    /// The same over all revisions.
    pub record: RecordId,
    /// From 1.
    pub revision: u32,
    pub site: SiteId,
    pub visibility: VisibilityClass,
    /// Registered under the hospital's own number, because no other is known yet.
    pub unlinked: bool,
    /// [`super::Manifest::commitment`] of the manifest of this revision.
    pub manifest: Hash,
    pub salt: [u8; 16],
    /// Present exactly when the visibility class is *open*: what the key reveals can't be taken back.
    pub shown: Option<StudyShown>,
}

/// The part of [`StudyDetails`] that an open record shows.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StudyShown {
    pub study_uid: Uid,
    pub study_date: Option<StudyDate>,
    /// Sorted, none twice.
    pub modalities: Vec<Modality>,
    pub body_region: BodyRegion,
    /// Code of the examination item in the federation's catalogue, at most 64 bytes.
    pub item: Option<String>,
    pub state: ReleaseState,
    pub series: u32,
    pub objects: u32,
    pub status: ObjectStatus,
}

impl Format for StudyDetails {
    const WHAT: &'static str = "study details";
    const BYTES_MAX: usize = 4 * 1024;

    fn validate(&self) -> Result<(), DecodeError> {
        check_version(Self::WHAT, self.version)?;
        if self.revision == 0 {
            return Self::invalid("revisions count from 1");
        }
        if (self.visibility == VisibilityClass::Open) != self.shown.is_some() {
            return Self::invalid("an open record shows its details, and only an open one");
        }
        let Some(shown) = &self.shown else { return Ok(()) };
        if shown.modalities.len() > MODALITIES_MAX || !shown.modalities.is_sorted_by(|a, b| a < b) {
            return Self::invalid("at most 16 modalities, sorted and none twice");
        }
        match &shown.item {
            Some(item) if item.is_empty() || item.len() > CODE_BYTES_MAX => {
                Self::invalid("an item's code has 1 to 64 bytes")
            }
            _ => Ok(()),
        }
    }
}

/// UIDs and dates of a named patient's examinations are personal data.
impl fmt::Debug for StudyDetails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { record, revision, site, visibility, .. } = self;
        write!(f, "StudyDetails({record} revision {revision}, {site}, {visibility}, …)")
    }
}

impl fmt::Debug for StudyShown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StudyShown({}, …)", self.state)
    }
}

/// What the regulators count. Nothing in it names or finds a patient.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StudyStatistics {
    pub version: u8,
    pub site: SiteId,
    /// `yyyymm` of the examination.
    pub month: u32,
    pub modalities: Vec<Modality>,
    pub objects: u32,
    pub bytes: u64,
    /// Number of the diagnostic grade, once a person or a registered AI has given one.
    pub grade: Option<u16>,
    /// Maker and model, at most 64 bytes.
    pub device: Option<String>,
    /// Numbers of quality and sharing marks, ascending.
    pub marks: Vec<u16>,
}

impl Format for StudyStatistics {
    const WHAT: &'static str = "study statistics";
    const BYTES_MAX: usize = 1024;

    fn validate(&self) -> Result<(), DecodeError> {
        check_version(Self::WHAT, self.version)?;
        let (year, month) = (self.month / 100, self.month % 100);
        if !(1000..=9999).contains(&year) || !(1..=12).contains(&month) {
            return Self::invalid("the month is written yyyymm");
        }
        if self.modalities.len() > MODALITIES_MAX || !self.modalities.is_sorted_by(|a, b| a < b) {
            return Self::invalid("at most 16 modalities, sorted and none twice");
        }
        if self.device.as_ref().is_some_and(|device| device.len() > CODE_BYTES_MAX) {
            return Self::invalid("a device's name has at most 64 bytes");
        }
        if self.marks.len() > MARKS_MAX || !self.marks.is_sorted_by(|a, b| a < b) {
            return Self::invalid("at most 16 marks, sorted and none twice");
        }
        Ok(())
    }
}
