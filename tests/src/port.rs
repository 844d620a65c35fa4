//! Free ports on loopback.
//!
//! The system hands out a port that is free now; another program could take it before the test's own does. Black-box
//! tests run one at a time (`.config/nextest.toml`), and no port is given out twice within one test program.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Mutex;

static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

pub fn free_port() -> u16 {
    let mut given = GIVEN.lock().expect("no holder of this lock panics");
    // Listeners stay open until one port is new, so that the system cannot offer the same one again.
    let mut held = Vec::new();
    loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port on loopback");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        if given.insert(port) {
            return port;
        }
        held.push(listener);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_each_port_once_and_free() {
        let ports: Vec<u16> = (0..50).map(|_| free_port()).collect();
        let different: BTreeSet<u16> = ports.iter().copied().collect();
        assert_eq!(different.len(), ports.len());
        assert!(ports.iter().all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()));
    }
}
