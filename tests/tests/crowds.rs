//! Who opens more than is good for a node: connections that say nothing, and a system without open files to give.
//!
//! The connections come from several addresses of loopback. What DICOM peers do of the kind is tested in the receiver.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tessera_tests::{Node, Phantom, Role, Scratch, Seat, WORK_DEADLINE, dcmtk, entries_of, let_pass, run, wait_until};

const HOSPITAL: Seat = Seat::new("hospital-a", "SITEA", Role::Core);
/// Open files that a system may grant.
const FILES: u32 = 1_024;
/// More than a node takes of one address.
const CONNECTIONS: usize = 300;
/// Longer than the signing guard is left alone.
const STARVED_FOR: Duration = Duration::from_secs(12);

/// A request that never ends, from one of loopback's addresses.
fn half_a_request(from: Ipv4Addr, port: u16) -> Option<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((from, 0)).into()).expect("an address of loopback");
    socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()).ok()?;
    let mut stream = TcpStream::from(socket);
    stream.write_all(b"GET / HTTP/1.1\r\nHost:").ok()?;
    Some(stream)
}

#[test]
fn unfinished_requests_take_nothing_from_senders_and_the_ledger() {
    let scratch = Scratch::new();
    let phantom = Phantom::generate(scratch.path(), &["SITEA"], &["--patients", "1", "--slices", "2"]);
    let mut node = Node::init(&scratch, HOSPITAL);
    node.start();
    node.open_files_max(FILES);
    let others = [2, 3, 4].map(|last| Ipv4Addr::new(127, 0, 0, last));
    let held: Vec<_> =
        others.iter().flat_map(|from| (0..CONNECTIONS).filter_map(|_| half_a_request(*from, node.http))).collect();
    assert!(held.len() > CONNECTIONS, "{} connections", held.len());
    dcmtk("echoscu", &["-aec", "TESSERA", "127.0.0.1", &node.dicom.to_string()]).success();
    node.send(&[phantom.of("SITEA")]);
    let studies = phantom.examinations("SITEA").len() as u64;
    node.await_status("its studies", |status| entries_of(status, "study") == studies && status["outbox_pending"] == 0);
    // Those that said nothing are let go, whether they leave or not.
    let page = node.url("/");
    wait_until("a page", WORK_DEADLINE, || {
        let mut curl = std::process::Command::new("curl");
        curl.args(["--silent", "--fail", "--max-time", "5", "--output", "/dev/null", &page]);
        (run(curl).code == Some(0)).then_some(())
    });
    drop(held);
}

#[test]
fn a_system_without_open_files_ends_no_core_node() {
    let scratch = Scratch::new();
    let mut node = Node::init(&scratch, HOSPITAL);
    node.start();
    let time = |status: &serde_json::Value| status["certified_at"].as_str().map(str::to_owned);
    let before = time(&node.await_status("a certificate", |status| time(status).is_some()));
    // Standard input, output and errors: it has more already, and gets none.
    node.open_files_max(3);
    let_pass(STARVED_FOR);
    assert!(node.process().ended().is_none(), "it ended: {}", node.log());
    node.open_files_max(FILES);
    let later = node.await_status("it to certify again", |status| time(status) > before);
    assert!(node.log().contains("nothing is signed until the signing guard can be written"), "{later:#}");
}
