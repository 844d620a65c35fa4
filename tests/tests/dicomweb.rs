//! Another hospital's study as a workstation meets it, which knows nothing but DICOMweb of its own hospital's node:
//! listed under the patient's own number there, refused before the patient agrees, and then fetched and given byte for
//! byte.
//!
//! Real processes, curl, and Python's clients. Not for refusals that pass by themselves, which are in `partition`; what
//! DICOMweb says of a hospital's own studies is in `hospital` and `charset`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;
use tessera_tests::{
    A, ALLIANCE, B, DataSet, Examination, Federation, Node, Outcome, Phantom, curl, data_sets, entries_of, python,
    retrieve,
};

/// Legal names, as answers give them.
const HOLDER: &str = "测试医院 (hospital-a)";
const HERE: &str = "测试医院 (hospital-b)";

/// Attributes, as DICOM JSON names them.
const STUDY_INSTANCE_UID: &str = "0020000D";
const PATIENT_ID: &str = "00100020";
const PATIENT_NAME: &str = "00100010";
const INSTANCE_AVAILABILITY: &str = "00080056";
const INSTITUTION_NAME: &str = "00080080";
const RETRIEVE_URL: &str = "00081190";
const NUMBER_OF_INSTANCES: &str = "00201208";

/// One person with studies at A and at B, whose numbers differ.
struct Case {
    federation: Federation,
    /// As both hospitals' crosswalks have the person.
    resident: String,
    /// The number at B.
    number: String,
    at_a: Examination,
    at_b: Examination,
}

impl Case {
    fn new() -> Case {
        let federation = Federation::found(&ALLIANCE[..3], &[]);
        let phantom = federation.phantom(&["--patients", "4", "--slices", "4"]);
        let resident = phantom.shared_patient();
        for (index, issuer) in [(A, "SITEA"), (B, "SITEB")] {
            let node = &federation.nodes[index];
            node.run(&["crosswalk", &phantom.crosswalk().display().to_string()]).success();
            node.send(&[phantom.of(issuer)]);
        }
        let [at_a, at_b] = ["SITEA", "SITEB"].map(|issuer| of_person(&phantom, issuer, &resident));
        Case { number: at_b.patient_id.clone(), federation, resident, at_a, at_b }
    }

    fn node(&self) -> &Node {
        &self.federation.nodes[B]
    }

    /// QIDO-RS at B by the number there, and as of when that is.
    fn listed(&self) -> (Vec<Value>, String) {
        let query = format!("PatientID={}&IssuerOfPatientID=SITEB", self.number);
        let url = self.node().url(&format!("/dicom-web/studies?{query}"));
        let [items, status, as_of] = curl(&url, &[], ["%{http_code}", "%header{tessera-as-of}"]);
        assert_eq!(status, "200", "{items}");
        (serde_json::from_str(&items).unwrap_or_else(|e| panic!("{e}: {items}")), as_of)
    }

    /// Which studies are listed: how far each is at hand, and who holds it.
    fn places(&self) -> BTreeMap<String, [String; 2]> {
        let text = |item: &Value, tag: &str| item[tag]["Value"][0].as_str().unwrap_or_default().to_owned();
        let place = |item: &Value| [text(item, INSTANCE_AVAILABILITY), text(item, INSTITUTION_NAME)];
        self.listed().0.iter().map(|item| (text(item, STUDY_INSTANCE_UID), place(item))).collect()
    }

    /// What it should list: B's own study at hand, and A's study so far.
    fn expected(&self, availability: &str) -> BTreeMap<String, [String; 2]> {
        let place = |availability: &str, holder: &str| [availability.to_owned(), holder.to_owned()];
        let (of_a, of_b) = (place(availability, HOLDER), place("ONLINE", HERE));
        BTreeMap::from([(self.at_a.study.clone(), of_a), (self.at_b.study.clone(), of_b)])
    }

    /// WADO-RS of A's study at B, in the name of a patient, for treatment; its parts are files below `to`.
    fn retrieved(&self, to: &Path) -> Outcome {
        let (url, to) = (self.node().url("/dicom-web"), to.display().to_string());
        let patient = format!("Tessera-Patient=hospital:SITEB/{}", self.number);
        let mut arguments = vec!["--url", &url];
        for header in [patient.as_str(), "Tessera-Purpose=treatment", "Tessera-User=li.wei"] {
            arguments.extend(["--header", header]);
        }
        arguments.extend(["retrieve", &self.at_a.study, "--to", &to]);
        python("dicomweb_check.py", &arguments)
    }

    /// The same by curl, with these parameters in the address: the answer's text, its status and its type.
    fn asked(&self, parameters: &str) -> [String; 3] {
        let url = self.node().url(&format!("/dicom-web/studies/{}{parameters}", self.at_a.study));
        curl(&url, &[], ["%{http_code}", "%{content_type}"])
    }
}

/// A person's one examination at a hospital.
fn of_person(phantom: &Phantom, issuer: &str, identifier: &str) -> Examination {
    let persons = phantom.persons();
    let person = persons.iter().find(|person| person.issuer == issuer && person.identifier == identifier);
    let number = &person.expect("in the crosswalk").patient_id;
    let mut all: Vec<Examination> =
        phantom.examinations(issuer).into_iter().filter(|examination| examination.patient_id == *number).collect();
    assert_eq!(all.len(), 1, "the person's examinations at {issuer}");
    all.remove(0)
}

fn as_sets(files: &[PathBuf]) -> BTreeSet<DataSet> {
    data_sets(files).into_values().collect()
}

#[test]
fn a_patients_study_elsewhere_is_listed_and_once_the_patient_agrees_it_is_fetched_and_given_unchanged() {
    let case = Case::new();
    let before = case.federation.settle();
    listed_as_elsewhere(&case, &before[B]);
    refused_without_consent(&case);

    case.federation.allow(A, B, &case.resident);
    case.federation.settle();
    let (to, own) = (case.federation.scratch.path().join("at-b"), case.federation.scratch.path().join("at-a"));
    let parts = case.retrieved(&to).success().json_lines();
    for part in &parts {
        let head = part["head"].as_str().expect("a head");
        assert!(head.starts_with("Content-Type: application/dicom; transfer-syntax="), "{head}");
    }
    let files: Vec<PathBuf> = parts.iter().map(|part| part["file"].as_str().expect("a file").into()).collect();
    let given = as_sets(&files);
    assert_eq!((files.len(), given.len()), (case.at_a.files.len(), case.at_a.files.len()), "{files:?}");
    assert_eq!(given, as_sets(&case.at_a.files), "other bytes than were sent to A");
    let stored = retrieve(&case.federation.nodes[A].url("/dicom-web"), &[case.at_a.study.as_str()], &own);
    assert_eq!(given, as_sets(&stored), "other bytes than A has stored");

    // It is here now: listed so, and given to a viewer, which says nothing. The holder was asked once.
    assert_eq!(case.places(), case.expected("ONLINE"));
    let [_, status, content_type] = case.asked("");
    assert_eq!(status, "200");
    assert!(content_type.starts_with("multipart/related; type=\"application/dicom\"; boundary="), "{content_type}");
    assert_eq!(entries_of(&case.federation.settle()[A], "disclosure"), 1);
}

/// By the number at B, with its holder and an address at B, and as of a certified state that is no older than this one.
fn listed_as_elsewhere(case: &Case, before: &Value) {
    assert_eq!(case.places(), case.expected("NEARLINE"));
    let (items, as_of) = case.listed();
    let after = case.node().status().expect("B runs");
    let certified = [before, &after].map(|status| status["certified_at"].as_str().expect("a time"));
    // RFC 3339 in whole seconds of UTC: its order is that of the time.
    assert!(certified[0] <= as_of.as_str() && as_of.as_str() <= certified[1], "{as_of}: {certified:?}");
    let of_a = items.iter().find(|item| item[STUDY_INSTANCE_UID]["Value"][0] == case.at_a.study.as_str());
    let of_a = of_a.expect("it is among them");
    assert_eq!(of_a[PATIENT_ID]["Value"], serde_json::json!([case.number]), "{of_a:#}");
    assert_eq!(of_a[NUMBER_OF_INSTANCES]["Value"], serde_json::json!([case.at_a.files.len()]), "{of_a:#}");
    let here = case.node().url(&format!("/dicom-web/studies/{}", case.at_a.study));
    assert_eq!(of_a[RETRIEVE_URL]["Value"], serde_json::json!([here]), "{of_a:#}");
    assert!(of_a[PATIENT_NAME].get("Value").is_none(), "no ledger has it: {of_a:#}");
}

/// Who does not say for whom and what for is told how; who does hears the holder's decision. Nothing was disclosed.
fn refused_without_consent(case: &Case) {
    let [text, status, _] = case.asked("");
    assert_eq!(status, "404", "{text}");
    assert!(text.contains("Tessera-Patient, Tessera-Purpose and Tessera-User"), "{text}");
    // By parameters and by headers alike.
    let [text, status, _] = case.asked(&format!("?patient={}&purpose=treatment&user=li.wei", case.resident));
    let by_headers = case.retrieved(&case.federation.scratch.path().join("refused")).exits_with(3).json_lines();
    assert_eq!((status.as_str(), &by_headers[0]["status"]), ("403", &Value::from(403)), "{text} {by_headers:?}");
    for text in [text.as_str(), by_headers[0]["body"].as_str().expect("text")] {
        assert!(text.contains(&format!("refused by {HOLDER}")) && text.contains("no-basis"), "{text}");
    }
    let states = case.federation.settle();
    assert_eq!(entries_of(&states[A], "disclosure"), 0, "{:#}", states[A]);
    assert_eq!(case.places(), case.expected("NEARLINE"), "something of it is here");
}
