//! Handing the outbox's commands to the core, and what comes of its answers.
//!
//! A command is sent again and again until the ledger has certified it; that is harmless. What the core *refuses* by
//! its own word (this node is no active member, say) is not dropped either, for it is right again once the reason is
//! gone. But it is sent after pauses that double up to [`PAUSE_MS_MAX`], each lane for itself, so that a revocation
//! never waits for a refused registration, and the operator reads in `tessera status` what is refused and when it is
//! tried again. A refusal counts only when no core node says otherwise: one that lies must not keep a member out.
//!
//! Refusals that mend themselves are none here: a gap or an older incarnation is put right by the outbox as the ledger
//! goes on. Not here: rejections, which stand in the ledger and are settled (`registrar`).

use std::sync::atomic::Ordering;

use tessera_consensus::Lane;
use tessera_consensus::kernel::Refusal;
use tessera_consensus::raft::intake::{SubmitError, SubmitResult};
use tessera_consensus::wire::v1::Submission;
use tessera_federation::net::SubmitOutcome;

use super::{Member, clock, locked};

/// The first pause after a refusal; it doubles up to the longest.
const PAUSE_MS: u64 = 1_000;
const PAUSE_MS_MAX: u64 = 60_000;

/// What one core node said to some commands of one lane.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    /// Some of them are in the ledger.
    Taken,
    /// Not now, or not this node.
    Later,
    Refused(&'static str),
}

/// What the core refuses of one lane. Times are those of [`clock::steady`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Refused {
    why: &'static str,
    since_ms: u64,
    pause_ms: u64,
    again_ms: u64,
}

/// What the core refuses of each lane.
#[derive(Debug, Default)]
pub struct Refusals([Option<Refused>; 2]);

const fn slot(lane: Lane) -> usize {
    match lane {
        Lane::Urgent => 0,
        Lane::Bulk => 1,
    }
}

impl Refusals {
    fn may_ask(&self, lane: Lane, now_ms: u64) -> bool {
        self.0[slot(lane)].is_none_or(|refused| now_ms >= refused.again_ms)
    }

    /// Notes what all core nodes that were asked said; whether it is a new refusal.
    fn note(&mut self, lane: Lane, now_ms: u64, answers: &[Answer]) -> Option<&'static str> {
        let known = &mut self.0[slot(lane)];
        let refused = answers.iter().map(|answer| match answer {
            Answer::Refused(why) => Some(*why),
            Answer::Taken | Answer::Later => None,
        });
        let Some(Some(why)) = refused.reduce(|all, next| all.and(next)) else {
            if answers.contains(&Answer::Taken) {
                *known = None;
            }
            return None;
        };
        let before = known.filter(|before| before.why == why);
        let pause_ms = before.map_or(PAUSE_MS, |before| (before.pause_ms * 2).min(PAUSE_MS_MAX));
        let since_ms = before.map_or(now_ms, |before| before.since_ms);
        *known = Some(Refused { why, since_ms, pause_ms, again_ms: now_ms.saturating_add(pause_ms) });
        before.is_none().then_some(why)
    }

    fn first(&self) -> Option<&Refused> {
        self.0.iter().flatten().next()
    }
}

/// In plain words; `None`: it mends itself.
const fn lasting(refusal: &Refusal) -> Option<&'static str> {
    match refusal {
        Refusal::UnknownOrigin => Some("this node is no active member of the federation"),
        Refusal::ReadOnly => Some("this node may only read"),
        Refusal::BadSignature => Some("the signature is not that of the command key that the ledger has of this node"),
        Refusal::StaleIncarnation | Refusal::Gap { .. } | Refusal::Repeated => None,
    }
}

/// The own core's word; that of all its answers which weighs most.
fn own_answer(results: &[SubmitResult]) -> Answer {
    let answers = results.iter().map(|result| match result {
        Ok(_) => Answer::Taken,
        Err(SubmitError::Refused(refusal)) => lasting(refusal).map_or(Answer::Later, Answer::Refused),
        Err(SubmitError::Malformed(_)) => Answer::Refused("the core can't read them; one of the two needs an upgrade"),
        Err(_) => Answer::Later,
    });
    weightiest(answers)
}

fn peers_answer(outcomes: &[SubmitOutcome]) -> Answer {
    let answers = outcomes.iter().map(|outcome| match outcome {
        SubmitOutcome::Placed { .. } => Answer::Taken,
        SubmitOutcome::Refused(refusal) => lasting(refusal).map_or(Answer::Later, Answer::Refused),
        SubmitOutcome::Conflict { .. } | SubmitOutcome::Later => Answer::Later,
    });
    weightiest(answers)
}

/// Something was taken, or else something was refused, or else nothing happened.
fn weightiest(answers: impl Iterator<Item = Answer>) -> Answer {
    answers.fold(Answer::Later, |weightiest, next| match (&weightiest, &next) {
        (Answer::Taken, _) | (Answer::Refused(_), Answer::Later | Answer::Refused(_)) => weightiest,
        _ => next,
    })
}

impl Member {
    /// Hands some commands of one lane to the own core, or to the first core node that takes them.
    pub(super) async fn hand_in(&self, lane: Lane, submissions: Vec<Submission>) {
        let unplaced = submissions.into_iter().filter(|submission| {
            let body = &submission.command.body;
            !matches!(self.replica.placed(&body.stream, body.sequence), Ok(Some(_)))
        });
        let submissions: Vec<Submission> = unplaced.collect();
        if submissions.is_empty() || !locked(&self.core_refuses).may_ask(lane, clock::steady().0) {
            return;
        }
        let answers = match self.core.get() {
            Some(core) => vec![own_answer(&core.submit(submissions).await)],
            None => self.ask_core_nodes(&submissions).await,
        };
        let new = locked(&self.core_refuses).note(lane, clock::steady().0, &answers);
        if let Some(why) = new {
            tracing::warn!(?lane, why, "the core refuses this node's commands; they are kept and sent again");
        }
    }

    async fn ask_core_nodes(&self, submissions: &[Submission]) -> Vec<Answer> {
        let (Ok(peers), Ok(nodes)) = (self.peers(), self.core_nodes()) else { return Vec::new() };
        // Each time another one begins: one that answers and does nothing must not keep this node out.
        let first = self.handed_in.fetch_add(1, Ordering::Relaxed) % nodes.len().max(1);
        let mut answers = Vec::new();
        for node in nodes.iter().cycle().skip(first).take(nodes.len()).copied() {
            match peers.submit(node, submissions.to_vec()).await {
                Ok(outcomes) => answers.push(peers_answer(&outcomes)),
                Err(error) => tracing::debug!(?node, %error, "a core node did not take the outbox's commands"),
            }
            if answers.last() == Some(&Answer::Taken) {
                break;
            }
        }
        answers
    }

    /// For `tessera status`.
    pub(super) fn refused_sentence(&self) -> Option<String> {
        let refusals = locked(&self.core_refuses);
        let Refused { why, since_ms, again_ms, .. } = refusals.first()?;
        let now_ms = clock::steady().0;
        Some(format!(
            "the core has refused this node's commands for {} s: {why}. Nothing is lost: {} commands are kept here, and \
             sent again in {} s",
            now_ms.saturating_sub(*since_ms) / 1_000,
            self.outbox.waiting(),
            again_ms.saturating_sub(now_ms).div_ceil(1_000)
        ))
    }
}

#[cfg(test)]
mod tests {
    use tessera_consensus::Sequence;

    use super::*;

    const NO_MEMBER: &str = "this node is no active member of the federation";

    #[test]
    fn what_is_refused_is_sent_again_after_longer_pauses_until_it_is_taken() {
        let mut refusals = Refusals::default();
        let refused = [Answer::Refused(NO_MEMBER)];
        let mut now = 10_000;
        let mut pauses = Vec::new();
        for round in 0..9 {
            assert!(refusals.may_ask(Lane::Bulk, now));
            let new = refusals.note(Lane::Bulk, now, &refused);
            assert_eq!(new.is_some(), round == 0, "said once");
            let pause = refusals.first().expect("a refusal").pause_ms;
            assert!(!refusals.may_ask(Lane::Bulk, now + pause - 1));
            assert!(refusals.may_ask(Lane::Urgent, now), "a revocation does not wait for it");
            pauses.push(pause / 1_000);
            now += pause;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(refusals.first().expect("a refusal").since_ms, 10_000);
        refusals.note(Lane::Bulk, now, &[Answer::Later]);
        assert!(refusals.first().is_some(), "nobody took it back");
        refusals.note(Lane::Bulk, now, &[Answer::Refused(NO_MEMBER), Answer::Taken]);
        assert!(refusals.first().is_none() && refusals.may_ask(Lane::Bulk, now));
    }

    #[test]
    fn one_core_node_alone_refuses_nothing() {
        for (answers, refuses) in [
            (vec![], false),
            (vec![Answer::Refused(NO_MEMBER), Answer::Later], false),
            (vec![Answer::Later, Answer::Refused(NO_MEMBER)], false),
            (vec![Answer::Refused(NO_MEMBER), Answer::Taken], false),
            (vec![Answer::Refused(NO_MEMBER), Answer::Refused("this node may only read")], true),
        ] {
            let mut refusals = Refusals::default();
            refusals.note(Lane::Bulk, 0, &answers);
            assert_eq!(refusals.first().is_some(), refuses, "{answers:?}");
        }
    }

    #[test]
    fn a_gap_mends_itself_and_what_was_taken_outweighs_it() {
        let gap = || SubmitOutcome::Refused(Refusal::Gap { expected: Sequence(3) });
        let stranger = || SubmitOutcome::Refused(Refusal::UnknownOrigin);
        for (outcomes, expected) in [
            (vec![], Answer::Later),
            (vec![gap(), SubmitOutcome::Later], Answer::Later),
            (vec![gap(), stranger()], Answer::Refused(NO_MEMBER)),
            (vec![stranger(), gap()], Answer::Refused(NO_MEMBER)),
        ] {
            assert_eq!(peers_answer(&outcomes), expected, "{outcomes:?}");
        }
        let results = [Err(SubmitError::Refused(Refusal::ReadOnly)), Err(SubmitError::Overloaded)];
        assert_eq!(own_answer(&results), Answer::Refused("this node may only read"));
    }
}
