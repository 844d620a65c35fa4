//! What the figures were taken on: processors, memory, how long the disk takes, how busy it all is.
//! Printed first, so that no figure is copied without it.
//! Not a judgement: a busy machine is said to be busy, and measured all the same.

use std::fs::{self, File};
use std::io::Write;
use std::time::{Duration, Instant};

use super::scratch;

/// Appends that the disk is timed with, and their size.
const SYNCS: usize = 50;
const SYNC_BYTES: usize = 4096;

/// Prints one paragraph about this machine.
pub fn describe() -> anyhow::Result<()> {
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = kibibytes_of_memory().map_or("unknown".into(), |kib| format!("{:.0} GiB", kib / 1024.0 / 1024.0));
    let build = if cfg!(debug_assertions) { "dev profile" } else { "release profile" };
    println!("machine     {processors} processors ({}), {memory} of memory", model());
    println!("disk        fdatasync of a 4 kB append: {:.1} ms (median)", median_sync()?.as_secs_f64() * 1e3);
    println!("load        {} (1, 5, 15 minutes, before the measurement)", load());
    println!("program     tessera {}, {build}", env!("CARGO_PKG_VERSION"));
    Ok(())
}

fn kibibytes_of_memory() -> Option<f64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim().trim_end_matches("kB").trim().parse().ok()
}

fn model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split(": ").nth(1));
    model.unwrap_or("unknown model").to_owned()
}

/// Load averages of 1, 5 and 15 minutes.
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    match text.split(' ').take(3).collect::<Vec<_>>().join(", ") {
        empty if empty.is_empty() => "unknown".into(),
        load => load,
    }
}

fn median_sync() -> anyhow::Result<Duration> {
    let directory = scratch()?;
    let mut file = File::create(directory.path().join("sync"))?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        file.write_all(&[0; SYNC_BYTES])?;
        let begun = Instant::now();
        file.sync_data()?;
        times.push(begun.elapsed());
    }
    times.sort();
    Ok(times[SYNCS / 2])
}
