//! Admission as a table: each way in which a leader's entries can be wrong, and each way in which honest ones look odd.

use std::cell::Cell;
use std::collections::BTreeMap;

use openraft::EntryPayload;

use super::admission::{
    AdmissionError, CLOCK_SKEW_MS_MAX, Circumstances, SNAPSHOT_AHEAD_MAX, TERM_JUMP_MAX, Verdict, judge, judge_snapshot,
};
use super::log_store::{LogError, Tip, TipAt};
use super::state_machine::Standing;
use super::types::{LeaderId, LogEntry, LogId, Membership, RaftId, SharedBatch, StoredMembership, Vote};
use super::wire::{Append, SnapshotCall, SnapshotReference};
use super::world::{World, ledger_engine};
use crate::ids::{Hash, NodeId, Sequence, UnixMillis};
use crate::kernel::Refusal;
use crate::replica::{CheckError, Replica};
use crate::wire::v1::{Batch, Submission, VERSION};

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

struct Around {
    world: World,
    replica: std::sync::Arc<Replica>,
    held: BTreeMap<u64, LogId>,
    committed: Option<LogId>,
    vote: Option<Vote>,
    tip: Tip,
    now: Cell<UnixMillis>,
}

impl Circumstances for Around {
    fn now(&self) -> UnixMillis {
        self.now.get()
    }
    fn vote(&self) -> Option<Vote> {
        self.vote
    }
    fn last(&self) -> Option<LogId> {
        self.held.values().last().copied()
    }
    fn committed(&self) -> Option<LogId> {
        self.committed
    }
    fn held(&self, index: u64) -> Result<Option<LogId>, LogError> {
        Ok(self.held.get(&index).copied())
    }
    fn tip_at(&self, at: Option<LogId>) -> Result<TipAt, LogError> {
        Ok(match at {
            Some(at) if self.held.get(&at.index) != Some(&at) => TipAt::Missing,
            _ => TipAt::Known(self.tip),
        })
    }
    fn seats(&self) -> Result<BTreeMap<RaftId, NodeId>, AdmissionError> {
        Ok((1..=3).map(|seat| (RaftId(seat), self.world.nodes[seat as usize - 1].id())).collect())
    }
    fn check(&self, submission: &Submission) -> Result<(), CheckError> {
        self.replica.check(submission)
    }
}

fn id(term: u64, leader: u64, index: u64) -> LogId {
    LogId { leader_id: LeaderId { term, node_id: RaftId(leader) }, index }
}

impl Around {
    /// A log of two blank entries of leader 1 in term 3, the first committed, behind a tip of a second ago.
    fn new() -> Self {
        let addresses: Vec<String> = (1..=3).map(|n| format!("127.0.0.1:{n}")).collect();
        let world = World::new(&addresses, UnixMillis(1_000_000));
        let replica = world.replica(ledger_engine());
        let tip = Tip { hash: Hash::blake3(&[b"newest"]), time: UnixMillis(NOW.0 - 1000) };
        Self {
            world,
            replica,
            held: [(0, id(3, 1, 0)), (1, id(3, 1, 1))].into(),
            committed: Some(id(3, 1, 0)),
            vote: Some(Vote::new_committed(3, RaftId(1))),
            tip,
            now: Cell::new(NOW),
        }
    }

    fn batch(&self) -> Batch {
        let submissions = vec![self.world.command(3, 0, b"first")];
        let proposer = self.world.nodes[0].id();
        Batch { version: VERSION, previous: self.tip.hash, time: NOW, proposer, submissions }
    }

    /// From leader 1 in term 3: `batches` behind entry 1.
    fn append(&self, batches: impl IntoIterator<Item = Batch>) -> Append {
        let entries = (2..).zip(batches).map(|(index, batch)| LogEntry {
            log_id: id(3, 1, index),
            payload: EntryPayload::Normal(SharedBatch::new(batch)),
        });
        Append {
            vote: Vote::new_committed(3, RaftId(1)),
            previous: Some(id(3, 1, 1)),
            entries: entries.collect(),
            commit: Some(id(3, 1, 0)),
            confirmed: Some(id(3, 1, 1)),
        }
    }
}

/// The verdict in short; what is refused by its error's first word.
fn short(verdict: &Verdict) -> String {
    let name = |why: &AdmissionError| {
        let debug = format!("{why:?}");
        debug.split([' ', '(', '{']).next().unwrap_or_default().to_owned()
    };
    match verdict {
        Verdict::Take => "take".into(),
        Verdict::Probe => "probe".into(),
        Verdict::TakeFirst { count, why } => format!("take {count}, {}", name(why)),
        Verdict::Refuse(why) => format!("refuse, {}", name(why)),
    }
}

#[test]
fn one_batch_as_it_should_be_and_each_way_in_which_it_is_not() {
    type Change = fn(&mut Batch, &Around);
    let cases: [(&str, Change); 14] = [
        ("take", |_, _| {}),
        ("take", |batch, _| batch.time = UnixMillis(NOW.0 + CLOCK_SKEW_MS_MAX)),
        ("refuse, ClockSkew", |batch, _| batch.time = UnixMillis(NOW.0 + CLOCK_SKEW_MS_MAX + 1)),
        ("refuse, ClockSkew", |_, around| around.now.set(UnixMillis(NOW.0 + CLOCK_SKEW_MS_MAX + 1))),
        ("refuse, TimeGoesBack", |batch, around| batch.time = UnixMillis(around.tip.time.0 - 1)),
        ("refuse, NotChained", |batch, _| batch.previous = Hash::blake3(&[b"another"])),
        ("refuse, ForgedProposer", |batch, around| batch.proposer = around.world.nodes[1].id()),
        ("refuse, ForgedProposer", |batch, around| batch.proposer = around.world.nodes[3].id()),
        ("refuse, Malformed", |batch, _| batch.submissions.clear()),
        ("refuse, Malformed", |batch, _| batch.version = 9),
        ("refuse, Malformed", |batch, _| batch.submissions[0].sealed = Some(vec![1])),
        ("refuse, Command", |batch, _| batch.submissions[0].command.body.public.push(1)),
        ("refuse, Command", |batch, _| {
            batch.submissions[0].command.body.stream.node = NodeId::new(Hash::blake3(&[b"nobody"]));
        }),
        // A gap is for the machine to judge, alike everywhere.
        ("take", |batch, around| batch.submissions = vec![around.world.command(3, 9, b"early")]),
    ];
    for (number, (expected, change)) in cases.into_iter().enumerate() {
        let around = Around::new();
        let mut batch = around.batch();
        change(&mut batch, &around);
        let verdict = judge(&around.append([batch]), RaftId(1), &around);
        assert_eq!(short(&verdict), expected, "case {number}: {verdict:?}");
    }
}

#[test]
fn the_message_around_the_batches() {
    type Change = fn(&mut Append, &mut Around);
    let cases: [(&str, &str, Change); 16] = [
        ("take", "a heartbeat", |append, _| append.entries.clear()),
        ("refuse, NotTheSender", "another's vote", |append, _| append.vote = Vote::new_committed(3, RaftId(2))),
        ("take", "entries that are here", |_, around| {
            around.held.insert(2, id(3, 1, 2));
        }),
        ("probe", "a log that does not reach them", |append, _| {
            append.previous = Some(id(3, 1, 6));
            append.entries.iter_mut().for_each(|entry| entry.log_id.index += 5);
        }),
        ("probe", "a log that differs before them", |append, _| append.previous = Some(id(2, 2, 1))),
        ("refuse, ContradictsCommitted", "a rewritten past", |append, _| {
            append.previous = None;
            append.entries[0].log_id = id(2, 1, 0);
        }),
        ("refuse, ContradictsCommitted", "another past", |append, _| append.previous = Some(id(2, 2, 0))),
        ("refuse, RolledBack", "more was confirmed", |append, _| append.confirmed = Some(id(3, 1, 2))),
        ("take", "more was confirmed to a leader that is past", |append, around| {
            append.confirmed = Some(id(3, 1, 2));
            around.vote = Some(Vote::new_committed(4, RaftId(2)));
        }),
        ("take", "an old batch that is committed", |append, around| {
            around.now.set(UnixMillis(NOW.0 + 3_600_000));
            append.commit = Some(id(3, 1, 2));
        }),
        ("take", "an old batch of an earlier leader", |append, around| {
            around.now.set(UnixMillis(NOW.0 + 3_600_000));
            append.vote = Vote::new_committed(4, RaftId(1));
        }),
        ("refuse, ClockSkew", "a committed batch from the future", |append, around| {
            around.now.set(UnixMillis(NOW.0 - 3_600_000));
            around.tip.time = UnixMillis(0);
            append.commit = Some(id(3, 1, 2));
        }),
        ("take", "the ledger's own core", |append, around| {
            append.entries[0].payload = EntryPayload::Membership(membership(around, 0, &[1, 2, 3]));
        }),
        ("refuse, OtherVoters", "a core of one, the sender", |append, around| {
            append.entries[0].payload = EntryPayload::Membership(membership(around, 0, &[1]));
        }),
        ("refuse, TermJump", "a term that no election reaches", |append, _| {
            append.vote = Vote::new_committed(4 + TERM_JUMP_MAX, RaftId(1));
        }),
        ("refuse, ForeignMembership", "a seat given to another", |append, around| {
            append.entries[0].payload = EntryPayload::Membership(membership(around, 3, &[1, 2, 3]));
        }),
    ];
    for (expected, what, change) in cases {
        let mut around = Around::new();
        let mut append = around.append([around.batch()]);
        change(&mut append, &mut around);
        let verdict = judge(&append, RaftId(1), &around);
        assert_eq!(short(&verdict), expected, "{what}: {verdict:?}");
    }
}

/// Seat 1 held by the node `holder`, the others by their own, of which `voters` vote.
fn membership(around: &Around, holder: usize, voters: &[u64]) -> Membership {
    let core = |seat: u64| {
        let node = &around.world.nodes[if seat == 1 { holder } else { seat as usize - 1 }];
        let core = super::types::CoreNode { node: node.id(), name: "core".into(), address: "127.0.0.1:1".into() };
        (RaftId(seat), core)
    };
    let voters = voters.iter().copied().map(RaftId).collect();
    Membership::new(vec![voters], (1..=3).map(core).collect::<BTreeMap<_, _>>()).expect("membership")
}

/// A snapshot of leader 1 in term 3, at entry 1, which is all that the log of [`Around`] holds.
fn snapshot(around: &Around) -> (SnapshotCall, Standing) {
    let here = around.replica.checkpoint().expect("checkpoint");
    let reference = SnapshotReference { size: here.size, root: here.root, digest: here.digest, tip: around.tip };
    let stored = StoredMembership::new(Some(id(3, 1, 0)), membership(around, 0, &[1, 2, 3]));
    let vote = Vote::new_committed(3, RaftId(1));
    let call = SnapshotCall { vote, last: Some(id(3, 1, 1)), membership: stored, reference: reference.clone() };
    (call, Standing { applied: Some(id(3, 1, 1)), reference })
}

#[test]
fn a_snapshot_that_says_anything_else_than_this_nodes_own_ledger_is_refused_and_named() {
    type Change = fn(&mut SnapshotCall, &mut Around, &mut Standing);
    let cases: [(&str, Change); 14] = [
        ("", |_, _, _| {}),
        ("", |call, _, _| call.last = Some(id(3, 1, 1 + SNAPSHOT_AHEAD_MAX))),
        ("the leader's term is 1048579 ahead", |call, _, _| {
            call.vote = Vote::new_committed(6 + TERM_JUMP_MAX, RaftId(1))
        }),
        ("1 sent what only 2 may", |call, _, _| call.vote = Vote::new_committed(3, RaftId(2))),
        ("no position", |call, _, _| call.last = None),
        ("contradicts entry", |call, _, _| call.last = Some(id(3, 2, 0))),
        ("ledger's root at 0", |call, _, _| call.reference.root = Hash::sha256(&[b"other"])),
        ("state's digest at 0", |call, _, _| call.reference.digest = Hash::blake3(&[b"other"])),
        ("newest batch at 0", |call, _, _| call.reference.tip.hash = Hash::blake3(&[b"other"])),
        ("stands at 7 ledger entries, this node at 0", |call, _, _| call.reference.size.0 = 7),
        ("1048577 log entries ahead", |call, _, _| call.last = Some(id(3, 1, 2 + SNAPSHOT_AHEAD_MAX))),
        ("seat 1 belongs to", |call, around, _| {
            call.membership = StoredMembership::new(Some(id(3, 1, 0)), membership(around, 3, &[1, 2, 3]));
        }),
        ("only the seats {RaftId(1)} would vote", |call, around, _| {
            call.membership = StoredMembership::new(Some(id(3, 1, 0)), membership(around, 0, &[1]));
        }),
        ("goes on behind what is applied", |_, _, here| here.applied = Some(id(3, 1, 0))),
    ];
    for (number, (expected, change)) in cases.into_iter().enumerate() {
        let mut around = Around::new();
        let (mut call, mut here) = snapshot(&around);
        change(&mut call, &mut around, &mut here);
        let verdict = judge_snapshot(&call, RaftId(1), &here, &around);
        let words = verdict.as_ref().err().map(ToString::to_string).unwrap_or_default();
        match expected {
            "" => assert!(verdict.is_ok(), "case {number}: {words}"),
            _ => assert!(words.contains(expected), "case {number}: {words:?} should say {expected:?}"),
        }
    }
}

#[test]
fn a_chain_is_followed_through_the_message_and_the_good_beginning_is_kept() {
    let around = Around::new();
    let first = around.batch();
    let next = |before: &Batch, ms: u64, sequence: u64| Batch {
        previous: before.hash(),
        time: UnixMillis(NOW.0 + ms),
        submissions: vec![around.world.command(3, sequence, b"next")],
        ..before.clone()
    };
    let second = next(&first, 10, 1);
    let third = next(&second, 20, 2);
    let back = next(&second, 5, 2);
    let mut stranger = next(&second, 20, 2);
    stranger.submissions[0].command.body.sequence = Sequence(3);
    let cases = [
        ("take", vec![first.clone(), second.clone(), third.clone()]),
        ("take 1, NotChained", vec![first.clone(), third.clone()]),
        ("take 2, TimeGoesBack", vec![first.clone(), second.clone(), back]),
        ("take 2, Command", vec![first.clone(), second.clone(), stranger]),
        ("refuse, NotChained", vec![second, third]),
    ];
    for (expected, batches) in cases {
        let verdict = judge(&around.append(batches), RaftId(1), &around);
        assert_eq!(short(&verdict), expected, "{verdict:?}");
    }
}

#[test]
fn the_leader_learns_whether_its_clock_is_the_reason() {
    let skew = AdmissionError::ClockSkew { index: 1, batch: NOW, here: UnixMillis(0) };
    let other = AdmissionError::Command { index: 1, position: 0, refusal: Refusal::BadSignature };
    assert!(skew.notice().clock_skew && !other.notice().clock_skew);
    assert!(skew.notice().reason.contains("time server"), "it says what to do");
}
