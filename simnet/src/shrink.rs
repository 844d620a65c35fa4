//! A failing plan made smaller: faults are left out for as long as the same promise still breaks.
//!
//! First halves, then single ones, as in delta debugging (Zeller and Hildebrandt, 2002), with a bound on the runs.

use crate::plan::Plan;
use crate::world::{Report, run};

/// Runs that shrinking one plan may take.
const RUNS_MAX: usize = 200;

/// The smallest failing run that was found; the given one if nothing can be left out.
pub fn shrink(failed: Report) -> Report {
    let Some(promise) = failed.record.breaches.first().map(|breach| breach.promise) else { return failed };
    let breaks = |plan: &Plan| {
        let report = run(plan);
        report.record.breaches.first().is_some_and(|breach| breach.promise == promise).then_some(report)
    };
    let (mut smallest, mut runs) = (failed, 0);
    let mut part = smallest.plan.faults.len().div_ceil(2);
    while part > 0 {
        let mut from = 0;
        while from < smallest.plan.faults.len() && runs < RUNS_MAX {
            let mut plan = smallest.plan.clone();
            plan.faults.drain(from..(from + part).min(plan.faults.len()));
            runs += 1;
            match breaks(&plan) {
                Some(report) => smallest = report,
                None => from += part,
            }
        }
        part /= 2;
    }
    smallest
}
