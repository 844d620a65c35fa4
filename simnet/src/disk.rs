//! A node's disk: [`MemoryEngine`] with a drive that syncs after a seeded delay, so that crashes fall between write
//! and sync.
//!
//! A sync covers what was written when it began, as `fdatasync` does. Writers never wait: completions run from the
//! drive. A sync may fail, after which the engine is dead until the next life, and what it should have covered may lie on
//! the disk or not; a full disk refuses what is new. Drives that lie exist to prove that the checks notice
//! ([`crate::plan::Mutation`]).

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use futures::channel::mpsc;
use openraft::AsyncRuntime;
use openraft_rt_sim::SimRuntime;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tessera_storage::engine::{Batch, DurableCallback, Engine, EngineError, Pairs, Table, Ticket, View};
use tessera_storage::memory::MemoryEngine;

use crate::journal::Journal;
use crate::runtime::lock;

/// An ordinary sync, microseconds: from a fast SSD to a busy one.
const SYNC_US: std::ops::Range<u64> = 800..6_000;
/// One sync in this many takes [`SLOW_SYNC_FACTOR`] times as long.
const SLOW_SYNC_EVERY: u32 = 40;
const SLOW_SYNC_FACTOR: u64 = 15;

/// When a disk says *durable* of what is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lies {
    Never,
    AfterFailedSync,
    Always,
}

/// A disk that survives the lives of its node.
pub struct Disk {
    name: String,
    memory: MemoryEngine,
    lies: Lies,
    /// How many times as long as usual a sync takes.
    slower: Arc<AtomicU32>,
    drive: Drive,
}

/// What moves the disk: its own randomness, so that another disk's luck does not change with it.
struct Drive {
    rng: ChaCha8Rng,
    journal: Journal,
}

impl Disk {
    /// An empty disk with these tables.
    pub fn new(name: String, tables: &[Table], lies: Lies, rng: ChaCha8Rng, journal: Journal) -> Self {
        let memory = MemoryEngine::open(tables).expect("the tables of a node have different names");
        Self { name, memory, lies, slower: Arc::new(AtomicU32::new(1)), drive: Drive { rng, journal } }
    }

    /// Starts the drive and hands out the engine for one life of the node.
    pub fn mount(&mut self) -> Arc<dyn Engine> {
        let (wake, mut awakened) = mpsc::unbounded();
        let (memory, journal, name) = (self.memory.clone(), self.drive.journal.clone(), self.name.clone());
        let slower = self.slower.clone();
        let mut rng: ChaCha8Rng = rand::SeedableRng::seed_from_u64(self.drive.rng.random());
        drop(SimRuntime::spawn(async move {
            while awakened.next().await.is_some() {
                while memory.unsynced() > 0 {
                    let covered = memory.unsynced();
                    let slow = rng.random_ratio(1, SLOW_SYNC_EVERY);
                    let delay_us = rng.random_range(SYNC_US) * if slow { SLOW_SYNC_FACTOR } else { 1 };
                    let slower = u64::from(slower.load(Ordering::Relaxed));
                    SimRuntime::sleep(Duration::from_micros(delay_us * slower)).await;
                    let synced = memory.flush_next(covered);
                    journal.event("sync", &[name.as_bytes(), &synced.to_be_bytes()]);
                    if synced == 0 {
                        break;
                    }
                }
            }
        }));
        Arc::new(Mounted { memory: self.memory.clone(), wake, lies: self.lies, newest: Mutex::new(Ticket::ZERO) })
    }

    /// The next sync fails.
    pub fn fail_next_sync(&self) {
        self.memory.fail_next_flush(EngineError::Io { detail: "a sync that the plan lets fail".into() });
    }

    /// Whether the disk takes nothing new.
    pub fn fill(&self, is_full: bool) {
        self.memory.set_full(is_full);
    }

    /// From now on a sync takes this many times as long.
    pub fn slow_down(&self, factor: u32) {
        self.slower.store(factor, Ordering::Relaxed);
    }

    /// Batches that a crash now may lose.
    pub fn unsynced(&self) -> usize {
        self.memory.unsynced()
    }

    /// The power fails: what was synced stays, of the rest a seeded number of the oldest batches. Returns how many
    /// batches were lost.
    pub fn crash(&mut self) -> usize {
        let unsynced = self.memory.unsynced();
        let keep = self.drive.rng.random_range(0..=unsynced);
        self.memory = self.memory.crash(keep);
        self.drive.journal.event("disk crash", &[self.name.as_bytes(), &keep.to_be_bytes()]);
        unsynced - keep
    }

    /// A window into what is durable, for the checks.
    pub fn probe(&self) -> Probe {
        Probe(self.memory.clone())
    }
}

/// Looks at a disk from outside, at what a crash could not take.
#[derive(Clone)]
pub struct Probe(MemoryEngine);

impl Probe {
    pub fn durable(&self, table: Table, key: &[u8]) -> Option<Vec<u8>> {
        MemoryEngine::restore(&self.0.image()).get(table, key).ok().flatten()
    }
}

struct Mounted {
    memory: MemoryEngine,
    wake: mpsc::UnboundedSender<()>,
    lies: Lies,
    newest: Mutex<Ticket>,
}

impl View for Mounted {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.memory.get(table, key)
    }
    fn scan(&self, table: Table, from: &[u8], to: Option<&[u8]>, limit: usize) -> Result<Pairs, EngineError> {
        self.memory.scan(table, from, to, limit)
    }
    fn scan_back(&self, table: Table, from: &[u8], to: Option<&[u8]>, limit: usize) -> Result<Pairs, EngineError> {
        self.memory.scan_back(table, from, to, limit)
    }
}

impl Engine for Mounted {
    fn submit(&self, batch: Batch) -> Result<Ticket, EngineError> {
        let ticket = self.memory.submit(batch)?;
        *lock(&self.newest) = ticket;
        // The drive lives as long as a mount does; when the world ends it may be gone first.
        let _ = self.wake.unbounded_send(());
        Ok(ticket)
    }

    fn on_durable(&self, ticket: Ticket, done: DurableCallback) {
        match self.lies {
            Lies::Never => self.memory.on_durable(ticket, done),
            Lies::AfterFailedSync => self.memory.on_durable(ticket, Box::new(|_| done(Ok(())))),
            Lies::Always => done(Ok(())),
        }
    }

    fn durable(&self) -> Ticket {
        if self.lies == Lies::Always { *lock(&self.newest) } else { self.memory.durable() }
    }

    fn snapshot(&self) -> Box<dyn View> {
        self.memory.snapshot()
    }
}
