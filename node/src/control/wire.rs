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
    /// Files that were not tried, or not taken, because the disk has no room; and what was said of the first.
    #[serde(default)]
    pub without_room: u64,
    #[serde(default)]
    pub no_room: Option<String>,
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
    /// In whose name; empty when nobody is named.
    #[serde(default)]
    pub user: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct LookupsCall {
    /// Whose lookups; `None`: only the check.
    pub id: Option<String>,
}

/// Who looked a patient up at this node.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LookupsDone {
    /// The identifier, masked; empty when none was asked for.
    pub patient: String,
    /// Newest first.
    pub lookups: Vec<LookupShown>,
    /// There are older ones.
    pub more: bool,
    /// Lookups of all patients at this node, each as it was written down.
    pub checked: u64,
    /// Days whose lookups the ledger confirms.
    pub days_confirmed: u64,
    /// What the ledger has otherwise, in sentences.
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LookupShown {
    pub time: String,
    pub occasion: String,
    /// Empty: the request named nobody.
    pub user: String,
    /// Examinations that were found.
    pub studies: u32,
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
    /// The images that are here name persons who can hardly be the same.
    #[serde(default)]
    pub names_disagree: bool,
}

/// What people are told when names disagree.
pub const NAMES_DISAGREE: &str = "the names on the images that are here disagree: some of these examinations may be another \
    person's, under a wrong number or by a wrong link";

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
    /// A study of another patient is here under the same UID, so this one is not opened by it.
    #[serde(default)]
    pub collides: bool,
    pub certified: bool,
    pub record: String,
    /// As the images that are here have them; empty when none are: the ledger holds neither.
    #[serde(default)]
    pub patient_name: String,
    #[serde(default)]
    pub description: String,
    /// The number that the record lies under, masked, and the hospitals by whose links it was reached; both are empty
    /// when that is the number that was asked for.
    #[serde(default)]
    pub under: String,
    #[serde(default)]
    pub linked_by: Vec<String>,
}

impl HistoryStudy {
    /// By whose links it was reached, for people, with the number as they are to see it. `None`: by none.
    pub fn by_link(&self, under: &str) -> Option<String> {
        let sites = self.linked_by.join(" and of ");
        (!sites.is_empty()).then(|| format!("under {under}, by a link of {sites}"))
    }
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

#[derive(Clone, Debug, Serialize, Deserialize)]
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
    /// What was revoked is a denial: what it forbade may be allowed again.
    #[serde(default)]
    pub denied: bool,
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
    /// In whose name; empty when nobody is named.
    #[serde(default)]
    pub user: String,
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
    /// In whose name; empty when nobody is named.
    #[serde(default)]
    pub user: String,
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
    /// The identifiers of `sites`, in the same order.
    #[serde(default)]
    pub site_ids: Vec<String>,
    pub role: String,
    pub connected: bool,
}

/// Which of what was put aside; without items and title all of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct QuarantineListCall {
    pub items: Vec<String>,
    pub all_from: Option<String>,
    /// At most so many are shown, the newest.
    pub limit: u32,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct QuarantineListDone {
    /// How many there are, shown or not.
    pub count: u64,
    pub items: Vec<QuarantineShown>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct QuarantineShown {
    /// The number by which it is named.
    pub item: String,
    pub received: String,
    pub sender: String,
    pub sop_instance: String,
    pub study_uid: String,
    pub why: String,
    pub bytes: u64,
    pub patient: String,
    pub patient_name: String,
    pub study_date: String,
    pub modality: String,
    pub description: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct QuarantineShowCall {
    pub item: String,
    /// Write it there as a DICOM file.
    pub to: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct QuarantineShowDone {
    pub item: QuarantineShown,
    pub series_uid: String,
    pub transfer_syntax: String,
    pub hash: String,
    pub called_ae: String,
    /// Of a variant: in what its description differs from that of the object that is in the archive; what, there, here.
    pub differs: Vec<(String, String, String)>,
    /// What a release would do.
    pub release: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct QuarantineDecideCall {
    pub items: Vec<String>,
    /// Into the archive; otherwise out of the list.
    pub release: bool,
    pub by: String,
    pub reason: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct QuarantineDecideDone {
    pub filed: u64,
    pub known_already: u64,
    pub variants: u64,
    pub replaced: u64,
    pub discarded: u64,
    /// Items that stay, with the reason.
    pub refused: Vec<(String, String)>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct QuarantineDecisionsCall {
    pub limit: u32,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct QuarantineDecisionsDone {
    pub count: u64,
    pub decisions: Vec<DecisionShown>,
}

/// What was decided about one item.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DecisionShown {
    pub decided: String,
    pub by: String,
    pub reason: String,
    pub became: String,
    pub item: QuarantineShown,
}
