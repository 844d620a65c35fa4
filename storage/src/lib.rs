//! Storage of a Tessera node: a key-value engine and a pixel store. Knows no medicine.
//!
//! - [`engine`]: the seam between the decision cores and the disk. A batch is visible at once and durable
//!   later, and the caller is told when: so a simulated crash can fall between the write and the sync.
//! - [`memory`]: the simulator's disk, deterministic, with faults on command.
//! - `rocks` (feature `rocksdb`): the real one.
//! - `conformance` (feature of that name): the suite that every engine passes.
//! - [`pixels`]: content-addressed objects, append-only, encrypted at rest.
//!
//! Not here: what keys and values mean. Table names and key layouts belong to the crates that own the data.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod engine;
#[cfg(feature = "rocksdb")]
mod flusher;
pub mod memory;
pub mod pixels;
#[cfg(feature = "rocksdb")]
pub mod rocks;
#[cfg(feature = "rocksdb")]
mod synced;

pub use engine::{
    Batch, DurableCallback, Engine, EngineError, Operation, Pairs, Table, Ticket, View, prefix_end, wait_durable,
};
pub use memory::{MemoryEngine, MemoryImage};
#[cfg(feature = "rocksdb")]
pub use rocks::{EngineOptions, RocksEngine};
