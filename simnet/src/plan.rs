//! What one run does, drawn from its seed: lines, faults and their times, the workload's size.
//!
//! A plan is data. The first page has one shape (a crash between write and sync with a restart, then a partition
//! with its heal); scenarios and swarms of faults will be other makers of plans.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::network::Line;

/// Core nodes of this page: the size that tolerates one crash and no liar.
pub const CORE_NODES: u8 = 3;

/// A fault in the world that the checks must notice. The shipped code stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mutation {
    /// The disk under the Raft log says *durable* at once.
    AcknowledgeBeforeFsync,
    /// A core node sends cosignatures without waiting for the guard record.
    SignBeforeGuard,
    /// One core node's machine forgets an entry.
    ForgetfulMachine,
}

/// Times in simulated milliseconds since the beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub seed: u64,
    pub line: Line,
    /// One way, microseconds, that the lines of those that follow are longer than the core's.
    pub remote_us: u64,
    /// Commands that each node registers.
    pub commands: u32,
    /// Pause between two of them at most.
    pub pause_ms_max: u64,
    pub crash: Crash,
    pub partition: Partition,
    /// After the last fault everything must be done within this.
    pub patience_ms: u64,
    pub mutation: Option<Mutation>,
}

/// A core node loses power while something that it wrote is not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crash {
    pub at_ms: u64,
    /// Whether the leader of that moment is hit; otherwise one that follows.
    pub hits_leader: bool,
    pub down_ms: u64,
}

/// One core node is cut off, alone or with the member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    pub at_ms: u64,
    pub cuts_leader: bool,
    pub with_member: bool,
    pub lasts_ms: u64,
}

/// The random stream of one part of the world. Each part has its own, so that one's draws do not move another's.
pub fn stream(seed: u64, part: &str) -> ChaCha8Rng {
    let mut hasher = blake3::Hasher::new_derive_key("tessera simnet: random stream of a part");
    hasher.update(&seed.to_be_bytes()).update(part.as_bytes());
    rand::SeedableRng::from_seed(*hasher.finalize().as_bytes())
}

impl Plan {
    /// The first page's plan for `seed`.
    pub fn first_page(seed: u64) -> Self {
        let mut rng = stream(seed, "plan");
        let crash = Crash {
            at_ms: rng.random_range(2_500..5_000),
            hits_leader: rng.random_bool(0.5),
            down_ms: rng.random_range(500..4_000),
        };
        let partition = Partition {
            at_ms: rng.random_range(9_000..12_000),
            cuts_leader: rng.random_bool(0.5),
            with_member: rng.random_bool(0.5),
            lasts_ms: rng.random_range(3_000..9_000),
        };
        Self {
            seed,
            line: Line {
                latency_us: rng.random_range(300..8_000),
                jitter_us: rng.random_range(200..6_000),
                lost_per_10000: rng.random_range(0..100),
            },
            remote_us: 0,
            commands: rng.random_range(24..40),
            pause_ms_max: 900,
            crash,
            partition,
            patience_ms: 60_000,
            mutation: None,
        }
    }

    /// A federation over wide lines and under load: a certificate every 100 ms or so, and a round trip between the core
    /// and those that follow that is longer by far.
    pub fn wide_area(seed: u64) -> Self {
        let page = Self::first_page(seed);
        let crash = Crash { at_ms: 6_000, ..page.crash };
        // A lost question of a follower costs its whole timeout, which is not what this plan is about.
        let line = Line { lost_per_10000: 0, ..page.line };
        Self { line, remote_us: 250_000, commands: 160, pause_ms_max: 100, crash, ..page }
    }

    /// The same plan in a world with this fault.
    pub fn with(self, mutation: Mutation) -> Self {
        Self { mutation: Some(mutation), ..self }
    }
}
