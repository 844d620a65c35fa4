//! Names and descriptions in the character sets of Chinese hospitals, as they come back from every interface: QIDO-RS,
//! WADO-RS, `tessera history`, the console, asked by dicomweb-client and by curl.
//!
//! One hospital, real senders. The files and their right readings come from `make_charsets.py`, which `clients` checks
//! against other people's readers. What is kept is always the sender's bytes; what is shown is always UTF-8.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tessera_tests::{Federation, Node, Role, Scratch, Seat, dcmtk, page, python, run, warns};

const SEAT: Seat = Seat::new("hospital-a", "SITEA", Role::Core);
/// A device that nobody has told us about.
const FACTORY: &str = "CT-FACTORY";

/// One generated file and how it reads.
struct Case {
    case: String,
    file: String,
    study: String,
    patient_id: String,
    texts: Texts,
    /// The set that the bytes are in, where the file declares another.
    really: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Texts {
    /// All groups, without empty ones at the end.
    name: String,
    study_description: String,
    series_description: String,
}

impl Texts {
    fn new(name: &str, study_description: &str, series_description: &str) -> Texts {
        let name = name.trim_end_matches('=').to_owned();
        Texts { name, study_description: study_description.into(), series_description: series_description.into() }
    }
}

/// What an interface says of each study, by its UID.
type Readings = BTreeMap<String, Texts>;

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("text instead of {value}")).to_owned()
}

fn cases(folder: &Path) -> Vec<Case> {
    let lines = python("make_charsets.py", &[folder]).success().json_lines();
    let case = |line: &Value| Case {
        case: text(&line["case"]),
        file: text(&line["file"]),
        study: text(&line["study"]),
        patient_id: text(&line["patient_id"]),
        texts: Texts::new(&text(&line["name"]), &text(&line["description"]), &text(&line["description"])),
        really: line["override"].as_str().map(str::to_owned),
    };
    lines.iter().map(case).collect()
}

/// A hospital whose list of senders is this: AE title and the character set that it really uses.
fn hospital(scratch: &Scratch, senders: &[(&str, &str)]) -> Node {
    let mut node = Node::init(scratch, SEAT);
    list_senders(&node, senders);
    node.start();
    node
}

fn list_senders(node: &Node, senders: &[(&str, &str)]) {
    let path = node.directory.join("tessera.toml");
    let mut text = std::fs::read_to_string(&path).expect("the configuration");
    for (ae_title, character_set) in senders {
        let sender = format!("ae_title = '{ae_title}'\naddress = '127.0.0.1'\ncharacter_set = '{character_set}'\n");
        text.push_str(&format!("\n[[dicom.sender]]\n{sender}"));
    }
    std::fs::write(&path, text).expect("the configuration is ours to write");
}

fn send<'a>(node: &Node, ae_title: &str, cases: impl IntoIterator<Item = &'a Case>) {
    let port = node.dicom.to_string();
    let mut arguments = vec!["-aet", ae_title, "-aec", "TESSERA", "127.0.0.1", &port];
    arguments.extend(cases.into_iter().map(|case| case.file.as_str()));
    dcmtk("storescu", &arguments).success();
}

/// dicomweb-client's answer to a question about all studies of the cases.
fn asked(node: &Node, command: &str, cases: &[&Case]) -> Vec<Value> {
    let url = node.url("/dicom-web");
    let mut arguments = vec!["--url", &url, command];
    if command != "studies" {
        arguments.extend(cases.iter().map(|case| case.study.as_str()));
    }
    python("dicomweb_check.py", &arguments).success().json_lines()
}

/// By keyword, as dicomweb-client gives attributes. What a level does not have is taken from the expected texts.
fn by_keyword(lines: &[Value], cases: &[&Case]) -> Readings {
    let of = |line: &Value, keyword: &str| line[keyword].get(0).map(text);
    let reading = |line: &Value| {
        let study = of(line, "StudyInstanceUID").expect("a study");
        let case = cases.iter().find(|case| case.study == study).expect("a study that was sent");
        let series = of(line, "SeriesDescription").unwrap_or_else(|| case.texts.series_description.clone());
        let absent = || "absent".to_owned();
        let name = of(line, "PatientName").unwrap_or_else(absent);
        (study, Texts::new(&name, &of(line, "StudyDescription").unwrap_or_else(absent), &series))
    };
    lines.iter().map(reading).collect()
}

fn curl(url: &str, arguments: &[&str]) -> String {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--fail", "--max-time", "60"]).args(arguments).arg(url);
    run(command).success().stdout
}

/// By tag, as the bytes stand in DICOM JSON: no client has touched them.
fn by_tag(item: &Value) -> (String, Texts) {
    let value = |tag: &str| &item[tag]["Value"][0];
    assert_eq!(*value("00080005"), "ISO_IR 192", "JSON is UTF-8, and says so");
    let name = value("00100010");
    let group = |group: &str| name[group].as_str().unwrap_or_default().to_owned();
    let name = [group("Alphabetic"), group("Ideographic"), group("Phonetic")].join("=");
    let (study, series) = (text(value("00081030")), text(value("0008103E")));
    (text(value("0020000D")), Texts::new(&name, &study, &series))
}

fn by_curl(node: &Node, path: impl Fn(&Case) -> String, cases: &[&Case]) -> Readings {
    let ask = |case: &&Case| {
        let answer = curl(&node.url(&path(case)), &[]);
        let items: Value = serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{e}: {answer}"));
        assert_eq!(items.as_array().map(Vec::len), Some(1), "{}: {answer}", case.case);
        by_tag(&items[0])
    };
    cases.iter().map(ask).collect()
}

fn by_history(node: &Node, cases: &[&Case]) -> Readings {
    let ask = |case: &&Case| {
        let id = format!("hospital:SITEA/{}", case.patient_id);
        let studies = node.history(&id);
        assert_eq!(studies.len(), 1, "{}: {studies:?}", case.case);
        let study = &studies[0];
        assert_eq!(study["site_name"], "测试医院 (hospital-a)");
        let said = node.run(&["history", "--id", &id]).success().stdout;
        assert!(said.contains(&case.texts.name) && said.contains(&case.texts.study_description), "{said}");
        let series = &case.texts.series_description;
        (text(&study["study_uid"]), Texts::new(&text(&study["patient_name"]), &text(&study["description"]), series))
    };
    cases.iter().map(ask).collect()
}

/// Reads all cases through one interface.
type Reader = fn(&Node, &[&Case]) -> Readings;

const INTERFACES: [(&str, Reader); 7] = [
    ("QIDO-RS studies, dicomweb-client", |node, cases| by_keyword(&asked(node, "studies", cases), cases)),
    ("QIDO-RS series, dicomweb-client", |node, cases| by_keyword(&asked(node, "series", cases), cases)),
    ("QIDO-RS instances, dicomweb-client", |node, cases| by_keyword(&asked(node, "instances", cases), cases)),
    ("WADO-RS metadata, dicomweb-client", |node, cases| by_keyword(&asked(node, "metadata", cases), cases)),
    ("QIDO-RS series, curl", |node, cases| {
        by_curl(node, |case| format!("/dicom-web/series?PatientID={}&includefield=all", case.patient_id), cases)
    }),
    ("WADO-RS metadata, curl", |node, cases| {
        by_curl(node, |case| format!("/dicom-web/studies/{}/metadata", case.study), cases)
    }),
    ("tessera history", by_history),
];

/// Every interface gives every text as it was meant, and the bytes as they were sent.
fn check(node: &Node, scratch: &Scratch, cases: &[&Case]) {
    node.await_status("registration", |status| status["receiving"] == 0 && status["outbox_pending"] == 0);
    let expected: Readings = cases.iter().map(|case| (case.study.clone(), case.texts.clone())).collect();
    for (interface, read) in INTERFACES {
        assert_eq!(read(node, cases), expected, "{interface}");
    }
    let shown = page(&node.url("/"));
    for case in cases {
        let row = console_row(&shown, case);
        let groups = case.texts.name.split('=').take(2);
        for part in groups.chain([case.texts.study_description.as_str()]) {
            // The parts of a Chinese name are written together, others with a blank.
            let shown = ["", " "].iter().any(|between| row.contains(&part.replace('^', between)));
            assert!(shown, "{}: the console's row lacks {part}: {row}", case.case);
        }
        check_bytes(node, scratch, case);
    }
}

fn console_row<'a>(page: &'a str, case: &Case) -> &'a str {
    let cell = format!(">{}<", case.patient_id);
    let row = page.split("<tr>").find(|row| row.contains(&cell));
    row.unwrap_or_else(|| panic!("{}: no row of {} on the console", case.case, case.patient_id))
}

fn check_bytes(node: &Node, scratch: &Scratch, case: &Case) {
    let folder = scratch.path().join("retrieved").join(&case.case).display().to_string();
    let url = node.url("/dicom-web");
    let parts = python("dicomweb_check.py", &["--url", &url, "retrieve", &case.study, "--to", &folder]);
    let retrieved = text(&parts.success().json_lines()[0]["file"]);
    let hashes = python("dataset_bytes.py", &[&case.file, &retrieved]).success().json_lines();
    assert_eq!(hashes[0]["sha256"], hashes[1]["sha256"], "{}: the data set was changed", case.case);
}

#[test]
fn what_is_declared_rightly_comes_back_right_from_every_interface() {
    let scratch = Scratch::new();
    let all = cases(&scratch.folder("files"));
    // Detection must not "correct" these.
    let declared: Vec<&Case> = all.iter().take_while(|case| case.really.is_none()).collect();
    assert_eq!(declared.len(), 12, "the console shows so many");
    let node = hospital(&scratch, &[]);
    send(&node, FACTORY, declared.iter().copied());
    check(&node, &scratch, &declared);
    let status = node.status().expect("a running node");
    assert!(!warns(&status, "belie"), "{status:#}");
    assert!(!page(&node.url("/")).contains("characters:"));
    searches_by_chinese_names(&node, &declared);
}

fn searches_by_chinese_names(node: &Node, cases: &[&Case]) {
    let has_name = |case: &&&Case| case.texts.name.split('=').any(|group| group.starts_with("测试"));
    let expected: BTreeSet<&str> = cases.iter().filter(has_name).map(|case| case.study.as_str()).collect();
    assert!(expected.len() >= 7, "{expected:?}");
    let url = node.url("/dicom-web");
    let found = python("dicomweb_check.py", &["--url", &url, "studies", "PatientName=测试*"]).success().json_lines();
    let studies =
        |lines: &[Value]| -> BTreeSet<String> { lines.iter().map(|l| text(&l["StudyInstanceUID"][0])).collect() };
    assert_eq!(studies(&found), expected.iter().map(|study| (*study).to_owned()).collect());
    let answer = curl(&node.url("/dicom-web/studies"), &["--get", "--data-urlencode", "StudyDescription=*平扫*"]);
    let items: Vec<Value> = serde_json::from_str(&answer).expect("DICOM JSON");
    let found: BTreeSet<String> = items.iter().map(|item| text(&item["0020000D"]["Value"][0])).collect();
    let described = cases.iter().filter(|case| case.texts.study_description.contains("平扫"));
    assert_eq!(found, described.map(|case| case.study.clone()).collect());
}

#[test]
fn what_belies_its_label_is_read_by_its_bytes_and_flagged() {
    let scratch = Scratch::new();
    let all = cases(&scratch.folder("files"));
    let wrong: Vec<&Case> = all.iter().filter(|case| case.really.is_some() && !case.case.contains("rare")).collect();
    assert!(wrong.len() >= 5);
    let node = hospital(&scratch, &[]);
    send(&node, FACTORY, wrong.iter().copied());
    check(&node, &scratch, &wrong);
    let status = node.status().expect("a running node");
    for note in
        [r#"declared "ISO_IR 100", is GB18030"#, r#"declared "", is GB18030"#, r#"declared "GB18030", is ISO_IR 192"#]
    {
        assert!(warns(&status, note) && warns(&status, FACTORY), "no warning of {note}: {status:#}");
    }
    node.run(&["status"]).success().says(FACTORY);
    let shown = page(&node.url("/"));
    for case in &wrong {
        assert!(console_row(&shown, case).contains("characters: declared"), "{} is not flagged", case.case);
    }
}

#[test]
fn a_setting_for_the_sender_decides_whatever_is_declared() {
    let scratch = Scratch::new();
    let all = cases(&scratch.folder("files"));
    let wrong: Vec<&Case> = all.iter().filter(|case| case.really.is_some()).collect();
    assert!(wrong.iter().any(|case| case.case.contains("rare")), "one that only the setting can read");
    let senders: BTreeSet<&str> = wrong.iter().filter_map(|case| case.really.as_deref()).collect();
    let titles: BTreeMap<&str, String> = senders.iter().zip(1..).map(|(set, n)| (*set, format!("CT{n}"))).collect();
    let list: Vec<(&str, &str)> = titles.iter().map(|(set, title)| (title.as_str(), *set)).collect();
    let node = hospital(&scratch, &list);
    for (set, title) in &titles {
        send(&node, title, wrong.iter().copied().filter(|case| case.really.as_deref() == Some(*set)));
    }
    check(&node, &scratch, &wrong);
    let status = node.status().expect("a running node");
    assert!(!warns(&status, "belie"), "what the operator has set needs no attention: {status:#}");
    let shown = page(&node.url("/"));
    assert!(console_row(&shown, wrong[0]).contains("read as GBK by the sender"));
}

/// What only the holder's operator knows of a device travels beside the manifest; the bytes stay as they are.
#[test]
fn a_setting_of_the_holder_counts_where_its_studies_are_fetched() {
    const REQUESTER: Seat = Seat::new("hospital-d", "SITED", Role::Member);
    let scratch = Scratch::new();
    let all = cases(&scratch.folder("files"));
    // Of a device that the operator has set: texts that the bytes settle too, and one that they cannot; and one of another.
    let set: Vec<&Case> = all.iter().filter(|case| case.really.as_deref() == Some("GBK")).collect();
    let unset = all.iter().find(|case| case.case == "gb18030").expect("the case");
    assert!(set.iter().any(|case| case.case.contains("rare")), "one that only the setting can read");
    let nodes = vec![Node::init(&scratch, SEAT), Node::init(&scratch, REQUESTER)];
    list_senders(&nodes[0], &[("CT1", "GBK")]);
    let federation = Federation::of(scratch, nodes, &[]);
    let [holder, requester] = [&federation.nodes[0], &federation.nodes[1]];
    send(holder, "CT1", set.iter().copied());
    send(holder, FACTORY, [unset]);
    federation.settle();
    let fetched: Vec<&Case> = set.iter().copied().chain([unset]).collect();
    for case in &fetched {
        let patient = format!("hospital:SITEA/{}", case.patient_id);
        federation.allow(0, 1, &patient);
        federation.settle();
        requester.run(&["fetch", &case.study, "--id", &patient]).success();
    }
    let expected: Readings = fetched.iter().map(|case| (case.study.clone(), case.texts.clone())).collect();
    let metadata = |case: &Case| format!("/dicom-web/studies/{}/metadata", case.study);
    assert_eq!(by_curl(requester, metadata, &fetched), expected, "read from the bytes");
    let listed = |case: &Case| format!("/dicom-web/series?PatientID={}&includefield=all", case.patient_id);
    assert_eq!(by_curl(requester, listed, &fetched), expected, "read from the catalogue");
    fetched.iter().for_each(|case| check_bytes(requester, &federation.scratch, case));
    let status = requester.status().expect("a running node");
    assert!(!warns(&status, "belie"), "the device is another hospital's to set: {status:#}");
}

#[test]
fn a_misspelt_character_set_in_the_configuration_is_refused_with_its_sender() {
    let scratch = Scratch::new();
    let node = Node::init(&scratch, SEAT);
    let path = node.directory.join("tessera.toml");
    let good = std::fs::read_to_string(&path).expect("the configuration");
    let sender = "\n[[dicom.sender]]\nae_title = 'CT7'\naddress = '10.1.2.3'\n";
    for (setting, why) in [("GB18O30", "'GB18O30' is no character set of DICOM"), ("", "it is empty")] {
        std::fs::write(&path, format!("{good}{sender}character_set = '{setting}'\n")).expect("ours to write");
        for command in ["node", "config"] {
            let outcome = node.run(&[command]).exits_with(1);
            outcome.says("dicom.sender.character_set").says("CT7").says(why);
        }
    }
}
