//! Tests of the crosswalk. The resident numbers are made up, with region code 110105 and right check digits:
//! 11010519491231002X (female, 1949-12-31) and 110105194912310038 (male, same day).

use super::*;
use proptest::prelude::*;

const WOMAN: &str = "11010519491231002X";
const MAN: &str = "110105194912310038";

fn issuer() -> Issuer {
    Issuer::parse("HOSP-A").unwrap()
}

fn study() -> Uid {
    Uid::parse("1.2.3").unwrap()
}

fn row(fields: &[&str]) -> CrosswalkRow {
    CrosswalkRow::parse(fields, CheckMode::Strict).unwrap_or_else(|error| panic!("{fields:?}: {error}"))
}

fn crosswalk(rows: &[&[&str]]) -> Crosswalk {
    let mut crosswalk = Crosswalk::default();
    for fields in rows {
        crosswalk.insert(row(fields)).unwrap();
    }
    crosswalk
}

/// The resolution in a few words: linked identifiers, then what stopped others.
fn resolve(crosswalk: &Crosswalk, patient_id: &str, seen: (&str, &str, &str)) -> (Vec<String>, Vec<UnlinkedReason>) {
    let seen = Demographics::read(seen.0, seen.1, seen.2);
    let resolution = crosswalk.resolve(&issuer(), patient_id, &study(), &seen);
    (resolution.linked.iter().map(Identifier::reveal_command_form).collect(), resolution.stopped)
}

#[test]
fn rows_are_read() {
    let parsed = row(&["hosp-a", " 0042 ", "resident", "１１０１０５１９４９１２３１００２x", "王芳", "F", "19491231"]);
    assert_eq!(parsed.local().reveal_command_form(), "hospital:HOSP-A/0042");
    assert_eq!(parsed.identifier().reveal_command_form(), format!("resident:{WOMAN}"));
    assert_eq!(parsed.demographics(), &Demographics::read("王芳", "2", "1949-12-31"));
    assert_eq!(row(&["HOSP-A", "1", "passport", "CHN/E12345678"]).identifier().issuer().as_str(), "CHN");
    assert_eq!(row(&["HOSP-A", "1", "hospital", "HOSP-B/77"]).identifier().reveal(), "77");
    assert!(!format!("{parsed:?}").contains("0042"));
}

#[test]
fn rows_are_refused_with_what_to_do() {
    let wrong = "110105194912310021";
    for (fields, expected) in [
        (&["HOSP-A", "1", "resident"][..], "the line has 3 fields"),
        (&["HOSP-A", "1", "resident", WOMAN, "", "", "", ""], "the line has 8 fields"),
        (&["HOSP-A", "0000", "resident", WOMAN], "placeholder"),
        (&["HOSP-A", "", "resident", WOMAN], "placeholder"),
        (&["", "1", "resident", WOMAN], "issuer or PatientID: the issuer has 0 characters"),
        (&["HOSP-A", "1", "card", WOMAN], "identifier: identifier kind \"card\" is unknown"),
        (&["HOSP-A", "1", "resident", wrong], "the check digit doesn't fit"),
        (&["HOSP-A", "1", "insurance", "77"], "needs its issuer"),
        (&["HOSP-A", "1", "hospital", "hosp-a/1"], "the line says nothing"),
    ] {
        let message = CrosswalkRow::parse(fields, CheckMode::Strict).unwrap_err().to_string();
        assert!(message.contains(expected), "{fields:?} gave: {message}");
        assert!(!message.contains(wrong), "{message}");
    }
    let warned = CrosswalkRow::parse(&["HOSP-A", "1", "resident", wrong], CheckMode::Warn).unwrap();
    assert_eq!(warned.fault(), Some(NumberFault::CheckDigit));
}

#[test]
fn an_ordinary_patient_is_linked() {
    let rows = crosswalk(&[
        &["HOSP-A", "42", "resident", WOMAN, "王芳", "F", "19491231"],
        &["HOSP-A", "42", "insurance", "510100/887766"],
        &["HOSP-A", "43", "resident", WOMAN],
    ]);
    let both = vec![format!("resident:{WOMAN}"), "insurance:510100/887766".to_owned()];
    for (patient_id, seen, linked) in [
        ("42", ("王^芳", "F", "19491231"), both.clone()),
        ("42", ("WANG^FANG=王^芳", "", ""), both.clone()),
        ("42", ("", "", ""), both),
        ("43", ("王芳", "F", "19491231"), vec![format!("resident:{WOMAN}")]),
    ] {
        assert_eq!(resolve(&rows, patient_id, seen), (linked, vec![]), "{seen:?}");
    }
    assert_eq!(resolve(&rows, "44", ("王芳", "F", "")), (vec![], vec![UnlinkedReason::NoRow]));
    let resident = Identifier::parse(&format!("resident:{WOMAN}")).unwrap();
    assert_eq!(rows.locals_of(&resident).map(Identifier::reveal).collect::<Vec<_>>(), ["42", "43"]);
    assert_eq!(rows.len(), 2);
}

/// The unknown patient: nothing joins two of them, and a name that says so overrides a row.
#[test]
fn the_unknown_patient_stays_alone() {
    let rows = crosswalk(&[&["HOSP-A", "ER-7", "resident", MAN]]);
    for patient_id in ["", "0", "UNKNOWN", "a\\b"] {
        let resolution = rows.resolve(&issuer(), patient_id, &study(), &Demographics::default());
        assert_eq!(resolution.stopped, [UnlinkedReason::UnknownPatient], "{patient_id:?}");
        assert_eq!(resolution.local.reveal_command_form(), "hospital:HOSP-A/?study/1.2.3");
        let other = rows.resolve(&issuer(), patient_id, &Uid::parse("1.2.4").unwrap(), &Demographics::default());
        assert_ne!(resolution.local, other.local);
    }
    assert_eq!(resolve(&rows, "ER-7", ("无名氏", "M", "")), (vec![], vec![UnlinkedReason::UnknownPatient]));
    let longest = Uid::parse(&["1"; 32].join(".")).unwrap();
    assert!(!rows.resolve(&issuer(), "", &longest, &Demographics::default()).is_linked());
}

/// The newborn: examined under the mother's papers, linked once a number is shown to be its own.
#[test]
fn the_newborn_is_not_the_mother() {
    let mothers = crosswalk(&[&["HOSP-A", "42", "resident", WOMAN]]);
    for seen in [("王芳之子", "M", ""), ("王芳之女", "F", "20250601"), ("BABY GIRL^WANG", "F", "")] {
        assert_eq!(resolve(&mothers, "42", seen), (vec![], vec![UnlinkedReason::Newborn]), "{seen:?}");
    }
    // The same day of birth as in the number: it is the child's own.
    assert_eq!(resolve(&mothers, "42", ("王芳之女", "F", "19491231")).0.len(), 1);
    let certificate = crosswalk(&[&["HOSP-A", "50", "birth-certificate", "O510000001"]]);
    assert_eq!(resolve(&certificate, "50", ("王芳之女", "F", "20250601")).0.len(), 1);
}

/// The family member's card, or a wrong number: what contradicts stops the link and names the fields.
#[test]
fn disagreement_stops_a_link() {
    use Disagreement::{BirthDate, Name, Sex};
    let stopped =
        |kind, fields: &[Disagreement]| (vec![], vec![UnlinkedReason::Disagreement { kind, fields: fields.to_vec() }]);
    let bare = crosswalk(&[&["HOSP-A", "42", "resident", WOMAN]]);
    let named = crosswalk(&[&["HOSP-A", "42", "resident", WOMAN, "王芳", "F", "19491231"]]);
    let resident = IdentifierKind::Resident;
    for (rows, seen, expected) in [
        // The number alone says birth date and sex.
        (&bare, ("张三", "M", "19491231"), stopped(resident, &[Sex])),
        (&bare, ("王芳", "F", "19800101"), stopped(resident, &[BirthDate])),
        (&named, ("李梅", "F", "19491231"), stopped(resident, &[Name])),
        (&named, ("张三", "M", "19800101"), stopped(resident, &[Name, Sex, BirthDate])),
        (&named, ("张三", "", ""), stopped(resident, &[Name])),
    ] {
        assert_eq!(resolve(rows, "42", seen), expected, "{seen:?}");
    }
    // What contradicts one number stops the others: they came from the same card.
    let mixed = crosswalk(&[&["HOSP-A", "42", "resident", WOMAN], &["HOSP-A", "42", "insurance", "510100/1"]]);
    let (linked, reasons) = resolve(&mixed, "42", ("王芳", "F", "19800101"));
    assert_eq!((linked.len(), reasons.len()), (0, 1));
    let sentence = reasons[0].to_string();
    assert!(sentence.contains("birth date of the examination and of the resident number disagree"), "{sentence}");
}

/// A mistyped number says nothing of its holder, so a sample number with a wrong check digit contradicts nobody.
#[test]
fn a_number_with_a_wrong_check_digit_is_no_witness() {
    let wrong = ["HOSP-A", "42", "resident", "110105194912310021"];
    let mut rows = Crosswalk::default();
    rows.insert(CrosswalkRow::parse(&wrong, CheckMode::Warn).unwrap()).unwrap();
    assert_eq!(resolve(&rows, "42", ("张三", "M", "19800101")).0.len(), 1);
}

#[test]
fn two_values_of_one_kind_are_disputed_until_one_is_taken_back() {
    let mut rows = crosswalk(&[&["HOSP-A", "42", "resident", WOMAN]]);
    assert_eq!(rows.insert(row(&["HOSP-A", "42", "resident", WOMAN])), Ok(Inserted::Known));
    let kind = IdentifierKind::Resident;
    assert_eq!(rows.insert(row(&["HOSP-A", "42", "resident", MAN])), Ok(Inserted::Disputed(kind)));
    assert_eq!(resolve(&rows, "42", ("", "", "")), (vec![], vec![UnlinkedReason::Disputed(kind)]));
    let (local, man) = (row(&["HOSP-A", "42", "resident", MAN]).local().clone(), format!("resident:{MAN}"));
    let man = Identifier::parse(&man).unwrap();
    assert!(rows.remove(&local, &man) && !rows.remove(&local, &man));
    assert_eq!(resolve(&rows, "42", ("", "", "")).0, [format!("resident:{WOMAN}")]);
    assert_eq!(rows.locals_of(&man).count(), 0);
    // Two countries' passports, two hospitals' numbers: no dispute.
    for (kind, value) in
        [("passport", "CHN/E12345678"), ("passport", "USA/123456789"), ("hospital", "B/1"), ("hospital", "C/1")]
    {
        assert_eq!(rows.insert(row(&["HOSP-A", "42", kind, value])), Ok(Inserted::New), "{value}");
    }
}

#[test]
fn one_number_has_a_bounded_number_of_identifiers() {
    let mut rows = Crosswalk::default();
    for n in 0..CROSSWALK_IDENTIFIERS_MAX {
        rows.insert(row(&["HOSP-A", "42", "hospital", &format!("H{n}/1")])).unwrap();
    }
    let full = rows.clone();
    assert_eq!(rows.insert(row(&["HOSP-A", "42", "hospital", "MORE/1"])), Err(CrosswalkFull));
    assert_eq!(rows, full);
    assert_eq!(rows.insert(row(&["HOSP-A", "42", "hospital", "H0/1"])), Ok(Inserted::Known));
    for n in 1..CROSSWALK_STATEMENTS_MAX {
        rows.insert(row(&["HOSP-A", "42", "hospital", "H0/1", &format!("name{n}")])).unwrap();
    }
    assert_eq!(rows.insert(row(&["HOSP-A", "42", "hospital", "H0/1", "one more"])), Err(CrosswalkFull));
}

proptest! {
    /// The order of rows doesn't matter, and taking back what was put in leaves nothing.
    #[test]
    fn order_does_not_matter(
        rows in proptest::collection::vec(
            (0..3_u8, prop_oneof![Just(WOMAN), Just(MAN)], prop_oneof![Just(""), Just("张三"), Just("王芳")]),
            0..8,
        ).prop_flat_map(|rows| (Just(rows.clone()), Just(rows).prop_shuffle())),
    ) {
        let build = |rows: &[(u8, &str, &str)]| {
            let mut crosswalk = Crosswalk::default();
            for (n, value, name) in rows {
                crosswalk.insert(row(&["HOSP-A", &format!("P{n}"), "resident", value, name])).unwrap();
            }
            crosswalk
        };
        let (mut one, other) = (build(&rows.0), build(&rows.1));
        prop_assert_eq!(&one, &other);
        for (n, value, _) in &rows.0 {
            let row = row(&["HOSP-A", &format!("P{n}"), "resident", value]);
            one.remove(row.local(), row.identifier());
        }
        prop_assert_eq!(one, Crosswalk::default());
    }
}
