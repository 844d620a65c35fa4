//! A hospital that began alone, as `tessera init && tessera node`, and later joins a federation: its archive stays, and
//! what it holds is registered anew, from its own catalogue, where the others find it.
//!
//! Founding itself is what every test of a federation does. Not here: joining one that is already at work.

use tessera_tests::{A, ALLIANCE, B, C, D, Federation, Node, Role, Scratch, Seat, join_all, study_entries, tessera};

const ALONE: Seat = Seat::new("hospital-d", "SITED", Role::Member).dials_out_only();

#[test]
fn an_archive_that_stood_alone_is_found_by_all_when_it_has_joined() {
    let scratch = Scratch::new();
    let mut alone = Node::init(&scratch, ALONE);
    alone.start();
    let phantom = tessera_tests::Phantom::generate(
        scratch.path(),
        &["SITEA", "SITEB", "SITEC", "SITED"],
        &["--patients", "8", "--slices", "4"],
    );
    let examinations = phantom.examinations("SITED");
    alone.run(&["crosswalk", &phantom.crosswalk().display().to_string()]).success();
    alone.send(&[phantom.of("SITED")]);
    let registered = |status: &serde_json::Value| {
        status["receiving"] == 0 && status["outbox_pending"] == 0 && tessera_tests::entries_of(status, "study") > 0
    };
    let status = alone.await_status("its registrations in its own ledger", registered);
    assert_eq!(tessera_tests::entries_of(&status, "study"), examinations.len() as u64);
    let own = alone.history(&phantom.shared_patient());
    assert_eq!(own.len(), 1, "its own history of the shared patient");
    alone.kill();

    let mut nodes: Vec<Node> = ALLIANCE[..D].iter().map(|seat| Node::init(&scratch, *seat)).collect();
    nodes.push(alone);
    let mut federation = Federation::of(scratch, nodes, &[]);
    federation.nodes[A].send(&[phantom.of("SITEA")]);
    let states = federation.settle();
    let expected = (examinations.len() + phantom.examinations("SITEA").len()) as u64;
    assert_eq!(study_entries(&states), expected, "everything is registered in the federation, and once");
    for index in [A, B, C] {
        let history = federation.nodes[index].history(&phantom.shared_patient());
        let of_d = history.iter().filter(|study| study["site"] == "hospital-d");
        assert_eq!(of_d.count(), 1, "what {} sees: {history:#?}", federation.nodes[index].seat.name);
    }
    // It serves what it registered anew.
    let (study, patient) = (&own[0]["study_uid"], phantom.shared_patient());
    let study = study.as_str().expect("a UID");
    federation.allow(D, A, &patient);
    let done = federation.nodes[A].ask(&["fetch", study, "--id", &patient]);
    assert_eq!(done["objects"], own[0]["objects"]);
    // Another start registers nothing again.
    federation.nodes[D].kill();
    federation.nodes[D].start();
    assert_eq!(study_entries(&federation.settle()), expected);
}

#[test]
fn what_was_begun_and_not_finished_is_said_and_can_be_done_again() {
    let scratch = Scratch::new();
    let nodes: Vec<Node> = [ALLIANCE[A], ALONE].iter().map(|seat| Node::init(&scratch, *seat)).collect();
    let genesis = scratch.path().join("genesis");
    let installed = nodes[1].directory.join("federation/genesis");
    let alone = std::fs::read(&installed).expect("its federation of one");
    join_all(&genesis, &nodes, &[]);
    // As a crash in the midst of joining leaves it: the node would wait for ever in its old federation.
    std::fs::write(&installed, alone).expect("written");
    let [first, mut half]: [Node; 2] = nodes.try_into().ok().expect("two nodes");
    let said = half.start_in_vain();
    assert!(said.contains("Run `tessera join` again"), "{said}");
    let genesis = genesis.display().to_string();
    half.run(&["join", &genesis]).success();
    half.start();
    half.kill();

    // Founding once more would make another federation, with these nodes in both.
    let ticket = first.directory.with_extension("ticket").display().to_string();
    tessera(&["found", "--name", "Another", "--out", &genesis, &ticket]).exits_with(1).says("is there already");

    // A node that was not made to its end is made anew, and used for nothing before.
    let begun = Node::init(&scratch, ALLIANCE[C]);
    std::fs::write(begun.directory.join("unfinished"), "").expect("written");
    for command in [&["node"][..], &["ticket", "--role", "member", "--out", &ticket], &["join", &genesis]] {
        begun.run(command).exits_with(1).says("run `tessera init` again");
    }
    let init = ["init", "--site", "hospital-c", "--legal-name", "C", "--core", "127.0.0.1:0"];
    begun.run(&init).success();
    begun.run(&init).exits_with(1).says("already holds a node");
}
