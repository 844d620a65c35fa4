//! What a patient's consents come to, for one request: the facts that the rules read.
//!
//! Counting consents is the same everywhere and has no room for opinion, so it is done here; what the facts suffice
//! for is said by the rules, which a regulator can read.
//!
//! Invariants:
//! 1. A grant counts only when it is certified, was not revoked (certified or not), has not ended, covers requester,
//!    purpose and examination, and has evidence that the deciding node verified.
//! 2. A denial counts as soon as it is known and needs no evidence. Its revocation is a permission, and so counts
//!    only when certified.

use crate::decision::{Circumstances, KnownConsent, Standing, StudyFacts};
use crate::{BasisKind, ConsentDecision, ConsentId, EvidenceClass, Purpose, ReasonCode, SiteId, UnixMillis};
use std::collections::BTreeSet;

/// A grant that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
struct CountedGrant {
    id: ConsentId,
    evidence: EvidenceClass,
    at_holder: bool,
    names_study: bool,
}

impl CountedGrant {
    fn is_from_patient(&self) -> bool {
        self.evidence == EvidenceClass::PatientConfirmation
    }
}

/// Consents, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ConsentFacts {
    grants: Vec<CountedGrant>,
    denied: bool,
    /// Why other grants did not count, or count for less than somebody may expect.
    shortfalls: BTreeSet<ReasonCode>,
}

impl ConsentFacts {
    /// Counts the consents for one examination.
    pub(crate) fn count(requester: &SiteId, study: &StudyFacts, circumstances: &Circumstances) -> Self {
        let question = Question { requester, study, purpose: circumstances.purpose, now: circumstances.now };
        let mut facts = Self::default();
        for consent in &circumstances.consents {
            match consent.terms.decision() {
                ConsentDecision::Deny => facts.denied |= question.is_denied_by(consent),
                ConsentDecision::Grant => match question.grant(consent) {
                    Ok(grant) => {
                        if !grant.is_from_patient() && !grant.at_holder {
                            facts.shortfalls.insert(ReasonCode::GrantNotByPatient);
                        }
                        facts.grants.push(grant);
                    }
                    Err(shortfall) => {
                        facts.shortfalls.insert(shortfall);
                    }
                },
            }
        }
        facts
    }

    pub(crate) fn denied(&self) -> bool {
        self.denied
    }

    pub(crate) fn is_from_patient(&self) -> bool {
        self.grants.iter().any(CountedGrant::is_from_patient)
    }

    pub(crate) fn named_from_patient(&self) -> bool {
        self.grants.iter().any(|grant| grant.is_from_patient() && grant.names_study)
    }

    pub(crate) fn at_holder(&self) -> BTreeSet<EvidenceClass> {
        self.evidence(|grant| grant.at_holder)
    }

    pub(crate) fn named_at_holder(&self) -> BTreeSet<EvidenceClass> {
        self.evidence(|grant| grant.at_holder && grant.names_study)
    }

    pub(crate) fn elsewhere(&self) -> BTreeSet<EvidenceClass> {
        self.evidence(|grant| !grant.at_holder)
    }

    fn evidence(&self, wanted: impl Fn(&CountedGrant) -> bool) -> BTreeSet<EvidenceClass> {
        self.grants.iter().filter(|grant| wanted(grant)).map(|grant| grant.evidence).collect()
    }

    /// The consents on which a permission of this kind rests.
    pub(crate) fn consents_behind(&self, kind: BasisKind) -> Vec<ConsentId> {
        let behind = |grant: &&CountedGrant| match kind {
            BasisKind::PatientConsent => grant.is_from_patient(),
            BasisKind::HolderConsent => grant.at_holder,
            BasisKind::SeparateConsent => {
                grant.is_from_patient() || (grant.at_holder && grant.evidence >= EvidenceClass::SignedForm)
            }
            BasisKind::Encounter
            | BasisKind::Contract
            | BasisKind::BreakGlass
            | BasisKind::OwnHouse
            | BasisKind::LawfulOrder
            | BasisKind::Duty
            | BasisKind::Agreed => false,
        };
        let ids: BTreeSet<ConsentId> = self.grants.iter().filter(behind).map(|grant| grant.id).collect();
        ids.into_iter().collect()
    }

    pub(crate) fn shortfalls(&self) -> impl Iterator<Item = ReasonCode> + '_ {
        self.shortfalls.iter().copied()
    }
}

/// For whom, about what, why and when the consents are counted.
struct Question<'a> {
    requester: &'a SiteId,
    study: &'a StudyFacts,
    purpose: Purpose,
    now: UnixMillis,
}

impl Question<'_> {
    fn is_denied_by(&self, denial: &KnownConsent) -> bool {
        let terms = &denial.terms;
        denial.revocation != Some(Standing::Certified)
            && !terms.is_expired(self.now)
            && terms.covers_requester(self.requester, self.purpose)
            && terms.studies().covers(&self.study.study)
            && terms.purposes().covers(self.purpose)
    }

    /// The grant as it counts, or the first reason why it does not. Whom it concerns is asked first, so that no
    /// later reason speaks to a site of a consent that was given to another.
    fn grant(&self, consent: &KnownConsent) -> Result<CountedGrant, ReasonCode> {
        let terms = &consent.terms;
        let evidence = consent.evidence.ok_or(ReasonCode::GrantUnproven);
        for (holds, shortfall) in [
            (terms.covers_requester(self.requester, self.purpose), ReasonCode::GrantOtherSite),
            (terms.studies().covers(&self.study.study), ReasonCode::GrantOtherStudy),
            (terms.purposes().covers(self.purpose), ReasonCode::GrantOtherPurpose),
            (consent.revocation.is_none(), ReasonCode::GrantRevoked),
            (!terms.is_expired(self.now), ReasonCode::GrantEnded),
            (consent.standing == Standing::Certified, ReasonCode::GrantUncertified),
        ] {
            if !holds {
                return Err(shortfall);
            }
        }
        Ok(CountedGrant {
            id: consent.id,
            evidence: evidence?,
            at_holder: consent.author == self.study.holder,
            names_study: terms.studies().names(&self.study.study),
        })
    }
}
