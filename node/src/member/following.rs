//! Following, serving and sending: the tasks between this member and its peers.
//!
//! The follower is a sans-IO machine; this task feeds it and carries out what it says. On a core node with its seat it
//! only takes certificates, for entries come by Raft. The sender settles what was certified and hands the rest of the
//! outbox in (`handing_in`); it waits for nothing that a single command needs (`again`).

use std::sync::Arc;
use std::time::Duration;

use tessera_consensus::Lane;
use tessera_consensus::NodeId;
use tessera_consensus::checkpoint::Certificate;
use tessera_consensus::follow::{Follower, Input, Mode, Output};
use tessera_consensus::kernel;
use tessera_consensus::replica::ReplicaError;
use tessera_consensus::wire::v1::Role;
use tessera_federation::outbox::Settled;
use tessera_storage::engine::{EngineError, wait_durable};
use tokio::sync::mpsc;

use super::again::{is_of_a_full_disk, is_of_the_disk};
use super::{Member, clock, locked};

/// Inputs that wait for the follower.
pub const INPUTS_MAX: usize = 256;
const TICK: Duration = Duration::from_millis(200);
/// Commands sent in one go.
const SENT_MAX: usize = 128;
/// What a person reads when the node ends, or does not start, because of it.
pub const DIVERGED: &str = "the ledger in this directory differs from what the federation's core certified, so this node \
    decides and serves nothing on it and has stopped. Images and outbox are not touched. Keep a copy of the ledger \
    directory for examination and tell the federation's operators; a hospital outside the core may then remove the \
    ledger directory and start again: the node fetches the ledger anew";
/// Pause between two attempts at an unreachable core.
const SEND_AGAIN: Duration = Duration::from_millis(500);
/// Pause before the ledger is tried again on a disk without room.
const ROOM_PAUSE: Duration = Duration::from_secs(10);
/// How often the registrar looks for quiet studies.
const REGISTER_EVERY: Duration = Duration::from_millis(250);

impl Member {
    /// A certificate, from certification here or from a peer, whose size the replica has or will soon have reached.
    ///
    /// An error where what is here is not what the core certified: this node must end, and decides nothing any more.
    pub fn take_certificate(&self, certificate: Certificate) -> anyhow::Result<()> {
        let seen = certificate.clone();
        match self.replica.certified(certificate) {
            Ok(true) => {
                self.advanced();
                if let Some(core) = self.core.get() {
                    core.certificate_seen(seen);
                }
            }
            Ok(false) => {}
            Err(ReplicaError::Diverged { size }) => {
                tracing::error!(size, "this replica differs from what the core certified");
                return Err(self.diverged());
            }
            Err(error) => tracing::error!(%error, "a certificate could not be kept"),
        }
        Ok(())
    }

    /// Writes down that this replica is not the federation's ledger. What it returns must end the node.
    pub fn diverged(&self) -> anyhow::Error {
        let engine = &**self.replica.engine();
        let kept = self.replica.diverge().and_then(|ticket| wait_durable(engine, ticket));
        match kept {
            Ok(()) => anyhow::anyhow!(DIVERGED),
            Err(error) => anyhow::Error::new(error).context(DIVERGED),
        }
    }
}

/// Runs the follower until the program ends.
pub async fn follow(
    member: Arc<Member>,
    inputs: mpsc::Sender<Input>,
    mut receiver: mpsc::Receiver<Input>,
) -> anyhow::Result<()> {
    let mode = if member.core.get().is_some() { Mode::Certificates } else { Mode::Entries };
    let replica = &member.replica;
    let core = replica.core()?;
    let mut follower = Follower::new(replica.federation(), core, replica.frontier(), replica.certificate(), mode);
    let mut tick = tokio::time::interval(TICK);
    loop {
        let input = tokio::select! {
            _ = tick.tick() => match mode {
                Mode::Certificates => Input::Applied { frontier: replica.frontier(), core: replica.core()? },
                Mode::Entries => Input::Tick,
            },
            input = receiver.recv() => match input {
                Some(input) => input,
                None => return Ok(()),
            },
        };
        for output in follower.step(clock::steady(), input) {
            carry_out(&member, &inputs, output).await?;
        }
    }
}

async fn carry_out(member: &Arc<Member>, inputs: &mpsc::Sender<Input>, output: Output) -> anyhow::Result<()> {
    match output {
        Output::Ask { peer, request } => {
            let (member, inputs) = (member.clone(), inputs.clone());
            tokio::spawn(async move {
                let Ok(peers) = member.peers() else { return };
                let reply = peers.follow(peer, request).await;
                let input = match reply {
                    Ok(reply) => Input::Reply { from: peer, reply },
                    Err(error) => Input::Failed { from: peer, at_fault: member.no_answer(peer, &error) },
                };
                let ended = inputs.send(input).await.is_err();
                tracing::trace!(ended, "reply for the follower");
            });
        }
        Output::Apply { from, entries } => {
            let applying = member.clone();
            let done = tokio::task::spawn_blocking(move || applying.replica.apply_entries(from, &entries)).await?;
            let pause = match done {
                Ok(_) => {
                    *locked(&member.ledger_waits) = None;
                    member.advanced();
                    Duration::ZERO
                }
                // What is here can be read meanwhile.
                Err(ReplicaError::Engine(error @ EngineError::DiskFull { .. })) => {
                    tracing::warn!(%error, "the ledger does not go on here until there is room");
                    *locked(&member.ledger_waits) = Some(format!("until there is room: {error}"));
                    ROOM_PAUSE
                }
                Err(error) => return Err(error.into()),
            };
            let applied = Input::Applied { frontier: member.replica.frontier(), core: member.replica.core()? };
            // The follower itself waits here, so its own queue may be full: the answer goes in by another task.
            let inputs = inputs.clone();
            tokio::spawn(async move {
                tokio::time::sleep(pause).await;
                inputs.send(applied).await.is_err()
            });
        }
        Output::Certified(certificate) => member.take_certificate(certificate)?,
        Output::PassOn { note } => {
            if let Ok(peers) = member.peers() {
                peers.publish(note);
            }
        }
        Output::Refused { peer, why } if why.is_fault() => member.suspect(peer, &why),
        Output::Refused { peer, why } => tracing::debug!(?peer, %why, "of no use here"),
    }
    Ok(())
}

/// Sends the outbox's commands, and settles what was certified.
pub async fn send(member: Arc<Member>) -> anyhow::Result<()> {
    let mut progress = member.progress.subscribe();
    loop {
        if progress.borrow_and_update().caught_up {
            match send_once(&member).await {
                Err(error) if is_of_a_full_disk(&error) => {
                    tracing::warn!(why = format!("{error:#}"), "the outbox does not go on until there is room");
                }
                done => done?,
            }
        }
        tokio::select! {
            _ = progress.changed() => {}
            () = member.outgoing.notified() => {}
            () = tokio::time::sleep(SEND_AGAIN) => {}
        }
    }
}

async fn send_once(member: &Arc<Member>) -> anyhow::Result<()> {
    // What is urgent does not wait for what may take long after a start.
    hand_in_lane(member, Lane::Urgent).await?;
    let examining = member.clone();
    tokio::task::spawn_blocking(move || examining.examine_own_entries()).await??;
    loop {
        let settled = member.outbox.settle(&member.replica)?;
        if settled.is_empty() {
            break;
        }
        for command in &settled {
            settle_one(member, command).await?;
        }
    }
    for lane in Lane::ALL {
        hand_in_lane(member, lane).await?;
    }
    Ok(())
}

/// Until the disk has it: the outbox forgets the command when it is asked for the next ones. What one command stumbles
/// over otherwise would be there the next time too, and must not hold up the others.
async fn settle_one(member: &Member, command: &Settled) -> anyhow::Result<()> {
    while let Err(error) = member.settled(command) {
        tracing::warn!(why = format!("{error:#}"), "what the ledger said of a command can't be written down");
        if !is_of_the_disk(&error) {
            break;
        }
        tokio::time::sleep(SEND_AGAIN).await;
        // A full disk may stay so for long; what is urgent does not wait for it.
        hand_in_lane(member, Lane::Urgent).await?;
    }
    Ok(())
}

async fn hand_in_lane(member: &Member, lane: Lane) -> anyhow::Result<()> {
    let pending = member.outbox.pending(lane, SENT_MAX)?;
    if !pending.is_empty() {
        member.hand_in(lane, pending).await;
    }
    Ok(())
}

/// Registers quiet studies for ever. While the replica has not caught up, or the core can't be asked for a key,
/// registration waits and says so; ingest goes on.
pub async fn register(member: Arc<Member>) {
    loop {
        tokio::time::sleep(REGISTER_EVERY).await;
        if !member.progress.borrow().caught_up || member.role == Role::Observer {
            continue;
        }
        let waits = member.register_quiet().await.err().map(|error| format!("{error:#}"));
        let before = std::mem::replace(&mut *locked(&member.registration_waits), waits.clone());
        if let Some(why) = waits.filter(|why| before.as_ref() != Some(why)) {
            tracing::warn!(why, "registration waits; ingest goes on");
        }
    }
}

/// Peers that may be asked and connected: every active node but this one, with its addresses.
pub fn active_peers(member: &Member) -> anyhow::Result<Vec<(NodeId, kernel::NodeRecord)>> {
    let nodes = kernel::nodes(member.replica.view())?;
    let named = nodes.into_iter().filter(|node| node.active).map(|node| (node.join.node_id(), node));
    Ok(named.filter(|(id, _)| *id != member.node).collect())
}
