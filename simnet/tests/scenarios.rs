//! The library of scenarios: each is readable, happens as it is written, and breaks no promise.
//!
//! One seed for each here; `tessera-simnet --scenario FILE --seeds 100` runs more. Several threads, for runs share nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tessera_simnet::scenario::Scenario;
use tessera_simnet::world::{Report, run};

const SEED: u64 = 1;
/// The library must have these at least, by what they are about.
const NAMES: [&str; 10] = [
    "bridge-partition",
    "county-cut-off",
    "full-disks",
    "leader-in-2099",
    "majority-partition",
    "mass-return",
    "minority-partition",
    "one-way-line",
    "satellite",
    "slow-leader",
];

fn library() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let entries = std::fs::read_dir(&folder).expect("the library");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

fn name(file: &Path) -> String {
    file.file_stem().expect("a name").to_string_lossy().into_owned()
}

/// Runs one; what is wrong with it, in words.
fn faults_of(file: &Path) -> Result<Report, String> {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    let scenario = Scenario::parse(&text).map_err(|error| error.to_string())?;
    if scenario.about.trim().lines().count() < 2 {
        return Err("it does not say what it is about".into());
    }
    let plan = scenario.plan(SEED);
    let report = run(&plan);
    if !report.passed() {
        return Err(report.record.story.join("\n"));
    }
    let met: BTreeSet<&str> = report.record.counters.keys().copied().collect();
    for timed in &plan.faults {
        if !met.contains(timed.fault.name()) {
            return Err(format!("{} never happened", timed.fault.name()));
        }
    }
    if met.contains("fault left out") {
        return Err("something hit nobody".into());
    }
    Ok(report)
}

#[test]
fn every_scenario_happens_as_written_and_breaks_no_promise() {
    let files = library();
    assert_eq!(files.iter().map(|file| name(file)).collect::<Vec<_>>(), NAMES);
    let (left, wrong) = (Mutex::new(files), Mutex::new(Vec::new()));
    let next = || left.lock().expect("a lock").pop();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(file) = next() {
                    if let Err(why) = faults_of(&file) {
                        wrong.lock().expect("a lock").push(format!("{}: {why}", name(&file)));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("a lock");
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
