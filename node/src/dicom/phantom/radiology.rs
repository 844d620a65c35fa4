//! CT, MR and DX objects (PS3.3 annexes A.3, A.4, A.26): attributes of their modules, and pixels.
//!
//! Not for the bodies that they show, nor for ultrasound, which has frames and colour.

use dicom_core::header::VR;
use dicom_dictionary_std::tags;

use super::anatomy::{self, Build, Tissue};
use super::attributes::{Image, Plane, concept, draw, grey_pixels};
use super::element_writer::Elements;
use super::plan::Kind;
use super::texture::{mix_all, noise, texture};

/// Stored values are CT numbers shifted by this.
const CT_INTERCEPT: f32 = -1024.0;
const CT_SIZE: u16 = 512;
const MR_SIZE: u16 = 256;
const DX_ROWS: u16 = 2_200;
const DX_COLUMNS: u16 = 2_048;

/// The person behind an examination, as the anatomy needs it.
pub fn build(image: &Image<'_>) -> Build {
    let seed = mix_all(&[image.examination.person.index.into(), 8]);
    Build { seed, size: 0.94 + (seed % 100) as f32 * 0.0012 }
}

pub fn ct(image: &Image<'_>) -> Elements {
    let chest = image.examination.kind == Kind::CtChest;
    // The late series is thin and sharp; the others are thick and smooth.
    let thin = image.series.number > 1;
    let (kvp, current_ma, revolution_ms) = if chest { (120.0, 220, 500.0) } else { (120.0, 300, 1000.0) };
    let thickness_mm = if thin { 1.0 } else { 5.0 };
    let field_mm = if chest { 380.0 } else { 240.0 };
    let mut out = image.shared();
    out.text(tags::IMAGE_TYPE, "ORIGINAL\\PRIMARY\\AXIAL")
        .text(tags::PATIENT_POSITION, "HFS")
        .integer(tags::ACQUISITION_NUMBER, image.series.number.into())
        .text(tags::SCAN_OPTIONS, "HELICAL")
        .decimal(tags::KVP, kvp)
        .integer(tags::X_RAY_TUBE_CURRENT, current_ma)
        .integer(tags::EXPOSURE_TIME, revolution_ms as i64)
        .integer(tags::EXPOSURE, (current_ma as f64 * revolution_ms / 1000.0) as i64)
        .double(tags::REVOLUTION_TIME, revolution_ms / 1000.0)
        .double(tags::SPIRAL_PITCH_FACTOR, 0.9)
        .double(tags::CTD_IVOL, if chest { 8.4 } else { 48.0 })
        .decimal(tags::DATA_COLLECTION_DIAMETER, 500.0)
        .decimal(tags::RECONSTRUCTION_DIAMETER, field_mm)
        .decimal(tags::DISTANCE_SOURCE_TO_DETECTOR, 1085.6)
        .decimal(tags::DISTANCE_SOURCE_TO_PATIENT, 595.0)
        .decimal(tags::GANTRY_DETECTOR_TILT, 0.0)
        .decimal(tags::TABLE_HEIGHT, 160.0)
        .text(tags::ROTATION_DIRECTION, "CW")
        .text(tags::FILTER_TYPE, "BODY")
        .text(tags::CONVOLUTION_KERNEL, if thin { "B70f" } else { "B40f" });
    let (centre, width) = match (chest, thin) {
        (true, false) => (40.0, 400.0),
        (true, true) => (-600.0, 1500.0),
        (false, _) => (35.0, 80.0),
    };
    out.decimal(tags::WINDOW_CENTER, centre)
        .decimal(tags::WINDOW_WIDTH, width)
        .decimal(tags::RESCALE_INTERCEPT, CT_INTERCEPT.into())
        .decimal(tags::RESCALE_SLOPE, 1.0)
        .text(tags::RESCALE_TYPE, "HU");
    image.frame_of_reference(&mut out);
    let distance_mm = (if chest { 300.0 } else { 150.0 }) / f64::from(image.series.images.max(1));
    let spacing_mm = field_mm / f64::from(CT_SIZE);
    Plane { size: CT_SIZE, spacing_mm, thickness_mm, distance_mm }.write(&mut out, image.index);
    grey_pixels(&mut out, CT_SIZE, CT_SIZE, 12);
    out.pixels(VR::OW, ct_pixels(image, chest, if thin { 28.0 } else { 9.0 }));
    out
}

fn ct_pixels(image: &Image<'_>, chest: bool, noise_hu: f32) -> Vec<u8> {
    let (build, z) = (build(image), image.place());
    let seed = mix_all(&[image.examination.seed, image.series.number.into(), image.index.into()]);
    draw(CT_SIZE, CT_SIZE, |x, y, column, row| {
        // The scanner reconstructs a circle.
        if x * x + y * y > 1.0 {
            return 0.0;
        }
        let value =
            if chest { anatomy::chest(build, x, y, z) } else { anatomy::head_ct(anatomy::head(build, x, y, z)) };
        // Reconstructed noise has a grain of more than one pixel.
        let grain = 0.7 * noise(seed, column, row) + 0.5 * noise(seed ^ 1, column / 2, row / 2);
        value + noise_hu * grain - CT_INTERCEPT
    })
}

pub fn mr(image: &Image<'_>) -> Elements {
    let t2 = image.series.number == 2;
    let (repetition_ms, echo_ms, echoes, flip) = if t2 { (4000.0, 98.0, 15, 150.0) } else { (480.0, 12.0, 1, 90.0) };
    let mut out = image.shared();
    out.text(tags::IMAGE_TYPE, "ORIGINAL\\PRIMARY\\M\\ND")
        .text(tags::PATIENT_POSITION, "HFS")
        .text(tags::SCANNING_SEQUENCE, "SE")
        .text(tags::SEQUENCE_VARIANT, if t2 { "SK\\SP" } else { "SP" })
        .empty(tags::SCAN_OPTIONS)
        .text(tags::MR_ACQUISITION_TYPE, "2D")
        .text(tags::SEQUENCE_NAME, if t2 { "*tse2d1_15" } else { "*se2d1" })
        .decimal(tags::REPETITION_TIME, repetition_ms)
        .decimal(tags::ECHO_TIME, echo_ms)
        .integer(tags::ECHO_TRAIN_LENGTH, echoes)
        .text(tags::ECHO_NUMBERS, "1")
        .decimal(tags::FLIP_ANGLE, flip)
        .decimal(tags::NUMBER_OF_AVERAGES, 2.0)
        .decimal(tags::MAGNETIC_FIELD_STRENGTH, 1.5)
        .decimal(tags::IMAGING_FREQUENCY, 63.6621)
        .text(tags::IMAGED_NUCLEUS, "1H")
        .text(tags::RECEIVE_COIL_NAME, "HEAD_20CH")
        .text(tags::TRANSMIT_COIL_NAME, "BODY")
        .integer(tags::NUMBER_OF_PHASE_ENCODING_STEPS, 230)
        .decimal(tags::PERCENT_SAMPLING, 90.0)
        .decimal(tags::PERCENT_PHASE_FIELD_OF_VIEW, 100.0)
        .decimal(tags::PIXEL_BANDWIDTH, 130.0)
        .shorts(tags::ACQUISITION_MATRIX, &[0, 256, 230, 0])
        .text(tags::IN_PLANE_PHASE_ENCODING_DIRECTION, "ROW")
        .decimal(tags::SAR, 0.8)
        .integer(tags::ACQUISITION_NUMBER, 1)
        .decimal(tags::WINDOW_CENTER, 600.0)
        .decimal(tags::WINDOW_WIDTH, 1200.0);
    image.frame_of_reference(&mut out);
    let distance_mm = 144.0 / f64::from(image.series.images.max(1));
    let plane = Plane { size: MR_SIZE, spacing_mm: 230.0 / f64::from(MR_SIZE), thickness_mm: 5.0, distance_mm };
    plane.write(&mut out, image.index);
    grey_pixels(&mut out, MR_SIZE, MR_SIZE, 12);
    out.pixels(VR::OW, mr_pixels(image, t2));
    out
}

fn mr_signal(tissue: Tissue, t2: bool) -> f32 {
    match (tissue, t2) {
        (Tissue::Air, _) => 0.0,
        (Tissue::Scalp, false) => 1150.0,
        (Tissue::Scalp, true) => 700.0,
        (Tissue::Bone, _) => 70.0,
        (Tissue::Fluid | Tissue::Eye, false) => 190.0,
        (Tissue::Fluid | Tissue::Eye, true) => 1250.0,
        (Tissue::Grey, false) => 520.0,
        (Tissue::Grey, true) => 620.0,
        (Tissue::White, false) => 700.0,
        (Tissue::White, true) => 440.0,
    }
}

fn mr_pixels(image: &Image<'_>, t2: bool) -> Vec<u8> {
    let (build, z) = (build(image), image.place());
    let seed = mix_all(&[image.examination.seed, image.series.number.into(), image.index.into()]);
    draw(MR_SIZE, MR_SIZE, |x, y, column, row| {
        let half = 0.5 / f32::from(MR_SIZE);
        // Four points of the pixel: thick slices blur borders.
        let points = [(-half, -half), (half, -half), (-half, half), (half, half)];
        let signal: f32 = points.iter().map(|(dx, dy)| mr_signal(anatomy::head(build, x + dx, y + dy, z), t2)).sum();
        // The coil sees its surroundings unevenly; magnitude images have no negative noise.
        let bias = 1.0 + 0.12 * texture(build.seed ^ 41, x * 1.2, y * 1.2, z);
        let real = signal / 4.0 * bias + 16.0 * noise(seed, column, row);
        real.hypot(16.0 * noise(seed ^ 1, column, row))
    })
}

pub fn dx(image: &Image<'_>) -> Elements {
    let mut out = image.shared();
    out.text(tags::IMAGE_TYPE, "ORIGINAL\\PRIMARY")
        .text(tags::PRESENTATION_INTENT_TYPE, "FOR PRESENTATION")
        .text(tags::VIEW_POSITION, "PA")
        .text(tags::PATIENT_ORIENTATION, "L\\F")
        .text(tags::IMAGE_LATERALITY, "U")
        .item(tags::ANATOMIC_REGION_SEQUENCE, |item| concept(item, ("51185008", "SCT", "Chest")))
        .item(tags::VIEW_CODE_SEQUENCE, |item| concept(item, ("272479007", "SCT", "Postero-anterior")))
        .text(tags::POSITIONER_TYPE, "NONE")
        .decimal(tags::KVP, 125.0)
        .integer(tags::X_RAY_TUBE_CURRENT, 250)
        .integer(tags::EXPOSURE_TIME, 10)
        .integer(tags::EXPOSURE, 3)
        .integer(tags::EXPOSURE_INU_AS, 2500)
        .decimal(tags::DISTANCE_SOURCE_TO_DETECTOR, 1800.0)
        .text(tags::GRID, "FIXED")
        .decimal(tags::IMAGE_AND_FLUOROSCOPY_AREA_DOSE_PRODUCT, 0.9)
        .text(tags::DETECTOR_TYPE, "DIRECT")
        .text(tags::DETECTOR_CONFIGURATION, "AREA")
        .text(tags::DETECTOR_ID, "DR0001")
        .integer(tags::ACQUISITION_NUMBER, 1)
        .decimals(tags::IMAGER_PIXEL_SPACING, &[0.168, 0.168])
        .decimals(tags::PIXEL_SPACING, &[0.16, 0.16])
        .text(tags::PIXEL_INTENSITY_RELATIONSHIP, "LOG")
        .text(tags::PRESENTATION_LUT_SHAPE, "IDENTITY")
        .decimal(tags::RESCALE_INTERCEPT, 0.0)
        .decimal(tags::RESCALE_SLOPE, 1.0)
        .text(tags::RESCALE_TYPE, "US")
        .decimal(tags::WINDOW_CENTER, 2048.0)
        .decimal(tags::WINDOW_WIDTH, 4096.0)
        .no_items(tags::ACQUISITION_CONTEXT_SEQUENCE)
        .signed_short(tags::PIXEL_INTENSITY_RELATIONSHIP_SIGN, 1);
    grey_pixels(&mut out, DX_ROWS, DX_COLUMNS, 12);
    let (build, seed) = (build(image), image.examination.seed);
    let pixels = draw(DX_ROWS, DX_COLUMNS, |x, y, column, row| {
        let shade = anatomy::chest_shadow(build, x, y);
        // Fewer photons reach the detector where it is bright.
        200.0 + 3500.0 * shade + (18.0 + 25.0 * shade) * noise(seed, column, row)
    });
    out.pixels(VR::OW, pixels);
    out
}
