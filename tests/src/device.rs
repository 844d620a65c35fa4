//! Devices with a queue of objects, as a hospital has them: what was answered with success they forget for good.
//!
//! So whoever answered must keep: nothing is sent twice, and a test sees at the end what is missing. The senders are
//! DCMTK's storescu, several at once, each with its share of the queue over one association; one that gets no answer
//! stops.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::clients::storescu_answers;
use crate::node::WORK_DEADLINE;
use crate::samples::Sample;
use crate::{Process, wait_until};

/// As many as send at once.
const SENDERS: usize = 4;

pub struct Devices {
    name: String,
    logs: PathBuf,
    port: u16,
    /// In the order in which they are sent.
    waiting: VecDeque<Sample>,
    answered: Vec<Sample>,
    sending: Vec<Process>,
    turns: u32,
}

impl Devices {
    /// Devices that send explicit little endian to this port; their logs go to `logs`.
    pub fn new(name: &str, logs: &Path, port: u16, samples: Vec<Sample>) -> Devices {
        let (waiting, answered, sending) = (samples.into(), Vec::new(), Vec::new());
        Devices { name: name.to_owned(), logs: logs.to_owned(), port, waiting, answered, sending, turns: 0 }
    }

    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// What was answered with success.
    pub fn answered(&self) -> &[Sample] {
        &self.answered
    }

    /// Begins to send the next `count` objects.
    #[track_caller]
    pub fn begin(&mut self, count: usize) {
        assert!(self.sending.is_empty(), "{} send already", self.name);
        self.turns += 1;
        let turn: Vec<&Path> = self.waiting.iter().take(count).map(|sample| sample.file.as_path()).collect();
        for sender in 0..SENDERS.min(turn.len()) {
            let mut command = Command::new("storescu");
            command.args(["-v", "-R", "-xe", "-aec", "TESSERA", "127.0.0.1", &self.port.to_string()]);
            command.args(turn.iter().skip(sender).step_by(SENDERS));
            let name = format!("{}-{}-{sender}", self.name, self.turns);
            self.sending.push(Process::start(&name, &self.logs, command));
        }
    }

    /// Waits until so many objects of this turn were answered, or all senders have ended.
    #[track_caller]
    pub fn wait_for_answers(&mut self, count: usize) {
        wait_until(&format!("{} to have {count} answers", self.name), WORK_DEADLINE, || {
            let ended = self.sending.iter_mut().all(|sender| sender.ended().is_some());
            let answers: usize = self.sending.iter().map(|sender| stored(sender).len()).sum();
            (answers >= count || ended).then_some(())
        });
    }

    /// Waits until this turn has ended and forgets what was answered. Returns whether all of it was.
    #[track_caller]
    pub fn finish(&mut self) -> bool {
        let mut all = true;
        for mut sender in std::mem::take(&mut self.sending) {
            let status = wait_until(&format!("{} to end", self.name), WORK_DEADLINE, || sender.ended());
            all &= status.success();
            for file in stored(&sender) {
                let place = self.waiting.iter().position(|sample| sample.file == file);
                self.answered.extend(place.and_then(|place| self.waiting.remove(place)));
            }
        }
        all
    }
}

/// The files that this sender had success for so far.
fn stored(sender: &Process) -> Vec<PathBuf> {
    let answers = storescu_answers(&sender.log());
    answers.into_iter().filter(|answer| answer.status.as_deref() == Some("Success")).map(|answer| answer.file).collect()
}
