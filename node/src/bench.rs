//! `tessera bench`: figures, measured on this machine and side by side with a peer where there is one.
//! Each benchmark is a command that anybody can repeat; figures are quoted as ratios in BENCHMARKS.md.
//! Not here: tests. A figure is never an assertion, for machines are noisy.

use crate::cli::Bench;

pub async fn run(_bench: Bench) -> anyhow::Result<()> {
    anyhow::bail!("benchmarks are not part of this build yet")
}
