//! The first page on a handful of seeds: every promise holds, a seed replays exactly, and faults put into the world
//! are found. The campaign over many seeds is the program's, not this test's.

use std::collections::BTreeSet;

use tessera_simnet::journal::Promise;
use tessera_simnet::plan::{Mutation, Plan};
use tessera_simnet::world::{Report, run};

const SEEDS: std::ops::RangeInclusive<u64> = 1..=4;
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
        (Mutation::ForgetfulMachine, Promise::OneHistory),
    ] {
        let found = found(mutation);
        assert_eq!(found.map(|(_, promise)| promise), Some(promise), "{mutation:?}: {found:?}");
    }
}
