//! A handful of seeds: every promise holds, a seed replays exactly, and faults put into the world are found.
//!
//! Not a campaign: for many seeds run the program, `tessera-simnet --campaign 30 --quiet`.

use std::collections::BTreeSet;

use tessera_simnet::journal::Promise;
use tessera_simnet::plan::{KINDS, Mutation, Plan, Size};
use tessera_simnet::world::{Report, run};

const SEEDS: std::ops::RangeInclusive<u64> = 1..=4;
const SWARM_SEEDS: std::ops::RangeInclusive<u64> = 1..=8;
/// Seeds that found a fault once, each with what it was.
const REGRESSIONS: [(u64, &str); 3] = [
    (29, "a core node applied to its ledger what its own Raft log had not synced, and did not start any more"),
    (30, "a core node applied to its ledger what its own Raft log had not synced"),
    (35, "a core node applied to its ledger what its own Raft log had not synced"),
];
/// The same among swarms of faults over four core nodes and four members.
const SWARM_REGRESSIONS: [(u64, &str); 2] = [
    (31, "a leader whose lease ran out and came back wrote a batch after a gap, and its Raft stopped"),
    (47, "a leader whose lease ran out and came back wrote a batch after a gap, and its Raft stopped"),
];
/// A mutation must be found within so many seeds.
const MUTATION_SEEDS: std::ops::RangeInclusive<u64> = 1..=6;

fn must_pass(report: &Report) {
    let story = report.record.story.join("\n");
    assert!(report.passed(), "seed {} broke a promise:\n{story}", report.plan.seed);
}

#[test]
fn promises_hold_and_each_seed_replays_exactly() {
    let (mut hashes, mut met) = (BTreeSet::new(), BTreeSet::new());
    for seed in SEEDS {
        let plan = Plan::first_page(seed);
        let report = run(&plan);
        must_pass(&report);
        assert_eq!(run(&plan), report, "seed {seed}: something outside the seed decided");
        assert!(hashes.insert(report.record.hash.to_hex().to_string()), "seed {seed} has another seed's history");
        met.extend(report.record.counters.into_keys());
    }
    // The plan's faults really happened, and the work was really done.
    for event in ["crash between write and sync", "partition", "packet lost", "nobody there", "certificate", "settled"]
    {
        assert!(met.contains(event), "no seed met: {event}; they met {met:?}");
    }
}

/// A core that tolerates a liar, members, and whatever the seeds let break.
#[test]
fn a_swarm_of_faults_breaks_no_promise() {
    let mut met = BTreeSet::new();
    for seed in SWARM_SEEDS {
        let plan = Plan::swarm(seed, Size { core: 4, members: 3 }, 1);
        let report = run(&plan);
        must_pass(&report);
        if seed == 1 {
            assert_eq!(run(&plan), report, "something outside the seed decided");
        }
        met.extend(report.record.counters.into_keys());
    }
    for kind in &KINDS {
        assert!(met.contains(kind.name), "no seed met: {}; they met {met:?}", kind.name);
    }
}

/// Those that follow hear of a newer certificate before the entries of the last one have reached them, again and again.
#[test]
fn wide_lines_and_many_certificates_leave_nobody_behind() {
    for seed in SEEDS.take(2) {
        must_pass(&run(&Plan::wide_area(seed)));
    }
}

#[test]
fn faults_that_were_found_stay_mended() {
    let first_pages = REGRESSIONS.map(|(seed, what)| (Plan::first_page(seed), what));
    let swarms = SWARM_REGRESSIONS.map(|(seed, what)| (Plan::swarm(seed, Size { core: 4, members: 4 }, 1), what));
    for (plan, what) in first_pages.into_iter().chain(swarms) {
        let (report, seed) = (run(&plan), plan.seed);
        assert!(report.passed(), "seed {seed}, which found that {what}: {:?}", report.record.breaches);
    }
}

/// The first seed in which the fault was found, and what it broke.
fn found(mutation: Mutation) -> Option<(u64, Promise)> {
    MUTATION_SEEDS.into_iter().find_map(|seed| {
        let report = run(&Plan::first_page(seed).with(mutation));
        report.record.breaches.first().map(|breach| (seed, breach.promise))
    })
}

#[test]
fn faults_in_the_world_are_found() {
    for (mutation, promise) in [
        (Mutation::AcknowledgeBeforeFsync, Promise::NothingLost),
        (Mutation::SignBeforeGuard, Promise::NothingForged),
        (Mutation::DateBeforeGuard, Promise::NothingForged),
        (Mutation::ForgetfulMachine, Promise::OneHistory),
    ] {
        let found = found(mutation);
        assert_eq!(found.map(|(_, promise)| promise), Some(promise), "{mutation:?}: {found:?}");
    }
}
