//! What happened, in order: hashed whole, told in part.
//!
//! Every event (a packet with its bytes, a sync, a batch applied, a crash) goes into one BLAKE3 hash with its
//! simulated time. Two runs of one seed have the same hash, or something outside the seed decided. Some events are
//! also lines of the story that people read; breaches of promises are both. Counters say what a run met.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use openraft_rt_sim::SimInstant;

use crate::runtime::lock;

/// Breaches that one run keeps; the first ones explain the rest.
const BREACHES_MAX: usize = 8;

/// What was promised (DESIGN section 2), or must hold for the run to mean anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// P1: what was answered with success survives crashes, and ends certified.
    NothingLost,
    /// P2: every state is a prefix of one history; each command applies once, in its stream's order.
    OneHistory,
    /// P3: only what a quorum certified is believed, and signers keep to their guard.
    NothingForged,
    /// After the faults stop, all pending work finishes in bounded time.
    Liveness,
    /// The node's own assertions.
    NoPanic,
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NothingLost => "P1 no lost examination",
            Self::OneHistory => "P2 one history",
            Self::NothingForged => "P3 nobody can forge",
            Self::Liveness => "liveness",
            Self::NoPanic => "no panic",
        })
    }
}

/// A promise that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    pub at_ms: u64,
    pub promise: Promise,
    pub what: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BROKEN {} at {} ms: {}", self.promise, self.at_ms, self.what)
    }
}

/// What is left when a run is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub hash: blake3::Hash,
    pub events: u64,
    pub story: Vec<String>,
    pub breaches: Vec<Breach>,
    pub counters: BTreeMap<&'static str, u64>,
}

/// Clones write to the same journal.
#[derive(Clone, Default)]
pub struct Journal(Arc<Mutex<Pages>>);

#[derive(Default)]
struct Pages {
    hasher: blake3::Hasher,
    events: u64,
    story: Vec<String>,
    breaches: Vec<Breach>,
    counters: BTreeMap<&'static str, u64>,
}

/// Simulated time since the beginning, nanoseconds.
fn now_ns() -> u64 {
    SimInstant::try_now().map_or(0, |now| u64::try_from(now.elapsed_since_start().as_nanos()).unwrap_or(u64::MAX))
}

impl Pages {
    fn hash(&mut self, name: &str, parts: &[&[u8]]) {
        self.hasher.update(&now_ns().to_be_bytes());
        for part in [name.as_bytes()].iter().chain(parts) {
            self.hasher.update(&(part.len() as u64).to_be_bytes());
            self.hasher.update(part);
        }
        self.events += 1;
    }
}

impl Journal {
    /// An event that only the hash and a counter keep. `parts` are whatever tells it from others.
    pub fn event(&self, name: &'static str, parts: &[&[u8]]) {
        let mut pages = lock(&self.0);
        pages.hash(name, parts);
        *pages.counters.entry(name).or_default() += 1;
    }

    /// An event that people read.
    pub fn tell(&self, line: &str) {
        let mut pages = lock(&self.0);
        pages.hash("story", &[line.as_bytes()]);
        let now_ms = now_ns() / 1_000_000;
        pages.story.push(format!("{:>4}.{:03} s  {line}", now_ms / 1000, now_ms % 1000));
    }

    /// A promise does not hold.
    pub fn breach(&self, promise: Promise, what: String) {
        let breach = Breach { at_ms: now_ns() / 1_000_000, promise, what };
        if lock(&self.0).breaches.len() < BREACHES_MAX {
            self.tell(&breach.to_string());
            lock(&self.0).breaches.push(breach);
        }
    }

    pub fn has_breaches(&self) -> bool {
        !lock(&self.0).breaches.is_empty()
    }

    pub fn record(&self) -> Record {
        let pages = lock(&self.0);
        Record {
            hash: pages.hasher.finalize(),
            events: pages.events,
            story: pages.story.clone(),
            breaches: pages.breaches.clone(),
            counters: pages.counters.clone(),
        }
    }
}
