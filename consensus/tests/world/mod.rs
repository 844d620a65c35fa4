//! A federation for tests of the core: nodes with their keys, a genesis, a domain that keeps notes, commands.
//!
//! Shared by the tests beside the code and those in this folder; everything is made from small numbers, nothing is
//! random, and nobody in it exists.

#![allow(dead_code)] // Each test binary uses its part.

use std::sync::Arc;

use tessera_consensus::kernel::{self, Domain, Entry, Verdict};
use tessera_consensus::keys::{KeyAlgorithm, PublicKey, SigningKey};
use tessera_consensus::raft::state_machine::RAFT_APPLIED;
use tessera_consensus::raft::types::RaftId;
use tessera_consensus::replica::{self, Replica};
use tessera_consensus::state::Transaction;
use tessera_consensus::wire::DecodeError;
use tessera_consensus::wire::v1::{
    CommandBody, Genesis, JoinCommand, Kind, NodeKeys, Role, SignedJoin, SiteDeclaration, Submission, VERSION,
};
use tessera_consensus::{Incarnation, Lane, NodeId, Sequence, Stream, UnixMillis};
use tessera_storage::engine::{Engine, EngineError, Table};
use tessera_storage::memory::MemoryEngine;

pub const NOTE: Kind = Kind(256);

/// Keeps the public bytes of each command under its index.
pub struct Notebook;

impl Domain for Notebook {
    fn found(&self, _: &[u8], _: &mut Transaction<'_>) -> Result<(), DecodeError> {
        Ok(())
    }
    fn apply(&self, entry: &Entry<'_>, state: &mut Transaction<'_>) -> Result<Verdict, EngineError> {
        let key = [&[kernel::DOMAIN][..], &entry.index.0.to_be_bytes()].concat();
        state.put(key, entry.body.public.clone());
        Ok(Verdict::Applied)
    }
}

pub struct Node {
    pub command: SigningKey,
    pub checkpoint: SigningKey,
    pub transport: SigningKey,
    pub join: SignedJoin,
}

impl Node {
    pub fn id(&self) -> NodeId {
        self.join.node_id()
    }
}

fn node(number: u8, role: Role, address: Option<String>) -> Node {
    let seed = |use_number: u8| SigningKey::from_seed([number * 8 + use_number; 32]);
    let (command, checkpoint, transport) = (seed(1), seed(2), seed(3));
    let join = JoinCommand {
        version: VERSION,
        name: format!("node-{number}"),
        role,
        sites: vec![SiteDeclaration { id: format!("site-{number}").parse().expect("site"), legal_name: "Site".into() }],
        keys: NodeKeys {
            command: command.public(),
            checkpoint: checkpoint.public(),
            transport: transport.public(),
            sealing: PublicKey::from_parts(KeyAlgorithm::X25519, [number; 32]),
        },
        peer_addresses: Vec::new(),
        core_address: address,
        nonce: [number; 16],
    };
    let join = join.sign(&command, &checkpoint, &transport);
    Node { command, checkpoint, transport, join }
}

/// Core nodes in the seats 1, 2, ...; behind them one member.
pub struct World {
    pub nodes: Vec<Node>,
    pub genesis: Genesis,
}

impl World {
    /// With a core at these addresses, founded at the time `created`.
    pub fn new(addresses: &[String], created: UnixMillis) -> Self {
        let mut nodes: Vec<Node> =
            (1..).zip(addresses).map(|(number, address)| node(number, Role::Core, Some(address.clone()))).collect();
        nodes.push(node(nodes.len() as u8 + 1, Role::Member, None));
        let joins = nodes.iter().map(|node| node.join.clone()).collect();
        let genesis = Genesis { version: VERSION, name: "Test".into(), created, joins, domain: Vec::new() };
        Self { nodes, genesis }
    }

    pub fn member(&self) -> usize {
        self.nodes.len() - 1
    }

    pub fn seat(&self, node: usize) -> RaftId {
        RaftId(node as u64 + 1)
    }

    pub fn replica(&self, engine: Arc<dyn Engine>) -> Arc<Replica> {
        let genesis = Genesis::from_bytes(&self.genesis.to_bytes()).expect("genesis");
        Arc::new(Replica::open(engine, genesis, Arc::new(Notebook)).expect("open"))
    }

    /// Command `sequence` of a node's bulk lane.
    pub fn command(&self, node: usize, sequence: u64, public: &[u8]) -> Submission {
        let stream = Stream { node: self.nodes[node].id(), incarnation: Incarnation(0), lane: Lane::Bulk };
        let (public, sequence) = (public.to_vec(), Sequence(sequence));
        let body = CommandBody { version: VERSION, kind: NOTE, stream, sequence, public, sealed: None };
        let command = body.sign(self.genesis.federation_id(), &self.nodes[node].command);
        Submission { command, sealed: None }
    }
}

/// The tables of a core node's ledger engine.
pub fn ledger_tables() -> Vec<Table> {
    let mut tables = replica::TABLES.to_vec();
    tables.push(RAFT_APPLIED);
    tables
}

pub fn ledger_engine() -> Arc<dyn Engine> {
    Arc::new(MemoryEngine::open(&ledger_tables()).expect("tables").auto_flush(true))
}
