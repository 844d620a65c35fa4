//! One `tessera` node under test: its directory, its ports, its process, and the command line that talks to it.
//!
//! Driven as a hospital would drive it: made by `tessera init`, run by `tessera node`, asked by `tessera status`,
//! sent to by DCMTK. What several nodes do together is in `federation`. Invariant: a node that was started answers,
//! or the test has failed with its log.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::clients::{dcmtk, python};
use crate::{Outcome, Process, Scratch, free_port, run, tessera, tessera_program, viewer_folder, wait_until};

/// How long a node may take from its start to its first answer.
pub const START_DEADLINE: Duration = Duration::from_secs(60);
/// How long a node or a federation may take over a piece of work.
pub const WORK_DEADLINE: Duration = Duration::from_secs(120);
/// Short, so that a test need not wait for a study to be called complete.
const QUIET_PERIOD_MS: u64 = 500;

/// Folders of a node that a test may put on small disks: its ledger, and what a core node has beside it.
pub const SMALL_DISKS: [&str; 2] = ["federation", "core"];

/// What a node is in its federation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Core,
    Member,
    Observer,
}

impl Role {
    pub fn word(self) -> &'static str {
        match self {
            Role::Core => "core",
            Role::Member => "member",
            Role::Observer => "observer",
        }
    }
}

/// What `tessera init` is told of a node.
#[derive(Clone, Copy, Debug)]
pub struct Seat {
    /// The site, and the node's name.
    pub name: &'static str,
    /// The issuer of its patient numbers.
    pub issuer: &'static str,
    pub role: Role,
    /// Whether others can reach it. A node that can't be reached only dials out.
    pub reachable: bool,
}

impl Seat {
    pub const fn new(name: &'static str, issuer: &'static str, role: Role) -> Seat {
        Seat { name, issuer, role, reachable: true }
    }

    /// The same, without an address where anybody could reach it.
    pub const fn dials_out_only(self) -> Seat {
        Seat { reachable: false, ..self }
    }
}

pub struct Node {
    pub seat: Seat,
    pub directory: PathBuf,
    pub dicom: u16,
    pub http: u16,
    /// Where other core nodes connect; 0 if it is none.
    pub core: u16,
    /// Where peers connect; 0 if it only dials out.
    pub peer: u16,
    logs: PathBuf,
    filter: Option<String>,
    small_disks_mib: Option<u32>,
    process: Option<Process>,
}

impl Node {
    /// Makes the node's directory and keys; it is not running yet.
    #[track_caller]
    pub fn init(scratch: &Scratch, seat: Seat) -> Node {
        let directory = scratch.path().join(seat.name);
        let port_if = |wanted: bool| if wanted { free_port() } else { 0 };
        let (dicom, http) = (free_port(), free_port());
        let (core, peer) = (port_if(seat.role == Role::Core), port_if(seat.reachable));
        let mut arguments: Vec<String> = vec!["init".into(), "--accept-unknown-senders".into()];
        let mut option = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        option("--dir", directory.display().to_string());
        option("--site", seat.name.into());
        option("--legal-name", format!("测试医院 ({})", seat.name));
        option("--issuer", seat.issuer.into());
        option("--dicom", format!("127.0.0.1:{dicom}"));
        option("--http", format!("127.0.0.1:{http}"));
        option("--quiet-period-ms", QUIET_PERIOD_MS.to_string());
        option("--users-role", "physician".into());
        if let Some(viewer) = viewer_folder() {
            option("--viewer", viewer.display().to_string());
        }
        if core != 0 {
            option("--core", format!("127.0.0.1:{core}"));
        }
        if peer != 0 {
            option("--peer", format!("/ip4/127.0.0.1/tcp/{peer}"));
        }
        tessera(&arguments).success();
        let logs = scratch.path().to_path_buf();
        Node { seat, directory, dicom, http, core, peer, logs, filter: None, small_disks_mib: None, process: None }
    }

    /// What the node logs from its next start on (`TESSERA_LOG`).
    pub fn log_filter(&mut self, filter: &str) {
        self.filter = Some(filter.to_owned());
    }

    /// From its next start on its ledger, and a core node's log, lie on file systems of their own, in memory and each of
    /// this size.
    pub fn ledger_on_small_disks(&mut self, mib: u32) {
        self.small_disks_mib = Some(mib);
    }

    /// Takes so much of one away, or all that there is.
    #[track_caller]
    pub fn fill_small_disk(&mut self, disk: &str, mib: usize) {
        let filler = self.small_disk_filler(disk);
        match std::fs::write(&filler, vec![0; mib << 20]) {
            Err(error) if error.kind() != ErrorKind::StorageFull => panic!("{}: {error}", filler.display()),
            _ => {}
        }
    }

    #[track_caller]
    pub fn empty_small_disk(&mut self, disk: &str) {
        std::fs::remove_file(self.small_disk_filler(disk)).expect("the filler is there");
    }

    /// As the node's process sees it.
    fn small_disk_filler(&mut self, disk: &str) -> PathBuf {
        let root = Path::new("/proc").join(self.process().id().to_string()).join("root");
        let folder = self.directory.join(disk);
        root.join(folder.strip_prefix("/").expect("an absolute path")).join("filler")
    }

    /// In a mount namespace of its own, where these folders are small file systems with what was in them.
    fn on_small_disks(&self, mib: u32) -> Command {
        const MOUNTED: &str = "set -e; for disk in \"$1\"/federation \"$1\"/core; do cp -a \"$disk\" \"$disk.before\"; \
                               mount -t tmpfs -o size=\"$2\"m tmpfs \"$disk\"; cp -a \"$disk.before/.\" \"$disk\"; done; \
                               exec \"$3\" node --dir \"$1\"";
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", MOUNTED, "sh"]);
        command.arg(&self.directory).arg(mib.to_string()).arg(tessera_program());
        command
    }

    /// How many files the running program may have open from now on: none beyond those that it has, where it has more.
    #[track_caller]
    pub fn open_files_max(&mut self, files: u32) {
        let pid = self.process().id().to_string();
        let mut command = Command::new("prlimit");
        command.args(["--pid", &pid, &format!("--nofile={files}:")]);
        run(command).success();
    }

    /// Starts the program and waits until it answers.
    #[track_caller]
    pub fn start(&mut self) {
        self.launch();
        wait_until(&format!("{} to answer", self.seat.name), START_DEADLINE, || {
            let ended = self.process().ended();
            assert!(ended.is_none(), "{} ended: {}", self.seat.name, self.log());
            self.status()
        });
    }

    /// Starts the program, which may be killed before it answers anybody.
    #[track_caller]
    pub fn launch(&mut self) {
        self.process = Some(self.process_of_its_own());
    }

    fn process_of_its_own(&self) -> Process {
        let command = || {
            let mut command = Command::new(tessera_program());
            command.arg("node").arg("--dir").arg(&self.directory);
            command
        };
        let mut command = self.small_disks_mib.map_or_else(command, |mib| self.on_small_disks(mib));
        if let Some(filter) = &self.filter {
            command.env("TESSERA_LOG", filter);
        }
        Process::start(self.seat.name, &self.logs, command)
    }

    /// Starts the program, which must end by itself with an error, sooner or later. Returns what it said in this life.
    #[track_caller]
    pub fn start_in_vain(&mut self) -> String {
        let before = self.log().len();
        let mut process = self.process_of_its_own();
        let ended = wait_until(&format!("{} to end by itself", self.seat.name), WORK_DEADLINE, || process.ended());
        let said = self.log().split_off(before);
        assert_eq!(ended.code(), Some(1), "{} ended with {ended}: {said}", self.seat.name);
        assert!(!said.contains("panicked"), "{} panicked: {said}", self.seat.name);
        said
    }

    /// `kill -9`: no farewell, nothing flushed.
    #[track_caller]
    pub fn kill(&mut self) {
        self.process.take().unwrap_or_else(|| panic!("{} is not running", self.seat.name)).kill();
    }

    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    #[track_caller]
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().unwrap_or_else(|| panic!("{} is not running", self.seat.name))
    }

    /// Everything that it logged since the test began, over all its lives.
    pub fn log(&self) -> String {
        let path = self.logs.join(format!("{}.log", self.seat.name));
        String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
    }

    /// Runs a command of the program on this node's directory.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        let directory = self.directory.display().to_string();
        tessera(&[arguments, &["--dir", &directory]].concat())
    }

    /// A command whose answer is JSON.
    #[track_caller]
    pub fn ask(&self, arguments: &[&str]) -> Value {
        let outcome = self.run(&[arguments, &["--json"]].concat()).success();
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|e| panic!("{}: {e}", outcome.command))
    }

    /// `None` while it does not answer.
    pub fn status(&self) -> Option<Value> {
        let outcome = self.run(&["status", "--json"]);
        (outcome.code == Some(0)).then(|| serde_json::from_str(&outcome.stdout).expect("status is JSON"))
    }

    /// Waits until its status is as wanted.
    #[track_caller]
    pub fn await_status(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = None;
        let seen = crate::poll(WORK_DEADLINE, || {
            last = self.status();
            last.clone().filter(|status| wanted(status))
        });
        seen.unwrap_or_else(|| panic!("{} was in vain awaited for: {what}\n{last:#?}", self.seat.name))
    }

    /// Sends files and folders by DCMTK's `storescu`; every object must be answered with success.
    #[track_caller]
    pub fn send<P: AsRef<Path>>(&self, paths: &[P]) {
        let port = self.dicom.to_string();
        let paths = paths.iter().map(|path| path.as_ref().display().to_string());
        let options = ["-aet", "TEST", "-aec", "TESSERA", "+sd", "+r", "-R", "-xs", "127.0.0.1", &port];
        let arguments: Vec<String> = options.into_iter().map(str::to_owned).chain(paths).collect();
        dcmtk("storescu", &arguments).success();
    }

    /// The studies that it shows of a patient, by number; fails if it can't tell.
    #[track_caller]
    pub fn history(&self, id: &str) -> Vec<Value> {
        self.ask(&["history", "--id", id])["studies"].as_array().expect("studies").clone()
    }

    /// SOP Instance UIDs of a study, as its DICOMweb service lists them.
    #[track_caller]
    pub fn instances(&self, study: &str) -> Vec<String> {
        let url = self.url("/dicom-web");
        let lines = python("dicomweb_check.py", &["--url", &url, "instances", study]).success().json_lines();
        lines.iter().map(|line| line["SOPInstanceUID"][0].as_str().expect("a UID").to_owned()).collect()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.http)
    }
}

/// How many entries of a kind the ledger of this status has.
pub fn entries_of(status: &Value, kind: &str) -> u64 {
    let entries = status["entries"].as_array().expect("entries by kind");
    entries.iter().filter(|entry| entry[0] == kind).filter_map(|entry| entry[1].as_u64()).sum()
}

/// Whether a warning of this status contains the text.
pub fn warns(status: &Value, text: &str) -> bool {
    let warnings = status["warnings"].as_array().expect("warnings");
    warnings.iter().any(|warning| warning.as_str().is_some_and(|warning| warning.contains(text)))
}
