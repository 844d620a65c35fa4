//! What is where in the generated bodies: CT numbers of a chest and a head, tissue of a head for MR, the shadow of a
//! chest for radiographs.
//!
//! Coordinates run from -1 to 1 over the field of view (x to the patient's left, y to the back), z from 0 at the
//! feet's end of the scan to 1. Made to look right in a viewer at usual windows, not to be measured.

use super::texture::{Ellipse, rise, texture};

const AIR: f32 = -1000.0;
const LUNG: f32 = -840.0;
const FAT: f32 = -95.0;
const WATER: f32 = 8.0;
const MUSCLE: f32 = 55.0;
const BLOOD: f32 = 140.0;
const SPONGY_BONE: f32 = 260.0;
const HARD_BONE: f32 = 850.0;

/// One generated person's differences.
#[derive(Debug, Clone, Copy)]
pub struct Build {
    pub seed: u64,
    /// 0.9 to 1.1.
    pub size: f32,
}

/// The CT number of a point of the chest, in Hounsfield units.
pub fn chest(build: Build, x: f32, y: f32, z: f32) -> f32 {
    let body = Ellipse::new(0.0, 0.0, 0.80 * build.size, 0.54 * build.size);
    let outside = body.radius(x, y);
    if outside > 1.0 {
        return couch(x, y);
    }
    if outside > 0.985 {
        return 20.0;
    }
    // The border of the fat is uneven; inside of 0.88 it can't be fat, and texture is dear.
    if outside > 0.88 && outside > 0.90 + 0.015 * texture(build.seed, x * 6.0, y * 6.0, z) {
        return FAT + 10.0 * texture(build.seed, x * 30.0, y * 30.0, z);
    }
    if let Some(bone) = chest_bone(build, x, y, z, outside) {
        return bone;
    }
    chest_inside(build, x, y, z)
}

/// The table under the patient.
fn couch(x: f32, y: f32) -> f32 {
    let depth = y - 0.66 - 0.10 * x * x;
    if (0.0..0.02).contains(&depth) && x.abs() < 0.75 { -350.0 } else { AIR }
}

fn chest_bone(build: Build, x: f32, y: f32, z: f32, outside: f32) -> Option<f32> {
    let vertebra = Ellipse::new(0.0, 0.29, 0.12, 0.09);
    let canal = Ellipse::new(0.0, 0.395, 0.05, 0.04);
    let process = Ellipse::new(0.0, 0.44, 0.03, 0.06);
    if canal.contains(x, y) {
        return Some(30.0);
    }
    if vertebra.contains(x, y) {
        // Discs between the bodies.
        if (z * 14.0).fract() < 0.22 {
            return Some(90.0);
        }
        let shell = rise(0.80, 0.95, vertebra.radius(x, y));
        return Some(SPONGY_BONE + shell * 350.0 + 40.0 * texture(build.seed, x * 60.0, y * 60.0, z * 40.0));
    }
    let transverse = (y - 0.37).abs() < 0.022 && x.abs() < 0.20;
    if process.contains(x, y) || transverse {
        return Some(HARD_BONE * 0.7);
    }
    if Ellipse::new(0.0, -0.455 * build.size, 0.07, 0.022).contains(x, y) {
        return Some(SPONGY_BONE + 120.0);
    }
    // Ribs slope downwards to the front, so a slice cuts each at another angle.
    if !(0.80..0.87).contains(&outside) || y >= 0.40 {
        return None;
    }
    let along = (z * 9.0 + y.atan2(x.abs()) * 0.9).rem_euclid(1.0);
    (along < 0.42).then(|| {
        let marrow = rise(0.80, 0.815, outside) * (1.0 - rise(0.855, 0.87, outside));
        HARD_BONE - marrow * 450.0
    })
}

fn chest_inside(build: Build, x: f32, y: f32, z: f32) -> f32 {
    let size = build.size;
    // Lungs are widest in the lower middle and end in the domes of the diaphragm.
    let breadth = rise(-0.15, 0.25, z) * (1.0 - 0.75 * rise(0.55, 1.05, z));
    let right = Ellipse::new(-0.37 * size, 0.0, 0.29 * breadth * size, 0.40 * breadth.sqrt() * size);
    let left = Ellipse::new(0.38 * size, 0.02, 0.27 * breadth * size, 0.38 * breadth.sqrt() * size);
    let heart_size = rise(0.02, 0.2, z) * (1.0 - rise(0.45, 0.62, z));
    let heart = Ellipse::new(0.11, -0.14, 0.27 * heart_size, 0.19 * heart_size);
    let liver = 1.0 - rise(0.0, 0.12, z);
    if heart_size > 0.05 && heart.contains(x, y) {
        return heart_muscle(&heart, x, y);
    }
    if let Some(vessel) = great_vessels(x, y, z) {
        return vessel;
    }
    for (lung, is_right) in [(right, true), (left, false)] {
        let radius = lung.radius(x, y);
        let mediastinum = x.abs() < 0.09;
        if radius < 1.0 && !mediastinum {
            let dome = Ellipse::new(lung.x, lung.y, lung.a * liver, lung.b * liver);
            if is_right && liver > 0.2 && dome.contains(x, y) {
                return 62.0 + 8.0 * texture(build.seed, x * 20.0, y * 20.0, z * 20.0);
            }
            return lung_tissue(build, x, y, z, radius);
        }
    }
    let fat = texture(build.seed, x * 9.0, y * 9.0, z * 6.0);
    let mediastinum = Ellipse::new(0.0, -0.02, 0.20, 0.30).radius(x, y);
    if fat > 0.15 + rise(0.5, 1.0, mediastinum) { FAT } else { MUSCLE + 6.0 * fat }
}

fn heart_muscle(heart: &Ellipse, x: f32, y: f32) -> f32 {
    let chambers = [
        Ellipse::new(heart.x + 0.10, heart.y - 0.02, 0.10, 0.09),
        Ellipse::new(heart.x - 0.10, heart.y + 0.01, 0.09, 0.10),
    ];
    if heart.radius(x, y) > 0.95 {
        FAT
    } else if chambers.iter().any(|chamber| chamber.contains(x, y)) {
        BLOOD
    } else {
        95.0
    }
}

fn great_vessels(x: f32, y: f32, z: f32) -> Option<f32> {
    let descending = Ellipse::new(0.13, 0.22, 0.055, 0.055);
    let ascending = Ellipse::new(-0.02, -0.10, 0.065, 0.065);
    let trachea = Ellipse::new(0.0, 0.06, 0.045, 0.04);
    let spread = 0.30 * (0.62 - z).max(0.0);
    let bronchi = [Ellipse::new(-spread - 0.03, 0.06, 0.032, 0.03), Ellipse::new(spread + 0.03, 0.06, 0.032, 0.03)];
    let arch = (0.62..0.70).contains(&z) && y > -0.16 && y < 0.24 && (x - 0.06 - 0.2 * (y + 0.1)).abs() < 0.055;
    if descending.contains(x, y) && z < 0.68 || ascending.contains(x, y) && (0.40..0.68).contains(&z) || arch {
        return Some(BLOOD);
    }
    if z > 0.60 && trachea.contains(x, y) {
        return Some(if trachea.radius(x, y) > 0.8 { 20.0 } else { AIR });
    }
    let open = (0.48..0.60).contains(&z) && bronchi.iter().any(|bronchus| bronchus.contains(x, y));
    open.then_some(AIR)
}

fn lung_tissue(build: Build, x: f32, y: f32, z: f32, radius: f32) -> f32 {
    // A small nodule, the same in every slice that cuts it.
    let nodule = ((x + 0.46).powi(2) + (y + 0.12).powi(2)).sqrt() / 0.035;
    if nodule * nodule + ((z - 0.55) / 0.02).powi(2) < 1.0 {
        return 35.0;
    }
    // Vessels run where two smooth fields cross zero together: curves in space, spots and short branches in a slice.
    let crossing = |salt: u64, scale: f32, width: f32| {
        let near = |salt: u64| texture(build.seed ^ salt, x * scale, y * scale, z * scale * 2.0).abs() < width;
        near(salt) && near(salt + 1)
    };
    let reach = 1.0 - rise(0.30, 1.0, radius);
    if crossing(11, 7.0, 0.07 + 0.10 * reach) {
        return 20.0 + 30.0 * reach;
    }
    if crossing(14, 15.0, 0.13) {
        return -150.0 - 250.0 * (1.0 - reach);
    }
    LUNG + 60.0 * rise(-0.4, 0.5, y) + 25.0 * texture(build.seed ^ 13, x * 14.0, y * 14.0, z * 9.0)
}

/// Tissue of the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tissue {
    Air,
    Scalp,
    Bone,
    Fluid,
    Grey,
    White,
    Eye,
}

/// What is at a point of the head. The scan goes from the base of the skull to its top.
pub fn head(build: Build, x: f32, y: f32, z: f32) -> Tissue {
    // The skull narrows towards the top like an egg.
    let round = (1.0 - (z * 0.92).powi(3)).max(0.05).sqrt();
    let skin = Ellipse::new(0.0, 0.0, 0.66 * round * build.size, 0.80 * round * build.size);
    let radius = skin.radius(x, y);
    match radius {
        r if r > 1.0 => return Tissue::Air,
        r if r > 0.945 => return Tissue::Scalp,
        r if r > 0.865 => return Tissue::Bone,
        r if r > 0.845 => return Tissue::Fluid,
        _ => {}
    }
    let eyes = [Ellipse::new(-0.27, -0.52, 0.13, 0.13), Ellipse::new(0.27, -0.52, 0.13, 0.13)];
    if z < 0.16 {
        if eyes.iter().any(|eye| eye.contains(x, y)) {
            return Tissue::Eye;
        }
        if Ellipse::new(0.0, -0.55, 0.10, 0.16).contains(x, y) {
            return Tissue::Air;
        }
        if y < -0.30 {
            return if texture(build.seed, x * 8.0, y * 8.0, z) > 0.2 { Tissue::Bone } else { Tissue::Scalp };
        }
    }
    brain(build, x, y, z, radius)
}

fn brain(build: Build, x: f32, y: f32, z: f32, radius: f32) -> Tissue {
    let width = (1.0 - ((z - 0.50) / 0.22).powi(2)).max(0.0);
    let front = Ellipse::new(0.075 + 0.03 * width, -0.16, 0.055 * width, 0.17 * width);
    let back = Ellipse::new(0.14 + 0.03 * width, 0.20, 0.05 * width, 0.15 * width);
    let ventricle = front.contains(x.abs(), y) || back.contains(x.abs(), y);
    let third = x.abs() < 0.014 && y.abs() < 0.13 && (0.30..0.52).contains(&z);
    let falx = x.abs() < 0.010 && z > 0.55;
    if ventricle || third || falx {
        return Tissue::Fluid;
    }
    // Furrows run in from the surface; the cortex follows them.
    let bend = 0.35 * texture(build.seed ^ 22, x * 5.0, y * 5.0, z * 5.0);
    let fold = texture(build.seed ^ 21, (x + bend) * 8.0, (y - bend) * 8.0, z * 9.0).abs();
    let depth = (0.845 - radius) * 2.6;
    if fold < 0.085 - 0.11 * depth {
        return Tissue::Fluid;
    }
    let deep_grey = Ellipse::new(0.17, 0.0, 0.07, 0.14).contains(x.abs(), y) && (0.34..0.55).contains(&z);
    if deep_grey || depth < 0.14 || fold < 0.36 - 0.36 * depth { Tissue::Grey } else { Tissue::White }
}

/// CT number of a tissue of the head, in Hounsfield units.
pub fn head_ct(tissue: Tissue) -> f32 {
    match tissue {
        Tissue::Air => AIR,
        Tissue::Scalp => -20.0,
        Tissue::Bone => HARD_BONE,
        Tissue::Fluid => WATER,
        Tissue::Grey => 38.0,
        Tissue::White => 29.0,
        Tissue::Eye => 15.0,
    }
}

/// How bright a chest is in a radiograph (0 dark, 1 white), seen from the front. Here y runs from head to feet.
pub fn chest_shadow(build: Build, x: f32, y: f32) -> f32 {
    let shoulders = rise(-0.95, -0.55, y);
    let half_width = (0.55 + 0.30 * shoulders) * build.size;
    let edge = rise(half_width, half_width - 0.06, x.abs());
    let mut shade = 0.62 * edge + 0.10 * rise(0.2, 1.0, y) * edge;
    let domes = [(-0.38f32, 0.50f32), (0.38, 0.58)];
    for (centre, floor) in domes {
        let across = (x - centre) / 0.31;
        let top = -0.72 + 0.10 * across * across;
        let bottom = floor + 0.20 * across * across;
        let inside = rise(1.0, 0.90, across.abs()) * rise(top, top + 0.10, y) * rise(bottom, bottom - 0.05, y);
        let vessels =
            texture(build.seed ^ 31, x * 9.0, y * 9.0, 0.0).abs() * rise(1.2, 0.0, (x.abs() - 0.1).abs() * 2.0);
        shade -= inside * (0.46 - 0.10 * vessels);
    }
    let heart = Ellipse::new(0.10, 0.26, 0.28, 0.30);
    shade += 0.30 * rise(1.05, 0.85, heart.radius(x, y));
    let spine = rise(0.10, 0.06, x.abs());
    shade += spine * (0.16 + 0.05 * rise(0.3, 0.5, (y * 9.0).rem_euclid(1.0)));
    shade -= 0.22 * rise(0.05, 0.03, x.abs()) * rise(-0.30, -0.40, y) * rise(-0.98, -0.9, y);
    shade += ribs(x, y) * edge + clavicles(x, y);
    shade.clamp(0.0, 1.0)
}

fn ribs(x: f32, y: f32) -> f32 {
    // Back ribs fall gently to the side, front ribs steeply.
    let side = x.abs();
    let back = (y * 7.0 - 2.1 * side * side).rem_euclid(1.0);
    let front = (y * 6.0 - 3.2 * (0.75 - side) + 0.4).rem_euclid(1.0);
    let cage = rise(0.74, 0.70, side) * rise(-0.80, -0.70, y) * rise(0.62, 0.45, y);
    let bar = |place: f32| rise(0.0, 0.06, place) * rise(0.30, 0.24, place);
    cage * (0.085 * bar(back) * rise(0.05, 0.12, side) + 0.05 * bar(front) * rise(0.2, 0.4, side))
}

fn clavicles(x: f32, y: f32) -> f32 {
    let axis = -0.66 - 0.10 * (x.abs() - 0.1);
    0.14 * rise(0.035, 0.02, (y - axis).abs()) * rise(0.05, 0.10, x.abs()) * rise(0.62, 0.55, x.abs())
}
