//! Ultrasound clips (PS3.3 annex A.7): colour frames of a convex probe over a liver that breathes.
//!
//! Not for still images: multi-frame objects are here because they are the large ones.

use dicom_core::header::VR;
use dicom_dictionary_std::tags;

use super::attributes::Image;
use super::element_writer::Elements;
use super::radiology::build;
use super::texture::{Ellipse, mix_all, noise, rise, texture};

const ROWS: u16 = 480;
const COLUMNS: u16 = 640;
const FRAMES: u16 = 12;
const FRAME_TIME_MS: f64 = 40.0;

/// The fan: where its rays meet, the angles of its sides, the radii of the probe and of the deepest echo, in pixels.
const APEX: (f32, f32) = (320.0, -90.0);
const HALF_ANGLE: f32 = 0.62;
const RADII: (f32, f32) = (130.0, 540.0);
/// Depth of one pixel, in centimetres.
const CM_PER_PIXEL: f64 = 0.04;

pub fn clip(image: &Image<'_>) -> Elements {
    let mut out = image.shared();
    out.text(tags::IMAGE_TYPE, "ORIGINAL\\PRIMARY\\ABDOMINAL\\0001")
        .empty(tags::PATIENT_ORIENTATION)
        .text(tags::TRANSDUCER_TYPE, "CURVED LINEAR")
        .text(tags::TRANSDUCER_DATA, "C5-1")
        .integer(tags::NUMBER_OF_FRAMES, FRAMES.into())
        .pointer(tags::FRAME_INCREMENT_POINTER, tags::FRAME_TIME)
        .decimal(tags::FRAME_TIME, FRAME_TIME_MS)
        .integer(tags::CINE_RATE, (1000.0 / FRAME_TIME_MS) as i64)
        .short(tags::ULTRASOUND_COLOR_DATA_PRESENT, 0)
        .short(tags::SAMPLES_PER_PIXEL, 3)
        .text(tags::PHOTOMETRIC_INTERPRETATION, "RGB")
        .short(tags::PLANAR_CONFIGURATION, 0)
        .short(tags::ROWS, ROWS)
        .short(tags::COLUMNS, COLUMNS)
        .short(tags::BITS_ALLOCATED, 8)
        .short(tags::BITS_STORED, 8)
        .short(tags::HIGH_BIT, 7)
        .short(tags::PIXEL_REPRESENTATION, 0)
        .item(tags::SEQUENCE_OF_ULTRASOUND_REGIONS, |region| {
            region
                .short(tags::REGION_SPATIAL_FORMAT, 1)
                .short(tags::REGION_DATA_TYPE, 1)
                .long(tags::REGION_FLAGS, 0)
                .long(tags::REGION_LOCATION_MIN_X0, 0)
                .long(tags::REGION_LOCATION_MIN_Y0, 0)
                .long(tags::REGION_LOCATION_MAX_X1, u32::from(COLUMNS) - 1)
                .long(tags::REGION_LOCATION_MAX_Y1, u32::from(ROWS) - 1)
                .signed_long(tags::REFERENCE_PIXEL_X0, 320)
                .signed_long(tags::REFERENCE_PIXEL_Y0, 40)
                .short(tags::PHYSICAL_UNITS_X_DIRECTION, 3)
                .short(tags::PHYSICAL_UNITS_Y_DIRECTION, 3)
                .double(tags::PHYSICAL_DELTA_X, CM_PER_PIXEL)
                .double(tags::PHYSICAL_DELTA_Y, CM_PER_PIXEL);
        });
    out.pixels(VR::OB, pixels(image));
    out
}

fn pixels(image: &Image<'_>) -> Vec<u8> {
    let (seed, body) = (mix_all(&[image.examination.seed, 51]), build(image).seed);
    let mut bytes = Vec::with_capacity(usize::from(FRAMES) * usize::from(ROWS) * usize::from(COLUMNS) * 3);
    for frame in 0..FRAMES {
        let breath = (f32::from(frame) / f32::from(FRAMES) * std::f32::consts::TAU).sin();
        for row in 0..ROWS {
            for column in 0..COLUMNS {
                let grey = echo(seed ^ u64::from(frame), body, column, row, breath);
                bytes.extend_from_slice(&colour(column, row, grey));
            }
        }
    }
    bytes
}

/// Brightness of an echo, 0 to 255; 0 outside the fan.
fn echo(seed: u64, body: u64, column: u16, row: u16, breath: f32) -> f32 {
    let (dx, dy) = (f32::from(column) - APEX.0, f32::from(row) - APEX.1);
    let (radius, angle) = (dx.hypot(dy), dx.atan2(dy));
    if angle.abs() > HALF_ANGLE || !(RADII.0..RADII.1).contains(&radius) {
        return 0.0;
    }
    let depth = (radius - RADII.0) / (RADII.1 - RADII.0);
    // Tissue moves with the breath along the rays.
    let (u, v) = (angle / HALF_ANGLE, depth + 0.015 * breath);
    let vessel = Ellipse::new(0.15, 0.48, 0.16, 0.035).contains(u, v - 0.06 * u);
    let gall = Ellipse::new(-0.38, 0.55, 0.17, 0.10);
    let lesion = Ellipse::new(0.42, 0.36, 0.07, 0.05).contains(u, v);
    let diaphragm = (v - 0.86 - 0.10 * u * u).abs();
    let mut level = 92.0 + 26.0 * texture(body, u * 6.0, v * 9.0, 0.0);
    if v < 0.10 {
        level = 150.0 * rise(0.0, 0.02, (v * 28.0).fract() - 0.25).max(0.35);
    } else if gall.contains(u, v) || vessel {
        level = 6.0;
    } else if lesion {
        level = 150.0;
    } else if diaphragm < 0.018 {
        level = 235.0;
    } else if v > 0.86 + 0.10 * u * u {
        level = 35.0;
    } else if v > gall.y && (u - gall.x).abs() < 0.13 {
        // Sound passes fluid without loss: what lies behind is brighter.
        level += 45.0;
    }
    // Speckle: multiplicative, finer along the ray than across it.
    let speckle = noise(seed, (radius * 0.9) as usize, ((angle + 1.0) * 190.0) as usize);
    level * (1.0 + 0.42 * speckle) * (1.05 - 0.35 * depth)
}

/// Grey, with a depth scale and a probe mark in colour as such machines draw them.
fn colour(column: u16, row: u16, grey: f32) -> [u8; 3] {
    let grey = grey.clamp(0.0, 255.0) as u8;
    let scale = (618..626).contains(&column) && (row % 25 < 2) && row >= 40;
    let mark = (150..162).contains(&column) && (18..30).contains(&row);
    match (scale, mark) {
        (true, _) => [200, 200, 120],
        (_, true) => [40, 160, 230],
        _ => [grey; 3],
    }
}
