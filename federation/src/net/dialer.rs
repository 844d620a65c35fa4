//! Whom to dial, and when again. Pure: time comes in as milliseconds since the start.
//!
//! Members with addresses are kept connected, [`DIALLED_PEERS_MAX`] at most. Each node prefers them in an order of
//! its own, so that a thousand followers do not all lean on the same few. A peer that fails is left alone for twice
//! as long each time; a connection counts as a success only when it lasted, since one that is closed at once (the
//! other side does not know this node yet) must not be tried again at once either.

use std::collections::HashMap;

use libp2p::{Multiaddr, PeerId};

use super::DIALLED_PEERS_MAX;

/// First pause after a failure.
const PAUSE_MS_MIN: u64 = 250;
/// Longest pause.
const PAUSE_MS_MAX: u64 = 30_000;
/// A connection that lasted so long was a good one.
const LASTING_MS: u64 = 5_000;
/// Failures after which a peer no longer takes the place of another.
const FAILURES_TOLERATED: u32 = 3;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Idle { not_before_ms: u64 },
    Dialling,
    Connected { since_ms: u64 },
}

struct Target {
    addresses: Vec<Multiaddr>,
    failures: u32,
    state: State,
}

/// See the module's header.
pub struct Dialer {
    me: PeerId,
    /// In this node's order of preference.
    order: Vec<PeerId>,
    targets: HashMap<PeerId, Target>,
}

impl Dialer {
    pub fn new(me: PeerId) -> Self {
        Self { me, order: Vec::new(), targets: HashMap::new() }
    }

    /// Replaces the targets; those that stay keep their history. Peers without addresses are tracked, never dialled.
    pub fn set_targets(&mut self, targets: impl Iterator<Item = (PeerId, Vec<Multiaddr>)>) {
        let mut old = std::mem::take(&mut self.targets);
        for (peer, addresses) in targets {
            let (failures, state) =
                old.remove(&peer).map_or((0, State::Idle { not_before_ms: 0 }), |t| (t.failures, t.state));
            self.targets.insert(peer, Target { addresses, failures, state });
        }
        let me = self.me.to_bytes();
        self.order = self.targets.keys().copied().collect();
        self.order.sort_by_cached_key(|peer| *blake3::hash(&[&me[..], &peer.to_bytes()].concat()).as_bytes());
    }

    /// Whom to dial now; they count as being dialled from here on.
    pub fn due(&mut self, now_ms: u64) -> Vec<(PeerId, Vec<Multiaddr>)> {
        let mut places = DIALLED_PEERS_MAX;
        let mut due = Vec::new();
        for peer in &self.order {
            let Some(target) = self.targets.get_mut(peer) else { continue };
            if places == 0 {
                break;
            }
            if target.failures < FAILURES_TOLERATED && !target.addresses.is_empty() {
                places -= 1;
            }
            if matches!(target.state, State::Idle { not_before_ms } if not_before_ms <= now_ms)
                && !target.addresses.is_empty()
            {
                target.state = State::Dialling;
                due.push((*peer, target.addresses.clone()));
            }
        }
        due
    }

    /// The first connection to a peer, whoever dialled.
    pub fn connected(&mut self, peer: &PeerId, now_ms: u64) {
        if let Some(target) = self.targets.get_mut(peer) {
            target.state = State::Connected { since_ms: now_ms };
        }
    }

    /// The last connection to a peer is gone.
    pub fn disconnected(&mut self, peer: &PeerId, now_ms: u64) {
        if let Some(target) = self.targets.get_mut(peer) {
            match target.state {
                State::Connected { since_ms } if now_ms.saturating_sub(since_ms) >= LASTING_MS => target.failures = 0,
                _ => target.failures = target.failures.saturating_add(1),
            }
            target.rest(now_ms);
        }
    }

    /// An attempt failed.
    pub fn failed(&mut self, peer: &PeerId, now_ms: u64) {
        if let Some(target) = self.targets.get_mut(peer)
            && target.state == State::Dialling
        {
            target.failures = target.failures.saturating_add(1);
            target.rest(now_ms);
        }
    }
}

impl Target {
    fn rest(&mut self, now_ms: u64) {
        let pause = PAUSE_MS_MIN.saturating_mul(1 << self.failures.min(16)).min(PAUSE_MS_MAX);
        self.state = State::Idle { not_before_ms: now_ms.saturating_add(pause) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(seed: u8) -> PeerId {
        let key = tessera_consensus::keys::SigningKey::from_seed([seed; 32]).public();
        super::super::directory::peer_id(&key).expect("a valid key")
    }

    fn address() -> Vec<Multiaddr> {
        vec!["/ip4/127.0.0.1/tcp/1".parse().expect("an address")]
    }

    fn dialled(dialer: &mut Dialer, now_ms: u64) -> Vec<PeerId> {
        dialer.due(now_ms).into_iter().map(|(peer, _)| peer).collect()
    }

    #[test]
    fn a_failing_peer_is_left_alone_longer_each_time_and_a_lasting_one_is_not() {
        let mut dialer = Dialer::new(peer(0));
        dialer.set_targets([(peer(1), address()), (peer(2), Vec::new())].into_iter());
        assert_eq!(dialled(&mut dialer, 0), [peer(1)], "who has no address is not dialled");
        assert_eq!(dialled(&mut dialer, 0), [], "once at a time");
        let mut now_ms = 0;
        for pause in [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000] {
            dialer.failed(&peer(1), now_ms);
            assert_eq!(dialled(&mut dialer, now_ms + pause - 1), [], "pause {pause}");
            now_ms += pause;
            assert_eq!(dialled(&mut dialer, now_ms), [peer(1)], "pause {pause}");
        }
        dialer.connected(&peer(1), now_ms);
        dialer.disconnected(&peer(1), now_ms + LASTING_MS);
        assert_eq!(dialled(&mut dialer, now_ms + LASTING_MS + PAUSE_MS_MIN), [peer(1)]);
        dialer.connected(&peer(1), now_ms);
        dialer.disconnected(&peer(1), now_ms + 1);
        assert_eq!(dialled(&mut dialer, now_ms + 1 + PAUSE_MS_MIN), [], "closed at once is a failure");
    }

    #[test]
    fn places_are_bounded_and_dead_peers_hold_none() {
        let mut dialer = Dialer::new(peer(0));
        let all: Vec<PeerId> = (1..=100).map(peer).collect();
        dialer.set_targets(all.iter().map(|peer| (*peer, address())));
        let first = dialled(&mut dialer, 0);
        assert_eq!(first.len(), DIALLED_PEERS_MAX);
        for (attempt, now_ms) in [(1, 0), (2, 100_000), (3, 200_000)] {
            first.iter().for_each(|peer| dialer.failed(peer, now_ms));
            let again = dialled(&mut dialer, now_ms + 50_000);
            assert_eq!(again.len() > first.len(), attempt == 3, "attempt {attempt}");
        }
        let mut other = Dialer::new(peer(200));
        other.set_targets(all.iter().map(|peer| (*peer, address())));
        assert_ne!(dialled(&mut other, 0), first, "another node prefers others");
    }
}
