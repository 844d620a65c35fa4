//! DICOM files (PS3.10): where the data set is in one, and a fresh header for a data set that is sent out.
//!
//! Read are files as the standard wants them, files without preamble, without meta information, or with meta
//! information that lacks the transfer syntax; the syntax is then guessed from the first element as DCMTK does.
//! Written is a new file meta group in front of the data set, whose bytes stay as they came in.

use std::io::{self, Read, Seek, SeekFrom};

use dicom_core::header::{Tag, VR};

use super::identifiers::{AeTitle, Uid};
use super::source::SliceSource;
use super::syntax::{EXPLICIT_BIG, EXPLICIT_LITTLE, Encoding, IMPLICIT_LITTLE};
use super::walk::{Token, WalkError, Walker};

/// This program among implementations of DICOM; derived from a UUID as PS3.5 B.2 allows.
pub const IMPLEMENTATION_CLASS_UID: &str = "2.25.213796348812953176902146330974862015734";
/// At most 16 characters, PS3.7 D.3.3.2.
pub const IMPLEMENTATION_VERSION: &str = "TESSERA_0_1";

/// Bytes at the beginning of a file in which its meta information must end.
pub const HEAD_BYTES: usize = 64 << 10;

/// A directory of a medium (PS3.10 section 8): it lists objects and is none.
const MEDIA_STORAGE_DIRECTORY: &str = "1.2.840.10008.1.3.10";

const PREAMBLE_BYTES: usize = 128;
const MAGIC: &[u8] = b"DICM";
const META_GROUP: u16 = 0x0002;
/// The version of the file format, value of (0002,0001).
const META_VERSION: &[u8] = &[0, 1];

/// What a file's head says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part10 {
    pub transfer_syntax: Uid,
    /// The syntax stands in the meta information; otherwise it is a guess.
    pub declared: bool,
    /// Where the data set begins; it reaches to the end of the file.
    pub data_set_offset: u64,
    /// UIDs of the meta information; not to be trusted over those of the data set.
    pub media_sop_class: Option<Uid>,
    pub media_sop_instance: Option<Uid>,
}

/// Why a file is none that could be imported.
#[derive(Debug, thiserror::Error)]
pub enum Part10Error {
    #[error("this is no DICOM file")]
    NotDicom,
    #[error("the file's meta information is broken or longer than {HEAD_BYTES} bytes")]
    BrokenMeta(#[source] WalkError),
    #[error("the file ends before its data set begins")]
    Empty,
    #[error("the file could not be read")]
    Read(#[source] io::Error),
}

impl Part10 {
    /// Reads the head of a file and leaves it standing at the data set. Also gives the data set's length in bytes.
    pub fn open(file: &mut (impl Read + Seek)) -> Result<(Self, u64), Part10Error> {
        let mut head = Vec::with_capacity(HEAD_BYTES);
        let end = file.seek(SeekFrom::End(0)).map_err(Part10Error::Read)?;
        file.rewind().map_err(Part10Error::Read)?;
        file.by_ref().take(HEAD_BYTES as u64).read_to_end(&mut head).map_err(Part10Error::Read)?;
        let found = Self::locate(&head)?;
        file.seek(SeekFrom::Start(found.data_set_offset)).map_err(Part10Error::Read)?;
        let length = end.saturating_sub(found.data_set_offset);
        Ok((found, length))
    }

    /// The file is a DICOMDIR; importers pass it over.
    pub fn is_directory(&self) -> bool {
        self.media_sop_class.as_ref().is_some_and(|class| class.as_str() == MEDIA_STORAGE_DIRECTORY)
    }

    /// Finds the data set by the first bytes of a file ([`HEAD_BYTES`] of them, or all when there are fewer).
    pub fn locate(head: &[u8]) -> Result<Self, Part10Error> {
        let after_preamble = head.get(PREAMBLE_BYTES..).filter(|rest| rest.starts_with(MAGIC));
        let start = match after_preamble {
            Some(_) => PREAMBLE_BYTES + MAGIC.len(),
            None if head.starts_with(MAGIC) => MAGIC.len(),
            None => 0,
        };
        let rest = &head[start..];
        let meta = Meta::read(rest)?;
        let data_set = &rest[meta.length..];
        if data_set.is_empty() {
            return Err(if start == 0 && meta.length == 0 { Part10Error::NotDicom } else { Part10Error::Empty });
        }
        let declared = meta.transfer_syntax.is_some();
        let transfer_syntax = match meta.transfer_syntax {
            Some(uid) => uid,
            None => guess(data_set).ok_or(Part10Error::NotDicom)?,
        };
        Ok(Self {
            transfer_syntax,
            declared,
            data_set_offset: (start + meta.length) as u64,
            media_sop_class: meta.sop_class,
            media_sop_instance: meta.sop_instance,
        })
    }
}

#[derive(Default)]
struct Meta {
    length: usize,
    transfer_syntax: Option<Uid>,
    sop_class: Option<Uid>,
    sop_instance: Option<Uid>,
}

impl Meta {
    /// Elements of group 0002 for as long as there are any; their group length is often wrong and not used.
    fn read(bytes: &[u8]) -> Result<Self, Part10Error> {
        let mut meta = Self::default();
        let mut walker = Walker::new(Box::new(SliceSource::new(bytes)), Encoding::EXPLICIT_LITTLE);
        while bytes[meta.length..].starts_with(&META_GROUP.to_le_bytes()) {
            let token = walker.next().map_err(Part10Error::BrokenMeta)?;
            let Some(Token::Element(element)) = token else { return Err(Part10Error::NotDicom) };
            let value = walker.value(HEAD_BYTES).map_err(Part10Error::BrokenMeta)?;
            meta.length = usize::try_from(walker.position()).unwrap_or(bytes.len());
            let uid = Uid::from_value(&value).ok();
            match element.tag {
                Tag(META_GROUP, 0x0002) => meta.sop_class = uid,
                Tag(META_GROUP, 0x0003) => meta.sop_instance = uid,
                Tag(META_GROUP, 0x0010) => meta.transfer_syntax = uid,
                _ => {}
            }
        }
        Ok(meta)
    }
}

/// Guesses the syntax by the first element: groups of identification are small numbers, VRs are two letters.
fn guess(data_set: &[u8]) -> Option<Uid> {
    /// Data sets begin with group 0008, with command groups and the like at worst.
    const FIRST_GROUP_MAX: u16 = 0x0020;
    let head: &[u8; 8] = data_set.first_chunk()?;
    let explicit = VR::from_binary([head[4], head[5]]).is_some();
    let little = (1..=FIRST_GROUP_MAX).contains(&u16::from_le_bytes([head[0], head[1]]));
    let big = (1..=FIRST_GROUP_MAX).contains(&u16::from_be_bytes([head[0], head[1]]));
    let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    let fits = length == u32::MAX || usize::try_from(length).is_ok_and(|length| length < HEAD_BYTES);
    let syntax = match (explicit, little, big) {
        (true, true, _) => EXPLICIT_LITTLE,
        (true, false, true) => EXPLICIT_BIG,
        (false, true, _) if fits => IMPLICIT_LITTLE,
        _ => return None,
    };
    Uid::parse(syntax).ok()
}

/// Preamble and file meta group; the data set's bytes follow unchanged.
pub fn file_head(sop_class: &Uid, sop_instance: &Uid, transfer_syntax: &Uid, source: Option<&AeTitle>) -> Vec<u8> {
    let mut group = Vec::with_capacity(256);
    long_element(&mut group, 0x0001, META_VERSION);
    short_element(&mut group, 0x0002, *b"UI", sop_class.as_str(), 0);
    short_element(&mut group, 0x0003, *b"UI", sop_instance.as_str(), 0);
    short_element(&mut group, 0x0010, *b"UI", transfer_syntax.as_str(), 0);
    short_element(&mut group, 0x0012, *b"UI", IMPLEMENTATION_CLASS_UID, 0);
    short_element(&mut group, 0x0013, *b"SH", IMPLEMENTATION_VERSION, b' ');
    if let Some(source) = source {
        short_element(&mut group, 0x0016, *b"AE", source.as_str(), b' ');
    }
    let mut head = vec![0; PREAMBLE_BYTES];
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&tag_bytes(0x0000));
    head.extend_from_slice(b"UL\x04\0");
    // A few hundred bytes: eight elements of at most 64 characters.
    head.extend_from_slice(&(group.len() as u32).to_le_bytes());
    head.extend_from_slice(&group);
    head
}

fn tag_bytes(element: u16) -> [u8; 4] {
    let [group_low, group_high] = META_GROUP.to_le_bytes();
    let [low, high] = element.to_le_bytes();
    [group_low, group_high, low, high]
}

fn short_element(out: &mut Vec<u8>, element: u16, vr: [u8; 2], value: &str, padding: u8) {
    let odd = value.len() % 2;
    out.extend_from_slice(&tag_bytes(element));
    out.extend_from_slice(&vr);
    // Identifiers are at most 64 characters long.
    out.extend_from_slice(&((value.len() + odd) as u16).to_le_bytes());
    out.extend_from_slice(value.as_bytes());
    out.extend(std::iter::repeat_n(padding, odd));
}

fn long_element(out: &mut Vec<u8>, element: u16, value: &[u8]) {
    out.extend_from_slice(&tag_bytes(element));
    out.extend_from_slice(b"OB\0\0");
    out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::dicom::testing::DataSetBuilder;

    fn uid(text: &str) -> Uid {
        Uid::parse(text).expect("a UID of the test")
    }

    fn data_set(encoding: Encoding) -> Vec<u8> {
        let mut out = DataSetBuilder::new(encoding);
        out.text(0x0008, 0x0016, "UI", b"1.2.840.10008.5.1.4.1.1.2").text(0x0008, 0x0018, "UI", b"1.2.3");
        out.into_bytes()
    }

    fn head(syntax: &str) -> Vec<u8> {
        file_head(&uid("1.2.840.10008.5.1.4.1.1.2"), &uid("1.2.3"), &uid(syntax), AeTitle::parse("CT").ok().as_ref())
    }

    #[test]
    fn what_is_written_is_read() {
        let file = [head("1.2.840.10008.1.2.4.90"), data_set(Encoding::EXPLICIT_LITTLE)].concat();
        let mut file = Cursor::new(file);
        let (found, length) = Part10::open(&mut file).expect("opens");
        assert_eq!(found.transfer_syntax, uid("1.2.840.10008.1.2.4.90"));
        assert!(found.declared);
        assert_eq!(found.media_sop_instance, Some(uid("1.2.3")));
        assert_eq!(file.position(), found.data_set_offset);
        assert_eq!(length, data_set(Encoding::EXPLICIT_LITTLE).len() as u64);
    }

    #[test]
    fn incomplete_heads_are_guessed() {
        let explicit = data_set(Encoding::EXPLICIT_LITTLE);
        let implicit = data_set(Encoding::IMPLICIT_LITTLE);
        let big = data_set(Encoding::EXPLICIT_BIG);
        let whole = head(IMPLICIT_LITTLE);
        let table: [(&str, Vec<u8>, &str, usize); 7] = [
            ("bare explicit", explicit.clone(), EXPLICIT_LITTLE, 0),
            ("bare implicit", implicit.clone(), IMPLICIT_LITTLE, 0),
            ("bare big endian", big, EXPLICIT_BIG, 0),
            ("no preamble", [&whole[132..], &implicit].concat(), IMPLICIT_LITTLE, whole.len() - 132),
            ("magic only", [b"DICM", &explicit[..]].concat(), EXPLICIT_LITTLE, 4),
            ("no meta", [&whole[..132], &explicit].concat(), EXPLICIT_LITTLE, 132),
            ("no syntax", [&whole[..158], &implicit].concat(), IMPLICIT_LITTLE, 158),
        ];
        for (what, bytes, syntax, offset) in table {
            let found = Part10::locate(&bytes).expect(what);
            assert_eq!(found.transfer_syntax.as_str(), syntax, "{what}");
            assert_eq!(found.data_set_offset, offset as u64, "{what}");
        }
    }

    #[test]
    fn what_is_no_dicom_is_refused() {
        let whole = head(EXPLICIT_LITTLE);
        let table: [(&[u8], &str); 6] = [
            (b"", "this is no DICOM file"),
            (b"GIF89a, a picture of another kind", "this is no DICOM file"),
            (&[0; 4096], "this is no DICOM file"),
            (&whole, "the file ends before its data set begins"),
            (&whole[..150], "the file's meta information is broken or longer than 65536 bytes"),
            (&whole[..132], "the file ends before its data set begins"),
        ];
        for (bytes, expected) in table {
            assert_eq!(Part10::locate(bytes).expect_err(expected).to_string(), expected);
        }
    }
}
