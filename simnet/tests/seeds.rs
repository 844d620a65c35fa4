//! A handful of seeds: every promise holds, a seed replays exactly, and faults put into the world are found.
//!
//! Not a campaign: for many seeds run the program, `tessera-simnet --campaign 30 --quiet`.

use std::collections::BTreeSet;

use tessera_simnet::journal::Promise;
use tessera_simnet::plan::{Mutation, Plan, Size, kinds};
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
const SWARM_REGRESSIONS: [(u64, &str); 3] = [
    (31, "a leader whose lease ran out and came back wrote a batch after a gap, and its Raft stopped"),
    (351, "a member's clock was set back, and its patience with its peers was as long as the jump"),
    (47, "a leader whose lease ran out and came back wrote a batch after a gap, and its Raft stopped"),
];
/// A mutation must be found within so many seeds.
const MUTATION_SEEDS: std::ops::RangeInclusive<u64> = 1..=6;

/// A plan for each seed.
type Plans = fn(u64) -> Plan;

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
    for kind in kinds() {
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
    let swarm = |seed| Plan::swarm(seed, Size { core: 4, members: 4 }, 1).without_later_kinds();
    let swarms = SWARM_REGRESSIONS.map(|(seed, what)| (swarm(seed), what));
    for (plan, what) in first_pages.into_iter().chain(swarms) {
        let (report, seed) = (run(&plan), plan.seed);
        assert!(report.passed(), "seed {seed}, which found that {what}: {:?}", report.record.breaches);
    }
}

/// What a failed sync should have covered may be gone, and a process that met it has to end.
#[test]
fn failing_and_full_disks_break_no_promise() {
    for seed in SEEDS {
        let report = run(&Plan::failing_disks(seed));
        must_pass(&report);
        let ended = report.record.story.iter().filter(|line| line.contains(" ends: ")).count();
        assert!(ended >= 2, "seed {seed}: {ended} processes ended by their disks");
        assert!(report.record.counters.contains_key("refused for want of room"), "seed {seed}");
    }
}

/// The first seed in which the fault was found, and what it broke.
fn found(mutation: Mutation, plan: Plans) -> Option<(u64, Promise)> {
    MUTATION_SEEDS.into_iter().find_map(|seed| {
        let report = run(&plan(seed).with(mutation));
        report.record.breaches.first().map(|breach| (seed, breach.promise))
    })
}

#[test]
fn faults_in_the_world_are_found() {
    let (page, disks): (Plans, Plans) = (Plan::first_page, Plan::failing_disks);
    for (mutation, plan, promise) in [
        (Mutation::AcknowledgeBeforeFsync, page, Promise::NothingLost),
        (Mutation::IgnoreFailedSync, disks, Promise::NothingForged),
        (Mutation::SignBeforeGuard, page, Promise::NothingForged),
        (Mutation::DateBeforeGuard, page, Promise::NothingForged),
        (Mutation::ForgetfulMachine, page, Promise::OneHistory),
    ] {
        let found = found(mutation, plan);
        assert_eq!(found.map(|(_, promise)| promise), Some(promise), "{mutation:?}: {found:?}");
    }
}
