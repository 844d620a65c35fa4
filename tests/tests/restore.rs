//! An old copy of a hospital's directory, put back as an administrator would after a disk failure: what the ledger has
//! stays, what only the copy lacks is said, nothing is applied twice, nobody is accused, and work goes on.
//!
//! The copy is taken of a node that is down, with a registration in its outbox that the ledger gets later. A hospital
//! that follows, and one of the core, which loses its seat besides: what it said in its later life it has forgotten.

use std::path::PathBuf;

use serde_json::Value;
use tessera_tests::{
    A, ALLIANCE, B, C, D, Examination, Federation, Node, copy_directory, entries_of, put_back, study_entries, warns,
};

/// What no log of any node may say: a backup that was put back is no fault.
const ACCUSATIONS: [&str; 6] = ["evidence", "refused a command", "onflict", "iverge", "differs", "panicked"];

struct Case {
    federation: Federation,
    /// Whose directory is put back, and another hospital, which looks at it.
    restored: usize,
    other: usize,
    examinations: Vec<Examination>,
    copy: PathBuf,
}

/// Registered before the copy; in the copy's outbox; after the copy; after it was put back.
const BEFORE: usize = 0;
const WAITING: usize = 1;
const AFTER: usize = 2;
const NEW: usize = 3;
/// For a core node's copy, when all else is over.
const LAST: usize = 4;

impl Case {
    fn new(restored: usize, other: usize) -> Case {
        let federation = Federation::found(&ALLIANCE, &[]);
        let phantom = federation.phantom(&["--patients", "24", "--slices", "6"]);
        let mut examinations = phantom.examinations(federation.nodes[restored].seat.issuer);
        assert!(examinations.len() > LAST, "the phantom made {} examinations", examinations.len());
        // The one that is split needs more than one object.
        examinations.sort_by_key(|examination| std::cmp::Reverse(examination.files.len()));
        let copy = federation.scratch.path().join("copy");
        Case { federation, restored, other, examinations, copy }
    }

    /// The node whose directory is put back.
    fn node(&self) -> &Node {
        &self.federation.nodes[self.restored]
    }

    fn send(&self, files: &[PathBuf]) {
        self.node().send(files);
    }

    fn patient(&self, which: usize) -> String {
        self.examinations[which].patient(self.node().seat.issuer)
    }

    fn study(&self, which: usize) -> &[PathBuf] {
        &self.examinations[which].files
    }

    /// The object counts under which another hospital sees this study: one for each record that stands.
    fn seen_by_other(&self, which: usize) -> Vec<u64> {
        let examination = &self.examinations[which];
        let history = self.federation.nodes[self.other].history(&self.patient(which));
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
        self.node().await_status("a registration that waits", waits);
        self.federation.nodes[self.restored].kill();
        copy_directory(&self.node().directory, &self.copy);
        for node in [B, C, self.restored] {
            self.federation.nodes[node].start();
        }
        self.federation.settle();
        self.send(self.study(AFTER));
        self.send(&rest);
        let entries = study_entries(&self.federation.settle());
        self.federation.nodes[self.restored].kill();
        put_back(&self.copy, &self.node().directory);
        self.federation.nodes[self.restored].start();
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

    /// From the moment in which the old copy runs again to the end.
    fn goes_on(&self, entries: u64) {
        assert_eq!(entries, 4, "two registered, one that waited, one late series");

        // The copy's own outbox held what the ledger has: it is not applied again.
        let states = self.federation.settle();
        assert_eq!(study_entries(&states), entries, "something was registered twice");
        assert!(states.iter().all(|status| status["state_digest"] == states[0]["state_digest"]), "the states differ");
        let lost = |status: &Value| warns(status, "2 examinations that this hospital registered");
        let status = self.node().await_status("what the copy lacks to be said", lost);
        assert!(warns(&status, "older copy"), "{status:#}");
        let all = [self.study(BEFORE).len(), self.study(WAITING).len(), self.study(AFTER).len()].map(|n| n as u64);
        for (which, objects) in [BEFORE, WAITING, AFTER].into_iter().zip(all) {
            assert_eq!(self.seen_by_other(which), [objects], "what the ledger has remains");
        }

        // New work goes on, and what the copy has is served.
        self.send(self.study(NEW));
        assert_eq!(study_entries(&self.federation.settle()), entries + 1);
        let patient = self.patient(WAITING);
        self.federation.allow(self.restored, self.other, &patient);
        let to = self.federation.scratch.path().join("fetched").display().to_string();
        let study = &self.examinations[WAITING].study;
        let done = self.federation.nodes[self.other].ask(&["fetch", study, "--id", &patient, "--to", &to]);
        assert_eq!(done["objects"], all[1]);

        // What is sent again is whole again, once for each study, and the warning goes.
        self.send(self.study(AFTER));
        self.send(self.study(BEFORE));
        let states = self.federation.settle();
        assert!(!warns(&states[self.restored], "older copy"), "{:#}", states[self.restored]);
        for (which, objects) in [BEFORE, WAITING, AFTER].into_iter().zip(all) {
            assert_eq!(self.seen_by_other(which), [objects], "each once, and whole");
        }
        assert_eq!(entries_of(&states[self.other], "study"), entries + 3, "two new revisions");
        self.nobody_is_accused();
    }
}

#[test]
fn an_old_copy_of_a_hospital_put_back_loses_nothing_doubles_nothing_and_accuses_nobody() {
    let mut case = Case::new(D, A);
    let entries = case.until_put_back();
    case.goes_on(entries);
    assert!(!warns(&case.node().status().expect("it runs"), "lost its seat"), "it never had one");
}

#[test]
fn an_old_copy_of_a_core_node_put_back_goes_on_as_a_member_and_neither_votes_nor_signs() {
    let mut case = Case::new(A, D);
    let entries = case.until_put_back();
    let says_so = |status: &Value| warns(status, "has lost its seat") && warns(status, "neither votes nor signs");
    case.node().await_status("the loss of its seat to be said", says_so);
    case.node().run(&["status"]).success().says("has lost its seat").says("neither votes nor signs");
    case.goes_on(entries);

    // With one of the two others down there is no majority, though two of the three run.
    let before = case.federation.settle();
    case.federation.nodes[B].kill();
    case.send(case.study(LAST));
    let waits = |status: &Value| status["outbox_pending"] == 1 && warns(status, "nothing was certified for");
    let status = case.node().await_status("a registration that waits", waits);
    assert_eq!(status["certified_size"], before[A]["certified_size"], "it signed: {status:#}");
    let c = case.federation.nodes[C]
        .await_status("the core to stand still", |status| warns(status, "nothing was certified for"));
    assert_eq!(c["ledger_size"], before[C]["ledger_size"], "it voted: {c:#}");

    // Not for a while only: it has lost it for good, also after another start.
    case.federation.nodes[A].kill();
    case.federation.nodes[A].start();
    case.federation.nodes[B].start();
    let after = case.federation.settle();
    assert!(says_so(&after[A]), "{:#}", after[A]);
    assert_eq!(case.seen_by_other(LAST), [case.study(LAST).len() as u64], "what waited arrives once");
    case.nobody_is_accused();
}
