//! What other members were caught at: said in the log when it happens, and by `tessera status` until it is long past.
//!
//! A member that sends what no honest one sends has a broken node, a broken disk, or lies; its own operator may not know.
//! What it sent did no harm (it was refused before anything rested on it), so nothing more follows from an entry here
//! than that people are told. Not for what happens among honest nodes: lateness, lost lines, refusals, old states.
//!
//! Bounded: one entry for each member, and one line in the log for each member in [`LOGGED_EVERY_MS`], however much it
//! sends.

use std::collections::BTreeMap;
use std::fmt::Display;

use tessera_consensus::{NodeId, kernel};

use super::{Member, locked, rfc3339};
use crate::archive::ingest::now_ms;

/// How often the log tells of one member.
const LOGGED_EVERY_MS: u64 = 60_000;
/// How long the status goes on telling.
const SHOWN_MS: u64 = 7 * 24 * 3_600_000;
/// Of what a member was caught at, this much is kept: it may hold the member's own words.
const WHAT_CHARS_MAX: usize = 400;

/// See the module's header.
#[derive(Debug, Default)]
pub struct Suspicions(BTreeMap<NodeId, Suspicion>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Suspicion {
    times: u64,
    last_ms: u64,
    logged_ms: u64,
    what: String,
}

impl Suspicions {
    /// Notes what `peer` was caught at. Returns how often it was by now, when that is to be logged.
    fn note(&mut self, peer: NodeId, what: &str, now_ms: u64) -> Option<u64> {
        let new = || Suspicion { times: 0, last_ms: 0, logged_ms: 0, what: String::new() };
        let suspicion = self.0.entry(peer).or_insert_with(new);
        suspicion.times += 1;
        suspicion.last_ms = now_ms;
        let due = suspicion.times == 1 || now_ms.saturating_sub(suspicion.logged_ms) >= LOGGED_EVERY_MS;
        suspicion.what = what.to_owned();
        due.then(|| {
            suspicion.logged_ms = now_ms;
            suspicion.times
        })
    }

    fn shown(&self, now_ms: u64) -> impl Iterator<Item = (&NodeId, &Suspicion)> {
        self.0.iter().filter(move |(_, suspicion)| now_ms.saturating_sub(suspicion.last_ms) < SHOWN_MS)
    }
}

impl Member {
    /// A member sent what no honest one sends.
    pub fn suspect(&self, peer: NodeId, what: &dyn Display) {
        let what: String = what.to_string().chars().take(WHAT_CHARS_MAX).collect();
        let times = locked(&self.suspicions).note(peer, &what, now_ms());
        if let Some(times) = times {
            let name = self.peer_name(&peer);
            tracing::warn!(peer = name, node = peer.short(), times, what, "refused what a member sent");
        }
    }

    /// A member's name, as its operator knows it.
    pub fn peer_name(&self, peer: &NodeId) -> String {
        let record = kernel::node(self.replica.view(), peer).ok().flatten();
        record.map_or_else(|| peer.short(), |record| record.join.join.name)
    }

    /// Two ledgers where there must be one. Who of the two is wrong is for people to find out; it is said once in the
    /// log, and by the status from then on.
    pub fn set_divergence(&self, what: String) {
        if self.divergence.set(what).is_ok() {
            let what = self.divergence.get();
            tracing::error!(what, "the ledger here is not that of others");
        }
    }

    pub(super) fn suspicion_sentences(&self) -> Vec<String> {
        let shown: Vec<(NodeId, Suspicion)> =
            locked(&self.suspicions).shown(now_ms()).map(|(peer, suspicion)| (*peer, suspicion.clone())).collect();
        let sentence = |(peer, Suspicion { times, last_ms, what, .. }): (NodeId, Suspicion)| {
            format!(
                "{} sent what no sound node sends ({times} times, last at {}): {what}. It was refused and did no harm \
                 here; tell its operator",
                self.peer_name(&peer),
                rfc3339(last_ms)
            )
        };
        self.divergence.get().cloned().into_iter().chain(shown.into_iter().map(sentence)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId::new(tessera_consensus::Hash::blake3(&[&[number]]))
    }

    #[test]
    fn one_line_a_minute_for_each_member_and_the_newest_is_shown() {
        let mut suspicions = Suspicions::default();
        let mut logged = Vec::new();
        for step in 0..240 {
            logged.extend(suspicions.note(node(1), &format!("lie {step}"), 1_000_000 + step * 500));
        }
        assert_eq!(logged, [1, 121], "two minutes of it are two lines");
        assert_eq!(suspicions.note(node(2), "garbage", 1_000_000), Some(1), "another member's is another matter");
        let shown: Vec<_> = suspicions.shown(1_200_000).map(|(peer, s)| (*peer, s.times, s.what.as_str())).collect();
        let mut expected = vec![(node(1), 240, "lie 239"), (node(2), 1, "garbage")];
        expected.sort();
        assert_eq!(shown, expected);
        assert_eq!(suspicions.shown(1_200_000 + SHOWN_MS).count(), 0, "and not for ever");
    }
}
