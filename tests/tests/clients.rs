//! The test material itself: that the generated files say what their descriptions claim, and that the Python sender
//! delivers real files byte for byte, with DCMTK as receiver and reader. What other black-box tests build on.
//!
//! Not a test of Tessera: no node runs here. If these fail, results of the others mean nothing.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tessera_tests::{Process, Scratch, dcmtk, free_port, python, wait_until};

const START_DEADLINE: Duration = Duration::from_secs(20);

fn data_set_hashes(files: &[String]) -> BTreeSet<String> {
    let hashes = python("dataset_bytes.py", files).success().json_lines();
    hashes.iter().map(|line| line["sha256"].as_str().expect("a hash").to_string()).collect()
}

fn files_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a readable folder");
    entries.map(|entry| entry.expect("a readable entry").path().display().to_string()).collect()
}

/// DCMTK's receiver, keeping data sets byte for byte (`+B`) in whatever transfer syntax they come.
fn storescp(scratch: &Scratch) -> (Process, u16) {
    let port = free_port();
    let mut command = Command::new("storescp");
    command.args(["+xa", "+B", "+uf", "-od"]).arg(scratch.folder("received")).arg(port.to_string());
    let process = Process::start("storescp", scratch.path(), command);
    wait_until("storescp to answer", START_DEADLINE, || {
        (dcmtk("echoscu", &["127.0.0.1", &port.to_string()]).code == Some(0)).then_some(())
    });
    (process, port)
}

/// A file's texts: person's name, study description.
type Reader = fn(&str) -> Vec<String>;

/// Text elements as DCMTK reads them, in UTF-8.
fn dcmtk_reads(file: &str) -> Vec<String> {
    let dump = dcmtk("dcmdump", &["+U8", "+P", "0010,0010", "+P", "0008,1030", file]).success().stdout;
    dump.lines().filter_map(|line| Some(line.split_once('[')?.1.rsplit_once(']')?.0.to_string())).collect()
}

fn pydicom_reads(file: &str) -> Vec<String> {
    pydicom_reads_with(&[file])
}

/// Of a file that belies its label: what its bytes say.
fn pydicom_reads_as_gbk(file: &str) -> Vec<String> {
    pydicom_reads_with(&["--really", "gbk", file])
}

fn pydicom_reads_as_utf8(file: &str) -> Vec<String> {
    pydicom_reads_with(&["--really", "utf-8", file])
}

fn pydicom_reads_with(arguments: &[&str]) -> Vec<String> {
    let read = &python("read_texts.py", arguments).success().json_lines()[0];
    ["name", "description"].map(|key| read[key].as_str().expect("text").to_string()).to_vec()
}

#[test]
fn generated_files_declare_the_character_sets_that_they_use() {
    let scratch = Scratch::new();
    let files = python("make_charsets.py", &[scratch.path()]).success().json_lines();
    // Each by a reader that knows the set, and that is not the one that wrote it.
    let table: [(&str, Reader); 19] = [
        ("gb18030", dcmtk_reads),
        ("gb18030-four-bytes", dcmtk_reads),
        ("gbk", dcmtk_reads),
        ("gbk-second-bytes", dcmtk_reads),
        ("utf8", dcmtk_reads),
        ("utf8-three-groups", dcmtk_reads),
        ("iso2022-58", dcmtk_reads),
        ("iso2022-87", pydicom_reads),
        ("iso2022-13-87", pydicom_reads),
        ("iso2022-149", dcmtk_reads),
        ("latin1", dcmtk_reads),
        ("latin1-not-gbk", dcmtk_reads),
        ("gbk-as-latin1", pydicom_reads_as_gbk),
        ("gbk-undeclared", pydicom_reads_as_gbk),
        ("gbk-as-utf8", pydicom_reads_as_gbk),
        ("gbk-as-gb2312", pydicom_reads_as_gbk),
        ("utf8-as-latin1", pydicom_reads_as_utf8),
        ("utf8-as-gb18030", pydicom_reads_as_utf8),
        ("gbk-rare-as-latin1", pydicom_reads_as_gbk),
    ];
    assert_eq!(files.len(), table.len());
    for (file, (name, read)) in files.iter().zip(table) {
        let text = |key: &str| file[key].as_str().expect("text").to_string();
        assert!(text("file").ends_with(&format!("/{name}.dcm")), "{} stands where {name} should", text("file"));
        assert_eq!(read(&text("file")), [text("name"), text("description")], "{name}");
    }
}

#[test]
fn python_sends_real_files_byte_for_byte() {
    let scratch = Scratch::new();
    let (_storescp, port) = storescp(&scratch);
    let reports = python("store_all.py", &["--port", &port.to_string()]).success().json_lines();
    let count = |outcome: &str| reports.iter().filter(|report| report["outcome"] == outcome).count();
    assert!(count("stored") >= 200, "{} of {} stored", count("stored"), reports.len());
    assert!(count("unsendable") >= 5, "the broken files are among them");

    let sent: Vec<String> = reports
        .iter()
        .filter(|report| report["outcome"] == "stored")
        .map(|report| report["file"].as_str().expect("a path").to_string())
        .collect();
    assert_eq!(data_set_hashes(&files_in(&scratch.folder("received"))), data_set_hashes(&sent));
}
