//! A process under test: started with its output in a file, watched, ended softly or killed without warning.
//!
//! Invariant: no process outlives its handle. nextest ends a whole process group when a test takes too long, which
//! covers the case in which no destructor runs.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::wait::{poll, wait_until};

/// How much of a log a failed test shows.
const LOG_LINES_SHOWN: usize = 80;
/// How long a process that was asked to end may take before it is killed.
const END_DEADLINE: Duration = Duration::from_secs(30);

pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; standard output and error are appended to `NAME.log` in `folder`, so that one log tells the
    /// whole story of a node that was killed and started again.
    #[track_caller]
    pub fn start(name: &str, folder: &Path, mut command: Command) -> Process {
        let log = folder.join(format!("{name}.log"));
        let output: File = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap_or_else(|e| panic!("{}: {e}", log.display()));
        let errors = output.try_clone().expect("a second handle of the log");
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = command.spawn().unwrap_or_else(|e| panic!("{name}: {command:?}: {e}"));
        Process { name: name.to_string(), child, log }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("our own child can be waited for")
    }

    /// Waits until the log contains `text`; fails at once if the process ends before.
    #[track_caller]
    pub fn wait_for_log(&mut self, text: &str, deadline: Duration) {
        let what = format!("{} to log {text:?}", self.name);
        let ended = wait_until(&what, deadline, || {
            let ended = self.ended();
            if self.log().contains(text) { Some(None) } else { ended.map(Some) }
        });
        if let Some(status) = ended {
            panic!("{} ended ({status}) before it logged {text:?}", self.name);
        }
    }

    /// `kill -9`: no handler runs, nothing is flushed. Returns when the process is gone.
    pub fn kill(&mut self) {
        self.child.kill().expect("our own child can be killed");
        self.child.wait().expect("our own child can be waited for");
    }

    /// Asks it to end (SIGTERM), as a service manager does, and waits for it.
    #[track_caller]
    pub fn end(&mut self) -> ExitStatus {
        self.signal("TERM");
        wait_until(&format!("{} to end when asked to", self.name), END_DEADLINE, || self.ended())
    }

    /// Stops it where it is (SIGSTOP): to its peers it looks cut off. `signal("CONT")` lets it go on.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.id().to_string()).status();
        assert!(status.expect("kill(1) is there").success(), "{}: signal {name}", self.name);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
            let state = self.child.try_wait();
            eprintln!("--- {} ({state:?}), end of {}:\n{}\n---", self.name, self.log.display(), shown.join("\n"));
        }
        // A destructor must not panic; a child that is gone already is what we want.
        if self.child.kill().is_ok() {
            poll(END_DEADLINE, || self.child.try_wait().ok().flatten());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scratch;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn is_alive(id: u32) -> bool {
        Path::new(&format!("/proc/{id}")).exists()
    }

    #[test]
    fn logs_kills_and_leaves_nothing_behind() {
        let scratch = Scratch::new();
        let mut process = Process::start("shell", scratch.path(), shell("echo ready; echo oh >&2; exec sleep 1000"));
        process.wait_for_log("ready", Duration::from_secs(10));
        process.wait_for_log("oh", Duration::from_secs(10));
        assert!(process.ended().is_none());
        process.kill();
        assert!(process.ended().is_some());

        let again = Process::start("shell", scratch.path(), shell("exec sleep 1000"));
        let id = again.id();
        assert!(again.log().contains("ready"), "the log goes on");
        drop(again);
        assert!(!is_alive(id));
    }

    #[test]
    fn ends_softly() {
        let scratch = Scratch::new();
        let script = "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.01; done";
        let mut process = Process::start("soft", scratch.path(), shell(script));
        process.wait_for_log("ready", Duration::from_secs(10));
        assert_eq!(process.end().code(), Some(7));
        assert!(process.log().contains("bye"));
    }

    #[test]
    fn does_not_wait_for_the_dead() {
        let scratch = Scratch::new();
        let mut process = Process::start("dead", scratch.path(), shell("exit 3"));
        let wait = std::panic::AssertUnwindSafe(|| process.wait_for_log("ready", Duration::from_secs(1_000)));
        std::panic::catch_unwind(wait).expect_err("it fails at once");
    }
}
