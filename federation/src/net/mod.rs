//! The federation's network (feature `net`): libp2p over TCP, noise and yamux, and the drivers that run the
//! protocols over it. Decides nothing: what a peer says goes to the machines without input or output.
//!
//! - [`Net::start`] opens the door: it admits exactly the active members, by the transport key that the ledger knows
//!   of them, and keeps connections to those that can be reached. Who dialled makes no difference afterwards.
//! - [`NetHandle`] asks ([`PeerRequest`]), gossips and opens streams; [`NetEvent`] is what comes in.
//! - [`Server`] and [`fetch()`] run retrievals ([`crate::retrieve`]) over streams.
//!
//! Bounds: every queue has a named length; when one is full, requests are answered *busy*, gossip and streams are
//! dropped (the sender asks again), word of a peer's garbage is dropped, and only `PeerUp` and `PeerDown` wait, for they are as few as connections.

mod behaviour;
mod codec;
mod dialer;
mod directory;
mod fetch;
mod frames;
mod handle;
mod lane;
mod pump;
mod serve;
mod streams;
mod wire;
mod worker;

pub use fetch::{Fetch, ObjectSink, fetch, fetch_through};
pub use handle::{GossipVerdict, Net, NetError, NetEvent, NetHandle, ReplySender, StartError, Verdict};
pub use serve::{Changes, HolderHost, Server};
pub use streams::PeerStream;
pub use wire::{PeerReply, PeerRequest, RequestRefusal, SubmitOutcome};

use std::collections::BTreeMap;

use tessera_consensus::keys::PublicKey;
use tessera_consensus::{FederationId, NodeId};

/// Certified checkpoints and small blocks: what one gossip message may hold.
pub const GOSSIP_BYTES_MAX: usize = 128 * 1024;
/// Events that wait for the node.
pub const EVENTS_MAX: usize = 1024;
/// Orders of the node that wait for the network.
pub const COMMANDS_MAX: usize = 256;
/// Requests of others that wait for the node's answer, of up to 4 MiB each; more are answered *busy*.
pub const REQUESTS_WAITING_MAX: usize = 64;
/// Gossip messages that wait for the node's verdict; more are dropped.
pub const GOSSIP_WAITING_MAX: usize = 256;
/// Requests that one connection carries at a time, both ways together.
pub const REQUESTS_PER_CONNECTION_MAX: usize = 16;
/// How long a request may take.
pub const REQUEST_TIMEOUT_MS: u64 = 10_000;
/// Members that this node dials and keeps connected.
pub const DIALLED_PEERS_MAX: usize = 32;
/// Connections that others may hold open here.
pub const INBOUND_CONNECTIONS_MAX: u32 = 4_096;
/// Connections that are being set up by strangers, until their key is known.
pub const HANDSHAKES_MAX: u32 = 256;
/// How long a handshake may take.
pub const HANDSHAKE_TIMEOUT_MS: u64 = 10_000;
/// How often a quiet connection is tried, which also keeps translators from forgetting it.
pub const PING_INTERVAL_MS: u64 = 15_000;

/// A member as the network needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its transport key: who proves to hold it is this member.
    pub transport: PublicKey,
    /// libp2p multiaddresses; empty when it only dials out.
    pub addresses: Vec<String>,
}

/// What the network is started with.
#[derive(Clone, Debug)]
pub struct NetConfig {
    pub federation: FederationId,
    pub node: NodeId,
    /// Seed of this node's transport key.
    pub transport_seed: [u8; 32],
    /// Multiaddresses to listen on, such as `/ip4/0.0.0.0/tcp/4001`; empty: only dial out.
    pub listen: Vec<String>,
    /// Addresses that the operator knows beside those in the ledger.
    pub extra_addresses: BTreeMap<NodeId, Vec<String>>,
}
