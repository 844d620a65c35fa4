//! `tessera bench`: figures, measured on this machine and side by side with a peer where there is one.
//! Each benchmark is a command that anybody can repeat; figures are quoted as ratios in BENCHMARKS.md.
//!
//! Nodes run as separate processes of this program and through the commands that a user has; nothing is switched off
//! for a figure. Everything lies in a temporary directory (`TMPDIR`), which should be on the disk that is meant.
//! Not here: tests. A figure is never an assertion, for machines are noisy.

mod alone;
mod fetch;
mod ingest;
mod machine;
mod query;
mod spread;
mod study;

use crate::cli::Bench;
use crate::ending::Ending;

/// Measures until it is done or this program is asked to end; its nodes and their directories go with it.
pub async fn run(bench: Bench) -> anyhow::Result<()> {
    let mut ending = Ending::listen()?;
    tokio::select! {
        measured = measure(bench) => measured,
        signal = ending.asked() => anyhow::bail!("ended by {signal} before everything was measured"),
    }
}

async fn measure(bench: Bench) -> anyhow::Result<()> {
    machine::describe()?;
    match bench {
        Bench::Ingest { objects, rounds } => ingest::run(objects, rounds).await,
        Bench::Fetch { megabytes, rounds } => fetch::run(megabytes, rounds).await,
        Bench::Query { records } => query::run(records).await,
    }
}

/// A directory that goes when the benchmark ends.
fn scratch() -> anyhow::Result<tempfile::TempDir> {
    Ok(tempfile::Builder::new().prefix("tessera-bench-").tempdir()?)
}
