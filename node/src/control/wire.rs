//! The values of the control socket and of `--json`: plain, for programs and for the pages.
//!
//! These are shown to people of this site only; they hold names and numbers of patients. Field names are part of
//! what users script against: they are added, not renamed.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One line of an answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Line {
    Progress(Progress),
    Done(serde_json::Value),
    Error(String),
}

/// How far a long call is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done, in words.
    pub stage: String,
    pub objects_done: u64,
    pub objects_total: u64,
    pub bytes_done: u64,
    pub bytes_total: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct ImportCall {
    pub paths: Vec<PathBuf>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct ImportDone {
    pub stored: u64,
    pub known_already: u64,
    pub variants: u64,
    pub quarantined: u64,
    pub bytes: u64,
    /// Files that were not taken, with the reason.
    pub refused: Vec<(PathBuf, String)>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct CrosswalkCall {
    pub csv: String,
    /// Take the rows back.
    #[serde(default)]
    pub remove: bool,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct CrosswalkDone {
    pub rows: u64,
    pub new: u64,
    /// Rows that were not taken, with line and reason.
    pub refused: Vec<(u64, String)>,
    /// Studies that got a link by this.
    pub linked_patients: u64,
    /// Rows that were taken back.
    pub removed: u64,
}

impl CrosswalkDone {
    /// Adds the figures of the next part; its refused rows have lines of their own.
    pub fn add(&mut self, part: &CrosswalkDone) {
        self.rows += part.rows;
        self.new += part.new;
        self.linked_patients += part.linked_patients;
        self.removed += part.removed;
        self.refused.extend(part.refused.iter().cloned());
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub struct HistoryCall {
    pub id: String,
}

/// A patient's examinations at all sites, as this node's replica knows them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct HistoryDone {
    /// The identifier, masked.
    pub patient: String,
    /// Entries of the ledger that this answer rests on.
    pub ledger_size: u64,
    /// Time of the newest certified checkpoint, RFC 3339.
    pub as_of: Option<String>,
    pub freshness_ms: Option<u64>,
    pub studies: Vec<HistoryStudy>,
    /// What could not be told, and why: never silently left out.
    pub missing: Vec<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct HistoryStudy {
    pub study_uid: String,
    pub site: String,
    pub site_name: String,
    pub study_date: String,
    pub modalities: Vec<String>,
    pub body_region: String,
    pub objects: u32,
    pub revision: u32,
    pub state: String,
    /// Held by this very node.
    pub here: bool,
    /// A fetched copy is here.
    pub copy_here: bool,
    pub certified: bool,
    pub record: String,
    /// As the images that are here have them; empty when none are: the ledger holds neither.
    #[serde(default)]
    pub patient_name: String,
    #[serde(default)]
    pub description: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct FetchCall {
    pub study: String,
    pub id: String,
    pub purpose: String,
    pub user: String,
    /// The site to fetch it from, where several hold it.
    #[serde(default)]
    pub holder: Option<String>,
    pub to: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct FetchDone {
    pub study: String,
    pub holder: String,
    pub disclosure: String,
    pub objects: u64,
    pub bytes: u64,
    /// Bytes that were here already, from an earlier attempt.
    pub resumed_bytes: u64,
    pub elapsed_ms: u64,
    pub files: Vec<PathBuf>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct ConsentGrantCall {
    pub id: String,
    pub to_site: String,
    pub purpose: String,
    pub patient_code: Option<String>,
    pub days: u32,
}

/// How far a consent or its revocation has come.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ConsentDone {
    pub consent: String,
    /// Absent: it is kept here and waits for the ledger.
    pub ledger_index: Option<u64>,
    pub certified: bool,
    /// Time of the certificate, RFC 3339 (revocations only).
    pub recorded_at: Option<String>,
    /// From then on no holder sends anything on it, whether it could be reached or not (revocations only).
    pub effective_at_latest: Option<String>,
    /// The denial that was recorded because another site recorded the consent; figures above are the denial's.
    pub denial: Option<String>,
    /// What was not done, and who can do it.
    pub undone: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct ConsentRevokeCall {
    pub consent: String,
    /// Whose; needed when another site recorded it.
    pub id: Option<String>,
}

/// A code for the patient, for what the patient agrees to.
#[derive(Debug, Serialize, Deserialize)]
pub struct ConsentCodeCall {
    pub id: String,
    pub to_site: String,
    pub purpose: String,
    /// From the recording of the grant.
    pub days: u32,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct IdCall {
    pub id: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConsentCode {
    pub code: String,
    /// Days within which it must be used.
    pub valid_days: u32,
    pub to_site: String,
    pub purpose: String,
    /// The latest end of what it confirms, RFC 3339.
    pub until: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ConsentShown {
    pub consent: String,
    pub decision: String,
    pub to_site: String,
    pub purposes: Vec<String>,
    pub recorded_by: String,
    pub evidence: String,
    pub until: Option<String>,
    pub state: String,
    /// Of the revocation, or of a denial: time of the certificate, and from when on no holder acts against it.
    pub recorded_at: Option<String>,
    pub effective_at_latest: Option<String>,
}

/// What the node is and does.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StatusDone {
    pub name: String,
    pub node: String,
    pub role: String,
    pub sites: Vec<String>,
    pub federation: String,
    pub federation_id: String,
    pub ledger_size: u64,
    pub certified_size: u64,
    pub certified_at: Option<String>,
    pub freshness_ms: Option<u64>,
    pub state_digest: String,
    pub leader: Option<String>,
    pub outbox_pending: u64,
    pub studies: u64,
    pub objects: u64,
    pub bytes: u64,
    pub receiving: u64,
    pub quarantined: u64,
    pub copies: u64,
    pub peers: Vec<PeerShown>,
    /// Entries of the ledger by kind.
    pub entries: Vec<(String, u64)>,
    /// On an observer: what the sites hold, by month, newest first.
    pub volumes: Vec<VolumeShown>,
    /// What needs a person's attention.
    pub warnings: Vec<String>,
}

/// One site's examinations of one month.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct VolumeShown {
    /// `yyyy-mm` of the examinations.
    pub month: String,
    pub site: String,
    pub site_name: String,
    pub examinations: u64,
    pub objects: u64,
    pub bytes: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PeerShown {
    pub node: String,
    pub name: String,
    pub sites: Vec<String>,
    pub role: String,
    pub connected: bool,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct QuarantineShown {
    pub received: String,
    pub sender: String,
    pub sop_instance: String,
    pub study_uid: String,
    pub why: String,
    pub bytes: u64,
}
