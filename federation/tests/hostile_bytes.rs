//! Bytes that a peer may send, by every decoder that reads such bytes: nothing panics, and nothing takes more memory
//! than a small multiple of what was sent.
//!
//! Three kinds: the golden bytes of all formats, mutated as chance has it; the same with an absurd length at each place;
//! and full-sized messages of the smallest items, which are what a sequence makes most of. One test: the memory that is
//! measured is the process's.

use std::collections::BTreeMap;
use std::path::Path;

use peak_alloc::PeakAlloc;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tessera_consensus::certify::CosignResult;
use tessera_consensus::checkpoint::{Checkpoint, Cosignature, Evidence, SignedCheckpoint, SigningGuard};
use tessera_consensus::follow::REPLY_BYTES_MAX;
use tessera_consensus::raft::cluster::{receipts_from_bytes, submissions_from_bytes};
use tessera_consensus::raft::wire::{Append, AppendReply, SnapshotCall, Transfer, VoteCall, VoteReply, WireEntry};
use tessera_consensus::wire::decode;
use tessera_consensus::wire::v1::{BATCH_BYTES_MAX, Batch, Command, Genesis, Leaf, SignedJoin};
use tessera_federation::net::{PeerReply, PeerRequest};
use tessera_federation::retrieve::frame::Frame;
use tessera_federation::retrieve::wire::v1::{ToHolder, ToRequester};
use tessera_federation::wire::Format;
use tessera_federation::wire::v1 as formats;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// What decoding may take for each byte that it reads: the value, the bytes that it is compared with, and room to grow.
const MEMORY_FACTOR: usize = 8;
/// And besides: what serde sets aside for a sequence before its first item, and small things.
const MEMORY_BASE: usize = 1024 * 1024 + 64 * 1024;

/// Whether the bytes were accepted.
type Decoder = fn(&[u8]) -> bool;

macro_rules! formats {
    ($($format:ident),* $(,)?) => { vec![$((stringify!($format), (|bytes| formats::$format::from_bytes(bytes).is_ok()) as Decoder)),*] };
}

fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

fn decoders() -> Vec<(&'static str, Decoder)> {
    let mut all: Vec<(&'static str, Decoder)> = vec![
        ("join", |bytes| SignedJoin::from_bytes(bytes).is_ok_and(|join| join.verify().is_ok())),
        ("genesis", |bytes| Genesis::from_bytes(bytes).is_ok()),
        ("command", |bytes| Command::from_bytes(bytes).is_ok()),
        ("leaf", |bytes| Leaf::from_bytes(bytes).is_ok()),
        ("batch", |bytes| decode::<Batch>("batch", bytes, BATCH_BYTES_MAX).is_ok_and(|batch| batch.validate().is_ok())),
        ("checkpoint", |bytes| Checkpoint::parse(&text(bytes)).is_ok()),
        ("note", |bytes| SignedCheckpoint::parse(&text(bytes)).is_ok()),
        ("guard", |bytes| SigningGuard::from_bytes(bytes).is_ok()),
        ("cosignature", |bytes| decode::<Cosignature>("cosignature", bytes, 64 * 1024).is_ok()),
        ("cosign result", |bytes| decode::<CosignResult>("cosign result", bytes, 256 * 1024).is_ok()),
        ("evidence", |bytes| decode::<Evidence>("evidence", bytes, 64 * 1024).is_ok()),
        ("append", |bytes| Append::from_bytes(bytes).is_ok()),
        ("append reply", |bytes| AppendReply::from_bytes(bytes).is_ok()),
        ("vote call", |bytes| VoteCall::from_bytes(bytes).is_ok()),
        ("vote reply", |bytes| VoteReply::from_bytes(bytes).is_ok()),
        ("transfer", |bytes| Transfer::from_bytes(bytes).is_ok()),
        ("snapshot", |bytes| SnapshotCall::from_bytes(bytes).is_ok()),
        ("log entry", |bytes| WireEntry::entry_from_bytes(bytes).is_ok()),
        ("submissions", |bytes| submissions_from_bytes(bytes).is_ok()),
        ("receipts", |bytes| receipts_from_bytes(bytes).is_ok()),
        ("request of a peer", |bytes| PeerRequest::parse(bytes).is_ok()),
        ("reply of a peer", |bytes| PeerReply::parse(bytes).is_ok()),
        ("frame to a holder", |bytes| Frame::<ToHolder>::from_bytes(bytes).is_ok()),
        ("frame to a requester", |bytes| Frame::<ToRequester>::from_bytes(bytes).is_ok()),
    ];
    all.extend(formats![
        AmendmentDetails,
        AmendmentPublic,
        AuditAnchorPublic,
        BlindAnswer,
        BlindReply,
        BlindRequest,
        BreakGlassDetails,
        BreakGlassPublic,
        ConsentDetails,
        ConsentPublic,
        ConsultationPublic,
        ContractPublic,
        DisclosureDetails,
        DisclosurePublic,
        DomainGenesis,
        ErasurePublic,
        ExpertPublic,
        HpkeSealed,
        LinkDetails,
        LinkPublic,
        LinkSealed,
        Manifest,
        RecallAcknowledgementPublic,
        ReceiptPublic,
        RecognitionDetails,
        RecognitionPublic,
        RevocationPublic,
        RuleBasePublic,
        Sealed,
        StudyDetails,
        StudyPublic,
        StudySealed,
        StudyStatistics,
        UnlinkPublic,
    ]);
    all
}

fn unhex(digits: &str) -> Vec<u8> {
    let digits: Vec<u8> = digits.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16).expect("hexadecimal");
    digits.chunks(2).map(byte).collect()
}

/// Every golden value of both crates.
fn golden() -> Vec<Vec<u8>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let folder = std::fs::read_dir(here.join("tests/golden")).expect("a folder");
    let mut paths: Vec<_> = folder.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "hex"));
    paths.sort();
    let mut golden: Vec<Vec<u8>> = paths.iter().map(|path| unhex(&read(path))).collect();
    for lists in ["tests/golden/retrieve-v1.txt", "../consensus/tests/golden/raft_v1.txt"] {
        let lines = read(&here.join(lists));
        golden.extend(lines.lines().filter_map(|line| line.split_once(' ')).map(|(_, digits)| unhex(digits)));
    }
    golden.push(read(&here.join("../consensus/tests/golden/checkpoint_v1.txt")).into_bytes());
    golden.push(PeerRequest::Follow(tessera_consensus::follow::FollowRequest::Checkpoint).to_bytes());
    assert!(golden.len() > 60, "{} golden values", golden.len());
    golden
}

/// Runs a decoder and holds it to the bound.
fn decode_within_bounds(name: &str, decoder: Decoder, bytes: &[u8]) -> bool {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let accepted = decoder(bytes);
    let taken = MEMORY.peak_usage().saturating_sub(before);
    let allowed = MEMORY_BASE + MEMORY_FACTOR * bytes.len();
    assert!(taken <= allowed, "{name}: {taken} bytes of memory for {} bytes, {allowed} are allowed", bytes.len());
    accepted
}

/// One change of some bytes; places count modulo the length.
#[derive(Clone, Debug)]
enum Mutation {
    Flip(usize, u8),
    Cut(usize),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    Repeat(usize, usize),
}

impl Mutation {
    fn any() -> impl Strategy<Value = Self> {
        let place = 0..4096usize;
        prop_oneof![
            (place.clone(), 1..=255u8).prop_map(|(at, with)| Self::Flip(at, with)),
            place.clone().prop_map(Self::Cut),
            (place.clone(), proptest::collection::vec(any::<u8>(), 1..12))
                .prop_map(|(at, with)| Self::Insert(at, with)),
            (place.clone(), 1..16usize).prop_map(|(at, count)| Self::Remove(at, count)),
            (place, 1..64usize).prop_map(|(at, count)| Self::Repeat(at, count)),
        ]
    }

    fn apply(&self, bytes: &mut Vec<u8>) {
        let length = bytes.len();
        if length == 0 {
            return;
        }
        match self {
            Self::Flip(at, with) => bytes[at % length] ^= with,
            Self::Cut(at) => bytes.truncate(at % length),
            Self::Insert(at, with) => drop(bytes.splice(at % length..at % length, with.iter().copied())),
            Self::Remove(at, count) => drop(bytes.drain(at % length..length.min(at % length + count))),
            Self::Repeat(at, count) => {
                let piece = bytes[at % length..length.min(at % length + count)].to_vec();
                bytes.extend(piece);
            }
        }
    }
}

fn mutated_golden_bytes(golden: &[Vec<u8>], decoders: &[(&'static str, Decoder)]) {
    let mut runner = TestRunner::new(Config { cases: 512, failure_persistence: None, ..Config::default() });
    let mutations = proptest::collection::vec(Mutation::any(), 1..4);
    let noise = proptest::collection::vec(any::<u8>(), 0..400);
    let strategy = (0..golden.len(), mutations, noise);
    let run = runner.run(&strategy, |(which, mutations, noise)| {
        let mut bytes = golden[which].clone();
        mutations.iter().for_each(|mutation| mutation.apply(&mut bytes));
        for (name, decoder) in decoders {
            decode_within_bounds(name, *decoder, &bytes);
            decode_within_bounds(name, *decoder, &noise);
        }
        Ok(())
    });
    run.expect("no decoder panics or takes more than it may");
}

/// A length of 2^32 - 1, of 2^62, and one of no end, wherever a length may stand.
fn absurd_lengths(golden: &[Vec<u8>], decoders: &[(&'static str, Decoder)]) {
    let lengths: [&[u8]; 4] = [
        &[0xff, 0xff, 0xff, 0xff, 0x0f],
        &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40],
        &[0xff; 12],
        &[0xff, 0xff, 0xff, 0xff],
    ];
    for bytes in golden {
        for at in 0..bytes.len().min(120) {
            for length in lengths {
                let changed = [&bytes[..at], length, &bytes[(at + 1).min(bytes.len())..]].concat();
                for (name, decoder) in decoders {
                    decode_within_bounds(name, *decoder, &changed);
                }
            }
        }
    }
}

/// `count` as postcard writes it.
fn varint(mut count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while count >= 0x80 {
        bytes.push(count as u8 | 0x80);
        count >>= 7;
    }
    bytes.push(count as u8);
    bytes
}

/// `head`, a length, and `count` times `item`.
fn sequence(head: &[u8], count: usize, item: &[u8]) -> Vec<u8> {
    [head, &varint(count), &item.repeat(count)].concat()
}

/// Messages as large as they may be, of the smallest items that there are: all are refused, early.
fn amplifiers() -> Vec<(&'static str, Vec<u8>)> {
    const MIB: usize = 1024 * 1024;
    let frame = |kind: u8, body: Vec<u8>| [&[kind][..], &(body.len() as u32).to_be_bytes(), &body].concat();
    vec![
        // Submitted: outcomes *later*, of one byte each.
        ("reply of a peer", sequence(&[1, 1], REPLY_BYTES_MAX - 16, &[3])),
        // Entries without leaf and body, of two bytes each; then hashes of a proof.
        ("reply of a peer", sequence(&[1, 0, 1, 0], REPLY_BYTES_MAX / 2 - 16, &[0, 0])),
        ("reply of a peer", sequence(&[1, 0, 1, 0, 0], REPLY_BYTES_MAX / 33 - 16, &[1; 33])),
        // Receipts: errors of two bytes each.
        ("receipts", sequence(&[1], 6 * MIB, &[1, 4])),
        // Blank entries of one term and leader.
        ("append", sequence(&[1, 7, 2, 1, 0], 3 * MIB, &[7, 2, 1, 0])),
        // A membership of many configurations, and one of many voters.
        ("log entry", sequence(&[1, 7, 2, 1, 2], 8 * MIB - 64, &[0])),
        ("log entry", sequence(&[1, 7, 2, 1, 2, 1], 8 * MIB - 64, &[1])),
        // Wants of four bytes each.
        ("frame to a holder", frame(1, sequence(&[1], MIB / 2, &[0, 0, 0, 1]))),
        // Objects of the smallest UIDs, only declared.
        ("Manifest", sequence(&manifest_head(), 3 * MIB, &[1, b'1', 1, b'1', 1, b'1', 1])),
        ("genesis", sequence(&[1, 0, 0], 12 * MIB, &[0])),
    ]
}

/// The golden manifest up to its objects.
fn manifest_head() -> Vec<u8> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/manifest.hex");
    let bytes = unhex(&std::fs::read_to_string(here).expect("golden"));
    let manifest = formats::Manifest::from_bytes(&bytes).expect("a manifest");
    let empty = formats::Manifest { objects: Vec::new(), ..manifest }.to_bytes();
    empty[..empty.len() - 1].to_vec()
}

#[test]
fn no_bytes_of_a_peer_panic_or_take_more_memory_than_a_small_multiple_of_themselves() {
    let (golden, decoders) = (golden(), decoders());
    // The decoders do decode: each golden value but a few derived ones is some decoder's.
    let read = golden.iter().filter(|bytes| decoders.iter().any(|(_, decoder)| decoder(bytes))).count();
    assert!(read * 10 > golden.len() * 7, "only {read} of {} golden values are read", golden.len());
    mutated_golden_bytes(&golden, &decoders);
    absurd_lengths(&golden, &decoders);
    let by_name: BTreeMap<&str, Decoder> = decoders.iter().copied().collect();
    for (name, bytes) in amplifiers() {
        let accepted = decode_within_bounds(name, by_name[name], &bytes);
        assert!(!accepted, "{name}: {} bytes of the smallest items were accepted", bytes.len());
    }
}
