//! Trusted time and freshness (DESIGN section 7): what this node may believe of the present.
//!
//! Trusted time = max(wall clock, newest certified time + time elapsed since on a clock that counts on in suspend).
//! The wall clock alone is not believed when it stands behind what was certified, nor a checkpoint that comes from
//! the future beyond the allowed skew; in both cases there is no trusted time, and whoever asks must refuse, until
//! the next certified heartbeat agrees with the wall clock again. The floor is persisted, so that neither a restart
//! nor a wall clock set back makes an old state look fresh. Pure: both clocks come in as values.

use serde::{Deserialize, Serialize};

use crate::ids::UnixMillis;

/// How far two honest clocks may stand apart; also the bound on the leader's batch times (DESIGN section 5).
pub const CLOCK_SKEW_MS_MAX: u64 = 5_000;

/// A reading of the node's two clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// What the operating system calls the time.
    pub wall: UnixMillis,
    /// Milliseconds since boot, counting on in suspend (`CLOCK_BOOTTIME`).
    pub boot_ms: u64,
}

/// Why there is no trusted time now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClockError {
    #[error("this machine's clock is {behind_ms} ms behind what the federation certified: set the clock")]
    Behind { behind_ms: u64 },
    #[error(
        "the newest certified time lies {ahead_ms} ms ahead of this machine's clock: set the clock, or wait for the core"
    )]
    FromTheFuture { ahead_ms: u64 },
}

/// What must survive a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockFloor {
    /// No trusted time is ever earlier than this.
    pub time: UnixMillis,
    /// Time of the newest certified checkpoint that was applied here; zero before the first.
    pub certified: UnixMillis,
}

/// The newest certified time, and when it was seen.
#[derive(Clone, Copy, Debug)]
pub struct TrustedClock {
    floor: ClockFloor,
    seen_at_boot_ms: Option<u64>,
    from_the_future: Option<u64>,
}

impl TrustedClock {
    /// After a restart the boot clock may have begun anew; until the next certificate only the floor counts.
    pub fn new(floor: ClockFloor) -> Self {
        Self { floor, seen_at_boot_ms: None, from_the_future: None }
    }

    /// A certified checkpoint was applied here.
    pub fn certified(&mut self, time: UnixMillis, clocks: Clocks) {
        let ahead = time.since(clocks.wall);
        self.from_the_future = (ahead > CLOCK_SKEW_MS_MAX).then_some(ahead);
        if self.from_the_future.is_none() && time >= self.floor.certified {
            self.floor.certified = time;
            self.floor.time = self.floor.time.max(time);
            self.seen_at_boot_ms = Some(clocks.boot_ms);
        }
    }

    /// The trusted time, and from then on never an earlier one.
    pub fn now(&mut self, clocks: Clocks) -> Result<UnixMillis, ClockError> {
        if let Some(ahead_ms) = self.from_the_future {
            return Err(ClockError::FromTheFuture { ahead_ms });
        }
        let elapsed = self.seen_at_boot_ms.map_or(0, |seen| clocks.boot_ms.saturating_sub(seen));
        let least = self.floor.time.max(self.floor.certified.plus_ms(elapsed));
        let behind_ms = least.since(clocks.wall);
        if behind_ms > CLOCK_SKEW_MS_MAX {
            return Err(ClockError::Behind { behind_ms });
        }
        self.floor.time = least.max(clocks.wall);
        Ok(self.floor.time)
    }

    /// Milliseconds since the newest certified time; `None` before the first certificate.
    pub fn freshness_ms(&mut self, clocks: Clocks) -> Result<Option<u64>, ClockError> {
        let now = self.now(clocks)?;
        Ok((self.floor.certified.0 > 0).then(|| now.since(self.floor.certified)))
    }

    /// To be persisted now and then, and after each certificate.
    pub fn floor(&self) -> ClockFloor {
        self.floor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clocks(wall_s: u64, boot_s: u64) -> Clocks {
        Clocks { wall: UnixMillis(wall_s * 1000), boot_ms: boot_s * 1000 }
    }

    #[test]
    fn freshness_grows_with_the_boot_clock_even_when_the_wall_clock_is_set_back() {
        let mut clock = TrustedClock::new(ClockFloor::default());
        assert_eq!(clock.freshness_ms(clocks(1000, 10)), Ok(None), "nothing certified yet");
        clock.certified(UnixMillis(1_000_000), clocks(1000, 10));
        assert_eq!(clock.freshness_ms(clocks(1060, 70)), Ok(Some(60_000)));
        assert_eq!(clock.freshness_ms(clocks(1000, 130)), Err(ClockError::Behind { behind_ms: 120_000 }));
        assert_eq!(clock.freshness_ms(clocks(1000, 72)), Err(ClockError::Behind { behind_ms: 62_000 }));
    }

    #[test]
    fn a_restart_keeps_the_floor_and_an_old_state_stays_old() {
        let mut clock = TrustedClock::new(ClockFloor::default());
        clock.certified(UnixMillis(1_000_000), clocks(1000, 10));
        assert!(clock.now(clocks(2000, 1010)).is_ok());
        let mut again = TrustedClock::new(clock.floor());
        assert_eq!(again.freshness_ms(clocks(2001, 1)), Ok(Some(1_001_000)));
        assert_eq!(again.now(clocks(1500, 2)), Err(ClockError::Behind { behind_ms: 501_000 }));
    }

    #[test]
    fn a_checkpoint_from_the_future_stops_trust_until_a_heartbeat_agrees() {
        let mut clock = TrustedClock::new(ClockFloor::default());
        clock.certified(UnixMillis(4_000_000_000), clocks(1000, 10));
        assert_eq!(clock.now(clocks(1000, 10)), Err(ClockError::FromTheFuture { ahead_ms: 3_999_000_000 }));
        assert_eq!(clock.floor(), ClockFloor::default(), "the future never becomes the floor");
        clock.certified(UnixMillis(1_003_000), clocks(1003, 13));
        assert_eq!(clock.freshness_ms(clocks(1004, 14)), Ok(Some(1_000)));
    }
}
