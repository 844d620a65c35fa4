//! Data sets written element by element, in explicit or implicit little endian.
//!
//! The VR of each element is the dictionary's, so callers name tags and values only. Elements may be set in any
//! order; they are written in the order of their tags (PS3.5 section 7.1).

use std::collections::BTreeMap;

use dicom_core::header::{Tag, VR};

use crate::dicom::elements;

/// How text outside ASCII is written, and what is declared for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Characters {
    Gb18030,
    Gbk,
    Utf8,
    /// GBK bytes under a declaration of ISO_IR 100, as many modalities do.
    GbkAsLatin1,
}

impl Characters {
    pub fn declaration(self) -> &'static str {
        match self {
            Self::Gb18030 => "GB18030",
            Self::Gbk => "GBK",
            Self::Utf8 => "ISO_IR 192",
            Self::GbkAsLatin1 => "ISO_IR 100",
        }
    }

    fn encode(self, text: &str) -> Vec<u8> {
        match self {
            Self::Utf8 => text.as_bytes().to_vec(),
            Self::Gb18030 => encoding_rs::GB18030.encode(text).0.into_owned(),
            Self::Gbk | Self::GbkAsLatin1 => encoding_rs::GBK.encode(text).0.into_owned(),
        }
    }
}

#[derive(Clone)]
enum Value {
    Bytes(VR, Vec<u8>),
    Items(Vec<Elements>),
}

/// A data set or an item under construction.
#[derive(Clone)]
pub struct Elements {
    characters: Characters,
    values: BTreeMap<Tag, Value>,
}

impl Elements {
    pub fn new(characters: Characters) -> Self {
        Self { characters, values: BTreeMap::new() }
    }

    /// A value of any text VR; several values are parted by backslashes.
    pub fn text(&mut self, tag: Tag, text: impl AsRef<str>) -> &mut Self {
        let vr = elements::vr_of(tag);
        let mut bytes = self.characters.encode(text.as_ref());
        if bytes.len() % 2 == 1 {
            bytes.push(if vr == VR::UI { 0 } else { b' ' });
        }
        self.put(tag, vr, bytes)
    }

    /// An element without a value.
    pub fn empty(&mut self, tag: Tag) -> &mut Self {
        self.text(tag, "")
    }

    /// DS values.
    pub fn decimals(&mut self, tag: Tag, values: &[f64]) -> &mut Self {
        let texts: Vec<String> = values.iter().map(|value| decimal(*value)).collect();
        self.text(tag, texts.join("\\"))
    }

    pub fn decimal(&mut self, tag: Tag, value: f64) -> &mut Self {
        self.decimals(tag, &[value])
    }

    /// An IS value.
    pub fn integer(&mut self, tag: Tag, value: i64) -> &mut Self {
        self.text(tag, value.to_string())
    }

    /// US values.
    pub fn shorts(&mut self, tag: Tag, values: &[u16]) -> &mut Self {
        self.put(tag, VR::US, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    pub fn short(&mut self, tag: Tag, value: u16) -> &mut Self {
        self.shorts(tag, &[value])
    }

    /// An SS value.
    pub fn signed_short(&mut self, tag: Tag, value: i16) -> &mut Self {
        self.put(tag, VR::SS, value.to_le_bytes().to_vec())
    }

    /// A UL value.
    pub fn long(&mut self, tag: Tag, value: u32) -> &mut Self {
        self.put(tag, VR::UL, value.to_le_bytes().to_vec())
    }

    /// An SL value.
    pub fn signed_long(&mut self, tag: Tag, value: i32) -> &mut Self {
        self.put(tag, VR::SL, value.to_le_bytes().to_vec())
    }

    /// An FD value.
    pub fn double(&mut self, tag: Tag, value: f64) -> &mut Self {
        self.put(tag, VR::FD, value.to_le_bytes().to_vec())
    }

    /// An AT value.
    pub fn pointer(&mut self, tag: Tag, to: Tag) -> &mut Self {
        self.put(tag, VR::AT, [to.0.to_le_bytes(), to.1.to_le_bytes()].concat())
    }

    /// Pixels: OW for words, OB for bytes.
    pub fn pixels(&mut self, vr: VR, bytes: Vec<u8>) -> &mut Self {
        self.put(elements::PIXEL_DATA, vr, bytes)
    }

    /// A sequence of one item.
    pub fn item(&mut self, tag: Tag, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let mut item = Self::new(self.characters);
        fill(&mut item);
        self.values.insert(tag, Value::Items(vec![item]));
        self
    }

    /// A sequence without items.
    pub fn no_items(&mut self, tag: Tag) -> &mut Self {
        self.values.insert(tag, Value::Items(Vec::new()));
        self
    }

    fn put(&mut self, tag: Tag, vr: VR, mut bytes: Vec<u8>) -> &mut Self {
        if bytes.len() % 2 == 1 {
            bytes.push(0);
        }
        self.values.insert(tag, Value::Bytes(vr, bytes));
        self
    }

    /// The bytes, little endian.
    pub fn write(&self, explicit: bool) -> Vec<u8> {
        let mut out = Vec::new();
        for (tag, value) in &self.values {
            out.extend([tag.0.to_le_bytes(), tag.1.to_le_bytes()].concat());
            match value {
                Value::Bytes(vr, bytes) => write_value(&mut out, explicit, *vr, bytes),
                Value::Items(items) => {
                    let items: Vec<u8> = items.iter().flat_map(|item| framed_item(&item.write(explicit))).collect();
                    write_value(&mut out, explicit, VR::SQ, &items);
                }
            }
        }
        out
    }
}

fn framed_item(item: &[u8]) -> Vec<u8> {
    let mut out = vec![0xFE, 0xFF, 0x00, 0xE0];
    out.extend((item.len() as u32).to_le_bytes());
    out.extend(item);
    out
}

/// Generated values are far below 64 KiB, pixels (a long form) below 4 GiB.
fn write_value(out: &mut Vec<u8>, explicit: bool, vr: VR, bytes: &[u8]) {
    let length = bytes.len() as u32;
    match (explicit, elements::has_long_length(vr)) {
        (false, _) => out.extend(length.to_le_bytes()),
        (true, true) => {
            out.extend(vr.to_string().as_bytes());
            out.extend([0, 0]);
            out.extend(length.to_le_bytes());
        }
        (true, false) => {
            out.extend(vr.to_string().as_bytes());
            out.extend((length as u16).to_le_bytes());
        }
    }
    out.extend(bytes);
}

/// At most 16 characters, as DS allows, without needless zeros.
fn decimal(value: f64) -> String {
    let text = format!("{value:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_short() {
        for (value, expected) in [(1.0, "1"), (-0.0, "0"), (0.625, "0.625"), (1.0 / 3.0, "0.3333"), (-250.5, "-250.5")]
        {
            assert_eq!(decimal(value), expected);
        }
    }

    #[test]
    fn elements_are_written_in_order() {
        let mut out = Elements::new(Characters::Gb18030);
        out.text(Tag(0x0010, 0x0020), "H-1").item(Tag(0x0008, 0x1140), |item| {
            item.text(Tag(0x0008, 0x1155), "1.2");
        });
        let expected: &[u8] = b"\x08\0\x40\x11SQ\0\0\x14\0\0\0\xFE\xFF\0\xE0\x0C\0\0\0\x08\0\x55\x11UI\x04\x001.2\0\x10\0\x20\0LO\x04\0H-1 ";
        assert_eq!(out.write(true), expected);
        assert_eq!(&out.write(false)[..12], b"\x08\0\x40\x11\x14\0\0\0\xFE\xFF\0\xE0");
    }
}
