//! Asking for identifier keys as a state machine: asynchronous, fallible, resumable.
//!
//! One [`Lookup`] asks for one batch. Evaluators are asked one after the other, beginning anywhere, until answers of
//! `threshold` of them have been proved; silent ones are passed over, liars are named and not asked again, and when
//! all have failed it rests, longer each time, and begins anew. A refusal for the budget's sake is not worked around:
//! the lookup rests until the budget is renewed. It never gives up by itself: whoever started it drops it.
//!
//! Resuming after a restart: persist the asks, not the lookup; blinding them anew costs nothing but randomness.
//! The caller must be able to say "cannot be looked up now", which is never the same as "nothing found" (P7).

use std::collections::BTreeSet;

use rand::CryptoRng;
use tessera_consensus::{NodeId, UnixMillis};

use super::key::IdentifierKey;
use super::oprf::{BlindError, Blinding, KeyAsk, blind};
use crate::wire::v1::{BlindAnswer, BlindRefusal, BlindRequest, OprfParameters};

/// How long an evaluator may take.
pub const ANSWER_TIMEOUT_MS: u64 = 5_000;
/// The first rest after all evaluators have failed; it doubles up to the longest.
pub const REST_MS: u64 = 1_000;
/// The longest rest.
pub const REST_MS_MAX: u64 = 300_000;

/// What happened.
#[derive(Clone, Debug)]
pub enum LookupInput {
    /// Begin, or the time that was asked for has come.
    Tick,
    Answer {
        from: NodeId,
        answer: BlindAnswer,
    },
    /// No connection, or the stream broke.
    Unreachable {
        from: NodeId,
    },
}

/// What to do.
#[derive(Debug)]
pub enum LookupOutput {
    /// Send the request to this core node; report the answer or the failure.
    Ask { to: NodeId, request: BlindRequest },
    /// Come back with a tick at this time, unless something happens before.
    WakeAt(UnixMillis),
    /// The keys, in the order of the asks. The lookup is over.
    Finished(Vec<(KeyAsk, IdentifierKey)>),
    /// This core node's answer failed its proof; it is not asked again. For the log and the operator.
    Liar { node: NodeId, why: BlindError },
    /// The budget is used up; for the page that waits.
    OverBudget { resets_at: UnixMillis },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// An evaluator, by its place in the list, has until then to answer.
    Asking {
        place: usize,
        until: UnixMillis,
    },
    Resting {
        until: UnixMillis,
    },
    Finished,
}

/// One batch of asks on its way. See the module's header.
#[derive(Debug)]
pub struct Lookup {
    parameters: OprfParameters,
    request: BlindRequest,
    blinding: Blinding,
    evaluators: Vec<NodeId>,
    liars: BTreeSet<NodeId>,
    state: State,
    /// How many of the evaluators were asked in this round.
    asked: usize,
    rounds: u32,
}

impl Lookup {
    /// Prepares to ask `evaluators` (the core nodes) for up to 64 keys. Begin with [`LookupInput::Tick`].
    pub fn new(
        parameters: OprfParameters,
        asks: Vec<KeyAsk>,
        evaluators: Vec<NodeId>,
        rng: &mut dyn CryptoRng,
    ) -> Result<Self, BlindError> {
        if evaluators.is_empty() {
            return Err(BlindError::Parameters("there is no core node to ask"));
        }
        let (request, blinding) = blind(asks, rng)?;
        // Beginning anywhere spreads the load over the core.
        let place = rng.next_u32() as usize % evaluators.len();
        let mut evaluators = evaluators;
        evaluators.rotate_left(place);
        let state = State::Resting { until: UnixMillis(0) };
        Ok(Self { parameters, request, blinding, evaluators, liars: BTreeSet::new(), state, asked: 0, rounds: 0 })
    }

    pub fn asks(&self) -> &[KeyAsk] {
        self.blinding.asks()
    }

    pub fn step(&mut self, now: UnixMillis, input: LookupInput) -> Vec<LookupOutput> {
        match (self.state, input) {
            (State::Finished, _) => Vec::new(),
            (State::Resting { until }, LookupInput::Tick) if now >= until => self.ask_next(now),
            (State::Resting { until }, LookupInput::Tick) => vec![LookupOutput::WakeAt(until)],
            (State::Asking { until, .. }, LookupInput::Tick) if now >= until => self.ask_next(now),
            (State::Asking { until, .. }, LookupInput::Tick) => vec![LookupOutput::WakeAt(until)],
            (State::Asking { place, .. }, LookupInput::Unreachable { from }) if self.evaluators[place] == from => {
                self.ask_next(now)
            }
            (_, LookupInput::Unreachable { .. }) => Vec::new(),
            // An answer that comes late is as good as one in time.
            (_, LookupInput::Answer { from, answer }) if self.evaluators.contains(&from) => {
                self.answered(now, from, answer)
            }
            (_, LookupInput::Answer { .. }) => Vec::new(),
        }
    }

    fn answered(&mut self, now: UnixMillis, from: NodeId, answer: BlindAnswer) -> Vec<LookupOutput> {
        let awaited = matches!(self.state, State::Asking { place, .. } if self.evaluators[place] == from);
        match answer {
            BlindAnswer::Evaluated(reply) => match self.blinding.finalize(&reply, &self.parameters) {
                Ok(keys) => {
                    self.state = State::Finished;
                    vec![LookupOutput::Finished(self.blinding.asks().iter().cloned().zip(keys).collect())]
                }
                Err(why) => {
                    self.liars.insert(from);
                    let mut outputs = vec![LookupOutput::Liar { node: from, why }];
                    if awaited {
                        outputs.extend(self.ask_next(now));
                    }
                    outputs
                }
            },
            BlindAnswer::Refused(BlindRefusal::OverBudget { resets_at, .. }) if awaited => {
                // No evaluator can make us wait longer than to the end of the day after this one.
                let until = resets_at.min(now.plus_ms(2 * super::budget::DAY_MS)).max(now.plus_ms(REST_MS));
                self.state = State::Resting { until };
                self.asked = 0;
                vec![LookupOutput::OverBudget { resets_at: until }, LookupOutput::WakeAt(until)]
            }
            BlindAnswer::Refused(_) if awaited => self.ask_next(now),
            BlindAnswer::Refused(_) => Vec::new(),
        }
    }

    /// Asks the next evaluator that is no liar, or rests when all were asked.
    fn ask_next(&mut self, now: UnixMillis) -> Vec<LookupOutput> {
        while self.asked < self.evaluators.len() {
            let place = self.asked;
            self.asked += 1;
            let to = self.evaluators[place];
            if !self.liars.contains(&to) {
                let until = now.plus_ms(ANSWER_TIMEOUT_MS);
                self.state = State::Asking { place, until };
                return vec![LookupOutput::Ask { to, request: self.request.clone() }, LookupOutput::WakeAt(until)];
            }
        }
        let rest = REST_MS.saturating_mul(1 << self.rounds.min(16)).min(REST_MS_MAX);
        let until = now.plus_ms(rest);
        self.rounds = self.rounds.saturating_add(1);
        self.asked = 0;
        self.state = State::Resting { until };
        vec![LookupOutput::WakeAt(until)]
    }
}

#[cfg(test)]
#[path = "lookup_tests.rs"]
mod tests;
