//! The domain on a real ledger: replica, kernel and machine as shipped, on the engine in memory.
//!
//! - [`machine`]: every rule of the machine's table, and that nothing makes it panic or differ between replicas.
//! - [`history`]: what a key finds, and what others write under it in vain.
//! - [`formats`]: golden bytes of entries, ids and state.
//! - [`outbox`]: crashes, restores and repeats at every step; everything arrives once and nobody is accused.

mod formats;
mod history;
mod machine;
mod outbox;
mod world;
