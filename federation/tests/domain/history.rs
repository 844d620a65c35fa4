//! What a key finds: sites, records and revisions, amendments, links, consents; holes; what others forge.

use std::collections::BTreeSet;

use tessera_consensus::kernel::Outcome;
use tessera_consensus::replica::{Replica, SEALED};
use tessera_consensus::wire::encode;
use tessera_consensus::wire::v1::{BATCH_COMMANDS_MAX, Kind, Leaf};
use tessera_consensus::{Hash, LedgerIndex, SiteId, UnixMillis};
use tessera_federation::blind::{Binding, Chain, IdentifierKey, Part};
use tessera_federation::history::{
    self, AuthorFault, CHAIN_MAX, Cause, FAULTS_TOLD_MAX, HOLES_MAX, History, PLACES_MAX, PlaceError, Problem, Unread,
    look_up, next_free,
};
use tessera_federation::ids::RecordId;
use tessera_federation::wire::Format;
use tessera_federation::wire::v1::*;
use tessera_policy::{
    BodyRegion, ConsentDecision, ConsentId, ConsentTerms, EvidenceClass, Grantee, Identifier, Modality, Purpose,
    PurposeScope, ReleaseState, StudyScope, Uid, VisibilityClass,
};
use tessera_storage::engine::Batch;

use crate::world::{B, B2, C, CORE, World, engine, person, rng, site};

const VERSION: u8 = tessera_federation::wire::v1::VERSION;
const AT: UnixMillis = UnixMillis(1_764_000_000_000);

struct Scene {
    world: World,
    replica: Replica,
    seed: u64,
}

fn scene() -> Scene {
    let world = World::new();
    let replica = world.replica(&engine());
    Scene { world, replica, seed: 0 }
}

fn details(of: &str, record: u8, revision: u32, state: ReleaseState) -> StudyDetails {
    let shown = StudyShown {
        study_uid: Uid::parse(&format!("1.2.{record}")).expect("uid"),
        study_date: None,
        modalities: vec![Modality::parse("CT").expect("modality")],
        body_region: BodyRegion::Chest,
        item: None,
        state,
        series: 1,
        objects: revision,
        status: ObjectStatus::Verified,
    };
    StudyDetails {
        version: VERSION,
        record: RecordId::from_bytes([record; 16]),
        revision,
        site: site(of),
        visibility: VisibilityClass::Open,
        unlinked: false,
        manifest: Hash::blake3(&[&[record]]),
        salt: [1; 16],
        shown: Some(shown),
    }
}

impl Scene {
    fn rng(&mut self) -> impl rand::CryptoRng + use<> {
        self.seed += 1;
        rng(self.seed)
    }

    fn apply(&mut self, node: usize, kind: Kind, public: impl Format, sealed: Vec<u8>) -> LedgerIndex {
        let (index, outcome) = self.world.apply(&self.replica, node, kind, public.to_bytes(), Some(sealed));
        assert_eq!(outcome, Outcome::Applied, "{index:?}");
        index
    }

    fn places(&mut self, key: &IdentifierKey, of: &SiteId, kind: Kind) -> (Tag, Option<Presence>) {
        let free = next_free(&self.replica, key, of, kind, &|_| false).expect("free");
        let presence = free.presence.map(|tag| history::presence(key, kind, of, tag, &mut self.rng()));
        (free.tag, presence)
    }

    /// Registers as an honest node does, at the next free places.
    fn study(&mut self, node: usize, key: &IdentifierKey, details: StudyDetails, supersedes: Option<Tag>) -> Tag {
        let (tag, presence) = self.places(key, &details.site.clone(), STUDY);
        self.study_at(node, key, details, tag, presence, supersedes)
    }

    fn study_at(
        &mut self,
        node: usize,
        key: &IdentifierKey,
        details: StudyDetails,
        tag: Tag,
        presence: Option<Presence>,
        supersedes: Option<Tag>,
    ) -> Tag {
        let for_patient = key.seal_format(Binding::tag(STUDY, Part::Details, &tag), &details, &mut self.rng());
        let sealed = StudySealed { version: VERSION, for_patient, for_regulators: Vec::new() };
        self.apply(node, STUDY, StudyPublic { version: VERSION, tag, presence, supersedes }, sealed.to_bytes());
        tag
    }

    fn amendment(&mut self, node: usize, key: &IdentifierKey, of: Tag, details: AmendmentDetails) {
        let kind = details.change.kind().number();
        let (tag, presence) = self.places(key, &details.site.clone(), AMENDMENT);
        let sealed = key.seal_format(Binding::tag(AMENDMENT, Part::Details, &tag), &details, &mut self.rng());
        self.apply(node, AMENDMENT, AmendmentPublic { version: VERSION, tag, of, kind, presence }, sealed.to_bytes());
    }

    fn consent(&mut self, node: usize, key: &IdentifierKey, public_id: u8, sealed_id: u8, author: &str) {
        let purposes = PurposeScope::Only(BTreeSet::from([Purpose::Treatment]));
        let (decision, grantee) = (ConsentDecision::Grant, Grantee::AllTreatingSites);
        let details = ConsentDetails {
            version: VERSION,
            consent: ConsentId::from_bytes([sealed_id; 16]),
            terms: ConsentTerms::new(decision, grantee, StudyScope::All, purposes, None).expect("terms"),
            author: site(author),
            evidence: EvidenceClass::StaffAttestation,
            proof: EvidenceProof::Attestation,
            recorded_at: AT,
        };
        let (tag, presence) = self.places(key, &site(author), CONSENT);
        let sealed = key.seal_format(Binding::tag(CONSENT, Part::Details, &tag), &details, &mut self.rng());
        let consent = ConsentId::from_bytes([public_id; 16]);
        self.apply(node, CONSENT, ConsentPublic { version: VERSION, consent, tag, presence }, sealed.to_bytes());
    }

    fn look_up(&self, key: &IdentifierKey) -> History {
        look_up(&self.replica, std::slice::from_ref(key)).expect("looks up")
    }
}

/// `site record.revision state`, current records only.
fn shown(history: &History) -> Vec<String> {
    let line = |study: &&history::FoundStudy| {
        let state = history.state_of(study).map_or("-", ReleaseState::as_str);
        let record = study.details.record.as_bytes()[0];
        format!("{} {record}.{} {state}", study.details.site, study.details.revision)
    };
    history.current().iter().map(line).collect()
}

fn whys(history: &History) -> Vec<String> {
    history.problems.iter().map(|problem| problem.cause.to_string()).collect()
}

#[test]
fn a_history_is_what_all_sites_registered_in_newest_revisions() {
    let mut scene = scene();
    let key = person(1);
    let first = scene.study(B, &key, details("hospital-b", 1, 1, ReleaseState::Complete), None);
    scene.study(C, &key, details("hospital-c", 2, 1, ReleaseState::Released), None);
    scene.study(B, &key, details("clinic-b", 3, 1, ReleaseState::Released), None);
    scene.study(B, &key, details("hospital-b", 1, 2, ReleaseState::Released), Some(first));
    scene.study(B, &person(2), details("hospital-b", 9, 1, ReleaseState::Released), None);

    let history = scene.look_up(&key);
    assert_eq!(shown(&history), ["hospital-c 2.1 released", "clinic-b 3.1 released", "hospital-b 1.2 released"]);
    assert_eq!(history.studies.len(), 4, "older revisions are there too, marked");
    assert_eq!(whys(&history), Vec::<String>::new());
    assert!(history.studies.iter().all(|study| !study.place.certified));
    scene.world.certify(&scene.replica);
    assert!(scene.look_up(&key).studies.iter().all(|study| study.place.certified));
    assert_eq!(shown(&scene.look_up(&person(2))), ["hospital-b 9.1 released"]);
    assert_eq!(shown(&scene.look_up(&person(3))), Vec::<String>::new());
}

#[test]
fn amendments_move_the_state_and_a_withdrawal_takes_the_record_away() {
    let mut scene = scene();
    let key = person(1);
    let one = scene.study(B, &key, details("hospital-b", 1, 1, ReleaseState::Complete), None);
    let two = scene.study(B, &key, details("hospital-b", 2, 1, ReleaseState::Released), None);
    let amend = |record: u8, change| {
        AmendmentDetails::new(RecordId::from_bytes([record; 16]), site("hospital-b"), AT, change, Hash::blake3(&[]))
    };
    scene.amendment(B, &key, one, amend(1, AmendmentChange::Release));
    assert_eq!(shown(&scene.look_up(&key)), ["hospital-b 1.1 released", "hospital-b 2.1 released"]);
    scene.amendment(B, &key, one, amend(1, AmendmentChange::Demographics { attributes: vec![0x0010_0010] }));
    assert_eq!(shown(&scene.look_up(&key)), ["hospital-b 1.1 amended", "hospital-b 2.1 released"]);
    scene.amendment(B, &key, two, amend(2, AmendmentChange::Withdraw));
    let history = scene.look_up(&key);
    assert_eq!(shown(&history), ["hospital-b 1.1 amended"]);
    assert_eq!((history.amendments.len(), whys(&history).len()), (3, 0));
}

#[test]
fn a_key_holder_cannot_speak_for_another_site() {
    let mut scene = scene();
    let key = person(1);
    scene.study(B, &key, details("hospital-b", 1, 1, ReleaseState::Released), None);
    let (b, c) = (site("hospital-b"), site("hospital-c"));

    // C writes into B's chain, in B's name: a false revision of B's record, without superseding it.
    let tag = key.tag(Chain::Site { site: &b, kind: STUDY }, 1);
    scene.study_at(C, &key, details("hospital-b", 1, 7, ReleaseState::Released), tag, None, None);
    // C writes into its own chain, naming B inside.
    let (tag, presence) = scene.places(&key, &c, STUDY);
    scene.study_at(C, &key, details("hospital-b", 1, 8, ReleaseState::Released), tag, presence, None);
    // C says that a site is present for which it does not speak.
    let presence_tag = key.tag(Chain::Presence, 2);
    let false_presence = history::presence(&key, STUDY, &site("hospital-a"), presence_tag, &mut scene.rng());
    let (tag, _) = scene.places(&key, &c, STUDY);
    let own = details("hospital-c", 3, 1, ReleaseState::Released);
    let own_tag = scene.study_at(C, &key, own, tag, Some(false_presence), None);
    // C withdraws B's record by an amendment of its own study.
    let record = RecordId::from_bytes([1; 16]);
    let withdraw = AmendmentDetails::new(record, c, AT, AmendmentChange::Withdraw, Hash::blake3(&[]));
    let taken = own_tag;
    scene.amendment(C, &key, taken, withdraw);
    // B goes on behind the place that was taken from it.
    scene.study(B, &key, details("hospital-b", 2, 1, ReleaseState::Released), None);

    let history = scene.look_up(&key);
    assert_eq!(shown(&history), ["hospital-b 1.1 released", "hospital-b 2.1 released"]);
    let by_c =
        |fault: &str| format!("{fault}; node {} wrote it so, and it counts for nothing", scene.world.node(C).short());
    let mut whys = whys(&history);
    whys.sort_unstable();
    assert_eq!(
        whys,
        [
            by_c("it amends a record that it does not belong to"),
            by_c("it is in the name of hospital-a, for which its author does not speak"),
            by_c("it is in the name of hospital-b, for which its author does not speak"),
            by_c("its sealed site is not the public one"),
        ]
    );
    assert!(history.problems.iter().all(|problem| !problem.may_hide_something()));
}

#[test]
fn what_does_not_open_is_a_problem_and_hides_nothing_else() {
    let mut scene = scene();
    let key = person(1);
    let b = site("hospital-b");
    scene.study(B, &key, details("hospital-b", 1, 1, ReleaseState::Released), None);
    let tag = key.tag(Chain::Site { site: &b, kind: STUDY }, 1);
    let public = StudyPublic { version: VERSION, tag, presence: None, supersedes: None };
    scene.apply(B, STUDY, public, b"not a sealed study".to_vec());
    let tag = key.tag(Chain::Site { site: &b, kind: STUDY }, 2);
    let for_patient = person(2).seal(Binding::tag(STUDY, Part::Details, &tag), b"", &mut scene.rng());
    let sealed = StudySealed { version: VERSION, for_patient, for_regulators: Vec::new() };
    scene.apply(B, STUDY, StudyPublic { version: VERSION, tag, presence: None, supersedes: None }, sealed.to_bytes());
    // A consent's tag where a study's is expected.
    let tag = key.tag(Chain::Site { site: &b, kind: STUDY }, 3);
    let consent = ConsentId::from_bytes([1; 16]);
    scene.apply(B, CONSENT, ConsentPublic { version: VERSION, consent, tag, presence: None }, vec![1]);
    scene.study(B, &key, details("hospital-b", 5, 1, ReleaseState::Released), None);

    let history = scene.look_up(&key);
    assert_eq!(shown(&history), ["hospital-b 1.1 released", "hospital-b 5.1 released"]);
    assert_eq!(history.problems.len(), 3, "{:?}", history.problems);
    let indices: Vec<u64> = history.problems.iter().filter_map(|problem| problem.index).map(|index| index.0).collect();
    assert_eq!(indices, [1, 2, 3]);
    let b = scene.world.node(B);
    for problem in &history.problems {
        assert!(matches!(&problem.cause, Cause::Author { author, .. } if *author == b), "{problem:?}");
    }
}

/// The sealed body of an entry as this replica has it; `None`: it lacks it.
fn set_sealed(replica: &Replica, index: LedgerIndex, body: Option<&[u8]>) {
    let entry = replica.entry(index).expect("reads").expect("an entry");
    let hash = Leaf::from_bytes(&entry.leaf).expect("a leaf").command.body.sealed.expect("a sealed body");
    let mut batch = Batch::new();
    match body {
        Some(body) => batch.put(SEALED, encode(&hash), body),
        None => batch.delete(SEALED, encode(&hash)),
    };
    replica.engine().submit(batch).expect("a working disk");
}

#[test]
fn what_was_not_read_here_is_told_apart_from_what_nobody_can_read() {
    let mut scene = scene();
    let key = person(1);
    scene.consent(B, &key, 1, 1, "hospital-b");
    scene.consent(C, &key, 2, 2, "hospital-c");
    let consents = |scene: &Scene| scene.look_up(&key).consents.len();
    let of_b = scene.look_up(&key).consents[0].place.index;
    let whole = scene.replica.entry(of_b).expect("reads").expect("an entry").sealed.expect("a body");
    let mut flipped = whole.clone();
    flipped[40] ^= 1;
    for (body, expected) in [
        (None, Unread::BodyMissing),
        (Some(flipped.as_slice()), Unread::Damaged),
        (Some(b"short".as_slice()), Unread::Damaged),
    ] {
        set_sealed(&scene.replica, of_b, body);
        let history = scene.look_up(&key);
        let problem = Problem { site: Some(site("hospital-b")), index: Some(of_b), cause: Cause::Unread(expected) };
        assert_eq!(history.problems, std::slice::from_ref(&problem));
        assert!(problem.may_hide_something());
        assert_eq!(consents(&scene), 1, "the other one is there all the same");
    }
    set_sealed(&scene.replica, of_b, Some(&whole));
    assert_eq!((consents(&scene), scene.look_up(&key).problems.len()), (2, 0));

    // The same damage to what C's node wrote in B's name: it is worth nothing, whatever its body is.
    let tag = key.tag(Chain::Site { site: &site("hospital-b"), kind: CONSENT }, 1);
    let consent = ConsentId::from_bytes([3; 16]);
    let public = ConsentPublic { version: VERSION, consent, tag, presence: None };
    let foreign = scene.apply(C, CONSENT, public, b"rubbish".to_vec());
    for body in [Some(b"rubbish".as_slice()), None] {
        set_sealed(&scene.replica, foreign, body);
        let history = scene.look_up(&key);
        let fault = AuthorFault::ForeignSite(site("hospital-b"));
        let expected = Cause::Author { author: scene.world.node(C), fault };
        assert_eq!(history.problems.iter().map(|problem| &problem.cause).collect::<Vec<_>>(), [&expected]);
    }
}

#[test]
fn a_chain_that_is_longer_than_is_read_may_hide_something() {
    let mut scene = scene();
    let (key, b) = (person(1), site("hospital-b"));
    let (_, presence) = scene.places(&key, &b, CONSENT);
    let rubbish = |scene: &mut Scene, counter: u64, presence: Option<Presence>| {
        let tag = key.tag(Chain::Site { site: &b, kind: CONSENT }, counter);
        let consent = ConsentId::from_bytes(u128::from(counter).to_be_bytes());
        let public = ConsentPublic { version: VERSION, consent, tag, presence };
        scene.apply(B, CONSENT, public, b"rubbish".to_vec());
    };
    rubbish(&mut scene, 0, presence);
    (1..CHAIN_MAX).for_each(|counter| rubbish(&mut scene, counter, None));
    let unread = |scene: &Scene| -> Vec<Problem> {
        scene.look_up(&key).problems.into_iter().filter(Problem::may_hide_something).collect()
    };
    assert_eq!(unread(&scene), []);
    let full = next_free(&scene.replica, &key, &b, CONSENT, &|_| false).expect_err("nobody would read more");
    assert!(matches!(full, PlaceError::ChainFull { .. }), "{full}");
    rubbish(&mut scene, CHAIN_MAX, None);
    let cause = Cause::Unread(Unread::ChainTooLong { most: Some(scene.world.node(B)) });
    assert_eq!(unread(&scene), [Problem { site: Some(b.clone()), index: None, cause }]);
}

#[test]
fn what_others_put_into_a_sites_chain_closes_the_patient_to_nobody() {
    let mut scene = scene();
    let (key, b) = (person(1), site("hospital-b"));
    for counter in 0..=CHAIN_MAX {
        let tag = key.tag(Chain::Site { site: &b, kind: CONSENT }, counter);
        let presence = history::presence(&key, CONSENT, &b, key.tag(Chain::Presence, counter), &mut scene.rng());
        let consent = ConsentId::from_bytes(u128::from(counter).to_be_bytes());
        let public = ConsentPublic { version: VERSION, consent, tag, presence: Some(presence) };
        scene.apply(C, CONSENT, public, b"rubbish".to_vec());
    }
    scene.consent(B, &key, 250, 250, "hospital-b");
    let history = scene.look_up(&key);
    assert_eq!(history.consents.len(), 1, "B's word stands where B found place, and is read there");
    let author = scene.world.node(C);
    let blamed = |problem: &&Problem| matches!(problem.cause, Cause::Author { author: named, .. } if named == author);
    assert_eq!(history.problems.iter().filter(blamed).count(), history.problems.len());
    assert_eq!(history.problems.len(), 2 * FAULTS_TOLD_MAX, "some of each chain");
}

#[test]
fn places_that_others_took_are_passed_over_up_to_a_bound_and_beyond_it_something_may_be_hidden() {
    let mut scene = scene();
    let (key, b) = (person(1), site("hospital-b"));
    scene.consent(B, &key, 250, 250, "hospital-b");
    // All but one of the places behind B's first record.
    let rubbish: Vec<u64> = (1..PLACES_MAX - 1).collect();
    for counters in rubbish.chunks(BATCH_COMMANDS_MAX) {
        let command = |(before, counter): (u64, &u64)| {
            let tag = key.tag(Chain::Site { site: &b, kind: CONSENT }, *counter);
            let consent = ConsentId::from_bytes(u128::from(*counter).to_be_bytes());
            let public = ConsentPublic { version: VERSION, consent, tag, presence: None }.to_bytes();
            scene.world.later_command(&scene.replica, C, before, CONSENT, public, Some(b"rubbish".to_vec()))
        };
        let batch = scene.world.batch(&scene.replica, (0..).zip(counters).map(command).collect());
        let applied = scene.replica.apply_batch(&batch, Default::default()).expect("applies");
        assert!(applied.outcomes.iter().all(|(_, outcome)| *outcome == Outcome::Applied));
    }
    let hidden = |scene: &Scene| -> Vec<Problem> {
        scene.look_up(&key).problems.into_iter().filter(Problem::may_hide_something).collect()
    };
    scene.consent(B, &key, 251, 251, "hospital-b");
    assert_eq!(scene.look_up(&key).consents.len(), 2, "B's word at the last place that is read");
    let cause = Cause::Unread(Unread::ChainTooLong { most: Some(scene.world.node(C)) });
    assert_eq!(hidden(&scene), [Problem { site: Some(b.clone()), index: None, cause }], "more may lie behind it");
    let full = next_free(&scene.replica, &key, &b, CONSENT, &|_| false).expect_err("nobody would read more");
    assert!(matches!(full, PlaceError::ChainFull { .. }), "{full}");
    assert!(next_free(&scene.replica, &key, &b, STUDY, &|_| false).is_ok(), "other chains are as they were");
}

#[test]
fn consents_come_with_their_revocation_and_only_under_the_id_that_can_be_revoked() {
    let mut scene = scene();
    let key = person(1);
    scene.consent(B, &key, 1, 1, "hospital-b");
    scene.consent(C, &key, 2, 2, "hospital-c");
    // Under the public id 3, yet 4 inside: a revocation of 3 would not reach it.
    scene.consent(C, &key, 3, 4, "hospital-c");
    let revocation = RevocationPublic { version: VERSION, consent: ConsentId::from_bytes([1; 16]) };
    let (revoked_at, outcome) = scene.world.apply(&scene.replica, B2, REVOCATION, revocation.to_bytes(), None);
    assert_eq!(outcome, Outcome::Applied);

    let history = scene.look_up(&key);
    let found: Vec<(u8, Option<LedgerIndex>)> =
        history.consents.iter().map(|consent| (consent.details.consent.as_bytes()[0], consent.revoked)).collect();
    assert_eq!(found, [(1, Some(revoked_at)), (2, None)]);
    let author = scene.world.node(C);
    let causes: Vec<&Cause> = history.problems.iter().map(|problem| &problem.cause).collect();
    assert_eq!(causes, [&Cause::Author { author, fault: AuthorFault::Contradiction("id") }]);
}

#[test]
fn links_lead_to_the_other_identifier_until_they_are_undone() {
    let mut scene = scene();
    let (local, resident) = (person(1), person(2));
    let identifier = |text: &str| Identifier::parse(text).expect("identifier");
    let (local_id, other_id) = (identifier("hospital:HOSPITAL-A/1"), identifier("hospital:REGION/77"));
    let of = site("hospital-a");
    let mut halves = Vec::new();
    let mut sealed = Vec::new();
    for (key, other) in [(&local, &other_id), (&resident, &local_id)] {
        let (tag, presence) = scene.places(key, &of, LINK);
        let details = LinkDetails {
            version: VERSION,
            other: other.clone(),
            site: of.clone(),
            evidence: EvidenceClass::StaffAttestation,
            recorded_at: AT,
        };
        sealed.push(key.seal_format(Binding::tag(LINK, Part::Details, &tag), &details, &mut scene.rng()));
        halves.push(LinkHalf { tag, presence });
    }
    let tags = [halves[0].tag, halves[1].tag];
    let halves: [LinkHalf; 2] = halves.try_into().expect("two");
    let sealed = LinkSealed { version: VERSION, halves: sealed.try_into().expect("two") };
    scene.apply(CORE, LINK, LinkPublic { version: VERSION, halves }, sealed.to_bytes());
    assert_eq!(scene.look_up(&local).linked(), [&other_id]);
    assert_eq!(scene.look_up(&resident).linked(), [&local_id]);

    let unlink = UnlinkPublic { version: VERSION, link: tags };
    assert_eq!(scene.world.apply(&scene.replica, CORE, UNLINK, unlink.to_bytes(), None).1, Outcome::Applied);
    let history = scene.look_up(&local);
    assert_eq!((history.linked().len(), history.links.len()), (0, 1), "undone is a state, not a deletion");
}

#[test]
fn chains_are_read_over_short_holes_and_writers_fill_them() {
    let mut scene = scene();
    let (key, b) = (person(1), site("hospital-b"));
    let tag_at = |counter| key.tag(Chain::Site { site: &b, kind: STUDY }, counter);
    // Places 0 and 1 are on their way; 2 is already there, then a hole as long as the bound, and one more.
    let reserved = |tag: &Tag| *tag == tag_at(0) || *tag == tag_at(1);
    let free = next_free(&scene.replica, &key, &b, STUDY, &reserved).expect("free");
    assert_eq!(free.tag, tag_at(2));
    let presence = free.presence.map(|tag| history::presence(&key, STUDY, &b, tag, &mut scene.rng()));
    scene.study_at(B, &key, details("hospital-b", 2, 1, ReleaseState::Released), tag_at(2), presence, None);
    let far = 2 + 1 + HOLES_MAX;
    scene.study_at(B, &key, details("hospital-b", 3, 1, ReleaseState::Released), tag_at(far), None, None);
    scene.study_at(
        B,
        &key,
        details("hospital-b", 4, 1, ReleaseState::Released),
        tag_at(far + 2 + HOLES_MAX),
        None,
        None,
    );
    assert_eq!(
        shown(&scene.look_up(&key)),
        ["hospital-b 2.1 released", "hospital-b 3.1 released"],
        "a hole within the bound is read over, a longer one ends the chain"
    );
    let free = next_free(&scene.replica, &key, &b, STUDY, &|_| false).expect("free");
    assert_eq!((free.tag, free.presence), (tag_at(0), None), "the first hole is filled first; presence is known");
}

#[test]
fn sites_that_write_at_once_take_the_next_presence() {
    let mut scene = scene();
    let key = person(1);
    let (tag, presence) = scene.places(&key, &site("hospital-b"), STUDY);
    // C, not knowing of B yet, takes the same presence and is rejected; then it takes the next.
    let (other_tag, other_presence) = scene.places(&key, &site("hospital-c"), STUDY);
    assert_eq!(presence.as_ref().map(|p| p.tag), other_presence.as_ref().map(|p| p.tag));
    scene.study_at(B, &key, details("hospital-b", 1, 1, ReleaseState::Released), tag, presence, None);
    let public = StudyPublic { version: VERSION, tag: other_tag, presence: other_presence, supersedes: None };
    let (_, outcome) = scene.world.apply(&scene.replica, C, STUDY, public.to_bytes(), Some(vec![1]));
    assert_eq!(outcome, Outcome::Rejected(tessera_federation::machine::rejections::PRESENCE_TAKEN));
    scene.study(C, &key, details("hospital-c", 2, 1, ReleaseState::Released), None);
    assert_eq!(shown(&scene.look_up(&key)), ["hospital-b 1.1 released", "hospital-c 2.1 released"]);
}
