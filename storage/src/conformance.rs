//! The suite that every engine passes: random histories against a model, crashes included.
//!
//! The model is the list of states after each batch. At any moment the engine's state is the last of them; after a
//! crash it is one of them, no older than the last sync. That one sentence covers atomicity, order and durability.
//!
//! An engine joins by implementing [`Disk`] for its test set-up and calling [`run`]. Available to other crates with
//! the feature `conformance`.

use std::collections::BTreeMap;
use std::sync::mpsc;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::engine::{Batch, Engine, EngineError, Table, Ticket, View};

/// The tables that the suite uses.
pub const TABLES: &[Table] = &["first", "second"];

/// A disk with an open engine on it, under the suite's control.
pub trait Disk {
    fn engine(&self) -> &dyn Engine;

    /// Makes everything up to `newest`, the last ticket handed out, durable.
    fn sync(&mut self, newest: Ticket);

    /// The process dies and the machine with it, without a word to the engine; then the disk is opened again.
    /// `survives` in 0..=255 says how much of the unsynced tail the disk happened to keep.
    fn crash(self, survives: u8) -> Self;
}

#[derive(Clone, Debug)]
enum Change {
    Put(Table, Vec<u8>, Vec<u8>),
    Delete(Table, Vec<u8>),
    DeleteRange(Table, Vec<u8>, Vec<u8>),
}

#[derive(Clone, Debug)]
enum Step {
    Submit(Vec<Change>),
    Read { table: Table, from: Vec<u8>, to: Option<Vec<u8>>, limit: usize },
    Snapshot,
    Sync,
    Crash { survives: u8 },
}

/// Keys from few bytes, so that histories meet; the bytes are those at which orders go wrong.
fn key() -> impl Strategy<Value = Vec<u8>> {
    vec(prop::sample::select(vec![0x00, 0x01, 0x7F, 0x80, 0xFF]), 0..4)
}

fn table() -> impl Strategy<Value = Table> {
    prop::sample::select(TABLES)
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => (table(), key(), vec(any::<u8>(), 0..40)).prop_map(|(table, key, value)| Change::Put(table, key, value)),
        2 => (table(), key()).prop_map(|(table, key)| Change::Delete(table, key)),
        1 => (table(), key(), key()).prop_map(|(table, from, to)| Change::DeleteRange(table, from, to)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let read = (table(), key(), prop::option::of(key()), 0..6_usize);
    prop_oneof![
        12 => vec(change(), 0..6).prop_map(Step::Submit),
        8 => read.prop_map(|(table, from, to, limit)| Step::Read { table, from, to, limit }),
        2 => Just(Step::Snapshot),
        3 => Just(Step::Sync),
        1 => any::<u8>().prop_map(|survives| Step::Crash { survives }),
    ]
}

type State = BTreeMap<Table, BTreeMap<Vec<u8>, Vec<u8>>>;

fn empty_state() -> State {
    TABLES.iter().map(|table| (*table, BTreeMap::new())).collect()
}

fn apply(state: &mut State, batch: &mut Batch, change: Change) {
    match change {
        Change::Put(table, key, value) => {
            batch.put(table, key.clone(), value.clone());
            state.get_mut(table).expect("suite table").insert(key, value);
        }
        Change::Delete(table, key) => {
            batch.delete(table, key.clone());
            state.get_mut(table).expect("suite table").remove(&key);
        }
        Change::DeleteRange(table, from, to) => {
            batch.delete_range(table, from.clone(), to.clone());
            state.get_mut(table).expect("suite table").retain(|key, _| !(from <= *key && *key < to));
        }
    }
}

fn whole_state(view: &(impl View + ?Sized)) -> State {
    TABLES
        .iter()
        .map(|table| (*table, view.scan(table, b"", None, usize::MAX).expect("scan").into_iter().collect()))
        .collect()
}

/// One history: the states after each batch since the last crash, and which of them is surely on the disk.
struct History {
    states: Vec<State>,
    synced: usize,
    last_ticket: Ticket,
    snapshots: Vec<(Box<dyn View>, State)>,
}

impl History {
    fn new() -> Self {
        Self { states: vec![empty_state()], synced: 0, last_ticket: Ticket::ZERO, snapshots: Vec::new() }
    }

    fn newest(&self) -> &State {
        self.states.last().expect("a history has a first state")
    }

    fn submit(&mut self, engine: &dyn Engine, changes: Vec<Change>) {
        let mut state = self.newest().clone();
        let mut batch = Batch::new();
        changes.into_iter().for_each(|change| apply(&mut state, &mut batch, change));
        let ticket = engine.submit(batch).expect("submit");
        assert!(ticket > self.last_ticket, "tickets grow with the order of submission");
        self.last_ticket = ticket;
        self.states.push(state);
    }

    fn read(&self, engine: &dyn Engine, table: Table, from: &[u8], to: Option<&[u8]>, limit: usize) {
        let rows = &self.newest()[table];
        assert_eq!(engine.get(table, from).expect("get"), rows.get(from).cloned(), "get {from:?}");
        let in_range = |key: &[u8]| key >= from && to.is_none_or(|to| key < to);
        let expected: Vec<_> =
            rows.iter().filter(|(key, _)| in_range(key)).map(|(key, value)| (key.clone(), value.clone())).collect();
        let forward: Vec<_> = expected.iter().take(limit).cloned().collect();
        let backward: Vec<_> = expected.iter().rev().take(limit).cloned().collect();
        assert_eq!(engine.scan(table, from, to, limit).expect("scan"), forward, "scan");
        assert_eq!(engine.scan_back(table, from, to, limit).expect("scan_back"), backward, "scan_back");
    }

    fn sync<D: Disk>(&mut self, disk: &mut D) {
        disk.sync(self.last_ticket);
        self.synced = self.states.len() - 1;
        assert_eq!(disk.engine().durable(), self.last_ticket, "a sync covers everything submitted");
    }

    fn crash<D: Disk>(&mut self, disk: D, survives: u8) -> D {
        self.snapshots.clear();
        let disk = disk.crash(survives);
        let found = whole_state(disk.engine());
        let kept = self.states.iter().rposition(|state| *state == found);
        let kept = kept.expect("after a crash the engine holds the batches of a prefix, whole");
        assert!(kept >= self.synced, "durable batches survive: {kept} of {}", self.synced);
        *self = Self { states: vec![found], ..Self::new() };
        disk
    }

    fn check_snapshots(&self) {
        for (snapshot, state) in &self.snapshots {
            assert_eq!(whole_state(snapshot.as_ref()), *state, "a snapshot does not change");
        }
    }
}

fn play<D: Disk>(mut disk: D, steps: Vec<Step>) {
    let mut history = History::new();
    for step in steps {
        match step {
            Step::Submit(changes) => history.submit(disk.engine(), changes),
            Step::Read { table, from, to, limit } => history.read(disk.engine(), table, &from, to.as_deref(), limit),
            Step::Snapshot => history.snapshots.push((disk.engine().snapshot(), history.newest().clone())),
            Step::Sync => history.sync(&mut disk),
            Step::Crash { survives } => disk = history.crash(disk, survives),
        }
        history.check_snapshots();
    }
    assert_eq!(whole_state(disk.engine()), *history.newest());
    history.crash(disk, 0);
}

fn completions_come_in_ticket_order<D: Disk>(mut disk: D) {
    let tickets: Vec<_> = (0..20_u8)
        .map(|number| {
            let mut batch = Batch::new();
            batch.put("first", vec![number], vec![]);
            disk.engine().submit(batch).expect("submit")
        })
        .collect();
    let (sender, receiver) = mpsc::channel();
    for ticket in tickets.iter().skip(1).step_by(2) {
        let (sender, ticket) = (sender.clone(), *ticket);
        disk.engine().on_durable(ticket, Box::new(move |result| sender.send((ticket, result)).expect("test waits")));
    }
    disk.sync(tickets[tickets.len() - 1]);
    drop(sender);
    let completed: Vec<_> = receiver.iter().collect();
    assert!(completed.iter().all(|(_, result)| result.is_ok()));
    let order: Vec<_> = completed.into_iter().map(|(ticket, _)| ticket).collect();
    let registered: Vec<_> = tickets.iter().skip(1).step_by(2).copied().collect();
    assert_eq!(order, registered);
}

fn misuse_is_answered_and_changes_nothing<D: Disk>(disk: D) {
    let engine = disk.engine();
    let mut batch = Batch::new();
    batch.put("first", *b"k", *b"v").put("third", *b"k", *b"v");
    let unknown = EngineError::UnknownTable { table: "third".to_owned() };
    assert_eq!(engine.submit(batch), Err(unknown.clone()));
    assert_eq!(engine.get("first", b"k"), Ok(None), "no part of a refused batch is applied");
    assert_eq!(engine.get("third", b"k"), Err(unknown.clone()));
    assert_eq!(engine.scan("third", b"", None, 1), Err(unknown.clone()));
    assert_eq!(engine.scan_back("third", b"", Some(b""), 0), Err(unknown));
    let mut large = Batch::new();
    large.put("first", *b"k", vec![0; crate::engine::BATCH_BYTES_MAX]);
    assert!(matches!(engine.submit(large), Err(EngineError::BatchTooLarge { .. })));
    let never = Ticket::ZERO.next();
    let (sender, receiver) = mpsc::channel();
    engine.on_durable(never, Box::new(move |result| sender.send(result).expect("test waits")));
    assert_eq!(receiver.recv(), Ok(Err(EngineError::UnknownTicket { ticket: never })));
}

/// Runs the suite: `cases` random histories, each on a fresh disk from `format`, then the fixed cases.
pub fn run<D: Disk>(cases: u32, format: impl Fn() -> D) {
    let mut runner = TestRunner::new(Config { cases, ..Config::default() });
    let result = runner.run(&vec(step(), 1..60), |steps| {
        play(format(), steps);
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
    completions_come_in_ticket_order(format());
    misuse_is_answered_and_changes_nothing(format());
}
