//! A core without its majority: hospitals go on by themselves, say what waits, and nothing is lost or doubled when
//! the others come back. A holder that hears of no certificate stops showing images by itself.
//!
//! Real processes, killed without warning. What old copies of a directory do is in `restore`.

use std::time::{Duration, Instant};

use serde_json::Value;
use tessera_tests::{A, ALLIANCE, B, C, D, Examination, Federation, Node, curl, entries_of, study_entries, warns};

/// What a stale holder's answer may take on a busy machine; asking it five times over takes 45 s.
const ANSWER_DEADLINE: Duration = Duration::from_secs(25);

/// Status, Retry-After and body of a WADO-RS request for a study of another hospital.
fn by_dicomweb(node: &Node, examination: &Examination) -> [String; 3] {
    let url = node.url(&format!("/dicom-web/studies/{}/metadata", examination.study));
    let patient = format!("Tessera-Patient: {}", examination.patient("SITED"));
    let headers = ["--header", &patient, "--header", "Tessera-Purpose: treatment", "--header", "Tessera-User: li.wei"];
    let arguments = [&headers[..], &["--header", "Accept: application/dicom+json"]].concat();
    let [text, status, retry_after] = curl(&url, &arguments, ["%{http_code}", "%header{retry-after}"]);
    [status, retry_after, text]
}

#[test]
fn without_a_majority_registration_waits_and_says_so_and_everything_arrives_once_when_it_is_back() {
    let mut federation = Federation::found(&ALLIANCE, &[]);
    let phantom = federation.phantom(&["--patients", "4", "--slices", "4"]);
    let patient = phantom.shared_patient();
    for node in [A, D] {
        federation.nodes[node].run(&["crosswalk", &phantom.crosswalk().display().to_string()]).success();
    }
    federation.nodes[A].send(&[phantom.of("SITEA")]);
    let before = study_entries(&federation.settle());

    federation.nodes[B].kill();
    federation.nodes[C].kill();
    // A surviving core hospital and one that only follows both go on taking images.
    let (a, d) = (phantom.examinations("outage"), phantom.examinations("SITED"));
    let (early, late) = a[0].files.split_at(a[0].files.len() / 2);
    federation.nodes[A].send(early);
    federation.nodes[D].send(&[phantom.of("SITED")]);
    for index in [A, D] {
        let node = &federation.nodes[index];
        let waiting = |status: &Value| status["receiving"] == 0 && status["outbox_pending"].as_u64() > Some(0);
        let status = node.await_status("a registration that waits", waiting);
        assert_eq!(entries_of(&status, "study"), before, "{}: registered without a majority", node.seat.name);
        let status = node.await_status("the warning", |status| warns(status, "registrations wait"));
        assert!(status["outbox_pending"].as_u64() > Some(0), "{status:#}");
        node.run(&["status"]).success().says("registrations wait");
        let page = tessera_tests::page(&node.url("/"));
        assert!(page.contains("registrations wait"), "{}'s page is silent about it", node.seat.name);
    }
    // More of a study whose first revision still waits: the next one must not be mistaken for it.
    federation.nodes[A].send(late);
    // Local reading goes on: what came during the outage, and what was there before.
    for (node, stored) in [(A, &a), (D, &d)] {
        let here = federation.nodes[node].instances(&stored[0].study);
        assert_eq!(here.len(), stored[0].files.len(), "what was just stored can't be read");
    }
    assert!(!federation.nodes[A].history(&patient).is_empty(), "A's history ended with the majority");

    federation.nodes[B].start();
    federation.nodes[C].start();
    let states = federation.settle();
    let expected = before + d.len() as u64 + 2;
    assert_eq!(study_entries(&states), expected, "each revision is registered exactly once");
    // By the number under which it was registered: A's crosswalk knew the person.
    let persons = phantom.persons();
    let person = persons.iter().find(|person| person.patient_id == a[0].patient_id).expect("in the crosswalk");
    let history = federation.nodes[B].history(&person.identifier);
    let of_it: Vec<&Value> = history.iter().filter(|study| study["study_uid"] == a[0].study.as_str()).collect();
    assert_eq!(of_it.len(), 1, "{history:#?}");
    assert_eq!((&of_it[0]["objects"], &of_it[0]["revision"]), (&a[0].files.len().into(), &2.into()), "{history:#?}");
    assert!(states.iter().all(|status| status["state_digest"] == states[0]["state_digest"]), "the states differ");
    assert!(states.iter().all(|status| !warns(status, "registrations wait")), "a warning outlived its reason");
    for node in [A, B, D] {
        let history = federation.nodes[node].history(&patient);
        let of_d = history.iter().filter(|study| d.iter().any(|known| study["study_uid"] == known.study.as_str()));
        assert_eq!(of_d.count(), 1, "D's study of the shared patient, as seen by {node}: {history:#?}");
    }
}

#[test]
fn a_holder_that_hears_of_no_certificate_refuses_and_says_that_it_is_cut_off() {
    let limit_ms = 15_000;
    let mut federation = Federation::found(&ALLIANCE, &["--freshness-limit-ms", &limit_ms.to_string()]);
    let phantom = federation.phantom(&["--patients", "8", "--slices", "2"]);
    federation.nodes[D].send(&[phantom.of("SITED")]);
    federation.settle();
    let examinations = phantom.examinations("SITED");
    let [first, second] = [&examinations[0], &examinations[1]];
    for examination in [first, second] {
        federation.allow(D, A, &examination.patient("SITED"));
    }
    federation.settle();
    let fetch = |federation: &Federation, examination: &Examination| {
        let patient = examination.patient("SITED");
        federation.nodes[A].run(&["fetch", &examination.study, "--id", &patient])
    };
    // What allows both: only time will stand between.
    fetch(&federation, first).success();
    let before = federation.settle();

    federation.nodes[B].kill();
    federation.nodes[C].kill();
    let stale = |status: &Value| status["freshness_ms"].as_u64() > Some(limit_ms);
    federation.nodes[D].await_status("a certificate older than the limit", stale);
    // Somebody waits for the answer: the holder tries to catch up for 8 s, once.
    let asked = Instant::now();
    fetch(&federation, second).exits_with(1).says("refused by").says("too old to decide");
    assert!(asked.elapsed() < ANSWER_DEADLINE, "the refusal took {:?}", asked.elapsed());
    let [status, retry_after, text] = by_dicomweb(&federation.nodes[A], second);
    assert_eq!((status.as_str(), retry_after.as_str()), ("503", "60"), "{text}");
    assert!(text.contains("refused by") && text.contains("too old to decide"), "{text}");
    let status = federation.nodes[D].status().expect("the holder runs");
    assert_eq!(status["outbox_pending"], 0, "a disclosure was written for what was refused: {status:#}");

    federation.nodes[B].start();
    federation.nodes[C].start();
    let states = federation.settle();
    assert_eq!(entries_of(&states[D], "disclosure"), entries_of(&before[D], "disclosure"));
    fetch(&federation, second).success();
}
