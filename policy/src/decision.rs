//! A request as the holder sees it, and the decision about it (DESIGN section 7).
//!
//! Everything in a [`Request`] is what the deciding node itself established: who is at the other end, what its
//! replica says of consents, how it judged their evidence, how old its knowledge is. What the requester merely
//! claims is marked as claimed. The federation fills these types; [`crate::Rules`] decides.
//!
//! A refusal is a value with reasons, not an error.

use crate::{
    ConsentId, ConsentTerms, DurationMs, EvidenceClass, Modality, Purpose, Reason, RejectionReason, ReleaseState,
    SensitiveMark, SiteId, Uid, UnixMillis, UserAssertion, UserId, VisibilityClass,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

numbered! {
    /// What is asked for.
    pub enum Action ("action") {
        /// Which sites hold something of a patient. Decided by the asking site itself.
        Lookup = 1 "lookup",
        /// Description, accession number, names.
        Describe = 2 "describe",
        /// All objects as they are.
        Fetch = 3 "fetch",
        FetchDeidentified = 4 "fetch-deidentified",
    }
}

numbered! {
    /// The duty from which a user has to do with a patient.
    pub enum Duty ("duty") {
        Encounter = 1 "encounter",
        Order = 2 "order",
        Roster = 3 "roster",
        Consultation = 4 "consultation",
    }
}

/// What the deciding node makes of a stated duty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum GroundStanding {
    /// It was once and is over.
    Ended,
    /// The requester's node signs that it is active.
    Claimed,
    /// It is active, and the deciding node has evidence of a kind that the federation accepts.
    Accepted,
}

/// Why the user has to do with the patient at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ground {
    pub duty: Duty,
    pub standing: GroundStanding,
}

/// How far a command has come on its way into the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Known here, not certified.
    Recorded,
    Certified,
}

/// A consent that concerns the patient, as the deciding node knows and judges it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownConsent {
    pub id: ConsentId,
    /// The site whose node signed the record.
    pub author: SiteId,
    /// The evidence that the deciding node verified; none when it could verify nothing.
    pub evidence: Option<EvidenceClass>,
    pub terms: ConsentTerms,
    pub standing: Standing,
    pub revocation: Option<Standing>,
}

/// An examination as its holder knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StudyFacts {
    pub study: Uid,
    pub holder: SiteId,
    pub modalities: BTreeSet<Modality>,
    pub visibility: VisibilityClass,
    pub state: ReleaseState,
    pub marks: BTreeSet<SensitiveMark>,
    /// Set when the examination as a whole was rejected.
    pub rejected: Option<RejectionReason>,
}

/// About what the question is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    Study(StudyFacts),
    /// The replicated index; for [`Action::Lookup`] only.
    Index,
}

/// Longest written reason for break-glass.
pub const BREAK_GLASS_REASON_CHARS_MAX: usize = 500;
/// Shortest: a word that a reviewer can work with.
pub const BREAK_GLASS_REASON_CHARS_MIN: usize = 4;

/// The written reason for break-glass. Free text about a patient: redacted in `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct BreakGlassReason(String);

/// Why a text is not a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the reason for break-glass has {chars} characters; write {BREAK_GLASS_REASON_CHARS_MIN} to \
     {BREAK_GLASS_REASON_CHARS_MAX} for the person who reviews it"
)]
pub struct BreakGlassReasonError {
    chars: usize,
}

impl BreakGlassReason {
    pub fn parse(text: &str) -> Result<Self, BreakGlassReasonError> {
        let text = text.trim();
        let chars = text.chars().count();
        if (BREAK_GLASS_REASON_CHARS_MIN..=BREAK_GLASS_REASON_CHARS_MAX).contains(&chars) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BreakGlassReasonError { chars })
        }
    }

    /// The text in clear, for the reviewer.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for BreakGlassReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BreakGlassReason(…)")
    }
}

impl TryFrom<String> for BreakGlassReason {
    type Error = BreakGlassReasonError;
    fn try_from(text: String) -> Result<Self, BreakGlassReasonError> {
        Self::parse(&text)
    }
}

impl From<BreakGlassReason> for String {
    fn from(reason: BreakGlassReason) -> String {
        reason.0
    }
}

/// How the person who breaks the glass was confirmed. The order of variants is the wire order: append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Confirmation {
    SecondFactor,
    /// Another person, who can't be the same.
    SecondPerson(UserId),
}

/// The door for emergencies (P4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakGlass {
    pub reason: BreakGlassReason,
    pub confirmation: Option<Confirmation>,
    /// Cases of the requester's site that wait for review, as the holder counts them.
    pub unreviewed_cases: u32,
    pub unreviewed_cases_max: u32,
}

/// How new the deciding node's knowledge of the ledger is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// Trusted time since the newest certified checkpoint applied here; none when the time can't be trusted.
    pub age: Option<DurationMs>,
    /// The limit for this purpose, or of the standing contract.
    pub limit: DurationMs,
}

/// Under what circumstances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Circumstances {
    pub purpose: Purpose,
    pub ground: Option<Ground>,
    /// Every consent of the patient that the replica knows, revoked ones too: they explain refusals. Bounded by the
    /// machine's cap on directives per person.
    pub consents: Vec<KnownConsent>,
    /// What a standing, certified contract between the two sites covers; empty without a contract.
    pub contract_purposes: BTreeSet<Purpose>,
    pub break_glass: Option<BreakGlass>,
    pub freshness: Freshness,
    pub now: UnixMillis,
}

/// May X see Y for Z?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub principal: UserAssertion,
    /// The site for which the node at the other end was authenticated.
    pub requester: SiteId,
    pub action: Action,
    pub resource: Resource,
    pub circumstances: Circumstances,
}

numbered! {
    /// Whose rules they are, the most general first. All levels must allow.
    pub enum Level ("level") {
        National = 1 "national",
        Provincial = 2 "provincial",
        Federation = 3 "federation",
        Site = 4 "site",
    }
}

numbered! {
    /// On what ground a permission rests. Recorded with the disclosure.
    pub enum BasisKind ("basis") {
        /// Consent that the patient proved to have given.
        PatientConsent = 1 "patient-consent",
        /// Consent that the holder's own site recorded.
        HolderConsent = 2 "holder-consent",
        /// Separate consent for a purpose other than care.
        SeparateConsent = 3 "separate-consent",
        Encounter = 4 "encounter",
        Contract = 5 "contract",
        BreakGlass = 6 "break-glass",
        OwnHouse = 7 "own-house",
        LawfulOrder = 8 "lawful-order",
        Duty = 9 "duty",
        /// A rule of another level that names no ground of its own.
        Agreed = 10 "agreed",
    }
}

/// The longest rule name.
pub const RULE_ID_CHARS_MAX: usize = 64;

/// The name of a rule in its rule base: its `@id`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct RuleId(String);

/// Why a text is not a rule's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a rule's @id has 1 to {RULE_ID_CHARS_MAX} characters of a-z, 0-9 and hyphen")]
pub struct RuleIdError;

impl RuleId {
    pub fn parse(text: &str) -> Result<Self, RuleIdError> {
        let formed = text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if formed && (1..=RULE_ID_CHARS_MAX).contains(&text.len()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(RuleIdError)
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for RuleId {
    type Error = RuleIdError;
    fn try_from(text: String) -> Result<Self, RuleIdError> {
        Self::parse(&text)
    }
}

impl From<RuleId> for String {
    fn from(rule: RuleId) -> String {
        rule.0
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A rule that allowed, and the consents that it rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Basis {
    pub level: Level,
    pub rule: RuleId,
    pub kind: BasisKind,
    /// Empty unless the kind is one of consent.
    pub consents: Vec<ConsentId>,
}

/// The answer. Never empty on either side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decision {
    Allow { basis: Vec<Basis> },
    Deny { reasons: Vec<Reason> },
}

impl Decision {
    pub const fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow { .. })
    }

    /// What may be sent to the requester: see [`Reason::for_requester`]. The full decision stays with the holder.
    pub fn for_requester(&self) -> Self {
        match self {
            Self::Allow { .. } => self.clone(),
            Self::Deny { reasons } => {
                let told: BTreeSet<Reason> = reasons.iter().map(Reason::for_requester).collect();
                Self::Deny { reasons: told.into_iter().collect() }
            }
        }
    }
}
