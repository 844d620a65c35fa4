//! Tests of identifiers. The resident numbers are the specimen of GB 11643 and made-up ones with region code 110105.

use super::*;
use proptest::prelude::*;

fn parse(text: &str) -> Identifier {
    Identifier::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn spellings_of_one_number_are_one() {
    for (typed, canonical) in [
        ("resident:11010519491231002X", "resident:11010519491231002X"),
        ("resident:11010519491231002x", "resident:11010519491231002X"),
        ("Resident：１１０１０５１９４９１２３１００２ｘ", "resident:11010519491231002X"),
        (" resident: 110105 19491231 002X ", "resident:11010519491231002X"),
        ("resident:110105-1949-1231-002X", "resident:11010519491231002X"),
        ("resident:110105491231002", "resident:11010519491231002X"),
        ("hk-macau:h1234 5678", "hk-macau:H12345678"),
        ("passport:chn/e 1234 5678", "passport:CHN/E12345678"),
        ("officer:军字第 2001988 号", "officer:军字第2001988号"),
        ("hospital:hosp-a/ A－0１ ", "hospital:HOSP-A/A-01"),
        ("hospital:成都一院/００123", "hospital:成都一院/00123"),
        ("hospital:A/x/y", "hospital:A/x/y"),
        ("insurance:510100/88-77 66", "insurance:510100/887766"),
    ] {
        assert_eq!(parse(typed).reveal_command_form(), canonical, "{typed:?}");
    }
}

#[test]
fn hospital_numbers_keep_case_and_separators() {
    let forms = ["hospital:A/a1", "hospital:A/A1", "hospital:A/A-1", "hospital:A/0A1", "hospital:B/A1"];
    let distinct: std::collections::BTreeSet<_> = forms.iter().map(|form| parse(form).canonical_bytes()).collect();
    assert_eq!(distinct.len(), forms.len());
}

#[test]
fn refusals_say_what_to_do_and_not_whom() {
    let long = format!("hospital:A/{}", "9".repeat(81));
    for (text, expected) in [
        ("123", IdentifierError::Form),
        ("resident:", IdentifierError::EmptyValue),
        ("resident: - ", IdentifierError::EmptyValue),
        ("resident:1101#5", IdentifierError::ValueCharacter { kind: IdentifierKind::Resident }),
        ("hospital:123", IdentifierError::IssuerMissing { kind: IdentifierKind::HospitalLocal }),
        ("hospital:/123", IdentifierError::IssuerLength { chars: 0 }),
        ("hospital:a\\b/123", IdentifierError::IssuerCharacter),
        ("hospital:a/1\\2", IdentifierError::ValueCharacter { kind: IdentifierKind::HospitalLocal }),
        ("hospital:a/1\u{1}2", IdentifierError::ValueCharacter { kind: IdentifierKind::HospitalLocal }),
        ("passport:china/E1", IdentifierError::CountryExpected),
        (long.as_str(), IdentifierError::ValueTooLong { chars: 81 }),
    ] {
        assert_eq!(Identifier::parse(text).unwrap_err(), expected, "{text:?}");
    }
    let kind = Identifier::parse("card:1").unwrap_err().to_string();
    assert!(kind.contains("use one of: resident, "), "{kind}");
    let issuer = Identifier::new(IdentifierKind::Resident, Issuer::parse("HOSP").unwrap(), "1");
    assert_eq!(issuer.unwrap_err(), IdentifierError::IssuerNotExpected { kind: IdentifierKind::Resident });
}

#[test]
fn check_digits_and_forms() {
    for (text, expected) in [
        ("resident:11010519491231002X", Ok(())),
        ("resident:110105194912310038", Ok(())),
        ("resident:110105194912310021", Err(NumberFault::CheckDigit)),
        ("resident:110105194913310020", Err(NumberFault::BirthDate)),
        ("resident:11010519491231", Err(NumberFault::Length { expected: "18", found: 14 })),
        ("resident:X10105194912310021", Err(NumberFault::Pattern { expected: "17 digits and a digit or X" })),
        ("hk-macau:H12345678", Ok(())),
        ("hk-macau:X12345678", Err(NumberFault::Pattern { expected: "H or M and digits" })),
        ("taiwan:12345678", Ok(())),
        ("taiwan:123", Err(NumberFault::Length { expected: "8 or 10", found: 3 })),
        ("foreign-resident:USA110000000000", Ok(())),
        ("foreign-resident:US1110000000000", Err(NumberFault::Pattern { expected: "3 letters and 12 digits" })),
        ("birth-certificate:O510000001", Ok(())),
        ("passport:CHN/E12345678", Ok(())),
        ("passport:CHN/E1", Err(NumberFault::Length { expected: "5 to 15", found: 2 })),
        ("hospital:A/1", Ok(())),
    ] {
        assert_eq!(parse(text).check(), expected, "{text}");
    }
}

#[test]
fn a_fault_stops_or_warns() {
    let wrong = parse("resident:110105194912310021");
    let refused = wrong.clone().checked(CheckMode::Strict).unwrap_err();
    assert_eq!(refused, IdentifierError::Number { kind: IdentifierKind::Resident, fault: NumberFault::CheckDigit });
    assert!(!refused.to_string().contains("1949"));
    assert_eq!(wrong.clone().checked(CheckMode::Warn), Ok((wrong, Some(NumberFault::CheckDigit))));
}

#[test]
fn a_right_number_tells_birth_date_and_sex() {
    let facts = |text: &str| parse(text).resident_facts().map(|f| (f.birth_date().reveal().to_string(), f.sex()));
    assert_eq!(facts("resident:11010519491231002X"), Some(("19491231".to_owned(), crate::Sex::Female)));
    assert_eq!(facts("resident:110105194912310038"), Some(("19491231".to_owned(), crate::Sex::Male)));
    assert_eq!(facts("resident:110105194912310021"), None);
    assert_eq!(facts("hospital:A/11010519491231002X"), None);
}

#[test]
fn values_do_not_print() {
    for (text, masked) in [
        ("resident:11010519491231002X", "resident:****************2X"),
        ("hospital:HOSP-A/1234567", "hospital:HOSP-A/*****67"),
        ("hospital:HOSP-A/12345", "hospital:HOSP-A/*****"),
    ] {
        let identifier = parse(text);
        assert_eq!(identifier.to_string(), masked);
        assert!(!format!("{identifier:?}").chars().any(|c| c.is_ascii_digit()));
    }
}

/// The blind index is built on these bytes: a change here is another index.
#[test]
fn canonical_bytes_are_frozen() {
    let bytes = parse("hospital:HOSP-A/0042").canonical_bytes();
    assert_eq!(bytes, b"\x01\x00\x64\x00\x06HOSP-A\x00\x040042");
    let bytes = parse("resident:11010519491231002x").canonical_bytes();
    assert_eq!(bytes, b"\x01\x00\x01\x00\x02CN\x00\x1211010519491231002X");
}

proptest! {
    #[test]
    fn canonical_form_is_a_fixed_point(kind in proptest::sample::select(IdentifierKind::ALL), value in "[0-9A-Za-zＡ-Ｚ０-９ ／－\\-./_·\u{3000}张]{1,30}") {
        let issuer = kind.default_issuer().unwrap_or_else(|| Issuer::parse("abc").unwrap());
        if let Ok(identifier) = Identifier::new(kind, issuer, &value) {
            let again = Identifier::parse(&identifier.reveal_command_form());
            prop_assert_eq!(again.as_ref(), Ok(&identifier));
        }
    }

    #[test]
    fn nothing_typed_panics(text in "\\PC{0,100}") {
        if let Ok(identifier) = Identifier::parse(&text) {
            let _ = (identifier.check(), identifier.to_string(), identifier.canonical_bytes());
        }
    }

    /// Framing keeps issuer and value apart.
    #[test]
    fn different_numbers_have_different_bytes(a in "[A-Z]{1,4}/[0-9A-Z]{1,4}", b in "[A-Z]{1,4}/[0-9A-Z]{1,4}") {
        let (a, b) = (parse(&format!("hospital:{a}")), parse(&format!("hospital:{b}")));
        prop_assert_eq!(a == b, a.canonical_bytes() == b.canonical_bytes());
    }
}
