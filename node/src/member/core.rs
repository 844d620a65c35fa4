//! A core node's part: Raft over gRPC, and certification.
//!
//! The certifier is a sans-IO machine; this task feeds it and carries out what it says, in its order. The signing
//! guard is a small file in the core directory, synced before the signature that it covers leaves the house, and
//! never part of a backup.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tessera_consensus::certify::{BatchEnd, Certifier, CosignResult, Identity, Input, Output, ReplyFault, View};
use tessera_consensus::checkpoint::{Certificate, Checkpoint, SignedCheckpoint, SigningGuard};
use tessera_consensus::grpc::Call;
use tessera_consensus::grpc::client::GrpcTransport;
use tessera_consensus::grpc::server::{CoreService, ServiceError, Services, serve};
use tessera_consensus::grpc::tls::{self, Allowed, Peer};
use tessera_consensus::grpc::watermark::FileWatermark;
use tessera_consensus::kernel;
use tessera_consensus::raft::cluster::{Core, CoreSetup, Timing, seats};
use tessera_consensus::raft::intake::SubmitResult;
use tessera_consensus::raft::log_store;
use tessera_consensus::raft::types::{CoreNode, RaftId};
use tessera_consensus::wire::v1::Submission;
use tessera_consensus::wire::{decode, encode};
use tessera_consensus::{NodeId, UnixMillis};
use tessera_federation::wire::Format;
use tessera_federation::wire::v1::BlindRequest;
use tessera_storage::engine::EngineError;
use tessera_storage::rocks::{EngineOptions, RocksEngine};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::batch_ends::BatchEnds;
use super::clock::clocks;
use super::seat::GUARD;
use super::{Member, locked};
use crate::archive::ingest::now_ms;
use crate::home::replace;

/// Inputs that wait for the certifier.
const INPUTS_MAX: usize = 1024;
/// How often time is told to the certifier.
const TICK: Duration = Duration::from_millis(50);
/// How long another core node may take to cosign.
const COSIGN_TIMEOUT: Duration = Duration::from_secs(2);
const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// Pause before the signing guard is written again, where the system has nothing for it.
const GUARD_PAUSE: Duration = Duration::from_secs(1);

type RaftCore = Core<openraft_rt_tokio::TokioRuntime, GrpcTransport>;

/// The running core of this node.
pub struct CoreHandle {
    raft: RaftCore,
    inputs: mpsc::Sender<Asked>,
}

/// An input, and where the reply to a cosign request goes.
type Asked = (Input, Option<oneshot::Sender<CosignResult>>);

impl CoreHandle {
    pub async fn submit(&self, submissions: Vec<Submission>) -> Vec<SubmitResult> {
        self.raft.submit(submissions).await
    }

    /// The name of the core node that leads.
    pub fn leader(&self, member: &Member) -> Option<String> {
        let leader = self.raft.leader()?;
        seats(&member.replica).ok()?.get(&leader).map(|node| node.name.clone())
    }

    /// Why this node's part in Raft waits, if its disk has no room.
    pub fn waits_for_room(&self) -> Option<String> {
        self.raft.waits_for_room()
    }

    /// A certificate came from elsewhere.
    pub fn certificate_seen(&self, certificate: Certificate) {
        let full = self.inputs.try_send((Input::CertificateSeen(certificate), None)).is_err();
        tracing::trace!(full, "certificate for the certifier");
    }
}

/// What one core node asks another to sign, and what its own clock shows.
#[derive(Serialize, Deserialize)]
struct CosignAsk {
    checkpoint: Checkpoint,
    asked_at: UnixMillis,
}

struct Service {
    member: Arc<Member>,
    raft: RaftCore,
    inputs: mpsc::Sender<Asked>,
}

#[tonic::async_trait]
impl CoreService for Service {
    async fn submit(&self, _: Peer, submissions: Vec<Submission>) -> Vec<SubmitResult> {
        self.raft.submit(submissions).await
    }

    async fn cosign(&self, peer: Peer, ask: Vec<u8>) -> Result<Vec<u8>, ServiceError> {
        let invalid = |error: &dyn std::fmt::Display| ServiceError::Invalid(error.to_string());
        let ask: CosignAsk = decode("cosign request", &ask, MESSAGE_BYTES_MAX).map_err(|e| invalid(&e))?;
        let CosignAsk { checkpoint, asked_at } = ask;
        let (sender, receiver) = oneshot::channel();
        let asked = (Input::CosignRequest { from: peer.node, checkpoint, asked_at }, Some(sender));
        self.inputs.try_send(asked).map_err(|_| ServiceError::Exhausted("the certifier is busy".into()))?;
        let result = receiver.await.map_err(|_| ServiceError::Unavailable("another request took its place".into()))?;
        Ok(encode(&result))
    }

    async fn announce_checkpoint(&self, _: Peer, note: Vec<u8>) -> Result<(), ServiceError> {
        let invalid = |error: &dyn std::fmt::Display| ServiceError::Invalid(error.to_string());
        let note = String::from_utf8(note).map_err(|e| invalid(&e))?;
        let signed = SignedCheckpoint::parse(&note).map_err(|e| invalid(&e))?;
        let core = self.member.replica.core().map_err(|e| invalid(&e))?;
        let certificate = signed.verify(&core, self.member.replica.federation()).map_err(|e| invalid(&e))?;
        // Whether it contradicts what is here shows in the task that follows, which ends the node.
        self.member.hear_of(certificate);
        Ok(())
    }

    async fn status(&self, _: Peer) -> Result<Vec<u8>, ServiceError> {
        Ok(encode(&self.raft.status()))
    }

    async fn blind_evaluate(&self, peer: Peer, request: Vec<u8>) -> Result<Vec<u8>, ServiceError> {
        let request = BlindRequest::from_bytes(&request).map_err(|error| ServiceError::Invalid(error.to_string()))?;
        let answer = self.member.evaluate_for(peer.node, &request).await;
        Ok(answer.map_err(|error| ServiceError::Unavailable(error.to_string()))?.to_bytes())
    }
}

/// The keys that may speak to this core node: those of the core.
fn allowed(member: &Member) -> anyhow::Result<Allowed> {
    let seats = kernel::core(member.replica.view())?.seats;
    let mut peers = Vec::new();
    for seat in seats {
        let record = kernel::node(member.replica.view(), &seat.node)?.context("a core node without a record")?;
        let peer = Peer { node: seat.node, seat: Some(RaftId(seat.raft_id)) };
        peers.push((record.join.join.keys.transport, peer));
    }
    Ok(Allowed::new(peers))
}

/// Starts Raft, the core's network and certification, if this node still has its seat. What it adds to `tasks` ends
/// only with an error, with which the node must end: it may have lost what it confirmed.
pub async fn start(member: &Arc<Member>, tasks: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    let members = seats(&member.replica)?;
    let own = members.iter().find(|(_, node)| node.node == member.node);
    let seat = *own.context("this node is not in the ledger's core")?.0;
    let directory = member.home.core().join(member.replica.federation().short());
    std::fs::create_dir_all(directory.join("raft"))?;
    if !member.take_seat(&directory)? {
        return Ok(());
    }
    let identity = tls::Identity::new(&member.secrets.transport)?;
    let transport = GrpcTransport::new(identity, allowed(member)?);
    let (inputs, receiver) = mpsc::channel(INPUTS_MAX);
    // First where the ledger stands: what Raft applies again or anew comes behind it, in order.
    let ends = Arc::new(BatchEnds::default());
    ends.push(batch_end(&member.replica.checkpoint()?));
    let listener = {
        let (member, ends) = (Arc::downgrade(member), ends.clone());
        Arc::new(move |applied: &tessera_consensus::replica::Applied| {
            let Some(member) = member.upgrade() else { return };
            ends.push(batch_end(&applied.checkpoint));
            member.advanced();
        })
    };
    let raft_directory = directory.join("raft");
    let raft_engine = match RocksEngine::open(&raft_directory, &log_store::TABLES, EngineOptions::default()) {
        Ok(engine) => Arc::new(engine),
        // It confirmed what it no longer has.
        Err(error @ EngineError::LostWrites { .. }) => return member.lose_seat(&error.to_string()),
        Err(error) if error.is_damage() => {
            return Err(error).with_context(|| damaged_log(&raft_directory));
        }
        Err(error) => return Err(error).with_context(|| raft_directory.display().to_string()),
    };
    let started = Core::start(CoreSetup {
        seat,
        node: member.node,
        raft_engine,
        watermark: Arc::new(FileWatermark::open(&directory.join("watermark"))?),
        replica: member.replica.clone(),
        clock: Arc::new(|| UnixMillis(now_ms())),
        transport: transport.clone(),
        listener,
        timing: Timing::default(),
    })
    .await;
    let raft = match started {
        Ok(raft) => raft,
        Err(error) if error.is_loss_of_memory() => return member.lose_seat(&error.to_string()),
        Err(error) => return Err(error.into()),
    };
    let service = Service { member: member.clone(), raft: raft.clone(), inputs: inputs.clone() };
    if let Some(listen) = member.config.core.listen {
        let listener =
            tokio::net::TcpListener::bind(listen).await.with_context(|| format!("[core] listen {listen}"))?;
        let identity = tls::Identity::new(&member.secrets.transport)?;
        let services = Services { allowed: allowed(member)?, raft: Arc::new(raft.clone()), core: Arc::new(service) };
        tasks.spawn(async move {
            serve(listener, &identity, services, std::future::pending()).await.context("the core's network")
        });
    }
    let handle = CoreHandle { raft: raft.clone(), inputs: inputs.clone() };
    member.core.set(handle).ok().context("the core was started twice")?;
    let driver = Driver::new(member.clone(), raft.clone(), transport, inputs, ends, directory.join(GUARD))?;
    tasks.spawn(driver.run(receiver));
    tasks.spawn(async move { anyhow::bail!("Raft has stopped: {}; start the node again", raft.stopped().await) });
    Ok(())
}

fn damaged_log(directory: &Path) -> String {
    format!(
        "the Raft log of this core node is damaged. Stop the node, check the disk, remove the directory {} and start \
         again: without its log the node gives up its seat in the core, and goes on as a member",
        directory.display()
    )
}

fn batch_end(c: &Checkpoint) -> BatchEnd {
    BatchEnd { size: c.size, root: c.root, digest: c.digest, epoch: c.epoch }
}

/// Runs the certifier.
struct Driver {
    member: Arc<Member>,
    raft: RaftCore,
    transport: GrpcTransport,
    inputs: mpsc::Sender<Asked>,
    ends: Arc<BatchEnds>,
    certifier: Certifier,
    guard: PathBuf,
    /// Who waits for an answer about what; at most one request and one that it replaced of each core node.
    waiting: Vec<(NodeId, Checkpoint, oneshot::Sender<CosignResult>)>,
    leader: Option<NodeId>,
    seats: Mutex<BTreeMap<RaftId, CoreNode>>,
}

impl Driver {
    fn new(
        member: Arc<Member>,
        raft: RaftCore,
        transport: GrpcTransport,
        inputs: mpsc::Sender<Asked>,
        ends: Arc<BatchEnds>,
        guard: PathBuf,
    ) -> anyhow::Result<Self> {
        let record = match std::fs::read(&guard) {
            Ok(bytes) => {
                SigningGuard::from_bytes(&bytes).context("the signing guard is damaged; this node can't sign")?
            }
            // It is made with the seat ([`super::seat`]): nobody signs without memory of what was signed.
            Err(error) => return Err(error).context(format!("the signing guard {}", guard.display())),
        };
        let core = member.replica.core()?;
        let own = core.member(&member.node).context("this node is not in the core")?;
        let identity = Identity {
            node: member.node,
            federation: member.replica.federation(),
            name: own.name.clone(),
            checkpoint_key: member.secrets.checkpoint.clone(),
        };
        let certifier = Certifier::new(identity, record, member.replica.certificate(), UnixMillis(now_ms()));
        let seats = Mutex::new(seats(&member.replica)?);
        let waiting = Vec::new();
        Ok(Self { member, raft, transport, inputs, ends, certifier, guard, waiting, leader: None, seats })
    }

    async fn run(mut self, mut receiver: mpsc::Receiver<Asked>) -> anyhow::Result<()> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    self.look_for_the_leader().await?;
                    self.step(Input::Tick).await?;
                }
                () = self.ends.arrived() => self.take_batch_ends().await?,
                asked = receiver.recv() => {
                    let Some((input, reply)) = asked else { return Ok(()) };
                    if let (Input::CosignRequest { from, checkpoint, .. }, Some(reply)) = (&input, reply) {
                        self.waiting.retain(|(.., reply)| !reply.is_closed());
                        self.waiting.push((*from, *checkpoint, reply));
                    }
                    self.step(input).await?;
                }
            }
        }
    }

    async fn look_for_the_leader(&mut self) -> anyhow::Result<()> {
        let leader = self.raft.leader().and_then(|seat| locked(&self.seats).get(&seat).map(|node| node.node));
        if leader != self.leader {
            self.leader = leader;
            self.step(Input::LeaderChanged { leader }).await?;
        }
        Ok(())
    }

    async fn step(&mut self, input: Input) -> anyhow::Result<()> {
        self.take_batch_ends().await?;
        self.step_once(input).await
    }

    /// What was applied is known before anything else is judged.
    async fn take_batch_ends(&mut self) -> anyhow::Result<()> {
        for end in self.ends.take() {
            self.step_once(Input::Applied(end)).await?;
        }
        Ok(())
    }

    async fn step_once(&mut self, input: Input) -> anyhow::Result<()> {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let cores = [self.member.replica.core()?];
            let outputs = self.certifier.step(clocks(), input, View { cores: &cores });
            for output in outputs {
                inputs.extend(self.carry_out(output).await?);
            }
        }
        Ok(())
    }

    /// Carries out one output; what follows from it at once is the next input.
    async fn carry_out(&mut self, output: Output) -> anyhow::Result<Option<Input>> {
        match output {
            Output::PersistGuard { guard } => {
                self.keep_guard(&guard).await?;
                return Ok(Some(Input::GuardDurable { guard }));
            }
            Output::SendRequest { to, checkpoint, asked_at } => self.ask(to, CosignAsk { checkpoint, asked_at }),
            Output::SendReply { to, checkpoint, result } => {
                let asked = self.waiting.iter().position(|(from, about, _)| (from, about) == (&to, &checkpoint));
                if let Some(asked) = asked {
                    let gone = self.waiting.remove(asked).2.send(result).is_err();
                    tracing::trace!(gone, "cosigned");
                }
            }
            Output::Certified(certificate) => self.publish(certificate)?,
            Output::Divergence { ours, theirs, peer: None } => {
                tracing::error!(?ours, ?theirs, "this core node applied something else than what the core certified");
                return Err(self.member.diverged());
            }
            Output::Divergence { ours, theirs, peer } => {
                let who = peer.map_or_else(String::new, |peer| self.member.peer_name(&peer));
                let what = format!(
                    "two core nodes hold different ledgers, this one and {who}, at size {}: {ours:?} here, {theirs:?} \
                     there; certification stops here",
                    ours.size.0
                );
                self.member.set_divergence(what);
            }
            // This node's own clock may be the one that is wrong; who is behind or ahead is not accused.
            Output::FaultyReply { peer, fault: fault @ ReplyFault::Clock { .. } } => {
                tracing::info!(peer = self.member.peer_name(&peer), %fault, "a cosignature is not counted");
            }
            Output::FaultyReply { peer, fault } => {
                self.member.suspect(peer, &format_args!("a cosignature that is not counted: {fault}"));
            }
        }
        Ok(None)
    }

    /// Nothing is signed before it is on the disk. A system that has no room or no open file for it now may have some
    /// again; so this node signs nothing meanwhile, and goes on.
    async fn keep_guard(&self, guard: &SigningGuard) -> anyhow::Result<()> {
        let mut waited = false;
        loop {
            // The runtime's threads are not for fsync.
            let (path, bytes) = (self.guard.clone(), guard.to_bytes());
            match tokio::task::spawn_blocking(move || replace(&path, &bytes, 0o600)).await? {
                Ok(()) => break,
                Err(error) if error.is_for_now() => {
                    if !std::mem::replace(&mut waited, true) {
                        tracing::warn!(%error, "nothing is signed until the signing guard can be written");
                    }
                    let why = format!("until the signing guard can be written: {error}");
                    *locked(&self.member.ledger_waits) = Some(why);
                    tokio::time::sleep(GUARD_PAUSE).await;
                }
                Err(error) => return Err(error).context("the signing guard could not be written"),
            }
        }
        if waited {
            *locked(&self.member.ledger_waits) = None;
        }
        Ok(())
    }

    fn ask(&self, to: NodeId, ask: CosignAsk) {
        let Some(peer) = locked(&self.seats).values().find(|node| node.node == to).cloned() else { return };
        let (member, transport, inputs) = (self.member.clone(), self.transport.clone(), self.inputs.clone());
        tokio::spawn(async move {
            let answer = transport.request(&peer, Call::Cosign, encode(&ask), COSIGN_TIMEOUT).await;
            let Ok(bytes) = answer else { return };
            match decode::<CosignResult>("cosign reply", &bytes, MESSAGE_BYTES_MAX) {
                Ok(result) => {
                    let reply = Input::CosignReply { from: to, checkpoint: ask.checkpoint, result };
                    let gone = inputs.send((reply, None)).await.is_err();
                    tracing::trace!(gone, "cosign reply");
                }
                Err(error) => member.suspect(to, &error),
            }
        });
    }

    /// Keeps a new certificate, and tells the other core nodes and the gossip.
    fn publish(&self, certificate: Certificate) -> anyhow::Result<()> {
        let note = certificate.signed().to_note();
        self.member.take_certificate(certificate)?;
        let peers: Vec<CoreNode> =
            locked(&self.seats).values().filter(|node| node.node != self.member.node).cloned().collect();
        for peer in peers {
            let (transport, note) = (self.transport.clone(), note.clone());
            tokio::spawn(async move {
                let sent = transport.request(&peer, Call::AnnounceCheckpoint, note.into_bytes(), COSIGN_TIMEOUT).await;
                tracing::trace!(ok = sent.is_ok(), "announced");
            });
        }
        if let Ok(peers) = self.member.peers() {
            peers.publish(note);
        }
        Ok(())
    }
}
