//! The one thread that writes records into the growing pack: many associations, one sync for all that wait.
//!
//! Callers seal their records on their own threads and queue them here. The thread takes whatever is queued, writes
//! it, calls fdatasync once, submits the index entries (unsynced: the packs can make them again) and completes the
//! callers in order. While a sync runs, the next group gathers.
//!
//! Invariants:
//! 1. A caller is told success only after the fdatasync that covers its record.
//! 2. A receipt never precedes the object that it speaks of: both go through one queue, and when a write fails,
//!    everything queued fails with it.
//! 3. A pack is synced before the next one is begun, so only the newest appended pack can have an unsynced end.
//! 4. After a full disk the partial records are cut off and the store lives on. After any other failed write, or a
//!    failed sync, it is dead: the page cache can no longer be trusted (see `flusher` for why).

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::engine::{Batch, EngineError};
use crate::pixels::core::{Core, Counters};
use crate::pixels::error::StoreError;
use crate::pixels::hash::ObjectHash;
use crate::pixels::index::{self, IndexChanges};
use crate::pixels::record::{HEADER_BYTES, Header, PACK_HEADER_BYTES, Place, ReceiptId, RecordKind};

/// Sealed bytes that wait to be written. When full, `push` blocks its caller: back-pressure on the senders.
const QUEUE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What a caller gets once its record is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub id: ReceiptId,
    pub hash: ObjectHash,
    /// Bytes of the object; zero for a tombstone.
    pub object_bytes: u64,
    /// False when the content was here already and only the envelope was added.
    pub is_new: bool,
    pub place: Place,
}

/// Called once by the writer thread, in the order of the records. Short: the next group waits for it.
pub type Completion = Box<dyn FnOnce(Result<Receipt, StoreError>) + Send>;

pub(crate) struct Job {
    pub(crate) header: Header,
    /// Bytes of the object that the receipt reports: a receipt's header has none.
    pub(crate) object_bytes: u64,
    pub(crate) work: Work,
    pub(crate) done: Completion,
    /// Set by the queue.
    push: u64,
}

pub(crate) enum Work {
    /// A sealed record with room for its header, which the writer fills in with the receipt's number.
    Append(Vec<u8>),
    /// A record that moves here from another pack and keeps its number; it is settled already.
    Move(Vec<u8>),
    /// A large object's own pack, durable and numbered already.
    Adopted(Place),
}

impl Job {
    pub(crate) fn new(header: Header, object_bytes: u64, work: Work, done: Completion) -> Self {
        Self { header, object_bytes, work, done, push: 0 }
    }

    fn bytes(&self) -> u64 {
        match &self.work {
            Work::Append(record) | Work::Move(record) => record.len() as u64,
            Work::Adopted(_) => 0,
        }
    }
}

pub(crate) struct Appender {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    core: Arc<Core>,
    queue: Mutex<Queue>,
    wake: Condvar,
    room: Condvar,
}

/// What a hash will be when the queue is written.
struct Coming {
    push: u64,
    is_stored: bool,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    bytes: u64,
    /// Hashes whose last queued statement is not in the index yet.
    coming: BTreeMap<ObjectHash, Coming>,
    /// Counts pushes, to know a hash's last one.
    pushes: u64,
    dead: Option<String>,
    closing: bool,
}

impl Appender {
    /// Starts the thread. `file` is the growing pack and ends where [`Core::growing`] says.
    pub(crate) fn start(core: Arc<Core>, file: File) -> Result<Self, StoreError> {
        let shared = Arc::new(Shared { core, queue: Mutex::default(), wake: Condvar::new(), room: Condvar::new() });
        let writer = Writer { shared: Arc::clone(&shared), file };
        let thread = std::thread::Builder::new().name("pixel-appender".to_owned()).spawn(move || writer.run());
        let failed = |error| StoreError::io("starting the writer thread", &shared.core.directory, &error);
        let thread = Some(thread.map_err(failed)?);
        Ok(Self { shared, thread })
    }

    pub(crate) fn check_alive(&self) -> Result<(), StoreError> {
        self.shared.lock().check_alive()
    }

    /// Ends the store, as after a failed write of its own: all that follows fails.
    pub(crate) fn end(&self, error: &StoreError) {
        self.shared.lock().dead.get_or_insert_with(|| error.to_string());
    }

    /// True when an object of this hash is stored or about to be.
    pub(crate) fn is_known(&self, hash: &ObjectHash) -> Result<bool, StoreError> {
        self.shared.is_known(&self.shared.lock(), hash)
    }

    /// Queues a job; blocks while the queue is full. A job that makes no sense any more is handed back: an object
    /// that has become known (its caller sends a receipt instead), a receipt or tombstone of one that is not.
    pub(crate) fn push(&self, mut job: Job) -> Result<Option<Job>, StoreError> {
        let mut queue = self.shared.lock();
        loop {
            queue.check_alive()?;
            if queue.jobs.is_empty() || queue.bytes + job.bytes() <= QUEUE_BYTES_MAX {
                break;
            }
            queue = self.shared.room.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        if matches!(job.work, Work::Append(_)) {
            let known = self.shared.is_known(&queue, &job.header.hash)?;
            if known == (job.header.kind == RecordKind::Object) {
                return Ok(Some(job));
            }
        }
        queue.pushes += 1;
        job.push = queue.pushes;
        let is_stored = match (&job.work, job.header.kind) {
            (Work::Move(_), _) | (_, RecordKind::Receipt) => None,
            (_, RecordKind::Object) => Some(true),
            (_, RecordKind::Tombstone) => Some(false),
        };
        if let Some(is_stored) = is_stored {
            queue.coming.insert(job.header.hash, Coming { push: job.push, is_stored });
        }
        queue.bytes += job.bytes();
        queue.jobs.push_back(job);
        self.shared.wake.notify_one();
        Ok(None)
    }
}

impl Drop for Appender {
    /// Writes what is queued, then the last watermarks.
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // The last handle may be dropped by a completion, on this very thread, which cannot wait for itself.
            if thread.thread().id() != std::thread::current().id() {
                drop(thread.join());
            }
        }
    }
}

impl Shared {
    /// The writer removes a hash from `coming` only after the index has it, so one of them knows.
    fn is_known(&self, queue: &Queue, hash: &ObjectHash) -> Result<bool, StoreError> {
        match queue.coming.get(hash) {
            Some(coming) => Ok(coming.is_stored),
            None => Ok(self.core.live(hash)?.is_some()),
        }
    }

    /// Every method changes the queue in one step, so a poisoned lock holds a sound queue.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next group; `None` when the store closes.
    fn next_group(&self) -> Option<VecDeque<Job>> {
        let mut queue = self.lock();
        while queue.jobs.is_empty() {
            if queue.closing || queue.dead.is_some() {
                return None;
            }
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        queue.bytes = 0;
        self.room.notify_all();
        Some(std::mem::take(&mut queue.jobs))
    }

    /// Fails `jobs` and everything queued behind them, in one step (invariant 2).
    fn fail(&self, mut jobs: VecDeque<Job>, error: &StoreError) {
        {
            let mut queue = self.lock();
            if !matches!(error, StoreError::DiskFull { .. }) {
                queue.dead.get_or_insert_with(|| error.to_string());
            }
            jobs.append(&mut queue.jobs);
            queue.bytes = 0;
            queue.coming.clear();
            self.room.notify_all();
        }
        for job in jobs {
            self.complete(job.done, Err(error.clone()));
        }
    }

    /// A completion that panics is a defect above whose half-done work can't be trusted: the store dies.
    fn complete(&self, done: Completion, result: Result<Receipt, StoreError>) {
        if catch_unwind(AssertUnwindSafe(|| done(result))).is_err() {
            self.lock().dead.get_or_insert_with(|| "a completion panicked".to_owned());
        }
    }
}

impl Queue {
    fn check_alive(&self) -> Result<(), StoreError> {
        match &self.dead {
            Some(cause) => Err(StoreError::Dead { cause: cause.clone() }),
            None => Ok(()),
        }
    }
}

struct Writer {
    shared: Arc<Shared>,
    file: File,
}

/// A job whose record is durable.
struct Placed {
    job: Job,
    place: Place,
}

impl Writer {
    fn run(mut self) {
        while let Some(group) = self.shared.next_group() {
            if let Err((jobs, error)) = self.write_group(group) {
                self.shared.fail(jobs, &error);
            }
        }
        let alive = self.shared.lock().check_alive().is_ok();
        if alive {
            let mut batch = Batch::new();
            self.core().settlement().put_watermarks(&mut batch);
            // Without these watermarks the next start scans a little more.
            drop(self.core().engine.submit(batch));
        }
    }

    fn core(&self) -> &Core {
        &self.shared.core
    }

    /// Writes a group in runs that fit into the growing pack; on failure gives back what is not durable.
    fn write_group(&mut self, mut group: VecDeque<Job>) -> Result<(), (VecDeque<Job>, StoreError)> {
        while let Some(first) = group.front() {
            if self.is_full_for(first.bytes())
                && let Err(error) = self.roll()
            {
                return Err((group, error));
            }
            let mut run = VecDeque::new();
            let mut bytes = 0;
            while let Some(job) = group.pop_front() {
                if !run.is_empty() && self.is_full_for(bytes + job.bytes()) {
                    group.push_front(job);
                    break;
                }
                bytes += job.bytes();
                run.push_back(job);
            }
            if let Err((mut failed, error)) = self.write_run(run) {
                failed.append(&mut group);
                return Err((failed, error));
            }
        }
        Ok(())
    }

    fn is_full_for(&self, bytes: u64) -> bool {
        let used = self.core().growing().offset;
        used > PACK_HEADER_BYTES as u64 && used + bytes > self.core().options.pack_bytes_max
    }

    /// Begins the next pack. The present one is synced, since every run is.
    fn roll(&mut self) -> Result<(), StoreError> {
        let pack = self.core().take_pack_number();
        self.file = self.core().packs.create(pack, &self.core().keys)?;
        self.core().set_growing(Place { pack, offset: PACK_HEADER_BYTES as u64 });
        Ok(())
    }

    fn write_run(&mut self, run: VecDeque<Job>) -> Result<(), (VecDeque<Job>, StoreError)> {
        let start = self.core().growing();
        let mut place = start;
        let mut placed = Vec::with_capacity(run.len());
        let mut failure = None;
        for mut job in run {
            let at = place;
            if failure.is_none() {
                failure = self.write(&mut job, &mut place).err();
            }
            placed.push(Placed { job, place: at });
        }
        if failure.is_none() && place != start {
            failure = self.sync(start.pack).err();
        } else if failure.is_some() {
            failure = self.cut_back(start, failure);
        }
        if let Some(error) = failure {
            return Err((placed.into_iter().map(|placed| placed.job).collect(), error));
        }
        self.core().set_growing(place);
        self.index_and_complete(placed)
    }

    /// Writes one record behind the last and moves `place` behind it.
    fn write(&self, job: &mut Job, place: &mut Place) -> Result<(), StoreError> {
        if matches!(job.work, Work::Append(_)) {
            job.header.receipt = self.core().take_receipt();
        }
        let (Work::Append(record) | Work::Move(record)) = &mut job.work else { return Ok(()) };
        record[..HEADER_BYTES].copy_from_slice(&job.header.encode(&self.core().keys));
        let written = self.file.write_all_at(record, place.offset);
        written.map_err(|error| StoreError::io("writing a pack", &self.core().packs.path(place.pack), &error))?;
        place.offset += record.len() as u64;
        Ok(())
    }

    fn sync(&self, pack: u64) -> Result<(), StoreError> {
        Counters::count(&self.core().counters.syncs, 1);
        self.file.sync_data().map_err(|error| StoreError::sync(&self.core().packs.path(pack), &error))
    }

    /// Cuts off records that were written in part. When that fails too, the first error is no longer harmless.
    fn cut_back(&self, start: Place, failure: Option<StoreError>) -> Option<StoreError> {
        match self.file.set_len(start.offset) {
            Ok(()) => failure,
            Err(error) => {
                let detail = format!("{}: {error}", self.core().packs.path(start.pack).display());
                Some(StoreError::Io { action: "cutting a pack back".to_owned(), detail })
            }
        }
    }

    /// The records are durable. Index entries go ahead of the watermarks that will cover them.
    fn index_and_complete(&self, placed: Vec<Placed>) -> Result<(), (VecDeque<Job>, StoreError)> {
        if let Err(error) = self.submit_index(&placed) {
            return Err((placed.into_iter().map(|placed| placed.job).collect(), error));
        }
        {
            let mut queue = self.shared.lock();
            for Placed { job, .. } in &placed {
                let hash = &job.header.hash;
                if queue.coming.get(hash).is_some_and(|coming| coming.push == job.push) {
                    queue.coming.remove(hash);
                }
            }
        }
        for Placed { job, place } in placed {
            let place = if let Work::Adopted(own) = job.work { own } else { place };
            self.count(&job);
            let header = &job.header;
            let receipt = Receipt {
                id: header.receipt,
                hash: header.hash,
                object_bytes: job.object_bytes,
                is_new: header.kind == RecordKind::Object,
                place,
            };
            self.shared.complete(job.done, Ok(receipt));
        }
        Ok(())
    }

    fn submit_index(&self, placed: &[Placed]) -> Result<(), StoreError> {
        let core = self.core();
        let mut batch = Batch::new();
        {
            let mut settlement = core.settlement();
            // Watermarks first: those that this run's records move are not due yet.
            settlement.put_watermarks(&mut batch);
            for Placed { job, place } in placed {
                let end = place.offset + job.bytes();
                match &job.work {
                    Work::Append(_) => settlement.written(job.header.receipt, *place, end),
                    Work::Adopted(own) => {
                        settlement.written(job.header.receipt, *own, own.offset + job.header.record_bytes());
                    }
                    Work::Move(_) => settlement.passed(place.pack, end),
                }
            }
        }
        let mut changes = IndexChanges::default();
        for Placed { job, place } in placed {
            let place = if let Work::Adopted(own) = &job.work { own } else { place };
            changes.add(core.engine.as_ref(), &job.header, *place)?;
        }
        changes.put(&mut batch);
        index::put_highest_receipt(&mut batch, core.highest_receipt());
        match core.engine.submit(batch) {
            Ok(_) => Ok(()),
            // The engine's reserve is reached: the records stay in the pack, and the next start takes them in.
            Err(EngineError::DiskFull { detail }) => Err(StoreError::DiskFull { detail }),
            Err(error) => Err(error.into()),
        }
    }

    fn count(&self, job: &Job) {
        if matches!(job.work, Work::Move(_)) {
            return;
        }
        let counters = &self.core().counters;
        let counter = if job.header.kind == RecordKind::Object { &counters.objects } else { &counters.receipts };
        Counters::count(counter, 1);
        Counters::count(&counters.record_bytes, job.bytes());
    }
}
