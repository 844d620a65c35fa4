//! The one thread that makes submitted batches durable and then tells those who wait, in ticket order.
//!
//! One sync carries every batch submitted before it began, so hundreds of waiting callers cost one fsync. The
//! thread syncs as soon as somebody waits, and otherwise when the oldest unsynced batch is [`LAG_MAX`] old.
//!
//! A failed sync kills the engine for good. After fsync has failed once, the kernel may have dropped the dirty
//! pages and marked them clean: a second fsync would report success for data that never reached the disk. Only a
//! new process, which reads back what the disk really holds, can know. So every later call answers
//! [`EngineError::Dead`] and the node stops.
//!
//! Not here: what a sync is. The engine passes it in, which is how the failure path is tested without a disk.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::engine::{DurableCallback, EngineError, Ticket};

/// Longest time for which a submitted batch stays unsynced when nobody waits for it.
pub(crate) const LAG_MAX: Duration = Duration::from_millis(50);

/// Makes durable whatever was written before it was called.
pub(crate) type Sync = Box<dyn FnMut() -> Result<(), EngineError> + Send>;

pub(crate) struct Flusher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    /// False once `State::dead` is set: readers look here without the lock that writers hold.
    alive: AtomicBool,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    submitted: Ticket,
    durable: Ticket,
    /// When the oldest batch behind `durable` was submitted.
    unsynced_since: Option<Instant>,
    /// By ticket, then by order of registration.
    waiters: BTreeMap<(Ticket, u64), DurableCallback>,
    registrations: u64,
    dead: Option<String>,
    closing: bool,
}

/// What the thread does next.
enum Task {
    /// Sync everything up to here.
    Sync(Ticket),
    /// Run callbacks whose tickets are durable already.
    Complete,
    Stop,
}

impl Flusher {
    pub(crate) fn start(sync: Sync) -> Result<Self, EngineError> {
        let shared = Arc::new(Shared { alive: AtomicBool::new(true), state: Mutex::default(), wake: Condvar::new() });
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("storage-flusher".to_owned())
            .spawn(move || for_thread.run(sync))
            .map_err(|error| EngineError::Io { detail: format!("cannot start the flusher thread: {error}") })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Runs `write` and gives it the next ticket. Writes are serialised here, so tickets follow their order.
    pub(crate) fn submit(&self, write: impl FnOnce() -> Result<(), EngineError>) -> Result<Ticket, EngineError> {
        let mut state = self.shared.lock();
        state.check_alive()?;
        write()?;
        state.submitted = state.submitted.next();
        if state.unsynced_since.is_none() {
            state.unsynced_since = Some(Instant::now());
            self.shared.wake.notify_one();
        }
        Ok(state.submitted)
    }

    pub(crate) fn on_durable(&self, ticket: Ticket, done: DurableCallback) {
        let refusal = {
            let mut state = self.shared.lock();
            let refusal = match state.check_alive() {
                Err(dead) => Some(dead),
                Ok(()) if ticket > state.submitted => Some(EngineError::UnknownTicket { ticket }),
                Ok(()) => None,
            };
            let Some(error) = refusal else {
                state.registrations += 1;
                let key = (ticket, state.registrations);
                state.waiters.insert(key, done);
                self.shared.wake.notify_one();
                return;
            };
            error
        };
        done(Err(refusal));
    }

    pub(crate) fn durable(&self) -> Ticket {
        self.shared.lock().durable
    }

    pub(crate) fn check_alive(&self) -> Result<(), EngineError> {
        if self.shared.alive.load(Ordering::Acquire) { Ok(()) } else { self.shared.lock().check_alive() }
    }

    /// Declares the engine dead, as after a write that failed half way. Waiters get `error`.
    pub(crate) fn kill(&self, error: &EngineError) {
        self.shared.die(error);
    }
}

impl Drop for Flusher {
    /// Syncs what is left and completes those who wait, so that a clean stop loses nothing.
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // The last handle may be dropped by a callback, on this very thread, which cannot wait for itself.
            if thread.thread().id() != std::thread::current().id() {
                drop(thread.join());
            }
        }
    }
}

impl Shared {
    /// Every method changes the state in one step, so a poisoned lock holds a sound state.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut sync: Sync) {
        loop {
            match self.next_task() {
                Task::Stop => return,
                Task::Complete => {}
                Task::Sync(target) => match sync() {
                    Ok(()) => self.synced(target),
                    Err(error) => {
                        self.die(&error);
                        return;
                    }
                },
            }
            let ready = self.lock().take_ready();
            if !self.complete(ready, &Ok(())) {
                return;
            }
        }
    }

    fn next_task(&self) -> Task {
        let mut state = self.lock();
        loop {
            if state.dead.is_some() {
                return Task::Stop;
            }
            let waiting = state.waiters.keys().next().map(|(ticket, _)| *ticket);
            let age = state.unsynced_since.map(|since| since.elapsed());
            match (waiting, age) {
                (Some(ticket), _) if ticket <= state.durable => return Task::Complete,
                (Some(_), _) => return state.begin_sync(),
                (None, Some(age)) if age >= LAG_MAX || state.closing => return state.begin_sync(),
                (None, Some(age)) => {
                    let waited = self.wake.wait_timeout(state, LAG_MAX - age);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                (None, None) if state.closing => return Task::Stop,
                (None, None) => state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn synced(&self, target: Ticket) {
        let mut state = self.lock();
        debug_assert!(state.durable <= target, "tickets complete in order");
        state.durable = target;
    }

    fn die(&self, error: &EngineError) {
        let waiting: Vec<_> = {
            let mut state = self.lock();
            state.dead.get_or_insert_with(|| error.to_string());
            self.alive.store(false, Ordering::Release);
            std::mem::take(&mut state.waiters).into_values().collect()
        };
        self.wake.notify_one();
        self.complete(waiting, &Err(error.clone()));
    }

    /// Runs callbacks in order. A callback that panics is a defect above whose half-done work cannot be trusted:
    /// the engine dies rather than serve it, and false is returned.
    fn complete(&self, callbacks: Vec<DurableCallback>, result: &Result<(), EngineError>) -> bool {
        let mut panicked = false;
        for done in callbacks {
            panicked |= catch_unwind(AssertUnwindSafe(|| done(result.clone()))).is_err();
        }
        if panicked {
            self.die(&EngineError::Dead { cause: "a completion callback panicked".to_owned() });
        }
        !panicked
    }
}

impl State {
    fn check_alive(&self) -> Result<(), EngineError> {
        match &self.dead {
            Some(cause) => Err(EngineError::Dead { cause: cause.clone() }),
            None => Ok(()),
        }
    }

    fn begin_sync(&mut self) -> Task {
        // From here on a new batch starts its own lag: this sync may begin before it.
        self.unsynced_since = None;
        Task::Sync(self.submitted)
    }

    fn take_ready(&mut self) -> Vec<DurableCallback> {
        let later = self.waiters.split_off(&(self.durable.next(), 0));
        std::mem::replace(&mut self.waiters, later).into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::sync::mpsc;

    use super::*;

    fn counting() -> (Flusher, Arc<AtomicU64>) {
        let syncs = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&syncs);
        let sync = move || {
            counter.fetch_add(1, Ordering::SeqCst);
            Ok(())
        };
        (Flusher::start(Box::new(sync)).unwrap(), syncs)
    }

    #[test]
    fn callbacks_run_in_ticket_order_whatever_the_order_of_registration() {
        let (gate_open, gate) = mpsc::channel::<()>();
        let sync = move || gate.recv().map_err(|_| EngineError::Io { detail: "gate".to_owned() });
        let flusher = Flusher::start(Box::new(sync)).unwrap();
        let tickets: Vec<_> = (0..50).map(|_| flusher.submit(|| Ok(())).unwrap()).collect();
        let (sender, receiver) = mpsc::channel();
        for ticket in tickets.iter().rev() {
            let (sender, ticket) = (sender.clone(), *ticket);
            flusher.on_durable(ticket, Box::new(move |result| sender.send((ticket, result)).unwrap()));
        }
        gate_open.send(()).unwrap();
        gate_open.send(()).unwrap();
        let seen: Vec<_> = (0..50).map(|_| receiver.recv().unwrap()).collect();
        assert_eq!(seen.iter().map(|(ticket, _)| *ticket).collect::<Vec<_>>(), tickets);
        assert!(seen.iter().all(|(_, result)| result.is_ok()));
    }

    #[test]
    fn a_batch_that_nobody_waits_for_is_synced_within_the_lag() {
        let (synced, receiver) = mpsc::channel();
        let sync = move || {
            synced.send(()).unwrap();
            Ok(())
        };
        let flusher = Flusher::start(Box::new(sync)).unwrap();
        flusher.submit(|| Ok(())).unwrap();
        assert_eq!(receiver.recv_timeout(Duration::from_secs(30)), Ok(()));
    }

    #[test]
    fn one_sync_carries_many_batches() {
        let (flusher, syncs) = counting();
        let last = (0..1000).fold(Ticket::ZERO, |_, _| flusher.submit(|| Ok(())).unwrap());
        let (sender, receiver) = mpsc::channel();
        flusher.on_durable(last, Box::new(move |result| sender.send(result).unwrap()));
        assert_eq!(receiver.recv().unwrap(), Ok(()));
        assert_eq!(flusher.durable(), last);
        assert!(syncs.load(Ordering::SeqCst) < 1000);
    }

    #[test]
    fn a_failed_sync_reaches_the_waiters_and_kills_everything_after() {
        let broken = EngineError::Io { detail: "simulated".to_owned() };
        let error = broken.clone();
        let flusher = Flusher::start(Box::new(move || Err(error.clone()))).unwrap();
        let ticket = flusher.submit(|| Ok(())).unwrap();
        let (sender, receiver) = mpsc::channel();
        for _ in 0..2 {
            let sender = sender.clone();
            flusher.on_durable(ticket, Box::new(move |result| sender.send(result).unwrap()));
        }
        let first = receiver.recv().unwrap().unwrap_err();
        let second = receiver.recv().unwrap().unwrap_err();
        assert_eq!(first, broken);
        // The second registration may have come before or after the death.
        assert!(second == broken || matches!(second, EngineError::Dead { .. }));
        assert!(matches!(flusher.submit(|| Ok(())), Err(EngineError::Dead { .. })));
        assert_eq!(flusher.durable(), Ticket::ZERO);
    }

    #[test]
    fn dropping_syncs_what_is_left() {
        let (flusher, syncs) = counting();
        flusher.submit(|| Ok(())).unwrap();
        drop(flusher);
        assert!(syncs.load(Ordering::SeqCst) >= 1);
    }
}
