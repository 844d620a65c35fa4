//! Examinations on their way from one hospital to another, as real processes: killed on either side, they go on where
//! they stopped; and a hospital that nobody can reach takes full part.
//!
//! What arrives is compared with what was sent by the bytes of the data set, by a reader that is not ours.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tessera_tests::{
    A, ALLIANCE, C, D, Federation, Node, Process, Role, Seat, WORK_DEADLINE, files_below, poll, python,
    tessera_program, wait_until,
};

/// Frames of 2 MiB: long enough on the way to be killed there.
const FRAMES: &str = "48";
/// The unit in which an object travels and is resumed.
const GROUP_BYTES: u64 = 1024 * 1024;
/// A group's record in the file that says what has arrived.
const PROGRESS_BYTES: u64 = 8;

struct Large {
    study: String,
    patient: String,
    file: PathBuf,
}

/// A study of one large object, imported at hospital A.
fn large(federation: &Federation, seed: u32) -> Large {
    let file = federation.scratch.path().join(format!("large{seed}.dcm"));
    let (path, seed) = (file.display().to_string(), seed.to_string());
    let patient = format!("LARGE{seed}");
    let options = ["--seed", &seed, "--frames", FRAMES, "--patient", &patient, "--issuer", "SITEA"];
    let made = python("make_large.py", &[&[path.as_str()], &options[..]].concat()).success().json_lines();
    federation.nodes[A].run(&["import", &path]).success().says("1 objects stored");
    let study = made[0]["study"].as_str().expect("a UID").to_owned();
    Large { study, patient: format!("hospital:SITEA/{patient}"), file }
}

/// Hashes of the data sets of these files.
fn data_sets(files: &[PathBuf]) -> Vec<String> {
    let files: Vec<String> = files.iter().map(|path| path.display().to_string()).collect();
    let hashes = python("dataset_bytes.py", &files).success().json_lines();
    let mut hashes: Vec<String> = hashes.iter().map(|line| line["sha256"].as_str().expect("a hash").into()).collect();
    hashes.sort();
    hashes
}

/// Bytes that the requester's disk says have arrived, at least, of objects that are not whole yet: the last group of
/// an object is a short one, and may be among them.
fn arrived(node: &Node) -> u64 {
    let partial = node.directory.join("archive/pixels/partial");
    let Ok(objects) = std::fs::read_dir(&partial) else { return 0 };
    let progress = objects.filter_map(|object| std::fs::metadata(object.ok()?.path().join("progress")).ok());
    progress.map(|progress| (progress.len() / PROGRESS_BYTES).saturating_sub(1) * GROUP_BYTES).sum()
}

fn fetch_process(federation: &Federation, large: &Large, name: &str) -> Process {
    let mut command = Command::new(tessera_program());
    command.args(["fetch", &large.study, "--id", &large.patient, "--json", "--dir"]);
    command.arg(&federation.nodes[D].directory);
    Process::start(name, federation.scratch.path(), command)
}

/// Waits until a part of an object, and not all of it, is on D's disk; returns how much.
fn in_the_middle(federation: &Federation, fetching: &mut Process) -> u64 {
    wait_until("a part of the object to arrive", WORK_DEADLINE, || {
        let bytes = arrived(&federation.nodes[D]);
        assert!(bytes > 0 || fetching.ended().is_none(), "it ended before it could be killed: {}", fetching.log());
        (bytes > 0).then_some(bytes)
    })
}

/// Fetches to the end, from the command line, and compares what came with what was sent.
fn fetch_the_rest(federation: &Federation, large: &Large, to: &Path) -> Value {
    let to_text = to.display().to_string();
    let arguments = ["fetch", &large.study, "--id", &large.patient, "--json", "--to", &to_text];
    // After a start the node first has to find its peers again.
    let done = poll(WORK_DEADLINE, || {
        let outcome = federation.nodes[D].run(&arguments);
        (outcome.code == Some(0)).then(|| serde_json::from_str::<Value>(&outcome.stdout).expect("JSON"))
    });
    let done = done.expect("the fetch never came to its end");
    assert_eq!(data_sets(&files_below(to)), data_sets(std::slice::from_ref(&large.file)), "other bytes arrived");
    done
}

#[test]
fn a_fetch_that_is_killed_on_either_side_goes_on_where_it_stopped() {
    let mut federation = Federation::found(&ALLIANCE, &[]);
    let studies: Vec<Large> = (1..=3).map(|seed| large(&federation, seed)).collect();
    federation.settle();
    studies.iter().for_each(|study| federation.allow(A, D, &study.patient));
    federation.settle();
    let to = |name: &str| federation.scratch.path().join(name);
    let folders = [to("requester"), to("holder"), to("caller")];

    // The requester's node is killed.
    let mut fetching = fetch_process(&federation, &studies[0], "fetch-requester");
    in_the_middle(&federation, &mut fetching);
    federation.nodes[D].kill();
    let before = arrived(&federation.nodes[D]);
    federation.nodes[D].start();
    let done = fetch_the_rest(&federation, &studies[0], &folders[0]);
    let (resumed, total) = (done["resumed_bytes"].as_u64(), done["bytes"].as_u64());
    assert!(resumed >= Some(before) && resumed < total, "{before} bytes had arrived: {done:#}");

    // The holder's node is killed; the requester tries again by itself, or when it is asked to.
    let mut fetching = fetch_process(&federation, &studies[1], "fetch-holder");
    in_the_middle(&federation, &mut fetching);
    federation.nodes[A].kill();
    let before = arrived(&federation.nodes[D]);
    federation.nodes[A].start();
    wait_until("the broken fetch to end", WORK_DEADLINE, || fetching.ended());
    let first: Option<Value> = serde_json::from_str(&fetching.log()).ok();
    let last = fetch_the_rest(&federation, &studies[1], &folders[1]);
    let done = first.unwrap_or(last);
    assert!(done["resumed_bytes"].as_u64() >= Some(before.max(1)), "{before} bytes had arrived: {done:#}");

    // Only the command line is killed, and asked again at once.
    let mut fetching = fetch_process(&federation, &studies[2], "fetch-caller");
    in_the_middle(&federation, &mut fetching);
    fetching.kill();
    let done = fetch_the_rest(&federation, &studies[2], &folders[2]);
    assert!(done["resumed_bytes"].as_u64() > Some(0), "{done:#}");
}

#[test]
fn a_hospital_that_only_dials_out_registers_is_found_serves_and_fetches() {
    let hidden = Seat::new("hospital-d", "SITED", Role::Member).dials_out_only();
    let seats = [ALLIANCE[0], ALLIANCE[1], ALLIANCE[2], hidden, Seat::new("hospital-e", "SITEE", Role::Member)];
    let federation = Federation::found(&seats, &[]);
    const E: usize = 4;
    let config = federation.nodes[D].run(&["config"]).success().stdout;
    let listens = config.split("[peer]").nth(1).expect("a section").lines().nth(1).expect("a line");
    assert_eq!(listens, "listen = []", "the node can be reached");

    let phantom = federation.phantom(&["--patients", "6", "--slices", "6"]);
    federation.nodes[D].send(&[phantom.of("SITED")]);
    federation.nodes[C].send(&[phantom.of("SITEC")]);
    federation.settle();
    // It serves one that follows and can't dial it; and it fetches.
    for (holder, requester, issuer) in [(D, E, "SITED"), (C, D, "SITEC")] {
        let examination = &phantom.examinations(issuer)[0];
        let patient = examination.patient(issuer);
        let found = federation.nodes[requester].history(&patient);
        assert!(found.iter().any(|study| study["study_uid"] == examination.study.as_str()), "{found:#?}");
        federation.allow(holder, requester, &patient);
        let to = federation.scratch.path().join(format!("from-{issuer}"));
        let to_text = to.display().to_string();
        federation.nodes[requester].ask(&["fetch", &examination.study, "--id", &patient, "--to", &to_text]);
        assert_eq!(data_sets(&files_below(&to)), data_sets(&examination.files), "from {issuer}");
    }
}
