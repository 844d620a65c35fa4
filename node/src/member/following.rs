//! Following, serving and sending: the tasks between this member and its peers.
//!
//! The follower is a sans-IO machine; this task feeds it and carries out what it says. On a core node with its seat it
//! only takes certificates, for entries come by Raft. The sender hands the outbox's pending commands to a core node, again and
//! again until the ledger has certified them; repeating is harmless.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tessera_consensus::Lane;
use tessera_consensus::checkpoint::Certificate;
use tessera_consensus::follow::{Follower, Input, Mode, Output};
use tessera_consensus::kernel;
use tessera_consensus::raft::intake::{SubmitError, SubmitResult};
use tessera_consensus::replica::ReplicaError;
use tessera_consensus::wire::v1::{Role, Submission};
use tessera_consensus::{NodeId, UnixMillis};
use tessera_federation::net::SubmitOutcome;
use tessera_federation::outbox::Settled;
use tokio::sync::mpsc;

use super::{Member, locked};
use crate::archive::ingest::now_ms;

/// Inputs that wait for the follower.
pub const INPUTS_MAX: usize = 256;
const TICK: Duration = Duration::from_millis(200);
/// Commands sent in one go.
const SENT_MAX: usize = 128;
/// Pause between two attempts at an unreachable core.
const SEND_AGAIN: Duration = Duration::from_millis(500);
/// How often the registrar looks for quiet studies.
const REGISTER_EVERY: Duration = Duration::from_millis(250);

impl Member {
    /// A certificate, from certification here or from a peer, whose size the replica has or will soon have reached.
    pub fn take_certificate(&self, certificate: Certificate) {
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
                tracing::error!(size, "this replica differs from what the core certified; it stops applying");
            }
            Err(error) => tracing::error!(%error, "a certificate could not be kept"),
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
        for output in follower.step(UnixMillis(now_ms()), input) {
            carry_out(&member, &inputs, output).await?;
        }
    }
}

async fn carry_out(member: &Arc<Member>, inputs: &mpsc::Sender<Input>, output: Output) -> anyhow::Result<()> {
    match output {
        Output::Ask { peer, request } => {
            let (member, inputs) = (member.clone(), inputs.clone());
            tokio::spawn(async move {
                let reply = match member.peers() {
                    Ok(peers) => peers.follow(peer, request).await,
                    Err(error) => Err(error),
                };
                let input = match reply {
                    Ok(reply) => Input::Reply { from: peer, reply },
                    Err(error) => {
                        tracing::debug!(?peer, %error, "a peer did not answer");
                        Input::Failed { from: peer }
                    }
                };
                let ended = inputs.send(input).await.is_err();
                tracing::trace!(ended, "reply for the follower");
            });
        }
        Output::Apply { from, entries } => {
            let applying = member.clone();
            tokio::task::spawn_blocking(move || applying.replica.apply_entries(from, &entries)).await??;
            member.advanced();
            let applied = Input::Applied { frontier: member.replica.frontier(), core: member.replica.core()? };
            // The follower itself waits here, so its own queue may be full: the answer goes in by another task.
            let inputs = inputs.clone();
            tokio::spawn(async move { inputs.send(applied).await.is_err() });
        }
        Output::Certified(certificate) => member.take_certificate(certificate),
        Output::PassOn { note } => {
            if let Ok(peers) = member.peers() {
                peers.publish(note);
            }
        }
        Output::Refused { peer, why } => tracing::warn!(?peer, %why, "refused what a peer said"),
    }
    Ok(())
}

/// Sends the outbox's commands, and settles what was certified.
pub async fn send(member: Arc<Member>) -> anyhow::Result<()> {
    let mut progress = member.progress.subscribe();
    loop {
        if progress.borrow_and_update().caught_up {
            member.examine_own_entries()?;
            loop {
                let settled = member.outbox.settle(&member.replica)?;
                if settled.is_empty() {
                    break;
                }
                for command in &settled {
                    settle_one(&member, command).await;
                }
            }
            member.write_consents_again().await?;
            for lane in Lane::ALL {
                let pending = member.outbox.pending(lane, SENT_MAX)?;
                if !pending.is_empty() {
                    hand_in(&member, pending).await;
                }
            }
        }
        tokio::select! {
            _ = progress.changed() => {}
            () = member.outgoing.notified() => {}
            () = tokio::time::sleep(SEND_AGAIN) => {}
        }
    }
}

/// Until it is done: the outbox forgets the command when it is asked for the next ones.
async fn settle_one(member: &Arc<Member>, command: &Settled) {
    while let Err(error) = member.settled(command).await {
        tracing::warn!(why = format!("{error:#}"), "a rejected command can't be written again yet");
        tokio::time::sleep(SEND_AGAIN).await;
    }
}

/// To the own core, or to the first core node that answers.
async fn hand_in(member: &Member, submissions: Vec<Submission>) {
    let unplaced = submissions.into_iter().filter(|submission| {
        let body = &submission.command.body;
        !matches!(member.replica.placed(&body.stream, body.sequence), Ok(Some(_)))
    });
    let submissions: Vec<Submission> = unplaced.collect();
    if submissions.is_empty() {
        return;
    }
    if let Some(core) = member.core.get() {
        return log(core.submit(submissions).await);
    }
    let (Ok(peers), Ok(nodes)) = (member.peers(), member.core_nodes()) else { return };
    // Each time another one begins: one that answers and does nothing must not keep this node out.
    let first = member.handed_in.fetch_add(1, Ordering::Relaxed) % nodes.len().max(1);
    for node in nodes.iter().cycle().skip(first).take(nodes.len()).copied() {
        match peers.submit(node, submissions.clone()).await {
            Ok(outcomes) if outcomes.iter().any(|outcome| !matches!(outcome, SubmitOutcome::Later)) => {
                for outcome in &outcomes {
                    if let SubmitOutcome::Refused(_) | SubmitOutcome::Conflict { .. } = outcome {
                        tracing::warn!(?outcome, "the core refused a command of this node");
                    }
                }
                return;
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(?node, %error, "a core node did not take the outbox's commands"),
        }
    }
}

fn log(results: Vec<SubmitResult>) {
    for result in results {
        match result {
            Ok(_) => {}
            Err(
                SubmitError::NotLeader { .. }
                | SubmitError::LeaderChanged
                | SubmitError::Overloaded
                | SubmitError::Unreachable(_),
            ) => {
                tracing::debug!("the core did not take a command yet; it is sent again");
            }
            Err(error) => tracing::warn!(%error, "the core refused a command of this node"),
        }
    }
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
