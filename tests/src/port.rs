//! Free ports on loopback.
//!
//! They lie below the range from which the system takes the near ends of connections (32768 to 60999 by default), so
//! that the port of a node that is down for a moment stays free for it. Another program could still take one before the
//! test's own does; black-box tests run one at a time (`.config/nextest.toml`), and no port is given out twice within
//! one test program.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::process;
use std::sync::atomic::{AtomicUsize, Ordering};

const PORTS: Range<u16> = 20_000..32_000;

static GIVEN: AtomicUsize = AtomicUsize::new(0);

pub fn free_port() -> u16 {
    // Test programs that follow one another begin at different places.
    let begin = process::id() as usize * 101;
    let mut tries = 0..PORTS.len();
    let free = tries.find_map(|_| {
        let number = begin + GIVEN.fetch_add(1, Ordering::Relaxed);
        let port = PORTS.start + u16::try_from(number % PORTS.len()).expect("fewer than 65,536 ports");
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok().then_some(port)
    });
    free.expect("a free port on loopback")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn gives_each_port_once_and_free() {
        let ports: Vec<u16> = (0..50).map(|_| free_port()).collect();
        let different: BTreeSet<u16> = ports.iter().copied().collect();
        assert_eq!(different.len(), ports.len());
        assert!(ports.iter().all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()));
    }
}
