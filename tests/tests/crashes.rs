//! `kill -9` of every node of a federation while its hospitals ingest: a hospital that follows, the core's leader, core
//! nodes that don't lead or that receive images themselves, and the regulator's. What was answered with success is
//! there, each study is registered once, and who was not killed goes on without a pause.
//!
//! A node alone, killed at every moment of its life, is in `hospital`; whole outages of the core are in `partition`.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use tessera_tests::{
    A, ALLIANCE, B, C, Chance, D, Devices, Federation, REGULATOR, entries_of, kept_exactly, let_pass, registered_once,
    small_objects, study_entries,
};

/// At each of the two hospitals that ingest.
const STUDIES: u32 = 10;
const OBJECTS: u32 = 50;
/// Who is killed, in this order.
const VICTIMS: [Victim; 12] = [
    Victim::Node(D),
    Victim::Leader,
    Victim::Node(A),
    Victim::Node(REGULATOR),
    Victim::Node(D),
    Victim::Leader,
    Victim::Node(A),
    Victim::Led,
    Victim::Node(D),
    Victim::Leader,
    Victim::Node(A),
    Victim::Led,
];
/// Objects that each hospital is sent while somebody is killed. Two turns more are there: for a node that was spared,
/// and for the end.
const TURN: usize = (STUDIES * OBJECTS) as usize / (VICTIMS.len() + 2);
/// A node is up again by then, or in the middle of it.
const START: Duration = Duration::from_millis(1_200);

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Node(usize),
    Leader,
    /// A core node that does not lead.
    Led,
}

struct Case {
    federation: Federation,
    /// At A, which is in the core, and at D, which follows.
    devices: [(usize, Devices); 2],
    chance: Chance,
    killed: BTreeSet<usize>,
}

impl Case {
    fn new() -> Case {
        let federation = Federation::found(&ALLIANCE, &[]);
        let device = |holder: usize| {
            let seat = federation.nodes[holder].seat;
            let folder = federation.scratch.path().join(format!("small-{}", seat.name));
            let samples = small_objects(&folder, holder as u32 + 1, STUDIES, OBJECTS, seat.issuer);
            let name = format!("device-{}", seat.name);
            (holder, Devices::new(&name, federation.scratch.path(), federation.nodes[holder].dicom, samples))
        };
        let devices = [device(A), device(D)];
        Case { federation, devices, chance: Chance::from_environment(), killed: BTreeSet::new() }
    }

    /// The core node that the others follow now.
    fn leader(&self) -> usize {
        let named = |status: &Value| status["leader"].as_str().map(str::to_owned);
        let status = self.federation.nodes[C].await_status("a leader", |status| named(status).is_some());
        let name = named(&status).expect("a leader");
        self.federation.nodes.iter().position(|node| node.seat.name == name).expect("one of the nodes")
    }

    /// A core node that does not lead now: one that was never killed, if there is one.
    fn led(&self) -> usize {
        let leader = self.leader();
        let others = [A, B, C].into_iter().filter(|node| *node != leader);
        others.min_by_key(|node| self.killed.contains(node)).expect("two others")
    }

    /// Kills it in the middle of an ingest at both hospitals, and most times once more on its way up.
    fn kill(&mut self, victim: Victim) {
        let victim = match victim {
            Victim::Node(node) => node,
            Victim::Leader => self.leader(),
            Victim::Led => self.led(),
        };
        let (answers, twice, moment) =
            (1 + self.chance.below(TURN / 2), self.chance.below(3) > 0, self.chance.moment(START));
        let name = self.federation.nodes[victim].seat.name;
        println!("{name} is killed after {answers} answers{}", if twice { " and while it starts" } else { "" });
        for (_, device) in &mut self.devices {
            device.begin(TURN);
        }
        for (_, device) in &mut self.devices {
            device.wait_for_answers(answers);
        }
        self.federation.nodes[victim].kill();
        self.killed.insert(victim);
        for (holder, device) in &mut self.devices {
            let all = device.finish();
            assert!(all || *holder == victim, "{name} was killed, and another hospital stopped taking images");
        }
        if twice {
            self.federation.nodes[victim].launch();
            let_pass(moment);
            self.federation.nodes[victim].kill();
        }
        self.federation.nodes[victim].start();
    }

    /// What is left to send, and rest.
    fn end(&mut self) -> Vec<Value> {
        for (_, device) in &mut self.devices {
            device.begin(device.waiting());
        }
        for (_, device) in &mut self.devices {
            assert!(device.finish(), "a running node did not answer everything");
        }
        self.federation.settle()
    }
}

#[test]
fn whichever_node_is_killed_nothing_answered_is_lost_and_every_study_is_registered_once() {
    let mut case = Case::new();
    VICTIMS.into_iter().for_each(|victim| case.kill(victim));
    // Who leads is the core's affair, so one of it may have been spared.
    let all = BTreeSet::from([A, B, C, D, REGULATOR]);
    let spared: Vec<usize> = all.difference(&case.killed).copied().collect();
    spared.into_iter().for_each(|node| case.kill(Victim::Node(node)));
    assert_eq!(case.killed, all);
    let states = case.end();
    let nodes = &case.federation.nodes;
    assert!(states.iter().all(|status| status["state_digest"] == states[0]["state_digest"]), "the states differ");
    let mut entries = 0;
    for (holder, device) in &case.devices {
        let node = &nodes[*holder];
        assert_eq!(states[*holder]["objects"], STUDIES * OBJECTS, "{:#}", states[*holder]);
        kept_exactly(node, device.answered(), &case.federation.scratch.path().join(format!("kept-{}", node.seat.name)));
        // As C sees it, which holds none of them.
        entries += registered_once(&nodes[C], node.seat.issuer, device.answered());
    }
    assert_eq!(study_entries(&states), entries, "each revision is registered exactly once");
    assert_eq!(entries_of(&states[REGULATOR], "study"), entries);
    let size = |index: usize| states[index]["ledger_size"].as_u64().expect("a size");
    assert_eq!(size(REGULATOR), size(A), "the regulator has not caught up");
    for status in [&states[A], &states[B], &states[C], &states[D]] {
        assert_eq!(status["warnings"], Value::Array(Vec::new()), "{status:#}");
    }
}
