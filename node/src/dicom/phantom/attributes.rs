//! The modules that all generated objects share: patient, study, series, equipment, SOP common (PS3.3 annex C), with
//! everything that R-D3 asks an image to carry.
//! Not for pixels, nor for what only one modality has.

use dicom_dictionary_std::tags;

use super::element_writer::Elements;
use super::plan::{Examination, Series};

/// One image of a series.
#[derive(Debug, Clone, Copy)]
pub struct Image<'a> {
    pub examination: &'a Examination,
    pub series: &'a Series,
    /// From 0.
    pub index: u32,
}

/// Threads that draw one image.
const THREADS_MAX: usize = 8;

/// A coded concept: value, scheme, meaning.
pub type Concept = (&'static str, &'static str, &'static str);

pub fn concept(item: &mut Elements, (value, scheme, meaning): Concept) {
    item.text(tags::CODE_VALUE, value).text(tags::CODING_SCHEME_DESIGNATOR, scheme).text(tags::CODE_MEANING, meaning);
}

impl Image<'_> {
    /// A data set with the shared modules.
    pub fn shared(&self) -> Elements {
        let mut out = Elements::new(self.examination.hospital.characters);
        self.sop_common(&mut out);
        self.patient(&mut out);
        self.study(&mut out);
        self.series_and_equipment(&mut out);
        out
    }

    fn sop_common(&self, out: &mut Elements) {
        let Image { examination, series, index } = self;
        out.text(tags::SPECIFIC_CHARACTER_SET, examination.hospital.characters.declaration())
            .text(tags::SOP_CLASS_UID, examination.kind.sop_class())
            .text(tags::SOP_INSTANCE_UID, series.instance_uid(*index))
            .text(tags::INSTANCE_CREATION_DATE, &examination.date)
            .text(tags::INSTANCE_CREATION_TIME, self.time())
            .text(tags::TIMEZONE_OFFSET_FROM_UTC, "+0800")
            .integer(tags::INSTANCE_NUMBER, i64::from(*index) + 1)
            .text(tags::CONTENT_DATE, &examination.date)
            .text(tags::CONTENT_TIME, self.time())
            .text(tags::ACQUISITION_DATE, &examination.date)
            .text(tags::ACQUISITION_TIME, self.time())
            .text(tags::LOSSY_IMAGE_COMPRESSION, "00")
            .text(tags::BURNED_IN_ANNOTATION, "NO");
    }

    fn patient(&self, out: &mut Elements) {
        let Examination { person, hospital, patient_id, .. } = self.examination;
        let (year, month, day) = self.examination.day();
        out.text(tags::PATIENT_NAME, person.name())
            .text(tags::PATIENT_ID, patient_id)
            .text(tags::ISSUER_OF_PATIENT_ID, &hospital.issuer)
            .text(tags::PATIENT_BIRTH_DATE, person.birth_date())
            .text(tags::PATIENT_SEX, person.sex())
            .text(tags::PATIENT_AGE, person.age(year, month, day))
            .decimal(tags::PATIENT_WEIGHT, person.weight_kg());
    }

    fn study(&self, out: &mut Elements) {
        let Examination { study_uid, date, time, accession, kind, .. } = self.examination;
        out.text(tags::STUDY_INSTANCE_UID, study_uid)
            .text(tags::STUDY_DATE, date)
            .text(tags::STUDY_TIME, time)
            .text(tags::ACCESSION_NUMBER, accession)
            .text(tags::STUDY_ID, accession)
            .text(tags::STUDY_DESCRIPTION, kind.description())
            .text(tags::REFERRING_PHYSICIAN_NAME, "Ceshi^Yishi=测试^医师")
            .item(tags::PROCEDURE_CODE_SEQUENCE, |item| concept(item, kind.procedure()));
    }

    fn series_and_equipment(&self, out: &mut Elements) {
        let Image { examination, series, .. } = self;
        let Examination { kind, hospital, date, time, .. } = examination;
        let (manufacturer, model) = kind.equipment();
        out.text(tags::MODALITY, kind.modality())
            .text(tags::SERIES_INSTANCE_UID, &series.uid)
            .integer(tags::SERIES_NUMBER, series.number.into())
            .text(tags::SERIES_DATE, date)
            .text(tags::SERIES_TIME, time)
            .text(tags::SERIES_DESCRIPTION, &series.description)
            .text(tags::PROTOCOL_NAME, kind.description())
            .text(tags::BODY_PART_EXAMINED, kind.body_part())
            .text(tags::OPERATORS_NAME, "Ceshi^Jishi=测试^技师")
            .text(tags::MANUFACTURER, manufacturer)
            .text(tags::MANUFACTURER_MODEL_NAME, model)
            .text(tags::INSTITUTION_NAME, hospital.name())
            .text(tags::INSTITUTIONAL_DEPARTMENT_NAME, "放射科")
            .text(tags::STATION_NAME, format!("{}-{}", kind.modality(), hospital.index + 1))
            .text(tags::DEVICE_SERIAL_NUMBER, format!("{}{:04}", kind.modality(), hospital.index + 1))
            .text(tags::SOFTWARE_VERSIONS, "PHANTOM 1");
    }

    /// Images follow each other by a second.
    fn time(&self) -> String {
        let (hour, minute) = self.examination.clock();
        let second = self.index + 5 * u32::from(self.series.number);
        let total = (u32::from(hour) * 3600 + u32::from(minute) * 60 + second).min(86_399);
        format!("{:02}{:02}{:02}", total / 3600, total / 60 % 60, total % 60)
    }

    /// The frame of reference that the series of a study share.
    pub fn frame_of_reference(&self, out: &mut Elements) {
        out.text(tags::FRAME_OF_REFERENCE_UID, self.examination.frame_of_reference())
            .empty(tags::POSITION_REFERENCE_INDICATOR);
    }

    /// Position in the series from 0 (first image) to 1 (last).
    pub fn place(&self) -> f32 {
        self.index as f32 / (self.series.images.max(2) - 1) as f32
    }
}

/// Transverse slices, stacked along z.
pub struct Plane {
    pub size: u16,
    pub spacing_mm: f64,
    pub thickness_mm: f64,
    pub distance_mm: f64,
}

impl Plane {
    /// The image plane module (PS3.3 C.7.6.2).
    pub fn write(&self, out: &mut Elements, index: u32) {
        let half = f64::from(self.size) * self.spacing_mm / 2.0 - self.spacing_mm / 2.0;
        let z = f64::from(index) * self.distance_mm;
        out.decimals(tags::PIXEL_SPACING, &[self.spacing_mm, self.spacing_mm])
            .decimals(tags::IMAGE_ORIENTATION_PATIENT, &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0])
            .decimals(tags::IMAGE_POSITION_PATIENT, &[-half, -half, z])
            .decimal(tags::SLICE_LOCATION, z)
            .decimal(tags::SLICE_THICKNESS, self.thickness_mm)
            .decimal(tags::SPACING_BETWEEN_SLICES, self.distance_mm)
            .text(tags::PATIENT_ORIENTATION, "L\\P");
    }
}

/// The image pixel module for grey images of 16 bits allocated (PS3.3 C.7.6.3).
pub fn grey_pixels(out: &mut Elements, rows: u16, columns: u16, bits_stored: u16) {
    out.short(tags::SAMPLES_PER_PIXEL, 1)
        .text(tags::PHOTOMETRIC_INTERPRETATION, "MONOCHROME2")
        .short(tags::ROWS, rows)
        .short(tags::COLUMNS, columns)
        .short(tags::BITS_ALLOCATED, 16)
        .short(tags::BITS_STORED, bits_stored)
        .short(tags::HIGH_BIT, bits_stored - 1)
        .short(tags::PIXEL_REPRESENTATION, 0);
}

/// Pixels drawn one by one from coordinates between -1 and 1, stored as little endian words. Bands of rows are drawn
/// side by side, which changes nothing, since each pixel depends on its place only.
pub fn draw(rows: u16, columns: u16, pixel: impl Fn(f32, f32, usize, usize) -> f32 + Sync) -> Vec<u8> {
    let (rows, columns) = (usize::from(rows), usize::from(columns));
    let mut bytes = vec![0; rows * columns * 2];
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    let band_rows = rows.div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        for (band, out) in bytes.chunks_mut(band_rows * columns * 2).enumerate() {
            let pixel = &pixel;
            scope.spawn(move || {
                for (index, word) in out.chunks_exact_mut(2).enumerate() {
                    let (row, column) = (band * band_rows + index / columns, index % columns);
                    let (x, y) = (unit(column, columns), unit(row, rows));
                    // Twelve bits are stored; the cast cuts fractions.
                    let value = pixel(x, y, column, row).clamp(0.0, 4095.0) as u16;
                    word.copy_from_slice(&value.to_le_bytes());
                }
            });
        }
    });
    bytes
}

fn unit(at: usize, count: usize) -> f32 {
    2.0 * at as f32 / count as f32 - 1.0
}
