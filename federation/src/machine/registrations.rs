//! How many studies a node registers in a day, kept in the state, so that every evaluator of the blind index gives
//! the same node the same budget. Whole numbers only; the average forgets in about a week.
//!
//! Not the budget itself: that is the evaluator's.

use serde::{Deserialize, Serialize};
use tessera_consensus::UnixMillis;

use crate::blind::budget::DAY_MS;

/// Days after which nothing of an average is left.
const FORGOTTEN_DAYS: u64 = 64;
/// The average is kept in thousandths.
const SCALE: u64 = 1_000;

/// One node's registrations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registrations {
    /// Days since 1970-01-01, of the newest registration.
    day: u64,
    on_day: u64,
    /// Of the days before, in thousandths; the newest day weighs an eighth.
    average_milli: u64,
    /// Since the founding.
    pub total: u64,
}

impl Registrations {
    /// The figures as they stand at a moment of day `now`.
    fn rolled(mut self, now: UnixMillis) -> Self {
        let today = now.0 / DAY_MS;
        // Entry times never go backwards; a reader's clock may, and then sees the newest day.
        let days = today.saturating_sub(self.day);
        if days > FORGOTTEN_DAYS {
            return Self { day: today, on_day: 0, average_milli: 0, total: self.total };
        }
        for _ in 0..days {
            let weighed = self.average_milli.saturating_mul(7).saturating_add(self.on_day.saturating_mul(SCALE));
            self.average_milli = weighed / 8;
            self.on_day = 0;
        }
        Self { day: self.day.max(today), ..self }
    }

    /// With one registration more.
    pub(super) fn counted(self, now: UnixMillis) -> Self {
        let rolled = self.rolled(now);
        Self { on_day: rolled.on_day.saturating_add(1), total: rolled.total.saturating_add(1), ..rolled }
    }

    /// The day's registrations or the average of the days before, whichever is more.
    pub fn per_day(self, now: UnixMillis) -> u64 {
        let rolled = self.rolled(now);
        rolled.on_day.max(rolled.average_milli / SCALE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figure_follows_a_nodes_days() {
        let day = |day: u64| UnixMillis(day * DAY_MS + 1);
        let mut figure = Registrations::default();
        let count = |figure: Registrations, times: u64, at| (0..times).fold(figure, |figure, _| figure.counted(at));
        figure = count(figure, 80, day(20_000));
        assert_eq!(figure.per_day(day(20_000)), 80, "the day itself counts at once");
        assert_eq!(figure.per_day(day(20_001)), 10, "the next day keeps an eighth of it");
        for later in 20_001..20_040 {
            figure = count(figure, 80, day(later));
        }
        assert_eq!(figure.per_day(day(20_040)), 79, "steady work gives a steady figure");
        assert_eq!(figure.per_day(day(20_047)), 31, "and is forgotten by and by");
        assert_eq!(figure.per_day(day(20_200)), 0);
        assert_eq!(figure.per_day(day(19_000)), 80, "a clock set back sees the newest day");
        assert_eq!(figure.total, 80 * 40);
    }
}
