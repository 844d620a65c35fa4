//! A table of elements and their JSON, in every encoding; nested character sets; bulk data; damage.
//!
//! Expected values are written out as PS3.18 annex F has them, not taken from another implementation. The last test
//! tries mutated bytes on every reader of data sets at once.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::dicom::charset::{CharsetPolicy, Samples};
use crate::dicom::dataset::DataSetError;
use crate::dicom::facts::ObjectFacts;
use crate::dicom::frames::{FrameReadError, FrameTable};
use crate::dicom::identifiers::Uid;
use crate::dicom::source::in_memory;
use crate::dicom::syntax::{EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE};
use crate::dicom::testing::DataSetBuilder;

fn syntax(uid: &str) -> TransferSyntax {
    TransferSyntax::of(&Uid::parse(uid).expect("a syntax of the table"))
}

fn declared(sets: &str) -> CharsetVerdict {
    CharsetVerdict::of(sets.as_bytes(), &CharsetPolicy::Detect, &Samples::default())
}

/// A whole data set, or why it is none.
fn metadata(
    bytes: &[u8],
    syntax: &TransferSyntax,
    verdict: &CharsetVerdict,
    bulk: &dyn Fn(&BulkPath) -> String,
) -> Result<JsonDataSet, JsonError> {
    let (found, error) = metadata_so_far(in_memory(bytes, syntax), syntax, verdict, bulk);
    error.map_or(Ok(found), Err)
}

fn convert(bytes: &[u8], uid: &str, sets: &str) -> Value {
    let syntax = syntax(uid);
    let bulk = |path: &BulkPath| format!("bulk/{path}");
    let found = metadata(bytes, &syntax, &declared(sets), &bulk);
    Value::Object(found.expect("converts"))
}

#[test]
fn values_of_every_kind() {
    let (tenth, nan) = (0.1f32.to_le_bytes(), f64::NAN.to_le_bytes());
    let (huge, minus) = (u64::MAX.to_le_bytes(), (-5i64).to_le_bytes());
    let table: Vec<(&str, &[u8], Value)> = vec![
        ("CS", b"ORIGINAL\\PRIMARY\\\\AXIAL ", json!({"vr": "CS", "Value": ["ORIGINAL", "PRIMARY", null, "AXIAL"]})),
        ("LO", b"  ", json!({"vr": "LO"})),
        ("DS", b"1.50\\-2e3\\x", json!({"vr": "DS", "Value": [1.5, -2000.0, "x"]})),
        ("IS", b" 7 \\+8", json!({"vr": "IS", "Value": [7, 8]})),
        ("UT", b"a\\b", json!({"vr": "UT", "Value": ["a\\b"]})),
        (
            "PN",
            b"A^B==C\\D",
            json!({"vr": "PN", "Value": [{"Alphabetic": "A^B", "Phonetic": "C"}, {"Alphabetic": "D"}]}),
        ),
        ("UI", b"1.2.3\0", json!({"vr": "UI", "Value": ["1.2.3"]})),
        ("OB", b"\x01\x02", json!({"vr": "OB", "InlineBinary": "AQI="})),
        ("US", b"\x01\x00\x02\x80", json!({"vr": "US", "Value": [1, 32770]})),
        ("SS", b"\xFF\xFF", json!({"vr": "SS", "Value": [-1]})),
        ("FL", &tenth, json!({"vr": "FL", "Value": [0.1]})),
        ("FD", &nan, json!({"vr": "FD", "Value": ["NaN"]})),
        ("UV", &huge, json!({"vr": "UV", "Value": ["18446744073709551615"]})),
        ("SV", &minus, json!({"vr": "SV", "Value": [-5]})),
        ("AT", b"\x10\x00\x20\x00", json!({"vr": "AT", "Value": ["00100020"]})),
    ];
    for (vr, value, expected) in table {
        let mut out = DataSetBuilder::new(syntax(EXPLICIT_LITTLE).encoding());
        out.text(0x0009, 0x1010, vr, value);
        assert_eq!(convert(&out.into_bytes(), EXPLICIT_LITTLE, "")["00091010"], expected, "{vr}");
    }
}

#[test]
fn byte_order_does_not_show() {
    let mut out = DataSetBuilder::new(syntax(EXPLICIT_BIG).encoding());
    out.number(0x0028, 0x0010, 512).text(0x0009, 0x1010, "OW", b"\x01\x02").text(0x0009, 0x1011, "AT", b"\0\x10\0\x20");
    let found = convert(&out.into_bytes(), EXPLICIT_BIG, "");
    assert_eq!(found["00280010"], json!({"vr": "US", "Value": [512]}));
    assert_eq!(found["00091010"]["InlineBinary"], "AgE=");
    assert_eq!(found["00091011"]["Value"][0], "00100020");
}

#[test]
fn implicit_values_take_their_sign_from_the_pixels() {
    let mut out = DataSetBuilder::new(syntax(IMPLICIT_LITTLE).encoding());
    out.number(0x0028, 0x0103, 1).number(0x0028, 0x0120, 0xFFFF);
    let found = convert(&out.into_bytes(), IMPLICIT_LITTLE, "");
    assert_eq!(found["00280120"], json!({"vr": "SS", "Value": [-1]}));
}

#[test]
fn items_may_have_their_own_character_set() {
    let mut out = DataSetBuilder::new(syntax(EXPLICIT_LITTLE).encoding());
    out.text(0x0008, 0x0005, "CS", b"ISO_IR 192").sequence(0x0008, 0x1111, |item| {
        item.text(0x0008, 0x0005, "CS", b"GB18030").text(0x0010, 0x0010, "PN", b"=\xcd\xf5^\xd0\xa1\xb6\xab");
    });
    out.text(0x0010, 0x0010, "PN", "=王^小東".as_bytes());
    let found = convert(&out.into_bytes(), EXPLICIT_LITTLE, "ISO_IR 192");
    assert_eq!(found["00100010"]["Value"][0]["Ideographic"], "王^小東");
    let item = &found["00081111"]["Value"][0];
    assert_eq!(item["00100010"]["Value"][0]["Ideographic"], "王^小东");
    assert_eq!(item["00080005"]["Value"][0], "ISO_IR 192");
}

#[test]
fn what_was_detected_is_declared_afterwards() {
    let mut out = DataSetBuilder::new(syntax(EXPLICIT_LITTLE).encoding());
    for (group, element, value) in [(8, 0x16, "1.2"), (8, 0x18, "1.3"), (0x20, 0xD, "1.4"), (0x20, 0xE, "1.5")] {
        out.text(group, element, "UI", value.as_bytes());
    }
    out.text(0x0010, 0x0010, "PN", b"\xcd\xf5^\xd0\xa1\xb6\xab");
    let bytes = out.into_bytes();
    let syntax = syntax(EXPLICIT_LITTLE);
    let facts: Result<ObjectFacts, DataSetError> = ObjectFacts::of(&bytes, &syntax, &CharsetPolicy::Detect);
    let verdict = facts.expect("facts").charset;
    assert!(verdict.is_flagged());
    let found = metadata(&bytes, &syntax, &verdict, &|_| String::new()).expect("converts");
    assert_eq!(found["00080005"]["Value"][0], "ISO_IR 192");
    assert_eq!(found["00100010"]["Value"][0]["Alphabetic"], "王^小东");
    assert_eq!(found.keys().next().map(String::as_str), Some("00080005"));
}

#[test]
fn large_values_and_pixels_are_bulk_data() {
    let mut out = DataSetBuilder::new(syntax(EXPLICIT_LITTLE).encoding());
    out.header(0x0008, 0x0000, "UL", 4).raw(&[9, 0, 0, 0]);
    out.sequence(0x0008, 0x1140, |item| {
        item.text(0x0009, 0x1010, "OB", &[1; INLINE_BYTES_MAX + 2]);
    });
    out.text(0x7FE0, 0x0010, "OW", &[0, 0]).text(0xFFFC, 0xFFFC, "OB", &[0, 0]);
    let found = convert(&out.into_bytes(), EXPLICIT_LITTLE, "");
    assert_eq!(
        found,
        json!({
            "00081140": {"vr": "SQ", "Value": [
                {"00091010": {"vr": "OB", "BulkDataURI": "bulk/00081140/0/00091010"}}
            ]},
            "7FE00010": {"vr": "OW", "BulkDataURI": "bulk/7FE00010"},
        })
    );
}

#[test]
fn what_elements_and_values_cost_is_counted() {
    let one = |vr: &str, value: &[u8]| {
        let mut out = DataSetBuilder::new(syntax(EXPLICIT_LITTLE).encoding());
        out.text(0x0009, 0x1010, vr, value);
        out.into_bytes()
    };
    let cost = |bytes: &[u8]| {
        let (verdict, syntax) = (declared(""), syntax(EXPLICIT_LITTLE));
        let uri = |_: &BulkPath| String::new();
        let mut builder = Builder::new(&verdict, &uri);
        builder.run(&mut Walker::new(in_memory(bytes, &syntax), syntax.encoding())).expect("walks");
        builder.bytes
    };
    let value = size_of::<Value>();
    // (what, at least so much): an element alone, values by their number.
    let table = [
        (one("LO", b""), 400),
        (one("US", &[0; 2000]), 400 + 1000 * value),
        (one("AT", &[0; 4000]), 400 + 1000 * value),
        (one("CS", &[b'\\'; 2000]), 400 + 2001 * value),
        (one("PN", &[b'\\'; 2000]), 400 + 2001 * value),
    ];
    for (bytes, least) in table {
        let found = cost(&bytes);
        assert!(found >= least && found < 2 * least + 2000 * 500, "{found} {least}");
    }
}

#[test]
fn a_damaged_data_set_gives_what_is_sound() {
    let mut out = DataSetBuilder::new(syntax(EXPLICIT_LITTLE).encoding());
    out.header(0x0008, 0x1140, "SQ", u32::MAX).header(0xFFFE, 0xE000, "", u32::MAX);
    out.text(0x0010, 0x0020, "LO", b"H-1").header(0x0010, 0x0010, "PN", 40).raw(b"A");
    let bytes = out.into_bytes();
    let syntax = syntax(EXPLICIT_LITTLE);
    let (found, error) = metadata_so_far(in_memory(&bytes, &syntax), &syntax, &declared(""), &|_| String::new());
    assert!(matches!(error, Some(JsonError::Walk(WalkError::Truncated { .. }))));
    assert_eq!(found["00081140"]["Value"][0]["00100020"]["Value"][0], "H-1");
}

proptest! {
    /// Whatever happens to a byte, every reader of data sets ends in a value or an error.
    #[test]
    fn mutations_never_panic(at in any::<usize>(), with in any::<u8>(), cut in 0..64usize, which in 0..3usize) {
        let syntax = syntax([EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG][which]);
        let mut out = DataSetBuilder::new(syntax.encoding());
        out.text(0x0008, 0x0005, "CS", b"\\ISO 2022 IR 58")
            .sequence(0x0008, 0x1140, |item| {
                item.text(0x0008, 0x1155, "UI", b"1.2").sequence(0x0040, 0xA170, |inner| {
                    inner.text(0x0008, 0x0104, "LO", b"\x1b$)A\xd5\xc5\\x");
                });
            })
            .text(0x0010, 0x0010, "PN", b"A^B=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1")
            .text(0x0028, 0x0008, "IS", b"2")
            .number(0x0028, 0x0010, 2)
            .number(0x0028, 0x0011, 2)
            .number(0x0028, 0x0100, 8)
            .fragments(&[0, 0, 0, 0, 10, 0, 0, 0], &[b"ab", b"cd"]);
        let mut bytes = out.into_bytes();
        let at = at % bytes.len();
        bytes[at] = with;
        bytes.truncate(bytes.len() - cut);
        let source = || in_memory(&bytes, &syntax);
        let _ = metadata_so_far(source(), &syntax, &declared("GB18030"), &|path| path.to_string());
        if let Ok(table) = FrameTable::locate(source(), &syntax) {
            for number in 0..=table.len().min(9) {
                let _ = table.read(source().as_mut(), number, |_| Ok::<_, FrameReadError>(()));
            }
        }
        let path = BulkPath::parse("00081140/0/00081155").expect("a path");
        let _ = crate::dicom::bulk::find(source(), &syntax, &path);
    }
}
