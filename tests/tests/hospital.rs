//! One hospital's node, driven as its users do: DICOM clients, the command line, DICOMweb; killed at any moment.
//!
//! The node is a federation of one, as `tessera init` makes it. What several sites do together is in `alliance`, real
//! files in all their transfer syntaxes are in `real_files`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use tessera_tests::{
    Chance, Devices, Node, Process, Role, START_DEADLINE, Scratch, Seat, WORK_DEADLINE, dcmtk, entries_of, files_below,
    free_port, kept_exactly, large_object, let_pass, python, registered_once, run, small_objects, tessera,
    tessera_program, wait_until,
};

struct Hospital {
    scratch: Scratch,
    directory: PathBuf,
    dicom: u16,
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
        let mut hospital = Hospital { scratch, directory, dicom, process: None };
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
}

fn phantom(scratch: &Path, slices: &str) -> PathBuf {
    let folder = scratch.join("phantom");
    tessera(&["phantom", &folder.display().to_string(), "--patients", "2", "--slices", slices]).success();
    folder
}

/// How a node is killed in one round.
#[derive(Clone, Copy, Debug)]
enum Kill {
    /// When so many objects of a turn were answered and more are on their way.
    InTheMiddle { answers: usize },
    /// So long after a turn was answered: while studies are closed and registered, or after that.
    AfterATurn { objects: usize, moment: Duration },
    /// So long after it was started.
    AtItsStart { moment: Duration },
}

const STUDIES: u32 = 25;
const OBJECTS: u32 = 40;
/// Of 10 MiB: those come in pieces, by another way than small ones.
const LARGE: u32 = 3;
/// Of each kind.
const KILLS: usize = 5;
/// So many turns' worth is left at the end, lest the last kills find nothing on its way: senders are quick, and some
/// answers come between the look at them and the kill.
const SPARE_TURNS: usize = 4;
/// The quiet period is half a second, so studies are closed and registered from then on.
const REGISTERING: Duration = Duration::from_millis(1_500);

/// Of every kind in turns, so that starts have something to recover; spread over all that is `waiting`.
fn next_kill(number: usize, waiting: usize, start: Duration, chance: &mut Chance) -> Kill {
    let turns_left = 2 * KILLS - 2 * number / 3;
    let share = waiting / (turns_left + SPARE_TURNS);
    match number % 3 {
        0 => Kill::InTheMiddle { answers: 1 + chance.below(share) },
        1 => Kill::AtItsStart { moment: chance.moment(start) },
        _ => Kill::AfterATurn { objects: 1 + chance.below(share), moment: chance.moment(REGISTERING) },
    }
}

fn kill(node: &mut Node, devices: &mut Devices, how: Kill) {
    match how {
        Kill::InTheMiddle { answers } => {
            devices.begin(devices.waiting());
            devices.wait_for_answers(answers);
            node.kill();
            assert!(!devices.finish(), "the kill came when all was over");
        }
        Kill::AfterATurn { objects, moment } => {
            devices.begin(objects);
            assert!(devices.finish(), "a running node did not answer everything");
            let_pass(moment);
            node.kill();
        }
        Kill::AtItsStart { moment } => {
            node.launch();
            let_pass(moment);
            node.kill();
        }
    }
}

#[test]
fn killed_at_any_moment_of_an_ingest_nothing_answered_is_lost() {
    let scratch = Scratch::new();
    let mut node = Node::init(&scratch, Seat::new("hospital-a", "SITEA", Role::Member).dials_out_only());
    let mut samples = small_objects(&scratch.path().join("small"), 1, STUDIES, OBJECTS, "SITEA");
    for number in 1..=LARGE {
        let file = scratch.path().join(format!("large{number}.dcm"));
        let large = large_object(&file, number, 5, &format!("LARGE{number}"), "SITEA");
        samples.insert(samples.len() * number as usize / (LARGE as usize + 1), large);
    }
    let all = samples.len();
    let mut devices = Devices::new("devices", scratch.path(), node.dicom, samples);
    let mut chance = Chance::from_environment();
    let launched = Instant::now();
    node.start();
    let start = launched.elapsed();
    for number in 0..3 * KILLS {
        let how = next_kill(number, devices.waiting(), start, &mut chance);
        println!("{how:?}, {} objects answered before", devices.answered().len());
        if !node.is_running() && !matches!(how, Kill::AtItsStart { .. }) {
            node.start();
        }
        kill(&mut node, &mut devices, how);
    }
    node.start();
    devices.begin(devices.waiting());
    assert!(devices.finish(), "a running node did not answer everything");

    let at_rest = |status: &Value| status["receiving"] == 0 && status["outbox_pending"] == 0;
    let status = node.await_status("all studies to be registered", at_rest);
    let counts = [&status["objects"], &status["studies"], &status["quarantined"]];
    assert_eq!(counts, [all, (STUDIES + LARGE) as usize, 0], "{status:#}");
    assert_eq!(status["warnings"], Value::Array(Vec::new()), "{status:#}");
    kept_exactly(&node, devices.answered(), &scratch.path().join("kept"));
    let entries = registered_once(&node, "SITEA", devices.answered());
    assert_eq!(entries_of(&status, "study"), entries, "each revision is registered exactly once: {status:#}");
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

    // Of a stranger, too, a damaged object is not answered as if all were well.
    let cut = hospital.scratch.path().join("cut.dcm");
    let whole = std::fs::read(&files_below(&phantom.join("SITEA"))[0]).expect("a file");
    std::fs::write(&cut, &whole[..whole.len() - 1_001]).expect("written");
    let sent = python("store_all.py", &["--port", &port, &cut.display().to_string()]).success().json_lines();
    assert_eq!((&sent[0]["outcome"], &sent[0]["status"]), (&"stored".into(), &"B007".into()), "{sent:?}");
    hospital.run(&["quarantine"]).success().says("[dicom.sender]; the data set is cut off or broken");
    hospital.run(&["import", &folder]).success().says("0 variants");
    hospital.run(&["import", &folder]).success().says("0 objects stored");
}

#[test]
fn who_imports_at_a_terminal_sees_how_far_it_is() {
    let hospital = Hospital::new(&[]);
    let folder = phantom(hospital.scratch.path(), "3").join("SITEA");
    let program = tessera_program();
    let import = format!("{} import --dir {} {}", program.display(), hospital.directory.display(), folder.display());
    // script(1) gives it a terminal.
    let mut command = Command::new("script");
    command.args(["-qefc", &import, "/dev/null"]).env("TERM", "xterm");
    let seen = run(command).success().stdout;
    let objects = hospital.status().expect("status")["objects"].as_u64().expect("a number");
    assert!(objects > 0 && seen.contains("importing") && seen.contains(&format!("/{objects} objects")), "{seen:?}");
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
