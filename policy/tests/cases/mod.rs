//! Requests for the tests of decisions: three hospitals, one examination, one moment. The names are made up.
//!
//! Each test starts from what is plain (an open, released CT, a physician of another hospital) and changes one respect.

use std::collections::BTreeSet;
use tessera_policy::*;

/// The moment of every question.
pub const NOW: UnixMillis = UnixMillis::new(1_750_000_000_000);

pub fn site(name: &str) -> SiteId {
    SiteId::parse(name).unwrap()
}

/// Where the examination is.
pub fn holder() -> SiteId {
    site("hospital-a")
}

/// Who asks.
pub fn requester() -> SiteId {
    site("hospital-b")
}

pub fn third_party() -> SiteId {
    site("hospital-c")
}

pub fn study_uid() -> Uid {
    Uid::parse("1.2.826.0.1.3680043.10.1").unwrap()
}

pub fn user(site: SiteId, role: Role) -> UserAssertion {
    UserAssertion::new(site, UserId::parse("u1").unwrap(), role, None)
}

/// An open, released CT.
pub fn study() -> StudyFacts {
    StudyFacts {
        study: study_uid(),
        holder: holder(),
        modalities: BTreeSet::from([Modality::parse("CT").unwrap()]),
        visibility: VisibilityClass::Open,
        state: ReleaseState::Released,
        marks: BTreeSet::new(),
        rejected: None,
    }
}

/// A physician of another hospital asks for all objects, for treatment; nothing speaks for it yet.
pub fn request() -> Request {
    Request {
        principal: user(requester(), Role::Physician),
        requester: requester(),
        action: Action::Fetch,
        resource: Resource::Study(study()),
        circumstances: Circumstances {
            purpose: Purpose::Treatment,
            ground: None,
            consents: Vec::new(),
            contract_purposes: BTreeSet::new(),
            break_glass: None,
            freshness: Freshness { age: Some(DurationMs::from_secs(5)), limit: DurationMs::from_minutes(10) },
            now: NOW,
        },
    }
}

pub fn terms(decision: ConsentDecision, grantee: Grantee, studies: StudyScope, purposes: &[Purpose]) -> ConsentTerms {
    let purposes = PurposeScope::Only(purposes.iter().copied().collect());
    ConsentTerms::new(decision, grantee, studies, purposes, None).unwrap()
}

/// A certified grant to the requester for these purposes, for all examinations, confirmed by the patient.
pub fn grant(purposes: &[Purpose]) -> KnownConsent {
    KnownConsent {
        id: ConsentId::from_bytes([1; 16]),
        author: requester(),
        evidence: Some(EvidenceClass::PatientConfirmation),
        terms: terms(ConsentDecision::Grant, Grantee::Site(requester()), StudyScope::All, purposes),
        standing: Standing::Certified,
        revocation: None,
    }
}

/// A denial for everybody and everything, known but not certified.
pub fn denial() -> KnownConsent {
    let terms =
        ConsentTerms::new(ConsentDecision::Deny, Grantee::AllTreatingSites, StudyScope::All, PurposeScope::Any, None);
    KnownConsent {
        id: ConsentId::from_bytes([2; 16]),
        author: third_party(),
        evidence: None,
        terms: terms.unwrap(),
        standing: Standing::Recorded,
        revocation: None,
    }
}

pub fn break_glass() -> BreakGlass {
    BreakGlass {
        reason: BreakGlassReason::parse("unconscious, no relatives").unwrap(),
        confirmation: Some(Confirmation::SecondFactor),
        unreviewed_cases: 0,
        unreviewed_cases_max: 5,
    }
}

/// The answer in one word for each ground or reason.
pub fn summary(decision: &Decision) -> String {
    let words: BTreeSet<&str> = match decision {
        Decision::Allow { basis } => basis.iter().map(|basis| basis.kind.as_str()).collect(),
        Decision::Deny { reasons } => reasons.iter().map(|reason| reason.code.as_str()).collect(),
    };
    let verdict = if decision.is_allowed() { "ALLOW" } else { "deny" };
    format!("{verdict} {}", words.into_iter().collect::<Vec<_>>().join(", "))
}
