//! The facts of an object: what the catalogue, the crosswalk and the ledger need to know of a data set.
//!
//! One walk gathers raw values into bounded memory, whatever the object's size; pixels are skipped. Then the
//! character set is judged over all text seen, and the values become checked types.
//!
//! A data set is refused only when it can't be filed: no data set at all, or one of its four UIDs is missing or
//! no UID. Damage behind the UIDs (cut off, lengths that contradict) is reported in `damage`, and the caller
//! decides: a modality's queue must not jam for it, but a manifest should not speak of such an object as sound.

use std::collections::BTreeMap;

use dicom_core::header::{Tag, VR};

use super::charset::{CharsetPolicy, CharsetVerdict, Samples, TextKind, name_groups};
use super::elements::{self, SPECIFIC_CHARACTER_SET};
use super::facts::{
    Damage, DicomDate, InstanceFacts, ObjectFacts, PatientFacts, PersonName, PixelFacts, SeriesFacts, StudyFacts,
};
use super::identifiers::{Uid, UidError};
use super::source::{self, Source};
use super::syntax::{ByteOrder, TransferSyntax};
use super::walk::{Element, Token, WalkError, Walker};

/// Bytes of one value that are looked at; the longest VR used here (LO in multi-byte sets) stays below.
const VALUE_BYTES_MAX: usize = 1024;

/// Why a data set can't be filed.
#[derive(Debug, thiserror::Error)]
pub enum DataSetError {
    #[error("this is no DICOM data set")]
    NotADataSet(#[source] Option<WalkError>),
    #[error("the data set is broken before its {missing} was found")]
    Broken {
        missing: &'static str,
        #[source]
        source: WalkError,
    },
    #[error("the data set has no {name}")]
    MissingUid { name: &'static str },
    #[error("the {name} of the data set is no UID")]
    InvalidUid {
        name: &'static str,
        #[source]
        source: UidError,
    },
    /// The disk failed, so nothing can be said of the data set.
    #[error("the data set could not be read")]
    Unreadable(#[source] std::io::Error),
}

impl DataSetError {
    /// Whether the bytes themselves are the reason, and not the disk that they were read from.
    pub fn is_of_the_bytes(&self) -> bool {
        !matches!(self, Self::Unreadable(_))
    }
}

impl ObjectFacts {
    /// Facts of a data set in memory.
    pub fn of(bytes: &[u8], syntax: &TransferSyntax, policy: &CharsetPolicy) -> Result<Self, DataSetError> {
        Self::read(source::in_memory(bytes, syntax), syntax, policy)
    }

    /// Facts of a data set from any source, walked to its end.
    pub fn read(
        source: Box<dyn Source + '_>,
        syntax: &TransferSyntax,
        policy: &CharsetPolicy,
    ) -> Result<Self, DataSetError> {
        let mut gathered = Gathered::default();
        let mut walker = Walker::new(source, syntax.encoding());
        let error = match gathered.walk(&mut walker) {
            Err(WalkError::Read(error)) => return Err(DataSetError::Unreadable(error)),
            walked => walked.err(),
        };
        let values = gathered.judged(policy);
        let (uids, error) = match values.uids() {
            Ok(uids) => (uids, error),
            Err(missing) => return Err(explain(missing, error, values.saw_known)),
        };
        let [sop_class, sop_instance, study_instance, series_instance] = uids;
        let mut facts = Self {
            sop_class,
            sop_instance,
            study_instance,
            series_instance,
            patient: values.patient(),
            study: values.study(),
            series: values.series(),
            instance: values.instance(),
            pixels: values.pixels,
            charset: values.charset,
            damage: None,
        };
        facts.damage = match error {
            Some(error) => Some(Damage::broken(&error)),
            None => facts.short_pixels(),
        };
        Ok(facts)
    }

    /// Bytes that native pixel data must have; `None` where the attributes are missing.
    fn native_bytes(&self) -> Option<u64> {
        let image = &self.instance;
        let samples = u64::from(image.rows?) * u64::from(image.columns?) * u64::from(image.samples_per_pixel?);
        let bits = samples.checked_mul(image.bits_allocated?.into())?.checked_mul(image.frames.into())?;
        // YBR_FULL_422 shares two chroma samples between two pixels.
        let bits = if image.photometric_interpretation == "YBR_FULL_422" { bits / 3 * 2 } else { bits };
        Some(bits.div_ceil(8))
    }

    fn short_pixels(&self) -> Option<Damage> {
        let found_bytes = self.pixels?.length?.into();
        let expected_bytes = self.native_bytes()?;
        (found_bytes < expected_bytes).then_some(Damage::ShortPixels { expected_bytes, found_bytes })
    }
}

impl Damage {
    fn broken(error: &WalkError) -> Self {
        Self::Broken { reason: error.to_string(), truncated: matches!(error, WalkError::Truncated { .. }) }
    }
}

fn explain(missing: DataSetError, error: Option<WalkError>, saw_known: bool) -> DataSetError {
    match (missing, error) {
        (_, error) if !saw_known => DataSetError::NotADataSet(error),
        (DataSetError::MissingUid { name }, Some(source)) => DataSetError::Broken { missing: name, source },
        (missing, _) => missing,
    }
}

/// Raw values of the top level, each with its byte order. Only tags of [`is_wanted`] are kept, each once and cut to
/// [`VALUE_BYTES_MAX`], so that no data set makes this larger than some fifty short values.
#[derive(Default)]
struct Gathered {
    values: BTreeMap<Tag, (Vec<u8>, ByteOrder)>,
    samples: Samples,
    pixels: Option<PixelFacts>,
    saw_known: bool,
}

mod tags {
    use super::Tag;

    pub const PATIENT_NAME: Tag = Tag(0x0010, 0x0010);
    pub const REFERRING_PHYSICIAN: Tag = Tag(0x0008, 0x0090);
}

/// Top-level elements kept; the groups that hold them are walked in any case.
fn is_wanted(tag: Tag) -> bool {
    match tag.0 {
        0x0008 => matches!(
            tag.1,
            0x0005
                | 0x0008
                | 0x0016
                | 0x0018
                | 0x0020
                | 0x0022
                | 0x0030
                | 0x0032
                | 0x0050
                | 0x0060
                | 0x0070
                | 0x0080
                | 0x0090
                | 0x1010
                | 0x1030
                | 0x103E
                | 0x1090
        ),
        0x0010 => matches!(tag.1, 0x0010 | 0x0020 | 0x0021 | 0x0030 | 0x0040 | 0x1010),
        0x0018 => matches!(tag.1, 0x0015 | 0x1000 | 0x1030),
        0x0020 => matches!(tag.1, 0x000D | 0x000E | 0x0010 | 0x0011 | 0x0013 | 0x0060 | 0x0062),
        0x0028 => matches!(tag.1, 0x0002 | 0x0004 | 0x0008 | 0x0010 | 0x0011 | 0x0100 | 0x0101 | 0x0103),
        0x0070 => tag.1 == 0x0080,
        _ => false,
    }
}

impl Gathered {
    fn walk(&mut self, walker: &mut Walker<'_>) -> Result<(), WalkError> {
        // One entry for each open sequence: whether its item has a character set of its own.
        let mut open: Vec<bool> = Vec::new();
        while let Some(token) = walker.next()? {
            match token {
                Token::SequenceStart(_) => open.push(false),
                Token::SequenceEnd => {
                    open.pop();
                }
                Token::ItemStart => {
                    if let Some(own_set) = open.last_mut() {
                        *own_set = false;
                    }
                }
                Token::Element(element) => {
                    if let Some(own_set) = open.last_mut() {
                        *own_set |= element.tag == SPECIFIC_CHARACTER_SET;
                    }
                    self.element(walker, &element, open.is_empty(), !open.contains(&true))?;
                }
                Token::FragmentsStart(element) if open.is_empty() && elements::is_pixel_data(element.tag) => {
                    self.found_pixels(&element);
                }
                Token::Fragment { .. } if open.is_empty() => {
                    // The first fragment is the offset table; it starts the count at zero.
                    if let Some(pixels) = &mut self.pixels {
                        pixels.fragments = pixels.fragments.saturating_add(1);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn element(
        &mut self,
        walker: &mut Walker<'_>,
        element: &Element,
        at_top: bool,
        judged: bool,
    ) -> Result<(), WalkError> {
        if at_top {
            self.saw_known |= element.tag.1 != 0 && elements::vr_of(element.tag) != VR::UN;
            if elements::is_pixel_data(element.tag) {
                self.found_pixels(element);
                return Ok(());
            }
        }
        let text = elements::is_text(element.vr);
        let wanted = at_top && is_wanted(element.tag);
        if !wanted && !text {
            return Ok(());
        }
        let value = walker.value_head(VALUE_BYTES_MAX)?;
        if text && judged {
            self.samples.add(&value, kind_of(element.vr));
        }
        if wanted {
            // The first of repeated elements counts.
            self.values.entry(element.tag).or_insert((value, element.order));
        }
        Ok(())
    }

    fn found_pixels(&mut self, element: &Element) {
        let Tag(group, number) = element.tag;
        self.pixels.get_or_insert(PixelFacts {
            group,
            element: number,
            offset: element.offset,
            length: element.length,
            fragments: 0,
        });
    }

    fn judged(self, policy: &CharsetPolicy) -> Values {
        let declared = self.values.get(&SPECIFIC_CHARACTER_SET).map_or(&[][..], |(value, _)| value);
        let charset = CharsetVerdict::of(declared, policy, &self.samples);
        let pixels = self.pixels.map(|pixels| PixelFacts { fragments: pixels.fragments.saturating_sub(1), ..pixels });
        Values { raw: self.values, charset, pixels, saw_known: self.saw_known }
    }
}

/// The text kind of a VR.
pub fn kind_of(vr: VR) -> TextKind {
    match vr {
        VR::PN => TextKind::Name,
        vr if elements::is_single_valued_text(vr) => TextKind::Lines,
        _ => TextKind::Values,
    }
}

/// Raw values with the character set to read them by.
struct Values {
    raw: BTreeMap<Tag, (Vec<u8>, ByteOrder)>,
    charset: CharsetVerdict,
    pixels: Option<PixelFacts>,
    saw_known: bool,
}

impl Values {
    /// SOP class, SOP instance, study, series.
    fn uids(&self) -> Result<[Uid; 4], DataSetError> {
        Ok([
            self.uid(Tag(0x0008, 0x0016), "SOP Class UID")?,
            self.uid(Tag(0x0008, 0x0018), "SOP Instance UID")?,
            self.uid(Tag(0x0020, 0x000D), "Study Instance UID")?,
            self.uid(Tag(0x0020, 0x000E), "Series Instance UID")?,
        ])
    }

    fn uid(&self, tag: Tag, name: &'static str) -> Result<Uid, DataSetError> {
        match self.raw.get(&tag) {
            None => Err(DataSetError::MissingUid { name }),
            Some((value, _)) => match Uid::from_value(value) {
                Ok(uid) => Ok(uid),
                Err(UidError::Empty) => Err(DataSetError::MissingUid { name }),
                Err(source) => Err(DataSetError::InvalidUid { name, source }),
            },
        }
    }

    fn bytes(&self, tag: Tag) -> &[u8] {
        self.raw.get(&tag).map_or(&[], |(value, _)| value)
    }

    /// A value as text, all of its parts.
    fn text(&self, group: u16, element: u16) -> String {
        self.charset.used().text(self.bytes(Tag(group, element)), TextKind::Values)
    }

    fn name(&self, tag: Tag) -> PersonName {
        let raw = self.bytes(tag);
        let text = self.charset.used().text(raw, TextKind::Name);
        let first = text.split('\\').next().unwrap_or_default();
        // Empty trailing components say nothing.
        let [alphabetic, ideographic, phonetic] =
            name_groups(first).map(|group| group.trim_end_matches('^').to_owned());
        PersonName { raw: raw.to_vec(), alphabetic, ideographic, phonetic }
    }

    fn date(&self, group: u16, element: u16) -> Option<DicomDate> {
        DicomDate::parse(&self.text(group, element))
    }

    fn integer(&self, group: u16, element: u16) -> Option<i32> {
        self.text(group, element).split('\\').next()?.trim().parse().ok()
    }

    fn unsigned(&self, group: u16, element: u16) -> Option<u16> {
        let (value, order) = self.raw.get(&Tag(group, element))?;
        value.first_chunk().map(|bytes| order.u16(*bytes))
    }

    fn patient(&self) -> PatientFacts {
        PatientFacts {
            id: self.text(0x0010, 0x0020),
            issuer: self.text(0x0010, 0x0021),
            name: self.name(tags::PATIENT_NAME),
            sex: self.text(0x0010, 0x0040),
            birth_date: self.date(0x0010, 0x0030),
            age: self.text(0x0010, 0x1010),
        }
    }

    fn study(&self) -> StudyFacts {
        StudyFacts {
            id: self.text(0x0020, 0x0010),
            date: self.date(0x0008, 0x0020),
            time: self.text(0x0008, 0x0030),
            accession_number: self.text(0x0008, 0x0050),
            description: self.text(0x0008, 0x1030),
            referring_physician: self.name(tags::REFERRING_PHYSICIAN),
        }
    }

    fn series(&self) -> SeriesFacts {
        let laterality = self.text(0x0020, 0x0060);
        SeriesFacts {
            modality: self.text(0x0008, 0x0060),
            number: self.integer(0x0020, 0x0011),
            description: self.text(0x0008, 0x103E),
            body_part: self.text(0x0018, 0x0015),
            laterality: if laterality.is_empty() { self.text(0x0020, 0x0062) } else { laterality },
            protocol: self.text(0x0018, 0x1030),
            institution: self.text(0x0008, 0x0080),
            station: self.text(0x0008, 0x1010),
            manufacturer: self.text(0x0008, 0x0070),
            model: self.text(0x0008, 0x1090),
            device_serial_number: self.text(0x0018, 0x1000),
        }
    }

    fn instance(&self) -> InstanceFacts {
        let frames = self.text(0x0028, 0x0008).parse().ok();
        InstanceFacts {
            number: self.integer(0x0020, 0x0013),
            acquisition_date: self.date(0x0008, 0x0022),
            acquisition_time: self.text(0x0008, 0x0032),
            image_type: self.text(0x0008, 0x0008),
            frames: frames.filter(|count| *count > 0).unwrap_or(1),
            rows: self.unsigned(0x0028, 0x0010),
            columns: self.unsigned(0x0028, 0x0011),
            samples_per_pixel: self.unsigned(0x0028, 0x0002),
            bits_allocated: self.unsigned(0x0028, 0x0100),
            bits_stored: self.unsigned(0x0028, 0x0101),
            pixel_representation: self.unsigned(0x0028, 0x0103),
            photometric_interpretation: self.text(0x0028, 0x0004),
            content_label: self.text(0x0070, 0x0080),
        }
    }
}

#[cfg(test)]
#[path = "dataset_tests.rs"]
mod tests;
