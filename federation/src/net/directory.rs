//! Who is who on the network: the ledger's node for a libp2p peer and back, and who is connected.
//!
//! A libp2p peer id is the hash of a transport key, so the membership alone gives it; nothing is learned from peers.
//! Shared between the worker, which writes, and handles, which read; a lock is held for a look-up and no longer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{PoisonError, RwLock};

use libp2p::{Multiaddr, PeerId, identity};
use tessera_consensus::NodeId;
use tessera_consensus::keys::{KeyAlgorithm, PublicKey};

use super::Peer;

/// The libp2p identity of a transport key; `None` when it is no valid Ed25519 key.
pub fn peer_id(transport: &PublicKey) -> Option<PeerId> {
    if transport.algorithm() != KeyAlgorithm::Ed25519 {
        return None;
    }
    let key = identity::ed25519::PublicKey::try_from_bytes(transport.as_bytes()).ok()?;
    Some(PeerId::from(identity::PublicKey::from(key)))
}

#[derive(Default)]
struct Entries {
    by_node: BTreeMap<NodeId, PeerId>,
    by_peer: HashMap<PeerId, NodeId>,
    connected: BTreeSet<NodeId>,
}

/// See the module's header.
#[derive(Default)]
pub struct Directory(RwLock<Entries>);

impl Directory {
    fn read<T>(&self, look: impl FnOnce(&Entries) -> T) -> T {
        look(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut Entries) -> T) -> T {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn node(&self, peer: &PeerId) -> Option<NodeId> {
        self.read(|entries| entries.by_peer.get(peer).copied())
    }

    /// The peer id of a connected node.
    pub fn connected_peer(&self, node: &NodeId) -> Option<PeerId> {
        self.read(|entries| entries.connected.get(node).and_then(|node| entries.by_node.get(node)).copied())
    }

    pub fn connected(&self) -> Vec<NodeId> {
        self.read(|entries| entries.connected.iter().copied().collect())
    }

    pub fn peers(&self) -> BTreeSet<PeerId> {
        self.read(|entries| entries.by_peer.keys().copied().collect())
    }

    pub fn replace(&self, members: &[(NodeId, PeerId)]) {
        self.write(|entries| {
            entries.by_node = members.iter().copied().collect();
            entries.by_peer = members.iter().map(|(node, peer)| (*peer, *node)).collect();
        });
    }

    pub fn set_connected(&self, node: NodeId, connected: bool) {
        self.write(|entries| match connected {
            true => entries.connected.insert(node),
            false => entries.connected.remove(&node),
        });
    }
}

/// The members but this node itself, with the addresses that can be read. What cannot be read is logged and left out:
/// one member's mistake must not keep the others apart.
pub fn resolve(
    me: &NodeId,
    members: &BTreeMap<NodeId, Peer>,
    extra: &BTreeMap<NodeId, Vec<String>>,
) -> Vec<(NodeId, PeerId, Vec<Multiaddr>)> {
    let mut resolved = Vec::new();
    for (node, member) in members.iter().filter(|(node, _)| *node != me) {
        let Some(peer) = peer_id(&member.transport) else {
            tracing::warn!(%node, "the member's transport key is not a valid Ed25519 key; it cannot connect");
            continue;
        };
        let mut addresses = Vec::new();
        for text in member.addresses.iter().chain(extra.get(node).into_iter().flatten()) {
            match text.parse::<Multiaddr>() {
                Ok(address) => addresses.push(address),
                Err(error) => tracing::warn!(%node, address = %text, %error, "not a multiaddress; left out"),
            }
        }
        resolved.push((*node, peer, addresses));
    }
    resolved
}
