//! The receiver on loopback against dicom-ul's own client and against bytes that no client would send.
//!
//! The sink is a shelf in memory that answers by the SOP instance UID, so that every outcome can be asked for. Not for
//! speed, and not for DCMTK or pynetdicom as peers: the black-box tests have those.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Mutex;

use bytes::{Bytes, BytesMut};
use dicom_ul::association::client::ClientAssociationOptions;
use dicom_ul::association::read_pdu_from_wire;
use dicom_ul::pdu::{
    AssociationRQ, PDataValue, PDataValueType, Pdu, PresentationContextProposed, UserVariableItem, write_pdu,
};
use futures::future::{BoxFuture, FutureExt};
use tokio::sync::oneshot;

use super::*;
use crate::dicom::identifiers::Uid;
use crate::dicom::sink::{BUFFERED_BYTES_MAX, Incoming, LargeObject, StoreOutcome};

const CT: &str = "1.2.840.10008.5.1.4.1.1.2";
const VERIFICATION: &str = "1.2.840.10008.1.1";
const EXPLICIT: &str = "1.2.840.10008.1.2.1";
const IMPLICIT: &str = "1.2.840.10008.1.2";

/// Keeps what comes, and answers by the SOP instance UID: its last component is the outcome.
#[derive(Default)]
struct Shelf {
    kept: Mutex<Vec<(Incoming, Vec<u8>, bool)>>,
    gate: Mutex<Option<Gate>>,
}

/// Holds up the first object: tells when it is with the sink, and waits to be let through.
struct Gate {
    entered: oneshot::Sender<()>,
    opened: oneshot::Receiver<()>,
}

fn outcome(instance: &Uid) -> StoreOutcome {
    let reason = "because of the test".to_owned();
    match instance.as_str().rsplit('.').next() {
        Some("1") => StoreOutcome::Quarantined,
        Some("2") => StoreOutcome::Variant,
        Some("3") => StoreOutcome::OutOfResources { reason },
        Some("4") => StoreOutcome::NotUnderstood { reason },
        Some("5") => StoreOutcome::Mismatch { reason },
        Some("6") => StoreOutcome::Failed { reason },
        Some("7") => StoreOutcome::Damaged { reason },
        _ => StoreOutcome::Stored,
    }
}

struct Large {
    shelf: Arc<Shelf>,
    incoming: Incoming,
    bytes: Vec<u8>,
}

impl LargeObject for Large {
    fn write(&mut self, piece: Bytes) -> BoxFuture<'_, Result<(), StoreOutcome>> {
        self.bytes.extend_from_slice(&piece);
        let full = matches!(outcome(&self.incoming.sop_instance), StoreOutcome::OutOfResources { .. });
        let result = if full { Err(outcome(&self.incoming.sop_instance)) } else { Ok(()) };
        std::future::ready(result).boxed()
    }

    fn finish(self: Box<Self>) -> BoxFuture<'static, StoreOutcome> {
        let answer = outcome(&self.incoming.sop_instance);
        self.shelf.kept.lock().expect("unpoisoned").push((self.incoming, self.bytes, true));
        std::future::ready(answer).boxed()
    }
}

struct Sink(Arc<Shelf>);

impl StoreSink for Sink {
    fn store(&self, incoming: Incoming, data_set: Bytes) -> BoxFuture<'_, StoreOutcome> {
        let answer = outcome(&incoming.sop_instance);
        let gate = self.0.gate.lock().expect("unpoisoned").take();
        async move {
            if let Some(gate) = gate {
                gate.entered.send(()).expect("the test waits for this");
                gate.opened.await.expect("the test opens the gate");
            }
            self.0.kept.lock().expect("unpoisoned").push((incoming, data_set.to_vec(), false));
            answer
        }
        .boxed()
    }

    fn begin_large(&self, incoming: Incoming) -> Result<Box<dyn LargeObject>, StoreOutcome> {
        match outcome(&incoming.sop_instance) {
            refusal @ StoreOutcome::Failed { .. } => Err(refusal),
            _ => Ok(Box::new(Large { shelf: self.0.clone(), incoming, bytes: Vec::new() })),
        }
    }
}

pub(super) struct Running {
    address: SocketAddr,
    shelf: Arc<Shelf>,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

pub(super) async fn start(config: ScpConfig) -> Running {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port on loopback");
    let address = listener.local_addr().expect("an address");
    let (shelf, stop) = (Arc::new(Shelf::default()), CancellationToken::new());
    let serving = tokio::spawn(serve(listener, Arc::new(Sink(shelf.clone())), config, stop.clone()));
    Running { address, shelf, stop, serving }
}

impl Running {
    /// Runs a blocking client beside the receiver, then stops the receiver and gives what it kept.
    pub(super) async fn with<T: Send + 'static>(
        self,
        client: impl FnOnce(SocketAddr) -> T + Send + 'static,
    ) -> (T, Vec<(Incoming, Vec<u8>, bool)>) {
        let address = self.address;
        let result = tokio::task::spawn_blocking(move || client(address)).await.expect("the client ends well");
        self.stop.cancel();
        self.serving.await.expect("the receiver ends well");
        let kept = std::mem::take(&mut *self.shelf.kept.lock().expect("unpoisoned"));
        (result, kept)
    }
}

fn options() -> ClientAssociationOptions<'static> {
    ClientAssociationOptions::new()
        .calling_ae_title("CT-1")
        .called_ae_title("TESSERA")
        .with_presentation_context(VERIFICATION, vec![IMPLICIT])
        .with_presentation_context(CT, vec![EXPLICIT, IMPLICIT])
}

fn command(field: u16, instance: &str, has_data: bool) -> Vec<u8> {
    let mut body = Vec::new();
    let mut put = |number: u16, value: &[u8]| {
        body.extend([0, 0]);
        body.extend(number.to_le_bytes());
        body.extend((value.len() as u32).to_le_bytes());
        body.extend(value);
    };
    let padded = |text: &str| if text.len() % 2 == 1 { format!("{text}\0") } else { text.to_owned() };
    put(0x0002, padded(CT).as_bytes());
    put(0x0100, &field.to_le_bytes());
    put(0x0110, &7u16.to_le_bytes());
    put(0x0800, &(if has_data { 0u16 } else { 0x0101 }).to_le_bytes());
    put(0x1000, padded(instance).as_bytes());
    body
}

fn value(context: u8, kind: PDataValueType, is_last: bool, data: Vec<u8>) -> PDataValue {
    PDataValue { presentation_context_id: context, value_type: kind, is_last, data }
}

/// Status and comment of the next response.
fn response<S: std::io::Read + std::io::Write + dicom_ul::association::CloseSocket>(
    association: &mut dicom_ul::association::ClientAssociation<S>,
) -> (u16, String) {
    let Pdu::PData { data } = association.receive().expect("a response") else { panic!("no response") };
    let bytes = &data[0].data;
    let find = |number: u8| bytes.windows(4).position(|window| window == [0, 0, number, 9]);
    let status = find(0).map(|at| u16::from_le_bytes([bytes[at + 8], bytes[at + 9]])).expect("a status");
    let comment = find(2).map(|at| {
        let length = usize::from(bytes[at + 4]);
        String::from_utf8_lossy(&bytes[at + 8..at + 8 + length]).trim().to_owned()
    });
    (status, comment.unwrap_or_default())
}

/// Sends one object in fragments of 16 KiB.
pub(super) fn store(address: SocketAddr, instance: &str, data_set: &[u8]) -> (u16, String) {
    let mut association = options().establish(address).expect("an association");
    let context = association.presentation_contexts().iter().find(|c| c.transfer_syntax == EXPLICIT).expect("CT").id;
    let request = vec![value(context, PDataValueType::Command, true, command(1, instance, true))];
    association.send(&Pdu::PData { data: request }).expect("sent");
    let pieces = data_set.chunks(16 << 10).count();
    for (index, piece) in data_set.chunks(16 << 10).enumerate() {
        let data = vec![value(context, PDataValueType::Data, index + 1 == pieces, piece.to_vec())];
        association.send(&Pdu::PData { data }).expect("sent");
    }
    let answer = response(&mut association);
    association.release().expect("released");
    answer
}

#[tokio::test]
async fn objects_are_kept_byte_for_byte() {
    let small: Vec<u8> = (0..100_001u32).map(|i| i as u8).collect();
    let sent = small.clone();
    let (answer, kept) = start(ScpConfig::default()).await.with(move |to| store(to, "1.2.9", &sent)).await;
    assert_eq!(answer, (0x0000, String::new()));
    let [(incoming, bytes, streamed)] = kept.as_slice() else { panic!("one object") };
    assert!(!streamed);
    assert_eq!(*bytes, small);
    assert_eq!(incoming.sop_class.as_str(), CT);
    assert_eq!(incoming.sop_instance.as_str(), "1.2.9");
    assert_eq!(incoming.transfer_syntax.as_str(), EXPLICIT);
    assert_eq!(incoming.sender.calling_ae.as_str(), "CT-1");
    assert_eq!(incoming.sender.called_ae.as_str(), "TESSERA");
    assert_eq!(incoming.sender.address, IpAddr::V4(Ipv4Addr::LOCALHOST));
}

#[tokio::test]
async fn large_objects_are_streamed() {
    let large: Vec<u8> = (0..BUFFERED_BYTES_MAX as u32 + 70_000).map(|i| (i / 7) as u8).collect();
    let sent = large.clone();
    let client = move |to| [store(to, "1.2.9", &sent), store(to, "1.2.3", &sent), store(to, "1.2.6", &sent)];
    let (answers, kept) = start(ScpConfig::default()).await.with(client).await;
    assert_eq!(answers.map(|(status, _)| status), [0x0000, 0xA700, 0x0110]);
    let [(_, bytes, true)] = kept.as_slice() else { panic!("one streamed object") };
    assert_eq!(*bytes, large);
}

#[tokio::test]
async fn outcomes_become_statuses() {
    let client = |to| (0..8).map(|n| store(to, &format!("1.2.{n}"), b"any bytes")).collect::<Vec<_>>();
    let (answers, _) = start(ScpConfig::default()).await.with(client).await;
    let statuses: Vec<u16> = answers.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [0x0000, 0x0000, 0x0000, 0xA700, 0xC000, 0xA900, 0x0110, 0xB007]);
    for (status, comment) in answers {
        assert_eq!(comment, if status == 0 { "" } else { "because of the test" });
    }
}

#[tokio::test]
async fn other_messages_are_answered() {
    // (command field, instance, has a data set, status)
    let table = [
        (0x0030u16, "1.2", false, 0x0000u16),
        (0x0001, "1.2", false, 0xC000),
        (0x0001, "cat", true, 0xC000),
        // An object in the context that was agreed on for verification.
        (0x0001, "1.2", true, 0x0122),
        (0x0020, "1.2", true, 0x0211),
        (0x0140, "1.2", false, 0x0211),
    ];
    let client = move |to| {
        let mut association = options().establish(to).expect("an association");
        table.map(|(field, instance, has_data, _)| {
            let mut data = vec![value(1, PDataValueType::Command, true, command(field, instance, has_data))];
            if has_data {
                data.push(value(1, PDataValueType::Data, true, b"dropped!".to_vec()));
            }
            association.send(&Pdu::PData { data }).expect("sent");
            response(&mut association).0
        })
    };
    let (answers, kept) = start(ScpConfig::default()).await.with(client).await;
    assert_eq!(answers, table.map(|(.., status)| status));
    assert!(kept.is_empty());
}

#[tokio::test]
async fn a_full_receiver_says_so() {
    let config = ScpConfig { associations_max: 1, ..ScpConfig::default() };
    let client = |to| {
        let first = options().establish(to).expect("the only place");
        let refused = options().establish(to).map(|_| ()).expect_err("no place left").to_string();
        first.release().expect("released");
        refused
    };
    let (refused, _) = start(config).await.with(client).await;
    assert!(refused.contains("rejected"), "{refused}");
}

#[tokio::test]
async fn broken_peers_are_cut_off() {
    let table: Vec<(&str, Vec<u8>)> = vec![
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("data before association", vec![4, 0, 0, 0, 0, 8, 0, 0, 0, 4, 1, 3, 0, 0]),
        ("release before association", vec![5, 0, 0, 0, 0, 4, 0, 0, 0, 0]),
        ("endless PDU", vec![1, 0, 0xFF, 0xFF, 0xFF, 0xFF]),
        ("empty association", vec![1, 0, 0, 0, 0, 0]),
    ];
    let client = move |to: SocketAddr| {
        for (what, bytes) in table {
            let mut stream = std::net::TcpStream::connect(to).expect(what);
            stream.write_all(&bytes).expect(what);
            let mut answer = Vec::new();
            // A reset is as good an end as a closed stream.
            let _ = stream.read_to_end(&mut answer);
            assert_eq!(answer.first().copied().unwrap_or(7), 7, "{what}: {answer:?}");
        }
        store(to, "1.2.9", b"still alive")
    };
    let (answer, kept) = start(ScpConfig::default()).await.with(client).await;
    assert_eq!(answer.0, 0);
    assert_eq!(kept.len(), 1);
}

#[tokio::test]
async fn mixed_messages_end_the_association() {
    let client = |to| {
        let mut ends = Vec::new();
        let bad: [Vec<PDataValue>; 4] = [
            vec![value(1, PDataValueType::Data, true, vec![1])],
            vec![value(99, PDataValueType::Command, true, command(0x30, "1.2", false))],
            vec![value(1, PDataValueType::Command, false, vec![0; 20 << 10])],
            vec![
                value(1, PDataValueType::Command, true, command(1, "1.2", true)),
                value(3, PDataValueType::Data, true, vec![1]),
            ],
        ];
        for data in bad {
            let mut association = options().establish(to).expect("an association");
            association.send(&Pdu::PData { data }).expect("sent");
            ends.push(matches!(association.receive(), Ok(Pdu::AbortRQ { .. })));
        }
        ends
    };
    let (ends, kept) = start(ScpConfig::default()).await.with(client).await;
    assert_eq!(ends, [true; 4]);
    assert!(kept.is_empty());
}

#[tokio::test]
async fn silence_is_bounded() {
    let patience = Duration::from_millis(20);
    let config = ScpConfig { request_patience: patience, idle_patience: patience, ..ScpConfig::default() };
    let client = |to: SocketAddr| {
        let mut silent = std::net::TcpStream::connect(to).expect("connected");
        let mut answer = Vec::new();
        silent.read_to_end(&mut answer).expect("closed");
        let mut idle = options().establish(to).expect("an association");
        (answer.first().copied(), matches!(idle.receive(), Ok(Pdu::AbortRQ { .. })))
    };
    let (ends, _) = start(config).await.with(client).await;
    // Who never asked is told nothing.
    assert_eq!(ends, (None, true));
}

/// A gate in front of the sink, and the two ends that the test holds.
fn gate(shelf: &Shelf) -> (oneshot::Receiver<()>, oneshot::Sender<()>) {
    let ((entered, enters), (opens, opened)) = (oneshot::channel(), oneshot::channel());
    *shelf.gate.lock().expect("unpoisoned") = Some(Gate { entered, opened });
    (enters, opens)
}

fn whole_message(instance: &str) -> Pdu {
    let command = value(3, PDataValueType::Command, true, command(1, instance, true));
    Pdu::PData { data: vec![command, value(3, PDataValueType::Data, true, b"whole".to_vec())] }
}

#[tokio::test]
async fn an_object_with_the_sink_outlives_its_sender() {
    let running = start(ScpConfig::default()).await;
    let (enters, opens) = gate(&running.shelf);
    let client = move |to| {
        let mut association = options().establish(to).expect("an association");
        association.send(&whole_message("1.2.9")).expect("sent");
        enters.blocking_recv().expect("the object is with the sink");
        association.abort().expect("aborted");
        opens.send(()).expect("the sink waits for this");
    };
    let ((), kept) = running.with(client).await;
    assert_eq!(kept.len(), 1);
}

#[tokio::test]
async fn a_granted_window_is_used() {
    let running = start(ScpConfig::default()).await;
    let (enters, opens) = gate(&running.shelf);
    let context = |id, class: &str| PresentationContextProposed {
        id,
        abstract_syntax: class.into(),
        transfer_syntaxes: vec![EXPLICIT.into()],
    };
    let request = Pdu::AssociationRQ(AssociationRQ {
        protocol_version: 1,
        calling_ae_title: "CT-1".into(),
        called_ae_title: "TESSERA".into(),
        application_context_name: "1.2.840.10008.3.1.1.1".into(),
        presentation_contexts: vec![context(3, CT)],
        user_variables: vec![UserVariableItem::MaxLength(16384), UserVariableItem::Unknown(0x53, vec![0, 2, 0, 1])],
    });
    let client = move |to| {
        let mut stream = std::net::TcpStream::connect(to).expect("connected");
        let mut send = |pdu: &Pdu| {
            let mut bytes = Vec::new();
            write_pdu(&mut bytes, pdu).expect("memory takes all bytes");
            stream.write_all(&bytes).expect("sent");
        };
        send(&request);
        send(&whole_message("7.7.9"));
        enters.blocking_recv().expect("the first object is with the sink");
        send(&whole_message("7.7.8"));
        send(&Pdu::ReleaseRQ);
        // The second object is answered while the first is held up.
        let mut answers = Vec::new();
        let mut received = BytesMut::new();
        let mut opens = Some(opens);
        while answers.last() != Some(&None) {
            let pdu = read_pdu_from_wire(&mut stream, &mut received, 1 << 18, false).expect("an answer");
            answers.push(match pdu {
                Pdu::PData { data } => Some(data[0].data.windows(5).any(|window| window == b"7.7.8")),
                Pdu::ReleaseRP => None,
                _ => continue,
            });
            opens.take_if(|_| answers.len() == 1).map(|opens| opens.send(()));
        }
        answers
    };
    let (answers, kept) = running.with(client).await;
    assert_eq!(answers, [Some(true), Some(false), None]);
    assert_eq!(kept.len(), 2);
}
