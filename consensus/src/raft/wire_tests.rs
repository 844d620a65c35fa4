//! Raft's formats: golden bytes that hold them still, shapes that no honest leader sends, and bytes of no shape at all.

use std::collections::BTreeMap;

use openraft::EntryPayload;
use proptest::prelude::*;

use super::log_store::Tip;
use super::types::{CoreNode, LeaderId, LogEntry, LogId, Membership, RaftId, SharedBatch, StoredMembership, Vote};
use super::watermark::{DurableMark, WireMark};
use super::wire::{
    APPEND_ENTRIES_MAX, Append, AppendReply, RefusalNotice, SnapshotCall, SnapshotReference, Transfer, VoteCall,
    VoteReply, WireEntry, WireLogId, WireStoredMembership, WireTipAt, WireVote, to_bytes,
};
use super::world::World;
use crate::ids::{Hash, LedgerSize, NodeId, UnixMillis};
use crate::wire::v1::{Batch, VERSION};

const GOLDEN: &str = include_str!("../../tests/golden/raft_v1.txt");

fn id(term: u64, leader: u64, index: u64) -> LogId {
    LogId { leader_id: LeaderId { term, node_id: RaftId(leader) }, index }
}

fn blank(term: u64, leader: u64, index: u64) -> LogEntry {
    LogEntry { log_id: id(term, leader, index), payload: EntryPayload::Blank }
}

fn batch() -> SharedBatch {
    let world = World::new(&["core-1:1".into()], UnixMillis(1_000_000));
    let (previous, proposer) = (world.genesis.federation_id(), world.nodes[0].id());
    let submissions = vec![world.command(1, 0, b"note")];
    let time = UnixMillis(1_700_000_000_000);
    SharedBatch::new(Batch { version: VERSION, previous: *previous.hash(), time, proposer, submissions })
}

fn membership() -> Membership {
    let node = |n: u64| CoreNode {
        node: NodeId::new(Hash::blake3(&[&n.to_be_bytes()])),
        name: format!("core-{n}"),
        address: format!("core-{n}.example:7001"),
    };
    let nodes: BTreeMap<RaftId, CoreNode> = (1..=4).map(|n| (RaftId(n), node(n))).collect();
    Membership::new(vec![[1, 2, 3].map(RaftId).into(), [1, 2, 4].map(RaftId).into()], nodes).expect("membership")
}

fn tip() -> Tip {
    Tip { hash: Hash::blake3(&[b"tip"]), time: UnixMillis(1_700_000_000_000) }
}

fn reference() -> SnapshotReference {
    let (root, digest) = (Hash::sha256(&[b"root"]), Hash::blake3(&[b"digest"]));
    SnapshotReference { size: LedgerSize(900), root, digest, tip: tip() }
}

/// One of each format.
fn samples() -> Vec<(&'static str, Vec<u8>)> {
    let vote = Vote::new_committed(7, RaftId(2));
    let entry = |payload| to_bytes(&WireEntry::from(&LogEntry { log_id: id(7, 2, 41), payload }));
    let stored = StoredMembership::new(Some(id(6, 1, 3)), membership());
    let append = Append {
        vote,
        previous: Some(id(6, 1, 40)),
        entries: vec![LogEntry { log_id: id(7, 2, 41), payload: EntryPayload::Normal(batch()) }, blank(7, 2, 42)],
        commit: Some(id(6, 1, 39)),
        confirmed: None,
    };
    let notice = RefusalNotice { clock_skew: true, reason: "compare both clocks".into() };
    let snapshot = SnapshotCall { vote, last: Some(id(6, 1, 40)), membership: stored.clone(), reference: reference() };
    let mark = DurableMark { last_index: Some(41), vote: Some(vote) };
    vec![
        ("vote", to_bytes(&WireVote::from(vote))),
        ("log_id", to_bytes(&WireLogId::from(id(7, 2, 41)))),
        ("tip_at", to_bytes(&WireTipAt::new(id(7, 2, 41), Some(tip())))),
        ("mark", to_bytes(&WireMark::from(mark))),
        ("entry_blank", entry(EntryPayload::Blank)),
        ("entry_batch", entry(EntryPayload::Normal(batch()))),
        ("entry_membership", entry(EntryPayload::Membership(membership()))),
        ("stored_membership", to_bytes(&WireStoredMembership::from(&stored))),
        ("append", append.to_bytes()),
        ("append_success", AppendReply::Success.to_bytes()),
        ("append_partial", AppendReply::Partial(Some(id(7, 2, 41).into())).to_bytes()),
        ("append_conflict", AppendReply::Conflict.to_bytes()),
        ("append_higher_vote", AppendReply::HigherVote(vote.into()).to_bytes()),
        ("append_refused", AppendReply::Refused(notice).to_bytes()),
        ("vote_call", VoteCall { vote: Vote::new(8, RaftId(3)), last: None, transfer: true }.to_bytes()),
        ("vote_reply", VoteReply { vote, last: Some(id(7, 2, 41)), granted: true }.to_bytes()),
        ("transfer", Transfer { from: vote, to: RaftId(3), last: Some(id(7, 2, 41)) }.to_bytes()),
        ("snapshot", snapshot.to_bytes()),
    ]
}

#[test]
fn the_formats_stand_still() {
    let written: String =
        samples().iter().map(|(name, bytes)| format!("{name} {}\n", data_encoding::HEXLOWER.encode(bytes))).collect();
    assert_eq!(written, GOLDEN, "a released format never changes: add a version instead");
}

#[test]
fn what_was_written_is_read_again() {
    let samples: BTreeMap<_, _> = samples().into_iter().collect();
    let append = Append::from_bytes(&samples["append"]).expect("append");
    assert_eq!(append.to_bytes(), samples["append"]);
    for name in ["entry_blank", "entry_batch", "entry_membership"] {
        let entry = WireEntry::entry_from_bytes(&samples[name]).expect(name);
        assert_eq!(to_bytes(&WireEntry::from(&entry)), samples[name]);
    }
    for name in ["append_success", "append_partial", "append_conflict", "append_higher_vote", "append_refused"] {
        assert_eq!(AppendReply::from_bytes(&samples[name]).expect(name).to_bytes(), samples[name]);
    }
    assert_eq!(VoteCall::from_bytes(&samples["vote_call"]).expect("call").to_bytes(), samples["vote_call"]);
    assert_eq!(VoteReply::from_bytes(&samples["vote_reply"]).expect("reply").to_bytes(), samples["vote_reply"]);
    assert_eq!(Transfer::from_bytes(&samples["transfer"]).expect("transfer").to_bytes(), samples["transfer"]);
    assert_eq!(SnapshotCall::from_bytes(&samples["snapshot"]).expect("snapshot").to_bytes(), samples["snapshot"]);
}

#[test]
fn shapes_that_openraft_would_assert_are_refused() {
    let good = Append {
        vote: Vote::new_committed(7, RaftId(2)),
        previous: Some(id(6, 1, 40)),
        entries: vec![blank(6, 1, 41), blank(7, 2, 42)],
        commit: Some(id(6, 1, 40)),
        confirmed: None,
    };
    type Change = fn(&mut Append);
    let cases: [(&str, Change); 11] = [
        ("a vote that was not granted", |a| a.vote.committed = false),
        ("a term without end", |a| a.vote.leader_id.term = u64::MAX),
        ("a hole", |a| a.entries[1].log_id.index = 43),
        ("an entry twice", |a| a.entries[1].log_id.index = 41),
        ("a beginning elsewhere", |a| a.previous = None),
        ("an index without end", |a| {
            a.previous = Some(id(6, 1, u64::MAX - 1));
            a.entries = vec![blank(7, 2, u64::MAX)];
        }),
        ("a previous entry at the end of all", |a| a.previous = Some(id(6, 1, u64::MAX))),
        ("an earlier leader again", |a| a.entries[1].log_id = id(5, 1, 42)),
        ("a later leader's entry", |a| a.entries[1].log_id = id(8, 2, 42)),
        ("a later leader's commit", |a| a.commit = Some(id(9, 1, 1))),
        ("more than one message holds", |a| {
            a.entries = (41..).take(APPEND_ENTRIES_MAX + 1).map(|index| blank(7, 2, index)).collect();
        }),
    ];
    assert_eq!(Append::from_bytes(&good.to_bytes()).as_ref(), Ok(&good));
    for (what, change) in cases {
        let mut append = good.clone();
        change(&mut append);
        assert!(Append::from_bytes(&append.to_bytes()).is_err(), "{what}");
    }
    let candidate = VoteCall { vote: Vote::new_committed(8, RaftId(3)), last: None, transfer: false };
    assert!(VoteCall::from_bytes(&candidate.to_bytes()).is_err(), "a candidate with a granted vote");
    let stored = StoredMembership::new(None, membership());
    let early = |last| SnapshotCall {
        vote: Vote::new_committed(7, RaftId(2)),
        last,
        membership: stored.clone(),
        reference: reference(),
    };
    assert!(SnapshotCall::from_bytes(&early(None).to_bytes()).is_err(), "a snapshot of nothing");
    assert!(SnapshotCall::from_bytes(&early(Some(id(8, 1, 1))).to_bytes()).is_err(), "a snapshot from the future");
}

proptest! {
    #[test]
    fn bytes_of_peers_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), sample in 0usize..18, at in 0usize..400) {
        let (_, mut changed) = samples().swap_remove(sample);
        let at = at % changed.len();
        changed[at] ^= bytes.first().copied().unwrap_or(1) | 1;
        for bytes in [&bytes, &changed] {
            let _ = Append::from_bytes(bytes);
            let _ = AppendReply::from_bytes(bytes);
            let _ = VoteCall::from_bytes(bytes);
            let _ = VoteReply::from_bytes(bytes);
            let _ = Transfer::from_bytes(bytes);
            let _ = SnapshotCall::from_bytes(bytes);
            let _ = WireEntry::entry_from_bytes(bytes);
            let _ = super::cluster::submissions_from_bytes(bytes);
        }
    }
}
