//! `tessera-simnet`: runs seeds, tells their stories, and prints the hash over all events.
//!
//! Exits with 1 when a promise was broken, and with `--twice` when a second run differs. A failing seed is run again
//! with fewer and fewer faults, and the shortest story that still fails is printed. `RUST_LOG=warn` shows on standard
//! error what the nodes log. Not for what a run consists of: that is in the library, [`tessera_simnet::plan`] and
//! [`tessera_simnet::world`].

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use tessera_simnet::plan::{Mutation, Plan, Size};
use tessera_simnet::scenario::Scenario;
use tessera_simnet::shrink::shrink;
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
    /// Run seeds until so many minutes are over.
    #[arg(long, value_name = "MINUTES")]
    campaign: Option<u64>,
    /// Core hospitals: 1, 3, 4 or 7.
    #[arg(long, default_value_t = 4)]
    core: u16,
    /// Hospitals that follow.
    #[arg(long, default_value_t = 4)]
    members: u16,
    /// Simulated minutes in which faults come.
    #[arg(long, default_value_t = 1)]
    minutes: u64,
    /// What breaks.
    #[arg(long, value_enum, default_value_t = Faults::Swarm)]
    faults: Faults,
    /// Run what this file says (simnet/scenarios has some); sizes, minutes and faults are its own.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["core", "members", "minutes", "faults"])]
    scenario: Option<PathBuf>,
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

#[derive(Clone, Copy, ValueEnum)]
enum Faults {
    /// A random subset of all faults for each seed.
    Swarm,
    /// Three core nodes and a member; one crash between write and sync, one partition.
    FirstPage,
    /// The same federation; syncs that fail, and full disks.
    FailingDisks,
    /// As the first page, under load over long lines.
    WideArea,
    /// Nothing.
    None,
}

impl Arguments {
    fn scenario(&self) -> Result<Option<Scenario>, String> {
        let Some(file) = &self.scenario else { return Ok(None) };
        let named = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
        let text = std::fs::read_to_string(file).map_err(|error| named(&error))?;
        Scenario::parse(&text).map(Some).map_err(|error| named(&error))
    }

    fn plan(&self, scenario: Option<&Scenario>, seed: u64) -> Plan {
        if let Some(scenario) = scenario {
            return Plan { mutation: self.mutation, ..scenario.plan(seed) };
        }
        let swarm = || Plan::swarm(seed, Size { core: self.core, members: self.members }, self.minutes);
        let plan = match self.faults {
            Faults::Swarm => swarm(),
            Faults::FirstPage => Plan::first_page(seed),
            Faults::FailingDisks => Plan::failing_disks(seed),
            Faults::WideArea => Plan::wide_area(seed),
            Faults::None => Plan { faults: Vec::new(), ..swarm() },
        };
        Plan { mutation: self.mutation, ..plan }
    }

    fn seeds(&self) -> impl Iterator<Item = u64> + use<> {
        let (first, count) = (self.seed, self.seeds);
        let until = self.campaign.map(|minutes| Instant::now() + Duration::from_secs(minutes * 60));
        (first..).enumerate().map_while(move |(done, seed)| {
            let goes_on = until.map_or((done as u64) < count, |until| Instant::now() < until);
            goes_on.then_some(seed)
        })
    }
}

fn main() -> ExitCode {
    let shown = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(shown).with_writer(std::io::stderr).without_time().init();
    let arguments = Arguments::parse();
    let scenario = match arguments.scenario() {
        Ok(scenario) => scenario,
        Err(why) => {
            eprintln!("tessera-simnet: {why}");
            return ExitCode::FAILURE;
        }
    };
    if let Some(scenario) = &scenario {
        println!("{}", scenario.about.trim());
    }
    let (mut failed, mut done, mut met) = (Vec::new(), 0u64, BTreeMap::<&str, u64>::new());
    for seed in arguments.seeds() {
        let plan = arguments.plan(scenario.as_ref(), seed);
        let begun = Instant::now();
        let report = run(&plan);
        print(&report, begun.elapsed(), arguments.quiet);
        done += 1;
        report.record.counters.iter().for_each(|(name, count)| *met.entry(name).or_default() += count);
        if arguments.twice && run(&plan) != report {
            println!("seed {seed}: the second run differs: something outside the seed decided");
            failed.push(seed);
        } else if !report.passed() {
            failed.push(seed);
            tell_shortest(report);
        }
    }
    if done > 1 {
        let met: Vec<String> = met.iter().map(|(name, count)| format!("{count} {name}")).collect();
        println!("{done} seeds, {} failed {failed:?}\nmet: {}", failed.len(), met.join(", "));
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tell_shortest(failed: Report) {
    let faults = failed.plan.faults.len();
    let shortest = shrink(failed);
    println!("  with {} of its {faults} faults it fails like this:", shortest.plan.faults.len());
    shortest.record.story.iter().for_each(|line| println!("  {line}"));
}

fn print(report: &Report, took: Duration, quiet: bool) {
    if !quiet {
        report.record.story.iter().for_each(|line| println!("{line}"));
        let counters = report.record.counters.iter().map(|(name, count)| format!("{count} {name}"));
        println!("met: {}", counters.collect::<Vec<_>>().join(", "));
    }
    let verdict = if report.passed() { "every promise held" } else { "BROKEN" };
    let seconds = report.simulated_ms as f64 / 1000.0;
    println!(
        "seed {}: {verdict} in {seconds:.1} simulated seconds ({:.0} times real time), {} events, event hash {}",
        report.plan.seed,
        seconds / took.as_secs_f64().max(0.001),
        report.record.events,
        report.record.hash
    );
    for breach in report.record.breaches.iter().filter(|_| quiet) {
        println!("  {breach}");
    }
}
