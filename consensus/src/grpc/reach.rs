//! Which core nodes answer, for whoever reads the log: one line when a node is lost, one when it is back.
//!
//! Raft calls a node that is away many times a second, and for as long as it is away. Each call's fate is at debug.
//! Not for decisions: whether to call again is the caller's affair.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::ids::NodeId;
use crate::raft::network::TransportError;
use crate::raft::types::CoreNode;

/// A node is called lost when nothing was answered for so long: a slow disk or a short pause is no loss.
const LOST_AFTER: Duration = Duration::from_secs(3);

/// Failures that lie further apart than this are not one silence: who does not lead calls seldom.
const APART: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
struct Silence {
    since: Instant,
    last: Instant,
    told: bool,
}

/// The nodes that do not answer at the moment; never more than the core has.
#[derive(Debug, Default)]
pub(super) struct Reach(Mutex<BTreeMap<NodeId, Silence>>);

impl Reach {
    /// A call had this outcome.
    pub fn note<T>(&self, peer: &CoreNode, outcome: &Result<T, TransportError>) {
        match outcome {
            Err(error @ (TransportError::Unreachable { .. } | TransportError::Timeout { .. })) => {
                tracing::debug!(peer = %peer.name, %error, "a call to a core node");
                if self.silent(peer.node, Instant::now()) {
                    tracing::warn!(peer = %peer.name, %error, "a core node is lost; it is tried until it is back");
                }
            }
            Ok(_) | Err(TransportError::Refused { .. }) => {
                if let Some(silent) = self.answered(peer.node, Instant::now()) {
                    tracing::info!(peer = %peer.name, silent_s = silent.as_secs(), "a core node is back");
                }
            }
        }
    }

    /// Whether it is lost from this moment on.
    fn silent(&self, node: NodeId, now: Instant) -> bool {
        let mut silences = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let silence = silences.entry(node).or_insert(Silence { since: now, last: now, told: false });
        if !silence.told && now.saturating_duration_since(silence.last) > APART {
            silence.since = now;
        }
        silence.last = now;
        let is_lost = !silence.told && now.saturating_duration_since(silence.since) >= LOST_AFTER;
        silence.told |= is_lost;
        is_lost
    }

    /// How long it was silent, if it was called lost.
    fn answered(&self, node: NodeId, now: Instant) -> Option<Duration> {
        let silence = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&node);
        silence.filter(|silence| silence.told).map(|silence| now.saturating_duration_since(silence.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Hash;

    #[test]
    fn a_loss_and_a_return_are_told_once() {
        let (reach, start) = (Reach::default(), Instant::now());
        let node = NodeId::new(Hash::blake3(&[b"a node"]));
        let at = |ms| start + Duration::from_millis(ms);
        // A short silence is none.
        assert!(!reach.silent(node, at(0)));
        assert_eq!(reach.answered(node, at(2_900)), None);
        let told = (0..200).filter(|n| reach.silent(node, at(3_000 + n * 150))).count();
        assert_eq!(told, 1);
        assert_eq!(reach.answered(node, at(40_000)), Some(Duration::from_secs(37)));
        assert_eq!(reach.answered(node, at(40_150)), None);
        // Two calls that failed, an hour apart.
        assert!(!reach.silent(node, at(50_000)) && !reach.silent(node, at(3_650_000)));
    }
}
