//! What must hold of the objects that a node answered with success, whatever happened to it since: all of them are
//! there, with their very bytes, and the ledger has each study once.
//!
//! Seen from outside: by DICOMweb for the objects, by the history for the ledger.

use std::collections::BTreeMap;
use std::path::Path;

use crate::clients::retrieve;
use crate::node::Node;
use crate::samples::{Sample, data_sets};

/// Fails unless the node has exactly these objects of their studies, with exactly their bytes. `to` is an empty folder.
#[track_caller]
pub fn kept_exactly(node: &Node, samples: &[Sample], to: &Path) {
    let files: Vec<&Path> = samples.iter().map(|sample| sample.file.as_path()).collect();
    let sent = data_sets(&files);
    let wanted: BTreeMap<&str, &str> =
        samples.iter().map(|sample| (sample.sop_instance.as_str(), sent[&sample.file].sha256.as_str())).collect();
    let studies: Vec<&str> = by_study(samples).into_keys().map(|(_, study)| study).collect();
    let shown = retrieve(&node.url("/dicom-web"), &studies, to);
    let shown = data_sets(&shown);
    assert_eq!(shown.len(), wanted.len(), "{}: number of objects", node.seat.name);
    let shown: BTreeMap<&str, &str> =
        shown.values().map(|object| (object.sop_instance.as_str(), object.sha256.as_str())).collect();
    let missing: Vec<&&str> = wanted.keys().filter(|uid| !shown.contains_key(**uid)).collect();
    assert!(missing.is_empty(), "{}: answered with success, and lost: {missing:?}", node.seat.name);
    assert_eq!(shown, wanted, "{}: other bytes than were sent", node.seat.name);
}

/// Fails unless `viewer` finds each study of these objects exactly once, whole, under its patient's number of this
/// issuer. Returns how many entries of the ledger that makes: each revision is one.
#[track_caller]
pub fn registered_once(viewer: &Node, issuer: &str, samples: &[Sample]) -> u64 {
    let mut entries = 0;
    for ((patient, study), objects) in by_study(samples) {
        let history = viewer.history(&format!("hospital:{issuer}/{patient}"));
        let of_it: Vec<_> = history.iter().filter(|found| found["study_uid"] == study).collect();
        assert_eq!(of_it.len(), 1, "{} finds {study}: {history:#?}", viewer.seat.name);
        assert_eq!(of_it[0]["objects"], objects, "{} finds {study}: {history:#?}", viewer.seat.name);
        entries += of_it[0]["revision"].as_u64().expect("a revision");
    }
    entries
}

/// Numbers of objects by patient and study.
fn by_study(samples: &[Sample]) -> BTreeMap<(&str, &str), u64> {
    let mut studies = BTreeMap::new();
    for sample in samples {
        *studies.entry((sample.patient_id.as_str(), sample.study.as_str())).or_default() += 1;
    }
    studies
}
