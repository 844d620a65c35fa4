//! Other people's DICOM programs: DCMTK's tools, and the Python clients of `tests/py` in bootstrap's environment.
//!
//! They are what a hospital has; a test that only our own client passes proves little.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::program::{Outcome, run};

/// Runs one of DCMTK's tools (`storescu`, `echoscu`, `findscu`, `dcmdump`, ...) to its end.
#[track_caller]
pub fn dcmtk<A: AsRef<OsStr>>(tool: &str, arguments: &[A]) -> Outcome {
    let mut command = Command::new(tool);
    command.args(arguments);
    run(command)
}

/// What became of one file that `storescu` sent.
pub struct Answer {
    pub file: PathBuf,
    /// Of the response, in DCMTK's words; `None` while there is none.
    pub status: Option<String>,
}

/// From the log of `storescu -v`, in the order in which the files were sent.
pub fn storescu_answers(log: &str) -> Vec<Answer> {
    let mut answers: Vec<Answer> = Vec::new();
    for line in log.lines() {
        if let Some((_, file)) = line.split_once("Sending file: ") {
            answers.push(Answer { file: file.into(), status: None });
        } else if let Some((_, status)) = line.split_once("Received Store Response (")
            && let Some(answer) = answers.last_mut()
        {
            answer.status = Some(status.trim_end_matches(')').to_owned());
        }
    }
    answers
}

/// Runs a program of `tests/py` to its end.
#[track_caller]
pub fn python<A: AsRef<OsStr>>(program: &str, arguments: &[A]) -> Outcome {
    let mut command = Command::new(python_program());
    command.arg(tests_folder().join("py").join(program)).args(arguments);
    run(command)
}

/// Every object of these studies as a DICOMweb service at this address sends them, written as files below `to`.
#[track_caller]
pub fn retrieve(dicomweb: &str, studies: &[&str], to: &Path) -> Vec<PathBuf> {
    let to = to.display().to_string();
    let arguments = [&["--url", dicomweb, "retrieve", "--to", &to], studies].concat();
    let parts = python("dicomweb_check.py", &arguments).success().json_lines();
    parts.iter().map(|part| PathBuf::from(part["file"].as_str().expect("a file"))).collect()
}

/// An answer's body by curl(1), and what two of its write-out variables say besides.
#[track_caller]
pub fn curl(url: &str, arguments: &[&str], told: [&str; 2]) -> [String; 3] {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "60", "--write-out", &format!("\n{}", told.join("\n"))]);
    command.args(arguments).arg(url);
    let said = run(command).success().stdout;
    let mut parts: Vec<String> = said.rsplitn(3, '\n').map(str::to_owned).collect();
    parts.reverse();
    parts.try_into().unwrap_or_else(|_| panic!("three parts: {said}"))
}

/// What a browser would be sent for this address, by Python's own HTTP client.
#[track_caller]
pub fn page(url: &str) -> String {
    let program = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=30).read().decode())";
    let mut command = Command::new(python_program());
    command.args(["-c", program, url]);
    run(command).success().stdout
}

/// The interpreter that has the pinned clients: `TESSERA_PYTHON`, or the one that bootstrap made.
#[track_caller]
pub fn python_program() -> PathBuf {
    let path = match std::env::var_os("TESSERA_PYTHON") {
        Some(path) => PathBuf::from(path),
        None => cache_folder().join("venv/bin/python"),
    };
    assert!(path.is_file(), "{} is not there: tests/bootstrap.sh test", path.display());
    path
}

/// The folder of this crate, for programs and files that tests bring along.
pub fn tests_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where bootstrap puts what it installs.
pub fn cache_folder() -> PathBuf {
    match (std::env::var_os("TESSERA_CACHE"), std::env::var_os("HOME")) {
        (Some(folder), _) => PathBuf::from(folder),
        (None, Some(home)) => PathBuf::from(home).join(".cache/tessera"),
        (None, None) => panic!("neither TESSERA_CACHE nor HOME is set"),
    }
}
