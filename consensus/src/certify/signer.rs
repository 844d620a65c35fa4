//! The signing half of a certifier: requests that wait, the guard record, and the cosignature under it.
//!
//! Invariants: no record is made with a clock that nothing confirms ([`Confirmed`]); at most one record is on its way to
//! the disk; a cosignature is made only from the record that is known to be durable. Requests: one for each core member that asks, the latest.

use std::collections::BTreeMap;

use super::history::History;
use super::{CLOCK_SKEW_MS, CosignRefusal, CosignResult, Identity, REQUEST_WAIT_MS, View};
use crate::checkpoint::{Checkpoint, Core, SigningGuard, cosign};
use crate::clock::{Anchor, Clocks};
use crate::ids::{NodeId, UnixMillis};

#[derive(Debug)]
pub(super) struct Signer {
    identity: Identity,
    /// On disk.
    guard: SigningGuard,
    /// On its way there.
    persisting: Option<SigningGuard>,
    wanted: BTreeMap<NodeId, Wanted>,
    /// Core members whose clock agreed with this node's when they last asked.
    agreeing: BTreeMap<NodeId, Anchor>,
}

#[derive(Clone, Copy, Debug)]
struct Wanted {
    checkpoint: Checkpoint,
    arrived: UnixMillis,
    /// How far this node's clock was ahead of the asking node's; `None`: this node asks itself.
    ahead_of_asker_ms: Option<u64>,
}

/// What says that this node's clock is right, see invariant 4 of [`super`].
#[derive(Clone, Copy, Debug)]
pub(super) enum Confirmed {
    /// A certificate agreed with it in this life; so far has it jumped ahead since.
    ByCertificate { jump_ms: u64 },
    /// No certificate in this life. Whom it answers, when more than all liars that the core puts up with have asked with
    /// clocks that agree with its own; its own round, when that lacks nothing but its signature.
    ByOthers { for_askers: bool, for_itself: bool },
    /// Nothing was ever certified.
    Founding,
}

/// What is to become of a request.
enum Verdict {
    Wait,
    Persist(SigningGuard),
    Answer(CosignResult),
}

/// Who is answered, on what, how.
pub(super) type Answer = (NodeId, Checkpoint, CosignResult);

impl Signer {
    pub fn new(identity: Identity, guard: SigningGuard) -> Self {
        Self { identity, guard, persisting: None, wanted: BTreeMap::new(), agreeing: BTreeMap::new() }
    }

    /// Keeps a request. Returns the one that it takes the place of, when that was for something else.
    pub fn want(
        &mut self,
        from: NodeId,
        checkpoint: Checkpoint,
        asked_at: Option<UnixMillis>,
        clocks: Clocks,
    ) -> Option<Checkpoint> {
        let now = clocks.wall;
        let ahead_of_asker_ms = asked_at.map(|asked_at| now.since(asked_at));
        self.agreeing.remove(&from);
        self.agreeing.extend(asked_at.and_then(|asked_at| Anchor::of(asked_at, clocks)).map(|agreed| (from, agreed)));
        let replaced = self.wanted.insert(from, Wanted { checkpoint, arrived: now, ahead_of_asker_ms })?;
        (replaced.checkpoint != checkpoint).then_some(replaced.checkpoint)
    }

    /// Whether so many members of `core` agree with this node's clock that one of them is honest. One that jumped ahead
    /// since they asked is not what they agreed with.
    pub fn askers_agree(&self, core: &Core, clocks: Clocks) -> bool {
        let holds = |node, agreed: &Anchor| core.member(node).is_some() && agreed.jump_ms(clocks) == 0;
        self.agreeing.iter().filter(|(node, agreed)| holds(node, agreed)).count() > core.tolerated_liars()
    }

    /// A record that is not the one on its way (a repeated completion) changes nothing.
    pub fn guard_is_durable(&mut self, guard: SigningGuard) {
        if self.persisting.as_ref() == Some(&guard) {
            self.persisting = None;
            self.guard = guard;
        }
    }

    pub fn clock_went_back(&mut self, back_ms: u64) {
        for wanted in self.wanted.values_mut() {
            wanted.arrived = UnixMillis(wanted.arrived.0.saturating_sub(back_ms));
        }
    }

    /// Goes through what is wanted, smaller sizes first. At most one record comes out to be persisted.
    pub fn settle(
        &mut self,
        now: UnixMillis,
        confirmed: Confirmed,
        history: &History,
        view: View<'_>,
    ) -> (Option<SigningGuard>, Vec<Answer>) {
        let mut requests: Vec<(NodeId, Wanted)> = self.wanted.iter().map(|(from, wanted)| (*from, *wanted)).collect();
        requests.sort_by_key(|(_, wanted)| wanted.checkpoint.size);
        let (mut to_persist, mut answers) = (None, Vec::new());
        for (from, wanted) in requests {
            let result = match self.judge(&wanted, now, confirmed, history, view) {
                Verdict::Persist(guard) => {
                    self.persisting = Some(guard.clone());
                    to_persist = Some(guard);
                    continue;
                }
                Verdict::Wait if now.since(wanted.arrived) < REQUEST_WAIT_MS => continue,
                Verdict::Wait => CosignResult::NotYet { applied: history.applied_size() },
                Verdict::Answer(result) => result,
            };
            self.wanted.remove(&from);
            answers.push((from, wanted.checkpoint, result));
        }
        (to_persist, answers)
    }

    fn judge(
        &self,
        wanted: &Wanted,
        now: UnixMillis,
        confirmed: Confirmed,
        history: &History,
        view: View<'_>,
    ) -> Verdict {
        let checkpoint = &wanted.checkpoint;
        let refuse = |refusal| Verdict::Answer(CosignResult::Refused(refusal));
        if checkpoint.federation != self.identity.federation {
            return refuse(CosignRefusal::Federation);
        }
        if !history.reaches(checkpoint.size) {
            return Verdict::Wait;
        }
        match history.checkpoint_of(checkpoint.size, checkpoint.epoch) {
            None => return Verdict::Answer(CosignResult::Unknown),
            Some(applied) if applied != *checkpoint => {
                return Verdict::Answer(CosignResult::Disagree { applied });
            }
            Some(_) => {}
        }
        let signing = history.signing_epoch(view);
        if checkpoint.epoch != signing {
            return refuse(CosignRefusal::Epoch { signing });
        }
        if view.core(signing).is_none_or(|core| core.member(&self.identity.node).is_none()) {
            return refuse(CosignRefusal::NotInCore);
        }
        if let Some(result) = self.signed_before(wanted, history) {
            return Verdict::Answer(result);
        }
        if self.persisting.is_some() {
            return Verdict::Wait;
        }
        if self.guard.last().is_some_and(|(signed, _)| signed == checkpoint) && history.applied_size() > checkpoint.size
        {
            return refuse(CosignRefusal::Superseded { applied: history.applied_size() });
        }
        match (confirmed, wanted.ahead_of_asker_ms) {
            (Confirmed::ByCertificate { jump_ms: ahead_ms }, _) if ahead_ms > 0 => {
                refuse(CosignRefusal::ClockAhead { ahead_ms })
            }
            (Confirmed::ByOthers { .. }, Some(ahead_ms)) if ahead_ms > CLOCK_SKEW_MS => {
                refuse(CosignRefusal::ClockAhead { ahead_ms })
            }
            (Confirmed::ByOthers { for_askers: false, .. }, Some(_))
            | (Confirmed::ByOthers { for_itself: false, .. }, None) => Verdict::Wait,
            _ => self.sign_anew(checkpoint, now),
        }
    }

    /// The durable record as a cosignature, when it is for this checkpoint and no older than the request. A handover
    /// is never dated anew.
    fn signed_before(&self, wanted: &Wanted, history: &History) -> Option<CosignResult> {
        let (signed, time_seconds) = self.guard.last()?;
        let fresh = *time_seconds >= wanted.arrived.seconds() || history.is_handover(signed);
        (*signed == wanted.checkpoint && fresh).then(|| {
            let Identity { name, checkpoint_key, .. } = &self.identity;
            CosignResult::Signed(cosign(signed, name, checkpoint_key, *time_seconds))
        })
    }

    fn sign_anew(&self, checkpoint: &Checkpoint, now: UnixMillis) -> Verdict {
        let refuse = |refusal| Verdict::Answer(CosignResult::Refused(refusal));
        let signed_at = self.guard.last().map_or(0, |(_, time_seconds)| *time_seconds);
        let behind_ms = UnixMillis::from_seconds(signed_at).since(now);
        if behind_ms > CLOCK_SKEW_MS {
            return refuse(CosignRefusal::Clock { behind_ms });
        }
        match self.guard.may_sign(checkpoint, now.seconds().max(signed_at)) {
            Ok(next) => Verdict::Persist(next),
            Err(refusal) => refuse(CosignRefusal::Guard(refusal)),
        }
    }
}
