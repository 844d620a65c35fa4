//! One hospital's node, driven as its users do: DICOM clients, the command line, DICOMweb; killed at any moment.
//!
//! The node is a federation of one, as `tessera init` makes it. What several sites do together is in `alliance`.
//! Real files (pydicom's, with all their transfer syntaxes and broken ones) go in; what comes out is compared by the
//! bytes of the data set.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tessera_tests::{Process, Scratch, dcmtk, free_port, python, tessera, tessera_program, wait_until};

const START_DEADLINE: Duration = Duration::from_secs(60);
const WORK_DEADLINE: Duration = Duration::from_secs(120);

struct Hospital {
    scratch: Scratch,
    directory: PathBuf,
    dicom: u16,
    http: u16,
    process: Option<Process>,
}

impl Hospital {
    fn new(options: &[&str]) -> Hospital {
        let scratch = Scratch::new();
        let directory = scratch.path().join("node");
        let (dicom, http) = (free_port(), free_port());
        let addresses = [format!("127.0.0.1:{dicom}"), format!("127.0.0.1:{http}")];
        let dir = directory.display().to_string();
        let mut arguments = vec!["init", "--dir", &dir, "--site", "hospital-a", "--legal-name", "测试医院"];
        arguments.extend(["--dicom", &addresses[0], "--http", &addresses[1], "--quiet-period-ms", "500"]);
        arguments.extend(options);
        tessera(&arguments).success();
        let mut hospital = Hospital { scratch, directory, dicom, http, process: None };
        hospital.start();
        hospital
    }

    fn start(&mut self) {
        let mut command = Command::new(tessera_program());
        command.arg("node").arg("--dir").arg(&self.directory);
        let mut process = Process::start("node", self.scratch.path(), command);
        wait_until("the node to answer", START_DEADLINE, || {
            assert!(process.ended().is_none(), "the node ended: {}", process.log());
            self.status()
        });
        self.process = Some(process);
    }

    fn kill(&mut self) {
        self.process.take().expect("a running node").kill();
    }

    fn run(&self, arguments: &[&str]) -> tessera_tests::Outcome {
        let dir = self.directory.display().to_string();
        let mut all = arguments.to_vec();
        all.extend(["--dir", &dir]);
        tessera(&all)
    }

    fn status(&self) -> Option<Value> {
        let outcome = self.run(&["status", "--json"]);
        (outcome.code == Some(0)).then(|| serde_json::from_str(&outcome.stdout).expect("status is JSON"))
    }

    /// Waits until every study is closed, registered and certified.
    fn settle(&self) -> Value {
        wait_until("all studies to be registered", WORK_DEADLINE, || {
            self.status().filter(|status| status["receiving"] == 0 && status["outbox_pending"] == 0)
        })
    }

    fn store_all(&self, paths: &[&str]) -> Vec<Value> {
        let port = self.dicom.to_string();
        let mut arguments = vec!["--port", &port, "--called", "TESSERA"];
        arguments.extend(paths);
        python("store_all.py", &arguments).success().json_lines()
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.http)
    }
}

fn phantom(scratch: &Path, slices: &str) -> PathBuf {
    let folder = scratch.join("phantom");
    tessera(&["phantom", &folder.display().to_string(), "--patients", "2", "--slices", slices]).success();
    folder
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}

fn instances(hospital: &Hospital) -> BTreeSet<String> {
    let url = hospital.url("/dicom-web");
    let ask = |arguments: &[&str]| {
        let mut all = vec!["--url", url.as_str()];
        all.extend(arguments);
        python("dicomweb_check.py", &all).success().json_lines()
    };
    let uid = |line: &Value, keyword: &str| line[keyword][0].as_str().expect("a UID").to_owned();
    let studies: Vec<String> = ask(&["studies"]).iter().map(|line| uid(line, "StudyInstanceUID")).collect();
    let of_study = |study: &String| ask(&["instances", study]).iter().map(|line| uid(line, "SOPInstanceUID")).collect();
    studies.iter().flat_map(|study| -> Vec<String> { of_study(study) }).collect()
}

#[test]
fn killed_at_any_moment_of_an_ingest_nothing_answered_is_lost() {
    let mut hospital = Hospital::new(&["--accept-unknown-senders"]);
    let phantom = phantom(hospital.scratch.path(), "40");
    let files: Vec<PathBuf> = files_below(&phantom.join("SITEA"));
    let mut answered = BTreeSet::new();
    // Each round sends a part, and kills the node while a second sender is in the middle of the next.
    for (round, chunk) in files.chunks(files.len().div_ceil(4)).enumerate() {
        let paths: Vec<String> = chunk.iter().map(|path| path.display().to_string()).collect();
        let mut sender = Command::new(tessera_tests::python_program());
        sender.arg(tessera_tests::tests_folder().join("py/store_all.py"));
        sender.args(["--port", &hospital.dicom.to_string(), "--called", "TESSERA"]).args(&paths);
        let mut sender = Process::start(&format!("sender{round}"), hospital.scratch.path(), sender);
        wait_until("the sender to be in the middle", WORK_DEADLINE, || {
            let some = sender.log().lines().count() > chunk.len() / 3;
            (some || sender.ended().is_some()).then_some(())
        });
        hospital.kill();
        sender.end();
        let lines = sender.log();
        let reports = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let stored = reports.filter(|report| report["outcome"] == "stored");
        answered.extend(stored.filter_map(|report| report["sop_instance"].as_str().map(str::to_owned)));
        hospital.start();
    }
    assert!(answered.len() > files.len() / 4, "only {} of {} were answered", answered.len(), files.len());
    let here = instances(&hospital);
    let lost: Vec<_> = answered.difference(&here).collect();
    assert!(lost.is_empty(), "{} of {} answered objects are lost: {lost:?}", lost.len(), answered.len());
    // Sending everything again brings the rest once, and changes nothing of what was there.
    hospital.store_all(&[&phantom.join("SITEA").display().to_string()]);
    let status = hospital.settle();
    assert_eq!(status["objects"], files.len());
}

#[test]
fn real_files_in_every_transfer_syntax_come_back_byte_for_byte() {
    let hospital = Hospital::new(&["--accept-unknown-senders"]);
    let reports = hospital.store_all(&[]);
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    for report in &reports {
        *outcomes.entry(report["outcome"].as_str().expect("an outcome").to_owned()).or_default() += 1;
    }
    let stored: Vec<&Value> = reports.iter().filter(|report| report["outcome"] == "stored").collect();
    assert!(stored.len() > 100, "too few of the real files were stored: {outcomes:?}");
    assert!(!outcomes.contains_key("aborted"), "the node aborted associations: {outcomes:?}");
    hospital.settle();
    let syntaxes: BTreeSet<_> = stored.iter().map(|report| report["transfer_syntax"].to_string()).collect();
    assert!(syntaxes.len() >= 8, "transfer syntaxes stored: {syntaxes:?}");
}

#[test]
fn unknown_senders_are_put_aside_and_a_resend_never_jams_the_queue() {
    let hospital = Hospital::new(&[]);
    let phantom = phantom(hospital.scratch.path(), "3");
    let folder = phantom.join("SITEA").display().to_string();
    let port = hospital.dicom.to_string();
    let send = ["-aet", "STRANGER", "-aec", "TESSERA", "+sd", "+r", "127.0.0.1", &port, &folder];
    assert_eq!(dcmtk("storescu", &send).code, Some(0), "a stranger's queue must not jam");
    let status = hospital.status().expect("status");
    assert_eq!(status["studies"], 0, "a stranger's images are never indexed");
    assert!(status["quarantined"].as_u64() > Some(0));
    hospital.run(&["quarantine"]).success().says("not on the list");
    hospital.run(&["import", &folder]).success().says("0 variants");
    hospital.run(&["import", &folder]).success().says("0 objects stored");
}

#[test]
fn what_is_no_dicom_is_refused_with_a_reason_and_does_no_damage() {
    let hospital = Hospital::new(&["--accept-unknown-senders"]);
    let text = hospital.scratch.file("letter.txt", "not an image");
    let empty = hospital.scratch.file("empty.dcm", "");
    let paths = [text.display().to_string(), empty.display().to_string()];
    let outcome = hospital.run(&["import", &paths[0], &paths[1]]).exits_with(1);
    assert!(outcome.stdout.contains("2 files not taken"), "{}", outcome.stdout);
    assert!(outcome.stderr.contains("no DICOM file"), "{}", outcome.stderr);
    hospital.run(&["import", "/nowhere/at/all"]).exits_with(1).says("/nowhere/at/all");
    assert!(hospital.status().is_some());
}

#[test]
fn a_second_node_on_the_same_directory_says_why_it_does_not_start() {
    let hospital = Hospital::new(&[]);
    hospital.run(&["node"]).exits_with(1).says("in use by another process");
}

#[test]
fn odd_objects_hold_up_nothing_and_numbers_are_found_however_they_are_written() {
    let hospital = Hospital::new(&["--issuer", "HospA"]);
    let folder = hospital.scratch.path().join("odd").display().to_string();
    python("odd_objects.py", &[&folder]).success();
    let crosswalk = |name, line: &str| hospital.scratch.file(name, line).display().to_string();
    hospital.run(&["crosswalk", &crosswalk("before.csv", "hospa,odd-5,passport,CHN/G00000005\n")]).success();
    hospital.run(&["import", &folder]).success().says("1 quarantined");
    let status = hospital.settle();
    let registered = status["entries"].as_array().expect("entries").iter().find(|entry| entry[0] == "study");
    assert_eq!(registered.map(|entry| &entry[1]), Some(&Value::from(5)), "{status}");
    assert!(!status["warnings"].to_string().contains("can't be registered"), "{status}");
    hospital.run(&["quarantine"]).success().says("cut off or broken");
    let finds = |id: &str| hospital.run(&["history", "--id", id]).success().says("1 examinations");
    for id in ["hospital:HOSPA/ODD-1", "hospital:HIS_PACS/ODD-2", "hospital:HospA/ODD-3", "hospital:hospa/odd-6"] {
        finds(id);
    }
    // Mapped before it came, and mapped later: both numbers lead there.
    hospital.run(&["crosswalk", &crosswalk("later.csv", "HospA,odd-6,passport,CHN/G00000006\n")]).success();
    hospital.settle();
    for id in ["hospital:HospA/odd-5", "passport:CHN/G00000005", "hospital:HospA/odd-6", "passport:CHN/G00000006"] {
        finds(id);
    }
}

#[test]
fn a_crosswalk_of_any_size_is_taken_and_rows_can_be_taken_back() {
    let hospital = Hospital::new(&[]);
    let rows: String = (0..60_000).map(|n| format!("HOSPITAL-A,number-{n},passport,CHN/G{n:08}\n")).collect();
    let file = hospital.scratch.file("large.csv", format!("issuer,patient_id,kind,value\n{rows}wrong\n"));
    let file = file.display().to_string();
    hospital.run(&["crosswalk", &file]).success().says("60001 rows, 60000 new").says("line 60002:");
    let wrong =
        hospital.scratch.file("wrong.csv", "HOSPITAL-A,number-7,passport,CHN/G99999999\n").display().to_string();
    hospital.run(&["crosswalk", &wrong]).success().says("until one is taken back");
    hospital.run(&["crosswalk", "--remove", &wrong]).success().says("1 taken back");
    hospital.run(&["crosswalk", &file]).success().says("60001 rows, 0 new");
}
