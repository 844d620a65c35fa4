//! Tables of small data sets, good and broken, and arbitrary bytes that must never panic the walker.
//!
//! A walk is compared as a line of text: VR and length of each value, brackets for sequences, braces for items, angle
//! brackets for fragments, the name of the error at the end.

use proptest::prelude::*;

use super::*;
use crate::dicom::source::SliceSource;

/// An explicit little endian element with a short header.
fn short(tag: Tag, vr: &str, value: &[u8]) -> Vec<u8> {
    let mut out = [tag.0.to_le_bytes(), tag.1.to_le_bytes()].concat();
    out.extend(vr.as_bytes());
    out.extend((value.len() as u16).to_le_bytes());
    out.extend(value);
    out
}

/// An explicit little endian element with a long header and the given length field.
fn long(tag: Tag, vr: &str, length: u32, value: &[u8]) -> Vec<u8> {
    let mut out = [tag.0.to_le_bytes(), tag.1.to_le_bytes()].concat();
    out.extend(vr.as_bytes());
    out.extend([0, 0]);
    out.extend(length.to_le_bytes());
    out.extend(value);
    out
}

/// Tag and length as items, delimiters and implicit elements have them.
fn bare(tag: Tag, length: u32, value: &[u8]) -> Vec<u8> {
    let mut out = [tag.0.to_le_bytes(), tag.1.to_le_bytes()].concat();
    out.extend(length.to_le_bytes());
    out.extend(value);
    out
}

/// The walk as text: one word a token, then the error if any.
fn story(bytes: &[u8], encoding: Encoding) -> String {
    let mut walker = Walker::new(Box::new(SliceSource::new(bytes)), encoding);
    let mut words = Vec::new();
    loop {
        match walker.next() {
            Ok(None) => break,
            Ok(Some(token)) => words.push(match token {
                Token::Element(e) => format!("{:?}={}", e.vr, walker.value(64).map_or(0, |v| v.len())),
                Token::SequenceStart(_) => "[".into(),
                Token::ItemStart => "{".into(),
                Token::ItemEnd => "}".into(),
                Token::SequenceEnd => "]".into(),
                Token::FragmentsStart(_) => "<".into(),
                Token::Fragment { length, .. } => format!("f{length}"),
                Token::FragmentsEnd => ">".into(),
            }),
            Err(error) => {
                let text = format!("{error:?}");
                words.push(text.split([' ', '(']).next().unwrap_or_default().to_owned());
                break;
            }
        }
    }
    words.join(" ")
}

const NAME: Tag = Tag(0x0010, 0x0010);
const SEQUENCE: Tag = Tag(0x0008, 0x1140);

#[test]
fn explicit_data_sets() {
    let name = short(NAME, "PN", b"A^B ");
    let items = [bare(ITEM, 12, &name), bare(ITEM, UNDEFINED, &name), bare(ITEM_END, 0, b"")].concat();
    let fragments = [bare(ITEM, 0, b""), bare(ITEM, 2, b"xy"), bare(SEQUENCE_END, 0, b"")].concat();
    let implicit_name = bare(NAME, 4, b"A^B ");
    let unknown = [bare(ITEM, 12, &implicit_name), bare(SEQUENCE_END, 0, b"")].concat();
    let table: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], ""),
        ("plain", name.clone(), "PN=4"),
        ("defined sequence", long(SEQUENCE, "SQ", items.len() as u32, &items), "[ { PN=4 } { PN=4 } ]"),
        (
            "undefined sequence",
            [long(SEQUENCE, "SQ", UNDEFINED, &items), bare(SEQUENCE_END, 0, b""), name.clone()].concat(),
            "[ { PN=4 } { PN=4 } ] PN=4",
        ),
        ("fragments", long(elements::PIXEL_DATA, "OB", UNDEFINED, &fragments), "< f0 f2 >"),
        ("unknown undefined", long(Tag(9, 0x1001), "UN", UNDEFINED, &unknown), "[ { PN=4 } ]"),
        ("known sequence as UN", long(SEQUENCE, "UN", 20, &bare(ITEM, 12, &implicit_name)), "[ { PN=4 } ]"),
        ("no sequence as UN", long(SEQUENCE, "UN", 8, b"\0\0\0\0\0\0\0\0"), "UN=8"),
        ("known name as UN", long(NAME, "UN", 4, b"A^B "), "PN=4"),
        ("VR of blanks", [short(NAME, "PN", b"A "), short(Tag(0x0010, 0x1030), "  ", b"70")].concat(), "PN=2 DS=2"),
        ("stray delimiter", [bare(ITEM_END, 0, b""), name.clone()].concat(), "PN=4"),
        ("implicit in truth", implicit_name.clone(), "PN=4"),
        ("cut header", name[..6].to_vec(), "Truncated"),
        ("cut value", name[..10].to_vec(), "Truncated"),
        ("open sequence", long(SEQUENCE, "SQ", UNDEFINED, &items), "[ { PN=4 } { PN=4 } Truncated"),
        ("item too long", long(SEQUENCE, "SQ", 20, &bare(ITEM, 99, &name)), "[ LengthBeyondParent"),
        ("no item", long(SEQUENCE, "SQ", 12, &name), "[ NotAnItem"),
        ("undefined text", long(Tag(0x0008, 0x0119), "UC", UNDEFINED, b""), "UndefinedLength"),
        ("lone item", bare(ITEM, 0, b""), "NotAnItem"),
    ];
    for (what, bytes, expected) in table {
        assert_eq!(story(&bytes, Encoding::EXPLICIT_LITTLE), expected, "{what}");
    }
}

#[test]
fn nul_behind_the_last_element_is_no_damage_and_a_cut_header_is() {
    let name = short(NAME, "PN", b"A^B ");
    let odd = short(NAME, "PN", b"A^B");
    let inner = bare(ITEM, 15, &[name.as_slice(), &[0; 3]].concat());
    let with = |rest: &[u8]| [name.as_slice(), rest].concat();
    let table: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a few", with(&[0; 3]), "PN=4"),
        ("a header's length", with(&[0; 8]), "PN=4"),
        ("a sector", with(&[0; 2045]), "PN=4"),
        ("as much as may be", with(&[0; PADDING_BYTES_MAX]), "PN=4"),
        ("more", with(&[0; PADDING_BYTES_MAX + 1]), "PN=4 Truncated"),
        ("one, as group 6000 begins", with(&[0]), "PN=4 Truncated"),
        ("one that makes it even", [odd.as_slice(), &[0]].concat(), "PN=3"),
        ("no NUL", with(b"\r\n"), "PN=4 Truncated"),
        ("some NUL", with(&[0, 0, 0, 1]), "PN=4 Truncated"),
        ("elements behind it", with(&[[0; 16].as_slice(), &name].concat()), "PN=4 UL=0 UL=0 PN=4"),
        ("in an item", long(SEQUENCE, "SQ", 23, &inner), "[ { PN=4 Truncated"),
        ("nothing else", vec![0; 4], "Truncated"),
    ];
    for (what, bytes, expected) in table {
        assert_eq!(story(&bytes, Encoding::EXPLICIT_LITTLE), expected, "{what}");
    }
    for cut in 1..8 {
        assert_eq!(story(&with(&name[..cut]), Encoding::EXPLICIT_LITTLE), "PN=4 Truncated", "{cut} bytes of a header");
    }
}

#[test]
fn the_first_element_outweighs_the_syntax() {
    let explicit = short(NAME, "PN", b"A^B ");
    assert_eq!(story(&explicit, Encoding::IMPLICIT_LITTLE), "PN=4");
}

#[test]
fn nesting_is_bounded() {
    let mut bytes = Vec::new();
    for _ in 0..=DEPTH_MAX {
        bytes.extend(long(SEQUENCE, "SQ", UNDEFINED, b""));
        bytes.extend(bare(ITEM, UNDEFINED, b""));
    }
    assert!(story(&bytes, Encoding::EXPLICIT_LITTLE).ends_with("TooDeep"));
}

#[test]
fn a_large_value_is_refused_and_skipped() {
    let bytes = [long(Tag(9, 0x1002), "OB", 100, &[7; 100]), short(NAME, "PN", b"A^B ")].concat();
    let mut walker = Walker::new(Box::new(SliceSource::new(&bytes)), Encoding::EXPLICIT_LITTLE);
    assert!(matches!(walker.next(), Ok(Some(Token::Element(_)))));
    assert!(matches!(walker.value(99), Err(WalkError::ValueTooLarge { length: 100, .. })));
    assert_eq!(walker.value_head(3).expect("head"), [7; 3]);
    assert!(matches!(walker.next(), Ok(Some(Token::Element(e))) if e.tag == NAME));
}

proptest! {
    /// Any bytes end in tokens or an error, never in a panic, and never outlast their length.
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..512), which in 0..3usize) {
        let encoding = [Encoding::IMPLICIT_LITTLE, Encoding::EXPLICIT_LITTLE, Encoding::EXPLICIT_BIG][which];
        let mut walker = Walker::new(Box::new(SliceSource::new(&bytes)), encoding);
        let mut steps = 0;
        while let Ok(Some(_)) = walker.next() {
            steps += 1;
            prop_assert!(steps <= bytes.len() + 1);
        }
    }
}
