//! The console's answers through the whole router.

use axum::http::StatusCode;

use crate::control::wire::{HistoryDone, HistoryStudy};
use crate::http::testing::{Sample, Web, cut_off, no_consent};

const JSON: &str = "application/json";

#[tokio::test]
async fn the_page_shows_this_node_and_its_newest_examinations() {
    let web = Web::new();
    let hostile = Sample { name: b"<b>Phantom^One", description: b"Chest & \"more\"", ..Sample::default() };
    web.store(hostile.syntax, &hostile.begin().into_bytes()).await;
    let page = web.get("/", &[]).await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.header("content-security-policy").contains("default-src 'none'; script-src 'self'"));
    let text = page.text();
    for part in
        ["甲县医院", "county-trial", "&lt;b&gt;Phantom One", "Chest &amp; &quot;more&quot;", "StudyInstanceUIDs=1.2.3"]
    {
        assert!(text.contains(part), "{part}");
    }
    assert!(!text.contains("<b>") && !text.contains("{{") && !text.contains("http://") && !text.contains("https://"));
    assert!(!text.contains("<script>") && !text.contains("style=\""), "the page's policy allows neither");
}

#[tokio::test]
async fn numbers_come_in_bodies_and_answers_say_what_is_missing() {
    let web = Web::new();
    *web.told.history.lock().expect("a lock") = HistoryDone {
        patient: "resident:11**********21".into(),
        studies: vec![HistoryStudy { study_uid: "7.7".into(), site_name: "乙县医院".into(), ..Default::default() }],
        missing: vec!["years before 2024".into()],
        ..Default::default()
    };
    let answer = web.post("/console/history", JSON, r#"{"id":" resident:1 "}"#).await;
    for part in ["resident:11…21", "乙县医院", "data-study=\"7.7\"", "years before 2024"] {
        assert!(answer.text().contains(part), "{part}");
    }
    assert_eq!(*web.told.asked.lock().expect("a lock"), ["resident:1"]);
    let table = [
        ("/console/history", "text/plain", r#"{"id":"resident:1"}"#, 415),
        ("/console/history", JSON, r#"{"id":""}"#, 400),
        ("/console/fetch", JSON, r#"{"study":"x","id":"a","purpose":"b","user":"c"}"#, 400),
        ("/console/fetch", JSON, r#"{"study":"1.2","id":"a","purpose":"b","user":""}"#, 400),
        ("/console/fetch", JSON, r#"{"study":"1.2","id":"a","purpose":"b","user":"Li Wei"}"#, 400),
    ];
    for (path, kind, body, status) in table {
        assert_eq!(web.post(path, kind, body).await.status.as_u16(), status, "{path} {body}");
    }
    assert_eq!(web.get("/console/history?id=resident:1", &[]).await.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn a_row_that_a_link_brought_is_marked_and_names_that_disagree_are_told_first() {
    let web = Web::new();
    let own = HistoryStudy { study_uid: "7.7".into(), site_name: "乙县医院".into(), ..Default::default() };
    let linked = HistoryStudy {
        study_uid: "7.8".into(),
        under: "resident:44**********09".into(),
        linked_by: vec!["丙县医院".into()],
        ..own.clone()
    };
    web.told.history.lock().expect("a lock").studies = vec![own, linked];
    let page = web.post("/console/history", JSON, r#"{"id":"resident:1"}"#).await.text();
    assert_eq!(page.matches("under resident:44…09, by a link of 丙县医院").count(), 1, "{page}");
    assert!(!page.contains("disagree"), "{page}");
    web.told.history.lock().expect("a lock").names_disagree = true;
    let page = web.post("/console/history", JSON, r#"{"id":"resident:1"}"#).await.text();
    let (doubt, table) = (page.find("The names on the images that are here disagree"), page.find("<table>"));
    assert!(doubt.is_some() && doubt < table, "{page}");
}

#[tokio::test]
async fn a_refusal_is_told_in_its_own_words() {
    let web = Web::new();
    *web.told.fetch_error.lock().expect("a lock") = Some(no_consent);
    let body = r#"{"study":"1.2","id":"resident:1","purpose":"treatment","user":"li.wei"}"#;
    let answer = web.post("/console/fetch", JSON, body).await.json();
    assert_eq!(answer["opened"], false);
    assert_eq!(answer["title"], "乙县医院 refused");
    assert_eq!(answer["text"], "The rules or the patient's consent do not allow it.\nNo consent is in force.");
    *web.told.fetch_error.lock().expect("a lock") = Some(cut_off);
    assert_eq!(web.post("/console/fetch", JSON, body).await.json()["title"], "乙县医院 can't decide now");
    *web.told.fetch_error.lock().expect("a lock") = None;
    assert_eq!(web.post("/console/fetch", JSON, body).await.json()["opened"], true);
}

#[tokio::test]
async fn what_collides_is_not_opened_by_its_uid() {
    let web = Web::new();
    let row = HistoryStudy { study_uid: "1.2".into(), site: "county-b".into(), collides: true, ..Default::default() };
    for copy_here in [false, true] {
        web.told.history.lock().expect("a lock").studies = vec![HistoryStudy { copy_here, ..row.clone() }];
        let page = web.post("/console/history", JSON, r#"{"id":"resident:1"}"#).await.text();
        assert!(
            page.contains("not opened here") && !page.contains("/viewer?") && !page.contains("data-study"),
            "{page}"
        );
    }
    let body = r#"{"study":"1.2","id":"resident:1","purpose":"treatment","user":"li.wei","holder":"county-b"}"#;
    let answer = web.post("/console/fetch", JSON, body).await.json();
    assert_eq!(answer["opened"], false);
    assert!(answer["text"].as_str().is_some_and(|text| text.contains("another patient")), "{answer}");
}
