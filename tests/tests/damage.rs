//! Rot: one bit changed in a node's files while it is down, as real processes find it. What is damaged is named, with what
//! helps, where the operator looks; it is neither shown nor sent, and never goes into another state; everything else and
//! everybody else goes on; and what the message says does help.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tessera_tests::{
    A, ALLIANCE, B, C, D, Federation, Node, WORK_DEADLINE, files_below, flip, largest, python, python_program, run,
    study_entries, wait_until, warns,
};

struct Large {
    study: String,
    sop_instance: String,
    patient: String,
    file: PathBuf,
}

/// A study of one object of `frames` times 2 MiB, imported at a hospital.
fn large(federation: &Federation, at: usize, seed: u32, frames: u32) -> Large {
    let file = federation.scratch.path().join(format!("large{seed}.dcm"));
    let (path, seed, frames) = (file.display().to_string(), seed.to_string(), frames.to_string());
    let (patient, issuer) = (format!("LARGE{seed}"), federation.nodes[at].seat.issuer);
    let options = ["--seed", &seed, "--frames", &frames, "--patient", &patient, "--issuer", issuer];
    let made = python("make_large.py", &[&[path.as_str()], &options[..]].concat()).success().json_lines();
    federation.nodes[at].run(&["import", &path]).success().says("1 objects stored");
    let text = |name: &str| made[0][name].as_str().expect("a UID").to_owned();
    let patient = format!("hospital:{issuer}/{patient}");
    Large { study: text("study"), sop_instance: text("sop_instance"), patient, file }
}

/// Hashes of the data sets of these files, by a reader that is not ours.
fn data_sets(files: &[PathBuf]) -> Vec<String> {
    let files: Vec<String> = files.iter().map(|path| path.display().to_string()).collect();
    let hashes = python("dataset_bytes.py", &files).success().json_lines();
    hashes.iter().map(|line| line["sha256"].as_str().expect("a hash").to_owned()).collect()
}

fn fetch(node: &Node, large: &Large, to: &Path) -> tessera_tests::Outcome {
    node.run(&["fetch", &large.study, "--id", &large.patient, "--json", "--to", &to.display().to_string()])
}

/// Status and body that a DICOMweb client gets for an object at its own hospital.
fn get(node: &Node, large: &Large, below: &str) -> (u64, String) {
    let instance = &large.sop_instance;
    let series = format!("{}2", large.study.strip_suffix('1').expect("as the program names them"));
    let path = format!("/dicom-web/studies/{}/series/{series}/instances/{instance}{below}", large.study);
    let program = "import sys, json, urllib.request as r, urllib.error as e\n\
                   q = r.Request(sys.argv[1], headers={'Accept': sys.argv[2]})\n\
                   try: a = r.urlopen(q, timeout=60)\n\
                   except e.HTTPError as error: a = error\n\
                   b = a.read()\n\
                   print(json.dumps({'status': a.status, 'body': b[:2000].decode('latin-1')}))";
    let accept = match below {
        "" => "application/dicom; transfer-syntax=*",
        _ => "multipart/related; type=\"application/octet-stream\"; transfer-syntax=*",
    };
    let mut command = Command::new(python_program());
    command.args(["-c", program, &node.url(&path), accept]);
    let answer = &run(command).success().json_lines()[0];
    (answer["status"].as_u64().expect("a status"), answer["body"].as_str().expect("text").to_owned())
}

#[test]
fn a_rotten_image_is_named_and_neither_shown_nor_sent_and_the_same_image_again_heals_it() {
    let mut federation = Federation::found(&ALLIANCE, &[]);
    let packs = federation.nodes[A].directory.join("archive/pixels/packs");
    let pack = packs.join("0000000001.pack");
    let length = || std::fs::metadata(&pack).map_or(0, |metadata| metadata.len());
    let before = length();
    let rotten = large(&federation, A, 11, 2);
    let middle = before + (length() - before) / 2;
    let sound = large(&federation, A, 12, 2);
    federation.settle();
    [&rotten, &sound].into_iter().for_each(|study| federation.allow(A, D, &study.patient));
    federation.settle();

    federation.nodes[A].kill();
    flip(&pack, middle);
    federation.nodes[A].start();
    let name = format!("object {} of study {}", rotten.sop_instance, rotten.study);
    let status = federation.nodes[A].await_status("the rot to be named", |status| warns(status, &name));
    assert!(warns(&status, "pack 1 at byte") && warns(&status, "sent again"), "{status:#}");
    assert!(federation.nodes[A].log().contains("an object is damaged on this node's disk"));
    federation.settle();

    // The requester hears which object, where, and what to do; and has nothing of it.
    let to = federation.scratch.path().join("rotten");
    let outcome = fetch(&federation.nodes[D], &rotten, &to);
    assert_ne!(outcome.code, Some(0));
    let outcome =
        outcome.says(&rotten.sop_instance).says("damaged or lost at the holder").says("测试医院 (hospital-a)");
    outcome.says("Ask its operator");
    assert!(!to.exists(), "files were written");
    let status = federation.nodes[D].status().expect("D runs");
    assert_eq!(status["copies"], 0, "{status:#}");
    // The hospital's own viewers hear it too, and get no pixels.
    for below in ["", "/frames/1", "/frames/2"] {
        let (code, body) = get(&federation.nodes[A], &rotten, below);
        assert_eq!(code, 500, "{below}: {body}");
        assert!(body.contains("its bytes on this node's disk are damaged"), "{below}: {body}");
    }

    // The other study is served as ever.
    assert_eq!(get(&federation.nodes[A], &sound, "").0, 200);
    assert_eq!(get(&federation.nodes[A], &sound, "/frames/1").0, 200);
    let to = federation.scratch.path().join("sound");
    fetch(&federation.nodes[D], &sound, &to).success();
    assert_eq!(data_sets(&files_below(&to)), data_sets(std::slice::from_ref(&sound.file)));

    // What the message says: the same image, again.
    federation.nodes[A].run(&["import", &rotten.file.display().to_string()]).success();
    federation.nodes[A].await_status("the rot to be healed", |status| !warns(status, "disk is damaged"));
    assert_eq!(get(&federation.nodes[A], &rotten, "/frames/2").0, 200);
    let to = federation.scratch.path().join("healed");
    fetch(&federation.nodes[D], &rotten, &to).success();
    assert_eq!(data_sets(&files_below(&to)), data_sets(std::slice::from_ref(&rotten.file)));
    let states = federation.settle();
    assert_eq!(study_entries(&states), 2, "a healed image is no new version");
}

/// The folder of a node's ledger database.
fn ledger(node: &Node) -> PathBuf {
    let federations = std::fs::read_dir(node.directory.join("federation")).expect("a folder");
    let mut below = federations.map(|entry| entry.expect("an entry").path().join("ledger"));
    below.find(|path| path.is_dir()).expect("a ledger")
}

/// So that what lay in the log lies in tables.
fn restart_twice(node: &mut Node) {
    node.kill();
    node.start();
    node.kill();
}

/// The others register something while this node is down.
fn the_others_go_on(federation: &Federation, seed: u32) {
    large(federation, A, seed, 1);
    federation.settle();
}

#[test]
fn a_rotten_ledger_ends_its_node_which_says_what_helps_while_the_others_go_on() {
    let mut federation = Federation::found(&ALLIANCE, &[]);
    large(&federation, A, 21, 1);
    large(&federation, D, 22, 1);
    federation.settle();
    // A hospital that follows, and one of the core.
    for (seed, who) in [(23, D), (24, C)] {
        restart_twice(&mut federation.nodes[who]);
        let folder = ledger(&federation.nodes[who]);
        let (table, bytes) = largest(&folder, ".sst");
        flip(&table, bytes / 3);
        let said = federation.nodes[who].start_in_vain();
        assert!(said.contains("the ledger's database of this node is damaged"), "{said}");
        assert!(said.contains(&format!("remove the directory {}", folder.display())), "{said}");
        let file = table.file_name().expect("a name").to_string_lossy().into_owned();
        assert!(said.contains(&file), "the damaged file {file} is not named: {said}");
        the_others_go_on(&federation, seed);

        std::fs::remove_dir_all(&folder).expect("as the message says");
        federation.nodes[who].start();
        let states = federation.settle();
        assert!(states.iter().all(|status| status["state_digest"] == states[0]["state_digest"]), "{states:#?}");
        assert!(!warns(&states[who], "lost its seat"), "{:#}", states[who]);
        assert_eq!(study_entries(&states), u64::from(seed) - 20, "something was registered twice, or lost");
    }
}

/// Waits until the node's database has something synced in its log, and kills it.
fn kill_with_a_log(node: &mut Node, folder: &Path) -> (PathBuf, u64) {
    let log = wait_until("a write-ahead log with something in it", WORK_DEADLINE, || {
        Some(largest(folder, ".log")).filter(|(_, bytes)| *bytes > 500)
    });
    node.kill();
    log
}

#[test]
fn a_rotten_log_is_not_taken_for_the_end_of_the_ledger() {
    let mut federation = Federation::found(&ALLIANCE, &[]);
    large(&federation, A, 31, 1);
    federation.settle();
    let folder = ledger(&federation.nodes[D]);
    let (log, _) = kill_with_a_log(&mut federation.nodes[D], &folder);
    // Behind the founding, in what came later.
    flip(&log, 400);
    let said = federation.nodes[D].start_in_vain();
    assert!(said.contains("the ledger's database of this node is damaged"), "{said}");
    assert!(said.contains("lacks writes that had been on the disk"), "{said}");
    let synced = folder.join("SYNCED");
    assert!(said.contains(&format!("remove the file {}", synced.display())), "{said}");
    the_others_go_on(&federation, 32);
    std::fs::remove_file(&synced).expect("as the message says");
    federation.nodes[D].start();
    let states = federation.settle();
    assert!(states.iter().all(|status| status["state_digest"] == states[0]["state_digest"]), "{states:#?}");

    // A core node whose Raft log is rotten confirmed what it no longer has: it gives up its seat, and says so.
    let raft = federation.nodes[B].directory.join("core");
    let (log, bytes) = kill_with_a_log(&mut federation.nodes[B], &raft);
    flip(&log, bytes / 2);
    federation.nodes[B].start();
    let status = federation.nodes[B].await_status("the seat to be given up", |status| warns(status, "lost its seat"));
    assert!(warns(&status, "lacks writes that had been on the disk"), "{status:#}");
    the_others_go_on(&federation, 33);
    let states = federation.settle();
    assert_eq!(study_entries(&states), 3);
    assert!(states.iter().all(|status| status["state_digest"] == states[0]["state_digest"]), "{states:#?}");
}

#[test]
fn a_rotten_archive_database_is_refused_and_what_is_left_can_be_gone_on_with() {
    let mut federation = Federation::found(&ALLIANCE, &[]);
    large(&federation, D, 41, 1);
    federation.settle();
    let folder = federation.nodes[D].directory.join("archive/db");
    let (log, bytes) = kill_with_a_log(&mut federation.nodes[D], &folder);
    flip(&log, bytes / 2);
    let said = federation.nodes[D].start_in_vain();
    assert!(said.contains("lacks writes that had been on the disk"), "{said}");
    assert!(said.contains(&folder.display().to_string()), "{said}");
    the_others_go_on(&federation, 42);
    std::fs::remove_file(folder.join("SYNCED")).expect("as the message says");
    federation.nodes[D].start();
    let states = federation.settle();
    let digests: Vec<&Value> = states.iter().map(|status| &status["state_digest"]).collect();
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
    // The image itself was never lost: it lies in the packs.
    assert_eq!(states[D]["objects"], 1, "{:#}", states[D]);
}
