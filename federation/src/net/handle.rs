//! The node's side of the network: starting it, asking, gossiping, opening streams; and what comes in.
//!
//! A [`NetHandle`] is cheap to clone; the network ends when the last one is gone. Nothing here blocks: a full queue
//! makes the caller wait (orders) or is answered *busy* (requests of others).

use std::collections::BTreeMap;
use std::sync::Arc;

use libp2p::gossipsub::{MessageAcceptance, MessageId};
use libp2p::request_response::ResponseChannel;
use libp2p::{Multiaddr, PeerId};
use tessera_consensus::NodeId;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::directory::Directory;
use super::streams::{self, PeerStream};
use super::wire::{PeerReply, PeerRequest};
use super::{COMMANDS_MAX, EVENTS_MAX, NetConfig, Peer, worker};

/// Why the network does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{address:?} is not a multiaddress; write for example /ip4/0.0.0.0/tcp/4001")]
    Address { address: String },
    #[error("cannot listen on {address}: {why}")]
    Listen { address: String, why: String },
    #[error("the encrypted transport cannot be set up: {0}")]
    Transport(String),
    #[error("gossip cannot be set up: {0}")]
    Gossip(String),
}

/// Why an order to the network failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    #[error("it is not connected")]
    NotConnected(NodeId),
    #[error("the peer did not answer: {0}")]
    NoReply(String),
    #[error("the peer's answer is no message of the protocol: {0}")]
    Garbage(String),
    #[error("the peer did not take the stream: {0}")]
    Stream(String),
    #[error("the peer did not take the stream in {0} s")]
    Silent(u64),
    #[error("a gossip message of {got} bytes, at most {limit} are sent")]
    TooLong { got: usize, limit: usize },
    #[error("the network has ended")]
    Ended,
}

/// What the node orders.
pub(super) enum Command {
    Request { peer: PeerId, request: Box<PeerRequest>, reply: oneshot::Sender<Result<PeerReply, NetError>> },
    Publish { bytes: Vec<u8> },
    SetMembers { members: BTreeMap<NodeId, Peer>, done: oneshot::Sender<()> },
}

/// What the node answers to what came in.
pub(super) enum Answer {
    Reply { channel: ResponseChannel<PeerReply>, reply: Box<PeerReply>, place: OwnedSemaphorePermit },
    Gossip { message: MessageId, from: PeerId, acceptance: MessageAcceptance },
}

/// What comes in.
pub enum NetEvent {
    /// The first connection to a member.
    PeerUp(NodeId),
    /// The last connection to it is gone.
    PeerDown(NodeId),
    Request {
        from: NodeId,
        request: Box<PeerRequest>,
        reply: ReplySender,
    },
    /// A gossip message; it is passed on only if the verdict says so.
    Gossip {
        from: NodeId,
        bytes: Vec<u8>,
        verdict: GossipVerdict,
    },
    /// Another node opened a retrieval stream here.
    Stream(PeerStream),
    /// A member sent a request that is no message of the protocol; nothing was answered.
    Garbage {
        from: NodeId,
        why: String,
    },
}

impl std::fmt::Debug for NetEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NetEvent::PeerUp(node) => write!(f, "up {node:?}"),
            NetEvent::PeerDown(node) => write!(f, "down {node:?}"),
            NetEvent::Request { from, request, .. } => write!(f, "request of {from:?}: {request:?}"),
            NetEvent::Gossip { from, bytes, .. } => write!(f, "gossip from {from:?}: {} bytes", bytes.len()),
            NetEvent::Stream(stream) => write!(f, "stream from {:?}", stream.node()),
            NetEvent::Garbage { from, why } => write!(f, "garbage from {from:?}: {why}"),
        }
    }
}

/// Takes the answer to one request. Dropped unused, it makes the peer's request fail at once.
pub struct ReplySender {
    pub(super) channel: ResponseChannel<PeerReply>,
    pub(super) answers: mpsc::Sender<Answer>,
    /// Its place among the requests that wait.
    pub(super) place: OwnedSemaphorePermit,
}

impl ReplySender {
    pub async fn send(self, reply: PeerReply) {
        let answer = Answer::Reply { channel: self.channel, reply: Box::new(reply), place: self.place };
        // When the network has ended, nobody waits for the reply any more.
        let _ = self.answers.send(answer).await;
    }
}

/// What a node thinks of a gossip message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Valid and new: pass it on.
    Accept,
    /// Of no use here, and nobody's fault.
    Ignore,
    /// Wrong: whoever sent it should have known.
    Reject,
}

/// Takes the verdict on one gossip message. Dropped unused, the message goes no further.
pub struct GossipVerdict {
    pub(super) message: MessageId,
    pub(super) from: PeerId,
    pub(super) answers: mpsc::Sender<Answer>,
    /// Its place among the messages that wait; given back with this.
    pub(super) _place: OwnedSemaphorePermit,
}

impl GossipVerdict {
    pub async fn give(self, verdict: Verdict) {
        let acceptance = match verdict {
            Verdict::Accept => MessageAcceptance::Accept,
            Verdict::Ignore => MessageAcceptance::Ignore,
            Verdict::Reject => MessageAcceptance::Reject,
        };
        // When the network has ended, there is nobody to pass it on to.
        let _ = self.answers.send(Answer::Gossip { message: self.message, from: self.from, acceptance }).await;
    }
}

/// The door to the network.
pub struct Net;

impl Net {
    /// Listens, and from [`NetHandle::set_members`] on admits and dials members. Must be called inside a tokio
    /// runtime; the tasks that it starts end when the last handle is dropped.
    pub async fn start(config: NetConfig) -> Result<(NetHandle, mpsc::Receiver<NetEvent>), StartError> {
        let (commands, orders) = mpsc::channel(COMMANDS_MAX);
        let (event_sender, events) = mpsc::channel(EVENTS_MAX);
        let directory = Arc::new(Directory::default());
        let started = worker::start(config, Arc::clone(&directory), orders, event_sender).await?;
        let handle = NetHandle { commands, directory, streams: started.streams, listening: started.listening.into() };
        Ok((handle, events))
    }
}

/// See the module's header.
#[derive(Clone)]
pub struct NetHandle {
    commands: mpsc::Sender<Command>,
    directory: Arc<Directory>,
    streams: libp2p_stream::Control,
    listening: Arc<[Multiaddr]>,
}

impl NetHandle {
    /// Asks a connected node.
    pub async fn request(&self, node: NodeId, request: PeerRequest) -> Result<PeerReply, NetError> {
        let peer = self.directory.connected_peer(&node).ok_or(NetError::NotConnected(node))?;
        let (reply, answer) = oneshot::channel();
        let command = Command::Request { peer, request: Box::new(request), reply };
        self.commands.send(command).await.map_err(|_| NetError::Ended)?;
        answer.await.map_err(|_| NetError::Ended)?
    }

    /// Gossips to whoever is connected; with nobody connected it is lost, and followers ask by themselves.
    pub async fn publish(&self, bytes: Vec<u8>) -> Result<(), NetError> {
        let (got, limit) = (bytes.len(), super::GOSSIP_BYTES_MAX - super::behaviour::GOSSIP_ENVELOPE_BYTES);
        if got > limit {
            return Err(NetError::TooLong { got, limit });
        }
        self.commands.send(Command::Publish { bytes }).await.map_err(|_| NetError::Ended)
    }

    /// Opens a retrieval stream to a connected node, whoever dialled.
    pub async fn open_stream(&self, node: NodeId) -> Result<PeerStream, NetError> {
        let peer = self.directory.connected_peer(&node).ok_or(NetError::NotConnected(node))?;
        streams::open(self.streams.clone(), node, peer).await
    }

    /// The active members, this node included or not. Connections to all others are closed before this returns.
    pub async fn set_members(&self, members: BTreeMap<NodeId, Peer>) -> Result<(), NetError> {
        let (done, waited) = oneshot::channel();
        self.commands.send(Command::SetMembers { members, done }).await.map_err(|_| NetError::Ended)?;
        waited.await.map_err(|_| NetError::Ended)
    }

    pub fn connected(&self) -> Vec<NodeId> {
        self.directory.connected()
    }

    /// The addresses on which this node really listens.
    pub fn listening(&self) -> Vec<String> {
        self.listening.iter().map(ToString::to_string).collect()
    }
}
