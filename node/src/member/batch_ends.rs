//! Batch ends on their way from Raft to the certifier, in a queue of their own.
//!
//! Raft applies on a task that must not wait, and at a start whatever the ledger lacks, before anyone reads. So the
//! queue takes all and keeps the newest [`BATCH_ENDS_MAX`], as many as a certifier remembers: without the newest one
//! the certifier would propose, for ever, a size that its guard has gone beyond. What remains keeps its order.

use std::collections::VecDeque;
use std::sync::Mutex;

use tessera_consensus::certify::{BATCH_ENDS_MAX, BatchEnd};
use tokio::sync::Notify;

use super::locked;

#[derive(Default)]
pub struct BatchEnds {
    waiting: Mutex<VecDeque<BatchEnd>>,
    arrived: Notify,
}

impl BatchEnds {
    /// Never waits; the oldest one gives way.
    pub fn push(&self, end: BatchEnd) {
        let mut waiting = locked(&self.waiting);
        if waiting.len() == BATCH_ENDS_MAX {
            waiting.pop_front();
        }
        waiting.push_back(end);
        drop(waiting);
        self.arrived.notify_one();
    }

    /// All that wait, the oldest first.
    pub fn take(&self) -> VecDeque<BatchEnd> {
        std::mem::take(&mut *locked(&self.waiting))
    }

    /// Completes when one has come since the last time that it completed.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tessera_consensus::certify::{Certifier, Identity, Input, Output, View};
    use tessera_consensus::checkpoint::{Checkpoint, Core, CoreMember, SigningGuard};
    use tessera_consensus::clock::Clocks;
    use tessera_consensus::keys::SigningKey;
    use tessera_consensus::{Epoch, FederationId, Hash, LedgerSize, NodeId, UnixMillis};

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

    fn end(size: u64) -> BatchEnd {
        let bytes = size.to_be_bytes();
        let (root, digest) = (Hash::sha256(&[&bytes]), Hash::blake3(&[&bytes]));
        BatchEnd { size: LedgerSize(size), root, digest, epoch: Epoch(1) }
    }

    #[test]
    fn it_keeps_the_newest_in_order_and_wakes_who_reads() {
        let ends = BatchEnds::default();
        assert_eq!(ends.arrived().now_or_never(), None);
        let last = BATCH_ENDS_MAX as u64 + 500;
        (0..=last).for_each(|size| ends.push(end(size)));
        assert_eq!(ends.arrived().now_or_never(), Some(()));
        let sizes: Vec<u64> = ends.take().iter().map(|end| end.size.0).collect();
        assert_eq!(sizes, (501..=last).collect::<Vec<_>>());
        assert!(ends.take().is_empty());
    }

    /// The ledger's directory was removed: Raft applies its whole log again before the certifier runs.
    #[test]
    fn a_core_of_one_whose_ledger_is_applied_anew_certifies_its_newest_size() {
        let last = 3 * BATCH_ENDS_MAX as u64;
        let (node, federation) = (NodeId::new(Hash::blake3(&[b"node"])), FederationId::new(Hash::blake3(&[b"trial"])));
        let (name, checkpoint_key) = ("a.example".parse().expect("a name"), SigningKey::from_seed([1; 32]));
        let member = CoreMember { node, name, checkpoint_key: checkpoint_key.public() };
        let identity = Identity { node, federation, name: member.name.clone(), checkpoint_key };
        let cores = [Core::new(Epoch(1), vec![member]).expect("a core")];
        let BatchEnd { size, root, digest, epoch } = end(last);
        let newest = Checkpoint { federation, size, root, digest, epoch };
        let guard = SigningGuard::new().may_sign(&newest, NOW.seconds() - 60).expect("the first record");
        let ends = BatchEnds::default();
        (0..=last).for_each(|size| ends.push(end(size)));

        let mut certifier = Certifier::new(identity, guard, None, NOW);
        let inputs = ends.take().into_iter().map(Input::Applied).chain([Input::LeaderChanged { leader: Some(node) }]);
        let mut step = |input| certifier.step(Clocks { wall: NOW, boot_ms: 0 }, input, View { cores: &cores });
        let outputs: Vec<Output> = inputs.flat_map(&mut step).collect();
        let [Output::PersistGuard { guard }] = &outputs[..] else { panic!("{outputs:?}") };
        assert_eq!(guard.last(), Some(&(newest, NOW.seconds())));
    }
}
