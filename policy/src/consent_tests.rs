//! Tests of consent terms.

use super::*;

fn uids(count: usize) -> BTreeSet<Uid> {
    (1..=count).map(|n| Uid::parse(&format!("1.2.{n}")).unwrap()).collect()
}

fn treatment() -> PurposeScope {
    PurposeScope::Only(BTreeSet::from([Purpose::Treatment]))
}

#[test]
fn evidence_is_ordered() {
    assert!(EvidenceClass::PatientConfirmation > EvidenceClass::SignedForm);
    assert!(EvidenceClass::SignedForm > EvidenceClass::StaffAttestation);
}

#[test]
fn terms_are_checked() {
    use ConsentDecision::{Deny, Grant};
    for (decision, studies, purposes, expected) in [
        (Grant, StudyScope::All, treatment(), Ok(())),
        (Grant, StudyScope::All, PurposeScope::Any, Err(ConsentTermsError::GrantForAnything)),
        (Deny, StudyScope::All, PurposeScope::Any, Ok(())),
        (Deny, StudyScope::All, PurposeScope::Only(BTreeSet::new()), Err(ConsentTermsError::NoPurpose)),
        (Grant, StudyScope::Studies(uids(0)), treatment(), Err(ConsentTermsError::NoStudy)),
        (Grant, StudyScope::Studies(uids(64)), treatment(), Ok(())),
        (Grant, StudyScope::Studies(uids(65)), treatment(), Err(ConsentTermsError::TooManyStudies { count: 65 })),
    ] {
        let terms = ConsentTerms::new(decision, Grantee::AllTreatingSites, studies, purposes, None);
        assert_eq!(terms.map(drop), expected);
    }
}

#[test]
fn grantees() {
    let (a, b) = (SiteId::parse("hospital-a").unwrap(), SiteId::parse("hospital-b").unwrap());
    use ConsentDecision::{Deny, Grant};
    for (decision, grantee, purpose, covered) in [
        (Grant, Grantee::Site(a.clone()), Purpose::Treatment, true),
        (Grant, Grantee::Site(b.clone()), Purpose::Treatment, false),
        (Grant, Grantee::AllTreatingSites, Purpose::Recognition, true),
        (Grant, Grantee::AllTreatingSites, Purpose::Research, false),
        (Deny, Grantee::AllTreatingSites, Purpose::Research, true),
        (Deny, Grantee::Site(b), Purpose::Treatment, false),
    ] {
        let purposes = PurposeScope::Only(BTreeSet::from([purpose]));
        let terms = ConsentTerms::new(decision, grantee, StudyScope::All, purposes, None).unwrap();
        assert_eq!(terms.covers_requester(&a, purpose), covered, "{terms:?}");
    }
}

#[test]
fn the_last_moment_still_counts() {
    let end = Some(UnixMillis::new(10));
    let terms = ConsentTerms::new(ConsentDecision::Grant, Grantee::AllTreatingSites, StudyScope::All, treatment(), end);
    let terms = terms.unwrap();
    assert!(!terms.is_expired(UnixMillis::new(10)) && terms.is_expired(UnixMillis::new(11)));
}

#[test]
fn consent_identifiers_print_and_parse() {
    let id = ConsentId::from_bytes([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255]);
    assert_eq!(id.to_string(), "000102030405060708090a0b0c0d0eff");
    assert_eq!(id.to_string().parse(), Ok(id));
    for text in ["", "00", "+00102030405060708090a0b0c0d0eff", "000102030405060708090a0b0c0d0efg"] {
        assert_eq!(text.parse::<ConsentId>(), Err(ConsentIdError), "{text:?}");
    }
}

#[test]
fn terms_lie_within_others_only_when_they_say_no_more() {
    let site = |name: &str| Grantee::Site(SiteId::parse(name).unwrap());
    let some = |count| StudyScope::Studies(uids(count));
    let only = |purposes: &[Purpose]| PurposeScope::Only(purposes.iter().copied().collect());
    let until = |ms: u64| Some(UnixMillis::new(ms));
    let grant = |grantee, studies, purposes, until| {
        ConsentTerms::new(ConsentDecision::Grant, grantee, studies, purposes, until).unwrap()
    };
    let both = only(&[Purpose::Treatment, Purpose::Research]);
    let wider = grant(site("hospital-b"), some(2), both.clone(), until(10));
    for (name, terms, within) in [
        ("the same", grant(site("hospital-b"), some(2), both.clone(), until(10)), true),
        ("less of each", grant(site("hospital-b"), some(1), treatment(), until(9)), true),
        ("another site", grant(site("hospital-c"), some(2), both.clone(), until(10)), false),
        ("every site", grant(Grantee::AllTreatingSites, some(2), both.clone(), until(10)), false),
        ("another study", grant(site("hospital-b"), some(3), both.clone(), until(10)), false),
        ("all studies", grant(site("hospital-b"), StudyScope::All, both.clone(), until(10)), false),
        ("another purpose", grant(site("hospital-b"), some(2), only(&[Purpose::Insurance]), until(10)), false),
        ("longer", grant(site("hospital-b"), some(2), both.clone(), until(11)), false),
        ("without end", grant(site("hospital-b"), some(2), both.clone(), None), false),
    ] {
        assert_eq!(terms.lies_within(&wider), within, "{name}");
    }
    let deny = |studies, purposes| {
        ConsentTerms::new(ConsentDecision::Deny, site("hospital-b"), studies, purposes, None).unwrap()
    };
    let denial = deny(StudyScope::All, PurposeScope::Any);
    assert!(deny(some(1), treatment()).lies_within(&denial) && !denial.lies_within(&deny(some(1), treatment())));
    assert!(!wider.lies_within(&denial), "a grant within a denial");
}
