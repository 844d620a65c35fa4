//! DICOMweb as a client sees it: requests through the whole router, on an archive with hand-made objects.

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::control::wire::{HistoryDone, HistoryStudy};
use crate::dicom::part10::Part10;
use crate::dicom::syntax::{DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE};
use crate::dicom::testing::deflate;
use crate::http::testing::{Sample, Web, cut_off, faulty, gone, no_consent, record_at};

const GB18030_NAME: &[u8] = b"\xcd\xf5^\xd0\xa1\xb6\xab";
const JPEG_LS: &str = "1.2.840.10008.1.2.4.80";
const INSTANCE: &str = "/dicom-web/studies/1.2.3/series/1.2.3.1/instances/1.2.3.1.1";

fn native(sample: &Sample<'_>) -> Vec<u8> {
    let mut out = sample.begin();
    if sample.study == "1.2.3" {
        out.text(0x0008, 0x0030, "TM", b"083000");
    }
    if sample.study == "1.2.5" {
        out.text(0x0010, 0x0030, "DA", b"20240202");
    }
    Sample::shape(&mut out, 1, 2, "2");
    out.text(0x7FE0, 0x0010, "OW", &[1, 2, 3, 4, 5, 6, 7, 8]);
    out.into_bytes()
}

async fn stored(samples: &[Sample<'_>]) -> Web {
    let web = Web::new();
    for sample in samples {
        web.store(sample.syntax, &native(sample)).await;
    }
    web
}

/// Study UIDs in the order of the answer.
fn uids(answer: &Value) -> Vec<&str> {
    let items = answer.as_array().expect("a list").iter();
    items.filter_map(|item| item["0020000D"]["Value"][0].as_str()).collect()
}

fn chinese<'a>() -> Sample<'a> {
    Sample {
        study: "1.2.4",
        series: "1.2.4.1",
        instance: "1.2.4.1.1",
        patient_id: "H-2",
        date: "20260201",
        modality: "MR",
        character_set: "GB18030",
        name: GB18030_NAME,
        description: b"\xd0\xd8\xb2\xbf",
        ..Sample::default()
    }
}

#[tokio::test]
async fn searches_find_what_they_ask_for() {
    let undeclared = Sample {
        study: "1.2.5",
        series: "1.2.5.1",
        instance: "1.2.5.1.1",
        patient_id: "H-3",
        date: "20250101",
        name: "李^四".as_bytes(),
        character_set: "ISO_IR 192",
        ..Sample::default()
    };
    let web = stored(&[Sample::default(), chinese(), undeclared]).await;
    let table: [(&str, &[&str]); 19] = [
        ("", &["1.2.4", "1.2.3", "1.2.5"]),
        ("?PatientID=H-2", &["1.2.4"]),
        ("?00100020=H-2", &["1.2.4"]),
        ("?PatientID=h-2", &[]),
        ("?PatientID=H-*", &["1.2.4", "1.2.3", "1.2.5"]),
        ("?PatientName=phantom*", &["1.2.3"]),
        ("?PatientName=%E7%8E%8B*", &["1.2.4"]),
        ("?PatientName=%E6%9D%8E%E5%9B%9B&fuzzymatching=true", &[]),
        ("?PatientName=%E6%9D%8E%5E%E5%9B%9B", &["1.2.5"]),
        ("?StudyDate=20260101-20260131", &["1.2.3"]),
        ("?StudyDate=20260101-", &["1.2.4", "1.2.3"]),
        ("?StudyTime=0800-0900", &["1.2.3"]),
        ("?StudyTime=-0800", &[]),
        ("?PatientName=Phantom%5EOne%3D", &["1.2.3"]),
        ("?ModalitiesInStudy=MR,US", &["1.2.4"]),
        ("?StudyInstanceUID=1.2.3,1.2.5", &["1.2.3", "1.2.5"]),
        ("?limit=1&offset=1", &["1.2.3"]),
        ("?limit=0", &[]),
        ("?PatientName=", &["1.2.4", "1.2.3", "1.2.5"]),
    ];
    for (query, expected) in table {
        let answer = web.get(&format!("/dicom-web/studies{query}"), &[]).await;
        assert_eq!(uids(&answer.json()), expected, "{query}");
    }
    // A condition of the same form as the date's is still a condition: older studies are searched for it.
    let born = web.get("/dicom-web/studies?StudyDate=20240101-&PatientBirthDate=20240101-&limit=1", &[]).await;
    assert_eq!(uids(&born.json()), ["1.2.5"]);
    let table = [
        ("accept=application/dicom%2Bjson", "not matched"),
        ("00400275.00400009=S1", "00400275.00400009"),
        ("includefield=00101030", "the catalogue does not have the following, which metadata may have: 00101030"),
        ("includefield=00081030,00080060", ""),
        ("includefield=all", ""),
    ];
    for (query, warning) in table {
        let answer = web.get(&format!("/dicom-web/studies?{query}"), &[]).await;
        assert_eq!(uids(&answer.json()).len(), 3, "{query}");
        assert!(answer.header("warning").contains(warning), "{query} {}", answer.header("warning"));
        assert_eq!(answer.header("warning").is_empty(), warning.is_empty(), "{query}");
    }
    let first = web.get("/dicom-web/studies?limit=1", &[]).await;
    assert!(first.header("warning").contains("offset=1"), "{}", first.header("warning"));
    let whole = web.get("/dicom-web/studies", &[]).await;
    assert_eq!(whole.header("warning"), "");
}

#[tokio::test]
async fn names_come_back_right_whatever_they_came_in() {
    let undeclared = Sample { character_set: "", ..chinese() };
    let wrong = Sample { character_set: "ISO_IR 100", ..chinese() };
    for sample in [chinese(), undeclared, wrong] {
        let web = stored(&[sample]).await;
        for path in
            ["/dicom-web/studies", "/dicom-web/series", "/dicom-web/instances", "/dicom-web/studies/1.2.4/metadata"]
        {
            let answer = web.get(path, &[("accept", "application/dicom+json")]).await;
            assert_eq!(answer.header("content-type"), "application/dicom+json");
            let item = &answer.json()[0];
            assert_eq!(item["00100010"]["Value"], json!([{"Alphabetic": "王^小东"}]), "{path}");
            assert_eq!(item["00081030"]["Value"], json!(["胸部"]), "{path}");
            assert_eq!(item["00080005"]["Value"], json!(["ISO_IR 192"]), "{path}");
        }
    }
}

#[tokio::test]
async fn series_and_instances_are_counted() {
    let second = Sample { series: "1.2.3.2", instance: "1.2.3.2.1", modality: "SR", ..Sample::default() };
    let third = Sample { instance: "1.2.3.1.2", ..Sample::default() };
    let web = stored(&[Sample::default(), second, third, chinese()]).await;
    let study = &web.get("/dicom-web/studies?StudyInstanceUID=1.2.3", &[]).await.json()[0];
    assert_eq!(study["00201206"]["Value"], json!([2]));
    assert_eq!(study["00201208"]["Value"], json!([3]));
    assert_eq!(study["00080061"]["Value"], json!(["CT", "SR"]));
    assert_eq!(study["00081190"]["Value"], json!(["http://node.test:8080/dicom-web/studies/1.2.3"]));
    assert_eq!(study["00080056"]["Value"], json!(["ONLINE"]));
    assert_eq!(study["00080080"]["Value"], json!(["甲县医院"]));
    let table = [
        ("/dicom-web/studies/1.2.3/series", 2),
        ("/dicom-web/studies/1.2.3/series?Modality=SR", 1),
        ("/dicom-web/series", 3),
        ("/dicom-web/series?Modality=CT", 1),
        ("/dicom-web/studies/1.2.3/series/1.2.3.1/instances", 2),
        ("/dicom-web/studies/1.2.3/instances", 3),
        ("/dicom-web/instances?PatientID=H-2", 1),
        ("/dicom-web/instances?SOPInstanceUID=1.2.3.1.2", 1),
        ("/dicom-web/instances?SOPInstanceUID=1.2.3.1.2,1.2.4.1.1,1.9", 2),
        ("/dicom-web/instances?SOPInstanceUID=1.2.3.1.2&Modality=SR", 0),
        ("/dicom-web/studies/1.2.3/instances?limit=2", 2),
        ("/dicom-web/studies/1.2.3/series/1.9/instances", 0),
    ];
    for (path, expected) in table {
        assert_eq!(web.get(path, &[]).await.json().as_array().map(Vec::len), Some(expected), "{path}");
    }
}

#[tokio::test]
async fn objects_come_back_byte_for_byte() {
    let web = Web::new();
    let samples = [
        Sample::default(),
        Sample { syntax: IMPLICIT_LITTLE, instance: "1.2.3.1.2", ..Sample::default() },
        Sample { syntax: EXPLICIT_BIG, instance: "1.2.3.1.3", ..Sample::default() },
    ];
    let data_sets: Vec<_> = samples.iter().map(native).collect();
    for (sample, data_set) in samples.iter().zip(&data_sets) {
        web.store(sample.syntax, data_set).await;
    }
    let answer = web.get("/dicom-web/studies/1.2.3", &[]).await;
    assert!(answer.header("content-type").starts_with("multipart/related; type=\"application/dicom\"; boundary="));
    let parts = answer.parts();
    assert_eq!(parts.len(), samples.len());
    for ((head, file), (sample, data_set)) in parts.iter().zip(samples.iter().zip(&data_sets)) {
        assert!(head.contains(&format!("application/dicom; transfer-syntax={}", sample.syntax)), "{head}");
        let found = Part10::locate(file).expect("a DICOM file");
        assert_eq!(found.transfer_syntax.as_str(), sample.syntax);
        assert_eq!(&file[found.data_set_offset as usize..], data_set);
    }
    let one = web.get(INSTANCE, &[("accept", "application/dicom")]).await;
    assert_eq!((one.header("content-type").as_str(), &one.body[..]), ("application/dicom", &parts[0].1[..]));
    assert_eq!(one.header("content-length"), parts[0].1.len().to_string());
}

#[tokio::test]
async fn frames_come_one_by_one() {
    let web = Web::new();
    let mut compressed = Sample { syntax: JPEG_LS, instance: "1.2.3.1.9", ..Sample::default() }.begin();
    Sample::shape(&mut compressed, 1, 2, "2");
    compressed.fragments(b"", &[b"first!", b"second"]);
    web.store(EXPLICIT_BIG, &native(&Sample { syntax: EXPLICIT_BIG, ..Sample::default() })).await;
    web.store(JPEG_LS, &compressed.into_bytes()).await;
    let all = "multipart/related; type=application/octet-stream; transfer-syntax=*";
    let other = INSTANCE.replace("1.2.3.1.1", "1.2.3.1.9");
    let native_type = format!("application/octet-stream; transfer-syntax={EXPLICIT_LITTLE}");
    // (path, accept, type of the parts, parts)
    let table: [(String, &str, String, &[&[u8]]); 5] = [
        (format!("{INSTANCE}/frames/1"), all, native_type.clone(), &[&[2, 1, 4, 3]]),
        (format!("{INSTANCE}/frames/2,1"), "*/*", native_type, &[&[6, 5, 8, 7], &[2, 1, 4, 3]]),
        (
            format!("{other}/frames/2"),
            all,
            format!("application/octet-stream; transfer-syntax={JPEG_LS}"),
            &[b"second"],
        ),
        (
            format!("{other}/frames/1,2"),
            "*/*",
            format!("image/jls; transfer-syntax={JPEG_LS}"),
            &[b"first!", b"second"],
        ),
        (
            format!("{other}/bulkdata/7FE00010"),
            all,
            format!("application/octet-stream; transfer-syntax={JPEG_LS}"),
            &[b"first!", b"second"],
        ),
    ];
    for (path, accept, kind, expected) in table {
        let answer = web.get(&path, &[("accept", accept)]).await;
        assert_eq!(answer.status, StatusCode::OK, "{path} {}", answer.text());
        let parts = answer.parts();
        assert!(parts.iter().all(|(head, _)| head.contains(&kind)), "{path} {:?}", parts[0].0);
        assert_eq!(parts.iter().map(|(_, body)| &body[..]).collect::<Vec<_>>(), expected, "{path}");
    }
    let single = web.get(&format!("{INSTANCE}/bulkdata/7FE00010"), &[("accept", "application/octet-stream")]).await;
    assert_eq!(&single.body[..], [2, 1, 4, 3, 6, 5, 8, 7]);
}

#[tokio::test]
async fn pixels_that_are_not_cut_are_one_part() {
    const MPEG4: &str = "1.2.840.10008.1.2.4.102";
    let (video, stills) = (INSTANCE.to_owned(), INSTANCE.replace("1.2.3.1.1", "1.2.3.1.2"));
    let web = Web::new();
    for (syntax, instance, fragments) in
        [(MPEG4, "1.2.3.1.1", vec![b"a long video".as_slice()]), (JPEG_LS, "1.2.3.1.2", vec![b"ab", b"cd", b"ef"])]
    {
        let mut out = Sample { syntax, instance, ..Sample::default() }.begin();
        Sample::shape(&mut out, 9, 9, "2");
        out.fragments(b"", &fragments);
        web.store(syntax, &out.into_bytes()).await;
    }
    let octets = "multipart/related; type=\"application/octet-stream\"; transfer-syntax=*";
    // (object, accept, type, body)
    let table: [(&str, &str, String, &[u8]); 4] = [
        (&video, "video/mp4", format!("video/mp4; transfer-syntax={MPEG4}"), b"a long video"),
        (
            &video,
            "multipart/related; type=\"video/mp4\"",
            format!("video/mp4; transfer-syntax={MPEG4}"),
            b"a long video",
        ),
        (&video, octets, format!("application/octet-stream; transfer-syntax={MPEG4}"), b"a long video"),
        (&stills, octets, format!("application/octet-stream; transfer-syntax={JPEG_LS}"), b"abcdef"),
    ];
    for (object, accept, kind, expected) in table {
        let metadata = web.get(&format!("{object}/metadata"), &[]).await.json();
        let uri = metadata[0]["7FE00010"]["BulkDataURI"].as_str().expect("an address").to_owned();
        let path = uri.split_once("8080").expect("this node's").1;
        let answer = web.get(path, &[("accept", accept)]).await;
        assert_eq!(answer.status, StatusCode::OK, "{accept} {}", answer.text());
        if accept.starts_with("multipart") {
            let parts = answer.parts();
            assert_eq!((parts.len(), &parts[0].1[..]), (1, expected), "{accept}");
            assert!(parts[0].0.contains(&kind), "{accept} {}", parts[0].0);
        } else {
            assert_eq!((answer.header("content-type"), &answer.body[..]), (kind, expected));
        }
    }
    let frames = web.get(&format!("{video}/frames/1"), &[]).await;
    assert_eq!(frames.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(frames.text().contains("one video") && frames.text().contains("bulkdata/7FE00010"), "{}", frames.text());
}

#[tokio::test]
async fn a_deflated_object_is_inflated_once_for_frames_in_its_order() {
    let web = Web::new();
    let mut out = Sample::default().begin();
    Sample::shape(&mut out, 1, 2, "20");
    let pixels: Vec<u8> = (0..80).collect();
    out.text(0x7FE0, 0x0010, "OW", &pixels);
    web.store(DEFLATED, &deflate(&out.into_bytes())).await;
    let list = |numbers: Vec<usize>| numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    // (frames, how they are answered)
    let table = [((1..=20).collect(), 200), (vec![20, 1, 7], 200), ((1..=20).rev().collect::<Vec<_>>(), 400)];
    for (numbers, status) in table {
        let answer = web.get(&format!("{INSTANCE}/frames/{}", list(numbers.clone())), &[]).await;
        assert_eq!(answer.status.as_u16(), status, "{numbers:?} {}", answer.text());
        if status == 200 {
            let found: Vec<_> = answer.parts().into_iter().map(|(_, frame)| frame).collect();
            let expected: Vec<_> = numbers.iter().map(|number| pixels[number * 4 - 4..number * 4].to_vec()).collect();
            assert_eq!(found, expected);
        }
    }
}

#[tokio::test]
async fn what_cannot_be_had_is_explained() {
    let web = stored(&[Sample::default()]).await;
    let dicom_xml = "multipart/related; type=\"application/dicom+xml\"";
    let table = [
        (INSTANCE.to_owned(), "text/html", 406, "transfer-syntax=*"),
        (INSTANCE.to_owned(), "application/dicom; transfer-syntax=1.2.840.10008.1.2.4.50", 406, EXPLICIT_LITTLE),
        ("/dicom-web/studies/1.2.3".into(), "application/dicom", 406, "multipart/related"),
        ("/dicom-web/studies/1.2.3/metadata".into(), dicom_xml, 406, "application/dicom+json"),
        ("/dicom-web/studies".into(), "text/html", 406, "application/dicom+json"),
        ("/dicom-web/studies/9.9".into(), "*/*", 404, "purpose=treatment"),
        ("/dicom-web/studies/abc".into(), "*/*", 400, "the study in the path"),
        ("/dicom-web/studies/1.2.3/series/1.9".into(), "*/*", 404, "no such series"),
        (format!("{INSTANCE}/frames/3"), "*/*", 404, "has 2 frames"),
        (format!("{INSTANCE}/frames/0"), "*/*", 400, "from 1 on"),
        (format!("{INSTANCE}/frames/a"), "*/*", 400, "from 1 on"),
        (format!("{INSTANCE}/bulkdata/xyz"), "*/*", 400, "path"),
        (format!("{INSTANCE}/bulkdata/00091010"), "*/*", 404, "no value"),
        ("/dicom-web/nothing".into(), "*/*", 404, "no resource"),
        ("/dicom-web/studies?PatientsName=a".into(), "*/*", 400, "keyword"),
    ];
    for (path, accept, status, part) in table {
        let answer = web.get(&path, &[("accept", accept)]).await;
        assert_eq!(answer.status.as_u16(), status, "{path} {}", answer.text());
        assert!(answer.text().contains(part), "{path} {}", answer.text());
        assert!(answer.header("content-type").starts_with("text/plain"), "{path}");
    }
}

fn elsewhere(study: &str, date: &str, site: &str) -> HistoryStudy {
    HistoryStudy {
        study_uid: study.into(),
        site: site.into(),
        site_name: format!("{site} 医院"),
        study_date: date.into(),
        modalities: vec!["US".into()],
        objects: 5,
        ..Default::default()
    }
}

#[tokio::test]
async fn a_patient_has_one_list_of_all_sites() {
    let web = stored(&[Sample::default(), chinese()]).await;
    let here = HistoryStudy { here: true, ..elsewhere("1.2.3", "20260131", "county-a") };
    *web.told.history.lock().expect("a lock") = HistoryDone {
        as_of: Some("2026-02-01T00:00:00Z".into()),
        studies: vec![here, elsewhere("7.7", "20260202", "county-b"), elsewhere("7.7", "20260202", "county-c")],
        missing: vec!["丙县医院 was not asked".into()],
        ..Default::default()
    };
    let path = "/dicom-web/studies?PatientID=H-1&IssuerOfPatientID=CA";
    let answer = web.get(path, &[]).await;
    let items = answer.json();
    assert_eq!(uids(&items), ["7.7", "1.2.3"]);
    assert_eq!(items[0]["00080056"]["Value"], json!(["NEARLINE"]));
    assert_eq!(items[0]["00080080"]["Value"], json!(["county-b 医院", "county-c 医院"]));
    assert_eq!(items[0]["00080054"]["Value"], json!(["TESSERA_A"]));
    assert_eq!(items[0]["00081190"]["Value"], json!(["http://node.test:8080/dicom-web/studies/7.7"]));
    assert_eq!(items[1]["00080056"]["Value"], json!(["ONLINE"]));
    assert_eq!(answer.header("tessera-as-of"), "2026-02-01T00:00:00Z");
    assert!(answer.header("warning").contains("was not asked"), "{}", answer.header("warning"));
    assert_eq!(*web.told.asked.lock().expect("a lock"), ["hospital:CA/H-1"]);

    let table: [(&str, &[&str], &str); 5] = [
        ("&StudyDate=20260201-", &["7.7"], ""),
        ("&ModalitiesInStudy=CT", &["1.2.3"], ""),
        ("&StudyInstanceUID=7.7", &["7.7"], ""),
        ("&AccessionNumber=A1", &[], "1 examinations at other sites were left out"),
        ("&limit=1", &["7.7"], "offset=1"),
    ];
    for (more, expected, warning) in table {
        let answer = web.get(&format!("{path}{more}"), &[]).await;
        assert_eq!(uids(&answer.json()), expected, "{more}");
        assert!(answer.header("warning").contains(warning), "{more} {}", answer.header("warning"));
    }
    let resident = web.get("/dicom-web/studies?PatientID=110105&IssuerOfPatientID=resident", &[]).await;
    assert_eq!(uids(&resident.json()), ["7.7", "1.2.3"]);
    assert_eq!(web.told.asked.lock().expect("a lock").last().map(String::as_str), Some("resident:110105"));
}

#[tokio::test]
async fn a_study_elsewhere_is_fetched_or_refused() {
    let web = Web::new();
    *web.told.fetch_error.lock().expect("a lock") = Some(no_consent);
    let nameless = web.get("/dicom-web/studies/1.2.3?patient=resident:110105&purpose=treatment", &[]).await;
    assert_eq!(nameless.status, StatusCode::NOT_FOUND);
    assert!(nameless.text().contains("in whose name") && web.told.asked.lock().expect("a lock").is_empty());
    let path = "/dicom-web/studies/1.2.3?patient=resident:110105&purpose=treatment&user=li.wei";
    let refused = web.get(path, &[]).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert!(refused.text().contains("no consent is in force"));
    *web.told.fetch_error.lock().expect("a lock") = None;
    let data_set = native(&Sample::default());
    *web.told.arrives.lock().expect("a lock") = Some((web.archive.clone(), vec![data_set.clone()]));
    web.told.history.lock().expect("a lock").studies = vec![record_at("county-b", 1)];
    let by_header =
        [("tessera-patient", "resident:110105"), ("tessera-purpose", "treatment"), ("tessera-user", "Dr Li")];
    let answer = web.get("/dicom-web/studies/1.2.3", &by_header).await;
    assert!(answer.parts()[0].1.ends_with(&data_set));
    let again = web.get("/dicom-web/studies/1.2.3/series", &[]).await;
    assert_eq!(again.json().as_array().map(Vec::len), Some(1));
    let asked = web.told.asked.lock().expect("a lock").clone();
    let by_parameter = "1.2.3 resident:110105 treatment li.wei";
    assert_eq!(asked, [by_parameter, "1.2.3 resident:110105 treatment Dr Li", "resident:110105"]);
}

#[tokio::test]
async fn what_is_not_fetched_has_a_status_that_says_whether_asking_again_helps() {
    let web = Web::new();
    let path = "/dicom-web/studies/1.2.3?patient=resident:110105&purpose=treatment&user=li.wei";
    type Failed = fn() -> anyhow::Error;
    let table: [(Failed, StatusCode, &str, &str); 5] = [
        (no_consent, StatusCode::FORBIDDEN, "", "no consent is in force"),
        (cut_off, StatusCode::SERVICE_UNAVAILABLE, "60", "too old to decide"),
        (gone, StatusCode::NOT_FOUND, "", "no longer has this revision"),
        (faulty, StatusCode::BAD_GATEWAY, "", "could not record the disclosure"),
        (|| anyhow::anyhow!("connection refused"), StatusCode::BAD_GATEWAY, "", "connection refused"),
    ];
    for (error, status, retry_after, text) in table {
        *web.told.fetch_error.lock().expect("a lock") = Some(error);
        let answer = web.get(path, &[]).await;
        assert_eq!((answer.status, answer.header("retry-after").as_str()), (status, retry_after), "{text}");
        assert!(answer.text().contains(text), "{}", answer.text());
    }
}

#[tokio::test]
async fn other_origins_get_nothing() {
    let web = stored(&[Sample::default()]).await;
    let cross = ("sec-fetch-site", "cross-site");
    let table = [
        ("/dicom-web/studies", vec![cross], 403),
        ("/dicom-web/studies", vec![cross, ("sec-fetch-mode", "navigate")], 403),
        ("/console/status", vec![cross, ("sec-fetch-mode", "cors")], 403),
        ("/", vec![cross, ("sec-fetch-mode", "navigate")], 200),
        ("/dicom-web/studies", vec![("sec-fetch-site", "same-origin")], 200),
        ("/dicom-web/studies", vec![], 200),
    ];
    for (path, headers, status) in table {
        let answer = web.get(path, &headers).await;
        assert_eq!(answer.status.as_u16(), status, "{path} {headers:?}");
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
    }
}
