//! Paths to single values of a data set, as they stand in `BulkDataURI`s, and the way back to the bytes.
//!
//! A path is a tag, preceded by a sequence and an item number for each level above: `00091010` or
//! `00082218/0/00091010`.

use std::fmt;
use std::ops::Range;

use dicom_core::header::{Tag, VR};

use super::source::Source;
use super::syntax::{ByteOrder, TransferSyntax};
use super::walk::{DEPTH_MAX, Token, WalkError, Walker};

/// Fragments of one value that are located.
pub const FRAGMENTS_MAX: usize = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BulkPath(Vec<(Tag, Option<usize>)>);

/// Why a text is no path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a bulk data path is made of tags of eight hexadecimal digits, with item numbers between them")]
pub struct BulkPathError;

impl BulkPath {
    pub fn parse(text: &str) -> Result<Self, BulkPathError> {
        let parts: Vec<&str> = text.split('/').collect();
        if parts.len().is_multiple_of(2) || parts.len() > 2 * DEPTH_MAX + 1 {
            return Err(BulkPathError);
        }
        let step = |pair: &[&str]| {
            let item = pair.get(1).map(|item| item.parse().map_err(|_| BulkPathError)).transpose()?;
            Ok((tag(pair[0])?, item))
        };
        parts.chunks(2).map(step).collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn push(&mut self, tag: Tag, item: usize) {
        self.0.push((tag, Some(item)));
    }

    pub(super) fn pop(&mut self) {
        self.0.pop();
    }

    pub(super) fn with(&self, tag: Tag) -> Self {
        let mut path = self.clone();
        path.0.push((tag, None));
        path
    }
}

fn tag(text: &str) -> Result<Tag, BulkPathError> {
    if text.len() != 8 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(BulkPathError);
    }
    let number = u32::from_str_radix(text, 16).map_err(|_| BulkPathError)?;
    // High and low half of eight digits.
    Ok(Tag((number >> 16) as u16, number as u16))
}

impl fmt::Display for BulkPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (Tag(group, element), item) in &self.0 {
            write!(f, "{group:04X}{element:04X}")?;
            if let Some(item) = item {
                write!(f, "/{item}/")?;
            }
        }
        Ok(())
    }
}

/// Where a value's bytes are: one range, or one a fragment (the offset table left out).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BulkValue {
    pub vr: VR,
    pub order: ByteOrder,
    pub ranges: Vec<Range<u64>>,
}

/// Finds a value by its path; `None` when the data set has no such value.
pub fn find(
    source: Box<dyn Source + '_>,
    syntax: &TransferSyntax,
    path: &BulkPath,
) -> Result<Option<BulkValue>, WalkError> {
    let mut walker = Walker::new(source, syntax.encoding());
    let mut here = BulkPath::default();
    // The open sequences, each with the number of items that have begun.
    let mut open: Vec<(Tag, usize)> = Vec::new();
    while let Some(token) = walker.next()? {
        match token {
            Token::SequenceStart(element) => open.push((element.tag, 0)),
            Token::SequenceEnd => {
                open.pop();
            }
            Token::ItemStart => {
                if let Some((tag, items)) = open.last_mut() {
                    here.push(*tag, *items);
                    *items += 1;
                }
            }
            Token::ItemEnd => here.pop(),
            Token::Element(element) if here.with(element.tag) == *path => {
                let end = element.offset + u64::from(element.length.unwrap_or(0));
                let ranges = std::iter::once(element.offset..end).collect();
                return Ok(Some(BulkValue { vr: element.vr, order: element.order, ranges }));
            }
            Token::FragmentsStart(element) if here.with(element.tag) == *path => {
                let ranges = fragments(&mut walker)?;
                return Ok(Some(BulkValue { vr: VR::OB, order: ByteOrder::Little, ranges }));
            }
            _ => {}
        }
    }
    Ok(None)
}

fn fragments(walker: &mut Walker<'_>) -> Result<Vec<Range<u64>>, WalkError> {
    let mut ranges = Vec::new();
    let mut first = true;
    while let Some(Token::Fragment { offset, length }) = walker.next()? {
        if ranges.len() == FRAGMENTS_MAX {
            return Err(WalkError::TooManyFragments { fragments_max: FRAGMENTS_MAX });
        }
        if !first {
            ranges.push(offset..offset + u64::from(length));
        }
        first = false;
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dicom::identifiers::Uid;
    use crate::dicom::source::in_memory;
    use crate::dicom::syntax::EXPLICIT_LITTLE;
    use crate::dicom::testing::DataSetBuilder;

    #[test]
    fn paths_are_checked() {
        let table = [
            ("7FE00010", true),
            ("00082218/0/00091010", true),
            ("00082218/0", false),
            ("7fe00010", true),
            ("7FE0001", false),
            ("", false),
            ("00082218/x/00091010", false),
            ("+0082218", false),
        ];
        for (text, valid) in table {
            let path = BulkPath::parse(text);
            assert_eq!(path.is_ok(), valid, "{text}");
            if let Ok(path) = path {
                assert_eq!(path.to_string(), text.to_uppercase());
            }
        }
        assert!(BulkPath::parse(&"00082218/0/".repeat(DEPTH_MAX + 1)).is_err());
    }

    #[test]
    fn values_are_found_again() {
        let syntax = TransferSyntax::of(&Uid::parse(EXPLICIT_LITTLE).expect("a UID"));
        let mut out = DataSetBuilder::new(syntax.encoding());
        out.sequence(0x0008, 0x1140, |item| {
            item.text(0x0009, 0x1010, "OB", b"inner");
        })
        .text(0x0009, 0x1010, "OB", b"outer")
        .fragments(b"", &[b"one!", b"two!"]);
        let bytes = out.into_bytes();
        let table: [(&str, &[&[u8]]); 4] = [
            ("00081140/0/00091010", &[b"inner\0"]),
            ("00091010", &[b"outer\0"]),
            ("7FE00010", &[b"one!", b"two!"]),
            ("00081140/1/00091010", &[]),
        ];
        for (path, expected) in table {
            let path = BulkPath::parse(path).expect("a path");
            let found = find(in_memory(&bytes, &syntax), &syntax, &path).expect("walks");
            let ranges = found.map(|value| value.ranges).unwrap_or_default();
            let values: Vec<_> = ranges.iter().map(|r| &bytes[r.start as usize..r.end as usize]).collect();
            assert_eq!(values, expected, "{path}");
        }
    }
}
