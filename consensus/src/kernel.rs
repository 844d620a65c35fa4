//! The kernel of the replicated machine: membership, streams, time, protocol version. Pure: `(state, entry) ->
//! changes and outcome`. The domain machine is nested under its own key prefix and sees only what it may.
//!
//! Invariants:
//! 1. Each stream's commands take effect exactly once and in the order of their numbers (P2).
//! 2. A command takes effect only with a valid signature of an active node that may write (P3).
//! 3. A command that was accepted into its stream consumes its number, whether the domain applied or rejected it;
//!    one that was refused (stranger, bad signature, gap, repeat) changes nothing at all.
//! 4. Time is the entry's time and never goes backwards.
//!
//! State keys (under [`KERNEL`]): `n` node, `i` newest incarnation, `s` stream, `c` core, `v` protocol version,
//! `t` time of the newest entry. The domain's keys lie under [`DOMAIN`].

use serde::{Deserialize, Serialize};
use tessera_storage::engine::EngineError;

use crate::ids::{Epoch, FederationId, Hash, Incarnation, LedgerIndex, NodeId, Sequence, Stream, UnixMillis};
use crate::keys::KeyError;
use crate::state::Transaction;
use crate::wire::v1::{CommandBody, Genesis, Kind, Leaf, Role, SignedJoin};
use crate::wire::{DecodeError, decode, encode};

/// First byte of the kernel's keys.
pub const KERNEL: u8 = b'k';
/// First byte of the domain's keys.
pub const DOMAIN: u8 = b'd';
/// The machine's protocol version at founding. Newer kinds are refused until an entry raises it.
pub const PROTOCOL_VERSION_AT_FOUNDING: u32 = 1;
/// One value of the kernel's state.
const VALUE_BYTES_MAX: usize = 1024 * 1024;

/// Does nothing; consumes its number. Fills a place or proves that a stream is alive.
pub const KIND_NOTHING: Kind = Kind(1);
/// Admits a node: reserved, parsed and rejected until membership is governed in the ledger.
pub const KIND_ADMIT: Kind = Kind(2);
/// Raises the protocol version: reserved, rejected until gates are governed in the ledger.
pub const KIND_ACTIVATE: Kind = Kind(3);

/// Why a command changed nothing though it consumed its number. The numbers are kept in the ledger's outcomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection(pub u16);

impl Rejection {
    /// The kind is not known, or not yet activated.
    pub const UNKNOWN_KIND: Rejection = Rejection(1);
    /// The public bytes are not what the kind asks for.
    pub const MALFORMED: Rejection = Rejection(2);
    /// The kind is known but its behaviour is not active in this federation.
    pub const NOT_ACTIVE: Rejection = Rejection(3);
    /// The first number that belongs to the domain.
    pub const DOMAIN_FIRST: u16 = 256;
}

/// Why a command was refused without consuming its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// Its node is no active member.
    UnknownOrigin,
    /// Its node may only read.
    ReadOnly,
    /// The signature is not that of its node's command key.
    BadSignature,
    /// The node has opened a newer incarnation.
    StaleIncarnation,
    /// Commands before it are missing; send those first.
    Gap { expected: Sequence },
    /// The number is taken; by the same command or by another, which [`Replica`](crate::replica::Replica) tells.
    Repeated,
}

/// What became of one command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    Applied,
    Rejected(Rejection),
    Refused(Refusal),
}

/// What the ledger knows of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    pub join: SignedJoin,
    pub role: Role,
    pub active: bool,
}

/// A core node by its Raft id, which is never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoreSeat {
    pub raft_id: u64,
    pub node: NodeId,
}

/// The core that certifies in this epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoreRecord {
    pub epoch: Epoch,
    pub seats: Vec<CoreSeat>,
}

/// The domain's part of the entry at hand. Sealed bodies are not in it: the machine orders and keeps them, and a
/// body that was erased must not change what the entry did.
pub struct Entry<'a> {
    pub index: LedgerIndex,
    pub time: UnixMillis,
    pub origin: &'a NodeRecord,
    pub node: NodeId,
    pub body: &'a CommandBody,
}

/// What the domain machine says of a command that the kernel let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Applied,
    Rejected(Rejection),
}

/// The machine nested in the kernel. Pure and deterministic; it reads and writes only keys under [`DOMAIN`].
pub trait Domain: Send + Sync + 'static {
    /// Sets up the state at the founding; refuses parameters that it cannot read.
    fn found(&self, parameters: &[u8], state: &mut Transaction<'_>) -> Result<(), DecodeError>;
    /// Applies one command of a domain kind.
    fn apply(&self, entry: &Entry<'_>, state: &mut Transaction<'_>) -> Result<Verdict, EngineError>;
}

fn key(parts: &[&[u8]]) -> Vec<u8> {
    let mut key = vec![KERNEL];
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key
}

fn node_bytes(node: &NodeId) -> [u8; 33] {
    let mut bytes = [0; 33];
    bytes[0] = node.hash().algorithm().into();
    bytes[1..].copy_from_slice(node.hash().as_bytes());
    bytes
}

fn stream_key(stream: &Stream) -> Vec<u8> {
    let incarnation = stream.incarnation.0.to_be_bytes();
    key(&[b"s", &node_bytes(&stream.node), &incarnation, &[stream.lane.into()]])
}

/// Reads a value of our own state. It was written by this code, so anything else is our own corruption.
fn own<T: Serialize + serde::de::DeserializeOwned>(bytes: &[u8]) -> T {
    decode("kernel state", bytes, VALUE_BYTES_MAX).expect("kernel state was written by this machine")
}

/// Anything that the kernel's state can be read from: a transaction or an engine's view.
pub trait StateRead {
    fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError>;
    fn read_prefix(&self, prefix: &[u8], limit: usize) -> Result<tessera_storage::engine::Pairs, EngineError>;
}

impl StateRead for Transaction<'_> {
    fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.get(key)
    }
    fn read_prefix(&self, prefix: &[u8], limit: usize) -> Result<tessera_storage::engine::Pairs, EngineError> {
        self.scan_prefix(prefix, limit)
    }
}

impl StateRead for dyn tessera_storage::engine::View + '_ {
    fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.get(crate::state::STATE, key)
    }
    fn read_prefix(&self, prefix: &[u8], limit: usize) -> Result<tessera_storage::engine::Pairs, EngineError> {
        self.scan_prefix(crate::state::STATE, prefix, limit)
    }
}

/// The record of a node, active or not.
pub fn node(state: &(impl StateRead + ?Sized), id: &NodeId) -> Result<Option<NodeRecord>, EngineError> {
    Ok(state.read(&key(&[b"n", &node_bytes(id)]))?.map(|bytes| own(&bytes)))
}

/// Nodes that a federation can have; a bound for listing them.
pub const NODES_MAX: usize = 100_000;

/// All nodes in the order of their ids.
pub fn nodes(state: &(impl StateRead + ?Sized)) -> Result<Vec<NodeRecord>, EngineError> {
    Ok(state.read_prefix(&key(&[b"n"]), NODES_MAX)?.iter().map(|(_, value)| own(value)).collect())
}

/// The core of the present epoch.
///
/// # Panics
/// When the state was never founded.
pub fn core(state: &(impl StateRead + ?Sized)) -> Result<CoreRecord, EngineError> {
    Ok(own(&state.read(&key(&[b"c"]))?.expect("a founded state has a core")))
}

/// The number that the stream's next command must carry.
pub fn next_sequence(state: &(impl StateRead + ?Sized), stream: &Stream) -> Result<Sequence, EngineError> {
    Ok(state.read(&stream_key(stream))?.map_or(Sequence(0), |bytes| own(&bytes)))
}

/// The newest incarnation that the ledger has seen of a node.
pub fn incarnation(state: &(impl StateRead + ?Sized), id: &NodeId) -> Result<Option<Incarnation>, EngineError> {
    Ok(state.read(&key(&[b"i", &node_bytes(id)]))?.map(|bytes| own(&bytes)))
}

/// The time of the newest entry; that of the founding before the first.
pub fn time(state: &(impl StateRead + ?Sized)) -> Result<UnixMillis, EngineError> {
    Ok(state.read(&key(&[b"t"]))?.map_or(UnixMillis(0), |bytes| own(&bytes)))
}

/// Writes the founding state of `genesis`, which must have been verified.
pub fn found(genesis: &Genesis, domain: &dyn Domain, state: &mut Transaction<'_>) -> Result<(), DecodeError> {
    let mut seats = Vec::new();
    for signed in &genesis.joins {
        let id = signed.node_id();
        let record = NodeRecord { join: signed.clone(), role: signed.join.role, active: true };
        state.put(key(&[b"n", &node_bytes(&id)]), encode(&record));
        if record.role == Role::Core {
            seats.push(CoreSeat { raft_id: seats.len() as u64 + 1, node: id });
        }
    }
    state.put(key(&[b"c"]), encode(&CoreRecord { epoch: Epoch(0), seats }));
    state.put(key(&[b"v"]), encode(&PROTOCOL_VERSION_AT_FOUNDING));
    state.put(key(&[b"t"]), encode(&genesis.created));
    domain.found(&genesis.domain, state)?;
    state.keep_command();
    Ok(())
}

/// Remembers signatures that were verified, so that a core node verifies each once and not at every step.
pub trait Verified {
    fn contains(&self, fingerprint: &Hash) -> bool;
    fn insert(&self, fingerprint: Hash);
}

/// Whether `leaf`'s command is one that the state lets in. The same check stands before the proposal, before the
/// Raft log and in [`apply`]; only the last one decides.
pub fn admit(
    federation: FederationId,
    body: &crate::wire::v1::Command,
    state: &(impl StateRead + ?Sized),
    verified: &dyn Verified,
) -> Result<Result<NodeRecord, Refusal>, EngineError> {
    let stream = &body.body.stream;
    let Some(record) = node(state, &stream.node)?.filter(|record| record.active) else {
        return Ok(Err(Refusal::UnknownOrigin));
    };
    if record.role == Role::Observer {
        return Ok(Err(Refusal::ReadOnly));
    }
    let signer = &record.join.join.keys.command;
    let fingerprint = Hash::blake3(&[&encode(body), &encode(signer)]);
    if !verified.contains(&fingerprint) {
        match body.verify(federation, signer) {
            Ok(()) => verified.insert(fingerprint),
            Err(
                KeyError::BadSignature
                | KeyError::Malformed
                | KeyError::UnknownAlgorithm(_)
                | KeyError::SignatureLength(_),
            ) => {
                return Ok(Err(Refusal::BadSignature));
            }
        }
    }
    if incarnation(state, &stream.node)?.is_some_and(|newest| stream.incarnation < newest) {
        return Ok(Err(Refusal::StaleIncarnation));
    }
    Ok(Ok(record))
}

/// Where a number stands in its stream.
pub fn place(
    state: &(impl StateRead + ?Sized),
    stream: &Stream,
    sequence: Sequence,
) -> Result<Result<(), Refusal>, EngineError> {
    let expected = next_sequence(state, stream)?;
    Ok(match sequence.cmp(&expected) {
        std::cmp::Ordering::Less => Err(Refusal::Repeated),
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(Refusal::Gap { expected }),
    })
}

/// Applies one leaf.
pub fn apply(
    federation: FederationId,
    index: LedgerIndex,
    leaf: &Leaf,
    domain: &dyn Domain,
    verified: &dyn Verified,
    state: &mut Transaction<'_>,
) -> Result<Outcome, EngineError> {
    let body = &leaf.command.body;
    let origin = match admit(federation, &leaf.command, state, verified)? {
        Ok(origin) => origin,
        Err(refusal) => return Ok(Outcome::Refused(refusal)),
    };
    if let Err(refusal) = place(state, &body.stream, body.sequence)? {
        return Ok(Outcome::Refused(refusal));
    }
    let time = time(state)?.max(leaf.time);
    state.put(key(&[b"t"]), encode(&time));
    state.put(key(&[b"i", &node_bytes(&body.stream.node)]), encode(&body.stream.incarnation));
    state.put(stream_key(&body.stream), encode(&body.sequence.next()));
    state.keep_command();
    let entry = Entry { index, time, origin: &origin, node: body.stream.node, body };
    let verdict = if body.kind.is_kernel() { apply_kernel(body.kind) } else { domain.apply(&entry, state)? };
    Ok(match verdict {
        Verdict::Applied => {
            state.keep_command();
            Outcome::Applied
        }
        Verdict::Rejected(rejection) => {
            state.drop_command();
            Outcome::Rejected(rejection)
        }
    })
}

fn apply_kernel(kind: Kind) -> Verdict {
    match kind {
        KIND_NOTHING => Verdict::Applied,
        KIND_ADMIT | KIND_ACTIVATE => Verdict::Rejected(Rejection::NOT_ACTIVE),
        _ => Verdict::Rejected(Rejection::UNKNOWN_KIND),
    }
}
