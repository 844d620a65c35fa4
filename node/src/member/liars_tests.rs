//! A member in good standing that lies to a follower, over real libp2p: each lie is refused, named with its teller where
//! the operator looks, and costs nothing but one answer: what the follower had stays, and an honest member brings the
//! rest in the same run.
//!
//! The follower is this program's own, with its network; the liar and the honest member are the network alone, answering
//! from a real replica, the liar after changing something.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tessera_consensus::UnixMillis;
use tessera_consensus::follow::{self, FollowReply, FollowRequest, Input};
use tessera_consensus::keys::{KeyAlgorithm, Signature};
use tessera_consensus::replica::LedgerEntry;
use tessera_consensus::wire::v1::Leaf;
use tessera_consensus::{Hash, LedgerSize};
use tessera_federation::net::{Net, NetConfig, NetEvent, NetHandle, Peer, PeerReply, PeerRequest, SubmitOutcome};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::consent::{DAY_MS, granting};
use super::following::{INPUTS_MAX, follow};
use super::testing::{A, B, C, NAMES, REGULATOR, World, patient};
use super::{Member, locked};
use crate::archive::ingest::now_ms;

/// Long enough for a busy machine; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);
const LIAR: usize = A;
const HONEST: usize = C;
const VICTIM: usize = B;

/// Changes an answer. Bytes that are no answer at all are tried where bytes are made, in the federation's own tests.
type Lie = fn(&Trial, &FollowRequest, FollowReply) -> PeerReply;

struct Trial {
    world: World,
    listening: String,
    /// Where the network's inputs go: to the follower of the present case.
    follower: Arc<Mutex<Option<mpsc::Sender<Input>>>>,
    patients: Mutex<u32>,
    /// A certified checkpoint of long ago.
    old: Mutex<String>,
    /// Answers that were given in the present case.
    answered: AtomicU32,
}

/// A member of which only the network runs, for as long as this lives.
struct Answering {
    _net: NetHandle,
    _answers: JoinHandle<()>,
}

impl Drop for Answering {
    fn drop(&mut self) {
        self._answers.abort();
    }
}

async fn until(what: &str, mut seen: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !seen() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Trial {
    async fn begin() -> Arc<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
        let listening = format!("/ip4/127.0.0.1/tcp/{port}");
        let world = World::found_listening(VICTIM, std::slice::from_ref(&listening)).await;
        let (inputs, mut received) = mpsc::channel(INPUTS_MAX);
        super::peers::start(&world.members[VICTIM], inputs).await.expect("the network starts");
        let follower: Arc<Mutex<Option<mpsc::Sender<Input>>>> = Arc::default();
        let current = follower.clone();
        tokio::spawn(async move {
            while let Some(input) = received.recv().await {
                let to = locked(&current).clone();
                if let Some(to) = to {
                    let gone = to.send(input).await.is_err();
                    tracing::trace!(gone, "to a follower that has ended");
                }
            }
        });
        Arc::new(Self {
            world,
            listening,
            follower,
            patients: Mutex::new(0),
            old: Mutex::default(),
            answered: AtomicU32::new(0),
        })
    }

    fn victim(&self) -> &Arc<Member> {
        &self.world.members[VICTIM]
    }

    /// Some consents, with sealed bodies, that all but the victim have.
    async fn grow(&self) {
        for _ in 0..3 {
            let number = {
                let mut patients = locked(&self.patients);
                *patients += 1;
                *patients
            };
            let member = &self.world.members[LIAR];
            let end = UnixMillis(now_ms()).plus_ms(DAY_MS);
            let terms = granting(member, NAMES[VICTIM], "treatment", end).expect("terms");
            member.record_consent(patient(number), terms, None).await.expect("a consent");
        }
        self.world.commit_among(&[A, C, REGULATOR]).await;
    }

    /// A new follower at the victim, which knows nothing of earlier cases.
    fn start_follower(&self) -> JoinHandle<()> {
        let (inputs, receiver) = mpsc::channel(INPUTS_MAX);
        *locked(&self.follower) = Some(inputs.clone());
        *locked(&self.victim().suspicions) = Default::default();
        self.answered.store(0, Ordering::SeqCst);
        let following = follow(self.victim().clone(), inputs, receiver);
        tokio::spawn(async move { following.await.expect("the follower goes on") })
    }

    async fn net(&self, who: usize) -> (NetHandle, mpsc::Receiver<NetEvent>) {
        let member = &self.world.members[who];
        let config = NetConfig {
            federation: member.replica.federation(),
            node: member.node,
            transport_seed: member.secrets.transport.seed(),
            listen: Vec::new(),
            extra_addresses: Default::default(),
        };
        let (net, events) = Net::start(config).await.expect("loopback is there");
        let transport = self.victim().secrets.transport.public();
        let peer = Peer { transport, addresses: vec![self.listening.clone()] };
        net.set_members([(self.victim().node, peer)].into()).await.expect("the network runs");
        (net, events)
    }

    /// Answers the victim's questions from `who`'s replica, through `lie`.
    async fn answering(self: &Arc<Self>, who: usize, lie: Lie) -> Answering {
        let (net, mut events) = self.net(who).await;
        let this = self.clone();
        let answers = tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                if let NetEvent::Request { request, reply, .. } = event
                    && let PeerRequest::Follow(request) = *request
                {
                    let honest = follow::serve(&this.world.members[who].replica, &request).expect("served");
                    reply.send(lie(&this, &request, honest)).await;
                    this.answered.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        Answering { _net: net, _answers: answers }
    }

    fn names(&self, expected: &str) -> bool {
        let sentences = self.victim().suspicion_sentences();
        sentences.iter().any(|sentence| sentence.starts_with(NAMES[LIAR]) && sentence.contains(expected))
    }

    async fn is_named(&self, expected: &str) {
        let begun = Instant::now();
        while !self.names(expected) {
            let said = self.victim().suspicion_sentences();
            assert!(begun.elapsed() < PATIENCE, "{expected:?} was not said of the liar: {said:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn has_all(&self) -> bool {
        let state = |who: usize| self.world.members[who].replica.checkpoint().expect("a state");
        state(VICTIM) == state(HONEST)
    }

    /// The liar alone is there and is found out; nothing is lost or taken; then an honest member brings everything.
    async fn case(self: &Arc<Self>, expected: &str, lie: Lie) {
        self.grow().await;
        let (before, certified) = (self.victim().replica.size(), self.victim().replica.certificate());
        let follower = self.start_follower();
        let liar = self.answering(LIAR, lie).await;
        self.is_named(expected).await;
        assert_eq!(self.victim().replica.size(), before, "{expected}: something was applied");
        assert_eq!(self.victim().replica.certificate(), certified, "{expected}: something was believed");
        let honest = self.answering(HONEST, honestly).await;
        until("the rest to come from the honest member", || self.has_all()).await;
        let status = self.victim().suspicion_sentences();
        let only_the_liar = status.iter().all(|sentence| sentence.starts_with(NAMES[LIAR]));
        assert!(only_the_liar, "an honest member is accused: {status:?}");
        drop((liar, honest));
        follower.abort();
        until("both to be gone", || self.victim().peers().expect("started").connected().is_empty()).await;
    }
}

fn honestly(_: &Trial, _: &FollowRequest, reply: FollowReply) -> PeerReply {
    PeerReply::Follow(reply)
}

/// Changes the entries of an answer, and leaves checkpoints as they are.
fn on_entries(reply: FollowReply, change: impl FnOnce(&mut LedgerSize, &mut Vec<LedgerEntry>)) -> PeerReply {
    PeerReply::Follow(match reply {
        FollowReply::Entries { mut from, mut entries, proof } => {
            change(&mut from, &mut entries);
            FollowReply::Entries { from, entries, proof }
        }
        other => other,
    })
}

/// Changes one field of the second entry, in its leaf's own encoding.
fn on_leaf(reply: FollowReply, change: impl FnOnce(&mut Leaf)) -> PeerReply {
    on_entries(reply, |_, entries| {
        let mut leaf = Leaf::from_bytes(&entries[1].leaf).expect("a leaf");
        change(&mut leaf);
        entries[1].leaf = leaf.to_bytes();
    })
}

/// Another note in place of the newest checkpoint's.
fn on_note(reply: FollowReply, change: impl FnOnce(&str) -> String) -> PeerReply {
    PeerReply::Follow(match reply {
        FollowReply::Checkpoint { note: Some(note) } => FollowReply::Checkpoint { note: Some(change(&note)) },
        other => other,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_lie_in_an_entry_is_named_and_the_honest_member_brings_the_right_one() {
    // Names the range; which entry it was is told once the right ones have come.
    const RANGE: &str = "are not those of the certified ledger";
    let cases: [(&str, Lie); 13] = [
        (RANGE, |_, _, reply| on_leaf(reply, |leaf| leaf.command.body.public[3] ^= 1)),
        (RANGE, |_, _, reply| {
            on_leaf(reply, |leaf| {
                let mut signature = *leaf.command.signature.as_bytes();
                signature[9] ^= 1;
                leaf.command.signature = Signature::from_parts(KeyAlgorithm::Ed25519, signature);
            })
        }),
        (RANGE, |_, _, reply| on_leaf(reply, |leaf| leaf.command.body.sequence.0 += 1)),
        (RANGE, |_, _, reply| {
            on_leaf(reply, |leaf| leaf.command.body.stream.node = tessera_consensus::NodeId::new(Hash::blake3(&[b"x"])))
        }),
        (RANGE, |_, _, reply| on_leaf(reply, |leaf| leaf.time = leaf.time.plus_ms(1))),
        (RANGE, |_, _, reply| on_entries(reply, |_, entries| entries.swap(0, 1))),
        (RANGE, |_, _, reply| on_entries(reply, |_, entries| drop(entries.remove(1)))),
        ("the sealed body of entry", |_, _, reply| {
            on_entries(reply, |_, entries| entries[1].sealed.as_mut().expect("a body")[5] ^= 1)
        }),
        ("the sealed body of entry", |_, _, reply| on_entries(reply, |_, entries| entries[1].sealed = None)),
        ("is no leaf of a ledger", |_, _, reply| on_entries(reply, |_, entries| entries[1].leaf.truncate(40))),
        ("asked were those from", |_, _, reply| on_entries(reply, |from, _| from.0 += 1)),
        ("more than the", |_, _, reply| {
            on_entries(reply, |_, entries| {
                let again = entries.clone();
                entries.extend(again);
            })
        }),
        ("answered another question", |_, request, reply| match request {
            FollowRequest::Checkpoint => PeerReply::Follow(reply),
            FollowRequest::Entries { .. } => PeerReply::Submitted(vec![SubmitOutcome::Later]),
        }),
    ];
    let trial = Trial::begin().await;
    for (number, (expected, lie)) in cases.into_iter().enumerate() {
        let first = trial.victim().replica.size().0;
        trial.case(expected, lie).await;
        let located = format!("entry {} of an answer that was refused", first + u64::from(number != 5));
        if expected == RANGE {
            trial.is_named(&located).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_byte_in_the_proof_of_a_part_of_the_entries_is_named() {
    // The first entry alone, with the proof that it leads to the certified ledger, and a byte of that.
    let lie: Lie = |trial, request, reply| match (request, reply) {
        (FollowRequest::Entries { target, .. }, FollowReply::Entries { from, mut entries, .. }) => {
            entries.truncate(1);
            let replica = &trial.world.members[LIAR].replica;
            let mut proof = replica.consistency_proof(LedgerSize(from.0 + 1), *target).expect("a proof");
            let mut bytes = *proof[0].as_bytes();
            bytes[31] ^= 1;
            proof[0] = Hash::from_parts(proof[0].algorithm(), bytes);
            PeerReply::Follow(FollowReply::Entries { from, entries, proof })
        }
        (_, reply) => PeerReply::Follow(reply),
    };
    let trial = Trial::begin().await;
    let first = trial.victim().replica.size().0;
    trial.case(&format!("the entries {first} to {first}, or their proof,"), lie).await;
    trial.is_named(&format!("the proof that came with the entries {first} to {first} was wrong")).await;
}

/// The newest checkpoint of the liar's ledger as these nodes would sign it.
fn signed(trial: &Trial, signers: &[usize]) -> String {
    trial.world.signed(&trial.world.members[LIAR], signers).to_note()
}

/// One character of the first signature, well behind key id and time.
fn other_signature(note: &str) -> String {
    let place = note.rfind("hospital-a ").expect("a signature of Hospital A") + 50;
    let other = if note.as_bytes()[place] == b'A' { "B" } else { "A" };
    [&note[..place], other, &note[place + 1..]].concat()
}

/// The second line of a note is the ledger's size.
fn other_size(note: &str, by: i64) -> String {
    let mut lines: Vec<String> = note.split('\n').map(str::to_owned).collect();
    let size: i64 = lines[1].parse().expect("a size");
    lines[1] = (size + by).to_string();
    lines.join("\n")
}

/// The first signature a second time.
fn signed_twice(note: &str) -> String {
    let line = note.lines().find(|line| line.starts_with('\u{2014}')).expect("a signature");
    note.replacen(line, &format!("{line}\n{line}"), 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_forged_checkpoint_is_named_and_a_certified_one_is_believed() {
    let cases: [(&str, Lie); 9] = [
        ("the cosignature of hospital-a does not belong to this checkpoint", |_, _, reply| {
            on_note(reply, other_signature)
        }),
        ("the cosignature of hospital-a does not belong to this checkpoint", |_, _, reply| {
            on_note(reply, |note| other_size(note, 1))
        }),
        ("the cosignature of hospital-a does not belong to this checkpoint", |_, _, reply| {
            on_note(reply, |note| other_size(note, -1))
        }),
        ("1 members of the core signed, 2 are needed", |trial, _, reply| on_note(reply, |_| signed(trial, &[A]))),
        // Witnesses sign too, and do not count.
        ("1 members of the core signed, 2 are needed", |trial, _, reply| {
            on_note(reply, |_| signed(trial, &[C, REGULATOR]))
        }),
        ("hospital-a signs twice", |_, _, reply| on_note(reply, signed_twice)),
        ("the checkpoint is of", |trial, _, reply| {
            let federation = trial.world.members[LIAR].replica.federation().to_string();
            let digits = federation.rsplit(':').next().expect("digits").to_owned();
            on_note(reply, |note| {
                note.replacen(&digits[..8], if &digits[..8] == "00000000" { "11111111" } else { "00000000" }, 1)
            })
        }),
        ("a checkpoint has five lines", |_, _, reply| on_note(reply, |_| "lies\n\nlies\n".into())),
        ("a note is a text", |_, _, reply| on_note(reply, |note| note.lines().take(5).collect())),
    ];
    let trial = Trial::begin().await;
    for (expected, lie) in cases {
        trial.case(expected, lie).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_behind_or_at_another_epoch_is_not_accused() {
    let trial = Trial::begin().await;
    let old = trial.victim().replica.certificate().expect("certified").signed().to_note();
    let cases: [Lie; 4] = [
        // An older certificate, as one who has not heard of the newer has it.
        |trial, _, reply| on_note(reply, |_| locked(&trial.old).clone()),
        |_, _, reply| on_note(reply, |note| note.replacen("\nepoch 0\n", "\nepoch 1\n", 1)),
        |_, _, reply| on_entries(reply, |_, entries| entries.clear()),
        |_, request, reply| match request {
            FollowRequest::Checkpoint => PeerReply::Follow(FollowReply::Checkpoint { note: None }),
            FollowRequest::Entries { .. } => PeerReply::Follow(reply),
        },
    ];
    *locked(&trial.old) = old;
    for lie in cases {
        trial.grow().await;
        let follower = trial.start_follower();
        let laggard = trial.answering(LIAR, lie).await;
        until("the laggard's answer", || trial.answered.load(Ordering::SeqCst) > 0).await;
        let honest = trial.answering(HONEST, honestly).await;
        until("the rest to come", || trial.has_all()).await;
        assert_eq!(trial.victim().suspicion_sentences(), [""; 0]);
        drop((laggard, honest));
        follower.abort();
        until("both to be gone", || trial.victim().peers().expect("started").connected().is_empty()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gossiped_lies_are_named_and_what_follows_them_is_believed() {
    let trial = Trial::begin().await;
    type Lie = fn(&str, u32) -> Vec<u8>;
    let cases: [(&str, Lie); 4] = [
        ("gossip: checkpoint: a note is a text", |_, round| [&[0xff, 0xfe][..], &round.to_be_bytes()].concat()),
        ("gossip: checkpoint: a note is a text", |_, round| format!("no checkpoint {round}").into_bytes()),
        ("gossip: checkpoint: a cosignature that claims", |note, round| {
            other_size(note, 1 + i64::from(round)).into_bytes()
        }),
        ("gossip: a checkpoint note of", |_, round| vec![b'a' + (round % 26) as u8; 100 * 1024]),
    ];
    for (expected, lie) in cases {
        trial.grow().await;
        let follower = trial.start_follower();
        let (net, _events) = trial.net(LIAR).await;
        let certificate = trial.world.members[LIAR].replica.certificate().expect("certified");
        let note = certificate.signed().to_note();
        // Who is subscribed is known only a while after the connection; until then what is published is lost.
        let begun = Instant::now();
        for round in 0.. {
            net.publish(lie(&note, round)).await.expect("the network runs");
            tokio::time::sleep(Duration::from_millis(50)).await;
            if trial.names(expected) {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "{expected}: {:?}", trial.victim().suspicion_sentences());
        }
        // More than a message may have is not sent on by the network at all, and the true one still comes through.
        assert!(net.publish(vec![0; 200 * 1024]).await.is_err());
        net.publish(note.into_bytes()).await.expect("the network runs");
        let honest = trial.answering(HONEST, honestly).await;
        until("the rest to come", || trial.has_all()).await;
        drop((net, honest));
        follower.abort();
        until("both to be gone", || trial.victim().peers().expect("started").connected().is_empty()).await;
    }
}
