//! The domain on a real ledger: replica, kernel and machine as shipped, on the engine in memory.
//!
//! - [`machine`]: every rule of the machine's table, and that nothing makes it panic or differ between replicas.
//! - [`history`]: what a key finds, and what others write under it in vain.
//! - [`outbox`]: crashes, restores and repeats at every step; everything arrives once and nobody is accused.

mod history;
mod machine;
mod outbox;
mod world;
