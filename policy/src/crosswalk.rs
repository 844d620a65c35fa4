//! From a hospital's own patient numbers to identifiers that hold elsewhere (DESIGN section 8).
//!
//! Modalities know hospital numbers only. A crosswalk (a file, a feed, the patient desk) says which of them belongs to
//! which resident number, passport and so on. This is the pure part: what the rows come to, and for one examination
//! under which identifiers it is registered. Reading files is `node`'s matter.
//!
//! A wrong link shows one patient another's examinations; a missing link is found and mended later. So whatever speaks
//! against a link stops it, and the examination is registered under the local number, *unlinked*.
//!
//! Invariants:
//! 1. What the rows come to does not depend on their order: two different values of one kind for one local number
//!    make that kind disputed, whichever came first, until one of them is taken back.
//! 2. Every examination has an identifier, and two unknown patients never share one.

use crate::identifier::{CheckMode, Identifier, IdentifierError, IdentifierKind, Issuer, NumberFault};
use crate::unknown_patient::{NamePattern, is_placeholder};
use crate::{Demographics, Disagreement, Uid};
use std::collections::{BTreeMap, BTreeSet};

/// Most identifiers of one local number; a row beyond is refused.
pub const CROSSWALK_IDENTIFIERS_MAX: usize = 16;
/// Most different statements of name, sex and birth date for one link; a row beyond is refused.
pub const CROSSWALK_STATEMENTS_MAX: usize = 16;
/// Marks a number that this program made for a patient without one. No issuer writes it.
const UNKNOWN_PREFIX: &str = "?study/";

/// One line of a crosswalk. Personal data; redacted in `Debug` by its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrosswalkRow {
    local: Identifier,
    identifier: Identifier,
    demographics: Demographics,
    fault: Option<NumberFault>,
}

/// Why a line is refused. The values are not repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CrosswalkRowError {
    #[error(
        "the line has {found} fields; write issuer, PatientID, identifier kind, value, and if you have them name, sex, \
         birth date (and for an insurance number or passport write the value as issuer/number)"
    )]
    Fields { found: usize },
    #[error("issuer or PatientID: {0}")]
    Local(IdentifierError),
    #[error("the PatientID is a placeholder such as 0 or UNKNOWN; it stands for many patients and can't be linked")]
    Placeholder,
    #[error("identifier: {0}")]
    Identifier(IdentifierError),
    #[error("the identifier is the local number itself; the line says nothing")]
    SameNumber,
}

impl CrosswalkRow {
    /// Parses the fields of one line: issuer, PatientID, kind, value, and optionally name, sex, birth date.
    pub fn parse(fields: &[&str], mode: CheckMode) -> Result<Self, CrosswalkRowError> {
        let (issuer, patient_id, kind, value, rest) = match fields {
            [issuer, patient_id, kind, value, rest @ ..] if rest.len() <= 3 => (issuer, patient_id, kind, value, rest),
            _ => return Err(CrosswalkRowError::Fields { found: fields.len() }),
        };
        if is_placeholder(patient_id) {
            return Err(CrosswalkRowError::Placeholder);
        }
        let local = Issuer::parse(issuer)
            .and_then(|issuer| Identifier::hospital(issuer, patient_id))
            .map_err(CrosswalkRowError::Local)?;
        let (identifier, fault) = Identifier::parse(&format!("{}:{value}", kind.trim()))
            .and_then(|identifier| identifier.checked(mode))
            .map_err(CrosswalkRowError::Identifier)?;
        if identifier == local {
            return Err(CrosswalkRowError::SameNumber);
        }
        let field = |index: usize| rest.get(index).copied().unwrap_or_default();
        let demographics = Demographics::read(field(0), field(1), field(2));
        Ok(Self { local, identifier, demographics, fault })
    }

    /// The hospital's own number.
    pub fn local(&self) -> &Identifier {
        &self.local
    }

    pub fn identifier(&self) -> &Identifier {
        &self.identifier
    }

    pub fn demographics(&self) -> &Demographics {
        &self.demographics
    }

    /// What is wrong with the number, when the rules of its kind were only asked to warn.
    pub fn fault(&self) -> Option<NumberFault> {
        self.fault
    }
}

/// Numbers of one kind by one issuer: a patient has one of them at a time.
type Slot = (IdentifierKind, Issuer);

/// What the rows say of one local number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct LocalPatient {
    slots: BTreeMap<Slot, BTreeMap<Identifier, BTreeSet<Demographics>>>,
}

impl LocalPatient {
    fn identifiers(&self) -> usize {
        self.slots.values().map(BTreeMap::len).sum()
    }
}

/// What a row came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inserted {
    New,
    /// The row was there already.
    Known,
    /// Another value of this kind is there for the same local number. Neither links until one is taken back.
    Disputed(IdentifierKind),
}

/// Why a row can't be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the patient number has too many identifiers or names already; check whether it stands for many patients")]
pub struct CrosswalkFull;

/// All rows of a site.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Crosswalk {
    locals: BTreeMap<Identifier, LocalPatient>,
    reverse: BTreeMap<Identifier, BTreeSet<Identifier>>,
}

/// Why an examination is registered under its local number only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnlinkedReason {
    /// No row for this number yet.
    NoRow,
    /// The examination carries no usable PatientID, or a name that says nobody knows who it is.
    UnknownPatient,
    /// The name says newborn, and the number can't be shown to be the child's own rather than the mother's.
    Newborn,
    /// Two values of the kind for one number.
    Disputed(IdentifierKind),
    /// Examination and crosswalk, or examination and number, contradict each other: another person's card or a wrong
    /// number.
    Disagreement { kind: IdentifierKind, fields: Vec<Disagreement> },
}

impl std::fmt::Display for UnlinkedReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoRow => f.write_str("no crosswalk row for this number; add one to link the examination"),
            Self::UnknownPatient => {
                f.write_str("the patient is unknown; link the examination when the patient is identified")
            }
            Self::Newborn => {
                f.write_str("a newborn; link it when the child has a number of its own, with its birth date")
            }
            Self::Disputed(kind) => write!(f, "the crosswalk has two {kind} numbers for this patient; take one back"),
            Self::Disagreement { kind, fields } => {
                let fields: Vec<String> = fields.iter().map(ToString::to_string).collect();
                write!(
                    f,
                    "{} of the examination and of the {kind} number disagree; check whose number it is",
                    fields.join(" and ")
                )
            }
        }
    }
}

/// Under which identifiers an examination is registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    /// The hospital's own number, or one made for this examination alone.
    pub local: Identifier,
    /// The numbers that link it, each without anything against it. Empty: unlinked.
    pub linked: BTreeSet<Identifier>,
    /// What stopped other links, or why there is none.
    pub stopped: Vec<UnlinkedReason>,
}

impl Resolution {
    pub fn is_linked(&self) -> bool {
        !self.linked.is_empty()
    }

    fn unlinked(local: Identifier, reason: UnlinkedReason) -> Self {
        Self { local, linked: BTreeSet::new(), stopped: vec![reason] }
    }
}

impl Crosswalk {
    /// Takes a row.
    pub fn insert(&mut self, row: CrosswalkRow) -> Result<Inserted, CrosswalkFull> {
        self.check_room(&row)?;
        let CrosswalkRow { local, identifier, demographics, .. } = row;
        let kind = identifier.kind();
        let patient = self.locals.entry(local.clone()).or_default();
        let slot = patient.slots.entry((kind, identifier.issuer().clone())).or_default();
        let statements = slot.entry(identifier.clone()).or_default();
        let new = statements.insert(demographics);
        let disputed = slot.len() > 1;
        self.reverse.entry(identifier).or_default().insert(local);
        Ok(match (disputed, new) {
            (true, _) => Inserted::Disputed(kind),
            (false, true) => Inserted::New,
            (false, false) => Inserted::Known,
        })
    }

    /// Whether a row finds room. A statement that is dropped could be the one that contradicts, so what does not fit
    /// is refused.
    pub fn check_room(&self, row: &CrosswalkRow) -> Result<(), CrosswalkFull> {
        let CrosswalkRow { local, identifier, demographics, .. } = row;
        let Some(patient) = self.locals.get(local) else { return Ok(()) };
        let values = patient.slots.get(&(identifier.kind(), identifier.issuer().clone()));
        let room = match values.and_then(|values| values.get(identifier)) {
            Some(statements) => statements.len() < CROSSWALK_STATEMENTS_MAX || statements.contains(demographics),
            None => patient.identifiers() < CROSSWALK_IDENTIFIERS_MAX,
        };
        if room { Ok(()) } else { Err(CrosswalkFull) }
    }

    /// Takes a link back, whatever demographics it was given with. Answers whether it was there.
    pub fn remove(&mut self, local: &Identifier, identifier: &Identifier) -> bool {
        let Some(patient) = self.locals.get_mut(local) else { return false };
        let slot = (identifier.kind(), identifier.issuer().clone());
        let removed = patient.slots.get_mut(&slot).is_some_and(|values| values.remove(identifier).is_some());
        patient.slots.retain(|_, values| !values.is_empty());
        if patient.slots.is_empty() {
            self.locals.remove(local);
        }
        if let Some(locals) = self.reverse.get_mut(identifier) {
            locals.remove(local);
            if locals.is_empty() {
                self.reverse.remove(identifier);
            }
        }
        removed
    }

    /// The local numbers that rows connect with an identifier: the patient's old cards, and disputes too.
    pub fn locals_of(&self, identifier: &Identifier) -> impl Iterator<Item = &Identifier> {
        self.reverse.get(identifier).into_iter().flatten()
    }

    /// How many local numbers have rows.
    pub fn len(&self) -> usize {
        self.locals.len()
    }

    pub fn is_empty(&self) -> bool {
        self.locals.is_empty()
    }

    /// Under which identifiers an examination is registered. `patient_id` is the PatientID as it stands in the data
    /// set, under the issuer of the sender; `seen` is what the data set says of the person.
    pub fn resolve(&self, issuer: &Issuer, patient_id: &str, study: &Uid, seen: &Demographics) -> Resolution {
        let local = match Identifier::hospital(issuer.clone(), patient_id) {
            Ok(local) if !is_placeholder(patient_id) => local,
            Ok(_) | Err(_) => return Resolution::unlinked(unknown(issuer, study), UnlinkedReason::UnknownPatient),
        };
        let pattern = NamePattern::of(seen.name());
        if pattern == NamePattern::Unknown {
            return Resolution::unlinked(local, UnlinkedReason::UnknownPatient);
        }
        let Some(patient) = self.locals.get(&local) else {
            return Resolution::unlinked(local, UnlinkedReason::NoRow);
        };
        let mut resolution = Resolution { local, linked: BTreeSet::new(), stopped: Vec::new() };
        for ((kind, _), values) in &patient.slots {
            match link(*kind, values, pattern, seen) {
                Ok(identifier) => {
                    resolution.linked.insert(identifier.clone());
                }
                Err(reason) => resolution.stopped.push(reason),
            }
        }
        // Who was registered with another person's card has that person's other numbers too.
        if resolution.stopped.iter().any(|reason| matches!(reason, UnlinkedReason::Disagreement { .. })) {
            resolution.linked.clear();
        }
        resolution
    }
}

/// The identifier of one kind, if nothing speaks against it.
fn link<'a>(
    kind: IdentifierKind,
    values: &'a BTreeMap<Identifier, BTreeSet<Demographics>>,
    pattern: NamePattern,
    seen: &Demographics,
) -> Result<&'a Identifier, UnlinkedReason> {
    let mut values = values.iter();
    let (Some((identifier, statements)), None) = (values.next(), values.next()) else {
        return Err(UnlinkedReason::Disputed(kind));
    };
    let of_number =
        identifier.resident_facts().map(|facts| Demographics::new(None, Some(facts.sex()), Some(facts.birth_date())));
    if pattern == NamePattern::Newborn && !is_own_number_of_child(identifier, statements, of_number.as_ref(), seen) {
        return Err(UnlinkedReason::Newborn);
    }
    let fields: BTreeSet<Disagreement> =
        statements.iter().chain(&of_number).flat_map(|said| seen.disagreements(said)).collect();
    if fields.is_empty() {
        return Ok(identifier);
    }
    Err(UnlinkedReason::Disagreement { kind, fields: fields.into_iter().collect() })
}

/// Whether a number can be the newborn's own: birth certificates are, others when a birth date says so and agrees. A
/// newborn is examined under the mother's papers before it has its own.
fn is_own_number_of_child(
    identifier: &Identifier,
    statements: &BTreeSet<Demographics>,
    of_number: Option<&Demographics>,
    seen: &Demographics,
) -> bool {
    if identifier.kind() == IdentifierKind::BirthCertificate {
        return true;
    }
    let agrees = |said: &Demographics| seen.birth_date().is_some() && said.birth_date() == seen.birth_date();
    statements.iter().chain(of_number).any(agrees)
}

/// The number of an examination whose patient has none: unique by the examination, under the sender's issuer.
fn unknown(issuer: &Issuer, study: &Uid) -> Identifier {
    let number = format!("{UNKNOWN_PREFIX}{study}");
    Identifier::hospital(issuer.clone(), &number).unwrap_or_else(|error| unreachable!("prefix and UID fit: {error}"))
}

#[cfg(test)]
#[path = "crosswalk_tests.rs"]
mod tests;
