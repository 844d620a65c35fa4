//! Peers that would hold the places of others: silent ones, slow ones, many at once. Over real sockets; peers of other
//! addresses are other addresses of loopback.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use dicom_ul::pdu::{AssociationRQ, Pdu, PresentationContextProposed, UserVariableItem, write_pdu};
use socket2::{Domain, Socket, Type};

use super::tests::{start, store};
use super::*;

/// A-ASSOCIATE-AC, and the rejection that asks to come back later: transient, presentation related, local limit.
const ACCEPTED: u8 = 2;
const COME_BACK_LATER: [u8; 10] = [3, 0, 0, 0, 0, 4, 0, 2, 3, 2];

fn connect(from: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((from, 0)).into()).expect("an address of loopback");
    socket.connect(&to.into()).expect("connected");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time limit");
    stream
}

fn request() -> Vec<u8> {
    let request = Pdu::AssociationRQ(AssociationRQ {
        protocol_version: 1,
        calling_ae_title: "CT-1".into(),
        called_ae_title: "TESSERA".into(),
        application_context_name: "1.2.840.10008.3.1.1.1".into(),
        presentation_contexts: vec![PresentationContextProposed {
            id: 1,
            abstract_syntax: "1.2.840.10008.1.1".into(),
            transfer_syntaxes: vec!["1.2.840.10008.1.2".into()],
        }],
        user_variables: vec![UserVariableItem::MaxLength(16384)],
    });
    let mut bytes = Vec::new();
    write_pdu(&mut bytes, &request).expect("memory takes all bytes");
    bytes
}

/// The first bytes that a peer hears after its request; none: the connection ended.
fn answer(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = vec![0; COME_BACK_LATER.len()];
    let read = stream.read(&mut bytes).expect("an answer or an end");
    bytes.truncate(read);
    bytes
}

#[tokio::test]
async fn a_request_in_single_bytes_is_cut_off_in_the_time_of_a_whole_one() {
    let patience = Duration::from_millis(400);
    let client = move |to| {
        let mut slow = connect(Ipv4Addr::LOCALHOST, to);
        // A byte each time that nothing was heard: far less often than the patience, and more bytes than it has room.
        slow.set_read_timeout(Some(patience / 8)).expect("a time limit");
        let begun = Instant::now();
        for byte in request() {
            match slow.read(&mut [0]) {
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                // A reset is as good an end as a closed stream.
                ended => return (begun.elapsed(), ended.unwrap_or(0)),
            }
            slow.write_all(&[byte]).expect("sent");
        }
        panic!("the whole request could be sent");
    };
    let config = ScpConfig { request_patience: patience, ..ScpConfig::default() };
    let ((took, read), _) = start(config).await.with(client).await;
    assert_eq!(read, 0, "nothing is said to who never asked");
    assert!((patience..patience * 8).contains(&took), "{took:?}");
}

#[tokio::test]
async fn silent_peers_hold_nobodys_place() {
    let client = |to| {
        let crowds = [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3)];
        let silent: Vec<_> = (0..300).map(|n| connect(crowds[n % 2], to)).collect();
        let answer = store(to, "1.2.9", b"from an honest device");
        // Those beyond the bound were dropped, the others are waited for.
        let mut dropped = 0;
        for mut stream in silent {
            stream.set_nonblocking(true).expect("a socket");
            dropped += usize::from(!matches!(stream.read(&mut [0]), Err(e) if e.kind() == ErrorKind::WouldBlock));
        }
        (answer, dropped)
    };
    // Fewer places than silent peers: they would all be taken if a connection took one.
    let config = ScpConfig { associations_max: 2, ..ScpConfig::default() };
    let ((answer, dropped), kept) = start(config).await.with(client).await;
    assert_eq!((answer.0, kept.len()), (0, 1));
    assert_eq!(dropped, 300 - 2 * WAITING_PER_ADDRESS_MAX);
}

#[tokio::test]
async fn associations_of_one_address_leave_places_to_others() {
    let client = |to| {
        let greedy = Ipv4Addr::new(127, 0, 0, 2);
        let asked = |from| {
            let mut stream = connect(from, to);
            stream.write_all(&request()).expect("sent");
            let heard = answer(&mut stream);
            (stream, heard)
        };
        let [mut first, second, third] = [(); 3].map(|()| asked(greedy));
        let honest = store(to, "1.2.9", b"from an honest device").0;
        // A place that is given back can be taken again.
        first.0.write_all(&[5, 0, 0, 0, 0, 4, 0, 0, 0, 0]).expect("sent");
        while first.0.read(&mut [0; 512]).is_ok_and(|read| read > 0) {}
        // It is free a moment after the peer sees the end.
        let again = (0..1000).any(|_| asked(greedy).1[0] == ACCEPTED);
        (first.1[0], second.1[0], third.1, honest, again)
    };
    let config = ScpConfig { associations_max: 4, associations_per_address_max: 2, ..ScpConfig::default() };
    let (heard, _) = start(config).await.with(client).await;
    assert_eq!(heard, (ACCEPTED, ACCEPTED, COME_BACK_LATER.to_vec(), 0, true));
}

#[tokio::test]
async fn beyond_all_places_peers_are_told_to_come_back() {
    let client = |to| {
        let from = |last| Ipv4Addr::new(127, 0, 0, last);
        let heard = |last| {
            let mut stream = connect(from(last), to);
            stream.write_all(&request()).expect("sent");
            let heard = answer(&mut stream);
            (stream, heard)
        };
        let all: Vec<_> = (2..6).map(heard).collect();
        all.into_iter().map(|(_, heard)| heard).collect::<Vec<_>>()
    };
    let config = ScpConfig { associations_max: 3, associations_per_address_max: 2, ..ScpConfig::default() };
    let (heard, _) = start(config).await.with(client).await;
    assert!(heard[..3].iter().all(|heard| heard[0] == ACCEPTED), "{heard:?}");
    assert_eq!(heard[3], COME_BACK_LATER);
}
