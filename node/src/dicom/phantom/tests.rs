//! Generated examinations read by our own reader: facts, characters, frames, determinism, plan.
//!
//! Whether the objects keep the standard is for dciodvfy to say, and whether they look like bodies for a person; here
//! they must be sound, complete, not blank, and the same every time.

use std::collections::{BTreeMap, BTreeSet};

use super::folder::write;
use super::plan::{LATE_FOLDER, OUTAGE_FOLDER};
use super::*;
use crate::dicom::charset::{CharsetPolicy, CharsetVerdict};
use crate::dicom::facts::ObjectFacts;
use crate::dicom::frames::{FrameReadError, FrameTable};
use crate::dicom::source::in_memory;
use crate::dicom::syntax::TransferSyntax;

fn spec() -> PhantomSpec {
    PhantomSpec { seed: 1, issuers: ["SITEA", "SITEB", "SITEC"].map(str::to_owned).to_vec(), persons: 6, slices: 2 }
}

fn facts(object: &PhantomObject) -> ObjectFacts {
    let syntax = TransferSyntax::of(&object.transfer_syntax);
    ObjectFacts::of(&object.data_set, &syntax, &CharsetPolicy::Detect).expect("generated objects are sound")
}

#[test]
fn every_object_is_sound_and_complete() {
    let mut verdicts = BTreeMap::new();
    let mut modalities = BTreeSet::new();
    let mut files = BTreeSet::new();
    for object in generate(&spec()) {
        let found = facts(&object);
        assert_eq!(found.sop_instance, object.sop_instance);
        assert_eq!(found.damage, None, "{}", object.file_name);
        assert!(found.patient.name.ideographic.starts_with("测试^患者"), "{}", found.patient.name.full());
        assert!(found.series.institution.starts_with("测试医院"));
        assert!(!found.study.description.is_empty() && found.study.date.is_some());
        assert!(found.patient.birth_date.is_some() && !found.patient.age.is_empty());
        let syntax = TransferSyntax::of(&object.transfer_syntax);
        let table = FrameTable::locate(in_memory(&object.data_set, &syntax), &syntax).expect("frames");
        assert_eq!(table.len() as u32, found.instance.frames);
        let mut frame: Vec<u8> = Vec::new();
        let take = |piece: Vec<u8>| {
            frame.extend(piece);
            Ok::<_, FrameReadError>(())
        };
        table.read(in_memory(&object.data_set, &syntax).as_mut(), table.len(), take).expect("the last frame");
        let shades: BTreeSet<&[u8]> = frame.chunks(2).step_by(89).collect();
        assert!(shades.len() > 100, "{} is blank", object.file_name);
        verdicts.insert(found.patient.issuer.clone(), found.charset);
        modalities.insert(found.series.modality);
        assert!(files.insert(object.file_name));
    }
    assert_eq!(modalities.into_iter().collect::<Vec<_>>(), ["CT", "DX", "MR", "US"]);
    assert_eq!(files.len() as u64, count(&spec()));
    let flagged: Vec<bool> = verdicts.values().map(CharsetVerdict::is_flagged).collect();
    assert_eq!(flagged, [false, false, true], "the third hospital declares GBK as Latin-1");
}

#[test]
fn the_same_specification_gives_the_same_bytes() {
    let (first, again) = (generate(&spec()).next().expect("one"), generate(&spec()).next().expect("one"));
    assert_eq!(first.data_set, again.data_set);
    let other = generate(&PhantomSpec { seed: 2, ..spec() }).next().expect("one");
    assert_ne!(first.sop_instance, other.sop_instance);
}

#[test]
fn the_plan_tells_the_story() {
    let all = plan::examinations(&spec());
    let of_shared: Vec<_> = all.iter().filter(|examination| examination.person.index == 0).collect();
    let hospitals: BTreeSet<_> = of_shared.iter().map(|examination| &examination.hospital.issuer).collect();
    assert_eq!(hospitals.len(), 3);
    let (first, late) =
        (&all[0], of_shared.iter().find(|examination| examination.folder == LATE_FOLDER).expect("late"));
    assert_eq!(first.study_uid, late.study_uid);
    assert_ne!(first.series[0].uid, late.series[0].uid);
    assert_eq!(all.iter().filter(|examination| examination.folder == OUTAGE_FOLDER).count(), 1);
    let lines = crosswalk(&spec());
    let shared = shared_patient(&spec());
    let value = shared.strip_prefix("resident:").expect("a resident number");
    assert_eq!(lines.iter().filter(|line| line.value == value).count(), 3);
    let numbers: BTreeSet<_> = lines.iter().map(|line| (&line.issuer, &line.patient_id)).collect();
    assert_eq!(numbers.len(), lines.len());
}

#[test]
fn files_are_written_as_promised() {
    let directory = tempfile::tempdir().expect("a directory");
    let spec = PhantomSpec { persons: 1, issuers: vec!["SITEA".into()], ..spec() };
    let mut seen = 0;
    let summary = write(&spec, directory.path(), |_| seen += 1).expect("written");
    assert_eq!((summary.objects, seen), (count(&spec), count(&spec)));
    for name in ["SITEA", "late", "outage", "crosswalk.csv", "shared_patient"] {
        assert!(directory.path().join(name).exists(), "{name}");
    }
    let csv = std::fs::read_to_string(directory.path().join("crosswalk.csv")).expect("the crosswalk");
    let mut lines = csv.lines();
    assert_eq!(lines.next(), Some("issuer,patient_id,kind,value,name,sex,birth_date"));
    for line in lines {
        let fields: Vec<&str> = line.split(',').collect();
        let row = tessera_policy::CrosswalkRow::parse(&fields, tessera_policy::CheckMode::Strict);
        assert!(row.is_ok(), "{line}: {row:?}");
    }
    let refused = [
        PhantomSpec { persons: 0, ..spec.clone() },
        PhantomSpec { slices: 1, ..spec.clone() },
        PhantomSpec { issuers: vec!["../up".into()], ..spec.clone() },
        PhantomSpec { issuers: vec!["late".into()], ..spec },
    ];
    for spec in refused {
        assert!(write(&spec, directory.path(), |_| ()).is_err(), "{spec:?}");
    }
}
