//! `tessera bench`: figures, measured on this machine and side by side with a peer where there is one.

use crate::cli::Bench;

pub async fn run(_bench: Bench) -> anyhow::Result<()> {
    anyhow::bail!("benchmarks are not part of this build yet")
}
