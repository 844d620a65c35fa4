//! Time as a value: milliseconds since 1970-01-01T00:00:00Z.
//!
//! This crate never asks a clock. What "now" means (trusted time, entry time) is the caller's matter; here it is
//! a number with an order. Arithmetic saturates, because a peer's timestamp must never panic.

use serde::{Deserialize, Serialize};

/// A moment, in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMillis(u64);

impl UnixMillis {
    pub const fn new(millis: u64) -> Self {
        Self(millis)
    }

    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The moment `duration` later, at most the last one that can be written.
    pub const fn after(self, duration: DurationMs) -> Self {
        Self(self.0.saturating_add(duration.0))
    }

    /// How long ago `earlier` was; zero if it lies in the future.
    pub const fn since(self, earlier: UnixMillis) -> DurationMs {
        DurationMs(self.0.saturating_sub(earlier.0))
    }
}

/// A length of time in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DurationMs(u64);

impl DurationMs {
    pub const fn new(millis: u64) -> Self {
        Self(millis)
    }

    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1_000))
    }

    pub const fn from_minutes(minutes: u64) -> Self {
        Self::from_secs(minutes.saturating_mul(60))
    }

    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates() {
        let last = UnixMillis::new(u64::MAX);
        assert_eq!(last.after(DurationMs::from_minutes(10)), last);
        assert_eq!(UnixMillis::new(5).since(UnixMillis::new(9)), DurationMs::new(0));
        assert_eq!(DurationMs::from_minutes(u64::MAX).as_u64(), u64::MAX);
        assert_eq!(UnixMillis::new(1_000).after(DurationMs::from_secs(2)), UnixMillis::new(3_000));
    }
}
