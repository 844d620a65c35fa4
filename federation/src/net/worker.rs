//! The task that owns the swarm: carries out the node's orders and hands on what comes in.
//!
//! It never waits for the node: what the node has no room for is refused or dropped, as the module's header says.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use libp2p::core::transport::ListenerId;
use libp2p::gossipsub;
use libp2p::request_response::{self, Message, OutboundFailure, OutboundRequestId, ResponseChannel};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, identity, ping};
use tessera_consensus::NodeId;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::behaviour::{self, Behaviour, BehaviourEvent};
use super::codec::{Asked, is_garbage};
use super::dialer::Dialer;
use super::directory::{self, Directory};
use super::handle::{Answer, Command, GossipVerdict, NetError, NetEvent, ReplySender, StartError};
use super::wire::{PeerReply, RequestRefusal};
use super::{GOSSIP_WAITING_MAX, NetConfig, REQUESTS_WAITING_MAX, streams};

/// How often it is looked whom to dial.
const DIAL_CHECK: Duration = Duration::from_millis(100);
/// How long a listener may take to say on which address it listens.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Answers of the node that wait.
const ANSWERS_MAX: usize = 256;

/// What [`start`] leaves to the handle.
pub struct Started {
    pub streams: libp2p_stream::Control,
    pub listening: Vec<Multiaddr>,
}

struct Worker {
    config: NetConfig,
    swarm: Swarm<Behaviour>,
    topic: gossipsub::TopicHash,
    directory: Arc<Directory>,
    dialer: Dialer,
    started: Instant,
    events: mpsc::Sender<NetEvent>,
    /// Events that found no room; in order before any newer one. Requests and gossip among them hold a place each.
    late: VecDeque<NetEvent>,
    request_places: Arc<Semaphore>,
    gossip_places: Arc<Semaphore>,
    answers: mpsc::Sender<Answer>,
    waiting: HashMap<OutboundRequestId, oneshot::Sender<Result<PeerReply, NetError>>>,
    /// Connected members under the names that they had when they connected.
    up: HashMap<PeerId, NodeId>,
}

/// Listens and starts the tasks.
pub async fn start(
    config: NetConfig,
    directory: Arc<Directory>,
    orders: mpsc::Receiver<Command>,
    events: mpsc::Sender<NetEvent>,
) -> Result<Started, StartError> {
    let mut seed = config.transport_seed;
    let keypair =
        identity::Keypair::ed25519_from_bytes(&mut seed).map_err(|error| StartError::Transport(error.to_string()))?;
    let mut swarm = behaviour::swarm(config.federation, &keypair)?;
    let listening = listen(&mut swarm, &config.listen).await?;
    let mut control = swarm.behaviour().streams.new_control();
    let incoming = control.accept(streams::PROTOCOL).map_err(|error| StartError::Transport(error.to_string()))?;
    tokio::spawn(streams::accept(incoming, Arc::clone(&directory), events.downgrade()));
    let (answers, replies) = mpsc::channel(ANSWERS_MAX);
    let worker = Worker {
        dialer: Dialer::new(keypair.public().to_peer_id()),
        topic: behaviour::topic(config.federation).hash(),
        config,
        swarm,
        directory,
        started: Instant::now(),
        events,
        late: VecDeque::new(),
        request_places: Arc::new(Semaphore::new(REQUESTS_WAITING_MAX)),
        gossip_places: Arc::new(Semaphore::new(GOSSIP_WAITING_MAX)),
        answers,
        waiting: HashMap::new(),
        up: HashMap::new(),
    };
    tokio::spawn(worker.run(orders, replies));
    Ok(Started { streams: control, listening })
}

/// Binds all addresses and waits until each listener named one.
async fn listen(swarm: &mut Swarm<Behaviour>, addresses: &[String]) -> Result<Vec<Multiaddr>, StartError> {
    let mut waiting: HashMap<ListenerId, String> = HashMap::new();
    for text in addresses {
        let parsed: Multiaddr = text.parse().map_err(|_| StartError::Address { address: text.clone() })?;
        let listener = swarm
            .listen_on(parsed)
            .map_err(|error| StartError::Listen { address: text.clone(), why: error.to_string() })?;
        waiting.insert(listener, text.clone());
    }
    let mut listening = Vec::new();
    let until = Instant::now() + LISTEN_TIMEOUT;
    while let Some(address) = waiting.values().next().cloned() {
        let failed = |why: String| StartError::Listen { address, why };
        match tokio::time::timeout_at(until, swarm.select_next_some()).await {
            Ok(SwarmEvent::NewListenAddr { listener_id, address }) => {
                waiting.remove(&listener_id);
                listening.push(address);
            }
            Ok(SwarmEvent::ListenerClosed { reason: Err(error), .. }) => return Err(failed(error.to_string())),
            Ok(SwarmEvent::ListenerError { error, .. }) => return Err(failed(error.to_string())),
            Ok(_) => {}
            Err(_) => return Err(failed("no address within ten seconds".into())),
        }
    }
    Ok(listening)
}

impl Worker {
    async fn run(mut self, mut orders: mpsc::Receiver<Command>, mut replies: mpsc::Receiver<Answer>) {
        let mut dial_check = tokio::time::interval(DIAL_CHECK);
        dial_check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let events = self.events.clone();
            tokio::select! {
                event = self.swarm.select_next_some() => self.take_swarm_event(event),
                order = orders.recv() => match order {
                    Some(order) => self.take_order(order),
                    None => break,
                },
                Some(answer) = replies.recv() => self.take_answer(answer),
                room = events.reserve(), if !self.late.is_empty() => match (room, self.late.pop_front()) {
                    (Ok(room), Some(event)) => room.send(event),
                    _ => break,
                },
                _ = dial_check.tick() => self.dial(),
                _ = events.closed() => break,
            }
        }
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn dial(&mut self) {
        for (peer, addresses) in self.dialer.due(self.now_ms()) {
            let condition = PeerCondition::DisconnectedAndNotDialing;
            let options = DialOpts::peer_id(peer).condition(condition).addresses(addresses).build();
            if let Err(error) = self.swarm.dial(options) {
                tracing::debug!(%peer, %error, "not dialled");
                self.dialer.failed(&peer, self.now_ms());
            }
        }
    }

    fn take_order(&mut self, order: Command) {
        match order {
            Command::Request { peer, request, reply } => {
                if self.up.contains_key(&peer) {
                    let id = self.swarm.behaviour_mut().requests.send_request(&peer, Asked::Request(request));
                    self.waiting.insert(id, reply);
                } else {
                    // The connection was lost while the order waited; whoever asked no longer waiting is no matter.
                    let _ = reply.send(Err(NetError::NoReply("the connection was lost".into())));
                }
            }
            Command::Publish { bytes } => {
                if let Err(error) = self.swarm.behaviour_mut().gossip.publish(self.topic.clone(), bytes) {
                    tracing::debug!(%error, "not gossiped");
                }
            }
            Command::SetMembers { members, done } => {
                self.set_members(directory::resolve(&self.config.node, &members, &self.config.extra_addresses));
                // Whoever gave the order may have stopped waiting for it.
                let _ = done.send(());
            }
        }
    }

    fn set_members(&mut self, members: Vec<(NodeId, PeerId, Vec<Multiaddr>)>) {
        let before = self.directory.peers();
        let now: BTreeSet<PeerId> = members.iter().map(|(_, peer, _)| *peer).collect();
        let names: Vec<(NodeId, PeerId)> = members.iter().map(|(node, peer, _)| (*node, *peer)).collect();
        self.directory.replace(&names);
        let admission = &mut self.swarm.behaviour_mut().admission;
        for new in now.difference(&before) {
            admission.allow_peer(*new);
        }
        for gone in before.difference(&now) {
            self.swarm.behaviour_mut().admission.disallow_peer(*gone);
            // The admission closes its connections too, on its next turn; here it takes effect with the order. An
            // error means that there is none.
            let _ = self.swarm.disconnect_peer_id(*gone);
        }
        self.dialer.set_targets(members.into_iter().map(|(_, peer, addresses)| (peer, addresses)));
        self.dial();
    }

    fn take_answer(&mut self, answer: Answer) {
        let behaviour = self.swarm.behaviour_mut();
        match answer {
            Answer::Reply { channel, reply, place } => {
                // Too late: the peer has given up or is gone.
                let _ = behaviour.requests.send_response(channel, *reply);
                drop(place);
            }
            Answer::Gossip { message, from, acceptance } => {
                behaviour.gossip.report_message_validation_result(&message, &from, acceptance);
            }
        }
    }

    fn take_swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.take_behaviour_event(event),
            SwarmEvent::ConnectionEstablished { peer_id, num_established, .. } if num_established.get() == 1 => {
                self.peer_up(peer_id);
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } => self.peer_down(peer_id),
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), error, .. } => {
                tracing::debug!(%peer, %error, "could not connect");
                if !self.up.contains_key(&peer) {
                    self.dialer.failed(&peer, self.now_ms());
                }
            }
            SwarmEvent::IncomingConnectionError { error, send_back_addr, .. } => {
                tracing::debug!(%send_back_addr, %error, "connection refused");
            }
            _ => {}
        }
    }

    fn peer_up(&mut self, peer: PeerId) {
        // Admission let it in, so it is in the directory, unless it was removed in this very moment.
        let Some(node) = self.directory.node(&peer) else { return };
        self.dialer.connected(&peer, self.now_ms());
        self.up.insert(peer, node);
        self.directory.set_connected(node, true);
        self.emit(NetEvent::PeerUp(node));
    }

    fn peer_down(&mut self, peer: PeerId) {
        self.dialer.disconnected(&peer, self.now_ms());
        if let Some(node) = self.up.remove(&peer) {
            // The node may be connected under a newer key.
            if !self.up.values().any(|other| *other == node) {
                self.directory.set_connected(node, false);
            }
            self.emit(NetEvent::PeerDown(node));
        }
    }

    fn take_behaviour_event(&mut self, event: BehaviourEvent) {
        match event {
            // A peer that does not speak ping is no dead one.
            BehaviourEvent::Ping(ping::Event { result: Err(ping::Failure::Unsupported), .. }) => {}
            BehaviourEvent::Ping(ping::Event { peer, connection, result: Err(error) }) => {
                self.close_dead(peer, connection, &error);
            }
            BehaviourEvent::Gossip(gossipsub::Event::Message { propagation_source, message_id, message }) => {
                self.take_gossip(propagation_source, message_id, message.data);
            }
            BehaviourEvent::Requests(event) => self.take_request_event(event),
            _ => {}
        }
    }

    fn close_dead(&mut self, peer: PeerId, connection: ConnectionId, error: &ping::Failure) {
        tracing::debug!(%peer, %error, "the connection is dead");
        self.swarm.close_connection(connection);
    }

    fn take_gossip(&mut self, from: PeerId, message: gossipsub::MessageId, bytes: Vec<u8>) {
        let Some(node) = self.directory.node(&from) else { return };
        let Ok(place) = Arc::clone(&self.gossip_places).try_acquire_owned() else {
            return tracing::debug!(?node, "too much gossip waits; a message goes no further");
        };
        let verdict = GossipVerdict { message, from, answers: self.answers.clone(), _place: place };
        self.emit(NetEvent::Gossip { from: node, bytes, verdict });
    }

    fn take_request_event(&mut self, event: request_response::Event<Asked, PeerReply>) {
        use request_response::Event;
        match event {
            Event::Message { peer, message: Message::Request { request, channel, .. }, .. } => match request {
                Asked::Request(request) => self.take_request(peer, request, channel),
                // Without the channel nothing is answered.
                Asked::Garbage(why) => self.take_garbage(peer, why),
            },
            Event::Message { message: Message::Response { request_id, response }, .. } => {
                self.settle(request_id, Ok(response));
            }
            Event::OutboundFailure { request_id, error, .. } => self.settle(request_id, Err(no_reply(&error))),
            Event::InboundFailure { peer, error, .. } => tracing::debug!(%peer, %error, "a peer's request failed"),
            Event::ResponseSent { .. } => {}
        }
    }

    fn take_request(&mut self, peer: PeerId, request: Box<super::PeerRequest>, channel: ResponseChannel<PeerReply>) {
        let Some(from) = self.directory.node(&peer) else { return };
        let Ok(place) = Arc::clone(&self.request_places).try_acquire_owned() else {
            let busy = PeerReply::Refused(RequestRefusal::Busy);
            // Too late for the peer is no matter here.
            let _ = self.swarm.behaviour_mut().requests.send_response(channel, busy);
            return;
        };
        let reply = ReplySender { channel, answers: self.answers.clone(), place };
        self.emit(NetEvent::Request { from, request, reply });
    }

    /// Told where there is room for it: a peer that sends much garbage need not be told of each time.
    fn take_garbage(&mut self, peer: PeerId, why: String) {
        let Some(from) = self.directory.node(&peer) else { return };
        if self.late.is_empty() {
            let told = self.events.try_send(NetEvent::Garbage { from, why });
            tracing::debug!(%peer, told = told.is_ok(), "a peer sent garbage");
        }
    }

    fn settle(&mut self, id: OutboundRequestId, result: Result<PeerReply, NetError>) {
        if let Some(waiting) = self.waiting.remove(&id) {
            // Whoever asked may have stopped waiting.
            let _ = waiting.send(result);
        }
    }

    /// Hands an event to the node, after those that found no room before.
    fn emit(&mut self, event: NetEvent) {
        if !self.late.is_empty() {
            return self.late.push_back(event);
        }
        match self.events.try_send(event) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(event)) => self.late.push_back(event),
            // The node no longer listens; the worker is about to end.
            Err(mpsc::error::TrySendError::Closed(_)) => {}
        }
    }
}

fn no_reply(error: &OutboundFailure) -> NetError {
    match error {
        OutboundFailure::Io(error) if is_garbage(error) => NetError::Garbage(error.to_string()),
        OutboundFailure::Io(error) => NetError::NoReply(error.to_string()),
        other => NetError::NoReply(other.to_string()),
    }
}
