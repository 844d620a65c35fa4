//! The peers of this member: starting libp2p, asking other nodes, and answering them.
//!
//! The network admits exactly the active membership by transport key; what comes in here is from members. Requests
//! are answered by tasks of their own, so that one slow answer holds up nobody; their number is bounded by the
//! network's limit for each connection.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context;
use tessera_consensus::checkpoint::{Certificate, Core, NoteError, SignedCheckpoint};
use tessera_consensus::follow::{self, FollowError, FollowReply, FollowRequest, Input};
use tessera_consensus::raft::intake::{CommandReceipt, SubmitError, SubmitResult};
use tessera_consensus::wire::v1::Submission;
use tessera_consensus::{FederationId, NodeId};
use tessera_federation::net::{
    Net, NetConfig, NetError, NetEvent, NetHandle, Peer, PeerReply, PeerRequest, RequestRefusal, Server, SubmitOutcome,
    Verdict,
};
use tessera_federation::retrieve::Outcome;
use tessera_federation::retrieve::wire::v1::StopCode;
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

    pub async fn blind_evaluate(&self, node: NodeId, request: BlindRequest) -> Result<BlindAnswer, AskError> {
        match self.net.request(node, PeerRequest::Blind(request)).await? {
            PeerReply::Blind(answer) => Ok(answer),
            other => Err(unexpected(&other)),
        }
    }

    pub async fn follow(&self, node: NodeId, request: FollowRequest) -> Result<FollowReply, AskError> {
        match self.net.request(node, PeerRequest::Follow(request)).await? {
            PeerReply::Follow(reply) => Ok(reply),
            other => Err(unexpected(&other)),
        }
    }

    pub async fn submit(&self, node: NodeId, submissions: Vec<Submission>) -> Result<Vec<SubmitOutcome>, AskError> {
        match self.net.request(node, PeerRequest::Submit(submissions)).await? {
            PeerReply::Submitted(outcomes) => Ok(outcomes),
            other => Err(unexpected(&other)),
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

/// Why another member gave no answer to what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    #[error(transparent)]
    Net(#[from] NetError),
    #[error("the peer is busy")]
    Busy,
    #[error("the peer is no core node")]
    NotServed,
    #[error("the peer has a fault")]
    Fault,
    #[error("the peer answered another question")]
    OtherQuestion,
}

impl AskError {
    /// Whether no sound node gives cause for it.
    pub const fn is_fault(&self) -> bool {
        matches!(self, Self::Net(NetError::Garbage(_)) | Self::OtherQuestion)
    }
}

fn unexpected(reply: &PeerReply) -> AskError {
    match reply {
        PeerReply::Refused(RequestRefusal::Busy) => AskError::Busy,
        PeerReply::Refused(RequestRefusal::NotServed) => AskError::NotServed,
        PeerReply::Refused(RequestRefusal::Fault) => AskError::Fault,
        _ => AskError::OtherQuestion,
    }
}

impl Member {
    /// A member gave no answer; whether that is its fault.
    pub fn no_answer(&self, peer: NodeId, error: &AskError) -> bool {
        if error.is_fault() {
            self.suspect(peer, error);
        } else {
            tracing::debug!(?peer, %error, "a peer did not answer");
        }
        error.is_fault()
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
            NetEvent::Gossip { from, bytes, verdict } => match judge(&member, bytes) {
                Ok(note) => {
                    tell(&inputs, Input::Gossip { from, note }).await;
                    verdict.give(Verdict::Accept).await;
                }
                // It had to look at it before it passed it on.
                Err(why) if why.is_fault() => {
                    member.suspect(from, &format_args!("gossip: {why}"));
                    verdict.give(Verdict::Reject).await;
                }
                Err(_) => verdict.give(Verdict::Ignore).await,
            },
            NetEvent::Garbage { from, why } => member.suspect(from, &why),
            NetEvent::Request { from, request, reply } => {
                let member = member.clone();
                tokio::spawn(async move { reply.send(serve(&member, from, *request).await).await });
            }
            NetEvent::Stream(stream) => {
                let (member, server) = (member.clone(), server.clone());
                tokio::spawn(async move {
                    let peer = stream.node();
                    match server.serve(stream).await {
                        Ok(outcome) => retrieval_ended(&member, peer, &outcome),
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

/// A gossiped checkpoint that is to be passed on.
fn judge(member: &Member, bytes: Vec<u8>) -> Result<String, FollowError> {
    let note = String::from_utf8(bytes).map_err(|_| FollowError::Note(NoteError::Shape))?;
    // A core that can't be read is this node's own fault; the next read of it says so.
    let core = member.replica.core().map_err(|_| FollowError::OtherEpoch)?;
    judge_note(&note, &core, member.replica.federation(), member.replica.certificate().as_ref())?;
    Ok(note)
}

/// Why it is not passed on. A false signature is the sender's fault. An unknown epoch and what is no news are ignored, and
/// so is a signature of somebody outside the core, as later versions may add (witnesses): nodes pass on the core's alone,
/// for with others, or with old certificates, one note could be sent round in ever new forms.
fn judge_note(
    note: &str,
    core: &Core,
    federation: FederationId,
    newest: Option<&Certificate>,
) -> Result<(), FollowError> {
    let certificate = follow::read_note(note, core, federation)?;
    let signed = SignedCheckpoint::parse(note)?;
    if signed.cosignatures().iter().any(|cosignature| core.signer_of(cosignature).is_none()) {
        return Err(FollowError::ForeignSigner);
    }
    let rank = |certificate: &Certificate| (certificate.checkpoint().size, certificate.time());
    // The newest itself came by another way a moment ago; it has this one form.
    let is_news = |newest: &Certificate| rank(&certificate) > rank(newest) || certificate == *newest;
    if newest.is_none_or(is_news) { Ok(()) } else { Err(FollowError::NoNews) }
}

fn retrieval_ended(member: &Member, peer: NodeId, outcome: &Outcome) {
    match outcome {
        Outcome::Breach(why) => member.suspect(peer, &format_args!("retrieval: {why}")),
        Outcome::Garbage(why) => member.suspect(peer, &format_args!("retrieval: {why}")),
        Outcome::Stopped(StopCode::WRONG_BYTES) => {
            let requester = member.peer_name(&peer);
            tracing::error!(requester, "the requester says that this node sent wrong bytes; look after the disk");
        }
        outcome => tracing::info!(?peer, ?outcome, "a retrieval ended"),
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
        PeerRequest::Blind(request) => match member.evaluate_for(from, &request).await {
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

#[cfg(test)]
mod tests {
    use tessera_consensus::checkpoint::{Checkpoint, CoreMember, cosign};
    use tessera_consensus::keys::SigningKey;
    use tessera_consensus::{Epoch, Hash, LedgerSize};

    use super::*;

    const CORE: [u8; 4] = [0, 1, 2, 3];
    const WITNESS: u8 = 9;

    fn key(signer: u8) -> SigningKey {
        SigningKey::from_seed([signer + 1; 32])
    }

    fn federation() -> FederationId {
        FederationId::new(Hash::blake3(&[b"federation"]))
    }

    fn note(size: u64, time_seconds: u64, signers: &[u8]) -> String {
        let bytes = size.to_be_bytes();
        let (root, digest) = (Hash::sha256(&[&bytes]), Hash::blake3(&[&bytes]));
        let checkpoint = Checkpoint { federation: federation(), size: LedgerSize(size), root, digest, epoch: Epoch(1) };
        let name = |signer: &u8| format!("h{signer}.example").parse().expect("a name");
        let signed = signers.iter().map(|signer| cosign(&checkpoint, &name(signer), &key(*signer), time_seconds));
        SignedCheckpoint::new(checkpoint, signed.collect()).expect("a note").to_note()
    }

    #[test]
    fn gossip_is_passed_on_when_it_is_news_and_signed_by_the_core_alone() {
        let members = CORE.map(|signer| CoreMember {
            node: NodeId::new(Hash::blake3(&[&[signer]])),
            name: format!("h{signer}.example").parse().expect("a name"),
            checkpoint_key: key(signer).public(),
        });
        let core = Core::new(Epoch(1), members.to_vec()).expect("a core");
        let newest = SignedCheckpoint::parse(&note(10, 1000, &[0, 1, 2])).expect("a note");
        let newest = newest.verify(&core, federation()).expect("certified");
        for (what, note, expected) in [
            ("larger", note(11, 1001, &[0, 1, 2]), Verdict::Accept),
            ("the same size again, later", note(10, 1001, &[0, 1, 2]), Verdict::Accept),
            ("the one that is here", note(10, 1000, &[0, 1, 2]), Verdict::Accept),
            ("the same by others of the core", note(10, 1000, &[1, 2, 3]), Verdict::Ignore),
            ("an old one", note(9, 999, &[0, 1, 2]), Verdict::Ignore),
            ("a witness besides", note(11, 1001, &[0, 1, 2, WITNESS]), Verdict::Ignore),
            ("too few", note(11, 1001, &[0, 1]), Verdict::Reject),
            ("no note", "nonsense".into(), Verdict::Reject),
        ] {
            let verdict = match judge_note(&note, &core, federation(), Some(&newest)) {
                Ok(()) => Verdict::Accept,
                Err(why) if why.is_fault() => Verdict::Reject,
                Err(_) => Verdict::Ignore,
            };
            assert_eq!(format!("{verdict:?}"), format!("{expected:?}"), "{what}");
        }
    }
}
