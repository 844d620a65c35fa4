//! Runs a command to its end and keeps what it said: the `tessera` program first of all.
//!
//! Output goes to files, not pipes, so that a talkative command can't block; a command that does not end in time is
//! killed and fails the test.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::wait::poll;

/// No command of a test may take longer. Long work belongs in a `Process`.
const COMMAND_DEADLINE: Duration = Duration::from_secs(300);

pub struct Outcome {
    pub command: String,
    /// `None` if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// Fails the test, with all that the command said, unless it exited with 0.
    #[track_caller]
    pub fn success(self) -> Outcome {
        self.exits_with(0)
    }

    #[track_caller]
    pub fn exits_with(self, code: i32) -> Outcome {
        assert_eq!(
            self.code,
            Some(code),
            "exit code of {}\n--- stdout\n{}\n--- stderr\n{}",
            self.command,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Fails the test unless standard output or error contains the text.
    #[track_caller]
    pub fn says(self, text: &str) -> Outcome {
        assert!(
            self.stdout.contains(text) || self.stderr.contains(text),
            "{} should say {text:?}\n--- stdout\n{}\n--- stderr\n{}",
            self.command,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Standard output as one JSON value a line.
    #[track_caller]
    pub fn json_lines(&self) -> Vec<serde_json::Value> {
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{}: {e}: {line}", self.command));
        self.stdout.lines().filter(|line| !line.trim().is_empty()).map(parse).collect()
    }
}

/// Runs a command to its end.
#[track_caller]
pub fn run(mut command: Command) -> Outcome {
    let [stdout, stderr] = [(); 2].map(|()| tempfile::NamedTempFile::new().expect("a temporary file"));
    let described = format!("{command:?}");
    command.stdin(Stdio::null());
    command.stdout(stdout.reopen().expect("our own file")).stderr(stderr.reopen().expect("our own file"));
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{described}: {e}"));
    let status = poll(COMMAND_DEADLINE, || child.try_wait().expect("our own child can be waited for"));
    let text = |path: &Path| String::from_utf8_lossy(&std::fs::read(path).expect("our own file")).into_owned();
    let (stdout, stderr) = (text(stdout.path()), text(stderr.path()));
    let Some(status) = status else {
        child.kill().expect("our own child can be killed");
        child.wait().expect("our own child can be waited for");
        panic!("{described} did not end in {COMMAND_DEADLINE:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}");
    };
    Outcome { command: described, code: status.code(), stdout, stderr }
}

/// Runs `tessera ARGUMENTS...` to its end.
#[track_caller]
pub fn tessera<A: AsRef<std::ffi::OsStr>>(arguments: &[A]) -> Outcome {
    let mut command = Command::new(tessera_program());
    command.args(arguments);
    run(command)
}

/// The built program: `TESSERA_BIN`, or the one that lies in the build directory that this test was built in.
#[track_caller]
pub fn tessera_program() -> PathBuf {
    let path = match std::env::var_os("TESSERA_BIN") {
        Some(path) => PathBuf::from(path),
        None => build_folder().join("tessera"),
    };
    assert!(path.is_file(), "{} is not there: cargo build -p tessera-node", path.display());
    path
}

/// `.../debug`, from `.../debug/deps/this-test-0123456789abcdef`.
fn build_folder() -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    test.ancestors().nth(2).expect("cargo puts tests two folders down").to_path_buf()
}

/// The OHIF viewer's pages, if bootstrap could fetch them.
pub fn viewer_folder() -> Option<PathBuf> {
    let folder = match std::env::var_os("TESSERA_VIEWER_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => crate::clients::cache_folder().join("ohif/current/dist"),
    };
    folder.join("index.html").is_file().then_some(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Outcome {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run(command)
    }

    #[test]
    fn keeps_what_a_command_said() {
        let outcome = shell("echo '{\"a\": 1}'; echo; echo '[2]'; echo oh >&2; exit 4").exits_with(4).says("oh");
        assert_eq!(outcome.json_lines(), [serde_json::json!({"a": 1}), serde_json::json!([2])]);
        assert_eq!(shell("kill -9 $$").code, None);
    }

    #[test]
    fn is_not_blocked_by_much_output() {
        assert_eq!(shell("yes tessera | head -c 1000000").success().stdout.len(), 1_000_000);
    }

    #[test]
    #[should_panic(expected = "exit code of")]
    fn failure_shows() {
        shell("exit 1").success();
    }
}
