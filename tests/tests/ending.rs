//! How the program ends when it is asked to, or when what started it is gone: a node cleanly and at once, with its
//! associations in flight; a demo with everything that it started.
//!
//! What a node that was killed loses (nothing) is in `hospital`.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tessera_tests::{
    Node, Phantom, Process, Role, Scratch, Seat, WORK_DEADLINE, dcmtk, files_below, tessera, tessera_program,
    wait_until,
};

const HOSPITAL: Seat = Seat::new("hospital-a", "SITEA", Role::Core);
/// What a service manager or a person at a terminal takes for "at once".
const PROMPT: Duration = Duration::from_secs(10);

/// The `tessera node` processes whose directories lie below `folder`.
fn nodes_below(folder: &Path) -> Vec<u32> {
    let folder = folder.display().to_string();
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let runs_there = |id: &u32| {
        let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        words.get(1).is_some_and(|word| word == "node") && words.iter().any(|word| word.contains(&folder))
    };
    ids.filter(runs_there).collect()
}

/// A demo whose temporary files go below `folder`, with all four nodes running.
fn demo(folder: &Path, options: &[&str]) -> Process {
    let mut command = Command::new(tessera_program());
    command.arg("demo").args(options).env("TMPDIR", folder);
    let mut process = Process::start("demo", folder.parent().expect("a scratch folder"), command);
    wait_until("the demo's nodes to run", WORK_DEADLINE, || {
        assert!(process.ended().is_none(), "{}", process.log());
        (nodes_below(folder).len() == 4).then_some(())
    });
    process
}

#[test]
fn a_demo_that_is_ended_takes_its_nodes_and_their_directories_with_it() {
    for signal in ["TERM", "HUP", "INT"] {
        let scratch = Scratch::new();
        let folder = scratch.folder("temporary");
        let mut demo = demo(&folder, &[]);
        let asked = Instant::now();
        demo.signal(signal);
        let status = wait_until("the demo to end", WORK_DEADLINE, || demo.ended());
        assert!(asked.elapsed() < PROMPT, "SIG{signal}: it took {:?}", asked.elapsed());
        assert_eq!(status.code(), Some(1), "SIG{signal} before the story was told is no success");
        assert!(demo.log().contains(&format!("ended by SIG{signal}")), "{}", demo.log());
        // Its nodes ended before it did, so nothing is left to wait for.
        assert!(nodes_below(&folder).is_empty(), "SIG{signal} left nodes running");
        let left: Vec<_> = std::fs::read_dir(&folder).expect("the folder").collect();
        assert!(left.is_empty(), "SIG{signal} left {left:?}");
    }
}

#[test]
fn the_nodes_of_a_killed_demo_end() {
    let scratch = Scratch::new();
    let folder = scratch.folder("temporary");
    demo(&folder, &[]).kill();
    wait_until("the killed demo's nodes to end", PROMPT, || nodes_below(&folder).is_empty().then_some(()));
}

#[test]
fn a_demo_says_at_once_which_node_ended_and_why() {
    let scratch = Scratch::new();
    let (folder, kept) = (scratch.folder("temporary"), scratch.path().join("temporary/kept"));
    let mut demo = demo(&folder, &["--once", "--keep", &kept.display().to_string()]);
    let b = nodes_below(&kept.join("hospital-b"));
    let killed = Command::new("kill").args(["-9", &b[0].to_string()]).status();
    assert!(killed.expect("kill(1) is there").success());
    let status = wait_until("the demo to fail", WORK_DEADLINE, || demo.ended());
    assert_eq!(status.code(), Some(1));
    let log = demo.log();
    assert!(log.contains("hospital-b ended by itself (signal: 9"), "{log}");
    assert!(log.contains("kept in") && kept.join("hospital-b/node.log").exists(), "{log}");
    assert!(nodes_below(&folder).is_empty());
}

#[test]
fn a_demo_does_not_start_in_a_directory_that_is_in_use() {
    let scratch = Scratch::new();
    scratch.file("letter.txt", "mine");
    let outcome = tessera(&["demo", "--once", "--keep", &scratch.path().display().to_string()]);
    outcome.exits_with(1).says("is not empty").says("--keep");
}

/// The files that `storescu -v` says were answered with success.
fn answered(log: &str) -> Vec<&str> {
    let mut sent = None;
    let mut answered = Vec::new();
    for line in log.lines() {
        if let Some(file) = line.strip_prefix("I: Sending file: ") {
            sent = Some(file);
        } else if line.starts_with("I: Received Store Response (Success)") {
            answered.extend(sent.take());
        }
    }
    answered
}

fn sop_instance(file: &str) -> String {
    let dump = dcmtk("dcmdump", &["+P", "0008,0018", file]).success().stdout;
    dump.split(['[', ']']).nth(1).expect("a SOP Instance UID").to_owned()
}

#[test]
fn a_node_that_is_asked_to_end_does_so_at_once_and_keeps_what_it_answered() {
    for signal in ["TERM", "INT"] {
        let scratch = Scratch::new();
        let mut node = Node::init(&scratch, HOSPITAL);
        node.start();
        let phantom = Phantom::generate(scratch.path(), &["SITEA"], &["--patients", "2", "--slices", "100"]);
        let files = files_below(&phantom.of("SITEA"));
        // One that said nothing, one that broke off in its request, and one that sends.
        let address = ("127.0.0.1", node.dicom);
        let silent = TcpStream::connect(address).expect("connected");
        let mut broken_off = TcpStream::connect(address).expect("connected");
        broken_off.write_all(&[1, 0, 0, 0, 0, 200, 0, 1]).expect("sent");
        let mut sender = Command::new("storescu");
        sender.args(["-v", "-aec", "TESSERA", "+sd", "+r", "-R", "-xs", "127.0.0.1", &node.dicom.to_string()]);
        sender.arg(phantom.of("SITEA"));
        let mut sender = Process::start("sender", scratch.path(), sender);
        wait_until("the sender to be in the middle", WORK_DEADLINE, || {
            assert!(sender.ended().is_none(), "the sender was too fast: {}", sender.log());
            (answered(&sender.log()).len() > files.len() / 4).then_some(())
        });
        let asked = Instant::now();
        node.process().signal(signal);
        let status = wait_until("the node to end", WORK_DEADLINE, || node.process().ended());
        let took = asked.elapsed();
        assert_eq!(status.code(), Some(0), "SIG{signal}: {}", node.log());
        assert!(took < PROMPT, "SIG{signal}: it took {took:?}");
        drop((silent, broken_off));
        wait_until("the sender to see it", WORK_DEADLINE, || sender.ended());
        let answered: BTreeSet<String> = answered(&sender.log()).into_iter().map(sop_instance).collect();
        assert!(answered.len() < files.len(), "everything was sent before the node ended");
        node.start();
        let here: BTreeSet<String> =
            phantom.examinations("SITEA").iter().flat_map(|study| node.instances(&study.study)).collect();
        let lost: Vec<_> = answered.difference(&here).collect();
        assert!(lost.is_empty(), "{} of {} answered objects are lost: {lost:?}", lost.len(), answered.len());
    }
}
