//! What was put aside, as an operator deals with it: lists it, looks at it, releases or discards it; on a real node,
//! by the command line.
//!
//! Not here: what each decision does to the catalogue, and a crash around it, which is tested in `node`.

use serde_json::Value;
use tessera_tests::{Node, Phantom, Role, Scratch, Seat, dcmtk, files_below};

const HOSPITAL: Seat = Seat::new("hospital-a", "SITEA", Role::Core);

/// A hospital that takes nobody's images but those of the devices on its list.
struct Hospital {
    node: Node,
    phantom: Phantom,
    scratch: Scratch,
}

impl Hospital {
    fn new() -> Hospital {
        let scratch = Scratch::new();
        let mut node = Node::init(&scratch, HOSPITAL);
        let file = node.directory.join("tessera.toml");
        let text = std::fs::read_to_string(&file).expect("the configuration");
        assert!(text.contains("accept_unknown_senders = true"));
        std::fs::write(&file, text.replace("accept_unknown_senders = true", "accept_unknown_senders = false"))
            .expect("written");
        node.start();
        let phantom = Phantom::generate(scratch.path(), &["SITEA"], &["--patients", "2", "--slices", "3"]);
        Hospital { node, phantom, scratch }
    }

    fn send_as(&self, title: &str, path: &str) {
        let port = self.node.dicom.to_string();
        let arguments = ["-aet", title, "-aec", "TESSERA", "+sd", "+r", "-R", "-xs", "127.0.0.1", &port, path];
        dcmtk("storescu", &arguments).success();
    }

    fn aside(&self) -> Vec<Value> {
        self.node.ask(&["quarantine"])["items"].as_array().expect("items").clone()
    }

    fn count(&self) -> usize {
        files_below(&self.phantom.of("SITEA")).len()
    }
}

fn number(item: &Value) -> &str {
    item["item"].as_str().expect("a number")
}

#[test]
fn an_unknown_senders_images_are_released_once_somebody_vouches_for_it() {
    let mut hospital = Hospital::new();
    let count = hospital.count();
    hospital.send_as("CT9", &hospital.phantom.of("SITEA").display().to_string());
    assert_eq!(hospital.aside().len(), count);
    hospital.node.run(&["quarantine"]).success().says("not on the list").says(&format!("{count} objects put aside"));

    // Nothing happens without a reason, nor to many at once without a yes.
    hospital.node.run(&["quarantine", "release", "--all-from", "CT9"]).exits_with(2).says("--reason");
    let release = ["quarantine", "release", "--all-from", "CT9", "--reason", "CT9 is ours", "--user", "operator-1"];
    let asked = hospital.node.run(&release).exits_with(1).says("nothing was done; say --yes");
    asked.says(&format!("{count} objects of CT9 are put aside")).says("of 2 patients");
    assert_eq!(hospital.aside().len(), count);
    hospital.node.run(&["quarantine", "release", "--all-from", "CT8", "--reason", "none"]).success().says("0 objects");

    let released = hospital.node.run(&[&release[..], &["--yes"]].concat()).success();
    released.says(&format!("{count} released into their studies"));
    let released = |node: &Node| {
        let status = node.await_status("the studies to be registered", |status| {
            status["receiving"] == 0 && status["outbox_pending"] == 0
        });
        assert_eq!((&status["objects"], &status["quarantined"]), (&count.into(), &0.into()), "{status:#}");
        let examinations = hospital.phantom.examinations("SITEA");
        assert_eq!(status["studies"], examinations.len());
        assert_eq!(node.instances(&examinations[0].study).len(), examinations[0].files.len());
    };
    released(&hospital.node);

    // Killed at once after the answer: the decision and what it did are there.
    hospital.node.kill();
    hospital.node.start();
    released(&hospital.node);
    let decisions = hospital.node.ask(&["quarantine", "--decided"]);
    assert_eq!(decisions["count"], count);
    let decision = &decisions["decisions"][0];
    assert_eq!((&decision["by"], &decision["reason"]), (&"operator-1".into(), &"CT9 is ours".into()), "{decision:#}");
    hospital.node.run(&["quarantine", "list", "--decided"]).success().says("operator-1: released into its study");
}

#[test]
fn one_item_is_looked_at_and_discarded_with_a_reason() {
    let hospital = Hospital::new();
    let examination = &hospital.phantom.examinations("SITEA")[0];
    let file = examination.files[0].display().to_string();
    hospital.send_as("CT9", &file);
    let items = hospital.aside();
    let written = hospital.scratch.path().join("looked-at.dcm").display().to_string();
    let show = ["quarantine", "show", number(&items[0]), "--to", &written];
    let shown = hospital.node.run(&show).success().says(&examination.study).says("it is filed in its study");
    shown.says(&format!("SITEA/{}", examination.patient_id)).says("CT9 at 127.0.0.1");
    let uid = |file: &str| dcmtk("dcmdump", &["+P", "0008,0018", file]).success().stdout;
    assert_eq!(uid(&written), uid(&file));
    hospital.node.run(&show).success();
    std::fs::write(&written, "a note of somebody's").expect("a file");
    hospital.node.run(&show).exits_with(1).says("other content");
    assert_eq!(std::fs::read(&written).expect("a file"), b"a note of somebody's");

    hospital.node.run(&["quarantine", "discard", number(&items[0])]).exits_with(2).says("--reason");
    let discard = ["quarantine", "discard", number(&items[0]), "--reason", "a test image"];
    hospital.node.run(&discard).success().says("1 discarded");
    assert!(hospital.aside().is_empty());
    hospital.node.run(&discard).exits_with(1).says("it is not put aside");
    hospital.node.run(&["quarantine", "show", "nonsense"]).exits_with(1).says("no item");
    hospital.node.run(&["quarantine", "list", "--decided"]).success().says("discarded. Reason: a test image");
    // It was a decision about what came then; what comes now is put aside anew.
    hospital.send_as("CT9", &file);
    assert_eq!(hospital.aside().len(), 1);
}

#[test]
fn a_reviewed_variant_takes_its_objects_place_in_a_new_revision() {
    let hospital = Hospital::new();
    let examination = &hospital.phantom.examinations("SITEA")[0];
    hospital.node.run(&["import", &hospital.phantom.of("SITEA").display().to_string()]).success();
    let at_rest = |status: &Value| status["receiving"] == 0 && status["outbox_pending"] == 0;
    hospital.node.await_status("the studies to be registered", at_rest);
    let patient = examination.patient("SITEA");
    let revision = |node: &Node| {
        let history = node.history(&patient);
        let study = history.iter().find(|study| study["study_uid"] == examination.study.as_str()).expect("the study");
        study["revision"].as_u64().expect("a revision")
    };
    assert_eq!(revision(&hospital.node), 1);

    // The device repeats an image after somebody set its description right.
    let copy = hospital.scratch.path().join("variant.dcm");
    std::fs::copy(&examination.files[0], &copy).expect("copied");
    let copy = copy.display().to_string();
    dcmtk("dcmodify", &["-nb", "-i", "(0008,103e)=Corrected series", &copy]).success();
    hospital.node.run(&["import", &copy]).success().says("1 variants");
    let items = hospital.aside();
    hospital
        .node
        .run(&["quarantine", "show", number(&items[0])])
        .success()
        .says("series description")
        .says("Corrected");
    let release = ["quarantine", "release", number(&items[0]), "--reason", "reviewed: the description was wrong"];
    hospital.node.run(&release).success().says("1 took the place of the object");
    hospital.node.await_status("the new revision to be registered", at_rest);
    assert_eq!(revision(&hospital.node), 2);
    assert_eq!(hospital.node.instances(&examination.study).len(), examination.files.len());
    assert!(hospital.aside().is_empty());
    // Resent, it is what is there.
    hospital.node.run(&["import", &copy]).success().says("1 known already");
}
