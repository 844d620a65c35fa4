//! Shapes, noise and texture that generated images are drawn with.
//!
//! Everything is a pure function of position and seed, so any pixel of any image can be made alone and twice the
//! same. Not for cryptography.

/// A well-mixed 64-bit number (SplitMix64's finaliser).
pub fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Mixes several numbers into one.
pub fn mix_all(parts: &[u64]) -> u64 {
    parts.iter().fold(0, |state, part| mix(state ^ mix(*part)))
}

/// Bell-shaped noise of standard deviation one at a lattice point: the sum of eight bytes.
pub fn noise(seed: u64, x: usize, y: usize) -> f32 {
    let bytes = mix(seed ^ ((x as u64) << 32) ^ y as u64).to_le_bytes();
    let sum: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
    (sum as f32 - 1020.0) / 209.0
}

/// Smooth texture between -1 and 1, with features of about one unit.
pub fn texture(seed: u64, x: f32, y: f32, z: f32) -> f32 {
    let corner = |dx: i64, dy: i64, dz: i64| {
        let [x, y, z] = [x.floor() as i64 + dx, y.floor() as i64 + dy, z.floor() as i64 + dz];
        let place = ((x as u64) << 42) ^ (((y as u64) & 0x1F_FFFF) << 21) ^ ((z as u64) & 0x1F_FFFF);
        (mix(seed ^ place) >> 40) as f32 / 8_388_608.0 - 1.0
    };
    let ease = |t: f32| {
        let t = t - t.floor();
        t * t * (3.0 - 2.0 * t)
    };
    let (tx, ty, tz) = (ease(x), ease(y), ease(z));
    let line = |dy, dz| corner(0, dy, dz) + (corner(1, dy, dz) - corner(0, dy, dz)) * tx;
    let plane = |dz| line(0, dz) + (line(1, dz) - line(0, dz)) * ty;
    plane(0) + (plane(1) - plane(0)) * tz
}

/// An ellipse in the plane, with half axes `a` and `b`.
#[derive(Debug, Clone, Copy)]
pub struct Ellipse {
    pub x: f32,
    pub y: f32,
    pub a: f32,
    pub b: f32,
}

impl Ellipse {
    pub const fn new(x: f32, y: f32, a: f32, b: f32) -> Self {
        Self { x, y, a, b }
    }

    /// Below 1 inside, 1 on the border, above 1 outside.
    pub fn radius(&self, x: f32, y: f32) -> f32 {
        let (dx, dy) = ((x - self.x) / self.a.max(1e-3), (y - self.y) / self.b.max(1e-3));
        (dx * dx + dy * dy).sqrt()
    }

    pub fn contains(&self, x: f32, y: f32) -> bool {
        self.radius(x, y) < 1.0
    }
}

/// From 0 to 1 as `value` goes from `low` to `high`, smoothly.
pub fn rise(low: f32, high: f32, value: f32) -> f32 {
    let t = ((value - low) / (high - low)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_centred_and_of_unit_spread() {
        let values: Vec<f32> = (0..200).flat_map(|y| (0..200).map(move |x| noise(7, x, y))).collect();
        let count = values.len() as f32;
        let mean = values.iter().sum::<f32>() / count;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / count;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
    }

    #[test]
    fn texture_is_smooth_and_bounded() {
        for step in 0..1000 {
            let x = step as f32 * 0.01;
            let (here, beside) = (texture(3, x, -x, 0.5), texture(3, x + 0.001, -x, 0.5));
            assert!(here.abs() <= 1.0 && (here - beside).abs() < 0.02);
        }
    }
}
