//! Every rule of the machine's table, as scripts of commands with what becomes of each.

use proptest::prelude::*;
use tessera_consensus::kernel::{Outcome, Rejection};
use tessera_consensus::wire::v1::Kind;
use tessera_consensus::{Hash, SiteId, UnixMillis};
use tessera_federation::ids::*;
use tessera_federation::machine::rejections::*;
use tessera_federation::machine::{self, applied_at, registrations_per_day};
use tessera_federation::wire::Format;
use tessera_federation::wire::v1::*;
use tessera_policy::{AmendmentKind, ConsentId};

use crate::world::{B, B2, C, CORE, OBSERVER, World, engine, site};

const VERSION: u8 = tessera_federation::wire::v1::VERSION;
const AT: UnixMillis = UnixMillis(1_764_000_000_000);
const APPLIED: Outcome = Outcome::Applied;

/// A command of a script: who, kind, public part, and whether it brings a sealed body.
struct Line {
    node: usize,
    kind: Kind,
    public: Vec<u8>,
    sealed: bool,
    expected: Outcome,
}

fn line(node: usize, kind: Kind, public: impl Format, expected: Outcome) -> Line {
    let sealed = matches!(kind, STUDY | AMENDMENT | LINK | CONSENT);
    Line { node, kind, public: public.to_bytes(), sealed, expected }
}

fn rejected(rejection: Rejection) -> Outcome {
    Outcome::Rejected(rejection)
}

fn check(name: &str, lines: Vec<Line>) {
    let (world, engine) = (World::new(), engine());
    let replica = world.replica(&engine);
    for (number, line) in lines.into_iter().enumerate() {
        let sealed = line.sealed.then(|| b"not read by the machine".to_vec());
        let (_, outcome) = world.apply(&replica, line.node, line.kind, line.public, sealed);
        assert_eq!(outcome, line.expected, "{name}, line {number}");
    }
}

fn tag(byte: u8) -> Tag {
    Tag::from_parts(TagAlgorithm::KeyedBlake3, [byte; 32])
}

pub fn presence(byte: u8) -> Option<Presence> {
    let site = Sealed { algorithm: SealAlgorithm::XChaCha20Poly1305, nonce: [0; 24], body: vec![1, 2] };
    Some(Presence { tag: tag(byte), site })
}

pub fn study(own: u8, presence: Option<Presence>, supersedes: Option<u8>) -> StudyPublic {
    StudyPublic { version: VERSION, tag: tag(own), presence, supersedes: supersedes.map(tag) }
}

pub fn amendment(own: u8, of: u8, kind: AmendmentKind) -> AmendmentPublic {
    AmendmentPublic { version: VERSION, tag: tag(own), of: tag(of), kind: kind.number(), presence: None }
}

pub fn link(first: u8, second: u8) -> LinkPublic {
    let half = |byte| LinkHalf { tag: tag(byte), presence: None };
    LinkPublic { version: VERSION, halves: [half(first), half(second)] }
}

pub fn unlink(first: u8, second: u8) -> UnlinkPublic {
    UnlinkPublic { version: VERSION, link: [tag(first), tag(second)] }
}

pub fn consent(id: u8, own: u8) -> ConsentPublic {
    ConsentPublic { version: VERSION, consent: ConsentId::from_bytes([id; 16]), tag: tag(own), presence: None }
}

pub fn revocation(id: u8) -> RevocationPublic {
    RevocationPublic { version: VERSION, consent: ConsentId::from_bytes([id; 16]) }
}

/// Disclosures of these scripts are B's.
fn disclosure_id(id: u8) -> DisclosureId {
    DisclosureId::of(&World::new().node(B), &[id; 16])
}

pub fn disclosure(id: u8, holder: &str, requester: &str) -> DisclosurePublic {
    let (disclosure, nonce) = (disclosure_id(id), [id; 16]);
    let (holder, requester) = (site(holder), site(requester));
    DisclosurePublic { version: VERSION, disclosure, nonce, holder, requester, purpose: 1, at: AT }
}

pub fn receipt(id: u8, side: ReceiptSide) -> ReceiptPublic {
    let receipt = Hash::blake3(&[b"signed receipt"]);
    ReceiptPublic { version: VERSION, disclosure: disclosure_id(id), side, receipt }
}

pub fn break_glass(id: u8, of: &str) -> BreakGlassPublic {
    let break_glass = BreakGlassId::from_bytes([id; 16]);
    BreakGlassPublic { version: VERSION, break_glass, site: site(of), holder: site("hospital-a"), at: AT }
}

pub fn recognition(id: u8, of: &str) -> RecognitionPublic {
    let recognition = RecognitionId::from_bytes([id; 16]);
    let (site, holder) = (site(of), site("hospital-a"));
    RecognitionPublic { version: VERSION, recognition, site, holder, accepted: true, at: AT }
}

pub fn recall(id: u8, of: u8) -> RecallAcknowledgementPublic {
    let (recall, disclosure) = (RecallId::from_bytes([id; 16]), disclosure_id(of));
    RecallAcknowledgementPublic { version: VERSION, recall, disclosure, at: AT }
}

pub fn anchor(of: &str, from: u64) -> AuditAnchorPublic {
    let (from, until) = (UnixMillis(from), UnixMillis(from + 10));
    AuditAnchorPublic { version: VERSION, site: site(of), from, until, records: 1, head: Hash::blake3(&[b"head"]) }
}

#[test]
fn study_records() {
    check(
        "tags and presences are free once",
        vec![
            line(B, STUDY, study(1, presence(101), None), APPLIED),
            line(C, STUDY, study(1, presence(102), None), rejected(TAG_TAKEN)),
            line(C, STUDY, study(2, presence(101), None), rejected(PRESENCE_TAKEN)),
            line(C, STUDY, study(2, presence(102), None), APPLIED),
            line(B, STUDY, study(3, None, None), APPLIED),
        ],
    );
    check(
        "a rejected command takes nothing: neither its tag nor what it supersedes",
        vec![
            line(B, STUDY, study(1, presence(101), None), APPLIED),
            line(B, STUDY, study(2, presence(101), Some(1)), rejected(PRESENCE_TAKEN)),
            line(B, STUDY, study(2, None, Some(1)), APPLIED),
        ],
    );
    check(
        "a record is continued by its node, from its newest version",
        vec![
            line(B, STUDY, study(1, None, None), APPLIED),
            line(B, STUDY, study(2, None, Some(9)), rejected(NO_SUCH_RECORD)),
            line(C, STUDY, study(2, None, Some(1)), rejected(NOT_YOURS)),
            line(B2, STUDY, study(2, None, Some(1)), rejected(NOT_YOURS)),
            line(B, STUDY, study(1, None, Some(1)), rejected(TAG_TAKEN)),
            line(B, STUDY, study(2, None, Some(1)), APPLIED),
            line(B, STUDY, study(3, None, Some(1)), rejected(ENDED_BEFORE)),
            line(B, STUDY, study(3, None, Some(2)), APPLIED),
            line(B, CONSENT, consent(1, 4), APPLIED),
            line(B, STUDY, study(5, None, Some(4)), rejected(NO_SUCH_RECORD)),
        ],
    );
}

#[test]
fn amendments() {
    check(
        "an amendment speaks of its node's newest version, and a withdrawal is final",
        vec![
            line(B, STUDY, study(1, None, None), APPLIED),
            line(B, STUDY, study(2, None, Some(1)), APPLIED),
            line(B, AMENDMENT, amendment(3, 9, AmendmentKind::Release), rejected(NO_SUCH_RECORD)),
            line(B, AMENDMENT, amendment(3, 1, AmendmentKind::Release), rejected(ENDED_BEFORE)),
            line(C, AMENDMENT, amendment(3, 2, AmendmentKind::Withdraw), rejected(NOT_YOURS)),
            line(B, AMENDMENT, amendment(3, 2, AmendmentKind::Release), APPLIED),
            line(B, AMENDMENT, amendment(3, 2, AmendmentKind::Move), rejected(TAG_TAKEN)),
            line(B, AMENDMENT, amendment(4, 3, AmendmentKind::Move), rejected(NO_SUCH_RECORD)),
            line(B, AMENDMENT, amendment(4, 2, AmendmentKind::Withdraw), APPLIED),
            line(B, AMENDMENT, amendment(5, 2, AmendmentKind::Release), rejected(WITHDRAWN)),
            line(B, STUDY, study(5, None, Some(2)), rejected(WITHDRAWN)),
            line(B, STUDY, study(5, None, None), APPLIED),
        ],
    );
    let newer = AmendmentPublic { kind: 999, ..amendment(2, 1, AmendmentKind::Move) };
    check(
        "a kind that this version does not know is kept",
        vec![line(B, STUDY, study(1, None, None), APPLIED), line(B, AMENDMENT, newer, APPLIED)],
    );
}

#[test]
fn links() {
    check(
        "a link takes both tags, and only its own node undoes it, once",
        vec![
            line(B, LINK, link(1, 1), rejected(TAG_TAKEN)),
            line(B, LINK, link(1, 2), APPLIED),
            line(B, LINK, link(2, 3), rejected(TAG_TAKEN)),
            line(B, LINK, link(3, 4), APPLIED),
            line(B, UNLINK, unlink(1, 9), rejected(NO_SUCH_RECORD)),
            line(B, UNLINK, unlink(1, 3), rejected(NO_SUCH_RECORD)),
            line(B, UNLINK, unlink(1, 1), rejected(ENDED_BEFORE)),
            line(C, UNLINK, unlink(1, 2), rejected(NOT_YOURS)),
            line(B, UNLINK, unlink(1, 2), APPLIED),
            line(B, UNLINK, unlink(1, 2), rejected(ENDED_BEFORE)),
            line(B, UNLINK, unlink(3, 4), APPLIED),
        ],
    );
}

#[test]
fn consents() {
    check(
        "a consent is revoked once, by its author's site",
        vec![
            line(B, CONSENT, consent(1, 1), APPLIED),
            line(B, CONSENT, consent(1, 2), rejected(ID_TAKEN)),
            line(B, CONSENT, consent(2, 1), rejected(TAG_TAKEN)),
            line(B, REVOCATION, revocation(2), rejected(NO_SUCH_RECORD)),
            line(C, REVOCATION, revocation(1), rejected(NOT_YOURS)),
            line(B2, REVOCATION, revocation(1), APPLIED),
            line(B, REVOCATION, revocation(1), rejected(ENDED_BEFORE)),
            line(CORE, CONSENT, consent(2, 2), APPLIED),
            line(CORE, REVOCATION, revocation(2), APPLIED),
        ],
    );
}

#[test]
fn disclosures_and_receipts() {
    check(
        "the holder's node discloses, each side gives one receipt, the requester acknowledges recalls",
        vec![
            line(C, DISCLOSURE, disclosure(1, "hospital-b", "hospital-c"), rejected(NOT_YOURS)),
            // In its own name, but under the id that B gave: what a requester could try first.
            line(C, DISCLOSURE, disclosure(1, "hospital-c", "hospital-a"), rejected(NOT_YOURS)),
            line(B, DISCLOSURE, disclosure(1, "hospital-b", "hospital-c"), APPLIED),
            line(B, DISCLOSURE, disclosure(1, "clinic-b", "hospital-c"), rejected(ID_TAKEN)),
            line(B, DISCLOSURE, disclosure(2, "clinic-b", "hospital-c"), APPLIED),
            line(B, RECEIPT, receipt(9, ReceiptSide::Holder), rejected(NO_SUCH_RECORD)),
            line(B, RECEIPT, receipt(1, ReceiptSide::Requester), rejected(NOT_YOURS)),
            line(C, RECEIPT, receipt(1, ReceiptSide::Holder), rejected(NOT_YOURS)),
            line(C, RECEIPT, receipt(1, ReceiptSide::Requester), APPLIED),
            line(C, RECEIPT, receipt(1, ReceiptSide::Requester), rejected(RECEIPT_TAKEN)),
            line(B2, RECEIPT, receipt(1, ReceiptSide::Holder), APPLIED),
            line(B, RECEIPT, receipt(1, ReceiptSide::Holder), rejected(RECEIPT_TAKEN)),
            line(C, RECALL_ACKNOWLEDGEMENT, recall(1, 9), rejected(NO_SUCH_RECORD)),
            line(B, RECALL_ACKNOWLEDGEMENT, recall(1, 1), rejected(NOT_YOURS)),
            line(C, RECALL_ACKNOWLEDGEMENT, recall(1, 1), APPLIED),
            line(C, RECALL_ACKNOWLEDGEMENT, recall(1, 1), rejected(ID_TAKEN)),
            line(C, RECALL_ACKNOWLEDGEMENT, recall(1, 2), APPLIED),
        ],
    );
}

#[test]
fn acts_of_one_site() {
    check(
        "a site writes in its own name, under an id that is free once",
        vec![
            line(C, BREAK_GLASS, break_glass(1, "hospital-b"), rejected(NOT_YOURS)),
            line(B, BREAK_GLASS, break_glass(1, "hospital-b"), APPLIED),
            line(C, BREAK_GLASS, break_glass(1, "hospital-c"), rejected(ID_TAKEN)),
            line(C, RECOGNITION, recognition(1, "hospital-b"), rejected(NOT_YOURS)),
            line(C, RECOGNITION, recognition(1, "hospital-c"), APPLIED),
            line(C, RECOGNITION, recognition(1, "hospital-c"), rejected(ID_TAKEN)),
            line(C, AUDIT_ANCHOR, anchor("hospital-b", 0), rejected(NOT_YOURS)),
            line(C, AUDIT_ANCHOR, anchor("hospital-c", 0), APPLIED),
            line(C, AUDIT_ANCHOR, anchor("hospital-c", 0), rejected(ID_TAKEN)),
            line(C, AUDIT_ANCHOR, anchor("hospital-c", 10), APPLIED),
            line(B, AUDIT_ANCHOR, anchor("clinic-b", 0), APPLIED),
            line(B, AUDIT_ANCHOR, anchor("hospital-b", 0), APPLIED),
            line(B2, AUDIT_ANCHOR, anchor("hospital-b", 0), APPLIED),
            line(B2, AUDIT_ANCHOR, anchor("hospital-b", 0), rejected(ID_TAKEN)),
        ],
    );
}

#[test]
fn kinds_whose_behaviour_comes_later_are_parsed_and_rejected_by_name() {
    let rules = RuleBasePublic { version: VERSION, level: 1, site: None, number: 1, format: 1 };
    let parties: Vec<SiteId> = vec![site("hospital-a"), site("hospital-b")];
    let contract = ContractPublic {
        version: VERSION,
        contract: ContractId::from_bytes([1; 16]),
        parties,
        not_before: AT,
        not_after: AT,
        freshness_limit_ms: 1,
    };
    let expert = ExpertId::from_bytes([1; 16]);
    let expert = ExpertPublic { version: VERSION, expert, site: site("hospital-b"), keywords: vec![], active: true };
    let consultation = ConsultationPublic {
        version: VERSION,
        consultation: ConsultationId::from_bytes([1; 16]),
        step: 1,
        requester: site("hospital-b"),
        provider: None,
        deadline: None,
        documents: None,
    };
    let erasure = ErasurePublic { version: VERSION, tag: tag(1), reason: 1 };
    let not_active = rejected(Rejection::NOT_ACTIVE);
    let raw = |kind, public: Vec<u8>, sealed, expected| Line { node: B, kind, public, sealed, expected };
    check(
        "not active, malformed, unknown",
        vec![
            line(B, RULE_BASE, rules, not_active),
            line(B, CONTRACT, contract, not_active),
            line(B, EXPERT, expert, not_active),
            line(B, CONSULTATION, consultation, not_active),
            line(B, ERASURE, erasure, not_active),
            raw(RULE_BASE, vec![1], false, rejected(Rejection::MALFORMED)),
            raw(STUDY, study(1, None, None).to_bytes(), false, rejected(Rejection::MALFORMED)),
            raw(REVOCATION, revocation(1).to_bytes(), true, rejected(Rejection::MALFORMED)),
            raw(
                STUDY,
                StudyPublic { version: 2, ..study(1, None, None) }.to_bytes(),
                true,
                rejected(Rejection::MALFORMED),
            ),
            raw(Kind(273), vec![], false, rejected(Rejection::UNKNOWN_KIND)),
            raw(Kind(u16::MAX), vec![], true, rejected(Rejection::UNKNOWN_KIND)),
        ],
    );
}

#[test]
fn an_observer_writes_nothing() {
    let refused = Outcome::Refused(tessera_consensus::kernel::Refusal::ReadOnly);
    check("read-only", vec![line(OBSERVER, STUDY, study(1, None, None), refused)]);
}

#[test]
fn what_took_effect_is_found_by_the_name_in_the_command() {
    let (world, engine) = (World::new(), engine());
    let replica = world.replica(&engine);
    let effective: Vec<(usize, Kind, Vec<u8>)> = vec![
        (B, STUDY, study(1, None, None).to_bytes()),
        (B, AMENDMENT, amendment(2, 1, AmendmentKind::Release).to_bytes()),
        (B, LINK, link(3, 4).to_bytes()),
        (B, UNLINK, unlink(3, 4).to_bytes()),
        (B, CONSENT, consent(1, 5).to_bytes()),
        (B, REVOCATION, revocation(1).to_bytes()),
        (B, DISCLOSURE, disclosure(1, "hospital-b", "hospital-c").to_bytes()),
        (B, RECEIPT, receipt(1, ReceiptSide::Holder).to_bytes()),
        (C, RECEIPT, receipt(1, ReceiptSide::Requester).to_bytes()),
        (B, BREAK_GLASS, break_glass(1, "hospital-b").to_bytes()),
        (B, RECOGNITION, recognition(1, "hospital-b").to_bytes()),
        (C, RECALL_ACKNOWLEDGEMENT, recall(1, 1).to_bytes()),
        (B, AUDIT_ANCHOR, anchor("hospital-b", 5).to_bytes()),
    ];
    for (node, kind, public) in effective {
        let name = kind_name(kind).expect("known");
        assert_eq!(applied_at(replica.view(), &world.node(node), kind, &public), Ok(None), "{name} before");
        let sealed = matches!(kind, STUDY | AMENDMENT | LINK | CONSENT).then(|| vec![1]);
        let (index, outcome) = world.apply(&replica, node, kind, public.clone(), sealed.clone());
        assert_eq!(outcome, Outcome::Applied, "{name}");
        assert_eq!(applied_at(replica.view(), &world.node(node), kind, &public), Ok(Some(index)), "{name}");
        let (_, again) = world.apply(&replica, node, kind, public.clone(), sealed);
        assert!(matches!(again, Outcome::Rejected(_)), "{name}: a repeat never takes effect");
        assert_eq!(
            applied_at(replica.view(), &world.node(node), kind, &public),
            Ok(Some(index)),
            "{name} after the repeat"
        );
    }
    assert_eq!(applied_at(replica.view(), &world.node(B), ERASURE, &[]), Ok(None));
    assert_eq!(applied_at(replica.view(), &world.node(B), STUDY, b"nonsense"), Ok(None));
}

#[test]
fn entries_and_registrations_are_counted() {
    let (world, engine) = (World::new(), engine());
    let replica = world.replica(&engine);
    for (number, public) in
        [study(1, None, None), study(2, None, None), study(3, None, Some(1)), study(2, None, None)].iter().enumerate()
    {
        world.apply(&replica, B, STUDY, public.to_bytes(), Some(vec![number as u8]));
    }
    assert_eq!(machine::counts(replica.view()).expect("counts"), [(STUDY, 3)]);
    let per_day = |node| registrations_per_day(replica.view(), &world.node(node), AT).expect("figure");
    assert_eq!((per_day(B), per_day(C)), (2, 0), "a new version is no registration, nor is a rejected command");
}

fn arbitrary_public() -> impl Strategy<Value = (Kind, Vec<u8>)> {
    let well_formed = vec![
        (STUDY, study(1, presence(2), Some(3)).to_bytes()),
        (AMENDMENT, amendment(1, 2, AmendmentKind::Move).to_bytes()),
        (LINK, link(1, 2).to_bytes()),
        (UNLINK, unlink(1, 2).to_bytes()),
        (CONSENT, consent(1, 2).to_bytes()),
        (DISCLOSURE, disclosure(1, "hospital-b", "hospital-c").to_bytes()),
        (RECEIPT, receipt(1, ReceiptSide::Holder).to_bytes()),
        (BREAK_GLASS, break_glass(1, "hospital-b").to_bytes()),
        (AUDIT_ANCHOR, anchor("hospital-b", 5).to_bytes()),
    ];
    let mutated = (prop::sample::select(well_formed), any::<prop::sample::Index>(), any::<u8>()).prop_map(
        |((kind, mut public), place, byte)| {
            let place = place.index(public.len());
            public[place] ^= byte;
            (kind, public)
        },
    );
    let random =
        (250u16..280, prop::collection::vec(any::<u8>(), 0..96)).prop_map(|(kind, public)| (Kind(kind), public));
    prop_oneof![3 => mutated, 1 => random]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever stands in the public parts, nothing panics, and two replicas agree on outcomes and state.
    #[test]
    fn any_bytes_are_judged_alike_by_every_replica(
        commands in prop::collection::vec((0usize..4, arbitrary_public(), any::<bool>()), 1..24),
    ) {
        let world = World::new();
        let (first, second) = (engine(), engine());
        let (first, second) = (world.replica(&first), world.replica(&second));
        let mut all = Vec::new();
        for (node, (kind, public), sealed) in commands {
            let command = world.command(&first, node, kind, public, sealed.then(|| vec![7]));
            let batch = world.batch(&first, vec![command.clone()]);
            first.apply_batch(&batch, Default::default()).expect("applies");
            all.push(command);
        }
        for command in all {
            let batch = world.batch(&second, vec![command]);
            second.apply_batch(&batch, Default::default()).expect("applies");
        }
        prop_assert_eq!(first.checkpoint().expect("checkpoint"), second.checkpoint().expect("checkpoint"));
    }
}
