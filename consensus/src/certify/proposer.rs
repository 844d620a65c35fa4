//! The proposing half of a certifier: when to start a round, and what the answers add up to.
//!
//! Invariant: one round at a time; it ends certified, overtaken, out of time, or when too many refused for a quorum.

use std::collections::{BTreeMap, BTreeSet};

use super::history::History;
use super::{
    CLOCK_SKEW_MS, CosignResult, HEARTBEAT_MS, Output, PROPOSAL_INTERVAL_MS, RETRY_MS, ROUND_MS, ReplyFault,
    SILENCE_MS, TURN_MS, View,
};
use crate::checkpoint::{Checkpoint, Core, CoreMember, Cosignature, SignedCheckpoint};
use crate::ids::{NodeId, UnixMillis};

#[derive(Debug)]
pub(super) struct Proposer {
    round: Option<Round>,
    not_before: UnixMillis,
}

#[derive(Debug)]
struct Round {
    checkpoint: Checkpoint,
    started: UnixMillis,
    cosignatures: BTreeMap<NodeId, Cosignature>,
    refused: BTreeSet<NodeId>,
}

impl Proposer {
    pub fn new(now: UnixMillis) -> Self {
        Self { round: None, not_before: now }
    }

    pub fn clock_went_back(&mut self, back_ms: u64) {
        let earlier = |time: UnixMillis| UnixMillis(time.0.saturating_sub(back_ms));
        self.not_before = earlier(self.not_before);
        if let Some(round) = &mut self.round {
            round.started = earlier(round.started);
        }
    }

    /// Starts a round when one is due. Returns the checkpoint to ask for and the core to ask.
    pub fn begin<'a>(
        &mut self,
        now: UnixMillis,
        node: NodeId,
        leader: Option<NodeId>,
        history: &History,
        view: View<'a>,
    ) -> Option<(Checkpoint, &'a Core)> {
        self.give_up(now, history);
        let checkpoint = history.target(view)?;
        let core = view.core(checkpoint.epoch)?;
        let my_turn = || history.silent_ms(now) >= SILENCE_MS && in_turn(core, now).node == node;
        let due = || !history.is_certified(&checkpoint) || history.idle_ms(now) >= HEARTBEAT_MS;
        let proposes = leader == Some(node) || my_turn();
        if self.round.is_some() || now < self.not_before || !proposes || !due() {
            return None;
        }
        self.not_before = now.plus_ms(PROPOSAL_INTERVAL_MS);
        self.round = Some(Round { checkpoint, started: now, cosignatures: BTreeMap::new(), refused: BTreeSet::new() });
        Some((checkpoint, core))
    }

    fn give_up(&mut self, now: UnixMillis, history: &History) {
        let Some(round) = &self.round else { return };
        let certified = history.certified().map(|certificate| certificate.checkpoint());
        let overtaken = certified.is_some_and(|c| (c.epoch, c.size) > (round.checkpoint.epoch, round.checkpoint.size));
        let out_of_time = now.since(round.started) >= ROUND_MS;
        if overtaken || out_of_time {
            self.round = None;
        }
    }

    /// Counts an answer; makes the certificate when it completes a quorum.
    pub fn replied(
        &mut self,
        from: NodeId,
        checkpoint: Checkpoint,
        result: CosignResult,
        now: UnixMillis,
        history: &mut History,
        view: View<'_>,
    ) -> Vec<Output> {
        let Some(round) = self.round.as_mut().filter(|round| round.checkpoint == checkpoint) else { return Vec::new() };
        let Some(core) = view.core(checkpoint.epoch) else { return Vec::new() };
        let Some(member) = core.member(&from) else { return Vec::new() };
        let mut outputs = Vec::new();
        match result {
            CosignResult::Signed(cosignature) => {
                // A handover is signed once and may be old; its date is what it is.
                let past_skew_ms = if history.is_handover(&checkpoint) { u64::MAX } else { CLOCK_SKEW_MS };
                match check(&cosignature, member, &checkpoint, now, past_skew_ms) {
                    Ok(()) => drop(round.cosignatures.insert(from, cosignature)),
                    Err(fault) => {
                        // A wrong date may be an answer to an earlier round that was long on its way, and the right
                        // one may yet come.
                        if !matches!(fault, ReplyFault::Clock { .. }) {
                            round.refused.insert(from);
                        }
                        outputs.push(Output::FaultyReply { peer: from, fault });
                    }
                }
            }
            CosignResult::Disagree { applied } => {
                round.refused.insert(from);
                if applied.size == checkpoint.size && applied != checkpoint {
                    outputs.push(Output::Divergence { ours: checkpoint, theirs: applied, peer: Some(from) });
                }
            }
            CosignResult::NotYet { .. } | CosignResult::Unknown | CosignResult::Refused(_) => {
                round.refused.insert(from);
            }
        }
        outputs.extend(self.conclude(core, now, history));
        outputs
    }

    /// Whether members besides `node` have signed in the round under way, each dated as this node's clock says, so many
    /// that they are a quorum with it.
    pub fn others_agree(&self, node: NodeId, view: View<'_>) -> bool {
        self.round.as_ref().is_some_and(|round| {
            let others = round.cosignatures.keys().filter(|signer| **signer != node).count();
            view.core(round.checkpoint.epoch).is_some_and(|core| others + 1 >= core.threshold())
        })
    }

    fn conclude(&mut self, core: &Core, now: UnixMillis, history: &mut History) -> Vec<Output> {
        let Some(round) = &self.round else { return Vec::new() };
        if round.refused.len() > core.members().len() - core.threshold() {
            self.not_before = now.plus_ms(RETRY_MS);
            self.round = None;
            return Vec::new();
        }
        if round.cosignatures.len() < core.threshold() {
            return Vec::new();
        }
        let cosignatures = round.cosignatures.values().cloned().collect();
        let certificate = SignedCheckpoint::new(round.checkpoint, cosignatures)
            .expect("a quorum of members, each once")
            .verify(core, round.checkpoint.federation)
            .expect("each cosignature was verified on arrival");
        self.round = None;
        let contradiction = history.certificate(certificate.clone(), now);
        std::iter::once(Output::Certified(certificate)).chain(contradiction).collect()
    }
}

/// The member whose turn it is.
fn in_turn(core: &Core, now: UnixMillis) -> &CoreMember {
    let members = core.members();
    let turn = now.0 / TURN_MS % members.len() as u64;
    &members[turn as usize]
}

fn check(
    cosignature: &Cosignature,
    member: &CoreMember,
    checkpoint: &Checkpoint,
    now: UnixMillis,
    past_skew_ms: u64,
) -> Result<(), ReplyFault> {
    if !cosignature.claims(&member.name, &member.checkpoint_key) {
        return Err(ReplyFault::Signer);
    }
    cosignature.verify(checkpoint, &member.checkpoint_key).map_err(ReplyFault::Cosignature)?;
    // Cosignatures carry whole seconds, rounded down.
    let past_ms = now.since(cosignature.time().plus_ms(999));
    if past_ms > past_skew_ms || cosignature.time().since(now) > CLOCK_SKEW_MS {
        return Err(ReplyFault::Clock { time_seconds: cosignature.time_seconds() });
    }
    Ok(())
}
