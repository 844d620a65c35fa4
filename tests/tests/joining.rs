//! A hospital that began alone, as `tessera init && tessera node`, and later joins a federation: its archive stays, and
//! what it holds is registered anew, from its own catalogue, where the others find it.
//!
//! Founding itself is what every test of a federation does. Not here: joining one that is already at work.

use tessera_tests::{A, ALLIANCE, B, C, D, Federation, Node, Role, Scratch, Seat, study_entries};

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
