//! Version 1 of the ledger's formats: join command, genesis, command, leaf, batch (DESIGN section 5).
//!
//! Invariants: a signature covers the format version and the federation; a leaf is kept exactly as received and
//! stays below [`LEAF_BYTES_MAX`]; sealed and large bodies lie beside the log and are named by hash.

use serde::{Deserialize, Serialize};

use super::bounded::at_most;
use super::{DecodeError, decode, encode};
use crate::ids::{FederationId, Hash, NodeId, Sequence, SiteId, Stream, UnixMillis};
use crate::keys::{Context, KeyError, PublicKey, Signature, SigningKey};

/// The version that stands first in every encoding of this module.
pub const VERSION: u8 = 1;
/// Public bytes of one command. With stream, hashes and signature a leaf stays far below 64 KiB (tlog tiles).
pub const PUBLIC_BYTES_MAX: usize = 32 * 1024;
/// One leaf.
pub const LEAF_BYTES_MAX: usize = PUBLIC_BYTES_MAX + 1024;
/// One sealed body beside the log (a rule base or a catalogue is the largest).
pub const SEALED_BYTES_MAX: usize = 1024 * 1024;
/// Commands in one batch.
pub const BATCH_COMMANDS_MAX: usize = 1024;
/// One batch, sealed bodies included.
pub const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// One join command.
pub const JOIN_BYTES_MAX: usize = 16 * 1024;
/// Sites that one node may host (R-A10).
pub const SITES_PER_NODE_MAX: usize = 64;
/// One genesis.
pub const GENESIS_BYTES_MAX: usize = 16 * 1024 * 1024;

fn check_version(what: &'static str, got: u8) -> Result<(), DecodeError> {
    if got == VERSION { Ok(()) } else { Err(DecodeError::UnknownVersion { what, got }) }
}

/// What a node is in its federation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// Raft voter.
    Core,
    /// Hospital that follows.
    Member,
    /// Read-only follower.
    Observer,
}

/// A node's public keys, one for each use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeKeys {
    /// Signs commands and requests.
    pub command: PublicKey,
    /// Cosigns checkpoints.
    pub checkpoint: PublicKey,
    /// The identity on libp2p and TLS.
    pub transport: PublicKey,
    /// X25519: bodies are sealed to it (HPKE, RFC 9180).
    pub sealing: PublicKey,
}

/// A legal body that a node speaks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteDeclaration {
    pub id: SiteId,
    /// The name that clinicians read, at most 128 bytes.
    pub legal_name: String,
}

/// A node's declaration of itself. Its hash is the [`NodeId`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinCommand {
    pub version: u8,
    /// Host-like name, `a-z 0-9 - .`, at most 64: the key name in C2SP signature lines.
    pub name: String,
    /// The role that the node asks for.
    pub role: Role,
    #[serde(deserialize_with = "at_most::<_, _, SITES_PER_NODE_MAX>")]
    pub sites: Vec<SiteDeclaration>,
    pub keys: NodeKeys,
    /// libp2p multiaddresses at which others may reach the node at the time of joining; empty when it only dials out.
    pub peer_addresses: Vec<String>,
    /// `host:port` of the core's gRPC service; core nodes only.
    pub core_address: Option<String>,
    /// Random, so that two joins of one program differ.
    pub nonce: [u8; 16],
}

/// A join command with the proof that the node holds its signing keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedJoin {
    pub join: JoinCommand,
    pub by_command_key: Signature,
    pub by_checkpoint_key: Signature,
    pub by_transport_key: Signature,
}

impl JoinCommand {
    pub fn node_id(&self) -> NodeId {
        NodeId::new(Hash::blake3(&[b"tessera/v1/node\0", &encode(self)]))
    }

    /// Signs with the three signing keys.
    pub fn sign(self, command: &SigningKey, checkpoint: &SigningKey, transport: &SigningKey) -> SignedJoin {
        let bytes = encode(&self);
        SignedJoin {
            by_command_key: command.sign(&Context::Join, &bytes),
            by_checkpoint_key: checkpoint.sign(&Context::Join, &bytes),
            by_transport_key: transport.sign(&Context::Join, &bytes),
            join: self,
        }
    }

    fn validate(&self) -> Result<(), DecodeError> {
        let invalid = |why| Err(DecodeError::Invalid { what: "join command", why });
        let name_ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
        check_version("join command", self.version)?;
        if self.name.is_empty() || self.name.len() > 64 || !self.name.bytes().all(name_ok) {
            return invalid("the name must be 1 to 64 of a-z, 0-9, - and .");
        }
        if self.sites.is_empty() || self.sites.len() > SITES_PER_NODE_MAX {
            return invalid("a node speaks for 1 to 64 sites");
        }
        if self.sites.iter().any(|s| s.legal_name.is_empty() || s.legal_name.len() > 128) {
            return invalid("a site's legal name has 1 to 128 bytes");
        }
        if self.peer_addresses.len() > 16 || self.peer_addresses.iter().any(|a| a.len() > 256) {
            return invalid("at most 16 addresses of at most 256 bytes");
        }
        if (self.role == Role::Core) != self.core_address.is_some() {
            return invalid("a core node, and only a core node, states its core address");
        }
        Ok(())
    }
}

impl SignedJoin {
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let signed: SignedJoin = decode("join command", bytes, JOIN_BYTES_MAX)?;
        signed.join.validate()?;
        Ok(signed)
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    pub fn node_id(&self) -> NodeId {
        self.join.node_id()
    }

    /// Checks form and the three proofs of possession.
    pub fn verify(&self) -> Result<(), JoinError> {
        self.join.validate()?;
        let bytes = encode(&self.join);
        let keys = &self.join.keys;
        keys.command.verify(&Context::Join, &bytes, &self.by_command_key)?;
        keys.checkpoint.verify(&Context::Join, &bytes, &self.by_checkpoint_key)?;
        keys.transport.verify(&Context::Join, &bytes, &self.by_transport_key)?;
        Ok(())
    }
}

/// Why a join command or genesis was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("the join command is not signed by the keys that it declares: {0}")]
    Signature(#[from] KeyError),
    #[error("the genesis names {0:?} twice")]
    Duplicate(NodeId),
    #[error("key {0:?} is declared for two uses or by two nodes; each use needs its own key")]
    SharedKey(PublicKey),
    #[error("a core has 1, 3, 4 or 7 nodes, this one {0}")]
    CoreSize(usize),
}

/// The founding of a federation: its first members, its core, and the domain's parameters.
///
/// Nodes take it by hand from the founder and compare its hash, the [`FederationId`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Genesis {
    pub version: u8,
    /// At most 128 bytes, for people.
    pub name: String,
    pub created: UnixMillis,
    /// In the order of their Raft ids 1, 2, ...; the role in each join command is the role that it gets.
    pub joins: Vec<SignedJoin>,
    /// The domain machine's founding parameters, opaque here.
    #[serde(with = "serde_bytes")]
    pub domain: Vec<u8>,
}

impl Genesis {
    /// Parses and verifies: every join command, no key used twice, a core of a size that is supported.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, JoinError> {
        let genesis: Genesis = decode("genesis", bytes, GENESIS_BYTES_MAX)?;
        genesis.verify()?;
        Ok(genesis)
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    pub fn federation_id(&self) -> FederationId {
        FederationId::new(Hash::blake3(&[b"tessera/v1/genesis\0", &encode(self)]))
    }

    pub fn core(&self) -> impl Iterator<Item = &SignedJoin> {
        self.joins.iter().filter(|j| j.join.role == Role::Core)
    }

    pub fn verify(&self) -> Result<(), JoinError> {
        check_version("genesis", self.version)?;
        if self.name.len() > 128 {
            return Err(DecodeError::Invalid { what: "genesis", why: "the name has at most 128 bytes" }.into());
        }
        let mut nodes = std::collections::BTreeSet::new();
        let mut keys = std::collections::BTreeSet::new();
        for signed in &self.joins {
            signed.verify()?;
            if !nodes.insert(signed.node_id()) {
                return Err(JoinError::Duplicate(signed.node_id()));
            }
            let k = &signed.join.keys;
            for key in [k.command, k.checkpoint, k.transport, k.sealing] {
                if !keys.insert(key) {
                    return Err(JoinError::SharedKey(key));
                }
            }
        }
        match self.core().count() {
            1 | 3 | 4 | 7 => Ok(()),
            n => Err(JoinError::CoreSize(n)),
        }
    }
}

/// The kind of a command. Numbers below 256 belong to the kernel, the rest to the domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Kind(pub u16);

impl Kind {
    pub const fn is_kernel(self) -> bool {
        self.0 < 256
    }
}

/// What an origin signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandBody {
    pub version: u8,
    pub kind: Kind,
    pub stream: Stream,
    pub sequence: Sequence,
    #[serde(with = "serde_bytes")]
    pub public: Vec<u8>,
    /// BLAKE3 of the sealed body that travels and lies beside the log.
    pub sealed: Option<Hash>,
}

/// A command with its origin's signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    pub body: CommandBody,
    pub signature: Signature,
}

impl CommandBody {
    pub fn sign(self, federation: FederationId, key: &SigningKey) -> Command {
        let signature = key.sign(&Context::Command(federation), &encode(&self));
        Command { body: self, signature }
    }
}

impl Command {
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let command: Command = decode("command", bytes, LEAF_BYTES_MAX)?;
        command.validate()?;
        Ok(command)
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Identifies the command's content: two different hashes under one stream and sequence are a conflict.
    pub fn hash(&self) -> Hash {
        Hash::blake3(&[b"tessera/v1/command\0", &encode(&self.body)])
    }

    pub fn verify(&self, federation: FederationId, key: &PublicKey) -> Result<(), KeyError> {
        key.verify(&Context::Command(federation), &encode(&self.body), &self.signature)
    }

    fn validate(&self) -> Result<(), DecodeError> {
        check_version("command", self.body.version)?;
        if self.body.public.len() > PUBLIC_BYTES_MAX {
            let got = self.body.public.len();
            return Err(DecodeError::TooLong { what: "public bytes", got, limit: PUBLIC_BYTES_MAX });
        }
        Ok(())
    }
}

/// The hash under which a sealed body lies beside the log.
pub fn sealed_hash(sealed: &[u8]) -> Hash {
    Hash::blake3(&[b"tessera/v1/sealed\0", sealed])
}

/// A command on its way, with the body that its hash names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submission {
    pub command: Command,
    #[serde(with = "serde_bytes")]
    pub sealed: Option<Vec<u8>>,
}

impl Submission {
    /// Form, and that the sealed body is the one the command names.
    pub fn validate(&self) -> Result<(), DecodeError> {
        self.command.validate()?;
        let limit = SEALED_BYTES_MAX;
        match (&self.command.body.sealed, &self.sealed) {
            (None, None) => Ok(()),
            (Some(_), Some(body)) if body.len() > limit => {
                Err(DecodeError::TooLong { what: "sealed body", got: body.len(), limit })
            }
            (Some(hash), Some(body)) if sealed_hash(body) == *hash => Ok(()),
            _ => Err(DecodeError::Invalid { what: "command", why: "the sealed body is not the one that it names" }),
        }
    }

    /// Bytes that it adds to a batch, nearly.
    pub fn weight(&self) -> usize {
        256 + self.command.body.public.len() + self.sealed.as_ref().map_or(0, Vec::len)
    }
}

/// What the Merkle log holds: a command with the time at which the core took it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    pub version: u8,
    pub time: UnixMillis,
    pub command: Command,
}

impl Leaf {
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let leaf: Leaf = decode("leaf", bytes, LEAF_BYTES_MAX + 64)?;
        check_version("leaf", leaf.version)?;
        leaf.command.validate()?;
        Ok(leaf)
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }
}

/// One Raft entry: commands in the order of their application, with the leader's time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    pub version: u8,
    /// Hash of the batch before it in the Raft log; that of the genesis for the first one.
    pub previous: Hash,
    pub time: UnixMillis,
    pub proposer: NodeId,
    #[serde(deserialize_with = "at_most::<_, _, BATCH_COMMANDS_MAX>")]
    pub submissions: Vec<Submission>,
}

impl Batch {
    pub fn hash(&self) -> Hash {
        Hash::blake3(&[b"tessera/v1/batch\0", &encode(self)])
    }

    /// Form only; signatures and membership need the machine's state.
    pub fn validate(&self) -> Result<(), DecodeError> {
        check_version("batch", self.version)?;
        if self.submissions.is_empty() || self.submissions.len() > BATCH_COMMANDS_MAX {
            return Err(DecodeError::Invalid { what: "batch", why: "a batch has 1 to 1024 commands" });
        }
        self.submissions.iter().try_for_each(Submission::validate)
    }

    /// The ledger's leaves that this batch appends.
    pub fn leaves(&self) -> impl Iterator<Item = (Leaf, Option<&[u8]>)> {
        self.submissions.iter().map(|submission| {
            let leaf = Leaf { version: VERSION, time: self.time, command: submission.command.clone() };
            (leaf, submission.sealed.as_deref())
        })
    }
}
