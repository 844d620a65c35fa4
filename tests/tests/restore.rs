//! An old copy of a hospital's directory, put back as an administrator would after a disk failure: what the ledger has
//! stays, what only the copy lacks is said, nothing is applied twice, nobody is accused, and work goes on.
//!
//! The copy is taken of a node that is down, with a registration in its outbox that the ledger gets later. Here for
//! a hospital that follows; a core node's copy is a matter of its own.

use std::path::PathBuf;

use serde_json::Value;
use tessera_tests::{
    A, ALLIANCE, B, C, D, Examination, Federation, copy_directory, entries_of, put_back, study_entries, warns,
};

const ISSUER: &str = "SITED";

/// What no log of any node may say: a backup that was put back is no fault.
const ACCUSATIONS: [&str; 6] = ["evidence", "refused a command", "onflict", "iverge", "differs", "panicked"];

struct Case {
    federation: Federation,
    examinations: Vec<Examination>,
    copy: PathBuf,
}

/// Registered before the copy; in the copy's outbox; after the copy; after it was put back.
const BEFORE: usize = 0;
const WAITING: usize = 1;
const AFTER: usize = 2;
const NEW: usize = 3;

impl Case {
    fn new() -> Case {
        let federation = Federation::found(&ALLIANCE, &[]);
        let phantom = federation.phantom(&["--patients", "12", "--slices", "6"]);
        let mut examinations = phantom.examinations(ISSUER);
        assert!(examinations.len() >= 4, "the phantom made {} examinations", examinations.len());
        // The one that is split needs more than one object.
        examinations.sort_by_key(|examination| std::cmp::Reverse(examination.files.len()));
        let copy = federation.scratch.path().join("copy");
        Case { federation, examinations, copy }
    }

    fn send(&self, files: &[PathBuf]) {
        self.federation.nodes[D].send(files);
    }

    fn study(&self, which: usize) -> &[PathBuf] {
        &self.examinations[which].files
    }

    /// The object counts under which another hospital sees this study: one for each record that stands.
    fn seen_by_a(&self, which: usize) -> Vec<u64> {
        let examination = &self.examinations[which];
        let history = self.federation.nodes[A].history(&examination.patient(ISSUER));
        let of_it = history.iter().filter(|study| study["study_uid"] == examination.study.as_str());
        of_it.map(|study| study["objects"].as_u64().expect("a count")).collect()
    }

    /// Everything up to the moment in which the old copy runs again. Returns the study entries of the ledger.
    fn until_put_back(&mut self) -> u64 {
        let (first, rest) = self.study(BEFORE).split_at(self.study(BEFORE).len() / 2);
        let (first, rest) = (first.to_vec(), rest.to_vec());
        self.send(&first);
        self.federation.settle();
        for core in [B, C] {
            self.federation.nodes[core].kill();
        }
        self.send(self.study(WAITING));
        let waits = |status: &Value| status["receiving"] == 0 && status["outbox_pending"] == 1;
        self.federation.nodes[D].await_status("a registration that waits", waits);
        self.federation.nodes[D].kill();
        copy_directory(&self.federation.nodes[D].directory, &self.copy);
        for node in [B, C, D] {
            self.federation.nodes[node].start();
        }
        self.federation.settle();
        self.send(self.study(AFTER));
        self.send(&rest);
        let entries = study_entries(&self.federation.settle());
        self.federation.nodes[D].kill();
        put_back(&self.copy, &self.federation.nodes[D].directory);
        self.federation.nodes[D].start();
        entries
    }

    fn nobody_is_accused(&self) {
        for node in &self.federation.nodes {
            let log = node.log();
            for word in ACCUSATIONS {
                let said: Vec<&str> = log.lines().filter(|line| line.contains(word)).collect();
                assert!(said.is_empty(), "{} says {word:?}: {said:?}", node.seat.name);
            }
        }
    }
}

#[test]
fn an_old_copy_of_a_hospital_put_back_loses_nothing_doubles_nothing_and_accuses_nobody() {
    let mut case = Case::new();
    let entries = case.until_put_back();
    assert_eq!(entries, 4, "two registered, one that waited, one late series");

    // The copy's own outbox held what the ledger has: it is not applied again.
    let states = case.federation.settle();
    assert_eq!(study_entries(&states), entries, "something was registered twice");
    assert!(states.iter().all(|status| status["state_digest"] == states[0]["state_digest"]), "the states differ");
    let lost = |status: &Value| warns(status, "2 examinations that this hospital registered");
    let status = case.federation.nodes[D].await_status("what the copy lacks to be said", lost);
    assert!(warns(&status, "older copy"), "{status:#}");
    let all = [case.study(BEFORE).len(), case.study(WAITING).len(), case.study(AFTER).len()].map(|n| n as u64);
    for (which, objects) in [BEFORE, WAITING, AFTER].into_iter().zip(all) {
        assert_eq!(case.seen_by_a(which), [objects], "what the ledger has remains");
    }

    // New work goes on, and what the copy has is served.
    case.send(case.study(NEW));
    assert_eq!(study_entries(&case.federation.settle()), entries + 1);
    let patient = case.examinations[WAITING].patient(ISSUER);
    case.federation.allow(D, A, &patient);
    let to = case.federation.scratch.path().join("fetched");
    let study = case.examinations[WAITING].study.clone();
    let done = case.federation.nodes[A].ask(&["fetch", &study, "--id", &patient, "--to", &to.display().to_string()]);
    assert_eq!(done["objects"], all[1]);

    // What is sent again is whole again, once for each study, and the warning goes.
    case.send(case.study(AFTER));
    case.send(case.study(BEFORE));
    let states = case.federation.settle();
    assert!(!warns(&states[D], "older copy"), "{:#}", states[D]);
    for (which, objects) in [BEFORE, WAITING, AFTER].into_iter().zip(all) {
        assert_eq!(case.seen_by_a(which), [objects], "each once, and whole");
    }
    assert_eq!(entries_of(&states[A], "study"), entries + 3, "two new revisions");
    case.nobody_is_accused();
}
