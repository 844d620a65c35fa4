//! Medical vocabulary, rules and decisions of the federation, as pure functions.
//!
//! Everything here is a value or a function of values: no input or output, no clock, no randomness, no threads.
//! Time, freshness and what the ledger says come in as arguments, so that a decision can be repeated years later
//! from its record, and so that the simulator runs the same code as the program.
//!
//! Where to start: [`Identifier`] (whose examination), [`ConsentTerms`] (what the patient allowed),
//! [`Rules::decide`] (may X see Y for Z), [`Crosswalk`] (from hospital numbers to identifiers).
//!
//! Invariants:
//! 1. Text that arrives from outside becomes a checked type here or is refused; the types' fields are private.
//! 2. Every enumeration that reaches signed bytes has an explicit number that never changes its meaning
//!    (the `numbered` module); numbers are added, never reused.
//! 3. Refusing is the default: no rule, no evidence, no trusted time, an error in a rule: all of them deny.
//! 4. Types that hold personal data redact themselves in `Debug`.

#[macro_use]
mod numbered;

mod consent;
mod crosswalk;
mod date;
mod decision;
mod demographics;
mod evaluation;
mod facts;
mod folding;
mod identifier;
mod reason;
mod release;
mod rules;
mod site;
mod study;
mod time;
mod uid;
mod unknown_patient;

pub use consent::{
    CONSENT_STUDIES_MAX, ConsentDecision, ConsentId, ConsentIdError, ConsentTerms, ConsentTermsError, EvidenceClass,
    Grantee, Purpose, PurposeScope, StudyScope,
};
pub use crosswalk::{
    CROSSWALK_IDENTIFIERS_MAX, CROSSWALK_STATEMENTS_MAX, Crosswalk, CrosswalkFull, CrosswalkRow, CrosswalkRowError,
    Inserted, Resolution, UnlinkedReason,
};
pub use date::{BirthDate, CalendarDate, DateError, StudyDate};
pub use decision::{
    Action, BREAK_GLASS_REASON_CHARS_MAX, BREAK_GLASS_REASON_CHARS_MIN, Basis, BasisKind, BreakGlass, BreakGlassReason,
    BreakGlassReasonError, Circumstances, Confirmation, Decision, Duty, Freshness, Ground, GroundStanding,
    KnownConsent, Level, RULE_ID_CHARS_MAX, Request, Resource, RuleId, RuleIdError, Standing, StudyFacts,
};
pub use demographics::{Demographics, Disagreement, EmptyName, PersonName, Sex};
pub use identifier::{
    CheckMode, IDENTIFIER_VALUE_CHARS_MAX, ISSUER_CHARS_MAX, Identifier, IdentifierError, IdentifierKind, Issuer,
    NumberFault, ResidentFacts,
};
pub use numbered::NumberedError;
pub use reason::{Reason, ReasonCode};
pub use release::{AmendmentKind, RejectionReason, ReleaseEvent, ReleaseState, TransitionError};
pub use rules::{FEDERATION_DEFAULT, NEUTRAL_LEVEL, RULE_BASE_BYTES_MAX, RULES_MAX, Rules, RulesError, SCHEMA};
pub use site::{
    Role, SITE_ID_CHARS_MAX, SiteId, SiteIdError, Title, USER_ID_CHARS_MAX, UserAssertion, UserId, UserIdError,
};
pub use study::{BodyRegion, Modality, ModalityError, SensitiveMark, VisibilityClass};
pub use time::{DurationMs, UnixMillis};
pub use uid::{UID_CHARS_MAX, Uid, UidError};
