//! Connections that strangers open to this node's gateways: places, bounded in all and for each remote address, so that no
//! single peer holds those of the others, and who was turned away.
//!
//! Addresses of IPv6 count by their /64, which one machine may have for itself. Several devices behind one translated
//! address share that address's places, which is why the bounds are the operator's to choose.
//! Not for who may come in at all: that is negotiated.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};

/// A pause when the system has no more connections to give.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often it is logged that peers were turned away.
const TURNED_AWAY_PAUSE: Duration = Duration::from_secs(60);

/// Open files for which this program's bounds are made: those of the connections, the databases' tables and the packs.
const OPEN_FILES_WANTED: u64 = 8_192;

/// The prefix of an IPv6 address that one machine may have for itself.
const NETWORK_MASK: u128 = !(u64::MAX as u128);

#[derive(Debug)]
pub struct Places {
    in_all_max: usize,
    per_address_max: usize,
    taken: Mutex<BTreeMap<IpAddr, usize>>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    #[error("all {0} places are taken")]
    InAll(usize),
    #[error("its address has {0} places already")]
    ForAddress(usize),
}

/// One place, given back when dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    holder: IpAddr,
}

impl Places {
    pub fn new(in_all_max: usize, per_address_max: usize) -> Arc<Self> {
        Arc::new(Self { in_all_max, per_address_max, taken: Mutex::default() })
    }

    pub fn take(self: &Arc<Self>, peer: IpAddr) -> Result<Place, Full> {
        let holder = holder(peer);
        let mut taken = self.taken();
        if taken.get(&holder).is_some_and(|count| *count >= self.per_address_max) {
            return Err(Full::ForAddress(self.per_address_max));
        }
        // As many addresses at most as there are places.
        if taken.values().sum::<usize>() >= self.in_all_max {
            return Err(Full::InAll(self.in_all_max));
        }
        *taken.entry(holder).or_default() += 1;
        Ok(Place { places: self.clone(), holder })
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<IpAddr, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        if let Some(count) = taken.get_mut(&self.holder) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.holder);
            }
        }
    }
}

fn holder(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(address) & NETWORK_MASK)),
        v4 => v4,
    }
}

/// Tells of peers that were turned away, seldom enough that a crowd of them does not fill the log.
pub struct TurnedAway {
    gateway: &'static str,
    /// How many were not told of, and when the last one was.
    told: Mutex<(u64, Option<Instant>)>,
}

impl TurnedAway {
    pub fn from(gateway: &'static str) -> Self {
        Self { gateway, told: Mutex::default() }
    }

    pub fn tell(&self, peer: SocketAddr, why: &Full) {
        let mut state = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let (untold, told) = &mut *state;
        if told.is_some_and(|told| told.elapsed() < TURNED_AWAY_PAUSE) {
            *untold += 1;
            return;
        }
        tracing::warn!(gateway = self.gateway, %peer, %why, others_before = *untold, "a peer was turned away");
        (*untold, *told) = (0, Some(Instant::now()));
    }
}

/// Makes room for as many open files as this program may have: systems begin with few (1,024) for the sake of programs
/// that this is none of.
pub fn allow_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
    if let Some(allowed) = getrlimit(Resource::Nofile).current.filter(|allowed| *allowed < OPEN_FILES_WANTED) {
        tracing::warn!(
            allowed,
            wanted = OPEN_FILES_WANTED,
            "this system allows few open files: raise LimitNOFILE of the service, or ulimit -n"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_in_all_and_for_each_address() {
        let places = Places::new(4, 2);
        let take = |peer: &str| places.take(peer.parse().expect("an address"));
        let first = take("10.0.0.1").expect("free");
        let _mapped = take("::ffff:10.0.0.1").expect("the second of the same address");
        assert_eq!(take("10.0.0.1").err(), Some(Full::ForAddress(2)));
        let _others = [take("2001:db8::1").expect("free"), take("2001:db8::2").expect("free")];
        assert_eq!(take("2001:db8::3").err(), Some(Full::ForAddress(2)), "one machine has a whole /64");
        assert_eq!(take("2001:db8:0:1::1").err(), Some(Full::InAll(4)));
        drop(first);
        let again = take("2001:db8:0:1::1").expect("one was given back");
        drop(again);
        assert_eq!(places.taken().len(), 2, "addresses without places are forgotten");
    }
}
