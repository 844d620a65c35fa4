//! What the nodes of a core log while one of them is away: enough to see it, and little enough to be read.
//!
//! Not here: what `tessera status` tells of it, and that work goes on meanwhile, which is `partition`'s.

use serde_json::Value;
use tessera_tests::{Federation, Role, Seat, WORK_DEADLINE, wait_until};

const CORE: [Seat; 3] = [
    Seat::new("hospital-a", "SITEA", Role::Core),
    Seat::new("hospital-b", "SITEB", Role::Core),
    Seat::new("hospital-c", "SITEC", Role::Core),
];
/// Seconds for which one of them is away: at four calls a second, some eighty to it from the leader alone.
const AWAY_S: u64 = 20;
/// Lines that each of the others may log in that time and until it is back: the loss, the return, a change of leaders.
const LINES_MAX: usize = 10;

fn lines_with(log: &str, text: &str) -> usize {
    log.lines().filter(|line| line.contains(text)).count()
}

/// The seconds of the certified time in a status, within a day.
fn certified_s(status: &Value) -> u64 {
    let time = status["certified_at"].as_str().expect("a certified time");
    let parts = time[11..19].split(':').map(|part| part.parse::<u64>().expect("hh:mm:ss"));
    parts.fold(0, |all, part| all * 60 + part)
}

#[test]
fn a_core_node_that_is_away_is_told_once_and_so_is_its_return() {
    let mut federation = Federation::found(&CORE, &[]);
    federation.nodes[2].kill();
    let before: Vec<String> = federation.nodes[..2].iter().map(|node| node.log()).collect();
    let since = |federation: &Federation, node: usize| federation.nodes[node].log()[before[node].len()..].to_owned();
    let start = certified_s(&federation.nodes[0].status().expect("it answers"));
    federation.nodes[0].await_status("certificates of a core of two", |status| {
        (certified_s(status) + 86_400 - start) % 86_400 >= AWAY_S
    });
    let lost: usize = (0..2).map(|node| lines_with(&since(&federation, node), "a core node is lost")).sum();
    assert!(lost > 0, "nobody told that hospital-c is lost:\n{}{}", since(&federation, 0), since(&federation, 1));

    federation.nodes[2].start();
    federation.settle();
    wait_until("its return to be told", WORK_DEADLINE, || {
        (0..2).any(|node| since(&federation, node).contains("a core node is back")).then_some(())
    });
    for node in 0..2 {
        let log = since(&federation, node);
        assert!(log.lines().count() <= LINES_MAX, "{} lines:\n{log}", log.lines().count());
        assert!(lines_with(&log, "a core node is lost") <= 1, "{log}");
    }
}
