//! Native frames in every word size and order, encapsulated frames by every kind of table, and refusals.
//!
//! Images of a few pixels, so that the expected bytes can be written out. Not
//! for codecs: frames are cut, never decoded.

use super::*;
use crate::dicom::identifiers::Uid;
use crate::dicom::source::{PIECE_BYTES, in_memory};
use crate::dicom::syntax::{EXPLICIT_BIG, EXPLICIT_LITTLE, RLE_LOSSLESS};
use crate::dicom::testing::DataSetBuilder;

fn syntax(uid: &str) -> TransferSyntax {
    TransferSyntax::of(&Uid::parse(uid).expect("a syntax of the table"))
}

/// Name, syntax, [rows, columns, samples, bits, frames], VR, pixel data, frames as served.
type NativeCase = (&'static str, &'static str, [u16; 5], &'static str, Vec<u8>, Vec<Vec<u8>>);

/// Name, frames, offset table, fragments, frames as served.
type EncapsulatedCase<'a> = (&'static str, u16, Vec<u8>, Vec<&'a [u8]>, Result<Vec<Vec<u8>>, &'static str>);

struct Shape {
    rows: u16,
    columns: u16,
    samples: u16,
    bits: u16,
    frames: u16,
}

fn image(uid: &str, shape: &Shape) -> DataSetBuilder {
    let mut out = DataSetBuilder::new(syntax(uid).encoding());
    out.number(0x0028, 0x0002, shape.samples)
        .text(0x0028, 0x0008, "IS", shape.frames.to_string().as_bytes())
        .number(0x0028, 0x0010, shape.rows)
        .number(0x0028, 0x0011, shape.columns)
        .number(0x0028, 0x0100, shape.bits);
    out
}

/// All frames as served, or the error.
fn frames(bytes: &[u8], uid: &str) -> Result<Vec<Vec<u8>>, String> {
    let syntax = syntax(uid);
    let table = FrameTable::locate(in_memory(bytes, &syntax), &syntax).map_err(|e| e.to_string())?;
    assert!(table.bytes(0).is_err() && table.start(table.len() + 1).is_err());
    // One source for all: each frame leaves it at or before the next.
    let mut source = in_memory(bytes, &syntax);
    (1..=table.len()).map(|number| frame(&table, source.as_mut(), number).map_err(|e| e.to_string())).collect()
}

fn frame(table: &FrameTable, source: &mut dyn Source, number: usize) -> Result<Vec<u8>, FrameReadError> {
    let mut found = Vec::new();
    table.read(source, number, |piece| {
        assert!(piece.len() <= PIECE_BYTES);
        found.extend(piece);
        Ok::<_, FrameReadError>(())
    })?;
    assert_eq!(table.bytes(number)?, found.len() as u64);
    Ok(found)
}

#[test]
fn native_frames() {
    let table: Vec<NativeCase> = vec![
        ("8 bit", EXPLICIT_LITTLE, [1, 2, 1, 8, 2], "OB", vec![1, 2, 3, 4], vec![vec![1, 2], vec![3, 4]]),
        ("16 bit", EXPLICIT_LITTLE, [1, 1, 1, 16, 2], "OW", vec![1, 2, 3, 4], vec![vec![1, 2], vec![3, 4]]),
        ("16 bit big", EXPLICIT_BIG, [1, 1, 1, 16, 2], "OW", vec![1, 2, 3, 4], vec![vec![2, 1], vec![4, 3]]),
        ("32 bit big", EXPLICIT_BIG, [1, 1, 1, 32, 1], "OW", vec![1, 2, 3, 4], vec![vec![4, 3, 2, 1]]),
        (
            "8 bit words big",
            EXPLICIT_BIG,
            [1, 3, 1, 8, 2],
            "OW",
            vec![2, 1, 4, 3, 6, 5],
            vec![vec![1, 2, 3], vec![4, 5, 6]],
        ),
        ("8 bit bytes big", EXPLICIT_BIG, [1, 2, 1, 8, 1], "OB", vec![1, 2], vec![vec![1, 2]]),
        (
            "1 bit",
            EXPLICIT_LITTLE,
            [2, 5, 1, 1, 2],
            "OB",
            vec![0xFF, 0b1010_1011, 0b0000_1111, 0],
            vec![vec![0xFF, 0b11], vec![0b1110_1010, 0b11]],
        ),
        ("rgb", EXPLICIT_LITTLE, [1, 1, 3, 8, 2], "OB", vec![1, 2, 3, 4, 5, 6], vec![vec![1, 2, 3], vec![4, 5, 6]]),
    ];
    for (what, uid, [rows, columns, samples, bits, count], vr, value, expected) in table {
        let mut out = image(uid, &Shape { rows, columns, samples, bits, frames: count });
        out.text(0x7FE0, 0x0010, vr, &value);
        let mut found = frames(&out.into_bytes(), uid).expect(what);
        if bits == 1 {
            // Bits behind the frame's last pixel are not specified.
            found.iter_mut().for_each(|frame| frame[1] &= 0b11);
        }
        assert_eq!(found, expected, "{what}");
    }
}

#[test]
fn encapsulated_frames() {
    let two = |offsets: &[u32]| offsets.iter().flat_map(|offset| offset.to_le_bytes()).collect::<Vec<u8>>();
    let (soi, rest): (&[u8], &[u8]) = (b"\xFF\xD8\xFF\xE0", b"rest");
    let joined = [soi, rest].concat();
    let table: Vec<EncapsulatedCase<'_>> = vec![
        ("one frame, two fragments", 1, vec![], vec![soi, rest], Ok(vec![joined.clone()])),
        ("a fragment a frame", 2, vec![], vec![b"ab", b"cd"], Ok(vec![b"ab".to_vec(), b"cd".to_vec()])),
        ("offset table", 2, two(&[0, 22]), vec![b"ab", b"cd00", b"ef"], Ok(vec![b"abcd00".to_vec(), b"ef".to_vec()])),
        ("codestreams", 2, vec![], vec![soi, rest, soi], Ok(vec![joined.clone(), soi.to_vec()])),
        ("wrong table", 2, two(&[0, 4]), vec![soi, rest, soi], Ok(vec![joined.clone(), soi.to_vec()])),
        ("cannot tell", 2, vec![], vec![b"ab", b"cd", b"ef"], Err("3 fragments can't be told apart into 2 frames")),
        ("no fragments", 1, vec![], vec![], Err("0 fragments can't be told apart into 1 frames")),
    ];
    for (what, count, offsets, fragments, expected) in table {
        let mut out = image(RLE_LOSSLESS, &Shape { rows: 9, columns: 9, samples: 1, bits: 8, frames: count });
        out.fragments(&offsets, &fragments);
        assert_eq!(frames(&out.into_bytes(), RLE_LOSSLESS), expected.map_err(str::to_owned), "{what}");
    }
}

#[test]
fn frames_larger_than_a_piece_are_cut_the_same() {
    // Bit-packed, the second frame beginning inside a byte and, in big endian order, inside a word.
    let (rows, columns) = (3333, 3001);
    let frame_bits = usize::from(rows) * usize::from(columns);
    let bits: Vec<bool> = (0..2 * frame_bits).map(|at| (at * at / 7) % 3 == 0).collect();
    let pack = |bits: &[bool]| -> Vec<u8> {
        bits.chunks(8).map(|byte| byte.iter().enumerate().map(|(at, bit)| u8::from(*bit) << at).sum()).collect()
    };
    for uid in [EXPLICIT_LITTLE, EXPLICIT_BIG] {
        let mut packed = pack(&bits);
        packed.resize(packed.len().next_multiple_of(2), 0);
        if uid == EXPLICIT_BIG {
            swap_words(&mut packed, 2);
        }
        let mut out = image(uid, &Shape { rows, columns, samples: 1, bits: 1, frames: 2 });
        out.text(0x7FE0, 0x0010, "OW", &packed);
        let found = frames(&out.into_bytes(), uid).expect("two frames");
        assert!(found[1].len() > PIECE_BYTES);
        for (found, bits) in found.iter().zip(bits.chunks(frame_bits)) {
            let (last, whole) = found.split_last().expect("bytes");
            let expected = pack(bits);
            assert!(whole == &expected[..whole.len()], "{uid}");
            // Bits behind the frame's last pixel are not specified.
            let mask = (1u8 << (frame_bits % 8)) - 1;
            assert_eq!((last & mask, found.len()), (expected[whole.len()], expected.len()), "{uid}");
        }
    }
}

#[test]
fn a_video_is_not_cut() {
    const MPEG4: &str = "1.2.840.10008.1.2.4.102";
    let video = |frames| {
        let mut out = image(MPEG4, &Shape { rows: 9, columns: 9, samples: 3, bits: 8, frames });
        out.fragments(b"", &[b"ab", b"cd"]);
        super::tests::frames(&out.into_bytes(), MPEG4)
    };
    // As many fragments as frames, and fragments are no frames all the same.
    assert!(video(2).expect_err("a video").contains("one video of 2 frames"));
    assert_eq!(video(1), Ok(vec![b"abcd".to_vec()]));
}

#[test]
fn the_extended_table_comes_first() {
    let mut out = image(RLE_LOSSLESS, &Shape { rows: 9, columns: 9, samples: 1, bits: 8, frames: 2 });
    let offsets: Vec<u8> = [0u64, 10].iter().flat_map(|offset| offset.to_le_bytes()).collect();
    out.text(0x7FE0, 0x0001, "OV", &offsets).fragments(b"", &[b"ab", b"cd", b"ef"]);
    assert_eq!(frames(&out.into_bytes(), RLE_LOSSLESS), Ok(vec![b"ab".to_vec(), b"cdef".to_vec()]));
}

#[test]
fn what_cannot_be_cut_is_named() {
    let shape = Shape { rows: u16::MAX, columns: u16::MAX, samples: u16::MAX, bits: u16::MAX, frames: u16::MAX };
    let mut huge = image(EXPLICIT_LITTLE, &shape);
    huge.text(0x7FE0, 0x0010, "OW", &[0; 4]);
    let bare = image(EXPLICIT_LITTLE, &Shape { rows: 1, columns: 1, samples: 1, bits: 8, frames: 1 });
    let mut shapeless = DataSetBuilder::new(syntax(EXPLICIT_LITTLE).encoding());
    shapeless.text(0x7FE0, 0x0010, "OW", &[0; 4]);
    let table = [
        (huge, "the object claims 65535 frames of"),
        (bare, "the object has no pixel data"),
        (shapeless, "the object lacks Bits Allocated"),
    ];
    for (out, expected) in table {
        let error = frames(&out.into_bytes(), EXPLICIT_LITTLE).expect_err(expected);
        assert!(error.starts_with(expected), "{error}");
    }
}
