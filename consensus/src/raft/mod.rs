//! Agreement of the core: openraft's shell around the ledger. Start with [`cluster`] (how a core node runs), then
//! [`proposer`] (how commands become batches), [`admission`] (what a core node checks before it takes a batch into
//! its log), [`state_machine`] (how a committed batch reaches the ledger) and [`log_store`] (how the log lies on
//! the disk).
//!
//! Generic over openraft's runtime and over the network, so that the simulator runs the shipped code. Tolerates
//! crashes, not lies: against those stands certification ([`crate::certify`]); the checks here stop what can be
//! stopped early. Bytes of peers are parsed in [`wire`] before openraft sees them.

pub mod admission;
pub mod cluster;
pub mod inbound;
pub mod intake;
pub mod log_storage;
pub mod log_store;
pub mod network;
pub mod proposer;
pub mod state_machine;
pub mod types;
pub mod watermark;
pub mod wire;

use std::sync::Arc;

use crate::ids::UnixMillis;

/// The node's own wall clock, as the driver hands it in.
pub type WallClock = Arc<dyn Fn() -> UnixMillis + Send + Sync>;

#[cfg(test)]
mod admission_tests;
#[cfg(test)]
mod intake_tests;
#[cfg(test)]
mod log_store_tests;
#[cfg(test)]
mod wire_tests;
#[cfg(test)]
#[path = "../../tests/world/mod.rs"]
mod world;
