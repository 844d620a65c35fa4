//! The intake: order, repeats, limits, and one answer for everyone.

use futures::FutureExt;
use futures::channel::oneshot;

use super::intake::{CommandReceipt, Intake, ORIGIN_SHARE, SubmitError, SubmitResult, WAITING_MAX};
use super::log_store::Tip;
use super::types::BatchReceipt;
use super::world::World;
use crate::ids::{Hash, Lane, LedgerIndex, Sequence, UnixMillis};
use crate::kernel::{Outcome, Refusal};
use crate::wire::v1::{BATCH_BYTES_MAX, BATCH_COMMANDS_MAX, Submission};

fn world() -> World {
    World::new(&["127.0.0.1:1".into()], UnixMillis(1_000_000))
}

fn tip(seconds: u64) -> Tip {
    Tip { hash: Hash::blake3(&[b"tip"]), time: UnixMillis::from_seconds(seconds) }
}

fn offer(intake: &mut Intake, submission: Submission) -> oneshot::Receiver<SubmitResult> {
    let (waiter, answer) = oneshot::channel();
    intake.offer(submission, Sequence(0), waiter);
    answer
}

fn answered(receiver: oneshot::Receiver<SubmitResult>) -> Option<SubmitResult> {
    receiver.now_or_never().map(|answer| answer.expect("one answer for everyone"))
}

#[test]
fn a_stream_goes_in_order_and_each_number_once() {
    let (world, mut intake) = (world(), Intake::default());
    let gap = |expected| Some(Err(SubmitError::Refused(Refusal::Gap { expected: Sequence(expected) })));
    let member = world.member();
    assert_eq!(answered(offer(&mut intake, world.command(member, 1, b"b"))), gap(0));
    let first = offer(&mut intake, world.command(member, 0, b"a"));
    let second = offer(&mut intake, world.command(member, 1, b"b"));
    assert_eq!(answered(offer(&mut intake, world.command(member, 3, b"d"))), gap(2));
    let again = offer(&mut intake, world.command(member, 0, b"a"));
    let other = answered(offer(&mut intake, world.command(member, 0, b"x")));
    assert!(matches!(other, Some(Err(SubmitError::Conflict { .. }))));

    let proposed = intake.propose(tip(5), UnixMillis::from_seconds(3), world.nodes[0].id()).expect("a batch");
    let batch = proposed.batch.batch();
    assert_eq!((batch.previous, batch.time), (tip(5).hash, UnixMillis::from_seconds(5)), "time never goes back");
    assert_eq!(batch.submissions.len(), 2);
    let third = offer(&mut intake, world.command(member, 2, b"c"));
    assert!(intake.propose(tip(5), UnixMillis::from_seconds(9), world.nodes[0].id()).is_some(), "in the pipeline");

    let commands = vec![(LedgerIndex(7), Outcome::Applied), (LedgerIndex(8), Outcome::Refused(Refusal::Repeated))];
    intake.complete(proposed, &BatchReceipt { commands });
    let receipt = Some(Ok(CommandReceipt { index: LedgerIndex(7), outcome: Outcome::Applied }));
    assert_eq!((answered(first), answered(again)), (receipt.clone(), receipt));
    assert_eq!(answered(second), Some(Err(SubmitError::Refused(Refusal::Repeated))));
    intake.fail_all(&SubmitError::LeaderChanged);
    assert_eq!(answered(third), Some(Err(SubmitError::LeaderChanged)));
}

/// Commands of one origin that may wait in a lane.
const SHARE: u64 = (WAITING_MAX / ORIGIN_SHARE) as u64;

/// An origin that floods its lane.
#[test]
fn a_flood_of_one_leaves_room_for_the_others_and_what_is_urgent_goes_first() {
    let addresses: Vec<String> = (1..=6).map(|n| format!("127.0.0.1:{n}")).collect();
    let (world, mut intake) = (World::new(&addresses, UnixMillis(1_000_000)), Intake::default());
    let templates: Vec<Submission> = (0..6).map(|node| world.command(node, 0, b"x")).collect();
    let numbered = |node: usize, sequence: u64| {
        let mut submission = templates[node].clone();
        submission.command.body.sequence = Sequence(sequence);
        submission
    };
    let urgent = |node: usize| {
        let mut submission = numbered(node, 0);
        submission.command.body.stream.lane = Lane::Urgent;
        submission
    };
    let flood: Vec<_> = (0..SHARE).map(|n| offer(&mut intake, numbered(0, n))).collect();
    assert_eq!(answered(offer(&mut intake, numbered(0, SHARE))), Some(Err(SubmitError::Overloaded)));
    assert_eq!(answered(offer(&mut intake, numbered(1, 0))), None, "another origin is taken");
    let others = (1..4).flat_map(|node| (0..SHARE).map(move |n| (node, n))).skip(1);
    let others: Vec<_> = others.map(|(node, n)| offer(&mut intake, numbered(node, n))).collect();
    assert_eq!(answered(offer(&mut intake, numbered(4, 0))), Some(Err(SubmitError::Overloaded)), "the lane is full");
    let revocations = [offer(&mut intake, urgent(0)), offer(&mut intake, urgent(5))];
    let proposed = intake.propose(tip(1), UnixMillis(0), world.nodes[0].id()).expect("a batch");
    let lanes = proposed.batch.batch().submissions.iter().map(|submission| submission.command.body.stream.lane);
    let expected = [Lane::Urgent, Lane::Urgent].into_iter().chain(std::iter::repeat(Lane::Bulk));
    assert!(lanes.eq(expected.take(BATCH_COMMANDS_MAX)));
    drop((flood, others, revocations));
}

#[test]
fn batches_and_the_queue_keep_their_limits() {
    let (world, mut intake) = (world(), Intake::default());
    let member = world.member();
    let template = world.command(member, 0, b"x");
    let numbered = |sequence: u64| {
        let mut submission = template.clone();
        submission.command.body.sequence = Sequence(sequence);
        submission
    };
    let mut answers: Vec<_> = (0..SHARE).map(|n| offer(&mut intake, numbered(n))).collect();
    let beyond = answered(offer(&mut intake, numbered(SHARE)));
    assert_eq!(beyond, Some(Err(SubmitError::Overloaded)));
    let proposed = intake.propose(tip(1), UnixMillis(0), world.nodes[0].id()).expect("a batch");
    assert_eq!(proposed.batch.batch().submissions.len(), BATCH_COMMANDS_MAX);
    answers.push(offer(&mut intake, numbered(SHARE)));
    assert!(answers.pop().expect("last").now_or_never().is_none(), "room again");

    let mut intake = Intake::default();
    let large = vec![7; 30_000];
    let answers: Vec<_> = (0..200).map(|n| offer(&mut intake, world.command(member, n, &large))).collect();
    let proposed = intake.propose(tip(1), UnixMillis(0), world.nodes[0].id()).expect("a batch");
    assert!(proposed.batch.weight() <= BATCH_BYTES_MAX + 256);
    assert!(!intake.is_empty(), "{} wait", answers.len());
}
