//! How this program is asked to end: Ctrl-C, a service manager's SIGTERM, a terminal that closes (SIGHUP), and for the
//! nodes of a demo or benchmark the end of the program that started them.
//!
//! A signal that was ignored when the program started stays so, as `nohup` and shells that start something in the
//! background want it. Not for what is done then: that is each command's own affair.

use std::process::Stdio;

use anyhow::Context;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use tokio::process::Command;
use tokio::signal::unix::{self, SignalKind};

/// The signals that ask this program to end; listened to from the moment when this is made.
pub struct Ending {
    signals: Vec<(&'static str, unix::Signal)>,
}

impl Ending {
    pub fn listen() -> std::io::Result<Self> {
        let all = [
            ("SIGINT", Signal::INT, SignalKind::interrupt()),
            ("SIGTERM", Signal::TERM, SignalKind::terminate()),
            ("SIGHUP", Signal::HUP, SignalKind::hangup()),
        ];
        let ignored = ignored(&std::fs::read_to_string("/proc/self/status").unwrap_or_default());
        let heeded = all.into_iter().filter(|(_, signal, _)| ignored & (1 << (signal.as_raw() - 1)) == 0);
        let signals = heeded.map(|(name, _, kind)| Ok((name, unix::signal(kind)?)));
        Ok(Self { signals: signals.collect::<std::io::Result<_>>()? })
    }

    /// Resolves with the name of the first signal.
    pub async fn asked(&mut self) -> &'static str {
        let each = self.signals.iter_mut().map(|(name, signal)| {
            Box::pin(async move {
                match signal.recv().await {
                    Some(()) => *name,
                    // There is no runtime any more that could tell.
                    None => std::future::pending().await,
                }
            })
        });
        futures::future::select_all(each).await.0
    }
}

/// The bits of the signals that this process ignores, from the kernel's `status` file of it.
fn ignored(status: &str) -> u64 {
    let bits = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    bits.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0)
}

/// A command of this program that runs `tessera node` and ends with whoever starts it, even if that one is killed.
///
/// The kernel watches the *thread* that spawns it; so it is to be spawned from the future that `main` blocks on. It has
/// a process group of its own: Ctrl-C is for the starter, who ends it in its own way.
pub fn node_until_we_end(program: &std::path::Path, dir: &std::path::Path) -> Command {
    let mut command = Command::new(program);
    command.arg("node").arg("--dir").arg(dir).arg("--until-parent-ends").arg(std::process::id().to_string());
    command.stdin(Stdio::null()).process_group(0).kill_on_drop(true);
    command
}

/// Makes the end of `parent`, which started this process, a SIGTERM to it.
pub fn end_with(parent: u32) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM)).context("asking to end with the parent process")?;
    // It may have ended before the kernel was asked.
    let now = getppid().map(|parent| parent.as_raw_pid());
    anyhow::ensure!(now == i32::try_from(parent).ok(), "the process that started this node has ended already");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read() {
        let table = [("SigBlk:\t0000\nSigIgn:\t0000000000001001\n", 0x1001), ("SigIgn:\tcat\n", 0), ("", 0)];
        for (status, expected) in table {
            assert_eq!(ignored(status), expected, "{status}");
        }
    }
}
