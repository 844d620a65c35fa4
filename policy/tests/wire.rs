//! What reaches signed bytes stays as it is: the numbers and names of every enumeration, and the encoded form of the
//! types that commands carry.
//!
//! A failure here means that old signatures would be read differently. Numbers are added, never changed.
//! `TESSERA_GOLDEN=write cargo test -p tessera-policy --test wire` writes the list anew after an addition.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use tessera_policy::*;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/vocabulary.txt");

macro_rules! list {
    ($text:ident, $($name:ident),+) => {$(
        for value in $name::ALL {
            let bytes = postcard::to_stdvec(value).unwrap();
            assert_eq!(postcard::from_bytes::<$name>(&bytes).as_ref(), Ok(value));
            writeln!($text, "{} {} {value}", stringify!($name), value.number()).unwrap();
        }
    )+};
}

#[test]
fn numbers_and_names_are_those_of_the_golden_text() {
    let mut text = String::new();
    list!(text, IdentifierKind, Sex, Role, Title, BodyRegion, VisibilityClass, SensitiveMark, ReleaseState);
    list!(text, RejectionReason, Purpose, EvidenceClass, ConsentDecision, Action, Duty, Level, BasisKind, ReasonCode);
    for number in 0..=u16::MAX {
        if let Ok(kind) = AmendmentKind::try_from(number) {
            writeln!(text, "AmendmentKind {number} {kind}").unwrap();
        }
    }
    if std::env::var("TESSERA_GOLDEN").is_ok_and(|mode| mode == "write") {
        std::fs::write(GOLDEN, &text).unwrap();
    }
    let golden = std::fs::read_to_string(GOLDEN).unwrap_or_default();
    let missing: Vec<&str> = golden.lines().filter(|line| !text.lines().any(|now| now == *line)).collect();
    assert!(missing.is_empty(), "these must not change or go: {missing:?}");
    assert_eq!(text, golden, "what was added must be written down: TESSERA_GOLDEN=write");
}

fn site(name: &str) -> SiteId {
    SiteId::parse(name).unwrap()
}

fn check<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T, bytes: &[u8]) {
    let encoded = postcard::to_stdvec(value).unwrap();
    assert_eq!(encoded, bytes, "{value:?}");
    assert_eq!(&postcard::from_bytes::<T>(bytes).unwrap(), value);
}

#[test]
fn encoded_forms_are_frozen() {
    check(&site("hospital-a"), b"\x0ahospital-a");
    check(&Uid::parse("1.2.3").unwrap(), b"\x051.2.3");
    check(&StudyDate::parse("20250131").unwrap(), b"\x93\xfc\xd3\x09");
    check(&UnixMillis::new(300), b"\xac\x02");
    check(&Modality::parse("CT").unwrap(), b"\x02CT");
    check(&ConsentId::from_bytes([7; 16]), &[7; 16]);
    check(&AmendmentKind::Reject(RejectionReason::Quality), b"\x11");
    check(&Identifier::parse("hospital:A/042").unwrap(), b"\x64\x01A\x03042");
    let user = |role, title| UserAssertion::new(site("h1"), UserId::parse("u1").unwrap(), role, title);
    check(&user(Role::Radiologist, Some(Title::Chief)), b"\x02h1\x02u1\x02\x01\x05");
    check(&user(Role::Nurse, None), b"\x02h1\x02u1\x04\x00");
}

#[test]
fn encoded_consents_are_frozen() {
    let studies = StudyScope::Studies(BTreeSet::from([Uid::parse("1.2").unwrap(), Uid::parse("1.1").unwrap()]));
    let purposes = PurposeScope::Only(BTreeSet::from([Purpose::Recognition, Purpose::Treatment]));
    let end = Some(UnixMillis::new(1));
    let grant = ConsentTerms::new(ConsentDecision::Grant, Grantee::Site(site("h1")), studies, purposes, end).unwrap();
    check(&grant, b"\x01\x00\x02h1\x01\x02\x031.1\x031.2\x01\x02\x01\x02\x01\x01");
    let (all, any) = (Grantee::AllTreatingSites, PurposeScope::Any);
    let denial = ConsentTerms::new(ConsentDecision::Deny, all, StudyScope::All, any, None).unwrap();
    check(&denial, b"\x02\x01\x00\x00\x00");
}

/// Bytes that break a type's rules are refused on reading, whatever signed them.
#[test]
fn malformed_bytes_are_refused() {
    assert!(postcard::from_bytes::<SiteId>(b"\x02A!").is_err());
    assert!(postcard::from_bytes::<Uid>(b"\x031..").is_err());
    assert!(postcard::from_bytes::<Purpose>(b"\x63").is_err());
    assert!(postcard::from_bytes::<StudyDate>(b"\x01").is_err());
    assert!(postcard::from_bytes::<Identifier>(b"\x01\x01A\x011").is_err(), "a resident number of another issuer");
    assert!(postcard::from_bytes::<Identifier>(b"\x64\x01A\x00").is_err(), "no number");
    // A grant for any purpose, and one that names no study.
    assert!(postcard::from_bytes::<ConsentTerms>(b"\x01\x01\x00\x00\x00").is_err());
    assert!(postcard::from_bytes::<ConsentTerms>(b"\x01\x01\x01\x00\x01\x01\x01\x00").is_err());
}
