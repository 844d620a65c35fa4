//! openraft's simulated runtime, with every spawned task belonging to the life of a node.
//!
//! A power cut drops a process at whatever await point it stands; `Raft::shutdown` would let it say goodbye. So a
//! node runs inside a [`Life`]: what is spawned while one of its tasks is polled belongs to it too, and [`Life::end`]
//! drops all of them at once. [`NodeRuntime`] is what openraft and our own tasks of a node spawn with; the world
//! itself (wires, disks, the scenario) spawns on [`SimRuntime`] and outlives every node.
//!
//! Invariants:
//! 1. After `end` returns no code of that life runs again, and nothing that it owned is left.
//! 2. Tasks are dropped in the order in which they were spawned, so that a seed replays.
//! 3. A panic in a task is kept ([`Life::take_panics`]): it is never lost in a join handle that nobody awaits.

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use openraft::{AsyncRuntime, OptionalSend};
use openraft_rt_sim::SimRuntime;

thread_local! {
    /// The life whose task is being polled on this thread.
    static CURRENT: RefCell<Option<Life>> = const { RefCell::new(None) };
}

/// A poisoned lock means that a task panicked; that is kept and reported, and the run goes on to its end.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One life of a node's process, from its start to a crash. Clones are the same life.
#[derive(Clone, Default)]
pub struct Life(Arc<Mutex<Tasks>>);

#[derive(Default)]
struct Tasks {
    ended: bool,
    next: u64,
    running: BTreeMap<u64, Arc<dyn Droppable>>,
    panics: Vec<String>,
    /// Tasks that were to run while the process was stopped.
    stopped: Option<Vec<Waker>>,
}

trait Droppable: Send + Sync {
    fn drop_future(&self);
}

type Slot<F> = Mutex<Option<Pin<Box<F>>>>;

impl<F: Future + Send> Droppable for Slot<F> {
    fn drop_future(&self) {
        // Dropped after the lock is released: its drop may wake others.
        let future = lock(self).take();
        drop(future);
    }
}

impl Life {
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes `future` a task of this life.
    pub fn own<F: Future + Send + 'static>(&self, future: F) -> Owned<F> {
        let slot: Arc<Slot<F>> = Arc::new(Mutex::new(Some(Box::pin(future))));
        let mut tasks = lock(&self.0);
        let number = tasks.next;
        tasks.next += 1;
        if tasks.ended {
            // Whoever died spawns nothing any more.
            lock(&slot).take();
        } else {
            tasks.running.insert(number, slot.clone());
        }
        Owned { life: self.clone(), number, slot }
    }

    /// Spawns a task of this life.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        drop(SimRuntime::spawn(self.own(future)));
    }

    /// The process dies now: every task is dropped where it stands.
    pub fn end(&self) {
        let doomed = {
            let mut tasks = lock(&self.0);
            tasks.ended = true;
            std::mem::take(&mut tasks.running)
        };
        doomed.values().for_each(|task| task.drop_future());
    }

    /// The process is stopped where it stands (SIGSTOP): no task of it runs until [`Self::thaw`].
    pub fn freeze(&self) {
        lock(&self.0).stopped.get_or_insert_default();
    }

    /// It goes on, not knowing that time has passed.
    pub fn thaw(&self) {
        let waiting = lock(&self.0).stopped.take();
        waiting.into_iter().flatten().for_each(Waker::wake);
    }

    /// Whether a task must wait, because the process is stopped.
    fn holds(&self, context: &Context<'_>) -> bool {
        match &mut lock(&self.0).stopped {
            Some(waiting) => {
                waiting.push(context.waker().clone());
                true
            }
            None => false,
        }
    }

    /// What panicked in this life since the last look.
    pub fn take_panics(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.0).panics)
    }

    fn finished(&self, number: u64) {
        lock(&self.0).running.remove(&number);
    }

    fn panicked(&self, payload: &(dyn Any + Send)) {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
        lock(&self.0).panics.push(text.unwrap_or_else(|| "a panic without words".to_owned()));
    }
}

/// Restores what was current before, also when a poll panics.
struct Entered(Option<Life>);

impl Entered {
    fn into(life: &Life) -> Self {
        Self(CURRENT.with(|current| current.replace(Some(life.clone()))))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.with(|current| *current.borrow_mut() = self.0.take());
    }
}

/// A future that is polled in the name of a life, and never again after its end.
pub struct Owned<F: Future> {
    life: Life,
    number: u64,
    slot: Arc<Slot<F>>,
}

impl<F: Future + Send> Future for Owned<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        if self.life.holds(context) {
            return Poll::Pending;
        }
        let mut slot = lock(&self.slot);
        let Some(future) = slot.as_mut() else { return Poll::Pending };
        let entered = Entered::into(&self.life);
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context)));
        drop(entered);
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => {
                let future = slot.take();
                drop(slot);
                drop(future);
                self.life.finished(self.number);
                Poll::Ready(output)
            }
            Err(payload) => {
                drop(slot);
                self.life.panicked(&*payload);
                self.life.finished(self.number);
                resume_unwind(payload)
            }
        }
    }
}

/// The runtime that a node's code is generic over: [`SimRuntime`], with ownership of tasks.
#[derive(Debug)]
pub struct NodeRuntime(SimRuntime);

impl AsyncRuntime for NodeRuntime {
    type JoinError = <SimRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <SimRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <SimRuntime as AsyncRuntime>::Sleep;
    type Instant = <SimRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <SimRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <SimRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = <SimRuntime as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <SimRuntime as AsyncRuntime>::Mpsc;
    type Watch = <SimRuntime as AsyncRuntime>::Watch;
    type Oneshot = <SimRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <SimRuntime as AsyncRuntime>::Mutex<T>;

    #[track_caller]
    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        match CURRENT.with(|current| current.borrow().clone()) {
            Some(life) => SimRuntime::spawn(life.own(future)),
            None => SimRuntime::spawn(future),
        }
    }

    #[track_caller]
    fn sleep(duration: Duration) -> Self::Sleep {
        SimRuntime::sleep(duration)
    }

    #[track_caller]
    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        SimRuntime::sleep_until(deadline)
    }

    #[track_caller]
    fn timeout<R, F>(duration: Duration, future: F) -> Self::Timeout<R, F>
    where
        F: Future<Output = R> + OptionalSend,
    {
        SimRuntime::timeout(duration, future)
    }

    #[track_caller]
    fn timeout_at<R, F>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F>
    where
        F: Future<Output = R> + OptionalSend,
    {
        SimRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        SimRuntime::is_panic(join_error)
    }

    #[track_caller]
    fn thread_rng() -> Self::ThreadLocalRng {
        SimRuntime::thread_rng()
    }

    fn new(threads: usize) -> Self {
        Self(SimRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }

    fn spawn_blocking<F, T>(work: F) -> impl Future<Output = Result<T, io::Error>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        SimRuntime::spawn_blocking(work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn a_life_takes_its_tasks_and_theirs_with_it() {
        let counted = Arc::new(AtomicU32::new(0));
        let (inner, outer) = (counted.clone(), counted.clone());
        SimRuntime::with_seed(1).block_on(async move {
            let life = Life::new();
            life.spawn(async move {
                drop(NodeRuntime::spawn(async move {
                    loop {
                        NodeRuntime::sleep(Duration::from_millis(1)).await;
                        inner.fetch_add(1, Ordering::SeqCst);
                    }
                }));
                std::future::pending::<()>().await;
            });
            SimRuntime::sleep(Duration::from_millis(10)).await;
            life.end();
            let before = outer.load(Ordering::SeqCst);
            SimRuntime::sleep(Duration::from_millis(10)).await;
            assert!(before > 5);
            assert_eq!(outer.load(Ordering::SeqCst), before, "a dead node's task ran");
        });
        assert_eq!(Arc::strong_count(&counted), 1, "a dead node's task was kept");
    }

    #[test]
    fn a_panic_in_a_task_is_kept() {
        SimRuntime::with_seed(1).block_on(async {
            let life = Life::new();
            life.spawn(async { assert_eq!(1 + 1, 3, "arithmetic") });
            SimRuntime::sleep(Duration::from_millis(1)).await;
            let panics = life.take_panics();
            assert!(panics[0].contains("arithmetic"), "{panics:?}");
        });
    }
}
