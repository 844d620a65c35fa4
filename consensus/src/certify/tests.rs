//! The certifier step by step. The model with loss, reordering, crashes and a liar is in `model.rs`.

use super::*;
use crate::checkpoint::{CoreMember, SignedCheckpoint, cosign};

mod model;

const START: UnixMillis = UnixMillis(1_700_000_000_000);

fn federation() -> FederationId {
    FederationId::new(Hash::blake3(&[b"federation"]))
}

fn node(member: usize) -> NodeId {
    NodeId::new(Hash::blake3(&[&[member as u8]]))
}

fn key(member: usize) -> SigningKey {
    SigningKey::from_seed([member as u8 + 1; 32])
}

fn name(member: usize) -> SignerName {
    format!("h{member}.example").parse().unwrap()
}

fn core_of(epoch: u32, members: &[usize]) -> Core {
    let member = |m: &usize| CoreMember { node: node(*m), name: name(*m), checkpoint_key: key(*m).public() };
    Core::new(Epoch(epoch), members.iter().map(member).collect()).unwrap()
}

fn identity(member: usize) -> Identity {
    Identity { node: node(member), federation: federation(), name: name(member), checkpoint_key: key(member) }
}

fn certifier(member: usize, guard: SigningGuard) -> Certifier {
    Certifier::new(identity(member), guard, None, START)
}

fn end(size: u64) -> BatchEnd {
    let bytes = size.to_be_bytes();
    BatchEnd { size: LedgerSize(size), root: Hash::sha256(&[&bytes]), digest: Hash::blake3(&[&bytes]), epoch: Epoch(1) }
}

fn checkpoint(end: BatchEnd) -> Checkpoint {
    Checkpoint { federation: federation(), size: end.size, root: end.root, digest: end.digest, epoch: end.epoch }
}

fn at(ms: u64) -> UnixMillis {
    START.plus_ms(ms)
}

/// One certifier with its cores and an honest disk.
struct Bench {
    certifier: Certifier,
    cores: Vec<Core>,
}

impl Bench {
    fn new(member: usize, cores: Vec<Core>) -> Self {
        Self { certifier: certifier(member, SigningGuard::new()), cores }
    }

    fn of_four(member: usize) -> Self {
        Self::new(member, vec![core_of(1, &[0, 1, 2, 3])])
    }

    fn step(&mut self, ms: u64, input: Input) -> Vec<Output> {
        self.step_at(Clocks { wall: at(ms), boot_ms: ms }, input)
    }

    fn step_at(&mut self, clocks: Clocks, input: Input) -> Vec<Output> {
        self.certifier.step(clocks, input, View { cores: &self.cores })
    }

    /// Makes every record durable at once; returns the other outputs.
    fn run(&mut self, ms: u64, input: Input) -> Vec<Output> {
        let mut rest = Vec::new();
        let mut outputs = self.step(ms, input);
        loop {
            let mut guards = Vec::new();
            for output in outputs {
                match output {
                    Output::PersistGuard { guard } => guards.push(guard),
                    other => rest.push(other),
                }
            }
            let Some(guard) = guards.pop() else { return rest };
            outputs = self.step(ms, Input::GuardDurable { guard });
        }
    }

    fn lead(mut self) -> Self {
        let leader = Some(self.certifier.node);
        assert_eq!(self.run(0, Input::LeaderChanged { leader }), []);
        self
    }

    fn follow(mut self, leader: usize) -> Self {
        assert_eq!(self.run(0, Input::LeaderChanged { leader: Some(node(leader)) }), []);
        self
    }

    fn ask(&mut self, ms: u64, from: usize, checkpoint: Checkpoint) -> Vec<Output> {
        self.run(ms, Input::CosignRequest { from: node(from), checkpoint, asked_at: at(ms) })
    }

    fn reply(&mut self, ms: u64, from: usize, checkpoint: Checkpoint, result: CosignResult) -> Vec<Output> {
        self.run(ms, Input::CosignReply { from: node(from), checkpoint, result })
    }

    /// `from` signs honestly, dated now.
    fn signed(&mut self, ms: u64, from: usize, checkpoint: Checkpoint) -> Vec<Output> {
        let signed = cosign(&checkpoint, &name(from), &key(from), at(ms).seconds());
        self.reply(ms, from, checkpoint, CosignResult::Signed(signed))
    }
}

fn requested(outputs: &[Output]) -> Vec<(NodeId, LedgerSize)> {
    let request = |output: &Output| match output {
        Output::SendRequest { to, checkpoint, .. } => Some((*to, checkpoint.size)),
        _ => None,
    };
    outputs.iter().filter_map(request).collect()
}

fn requests_for(members: &[usize], size: u64) -> Vec<(NodeId, LedgerSize)> {
    members.iter().map(|m| (node(*m), LedgerSize(size))).collect()
}

/// The answers that this step sends.
fn answers(outputs: Vec<Output>) -> Vec<Output> {
    outputs.into_iter().filter(|output| matches!(output, Output::SendReply { .. })).collect()
}

fn certified(outputs: &[Output]) -> Vec<u64> {
    let size = |output: &Output| match output {
        Output::Certified(certificate) => Some(certificate.checkpoint().size.0),
        _ => None,
    };
    outputs.iter().filter_map(size).collect()
}

fn refused(to: usize, checkpoint: Checkpoint, refusal: CosignRefusal) -> Vec<Output> {
    vec![Output::SendReply { to: node(to), checkpoint, result: CosignResult::Refused(refusal) }]
}

fn certificate(core: &Core, signers: &[usize], checkpoint: Checkpoint, time_seconds: u64) -> Certificate {
    let signatures = signers.iter().map(|m| cosign(&checkpoint, &name(*m), &key(*m), time_seconds)).collect();
    SignedCheckpoint::new(checkpoint, signatures).unwrap().verify(core, federation()).unwrap()
}

#[test]
fn a_core_of_one_certifies_at_once_but_not_before_the_record_is_durable() {
    let mut bench = Bench::new(0, vec![core_of(1, &[0])]).lead();
    let outputs = bench.step(0, Input::Applied(end(1)));
    let [Output::PersistGuard { guard }] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!(guard.last(), Some(&(checkpoint(end(1)), START.seconds())));
    assert_eq!(bench.step(50, Input::Tick), [], "nothing leaves while the record is on its way");
    let another = SigningGuard::new().may_sign(&checkpoint(end(2)), START.seconds()).unwrap();
    assert_eq!(bench.step(60, Input::GuardDurable { guard: another }), [], "nor with another record");
    assert_eq!(certified(&bench.step(70, Input::GuardDurable { guard: guard.clone() })), [1]);
    assert_eq!(bench.certifier.certified().unwrap().checkpoint(), &checkpoint(end(1)));
}

#[test]
fn the_leader_proposes_at_its_pace_and_keeps_an_idle_ledger_fresh() {
    let mut bench = Bench::new(0, vec![core_of(1, &[0])]).lead();
    assert_eq!(certified(&bench.run(0, Input::Applied(end(1)))), [1]);
    assert!(certified(&bench.run(40, Input::Applied(end(2)))).is_empty());
    assert!(certified(&bench.run(99, Input::Applied(end(3)))).is_empty());
    assert_eq!(certified(&bench.run(100, Input::Tick)), [3], "sizes in between are passed over");
    assert!(certified(&bench.run(3_099, Input::Tick)).is_empty());
    assert_eq!(certified(&bench.run(3_100, Input::Tick)), [3]);
    assert_eq!(bench.certifier.certified().unwrap().time().seconds(), at(3_100).seconds());
    assert_eq!(certified(&bench.run(3_300, Input::Applied(end(4)))), [4]);
}

#[test]
fn a_quorum_of_four_is_three_and_one_round_is_under_way_at_a_time() {
    let mut bench = Bench::of_four(0).lead();
    let first = checkpoint(end(1));
    assert_eq!(requested(&bench.run(0, Input::Applied(end(1)))), requests_for(&[1, 2, 3], 1));
    assert_eq!(bench.signed(10, 1, first), []);
    assert_eq!(bench.signed(10, 1, first), [], "one member counts once");
    assert_eq!(bench.run(200, Input::Applied(end(2))), [], "no second round meanwhile");
    let outputs = bench.signed(250, 3, first);
    assert_eq!(certified(&outputs), [1]);
    assert_eq!(requested(&outputs), requests_for(&[1, 2, 3], 2), "the next one follows at once");
    assert_eq!(bench.signed(260, 2, first), [], "late answers change nothing");
    assert_eq!(requested(&bench.run(250 + ROUND_MS, Input::Tick)), requests_for(&[1, 2, 3], 2), "lost, asked again");
}

#[test]
fn a_round_that_cannot_succeed_ends_early() {
    let mut bench = Bench::of_four(0).lead();
    bench.run(0, Input::Applied(end(1)));
    let first = checkpoint(end(1));
    assert_eq!(bench.reply(10, 1, first, CosignResult::NotYet { applied: LedgerSize(0) }), []);
    assert_eq!(bench.reply(20, 2, first, CosignResult::Unknown), []);
    assert!(requested(&bench.run(20 + RETRY_MS - 1, Input::Tick)).is_empty());
    assert_eq!(requested(&bench.run(20 + RETRY_MS, Input::Tick)), requests_for(&[1, 2, 3], 1));
}

#[test]
fn answers_that_do_not_count_are_named() {
    let mut bench = Bench::of_four(0).lead();
    bench.run(0, Input::Applied(end(1)));
    let first = checkpoint(end(1));
    let faulty = |peer, fault| vec![Output::FaultyReply { peer: node(peer), fault }];
    let by = |signer: usize, time| CosignResult::Signed(cosign(&first, &name(signer), &key(signer), time));
    let now = START.seconds();
    assert_eq!(bench.reply(0, 1, first, by(2, now)), faulty(1, ReplyFault::Signer));
    let other = CosignResult::Signed(cosign(&checkpoint(end(2)), &name(1), &key(1), now));
    let outputs = bench.reply(0, 1, first, other);
    assert!(matches!(&outputs[..], [Output::FaultyReply { fault: ReplyFault::Cosignature(_), .. }]), "{outputs:?}");
    let clock = |time_seconds| faulty(1, ReplyFault::Clock { time_seconds });
    assert_eq!(bench.reply(0, 1, first, by(1, now - 6)), clock(now - 6));
    assert_eq!(bench.reply(0, 1, first, by(1, now + 6)), clock(now + 6));
    assert_eq!(bench.reply(0, 9, first, by(9, now)), [], "strangers are not heard");
    assert_eq!(bench.reply(0, 1, first, by(1, now - 5)), [], "within the skew it counts");
    assert_eq!(certified(&bench.reply(0, 2, first, by(2, now + 5))), [1]);
    assert_eq!(bench.certifier.certified().unwrap().time().seconds(), now - 5);
}

#[test]
fn a_signer_waits_for_its_batch_and_says_when_it_waits_too_long() {
    let mut bench = Bench::of_four(1).follow(0);
    let (first, second) = (checkpoint(end(1)), checkpoint(end(2)));
    assert_eq!(bench.ask(0, 0, first), []);
    let outputs = bench.run(300, Input::Applied(end(1)));
    let signed = cosign(&first, &name(1), &key(1), START.seconds());
    let reply = |checkpoint, result| vec![Output::SendReply { to: node(0), checkpoint, result }];
    assert_eq!(outputs, reply(first, CosignResult::Signed(signed.clone())));
    assert_eq!(bench.ask(400, 0, first), reply(first, CosignResult::Signed(signed)), "asked again, sent again");
    assert_eq!(bench.ask(500, 0, second), []);
    let not_yet = CosignResult::NotYet { applied: LedgerSize(1) };
    assert_eq!(bench.ask(600, 0, checkpoint(end(3))), reply(second, not_yet.clone()), "one request for each member");
    assert_eq!(bench.run(600 + REQUEST_WAIT_MS - 1, Input::Tick), []);
    assert_eq!(bench.run(600 + REQUEST_WAIT_MS, Input::Tick), reply(checkpoint(end(3)), not_yet));
}

#[test]
fn a_signer_refuses_by_name() {
    let mut bench = Bench::of_four(1).follow(0);
    bench.run(0, Input::Applied(end(5)));
    bench.run(0, Input::Applied(end(7)));
    let seven = checkpoint(end(7));
    let elsewhere = Checkpoint { federation: FederationId::new(Hash::blake3(&[b"elsewhere"])), ..seven };
    let next_epoch = Checkpoint { epoch: Epoch(2), ..seven };
    assert_eq!(bench.ask(0, 9, seven), refused(9, seven, CosignRefusal::NotInCore));
    assert_eq!(bench.ask(0, 2, seven), refused(2, seven, CosignRefusal::NotProposer));
    assert_eq!(bench.ask(0, 0, elsewhere), refused(0, elsewhere, CosignRefusal::Federation));
    assert_eq!(bench.ask(0, 0, next_epoch), refused(0, next_epoch, CosignRefusal::Epoch { signing: Epoch(1) }));
    let six = checkpoint(end(6));
    assert_eq!(
        bench.ask(0, 0, six),
        [Output::SendReply { to: node(0), checkpoint: six, result: CosignResult::Unknown }]
    );
    assert!(matches!(&bench.ask(0, 0, seven)[..], [Output::SendReply { result: CosignResult::Signed(_), .. }]));
    let shrinks = GuardRefusal::Shrinks { signed: LedgerSize(7), asked: LedgerSize(5) };
    assert_eq!(bench.ask(0, 0, checkpoint(end(5))), refused(0, checkpoint(end(5)), CosignRefusal::Guard(shrinks)));
}

#[test]
fn a_divergence_is_reported_on_both_sides() {
    let ours = checkpoint(end(1));
    let theirs = Checkpoint { digest: Hash::blake3(&[b"another state"]), ..ours };
    let divergence = |ours, theirs, peer| Output::Divergence { ours, theirs, peer };
    let mut signer = Bench::of_four(1).follow(0);
    signer.run(0, Input::Applied(end(1)));
    let disagree = CosignResult::Disagree { applied: ours };
    let reply = Output::SendReply { to: node(0), checkpoint: theirs, result: disagree };
    assert_eq!(signer.ask(0, 0, theirs), [divergence(ours, theirs, Some(node(0))), reply]);

    let mut leader = Bench::of_four(0).lead();
    leader.run(0, Input::Applied(end(1)));
    let disagree = CosignResult::Disagree { applied: theirs };
    assert_eq!(leader.reply(10, 1, ours, disagree), [divergence(ours, theirs, Some(node(1)))]);

    let mut other = Bench::of_four(3).follow(0);
    other.run(0, Input::Applied(end(1)));
    let seen = certificate(&other.cores[0], &[0, 1, 2], theirs, START.seconds());
    assert_eq!(other.run(10, Input::CertificateSeen(seen)), [divergence(ours, theirs, None)]);
}

#[test]
fn members_take_turns_when_nobody_certifies() {
    let mut silent: Vec<Bench> = (1..4).map(|m| Bench::of_four(m).follow(0)).collect();
    silent.iter_mut().for_each(|bench| assert_eq!(bench.run(0, Input::Applied(end(1))), []));
    let turn = |ms: u64| (at(ms).0 / TURN_MS % 4) as usize;
    let proposers = |silent: &mut Vec<Bench>, ms: u64| -> Vec<usize> {
        let proposes =
            |(i, bench): (usize, &mut Bench)| (!requested(&bench.run(ms, Input::Tick)).is_empty()).then_some(i + 1);
        silent.iter_mut().enumerate().filter_map(proposes).collect()
    };
    assert!(proposers(&mut silent, SILENCE_MS - 1).is_empty());
    for round in 1..9 {
        let ms = round * TURN_MS;
        let expected: Vec<usize> = Some(turn(ms)).filter(|member| *member != 0).into_iter().collect();
        assert_eq!(proposers(&mut silent, ms), expected, "turn of {}", turn(ms));
    }
    let ms = 9 * TURN_MS;
    let asked = checkpoint(end(1));
    let outputs = answers(silent[0].ask(ms, 2, asked));
    assert!(matches!(&outputs[..], [Output::SendReply { result: CosignResult::Signed(_), .. }]), "{outputs:?}");
    let seen = certificate(&silent[0].cores[0], &[0, 2, 3], asked, at(ms).seconds());
    silent.iter_mut().for_each(|bench| assert_eq!(bench.run(ms, Input::CertificateSeen(seen.clone())), []));
    assert_eq!(silent[0].ask(ms + 10, 2, asked), refused(2, asked, CosignRefusal::NotProposer));
    assert!(proposers(&mut silent, ms + SILENCE_MS - 1).is_empty(), "a certificate ends the turns");
}

#[test]
fn a_leader_that_only_dates_an_old_size_is_passed_over() {
    let mut members: Vec<Bench> = (1..4).map(|m| Bench::of_four(m).follow(0)).collect();
    let core = members[0].cores[0].clone();
    let old = checkpoint(end(1));
    members.iter_mut().for_each(|bench| drop(bench.run(0, Input::Applied(end(1)))));
    assert!(matches!(&members[0].ask(0, 0, old)[..], [Output::SendReply { result: CosignResult::Signed(_), .. }]));
    members.iter_mut().for_each(|bench| drop(bench.run(1_000, Input::Applied(end(2)))));
    let superseded = CosignRefusal::Superseded { applied: LedgerSize(2) };
    assert_eq!(members[0].ask(2_000, 0, old), refused(0, old, superseded));
    let mut proposed = Vec::new();
    for second in 2..30 {
        let ms = second * 1_000;
        let seen = certificate(&core, &[0, 1, 2, 3], old, at(ms).seconds());
        for bench in &mut members {
            let outputs = bench.run(ms, Input::CertificateSeen(seen.clone()));
            proposed.extend(requested(&outputs).first().map(|(_, size)| (second, size.0)));
        }
    }
    assert_eq!(proposed.first(), Some(&(6, 2)), "five seconds after size 2 was applied, in the turn of member 1");
}

#[test]
fn after_a_crash_the_record_still_binds() {
    let one = checkpoint(end(1));
    let guard = SigningGuard::new().may_sign(&one, START.seconds()).unwrap();
    let restarted = || Bench { certifier: certifier(1, guard.clone()), cores: vec![core_of(1, &[0, 1, 2, 3])] };
    let mut same = restarted().follow(0);
    same.run(0, Input::Applied(end(1)));
    let signed = CosignResult::Signed(cosign(&one, &name(1), &key(1), START.seconds()));
    let outputs = same.step(0, Input::CosignRequest { from: node(0), checkpoint: one, asked_at: at(0) });
    assert_eq!(
        outputs,
        [Output::SendReply { to: node(0), checkpoint: one, result: signed }],
        "sent without a new record"
    );

    let mut diverged = restarted().follow(0);
    let other = BatchEnd { root: Hash::sha256(&[b"another history"]), ..end(1) };
    diverged.run(0, Input::Applied(other));
    let refusal = CosignRefusal::Guard(GuardRefusal::OtherHistory(LedgerSize(1)));
    assert_eq!(diverged.ask(0, 0, checkpoint(other)), refused(0, checkpoint(other), refusal));
}

#[test]
fn clocks_that_go_back_stall_nothing_and_date_nothing_back() {
    let mut bench = Bench::new(0, vec![core_of(1, &[0])]).lead();
    bench.run(60_000, Input::Applied(end(1)));
    let time = |bench: &Bench| bench.certifier.certified().unwrap().time().seconds();
    assert_eq!(time(&bench), at(60_000).seconds());
    bench.run(57_000, Input::Tick);
    assert_eq!(certified(&bench.run(57_200, Input::Applied(end(2)))), [2], "a little behind: dated as the last record");
    assert_eq!(time(&bench), at(60_000).seconds());
    bench.run(50_000, Input::Tick);
    assert!(certified(&bench.run(50_200, Input::Applied(end(3)))).is_empty(), "far behind: not signed");
    let mut signer = Bench::of_four(1).follow(0);
    signer.run(60_000, Input::Applied(end(1)));
    signer.ask(60_000, 0, checkpoint(end(1)));
    signer.run(50_000, Input::Applied(end(2)));
    let refusal = CosignRefusal::Clock { behind_ms: 10_000 };
    assert_eq!(signer.ask(50_000, 0, checkpoint(end(2))), refused(0, checkpoint(end(2)), refusal));
}

#[test]
fn only_recent_batch_ends_are_kept() {
    let mut bench = Bench::of_four(1).follow(0);
    (1..=BATCH_ENDS_MAX as u64 + 1).for_each(|size| drop(bench.run(0, Input::Applied(end(size)))));
    let oldest = checkpoint(end(1));
    let unknown = Output::SendReply { to: node(0), checkpoint: oldest, result: CosignResult::Unknown };
    assert_eq!(bench.ask(0, 0, oldest), [unknown]);
    assert!(matches!(
        &bench.ask(0, 0, checkpoint(end(2)))[..],
        [Output::SendReply { result: CosignResult::Signed(_), .. }]
    ));
}

#[test]
fn the_old_core_certifies_the_batch_that_changes_it_before_the_new_core_signs() {
    let (old, new) = (core_of(1, &[0, 1, 2]), core_of(2, &[0, 3, 4]));
    let mut leader = Bench::new(0, vec![old.clone(), new.clone()]).lead();
    let mut signer = Bench::new(1, vec![old.clone(), new.clone()]).follow(0);
    let last = checkpoint(end(9));
    let (after, after_end) = (Checkpoint { epoch: Epoch(2), ..last }, BatchEnd { epoch: Epoch(2), ..end(12) });
    assert_eq!(requested(&leader.run(0, Input::Applied(end(9)))), requests_for(&[1, 2], 9));
    assert!(requested(&leader.run(10, Input::Applied(after_end))).is_empty(), "the handover comes first");
    signer.run(0, Input::Applied(end(9)));
    assert_eq!(signer.ask(0, 0, after), refused(0, after, CosignRefusal::Epoch { signing: Epoch(1) }));
    let first = answers(signer.ask(500, 0, last));
    assert!(matches!(&first[..], [Output::SendReply { result: CosignResult::Signed(_), .. }]), "{first:?}");
    assert_eq!(answers(signer.ask(60_000, 0, last)), first, "a handover is sent again as it was, never dated anew");

    let [Output::SendReply { result, .. }] = &first[..] else { unreachable!() };
    leader.run(59_000, Input::Tick);
    let outputs = leader.reply(60_000, 1, last, result.clone());
    assert_eq!(certified(&outputs), [9], "an old date on a handover counts");
    assert_eq!(requested(&outputs), requests_for(&[3, 4], 12), "then the new core");
    let Some(Output::Certified(handover)) = outputs.first() else { panic!("{outputs:?}") };
    assert_eq!(signer.run(60_000, Input::CertificateSeen(handover.clone())), []);
    assert_eq!(signer.ask(60_000, 0, last), refused(0, last, CosignRefusal::Epoch { signing: Epoch(2) }));
    assert_eq!(signer.ask(60_000, 0, after), refused(0, after, CosignRefusal::NotInCore));
}

/// A record that a jumped clock made could be lived down only by waiting for its date.
#[test]
fn a_clock_that_jumped_ahead_signs_and_records_nothing_and_signs_on_when_it_is_right_again() {
    const JUMP_MS: u64 = 400 * 24 * 3_600_000;
    let jumped = |ms: u64| Clocks { wall: at(ms + JUMP_MS), boot_ms: ms };
    let ask = |number, asked_at| Input::CosignRequest { from: node(0), checkpoint: checkpoint(end(number)), asked_at };
    let refusal = |outputs: &[Output]| match outputs {
        [Output::SendReply { result: CosignResult::Refused(CosignRefusal::ClockAhead { ahead_ms }), .. }] => *ahead_ms,
        other => panic!("{other:?}"),
    };
    let mut signer = Bench::of_four(1).follow(0);
    signer.run(0, Input::Applied(end(1)));
    assert!(matches!(&signer.ask(0, 0, checkpoint(end(1)))[..], [Output::SendReply { .. }]), "the founding");
    let seen = certificate(&signer.cores[0].clone(), &[0, 2, 3], checkpoint(end(1)), at(0).seconds());
    signer.run(10, Input::CertificateSeen(seen.clone()));
    signer.run(20, Input::Applied(end(2)));
    let outputs = signer.step_at(jumped(1_000), ask(2, at(1_000)));
    assert_eq!(refusal(&outputs), JUMP_MS);
    let outputs = signer.step_at(jumped(1_500), ask(2, at(1_500 + JUMP_MS)));
    assert_eq!(refusal(&outputs), JUMP_MS, "even when the leader's clock jumped with it");
    assert!(matches!(
        &signer.ask(2_000, 0, checkpoint(end(2)))[..],
        [Output::SendReply { result: CosignResult::Signed(_), .. }]
    ));

    // Another life, begun with the wrong clock: only who asks can tell. In a core of three nobody lies.
    let mut again = Bench::new(1, vec![core_of(1, &[0, 1, 2])]).follow(0);
    again.certifier = Certifier::new(identity(1), SigningGuard::new(), Some(seen), at(JUMP_MS));
    again.step_at(jumped(0), Input::LeaderChanged { leader: Some(node(0)) });
    again.step_at(jumped(0), Input::Applied(end(2)));
    assert_eq!(refusal(&again.step_at(jumped(10), ask(2, at(10)))), JUMP_MS);
    assert!(
        matches!(
            &again.ask(20, 0, checkpoint(end(2)))[..],
            [Output::SendReply { result: CosignResult::Signed(_), .. }]
        ),
        "however old the certificate is that it knows"
    );
}

/// One liar must not confirm a clock that is years ahead: the record of such a signature can't be taken back.
#[test]
fn a_liar_that_asks_confirms_no_clock() {
    const YEARS_MS: u64 = 3 * 365 * 24 * 3_600_000;
    /// Anybody may ask, and it is another member's turn.
    const LATER_MS: u64 = SILENCE_MS + TURN_MS;
    let wrong = |ms: u64| Clocks { wall: at(ms + YEARS_MS), boot_ms: ms };
    let second = checkpoint(end(2));
    let ask = |from, asked_at| Input::CosignRequest { from: node(from), checkpoint: second, asked_at };
    let silent = |outputs: Vec<Output>, what: &str| assert_eq!(outputs, [], "{what}");
    for members in [&[0, 1, 2][..], &[0, 1, 2, 3]] {
        let mut victim = Bench::new(1, vec![core_of(1, members)]);
        let seen = certificate(&victim.cores[0], &members[..3], checkpoint(end(1)), at(0).seconds());
        victim.certifier = Certifier::new(identity(1), SigningGuard::new(), Some(seen), at(YEARS_MS));
        silent(victim.step_at(wrong(0), Input::LeaderChanged { leader: Some(node(0)) }), "a leader");
        silent(victim.step_at(wrong(0), Input::Applied(end(2))), "a batch");
        silent(victim.step_at(wrong(10), ask(0, UnixMillis(u64::MAX))), "a clock at the end of all times");
        if members.len() == 3 {
            continue; // No liar is put up with: who knows the victim's clock is believed.
        }
        silent(victim.step_at(wrong(20), ask(0, at(20 + YEARS_MS))), "one that knows this clock");
        let honest = victim.step_at(wrong(LATER_MS), ask(2, at(LATER_MS)));
        let says = |output: &Output| matches!(output, Output::PersistGuard { .. });
        assert!(!honest.iter().any(says), "{honest:?}");
        let not_yet = CosignResult::NotYet { applied: LedgerSize(2) };
        assert!(honest.contains(&Output::SendReply { to: node(0), checkpoint: second, result: not_yet }), "{honest:?}");
        let refusal = CosignRefusal::ClockAhead { ahead_ms: YEARS_MS };
        assert!(honest.contains(&refused(2, second, refusal)[0]), "{honest:?}");
        // The clock is set right: two honest members are more than the liars that a core of four puts up with.
        silent(victim.step(LATER_MS + 10, ask(0, at(20 + YEARS_MS))), "the liar again");
        silent(victim.step(LATER_MS + 20, ask(2, at(LATER_MS + 20))), "one alone");
        let signed = answers(victim.run(LATER_MS + 30, ask(3, at(LATER_MS + 30))));
        let by_now = |o: &Output| matches!(o, Output::SendReply { result: CosignResult::Signed(s), .. } if s.time() <= at(LATER_MS + 30));
        assert!(!signed.is_empty() && signed.iter().all(by_now), "{signed:?}");
    }
}

#[test]
fn a_proposer_that_just_started_signs_itself_once_the_others_dates_agree_with_its_clock() {
    let core = core_of(1, &[0, 1, 2, 3]);
    let known = certificate(&core, &[0, 1, 2], checkpoint(end(1)), at(0).seconds() - 86_400);
    let mut bench = Bench::new(0, vec![core]);
    bench.certifier = Certifier::new(identity(0), SigningGuard::new(), Some(known), at(0));
    let mut bench = bench.lead();
    let second = checkpoint(end(2));
    let guards = |outputs: &[Output]| outputs.iter().filter(|o| matches!(o, Output::PersistGuard { .. })).count();
    let outputs = bench.step(0, Input::Applied(end(2)));
    assert_eq!((requested(&outputs), guards(&outputs)), (requests_for(&[1, 2, 3], 2), 0));
    let by = |signer: usize| {
        let signed = cosign(&second, &name(signer), &key(signer), at(0).seconds());
        Input::CosignReply { from: node(signer), checkpoint: second, result: CosignResult::Signed(signed) }
    };
    assert_eq!(guards(&bench.step(10, by(1))), 0, "one more would not make a quorum");
    assert_eq!(certified(&bench.run(20, by(3))), [2]);
}
