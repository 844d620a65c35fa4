//! `tessera-simnet --seed N`: runs one seed, tells its story, and prints the hash over all events.
//!
//! Exits with 1 when a promise was broken, and with `--twice` when a second run differs. Not for what a run consists
//! of: that is in the library, [`tessera_simnet::plan`] and [`tessera_simnet::world`].

use std::process::ExitCode;

use clap::Parser;
use tessera_simnet::plan::{Mutation, Plan};
use tessera_simnet::world::{Report, run};

/// The shipped code of a federation on simulated time, network and disks.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The seed: it decides everything, and replays exactly.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds to run, counting up from the first.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Run each seed twice and compare the event hashes.
    #[arg(long)]
    twice: bool,
    /// Put a fault into the world that the checks must find.
    #[arg(long, value_enum)]
    mutation: Option<Mutation>,
    /// Print only one line for each seed.
    #[arg(long)]
    quiet: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut all_well = true;
    for seed in arguments.seed..arguments.seed.saturating_add(arguments.seeds) {
        let plan = Plan { mutation: arguments.mutation, ..Plan::first_page(seed) };
        let report = run(&plan);
        print(&report, arguments.quiet);
        all_well &= report.passed();
        if arguments.twice && run(&plan) != report {
            println!("seed {seed}: the second run differs: something outside the seed decided");
            all_well = false;
        }
    }
    if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(report: &Report, quiet: bool) {
    if !quiet {
        report.record.story.iter().for_each(|line| println!("{line}"));
        let counters = report.record.counters.iter().map(|(name, count)| format!("{count} {name}"));
        println!("met: {}", counters.collect::<Vec<_>>().join(", "));
    }
    let verdict = if report.passed() { "every promise held" } else { "BROKEN" };
    let seconds = report.simulated_ms as f64 / 1000.0;
    println!(
        "seed {}: {verdict} in {seconds:.1} simulated seconds, {} events, event hash {}",
        report.plan.seed, report.record.events, report.record.hash
    );
    for breach in report.record.breaches.iter().filter(|_| quiet) {
        println!("  {breach}");
    }
}
