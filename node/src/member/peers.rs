//! The peers of this member: starting libp2p, asking other nodes, and answering them.
//!
//! The network admits exactly the active membership by transport key; what comes in here is from members. Requests
//! are answered by tasks of their own, so that one slow answer holds up nobody; their number is bounded by the
//! network's limit for each connection.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, bail};
use tessera_consensus::NodeId;
use tessera_consensus::checkpoint::SignedCheckpoint;
use tessera_consensus::follow::{self, FollowReply, FollowRequest, Input};
use tessera_consensus::raft::intake::{CommandReceipt, SubmitError, SubmitResult};
use tessera_consensus::wire::v1::Submission;
use tessera_federation::net::{
    Net, NetConfig, NetEvent, NetHandle, Peer, PeerReply, PeerRequest, RequestRefusal, Server, SubmitOutcome, Verdict,
};
use tessera_federation::wire::v1::{BlindAnswer, BlindRequest};
use tokio::sync::mpsc;

use super::Member;
use super::following::active_peers;
use super::host::Host;

/// Handle to the network.
pub struct Peers {
    net: NetHandle,
}

impl Peers {
    pub fn net(&self) -> &NetHandle {
        &self.net
    }

    pub async fn blind_evaluate(&self, node: NodeId, request: BlindRequest) -> anyhow::Result<BlindAnswer> {
        match self.net.request(node, PeerRequest::Blind(request)).await? {
            PeerReply::Blind(answer) => Ok(answer),
            other => bail!(unexpected(&other)),
        }
    }

    pub async fn follow(&self, node: NodeId, request: FollowRequest) -> anyhow::Result<FollowReply> {
        match self.net.request(node, PeerRequest::Follow(request)).await? {
            PeerReply::Follow(reply) => Ok(reply),
            other => bail!(unexpected(&other)),
        }
    }

    pub async fn submit(&self, node: NodeId, submissions: Vec<Submission>) -> anyhow::Result<Vec<SubmitOutcome>> {
        match self.net.request(node, PeerRequest::Submit(submissions)).await? {
            PeerReply::Submitted(outcomes) => Ok(outcomes),
            other => bail!(unexpected(&other)),
        }
    }

    /// Gossips a certified checkpoint.
    pub fn publish(&self, note: String) {
        let net = self.net.clone();
        tokio::spawn(async move {
            if let Err(error) = net.publish(note.into_bytes()).await {
                tracing::debug!(%error, "a checkpoint was not gossiped");
            }
        });
    }

    pub fn connected(&self) -> Vec<NodeId> {
        self.net.connected()
    }
}

fn unexpected(reply: &PeerReply) -> String {
    match reply {
        PeerReply::Refused(RequestRefusal::Busy) => "the peer is busy".into(),
        PeerReply::Refused(RequestRefusal::NotServed) => "the peer is no core node".into(),
        PeerReply::Refused(RequestRefusal::Fault) => "the peer has a fault".into(),
        _ => "the peer answered another question".into(),
    }
}

/// Starts the network, with the ledger's active members, and the task that answers them.
pub async fn start(member: &Arc<Member>, inputs: mpsc::Sender<Input>) -> anyhow::Result<()> {
    let config = NetConfig {
        federation: member.replica.federation(),
        node: member.node,
        transport_seed: member.secrets.transport.seed(),
        listen: member.config.peer.listen.clone(),
        extra_addresses: BTreeMap::new(),
    };
    let (net, events) = Net::start(config).await?;
    let members = active_peers(member)?.into_iter().map(|(id, record)| {
        let join = record.join.join;
        (id, Peer { transport: join.keys.transport, addresses: join.peer_addresses })
    });
    net.set_members(members.collect()).await?;
    member.peers.set(Peers { net }).ok().context("the network was started twice")?;
    let host = Host::new(member.clone());
    let server = Server::new(host.identity(), Arc::new(host), member.changes.subscribe());
    tokio::spawn(answer(member.clone(), events, inputs, server));
    Ok(())
}

async fn answer(
    member: Arc<Member>,
    mut events: mpsc::Receiver<NetEvent>,
    inputs: mpsc::Sender<Input>,
    server: Server,
) {
    while let Some(event) = events.recv().await {
        match event {
            NetEvent::PeerUp(node) => tell(&inputs, Input::PeerUp(node)).await,
            NetEvent::PeerDown(node) => tell(&inputs, Input::PeerDown(node)).await,
            NetEvent::Gossip { bytes, verdict, .. } => {
                let judged = judge(&member, &bytes);
                if let (Verdict::Accept, Ok(note)) = (judged, String::from_utf8(bytes)) {
                    tell(&inputs, Input::Gossip { note }).await;
                }
                verdict.give(judged).await;
            }
            NetEvent::Request { from, request, reply } => {
                let member = member.clone();
                tokio::spawn(async move { reply.send(serve(&member, from, *request).await).await });
            }
            NetEvent::Stream(stream) => {
                let server = server.clone();
                tokio::spawn(async move {
                    let peer = stream.node();
                    match server.serve(stream).await {
                        Ok(outcome) => tracing::info!(?peer, ?outcome, "a retrieval ended"),
                        Err(busy) => tracing::warn!(%busy, "a retrieval was turned away"),
                    }
                });
            }
        }
    }
}

async fn tell(inputs: &mpsc::Sender<Input>, input: Input) {
    let ended = inputs.send(input).await.is_err();
    tracing::trace!(ended, "for the follower");
}

/// Whether a gossiped checkpoint is passed on: an unknown epoch is ignored, a false signature is the sender's fault.
fn judge(member: &Member, bytes: &[u8]) -> Verdict {
    let Some(signed) = std::str::from_utf8(bytes).ok().and_then(|note| SignedCheckpoint::parse(note).ok()) else {
        return Verdict::Reject;
    };
    let Ok(core) = member.replica.core() else { return Verdict::Ignore };
    if signed.checkpoint().epoch != core.epoch() {
        return Verdict::Ignore;
    }
    match signed.verify(&core, member.replica.federation()) {
        Ok(_) => Verdict::Accept,
        Err(_) => Verdict::Reject,
    }
}

async fn serve(member: &Arc<Member>, from: NodeId, request: PeerRequest) -> PeerReply {
    match request {
        PeerRequest::Follow(request) => {
            let serving = member.clone();
            let served = tokio::task::spawn_blocking(move || follow::serve(&serving.replica, &request)).await;
            match served {
                Ok(Ok(reply)) => PeerReply::Follow(reply),
                Ok(Err(error)) => {
                    tracing::error!(%error, "the ledger could not be read for a peer");
                    PeerReply::Refused(RequestRefusal::Fault)
                }
                Err(_) => PeerReply::Refused(RequestRefusal::Fault),
            }
        }
        PeerRequest::Submit(submissions) => match member.core.get() {
            Some(core) => PeerReply::Submitted(core.submit(submissions).await.into_iter().map(outcome).collect()),
            None => PeerReply::Refused(RequestRefusal::NotServed),
        },
        PeerRequest::Blind(request) => match member.evaluate_for(from, &request) {
            Ok(answer) => PeerReply::Blind(answer),
            Err(error) => {
                tracing::error!(%error, "a blind request could not be evaluated");
                PeerReply::Refused(RequestRefusal::Fault)
            }
        },
    }
}

fn outcome(result: SubmitResult) -> SubmitOutcome {
    match result {
        Ok(CommandReceipt { index, outcome }) => SubmitOutcome::Placed { index, outcome },
        Err(SubmitError::Refused(refusal)) => SubmitOutcome::Refused(refusal),
        Err(SubmitError::Conflict { applied }) => SubmitOutcome::Conflict { applied },
        Err(_) => SubmitOutcome::Later,
    }
}
