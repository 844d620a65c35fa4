//! One value of each format, every optional part present at least once. The persons and sites are made up.

use std::collections::BTreeSet;

use tessera_consensus::keys::{KeyAlgorithm, PublicKey};
use tessera_consensus::{Hash, NodeId, SiteId, UnixMillis};
use tessera_federation::ids::*;
use tessera_federation::wire::v1::*;
use tessera_policy::{
    BodyRegion, ConsentDecision, ConsentId, ConsentTerms, EvidenceClass, Grantee, Identifier, Modality, Purpose,
    PurposeScope, RejectionReason, ReleaseState, Role, StudyDate, StudyScope, Title, Uid, UserAssertion, UserId,
    VisibilityClass,
};

use crate::check;

fn site(name: &str) -> SiteId {
    name.parse().expect("site")
}

fn uid(text: &str) -> Uid {
    text.parse().expect("uid")
}

fn tag(byte: u8) -> Tag {
    Tag::from_parts(TagAlgorithm::KeyedBlake3, [byte; 32])
}

fn hash(text: &str) -> Hash {
    Hash::blake3(&[text.as_bytes()])
}

fn sealed(byte: u8) -> Sealed {
    Sealed { algorithm: SealAlgorithm::XChaCha20Poly1305, nonce: [byte; 24], body: vec![byte; 5] }
}

fn hpke_sealed(byte: u8) -> HpkeSealed {
    HpkeSealed {
        suite: HpkeSuite::X25519HkdfSha256ChaCha20Poly1305,
        recipient: PublicKey::from_parts(KeyAlgorithm::X25519, [byte; 32]),
        encapsulated: [byte + 1; 32],
        body: vec![byte; 4],
    }
}

fn presence() -> Option<Presence> {
    Some(Presence { tag: tag(0x11), site: sealed(0x12) })
}

fn user() -> UserAssertion {
    let user: UserId = "d001".parse().expect("user");
    let site = "hospital-b".parse().expect("site");
    UserAssertion::new(site, user, Role::Radiologist, Some(Title::Attending))
}

const VERSION: u8 = tessera_federation::wire::v1::VERSION;
const AT: UnixMillis = UnixMillis(1_764_000_000_000);

#[test]
fn study() {
    let tag_and_chain = StudyPublic { version: VERSION, tag: tag(1), presence: presence(), supersedes: Some(tag(2)) };
    check("study_public", &tag_and_chain);
    check("study_public_bare", &StudyPublic { presence: None, supersedes: None, ..tag_and_chain });
    let for_regulators = vec![hpke_sealed(0x20), hpke_sealed(0x30)];
    check("study_sealed", &StudySealed { version: VERSION, for_patient: sealed(3), for_regulators });
    let shown = StudyShown {
        study_uid: uid("1.2.826.0.1.3680043.8.498.1"),
        study_date: Some(StudyDate::parse("20251122").expect("date")),
        modalities: vec![Modality::parse("CT").expect("modality"), Modality::parse("SR").expect("modality")],
        body_region: BodyRegion::Chest,
        item: Some("CT-CHEST".into()),
        state: ReleaseState::Released,
        series: 3,
        objects: 412,
        status: ObjectStatus::Verified,
    };
    let details = StudyDetails {
        version: VERSION,
        record: RecordId::from_bytes([4; 16]),
        revision: 2,
        site: site("hospital-a"),
        visibility: VisibilityClass::Open,
        unlinked: true,
        manifest: hash("manifest"),
        salt: [5; 16],
        shown: Some(shown),
    };
    check("study_details", &details);
    let existence = StudyDetails { visibility: VisibilityClass::ExistenceOnly, shown: None, ..details };
    check("study_details_existence", &existence);
    let statistics = StudyStatistics {
        version: VERSION,
        site: site("hospital-a"),
        month: 202_511,
        modalities: vec![Modality::parse("CT").expect("modality")],
        objects: 412,
        bytes: 216_006_656,
        grade: Some(1),
        device: Some("Maker Model 64".into()),
        marks: vec![1, 7],
    };
    check("study_statistics", &statistics);
}

#[test]
fn amendment() {
    let public = AmendmentPublic { version: VERSION, tag: tag(6), of: tag(1), kind: WITHDRAW, presence: presence() };
    check("amendment_public", &public);
    let objects = vec![uid("1.2.3.1"), uid("1.2.3.2")];
    let rejected = RejectedObjects::Some(objects.clone());
    let into = RecordId::from_bytes([8; 16]);
    for (name, change) in [
        ("demographics", AmendmentChange::Demographics { attributes: vec![0x0010_0010, 0x0010_0040] }),
        ("move", AmendmentChange::Move),
        ("split", AmendmentChange::Split { objects, into: Some(into) }),
        ("merge", AmendmentChange::Merge { into }),
        ("reject", AmendmentChange::Reject { reason: RejectionReason::PatientSafety, objects: rejected }),
        ("reject_all", AmendmentChange::Reject { reason: RejectionReason::Quality, objects: RejectedObjects::All }),
        ("withdraw", AmendmentChange::Withdraw),
        ("release", AmendmentChange::Release),
    ] {
        let record = RecordId::from_bytes([4; 16]);
        let details = AmendmentDetails::new(record, site("hospital-a"), AT, change, hash("manifest"));
        check(&format!("amendment_details_{name}"), &details);
    }
}

#[test]
fn link() {
    let halves = [LinkHalf { tag: tag(9), presence: presence() }, LinkHalf { tag: tag(10), presence: None }];
    check("link_public", &LinkPublic { version: VERSION, halves });
    check("link_sealed", &LinkSealed { version: VERSION, halves: [sealed(9), sealed(10)] });
    let details = LinkDetails {
        version: VERSION,
        other: Identifier::parse("hospital:HOSPITAL-A/0012345").expect("identifier"),
        site: site("hospital-a"),
        evidence: EvidenceClass::StaffAttestation,
        recorded_at: AT,
    };
    check("link_details", &details);
    check("unlink_public", &UnlinkPublic { version: VERSION, link: [tag(9), tag(10)] });
}

#[test]
fn consent() {
    let consent = ConsentId::from_bytes([11; 16]);
    check("consent_public", &ConsentPublic { version: VERSION, consent, tag: tag(12), presence: presence() });
    check("revocation_public", &RevocationPublic { version: VERSION, consent });
    let terms = |decision, grantee, studies, purposes, not_after| {
        ConsentTerms::new(decision, grantee, studies, purposes, not_after).expect("terms")
    };
    let grant = terms(
        ConsentDecision::Grant,
        Grantee::Site("hospital-b".parse().expect("site")),
        StudyScope::Studies(BTreeSet::from([uid("1.2.3"), uid("1.2.4")])),
        PurposeScope::Only(BTreeSet::from([Purpose::Treatment, Purpose::Consultation])),
        Some(tessera_policy::UnixMillis::new(1_800_000_000_000)),
    );
    let denial = terms(ConsentDecision::Deny, Grantee::AllTreatingSites, StudyScope::All, PurposeScope::Any, None);
    let details = |terms: &ConsentTerms, proof: EvidenceProof| ConsentDetails {
        version: VERSION,
        consent,
        terms: terms.clone(),
        author: site("hospital-b"),
        evidence: proof.class(),
        proof,
        recorded_at: AT,
    };
    let code = EvidenceProof::Code { site: site("hospital-a"), mac: [13; 32] };
    check("consent_details_code", &details(&grant, code));
    check("consent_details_form", &details(&denial, EvidenceProof::Form(hash("form"))));
    check("consent_details_attestation", &details(&denial, EvidenceProof::Attestation));
}

#[test]
fn disclosure() {
    let nonce = [14; 16];
    let disclosure = DisclosureId::of(&NodeId::new(hash("node")), &nonce);
    let public = DisclosurePublic {
        version: VERSION,
        disclosure,
        nonce,
        holder: site("hospital-a"),
        requester: site("hospital-b"),
        purpose: Purpose::Treatment.number(),
        at: AT,
    };
    check("disclosure_public", &public);
    let basis = DisclosureBasis {
        consents: vec![ConsentId::from_bytes([11; 16])],
        rules: vec!["treatment-during-encounter".into()],
        break_glass: Some(BreakGlassId::from_bytes([15; 16])),
        encounter: Some("V2025-1".into()),
    };
    let details = DisclosureDetails {
        version: VERSION,
        record: RecordId::from_bytes([4; 16]),
        revision: 2,
        study_uid: uid("1.2.826.0.1.3680043.8.498.1"),
        objects: 412,
        bytes: 216_006_656,
        user: user(),
        basis,
    };
    check("disclosure_details", &details);
    for (name, side) in [("holder", ReceiptSide::Holder), ("requester", ReceiptSide::Requester)] {
        let receipt = ReceiptPublic { version: VERSION, disclosure, side, receipt: hash("signed receipt") };
        check(&format!("receipt_public_{name}"), &receipt);
    }
    let recall = RecallId::from_bytes([16; 16]);
    let acknowledgement = RecallAcknowledgementPublic { version: VERSION, recall, disclosure, at: AT };
    check("recall_acknowledgement_public", &acknowledgement);
}

#[test]
fn emergency_and_recognition() {
    let (a, b) = (site("hospital-a"), site("hospital-b"));
    let break_glass = BreakGlassId::from_bytes([15; 16]);
    let public = BreakGlassPublic { version: VERSION, break_glass, site: b.clone(), holder: a.clone(), at: AT };
    check("break_glass_public", &public);
    let second = Some("d002".parse().expect("user"));
    let records = vec![RecordId::from_bytes([4; 16])];
    let reason = "unconscious, no relatives".to_owned();
    check("break_glass_details", &BreakGlassDetails { version: VERSION, user: user(), second, reason, records });
    let recognition = RecognitionId::from_bytes([17; 16]);
    let public = RecognitionPublic { version: VERSION, recognition, site: b, holder: a, accepted: false, at: AT };
    check("recognition_public", &public);
    let details = RecognitionDetails {
        version: VERSION,
        record: RecordId::from_bytes([4; 16]),
        item: "CT-CHEST".into(),
        reason: Some("motion artefacts".into()),
    };
    check("recognition_details", &details);
}

#[test]
fn governance() {
    let (a, b) = (site("hospital-a"), site("hospital-b"));
    let rules = RuleBasePublic { version: VERSION, level: 4, site: Some(a.clone()), number: 3, format: 1 };
    check("rule_base_public", &rules);
    let contract = ContractPublic {
        version: VERSION,
        contract: ContractId::from_bytes([18; 16]),
        parties: vec![a.clone(), b.clone()],
        not_before: AT,
        not_after: AT.plus_ms(1_000),
        freshness_limit_ms: 172_800_000,
    };
    check("contract_public", &contract);
    let expert = ExpertId::from_bytes([19; 16]);
    let entry = ExpertPublic { version: VERSION, expert, site: a.clone(), keywords: vec![3, 1, 2], active: true };
    check("expert_public", &entry);
    let consultation = ConsultationPublic {
        version: VERSION,
        consultation: ConsultationId::from_bytes([20; 16]),
        step: 1,
        requester: a.clone(),
        provider: Some(b),
        deadline: Some(AT),
        documents: Some(hash("documents")),
    };
    check("consultation_public", &consultation);
    let (until, head) = (AT.plus_ms(3_600_000), hash("head"));
    check("audit_anchor_public", &AuditAnchorPublic { version: VERSION, site: a, from: AT, until, records: 9, head });
    check("erasure_public", &ErasurePublic { version: VERSION, tag: tag(1), reason: 1 });
}

#[test]
fn manifest() {
    let object = |series: &str, instance: &str, content| ManifestObject {
        series_uid: uid(series),
        sop_class: uid("1.2.840.10008.5.1.4.1.1.2"),
        sop_instance: uid(instance),
        content,
    };
    let verified =
        ObjectContent::Verified { transfer_syntax: uid("1.2.840.10008.1.2.1"), bytes: 526_336, hash: hash("object") };
    let manifest = Manifest {
        version: VERSION,
        site: site("hospital-a"),
        study_uid: uid("1.2.826.0.1.3680043.8.498.1"),
        record: RecordId::from_bytes([4; 16]),
        revision: 2,
        created: AT,
        objects: vec![
            object("1.2.2", "1.2.2.1", ObjectContent::Declared),
            object("1.2.1", "1.2.1.2", verified.clone()),
            object("1.2.1", "1.2.1.1", verified),
        ],
    }
    .sorted();
    check("manifest", &manifest);
    assert_eq!((manifest.series(), manifest.bytes(), manifest.status()), (2, 1_052_672, ObjectStatus::Declared));
    crate::check_bytes("manifest_commitment", manifest.commitment(&[5; 16]).as_bytes());
}

#[test]
fn blind_index() {
    let suite = OprfSuite::Ristretto255Sha512;
    let year = |year, elements| BlindYear { year, elements };
    let years = vec![year(2025, vec![[21; 32], [22; 32]]), year(2026, vec![[20; 32]])];
    check("blind_request", &BlindRequest { version: VERSION, suite, years });
    let year = EvaluatedYear { elements: vec![[23; 32]], proof: [[24; 32], [25; 32]] };
    let reply = BlindReply { version: VERSION, suite, years: vec![year] };
    check("blind_answer_evaluated", &BlindAnswer::Evaluated(reply));
    let over = BlindRefusal::OverBudget { allowed: 2_000, used: 1_999, resets_at: AT };
    check("blind_answer_over_budget", &BlindAnswer::Refused(over));
    check("blind_answer_malformed", &BlindAnswer::Refused(BlindRefusal::Malformed));
    check("blind_answer_no_share", &BlindAnswer::Refused(BlindRefusal::NoShare));
    check("blind_answer_observer", &BlindAnswer::Refused(BlindRefusal::Observer));
    check("blind_answer_no_such_year", &BlindAnswer::Refused(BlindRefusal::NoSuchYear { year: 2027 }));
}

#[test]
fn domain_genesis() {
    let node = NodeId::new(hash("node"));
    let genesis = DomainGenesis {
        version: VERSION,
        oprf: OprfParameters {
            suite: OprfSuite::Ristretto255Sha512,
            threshold: 1,
            public_keys: (0..INDEX_YEARS as u8).map(|year| [26 + year; 32]).collect(),
            budget: OprfBudget::default(),
        },
        oprf_shares: vec![OprfShare { node, share: hpke_sealed(0x40) }],
        founding_year: 2025,
        rule_base: Some(RuleBaseReference { name: "defaults".into(), hash: hash("rules") }),
        freshness_limit_ms: FRESHNESS_LIMIT_MS,
    };
    check("domain_genesis", &genesis);
}
