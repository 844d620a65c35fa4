//! Chosen by chance and again by the same seed: the moments at which tests kill.
//!
//! The seed is printed; `TESSERA_SEED` sets it. SplitMix64, so that the same seed means the same on every machine.

use std::time::Duration;

/// What a test uses when nobody says otherwise.
const SEED: u64 = 1;

pub struct Chance {
    state: u64,
}

impl Chance {
    pub fn from_environment() -> Chance {
        let seed = std::env::var("TESSERA_SEED").ok();
        let seed = seed.map_or(SEED, |text| text.parse().unwrap_or_else(|e| panic!("TESSERA_SEED={text}: {e}")));
        println!("TESSERA_SEED={seed}");
        Chance { state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// At least 0, less than `below`.
    pub fn below(&mut self, below: usize) -> usize {
        (self.next() % below.max(1) as u64) as usize
    }

    /// A moment up to `longest`, in milliseconds.
    pub fn moment(&mut self, longest: Duration) -> Duration {
        Duration::from_millis(self.next() % (longest.as_millis() as u64 + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_chooses_the_same() {
        let choose = |seed| {
            let mut chance = Chance { state: seed };
            (0..20).map(|_| chance.below(10)).collect::<Vec<_>>()
        };
        assert_eq!(choose(7), choose(7));
        assert_ne!(choose(7), choose(8));
        assert!(choose(7).iter().all(|chosen| *chosen < 10));
        assert_eq!(Chance { state: 7 }.moment(Duration::ZERO), Duration::ZERO);
    }
}
