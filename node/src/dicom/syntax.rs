//! Transfer syntaxes: how the bytes of a data set are laid out (PS3.5 section 10 and annex A).
//!
//! A data set is kept in the syntax in which it came, so what is needed here is only how to *walk* it: implicit
//! or explicit VR, byte order, deflated or not, pixel data native or encapsulated. Codecs are not needed: pixels
//! travel as they are. A syntax that this table doesn't know is taken as explicit little endian with
//! encapsulated pixel data, which is what the standard prescribes for every compression (PS3.5 A.4).

use super::identifiers::Uid;

pub const IMPLICIT_LITTLE: &str = "1.2.840.10008.1.2";
pub const EXPLICIT_LITTLE: &str = "1.2.840.10008.1.2.1";
pub const EXPLICIT_BIG: &str = "1.2.840.10008.1.2.2";
pub const DEFLATED: &str = "1.2.840.10008.1.2.1.99";
pub const RLE_LOSSLESS: &str = "1.2.840.10008.1.2.5";
const ENCAPSULATED_UNCOMPRESSED: &str = "1.2.840.10008.1.2.1.98";
const DEFLATED_FRAMES: &str = "1.2.840.10008.1.2.8.1";
/// General Electric's private syntax: implicit little endian with pixels in big endian.
const GE_BIG_ENDIAN_PIXELS: &str = "1.2.840.113619.5.2";
/// JPEG, JPEG-LS, JPEG 2000, MPEG, HEVC, HTJ2K, JPEG XL: all under this root.
const COMPRESSED_ROOT: &str = "1.2.840.10008.1.2.4.";
/// The pixels are not in the object but behind a URL: storing such an object would not keep the examination.
const REFERENCED: [&str; 4] =
    ["1.2.840.10008.1.2.4.94", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.204", "1.2.840.10008.1.2.4.205"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteOrder {
    Little,
    Big,
}

impl ByteOrder {
    pub fn u16(self, bytes: [u8; 2]) -> u16 {
        match self {
            Self::Little => u16::from_le_bytes(bytes),
            Self::Big => u16::from_be_bytes(bytes),
        }
    }

    pub fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }
}

/// How element headers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoding {
    pub explicit: bool,
    pub order: ByteOrder,
}

impl Encoding {
    pub const IMPLICIT_LITTLE: Self = Self { explicit: false, order: ByteOrder::Little };
    pub const EXPLICIT_LITTLE: Self = Self { explicit: true, order: ByteOrder::Little };
    pub const EXPLICIT_BIG: Self = Self { explicit: true, order: ByteOrder::Big };
}

/// A transfer syntax as far as walking a data set needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransferSyntax {
    encoding: Encoding,
    pixel_order: ByteOrder,
    deflated: bool,
    encapsulated: bool,
    video: bool,
}

/// MPEG-2, MPEG-4 and HEVC: `.100` to `.108` below the root of the compressed ones, and their fragmentable kin.
fn is_video(uid: &Uid) -> bool {
    let behind = uid.as_str().strip_prefix(COMPRESSED_ROOT).and_then(|rest| rest.strip_prefix("10"));
    behind.is_some_and(|rest| rest.starts_with(|c: char| ('0'..='8').contains(&c)))
}

impl TransferSyntax {
    pub fn of(uid: &Uid) -> Self {
        let encoding = match uid.as_str() {
            IMPLICIT_LITTLE | GE_BIG_ENDIAN_PIXELS => Encoding::IMPLICIT_LITTLE,
            EXPLICIT_BIG => Encoding::EXPLICIT_BIG,
            _ => Encoding::EXPLICIT_LITTLE,
        };
        let native =
            matches!(uid.as_str(), IMPLICIT_LITTLE | EXPLICIT_LITTLE | EXPLICIT_BIG | DEFLATED | GE_BIG_ENDIAN_PIXELS);
        Self {
            encoding,
            pixel_order: if uid.as_str() == GE_BIG_ENDIAN_PIXELS { ByteOrder::Big } else { encoding.order },
            deflated: matches!(uid.as_str(), DEFLATED | "1.2.840.10008.1.2.4.95" | "1.2.840.10008.1.2.4.205"),
            encapsulated: !native,
            video: is_video(uid),
        }
    }

    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// The byte order of native pixel data; it differs from the headers' only in General Electric's syntax.
    pub fn pixel_order(&self) -> ByteOrder {
        self.pixel_order
    }

    /// The whole data set is one deflate stream (PS3.5 A.5).
    pub fn is_deflated(&self) -> bool {
        self.deflated
    }

    /// Pixel data is a sequence of fragments (PS3.5 A.4). What a data set holds in fact is seen when walking.
    pub fn is_encapsulated(&self) -> bool {
        self.encapsulated
    }

    /// MPEG-2, MPEG-4 or HEVC: frames of the stream depend on each other, and fragments are no frames (PS3.5 A.4.5 on).
    pub fn is_video(&self) -> bool {
        self.video
    }

    /// Whether objects in this syntax may come in: every syntax that carries whole images, and private ones.
    /// Not the syntaxes that only point at pixels elsewhere, nor those for media descriptions and live video.
    pub fn is_storable(uid: &Uid) -> bool {
        let text = uid.as_str();
        if !uid.is_standard() {
            return true;
        }
        if REFERENCED.contains(&text) {
            return false;
        }
        matches!(
            text,
            IMPLICIT_LITTLE
                | EXPLICIT_LITTLE
                | EXPLICIT_BIG
                | DEFLATED
                | RLE_LOSSLESS
                | ENCAPSULATED_UNCOMPRESSED
                | DEFLATED_FRAMES
        ) || text.starts_with(COMPRESSED_ROOT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_syntaxes() {
        // (uid, explicit, big endian headers, deflated, encapsulated, storable)
        let table = [
            ("1.2.840.10008.1.2", false, false, false, false, true),
            ("1.2.840.10008.1.2.1", true, false, false, false, true),
            ("1.2.840.10008.1.2.2", true, true, false, false, true),
            ("1.2.840.10008.1.2.1.99", true, false, true, false, true),
            ("1.2.840.10008.1.2.1.98", true, false, false, true, true),
            ("1.2.840.10008.1.2.4.50", true, false, false, true, true),
            ("1.2.840.10008.1.2.4.90", true, false, false, true, true),
            ("1.2.840.10008.1.2.4.94", true, false, false, true, false),
            ("1.2.840.10008.1.2.4.201", true, false, false, true, true),
            ("1.2.840.10008.1.2.5", true, false, false, true, true),
            ("1.2.840.10008.1.2.6.1", true, false, false, true, false),
            ("1.2.840.10008.1.2.7.1", true, false, false, true, false),
            ("1.2.840.113619.5.2", false, false, false, false, true),
            ("1.3.6.1.4.1.99999.1", true, false, false, true, true),
        ];
        for (text, explicit, big, deflated, encapsulated, storable) in table {
            let uid = Uid::parse(text).expect("a UID of the table");
            let syntax = TransferSyntax::of(&uid);
            assert_eq!(syntax.encoding().explicit, explicit, "{text}");
            assert_eq!(syntax.encoding().order == ByteOrder::Big, big, "{text}");
            assert_eq!(syntax.is_deflated(), deflated, "{text}");
            assert_eq!(syntax.is_encapsulated(), encapsulated, "{text}");
            assert_eq!(TransferSyntax::is_storable(&uid), storable, "{text}");
        }
    }

    #[test]
    fn video_is_told_apart() {
        let video = |text: &str| {
            let uid = Uid::parse(&format!("1.2.840.10008.1.2.{text}")).expect("a UID of the table");
            TransferSyntax::of(&uid).is_video()
        };
        for text in ["4.100", "4.100.1", "4.101", "4.102", "4.104.1", "4.106", "4.107", "4.108"] {
            assert!(video(text), "{text}");
        }
        for text in ["1", "4.50", "4.90", "4.110", "4.201", "5"] {
            assert!(!video(text), "{text}");
        }
    }
}
