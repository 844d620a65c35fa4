//! How retrieval messages lie on a byte stream: a header of five bytes, then the body.
//!
//! `kind u8, length u32 big-endian`. A control frame's body is one canonical postcard message of the direction at
//! hand. A data frame has a prefix, `object u32, group u32` big-endian, which the length does not count, and then the
//! group's bytes as they are. Lengths are checked against the kind before anything is allocated; what does not fit
//! ends the session.

use serde::Serialize;
use serde::de::DeserializeOwned;
use tessera_consensus::wire::{DecodeError, decode, encode};

use super::groups::GROUP_BYTES;
use super::{CONTROL_BYTES_MAX, OFFER_BYTES_MAX};

/// Bytes before every body.
pub const HEADER_BYTES: usize = 5;
/// Object and group before a group's bytes.
pub const DATA_PREFIX_BYTES: usize = 8;

const KIND_CONTROL: u8 = 1;
const KIND_DATA: u8 = 2;
const KIND_OFFER: u8 = 3;

/// Why bytes on a retrieval stream are not a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("frame kind {0} is not known to this version")]
    UnknownKind(u8),
    #[error("a frame of {got} bytes, at most {limit} are accepted here")]
    TooLong { got: usize, limit: usize },
    #[error("a frame that announced {announced} bytes has {got}")]
    WrongLength { announced: usize, got: usize },
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// What the body will be, once its bytes are here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    kind: u8,
    length: usize,
}

impl Header {
    pub fn parse(bytes: [u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        let [kind, a, b, c, d] = bytes;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let limit = match kind {
            KIND_CONTROL => CONTROL_BYTES_MAX,
            KIND_DATA => GROUP_BYTES,
            KIND_OFFER => OFFER_BYTES_MAX,
            other => return Err(FrameError::UnknownKind(other)),
        };
        if length > limit {
            return Err(FrameError::TooLong { got: length, limit });
        }
        Ok(Self { kind, length })
    }

    /// Bytes of the prefix that follows the header: eight or none.
    pub const fn prefix_bytes(&self) -> usize {
        if self.kind == KIND_DATA { DATA_PREFIX_BYTES } else { 0 }
    }

    /// Bytes of the body that follows the prefix.
    pub const fn body_bytes(&self) -> usize {
        self.length
    }
}

/// A message of type `M`, or one group of one object.
#[derive(Clone, PartialEq, Eq)]
pub enum Frame<M> {
    Control(M),
    Data { object: u32, group: u32, bytes: Vec<u8> },
}

impl<M: std::fmt::Debug> std::fmt::Debug for Frame<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Frame::Control(message) => write!(f, "{message:?}"),
            Frame::Data { object, group, bytes } => write!(f, "object {object} group {group}: {} bytes", bytes.len()),
        }
    }
}

/// A message whose frames may be as long as an offer, and which those are.
pub trait Message: Serialize + DeserializeOwned {
    const WHAT: &'static str;
    fn is_offer(&self) -> bool {
        false
    }
    fn validate(&self) -> Result<(), DecodeError>;
}

impl<M: Message> Frame<M> {
    /// Header, prefix and control body in one, and a data frame's bytes apart, so that they need not be copied.
    pub fn to_parts(self) -> (Vec<u8>, Vec<u8>) {
        match self {
            Frame::Control(message) => {
                let kind = if message.is_offer() { KIND_OFFER } else { KIND_CONTROL };
                let body = encode(&message);
                let mut head = header(kind, body.len());
                head.extend_from_slice(&body);
                (head, Vec::new())
            }
            Frame::Data { object, group, bytes } => {
                let mut head = header(KIND_DATA, bytes.len());
                head.extend_from_slice(&object.to_be_bytes());
                head.extend_from_slice(&group.to_be_bytes());
                (head, bytes)
            }
        }
    }

    /// Reads what `header` announced; of `prefix` only the first [`Header::prefix_bytes`] count.
    pub fn from_parts(header: Header, prefix: [u8; DATA_PREFIX_BYTES], body: Vec<u8>) -> Result<Self, FrameError> {
        if body.len() != header.length {
            return Err(FrameError::WrongLength { announced: header.length, got: body.len() });
        }
        if header.kind == KIND_DATA {
            let [a, b, c, d, e, f, g, h] = prefix;
            let (object, group) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
            return Ok(Frame::Data { object, group, bytes: body });
        }
        let limit = if header.kind == KIND_OFFER { OFFER_BYTES_MAX } else { CONTROL_BYTES_MAX };
        let message: M = decode(M::WHAT, &body, limit)?;
        if message.is_offer() != (header.kind == KIND_OFFER) {
            return Err(FrameError::UnknownKind(header.kind));
        }
        message.validate()?;
        Ok(Frame::Control(message))
    }

    /// Reads one whole frame. For drivers that move whole frames; a stream is read in the three steps above.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FrameError> {
        let short = || FrameError::WrongLength { announced: HEADER_BYTES, got: bytes.len() };
        let (head, rest) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or_else(short)?;
        let header = Header::parse(*head)?;
        let mut prefix = [0; DATA_PREFIX_BYTES];
        let wanted = header.prefix_bytes();
        prefix[..wanted].copy_from_slice(rest.get(..wanted).ok_or_else(short)?);
        Self::from_parts(header, prefix, rest[wanted..].to_vec())
    }
}

fn header(kind: u8, length: usize) -> Vec<u8> {
    let body = if kind == KIND_DATA { DATA_PREFIX_BYTES } else { length };
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body);
    bytes.push(kind);
    // Bodies are bounded far below 4 GiB by the limits of their kinds.
    bytes.extend_from_slice(&(length as u32).to_be_bytes());
    bytes
}
