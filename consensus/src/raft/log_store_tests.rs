//! The log store: openraft's own suite on both engines, crashes between write and sync, the chain, the watermark.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::{FutureExt, TryStreamExt};
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{AsyncRuntime, EntryPayload, RaftLogReader};
use openraft_rt_sim::SimRuntime;
use openraft_rt_tokio::TokioRuntime;
use tessera_storage::engine::{Batch as EngineBatch, Engine};
use tessera_storage::memory::MemoryEngine;
use tessera_storage::rocks::{EngineOptions, RocksEngine};

use super::log_store::{LogError, LogStore, RAFT_LOG, RAFT_META, TABLES, Tip, TipAt};
use super::state_machine::{StateMachine, genesis_tip};
use super::types::{LeaderId, LogEntry, LogId, RaftId, SharedBatch, TypeConfig, Vote};
use super::watermark::{MemoryWatermark, Watermark};
use super::world::{World, ledger_engine};
use crate::ids::{Hash, UnixMillis};
use crate::wire::v1::{Batch, VERSION};

fn genesis() -> Tip {
    Tip { hash: Hash::blake3(&[b"genesis"]), time: UnixMillis(1) }
}

fn id(term: u64, index: u64) -> LogId {
    LogId { leader_id: LeaderId { term, node_id: RaftId(1) }, index }
}

fn blank(term: u64, index: u64) -> LogEntry {
    LogEntry { log_id: id(term, index), payload: EntryPayload::Blank }
}

/// A batch behind `previous`; what is in it does not matter here.
fn batch(world: &World, previous: Hash, seconds: u64) -> SharedBatch {
    let (time, proposer) = (UnixMillis::from_seconds(seconds), world.nodes[0].id());
    let submissions = vec![world.command(3, seconds, b"note")];
    SharedBatch::new(Batch { version: VERSION, previous, time, proposer, submissions })
}

fn normal(term: u64, index: u64, batch: &SharedBatch) -> LogEntry {
    LogEntry { log_id: id(term, index), payload: EntryPayload::Normal(batch.clone()) }
}

fn world() -> World {
    let addresses: Vec<String> = (1..=3).map(|n| format!("127.0.0.1:{n}")).collect();
    World::new(&addresses, UnixMillis(1_000_000))
}

fn memory() -> MemoryEngine {
    MemoryEngine::open(&TABLES).expect("tables")
}

fn open(engine: &MemoryEngine, watermark: &Arc<MemoryWatermark>) -> Result<LogStore, LogError> {
    LogStore::open(Arc::new(engine.clone()), watermark.clone(), genesis())
}

/// Appends and counts completions.
fn append(store: &LogStore, entries: impl IntoIterator<Item = LogEntry>, done: &Arc<AtomicUsize>) {
    let done = done.clone();
    let counted = move |result: std::io::Result<()>| {
        result.expect("durable");
        done.fetch_add(1, Ordering::SeqCst);
    };
    let entries: Vec<LogEntry> = entries.into_iter().collect();
    store.when_durable(store.append_entries(&entries).expect("append"), counted);
}

struct MemoryBuilder;

impl StoreBuilder<TypeConfig<SimRuntime>, LogStore, StateMachine> for MemoryBuilder {
    async fn build(&self) -> Result<((), LogStore, StateMachine), StorageError<TypeConfig<SimRuntime>>> {
        let replica = world().replica(ledger_engine());
        let engine = Arc::new(memory().auto_flush(true));
        let log = LogStore::open(engine, Arc::<MemoryWatermark>::default(), genesis_tip(&replica)).expect("log");
        let machine = StateMachine::open(replica, log.clone(), Arc::new(|_| {})).expect("state machine");
        Ok(((), log, machine))
    }
}

#[test]
fn openrafts_suite_passes_in_memory() {
    SimRuntime::with_seed(1).block_on(Suite::test_all(MemoryBuilder)).expect("suite");
}

struct RocksBuilder;

impl StoreBuilder<TypeConfig<TokioRuntime>, LogStore, StateMachine, tempfile::TempDir> for RocksBuilder {
    async fn build(
        &self,
    ) -> Result<(tempfile::TempDir, LogStore, StateMachine), StorageError<TypeConfig<TokioRuntime>>> {
        let directory = tempfile::tempdir().expect("directory");
        let replica = world().replica(ledger_engine());
        // The suite asks what the store answers, not what a power cut leaves.
        let options = EngineOptions { sync: false, ..EngineOptions::default() };
        let engine = RocksEngine::open(&directory.path().join("raft"), &TABLES, options).expect("engine");
        let log =
            LogStore::open(Arc::new(engine), Arc::<MemoryWatermark>::default(), genesis_tip(&replica)).expect("log");
        let machine = StateMachine::open(replica, log.clone(), Arc::new(|_| {})).expect("state machine");
        Ok((directory, log, machine))
    }
}

#[test]
fn openrafts_suite_passes_on_rocksdb() {
    TokioRuntime::new(2).block_on(Suite::test_all(RocksBuilder)).expect("suite");
}

#[test]
fn an_append_completes_when_it_is_durable_and_is_read_before() {
    let (engine, done) = (memory(), Arc::default());
    let store = open(&engine, &Arc::default()).expect("open");
    append(&store, [blank(1, 0), blank(1, 1)], &done);
    append(&store, [blank(1, 2)], &done);
    let mut vote = store.submit_vote(Vote::new(2, RaftId(3))).expect("vote");
    assert_eq!(store.entries(0..3).expect("read").len(), 3);
    assert_eq!(done.load(Ordering::SeqCst), 0);
    engine.flush_next(1);
    assert_eq!(done.load(Ordering::SeqCst), 1, "completions follow the order of the writes");
    engine.flush_next(1);
    assert_eq!((done.load(Ordering::SeqCst), (&mut vote).now_or_never().is_some()), (2, false));
    engine.flush_next(1);
    assert!(vote.now_or_never().expect("durable").expect("engine").is_ok());
}

#[test]
fn after_a_crash_the_log_holds_a_prefix_and_knows_its_tip() {
    let world = world();
    let first = batch(&world, genesis().hash, 2_000);
    let second = batch(&world, first.hash(), 2_001);
    for keep in 0..=3 {
        let (engine, watermark, done) = (memory(), Arc::<MemoryWatermark>::default(), Arc::default());
        let store = open(&engine, &watermark).expect("open");
        append(&store, [normal(1, 0, &first)], &done);
        append(&store, [blank(1, 1)], &done);
        append(&store, [normal(1, 2, &second)], &done);
        let store = open(&engine.crash(keep), &watermark).expect("nothing of it was confirmed");
        let tips = [genesis(), Tip::of(&first), Tip::of(&first), Tip::of(&second)];
        assert_eq!(store.tip(), Some(tips[keep]), "{keep} writes kept");
        assert_eq!(store.last_log_id(), (keep > 0).then(|| id(1, keep as u64 - 1)));
    }
}

#[test]
fn a_log_that_lost_what_it_confirmed_does_not_open() {
    let world = world();
    let first = batch(&world, genesis().hash, 2_000);
    let vote = Vote::new(4, RaftId(1));
    type Step = fn(&LogStore, &SharedBatch);
    let cases: [(&str, Step); 3] = [
        ("an entry", |store, first| append(store, [normal(1, 0, first)], &Arc::default())),
        ("a vote", |store, _| drop(store.submit_vote(Vote::new(4, RaftId(1))))),
        ("an entry behind a truncation", |store, first| {
            append(store, [normal(1, 0, first), blank(1, 1), blank(1, 2)], &Arc::default());
            store.truncate_to(Some(id(1, 0))).expect("truncate");
            append(store, [blank(2, 1)], &Arc::default());
        }),
    ];
    for (what, step) in cases {
        let (engine, watermark) = (memory(), Arc::<MemoryWatermark>::default());
        let old_copy = engine.image();
        let store = open(&engine, &watermark).expect("open");
        step(&store, &first);
        engine.flush_all();
        drop(open(&engine.crash(0), &watermark).unwrap_or_else(|error| panic!("{what} is still there: {error}")));
        match open(&MemoryEngine::restore(&old_copy), &watermark) {
            Err(LogError::LogShorterThanDurable { confirmed, .. }) => {
                assert!(confirmed.last_index.is_some() || confirmed.vote == Some(vote), "{what}");
            }
            other => panic!("{what} is lost, and yet {:?}", other.map(|store| store.last_log_id())),
        }
    }
}

#[test]
fn a_truncation_that_overtakes_an_append_leaves_no_false_watermark() {
    let (engine, watermark, done) = (memory(), Arc::<MemoryWatermark>::default(), Arc::default());
    let store = open(&engine, &watermark).expect("open");
    append(&store, [blank(1, 0), blank(1, 1), blank(1, 2)], &done);
    store.truncate_to(Some(id(1, 0))).expect("truncate");
    engine.flush_all();
    assert_eq!(done.load(Ordering::SeqCst), 1);
    assert_eq!(watermark.load().expect("load").last_index, None);
    assert_eq!(open(&engine.crash(0), &watermark).expect("open").last_log_id(), Some(id(1, 0)));
}

#[test]
fn the_chain_is_kept_over_truncation_and_purge_and_never_broken() {
    let world = world();
    let first = batch(&world, genesis().hash, 2_000);
    let second = batch(&world, first.hash(), 2_001);
    let (engine, watermark, done) = (memory().auto_flush(true), Arc::default(), Arc::default());
    let store = open(&engine, &watermark).expect("open");
    append(&store, [normal(1, 0, &first), blank(1, 1), normal(1, 2, &second)], &done);
    let refused = store.append_entries(&[normal(1, 3, &second)]).map(drop);
    assert!(matches!(refused, Err(LogError::BrokenChain { index: 3, .. })));
    let holed = store.append_entries(&[blank(1, 4)]).map(drop);
    assert!(matches!(holed, Err(LogError::Hole { expected: 3, found: 4 })));
    assert_eq!(store.last_log_id(), Some(id(1, 2)));

    let known = |tip: &SharedBatch| TipAt::Known(Tip::of(tip));
    let lookups = [
        (None, TipAt::Known(genesis())),
        (Some(id(1, 0)), known(&first)),
        (Some(id(1, 1)), known(&first)),
        (Some(id(1, 2)), known(&second)),
        (Some(id(2, 2)), TipAt::Missing),
        (Some(id(1, 7)), TipAt::Missing),
    ];
    for (at, expected) in lookups {
        assert_eq!(store.tip_at(at).expect("lookup"), expected, "{at:?}");
    }
    store.truncate_to(Some(id(1, 1))).expect("truncate");
    assert_eq!(store.last_batch_hash(), Some(first.hash()));
    store.purge_to(id(1, 1)).expect("purge");
    let store = open(&engine, &watermark).expect("open again");
    assert_eq!((store.tip(), store.purged()), (Some(Tip::of(&first)), Some(id(1, 1))));
    append(&store, [normal(2, 2, &second)], &done);
    assert_eq!(store.tip_at(Some(id(1, 1))).expect("lookup"), known(&first));
    assert_eq!(store.tip_at(Some(id(1, 0))).expect("lookup"), TipAt::Unknown);
    store.truncate_to(Some(id(1, 1))).expect("truncate");
    assert_eq!(store.tip(), Some(Tip::of(&first)), "back to the purged place");
}

#[test]
fn a_purge_beyond_the_log_takes_its_tip_from_the_snapshot() {
    let (engine, watermark) = (memory().auto_flush(true), Arc::default());
    let store = open(&engine, &watermark).expect("open");
    let tip = Tip { hash: Hash::blake3(&[b"snapshot"]), time: UnixMillis(7) };
    store.expect_snapshot(id(3, 9), tip);
    store.purge_to(id(3, 9)).expect("purge");
    assert_eq!((store.last_log_id(), store.tip()), (Some(id(3, 9)), Some(tip)));
    assert_eq!(open(&engine, &watermark).expect("open").tip(), Some(tip));
}

#[test]
fn damaged_bytes_are_named_and_never_panic() {
    let cases: [(&str, &'static str, &[u8], &[u8]); 5] = [
        ("an entry that is none", RAFT_LOG, &[0, 0, 0, 0, 0, 0, 0, 0], b"\x01garbage"),
        ("an entry of a later version", RAFT_LOG, &[0, 0, 0, 0, 0, 0, 0, 0], b"\x09"),
        ("a key that is no index", RAFT_LOG, b"short", b"\x01"),
        ("a vote that is none", RAFT_META, b"vote", b"\x01\xff"),
        ("an empty purged position", RAFT_META, b"purged", b""),
    ];
    for (what, table, key, value) in cases {
        let engine = memory().auto_flush(true);
        let mut written = EngineBatch::new();
        written.put(table, key, value);
        engine.submit(written).expect("submit");
        let opened = open(&engine, &Arc::default());
        assert!(matches!(opened, Err(LogError::Decode { .. })), "{what}");
    }
}

#[test]
fn long_reads_come_in_pieces_of_bounded_size() {
    let (engine, done) = (memory().auto_flush(true), Arc::default());
    let store = open(&engine, &Arc::default()).expect("open");
    append(&store, (0..50).map(|index| blank(1, index)), &done);
    let one = store.entries(0..1).expect("read").len();
    assert_eq!(one, 1);
    let limited = store.entries_limited(3, 50, 100).expect("read");
    let indices: Vec<u64> = limited.iter().map(|entry| entry.log_id.index).collect();
    assert!(indices.len() > 1 && indices.len() < 47, "{indices:?}");
    assert_eq!(indices, (3..3 + indices.len() as u64).collect::<Vec<_>>());
    assert_eq!(store.entries_limited(7, 50, 1).expect("read").len(), 1, "one at least, however large");
    let mut reader = store.clone();
    let stream = RaftLogReader::<TypeConfig<SimRuntime>>::entries_stream(&mut reader, 10..45);
    let entries = stream.now_or_never().expect("no waiting").try_collect::<Vec<_>>();
    let entries = entries.now_or_never().expect("no waiting").expect("read");
    let indices: Vec<u64> = entries.iter().map(|entry| entry.log_id.index).collect();
    assert_eq!(indices, (10..45).collect::<Vec<_>>());
}
