//! The files that pydicom and pydicom-data carry for their own tests, all transfer syntaxes, odd character sets and
//! broken ones among them: through two senders into two hospitals, and from both by consent to a third. What arrives
//! is compared with what was sent by the bytes of the data set.
//!
//! pynetdicom sends a data set as it lies in the file. DCMTK's storescu writes it anew (lengths of sequences, group
//! lengths); what it really sends is what its own storescp, which changes nothing, gets from it at the same time.
//! What can't be sent, what is refused, and what is put aside is named here file by file: nothing is left out in
//! silence. Kills are not here, nor how names read (`charset`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tessera_tests::{
    A, ALLIANCE, C, D, DataSet, Federation, Process, RealFile, START_DEADLINE, data_sets, dcmtk, files_below,
    free_port, python, real_files, retrieve, storescu_answers, wait_until,
};

/// What storescu must propose so that a file goes in the transfer syntax that it is in; any other is sent with `-xe`.
const PROPOSED: [(&str, &str); 12] = [
    ("1.2.840.10008.1.2", "-xi"),
    ("1.2.840.10008.1.2.1", "-xe"),
    ("1.2.840.10008.1.2.1.99", "-xd"),
    ("1.2.840.10008.1.2.2", "-xb"),
    ("1.2.840.10008.1.2.4.50", "-xy"),
    ("1.2.840.10008.1.2.4.51", "-xx"),
    ("1.2.840.10008.1.2.4.70", "-xs"),
    ("1.2.840.10008.1.2.4.80", "-xt"),
    ("1.2.840.10008.1.2.4.81", "-xu"),
    ("1.2.840.10008.1.2.4.90", "-xv"),
    ("1.2.840.10008.1.2.4.91", "-xw"),
    ("1.2.840.10008.1.2.5", "-xr"),
];

/// All files in this syntax (JPEG-LS near-lossless) lack a Study Instance UID, and no hospital can file them.
const NEVER_STORED: &str = "1.2.840.10008.1.2.4.81";

/// What storescu itself does not send: no SOP class, or nothing that it could read one of.
const UNREAD_BY_STORESCU: [&str; 28] = [
    "DICOMDIR",
    "DICOMDIR-bigEnd",
    "DICOMDIR-empty.dcm",
    "DICOMDIR-implicit",
    "DICOMDIR-nooffset",
    "DICOMDIR-nopatient",
    "DICOMDIR-reordered",
    "MR_truncated.dcm",
    "README",
    "SC_rgb_jpeg.dcm",
    "UN_sequence.dcm",
    "chrSQEncoding.dcm",
    "chrSQEncoding1.dcm",
    "crayons.icc",
    "empty_charset_LEI.dcm",
    "emri_small_jpeg_2k_lossless_too_short.dcm",
    "explicit_VR-UN.dcm",
    "meta_missing_tsyntax.dcm",
    "nested_priv_SQ.dcm",
    "no_meta.dcm",
    "no_meta_group_length.dcm",
    "priv_SQ.dcm",
    "rtdose_rle.dcm",
    "rtdose_rle_1frame.dcm",
    "rtplan.dump",
    "rtplan_truncated.dcm",
    "rtstruct.dump",
    "zipMR.gz",
];

/// What pynetdicom can't send as it is: no file meta information, none of its UIDs, or a directory, which is no object.
const UNREAD_BY_PYNETDICOM: [&str; 20] = [
    "DICOMDIR",
    "DICOMDIR-bigEnd",
    "DICOMDIR-empty.dcm",
    "DICOMDIR-implicit",
    "DICOMDIR-nooffset",
    "DICOMDIR-nopatient",
    "DICOMDIR-reordered",
    "ExplVR_BigEndNoMeta.dcm",
    "ExplVR_LitEndNoMeta.dcm",
    "OT-PAL-8-face.dcm",
    "README",
    "crayons.icc",
    "empty_charset_LEI.dcm",
    "meta_missing_tsyntax.dcm",
    "nested_priv_SQ.dcm",
    "no_meta.dcm",
    "rtplan.dump",
    "rtstruct.dcm",
    "rtstruct.dump",
    "zipMR.gz",
];

const NO_SOP_CLASS: &str = "the data set has no SOP Class UID";
const NO_STUDY: &str = "the data set has no Study Instance UID";
const NO_UID: &str = "the SOP Instance UID of the data set is no UID";
const NO_DATA_SET: &str = "this is no DICOM data set";
const NO_FILE: &str = "this is no DICOM file";
/// Their file meta information names another object than the data set does, and pynetdicom announces what that says.
const ANNOUNCED: &str = "the announced SOP Instance UID is not the data set's: ";

/// Objects that can't be filed, and what their senders are told. storescu shows DCMTK's word for status C000 alone.
const REFUSED_FROM_STORESCU: [(&str, &str); 5] = [
    ("JPEGLSNearLossless_08.dcm", "Error: CannotUnderstand"),
    ("JPEGLSNearLossless_16.dcm", "Error: CannotUnderstand"),
    ("SC_rgb_jls_lossy_line.dcm", "Error: CannotUnderstand"),
    ("SC_rgb_jls_lossy_sample.dcm", "Error: CannotUnderstand"),
    ("bad_sequence.dcm", "Error: CannotUnderstand"),
];
/// pynetdicom shows the status and the beginning of the reason.
const REFUSED_FROM_PYNETDICOM: [(&str, &str, &str); 19] = [
    ("JPEGLSNearLossless_08.dcm", "C000", NO_STUDY),
    ("JPEGLSNearLossless_16.dcm", "C000", NO_STUDY),
    ("SC_rgb_jls_lossy_line.dcm", "C000", NO_STUDY),
    ("SC_rgb_jls_lossy_sample.dcm", "C000", NO_STUDY),
    ("UN_sequence.dcm", "C000", NO_DATA_SET),
    ("badVR.dcm", "A900", ANNOUNCED),
    ("bad_sequence.dcm", "C000", NO_UID),
    ("chrJapMulti.dcm", "A900", ANNOUNCED),
    ("chrJapMultiExplicitIR6.dcm", "A900", ANNOUNCED),
    ("chrSQEncoding.dcm", "C000", NO_SOP_CLASS),
    ("chrSQEncoding1.dcm", "C000", NO_SOP_CLASS),
    ("no_meta_group_length.dcm", "C000", NO_SOP_CLASS),
    ("priv_SQ.dcm", "C000", NO_SOP_CLASS),
    ("rtdose.dcm", "A900", ANNOUNCED),
    ("rtdose_1frame.dcm", "A900", ANNOUNCED),
    ("rtdose_expb.dcm", "A900", ANNOUNCED),
    ("rtdose_expb_1frame.dcm", "A900", ANNOUNCED),
    ("rtplan.dcm", "A900", ANNOUNCED),
    ("rtplan_truncated.dcm", "A900", ANNOUNCED),
];

/// What an operator who imports the rest is told of each file that is no object.
const NOT_IMPORTED: [(&str, &str); 19] = [
    ("JPEGLSNearLossless_08.dcm", NO_STUDY),
    ("JPEGLSNearLossless_16.dcm", NO_STUDY),
    ("README", NO_FILE),
    ("SC_rgb_jls_lossy_line.dcm", NO_STUDY),
    ("SC_rgb_jls_lossy_sample.dcm", NO_STUDY),
    ("UN_sequence.dcm", NO_DATA_SET),
    ("bad_sequence.dcm", NO_UID),
    ("chrSQEncoding.dcm", NO_SOP_CLASS),
    ("chrSQEncoding1.dcm", NO_SOP_CLASS),
    ("crayons.icc", NO_FILE),
    ("empty_charset_LEI.dcm", NO_SOP_CLASS),
    ("meta_missing_tsyntax.dcm", NO_SOP_CLASS),
    ("nested_priv_SQ.dcm", NO_SOP_CLASS),
    ("no_meta.dcm", NO_FILE),
    ("no_meta_group_length.dcm", NO_SOP_CLASS),
    ("priv_SQ.dcm", NO_SOP_CLASS),
    ("rtplan.dump", NO_FILE),
    ("rtstruct.dump", NO_FILE),
    ("zipMR.gz", NO_FILE),
];
/// Directories list objects and are none; an import passes over them.
const PASSED_OVER: &str = "DICOMDIR";

/// Objects that are cut off behind their UIDs: kept, never indexed, and a warning to the sender.
const PUT_ASIDE: [&str; 3] = ["MR_truncated.dcm", "emri_small_jpeg_2k_lossless_too_short.dcm", "rtplan_truncated.dcm"];

/// Files that don't say their transfer syntax, and what they are in.
const UNDECLARED: [(&str, &str); 4] = [
    ("ExplVR_BigEndNoMeta.dcm", "1.2.840.10008.1.2.2"),
    ("ExplVR_LitEndNoMeta.dcm", "1.2.840.10008.1.2.1"),
    ("OT-PAL-8-face.dcm", "1.2.840.10008.1.2"),
    ("rtstruct.dcm", "1.2.840.10008.1.2"),
];

/// What became of each file that was sent: [`STORED`], or status and reason.
type Answers = BTreeMap<PathBuf, String>;
const STORED: &str = "stored";
/// Kept, and the sender is warned that it is broken.
const WARNED: &str = "stored with a warning";
/// The sender itself could not.
const UNSENT: &str = "unsent";

/// What a hospital has to show: by study, by SOP Instance UID.
type Holding = BTreeMap<String, BTreeMap<String, DataSet>>;

struct Case {
    federation: Federation,
    files: Vec<RealFile>,
    /// Of the files and of the copies that travel in their place.
    sent: BTreeMap<PathBuf, DataSet>,
    /// Those that dcmdump reads.
    readable: BTreeSet<PathBuf>,
}

impl Case {
    fn new() -> Case {
        let federation = Federation::found(&ALLIANCE[..4], &[]);
        let files = real_files(&federation.scratch.path().join("copies"));
        let mut paths: Vec<&PathBuf> = files.iter().map(|file| &file.file).collect();
        paths.extend(files.iter().filter_map(|file| file.travels.as_ref()));
        let sent = data_sets(&paths);
        let reads = |path: &&PathBuf| dcmtk("dcmdump", &["-q", &path.display().to_string()]).code == Some(0);
        let readable = paths.into_iter().filter(reads).cloned().collect();
        Case { federation, files, sent, readable }
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.federation.scratch.path().join(name)
    }

    /// The file of which this one is, or is the copy of.
    fn of(&self, path: &Path) -> &RealFile {
        let is_it = |file: &&RealFile| file.file == path || file.travels.as_deref() == Some(path);
        self.files.iter().find(is_it).expect("one of the files")
    }

    fn names(&self, paths: impl Iterator<Item = PathBuf>) -> BTreeSet<String> {
        paths.map(|path| self.of(&path).name.clone()).collect()
    }
}

fn names(known: &[&str]) -> BTreeSet<String> {
    known.iter().map(|name| (*name).to_owned()).collect()
}

/// Refused as they should be: the very files, each with a reason that begins so.
fn check_refused<'a>(
    case: &Case,
    refused: impl Iterator<Item = (&'a PathBuf, &'a str)>,
    known: BTreeMap<&str, String>,
) {
    let refused: BTreeMap<&str, &str> = refused.map(|(file, why)| (case.of(file).name.as_str(), why)).collect();
    let files: BTreeSet<&str> = refused.keys().copied().collect();
    assert_eq!(files, known.keys().copied().collect(), "{refused:#?}");
    for (file, why) in refused {
        assert!(why.starts_with(known[file].as_str()), "{file}: {why:?}, and not {:?}", known[file]);
    }
}

fn is_stored(why: &str) -> bool {
    why == STORED || why == WARNED
}

fn refused(answers: &Answers) -> impl Iterator<Item = (&PathBuf, &str)> {
    answers.iter().filter(|(_, why)| !is_stored(why)).map(|(file, why)| (file, why.as_str()))
}

/// Of what is stored, its sender was warned of exactly what is put aside as broken.
fn check_warned(case: &Case, answers: &Answers) {
    for (file, why) in answers.iter().filter(|(_, why)| is_stored(why)) {
        let name = &case.of(file).name;
        assert_eq!(why == WARNED, PUT_ASIDE.contains(&name.as_str()), "{name}: {why}");
    }
}

// --- DCMTK's storescu, into hospital A

/// Sends files with one association for each transfer syntax, and says what became of each that was sent.
fn storescu(case: &Case, port: u16, files: &[PathBuf]) -> Answers {
    let mut groups: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for file in files {
        let syntax = &case.sent[file].transfer_syntax;
        let option = PROPOSED.iter().find(|(known, _)| known == syntax).map_or("-xe", |(_, option)| option);
        groups.entry(option).or_default().push(file.display().to_string());
    }
    let mut answers = Answers::new();
    for (option, files) in groups {
        let port = port.to_string();
        let mut arguments = vec!["-v", "-nh", "-R", option, "-aec", "TESSERA", "127.0.0.1", &port];
        arguments.extend(files.iter().map(String::as_str));
        let said = dcmtk("storescu", &arguments);
        for answer in storescu_answers(&format!("{}{}", said.stdout, said.stderr)) {
            let status =
                answer.status.unwrap_or_else(|| panic!("no answer for {}: {}", answer.file.display(), said.stderr));
            let why = match status.as_str() {
                "Success" => STORED.to_owned(),
                "Warning: DataSetDoesNotMatchSOPClass" => WARNED.to_owned(),
                _ => status,
            };
            answers.insert(answer.file, why);
        }
    }
    answers
}

/// What storescu sends of these files: its own peer keeps every byte.
fn as_storescu_sends(case: &Case, files: &[PathBuf]) -> BTreeMap<String, DataSet> {
    let (folder, port) = (case.federation.scratch.folder("storescp"), free_port());
    let mut command = Command::new("storescp");
    command.args(["-v", "+xa", "-pm", "+B", "+uf", "-dhl", "-od"]).arg(&folder).arg(port.to_string());
    let mut peer = Process::start("storescp", case.federation.scratch.path(), command);
    let port_text = port.to_string();
    wait_until("storescp to answer", START_DEADLINE, || {
        assert!(peer.ended().is_none(), "storescp ended: {}", peer.log());
        (dcmtk("echoscu", &["127.0.0.1", &port_text]).code == Some(0)).then_some(())
    });
    let answers = storescu(case, port, files);
    peer.kill();
    let sent = data_sets(&files_below(&folder));
    assert_eq!(sent.len(), answers.len(), "storescp kept not all that it was sent");
    sent.into_values().map(|object| (object.sop_instance.clone(), object)).collect()
}

/// Everything that storescu can send, into hospital A. Returns what A must have now.
fn through_storescu(case: &Case) -> Holding {
    let files: Vec<PathBuf> = case.files.iter().filter_map(|file| file.travels.clone()).collect();
    let answers = storescu(case, case.federation.nodes[A].dicom, &files);
    let unsent = case.names(files.iter().filter(|file| !answers.contains_key(*file)).cloned());
    println!("storescu sent {} files; it does not send {}: {unsent:?}", answers.len(), unsent.len());
    assert_eq!(unsent, names(&UNREAD_BY_STORESCU));
    let known = REFUSED_FROM_STORESCU.iter().map(|(file, why)| (*file, (*why).to_owned()));
    check_refused(case, refused(&answers), known.collect());
    check_warned(case, &answers);

    let objects = as_storescu_sends(case, &files);
    let mut holding = Holding::new();
    let mut unchanged = 0;
    for path in answers.iter().filter(|(_, why)| is_stored(why)).map(|(path, _)| path) {
        let file = case.of(path);
        let object = &objects[&file.travels_as];
        unchanged += usize::from(object.sha256 == case.sent[path].sha256);
        if !PUT_ASIDE.contains(&file.name.as_str()) {
            holding.entry(file.study.clone()).or_default().insert(object.sop_instance.clone(), object.clone());
        }
    }
    println!("storescu sent {unchanged} of them as they lie in the file");
    holding
}

// --- pynetdicom, into hospital C

/// What became of these files. The node must end no association.
fn pynetdicom(case: &Case, files: &[&PathBuf]) -> Answers {
    let port = case.federation.nodes[C].dicom.to_string();
    let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    let arguments: Vec<&str> = ["--port", &port].into_iter().chain(files.iter().map(String::as_str)).collect();
    let reports = python("store_all.py", &arguments).success().json_lines();
    let answer = |report: &Value| {
        let text = |name: &str| report[name].as_str().unwrap_or_default().to_owned();
        let answer = match text("outcome").as_str() {
            "stored" if text("status") == "B007" => WARNED.to_owned(),
            "stored" => STORED.to_owned(),
            "refused" => format!("{} {}", text("status"), text("detail")),
            "unsendable" | "not-accepted" => UNSENT.to_owned(),
            other => panic!("{other}: {report}"),
        };
        (PathBuf::from(text("file")), answer)
    };
    reports.iter().map(answer).collect()
}

/// Everything that pynetdicom can send, into hospital C; what it can't, or what is refused, is imported there. Then all
/// once more as they were before some of them got a UID of their own. Returns what C must have now.
fn through_pynetdicom(case: &Case) -> Holding {
    let travelling: Vec<&PathBuf> = case.files.iter().filter_map(|file| file.travels.as_ref()).collect();
    let all = pynetdicom(case, &travelling);
    let not_stored: Vec<PathBuf> = refused(&all).map(|(path, _)| path.clone()).collect();
    let (unsent, answers): (Answers, Answers) = all.into_iter().partition(|(_, why)| why == UNSENT);
    let unsent = case.names(unsent.into_keys());
    println!("pynetdicom sent {} files; it does not send {}: {unsent:?}", answers.len(), unsent.len());
    assert_eq!(unsent, names(&UNREAD_BY_PYNETDICOM));
    let known = REFUSED_FROM_PYNETDICOM.iter().map(|(file, status, why)| (*file, format!("{status} {why}")));
    check_refused(case, refused(&answers), known.collect());
    check_warned(case, &answers);
    let imported = import(case, &not_stored);

    let mut holding = Holding::new();
    for path in answers.iter().filter(|(_, why)| is_stored(why)).map(|(path, _)| path).chain(&imported) {
        let file = case.of(path);
        if PUT_ASIDE.contains(&file.name.as_str()) {
            continue;
        }
        let undeclared = UNDECLARED.iter().find(|(name, _)| *name == file.name);
        let declared = case.sent[path].clone();
        let transfer_syntax = undeclared.map_or(declared.transfer_syntax, |(_, syntax)| (*syntax).to_owned());
        let object = DataSet { transfer_syntax, sop_instance: file.travels_as.clone(), ..declared };
        holding.entry(file.study.clone()).or_default().insert(file.travels_as.clone(), object);
    }
    let states = case.federation.settle();
    check_counts(&states[C], &holding);
    check_again(case, &holding);
    holding
}

fn check_counts(status: &Value, holding: &Holding) {
    let objects: usize = holding.values().map(BTreeMap::len).sum();
    assert_eq!((&status["objects"], &status["studies"]), (&objects.into(), &holding.len().into()), "{status:#}");
}

/// An operator imports these. Returns what was taken.
fn import(case: &Case, paths: &[PathBuf]) -> Vec<PathBuf> {
    let texts: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    let arguments: Vec<&str> = ["import"].into_iter().chain(texts.iter().map(String::as_str)).collect();
    let said = case.federation.nodes[C].run(&arguments).exits_with(1);
    let refused = said.stderr.lines().filter_map(|line| line.strip_prefix("not taken: ")?.split_once(": "));
    let refused: BTreeMap<PathBuf, String> = refused.map(|(path, why)| (path.into(), why.to_owned())).collect();
    let known = NOT_IMPORTED.iter().map(|(file, why)| (*file, (*why).to_owned()));
    check_refused(case, refused.iter().map(|(path, why)| (path, why.as_str())), known.collect());
    let is_taken = |path: &&PathBuf| !refused.contains_key(*path) && !case.of(path).name.starts_with(PASSED_OVER);
    let taken: Vec<PathBuf> = paths.iter().filter(is_taken).cloned().collect();
    let aside = taken.iter().filter(|path| PUT_ASIDE.contains(&case.of(path).name.as_str())).count();
    said.says(&format!("{} objects stored", taken.len() - aside)).says(&format!("0 variants, {aside} quarantined"));
    taken
}

/// All files are sent again as they are. Those that are there change nothing, others under their UIDs are kept beside
/// them, and what is cut off is put aside again: none of it is a failure, so that no queue jams.
fn check_again(case: &Case, holding: &Holding) {
    let originals: Vec<&PathBuf> = case.files.iter().map(|file| &file.file).collect();
    let answers = pynetdicom(case, &originals);
    check_warned(case, &answers);
    let current: BTreeMap<&str, &DataSet> =
        holding.values().flatten().map(|(uid, object)| (uid.as_str(), object)).collect();
    let mut variants = BTreeSet::new();
    let mut cut_off = BTreeSet::new();
    for file in case.files.iter().filter(|file| is_stored(&answers[&file.file])) {
        let object = &case.sent[&file.file];
        match current.get(file.sop_instance.as_str()) {
            _ if PUT_ASIDE.contains(&file.name.as_str()) => drop(cut_off.insert((&file.sop_instance, object.bytes))),
            Some(known) if known.sha256 != object.sha256 => drop(variants.insert((&file.sop_instance, object.bytes))),
            Some(_) => {}
            None => panic!("{} was new", file.name),
        }
    }
    let states = case.federation.settle();
    check_counts(&states[C], holding);
    let aside = case.federation.nodes[C].ask(&["quarantine", "list", "--limit", "1000"]);
    let items = aside["items"].as_array().expect("items");
    let listed = |why: &str, (uid, bytes): &(&String, u64)| {
        let is_it = |item: &&Value| item["sop_instance"] == **uid && item["bytes"] == *bytes;
        items.iter().filter(is_it).any(|item| item["why"].as_str().is_some_and(|told| told.ends_with(why)))
    };
    let variants_listed = variants.iter().all(|what| listed("is here with other content; both are kept", what));
    assert!(variants_listed, "{variants:?}\n{aside:#}");
    assert!(cut_off.iter().all(|what| listed("cut off or broken; have it sent again", what)), "{cut_off:?}\n{aside:#}");
    println!("{} variants and {} cut off objects were put aside", variants.len(), cut_off.len());
}

// --- and from there by consent to hospital D

/// How a study's patient is asked for: by the hospital's own number, and where it has none by the number that the
/// hospital's node makes of the study.
fn patient(file: &RealFile, issuer: &str) -> String {
    let issuer = if file.issuer.is_empty() { issuer } else { &file.issuer };
    match file.patient_id.as_str() {
        "" => format!("hospital:{issuer}/?study/{}", file.study),
        number => format!("hospital:{issuer}/{number}"),
    }
}

/// D finds each patient's studies at the holder, is refused, gets the patient's consent, fetches all of them, and has
/// exactly what the holder was sent.
fn fetch_all(case: &Case, holder: usize, holding: &Holding) {
    let nodes = &case.federation.nodes;
    let seat = nodes[holder].seat;
    let mut patients: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for study in holding.keys() {
        let file = case.files.iter().find(|file| file.study == *study).expect("a file of the study");
        patients.entry(patient(file, seat.issuer)).or_default().insert(study);
    }
    let folder = case.folder(&format!("from-{}", seat.name));
    for (id, studies) in &patients {
        let found = nodes[D].history(id);
        let found = found.iter().filter(|study| study["site"] == seat.name);
        let found: BTreeMap<&str, u64> = found
            .map(|study| (study["study_uid"].as_str().expect("a UID"), study["objects"].as_u64().expect("a count")))
            .collect();
        let wanted = studies.iter().map(|study| (*study, holding[*study].len() as u64)).collect();
        assert_eq!(found, wanted, "what D finds under {id}");
        let study = studies.first().expect("a study");
        nodes[D].run(&["fetch", study, "--id", id, "--from", seat.name]).exits_with(1).says("refused by");
        case.federation.allow(holder, D, id);
        for study in studies {
            let to = folder.join(study).display().to_string();
            nodes[D].run(&["fetch", study, "--id", id, "--from", seat.name, "--to", &to]).success();
        }
    }
    let fetched = data_sets(&files_below(&folder));
    let mut by_study = Holding::new();
    for (path, object) in &fetched {
        let study = path.parent().and_then(Path::file_name).expect("a study's folder").to_string_lossy().into_owned();
        by_study.entry(study).or_default().insert(object.sop_instance.clone(), object.clone());
    }
    assert_eq!(by_study, *holding, "what {} was sent, and what D fetched from it", seat.name);
    println!("D fetched {} objects in {} studies of {} patients", fetched.len(), holding.len(), patients.len());
    check_dumps(case, holding, &fetched);
}

/// What dcmdump read before, it reads now.
fn check_dumps(case: &Case, holding: &Holding, fetched: &BTreeMap<PathBuf, DataSet>) {
    let unreadable: BTreeSet<&str> = case
        .files
        .iter()
        .filter(|file| file.travels.as_ref().is_some_and(|path| !case.readable.contains(path)))
        .map(|file| file.travels_as.as_str())
        .collect();
    let held = holding.values().flat_map(|study| study.keys());
    println!(
        "not readable by dcmdump before: {} of them",
        held.filter(|uid| unreadable.contains(uid.as_str())).count()
    );
    let to_read = fetched.iter().filter(|(_, object)| !unreadable.contains(object.sop_instance.as_str()));
    let paths: Vec<String> = to_read.map(|(path, _)| path.display().to_string()).collect();
    let arguments: Vec<&str> = ["-q"].into_iter().chain(paths.iter().map(String::as_str)).collect();
    dcmtk("dcmdump", &arguments).success();
}

/// WADO-RS gives every object of the node in the transfer syntax that it came in.
fn check_retrieval(case: &Case, holder: usize, holding: &Holding) {
    let node = &case.federation.nodes[holder];
    let studies: Vec<&str> = holding.keys().map(String::as_str).collect();
    let parts = retrieve(&node.url("/dicom-web"), &studies, &case.folder(&format!("wado-{}", node.seat.name)));
    let shown: BTreeMap<String, DataSet> =
        data_sets(&parts).into_values().map(|object| (object.sop_instance.clone(), object)).collect();
    assert_eq!(parts.len(), shown.len(), "an object was sent twice");
    assert_eq!(shown, holding.values().flatten().map(|(uid, object)| (uid.clone(), object.clone())).collect());
}

#[test]
fn real_files_in_every_transfer_syntax_reach_another_hospital_byte_for_byte() {
    let mut case = Case::new();
    let processes: Vec<u32> = case.federation.nodes.iter_mut().map(|node| node.process().id()).collect();
    let holdings = [(A, through_storescu(&case)), (C, through_pynetdicom(&case))];
    check_counts(&case.federation.settle()[A], &holdings[0].1);
    for (holder, holding) in &holdings {
        let syntaxes: BTreeSet<&str> =
            holding.values().flat_map(BTreeMap::values).map(|object| object.transfer_syntax.as_str()).collect();
        let known = PROPOSED.iter().map(|(syntax, _)| *syntax).filter(|syntax| *syntax != NEVER_STORED);
        assert_eq!(syntaxes, known.collect());
        check_retrieval(&case, *holder, holding);
        fetch_all(&case, *holder, holding);
    }
    for (node, process) in case.federation.nodes.iter_mut().zip(processes) {
        assert!(node.process().ended().is_none() && node.process().id() == process, "{} ended", node.seat.name);
        assert!(!node.log().contains("panicked"), "{} panicked: {}", node.seat.name, node.log());
    }
}
