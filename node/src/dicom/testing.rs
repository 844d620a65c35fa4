//! Data sets for tests, written by hand in any encoding.
//! Not with a DICOM library: what a reader is tested on must not come from the reader's own writer.
//! It writes what it is told to, wrong lengths and orders included.

use std::io::Write;

use super::syntax::{ByteOrder, Encoding};

#[derive(Clone)]
pub struct DataSetBuilder {
    encoding: Encoding,
    bytes: Vec<u8>,
}

impl DataSetBuilder {
    pub fn new(encoding: Encoding) -> Self {
        Self { encoding, bytes: Vec::new() }
    }

    fn u16(&mut self, value: u16) {
        let bytes = match self.encoding.order {
            ByteOrder::Little => value.to_le_bytes(),
            ByteOrder::Big => value.to_be_bytes(),
        };
        self.bytes.extend(bytes);
    }

    fn u32(&mut self, value: u32) {
        let bytes = match self.encoding.order {
            ByteOrder::Little => value.to_le_bytes(),
            ByteOrder::Big => value.to_be_bytes(),
        };
        self.bytes.extend(bytes);
    }

    /// An element header with any length, 0xFFFF_FFFF included.
    pub fn header(&mut self, group: u16, element: u16, vr: &str, length: u32) -> &mut Self {
        self.u16(group);
        self.u16(element);
        if !self.encoding.explicit || group == 0xFFFE {
            self.u32(length);
        } else if matches!(vr, "OB" | "OD" | "OF" | "OL" | "OV" | "OW" | "SQ" | "SV" | "UC" | "UN" | "UR" | "UT" | "UV")
        {
            self.bytes.extend(vr.as_bytes());
            self.u16(0);
            self.u32(length);
        } else {
            self.bytes.extend(vr.as_bytes());
            self.u16(length as u16);
        }
        self
    }

    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend(bytes);
        self
    }

    /// A value of bytes, padded to even length.
    pub fn text(&mut self, group: u16, element: u16, vr: &str, value: &[u8]) -> &mut Self {
        let mut value = value.to_vec();
        if value.len() % 2 == 1 {
            value.push(if vr == "UI" || vr == "OB" { 0 } else { b' ' });
        }
        self.header(group, element, vr, value.len() as u32).raw(&value)
    }

    /// A US value.
    pub fn number(&mut self, group: u16, element: u16, value: u16) -> &mut Self {
        self.header(group, element, "US", 2).u16(value);
        self
    }

    /// A sequence of one item, both of undefined length.
    pub fn sequence(&mut self, group: u16, element: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        self.header(group, element, "SQ", u32::MAX).header(0xFFFE, 0xE000, "", u32::MAX);
        fill(self);
        self.header(0xFFFE, 0xE00D, "", 0).header(0xFFFE, 0xE0DD, "", 0)
    }

    /// Encapsulated pixel data: offset table, then fragments.
    pub fn fragments(&mut self, table: &[u8], fragments: &[&[u8]]) -> &mut Self {
        self.header(0x7FE0, 0x0010, "OB", u32::MAX);
        for fragment in std::iter::once(&table).chain(fragments) {
            self.header(0xFFFE, 0xE000, "", fragment.len() as u32).raw(fragment);
        }
        self.header(0xFFFE, 0xE0DD, "", 0)
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

pub fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).expect("memory takes all bytes");
    encoder.finish().expect("memory takes all bytes")
}
