//! Whose consent opens what: tests of members that share a ledger, each holder deciding for itself.

use tessera_consensus::UnixMillis;
use tessera_consensus::kernel::Rejection;
use tessera_federation::blind::{asks, blind};
use tessera_federation::confirmation::PatientCode;
use tessera_federation::machine;
use tessera_federation::wire::v1::{BlindAnswer, BlindRefusal};
use tessera_policy::{ConsentId, Identifier};

use super::consent::{DAY_MS, granting};
use super::testing::{A, B, C, REGULATOR, World, patient};
use crate::archive::ingest::now_ms;
use crate::control::wire::{ConsentCodeCall, ConsentDone, ConsentGrantCall, ConsentRevokeCall, HistoryCall, IdCall};
use crate::founding::rng;

fn in_days(days: u64) -> UnixMillis {
    UnixMillis(now_ms()).plus_ms(days * DAY_MS)
}

fn asked(patient: &Identifier) -> IdCall {
    IdCall { id: patient.reveal_command_form(), user: String::new() }
}

/// A grant to Hospital B for treatment, recorded by `recorder`.
async fn grants(world: &World, recorder: usize, patient: &Identifier, code: Option<&str>, days: u64) -> ConsentId {
    let member = &world.members[recorder];
    let terms = granting(member, "hospital-b", "treatment", in_days(days)).expect("terms");
    let consent = member.record_consent(patient.clone(), terms, code).await.expect("a consent");
    world.commit().await;
    consent
}

async fn code(world: &World, patient: &Identifier, purpose: &str) -> String {
    let call = ConsentCodeCall {
        id: patient.reveal_command_form(),
        to_site: "hospital-b".into(),
        purpose: purpose.into(),
        days: 30,
    };
    world.members[A].patient_code(&call).await.expect("a code").code
}

async fn revokes(world: &World, at: usize, consent: &ConsentId, patient: Option<&Identifier>) -> ConsentDone {
    let id = patient.map(Identifier::reveal_command_form);
    let call = ConsentRevokeCall { consent: consent.to_string(), id, user: String::new() };
    world.while_committing(world.members[at].revoke(call)).await.expect("revoked")
}

async fn allows(world: &World, holder: usize, patient: &Identifier) -> bool {
    world.asks(holder, patient).await.is_allowed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strangers_link_lends_no_consent() {
    let world = World::found().await;
    let (asked, other) = (patient(1), patient(2));
    grants(&world, A, &other, None, 30).await;
    assert!(allows(&world, A, &other).await, "Hospital A's own attestation for its patient");
    world.members[B].link(&asked, &other).await.expect("a link");
    world.commit().await;
    assert!(!allows(&world, A, &asked).await, "Hospital B linked its victim to a consenting patient");
    world.members[A].link(&asked, &other).await.expect("a link");
    world.commit().await;
    assert!(allows(&world, A, &asked).await, "Hospital A itself knows that they are one person");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_confirms_one_grant_for_what_the_patient_agreed_to() {
    let world = World::found().await;
    let (shared, longer, other_purpose) = (patient(1), patient(2), patient(3));
    let first = code(&world, &shared, "treatment").await;
    let consent = grants(&world, B, &shared, Some(&first), 30).await;
    assert!(allows(&world, A, &shared).await, "confirmed by the patient");
    let second = code(&world, &shared, "treatment").await;
    assert!(allows(&world, A, &shared).await, "a second code leaves the first one's consent alone");
    assert!(revokes(&world, B, &consent, None).await.certified);
    assert!(!allows(&world, A, &shared).await, "revoked");
    grants(&world, B, &shared, Some(&first), 30).await;
    assert!(!allows(&world, A, &shared).await, "a used code confirms nothing more");
    grants(&world, B, &shared, Some(&second), 30).await;
    assert!(allows(&world, A, &shared).await, "the second code is still good");

    let typed = code(&world, &longer, "treatment").await;
    grants(&world, B, &longer, Some(&typed), 3_000).await;
    assert!(!allows(&world, A, &longer).await, "for longer than the patient agreed to");
    let typed = code(&world, &other_purpose, "research").await;
    grants(&world, B, &other_purpose, Some(&typed), 30).await;
    assert!(!allows(&world, A, &other_purpose).await, "for another purpose");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_says_whose_images_a_grant_opens_and_whether_it_opens_any() {
    let world = World::found().await;
    let shared = patient(1);
    let good = code(&world, &shared, "treatment").await;
    let mistyped = format!("hospital-a/{}", PatientCode::from_bytes([7; 10]).reveal());
    let confirmed = grants(&world, B, &shared, Some(&good), 30).await;
    let used = grants(&world, B, &shared, Some(&good), 30).await;
    let wrong = grants(&world, B, &shared, Some(&mistyped), 30).await;
    let attested = grants(&world, C, &shared, None, 30).await;
    let self_attested = grants(&world, B, &shared, None, 30).await;
    let by_both = grants(&world, C, &shared, Some(&mistyped), 30).await;
    let nothing_of_a = "opens nothing of hospital-a: its code was not handed out there for that, was used before, or came \
                        too late";
    let judged = "hospital-a judges its code when it is asked";
    let (of_a, of_c) = ("in force for images of hospital-a", "in force for images of hospital-c");
    let nothing = "opens nothing: who asks for images can't attest it";
    let (wrong_of_both, judged_of_both) = (format!("{of_c}; {nothing_of_a}"), format!("{of_c}; {judged}"));
    for (at, expected) in [
        (A, [(confirmed, of_a), (used, nothing_of_a), (wrong, nothing_of_a), (by_both, &wrong_of_both)]),
        (B, [(confirmed, judged), (used, judged), (wrong, judged), (by_both, &judged_of_both)]),
    ] {
        let expected = expected.into_iter().chain([(attested, of_c), (self_attested, nothing)]);
        let shown = world.members[at].consents(asked(&shared)).await.expect("a list");
        for (consent, state) in expected {
            let shown = shown.iter().find(|shown| shown.consent == consent.to_string()).expect("it is listed");
            assert_eq!(shown.state, state, "at {at}");
        }
    }
    // Who only looks spends no code.
    let kept = world.members[A].consents(asked(&shared)).await.expect("a list");
    assert!(kept.iter().any(|shown| shown.state == of_a));
    assert!(allows(&world, A, &shared).await && allows(&world, C, &shared).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_gives_a_code_in_again_hears_of_the_consent_that_it_confirmed() {
    let world = World::found().await;
    let shared = patient(1);
    let typed = code(&world, &shared, "treatment").await;
    let call = |purpose: &str| ConsentGrantCall {
        id: shared.reveal_command_form(),
        to_site: "hospital-b".into(),
        purpose: purpose.into(),
        patient_code: Some(typed.clone()),
        days: 30,
    };
    let first = world.while_committing(world.members[B].grant(call("treatment"))).await.expect("granted");
    let again = world.while_committing(world.members[B].grant(call("treatment"))).await.expect("the same");
    assert_eq!((&again.consent, again.ledger_index, again.certified), (&first.consent, first.ledger_index, true));
    let consent = first.consent.parse().expect("a consent");
    assert!(revokes(&world, B, &consent, None).await.certified);
    assert!(!allows(&world, A, &shared).await, "nothing else was recorded with it");
    let revoked = world.while_committing(world.members[B].grant(call("treatment"))).await;
    let why = revoked.expect_err("it confirms one grant").to_string();
    assert!(why.contains(&format!("given in before, for consent {}", first.consent)), "{why}");
}

/// What a clerk got wrong the first time confirmed nothing, so it spent nothing: the same code serves for what is right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_that_was_wrong_is_put_right_with_the_same_code() {
    let world = World::found().await;
    let right = |patient: &Identifier, code: &str| ConsentGrantCall {
        id: patient.reveal_command_form(),
        to_site: "hospital-b".into(),
        purpose: "treatment".into(),
        patient_code: Some(code.to_owned()),
        days: 30,
    };
    for (number, wrong) in [
        (1, &(|call: ConsentGrantCall| ConsentGrantCall { days: 3_000, ..call }) as &dyn Fn(ConsentGrantCall) -> _),
        (2, &|call: ConsentGrantCall| ConsentGrantCall { purpose: "research".into(), ..call }),
        (3, &|call: ConsentGrantCall| ConsentGrantCall { to_site: "hospital-c".into(), ..call }),
        (4, &|call: ConsentGrantCall| ConsentGrantCall { id: patient(99).reveal_command_form(), ..call }),
    ] {
        let patient = patient(number);
        let call = right(&patient, &code(&world, &patient, "treatment").await);
        let first = world.while_committing(world.members[B].grant(wrong(call.clone()))).await.expect("recorded");
        assert!(!allows(&world, A, &patient).await, "{number}: not what the patient agreed to");
        let then = world.while_committing(world.members[B].grant(call)).await.expect("recorded");
        assert_ne!(first.consent, then.consent, "{number}");
        assert!(allows(&world, A, &patient).await, "{number}: put right");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_patient_takes_back_elsewhere_is_denied_everywhere() {
    let mut world = World::found().await;
    let shared = patient(1);
    grants(&world, C, &shared, None, 30).await;
    let typed = code(&world, &shared, "treatment").await;
    let consent = grants(&world, B, &shared, Some(&typed), 30).await;
    assert!(allows(&world, A, &shared).await && allows(&world, C, &shared).await);

    let nameless = revokes(&world, A, &consent, None).await;
    assert!(nameless.denial.is_none() && nameless.ledger_index.is_none() && !nameless.certified);
    assert!(nameless.undone[0].contains("--id"), "{:?}", nameless.undone);
    assert!(!allows(&world, A, &shared).await, "it bites at once where it was said");
    world.reopen(A);
    world.commit().await;
    assert!(!allows(&world, A, &shared).await, "and after a restart");

    let done = revokes(&world, A, &consent, Some(&shared)).await;
    assert!(done.certified && done.denial.is_some() && !done.undone.is_empty(), "{done:?}");
    assert!(done.recorded_at < done.effective_at_latest, "{done:?}");
    let again = revokes(&world, A, &consent, Some(&shared)).await;
    assert_eq!(again.denial, done.denial, "who asks twice gets the first answer");
    // Hospital C's own grant has the same grantee and purpose; the patient's later word outranks it.
    assert!(!allows(&world, C, &shared).await, "every holder that finds the denial refuses");
    let shown = world.members[C].consents(asked(&shared)).await.expect("a list");
    let denial = shown.iter().find(|shown| shown.decision == "deny").expect("the denial is listed");
    assert_eq!((denial.recorded_by.as_str(), denial.state.as_str()), ("hospital-a", "in force"));
    assert!(denial.effective_at_latest.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_that_lost_its_place_is_written_again_and_a_rejected_one_is_told() {
    let world = World::found().await;
    let shared = patient(1);
    let mut consents = Vec::new();
    for recorder in [A, B, C] {
        let member = &world.members[recorder];
        let terms = granting(member, "hospital-b", "treatment", in_days(30)).expect("terms");
        consents.push(member.record_consent(shared.clone(), terms, None).await.expect("a consent"));
    }
    // All three take the patient's first presence; two are rejected, and one of them once more.
    for _ in 0..3 {
        world.commit().await;
    }
    let view = world.members[A].replica.view();
    for consent in &consents {
        assert!(machine::consent(view, consent).expect("state").is_some(), "{consent} never reached the ledger");
    }
    let member = &world.members[B];
    let terms = granting(member, "hospital-b", "treatment", in_days(30)).expect("terms");
    let consent = member.record_consent(shared.clone(), terms, None).await.expect("a consent");
    member.consent_settled(consent, Err(Rejection::MALFORMED)).expect("settled");
    let told = member.await_consent(consent, false).await;
    assert!(told.is_err_and(|error| error.to_string().contains("rejected")), "never recorded");
    let shown = member.consents(asked(&shared)).await.expect("a list");
    assert!(shown.iter().any(|shown| shown.consent == consent.to_string() && shown.state.contains("not recorded")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_taken_back_before_the_ledger_has_it_is_revoked_when_it_comes() {
    let world = World::found().await;
    let shared = patient(1);
    let member = &world.members[A];
    let terms = granting(member, "hospital-b", "treatment", in_days(30)).expect("terms");
    let consent = member.record_consent(shared.clone(), terms, None).await.expect("a consent");
    let done = revokes(&world, A, &consent, None).await;
    assert!(done.certified && done.effective_at_latest.is_some(), "{done:?}");
    assert!(!allows(&world, A, &shared).await);
    assert!(revokes(&world, A, &consent, None).await.certified, "once more is no error");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_regulator_looks_nobody_up() {
    let world = World::found().await;
    let core = &world.members[A];
    let ask = || {
        let wanted = asks(&patient(1), core.this_year(), core.this_year()).remove(0);
        blind(wanted, &mut rng()).expect("a request").0
    };
    let refused = core.evaluate_for(world.node(REGULATOR), &ask()).await.expect("an answer");
    assert_eq!(refused, BlindAnswer::Refused(BlindRefusal::Observer));
    let evaluated = core.evaluate_for(world.node(B), &ask()).await.expect("an answer");
    assert!(matches!(evaluated, BlindAnswer::Evaluated(_)));
    let history =
        world.members[REGULATOR].history(&HistoryCall { id: "hospital:TRIAL/1".into(), user: String::new() }).await;
    assert!(history.is_err_and(|error| error.to_string().contains("looks no patient up")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denial_does_not_wait_behind_registrations_and_is_never_said_to_be_recorded_when_it_is_not() {
    let mut world = World::found().await;
    let shared = patient(1);
    let consent = grants(&world, C, &shared, None, 30).await;
    let shrink = |world: &mut World, urgent| {
        std::sync::Arc::get_mut(&mut world.members[A]).expect("nobody else holds it").outbox.shrink(urgent, 0);
    };
    shrink(&mut world, 0);
    let done = revokes(&world, A, &consent, Some(&shared)).await;
    assert!(done.denial.is_none() && done.undone[0].contains("the denial was not recorded"), "{:?}", done.undone);
    assert!(allows(&world, C, &shared).await);
    shrink(&mut world, 1);
    let done = revokes(&world, A, &consent, Some(&shared)).await;
    assert!(done.denial.is_some() && done.certified, "{done:?}");
    assert!(!allows(&world, C, &shared).await);
}
