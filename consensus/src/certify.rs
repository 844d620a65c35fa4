//! How the core comes to sign the ledger: one [`Certifier`] in each core node (DESIGN section 5). Sans-IO.
//!
//! A *proposer* names a batch end, asks the core to cosign it, and puts the certificate together: the Raft leader, at
//! most every [`PROPOSAL_INTERVAL_MS`], again every [`HEARTBEAT_MS`] when nothing changes; and when for [`SILENCE_MS`]
//! no certificate came, or none that covers what was applied, each member in turn for [`TURN_MS`]. One round is under
//! way at a time, so that signers of different speed meet at the same size. A *signer* cosigns what it has applied
//! itself, and only once the guard record is durable: [`Output::PersistGuard`] goes out, and the cosignature leaves in
//! the step that brings [`Input::GuardDurable`] with the same record. A node plays both parts.
//!
//! What this is not: Raft, storage, gossip. The driver feeds batch ends in order, in each step with the cores as they
//! are *after* the batches fed so far, and after a restart first those that it still keeps. It answers a pending
//! call of a peer with the [`Output::SendReply`] of that peer and checkpoint. Recovery builds a new certifier on the
//! record of [`SigningGuard::begin_epoch`].
//!
//! Invariants:
//! 1. A cosignature leaves only for a checkpoint that equals what this node applied, under a durable guard record.
//! 2. **Handover.** The last batch end of an epoch is certified by that epoch's core before anyone honest signs for
//!    the next, and is signed once: it is sent again, never dated anew. So the dates of certificates (invariant 2 of
//!    `checkpoint/certificate.rs`) hold across a change of the core.
//! 3. A proposer counts no cosignature whose time is more than [`CLOCK_SKEW_MS`] from its own clock. A signer dates
//!    by its own clock alone, never before its last record, and not at all when that lies further ahead than this.
//! 4. **No date from a clock that stands alone.** A signature and its guard record can't be taken back, so a wall clock
//!    that is far ahead must never be signed with. Once a certificate has agreed with the wall clock in this life, the
//!    clock must have gone on from there as the boot clock did. Before that (a start, after however long) the date must
//!    be confirmed by others: by the clocks of members that ask, more of them than may lie, or, for the asking node
//!    itself, by a quorum's cosignatures without its own. A core of four or more that starts as a whole therefore
//!    certifies only when members take turns. Only at the founding, and in a core of one, is there nobody to ask. A core
//!    whose clocks were all set in the same step (beyond the skew) is started again to sign on.
//! 5. A member that is not the leader gets no signature while certificates flow, so it cannot make signers run ahead
//!    of the leader's rounds. A leader that dates an old size again and again gets none either, and its turn ends.

use serde::{Deserialize, Serialize};

use crate::checkpoint::{
    Certificate, Checkpoint, Core, Cosignature, CosignatureError, GuardRefusal, SignerName, SigningGuard,
};
use crate::clock::{Anchor, Clocks};
use crate::ids::{Epoch, FederationId, Hash, LedgerSize, NodeId, UnixMillis};
use crate::keys::SigningKey;

mod history;
mod proposer;
mod signer;
#[cfg(test)]
mod tests;

use history::History;
use proposer::Proposer;
use signer::{Confirmed, Signer};

/// A proposer's rounds start at least this far apart.
pub const PROPOSAL_INTERVAL_MS: u64 = 100;
/// An idle ledger is certified again after this.
pub const HEARTBEAT_MS: u64 = 3_000;
/// Without a certificate of what was applied for this long, members other than the leader propose.
pub const SILENCE_MS: u64 = 5_000;
/// How long each member's turn lasts then.
pub const TURN_MS: u64 = 5_000;
/// A round that is not complete by then is given up.
pub const ROUND_MS: u64 = 1_500;
/// Pause after a round that failed.
pub const RETRY_MS: u64 = 500;
/// How long a request waits at a signer for its batch to be applied or a record to be durable.
pub const REQUEST_WAIT_MS: u64 = 1_000;
/// Largest difference between clocks that is put up with.
pub const CLOCK_SKEW_MS: u64 = 5_000;
/// Recent batch ends that a signer can answer for; the oldest is dropped.
pub const BATCH_ENDS_MAX: usize = 1_024;

/// The ledger after a batch, as this node applied it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchEnd {
    pub size: LedgerSize,
    pub root: Hash,
    pub digest: Hash,
    /// The epoch in which the batch was committed. A batch that changes the core still belongs to the old epoch.
    pub epoch: Epoch,
}

/// What the certifier may see of the node's state.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The cores, oldest first; the current one last. Those of epochs whose last batch is not certified yet must be
    /// among them. Not empty.
    pub cores: &'a [Core],
}

impl<'a> View<'a> {
    fn current(&self) -> &'a Core {
        self.cores.last().expect("a federation has a core")
    }

    fn core(&self, epoch: Epoch) -> Option<&'a Core> {
        self.cores.iter().find(|core| core.epoch() == epoch)
    }

    fn is_in_a_core(&self, node: &NodeId) -> bool {
        self.cores.iter().any(|core| core.member(node).is_some())
    }
}

/// What happens to a certifier.
#[derive(Clone, Debug)]
pub enum Input {
    /// This node applied a batch.
    Applied(BatchEnd),
    /// Time passed; at least every [`PROPOSAL_INTERVAL_MS`].
    Tick,
    /// Member `from` (authenticated by the transport) asks for a cosignature, and says what its clock shows.
    CosignRequest { from: NodeId, checkpoint: Checkpoint, asked_at: UnixMillis },
    /// The answer to an [`Output::SendRequest`].
    CosignReply { from: NodeId, checkpoint: Checkpoint, result: CosignResult },
    /// The record of an [`Output::PersistGuard`] is on disk.
    GuardDurable { guard: SigningGuard },
    /// What this node's Raft believes.
    LeaderChanged { leader: Option<NodeId> },
    /// A certificate came from elsewhere.
    CertificateSeen(Certificate),
}

/// What a certifier wants done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Make this record durable, then say so. Nothing else waits for it.
    PersistGuard {
        guard: SigningGuard,
    },
    SendRequest {
        to: NodeId,
        checkpoint: Checkpoint,
        asked_at: UnixMillis,
    },
    SendReply {
        to: NodeId,
        checkpoint: Checkpoint,
        result: CosignResult,
    },
    /// To be stored and gossiped.
    Certified(Certificate),
    /// Two nodes hold different ledgers of one size, or this one holds another than the certified (no peer).
    Divergence {
        ours: Checkpoint,
        theirs: Checkpoint,
        peer: Option<NodeId>,
    },
    /// A member answered with a cosignature that is not counted.
    FaultyReply {
        peer: NodeId,
        fault: ReplyFault,
    },
}

/// A signer's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CosignResult {
    Signed(Cosignature),
    /// The batch is not applied, or the record not durable, within [`REQUEST_WAIT_MS`].
    NotYet {
        applied: LedgerSize,
    },
    /// The size is no batch end that this signer still knows.
    Unknown,
    /// This signer applied something else.
    Disagree {
        applied: Checkpoint,
    },
    Refused(CosignRefusal),
}

/// Why a signer does not sign what it agrees with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum CosignRefusal {
    #[error("the checkpoint is of another federation")]
    Federation,
    #[error("this node signs for epoch {} now", signing.0)]
    Epoch { signing: Epoch },
    #[error("this node is not in the core of that epoch")]
    NotInCore,
    #[error("the asking node is neither the leader nor is the leader silent")]
    NotProposer,
    #[error("this node signed that size before and has applied {} since; it is not dated anew", applied.0)]
    Superseded { applied: LedgerSize },
    #[error("this node's clock is {behind_ms} ms behind its last signature; check its time source")]
    Clock { behind_ms: u64 },
    #[error(transparent)]
    Guard(GuardRefusal),
    #[error(
        "this node's clock is {ahead_ms} ms ahead of what confirms it; set it, or start this node again if it is right"
    )]
    ClockAhead { ahead_ms: u64 },
}

/// Why a cosignature was not counted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyFault {
    #[error("it is signed by another key than the member's")]
    Signer,
    #[error(transparent)]
    Cosignature(CosignatureError),
    #[error("it is dated {time_seconds} s, more than 5 s from this node's clock")]
    Clock { time_seconds: u64 },
}

/// Who a certifier signs as.
#[derive(Clone, Debug)]
pub struct Identity {
    pub node: NodeId,
    pub federation: FederationId,
    pub name: SignerName,
    pub checkpoint_key: SigningKey,
}

/// One core node's part in certification.
#[derive(Debug)]
pub struct Certifier {
    node: NodeId,
    leader: Option<NodeId>,
    history: History,
    signer: Signer,
    proposer: Proposer,
    latest_now: UnixMillis,
    /// When a certificate last agreed with the wall clock in this life.
    anchor: Option<Anchor>,
}

impl Certifier {
    /// `guard` is the record on disk; `certified` the newest certificate that this node keeps.
    pub fn new(identity: Identity, guard: SigningGuard, certified: Option<Certificate>, now: UnixMillis) -> Self {
        Self {
            node: identity.node,
            leader: None,
            history: History::new(identity.federation, certified, now),
            signer: Signer::new(identity, guard),
            proposer: Proposer::new(now),
            latest_now: now,
            anchor: None,
        }
    }

    /// The newest certificate that this certifier made or was shown.
    pub fn certified(&self) -> Option<&Certificate> {
        self.history.certified()
    }

    pub fn step(&mut self, clocks: Clocks, input: Input, view: View<'_>) -> Vec<Output> {
        let now = clocks.wall;
        self.follow_clock(now);
        let known = self.history.certified().map(Certificate::time);
        let mut outputs = Vec::new();
        match input {
            Input::Tick => {}
            Input::Applied(end) => self.history.applied(end, now, view),
            Input::LeaderChanged { leader } => self.leader = leader,
            Input::GuardDurable { guard } => self.signer.guard_is_durable(guard),
            Input::CertificateSeen(certificate) => outputs.extend(self.history.certificate(certificate, now)),
            Input::CosignRequest { from, checkpoint, asked_at } => {
                self.requested(from, checkpoint, asked_at, clocks, view, &mut outputs);
            }
            Input::CosignReply { from, checkpoint, result } => {
                outputs.extend(self.proposer.replied(from, checkpoint, result, now, &mut self.history, view));
            }
        }
        self.propose(clocks, view, &mut outputs);
        self.sign(clocks, view, &mut outputs);
        let newest = self.history.certified().map(Certificate::time);
        self.anchor = newest.filter(|_| newest > known).and_then(|time| Anchor::of(time, clocks)).or(self.anchor);
        outputs
    }

    /// The wall clock may be set back; whatever is measured with it is then moved along, so that nothing stalls.
    fn follow_clock(&mut self, now: UnixMillis) {
        let back_ms = self.latest_now.since(now);
        if back_ms > 0 {
            self.history.clock_went_back(back_ms);
            self.proposer.clock_went_back(back_ms);
            self.signer.clock_went_back(back_ms);
        }
        self.latest_now = now;
    }

    fn requested(
        &mut self,
        from: NodeId,
        checkpoint: Checkpoint,
        asked_at: UnixMillis,
        clocks: Clocks,
        view: View<'_>,
        outputs: &mut Vec<Output>,
    ) {
        let mut refuse = |result| outputs.push(Output::SendReply { to: from, checkpoint, result });
        let leader_or_unknown = self.leader.is_none_or(|leader| leader == from);
        // A second less than the asking node waited: its last certificate may have reached this one later.
        let silent = self.history.silent_ms(clocks.wall) + 1_000 >= SILENCE_MS;
        if !view.is_in_a_core(&from) {
            refuse(CosignResult::Refused(CosignRefusal::NotInCore));
        } else if !leader_or_unknown && !silent {
            refuse(CosignResult::Refused(CosignRefusal::NotProposer));
        } else if let Some(replaced) = self.signer.want(from, checkpoint, Some(asked_at), clocks) {
            let result = CosignResult::NotYet { applied: self.history.applied_size() };
            outputs.push(Output::SendReply { to: from, checkpoint: replaced, result });
        }
    }

    fn propose(&mut self, clocks: Clocks, view: View<'_>, outputs: &mut Vec<Output>) {
        let now = clocks.wall;
        let Some((checkpoint, core)) = self.proposer.begin(now, self.node, self.leader, &self.history, view) else {
            return;
        };
        for member in core.members() {
            if member.node == self.node {
                self.signer.want(self.node, checkpoint, None, clocks);
            } else {
                outputs.push(Output::SendRequest { to: member.node, checkpoint, asked_at: now });
            }
        }
    }

    /// What says that this node's clock is right.
    fn confirmed(&self, clocks: Clocks, view: View<'_>) -> Confirmed {
        match (self.anchor, self.history.certified()) {
            (Some(anchor), _) => Confirmed::ByCertificate { jump_ms: anchor.jump_ms(clocks) },
            (None, None) => Confirmed::Founding,
            (None, Some(_)) => Confirmed::ByOthers {
                for_askers: self.signer.askers_agree(view.current(), clocks),
                for_itself: self.proposer.others_agree(self.node, view),
            },
        }
    }

    fn sign(&mut self, clocks: Clocks, view: View<'_>, outputs: &mut Vec<Output>) {
        let now = clocks.wall;
        let confirmed = self.confirmed(clocks, view);
        let (guard, answers) = self.signer.settle(now, confirmed, &self.history, view);
        outputs.extend(guard.map(|guard| Output::PersistGuard { guard }));
        for (to, checkpoint, result) in answers {
            if to == self.node {
                outputs.extend(self.proposer.replied(to, checkpoint, result, now, &mut self.history, view));
                continue;
            }
            if let CosignResult::Disagree { applied } = &result {
                outputs.push(Output::Divergence { ours: *applied, theirs: checkpoint, peer: Some(to) });
            }
            outputs.push(Output::SendReply { to, checkpoint, result });
        }
    }
}
