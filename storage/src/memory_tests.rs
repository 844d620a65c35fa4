//! The memory engine against the suite, and its faults on command.

use std::sync::mpsc;

use super::*;
use crate::conformance::{self, Disk};
use crate::engine::wait_durable;

const TABLE: Table = "first";

struct MemoryDisk(MemoryEngine);

impl Disk for MemoryDisk {
    fn engine(&self) -> &dyn Engine {
        &self.0
    }

    fn sync(&mut self, _newest: Ticket) {
        self.0.flush_all();
    }

    fn crash(self, survives: u8) -> Self {
        let keep = self.0.unsynced() * usize::from(survives) / 255;
        Self(self.0.crash(keep))
    }
}

fn put(number: u8) -> Batch {
    let mut batch = Batch::new();
    batch.put(TABLE, [number], [number]);
    batch
}

fn keys(engine: &MemoryEngine) -> Vec<u8> {
    engine.scan(TABLE, b"", None, usize::MAX).unwrap().into_iter().map(|(key, _)| key[0]).collect()
}

fn open() -> MemoryEngine {
    MemoryEngine::open(conformance::TABLES).unwrap()
}

#[test]
fn passes_the_suite() {
    conformance::run(256, || MemoryDisk(open()));
}

#[test]
fn a_crash_keeps_the_durable_and_the_first_of_the_rest() {
    for (flushed, keep, expected) in
        [(0, 0, vec![]), (2, 0, vec![0, 1]), (2, 1, vec![0, 1, 2]), (1, 9, vec![0, 1, 2, 3])]
    {
        let engine = open();
        for number in 0..4 {
            engine.submit(put(number)).unwrap();
        }
        assert_eq!(engine.flush_next(flushed), flushed);
        let reopened = engine.crash(keep);
        assert_eq!(keys(&reopened), expected);
        assert!(matches!(engine.submit(put(9)), Err(EngineError::Dead { .. })));
        assert!(matches!(engine.snapshot().get(TABLE, b""), Err(EngineError::Dead { .. })));
    }
}

#[test]
fn a_failed_flush_tells_the_waiters_and_loses_nothing_that_was_durable() {
    let engine = open();
    engine.submit(put(0)).unwrap();
    engine.flush_all();
    let ticket = engine.submit(put(1)).unwrap();
    let (sender, receiver) = mpsc::channel();
    engine.on_durable(ticket, Box::new(move |result| sender.send(result).unwrap()));
    let error = EngineError::Io { detail: "simulated".to_owned() };
    engine.fail_next_flush(error.clone());
    assert_eq!(engine.flush_all(), 0);
    assert_eq!(receiver.recv().unwrap(), Err(error));
    assert!(matches!(engine.get(TABLE, b"k"), Err(EngineError::Dead { .. })));
    assert_eq!(keys(&engine.crash(0)), [0]);
}

#[test]
fn a_full_disk_refuses_puts_and_heals() {
    let engine = open();
    engine.submit(put(0)).unwrap();
    engine.set_full(true);
    assert!(matches!(engine.submit(put(1)), Err(EngineError::DiskFull { .. })));
    let mut deletes = Batch::new();
    deletes.delete(TABLE, [0]);
    engine.submit(deletes).unwrap();
    engine.set_full(false);
    engine.submit(put(2)).unwrap();
    assert_eq!(keys(&engine), [2]);
}

#[test]
fn an_old_image_put_back_is_what_was_durable_then() {
    let engine = open();
    engine.submit(put(0)).unwrap();
    engine.flush_all();
    engine.submit(put(1)).unwrap();
    let image = engine.image();
    engine.flush_all();
    assert_eq!(keys(&MemoryEngine::restore(&image)), [0]);
    assert_eq!(keys(&engine), [0, 1]);
}

#[test]
fn auto_flush_completes_inline() {
    let engine = open().auto_flush(true);
    let ticket = engine.submit(put(0)).unwrap();
    assert_eq!(engine.durable(), ticket);
    assert_eq!(wait_durable(&engine, ticket), Ok(()));
}

#[test]
fn waiting_on_an_engine_that_dies_ends() {
    let engine = open();
    let ticket = engine.submit(put(0)).unwrap();
    let waiting = engine.clone();
    let waiter = std::thread::spawn(move || wait_durable(&waiting, ticket));
    engine.crash(0);
    assert!(matches!(waiter.join().unwrap(), Err(EngineError::Dead { .. })));
}

#[test]
fn a_table_named_twice_is_refused() {
    let twice = MemoryEngine::open(&["a", "b", "a"]);
    assert_eq!(twice.unwrap_err(), EngineError::DuplicateTable { table: "a".to_owned() });
}
