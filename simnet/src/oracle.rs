//! The checks that stand outside: what every node did is held against what every other did and against what was
//! promised. The oracle knows nothing of how nodes work; it sees what they apply, answer and believe.
//!
//! Continuous: one history (any two states of one size are equal), certificates match that history, a cosignature
//! leaves only under a durable guard, an origin settles only what was certified. At the end: convergence, every
//! command exactly once and in order, receipts kept, outboxes empty, certificates verify, histories complete.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use tessera_consensus::checkpoint::{Certificate, Checkpoint, SignedCheckpoint};
use tessera_consensus::kernel::Outcome;
use tessera_consensus::replica::{Replica, ReplicaError};
use tessera_consensus::wire::v1::Leaf;
use tessera_consensus::{Hash, LedgerIndex, LedgerSize, NodeId, Sequence, Stream};
use tessera_federation::history;

use crate::founding::Founding;
use crate::journal::{Journal, Promise};
use crate::network::Host;
use crate::runtime::lock;

/// Clones look at the same run.
#[derive(Clone)]
pub struct Oracle {
    seen: Arc<Mutex<Seen>>,
    journal: Journal,
}

#[derive(Default)]
struct Seen {
    /// Root and digest of each size, with who had them first.
    history: BTreeMap<LedgerSize, (Host, Checkpoint)>,
    /// What an origin was told was committed.
    receipts: BTreeMap<LedgerIndex, Hash>,
    /// Matters that were durable in their origin's catalogue.
    acknowledged: BTreeSet<(Host, u32)>,
    certified: LedgerSize,
}

impl Oracle {
    pub fn new(journal: Journal) -> Self {
        Self { seen: Arc::default(), journal }
    }

    /// `host` stands at this state.
    pub fn applied(&self, host: Host, checkpoint: Checkpoint) {
        let bytes = tessera_consensus::wire::encode(&checkpoint);
        self.journal.event("applied", &[&host.bytes(), &bytes]);
        let first = lock(&self.seen).history.entry(checkpoint.size).or_insert((host, checkpoint)).to_owned();
        if first.1 != checkpoint {
            let what = format!("{host} and {} differ at {} entries", first.0, checkpoint.size.0);
            self.journal.breach(Promise::OneHistory, what);
        }
    }

    /// `host` believes this certificate and keeps it.
    pub fn certified(&self, host: Host, certificate: &Certificate) {
        let checkpoint = *certificate.checkpoint();
        self.applied(host, checkpoint);
        let mut seen = lock(&self.seen);
        seen.certified = seen.certified.max(checkpoint.size);
    }

    /// `host` sends a cosignature of `checkpoint` with this time; its guard record on the disk is `guarded`. What was
    /// signed before the record went on to a larger size may still be on its way.
    pub fn cosigned(&self, host: Host, signed: (Checkpoint, u64), guarded: Option<(Checkpoint, u64)>) {
        let (checkpoint, time_seconds) = signed;
        let later = |(record, at): (Checkpoint, u64)| record.size > checkpoint.size && at >= time_seconds;
        if !guarded.is_some_and(|record| record == signed || later(record)) {
            let what = format!(
                "{host} signed {} entries at {time_seconds} s before its guard record was durable, which is {guarded:?}",
                checkpoint.size.0
            );
            self.journal.breach(Promise::NothingForged, what);
        }
    }

    /// An origin was told that its command is committed here.
    pub fn receipt(&self, host: Host, index: LedgerIndex, command: Hash) {
        self.journal.event("receipt", &[&host.bytes(), &index.0.to_be_bytes()]);
        let earlier = *lock(&self.seen).receipts.entry(index).or_insert(command);
        if earlier != command {
            self.journal.breach(Promise::NothingLost, format!("two commands have receipts for entry {}", index.0));
        }
    }

    /// The gateway of `host` may answer with success for this matter: it is on the disk.
    pub fn acknowledged(&self, host: Host, matter: u32) {
        self.journal.event("acknowledged", &[&host.bytes(), &matter.to_be_bytes()]);
        lock(&self.seen).acknowledged.insert((host, matter));
    }

    /// The outbox of `host` deleted the command at `index`.
    pub fn settled(&self, host: Host, index: LedgerIndex) {
        self.journal.event("settled", &[&host.bytes(), &index.0.to_be_bytes()]);
        let certified = lock(&self.seen).certified;
        if !certified.contains(index) {
            self.journal.breach(Promise::NothingLost, format!("{host} deleted entry {} uncertified", index.0));
        }
    }

    /// All checks of the end. `ends` are the nodes as they stand.
    pub fn conclude(&self, founding: &Founding, ends: &[NodeEnd]) {
        for end in ends {
            if let Err(error) = self.conclude_node(founding, end) {
                let what = format!("{}'s ledger cannot be read: {error}", end.host);
                self.journal.breach(Promise::OneHistory, what);
            }
        }
        for (host, matter) in &lock(&self.seen).acknowledged {
            let end = ends.iter().find(|end| end.host == *host);
            if !end.is_some_and(|end| end.matters.contains_key(matter)) {
                self.journal.breach(Promise::NothingLost, format!("{host} lost matter {matter} after saying success"));
            }
        }
    }

    fn conclude_node(&self, founding: &Founding, end: &NodeEnd) -> Result<(), ReplicaError> {
        self.applied(end.host, end.replica.checkpoint()?);
        self.certificate_verifies(end)?;
        if end.waiting > 0 {
            let what = format!("{} commands wait in {}'s outbox", end.waiting, end.host);
            self.journal.breach(Promise::Liveness, what);
        }
        let applied = self.walk(end)?;
        self.matters_once(founding, end, &applied);
        self.histories_complete(founding, end)
    }

    fn certificate_verifies(&self, end: &NodeEnd) -> Result<(), ReplicaError> {
        let Some(certificate) = end.replica.certificate() else {
            self.journal.breach(Promise::Liveness, format!("{} has no certificate", end.host));
            return Ok(());
        };
        // As a stranger would: from the note's text, with the core that the ledger names.
        let note = certificate.signed().to_note();
        let verified = SignedCheckpoint::parse(&note)?.verify(&end.replica.core()?, end.replica.federation());
        if let Err(error) = verified {
            self.journal.breach(Promise::NothingForged, format!("{}'s certificate: {error}", end.host));
        }
        if certificate.checkpoint().size != end.replica.size() {
            let what = format!("{} is certified up to {:?} only", end.host, certificate.checkpoint().size);
            self.journal.breach(Promise::Liveness, what);
        }
        Ok(())
    }

    /// Reads the whole ledger: streams without gaps or repeats, receipts kept. Returns what was applied, by origin.
    fn walk(&self, end: &NodeEnd) -> Result<BTreeMap<NodeId, BTreeSet<LedgerIndex>>, ReplicaError> {
        let mut next: BTreeMap<Stream, Sequence> = BTreeMap::new();
        let mut applied: BTreeMap<NodeId, BTreeSet<LedgerIndex>> = BTreeMap::new();
        let receipts = lock(&self.seen).receipts.clone();
        for index in (0..end.replica.size().0).map(LedgerIndex) {
            let entry = end.replica.entry(index)?.ok_or(ReplicaError::Corrupt { what: "ledger" })?;
            let command = Leaf::from_bytes(&entry.leaf)?.command;
            if receipts.get(&index).is_some_and(|promised| *promised != command.hash()) {
                let what = format!("{} holds another command at {} than its origin was told", end.host, index.0);
                self.journal.breach(Promise::NothingLost, what);
            }
            let (stream, sequence) = (command.body.stream, command.body.sequence);
            let Some(placed) = end.replica.placed(&stream, sequence)?.filter(|placed| placed.index == index) else {
                continue; // A repeat, which the machine refused.
            };
            let expected = next.entry(stream).or_default();
            if *expected != sequence {
                let what = format!("{:?} follows {:?} in {stream:?} on {}", sequence, expected, end.host);
                self.journal.breach(Promise::OneHistory, what);
            }
            *expected = sequence.next();
            if placed.outcome == Outcome::Applied {
                applied.entry(stream.node).or_default().insert(index);
            }
        }
        let known = end.replica.size();
        if let Some((index, _)) = receipts.iter().find(|(index, _)| !known.contains(**index)) {
            let what = format!("{} lacks entry {}, of which an origin has a receipt", end.host, index.0);
            self.journal.breach(Promise::NothingLost, what);
        }
        Ok(applied)
    }

    /// Each matter of this origin took effect in exactly one entry.
    fn matters_once(&self, founding: &Founding, end: &NodeEnd, applied: &BTreeMap<NodeId, BTreeSet<LedgerIndex>>) {
        let own = applied.get(&founding.identity(end.host).node).cloned().unwrap_or_default();
        let settled: BTreeSet<LedgerIndex> = end.matters.values().flatten().copied().collect();
        if settled.len() != end.matters.len() || settled != own {
            let what = format!(
                "{}: {} matters, {} of them settled, {} entries applied",
                end.host,
                end.matters.len(),
                settled.len(),
                own.len()
            );
            self.journal.breach(Promise::OneHistory, what);
        }
    }

    /// A patient's history from this replica holds what all sites registered, and nothing unreadable.
    fn histories_complete(&self, founding: &Founding, end: &NodeEnd) -> Result<(), ReplicaError> {
        let history = history::look_up(&end.replica, &founding.patients)?;
        if let Some(problem) = history.problems.first() {
            self.journal.breach(Promise::NothingLost, format!("a history on {}: {problem:?}", end.host));
        }
        if history.studies.len() != end.studies_everywhere {
            let what = format!(
                "histories on {} show {} studies, {} were registered",
                end.host,
                history.studies.len(),
                end.studies_everywhere
            );
            self.journal.breach(Promise::NothingLost, what);
        }
        Ok(())
    }
}

/// A node when the run is over.
pub struct NodeEnd {
    pub host: Host,
    pub replica: Arc<Replica>,
    /// Commands that its outbox still holds.
    pub waiting: u64,
    /// Its matters, with the entry in which each took effect.
    pub matters: BTreeMap<u32, Option<LedgerIndex>>,
    /// Studies that all origins together registered.
    pub studies_everywhere: usize,
}

#[cfg(test)]
mod tests {
    use tessera_consensus::{Epoch, FederationId};

    use super::*;

    #[test]
    fn a_cosignature_leaves_only_under_its_own_record_or_a_later_one() {
        let checkpoint = |size: u64, content: &[u8]| Checkpoint {
            federation: FederationId::new(Hash::blake3(&[b"federation"])),
            size: LedgerSize(size),
            root: Hash::sha256(&[content]),
            digest: Hash::blake3(&[content]),
            epoch: Epoch(1),
        };
        let signed = (checkpoint(7, b"ours"), 100);
        for (guarded, holds, what) in [
            (None, false, "no record"),
            (Some((checkpoint(6, b"before"), 100)), false, "a record of less"),
            (Some((checkpoint(7, b"theirs"), 100)), false, "other content of the size"),
            (Some((checkpoint(7, b"ours"), 97)), false, "dated anew before the record"),
            (Some((checkpoint(7, b"ours"), 103)), false, "a date that was never recorded"),
            (Some((checkpoint(8, b"after"), 99)), false, "a later size with an earlier date"),
            (Some((checkpoint(7, b"ours"), 100)), true, "its record"),
            (Some((checkpoint(8, b"after"), 100)), true, "a later record"),
        ] {
            let oracle = Oracle::new(Journal::default());
            oracle.cosigned(Host(1), signed, guarded);
            assert_eq!(!oracle.journal.has_breaches(), holds, "{what}");
        }
    }
}
