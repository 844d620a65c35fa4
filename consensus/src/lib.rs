//! The agreeing plane of Tessera: ledger vocabulary, the kernel of the replicated machine, Raft, certification
//! and following. Generic over the domain machine that is nested under its own key prefix; knows no medicine.
//!
//! Start with [`wire::v1`] (what is signed and hashed), then [`kernel`] (what a command does), [`replica`] (how a
//! node keeps the ledger and its state), [`certify`] and [`follow`] (how a ledger becomes believable elsewhere).
//! Everything here is synchronous and without IO except the storage engine, but for `raft` (openraft's shell,
//! generic over its runtime) and `grpc` (feature `grpc`: the core's network).

// Tests beside the code share the world of those in `tests/`, which names this crate from outside.
#[cfg(test)]
extern crate self as tessera_consensus;

pub mod audit;
pub mod certify;
pub mod checkpoint;
pub mod clock;
pub mod digest;
pub mod follow;
#[cfg(feature = "grpc")]
pub mod grpc;
pub mod ids;
pub mod kernel;
pub mod keys;
pub mod merkle;
pub mod raft;
pub mod replica;
pub mod state;
pub mod wire;

pub use ids::{
    Epoch, FederationId, Hash, Incarnation, Lane, LedgerIndex, LedgerSize, NodeId, Sequence, SiteId, Stream, UnixMillis,
};
