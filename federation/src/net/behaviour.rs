//! What libp2p runs for a node: admission, limits, liveness, gossip, requests, streams; and its transport.
//!
//! Admission stands first, so that a stranger's connection is refused in the moment its key is proved and no other
//! protocol hears of it. Gossip is not signed by peers: what is gossiped proves itself (certificates), a message is
//! named by the hash of its content, and it is passed on only after the node accepted it.

use std::collections::HashSet;
use std::time::Duration;

use libp2p::allow_block_list::{self, AllowedPeers};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::Boxed;
use libp2p::core::upgrade::Version;
use libp2p::gossipsub::{self, IdentTopic, IdentityTransform, MessageAuthenticity, WhitelistSubscriptionFilter};
use libp2p::request_response::{self, ProtocolSupport};
use libp2p::swarm::NetworkBehaviour;
use libp2p::{PeerId, Swarm, Transport, connection_limits, dns, identity, noise, ping, swarm, tcp, yamux};
use tessera_consensus::FederationId;

use super::codec::{Codec, PROTOCOL};
use super::handle::StartError;
use super::{
    GOSSIP_BYTES_MAX, HANDSHAKE_TIMEOUT_MS, HANDSHAKES_MAX, INBOUND_CONNECTIONS_MAX, PING_INTERVAL_MS,
    REQUEST_TIMEOUT_MS, REQUESTS_PER_CONNECTION_MAX,
};

/// Connections to one peer: both may have dialled at once.
const CONNECTIONS_PER_PEER_MAX: u32 = 4;
/// Gossip messages that wait for a slow connection before more are dropped.
const GOSSIP_QUEUE_MAX: usize = 256;
/// What gossipsub adds to a message.
pub const GOSSIP_ENVELOPE_BYTES: usize = 1024;
/// Connections stay open while nobody speaks; liveness is ping's matter. A year, for an endless one overflows.
const IDLE_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);

/// See the module's header.
#[derive(NetworkBehaviour)]
pub struct Behaviour {
    pub admission: allow_block_list::Behaviour<AllowedPeers>,
    pub limits: connection_limits::Behaviour,
    pub ping: ping::Behaviour,
    pub gossip: gossipsub::Behaviour<IdentityTransform, WhitelistSubscriptionFilter>,
    pub requests: request_response::Behaviour<Codec>,
    pub streams: libp2p_stream::Behaviour,
}

/// One topic for each federation, so that two of them on one machine do not mix.
pub fn topic(federation: FederationId) -> IdentTopic {
    IdentTopic::new(format!("tessera/v1/{federation}"))
}

fn gossip(
    federation: FederationId,
) -> Result<gossipsub::Behaviour<IdentityTransform, WhitelistSubscriptionFilter>, StartError> {
    let by_content =
        |message: &gossipsub::Message| gossipsub::MessageId::from(blake3::hash(&message.data).as_bytes().to_vec());
    let config = gossipsub::ConfigBuilder::default()
        .protocol_id_prefix("/tessera/gossip")
        .validation_mode(gossipsub::ValidationMode::Anonymous)
        .validate_messages()
        .message_id_fn(by_content)
        .flood_publish(false)
        .max_transmit_size(GOSSIP_BYTES_MAX)
        .connection_handler_queue_len(GOSSIP_QUEUE_MAX)
        .build()
        .map_err(|error| StartError::Gossip(error.to_string()))?;
    let topic = topic(federation);
    let filter = WhitelistSubscriptionFilter(HashSet::from([topic.hash()]));
    let mut gossip = gossipsub::Behaviour::new_with_subscription_filter(MessageAuthenticity::Anonymous, config, filter)
        .map_err(|error| StartError::Gossip(error.into()))?;
    gossip.subscribe(&topic).map_err(|error| StartError::Gossip(error.to_string()))?;
    Ok(gossip)
}

fn limits() -> connection_limits::ConnectionLimits {
    connection_limits::ConnectionLimits::default()
        .with_max_pending_incoming(Some(HANDSHAKES_MAX))
        .with_max_established_incoming(Some(INBOUND_CONNECTIONS_MAX))
        .with_max_established_per_peer(Some(CONNECTIONS_PER_PEER_MAX))
}

fn behaviour(federation: FederationId) -> Result<Behaviour, StartError> {
    let requests = request_response::Config::default()
        .with_request_timeout(Duration::from_millis(REQUEST_TIMEOUT_MS))
        .with_max_concurrent_streams(REQUESTS_PER_CONNECTION_MAX);
    Ok(Behaviour {
        admission: allow_block_list::Behaviour::default(),
        limits: connection_limits::Behaviour::new(limits()),
        ping: ping::Behaviour::new(ping::Config::new().with_interval(Duration::from_millis(PING_INTERVAL_MS))),
        gossip: gossip(federation)?,
        requests: request_response::Behaviour::new([(PROTOCOL, ProtocolSupport::Full)], requests),
        streams: libp2p_stream::Behaviour::new(),
    })
}

fn secured<T>(tcp: T, keypair: &identity::Keypair) -> Result<Boxed<(PeerId, StreamMuxerBox)>, StartError>
where
    T: Transport + Send + Unpin + 'static,
    T::Output: futures::AsyncRead + futures::AsyncWrite + Send + Unpin + 'static,
    T::Error: Send + Sync + 'static,
    T::ListenerUpgrade: Send,
    T::Dial: Send,
{
    let noise = noise::Config::new(keypair).map_err(|error| StartError::Transport(error.to_string()))?;
    Ok(tcp
        .upgrade(Version::V1Lazy)
        .authenticate(noise)
        .multiplex(yamux::Config::default())
        .timeout(Duration::from_millis(HANDSHAKE_TIMEOUT_MS))
        .boxed())
}

/// TCP without delay, names resolved where the machine can resolve names.
fn transport(keypair: &identity::Keypair) -> Result<Boxed<(PeerId, StreamMuxerBox)>, StartError> {
    let tcp = || tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
    match dns::tokio::Transport::system(tcp()) {
        Ok(with_names) => secured(with_names, keypair),
        Err(error) => {
            tracing::warn!(%error, "host names cannot be resolved here; only numeric addresses are dialled");
            secured(tcp(), keypair)
        }
    }
}

/// A swarm with nobody admitted yet.
pub fn swarm(federation: FederationId, keypair: &identity::Keypair) -> Result<Swarm<Behaviour>, StartError> {
    let config = swarm::Config::with_tokio_executor().with_idle_connection_timeout(IDLE_TIMEOUT);
    Ok(Swarm::new(transport(keypair)?, behaviour(federation)?, keypair.public().to_peer_id(), config))
}
