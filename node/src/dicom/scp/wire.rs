//! The upper layer's PDUs on a socket (PS3.8 section 9.3).
//!
//! Reads are large and are followed by TCP_QUICKACK, because senders leave Nagle's algorithm on: their last segment
//! of each object waits for an acknowledgement that Linux would otherwise delay by some 40 ms. Presentation data is
//! cut here, since dicom-ul copies it twice; all other PDUs are dicom-ul's.
//!
//! `fill` is the only waiting and loses nothing when cancelled: all state is in the buffer.

use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use dicom_ul::pdu::{Pdu, read_pdu, write_pdu};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One PDU, in bytes. Peers are asked for less; this is how far one may go beyond before it is cut off.
pub const PDU_BYTES_MAX: usize = 1 << 20;

/// Room for one read, in bytes: of an association, and of a connection that has not asked for one yet.
const READ_BYTES: usize = 256 << 10;
const REQUEST_READ_BYTES: usize = 16 << 10;

/// Type, reserved byte and length.
const PDU_HEADER_BYTES: usize = 6;

/// Length, presentation context and control byte of a presentation data value.
const PDV_HEADER_BYTES: usize = 6;

/// Senders that stop reading are given up after this time.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

const P_DATA: u8 = 0x04;

/// Why a connection can't go on.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("the peer closed the connection")]
    Closed,
    #[error("the connection failed")]
    Io(#[from] io::Error),
    #[error("the peer fell silent")]
    Silent,
    #[error("the peer sent a PDU of {bytes} bytes; at most {PDU_BYTES_MAX} are taken")]
    PduTooLarge { bytes: u64 },
    #[error("the peer sent a PDU that makes no sense")]
    Malformed,
}

/// A fragment of a message.
#[derive(Debug, PartialEq, Eq)]
pub struct Fragment {
    pub context: u8,
    pub is_command: bool,
    pub is_last: bool,
    pub bytes: Bytes,
}

/// What came in.
#[derive(Debug)]
pub enum Arrival {
    Fragment(Fragment),
    Control(Pdu),
}

/// The receiving half's parser, apart from the socket so that any bytes can be tried on it.
#[derive(Default)]
pub struct Inbox {
    buffer: BytesMut,
    /// Bytes of the current P-DATA PDU that are still to be cut.
    data_left: usize,
}

impl Inbox {
    /// The next arrival, or `None` when more bytes are needed.
    pub fn next(&mut self) -> Result<Option<Arrival>, WireError> {
        if self.data_left == 0 {
            let Some(header) = self.buffer.first_chunk::<PDU_HEADER_BYTES>() else { return Ok(None) };
            let [kind, _, length @ ..] = *header;
            let length = u32::from_be_bytes(length) as usize;
            if length > PDU_BYTES_MAX {
                return Err(WireError::PduTooLarge { bytes: length as u64 });
            }
            if self.buffer.len() < PDU_HEADER_BYTES + length {
                return Ok(None);
            }
            if kind != P_DATA {
                return self.control(PDU_HEADER_BYTES + length).map(Some);
            }
            self.buffer.advance(PDU_HEADER_BYTES);
            self.data_left = length;
        }
        if self.data_left == 0 {
            return Err(WireError::Malformed);
        }
        self.fragment().map(|fragment| Some(Arrival::Fragment(fragment)))
    }

    fn control(&mut self, length: usize) -> Result<Arrival, WireError> {
        let bytes = self.buffer.split_to(length);
        match read_pdu(&bytes[..], PDU_BYTES_MAX as u32, true) {
            Ok(Some(pdu)) => Ok(Arrival::Control(pdu)),
            Ok(None) | Err(_) => Err(WireError::Malformed),
        }
    }

    /// The whole PDU is in the buffer, so only its inner lengths can be wrong.
    fn fragment(&mut self) -> Result<Fragment, WireError> {
        let header = self.buffer.first_chunk::<PDV_HEADER_BYTES>().ok_or(WireError::Malformed)?;
        let [length @ .., context, control] = *header;
        let length = u32::from_be_bytes(length) as usize;
        let whole = length.checked_add(4).filter(|whole| length >= 2 && *whole <= self.data_left);
        let whole = whole.ok_or(WireError::Malformed)?;
        self.data_left -= whole;
        self.buffer.advance(PDV_HEADER_BYTES);
        let bytes = self.buffer.split_to(length - 2).freeze();
        Ok(Fragment { context, is_command: control & 1 != 0, is_last: control & 2 != 0, bytes })
    }
}

pub struct Wire {
    stream: TcpStream,
    inbox: Inbox,
    read_bytes: usize,
}

impl Wire {
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, inbox: Inbox::default(), read_bytes: REQUEST_READ_BYTES })
    }

    /// The association stands: data will come.
    pub fn associated(&mut self) {
        self.read_bytes = READ_BYTES;
    }

    pub fn inbox(&mut self) -> &mut Inbox {
        &mut self.inbox
    }

    /// Waits for more bytes. Safe to cancel.
    pub async fn fill(&mut self, patience: Duration) -> Result<(), WireError> {
        let buffer = &mut self.inbox.buffer;
        // Less room is not worth a read.
        if buffer.capacity() - buffer.len() < self.read_bytes / 4 {
            buffer.reserve(self.read_bytes);
        }
        let read = tokio::time::timeout(patience, self.stream.read_buf(buffer));
        let count = read.await.map_err(|_| WireError::Silent)??;
        #[cfg(target_os = "linux")]
        // A socket that refuses is slower and nothing else.
        let _ = socket2::SockRef::from(&self.stream).set_tcp_quickack(true);
        if count == 0 { Err(WireError::Closed) } else { Ok(()) }
    }

    /// The next arrival, the whole of which must come within `patience`: not a byte now and then.
    pub async fn next(&mut self, patience: Duration) -> Result<Arrival, WireError> {
        let arrival = async {
            loop {
                if let Some(arrival) = self.inbox.next()? {
                    return Ok(arrival);
                }
                self.fill(patience).await?;
            }
        };
        tokio::time::timeout(patience, arrival).await.map_err(|_| WireError::Silent)?
    }

    pub async fn send(&mut self, pdu: &Pdu) -> Result<(), WireError> {
        let mut bytes = Vec::with_capacity(512);
        write_pdu(&mut bytes, pdu).map_err(|e| WireError::Io(io::Error::other(e.to_string())))?;
        self.send_bytes(&bytes).await
    }

    /// Sends a command set as one fragment; responses fit into the smallest PDU that a peer may ask for.
    pub async fn send_command(&mut self, context: u8, command: &[u8]) -> Result<(), WireError> {
        // Commands are below COMMAND_BYTES_MAX.
        let value_bytes = command.len() as u32 + 2;
        let mut bytes = Vec::with_capacity(PDU_HEADER_BYTES + PDV_HEADER_BYTES + command.len());
        bytes.extend_from_slice(&[P_DATA, 0]);
        bytes.extend_from_slice(&(value_bytes + 4).to_be_bytes());
        bytes.extend_from_slice(&value_bytes.to_be_bytes());
        bytes.extend_from_slice(&[context, 0b11]);
        bytes.extend_from_slice(command);
        self.send_bytes(&bytes).await
    }

    async fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        let written = tokio::time::timeout(WRITE_TIMEOUT, self.stream.write_all(bytes));
        written.await.map_err(|_| WireError::Silent)?.map_err(WireError::Io)
    }

    /// Ends our side; the peer sees the end after what was sent.
    pub async fn close(&mut self) {
        // The connection is over in any case.
        let _ = self.stream.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn inbox(bytes: &[u8]) -> Inbox {
        Inbox { buffer: BytesMut::from(bytes), data_left: 0 }
    }

    #[test]
    fn fragments_are_cut() {
        let pdu = [4, 0, 0, 0, 0, 15, 0, 0, 0, 4, 1, 3, b'a', b'b', 0, 0, 0, 3, 5, 0, b'c', 7];
        let mut inbox = inbox(&pdu[..10]);
        assert!(matches!(inbox.next(), Ok(None)));
        inbox.buffer.extend_from_slice(&pdu[10..]);
        let mut found = Vec::new();
        while let Ok(Some(Arrival::Fragment(fragment))) = inbox.next() {
            found.push(fragment);
        }
        let expected = [
            Fragment { context: 1, is_command: true, is_last: true, bytes: Bytes::from_static(b"ab") },
            Fragment { context: 5, is_command: false, is_last: false, bytes: Bytes::from_static(b"c") },
        ];
        assert_eq!(found, expected);
        assert_eq!(inbox.buffer, &[7][..]);
    }

    #[test]
    fn bounds_are_kept() {
        let table: [(&[u8], &str); 5] = [
            (&[4, 0, 0xFF, 0, 0, 0], "PduTooLarge"),
            (&[4, 0, 0, 0, 0, 0], "Malformed"),
            (&[4, 0, 0, 0, 0, 6, 0, 0, 0, 1, 1, 3], "Malformed"),
            (&[4, 0, 0, 0, 0, 6, 0, 0, 0, 9, 1, 3], "Malformed"),
            (&[1, 0, 0, 0, 0, 1, 0], "Malformed"),
        ];
        for (bytes, expected) in table {
            let error = inbox(bytes).next().expect_err(expected);
            assert!(format!("{error:?}").starts_with(expected), "{error:?}");
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..600), kind in 0..9u8, length in 0..600u32) {
            if bytes.len() >= 6 {
                bytes[0] = kind;
                bytes[2..6].copy_from_slice(&length.to_be_bytes());
            }
            let mut inbox = inbox(&bytes);
            while let Ok(Some(_)) = inbox.next() {}
        }
    }
}
