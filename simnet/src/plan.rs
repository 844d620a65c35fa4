//! What one run does, drawn from its seed: the federation's size, its lines, the faults and their times, the work.
//!
//! A plan is data: a failing one is made smaller by leaving faults out ([`crate::shrink`]), and a scenario is a plan
//! that a person wrote. Makers of plans are here; what a fault does is in [`crate::world`].

use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use crate::network::{Host, Line, Lines};

/// Time at the beginning in which nothing breaks, so that there is something to lose.
const CALM_MS: u64 = 2_500;

/// A fault in the world that the checks must notice. The shipped code stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mutation {
    /// The disk under the Raft log says *durable* at once.
    AcknowledgeBeforeFsync,
    /// A sync that failed counts as done.
    IgnoreFailedSync,
    /// A core node sends cosignatures without waiting for the guard record.
    SignBeforeGuard,
    /// It waits for the record of a new size, but not when it dates the same size anew.
    DateBeforeGuard,
    /// One core node's machine forgets an entry.
    ForgetfulMachine,
}

/// Times in simulated milliseconds since the beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub seed: u64,
    pub size: Size,
    pub lines: Lines,
    /// Commands that each node registers.
    pub commands: u32,
    /// Pause between two of them at most.
    pub pause_ms_max: u64,
    /// In the order of their beginnings.
    pub faults: Vec<Timed>,
    /// Before the first fault everybody must hold a state that was certified within this.
    pub lag_ms_max: Option<u64>,
    /// After the last fault everything must be done within this.
    pub patience_ms: u64,
    pub mutation: Option<Mutation>,
}

/// How many nodes there are. Hosts count from 1, the core first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub core: u16,
    pub members: u16,
}

impl Size {
    pub fn hosts(self) -> impl DoubleEndedIterator<Item = Host> {
        (1..=self.core + self.members).map(Host)
    }

    pub fn is_core(self, host: Host) -> bool {
        host.0 <= self.core
    }
}

/// A fault with its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timed {
    pub at_ms: u64,
    pub lasts_ms: u64,
    pub fault: Fault,
}

/// Whom a fault hits, found out when it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Host(Host),
    /// The core node that leads.
    Leader,
    /// A core node that does not.
    Other,
}

/// What breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Power is lost: the process is gone, and of what was not synced a part.
    PowerCut { who: Who },
    /// The same, at a moment when something that it wrote is not synced.
    PowerCutInWrite { who: Who },
    /// The process stops where it stands, and goes on later with what it then believes.
    Freeze { who: Who },
    /// These and the others do not reach each other.
    Partition { side: Vec<Who> },
    /// What these say reaches nobody; they hear the others.
    Muted { side: Vec<Who> },
    /// The two do not reach each other, all others reach both.
    Bridge { between: [Who; 2] },
    /// The next sync of one of its disks fails: its process ends with that, and is started again later.
    FailedSync { who: Who },
    /// Some of its disks take nothing more, and it waits for room.
    FullDisk { who: Who },
    /// Each sync takes this many times as long.
    SlowDisk { who: Who, factor: u32 },
    /// The wall clock is wrong by this, and is set right at the end.
    ClockJump { who: Who, by_ms: i64 },
    /// Both clocks gain this many microseconds in a million.
    ClockDrift { who: Who, ppm: i64 },
    /// All lines lose and repeat more.
    BadLines { lost_per_10000: u32, repeated_per_10000: u32 },
}

/// A kind of fault, as a swarm draws it.
pub struct Kind {
    /// What counters call it: did a campaign really meet each?
    pub name: &'static str,
    /// Of wrong clocks one at a time: against a majority of them no promise of time is made.
    once: bool,
    draw: fn(Size, Who, &mut ChaCha8Rng) -> Fault,
}

impl Kind {
    const fn new(name: &'static str, draw: fn(Size, Who, &mut ChaCha8Rng) -> Fault) -> Self {
        Self { name, once: false, draw }
    }
}

/// Those drawn first. Their order is part of what a seed means; what is added later goes to [`LATER_KINDS`], whose draws
/// are their own, so that old seeds keep their faults.
const FIRST_KINDS: [Kind; 10] = [
    Kind::new("fault: power cut", |_, who, _| Fault::PowerCut { who }),
    Kind::new("fault: power cut in a write", |_, _, rng| Fault::PowerCutInWrite { who: core(rng) }),
    Kind::new("fault: freeze", |_, who, _| Fault::Freeze { who }),
    Kind::new("fault: partition", |size, _, rng| Fault::Partition { side: side(size, rng) }),
    Kind::new("fault: muted", |size, _, rng| Fault::Muted { side: side(size, rng) }),
    Kind::new("fault: bridge partition", |_, _, rng| Fault::Bridge { between: [Who::Leader, core(rng)] }),
    Kind::new("fault: slow disk", |_, who, rng| Fault::SlowDisk { who, factor: rng.random_range(5..60) }),
    Kind {
        once: true,
        ..Kind::new("fault: clock jump", |_, who, rng| Fault::ClockJump {
            who,
            by_ms: rng.random_range(6_000..7_200_000) * if rng.random() { 1 } else { -1 },
        })
    },
    Kind::new("fault: clock drift", |_, who, rng| Fault::ClockDrift { who, ppm: rng.random_range(-200..200) }),
    Kind::new("fault: bad lines", |_, _, rng| Fault::BadLines {
        lost_per_10000: rng.random_range(100..2_000),
        repeated_per_10000: rng.random_range(0..2_000),
    }),
];

const LATER_KINDS: [Kind; 2] = [
    Kind::new("fault: failed sync", |_, who, _| Fault::FailedSync { who }),
    Kind::new("fault: full disk", |_, who, _| Fault::FullDisk { who }),
];

/// All kinds.
pub fn kinds() -> impl Iterator<Item = &'static Kind> {
    FIRST_KINDS.iter().chain(&LATER_KINDS)
}

impl Fault {
    /// What counters call it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::PowerCut { .. } => "fault: power cut",
            Self::PowerCutInWrite { .. } => "fault: power cut in a write",
            Self::Freeze { .. } => "fault: freeze",
            Self::Partition { .. } => "fault: partition",
            Self::Muted { .. } => "fault: muted",
            Self::Bridge { .. } => "fault: bridge partition",
            Self::FailedSync { .. } => "fault: failed sync",
            Self::FullDisk { .. } => "fault: full disk",
            Self::SlowDisk { .. } => "fault: slow disk",
            Self::ClockJump { .. } => "fault: clock jump",
            Self::ClockDrift { .. } => "fault: clock drift",
            Self::BadLines { .. } => "fault: bad lines",
        }
    }
}

fn core(rng: &mut ChaCha8Rng) -> Who {
    if rng.random() { Who::Leader } else { Who::Other }
}

fn who(size: Size, rng: &mut ChaCha8Rng) -> Who {
    match rng.random_range(0..4) {
        0 => Who::Leader,
        1 => Who::Other,
        _ => Who::Host(Host(rng.random_range(1..=size.core + size.members))),
    }
}

fn side(size: Size, rng: &mut ChaCha8Rng) -> Vec<Who> {
    let share = [0.1, 0.3, 0.5].choose(rng).copied().unwrap_or(0.3);
    let mut side: Vec<Who> = size.hosts().filter(|_| rng.random_bool(share)).map(Who::Host).collect();
    side.push(core(rng));
    side
}

/// The random stream of one part of the world. Each part has its own, so that one's draws do not move another's.
pub fn stream(seed: u64, part: &str) -> ChaCha8Rng {
    let mut hasher = blake3::Hasher::new_derive_key("tessera simnet: random stream of a part");
    hasher.update(&seed.to_be_bytes()).update(part.as_bytes());
    rand::SeedableRng::from_seed(*hasher.finalize().as_bytes())
}

/// A random subset of these kinds, each several times.
fn draw(kinds: &[Kind], size: Size, minutes: u64, rng: &mut ChaCha8Rng) -> Vec<Timed> {
    let until_ms = CALM_MS + minutes.max(1) * 60_000;
    let mut faults = Vec::new();
    for kind in kinds.iter().filter(|_| rng.random_bool(0.4)).collect::<Vec<_>>() {
        let times = if kind.once { 1 } else { rng.random_range(1..=2 * minutes.max(1)) };
        for _ in 0..times {
            let (at_ms, lasts_ms) = (rng.random_range(CALM_MS..until_ms), rng.random_range(300..15_000));
            let who = who(size, rng);
            faults.push(Timed { at_ms, lasts_ms, fault: (kind.draw)(size, who, rng) });
        }
    }
    faults
}

impl Plan {
    /// Three core nodes and one that follows; a crash between write and sync with a restart, then a partition that heals.
    pub fn first_page(seed: u64) -> Self {
        let mut rng = stream(seed, "plan");
        let crash_ms = rng.random_range(CALM_MS..5_000);
        let victim = core(&mut rng);
        let crash = Timed {
            at_ms: crash_ms,
            fault: Fault::PowerCutInWrite { who: victim },
            lasts_ms: rng.random_range(500..4_000),
        };
        let partition_ms = rng.random_range(9_000..12_000);
        let mut side = vec![core(&mut rng)];
        side.extend(rng.random_bool(0.5).then_some(Who::Host(Host(4))));
        let partition =
            Timed { at_ms: partition_ms, fault: Fault::Partition { side }, lasts_ms: rng.random_range(3_000..9_000) };
        let line = Line {
            latency_us: rng.random_range(300..8_000),
            jitter_us: rng.random_range(200..6_000),
            lost_per_10000: rng.random_range(0..100),
            ..Line::default()
        };
        Self {
            seed,
            size: Size { core: 3, members: 1 },
            lines: Lines { core: line, members: line },
            commands: rng.random_range(24..40),
            pause_ms_max: 900,
            faults: vec![crash, partition],
            lag_ms_max: None,
            patience_ms: 60_000,
            mutation: None,
        }
    }

    /// The same federation, whose disks fail one after another.
    pub fn failing_disks(seed: u64) -> Self {
        let mut rng = stream(seed, "plan of failing disks");
        let mut at_ms = CALM_MS;
        let mut next = |fault| {
            at_ms += rng.random_range(1_000..4_000);
            Timed { at_ms, lasts_ms: rng.random_range(500..3_000), fault }
        };
        let follows = Who::Host(Host(4));
        let faults = [Who::Leader, follows, Who::Other, follows].map(|who| next(Fault::FailedSync { who }));
        let full = [Who::Leader, follows].map(|who| next(Fault::FullDisk { who }));
        Self { faults: faults.into_iter().chain(full).collect(), ..Self::first_page(seed) }
    }

    /// A federation over wide lines and under load: a certificate every 100 ms or so, and a round trip between the core
    /// and those that follow that is longer by far.
    pub fn wide_area(seed: u64) -> Self {
        let mut page = Self::first_page(seed);
        page.faults[0].at_ms = 6_000;
        // A lost question of a follower costs its whole timeout, which is not what this plan is about.
        let core = Line { lost_per_10000: 0, ..page.lines.core };
        let members = Line { latency_us: core.latency_us + 250_000, ..core };
        // Whole seconds are rounded down, and a range is asked for after the certificate is heard of.
        let lag_ms_max = Some(3_000);
        Self { lines: Lines { core, members }, commands: 160, pause_ms_max: 100, lag_ms_max, ..page }
    }

    /// A federation of this size over `minutes`, with a random subset of all faults, each several times.
    pub fn swarm(seed: u64, size: Size, minutes: u64) -> Self {
        let mut rng = stream(seed, "plan");
        let mut faults = draw(&FIRST_KINDS, size, minutes, &mut rng);
        faults.extend(draw(&LATER_KINDS, size, minutes, &mut stream(seed, "plan: later kinds of faults")));
        faults.sort_by_key(|timed| timed.at_ms);
        let profiles = [Line::FIBRE, Line::COUNTY, Line::SATELLITE];
        let core = profiles[..2].choose(&mut rng).copied().unwrap_or_default();
        let members = profiles.choose(&mut rng).copied().unwrap_or_default();
        let commands = rng.random_range(8..24);
        Self {
            seed,
            size,
            lines: Lines { core, members },
            commands,
            pause_ms_max: minutes.max(1) * 60_000 / u64::from(commands) * 2,
            faults,
            lag_ms_max: None,
            patience_ms: 180_000,
            mutation: None,
        }
    }

    /// The same plan as it was drawn before the later kinds were there.
    pub fn without_later_kinds(mut self) -> Self {
        self.faults.retain(|timed| FIRST_KINDS.iter().any(|kind| kind.name == timed.fault.name()));
        self
    }

    /// The same plan in a world with this fault.
    pub fn with(self, mutation: Mutation) -> Self {
        Self { mutation: Some(mutation), ..self }
    }
}
