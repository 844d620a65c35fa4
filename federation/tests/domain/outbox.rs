//! The outbox as a model: enqueued changes, syncs, deliveries, crashes, old copies put back, in any order. In the end
//! everything that was durable is in the ledger once, and no number was ever signed for two contents.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use tessera_consensus::kernel::{Outcome, Rejection};
use tessera_consensus::replica::Replica;
use tessera_consensus::wire::v1::{Leaf, Submission};
use tessera_consensus::{Hash, Lane, LedgerIndex, LedgerSize, Sequence, Stream};
use tessera_federation::machine::rejections::TAG_TAKEN;
use tessera_federation::outbox::{Draft, MATTER_BYTES_MAX, Outbox, OutboxError, Settled};
use tessera_federation::wire::Format;
use tessera_federation::wire::v1::{CONSENT, ConsentPublic, REVOCATION, RevocationPublic, Tag, TagAlgorithm, VERSION};
use tessera_policy::ConsentId;
use tessera_storage::engine::Batch;
use tessera_storage::memory::{MemoryEngine, MemoryImage};

use crate::world::{B, C, World, engine, tables};

fn tag(number: u32) -> Tag {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    Tag::from_parts(TagAlgorithm::KeyedBlake3, bytes)
}

fn consent_id(number: u32) -> ConsentId {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    ConsentId::from_bytes(bytes)
}

/// A consent under a tag and an id of its own.
fn consent(number: u32) -> Draft {
    let public = ConsentPublic { version: VERSION, consent: consent_id(number), tag: tag(number), presence: None };
    let sealed = Some(number.to_be_bytes().to_vec());
    Draft { lane: Lane::Bulk, kind: CONSENT, public: public.to_bytes(), sealed, matter: number.to_be_bytes().to_vec() }
}

fn urgent(number: u32) -> Draft {
    Draft { lane: Lane::Urgent, ..consent(number) }
}

/// One node's disk, its replica and its outbox in their present life, and the core's ledger.
struct Scene {
    world: World,
    core: Replica,
    disk: MemoryEngine,
    replica: Replica,
    outbox: Outbox,
    entropy: u32,
    /// Every submission that ever left the node.
    sent: Vec<Submission>,
    settled: Vec<Settled>,
}

fn scene() -> Scene {
    let world = World::new();
    let core = world.replica(&engine());
    let disk = MemoryEngine::open(&tables()).expect("tables");
    let replica = world.replica(&disk);
    disk.flush_all();
    let outbox = open(&world, &disk, 1);
    Scene { world, core, disk, replica, outbox, entropy: 1, sent: Vec::new(), settled: Vec::new() }
}

fn open(world: &World, disk: &MemoryEngine, entropy: u32) -> Outbox {
    let (federation, node) = (world.federation(), world.node(B));
    Outbox::open(Arc::new(disk.clone()), federation, node, world.command_key(B), entropy).expect("opens")
}

impl Scene {
    fn enqueue(&self, draft: Draft) {
        self.outbox.enqueue(vec![draft], Batch::new()).expect("enqueues");
    }

    /// Takes what is pending as the driver would; the network decides what becomes of it.
    fn hand_out(&mut self, limit: usize) -> Vec<Submission> {
        let mut out = Vec::new();
        for lane in Lane::ALL {
            out.extend(self.outbox.pending(lane, limit).expect("pending"));
        }
        self.sent.extend(out.iter().cloned());
        out
    }

    /// The core takes what it can, as its leader does: in order, refused ones are left out.
    fn deliver(&self, submissions: &[Submission]) {
        for submission in submissions {
            if self.core.check(submission).is_ok() {
                let batch = self.world.batch(&self.core, vec![submission.clone()]);
                self.core.apply_batch(&batch, Batch::new()).expect("applies");
            }
        }
    }

    fn follow(&self) {
        let (from, until) = (self.replica.size(), self.core.size());
        if from < until {
            let entries = self.core.entries(from, until, usize::MAX).expect("entries");
            self.replica.apply_entries(from, &entries).expect("applies");
        }
    }

    fn certify_and_settle(&mut self) {
        self.world.certify(&self.replica);
        loop {
            let settled = self.outbox.settle(&self.replica).expect("settles");
            if settled.is_empty() {
                return;
            }
            self.settled.extend(settled);
        }
    }

    /// A new life of the process on this disk.
    fn live_on(&mut self, disk: MemoryEngine) {
        self.entropy = self.entropy.wrapping_mul(0x9E37_79B1).wrapping_add(12_345);
        self.replica = self.world.replica(&disk);
        self.outbox = open(&self.world, &disk, self.entropy);
        self.disk = disk;
    }

    /// Power cut: `keep` of the unsynced writes survive.
    fn crash(&mut self, keep: usize) {
        let disk = self.disk.crash(keep);
        self.live_on(disk);
    }

    /// Everything flows until nothing is left.
    fn drain(&mut self) {
        for _ in 0..64 {
            self.disk.flush_all();
            self.follow();
            self.certify_and_settle();
            if self.outbox.waiting() == 0 {
                return;
            }
            self.disk.flush_all();
            let out = self.hand_out(16);
            self.deliver(&out);
        }
        panic!("{} commands are left after 64 rounds", self.outbox.waiting());
    }

    /// How often each consent took effect in the core's ledger.
    fn applied(&self) -> BTreeMap<u32, u32> {
        let entries = self.core.entries(LedgerSize(0), self.core.size(), usize::MAX).expect("entries");
        let mut applied = BTreeMap::new();
        for (index, entry) in (0..).map(LedgerIndex).zip(entries) {
            let body = Leaf::from_bytes(&entry.leaf).expect("leaf").command.body;
            let placed = self.core.placed(&body.stream, body.sequence).expect("read");
            let effective = placed.is_some_and(|placed| placed.index == index && placed.outcome == Outcome::Applied);
            if body.kind == CONSENT && effective {
                let public = ConsentPublic::from_bytes(&body.public).expect("consent");
                let [a, b, c, d, ..] = *public.consent.as_bytes();
                *applied.entry(u32::from_be_bytes([a, b, c, d])).or_insert(0) += 1;
            }
        }
        applied
    }

    /// Two contents signed under one number would be evidence against the node.
    fn assert_nobody_is_accused(&self) {
        let mut signed: BTreeMap<(Stream, Sequence), Hash> = BTreeMap::new();
        for submission in &self.sent {
            let body = &submission.command.body;
            let known = signed.entry((body.stream, body.sequence)).or_insert_with(|| submission.command.hash());
            assert_eq!(*known, submission.command.hash(), "two contents under {:?}", (body.stream, body.sequence));
        }
    }

    fn matters(&self) -> Vec<(u32, Result<(), Rejection>)> {
        let number = |matter: &[u8]| u32::from_be_bytes(matter.try_into().expect("four bytes"));
        self.settled.iter().map(|settled| (number(&settled.matter), settled.outcome)).collect()
    }
}

#[test]
fn a_command_waits_for_the_disk_then_for_the_certificate() {
    let mut scene = scene();
    scene.disk.flush_all();
    scene.enqueue(consent(1));
    scene.enqueue(urgent(2));
    assert!(scene.hand_out(9).is_empty(), "nothing leaves before it is durable");
    scene.disk.flush_all();
    let out = scene.hand_out(9);
    let lanes: Vec<Lane> = out.iter().map(|submission| submission.command.body.stream.lane).collect();
    assert_eq!(lanes, [Lane::Urgent, Lane::Bulk]);
    assert!(out.iter().all(|submission| submission.command.body.sequence == Sequence(0)));

    scene.deliver(&out);
    scene.follow();
    scene.outbox.settle(&scene.replica).expect("settles");
    assert_eq!(scene.outbox.waiting(), 2, "applied is not certified");
    assert!(scene.hand_out(9).is_empty(), "what the ledger holds is not sent again");
    scene.certify_and_settle();
    assert_eq!((scene.outbox.waiting(), scene.matters()), (0, vec![(2, Ok(())), (1, Ok(()))]));
}

#[test]
fn a_rejection_comes_back_with_its_reason_and_matter() {
    let mut scene = scene();
    // Another node took the tag.
    let ConsentPublic { tag, .. } = ConsentPublic::from_bytes(&consent(1).public).expect("consent");
    let other = ConsentPublic { version: VERSION, consent: consent_id(99), tag, presence: None };
    scene.world.apply(&scene.core, C, CONSENT, other.to_bytes(), Some(vec![1]));
    scene.enqueue(consent(1));
    scene.enqueue(consent(2));
    scene.drain();
    assert_eq!(scene.matters(), [(1, Err(TAG_TAKEN)), (2, Ok(()))]);
}

#[test]
fn what_was_told_is_told_again_until_the_caller_came_back() {
    let mut scene = scene();
    scene.world.apply(
        &scene.core,
        C,
        CONSENT,
        ConsentPublic { version: VERSION, consent: consent_id(99), tag: tag(1), presence: None }.to_bytes(),
        Some(vec![1]),
    );
    scene.enqueue(consent(1));
    scene.disk.flush_all();
    let out = scene.hand_out(9);
    scene.deliver(&out);
    scene.follow();
    scene.world.certify(&scene.replica);
    let settle = |scene: &Scene| scene.outbox.settle(&scene.replica).expect("settles").len();
    assert_eq!((settle(&scene), scene.outbox.waiting()), (1, 0));
    // The process dies before the caller could act on the rejection.
    let keep = scene.disk.unsynced();
    scene.crash(keep);
    assert_eq!(scene.outbox.waiting(), 1);
    scene.drain();
    assert_eq!(scene.matters(), [(1, Err(TAG_TAKEN))]);
    assert!(waiting(&scene).is_empty());
}

#[test]
fn what_cannot_be_sent_or_kept_is_refused_when_it_comes() {
    let scene = scene();
    let refused = |draft: Draft| match scene.outbox.enqueue(vec![draft], Batch::new()) {
        Err(OutboxError::TooLong { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(Draft { public: vec![0; 32 * 1024 + 1], ..consent(1) }), "the public part");
    assert_eq!(refused(Draft { sealed: Some(vec![0; 1024 * 1024 + 1]), ..consent(1) }), "the sealed body");
    assert_eq!(refused(Draft { matter: vec![0; MATTER_BYTES_MAX + 1], ..consent(1) }), "the matter");
    assert_eq!(scene.outbox.waiting(), 0);
}

#[test]
fn the_change_and_its_command_are_one_write() {
    let mut scene = scene();
    scene.disk.flush_all();
    let mut change = Batch::new();
    change.put(tessera_federation::outbox::OUTBOX, *b"the caller's own", *b"change");
    scene.outbox.enqueue(vec![consent(1), consent(2)], change).expect("enqueues");
    let caller = |scene: &Scene| {
        use tessera_storage::engine::View;
        scene.disk.get(tessera_federation::outbox::OUTBOX, b"the caller's own").expect("read").is_some()
    };
    assert!(caller(&scene));
    scene.crash(0);
    assert_eq!((caller(&scene), scene.outbox.waiting()), (false, 0));
}

#[test]
fn a_restart_repeats_what_was_on_its_way_and_nothing_takes_effect_twice() {
    for delivered_before in [true, false] {
        let mut scene = scene();
        scene.enqueue(consent(1));
        scene.enqueue(consent(2));
        scene.disk.flush_all();
        let on_its_way = scene.hand_out(9);
        if delivered_before {
            scene.deliver(&on_its_way);
        }
        scene.crash(0);
        scene.disk.flush_all();
        let again = scene.hand_out(9);
        assert_eq!(again.len(), 2);
        assert!(again[0].command.body.stream.incarnation > on_its_way[0].command.body.stream.incarnation);
        scene.deliver(&again);
        // What the network held back arrives last.
        scene.deliver(&on_its_way);
        scene.drain();
        assert_eq!(scene.applied(), BTreeMap::from([(1, 1), (2, 1)]));
        assert_eq!(scene.matters(), [(1, Ok(())), (2, Ok(()))], "a repeat is no rejection");
        scene.assert_nobody_is_accused();
    }
}

#[test]
fn an_old_copy_put_back_loses_nothing_repeats_nothing_and_accuses_nobody() {
    let mut scene = scene();
    scene.enqueue(consent(1));
    scene.disk.flush_all();
    let copy = scene.disk.image();
    // The first life goes on: settles 1, registers 2 and 3; 3 is still on its way when the copy is put back.
    scene.drain();
    scene.enqueue(consent(2));
    scene.drain();
    scene.enqueue(consent(3));
    scene.disk.flush_all();
    let on_its_way = scene.hand_out(9);

    scene.live_on(MemoryEngine::restore(&copy));
    scene.enqueue(consent(4));
    scene.disk.flush_all();
    // It sends before it has caught up, under numbers that its former life did not use.
    let eager = scene.hand_out(9);
    scene.deliver(&eager);
    scene.deliver(&on_its_way);
    scene.drain();
    let once = |numbers: &[u32]| numbers.iter().map(|number| (*number, 1)).collect::<BTreeMap<u32, u32>>();
    let applied = scene.applied();
    assert!(applied == once(&[1, 2, 4]) || applied == once(&[1, 2, 3, 4]), "{applied:?}");
    assert!(scene.matters().iter().all(|(_, outcome)| outcome.is_ok()), "{:?}", scene.matters());
    scene.assert_nobody_is_accused();
}

#[test]
fn a_restored_node_that_catches_up_first_sends_nothing_that_is_in_the_ledger() {
    let mut scene = scene();
    scene.enqueue(consent(1));
    scene.enqueue(consent(2));
    scene.disk.flush_all();
    let copy = scene.disk.image();
    scene.drain();
    scene.live_on(MemoryEngine::restore(&copy));
    scene.follow();
    scene.certify_and_settle();
    assert_eq!(scene.outbox.waiting(), 0);
    scene.enqueue(consent(3));
    scene.disk.flush_all();
    let out = scene.hand_out(9);
    assert_eq!((out.len(), out[0].command.body.sequence), (1, Sequence(0)), "numbers begin without a gap");
    scene.deliver(&out);
    scene.drain();
    assert_eq!(scene.applied(), BTreeMap::from([(1, 1), (2, 1), (3, 1)]));
    assert_eq!(scene.core.size(), LedgerSize(3));
}

#[test]
fn repeats_of_other_kinds_are_known_too() {
    let mut scene = scene();
    let public = RevocationPublic { version: VERSION, consent: consent_id(1) }.to_bytes();
    let matter = 7u32.to_be_bytes().to_vec();
    scene.enqueue(consent(1));
    scene.drain();
    scene.enqueue(Draft { lane: Lane::Urgent, kind: REVOCATION, public, sealed: None, matter });
    scene.disk.flush_all();
    let first = scene.hand_out(9);
    scene.deliver(&first);
    scene.crash(0);
    scene.disk.flush_all();
    let again = scene.hand_out(9);
    scene.deliver(&again);
    scene.drain();
    assert_eq!(scene.matters(), [(1, Ok(())), (7, Ok(()))]);
}

/// One step of the model.
#[derive(Clone, Debug)]
enum Step {
    Enqueue {
        urgent: bool,
    },
    Flush(usize),
    Send {
        limit: usize,
    },
    SendAndLose {
        limit: usize,
    },
    /// Delivers again something that was sent at any time before, perhaps in a former life.
    Late(prop::sample::Index),
    Follow,
    CertifyAndSettle,
    Crash {
        keep: usize,
    },
    Copy,
    PutBack,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => any::<bool>().prop_map(|urgent| Step::Enqueue { urgent }),
        3 => (1usize..8).prop_map(Step::Flush),
        3 => (1usize..4).prop_map(|limit| Step::Send { limit }),
        1 => (1usize..4).prop_map(|limit| Step::SendAndLose { limit }),
        2 => any::<prop::sample::Index>().prop_map(Step::Late),
        2 => Just(Step::Follow),
        2 => Just(Step::CertifyAndSettle),
        1 => (0usize..4).prop_map(|keep| Step::Crash { keep }),
        1 => Just(Step::Copy),
        1 => Just(Step::PutBack),
    ];
    prop::collection::vec(step, 1..48)
}

struct Model {
    scene: Scene,
    next: u32,
    /// What the caller's catalogue on this disk knows to have enqueued; it lives and dies with the disk.
    written: Vec<u32>,
    copy: Option<(MemoryImage, Vec<u32>)>,
}

impl Model {
    fn run(steps: Vec<Step>) {
        let mut model = Model { scene: scene(), next: 1, written: Vec::new(), copy: None };
        model.scene.disk.flush_all();
        for step in steps {
            model.step(step);
            model.scene.assert_nobody_is_accused();
        }
        model.finish();
    }

    fn step(&mut self, step: Step) {
        let scene = &mut self.scene;
        match step {
            Step::Enqueue { urgent: in_front } => {
                let draft = if in_front { urgent(self.next) } else { consent(self.next) };
                scene.enqueue(draft);
                self.written.push(self.next);
                self.next += 1;
            }
            Step::Flush(count) => drop(scene.disk.flush_next(count)),
            Step::Send { limit } => {
                let out = scene.hand_out(limit);
                scene.deliver(&out);
            }
            Step::SendAndLose { limit } => drop(scene.hand_out(limit)),
            Step::Late(index) => {
                if !scene.sent.is_empty() {
                    let late = scene.sent[index.index(scene.sent.len())].clone();
                    scene.deliver(&[late]);
                }
            }
            Step::Follow => scene.follow(),
            Step::CertifyAndSettle => scene.certify_and_settle(),
            Step::Crash { keep } => {
                scene.crash(keep);
                self.forget_what_the_disk_lost();
            }
            Step::Copy => {
                scene.disk.flush_all();
                self.copy = Some((scene.disk.image(), self.written.clone()));
            }
            Step::PutBack => {
                if let Some((image, written)) = self.copy.clone() {
                    scene.live_on(MemoryEngine::restore(&image));
                    self.written = written;
                }
            }
        }
    }

    /// After a crash the disk holds a prefix of what was written: what is neither waiting nor in the ledger nor told
    /// was lost before it was durable, and the caller's change with it.
    fn forget_what_the_disk_lost(&mut self) {
        let scene = &self.scene;
        let waiting = waiting(scene);
        let told: BTreeSet<u32> = scene.matters().iter().map(|(number, _)| *number).collect();
        self.written.retain(|number| waiting.contains(number) || told.contains(number));
    }

    fn finish(mut self) {
        self.scene.disk.flush_all();
        let owed = waiting(&self.scene);
        self.scene.drain();
        self.scene.assert_nobody_is_accused();
        let applied = self.scene.applied();
        let twice: Vec<_> = applied.iter().filter(|(_, times)| **times > 1).collect();
        assert!(twice.is_empty(), "applied twice: {twice:?}");
        for number in owed.iter().chain(&self.written) {
            assert_eq!(applied.get(number), Some(&1), "{number} is lost");
        }
        let wrongly: Vec<_> = self.scene.matters().into_iter().filter(|(_, outcome)| outcome.is_err()).collect();
        assert!(wrongly.is_empty(), "told as rejected: {wrongly:?}");
    }
}

/// The numbers that lie in the outbox, read from its table without handing anything out.
fn waiting(scene: &Scene) -> BTreeSet<u32> {
    use tessera_storage::engine::View;
    let pairs = scene.disk.scan(tessera_federation::outbox::OUTBOX, &[], None, usize::MAX).expect("scan");
    // The matter stands last in a stored command: four bytes behind their length.
    let command = |key: &[u8]| key.len() == 32 + 1 + 1 + 8;
    let number = |value: &[u8]| value[value.len() - 4..].try_into().map(u32::from_be_bytes).expect("four bytes");
    pairs.iter().filter(|(key, _)| command(key)).map(|(_, value)| number(value)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn everything_arrives_once_whatever_happens(steps in steps()) {
        Model::run(steps);
    }
}
