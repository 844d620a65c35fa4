//! The simulator's disk: an engine in memory whose syncs, crashes and faults happen only on command.
//!
//! It keeps two states: what is durable, and the batches submitted since, in order. Reads see both. Nothing
//! becomes durable by itself (unless `auto_flush` is on, for plain tests): the driver calls `flush_next`, so a
//! crash can fall between any write and its sync. `crash(keep)` is the power cut: the disk comes back with the
//! durable state and the first `keep` unsynced batches, which is all that a torn write-ahead log can leave
//! (invariant 3 of [`crate::engine`]). `image` and `restore` are the old copy that somebody puts back.
//!
//! Invariants: deterministic (no threads, clock, randomness or hash order); the visible state is the durable one
//! with every queued batch applied; callbacks run in ticket order, on the thread that flushes (or, for a ticket
//! that is durable already, on the caller's) and with no lock held.
//!
//! Not for production: nothing reaches a disk.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::engine::{Batch, DurableCallback, Engine, EngineError, Operation, Pairs, Table, Ticket, View, check_tables};

/// Rows of one table. Shared with snapshots and copied when changed while one is held.
type Rows = Arc<BTreeMap<Vec<u8>, Arc<[u8]>>>;

/// All tables at one moment. Cloning is cheap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tables(BTreeMap<Table, Rows>);

/// A copy of a durable state, as a backup or a cloned disk would hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryImage(Tables);

/// The engine. Clones are handles to the same disk: the driver keeps one and flushes, the core gets another.
#[derive(Clone, Debug)]
pub struct MemoryEngine {
    disk: Arc<Mutex<Disk>>,
}

struct Disk {
    durable_state: Tables,
    visible_state: Tables,
    /// Submitted and not yet durable, oldest first.
    unsynced: VecDeque<Batch>,
    submitted: Ticket,
    durable: Ticket,
    /// By ticket, then by order of registration.
    waiters: BTreeMap<(Ticket, u64), DurableCallback>,
    registrations: u64,
    auto_flush: bool,
    full: bool,
    failure: Option<EngineError>,
    dead: Option<String>,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Disk")
            .field("submitted", &self.submitted)
            .field("durable", &self.durable)
            .field("dead", &self.dead)
            .finish_non_exhaustive()
    }
}

impl MemoryEngine {
    /// An empty disk with these tables.
    pub fn open(tables: &[Table]) -> Result<Self, EngineError> {
        check_tables(tables)?;
        let tables = Tables(tables.iter().map(|table| (*table, Rows::default())).collect());
        Ok(Self::with_state(tables))
    }

    /// A disk that holds what `image` holds.
    pub fn restore(image: &MemoryImage) -> Self {
        Self::with_state(image.0.clone())
    }

    fn with_state(state: Tables) -> Self {
        let disk = Disk {
            durable_state: state.clone(),
            visible_state: state,
            unsynced: VecDeque::new(),
            submitted: Ticket::ZERO,
            durable: Ticket::ZERO,
            waiters: BTreeMap::new(),
            registrations: 0,
            auto_flush: false,
            full: false,
            failure: None,
            dead: None,
        };
        Self { disk: Arc::new(Mutex::new(disk)) }
    }

    /// With `on`, every batch is durable when `submit` returns, and callbacks run inside `submit` or `on_durable`.
    pub fn auto_flush(self, on: bool) -> Self {
        self.lock().auto_flush = on;
        if on {
            self.flush_all();
        }
        self
    }

    /// Makes up to `count` of the oldest unsynced batches durable and runs what waited for them. Returns how many.
    pub fn flush_next(&self, count: usize) -> usize {
        let (flushed, ready, result) = self.lock().flush(count);
        for done in ready {
            done(result.clone());
        }
        flushed
    }

    /// Makes everything submitted so far durable. Returns the number of batches.
    pub fn flush_all(&self) -> usize {
        let count = self.unsynced();
        self.flush_next(count)
    }

    /// Number of batches that a crash may lose.
    pub fn unsynced(&self) -> usize {
        self.lock().unsynced.len()
    }

    /// The next flush fails with `error`: it makes nothing durable, every waiter gets the error, the engine is dead.
    pub fn fail_next_flush(&self, error: EngineError) {
        self.lock().failure = Some(error);
    }

    /// While full, every batch that puts something is refused with [`EngineError::DiskFull`]; batches that only
    /// delete still pass, as they do on a disk with a reserve.
    pub fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    /// The process dies now and its disk is read again: this handle and its clones are dead, waiting callbacks
    /// are dropped uncalled (their process is gone), and the returned engine holds the durable state plus the
    /// first `keep` of the batches that were not synced.
    pub fn crash(&self, keep: usize) -> MemoryEngine {
        let mut disk = self.lock();
        disk.dead = Some("crashed".to_owned());
        disk.waiters.clear();
        let mut state = disk.durable_state.clone();
        for batch in disk.unsynced.drain(..).take(keep) {
            state.apply(&batch);
        }
        MemoryEngine::with_state(state)
    }

    /// A copy of what is durable now.
    pub fn image(&self) -> MemoryImage {
        MemoryImage(self.lock().durable_state.clone())
    }

    /// A panic of a callback must not turn into a second one here, so a poisoned lock is taken as it is: every
    /// method changes the disk in one step, none can leave it half done.
    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn visible(&self) -> Result<Tables, EngineError> {
        let disk = self.lock();
        disk.check_alive()?;
        Ok(disk.visible_state.clone())
    }
}

impl Disk {
    fn check_alive(&self) -> Result<(), EngineError> {
        match &self.dead {
            Some(cause) => Err(EngineError::Dead { cause: cause.clone() }),
            None => Ok(()),
        }
    }

    fn submit(&mut self, batch: Batch) -> Result<Ticket, EngineError> {
        self.check_alive()?;
        batch.check_size()?;
        self.visible_state.check(&batch)?;
        let puts = batch.operations().iter().any(|operation| matches!(operation, Operation::Put { .. }));
        if self.full && puts {
            return Err(EngineError::DiskFull { detail: "simulated".to_owned() });
        }
        self.visible_state.apply(&batch);
        self.unsynced.push_back(batch);
        self.submitted = self.submitted.next();
        Ok(self.submitted)
    }

    /// How many batches became durable, the callbacks to run in order, and with what.
    fn flush(&mut self, count: usize) -> (usize, Vec<DurableCallback>, Result<(), EngineError>) {
        if self.dead.is_some() || count == 0 {
            return (0, Vec::new(), Ok(()));
        }
        if let Some(error) = self.failure.take() {
            self.dead = Some(error.to_string());
            let waiting = std::mem::take(&mut self.waiters).into_values().collect();
            return (0, waiting, Err(error));
        }
        let count = count.min(self.unsynced.len());
        for batch in self.unsynced.drain(..count) {
            self.durable_state.apply(&batch);
            self.durable = self.durable.next();
        }
        let later = self.waiters.split_off(&(self.durable.next(), 0));
        let ready = std::mem::replace(&mut self.waiters, later).into_values().collect();
        (count, ready, Ok(()))
    }

    /// Keeps `done` for later, or gives it back with the answer that is known now.
    fn register(
        &mut self,
        ticket: Ticket,
        done: DurableCallback,
    ) -> Option<(DurableCallback, Result<(), EngineError>)> {
        if let Err(dead) = self.check_alive() {
            return Some((done, Err(dead)));
        }
        if ticket > self.submitted {
            return Some((done, Err(EngineError::UnknownTicket { ticket })));
        }
        if ticket <= self.durable {
            return Some((done, Ok(())));
        }
        self.registrations += 1;
        self.waiters.insert((ticket, self.registrations), done);
        None
    }
}

impl Engine for MemoryEngine {
    fn submit(&self, batch: Batch) -> Result<Ticket, EngineError> {
        let (ticket, auto_flush) = {
            let mut disk = self.lock();
            (disk.submit(batch)?, disk.auto_flush)
        };
        if auto_flush {
            self.flush_all();
        }
        Ok(ticket)
    }

    fn on_durable(&self, ticket: Ticket, done: DurableCallback) {
        let answer = self.lock().register(ticket, done);
        if let Some((done, result)) = answer {
            done(result);
        }
    }

    fn durable(&self) -> Ticket {
        self.lock().durable
    }

    fn snapshot(&self) -> Box<dyn View> {
        match self.visible() {
            Ok(tables) => Box::new(tables),
            Err(dead) => Box::new(DeadView(dead)),
        }
    }
}

impl View for MemoryEngine {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        // Under the lock, so that a following write need not copy the table.
        let disk = self.lock();
        disk.check_alive()?;
        disk.visible_state.get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], to: Option<&[u8]>, limit: usize) -> Result<Pairs, EngineError> {
        let disk = self.lock();
        disk.check_alive()?;
        disk.visible_state.scan(table, from, to, limit)
    }

    fn scan_back(&self, table: Table, from: &[u8], to: Option<&[u8]>, limit: usize) -> Result<Pairs, EngineError> {
        let disk = self.lock();
        disk.check_alive()?;
        disk.visible_state.scan_back(table, from, to, limit)
    }
}

impl Tables {
    fn rows(&self, table: Table) -> Result<&Rows, EngineError> {
        self.0.get(table).ok_or_else(|| EngineError::UnknownTable { table: table.to_owned() })
    }

    fn check(&self, batch: &Batch) -> Result<(), EngineError> {
        batch.operations().iter().try_for_each(|operation| self.rows(operation.table()).map(|_| ()))
    }

    /// Applies a batch that `check` has passed.
    fn apply(&mut self, batch: &Batch) {
        for operation in batch.operations() {
            let rows = Arc::make_mut(self.0.entry(operation.table()).or_default());
            match operation {
                Operation::Put { key, value, .. } => {
                    rows.insert(key.clone(), value.as_slice().into());
                }
                Operation::Delete { key, .. } => {
                    rows.remove(key);
                }
                Operation::DeleteRange { from, to, .. } => {
                    let doomed: Vec<_> = range(rows, from, Some(to)).map(|(key, _)| key.clone()).collect();
                    for key in doomed {
                        rows.remove(&key);
                    }
                }
            }
        }
    }
}

/// The rows with `from <= key < to`; none when the range is inverted, where `BTreeMap::range` would panic.
fn range<'a>(
    rows: &'a BTreeMap<Vec<u8>, Arc<[u8]>>,
    from: &'a [u8],
    to: Option<&'a [u8]>,
) -> impl DoubleEndedIterator<Item = (&'a Vec<u8>, &'a Arc<[u8]>)> {
    let upper = match to {
        Some(to) => Bound::Excluded(to.max(from)),
        None => Bound::Unbounded,
    };
    rows.range::<[u8], _>((Bound::Included(from), upper))
}

fn owned((key, value): (&Vec<u8>, &Arc<[u8]>)) -> (Vec<u8>, Vec<u8>) {
    (key.clone(), value.to_vec())
}

impl View for Tables {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(self.rows(table)?.get(key).map(|value| value.to_vec()))
    }

    fn scan(&self, table: Table, from: &[u8], to: Option<&[u8]>, limit: usize) -> Result<Pairs, EngineError> {
        Ok(range(self.rows(table)?, from, to).take(limit).map(owned).collect())
    }

    fn scan_back(&self, table: Table, from: &[u8], to: Option<&[u8]>, limit: usize) -> Result<Pairs, EngineError> {
        Ok(range(self.rows(table)?, from, to).rev().take(limit).map(owned).collect())
    }
}

/// What a snapshot of a dead engine is.
pub(crate) struct DeadView(pub(crate) EngineError);

impl View for DeadView {
    fn get(&self, _: Table, _: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        Err(self.0.clone())
    }

    fn scan(&self, _: Table, _: &[u8], _: Option<&[u8]>, _: usize) -> Result<Pairs, EngineError> {
        Err(self.0.clone())
    }

    fn scan_back(&self, _: Table, _: &[u8], _: Option<&[u8]>, _: usize) -> Result<Pairs, EngineError> {
        Err(self.0.clone())
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
