//! The pages and the viewer as people meet them: a real browser on real nodes with real images.
//!
//! What a page shows is compared with what was sent and with what the command line says, never with the page's own
//! code. The browser's requests are all recorded; one that leaves the node's origin fails the test, whichever it is.
//! `TESSERA_SHOTS=FOLDER` keeps the pictures: somebody should look at them when a page changes.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tessera_tests::{
    A, ALLIANCE, Browser, Examination, Federation, Phantom, REGULATOR, Role, Seat, Visit, dcmtk, entries_of, python,
};

/// One core hospital and one that follows: enough where only two sites have to do with one another.
const PAIR: [Seat; 2] = [ALLIANCE[A], Seat::new("hospital-d", "SITED", Role::Member)];
const FOLLOWER: usize = 1;

/// A telephone.
const NARROW: (u32, u32) = (390, 844);

fn open(path: &str) -> Value {
    json!({"do": "open", "path": path})
}

/// `resident:NUMBER` or `hospital:ISSUER/NUMBER`, by the kind that the page offers for it.
fn search(id: &str) -> Value {
    let end = id.find(['/', ':']).map(|colon| id.rfind('/').unwrap_or(colon) + 1).expect("a kind");
    json!({"do": "search", "kind": &id[..end], "number": &id[end..]})
}

fn fetch(study: &str) -> Value {
    json!({"do": "fetch", "study": study, "user": "li.wei", "purpose": "treatment"})
}

fn view(study: &str) -> Value {
    json!({"do": "view", "study": study})
}

fn step(name: &str) -> Value {
    json!({"do": name})
}

/// What is in the window.
fn shot(name: &str) -> Value {
    json!({"do": "shot", "name": name, "whole": false})
}

/// The page down to its end.
fn long_shot(name: &str) -> Value {
    json!({"do": "shot", "name": name, "whole": true})
}

fn narrow() -> Value {
    json!({"do": "resize", "width": NARROW.0, "height": NARROW.1})
}

/// Markup of the whole page, hidden parts included.
fn markup() -> Value {
    json!({"do": "script", "text": "document.documentElement.outerHTML"})
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().map(|text| text.as_str().expect("text")).collect()
}

fn says(seen: &Value, text: &str) {
    assert!(seen["text"].as_str().is_some_and(|shown| shown.contains(text)), "no {text:?} on the page: {seen:#}");
}

#[track_caller]
fn tile<'a>(seen: &'a Value, title: &str) -> &'a Value {
    let tiles = seen["tiles"].as_array().expect("tiles");
    tiles.iter().find(|tile| tile["title"] == title).unwrap_or_else(|| panic!("no tile {title:?}: {tiles:#?}"))
}

/// The rows of the table under a heading that begins so, each as its cells by the table's head.
#[track_caller]
fn rows(seen: &Value, title: &str) -> Vec<BTreeMap<String, String>> {
    let tables = seen["tables"].as_array().expect("tables");
    let titled = |table: &&Value| table["title"].as_str().is_some_and(|text| text.starts_with(title));
    let table = tables.iter().find(titled).unwrap_or_else(|| panic!("no table {title:?}: {tables:#?}"));
    let cells = |row: &Value| texts(&table["head"]).into_iter().map(str::to_owned).zip(owned(row)).collect();
    table["rows"].as_array().expect("rows").iter().map(cells).collect()
}

fn owned(list: &Value) -> Vec<String> {
    texts(list).into_iter().map(str::to_owned).collect()
}

/// What every page owes its readers: a title, a language, names for whatever can be used, and no sideways scrolling.
#[track_caller]
fn is_a_decent_page(seen: &Value) {
    assert!(seen["title"].as_str().is_some_and(|title| title.contains("Tessera")), "{seen:#}");
    assert_eq!(seen["lang"], "en");
    assert_eq!(texts(&seen["unnamed"]), [""; 0], "what a screen reader could not name");
    assert!(seen["overflow_px"].as_i64() <= Some(0), "the page is too wide: {seen:#}");
}

/// Times are told by the clock on the reader's wall; the browser of these tests stands in China, at UTC+8.
#[track_caller]
fn tells_local_times(seen: &Value) {
    let times = seen["times"].as_array().expect("times");
    assert!(!times.is_empty(), "no time on the page: {seen:#}");
    for time in times {
        let (utc, text) = (time["utc"].as_str().expect("a time"), time["text"].as_str().expect("a text"));
        let hour: u32 = utc[11..13].parse().expect("an hour");
        assert_eq!(text.get(11..), Some(format!("{:02}{}", (hour + 8) % 24, &utc[13..19]).as_str()), "{time}");
        assert_eq!(text[..10] == utc[..10], hour < 16, "{time}");
    }
}

/// The image is a picture in grey and not one colour.
#[track_caller]
fn is_an_image(seen: &Value) {
    let image = &seen["image"];
    assert!(image["grey"].as_f64() > Some(0.95) && image["commonest"].as_f64() < Some(0.95), "{image}");
}

/// `1,234` as the pages write it.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|g| std::str::from_utf8(g).expect("digits")).collect();
    groups.join(",")
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn images(examinations: &[Examination]) -> u64 {
    examinations.iter().map(|examination| examination.files.len() as u64).sum()
}

/// `2025-03` of an examination, by DCMTK.
fn month(examination: &Examination) -> String {
    let dump = dcmtk("dcmdump", &["+P", "0008,0020", &examination.files[0].display().to_string()]).success().stdout;
    let date = dump.split(['[', ']']).nth(1).expect("a date");
    format!("{}-{}", &date[..4], &date[4..6])
}

/// `name` as a phantom's crosswalk has it, in the form of the pages: `测试患者〇一 (Ceshi Huanzhe01)`.
fn written(name: &str) -> String {
    let (alphabetic, ideographic) = name.split_once('=').expect("two groups");
    format!("{} ({})", ideographic.replace('^', ""), alphabetic.replace('^', " "))
}

/// The examination of the person who was everywhere, at this hospital; and that person's name.
fn shared(phantom: &Phantom, issuer: &str) -> (Examination, String) {
    let patient = phantom.shared_patient();
    let person = phantom.persons().into_iter().find(|person| person.issuer == issuer && person.identifier == patient);
    let person = person.expect("in the crosswalk");
    let found = phantom.examinations(issuer).into_iter().find(|known| known.patient_id == person.patient_id);
    (found.expect("an examination"), written(&person.name))
}

/// Numbers of patients go out in bodies only, which no history and no log keeps.
#[track_caller]
fn asks_without_numbers(visit: &Visit, numbers: &[&str]) {
    for request in &visit.requests {
        assert!(!numbers.iter().any(|number| request.contains(number)), "a patient's number in {request}");
    }
}

/// Every hospital sends its examinations and learns whose numbers are one person's.
fn send_all(federation: &Federation, phantom: &Phantom) {
    for node in federation.nodes.iter().filter(|node| node.seat.role != Role::Observer) {
        node.run(&["crosswalk", &phantom.crosswalk().display().to_string()]).success();
        node.send(&[phantom.of(node.seat.issuer)]);
    }
}

#[test]
fn browser_shows_how_the_federation_stands_what_a_patient_has_and_to_a_regulator_figures_only() {
    let federation = Federation::found(&ALLIANCE, &[]);
    let phantom = federation.phantom(&["--patients", "6", "--slices", "8"]);
    send_all(&federation, &phantom);
    let states = federation.settle();
    let browser = Browser::new(&federation.scratch);

    let patient = phantom.shared_patient();
    let (here, name) = shared(&phantom, "SITEA");
    let steps = [
        open("/"),
        long_shot("overview"),
        step("tab"),
        search(&patient),
        long_shot("history"),
        search(&here.patient("SITEA")),
        narrow(),
        long_shot("history-narrow"),
        open("/"),
        long_shot("overview-narrow"),
    ];
    let visit = browser.visit(&federation.nodes[A], &steps);
    let [overview, _, stops, history, _, by_number, history_narrow, _, overview_narrow, _] = &visit.seen[..] else {
        panic!("one answer for each step")
    };
    for page in [overview, history, by_number, history_narrow, overview_narrow] {
        is_a_decent_page(page);
    }
    overview_is_right(overview, &states[A], &phantom);
    history_is_right(history, &phantom, &name);
    // What a link brought says so; all else is the same.
    let (mut found, mut linked) = (rows(by_number, "Examinations under"), 0);
    for hospital in found.iter_mut().filter_map(|row| row.get_mut("Hospital")) {
        if let Some((name, link)) = hospital.clone().split_once(" under ") {
            assert!(link.starts_with("resident:…") && link.contains("by a link of "), "{hospital}");
            linked += 1;
            *hospital = name.to_owned();
        }
    }
    assert!(linked > 0, "no row says that a link brought it: {found:?}");
    assert_eq!(rows(history, "Examinations under"), found, "by either number");
    for stop in stops.as_array().expect("stops") {
        assert!(stop["outlined"] == true && stop["on_screen"] == true, "the focus can't be seen on {stop}");
    }
    for element in ["select#kind", "input#number", "button Search", "a Open"] {
        let stops = stops.as_array().expect("stops");
        assert!(stops.iter().any(|stop| stop["element"] == element), "no way to {element} by keyboard: {stops:#?}");
    }
    let number = patient.split(':').nth(1).expect("a number");
    asks_without_numbers(&visit, &[number, &here.patient_id]);

    let visit = browser.visit(
        &federation.nodes[REGULATOR],
        &[open("/"), long_shot("regulator"), markup(), narrow(), long_shot("regulator-narrow")],
    );
    let [regulator, _, markup, regulator_narrow, _] = &visit.seen[..] else { panic!("one answer for each step") };
    is_a_decent_page(regulator);
    is_a_decent_page(regulator_narrow);
    regulator_counts_and_finds_nobody(regulator, markup.as_str().expect("markup"), &phantom);
}

fn overview_is_right(seen: &Value, status: &Value, phantom: &Phantom) {
    assert_eq!(seen["title"], "测试医院 (hospital-a) · Tessera");
    let examinations = phantom.examinations("SITEA");
    let own = tile(seen, "Examinations here");
    assert_eq!(own["figure"], thousands(examinations.len() as u64));
    assert_eq!(own["facts"]["images"], thousands(images(&examinations)));
    assert_eq!(own["facts"]["volume"], megabytes(status["bytes"].as_u64().expect("bytes")));
    let ledger = tile(seen, "Ledger entries");
    let size = thousands(status["ledger_size"].as_u64().expect("a size"));
    assert_eq!((&ledger["figure"], &ledger["facts"]["certified"]), (&json!(size), &json!(size)));
    tells_local_times(seen);
    let age = ledger["facts"]["age"].as_str().expect("an age");
    assert!(age.ends_with(" s") || age.ends_with(" ms"), "idle, the core certifies every few seconds: {ledger}");
    assert_eq!(tile(seen, "Waiting for the ledger")["figure"], "0");
    assert_eq!(tile(seen, "Other nodes connected")["figure"], "4 of 4");
    let nodes = rows(seen, "Nodes of the federation");
    let shown: Vec<[&str; 3]> =
        nodes.iter().map(|row| ["Node", "Sites", "Role"].map(|cell| row[cell].as_str())).collect();
    let names = ALLIANCE.map(|seat| (seat.name, format!("测试医院 ({})", seat.name), seat.role.word()));
    let expected: Vec<[&str; 3]> = names.iter().map(|(name, site, role)| [*name, site.as_str(), *role]).collect();
    assert_eq!(sorted(shown), sorted(expected));
    let newest = rows(seen, "Newest examinations here");
    assert_eq!(newest.len(), examinations.len());
    let persons = phantom.persons();
    for row in newest {
        let person = persons.iter().find(|person| person.issuer == "SITEA" && person.patient_id == row["Number"]);
        assert_eq!(row["Patient"], written(&person.expect("one who was sent").name));
    }
}

fn sorted<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort();
    list
}

fn history_is_right(seen: &Value, phantom: &Phantom, name: &str) {
    says(seen, "As of ");
    says(seen, " old, by ");
    tells_local_times(seen);
    let rows = rows(seen, "Examinations under");
    let hospitals = sorted(rows.iter().map(|row| row["Hospital"].clone()).collect());
    assert_eq!(hospitals, ["a", "b", "c", "d"].map(|letter| format!("测试医院 (hospital-{letter})")));
    for row in &rows {
        let issuer = row["Hospital"].trim_end_matches(')').rsplit('-').next().expect("a letter").to_uppercase();
        let (examination, _) = shared(phantom, &format!("SITE{issuer}"));
        assert_eq!(row["Images"], thousands(examination.files.len() as u64));
        let is_here = issuer == "A";
        assert_eq!(row["Where"], if is_here { "here" } else { "elsewhere" });
        // Names and descriptions are in images only, not in the ledger.
        assert_eq!(row["Description"], if is_here { format!("胸部CT平扫 {name}") } else { String::new() });
    }
}

fn regulator_counts_and_finds_nobody(seen: &Value, markup: &str, phantom: &Phantom) {
    let mut expected: BTreeMap<(String, String), (u64, u64)> = BTreeMap::new();
    for seat in ALLIANCE.iter().filter(|seat| seat.role != Role::Observer) {
        for examination in phantom.examinations(seat.issuer) {
            let place = (month(&examination), format!("测试医院 ({})", seat.name));
            let sum = expected.entry(place).or_default();
            *sum = (sum.0 + 1, sum.1 + examination.files.len() as u64);
            for secret in [&examination.study, &examination.patient_id] {
                assert!(!markup.contains(secret.as_str()), "the regulator's page has {secret}");
            }
        }
    }
    let shown: BTreeMap<(String, String), (u64, u64)> = rows(seen, "Examinations by month and site")
        .iter()
        .map(|row| {
            let figure = |cell: &str| row[cell].replace(',', "").parse::<u64>().expect("a figure");
            ((row["Month"].clone(), row["Site"].clone()), (figure("Examinations"), figure("Images")))
        })
        .collect();
    assert_eq!(shown, expected);
    for person in phantom.persons() {
        let (alphabetic, ideographic) = person.name.split_once('=').expect("two groups");
        for secret in [&person.number, alphabetic, &ideographic.replace('^', "")] {
            assert!(!markup.contains(secret), "the regulator's page has {secret}");
        }
    }
    for way in ["<input", "<form", "<dialog", "Search", "viewer?"] {
        assert!(!markup.contains(way), "the regulator's page has {way}");
    }
}

#[test]
fn browser_opens_what_is_elsewhere_with_the_patients_consent_only_and_draws_it() {
    let federation = Federation::found(&PAIR, &[]);
    let phantom = federation.phantom(&["--patients", "4", "--slices", "8"]);
    send_all(&federation, &phantom);
    federation.settle();
    let browser = Browser::new(&federation.scratch);
    let patient = phantom.shared_patient();
    let (away, name) = shared(&phantom, "SITEA");
    let study = away.study.as_str();
    let named = json!({"do": "says", "text": name.as_str()});

    let steps = [open("/"), search(&patient), fetch(study), shot("refused"), step("close")];
    let visit = browser.visit(&federation.nodes[FOLLOWER], &steps);
    let refused = &visit.seen[2];
    is_a_decent_page(refused);
    let notice = refused["notices"].as_array().expect("notices").last().expect("an answer");
    for part in ["测试医院 (hospital-a)", "refused", "consent", "Ask the patient"] {
        assert!(notice["text"].as_str().is_some_and(|text| text.contains(part)), "no {part:?}: {notice}");
    }
    assert_eq!(refused["url"], "/", "the viewer was opened for what was refused");
    assert!(!visit.requests.iter().any(|path| path.starts_with("/dicom-web") || path.starts_with("/viewer")));

    federation.allow(A, FOLLOWER, &patient);
    let before = federation.settle();
    let steps = [
        open("/"),
        search(&patient),
        fetch(study),
        step("image"),
        named.clone(),
        shot("viewer-fetched"),
        open("/"),
        search(&patient),
        long_shot("history-copy"),
    ];
    let visit = browser.visit(&federation.nodes[FOLLOWER], &steps);
    is_an_image(&visit.seen[3]);
    let row = rows(&visit.seen[7], "Examinations under").into_iter().find(|row| row["Where"] != "here").expect("A's");
    assert_eq!((row["Where"].as_str(), row["Hospital"].as_str()), ("copy here", "测试医院 (hospital-a)"));
    assert_eq!(row["Description"], format!("胸部CT平扫 {name}"));
    let pixels =
        |path: &&String| path.starts_with(&format!("/dicom-web/studies/{study}/")) && path.contains("/frames/");
    assert!(visit.requests.iter().filter(pixels).count() > 0, "no pixels were asked for: {:#?}", visit.requests);
    let number = patient.split(':').nth(1).expect("a number");
    asks_without_numbers(&visit, &[number]);
    let after = federation.settle();
    let disclosures = |states: &[Value]| entries_of(&states[A], "disclosure");
    assert_eq!(disclosures(&after), disclosures(&before) + 1, "one fetch, one disclosure");

    // Its own examination, which nobody has to be asked for.
    let steps = [open("/"), view(study), step("image"), named, shot("viewer-local")];
    let visit = browser.visit(&federation.nodes[A], &steps);
    is_an_image(&visit.seen[2]);
    assert_eq!(disclosures(&federation.settle()), disclosures(&after));
}

#[test]
fn browser_takes_hostile_texts_as_text_and_says_when_nobody_can_be_looked_up() {
    let mut federation = Federation::found(&PAIR, &[]);
    let phantom = federation.phantom(&["--patients", "4", "--slices", "2"]);
    federation.nodes[FOLLOWER].send(&[phantom.of("SITED")]);
    let file = federation.scratch.path().join("hostile.dcm").display().to_string();
    const NUMBER: &str = "O'<i>\"7";
    let made = python("make_hostile.py", &[&file, "--patient", NUMBER, "--issuer", "SITEA"]).success().json_lines();
    federation.nodes[A].send(&[&file]);
    federation.settle();
    let browser = Browser::new(&federation.scratch);
    let text = |name: &str| made[0][name].as_str().expect("text");

    let patient = format!("hospital:SITEA/{NUMBER}");
    // A script in data would have called it; the page has no such element and no such function.
    let ran = json!({"do": "script", "text": "document.querySelectorAll('script:not([src]), img, b, i').length"});
    let unknown = "hospital:SITEA/NOBODY-1";
    let steps = [
        open("/"),
        search(&patient),
        ran,
        long_shot("hostile"),
        search(unknown),
        long_shot("unknown"),
        view(text("study")),
        step("image"),
        shot("viewer-hostile"),
    ];
    let visit = browser.visit(&federation.nodes[A], &steps);
    let [overview, history, injected, _, nobody, _, _, viewer, _] = &visit.seen[..] else {
        panic!("one answer for each step")
    };
    let row = &rows(overview, "Newest examinations here")[0];
    assert_eq!([&row["Patient"], &row["Description"], &row["Number"]], [text("name"), text("description"), NUMBER]);
    let row = &rows(history, "Examinations under")[0];
    assert_eq!(row["Description"], format!("{} {}", text("description"), text("name")));
    assert_eq!(*injected, 0, "a part of the data became a part of the page");
    is_an_image(viewer);
    says(nobody, "None under this number.");
    let words = nobody["text"].as_str().expect("text").to_lowercase();
    assert!(!words.contains("no history") && !words.contains("nothing found"), "{words}");

    // The one core hospital is away. Who is known here is found; who is not can't be asked for, which is not "none".
    federation.nodes[A].kill();
    let own = &phantom.examinations("SITED")[0];
    let steps = [
        open("/"),
        search(unknown),
        long_shot("cut-off"),
        search(&own.patient("SITED")),
        json!({"do": "says", "text": "registrations wait"}),
        long_shot("cut-off-overview"),
    ];
    let visit = browser.visit(&federation.nodes[FOLLOWER], &steps);
    let [_, stranger, _, known, overview, _] = &visit.seen[..] else { panic!("one answer for each step") };
    let notices = stranger["notices"].as_array().expect("notices");
    let notice = notices.iter().find(|notice| notice["text"].as_str().is_some_and(|text| text.contains("looked up")));
    let notice = notice.unwrap_or_else(|| panic!("the page does not say that it can't look anybody up: {notices:#?}"));
    assert!(notice["text"].as_str().is_some_and(|text| text.contains("no core hospital answered")), "{notice}");
    let words = stranger["text"].as_str().expect("text");
    assert!(!words.contains("None under this number") && !words.contains("nothing found"), "{words}");
    assert_eq!(rows(known, "Examinations under")[0]["Hospital"], "测试医院 (hospital-d)");
    assert_eq!(tile(overview, "Other nodes connected")["figure"], "0 of 1");
}
