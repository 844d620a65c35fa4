//! DIMSE command sets (PS3.7 section 9.3 and annex E): requests read, responses written.
//!
//! Command sets are implicit little endian and small. Only C-ECHO and C-STORE are understood; any other request
//! is answered with "unrecognized operation" rather than silence, and its data set, if any, is read and dropped.

use dicom_core::header::Tag;

use crate::dicom::identifiers::Uid;
use crate::dicom::source::SliceSource;
use crate::dicom::status::Outcome;
use crate::dicom::syntax::Encoding;
use crate::dicom::walk::{Token, Walker};

/// A whole command set, in bytes; real ones have some 150.
pub const COMMAND_BYTES_MAX: usize = 16 << 10;

/// An error comment is an LO value: 64 characters (PS3.7 annex C).
const COMMENT_CHARS_MAX: usize = 64;

const C_STORE_REQUEST: u16 = 0x0001;
const C_ECHO_REQUEST: u16 = 0x0030;
const C_CANCEL_REQUEST: u16 = 0x0FFF;
const RESPONSE: u16 = 0x8000;
const NO_DATA_SET: u16 = 0x0101;

/// What a peer asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    Echo,
    Store {
        sop_class: Uid,
        sop_instance: Uid,
    },
    /// A C-STORE whose UIDs are missing or none.
    BrokenStore,
    /// Asks to stop an operation; has no response of its own (PS3.7 9.3.2.3).
    Cancel,
    Unknown,
}

/// A request as far as answering it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub operation: Operation,
    pub field: u16,
    pub message_id: u16,
    pub has_data_set: bool,
    /// The affected SOP class and instance as the peer wrote them, to be sent back.
    sop_class: Vec<u8>,
    sop_instance: Vec<u8>,
}

/// The peer sent something that can't even be answered.
#[derive(Debug, thiserror::Error)]
#[error("the peer sent a command set that makes no sense")]
pub struct CommandError;

impl Request {
    pub fn parse(bytes: &[u8]) -> Result<Self, CommandError> {
        let mut walker = Walker::new(Box::new(SliceSource::new(bytes)), Encoding::IMPLICIT_LITTLE);
        let (mut field, mut message_id, mut data_set_type) = (None, None, None);
        let (mut sop_class, mut sop_instance) = (Vec::new(), Vec::new());
        while let Some(token) = walker.next().map_err(|_| CommandError)? {
            let Token::Element(element) = token else { return Err(CommandError) };
            let value = walker.value(COMMAND_BYTES_MAX).map_err(|_| CommandError)?;
            let number = value.first_chunk().map(|bytes| u16::from_le_bytes(*bytes));
            match element.tag {
                Tag(0, 0x0002 | 0x0003) => sop_class = value,
                Tag(0, 0x1000 | 0x1001) => sop_instance = value,
                Tag(0, 0x0100) => field = number,
                Tag(0, 0x0110 | 0x0120) => message_id = number,
                Tag(0, 0x0800) => data_set_type = number,
                _ => {}
            }
        }
        let field = field.filter(|field| field & RESPONSE == 0).ok_or(CommandError)?;
        let operation = match field {
            C_ECHO_REQUEST => Operation::Echo,
            C_CANCEL_REQUEST => Operation::Cancel,
            C_STORE_REQUEST => match (Uid::from_value(&sop_class), Uid::from_value(&sop_instance)) {
                (Ok(sop_class), Ok(sop_instance)) => Operation::Store { sop_class, sop_instance },
                _ => Operation::BrokenStore,
            },
            _ => Operation::Unknown,
        };
        let message_id = message_id.ok_or(CommandError)?;
        let has_data_set = data_set_type.is_some_and(|kind| kind != NO_DATA_SET);
        Ok(Self { operation, field, message_id, has_data_set, sop_class, sop_instance })
    }

    /// The command set of the response, with a comment where the outcome is a failure.
    pub fn response(&self, outcome: Outcome, comment: &str) -> Vec<u8> {
        let mut body = Vec::with_capacity(256);
        if !self.sop_class.is_empty() {
            element(&mut body, 0x0002, &self.sop_class);
        }
        element(&mut body, 0x0100, &(self.field | RESPONSE).to_le_bytes());
        element(&mut body, 0x0120, &self.message_id.to_le_bytes());
        element(&mut body, 0x0800, &NO_DATA_SET.to_le_bytes());
        element(&mut body, 0x0900, &outcome.dimse().to_le_bytes());
        if outcome.dimse() != 0 && !comment.is_empty() {
            let ascii = |c: char| if c.is_ascii_graphic() && c != '\\' { c } else { ' ' };
            let mut comment: String = comment.chars().take(COMMENT_CHARS_MAX).map(ascii).collect();
            if !comment.len().is_multiple_of(2) {
                comment.push(' ');
            }
            element(&mut body, 0x0902, comment.as_bytes());
        }
        if !self.sop_instance.is_empty() {
            element(&mut body, 0x1000, &self.sop_instance);
        }
        let mut command = Vec::with_capacity(body.len() + 12);
        // Below COMMAND_BYTES_MAX, as the values that are echoed are.
        element(&mut command, 0x0000, &(body.len() as u32).to_le_bytes());
        command.extend_from_slice(&body);
        command
    }
}

fn element(out: &mut Vec<u8>, number: u16, value: &[u8]) {
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn command(field: u16, data_set: u16, class: &[u8], instance: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        element(&mut out, 0x0002, class);
        element(&mut out, 0x0100, &field.to_le_bytes());
        element(&mut out, 0x0110, &7u16.to_le_bytes());
        element(&mut out, 0x0800, &data_set.to_le_bytes());
        element(&mut out, 0x1000, instance);
        out
    }

    #[test]
    fn requests_are_read() {
        let uid = |text| Uid::parse(text).expect("a UID of the test");
        let store = Operation::Store { sop_class: uid("1.2"), sop_instance: uid("1.2.3") };
        let table = [
            (C_STORE_REQUEST, 0x0001, b"1.2\0", Some((store, true))),
            (C_STORE_REQUEST, 0x0001, b"cat\0", Some((Operation::BrokenStore, true))),
            (C_ECHO_REQUEST, NO_DATA_SET, b"1.2\0", Some((Operation::Echo, false))),
            (0x0020, 0x0000, b"1.2\0", Some((Operation::Unknown, true))),
            (C_CANCEL_REQUEST, NO_DATA_SET, b"1.2\0", Some((Operation::Cancel, false))),
            (0x8001, NO_DATA_SET, b"1.2\0", None),
        ];
        for (field, data_set, class, expected) in table {
            let found = Request::parse(&command(field, data_set, class, b"1.2.3\0")).ok();
            assert_eq!(found.map(|request| (request.operation, request.has_data_set)), expected, "{field:04x}");
        }
        assert!(Request::parse(&[]).is_err());
        assert!(Request::parse(&[0; 7]).is_err());
    }

    proptest! {
        #[test]
        fn garbage_and_mutations_never_panic(
            noise in proptest::collection::vec(any::<u8>(), 0..300),
            at in 0..200usize,
            with in any::<u8>(),
            cut in 0..200usize,
        ) {
            let mut mutated = command(C_STORE_REQUEST, 1, b"1.2\0", b"1.2.3\0");
            let length = mutated.len();
            mutated[at % length] = with;
            mutated.truncate(length - cut % length);
            // A length of four billion in front of every value.
            let mut absurd = mutated.clone();
            if absurd.len() >= 8 {
                absurd[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
            }
            for bytes in [&noise, &mutated, &absurd] {
                if let Ok(request) = Request::parse(bytes) {
                    let response = request.response(Outcome::OutOfResources, "no");
                    prop_assert!(response.len() < COMMAND_BYTES_MAX + 256);
                }
            }
        }
    }

    #[test]
    fn responses_answer_their_request() {
        let request = Request::parse(&command(C_STORE_REQUEST, 1, b"1.2\0", b"1.2.3\0")).expect("a request");
        let response = request.response(Outcome::OutOfResources, "the disk is full, ask 管理员");
        let mut walker = Walker::new(Box::new(SliceSource::new(&response)), Encoding::IMPLICIT_LITTLE);
        let mut found = Vec::new();
        while let Some(Token::Element(element)) = walker.next().expect("walks") {
            found.push((element.tag.1, walker.value(99).expect("small")));
        }
        let length = (response.len() - 12) as u32;
        let expected: Vec<(u16, Vec<u8>)> = vec![
            (0x0000, length.to_le_bytes().to_vec()),
            (0x0002, b"1.2\0".to_vec()),
            (0x0100, vec![1, 0x80]),
            (0x0120, vec![7, 0]),
            (0x0800, vec![1, 1]),
            (0x0900, vec![0, 0xA7]),
            (0x0902, b"the disk is full, ask    ".to_vec()),
            (0x1000, b"1.2.3\0".to_vec()),
        ];
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found.0, expected.0);
            assert_eq!(found.1.trim_ascii_end(), expected.1.trim_ascii_end());
        }
    }
}
