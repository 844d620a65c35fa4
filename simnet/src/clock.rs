//! The clocks of a simulated machine: its wall clock, which jumps and drifts, and its boot clock, which only drifts.
//!
//! True time is the simulation's own; the checks use it, nodes never do.

use std::sync::{Arc, Mutex};

use openraft_rt_sim::SimInstant;
use tessera_consensus::UnixMillis;
use tessera_consensus::clock::Clocks;

use crate::founding::EPOCH;
use crate::runtime::lock;

/// Simulated time since the beginning, microseconds.
pub fn now_us() -> u64 {
    let now = SimInstant::try_now().expect("inside a simulation");
    u64::try_from(now.elapsed_since_start().as_micros()).expect("a short simulation")
}

/// The time that a right clock shows.
pub fn true_time() -> UnixMillis {
    EPOCH.plus_ms(now_us() / 1000)
}

/// Clones are the same machine's.
#[derive(Clone, Default)]
pub struct MachineClock(Arc<Mutex<Hands>>);

#[derive(Clone, Copy, Default)]
struct Hands {
    /// What the wall clock was set ahead by, milliseconds.
    ahead_ms: i64,
    /// Microseconds gained in a million.
    drift_ppm: i64,
    /// Gained until `since_us`.
    gained_us: i64,
    since_us: u64,
}

impl Hands {
    fn gained_us(&self, now_us: u64) -> i64 {
        let elapsed_us = i64::try_from(now_us - self.since_us).unwrap_or(i64::MAX);
        self.gained_us.saturating_add(elapsed_us.saturating_mul(self.drift_ppm) / 1_000_000)
    }
}

impl MachineClock {
    pub fn read(&self) -> Clocks {
        let (hands, now_us) = (*lock(&self.0), now_us());
        let boot_us = now_us.saturating_add_signed(hands.gained_us(now_us));
        let wall_ms = EPOCH.0.saturating_add(boot_us / 1000).saturating_add_signed(hands.ahead_ms);
        Clocks { wall: UnixMillis(wall_ms), boot_ms: boot_us / 1000 }
    }

    pub fn wall(&self) -> UnixMillis {
        self.read().wall
    }

    /// For pauses and patience: a time that never jumps.
    pub fn steady(&self) -> UnixMillis {
        EPOCH.plus_ms(self.read().boot_ms)
    }

    /// The wall clock is set: forward, or back when `by_ms` is negative.
    pub fn jump(&self, by_ms: i64) {
        lock(&self.0).ahead_ms += by_ms;
    }

    /// From now on both clocks gain so many microseconds in a million.
    pub fn drift(&self, ppm: i64) {
        let (mut hands, now_us) = (lock(&self.0), now_us());
        (hands.gained_us, hands.since_us, hands.drift_ppm) = (hands.gained_us(now_us), now_us, ppm);
    }
}
