//! Facts of small data sets, whole and broken; mutated bytes that must never panic.
//!
//! Real files (those of pydicom) are read by the black-box tests; here every case is built by hand and says in its
//! name what is wrong with it.

use proptest::prelude::*;

use super::*;
use crate::dicom::syntax::{DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE};
use crate::dicom::testing::DataSetBuilder;

fn syntax(uid: &str) -> TransferSyntax {
    TransferSyntax::of(&Uid::parse(uid).expect("a syntax of the table"))
}

/// A data set with everything that the facts ask for, in any encoding.
fn complete(uid: &str) -> Vec<u8> {
    let mut out = DataSetBuilder::new(syntax(uid).encoding());
    out.text(0x0008, 0x0005, "CS", b"GB18030")
        .text(0x0008, 0x0016, "UI", b"1.2.840.10008.5.1.4.1.1.7")
        .text(0x0008, 0x0018, "UI", b"1.2.3.4")
        .text(0x0008, 0x0020, "DA", b"20250107")
        .text(0x0008, 0x0060, "CS", b"OT")
        .text(0x0008, 0x1030, "LO", b"\xd0\xd8\xb2\xbf CT")
        .text(0x0010, 0x0010, "PN", b"Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab")
        .text(0x0010, 0x0020, "LO", b" H-0001")
        .text(0x0010, 0x0021, "LO", b"HIS")
        .sequence(0x0010, 0x0024, |item| {
            item.text(0x0040, 0x0032, "UT", b"1.2.156.1").text(0x0040, 0x0033, "CS", b"ISO");
        })
        .text(0x0010, 0x0030, "DA", b"1970.01.31")
        .text(0x0020, 0x000D, "UI", b"1.2.3")
        .text(0x0020, 0x000E, "UI", b"1.2.3.1")
        .text(0x0020, 0x0011, "IS", b"7")
        .number(0x0028, 0x0002, 1)
        .text(0x0028, 0x0008, "IS", b"2")
        .number(0x0028, 0x0010, 4)
        .number(0x0028, 0x0011, 3)
        .number(0x0028, 0x0100, 16)
        .text(0x7FE0, 0x0010, "OW", &[7; 48]);
    out.into_bytes()
}

fn facts(bytes: &[u8], uid: &str) -> Result<ObjectFacts, DataSetError> {
    ObjectFacts::of(bytes, &syntax(uid), &CharsetPolicy::Detect)
}

#[test]
fn every_encoding_gives_the_same_facts() {
    let mut all = Vec::new();
    for uid in [EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG] {
        all.push(facts(&complete(uid), uid).expect(uid));
    }
    let deflated = crate::dicom::testing::deflate(&complete(EXPLICIT_LITTLE));
    all.push(facts(&deflated, DEFLATED).expect("deflated"));
    for found in all {
        assert_eq!(found.study_instance.as_str(), "1.2.3");
        assert_eq!(found.patient.id, "H-0001");
        assert_eq!(found.patient.issuer, "HIS");
        assert_eq!(found.patient.name.ideographic, "王^小东");
        assert_eq!(found.patient.name.full(), "Wang^XiaoDong=王^小东");
        assert_eq!(found.patient.birth_date, DicomDate::parse("19700131"));
        assert_eq!(found.study.description, "胸部 CT");
        assert_eq!(found.series.number, Some(7));
        assert_eq!((found.instance.rows, found.instance.frames), (Some(4), 2));
        let pixels = found.pixels.expect("pixels");
        assert_eq!((pixels.length, pixels.fragments), (Some(48), 0));
        assert!(!found.charset.is_flagged());
        assert_eq!(found.damage, None);
    }
}

#[test]
fn what_cannot_be_filed_is_named() {
    let whole = complete(EXPLICIT_LITTLE);
    let without = |group, element| {
        let mut out = DataSetBuilder::new(syntax(EXPLICIT_LITTLE).encoding());
        for (tag, value) in [
            ((0x0008, 0x0016), "1.2.840.10008.5.1.4.1.1.7"),
            ((0x0008, 0x0018), "1.2.4"),
            ((0x0020, 0x000D), "1.2"),
            ((0x0020, 0x000E), "1.3"),
        ] {
            if tag != (group, element) {
                out.text(tag.0, tag.1, "UI", value.as_bytes());
            }
        }
        out.into_bytes()
    };
    let mut lettered = without(0x0020, 0x000E);
    lettered.extend(
        DataSetBuilder::new(syntax(EXPLICIT_LITTLE).encoding()).text(0x0020, 0x000E, "UI", b"1.x").clone().into_bytes(),
    );
    let table: [(Vec<u8>, &str); 6] = [
        (vec![], "this is no DICOM data set"),
        (b"GIF89a and so on, for a while".to_vec(), "this is no DICOM data set"),
        (without(0x0008, 0x0018), "the data set has no SOP Instance UID"),
        (without(0x0020, 0x000D), "the data set has no Study Instance UID"),
        (whole[..200].to_vec(), "the data set is broken before its Study Instance UID was found"),
        (lettered, "the Series Instance UID of the data set is no UID"),
    ];
    for (bytes, expected) in table {
        let error = facts(&bytes, EXPLICIT_LITTLE).expect_err(expected);
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn damage_behind_the_uids_is_reported() {
    let whole = complete(EXPLICIT_LITTLE);
    let cut = facts(&whole[..whole.len() - 9], EXPLICIT_LITTLE).expect("can be filed");
    assert!(matches!(cut.damage, Some(Damage::Broken { truncated: true, .. })));
    let short = [
        &whole[..whole.len() - 60],
        &DataSetBuilder::new(syntax(EXPLICIT_LITTLE).encoding())
            .text(0x7FE0, 0x0010, "OW", &[7; 40])
            .clone()
            .into_bytes(),
    ]
    .concat();
    let short = facts(&short, EXPLICIT_LITTLE).expect("can be filed");
    assert_eq!(short.damage, Some(Damage::ShortPixels { expected_bytes: 48, found_bytes: 40 }));
}

#[test]
fn what_is_gathered_stays_small_whatever_is_sent() {
    let mut out = DataSetBuilder::new(syntax(EXPLICIT_LITTLE).encoding());
    let many = |out: &mut DataSetBuilder| {
        for number in 0..5_000 {
            out.text(0x0041, number, "LO", &[b'x'; 1_000]);
        }
    };
    for (group, element) in [(0x0008, 0x1032), (0x0008, 0x2218), (0x0010, 0x0024), (0x0040, 0xA043)] {
        out.sequence(group, element, |item| many(item));
    }
    many(&mut out);
    out.raw(&complete(EXPLICIT_LITTLE));
    let bytes = out.into_bytes();
    let syntax = syntax(EXPLICIT_LITTLE);
    let mut gathered = Gathered::default();
    gathered.walk(&mut Walker::new(source::in_memory(&bytes, &syntax), syntax.encoding())).expect("it is sound");
    let kept: usize = gathered.values.values().map(|(value, _)| value.len()).sum();
    assert!(kept < 64 * VALUE_BYTES_MAX, "{kept} of {} bytes", bytes.len());
    assert_eq!(facts(&bytes, EXPLICIT_LITTLE).expect("facts").patient.id, "H-0001");
}

#[test]
fn persons_do_not_show_in_debug() {
    let found = facts(&complete(EXPLICIT_LITTLE), EXPLICIT_LITTLE).expect("facts");
    let debug = format!("{found:?}");
    assert!(!debug.contains("Wang") && !debug.contains("H-0001") && !debug.contains("1970"), "{debug}");
}

#[test]
fn dates_are_checked() {
    for (text, valid) in
        [("20250131", true), ("2025.01.31", true), ("20251301", false), ("2025", false), ("2025013é", false)]
    {
        assert_eq!(DicomDate::parse(text).is_some(), valid, "{text}");
    }
}

proptest! {
    #[test]
    fn mutations_never_panic(at in 0..400usize, with in any::<u8>(), cut in 0..500usize, which in 0..3usize) {
        let uid = [EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG][which];
        let mut bytes = complete(uid);
        let at = at % bytes.len();
        bytes[at] = with;
        bytes.truncate(bytes.len().saturating_sub(cut % 64));
        let _ = facts(&bytes, uid);
    }
}
