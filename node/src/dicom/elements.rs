//! What the data dictionary (PS3.6) and the VR tables (PS3.5 sections 6.2 and 7.1.2) say of an element.
//! Pure look-ups: a tag or VR that the tables don't know gets the standard's answer for unknown ones.
//! Not for reading data sets.

use dicom_core::dictionary::{DataDictionary, DataDictionaryEntry, VirtualVr};
use dicom_core::header::{Tag, VR};
use dicom_dictionary_std::StandardDataDictionary;

pub const SPECIFIC_CHARACTER_SET: Tag = Tag(0x0008, 0x0005);
pub const PIXEL_REPRESENTATION: Tag = Tag(0x0028, 0x0103);
pub const FLOAT_PIXEL_DATA: Tag = Tag(0x7FE0, 0x0008);
pub const DOUBLE_FLOAT_PIXEL_DATA: Tag = Tag(0x7FE0, 0x0009);
pub const PIXEL_DATA: Tag = Tag(0x7FE0, 0x0010);
pub const DATA_SET_TRAILING_PADDING: Tag = Tag(0xFFFC, 0xFFFC);

/// The VR that the dictionary gives a tag; UN for private and unknown ones. Where the dictionary leaves a choice,
/// the choice for implicit little endian is taken (PS3.5 annex A.1), and US where signedness decides.
pub fn vr_of(tag: Tag) -> VR {
    match StandardDataDictionary.by_tag(tag).map(DataDictionaryEntry::vr) {
        Some(VirtualVr::Exact(vr)) => vr,
        Some(VirtualVr::Xs) => VR::US,
        Some(VirtualVr::Ox | VirtualVr::Px | VirtualVr::Lt) => VR::OW,
        _ => VR::UN,
    }
}

/// Whether Pixel Representation decides if the value is signed (US or SS).
pub fn is_signed_by_pixel_representation(tag: Tag) -> bool {
    matches!(StandardDataDictionary.by_tag(tag).map(DataDictionaryEntry::vr), Some(VirtualVr::Xs))
}

/// VRs whose explicit header has two reserved bytes and a 32-bit length.
pub fn has_long_length(vr: VR) -> bool {
    use VR::*;
    matches!(vr, OB | OD | OF | OL | OV | OW | SQ | SV | UC | UN | UR | UT | UV)
}

/// VRs to which Specific Character Set applies.
pub fn is_text(vr: VR) -> bool {
    use VR::*;
    matches!(vr, LO | LT | PN | SH | ST | UC | UT)
}

/// Text VRs in which a backslash does not part values.
pub fn is_single_valued_text(vr: VR) -> bool {
    matches!(vr, VR::LT | VR::ST | VR::UT | VR::UR)
}

/// Whether a tag holds the pixels of the object (at the top level; icons have pixel data of their own).
pub fn is_pixel_data(tag: Tag) -> bool {
    matches!(tag, PIXEL_DATA | FLOAT_PIXEL_DATA | DOUBLE_FLOAT_PIXEL_DATA)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vrs_of_tags() {
        let table = [
            (Tag(0x0010, 0x0010), VR::PN),
            (Tag(0x0008, 0x0000), VR::UL),
            (Tag(0x0028, 0x0106), VR::US),
            (Tag(0x7FE0, 0x0010), VR::OW),
            (Tag(0x6002, 0x3000), VR::OW),
            (Tag(0x0009, 0x0010), VR::LO),
            (Tag(0x0009, 0x1010), VR::UN),
            (Tag(0x0008, 0x1140), VR::SQ),
        ];
        for (tag, vr) in table {
            assert_eq!(vr_of(tag), vr, "{tag}");
        }
    }
}
