//! The command `tessera phantom`: generates with a progress bar and says what it wrote.
//!
//! What is generated lies in `plan`, how it is written in `folder`.

use std::io::Write;

use indicatif::{ProgressBar, ProgressStyle};

use super::folder::{PhantomSummary, write};
use super::{PhantomSpec, count, shared_patient};
use crate::cli;

pub fn run(options: cli::Phantom) -> anyhow::Result<()> {
    let cli::Phantom { out, seed, issuer, patients, slices } = options;
    let spec = PhantomSpec { seed, issuers: issuer, persons: patients, slices };
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} objects  {eta}")?;
    let bar = ProgressBar::new(count(&spec)).with_style(style);
    let written = write(&spec, &out, |_| bar.inc(1));
    bar.finish_and_clear();
    let PhantomSummary { objects, bytes } = written?;
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{objects} objects, {:.1} MB in {}", bytes as f64 / 1e6, out.display())?;
    writeln!(stdout, "a patient who was at every hospital: {}", shared_patient(&spec))?;
    Ok(())
}
