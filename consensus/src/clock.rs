//! Trusted time and freshness (DESIGN section 7): what this node may believe of the present.
//!
//! Trusted time = max(wall clock, newest certified time + time elapsed since on a clock that counts on in suspend).
//! The wall clock is not believed when it stands behind what was certified, nor a checkpoint that comes from the
//! future beyond the allowed skew; in both cases there is no trusted time, and whoever asks must refuse, until the
//! clock is set or the next certified heartbeat agrees with it. Pure: both clocks come in as values. Invariants:
//! 1. The floor rises by certificates and by the boot clock alone, never by the wall clock. So a wall clock that jumps
//!    ahead and is set right again leaves no trace.
//! 2. Only a certificate that is newer than all before it moves the floor or counts as news.
//! 3. A start knows nothing of the present: freshness needs a certificate newer than the one that was kept, or the
//!    same boot of the machine as that in which the floor was kept.
//! 4. What can't be undone (deleting, handing out a new day's budget) goes by [`TrustedClock::surely`], which never
//!    looks at the wall clock.

use serde::{Deserialize, Serialize};

use crate::ids::UnixMillis;

/// How far two honest clocks may stand apart; also the bound on the leader's batch times (DESIGN section 5).
pub const CLOCK_SKEW_MS_MAX: u64 = 5_000;

/// One part in so many is what clocks may drift apart: ten times what a poor quartz does.
const DRIFT_PARTS: u64 = 1_000;

/// What a certificate may need on its way to a node that has caught up.
const NEWS_MS_MAX: u64 = 60_000;

/// A reading of the node's two clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// What the operating system calls the time.
    pub wall: UnixMillis,
    /// Milliseconds since boot, counting on in suspend (`CLOCK_BOOTTIME`).
    pub boot_ms: u64,
}

/// One boot of a machine: boot clocks compare within it only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootId(pub [u8; 16]);

/// A moment at which a certificate agreed with the wall clock. From then on the boot clock says how far it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor(Clocks);

impl Anchor {
    /// `None`: they do not agree, which says nothing about either; certificates may be long on their way.
    pub fn of(certified: UnixMillis, clocks: Clocks) -> Option<Self> {
        let apart_ms = certified.since(clocks.wall).max(clocks.wall.since(certified));
        (apart_ms <= CLOCK_SKEW_MS_MAX).then_some(Self(clocks))
    }

    /// How far the wall clock has gone ahead of the boot clock since, beyond what two sound clocks may drift apart.
    pub fn jump_ms(&self, clocks: Clocks) -> u64 {
        let elapsed = clocks.boot_ms.saturating_sub(self.0.boot_ms);
        let ahead = clocks.wall.since(self.0.wall.plus_ms(elapsed));
        if ahead > CLOCK_SKEW_MS_MAX + elapsed / DRIFT_PARTS { ahead } else { 0 }
    }
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
    #[error("nothing was certified since this node started, so how old its state is can't be known: wait for the core")]
    Unconfirmed,
}

/// What must survive a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockFloor {
    /// Time of the newest certified checkpoint that was applied here; zero before the first.
    pub certified: UnixMillis,
    /// At this reading of a boot's clock it was surely this late.
    pub least: Option<(BootId, u64, UnixMillis)>,
}

/// The newest certified time, and when it was seen.
#[derive(Clone, Copy, Debug)]
pub struct TrustedClock {
    boot: BootId,
    certified: UnixMillis,
    /// At this reading of the boot clock it was surely this late.
    least: Option<(u64, UnixMillis)>,
    anchor: Option<Anchor>,
    from_the_future: Option<u64>,
}

impl TrustedClock {
    /// `kept` is the time of the certificate that was kept with the ledger, which may be newer than the floor.
    pub fn new(floor: ClockFloor, kept: Option<UnixMillis>, boot: BootId) -> Self {
        let least = floor.least.filter(|(of, ..)| *of == boot).map(|(_, boot_ms, time)| (boot_ms, time));
        let certified = floor.certified.max(kept.unwrap_or_default());
        Self { boot, certified, least, anchor: None, from_the_future: None }
    }

    /// A certified checkpoint was applied here.
    pub fn certified(&mut self, time: UnixMillis, clocks: Clocks) {
        if time <= self.certified {
            return;
        }
        let ahead = time.since(clocks.wall);
        self.from_the_future = (ahead > CLOCK_SKEW_MS_MAX).then_some(ahead);
        if self.from_the_future.is_none() {
            self.least = Some((clocks.boot_ms, time.max(self.surely(clocks))));
            self.certified = time;
            self.anchor = Anchor::of(time, clocks).or(self.anchor);
        }
    }

    /// No trusted time is earlier than this; the wall clock has no part in it. Zero before the first certificate.
    pub fn surely(&self, clocks: Clocks) -> UnixMillis {
        let by_boot = self.least.map(|(boot_ms, time)| time.plus_ms(clocks.boot_ms.saturating_sub(boot_ms)));
        self.certified.max(by_boot.unwrap_or_default())
    }

    /// The trusted time.
    pub fn now(&self, clocks: Clocks) -> Result<UnixMillis, ClockError> {
        if let Some(ahead_ms) = self.from_the_future {
            return Err(ClockError::FromTheFuture { ahead_ms });
        }
        let least = self.surely(clocks);
        let behind_ms = least.since(clocks.wall);
        if behind_ms > CLOCK_SKEW_MS_MAX {
            return Err(ClockError::Behind { behind_ms });
        }
        Ok(least.max(clocks.wall))
    }

    /// Milliseconds since the newest certified time; `None` before the first certificate.
    pub fn freshness_ms(&self, clocks: Clocks) -> Result<Option<u64>, ClockError> {
        let now = self.now(clocks)?;
        if self.certified.0 == 0 {
            return Ok(None);
        }
        if self.least.is_none() {
            return Err(ClockError::Unconfirmed);
        }
        Ok(Some(now.since(self.certified)))
    }

    /// How far the wall clock is ahead of the federation's time; zero when it is not, or when nothing is known of it.
    ///
    /// It has jumped since a certificate last agreed with it, or, in a node that has `caught_up`, stands ahead of the news
    /// that come in and the time since. One that has not caught up reads old certificates late.
    pub fn ahead_ms(&self, clocks: Clocks, caught_up: bool) -> u64 {
        let jump_ms = self.anchor.map_or(0, |anchor| anchor.jump_ms(clocks));
        let Some((boot_ms, _)) = self.least.filter(|_| caught_up) else { return jump_ms };
        let elapsed = clocks.boot_ms.saturating_sub(boot_ms);
        let ahead = clocks.wall.since(self.surely(clocks));
        let explained = NEWS_MS_MAX + elapsed / DRIFT_PARTS;
        jump_ms.max(if ahead > explained { ahead } else { 0 })
    }

    /// The time to write down where no decision rests on it: the wall clock's, unless that is known to be wrong.
    pub fn recorded(&self, clocks: Clocks, caught_up: bool) -> UnixMillis {
        let surely = self.surely(clocks);
        if self.ahead_ms(clocks, caught_up) > 0 { surely } else { surely.max(clocks.wall) }
    }

    /// To be persisted now and then.
    pub fn floor(&self, clocks: Clocks) -> ClockFloor {
        let least = self.least.map(|_| (self.boot, clocks.boot_ms, self.surely(clocks)));
        ClockFloor { certified: self.certified, least }
    }
}

/// Between two certificates that show a live core, at least so many milliseconds pass here.
const PACE_MS_MIN: u64 = 2_000;

/// Whether what this node has is of the present, once since its start, whatever its wall clock says.
///
/// A certificate shows it that was made after the start and agrees with the wall clock. Where the two disagree, two of them
/// do whose times lie apart as their arrivals here do: certificates of a ledger that is being caught up with lie further
/// apart. They prove less (a peer could tell of the past at the pace of the present), and are all that a node with a wrong
/// clock has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arrival {
    started: UnixMillis,
    /// An earlier certificate of this life, and the boot clock's reading when it was applied.
    before: Option<(UnixMillis, u64)>,
}

impl Arrival {
    /// `started`: what the wall clock said at the start.
    pub fn new(started: UnixMillis) -> Self {
        Self { started, before: None }
    }

    /// A certificate that is newer than all before this life was applied; whether it shows the present.
    pub fn is_shown_by(&mut self, time: UnixMillis, clocks: Clocks) -> bool {
        // Seconds are rounded down in certificates.
        let is_of_this_life = time.plus_ms(1_000) > self.started;
        if is_of_this_life && Anchor::of(time, clocks).is_some() {
            return true;
        }
        let Some((earlier, boot_ms)) = self.before else {
            self.before = Some((time, clocks.boot_ms));
            return false;
        };
        let passed_ms = clocks.boot_ms.saturating_sub(boot_ms);
        // The same one again is no news.
        if time <= earlier || passed_ms < PACE_MS_MIN {
            return false;
        }
        self.before = Some((time, clocks.boot_ms));
        time.since(earlier) <= passed_ms + PACE_MS_MIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: BootId = BootId([1; 16]);
    const NEXT_BOOT: BootId = BootId([2; 16]);

    fn clocks(wall_s: u64, boot_s: u64) -> Clocks {
        Clocks { wall: UnixMillis(wall_s * 1000), boot_ms: boot_s * 1000 }
    }

    fn clock() -> TrustedClock {
        TrustedClock::new(ClockFloor::default(), None, BOOT)
    }

    fn seconds(s: u64) -> UnixMillis {
        UnixMillis(s * 1000)
    }

    #[test]
    fn freshness_grows_with_the_boot_clock_even_when_the_wall_clock_is_set_back() {
        let mut clock = clock();
        assert_eq!(clock.freshness_ms(clocks(1000, 10)), Ok(None), "nothing certified yet");
        clock.certified(seconds(1000), clocks(1000, 10));
        assert_eq!(clock.freshness_ms(clocks(1060, 70)), Ok(Some(60_000)));
        assert_eq!(clock.freshness_ms(clocks(1000, 130)), Err(ClockError::Behind { behind_ms: 120_000 }));
        assert_eq!(clock.freshness_ms(clocks(1000, 72)), Err(ClockError::Behind { behind_ms: 62_000 }));
        clock.certified(seconds(1000), clocks(1000, 130));
        assert_eq!(clock.freshness_ms(clocks(1000, 130)), Err(ClockError::Behind { behind_ms: 120_000 }), "no news");
        clock.certified(seconds(1001), clocks(1001, 130));
        let withheld = Err(ClockError::Behind { behind_ms: 119_000 });
        assert_eq!(clock.freshness_ms(clocks(1001, 130)), withheld, "an old one that was withheld");
    }

    #[test]
    fn a_start_believes_no_wall_clock_without_news_or_the_same_boot() {
        let mut clock = clock();
        clock.certified(seconds(1000), clocks(1000, 10));
        let floor = clock.floor(clocks(2000, 1010));
        let same_boot = TrustedClock::new(floor, Some(seconds(1000)), BOOT);
        assert_eq!(same_boot.freshness_ms(clocks(2001, 1011)), Ok(Some(1_001_000)));
        assert_eq!(same_boot.freshness_ms(clocks(1001, 1011)), Err(ClockError::Behind { behind_ms: 1_000_000 }));
        let mut rebooted = TrustedClock::new(floor, Some(seconds(1010)), NEXT_BOOT);
        assert_eq!(rebooted.freshness_ms(clocks(1011, 1)), Err(ClockError::Unconfirmed), "an old state looks fresh");
        rebooted.certified(seconds(1010), clocks(1011, 2));
        assert_eq!(rebooted.freshness_ms(clocks(1011, 2)), Err(ClockError::Unconfirmed), "the kept one is no news");
        rebooted.certified(seconds(2003), clocks(2004, 3));
        assert_eq!(rebooted.freshness_ms(clocks(2004, 3)), Ok(Some(1_000)));
    }

    #[test]
    fn a_wall_clock_that_jumps_ahead_and_is_set_right_again_leaves_no_trace() {
        let mut clock = clock();
        clock.certified(seconds(1000), clocks(1000, 10));
        assert_eq!(clock.now(clocks(900_000, 20)), Ok(seconds(900_000)), "what is stale is refused: the safe side");
        assert_eq!(clock.ahead_ms(clocks(900_000, 20), false), 898_990_000);
        assert_eq!(clock.recorded(clocks(900_000, 20), false), seconds(1010), "nothing is dated by it");
        assert_eq!(clock.surely(clocks(900_000, 20)), seconds(1010), "nothing is deleted for it");
        clock.certified(seconds(1012), clocks(900_002, 22));
        assert_eq!(clock.freshness_ms(clocks(1014, 24)), Ok(Some(2_000)));
        let again = TrustedClock::new(clock.floor(clocks(900_002, 24)), None, BOOT);
        assert_eq!(again.freshness_ms(clocks(1015, 25)), Ok(Some(3_000)));
        assert_eq!(clock.ahead_ms(clocks(1014, 24), true), 0);
        assert_eq!(clock.recorded(clocks(1014, 24), true), seconds(1014));
    }

    #[test]
    fn a_wall_clock_that_was_ahead_from_the_beginning_is_known_once_the_node_has_caught_up() {
        let mut clock = clock();
        assert_eq!(clock.ahead_ms(clocks(900_000, 10), true), 0, "nothing is certified yet");
        clock.certified(seconds(1000), clocks(900_000, 10));
        assert_eq!(clock.ahead_ms(clocks(900_000, 10), false), 0, "the certificate may be an old one");
        assert_eq!(clock.ahead_ms(clocks(900_000, 10), true), 899_000_000);
        assert_eq!(clock.recorded(clocks(900_010, 20), true), seconds(1010));
        // On its way, and drifting apart in a day without news.
        assert_eq!(clock.ahead_ms(clocks(1060, 10), true), 0);
        assert_eq!(clock.ahead_ms(clocks(1000 + 86_400 + 140, 10 + 86_400), true), 0);
        assert_eq!(clock.ahead_ms(clocks(1000 + 86_400 + 150, 10 + 86_400), true), 150_000);
    }

    #[test]
    fn what_is_of_the_present_is_known_by_a_right_clock_at_once_and_by_a_wrong_one_soon() {
        // The wall clock at the start; then the certificates' times with the clocks at their arrival.
        for (name, started, news, shown) in [
            ("right clock", 1000, vec![(1002, 1003, 10)], vec![true]),
            ("before the start", 1000, vec![(990, 1001, 10)], vec![false]),
            ("catching up", 1000, vec![(500, 1001, 10), (700, 1004, 13), (1006, 1007, 16)], vec![false, false, true]),
            ("a day ahead", 87_400, vec![(1002, 87_403, 10), (1005, 87_406, 13)], vec![false, true]),
            (
                "ahead, and catching up",
                87_400,
                vec![(500, 87_403, 10), (1005, 87_406, 13), (1008, 87_409, 16)],
                vec![false, false, true],
            ),
            (
                "ahead, a busy core",
                87_400,
                vec![(1002, 87_403, 10), (1003, 87_404, 11), (1004, 87_405, 12)],
                vec![false, false, true],
            ),
            ("a day behind", 1000, vec![(87_400, 1001, 10), (87_403, 1004, 13)], vec![false, true]),
            (
                "the same once more",
                87_400,
                vec![(1002, 87_403, 10), (1002, 87_406, 13), (1006, 87_407, 14)],
                vec![false, false, true],
            ),
        ] {
            let mut arrival = Arrival::new(seconds(started));
            let heard = news.iter().map(|(time, wall, boot)| arrival.is_shown_by(seconds(*time), clocks(*wall, *boot)));
            assert_eq!(heard.collect::<Vec<_>>(), shown, "{name}");
        }
    }

    #[test]
    fn a_checkpoint_from_the_future_stops_trust_until_a_heartbeat_agrees() {
        let mut clock = clock();
        clock.certified(UnixMillis(4_000_000_000), clocks(1000, 10));
        assert_eq!(clock.now(clocks(1000, 10)), Err(ClockError::FromTheFuture { ahead_ms: 3_999_000_000 }));
        let floor = clock.floor(clocks(1000, 10));
        assert_eq!(floor, ClockFloor::default(), "the future never becomes the floor");
        clock.certified(UnixMillis(1_003_000), clocks(1003, 13));
        assert_eq!(clock.freshness_ms(clocks(1004, 14)), Ok(Some(1_000)));
    }
}
