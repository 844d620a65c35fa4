//! Working copies as a client of DICOMweb meets them: whole or not at all, for their time and purpose, and never in place
//! of the hospital's own study.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use futures::StreamExt;
use serde_json::{Value, json};
use tessera_policy::Purpose;

use crate::archive::copies::Ground;
use crate::archive::ingest::now_ms;
use crate::archive::testing::{arrive, copy_id, data_set, ground, manifest, whole};
use crate::control::wire::HistoryStudy;
use crate::dicom::syntax::EXPLICIT_LITTLE;
use crate::http::testing::{Web, no_consent, record_at};

const DEADLINE: Duration = Duration::from_secs(30);
const STUDY: &str = "/dicom-web/studies/1.2.3";
const CAUSE: &str = "?patient=resident:110105&purpose=treatment&user=li.wei";

fn sent() -> Vec<Vec<u8>> {
    (1..=3).map(|n| data_set("1.2.3", &format!("1.2.3.1.{n}"), "of b")).collect()
}

/// The last bytes of each part: the data sets as they went out.
fn ends_with(web_parts: &[(String, Vec<u8>)], expected: &[Vec<u8>]) -> bool {
    web_parts.len() == expected.len() && web_parts.iter().zip(expected).all(|((_, file), sent)| file.ends_with(sent))
}

#[tokio::test]
async fn part_of_a_study_is_never_served_and_a_fetch_goes_on_from_it() {
    let web = Web::new();
    let (id, sent) = (copy_id("county-b", 1, 1), sent());
    arrive(&web.archive, &id, &manifest(&id, &sent), &sent[..1]).expect("one of three arrives");
    for path in ["", "/metadata", "/series", "/instances", "/series/1.2.3.1/instances/1.2.3.1.1"] {
        let answer = web.get(&format!("{STUDY}{path}"), &[]).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path} {}", answer.text());
    }
    assert_eq!(web.get("/dicom-web/studies", &[]).await.json(), json!([]));
    *web.told.arrives.lock().expect("a lock") = Some((web.archive.clone(), sent.clone()));
    web.told.history.lock().expect("a lock").studies = vec![record_at("county-b", 1)];
    let answer = web.get(&format!("{STUDY}{CAUSE}"), &[]).await;
    assert!(ends_with(&answer.parts(), &sent), "all three");
    assert!(ends_with(&web.get(STUDY, &[]).await.parts(), &sent));
    let asked = web.told.asked.lock().expect("a lock").clone();
    assert_eq!(asked, ["1.2.3 resident:110105 treatment li.wei", "resident:110105"], "fetched once, and whose it is");
}

#[tokio::test]
async fn a_request_waits_for_the_running_fetch() {
    let web = Web::new();
    let (id, sent) = (copy_id("county-b", 1, 1), sent());
    let turn = web.archive.turns().of("1.2.3");
    let fetching = turn.lock().await;
    arrive(&web.archive, &id, &manifest(&id, &sent), &sent[..1]).expect("one of three arrives");
    let mut request = std::pin::pin!(web.get(STUDY, &[]));
    let deadline = tokio::time::Instant::now() + DEADLINE;
    // Once the request has the turn in its hands it waits for it.
    while Arc::strong_count(&turn) == 1 {
        assert!(futures::poll!(request.as_mut()).is_pending(), "nothing is answered while the fetch runs");
        assert!(tokio::time::Instant::now() < deadline, "the request does not wait");
        tokio::task::yield_now().await;
    }
    assert!(futures::poll!(request.as_mut()).is_pending());
    whole(&web.archive, &id, &sent);
    drop(fetching);
    assert!(ends_with(&request.await.parts(), &sent));
}

#[tokio::test]
async fn a_copy_whose_ground_is_gone_is_asked_for_again_or_refused() {
    let over = |ground: Ground| Ground { expires_ms: now_ms() - 1, ..ground };
    // (ground, what the ledger has against it, parameters, part of the refusal; "": it is served)
    let table = [
        (ground(Purpose::Treatment), None, "", ""),
        (ground(Purpose::Treatment), None, "?purpose=treatment", ""),
        (ground(Purpose::Treatment), None, "?purpose=research", "another purpose"),
        (over(ground(Purpose::Treatment)), None, "", "its time has passed"),
        (ground(Purpose::Treatment), Some("consent 01 was revoked"), "", "consent 01 was revoked"),
    ];
    for (ground, closed, parameters, refusal) in table {
        let web = Web::new();
        let (id, sent) = (copy_id("county-b", 1, 1), sent());
        arrive(&web.archive, &id, &manifest(&id, &sent), &sent).expect("all arrives");
        web.archive.complete_copy(&id, ground).expect("complete");
        *web.told.closed.lock().expect("a lock") = closed.map(str::to_owned);
        *web.told.fetch_error.lock().expect("a lock") = Some(no_consent);
        web.told.history.lock().expect("a lock").studies = vec![record_at("county-b", 1)];
        let listed = web.get("/dicom-web/studies?StudyInstanceUID=1.2.3", &[]).await.json();
        let answer = web.get(&format!("{STUDY}{parameters}"), &[]).await;
        if refusal.is_empty() {
            assert!(ends_with(&answer.parts(), &sent), "{parameters}");
            assert_eq!(listed[0]["00080056"]["Value"], json!(["ONLINE"]));
            assert_eq!(listed[0]["00080080"]["Value"], json!(["county-b"]));
            continue;
        }
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{}", answer.text());
        assert!(answer.text().contains(refusal) && answer.text().contains("patient="), "{}", answer.text());
        if parameters.is_empty() {
            assert_eq!(listed, json!([]), "what may not be shown is not listed as here");
        }
        // Who says for whom and what for is answered by the holder's decision now.
        let cause = if parameters.is_empty() {
            CAUSE.to_owned()
        } else {
            format!("{parameters}&patient=resident:1&user=li.wei")
        };
        let asked = web.get(&format!("{STUDY}{cause}"), &[]).await;
        assert_eq!(asked.status, StatusCode::FORBIDDEN);
        assert!(asked.text().contains("no consent is in force"), "{}", asked.text());
    }
}

fn uids(answer: &Value) -> Vec<&str> {
    let items = answer.as_array().expect("a list").iter();
    items.filter_map(|item| item["0020000D"]["Value"][0].as_str()).collect()
}

#[tokio::test]
async fn the_own_study_goes_first_and_each_copy_can_be_named() {
    let web = Web::new();
    let (b, c) = (copy_id("county-b", 1, 1), copy_id("county-c", 2, 1));
    let [own, of_b, of_c] = ["own", "of b", "of c"].map(|text| data_set("1.2.3", "1.2.3.1.1", text));
    let only_c = data_set("1.2.9", "1.2.9.1.1", "of c");
    whole(&web.archive, &b, std::slice::from_ref(&of_b));
    whole(&web.archive, &c, std::slice::from_ref(&of_c));
    whole(&web.archive, &copy_id("county-c", 3, 1), &[only_c]);
    web.store(EXPLICIT_LITTLE, &own).await;
    let instance = "/series/1.2.3.1/instances/1.2.3.1.1";
    for (parameters, expected) in [("", &own), ("?holder=county-b", &of_b), ("?holder=county-c", &of_c)] {
        for path in ["", instance] {
            let answer = web.get(&format!("{STUDY}{path}{parameters}"), &[]).await;
            assert!(ends_with(&answer.parts(), std::slice::from_ref(expected)), "{path}{parameters}");
        }
    }
    assert_eq!(web.get(&format!("{STUDY}?holder=county-d"), &[]).await.status, StatusCode::NOT_FOUND);
    // One entry a study, newest first.
    let table: [(&str, &[&str]); 5] = [
        ("/studies", &["1.2.9", "1.2.3"]),
        ("/studies?limit=1&offset=1", &["1.2.3"]),
        ("/instances", &["1.2.9", "1.2.3"]),
        ("/studies?PatientID=H-1", &["1.2.9", "1.2.3"]),
        ("/studies?StudyInstanceUID=1.2.3,1.2.9", &["1.2.9", "1.2.3"]),
    ];
    for (path, expected) in table {
        assert_eq!(uids(&web.get(&format!("/dicom-web{path}"), &[]).await.json()), expected, "{path}");
    }
    let series = web.get("/dicom-web/studies/1.2.9/series", &[]).await.json();
    assert_eq!(series[0]["00201209"]["Value"], json!([1]));
    let metadata = web.get(&format!("{STUDY}/metadata?holder=county-b"), &[]).await.json();
    assert_eq!(metadata[0]["00081030"]["Value"], json!(["of b"]));
}

#[tokio::test]
async fn a_uid_alone_does_not_make_a_study_the_patients() {
    const P: &str = "/dicom-web/studies?PatientID=P-1&IssuerOfPatientID=CB";
    let here = HistoryStudy { here: true, ..record_at("county-a", 9) };
    let (of_b, of_c) = (record_at("county-b", 1), record_at("county-c", 2));
    // What is here besides: the own study (of H-1), copies by their holders; P's records; P's answer: availability,
    // whether it has an address here, whether there is a warning.
    type Case<'a> = (bool, &'a [(&'a str, u8)], Vec<HistoryStudy>, (&'a str, bool, bool));
    let table: Vec<Case<'_>> = vec![
        (true, &[], vec![of_b.clone()], ("NEARLINE", false, true)),
        (true, &[("county-b", 1)], vec![of_b.clone()], ("NEARLINE", false, true)),
        (false, &[("county-b", 1)], vec![of_b.clone()], ("ONLINE", true, false)),
        // The same UID as a copy of another record, and as both.
        (false, &[("county-c", 2)], vec![of_b.clone()], ("NEARLINE", false, true)),
        (false, &[("county-b", 7)], vec![of_b.clone()], ("NEARLINE", false, true)),
        (false, &[("county-b", 1), ("county-c", 2)], vec![of_b.clone()], ("NEARLINE", false, true)),
        // All of it is P's.
        (false, &[("county-b", 1), ("county-c", 2)], vec![of_b.clone(), of_c], ("ONLINE", true, false)),
        (true, &[("county-b", 1)], vec![of_b, here], ("ONLINE", true, false)),
    ];
    for (number, (own, copied, records, expected)) in table.into_iter().enumerate() {
        let web = Web::new();
        if own {
            web.store(EXPLICIT_LITTLE, &data_set("1.2.3", "1.2.3.1.1", "own")).await;
        }
        for (holder, record) in copied {
            whole(&web.archive, &copy_id(holder, *record, 1), &[data_set("1.2.3", "1.2.3.1.1", "copied")]);
        }
        web.told.history.lock().expect("a lock").studies = records;
        let answer = web.get(P, &[]).await;
        let items = answer.json();
        assert_eq!(uids(&items), ["1.2.3"], "{number}");
        let row = &items[0];
        let online = row["00080056"]["Value"][0].as_str().unwrap_or_default();
        let warned = answer.header("warning").contains("study 1.2.3 is not opened");
        assert_eq!((online, row.get("00081190").is_some(), warned), expected, "{number} {}", answer.header("warning"));
        let named = row["00100010"].get("Value").is_some();
        assert_eq!(named, online == "ONLINE", "{number}: nobody else's name");
    }
    // By the number here it is the patient's, whatever the ledger has.
    let web = Web::new();
    web.store(EXPLICIT_LITTLE, &data_set("1.2.3", "1.2.3.1.1", "own")).await;
    web.told.history.lock().expect("a lock").studies = vec![record_at("county-b", 1)];
    let items = web.get("/dicom-web/studies?PatientID=H-1&IssuerOfPatientID=CA", &[]).await.json();
    assert_eq!(items[0]["00080056"]["Value"], json!(["ONLINE"]));
}

/// What of a study can be asked for by its UID.
const PARTS: [&str; 9] = [
    "",
    "/metadata",
    "/series",
    "/instances",
    "/series/1.2.3.1",
    "/series/1.2.3.1/instances",
    "/series/1.2.3.1/instances/1.2.3.1.1",
    "/series/1.2.3.1/instances/1.2.3.1.1/metadata",
    "/series/1.2.3.1/instances/1.2.3.1.1/frames/1",
];

#[tokio::test]
async fn what_is_asked_for_in_a_patients_name_is_that_patients() {
    let here = HistoryStudy { here: true, ..record_at("county-a", 9) };
    let (of_b, of_c) = (record_at("county-b", 1), record_at("county-c", 2));
    let all = vec![of_b.clone(), of_c, here.clone()];
    // What is here: the own study (of H-1), copies in the order in which they came; P's records; what P is shown, or the
    // refusal. What is fetched comes from county-b, as its record 1.
    type Case<'a> = (bool, &'a [(&'a str, u8)], Vec<HistoryStudy>, Result<&'a str, (StatusCode, &'a str)>);
    let (conflict, nothing) = ((StatusCode::CONFLICT, "another patient"), (StatusCode::NOT_FOUND, "under this number"));
    let table: Vec<Case<'_>> = vec![
        (true, &[], vec![of_b.clone()], Err(conflict)),
        (true, &[("county-b", 1)], vec![of_b.clone()], Err(conflict)),
        (true, &[], vec![], Err(nothing)),
        (false, &[("county-b", 1)], vec![], Err(nothing)),
        (false, &[("county-b", 1)], vec![of_b.clone()], Ok("county-b 1")),
        (false, &[("county-b", 1), ("county-c", 2)], vec![of_b.clone()], Ok("county-b 1")),
        (false, &[("county-c", 2), ("county-b", 1)], vec![record_at("county-c", 2)], Ok("county-c 2")),
        // Only another patient's copy is here, of another site or of the same: this patient's is fetched.
        (false, &[("county-c", 2)], vec![of_b.clone()], Ok("fetched")),
        (false, &[("county-b", 7)], vec![of_b.clone()], Ok("fetched")),
        (true, &[("county-b", 7)], vec![of_b, here], Ok("own")),
        (true, &[("county-b", 1), ("county-c", 2)], all, Ok("own")),
    ];
    for (number, (own, copied, records, expected)) in table.into_iter().enumerate() {
        let web = Web::new();
        let object = |text: &str| vec![data_set("1.2.3", "1.2.3.1.1", text)];
        if own {
            web.store(EXPLICIT_LITTLE, &object("own")[0]).await;
        }
        for (holder, record) in copied {
            whole(&web.archive, &copy_id(holder, *record, 1), &object(&format!("{holder} {record}")));
        }
        *web.told.arrives.lock().expect("a lock") = Some((web.archive.clone(), object("fetched")));
        web.told.history.lock().expect("a lock").studies = records;
        for part in PARTS {
            let answer = web.get(&format!("{STUDY}{part}{CAUSE}"), &[]).await;
            match expected {
                Ok(text) if part.is_empty() => assert!(ends_with(&answer.parts(), &object(text)), "{number}"),
                Ok(text) if part.ends_with("/metadata") => {
                    assert_eq!(answer.json()[0]["00081030"]["Value"], json!([text]), "{number} {part}");
                }
                Ok(_) => assert!(answer.status != StatusCode::CONFLICT, "{number} {part}"),
                Err((status, why)) => {
                    assert_eq!(answer.status, status, "{number} {part} {}", answer.text());
                    assert!(answer.text().contains(why), "{number} {part} {}", answer.text());
                }
            }
        }
        let lookups = web.told.asked.lock().expect("a lock").iter().filter(|asked| *asked == "resident:110105").count();
        assert_eq!(lookups, 1, "{number}: one lookup, however many requests");
    }
}

#[tokio::test]
async fn by_the_number_here_a_study_is_shown_without_the_core_and_others_say_why_not() {
    let web = Web::new();
    *web.told.keyless.lock().expect("a lock") = true;
    let own = data_set("1.2.3", "1.2.3.1.1", "own");
    web.store(EXPLICIT_LITTLE, &own).await;
    let answer = web.get(&format!("{STUDY}?patient=hospital:CA/H-1&purpose=treatment&user=li.wei"), &[]).await;
    assert!(ends_with(&answer.parts(), std::slice::from_ref(&own)));
    assert!(web.told.asked.lock().expect("a lock").is_empty(), "nothing was looked up");
    for part in PARTS {
        let answer = web.get(&format!("{STUDY}{part}{CAUSE}"), &[]).await;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{part}");
        assert!(answer.text().contains("is not shown") && answer.text().contains("no core hospital"), "{part}");
    }
    // Who names no patient is shown what is here, as before.
    assert!(ends_with(&web.get(STUDY, &[]).await.parts(), &[own]));
}

#[tokio::test]
async fn a_copy_that_is_closed_while_it_is_sent_goes_no_further() {
    let web = Web::new();
    let objects: Vec<_> = (1..=40).map(|n| data_set("1.2.3", &format!("1.2.3.1.{n}"), "of b")).collect();
    whole(&web.archive, &copy_id("county-b", 1, 1), &objects);
    for path in [STUDY.to_owned(), format!("{STUDY}/metadata")] {
        *web.told.closed.lock().expect("a lock") = None;
        let mut body = web.open(&path).await;
        // The queue between writer and client is shorter than the study, so the writer waits for the client now.
        let first = body.next().await.expect("a chunk").expect("open still");
        *web.told.closed.lock().expect("a lock") = Some("consent 01 was revoked".into());
        let rest: Vec<_> = body.collect().await;
        assert!(!first.is_empty() && rest.last().is_some_and(Result::is_err), "{path}: broken off");
        assert!(rest.len() < objects.len() / 2, "{path}: {} chunks", rest.len());
    }
}

#[tokio::test]
async fn what_only_a_link_brings_is_warned_of() {
    let linked = HistoryStudy {
        under: "resident:****21".into(),
        linked_by: vec!["County C".into()],
        ..record_at("county-b", 1)
    };
    let warning = "study 1.2.3 lies under resident:****21, by a link of County C";
    for (records, warned) in [(vec![linked.clone()], true), (vec![linked, record_at("county-c", 2)], false)] {
        let web = Web::new();
        web.told.history.lock().expect("a lock").studies = records;
        let answer = web.get("/dicom-web/studies?PatientID=P-1&IssuerOfPatientID=CB", &[]).await;
        assert_eq!(uids(&answer.json()), ["1.2.3"]);
        assert_eq!(answer.header("warning").contains(warning), warned, "{}", answer.header("warning"));
    }
}
