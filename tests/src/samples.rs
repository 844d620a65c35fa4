//! Objects to send: the files that pydicom and pydicom-data carry, small generated ones by the thousand, and large ones.
//!
//! What is known of them is what pydicom says, and the hash of the data set's bytes as they lie in the file: what comes
//! back from a node is compared with that. Not for the phantom's examinations, which are in `federation`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::clients::python;

/// One object in a file.
#[derive(Clone, Debug)]
pub struct Sample {
    pub file: PathBuf,
    pub study: String,
    pub sop_instance: String,
    pub patient_id: String,
}

impl Sample {
    fn of(line: &Value) -> Sample {
        let (study, sop_instance) = (text(line, "study"), text(line, "sop_instance"));
        Sample { file: text(line, "file").into(), study, sop_instance, patient_id: text(line, "patient_id") }
    }
}

/// `studies` studies of `objects` objects of about 1 kB, each study of a patient of its own.
#[track_caller]
pub fn small_objects(folder: &Path, seed: u32, studies: u32, objects: u32, issuer: &str) -> Vec<Sample> {
    let [folder, seed, studies, objects] =
        [folder.display().to_string(), seed.to_string(), studies.to_string(), objects.to_string()];
    let options = ["--seed", &seed, "--studies", &studies, "--objects", &objects, "--issuer", issuer];
    let made = python("make_small.py", &[&[folder.as_str()], &options[..]].concat()).success();
    made.json_lines().iter().map(Sample::of).collect()
}

/// A study of one object with so many frames of 2 MiB.
#[track_caller]
pub fn large_object(file: &Path, seed: u32, frames: u32, patient_id: &str, issuer: &str) -> Sample {
    let [path, seed, frames] = [file.display().to_string(), seed.to_string(), frames.to_string()];
    let options = ["--seed", &seed, "--frames", &frames, "--patient", patient_id, "--issuer", issuer];
    let made = python("make_large.py", &[&[path.as_str()], &options[..]].concat()).success();
    Sample::of(&made.json_lines()[0])
}

/// A file of pydicom's or pydicom-data's own tests, DICOM or not.
#[derive(Clone, Debug)]
pub struct RealFile {
    pub file: PathBuf,
    /// Its file name: one of a kind among those that are DICOM.
    pub name: String,
    /// The file itself, or where an earlier file has its SOP Instance UID, a copy that differs in nothing but that;
    /// `None` where an earlier file holds the same bytes.
    pub travels: Option<PathBuf>,
    /// The SOP Instance UID under which it travels.
    pub travels_as: String,
    /// By pydicom; empty where it has none.
    pub sop_instance: String,
    pub study: String,
    pub patient_id: String,
    pub issuer: String,
}

/// All of them, in the order in which `store_all.py` sends them; the copies are written into `folder`.
#[track_caller]
pub fn real_files(folder: &Path) -> Vec<RealFile> {
    let lines = python("real_files.py", &[folder]).success().json_lines();
    let of = |line: &Value| {
        let file = PathBuf::from(text(line, "file"));
        let name = file.file_name().expect("a file's name").to_string_lossy().into_owned();
        RealFile {
            file,
            name,
            travels: line["travels"].as_str().map(PathBuf::from),
            travels_as: text(line, "travels_as"),
            sop_instance: text(line, "sop_instance"),
            study: text(line, "study"),
            patient_id: text(line, "patient_id"),
            issuer: text(line, "issuer"),
        }
    };
    lines.iter().map(of).collect()
}

fn text(line: &Value, name: &str) -> String {
    line[name].as_str().unwrap_or_else(|| panic!("no {name} in {line}")).to_owned()
}

/// What a file's data set is, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DataSet {
    pub sha256: String,
    pub bytes: u64,
    /// Empty where the file does not say.
    pub transfer_syntax: String,
    /// By the file meta information.
    pub sop_instance: String,
}

/// The data sets of these files.
#[track_caller]
pub fn data_sets<P: AsRef<Path>>(files: &[P]) -> BTreeMap<PathBuf, DataSet> {
    if files.is_empty() {
        return BTreeMap::new();
    }
    let files: Vec<&Path> = files.iter().map(AsRef::as_ref).collect();
    let lines = python("dataset_bytes.py", &files).success().json_lines();
    let optional = |line: &Value, name: &str| line[name].as_str().unwrap_or_default().to_owned();
    let of = |line: &Value| {
        let [transfer_syntax, sop_instance] = ["transfer_syntax", "sop_instance"].map(|name| optional(line, name));
        let bytes = line["length"].as_u64().expect("a length");
        (text(line, "file").into(), DataSet { sha256: text(line, "sha256"), bytes, transfer_syntax, sop_instance })
    };
    lines.iter().map(of).collect()
}
