//! The lookup's life as short scripts: silence, refusal, lies, late answers.

use super::*;
use crate::blind::oprf::{Evaluator, OprfKey};
use crate::wire::v1::{OprfBudget, OprfSuite};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use tessera_consensus::Hash;
use tessera_policy::Identifier;

struct Scene {
    lookup: Lookup,
    key: OprfKey,
    rng: ChaCha8Rng,
}

fn node(byte: u8) -> NodeId {
    NodeId::new(Hash::blake3(&[&[byte]]))
}

fn scene() -> Scene {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let key = OprfKey::from_seed(&[1; 32]);
    let suite = OprfSuite::Ristretto255Sha512;
    let parameters = OprfParameters { suite, threshold: 1, public_key: key.public(), budget: OprfBudget::default() };
    let identifier = Identifier::parse("hospital:TEST/1").expect("identifier");
    let asks = vec![KeyAsk { identifier, year: 2025 }];
    let lookup = Lookup::new(parameters, asks, vec![node(1), node(2), node(3)], &mut rng).expect("lookup");
    Scene { lookup, key, rng }
}

impl Scene {
    fn step(&mut self, now: u64, input: LookupInput) -> Vec<String> {
        self.lookup.step(UnixMillis(now), input).iter().map(describe).collect()
    }

    /// The evaluator that is asked first, second, third.
    fn evaluator(&self, place: usize) -> NodeId {
        self.lookup.evaluators[place]
    }

    fn answer(&mut self, place: usize, key: &OprfKey) -> LookupInput {
        let reply = key.evaluate(&self.lookup.request, &mut self.rng).expect("evaluates");
        LookupInput::Answer { from: self.evaluator(place), answer: BlindAnswer::Evaluated(reply) }
    }

    fn refusal(&self, place: usize, refusal: BlindRefusal) -> LookupInput {
        LookupInput::Answer { from: self.evaluator(place), answer: BlindAnswer::Refused(refusal) }
    }
}

fn describe(output: &LookupOutput) -> String {
    match output {
        LookupOutput::Ask { .. } => "ask".into(),
        LookupOutput::WakeAt(at) => format!("wake {}", at.0),
        LookupOutput::Finished(keys) => format!("finished {}", keys.len()),
        LookupOutput::Liar { .. } => "liar".into(),
        LookupOutput::OverBudget { resets_at } => format!("over budget until {}", resets_at.0),
    }
}

#[test]
fn an_honest_answer_finishes_it_and_nothing_wakes_it_again() {
    let mut scene = scene();
    let key = scene.key.clone();
    assert_eq!(scene.step(0, LookupInput::Tick), ["ask", "wake 5000"]);
    let answer = scene.answer(0, &key);
    assert_eq!(scene.step(10, answer.clone()), ["finished 1"]);
    assert!(scene.step(20, answer).is_empty());
    assert!(scene.step(9_000, LookupInput::Tick).is_empty());
}

#[test]
fn silence_passes_on_then_rests_longer_each_round() {
    let mut scene = scene();
    assert_eq!(scene.step(0, LookupInput::Tick), ["ask", "wake 5000"]);
    assert_eq!(scene.step(100, LookupInput::Tick), ["wake 5000"]);
    assert_eq!(scene.step(5_000, LookupInput::Tick), ["ask", "wake 10000"]);
    let (second, third) = (scene.evaluator(1), scene.evaluator(2));
    assert!(scene.step(5_001, LookupInput::Unreachable { from: third }).is_empty(), "it was not asked yet");
    assert_eq!(scene.step(5_002, LookupInput::Unreachable { from: second }), ["ask", "wake 10002"]);
    assert_eq!(scene.step(5_003, LookupInput::Unreachable { from: third }), ["wake 6003"]);
    assert_eq!(scene.step(6_002, LookupInput::Tick), ["wake 6003"]);
    assert_eq!(scene.step(6_003, LookupInput::Tick), ["ask", "wake 11003"]);
    for now in [11_003, 16_003] {
        assert_eq!(scene.step(now, LookupInput::Tick)[0], "ask");
    }
    assert_eq!(scene.step(21_003, LookupInput::Tick), ["wake 23003"], "the second rest is twice the first");
    let key = scene.key.clone();
    let late = scene.answer(0, &key);
    assert_eq!(scene.step(21_004, late), ["finished 1"], "a late answer counts");
}

#[test]
fn a_liar_is_named_and_not_asked_again() {
    let mut scene = scene();
    let foreign = OprfKey::from_seed(&[2; 32]);
    scene.step(0, LookupInput::Tick);
    let lie = scene.answer(0, &foreign);
    assert_eq!(scene.step(1, lie), ["liar", "ask", "wake 5001"]);
    let lie = scene.answer(1, &foreign);
    assert_eq!(scene.step(2, lie), ["liar", "ask", "wake 5002"]);
    assert_eq!(scene.step(5_002, LookupInput::Tick), ["wake 6002"]);
    assert_eq!(scene.step(6_002, LookupInput::Tick), ["ask", "wake 11002"], "only the third is left");
    assert_eq!(scene.step(11_002, LookupInput::Tick), ["wake 13002"]);
}

#[test]
fn a_used_up_budget_is_waited_for_and_an_absurd_one_only_so_long() {
    let mut scene = scene();
    scene.step(0, LookupInput::Tick);
    let refusal = |resets_at| BlindRefusal::OverBudget { allowed: 1, used: 1, resets_at: UnixMillis(resets_at) };
    let input = scene.refusal(0, refusal(90_000));
    assert_eq!(scene.step(1, input), ["over budget until 90000", "wake 90000"]);
    assert_eq!(scene.step(90_000, LookupInput::Tick), ["ask", "wake 95000"]);
    let input = scene.refusal(0, refusal(u64::MAX));
    let outputs = scene.step(90_001, input);
    assert_eq!(outputs[1], format!("wake {}", 90_001 + 2 * 86_400_000));
}

#[test]
fn strangers_answers_are_ignored_and_other_refusals_pass_on() {
    let mut scene = scene();
    scene.step(0, LookupInput::Tick);
    let answer = BlindAnswer::Refused(BlindRefusal::NoShare);
    assert!(scene.step(1, LookupInput::Answer { from: node(9), answer }).is_empty());
    let input = scene.refusal(0, BlindRefusal::NoShare);
    assert_eq!(scene.step(2, input), ["ask", "wake 5002"]);
}
