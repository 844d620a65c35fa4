//! Who is no member gets in at no port that speaks for the federation, and what members hold of one another names
//! nobody.
//!
//! Strangers come as TLS clients with keys of their own, and as real nodes of another federation whose founder put a
//! victim's public ticket into it, so that they know its address and its key and dial it in earnest.

use std::path::{Path, PathBuf};
use std::process::Command;

use tessera_tests::{
    A, ALLIANCE, B, D, Federation, Node, Outcome, REGULATOR, Role, Scratch, Seat, Stored, WORK_DEADLINE, files_with,
    python, run, stored_below, stored_with, tessera, ticket, wait_until,
};

/// The stranger of these tests: a node of a federation of its own.
const ROGUE: Seat = Seat::new("rogue", "ROGUE", Role::Core);

/// An Ed25519 private key in PKCS#8 (RFC 8410) up to its seed.
const PKCS8_HEAD: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

fn openssl(arguments: &[&str]) -> Outcome {
    let mut command = Command::new("openssl");
    command.args(arguments);
    run(command).success()
}

/// A self-signed certificate of the key with this seed, and the key, as files.
fn certificate(scratch: &Scratch, name: &str, seed: &[u8]) -> (PathBuf, PathBuf) {
    let der = scratch.file(&format!("{name}.der"), [&PKCS8_HEAD[..], seed].concat());
    let (key, certificate) = (der.with_extension("key"), der.with_extension("pem"));
    let [der, key_path, certificate_path] = [&der, &key, &certificate].map(|path| path.display().to_string());
    openssl(&["pkey", "-inform", "DER", "-in", &der, "-out", &key_path]);
    let subject = "/CN=anybody";
    openssl(&["req", "-new", "-x509", "-key", &key_path, "-out", &certificate_path, "-days", "2", "-subj", subject]);
    (certificate, key)
}

/// The seed of a node's transport key, from its own secrets.
fn transport_seed(node: &Node) -> Vec<u8> {
    let secrets = std::fs::read_to_string(node.directory.join("secrets.json")).expect("the node's secrets");
    let secrets: serde_json::Value = serde_json::from_str(&secrets).expect("JSON");
    let text = secrets["transport"].as_str().expect("the transport key").to_owned();
    let byte = |place: usize| u8::from_str_radix(&text[place..place + 2], 16).expect("hexadecimal");
    (0..text.len()).step_by(2).map(byte).collect()
}

fn knock(port: u16, options: &[&str]) -> (String, String) {
    let port = port.to_string();
    let answer = python("tls_knock.py", &[&["--port", &port], options].concat()).success().json_lines();
    let text = |name: &str| answer[0][name].as_str().expect("text").to_owned();
    (text("outcome"), text("detail"))
}

fn knock_with(port: u16, pair: &(PathBuf, PathBuf)) -> (String, String) {
    let [certificate, key] = [&pair.0, &pair.1].map(|path| path.display().to_string());
    knock(port, &["--certificate", &certificate, "--key", &key])
}

#[test]
fn a_key_that_is_not_in_the_core_is_turned_away_in_the_handshake_of_the_cores_port() {
    let federation = Federation::found(&ALLIANCE, &[]);
    let scratch = &federation.scratch;
    let port = federation.nodes[A].core;
    // The prober itself is not at fault: with a core member's key the port speaks.
    let known = certificate(scratch, "known", &transport_seed(&federation.nodes[B]));
    assert_eq!(knock_with(port, &known).0, "admitted");
    let follower = certificate(scratch, "follower", &transport_seed(&federation.nodes[D]));
    let unknown = certificate(scratch, "unknown", &[42; 32]);
    let refused = [
        ("an unknown key", knock_with(port, &unknown)),
        ("a hospital that is not in the core", knock_with(port, &follower)),
        ("no certificate", knock(port, &[])),
        ("no TLS", knock(port, &["--plain"])),
    ];
    for (who, (outcome, detail)) in refused {
        assert_eq!(outcome, "refused", "{who}: {detail}");
    }
    let log = federation.nodes[A].log();
    assert!(log.contains("refused a stranger on the core's network"), "the refusals are not in the log");
    federation.settle();
}

/// A node of another federation, in whose genesis the victims' tickets stand as core members (a core has three).
fn rogue_that_knows(victims: [&Node; 2], scratch: &Scratch) -> Node {
    let mut rogue = Node::init(scratch, ROGUE);
    let genesis = scratch.path().join("rogue.genesis").display().to_string();
    let [first, second] = victims.map(|victim| victim.directory.with_extension("ticket"));
    let tickets = [ticket(&rogue), first, second].map(|path| path.display().to_string());
    let found = ["found", "--name", "Rogues", "--out", &genesis, &tickets[0], &tickets[1], &tickets[2]];
    tessera(&found).success();
    rogue.run(&["join", &genesis]).success();
    rogue.log_filter("info,tessera_federation=debug");
    rogue.start();
    rogue
}

#[test]
fn a_node_of_another_federation_is_refused_on_both_ports_though_it_knows_address_and_key() {
    let mut federation = Federation::found(&ALLIANCE, &[]);
    // As it will be asked again: with the reasons of refused connections in its log.
    let victim = &mut federation.nodes[A];
    victim.kill();
    victim.log_filter("info,openraft=warn,tessera_federation=debug");
    victim.start();
    let before = federation.settle();
    let rogue = rogue_that_knows([&federation.nodes[A], &federation.nodes[B]], &federation.scratch);
    for (port, sentence) in [("libp2p", "connection refused"), ("gRPC", "refused a stranger on the core's network")] {
        wait_until(&format!("the refusal on the {port} port"), WORK_DEADLINE, || {
            federation.nodes[A].log().contains(sentence).then_some(())
        });
    }
    // The rogue itself dialled, and got nowhere.
    let status = rogue.status().expect("the rogue runs");
    let peers = status["peers"].as_array().expect("peers");
    let victim = peers.iter().find(|peer| peer["name"] == "hospital-a").expect("the rogue lists its victim");
    assert_eq!(victim["connected"], false, "{status:#}");
    assert!(status["certified_at"].is_null() && status["ledger_size"] == 0, "{status:#}");
    let after = federation.settle();
    assert_eq!(after[A]["state_digest"], before[A]["state_digest"], "the stranger left a trace in the ledger");
    let names = |status: &serde_json::Value| status["peers"].to_string();
    assert!(!names(&after[A]).contains("rogue"), "{:#}", after[A]);
}

/// What names a patient or a study, in the bytes in which it may stand in a file.
fn needles(federation: &Federation) -> Vec<(String, Vec<u8>)> {
    let phantom = federation.scratch.path().join("phantom");
    let mut needles = Vec::new();
    let mut add = |what: String, bytes: &[u8]| needles.push((what, bytes.to_vec()));
    let rows = std::fs::read_to_string(phantom.join("crosswalk.csv")).expect("the crosswalk");
    for row in rows.lines().skip(1).map(|line| line.split(',').collect::<Vec<_>>()).filter(|row| row[0] == "SITEA") {
        add(format!("patient number {}", row[1]), row[1].as_bytes());
        add(format!("resident number {}", row[3]), row[3].as_bytes());
        let (pinyin, written) = row[4].split_once('=').expect("both ways to write a name");
        add(format!("name {pinyin}"), pinyin.as_bytes());
        add(format!("name {written} in UTF-8"), written.as_bytes());
        add(format!("name {written} in GB18030"), &gb18030(written));
    }
    needles
}

/// By Python's codec, which is not ours.
fn gb18030(text: &str) -> Vec<u8> {
    let mut command = Command::new(tessera_tests::python_program());
    command.args(["-c", "import sys; print(sys.argv[1].encode('gb18030').hex())", text]);
    let hex = run(command).success().stdout;
    let hex = hex.trim();
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal")).collect()
}

fn stands_in(folder: &Path, log: &Path, needle: &[u8]) -> Vec<PathBuf> {
    let mut found = files_with(folder, needle);
    let bytes = std::fs::read(log).expect("the node's log");
    found.extend(bytes.windows(needle.len()).any(|window| window == needle).then(|| log.to_path_buf()));
    found
}

#[test]
fn before_a_fetch_nothing_on_another_nodes_disk_names_a_patient_or_a_study() {
    let mut federation = Federation::found(&ALLIANCE, &[]);
    let phantom = federation.phantom(&["--patients", "5", "--slices", "2"]);
    let crosswalk = phantom.crosswalk().display().to_string();
    federation.nodes[A].run(&["crosswalk", &crosswalk]).success();
    federation.nodes[A].send(&[phantom.of("SITEA")]);
    federation.settle();
    // Asking is part of it: what a lookup brings must not stay in clear.
    let shared = phantom.shared_patient();
    assert!(!federation.nodes[B].history(&shared).is_empty(), "B sees nothing of A");
    federation.allow(A, D, &shared);
    federation.settle();

    let mut needles = needles(&federation);
    for examination in phantom.examinations("SITEA") {
        needles.push((format!("study {}", examination.study), examination.study.into_bytes()));
    }
    assert!(needles.len() > 10, "{needles:?}");
    // Nodes that have ended leave their databases to whoever reads them.
    for node in &mut federation.nodes {
        node.process().end();
    }
    let databases: Vec<Vec<Stored>> = federation.nodes.iter().map(|node| stored_below(&node.directory)).collect();
    let (mut in_own_files, mut in_own_databases) = (0, 0);
    for (what, needle) in &needles {
        let search = |index: usize| {
            let node = &federation.nodes[index];
            let files = stands_in(&node.directory, &node.directory.with_extension("log"), needle);
            (files, stored_with(&databases[index], needle))
        };
        for index in B..=REGULATOR {
            let (files, tables) = search(index);
            assert!(files.is_empty(), "{what} of hospital A stands in clear in {files:?}");
            assert!(tables.is_empty(), "{what} of hospital A stands in clear in {tables:?}");
        }
        let (files, tables) = search(A);
        in_own_files += usize::from(!files.is_empty());
        in_own_databases += usize::from(!tables.is_empty());
        assert!(!(what.starts_with("study ") && tables.is_empty()), "{what} was not found in A's own databases");
    }
    // The searches do find: A's own catalogue names its own patients and studies, and has not been compacted yet.
    assert!(in_own_files > 5, "only {in_own_files} of {} were found in A's own files", needles.len());
    assert!(in_own_databases > 5, "only {in_own_databases} of {} were found in A's own databases", needles.len());
    // And what is public, on every disk: the ledger lists the members.
    let public = "测试医院 (hospital-a)".as_bytes();
    for (node, stored) in federation.nodes.iter().zip(&databases) {
        assert!(!files_with(&node.directory, public).is_empty(), "no name of a member on {}'s disk", node.seat.name);
        assert!(!stored_with(stored, public).is_empty(), "no name of a member in {}'s databases", node.seat.name);
    }
}
