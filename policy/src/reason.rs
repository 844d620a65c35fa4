//! Why a request was refused: stable codes, each with a sentence that says what to do.
//!
//! Some codes would tell the requester what it must not learn (that something is hidden, that the patient gave
//! consent to somebody else). The holder's record keeps them; what is sent is [`crate::Decision::for_requester`].

use crate::{Level, RuleId};
use serde::{Deserialize, Serialize};
use std::fmt;

numbered! {
    /// Stable codes of refusal.
    ///
    /// | number | code | when |
    /// | --- | --- | --- |
    /// | 1 | no-basis | no rule of a level opens it |
    /// | 2 | grant-not-by-patient | a grant exists, recorded elsewhere than at the holder, without the patient's own proof |
    /// | 3 | grant-uncertified | a grant exists, not certified yet |
    /// | 4 | grant-revoked | a grant existed and was revoked |
    /// | 5 | grant-ended | a grant existed and has run out |
    /// | 6 | grant-unproven | a grant exists, its evidence could not be verified |
    /// | 7 | grant-other-purpose | a grant exists for other purposes |
    /// | 8 | grant-other-study | a grant exists for other examinations |
    /// | 9 | grant-other-site | a grant exists for another site |
    /// | 10 | patient-denied | a denial or opt-out covers it |
    /// | 11 | stale | the holder's knowledge is older than the limit |
    /// | 12 | time-untrusted | the holder can't tell how old its knowledge is |
    /// | 13 | hidden | hidden until the patient releases it |
    /// | 14 | sensitive | marked sensitive, and the evidence is too weak |
    /// | 15 | withdrawn | the holder took it back |
    /// | 16 | rejected | the holder rejected it |
    /// | 17 | not-released | not complete or not released yet |
    /// | 18 | break-glass-unconfirmed | no second factor and no second person |
    /// | 19 | break-glass-budget | too many unreviewed cases |
    /// | 20 | break-glass-purpose | break-glass for something other than an emergency |
    /// | 21 | role-not-allowed | this role asks for nothing across sites |
    /// | 22 | requester-mismatch | the user belongs to another site than the one that asks |
    /// | 23 | research-identified | identified data for research |
    /// | 24 | rule-forbids | a rule of a level forbids it without a code of its own |
    /// | 25 | rule-error | a rule or the request could not be evaluated |
    pub enum ReasonCode ("reason") {
        NoBasis = 1 "no-basis",
        GrantNotByPatient = 2 "grant-not-by-patient",
        GrantUncertified = 3 "grant-uncertified",
        GrantRevoked = 4 "grant-revoked",
        GrantEnded = 5 "grant-ended",
        GrantUnproven = 6 "grant-unproven",
        GrantOtherPurpose = 7 "grant-other-purpose",
        GrantOtherStudy = 8 "grant-other-study",
        GrantOtherSite = 9 "grant-other-site",
        PatientDenied = 10 "patient-denied",
        Stale = 11 "stale",
        TimeUntrusted = 12 "time-untrusted",
        Hidden = 13 "hidden",
        Sensitive = 14 "sensitive",
        Withdrawn = 15 "withdrawn",
        Rejected = 16 "rejected",
        NotReleased = 17 "not-released",
        BreakGlassUnconfirmed = 18 "break-glass-unconfirmed",
        BreakGlassBudget = 19 "break-glass-budget",
        BreakGlassPurpose = 20 "break-glass-purpose",
        RoleNotAllowed = 21 "role-not-allowed",
        RequesterMismatch = 22 "requester-mismatch",
        ResearchIdentified = 23 "research-identified",
        RuleForbids = 24 "rule-forbids",
        RuleError = 25 "rule-error",
    }
}

impl ReasonCode {
    /// What happened and what to do, for the person who asked.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::NoBasis => {
                "Nothing allows this access. Ask the patient to confirm it (code or QR), or let the holding hospital \
                 record the consent; in an emergency telephone it."
            }
            Self::GrantNotByPatient => {
                "The consent was recorded without the patient's own proof and not at the holding hospital. Ask the \
                 patient to confirm it (code or QR)."
            }
            Self::GrantUncertified => {
                "The consent is recorded but not certified yet. Try again in a moment; if it stays so, the recording \
                 node has no connection to the core."
            }
            Self::GrantRevoked => "The patient revoked the consent. A new one is needed.",
            Self::GrantEnded => "The consent has run out. A new one is needed.",
            Self::GrantUnproven => {
                "The proof of the consent could not be verified by the holding hospital. Ask the patient to confirm again."
            }
            Self::GrantOtherPurpose => {
                "The patient consented to other purposes. Ask for this one, or state the purpose for which you need it."
            }
            Self::GrantOtherStudy => "The patient consented for other examinations. Ask for this one.",
            Self::GrantOtherSite => "The patient consented for another site. Ask the patient to name yours.",
            Self::PatientDenied => "The patient has objected. Only the patient can change that.",
            Self::Stale => {
                "The holding hospital has not heard from the core for too long and can't know what was revoked since. \
                 Try again when its connection is back; in an emergency telephone it."
            }
            Self::TimeUntrusted => {
                "The holding hospital can't trust its clock at the moment. Its administrator must check the clock; in \
                 an emergency telephone it."
            }
            Self::Hidden => "The examination is hidden until the patient releases it by a consent that names it.",
            Self::Sensitive => {
                "The examination is marked sensitive. It needs the patient's own confirmation or a form signed at the \
                 holding hospital."
            }
            Self::Withdrawn => "The holding hospital has withdrawn the examination. Ask it for the replacement.",
            Self::Rejected => "The holding hospital has rejected the examination as unusable. Ask it for another.",
            Self::NotReleased => {
                "The examination is not released yet. Try again when it is complete or its report is signed; in an \
                 emergency telephone the holding hospital."
            }
            Self::BreakGlassUnconfirmed => {
                "Break-glass needs a second factor or a second person. Confirm and ask again."
            }
            Self::BreakGlassBudget => {
                "Your site has too many break-glass cases without review. Have them reviewed, or telephone the holder."
            }
            Self::BreakGlassPurpose => {
                "Break-glass is for emergencies only. Ask again with that purpose, or without it."
            }
            Self::RoleNotAllowed => "This role may not ask other sites. A person who treats the patient must ask.",
            Self::RequesterMismatch => {
                "The user does not belong to the site that asks. Sign in at the own site and ask again."
            }
            Self::ResearchIdentified => "Research gets de-identified data only. Ask for the de-identified examination.",
            Self::RuleForbids => "A rule forbids this access. Its name is in the refusal; ask those who set it.",
            Self::RuleError => {
                "The rules could not be evaluated, so the answer is no. The holding hospital's administrator must look \
                 at its rule base."
            }
        }
    }

    /// Whether the requester would learn from the code what it must not.
    const fn is_confidential(self) -> bool {
        matches!(
            self,
            Self::PatientDenied | Self::Hidden | Self::Sensitive | Self::GrantOtherStudy | Self::GrantOtherSite
        )
    }
}

/// One reason of a refusal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Reason {
    pub code: ReasonCode,
    /// Whose rules; none when it does not come from a rule.
    pub level: Option<Level>,
    /// Which rule; none when no rule spoke.
    pub rule: Option<RuleId>,
}

impl Reason {
    /// A reason that no single rule gave.
    pub const fn of(code: ReasonCode) -> Self {
        Self { code, level: None, rule: None }
    }

    pub const fn sentence(&self) -> &'static str {
        self.code.sentence()
    }

    /// What may be sent to the requester: a confidential reason looks exactly like a missing permission.
    pub fn for_requester(&self) -> Self {
        if self.code == ReasonCode::NoBasis || self.code.is_confidential() {
            Self::of(ReasonCode::NoBasis)
        } else {
            self.clone()
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.sentence())?;
        match (&self.level, &self.rule) {
            (Some(level), Some(rule)) => write!(f, " ({level} rule {rule})"),
            (Some(level), None) => write!(f, " ({level} level)"),
            (None, _) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_sentences() {
        for code in ReasonCode::ALL {
            let sentence = code.sentence();
            assert!(sentence.ends_with('.') && !sentence.contains("  ") && sentence.len() > 20, "{code}");
        }
    }

    #[test]
    fn the_table_lists_every_code() {
        let source = include_str!("reason.rs");
        for code in ReasonCode::ALL {
            let row = format!("/// | {} | {} |", code.number(), code);
            assert!(source.contains(&row), "{row}");
        }
    }

    #[test]
    fn confidential_reasons_look_like_a_missing_permission() {
        let rule = RuleId::parse("hidden").ok();
        let hidden = Reason { code: ReasonCode::Hidden, level: Some(Level::Federation), rule };
        let missing = Reason { code: ReasonCode::NoBasis, level: Some(Level::Federation), rule: None };
        assert_eq!(hidden.for_requester(), missing.for_requester());
        let stale = Reason { code: ReasonCode::Stale, level: Some(Level::Federation), rule: None };
        assert_eq!(stale.for_requester(), stale);
    }
}
